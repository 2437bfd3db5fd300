#include "server/mail/dkim_key.h"

#include <errno.h>
#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <stdatomic.h>

#include "server/base/base64.h"
#include "server/base/digest.h"

enum {
    RSA_BITS_MADE = 2048,
    RSA_BITS_MIN = 1024, /* RFC 8301 3.2 */
    RSA_BITS_MAX = 4096, /* what verifiers must take, RFC 8301 3.2 */
    PEM_BYTES_MAX = 16 * 1024,
    ED25519_BYTES = 32
};

struct dkim_key {
    atomic_uint refs;
    enum dkim_algorithm algorithm;
    EVP_PKEY *pkey;
    /* Ready to sign, copied for each signature: making one walks the providers, which takes a tenth
     * of an Ed25519 signature. NULL: no memory. Of many threads at once, none of which changes it.
     */
    EVP_MD_CTX *ready;
};

const char *dkim_algorithm_name(enum dkim_algorithm a) {
    return a == DKIM_RSA_SHA256 ? "rsa-sha256" : "ed25519-sha256";
}

static struct dkim_key *key_new(enum dkim_algorithm algorithm, EVP_PKEY *pkey) {
    struct dkim_key *k = mem_zalloc(sizeof *k);
    atomic_init(&k->refs, 1);
    k->algorithm = algorithm;
    k->pkey = pkey;
    const EVP_MD *md = algorithm == DKIM_RSA_SHA256 ? EVP_sha256() : NULL;
    k->ready = EVP_MD_CTX_new();
    if (k->ready && EVP_DigestSignInit(k->ready, NULL, md, NULL, pkey) != 1) {
        EVP_MD_CTX_free(k->ready);
        k->ready = NULL;
    }
    return k;
}

static enum err openssl_failed(struct errinfo *info, const char *what) {
    char text[160];
    ERR_error_string_n(ERR_get_error(), text, sizeof text);
    ERR_clear_error();
    return err_set(info, ERR_INTERNAL, "dkim_key", "%s: %s", what, text);
}

enum err dkim_key_generate(enum dkim_algorithm algorithm, struct dkim_key **out,
                           struct errinfo *info) {
    EVP_PKEY *pkey = algorithm == DKIM_RSA_SHA256
                         ? EVP_PKEY_Q_keygen(NULL, NULL, "RSA", (size_t)RSA_BITS_MADE)
                         : EVP_PKEY_Q_keygen(NULL, NULL, "ED25519");
    if (!pkey)
        return openssl_failed(info, "no key could be made");
    struct dkim_key *k = key_new(algorithm, pkey);
    if (!k->ready) {
        dkim_key_unref(&k);
        return openssl_failed(info, "no key could be made");
    }
    *out = k;
    return OK;
}

/* An encrypted key is refused; without this OpenSSL asks on the terminal. */
static int no_password(char *text, int size, int is_writing, void *context) {
    (void)text, (void)size, (void)is_writing, (void)context;
    return -1;
}

/* A private half that does not fit its public half would sign mail that nobody can verify. */
static bool is_pair(const struct dkim_key *k) {
    struct buf signature = BUF_INIT(1024);
    unsigned char hash[SHA256_BYTES];
    struct str data = STR("a pair");
    digest_sha256(data, hash);
    bool is_rsa = k->algorithm == DKIM_RSA_SHA256, ok = false;
    EVP_MD_CTX *ctx = EVP_MD_CTX_new();
    if (ctx && dkim_key_sign(k, data, &signature) == OK &&
        EVP_DigestVerifyInit(ctx, NULL, is_rsa ? EVP_sha256() : NULL, NULL, k->pkey) == 1)
        ok = EVP_DigestVerify(ctx, (const unsigned char *)signature.p, signature.n,
                              is_rsa ? (const unsigned char *)data.p : hash,
                              is_rsa ? data.n : sizeof hash) == 1;
    EVP_MD_CTX_free(ctx);
    buf_release(&signature);
    return ok;
}

static enum err parse_pem(struct str pem, struct dkim_key **out, struct errinfo *info) {
    if (pem.n == 0 || pem.n > PEM_BYTES_MAX)
        return err_set(info, ERR_INVALID, "dkim_key", "this is no private key in PEM form");
    BIO *bio = BIO_new_mem_buf(pem.p, (int)pem.n);
    EVP_PKEY *pkey = bio ? PEM_read_bio_PrivateKey(bio, NULL, no_password, NULL) : NULL;
    BIO_free(bio);
    ERR_clear_error(); /* its texts may quote the input */
    if (!pkey)
        return err_set(info, ERR_INVALID, "dkim_key",
                       "this is no private key in PEM form without a passphrase");
    struct dkim_key *k = NULL;
    enum err e = OK;
    if (EVP_PKEY_is_a(pkey, "RSA")) {
        int bits = EVP_PKEY_get_bits(pkey);
        if (bits < RSA_BITS_MIN || bits > RSA_BITS_MAX)
            e = err_set(info, ERR_INVALID, "dkim_key",
                        "the RSA key has %d bits; %d to %d are allowed (RFC 8301)", bits,
                        RSA_BITS_MIN, RSA_BITS_MAX);
        else
            k = key_new(DKIM_RSA_SHA256, pkey);
    } else if (EVP_PKEY_is_a(pkey, "ED25519")) {
        k = key_new(DKIM_ED25519_SHA256, pkey);
    } else {
        e = err_set(info, ERR_INVALID, "dkim_key", "the key is neither RSA nor Ed25519");
    }
    if (!k) {
        EVP_PKEY_free(pkey);
        return e;
    }
    if (!is_pair(k)) {
        dkim_key_unref(&k);
        return err_set(info, ERR_INVALID, "dkim_key",
                       "the private key does not fit the public key beside it");
    }
    *out = k;
    return OK;
}

/* Whatever the library got no memory for looks to it like something wrong with the key, and its
 * queue of errors may not say so. */
enum err dkim_key_parse_pem(struct str pem, struct dkim_key **out, struct errinfo *info) {
    errno = 0;
    enum err e = parse_pem(pem, out, info);
    bool lacked_memory = errno == ENOMEM;
    ERR_clear_error();
    return e == ERR_INVALID && lacked_memory
               ? err_set(info, ERR_UNAVAILABLE, "dkim_key", "no memory to read the key")
               : e;
}

struct dkim_key *dkim_key_ref(struct dkim_key *k) {
    atomic_fetch_add_explicit(&k->refs, 1, memory_order_relaxed);
    return k;
}

void dkim_key_unref(struct dkim_key **kp) {
    struct dkim_key *k = *kp;
    *kp = NULL;
    if (!k || atomic_fetch_sub_explicit(&k->refs, 1, memory_order_acq_rel) != 1)
        return;
    EVP_MD_CTX_free(k->ready);
    EVP_PKEY_free(k->pkey); /* wipes the private half */
    free(k);
}

enum dkim_algorithm dkim_key_algorithm(const struct dkim_key *k) {
    return k->algorithm;
}

void dkim_key_print_pem(const struct dkim_key *k, struct buf *out) {
    /* memory that OpenSSL wipes when it is freed */
    BIO *bio = BIO_new(BIO_s_secmem());
    char *text = NULL;
    NEED(bio && PEM_write_bio_PKCS8PrivateKey(bio, k->pkey, NULL, NULL, 0, NULL, NULL) == 1);
    long n = BIO_get_mem_data(bio, &text);
    ASSERT(n > 0);
    buf_put(out, str_make(text, (size_t)n));
    OPENSSL_cleanse(text, (size_t)n);
    BIO_free(bio);
}

void dkim_key_print_record(const struct dkim_key *k, struct buf *out) {
    unsigned char *der = NULL;
    unsigned char raw[ED25519_BYTES];
    if (k->algorithm == DKIM_RSA_SHA256) { /* RFC 6376 3.6.1: SubjectPublicKeyInfo, as is usual */
        int n = i2d_PUBKEY(k->pkey, &der);
        NEED(n > 0);
        buf_putz(out, "v=DKIM1; k=rsa; p=");
        base64_encode(str_make(der, (size_t)n), out);
        OPENSSL_free(der);
    } else { /* RFC 8463 4.2: the 32 octets themselves */
        size_t n = sizeof raw;
        NEED(EVP_PKEY_get_raw_public_key(k->pkey, raw, &n) == 1 && n == sizeof raw);
        buf_putz(out, "v=DKIM1; k=ed25519; p=");
        base64_encode(str_make(raw, n), out);
    }
}

enum err dkim_key_sign(const struct dkim_key *k, struct str data, struct buf *out) {
    unsigned char hash[SHA256_BYTES];
    enum err e = ERR_INTERNAL;
    size_t n = (size_t)EVP_PKEY_get_size(k->pkey);
    EVP_MD_CTX *ctx = EVP_MD_CTX_new();
    if (k->algorithm == DKIM_ED25519_SHA256) { /* RFC 8463 3: PureEdDSA over the SHA-256 hash */
        digest_sha256(data, hash);
        data = str_make(hash, sizeof hash);
    }
    if (!ctx || !k->ready || EVP_MD_CTX_copy_ex(ctx, k->ready) != 1)
        goto out;
    const unsigned char *in = (const unsigned char *)data.p;
    unsigned char *to = (unsigned char *)buf_reserve(out, n);
    if (!to) {
        e = buf_status(out);
        goto out;
    }
    if (EVP_DigestSign(ctx, to, &n, in, data.n) != 1)
        goto out;
    buf_advance(out, n);
    e = OK;
out:
    if (e == ERR_INTERNAL)
        ERR_clear_error();
    EVP_MD_CTX_free(ctx);
    return e;
}
