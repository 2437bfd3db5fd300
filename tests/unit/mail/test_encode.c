#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "server/base/base64.h"
#include "server/base/limits.h"
#include "server/mail/encode.h"

#define Q70 "1234567890123456789012345678901234567890123456789012345678901234567890"

static void test_M15_quoted_printable_is_written_by_the_rules(void **state) {
    (void)state;
    static const struct {
        const char *title, *in, *want;
    } rows[] = {
        {"empty", "", ""},
        {"ascii", "abc", "abc"},
        {"equals sign, upper-case hex", "a=b\xc3\xbc", "a=3Db=C3=BC"},
        {"LF becomes CRLF (M18)", "a\nb\n", "a\r\nb\r\n"},
        {"CR becomes CRLF", "a\rb\r", "a\r\nb\r\n"},
        {"CRLF stays", "a\r\nb\r\n", "a\r\nb\r\n"},
        {"mixed ends", "a\rb\nc\r\nd\n\re", "a\r\nb\r\nc\r\nd\r\n\r\ne"},
        {"CR CR LF is two ends", "a\r\r\nb", "a\r\n\r\nb"},
        {"space at the end of a line", "a \nb", "a=20\r\nb"},
        {"TAB at the end of a line", "a\t\nb", "a=09\r\nb"},
        {"space at the very end", "a ", "a=20"},
        {"space in the middle", "a  b", "a  b"},
        {"space only", " \n", "=20\r\n"},
        {"lone dot", ".\n..\n.a\n.", "=2E\r\n..\r\n.a\r\n=2E"},
        {"From at the start of a line", "From a\nXFrom \nFrom:\n>From x",
         "=46rom a\r\nXFrom=20\r\nFrom:\r\n>From x"},
        {"control characters", "\x01\x0c\x7f\x1b", "=01=0C=7F=1B"},
        {"76 without a break", Q70 "123456", Q70 "123456"},
        {"77 with a soft break at 75", Q70 "1234567", Q70 "12345=\r\n67"},
        {"an octet is not cut",
         Q70 "1234\xff"
             "x",
         Q70 "1234=\r\n=FFx"},
        {"an octet at the very end", Q70 "123\xff", Q70 "123=FF"},
        {"a word From after a soft break", Q70 "12345From x", Q70 "12345=\r\n=46rom x"},
        {"a dot alone after a soft break", Q70 "12345\xff.", Q70 "12345=\r\n=FF."},
        {"a dot last, moved by the break", Q70 "12345ab", Q70 "12345=\r\nab"},
        {"space before a soft break needs nothing", Q70 "1234 67", Q70 "1234 =\r\n67"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct buf out = BUF_INIT(1024);
        encode_text(str_of(rows[i].in), ENCODING_QUOTED_PRINTABLE, &out);
        if (buf_status(&out) != OK || !str_equal(buf_str(&out), str_of(rows[i].want)))
            fail_msg("%s: got '%s'", rows[i].title, out.p);
        buf_release(&out);
    }
}

static void test_M13_the_encoding_follows_the_text(void **state) {
    (void)state;
    static const struct {
        const char *title, *in;
        enum encoding want;
    } rows[] = {
        {"empty", "", ENCODING_7BIT},
        {"short ascii lines", "hello\nworld\r\n", ENCODING_7BIT},
        {"line of 78", Q70 "12345678\n", ENCODING_7BIT},
        {"line of 79", Q70 "123456789\n", ENCODING_QUOTED_PRINTABLE},
        {"equals signs are plain text", "a=b", ENCODING_7BIT},
        {"TAB inside", "a\tb", ENCODING_7BIT},
        {"white space at an end", "a \n", ENCODING_QUOTED_PRINTABLE},
        {"signature separator", "-- \nann", ENCODING_QUOTED_PRINTABLE},
        {"From", "From x\n", ENCODING_QUOTED_PRINTABLE},
        {"lone dot", "a\n.\nb", ENCODING_QUOTED_PRINTABLE},
        {"form feed",
         "a\x0c"
         "b and more text",
         ENCODING_QUOTED_PRINTABLE},
        {"DEL", "a\x7f and some text", ENCODING_QUOTED_PRINTABLE},
        {"a little beyond ASCII",
         "Gr\xc3\xbc\xc3\x9f"
         "e an alle im Haus",
         ENCODING_QUOTED_PRINTABLE},
        {"all beyond ASCII", "\xd0\x9f\xd1\x80\xd0\xb8\xd0\xb2\xd0\xb5\xd1\x82", ENCODING_BASE64},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        if (encode_choose(str_of(rows[i].in)) != rows[i].want)
            fail_msg("%s: %s", rows[i].title, encoding_name(encode_choose(str_of(rows[i].in))));
    }
    assert_string_equal(encoding_name(ENCODING_7BIT), "7bit");
    assert_string_equal(encoding_name(ENCODING_QUOTED_PRINTABLE), "quoted-printable");
    assert_string_equal(encoding_name(ENCODING_BASE64), "base64");
}

static void test_M16_base64_has_short_lines_of_canonical_text(void **state) {
    (void)state;
    char bytes[58];
    memset(bytes, 0, sizeof bytes);
    struct buf out = BUF_INIT(1024), back = BUF_INIT(1024);
    encode_base64_lines(str_make(bytes, 57), &out);
    assert_int_equal(out.n, 76);
    buf_clear(&out);
    encode_base64_lines(str_make(bytes, 58), &out);
    assert_int_equal(out.n, 76 + 2 + 4);
    assert_memory_equal(out.p + 76, "\r\nAA==", 6);
    buf_clear(&out);
    encode_base64_lines(STR(""), &out);
    assert_int_equal(out.n, 0);
    encode_text(STR("a\nb\rc\r\n"), ENCODING_BASE64, &out);
    assert_int_equal(base64_decode(buf_str(&out), &back), OK);
    assert_true(str_equal(buf_str(&back), STR("a\r\nb\r\nc\r\n")));
    buf_release(&out);
    buf_release(&back);
}

/* RFC 2046 4.1.1: whatever ends a line of a text, CRLF ends it in the message. */
static void test_M18_lines_of_text_end_in_CRLF(void **state) {
    (void)state;
    static const struct {
        const char *in, *want;
    } rows[] = {
        {"a\nb\n", "a\r\nb\r\n"},
        {"a\rb\r", "a\r\nb\r\n"},
        {"a\r\nb\r\n", "a\r\nb\r\n"},
        {"a\n\rb", "a\r\n\r\nb"},
        {"a\r\r\nb", "a\r\n\r\nb"},
        {"\n\n", "\r\n\r\n"},
        {"\r", "\r\n"},
        {"a", "a"},
        {"", ""},
    };
    struct buf out = BUF_INIT(1024), back = BUF_INIT(1024);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        for (int e = 0; e < ENCODING_COUNT; e++) {
            buf_clear(&out);
            buf_clear(&back);
            encode_text(str_of(rows[i].in), (enum encoding)e, &out);
            if (e == ENCODING_BASE64)
                assert_int_equal(base64_decode(buf_str(&out), &back), OK);
            else /* nothing in these rows is written as "=XX" */
                buf_put(&back, buf_str(&out));
            if (!str_equal(buf_str(&back), str_of(rows[i].want)))
                fail_msg("row %zu, %s", i, encoding_name((enum encoding)e));
        }
    }
    buf_release(&out);
    buf_release(&back);
}

static void the_ceiling_of_the_buffer_holds(void **state) {
    (void)state;
    for (size_t max = 0; max < 40; max++) {
        struct buf out = BUF_INIT(max);
        encode_text(STR("aaaa=aaaa\nbbbbbbbbbb \n"), ENCODING_QUOTED_PRINTABLE, &out);
        /* "aaaa=3Daaaa" CRLF "bbbbbbbbbb=20" CRLF */
        assert_int_equal(buf_status(&out), max >= 28 ? OK : ERR_LIMIT);
        buf_release(&out);
    }
}

static void test_M14_what_is_7bit(void **state) {
    (void)state;
    static char line[LIMIT_LINE + 3];
    memset(line, 'a', sizeof line);
    static const struct {
        struct str in;
        bool want;
    } rows[] = {
        {{"", 0}, true},           {{"a\r\nb\r\n", 6}, true}, {{"a\nb\n", 4}, true},
        {{"a\r\nb\n", 5}, false},  {{"a\nb\r\n", 5}, false},  {{"a\rb", 3}, false},
        {{"a\r", 2}, false},       {{"a\0b", 3}, false},      {{"a\x80", 2}, false},
        {{"\x7f\x01\t", 3}, true}, {{"\r\r\n", 3}, false},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        assert_int_equal(encode_is_7bit(rows[i].in), rows[i].want);
    assert_true(encode_is_7bit(str_make(line, LIMIT_LINE)));
    assert_false(encode_is_7bit(str_make(line, LIMIT_LINE + 1)));
    line[LIMIT_LINE] = '\r';
    line[LIMIT_LINE + 1] = '\n';
    assert_true(encode_is_7bit(str_make(line, LIMIT_LINE + 2)));
}

/* Octets of lines x length of the text would be hours here. */
static void lines_are_found_in_the_time_of_one_look_at_each_octet(void **state) {
    (void)state;
    static const char *const units[] = {"\r", "\n", "\r\n", "a\r", "a\n"};
    enum { OCTETS = 4 * 1024 * 1024 };
    char *text = mem_zalloc(OCTETS);
    for (size_t u = 0; u < sizeof units / sizeof *units; u++) {
        size_t unit = strlen(units[u]), lines = 0, octets = 0;
        for (size_t i = 0; i < OCTETS; i++)
            text[i] = units[u][i % unit];
        struct str rest = str_make(text, OCTETS), line;
        bool has_end;
        clock_t start = clock();
        while (encode_next_line(&rest, &line, &has_end)) {
            lines++;
            octets += line.n;
            assert_true(has_end);
            if (lines % 65536 == 0 && clock() - start > 20 * CLOCKS_PER_SEC)
                fail_msg("'%s' again and again: %zu lines in 20 s", units[u], lines);
        }
        assert_int_equal(lines, OCTETS / unit);
        assert_int_equal(octets, units[u][0] == 'a' ? OCTETS / 2 : 0);
    }
    free(text);
}

/* A line end at each place around the steps in which it is looked for. */
static void a_line_end_is_found_wherever_it_stands(void **state) {
    (void)state;
    static const char *const ends[] = {"\r", "\n", "\r\n", "\r\r\n"};
    enum { OCTETS = 3000 };
    char *text = mem_zalloc(OCTETS);
    for (size_t e = 0; e < sizeof ends / sizeof *ends; e++) {
        size_t n = strlen(ends[e]);
        for (size_t at = 0; at + n <= OCTETS; at++) {
            memset(text, 'a', OCTETS);
            memcpy(text + at, ends[e], n);
            struct str rest = str_make(text, OCTETS), line;
            bool has_end = false;
            assert_true(encode_next_line(&rest, &line, &has_end));
            assert_true(has_end);
            assert_int_equal(line.n, at);
            assert_int_equal(rest.n, OCTETS - at - (e == 3 ? 1 : n));
        }
    }
    free(text);
}

static bool stands_for_itself(unsigned char c) {
    return c == '\t' || (c >= ' ' && c <= '~' && c != '=');
}

/* Two octets of each kind in each place of a line: what looks at eight at once must not carry from
 * one to the next. */
static void each_octet_is_written_the_same_wherever_it_stands(void **state) {
    enum { LENGTH = 24 };
    (void)state;
    for (int first = 0; first < 256; first++) {
        for (size_t at = 0; at < LENGTH - 2; at++) {
            unsigned char second = (unsigned char)(first * 7 + (int)at * 31);
            char line[LENGTH + 1], want[3 * LENGTH + 1];
            memset(line, 'x', LENGTH);
            line[at] = (char)first;
            line[at + 1] = (char)second;
            if (memchr(line, '\r', LENGTH) != NULL || memchr(line, '\n', LENGTH) != NULL)
                continue;
            size_t n = 0;
            for (size_t i = 0; i < LENGTH; i++) {
                unsigned char c = (unsigned char)line[i];
                if (stands_for_itself(c))
                    want[n++] = (char)c;
                else
                    n += (size_t)snprintf(want + n, sizeof want - n, "=%02X", c);
            }
            struct buf out = BUF_INIT(1024);
            encode_text(str_make(line, LENGTH), ENCODING_QUOTED_PRINTABLE, &out);
            assert_int_equal(out.n, n);
            assert_memory_equal(out.p, want, n);
            buf_release(&out);
            bool is_plain = (stands_for_itself((unsigned char)first) || first == '=') &&
                            (stands_for_itself(second) || second == '=');
            assert_int_equal(encode_choose(str_make(line, LENGTH)) == ENCODING_7BIT, is_plain);
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_M15_quoted_printable_is_written_by_the_rules),
        cmocka_unit_test(test_M13_the_encoding_follows_the_text),
        cmocka_unit_test(test_M16_base64_has_short_lines_of_canonical_text),
        cmocka_unit_test(test_M18_lines_of_text_end_in_CRLF),
        cmocka_unit_test(the_ceiling_of_the_buffer_holds),
        cmocka_unit_test(test_M14_what_is_7bit),
        cmocka_unit_test(lines_are_found_in_the_time_of_one_look_at_each_octet),
        cmocka_unit_test(a_line_end_is_found_wherever_it_stands),
        cmocka_unit_test(each_octet_is_written_the_same_wherever_it_stands),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
