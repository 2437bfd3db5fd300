/* Replies as servers send them, and as attackers would. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "server/base/limits.h"
#include "server/mail/reply.h"

struct row {
    const char *name, *in;
    enum err want;
    int code;
    const char *enhanced, *text;
    size_t lines, left;
};

static const struct row rows[] = {
    {"one line", "250 OK\r\n", OK, 250, "", "OK", 1, 0},
    {"C14 bare code", "250\r\n", OK, 250, "", "", 1, 0},
    {"C14 code and space", "250 \r\n", OK, 250, "", "", 1, 0},
    {"C16 several lines", "250-a\r\n250-b\r\n250 c\r\n", OK, 250, "", "a\nb\nc", 3, 0},
    {"C16 last line without SP", "250-a\r\n250\r\n", OK, 250, "", "a\n", 2, 0},
    {"C16 the code changes", "250-a\r\n251 b\r\n", ERR_INVALID, 0, "", "", 0, 0},
    {"C15 code outside 2xx to 5xx", "199 x\r\n", ERR_INVALID, 0, "", "", 0, 0},
    {"C15 600", "600 x\r\n", ERR_INVALID, 0, "", "", 0, 0},
    {"C14 unknown code", "299 x\r\n", OK, 299, "", "x", 1, 0},
    {"C43 enhanced", "550 5.1.1 no such user\r\n", OK, 550, "5.1.1", "no such user", 1, 0},
    {"C43 enhanced alone", "250 2.0.0\r\n", OK, 250, "2.0.0", "", 1, 0},
    {"C43 enhanced on each line", "550-5.7.26 a\r\n550 5.7.26 b\r\n", OK, 550, "5.7.26", "a\nb", 2,
     0},
    {"C43 enhanced only on the first line", "550-5.7.1 a\r\n550 b\r\n", OK, 550, "5.7.1", "a\nb", 2,
     0},
    {"C43 another on the second line stays text", "550-5.7.1 a\r\n550 5.1.1 b\r\n", OK, 550,
     "5.7.1", "a\n5.1.1 b", 2, 0},
    {"C43 class contradicts the code", "250 5.1.1 fine\r\n", OK, 250, "", "5.1.1 fine", 1, 0},
    {"C43 unknown detail", "450 4.7.999 x\r\n", OK, 450, "4.7.999", "x", 1, 0},
    {"C43 four digits are none", "450 4.7.1000 x\r\n", OK, 450, "", "4.7.1000 x", 1, 0},
    {"C43 a version number is none", "250 2.0.0-rc1\r\n", OK, 250, "", "2.0.0-rc1", 1, 0},
    {"C43 no class 3", "354 3.0.0 go\r\n", OK, 354, "", "3.0.0 go", 1, 0},
    {"bare LF ends a line too", "250 OK\n", OK, 250, "", "OK", 1, 0},
    {"what follows stays", "250 a\r\n251 b\r\n", OK, 250, "", "a", 1, 7},
    {"no code", "hello\r\n", ERR_INVALID, 0, "", "", 0, 0},
    {"empty line", "\r\n", ERR_INVALID, 0, "", "", 0, 0},
    {"two digits", "25 OK\r\n", ERR_INVALID, 0, "", "", 0, 0},
    {"no separator", "250OK\r\n", ERR_INVALID, 0, "", "", 0, 0},
    {"HTTP", "HTTP/1.1 400 Bad Request\r\n", ERR_INVALID, 0, "", "", 0, 0},
    {"8-bit that is no UTF-8", "250 a\xff\xfe z\r\n", OK, 250, "", "a?? z", 1, 0},
    {"UTF-8", "250 gr\xc3\xbc\xc3\x9f\r\n", OK, 250, "", "gr\xc3\xbc\xc3\x9f", 1, 0},
    {"C1 control", "250 a\xc2\x9bz\r\n", OK, 250, "", "a??z", 1, 0},
    {"terminal escape", "250 \x1b[2Jx\x7f\r\n", OK, 250, "", "?[2Jx?", 1, 0},
    {"TAB is a space", "250 a\tb\r\n", OK, 250, "", "a b", 1, 0},
    {"CR inside", "250 a\rb\r\n", OK, 250, "", "a?b", 1, 0},
    {"unfinished", "250 OK", ERR_AGAIN, 0, "", "", 0, 0},
    {"unfinished after a line", "250-OK\r\n", ERR_AGAIN, 0, "", "", 0, 0},
};

static void check(const struct row *r, size_t step) {
    struct reply_parser *p = reply_parser_new();
    struct reply reply = {0};
    struct errinfo info = {0};
    size_t total = strlen(r->in), at = 0;
    enum err e = ERR_AGAIN;
    while (e == ERR_AGAIN && at < total) {
        size_t n = total - at < step ? total - at : step;
        struct str in = str_make(r->in + at, n);
        e = reply_parse(p, &in, &reply, &info);
        if (e == ERR_AGAIN)
            assert_int_equal(in.n, 0);
        at += n - in.n;
    }
    if (e != r->want)
        fail_msg("%s (step %zu): %s instead of %s: %s", r->name, step, err_name(e),
                 err_name(r->want), info.text);
    if (e == OK) {
        char enhanced[16];
        enhanced_code_print(reply.enhanced, enhanced);
        if (reply.code != r->code || strcmp(enhanced, r->enhanced) != 0 ||
            !str_equal(reply.text, str_of(r->text)) || reply.line_count != r->lines ||
            total - at != r->left)
            fail_msg("%s (step %zu): %d [%s] \"%.*s\" %zu lines, %zu left", r->name, step,
                     reply.code, enhanced, STR_ARG(reply.text), reply.line_count, total - at);
    } else if (e != ERR_AGAIN) {
        assert_true(info.text[0] != '\0');
        struct str good = STR("250 OK\r\n");
        assert_int_not_equal(reply_parse(p, &good, &reply, &info), OK); /* stays broken */
    }
    reply_parser_free(&p);
}

static void test_replies_in_one_piece_and_octet_by_octet(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        check(&rows[i], 4096);
        check(&rows[i], 1);
        check(&rows[i], 3);
    }
}

static void test_NUL_in_a_reply_is_made_visible(void **state) {
    (void)state;
    struct reply_parser *p = reply_parser_new();
    struct reply r;
    struct str in = str_make("250 a\0b\r\n", 9);
    assert_int_equal(reply_parse(p, &in, &r, NULL), OK);
    assert_true(str_equal(r.text, STR("a?b")));
    reply_parser_free(&p);
}

static void test_replies_one_after_the_other(void **state) {
    (void)state;
    struct reply_parser *p = reply_parser_new();
    struct reply r;
    struct str in = STR("250-2.1.0 a\r\n250 2.1.0 b\r\n550 5.1.1 c\r\n354 go\r\n");
    assert_int_equal(reply_parse(p, &in, &r, NULL), OK);
    assert_int_equal(r.line_count, 2);
    assert_int_equal(reply_parse(p, &in, &r, NULL), OK);
    assert_int_equal(r.code, 550);
    assert_int_equal(r.enhanced.subject, 1);
    assert_true(str_equal(r.text, STR("c")));
    assert_int_equal(reply_parse(p, &in, &r, NULL), OK);
    assert_int_equal(r.code, 354);
    assert_int_equal(r.enhanced.class_, 0);
    assert_int_equal(in.n, 0);
    assert_int_equal(reply_parse(p, &in, &r, NULL), ERR_AGAIN);
    reply_parser_free(&p);
}

/* T8: feeds `unit` until the parser gives up; it may not take more than `most` octets. */
static enum err feed_endless(const char *head, const char *unit, size_t most) {
    struct reply_parser *p = reply_parser_new();
    struct reply r;
    struct errinfo info = {0};
    struct str in = str_of(head);
    enum err e = reply_parse(p, &in, &r, &info);
    for (size_t sent = 0; e == ERR_AGAIN; sent += strlen(unit)) {
        assert_true(sent <= most);
        in = str_of(unit);
        e = reply_parse(p, &in, &r, &info);
    }
    reply_parser_free(&p);
    return e;
}

static void test_T8_endless_replies_end_at_the_limits(void **state) {
    (void)state;
    char line[1024];
    memset(line, 'x', sizeof(line));
    memcpy(line, "250-", 4);
    memcpy(line + sizeof(line) - 3, "\r\n", 3);
    assert_int_equal(feed_endless("220 ", "xxxxxxxxxxxxxxxx", LIMIT_REPLY_LINE + 16), ERR_LIMIT);
    assert_int_equal(feed_endless("", "250-x\r\n", LIMIT_REPLY_LINES * 8), ERR_LIMIT);
    assert_int_equal(feed_endless("", line, LIMIT_REPLY + 2048), ERR_LIMIT);
    assert_int_equal(feed_endless("", "12345678", LIMIT_REPLY_LINE + 16), ERR_LIMIT);
}

static void test_limits_are_reached_not_passed(void **state) {
    (void)state;
    static char text[LIMIT_REPLY_LINE + 3];
    memset(text, 'x', sizeof(text));
    memcpy(text, "250 ", 4);
    memcpy(text + LIMIT_REPLY_LINE, "\n", 1);
    struct reply_parser *p = reply_parser_new();
    struct reply r;
    struct str in = str_make(text, LIMIT_REPLY_LINE + 1);
    assert_int_equal(reply_parse(p, &in, &r, NULL), OK);
    for (int i = 1; i < LIMIT_REPLY_LINES; i++) {
        in = STR("250-x\r\n");
        assert_int_equal(reply_parse(p, &in, &r, NULL), ERR_AGAIN);
    }
    in = STR("250 x\r\n");
    assert_int_equal(reply_parse(p, &in, &r, NULL), OK);
    assert_int_equal(r.line_count, LIMIT_REPLY_LINES);
    reply_parser_free(&p);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_replies_in_one_piece_and_octet_by_octet),
        cmocka_unit_test(test_NUL_in_a_reply_is_made_visible),
        cmocka_unit_test(test_replies_one_after_the_other),
        cmocka_unit_test(test_T8_endless_replies_end_at_the_limits),
        cmocka_unit_test(test_limits_are_reached_not_passed),
    };
    return cmocka_run_group_tests_name("reply", tests, NULL, NULL);
}
