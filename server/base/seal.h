/* seal: secrets at rest: AES-256-GCM under a master key that is not where the secrets are.
 *
 * A sealed value is text: "sealed:1:<key>:<base64 of nonce, ciphertext, tag>". It is bound to the
 * place that it belongs to (a table, a row): moved elsewhere it does not open. What is not sealed
 * is read as it stands, so that a store can begin, and stop, to be sealed.
 *
 * A ring has the current key and, while it is being changed, the one before; values are sealed with
 * the current key and opened with either. Without a current key nothing is sealed any more.
 *
 *     struct seal *s;
 *     if (seal_new(STR("base64 or hex of 32 bytes"), STR_NONE, &s, &info) != OK) ...
 *     struct str stored = seal_close(s, STR("webhook.secret 0193..."), plain, arena);
 *     enum err e = seal_open(s, STR("webhook.secret 0193..."), stored, arena, &plain);
 *     seal_free(&s);
 *
 * Everything takes NULL for a ring without keys. Thread: immutable.
 */
#pragma once

#include "server/base/arena.h"

struct seal;

enum { SEAL_KEY_BYTES = 32, SEAL_KEY_ID_SIZE = 9 };

/* Keys as text: 64 hexadecimal digits or base64; absent: none. Both absent: *out becomes NULL.
 * ERR_INVALID: info->field is "master_key" or "master_key_previous". */
NODISCARD enum err seal_new(struct str current, struct str previous, struct seal **out,
                            struct errinfo *info);
void seal_free(struct seal **sp); /* wipes the keys */

bool seal_is_sealed(struct str stored);
/* Is it stored as seal_close() would store it now: with the current key, or in clear when there is
 * none? */
bool seal_is_current(const struct seal *s, struct str stored);
/* What is to be stored: lives in `a`, or is `plain` itself when there is no current key. */
struct str seal_close(const struct seal *s, struct str place, struct str plain, struct arena *a);
/* ERR_NOT_FOUND: sealed with a key that the ring does not have; ERR_INVALID: changed, cut off, or
 * from another place. *plain lives in `a`, or is `stored` when that is not sealed. */
NODISCARD enum err seal_open(const struct seal *s, struct str place, struct str stored,
                             struct arena *a, struct str *plain);
/* Of a sealed value: which key it is sealed with, 8 hexadecimal digits; absent: it is malformed. */
struct str seal_key_of(struct str stored);
/* The ring's keys by their names, for messages: "1a2b3c4d and 5e6f7a8b", "none". */
void seal_describe(const struct seal *s, char *out, size_t size);
