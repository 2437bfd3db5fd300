/* certs: certificates for tests, made by OpenSSL in a temporary folder: a CA, and leaves that are
 * right or wrong in one way each. Every path is NUL-terminated; certs_free() deletes all. */
#pragma once

#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <stdbool.h>
#include <unistd.h>

struct certs {
    char dir[64];
    EVP_PKEY *ca_key;
    X509 *ca;
    long serial;
    char ca_file[128];
};

struct cert_files {
    char cert[160], key[160];
};

static inline void certs_check(bool ok, const char *what) {
    if (!ok) {
        fprintf(stderr, "certs: %s failed\n", what);
        abort();
    }
}

/* The text of a file, into `text`. */
static inline const char *certs_pem(const char *path, char *text, size_t size) {
    FILE *f = fopen(path, "r");
    certs_check(f != NULL, path);
    text[fread(text, 1, size - 1, f)] = 0;
    fclose(f);
    return text;
}

static inline void certs_extension(X509 *x, X509 *issuer, int nid, const char *value) {
    X509V3_CTX v3;
    X509V3_set_ctx(&v3, issuer, x, NULL, NULL, 0);
    X509_EXTENSION *e = X509V3_EXT_conf_nid(NULL, &v3, nid, value);
    certs_check(e && X509_add_ext(x, e, -1) == 1, value);
    X509_EXTENSION_free(e);
}

static inline X509 *certs_sign(struct certs *c, EVP_PKEY *key, const char *cn, const char *san,
                               long from_s, long until_s, bool self, bool ca) {
    X509 *x = X509_new();
    X509_set_version(x, 2);
    ASN1_INTEGER_set(X509_get_serialNumber(x), ++c->serial);
    X509_gmtime_adj(X509_getm_notBefore(x), from_s);
    X509_gmtime_adj(X509_getm_notAfter(x), until_s);
    X509_set_pubkey(x, key);
    X509_NAME *name = X509_get_subject_name(x);
    X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_UTF8, (const unsigned char *)cn, -1, -1, 0);
    X509_set_issuer_name(x, self ? name : X509_get_subject_name(c->ca));
    certs_extension(x, self ? x : c->ca, NID_basic_constraints,
                    ca ? "critical,CA:TRUE" : "critical,CA:FALSE");
    if (san)
        certs_extension(x, self ? x : c->ca, NID_subject_alt_name, san);
    certs_check(X509_sign(x, self ? key : c->ca_key, EVP_sha256()) > 0, "sign");
    return x;
}

static inline void certs_init(struct certs *c) {
    *c = (struct certs){.dir = "/tmp/postchute-certs-XXXXXX"};
    certs_check(mkdtemp(c->dir) != NULL, "mkdtemp");
    c->ca_key = EVP_EC_gen("P-256");
    c->ca = certs_sign(c, c->ca_key, "test CA", NULL, -3600, 86400, true, true);
    snprintf(c->ca_file, sizeof c->ca_file, "%s/ca.pem", c->dir);
    FILE *f = fopen(c->ca_file, "w");
    certs_check(f && PEM_write_X509(f, c->ca) == 1 && fclose(f) == 0, "write CA");
}

/* `san` as in "DNS:mx.example.test"; NULL: none. Times relative to now. */
static inline struct cert_files certs_issue(struct certs *c, const char *cn, const char *san,
                                            long from_s, long until_s, bool self) {
    struct cert_files out;
    EVP_PKEY *key = EVP_EC_gen("P-256");
    X509 *x = certs_sign(c, key, cn, san, from_s, until_s, self, false);
    snprintf(out.cert, sizeof out.cert, "%s/%ld.pem", c->dir, c->serial);
    snprintf(out.key, sizeof out.key, "%s/%ld.key", c->dir, c->serial);
    FILE *f = fopen(out.cert, "w");
    certs_check(f && PEM_write_X509(f, x) == 1 && fclose(f) == 0, "write certificate");
    f = fopen(out.key, "w");
    certs_check(f && PEM_write_PrivateKey(f, key, NULL, NULL, 0, NULL, NULL) == 1 && fclose(f) == 0,
                "write key");
    X509_free(x);
    EVP_PKEY_free(key);
    return out;
}

static inline void certs_free(struct certs *c) {
    char path[160];
    for (long i = 1; i <= c->serial; i++) {
        snprintf(path, sizeof path, "%s/%ld.pem", c->dir, i);
        unlink(path);
        snprintf(path, sizeof path, "%s/%ld.key", c->dir, i);
        unlink(path);
    }
    unlink(c->ca_file);
    rmdir(c->dir);
    X509_free(c->ca);
    EVP_PKEY_free(c->ca_key);
}
