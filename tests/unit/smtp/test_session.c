/* Steps of the client's session that a server of flesh and blood makes it take by chance only: a
 * reply that overtakes the stream's word that all is sent, a stream that is quicker than the turn,
 * memory that is short. The session is built by hand; its stream is what the test says (--wrap). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <stdlib.h>
#include <cmocka.h>

#include "server/base/log.h"
#include "server/smtp/session_state.h"
#include "tests/unit/log_watch.h"

/* ---- the stream ---- */

static struct {
    size_t pending;     /* what is said to be on its way */
    struct str unread;  /* what has come in */
    struct buf written; /* what was to be sent */
    bool is_short;      /* there is no memory for commands */
} f;

size_t __wrap_stream_pending(const struct stream *s);
size_t __wrap_stream_pending(const struct stream *s) {
    (void)s;
    return f.pending;
}
bool __wrap_stream_has_failed(const struct stream *s);
bool __wrap_stream_has_failed(const struct stream *s) {
    (void)s;
    return false;
}
struct str __wrap_stream_peek(struct stream *s);
struct str __wrap_stream_peek(struct stream *s) {
    (void)s;
    return f.unread;
}
void __wrap_stream_write(struct stream *s, struct str bytes);
void __wrap_stream_write(struct stream *s, struct str bytes) {
    (void)s;
    buf_put(&f.written, bytes);
}
enum err __real_buf_status(const struct buf *b);
enum err __wrap_buf_status(const struct buf *b);
enum err __wrap_buf_status(const struct buf *b) {
    return f.is_short ? ERR_UNAVAILABLE : __real_buf_status(b);
}

/* ---- the session ---- */

enum { RECIPIENTS = 2 };

struct world {
    struct loop *loop;
    struct session s;
    struct session_recipient to[RECIPIENTS];
    struct transaction t;
    /* what it told */
    size_t reported;
    bool is_done, reusable, has_failed;
    enum stage stage;
    enum failure failure;
    int code;
    char text[128];
};

static void keep_result(struct world *w, const struct session_result *r) {
    w->stage = r->stage;
    w->failure = r->failure;
    w->code = r->reply != NULL ? r->reply->code : 0;
    snprintf(w->text, sizeof(w->text), "%.*s", STR_ARG(r->text));
}
static void on_recipient(void *ctx, size_t i, const struct session_result *r) {
    struct world *w = ctx;
    (void)i;
    w->reported++;
    keep_result(w, r);
}
static void on_done(void *ctx, bool reusable) {
    struct world *w = ctx;
    assert_false(w->is_done);
    w->is_done = true;
    w->reusable = reusable;
}
static void on_failed(void *ctx, const struct session_result *r) {
    struct world *w = ctx;
    assert_false(w->has_failed);
    w->has_failed = true;
    keep_result(w, r);
}
static void on_ready(void *ctx) {
    (void)ctx;
}
static const struct session_events events = {
    .on_ready = on_ready, .on_recipient = on_recipient, .on_done = on_done, .on_failed = on_failed};

static void refused_turn(void *arg) {
    struct world *w = arg;
    transaction_refused(&w->s);
}

static int setup(void **state) {
    struct world *w = *state = mem_zalloc(sizeof(*w));
    memset(&f, 0, sizeof(f));
    buf_init(&f.written, 1 << 20);
    w->loop = loop_new();
    struct id id = {{1}};
    w->to[0].email = STR("a@mx.test");
    w->to[1].email = STR("b@mx.test");
    w->t = (struct transaction){.mail_from = STR("me@client.test"),
                                .recipient = w->to,
                                .count = RECIPIENTS,
                                .message = message_new(&id, mem_dup("a: b\r\n", 6), 6)};
    w->s = (struct session){.loop = w->loop,
                            .ev = &events,
                            .ctx = w,
                            .state = SESSION_IDLE,
                            .watchdog = timer_new(w->loop, refused_turn, w)};
    session_timeouts_default(&w->s.o.timeouts);
    transcript_init(&w->s.transcript, true);
    return 0;
}

static int teardown(void **state) {
    struct world *w = *state;
    transaction_release(&w->s);
    transcript_release(&w->s.transcript);
    timer_free(&w->s.watchdog);
    message_unref(&w->t.message);
    loop_free(&w->loop);
    buf_release(&f.written);
    free(w);
    log_setup(LOG_INFO, LOG_FORMAT_TEXT);
    return 0;
}

static void again(void **state) {
    teardown(state);
    setup(state);
}

static void reply(struct world *w, int code) {
    struct reply r = {.code = code, .text = STR("as the test says")};
    if (w->s.state <= SESSION_AUTH)
        opening_reply(&w->s, &r);
    else
        transaction_reply(&w->s, &r);
}

/* Up to the server's answer to DATA. */
static void send_until_data(struct world *w) {
    session_send(&w->s, &w->t);
    for (int i = 0; i < 1 + RECIPIENTS; i++)
        reply(w, 250);
    assert_int_equal(w->s.state, SESSION_DATA);
}

/* ---- the body ---- */

static void a_reply_may_overtake_the_word_that_the_body_is_sent(void **state) {
    static const struct {
        size_t pending;
        int code;
        bool reusable;
        enum stage stage;
        enum failure failure;
    } rows[] = {
        {0, 250, true, STAGE_END, FAILURE_NONE},   {0, 550, false, STAGE_END, FAILURE_NONE},
        {9, 550, false, STAGE_BODY, FAILURE_NONE}, {9, 250, false, STAGE_END, FAILURE_PROTOCOL},
        {0, 421, false, STAGE_END, FAILURE_NONE},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct world *w = *state;
        send_until_data(w);
        f.pending = 9; /* none of it has left */
        reply(w, 354);
        assert_int_equal(w->s.state, SESSION_BODY);
        assert_int_equal(session_stage(&w->s), STAGE_END); /* its end may have arrived */
        f.pending = rows[i].pending;
        reply(w, rows[i].code);
        assert_int_equal(w->reported, RECIPIENTS);
        assert_int_equal(w->stage, rows[i].stage);
        assert_int_equal(w->failure, rows[i].failure);
        if (rows[i].failure == FAILURE_NONE)
            assert_int_equal(w->code, rows[i].code);
        if (w->s.state == SESSION_RESET)
            assert_false(w->is_done); /* not before the server has forgotten it */
        else
            assert_int_equal(w->reusable, rows[i].reusable);
        again(state);
    }
}

static void a_stream_may_send_all_at_once(void **state) {
    struct world *w = *state;
    send_until_data(w);
    reply(w, 354); /* nothing is ever pending */
    assert_int_equal(w->s.state, SESSION_END);
    assert_non_null(strstr(f.written.p, "DATA\r\na: b\r\n.\r\n"));
    reply(w, 250);
    assert_true(w->is_done && w->reusable);
    assert_int_equal(w->code, 250);
}

/* The largest one of those that the stream copies, so that all of it leaves together: no octet of
 * it goes by reference, which this session's stream does not take. */
static void a_message_of_64_kib_is_copied_whole(void **state) {
    enum { LINE = 64, SIZE = 1024 * LINE };
    static char text[SIZE];
    struct world *w = *state;
    struct id id = {{2}};
    memset(text, 'x', SIZE);
    for (size_t at = LINE; at <= SIZE; at += LINE)
        memcpy(text + at - 2, "\r\n", 2);
    message_unref(&w->t.message);
    w->t.message = message_new(&id, mem_dup(text, SIZE), SIZE);
    send_until_data(w);
    size_t before = f.written.n;
    reply(w, 354);
    assert_int_equal(f.written.n - before, SIZE + 3);
    assert_int_equal(w->s.state, SESSION_END);
}

/* Codes at the edge of what they mean, as the answer to DATA and to the message. */
static void each_code_means_what_its_first_digit_says(void **state) {
    static const struct {
        int code;
        bool at_end;
        enum failure failure;
    } rows[] = {
        {400, false, FAILURE_NONE},     {399, false, FAILURE_PROTOCOL}, {599, false, FAILURE_NONE},
        {355, false, FAILURE_PROTOCOL}, {250, false, FAILURE_PROTOCOL}, {400, true, FAILURE_NONE},
        {399, true, FAILURE_PROTOCOL},  {200, true, FAILURE_NONE},      {299, true, FAILURE_NONE},
        {300, true, FAILURE_PROTOCOL},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct world *w = *state;
        send_until_data(w);
        if (rows[i].at_end)
            reply(w, 354);
        reply(w, rows[i].code);
        assert_int_equal(w->reported, RECIPIENTS);
        assert_int_equal(w->failure, rows[i].failure);
        assert_int_equal(w->stage, rows[i].at_end ? STAGE_END : STAGE_DATA);
        if (rows[i].failure == FAILURE_NONE)
            assert_int_equal(w->code, rows[i].code);
        again(state);
    }
}

/* The same before: of MAIL, and of the first recipient. */
static void each_code_of_the_envelope_means_what_its_first_digit_says(void **state) {
    static const struct {
        int code;
        bool is_accepted;
        enum failure failure;
    } rows[] = {{200, true, FAILURE_NONE},      {299, true, FAILURE_NONE},
                {300, false, FAILURE_PROTOCOL}, {399, false, FAILURE_PROTOCOL},
                {400, false, FAILURE_NONE},     {599, false, FAILURE_NONE}};
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
        for (int at_rcpt = 0; at_rcpt < 2; at_rcpt++) {
            struct world *w = *state;
            session_send(&w->s, &w->t);
            if (at_rcpt)
                reply(w, 250);
            reply(w, rows[i].code);
            bool is_known = !rows[i].is_accepted;
            size_t told = !is_known                                    ? 0
                          : at_rcpt && rows[i].failure == FAILURE_NONE ? 1
                                                                       : RECIPIENTS;
            assert_int_equal(w->reported, told);
            assert_int_equal(w->s.accepted, at_rcpt && rows[i].is_accepted);
            if (is_known)
                assert_int_equal(w->failure, rows[i].failure);
            if (is_known && rows[i].failure == FAILURE_NONE)
                assert_int_equal(w->code, rows[i].code);
            again(state);
        }
}

/* ---- what is not sent ---- */

static void what_cannot_be_sent_is_refused_before_an_octet_leaves(void **state) {
    static const struct {
        const char *from, *first;
        bool is_short, is_silent;
        enum failure want;
    } rows[] = {
        {"me@client.test", "a@mx.test", true, false, FAILURE_SHORT},
        {"me@client.test", "a\r\n@mx.test", false, false, FAILURE_LOCAL},
        {"me@client.test", "a\r\n@mx.test", false, true, FAILURE_LOCAL},
        {"m\xc3\xa9@client.test", "a@mx.test", false, false, FAILURE_NEEDS_SMTPUTF8},
        {"me@client.test", "\xc3\xa9@mx.test", false, false, FAILURE_NEEDS_SMTPUTF8},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct world *w = *state;
        if (rows[i].is_silent)
            silence_log();
        else
            expect_log("message not sent");
        f.is_short = rows[i].is_short;
        w->t.mail_from = str_of(rows[i].from);
        w->to[0].email = str_of(rows[i].first);
        session_send(&w->s, &w->t);
        assert_false(w->is_done); /* not inside of the call */
        while (!w->is_done)
            loop_dispatch_once(w->loop, 1000);
        assert_true(w->reusable);
        assert_int_equal(w->reported, RECIPIENTS);
        assert_int_equal(w->failure, rows[i].want);
        assert_int_equal(f.written.n, 0);
        again(state);
    }
}

/* ---- what nobody asked for ---- */

static void a_reply_in_a_state_that_awaits_none_ends_it(void **state) {
    static const enum session_state states[] = {SESSION_CONNECTING, SESSION_TLS, SESSION_IDLE,
                                                SESSION_REFUSED};
    for (size_t i = 0; i < sizeof(states) / sizeof(states[0]); i++) {
        struct world *w = *state;
        w->s.state = states[i];
        reply(w, 250);
        assert_true(w->has_failed);
        assert_int_equal(w->failure, FAILURE_PROTOCOL);
        assert_int_equal(w->s.state, SESSION_DEAD);
        session_die_protocol(&w->s, "once more"); /* it is told once */
        again(state);
    }
}

static void an_answer_to_starttls_before_it_has_left_ends_it(void **state) {
    struct world *w = *state;
    w->s.state = SESSION_STARTTLS;
    f.pending = 10;
    reply(w, 220);
    assert_true(w->has_failed);
    assert_int_equal(w->failure, FAILURE_PROTOCOL);
    assert_string_equal(w->text, "an answer to STARTTLS before it was asked");
}

/* What has come behind an answer is the answer to nothing: the next command would take it for its
 * own. */
static void a_reply_too_many_behind_a_refusal_ends_the_opening(void **state) {
    static char name[] = "client.test";
    static const struct {
        enum session_state at;
        int code;
        enum session_tls tls;
        bool is_extra;
        enum session_state then;
    } rows[] = {
        {SESSION_EHLO, 502, SESSION_TLS_NONE, false, SESSION_HELO},
        {SESSION_EHLO, 502, SESSION_TLS_NONE, true, SESSION_DEAD},
        {SESSION_STARTTLS, 454, SESSION_TLS_OPPORTUNISTIC, false, SESSION_IDLE},
        {SESSION_STARTTLS, 454, SESSION_TLS_OPPORTUNISTIC, true, SESSION_DEAD},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct world *w = *state;
        w->s.state = rows[i].at;
        w->s.o.tls = rows[i].tls;
        w->s.ehlo_name = name;
        f.unread = rows[i].is_extra ? STR("250 mx.test\r\n") : STR("");
        reply(w, rows[i].code);
        assert_int_equal(w->s.state, rows[i].then);
        assert_int_equal(w->has_failed, rows[i].is_extra);
        if (rows[i].is_extra) {
            assert_int_equal(w->failure, FAILURE_PROTOCOL);
            assert_string_equal(w->text, "more replies than commands");
            assert_int_equal(f.written.n, 0);
        }
        again(state);
    }
}

/* The failure's own words; else the server's; else those of its kind. */
static void a_result_has_words(void **state) {
    (void)state;
    struct reply said = {.code = 550, .text = STR("no such user")};
    struct session_result r = {.failure = FAILURE_CLOSED};
    assert_true(str_equal(session_result_text(&r), str_of(failure_text(FAILURE_CLOSED))));
    r.reply = &said;
    assert_true(str_equal(session_result_text(&r), said.text));
    r.text = STR("refused by the kernel");
    assert_true(str_equal(session_result_text(&r), r.text));
}

static void it_may_end_without_words(void **state) {
    struct world *w = *state;
    w->s.state = SESSION_EHLO;
    log_setup(LOG_DEBUG, LOG_FORMAT_TEXT); /* each step is traced */
    session_die(&w->s, &(struct session_result){.stage = STAGE_EHLO, .failure = FAILURE_CLOSED},
                false);
    assert_true(w->has_failed);
    assert_true(str_find(session_transcript(&w->s), STR("closed at ehlo")) >= 0);
}

int main(void) {
#define TEST(t) cmocka_unit_test_setup_teardown(t, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(a_reply_may_overtake_the_word_that_the_body_is_sent),
        TEST(a_stream_may_send_all_at_once),
        TEST(a_message_of_64_kib_is_copied_whole),
        TEST(each_code_means_what_its_first_digit_says),
        TEST(each_code_of_the_envelope_means_what_its_first_digit_says),
        TEST(what_cannot_be_sent_is_refused_before_an_octet_leaves),
        TEST(a_reply_in_a_state_that_awaits_none_ends_it),
        TEST(an_answer_to_starttls_before_it_has_left_ends_it),
        TEST(a_reply_too_many_behind_a_refusal_ends_the_opening),
        cmocka_unit_test(a_result_has_words),
        TEST(it_may_end_without_words),
    };
    return cmocka_run_group_tests_name("session", tests, NULL, NULL);
}
