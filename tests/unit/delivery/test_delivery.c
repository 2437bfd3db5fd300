/* Delivery from the store to receiving servers on loopback. */
#include "tests/unit/delivery/world.h"

#include <limits.h>
#include <openssl/ssl.h>

#include "server/base/metrics.h"
#include "server/delivery/window.h"
#include "server/mail/outcome.h"
#include "server/mail/rules.h"
#include "tests/unit/net/responder.h"

/* ---- facts --------------------------------------------------------------------------------------
 */

static void a_thousand_messages_arrive_once_each_over_few_connections(void **state) {
    struct world *w = *state;
    start(w);
    for (int i = 0; i < 1000; i++)
        submit(w, "ok@example.net");
    await_completed(w, 1000);
    assert_int_equal(sink_get(&w->sink->messages), 1000);
    assert_in_range(sink_get(&w->sink->connections), 1, 60);
    struct store_totals t = totals(w);
    assert_int_equal(t.by_state[RECIPIENT_DELIVERED], 1000);
    assert_string_equal(w->sink->mail_from, "shop@example.org");
}

static void what_waited_before_the_start_is_loaded(void **state) {
    struct world *w = *state;
    w->o.due_in_memory = 100; /* much more waits than may be held */
    for (int i = 0; i < 1500; i++)
        submit(w, "ok@example.net");
    start(w);
    await_completed(w, 1500);
    assert_int_equal(sink_get(&w->sink->messages), 1500);
}

static void several_recipients_share_one_transaction(void **state) {
    struct world *w = *state;
    start(w);
    struct id id = submit(w, "ok1@example.net,ok2@example.net,ok3@example.com,bounce@example.com");
    await_completed(w, 1);
    assert_int_equal(sink_get(&w->sink->messages), 1);
    assert_int_equal(sink_get(&w->sink->recipients), 3);
    assert_int_equal(recipient(w, id, 2).state, RECIPIENT_DELIVERED);
    assert_int_equal(recipient(w, id, 3).state, RECIPIENT_BOUNCED);
}

static void a_refused_recipient_bounces_with_the_reply_and_the_dialogue(void **state) {
    struct world *w = *state;
    start(w);
    struct id id = submit(w, "bounce@example.net");
    await_completed(w, 1);
    struct arena *a = NULL;
    struct message_row m = message(w, id, &a);
    const struct recipient_row *r = &m.recipient[0];
    assert_int_equal(r->state, RECIPIENT_BOUNCED);
    assert_int_equal(r->attempts, 1);
    assert_int_equal(r->last.code, 550);
    assert_string_equal(r->last.enhanced, "5.1.1");
    assert_int_equal(r->last.class_, CLASS_INVALID_RECIPIENT);
    assert_int_equal(r->last.stage, STAGE_RCPT);
    assert_true(r->last.is_hard);
    arena_free(&a);
    struct attempt_row attempt = {0};
    assert_int_equal(attempts_of(w, id, &attempt, &a), 1);
    assert_true(str_find(attempt.transcript, STR("RCPT TO:<bounce@example.net>")) >= 0);
    assert_true(str_find(attempt.transcript, STR("550")) >= 0);
    assert_true(str_equal(attempt.host, STR("127.0.0.1")));
    assert_int_equal(attempt.recipient_count, 1);
    assert_int_equal(attempt.recipient[0].action, VERDICT_BOUNCED);
    arena_free(&a);
}

static void a_deferred_recipient_is_tried_again_until_it_is_taken(void **state) {
    struct world *w = *state;
    w->sink->later_times = 3;
    start(w);
    struct id id = submit(w, "later@example.net");
    await_completed(w, 1);
    struct recipient_row r = recipient(w, id, 0);
    assert_int_equal(r.state, RECIPIENT_DELIVERED);
    assert_int_equal(r.attempts, 4);
    assert_false(r.possible_duplicate);
}

static void too_many_recipients_go_on_at_once_without_an_attempt(void **state) {
    struct world *w = *state;
    w->o.retry_ms[0] = 60000; /* a retry would be noticed */
    start(w);
    struct id id = submit(w, "few0@x.test,few1@x.test,few2@x.test,few3@x.test,few4@x.test,"
                             "few5@x.test,few6@x.test");
    await_completed(w, 1);
    assert_int_equal(sink_get(&w->sink->recipients), 7);
    assert_int_equal(sink_get(&w->sink->messages), 3);
    for (size_t i = 0; i < 7; i++) {
        struct recipient_row r = recipient(w, id, i);
        assert_int_equal(r.state, RECIPIENT_DELIVERED);
        assert_int_equal(r.attempts, 1);
    }
    struct attempt_row last;
    struct arena *a = NULL;
    assert_int_equal(attempts_of(w, id, &last, &a), 3);
    arena_free(&a);
}

static void a_limit_of_recipients_is_tried_again_after_some_that_were_full(void **state) {
    enum { FULL = 16 };
    struct world *w = *state;
    w->o.loops = 1;
    start(w);
    submit(w, "few0@x.test,few1@x.test,few2@x.test,few3@x.test");
    await_completed(w, 1);
    for (int i = 0; i < FULL; i++) {
        submit(w, "ok1@x.test,ok2@x.test,ok3@x.test");
        await_completed(w, i + 2);
    }
    int before = sink_get(&w->sink->messages);
    submit(w, "ok1@x.test,ok2@x.test,ok3@x.test,ok4@x.test,ok5@x.test,ok6@x.test");
    await_completed(w, FULL + 2);
    assert_int_equal(sink_get(&w->sink->messages) - before, 1);
}

/* A job of several transactions is no way around the limit. */
static void a_session_takes_no_more_messages_than_its_route_says(void **state) {
    struct world *w = *state;
    w->o.retry_ms[0] = 60000; /* a retry would be noticed */
    w->route.messages_per_connection = 1;
    start(w);
    struct id id = submit(w, "few0@x.test,few1@x.test,few2@x.test,few3@x.test,few4@x.test,"
                             "few5@x.test,few6@x.test");
    await_completed(w, 1);
    assert_int_equal(sink_get(&w->sink->messages), 3);
    assert_int_equal(sink_get(&w->sink->connections), 3);
    for (size_t i = 0; i < 7; i++)
        assert_int_equal(recipient(w, id, i).attempts, 1);
}

static void nothing_is_lost_when_sessions_break(void **state) {
    struct world *w = *state;
    log_setup(LOG_ERROR, LOG_FORMAT_TEXT);
    expect_log("site does not answer");
    w->sink->break_every = 20;
    start(w);
    for (int i = 0; i < 300; i++)
        submit(w, "ok@example.net");
    await_completed(w, 300);
    assert_true(sink_get(&w->sink->messages) >= 300);
    assert_int_equal(totals(w).by_state[RECIPIENT_DELIVERED], 300);
}

static void idle_sessions_that_the_server_closed_cost_no_attempt(void **state) {
    struct world *w = *state;
    w->o.retry_ms[0] = 60000;
    start(w);
    submit(w, "ok@example.net");
    await_completed(w, 1);
    sink_on_loop(w->sink->loop, sink_close_all, w->sink);
    for (int i = 0; i < 20; i++)
        submit(w, "ok@example.net");
    await_completed(w, 21);
    assert_int_equal(sink_get(&w->sink->messages), 21);
}

static void hostile_servers_only_defer(void **state) {
    static const char *const SAID[] = {
        "",
        "\r\n",
        "220",
        "garbage\r\n",
        "220 x\n",
        "554 5.7.1 go away\r\n",
        "220 ok\r\n250 early\r\n",
        "HTTP/1.1 400 Bad Request\r\n\r\n",
    };
    struct world *w = *state;
    log_setup(LOG_ERROR, LOG_FORMAT_TEXT);
    expect_log("site does not answer");
    for (size_t i = 0; i < sizeof(SAID) / sizeof(SAID[0]); i++) {
        replace_sink(w, false, SAID[i], "tls=none");
        start(w);
        struct id id = submit(w, "ok@example.net");
        await_state(w, id, RECIPIENT_QUEUED, 2);
        assert_int_equal(recipient(w, id, 0).state == RECIPIENT_DELIVERED, false);
        delivery_stop(&w->delivery);
        struct store_cancel q = {
            .call = {.verb = STORE_CANCEL}, .id = id, .project = 1, .now_wall_ms = clock_wall_ms()};
        assert_int_equal(store_sync(w->store, &q.call), OK);
        store_call_release(&q.call);
    }
}

static bool has_paused(struct world *w, void *arg) {
    (void)w, (void)arg;
    return logged("site does not answer") > 0;
}

static void a_dead_site_rests_and_then_delivers(void **state) {
    struct world *w = *state;
    log_setup(LOG_ERROR, LOG_FORMAT_TEXT);
    expect_log("site does not answer");
    sink_on_loop(w->sink->loop, sink_unlisten, w->sink);
    start(w);
    for (int i = 0; i < 50; i++)
        submit(w, "ok@example.net");
    struct id id = submit(w, "ok@example.net");
    await_state(w, id, RECIPIENT_QUEUED, 0);
    await_state(w, submit(w, "ok@example.net"), RECIPIENT_QUEUED, 0);
    sink_on_loop(w->sink->loop, sink_listen, w->sink);
    await_completed(w, 52);
    assert_int_equal(sink_get(&w->sink->messages), 52);
}

static void take_held(void *arg) {
    struct sink *s = arg;
    receive_answer_data(s->connection[0].receive, (struct receive_answer){250, "2.0.0", "taken"});
}

/* By what was under way when it died. */
static void a_site_that_is_alive_after_all_gets_its_mail_at_once(void **state) {
    enum { MESSAGES = 40 };
    struct world *w = *state;
    log_setup(LOG_ERROR, LOG_FORMAT_TEXT);
    expect_log("site does not answer");
    w->o.site_dead_ms = 3600 * 1000;
    w->o.retry_ms[0] = 3600 * 1000;
    start(w);
    submit(w, "hold@example.net");
    await_counter(w, &w->sink->held, 1);
    sink_on_loop(w->sink->loop, sink_deafen, w->sink);
    for (int i = 0; i < MESSAGES; i++)
        submit(w, "ok@example.net");
    assert_true(wait_until(w, has_paused, NULL));
    struct id id = submit(w, "ok@example.net");
    sink_on_loop(w->sink->loop, sink_listen, w->sink);
    sink_on_loop(w->sink->loop, take_held, w->sink);
    await_state(w, id, RECIPIENT_DELIVERED, 1);
}

static void starttls_is_used_when_offered(void **state) {
    struct world *w = *state;
    replace_sink(w, true, NULL, "tls=opportunistic");
    start(w);
    struct id id = submit(w, "ok@example.net");
    await_completed(w, 1);
    assert_int_equal(sink_get(&w->sink->tls_messages), 1);
    struct arena *a = NULL;
    struct message_row m = message(w, id, &a);
    assert_true(str_starts_with(m.recipient[0].last.tls, STR("TLSv1.")));
    arena_free(&a);
}

/* Of a server that knows some names only. */
static int refuse_bad_names(SSL *ssl, int *alert, void *arg) {
    (void)alert, (void)arg;
    const char *name = SSL_get_servername(ssl, TLSEXT_NAMETYPE_host_name);
    return name != NULL && strcmp(name, "bad.test") == 0 ? SSL_TLSEXT_ERR_ALERT_FATAL
                                                         : SSL_TLSEXT_ERR_OK;
}

static void a_name_that_breaks_tls_takes_it_from_no_other_at_its_address(void **state) {
    static const struct rr zone[] = {{"bad.test", DNS_A, "127.0.0.1", RR_ANSWER},
                                     {"good.test", DNS_A, "127.0.0.1", RR_ANSWER},
                                     {NULL, 0, NULL, RR_ANSWER}};
    struct world *w = *state;
    struct responder server;
    struct dns *dns = NULL;
    struct errinfo info = {0};
    struct smarthost host[2];
    struct route route[2];
    static const char *const names[] = {"bad", "good"};
    sink_free(&w->sink);
    w->sink = sink_new(true, NULL);
    SSL_CTX *ctx; /* the first member of what is the server's own */
    memcpy(&ctx, (const void *)w->sink->tls, sizeof(ctx));
    SSL_CTX_set_tlsext_servername_callback(ctx, refuse_bad_names);
    responder_start(&server, zone);
    const struct dns_options d = {.mode = server.mode, .trust_anchor_file = ""};
    assert_int_equal(dns_start(&d, &dns, &info), OK);
    w->o.dns = dns;
    for (size_t i = 0; i < 2; i++) {
        char url[128];
        snprintf(url, sizeof(url), "smtp://%s.test:%u?tls=opportunistic", names[i],
                 (unsigned)sockaddr_port(&w->sink->at));
        assert_int_equal(smarthost_parse(str_of(url), &host[i], &info), OK);
        route[i] = w->route;
        route[i].name = names[i];
        route[i].smarthost = &host[i];
    }
    w->o.routes = route;
    w->o.route_count = 2;
    w->o.default_route = "good";
    start(w);
    submit_with(w, "ok@example.net", &(struct message_row){.route = STR("bad")});
    await_completed(w, 1);
    assert_int_equal(sink_get(&w->sink->messages), 1);
    assert_int_equal(sink_get(&w->sink->tls_messages), 0);
    submit_with(w, "ok@example.net", &(struct message_row){.route = STR("good")});
    await_completed(w, 2);
    assert_int_equal(sink_get(&w->sink->tls_messages), 1);
    delivery_stop(&w->delivery);
    dns_stop(&dns);
    responder_stop(&server);
}

static void a_message_that_requires_verified_tls_is_not_sent_without(void **state) {
    struct world *w = *state;
    replace_sink(w, true, NULL, "tls=opportunistic");
    start(w);
    struct id id = submit_with(w, "ok@example.net", &(struct message_row){.tls = TLS_VERIFY});
    await_state(w, id, RECIPIENT_QUEUED, 2);
    struct arena *a = NULL;
    struct message_row m = message(w, id, &a);
    assert_int_equal(m.recipient[0].last.class_, CLASS_TLS);
    arena_free(&a);
    assert_int_equal(sink_get(&w->sink->messages), 0);
}

/* No site is said to be dead, which the log would show, because messages ask too much of it. */
static void what_one_message_asks_of_tls_stops_no_other(void **state) {
    enum { MESSAGES = 30 };
    static const struct {
        bool with_tls;
        enum tls_level asked;
    } rows[] = {{true, TLS_VERIFY}, {false, TLS_VERIFY}, {false, TLS_ENCRYPT}};
    struct world *w = *state;
    w->o.retry_ms[0] = w->o.site_dead_ms = 3600 * 1000;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct id id[MESSAGES];
        replace_sink(w, rows[i].with_tls, NULL, "tls=opportunistic");
        start(w);
        for (size_t k = 0; k < MESSAGES; k++)
            id[k] = submit_with(w, "ok@example.net", &(struct message_row){.tls = rows[i].asked});
        for (size_t k = 0; k < MESSAGES; k++)
            await_state(w, id[k], RECIPIENT_QUEUED, 1);
        assert_int_equal(sink_get(&w->sink->messages), 0);
        await_state(w, submit(w, "ok@example.net"), RECIPIENT_DELIVERED, 1);
        delivery_stop(&w->delivery);
    }
}

/* What the route itself asks for nobody gets around. */
static void a_site_without_the_tls_of_its_route_is_paused(void **state) {
    struct world *w = *state;
    log_setup(LOG_ERROR, LOG_FORMAT_TEXT);
    expect_log("site does not answer");
    replace_sink(w, false, NULL, "tls=encrypt");
    start(w);
    submit(w, "ok@example.net");
    assert_true(wait_until(w, has_paused, NULL));
}

/* Nobody was reached: the session of before was closed, and there is no new one. */
static void a_session_that_was_closed_while_idle_is_no_sign_of_life(void **state) {
    struct world *w = *state;
    log_setup(LOG_ERROR, LOG_FORMAT_TEXT);
    expect_log("site does not answer");
    w->o.site_dead_ms = 3600 * 1000;
    w->o.loops = 1;
    w->route.concurrency = 1;
    start(w);
    submit(w, "ok@example.net");
    await_completed(w, 1);
    w->sink->says_421 = true;
    sink_on_loop(w->sink->loop, sink_deafen, w->sink);
    struct id id = submit(w, "ok@example.net");
    assert_true(wait_until(w, has_paused, NULL));
    delivery_stop(&w->delivery);
    assert_int_equal(recipient(w, id, 0).attempts, WINDOW_COHORTS);
}

static int rules_asked;

const struct rule *__real_rules_find(int code, struct str text, enum stage stage);
const struct rule *__wrap_rules_find(int code, struct str text, enum stage stage);
const struct rule *__wrap_rules_find(int code, struct str text, enum stage stage) {
    sink_add(&rules_asked, 1);
    return __real_rules_find(code, text, stage);
}

static void one_refusal_of_all_recipients_is_judged_once(void **state) {
    struct world *w = *state;
    char to[2048] = "";
    size_t n = 0;
    for (int i = 0; i < 50; i++)
        n += (size_t)snprintf(to + n, sizeof(to) - n, "%sok%d@example.net", i ? "," : "", i);
    w->o.retry_ms[0] = 3600 * 1000;
    w->sink->says_421 = true;
    start(w);
    int before = sink_get(&rules_asked);
    struct id id = submit(w, to);
    await_state(w, id, RECIPIENT_QUEUED, 1);
    delivery_stop(&w->delivery);
    assert_int_equal(recipient(w, id, 49).attempts, 1);
    assert_int_equal(sink_get(&rules_asked) - before, 1);
}

static void a_message_is_signed_once_for_all_its_recipients(void **state) {
    struct world *w = *state;
    put_signing_domain(w, "bounces@example.org");
    char to[8192] = "";
    size_t n = 0;
    for (int i = 0; i < 250; i++) /* more than one transaction */
        n += (size_t)snprintf(to + n, sizeof(to) - n, "%sok%d@d%d.test", i ? "," : "", i, i % 7);
    start(w);
    struct metric *signatures = metric_counter("postchute_delivery_signed_total", "");
    int64_t before = metric_get(signatures, 0);
    submit(w, to);
    await_completed(w, 1);
    assert_int_equal(metric_get(signatures, 0) - before, 1);
    assert_int_equal(sink_get(&w->sink->recipients), 250);
    assert_int_equal(sink_get(&w->sink->signed_), sink_get(&w->sink->messages));
    assert_true(sink_get(&w->sink->messages) >= 3);
    assert_string_equal(w->sink->mail_from, "bounces@example.org");
}

/* From's domain has a bounce address, as it is when mail leaves; it is nothing to a Sender of
 * another domain, nor to what goes out from nobody. */
static void the_reverse_path_of_a_sender_elsewhere_stays(void **state) {
    static const struct {
        struct str stored;
        const char *want;
    } rows[] = {{STR("shop@example.org"), "bounces@example.org"},
                {STR("old-bounces@example.org"), "bounces@example.org"},
                {STR("s@other.org"), "s@other.org"},
                {STR("s@sub.example.org"), "s@sub.example.org"},
                {STR(""), ""}};
    struct world *w = *state;
    put_key_of(w, "example.org", "bounces@example.org", "s1");
    start(w);
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        submit_with(w, "ok@example.net", &(struct message_row){.mail_from = rows[i].stored});
        await_completed(w, (int)i + 1);
        assert_string_equal(w->sink->mail_from, rows[i].want);
    }
}

static void mail_goes_by_what_its_own_project_has_under_the_name(void **state) {
    struct world *w = *state;
    put_key_of(w, "example.org", "bounces@example.org", "s1");
    put_key_in(w, 2, "example.org", "spy@evil.test", "s2");
    start(w);
    submit(w, "ok@example.net");
    await_completed(w, 1);
    assert_string_equal(w->sink->mail_from, "bounces@example.org");
    assert_int_equal(sink_get(&w->sink->signed_), 1);
}

static void keys_of_another_project_sign_no_mail_of_ours(void **state) {
    struct world *w = *state;
    put_key_in(w, 2, "example.org", "spy@evil.test", "s2");
    start(w);
    submit(w, "ok@example.net");
    await_completed(w, 1);
    assert_string_equal(w->sink->mail_from, "shop@example.org");
    assert_int_equal(sink_get(&w->sink->signed_), 0);
}

/* RFC 5321 4.5.3.1.8: a server need not take more in one transaction. */
static void test_C20_recipients_go_in_parts_of_at_most_100(void **state) {
    struct world *w = *state;
    char to[8192] = "";
    size_t n = 0;
    for (int i = 0; i < 350; i++)
        n += (size_t)snprintf(to + n, sizeof(to) - n, "%sok%d@d.test", i ? "," : "", i);
    start(w);
    submit(w, to);
    await_completed(w, 1);
    assert_int_equal(sink_get(&w->sink->recipients), 350);
    assert_in_range(sink_get(&w->sink->most_recipients), 2, 100);
    assert_true(sink_get(&w->sink->messages) >= 4);
}

/* A Bcc stands in nobody's copy: what only its address needs is nothing to the others. */
static void a_recipient_that_needs_SMTPUTF8_goes_apart_and_last(void **state) {
    static const char TO[] = "\xc3\xa9@d.test,ok1@d.test,\xc3\xbc@d.test,ok2@d.test";
    struct world *w = *state;
    start(w);
    struct id id = submit(w, TO);
    await_completed(w, 1);
    assert_int_equal(sink_get(&w->sink->messages), 2);
    assert_int_equal(sink_get(&w->sink->utf8_messages), 1);
    assert_int_equal(sink_get(&w->sink->connections), 1);
    assert_int_equal(w->sink->number[0], 1);
    for (size_t i = 0; i < 4; i++) {
        assert_int_equal(recipient(w, id, i).state, RECIPIENT_DELIVERED);
        assert_int_equal(recipient(w, id, i).attempts, 1);
    }
}

static void a_retry_sends_the_same_signature(void **state) {
    struct world *w = *state;
    put_signing_domain(w, NULL);
    w->sink->later_times = 2;
    start(w);
    struct metric *signatures = metric_counter("postchute_delivery_signed_total", "");
    int64_t before = metric_get(signatures, 0);
    submit(w, "later@example.net");
    await_completed(w, 1);
    assert_int_equal(metric_get(signatures, 0) - before, 1);
    assert_int_equal(sink_get(&w->sink->signed_), 1);
}

/* For minutes: all mail of its domain comes round. */
static bool is_held(struct world *w, void *arg) {
    const struct recipient_row r = recipient(w, *(struct id *)arg, 0);
    return r.state == RECIPIENT_QUEUED && r.due_wall_ms - clock_wall_ms() > 200 * 1000;
}

/* It waits for another key. */
static void a_domain_whose_key_cannot_be_read_sends_nothing_unsigned(void **state) {
    expect_log("a damaged row is passed over");
    expect_log("DKIM key cannot be read");
    struct world *w = *state;
    sqlite3 *db = NULL;
    put_signing_domain(w, NULL);
    run_sql(w, &db, "UPDATE domain_key SET pem = 'sealed:1:00000000:AAAA'");
    sqlite3_close(db);
    start(w);
    struct id id = submit(w, "ok@example.net");
    assert_true(wait_until(w, is_held, &id));
    assert_int_equal(sink_get(&w->sink->messages), 0);
    put_signing_domain(w, NULL);
    struct store_retry again = {.call = {.verb = STORE_RETRY},
                                .id = id,
                                .project = 1,
                                .new_id = id_new(clock_wall_ms()),
                                .now_wall_ms = clock_wall_ms()};
    assert_int_equal(store_sync(w->store, &again.call), OK);
    store_call_release(&again.call);
    await_completed(w, 1);
    assert_int_equal(sink_get(&w->sink->signed_), 1);
}

static bool is_signed_again(struct world *w, void *arg) {
    (void)w;
    return metric_get(metric_counter("postchute_delivery_signed_total", ""), 0) > *(int64_t *)arg;
}

/* Nobody can verify the first signature any more. */
static void a_retry_after_a_change_of_keys_is_signed_by_the_new_one(void **state) {
    struct world *w = *state;
    put_key(w, NULL, "s1");
    w->sink->later_times = INT_MAX;
    start(w);
    struct metric *signatures = metric_counter("postchute_delivery_signed_total", "");
    int64_t before = metric_get(signatures, 0);
    submit(w, "later@example.net");
    await_counter(w, &w->sink->later_seen, 2);
    assert_int_equal(metric_get(signatures, 0) - before, 1);
    before++;
    put_key(w, NULL, "s2");
    if (!wait_until(w, is_signed_again, &before))
        fail_msg("the first signature is used");
    __atomic_store_n(&w->sink->later_times, 0, __ATOMIC_SEQ_CST);
    await_completed(w, 1);
    assert_int_equal(sink_get(&w->sink->signed_), 1);
    assert_true(str_find(buf_str(&w->sink->data), STR(" s=s2;")) > 0);
    assert_int_equal(metric_get(signatures, 0) - before, 1);
}

static void drain_ends_what_hangs_and_keeps_what_may_have_been_taken(void **state) {
    expect_log("sessions are aborted");
    struct world *w = *state;
    log_setup(LOG_ERROR, LOG_FORMAT_TEXT);
    expect_log("site does not answer");
    start(w);
    struct id held = submit(w, "hold@example.net");
    await_counter(w, &w->sink->held, 1);
    int64_t began_mono_ms = clock_mono_ms();
    delivery_drain(w->delivery, clock_mono_ms() + 100);
    assert_in_range(clock_mono_ms() - began_mono_ms, 90, 4000);
    struct recipient_row r = recipient(w, held, 0);
    assert_int_equal(r.state, RECIPIENT_QUEUED);
    assert_int_equal(r.attempts, 1);
    assert_true(r.possible_duplicate);
    struct id late = submit(w, "ok@example.net"); /* nothing is claimed any more */
    delivery_stop(&w->delivery);
    r = recipient(w, late, 0);
    assert_int_equal(r.state, RECIPIENT_QUEUED);
    assert_int_equal(r.attempts, 0);
    assert_false(r.possible_duplicate);
}

static void a_stop_under_load_loses_and_repeats_nothing(void **state) {
    struct world *w = *state;
    for (int i = 0; i < 2000; i++)
        submit(w, "ok@example.net");
    for (int round = 0; round < 4; round++) {
        start(w);
        await_counter(w, &w->sink->messages, (round + 1) * 200);
        delivery_drain(w->delivery, clock_mono_ms() + 10000);
        assert_int_equal(totals(w).by_state[RECIPIENT_DELIVERED], sink_get(&w->sink->messages));
        delivery_stop(&w->delivery);
    }
    start(w);
    await_completed(w, 2000);
    assert_int_equal(sink_get(&w->sink->messages), 2000);
}

static void a_reload_sends_what_is_queued_by_the_new_route(void **state) {
    struct world *w = *state;
    log_setup(LOG_ERROR, LOG_FORMAT_TEXT);
    expect_log("site does not answer");
    struct sink *closed = sink_new(false, "");
    point_at(w, closed, "tls=none");
    start(w);
    struct id id = submit(w, "ok@example.net");
    await_state(w, id, RECIPIENT_QUEUED, 1);
    reload_to_sink(w, 0);
    await_completed(w, 1);
    assert_int_equal(sink_get(&w->sink->messages), 1);
    struct errinfo info = {0};
    w->o.loops = 3;
    assert_int_equal(delivery_reload(w->delivery, &w->o, &info), ERR_INVALID);
    delivery_stop(&w->delivery);
    sink_free(&closed);
}

/* All sessions with the old server hang; what is behind them, claimed or not, has a new way. */
static void a_reload_leaves_nothing_behind_sessions_that_hang(void **state) {
    expect_log("sessions are aborted");
    struct world *w = *state;
    enum { MESSAGES = 30, SESSIONS = 3 };
    struct sink *hung = start_hung(w, SESSIONS);
    for (int i = 0; i < MESSAGES; i++)
        submit(w, "ok@example.net");
    await_counter(w, &hung->held, SESSIONS);
    reload_to_sink(w, SESSIONS);
    await_completed(w, MESSAGES - SESSIONS);
    assert_int_equal(sink_get(&w->sink->messages), MESSAGES - SESSIONS);
    assert_int_equal(sink_get(&hung->held), SESSIONS);
    delivery_stop(&w->delivery);
    sink_free(&hung);
}

static void a_message_for_a_route_that_is_gone_waits_with_a_reason(void **state) {
    struct world *w = *state;
    start(w);
    struct id id = submit_with(w, "ok@example.net", &(struct message_row){.route = STR("old")});
    submit(w, "ok@example.net");
    await_completed(w, 1); /* the other one is not held up */
    await_state(w, id, RECIPIENT_QUEUED, 1);
    delivery_drain(w->delivery, clock_mono_ms() + 5000);
    struct arena *a = NULL;
    struct message_row m = message(w, id, &a);
    assert_int_equal(m.recipient[0].state, RECIPIENT_QUEUED);
    assert_true(str_find(m.recipient[0].last.text, STR("route")) >= 0);
    arena_free(&a);
}

static void what_is_canceled_while_queued_is_not_sent(void **state) {
    struct world *w = *state;
    w->sink->later_times = 1;
    w->o.retry_ms[0] = 300;
    start(w);
    struct id id = submit(w, "later@example.net");
    await_state(w, id, RECIPIENT_QUEUED, 1);
    struct store_cancel q = {
        .call = {.verb = STORE_CANCEL}, .id = id, .project = 1, .now_wall_ms = clock_wall_ms()};
    assert_int_equal(store_sync(w->store, &q.call), OK);
    store_call_release(&q.call);
    submit(w, "ok@example.net");
    await_completed(w, 2);
    assert_int_equal(recipient(w, id, 0).state, RECIPIENT_CANCELED);
    assert_int_equal(sink_get(&w->sink->messages), 1);
}

static void housekeeping_expires_what_is_too_old(void **state) {
    struct world *w = *state;
    w->housekeeping = housekeeping_start(
        &(struct housekeeping_options){.store = w->store, .expire_every_ms = 10});
    struct id id = submit_with(w, "ok@example.net",
                               &(struct message_row){.expires_wall_ms = clock_wall_ms() + 50});
    await_state(w, id, RECIPIENT_EXPIRED, 0);
    housekeeping_stop(&w->housekeeping);
    assert_null(w->housekeeping);
}

/* ---- MX hosts ---- */

/* 127.0.0.9 has no listener: the first host of down.test does not answer. */
static const struct rr ZONE[] = {
    {"one.test", DNS_MX, "10 mx.provider.test", RR_ANSWER},
    {"two.test", DNS_MX, "10 mx.provider.test", RR_ANSWER},
    {"down.test", DNS_MX, "10 away.provider.test", RR_ANSWER},
    {"down.test", DNS_MX, "20 mx.provider.test", RR_ANSWER},
    {"null.test", DNS_MX, "0 .", RR_ANSWER},
    {"gone.test", DNS_MX, "10 gone.provider.test", RR_ANSWER},
    {"self.test", DNS_MX, "10 sender.test", RR_ANSWER},
    {"servfail.test", 0, NULL, RR_SERVFAIL},
    {"mx.provider.test", DNS_A, "127.0.0.1", RR_ANSWER},
    {"away.provider.test", DNS_A, "127.0.0.9", RR_ANSWER},
    {NULL, 0, NULL, RR_ANSWER},
};

static const struct str LOOPBACK[] = {STR("127.0.0.0/8")};

/* What somebody writes into a zone, or between brackets, is no word of the operator's. A zone is
 * mended, and its answers are kept by caches, as that which names a host that is not there. */
static void mail_goes_to_no_private_address_of_a_domain(void **state) {
    static const struct {
        const char *to;
        enum recipient_state state;
        enum failure failure;
        enum verdict_class class_;
        int attempts;
        const char *enhanced;
    } rows[] = {
        {"ok@[127.0.0.1]", RECIPIENT_BOUNCED, FAILURE_DNS_PRIVATE, CLASS_INVALID_DOMAIN, 1,
         "5.1.2"},
        {"ok@one.test", RECIPIENT_QUEUED, FAILURE_DNS_PRIVATE, CLASS_DNS, 3, "4.1.2"},
        {"ok@gone.test", RECIPIENT_QUEUED, FAILURE_DNS_NO_ADDRESS, CLASS_INVALID_DOMAIN, 2,
         "4.1.2"},
    };
    enum { ROWS = sizeof(rows) / sizeof(rows[0]) };
    struct world *w = *state;
    struct responder server;
    struct dns *dns = NULL;
    struct errinfo info = {0};
    responder_start(&server, ZONE);
    const struct dns_options d = {.mode = server.mode, .trust_anchor_file = ""};
    assert_int_equal(dns_start(&d, &dns, &info), OK);
    w->o.dns = dns;
    w->route =
        (struct route){.name = "mx", .kind = ROUTE_MX, .mx_port = sockaddr_port(&w->sink->at)};
    w->o.default_route = "mx";
    start(w);
    struct id id[ROWS];
    for (size_t i = 0; i < ROWS; i++)
        id[i] = submit(w, rows[i].to);
    for (size_t i = 0; i < ROWS; i++) {
        await_state(w, id[i], rows[i].state, rows[i].attempts);
        struct recipient_row r = recipient(w, id[i], 0);
        assert_int_equal(r.last.failure, rows[i].failure);
        assert_int_equal(r.last.class_, rows[i].class_);
        assert_string_equal(r.last.enhanced, rows[i].enhanced);
    }
    assert_int_equal(sink_get(&w->sink->connections), 0);
    delivery_stop(&w->delivery);
    dns_stop(&dns);
    responder_stop(&server);
}

static void mail_goes_to_the_mx_hosts_of_its_domain(void **state) {
    struct world *w = *state;
    log_setup(LOG_ERROR, LOG_FORMAT_TEXT);
    expect_log("site does not answer");
    struct responder server;
    struct dns *dns = NULL;
    struct errinfo info = {0};
    responder_start(&server, ZONE);
    const struct dns_options d = {.mode = server.mode, .trust_anchor_file = ""};
    if (dns_start(&d, &dns, &info) != OK)
        fail_msg("dns: %s", info.text);
    w->o.dns = dns;
    w->route =
        (struct route){.name = "mx", .kind = ROUTE_MX, .mx_port = sockaddr_port(&w->sink->at)};
    w->o.default_route = "mx";
    w->o.mx_networks = LOOPBACK;
    w->o.mx_network_count = 1;
    start(w);
    static const struct {
        const char *to;
        enum recipient_state want;
        enum failure failure;
    } rows[] = {
        {"ok@one.test", RECIPIENT_DELIVERED, FAILURE_NONE},
        {"ok@down.test", RECIPIENT_DELIVERED, FAILURE_NONE},
        {"ok@null.test", RECIPIENT_BOUNCED, FAILURE_DNS_NULL_MX},
        {"ok@self.test", RECIPIENT_FAILED, FAILURE_DNS_LOOP},
        {"ok@nowhere.test", RECIPIENT_BOUNCED, FAILURE_DNS_NXDOMAIN}, /* at the second attempt */
        {"ok@servfail.test", RECIPIENT_QUEUED, FAILURE_DNS_TEMPORARY},
        {"ok@[127.0.0.1]", RECIPIENT_DELIVERED, FAILURE_NONE},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct id id = submit(w, rows[i].to);
        await_state(w, id, rows[i].want, 1);
        struct arena *a = NULL;
        struct message_row m = message(w, id, &a);
        if (m.recipient[0].last.failure != rows[i].failure)
            fail_msg("%s: %s", rows[i].to, failure_name(m.recipient[0].last.failure));
        if (rows[i].want == RECIPIENT_DELIVERED && i < 2)
            assert_true(str_equal(m.recipient[0].last.mx, STR("mx.provider.test")));
        arena_free(&a);
    }
    assert_int_equal(sink_get(&w->sink->messages), 3);
    /* two domains behind one host: one transaction each (the MX hosts may serve them apart) */
    int before = sink_get(&w->sink->messages), many = sink_get(&w->sink->many);
    struct id id = submit(w, "ok1@one.test,ok2@two.test,ok3@one.test,ok4@two.test");
    await_all(w, id, RECIPIENT_DELIVERED);
    assert_int_equal(sink_get(&w->sink->messages) - before, 2);
    assert_int_equal(sink_get(&w->sink->many) - many, 2);
    delivery_stop(&w->delivery);
    dns_stop(&dns);
    responder_stop(&server);
}

/* Its zone was mended, and whoever did asks for another attempt: the answer of before is no second
 * one. */
static void a_domain_that_was_not_there_for_a_moment_gets_its_mail(void **state) {
    static const struct rr nothing[] = {{NULL, 0, NULL, RR_ANSWER}};
    struct world *w = *state;
    struct responder server;
    struct dns *dns = NULL;
    struct errinfo info = {0};
    responder_start(&server, nothing);
    const struct dns_options d = {.mode = server.mode, .trust_anchor_file = ""};
    assert_int_equal(dns_start(&d, &dns, &info), OK);
    w->o.dns = dns;
    w->route =
        (struct route){.name = "mx", .kind = ROUTE_MX, .mx_port = sockaddr_port(&w->sink->at)};
    w->o.default_route = "mx";
    w->o.mx_networks = LOOPBACK;
    w->o.mx_network_count = 1;
    start(w);
    struct id id = submit(w, "ok@one.test");
    await_state(w, id, RECIPIENT_QUEUED, 1);
    server.rows = ZONE;
    retry_now(w, id);
    await_state(w, id, RECIPIENT_DELIVERED, 2);
    delivery_stop(&w->delivery);
    dns_stop(&dns);
    responder_stop(&server);
}

/* ---- who is slow holds up nobody else ---- */

static void a_slow_site_that_fills_memory_holds_up_no_retry_of_others(void **state) {
    expect_log("sessions are aborted");
    struct world *w = *state;
    struct slow slow;
    add_slow_route(w, &slow);
    w->o.due_in_memory = 100;
    w->sink->later_times = 2;
    start(w);
    submit_slow(w, "hold@one.test", 60);
    submit_slow(w, "hold@two.test", 60);
    submit_slow(w, "hold@three.test", 60);
    submit(w, "later@example.net");
    await_completed(w, 1);
    end_slow(w, &slow);
}

static void a_slow_site_that_fills_memory_with_contents_holds_up_no_others(void **state) {
    expect_log("sessions are aborted");
    struct world *w = *state;
    struct slow slow;
    add_slow_route(w, &slow);
    w->o.content_bytes_max = 16384;
    start(w);
    submit_slow(w, "hold@one.test", 300);
    w->sink->later_times = 2;
    submit(w, "ok@example.net");
    submit(w, "later@example.net");
    await_completed(w, 2);
    end_slow(w, &slow);
}

static void a_slow_site_leaves_sessions_to_others(void **state) {
    expect_log("sessions are aborted");
    struct world *w = *state;
    struct slow slow;
    add_slow_route(w, &slow);
    w->o.sessions_max = 5; /* as many as a new site may have */
    start(w);
    submit_slow(w, "hold@one.test", 20);
    int64_t until_mono_ms = clock_mono_ms() + PATIENCE_MS;
    while (sink_get(&slow.sink->held) < 2 && clock_mono_ms() < until_mono_ms)
        mailbox_wait(w->box, 5);
    submit(w, "ok@example.net");
    await_completed(w, 1);
    assert_in_range(sink_get(&slow.sink->held), 1, 2);
    end_slow(w, &slow);
}

/* It took mail, and hangs now with as many as it may have. */
static void a_busy_site_leaves_a_session_to_a_new_one(void **state) {
    expect_log("sessions are aborted");
    struct world *w = *state;
    struct slow slow;
    add_slow_route(w, &slow);
    slow.route[0].concurrency = 5;
    w->o.sessions_max = 6;
    start(w);
    submit_slow(w, "ok@one.test", 1);
    await_completed(w, 1);
    submit_slow(w, "hold@one.test", 10);
    await_counter(w, &slow.sink->held, 5);
    submit(w, "ok@example.net");
    await_completed(w, 2);
    end_slow(w, &slow);
}

/* ---- what is claimed and waits ---- */

/* The only session hangs, and the next message is claimed already. */
static void what_expires_while_it_waits_for_a_session_is_not_sent(void **state) {
    expect_log("sessions are aborted");
    struct world *w = *state;
    w->route.concurrency = 1;
    start(w);
    submit(w, "hold@example.net");
    await_counter(w, &w->sink->held, 1);
    int64_t expires_wall_ms = clock_wall_ms() + patience_ms(1000);
    struct id id =
        submit_with(w, "ok@example.net", &(struct message_row){.expires_wall_ms = expires_wall_ms});
    await_state(w, id, RECIPIENT_SENDING, 0);
    while (clock_wall_ms() <= expires_wall_ms)
        mailbox_wait(w->box, 20);
    sink_on_loop(w->sink->loop, sink_close_all, w->sink);
    await_state(w, id, RECIPIENT_QUEUED, 0);
    assert_int_equal(sink_get(&w->sink->messages), 0);
    delivery_stop(&w->delivery);
}

/* ---- what waits in a loop ---- */

static void loops_hold_more_than_sessions_and_open_no_more(void **state) {
    struct world *w = *state;
    w->route.concurrency = 6;
    put_signing_domain(w, "");
    start(w);
    for (int i = 0; i < 500; i++)
        submit(w, "ok@example.net");
    await_completed(w, 500);
    assert_int_equal(sink_get(&w->sink->messages), 500);
    assert_int_equal(sink_get(&w->sink->signed_), 500);
    assert_in_range(sink_get(&w->sink->connections), 2, 6);
}

static bool flies_no_more_than(struct world *w, void *arg) {
    return delivery_status(w->delivery).in_flight <= *(size_t *)arg;
}

static void what_waits_in_a_loop_for_silent_sessions_goes_back(void **state) {
    expect_log("sessions are aborted");
    struct world *w = *state;
    size_t sessions = 6;
    w->route.concurrency = (unsigned)sessions;
    start(w);
    for (int i = 0; i < 100; i++)
        submit(w, "ok@example.net");
    struct id last = {{0}};
    for (int i = 0; i < 40; i++)
        last = submit(w, "hold@example.net");
    await_counter(w, &w->sink->held, (int)sessions);
    if (!wait_until(w, flies_no_more_than, &sessions))
        fail_msg("%zu are in flight", delivery_status(w->delivery).in_flight);
    delivery_stop(&w->delivery);
    assert_int_equal(sink_get(&w->sink->held), (int)sessions);
    struct store_totals t = totals(w);
    assert_int_equal(t.by_state[RECIPIENT_DELIVERED], 100);
    assert_int_equal(t.by_state[RECIPIENT_QUEUED], 40);
    assert_int_equal(recipient(w, last, 0).attempts, 0);
}

static void a_site_that_breaks_gets_nobody_an_attempt_that_only_waited(void **state) {
    struct world *w = *state;
    log_setup(LOG_ERROR, LOG_FORMAT_TEXT);
    expect_log("site does not answer");
    w->route.concurrency = 6;
    w->o.site_dead_ms = 60000;
    start(w);
    for (int i = 0; i < 100; i++)
        submit(w, "ok@example.net");
    await_completed(w, 100);
    sink_on_loop(w->sink->loop, sink_unlisten, w->sink);
    sink_on_loop(w->sink->loop, sink_close_all, w->sink);
    enum { MORE = 100 };
    struct id id[MORE];
    for (int i = 0; i < MORE; i++)
        id[i] = submit(w, "ok@example.net");
    await_state(w, id[0], RECIPIENT_QUEUED, 1);
    delivery_stop(&w->delivery);
    int attempts = 0;
    for (int i = 0; i < MORE; i++)
        attempts += recipient(w, id[i], 0).attempts;
    assert_in_range(attempts, 1, 3 * 6 + 6); /* three windows, and one that was under way */
}

/* ---- a store that fails ---- */

/* For longer than a moment, or it would be claimed and given back thousands of times a day. */
static bool rests(struct world *w, void *arg) {
    return recipient(w, *(struct id *)arg, 0).due_wall_ms > clock_wall_ms() + 5000;
}

static void one_content_that_cannot_be_read_holds_up_nobody_else(void **state) {
    static const char unread[] = "content could not be read";
    expect_log(unread);
    expect_log("a damaged row is passed over");
    struct world *w = *state;
    sqlite3 *db = NULL;
    log_setup(LOG_ERROR, LOG_FORMAT_TEXT);
    expect_log("site does not answer");
    struct id id = submit(w, "ok@broken.test");
    run_sql(w, &db, "DELETE FROM body");
    sqlite3_close(db);
    enum { OTHERS = 1000 };
    for (int i = 0; i < OTHERS; i++)
        submit(w, "ok@example.net");
    int64_t began_mono_ms = clock_mono_ms();
    start(w);
    await_completed(w, OTHERS);
    assert_true(clock_mono_ms() - began_mono_ms < patience_ms(5000));
    for (int more_readings = 0; more_readings < 2; more_readings++) {
        assert_true(wait_until(w, rests, &id));
        retry_now(w, id);
    }
    assert_true(wait_until(w, rests, &id));
    delivery_stop(&w->delivery);
    assert_int_equal(logged(unread), 1);
}

/* All mail of a smarthost route has one queue key. */
static void a_content_that_cannot_be_read_parks_no_queue_that_others_share(void **state) {
    expect_log("content could not be read");
    expect_log("a damaged row is passed over");
    struct world *w = *state;
    sqlite3 *db = NULL;
    log_setup(LOG_ERROR, LOG_FORMAT_TEXT);
    w->queue_key = "relay";
    struct id id = submit(w, "ok@broken.test");
    run_sql(w, &db, "DELETE FROM body");
    sqlite3_close(db);
    start(w);
    if (!wait_until(w, rests, &id))
        fail_msg("it is not the message that waits");
    assert_int_equal(recipient(w, id, 0).attempts, 0);
    submit(w, "ok@example.net");
    await_completed(w, 1);
    await_state(w, id, RECIPIENT_QUEUED, 0);
}

static bool has_loaded_all(struct world *w, void *arg) {
    (void)arg;
    return delivery_status(w->delivery).in_memory == 40;
}

static bool is_writable(struct world *w, void *arg) {
    (void)arg;
    return store_health(w->store).is_writable;
}

static bool has_failed_to_write(struct world *w, void *arg) {
    return !is_writable(w, arg);
}

/* Somebody locks the store until claims fail, while delivery ends. */
static void a_stop_while_claims_fail_ends_well(void **state) {
    expect_log("could not be");
    expect_log("paused: the store cannot be written");
    expect_log("the store is not writable");
    struct world *w = *state;
    sqlite3 *db = NULL;
    log_setup(LOG_ERROR, LOG_FORMAT_TEXT);
    for (int i = 0; i < 20; i++)
        submit(w, "ok@example.net,ok@example.com");
    run_sql(w, &db, "PRAGMA busy_timeout = 5000; BEGIN IMMEDIATE");
    start(w); /* it reads what waits, and cannot claim it */
    for (int turn = 0; turn < 2; turn++) {
        if (!wait_until(w, turn == 0 ? has_loaded_all : has_failed_to_write, NULL))
            fail_msg("turn %d: %zu recipients in memory", turn,
                     delivery_status(w->delivery).in_memory);
        delivery_stop(&w->delivery); /* once while claims are tried, once when they have failed */
        start(w);
    }
    delivery_stop(&w->delivery);
    assert_int_equal(sink_get(&w->sink->messages), 0);
    sqlite3_close(db);
    if (!wait_until(w, is_writable, NULL))
        fail_msg("the store is not writable again");
    start(w);
    await_completed(w, 20);
}

static void a_reload_changes_the_rate_of_a_site_in_use(void **state) {
    struct world *w = *state;
    w->route.rate_per_s = 1;
    start(w);
    for (int i = 0; i < 200; i++)
        submit(w, "ok@example.net");
    await_counter(w, &w->sink->messages, 1);
    w->route.rate_per_s = 1000;
    struct errinfo info = {0};
    assert_int_equal(delivery_reload(w->delivery, &w->o, &info), OK);
    await_completed(w, 200);
}

static void wrong_options_are_named(void **state) {
    struct world *w = *state;
    struct delivery *d = NULL;
    struct errinfo info = {0};
    struct delivery_options o = w->o;
    o.hostname = NULL;
    assert_int_equal(delivery_start(&o, &d, &info), ERR_INVALID);
    assert_string_equal(info.field, "hostname");
    o = w->o;
    o.default_route = "nothing";
    assert_int_equal(delivery_start(&o, &d, &info), ERR_INVALID);
    assert_string_equal(info.field, "default_route");
    o = w->o;
    struct route mx = {.name = "mx", .kind = ROUTE_MX};
    o.routes = &mx;
    assert_int_equal(delivery_start(&o, &d, &info), ERR_INVALID); /* there is no resolver */
    assert_string_equal(info.field, "mx");
    char name[600];
    memset(name, 'r', sizeof(name));
    name[sizeof(name) - 1] = '\0';
    struct route long_one = w->route;
    long_one.name = o.default_route = name;
    o.routes = &long_one;
    assert_int_equal(delivery_start(&o, &d, &info), ERR_INVALID);
    assert_string_equal(info.field, "routes");
    assert_null(d);
}

int main(void) {
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(a_thousand_messages_arrive_once_each_over_few_connections),
        T(what_waited_before_the_start_is_loaded),
        T(several_recipients_share_one_transaction),
        T(a_refused_recipient_bounces_with_the_reply_and_the_dialogue),
        T(a_deferred_recipient_is_tried_again_until_it_is_taken),
        T(too_many_recipients_go_on_at_once_without_an_attempt),
        T(a_limit_of_recipients_is_tried_again_after_some_that_were_full),
        T(a_session_takes_no_more_messages_than_its_route_says),
        T(nothing_is_lost_when_sessions_break),
        T(idle_sessions_that_the_server_closed_cost_no_attempt),
        T(hostile_servers_only_defer),
        T(a_dead_site_rests_and_then_delivers),
        T(a_site_that_is_alive_after_all_gets_its_mail_at_once),
        T(starttls_is_used_when_offered),
        T(a_name_that_breaks_tls_takes_it_from_no_other_at_its_address),
        T(a_message_that_requires_verified_tls_is_not_sent_without),
        T(what_one_message_asks_of_tls_stops_no_other),
        T(a_site_without_the_tls_of_its_route_is_paused),
        T(a_session_that_was_closed_while_idle_is_no_sign_of_life),
        T(one_refusal_of_all_recipients_is_judged_once),
        T(a_message_is_signed_once_for_all_its_recipients),
        T(the_reverse_path_of_a_sender_elsewhere_stays),
        T(mail_goes_by_what_its_own_project_has_under_the_name),
        T(keys_of_another_project_sign_no_mail_of_ours),
        T(test_C20_recipients_go_in_parts_of_at_most_100),
        T(a_recipient_that_needs_SMTPUTF8_goes_apart_and_last),
        T(a_retry_sends_the_same_signature),
        T(a_domain_whose_key_cannot_be_read_sends_nothing_unsigned),
        T(a_retry_after_a_change_of_keys_is_signed_by_the_new_one),
        T(drain_ends_what_hangs_and_keeps_what_may_have_been_taken),
        T(a_stop_under_load_loses_and_repeats_nothing),
        T(a_reload_sends_what_is_queued_by_the_new_route),
        T(a_reload_leaves_nothing_behind_sessions_that_hang),
        T(a_message_for_a_route_that_is_gone_waits_with_a_reason),
        T(what_is_canceled_while_queued_is_not_sent),
        T(housekeeping_expires_what_is_too_old),
        T(mail_goes_to_no_private_address_of_a_domain),
        T(mail_goes_to_the_mx_hosts_of_its_domain),
        T(a_domain_that_was_not_there_for_a_moment_gets_its_mail),
        T(a_slow_site_that_fills_memory_holds_up_no_retry_of_others),
        T(a_slow_site_that_fills_memory_with_contents_holds_up_no_others),
        T(a_slow_site_leaves_sessions_to_others),
        T(a_busy_site_leaves_a_session_to_a_new_one),
        T(what_expires_while_it_waits_for_a_session_is_not_sent),
        T(loops_hold_more_than_sessions_and_open_no_more),
        T(what_waits_in_a_loop_for_silent_sessions_goes_back),
        T(a_site_that_breaks_gets_nobody_an_attempt_that_only_waited),
        T(one_content_that_cannot_be_read_holds_up_nobody_else),
        T(a_content_that_cannot_be_read_parks_no_queue_that_others_share),
        T(a_stop_while_claims_fail_ends_well),
        T(a_reload_changes_the_rate_of_a_site_in_use),
        T(wrong_options_are_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
