/* signature: the headers of Standard Webhooks 1.0: `v1,<base64 HMAC-SHA256 of id.timestamp.body>`,
 * one per valid secret, separated by spaces during rotation (T20). Pure. Thread: any. */
#pragma once

#include "server/base/buf.h"

/* "whsec_" + base64 of 24..64 bytes; `key` gets the bytes. */
NODISCARD enum err signature_parse_secret(struct str secret, struct buf *key);
void signature_new_secret(struct buf *out); /* "whsec_..." of 32 random bytes */
/* Appends the value of webhook-signature. ERR_INVALID: a secret is malformed. */
NODISCARD enum err signature_print(const struct str *secrets, size_t count, struct str id,
                                   int64_t timestamp_s, struct str body, struct buf *out);
