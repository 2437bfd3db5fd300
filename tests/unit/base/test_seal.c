#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "server/base/base64.h"
#include "server/base/seal.h"

#define HEX_1 "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"
#define BASE64_1 "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
#define HEX_2 "ff0102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"

/* Made with another program: AES-256-GCM of "the secret", nonce 00..0b. */
#define SEALED_ONCE "sealed:1:161f1fad:AAECAwQFBgcICQoL5WQwebdJrxqJVK+dOVK/ZjnLMsZ/nb0Fb3w="

static struct arena *a;

static int set_up(void **state) {
    (void)state;
    a = arena_new();
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    arena_free(&a);
    return 0;
}

static struct seal *ring(const char *current, const char *previous) {
    struct seal *s = NULL;
    struct errinfo info = {0};
    assert_int_equal(seal_new(str_of(current), str_of(previous), &s, &info), OK);
    return s;
}

static void T23_what_was_sealed_opens_in_its_place_only(void **state) {
    (void)state;
    struct seal *s = ring(HEX_1, NULL);
    static const char *const rows[] = {"x", "whsec_AAAA", "-----BEGIN PRIVATE KEY-----\nMC4\n"};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct str plain;
        struct str stored = seal_close(s, STR("webhook 1"), str_of(rows[i]), a);
        assert_true(seal_is_sealed(stored) && seal_is_current(s, stored));
        assert_true(str_find(stored, str_of(rows[i])) < 0 || str_of(rows[i]).n == 1);
        assert_int_equal(seal_open(s, STR("webhook 1"), stored, a, &plain), OK);
        assert_true(str_equal(plain, str_of(rows[i])));
        assert_int_equal(seal_open(s, STR("webhook 2"), stored, a, &plain), ERR_INVALID);
        assert_true(str_is_absent(plain));
        assert_false(
            str_equal(stored, seal_close(s, STR("webhook 1"), str_of(rows[i]), a))); /* a nonce */
    }
    seal_free(&s);
}

static void T23_a_changed_octet_does_not_open(void **state) {
    (void)state;
    struct seal *s = ring(HEX_1, NULL);
    struct str stored = seal_close(s, STR("p"), STR("a secret of some length"), a), plain;
    for (size_t i = 0; i < stored.n; i++) {
        char *changed = arena_dupz(a, stored);
        changed[i] = changed[i] == 'A' ? 'B' : 'A';
        enum err e = seal_open(s, STR("p"), str_make(changed, stored.n), a, &plain);
        /* without its beginning it is text like any other */
        assert_int_equal(e == OK, i < strlen("sealed:1:"));
        assert_true(e != OK || plain.p == changed);
        enum err cut = seal_open(s, STR("p"), str_slice(stored, 0, i), a, &plain);
        assert_int_equal(cut == OK, i < strlen("sealed:1:"));
    }
    seal_free(&s);
}

static void keys_are_told_apart_and_changed(void **state) {
    (void)state;
    struct seal *first = ring(HEX_1, NULL), *same = ring(BASE64_1, NULL),
                *other = ring(HEX_2, NULL), *both = ring(HEX_2, HEX_1),
                *only_previous = ring(NULL, HEX_1);
    struct str stored = seal_close(first, STR("p"), STR("secret"), a), plain;
    assert_int_equal(seal_open(same, STR("p"), stored, a, &plain), OK);
    assert_int_equal(seal_open(other, STR("p"), stored, a, &plain), ERR_NOT_FOUND);
    assert_int_equal(seal_open(NULL, STR("p"), stored, a, &plain), ERR_NOT_FOUND);
    assert_int_equal(seal_open(both, STR("p"), stored, a, &plain), OK);
    assert_false(seal_is_current(both, stored));
    assert_int_equal(seal_open(only_previous, STR("p"), stored, a, &plain), OK);
    assert_true(str_equal(plain, STR("secret")));
    assert_false(seal_is_current(only_previous, stored));
    assert_true(seal_is_current(only_previous, STR("clear")));
    assert_true(seal_is_current(NULL, STR("clear")));
    assert_false(seal_is_current(NULL, stored));
    assert_false(seal_is_current(first, STR("clear")));
    assert_true(str_equal(seal_close(only_previous, STR("p"), STR("secret"), a), STR("secret")));
    struct str again = seal_close(both, STR("p"), STR("secret"), a);
    assert_int_equal(seal_open(other, STR("p"), again, a, &plain), OK);
    assert_true(
        str_equal(seal_key_of(again), seal_key_of(seal_close(other, STR("p"), STR("x"), a))));
    char names[32];
    seal_describe(both, names, sizeof names);
    assert_true(str_equal(str_slice(str_of(names), 0, 8), seal_key_of(again)));
    assert_true(str_ends_with(str_of(names), seal_key_of(stored)));
    seal_describe(NULL, names, sizeof names);
    assert_string_equal(names, "none");
    seal_describe(only_previous, names, sizeof names);
    assert_true(str_equal(str_of(names), seal_key_of(stored)));
    seal_free(&first), seal_free(&same), seal_free(&other), seal_free(&both),
        seal_free(&only_previous);
    assert_null(first);
}

static void keys_of_another_form_are_refused(void **state) {
    (void)state;
    static const char *const rows[] = {
        "",
        "x",
        "000102030405060708090a0b0c0d0e0f",
        "AAECAwQFBgcICQoLDA0ODw==",
        HEX_1 "00",
        "zz0102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f",
        BASE64_1 "AAAA"};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct seal *s = NULL;
        struct errinfo info = {0};
        assert_int_equal(seal_new(str_of(rows[i]), STR_NONE, &s, &info), ERR_INVALID);
        assert_string_equal(info.field, "master_key");
        assert_null(s);
        assert_int_equal(seal_new(STR(HEX_1), str_of(rows[i]), &s, &info), ERR_INVALID);
        assert_string_equal(info.field, "master_key_previous");
        assert_null(s);
    }
}

/* A store that was sealed must open after each upgrade. */
static void the_format_stays(void **state) {
    (void)state;
    struct seal *s = ring(HEX_1, NULL);
    struct str plain;
    assert_int_equal(seal_open(s, STR("domain_key.pem 1"), STR(SEALED_ONCE), a, &plain), OK);
    assert_true(str_equal(plain, STR("the secret")));
    seal_free(&s);
}

static void clear_text_stays_as_it_is(void **state) {
    (void)state;
    struct seal *s = ring(HEX_1, NULL);
    struct str plain;
    assert_int_equal(seal_open(s, STR("p"), STR("whsec_x"), a, &plain), OK);
    assert_true(str_equal(plain, STR("whsec_x")));
    assert_int_equal(seal_open(s, STR("p"), STR_NONE, a, &plain), OK);
    assert_true(str_is_absent(plain));
    assert_true(str_is_absent(seal_close(s, STR("p"), STR_NONE, a)));
    seal_free(&s);
    assert_int_equal(seal_new(STR_NONE, STR_NONE, &s, NULL), OK);
    assert_null(s);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(T23_what_was_sealed_opens_in_its_place_only, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(T23_a_changed_octet_does_not_open, set_up, tear_down),
        cmocka_unit_test_setup_teardown(keys_are_told_apart_and_changed, set_up, tear_down),
        cmocka_unit_test_setup_teardown(keys_of_another_form_are_refused, set_up, tear_down),
        cmocka_unit_test_setup_teardown(the_format_stays, set_up, tear_down),
        cmocka_unit_test_setup_teardown(clear_text_stays_as_it_is, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
