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

/* False: it has failed, which is told later. */
static bool open_in_clear(struct stream *s) {
    struct bufferevent *bev =
        bufferevent_socket_new(loop_base(s->loop), s->fd, BEV_OPT_DEFER_CALLBACKS);
    if (!bev) {
        stream_fail_later(s, FAILURE_SHORT, "no memory for a connection");
        return false;
    }
    stream_attach(s, bev);
    stream_enter(s, STREAM_OPEN);
    bufferevent_enable(s->bev, EV_WRITE);
    stream_apply_reading(s);
    return s->state == STREAM_OPEN;
}

/* Puts the connection into the TLS session `ssl`, which becomes the stream's. */
static void begin_handshake(struct stream *s, struct ssl_st *ssl, bool as_client,
                            int64_t timeout_ms) {
    if (!ssl) {
        stream_fail_later(s, FAILURE_SHORT, "no memory for a TLS session");
        return;
    }
    stream_free_bev(s);
    s->ssl = ssl;
    struct bufferevent *bev = bufferevent_openssl_socket_new(loop_base(s->loop), s->fd, ssl,
                                                             as_client ? BUFFEREVENT_SSL_CONNECTING
                                                                       : BUFFEREVENT_SSL_ACCEPTING,
                                                             BEV_OPT_DEFER_CALLBACKS);
    if (!bev) {
        stream_fail_later(s, FAILURE_SHORT, "no memory for a TLS session");
        return;
    }
    stream_attach(s, bev);
    s->is_full = false;
    stream_enter(s, STREAM_HANDSHAKE);
    stream_set_phase_timeout(s, timeout_ms);
    if (bufferevent_enable(s->bev, EV_READ | EV_WRITE) != 0)
        stream_fail_later(s, FAILURE_SHORT, "no memory for a TLS session");
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

void stream_connected(struct stream *s) {
    read_local(s);
    if (s->tls_client) {
        begin_client_handshake(s);
        return;
    }
    if (!open_in_clear(s))
        return;
    stream_kick(s); /* what was written meanwhile */
    s->ev.on_open(s->ctx);
}

void stream_set_nodelay(int fd) {
    int on = 1;
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on); /* not on a local socket */
}

struct stream *stream_accept(struct loop *l, int fd, const struct stream_events *ev, void *ctx) {
    struct stream *s = stream_make(l, ev, ctx);
    s->fd = fd;
    evutil_make_socket_nonblocking(fd);
    evutil_make_socket_closeonexec(fd);
    stream_set_nodelay(fd);
    s->peer.len = sizeof s->peer.ss;
    if (getpeername(fd, (struct sockaddr *)&s->peer.ss, &s->peer.len) != 0)
        s->peer.len = 0; /* it is gone already: reading will say so */
    read_local(s);
    if (!open_in_clear(s))
        return s;
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
