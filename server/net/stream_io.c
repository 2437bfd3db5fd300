/* What the connection does by itself: it brings octets, takes them, breaks, ends. */

#include <errno.h>
#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <event2/bufferevent_ssl.h>
#include <event2/event.h>
#include <sys/socket.h>

#include "server/net/stream_state.h"
#include "server/net/tls_bound.h"

/* ---- reading ------------------------------------------------------------------------------- */

void stream_apply_reading(struct stream *s) {
    if (s->state != STREAM_OPEN)
        return;
    if (!s->reading_wanted || s->is_full)
        bufferevent_disable(s->bev, EV_READ);
    else if (bufferevent_enable(s->bev, EV_READ) != 0)
        stream_fail_later(s, FAILURE_SHORT, STREAM_NO_MEMORY);
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
        if (tls_bound_is_reached(s->ssl))
            stream_fail_now(s, FAILURE_TLS_HANDSHAKE, "the TLS handshake has no end");
        else
            stream_fail_now(s, FAILURE_CLOSED,
                            "the peer closed the connection in the TLS handshake");
        return;
    case STREAM_OPEN:
    case STREAM_SWITCHING:
        stream_stop_timers(s);
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

static bool is_of_network(int error) {
    return error == ECONNRESET || error == EPIPE || error == ETIMEDOUT || error == EHOSTUNREACH ||
           error == ENETUNREACH;
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
                 error != 0 ? strerror_r(error, reason, sizeof reason) : "no reason is known");
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

/* One of those that libevent keeps of OpenSSL's, the last one first: it, or one before that says
 * that the peer has done nothing. 0: none, it is the socket's. */
static unsigned long error_of(struct bufferevent *bev) {
    unsigned long last = bufferevent_get_openssl_error(bev), e = last;
    if (tls_error_is_of_socket(last))
        return 0;
    while (e != 0 && !tls_error_is_ours(e))
        e = bufferevent_get_openssl_error(bev);
    return e != 0 ? e : last;
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
        unsigned long tls_error = error_of(bev);
        enum failure why = tls_session_failure(s->ssl, tls_error, text, sizeof text);
        bool is_lost = tls_error == 0 && is_of_network(error); /* else the library's, unexplained */
        if (why == FAILURE_TLS_HANDSHAKE && (is_lost || stream_is_short(error)))
            why = lost_by(error, 0); /* anybody on the way can end a connection */
        stream_fail_now(s, why, text);
    } else {
        unsigned long tls_error = s->ssl ? error_of(bev) : 0;
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
        stream_fail_now(s, FAILURE_SHORT, STREAM_NO_MEMORY);
        return;
    }
    if (s->drain_due && stream_pending(s) == 0)
        written_out(s);
}

void stream_on_kick(int fd, short what, void *arg) {
    (void)fd, (void)what;
    struct stream *s = arg;
    if (s->report_failure != FAILURE_NONE) {
        enum failure why = s->report_failure;
        s->report_failure = FAILURE_NONE;
        stream_tell_failure(s, why, s->report_text);
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
