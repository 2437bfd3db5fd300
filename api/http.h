/* http: libmicrohttpd on our own loop threads: connections in, requests to their handlers, answers
 * out.
 *
 * Each loop thread runs one daemon of the library for each listener, in external mode: it waits for
 * the daemons' epoll descriptors and for its mailbox, and calls MHD_run. A handler that has to wait
 * leaves its connection suspended; only the loop resumes it, when the answer came to its mailbox.
 * All daemons of a listener accept from duplicates of one socket.
 *
 * What the library does not have is here: deadlines that count from the beginning of a connection
 * (they end in shutdown(2)), limits over all loops together, bodies refused before they are held.
 * What it hides from us of a request's form is listed in api/README.md.
 *
 *   header ──► body ──► work ──► reply ──► idle ──► header …
 *      │         └────► discard ──┘
 *      └──────────────────────────┘  refused
 *
 * Thread: http_* is called by whoever started it; everything else inside.
 */
#pragma once

#include "api/request.h"

enum http_kind { HTTP_API, HTTP_HEALTH, HTTP_CONTROL };

struct http_listener {
    int fd; /* listening; taken over */
    enum http_kind kind;
};

struct http_limits {
    struct request_limits request;
    size_t connections_max, connections_per_ip_max;
    int64_t header_timeout_ms, body_timeout_ms, idle_timeout_ms;
    size_t body_rate_min; /* bytes a second, in both directions */
};

struct http_options {
    struct env *env;
    struct http_listener *listener;
    size_t listener_count;
    size_t loops;
    struct http_limits limits;
    const char *tls_cert, *tls_key; /* PEM; NULL: in clear. Of HTTP_API listeners */
};

struct http;
/* ERR_INVALID: the certificate; ERR_UNAVAILABLE: the library does not start. The listeners are
 * closed then as well. */
NODISCARD enum err http_start(const struct http_options *o, struct http **out,
                              struct errinfo *info);
/* For what begins from now on. */
void http_set_limits(struct http *h, const struct http_limits *limits);
/* New connections get the new certificate; those that are open keep theirs. On an error nothing
 * changes. */
NODISCARD enum err http_set_tls(struct http *h, const char *cert, const char *key,
                                struct errinfo *info);
/* No connection is accepted any more but for health; idle ones are being closed; waits until open
 * requests are answered, at most timeout_ms. */
void http_drain(struct http *h, int64_t timeout_ms);
/* Ends what is open; waits for requests that handlers still work on. */
void http_stop(struct http **hp);
