#include "server/net/stream.h"

#include <errno.h>
#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <event2/bufferevent_ssl.h>
#include <event2/event.h>
#include <sys/socket.h>
#include <unistd.h>

#include "server/base/log.h"
#include "server/net/stream_state.h"

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

static const char NO_MEMORY[] = "connection lost: no memory";

static void on_kick(evutil_socket_t fd, short what, void *arg);

void stream_enter(struct stream *s, enum stream_state to) {
    if (log_is_on(LOG_DEBUG)) {
        char peer[SOCKADDR_TEXT_SIZE];
        sockaddr_print(&s->peer, peer);
        log_debug("stream", "state", LOG_STRZ("peer", peer),
                  LOG_STRZ("from", state_names[s->state]), LOG_STRZ("to", state_names[to]));
    }
    s->state = to;
}

void stream_kick(struct stream *s) {
    static const struct timeval next_turn = {0, 0};
    if (s->is_kicking)
        event_add(s->kick, &next_turn);
    else
        event_active(s->kick, EV_TIMEOUT, 0);
}

struct stream *stream_make(struct loop *l, const struct stream_events *ev, void *ctx) {
    struct stream *s = mem_zalloc(sizeof *s);
    s->loop = l;
    s->ev = *ev;
    s->ctx = ctx;
    s->fd = -1;
    s->reading_wanted = true;
    s->out = evbuffer_new();
    s->kick = event_new(loop_base(l), -1, 0, on_kick, s);
    NEED(s->out && s->kick);
    return s;
}

void stream_free_bev(struct stream *s) {
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

void stream_forget_tls_wish(struct stream *s) {
    tls_client_ctx_unref(&s->tls_client);
    tls_server_ctx_unref(&s->tls_server);
    free(s->tls_name);
    s->tls_name = NULL;
}

void stream_destroy(struct stream *s) {
    if (s->gone)
        *s->gone = true;
    if (s->state == STREAM_LINGER_FLUSH || s->state == STREAM_LINGER_READ)
        loop_unhold(s->loop, &s->hold);
    stream_stop_tries(s);
    if (s->fd_event)
        event_free(s->fd_event);
    event_free(s->kick);
    timer_free(&s->phase);
    timer_free(&s->deadline);
    stream_free_bev(s);
    evbuffer_free(s->out);
    if (s->fd >= 0)
        close(s->fd);
    stream_forget_tls_wish(s);
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
    stream_stop_tries(s);
    if (s->bev)
        bufferevent_disable(s->bev, EV_READ | EV_WRITE);
    stream_enter(s, STREAM_FAILED);
}

/* The owner may close the stream before it has read the words, some of which lie in the stream. */
static void tell_failure(struct stream *s, enum failure why, const char *text) {
    char words[256];
    snprintf(words, sizeof words, "%s", text);
    s->ev.on_failed(s->ctx, why, str_of(words));
}

void stream_fail_now(struct stream *s, enum failure why, const char *text) {
    switch (s->state) {
    case STREAM_LINGER_FLUSH:
    case STREAM_LINGER_READ:
        stream_destroy(s);
        return;
    case STREAM_FAILED:
        return;
    case STREAM_CLOSED: /* the owner was told the end already */
        enter_failed(s);
        return;
    default:
        enter_failed(s);
        tell_failure(s, why, text);
    }
}

void stream_fail_later(struct stream *s, enum failure why, const char *text) {
    if (s->state == STREAM_FAILED)
        return;
    s->report_failure = why;
    snprintf(s->report_text, sizeof s->report_text, "%s", text);
    enter_failed(s);
    stream_kick(s);
}

static void phase_passed(void *arg) {
    stream_fail_now(arg, FAILURE_TIMEOUT, "timeout during the TLS handshake");
}

void stream_set_phase_timeout(struct stream *s, int64_t ms) {
    if (!s->phase)
        s->phase = timer_new(s->loop, phase_passed, s);
    if (ms > 0)
        timer_set(s->phase, ms);
    else
        timer_cancel(s->phase);
}

/* ---- reading ------------------------------------------------------------------------------- */

void stream_apply_reading(struct stream *s) {
    if (s->state != STREAM_OPEN)
        return;
    if (!s->reading_wanted || s->is_full)
        bufferevent_disable(s->bev, EV_READ);
    else if (bufferevent_enable(s->bev, EV_READ) != 0)
        stream_fail_later(s, FAILURE_SHORT, NO_MEMORY);
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
    stream_apply_reading(s);
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
        if (evbuffer_add(in, piece, (size_t)n) != 0)
            break; /* no memory: what follows would not fit to what is there */
    }
    evbuffer_freeze(in, 0);
    return evbuffer_get_length(in) - before;
}

/* ---- the end of a connection ----------------------------------------------------------------- */

static void peer_closed(struct stream *s) {
    s->peer_ended = true;
    switch (s->state) {
    case STREAM_HANDSHAKE:
        stream_fail_now(s, FAILURE_TLS_HANDSHAKE,
                        "the peer closed the connection in the TLS handshake");
        return;
    case STREAM_OPEN:
    case STREAM_SWITCHING:
        stop_timers(s);
        stream_enter(s, STREAM_CLOSED);
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

/* Errors that no packet of the peer's causes. */
bool stream_is_short(int error) {
    return error == ENOMEM || error == ENOBUFS || error == EMFILE || error == ENFILE ||
           error == ENOSPC || error == EDQUOT || error == EIO;
}

static enum failure lost_by(int error, unsigned long tls_error) {
    if (tls_error != 0)
        return tls_error_is_ours(tls_error) ? FAILURE_SHORT : FAILURE_CLOSED;
    return error == ETIMEDOUT       ? FAILURE_TIMEOUT
           : stream_is_short(error) ? FAILURE_SHORT
                                    : FAILURE_CLOSED;
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
    stream_fail_now(s, lost_by(error, tls_error), text);
}

static void handshake_done(struct stream *s) {
    if (s->state != STREAM_HANDSHAKE)
        return;
    stream_set_phase_timeout(s, 0);
    tls_session_info(s->ssl, &s->info);
    if (s->verify == TLS_VERIFY_NAME && !s->info.is_verified) {
        /* OpenSSL ends all others during the handshake; this one had no name to check */
        stream_fail_now(s, FAILURE_TLS_NAME, s->info.problem);
        return;
    }
    stream_enter(s, STREAM_OPEN);
    stream_apply_reading(s);
    stream_kick(s); /* what was written meanwhile */
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
        unsigned long tls_error = bufferevent_get_openssl_error(bev);
        enum failure why = tls_session_failure(s->ssl, tls_error, text, sizeof text);
        if (why == FAILURE_TLS_HANDSHAKE && stream_is_short(error))
            why = FAILURE_SHORT;
        stream_fail_now(s, why, text);
    } else {
        unsigned long tls_error = s->ssl ? bufferevent_get_openssl_error(bev) : 0;
        connection_broke(s, error, tls_error, (what & BEV_EVENT_WRITING) != 0);
    }
}

/* ---- writing --------------------------------------------------------------------------------- */

/* Nothing waits to be written any more. From the loop; the last thing its caller does with `s`. */
static void written_out(struct stream *s) {
    bool was_due = s->drain_due;
    s->drain_due = false;
    switch (s->state) {
    case STREAM_SWITCHING:
        stream_begin_server_handshake(s);
        return;
    case STREAM_LINGER_FLUSH:
        stream_linger_read(s);
        return;
    case STREAM_OPEN:
        if (was_due && s->ev.on_drained)
            s->ev.on_drained(s->ctx);
        return;
    default:
        return;
    }
}

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
    if (evbuffer_add_buffer(to, s->out) != 0) {
        stream_fail_now(s, FAILURE_SHORT, NO_MEMORY);
        return;
    }
    if (s->drain_due && stream_pending(s) == 0)
        written_out(s);
}

static void on_kick(evutil_socket_t fd, short what, void *arg) {
    (void)fd, (void)what;
    struct stream *s = arg;
    if (s->report_failure != FAILURE_NONE) {
        enum failure why = s->report_failure;
        s->report_failure = FAILURE_NONE;
        tell_failure(s, why, s->report_text);
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

void stream_attach(struct stream *s, struct bufferevent *bev) {
    s->bev = bev;
    bufferevent_setcb(bev, on_bev_read, on_bev_write, on_bev_event, s);
    bufferevent_set_max_single_read(bev, READ_ONCE);
    bufferevent_set_max_single_write(bev, WRITE_ONCE);
}

/* ---- the owner's calls ----------------------------------------------------------------------- */

static void was_written(struct stream *s) {
    s->drain_due = true;
    stream_kick(s);
}

void stream_write(struct stream *s, struct str bytes) {
    if (s->state == STREAM_FAILED || bytes.n == 0)
        return;
    ASSERT(s->state != STREAM_SWITCHING);
    if (evbuffer_add(s->out, bytes.p, bytes.n) != 0) {
        stream_fail_later(s, FAILURE_SHORT, NO_MEMORY);
        return;
    }
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
    if (evbuffer_add_reference(s->out, bytes.p, bytes.n, reference_done, r) != 0) {
        reference_done(NULL, 0, r);
        stream_fail_later(s, FAILURE_SHORT, NO_MEMORY);
        return;
    }
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
    const char *p = n > 0 ? (const char *)evbuffer_pullup(in, -1) : "";
    if (p == NULL) {
        stream_fail_later(s, FAILURE_SHORT, NO_MEMORY);
        return STR("");
    }
    return str_make(p, n);
}

void stream_drain(struct stream *s, size_t n) {
    if (n == 0)
        return;
    struct evbuffer *in = bufferevent_get_input(s->bev);
    ASSERT(n <= evbuffer_get_length(in));
    evbuffer_drain(in, n);
    if (s->is_full && evbuffer_get_length(in) < STREAM_INPUT_MAX) {
        s->is_full = false;
        stream_apply_reading(s);
    }
}

/* Something has come that nobody has looked at yet. */
static bool has_unread(const struct stream *s) {
    char byte;
    return s->state == STREAM_OPEN && (evbuffer_get_length(bufferevent_get_input(s->bev)) > 0 ||
                                       recv(s->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) > 0);
}

/* A process that was stopped (SIGSTOP, a machine that slept) finds the deadline passed and the
 * answer come, both at once, and the timer is first: the answer counts, once. */
static void deadline_passed(void *arg) {
    struct stream *s = arg;
    if (!s->had_grace && has_unread(s)) {
        s->had_grace = true;
        timer_set(s->deadline, GRACE_MS);
        return;
    }
    stream_fail_now(s, FAILURE_TIMEOUT, "timeout");
}

void stream_set_deadline(struct stream *s, int64_t delay_ms) {
    if (s->state == STREAM_FAILED || s->state == STREAM_CLOSED)
        return;
    if (!s->deadline)
        s->deadline = timer_new(s->loop, deadline_passed, s);
    s->had_grace = false;
    if (delay_ms > 0)
        timer_set(s->deadline, delay_ms);
    else
        timer_cancel(s->deadline);
}

void stream_set_reading(struct stream *s, bool on) {
    s->reading_wanted = on;
    stream_apply_reading(s);
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
