/* stream: one TCP connection, in clear or TLS, on one loop; buffered both ways; every wait has a
 * deadline.
 *
 *   client:  stream_connect -> on_open -> write / on_read ... -> stream_start_tls_client -> on_open
 *            again -> ... -> stream_close
 *   server:  stream_accept(fd) -> on_open -> ... -> stream_start_tls_server -> on_open again -> ...
 *
 * After on_failed or on_closed nothing more is called; the owner still calls stream_close(). No
 * callback ever runs inside a stream_* call; the owner may close the stream from within a callback.
 *
 * TCP_NODELAY is always set; what is written in one turn of the loop leaves at its end in as few
 * segments (and TLS records) as possible. Thread: the loop's.
 */
#pragma once

#include "server/mail/outcome.h"
#include "server/net/loop.h"
#include "server/net/sockaddr.h"
#include "server/net/tls.h"

struct stream;

/* Received and not yet drained; what is more stays in the kernel (T8). */
enum { STREAM_INPUT_MAX = 256 * 1024 };

struct stream_events {
    /* Connected (and handshaken when TLS was asked). */
    void (*on_open)(void *ctx);
    /* Bytes wait: look with stream_peek(), take with stream_drain(). Called again only when more
     * arrive; none do while STREAM_INPUT_MAX bytes wait. */
    void (*on_read)(void *ctx);
    /* Everything written has been handed to the kernel: stream_pending() fell to 0. May be NULL. */
    void (*on_drained)(void *ctx);
    /* Connecting (CONNECT_*, LOCAL), handshake (TLS_*; CLOSED when the peer went in it), a deadline
     * (TIMEOUT; the handshake's too), reset (CLOSED). Bytes that came before were delivered by
     * on_read and can still be peeked at. `text` is for people, valid during the call, also after
     * stream_close(). */
    void (*on_failed)(void *ctx, enum failure why, struct str text);
    /* The peer closed in order; bytes that came before were delivered by on_read. It may have
     * closed its own direction only: what is written from now on is still sent, without
     * on_drained. */
    void (*on_closed)(void *ctx);
};

struct stream_connect_options {
    struct sockaddr_any to;
    struct sockaddr_any source; /* len 0: the kernel chooses */
    /* Another address of the same peer (the other family), which races `to` (RFC 8305): it is
     * connected to when head_start_ms have passed without a connection, or `to` failed. Who is
     * first is stream_peer(); on the other one nothing was sent. len 0: none. */
    struct sockaddr_any rival, rival_source;
    int64_t head_start_ms;
    int64_t connect_timeout_ms; /* of each address; 0: the kernel's */
    struct tls_client_ctx *tls; /* non-NULL: implicit TLS from the first byte */
    enum tls_verify verify;
    const char *tls_name;   /* SNI and verified name; NULL: none */
    int64_t tls_timeout_ms; /* 0: none */
};

/* Everything in `o` is copied or referenced. */
struct stream *stream_connect(struct loop *l, const struct stream_connect_options *o,
                              const struct stream_events *ev, void *ctx);
/* Takes the descriptor. */
struct stream *stream_accept(struct loop *l, int fd, const struct stream_events *ev, void *ctx);
/* STARTTLS in place. ASSERTs that nothing waits to be written; bytes already received in clear make
 * it fail with FAILURE_TLS_INJECTION (T6). on_open or on_failed follows. */
void stream_start_tls_client(struct stream *s, struct tls_client_ctx *tls, enum tls_verify verify,
                             const char *tls_name, int64_t timeout_ms);
/* The server's side: what still waits to be written (the 220) goes out in clear first; bytes
 * received in clear before the handshake are dropped (RFC 3207 4.2). timeout_ms is for both. */
void stream_start_tls_server(struct stream *s, struct tls_server_ctx *tls, int64_t timeout_ms);
/* Frees. Without `flush` the connection is cut at once. With it pending writes are still tried for
 * up to 2 s (QUIT, 421), then our direction is closed, and the peer gets the rest of the 2 s to
 * close its own: closing over bytes that were not read would reset the connection, and the peer
 * might never see our last words. *sp = NULL; NULL is accepted. */
void stream_close(struct stream **sp, bool flush);

void stream_write(struct stream *s, struct str bytes); /* copies */
/* Writes without a copy; `done(arg)` once when the bytes are no longer needed: from within any
 * stream_* call, from the loop, or after stream_close. It releases memory and calls no stream_*
 * function. */
void stream_write_ref(struct stream *s, struct str bytes, void (*done)(void *arg), void *arg);
size_t stream_pending(const struct stream *s); /* bytes not yet handed to the kernel */
/* Nothing is sent any more, also of what is pending; on_failed was called, or will be. */
bool stream_has_failed(const struct stream *s);
/* All received bytes, contiguous; valid until the next call on s. */
struct str stream_peek(struct stream *s);
void stream_drain(struct stream *s, size_t n);
/* One deadline: unless moved or cancelled (0) before, on_failed(FAILURE_TIMEOUT) is called when it
 * passes. Independent of the timeouts of connecting and handshakes. */
void stream_set_deadline(struct stream *s, int64_t delay_ms);
void stream_set_reading(struct stream *s, bool on); /* back pressure */
/* All empty while in clear. */
struct tls_info stream_tls_info(const struct stream *s);
struct sockaddr_any stream_peer(const struct stream *s);  /* of a race: the winner, once open */
struct sockaddr_any stream_local(const struct stream *s); /* len 0: not connected yet */
