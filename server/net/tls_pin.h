/* tls_pin: a peer that is known by its public key (SPKI), not, or not only, by an authority.
 *
 * A pin is the SHA-256 of the key's SubjectPublicKeyInfo (RFC 7469 2.4), so it outlives renewals of
 * the certificate with the same key. Alone it authenticates, like DANE-EE (RFC 7671 5.1): names,
 * dates and authorities are not looked at. Or it is asked for in addition to them.
 *
 *     struct tls_pin p;
 *     if (!tls_pin_parse(STR("sha256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="), &p)) ...
 *     tls_client_ctx_new(&(struct tls_client_options){.pin = &p, .pin_count = 1,
 *                                                     .is_pin_alone = true}, &ctx, &info);
 *
 * Thread: any.
 */
#pragma once

#include "server/base/str.h"

enum { TLS_PIN_TEXT_SIZE = 64 };

struct tls_pin {
    uint8_t sha256[32];
};

/* "sha256:" and then base64 (44 characters) or hex (64, either case). */
NODISCARD bool tls_pin_parse(struct str text, struct tls_pin *out);
/* The other way, in base64: as error texts show it, for people to paste. */
void tls_pin_print(const struct tls_pin *p, char out[TLS_PIN_TEXT_SIZE]);

/* ---- for tls only ---- */

struct ssl_st;
struct ssl_ctx_st;
/* Puts the pins into a context; they live as long as it does, sessions included. */
NODISCARD bool tls_pin_install(struct ssl_ctx_st *ctx, const struct tls_pin *pins, size_t count,
                               bool is_alone);
/* Nothing but a pin is asked of the peer: no name has to fit. */
bool tls_pin_is_alone(const struct ssl_st *ssl);
/* The key that the peer showed and that no pin fits, as text; NULL: it was not for that. */
const char *tls_pin_missed(const struct ssl_st *ssl);
