/* store_kit: what the tests of the store need again and again: a store in a folder of its own,
 * calls as one-liners, and the check after each test that everything still adds up. The functions
 * are in the header since each test is one program of one file.
 *
 * Each list of tests is run once more with an SQLite that fails: a call is made again and again,
 * with the first, the second, the third ... call that it makes of SQLite failing, and each time has
 * to be answered "unavailable", until it succeeds. What it then leads to is what the test expects
 * of it anyway: so nothing was half done before. Thread: the test's. */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "server/base/clock.h"
#include "server/base/limits.h"
#include "storage/store.h"
#include "tests/contract/sqlite_faults.h"
#include "tests/unit/log_watch.h"

/* How much a failing test may cost; who is patient costs more: the committer lets them wait. */
enum { KIT_KEPT = 4096, KIT_BUDGET = 60, KIT_PATIENT_COST = 8 };

struct kit {
    enum store_backend backend;
    struct store_options options;
    struct store *store;
    char folder[64];
    struct arena *arena;          /* for what the test puts together */
    struct arena *kept[KIT_KEPT]; /* of calls: freed at the end */
    size_t kept_count;
    int64_t now_wall_ms;
    struct mailbox *box; /* made by kit_box(); freed after the store, when no sender is left */
    int failing_budget;  /* each call fails first, until this is used up */
};

#define KIT static __attribute__((unused))

KIT void kit_open_with(struct kit *k, struct store_options o) {
    struct errinfo info = {0};
    k->options = o;
    k->options.folder = k->folder;
    enum err e = store_open(&k->options, &k->store, &info);
    if (e != OK)
        print_error("store_open: %s\n", info.text);
    assert_int_equal(e, OK);
}

KIT struct kit *kit_new(enum store_backend backend) {
    struct kit *k = mem_zalloc(sizeof(*k));
    k->backend = backend;
    k->arena = arena_new();
    k->now_wall_ms = 1800000000000;
    snprintf(k->folder, sizeof(k->folder), "/tmp/postchute-test-XXXXXX");
    assert_non_null(mkdtemp(k->folder));
    kit_open_with(k, (struct store_options){.backend = backend});
    return k;
}

KIT void kit_check(struct kit *k) {
    struct errinfo info = {0};
    enum err e = store_check(k->store, &info);
    if (e != OK)
        print_error("store_check: %s: %s\n", info.field, info.text);
    assert_int_equal(e, OK);
}

KIT void kit_remove_folder(const char *folder) {
    DIR *d = opendir(folder);
    for (struct dirent *f; d != NULL && (f = readdir(d)) != NULL;)
        if (f->d_name[0] != '.')
            unlinkat(dirfd(d), f->d_name, 0);
    if (d != NULL)
        closedir(d);
    rmdir(folder);
}

KIT void kit_free(struct kit *k) {
    if (k->store != NULL) {
        kit_check(k);
        store_close(&k->store);
    }
    mailbox_free(&k->box);
    for (size_t i = 0; i < k->kept_count; i++)
        arena_free(&k->kept[i]);
    arena_free(&k->arena);
    kit_remove_folder(k->folder);
    free(k);
}

KIT struct mailbox *kit_box(struct kit *k) {
    if (k->box == NULL)
        k->box = mailbox_new();
    return k->box;
}

KIT void kit_reopen(struct kit *k) {
    store_close(&k->store);
    kit_open_with(k, k->options);
}

KIT void kit_keep(struct kit *k, struct store_call *call) {
    if (call->arena == NULL)
        return;
    assert_true(k->kept_count < KIT_KEPT);
    k->kept[k->kept_count++] = call->arena;
    call->arena = NULL;
}

/* Makes the store writable after a full disk, by writing what nobody lists or is told of. */
KIT void kit_revive(struct kit *k) {
    struct store_capture_put q = {.call = {.verb = STORE_CAPTURE_PUT},
                                  .capture = {.id = id_new(k->now_wall_ms),
                                              .kind = (enum capture_kind)(CAPTURE_WEBHOOK + 1)}};
    assert_int_equal(store_sync(k->store, &q.call), OK);
    store_call_release(&q.call);
    assert_true(store_health(k->store).is_writable);
}

/* Fails at each of its steps, then does not: the result of that. `call` begins a struct of `size`
 * bytes. */
KIT enum err kit_fail_and_run(struct kit *k, struct store_call *call, size_t size) {
    void *given = mem_dup(call, size);
    struct message *content =
        call->verb == STORE_ACCEPT ? CONTAINER_OF(call, struct store_accept, call)->content : NULL;
    /* A replay's own content is removed after its answer is certain. */
    bool is_large = content != NULL && message_size(content) > LIMIT_BODY_CHUNK;
    bool is_patient = call->verb == STORE_CLAIM || call->verb == STORE_SETTLE ||
                      call->verb == STORE_RELEASE || call->verb == STORE_NOTIFY_CLAIM ||
                      call->verb == STORE_NOTIFY_SETTLE || call->verb == STORE_KEYS_USED;
    struct sqlite_fault f = {
        .rc = SQLITE_FULL, .at = 1, .only_work = true, .each_prepare_once = true};
    enum err e;
    for (;;) {
        memcpy(call, given, size);
        if (content != NULL)
            message_ref(content); /* the store takes one each time */
        if (k->failing_budget > 0)
            sqlite_fail(&f);
        e = store_sync(k->store, call);
        if (sqlite_fail_end() == 0 || (is_large && e != ERR_UNAVAILABLE))
            break;
        if (e != ERR_UNAVAILABLE)
            fail_msg("verb %d, step %ld failed, the answer is %s", (int)call->verb, f.at,
                     err_name(e));
        assert_null(call->arena);
        if (sqlite_fail_prepares() == 0)
            f.at += 1 + f.at / 20; /* long ones: not each */
        k->failing_budget -= is_patient ? KIT_PATIENT_COST : 1;
        kit_revive(k);
    }
    if (content != NULL)
        message_unref(&content);
    free(given);
    return e;
}

/* Runs a call on the test's thread; what came out lives until the end of the test. */
KIT enum err kit_run(struct kit *k, struct store_call *call, enum store_verb verb, size_t size) {
    call->verb = verb;
    enum err e =
        k->failing_budget > 0 ? kit_fail_and_run(k, call, size) : store_sync(k->store, call);
    kit_keep(k, call);
    return e;
}
#define RUN(k, v, q) kit_run((k), &(q)->call, (v), sizeof(*(q)))
#define RUN_OK(k, v, q) assert_int_equal(RUN((k), (v), (q)), OK)

KIT struct message *kit_content(struct id id, size_t size) {
    char *bytes = mem_zalloc(size + 1);
    for (size_t i = 0; i < size; i++)
        bytes[i] = (char)('a' + (i / 64 + i) % 26);
    return message_new(&id, bytes, size);
}

/* An accept of a message to these addresses (NULL ends the list), each queued and due now. The test
 * may change it before it is run. */
KIT struct store_accept *kit_accept_for(struct kit *k, const char *const *to) {
    size_t n = 0;
    while (to[n] != NULL)
        n++;
    struct store_accept *q = ARENA_NEW(k->arena, struct store_accept);
    struct str *keys = ARENA_ARRAY(k->arena, struct str, n);
    struct recipient_row *r = ARENA_ARRAY(k->arena, struct recipient_row, n);
    for (size_t i = 0; i < n; i++) {
        struct str email = str_of(to[i]);
        r[i] = (struct recipient_row){
            .email = email, .state = RECIPIENT_QUEUED, .due_wall_ms = k->now_wall_ms};
        keys[i] = str_from(email, (size_t)str_find_char(email, '@') + 1);
    }
    q->message = (struct message_row){
        .id = id_new(k->now_wall_ms),
        .project = 1,
        .key_id = id_new(k->now_wall_ms),
        .created_wall_ms = k->now_wall_ms,
        .expires_wall_ms = k->now_wall_ms + 3600000,
        .message_id = STR("<m@example.org>"),
        .mail_from = STR("bounce@example.org"),
        .from_email = STR("Shop@example.org"),
        .from_name = STR("Shop"),
        .from_domain = STR("example.org"),
        .subject = STR("Hello"),
        .external_id = STR("order-1"),
        .tags_json = STR("[\"welcome\",\"a \\\"b\\\"\"]"),
        .metadata_json = STR("{\"k\":\"v\"}"),
        .lane = LANE_TRANSACTIONAL,
        .recipient_count = n,
        .recipient = r,
    };
    q->queue_key = keys;
    q->content = kit_content(q->message.id, 1000);
    q->now_wall_ms = k->now_wall_ms;
    q->idempotency_until_wall_ms = k->now_wall_ms + 86400000;
    return q;
}
#define TO(...) ((const char *const[]){__VA_ARGS__, NULL})

/* Another content for an accept that was not run yet. */
KIT void kit_resize(struct store_accept *q, size_t size) {
    message_unref(&q->content);
    q->content = kit_content(q->message.id, size);
}

struct kit_crowd {
    struct kit *k;
    size_t done, failed;
};

KIT void kit_counted(struct store_call *c) {
    struct kit_crowd *w = c->ctx;
    w->done++;
    w->failed += c->err != OK;
    kit_keep(w->k, c);
}

/* Posted one behind the other, so that they come to share batches; how many failed. */
KIT size_t kit_accept_together(struct kit *k, struct store_accept *const *q, size_t count) {
    struct kit_crowd w = {.k = k};
    for (size_t i = 0; i < count; i++)
        q[i]->call = (struct store_call){
            .verb = STORE_ACCEPT, .reply_to = kit_box(k), .done = kit_counted, .ctx = &w};
    for (size_t i = 0; i < count; i++)
        store_post(k->store, &q[i]->call);
    while (w.done < count)
        mailbox_wait(k->box, -1);
    return w.failed;
}

KIT struct message_row *kit_accept(struct kit *k, const char *const *to) {
    struct store_accept *q = kit_accept_for(k, to);
    RUN_OK(k, STORE_ACCEPT, q);
    assert_true(q->message.seq > 0);
    return &q->message;
}

KIT struct message_row kit_message(struct kit *k, struct id id) {
    struct store_message q = {.id = id, .project = -1};
    RUN_OK(k, STORE_MESSAGE, &q);
    return q.message;
}

KIT enum recipient_state kit_state(struct kit *k, struct id id, size_t index) {
    return kit_message(k, id).recipient[index].state;
}

KIT bool kit_claim(struct kit *k, recipient_key_t key) {
    bool is_claimed = false;
    struct store_claim q = {
        .key = &key, .count = 1, .now_wall_ms = k->now_wall_ms, .is_claimed = &is_claimed};
    RUN_OK(k, STORE_CLAIM, &q);
    return is_claimed;
}

KIT struct settle_result kit_result(struct kit *k, recipient_key_t key, enum recipient_state to) {
    struct settle_result r = {.key = key, .state = to, .counts = true};
    r.last.stage = STAGE_RCPT;
    r.last.mx = STR("mx.example.net");
    r.last.tls = STR("TLSv1.3");
    if (to == RECIPIENT_DELIVERED) {
        r.last.code = 250;
        r.last.stage = STAGE_END;
        r.last.text = STR("2.0.0 ok");
    } else if (to == RECIPIENT_QUEUED) {
        r.last.code = 451;
        r.last.class_ = CLASS_GREYLISTED;
        r.last.text = STR("4.7.1 later");
        memcpy(r.last.enhanced, "4.7.1", 6);
        r.due_wall_ms = k->now_wall_ms + 60000;
    } else {
        r.last.code = 550;
        r.last.class_ = CLASS_INVALID_RECIPIENT;
        r.last.is_hard = r.last.is_about_recipient = true;
        r.last.text = STR("5.1.1 no such user");
        memcpy(r.last.enhanced, "5.1.1", 6);
    }
    return r;
}

KIT enum err kit_settle(struct kit *k, struct settle_result r) {
    struct store_settle q = {.result = &r, .count = 1, .now_wall_ms = k->now_wall_ms};
    return RUN(k, STORE_SETTLE, &q);
}

/* Claims and settles. */
KIT void kit_attempt(struct kit *k, recipient_key_t key, enum recipient_state to) {
    assert_true(kit_claim(k, key));
    assert_int_equal(kit_settle(k, kit_result(k, key, to)), OK);
}

KIT struct store_events *kit_events(struct kit *k, int64_t project, int64_t after_seq) {
    struct store_events *q = ARENA_NEW(k->arena, struct store_events);
    q->project = project;
    q->after_seq = after_seq;
    q->limit = 1000;
    RUN_OK(k, STORE_EVENTS, q);
    return q;
}

/* The types of the events of a message, in order, as one text. */
KIT const char *kit_timeline(struct kit *k, struct id message) {
    struct store_events q = {.project = -1, .message_id = message, .limit = 1000};
    RUN_OK(k, STORE_EVENTS, &q);
    struct buf b = BUF_INIT(65536);
    for (size_t i = 0; i < q.count; i++) {
        if (i > 0)
            buf_putc(&b, ' ');
        buf_putz(&b, event_type_name(q.event[i].type));
    }
    const char *z = arena_dupz(k->arena, buf_str(&b));
    buf_release(&b);
    return z;
}

KIT struct store_due *kit_due(struct kit *k, int64_t until_wall_ms) {
    struct store_due *q = ARENA_NEW(k->arena, struct store_due);
    q->until_wall_ms = until_wall_ms;
    q->per_key = 1000;
    q->most = 20000;
    RUN_OK(k, STORE_DUE, q);
    return q;
}

KIT void kit_due_release(struct store_due *q) {
    for (size_t i = 0; i < q->count; i++)
        due_row_release(&q->due[i]);
    q->count = 0;
}

KIT size_t kit_due_count(struct kit *k, int64_t until_wall_ms) {
    struct store_due *q = kit_due(k, until_wall_ms);
    size_t n = q->count;
    kit_due_release(q);
    return n;
}

KIT struct store_totals kit_totals(struct kit *k) {
    struct store_totals q = {0};
    RUN_OK(k, STORE_TOTALS, &q);
    int64_t sum = 0;
    for (int i = 0; i < RECIPIENT_STATE_COUNT; i++)
        sum += q.by_state[i];
    assert_int_equal(q.accepted, sum);
    return q;
}

KIT struct id kit_webhook(struct kit *k, int64_t project, const char *event) {
    struct str *events = ARENA_NEW(k->arena, struct str);
    *events = str_of(event);
    struct store_webhook_put q = {
        .webhook = {.id = id_new(k->now_wall_ms),
                    .project = project,
                    .url = STR("https://hooks.example.org/a"),
                    .secret = STR("whsec_c2VjcmV0"),
                    .events = events,
                    .event_count = 1,
                    .created_wall_ms = k->now_wall_ms},
    };
    RUN_OK(k, STORE_WEBHOOK_PUT, &q);
    return q.webhook.id;
}

KIT struct store_notify_claim *kit_notify_claim(struct kit *k) {
    struct store_notify_claim *q = ARENA_NEW(k->arena, struct store_notify_claim);
    q->now_wall_ms = k->now_wall_ms;
    q->most = 100;
    q->per_webhook = 100;
    RUN_OK(k, STORE_NOTIFY_CLAIM, q);
    return q;
}

KIT enum err kit_notify_settle(struct kit *k, struct notify_result r) {
    struct store_notify_settle q = {.result = &r, .count = 1, .now_wall_ms = k->now_wall_ms};
    return RUN(k, STORE_NOTIFY_SETTLE, &q);
}

KIT struct store_accept *kit_keyed(struct kit *k, const char *key, uint8_t fingerprint) {
    struct store_accept *q = kit_accept_for(k, TO("ann@example.net"));
    q->idempotency_key = str_of(key);
    memset(q->fingerprint, fingerprint, sizeof(q->fingerprint));
    return q;
}

KIT size_t kit_found(struct kit *k, struct store_messages q) {
    q.project = q.project == 0 ? 1 : q.project;
    q.limit = q.limit == 0 ? 100 : q.limit;
    RUN_OK(k, STORE_MESSAGES, &q);
    for (size_t i = 1; i < q.count; i++)
        assert_true(q.message[i].seq < q.message[i - 1].seq);
    return q.count;
}

KIT struct store_retain kit_retain_step(struct kit *k, struct store_retain q) {
    q.now_wall_ms = k->now_wall_ms;
    RUN_OK(k, STORE_RETAIN, &q);
    return q;
}

/* One step; how much is gone. */
KIT size_t kit_retain(struct kit *k, int64_t content_before, int64_t events_before, size_t most) {
    return kit_retain_step(k, (struct store_retain){.content_before_wall_ms = content_before,
                                                    .events_before_wall_ms = events_before,
                                                    .waiting_before_wall_ms = events_before,
                                                    .captures_most = 2,
                                                    .most = most})
        .removed;
}

/* Until nothing is left to do. */
KIT void kit_retain_all(struct kit *k, struct store_retain q) {
    for (int steps = 0; kit_retain_step(k, q).more; steps++)
        assert_true(steps < 1000);
}

/* ---- every backend: a program's tests, run on each ---- */

KIT int kit_sqlite_setup(void **state) {
    *state = kit_new(STORE_SQLITE);
    return 0;
}

KIT int kit_sealed_setup(void **state) {
    struct kit *k = *state = kit_new(STORE_SQLITE);
    static struct seal *ring;
    if (ring == NULL)
        assert_int_equal(seal_new(STR("000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d"
                                      "1e1f"),
                                  STR_NONE, &ring, NULL),
                         OK);
    k->options.seal = ring;
    kit_reopen(k);
    return 0;
}

/* One reader: which statements it has prepared is then no matter of chance. */
KIT int kit_failing_setup(void **state) {
    expect_log("the store is not writable");
    struct kit *k = *state = kit_new(STORE_SQLITE);
    k->options.readers = 1;
    kit_reopen(k);
    k->failing_budget = KIT_BUDGET;
    return 0;
}

KIT int kit_memory_setup(void **state) {
    *state = kit_new(STORE_MEMORY);
    return 0;
}

KIT int kit_teardown(void **state) {
    kit_free(*state);
    return 0;
}

/* All use the same list: TESTS is a macro of TEST(name), separated by commas. Where secrets are
 * stored, they are sealed with a master key in a third run. */
#define ON_SQLITE(f) cmocka_unit_test_setup_teardown(f, kit_sqlite_setup, kit_teardown)
#define ON_SEALED(f) cmocka_unit_test_setup_teardown(f, kit_sealed_setup, kit_teardown)
#define ON_FAILING(f) cmocka_unit_test_setup_teardown(f, kit_failing_setup, kit_teardown)
#define ON_MEMORY(f) cmocka_unit_test_setup_teardown(f, kit_memory_setup, kit_teardown)
#define MAIN_ON_EVERY_BACKEND(TESTS)                                                               \
    int main(void) {                                                                               \
        const struct CMUnitTest on_sqlite[] = {TESTS(ON_SQLITE)};                                  \
        const struct CMUnitTest on_failing[] = {TESTS(ON_FAILING)};                                \
        const struct CMUnitTest on_memory[] = {TESTS(ON_MEMORY)};                                  \
        int failed = cmocka_run_group_tests_name("sqlite", on_sqlite, NULL, NULL);                 \
        failed += cmocka_run_group_tests_name("sqlite, failing", on_failing, NULL, NULL);          \
        return failed + cmocka_run_group_tests_name("memory", on_memory, NULL, NULL);              \
    }
#define MAIN_WITH_SECRETS(TESTS)                                                                   \
    int main(void) {                                                                               \
        const struct CMUnitTest on_sqlite[] = {TESTS(ON_SQLITE)};                                  \
        const struct CMUnitTest on_sealed[] = {TESTS(ON_SEALED)};                                  \
        const struct CMUnitTest on_failing[] = {TESTS(ON_FAILING)};                                \
        const struct CMUnitTest on_memory[] = {TESTS(ON_MEMORY)};                                  \
        int failed = cmocka_run_group_tests_name("sqlite", on_sqlite, NULL, NULL);                 \
        failed += cmocka_run_group_tests_name("sqlite, failing", on_failing, NULL, NULL);          \
        failed += cmocka_run_group_tests_name("sqlite, sealed", on_sealed, NULL, NULL);            \
        return failed + cmocka_run_group_tests_name("memory", on_memory, NULL, NULL);              \
    }
