/* Domains and their records, on a store and a name server of the test's own. */
#include "tests/unit/delivery/world.h"

#include <sqlite3.h>

#include "server/delivery/verification.h"
#include "tests/unit/net/responder.h"

static const char DOUBTED[] = "the records of a verified domain are not there";
static const char LOST[] = "domain not verified any more";

/* good.test has the record that is wanted of it, gone.test none. */
static const struct rr ZONE[] = {
    {"s1._domainkey.good.test", DNS_TXT, "v=DKIM1; k=ed25519; p=AAAA", RR_ANSWER},
    {"s1._domainkey.sick.test", 0, NULL, RR_SERVFAIL},
    {NULL, 0, NULL, RR_ANSWER},
};

static struct responder server;
static struct dns *dns;
static struct verification *verification;

static int begin(void **state) {
    responder_start(&server, ZONE);
    const struct dns_options o = {.mode = server.mode, .trust_anchor_file = ""};
    return dns_start(&o, &dns, NULL) == OK ? setup(state) : -1;
}

static int end(void **state) {
    verification_quit(verification);
    dns_stop(&dns);
    verification_stop(&verification);
    responder_stop(&server);
    return teardown(state);
}

static void put_domain(struct world *w, const char *name, bool is_verified) {
    struct domain_key_row key = {.selector = STR("s1"),
                                 .algorithm = STR("ed25519-sha256"),
                                 .pem = STR("not looked at"),
                                 .record = STR("v=DKIM1; k=ed25519; p=AAAA"),
                                 .created_wall_ms = clock_wall_ms()};
    struct store_domain_put q = {.call = {.verb = STORE_DOMAIN_PUT}};
    q.domain = (struct domain_row){.id = id_new(clock_wall_ms()),
                                   .project = 1,
                                   .name = str_of(name),
                                   .created_wall_ms = clock_wall_ms(),
                                   .key = &key,
                                   .key_count = 1};
    assert_int_equal(store_sync(w->store, &q.call), OK);
    store_call_release(&q.call);
    struct store_domain_checked c = {.call = {.verb = STORE_DOMAIN_CHECKED},
                                     .id = q.domain.id,
                                     .project = 1,
                                     .is_verified = is_verified,
                                     .published = &key.selector,
                                     .published_count = is_verified,
                                     .now_wall_ms = clock_wall_ms()};
    assert_int_equal(store_sync(w->store, &c.call), OK);
    store_call_release(&c.call);
}

static bool is_verified(struct world *w) {
    struct store_domains q = {.call = {.verb = STORE_DOMAINS}, .project = -1};
    assert_int_equal(store_sync(w->store, &q.call), OK);
    assert_int_equal(q.count, 1);
    bool is = q.domain[0].verified_wall_ms != 0;
    store_call_release(&q.call);
    return is;
}

static void start_looking(struct world *w, int64_t first_ms) {
    verification = verification_start(&(struct verification_options){
        .store = w->store, .dns = dns, .first_ms = first_ms, .later_ms = first_ms});
}

static void await_log(struct world *w, const char *words) {
    int64_t until_mono_ms = clock_mono_ms() + PATIENCE_MS;
    while (logged(words) == 0 && clock_mono_ms() < until_mono_ms)
        mailbox_wait(w->box, 10);
    assert_int_equal(logged(words), 1);
}

static void await_verified(struct world *w, bool wanted) {
    int64_t until_mono_ms = clock_mono_ms() + PATIENCE_MS;
    while (is_verified(w) != wanted && clock_mono_ms() < until_mono_ms)
        mailbox_wait(w->box, 10);
    assert_int_equal(is_verified(w), wanted);
}

static void a_new_domain_is_verified_at_once(void **state) {
    struct world *w = *state;
    put_domain(w, "good.test", false);
    start_looking(w, 3600 * 1000);
    await_verified(w, true);
}

static void records_that_are_gone_are_doubted_once(void **state) {
    struct world *w = *state;
    expect_log(DOUBTED);
    put_domain(w, "gone.test", true);
    start_looking(w, 3600 * 1000);
    await_log(w, DOUBTED);
    verification_quit(verification);
    assert_true(is_verified(w));
}

static void records_that_stay_away_are_believed_to_be_gone(void **state) {
    struct world *w = *state;
    expect_log(DOUBTED);
    expect_log(LOST);
    put_domain(w, "gone.test", true);
    start_looking(w, 20);
    await_verified(w, false);
    assert_int_equal(logged(DOUBTED), 1);
    assert_int_equal(logged(LOST), 1);
}

static void a_list_that_cannot_be_read_is_asked_for_again(void **state) {
    struct world *w = *state;
    sqlite3 *db = NULL;
    expect_log("domains could not be read");
    put_domain(w, "good.test", false);
    run_sql(w, &db, "ALTER TABLE domain RENAME TO gone");
    start_looking(w, 3600 * 1000);
    int64_t until_mono_ms = clock_mono_ms() + PATIENCE_MS;
    while (logged("domains could not be read") < 2 && clock_mono_ms() < until_mono_ms)
        mailbox_wait(w->box, 10);
    run_sql(w, &db, "ALTER TABLE gone RENAME TO domain");
    sqlite3_close(db);
    await_verified(w, true);
}

static void a_name_server_that_fails_changes_nothing(void **state) {
    struct world *w = *state;
    put_domain(w, "sick.test", true);
    start_looking(w, 20);
    int64_t until_mono_ms = clock_mono_ms() + PATIENCE_MS;
    while (atomic_load(&server.questions) < 4 && clock_mono_ms() < until_mono_ms)
        mailbox_wait(w->box, 10);
    verification_quit(verification);
    assert_true(is_verified(w));
}

int main(void) {
#define T(f) cmocka_unit_test_setup_teardown(f, begin, end)
    const struct CMUnitTest tests[] = {
        T(a_new_domain_is_verified_at_once),
        T(records_that_are_gone_are_doubted_once),
        T(records_that_stay_away_are_believed_to_be_gone),
        T(a_list_that_cannot_be_read_is_asked_for_again),
        T(a_name_server_that_fails_changes_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
