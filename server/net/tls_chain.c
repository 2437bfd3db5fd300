#include "server/net/tls_chain.h"

#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509_vfy.h>

/* Empties the queue. */
static bool lacked_memory(void) {
    bool is_so = false;
    for (unsigned long code; (code = ERR_get_error()) != 0;)
        is_so = is_so || ERR_GET_REASON(code) == ERR_R_MALLOC_FAILURE;
    return is_so;
}

static SSL *session_of(X509_STORE_CTX *store) {
    return X509_STORE_CTX_get_ex_data(store, SSL_get_ex_data_X509_STORE_CTX_idx());
}

/* The same once more, with certificates that are read anew: those that memory was short for keep
 * what they are without. */
static int verify_anew(X509_STORE_CTX *store) {
    int error = X509_V_ERR_OUT_OF_MEM;
    ERR_clear_error();
    X509 *leaf = X509_dup(X509_STORE_CTX_get0_cert(store));
    STACK_OF(X509) *chain =
        sk_X509_deep_copy(X509_STORE_CTX_get0_untrusted(store), X509_dup, X509_free);
    X509_STORE_CTX *again = X509_STORE_CTX_new();
    if (leaf && chain && again &&
        X509_STORE_CTX_init(again, X509_STORE_CTX_get0_store(store), leaf, chain) == 1 &&
        X509_VERIFY_PARAM_set1(X509_STORE_CTX_get0_param(again),
                               X509_STORE_CTX_get0_param(store)) == 1)
        error = X509_verify_cert(again) == 1 ? X509_V_OK : X509_STORE_CTX_get_error(again);
    if (lacked_memory())
        error = X509_V_ERR_OUT_OF_MEM;
    X509_STORE_CTX_free(again);
    sk_X509_pop_free(chain, X509_free);
    X509_free(leaf);
    return error;
}

bool tls_chain_is_whole(X509_STORE_CTX *store) {
    X509 *leaf = X509_STORE_CTX_get0_cert(store);
    if (X509_get0_pubkey(leaf))
        return true;
    ERR_clear_error();
    X509 *again = X509_dup(leaf);
    bool is_strange = again && !X509_get0_pubkey(again) && !lacked_memory();
    X509_free(again);
    if (!is_strange)
        X509_STORE_CTX_set_error(store, X509_V_ERR_OUT_OF_MEM);
    return is_strange;
}

int tls_chain_verify(X509_STORE_CTX *store) {
    SSL *ssl = session_of(store);
    ERR_clear_error();
    if (!tls_chain_is_whole(store))
        return 0;
    /* OpenSSL has done so, but not looked whether there was memory: the name to check may be
     * missing */
    if (X509_VERIFY_PARAM_set1(X509_STORE_CTX_get0_param(store), SSL_get0_param(ssl)) != 1) {
        X509_STORE_CTX_set_error(store, X509_V_ERR_OUT_OF_MEM);
        return 0;
    }
    if (X509_verify_cert(store) == 1)
        return 1;
    int error = X509_STORE_CTX_get_error(store);
    bool is_asked = SSL_get_verify_mode(ssl) != SSL_VERIFY_NONE;
    if (lacked_memory() || (is_asked && verify_anew(store) != error))
        X509_STORE_CTX_set_error(store, X509_V_ERR_OUT_OF_MEM);
    return 0;
}

static int verify(X509_STORE_CTX *store, void *arg) {
    (void)arg;
    return tls_chain_verify(store);
}

void tls_chain_install(SSL_CTX *ctx) {
    SSL_CTX_set_cert_verify_callback(ctx, verify, NULL);
}
