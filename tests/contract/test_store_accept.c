/* The contract of the outbox, on every backend. What goes in: accepting, contents, idempotency.
 * After each test store_check() recomputes what is kept along with the rows. */
#include "tests/contract/store_kit.h"
#include "tests/unit/log_watch.h"

#include "server/base/limits.h"

/* ---- accept ---- */

static void an_accepted_message_is_read_back_as_it_was(void **state) {
    struct kit *k = *state;
    struct message_row *m = kit_accept(k, TO("ann@example.net", "bob@example.com"));
    struct message_row got = kit_message(k, m->id);
    assert_int_equal(got.seq, m->seq);
    assert_true(id_equal(&got.id, &m->id));
    assert_true(id_equal(&got.key_id, &m->key_id));
    assert_true(id_is_zero(&got.retry_of));
    assert_int_equal(got.project, 1);
    assert_int_equal(got.created_wall_ms, m->created_wall_ms);
    assert_int_equal(got.expires_wall_ms, m->expires_wall_ms);
    assert_int_equal(got.size_bytes, 1000);
    assert_int_equal(got.lane, LANE_TRANSACTIONAL);
    assert_true(got.has_content);
    assert_true(str_equal(got.message_id, STR("<m@example.org>")));
    assert_true(str_equal(got.mail_from, STR("bounce@example.org")));
    assert_true(str_equal(got.from_email, STR("Shop@example.org")));
    assert_true(str_equal(got.subject, STR("Hello")));
    assert_true(str_equal(got.external_id, STR("order-1")));
    assert_true(str_equal(got.tags_json, m->tags_json));
    assert_true(str_equal(got.metadata_json, m->metadata_json));
    assert_true(str_is_absent(got.route));
    assert_int_equal(got.recipient_count, 2);
    assert_true(str_equal(got.recipient[1].email, STR("bob@example.com")));
    assert_int_equal(got.recipient[1].state, RECIPIENT_QUEUED);
    assert_int_equal(got.recipient[1].key, m->recipient[1].key);
    assert_int_equal(got.recipient[1].attempts, 0);
    assert_int_equal(got.recipient[1].last.code, 0);
    assert_string_equal(kit_timeline(k, m->id), "message.accepted");
    assert_int_equal(kit_totals(k).by_state[RECIPIENT_QUEUED], 2);
    assert_int_equal(kit_totals(k).oldest_queued_wall_ms, m->created_wall_ms);
}

static void an_empty_reverse_path_is_not_an_absent_one(void **state) {
    struct kit *k = *state;
    struct store_accept *q = kit_accept_for(k, TO("ann@example.net"));
    q->message.mail_from = STR("");
    q->message.subject = STR_NONE;
    RUN_OK(k, STORE_ACCEPT, q);
    struct message_row got = kit_message(k, q->message.id);
    assert_false(str_is_absent(got.mail_from));
    assert_int_equal(got.mail_from.n, 0);
    assert_true(str_is_absent(got.subject));
}

static void another_projects_message_is_not_found(void **state) {
    struct kit *k = *state;
    struct message_row *m = kit_accept(k, TO("ann@example.net"));
    struct store_message q = {.id = m->id, .project = 2};
    assert_int_equal(RUN(k, STORE_MESSAGE, &q), ERR_NOT_FOUND);
    struct store_content c = {.id = m->id, .project = 2};
    assert_int_equal(RUN(k, STORE_CONTENT, &c), ERR_NOT_FOUND);
    struct store_cancel x = {.id = m->id, .project = 2, .now_wall_ms = k->now_wall_ms};
    assert_int_equal(RUN(k, STORE_CANCEL, &x), ERR_NOT_FOUND);
    struct store_retry r = {.id = m->id, .project = 2, .now_wall_ms = k->now_wall_ms};
    assert_int_equal(RUN(k, STORE_RETRY, &r), ERR_NOT_FOUND);
    struct store_events e = {.project = 2, .message_id = m->id, .limit = 10};
    assert_int_equal(RUN(k, STORE_EVENTS, &e), ERR_NOT_FOUND);
    struct store_attempts a = {.project = 2, .message_id = m->id, .limit = 10};
    assert_int_equal(RUN(k, STORE_ATTEMPTS, &a), ERR_NOT_FOUND);
}

static void contents_of_every_size_come_back_byte_by_byte(void **state) {
    struct kit *k = *state;
    static const size_t sizes[] = {1,
                                   LIMIT_BODY_CHUNK - 1,
                                   LIMIT_BODY_CHUNK,
                                   LIMIT_BODY_CHUNK + 1,
                                   2 * LIMIT_BODY_CHUNK,
                                   LIMIT_BATCH_BYTES + 17,
                                   3 * LIMIT_BATCH_BYTES};
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        struct store_accept *q = kit_accept_for(k, TO("ann@example.net"));
        kit_resize(q, sizes[i]);
        struct message *want = message_ref(q->content);
        RUN_OK(k, STORE_ACCEPT, q);
        struct store_content c = {.id = q->message.id, .project = -1};
        RUN_OK(k, STORE_CONTENT, &c);
        assert_int_equal(message_size(c.message), sizes[i]);
        assert_memory_equal(message_bytes(c.message).piece[1].p, message_bytes(want).piece[1].p,
                            sizes[i]);
        assert_true(id_equal(message_id_of(c.message), &q->message.id));
        message_unref(&want);
        message_unref(&c.message);
    }
}

static void a_content_in_two_pieces_is_stored_as_one(void **state) {
    struct kit *k = *state;
    for (size_t size = 100; size <= 700000; size += 699900) {
        struct store_accept *q = kit_accept_for(k, TO("ann@example.net"));
        message_unref(&q->content);
        struct message *plain = kit_content(q->message.id, size);
        char *prefix = str_dupz(STR("X-Signature: 1\r\n"));
        q->content = message_new_prefixed(plain, prefix, 16);
        struct message *want = plain;
        RUN_OK(k, STORE_ACCEPT, q);
        struct store_content c = {.id = q->message.id, .project = -1};
        RUN_OK(k, STORE_CONTENT, &c);
        struct str got = message_bytes(c.message).piece[1];
        assert_int_equal(got.n, size + 16);
        assert_memory_equal(got.p, "X-Signature: 1\r\n", 16);
        assert_memory_equal(got.p + 16, message_bytes(want).piece[1].p, size);
        message_unref(&want);
        message_unref(&c.message);
    }
}

static void a_message_whose_recipients_are_all_suppressed_is_complete(void **state) {
    struct kit *k = *state;
    struct store_accept *q = kit_accept_for(k, TO("ann@example.net", "bob@example.net"));
    for (size_t i = 0; i < 2; i++)
        ((struct recipient_row *)q->message.recipient)[i].state = RECIPIENT_SUPPRESSED;
    RUN_OK(k, STORE_ACCEPT, q);
    assert_string_equal(kit_timeline(k, q->message.id),
                        "message.accepted recipient.suppressed recipient.suppressed "
                        "message.completed");
    assert_int_equal(kit_due_count(k, INT64_MAX), 0);
    assert_int_equal(kit_totals(k).by_state[RECIPIENT_SUPPRESSED], 2);
}

/* ---- idempotency ---- */

static void an_equal_submission_under_a_used_key_gets_the_first_answer(void **state) {
    struct kit *k = *state;
    struct store_accept *first = kit_keyed(k, "key", 1), *second = kit_keyed(k, "key", 1);
    RUN_OK(k, STORE_ACCEPT, first);
    assert_false(first->is_replay);
    kit_attempt(k, first->message.recipient[0].key, RECIPIENT_DELIVERED);
    RUN_OK(k, STORE_ACCEPT, second);
    assert_true(second->is_replay);
    assert_true(id_equal(&second->message.id, &first->message.id));
    assert_int_equal(second->message.recipient[0].state, RECIPIENT_DELIVERED); /* as it is now */
    assert_int_equal(kit_totals(k).accepted, 1);
}

static void another_submission_under_a_used_key_is_refused(void **state) {
    struct kit *k = *state;
    RUN_OK(k, STORE_ACCEPT, kit_keyed(k, "key", 1));
    assert_int_equal(RUN(k, STORE_ACCEPT, kit_keyed(k, "key", 2)), ERR_CONFLICT);
    assert_int_equal(kit_totals(k).accepted, 1);
    /* the scope of a key is its project */
    struct store_accept *other = kit_keyed(k, "key", 2);
    other->message.project = 2;
    RUN_OK(k, STORE_ACCEPT, other);
    assert_false(other->is_replay);
}

static void a_key_is_forgotten_after_its_time(void **state) {
    struct kit *k = *state;
    struct store_accept *first = kit_keyed(k, "key", 1);
    RUN_OK(k, STORE_ACCEPT, first);
    k->now_wall_ms = first->idempotency_until_wall_ms;
    struct store_accept *second = kit_keyed(k, "key", 2);
    RUN_OK(k, STORE_ACCEPT, second);
    assert_false(second->is_replay);
    struct store_accept *third = kit_keyed(k, "key", 2);
    RUN_OK(k, STORE_ACCEPT, third);
    assert_true(id_equal(&third->message.id, &second->message.id));
}

/* The clock of who submits is two days ahead; that of the sweeps does not believe it yet. */
/* The handle is closed, and opened again. */
static void lose_the_handle(struct kit *k) {
    if (k->backend != STORE_SQLITE)
        return;
    expect_log("the store is not writable");
    struct store_accept *lost = kit_accept_for(k, TO("lost@example.net"));
    lost->call.verb = STORE_ACCEPT;
    sqlite_fail(&(struct sqlite_fault){.rc = SQLITE_IOERR, .at = 1, .only = "COMMIT"});
    assert_int_equal(store_sync(k->store, &lost->call), ERR_UNAVAILABLE);
    assert_int_equal(sqlite_fail_end(), 1);
    for (int i = 0; i < 100 && !store_health(k->store).is_writable; i++)
        mailbox_wait(kit_box(k), 100);
    assert_true(store_health(k->store).is_writable);
}

static void a_clock_that_jumped_ahead_forgets_no_key(void **state) {
    struct kit *k = *state;
    const int64_t two_days_ms = 2 * (int64_t)86400000;
    struct store_expire e = {.now_wall_ms = k->now_wall_ms, .most = 1};
    RUN_OK(k, STORE_EXPIRE, &e);
    struct store_accept *first = kit_keyed(k, "key", 1);
    RUN_OK(k, STORE_ACCEPT, first);
    k->now_wall_ms += two_days_ms;
    lose_the_handle(k);
    struct store_accept *second = kit_keyed(k, "key", 1);
    RUN_OK(k, STORE_ACCEPT, second);
    assert_true(second->is_replay);
    assert_true(id_equal(&second->message.id, &first->message.id));
    assert_int_equal(RUN(k, STORE_ACCEPT, kit_keyed(k, "key", 2)), ERR_CONFLICT);
    RUN_OK(k, STORE_ACCEPT, kit_keyed(k, "other", 1)); /* one that is used meanwhile */
    /* it was right, after all */
    e.now_wall_ms = k->now_wall_ms;
    RUN_OK(k, STORE_EXPIRE, &e);
    struct store_accept *third = kit_keyed(k, "key", 2);
    RUN_OK(k, STORE_ACCEPT, third);
    assert_false(third->is_replay);
    /* set back, by more than the key has lived: it lives on */
    k->now_wall_ms -= two_days_ms;
    assert_int_equal(RUN(k, STORE_ACCEPT, kit_keyed(k, "other", 2)), ERR_CONFLICT);
}

static struct store_accept *question(struct kit *k, const char *key, uint8_t fingerprint) {
    struct store_accept *q = kit_keyed(k, key, fingerprint);
    message_unref(&q->content);
    q->message = (struct message_row){.project = 1};
    q->asks_only = true;
    return q;
}

static void a_key_can_be_asked_for_without_storing_anything(void **state) {
    struct kit *k = *state;
    assert_int_equal(RUN(k, STORE_ACCEPT, question(k, "key", 1)), ERR_NOT_FOUND);
    assert_int_equal(kit_totals(k).accepted, 0);
    struct store_accept *first = kit_keyed(k, "key", 1);
    RUN_OK(k, STORE_ACCEPT, first);
    kit_attempt(k, first->message.recipient[0].key, RECIPIENT_DELIVERED);
    expect_log("less room than disk_floor");
    store_set_disk_floor(k->store, INT64_MAX); /* it takes no room */
    struct store_accept *q = question(k, "key", 1);
    RUN_OK(k, STORE_ACCEPT, q);
    store_set_disk_floor(k->store, 0);
    assert_true(q->is_replay);
    assert_true(id_equal(&q->message.id, &first->message.id));
    assert_int_equal(q->message.recipient[0].state, RECIPIENT_DELIVERED);
    assert_int_equal(RUN(k, STORE_ACCEPT, question(k, "key", 2)), ERR_CONFLICT);
    assert_int_equal(RUN(k, STORE_ACCEPT, question(k, "other", 1)), ERR_NOT_FOUND);
    q = question(k, "key", 1);
    q->message.project = 2;
    assert_int_equal(RUN(k, STORE_ACCEPT, q), ERR_NOT_FOUND);
    k->now_wall_ms = first->idempotency_until_wall_ms;
    assert_int_equal(RUN(k, STORE_ACCEPT, question(k, "key", 1)), ERR_NOT_FOUND);
    assert_int_equal(kit_totals(k).accepted, 1);
}

static void big_submissions_are_replayed_too(void **state) {
    struct kit *k = *state;
    struct store_accept *q[3] = {kit_keyed(k, "key", 1), kit_keyed(k, "key", 1),
                                 kit_keyed(k, "key", 2)};
    for (size_t i = 0; i < 3; i++) {
        kit_resize(q[i], 900000);
    }
    RUN_OK(k, STORE_ACCEPT, q[0]);
    RUN_OK(k, STORE_ACCEPT, q[1]);
    assert_true(q[1]->is_replay);
    assert_int_equal(RUN(k, STORE_ACCEPT, q[2]), ERR_CONFLICT);
    struct store_content c = {.id = q[0]->message.id, .project = -1};
    RUN_OK(k, STORE_CONTENT, &c);
    message_unref(&c.message);
}

enum { RACERS = 64 };
struct race {
    struct kit *k;
    struct mailbox *box;
    size_t done, replayed, conflicts;
    struct id id;
    bool differs;
};

static void raced(struct store_call *c) {
    struct race *r = c->ctx;
    struct store_accept *q = CONTAINER_OF(c, struct store_accept, call);
    r->done++;
    if (c->err == ERR_CONFLICT) {
        r->conflicts++;
    } else {
        assert_int_equal(c->err, OK);
        r->replayed += q->is_replay;
        if (id_is_zero(&r->id))
            r->id = q->message.id;
        r->differs |= !id_equal(&r->id, &q->message.id);
    }
    kit_keep(r->k, c);
}

/* Posted at once, they share batches: the decision is taken inside of the transaction. */
static void concurrent_equal_submissions_make_one_message(void **state) {
    struct kit *k = *state;
    struct race r = {.k = k, .box = kit_box(k)};
    for (int i = 0; i < RACERS; i++) {
        struct store_accept *q = kit_keyed(k, "key", i % 4 == 3 ? 2 : 1);
        q->call.verb = STORE_ACCEPT;
        q->call.reply_to = r.box;
        q->call.done = raced;
        q->call.ctx = &r;
        store_post(k->store, &q->call);
    }
    while (r.done < RACERS)
        mailbox_wait(r.box, -1);
    assert_int_equal(r.conflicts, RACERS / 4);
    assert_int_equal(r.replayed, RACERS * 3 / 4 - 1);
    assert_false(r.differs);
    assert_int_equal(kit_totals(k).accepted, 1);
}

#define TESTS(T)                                                                                   \
    T(an_accepted_message_is_read_back_as_it_was), T(an_empty_reverse_path_is_not_an_absent_one),  \
        T(another_projects_message_is_not_found),                                                  \
        T(contents_of_every_size_come_back_byte_by_byte),                                          \
        T(a_content_in_two_pieces_is_stored_as_one),                                               \
        T(a_message_whose_recipients_are_all_suppressed_is_complete),                              \
        T(an_equal_submission_under_a_used_key_gets_the_first_answer),                             \
        T(another_submission_under_a_used_key_is_refused), T(a_key_is_forgotten_after_its_time),   \
        T(a_key_can_be_asked_for_without_storing_anything),                                        \
        T(a_clock_that_jumped_ahead_forgets_no_key), T(big_submissions_are_replayed_too),          \
        T(concurrent_equal_submissions_make_one_message)

MAIN_ON_EVERY_BACKEND(TESTS)
