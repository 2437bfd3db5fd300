#include "server/net/stream.h"

#include <event2/buffer.h>
#include <event2/bufferevent.h>
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
    s->kick = event_new(loop_base(l), -1, 0, stream_on_kick, s);
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

void stream_stop_timers(struct stream *s) {
    if (s->phase)
        timer_cancel(s->phase);
    if (s->deadline)
        timer_cancel(s->deadline);
}

static void enter_failed(struct stream *s) {
    stream_stop_timers(s);
    stream_stop_tries(s);
    if (s->bev)
        bufferevent_disable(s->bev, EV_READ | EV_WRITE);
    stream_enter(s, STREAM_FAILED);
}

/* The owner may close the stream before it has read the words, some of which lie in the stream. */
void stream_tell_failure(struct stream *s, enum failure why, const char *text) {
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
        stream_tell_failure(s, why, text);
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
        stream_fail_later(s, FAILURE_SHORT, STREAM_NO_MEMORY);
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
        stream_fail_later(s, FAILURE_SHORT, STREAM_NO_MEMORY);
        return;
    }
    was_written(s);
}

size_t stream_pending(const struct stream *s) {
    return evbuffer_get_length(s->out) +
           (s->bev ? evbuffer_get_length(bufferevent_get_output(s->bev)) : 0);
}

bool stream_has_failed(const struct stream *s) {
    return s->state == STREAM_FAILED;
}

struct str stream_peek(struct stream *s) {
    if (!s->bev)
        return STR("");
    struct evbuffer *in = bufferevent_get_input(s->bev);
    size_t n = evbuffer_get_length(in);
    const char *p = n > 0 ? (const char *)evbuffer_pullup(in, -1) : "";
    if (p == NULL) {
        stream_fail_later(s, FAILURE_SHORT, STREAM_NO_MEMORY);
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
