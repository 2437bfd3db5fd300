/* The contract of the outbox, on every backend. What becomes old. After each test store_check()
 * recomputes what is kept along with the rows. */
#include "tests/contract/store_kit.h"

/* ---- retention ---- */

static void contents_go_first_and_only_of_what_is_final(void **state) {
    struct kit *k = *state;
    struct message_row *open = kit_accept(k, TO("ann@example.net"));
    struct message_row *m = kit_accept(k, TO("ann@example.net"));
    kit_attempt(k, m->recipient[0].key, RECIPIENT_BOUNCED);
    assert_int_equal(kit_retain(k, k->now_wall_ms, 0, 100), 0); /* not older */
    k->now_wall_ms++;
    assert_int_equal(kit_retain(k, k->now_wall_ms, 0, 100), 1);
    assert_int_equal(kit_retain(k, k->now_wall_ms, 0, 100), 0);
    assert_true(kit_message(k, open->id).has_content);
    assert_false(kit_message(k, m->id).has_content);
    struct store_content c = {.id = m->id, .project = 1};
    assert_int_equal(RUN(k, STORE_CONTENT, &c), ERR_NOT_FOUND);
    struct store_retry r = {
        .id = m->id, .project = 1, .new_id = id_new(k->now_wall_ms), .now_wall_ms = k->now_wall_ms};
    assert_int_equal(RUN(k, STORE_RETRY, &r), ERR_CONFLICT);
    assert_int_equal(kit_totals(k).by_state[RECIPIENT_BOUNCED], 1);
}

static void a_content_that_a_retry_shares_stays_until_both_are_old(void **state) {
    struct kit *k = *state;
    struct message_row *m = kit_accept(k, TO("ann@example.net"));
    kit_attempt(k, m->recipient[0].key, RECIPIENT_BOUNCED);
    k->now_wall_ms += 1000;
    struct store_retry r = {.id = m->id,
                            .project = 1,
                            .new_id = id_new(k->now_wall_ms),
                            .now_wall_ms = k->now_wall_ms,
                            .expires_wall_ms = k->now_wall_ms + 1000};
    RUN_OK(k, STORE_RETRY, &r);
    assert_int_equal(kit_retain(k, k->now_wall_ms, 0, 100), 1);
    assert_false(kit_message(k, m->id).has_content);
    struct store_content c = {.id = r.new_id, .project = 1};
    RUN_OK(k, STORE_CONTENT, &c);
    assert_int_equal(message_size(c.message), 1000);
    message_unref(&c.message);
    kit_attempt(k, r.new_message.recipient[0].key, RECIPIENT_DELIVERED);
    assert_int_equal(kit_retain(k, k->now_wall_ms + 1, 0, 100), 1);
    assert_false(kit_message(k, r.new_id).has_content);
}

static void old_messages_go_with_all_that_is_theirs_and_totals_stay(void **state) {
    struct kit *k = *state;
    kit_webhook(k, 1, "*");
    struct message_row *m[4];
    for (int i = 0; i < 4; i++) {
        m[i] = kit_accept(k, TO("ann@example.net", "bob@example.net"));
        kit_attempt(k, m[i]->recipient[0].key, RECIPIENT_DELIVERED);
        if (i != 2)
            kit_attempt(k, m[i]->recipient[1].key, RECIPIENT_BOUNCED);
    }
    RUN_OK(k, STORE_ACCEPT, kit_keyed(k, "key", 1));
    k->now_wall_ms += 2 * (int64_t)86400000;
    size_t steps = 0;
    while (kit_retain(k, k->now_wall_ms, k->now_wall_ms, 3) > 0)
        assert_true(++steps < 100);
    assert_true(steps > 5); /* small ones */
    struct store_message gone = {.id = m[0]->id, .project = 1};
    assert_int_equal(RUN(k, STORE_MESSAGE, &gone), ERR_NOT_FOUND);
    kit_message(k, m[2]->id); /* has an open recipient */
    assert_int_equal(kit_events(k, 1, 0)->count, 0);
    assert_int_equal(kit_found(k, (struct store_messages){.to = STR("ann@example.net")}), 2);
    struct store_totals t = kit_totals(k);
    assert_int_equal(t.accepted, 9);
    assert_int_equal(t.by_state[RECIPIENT_DELIVERED], 4);
    assert_int_equal(t.by_state[RECIPIENT_BOUNCED], 3);
    assert_int_equal(t.notifications_pending, 0);
    /* a sequence is never used again */
    struct message_row *fresh = kit_accept(k, TO("ann@example.net"));
    assert_true(fresh->seq > m[3]->seq + 1);
    struct store_events *e = kit_events(k, 1, 0);
    assert_int_equal(e->count, 1);
    assert_true(e->event[0].seq > 10);
    /* the key's time is over, too */
    struct store_accept *again = kit_keyed(k, "key", 2);
    RUN_OK(k, STORE_ACCEPT, again);
    assert_false(again->is_replay);
}

static void a_step_counts_what_hangs_on_a_message(void **state) {
    struct kit *k = *state;
    const char *to[101] = {NULL};
    for (size_t i = 0; i < 100; i++)
        to[i] = arena_printf(k->arena, "a%zu@example.net", i).p;
    for (int i = 0; i < 3; i++) {
        struct message_row *m = kit_accept(k, to);
        for (size_t r = 0; r < 100; r++)
            kit_attempt(k, m->recipient[r].key, RECIPIENT_DELIVERED);
    }
    k->now_wall_ms += 1000;
    struct store_retain q = {.events_before_wall_ms = k->now_wall_ms, .most = 150};
    size_t steps = 0;
    while (kit_retain_step(k, q).more)
        steps++;
    assert_true(steps >= 3); /* 306 events, 300 recipients */
    assert_int_equal(kit_found(k, (struct store_messages){.project = 1}), 0);
    /* a large content is as much work as many rows */
    for (int i = 0; i < 3; i++) {
        struct store_accept *a = kit_accept_for(k, TO("ann@example.net"));
        kit_resize(a, 5000000);
        RUN_OK(k, STORE_ACCEPT, a);
        kit_attempt(k, a->message.recipient[0].key, RECIPIENT_DELIVERED);
    }
    q = (struct store_retain){.content_before_wall_ms = k->now_wall_ms + 1, .most = 100};
    assert_int_equal(kit_retain_step(k, q).removed, 2);
    assert_int_equal(kit_retain_step(k, q).removed, 1);
}

/* It passes over what is still needed in one sweep, however much that is. */
static void what_is_still_needed_holds_up_nothing_behind_it(void **state) {
    struct kit *k = *state;
    enum { OPEN = 1200 };
    struct arena *a = k->arena;
    for (int i = 0; i < OPEN; i++) {
        k->arena = arena_new();
        kit_accept(k, TO("ann@example.net"));
        arena_free(&k->arena);
    }
    k->arena = a;
    struct message_row *done = kit_accept(k, TO("ann@example.net"));
    kit_attempt(k, done->recipient[0].key, RECIPIENT_DELIVERED);
    k->now_wall_ms += 1000;
    kit_retain_all(k, (struct store_retain){.content_before_wall_ms = k->now_wall_ms, .most = 100});
    assert_false(kit_message(k, done->id).has_content);
    assert_true(kit_message(k, done->id).seq > OPEN);
}

/* Contents, messages and queues are looked at in several steps each, which do not begin together.
 */
static void a_sweep_over_much_that_is_needed_ends(void **state) {
    struct kit *k = *state;
    enum { OPEN = 1200, DONE = 150 };
    struct arena *a = k->arena;
    for (int i = 0; i < OPEN + DONE; i++) {
        k->arena = arena_new();
        struct message_row *m = kit_accept(k, TO("ann@example.net"));
        if (i >= OPEN)
            kit_attempt(k, m->recipient[0].key, RECIPIENT_DELIVERED);
        arena_free(&k->arena);
    }
    k->arena = a;
    k->now_wall_ms += 1000;
    struct store_retain q = {.content_before_wall_ms = k->now_wall_ms,
                             .events_before_wall_ms = k->now_wall_ms};
    for (q.most = 40; q.most < 200; q.most += 30) {
        int steps = 0;
        while (kit_retain_step(k, q).more)
            assert_true(++steps < 100);
    }
    assert_int_equal(kit_totals(k).by_state[RECIPIENT_QUEUED], OPEN);
    assert_int_equal(kit_events(k, 1, 0)->count, 0);
    assert_false(kit_retain_step(k, q).removed);
}

static void what_waits_for_its_endpoint_is_kept_with_all_that_it_tells_of(void **state) {
    struct kit *k = *state;
    struct id hook = kit_webhook(k, 1, "message.accepted");
    struct message_row *m = kit_accept(k, TO("ann@example.net"));
    kit_attempt(k, m->recipient[0].key, RECIPIENT_DELIVERED);
    k->now_wall_ms += 1000;
    struct store_retain q = {.events_before_wall_ms = k->now_wall_ms,
                             .waiting_before_wall_ms = k->now_wall_ms - 1000,
                             .most = 100};
    kit_retain_all(k, q);
    struct store_notify_claim *c = kit_notify_claim(k);
    assert_int_equal(c->count, 1);
    assert_true(id_equal(&c->event[0].message_id, &m->id));
    struct notify_result r = {.seq = c->notification[0].seq,
                              .state = NOTIFICATION_PENDING,
                              .counts = true,
                              .due_wall_ms = k->now_wall_ms + 1};
    assert_int_equal(kit_notify_settle(k, r), OK);
    k->now_wall_ms += 1000;
    q.events_before_wall_ms = q.waiting_before_wall_ms = k->now_wall_ms;
    q.waiting_before_wall_ms -= 1000; /* it was tried since */
    kit_retain_all(k, q);
    assert_int_equal(kit_notify_claim(k)->count, 1);
    r.state = NOTIFICATION_DELIVERED;
    assert_int_equal(kit_notify_settle(k, r), OK);
    kit_retain_all(k, q);
    struct store_message gone = {.id = m->id, .project = 1};
    assert_int_equal(RUN(k, STORE_MESSAGE, &gone), ERR_NOT_FOUND);
    /* for a disabled one nothing waits longer than events are kept */
    m = kit_accept(k, TO("ann@example.net"));
    kit_attempt(k, m->recipient[0].key, RECIPIENT_DELIVERED);
    struct store_webhook_put put = {.webhook = {.id = hook,
                                                .project = 1,
                                                .url = STR("https://hooks.example.org/a"),
                                                .secret = STR("whsec_c2VjcmV0"),
                                                .state = WEBHOOK_DISABLED},
                                    .replace = true};
    RUN_OK(k, STORE_WEBHOOK_PUT, &put);
    k->now_wall_ms += 1000;
    q.events_before_wall_ms = k->now_wall_ms;
    kit_retain_all(k, q);
    assert_int_equal(kit_totals(k).notifications_pending, 0);
    gone.id = m->id;
    assert_int_equal(RUN(k, STORE_MESSAGE, &gone), ERR_NOT_FOUND);
}

static void a_key_outlives_its_message(void **state) {
    struct kit *k = *state;
    struct store_accept *first = kit_keyed(k, "key", 1);
    RUN_OK(k, STORE_ACCEPT, first);
    kit_attempt(k, first->message.recipient[0].key, RECIPIENT_DELIVERED);
    k->now_wall_ms += 3600000;
    kit_retain_all(k, (struct store_retain){.events_before_wall_ms = k->now_wall_ms, .most = 100});
    struct store_message gone = {.id = first->message.id, .project = 1};
    assert_int_equal(RUN(k, STORE_MESSAGE, &gone), ERR_NOT_FOUND);
    assert_int_equal(RUN(k, STORE_ACCEPT, kit_keyed(k, "key", 1)), ERR_CONFLICT); /* not twice */
    assert_int_equal(kit_totals(k).accepted, 1);
}

static int64_t number_in_file(struct kit *k, const char *sql) {
    sqlite3 *db;
    sqlite3_stmt *st;
    assert_int_equal(sqlite3_open(arena_printf(k->arena, "%s/outbox.db", k->folder).p, &db),
                     SQLITE_OK);
    assert_int_equal(sqlite3_prepare_v2(db, sql, -1, &st, NULL), SQLITE_OK);
    assert_int_equal(sqlite3_step(st), SQLITE_ROW);
    int64_t n = sqlite3_column_int64(st, 0);
    sqlite3_finalize(st);
    sqlite3_close(db);
    return n;
}

/* A sweep ends when the file has become small, too, not when the last row is gone. */
static void what_is_freed_is_given_back(void **state) {
    struct kit *k = *state;
    enum { ROUNDS = 9, TOGETHER = 24, EACH = 200 * 1024, KEPT = 1024 };
    for (int i = 0; i < ROUNDS; i++) {
        struct store_accept *q[TOGETHER];
        for (int j = 0; j < TOGETHER; j++) {
            q[j] = kit_accept_for(k, TO("ann@example.net"));
            ((struct recipient_row *)q[j]->message.recipient)[0].state = RECIPIENT_SUPPRESSED;
            kit_resize(q[j], EACH);
        }
        assert_int_equal(kit_accept_together(k, q, TOGETHER), 0);
        k->now_wall_ms++;
    }
    struct message_row *last = kit_accept(k, TO("last@example.net"));
    bool has_file = k->backend == STORE_SQLITE;
    int64_t pages = has_file ? number_in_file(k, "PRAGMA page_count") : 0;
    /* the first round: less than an eighth, which what comes next can have */
    struct store_retain q = {.content_before_wall_ms = k->now_wall_ms - ROUNDS + 1, .most = 500};
    kit_retain_all(k, q);
    if (has_file)
        assert_in_range(number_in_file(k, "PRAGMA freelist_count"), KEPT, pages / 8);
    k->now_wall_ms++;
    q.content_before_wall_ms = k->now_wall_ms;
    kit_retain_all(k, q);
    if (has_file) {
        assert_in_range(number_in_file(k, "PRAGMA freelist_count"), KEPT / 2, KEPT);
        assert_in_range(number_in_file(k, "PRAGMA page_count"), 1, pages / 4);
    }
    assert_true(kit_message(k, last->id).has_content);
}

/* Of a file that was copied by other tools, say, whose pages cannot be moved: it keeps them. */
static void a_file_that_cannot_become_smaller_ends_a_sweep(void **state) {
    struct kit *k = *state;
    if (k->backend != STORE_SQLITE)
        return;
    sqlite3 *db;
    const char *path = arena_printf(k->arena, "%s/outbox.db", k->folder).p;
    store_close(&k->store);
    assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
    assert_int_equal(
        sqlite3_exec(db,
                     "PRAGMA journal_mode = DELETE; PRAGMA auto_vacuum = NONE; VACUUM;"
                     "CREATE TABLE much (x); INSERT INTO much VALUES (zeroblob(1 << 24));"
                     "DROP TABLE much; PRAGMA journal_mode = WAL",
                     NULL, NULL, NULL),
        SQLITE_OK);
    sqlite3_close(db);
    kit_open_with(k, k->options);
    int64_t pages_free = number_in_file(k, "PRAGMA freelist_count");
    assert_true(pages_free > 4000);
    assert_false(kit_retain_step(k, (struct store_retain){.most = 500}).more);
    assert_int_equal(number_in_file(k, "PRAGMA freelist_count"), pages_free);
}

/* They weigh what they have in them, and the oldest go first. */
static void a_step_removes_few_large_captures(void **state) {
    struct kit *k = *state;
    enum { CAPTURES = 20, BYTES = 1 << 20 };
    char *bytes = mem_zalloc(BYTES);
    struct id last = {{0}};
    for (int i = 0; i < CAPTURES; i++) {
        struct store_capture_put q = {.capture = {.id = id_new(k->now_wall_ms + i),
                                                  .kind = CAPTURE_MESSAGE,
                                                  .wall_ms = k->now_wall_ms,
                                                  .content = {bytes, BYTES}}};
        RUN_OK(k, STORE_CAPTURE_PUT, &q);
        last = q.capture.id;
    }
    free(bytes);
    struct store_retain q = {.captures_most = 1, .most = 10};
    struct store_retain step = kit_retain_step(k, q);
    assert_int_equal(step.removed, 1);
    assert_true(step.more);
    kit_retain_all(k, q);
    struct store_captures look = {.kind = CAPTURE_MESSAGE, .limit = CAPTURES};
    RUN_OK(k, STORE_CAPTURES, &look);
    assert_int_equal(look.count, 1);
    assert_true(id_equal(&look.capture[0].id, &last));
}

/* With events that are kept for a shorter time than is tried: what was said last is known at the
 * end. */
static void the_last_reply_stays_while_its_message_is_open(void **state) {
    struct kit *k = *state;
    struct message_row *m = kit_accept(k, TO("ann@example.net", "bob@example.net"));
    kit_attempt(k, m->recipient[0].key, RECIPIENT_QUEUED);
    kit_attempt(k, m->recipient[1].key, RECIPIENT_DELIVERED);
    struct store_retain q = {.events_before_wall_ms = k->now_wall_ms + 1, .most = 100};
    kit_retain_all(k, q);
    assert_string_equal(kit_timeline(k, m->id), "recipient.deferred");
    assert_int_equal(kit_message(k, m->id).recipient[0].last.code, 451);
    k->now_wall_ms += 3600000;
    struct store_expire e = {.now_wall_ms = k->now_wall_ms, .most = 100};
    RUN_OK(k, STORE_EXPIRE, &e);
    assert_int_equal(e.expired, 1);
    kit_retain_all(k, q);
    struct store_events *left = kit_events(k, 1, 0);
    assert_int_equal(left->count, 2); /* that it expired, and the end */
    assert_int_equal(left->event[0].type, EVENT_RECIPIENT_EXPIRED);
    assert_int_equal(left->event[0].result.code, 451);
}

static void defer(struct kit *k, recipient_key_t key, struct last_result last) {
    struct settle_result r = kit_result(k, key, RECIPIENT_QUEUED);
    r.last = last;
    assert_true(kit_claim(k, key));
    assert_int_equal(kit_settle(k, r), OK);
}

static void assert_said(const struct last_result *got, const struct last_result *want) {
    assert_int_equal(got->code, want->code);
    assert_int_equal(got->failure, want->failure);
    assert_int_equal(got->class_, want->class_);
    assert_int_equal(got->text.n, want->text.n);
}

/* Whatever it was that was said last, and however much that says nothing of it came behind. */
static void of_what_one_that_is_open_was_told_only_the_last_stays(void **state) {
    struct kit *k = *state;
    static const struct last_result said[] = {
        {.code = 421},
        {.failure = FAILURE_TLS_PIN},
        {.class_ = CLASS_GREYLISTED},
        {.text = STR("words alone")},
    };
    enum { ROWS = sizeof(said) / sizeof(said[0]) };
    static const struct last_result nothing = {.stage = STAGE_RCPT, .mx = STR("mx.example.net")};
    struct message_row *m[ROWS];
    for (size_t i = 0; i < ROWS; i++) {
        m[i] = kit_accept(k, TO("ann@example.net", "bob@example.net"));
        kit_attempt(k, m[i]->recipient[0].key, RECIPIENT_QUEUED);
        defer(k, m[i]->recipient[0].key, said[(i + 1) % ROWS]);
        defer(k, m[i]->recipient[0].key, said[i]);
        defer(k, m[i]->recipient[0].key, nothing);
        defer(k, m[i]->recipient[1].key, said[(i + 1) % ROWS]);
        struct message_row *other = kit_accept(k, TO("ann@example.net"));
        kit_attempt(k, other->recipient[0].key, RECIPIENT_DELIVERED);
    }
    k->now_wall_ms += 1000;
    struct store_retain q = {.events_before_wall_ms = k->now_wall_ms, .most = 1000};
    for (int times = 0; times < 2; times++) { /* again, when the others are gone */
        kit_retain_all(k, q);
        assert_int_equal(kit_events(k, 1, 0)->count, 2 * ROWS);
        for (size_t i = 0; i < ROWS; i++) {
            struct store_events e = {.project = 1, .message_id = m[i]->id, .limit = 10};
            RUN_OK(k, STORE_EVENTS, &e);
            assert_int_equal(e.count, 2);
            assert_int_equal(e.event[0].recipient_index, 0);
            assert_said(&e.event[0].result, &said[i]);
            assert_int_equal(e.event[1].recipient_index, 1);
            assert_said(&e.event[1].result, &said[(i + 1) % ROWS]);
            struct message_row now = kit_message(k, m[i]->id);
            assert_said(&now.recipient[0].last, &said[i]);
            assert_said(&now.recipient[1].last, &said[(i + 1) % ROWS]);
        }
    }
}

static void an_event_that_is_about_no_message_goes_when_it_is_old(void **state) {
    struct kit *k = *state;
    struct store_webhook_test t = {
        .id = kit_webhook(k, 1, "*"), .project = 1, .now_wall_ms = k->now_wall_ms};
    RUN_OK(k, STORE_WEBHOOK_TEST, &t);
    struct store_notify_claim *c = kit_notify_claim(k);
    assert_int_equal(c->count, 1);
    struct notify_result r = {
        .seq = c->notification[0].seq, .state = NOTIFICATION_DELIVERED, .counts = true};
    assert_int_equal(kit_notify_settle(k, r), OK);
    struct store_retain q = {.events_before_wall_ms = k->now_wall_ms, .most = 100};
    kit_retain_all(k, q);
    assert_int_equal(kit_events(k, 1, 0)->count, 1);
    q.events_before_wall_ms++;
    kit_retain_all(k, q);
    assert_int_equal(kit_events(k, 1, 0)->count, 0);
}

/* ---- the clock was wrong ---- */

enum { YEAR_S = 365 * 86400 };
static const int64_t TEN_YEARS_MS = (int64_t)10 * YEAR_S * 1000;

/* Written while the clock was ten years ahead. */
static void what_was_written_in_the_future_becomes_old_like_the_rest(void **state) {
    struct kit *k = *state;
    kit_webhook(k, 1, "*");
    k->now_wall_ms += TEN_YEARS_MS;
    struct message_row *ahead = kit_accept(k, TO("ann@example.net"));
    kit_attempt(k, ahead->recipient[0].key, RECIPIENT_DELIVERED);
    k->now_wall_ms -= TEN_YEARS_MS;
    struct message_row *behind = kit_accept(k, TO("ann@example.net"));
    kit_attempt(k, behind->recipient[0].key, RECIPIENT_DELIVERED);
    struct store_retain q = {.mends_times = true, .most = 100};
    for (int day = 0; day < 4; day++) {
        q.content_before_wall_ms = q.events_before_wall_ms = k->now_wall_ms - 86400000;
        q.waiting_before_wall_ms = k->now_wall_ms;
        kit_retain_all(k, q);
        if (day == 0)
            kit_message(k, ahead->id); /* it counts as of now, not as old */
        k->now_wall_ms += 86400000 + 1;
    }
    struct store_message gone = {.id = ahead->id, .project = 1};
    assert_int_equal(RUN(k, STORE_MESSAGE, &gone), ERR_NOT_FOUND);
    gone.id = behind->id;
    assert_int_equal(RUN(k, STORE_MESSAGE, &gone), ERR_NOT_FOUND);
    assert_int_equal(kit_events(k, 1, 0)->count, 0);
}

/* A key made then would answer for ten years. */
static void a_key_made_in_the_future_ends_like_one_that_is_made_now(void **state) {
    struct kit *k = *state;
    static const char *const names[] = {"a", "b", "c"};
    int64_t now = k->now_wall_ms;
    k->now_wall_ms += TEN_YEARS_MS;
    for (size_t i = 0; i < 3; i++)
        RUN_OK(k, STORE_ACCEPT, kit_keyed(k, names[i], 1));
    k->now_wall_ms = now;
    struct store_accept *near = kit_keyed(k, "near", 1);
    RUN_OK(k, STORE_ACCEPT, near);
    int64_t day_ms = near->idempotency_until_wall_ms - now;
    /* not before it is certain which clock was wrong */
    struct store_retain q = {.keys_latest_wall_ms = now + day_ms, .most = 1};
    kit_retain_all(k, q);
    k->now_wall_ms = now + 2 * day_ms;
    assert_int_equal(RUN(k, STORE_ACCEPT, kit_keyed(k, "a", 2)), ERR_CONFLICT);
    k->now_wall_ms = now;
    q.mends_times = true;
    kit_retain_all(k, q);              /* one a step, and messages and events before them */
    k->now_wall_ms = now + day_ms - 1; /* its whole time, from now on */
    for (size_t i = 0; i < 3; i++)
        assert_int_equal(RUN(k, STORE_ACCEPT, kit_keyed(k, names[i], 2)), ERR_CONFLICT);
    assert_int_equal(RUN(k, STORE_ACCEPT, kit_keyed(k, "near", 2)), ERR_CONFLICT);
    k->now_wall_ms = now + day_ms;
    for (size_t i = 0; i < 3; i++)
        RUN_OK(k, STORE_ACCEPT, kit_keyed(k, names[i], 2));
    RUN_OK(k, STORE_ACCEPT, kit_keyed(k, "near", 2));
}

static void what_lies_beyond_reach_after_a_step_back_is_due_now(void **state) {
    struct kit *k = *state;
    kit_webhook(k, 1, "message.accepted");
    k->now_wall_ms += TEN_YEARS_MS;
    struct message_row *far = kit_accept(k, TO("ann@example.net", "bob@example.com"));
    kit_attempt(k, far->recipient[0].key, RECIPIENT_QUEUED);
    struct store_accept *dated = kit_accept_for(k, TO("ann@example.net"));
    ((struct recipient_row *)dated->message.recipient)[0].state = RECIPIENT_SCHEDULED;
    ((struct recipient_row *)dated->message.recipient)[0].due_wall_ms += 1000;
    RUN_OK(k, STORE_ACCEPT, dated);
    k->now_wall_ms -= TEN_YEARS_MS;
    struct message_row *near = kit_accept(k, TO("cat@example.net"));
    kit_attempt(k, near->recipient[0].key, RECIPIENT_QUEUED);
    assert_int_equal(kit_due_count(k, k->now_wall_ms), 0);
    assert_int_equal(kit_notify_claim(k)->count, 1);
    struct store_mend q = {.now_wall_ms = k->now_wall_ms,
                           .due_latest_wall_ms = k->now_wall_ms + 14400000,
                           .notify_latest_wall_ms = k->now_wall_ms + 86400000,
                           .most = 1};
    int steps = 0;
    do {
        RUN_OK(k, STORE_MEND, &q);
    } while (q.more && ++steps < 100);
    assert_int_equal(kit_due_count(k, k->now_wall_ms),
                     2); /* not what is near, not what has a date */
    assert_int_equal(kit_notify_claim(k)->count, 2);
    /* its life begins anew, and ends */
    assert_int_equal(kit_message(k, far->id).expires_wall_ms,
                     k->now_wall_ms + TEN_YEARS_MS + 3600000);
    q = (struct store_mend){.now_wall_ms = k->now_wall_ms,
                            .expires_latest_wall_ms = k->now_wall_ms + 5 * (int64_t)86400000,
                            .most = 100};
    RUN_OK(k, STORE_MEND, &q);
    assert_int_equal(q.mended, 2);
    assert_int_equal(kit_message(k, far->id).expires_wall_ms, k->now_wall_ms + 3600000);
    k->now_wall_ms += 3600000;
    struct store_expire e = {.now_wall_ms = k->now_wall_ms, .most = 100};
    RUN_OK(k, STORE_EXPIRE, &e);
    assert_int_equal(e.expired, 4);
}

/* Retention may come before the mend, which goes by what lies between the two times of a message.
 */
static void a_message_of_a_clock_that_was_ahead_keeps_its_life(void **state) {
    struct kit *k = *state;
    enum { LIFE_MS = 3600000 };
    k->now_wall_ms += TEN_YEARS_MS;
    struct message_row *far = kit_accept(k, TO("ann@example.net"));
    kit_attempt(k, far->recipient[0].key, RECIPIENT_QUEUED);
    k->now_wall_ms -= TEN_YEARS_MS;
    struct message_row *near = kit_accept(k, TO("ann@example.net"));
    kit_retain_all(k, (struct store_retain){.mends_times = true, .most = 100});
    struct store_mend q = {.now_wall_ms = k->now_wall_ms,
                           .due_latest_wall_ms = k->now_wall_ms + 14400000,
                           .expires_latest_wall_ms = k->now_wall_ms + 30 * (int64_t)86400000,
                           .most = 100};
    RUN_OK(k, STORE_MEND, &q);
    assert_int_equal(kit_message(k, far->id).expires_wall_ms, k->now_wall_ms + LIFE_MS);
    assert_int_equal(kit_message(k, near->id).expires_wall_ms, k->now_wall_ms + LIFE_MS);
    struct store_expire e = {.now_wall_ms = k->now_wall_ms + LIFE_MS - 1, .most = 100};
    RUN_OK(k, STORE_EXPIRE, &e);
    assert_int_equal(e.expired, 0);
    e.now_wall_ms++;
    RUN_OK(k, STORE_EXPIRE, &e);
    assert_int_equal(e.expired, 2);
}

enum { DAY_MS = 86400000 };

/* What runs when the clock has stood three days behind for more than an hour. */
static void mend_three_days_behind(struct kit *k, int64_t keys_keep_ms) {
    int64_t right_wall_ms = k->now_wall_ms;
    k->now_wall_ms -= 3 * (int64_t)DAY_MS;
    kit_retain_all(k, (struct store_retain){.mends_times = true,
                                            .keys_latest_wall_ms = k->now_wall_ms + keys_keep_ms,
                                            .most = 100});
    struct store_mend q = {.now_wall_ms = k->now_wall_ms,
                           .due_latest_wall_ms = k->now_wall_ms + DAY_MS,
                           .expires_latest_wall_ms = k->now_wall_ms + 30 * (int64_t)DAY_MS,
                           .most = 100};
    RUN_OK(k, STORE_MEND, &q);
    k->now_wall_ms = right_wall_ms;
}

static void what_is_open_does_not_expire_early_after_a_clock_that_was_behind(void **state) {
    struct kit *k = *state;
    struct store_accept *q = kit_accept_for(k, TO("ann@example.net"));
    q->message.expires_wall_ms = k->now_wall_ms + 2 * (int64_t)DAY_MS;
    int64_t expires_wall_ms = q->message.expires_wall_ms;
    RUN_OK(k, STORE_ACCEPT, q);
    struct id id = q->message.id;
    struct message_row *other = kit_accept(k, TO("bob@example.net"));
    kit_attempt(k, other->recipient[0].key, RECIPIENT_DELIVERED);
    mend_three_days_behind(k, DAY_MS);
    assert_int_equal(kit_message(k, id).expires_wall_ms, expires_wall_ms);
    k->now_wall_ms = expires_wall_ms - 1;
    struct store_expire e = {.now_wall_ms = k->now_wall_ms, .most = 100};
    RUN_OK(k, STORE_EXPIRE, &e);
    assert_int_equal(e.expired, 0);
    e.now_wall_ms++;
    RUN_OK(k, STORE_EXPIRE, &e);
    assert_int_equal(e.expired, 1);
}

static void a_key_answers_its_whole_time_after_a_clock_that_was_behind(void **state) {
    struct kit *k = *state;
    struct store_accept *q = kit_keyed(k, "a", 1);
    RUN_OK(k, STORE_ACCEPT, q);
    int64_t until_wall_ms = q->idempotency_until_wall_ms;
    mend_three_days_behind(k, until_wall_ms - k->now_wall_ms);
    k->now_wall_ms = until_wall_ms - 1;
    kit_retain_all(k, (struct store_retain){.most = 100});
    assert_int_equal(RUN(k, STORE_ACCEPT, kit_keyed(k, "a", 2)), ERR_CONFLICT);
    k->now_wall_ms++;
    RUN_OK(k, STORE_ACCEPT, kit_keyed(k, "a", 2));
}

#define TESTS(T)                                                                                   \
    T(contents_go_first_and_only_of_what_is_final),                                                \
        T(a_content_that_a_retry_shares_stays_until_both_are_old),                                 \
        T(old_messages_go_with_all_that_is_theirs_and_totals_stay),                                \
        T(a_step_counts_what_hangs_on_a_message),                                                  \
        T(what_is_still_needed_holds_up_nothing_behind_it),                                        \
        T(a_sweep_over_much_that_is_needed_ends),                                                  \
        T(what_waits_for_its_endpoint_is_kept_with_all_that_it_tells_of),                          \
        T(a_key_outlives_its_message), T(what_is_freed_is_given_back),                             \
        T(a_file_that_cannot_become_smaller_ends_a_sweep), T(a_step_removes_few_large_captures),   \
        T(the_last_reply_stays_while_its_message_is_open),                                         \
        T(of_what_one_that_is_open_was_told_only_the_last_stays),                                  \
        T(an_event_that_is_about_no_message_goes_when_it_is_old),                                  \
        T(what_was_written_in_the_future_becomes_old_like_the_rest),                               \
        T(a_key_made_in_the_future_ends_like_one_that_is_made_now),                                \
        T(what_lies_beyond_reach_after_a_step_back_is_due_now),                                    \
        T(a_message_of_a_clock_that_was_ahead_keeps_its_life),                                     \
        T(what_is_open_does_not_expire_early_after_a_clock_that_was_behind),                       \
        T(a_key_answers_its_whole_time_after_a_clock_that_was_behind)

MAIN_ON_EVERY_BACKEND(TESTS)
