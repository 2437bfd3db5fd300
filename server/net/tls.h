/* tls: OpenSSL contexts, what a peer must prove, and what was agreed. TLS 1.2 at least. A context
 * is made once, refcounted, and shared by the streams of all loops. Thread: any (contexts
 * immutable). */
#pragma once

#include "server/base/arena.h"
#include "server/mail/outcome.h"
#include "server/net/tls_pin.h"

/* How much a TLS peer must prove before the stream is good (T7). DANE and MTA-STS levels come with
 * their rooms. */
enum tls_verify {
    TLS_VERIFY_NONE, /* encrypt only; what the peer could have proved is still in tls_info */
    TLS_VERIFY_NAME, /* chain to a trusted root, name matches, in date; and a pin, when there are
                        some, or only that */
};

struct tls_client_ctx;
struct tls_client_options {
    const char *ca_file;                   /* NULL: the system's store */
    const struct tls_client_ctx *roots_of; /* those of this one, instead; NULL: as above */
    const struct tls_pin *pin;             /* copied; the peer's key must be one of them */
    size_t pin_count;
    bool is_pin_alone; /* that is enough: chain, name and dates are not asked */
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
/* For a server that another library makes: PEM texts, each certificate of the chain readable, the
 * key readable and that of the first. ERR_INVALID names tls_cert or tls_key; ERR_UNAVAILABLE: out
 * of memory. */
NODISCARD enum err tls_pem_check(const char *cert, const char *key, struct errinfo *info);
struct tls_server_ctx *tls_server_ctx_ref(struct tls_server_ctx *c);
void tls_server_ctx_unref(struct tls_server_ctx **cp);

struct tls_info {
    char version[16]; /* "TLSv1.3"; "" while in clear */
    char cipher[64];
    bool is_verified;  /* it proved what TLS_VERIFY_NAME wants, whether or not that was asked */
    char problem[160]; /* why is_verified is false, OpenSSL's words */
};

/* One connection's state, for stream only, which hands it to libevent. */
struct ssl_st;
/* `name` is what the certificate must carry (in a SAN; the subject is not looked at, RFC 9525 2)
 * and the SNI; an IP address is checked as such and sends no SNI. NULL: no name to check, so the
 * peer is never verified. NULL is returned when OpenSSL has no memory. */
struct ssl_st *tls_client_session(struct tls_client_ctx *c, enum tls_verify verify,
                                  const char *name);
struct ssl_st *tls_server_session(struct tls_server_ctx *c);
void tls_session_free(struct ssl_st *ssl);
void tls_session_info(const struct ssl_st *ssl, struct tls_info *out);
/* Why a handshake failed. `error` is a code of OpenSSL's queue, 0: none. `text` is filled. */
enum failure tls_session_failure(const struct ssl_st *ssl, unsigned long error, char *text,
                                 size_t size);
/* No memory: the peer has done nothing. */
bool tls_error_is_ours(unsigned long error);
/* What libevent puts before the queue's: here it is all there is, and errno tells more. */
bool tls_error_is_of_socket(unsigned long error);
/* The words for a code of OpenSSL's queue, cut to fit. */
void tls_error_text(unsigned long error, char *text, size_t size);
/* Says close_notify; to be called once nothing waits to be written. */
void tls_session_end(struct ssl_st *ssl);
/* What was decrypted or can be without waiting; for a connection whose writing side has failed.
 * Returns how many bytes were put into `p`, 0: no more. */
size_t tls_session_salvage(struct ssl_st *ssl, void *p, size_t n);
