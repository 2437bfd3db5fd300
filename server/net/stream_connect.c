#include <errno.h>
#include <event2/event.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include "server/net/stream_state.h"

/* Connecting, to one address or to two that race (RFC 8305 5):
 *
 *   stream_connect -> begin(first) --head start passed, or it failed--> begin(rival)
 *   whoever is connected first: stream_connected; the other one is closed, nothing was sent on it
 *   none: the stream fails, with the words of both
 */

static enum failure failure_of(const struct stream_try *t) {
    switch (t->error) {
    case EADDRNOTAVAIL:
        /* what a machine without any IPv6 address answers; else no port is left, or the source
         * address is not ours */
        return sockaddr_is_ipv6(&t->to) && t->source.len == 0 ? FAILURE_CONNECT_UNREACHABLE
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
    case EADDRINUSE: /* of the source address every port is */
        return FAILURE_LOCAL;
    default: /* no descriptor or memory left; else whatever the network's ICMP says (RFC 1122) */
        return stream_is_short(t->error) ? FAILURE_SHORT : FAILURE_CONNECT_UNREACHABLE;
    }
}

static void begin_rival(struct stream *s);

static void forget(struct stream_try *t) {
    if (t->event)
        event_free(t->event);
    if (t->fd >= 0)
        close(t->fd);
    t->event = NULL;
    t->fd = -1;
}

void stream_stop_tries(struct stream *s) {
    timer_free(&s->head_start);
    for (size_t i = 0; i < s->tries; i++)
        forget(&s->try[i]);
    s->tries = 0;
}

static bool is_under_way(const struct stream *s) {
    for (size_t i = 0; i < s->tries; i++)
        if (s->try[i].fd >= 0)
            return true;
    return s->head_start && !s->try[1].is_begun;
}

static void put_words(const struct stream_try *t, char *out, size_t size) {
    char peer[SOCKADDR_TEXT_SIZE], reason[128];
    sockaddr_print(&t->to, peer);
    snprintf(out, size, "%s: %s", peer, strerror_r(t->error, reason, sizeof reason));
}

/* Why nobody was reached. Of two, what says something about the peer goes before our own trouble.
 */
static enum failure describe(const struct stream *s, char *out, size_t size) {
    const struct stream_try *last = &s->try[s->tries - 1];
    enum failure why = failure_of(last);
    if (s->tries == 1) {
        put_words(last, out, size);
        return why;
    }
    char first[120], second[120];
    put_words(&s->try[0], first, sizeof first);
    put_words(last, second, sizeof second);
    snprintf(out, size, "%s; %s", first, second);
    return failure_is_ours(why) ? failure_of(&s->try[0]) : why;
}

static void won(struct stream_try *t) {
    struct stream *s = t->stream;
    s->fd = t->fd;
    s->peer = t->to;
    t->fd = -1;
    stream_stop_tries(s);
    stream_connected(s);
}

static void lost(struct stream_try *t, int error) {
    struct stream *s = t->stream;
    t->error = error;
    forget(t);
    begin_rival(s); /* it has waited long enough */
    if (is_under_way(s))
        return;
    char text[256];
    enum failure why = describe(s, text, sizeof text);
    stream_fail_now(s, why, text);
}

static void on_connect_event(evutil_socket_t fd, short what, void *arg) {
    struct stream_try *t = arg;
    int error = ETIMEDOUT;
    socklen_t len = sizeof error;
    /* both, after the process was stopped: then it is connected */
    if ((what & EV_WRITE) && getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &len) != 0)
        error = errno;
    if (error == 0)
        won(t);
    else
        lost(t, error);
}

/* Returns an errno value, 0: connected or under way. */
static int connect_socket(struct stream_try *t) {
    int on = 1;
    if (t->to.len == 0)
        return EAFNOSUPPORT;
    t->fd = socket(t->to.ss.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (t->fd < 0)
        return errno;
    stream_set_nodelay(t->fd);
    if (t->source.len > 0) {
        /* the port is chosen at connect(): the same one can serve many peers */
        (void)setsockopt(t->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof on);
        if (bind(t->fd, (const struct sockaddr *)&t->source.ss, t->source.len) != 0)
            return errno;
    }
    if (connect(t->fd, (const struct sockaddr *)&t->to.ss, t->to.len) == 0 ||
        errno == EINPROGRESS || errno == EINTR)
        return 0;
    /* on loopback a refusal comes at once */
    return errno == EAGAIN ? EADDRNOTAVAIL : errno;
}

static void begin(struct stream_try *t) {
    struct stream *s = t->stream;
    t->is_begun = true;
    t->error = connect_socket(t);
    if (t->error != 0) {
        forget(t);
        return;
    }
    t->event = event_new(loop_base(s->loop), t->fd, EV_WRITE, on_connect_event, t);
    NEED(t->event != NULL);
    int64_t ms = s->connect_timeout_ms;
    struct timeval tv = {(time_t)(ms / 1000), (suseconds_t)(ms % 1000) * 1000};
    if (event_add(t->event, ms > 0 ? &tv : NULL) != 0) {
        t->error = ENOMEM;
        forget(t);
    }
}

static void begin_rival(struct stream *s) {
    if (!s->head_start || s->try[1].is_begun)
        return;
    timer_cancel(s->head_start);
    begin(&s->try[1]);
}

static void head_start_passed(void *arg) {
    begin_rival(arg); /* if it fails at once, the first one is still under way */
}

static void add_try(struct stream *s, const struct sockaddr_any *to,
                    const struct sockaddr_any *source) {
    s->try[s->tries++] = (struct stream_try){.stream = s, .to = *to, .source = *source, .fd = -1};
}

struct stream *stream_connect(struct loop *l, const struct stream_connect_options *o,
                              const struct stream_events *ev, void *ctx) {
    struct stream *s = stream_make(l, ev, ctx);
    s->peer = o->to;
    s->state = STREAM_CONNECTING;
    s->connect_timeout_ms = o->connect_timeout_ms;
    if (o->tls) {
        s->tls_client = tls_client_ctx_ref(o->tls);
        s->verify = o->verify;
        s->tls_name = o->tls_name ? mem_dup(o->tls_name, strlen(o->tls_name) + 1) : NULL;
        s->tls_timeout_ms = o->tls_timeout_ms;
    }
    add_try(s, &o->to, &o->source);
    if (o->rival.len > 0) {
        add_try(s, &o->rival, &o->rival_source);
        s->head_start = timer_new(l, head_start_passed, s);
    }
    begin(&s->try[0]);
    if (s->head_start && s->try[0].error == 0)
        timer_set(s->head_start, o->head_start_ms);
    else
        begin_rival(s);
    if (!is_under_way(s)) {
        char text[256];
        enum failure why = describe(s, text, sizeof text);
        stream_fail_later(s, why, text);
    }
    return s;
}
