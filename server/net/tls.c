#include "server/net/tls.h"

#include <arpa/inet.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <stdatomic.h>

#include "server/base/random.h"
#include "server/net/tls_bound.h"
#include "server/net/tls_chain.h"

/* Both kinds are the same thing inside. Thread: immutable, refcounted. */
struct tls_client_ctx {
    SSL_CTX *ctx;
    atomic_uint refs;
};
struct tls_server_ctx {
    SSL_CTX *ctx;
    atomic_uint refs;
};

/* The first error of the queue is the cause; those after it only repeat it further up. */
static enum err fail(struct errinfo *info, enum err e, const char *what) {
    unsigned long code = ERR_get_error();
    const char *reason = code ? ERR_reason_error_string(code) : NULL;
    char text[256];
    if (code && !reason) {
        ERR_error_string_n(code, text, sizeof text);
        reason = text;
    }
    ERR_clear_error();
    return err_set(info, e, "tls", "%s: %s", what, reason ? reason : "unknown reason");
}

/* A key with a passphrase must fail; OpenSSL's own callback would ask the terminal. */
static int no_passphrase(char *buf, int size, int writing, void *arg) {
    (void)buf, (void)size, (void)writing, (void)arg;
    return 0;
}

static SSL_CTX *make_ctx(const SSL_METHOD *method) {
    SSL_CTX *ctx = SSL_CTX_new(method);
    if (!ctx)
        return NULL;
    /* a bare FIN is how most MTAs end; SMTP's own framing notices what was cut */
    SSL_CTX_set_options(ctx, SSL_OP_IGNORE_UNEXPECTED_EOF | SSL_OP_NO_RENEGOTIATION |
                                 SSL_OP_NO_COMPRESSION | SSL_OP_NO_TICKET);
    SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF);
    SSL_CTX_set_mode(ctx, SSL_MODE_RELEASE_BUFFERS);
    SSL_CTX_set_num_tickets(ctx, 0); /* nothing is resumed */
    SSL_CTX_set_default_passwd_cb(ctx, no_passphrase);
    tls_bound(ctx);
    if (SSL_CTX_set_min_proto_version(ctx, TLS1_2_VERSION) != 1) {
        SSL_CTX_free(ctx);
        return NULL;
    }
    return ctx;
}

enum err tls_client_ctx_new(const struct tls_client_options *o, struct tls_client_ctx **out,
                            struct errinfo *info) {
    *out = NULL;
    ERR_clear_error();
    SSL_CTX *ctx = make_ctx(TLS_client_method());
    if (!ctx)
        return fail(info, ERR_INTERNAL, "cannot make a context");
    if (o && o->roots_of) {
        SSL_CTX_set1_cert_store(ctx, SSL_CTX_get_cert_store(o->roots_of->ctx));
    } else if (o && o->ca_file) {
        if (SSL_CTX_load_verify_locations(ctx, o->ca_file, NULL) != 1) {
            SSL_CTX_free(ctx);
            return fail(info, ERR_INVALID, o->ca_file);
        }
    } else if (SSL_CTX_set_default_verify_paths(ctx) != 1) {
        SSL_CTX_free(ctx);
        return fail(info, ERR_INTERNAL, "cannot use the system's certificates");
    }
    tls_chain_install(ctx);
    if (o && o->pin_count > 0 && !tls_pin_install(ctx, o->pin, o->pin_count, o->is_pin_alone)) {
        SSL_CTX_free(ctx);
        return fail(info, ERR_INTERNAL, "cannot keep a pin");
    }
    ERR_clear_error(); /* a system without certificates is no error, only nobody verifies */
    struct tls_client_ctx *c = mem_zalloc(sizeof *c);
    c->ctx = ctx;
    atomic_init(&c->refs, 1);
    *out = c;
    return OK;
}

struct tls_client_ctx *tls_client_ctx_ref(struct tls_client_ctx *c) {
    atomic_fetch_add_explicit(&c->refs, 1, memory_order_relaxed);
    return c;
}

void tls_client_ctx_unref(struct tls_client_ctx **cp) {
    struct tls_client_ctx *c = *cp;
    *cp = NULL;
    if (!c || atomic_fetch_sub_explicit(&c->refs, 1, memory_order_acq_rel) != 1)
        return;
    SSL_CTX_free(c->ctx);
    free(c);
}

static struct tls_server_ctx *wrap_server(SSL_CTX *ctx) {
    struct tls_server_ctx *c = mem_zalloc(sizeof *c);
    c->ctx = ctx;
    atomic_init(&c->refs, 1);
    return c;
}

enum err tls_server_ctx_new_files(const char *cert_file, const char *key_file,
                                  struct tls_server_ctx **out, struct errinfo *info) {
    *out = NULL;
    ERR_clear_error();
    SSL_CTX *ctx = make_ctx(TLS_server_method());
    if (!ctx)
        return fail(info, ERR_INTERNAL, "cannot make a context");
    enum err e = OK;
    if (SSL_CTX_use_certificate_chain_file(ctx, cert_file) != 1)
        e = fail(info, ERR_INVALID, cert_file);
    else if (SSL_CTX_use_PrivateKey_file(ctx, key_file, SSL_FILETYPE_PEM) != 1)
        e = fail(info, ERR_INVALID, key_file); /* says too when it is another certificate's key */
    else if (SSL_CTX_check_private_key(ctx) != 1)
        e = fail(info, ERR_INVALID, key_file);
    if (e != OK) {
        SSL_CTX_free(ctx);
        return e;
    }
    *out = wrap_server(ctx);
    return OK;
}

/* How many there are; 0: one of them is not readable, or there is none. *first: the caller's. */
static size_t read_chain(BIO *in, X509 **first) {
    size_t n = 0;
    X509 *x;
    while ((x = PEM_read_bio_X509(in, NULL, no_passphrase, NULL)) != NULL) {
        if (n++ == 0)
            *first = x;
        else
            X509_free(x);
    }
    bool is_end = ERR_GET_REASON(ERR_peek_last_error()) == PEM_R_NO_START_LINE;
    return is_end ? n : 0;
}

/* Is that why the last call failed? Whoever cannot even note its error says nothing. */
static bool lacked_memory(void) {
    unsigned long code = ERR_peek_error();
    bool is_so = code == 0;
    for (; code != 0 && !is_so; code = ERR_get_error())
        is_so = ERR_GET_REASON(code) == ERR_R_MALLOC_FAILURE;
    return is_so;
}

static enum err unreadable(struct errinfo *info, const char *field, const char *why) {
    return lacked_memory() ? err_set(info, ERR_UNAVAILABLE, field, "out of memory")
                           : err_set(info, ERR_INVALID, field, "%s", why);
}

static enum err check_pem(BIO *chain, BIO *secret, X509 **first, EVP_PKEY **pkey,
                          struct errinfo *info) {
    if (chain == NULL || secret == NULL)
        return err_set(info, ERR_UNAVAILABLE, "tls_cert", "out of memory");
    if (read_chain(chain, first) == 0)
        return unreadable(info, "tls_cert",
                          "this is no chain of certificates in PEM that can be read");
    ERR_clear_error();
    *pkey = PEM_read_bio_PrivateKey(secret, NULL, no_passphrase, NULL);
    if (*pkey == NULL)
        return unreadable(info, "tls_key",
                          "this is no private key in PEM, without a passphrase, that can be read");
    ERR_clear_error();
    if (X509_check_private_key(*first, *pkey) != 1)
        return unreadable(info, "tls_key", "this is not the key of the certificate");
    return OK;
}

static enum err check_pem_once(const char *cert, const char *key, struct errinfo *info) {
    ERR_clear_error();
    BIO *chain = BIO_new_mem_buf(cert, -1), *secret = BIO_new_mem_buf(key, -1);
    X509 *first = NULL;
    EVP_PKEY *pkey = NULL;
    enum err e = check_pem(chain, secret, &first, &pkey, info);
    ERR_clear_error();
    EVP_PKEY_free(pkey);
    X509_free(first);
    BIO_free(secret);
    BIO_free(chain);
    return e;
}

enum err tls_pem_check(const char *cert, const char *key, struct errinfo *info) {
    enum err e = check_pem_once(cert, key, info);
    /* the library keeps some failures of its memory to itself, which then look like wrong files */
    return e == ERR_INVALID ? check_pem_once(cert, key, info) : e;
}

static bool is_ip(const char *name) {
    struct in6_addr addr;
    return inet_pton(AF_INET, name, &addr) == 1 || inet_pton(AF_INET6, name, &addr) == 1;
}

static bool add_extension(X509 *x, int nid, const char *value) {
    X509V3_CTX v3;
    X509V3_set_ctx_nodb(&v3);
    X509V3_set_ctx(&v3, x, x, NULL, NULL, 0);
    X509_EXTENSION *ext = X509V3_EXT_conf_nid(NULL, &v3, nid, value);
    bool ok = ext && X509_add_ext(x, ext, -1) == 1;
    X509_EXTENSION_free(ext);
    return ok;
}

static bool set_serial(X509 *x) {
    unsigned char raw[16];
    random_bytes(raw, sizeof raw);
    raw[0] = (unsigned char)((raw[0] & 0x7f) | 0x40); /* positive, never zero (RFC 5280 4.1.2.2) */
    BIGNUM *n = BN_bin2bn(raw, sizeof raw, NULL);
    bool ok = n && BN_to_ASN1_INTEGER(n, X509_get_serialNumber(x));
    BN_free(n);
    return ok;
}

static X509 *make_selfsigned(EVP_PKEY *key, const char *name) {
    char san[300];
    int n = snprintf(san, sizeof san, "%s:%s", is_ip(name) ? "IP" : "DNS", name);
    if (n < 0 || (size_t)n >= sizeof san)
        return NULL;
    X509 *x = X509_new();
    if (!x)
        return NULL;
    X509_NAME *subject = X509_get_subject_name(x);
    size_t cn = strlen(name);
    bool ok =
        X509_set_version(x, X509_VERSION_3) == 1 && set_serial(x) &&
        X509_gmtime_adj(X509_getm_notBefore(x), -24L * 3600) &&
        X509_gmtime_adj(X509_getm_notAfter(x), 3650L * 24 * 3600) && X509_set_pubkey(x, key) == 1 &&
        /* a common name holds 64 characters at most; the SAN is what counts */
        X509_NAME_add_entry_by_txt(subject, "CN", MBSTRING_UTF8, (const unsigned char *)name,
                                   (int)(cn < 64 ? cn : 64), -1, 0) == 1 &&
        X509_set_issuer_name(x, subject) == 1 && add_extension(x, NID_subject_alt_name, san) &&
        add_extension(x, NID_basic_constraints, "critical,CA:FALSE") &&
        add_extension(x, NID_ext_key_usage, "serverAuth") && X509_sign(x, key, EVP_sha256()) > 0;
    if (!ok) {
        X509_free(x);
        return NULL;
    }
    return x;
}

enum err tls_server_ctx_new_selfsigned(const char *name, struct tls_server_ctx **out,
                                       struct errinfo *info) {
    enum err e = OK;
    X509 *cert = NULL;
    SSL_CTX *ctx = NULL;
    *out = NULL;
    ERR_clear_error();
    /* ',' and ':' would be syntax in the extension's text */
    if (name[0] == 0 || (strpbrk(name, ",:\r\n ") && !is_ip(name)))
        return err_set(info, ERR_INVALID, "tls", "not a name for a certificate");
    EVP_PKEY *key = EVP_EC_gen("P-256");
    if (!key) {
        e = fail(info, ERR_INTERNAL, "cannot make a key");
        goto out;
    }
    cert = make_selfsigned(key, name);
    ctx = cert ? make_ctx(TLS_server_method()) : NULL;
    if (!ctx || SSL_CTX_use_certificate(ctx, cert) != 1 || SSL_CTX_use_PrivateKey(ctx, key) != 1) {
        e = fail(info, ERR_INTERNAL, "cannot make a self-signed certificate");
        goto out;
    }
    *out = wrap_server(ctx);
    ctx = NULL;
out:
    SSL_CTX_free(ctx);
    X509_free(cert);
    EVP_PKEY_free(key);
    return e;
}

struct tls_server_ctx *tls_server_ctx_ref(struct tls_server_ctx *c) {
    atomic_fetch_add_explicit(&c->refs, 1, memory_order_relaxed);
    return c;
}

void tls_server_ctx_unref(struct tls_server_ctx **cp) {
    struct tls_server_ctx *c = *cp;
    *cp = NULL;
    if (!c || atomic_fetch_sub_explicit(&c->refs, 1, memory_order_acq_rel) != 1)
        return;
    SSL_CTX_free(c->ctx);
    free(c);
}

/* Whether a name was there to be checked; without one a good chain proves nothing. */
static bool has_name(const SSL *ssl) {
    X509_VERIFY_PARAM *param = SSL_get0_param((SSL *)(uintptr_t)ssl);
    return X509_VERIFY_PARAM_get0_host(param, 0) || SSL_get_ex_data(ssl, 0);
}

SSL *tls_client_session(struct tls_client_ctx *c, enum tls_verify verify, const char *name) {
    ERR_clear_error();
    SSL *ssl = SSL_new(c->ctx);
    if (!ssl)
        return NULL;
    X509_VERIFY_PARAM *param = SSL_get0_param(ssl);
    bool ok = true;
    if (name && is_ip(name)) {
        /* ex_data 0 is the application's: marks that there is a name to check */
        ok = X509_VERIFY_PARAM_set1_ip_asc(param, name) == 1 &&
             SSL_set_ex_data(ssl, 0, (void *)(uintptr_t)1) == 1;
    } else if (name && *name) {
        X509_VERIFY_PARAM_set_hostflags(param, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS |
                                                   X509_CHECK_FLAG_NEVER_CHECK_SUBJECT);
        ok = SSL_set1_host(ssl, name) == 1 && SSL_set_tlsext_host_name(ssl, name) == 1;
    }
    if (!ok) {
        SSL_free(ssl);
        return NULL;
    }
    if (verify == TLS_VERIFY_NONE) {
        /* the chain is looked at all the same, and the result kept. Weak keys of a peer that proves
         * nothing are still better than clear text, so OpenSSL's level of today is not asked. */
        SSL_set_verify(ssl, SSL_VERIFY_NONE, NULL);
        SSL_set_security_level(ssl, 1);
    } else {
        SSL_set_verify(ssl, SSL_VERIFY_PEER, NULL);
    }
    return ssl;
}

SSL *tls_server_session(struct tls_server_ctx *c) {
    ERR_clear_error();
    return SSL_new(c->ctx);
}

void tls_session_free(SSL *ssl) {
    SSL_free(ssl);
}

void tls_session_info(const SSL *ssl, struct tls_info *out) {
    *out = (struct tls_info){0};
    snprintf(out->version, sizeof out->version, "%s", SSL_get_version(ssl));
    snprintf(out->cipher, sizeof out->cipher, "%s", SSL_get_cipher_name(ssl));
    const char *problem = NULL;
    long result = SSL_get_verify_result(ssl);
    if (SSL_is_server(ssl))
        problem = "the client was not asked for a certificate";
    else if (!SSL_get0_peer_certificate(ssl))
        problem = "no certificate";
    else if (tls_pin_missed(ssl))
        problem = failure_text(FAILURE_TLS_PIN);
    else if (result != X509_V_OK)
        problem = X509_verify_cert_error_string(result);
    else if (!has_name(ssl) && !tls_pin_is_alone(ssl))
        problem = "no name to check";
    out->is_verified = problem == NULL;
    snprintf(out->problem, sizeof out->problem, "%s", problem ? problem : "");
}

static enum failure failure_of_verify(long result) {
    switch (result) {
    case X509_V_ERR_HOSTNAME_MISMATCH:
    case X509_V_ERR_IP_ADDRESS_MISMATCH:
        return FAILURE_TLS_NAME;
    case X509_V_ERR_CERT_HAS_EXPIRED:
    case X509_V_ERR_CERT_NOT_YET_VALID:
        return FAILURE_TLS_EXPIRED;
    case X509_V_ERR_OUT_OF_MEM:
        return FAILURE_SHORT;
    default:
        return FAILURE_TLS_UNTRUSTED;
    }
}

/* Not the library's other fatal reasons: a peer's key that no secret can be agreed with is one. */
bool tls_error_is_ours(unsigned long error) {
    return error != 0 && ERR_GET_REASON(error) == ERR_R_MALLOC_FAILURE;
}

bool tls_error_is_of_socket(unsigned long error) {
    return error == SSL_ERROR_SYSCALL;
}

enum failure tls_session_failure(const SSL *ssl, unsigned long error, char *text, size_t size) {
    long result = SSL_get_verify_result(ssl);
    const char *missed = tls_pin_missed(ssl);
    if (missed && SSL_get_verify_mode(ssl) != SSL_VERIFY_NONE) {
        snprintf(text, size, "%s: it showed %s", failure_text(FAILURE_TLS_PIN), missed);
        return FAILURE_TLS_PIN;
    }
    bool is_asked = SSL_get_verify_mode(ssl) != SSL_VERIFY_NONE || result == X509_V_ERR_OUT_OF_MEM;
    if (!SSL_is_server(ssl) && is_asked && result != X509_V_OK) {
        snprintf(text, size, "certificate: %s", X509_verify_cert_error_string(result));
        return failure_of_verify(result);
    }
    const char *reason = error ? ERR_reason_error_string(error) : NULL;
    snprintf(text, size, "TLS handshake failed: %s",
             reason ? reason : "the peer ended the connection");
    return tls_error_is_ours(error) ? FAILURE_SHORT : FAILURE_TLS_HANDSHAKE;
}

void tls_error_text(unsigned long error, char *text, size_t size) {
    const char *reason = ERR_reason_error_string(error);
    if (reason)
        snprintf(text, size, "%s", reason);
    else
        ERR_error_string_n(error, text, size);
}

void tls_session_end(SSL *ssl) {
    ERR_clear_error();
    SSL_set_shutdown(ssl, SSL_RECEIVED_SHUTDOWN); /* we do not wait for the peer's */
    SSL_shutdown(ssl);
    ERR_clear_error();
}

size_t tls_session_salvage(SSL *ssl, void *p, size_t n) {
    size_t got = 0;
    ERR_clear_error();
    int r = SSL_read_ex(ssl, p, n, &got);
    ERR_clear_error();
    return r == 1 ? got : 0;
}
