/* httpc_sync: one HTTP request that the caller waits for: for commands, never for a loop.
 *
 * Over TCP or a socket file. No redirects, no proxy of the environment, the answer is read up to a
 * ceiling.
 *
 *     struct httpc_sync_result r;
 *     struct httpc_sync_request q = {.method = "GET", .url = "http://127.0.0.1:8025/livez",
 *                                    .timeout_ms = 3000, .response_max = 4096};
 *     httpc_sync(&q, &r);
 *     if (r.failure == FAILURE_NONE && r.status == 200) ... buf_str(&r.body) ...
 *     httpc_sync_release(&r);
 *
 * Thread: any that may wait.
 */
#pragma once

#include "server/base/buf.h"
#include "server/mail/outcome.h"

struct httpc_sync_request {
    const char *method;
    const char *url;
    const char *socket_path;    /* NULL: TCP; else the URL's host is only a name */
    const char *const *headers; /* "Name: value", NULL-terminated; NULL: none */
    struct str body;            /* absent: none */
    int64_t connect_timeout_ms; /* 0: timeout_ms */
    int64_t timeout_ms;
    size_t response_max;
    const char *ca_file; /* NULL: the system's */
    bool is_own; /* the peer is this machine's server: no certificate is made out for 127.0.0.1 */
};

struct httpc_sync_result {
    enum failure failure; /* NONE: `status` holds. LOCAL: the URL is wrong. TOO_LARGE: the answer
                             passed its ceiling */
    char failure_text[256];
    int status;
    struct buf body;
    struct buf headers; /* as received */
};

/* Fills *r; release in any case. */
void httpc_sync(const struct httpc_sync_request *q, struct httpc_sync_result *r);
void httpc_sync_release(struct httpc_sync_result *r); /* wipes: an answer may hold a new key */
/* The last field of that name (any case) without spaces around it; absent: none. Lives as long as
 * the result. */
struct str httpc_sync_header(const struct httpc_sync_result *r, struct str name);
