/* What servers say to EHLO. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "server/smtp/capability.h"

static struct capability parse(const char *text) {
    struct reply r = {.code = 250, .text = str_of(text)};
    return capability_parse(&r);
}

static void test_all_keywords(void **state) {
    (void)state;
    struct capability c =
        parse("mx.test greets you\nPIPELINING\nSIZE 35882577\n8BITMIME\nSTARTTLS\n"
              "ENHANCEDSTATUSCODES\nSMTPUTF8\nCHUNKING\nAUTH PLAIN LOGIN XOAUTH2");
    assert_true(c.pipelining && c.chunking && c.eightbit && c.smtputf8 && c.enhanced && c.starttls);
    assert_true(c.auth_plain && c.auth_login && c.size_known);
    assert_int_equal(c.size_max, 35882577);
}

static void test_the_greeting_is_no_keyword(void **state) {
    (void)state;
    struct capability c = parse("PIPELINING\nHELP");
    assert_false(c.pipelining || c.chunking);
    c = parse("PIPELINING");
    assert_false(c.pipelining);
    c = parse("");
    assert_false(c.pipelining);
}

static void test_keywords_without_case_and_only_whole(void **state) {
    (void)state;
    struct capability c = parse("x\nPipelining\n8bitmimes\nXSTARTTLS\nSMTPUTF8 ignored words\n"
                                "chunkin\nX-CHUNKING\nCHUNKINGS");
    assert_true(c.pipelining && c.smtputf8);
    assert_false(c.eightbit || c.starttls || c.chunking);
}

static void test_sizes(void **state) {
    (void)state;
    static const struct {
        const char *line;
        uint64_t want;
    } rows[] = {{"SIZE", 0},
                {"SIZE 0", 0},
                {"SIZE 1", 1},
                {"size=7", 7},
                {"SIZE x", 0},
                {"SIZE -1", 0},
                {"SIZE 99999999999999999999999", 0}};
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        char text[64];
        snprintf(text, sizeof(text), "x\n%s", rows[i].line);
        struct capability c = parse(text);
        assert_true(c.size_known);
        assert_int_equal(c.size_max, rows[i].want);
    }
}

static void test_auth_the_old_way(void **state) {
    (void)state;
    struct capability c = parse("x\nAUTH=LOGIN\nAUTH CRAM-MD5");
    assert_true(c.auth_login);
    assert_false(c.auth_plain);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_all_keywords),
        cmocka_unit_test(test_the_greeting_is_no_keyword),
        cmocka_unit_test(test_keywords_without_case_and_only_whole),
        cmocka_unit_test(test_sizes),
        cmocka_unit_test(test_auth_the_old_way),
    };
    return cmocka_run_group_tests_name("capability", tests, NULL, NULL);
}
