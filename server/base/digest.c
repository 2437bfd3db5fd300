#include "server/base/digest.h"

#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/params.h>
#include <pthread.h>
#include <stdlib.h>

/* Nothing here can fail but for want of memory or a broken installation of the library: NEED. */

static EVP_MD *sha256;
static EVP_MAC_CTX *hmac_sha256; /* without a key; copied for each use */
static pthread_once_t fetch_once = PTHREAD_ONCE_INIT;

/* Fetching walks the providers under a lock; it is done once instead of in each call. */
static void fetch(void) {
    sha256 = EVP_MD_fetch(NULL, "SHA256", NULL);
    NEED(sha256 != NULL);
    EVP_MAC *hmac = EVP_MAC_fetch(NULL, "HMAC", NULL);
    NEED(hmac != NULL);
    hmac_sha256 = EVP_MAC_CTX_new(hmac);
    NEED(hmac_sha256 != NULL);
    EVP_MAC_free(hmac); /* the context holds it */
    char name[] = "SHA256";
    const OSSL_PARAM params[] = {
        OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_DIGEST, name, 0),
        OSSL_PARAM_construct_end(),
    };
    NEED(EVP_MAC_CTX_set_params(hmac_sha256, params) == 1);
}

void digest_sha256(struct str data, uint8_t out[SHA256_BYTES]) {
    pthread_once(&fetch_once, fetch);
    unsigned n = 0;
    NEED(EVP_Digest(data.p ? data.p : "", data.n, out, &n, sha256, NULL) == 1);
    ASSERT(n == SHA256_BYTES);
}

void digest_hmac_sha256(struct str key, struct str data, uint8_t out[SHA256_BYTES]) {
    digest_hmac_sha256_v(key, &data, 1, out);
}

void digest_hmac_sha256_v(struct str key, const struct str *pieces, size_t count,
                          uint8_t out[SHA256_BYTES]) {
    pthread_once(&fetch_once, fetch);
    EVP_MAC_CTX *mac = EVP_MAC_CTX_dup(hmac_sha256);
    NEED(mac != NULL);
    /* A NULL key would mean "the one set before". */
    const void *key_p = key.p ? key.p : "";
    NEED(EVP_MAC_init(mac, key_p, key.n, NULL) == 1);
    for (size_t i = 0; i < count; i++)
        if (pieces[i].n > 0)
            NEED(EVP_MAC_update(mac, (const unsigned char *)pieces[i].p, pieces[i].n) == 1);
    size_t n = 0;
    NEED(EVP_MAC_final(mac, out, &n, SHA256_BYTES) == 1);
    ASSERT(n == SHA256_BYTES);
    EVP_MAC_CTX_free(mac); /* wipes the key */
}

bool digest_equal(const void *a, const void *b, size_t n) {
    return n == 0 || CRYPTO_memcmp(a, b, n) == 0;
}

/* Pieces of a few octets are collected: each call of the library costs more than they do. */
struct sha256 {
    EVP_MD_CTX *md;
    size_t held;
    uint8_t bytes[256];
};

struct sha256 *sha256_new(void) {
    pthread_once(&fetch_once, fetch);
    struct sha256 *h = mem_zalloc(sizeof(*h));
    h->md = EVP_MD_CTX_new();
    NEED(h->md != NULL);
    NEED(EVP_DigestInit_ex2(h->md, sha256, NULL) == 1);
    return h;
}

static void put_held(struct sha256 *h) {
    if (h->held > 0)
        NEED(EVP_DigestUpdate(h->md, h->bytes, h->held) == 1);
    h->held = 0;
}

void sha256_put(struct sha256 *h, const void *p, size_t n) {
    if (n > sizeof(h->bytes) - h->held)
        put_held(h);
    if (n > sizeof(h->bytes)) {
        NEED(EVP_DigestUpdate(h->md, p, n) == 1);
    } else if (n > 0) {
        memcpy(h->bytes + h->held, p, n);
        h->held += n;
    }
}

void sha256_finish(struct sha256 **hp, uint8_t out[SHA256_BYTES]) {
    struct sha256 *h = *hp;
    unsigned n = 0;
    put_held(h);
    explicit_bzero(h->bytes, sizeof(h->bytes));
    NEED(EVP_DigestFinal_ex(h->md, out, &n) == 1);
    ASSERT(n == SHA256_BYTES);
    EVP_MD_CTX_free(h->md);
    free(h);
    *hp = NULL;
}
