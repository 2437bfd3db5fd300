#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "server/net/dns_rdata.h"

#define WIRE(z) str_make(z, sizeof(z) - 1)

static int begin(void **state) {
    *state = arena_new();
    return 0;
}

static int end(void **state) {
    struct arena *a = *state;
    arena_free(&a);
    return 0;
}

static void a_name_is_text_in_lower_case_or_refused(void **state) {
    const struct {
        struct str in;
        const char *want; /* NULL: refused */
    } rows[] = {
        {WIRE("\2mx\7ExamplE\0"), "mx.example"},
        {WIRE("\0"), ""},
        {WIRE("\4_25-\1a\0"), "_25-.a"},
        {WIRE(""), NULL},
        {WIRE("\2mx"), NULL},        /* no root label */
        {WIRE("\5mx\0"), NULL},      /* label longer than what is there */
        {WIRE("\3a b\0"), NULL},     /* no host */
        {WIRE("\3a.b\0"), NULL},     /* would read as two labels */
        {WIRE("\1\0\0"), NULL},      /* a NUL in a label */
        {WIRE("\300\14\0\0"), NULL}, /* compressed */
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct str got;
        bool is_name = dns_rdata_name(rows[i].in, *state, &got);
        assert_int_equal(is_name, rows[i].want != NULL);
        if (is_name)
            assert_true(str_equal(got, str_of(rows[i].want)));
    }
}

static void an_mx_is_preference_and_host(void **state) {
    uint16_t preference;
    struct str host;
    assert_true(dns_rdata_mx(WIRE("\1\12\2mx\0"), *state, &preference, &host));
    assert_int_equal(preference, 266);
    assert_true(str_equal(host, STR("mx")));
    assert_true(dns_rdata_mx(WIRE("\0\0\0"), *state, &preference, &host));
    assert_int_equal(host.n, 0);
    assert_false(dns_rdata_mx(WIRE("\0\12"), *state, &preference, &host));
}

static void the_strings_of_a_text_are_joined(void **state) {
    struct str got;
    assert_true(dns_rdata_text(WIRE("\3a b\0\2\377c"), *state, &got));
    assert_true(str_equal(got, STR("a b\377c")));
    assert_true(dns_rdata_text(WIRE(""), *state, &got));
    assert_int_equal(got.n, 0);
    assert_false(dns_rdata_text(WIRE("\3ab"), *state, &got));
}

static void an_address_has_exactly_its_length(void **state) {
    (void)state;
    struct sockaddr_any ip;
    char text[SOCKADDR_TEXT_SIZE];
    struct str v6 = WIRE(" \1\15\270\0\0\0\0\0\0\0\0\0\0\0\1");
    assert_true(dns_rdata_ipv4(WIRE("\300\0\2\1"), &ip));
    sockaddr_print(&ip, text);
    assert_string_equal(text, "192.0.2.1:0");
    assert_true(dns_rdata_ipv6(v6, &ip));
    sockaddr_print(&ip, text);
    assert_string_equal(text, "[2001:db8::1]:0");
    assert_false(dns_rdata_ipv4(v6, &ip));
    assert_false(dns_rdata_ipv4(WIRE("\300\0\2"), &ip));
    assert_false(dns_rdata_ipv6(str_slice(v6, 0, 15), &ip));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_name_is_text_in_lower_case_or_refused, begin, end),
        cmocka_unit_test_setup_teardown(an_mx_is_preference_and_host, begin, end),
        cmocka_unit_test_setup_teardown(the_strings_of_a_text_are_joined, begin, end),
        cmocka_unit_test(an_address_has_exactly_its_length),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
