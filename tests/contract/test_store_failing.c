/* What the store does when SQLite fails: at every call of an opening, with every kind of failure,
 * when not even the way back works, and when rows are there that no version wrote. That each verb
 * fails well at each of its steps is what the other tests of the contract show, which are all run
 * with such failures, too (store_kit.h). */
#include "tests/contract/store_kit.h"

#include <stdatomic.h>

#include "server/base/limits.h"
#include "storage/store_ops.h"

/* Makes every look at the clock take so long. */
static atomic_llong each_look_ms, looked_ms;
int64_t __real_clock_mono_ms(void);
int64_t __wrap_clock_mono_ms(void);
int64_t __wrap_clock_mono_ms(void) {
    return __real_clock_mono_ms() + (looked_ms += each_look_ms);
}

static sqlite3 *file_open(struct kit *k) {
    sqlite3 *db;
    const char *path = arena_printf(k->arena, "%s/outbox.db", k->folder).p;
    assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
    return db;
}

/* Behind the store's back. */
static void damage(struct kit *k, const char *sql) {
    sqlite3 *db = file_open(k);
    char *text = NULL;
    if (sqlite3_exec(db, sql, NULL, NULL, &text) != SQLITE_OK)
        fail_msg("%s: %s", sql, text);
    sqlite3_close(db);
}

static void wait_writable(struct kit *k) {
    for (int i = 0; i < 100 && !store_health(k->store).is_writable; i++)
        mailbox_wait(kit_box(k), 100);
    assert_true(store_health(k->store).is_writable);
}

/* ---- opening ---- */

/* Fails at each call in turn, until there are no more; how many there were. */
static long open_failing(struct kit *k, int rc) {
    long at = 1;
    for (;; at++) {
        struct errinfo info = {0};
        sqlite_fail(&(struct sqlite_fault){.rc = rc, .at = at});
        enum err e = store_open(&k->options, &k->store, &info);
        if (sqlite_fail_end() == 0) {
            assert_int_equal(e, OK);
            return at - 1;
        }
        if (e != ERR_UNAVAILABLE)
            fail_msg("call %ld of opening failed, the answer is %s", at, err_name(e));
        assert_null(k->store);
        assert_true(info.text[0] != '\0');
    }
}

static void a_new_store_is_made_after_any_failure(void **state) {
    struct kit *k = *state;
    store_close(&k->store);
    kit_remove_folder(k->folder);
    long calls = open_failing(k, SQLITE_IOERR);
    print_message("%ld calls failed\n", calls);
    assert_true(calls > 50);
    kit_accept(k, TO("ann@example.net"));
    assert_int_equal(kit_due_count(k, k->now_wall_ms), 1);
}

static void an_older_store_is_brought_up_after_any_failure(void **state) {
    struct kit *k = *state;
    struct message_row *m = kit_accept(k, TO("ann@example.net"));
    store_close(&k->store);
    damage(k, "ALTER TABLE message DROP COLUMN is_test; ALTER TABLE api_key DROP COLUMN rate;"
              "PRAGMA user_version = 1");
    open_failing(k, SQLITE_NOMEM);
    assert_false(kit_message(k, m->id).is_test);
}

static void what_was_under_way_is_recovered_after_any_failure(void **state) {
    expect_log("attempts were under way at the last stop; they are repeated");
    struct kit *k = *state;
    kit_webhook(k, 1, "message.accepted");
    struct message_row *m = kit_accept(k, TO("ann@example.net", "bob@example.net"));
    assert_true(kit_claim(k, m->recipient[1].key));
    assert_int_equal(kit_notify_claim(k)->count, 1);
    store_close(&k->store);
    damage(k, "INSERT INTO upload VALUES (77); INSERT INTO body VALUES (77 * 1024, x'00')");
    open_failing(k, SQLITE_FULL);
    struct message_row now = kit_message(k, m->id);
    assert_int_equal(now.recipient[1].state, RECIPIENT_QUEUED);
    assert_true(now.recipient[1].possible_duplicate);
    assert_false(now.recipient[0].possible_duplicate);
    k->now_wall_ms = clock_wall_ms() + 1000;
    assert_int_equal(kit_notify_claim(k)->count, 1);
    damage(k, "CREATE TEMP TABLE none (n CHECK (n = 0));"
              "INSERT INTO none SELECT count(*) FROM upload;"
              "INSERT INTO none SELECT count(*) FROM body WHERE key = 77 * 1024");
}

static void secrets_are_sealed_after_any_failure(void **state) {
    struct kit *k = *state;
    struct domain_key_row key = {
        .selector = STR("s1"), .algorithm = STR("rsa-sha256"), .pem = STR("secret pem")};
    struct store_domain_put d = {.domain = {.id = id_new(k->now_wall_ms),
                                            .project = 1,
                                            .name = STR("example.org"),
                                            .key = &key,
                                            .key_count = 1}};
    RUN_OK(k, STORE_DOMAIN_PUT, &d);
    kit_webhook(k, 1, "*");
    store_close(&k->store);
    struct seal *ring = NULL;
    assert_int_equal(
        seal_new(STR("000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"), STR_NONE,
                 &ring, NULL),
        OK);
    k->options.seal = ring;
    open_failing(k, SQLITE_IOERR);
    struct store_domains q = {.project = 1, .with_secrets = true};
    RUN_OK(k, STORE_DOMAINS, &q);
    assert_true(str_equal(q.domain[0].key[0].pem, STR("secret pem")));
    damage(k, "CREATE TEMP TABLE sealed (n CHECK (n = 1));"
              "INSERT INTO sealed SELECT pem LIKE 'sealed:%' FROM domain_key;"
              "INSERT INTO sealed SELECT secret LIKE 'sealed:%' FROM webhook");
    store_close(&k->store); /* the ring outlives the store */
    seal_free(&ring);
    k->options.seal = NULL;
    struct errinfo info = {0};
    assert_int_equal(store_open(&k->options, &k->store, &info), ERR_INVALID);
    assert_string_equal(info.field, "master_key");
}

static struct seal *ring_of(const char *current, const char *previous) {
    struct seal *ring = NULL;
    assert_int_equal(seal_new(str_of(current), str_of(previous), &ring, NULL), OK);
    return ring;
}

/* Of the secrets that are there, in their order, one cannot be opened: then none is changed. */
static void a_secret_that_does_not_open_is_a_refusal(void **state) {
    (void)state;
    static const char one[] = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f",
                      two[] = "ff0102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
    static const struct {
        const char *damage;
        const char *words; /* NULL: it opens */
    } rows[] = {
        {"SELECT 1", NULL},
        {"UPDATE domain_key SET pem = 'in clear' WHERE n = 1", NULL}, /* sealed then */
        {"UPDATE domain_key SET pem = NULL", NULL},
        {"UPDATE domain_key SET pem = substr(pem, 1, length(pem) - 8) WHERE selector = 's1'",
         "the row was changed"},
        {"UPDATE domain_key SET pem = 'sealed:1:x' WHERE selector = 's1'", "the row was changed"},
        {"UPDATE domain_key SET pem = replace(pem, ':1:', ':1:0') WHERE selector = 's1'",
         "the row was changed"},
        {"UPDATE webhook SET secret = replace(secret, substr(secret, 10, 8), '01234567')"
         " WHERE n = 1; UPDATE domain_key SET pem = 'in clear'",
         "sealed with the master key 01234567"},
        {"UPDATE webhook SET previous_secret = 'sealed:1:x' WHERE n = 1", "the row was changed"},
        {"UPDATE webhook SET secret = 'in clear', previous_secret = 'sealed:1:x' WHERE n = 2",
         "the row was changed"},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct kit *k = kit_new(STORE_SQLITE);
        struct seal *first = ring_of(one, NULL), *second = ring_of(two, one);
        k->options.seal = first;
        kit_reopen(k);
        struct domain_key_row keys[] = {
            {.selector = STR("s1"), .algorithm = STR("a"), .pem = STR("pem 1")},
            {.selector = STR("s2"), .algorithm = STR("a"), .pem = STR("pem 2")}};
        struct store_domain_put d = {.domain = {.id = id_new(k->now_wall_ms),
                                                .project = 1,
                                                .name = STR("example.org"),
                                                .key = keys,
                                                .key_count = 2}};
        RUN_OK(k, STORE_DOMAIN_PUT, &d);
        kit_webhook(k, 1, "*");
        kit_webhook(k, 1, "*");
        store_close(&k->store);
        damage(k, rows[i].damage);
        const char *before = "CREATE TABLE was AS SELECT pem AS a, 0 AS b FROM domain_key"
                             " UNION ALL SELECT secret, previous_secret FROM webhook";
        const char *same = "CREATE TEMP TABLE t (n CHECK (n = 0)); INSERT INTO t SELECT count(*)"
                           " FROM (SELECT pem, 0 FROM domain_key UNION ALL"
                           " SELECT secret, previous_secret FROM webhook EXCEPT SELECT * FROM was);"
                           " DROP TABLE was";
        damage(k, before);
        k->options.seal = second;
        struct errinfo info = {0};
        sqlite_at_open(i % 2 == 0 ? "PRAGMA secure_delete = FAST" : "PRAGMA secure_delete = OFF");
        enum err e = store_open(&k->options, &k->store, &info);
        sqlite_at_open(NULL);
        if (rows[i].words == NULL) {
            if (e != OK)
                fail_msg("%s: %s: %s", rows[i].damage, err_name(e), info.text);
            kit_check(k);
        } else {
            if (e != ERR_INVALID || strstr(info.text, rows[i].words) == NULL)
                fail_msg("%s: %s: %s", rows[i].damage, err_name(e), info.text);
            assert_string_equal(info.field, "master_key");
            damage(k, same);
        }
        store_close(&k->store);
        kit_free(k);
        seal_free(&first);
        seal_free(&second);
    }
}

/* Each handle is told how it syncs. */
static void it_syncs_as_the_options_say(void **state) {
    struct kit *k = *state;
    static const char *const pragma[] = {"PRAGMA synchronous = FULL",
                                         "PRAGMA synchronous = NORMAL"};
    for (int normal = 0; normal < 2; normal++)
        for (int other = 0; other < 2; other++) {
            store_close(&k->store);
            k->options.synchronous_normal = normal;
            k->options.cache_bytes = other ? (size_t)1 << 20 : 0;
            struct errinfo info = {0};
            sqlite_fail(&(struct sqlite_fault){
                .rc = SQLITE_IOERR, .at = 1, .only = pragma[other ? !normal : normal]});
            enum err e = store_open(&k->options, &k->store, &info);
            assert_int_equal(sqlite_fail_end(), !other);
            assert_int_equal(e, other ? OK : ERR_UNAVAILABLE);
        }
    k->options.synchronous_normal = false;
    kit_reopen(k);
    kit_accept(k, TO("ann@example.net"));
}

/* And how much it may keep in memory: a reader an eighth of what the writer may. */
static void each_handle_has_the_cache_that_it_was_given(void **state) {
    struct kit *k = *state;
    static const struct {
        size_t mib;
        const char *pragma;
        bool is_asked;
    } rows[] = {
        {0, "PRAGMA cache_size = -4096", true},       {0, "PRAGMA cache_size = -16384", false},
        {64, "PRAGMA cache_size = -65536", true},     {64, "PRAGMA cache_size = -8192", true},
        {64, "PRAGMA cache_size = -4096", false},     {100, "PRAGMA cache_size = -65536", true},
        {1, "PRAGMA cache_size = -1024", true},       {1, "PRAGMA cache_size = -4096", false},
        {2048, "PRAGMA cache_size = -1048576", true},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct errinfo info = {0};
        store_close(&k->store);
        k->options.cache_bytes = rows[i].mib << 20;
        sqlite_fail(&(struct sqlite_fault){.rc = SQLITE_IOERR, .at = 1, .only = rows[i].pragma});
        enum err e = store_open(&k->options, &k->store, &info);
        assert_int_equal(sqlite_fail_end(), rows[i].is_asked);
        assert_int_equal(e, rows[i].is_asked ? ERR_UNAVAILABLE : OK);
    }
    kit_reopen(k);
}

/* ---- kinds of failure ---- */

static void each_kind_of_failure_is_told_from_a_defect(void **state) {
    expect_log("the store is not writable");
    struct kit *k = *state;
    struct message_row *m = kit_accept(k, TO("ann@example.net"));
    static const struct {
        int rc;
        enum err want;
    } rows[] = {
        {SQLITE_FULL, ERR_UNAVAILABLE},     {SQLITE_IOERR_READ, ERR_UNAVAILABLE},
        {SQLITE_NOMEM, ERR_UNAVAILABLE},    {SQLITE_BUSY, ERR_UNAVAILABLE},
        {SQLITE_READONLY, ERR_UNAVAILABLE}, {SQLITE_CANTOPEN, ERR_UNAVAILABLE},
        {SQLITE_CORRUPT, ERR_UNAVAILABLE},  {SQLITE_NOTADB, ERR_UNAVAILABLE},
        {SQLITE_PROTOCOL, ERR_UNAVAILABLE}, {SQLITE_ERROR, ERR_INTERNAL},
        {SQLITE_CONSTRAINT, ERR_INTERNAL},  {SQLITE_MISUSE, ERR_INTERNAL},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct store_message q = {.id = m->id, .project = 1};
        sqlite_fail(&(struct sqlite_fault){.rc = rows[i].rc, .at = 1});
        assert_int_equal(RUN(k, STORE_MESSAGE, &q), rows[i].want);
        assert_int_equal(sqlite_fail_end(), 1);
        assert_non_null(strstr(q.call.info.text, "made to fail"));
        if ((rows[i].rc & 0xFF) == SQLITE_IOERR)
            assert_non_null(strstr(q.call.info.text, strerror(5))); /* the system's words */
        RUN_OK(k, STORE_MESSAGE, &q);
    }
}

/* A defect in one verb's statement: the batch is done again, and the others do not notice. */
static void what_looks_like_a_defect_is_tried_once_more(void **state) {
    struct kit *k = *state;
    struct store_accept *q = kit_accept_for(k, TO("ann@example.net"));
    sqlite_fail(
        &(struct sqlite_fault){.rc = SQLITE_CONSTRAINT, .at = 1, .only = "INSERT INTO recipient"});
    RUN_OK(k, STORE_ACCEPT, q);
    assert_int_equal(sqlite_fail_end(), 1);
    assert_int_equal(kit_totals(k).accepted, 1);
    assert_string_equal(kit_timeline(k, q->message.id), "message.accepted");
    /* for ever: it fails alone */
    sqlite_fail(&(struct sqlite_fault){
        .rc = SQLITE_CONSTRAINT, .at = 1, .for_ever = true, .only = "INSERT INTO recipient"});
    assert_int_equal(RUN(k, STORE_ACCEPT, kit_accept_for(k, TO("bob@example.net"))), ERR_INTERNAL);
    assert_true(sqlite_fail_end() > 1);
    assert_true(store_health(k->store).is_writable);
    assert_int_equal(kit_totals(k).accepted, 1);
}

enum { CROWD = 3 };

/* A batch of which one call fails late, so that it is done again with savepoints; a large content
 * is with it. */
static void run_crowd(struct kit *k, struct store_accept *q[CROWD], struct id taken) {
    for (int i = 0; i < CROWD; i++)
        q[i] = kit_accept_for(k, TO("ann@new.example"));
    kit_resize(q[0], 600000);
    q[1]->message.id = taken;
    (void)kit_accept_together(k, q, CROWD);
}

static void savepoints_that_fail_lose_the_batch_and_nothing_else(void **state) {
    expect_log("the store is not writable");
    struct kit *k = *state;
    struct message_row *first = kit_accept(k, TO("first@example.net"));
    int64_t accepted = 1;
    static const char *const steps[] = {"SAVEPOINT", "RELEASE", "ROLLBACK TO"};
    for (size_t i = 0; i < sizeof(steps) / sizeof(steps[0]); i++)
        for (long at = 1; at <= 3; at++) {
            struct store_accept *q[CROWD];
            sqlite_fail(&(struct sqlite_fault){.rc = SQLITE_FULL, .at = at, .only = steps[i]});
            run_crowd(k, q, first->id);
            sqlite_fail_end();
            for (int c = 0; c < CROWD; c++) {
                assert_true(q[c]->call.err == ERR_UNAVAILABLE ||
                            q[c]->call.err == (c == 1 ? ERR_INTERNAL : OK));
                accepted += q[c]->call.err == OK;
            }
            kit_revive(k);
            assert_int_equal(kit_totals(k).accepted, accepted);
            kit_check(k);
        }
    assert_int_equal(kit_due_count(k, k->now_wall_ms), accepted);
}

/* ---- when the way back fails, too ---- */

static void a_transaction_that_cannot_be_undone_ends_with_its_handle(void **state) {
    expect_log("the store is not writable");
    struct kit *k = *state;
    struct message_row *m = kit_accept(k, TO("ann@example.net"));
    assert_true(kit_claim(k, m->recipient[0].key));
    static const int kinds[] = {SQLITE_FULL, SQLITE_CONSTRAINT};
    for (size_t i = 0; i < 2; i++) {
        sqlite_fail(&(struct sqlite_fault){.rc = kinds[i], .at = 3, .for_ever = true});
        struct store_accept *q = kit_accept_for(k, TO("bob@example.net"));
        assert_int_equal(RUN(k, STORE_ACCEPT, q), ERR_UNAVAILABLE);
        assert_non_null(strstr(q->call.info.text, "cannot be rolled back"));
        assert_int_equal(RUN(k, STORE_ACCEPT, kit_accept_for(k, TO("c@example.net"))),
                         ERR_UNAVAILABLE);
        assert_true(sqlite_fail_end() > 1);
        wait_writable(k);
    }
    /* claims belong to jobs that live */
    assert_int_equal(kit_settle(k, kit_result(k, m->recipient[0].key, RECIPIENT_DELIVERED)), OK);
    assert_int_equal(kit_totals(k).accepted, 1);
}

/* From some call on nothing works, not even opening again; then it does. */
static void nothing_is_lost_while_nothing_works(void **state) {
    expect_log("the store is not writable");
    expect_log("a checkpoint failed");
    expect_log("attempts were under way at the last stop; they are repeated");
    struct kit *k = *state;
    kit_webhook(k, 1, "*");
    struct message_row *m = kit_accept(k, TO("ann@example.net", "bob@example.net"));
    assert_true(kit_claim(k, m->recipient[0].key));
    long at = 1;
    for (bool is_over = false; !is_over; at += 3) {
        struct settle_result r = kit_result(k, m->recipient[0].key, RECIPIENT_BOUNCED);
        struct store_settle q = {.result = &r, .count = 1, .now_wall_ms = k->now_wall_ms};
        sqlite_fail(&(struct sqlite_fault){.rc = SQLITE_IOERR, .at = at, .for_ever = true});
        enum err e = RUN(k, STORE_SETTLE, &q);
        struct store_message look = {.id = m->id, .project = 1};
        (void)RUN(k, STORE_MESSAGE, &look);
        is_over = sqlite_fail_end() <= 2; /* the look alone */
        kit_reopen(k);
        if (is_over && e == OK)
            break;
        assert_int_equal(e, ERR_UNAVAILABLE);
        struct message_row now = kit_message(k, m->id);
        assert_int_equal(now.recipient[0].state, RECIPIENT_QUEUED);
        assert_true(now.recipient[0].possible_duplicate);
        assert_string_equal(kit_timeline(k, m->id), "message.accepted");
        assert_true(kit_claim(k, m->recipient[0].key));
    }
    print_message("%ld calls\n", at);
    assert_int_equal(kit_state(k, m->id, 0), RECIPIENT_BOUNCED);
    assert_string_equal(kit_timeline(k, m->id), "message.accepted recipient.bounced");
}

/* While it is full, not even a probe begins. */
static void a_probe_that_cannot_begin_finds_no_room(void **state) {
    expect_log("the store is not writable");
    struct kit *k = *state;
    sqlite_fail(
        &(struct sqlite_fault){.rc = SQLITE_FULL, .at = 1, .for_ever = true, .only = "BEGIN"});
    assert_int_equal(RUN(k, STORE_ACCEPT, kit_accept_for(k, TO("ann@example.net"))),
                     ERR_UNAVAILABLE);
    while (sqlite_failed() < 2) /* the accept's, and the probe's a second later */
        mailbox_wait(kit_box(k), 20);
    assert_false(store_health(k->store).is_writable);
    assert_true(sqlite_fail_end() > 1);
    wait_writable(k);
    kit_accept(k, TO("ann@example.net"));
}

/* Nothing hangs on somebody listening. */
static void what_fails_fails_as_well_in_silence(void **state) {
    struct kit *k = *state;
    silence_log();
    store_close(&k->store);
    kit_remove_folder(k->folder);
    k->options.checkpoint_pages = 1;
    k->options.seal =
        ring_of("000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f", NULL);
    struct seal *ring = (struct seal *)(uintptr_t)k->options.seal;
    kit_open_with(k, k->options);
    kit_webhook(k, 1, "*");
    struct message_row *m = kit_accept(k, TO("ann@example.net"));
    assert_true(kit_claim(k, m->recipient[0].key));
    sqlite_fail(&(struct sqlite_fault){
        .rc = SQLITE_IOERR, .at = 1, .for_ever = true, .only = "checkpoint"});
    for (int n = 0; n < 6; n++)
        kit_accept(k, TO("ann@example.net"));
    assert_true(sqlite_fail_end() > 0);
    sqlite_fail(&(struct sqlite_fault){.rc = SQLITE_FULL, .at = 3});
    assert_int_equal(RUN(k, STORE_ACCEPT, kit_accept_for(k, TO("bob@example.net"))),
                     ERR_UNAVAILABLE);
    assert_int_equal(sqlite_fail_end(), 1);
    wait_writable(k);
    /* a lost transaction of a handle that is well */
    sqlite_fail(&(struct sqlite_fault){.rc = SQLITE_CONSTRAINT, .at = 1, .only = "COMMIT"});
    assert_int_equal(RUN(k, STORE_ACCEPT, kit_accept_for(k, TO("bob@example.net"))),
                     ERR_UNAVAILABLE);
    assert_int_equal(sqlite_fail_end(), 1);
    store_close(&k->store);
    k->options.seal = NULL;
    damage(k, "UPDATE webhook SET secret = 'in clear'");
    k->options.seal = ring;
    kit_open_with(k, k->options);
    assert_true(kit_message(k, m->id).recipient[0].possible_duplicate);
    store_close(&k->store);
    k->options.seal = NULL;
    damage(k, "UPDATE webhook SET secret = 'in clear'");
    kit_open_with(k, k->options);
    seal_free(&ring);
    /* what is damaged */
    kit_reopen(k);
    damage(k, "UPDATE queue SET count = 0, earliest = NULL; UPDATE message SET tls = 99");
    assert_true(kit_claim(k, m->recipient[0].key));
    struct store_messages q = {.project = 1, .limit = 10};
    RUN_OK(k, STORE_MESSAGES, &q);
    assert_int_equal(q.count, 0);
}

/* ---- several verbs in one transaction ---- */

struct direct {
    const struct store_ops *ops;
    struct backend *b;
    struct effects *fx;
    struct content_budget *budget;
};

static void direct_open(struct kit *k, struct direct *d) {
    store_close(&k->store);
    d->ops = &store_sqlite_ops;
    d->budget = content_budget_new(1 << 20);
    d->fx = effects_new(d->budget);
    assert_int_equal(d->ops->open(&k->options, NULL, &d->b, NULL), OK);
}

static void direct_close(struct kit *k, struct direct *d) {
    d->ops->close(&d->b);
    effects_free(&d->fx);
    content_budget_unref(&d->budget);
    kit_open_with(k, k->options);
}

static void direct_run(struct kit *k, struct direct *d, struct store_call *call,
                       enum store_verb verb) {
    call->verb = verb;
    assert_int_equal(d->ops->write[verb](d->b, d->fx, call), OK);
    kit_keep(k, call);
}

static void another_file_is_not_opened_again(void **state) {
    struct kit *k = *state;
    struct direct d;
    struct backend_file was;
    struct errinfo info = {0};
    direct_open(k, &d);
    d.ops->file(d.b, &was);
    d.ops->close(&d.b);
    was.device++; /* the same number on another file system */
    assert_int_equal(d.ops->open(&k->options, &was, &d.b, &info), ERR_UNAVAILABLE);
    assert_non_null(strstr(info.text, "is not the file that was opened at the start"));
    was.device--;
    /* of what cannot be read nobody knows what it was */
    sqlite_fail(&(struct sqlite_fault){.rc = SQLITE_IOERR, .at = 1, .only = "PRAGMA user_version"});
    assert_int_equal(d.ops->open(&k->options, &was, &d.b, &info), ERR_UNAVAILABLE);
    assert_int_equal(sqlite_fail_end(), 1);
    assert_null(strstr(info.text, "emptied or replaced"));
    assert_int_equal(d.ops->open(&k->options, &was, &d.b, &info), OK);
    direct_close(k, &d);
}

/* A queue that gets one and gives it away before anybody looks. */
static void what_comes_and_goes_in_one_transaction_leaves_its_queue_as_it_was(void **state) {
    struct kit *k = *state;
    struct direct d;
    direct_open(k, &d);
    bool is_claimed = false;
    for (int turn = 0; turn < 2; turn++) {
        struct store_accept *q = kit_accept_for(k, TO("ann@example.net"));
        struct store_cancel cancel = {
            .id = q->message.id, .project = 1, .now_wall_ms = k->now_wall_ms};
        recipient_key_t key;
        struct store_claim claim = {
            .key = &key, .count = 1, .now_wall_ms = k->now_wall_ms, .is_claimed = &is_claimed};
        assert_int_equal(d.ops->begin(d.b), OK);
        direct_run(k, &d, &q->call, STORE_ACCEPT);
        key = q->message.recipient[0].key;
        if (turn == 0)
            direct_run(k, &d, &cancel.call, STORE_CANCEL);
        else
            direct_run(k, &d, &claim.call, STORE_CLAIM);
        assert_int_equal(d.ops->commit(d.b), OK);
        message_unref(&q->content);
    }
    assert_true(is_claimed);
    expect_log("attempts were under way at the last stop; they are repeated");
    direct_close(k, &d);
    assert_int_equal(kit_due_count(k, INT64_MAX), 1); /* what was claimed is due again */
}

/* More queues than are remembered: they are read again. */
static void queues_beyond_what_is_remembered_are_forgotten(void **state) {
    enum { MESSAGES = 51, EACH = 1000 };
    struct kit *k = *state;
    struct direct d;
    direct_open(k, &d);
    const char *to[EACH + 1] = {NULL};
    struct message_row *last = NULL;
    for (int m = 0; m < MESSAGES; m++) {
        for (int i = 0; i < EACH; i++)
            to[i] = arena_printf(k->arena, "a@d%d-%d.example", m, i).p;
        struct store_accept *q = kit_accept_for(k, to);
        assert_int_equal(d.ops->begin(d.b), OK);
        direct_run(k, &d, &q->call, STORE_ACCEPT);
        assert_int_equal(d.ops->commit(d.b), OK);
        effects_truncate(d.fx, 0);
        message_unref(&q->content);
        last = &q->message;
    }
    bool is_claimed[2] = {false};
    recipient_key_t keys[] = {last->recipient[0].key, last->recipient[0].key - 1024};
    struct store_claim claim = {
        .key = keys, .count = 2, .now_wall_ms = k->now_wall_ms, .is_claimed = is_claimed};
    struct store_release release = {
        .key = keys, .count = 2, .due_wall_ms = k->now_wall_ms, .now_wall_ms = k->now_wall_ms};
    assert_int_equal(d.ops->begin(d.b), OK);
    direct_run(k, &d, &claim.call, STORE_CLAIM);
    direct_run(k, &d, &release.call, STORE_RELEASE);
    assert_int_equal(d.ops->commit(d.b), OK);
    assert_true(is_claimed[0] && is_claimed[1]);
    direct_close(k, &d);
    assert_int_equal(kit_totals(k).accepted, MESSAGES * EACH);
}

/* ---- a long read lets others in between ---- */

/* A reader of the test's own, and how often it let others in. */
struct resting {
    const struct store_ops *ops;
    struct backend_reader *r;
    sqlite3 *other;
    size_t rests;
};

/* Nothing is read now: the log can begin anew. */
static void rest(void *arg) {
    struct resting *t = arg;
    sqlite3_stmt *st;
    t->rests++;
    if (t->rests % 50 != 1)
        return;
    assert_int_equal(sqlite3_prepare_v2(t->other, "PRAGMA wal_checkpoint(RESTART)", -1, &st, NULL),
                     SQLITE_OK);
    assert_int_equal(sqlite3_step(st), SQLITE_ROW);
    assert_int_equal(sqlite3_column_int(st, 0), 0); /* "busy" */
    sqlite3_finalize(st);
}

static void resting_open(struct kit *k, struct resting *t) {
    *t = (struct resting){.ops = &store_sqlite_ops, .other = file_open(k)};
    assert_int_equal(t->ops->reader_open(&k->options, NULL, &t->r, NULL), OK);
    t->ops->reader_rests(t->r, rest, t);
}

static void resting_close(struct resting *t) {
    t->ops->reader_close(&t->r);
    sqlite3_close(t->other);
}

/* How often, until it was answered. */
static size_t rests_of(struct kit *k, struct resting *t, struct store_call *call,
                       enum store_verb verb) {
    t->rests = 0;
    call->verb = verb;
    assert_int_equal(t->ops->read[verb](t->r, call), OK);
    kit_keep(k, call);
    return t->rests;
}

static void a_search_rests_between_its_statements(void **state) {
    enum { MANY = 600 };
    struct kit *k = *state;
    struct resting t;
    for (int i = 0; i < MANY; i++)
        kit_accept(k, TO("ann@example.net"));
    resting_open(k, &t);
    struct store_messages q = {.project = 1, .tag = STR("welcome"), .limit = MANY};
    assert_true(rests_of(k, &t, &q.call, STORE_MESSAGES) > MANY / 256);
    assert_int_equal(q.count, MANY);
    t.ops->reader_rests(t.r, NULL, NULL); /* nobody wants it */
    assert_int_equal(rests_of(k, &t, &q.call, STORE_MESSAGES), 0);
    assert_int_equal(q.count, MANY);
    resting_close(&t);
}

/* What takes its time is read in snapshots of its own: here each message takes 20 ms. */
static void a_search_rests_between_candidates_that_take_long(void **state) {
    enum { MANY = 200 };
    struct kit *k = *state;
    struct resting t;
    for (int i = 0; i < MANY; i++)
        kit_accept(k, TO("ann@example.net"));
    resting_open(k, &t);
    struct store_messages q = {.project = 1, .tag = STR("welcome"), .limit = MANY};
    each_look_ms = 20;
    size_t rests = rests_of(k, &t, &q.call, STORE_MESSAGES);
    each_look_ms = 0;
    assert_true(rests > MANY);
    assert_int_equal(q.count, MANY);
    resting_close(&t);
}

/* Each window can have 512 messages with a thousand recipients each. */
static void a_search_for_a_state_rests_between_its_windows(void **state) {
    struct kit *k = *state;
    struct resting t;
    kit_attempt(k, kit_accept(k, TO("ann@example.net"))->recipient[0].key, RECIPIENT_BOUNCED);
    store_close(&k->store);
    damage(k, "UPDATE counter SET next_message = 8000");
    kit_open_with(k, k->options);
    kit_accept(k, TO("ann@example.net"));
    resting_open(k, &t);
    struct store_messages q = {.project = 1, .state = STR("bounced"), .limit = 10};
    assert_true(rests_of(k, &t, &q.call, STORE_MESSAGES) > 8000 / 512);
    assert_int_equal(q.count, 1);
    resting_close(&t);
}

static void loading_rests_between_queues(void **state) {
    enum { QUEUES = 300 };
    struct kit *k = *state;
    struct resting t;
    const char *to[QUEUES + 1] = {NULL};
    for (int i = 0; i < QUEUES; i++)
        to[i] = arena_printf(k->arena, "a@d%d.example", i).p;
    kit_accept(k, to);
    resting_open(k, &t);
    struct store_due q = {.until_wall_ms = k->now_wall_ms, .per_key = 10, .most = 1000};
    assert_true(rests_of(k, &t, &q.call, STORE_DUE) >= QUEUES);
    assert_int_equal(q.count, QUEUES);
    kit_due_release(&q);
    resting_close(&t);
}

/* Twice would be twice as long, with a thousand recipients each. */
static void a_listing_reads_each_message_once(void **state) {
    enum { MANY = 5 };
    struct kit *k = *state;
    struct resting t;
    for (int i = 0; i < MANY; i++)
        kit_accept(k, TO("ann@example.net"));
    resting_open(k, &t);
    struct store_messages q = {.project = 1, .limit = MANY};
    rests_of(k, &t, &q.call, STORE_MESSAGES); /* its statements are prepared */
    sqlite_fail(&(struct sqlite_fault){
        .rc = SQLITE_IOERR, .at = MANY + 1, .only = "SELECT r.key, r.email"});
    rests_of(k, &t, &q.call, STORE_MESSAGES);
    assert_int_equal(sqlite_fail_end(), 0);
    assert_int_equal(q.count, MANY);
    resting_close(&t);
}

/* Of a message that may be large with metadata, little goes to delivery. */
static void loading_holds_no_metadata(void **state) {
    enum { MANY = 300, METADATA_BYTES = 50000 };
    struct kit *k = *state;
    char *metadata = arena_alloc(k->arena, METADATA_BYTES);
    memset(metadata, 'x', METADATA_BYTES);
    for (int i = 0; i < MANY; i++) {
        struct store_accept *q = kit_accept_for(k, TO("ann@example.net"));
        q->message.metadata_json = str_make(metadata, METADATA_BYTES);
        q->message.route = STR("relay");
        RUN_OK(k, STORE_ACCEPT, q);
    }
    struct store_due q = {.call = {.verb = STORE_DUE},
                          .until_wall_ms = k->now_wall_ms,
                          .per_key = MANY,
                          .most = MANY};
    assert_int_equal(store_sync(k->store, &q.call), OK);
    assert_int_equal(q.count, MANY);
    for (int i = 0; i < MANY; i++) {
        assert_true(str_equal(q.due[i].outgoing->mail_from, STR("bounce@example.org")));
        assert_true(str_equal(q.due[i].outgoing->from_domain, STR("example.org")));
        assert_true(str_equal(q.due[i].outgoing->route, STR("relay")));
    }
    assert_true(arena_size(q.call.arena) < 1000000);
    kit_due_release(&q);
    store_call_release(&q.call);
}

/* A thousand recipients would be read a thousand times. */
static void mending_a_recipient_reads_none_of_the_others(void **state) {
    struct kit *k = *state;
    struct store_accept *a = kit_accept_for(k, TO("ann@example.net", "bob@example.net"));
    a->message.recipient[0].due_wall_ms += 365 * (int64_t)86400000;
    a->message.recipient[1].due_wall_ms += 365 * (int64_t)86400000;
    RUN_OK(k, STORE_ACCEPT, a);
    struct store_mend q = {
        .now_wall_ms = k->now_wall_ms, .due_latest_wall_ms = k->now_wall_ms + 1000, .most = 10};
    sqlite_fail(
        &(struct sqlite_fault){.rc = SQLITE_IOERR, .at = 1, .only = "SELECT r.key, r.email"});
    enum err e = RUN(k, STORE_MEND, &q);
    assert_int_equal(sqlite_fail_end(), 0);
    assert_int_equal(e, OK);
    assert_int_equal(q.mended, 2);
    assert_int_equal(kit_due_count(k, k->now_wall_ms), 2);
}

/* Recipients, notifications of all endpoints, and lives count together. */
static void a_step_of_mending_ends_at_its_rows(void **state) {
    const int64_t year_ms = 365 * (int64_t)86400000;
    struct kit *k = *state;
    kit_webhook(k, 1, "message.accepted");
    kit_webhook(k, 1, "message.accepted");
    k->now_wall_ms += year_ms;
    for (int i = 0; i < 3; i++)
        kit_accept(k, TO("ann@example.net"));
    k->now_wall_ms -= year_ms;
    struct store_mend q = {.now_wall_ms = k->now_wall_ms,
                           .due_latest_wall_ms = k->now_wall_ms + 1000,
                           .notify_latest_wall_ms = k->now_wall_ms + 1000,
                           .expires_latest_wall_ms = k->now_wall_ms + 86400000,
                           .most = 2};
    size_t mended = 0, steps = 0;
    do {
        RUN_OK(k, STORE_MEND, &q);
        assert_true(q.mended <= q.most);
        mended += q.mended;
    } while (q.more && ++steps < 20);
    assert_int_equal(mended, 3 + 2 * 3 + 3);
    assert_false(q.more);
    assert_int_equal(kit_due_count(k, k->now_wall_ms), 3);
    assert_int_equal(kit_notify_claim(k)->count, 6);
}

/* Who is let in between reads on the same handle, and would forget the failure. */
static void a_read_that_failed_does_not_rest(void **state) {
    struct kit *k = *state;
    struct resting t;
    kit_accept(k, TO("ann@example.net"));
    kit_accept(k, TO("ann@example.net"));
    resting_open(k, &t);
    struct store_messages q = {.project = 1, .limit = 10};
    each_look_ms = 20; /* a snapshot for each */
    size_t rests = rests_of(k, &t, &q.call, STORE_MESSAGES);
    t.rests = 0;
    sqlite_fail(&(struct sqlite_fault){.rc = SQLITE_IOERR, .at = 1, .only = "SELECT m.seq"});
    assert_int_equal(t.ops->read[STORE_MESSAGES](t.r, &q.call), ERR_UNAVAILABLE);
    assert_int_equal(sqlite_fail_end(), 1);
    each_look_ms = 0;
    assert_true(t.rests < rests);
    kit_keep(k, &q.call);
    /* a search reads what it found once more */
    q.tag = STR("welcome");
    sqlite_fail(&(struct sqlite_fault){.rc = SQLITE_IOERR, .at = 2, .only = "SELECT m.seq"});
    assert_int_equal(t.ops->read[STORE_MESSAGES](t.r, &q.call), ERR_UNAVAILABLE);
    assert_int_equal(sqlite_fail_end(), 1);
    kit_keep(k, &q.call);
    resting_close(&t);
}

/* ---- the log ---- */

static void a_checkpoint_that_fails_is_told_and_made_later(void **state) {
    expect_log("a checkpoint failed");
    struct kit *k = *state;
    store_close(&k->store);
    k->options.checkpoint_pages = 1;
    kit_open_with(k, k->options);
    static const int kinds[] = {SQLITE_IOERR, SQLITE_BUSY};
    for (size_t i = 0; i < 2; i++) {
        sqlite_fail(&(struct sqlite_fault){
            .rc = kinds[i], .at = 1, .for_ever = true, .only = "checkpoint"});
        for (int n = 0; n < 6; n++)
            kit_accept(k, TO("ann@example.net"));
        assert_true(sqlite_fail_end() > 0);
    }
    for (int n = 0; n < 6; n++)
        kit_accept(k, TO("ann@example.net"));
    assert_true(store_health(k->store).is_writable);
    assert_int_equal(kit_due_count(k, k->now_wall_ms), 18);
}

/* ---- rows that no version wrote ---- */

static void look_at_all(struct kit *k, struct id message, size_t *refused) {
    struct store_message m = {.id = message, .project = 1};
    struct store_content c = {.id = message, .project = 1};
    struct store_attempts a = {.message_id = message, .project = 1, .limit = 10};
    struct store_events e = {.project = 1, .limit = 100};
    struct store_messages l = {.project = 1, .limit = 100};
    struct store_due d = {.until_wall_ms = INT64_MAX, .per_key = 10, .most = 10};
    struct store_keys keys = {.project = 1};
    struct store_domains domains = {.project = 1, .with_secrets = true};
    struct store_webhooks hooks = {.project = 1};
    struct store_captures captures = {.limit = 10};
    enum err all[] = {RUN(k, STORE_MESSAGE, &m),      RUN(k, STORE_CONTENT, &c),
                      RUN(k, STORE_ATTEMPTS, &a),     RUN(k, STORE_EVENTS, &e),
                      RUN(k, STORE_MESSAGES, &l),     RUN(k, STORE_DUE, &d),
                      RUN(k, STORE_KEYS, &keys),      RUN(k, STORE_DOMAINS, &domains),
                      RUN(k, STORE_WEBHOOKS, &hooks), RUN(k, STORE_CAPTURES, &captures)};
    kit_due_release(&d);
    message_unref(&c.message);
    *refused = 0;
    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
        assert_true(all[i] == OK || all[i] == ERR_CONFLICT || all[i] == ERR_NOT_FOUND);
        *refused += all[i] == ERR_CONFLICT;
    }
}

static struct message_row *furnish(struct kit *k) {
    kit_webhook(k, 1, "*");
    struct message_row *m = kit_accept(k, TO("ann@example.net", "bob@example.net"));
    struct settle_result r = kit_result(k, m->recipient[0].key, RECIPIENT_QUEUED);
    struct attempt_recipient ar = {0, VERDICT_DEFERRED, r.last};
    struct attempt_row a = {.started_wall_ms = 1, .recipient = &ar, .recipient_count = 1};
    struct store_settle s = {.result = &r, .count = 1, .attempt = &a, .now_wall_ms = 1};
    assert_true(kit_claim(k, m->recipient[0].key));
    RUN_OK(k, STORE_SETTLE, &s);
    struct store_key_put key = {.key = {.id = id_new(1), .project = 1, .prefix = STR("pc_a")}};
    RUN_OK(k, STORE_KEY_PUT, &key);
    struct store_capture_put capture = {.capture = {.id = id_new(1), .content = STR("c")}};
    RUN_OK(k, STORE_CAPTURE_PUT, &capture);
    struct domain_key_row dk = {.selector = STR("s"), .algorithm = STR("a"), .pem = STR("p")};
    struct store_domain_put d = {
        .domain = {
            .id = id_new(1), .project = 1, .name = STR("example.org"), .key = &dk, .key_count = 1}};
    RUN_OK(k, STORE_DOMAIN_PUT, &d);
    return m;
}

/* What is wrong is never read as something else, and never brings the process down. Who looks at it
 * alone is refused, who looks at many goes without it. */
static void damaged_rows_are_refused_when_they_are_read(void **state) {
    (void)state;
    expect_log("a damaged row is passed over");
    static const struct {
        const char *damage;
        size_t refused; /* of ten ways to look */
    } rows[] = {
        {"UPDATE recipient SET state = 9 WHERE key % 1024 = 1", 1},
        {"UPDATE recipient SET state = -1 WHERE key % 1024 = 1", 1},
        {"UPDATE recipient SET kind = 7", 1},
        {"DELETE FROM recipient WHERE key % 1024 = 1", 1},
        {"UPDATE recipient SET key = key + 5 WHERE key % 1024 = 1", 1},
        {"UPDATE message SET tls = 99", 1},
        {"UPDATE message SET lane = 3", 1},
        /* sizes of which room would be made */
        {"UPDATE message SET recipients = 0", 1},
        {"UPDATE message SET recipients = -1", 1},
        {"UPDATE message SET recipients = 1025", 1},
        {"UPDATE message SET recipients = 9223372036854775807", 1},
        {"UPDATE message SET size = -1", 2},
        {"UPDATE message SET size = 268435457", 2},
        {"UPDATE message SET size = 999", 1},
        {"UPDATE message SET size = 1001", 1},
        {"DELETE FROM body", 1},
        {"UPDATE event SET type = 99", 0},
        {"UPDATE event SET state = 99", 0},
        {"UPDATE event SET result = x'02' WHERE result IS NOT NULL", 1},
        {"UPDATE event SET result = x'' WHERE result IS NOT NULL", 1},
        {"UPDATE event SET result = x'ffffffffffffffffffff01' WHERE result IS NOT NULL", 1},
        {"UPDATE event SET result = x'0100' WHERE result IS NOT NULL", 1},
        {"UPDATE event SET result = result || x'00' WHERE result IS NOT NULL", 1},
        {"UPDATE event SET result = substr(result, 1, length(result) - 1)"
         " WHERE result IS NOT NULL",
         1},
        {"UPDATE event SET result = x'01000000000000000000' WHERE result IS NOT NULL", 0},
        /* longer than an enhanced status code, than what is stored, than what is there */
        {"UPDATE event SET result = x'01000000000011313131313131313131313131313131313131000000'"
         " WHERE result IS NOT NULL",
         1},
        {"UPDATE event SET result = x'010000000000ffff7f' WHERE result IS NOT NULL", 1},
        {"UPDATE event SET result = x'0100000000000a31' WHERE result IS NOT NULL", 1},
        {"UPDATE event SET result = x'010063' WHERE result IS NOT NULL", 1},
        /* times that cannot be printed, or are none */
        {"UPDATE message SET created = -1", 1},
        {"UPDATE message SET created = 253402300800000", 1},
        {"UPDATE message SET created = 'now'", 1},
        {"UPDATE message SET expires = 1000000000000000000", 1},
        {"UPDATE recipient SET due = -1 WHERE key % 1024 = 1", 0}, /* it is sent all the same */
        {"UPDATE recipient SET due = 'now' WHERE key % 1024 = 1", 0},
        {"UPDATE recipient SET updated = 1000000000000000000 WHERE key % 1024 = 1", 0},
        {"UPDATE attempt SET recipients = x'02'", 0},
        {"UPDATE attempt SET recipients = x'0102'", 0},
        {"UPDATE attempt SET recipients = recipients || x'00'", 0},
        {"UPDATE api_key SET hash = x'00'", 0},
        {"UPDATE webhook SET secret = 'sealed:1:00000000:AAAA'", 0}, /* it is left out */
        {"UPDATE domain_key SET pem = 'sealed:1:00000000:AAAA'", 0},
        {"UPDATE webhook SET state = 7", 0},
        {"UPDATE capture SET kind = 9", 0}, /* of no kind that anybody lists */
        {"DELETE FROM message", 0},         /* then it is not there */
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct kit *k = kit_new(STORE_SQLITE);
        struct id message = furnish(k)->id;
        size_t refused;
        look_at_all(k, message, &refused);
        assert_int_equal(refused, 0);
        damage(k, rows[i].damage);
        look_at_all(k, message, &refused);
        if (refused != rows[i].refused)
            fail_msg("%s: refused %zu times", rows[i].damage, refused);
        store_close(&k->store);
        kit_free(k);
    }
}

enum way {
    CLAIM,
    SETTLE,
    RELEASE,
    CANCEL,
    RETRY,
    EXPIRE,
    RETAIN,
    MEND,
    NOTIFY_CLAIM,
    NOTIFY_SETTLE,
    TEST_WEBHOOK,
    REPEAT
};

static enum err write_somehow(struct kit *k, const struct message_row *m, enum way way) {
    recipient_key_t key = m->recipient[1].key;
    bool is_claimed;
    struct settle_result result = kit_result(k, key, RECIPIENT_BOUNCED);
    struct notify_result notified = {.seq = 1, .state = NOTIFICATION_DELIVERED, .counts = true};
    struct store_claim claim = {
        .key = &key, .count = 1, .now_wall_ms = k->now_wall_ms, .is_claimed = &is_claimed};
    struct store_settle settle = {.result = &result, .count = 1, .now_wall_ms = k->now_wall_ms};
    struct store_release release = {.key = &key, .count = 1, .now_wall_ms = k->now_wall_ms};
    struct store_cancel cancel = {.id = m->id, .project = 1, .now_wall_ms = k->now_wall_ms};
    struct store_retry retry = {
        .id = m->id, .project = 1, .new_id = id_new(k->now_wall_ms), .now_wall_ms = k->now_wall_ms};
    struct store_expire expire = {.now_wall_ms = m->expires_wall_ms, .most = 100};
    struct store_retain retain = {.now_wall_ms = k->now_wall_ms,
                                  .content_before_wall_ms = INT64_MAX,
                                  .events_before_wall_ms = INT64_MAX,
                                  .waiting_before_wall_ms = INT64_MAX,
                                  .most = 100};
    struct store_mend mend = {.now_wall_ms = k->now_wall_ms, .due_latest_wall_ms = 1, .most = 100};
    struct store_notify_claim notify = {
        .now_wall_ms = k->now_wall_ms, .most = 10, .per_webhook = 10};
    struct store_notify_settle settled = {
        .result = &notified, .count = 1, .now_wall_ms = k->now_wall_ms};
    struct store_webhook_test test = {.project = 1, .now_wall_ms = k->now_wall_ms};
    switch (way) {
    case CLAIM:
        return RUN(k, STORE_CLAIM, &claim);
    case SETTLE:
        return RUN(k, STORE_SETTLE, &settle);
    case RELEASE:
        return RUN(k, STORE_RELEASE, &release);
    case CANCEL:
        return RUN(k, STORE_CANCEL, &cancel);
    case RETRY:
        return RUN(k, STORE_RETRY, &retry);
    case EXPIRE:
        return RUN(k, STORE_EXPIRE, &expire);
    case RETAIN:
        return RUN(k, STORE_RETAIN, &retain);
    case MEND:
        return RUN(k, STORE_MEND, &mend);
    case NOTIFY_CLAIM:
        return RUN(k, STORE_NOTIFY_CLAIM, &notify);
    case NOTIFY_SETTLE:
        return RUN(k, STORE_NOTIFY_SETTLE, &settled);
    case TEST_WEBHOOK:
        return RUN(k, STORE_WEBHOOK_TEST, &test);
    case REPEAT:
        return RUN(k, STORE_ACCEPT, kit_keyed(k, "key", 1));
    }
    return ERR_INTERNAL;
}

static void damaged_rows_are_refused_when_they_are_changed(void **state) {
    (void)state;
    expect_log("the store is not writable");
    expect_log("attempts were under way at the last stop; they are repeated");
    expect_log("a damaged row is passed over");
    expect_log("they were counted anew");
    static const struct {
        const char *damage;
        enum way way;
        bool is_claimed; /* before the damage; else the store is opened again after it */
        enum err want;
    } rows[] = {
        {"DELETE FROM queue", CLAIM, false, OK},
        {"DELETE FROM queue", CANCEL, false, ERR_CONFLICT},
        {"DELETE FROM queue", RETRY, false, ERR_CONFLICT},
        {"UPDATE queue SET count = 0, earliest = NULL", CLAIM, false, OK},
        {"UPDATE queue SET lane = 9", CLAIM, false, OK},
        {"UPDATE queue SET lane = 9", EXPIRE, false, OK},
        {"DELETE FROM queue", EXPIRE, false, OK},
        {"UPDATE recipient SET state = 9 WHERE key % 1024 = 1", CLAIM, false, OK},
        {"UPDATE recipient SET state = 9 WHERE key % 1024 = 1", EXPIRE, false, OK},
        {"UPDATE recipient SET state = 9 WHERE key % 1024 = 1", SETTLE, true, ERR_CONFLICT},
        {"DELETE FROM recipient WHERE key % 1024 = 1", CLAIM, false, OK}, /* not claimed */
        {"DELETE FROM recipient WHERE key % 1024 = 1", SETTLE, true, ERR_NOT_FOUND},
        {"DELETE FROM recipient WHERE key % 1024 = 1", RELEASE, true, OK}, /* not released */
        {"DELETE FROM recipient WHERE key % 1024 = 1", CANCEL, false, ERR_CONFLICT},
        {"UPDATE recipient SET key = key + 5 WHERE key % 1024 = 1", CANCEL, false, ERR_CONFLICT},
        {"DELETE FROM recipient WHERE key % 1024 = 1", RETRY, false, ERR_CONFLICT},
        {"DELETE FROM recipient WHERE key % 1024 = 1", EXPIRE, false, OK}, /* the other does */
        {"DELETE FROM message", SETTLE, true, ERR_NOT_FOUND},
        {"DELETE FROM message", RELEASE, true, OK},
        {"DELETE FROM message", CANCEL, false, ERR_NOT_FOUND},
        {"DELETE FROM message", RETRY, false, ERR_NOT_FOUND},
        {"DELETE FROM message", EXPIRE, false, OK},
        {"DELETE FROM message", MEND, false, OK},
        {"DELETE FROM message", RETAIN, false, OK},
        {"UPDATE message SET recipients = 9223372036854775807", CANCEL, false, ERR_CONFLICT},
        {"UPDATE message SET recipients = 9223372036854775807", RETRY, false, ERR_CONFLICT},
        {"UPDATE message SET recipients = -1", EXPIRE, false, OK},
        {"UPDATE message SET recipients = 0", SETTLE, true, ERR_CONFLICT},
        {"UPDATE message SET lane = 9", SETTLE, true, ERR_CONFLICT},
        {"UPDATE message SET lane = 9", RELEASE, true, OK},
        {"UPDATE recipient SET kind = 9", RELEASE, true, OK},
        {"UPDATE message SET lane = 9", RETRY, false, ERR_CONFLICT},
        {"UPDATE queue SET lane = 9", CANCEL, false, ERR_CONFLICT},
        {"UPDATE queue SET lane = 9", RETRY, false, ERR_CONFLICT},
        {"UPDATE recipient SET kind = 9 WHERE key % 1024 = 1", CANCEL, false, ERR_CONFLICT},
        {"UPDATE recipient SET due = -1", CANCEL, false, OK},
        {"UPDATE recipient SET due = 'now', updated = -1", CANCEL, false, OK},
        {"UPDATE message SET lane = 9", REPEAT, false, ERR_CONFLICT},
        {"UPDATE recipient SET state = 9", REPEAT, false, ERR_CONFLICT},
        {"DELETE FROM recipient", REPEAT, false, ERR_CONFLICT},
        {"DELETE FROM message", REPEAT, false, ERR_CONFLICT},
        {"DELETE FROM event WHERE seq = 1", NOTIFY_CLAIM, false, OK},
        {"UPDATE event SET type = 99", NOTIFY_CLAIM, false, OK},
        {"UPDATE notification SET state = 9", RETAIN, false, OK},
        {"DELETE FROM webhook", RETAIN, false, OK}, /* nobody's deliveries go */
        {"UPDATE notification SET state = 9", NOTIFY_SETTLE, false, OK},
        {"UPDATE webhook SET state = 7", CANCEL, false, OK}, /* its event is nobody's */
        {"UPDATE queue SET lane = 9", MEND, false, OK},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct kit *k = kit_new(STORE_SQLITE);
        const struct message_row *m = furnish(k);
        RUN_OK(k, STORE_ACCEPT, kit_keyed(k, "key", 1));
        if (rows[i].is_claimed)
            assert_true(kit_claim(k, m->recipient[1].key));
        damage(k, rows[i].damage);
        if (!rows[i].is_claimed)
            kit_reopen(k);
        enum err e = write_somehow(k, m, rows[i].way);
        if (e != rows[i].want)
            fail_msg("%s, then %d: %s", rows[i].damage, (int)rows[i].way, err_name(e));
        /* who is refused, is so alone: a handle that failed takes its whole batch along */
        if (store_health(k->store).is_writable != (e != ERR_UNAVAILABLE))
            fail_msg("%s, then %d: the handle", rows[i].damage, (int)rows[i].way);
        store_close(&k->store);
        kit_free(k);
    }
}

/* ---- one row that is damaged among others ---- */

/* What the damaged row says, as one number. */
static int64_t number_in(struct kit *k, const char *sql) {
    sqlite3 *db = file_open(k);
    sqlite3_stmt *st;
    assert_int_equal(sqlite3_prepare_v2(db, sql, -1, &st, NULL), SQLITE_OK);
    assert_int_equal(sqlite3_step(st), SQLITE_ROW);
    int64_t n = sqlite3_column_int64(st, 0);
    sqlite3_finalize(st);
    sqlite3_close(db);
    return n;
}

static const char passed_over[] = "a damaged row is passed over";

/* Two messages, of which the older is damaged: everybody who looks at many gets the other. */
static void a_damaged_message_holds_up_no_other(void **state) {
    (void)state;
    expect_log(passed_over);
    static const struct {
        const char *damage, *proof; /* 1: it is as it was */
        size_t due, expired;        /* how many can be loaded; how many end */
        unsigned told;              /* each handle says so once */
        bool of_recipient;
    } rows[] = {
        {"UPDATE message SET tls = 99 WHERE seq = 1", "SELECT tls = 99 FROM message WHERE seq = 1",
         1, 3, 1, false},
        {"UPDATE message SET recipients = 0 WHERE seq = 1",
         "SELECT recipients = 0 FROM message WHERE seq = 1", 1, 1, 2, false},
        {"UPDATE message SET lane = 9 WHERE seq = 1", "SELECT lane = 9 FROM message WHERE seq = 1",
         1, 1, 2, false},
        {"UPDATE message SET created = -1 WHERE seq = 1",
         "SELECT created = -1 FROM message WHERE seq = 1", 1, 3, 1, false},
        {"UPDATE recipient SET state = -1 WHERE key = 1024",
         "SELECT state = -1 FROM recipient WHERE key = 1024", 2, 2, 2, true},
        {"UPDATE recipient SET state = 9 WHERE key = 1024",
         "SELECT state = 9 FROM recipient WHERE key = 1024", 2, 2, 2, true},
        {"UPDATE recipient SET kind = 9 WHERE key = 1024",
         "SELECT kind = 9 FROM recipient WHERE key = 1024", 2, 2, 2, true},
        {"UPDATE recipient SET kind = -1 WHERE key = 1024",
         "SELECT kind = -1 FROM recipient WHERE key = 1024", 2, 2, 2, true},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct kit *k = kit_new(STORE_SQLITE);
        k->options.readers = 1;
        kit_reopen(k);
        kit_accept(k, TO("ann@example.net", "bob@example.net"));
        struct message_row *good = kit_accept(k, TO("cat@example.net"));
        damage(k, rows[i].damage);
        kit_reopen(k); /* what the writer has in memory */
        unsigned told = logged(passed_over);
        for (int turn = 0; turn < 3; turn++) {
            struct store_messages l = {.project = 1, .limit = 10};
            RUN_OK(k, STORE_MESSAGES, &l);
            assert_int_equal(l.count, 1);
            assert_true(id_equal(&l.message[0].id, &good->id));
            assert_int_equal(kit_due_count(k, k->now_wall_ms), rows[i].due);
        }
        /* claimed together with one that cannot be */
        recipient_key_t keys[] = {rows[i].of_recipient ? 1024 : 4711, good->recipient[0].key};
        bool is_claimed[2] = {false};
        struct store_claim claim = {
            .key = keys, .count = 2, .now_wall_ms = k->now_wall_ms, .is_claimed = is_claimed};
        RUN_OK(k, STORE_CLAIM, &claim);
        assert_false(is_claimed[0]);
        assert_true(is_claimed[1]);
        struct store_release release = {.key = &keys[1],
                                        .count = 1,
                                        .due_wall_ms = k->now_wall_ms,
                                        .now_wall_ms = k->now_wall_ms};
        RUN_OK(k, STORE_RELEASE, &release);
        size_t expired = 0;
        for (int turn = 0; turn < 3; turn++) {
            struct store_expire e = {.now_wall_ms = good->expires_wall_ms, .most = 100};
            RUN_OK(k, STORE_EXPIRE, &e);
            expired += e.expired;
        }
        if (expired != rows[i].expired)
            fail_msg("%s: %zu expired", rows[i].damage, expired);
        assert_int_equal(kit_state(k, good->id, 0), RECIPIENT_EXPIRED);
        assert_true(store_health(k->store).is_writable);
        told = logged(passed_over) - told;
        if (told != rows[i].told)
            fail_msg("%s: told %u times", rows[i].damage, told);
        assert_int_equal(number_in(k, rows[i].proof), 1);
        store_close(&k->store); /* it does not add up */
        kit_free(k);
    }
}

/* Those that cannot go are due for ever, and always the first. */
static void what_cannot_go_takes_up_no_places(void **state) {
    expect_log(passed_over);
    struct kit *k = *state;
    enum { BAD = 30 };
    for (int i = 0; i < BAD; i++)
        kit_accept(k, TO("ann@example.net"));
    damage(k, "UPDATE message SET tls = 99");
    struct message_row *good = kit_accept(k, TO("bob@example.net"));
    struct store_due q = {.until_wall_ms = k->now_wall_ms, .per_key = 10, .most = 10};
    RUN_OK(k, STORE_DUE, &q);
    assert_int_equal(q.count, 1);
    assert_int_equal(q.due[0].key, good->recipient[0].key);
    kit_due_release(&q);
}

static size_t expire_all(struct kit *k, int64_t now_wall_ms) {
    struct store_expire e = {.now_wall_ms = now_wall_ms, .most = 100};
    RUN_OK(k, STORE_EXPIRE, &e);
    return e.expired;
}

/* Who comes back and who is made well again expires then. */
static void what_did_not_expire_is_looked_at_again(void **state) {
    expect_log(passed_over);
    struct kit *k = *state;
    struct message_row *one = kit_accept(k, TO("ann@example.net"));
    struct message_row *two = kit_accept(k, TO("ann@example.net", "bob@example.net"));
    assert_true(kit_claim(k, two->recipient[1].key));
    damage(k, "UPDATE message SET recipients = -1 WHERE seq = 1;"
              "UPDATE recipient SET kind = 9 WHERE key = 2048");
    for (int i = 0; i < 2; i++)
        assert_int_equal(expire_all(k, one->expires_wall_ms), 0);
    assert_int_equal(logged(passed_over), 2);
    struct store_release release = {.key = &two->recipient[1].key,
                                    .count = 1,
                                    .due_wall_ms = k->now_wall_ms,
                                    .now_wall_ms = k->now_wall_ms};
    RUN_OK(k, STORE_RELEASE, &release);
    assert_int_equal(expire_all(k, one->expires_wall_ms), 1);
    damage(k, "UPDATE message SET recipients = 1 WHERE seq = 1;"
              "UPDATE recipient SET kind = 0 WHERE key = 2048");
    assert_int_equal(expire_all(k, one->expires_wall_ms), 2);
    assert_int_equal(logged(passed_over), 2);
}

/* Accepts wait for a step. The next one goes on behind those that it has seen, and the last comes
 * back to the first. */
static void what_never_expires_is_not_all_looked_at_in_one_step(void **state) {
    (void)state;
    struct kit *k = kit_new(STORE_SQLITE);
    struct message_row *m = kit_accept(k, TO("ann@example.net"));
    kit_accept(k, TO("bob@example.net"));
    damage(k, "WITH n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 12000)"
              " INSERT INTO open_message SELECT 1000 + i, i FROM n;"
              "UPDATE open_message SET expires = 1 WHERE seq = 1");
    static const size_t expired[] = {1, 0, 1, 0, 0, 0};
    for (size_t i = 0; i < sizeof(expired) / sizeof(expired[0]); i++)
        assert_int_equal(expire_all(k, m->expires_wall_ms), expired[i]);
    damage(k, "UPDATE open_message SET expires = 1 WHERE seq = 1001");
    struct message_row *late = kit_accept(k, TO("cat@example.net"));
    for (size_t i = 0; i < 3; i++)
        assert_int_equal(expire_all(k, late->expires_wall_ms), i == 2);
    store_close(&k->store); /* it does not add up */
    kit_free(k);
}

/* A step that ends within the message has not seen all of it. */
static void a_step_that_ends_within_a_damaged_message_goes_on_there(void **state) {
    expect_log(passed_over);
    struct kit *k = *state;
    struct message_row *m = kit_accept(k, TO("a@example.net", "b@example.net", "c@example.net"));
    damage(k, "UPDATE recipient SET kind = 9 WHERE key = 1024");
    for (int step = 0; step < 3; step++) {
        struct store_expire e = {.now_wall_ms = m->expires_wall_ms, .most = 1};
        RUN_OK(k, STORE_EXPIRE, &e);
        assert_int_equal(e.expired, step < 2);
    }
}

/* The second recipient of a damaged message was put into a queue of what the first had left. */
static void a_damaged_message_gives_none_of_its_recipients_back(void **state) {
    expect_log(passed_over);
    struct kit *k = *state;
    struct message_row *m = kit_accept(k, TO("a@example.net", "b@example.net"));
    const recipient_key_t keys[] = {m->recipient[0].key, m->recipient[1].key};
    assert_true(kit_claim(k, keys[0]) && kit_claim(k, keys[1]));
    damage(k, "UPDATE message SET lane = 99");
    struct store_release release = {
        .key = keys, .count = 2, .due_wall_ms = k->now_wall_ms, .now_wall_ms = k->now_wall_ms};
    RUN_OK(k, STORE_RELEASE, &release);
    assert_int_equal(number_in(k, "SELECT count(*) FROM recipient WHERE state = 2"), 2);
    damage(k, "UPDATE message SET lane = 0");
}

/* Nor does the log hear of more than anybody reads. */
static void very_many_damaged_rows_are_not_all_told_of(void **state) {
    expect_log(passed_over);
    struct kit *k = *state;
    enum { BAD = 300, TOLD = 256 };
    k->options.readers = 1;
    kit_reopen(k);
    for (int i = 0; i < BAD; i++)
        kit_accept(k, TO("ann@example.net"));
    damage(k, "UPDATE message SET tls = 99");
    for (int i = 0; i < 2; i++) {
        struct store_messages q = {.project = 1, .limit = 10};
        RUN_OK(k, STORE_MESSAGES, &q);
        assert_int_equal(q.count, 0);
        assert_int_equal(logged(passed_over), TOLD);
    }
}

static void expect_the_others(struct kit *k, const char *damage_sql) {
    kit_webhook(k, 1, "message.accepted");
    struct message_row *m[4];
    for (int i = 0; i < 4; i++, k->now_wall_ms += 10)
        m[i] = kit_accept(k, TO("ann@example.net"));
    damage(k, damage_sql);
    /* the feed, in pages smaller than the gap */
    size_t count = 0;
    int64_t after = 0;
    for (bool more = true; more; count++) {
        struct store_events q = {.project = 1, .after_seq = after, .limit = 1};
        RUN_OK(k, STORE_EVENTS, &q);
        assert_int_equal(q.count, 1);
        after = q.event[0].seq;
        assert_int_equal(after, count + 3);
        more = q.more;
    }
    assert_int_equal(count, 2);
    /* the endpoint, one at a time; it asks again when there is something new */
    for (size_t i = 2; i < 4; i++) {
        struct store_notify_claim q = {.now_wall_ms = k->now_wall_ms, .most = 10, .per_webhook = 1};
        RUN_OK(k, STORE_NOTIFY_CLAIM, &q);
        assert_int_equal(q.count, 1);
        assert_true(id_equal(&q.event[0].message_id, &m[i]->id));
        assert_int_equal(q.next_due_wall_ms != 0, i == 2);
        struct notify_result r = {
            .seq = q.notification[0].seq, .state = NOTIFICATION_DELIVERED, .counts = true};
        assert_int_equal(kit_notify_settle(k, r), OK);
    }
    struct store_notify_claim *none = kit_notify_claim(k);
    assert_int_equal(none->count, 0);
    assert_int_equal(none->next_due_wall_ms, 0);
    assert_int_equal(kit_totals(k).notifications_pending, 2);
    assert_int_equal(number_in(k, "SELECT count(*) FROM notification WHERE state = 0"), 2);
}

/* Where its content lies says no number, while it is open: the others' contents go, and the sweep
 * comes to its end. What hangs on it is removed in bounded steps, however much it says it is. */
static void a_message_with_a_damaged_content_holds_up_no_retention(void **state) {
    (void)state;
    static const char *const rows[] = {
        "UPDATE message SET body = 1.5 WHERE seq = 1",
        "UPDATE message SET body = 'x' WHERE seq = 1",
        "UPDATE message SET body = x'01' WHERE seq = 1",
        "UPDATE message SET body = -1 WHERE seq = 1",
        "UPDATE message SET recipients = 9223372036854775807 WHERE seq = 2",
        "UPDATE message SET recipients = -9223372036854775807 WHERE seq = 2",
        "UPDATE message SET size = -9223372036854775807 - 1 WHERE seq = 2",
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct kit *k = kit_new(STORE_SQLITE);
        kit_accept(k, TO("ann@example.net"));
        for (int n = 0; n < 3; n++)
            kit_attempt(k, kit_accept(k, TO("bob@example.net"))->recipient[0].key,
                        RECIPIENT_DELIVERED);
        damage(k, rows[i]);
        k->now_wall_ms += 1000;
        struct store_retain q = {.more = true};
        for (int step = 0; step < 20 && q.more; step++)
            q = kit_retain_step(k, (struct store_retain){.content_before_wall_ms = k->now_wall_ms,
                                                         .events_before_wall_ms = k->now_wall_ms,
                                                         .most = 100});
        if (q.more)
            fail_msg("%s: no end", rows[i]);
        if (number_in(k, "SELECT count(*) FROM message WHERE seq > 1") != 0)
            fail_msg("%s: something is left", rows[i]);
        store_close(&k->store); /* it does not add up */
        kit_free(k);
    }
}

static void a_damaged_event_holds_up_no_other(void **state) {
    (void)state;
    expect_log(passed_over);
    static const char *const rows[] = {
        "UPDATE event SET type = 99 WHERE seq <= 2",
        "UPDATE event SET wall = -1 WHERE seq <= 2",
        "UPDATE event SET wall = 1000000000000000000 WHERE seq <= 2",
        "UPDATE event SET next_attempt = -1 WHERE seq <= 2",
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct kit *k = kit_new(STORE_SQLITE);
        expect_the_others(k, rows[i]);
        store_close(&k->store); /* it does not add up */
        kit_free(k);
    }
}

enum { LISTED_EVENTS, LISTED_ATTEMPTS, LISTED_DELIVERIES, LISTED_ENDPOINTS, LISTED_KEYS, LISTS };

static void count_lists(struct kit *k, struct id message, struct id webhook, size_t count[LISTS]) {
    struct store_events e = {.project = 1, .limit = 100};
    struct store_attempts a = {.message_id = message, .project = 1, .limit = 10};
    struct store_notifications n = {.webhook_id = webhook, .project = 1, .limit = 10};
    struct store_webhooks w = {.project = 1};
    struct store_keys keys = {.project = 1};
    RUN_OK(k, STORE_EVENTS, &e);
    RUN_OK(k, STORE_ATTEMPTS, &a);
    RUN_OK(k, STORE_NOTIFICATIONS, &n);
    RUN_OK(k, STORE_WEBHOOKS, &w);
    RUN_OK(k, STORE_KEYS, &keys);
    count[LISTED_EVENTS] = e.count;
    count[LISTED_ATTEMPTS] = a.count;
    count[LISTED_DELIVERIES] = n.count;
    count[LISTED_ENDPOINTS] = w.count;
    count[LISTED_KEYS] = keys.count;
}

/* Nobody could go on behind it. */
static void a_page_ends_at_no_damaged_id(void **state) {
    expect_log(passed_over);
    struct kit *k = *state;
    static const char *const prefixes[] = {"pc_a", "pc_b", "pc_c"};
    for (int i = 0; i < 3; i++) {
        struct store_key_put key = {
            .key = {.id = id_new(1000 + i), .project = 1, .prefix = str_of(prefixes[i])}};
        struct store_domain_put d = {
            .domain = {.id = id_new(1000 + i), .project = 1, .name = str_of(prefixes[i])}};
        RUN_OK(k, STORE_KEY_PUT, &key);
        RUN_OK(k, STORE_DOMAIN_PUT, &d);
    }
    damage(k, "UPDATE api_key SET id = x'00' WHERE prefix = 'pc_b';"
              "UPDATE domain SET id = x'00' WHERE name = 'pc_b'");
    struct store_keys keys = {.project = 1, .limit = 1};
    struct store_domains domains = {.project = 1, .limit = 1};
    for (int i = 0; i < 2; i++) {
        RUN_OK(k, STORE_KEYS, &keys);
        RUN_OK(k, STORE_DOMAINS, &domains);
        assert_int_equal(keys.count, 1);
        assert_int_equal(domains.count, 1);
        assert_int_equal(keys.more, i == 0);
        assert_int_equal(domains.more, i == 0);
        keys.after = keys.key[0].id;
        domains.after = domains.domain[0].id;
    }
    domains = (struct store_domains){.project = 1};
    RUN_OK(k, STORE_DOMAINS, &domains);
    assert_int_equal(domains.count, 3);
}

/* Nobody can print it, and nobody is asked to. */
static void what_has_an_impossible_time_is_left_out_of_lists(void **state) {
    (void)state;
    expect_log(passed_over);
    static const struct {
        const char *damage;
        int list;
    } rows[] = {
        {"UPDATE event SET wall = -1 WHERE seq = 1", LISTED_EVENTS},
        {"UPDATE event SET next_attempt = 253402300800000 WHERE seq = 1", LISTED_EVENTS},
        {"UPDATE attempt SET started = -1", LISTED_ATTEMPTS},
        {"UPDATE notification SET due = -1 WHERE seq = 1", LISTED_DELIVERIES},
        {"UPDATE notification SET created = -1 WHERE seq = 1", LISTED_DELIVERIES},
        {"UPDATE notification SET updated = 1000000000000000000 WHERE seq = 1", LISTED_DELIVERIES},
        {"UPDATE webhook SET created = -1", LISTED_ENDPOINTS},
        {"UPDATE webhook SET previous_until = 1000000000000000000", LISTED_ENDPOINTS},
        {"UPDATE api_key SET expires = -1", LISTED_KEYS},
        {"UPDATE api_key SET revoked = 1000000000000000000", LISTED_KEYS},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct kit *k = kit_new(STORE_SQLITE);
        struct id message = furnish(k)->id;
        struct store_webhooks w = {.project = 1};
        RUN_OK(k, STORE_WEBHOOKS, &w);
        size_t before[LISTS], after[LISTS];
        count_lists(k, message, w.webhook[0].id, before);
        damage(k, rows[i].damage);
        count_lists(k, message, w.webhook[0].id, after);
        for (int list = 0; list < LISTS; list++)
            if (before[list] - after[list] != (list == rows[i].list))
                fail_msg("%s: list %d has %zu of %zu", rows[i].damage, list, after[list],
                         before[list]);
        store_close(&k->store); /* it does not add up */
        kit_free(k);
    }
}

/* It stays in the list, or its mail would go unsigned: it counts as not looked at. */
static void a_domain_with_an_impossible_time_is_verified_anew(void **state) {
    expect_log(passed_over);
    struct kit *k = *state;
    furnish(k);
    damage(k, "UPDATE domain SET verified = -1; UPDATE domain_key SET published = -1");
    struct store_domains q = {.project = 1, .with_secrets = true};
    RUN_OK(k, STORE_DOMAINS, &q);
    assert_int_equal(q.count, 1);
    assert_int_equal(q.domain[0].verified_wall_ms, 0);
    assert_int_equal(q.domain[0].key[0].published_wall_ms, 0);
    assert_true(str_equal(q.domain[0].key[0].pem, STR("p")));
    struct str selector = STR("s");
    struct store_domain_checked checked = {.id = q.domain[0].id,
                                           .project = 1,
                                           .is_verified = true,
                                           .published = &selector,
                                           .published_count = 1,
                                           .now_wall_ms = k->now_wall_ms};
    RUN_OK(k, STORE_DOMAIN_CHECKED, &checked);
    RUN_OK(k, STORE_DOMAINS, &q);
    assert_int_equal(q.domain[0].verified_wall_ms, k->now_wall_ms);
    assert_int_equal(q.domain[0].key[0].published_wall_ms, k->now_wall_ms);
}

/* Attempts of a message and deliveries of an endpoint, in pages smaller than the gap. */
static void damaged_lines_are_left_out_of_the_lists_of_one(void **state) {
    expect_log(passed_over);
    struct kit *k = *state;
    k->options.readers = 1;
    kit_reopen(k);
    struct id webhook = kit_webhook(k, 1, "recipient.deferred");
    struct message_row *m = kit_accept(k, TO("ann@example.net"));
    for (int i = 0; i < 5; i++) {
        struct settle_result r = kit_result(k, m->recipient[0].key, RECIPIENT_QUEUED);
        struct attempt_row a = {.started_wall_ms = i + 1};
        struct store_settle s = {
            .result = &r, .count = 1, .attempt = &a, .now_wall_ms = k->now_wall_ms};
        assert_true(kit_claim(k, m->recipient[0].key));
        RUN_OK(k, STORE_SETTLE, &s);
    }
    damage(k, "UPDATE attempt SET recipients = x'02' WHERE started BETWEEN 2 AND 4;"
              "UPDATE notification SET state = 9 WHERE seq BETWEEN 2 AND 4");
    struct store_attempts a = {.message_id = m->id, .project = 1, .limit = 1};
    RUN_OK(k, STORE_ATTEMPTS, &a);
    assert_int_equal(a.count, 1);
    assert_true(a.more);
    a.after_seq = a.attempt[0].seq;
    RUN_OK(k, STORE_ATTEMPTS, &a);
    assert_int_equal(a.count, 1);
    assert_int_equal(a.attempt[0].started_wall_ms, 5);
    assert_false(a.more);
    struct store_notifications n = {.webhook_id = webhook, .project = 1, .limit = 1};
    RUN_OK(k, STORE_NOTIFICATIONS, &n);
    assert_int_equal(n.count, 1);
    assert_int_equal(n.notification[0].seq, 5);
    assert_true(n.more);
    n.before_seq = 5;
    RUN_OK(k, STORE_NOTIFICATIONS, &n);
    assert_int_equal(n.count, 1);
    assert_int_equal(n.notification[0].seq, 1);
    assert_false(n.more);
    assert_int_equal(logged(passed_over), 6);
    store_close(&k->store); /* it does not add up */
}

/* A notification about an event that cannot be does not hide those that come behind it. */
static void what_waits_beside_a_damaged_notification_keeps_its_event(void **state) {
    (void)state;
    static const struct {
        unsigned sound; /* a bit for each message whose notification is */
        const char *sql;
    } rows[] = {
        {6, "UPDATE notification SET event = 1 << 60 WHERE seq = 1"},
        {6, "UPDATE notification SET event = (SELECT max(seq) FROM event) WHERE seq = 1"},
        {5, "UPDATE notification SET event = 1 << 60 WHERE seq = 2"},
        {5, "UPDATE notification SET event = (SELECT max(seq) FROM event) WHERE seq = 2"},
        {5, "UPDATE notification SET event = 2 WHERE seq = 2"},
        {3, "UPDATE notification SET event = 1 << 60 WHERE seq = 3"},
        {3, "UPDATE notification SET event = 2 WHERE seq = 3"},
        {4, "UPDATE notification SET event = (SELECT max(seq) FROM event) WHERE seq <= 2"},
        {4, "UPDATE notification SET event = 1 << 60 WHERE seq <= 2"},
        {1, "UPDATE notification SET event = 1 << 60 WHERE seq >= 2"},
    };
    static const size_t most[] = {100, 1}; /* in one step, and with an end beside each of them */
    for (size_t i = 0; i < 2 * sizeof(rows) / sizeof(rows[0]); i++) {
        size_t row = i / 2;
        struct kit *k = kit_new(STORE_SQLITE);
        kit_webhook(k, 1, "message.accepted");
        struct message_row *m[3];
        for (size_t n = 0; n < 3; n++) {
            m[n] = kit_accept(k, TO("ann@example.net"));
            kit_attempt(k, m[n]->recipient[0].key, RECIPIENT_DELIVERED);
        }
        damage(k, rows[row].sql);
        k->now_wall_ms += 1000;
        kit_retain_all(
            k, (struct store_retain){.events_before_wall_ms = k->now_wall_ms, .most = most[i % 2]});
        /* (the last event of all is kept, too, where the damage names it) */
        for (size_t n = 0; n < 3; n++)
            if ((rows[row].sound >> n & 1) != 0 &&
                !str_starts_with(str_of(kit_timeline(k, m[n]->id)), STR("message.accepted")))
                fail_msg("%s, %zu a step: of message %zu is left \"%s\"", rows[row].sql,
                         most[i % 2], n + 1, kit_timeline(k, m[n]->id));
        store_close(&k->store); /* it does not add up */
        kit_free(k);
    }
}

/* So many that they are not all looked at together. */
static void what_waits_behind_damaged_notifications_keeps_its_event(void **state) {
    (void)state;
    enum { ALL = 100 };
    static const struct {
        const char *sql;
        size_t from, to; /* those whose notifications are damaged */
    } rows[] = {
        {"UPDATE notification SET event = 1 << 60 WHERE seq <= 10", 0, 10},
        {"UPDATE notification SET event = 150 WHERE seq <= 10", 0, 10},
        {"UPDATE notification SET event = 1 << 60 WHERE seq > 45 AND seq <= 55", 45, 55},
        {"UPDATE notification SET event = 1 WHERE seq > 45 AND seq <= 55", 45, 55},
        {"UPDATE notification SET event = 1 << 60 WHERE seq > 90", 90, 100},
    };
    static const size_t most[] = {1000, 1, 7};
    for (size_t i = 0; i < 3 * sizeof(rows) / sizeof(rows[0]); i++) {
        struct kit *k = kit_new(STORE_SQLITE);
        kit_webhook(k, 1, "message.accepted");
        struct message_row *m[ALL];
        for (size_t n = 0; n < ALL; n++) {
            m[n] = kit_accept(k, TO("ann@example.net"));
            kit_attempt(k, m[n]->recipient[0].key, RECIPIENT_DELIVERED);
        }
        damage(k, rows[i / 3].sql);
        k->now_wall_ms += 1000;
        kit_retain_all(
            k, (struct store_retain){.events_before_wall_ms = k->now_wall_ms, .most = most[i % 3]});
        for (size_t n = 0; n < ALL; n++)
            if ((n < rows[i / 3].from || n >= rows[i / 3].to) &&
                !str_starts_with(str_of(kit_timeline(k, m[n]->id)), STR("message.accepted")))
                fail_msg("%s, %zu a step: of message %zu is left \"%s\"", rows[i / 3].sql,
                         most[i % 3], n + 1, kit_timeline(k, m[n]->id));
        /* and no others, but one that the damage names */
        assert_in_range(kit_events(k, 1, 0)->count, ALL - 10, ALL - 10 + 1);
        store_close(&k->store); /* it does not add up */
        kit_free(k);
    }
}

/* The event that said it is gone; the expiry is none the less an event. */
static void it_expires_also_when_nobody_knows_any_more_what_was_said(void **state) {
    struct kit *k = *state;
    struct message_row *m = kit_accept(k, TO("ann@example.net"));
    kit_attempt(k, m->recipient[0].key, RECIPIENT_QUEUED);
    damage(k, "DELETE FROM event");
    struct store_expire e = {.now_wall_ms = m->expires_wall_ms, .most = 9};
    RUN_OK(k, STORE_EXPIRE, &e);
    assert_int_equal(e.expired, 1);
    assert_string_equal(kit_timeline(k, m->id), "recipient.expired message.completed");
}

/* More of them than one step looks at. */
static void very_many_damaged_notifications_hold_up_no_event(void **state) {
    struct kit *k = *state;
    kit_webhook(k, 1, "message.accepted");
    struct message_row *m = kit_accept(k, TO("ann@example.net"));
    kit_attempt(k, m->recipient[0].key, RECIPIENT_DELIVERED);
    damage(k, "UPDATE notification SET event = 1 << 60");
    damage(k, "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2500)"
              " INSERT INTO notification SELECT seq + i, webhook, event, state, attempts, due,"
              " created, updated, status, took, error, response FROM notification, n");
    k->now_wall_ms += 1000;
    kit_retain_all(k, (struct store_retain){.events_before_wall_ms = k->now_wall_ms, .most = 100});
    assert_int_equal(kit_events(k, 1, 0)->count, 0);
    store_close(&k->store); /* it does not add up */
}

static void a_damaged_capture_is_refused(void **state) {
    struct kit *k = *state;
    struct store_capture_put put = {.capture = {.id = id_new(1), .content = STR("c")}};
    RUN_OK(k, STORE_CAPTURE_PUT, &put);
    damage(k, "UPDATE capture SET kind = 9");
    struct store_capture q = {.id = put.capture.id};
    assert_int_equal(RUN(k, STORE_CAPTURE, &q), ERR_CONFLICT);
}

/* As if it were not there: nobody's change or test fails with it. */
static void a_damaged_endpoint_is_not_there_for_who_changes_it(void **state) {
    expect_log(passed_over);
    struct kit *k = *state;
    struct id bad = kit_webhook(k, 1, "*"), good = kit_webhook(k, 1, "*");
    struct store_webhooks list = {.project = 1};
    RUN_OK(k, STORE_WEBHOOKS, &list);
    damage(k, "UPDATE webhook SET secret = 'sealed:1:00000000:AAAA' WHERE n = 1");
    struct store_webhook_put put = {
        .webhook = list.webhook[0], .replace = true, .seen = &list.webhook[0]};
    assert_int_equal(RUN(k, STORE_WEBHOOK_PUT, &put), ERR_CONFLICT);
    assert_true(store_health(k->store).is_writable);
    damage(k, "UPDATE webhook SET secret = NULL, state = 7 WHERE n = 1");
    kit_reopen(k);
    struct store_webhook_test test = {.id = bad, .project = 1, .now_wall_ms = k->now_wall_ms};
    assert_int_equal(RUN(k, STORE_WEBHOOK_TEST, &test), ERR_NOT_FOUND);
    assert_true(store_health(k->store).is_writable);
    test.id = good;
    RUN_OK(k, STORE_WEBHOOK_TEST, &test);
    struct store_notify_claim *claim = kit_notify_claim(k);
    assert_int_equal(claim->count, 1);
    assert_true(id_equal(&claim->notification[0].webhook_id, &good));
}

/* It is told that there is one, so that nothing goes unsigned, and stays as it is. */
static void a_domain_key_that_does_not_open_stops_no_other(void **state) {
    expect_log(passed_over);
    struct kit *k = *state;
    static const char *const names[] = {"a.example", "b.example"};
    for (size_t i = 0; i < 2; i++) {
        struct domain_key_row key = {
            .selector = STR("s1"), .algorithm = STR("a"), .pem = STR("the pem")};
        struct store_domain_put d = {.domain = {.id = id_new(k->now_wall_ms),
                                                .project = 1,
                                                .name = str_of(names[i]),
                                                .key = &key,
                                                .key_count = 1}};
        RUN_OK(k, STORE_DOMAIN_PUT, &d);
    }
    damage(k, "UPDATE domain_key SET pem = 'sealed:1:00000000:AAAA' WHERE domain = 1");
    struct store_domains q = {.project = -1, .with_secrets = true};
    RUN_OK(k, STORE_DOMAINS, &q);
    assert_int_equal(q.count, 2);
    assert_int_equal(q.domain[0].key_count, 1);
    assert_true(str_is_absent(q.domain[0].key[0].pem));
    assert_true(str_equal(q.domain[1].key[0].pem, STR("the pem")));
    struct str s1 = STR("s1");
    struct store_domain_checked checked = {.id = q.domain[0].id,
                                           .project = 1,
                                           .is_verified = true,
                                           .published = &s1,
                                           .published_count = 1,
                                           .now_wall_ms = k->now_wall_ms};
    RUN_OK(k, STORE_DOMAIN_CHECKED, &checked);
    struct store_domain_put again = {.domain = q.domain[0], .replace = true};
    again.domain.bounce_address = STR("b@a.example");
    assert_int_equal(RUN(k, STORE_DOMAIN_PUT, &again), ERR_INVALID);
    assert_true(store_health(k->store).is_writable);
    assert_int_equal(number_in(k, "SELECT count(*) FROM domain_key WHERE domain = 1 AND"
                                  " pem = 'sealed:1:00000000:AAAA' AND published > 0"),
                     1);
}

static void mending_goes_on_behind_what_is_damaged(void **state) {
    expect_log(passed_over);
    struct kit *k = *state;
    const int64_t year_ms = 365 * (int64_t)86400000;
    for (int i = 0; i < 3; i++) {
        struct store_accept *q = kit_accept_for(k, TO("ann@example.net"));
        q->message.recipient[0].due_wall_ms += year_ms;
        RUN_OK(k, STORE_ACCEPT, q);
    }
    damage(k, "UPDATE message SET tls = 99 WHERE seq = 1");
    struct store_mend q = {
        .now_wall_ms = k->now_wall_ms, .due_latest_wall_ms = k->now_wall_ms + 1000, .most = 10};
    RUN_OK(k, STORE_MEND, &q);
    assert_int_equal(q.mended, 2);
    assert_int_equal(kit_due_count(k, k->now_wall_ms), 2);
}

/* What a queue's row sums up is there, and the row is made anew of it. */
static void a_queue_that_counts_too_few_is_counted_anew(void **state) {
    expect_log("they were counted anew");
    expect_log("the store is not writable");
    struct kit *k = *state;
    struct message_row *m = kit_accept(k, TO("a@example.net", "b@example.net", "c@example.net"));
    damage(k, "UPDATE queue SET count = 0, earliest = NULL");
    kit_reopen(k);
    sqlite_fail(&(struct sqlite_fault){
        .rc = SQLITE_FULL, .at = 1, .only = "SELECT count(*) FROM recipient INDEXED"});
    bool is_claimed = false;
    struct store_claim claim = {.key = &m->recipient[0].key,
                                .count = 1,
                                .now_wall_ms = k->now_wall_ms,
                                .is_claimed = &is_claimed};
    assert_int_equal(RUN(k, STORE_CLAIM, &claim), ERR_UNAVAILABLE);
    assert_int_equal(sqlite_fail_end(), 1);
    kit_revive(k);
    assert_true(kit_claim(k, m->recipient[0].key));
    kit_check(k);
    assert_int_equal(kit_due_count(k, k->now_wall_ms), 2);
    assert_int_equal(logged("they were counted anew"), 1);
    assert_int_equal(kit_settle(k, kit_result(k, m->recipient[0].key, RECIPIENT_DELIVERED)), OK);
}

/* However few it says: all that wait are loaded, and its row stays as long as one does. */
static void nobody_is_forgotten_by_a_queue_that_counts_too_few(void **state) {
    (void)state;
    expect_log("they were counted anew");
    expect_log(passed_over);
    static const struct {
        const char *damage;
        size_t due; /* before anything left or was swept */
        bool has_lane;
    } rows[] = {
        {"UPDATE queue SET count = 1", 3, true},
        {"UPDATE queue SET count = 0", 3, true},
        {"UPDATE queue SET count = -5", 3, true},
        {"UPDATE queue SET count = 0, earliest = NULL", 0, true},
        {"UPDATE queue SET count = 0, earliest = NULL, lane = 9", 0, false},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
        for (int swept = 0; swept < 2; swept++) {
            struct kit *k = kit_new(STORE_SQLITE);
            struct message_row *m =
                kit_accept(k, TO("a@example.net", "b@example.net", "c@example.net"));
            damage(k, rows[i].damage);
            kit_reopen(k);
            struct store_due *d = kit_due(k, k->now_wall_ms);
            if (d->count != (rows[i].due > 0) && d->count != rows[i].due)
                fail_msg("%s: %zu due", rows[i].damage, d->count);
            kit_due_release(d);
            size_t left = 3;
            if (swept) {
                struct store_retain r = {.now_wall_ms = k->now_wall_ms, .most = 100};
                RUN_OK(k, STORE_RETAIN, &r);
            } else {
                if (kit_claim(k, m->recipient[0].key))
                    left--;
                assert_int_equal(left, rows[i].has_lane ? 2 : 3);
            }
            assert_int_equal(number_in(k, "SELECT count(*) FROM queue"), 1);
            for (size_t turn = 0; turn < 3 && rows[i].has_lane && left > 0; turn++) {
                d = kit_due(k, k->now_wall_ms);
                if (d->count == 0)
                    fail_msg("%s: %zu are forgotten", rows[i].damage, left);
                for (size_t n = 0; n < d->count; n++, left--)
                    assert_true(kit_claim(k, d->due[n].key));
                kit_due_release(d);
            }
            assert_int_equal(left, rows[i].has_lane ? 0 : 3);
            if (rows[i].has_lane)
                kit_check(k);
            store_close(&k->store);
            kit_free(k);
        }
}

/* Less than nothing is no number to add to. */
static void who_comes_to_a_queue_that_counts_too_few_makes_it_right(void **state) {
    expect_log("they were counted anew");
    struct kit *k = *state;
    kit_accept(k, TO("a@example.net", "b@example.net"));
    damage(k, "UPDATE queue SET count = -1");
    kit_reopen(k);
    k->now_wall_ms += 1000;
    kit_accept(k, TO("c@example.net"));
    kit_check(k);
    assert_int_equal(kit_due_count(k, k->now_wall_ms), 3);
}

/* Sums of such numbers run over, which UBSan tells. */
static void queues_that_count_too_many_are_loaded_as_they_are(void **state) {
    struct kit *k = *state;
    kit_accept(k, TO("a@example.net"));
    struct store_accept *q = kit_accept_for(k, TO("b@example.org", "c@example.com"));
    q->message.lane = LANE_BULK;
    RUN_OK(k, STORE_ACCEPT, q);
    damage(k, "UPDATE queue SET count = 9223372036854775807");
    kit_reopen(k);
    struct store_due *d = kit_due(k, k->now_wall_ms);
    assert_int_equal(d->count, 3);
    kit_due_release(d);
    damage(k, "UPDATE queue SET count = 1"); /* store_check() sums them */
    kit_reopen(k);
}

static void a_retry_is_whole_or_nothing(void **state) {
    expect_log("the store is not writable");
    struct kit *k = *state;
    struct message_row *m = kit_accept(k, TO("ann@example.net"));
    kit_attempt(k, m->recipient[0].key, RECIPIENT_QUEUED);
    int64_t due_wall_ms = kit_message(k, m->id).recipient[0].due_wall_ms;
    assert_true(due_wall_ms > k->now_wall_ms);
    /* when it is prepared, read before the change, read after it; then not at all */
    static const long at[] = {1, 2, 2, 0};
    for (size_t i = 0; i < sizeof(at) / sizeof(at[0]); i++) {
        struct store_retry q = {.id = m->id,
                                .project = 1,
                                .new_id = id_new(k->now_wall_ms),
                                .now_wall_ms = k->now_wall_ms};
        sqlite_fail(&(struct sqlite_fault){
            .rc = SQLITE_FULL, .at = at[i], .only = "SELECT r.key, r.email"});
        enum err e = RUN(k, STORE_RETRY, &q);
        assert_int_equal(sqlite_fail_end(), at[i] != 0);
        assert_int_equal(e, at[i] != 0 ? ERR_UNAVAILABLE : OK);
        if (at[i] == 0)
            break;
        kit_revive(k);
        assert_int_equal(kit_message(k, m->id).recipient[0].due_wall_ms, due_wall_ms);
    }
    assert_int_equal(kit_message(k, m->id).recipient[0].due_wall_ms, k->now_wall_ms);
}

/* No claim would take it: it would wait for ever. */
static void a_damaged_notification_is_not_replayed(void **state) {
    (void)state;
    expect_log(passed_over);
    static const char *const rows[] = {"UPDATE notification SET state = 9",
                                       "UPDATE notification SET state = 3, created = 'now'",
                                       "UPDATE notification SET state = 3, created = -1",
                                       "UPDATE notification SET state = 3, attempts = -1"};
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct kit *k = kit_new(STORE_SQLITE);
        struct id webhook = kit_webhook(k, 1, "message.accepted");
        kit_accept(k, TO("ann@example.net"));
        damage(k, rows[i]);
        int64_t state_before = number_in(k, "SELECT state FROM notification");
        struct store_notify_replay q = {.webhook_id = webhook,
                                        .project = 1,
                                        .seq = 1,
                                        .now_wall_ms = k->now_wall_ms,
                                        .most = 10};
        assert_int_equal(RUN(k, STORE_NOTIFY_REPLAY, &q), ERR_CONFLICT);
        q.seq = 0;
        q.since_wall_ms = INT64_MIN;
        q.until_wall_ms = INT64_MAX;
        RUN_OK(k, STORE_NOTIFY_REPLAY, &q);
        assert_int_equal(q.replayed, 0);
        assert_int_equal(number_in(k, "SELECT state FROM notification"), state_before);
        assert_true(store_health(k->store).is_writable);
        store_close(&k->store); /* it does not add up */
        kit_free(k);
    }
}

static void a_notification_with_an_impossible_number_of_attempts_is_passed_over(void **state) {
    (void)state;
    expect_log(passed_over);
    static const char *const rows[] = {
        "UPDATE notification SET attempts = -1 WHERE seq = 1",
        "UPDATE notification SET attempts = 2147483647 WHERE seq = 1",
        "UPDATE notification SET attempts = 1 << 40 WHERE seq = 1"};
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        for (int is_claimed = 0; is_claimed < 2; is_claimed++) {
            struct kit *k = kit_new(STORE_SQLITE);
            struct id webhook = kit_webhook(k, 1, "message.accepted");
            kit_accept(k, TO("ann@example.net"));
            kit_accept(k, TO("ann@example.net"));
            if (is_claimed)
                assert_int_equal(kit_notify_claim(k)->count, 2);
            damage(k, rows[i]);
            const struct store_notify_claim *c = kit_notify_claim(k);
            assert_int_equal(c->count, 1 - is_claimed);
            if (!is_claimed)
                assert_int_equal(c->notification[0].seq, 2);
            struct store_notifications q = {.webhook_id = webhook, .project = 1, .limit = 9};
            RUN_OK(k, STORE_NOTIFICATIONS, &q);
            assert_int_equal(q.count, 1);
            assert_int_equal(q.notification[0].seq, 2);
            for (int64_t seq = 1; seq <= 2; seq++) { /* the one that was claimed stays as it is */
                struct notify_result r = {
                    .seq = seq, .state = NOTIFICATION_DELIVERED, .counts = true};
                assert_int_equal(kit_notify_settle(k, r), OK);
            }
            assert_int_equal(kit_totals(k).notifications_pending, 1);
            assert_true(store_health(k->store).is_writable);
            kit_free(k);
        }
    }
}

/* The others were delivered, and must not be sent again. */
static void a_damaged_recipient_keeps_no_result_from_the_others(void **state) {
    expect_log(passed_over);
    struct kit *k = *state;
    struct message_row *m = kit_accept(k, TO("a@example.net", "b@example.net", "c@example.net"));
    struct settle_result r[3];
    for (int i = 0; i < 3; i++) {
        assert_true(kit_claim(k, m->recipient[i].key));
        r[i] = kit_result(k, m->recipient[i].key, RECIPIENT_DELIVERED);
    }
    damage(k, "UPDATE recipient SET kind = 9 WHERE key = 1025");
    struct store_settle s = {.result = r, .count = 3, .now_wall_ms = k->now_wall_ms};
    RUN_OK(k, STORE_SETTLE, &s);
    assert_int_equal(number_in(k, "SELECT group_concat(state, '') FROM recipient"), 323);
    assert_string_equal(kit_timeline(k, m->id),
                        "message.accepted recipient.delivered recipient.delivered");
    struct store_settle again = {.result = &r[1], .count = 1, .now_wall_ms = k->now_wall_ms};
    assert_int_equal(RUN(k, STORE_SETTLE, &again), ERR_CONFLICT);
    assert_true(store_health(k->store).is_writable);
    kit_check(k);
}

/* A time that is none is passed over once, and not found again for ever. */
static void a_time_that_is_no_number_holds_up_nothing(void **state) {
    (void)state;
    expect_log(passed_over);
    static const char *const times[] = {"%s + 0.5", "'none'", "-0.5", "1e300", "x'00'"};
    for (size_t i = 0; i < sizeof(times) / sizeof(times[0]); i++) {
        struct kit *k = kit_new(STORE_SQLITE);
        kit_webhook(k, 1, "message.accepted");
        struct message_row *m[3];
        for (int n = 0; n < 3; n++)
            m[n] = kit_accept(k, TO("ann@example.net"));
        static const struct {
            const char *table, *column, *where;
        } columns[] = {{"open_message", "expires", "seq <= 2"},
                       {"recipient", "due", "key < 3 * 1024"},
                       {"notification", "due", "seq <= 2"}};
        for (size_t c = 0; c < sizeof(columns) / sizeof(columns[0]); c++) {
            char time[64];
            snprintf(time, sizeof(time), i == 0 ? "%s + 0.5" : "%s",
                     i == 0 ? columns[c].column : times[i]);
            damage(k, arena_printf(k->arena, "UPDATE %s SET %s = %s WHERE %s", columns[c].table,
                                   columns[c].column, time, columns[c].where)
                          .p);
        }
        k->now_wall_ms += 1000;
        struct store_due q = {.until_wall_ms = k->now_wall_ms, .per_key = 10, .most = 10};
        RUN_OK(k, STORE_DUE, &q);
        assert_int_equal(q.count, 1);
        assert_int_equal(q.due[0].key, m[2]->recipient[0].key);
        kit_due_release(&q);
        struct store_notify_claim *claim = kit_notify_claim(k);
        assert_int_equal(claim->count, 1);
        assert_true(id_equal(&claim->event[0].message_id, &m[2]->id));
        struct store_mend mend = {.now_wall_ms = 1, .due_latest_wall_ms = 1, .most = 100};
        RUN_OK(k, STORE_MEND, &mend);
        assert_int_equal(mend.mended, 1);
        for (int turn = 0; turn < 2; turn++) {
            struct store_expire e = {.now_wall_ms = m[2]->expires_wall_ms + 1000, .most = 100};
            RUN_OK(k, STORE_EXPIRE, &e);
            assert_int_equal(e.expired, turn == 0);
        }
        assert_int_equal(kit_state(k, m[2]->id, 0), RECIPIENT_EXPIRED);
        store_close(&k->store);
        kit_free(k);
    }
}

/* What cannot be compared counts as different. */
static void a_damaged_fingerprint_is_no_match(void **state) {
    struct kit *k = *state;
    RUN_OK(k, STORE_ACCEPT, kit_keyed(k, "key", 1));
    struct store_key_put p = {.key = {.id = id_new(1), .project = 1, .prefix = STR("pc_a")}};
    RUN_OK(k, STORE_KEY_PUT, &p);
    damage(k, "UPDATE idempotency SET fingerprint = x'0101'; UPDATE api_key SET hash = x'00'");
    assert_int_equal(RUN(k, STORE_ACCEPT, kit_keyed(k, "key", 1)), ERR_CONFLICT);
    assert_int_equal(RUN(k, STORE_KEY_PUT, &p), ERR_CONFLICT);
    assert_int_equal(kit_totals(k).accepted, 1);
}

/* Something was sent under it: not again, whatever it was. */
static void a_damaged_key_of_a_message_sends_nothing_again(void **state) {
    (void)state;
    static const char *const damages[] = {
        "UPDATE idempotency SET message = 'x'", "UPDATE idempotency SET message = 0",
        "UPDATE idempotency SET message = -1", "UPDATE idempotency SET message = x'01'",
        "UPDATE idempotency SET message = 2"}; /* another project's */
    for (size_t i = 0; i < sizeof(damages) / sizeof(damages[0]); i++) {
        struct kit *k = kit_new(STORE_SQLITE);
        RUN_OK(k, STORE_ACCEPT, kit_keyed(k, "key", 1));
        struct store_accept *other = kit_accept_for(k, TO("bob@example.net"));
        other->message.project = 2;
        RUN_OK(k, STORE_ACCEPT, other);
        damage(k, damages[i]);
        enum err e = RUN(k, STORE_ACCEPT, kit_keyed(k, "key", 1));
        if (e != ERR_CONFLICT)
            fail_msg("%s: %s", damages[i], err_name(e));
        struct store_retry r = {.id = other->message.id,
                                .project = 1,
                                .new_id = id_new(k->now_wall_ms),
                                .idempotency_key = STR("key"),
                                .now_wall_ms = k->now_wall_ms};
        memset(r.fingerprint, 1, sizeof(r.fingerprint));
        assert_int_equal(RUN(k, STORE_RETRY, &r), ERR_CONFLICT);
        assert_int_equal(kit_totals(k).accepted, 2);
        kit_free(k);
    }
}

static struct store_key_put key_put(const char *prefix, int octet) {
    struct store_key_put q = {
        .key = {.id = id_new(1), .project = 1, .name = STR("a"), .prefix = str_of(prefix)}};
    memset(q.key.hash, octet, sizeof(q.key.hash));
    return q;
}

/* When it was made or used decides nothing: it opens what it did. */
static void a_key_with_a_damaged_time_that_is_only_shown_stays_in_force(void **state) {
    (void)state;
    expect_log(passed_over);
    static const struct {
        const char *damage;
        int64_t created_wall_ms, used_wall_ms;
    } rows[] = {{"UPDATE api_key SET created = 'now'", -1, 7},
                {"UPDATE api_key SET created = -5", -1, 7},
                {"UPDATE api_key SET used = 'never'", 7, -1},
                {"UPDATE api_key SET used = -5", 7, -1}};
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct kit *k = kit_new(STORE_SQLITE);
        struct store_key_put put = key_put("pc_a", 1);
        struct store_keys q = {.project = 1};
        put.key.created_wall_ms = put.key.used_wall_ms = 7;
        RUN_OK(k, STORE_KEY_PUT, &put);
        damage(k, rows[i].damage);
        unsigned told = logged(passed_over);
        RUN_OK(k, STORE_KEYS, &q);
        if (q.count != 1)
            fail_msg("%s: it is left out", rows[i].damage);
        assert_int_equal(q.key[0].created_wall_ms, rows[i].created_wall_ms);
        assert_int_equal(q.key[0].used_wall_ms, rows[i].used_wall_ms);
        assert_memory_equal(q.key[0].hash, put.key.hash, sizeof(put.key.hash));
        assert_int_equal(logged(passed_over) - told, 1);
        store_close(&k->store);
        kit_free(k);
    }
}

/* Nobody knows whether it was: it is not put in force again. */
static void a_key_that_was_revoked_at_no_time_is_not_declared_again(void **state) {
    struct kit *k = *state;
    static const char *const times[] = {"'now'", "-1"};
    struct store_key_put put = key_put("pc_a", 1);
    RUN_OK(k, STORE_KEY_PUT, &put);
    for (size_t i = 0; i < sizeof(times) / sizeof(times[0]); i++) {
        damage(k, arena_printf(k->arena, "UPDATE api_key SET revoked = %s", times[i]).p);
        assert_int_equal(RUN(k, STORE_KEY_PUT, &put), ERR_CONFLICT);
        assert_string_equal(put.call.info.text,
                            "the stored key of this prefix is damaged: use a new key");
    }
}

/* It opens nothing, is in no list, and nobody takes its place, not even the same key. */
static void a_damaged_key_is_left_out_and_its_prefix_stays_taken(void **state) {
    (void)state;
    static const char *const hashes[] = {"x''", "x'00'", "substr(hash, 1, 31)", "hash || x'01'"};
    expect_log(passed_over);
    for (size_t i = 0; i < sizeof(hashes) / sizeof(hashes[0]); i++) {
        struct kit *k = kit_new(STORE_SQLITE);
        struct store_key_put hurt = key_put("pc_a", 1), sound = key_put("pc_b", 2),
                             other = key_put("pc_a", 3), next = key_put("pc_c", 1);
        struct store_keys q = {.project = 1};
        RUN_OK(k, STORE_KEY_PUT, &hurt);
        RUN_OK(k, STORE_KEY_PUT, &sound);
        damage(k, arena_printf(k->arena, "UPDATE api_key SET hash = %s WHERE prefix = 'pc_a'",
                               hashes[i])
                      .p);
        unsigned told = logged(passed_over);
        RUN_OK(k, STORE_KEYS, &q);
        assert_int_equal(q.count, 1);
        assert_true(id_equal(&q.key[0].id, &sound.key.id));
        assert_int_equal(logged(passed_over) - told, 1);
        struct store_key_put *const same_prefix[] = {&hurt, &other};
        for (size_t n = 0; n < 2; n++) {
            assert_int_equal(RUN(k, STORE_KEY_PUT, same_prefix[n]), ERR_CONFLICT);
            assert_string_equal(same_prefix[n]->call.info.field, "prefix");
            assert_string_equal(same_prefix[n]->call.info.text,
                                "the stored key of this prefix is damaged: use a new key");
        }
        RUN_OK(k, STORE_KEY_PUT, &sound);
        RUN_OK(k, STORE_KEY_PUT, &next);
        RUN_OK(k, STORE_KEYS, &q);
        assert_int_equal(q.count, 2);
        assert_true(store_health(k->store).is_writable);
        store_close(&k->store);
        kit_free(k);
    }
}

/* After a million attempts the next is made, but not recorded. */
static void attempts_end_at_a_million(void **state) {
    struct kit *k = *state;
    struct message_row *m = kit_accept(k, TO("ann@example.net"));
    damage(k, "INSERT INTO attempt SELECT (seq << 20) + 1048574, 1, 1, NULL, NULL, NULL, NULL, 0,"
              " NULL, x'0100' FROM message");
    for (int i = 0; i < 3; i++) {
        struct settle_result r = kit_result(k, m->recipient[0].key, RECIPIENT_QUEUED);
        struct attempt_row a = {.started_wall_ms = 1};
        struct store_settle s = {
            .result = &r, .count = 1, .attempt = &a, .now_wall_ms = k->now_wall_ms};
        assert_true(kit_claim(k, m->recipient[0].key));
        RUN_OK(k, STORE_SETTLE, &s);
    }
    struct store_attempts q = {.message_id = m->id, .project = 1, .limit = 10};
    RUN_OK(k, STORE_ATTEMPTS, &q);
    assert_int_equal(q.count, 2);
    assert_int_equal(kit_message(k, m->id).recipient[0].attempts, 3);
}

static void a_content_that_no_store_takes_is_refused(void **state) {
    struct kit *k = *state;
    struct store_accept *q = kit_accept_for(k, TO("ann@example.net"));
    message_unref(&q->content);
    size_t most = (size_t)1024 * LIMIT_BODY_CHUNK;
    char *bytes = calloc(1, most + 2); /* never touched */
    assert_non_null(bytes);
    q->content = message_new(&q->message.id, bytes, most + 1);
    assert_int_equal(RUN(k, STORE_ACCEPT, q), ERR_LIMIT);
    assert_string_equal(q->call.info.field, "content");
    damage(k, "CREATE TEMP TABLE t (n CHECK (n = 0)); INSERT INTO t SELECT count(*) FROM body");
}

/* More queues than are looked at in one call. */
static void very_many_queues_are_all_served(void **state) {
    enum { MESSAGES = 21, EACH = 1000 };
    struct kit *k = *state;
    const char *to[EACH + 1] = {NULL};
    for (int m = 0; m < MESSAGES; m++) {
        for (int i = 0; i < EACH; i++)
            to[i] = arena_printf(k->arena, "a@d%d-%d.example", m, i).p;
        kit_accept(k, to);
    }
    struct store_due *d = kit_due(k, k->now_wall_ms);
    assert_int_equal(d->count, 20000);
    assert_true(d->more);
    kit_due_release(d);
    /* as many queues as are looked at, with one recipient each: the rest is not forgotten */
    struct store_due q = {.until_wall_ms = k->now_wall_ms, .per_key = 1000, .most = 100000};
    RUN_OK(k, STORE_DUE, &q);
    assert_int_equal(q.count, 20000);
    assert_true(q.more);
    kit_due_release(&q);
    RUN_OK(k, STORE_DUE, &q);
    assert_int_equal(q.count, (MESSAGES * EACH) - 20000);
    kit_due_release(&q);
    to[EACH - 1] = NULL;
    struct message_row *m = kit_accept(k, TO("a@d0-0.example"));
    assert_true(kit_claim(k, m->recipient[0].key));
}

/* However many queues rest, they hide none that does not. */
static void queues_that_are_skipped_are_not_counted_as_looked_at(void **state) {
    struct kit *k = *state;
    kit_accept(k, TO("ann@example.net"));
    damage(k, "WITH n(i) AS (SELECT 1000 UNION ALL SELECT i + 1 FROM n WHERE i < 22000)"
              " INSERT INTO queue SELECT i, 'rests.example', 1, i, 1, 1 FROM n");
    struct store_due q = {.until_wall_ms = k->now_wall_ms,
                          .skip_key = &(struct str){"rests.example", 13},
                          .skip_count = 1,
                          .per_key = 10,
                          .most = 10};
    RUN_OK(k, STORE_DUE, &q);
    assert_int_equal(q.count, 1);
    assert_false(q.more);
    kit_due_release(&q);
    store_close(&k->store); /* what was put in waits for nobody: it does not add up */
}

static void a_damaged_store_is_refused_or_opened_and_never_in_between(void **state) {
    (void)state;
    expect_log("attempts were under way at the last stop; they are repeated");
    static const struct {
        const char *damage;
        enum err want;
    } rows[] = {
        {"DELETE FROM counter", ERR_UNAVAILABLE},
        {"DROP TABLE counter", ERR_INTERNAL},
        {"PRAGMA user_version = -1", ERR_INVALID},
        {"PRAGMA user_version = 0", ERR_INTERNAL}, /* its tables are there already */
        {"DELETE FROM queue; DELETE FROM recipient WHERE key % 1024 = 0", OK},
        {"UPDATE counter SET sending = sending + 1", OK}, /* store_check() says so */
        {"DELETE FROM message", OK},
        {"DELETE FROM recipient WHERE key % 1024 = 0", OK},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct kit *k = kit_new(STORE_SQLITE);
        const struct message_row *m = furnish(k);
        assert_true(kit_claim(k, m->recipient[1].key));
        store_close(&k->store);
        damage(k, rows[i].damage);
        struct errinfo info = {0};
        enum err e = store_open(&k->options, &k->store, &info);
        if (e != rows[i].want)
            fail_msg("%s: %s: %s", rows[i].damage, err_name(e), info.text);
        if (e == OK && store_check(k->store, &info) != ERR_INTERNAL)
            fail_msg("%s is not found", rows[i].damage);
        store_close(&k->store);
        kit_free(k);
    }
}

/* One that cannot be read is left as it is; the others are due again. */
static void a_damaged_message_under_way_stops_no_start(void **state) {
    (void)state;
    expect_log(passed_over);
    expect_log("attempts were under way at the last stop; they are repeated");
    static const char *const damages[] = {
        "UPDATE message SET recipients = 9223372036854775807 WHERE seq = 1",
        "UPDATE message SET lane = 9 WHERE seq = 1",
        "UPDATE recipient SET kind = 9 WHERE key = 1024",
    };
    for (size_t i = 0; i < sizeof(damages) / sizeof(damages[0]); i++) {
        struct kit *k = kit_new(STORE_SQLITE);
        struct message_row *bad = kit_accept(k, TO("ann@example.net"));
        struct message_row *good = kit_accept(k, TO("bob@example.net"));
        assert_true(kit_claim(k, bad->recipient[0].key));
        assert_true(kit_claim(k, good->recipient[0].key));
        store_close(&k->store);
        damage(k, damages[i]);
        kit_open_with(k, k->options);
        assert_int_equal(kit_state(k, good->id, 0), RECIPIENT_QUEUED);
        assert_true(kit_claim(k, good->recipient[0].key));
        assert_int_equal(number_in(k, "SELECT state FROM recipient WHERE key = 1024"),
                         RECIPIENT_SENDING);
        kit_free(k);
    }
}

/* The total goes by the rows then. */
static void what_was_under_way_is_found_by_a_start_that_was_told_of_none(void **state) {
    expect_log("attempts were under way at the last stop; they are repeated");
    expect_log("the totals are damaged");
    struct kit *k = *state;
    struct message_row *m = kit_accept(k, TO("ann@example.net", "bob@example.net"));
    assert_true(kit_claim(k, m->recipient[0].key));
    store_close(&k->store);
    damage(k, "UPDATE counter SET sending = 0");
    kit_open_with(k, k->options);
    struct message_row now = kit_message(k, m->id);
    assert_int_equal(now.recipient[0].state, RECIPIENT_QUEUED);
    assert_true(now.recipient[0].possible_duplicate);
    kit_check(k);
    /* it is the next start that finds it, when it cannot be counted; and nobody need listen */
    silence_log();
    assert_true(kit_claim(k, m->recipient[0].key));
    store_close(&k->store);
    damage(k, "UPDATE counter SET sending = 0");
    sqlite_fail(&(struct sqlite_fault){
        .rc = SQLITE_IOERR, .at = 1, .only = "SELECT count(*) FROM open_message"});
    struct errinfo info = {0};
    assert_int_equal(store_open(&k->options, &k->store, &info), ERR_UNAVAILABLE);
    assert_int_equal(sqlite_fail_end(), 1);
    kit_open_with(k, k->options);
    assert_int_equal(kit_message(k, m->id).recipient[0].state, RECIPIENT_QUEUED);
    kit_check(k);
}

/* ---- the self-check ---- */

static void what_does_not_add_up_is_found(void **state) {
    (void)state;
    static const struct {
        const char *damage, *field;
    } rows[] = {
        {"UPDATE counter SET accepted = accepted + 1", "totals"},
        {"UPDATE counter SET queued = queued + 1, accepted = accepted + 1", "totals"},
        {"UPDATE counter SET queued = queued - 1, accepted = accepted - 1", "totals"},
        {"UPDATE counter SET queued = queued - 1, bounced = bounced + 1", "totals"},
        {"UPDATE counter SET notifications_pending = notifications_pending + 1", "totals"},
        {"DELETE FROM counter", "totals"},
        {"UPDATE recipient SET state = 9", "recipient"},
        {"UPDATE queue SET count = count + 1", "queues"},
        {"UPDATE queue SET earliest = earliest - 1", "queues"},
        {"UPDATE queue SET earliest = NULL", "queues"},
        {"DELETE FROM open_message", "open"},
        {"UPDATE open_message SET seq = seq + 1", "open"},
        {"DELETE FROM message", "message"},
        {"DELETE FROM body", "body"},
        {"UPDATE counter SET next_event = 1", "events"},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct kit *k = kit_new(STORE_SQLITE);
        furnish(k);
        kit_check(k);
        damage(k, rows[i].damage);
        struct errinfo info = {0};
        assert_int_equal(store_check(k->store, &info), ERR_INTERNAL);
        if (strcmp(info.field, rows[i].field) != 0)
            fail_msg("%s: %s: %s", rows[i].damage, info.field, info.text);
        store_close(&k->store);
        kit_free(k);
    }
}

static void a_check_that_fails_says_nothing_of_the_rows(void **state) {
    struct kit *k = *state;
    furnish(k);
    for (long at = 1;; at++) {
        struct errinfo info = {0};
        sqlite_fail(&(struct sqlite_fault){.rc = SQLITE_IOERR, .at = at, .only_work = true});
        enum err e = store_check(k->store, &info);
        if (sqlite_fail_end() == 0)
            break;
        if (e != ERR_UNAVAILABLE)
            fail_msg("call %ld: %s: %s", at, err_name(e), info.text);
    }
}

int main(void) {
#define TEST(f) cmocka_unit_test_setup_teardown(f, kit_sqlite_setup, kit_teardown)
    const struct CMUnitTest tests[] = {
        TEST(a_new_store_is_made_after_any_failure),
        TEST(an_older_store_is_brought_up_after_any_failure),
        TEST(what_was_under_way_is_recovered_after_any_failure),
        TEST(secrets_are_sealed_after_any_failure),
        TEST(a_secret_that_does_not_open_is_a_refusal),
        TEST(it_syncs_as_the_options_say),
        TEST(each_handle_has_the_cache_that_it_was_given),
        TEST(each_kind_of_failure_is_told_from_a_defect),
        TEST(what_looks_like_a_defect_is_tried_once_more),
        TEST(savepoints_that_fail_lose_the_batch_and_nothing_else),
        TEST(a_transaction_that_cannot_be_undone_ends_with_its_handle),
        TEST(nothing_is_lost_while_nothing_works),
        TEST(a_page_ends_at_no_damaged_id),
        TEST(a_probe_that_cannot_begin_finds_no_room),
        TEST(what_fails_fails_as_well_in_silence),
        TEST(another_file_is_not_opened_again),
        TEST(what_comes_and_goes_in_one_transaction_leaves_its_queue_as_it_was),
        TEST(queues_beyond_what_is_remembered_are_forgotten),
        TEST(a_search_rests_between_its_statements),
        TEST(a_search_rests_between_candidates_that_take_long),
        TEST(a_search_for_a_state_rests_between_its_windows),
        TEST(loading_rests_between_queues),
        cmocka_unit_test(a_damaged_message_holds_up_no_other),
        TEST(what_cannot_go_takes_up_no_places),
        TEST(what_did_not_expire_is_looked_at_again),
        TEST(what_never_expires_is_not_all_looked_at_in_one_step),
        TEST(a_listing_reads_each_message_once),
        TEST(loading_holds_no_metadata),
        TEST(mending_a_recipient_reads_none_of_the_others),
        TEST(a_step_of_mending_ends_at_its_rows),
        TEST(a_read_that_failed_does_not_rest),
        TEST(damaged_lines_are_left_out_of_the_lists_of_one),
        cmocka_unit_test(what_waits_beside_a_damaged_notification_keeps_its_event),
        cmocka_unit_test(what_waits_behind_damaged_notifications_keeps_its_event),
        TEST(it_expires_also_when_nobody_knows_any_more_what_was_said),
        TEST(very_many_damaged_notifications_hold_up_no_event),
        TEST(a_damaged_capture_is_refused),
        TEST(a_damaged_endpoint_is_not_there_for_who_changes_it),
        TEST(a_domain_key_that_does_not_open_stops_no_other),
        TEST(a_step_that_ends_within_a_damaged_message_goes_on_there),
        TEST(a_damaged_message_gives_none_of_its_recipients_back),
        TEST(very_many_damaged_rows_are_not_all_told_of),
        cmocka_unit_test(a_message_with_a_damaged_content_holds_up_no_retention),
        cmocka_unit_test(a_damaged_event_holds_up_no_other),
        cmocka_unit_test(what_has_an_impossible_time_is_left_out_of_lists),
        TEST(a_domain_with_an_impossible_time_is_verified_anew),
        TEST(mending_goes_on_behind_what_is_damaged),
        TEST(a_queue_that_counts_too_few_is_counted_anew),
        cmocka_unit_test(nobody_is_forgotten_by_a_queue_that_counts_too_few),
        TEST(who_comes_to_a_queue_that_counts_too_few_makes_it_right),
        TEST(queues_that_count_too_many_are_loaded_as_they_are),
        TEST(a_retry_is_whole_or_nothing),
        cmocka_unit_test(a_damaged_notification_is_not_replayed),
        cmocka_unit_test(a_notification_with_an_impossible_number_of_attempts_is_passed_over),
        TEST(a_damaged_recipient_keeps_no_result_from_the_others),
        cmocka_unit_test(a_time_that_is_no_number_holds_up_nothing),
        cmocka_unit_test(a_damaged_message_under_way_stops_no_start),
        TEST(a_checkpoint_that_fails_is_told_and_made_later),
        TEST(damaged_rows_are_refused_when_they_are_read),
        TEST(damaged_rows_are_refused_when_they_are_changed),
        TEST(a_damaged_store_is_refused_or_opened_and_never_in_between),
        TEST(a_damaged_fingerprint_is_no_match),
        cmocka_unit_test(a_damaged_key_of_a_message_sends_nothing_again),
        TEST(what_was_under_way_is_found_by_a_start_that_was_told_of_none),
        TEST(a_damaged_key_is_left_out_and_its_prefix_stays_taken),
        cmocka_unit_test(a_key_with_a_damaged_time_that_is_only_shown_stays_in_force),
        TEST(a_key_that_was_revoked_at_no_time_is_not_declared_again),
        TEST(attempts_end_at_a_million),
        TEST(a_content_that_no_store_takes_is_refused),
        TEST(very_many_queues_are_all_served),
        TEST(queues_that_are_skipped_are_not_counted_as_looked_at),
        TEST(what_does_not_add_up_is_found),
        TEST(a_check_that_fails_says_nothing_of_the_rows),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
