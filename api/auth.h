/* auth: API keys: their text, their hash, and who a request speaks for (T21).
 *
 * A key is "pc_live_" or "pc_test_", 8 characters by which it is found, 32 characters (160 bits) of
 * randomness and 7 of checksum, all base32 in lower case. The store has the part up to the first 8
 * characters and a SHA-256 of the whole; the text itself exists once, in the answer that made it.
 *
 *     struct auth_key_text key;
 *     auth_key_generate(false, &key);
 *     auth_key_describe(auth_key_str(&key), &row, arena);   // prefix, hash, is_test
 *
 * Thread: rings are immutable snapshots, shared by reference.
 */
#pragma once

#include "server/base/arena.h"
#include "storage/model.h"

enum {
    AUTH_KEY_KIND = 8,   /* "pc_live_" */
    AUTH_KEY_PUBLIC = 8, /* 40 bits */
    AUTH_KEY_SECRET = 32,
    AUTH_KEY_CHECK = 7,
    AUTH_KEY_PREFIX = AUTH_KEY_KIND + AUTH_KEY_PUBLIC,
    AUTH_KEY_TEXT = AUTH_KEY_PREFIX + AUTH_KEY_SECRET + AUTH_KEY_CHECK
};

struct auth_key_text {
    char z[AUTH_KEY_TEXT + 1]; /* a secret: explicit_bzero() after use */
};
static inline struct str auth_key_str(const struct auth_key_text *k) {
    return str_make(k->z, AUTH_KEY_TEXT);
}

void auth_key_generate(bool is_test, struct auth_key_text *out);
/* Is it a key by form and checksum? Says nothing about whether it is ours. */
bool auth_key_is_well_formed(struct str text);
/* Fills prefix, hash and is_test of a row from the key's text. ERR_INVALID: not a key. */
NODISCARD enum err auth_key_describe(struct str text, struct arena *a, struct key_row *row,
                                     struct errinfo *info);

/* "send", "read", "manage", "admin"; admin stands for all of them. */
const char *auth_scope_name(enum key_scope s);
NODISCARD enum err auth_scope_parse(struct str s, unsigned *scopes);
bool auth_scopes_allow(unsigned have, unsigned needed);

/* ---- the keys that are in force, as a snapshot ---- */
struct keyring;
struct keyring *keyring_new(const struct key_row *row, size_t count); /* copies; one reference */
struct keyring *keyring_ref(struct keyring *k);
void keyring_unref(struct keyring **kp);

/* A key of the ring; lives as long as the ring. */
struct identity {
    struct id key_id; /* zero: the administrator at the control socket */
    int64_t project;
    unsigned scopes;
    bool is_test;
    int64_t rate;            /* requests a minute; 0: not limited */
    int64_t expires_wall_ms; /* 0: never */
    const struct str *from_domains;
    size_t from_domain_count;
};
bool identity_is_in_force(const struct identity *who, int64_t now_wall_ms);
/* NULL: malformed, unknown, wrong secret, revoked or expired: nobody learns which. The
 * whole key is hashed and the hash compared in constant time, with the key that stands nearest when
 * none has the prefix: the same work, whoever asks. Marks the key as used. Thread: any. */
const struct identity *keyring_find(const struct keyring *k, struct str key_text,
                                    int64_t now_wall_ms);
/* How many keys of this project are in force. */
size_t keyring_count(const struct keyring *k, int64_t project, int64_t now_wall_ms);
/* Is this one a test key? false also for a key that is not there. */
bool keyring_is_test(const struct keyring *k, const struct id *key_id);
/* Keys used since they were last taken, from place *at of the ring on (0: its beginning), at most
 * `most`; for STORE_KEYS_USED. Returns how many, 0 at the end; *at is where to go on. */
size_t keyring_take_used(struct keyring *k, size_t *at, struct id *id, int64_t *wall_ms,
                         size_t most);
/* "Bearer <key>"; absent when the header is something else. */
struct str auth_bearer(struct str authorization);
