/* Domains and their records, on a store and a name server of the test's own. */
#include "tests/unit/delivery/world.h"

#include <sqlite3.h>

#include "server/delivery/verification.h"
#include "tests/unit/net/responder.h"

enum { MORE_THAN_A_LOOK = 12 }; /* questions, with those that are asked again after SERVFAIL */

static const char DOUBTED[] = "the records of a verified domain are not there";
static const char KEY_DOUBTED[] = "the record of a published DKIM key is not there";
static const char KEY_LOST[] = "a DKIM key is not published any more";
static const char LOST[] = "domain not verified any more";

/* good.test has the records that are wanted of it, gone.test none. */
static const struct rr ZONE[] = {
    {"s1._domainkey.good.test", DNS_TXT, "v=DKIM1; k=ed25519; p=AAAA", RR_ANSWER},
    {"s2._domainkey.good.test", DNS_TXT, "v=DKIM1; k=ed25519; p=BBBB", RR_ANSWER},
    {"s1._domainkey.sick.test", 0, NULL, RR_SERVFAIL},
    {"s1._domainkey.half.test", 0, NULL, RR_SERVFAIL},
    {"s2._domainkey.half.test", DNS_TXT, "v=DKIM1; k=ed25519; p=BBBB", RR_ANSWER},
    {"s2._domainkey.lone.test", DNS_TXT, "v=DKIM1; k=ed25519; p=BBBB", RR_ANSWER},
    {NULL, 0, NULL, RR_ANSWER},
};
static const struct rr HEALED[] = {
    {"s1._domainkey.half.test", DNS_TXT, "v=DKIM1; k=ed25519; p=AAAA", RR_ANSWER},
    {"s2._domainkey.half.test", DNS_TXT, "v=DKIM1; k=ed25519; p=BBBB", RR_ANSWER},
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

/* Declares another key, as a reload does: what is known of the domain stays. */
static void replace_key(struct world *w, const char *selector, const char *record) {
    struct store_domains list = {.call = {.verb = STORE_DOMAINS}, .project = -1};
    assert_int_equal(store_sync(w->store, &list.call), OK);
    assert_int_equal(list.count, 1);
    struct domain_key_row key = {.selector = str_of(selector),
                                 .algorithm = STR("ed25519-sha256"),
                                 .pem = STR("not looked at"),
                                 .record = str_of(record),
                                 .created_wall_ms = clock_wall_ms()};
    struct store_domain_put q = {
        .call = {.verb = STORE_DOMAIN_PUT}, .domain = list.domain[0], .replace = true};
    q.domain.key = &key;
    q.domain.key_count = 1;
    assert_int_equal(store_sync(w->store, &q.call), OK);
    store_call_release(&q.call);
    store_call_release(&list.call);
}

/* Of its only key, in the name of which it is. */
static bool is_published(struct world *w, const char *selector) {
    struct store_domains q = {.call = {.verb = STORE_DOMAINS}, .project = -1};
    assert_int_equal(store_sync(w->store, &q.call), OK);
    assert_int_equal(q.count, 1);
    assert_int_equal(q.domain[0].key_count, 1);
    bool is = str_equal(q.domain[0].key[0].selector, str_of(selector)) &&
              q.domain[0].key[0].published_wall_ms != 0;
    store_call_release(&q.call);
    return is;
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

static void await_published(struct world *w, const char *selector) {
    int64_t until_mono_ms = clock_mono_ms() + PATIENCE_MS;
    while (!is_published(w, selector) && clock_mono_ms() < until_mono_ms)
        mailbox_wait(w->box, 10);
    assert_true(is_published(w, selector));
}

static void await_questions(struct world *w, int least) {
    int64_t until_mono_ms = clock_mono_ms() + PATIENCE_MS;
    while (atomic_load(&server.questions) < least && clock_mono_ms() < until_mono_ms)
        mailbox_wait(w->box, 10);
    assert_true(atomic_load(&server.questions) >= least);
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

static void a_key_that_is_replaced_is_looked_for_at_once(void **state) {
    struct world *w = *state;
    put_domain(w, "good.test", false);
    start_looking(w, 3600 * 1000);
    await_verified(w, true);
    replace_key(w, "s2", "v=DKIM1; k=ed25519; p=BBBB");
    await_published(w, "s2");
    assert_true(is_verified(w));
}

/* The answer about s1 says nothing of s2, which came while it was waited for. */
static void a_key_that_is_replaced_during_a_look_is_looked_for_after_it(void **state) {
    struct world *w = *state;
    atomic_store(&server.is_silent, true);
    put_domain(w, "good.test", false);
    start_looking(w, 3600 * 1000);
    await_questions(w, 1);
    replace_key(w, "s2", "v=DKIM1; k=ed25519; p=BBBB");
    atomic_store(&server.is_silent, false); /* it is asked again after a while */
    await_published(w, "s2");
    assert_true(is_verified(w));
}

/* Who declares a key a little before its record is seen everywhere loses nothing by it. */
static void a_key_that_is_not_there_yet_leaves_its_domain_verified(void **state) {
    struct world *w = *state;
    expect_log(DOUBTED);
    put_domain(w, "good.test", false);
    start_looking(w, 20);
    await_verified(w, true);
    replace_key(w, "s3", "v=DKIM1; k=ed25519; p=CCCC");
    await_log(w, DOUBTED);
    await_questions(w, atomic_load(&server.questions) + 1); /* after looks that the cache answers */
    verification_quit(verification);
    assert_true(is_verified(w));
    assert_int_equal(logged(DOUBTED), 1);
    assert_int_equal(logged(LOST), 0);
    assert_false(is_published(w, "s3"));
}

static void a_new_key_is_looked_for_again_soon_when_nobody_knows(void **state) {
    struct world *w = *state;
    put_domain(w, "good.test", false);
    start_looking(w, 20);
    await_verified(w, true);
    atomic_store(&server.is_sick, true);
    replace_key(w, "s2", "v=DKIM1; k=ed25519; p=BBBB");
    await_questions(w, atomic_load(&server.questions) + MORE_THAN_A_LOOK);
    atomic_store(&server.is_sick, false);
    await_published(w, "s2");
}

/* A verified domain with s1, published or not, and s2, which was not seen yet. */
static void put_two_keys(struct world *w, const char *name, bool is_published) {
    int64_t now_wall_ms = clock_wall_ms();
    struct domain_key_row key[2] = {
        {.selector = STR("s1"),
         .record = STR("v=DKIM1; k=ed25519; p=AAAA"),
         .published_wall_ms = is_published ? now_wall_ms : 0},
        {.selector = STR("s2"), .record = STR("v=DKIM1; k=ed25519; p=BBBB")}};
    for (size_t i = 0; i < 2; i++) {
        key[i].algorithm = STR("ed25519-sha256");
        key[i].pem = STR("not looked at");
        key[i].created_wall_ms = now_wall_ms;
    }
    struct store_domain_put q = {.call = {.verb = STORE_DOMAIN_PUT}};
    q.domain = (struct domain_row){.id = id_new(now_wall_ms),
                                   .project = 1,
                                   .name = str_of(name),
                                   .created_wall_ms = now_wall_ms,
                                   .verified_wall_ms = now_wall_ms,
                                   .key = key,
                                   .key_count = 2};
    assert_int_equal(store_sync(w->store, &q.call), OK);
    store_call_release(&q.call);
}

static bool is_key_published(struct world *w, size_t i) {
    struct store_domains q = {.call = {.verb = STORE_DOMAINS}, .project = -1};
    assert_int_equal(store_sync(w->store, &q.call), OK);
    assert_int_equal(q.count, 1);
    assert_true(i < q.domain[0].key_count);
    bool is = q.domain[0].key[i].published_wall_ms != 0;
    store_call_release(&q.call);
    return is;
}

static void await_key(struct world *w, size_t i, bool wanted) {
    int64_t until_mono_ms = clock_mono_ms() + PATIENCE_MS;
    while (is_key_published(w, i) != wanted && clock_mono_ms() < until_mono_ms)
        mailbox_wait(w->box, 10);
    assert_int_equal(is_key_published(w, i), wanted);
}

/* What is found of the other is stored in the same transaction. */
static void a_key_that_nobody_answers_for_stays_published(void **state) {
    struct world *w = *state;
    put_two_keys(w, "half.test", true);
    start_looking(w, 3600 * 1000);
    await_key(w, 1, true);
    assert_true(is_key_published(w, 0));
}

static void a_key_that_nobody_answers_for_is_looked_for_again_soon(void **state) {
    struct world *w = *state;
    put_two_keys(w, "half.test", false);
    start_looking(w, 20);
    await_key(w, 1, true);
    assert_false(is_key_published(w, 0));
    atomic_store(&server.rows, HEALED);
    await_key(w, 0, true);
}

static void a_published_key_that_is_gone_is_doubted_once(void **state) {
    struct world *w = *state;
    expect_log(KEY_DOUBTED);
    put_two_keys(w, "lone.test", true);
    start_looking(w, 3600 * 1000);
    await_key(w, 1, true);
    assert_true(is_key_published(w, 0));
    assert_int_equal(logged(KEY_DOUBTED), 1);
}

static void a_published_key_that_stays_away_is_believed_to_be_gone(void **state) {
    struct world *w = *state;
    expect_log(KEY_DOUBTED);
    expect_log(KEY_LOST);
    put_two_keys(w, "lone.test", true);
    start_looking(w, 20);
    await_key(w, 0, false);
    assert_true(is_key_published(w, 1));
    assert_true(is_verified(w));
    assert_int_equal(logged(KEY_DOUBTED), 1);
    assert_int_equal(logged(KEY_LOST), 1);
}

static void refuse_to_store(struct world *w, sqlite3 **db) {
    run_sql(w, db,
            "CREATE TRIGGER no BEFORE UPDATE ON domain BEGIN SELECT RAISE(ABORT, 'no'); END");
}

static void store_again(struct world *w, sqlite3 **db) {
    run_sql(w, db, "DROP TRIGGER no");
    sqlite3_close(*db);
}

static void await_logged(struct world *w, const char *words) {
    int64_t until_mono_ms = clock_mono_ms() + PATIENCE_MS;
    while (logged(words) == 0 && clock_mono_ms() < until_mono_ms)
        mailbox_wait(w->box, 10);
    assert_true(logged(words) > 0);
}

static void what_is_found_and_not_stored_is_looked_at_again_soon(void **state) {
    struct world *w = *state;
    sqlite3 *db = NULL;
    expect_log("not stored");
    put_domain(w, "good.test", false);
    refuse_to_store(w, &db);
    start_looking(w, 20);
    await_logged(w, "not stored");
    assert_false(is_verified(w));
    store_again(w, &db);
    await_verified(w, true);
}

static void what_is_lost_and_not_stored_is_looked_at_again_soon(void **state) {
    struct world *w = *state;
    sqlite3 *db = NULL;
    expect_log("not stored");
    expect_log(DOUBTED);
    expect_log(LOST);
    put_domain(w, "gone.test", true);
    refuse_to_store(w, &db);
    verification = verification_start(&(struct verification_options){
        .store = w->store, .dns = dns, .first_ms = 20, .later_ms = 3600 * 1000});
    await_logged(w, "not stored");
    assert_true(is_verified(w));
    store_again(w, &db);
    await_verified(w, false);
    assert_int_equal(logged(DOUBTED), 1); /* not anew with each look */
}

int main(void) {
#define T(f) cmocka_unit_test_setup_teardown(f, begin, end)
    const struct CMUnitTest tests[] = {
        T(a_new_domain_is_verified_at_once),
        T(records_that_are_gone_are_doubted_once),
        T(records_that_stay_away_are_believed_to_be_gone),
        T(a_list_that_cannot_be_read_is_asked_for_again),
        T(a_name_server_that_fails_changes_nothing),
        T(a_key_that_is_replaced_is_looked_for_at_once),
        T(a_key_that_is_replaced_during_a_look_is_looked_for_after_it),
        T(a_key_that_is_not_there_yet_leaves_its_domain_verified),
        T(a_new_key_is_looked_for_again_soon_when_nobody_knows),
        T(a_key_that_nobody_answers_for_stays_published),
        T(a_key_that_nobody_answers_for_is_looked_for_again_soon),
        T(a_published_key_that_is_gone_is_doubted_once),
        T(a_published_key_that_stays_away_is_believed_to_be_gone),
        T(what_is_found_and_not_stored_is_looked_at_again_soon),
        T(what_is_lost_and_not_stored_is_looked_at_again_soon),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
