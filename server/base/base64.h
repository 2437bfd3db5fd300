/* base64: RFC 4648 base64, base32 (lower case, no padding) and hex.
 *
 * All append to `out`. Decoding is strict: no white space inside, right padding, no stray bits;
 * ERR_INVALID otherwise, what buf_status() says when `out` is full. What fails to decode appends
 * nothing. Base32 and hex are read in either case (mail systems change the case of local parts).
 * Thread: any. */
#pragma once

#include "server/base/buf.h"

size_t base64_encoded_size(size_t n); /* with padding, without NUL */
void base64_encode(struct str in, struct buf *out);
NODISCARD enum err base64_decode(struct str in, struct buf *out);
/* The same into memory of the caller, base64_decoded_size() bytes of it: for what is large. On
 * ERR_INVALID it may be written in part. The size of what does not decode is an upper bound. */
size_t base64_decoded_size(struct str in);
NODISCARD enum err base64_decode_to(struct str in, char *out);
void base32_encode(struct str in, struct buf *out);
NODISCARD enum err base32_decode(struct str in, struct buf *out);
void hex_encode(struct str in, struct buf *out); /* lower case */
NODISCARD enum err hex_decode(struct str in, struct buf *out);
