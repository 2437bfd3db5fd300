#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "server/net/sockaddr.h"

static void addresses_survive_a_round_trip(void **state) {
    (void)state;
    static const struct {
        const char *in, *ip, *full;
        uint16_t port;
        bool v6;
    } rows[] = {
        {"192.0.2.1", "192.0.2.1", "192.0.2.1:25", 25, false},
        {"0.0.0.0", "0.0.0.0", "0.0.0.0:0", 0, false},
        {"255.255.255.255", "255.255.255.255", "255.255.255.255:65535", 65535, false},
        {"::1", "::1", "[::1]:587", 587, true},
        {"2001:DB8:0:0:0:0:0:1", "2001:db8::1", "[2001:db8::1]:25", 25, true},
        {"::ffff:192.0.2.1", "::ffff:192.0.2.1", "[::ffff:192.0.2.1]:25", 25, true},
        {"ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
         "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535", 65535, true},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct sockaddr_any a, b;
        char text[SOCKADDR_TEXT_SIZE];
        assert_int_equal(sockaddr_parse(str_of(rows[i].in), rows[i].port, &a), OK);
        sockaddr_print_ip(&a, text);
        assert_string_equal(text, rows[i].ip);
        assert_int_equal(sockaddr_parse(str_of(text), rows[i].port, &b), OK);
        assert_true(sockaddr_equal(&a, &b));
        sockaddr_print(&a, text);
        assert_string_equal(text, rows[i].full);
        assert_int_equal(sockaddr_port(&a), rows[i].port);
        assert_int_equal(sockaddr_is_ipv6(&a), rows[i].v6);
        sockaddr_set_port(&b, (uint16_t)(rows[i].port ^ 1));
        assert_false(sockaddr_equal(&a, &b));
    }
}

static void what_is_no_plain_address_is_refused(void **state) {
    (void)state;
    static const struct str rows[] = {
        STR(""),           STR("192.0.2"),      STR("192.0.2.256"), STR("192.0.2.1 "),
        STR(" 192.0.2.1"), STR("192.0.2.01x"),  STR("0x7f.0.0.1"),  STR("2130706433"),
        STR("[::1]"),      STR("fe80::1%eth0"), STR("::1::"),       STR("192.0.2.1:25"),
        STR("localhost"),  STR("::ffff:1.2.3"), STR("1.2.3.4\0"),   STR("::1\0"),
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct sockaddr_any a;
        assert_int_equal(sockaddr_parse(rows[i], 1, &a), ERR_INVALID);
        assert_int_equal(a.len, 0);
    }
}

static void no_address_is_only_like_no_address(void **state) {
    (void)state;
    struct sockaddr_any none = {0}, a;
    char text[SOCKADDR_TEXT_SIZE];
    assert_int_equal(sockaddr_parse(STR("192.0.2.1"), 0, &a), OK);
    assert_true(sockaddr_equal(&none, &none));
    assert_false(sockaddr_equal(&none, &a));
    assert_false(sockaddr_equal(&a, &none));
    sockaddr_print(&none, text);
    assert_string_equal(text, "");
    assert_int_equal(sockaddr_port(&none), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(addresses_survive_a_round_trip),
        cmocka_unit_test(what_is_no_plain_address_is_refused),
        cmocka_unit_test(no_address_is_only_like_no_address),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
