/* httpc: HTTPS client for webhooks and policies: libcurl's multi interface on our loop.
 *
 * Resolves through dns, checks EVERY address with guard, connects to the one that was checked
 * (CURLOPT_CONNECT_TO and OPENSOCKETFUNCTION), keeps SNI and Host; no redirects, no proxy of the
 * environment, response read up to a ceiling (T19). One address that is denied among good ones
 * denies the name. Up to three addresses are tried, IPv4 first.
 *
 * Stop dns before the loop: a question under way holds the loop until it is answered. Thread: the
 * loop's.
 */
#pragma once

#include "server/net/dns.h"
#include "server/net/guard.h"
#include "server/net/loop.h"

struct httpc;
struct httpc_options {
    struct loop *loop;
    struct dns *dns;
    const struct guard *guard; /* borrowed */
    const char *ca_file;       /* NULL: the system's */
    size_t parallel_max;       /* transfers at once; more wait; 0: 64 */
};
struct httpc *httpc_new(const struct httpc_options *o);
/* Transfers under way end with FAILURE_SHUTDOWN, during this call; then `done` sends nothing. Not
 * from within `done`. */
void httpc_free(struct httpc **hp);
/* For new transfers (reload): the guard, borrowed, and the authorities (NULL: the system's). A kept
 * connection is reused only for an address that the new guard allows too, and only when it was made
 * with the same file of authorities. */
void httpc_set(struct httpc *h, const struct guard *g, const char *ca_file);

struct httpc_result {
    enum failure failure; /* NONE: `status` holds. CONNECT_FORBIDDEN: the guard refused. */
    struct str failure_text;
    int status;
    struct str body;        /* at most response_max */
    bool is_truncated;      /* the body was longer */
    int64_t retry_after_ms; /* -1: no such header; dates are turned into delays; at most a year */
    int64_t took_ms;
    char address[SOCKADDR_TEXT_SIZE]; /* that was connected to; "" when none was */
};
struct httpc_request {
    const char *method;         /* "POST", "GET" */
    struct str url;             /* copied */
    const char *const *headers; /* "Name: value", NULL-terminated, copied; NULL: none. Control
                                   characters in one make the request fail with LOCAL. */
    struct str body;            /* borrowed until done */
    int64_t timeout_ms;         /* from its turn on, names and all addresses included; > 0 */
    size_t response_max;        /* 0: LIMIT_WEBHOOK_RESPONSE */
};
/* `done` is called once, never from inside this call; the result's strings live during the call. */
void httpc_send(struct httpc *h, const struct httpc_request *r,
                void (*done)(void *arg, const struct httpc_result *res), void *arg);

/* A Retry-After field's value (RFC 9110 10.2.3: seconds, or a date) as a delay from now, 0 to a
 * year; -1: neither. Thread: any. */
int64_t httpc_retry_after_ms(const char *text, int64_t now_wall_ms);
