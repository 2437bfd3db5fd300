/* T1: whatever the message, the octets after 354 match ^([^\r\n\0]{0,999}\r\n)*\.\r\n$ with exactly
 * one terminator, or nothing is sent. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "server/base/buf.h"
#include "server/smtp/body.h"
#include "server/smtp/data.h"

/* Everything that body_next() yields, in pieces of at most `max`. */
static void write_wire(struct message_pieces m, size_t max, struct buf *wire) {
    struct body b;
    struct str piece;
    body_init(&b, m);
    while (body_next(&b, max, &piece)) {
        assert_true(piece.n > 0 && piece.n <= max);
        buf_put(wire, piece);
    }
    assert_false(body_next(&b, max, &piece));
    assert_int_equal(buf_status(wire), OK);
}

/* The regular expression, and that the terminator is the only line that is a dot alone. */
static bool is_clean_wire(struct str wire) {
    size_t line = 0;
    bool is_ended = false;
    for (size_t i = 0; i < wire.n; i++) {
        char c = wire.p[i];
        if (is_ended || c == '\0' || c == '\n')
            return false;
        if (c != '\r')
            continue;
        if (i + 1 == wire.n || wire.p[i + 1] != '\n' || i - line > 999)
            return false;
        is_ended = i - line == 1 && wire.p[line] == '.';
        line = i + 2;
        i++;
    }
    return is_ended && line == wire.n;
}

/* What a receiver that undoes the stuffing gets is the message, with a CRLF where none was. */
static void check_receiver(struct str wire, struct str message) {
    struct data_reader reader;
    struct buf got = BUF_INIT(1024 * 1024);
    data_init(&reader);
    assert_int_equal(data_read(&reader, &wire, &got), OK);
    assert_int_equal(wire.n, 0);
    size_t n = got.n;
    if (n == message.n + 2)
        n -= 2;
    assert_int_equal(n, message.n);
    if (n > 0)
        assert_memory_equal(got.p, message.p, n);
    buf_release(&got);
}

static void check_message(struct str prefix, struct str rest) {
    struct message_pieces m = {{prefix, rest}};
    struct buf whole = BUF_INIT(1024 * 1024), wire = BUF_INIT(1024 * 1024);
    bool is_8bit = false;
    struct errinfo info = {0};
    buf_put(&whole, prefix);
    buf_put(&whole, rest);
    if (body_check(m, &is_8bit, &info) != OK) {
        assert_true(info.text[0] != '\0');
        buf_release(&whole);
        return;
    }
    static const size_t steps[] = {8, 9, 64, 65536};
    for (size_t i = 0; i < sizeof(steps) / sizeof(steps[0]); i++) {
        buf_clear(&wire);
        write_wire(m, steps[i], &wire);
        if (!is_clean_wire(buf_str(&wire)))
            fail_msg("pieces of %zu: %zu octets are no clean wire", steps[i], wire.n);
        check_receiver(buf_str(&wire), buf_str(&whole));
    }
    buf_release(&whole);
    buf_release(&wire);
}

static void test_T1_known_octets(void **state) {
    (void)state;
    static const struct {
        const char *message, *wire;
    } rows[] = {
        {"", ".\r\n"},
        {"\r\n", "\r\n.\r\n"},
        {"a", "a\r\n.\r\n"},
        {"a\r\n", "a\r\n.\r\n"},
        {".", "..\r\n.\r\n"},
        {".\r\n", "..\r\n.\r\n"},
        {"..\r\n", "...\r\n.\r\n"},
        {"a\r\n.\r\nb\r\n", "a\r\n..\r\nb\r\n.\r\n"},
        {"\r\n.\r\n", "\r\n..\r\n.\r\n"},
        {"a.b\r\n.c.\r\n", "a.b\r\n..c.\r\n.\r\n"},
        {".\r\n.\r\n.\r\n", "..\r\n..\r\n..\r\n.\r\n"},
        {"............\r\n", ".............\r\n.\r\n"},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct message_pieces m = {{STR(""), str_of(rows[i].message)}};
        for (size_t max = 8; max < 20; max++) {
            struct buf wire = BUF_INIT(1024);
            bool is_8bit;
            assert_int_equal(body_check(m, &is_8bit, NULL), OK);
            write_wire(m, max, &wire);
            assert_string_equal(wire.p, rows[i].wire);
            buf_release(&wire);
        }
    }
}

/* RFC 3030 2: as it is, not stuffed, and its octets are counted. */
static void test_C37_T1_a_chunk_is_the_message_and_its_last_line_end(void **state) {
    (void)state;
    static const struct {
        const char *prefix, *rest, *chunk;
    } rows[] = {
        {"", "", ""},
        {"A: b\r\n", "", "A: b\r\n"},
        {"", "a", "a\r\n"},
        {"", "a\r\n", "a\r\n"},
        {"A: b\r\n", ".c", "A: b\r\n.c\r\n"},
        {"A: b\r\n", ".\r\n..\r\n.", "A: b\r\n.\r\n..\r\n.\r\n"},
        {"A: b\r\n", "\r\n.\r\n", "A: b\r\n\r\n.\r\n"},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct message_pieces m = {{str_of(rows[i].prefix), str_of(rows[i].rest)}};
        struct str piece[BODY_CHUNK_PIECES];
        struct buf all = BUF_INIT(1024);
        assert_int_equal(body_chunk(m, piece), strlen(rows[i].chunk));
        for (size_t k = 0; k < BODY_CHUNK_PIECES; k++)
            buf_put(&all, piece[k]);
        assert_true(str_equal(buf_str(&all), str_of(rows[i].chunk)));
        buf_release(&all);
    }
}

static void test_T1_lines_that_would_begin_a_message_are_found(void **state) {
    (void)state;
    static const struct {
        const char *prefix, *rest;
        bool has;
    } rows[] = {
        {"", "", false},
        {"A: b\r\n", "c: d\r\n\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\n.\r\n", false},
        {"", "DATA", true},
        {"", "dat", false},
        {"", "x\r\nDATA\r\n", true},
        {"", "x\r\n \tdAtA is dear\r\n", true},
        {"", "x\r\n\v\fBDAT\r\n", true},
        {"", "x\r\nBDAT 5 LAST\r\n", true},
        {"", "x\r\n\r\n  bdat\r\n", true},
        {"", "x DATA\r\nxBDAT\r\n", false},
        {"data: x\r\n", "", true},
        {"A: x\r\n", "BDAT", true},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct message_pieces m = {{str_of(rows[i].prefix), str_of(rows[i].rest)}};
        if (body_has_command(m) != rows[i].has)
            fail_msg("row %zu", i);
    }
}

static void test_a_dot_after_the_prefix_is_stuffed(void **state) {
    (void)state;
    struct message_pieces m = {{STR("A: b\r\n"), STR(".c\r\n")}};
    struct buf wire = BUF_INIT(1024);
    write_wire(m, 4096, &wire);
    assert_string_equal(wire.p, "A: b\r\n..c\r\n.\r\n");
    buf_release(&wire);
}

/* Each where a receiver that is too kind would see the end of the message. */
static void test_T1_false_endings_are_refused(void **state) {
    (void)state;
    static const struct str endings[] = {
#define E(s) {s, sizeof(s) - 1}
        E("\n.\n"),       E("\r.\r"),       E("\r\n.\n"),   E("\n.\r\n"),     E("\r.\n"),
        E("\r\n.\r"),     E("\r.\r\n"),     E("\n.\r"),     E("\r\n\0.\r\n"), E("\r\n.\0\r\n"),
        E("\r\r\n.\r\n"), E("\r\n.\r\r\n"), E("\n\n.\n\n"), E("\r\n.\r\n\n"),
#undef E
    };
    for (size_t i = 0; i < sizeof(endings) / sizeof(endings[0]); i++) {
        struct buf b = BUF_INIT(1024);
        bool is_8bit;
        struct errinfo info = {0};
        buf_putz(&b, "Subject: x\r\n\r\nhello");
        buf_put(&b, endings[i]);
        buf_putz(&b, "MAIL FROM:<evil@example>\r\n");
        struct message_pieces m = {{STR(""), buf_str(&b)}};
        if (body_check(m, &is_8bit, &info) != ERR_INVALID)
            fail_msg("ending %zu passes", i);
        struct message_pieces in_prefix = {{buf_str(&b), STR("")}};
        assert_int_equal(body_check(in_prefix, &is_8bit, &info), ERR_INVALID);
        buf_release(&b);
    }
}

static void test_limits_of_a_line(void **state) {
    (void)state;
    char line[1001];
    bool is_8bit;
    memset(line, '.', sizeof(line));
    memcpy(line + 998, "\r\n", 2);
    struct message_pieces m = {{STR(""), str_make(line, 1000)}};
    assert_int_equal(body_check(m, &is_8bit, NULL), OK);
    check_message(STR(""), str_make(line, 1000));
    memcpy(line + 998, ".\r\n", 3);
    m.piece[1] = str_make(line, 1001);
    assert_int_equal(body_check(m, &is_8bit, NULL), ERR_INVALID);
    memset(line, 'x', sizeof(line)); /* the same without an end */
    m.piece[1] = str_make(line, 998);
    assert_int_equal(body_check(m, &is_8bit, NULL), OK);
    m.piece[1] = str_make(line, 999);
    assert_int_equal(body_check(m, &is_8bit, NULL), ERR_INVALID);
}

static void test_a_prefix_is_whole_lines(void **state) {
    (void)state;
    bool is_8bit;
    struct message_pieces m = {{STR("A: b"), STR("\r\n")}};
    assert_int_equal(body_check(m, &is_8bit, NULL), ERR_INVALID);
}

static void test_8bit_is_seen(void **state) {
    (void)state;
    bool is_8bit = true;
    struct message_pieces m = {{STR("A: b\r\n"), STR("\r\nc\r\n")}};
    assert_int_equal(body_check(m, &is_8bit, NULL), OK);
    assert_false(is_8bit);
    m.piece[1] = STR("\r\nc\r\n\xc3\xa9\r\n\xc3\xa9");
    assert_int_equal(body_check(m, &is_8bit, NULL), OK);
    assert_true(is_8bit);
}

/* Every string of up to 7 of the octets that matter: 5^0 + … + 5^7 messages. */
static void test_T1_all_short_messages(void **state) {
    (void)state;
    static const char octets[] = {'\r', '\n', '.', 'a', '\0'};
    char text[7];
    for (size_t n = 0; n <= sizeof(text); n++) {
        size_t count = 1;
        for (size_t i = 0; i < n; i++)
            count *= sizeof(octets);
        for (size_t k = 0; k < count; k++) {
            for (size_t i = 0, rest = k; i < n; i++, rest /= sizeof(octets))
                text[i] = octets[rest % sizeof(octets)];
            check_message(STR(""), str_make(text, n));
        }
    }
}

/* Long messages of random lines that are mostly dots. */
static void test_T1_random_messages(void **state) {
    (void)state;
    uint64_t seed = 42;
    for (int round = 0; round < 200; round++) {
        struct buf b = BUF_INIT(64 * 1024), prefix = BUF_INIT(1024);
        for (int i = 0; i < 40; i++) {
            seed = seed * 6364136223846793005u + 1442695040888963407u;
            static const char *const parts[] = {".",     "\r\n",     "..\r\n",   "x",
                                                "\r\n.", "abcdefgh", "\r\n.\r\n"};
            buf_putz(i < 3 && round % 3 == 0 ? &prefix : &b, parts[(seed >> 33) % 7]);
        }
        if (prefix.n > 0)
            buf_putz(&prefix, "\r\n");
        check_message(buf_str(&prefix), buf_str(&b));
        buf_release(&b);
        buf_release(&prefix);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_T1_known_octets),
        cmocka_unit_test(test_C37_T1_a_chunk_is_the_message_and_its_last_line_end),
        cmocka_unit_test(test_T1_lines_that_would_begin_a_message_are_found),
        cmocka_unit_test(test_a_dot_after_the_prefix_is_stuffed),
        cmocka_unit_test(test_T1_false_endings_are_refused),
        cmocka_unit_test(test_limits_of_a_line),
        cmocka_unit_test(test_a_prefix_is_whole_lines),
        cmocka_unit_test(test_8bit_is_seen),
        cmocka_unit_test(test_T1_all_short_messages),
        cmocka_unit_test(test_T1_random_messages),
    };
    return cmocka_run_group_tests_name("body", tests, NULL, NULL);
}
