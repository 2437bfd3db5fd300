#include "server/net/tls_pin.h"

#include <openssl/ssl.h>
#include <openssl/x509_vfy.h>
#include <pthread.h>

#include "server/base/base64.h"
#include "server/base/digest.h"
#include "server/net/tls_chain.h"

_Static_assert(sizeof(struct tls_pin) == SHA256_BYTES, "a pin is a SHA-256");

static const struct str PREFIX = {"sha256:", 7};

/* Of a context. Thread: immutable. */
struct pins {
    bool is_alone;
    size_t count;
    struct tls_pin pin[];
};

/* ---- text ---- */

bool tls_pin_parse(struct str text, struct tls_pin *out) {
    if (!str_starts_with_nocase(text, PREFIX))
        return false;
    text = str_from(text, PREFIX.n);
    struct buf b = BUF_INIT(sizeof out->sha256);
    enum err e = text.n == 2 * sizeof out->sha256 ? hex_decode(text, &b) : base64_decode(text, &b);
    bool is_good = e == OK && buf_status(&b) == OK && b.n == sizeof out->sha256;
    if (is_good)
        memcpy(out->sha256, b.p, sizeof out->sha256);
    buf_release(&b);
    return is_good;
}

void tls_pin_print(const struct tls_pin *p, char out[TLS_PIN_TEXT_SIZE]) {
    struct buf b = BUF_INIT(TLS_PIN_TEXT_SIZE);
    base64_encode(str_make((const char *)p->sha256, sizeof p->sha256), &b);
    snprintf(out, TLS_PIN_TEXT_SIZE, "%s%.*s", PREFIX.p, STR_ARG(buf_str(&b)));
    buf_release(&b);
}

/* ---- what hangs on OpenSSL's objects ---- */

static pthread_once_t once = PTHREAD_ONCE_INIT;
static int of_ctx; /* struct pins */
static int of_ssl; /* the key that did not fit, text */

static void free_data(void *parent, void *p, CRYPTO_EX_DATA *ad, int idx, long argl, void *argp) {
    (void)parent, (void)ad, (void)idx, (void)argl, (void)argp;
    free(p);
}

static void register_places(void) {
    of_ctx = SSL_CTX_get_ex_new_index(0, NULL, NULL, NULL, free_data);
    of_ssl = SSL_get_ex_new_index(0, NULL, NULL, NULL, free_data);
    ASSERT(of_ctx >= 0 && of_ssl >= 0);
}

static bool key_of(X509 *leaf, struct tls_pin *out) {
    unsigned char *der = NULL;
    int n = i2d_X509_PUBKEY(X509_get_X509_PUBKEY(leaf), &der);
    if (n <= 0)
        return false;
    digest_sha256(str_make((const char *)der, (size_t)n), out->sha256);
    OPENSSL_free(der);
    return true;
}

static bool is_pinned(const struct pins *p, const struct tls_pin *key) {
    for (size_t i = 0; i < p->count; i++)
        if (memcmp(p->pin[i].sha256, key->sha256, sizeof key->sha256) == 0)
            return true;
    return false;
}

static void remember_missed(SSL *ssl, const struct tls_pin *key) {
    char *text = mem_zalloc(TLS_PIN_TEXT_SIZE);
    tls_pin_print(key, text);
    free(SSL_get_ex_data(ssl, of_ssl));
    NEED(SSL_set_ex_data(ssl, of_ssl, text) == 1);
}

/* In the place of OpenSSL's own verification: the chain is asked first, when it counts too, so that
 * its words are the ones that are seen. */
static int verify(X509_STORE_CTX *store, void *arg) {
    (void)arg;
    SSL *ssl = X509_STORE_CTX_get_ex_data(store, SSL_get_ex_data_X509_STORE_CTX_idx());
    const struct pins *p = SSL_CTX_get_ex_data(SSL_get_SSL_CTX(ssl), of_ctx);
    X509 *leaf = X509_STORE_CTX_get0_cert(store);
    struct tls_pin key;
    if (!(p->is_alone ? tls_chain_is_whole(store) : tls_chain_verify(store) == 1))
        return 0;
    if (!key_of(leaf, &key)) {
        X509_STORE_CTX_set_error(store, X509_V_ERR_OUT_OF_MEM);
        return 0;
    }
    if (!is_pinned(p, &key)) {
        remember_missed(ssl, &key);
        X509_STORE_CTX_set_error(store, X509_V_ERR_APPLICATION_VERIFICATION);
        return 0;
    }
    X509_STORE_CTX_set_error(store, X509_V_OK);
    return 1;
}

bool tls_pin_install(SSL_CTX *ctx, const struct tls_pin *pins, size_t count, bool is_alone) {
    pthread_once(&once, register_places);
    struct pins *p = mem_zalloc(sizeof *p + count * sizeof *pins);
    p->is_alone = is_alone;
    p->count = count;
    memcpy(p->pin, pins, count * sizeof *pins);
    if (SSL_CTX_set_ex_data(ctx, of_ctx, p) != 1) {
        free(p);
        return false;
    }
    SSL_CTX_set_cert_verify_callback(ctx, verify, NULL);
    return true;
}

static const struct pins *pins_of(const SSL *ssl) {
    pthread_once(&once, register_places); /* a reload may be about to make the first pin */
    return SSL_CTX_get_ex_data(SSL_get_SSL_CTX(ssl), of_ctx);
}

bool tls_pin_is_alone(const SSL *ssl) {
    const struct pins *p = pins_of(ssl);
    return p && p->is_alone;
}

const char *tls_pin_missed(const SSL *ssl) {
    pthread_once(&once, register_places);
    return SSL_get_ex_data(ssl, of_ssl);
}
