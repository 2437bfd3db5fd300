/* The server's side of a conversation, as bytes in and bytes out: the R lines and T2. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <malloc.h>

#include "server/base/limits.h"
#include "server/smtp/dialogue.h"

struct row {
    const char *name, *in, *out; /* `out` after the EHLO that setup did */
};

#define MAIL "MAIL FROM:<a@b.example>\r\n"
#define RCPT "RCPT TO:<c@d.example>\r\n"
#define OK_MAIL "250 2.1.0 OK\r\n"
#define OK_RCPT "250 2.1.5 OK\r\n"
#define GO "354 end with <CRLF>.<CRLF>\r\n"
#define QUEUED "250 2.0.0 queued\r\n"
#define NOT_CRLF "550 5.5.2 lines end in CR LF, and hold neither nor NUL\r\n"

static struct receive_answer on_rcpt(void *ctx, struct str to) {
    (void)ctx;
    return str_starts_with(to, STR("nobody@")) ? (struct receive_answer){550, "5.1.1", "nobody"}
                                               : (struct receive_answer){250, "2.1.5", "OK"};
}

static const struct receive_policy policy = {.on_rcpt = on_rcpt};

static struct dialogue *make(size_t message_bytes_max, size_t rcpt_max, bool offers_tls) {
    struct dialogue_options o = {.host_name = "mx.test",
                                 .offers_tls = offers_tls,
                                 .message_bytes_max = message_bytes_max,
                                 .rcpt_max = rcpt_max,
                                 .policy = &policy};
    return dialogue_new(&o);
}

/* Feeds `in`, at most `step` octets at a time; answers messages. False: the dialogue was closed. */
static bool feed(struct dialogue *d, struct str in, size_t step, struct buf *out) {
    while (in.n > 0) {
        struct str piece = str_slice(in, 0, in.n < step ? in.n : step);
        size_t before = piece.n;
        enum dialogue_wants wants = dialogue_feed(d, &piece, out);
        in = str_from(in, before - piece.n);
        if (wants == DIALOGUE_ANSWER)
            wants = dialogue_answer(d, (struct receive_answer){250, "2.0.0", "queued"}, out);
        if (wants == DIALOGUE_CLOSE)
            return false;
        if (wants == DIALOGUE_TLS)
            dialogue_secured(d);
    }
    return true;
}

static const struct row rows[] = {
    {"R1 NOOP", "NOOP\r\n", "250 2.0.0 OK\r\n"},
    {"R1 verbs without case", "noop\r\nnOoP x\r\n", "250 2.0.0 OK\r\n250 2.0.0 OK\r\n"},
    {"R2 postmaster alone", MAIL "RCPT TO:<PostMaster>\r\n", OK_MAIL OK_RCPT},
    {"R5 one reply each", MAIL RCPT "NOOP\r\nRSET\r\n",
     OK_MAIL OK_RCPT "250 2.0.0 OK\r\n250 2.0.0 OK\r\n"},
    {"R6 RCPT before MAIL", RCPT, "503 5.5.1 say MAIL first\r\n"},
    {"R6 DATA before MAIL", "DATA\r\n", "503 5.5.1 say MAIL and RCPT first\r\n"},
    {"R6 MAIL in a transaction", MAIL MAIL, OK_MAIL "503 5.5.1 a transaction is open\r\n"},
    {"R7 EHLO resets", MAIL "HELO x\r\n" RCPT,
     OK_MAIL "250 mx.test\r\n503 5.5.1 say MAIL first\r\n"},
    {"R7 a failed EHLO leaves all as it is", MAIL "EHLO\r\n" RCPT,
     OK_MAIL "501 5.5.4 a name is needed\r\n" OK_RCPT},
    {"R8 RSET", MAIL "RSET\r\n" RCPT, OK_MAIL "250 2.0.0 OK\r\n503 5.5.1 say MAIL first\r\n"},
    {"R9 QUIT", "QUIT\r\n", "221 2.0.0 bye\r\n"},
    {"R9 nothing after QUIT", "QUIT\r\nNOOP\r\n", "221 2.0.0 bye\r\n"},
    {"R10 local part of 65",
     "MAIL FROM:<aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa@b.c>\r\n",
     "501 5.1.7 the address is too long\r\n"},
    {"R11 control in an address", "MAIL FROM:<a\x01@b.c>\r\n", "501 5.1.7 bad address syntax\r\n"},
    {"R11 control by quoted-pair", "MAIL FROM:<\"a\\\x01\"@b.c>\r\n",
     "501 5.1.7 bad address syntax\r\n"},
    {"a quoted-pair", "MAIL FROM:<\"a\\\"\"@b.c>\r\n", OK_MAIL},
    {"R11 8-bit without SMTPUTF8", "MAIL FROM:<\xc3\xbc@b.c>\r\n",
     "553 5.6.7 this address needs SMTPUTF8\r\n"},
    {"R11 not UTF-8", "MAIL FROM:<\xff@b.c> SMTPUTF8\r\n", "501 5.1.7 bad address syntax\r\n"},
    {"R11 no brackets", "MAIL FROM:a@b.c\r\n", "501 5.1.7 bad address syntax\r\n"},
    {"R11 text behind the bracket", "MAIL FROM:<a@b.c>x\r\n", "501 5.1.7 bad address syntax\r\n"},
    {"R11 no domain", "MAIL FROM:<a@>\r\n", "501 5.1.7 bad address syntax\r\n"},
    {"R11 no local part", "MAIL FROM:<@b.c>\r\n", "501 5.1.7 bad address syntax\r\n"},
    {"R11 two brackets", "MAIL FROM:<<a@b.c>>\r\n", "501 5.1.7 bad address syntax\r\n"},
    {"R11 blank inside", "MAIL FROM:<a b@c.d>\r\n", "501 5.1.7 bad address syntax\r\n"},
    {"R11 null recipient", MAIL "RCPT TO:<>\r\n", OK_MAIL "501 5.1.3 bad address syntax\r\n"},
    {"a blank after the colon", "MAIL FROM: <a@b.c>\r\n", OK_MAIL},
    {"the null reverse-path", "MAIL FROM:<>\r\n", OK_MAIL},
    {"a quoted local part", "MAIL FROM:<\"a >b\"@c.d>\r\n", OK_MAIL},
    {"R15 VRFY", "VRFY a\r\n", "252 2.5.2 send some mail, it will be tried\r\n"},
    {"R16 unknown command", "EXPN a\r\n", "500 5.5.2 unknown command\r\n"},
    {"R18 STARTTLS that was not offered", "STARTTLS\r\n", "502 5.5.1 not here\r\n"},
    {"R19 SIZE that fits", "MAIL FROM:<a@b.c> SIZE=1000\r\n", OK_MAIL},
    {"R19 SIZE that does not", "MAIL FROM:<a@b.c> SIZE=1001\r\n" RCPT,
     "552 5.3.4 the message is too large\r\n503 5.5.1 say MAIL first\r\n"},
    {"R19 SIZE that is no number", "MAIL FROM:<a@b.c> SIZE=x\r\n",
     "501 5.5.4 SIZE wants a number\r\n"},
    {"R20 DATA without recipients", MAIL "DATA\r\n", OK_MAIL "554 5.5.1 no valid recipients\r\n"},
    {"R20 DATA when all were refused", MAIL "RCPT TO:<nobody@d.example>\r\nDATA\r\n",
     OK_MAIL "550 5.1.1 nobody\r\n554 5.5.1 no valid recipients\r\n"},
    {"R23 SMTPUTF8",
     "MAIL FROM:<\xc3\xbc@b.c> SMTPUTF8 BODY=8BITMIME\r\nRCPT TO:<\xc3\xa9@d.e>\r\n",
     OK_MAIL OK_RCPT},
    {"unknown parameter of MAIL", "MAIL FROM:<a@b.c> RET=HDRS\r\n",
     "555 5.5.4 unknown parameter\r\n"},
    {"unknown parameter of RCPT", MAIL "RCPT TO:<a@b.c> NOTIFY=NEVER\r\n" RCPT,
     OK_MAIL "555 5.5.4 unknown parameter\r\n" OK_RCPT},
    {"DATA with an argument", MAIL RCPT "DATA x\r\n",
     OK_MAIL OK_RCPT "501 5.5.4 DATA has no argument\r\n"},
    {"T2 bare LF ends a command", "NOOP\nNOOP\r\n", NOT_CRLF},
    {"T2 CR inside a command", "NOOP\rNOOP\r\n", NOT_CRLF},
    {"T2 CR CR LF", "NOOP\r\r\n", NOT_CRLF},
    {"empty command", "\r\n", "500 5.5.2 unknown command\r\n"},
};

static void open_dialogue(struct dialogue *d) {
    struct buf out = BUF_INIT(65536);
    assert_true(feed(d, STR("EHLO client\r\n"), 65536, &out));
    buf_release(&out);
}

static void test_commands(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        for (size_t step = 1; step < 65536; step += 65534) {
            struct dialogue *d = make(1000, 0, false);
            struct buf out = BUF_INIT(65536);
            open_dialogue(d);
            feed(d, str_of(rows[i].in), step, &out);
            if (!str_equal(buf_str(&out), str_of(rows[i].out)))
                fail_msg("%s: %.*s", rows[i].name, STR_ARG(buf_str(&out)));
            buf_release(&out);
            dialogue_free(&d);
        }
        print_message("  row: %s\n", rows[i].name);
    }
}

static void test_R1_R16_what_EHLO_offers(void **state) {
    (void)state;
    struct dialogue *d = make(1000, 0, true);
    struct buf out = BUF_INIT(65536);
    dialogue_greet(d, &out);
    feed(d, STR("MAIL FROM:<a@b.c>\r\nEHLO client\r\n"), 65536, &out);
    assert_string_equal(out.p, "220 mx.test ESMTP\r\n503 5.5.1 say EHLO first\r\n250-mx.test\r\n"
                               "250-PIPELINING\r\n250-SIZE 1000\r\n250-STARTTLS\r\n250-8BITMIME\r\n"
                               "250-SMTPUTF8\r\n250 ENHANCEDSTATUSCODES\r\n");
    buf_release(&out);
    dialogue_free(&d);
}

static void test_R18_all_is_forgotten_at_STARTTLS(void **state) {
    (void)state;
    struct dialogue *d = make(1000, 0, true);
    struct buf out = BUF_INIT(65536);
    open_dialogue(d);
    feed(d, STR(MAIL "STARTTLS\r\n"), 65536, &out);
    buf_clear(&out);
    feed(d, STR(RCPT "EHLO x\r\nSTARTTLS\r\n"), 65536, &out);
    assert_true(str_starts_with(buf_str(&out), STR("503 5.5.1 say MAIL first\r\n250-mx.test\r\n")));
    assert_int_equal(str_find(buf_str(&out), STR("250-STARTTLS")), -1);
    assert_true(str_ends_with(buf_str(&out), STR("503 5.5.1 TLS is active already\r\n")));
    buf_release(&out);
    dialogue_free(&d);
}

/* ---- messages ---- */

static const struct data_row {
    const char *name;
    struct str in; /* after 354 */
    const char *message, *out;
} data_rows[] = {
#define IN(s)                                                                                      \
    { s, sizeof(s) - 1 }
    {"a message", IN("a: b\r\n\r\nc\r\n.\r\n"), "a: b\r\n\r\nc\r\n", QUEUED},
    {"dot-stuffing is undone", IN("..\r\n...\r\n..x\r\nx.\r\n.\r\n"), ".\r\n..\r\n.x\r\nx.\r\n",
     QUEUED},
    {"a dot that was not stuffed", IN(".x\r\n.\r\n"), "x\r\n", QUEUED},
    {"an empty message", IN(".\r\n"), "", QUEUED},
    {"commands behind it", IN("x\r\n.\r\nNOOP\r\n"), "x\r\n", QUEUED "250 2.0.0 OK\r\n"},
    {"8-bit is kept", IN("\xc3\xbc\xff\r\n.\r\n"), "\xc3\xbc\xff\r\n", QUEUED},
    {"T2 LF.LF", IN("x\n.\nMAIL"), NULL, NOT_CRLF},
    {"T2 CR.CR", IN("x\r.\rMAIL"), NULL, NOT_CRLF},
    {"T2 CRLF.LF", IN("x\r\n.\nMAIL"), NULL, NULL},
    {"T2 LF.CRLF", IN("x\n.\r\nMAIL"), NULL, NOT_CRLF},
    {"T2 CR.LF", IN("x\r.\nMAIL"), NULL, NOT_CRLF},
    {"T2 CRLF.CR", IN("x\r\n.\rMAIL"), NULL, NOT_CRLF},
    {"T2 CR.CRLF", IN("x\r.\r\nMAIL"), NULL, NOT_CRLF},
    {"T2 LF.CR", IN("x\n.\rMAIL"), NULL, NOT_CRLF},
    {"T2 NUL before the dot", IN("x\r\n\0.\r\nMAIL"), NULL, NOT_CRLF},
    {"T2 NUL after the dot", IN("x\r\n.\0\r\nMAIL"), NULL, NOT_CRLF},
    {"T2 CRCRLF.CRLF", IN("x\r\r\n.\r\nMAIL"), NULL, NOT_CRLF},
    {"T2 LF at the front", IN("\n.\r\n"), NULL, NOT_CRLF},
#undef IN
};

static void play_data(const struct data_row *r, size_t step) {
    struct dialogue *d = make(1000, 0, false);
    struct buf out = BUF_INIT(65536);
    open_dialogue(d);
    feed(d, STR(MAIL RCPT "DATA\r\n"), 65536, &out);
    assert_true(str_ends_with(buf_str(&out), STR(GO)));
    buf_clear(&out);
    struct str in = r->in;
    bool has_message = false;
    enum dialogue_wants wants = DIALOGUE_MORE;
    while (in.n > 0 && wants == DIALOGUE_MORE) {
        struct str piece = str_slice(in, 0, in.n < step ? in.n : step);
        size_t before = piece.n;
        wants = dialogue_feed(d, &piece, &out);
        in = str_from(in, before - piece.n);
        if (wants == DIALOGUE_ANSWER) {
            struct received *m = dialogue_message(d);
            has_message = true;
            if (!r->message || !str_equal(m->data, str_of(r->message)))
                fail_msg("%s: %.*s", r->name, STR_ARG(m->data));
            assert_true(str_equal(m->helo, STR("client")));
            assert_true(str_equal(m->mail_from, STR("a@b.example")));
            assert_int_equal(m->rcpt_count, 1);
            wants = dialogue_answer(d, (struct receive_answer){250, "2.0.0", "queued"}, &out);
        }
    }
    if (has_message != (r->message != NULL) || (!has_message && wants != DIALOGUE_CLOSE) ||
        !str_equal(buf_str(&out), str_of(r->out ? r->out : NOT_CRLF)))
        fail_msg("%s: message %d, %.*s", r->name, has_message, STR_ARG(buf_str(&out)));
    buf_release(&out);
    dialogue_free(&d);
}

static void test_T2_only_CRLF_dot_CRLF_ends_data(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof(data_rows) / sizeof(data_rows[0]); i++) {
        play_data(&data_rows[i], 65536);
        play_data(&data_rows[i], 1);
    }
}

static void test_T2_a_message_before_its_354_is_refused(void **state) {
    (void)state;
    struct dialogue *d = make(1000, 0, false);
    struct buf out = BUF_INIT(65536);
    open_dialogue(d);
    assert_false(feed(d, STR(MAIL RCPT "DATA\r\nx\r\n.\r\n"), 65536, &out));
    assert_string_equal(out.p, OK_MAIL OK_RCPT "554 5.5.0 wait for 354 before the message\r\n");
    buf_release(&out);
    dialogue_free(&d);
}

static void test_R19_a_message_that_grows_too_large(void **state) {
    (void)state;
    struct dialogue *d = make(10, 0, false);
    struct buf out = BUF_INIT(65536);
    open_dialogue(d);
    feed(d, STR(MAIL RCPT "DATA\r\n"), 65536, &out);
    buf_clear(&out);
    assert_true(feed(d, STR("12345678\r\n.\r\n" MAIL RCPT), 65536, &out));
    assert_string_equal(out.p, QUEUED OK_MAIL OK_RCPT);
    feed(d, STR("DATA\r\n"), 65536, &out);
    buf_clear(&out);
    assert_true(feed(d, STR("123456789\r\nmore and more\r\n.\r\nNOOP\r\n"), 3, &out));
    assert_string_equal(out.p, "552 5.3.4 the message is too large\r\n250 2.0.0 OK\r\n");
    buf_release(&out);
    dialogue_free(&d);
}

/* No memory for more than so many bytes at once; 0: there is. */
static size_t refuse_above;

void *__real_realloc(void *p, size_t n);
void *__wrap_realloc(void *p, size_t n);

void *__wrap_realloc(void *p, size_t n) {
    return refuse_above != 0 && n > refuse_above ? NULL : __real_realloc(p, n);
}

static void test_a_message_that_there_is_no_memory_for_is_not_accepted(void **state) {
    (void)state;
    enum { LINES = 3200 }; /* 200 KiB */
    static char message[LINES * 64 + 3];
    for (size_t i = 0; i < LINES; i++) {
        memset(message + i * 64, 'x', 62);
        memcpy(message + i * 64 + 62, "\r\n", 2);
    }
    memcpy(message + sizeof(message) - 3, ".\r\n", 3);
    struct dialogue *d = make((size_t)1024 * 1024, 0, false);
    struct buf out = BUF_INIT(65536);
    open_dialogue(d);
    for (int is_short = 1; is_short >= 0; is_short--) {
        feed(d, STR(MAIL RCPT "DATA\r\n"), 65536, &out);
        buf_clear(&out);
        refuse_above = is_short ? BUF_SMALL : 0;
        assert_true(feed(d, str_make(message, sizeof(message)), 4096, &out));
        refuse_above = 0;
        assert_string_equal(out.p, is_short ? "452 4.3.1 no memory for the message\r\n" : QUEUED);
    }
    buf_release(&out);
    dialogue_free(&d);
}

static void test_R10_too_many_recipients(void **state) {
    (void)state;
    struct dialogue *d = make(1000, 2, false);
    struct buf out = BUF_INIT(65536);
    open_dialogue(d);
    feed(d, STR(MAIL RCPT RCPT RCPT "DATA\r\n"), 65536, &out);
    assert_string_equal(out.p, OK_MAIL OK_RCPT OK_RCPT "452 4.5.3 too many recipients\r\n" GO);
    buf_release(&out);
    dialogue_free(&d);
}

static void test_R10_a_command_of_4_KiB_and_no_more(void **state) {
    (void)state;
    static char line[LIMIT_SMTP_COMMAND + 1];
    memset(line, 'x', sizeof(line));
    memcpy(line, "NOOP ", 5);
    struct dialogue *d = make(1000, 0, false);
    struct buf out = BUF_INIT(65536);
    open_dialogue(d);
    memcpy(line + LIMIT_SMTP_COMMAND - 2, "\r\n", 2);
    assert_true(feed(d, str_make(line, LIMIT_SMTP_COMMAND), 100, &out));
    memset(line + 5, 'x', sizeof(line) - 5);
    assert_false(feed(d, str_make(line, sizeof(line)), 100, &out));
    assert_string_equal(out.p, "250 2.0.0 OK\r\n500 5.5.2 the line is too long\r\n");
    buf_release(&out);
    dialogue_free(&d);
}

static void test_R11_NUL_in_a_command(void **state) {
    (void)state;
    struct dialogue *d = make(1000, 0, false);
    struct buf out = BUF_INIT(65536);
    open_dialogue(d);
    assert_false(feed(d, str_make("NOOP \0\r\n", 8), 65536, &out));
    assert_string_equal(out.p, NOT_CRLF);
    buf_release(&out);
    dialogue_free(&d);
}

static void test_R12_source_routes_are_dropped(void **state) {
    (void)state;
    struct dialogue *d = make(1000, 0, false);
    struct buf out = BUF_INIT(65536);
    open_dialogue(d);
    feed(d,
         STR("MAIL FROM:<@x.example,@y.example:a@b.example>\r\nRCPT "
             "TO:<@x.example:c@d.example>\r\nDATA\r\n"),
         65536, &out);
    struct str in = STR("x\r\n.\r\n");
    assert_int_equal(dialogue_feed(d, &in, &out), DIALOGUE_ANSWER);
    assert_true(str_equal(dialogue_message(d)->mail_from, STR("a@b.example")));
    assert_true(str_equal(dialogue_message(d)->rcpt[0], STR("c@d.example")));
    buf_release(&out);
    dialogue_free(&d);
}

static void test_R25_too_many_errors_end_it(void **state) {
    (void)state;
    static const char *const wrong[] = {
        "WHAT\r\n",
        "EHLO\r\n",
        "MAIL FROM:a@b.c\r\n",
        "MAIL FROM:<a@b.c> RET=FULL\r\n",
        "MAIL FROM:<a@b.c> SIZE=9999999\r\n",
        "RCPT TO:<c@d.e>\r\n",
        "DATA\r\n",
        "STARTTLS\r\n",
    };
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        struct dialogue *d = make(1000, 0, false);
        struct buf out = BUF_INIT(65536);
        open_dialogue(d);
        bool is_open = true;
        int errors = 0;
        for (; is_open && errors < 100; errors++)
            is_open = feed(d, str_of(wrong[i]), 65536, &out);
        if (errors != 21)
            fail_msg("%s: %d times", wrong[i], errors);
        assert_true(str_ends_with(buf_str(&out), STR("421 4.7.0 too many errors, closing\r\n")));
        buf_release(&out);
        dialogue_free(&d);
    }
}

/* They are an answer of the policy's, not an error of the client's: a list with many unknown users
 * is heard to its end. */
static void test_R10_many_recipients_may_be_refused(void **state) {
    (void)state;
    struct dialogue *d = make(1000, 0, false);
    struct buf out = BUF_INIT(65536);
    open_dialogue(d);
    assert_true(feed(d, STR(MAIL), 65536, &out));
    for (int i = 0; i < 100; i++)
        assert_true(feed(d, STR("RCPT TO:<nobody@d.example>\r\n"), 65536, &out));
    assert_true(feed(d, STR("DATA\r\n"), 65536, &out));
    assert_true(str_ends_with(buf_str(&out), STR("554 5.5.1 no valid recipients\r\n")));
    assert_true(feed(d, STR(RCPT), 65536, &out));
    assert_true(str_ends_with(buf_str(&out), STR(OK_RCPT)));
    buf_release(&out);
    dialogue_free(&d);
}

/* Somebody who tries out addresses for an hour. */
static void test_R25_refused_recipients_take_no_memory(void **state) {
    (void)state;
    enum { TRIES = 100000 };
    struct dialogue *d = make(1000, 0, false);
    struct buf out = BUF_INIT(65536);
    open_dialogue(d);
    assert_true(feed(d, STR(MAIL), 65536, &out));
    size_t before = mallinfo2().uordblks;
    for (int i = 0; i < TRIES; i++) {
        buf_clear(&out);
        assert_true(feed(d, STR("RCPT TO:<nobody@d.example>\r\n"), 65536, &out));
    }
    assert_in_range(mallinfo2().uordblks, 0, before + TRIES);
    buf_release(&out);
    dialogue_free(&d);
}

static void test_R26_a_message_that_runs_in_circles(void **state) {
    (void)state;
    for (int hops = 100; hops <= 101; hops++) {
        struct dialogue *d = make(100000, 0, false);
        struct buf out = BUF_INIT(65536), m = BUF_INIT(65536);
        open_dialogue(d);
        feed(d, STR(MAIL RCPT "DATA\r\n"), 65536, &out);
        buf_clear(&out);
        for (int i = 0; i < hops; i++)
            buf_putz(&m, "Received: from x\r\n by y\r\n");
        buf_putz(&m, "\r\nReceived: in the body\r\n.\r\n");
        feed(d, buf_str(&m), 65536, &out);
        assert_string_equal(out.p, hops == 100 ? QUEUED : "554 5.4.6 too many hops\r\n");
        buf_release(&out);
        buf_release(&m);
        dialogue_free(&d);
    }
}

static void test_T17_what_counts_as_a_step(void **state) {
    static const struct {
        const char *in;
        bool is_step;
    } lines[] = {
        {"NOOP\r\n", false},
        {"EHLO", false},
        {" x\r\n", true},
        {"EHLO x\r\n", false},
        {"STARTTLS\r\n", true},
        {"HELO x\r\n", true},
        {"RSET\r\n", false},
        {"VRFY a\r\n", false},
        {"HELP\r\n", false},
        {RCPT, true},
        {MAIL, true},
        {MAIL, false},
        {"DATA\r\n", false},
        {"RCPT TO:<nobody@d.example>\r\n", true},
        {"RCPT TO:<@>\r\n", true},
        {RCPT, true},
        {RCPT, true},
        {"DATA\r\n", true},
        {"a: b", false},
        {"\r\n", true},
        {"\r\n", true},
        {"an octet is none, but so many that they are sixty-four of them a", true},
        {"n octet more is none", false},
        {"\r\n", true},
        {".\r\n", true},
        {"RSET\r\n", false},
    };
    (void)state;
    struct dialogue *d = make(10000, 10, true);
    struct buf out = BUF_INIT(65536);
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++) {
        size_t steps = dialogue_steps(d);
        assert_true(feed(d, str_of(lines[i].in), SIZE_MAX, &out));
        if ((dialogue_steps(d) != steps) != lines[i].is_step)
            fail_msg("line %zu: %s", i, lines[i].in);
    }
    /* what leads to no message counts a while only */
    size_t begun = 0, asked = 0;
    for (int i = 0; i < 30; i++) {
        size_t steps = dialogue_steps(d);
        assert_true(feed(d, STR(MAIL "RSET\r\n"), SIZE_MAX, &out));
        begun += dialogue_steps(d) - steps;
    }
    assert_int_equal(begun, 20);
    assert_true(feed(d, STR(MAIL), SIZE_MAX, &out));
    for (int i = 0; i < 30; i++) {
        size_t steps = dialogue_steps(d);
        assert_true(feed(d, STR(RCPT), SIZE_MAX, &out));
        asked += dialogue_steps(d) - steps;
    }
    assert_int_equal(asked, 2 * 10);
    assert_true(feed(d, STR("DATA\r\n.\r\n"), 6, &out));
    size_t steps = dialogue_steps(d);
    assert_true(feed(d, STR(MAIL RCPT), SIZE_MAX, &out));
    assert_int_equal(dialogue_steps(d), steps + 2);
    buf_release(&out);
    dialogue_free(&d);
}

static void test_R22_a_transaction_leaves_nothing_behind(void **state) {
    (void)state;
    struct dialogue *d = make(1000, 0, false);
    struct buf out = BUF_INIT(65536);
    open_dialogue(d);
    feed(d, STR("MAIL FROM:<a@b.c> SMTPUTF8\r\n" RCPT RCPT "RSET\r\n" MAIL RCPT "DATA\r\n"), 65536,
         &out);
    struct str in = STR("x\r\n.\r\n");
    assert_int_equal(dialogue_feed(d, &in, &out), DIALOGUE_ANSWER);
    assert_int_equal(dialogue_message(d)->rcpt_count, 1);
    assert_false(dialogue_message(d)->smtputf8);
    buf_release(&out);
    dialogue_free(&d);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_commands),
        cmocka_unit_test(test_R1_R16_what_EHLO_offers),
        cmocka_unit_test(test_R18_all_is_forgotten_at_STARTTLS),
        cmocka_unit_test(test_T2_only_CRLF_dot_CRLF_ends_data),
        cmocka_unit_test(test_T2_a_message_before_its_354_is_refused),
        cmocka_unit_test(test_R19_a_message_that_grows_too_large),
        cmocka_unit_test(test_a_message_that_there_is_no_memory_for_is_not_accepted),
        cmocka_unit_test(test_R10_too_many_recipients),
        cmocka_unit_test(test_R10_a_command_of_4_KiB_and_no_more),
        cmocka_unit_test(test_R11_NUL_in_a_command),
        cmocka_unit_test(test_R12_source_routes_are_dropped),
        cmocka_unit_test(test_R25_too_many_errors_end_it),
        cmocka_unit_test(test_R10_many_recipients_may_be_refused),
        cmocka_unit_test(test_R25_refused_recipients_take_no_memory),
        cmocka_unit_test(test_R26_a_message_that_runs_in_circles),
        cmocka_unit_test(test_T17_what_counts_as_a_step),
        cmocka_unit_test(test_R22_a_transaction_leaves_nothing_behind),
    };
    return cmocka_run_group_tests_name("dialogue", tests, NULL, NULL);
}
