/* tls_bound: how many handshake messages a peer may send on one connection.
 *
 * OpenSSL reads on without a word while they come: a stream of HelloRequests, which a client has to
 * ignore, or of KeyUpdates keeps a call of SSL_connect() or SSL_read() busy for as long as the peer
 * sends faster than we read, and the loop's other connections and timers wait. From the bound on
 * the connection reads as ended.
 *
 * Thread: any.
 */
#pragma once

#include <stdbool.h>

typedef struct ssl_ctx_st SSL_CTX; /* OpenSSL's */

enum { TLS_MESSAGES_MAX = 256 }; /* a handshake has about ten; tickets and new keys come later */

/* For all connections made of `ctx` from now on. */
void tls_bound(SSL_CTX *ctx);
/* Is that why this one, which is of such a context, reads as ended? */
struct ssl_st;
bool tls_bound_is_reached(const struct ssl_st *ssl);
