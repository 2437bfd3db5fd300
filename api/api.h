/* api: the HTTP face, started and stopped as a whole.
 *
 *     struct api *api;
 *     struct api_options o = {.store = store, .listen = listen, .listen_count = 1, .intake =
 * settings}; if (api_start(&o, &api, &info) != OK) ...      // listening, keys and domains loaded
 *     api_reload(api, &o, &info);                    // limits, routes, guards; certificates for
 * new connections api_drain(api);                                // no new connections, open
 * requests are finished api_stop(&api);
 *
 * It is a client of the store alone: it commits a row and the store tells who delivers.
 * Thread: the one that starts and stops it; everything else inside.
 */
#pragma once

#include "server/intake/domain_check.h"
#include "server/intake/submit.h"
#include "server/net/guard.h"
#include "storage/store.h"

enum { API_PROJECT = 1 }; /* the project of keys that name none, and of the administrator */

struct api_options {
    struct store *store;
    /* "127.0.0.1:8025", "[::]:8025", ":8025" (every address); port 0 takes a free one */
    const struct str *listen;
    size_t listen_count;
    const struct str *listen_health; /* /livez, /readyz and /metrics alone; none: on the others */
    size_t listen_health_count;
    struct str control_path;      /* socket file (0600) where every request is the administrator's;
                                     absent: none */
    size_t loops;                 /* 0: 2 */
    struct str tls_cert, tls_key; /* PEM text; both or neither */
    bool sandbox;                 /* the routes of /v1/sandbox exist */
    bool development;             /* ... with the receiver of webhooks, which asks for no key */
    struct intake_settings intake;
    struct guard_options guard; /* what the URL of a webhook may name; zeros: the public Internet */
    size_t body_max_bytes;      /* 0: LIMIT_REQUEST_BODY */
    size_t memory_max_bytes;    /* of request bodies in flight; 0: 256 MiB */
    size_t connections_max;     /* 0: 10,000 */
    size_t connections_per_ip_max; /* 0: 1,000 */
    int64_t header_timeout_ms;     /* connection to end of headers; 0: 30 s */
    int64_t body_timeout_ms; /* end of headers to end of body, plus its size at body_rate_min; 0: 30
                                s */
    size_t body_rate_min;    /* bytes a second; 0: 32 KiB */
    int64_t idle_timeout_ms; /* between two requests; 0: 60 s */
    int64_t drain_ms;        /* api_drain waits so long for open requests; 0: 10 s */
    /* What the DNS advice of /v1/domains names. */
    struct str hostname; /* our own name, as receivers see it */
    /* Is everything else up? false: /readyz answers 503 with `why`. NULL: only the store is asked.
     * Thread: any. */
    bool (*is_ready)(void *ctx, char why[160]);
    void *is_ready_ctx;
    /* Looks at a domain's DNS records (server/intake/domain_check.h) and answers in the look's
     * mailbox, in any case. NULL: nobody does. Thread: any. */
    void (*look)(void *ctx, struct domain_look *look);
    void *look_ctx;
};

struct api;
/* ERR_INVALID: an option that api_start would refuse for what it says, named in info. Opens
 * nothing. */
NODISCARD enum err api_check(const struct api_options *o, struct errinfo *info);
/* ERR_INVALID: an option, named in info; ERR_CONFLICT: an address is in use; ERR_UNAVAILABLE:
 * cannot listen, or the store did not answer. */
NODISCARD enum err api_start(const struct api_options *o, struct api **out, struct errinfo *info);
/* Takes over what can change while running (intake, guard, limits, timeouts, certificates);
 * listening addresses and threads stay. On an error nothing changes. */
NODISCARD enum err api_reload(struct api *api, const struct api_options *o, struct errinfo *info);
void api_drain(struct api *api);
void api_stop(struct api **ap); /* drains first when that was not done */
/* Where it listens, in the order of options: for port 0, tests and the log. 0: no such one. */
int api_port(const struct api *api, size_t index);
