#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "server/mail/domain.h"
#include "tests/unit/mail/with_arena.h"

static void test_C29_names_become_a_labels(void **state) {
    (void)state;
    static const struct {
        const char *in;
        bool single_ok;
        const char *want;
    } rows[] = {
        {"example.net", false, "example.net"},
        {"EXAMPLE.Net", false, "example.net"},
        {"example.net.", false, "example.net"},
        {"postfix", true, "postfix"},
        {"postfix", false, NULL},
        {"postfix.", true, "postfix"},
        {"b\xc3\xbc"
         "cher.example",
         false, "xn--bcher-kva.example"},
        {"bu\xcc\x88"
         "cher.example",
         false, "xn--bcher-kva.example"}, /* not composed */
        {"fa\xc3\x9f.example", false, "xn--fa-hia.example"},
        {"xn--bcher-kva.example", false, "xn--bcher-kva.example"},
        {"xn--ls8h.example", false, "xn--ls8h.example"}, /* an emoji: IDNA 2003 only, but alive */
        {"a.b-c.d", false, "a.b-c.d"},
        {"", false, NULL},
        {".", true, NULL},
        {"..", true, NULL},
        {"a..b", false, NULL},
        {"a.b..", false, NULL},
        {".a.b", false, NULL},
        {"-a.b", false, NULL},
        {"a-.b", false, NULL},
        {"a_b.c", false, NULL},
        {"a b.c", false, NULL},
        {"a.b/c", false, NULL},
        {"a.b:25", false, NULL},
        {"[192.0.2.1]", false, NULL},
        {"192.0.2.1", false, NULL},
        {"1.2.3.4.5", false, NULL},
        {"4.example", false, "4.example"},
        {"a.b\n", false, NULL},
        {"\xff.example", false, NULL},
        {"\xe2\x80\x8b.example", false, NULL}, /* only a zero width space */
        {"a\xe2\x80\x8d"
         "b.example",
         false, NULL}, /* a joiner where none may be */
        {"\xd7\x90"
         "a.example",
         false, NULL}, /* mixed directions */
        {"x\xe2\x84\x80.example", false, NULL},
        {"\xe2\x84\x80.example", false, NULL}, /* maps to a/c */
        {"x\xe2\x84\x80.example", false, NULL},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct str got = STR_NONE;
        struct errinfo info = {0};
        enum err e = domain_parse(str_of(rows[i].in), rows[i].single_ok, arena, &got, &info);
        if (rows[i].want ? e != OK || !str_equal(got, str_of(rows[i].want))
                         : e != ERR_INVALID || info.text[0] == 0)
            fail_msg("'%s' -> %d '%.*s' (%s)", rows[i].in, e, STR_ARG(got), info.text);
    }
}

static void lengths_have_limits(void **state) {
    (void)state;
    char text[2000];
    struct str got;
    for (size_t n = 240; n < 270; n++) {
        for (size_t i = 0; i < n; i++)
            text[i] = i % 50 == 49 && i + 1 < n ? '.' : 'a';
        assert_int_equal(domain_parse(str_make(text, n), false, arena, &got, NULL),
                         n <= 253 ? OK : ERR_INVALID);
    }
    memset(text, 'a', sizeof text);
    assert_int_equal(domain_parse(str_make(text, sizeof text), true, arena, &got, NULL),
                     ERR_INVALID);
    for (size_t i = 0; i + 1 < sizeof text; i += 2)
        memcpy(text + i, "\xc3\xbc", 2);
    assert_int_equal(domain_parse(str_make(text, sizeof text), true, arena, &got, NULL),
                     ERR_INVALID);
}

static void within_means_label_by_label(void **state) {
    (void)state;
    static const struct {
        const char *domain, *parent;
        bool want;
    } rows[] = {
        {"example.net", "example.net", true},
        {"a.example.net", "example.net", true},
        {"a.b.example.net", "example.net", true},
        {"badexample.net", "example.net", false},
        {"net", "example.net", false},
        {"example.net", "a.example.net", false},
        {"example.net", "", false},
        {"A.Example.net", "example.NET", true},
        {"", "example.net", false},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        assert_int_equal(domain_is_within(str_of(rows[i].domain), str_of(rows[i].parent)),
                         rows[i].want);
}

static void people_see_unicode(void **state) {
    (void)state;
    assert_true(
        str_equal(domain_to_unicode(STR("xn--bcher-kva.example"), arena), STR("b\xc3\xbc"
                                                                              "cher.example")));
    assert_true(str_equal(domain_to_unicode(STR("example.net"), arena), STR("example.net")));
    /* no valid A-label: shown as it is */
    assert_true(str_equal(domain_to_unicode(STR("xn--\x01.net"), arena), STR("xn--\x01.net")));
    assert_true(domain_is_literal(STR("[192.0.2.1]")));
    assert_false(domain_is_literal(STR("[]")));
    assert_false(domain_is_literal(STR("example.net")));
    assert_false(domain_is_literal(STR_NONE));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_C29_names_become_a_labels, setup, teardown),
        cmocka_unit_test_setup_teardown(lengths_have_limits, setup, teardown),
        cmocka_unit_test_setup_teardown(within_means_label_by_label, setup, teardown),
        cmocka_unit_test_setup_teardown(people_see_unicode, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
