/* tls: OpenSSL contexts, what a peer must prove, and what was agreed. TLS 1.2 at least. A context
 * is made once, refcounted, and shared by the streams of all loops. Thread: any (contexts
 * immutable). */
#pragma once

#include "server/base/arena.h"
#include "server/mail/outcome.h"

/* How much a TLS peer must prove before the stream is good (T7). DANE and MTA-STS levels come with
 * their rooms. */
enum tls_verify {
    TLS_VERIFY_NONE, /* encrypt only */
    TLS_VERIFY_NAME, /* chain to a trusted root, name matches, in date */
};

struct tls_client_ctx;
struct tls_client_options {
    const char *ca_file; /* NULL: the system's store */
};
NODISCARD enum err tls_client_ctx_new(const struct tls_client_options *o,
                                      struct tls_client_ctx **out, struct errinfo *info);
struct tls_client_ctx *tls_client_ctx_ref(struct tls_client_ctx *c);
void tls_client_ctx_unref(struct tls_client_ctx **cp);

struct tls_server_ctx;
/* PEM files; checked to fit together. */
NODISCARD enum err tls_server_ctx_new_files(const char *cert_file, const char *key_file,
                                            struct tls_server_ctx **out, struct errinfo *info);
/* A fresh self-signed P-256 certificate for `name`, in memory only (the sandbox receiver). */
NODISCARD enum err tls_server_ctx_new_selfsigned(const char *name, struct tls_server_ctx **out,
                                                 struct errinfo *info);
struct tls_server_ctx *tls_server_ctx_ref(struct tls_server_ctx *c);
void tls_server_ctx_unref(struct tls_server_ctx **cp);

struct tls_info {
    char version[16]; /* "TLSv1.3"; "" while in clear */
    char cipher[64];
    bool is_verified;  /* chain, name and dates were good, whether or not that was asked */
    char problem[160]; /* why is_verified is false, OpenSSL's words */
};
