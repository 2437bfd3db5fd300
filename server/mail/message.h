/* message: composed bytes that never change, shared between threads by reference count.
 *
 * Bytes are a complete RFC 5322 message: CRLF line ends only, 7bit unless `needs_smtputf8`, no Bcc,
 * not dot-stuffed. Signing makes a NEW message that shares the old one's bytes and puts signature
 * fields before them.
 *
 * Thread: any; immutable, message_ref/unref are atomic.
 */
#pragma once

#include "server/base/id.h"
#include "server/base/str.h"

struct message;

/* Takes `bytes` (malloc'ed, n of them). One reference for the caller. */
struct message *message_new(const struct id *id, char *bytes, size_t n);
/* `prefix` (malloc'ed header fields, each ended by CRLF) before the bytes of `of`, which gains a
 * reference. */
struct message *message_new_prefixed(struct message *of, char *prefix, size_t n);
struct message *message_ref(struct message *m);
void message_unref(struct message **mp); /* NULL accepted, *mp = NULL */

const struct id *message_id_of(const struct message *m);
/* The bytes in order as up to two pieces: prefix (may be empty), then body of bytes. */
struct message_pieces {
    struct str piece[2];
};
struct message_pieces message_bytes(const struct message *m);
size_t message_size(const struct message *m); /* octets on the wire before dot-stuffing (SIZE=) */
bool message_is_signed(const struct message *m);
