/* K5, K15: what a domain signs with. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "server/intake/sender_domain.h"

#define NOW_MS INT64_C(1769860800000)

/* RFC 8463 6: a verifier must be able to ask for either key. */
static void test_K15_two_keys_have_two_selectors(void **state) {
    (void)state;
    struct arena *a = arena_new();
    struct domain_row made, taken;
    struct errinfo info = {0};
    assert_int_equal(sender_domain_make(STR("B\xc3\xbc"
                                            "cher.example"),
                                        STR_NONE, 1, NOW_MS, a, &made, &info),
                     OK);
    assert_int_equal(made.key_count, 2);
    assert_false(str_equal(made.key[0].selector, made.key[1].selector));
    assert_true(str_equal(made.key[0].algorithm, STR("rsa-sha256")));
    assert_true(str_equal(made.key[1].algorithm, STR("ed25519-sha256")));
    assert_true(str_find(made.key[1].record, STR("k=ed25519")) > 0);

    struct sender_domain_key keys[2] = {{STR("s1"), made.key[0].pem}, {STR("S1"), made.key[1].pem}};
    assert_int_equal(
        sender_domain_import(STR("example.net"), STR_NONE, keys, 2, 1, NOW_MS, a, &taken, &info),
        ERR_INVALID);
    assert_string_equal(info.field, "selector");
    assert_non_null(strstr(info.text, "given twice"));
    keys[1].selector = STR("s2");
    assert_int_equal(
        sender_domain_import(STR("example.net"), STR_NONE, keys, 2, 1, NOW_MS, a, &taken, &info),
        OK);
    assert_int_equal(taken.key_count, 2);
    assert_true(str_equal(taken.key[1].selector, STR("s2")));
    assert_true(str_equal(taken.key[1].record, made.key[1].record));
    sender_domain_wipe(&taken);
    sender_domain_wipe(&made);
    arena_free(&a);
}

static void test_K5_the_domain_of_a_signature_is_an_A_label(void **state) {
    (void)state;
    struct arena *a = arena_new();
    struct domain_row row;
    struct errinfo info = {0};
    assert_int_equal(sender_domain_import(STR("B\xc3\xbc"
                                              "cher.Example"),
                                          STR("Bounces@B\xc3\xbc"
                                              "cher.example"),
                                          NULL, 0, 1, NOW_MS, a, &row, &info),
                     OK);
    assert_true(str_equal(row.name, STR("xn--bcher-kva.example")));
    assert_true(str_equal(row.bounce_address, STR("Bounces@xn--bcher-kva.example")));
    arena_free(&a);
}

static void what_is_wrong_is_refused(void **state) {
    (void)state;
    static const struct {
        const char *title, *name, *bounce, *selector, *pem;
    } rows[] = {
        {"no domain", "-", NULL, "s", "x"},
        {"single label", "localhost", NULL, "s", "x"},
        {"no address", "a.example", "bounces", "s", "x"},
        {"selector with a space", "a.example", NULL, "a b", "x"},
        {"no selector", "a.example", NULL, "", "x"},
        {"no key", "a.example", NULL, "s", "-----BEGIN NOTHING-----"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct arena *a = arena_new();
        struct domain_row row;
        struct errinfo info = {0};
        struct sender_domain_key key = {str_of(rows[i].selector), str_of(rows[i].pem)};
        if (sender_domain_import(str_of(rows[i].name), str_of(rows[i].bounce), &key, 1, 1, NOW_MS,
                                 a, &row, &info) != ERR_INVALID ||
            info.text[0] == 0)
            fail_msg("%s", rows[i].title);
        arena_free(&a);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_K15_two_keys_have_two_selectors),
        cmocka_unit_test(test_K5_the_domain_of_a_signature_is_an_A_label),
        cmocka_unit_test(what_is_wrong_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
