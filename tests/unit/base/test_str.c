#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>

#include "server/base/str.h"

static void utf8_is_recognised_and_nothing_else(void **state) {
    (void)state;
    static const struct {
        const char *name;
        struct str in;
        bool utf8, ascii;
    } rows[] = {
        {"empty", {"", 0}, true, true},
        {"absent", {NULL, 0}, true, true},
        {"ascii", {"abc", 3}, true, true},
        {"NUL is a character", {"a\0b", 3}, true, true},
        {"two bytes", {"\xc3\xa9", 2}, true, false},
        {"three bytes", {"\xe2\x82\xac", 3}, true, false},
        {"four bytes", {"\xf0\x9f\x93\xa8", 4}, true, false},
        {"U+0080, the first of two bytes", {"\xc2\x80", 2}, true, false},
        {"U+0800, the first of three", {"\xe0\xa0\x80", 3}, true, false},
        {"U+10000, the first of four", {"\xf0\x90\x80\x80", 4}, true, false},
        {"U+D7FF, before the surrogates", {"\xed\x9f\xbf", 3}, true, false},
        {"U+E000, after the surrogates", {"\xee\x80\x80", 3}, true, false},
        {"U+10FFFF, the last", {"\xf4\x8f\xbf\xbf", 4}, true, false},
        {"overlong slash in two", {"\xc0\xaf", 2}, false, false},
        {"overlong 7F in two", {"\xc1\xbf", 2}, false, false},
        {"overlong in three", {"\xe0\x9f\xbf", 3}, false, false},
        {"overlong in four", {"\xf0\x8f\xbf\xbf", 4}, false, false},
        {"surrogate", {"\xed\xa0\x80", 3}, false, false},
        {"above U+10FFFF", {"\xf4\x90\x80\x80", 4}, false, false},
        {"F5 never begins", {"\xf5\x80\x80\x80", 4}, false, false},
        {"lone continuation", {"\x80", 1}, false, false},
        {"cut after two of three", {"\xe2\x82", 2}, false, false},
        {"cut after three of four", {"\xf0\x9f\x93", 3}, false, false},
        {"lead instead of continuation", {"\xe2\x82\xc3", 3}, false, false},
        {"Latin-1", {"caf\xe9", 4}, false, false},
        {"bad at the end", {"abc\xff", 4}, false, false},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        print_message("%s\n", rows[i].name);
        assert_int_equal(str_is_utf8(rows[i].in), rows[i].utf8);
        assert_int_equal(str_is_ascii(rows[i].in), rows[i].ascii);
    }
    assert_int_equal(str_utf8_length(STR("")), 0);
    assert_int_equal(str_utf8_length(STR("ab")), 1);
    assert_int_equal(str_utf8_length(STR("\xe2\x82\xac!")), 3);
    assert_int_equal(str_utf8_length(STR("\x80")), 0);
}

static void controls_are_found(void **state) {
    (void)state;
    static const struct {
        const char *name;
        struct str in;
        bool with_tab_allowed, without;
    } rows[] = {
        {"none", {"plain text", 10}, false, false},
        {"TAB", {"a\tb", 3}, false, true},
        {"LF", {"a\nb", 3}, true, true},
        {"CR", {"a\rb", 3}, true, true},
        {"NUL", {"a\0b", 3}, true, true},
        {"ESC", {"\x1b[31m", 5}, true, true},
        {"DEL", {"\x7f", 1}, true, true},
        {"C1 NEL", {"a\xc2\x85", 3}, true, true},
        {"C1 first and last", {"\xc2\x9f", 2}, true, true},
        {"U+00A0 is no control", {"\xc2\xa0", 2}, false, false},
        {"U+0100 is no control", {"\xc4\x80", 2}, false, false},
        {"C2 at the end", {"a\xc2", 2}, false, false},
        {"absent", {NULL, 0}, false, false},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        print_message("%s\n", rows[i].name);
        assert_int_equal(str_has_control(rows[i].in, true), rows[i].with_tab_allowed);
        assert_int_equal(str_has_control(rows[i].in, false), rows[i].without);
    }
}

static void numbers_are_parsed_strictly(void **state) {
    (void)state;
    static const struct {
        const char *in;
        uint64_t max;
        enum err want;
        uint64_t value;
    } rows[] = {
        {"0", 10, OK, 0},
        {"10", 10, OK, 10},
        {"007", 10, OK, 7},
        {"11", 10, ERR_INVALID, 0},
        {"18446744073709551615", UINT64_MAX, OK, UINT64_MAX},
        {"18446744073709551616", UINT64_MAX, ERR_INVALID, 0},
        {"18446744073709551620", UINT64_MAX, ERR_INVALID, 0},
        {"184467440737095516150", UINT64_MAX, ERR_INVALID, 0},
        {"", 10, ERR_INVALID, 0},
        {"+1", 10, ERR_INVALID, 0},
        {"-1", 10, ERR_INVALID, 0},
        {" 1", 10, ERR_INVALID, 0},
        {"1 ", 10, ERR_INVALID, 0},
        {"1x", 10, ERR_INVALID, 0},
        {"0x1", 10, ERR_INVALID, 0},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        print_message("%s\n", rows[i].in);
        uint64_t v = 4711;
        assert_int_equal(str_parse_u64(str_of(rows[i].in), rows[i].max, &v), rows[i].want);
        assert_true(v == (rows[i].want == OK ? rows[i].value : 4711));
    }
    uint64_t v;
    assert_int_equal(str_parse_u64(STR_NONE, 10, &v), ERR_INVALID);
}

static void comparing_follows_bytes_or_ascii_case(void **state) {
    (void)state;
    assert_true(str_equal(STR("a\0b"), STR("a\0b")));
    assert_false(str_equal(STR("a\0b"), STR("a\0c")));
    assert_true(str_equal(STR_NONE, STR("")));
    assert_false(str_equal(STR("A"), STR("a")));
    assert_true(str_equal_nocase(STR("ExAmPle.ORG"), STR("example.org")));
    assert_false(str_equal_nocase(STR("@"), STR("`")));
    assert_false(str_equal_nocase(STR("["), STR("{")));
    assert_false(str_equal_nocase(STR("\xc3\x89"), STR("\xc3\xa9"))); /* ASCII only */
    assert_true(str_compare(STR("a"), STR("b")) < 0);
    assert_true(str_compare(STR("a"), STR("ab")) < 0);
    assert_true(str_compare(STR("b"), STR("ab")) > 0);
    assert_true(str_compare(STR("\xff"), STR("a")) > 0);
    assert_int_equal(str_compare(STR_NONE, STR("")), 0);
}

static void beginnings_and_ends_are_recognised(void **state) {
    (void)state;
    assert_true(str_starts_with(STR("Subject: x"), STR("Subject:")));
    assert_false(str_starts_with(STR("subject: x"), STR("Subject:")));
    assert_true(str_starts_with_nocase(STR("subject: x"), STR("Subject:")));
    assert_false(str_starts_with(STR("Sub"), STR("Subject")));
    assert_true(str_starts_with(STR("x"), STR("")));
    assert_true(str_starts_with(STR_NONE, STR_NONE));
    assert_true(str_ends_with(STR("a.org"), STR(".org")));
    assert_false(str_ends_with(STR("a.ORG"), STR(".org")));
    assert_true(str_ends_with_nocase(STR("a.ORG"), STR(".org")));
    assert_false(str_ends_with(STR("org"), STR(".org")));
    assert_true(str_ends_with(STR_NONE, STR("")));
}

static void pieces_are_found_and_cut(void **state) {
    (void)state;
    assert_int_equal(str_find_char(STR("a@b@c"), '@'), 1);
    assert_int_equal(str_find_char(STR("abc"), '@'), -1);
    assert_int_equal(str_find_char(STR("ab\0c"), '\0'), 2);
    assert_int_equal(str_find_char(STR_NONE, 'a'), -1);
    assert_int_equal(str_find(STR("aab"), STR("ab")), 1);
    assert_int_equal(str_find(STR("ab"), STR("abc")), -1);
    assert_int_equal(str_find(STR("abc"), STR("")), 0);
    assert_int_equal(str_find(STR_NONE, STR("")), 0);
    assert_true(str_equal(str_slice(STR("abcd"), 1, 3), STR("bc")));
    assert_int_equal(str_slice(STR("abcd"), 4, 4).n, 0);
    assert_true(str_is_absent(str_slice(STR_NONE, 0, 0)));
    assert_true(str_equal(str_from(STR("abcd"), 3), STR("d")));
    assert_true(str_equal(str_trim(STR(" \t\r\na b\n ")), STR("a b")));
    assert_true(str_equal(str_trim(STR("\v")), STR("\v")));
    assert_false(str_is_absent(str_trim(STR("  "))));
    assert_int_equal(str_trim(STR("  ")).n, 0);
}

static void splitting_gives_every_piece_once(void **state) {
    (void)state;
    static const struct {
        const char *in, *joined; /* pieces in brackets */
    } rows[] = {
        {"a,b,c", "[a][b][c]"}, {"", "[]"},       {",", "[][]"},        {"a,", "[a][]"},
        {",a", "[][a]"},        {"abc", "[abc]"}, {"a,,b", "[a][][b]"},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        char got[64] = "";
        size_t n = 0;
        struct str rest = str_of(rows[i].in);
        while (!str_is_absent(rest)) {
            struct str piece = str_split(&rest, ',');
            n += (size_t)snprintf(got + n, sizeof(got) - n, "[%.*s]", STR_ARG(piece));
        }
        assert_string_equal(got, rows[i].joined);
    }
}

static void a_copy_is_terminated(void **state) {
    (void)state;
    char *z = str_dupz(str_slice(STR("abcdef"), 1, 3));
    assert_string_equal(z, "bc");
    free(z);
    z = str_dupz(STR_NONE);
    assert_string_equal(z, "");
    free(z);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(utf8_is_recognised_and_nothing_else),
        cmocka_unit_test(controls_are_found),
        cmocka_unit_test(numbers_are_parsed_strictly),
        cmocka_unit_test(comparing_follows_bytes_or_ascii_case),
        cmocka_unit_test(beginnings_and_ends_are_recognised),
        cmocka_unit_test(pieces_are_found_and_cut),
        cmocka_unit_test(splitting_gives_every_piece_once),
        cmocka_unit_test(a_copy_is_terminated),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
