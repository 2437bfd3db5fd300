/* Which names one question asks for. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "server/net/dns_names.h"
#include "tests/unit/log_watch.h"

#define NUL_INSIDE "v\0.example"

static const struct {
    struct str name;
    bool use_search;
    const char *want; /* separated by spaces */
} names[] = {
    {STR("www.example.org"), false, "www.example.org"},
    {STR("postfix"), false, "postfix"},
    {STR("postfix"), true, "postfix.corp.example postfix.example.org postfix"},
    {STR("a.b"), true, "a.b a.b.corp.example a.b.example.org"},
    {STR("a.b.c"), true, "a.b.c"},
    {STR(""), true, ""},
    {STR("."), true, ""},
    {STR("a..b"), true, ""},
    {STR("a.b."), false, ""},
    {STR("a b"), false, ""},
    {STR("\xc3\xa4.example"), false, ""},
    {{NUL_INSIDE, sizeof NUL_INSIDE - 1}, false, ""},
    {{NUL_INSIDE, sizeof NUL_INSIDE - 1}, true, ""},
};

static void names_are_asked_for_in_their_order_or_not_at_all(void **state) {
    (void)state;
    const struct dns_names n = {
        .search = {"corp.example", "example.org"}, .search_count = 2, .ndots = 2};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        char out[DNS_NAMES_MAX][256], all[DNS_NAMES_MAX * 256] = "";
        size_t count = dns_names_collect(&n, names[i].name, names[i].use_search, out), at = 0;
        for (size_t k = 0; k < count; k++)
            at += (size_t)snprintf(all + at, sizeof all - at, "%s%s", k > 0 ? " " : "", out[k]);
        if (strcmp(all, names[i].want) != 0)
            fail_msg("'%.*s': '%s', not '%s'", STR_ARG(names[i].name), all, names[i].want);
    }
}

static void a_name_that_is_too_long_with_the_search_list_is_left_out(void **state) {
    (void)state;
    const struct dns_names n = {
        .search = {"this-suffix-is-longer.example"}, .search_count = 1, .ndots = 9};
    char name[240], out[DNS_NAMES_MAX][256];
    for (size_t i = 0; i < sizeof name - 1; i++)
        name[i] = i % 50 == 49 ? '.' : 'a';
    name[sizeof name - 1] = 'a';
    assert_int_equal(dns_names_collect(&n, str_make(name, sizeof name), true, out), 1);
}

static void what_only_a_local_resolver_knows_is_private(void **state) {
    (void)state;
    assert_true(dns_name_is_private(STR("postfix")));
    assert_true(dns_name_is_private(STR("mail.INTERNAL")));
    assert_true(dns_name_is_private(STR("a.home.arpa")));
    assert_false(dns_name_is_private(STR("internal.example.org")));
    assert_false(dns_name_is_private(STR("xinternal.org")));
}

static void a_name_is_in_its_zone(void **state) {
    (void)state;
    static const struct {
        const char *name, *zone;
        bool want;
    } table[] = {
        {"corp.test", "corp.test.", true},  {"a.corp.test", "corp.test", true},
        {"A.Corp.Test", "corp.test", true}, {"acorp.test", "corp.test", false},
        {"test", "corp.test", false},       {"corp.test", ".", false},
        {"corp.test", "", false},           {"", "corp.test", false},
    };
    for (size_t i = 0; i < sizeof table / sizeof *table; i++)
        assert_int_equal(dns_name_is_below(str_of(table[i].name), str_of(table[i].zone)),
                         table[i].want);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_are_asked_for_in_their_order_or_not_at_all),
        cmocka_unit_test(a_name_that_is_too_long_with_the_search_list_is_left_out),
        cmocka_unit_test(a_name_is_in_its_zone),
        cmocka_unit_test(what_only_a_local_resolver_knows_is_private),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
