#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "server/base/buf.h"
#include "server/mail/compose.h"
#include "server/mail/encode.h"
#include "server/mail/header.h"
#include "tests/unit/mail/with_arena.h"

static uint64_t seed;

static size_t below(size_t n) { /* xorshift64* */
    seed ^= seed >> 12;
    seed ^= seed << 25;
    seed ^= seed >> 27;
    return (size_t)((seed * 0x2545F4914F6CDD1D) >> 33) % n;
}

static const struct submission_limits limits = {.recipients_max = 50,
                                                .message_bytes_max = 4 * 1024 * 1024};

static struct address address(const char *text) {
    struct address a;
    assert_int_equal(address_parse_named(&a, str_of(text), arena, NULL), OK);
    return a;
}

static struct compose_input input_of(const struct submission *s) {
    return (struct compose_input){
        .submission = s,
        .id = {{0x01, 0x93, 0xf3, 0xa2, 0x7c, 0x4e, 0x7a, 0xaa, 0x8b, 0xbb, 1, 2, 3, 4, 5, 6}},
        .date_wall_ms = 1769860800000,
        .seed = {1, 2, 3},
        .message_bytes_max = limits.message_bytes_max};
}

static struct composed must_compose(const struct submission *s) {
    struct faults faults;
    struct errinfo info = {0};
    struct composed c;
    struct compose_input in = input_of(s);
    faults_init(&faults, arena);
    submission_check(s, &limits, &faults);
    if (faults.count > 0)
        fail_msg("%.*s: %.*s", STR_ARG(faults.list[0].pointer), STR_ARG(faults.list[0].detail));
    if (compose(&in, &c, &info) != OK)
        fail_msg("%s", info.text);
    return c;
}

static struct str bytes_of(const struct composed *c) {
    return message_bytes(c->message).piece[1];
}

static bool has(const struct composed *c, const char *what) {
    return str_find(bytes_of(c), str_of(what)) >= 0;
}

static size_t header_count(const struct composed *c, const char *name) {
    size_t count = 0;
    struct str rest = bytes_of(c);
    while (!str_starts_with(rest, STR("\r\n"))) {
        size_t n = (size_t)str_find(rest, STR("\r\n"));
        struct str line = str_slice(rest, 0, n);
        count += str_starts_with_nocase(line, str_of(name)) && line.p[strlen(name)] == ':';
        rest = str_from(rest, n + 2);
    }
    return count;
}

/* T1, M1, M3, M4, M6, M12: what holds for the octets of every message. */
static void check_octets(const struct composed *c) {
    struct str rest = bytes_of(c);
    bool in_header = true;
    assert_true(str_ends_with(rest, STR("\r\n")));
    assert_int_equal(rest.n, message_size(c->message));
    assert_true(c->needs_smtputf8 || str_is_ascii(rest));
    while (rest.n > 0) {
        ptrdiff_t end = str_find(rest, STR("\r\n"));
        assert_true(end >= 0);
        struct str line = str_slice(rest, 0, (size_t)end);
        assert_true(line.n <= 998);
        assert_true(line.n == 0 || (!memchr(line.p, '\r', line.n) &&
                                    !memchr(line.p, '\n', line.n) && !memchr(line.p, 0, line.n)));
        in_header = in_header && line.n > 0;
        if (in_header)
            assert_true(str_trim(line).n > 0);
        rest = str_from(rest, line.n + 2);
    }
    static const char *const once[] = {"Date",         "From",         "Message-ID",
                                       "MIME-Version", "Content-Type", "To"};
    for (size_t i = 0; i < 5; i++)
        assert_int_equal(header_count(c, once[i]), 1);
    static const char *const at_most_once[] = {"Sender",  "Reply-To",    "To",        "Cc",
                                               "Subject", "In-Reply-To", "References"};
    for (size_t i = 0; i < sizeof at_most_once / sizeof *at_most_once; i++)
        assert_true(header_count(c, at_most_once[i]) <= 1);
    assert_int_equal(header_count(c, "Bcc"), 0);
    assert_true(has(c, "\r\nMIME-Version: 1.0\r\n"));
}

static const char *const nasty[] = {
    "",
    "\n.\n",
    "\r.\r",
    "\r\n.\n",
    "\n.\r\n",
    "\r.\n",
    "\r\n.\r",
    "\r\n.\r\n",
    "\n\n.\n\n",
    ".",
    "From x\n",
    ("a\x0c"
     "b"),
    "\r\r\n",
    "\n\r",
    "text",
    "a=b ",
    "\xc3\xbc",
    "\xf0\x9f\x99\x82",
    "--=_",
    "=\n",
    "\t\n",
    " \n",
    "Subject: x\n\n",
    "\xe6\x97\xa5",
    "\x01",
    "\x7f",
    "\r\nMAIL FROM:<a@b.example>\r\n",
    "plain words of text ",
};

static struct str random_text(size_t pieces_max) {
    struct buf b = BUF_INIT(1 << 20);
    for (size_t i = below(pieces_max); i > 0; i--) {
        if (below(20) == 0)
            for (size_t k = below(1500); k > 0; k--)
                buf_putc(&b, "abc .="[below(6)]);
        buf_putz(&b, nasty[below(sizeof nasty / sizeof *nasty)]);
    }
    struct str s = arena_dup(arena, buf_str(&b));
    buf_release(&b);
    return s;
}

static struct str random_line(size_t pieces_max) {
    static const char *const pieces[] = {"a",
                                         " ",
                                         "  ",
                                         ("Gr\xc3\xbc\xc3\x9f"
                                          "e"),
                                         "=?utf-8?q?x?=",
                                         "\"",
                                         "\\",
                                         "\xf0\x9f\x99\x82",
                                         ",",
                                         ".",
                                         "word",
                                         "<x>",
                                         "(c)",
                                         ";",
                                         "'"};
    struct buf b = BUF_INIT(200);
    for (size_t i = below(pieces_max); i > 0; i--)
        buf_putz(&b, pieces[below(sizeof pieces / sizeof *pieces)]);
    struct str s = arena_dup(arena, buf_str(&b));
    buf_release(&b);
    return s;
}

static void test_M1_M3_M4_M6_M12_T1_T12_octets_of_random_messages(void **state) {
    (void)state;
    seed = 1;
    for (int round = 0; round < 10000; round++) {
        arena_clear(arena);
        struct address to[3], cc[2], bcc[2];
        struct attachment at[3];
        struct header_field headers[2];
        struct submission s = {.from = address("no-reply@example.org")};
        for (size_t i = 0; i < 3; i++)
            to[i] = address(below(20) ? "Ann <ann@example.net>" : "j\xc3\xb6rg@example.net");
        for (size_t i = 0; i < 2; i++) {
            cc[i] = address("\"a..b\"@b\xc3\xbc"
                            "cher.example");
            cc[i].name = random_line(8);
            bcc[i] =
                address(i ? "Zq7hidden <zq7hidden@zq7secret.example>" : "zq7hidden@zq7.example");
            headers[i] = (struct header_field){i ? STR("X-One") : STR("Y-Two"), random_line(40)};
        }
        s.from.name = random_line(10);
        s.to = (struct address_list){to, below(4)};
        s.cc = (struct address_list){cc, below(3)};
        s.bcc = (struct address_list){bcc, 1 + below(2)};
        s.subject = random_line(40);
        if (below(5))
            s.text = random_text(30);
        if (below(2) || str_is_absent(s.text))
            s.html = random_text(30);
        for (size_t i = 0; i < 3; i++) {
            at[i] = (struct attachment){.content = random_text(30)};
            struct str name = random_line(20);
            if (str_find_char(name, '\\') < 0)
                at[i].filename = arena_printf(arena, "f%.*s", STR_ARG(name));
            if (below(3) == 0)
                at[i].content_type = STR("message/rfc822");
            if (below(3) == 0)
                at[i].cid = arena_printf(arena, "c%zu", i);
        }
        s.attachments = at;
        s.attachment_count = below(4);
        s.headers = headers;
        s.header_count = below(3);
        struct composed c = must_compose(&s);
        check_octets(&c);
        assert_false(has(&c, "zq7"));
        assert_false(has(&c, "enE3")); /* in base64, at each of the three offsets */
        assert_false(has(&c, "pxN2hpZGRl"));
        assert_false(has(&c, "6cTdoaWRkZW"));
        message_unref(&c.message);
    }
}

static void test_M9_destination_fields(void **state) {
    (void)state;
    static const struct {
        size_t to, cc, bcc;
        const char *has, *not_has;
    } rows[] = {
        {1, 0, 0, "\r\nTo: to@example.net\r\n", "Cc:"},
        {1, 1, 1, "\r\nTo: to@example.net\r\nCc: cc@example.net\r\n", "undisclosed"},
        {0, 1, 0, "\r\nCc: cc@example.net\r\n", "To:"},
        {0, 1, 1, "\r\nCc: cc@example.net\r\n", "To:"},
        {0, 0, 1, "\r\nTo: undisclosed-recipients:;\r\n", "Cc:"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct address to = address("to@example.net"), cc = address("cc@example.net"),
                       bcc = address("bcc@example.net");
        struct submission s = {.from = address("from@example.org"),
                               .to = {&to, rows[i].to},
                               .cc = {&cc, rows[i].cc},
                               .bcc = {&bcc, rows[i].bcc},
                               .text = STR("x")};
        struct composed c = must_compose(&s);
        if (!has(&c, rows[i].has) || has(&c, rows[i].not_has) || has(&c, "bcc"))
            fail_msg("row %zu: %.*s", i, STR_ARG(bytes_of(&c)));
        message_unref(&c.message);
    }
}

static struct submission simple(struct address *to) {
    *to = address("to@example.net");
    return (struct submission){
        .from = address("from@example.org"), .to = {to, 1}, .text = STR("x")};
}

static void test_M25_utf8_only_in_addresses_that_need_it(void **state) {
    (void)state;
    struct address to;
    struct submission s = simple(&to);
    s.subject = STR("Gr\xc3\xbc\xc3\x9f"
                    "e");
    struct composed c = must_compose(&s);
    assert_false(c.needs_smtputf8);
    message_unref(&c.message);
    to = address("J\xc3\xb6rg <j\xc3\xb6rg@b\xc3\xbc"
                 "cher.example>");
    c = must_compose(&s);
    assert_true(c.needs_smtputf8);
    assert_true(has(&c, "To: =?utf-8?B?SsO2cmc=?= <j\xc3\xb6rg@xn--bcher-kva.example>\r\n"));
    assert_true(has(&c, "Subject: =?utf-8?B?R3LDvMOfZQ==?=\r\n"));
    message_unref(&c.message);
    /* only in the envelope: the message itself is plain */
    struct address bcc = to;
    s.to = (struct address_list){&bcc, 0};
    s.bcc = (struct address_list){&bcc, 1};
    c = must_compose(&s);
    assert_false(c.needs_smtputf8);
    message_unref(&c.message);
}

static void check_list_id(const char *value, const char *want) {
    struct address to;
    struct submission s = simple(&to);
    struct header_field field = {STR("List-Id"), str_of(value)};
    s.headers = &field;
    s.header_count = 1;
    struct composed c = must_compose(&s);
    if (!has(&c, want))
        fail_msg("%s: %.*s", value, STR_ARG(bytes_of(&c)));
    message_unref(&c.message);
}

static void test_M22_no_encoded_word_in_the_quotes_of_a_list_id(void **state) {
    (void)state;
    static const struct {
        const char *value, *want;
    } rows[] = {
        {"News <n.acme.test>", "List-Id: News <n.acme.test>\r\n"},
        {"\"News, all\" <n.acme.test>", "List-Id: \"News, all\" <n.acme.test>\r\n"},
        {"<n.acme.test>", "List-Id: <n.acme.test>\r\n"},
        {"N\xc3\xa9ws <n.acme.test>", "List-Id: =?utf-8?B?TsOpd3M=?= <n.acme.test>\r\n"},
        {"\"N\xc3\xa9ws, a \\\"b\\\"\"  <n.acme.test>",
         "List-Id: =?utf-8?B?TsOpd3MsIGEgImIi?= <n.acme.test>\r\n"},
        {"<=?n?=.acme.test>", "List-Id: <=?n?=.acme.test>\r\n"},
        {"=?x <n.acme.test>", "List-Id: =?utf-8?B?PT94?= <n.acme.test>\r\n"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        check_list_id(rows[i].value, rows[i].want);
}

#define SPACES "                                                                                "

/* An encoded-word may not stand for the id, nor for the quotes (RFC 2047 5 (3)). */
static void test_M22_white_space_makes_no_encoded_word_of_a_list_id(void **state) {
    (void)state;
    _Static_assert(sizeof SPACES > HEADER_LINE + 1, "a run that fits into no line");
    static const struct {
        const char *value, *want;
    } rows[] = {
        {"News" SPACES "<n.acme.test>", "List-Id: News <n.acme.test>\r\n"},
        {"News" SPACES "all <n.acme.test>", "List-Id: News all <n.acme.test>\r\n"},
        {"News \t" SPACES "all" SPACES "of\tit <n.acme.test>",
         "List-Id: News all of it <n.acme.test>\r\n"},
        {"\"News" SPACES "all\" <n.acme.test>",
         "List-Id: \"News\r\n" SPACES "all\"\r\n <n.acme.test>\r\n"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        check_list_id(rows[i].value, rows[i].want);
}

/* 600 spaces between two words of a value: the field goes, in lines that receivers take. */
static void test_M1_white_space_of_a_field_makes_no_long_line(void **state) {
    (void)state;
    static const char *const names[] = {"X-A", "List-Id"};
    struct buf value = BUF_INIT(LIMIT_HEADER_VALUE);
    buf_putz(&value, "News");
    while (value.n < 2000)
        buf_putc(&value, ' ');
    buf_putz(&value, "<n.acme.test>");
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        struct address to;
        struct submission s = simple(&to);
        struct header_field field = {str_of(names[i]), buf_str(&value)};
        s.headers = &field;
        s.header_count = 1;
        s.subject = buf_str(&value);
        struct composed c = must_compose(&s);
        assert_true(encode_is_7bit(bytes_of(&c))); /* 998 octets among other things */
        assert_int_equal(has(&c, "List-Id: News <n.acme.test>\r\n"), i == 1);
        message_unref(&c.message);
    }
    buf_release(&value);
}

static void test_M8_the_message_id_is_the_id_at_the_senders_domain(void **state) {
    (void)state;
    struct address to;
    struct submission s = simple(&to);
    struct composed c = must_compose(&s);
    assert_string_equal(c.message_id_field, "<0193f3a2-7c4e-7aaa-8bbb-010203040506@example.org>");
    assert_true(has(&c, "\r\nMessage-ID: <0193f3a2-7c4e-7aaa-8bbb-010203040506@example.org>\r\n"));
    assert_true(str_starts_with(bytes_of(&c), STR("Date: Sat, 31 Jan 2026 12:00:00 +0000\r\n"
                                                  "From: from@example.org\r\n")));
    struct compose_input in = input_of(&s);
    assert_true(id_equal(message_id_of(c.message), &in.id));
    message_unref(&c.message);
}

static void test_M14_messages_are_never_base64(void **state) {
    (void)state;
    static const struct {
        const char *title;
        struct str content;
        const char *type, *encoding;
    } rows[] = {
        {"7bit", {"Subject: x\r\n\r\nhi\r\n", 18}, "message/rfc822", "7bit"},
        {"7bit, LF", {"Subject: x\n\nhi\n", 15}, "message/rfc822", "7bit"},
        {"8bit", {"Subject: \xc3\xbc\r\n\r\nhi\r\n", 19}, "application/octet-stream", "base64"},
        {"bare CR", {"Subject: x\rhi", 13}, "application/octet-stream", "base64"},
        {"NUL", {"Subject: x\0", 11}, "application/octet-stream", "base64"},
        {"mixed ends", {"Subject: x\r\n\n", 13}, "application/octet-stream", "base64"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct address to;
        struct submission s = simple(&to);
        struct attachment at = {.content = rows[i].content, .content_type = STR("message/rfc822")};
        s.attachments = &at;
        s.attachment_count = 1;
        struct composed c = must_compose(&s);
        char want[128];
        snprintf(want, sizeof want, "Content-Type: %s\r\nContent-Transfer-Encoding: %s\r\n",
                 rows[i].type, rows[i].encoding);
        if (!has(&c, want))
            fail_msg("%s: %.*s", rows[i].title, STR_ARG(bytes_of(&c)));
        check_octets(&c);
        message_unref(&c.message);
    }
}

/* With a content id, too, which makes it no more than something that can be referred to. */
static void test_an_attachment_has_the_disposition_that_was_asked_for(void **state) {
    (void)state;
    for (int i = 0; i < 4; i++) {
        struct address to;
        struct submission s = simple(&to);
        struct attachment at = {.content = STR("z"),
                                .filename = STR("f"),
                                .cid = i & 1 ? STR("c") : STR_NONE,
                                .is_inline = (i & 2) != 0};
        s.html = STR("<p>y");
        s.attachments = &at;
        s.attachment_count = 1;
        struct composed c = must_compose(&s);
        assert_true(has(&c, at.is_inline
                                ? "\r\nContent-Disposition: inline; filename=\"f\"\r\n"
                                : "\r\nContent-Disposition: attachment; filename=\"f\"\r\n"));
        assert_int_equal(has(&c, "\r\nContent-ID: <c>\r\n"), i & 1);
        message_unref(&c.message);
    }
}

/* RFC 2046 5.1.4: the last one is the best one; so it also is inside related. */
static void test_M21_plain_stands_before_html(void **state) {
    (void)state;
    for (int is_related = 0; is_related < 2; is_related++) {
        struct address to;
        struct submission s = simple(&to);
        struct attachment at = {.content = STR("z"), .cid = STR("c")};
        s.html = STR("<p>y");
        s.attachments = &at;
        s.attachment_count = (size_t)is_related;
        struct composed c = must_compose(&s);
        ptrdiff_t open = str_find(bytes_of(&c), STR("multipart/alternative")),
                  plain = str_find(bytes_of(&c), STR("\r\nContent-Type: text/plain;")),
                  html = str_find(bytes_of(&c), STR("\r\nContent-Type: text/html;"));
        assert_true(0 < open && open < plain && plain < html);
        message_unref(&c.message);
    }
}

/* RFC 5322 4: no white space before a colon, no empty place in a list, no route, no name of a zone,
 * no comment; what would be a phrase with a bare dot is quoted. */
static void test_M10_nothing_obsolete_is_written(void **state) {
    (void)state;
    struct address to[3] = {address("John Q. Public <jqp@example.net>"),
                            address("\"a(b)\" <b@example.net>"), address("c@[192.0.2.1]")};
    struct str references[2] = {STR("<a@b>"), STR("<c@d>")};
    struct header_field headers[] = {{STR("X-One"), STR("two words")}};
    struct submission s = {.from = address("F. <f@example.org>"),
                           .sender = address("s@example.org"),
                           .to = {to, 3},
                           .cc = {to, 1},
                           .reply_to = {to + 1, 1},
                           .subject = STR("s"),
                           .text = STR("x"),
                           .references = references,
                           .reference_count = 2,
                           .headers = headers,
                           .header_count = 1};
    struct composed c = must_compose(&s);
    assert_true(has(&c,
                    "\r\nTo: \"John Q. Public\" <jqp@example.net>, \"a(b)\" <b@example.net>,\r\n "
                    "c@[192.0.2.1]\r\n"));
    assert_true(has(&c, " +0000\r\n"));
    struct str rest = bytes_of(&c);
    while (!str_starts_with(rest, STR("\r\n"))) {
        struct str line = str_slice(rest, 0, (size_t)str_find(rest, STR("\r\n")));
        rest = str_from(rest, line.n + 2);
        assert_true(str_find(line, STR(",,")) < 0 && str_find(line, STR(", ,")) < 0 &&
                    str_find(line, STR("<@")) < 0);
        if (line.p[0] == ' ')
            continue;
        ptrdiff_t colon = str_find_char(line, ':');
        assert_true(colon > 0 && line.p[colon - 1] != ' ' && line.p[colon - 1] != '\t');
        assert_true((size_t)colon + 1 < line.n && line.p[colon + 1] == ' ');
    }
    message_unref(&c.message);
}

static void test_M19_attached_text_says_its_charset(void **state) {
    (void)state;
    static const struct {
        const char *type, *content, *want;
    } rows[] = {
        {"text/csv", "a,b", "Content-Type: text/csv\r\n"},
        {"text/csv", "\xc3\xbc", "Content-Type: text/csv; charset=\"utf-8\"\r\n"},
        {"text/csv", "\xfc", "Content-Type: text/csv; charset=\"unknown-8bit\"\r\n"},
        {"text/csv; charset=latin1", "\xfc", "Content-Type: text/csv; charset=latin1\r\n"},
        {"image/png", "\xfc", "Content-Type: image/png\r\n"},
        {NULL, "x", "Content-Type: application/octet-stream\r\n"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct address to;
        struct submission s = simple(&to);
        struct attachment at = {.content = str_of(rows[i].content),
                                .content_type = str_of(rows[i].type)};
        s.attachments = &at;
        s.attachment_count = 1;
        struct composed c = must_compose(&s);
        if (!has(&c, rows[i].want))
            fail_msg("%s: %.*s", rows[i].want, STR_ARG(bytes_of(&c)));
        message_unref(&c.message);
    }
}

static void test_T14_a_text_that_holds_the_boundary_gets_another(void **state) {
    (void)state;
    struct address to;
    struct submission s = simple(&to);
    s.html = STR("y");
    char last[64] = "";
    for (int i = 0; i < 5; i++) {
        struct composed c = must_compose(&s);
        struct str b = bytes_of(&c);
        ptrdiff_t at = str_find(b, STR("boundary=\"")) + 10;
        assert_true(at > 10);
        char boundary[64];
        snprintf(boundary, sizeof boundary, "%.34s", b.p + at);
        assert_string_not_equal(boundary, last);
        memcpy(last, boundary, sizeof last);
        /* two delimiters, the last one, the parameter: nothing else */
        size_t count = 0;
        for (struct str rest = b; (at = str_find(rest, str_of(boundary))) >= 0; count++)
            rest = str_from(rest, (size_t)at + 1);
        assert_int_equal(count, 4);
        s.text = arena_printf(arena, "%.*s\n--%s\nContent-Type: text/html\n\n<evil>\n--%s--\n",
                              STR_ARG(s.text), boundary, boundary);
        message_unref(&c.message);
    }
}

/* The random numbers repeat, and the author has seen the messages made with them: pieces of all the
 * boundaries so far stand in every content. The message still has the parts that were asked for. */
/* RFC 2369 3.4: "NO" is no list of URIs; lists are folded at their commas. */
static void test_M26_list_fields_are_written_by_their_syntax(void **state) {
    (void)state;
    struct address to;
    struct submission s = simple(&to);
    struct header_field headers[] = {
        {STR("List-Post"), STR("NO")},
        {STR("List-Unsubscribe"),
         STR("<https://u.example/one>,<mailto:u@u.example?subject=unsubscribe"
             "-from-the-list-of-all-lists>")},
        {STR("List-Id"), STR("News <news.u.example>")}};
    s.headers = headers;
    s.header_count = 3;
    struct composed c = must_compose(&s);
    assert_true(has(&c, "\r\nList-Post: NO\r\n"));
    assert_true(has(&c, "\r\nList-Unsubscribe: <https://u.example/one>,\r\n <mailto:u@u.example?"
                        "subject=unsubscribe-from-the-list-of-all-lists>\r\n"));
    assert_true(has(&c, "\r\nList-Id: News <news.u.example>\r\n"));
    message_unref(&c.message);
}

static void test_T14_boundaries_of_a_generator_that_repeats(void **state) {
    (void)state;
    seed = 1;
    enum { SEEN_MAX = 64 };
    static char seen[SEEN_MAX][40];
    size_t seen_count = 0;
    for (int round = 0; round < 3000; round++) {
        arena_clear(arena);
        struct str content[4];
        for (size_t i = 0; i < 4; i++) {
            struct buf b = BUF_INIT(1 << 16);
            for (size_t k = below(12); k > 0; k--) {
                struct str one = seen_count > 0 ? str_of(seen[below(seen_count)]) : STR("=_");
                static const char *const before[] = {"\r\n--", "\n--", "--", "", "\r\n-", "x--"};
                static const char *const after[] = {"\r\n", "--\r\n", "--", " \r\n", "x\n", ""};
                buf_putz(&b, before[below(6)]);
                buf_put(&b, str_slice(one, 0, below(4) ? one.n : below(one.n + 1)));
                buf_putz(&b, after[below(6)]);
            }
            content[i] = arena_dup(arena, b.n > 0 ? buf_str(&b) : STR("x"));
            buf_release(&b);
        }
        struct address to;
        struct submission s = simple(&to);
        struct attachment at[2] = {{.content = content[2], .content_type = STR("message/rfc822")},
                                   {.content = content[3], .cid = STR("c")}};
        s.text = content[0];
        s.html = content[1];
        s.attachments = at;
        s.attachment_count = 2;
        struct compose_input in = input_of(&s);
        struct composed c;
        memset(in.seed, (int)below(3), sizeof in.seed); /* it repeats */
        assert_int_equal(compose(&in, &c, NULL), OK);
        /* mixed(related(alternative(text, html), c), message): each boundary stands in its
         * parameter, before each part and at the end, and nowhere else */
        static const size_t want[] = {4, 4, 4};
        size_t found = 0;
        for (struct str rest = bytes_of(&c); found < 3; found++) {
            ptrdiff_t where = str_find(rest, STR("\r\n boundary=\"=_"));
            assert_true(where >= 0);
            rest = str_from(rest, (size_t)where + strlen("\r\n boundary=\""));
            char boundary[40];
            snprintf(boundary, sizeof boundary, "%.34s", rest.p);
            size_t count = 0;
            ptrdiff_t next;
            for (struct str all = bytes_of(&c); (next = str_find(all, str_of(boundary))) >= 0;
                 count++)
                all = str_from(all, (size_t)next + 1);
            assert_int_equal(count, want[found]);
            memcpy(seen[(size_t)(round * 3 + (int)found) % SEEN_MAX], boundary, 40);
            if (seen_count < SEEN_MAX)
                seen_count++;
        }
        message_unref(&c.message);
    }
}

static void a_message_has_a_ceiling(void **state) {
    (void)state;
    struct address to;
    struct submission s = simple(&to);
    struct composed c = must_compose(&s);
    size_t size = message_size(c.message);
    message_unref(&c.message);
    struct compose_input in = input_of(&s);
    struct errinfo info = {0};
    in.message_bytes_max = size;
    assert_int_equal(compose(&in, &c, &info), OK);
    message_unref(&c.message);
    in.message_bytes_max = size - 1;
    assert_int_equal(compose(&in, &c, &info), ERR_LIMIT);
    assert_null(c.message);
    assert_non_null(strstr(info.text, "larger"));
}

/* submission_check() was forgotten: nothing is injected all the same. */
static void test_T3_an_unchecked_submission_is_not_composed(void **state) {
    (void)state;
    struct address to;
    struct header_field h = {STR("X-A"), STR("b")};
    struct attachment at = {.content = STR("x"), .filename = STR("f"), .cid = STR("c")};
    struct str reference = STR("<a@b>");
    struct str evil = STR("x\r\nBcc: evil@example.net");
    struct str long_evil =
        STR("a header name that is too long, with a line end\r\nin it, and more than that");
    for (int i = 0; i < 11; i++) {
        struct submission s = simple(&to);
        struct header_field hh = h;
        struct attachment aa = at;
        s.headers = &hh;
        s.header_count = 1;
        s.attachments = &aa;
        s.attachment_count = 1;
        s.references = &reference;
        s.reference_count = 1;
        s.html = STR("h");
        struct str ref = evil;
        switch (i) {
        case 0:
            s.subject = evil;
            break;
        case 1:
            s.from.name = evil;
            break;
        case 2:
            to.email = evil;
            break;
        case 3:
            hh.name = evil;
            break;
        case 4:
            hh.value = evil;
            break;
        case 5:
            aa.filename = evil;
            break;
        case 6:
            aa.cid = evil;
            break;
        case 7:
            s.in_reply_to = evil;
            break;
        case 8:
            s.references = &ref;
            break;
        case 9:
            hh.name = long_evil;
            hh.value = STR("\xc3\xbc");
            break;
        default:
            to.name = evil;
            break;
        }
        struct compose_input in = input_of(&s);
        struct composed c;
        assert_int_equal(compose(&in, &c, NULL), ERR_INTERNAL);
        assert_null(c.message);
    }
}

static void an_unchecked_list_id_is_text(void **state) {
    (void)state;
    static const char *const rows[] = {"\xc3\xbc",      "=?",         "\xc3\xbc <", "\xc3\xbc >",
                                       "> \xc3\xbc <x", "\xc3\xbc <>"};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct address to;
        struct submission s = simple(&to);
        struct header_field h = {STR("List-Id"), str_of(rows[i])};
        s.headers = &h;
        s.header_count = 1;
        struct compose_input in = input_of(&s);
        struct composed c;
        assert_int_equal(compose(&in, &c, NULL), OK);
        check_octets(&c);
        assert_int_equal(header_count(&c, "List-Id"), 1);
        message_unref(&c.message);
    }
}

static void the_same_input_gives_the_same_bytes(void **state) {
    (void)state;
    struct address to;
    struct submission s = simple(&to);
    s.html = STR("<p>");
    struct composed a = must_compose(&s), b = must_compose(&s);
    assert_true(str_equal(bytes_of(&a), bytes_of(&b)));
    struct compose_input in = input_of(&s);
    in.seed[15] ^= 1;
    message_unref(&b.message);
    assert_int_equal(compose(&in, &b, NULL), OK);
    assert_false(str_equal(bytes_of(&a), bytes_of(&b)));
    message_unref(&a.message);
    message_unref(&b.message);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_M1_M3_M4_M6_M12_T1_T12_octets_of_random_messages,
                                        setup, teardown),
        cmocka_unit_test_setup_teardown(test_M9_destination_fields, setup, teardown),
        cmocka_unit_test_setup_teardown(test_M25_utf8_only_in_addresses_that_need_it, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_M22_no_encoded_word_in_the_quotes_of_a_list_id, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_M22_white_space_makes_no_encoded_word_of_a_list_id,
                                        setup, teardown),
        cmocka_unit_test_setup_teardown(test_M1_white_space_of_a_field_makes_no_long_line, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_M8_the_message_id_is_the_id_at_the_senders_domain,
                                        setup, teardown),
        cmocka_unit_test_setup_teardown(test_M14_messages_are_never_base64, setup, teardown),
        cmocka_unit_test_setup_teardown(test_M21_plain_stands_before_html, setup, teardown),
        cmocka_unit_test_setup_teardown(test_an_attachment_has_the_disposition_that_was_asked_for,
                                        setup, teardown),
        cmocka_unit_test_setup_teardown(test_M10_nothing_obsolete_is_written, setup, teardown),
        cmocka_unit_test_setup_teardown(test_M19_attached_text_says_its_charset, setup, teardown),
        cmocka_unit_test_setup_teardown(test_T14_a_text_that_holds_the_boundary_gets_another, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_M26_list_fields_are_written_by_their_syntax, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_T14_boundaries_of_a_generator_that_repeats, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(a_message_has_a_ceiling, setup, teardown),
        cmocka_unit_test_setup_teardown(test_T3_an_unchecked_submission_is_not_composed, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(an_unchecked_list_id_is_text, setup, teardown),
        cmocka_unit_test_setup_teardown(the_same_input_gives_the_same_bytes, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
