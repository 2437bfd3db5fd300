/* http_state: what the files of the HTTP side share, and nobody else sees.
 *
 * http.c starts, reloads, drains and stops; http_loop.c is a loop thread with its daemons;
 * http_connection.c is what a connection lives through apart from its requests: limits, deadlines,
 * a client that left; http_request.c takes one request through its phases (the picture in http.h).
 *
 * Thread: as each struct says.
 */
#pragma once

#include <event2/event.h>
#include <microhttpd.h>
#include <stdatomic.h>
#include <sys/queue.h>

#include "api/http.h"
#include "api/http_pause.h"
#include "api/wait.h"
#include "server/base/metrics.h"
#include "server/base/table.h"
#include "server/base/thread.h"

/* How many connections an address has. IPv6 counts by /64, which is what one host gets. */
enum { PEER_KEY_BYTES = 16 };
struct peer {
    uint8_t key[PEER_KEY_BYTES];
    size_t count;
    struct table_node in_table;
};

/* Thread: any (locks inside). */
struct http {
    struct env *env;
    struct http_listener *listener;
    size_t listener_count;
    struct loop_of_http **loop;
    size_t loop_count;
    struct mailbox *front;     /* of the thread that starts and stops */
    atomic_size_t connections; /* of HTTP_API: filling the health listener shuts nobody out */
    struct {
        pthread_mutex_t mu;
        struct table peers;
    } shared;
};

/* Thread: its own, but for the mailbox. */
struct loop_of_http {
    struct http *http;
    struct thread *thread;
    struct event_base *base;
    struct mailbox *box;
    struct waits *waits;
    struct pauses *pauses;
    struct arena *scratch; /* for what ends with a turn */
    struct event *box_event, *tick, *step;
    struct MHD_Response *response_short; /* when there is no memory for another */
    struct http_limits limits;
    TAILQ_HEAD(, daemon_of_http) daemons;
    TAILQ_HEAD(, connection) connections;
    struct connection *next_look; /* in the round under way; NULL: none is */
    bool is_draining, is_stopping;
    struct note *drained; /* to be sent to the front when nothing is open; NULL: nobody waits */
};

/* One daemon of the library. Thread: owner loop. */
struct daemon_of_http {
    TAILQ_ENTRY(daemon_of_http) link;
    struct loop_of_http *loop;
    enum http_kind kind;
    size_t listener; /* index */
    struct MHD_Daemon *mhd;
    struct event *io, *timer;
    size_t connections;
    uint64_t accepts, accepts_seen; /* now, at the last tick */
    unsigned waiting_ticks;         /* in which somebody waited to be accepted, and nobody was */
    bool is_dirty;                  /* something of it was resumed */
    bool is_fresh;                  /* it is not decided yet whether it stays */
    bool is_retired;                /* accepts no more; ends with its last connection */
};

enum phase {
    PHASE_HEADER,  /* from the connection's start, or from the request line of a later request */
    PHASE_BODY,    /* admitted; the body comes */
    PHASE_DISCARD, /* refused; the rest of the body is thrown away */
    PHASE_WORK,    /* with its handler; suspended */
    PHASE_REPLY,   /* the answer goes out */
    PHASE_IDLE,    /* between two requests */
};

/* Thread: owner loop. */
struct connection {
    TAILQ_ENTRY(connection) link;
    struct daemon_of_http *daemon;
    struct MHD_Connection *mhd;
    int fd;
    bool has_peer;
    uint8_t peer[16];
    enum phase phase;
    int64_t phase_mono_ms;    /* when it began */
    int64_t deadline_mono_ms; /* 0: none */
    size_t received_bytes;    /* of the body */
    struct request *request;
};

struct http_metrics {
    struct metric *requests, *connections, *refused, *body_bytes, *duration, *timeouts;
};
extern struct http_metrics http_metric;
void http_register_metrics(void);

/* Certificate and key; both NULL: in clear. */
struct tls_pem {
    const char *cert, *key;
};

/* ---- http_loop.c ---- */

struct loop_of_http *http_loop_new(struct http *h, const struct http_limits *limits);
void http_loop_free(struct loop_of_http **lp); /* after its thread */
void http_loop_main(void *loop);               /* its thread */
/* Lets the library go on where something was resumed. */
void http_loop_pump_dirty(struct loop_of_http *l);
/* http_loop_look_anew(), and the first step. */
void http_loop_look_after(struct loop_of_http *l);
/* Answers who waits for the end of what is open, if that is reached. */
void http_loop_tell_drained(struct loop_of_http *l);
/* Thread: the loop's, or before it runs. NULL: the library does not take the certificate. */
struct daemon_of_http *daemon_new(struct loop_of_http *l, size_t listener,
                                  const struct tls_pem *tls);
void daemon_retire(struct daemon_of_http *d); /* accepts no more */

/* ---- http_connection.c ---- */

enum MHD_Result http_on_accept(void *daemon, const struct sockaddr *sa, socklen_t size);
void http_on_connection(void *daemon, struct MHD_Connection *mhd, void **ctx,
                        enum MHD_ConnectionNotificationCode what);
struct connection *http_connection_of(struct MHD_Connection *mhd);
/* The one way from phase to phase that has a deadline; timeout_ms 0: none. */
void connection_enter(struct connection *c, enum phase phase, int64_t timeout_ms);
void connection_cut(struct connection *c);
/* Some who may be gone are looked at, all requests are hurried while the loop drains, and unless it
 * is under way a round begins in which who is too slow is cut, and while the loop drains who has
 * nothing under way. A round goes by steps, a clock tick apart: thousands at once would hold up the
 * others for milliseconds, and their end for a tenth of a second. */
void http_loop_look_anew(struct loop_of_http *l);
/* A step. true: there is more to it. */
bool http_loop_look_on(struct loop_of_http *l);
bool http_loop_is_any_open(
    const struct loop_of_http *l); /* on the health listener: does not count */
bool http_loop_is_any_at_work(const struct loop_of_http *l);

/* ---- http_request.c: what the library calls; `ctx` is the request ---- */

/* 503, kept for when memory is short; MHD_destroy_response(). */
struct MHD_Response *http_response_short_new(void);
void *http_on_request_line(void *daemon, const char *target, struct MHD_Connection *mhd);
enum MHD_Result http_on_request(void *daemon, struct MHD_Connection *mhd, const char *url,
                                const char *method, const char *version, const char *upload,
                                size_t *upload_size, void **ctx);
void http_on_completed(void *daemon, struct MHD_Connection *mhd, void **ctx,
                       enum MHD_RequestTerminationCode how);
