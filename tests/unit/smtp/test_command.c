/* T4, C12: what may stand in MAIL and RCPT. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "server/smtp/command.h"

static void test_mail_with_all_and_with_nothing(void **state) {
    (void)state;
    struct buf b = BUF_INIT(1024);
    struct command_mail m = {.from = STR("a@b.c"),
                             .with_size = true,
                             .size_bytes = 12,
                             .with_8bitmime = true,
                             .with_smtputf8 = true};
    assert_int_equal(command_mail(&b, &m), OK);
    assert_string_equal(b.p, "MAIL FROM:<a@b.c> SIZE=12 BODY=8BITMIME SMTPUTF8\r\n");
    buf_clear(&b);
    m = (struct command_mail){.from = STR("")};
    assert_int_equal(command_mail(&b, &m), OK);
    assert_string_equal(b.p, "MAIL FROM:<>\r\n");
    buf_release(&b);
}

static void test_no_octet_that_could_end_the_argument(void **state) {
    (void)state;
    for (int c = 0; c < 256; c++) {
        struct buf b = BUF_INIT(1024);
        char to[] = "a?b@c.d";
        to[1] = (char)c;
        bool is_fine = c > 0x20 && c < 0x7f && c != '<' && c != '>' && c != '"';
        enum err e = command_rcpt(&b, str_make(to, 7), false);
        if ((e == OK) != is_fine)
            fail_msg("octet %d: %s", c, err_name(e));
        assert_int_equal(b.n > 0, is_fine); /* nothing is written when it is refused */
        buf_release(&b);
    }
}

static void test_quoted_local_parts(void **state) {
    (void)state;
    static const struct {
        const char *to;
        bool is_fine;
    } rows[] = {{"\"a b\"@c.d", true},      {"\"<>\"@c.d", true},      {"\"a\\\"b\"@c.d", true},
                {"\"a\r\nb\"@c.d", false},  {"\"a@c.d", false},        {"\"a\\\r\"@c.d", false},
                {"\"a\" b@c.d", false},     {"\"a\\", false},          {"", false},
                {"\"a\\\x7f\"@c.d", false}, {"\"a\\\xfc\"@c.d", false}};
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct buf b = BUF_INIT(1024);
        if ((command_rcpt(&b, str_of(rows[i].to), true) == OK) != rows[i].is_fine)
            fail_msg("%s", rows[i].to);
        buf_release(&b);
    }
}

static void test_mail_is_refused_for_its_address(void **state) {
    (void)state;
    static const struct str rows[] = {{"a\r\nDATA@b.c", 12}, {"a b@c.d", 7}, {"a\0@b.c", 6}};
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct buf b = BUF_INIT(1024);
        struct command_mail m = {.from = rows[i]};
        assert_int_equal(command_mail(&b, &m), ERR_INVALID);
        assert_int_equal(b.n, 0);
        buf_release(&b);
    }
}

static void test_octets_above_127_only_with_SMTPUTF8(void **state) {
    (void)state;
    struct buf b = BUF_INIT(1024);
    assert_int_equal(command_rcpt(&b, STR("\xc3\xbc@c.d"), false), ERR_INVALID);
    assert_int_equal(command_rcpt(&b, STR("\xc3\xbc@c.d"), true), OK);
    buf_release(&b);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_mail_with_all_and_with_nothing),
        cmocka_unit_test(test_no_octet_that_could_end_the_argument),
        cmocka_unit_test(test_quoted_local_parts),
        cmocka_unit_test(test_mail_is_refused_for_its_address),
        cmocka_unit_test(test_octets_above_127_only_with_SMTPUTF8),
    };
    return cmocka_run_group_tests_name("command", tests, NULL, NULL);
}
