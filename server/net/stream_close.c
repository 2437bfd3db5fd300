#include <errno.h>
#include <event2/bufferevent.h>
#include <event2/event.h>
#include <sys/socket.h>
#include <unistd.h>

#include "server/net/stream_state.h"

static void linger_passed(void *arg) {
    stream_destroy(arg);
}

static void linger_on_stop(struct loop_hold *h, bool at_once) {
    struct stream *s = CONTAINER_OF(h, struct stream, hold);
    /* in LINGER_READ all was said; waiting for the other side is a courtesy */
    if (at_once || s->state == STREAM_LINGER_READ)
        stream_destroy(s);
}

static void on_discard(evutil_socket_t fd, short what, void *arg) {
    (void)what;
    char piece[16 * 1024];
    ssize_t n = recv(fd, piece, sizeof piece, MSG_DONTWAIT);
    if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR))
        stream_destroy(arg);
}

void stream_linger_read(struct stream *s) {
    if (s->ssl)
        tls_session_end(s->ssl);
    shutdown(s->fd, SHUT_WR);
    if (s->peer_ended) {
        stream_destroy(s);
        return;
    }
    stream_free_bev(s);
    stream_enter(s, STREAM_LINGER_READ);
    s->fd_event = event_new(loop_base(s->loop), s->fd, EV_READ | EV_PERSIST, on_discard, s);
    NEED(s->fd_event);
    if (event_add(s->fd_event, NULL) != 0)
        stream_destroy(s); /* waiting for the other side is a courtesy */
}

void stream_close(struct stream **sp, bool flush_first) {
    struct stream *s = *sp;
    *sp = NULL;
    if (!s)
        return;
    bool can_write = s->state == STREAM_OPEN || s->state == STREAM_CLOSED;
    if (!flush_first || !can_write || (s->peer_ended && stream_pending(s) == 0)) {
        stream_destroy(s);
        return;
    }
    s->report_open = false;
    timer_free(&s->deadline);
    timer_free(&s->phase);
    s->phase = timer_new(s->loop, linger_passed, s);
    timer_set(s->phase, LINGER_MS);
    s->hold.on_stop = linger_on_stop;
    loop_hold(s->loop, &s->hold);
    stream_enter(s, STREAM_LINGER_FLUSH);
    if (!s->peer_ended)
        bufferevent_enable(s->bev, EV_READ);
    s->drain_due = true;
    stream_kick(s);
}
