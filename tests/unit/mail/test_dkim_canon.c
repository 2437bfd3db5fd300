#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "server/mail/dkim_canon.h"

static void collect(void *context, struct str octets) {
    buf_put(context, octets);
}

/* The input is given in every possible two pieces, and octet by octet. */
static void test_K4_relaxed_body(void **state) {
    (void)state;
    static const struct {
        const char *title;
        struct str in, want;
    } rows[] = {
#define ROW(title, in, want)                                                                       \
    {                                                                                              \
        title, {in, sizeof in - 1}, {                                                              \
            want, sizeof want - 1                                                                  \
        }                                                                                          \
    }
        ROW("RFC 6376 3.4.5", " C \r\nD \t E\r\n\r\n\r\n", " C\r\nD E\r\n"),
        ROW("empty body", "", ""),
        ROW("one empty line", "\r\n", ""),
        ROW("empty lines only", "\r\n\r\n\r\n", ""),
        ROW("white space only", "  \t\r\n \r\n", ""),
        ROW("white space without a line end", "  \t", ""),
        ROW("no line end at the end", "a", "a\r\n"),
        ROW("white space, no line end at the end", "a \t ", "a\r\n"),
        ROW("empty lines inside stay", "a\r\n\r\n\r\nb\r\n", "a\r\n\r\n\r\nb\r\n"),
        ROW("empty lines in front stay", "\r\n\r\na\r\n", "\r\n\r\na\r\n"),
        ROW("white space lines become empty ones", "a\r\n \t\r\nb\r\n", "a\r\n\r\nb\r\n"),
        ROW("runs are one space", "a \t b  c\r\n", "a b c\r\n"),
        ROW("TAB alone is a space", "a\tb\r\n", "a b\r\n"),
        ROW("white space in front of a line is one space", "\t\ta\r\n", " a\r\n"),
        ROW("bare CR and LF are octets", "a\rb\nc\r\r\n", "a\rb\nc\r\r\n"),
        ROW("white space before a bare CR stays", "a \rb\r\n", "a \rb\r\n"),
        ROW("CR at the end", "a\r", "a\r\r\n"),
        ROW("CR alone", "\r", "\r\r\n"),
        ROW("8bit and NUL", "\xff\0\xc3\xa9 \r\n", "\xff\0\xc3\xa9\r\n"),
        ROW("dots are as they are", ".\r\n..\r\n", ".\r\n..\r\n"),
#undef ROW
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct buf out = BUF_INIT(4096);
        for (size_t cut = 0; cut <= rows[i].in.n + 1; cut++) {
            struct dkim_body_canon c = {.sink = collect, .context = &out};
            buf_clear(&out);
            if (cut <= rows[i].in.n) {
                dkim_body_canon_put(&c, str_slice(rows[i].in, 0, cut));
                dkim_body_canon_put(&c, str_from(rows[i].in, cut));
            } else {
                for (size_t k = 0; k < rows[i].in.n; k++)
                    dkim_body_canon_put(&c, str_slice(rows[i].in, k, k + 1));
            }
            dkim_body_canon_finish(&c);
            if (!str_equal(buf_str(&out), rows[i].want))
                fail_msg("%s, cut at %zu: '%s'", rows[i].title, cut, out.p);
        }
        buf_release(&out);
    }
}

static void test_K4_relaxed_header(void **state) {
    (void)state;
    static const struct {
        const char *in, *want;
    } rows[] = {
        {"A: X\r\n", "a:X"},
        {"B : Y\t\r\n\tZ  \r\n", "b:Y Z"},
        {"Subject:x", "subject:x"},
        {"SUBJECT:   x  \r\n", "subject:x"},
        {"Subject: a\r\n b\r\n\t c", "subject:a b c"},
        {"Subject:\r\n a", "subject:a"},
        {"Subject:", "subject:"},
        {"Subject: \r\n", "subject:"},
        {"Subject:\r\n \r\n", "subject:"},
        {"Subject: a:b : c", "subject:a:b : c"},
        {"Subject: A \xc3\x84", "subject:A \xc3\x84"},
        {"nothing", "nothing:"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct buf out = BUF_INIT(256);
        dkim_header_canon(str_of(rows[i].in), &out);
        assert_string_equal(out.p, rows[i].want);
        buf_release(&out);
    }
}

static void a_header_block_is_cut_into_fields(void **state) {
    (void)state;
    struct str rest =
        STR("A: 1\r\nB: 2\r\n\tfolded\r\n more\r\nodd line\r\n C : 3\r\nD:\r\n\r\nbody: x\r\n");
    static const char *const want[][2] = {
        {"A: 1\r\n", "A"},
        {"B: 2\r\n\tfolded\r\n more\r\n", "B"},
        {"odd line\r\n C : 3\r\n", "odd line\r\n C"},
        {"D:\r\n", "D"},
    };
    struct str field, name;
    for (size_t i = 0; i < sizeof want / sizeof *want; i++) {
        assert_true(dkim_next_field(&rest, &field, &name));
        assert_true(str_equal(field, str_of(want[i][0])));
        assert_true(str_equal(name, str_of(want[i][1])));
    }
    assert_false(dkim_next_field(&rest, &field, &name));
    assert_true(str_equal(rest, STR("\r\nbody: x\r\n")));
    rest = STR("A: 1");
    assert_true(dkim_next_field(&rest, &field, &name));
    assert_true(str_equal(field, STR("A: 1")) && rest.n == 0);
    assert_false(dkim_next_field(&rest, &field, &name));
    rest = STR("no colon\r\n");
    assert_true(dkim_next_field(&rest, &field, &name));
    assert_true(str_is_absent(name));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_K4_relaxed_body),
        cmocka_unit_test(test_K4_relaxed_header),
        cmocka_unit_test(a_header_block_is_cut_into_fields),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
