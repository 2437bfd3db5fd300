/* The argument of MAIL and RCPT as a server reads it, and the reader of a message's octets. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <string.h>
#include <cmocka.h>

#include "server/base/buf.h"
#include "server/smtp/data.h"
#include "server/smtp/path.h"

#define TEN "0123456789"
#define SIXTY TEN TEN TEN TEN TEN TEN
#define LONG SIXTY "." SIXTY "." SIXTY "."
#define LABELS "a." SIXTY "." SIXTY "." SIXTY

static void a_path_is_read_or_refused(void **state) {
    (void)state;
    static const struct {
        const char *text;
        enum err want;
        const char *mailbox, *parameters;
    } rows[] = {
        {"<a@b>", OK, "a@b", ""},
        {"   <a@b> SIZE=1  BODY=8BITMIME ", OK, "a@b", "SIZE=1  BODY=8BITMIME"},
        {"<>", OK, "", ""},
        {"<PostMaster>", OK, "PostMaster", ""},
        {"<\"a<b>\\\"c\"@d>", OK, "\"a<b>\\\"c\"@d", ""},
        {"<\"a b\"@d>", OK, "\"a b\"@d", ""},
        {"<@x,@y:a@b>", OK, "a@b", ""}, /* a source route is dropped */
        {"<a@b@c>", OK, "a@b@c", ""},
        {"<\xc3\xa9@b>", OK, "\xc3\xa9@b", ""},
        {"<" SIXTY "0123@b>", OK, SIXTY "0123@b", ""},
        {"<" SIXTY "0123@" LONG "123456>", OK, SIXTY "0123@" LONG "123456", ""}, /* 256 octets */
        {"<" SIXTY "0123@" LONG "1234567>", ERR_LIMIT, NULL, NULL},
        {"", ERR_INVALID, NULL, NULL},
        {"    ", ERR_INVALID, NULL, NULL},
        {"a@b", ERR_INVALID, NULL, NULL},
        {"<a@b", ERR_INVALID, NULL, NULL},
        {"<\"a@b>", ERR_INVALID, NULL, NULL},
        {"<\"a\\", ERR_INVALID, NULL, NULL},
        {"<a<@b>", ERR_INVALID, NULL, NULL},
        {"<a@b>x", ERR_INVALID, NULL, NULL},
        {"<a b@c>", ERR_INVALID, NULL, NULL},
        {"<a\x7f@c>", ERR_INVALID, NULL, NULL},
        {"<a\t@c>", ERR_INVALID, NULL, NULL},
        {"<\xff@b>", ERR_INVALID, NULL, NULL},
        {"<a>", ERR_INVALID, NULL, NULL},
        {"<a@>", ERR_INVALID, NULL, NULL},
        {"<@x>", ERR_INVALID, NULL, NULL},
        {"<@x:>", ERR_INVALID, NULL, NULL},
        {"<@x:@b>", ERR_INVALID, NULL, NULL},
        {"<" SIXTY "01234@b>", ERR_LIMIT, NULL, NULL},
        {"<" LABELS "@" LABELS ">", ERR_LIMIT, NULL, NULL},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct str mailbox = STR_NONE, parameters = STR_NONE;
        bool is_utf8 = false;
        enum err e = path_parse(str_of(rows[i].text), &mailbox, &parameters, &is_utf8);
        if (e != rows[i].want)
            fail_msg("%s: %s", rows[i].text, err_name(e));
        if (e != OK)
            continue;
        if (!str_equal(mailbox, str_of(rows[i].mailbox)) ||
            !str_equal(parameters, str_of(rows[i].parameters)))
            fail_msg("%s: %.*s, %.*s", rows[i].text, STR_ARG(mailbox), STR_ARG(parameters));
        assert_int_equal(is_utf8, (unsigned char)rows[i].text[1] > 127);
    }
}

static void a_message_is_read_octet_by_octet_or_at_once(void **state) {
    (void)state;
    static const struct {
        struct str in;
        enum err want;
        const char *out; /* as far as it was read */
    } rows[] = {
        {STR("a\r\n.\r\n"), OK, "a\r\n"},           {STR("..\r\n.\r\n"), OK, ".\r\n"},
        {STR(".a\r\n.\r\n"), OK, "a\r\n"},          {STR(".\r\n"), OK, ""},
        {STR("abc\r\n"), ERR_AGAIN, "abc\r\n"},     {STR("ab\0c\r\n.\r\n"), ERR_INVALID, "ab"},
        {STR("ab\nc\r\n.\r\n"), ERR_INVALID, "ab"}, {STR("ab\rc\r\n.\r\n"), ERR_INVALID, "ab"},
        {STR("ab\r\n.\rc"), ERR_INVALID, "ab\r\n"},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
        for (size_t step = 1; step <= rows[i].in.n; step++) {
            struct data_reader d;
            struct buf out = BUF_INIT(100);
            enum err e = ERR_AGAIN;
            data_init(&d);
            for (size_t at = 0; at < rows[i].in.n && e == ERR_AGAIN; at += step) {
                size_t end = at + step < rows[i].in.n ? at + step : rows[i].in.n;
                struct str in = str_slice(rows[i].in, at, end);
                e = data_read(&d, &in, &out);
            }
            if (e != rows[i].want || !str_equal(buf_str(&out), str_of(rows[i].out)))
                fail_msg("row %zu by %zu: %s, %.*s", i, step, err_name(e), STR_ARG(buf_str(&out)));
            buf_release(&out);
        }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_path_is_read_or_refused),
        cmocka_unit_test(a_message_is_read_octet_by_octet_or_at_once),
    };
    return cmocka_run_group_tests_name("path", tests, NULL, NULL);
}
