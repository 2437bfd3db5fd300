/* Steps of the client's session that a server of flesh and blood makes it take by chance only: a
 * reply that overtakes the stream's word that all is sent, a stream that is quicker than the turn,
 * memory that is short. The session is built by hand; its stream is what the test says (--wrap). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <stdlib.h>
#include <cmocka.h>

#include "server/base/clock.h"
#include "server/base/log.h"
#include "server/smtp/session_state.h"
#include "tests/unit/log_watch.h"

/* ---- the stream ---- */

static struct {
    size_t pending;     /* what is said to be on its way */
    struct str unread;  /* what has come in */
    struct buf written; /* what was to be sent */
    bool is_short;      /* there is no memory for commands */
    bool has_failed;    /* nor for what is to be sent */
} f;

size_t __wrap_stream_pending(const struct stream *s);
size_t __wrap_stream_pending(const struct stream *s) {
    (void)s;
    return f.pending;
}
bool __wrap_stream_has_failed(const struct stream *s);
bool __wrap_stream_has_failed(const struct stream *s) {
    (void)s;
    return f.has_failed;
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

static void reply_with(struct world *w, int code, struct enhanced_code enhanced) {
    struct reply r = {.code = code, .enhanced = enhanced, .text = STR("as the test says")};
    if (w->s.state <= SESSION_AUTH)
        opening_reply(&w->s, &r);
    else
        transaction_reply(&w->s, &r);
}

static void reply(struct world *w, int code) {
    reply_with(w, code, (struct enhanced_code){0});
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

/* ---- one flight ---- */

/* As when a message was taken, and one by a trial. */
static void send_in_one_flight(struct world *w) {
    w->s.caps.pipelining = w->s.caps.chunking = true;
    w->s.has_taken = w->s.knows_bdat = true;
    w->s.heard_boot_ms = clock_boot_ms();
    session_send(&w->s, &w->t);
    assert_true(w->s.is_one_flight);
}

static void send_a_trial(struct world *w) {
    w->s.caps.pipelining = w->s.caps.chunking = true;
    w->s.has_taken = true;
    w->s.knows_bdat = false;
    session_send(&w->s, &w->t);
    assert_true(w->s.is_trial);
}

static void replace_message(struct world *w, const char *text, size_t n) {
    struct id id = {{3}};
    message_unref(&w->t.message);
    w->t.message = message_new(&id, mem_dup(text, n), n);
}

static void test_C37_T1_one_flight_is_the_envelope_and_the_message_as_it_is(void **state) {
    static const char text[] = "A: b\r\n\r\n.\r\n..c\r\n.d";
    struct world *w = *state;
    replace_message(w, text, strlen(text));
    send_in_one_flight(w);
    buf_putc(&f.written, '\0');
    assert_string_equal(f.written.p, "MAIL FROM:<me@client.test>\r\n"
                                     "RCPT TO:<a@mx.test>\r\n"
                                     "RCPT TO:<b@mx.test>\r\n"
                                     "BDAT 20 LAST\r\n"
                                     "A: b\r\n\r\n.\r\n..c\r\n.d\r\n");
    for (int i = 0; i < 1 + RECIPIENTS; i++) {
        assert_int_equal(session_stage(&w->s), STAGE_END); /* it may all have arrived */
        reply(w, 250);
    }
    assert_int_equal(w->s.state, SESSION_END);
    assert_false(w->is_done);
    reply(w, 250);
    assert_true(w->is_done && w->reusable);
    assert_int_equal(w->reported, RECIPIENTS);
    assert_int_equal(w->stage, STAGE_END);
    assert_int_equal(w->code, 250);
    assert_true(str_find(session_transcript(&w->s), STR("C: BDAT 20 LAST\n")) >= 0);
    assert_int_equal(str_find(session_transcript(&w->s), STR("A: b")), -1);
    /* the next one, step by step, knows nothing of it */
    w->t.avoid_chunking = true;
    session_send(&w->s, &w->t);
    assert_int_equal(session_stage(&w->s), STAGE_MAIL);
}

/* Who did not offer both, or has been silent, gets DATA; so does what is long. */
static void test_C37_what_goes_step_by_step(void **state) {
    enum { SMALL = 64 * 1024, SILENT_MS = 1000, WITH_A_COMMAND = 0 };
    static const char command[] = "A: b\r\n\r\nc\r\n data\r\n";
    static char text[SMALL + 1];
    static const struct {
        bool pipelining, chunking, has_taken, knows_bdat, avoid;
        int64_t silent_ms;
        size_t octets;
        const char *way; /* the last of what is sent at once */
    } rows[] = {
        {true, true, true, true, false, 0, SMALL, "\r\nBDAT 65536 LAST\r\n"},
        {true, true, true, true, false, 0, SMALL + 1, "\r\nDATA\r\n"},
        {true, true, true, true, true, 0, SMALL, "\r\nDATA\r\n"},
        {true, false, true, true, false, 0, SMALL, "\r\nDATA\r\n"},
        {false, true, true, true, false, 0, SMALL, "MAIL FROM:<me@client.test>\r\n"},
        {true, true, true, true, false, SILENT_MS, SMALL, "\r\nDATA\r\n"},
        {true, true, true, false, false, 0, SMALL, "\r\nBDAT 1\r\nx"},
        {true, true, true, false, false, SILENT_MS, SMALL, "\r\nBDAT 1\r\nx"},
        {true, true, true, false, false, 0, 1, "\r\nDATA\r\n"},
        {true, true, true, true, false, 0, 1, "\r\nDATA\r\n"},
        {true, true, true, false, false, 0, SMALL + 1, "\r\nDATA\r\n"},
        {true, true, true, false, true, 0, SMALL, "\r\nDATA\r\n"},
        {true, true, false, false, false, 0, SMALL, "\r\nDATA\r\n"},
        {true, true, true, true, false, 0, WITH_A_COMMAND, "\r\nDATA\r\n"},
        {true, true, true, false, false, 0, WITH_A_COMMAND, "\r\nDATA\r\n"},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct world *w = *state;
        memset(text, 'x', sizeof(text));
        for (size_t at = 62; at + 1 < sizeof(text); at += 64)
            memcpy(text + at, "\r\n", 2);
        if (rows[i].octets == WITH_A_COMMAND)
            replace_message(w, command, strlen(command));
        else
            replace_message(w, text, rows[i].octets);
        w->s.caps.pipelining = rows[i].pipelining;
        w->s.caps.chunking = rows[i].chunking;
        w->t.avoid_chunking = rows[i].avoid;
        w->s.has_taken = rows[i].has_taken;
        w->s.knows_bdat = rows[i].knows_bdat;
        w->s.heard_boot_ms = clock_boot_ms() - rows[i].silent_ms;
        session_send(&w->s, &w->t);
        bool is_flight = strstr(rows[i].way, "LAST") != NULL;
        struct str lines =
            str_slice(buf_str(&f.written), 0, f.written.n - (is_flight ? rows[i].octets : 0));
        if (!str_ends_with(lines, str_of(rows[i].way)))
            fail_msg("row %zu: %.*s", i, STR_ARG(lines));
        assert_int_equal(session_stage(&w->s), is_flight ? STAGE_END : STAGE_MAIL);
        again(state);
    }
}

static void test_C37_refusals_of_the_envelope_stand_whatever_follows(void **state) {
    struct world *w = *state;
    send_in_one_flight(w); /* MAIL */
    reply(w, 550);
    assert_int_equal(w->reported, RECIPIENTS);
    assert_int_equal(w->stage, STAGE_MAIL);
    for (int i = 0; i < RECIPIENTS; i++)
        reply(w, 503);
    assert_int_equal(w->s.state, SESSION_END);
    reply(w, 503);
    assert_int_equal(w->s.state, SESSION_RESET);
    assert_false(w->s.info.is_chunking_broken);
    reply(w, 250);
    assert_true(w->is_done && w->reusable);
    again(state);

    w = *state; /* one of two recipients */
    send_in_one_flight(w);
    reply(w, 250);
    reply(w, 550);
    assert_int_equal(w->reported, 1);
    assert_int_equal(w->stage, STAGE_RCPT);
    reply(w, 250);
    reply(w, 250);
    assert_int_equal(w->reported, RECIPIENTS);
    assert_int_equal(w->stage, STAGE_END);
    assert_true(w->is_done && w->reusable);
    again(state);

    w = *state; /* all of them: it was for nobody, even when the server says that it took it */
    for (int code = 250; code <= 503; code += 503 - 250) {
        send_in_one_flight(w);
        reply(w, 250);
        reply(w, 550);
        reply(w, 450);
        assert_int_equal(w->reported, RECIPIENTS);
        assert_int_equal(w->code, 450);
        reply(w, code);
        assert_int_equal(w->s.state, SESSION_RESET);
        assert_false(w->s.info.is_chunking_broken);
        again(state);
        w = *state;
    }
}

static void test_C37_answers_to_the_chunk(void **state) {
    static const struct {
        int code;
        struct enhanced_code enhanced;
        size_t pending;
        enum failure failure;
        enum stage stage;
        enum session_state then;
    } rows[] = {
        {250, {2, 0, 0}, 0, FAILURE_NONE, STAGE_END, SESSION_IDLE},
        {451, {0}, 0, FAILURE_NONE, STAGE_END, SESSION_RESET},
        {554, {5, 7, 1}, 0, FAILURE_NONE, STAGE_END, SESSION_RESET},
        {505, {0}, 0, FAILURE_NONE, STAGE_END, SESSION_RESET},
        {550, {5, 5, 1}, 0, FAILURE_NONE, STAGE_END, SESSION_RESET},
        {421, {0}, 0, FAILURE_NONE, STAGE_END, SESSION_DEAD},
        {354, {0}, 0, FAILURE_PROTOCOL, STAGE_END, SESSION_DEAD},
        /* it is no command there */
        {500, {0}, 0, FAILURE_CHUNKING, STAGE_DATA, SESSION_DEAD},
        {501, {5, 5, 4}, 0, FAILURE_CHUNKING, STAGE_DATA, SESSION_DEAD},
        {502, {5, 5, 1}, 0, FAILURE_CHUNKING, STAGE_DATA, SESSION_DEAD},
        {503, {5, 5, 1}, 0, FAILURE_CHUNKING, STAGE_DATA, SESSION_DEAD},
        {504, {0}, 0, FAILURE_CHUNKING, STAGE_DATA, SESSION_DEAD},
        {502, {0}, 9, FAILURE_CHUNKING, STAGE_DATA, SESSION_DEAD},
        {500, {5, 3, 3}, 0, FAILURE_CHUNKING, STAGE_DATA, SESSION_DEAD},
        {502, {5, 0, 0}, 0, FAILURE_CHUNKING, STAGE_DATA, SESSION_DEAD},
        /* what looks so, and is about the message */
        {500, {5, 7, 1}, 0, FAILURE_NONE, STAGE_END, SESSION_RESET},
        {501, {5, 1, 7}, 0, FAILURE_NONE, STAGE_END, SESSION_RESET},
        {500, {5, 3, 4}, 0, FAILURE_NONE, STAGE_END, SESSION_RESET},
        /* before it has all left */
        {250, {2, 0, 0}, 9, FAILURE_PROTOCOL, STAGE_END, SESSION_DEAD},
        {554, {0}, 9, FAILURE_NONE, STAGE_BODY, SESSION_DEAD},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct world *w = *state;
        send_in_one_flight(w);
        for (int k = 0; k < 1 + RECIPIENTS; k++)
            reply(w, 250);
        f.pending = rows[i].pending;
        reply_with(w, rows[i].code, rows[i].enhanced);
        if (w->reported != RECIPIENTS || w->failure != rows[i].failure ||
            w->stage != rows[i].stage || w->s.state != rows[i].then)
            fail_msg("row %zu, %d: %zu told, %s at %s, state %d", i, rows[i].code, w->reported,
                     failure_name(w->failure), stage_name(w->stage), w->s.state);
        if (rows[i].failure == FAILURE_NONE)
            assert_int_equal(w->code, rows[i].code);
        assert_int_equal(w->s.info.is_chunking_broken,
                         rows[i].failure != FAILURE_NONE || rows[i].code == 421);
        bool has_quit = str_find(buf_str(&f.written), STR("QUIT")) >= 0;
        assert_false(has_quit); /* it would be one more command where they are misunderstood */
        again(state);
    }
}

/* What becomes of the connection at which reply, the first being MAIL's. */
static void test_C18_a_flight_that_is_lost_leaves_the_outcome_unknown(void **state) {
    enum way { FLIGHT, TRIAL, STEPS };
    static const struct {
        int replies;
        enum way way;
        enum failure why;
        enum stage stage;
        bool is_broken;
    } rows[] = {
        {0, FLIGHT, FAILURE_CLOSED, STAGE_END, true},
        {0, FLIGHT, FAILURE_TIMEOUT, STAGE_END, true},
        {0, FLIGHT, FAILURE_TOO_SLOW, STAGE_END, true},
        {0, FLIGHT, FAILURE_PROTOCOL, STAGE_END, true},
        {0, FLIGHT, FAILURE_SHUTDOWN, STAGE_END, false},
        {1, FLIGHT, FAILURE_CLOSED, STAGE_END, true},
        {3, FLIGHT, FAILURE_CLOSED, STAGE_END, true},
        {0, TRIAL, FAILURE_CLOSED, STAGE_MAIL, true},
        {1, TRIAL, FAILURE_CLOSED, STAGE_RCPT, true},
        {3, TRIAL, FAILURE_CLOSED, STAGE_DATA, true},
        {4, TRIAL, FAILURE_CLOSED, STAGE_END, true},
        {3, TRIAL, FAILURE_SHORT, STAGE_DATA, false},
        {0, STEPS, FAILURE_CLOSED, STAGE_MAIL, false},
        {1, STEPS, FAILURE_CLOSED, STAGE_RCPT, false},
        {3, STEPS, FAILURE_CLOSED, STAGE_DATA, false},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct world *w = *state;
        if (rows[i].way == FLIGHT)
            send_in_one_flight(w);
        else if (rows[i].way == TRIAL)
            send_a_trial(w);
        else
            session_send(&w->s, &w->t);
        for (int k = 0; k < rows[i].replies; k++)
            reply(w, 250);
        session_die_failed(&w->s, rows[i].why, NULL);
        assert_int_equal(w->reported, RECIPIENTS);
        assert_int_equal(w->failure, rows[i].why);
        assert_int_equal(w->stage, rows[i].stage);
        assert_int_equal(w->s.info.is_chunking_broken, rows[i].is_broken);
        assert_true(w->is_done && !w->reusable);
        again(state);
    }
}

/* A server that says why it goes has not taken what came behind. */
static void test_C18_421_is_the_answer_to_what_was_asked(void **state) {
    static const enum stage stages[] = {STAGE_MAIL, STAGE_RCPT, STAGE_RCPT, STAGE_END};
    for (size_t i = 0; i < sizeof(stages) / sizeof(stages[0]); i++) {
        struct world *w = *state;
        send_in_one_flight(w);
        for (size_t k = 0; k < i; k++)
            reply(w, 250);
        reply(w, 421);
        assert_int_equal(w->failure, FAILURE_NONE);
        assert_int_equal(w->code, 421);
        assert_int_equal(w->stage, stages[i]);
        assert_int_equal(w->s.info.is_chunking_broken, stages[i] == STAGE_END);
        assert_false(w->reusable);
        again(state);
    }
}

/* Without memory for all of it the end was not sent. */
static void a_flight_that_found_no_memory_was_not_sent(void **state) {
    struct world *w = *state;
    f.has_failed = true;
    send_in_one_flight(w);
    assert_int_equal(session_stage(&w->s), STAGE_MAIL);
    again(state);
    w = *state;
    send_a_trial(w);
    for (int i = 0; i < 1 + RECIPIENTS; i++)
        reply(w, 250);
    f.has_failed = true;
    reply(w, 250);
    assert_int_equal(w->s.state, SESSION_BODY);
    assert_int_equal(session_stage(&w->s), STAGE_BODY);
}

/* BDAT 1 stands for DATA; the message follows its answer. */
static void test_C37_the_trial_sends_an_octet_unasked(void **state) {
    struct world *w = *state;
    send_a_trial(w);
    assert_true(str_ends_with(buf_str(&f.written), STR("BDAT 1\r\na")));
    for (int i = 0; i < 1 + RECIPIENTS; i++)
        reply(w, 250);
    assert_int_equal(session_stage(&w->s), STAGE_DATA);
    buf_clear(&f.written);
    f.pending = 9; /* it does not leave at once */
    reply(w, 250);
    assert_true(str_equal(buf_str(&f.written), STR("BDAT 5 LAST\r\n: b\r\n")));
    assert_int_equal(w->s.state, SESSION_BODY);
    assert_int_equal(session_stage(&w->s), STAGE_END);
    f.pending = 0;
    transaction_drained(&w->s);
    assert_int_equal(w->s.state, SESSION_END);
    reply(w, 250);
    assert_true(w->is_done && w->reusable && w->s.knows_bdat);
    assert_int_equal(w->stage, STAGE_END);
    again(state);

    w = *state; /* for nobody: it is forgotten again */
    send_a_trial(w);
    reply(w, 250);
    reply(w, 550);
    reply(w, 550);
    reply(w, 250);
    assert_int_equal(w->s.state, SESSION_RESET);
    assert_false(w->s.knows_bdat); /* it took none */
    assert_true(str_ends_with(buf_str(&f.written), STR("BDAT 1\r\naRSET\r\n")));
    session_die_failed(&w->s, FAILURE_CLOSED, NULL);
    assert_false(w->s.info.is_chunking_broken); /* it was answered */
    again(state);

    w = *state; /* the message is refused for what it is: whether it is known stays open */
    send_a_trial(w);
    for (int i = 0; i < 1 + RECIPIENTS + 1; i++)
        reply(w, 250);
    reply(w, 554);
    assert_int_equal(w->s.state, SESSION_RESET);
    assert_false(w->s.knows_bdat || w->s.info.is_chunking_broken);
}

/* A reply to the rest before all of it has left. */
static void test_C37_a_trial_that_is_refused_early(void **state) {
    static const struct {
        int code;
        enum failure failure;
        enum stage stage;
    } rows[] = {{502, FAILURE_CHUNKING, STAGE_DATA},
                {554, FAILURE_NONE, STAGE_BODY},
                {250, FAILURE_PROTOCOL, STAGE_END}};
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct world *w = *state;
        send_a_trial(w);
        f.pending = 9;
        for (int k = 0; k < 1 + RECIPIENTS + 1; k++)
            reply(w, 250);
        assert_int_equal(w->s.state, SESSION_BODY);
        reply(w, rows[i].code);
        assert_int_equal(w->reported, RECIPIENTS);
        assert_int_equal(w->failure, rows[i].failure);
        assert_int_equal(w->stage, rows[i].stage);
        assert_int_equal(w->s.info.is_chunking_broken, rows[i].failure != FAILURE_NONE);
        assert_int_equal(w->s.state, SESSION_DEAD);
        again(state);
    }
}

/* One that took a flight is not doubted for what happens to its RSET. */
static void test_C37_a_session_that_is_lost_behind_a_refusal_knows_BDAT(void **state) {
    struct world *w = *state;
    send_in_one_flight(w);
    for (int i = 0; i < 1 + RECIPIENTS; i++)
        reply(w, 250);
    reply(w, 554);
    assert_int_equal(w->s.state, SESSION_RESET);
    session_die_failed(&w->s, FAILURE_CLOSED, NULL);
    assert_true(w->is_done && !w->reusable);
    assert_false(w->s.info.is_chunking_broken);
}

static void test_C37_answers_to_the_trial(void **state) {
    static const struct {
        int code;
        bool has_somebody;
        enum failure failure;
        enum session_state then;
    } rows[] = {
        {500, true, FAILURE_CHUNKING, SESSION_DEAD},  {554, true, FAILURE_CHUNKING, SESSION_DEAD},
        {503, false, FAILURE_NONE, SESSION_RESET},    {554, false, FAILURE_NONE, SESSION_RESET},
        {502, false, FAILURE_CHUNKING, SESSION_DEAD}, {451, true, FAILURE_NONE, SESSION_RESET},
        {354, true, FAILURE_CHUNKING, SESSION_DEAD},  {354, false, FAILURE_CHUNKING, SESSION_DEAD},
        {451, false, FAILURE_NONE, SESSION_RESET},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct world *w = *state;
        send_a_trial(w);
        reply(w, 250);
        for (int k = 0; k < RECIPIENTS; k++)
            reply(w, rows[i].has_somebody ? 250 : 550);
        reply(w, rows[i].code);
        assert_int_equal(w->reported, RECIPIENTS);
        assert_int_equal(w->failure, rows[i].has_somebody ? rows[i].failure : FAILURE_NONE);
        assert_int_equal(w->stage, rows[i].has_somebody ? STAGE_DATA : STAGE_RCPT);
        assert_int_equal(w->s.state, rows[i].then);
        assert_int_equal(w->s.info.is_chunking_broken,
                         rows[i].failure == FAILURE_CHUNKING ||
                             (rows[i].code == 451 && rows[i].has_somebody));
        assert_false(w->s.knows_bdat);
        assert_int_equal(str_find(buf_str(&f.written), STR("LAST")), -1);
        assert_int_equal(str_find(buf_str(&f.written), STR("QUIT")), -1);
        again(state);
    }
}

/* One more than was asked, unread behind the last: which of them was the message's? */
static void test_C36_a_reply_too_many_in_a_flight_leaves_the_outcome_unknown(void **state) {
    static const struct {
        const char *unread;
        enum failure failure;
    } rows[] = {{"554 no\r\n", FAILURE_PROTOCOL},
                {"4", FAILURE_NONE},
                {"421 enough\r\n", FAILURE_NONE},
                {"451 no\r\n", FAILURE_PROTOCOL}};
    for (size_t i = 0; i < 2 * sizeof(rows) / sizeof(rows[0]); i++) {
        struct world *w = *state;
        bool is_trial = i % 2 == 1;
        if (is_trial)
            send_a_trial(w);
        else
            send_in_one_flight(w);
        for (int k = 0; k < 1 + RECIPIENTS + is_trial; k++)
            reply(w, 250);
        f.unread = str_of(rows[i / 2].unread);
        reply(w, 250);
        assert_int_equal(w->reported, RECIPIENTS);
        assert_int_equal(w->stage, STAGE_END);
        assert_int_equal(w->failure, rows[i / 2].failure);
        assert_true(w->is_done && !w->reusable);
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
        TEST(test_C37_T1_one_flight_is_the_envelope_and_the_message_as_it_is),
        TEST(test_C37_what_goes_step_by_step),
        TEST(test_C37_refusals_of_the_envelope_stand_whatever_follows),
        TEST(test_C37_answers_to_the_chunk),
        TEST(test_C18_a_flight_that_is_lost_leaves_the_outcome_unknown),
        TEST(test_C18_421_is_the_answer_to_what_was_asked),
        TEST(a_flight_that_found_no_memory_was_not_sent),
        TEST(test_C37_the_trial_sends_an_octet_unasked),
        TEST(test_C37_answers_to_the_trial),
        TEST(test_C37_a_trial_that_is_refused_early),
        TEST(test_C37_a_session_that_is_lost_behind_a_refusal_knows_BDAT),
        TEST(test_C36_a_reply_too_many_in_a_flight_leaves_the_outcome_unknown),
        TEST(what_cannot_be_sent_is_refused_before_an_octet_leaves),
        TEST(a_reply_in_a_state_that_awaits_none_ends_it),
        TEST(an_answer_to_starttls_before_it_has_left_ends_it),
        TEST(a_reply_too_many_behind_a_refusal_ends_the_opening),
        cmocka_unit_test(a_result_has_words),
        TEST(it_may_end_without_words),
    };
    return cmocka_run_group_tests_name("session", tests, NULL, NULL);
}
