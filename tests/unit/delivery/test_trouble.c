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

int main(void) {
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(sweeps_that_fail_wait_for_their_next_turn),
        T(a_source_address_that_is_not_ours_is_said),
        T(a_smarthost_without_an_address_is_said),
        T(a_result_that_cannot_be_stored_is_repeated_and_said_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
