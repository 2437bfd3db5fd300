#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "server/base/buf.h"
#include "server/base/limits.h"
#include "server/mail/address.h"
#include "tests/unit/mail/with_arena.h"

#define A10 "aaaaaaaaaa"
#define A60 A10 A10 A10 A10 A10 A10
#define LABEL63 A60 "aaa"

/* want NULL: refused; name NULL: none */
static const struct {
    const char *title;
    struct str in;
    const char *want, *name;
} rows[] = {
#define ROW(title, in, want, name)                                                                 \
    { title, {in, sizeof in - 1}, want, name }
    ROW("plain", "ann@example.net", "ann@example.net", NULL),
    ROW("the local part keeps its case (C4), the domain is lower case", "Ann.B@Example.NET",
        "Ann.B@example.net", NULL),
    ROW("every atext character", "!#$%&'*+-/=?^_`{|}~@example.net",
        "!#$%&'*+-/=?^_`{|}~@example.net", NULL),
    ROW("one letter", "a@b.cc", "a@b.cc", NULL),
    ROW("digits", "123@456.example", "123@456.example", NULL),
    ROW("sub domain", "a@b.c.d.example", "a@b.c.d.example", NULL),
    ROW("hyphen inside a label", "a@x--y.example", "a@x--y.example", NULL),
    ROW("quotes that are not needed go", "\"ann\"@example.net", "ann@example.net", NULL),
    ROW("quotes that are needed stay", "\"a..b\"@example.net", "\"a..b\"@example.net", NULL),
    ROW("quoted quote", "\"a\\\"b\"@example.net", "\"a\\\"b\"@example.net", NULL),
    ROW("quoted backslash", "\"a\\\\b\"@example.net", "\"a\\\\b\"@example.net", NULL),
    ROW("a quoted-pair that is not needed goes", "\"\\a\\b\"@example.net", "ab@example.net", NULL),
    ROW("quoted comma", "\"a,b\"@example.net", "\"a,b\"@example.net", NULL),
    ROW("quoted dot at the end", "\"a.\"@example.net", "\"a.\"@example.net", NULL),
    ROW("IPv4 literal", "a@[192.0.2.1]", "a@[192.0.2.1]", NULL),
    ROW("IPv6 literal, canonical", "a@[IPv6:2001:DB8:0::1]", "a@[IPv6:2001:db8::1]", NULL),
    ROW("domain in Unicode",
        "a@b\xc3\xbc"
        "cher.example",
        "a@xn--bcher-kva.example", NULL),
    ROW("upper case beyond ASCII is mapped",
        "a@B\xc3\x9c"
        "CHER.example",
        "a@xn--bcher-kva.example", NULL),
    ROW("sharp s stays itself",
        "a@stra\xc3\x9f"
        "e.example",
        "a@xn--strae-oqa.example", NULL),
    ROW("ideographic full stop", "a@\xe4\xbe\x8b\xe3\x80\x82\xe3\x83\x86\xe3\x82\xb9\xe3\x83\x88",
        "a@xn--fsq.xn--zckzah", NULL),
    ROW("A-label as it is", "a@XN--bcher-KVA.example", "a@xn--bcher-kva.example", NULL),
    ROW("a homograph is another domain", "a@ex\xd0\xb0mple.net", "a@xn--exmple-4nf.net", NULL),
    ROW("local part in UTF-8", "j\xc3\xb6rg@example.net", "j\xc3\xb6rg@example.net", NULL),
    ROW("label of 63", "a@" LABEL63 ".example", "a@" LABEL63 ".example", NULL),
    ROW("local part of 64", A60 "aaaa@example.net", A60 "aaaa@example.net", NULL),

    ROW("empty", "", NULL, NULL),
    ROW("ideographic full stop at the end", "a@example.net\xe3\x80\x82", NULL, NULL),
    ROW("fullwidth full stop at the end", "a@example.net\xef\xbc\x8e", NULL, NULL),
    ROW("halfwidth full stop at the end", "a@example.net\xef\xbd\xa1", NULL, NULL),
    ROW("quoted @", "\"a@b\"@example.net", NULL, NULL),
    ROW("quoted @ by quoted-pair", "\"]\\@b\"@example.net", NULL, NULL),
    ROW("encoded word in quotes", "\"=?utf-8?q?a?=\"@example.net", NULL, NULL),
    ROW("encoded word", "=?utf-8?q?a?=@example.net", NULL, NULL),
    ROW("half an encoded word", "a=?b@example.net", "a=?b@example.net", NULL),
    ROW("the other half", "a?=b=?@example.net", "a?=b=?@example.net", NULL),
    ROW("no-break space in front",
        "\xc2\xa0"
        "a@example.net",
        NULL, NULL),
    ROW("no-break space inside",
        "a\xc2\xa0"
        "b@example.net",
        NULL, NULL),
    ROW("BOM in front",
        "\xef\xbb\xbf"
        "a@example.net",
        NULL, NULL),
    ROW("zero-width space",
        "a\xe2\x80\x8b"
        "b@example.net",
        NULL, NULL),
    ROW("right-to-left override",
        "a\xe2\x80\xae"
        "b@example.net",
        NULL, NULL),
    ROW("tag character",
        "a\xf3\xa0\x81\xa1"
        "b@example.net",
        NULL, NULL),
    ROW("fullwidth @ inside",
        "a\xef\xbc\xa0"
        "b@example.net",
        NULL, NULL),
    ROW("zero-width joiner, which scripts need",
        "a\xe2\x80\x8d"
        "b@example.net",
        "a\xe2\x80\x8d"
        "b@example.net",
        NULL),
    ROW("emoji", "\xf0\x9f\x99\x82@example.net", "\xf0\x9f\x99\x82@example.net", NULL),
    ROW("no @", "ann", NULL, NULL),
    ROW("only @", "@", NULL, NULL),
    ROW("no local part", "@example.net", NULL, NULL),
    ROW("empty quoted local part", "\"\"@example.net", NULL, NULL),
    ROW("no domain", "ann@", NULL, NULL),
    ROW("two @", "a@b@example.net", NULL, NULL),
    ROW("dot first", ".a@example.net", NULL, NULL),
    ROW("dot last", "a.@example.net", NULL, NULL),
    ROW("two dots", "a..b@example.net", NULL, NULL),
    ROW("space in the local part", "a b@example.net", NULL, NULL),
    ROW("space in a quoted local part (T4)", "\"a b\"@example.net", NULL, NULL),
    ROW("angle bracket in a quoted local part (T4)", "\"a>b\"@example.net", NULL, NULL),
    ROW("angle bracket by quoted-pair", "\"a\\<b\"@example.net", NULL, NULL),
    ROW("quote that does not end", "\"ann@example.net", NULL, NULL),
    ROW("backslash at the end", "\"ann\\", NULL, NULL),
    ROW("text after the quotes", "\"a\"b@example.net", NULL, NULL),
    ROW("obsolete mixed form", "\"a\".b@example.net", NULL, NULL),
    ROW("comma", "a,b@example.net", NULL, NULL),
    ROW("two addresses", "a@example.net,b@example.net", NULL, NULL),
    ROW("two addresses by semicolon", "a@example.net; b@example.net", NULL, NULL),
    ROW("comment in the local part", "a(c)@example.net", NULL, NULL),
    ROW("comment in the domain", "a@(c)example.net", NULL, NULL),
    ROW("comment at the end", "a@example.net(c)", NULL, NULL),
    ROW("group", "team: a@example.net;", NULL, NULL),
    ROW("source route", "<@relay.example:a@example.net>", NULL, NULL),
    ROW("percent is a character like any other", "a%b.example@example.net",
        "a%b.example@example.net", NULL),
    ROW("trailing dot of the domain", "a@example.net.", NULL, NULL),
    ROW("single label", "a@localhost", NULL, NULL),
    ROW("empty label", "a@example..net", NULL, NULL),
    ROW("domain starts with a dot", "a@.example.net", NULL, NULL),
    ROW("hyphen first", "a@-example.net", NULL, NULL),
    ROW("hyphen last", "a@example-.net", NULL, NULL),
    ROW("underscore in the domain", "a@ex_ample.net", NULL, NULL),
    ROW("space in the domain", "a@exam ple.net", NULL, NULL),
    ROW("IPv4 without brackets", "a@192.0.2.1", NULL, NULL),
    ROW("fullwidth digits are digits", "a@\xef\xbc\x91.\xef\xbc\x92", NULL, NULL),
    ROW("fullwidth @ is no @",
        "a\xef\xbc\xa0"
        "example.net",
        NULL, NULL),
    ROW("a character that maps to a slash", "a@x\xe2\x84\x80.example", NULL, NULL),
    ROW("IPv4 literal out of range", "a@[256.0.2.1]", NULL, NULL),
    ROW("IPv4 literal short form", "a@[127.1]", NULL, NULL),
    ROW("IPv6 literal without its tag", "a@[2001:db8::1]", NULL, NULL),
    ROW("IPv6 literal with a zone", "a@[IPv6:fe80::1%eth0]", NULL, NULL),
    ROW("empty literal", "a@[]", NULL, NULL),
    ROW("literal that does not end", "a@[192.0.2.1", NULL, NULL),
    ROW("text after a literal", "a@[192.0.2.1]x", NULL, NULL),
    ROW("label of 64", "a@" LABEL63 "a.example", NULL, NULL),
    ROW("local part of 65", A60 "aaaaa@example.net", NULL, NULL),
    ROW("domain of 255", "a@" LABEL63 "." LABEL63 "." LABEL63 "." LABEL63, NULL, NULL),
    ROW("address of 255", A10 A10 "@" LABEL63 "." LABEL63 "." LABEL63 "." A10 A10 A10 A10 "aa",
        NULL, NULL),
    ROW("CR", "a\r@example.net", NULL, NULL),
    ROW("LF", "a\n@example.net", NULL, NULL),
    ROW("CRLF and a command", "a@example.net>\r\nRCPT TO:<b@example.net", NULL, NULL),
    ROW("NUL", "a\0@example.net", NULL, NULL),
    ROW("NUL in the domain", "a@example\0.net", NULL, NULL),
    ROW("DEL", "a\x7f@example.net", NULL, NULL),
    ROW("TAB in quotes", "\"a\tb\"@example.net", NULL, NULL),
    ROW("CR by quoted-pair", "\"a\\\rb\"@example.net", NULL, NULL),
    ROW("C1 control", "a\xc2\x85@example.net", NULL, NULL),
    ROW("line separator", "a\xe2\x80\xa8@example.net", NULL, NULL),
    ROW("not UTF-8", "a\xff@example.net", NULL, NULL),
    ROW("overlong CR", "a\xc0\x8d@example.net", NULL, NULL),
    ROW("Latin-1 domain",
        "a@b\xfc"
        "cher.example",
        NULL, NULL),
    ROW("encoded-word is no way around", "=?utf-8?q?a@b?=", NULL, NULL),

    ROW("brackets alone", "<ann@example.net>", "ann@example.net", NULL),
    ROW("name", "Ann <ann@example.net>", "ann@example.net", "Ann"),
    ROW("name without a space", "Ann<ann@example.net>", "ann@example.net", "Ann"),
    ROW("name of several words", "Ann  Mary Example <ann@example.net>", "ann@example.net",
        "Ann Mary Example"),
    ROW("name with a dot", "John Q. Public <j@example.net>", "j@example.net", "John Q. Public"),
    ROW("name with an apostrophe", "Tim O'Reilly <t@example.net>", "t@example.net", "Tim O'Reilly"),
    ROW("name in UTF-8", "J\xc3\xb6rg \xf0\x9f\x99\x82 <j@example.net>", "j@example.net",
        "J\xc3\xb6rg \xf0\x9f\x99\x82"),
    ROW("quoted name", "\"Acme, Inc. <x>\" <a@example.net>", "a@example.net", "Acme, Inc. <x>"),
    ROW("quoted and unquoted words", "\"Dr.\" Ann <a@example.net>", "a@example.net", "Dr. Ann"),
    ROW("quoted-pairs in the name", "\"a \\\"b\\\" \\\\\" <a@example.net>", "a@example.net",
        "a \"b\" \\"),
    ROW("empty quoted name is none", "\"\" <a@example.net>", "a@example.net", NULL),
    ROW("an encoded-word in a name is text", "=?utf-8?q?x?= <a@example.net>", "a@example.net",
        "=?utf-8?q?x?="),
    ROW("quoted local part after a name", "Ann <\"a..b\"@example.net>", "\"a..b\"@example.net",
        "Ann"),
    ROW("space around", "  Ann <ann@example.net> ", "ann@example.net", "Ann"),
    ROW("comma in a name without quotes", "Acme, Inc <a@example.net>", NULL, NULL),
    ROW("address as a name without quotes", "a@b.example <c@example.net>", NULL, NULL),
    ROW("comment in a name", "Ann (home) <a@example.net>", NULL, NULL),
    ROW("list with names", "A <a@example.net>, B <b@example.net>", NULL, NULL),
    ROW("text after the bracket", "Ann <a@example.net> x", NULL, NULL),
    ROW("bracket not opened", "ann@example.net>", NULL, NULL),
    ROW("bracket not closed", "Ann <ann@example.net", NULL, NULL),
    ROW("empty brackets", "Ann <>", NULL, NULL),
    ROW("two brackets", "Ann <<ann@example.net>>", NULL, NULL),
    ROW("space inside the brackets", "Ann < ann@example.net >", NULL, NULL),
    ROW("name quote that does not end", "\"Ann <ann@example.net>", NULL, NULL),
    ROW("group with a name", "Team: Ann <ann@example.net>", NULL, NULL),
    ROW("CRLF in the name", "Ann\r\nBcc: x <ann@example.net>", NULL, NULL),
    ROW("TAB in the name", "Ann\tx <ann@example.net>", NULL, NULL),
    ROW("NUL in the name", "Ann\0 <ann@example.net>", NULL, NULL),
#undef ROW
};

static void test_T5_addresses_are_parsed_strictly(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct address got;
        struct errinfo info = {0};
        const char *want = rows[i].want;
        enum err e = address_parse_named(&got, rows[i].in, arena, &info);
        bool as_wanted = want ? e == OK && str_equal(got.email, str_of(want))
                              : e == ERR_INVALID && info.text[0] != 0 && got.email.n == 0;
        if (!as_wanted)
            fail_msg("%s: %s -> %d %.*s (%s)", rows[i].title, rows[i].in.p, e, STR_ARG(got.email),
                     info.text);
        if (rows[i].name && !str_equal(got.name, str_of(rows[i].name)))
            fail_msg("%s: name '%.*s'", rows[i].title, STR_ARG(got.name));
        if (!rows[i].name && !str_is_absent(got.name))
            fail_msg("%s: unexpected name '%.*s'", rows[i].title, STR_ARG(got.name));
    }
}

static void a_fault_says_what_is_wrong(void **state) {
    (void)state;
    static const struct {
        const char *text, *want;
    } faults[] = {
        {"a@example.net, b@example.net", "several addresses stand where one is taken"},
        {"a@example.net;b@example.net", "several addresses stand where one is taken"},
        {"A <a@example.net>, B <b@example.net>", "several addresses stand where one is taken"},
        {"a@example.net, B <b@example.net>", "several addresses stand where one is taken"},
        {"A <a@example.net>, b@example.net", "several addresses stand where one is taken"},
        {"\"A, a\" <a@example.net>, b@example.net", "several addresses stand where one is taken"},
        {"Ann <ann@example.net", "a '<' has no '>' after it"},
        {"<ann@example.net", "a '<' has no '>' after it"},
        {"\"<Ann>\" <ann@example.net", "a '<' has no '>' after it"},
        {"Ann <ann@example.net> x", "something stands after the '>'"},
        {"ann@example.net>", "a '>' has no '<' before it"},
        {"ann", "the address has no @"},
        {"\"a@b, c\" ann", "the address has a second @"},
        {"\"a\\\"@b, c@d\" ann", "the address has a second @"},
        {"Acme, Inc <a@example.net>",
         "the name has a ','; put the name in double quotes, or give it in a field of its own"},
        {"a@192.0.2.1", "an IP address stands in brackets after the @, as in [192.0.2.1]"},
        {"a@1.2", "the domain ends in a number, as no name does"},
        {"a@exa,mple.net", "the domain has a character that is no letter, digit or hyphen"},
    };
    for (size_t i = 0; i < sizeof faults / sizeof *faults; i++) {
        struct address out;
        struct errinfo info = {0};
        assert_int_equal(address_parse_named(&out, str_of(faults[i].text), arena, &info),
                         ERR_INVALID);
        if (strcmp(info.text, faults[i].want) != 0)
            fail_msg("%s: %s", faults[i].text, info.text);
    }
    struct address out;
    struct errinfo info = {0};
    assert_int_equal(address_parse(&out, STR("a@example.net,b@example.net"), arena, &info),
                     ERR_INVALID);
    assert_string_equal(info.text, "several addresses stand where one is taken");
}

/* What is stored, compared and sent is one form: reading it again changes nothing. */
static void nothing_and_too_much_are_refused(void **state) {
    (void)state;
    static char text[20000];
    struct arena *a = arena_new();
    struct address out;
    struct errinfo info = {0};
    memset(text, 'a', sizeof text);
    assert_int_equal(address_parse(&out, STR(""), a, &info), ERR_INVALID);
    assert_string_equal(info.text, "the address is empty");
    assert_int_equal(address_parse_named(&out, str_make(text, sizeof text), a, &info), ERR_INVALID);
    assert_string_equal(info.text, "the address is too long");
    assert_true(str_is_absent(out.email));
    arena_free(&a);
}

static void test_T4_printed_addresses_parse_to_themselves(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct address first, second;
        if (address_parse_named(&first, rows[i].in, arena, NULL) != OK)
            continue;
        assert_int_equal(address_parse(&second, first.email, arena, NULL), OK);
        assert_true(str_equal(first.email, second.email));
        assert_true(address_equal(&first, &second));
        for (size_t k = 0; k < first.email.n; k++) {
            unsigned char c = (unsigned char)first.email.p[k];
            assert_true(c > 0x20 && c != '<' && c != '>' && c != 0x7f);
        }
    }
}

/* No octet below 0x21, and no bracket, comes through any place of an address. */
static void test_T4_no_control_in_a_command_argument(void **state) {
    (void)state;
    static const char *const forms[] = {
        "a%cb@example.net", "\"a%cb\"@example.net", "\"a\\%cb\"@example.net", "a@exam%cple.net",
        "a@[192.0.%c2.1]",  "%ca@example.net",      "a@example.net%c"};
    for (size_t f = 0; f < sizeof forms / sizeof *forms; f++) {
        for (int c = 0; c < 256; c++) {
            char text[64];
            /* the format is one of the table above */
            struct str at = str_of(forms[f]);
            size_t cut = (size_t)str_find(at, STR("%c"));
            memcpy(text, at.p, cut);
            text[cut] = (char)c;
            memcpy(text + cut + 1, at.p + cut + 2, at.n - cut - 2);
            struct address got;
            enum err e = address_parse(&got, str_make(text, at.n - 1), arena, NULL);
            if (c <= 0x20 || c == '<' || c == '>' || c >= 0x7f)
                assert_int_equal(e, ERR_INVALID);
        }
    }
}

static void utf8_local_parts_are_marked(void **state) {
    (void)state;
    struct address a;
    assert_int_equal(address_parse(&a, STR("j\xc3\xb6rg@example.net"), arena, NULL), OK);
    assert_true(a.is_utf8_local);
    assert_int_equal(address_parse(&a,
                                   STR("j@b\xc3\xbc"
                                       "cher.example"),
                                   arena, NULL),
                     OK);
    assert_false(a.is_utf8_local);
    assert_true(str_equal(a.local, STR("j")));
    assert_true(str_equal(a.domain, STR("xn--bcher-kva.example")));
}

static void equal_means_the_same_mailbox(void **state) {
    (void)state;
    static const struct {
        const char *a, *b;
        bool want;
    } pairs[] = {
        {"a@example.net", "a@EXAMPLE.NET", true},
        {"A@example.net", "a@example.net", false},
        {"\"a\"@example.net", "a@example.net", true},
        {"a@b\xc3\xbc"
         "cher.example",
         "a@xn--bcher-kva.example", true},
        {"a@example.net", "a@example.org", false},
        {"X <a@example.net>", "Y <a@example.net>", true},
        {"a@[IPv6:2001:db8::1]", "a@[IPv6:2001:db8:0:0::1]", true},
    };
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
        struct address a, b;
        assert_int_equal(address_parse_named(&a, str_of(pairs[i].a), arena, NULL), OK);
        assert_int_equal(address_parse_named(&b, str_of(pairs[i].b), arena, NULL), OK);
        assert_int_equal(address_equal(&a, &b), pairs[i].want);
    }
}

static void names_are_checked_on_their_own(void **state) {
    (void)state;
    char long_name[LIMIT_DISPLAY_NAME + 2];
    memset(long_name, 'x', sizeof long_name);
    struct address a = {0};
    assert_int_equal(address_set_name(&a, STR("Acme, <Inc> \"x\""), arena, NULL), OK);
    assert_true(str_equal(a.name, STR("Acme, <Inc> \"x\"")));
    assert_int_equal(address_set_name(&a, STR(""), arena, NULL), OK);
    assert_true(str_is_absent(a.name));
    assert_int_equal(address_set_name(&a, str_make(long_name, LIMIT_DISPLAY_NAME), arena, NULL),
                     OK);
    assert_int_equal(address_set_name(&a, str_make(long_name, LIMIT_DISPLAY_NAME + 1), arena, NULL),
                     ERR_INVALID);
    static const char *const bad[] = {"a\rb",
                                      "a\nb",
                                      "a\r\nBcc: x",
                                      "a\tb",
                                      "a\x1b[0m",
                                      "\xff",
                                      "a\xc2\x9b"
                                      "b",
                                      "a\xe2\x80\xa9"
                                      "b",
                                      "\x7f"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_equal(address_set_name(&a, str_of(bad[i]), arena, NULL), ERR_INVALID);
}

/* What an outsider sends is never worth more than a few times its size in memory. */
static void memory_is_in_proportion_to_the_text(void **state) {
    (void)state;
    static const char *const units[] = {"\"\" ", "\"a\" ", "a ", "\"", "\\", "<"};
    for (size_t u = 0; u < sizeof units / sizeof *units; u++) {
        struct buf text = BUF_INIT(4096);
        while (text.n + strlen(units[u]) + 8 < 3000)
            buf_putz(&text, units[u]);
        buf_putz(&text, "<a@b.cc>");
        struct address out;
        size_t before = arena_size(arena);
        enum err e = address_parse_named(&out, buf_str(&text), arena, NULL);
        assert_true(e == OK || e == ERR_INVALID);
        if (arena_size(arena) - before > 10 * text.n)
            fail_msg("'%s' again and again: %zu octets became %zu", units[u], text.n,
                     arena_size(arena) - before);
        buf_release(&text);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nothing_and_too_much_are_refused),
        cmocka_unit_test_setup_teardown(test_T5_addresses_are_parsed_strictly, setup, teardown),
        cmocka_unit_test_setup_teardown(a_fault_says_what_is_wrong, setup, teardown),
        cmocka_unit_test_setup_teardown(test_T4_printed_addresses_parse_to_themselves, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_T4_no_control_in_a_command_argument, setup, teardown),
        cmocka_unit_test_setup_teardown(utf8_local_parts_are_marked, setup, teardown),
        cmocka_unit_test_setup_teardown(equal_means_the_same_mailbox, setup, teardown),
        cmocka_unit_test_setup_teardown(names_are_checked_on_their_own, setup, teardown),
        cmocka_unit_test_setup_teardown(memory_is_in_proportion_to_the_text, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
