#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "server/base/limits.h"
#include "server/mail/header.h"
#include "tests/unit/mail/with_arena.h"

#define W50 "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
#define W500 W50 W50 W50 W50 W50 W50 W50 W50 W50 W50

static void expect(const char *title, struct buf *out, const char *want) {
    if (!str_equal(buf_str(out), str_of(want)))
        fail_msg("%s:\n%s\nnot\n%s", title, out->p, want);
    buf_clear(out);
}

static void test_M22_M23_unstructured_text_is_encoded_where_it_must_be(void **state) {
    (void)state;
    static const struct {
        const char *title, *in, *want;
    } rows[] = {
        {"plain", "Your code", "S: Your code\r\n"},
        {"empty", "", "S: \r\n"},
        {"runs of white space stay", "a   b", "S: a   b\r\n"},
        {"only the word that needs it",
         "Re: Gr\xc3\xbc\xc3\x9f"
         "e an alle",
         "S: Re: =?utf-8?B?R3LDvMOfZQ==?= an alle\r\n"},
        {"from the first to the last such word", "\xc3\xbc b \xc3\xbc c",
         "S: =?utf-8?B?w7wgYiDDvA==?= c\r\n"},
        {"base64 where it is shorter", "\xd0\x9f\xd1\x80\xd0\xb8", "S: =?utf-8?B?0J/RgNC4?=\r\n"},
        {"more than one space beside an encoded-word is inside", "a  \xc3\xbc  b",
         "S: a =?utf-8?Q?_=C3=BC_?= b\r\n"},
        {"a TAB beside an encoded-word: all of it", "a\t\xc3\xbc", "S: =?utf-8?B?YQnDvA==?=\r\n"},
        {"white space in front", " a", "S: =?utf-8?Q?_a?=\r\n"},
        {"white space at the end", "a ", "S: =?utf-8?Q?a_?=\r\n"},
        {"white space only", "  ", "S: =?utf-8?Q?__?=\r\n"},
        {"M23: what looks like an encoded-word", "a =?utf-8?Q?b?= c",
         "S: a =?utf-8?B?PT91dGYtOD9RP2I/PQ==?= c\r\n"},
        {"M23: half of one", "=?", "S: =?utf-8?B?PT8=?=\r\n"},
        {"folded at a space", W50 " " W50, "S: " W50 "\r\n " W50 "\r\n"},
        {"never right after the colon", W50 W50, "S: " W50 W50 "\r\n"},
        {"folded before a run of spaces", W50 "   " W50, "S: " W50 "\r\n   " W50 "\r\n"},
    };
    struct buf out = BUF_INIT(4096);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct header_writer w = HEADER_WRITER(&out);
        header_begin(&w, STR("S"));
        header_put_text(&w, str_of(rows[i].in));
        header_end(&w);
        assert_int_equal(header_status(&w), OK);
        expect(rows[i].title, &out, rows[i].want);
    }
    buf_release(&out);
}

/* RFC 2047 2, 5: 75 and 76, and no character is cut, whatever the text and the field name. */
static void test_M22_encoded_words_are_short_and_whole(void **state) {
    (void)state;
    static const char *const units[] = {"\xc3\xbc",
                                        "\xe6\x97\xa5",
                                        "\xf0\x9f\x99\x82",
                                        "\xc3\xbc"
                                        "ab ",
                                        "a\xe6\x97\xa5",
                                        W500};
    for (size_t u = 0; u < sizeof units / sizeof *units; u++) {
        for (size_t name = 1; name <= 75; name += 5) {
            struct buf text = BUF_INIT(4096), out = BUF_INIT(64 * 1024);
            while (text.n < 700)
                buf_putz(&text, units[u]);
            struct header_writer w = HEADER_WRITER(&out);
            header_begin(&w, str_make(W50 W50, name));
            header_put_text(&w, buf_str(&text));
            header_end(&w);
            assert_int_equal(header_status(&w), OK);
            struct str rest = buf_str(&out);
            size_t words = 0;
            while (rest.n > 0) {
                struct str line = str_slice(rest, 0, (size_t)str_find(rest, STR("\r\n")));
                rest = str_from(rest, line.n + 2);
                if (line.n > HEADER_LINE)
                    fail_msg("line of %zu: %.*s", line.n, STR_ARG(line));
                ptrdiff_t at = str_find(line, STR("=?utf-8?"));
                if (at < 0)
                    continue;
                words++;
                struct str word = str_from(line, (size_t)at);
                assert_true(word.n <= 75 && str_ends_with(word, STR("?=")));
                /* each Q word starts with a first octet of a character */
                struct str inside = str_slice(word, 10, word.n - 2);
                if (word.p[8] == 'Q' && inside.p[0] == '=')
                    assert_true(inside.p[1] >= 'C');
                if (word.p[8] == 'B')
                    assert_int_equal(inside.n % 4, 0);
            }
            assert_true(words > 1);
            buf_release(&text);
            buf_release(&out);
        }
    }
}

static void test_M11_M23_mailboxes_are_written_in_the_plainest_form(void **state) {
    (void)state;
    static const struct {
        const char *title, *email, *name, *want;
    } rows[] = {
        {"no name", "a@example.net", "", "F: a@example.net\r\n"},
        {"atoms", "a@example.net", "Ann B", "F: Ann B <a@example.net>\r\n"},
        {"specials are quoted", "a@example.net", "Acme, Inc.",
         "F: \"Acme, Inc.\" <a@example.net>\r\n"},
        {"quotes in a name", "a@example.net", "A \"B\" \\",
         "F: \"A \\\"B\\\" \\\\\" <a@example.net>\r\n"},
        {"two spaces", "a@example.net", "A  B", "F: \"A  B\" <a@example.net>\r\n"},
        {"beyond ASCII", "a@example.net", "J\xc3\xb6rg, X",
         "F: =?utf-8?B?SsO2cmcsIFg=?= <a@example.net>\r\n"},
        {"an address as a name is quoted", "a@example.net", "b@example.org",
         "F: \"b@example.org\" <a@example.net>\r\n"},
        {"what looks encoded is encoded (M23)", "a@example.net",
         "=?utf-8?Q?x?=", "F: =?utf-8?B?PT91dGYtOD9RP3g/PQ==?= <a@example.net>\r\n"},
        {"the address on its own line", W50 "@example.net", "A name, with a comma",
         "F: \"A name, with a comma\"\r\n <" W50 "@example.net>\r\n"},
        {"quoted local part", "\"a..b\"@example.net", "", "F: \"a..b\"@example.net\r\n"},
    };
    struct buf out = BUF_INIT(4096);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct address a;
        assert_int_equal(address_parse(&a, str_of(rows[i].email), arena, NULL), OK);
        assert_int_equal(address_set_name(&a, str_of(rows[i].name), arena, NULL), OK);
        struct header_writer w = HEADER_WRITER(&out);
        header_begin(&w, STR("F"));
        header_put_mailbox(&w, &a, false);
        header_end(&w);
        assert_int_equal(header_status(&w), OK);
        expect(rows[i].title, &out, rows[i].want);
    }
    buf_release(&out);
}

static void test_M1_long_names_keep_lines_short(void **state) {
    (void)state;
    char name[512];
    memset(name, '"', sizeof name);
    struct address a;
    struct buf out = BUF_INIT(64 * 1024);
    assert_int_equal(address_parse(&a, STR("a@example.net"), arena, NULL), OK);
    assert_int_equal(address_set_name(&a, str_make(name, sizeof name), arena, NULL), OK);
    struct header_writer w = HEADER_WRITER(&out);
    header_begin(&w, STR("From"));
    header_put_mailbox(&w, &a, false);
    header_end(&w);
    struct str rest = buf_str(&out);
    while (rest.n > 0) {
        size_t n = (size_t)str_find(rest, STR("\r\n"));
        assert_true(n <= HEADER_LINE);
        rest = str_from(rest, n + 2);
    }
    buf_release(&out);
}

static void test_M24_parameters_are_quoted_or_extended(void **state) {
    (void)state;
    static const struct {
        const char *title, *value, *want;
    } rows[] = {
        {"token", "a.pdf", "D: attachment; filename=\"a.pdf\"\r\n"},
        {"spaces and quotes", "a \"b\" \\.pdf",
         "D: attachment; filename=\"a \\\"b\\\" \\\\.pdf\"\r\n"},
        {"percent and quote are plain", "100%'s.pdf", "D: attachment; filename=\"100%'s.pdf\"\r\n"},
        {"long ASCII stays in one piece", W50 W50,
         "D: attachment;\r\n filename=\"" W50 W50 "\"\r\n"},
        {"beyond ASCII", "na\xc3\xafve.pdf", "D: attachment; filename*=utf-8''na%C3%AFve.pdf\r\n"},
        {"quote, star and percent are encoded", "\xc3\xbc'*%",
         "D: attachment; filename*=utf-8''%C3%BC%27%2A%25\r\n"},
        {"what looks encoded", "=?x?=", "D: attachment; filename*=utf-8''%3D%3Fx%3F%3D\r\n"},
        {"continued, whole characters",
         W50 "\xe6\x97\xa5\xe6\x97\xa5\xe6\x97\xa5\xe6\x97\xa5\xe6\x97\xa5\xe6\x97\xa5\xe6\x97\xa5"
             "\xe6\x97\xa5",
         "D: attachment;\r\n filename*0*=utf-8''" W50 ";\r\n"
         " filename*1*=%E6%97%A5%E6%97%A5%E6%97%A5%E6%97%A5%E6%97%A5%E6%97%A5;\r\n"
         " filename*2*=%E6%97%A5%E6%97%A5\r\n"},
    };
    struct buf out = BUF_INIT(4096);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct header_writer w = HEADER_WRITER(&out);
        header_begin(&w, STR("D"));
        header_put_word(&w, STR("attachment"));
        header_put_parameter(&w, "filename", str_of(rows[i].value));
        header_end(&w);
        assert_int_equal(header_status(&w), OK);
        expect(rows[i].title, &out, rows[i].want);
    }
    buf_release(&out);
}

/* White space is kept as it is, but it is no place to make a line of 998 longer. */
static void test_M1_white_space_keeps_lines_short(void **state) {
    (void)state;
    static const char fill[] = {' ', '\t'};
    for (size_t n = 1; n < 4096; n = n < 600 ? n + 7 : n * 2) {
        for (size_t k = 0; k < sizeof fill; k++) {
            struct buf text = BUF_INIT(16384), out = BUF_INIT(128 * 1024);
            buf_putz(&text, W50 " b ");
            for (size_t i = 0; i < n; i++)
                buf_putc(&text, fill[k]);
            buf_putz(&text, W50 W50 W50 W50 " c");
            struct header_writer w = HEADER_WRITER(&out);
            header_begin(&w, STR("X-A"));
            header_put_text(&w, buf_str(&text));
            header_end(&w);
            assert_int_equal(header_status(&w), OK);
            struct str rest = buf_str(&out);
            while (rest.n > 0) {
                struct str line = str_slice(rest, 0, (size_t)str_find(rest, STR("\r\n")));
                rest = str_from(rest, line.n + 2);
                if (line.n > LIMIT_LINE)
                    fail_msg("%zu of '%c': a line of %zu", n, fill[k], line.n);
                assert_true(str_trim(line).n > 0); /* M4 */
            }
            buf_release(&text);
            buf_release(&out);
        }
    }
}

static void test_T3_a_line_end_is_never_written(void **state) {
    (void)state;
    static const struct str bad[] = {{"a\rb", 3}, {"a\nb", 3}, {"a\0b", 3}, {"a\r\nBcc: x", 9}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        for (int how = 0; how < 5; how++) {
            struct buf out = BUF_INIT(4096);
            struct header_writer w = HEADER_WRITER(&out);
            struct address a = {.email = bad[i]},
                           b = {.email = STR("a@example.net"), .name = bad[i]};
            header_begin(&w, how == 4 ? bad[i] : STR("S"));
            if (how == 0)
                header_put_text(&w, bad[i]);
            else if (how == 1)
                header_put_word(&w, bad[i]);
            else if (how == 2)
                header_put_mailbox(&w, &a, false);
            else if (how == 3)
                header_put_mailbox(&w, &b, false);
            header_end(&w);
            assert_int_equal(header_status(&w), ERR_INTERNAL);
            assert_true(str_find(buf_str(&out), STR("\n")) < 0);
            buf_release(&out);
        }
    }
}

static void test_T3_text_for_headers_is_checked(void **state) {
    (void)state;
    static const struct {
        struct str in;
        bool allow_tab;
        enum header_text want;
    } rows[] = {
        {{"", 0}, false, HEADER_TEXT_OK},
        {{"abc \xc3\xbc", 6}, false, HEADER_TEXT_OK},
        {{"%0d%0a", 6}, false, HEADER_TEXT_OK},
        {{"a\tb", 3}, true, HEADER_TEXT_OK},
        {{"a\tb", 3}, false, HEADER_TEXT_CONTROL},
        {{"a\rb", 3}, true, HEADER_TEXT_CONTROL},
        {{"a\nb", 3}, true, HEADER_TEXT_CONTROL},
        {{"a\0b", 3}, true, HEADER_TEXT_CONTROL},
        {{"a\x0b"
          "b",
          3},
         true,
         HEADER_TEXT_CONTROL},
        {{"\x7f", 1}, true, HEADER_TEXT_CONTROL},
        {{"\xc2\x80", 2}, true, HEADER_TEXT_CONTROL},
        {{"\xc2\x85", 2}, true, HEADER_TEXT_CONTROL},
        {{"\xc2\x9f", 2}, true, HEADER_TEXT_CONTROL},
        {{"\xc2\xa0", 2}, true, HEADER_TEXT_OK},
        {{"\xe2\x80\xa7", 3}, true, HEADER_TEXT_OK},
        {{"\xe2\x80\xa8", 3}, true, HEADER_TEXT_CONTROL},
        {{"\xe2\x80\xa9", 3}, true, HEADER_TEXT_CONTROL},
        {{"\xe2\x80\xaa", 3}, true, HEADER_TEXT_OK},
        {{"\x85", 1}, true, HEADER_TEXT_NOT_UTF8},
        {{"\xc0\x8a", 2}, true, HEADER_TEXT_NOT_UTF8},
        {{"\xed\xa0\x80", 3}, true, HEADER_TEXT_NOT_UTF8},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        assert_int_equal(header_text_check(rows[i].in, rows[i].allow_tab), rows[i].want);
}

static void test_M2_header_names(void **state) {
    (void)state;
    for (int c = 0; c < 256; c++) {
        char name[3] = {'X', (char)c, 'Y'};
        assert_int_equal(header_is_name(str_make(name, 3)), c >= 33 && c <= 126 && c != ':');
    }
    assert_false(header_is_name(STR("")));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_M22_M23_unstructured_text_is_encoded_where_it_must_be,
                                        setup, teardown),
        cmocka_unit_test_setup_teardown(test_M22_encoded_words_are_short_and_whole, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_M11_M23_mailboxes_are_written_in_the_plainest_form,
                                        setup, teardown),
        cmocka_unit_test_setup_teardown(test_M1_long_names_keep_lines_short, setup, teardown),
        cmocka_unit_test_setup_teardown(test_M1_white_space_keeps_lines_short, setup, teardown),
        cmocka_unit_test_setup_teardown(test_M24_parameters_are_quoted_or_extended, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_T3_a_line_end_is_never_written, setup, teardown),
        cmocka_unit_test_setup_teardown(test_T3_text_for_headers_is_checked, setup, teardown),
        cmocka_unit_test_setup_teardown(test_M2_header_names, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
