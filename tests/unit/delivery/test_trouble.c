/* What goes wrong on this machine is said, as often as somebody reads it and no oftener. */
#include "tests/unit/delivery/world.h"

#include "server/base/metrics.h"
#include "tests/unit/net/responder.h"

struct log_want {
    const char *words;
    unsigned times;
};

static bool has_logged(struct world *w, void *arg) {
    (void)w;
    const struct log_want *want = arg;
    return logged(want->words) >= want->times;
}

static void sweeps_that_fail_wait_for_their_next_turn(void **state) {
    enum { EVERY_MS = 500 };
    struct world *w = *state;
    sqlite3 *db = NULL;
    struct log_want want = {"expiry sweep failed", 3};
    log_setup(LOG_ERROR, LOG_FORMAT_TEXT);
    expect_log(want.words);
    expect_log("times beyond reach stay");
    run_sql(w, &db,
            "ALTER TABLE open_message RENAME TO gone;"
            "ALTER TABLE queue RENAME TO gone_too");
    int64_t began_mono_ms = clock_mono_ms();
    w->housekeeping = housekeeping_start(
        &(struct housekeeping_options){.store = w->store, .expire_every_ms = EVERY_MS});
    assert_true(wait_until(w, has_logged, &want));
    assert_in_range(clock_mono_ms() - began_mono_ms, 2 * EVERY_MS, INT64_MAX);
    housekeeping_stop(&w->housekeeping);
    run_sql(w, &db,
            "ALTER TABLE gone RENAME TO open_message;"
            "ALTER TABLE gone_too RENAME TO queue");
    sqlite3_close(db);
}

static void a_source_address_that_is_not_ours_is_said(void **state) {
    struct world *w = *state;
    struct log_want want = {"this machine could not open a connection", 1};
    log_setup(LOG_ERROR, LOG_FORMAT_TEXT);
    expect_log(want.words);
    expect_log("sessions are aborted"); /* when it is slow */
    assert_int_equal(sockaddr_parse(STR("192.0.2.77"), 0, &w->o.source_ipv4), OK);
    start(w);
    struct id id = submit(w, "ok@example.net");
    assert_true(wait_until(w, has_logged, &want));
    delivery_stop(&w->delivery);
    assert_int_equal(recipient(w, id, 0).state, RECIPIENT_QUEUED);
    assert_int_equal(recipient(w, id, 0).attempts, 0);
    /* it comes round for as long as that lasts */
    struct attempt_row last;
    struct arena *a = NULL;
    assert_int_equal(attempts_of(w, id, &last, &a), 0);
    arena_free(&a);
}

struct pause {
    struct id id;
    int64_t after_wall_ms; /* it was tried then, or later */
};

static bool is_paused(struct world *w, void *arg) {
    const struct pause *p = arg;
    struct recipient_row r = recipient(w, p->id, 0);
    return r.state == RECIPIENT_QUEUED && r.due_wall_ms > p->after_wall_ms;
}

/* A sixtieth of its age, but ten seconds at least and five minutes at most; and up to half of that
 * more, so that what failed together does not come back together. */
static void trouble_of_our_own_pauses_a_message_by_its_age(void **state) {
    enum { SECOND_MS = 1000, MINUTE_MS = 60 * SECOND_MS };
    static const struct {
        int64_t age_ms, least_ms;
    } rows[] = {{0, 10 * SECOND_MS},
                {5 * MINUTE_MS, 10 * SECOND_MS},
                {30 * MINUTE_MS, 30 * SECOND_MS},
                {240 * MINUTE_MS, 4 * MINUTE_MS},
                {400 * MINUTE_MS, 5 * MINUTE_MS},
                {5 * 24 * 60 * MINUTE_MS, 5 * MINUTE_MS}};
    enum { ROWS = sizeof(rows) / sizeof(rows[0]) };
    struct world *w = *state;
    struct pause pause[ROWS];
    sqlite3 *db = NULL;
    log_setup(LOG_ERROR, LOG_FORMAT_TEXT);
    expect_log("this machine could not open a connection");
    expect_log("sessions are aborted"); /* when it is slow */
    assert_int_equal(sockaddr_parse(STR("192.0.2.77"), 0, &w->o.source_ipv4), OK);
    for (size_t i = 0; i < ROWS; i++) {
        char sql[128];
        pause[i].id = submit(w, "ok@example.net");
        snprintf(sql, sizeof(sql),
                 "UPDATE message SET created = created - %lld WHERE seq = "
                 "(SELECT max(seq) FROM message)",
                 (long long)rows[i].age_ms);
        run_sql(w, &db, sql);
    }
    sqlite3_close(db);
    int64_t began_wall_ms = clock_wall_ms();
    start(w);
    for (size_t i = 0; i < ROWS; i++) {
        pause[i].after_wall_ms = began_wall_ms;
        assert_true(wait_until(w, is_paused, &pause[i]));
        struct recipient_row r = recipient(w, pause[i].id, 0);
        int64_t grown_ms = clock_wall_ms() - began_wall_ms;
        assert_in_range(r.due_wall_ms - began_wall_ms, rows[i].least_ms,
                        rows[i].least_ms * 3 / 2 + 2 * grown_ms);
        assert_int_equal(r.attempts, 0);
    }
}

static void a_smarthost_without_an_address_is_said(void **state) {
    static const struct rr zone[] = {{"servfail.test", 0, NULL, RR_SERVFAIL},
                                     {NULL, 0, NULL, RR_ANSWER}};
    static const char *const urls[] = {"smtp://nowhere.test", "smtp://servfail.test"};
    struct world *w = *state;
    struct log_want want = {"no smarthost of the route has an address", 1};
    struct responder server;
    struct dns *dns = NULL;
    struct errinfo info = {0};
    log_setup(LOG_ERROR, LOG_FORMAT_TEXT);
    expect_log(want.words);
    responder_start(&server, zone);
    const struct dns_options d = {.mode = server.mode, .trust_anchor_file = ""};
    assert_int_equal(dns_start(&d, &dns, &info), OK);
    w->o.dns = dns;
    for (size_t i = 0; i < 2; i++, want.times++) {
        assert_int_equal(smarthost_parse(str_of(urls[i]), &w->host, &info), OK);
        start(w);
        struct id id = submit(w, "ok@example.net");
        assert_true(wait_until(w, has_logged, &want));
        await_state(w, id, RECIPIENT_QUEUED, 1);
        delivery_stop(&w->delivery);
    }
    dns_stop(&dns);
    responder_stop(&server);
}

static struct metric *settle_retries(void) {
    return metric_counter("postchute_delivery_settle_retries_total", "");
}

static bool was_repeated(struct world *w, void *arg) {
    (void)w;
    return metric_get(settle_retries(), 0) >= *(int64_t *)arg;
}

static void a_result_that_cannot_be_stored_is_repeated_and_said_once(void **state) {
    struct world *w = *state;
    sqlite3 *db = NULL;
    log_setup(LOG_ERROR, LOG_FORMAT_TEXT);
    expect_log("a result could not be stored");
    int64_t times = metric_get(settle_retries(), 0) + 3;
    run_sql(w, &db, "ALTER TABLE attempt RENAME TO gone");
    start(w);
    struct id id = submit(w, "ok@example.net");
    assert_true(wait_until(w, was_repeated, &times));
    run_sql(w, &db, "ALTER TABLE gone RENAME TO attempt");
    sqlite3_close(db);
    await_state(w, id, RECIPIENT_DELIVERED, 1);
    assert_int_equal(logged("a result could not be stored"), 1);
}

/* The other one is away for a while, and will be back: that is no word about its login. */
static void a_smarthost_that_refuses_our_login_pauses_no_route_that_has_another(void **state) {
    enum { MESSAGES = 5 };
    struct world *w = *state;
    struct log_want want = {"the smarthost refuses our credentials, another one is used", 1};
    struct sink *closed = sink_new(false, NULL); /* knows no AUTH */
    struct smarthost host[2];
    struct errinfo info = {0};
    char url[256], to[SOCKADDR_TEXT_SIZE];
    log_setup(LOG_ERROR, LOG_FORMAT_TEXT);
    expect_log(want.words);
    expect_log("site does not answer"); /* when it is slow: nobody does, for a moment */
    host[0] = w->host;
    sockaddr_print(&closed->at, to);
    snprintf(url, sizeof(url), "smtp://u:p@%s?tls=none&insecure_auth=1&priority=2", to);
    assert_int_equal(smarthost_parse(str_of(url), &host[1], &info), OK);
    w->route.smarthost = host;
    w->route.smarthost_count = 2;
    w->o.loops = 1;
    sink_on_loop(w->sink->loop, sink_deafen, w->sink);
    start(w);
    struct id id[MESSAGES];
    for (size_t i = 0; i < MESSAGES; i++) {
        id[i] = submit(w, "ok@example.net");
        await_state(w, id[i], RECIPIENT_QUEUED, 1);
    }
    assert_true(wait_until(w, has_logged, &want));
    sink_on_loop(w->sink->loop, sink_listen, w->sink);
    for (size_t i = 0; i < MESSAGES; i++)
        await_state(w, id[i], RECIPIENT_DELIVERED, 2);
    assert_int_equal(sink_get(&w->sink->messages), MESSAGES);
    assert_int_equal(sink_get(&closed->connections), 1); /* it counts what it refuses */
    delivery_stop(&w->delivery);
    sink_free(&closed);
}

/* One of its addresses is dead, which comes first or not: that is no other smarthost. */
static void a_smarthost_that_refuses_our_login_pauses_its_route(void **state) {
    enum { TIMES = 8 };
    static const struct rr zone[] = {{"relay.test", DNS_A, "127.0.0.1", RR_ANSWER},
                                     {"relay.test", DNS_A, "127.0.0.2", RR_ANSWER},
                                     {NULL, 0, NULL, RR_ANSWER}};
    struct world *w = *state;
    struct log_want want = {"the smarthost refuses our credentials, route paused", 1};
    struct responder server;
    struct dns *dns = NULL;
    struct errinfo info = {0};
    char url[256];
    log_setup(LOG_ERROR, LOG_FORMAT_TEXT);
    expect_log(want.words);
    w->o.retry_ms[0] = 60000; /* those of the times before would be under way at the stop */
    responder_start(&server, zone);
    const struct dns_options d = {.mode = server.mode, .trust_anchor_file = ""};
    assert_int_equal(dns_start(&d, &dns, &info), OK);
    w->o.dns = dns;
    snprintf(url, sizeof(url), "smtp://u:p@relay.test:%u?tls=none&insecure_auth=1",
             (unsigned)sockaddr_port(&w->sink->at));
    assert_int_equal(smarthost_parse(str_of(url), &w->host, &info), OK);
    for (; want.times <= TIMES; want.times++) {
        start(w);
        submit(w, "ok@example.net");
        assert_true(wait_until(w, has_logged, &want));
        delivery_stop(&w->delivery);
    }
    dns_stop(&dns);
    responder_stop(&server);
}

int main(void) {
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(sweeps_that_fail_wait_for_their_next_turn),
        T(a_source_address_that_is_not_ours_is_said),
        T(trouble_of_our_own_pauses_a_message_by_its_age),
        T(a_smarthost_without_an_address_is_said),
        T(a_smarthost_that_refuses_our_login_pauses_no_route_that_has_another),
        T(a_smarthost_that_refuses_our_login_pauses_its_route),
        T(a_result_that_cannot_be_stored_is_repeated_and_said_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
