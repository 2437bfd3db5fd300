/* The client's session talks to our own server side over loopback. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <event2/buffer.h>
#include <netinet/in.h>
#include <unistd.h>
#include <cmocka.h>

#include "server/base/buf.h"
#include "server/net/listener.h"
#include "server/smtp/receive.h"
#include "server/smtp/session.h"

enum { RECIPIENTS_MAX = 300, TURNS_MAX = 100000 };

/* ---- memory that a stream does not get -------------------------------------------------------
 */

/* The write number `at` of those with `mark` in them, or of the final dot alone, is refused; of
 * what is written in TLS (`at` 0), its way to the connection. */
static struct {
    const char *mark; /* NULL: there is memory */
    int at;
} refused;

static bool is_refused(const void *bytes, size_t n) {
    bool is_marked = refused.mark && ((n == 3 && memcmp(bytes, ".\r\n", n) == 0) ||
                                      memmem(bytes, n, refused.mark, strlen(refused.mark)));
    return is_marked && refused.at > 0 && --refused.at == 0;
}

int __real_evbuffer_add(struct evbuffer *b, const void *bytes, size_t n);
int __wrap_evbuffer_add(struct evbuffer *b, const void *bytes, size_t n);
int __wrap_evbuffer_add(struct evbuffer *b, const void *bytes, size_t n) {
    return is_refused(bytes, n) ? -1 : __real_evbuffer_add(b, bytes, n);
}
int __real_evbuffer_add_reference(struct evbuffer *b, const void *bytes, size_t n,
                                  evbuffer_ref_cleanup_cb done, void *arg);
int __wrap_evbuffer_add_reference(struct evbuffer *b, const void *bytes, size_t n,
                                  evbuffer_ref_cleanup_cb done, void *arg);
int __wrap_evbuffer_add_reference(struct evbuffer *b, const void *bytes, size_t n,
                                  evbuffer_ref_cleanup_cb done, void *arg) {
    return is_refused(bytes, n) ? -1 : __real_evbuffer_add_reference(b, bytes, n, done, arg);
}
int __real_evbuffer_add_buffer(struct evbuffer *to, struct evbuffer *from);
int __wrap_evbuffer_add_buffer(struct evbuffer *to, struct evbuffer *from);
int __wrap_evbuffer_add_buffer(struct evbuffer *to, struct evbuffer *from) {
    bool is_marked = refused.mark && refused.at == 0 &&
                     evbuffer_search(from, refused.mark, strlen(refused.mark), NULL).pos >= 0;
    return is_marked ? -1 : __real_evbuffer_add_buffer(to, from);
}

/* ---- the two ends ----------------------------------------------------------------------------
 */

struct world {
    struct loop *loop;
    struct listener *listener;
    struct receive *receive;
    struct session *session;
    struct tls_server_ctx *server_tls;
    struct tls_client_ctx *client_tls;
    size_t message_bytes_max;
    /* the receiver's side */
    struct buf data;
    char mail_from[256], rcpt_last[256], tls_version[16];
    size_t rcpt_count, messages;
    bool smtputf8, answer_later, waits;
    struct receive_answer answer;
    /* the client's side */
    bool ready, done, reusable, failed, close_in_callback;
    size_t reported, results[RECIPIENTS_MAX];
    enum stage stage;
    enum failure failure;
    int code;
    char text[256];
};

static struct receive_answer on_mail(void *ctx, struct str from) {
    (void)ctx;
    return str_starts_with(from, STR("refused@")) ? (struct receive_answer){550, "5.7.1", "no"}
                                                  : (struct receive_answer){250, "2.1.0", "OK"};
}

static struct receive_answer on_rcpt(void *ctx, struct str to) {
    (void)ctx;
    return str_starts_with(to, STR("nobody")) ? (struct receive_answer){550, "5.1.1", "nobody"}
                                              : (struct receive_answer){250, "2.1.5", "OK"};
}

static void on_message(void *ctx, struct receive *r, const struct received *m) {
    struct world *w = ctx;
    buf_clear(&w->data);
    buf_put(&w->data, m->data);
    snprintf(w->mail_from, sizeof(w->mail_from), "%.*s", STR_ARG(m->mail_from));
    snprintf(w->rcpt_last, sizeof(w->rcpt_last), "%.*s", STR_ARG(m->rcpt[m->rcpt_count - 1]));
    snprintf(w->tls_version, sizeof(w->tls_version), "%s", m->tls.version);
    w->rcpt_count = m->rcpt_count;
    w->smtputf8 = m->smtputf8;
    w->messages++;
    if (w->answer_later)
        w->waits = true;
    else
        receive_answer_data(r, w->answer);
}

static void on_end(void *ctx, struct receive *r) {
    struct world *w = ctx;
    assert_ptr_equal(r, w->receive);
    receive_close(&w->receive, false);
}

static const struct receive_policy policy = {
    .on_mail = on_mail, .on_rcpt = on_rcpt, .on_message = on_message, .on_end = on_end};

static void on_accept(void *ctx, int fd, const struct sockaddr_any *peer) {
    (void)peer;
    struct world *w = ctx;
    assert_null(w->receive);
    struct receive_options o = {
        .host_name = "mx.test", .tls = w->server_tls, .message_bytes_max = w->message_bytes_max};
    w->receive = receive_new(w->loop, fd, &o, &policy, w);
}

static void keep_result(struct world *w, const struct session_result *r) {
    w->stage = r->stage;
    w->failure = r->failure;
    w->code = r->reply ? r->reply->code : 0;
    snprintf(w->text, sizeof(w->text), "%.*s", STR_ARG(r->reply ? r->reply->text : r->text));
}

static void on_ready(void *ctx) {
    ((struct world *)ctx)->ready = true;
}

static void on_recipient(void *ctx, size_t i, const struct session_result *r) {
    struct world *w = ctx;
    assert_false(w->done);
    w->reported++;
    w->results[i]++;
    keep_result(w, r);
    if (w->close_in_callback)
        session_close(&w->session);
}

static void on_done(void *ctx, bool reusable) {
    struct world *w = ctx;
    assert_false(w->done);
    w->done = true;
    w->reusable = reusable;
}

static void on_failed(void *ctx, const struct session_result *r) {
    struct world *w = ctx;
    w->failed = true;
    keep_result(w, r);
}

static const struct session_events events = {
    .on_ready = on_ready, .on_recipient = on_recipient, .on_done = on_done, .on_failed = on_failed};

static void turn_until(struct world *w, const bool *flag) {
    for (int i = 0; i < TURNS_MAX && !*flag && !w->failed; i++)
        loop_dispatch_once(w->loop, 5000);
}

static void open_session(struct world *w, enum session_tls tls, const char *user) {
    struct sockaddr_any at;
    assert_int_equal(sockaddr_parse(STR("127.0.0.1"), 0, &at), OK);
    assert_int_equal(listener_open(w->loop, &at, on_accept, w, &w->listener, NULL), OK);
    struct session_options o = {.to = listener_address(w->listener),
                                .host_name = "mx.test",
                                .ehlo_name = "client.test",
                                .tls = tls,
                                .tls_ctx = w->client_tls,
                                .auth_user = user,
                                .auth_password = "secret",
                                .keep_transcript = true};
    session_timeouts_default(&o.timeouts);
    w->session = session_open(w->loop, &o, &events, w);
    turn_until(w, &w->ready);
}

static int setup(void **state) {
    struct world *w = mem_zalloc(sizeof(*w));
    w->loop = loop_new();
    w->message_bytes_max = 30 * 1024 * 1024;
    w->answer = (struct receive_answer){250, "2.0.0", "queued"};
    buf_init(&w->data, 64 * 1024 * 1024);
    *state = w;
    return 0;
}

static void with_tls(struct world *w) {
    struct tls_client_options o = {0};
    assert_int_equal(tls_server_ctx_new_selfsigned("mx.test", &w->server_tls, NULL), OK);
    assert_int_equal(tls_client_ctx_new(&o, &w->client_tls, NULL), OK);
}

static int teardown(void **state) {
    struct world *w = *state;
    session_quit(&w->session);
    for (int i = 0; i < 1000 && w->receive; i++)
        loop_dispatch_once(w->loop, 5000);
    assert_null(w->receive); /* QUIT, or the end of the connection, has arrived */
    listener_close(&w->listener);
    tls_server_ctx_unref(&w->server_tls);
    tls_client_ctx_unref(&w->client_tls);
    loop_free(&w->loop);
    buf_release(&w->data);
    free(w);
    return 0;
}

static struct message *make_message(const char *bytes, size_t n) {
    struct id id = {0};
    return message_new(&id, mem_dup(bytes, n), n);
}

static void send_message(struct world *w, const char *from, const char *const *to, size_t count,
                         const char *bytes, size_t n) {
    static struct session_recipient r[RECIPIENTS_MAX];
    for (size_t i = 0; i < count; i++)
        r[i] = (struct session_recipient){.email = str_of(to[i])};
    struct message *m = make_message(bytes, n);
    struct transaction t = {
        .mail_from = str_of(from), .recipient = r, .count = count, .message = m};
    w->done = false;
    w->reported = 0;
    memset(w->results, 0, sizeof(w->results));
    session_send(w->session, &t);
    message_unref(&m);
    assert_false(w->done);
    turn_until(w, &w->done);
    assert_true(w->done);
    for (size_t i = 0; i < count; i++)
        assert_int_equal(w->results[i], 1);
}

#define SEND(w, to, bytes)                                                                         \
    send_message((w), "a@client.test", (to), sizeof(to) / sizeof((to)[0]), (bytes), strlen(bytes))

static void test_a_message_arrives_as_it_was(void **state) {
    struct world *w = *state;
    const char *to[] = {"b@mx.test"};
    open_session(w, SESSION_TLS_NONE, NULL);
    assert_true(w->ready);
    assert_true(session_info_of(w->session)->pipelining);
    assert_int_equal(session_info_of(w->session)->size_max, w->message_bytes_max);
    SEND(w, to, "Subject: x\r\n\r\n.dot\r\n..\r\n.\r\nend\r\n");
    assert_true(w->reusable);
    assert_int_equal(w->stage, STAGE_END);
    assert_int_equal(w->code, 250);
    assert_string_equal(w->data.p, "Subject: x\r\n\r\n.dot\r\n..\r\n.\r\nend\r\n");
    assert_string_equal(w->mail_from, "a@client.test");
    assert_string_equal(w->rcpt_last, "b@mx.test");
}

static void test_a_session_carries_several_transactions(void **state) {
    struct world *w = *state;
    const char *bad[] = {"nobody@mx.test"}, *mixed[] = {"nobody@mx.test", "b@mx.test"};
    open_session(w, SESSION_TLS_NONE, NULL);
    SEND(w, bad, "x: y\r\n\r\nz\r\n");
    assert_true(w->reusable);
    assert_int_equal(w->stage, STAGE_RCPT);
    assert_int_equal(w->code, 550);
    SEND(w, mixed, "x: y\r\n\r\nz\r\n");
    assert_true(w->reusable);
    assert_int_equal(w->rcpt_count, 1);
    assert_int_equal(w->messages, 1);
    send_message(w, "refused@client.test", mixed, 2, "x: y\r\n\r\nz\r\n", 11);
    assert_int_equal(w->stage, STAGE_MAIL);
    assert_true(w->reusable);
    w->answer = (struct receive_answer){451, "4.3.0", "later"};
    SEND(w, mixed, "x: y\r\n\r\nz\r\n");
    assert_int_equal(w->stage, STAGE_END);
    assert_int_equal(w->code, 451);
    assert_true(w->reusable);
    w->answer = (struct receive_answer){250, NULL, NULL};
    SEND(w, mixed, "x: y\r\n\r\nz\r\n");
    assert_int_equal(w->messages, 3);
}

static void test_a_connection_that_is_reset_at_once_has_stood(void **state) {
    struct world *w = *state;
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(at);
    int listening = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(listening, (struct sockaddr *)&at, len), 0);
    assert_int_equal(listen(listening, 1), 0);
    assert_int_equal(getsockname(listening, (struct sockaddr *)&at, &len), 0);
    struct sockaddr_any to;
    assert_int_equal(sockaddr_parse(STR("127.0.0.1"), ntohs(at.sin_port), &to), OK);
    struct session_options o = {
        .to = to, .host_name = "mx.test", .ehlo_name = "client.test", .tls = SESSION_TLS_NONE};
    session_timeouts_default(&o.timeouts);
    w->session = session_open(w->loop, &o, &events, w);
    /* it is accepted and reset before the client's loop has turned once */
    int accepted = accept4(listening, NULL, NULL, SOCK_CLOEXEC);
    assert_true(accepted >= 0);
    struct linger at_once = {.l_onoff = 1};
    assert_int_equal(setsockopt(accepted, SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once)), 0);
    close(accepted);
    close(listening);
    turn_until(w, &w->failed);
    assert_int_equal(w->failure, FAILURE_CLOSED);
    assert_int_equal(w->stage, STAGE_GREETING);
}

static void test_many_recipients_in_one_transaction(void **state) {
    struct world *w = *state;
    static char names[RECIPIENTS_MAX][32];
    const char *to[RECIPIENTS_MAX];
    for (int i = 0; i < RECIPIENTS_MAX; i++) {
        snprintf(names[i], sizeof(names[i]), "r%d@mx.test", i);
        to[i] = names[i];
    }
    open_session(w, SESSION_TLS_NONE, NULL);
    SEND(w, to, "x: y\r\n\r\nz\r\n");
    assert_int_equal(w->rcpt_count, RECIPIENTS_MAX);
}

static void send_large(struct world *w) {
    size_t n = 25 * 1024 * 1024;
    char *bytes = mem_zalloc(n);
    for (size_t i = 0; i < n; i++) /* lines of 64 octets, each third begins with a dot */
        bytes[i] = i % 64 == 62 ? '\r' : i % 64 == 63 ? '\n' : i % 192 == 0 ? '.' : 'a';
    const char *to[] = {"b@mx.test"};
    send_message(w, "", to, 1, bytes, n);
    assert_true(w->reusable);
    assert_int_equal(w->data.n, n);
    assert_memory_equal(w->data.p, bytes, n);
    assert_string_equal(w->mail_from, "");
    free(bytes);
}

static void test_a_large_message_arrives_as_it_was(void **state) {
    struct world *w = *state;
    open_session(w, SESSION_TLS_NONE, NULL);
    send_large(w);
}

/* Runs of every length that is treated in its own way: gathered, copied at once, given away. */
static void test_runs_of_all_lengths_arrive_as_they_were(void **state) {
    struct world *w = *state;
    static const struct {
        size_t bytes, dot; /* where a line begins with a dot */
    } rows[] = {{40000, 0},      {60000, 33000}, {64 * 1024, 64 * 1024 - 10},
                {200000, 10000}, {200000, 7000}, {200000, 40000}};
    open_session(w, SESSION_TLS_NONE, NULL);
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        char *bytes = mem_zalloc(rows[i].bytes);
        for (size_t k = 0; k < rows[i].bytes; k++)
            bytes[k] = k % 500 == 498 ? '\r' : k % 500 == 499 ? '\n' : 'a';
        size_t dot = rows[i].dot / 500 * 500;
        bytes[dot] = dot == 0 ? 'a' : '.';
        memcpy(bytes + rows[i].bytes - 2, "\r\n", 2);
        const char *to[] = {"b@mx.test"};
        send_message(w, "", to, 1, bytes, rows[i].bytes);
        assert_true(w->reusable);
        assert_int_equal(w->data.n, rows[i].bytes);
        assert_memory_equal(w->data.p, bytes, rows[i].bytes);
        free(bytes);
    }
}

/* Two addresses of one host: the transcript names both, and the one that it became. */
static void test_the_transcript_names_both_addresses_of_a_race(void **state) {
    struct world *w = *state;
    struct sockaddr_any at, nobody;
    assert_int_equal(sockaddr_parse(STR("127.0.0.1"), 0, &at), OK);
    assert_int_equal(listener_open(w->loop, &at, on_accept, w, &w->listener, NULL), OK);
    struct session_options o = {.host_name = "mx.test",
                                .ehlo_name = "client.test",
                                .rival = listener_address(w->listener),
                                .head_start_ms = 10,
                                .keep_transcript = true};
    assert_int_equal(sockaddr_parse(STR("127.0.0.2"), 1, &nobody), OK); /* refuses */
    o.to = nobody;
    session_timeouts_default(&o.timeouts);
    w->session = session_open(w->loop, &o, &events, w);
    turn_until(w, &w->ready);
    assert_true(w->ready);
    struct str t = session_transcript(w->session);
    char name[SOCKADDR_TEXT_SIZE], words[2 * SOCKADDR_TEXT_SIZE];
    sockaddr_print(&o.rival, name);
    snprintf(words, sizeof(words), " or %s", name);
    assert_true(str_find(t, str_of(words)) >= 0);
    snprintf(words, sizeof(words), "connected to %s", name);
    assert_true(str_find(t, str_of(words)) >= 0);
}

static void test_an_address_that_is_not_ours_is_our_own_trouble(void **state) {
    struct world *w = *state;
    struct sockaddr_any to, source;
    assert_int_equal(sockaddr_parse(STR("127.0.0.1"), 1, &to), OK);
    assert_int_equal(sockaddr_parse(STR("192.0.2.1"), 0, &source), OK);
    struct session_options o = {
        .to = to, .source = source, .host_name = "mx.test", .ehlo_name = "client.test"};
    session_timeouts_default(&o.timeouts);
    w->session = session_open(w->loop, &o, &events, w);
    turn_until(w, &w->failed);
    assert_int_equal(w->failure, FAILURE_LOCAL);
    assert_int_equal(w->stage, STAGE_CONNECT);
}

/* An account may have none; it needs TLS as any other. */
static void test_C39_a_user_without_a_password_is_one(void **state) {
    struct world *w = *state;
    struct sockaddr_any at;
    assert_int_equal(sockaddr_parse(STR("127.0.0.1"), 0, &at), OK);
    assert_int_equal(listener_open(w->loop, &at, on_accept, w, &w->listener, NULL), OK);
    struct session_options o = {.to = listener_address(w->listener),
                                .host_name = "mx.test",
                                .ehlo_name = "client.test",
                                .auth_user = "user"};
    session_timeouts_default(&o.timeouts);
    w->session = session_open(w->loop, &o, &events, w);
    turn_until(w, &w->failed);
    assert_int_equal(w->failure, FAILURE_AUTH_UNAVAILABLE);
    assert_int_equal(w->stage, STAGE_AUTH);
}

static void test_a_large_message_arrives_through_tls(void **state) {
    struct world *w = *state;
    with_tls(w);
    open_session(w, SESSION_TLS_OPPORTUNISTIC, NULL);
    assert_true(w->ready);
    send_large(w);
    assert_true(w->tls_version[0] != '\0');
    const struct tls_info *tls = &session_info_of(w->session)->tls;
    assert_true(tls->version[0] != '\0');
    assert_false(tls->is_verified);
    char words[2 * sizeof(tls->version)];
    snprintf(words, sizeof(words), "%s, not verified", tls->version);
    assert_true(str_find(session_transcript(w->session), str_of(words)) >= 0);
}

static void test_verified_tls_refuses_a_self_signed_certificate(void **state) {
    struct world *w = *state;
    with_tls(w);
    open_session(w, SESSION_TLS_VERIFY, NULL);
    assert_true(w->failed);
    assert_int_equal(w->stage, STAGE_TLS);
    assert_int_equal(w->failure, FAILURE_TLS_UNTRUSTED);
}

static void test_C34_required_tls_is_not_done_without(void **state) {
    struct world *w = *state;
    with_tls(w);
    tls_server_ctx_unref(&w->server_tls);
    open_session(w, SESSION_TLS_ENCRYPT, NULL);
    assert_true(w->failed);
    assert_int_equal(w->failure, FAILURE_TLS_NOT_OFFERED);
    w->failed = false;
}

static void test_C39_a_password_needs_verified_tls(void **state) {
    struct world *w = *state;
    with_tls(w);
    open_session(w, SESSION_TLS_ENCRYPT, "user");
    assert_true(w->failed);
    assert_int_equal(w->stage, STAGE_AUTH);
    assert_int_equal(w->failure, FAILURE_AUTH_UNAVAILABLE);
}

static void test_C35_too_large_is_not_transmitted(void **state) {
    struct world *w = *state;
    const char *to[] = {"b@mx.test"};
    w->message_bytes_max = 20;
    open_session(w, SESSION_TLS_NONE, NULL);
    SEND(w, to, "Subject: 12345\r\n\r\n1234\r\n");
    assert_int_equal(w->failure, FAILURE_TOO_LARGE);
    assert_true(w->reusable);
    assert_int_equal(w->messages, 0);
    SEND(w, to, "Subject: 1\r\n\r\n");
    assert_int_equal(w->failure, FAILURE_NONE);
    assert_int_equal(w->messages, 1);
}

static void test_a_late_answer_is_waited_for(void **state) {
    struct world *w = *state;
    w->answer_later = true;
    open_session(w, SESSION_TLS_NONE, NULL);
    struct session_recipient r = {.email = STR("b@mx.test")};
    struct message *m = make_message("a: b\r\n\r\n", 8);
    struct transaction t = {.recipient = &r, .count = 1, .message = m};
    session_send(w->session, &t);
    message_unref(&m);
    turn_until(w, &w->waits);
    assert_false(w->done);
    receive_answer_data(w->receive, (struct receive_answer){550, "5.7.1", "spam"});
    turn_until(w, &w->done);
    assert_int_equal(w->code, 550);
    assert_true(w->reusable);
}

static void test_the_session_may_be_closed_in_a_callback(void **state) {
    struct world *w = *state;
    open_session(w, SESSION_TLS_NONE, NULL);
    w->close_in_callback = true;
    struct session_recipient r[2] = {{.email = STR("nobody@mx.test")}, {.email = STR("b@mx.test")}};
    struct message *m = make_message("a: b\r\n\r\n", 8);
    struct transaction t = {.recipient = r, .count = 2, .message = m};
    session_send(w->session, &t);
    message_unref(&m);
    for (int i = 0; i < TURNS_MAX && w->session; i++)
        loop_dispatch_once(w->loop, 5000);
    assert_null(w->session);
    assert_int_equal(w->reported, 1);
    assert_false(w->done);
}

/* Without the final dot nothing was delivered: that is known, whatever the stream still held. */
static void test_memory_that_is_short_before_the_dot_is_no_unknown_outcome(void **state) {
    static const struct {
        const char *mark;
        int at;
        bool in_tls;
        size_t bytes;
        enum stage stage;
    } rows[] = {
        {"~", 1, false, 128, STAGE_BODY},    {"~", 1, false, 200000, STAGE_BODY},
        {"~", 2, false, 200000, STAGE_BODY}, {"~", 3, false, 200000, STAGE_BODY},
        {"~", 4, false, 200000, STAGE_BODY}, {"~", 4, false, 196608, STAGE_BODY}, /* the dot */
        {"~", 1, true, 128, STAGE_BODY},     {"~", 0, true, 128, STAGE_BODY},
        {"~", 0, true, 200000, STAGE_BODY},  {"MAIL FROM", 1, false, 128, STAGE_MAIL},
    };
    static const char *to[] = {"b@mx.test"};
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct world *w = *state;
        char *bytes = mem_zalloc(rows[i].bytes);
        for (size_t k = 0; k < rows[i].bytes; k++)
            bytes[k] = k % 64 == 62 ? '\r' : k % 64 == 63 ? '\n' : '~';
        if (rows[i].in_tls)
            with_tls(w);
        open_session(w, rows[i].in_tls ? SESSION_TLS_ENCRYPT : SESSION_TLS_NONE, NULL);
        refused.mark = rows[i].mark;
        refused.at = rows[i].at;
        send_message(w, "", to, 1, bytes, rows[i].bytes);
        refused.mark = NULL;
        free(bytes);
        assert_int_equal(refused.at, 0); /* it came to that */
        assert_false(w->reusable);
        assert_int_equal(w->failure, FAILURE_SHORT);
        if (w->stage != rows[i].stage)
            fail_msg("row %zu: at %s", i, stage_name(w->stage));
        assert_int_equal(w->messages, 0);
        teardown(state);
        setup(state);
    }
}

static void test_the_transcript_shows_the_dialogue(void **state) {
    struct world *w = *state;
    const char *to[] = {"b@mx.test"};
    open_session(w, SESSION_TLS_NONE, NULL);
    SEND(w, to, "a: b\r\n\r\n");
    struct str t = session_transcript(w->session);
    assert_true(str_find(t, STR("S: 220 mx.test ESMTP\n")) >= 0);
    assert_true(str_find(t, STR("C: EHLO client.test\n")) >= 0);
    assert_true(str_find(t, STR("C: MAIL FROM:<a@client.test> SIZE=8\n")) >= 0);
    assert_true(str_find(t, STR("C: (message, 8 octets)\n")) >= 0);
    assert_true(str_find(t, STR("S: 250 2.0.0 queued\n")) >= 0);
    SEND(w, to, "a: b\r\n\r\n");
    assert_int_equal(str_find(session_transcript(w->session), STR("EHLO")), -1);
}

#define WORLD(t) cmocka_unit_test_setup_teardown(t, setup, teardown)

int main(void) {
    const struct CMUnitTest tests[] = {
        WORLD(test_a_message_arrives_as_it_was),
        WORLD(test_a_session_carries_several_transactions),
        WORLD(test_a_connection_that_is_reset_at_once_has_stood),
        WORLD(test_many_recipients_in_one_transaction),
        WORLD(test_a_large_message_arrives_as_it_was),
        WORLD(test_a_large_message_arrives_through_tls),
        WORLD(test_runs_of_all_lengths_arrive_as_they_were),
        WORLD(test_the_transcript_names_both_addresses_of_a_race),
        WORLD(test_an_address_that_is_not_ours_is_our_own_trouble),
        WORLD(test_C39_a_user_without_a_password_is_one),
        WORLD(test_verified_tls_refuses_a_self_signed_certificate),
        WORLD(test_C34_required_tls_is_not_done_without),
        WORLD(test_C39_a_password_needs_verified_tls),
        WORLD(test_C35_too_large_is_not_transmitted),
        WORLD(test_a_late_answer_is_waited_for),
        WORLD(test_the_session_may_be_closed_in_a_callback),
        WORLD(test_memory_that_is_short_before_the_dot_is_no_unknown_outcome),
        WORLD(test_the_transcript_shows_the_dialogue),
    };
    return cmocka_run_group_tests_name("conversation", tests, NULL, NULL);
}
