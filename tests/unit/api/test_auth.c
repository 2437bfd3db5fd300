#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>

#include "api/auth.h"
#include "server/base/base64.h"
#include "server/base/buf.h"
#include "server/base/digest.h"

static void test_made_key_is_well_formed_and_no_two_are_equal(void **state) {
    struct auth_key_text a, b;
    (void)state;
    for (int i = 0; i < 200; i++) {
        auth_key_generate(i % 2 == 1, &a);
        auth_key_generate(i % 2 == 1, &b);
        assert_int_equal(strlen(a.z), AUTH_KEY_TEXT);
        assert_true(auth_key_is_well_formed(auth_key_str(&a)));
        assert_true(
            str_starts_with(auth_key_str(&a), i % 2 == 1 ? STR("pc_test_") : STR("pc_live_")));
        assert_string_not_equal(a.z, b.z);
    }
}

/* The end is base32 of SHA-256's first 35 bits, made by another implementation: keys in use stay
 * keys. */
static void test_keys_of_always_are_keys(void **state) {
    (void)state;
    assert_true(
        auth_key_is_well_formed(STR("pc_live_aaaaaaaabbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbzmxmgcu")));
    assert_true(
        auth_key_is_well_formed(STR("pc_test_77777777zzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzuuh7eab")));
}

static void test_each_changed_character_is_noticed(void **state) {
    struct auth_key_text key;
    (void)state;
    auth_key_generate(false, &key);
    for (size_t i = 0; i < AUTH_KEY_TEXT; i++) {
        struct auth_key_text changed = key;
        changed.z[i] = key.z[i] == 'b' ? 'c' : 'b';
        assert_false(auth_key_is_well_formed(auth_key_str(&changed)));
    }
}

static void test_what_is_no_key(void **state) {
    struct auth_key_text key, upper;
    (void)state;
    auth_key_generate(false, &key);
    upper = key;
    for (size_t i = 0; i < AUTH_KEY_TEXT; i++)
        if (upper.z[i] >= 'a' && upper.z[i] <= 'z')
            upper.z[i] = (char)(upper.z[i] - 'a' + 'A');
    const struct str rows[] = {STR_NONE,
                               STR(""),
                               STR("pc_live_"),
                               STR("Bearer"),
                               str_slice(auth_key_str(&key), 0, AUTH_KEY_TEXT - 1),
                               str_from(auth_key_str(&key), 1),
                               auth_key_str(&upper)};
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
        assert_false(auth_key_is_well_formed(rows[i]));
}

/* With the checksum that belongs to it: a wrong one would hide what else is wrong. */
static bool is_key(const char *kind, char at_first, char at_last) {
    char text[AUTH_KEY_TEXT + 1];
    uint8_t hash[SHA256_BYTES];
    struct buf check = BUF_INIT(100);
    memset(text, 'b', sizeof(text));
    memcpy(text, kind, AUTH_KEY_KIND);
    text[AUTH_KEY_KIND] = at_first;
    text[AUTH_KEY_PREFIX + AUTH_KEY_SECRET - 1] = at_last;
    digest_sha256(str_make(text, AUTH_KEY_PREFIX + AUTH_KEY_SECRET), hash);
    base32_encode(str_make(hash, 5), &check);
    memcpy(text + AUTH_KEY_PREFIX + AUTH_KEY_SECRET, check.p, AUTH_KEY_CHECK);
    buf_release(&check);
    return auth_key_is_well_formed(str_make(text, AUTH_KEY_TEXT));
}

static void test_a_right_checksum_makes_no_key_of_other_characters(void **state) {
    static const char good[] = "abyz2347", bad[] = "`{AZ@[1890_-. \x7f\x80\xff";
    (void)state;
    for (size_t i = 0; i + 1 < sizeof(good); i++)
        assert_true(is_key("pc_live_", good[i], 'b') && is_key("pc_test_", 'b', good[i]));
    for (size_t i = 0; i < sizeof(bad); i++) /* with the NUL */
        assert_false(is_key("pc_live_", bad[i], 'b') || is_key("pc_live_", 'b', bad[i]));
    assert_false(is_key("pc_prod_", 'b', 'b'));
    assert_false(is_key("pc_LIVE_", 'b', 'b'));
}

static void test_bearer(void **state) {
    (void)state;
    const struct {
        const char *in, *want; /* NULL: absent */
    } rows[] = {{"Bearer abc", "abc"},
                {"bearer abc", "abc"},
                {"BEARER  abc ", "abc"},
                {"Basic abc", NULL},
                {"Bearer", NULL},
                {"abc", NULL},
                {"", NULL},
                {"Bearerabc", NULL}};
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct str got = auth_bearer(str_of(rows[i].in));
        assert_int_equal(str_is_absent(got), rows[i].want == NULL);
        if (rows[i].want != NULL)
            assert_true(str_equal(got, str_of(rows[i].want)));
    }
}

static void test_scopes(void **state) {
    (void)state;
    unsigned have = 0;
    assert_int_equal(auth_scope_parse(STR("send"), &have), OK);
    assert_int_equal(auth_scope_parse(STR("read"), &have), OK);
    assert_int_equal(have, SCOPE_SEND | SCOPE_READ);
    assert_int_equal(auth_scope_parse(STR("SEND"), &have), ERR_INVALID);
    assert_int_equal(auth_scope_parse(STR(""), &have), ERR_INVALID);
    assert_true(auth_scopes_allow(SCOPE_SEND, SCOPE_SEND));
    assert_false(auth_scopes_allow(SCOPE_SEND, SCOPE_READ));
    assert_false(auth_scopes_allow(SCOPE_SEND | SCOPE_READ | SCOPE_MANAGE, SCOPE_ADMIN));
    assert_true(auth_scopes_allow(SCOPE_ADMIN, SCOPE_SEND | SCOPE_MANAGE));
    static const enum key_scope every[] = {SCOPE_SEND, SCOPE_READ, SCOPE_MANAGE, SCOPE_ADMIN};
    static const char *const names[] = {"send", "read", "manage", "admin"};
    for (size_t i = 0; i < 4; i++) {
        unsigned parsed = 0;
        assert_string_equal(auth_scope_name(every[i]), names[i]);
        assert_int_equal(auth_scope_parse(str_of(names[i]), &parsed), OK);
        assert_int_equal(parsed, every[i]);
    }
}

struct ring {
    struct arena *arena;
    struct auth_key_text text[4];
    struct key_row row[4];
    struct keyring *keyring;
};

/* Four keys: good, revoked, expiring at 1000, test. */
static void ring_make(struct ring *r) {
    r->arena = arena_new();
    for (size_t i = 0; i < 4; i++) {
        auth_key_generate(i == 3, &r->text[i]);
        r->row[i] =
            (struct key_row){.id = id_new(1 + (int64_t)i), .project = 7, .scopes = SCOPE_SEND};
        assert_int_equal(auth_key_describe(auth_key_str(&r->text[i]), r->arena, &r->row[i], NULL),
                         OK);
    }
    r->row[1].revoked_wall_ms = 5;
    r->row[2].expires_wall_ms = 1000;
    r->keyring = keyring_new(r->row, 4);
}

static void ring_free(struct ring *r) {
    keyring_unref(&r->keyring);
    arena_free(&r->arena);
}

static void test_T21_ring_finds_only_what_is_in_force(void **state) {
    struct ring r;
    (void)state;
    ring_make(&r);
    assert_non_null(keyring_find(r.keyring, auth_key_str(&r.text[0]), 999));
    assert_null(keyring_find(r.keyring, auth_key_str(&r.text[1]), 999));
    assert_non_null(keyring_find(r.keyring, auth_key_str(&r.text[2]), 999));
    assert_null(keyring_find(r.keyring, auth_key_str(&r.text[2]), 1000));
    const struct identity *test = keyring_find(r.keyring, auth_key_str(&r.text[3]), 999);
    assert_non_null(test);
    assert_true(test->is_test);
    assert_int_equal(test->project, 7);
    assert_true(id_equal(&test->key_id, &r.row[3].id));
    ring_free(&r);
}

/* What counts against a project's limit: its keys that are in force. */
static void test_the_ring_counts_what_a_project_can_use(void **state) {
    struct ring r;
    (void)state;
    ring_make(&r);
    assert_int_equal(keyring_count(r.keyring, 7, 999), 3);
    assert_int_equal(keyring_count(r.keyring, 7, 1000), 2);
    assert_int_equal(keyring_count(r.keyring, 8, 999), 0);
    keyring_unref(&r.keyring);
    r.row[0].project = r.row[1].project = 8;
    r.keyring = keyring_new(r.row, 4);
    assert_int_equal(keyring_count(r.keyring, 7, 999), 2);
    assert_int_equal(keyring_count(r.keyring, 8, 999), 1); /* the other is revoked */
    keyring_unref(&r.keyring);
    r.keyring = keyring_new(r.row, 0);
    assert_int_equal(keyring_count(r.keyring, 7, 999), 0);
    ring_free(&r);
}

static void test_T21_right_prefix_with_another_secret_is_nobody(void **state) {
    struct ring r;
    (void)state;
    ring_make(&r);
    for (size_t i = AUTH_KEY_PREFIX; i < AUTH_KEY_TEXT; i++) {
        struct auth_key_text changed = r.text[0];
        changed.z[i] = changed.z[i] == 'x' ? 'y' : 'x';
        assert_null(keyring_find(r.keyring, auth_key_str(&changed), 1));
    }
    assert_null(keyring_find(r.keyring, STR_NONE, 1));
    ring_free(&r);
}

/* What hashes were compared with. */
static const void *compared[4096];
static size_t compared_count;

bool __real_digest_equal(const void *a, const void *b, size_t n);
bool __wrap_digest_equal(const void *a, const void *b, size_t n);
bool __wrap_digest_equal(const void *a, const void *b, size_t n) {
    compared[compared_count++ % 4096] = b;
    return __real_digest_equal(a, b, n);
}

/* Keys by twos: of both kinds, with one public part. */
static size_t make_twins(struct arena *a, struct auth_key_text *text, struct key_row *row,
                         size_t count) {
    for (size_t i = 0; i < count; i++) {
        auth_key_generate(i % 2 == 1, &text[i]);
        if (i % 2 == 1)
            memcpy(text[i].z + AUTH_KEY_KIND, text[i - 1].z + AUTH_KEY_KIND, AUTH_KEY_PUBLIC);
        struct str all = auth_key_str(&text[i]);
        row[i] = (struct key_row){.id = id_new(1 + (int64_t)i), .project = 7};
        row[i].prefix = arena_dup(a, str_slice(all, 0, AUTH_KEY_PREFIX));
        digest_sha256(all, row[i].hash);
    }
    return count;
}

static void test_T21_each_key_of_a_ring_is_found_and_no_other(void **state) {
    enum { MOST = 70 };
    (void)state;
    for (size_t count = 0; count <= MOST; count++) {
        struct auth_key_text text[MOST], other;
        struct key_row row[MOST];
        struct arena *a = arena_new();
        struct keyring *ring = keyring_new(row, make_twins(a, text, row, count));
        for (size_t i = 0; i < count; i++) {
            const struct identity *found = keyring_find(ring, auth_key_str(&text[i]), 1);
            assert_true(found != NULL && id_equal(&found->key_id, &row[i].id));
            auth_key_generate(i % 2 == 0, &other);
            assert_null(keyring_find(ring, auth_key_str(&other), 1));
            memcpy(other.z, text[i].z, AUTH_KEY_PREFIX);
            assert_null(keyring_find(ring, auth_key_str(&other), 1));
        }
        auth_key_generate(false, &other);
        assert_null(keyring_find(ring, auth_key_str(&other), 1));
        keyring_unref(&ring);
        arena_free(&a);
    }
}

/* Who knows no public part is compared with what stands where that one would: work, and places in
 * memory, are those of who knows one (`make timing`). */
static void test_T21_an_unknown_prefix_is_compared_with_keys_of_the_ring(void **state) {
    enum { KEYS = 64, ASKED = 500 };
    struct auth_key_text text[KEYS], other;
    struct key_row row[KEYS];
    struct arena *a = arena_new();
    struct keyring *ring = keyring_new(row, make_twins(a, text, row, KEYS));
    size_t met = 0;
    (void)state;
    compared_count = 0;
    for (size_t i = 0; i < ASKED; i++) {
        auth_key_generate(i % 2 == 1, &other);
        compared_count = i;
        assert_null(keyring_find(ring, auth_key_str(&other), 1));
        assert_int_equal(compared_count, i + 1);
    }
    for (size_t i = 0; i < ASKED; i++) {
        bool is_new = true;
        for (size_t k = 0; k < i; k++)
            is_new &= compared[k] != compared[i];
        met += is_new;
    }
    assert_in_range(met, KEYS / 4, KEYS);
    keyring_unref(&ring);
    arena_free(&a);
}

static void test_the_ring_lives_as_long_as_its_last_holder(void **state) {
    struct ring r;
    (void)state;
    ring_make(&r);
    struct keyring *held = keyring_ref(r.keyring);
    keyring_unref(&r.keyring);
    assert_null(r.keyring);
    assert_non_null(keyring_find(held, auth_key_str(&r.text[0]), 999));
    keyring_unref(&held);
    keyring_unref(&held); /* nobody: nothing */
    ring_free(&r);
}

static void test_each_key_knows_whether_it_is_for_tests(void **state) {
    struct ring r;
    (void)state;
    ring_make(&r);
    for (size_t i = 0; i < 4; i++)
        assert_int_equal(keyring_is_test(r.keyring, &r.row[i].id), i == 3);
    struct id unknown = id_new(99);
    assert_false(keyring_is_test(r.keyring, &unknown));
    ring_free(&r);
}

/* As many as fit are told, the others the next time; nobody is forgotten. */
static void test_uses_that_do_not_fit_are_told_later(void **state) {
    struct ring r;
    struct id id[4];
    int64_t wall_ms[4] = {0};
    (void)state;
    ring_make(&r);
    for (size_t i = 0; i < 4; i++)
        assert_int_equal(keyring_find(r.keyring, auth_key_str(&r.text[i]), 40) != NULL, i != 1);
    bool seen[4] = {false};
    size_t at = 0;
    for (int round = 0; round < 3; round++) {
        assert_int_equal(keyring_take_used(r.keyring, &at, id, wall_ms, 1), 1);
        assert_int_equal(wall_ms[0], 40);
        assert_int_equal(wall_ms[1], 0);
        /* who is used again meanwhile does not come before those who wait */
        (void)keyring_find(r.keyring, auth_key_str(&r.text[0]), 40);
        for (size_t i = 0; i < 4; i++)
            if (id_equal(&id[0], &r.row[i].id)) {
                assert_false(seen[i]);
                seen[i] = true;
            }
    }
    assert_true(seen[0] && !seen[1] && seen[2] && seen[3]);
    assert_int_equal(keyring_take_used(r.keyring, &at, id, wall_ms, 1), 0);
    at = 0;
    assert_int_equal(keyring_take_used(r.keyring, &at, id, wall_ms, 4), 1);
    assert_true(id_equal(&id[0], &r.row[0].id));
    ring_free(&r);
}

static size_t take_all(struct ring *r, struct id id[4], int64_t wall_ms[4]) {
    size_t at = 0;
    return keyring_take_used(r->keyring, &at, id, wall_ms, 4);
}

static void test_uses_are_told_once(void **state) {
    struct ring r;
    struct id id[4];
    int64_t wall_ms[4];
    (void)state;
    ring_make(&r);
    assert_int_equal(take_all(&r, id, wall_ms), 0);
    (void)keyring_find(r.keyring, auth_key_str(&r.text[0]), 20);
    (void)keyring_find(r.keyring, auth_key_str(&r.text[0]), 30);
    (void)keyring_find(r.keyring, auth_key_str(&r.text[1]), 30); /* revoked: no use */
    assert_int_equal(take_all(&r, id, wall_ms), 1);
    assert_true(id_equal(&id[0], &r.row[0].id));
    assert_int_equal(wall_ms[0], 30);
    assert_int_equal(take_all(&r, id, wall_ms), 0);
    ring_free(&r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_made_key_is_well_formed_and_no_two_are_equal),
        cmocka_unit_test(test_keys_of_always_are_keys),
        cmocka_unit_test(test_each_changed_character_is_noticed),
        cmocka_unit_test(test_what_is_no_key),
        cmocka_unit_test(test_a_right_checksum_makes_no_key_of_other_characters),
        cmocka_unit_test(test_bearer),
        cmocka_unit_test(test_scopes),
        cmocka_unit_test(test_T21_ring_finds_only_what_is_in_force),
        cmocka_unit_test(test_the_ring_counts_what_a_project_can_use),
        cmocka_unit_test(test_T21_right_prefix_with_another_secret_is_nobody),
        cmocka_unit_test(test_T21_each_key_of_a_ring_is_found_and_no_other),
        cmocka_unit_test(test_T21_an_unknown_prefix_is_compared_with_keys_of_the_ring),
        cmocka_unit_test(test_the_ring_lives_as_long_as_its_last_holder),
        cmocka_unit_test(test_each_key_knows_whether_it_is_for_tests),
        cmocka_unit_test(test_uses_that_do_not_fit_are_told_later),
        cmocka_unit_test(test_uses_are_told_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
