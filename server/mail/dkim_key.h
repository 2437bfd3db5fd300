/* dkim_key: a DKIM key pair: made, read, written, and as the DNS record to publish (RFC 6376 3.6.1,
 * 8463). Refcounted, immutable. RSA: 2048 when made, at least 1024 accepted (T13). Private PEM text
 * is a secret: it is wiped where it is not kept. Thread: any. */
#pragma once

#include "server/base/buf.h"

enum dkim_algorithm { DKIM_RSA_SHA256, DKIM_ED25519_SHA256 };

struct dkim_key;
NODISCARD enum err dkim_key_generate(enum dkim_algorithm algorithm, struct dkim_key **out,
                                     struct errinfo *info);
/* ERR_INVALID: it is no key that can be used. ERR_UNAVAILABLE: there is no memory to read it. */
NODISCARD enum err dkim_key_parse_pem(struct str pem, struct dkim_key **out, struct errinfo *info);
struct dkim_key *dkim_key_ref(struct dkim_key *k);
void dkim_key_unref(struct dkim_key **kp);
enum dkim_algorithm dkim_key_algorithm(const struct dkim_key *k);
void dkim_key_print_pem(const struct dkim_key *k,
                        struct buf *out); /* PKCS#8, secret: buf_release_secret */
void dkim_key_print_record(const struct dkim_key *k, struct buf *out); /* "v=DKIM1; k=rsa; p=..." */
const char *dkim_algorithm_name(enum dkim_algorithm a);                /* "rsa-sha256" */
/* Signs `data` (raw signature bytes appended to out). */
NODISCARD enum err dkim_key_sign(const struct dkim_key *k, struct str data, struct buf *out);
