/* digest: hashes, MACs and the comparison of secrets. Thread: any. */
#pragma once

#include "server/base/str.h"

enum { SHA256_BYTES = 32, SHA256_HEX_SIZE = 65 };

void digest_sha256(struct str data, uint8_t out[SHA256_BYTES]);
void digest_hmac_sha256(struct str key, struct str data, uint8_t out[SHA256_BYTES]);
/* The same, over several pieces. */
void digest_hmac_sha256_v(struct str key, const struct str *pieces, size_t count,
                          uint8_t out[SHA256_BYTES]);
bool digest_equal(const void *a, const void *b, size_t n); /* constant time */

/* Incremental SHA-256. */
struct sha256;
struct sha256 *sha256_new(void);
void sha256_put(struct sha256 *h, const void *p, size_t n);
void sha256_finish(struct sha256 **hp, uint8_t out[SHA256_BYTES]); /* frees, *hp = NULL */
