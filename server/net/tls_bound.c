#include "server/net/tls_bound.h"

#include <openssl/bio.h>
#include <openssl/ssl.h>
#include <pthread.h>

#include "server/base/err.h"

static pthread_once_t once = PTHREAD_ONCE_INIT;
static int count_of; /* index of the number of messages in an SSL */

static void make_index(void) {
    count_of = SSL_get_ex_new_index(0, NULL, NULL, NULL, NULL);
    ASSERT(count_of >= 0);
}

/* The way out of OpenSSL's loop: there is nothing more to read. What it has of the last record it
 * still looks at. */
static void end_reading(SSL *ssl) {
    BIO *nothing = BIO_new(BIO_s_null());
    if (nothing)
        SSL_set0_rbio(ssl, nothing);
}

static void on_message(int is_ours, int version, int type, const void *bytes, size_t size, SSL *ssl,
                       void *arg) {
    (void)version, (void)bytes, (void)size, (void)arg;
    if (is_ours || type != SSL3_RT_HANDSHAKE)
        return;
    uintptr_t count = (uintptr_t)SSL_get_ex_data(ssl, count_of) + 1;
    SSL_set_ex_data(ssl, count_of, (void *)count);
    if (count == TLS_MESSAGES_MAX)
        end_reading(ssl);
}

bool tls_bound_is_reached(const struct ssl_st *ssl) {
    return (uintptr_t)SSL_get_ex_data(ssl, count_of) >= TLS_MESSAGES_MAX;
}

void tls_bound(SSL_CTX *ctx) {
    pthread_once(&once, make_index);
    SSL_CTX_set_msg_callback(ctx, on_message);
}
