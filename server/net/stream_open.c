#include <errno.h>
#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <event2/bufferevent_ssl.h>
#include <event2/event.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include "server/net/stream_state.h"

/* ---- in clear or in TLS ---------------------------------------------------------------------- */

static void open_in_clear(struct stream *s) {
    stream_attach(s, bufferevent_socket_new(loop_base(s->loop), s->fd, BEV_OPT_DEFER_CALLBACKS));
    stream_enter(s, STREAM_OPEN);
    bufferevent_enable(s->bev, EV_WRITE);
    stream_apply_reading(s);
}

/* Puts the connection into the TLS session `ssl`, which becomes the stream's. */
static void begin_handshake(struct stream *s, struct ssl_st *ssl, bool as_client,
                            int64_t timeout_ms) {
    if (!ssl) {
        stream_fail_later(s, FAILURE_LOCAL, "no memory for a TLS session");
        return;
    }
    stream_free_bev(s);
    s->ssl = ssl;
    stream_attach(s, bufferevent_openssl_socket_new(loop_base(s->loop), s->fd, ssl,
                                                    as_client ? BUFFEREVENT_SSL_CONNECTING
                                                              : BUFFEREVENT_SSL_ACCEPTING,
                                                    BEV_OPT_DEFER_CALLBACKS));
    s->is_full = false;
    stream_enter(s, STREAM_HANDSHAKE);
    stream_set_phase_timeout(s, timeout_ms);
    bufferevent_enable(s->bev, EV_READ | EV_WRITE);
}

static void begin_client_handshake(struct stream *s) {
    struct ssl_st *ssl = tls_client_session(s->tls_client, s->verify, s->tls_name);
    begin_handshake(s, ssl, true, s->tls_timeout_ms);
    stream_forget_tls_wish(s);
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
        stream_fail_now(s, failure_of_connect(s, error), text);
        return;
    }
    read_local(s);
    if (s->tls_client) {
        begin_client_handshake(s);
        return;
    }
    open_in_clear(s);
    stream_kick(s); /* what was written meanwhile */
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
        stream_fail_later(s, failure_of_connect(s, error), text);
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
    stream_kick(s);
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
        stream_fail_later(s, FAILURE_TLS_INJECTION, "bytes in clear after the answer to STARTTLS");
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

void stream_begin_server_handshake(struct stream *s) {
    struct ssl_st *ssl = tls_server_session(s->tls_server);
    begin_handshake(s, ssl, false, s->tls_timeout_ms);
    stream_forget_tls_wish(s);
}

void stream_start_tls_server(struct stream *s, struct tls_server_ctx *tls, int64_t timeout_ms) {
    if (s->state == STREAM_FAILED || s->state == STREAM_CLOSED)
        return;
    ASSERT(s->state == STREAM_OPEN && !s->ssl);
    s->tls_server = tls_server_ctx_ref(tls);
    s->tls_timeout_ms = timeout_ms;
    drop_clear_input(s);
    if (stream_pending(s) == 0) {
        stream_begin_server_handshake(s);
        return;
    }
    stream_enter(s, STREAM_SWITCHING);
    /* from here on the kernel keeps what comes, for the handshake */
    bufferevent_disable(s->bev, EV_READ);
    stream_set_phase_timeout(s, timeout_ms);
    stream_kick(s);
}
