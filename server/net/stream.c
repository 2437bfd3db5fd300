#include "server/net/stream.h"

#include <errno.h>
#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <event2/bufferevent_ssl.h>
#include <event2/event.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include "server/base/log.h"

/*                 begin_connect                      accept
 *                      |                               |
 *                 CONNECTING --on_connect_event-->     |
 *                      |  \---(implicit TLS)--\        |
 *                      |                       v       v
 *   start_tls_client: OPEN ----------> HANDSHAKE ---> OPEN      on_bev_event(CONNECTED)
 *   start_tls_server: OPEN -> SWITCHING -^ written_out          (the 220 leaves in clear)
 *                      |
 *       peer's FIN: CLOSED (writing still works)       any error: FAILED (nothing works)
 *
 *   stream_close(flush):  -> LINGER_FLUSH --written_out--> LINGER_READ --FIN or 2 s--> freed
 *
 * CONNECTING        `connect_event` is armed, no bufferevent yet
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

static const char *const state_names[] = {
    [STREAM_CONNECTING] = "connecting",
    [STREAM_OPEN] = "open",
    [STREAM_SWITCHING] = "switching",
    [STREAM_HANDSHAKE] = "handshake",
    [STREAM_CLOSED] = "closed",
    [STREAM_FAILED] = "failed",
    [STREAM_LINGER_FLUSH] = "linger_flush",
    [STREAM_LINGER_READ] = "linger_read",
};
_Static_assert(sizeof state_names / sizeof *state_names == STREAM_STATE_COUNT, "a name each");

enum {
    LINGER_MS = 2000,
    READ_ONCE = 64 * 1024,   /* of one connection in one turn */
    WRITE_ONCE = 256 * 1024, /* libevent's 16 KiB would cost a turn each */
    COALESCE_MAX = 64 * 1024 /* of TLS output that is copied together to save records */
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
    struct event *fd_event; /* CONNECTING: writable; LINGER_READ: readable */
    struct timer *phase;    /* of HANDSHAKE, SWITCHING and LINGER */
    struct timer *deadline;
    struct loop_hold hold;

    bool report_open; /* by kick */
    enum failure report_failure;
    char report_text[256];
    bool drain_due;      /* something was written since on_drained */
    bool reading_wanted; /* by the owner */
    bool is_full;        /* STREAM_INPUT_MAX bytes wait */
    bool peer_ended;     /* its FIN came */
    bool has_source;
    bool is_kicking; /* inside on_kick */
    bool *gone;      /* set by destroy() for a caller further up the stack */

    struct tls_client_ctx *tls_client; /* until the handshake */
    struct tls_server_ctx *tls_server;
    enum tls_verify verify;
    char *tls_name;
    int64_t tls_timeout_ms;
    struct tls_info info;
    struct sockaddr_any peer, local;
};

static void on_kick(evutil_socket_t fd, short what, void *arg);
static void written_out(struct stream *s);

static void enter(struct stream *s, enum stream_state to) {
    if (log_is_on(LOG_DEBUG)) {
        char peer[SOCKADDR_TEXT_SIZE];
        sockaddr_print(&s->peer, peer);
        log_debug("stream", "state", LOG_STRZ("peer", peer),
                  LOG_STRZ("from", state_names[s->state]), LOG_STRZ("to", state_names[to]));
    }
    s->state = to;
}

/* At the end of this turn; from within the kick itself in the next one, so that an owner who writes
 * more in every on_drained leaves the other connections their share. */
static void kick(struct stream *s) {
    static const struct timeval next_turn = {0, 0};
    if (s->is_kicking)
        event_add(s->kick, &next_turn);
    else
        event_active(s->kick, EV_TIMEOUT, 0);
}

static struct stream *stream_make(struct loop *l, const struct stream_events *ev, void *ctx) {
    struct stream *s = mem_zalloc(sizeof *s);
    s->loop = l;
    s->ev = *ev;
    s->ctx = ctx;
    s->fd = -1;
    s->reading_wanted = true;
    s->out = evbuffer_new();
    s->kick = event_new(loop_base(l), -1, 0, on_kick, s);
    ASSERT(s->out && s->kick);
    return s;
}

static void free_bev(struct stream *s) {
    if (s->bev) {
        /* Inside its own callbacks libevent only frees a bufferevent later. Its events have to
         * leave the descriptor now: the number may be another connection's by then. */
        bufferevent_setfd(s->bev, -1);
        bufferevent_free(s->bev);
    }
    s->bev = NULL;
    /* what libevent frees later does not look at the session any more */
    tls_session_free(s->ssl);
    s->ssl = NULL;
}

static void forget_tls_wish(struct stream *s) {
    tls_client_ctx_unref(&s->tls_client);
    tls_server_ctx_unref(&s->tls_server);
    free(s->tls_name);
    s->tls_name = NULL;
}

static void destroy(struct stream *s) {
    if (s->gone)
        *s->gone = true;
    if (s->state == STREAM_LINGER_FLUSH || s->state == STREAM_LINGER_READ)
        loop_unhold(s->loop, &s->hold);
    if (s->fd_event)
        event_free(s->fd_event);
    event_free(s->kick);
    timer_free(&s->phase);
    timer_free(&s->deadline);
    free_bev(s);
    evbuffer_free(s->out);
    if (s->fd >= 0)
        close(s->fd);
    forget_tls_wish(s);
    free(s);
}

static void stop_timers(struct stream *s) {
    if (s->phase)
        timer_cancel(s->phase);
    if (s->deadline)
        timer_cancel(s->deadline);
}

static void enter_failed(struct stream *s) {
    stop_timers(s);
    if (s->fd_event)
        event_del(s->fd_event);
    if (s->bev)
        bufferevent_disable(s->bev, EV_READ | EV_WRITE);
    enter(s, STREAM_FAILED);
}

/* From the loop only; the last thing that its caller does with `s`. */
static void fail_now(struct stream *s, enum failure why, const char *text) {
    switch (s->state) {
    case STREAM_LINGER_FLUSH:
    case STREAM_LINGER_READ:
        destroy(s);
        return;
    case STREAM_FAILED:
        return;
    case STREAM_CLOSED: /* the owner was told the end already */
        enter_failed(s);
        return;
    default:
        enter_failed(s);
        s->ev.on_failed(s->ctx, why, str_of(text));
    }
}

/* Inside a stream_* call. */
static void fail_later(struct stream *s, enum failure why, const char *text) {
    if (s->state == STREAM_FAILED)
        return;
    s->report_failure = why;
    snprintf(s->report_text, sizeof s->report_text, "%s", text);
    enter_failed(s);
    kick(s);
}

static void phase_passed(void *arg) {
    fail_now(arg, FAILURE_TIMEOUT, "timeout during the TLS handshake");
}

static void set_phase_timeout(struct stream *s, int64_t ms) {
    if (!s->phase)
        s->phase = timer_new(s->loop, phase_passed, s);
    if (ms > 0)
        timer_set(s->phase, ms);
    else
        timer_cancel(s->phase);
}

/* ---- reading ------------------------------------------------------------------------------- */

static void apply_reading(struct stream *s) {
    if (s->state != STREAM_OPEN)
        return;
    if (s->reading_wanted && !s->is_full)
        bufferevent_enable(s->bev, EV_READ);
    else
        bufferevent_disable(s->bev, EV_READ);
}

static void on_bev_read(struct bufferevent *bev, void *arg) {
    struct stream *s = arg;
    struct evbuffer *in = bufferevent_get_input(bev);
    if (s->state == STREAM_LINGER_FLUSH || s->state == STREAM_SWITCHING) {
        evbuffer_drain(in, evbuffer_get_length(in));
        return;
    }
    if (s->state != STREAM_OPEN || evbuffer_get_length(in) == 0)
        return;
    s->is_full = evbuffer_get_length(in) >= STREAM_INPUT_MAX;
    apply_reading(s);
    s->ev.on_read(s->ctx);
}

/* A server may refuse a message halfway, answer and hang up. Our next write then fails before the
 * answer was read; it still waits in the kernel. */
static size_t salvage_input(struct stream *s) {
    struct evbuffer *in = bufferevent_get_input(s->bev);
    size_t before = evbuffer_get_length(in);
    char piece[4096];
    evbuffer_unfreeze(in, 0);
    while (evbuffer_get_length(in) < STREAM_INPUT_MAX) {
        ssize_t n = s->ssl ? (ssize_t)tls_session_salvage(s->ssl, piece, sizeof piece)
                           : recv(s->fd, piece, sizeof piece, MSG_DONTWAIT);
        if (n <= 0)
            break;
        evbuffer_add(in, piece, (size_t)n);
    }
    evbuffer_freeze(in, 0);
    return evbuffer_get_length(in) - before;
}

/* ---- the end of a connection ----------------------------------------------------------------- */

static void peer_closed(struct stream *s) {
    s->peer_ended = true;
    switch (s->state) {
    case STREAM_HANDSHAKE:
        fail_now(s, FAILURE_TLS_HANDSHAKE, "the peer closed the connection in the TLS handshake");
        return;
    case STREAM_OPEN:
    case STREAM_SWITCHING:
        stop_timers(s);
        enter(s, STREAM_CLOSED);
        /* a TLS bufferevent stops both directions; ours may still have something to say */
        bufferevent_enable(s->bev, EV_WRITE);
        s->ev.on_closed(s->ctx);
        return;
    case STREAM_LINGER_FLUSH:
        bufferevent_enable(s->bev, EV_WRITE);
        return;
    default:
        return;
    }
}

static void connection_broke(struct stream *s, int error, unsigned long tls_error,
                             bool was_writing) {
    char text[256], reason[128];
    if (s->state == STREAM_OPEN && was_writing && s->reading_wanted && salvage_input(s) > 0) {
        bool gone = false;
        s->gone = &gone;
        s->ev.on_read(s->ctx);
        if (gone)
            return;
        s->gone = NULL;
    }
    if (tls_error != 0) {
        tls_error_text(tls_error, reason, sizeof reason);
        snprintf(text, sizeof text, "connection lost: TLS: %s", reason);
    } else {
        snprintf(text, sizeof text, "connection lost: %s",
                 strerror_r(error, reason, sizeof reason));
    }
    fail_now(s, tls_error == 0 && error == ETIMEDOUT ? FAILURE_TIMEOUT : FAILURE_CLOSED, text);
}

static void handshake_done(struct stream *s) {
    if (s->state != STREAM_HANDSHAKE)
        return;
    set_phase_timeout(s, 0);
    tls_session_info(s->ssl, &s->info);
    if (s->verify == TLS_VERIFY_NAME && !s->info.is_verified) {
        /* OpenSSL ends all others during the handshake; this one had no name to check */
        fail_now(s, FAILURE_TLS_NAME, s->info.problem);
        return;
    }
    enter(s, STREAM_OPEN);
    apply_reading(s);
    kick(s); /* what was written meanwhile */
    s->ev.on_open(s->ctx);
}

static void on_bev_event(struct bufferevent *bev, short what, void *arg) {
    struct stream *s = arg;
    int error = EVUTIL_SOCKET_ERROR();
    if (what & BEV_EVENT_CONNECTED) {
        handshake_done(s);
    } else if (what & BEV_EVENT_EOF) {
        peer_closed(s);
    } else if (s->state == STREAM_HANDSHAKE) {
        char text[256];
        enum failure why =
            tls_session_failure(s->ssl, bufferevent_get_openssl_error(bev), text, sizeof text);
        fail_now(s, why, text);
    } else {
        unsigned long tls_error = s->ssl ? bufferevent_get_openssl_error(bev) : 0;
        connection_broke(s, error, tls_error, (what & BEV_EVENT_WRITING) != 0);
    }
}

/* ---- writing --------------------------------------------------------------------------------- */

static void on_bev_write(struct bufferevent *bev, void *arg) {
    (void)bev;
    struct stream *s = arg;
    if (stream_pending(s) == 0)
        written_out(s);
}

/* Hands what was written in this turn to the connection. */
static void flush(struct stream *s) {
    struct evbuffer *to = bufferevent_get_output(s->bev);
    size_t n = evbuffer_get_length(s->out);
    if (n > 0 && !s->ssl && evbuffer_get_length(to) == 0) {
        /* nearly always the socket takes it, which saves a turn. An error is met again by libevent
         * with the rest. */
        evbuffer_write(s->out, s->fd);
    } else if (n > 0 && s->ssl && n <= COALESCE_MAX) {
        /* one piece becomes one SSL_write: as few records as possible */
        evbuffer_pullup(s->out, -1);
    }
    evbuffer_add_buffer(to, s->out);
    if (s->drain_due && stream_pending(s) == 0)
        written_out(s);
}

static void on_kick(evutil_socket_t fd, short what, void *arg) {
    (void)fd, (void)what;
    struct stream *s = arg;
    if (s->report_failure != FAILURE_NONE) {
        enum failure why = s->report_failure;
        s->report_failure = FAILURE_NONE;
        s->ev.on_failed(s->ctx, why, str_of(s->report_text));
        return;
    }
    if (s->report_open) {
        bool gone = false;
        s->report_open = false;
        s->gone = &gone;
        s->ev.on_open(s->ctx);
        if (gone)
            return;
        s->gone = NULL;
    }
    if (s->state == STREAM_OPEN || s->state == STREAM_CLOSED || s->state == STREAM_SWITCHING ||
        s->state == STREAM_LINGER_FLUSH) {
        bool gone = false;
        s->gone = &gone;
        s->is_kicking = true;
        flush(s);
        if (gone)
            return;
        s->gone = NULL;
        s->is_kicking = false;
    }
}

/* ---- opening --------------------------------------------------------------------------------- */

static void attach(struct stream *s, struct bufferevent *bev) {
    ASSERT(bev != NULL);
    s->bev = bev;
    bufferevent_setcb(bev, on_bev_read, on_bev_write, on_bev_event, s);
    bufferevent_set_max_single_read(bev, READ_ONCE);
    bufferevent_set_max_single_write(bev, WRITE_ONCE);
}

static void open_in_clear(struct stream *s) {
    attach(s, bufferevent_socket_new(loop_base(s->loop), s->fd, BEV_OPT_DEFER_CALLBACKS));
    enter(s, STREAM_OPEN);
    bufferevent_enable(s->bev, EV_WRITE);
    apply_reading(s);
}

/* Puts the connection into the TLS session `ssl`, which becomes the stream's. */
static void begin_handshake(struct stream *s, struct ssl_st *ssl, bool as_client,
                            int64_t timeout_ms) {
    if (!ssl) {
        fail_later(s, FAILURE_LOCAL, "no memory for a TLS session");
        return;
    }
    free_bev(s);
    s->ssl = ssl;
    attach(s, bufferevent_openssl_socket_new(loop_base(s->loop), s->fd, ssl,
                                             as_client ? BUFFEREVENT_SSL_CONNECTING
                                                       : BUFFEREVENT_SSL_ACCEPTING,
                                             BEV_OPT_DEFER_CALLBACKS));
    s->is_full = false;
    enter(s, STREAM_HANDSHAKE);
    set_phase_timeout(s, timeout_ms);
    bufferevent_enable(s->bev, EV_READ | EV_WRITE);
}

static void begin_client_handshake(struct stream *s) {
    struct ssl_st *ssl = tls_client_session(s->tls_client, s->verify, s->tls_name);
    begin_handshake(s, ssl, true, s->tls_timeout_ms);
    forget_tls_wish(s);
}

static void read_local(struct stream *s) {
    s->local.len = sizeof s->local.ss;
    if (getsockname(s->fd, (struct sockaddr *)&s->local.ss, &s->local.len) != 0)
        s->local.len = 0;
}

static enum failure failure_of_connect(const struct stream *s, int error) {
    switch (error) {
    case EADDRNOTAVAIL:
        /* what a machine without any IPv6 address answers; else no port is left, or the source
         * address is not ours */
        return sockaddr_is_ipv6(&s->peer) && !s->has_source ? FAILURE_CONNECT_UNREACHABLE
                                                            : FAILURE_LOCAL;
    case EINVAL: /* an address that cannot be connected to */
    case ECONNREFUSED:
        return FAILURE_CONNECT_REFUSED;
    case ETIMEDOUT:
        return FAILURE_CONNECT_TIMEOUT;
    case ENETUNREACH:
    case EHOSTUNREACH:
    case ENETDOWN:
    case EHOSTDOWN:
    case EAFNOSUPPORT: /* no IPv6 here */
        return FAILURE_CONNECT_UNREACHABLE;
    case EPERM: /* a filter of this machine */
    case EACCES:
        return FAILURE_CONNECT_FORBIDDEN;
    case ECONNRESET:
        return FAILURE_CLOSED;
    default: /* no descriptor or memory left */
        return FAILURE_LOCAL;
    }
}

static void connect_text(const struct stream *s, int error, char *out, size_t size) {
    char peer[SOCKADDR_TEXT_SIZE], reason[128];
    sockaddr_print(&s->peer, peer);
    snprintf(out, size, "%s: %s", peer, strerror_r(error, reason, sizeof reason));
}

static void on_connect_event(evutil_socket_t fd, short what, void *arg) {
    struct stream *s = arg;
    int error = ETIMEDOUT;
    socklen_t len = sizeof error;
    if (!(what & EV_TIMEOUT) && getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &len) != 0)
        error = errno;
    event_free(s->fd_event);
    s->fd_event = NULL;
    if (error != 0) {
        char text[256];
        connect_text(s, error, text, sizeof text);
        fail_now(s, failure_of_connect(s, error), text);
        return;
    }
    read_local(s);
    if (s->tls_client) {
        begin_client_handshake(s);
        return;
    }
    open_in_clear(s);
    kick(s); /* what was written meanwhile */
    s->ev.on_open(s->ctx);
}

static void set_nodelay(int fd) {
    int on = 1;
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on); /* not on a local socket */
}

/* Returns an errno value, 0: connected or under way. */
static int begin_connect(struct stream *s, const struct stream_connect_options *o) {
    int on = 1;
    s->fd = socket(o->to.ss.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (s->fd < 0)
        return errno;
    set_nodelay(s->fd);
    if (o->source.len > 0) {
        /* the port is chosen at connect(): the same one can serve many peers */
        (void)setsockopt(s->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof on);
        if (bind(s->fd, (const struct sockaddr *)&o->source.ss, o->source.len) != 0)
            return errno;
    }
    if (connect(s->fd, (const struct sockaddr *)&o->to.ss, o->to.len) == 0 ||
        errno == EINPROGRESS || errno == EINTR)
        return 0;
    /* on loopback a refusal comes at once */
    return errno == EAGAIN ? EADDRNOTAVAIL : errno;
}

struct stream *stream_connect(struct loop *l, const struct stream_connect_options *o,
                              const struct stream_events *ev, void *ctx) {
    struct stream *s = stream_make(l, ev, ctx);
    s->peer = o->to;
    s->has_source = o->source.len > 0;
    s->state = STREAM_CONNECTING;
    if (o->tls) {
        s->tls_client = tls_client_ctx_ref(o->tls);
        s->verify = o->verify;
        s->tls_name = o->tls_name ? mem_dup(o->tls_name, strlen(o->tls_name) + 1) : NULL;
        s->tls_timeout_ms = o->tls_timeout_ms;
    }
    int error = o->to.len > 0 ? begin_connect(s, o) : EAFNOSUPPORT;
    if (error != 0) {
        char text[256];
        connect_text(s, error, text, sizeof text);
        fail_later(s, failure_of_connect(s, error), text);
        return s;
    }
    s->fd_event = event_new(loop_base(l), s->fd, EV_WRITE, on_connect_event, s);
    ASSERT(s->fd_event != NULL);
    int64_t ms = o->connect_timeout_ms;
    struct timeval tv = {(time_t)(ms / 1000), (suseconds_t)(ms % 1000) * 1000};
    ASSERT(event_add(s->fd_event, ms > 0 ? &tv : NULL) == 0);
    return s;
}

struct stream *stream_accept(struct loop *l, int fd, const struct stream_events *ev, void *ctx) {
    struct stream *s = stream_make(l, ev, ctx);
    s->fd = fd;
    evutil_make_socket_nonblocking(fd);
    evutil_make_socket_closeonexec(fd);
    set_nodelay(fd);
    s->peer.len = sizeof s->peer.ss;
    if (getpeername(fd, (struct sockaddr *)&s->peer.ss, &s->peer.len) != 0)
        s->peer.len = 0; /* it is gone already: reading will say so */
    read_local(s);
    open_in_clear(s);
    s->report_open = true;
    kick(s);
    return s;
}

/* ---- STARTTLS -------------------------------------------------------------------------------- */

void stream_start_tls_client(struct stream *s, struct tls_client_ctx *tls, enum tls_verify verify,
                             const char *tls_name, int64_t timeout_ms) {
    char byte;
    if (s->state == STREAM_FAILED || s->state == STREAM_CLOSED)
        return;
    ASSERT(s->state == STREAM_OPEN && !s->ssl);
    ASSERT(stream_pending(s) == 0);
    /* A server speaks second in TLS: whatever is here came in clear, from whoever could write it
     * (T6). */
    if (evbuffer_get_length(bufferevent_get_input(s->bev)) > 0 ||
        recv(s->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) > 0) {
        fail_later(s, FAILURE_TLS_INJECTION, "bytes in clear after the answer to STARTTLS");
        return;
    }
    s->verify = verify;
    begin_handshake(s, tls_client_session(tls, verify, tls_name), true, timeout_ms);
}

/* Everything that came before the 220 has left is clear text, also what the kernel still holds: a
 * client that keeps to the protocol has sent nothing. */
static void drop_clear_input(struct stream *s) {
    struct evbuffer *in = bufferevent_get_input(s->bev);
    char piece[4096];
    evbuffer_drain(in, evbuffer_get_length(in));
    if (stream_pending(s) == 0)
        return;
    for (size_t dropped = 0; dropped < STREAM_INPUT_MAX;) {
        ssize_t n = recv(s->fd, piece, sizeof piece, MSG_DONTWAIT);
        if (n <= 0)
            break; /* an end is met again by the handshake */
        dropped += (size_t)n;
    }
}

static void begin_server_handshake(struct stream *s) {
    struct ssl_st *ssl = tls_server_session(s->tls_server);
    begin_handshake(s, ssl, false, s->tls_timeout_ms);
    forget_tls_wish(s);
}

void stream_start_tls_server(struct stream *s, struct tls_server_ctx *tls, int64_t timeout_ms) {
    if (s->state == STREAM_FAILED || s->state == STREAM_CLOSED)
        return;
    ASSERT(s->state == STREAM_OPEN && !s->ssl);
    s->tls_server = tls_server_ctx_ref(tls);
    s->tls_timeout_ms = timeout_ms;
    drop_clear_input(s);
    if (stream_pending(s) == 0) {
        begin_server_handshake(s);
        return;
    }
    enter(s, STREAM_SWITCHING);
    /* from here on the kernel keeps what comes, for the handshake */
    bufferevent_disable(s->bev, EV_READ);
    set_phase_timeout(s, timeout_ms);
    kick(s);
}

/* ---- closing --------------------------------------------------------------------------------- */

static void linger_passed(void *arg) {
    destroy(arg);
}

static void linger_on_stop(struct loop_hold *h, bool at_once) {
    struct stream *s = CONTAINER_OF(h, struct stream, hold);
    /* in LINGER_READ all was said; waiting for the other side is a courtesy */
    if (at_once || s->state == STREAM_LINGER_READ)
        destroy(s);
}

static void on_discard(evutil_socket_t fd, short what, void *arg) {
    (void)what;
    char piece[16 * 1024];
    ssize_t n = recv(fd, piece, sizeof piece, MSG_DONTWAIT);
    if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR))
        destroy(arg);
}

/* Our last byte is with the kernel: says so, and waits for the peer's last. */
static void linger_read(struct stream *s) {
    if (s->ssl)
        tls_session_end(s->ssl);
    shutdown(s->fd, SHUT_WR);
    if (s->peer_ended) {
        destroy(s);
        return;
    }
    free_bev(s);
    enter(s, STREAM_LINGER_READ);
    s->fd_event = event_new(loop_base(s->loop), s->fd, EV_READ | EV_PERSIST, on_discard, s);
    ASSERT(s->fd_event && event_add(s->fd_event, NULL) == 0);
}

/* Nothing waits to be written any more. From the loop; the last thing its caller does with `s`. */
static void written_out(struct stream *s) {
    bool was_due = s->drain_due;
    s->drain_due = false;
    switch (s->state) {
    case STREAM_SWITCHING:
        begin_server_handshake(s);
        return;
    case STREAM_LINGER_FLUSH:
        linger_read(s);
        return;
    case STREAM_OPEN:
        if (was_due && s->ev.on_drained)
            s->ev.on_drained(s->ctx);
        return;
    default:
        return;
    }
}

void stream_close(struct stream **sp, bool flush_first) {
    struct stream *s = *sp;
    *sp = NULL;
    if (!s)
        return;
    bool can_write = s->state == STREAM_OPEN || s->state == STREAM_CLOSED;
    if (!flush_first || !can_write || (s->peer_ended && stream_pending(s) == 0)) {
        destroy(s);
        return;
    }
    s->report_open = false;
    timer_free(&s->deadline);
    timer_free(&s->phase);
    s->phase = timer_new(s->loop, linger_passed, s);
    timer_set(s->phase, LINGER_MS);
    s->hold.on_stop = linger_on_stop;
    loop_hold(s->loop, &s->hold);
    enter(s, STREAM_LINGER_FLUSH);
    if (!s->peer_ended)
        bufferevent_enable(s->bev, EV_READ);
    s->drain_due = true;
    kick(s);
}

/* ---- the owner's calls ----------------------------------------------------------------------- */

static void was_written(struct stream *s) {
    s->drain_due = true;
    kick(s);
}

void stream_write(struct stream *s, struct str bytes) {
    if (s->state == STREAM_FAILED || bytes.n == 0)
        return;
    ASSERT(s->state != STREAM_SWITCHING);
    ASSERT(evbuffer_add(s->out, bytes.p, bytes.n) == 0);
    was_written(s);
}

struct reference {
    void (*done)(void *arg);
    void *arg;
};

static void reference_done(const void *data, size_t n, void *extra) {
    (void)data, (void)n;
    struct reference *r = extra;
    if (r->done)
        r->done(r->arg);
    free(r);
}

void stream_write_ref(struct stream *s, struct str bytes, void (*done)(void *arg), void *arg) {
    if (s->state == STREAM_FAILED || bytes.n == 0) {
        if (done)
            done(arg);
        return;
    }
    ASSERT(s->state != STREAM_SWITCHING);
    struct reference *r = mem_zalloc(sizeof *r);
    r->done = done;
    r->arg = arg;
    ASSERT(evbuffer_add_reference(s->out, bytes.p, bytes.n, reference_done, r) == 0);
    was_written(s);
}

size_t stream_pending(const struct stream *s) {
    return evbuffer_get_length(s->out) +
           (s->bev ? evbuffer_get_length(bufferevent_get_output(s->bev)) : 0);
}

struct str stream_peek(struct stream *s) {
    if (!s->bev)
        return STR("");
    struct evbuffer *in = bufferevent_get_input(s->bev);
    size_t n = evbuffer_get_length(in);
    return n > 0 ? str_make(evbuffer_pullup(in, -1), n) : STR("");
}

void stream_drain(struct stream *s, size_t n) {
    if (n == 0)
        return;
    struct evbuffer *in = bufferevent_get_input(s->bev);
    ASSERT(n <= evbuffer_get_length(in));
    evbuffer_drain(in, n);
    if (s->is_full && evbuffer_get_length(in) < STREAM_INPUT_MAX) {
        s->is_full = false;
        apply_reading(s);
    }
}

static void deadline_passed(void *arg) {
    fail_now(arg, FAILURE_TIMEOUT, "timeout");
}

void stream_set_deadline(struct stream *s, int64_t delay_ms) {
    if (s->state == STREAM_FAILED || s->state == STREAM_CLOSED)
        return;
    if (!s->deadline)
        s->deadline = timer_new(s->loop, deadline_passed, s);
    if (delay_ms > 0)
        timer_set(s->deadline, delay_ms);
    else
        timer_cancel(s->deadline);
}

void stream_set_reading(struct stream *s, bool on) {
    s->reading_wanted = on;
    apply_reading(s);
}

struct tls_info stream_tls_info(const struct stream *s) {
    return s->info;
}

struct sockaddr_any stream_peer(const struct stream *s) {
    return s->peer;
}

struct sockaddr_any stream_local(const struct stream *s) {
    return s->local;
}
