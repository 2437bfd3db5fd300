#include "api/auth.h"

#include <stdatomic.h>
#include <stdlib.h>

#include "server/base/base64.h"
#include "server/base/digest.h"
#include "server/base/random.h"

static const struct str kinds[] = {{"pc_live_", AUTH_KEY_KIND}, {"pc_test_", AUTH_KEY_KIND}};

/* ---- the text of a key ---- */

static void put_base32(char *out, size_t n, const uint8_t *bytes, size_t byte_count) {
    struct buf b = BUF_INIT(128);
    base32_encode(str_make(bytes, byte_count), &b);
    ASSERT(buf_status(&b) == OK && b.n >= n);
    memcpy(out, b.p, n);
    buf_release_secret(&b);
}

/* 35 bits of the hash of what stands before: enough to tell a typing error from a key. */
static void put_checksum(struct str before, char out[AUTH_KEY_CHECK]) {
    uint8_t hash[SHA256_BYTES];
    digest_sha256(before, hash);
    put_base32(out, AUTH_KEY_CHECK, hash, 5);
}

void auth_key_generate(bool is_test, struct auth_key_text *out) {
    uint8_t random[5 + 20]; /* 40 and 160 bits: 8 and 32 characters */
    random_bytes(random, sizeof(random));
    memcpy(out->z, kinds[is_test ? 1 : 0].p, AUTH_KEY_KIND);
    put_base32(out->z + AUTH_KEY_KIND, AUTH_KEY_PUBLIC, random, 5);
    put_base32(out->z + AUTH_KEY_PREFIX, AUTH_KEY_SECRET, random + 5, 20);
    size_t n = AUTH_KEY_PREFIX + AUTH_KEY_SECRET;
    put_checksum(str_make(out->z, n), out->z + n);
    out->z[AUTH_KEY_TEXT] = '\0';
    explicit_bzero(random, sizeof(random));
}

static bool is_base32(struct str s) {
    for (size_t i = 0; i < s.n; i++)
        if (!((s.p[i] >= 'a' && s.p[i] <= 'z') || (s.p[i] >= '2' && s.p[i] <= '7')))
            return false;
    return true;
}

bool auth_key_is_well_formed(struct str text) {
    if (text.n != AUTH_KEY_TEXT ||
        !(str_starts_with(text, kinds[0]) || str_starts_with(text, kinds[1])) ||
        !is_base32(str_from(text, AUTH_KEY_KIND)))
        return false;
    char check[AUTH_KEY_CHECK];
    size_t n = AUTH_KEY_PREFIX + AUTH_KEY_SECRET;
    put_checksum(str_slice(text, 0, n), check);
    return digest_equal(check, text.p + n, AUTH_KEY_CHECK);
}

enum err auth_key_describe(struct str text, struct arena *a, struct key_row *row,
                           struct errinfo *info) {
    if (!auth_key_is_well_formed(text))
        return err_set(info, ERR_INVALID, "key",
                       "not a key: pc_live_ or pc_test_ and %d characters with a checksum",
                       AUTH_KEY_TEXT - AUTH_KEY_KIND);
    row->prefix = arena_dup(a, str_slice(text, 0, AUTH_KEY_PREFIX));
    row->is_test = str_starts_with(text, kinds[1]);
    digest_sha256(text, row->hash);
    return OK;
}

/* ---- scopes ---- */

static const struct {
    enum key_scope scope;
    const char *name;
} scopes[] = {
    {SCOPE_SEND, "send"},
    {SCOPE_READ, "read"},
    {SCOPE_MANAGE, "manage"},
    {SCOPE_ADMIN, "admin"},
};

const char *auth_scope_name(enum key_scope s) {
    for (size_t i = 0; i < sizeof(scopes) / sizeof(scopes[0]); i++)
        if (scopes[i].scope == s)
            return scopes[i].name;
    ASSERT(false); /* a scope */
    return "";
}

enum err auth_scope_parse(struct str s, unsigned *out) {
    for (size_t i = 0; i < sizeof(scopes) / sizeof(scopes[0]); i++) {
        if (str_equal(s, str_of(scopes[i].name))) {
            *out |= scopes[i].scope;
            return OK;
        }
    }
    return ERR_INVALID;
}

bool auth_scopes_allow(unsigned have, unsigned needed) {
    return (have & SCOPE_ADMIN) != 0 || (have & needed) == needed;
}

/* ---- the ring ---- */

struct entry {
    uint64_t place;
    uint8_t hash[SHA256_BYTES];
    bool is_revoked;
    struct identity identity;
    _Atomic int64_t used_wall_ms; /* since it was last taken; 0: not */
};

struct keyring {
    atomic_int refs;
    struct arena *arena;
    struct entry *entry; /* by place */
    size_t count;
};

/* A number that hangs on the public part: eight characters, and the kind in a bit that they leave.
 * Numbers are compared in the same time whether they are equal or not. */
static uint64_t place_of(struct str key_text) {
    uint64_t place = 0;
    for (size_t i = AUTH_KEY_KIND; i < AUTH_KEY_PREFIX && i < key_text.n; i++)
        place = place << 8 | (uint8_t)key_text.p[i];
    return str_starts_with(key_text, kinds[1]) ? place ^ UINT64_C(1) << 63 : place;
}

static int by_place(const void *a, const void *b) {
    uint64_t x = ((const struct entry *)a)->place, y = ((const struct entry *)b)->place;
    return (x > y) - (x < y);
}

static void fill_entry(struct arena *a, const struct key_row *row, struct entry *e) {
    struct str *domains = ARENA_ARRAY(a, struct str, row->from_domain_count + 1);
    for (size_t i = 0; i < row->from_domain_count; i++)
        domains[i] = arena_dup(a, row->from_domains[i]);
    e->place = place_of(row->prefix);
    memcpy(e->hash, row->hash, sizeof(e->hash));
    e->is_revoked = row->revoked_wall_ms != 0;
    e->identity = (struct identity){.key_id = row->id,
                                    .project = row->project,
                                    .scopes = row->scopes,
                                    .is_test = row->is_test,
                                    .rate = row->rate,
                                    .expires_wall_ms = row->expires_wall_ms,
                                    .from_domains = domains,
                                    .from_domain_count = row->from_domain_count};
}

struct keyring *keyring_new(const struct key_row *row, size_t count) {
    struct keyring *k = mem_zalloc(sizeof(*k));
    atomic_init(&k->refs, 1);
    k->arena = arena_new();
    k->entry = ARENA_ARRAY(k->arena, struct entry, count + 1);
    k->count = count;
    for (size_t i = 0; i < count; i++)
        fill_entry(k->arena, &row[i], &k->entry[i]);
    qsort(k->entry, count, sizeof(k->entry[0]), by_place);
    return k;
}

struct keyring *keyring_ref(struct keyring *k) {
    atomic_fetch_add_explicit(&k->refs, 1, memory_order_relaxed);
    return k;
}

void keyring_unref(struct keyring **kp) {
    struct keyring *k = *kp;
    *kp = NULL;
    if (k == NULL || atomic_fetch_sub_explicit(&k->refs, 1, memory_order_acq_rel) != 1)
        return;
    arena_free(&k->arena);
    free(k);
}

bool identity_is_in_force(const struct identity *who, int64_t now_wall_ms) {
    return who->expires_wall_ms == 0 || who->expires_wall_ms > now_wall_ms;
}

static bool is_in_force(const struct entry *e, int64_t now_wall_ms) {
    return !e->is_revoked && identity_is_in_force(&e->identity, now_wall_ms);
}

size_t keyring_count(const struct keyring *k, int64_t project, int64_t now_wall_ms) {
    size_t n = 0;
    for (size_t i = 0; i < k->count; i++)
        n += k->entry[i].identity.project == project && is_in_force(&k->entry[i], now_wall_ms);
    return n;
}

/* The last key that does not stand behind this place, or the first one: as many steps for each. An
 * empty ring has one that nobody's hash equals. */
static struct entry *nearest(const struct keyring *k, uint64_t place) {
    struct entry *e = k->entry;
    for (size_t n = k->count; n > 1; n -= n / 2)
        e += e[n / 2].place <= place ? n / 2 : 0;
    return e;
}

/* Whether the public part is known makes no difference: a key is known by the hash of its whole. */
const struct identity *keyring_find(const struct keyring *k, struct str key_text,
                                    int64_t now_wall_ms) {
    if (key_text.n != AUTH_KEY_TEXT)
        return NULL;
    struct entry *e = nearest(k, place_of(key_text));
    uint8_t hash[SHA256_BYTES];
    digest_sha256(key_text, hash);
    bool is_equal = digest_equal(hash, e->hash, sizeof(hash));
    if (!is_equal || !is_in_force(e, now_wall_ms))
        return NULL;
    atomic_store_explicit(&e->used_wall_ms, now_wall_ms, memory_order_relaxed);
    return &e->identity;
}

bool keyring_is_test(const struct keyring *k, const struct id *key_id) {
    for (size_t i = 0; i < k->count; i++)
        if (id_equal(&k->entry[i].identity.key_id, key_id))
            return k->entry[i].identity.is_test;
    return false;
}

size_t keyring_take_used(struct keyring *k, size_t *at, struct id *id, int64_t *wall_ms,
                         size_t most) {
    size_t n = 0;
    for (; *at < k->count && n < most; ++*at) {
        struct entry *e = &k->entry[*at];
        int64_t used = atomic_exchange_explicit(&e->used_wall_ms, 0, memory_order_relaxed);
        if (used == 0)
            continue;
        id[n] = e->identity.key_id;
        wall_ms[n++] = used;
    }
    return n;
}

struct str auth_bearer(struct str authorization) {
    struct str scheme = STR("Bearer ");
    if (!str_starts_with_nocase(authorization, scheme))
        return STR_NONE;
    return str_trim(str_from(authorization, scheme.n));
}
