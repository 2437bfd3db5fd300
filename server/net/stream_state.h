/* stream_state: what the files of stream share; nobody else includes it.
 *
 *   stream.c          the connection while it lives: reading, writing, its end
 *   stream_connect.c  connecting, with a race of two addresses
 *   stream_open.c     accepting, TLS handshakes
 *   stream_close.c    the last words, after the owner has let go
 *
 *                 stream_connect                     accept
 *                      |                               |
 *                 CONNECTING --stream_connected-->     |
 *                      |  \---(implicit TLS)--\        |
 *                      |                       v       v
 *   start_tls_client: OPEN ----------> HANDSHAKE ---> OPEN      on_bev_event(CONNECTED)
 *   start_tls_server: OPEN -> SWITCHING -^ written_out          (the 220 leaves in clear)
 *                      |
 *       peer's FIN: CLOSED (writing still works)       any error: FAILED (nothing works)
 *
 *   stream_close(flush):  -> LINGER_FLUSH --written_out--> LINGER_READ --FIN or 2 s--> freed
 *
 * CONNECTING        `try` is under way, no descriptor and no bufferevent yet
 * OPEN, CLOSED      `bev` carries the connection, in clear or (`ssl`) in TLS
 * SWITCHING         as OPEN, but input is thrown away
 * HANDSHAKE         `bev` is a TLS bufferevent; `out` collects what is written meanwhile
 * FAILED            on_failed was called, or will be by `kick`
 * LINGER_*          the owner is gone, `hold` keeps the loop turning
 *
 * Why libevent's bufferevents never close the descriptor: the stream owns it in every state, so
 * that the same one can go from clear to TLS and, in the end, to LINGER_READ. Their callbacks are
 * deferred, so none runs inside one of our calls, nor on top of libevent's own frames.
 *
 * Writes collect in `out` until the end of the turn: a TLS bufferevent would encrypt and send each
 * of them at once, one record and one segment for every command of a pipeline. */
#pragma once

#include "server/net/stream.h"

struct bufferevent;
struct evbuffer;
struct event;

enum stream_state {
    STREAM_CONNECTING,
    STREAM_OPEN,
    STREAM_SWITCHING,
    STREAM_HANDSHAKE,
    STREAM_CLOSED,
    STREAM_FAILED,
    STREAM_LINGER_FLUSH,
    STREAM_LINGER_READ,
    STREAM_STATE_COUNT
};

enum {
    LINGER_MS = 2000,
    READ_ONCE = 64 * 1024, /* of one connection in one turn */
    GRACE_MS = 50,
    WRITE_ONCE = 256 * 1024, /* libevent's 16 KiB would cost a turn each */
    COALESCE_MAX = 64 * 1024 /* of TLS output that is copied together to save records */
};

/* One address that is being connected to. Thread: owner loop. */
struct stream_try {
    struct stream *stream;
    struct sockaddr_any to, source;
    int fd; /* -1: not under way */
    struct event *event;
    bool is_begun;
    int error; /* errno, once it has failed */
};

/* Thread: owner loop. */
struct stream {
    struct loop *loop;
    struct stream_events ev;
    void *ctx;
    enum stream_state state;
    int fd;
    struct bufferevent *bev;
    struct ssl_st *ssl;     /* NULL in clear */
    struct evbuffer *out;   /* written in this turn, or before the connection can take it */
    struct event *kick;     /* does, from the loop, what may not happen inside a stream_* call */
    struct event *fd_event; /* LINGER_READ: readable */
    struct timer *phase;    /* of HANDSHAKE, SWITCHING and LINGER */
    struct timer *deadline;
    bool had_grace; /* the deadline has passed with something unread */
    struct loop_hold hold;

    /* CONNECTING */
    struct stream_try try[2];
    size_t tries;
    struct timer *head_start; /* of the first; NULL: nobody races it */
    int64_t connect_timeout_ms;

    bool report_open; /* by kick */
    enum failure report_failure;
    char report_text[256];
    bool drain_due;      /* something was written since on_drained */
    bool reading_wanted; /* by the owner */
    bool is_full;        /* STREAM_INPUT_MAX bytes wait */
    bool peer_ended;     /* its FIN came */
    bool is_kicking;     /* inside on_kick */
    bool *gone;          /* set by destroy() for a caller further up the stack */

    struct tls_client_ctx *tls_client; /* until the handshake */
    struct tls_server_ctx *tls_server;
    enum tls_verify verify;
    char *tls_name;
    int64_t tls_timeout_ms;
    struct tls_info info;
    struct sockaddr_any peer, local;
};

/* stream.c */
struct stream *stream_make(struct loop *l, const struct stream_events *ev, void *ctx);
void stream_destroy(struct stream *s);
void stream_enter(struct stream *s, enum stream_state to);
/* At the end of this turn; from within the kick itself in the next one, so that an owner who writes
 * more in every on_drained leaves the other connections their share. */
void stream_kick(struct stream *s);
/* From the loop only; the last thing that its caller does with `s`. */
void stream_fail_now(struct stream *s, enum failure why, const char *text);
/* Inside a stream_* call. */
void stream_fail_later(struct stream *s, enum failure why, const char *text);
void stream_set_phase_timeout(struct stream *s, int64_t ms);
void stream_stop_timers(struct stream *s);
/* The owner may close the stream in it. */
void stream_tell_failure(struct stream *s, enum failure why, const char *text);
void stream_free_bev(struct stream *s);
void stream_forget_tls_wish(struct stream *s);

/* stream_io.c */
#define STREAM_NO_MEMORY "connection lost: no memory"
void stream_attach(struct stream *s, struct bufferevent *bev);
void stream_apply_reading(struct stream *s);
/* The kick's event: reports what waited, hands over what was written. */
void stream_on_kick(int fd, short what, void *stream);
/* An error of a call that means this machine, not the peer. */
bool stream_is_short(int error);

/* stream_connect.c */
/* Closes what is not connected yet. */
void stream_stop_tries(struct stream *s);

/* stream_open.c */
void stream_connected(struct stream *s);
void stream_set_nodelay(int fd);
void stream_begin_server_handshake(struct stream *s);

/* stream_close.c */
/* Our last byte is with the kernel: says so, and waits for the peer's last. */
void stream_linger_read(struct stream *s);
