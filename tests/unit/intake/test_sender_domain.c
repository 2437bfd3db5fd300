/* Sending domains and their keys: names, selectors, what is refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "server/base/buf.h"
#include "server/intake/sender_domain.h"
#include "server/mail/dkim_key.h"

static struct arena *arena;
static struct buf pem;

static int setup(void **state) {
    struct dkim_key *key = NULL;
    (void)state;
    arena = arena_new();
    buf_init(&pem, 65536);
    assert_int_equal(dkim_key_generate(DKIM_ED25519_SHA256, &key, NULL), OK);
    dkim_key_print_pem(key, &pem);
    dkim_key_unref(&key);
    return 0;
}

static int teardown(void **state) {
    (void)state;
    buf_release_secret(&pem);
    arena_free(&arena);
    return 0;
}

#define L63 "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"

/* RFC 6376 3.1: sub-domains with dots between; names are those of RFC 5321, digits alone too. */
static void selectors_are_labels(void **state) {
    static const struct {
        const char *selector, *want; /* NULL: refused */
    } rows[] = {
        {"s1", "s1"},
        {"S1", "s1"},
        {"20230601", "20230601"},
        {"2023.mail", "2023.mail"},
        {"mail.2023", "mail.2023"},
        {"a-b", "a-b"},
        {L63, L63},
        {"", NULL},
        {".", NULL},
        {"a..b", NULL},
        {"-a", NULL},
        {"a-", NULL},
        {"a b", NULL},
        {"a;b", NULL},
        {"a_b", NULL},
        {L63 "a", NULL},
        {"a\r\nb", NULL},
        {"a=b", NULL},
    };
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct sender_domain_key key = {str_of(rows[i].selector), buf_str(&pem)};
        struct domain_row row;
        struct errinfo info = {0};
        enum err e =
            sender_domain_import(STR("acme.test"), STR_NONE, &key, 1, 1, 1000, arena, &row, &info);
        if ((e == OK) != (rows[i].want != NULL))
            fail_msg("'%s': %s", rows[i].selector, e == OK ? "taken" : info.text);
        if (e == OK)
            assert_true(str_equal(row.key[0].selector, str_of(rows[i].want)));
        if (e != OK)
            assert_string_equal(info.field, "selector");
    }
}

static void a_selector_is_given_once(void **state) {
    (void)state;
    struct sender_domain_key keys[] = {{STR("a"), buf_str(&pem)}, {STR("A"), buf_str(&pem)}};
    struct domain_row row;
    struct errinfo info = {0};
    assert_int_equal(
        sender_domain_import(STR("acme.test"), STR_NONE, keys, 2, 1, 1000, arena, &row, &info),
        ERR_INVALID);
}

/* What is beyond that would sign nothing, and nobody would be told. */
static void a_domain_has_no_more_keys_than_sign(void **state) {
    (void)state;
    struct sender_domain_key keys[] = {{STR("a"), buf_str(&pem)},
                                       {STR("b"), buf_str(&pem)},
                                       {STR("c"), buf_str(&pem)},
                                       {STR("d"), buf_str(&pem)},
                                       {STR("e"), buf_str(&pem)}};
    for (size_t count = 4; count <= 5; count++) {
        struct domain_row row;
        struct errinfo info = {0};
        enum err e = sender_domain_import(STR("acme.test"), STR_NONE, keys, count, 1, 1000, arena,
                                          &row, &info);
        assert_int_equal(e, count == 4 ? OK : ERR_INVALID);
        if (e != OK)
            assert_string_equal(info.text, "acme.test has 5 DKIM keys; a domain has at most 4");
    }
}

/* RFC 1035 2.3.4: a record that cannot be asked for can never verify the domain. */
static void the_records_name_is_a_name(void **state) {
    (void)state;
    static const char long_name[] =
        L63 "." L63 "." L63 ".aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    struct sender_domain_key key = {STR("s"), buf_str(&pem)};
    for (size_t n = sizeof long_name - 10; n <= sizeof long_name - 1; n++) {
        struct domain_row row;
        struct errinfo info = {0};
        struct str name = str_make(long_name, n);
        enum err e = sender_domain_import(name, STR_NONE, &key, 1, 1, 1000, arena, &row, &info);
        bool fits = strlen("s._domainkey.") + n <= 253;
        if ((e == OK) != fits)
            fail_msg("%zu octets: %s", n, e == OK ? "taken" : info.text);
    }
    struct domain_row row;
    assert_int_equal(sender_domain_make(str_of(long_name), STR_NONE, 1, 1000, arena, &row, NULL),
                     ERR_INVALID);
}

static void a_domain_is_made_with_a_pair_of_keys(void **state) {
    (void)state;
    struct domain_row row;
    assert_int_equal(sender_domain_make(STR("B\xc3\x9c"
                                            "cher.test"),
                                        STR("Bounce@B\xc3\xbc"
                                            "cher.test"),
                                        7, 1769860800123, arena, &row, NULL),
                     OK);
    assert_true(str_equal(row.name, STR("xn--bcher-kva.test")));
    assert_true(str_equal(row.bounce_address, STR("Bounce@xn--bcher-kva.test")));
    assert_int_equal(row.project, 7);
    assert_int_equal(row.verified_wall_ms, 0);
    assert_int_equal(row.key_count, 2);
    assert_true(str_equal(row.key[0].selector, STR("pc202601r")));
    assert_true(str_equal(row.key[1].selector, STR("pc202601e")));
    for (size_t i = 0; i < 2; i++) {
        struct dkim_key *key = NULL;
        assert_int_equal(dkim_key_parse_pem(row.key[i].pem, &key, NULL), OK);
        dkim_key_unref(&key);
    }
    sender_domain_wipe(&row);
    for (size_t i = 0; i < row.key[0].pem.n; i++)
        assert_int_equal(row.key[0].pem.p[i], 0);
    assert_int_equal(
        sender_domain_make(STR("acme.test"), STR("no address"), 7, 1, arena, &row, NULL),
        ERR_INVALID);
    assert_int_equal(sender_domain_make(STR("acme"), STR_NONE, 7, 1, arena, &row, NULL),
                     ERR_INVALID);
}

#define WORLD(t) cmocka_unit_test_setup_teardown(t, setup, teardown)

int main(void) {
    const struct CMUnitTest tests[] = {
        WORLD(selectors_are_labels),
        WORLD(a_selector_is_given_once),
        WORLD(a_domain_has_no_more_keys_than_sign),
        WORLD(the_records_name_is_a_name),
        WORLD(a_domain_is_made_with_a_pair_of_keys),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
