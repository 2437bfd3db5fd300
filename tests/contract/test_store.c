/* The contract of the outbox: every verb, on every backend. After each test store_check()
 * recomputes what is kept along with the rows. */
#include "tests/contract/store_kit.h"

#include "server/base/limits.h"
#include "server/base/thread.h"

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
        message_unref(&q->content);
        q->content = kit_content(q->message.id, sizes[i]);
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

static struct store_accept *keyed(struct kit *k, const char *key, uint8_t fingerprint) {
    struct store_accept *q = kit_accept_for(k, TO("ann@example.net"));
    q->idempotency_key = str_of(key);
    memset(q->fingerprint, fingerprint, sizeof(q->fingerprint));
    return q;
}

static void an_equal_submission_under_a_used_key_gets_the_first_answer(void **state) {
    struct kit *k = *state;
    struct store_accept *first = keyed(k, "key", 1), *second = keyed(k, "key", 1);
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
    RUN_OK(k, STORE_ACCEPT, keyed(k, "key", 1));
    assert_int_equal(RUN(k, STORE_ACCEPT, keyed(k, "key", 2)), ERR_CONFLICT);
    assert_int_equal(kit_totals(k).accepted, 1);
    /* the scope of a key is its project */
    struct store_accept *other = keyed(k, "key", 2);
    other->message.project = 2;
    RUN_OK(k, STORE_ACCEPT, other);
    assert_false(other->is_replay);
}

static void a_key_is_forgotten_after_its_time(void **state) {
    struct kit *k = *state;
    struct store_accept *first = keyed(k, "key", 1);
    RUN_OK(k, STORE_ACCEPT, first);
    k->now_wall_ms = first->idempotency_until_wall_ms;
    struct store_accept *second = keyed(k, "key", 2);
    RUN_OK(k, STORE_ACCEPT, second);
    assert_false(second->is_replay);
    struct store_accept *third = keyed(k, "key", 2);
    RUN_OK(k, STORE_ACCEPT, third);
    assert_true(id_equal(&third->message.id, &second->message.id));
}

static void big_submissions_are_replayed_too(void **state) {
    struct kit *k = *state;
    struct store_accept *q[3] = {keyed(k, "key", 1), keyed(k, "key", 1), keyed(k, "key", 2)};
    for (size_t i = 0; i < 3; i++) {
        message_unref(&q[i]->content);
        q[i]->content = kit_content(q[i]->message.id, 900000);
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
        struct store_accept *q = keyed(k, "key", i % 4 == 3 ? 2 : 1);
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

/* ---- claim, settle, release ---- */

static void a_recipient_goes_from_claim_to_delivered(void **state) {
    struct kit *k = *state;
    struct message_row *m = kit_accept(k, TO("ann@example.net"));
    assert_int_equal(kit_due_count(k, k->now_wall_ms), 1);
    kit_attempt(k, m->recipient[0].key, RECIPIENT_QUEUED);
    assert_int_equal(kit_due_count(k, k->now_wall_ms), 0);
    struct message_row now = kit_message(k, m->id);
    assert_string_equal(recipient_shown_state(&now.recipient[0]), "deferred");
    assert_int_equal(now.recipient[0].attempts, 1);
    assert_int_equal(now.recipient[0].due_wall_ms, k->now_wall_ms + 60000);
    assert_int_equal(now.recipient[0].last.code, 451);
    assert_int_equal(now.recipient[0].last.class_, CLASS_GREYLISTED);
    assert_string_equal(now.recipient[0].last.enhanced, "4.7.1");
    assert_true(str_equal(now.recipient[0].last.text, STR("4.7.1 later")));
    assert_true(str_equal(now.recipient[0].last.mx, STR("mx.example.net")));
    k->now_wall_ms += 60000;
    assert_int_equal(kit_due_count(k, k->now_wall_ms), 1);
    kit_attempt(k, m->recipient[0].key, RECIPIENT_DELIVERED);
    assert_int_equal(kit_state(k, m->id, 0), RECIPIENT_DELIVERED);
    assert_string_equal(kit_timeline(k, m->id), "message.accepted recipient.deferred "
                                                "recipient.delivered message.completed");
}

static void a_claim_is_given_once(void **state) {
    struct kit *k = *state;
    struct message_row *m = kit_accept(k, TO("ann@example.net", "bob@example.net"));
    recipient_key_t key[] = {m->recipient[0].key, m->recipient[0].key, m->recipient[1].key,
                             m->recipient[1].key + 1, 99999999};
    bool is_claimed[5];
    struct store_claim q = {
        .key = key, .count = 5, .now_wall_ms = k->now_wall_ms, .is_claimed = is_claimed};
    RUN_OK(k, STORE_CLAIM, &q);
    static const bool want[] = {true, false, true, false, false};
    assert_memory_equal(is_claimed, want, sizeof(want));
    assert_false(kit_claim(k, key[0]));
    assert_int_equal(kit_totals(k).by_state[RECIPIENT_SENDING], 2);
}

static void only_what_is_sending_can_be_settled(void **state) {
    struct kit *k = *state;
    struct message_row *m = kit_accept(k, TO("ann@example.net"));
    recipient_key_t key = m->recipient[0].key;
    assert_int_equal(kit_settle(k, kit_result(k, key, RECIPIENT_DELIVERED)), ERR_CONFLICT);
    assert_int_equal(kit_settle(k, kit_result(k, key + 1, RECIPIENT_DELIVERED)), ERR_NOT_FOUND);
    assert_true(kit_claim(k, key));
    static const enum recipient_state never[] = {RECIPIENT_SCHEDULED, RECIPIENT_SENDING,
                                                 RECIPIENT_EXPIRED, RECIPIENT_SUPPRESSED,
                                                 RECIPIENT_CANCELED};
    for (size_t i = 0; i < sizeof(never) / sizeof(never[0]); i++)
        assert_int_equal(kit_settle(k, kit_result(k, key, never[i])), ERR_CONFLICT);
    assert_int_equal(kit_settle(k, kit_result(k, key, RECIPIENT_BOUNCED)), OK);
    assert_int_equal(kit_settle(k, kit_result(k, key, RECIPIENT_DELIVERED)), ERR_CONFLICT);
    assert_string_equal(kit_timeline(k, m->id),
                        "message.accepted recipient.bounced message.completed");
}

/* One illegal result: nothing of the call is stored. */
static void a_settle_is_all_or_nothing(void **state) {
    struct kit *k = *state;
    struct message_row *m = kit_accept(k, TO("ann@example.net", "bob@example.net"));
    assert_true(kit_claim(k, m->recipient[0].key));
    struct settle_result r[2] = {kit_result(k, m->recipient[0].key, RECIPIENT_DELIVERED),
                                 kit_result(k, m->recipient[1].key, RECIPIENT_DELIVERED)};
    struct store_settle q = {.result = r, .count = 2, .now_wall_ms = k->now_wall_ms};
    assert_int_equal(RUN(k, STORE_SETTLE, &q), ERR_CONFLICT);
    r[1].key = r[0].key;
    assert_int_equal(RUN(k, STORE_SETTLE, &q), ERR_INVALID);
    assert_int_equal(kit_state(k, m->id, 0), RECIPIENT_SENDING);
    assert_string_equal(kit_timeline(k, m->id), "message.accepted");
}

static void results_are_kept_with_their_attempt(void **state) {
    struct kit *k = *state;
    struct message_row *m = kit_accept(k, TO("ann@example.net", "bob@example.net"));
    assert_true(kit_claim(k, m->recipient[0].key));
    assert_true(kit_claim(k, m->recipient[1].key));
    struct settle_result r[2] = {kit_result(k, m->recipient[0].key, RECIPIENT_DELIVERED),
                                 kit_result(k, m->recipient[1].key, RECIPIENT_BOUNCED)};
    struct attempt_recipient ar[2] = {{0, VERDICT_DELIVERED, r[0].last},
                                      {1, VERDICT_BOUNCED, r[1].last}};
    struct attempt_row a = {.started_wall_ms = k->now_wall_ms - 50,
                            .took_ms = 50,
                            .host = STR("mx.example.net"),
                            .address = STR("192.0.2.1:25"),
                            .tls_version = STR("TLSv1.3"),
                            .tls_cipher = STR("TLS_AES_256_GCM_SHA384"),
                            .tls_verified = true,
                            .transcript = STR("S: 220 hi\nC: EHLO us\n"),
                            .recipient = ar,
                            .recipient_count = 2};
    struct store_settle q = {.result = r, .count = 2, .attempt = &a, .now_wall_ms = k->now_wall_ms};
    RUN_OK(k, STORE_SETTLE, &q);
    struct store_attempts got = {.message_id = m->id, .project = 1, .limit = 10};
    RUN_OK(k, STORE_ATTEMPTS, &got);
    assert_int_equal(got.count, 1);
    assert_true(id_equal(&got.attempt[0].message_id, &m->id));
    assert_int_equal(got.attempt[0].took_ms, 50);
    assert_true(got.attempt[0].tls_verified);
    assert_true(str_equal(got.attempt[0].address, STR("192.0.2.1:25")));
    assert_true(str_equal(got.attempt[0].transcript, STR("S: 220 hi\nC: EHLO us\n")));
    assert_int_equal(got.attempt[0].recipient_count, 2);
    assert_int_equal(got.attempt[0].recipient[1].index, 1);
    assert_int_equal(got.attempt[0].recipient[1].action, VERDICT_BOUNCED);
    assert_int_equal(got.attempt[0].recipient[1].result.code, 550);
    assert_true(got.attempt[0].recipient[1].result.is_hard);
    struct message_row now = kit_message(k, m->id);
    assert_string_equal(message_state_name(now.recipient, 2), "partial");
}

static void what_did_not_count_is_no_attempt_and_no_event(void **state) {
    struct kit *k = *state;
    struct message_row *m = kit_accept(k, TO("ann@example.net"));
    assert_true(kit_claim(k, m->recipient[0].key));
    struct settle_result r = kit_result(k, m->recipient[0].key, RECIPIENT_QUEUED);
    r.counts = false;
    r.last = (struct last_result){.failure = FAILURE_SHUTDOWN};
    assert_int_equal(kit_settle(k, r), OK);
    struct message_row now = kit_message(k, m->id);
    assert_int_equal(now.recipient[0].attempts, 0);
    assert_int_equal(now.recipient[0].state, RECIPIENT_QUEUED);
    assert_string_equal(kit_timeline(k, m->id), "message.accepted");
}

static void attempts_come_by_pages(void **state) {
    enum { ATTEMPTS = 5 };
    struct kit *k = *state;
    struct message_row *m = kit_accept(k, TO("ann@example.net"));
    for (int i = 0; i < ATTEMPTS; i++) {
        struct settle_result r = kit_result(k, m->recipient[0].key, RECIPIENT_QUEUED);
        struct attempt_row a = {.started_wall_ms = k->now_wall_ms, .took_ms = i};
        assert_true(kit_claim(k, m->recipient[0].key));
        struct store_settle q = {
            .result = &r, .count = 1, .attempt = &a, .now_wall_ms = k->now_wall_ms};
        RUN_OK(k, STORE_SETTLE, &q);
    }
    int64_t after_seq = 0;
    int seen = 0;
    bool more = true;
    while (more) {
        struct store_attempts q = {
            .message_id = m->id, .project = 1, .after_seq = after_seq, .limit = 2};
        RUN_OK(k, STORE_ATTEMPTS, &q);
        assert_int_equal(q.count, seen < ATTEMPTS - 1 ? 2 : 1);
        for (size_t i = 0; i < q.count; i++)
            assert_int_equal(q.attempt[i].took_ms, seen++);
        after_seq = q.attempt[q.count - 1].seq;
        more = q.more;
    }
    assert_int_equal(seen, ATTEMPTS);
}

static void attempts_that_found_no_domain_are_counted(void **state) {
    struct kit *k = *state;
    static const enum failure ends[] = {FAILURE_DNS_NXDOMAIN, FAILURE_DNS_NO_ADDRESS,
                                        FAILURE_DNS_TEMPORARY};
    static const int want[] = {1, 2, 2};
    struct message_row *m = kit_accept(k, TO("ann@example.net"));
    for (int i = 0; i < 3; i++) {
        assert_true(kit_claim(k, m->recipient[0].key));
        struct settle_result r = kit_result(k, m->recipient[0].key, RECIPIENT_QUEUED);
        r.last = (struct last_result){.stage = STAGE_RESOLVE, .failure = ends[i]};
        assert_int_equal(kit_settle(k, r), OK);
        struct store_due *d = kit_due(k, INT64_MAX);
        assert_int_equal(d->count, 1);
        assert_int_equal(d->due[0].nxdomain, want[i]);
        assert_int_equal(d->due[0].attempts, i + 1);
        kit_due_release(d);
    }
}

static void an_unknown_outcome_marks_a_possible_duplicate(void **state) {
    struct kit *k = *state;
    struct message_row *m = kit_accept(k, TO("ann@example.net"));
    assert_true(kit_claim(k, m->recipient[0].key));
    struct settle_result r = kit_result(k, m->recipient[0].key, RECIPIENT_QUEUED);
    r.unknown_outcome = true;
    assert_int_equal(kit_settle(k, r), OK);
    struct store_due *d = kit_due(k, INT64_MAX);
    assert_true(d->due[0].possible_duplicate);
    kit_due_release(d);
    kit_attempt(k, m->recipient[0].key, RECIPIENT_DELIVERED);
    struct store_events *e = kit_events(k, 1, 0);
    assert_int_equal(e->event[2].type, EVENT_RECIPIENT_DELIVERED);
    assert_true(e->event[2].possible_duplicate);
}

static void a_delivered_recipient_may_bounce_late(void **state) {
    struct kit *k = *state;
    struct message_row *m = kit_accept(k, TO("ann@example.net"));
    kit_attempt(k, m->recipient[0].key, RECIPIENT_DELIVERED);
    struct settle_result r = kit_result(k, m->recipient[0].key, RECIPIENT_BOUNCED);
    r.counts = false;
    assert_int_equal(kit_settle(k, r), OK);
    assert_int_equal(kit_state(k, m->id, 0), RECIPIENT_BOUNCED);
    struct store_events *e = kit_events(k, 1, 0);
    assert_int_equal(e->count, 4);
    assert_int_equal(e->event[3].type, EVENT_RECIPIENT_BOUNCED);
    assert_true(e->event[3].is_late);
    assert_false(e->event[1].is_late);
    assert_int_equal(e->event[3].recipient_seq, 2);
    /* completed stays once */
    assert_string_equal(kit_timeline(k, m->id), "message.accepted recipient.delivered "
                                                "message.completed recipient.bounced");
}

static void a_released_claim_is_queued_again(void **state) {
    struct kit *k = *state;
    struct message_row *m = kit_accept(k, TO("ann@example.net", "bob@example.net"));
    recipient_key_t keys[] = {m->recipient[0].key, m->recipient[1].key, 123456};
    assert_true(kit_claim(k, keys[0]));
    struct store_release q = {
        .key = keys, .count = 3, .due_wall_ms = k->now_wall_ms + 5, .now_wall_ms = k->now_wall_ms};
    RUN_OK(k, STORE_RELEASE, &q); /* what is not claimed stays as it is */
    assert_int_equal(kit_due_count(k, k->now_wall_ms), 1);
    assert_int_equal(kit_due_count(k, k->now_wall_ms + 5), 2);
    assert_int_equal(kit_message(k, m->id).recipient[0].attempts, 0);
}

static void a_scheduled_recipient_is_not_claimed_before_its_time(void **state) {
    struct kit *k = *state;
    struct store_accept *q = kit_accept_for(k, TO("ann@example.net"));
    q->message.recipient[0].state = RECIPIENT_SCHEDULED;
    q->message.recipient[0].due_wall_ms = k->now_wall_ms + 1000;
    RUN_OK(k, STORE_ACCEPT, q);
    recipient_key_t key = q->message.recipient[0].key;
    assert_int_equal(kit_due_count(k, k->now_wall_ms), 0);
    assert_false(kit_claim(k, key));
    k->now_wall_ms += 1000;
    assert_int_equal(kit_due_count(k, k->now_wall_ms), 1);
    assert_true(kit_claim(k, key));
    assert_string_equal(kit_timeline(k, q->message.id), "message.accepted message.scheduled");
}

/* ---- cancel, retry, expire ---- */

static void cancel_ends_what_waits_and_nothing_else(void **state) {
    struct kit *k = *state;
    struct message_row *m = kit_accept(k, TO("a@example.net", "b@example.net", "c@example.net"));
    kit_attempt(k, m->recipient[0].key, RECIPIENT_DELIVERED);
    assert_true(kit_claim(k, m->recipient[1].key));
    struct store_cancel q = {.id = m->id, .project = 1, .now_wall_ms = k->now_wall_ms};
    RUN_OK(k, STORE_CANCEL, &q);
    assert_int_equal(q.result[0], CANCEL_FINAL);
    assert_int_equal(q.result[1], CANCEL_TOO_LATE);
    assert_int_equal(q.result[2], CANCEL_DONE);
    assert_int_equal(q.message.recipient[2].state, RECIPIENT_CANCELED);
    assert_false(kit_claim(k, m->recipient[2].key));
    assert_int_equal(kit_settle(k, kit_result(k, m->recipient[1].key, RECIPIENT_DELIVERED)), OK);
    assert_string_equal(kit_timeline(k, m->id),
                        "message.accepted recipient.delivered recipient.canceled "
                        "recipient.delivered message.completed");
    RUN_OK(k, STORE_CANCEL, &q); /* again: nothing happens */
    assert_int_equal(q.result[2], CANCEL_FINAL);
}

static void retry_makes_deferred_recipients_due_now(void **state) {
    struct kit *k = *state;
    struct message_row *m = kit_accept(k, TO("ann@example.net"));
    kit_attempt(k, m->recipient[0].key, RECIPIENT_QUEUED);
    assert_int_equal(kit_due_count(k, k->now_wall_ms), 0);
    struct store_retry q = {
        .id = m->id, .project = 1, .new_id = id_new(k->now_wall_ms), .now_wall_ms = k->now_wall_ms};
    RUN_OK(k, STORE_RETRY, &q);
    assert_false(q.made_new);
    assert_int_equal(q.message.recipient[0].due_wall_ms, k->now_wall_ms);
    assert_int_equal(kit_due_count(k, k->now_wall_ms), 1);
    assert_int_equal(RUN(k, STORE_RETRY, &q), ERR_CONFLICT); /* it is due already */
}

static void retry_of_what_ended_makes_a_new_message(void **state) {
    struct kit *k = *state;
    struct store_accept *q = kit_accept_for(k, TO("a@example.net", "b@example.net", "c@x.example"));
    struct str *keys = (struct str *)(uintptr_t)q->queue_key;
    keys[2] = STR("route:backup");
    q->message.is_test = true;
    RUN_OK(k, STORE_ACCEPT, q);
    struct message_row *m = &q->message;
    kit_attempt(k, m->recipient[0].key, RECIPIENT_DELIVERED);
    kit_attempt(k, m->recipient[1].key, RECIPIENT_BOUNCED);
    kit_attempt(k, m->recipient[2].key, RECIPIENT_FAILED);
    k->now_wall_ms += 1000;
    struct store_retry r = {.id = m->id,
                            .project = 1,
                            .new_id = id_new(k->now_wall_ms),
                            .now_wall_ms = k->now_wall_ms,
                            .expires_wall_ms = k->now_wall_ms + 7000};
    RUN_OK(k, STORE_RETRY, &r);
    assert_true(r.made_new);
    struct message_row now = kit_message(k, r.new_id);
    assert_true(now.is_test);
    assert_true(id_equal(&now.retry_of, &m->id));
    assert_int_equal(now.recipient_count, 2);
    assert_true(str_equal(now.recipient[0].email, STR("b@example.net")));
    assert_int_equal(now.recipient[0].attempts, 0);
    assert_int_equal(now.expires_wall_ms, k->now_wall_ms + 7000);
    assert_true(str_equal(now.message_id, m->message_id));
    struct store_content c = {.id = r.new_id, .project = 1};
    RUN_OK(k, STORE_CONTENT, &c);
    assert_int_equal(message_size(c.message), 1000);
    message_unref(&c.message);
    struct store_due *d = kit_due(k, k->now_wall_ms);
    assert_int_equal(d->count, 2);
    for (size_t i = 0; i < 2; i++)
        assert_true(str_equal(d->due[i].queue_key, str_equal(d->due[i].email, STR("c@x.example"))
                                                       ? STR("route:backup")
                                                       : STR("example.net")));
    kit_due_release(d);
    assert_string_equal(kit_timeline(k, r.new_id), "message.accepted");
}

static void what_is_all_delivered_cannot_be_retried(void **state) {
    struct kit *k = *state;
    struct message_row *m = kit_accept(k, TO("ann@example.net"));
    kit_attempt(k, m->recipient[0].key, RECIPIENT_DELIVERED);
    struct store_retry r = {
        .id = m->id, .project = 1, .new_id = id_new(k->now_wall_ms), .now_wall_ms = k->now_wall_ms};
    assert_int_equal(RUN(k, STORE_RETRY, &r), ERR_CONFLICT);
}

static size_t expire(struct kit *k, size_t most) {
    struct store_expire q = {.now_wall_ms = k->now_wall_ms, .most = most};
    RUN_OK(k, STORE_EXPIRE, &q);
    return q.expired;
}

static void the_sweep_expires_what_waits_too_long(void **state) {
    struct kit *k = *state;
    struct message_row *m = kit_accept(k, TO("a@example.net", "b@example.net", "c@example.net"));
    kit_attempt(k, m->recipient[0].key, RECIPIENT_QUEUED);
    assert_true(kit_claim(k, m->recipient[1].key));
    assert_int_equal(expire(k, 100), 0);
    k->now_wall_ms = m->expires_wall_ms;
    assert_int_equal(expire(k, 1), 1);
    assert_int_equal(expire(k, 100), 1);
    assert_int_equal(expire(k, 100), 0); /* what is being sent is left alone */
    struct message_row now = kit_message(k, m->id);
    assert_int_equal(now.recipient[0].state, RECIPIENT_EXPIRED);
    assert_int_equal(now.recipient[0].last.code, 451); /* the last reply */
    assert_int_equal(now.recipient[1].state, RECIPIENT_SENDING);
    struct store_events *e = kit_events(k, 1, 0);
    assert_int_equal(e->event[2].type, EVENT_RECIPIENT_EXPIRED);
    assert_int_equal(e->event[2].result.code, 451);
    assert_int_equal(kit_settle(k, kit_result(k, m->recipient[1].key, RECIPIENT_QUEUED)), OK);
    assert_int_equal(expire(k, 100), 1);
    assert_string_equal(message_state_name(kit_message(k, m->id).recipient, 3), "expired");
    struct store_events *all = kit_events(k, 1, 0);
    assert_int_equal(all->event[all->count - 1].type, EVENT_MESSAGE_COMPLETED);
    assert_true(str_equal(all->event[all->count - 1].message_state, STR("expired")));
}

static void other_messages_do_not_expire_with_it(void **state) {
    struct kit *k = *state;
    kit_accept(k, TO("a@example.net"));
    struct store_accept *q = kit_accept_for(k, TO("b@example.net"));
    q->message.expires_wall_ms = k->now_wall_ms + 10;
    RUN_OK(k, STORE_ACCEPT, q);
    k->now_wall_ms += 10;
    assert_int_equal(expire(k, 100), 1);
    assert_int_equal(kit_state(k, q->message.id, 0), RECIPIENT_EXPIRED);
    assert_int_equal(kit_totals(k).by_state[RECIPIENT_QUEUED], 1);
}

/* ---- due ---- */

static void put_many(struct kit *k, const char *domain, enum lane lane, int64_t project, size_t n) {
    for (size_t i = 0; i < n; i++) {
        char *email = arena_dupz(k->arena, arena_printf(k->arena, "u%zu@%s", i, domain));
        struct store_accept *q = kit_accept_for(k, TO(email));
        q->message.lane = lane;
        q->message.project = project;
        RUN_OK(k, STORE_ACCEPT, q);
    }
}

struct due_counts {
    size_t all, high, of_key;
};

static struct due_counts due_with(struct kit *k, struct store_due *q, struct str key) {
    struct due_counts c = {0};
    q->until_wall_ms = k->now_wall_ms;
    RUN_OK(k, STORE_DUE, q);
    c.all = q->count;
    for (size_t i = 0; i < q->count; i++) {
        c.high += q->due[i].outgoing->lane == LANE_HIGH;
        c.of_key += str_equal(q->due[i].queue_key, key);
    }
    kit_due_release(q);
    return c;
}

static void loading_is_fair_to_keys_lanes_and_projects(void **state) {
    struct kit *k = *state;
    put_many(k, "big.example", LANE_BULK, 1, 60);
    put_many(k, "big.example", LANE_BULK, 2, 3);
    put_many(k, "small.example", LANE_TRANSACTIONAL, 1, 2);
    put_many(k, "big.example", LANE_HIGH, 1, 1);
    struct due_counts c;
    /* a quota per key, over its lanes */
    struct store_due q = {.per_key = 10, .most = 100};
    c = due_with(k, &q, STR("big.example"));
    assert_int_equal(c.all, 12);
    assert_int_equal(c.of_key, 10);
    assert_int_equal(c.high, 1);
    assert_true(q.more);
    /* room for all keys, high first, however little there is */
    q = (struct store_due){.per_key = 1000, .most = 3};
    c = due_with(k, &q, STR("small.example"));
    assert_int_equal(c.all, 3);
    assert_int_equal(c.high, 1);
    assert_int_equal(c.of_key, 2);
    /* a skipped key holds nothing up */
    struct str skip = STR("big.example");
    q = (struct store_due){.per_key = 1000, .most = 3, .skip_key = &skip, .skip_count = 1};
    c = due_with(k, &q, STR("small.example"));
    assert_int_equal(c.all, 2);
    assert_int_equal(c.of_key, 2);
    assert_false(q.more);
    /* all of it */
    q = (struct store_due){.per_key = 1000, .most = 1000};
    c = due_with(k, &q, STR("big.example"));
    assert_int_equal(c.all, 66);
    assert_false(q.more);
}

static void a_project_with_much_does_not_starve_one_with_little(void **state) {
    struct kit *k = *state;
    put_many(k, "big.example", LANE_BULK, 1, 50);
    put_many(k, "big.example", LANE_BULK, 2, 3);
    struct store_due q = {.until_wall_ms = k->now_wall_ms, .per_key = 10, .most = 100};
    RUN_OK(k, STORE_DUE, &q);
    size_t of_two = 0;
    for (size_t i = 0; i < q.count; i++)
        of_two += q.due[i].outgoing->project == 2;
    assert_int_equal(q.count, 10);
    assert_int_equal(of_two, 3);
    kit_due_release(&q);
}

static void the_next_due_time_is_told(void **state) {
    struct kit *k = *state;
    struct store_due *d = kit_due(k, k->now_wall_ms);
    assert_int_equal(d->next_due_wall_ms, 0);
    struct message_row *m = kit_accept(k, TO("a@one.example", "b@one.example", "c@two.example"));
    kit_attempt(k, m->recipient[0].key, RECIPIENT_QUEUED);
    kit_attempt(k, m->recipient[2].key, RECIPIENT_QUEUED);
    d = kit_due(k, k->now_wall_ms); /* b now; a in the same queue later, c in another */
    assert_int_equal(d->count, 1);
    assert_int_equal(d->next_due_wall_ms, k->now_wall_ms + 60000);
    assert_false(d->more);
    kit_due_release(d);
    struct store_due q = {.until_wall_ms = k->now_wall_ms + 59999,
                          .per_key = 9,
                          .most = 9,
                          .skip_key = &(struct str){"one.example", 11},
                          .skip_count = 1};
    RUN_OK(k, STORE_DUE, &q);
    assert_int_equal(q.count, 0);
    assert_int_equal(q.next_due_wall_ms, k->now_wall_ms + 60000);
}

static void due_rows_carry_what_delivery_needs(void **state) {
    struct kit *k = *state;
    struct store_accept *a = kit_accept_for(k, TO("ann@example.net"));
    a->message.route = STR("backup");
    a->message.tls = TLS_VERIFY;
    a->message.needs_smtputf8 = true;
    a->message.is_test = true;
    a->message.lane = LANE_HIGH;
    RUN_OK(k, STORE_ACCEPT, a);
    struct store_due *d = kit_due(k, k->now_wall_ms);
    const struct outgoing *o = d->due[0].outgoing;
    assert_int_equal(o->seq, a->message.seq);
    assert_true(id_equal(&o->id, &a->message.id));
    assert_int_equal(o->tls, TLS_VERIFY);
    assert_true(o->needs_smtputf8);
    assert_true(o->is_test);
    assert_int_equal(o->lane, LANE_HIGH);
    assert_true(str_equal(o->route, STR("backup")));
    assert_true(str_equal(o->mail_from, STR("bounce@example.org")));
    assert_true(str_equal(o->from_domain, STR("example.org")));
    assert_int_equal(o->size_bytes, 1000);
    assert_int_equal(o->expires_wall_ms, a->message.expires_wall_ms);
    assert_true(str_equal(d->due[0].queue_key, STR("example.net")));
    kit_due_release(d);
}

/* ---- events ---- */

static void the_feed_is_in_order_and_can_be_paged(void **state) {
    struct kit *k = *state;
    for (int i = 0; i < 5; i++) {
        struct message_row *m = kit_accept(k, TO("ann@example.net"));
        kit_attempt(k, m->recipient[0].key, RECIPIENT_DELIVERED);
    }
    struct store_accept *other = kit_accept_for(k, TO("ann@example.net"));
    other->message.project = 2;
    RUN_OK(k, STORE_ACCEPT, other);
    int64_t after = 0;
    size_t count = 0;
    for (bool more = true; more;) {
        struct store_events q = {.project = 1, .after_seq = after, .limit = 4};
        RUN_OK(k, STORE_EVENTS, &q);
        for (size_t i = 0; i < q.count; i++, count++) {
            assert_true(q.event[i].seq > after);
            assert_int_equal(q.event[i].project, 1);
            after = q.event[i].seq;
        }
        more = q.more;
    }
    assert_int_equal(count, 15);
    assert_int_equal(kit_events(k, -1, 0)->count, 16);
    assert_int_equal(kit_events(k, 2, 0)->count, 1);
}

static void an_event_carries_its_message(void **state) {
    struct kit *k = *state;
    struct message_row *m = kit_accept(k, TO("ann@example.net", "bob@example.net"));
    kit_attempt(k, m->recipient[1].key, RECIPIENT_QUEUED);
    struct store_events *q = kit_events(k, 1, 0);
    assert_int_equal(q->count, 2);
    const struct event_row *accepted = &q->event[0], *deferred = &q->event[1];
    assert_int_equal(accepted->recipient_index, -1);
    assert_true(str_equal(accepted->message_state, STR("queued")));
    assert_true(id_equal(&deferred->message_id, &m->id));
    assert_true(str_equal(deferred->external_id, STR("order-1")));
    assert_true(str_equal(deferred->tags_json, m->tags_json));
    assert_true(str_equal(deferred->metadata_json, m->metadata_json));
    assert_int_equal(deferred->recipient_index, 1);
    assert_true(str_equal(deferred->email, STR("bob@example.net")));
    assert_int_equal(deferred->state, RECIPIENT_QUEUED);
    assert_int_equal(deferred->attempt, 1);
    assert_int_equal(deferred->next_attempt_wall_ms, k->now_wall_ms + 60000);
    assert_int_equal(deferred->recipient_seq, 1);
    assert_int_equal(deferred->result.code, 451);
    assert_false(id_is_zero(&deferred->id));
    assert_false(id_equal(&deferred->id, &accepted->id));
}

/* ---- search ---- */

static size_t found(struct kit *k, struct store_messages q) {
    q.project = q.project == 0 ? 1 : q.project;
    q.limit = q.limit == 0 ? 100 : q.limit;
    RUN_OK(k, STORE_MESSAGES, &q);
    for (size_t i = 1; i < q.count; i++)
        assert_true(q.message[i].seq < q.message[i - 1].seq);
    return q.count;
}

static void messages_are_found_by_each_filter(void **state) {
    struct kit *k = *state;
    struct message_row *m1 = kit_accept(k, TO("ann@example.net", "bob@example.net"));
    struct store_accept *a2 = kit_accept_for(k, TO("Carl@example.net"));
    a2->message.from_email = STR("other@example.org");
    a2->message.external_id = STR("order-2");
    a2->message.tags_json = STR("[\"news\"]");
    RUN_OK(k, STORE_ACCEPT, a2);
    struct store_accept *a3 = kit_accept_for(k, TO("ann@example.net"));
    a3->message.project = 2;
    RUN_OK(k, STORE_ACCEPT, a3);
    kit_attempt(k, m1->recipient[0].key, RECIPIENT_BOUNCED);
    kit_attempt(k, m1->recipient[1].key, RECIPIENT_QUEUED);
    const struct {
        const char *name;
        struct store_messages q;
        size_t want;
    } rows[] = {
        {"all of a project", {.project = 1}, 2},
        {"all", {.project = -1}, 3},
        {"to", {.to = STR("bob@example.net")}, 1},
        {"to, whatever the case", {.to = STR("carl@EXAMPLE.net")}, 1},
        {"to, of all projects", {.project = -1, .to = STR("ann@example.net")}, 2},
        {"to nobody", {.to = STR("dora@example.net")}, 0},
        {"from", {.from = STR("shop@example.org")}, 1},
        {"tag", {.tag = STR("news")}, 1},
        {"tag with quotes", {.tag = STR("a \"b\"")}, 1},
        {"half a tag", {.tag = STR("new")}, 0},
        {"external id", {.external_id = STR("order-2")}, 1},
        {"external id in another case", {.external_id = STR("ORDER-2")}, 0},
        {"bounced", {.state = STR("bounced")}, 1},
        {"deferred", {.state = STR("deferred")}, 1},
        {"queued is not deferred", {.state = STR("queued")}, 1},
        {"delivered", {.state = STR("delivered")}, 0},
        {"no such state", {.state = STR("lost")}, 0},
        {"the same recipient has both", {.to = STR("bob@example.net"), .state = STR("bounced")}, 0},
        {"both", {.to = STR("ann@example.net"), .state = STR("bounced")}, 1},
        {"from and tag that differ", {.from = STR("shop@example.org"), .tag = STR("news")}, 0},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        print_message("%s\n", rows[i].name);
        assert_int_equal(found(k, rows[i].q), rows[i].want);
    }
}

static void a_listing_is_paged_from_the_newest(void **state) {
    struct kit *k = *state;
    for (int i = 0; i < 7; i++)
        kit_accept(k, TO("ann@example.net"));
    int64_t before = 0;
    size_t count = 0, pages = 0;
    for (bool more = true; more; pages++) {
        struct store_messages q = {
            .project = 1, .to = STR("ann@example.net"), .before_seq = before, .limit = 3};
        RUN_OK(k, STORE_MESSAGES, &q);
        more = q.more;
        count += q.count;
        assert_true(q.count > 0);
        assert_true(before == 0 || q.message[0].seq < before);
        before = q.message[q.count - 1].seq;
        assert_int_equal(q.message[0].recipient_count, 1);
    }
    assert_int_equal(count, 7);
    assert_int_equal(pages, 3);
}

/* ---- retention ---- */

static size_t retain(struct kit *k, int64_t content_before, int64_t events_before, size_t most) {
    struct store_retain q = {.now_wall_ms = k->now_wall_ms,
                             .content_before_wall_ms = content_before,
                             .events_before_wall_ms = events_before,
                             .captures_most = 2,
                             .most = most};
    RUN_OK(k, STORE_RETAIN, &q);
    return q.removed;
}

static void contents_go_first_and_only_of_what_is_final(void **state) {
    struct kit *k = *state;
    struct message_row *open = kit_accept(k, TO("ann@example.net"));
    struct message_row *m = kit_accept(k, TO("ann@example.net"));
    kit_attempt(k, m->recipient[0].key, RECIPIENT_BOUNCED);
    assert_int_equal(retain(k, k->now_wall_ms, 0, 100), 0); /* not older */
    k->now_wall_ms++;
    assert_int_equal(retain(k, k->now_wall_ms, 0, 100), 1);
    assert_int_equal(retain(k, k->now_wall_ms, 0, 100), 0);
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
    assert_int_equal(retain(k, k->now_wall_ms, 0, 100), 1);
    assert_false(kit_message(k, m->id).has_content);
    struct store_content c = {.id = r.new_id, .project = 1};
    RUN_OK(k, STORE_CONTENT, &c);
    assert_int_equal(message_size(c.message), 1000);
    message_unref(&c.message);
    kit_attempt(k, r.new_message.recipient[0].key, RECIPIENT_DELIVERED);
    assert_int_equal(retain(k, k->now_wall_ms + 1, 0, 100), 1);
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
    RUN_OK(k, STORE_ACCEPT, keyed(k, "key", 1));
    k->now_wall_ms += 2 * (int64_t)86400000;
    size_t steps = 0;
    while (retain(k, k->now_wall_ms, k->now_wall_ms, 3) > 0)
        assert_true(++steps < 100);
    assert_true(steps > 5); /* small ones */
    struct store_message gone = {.id = m[0]->id, .project = 1};
    assert_int_equal(RUN(k, STORE_MESSAGE, &gone), ERR_NOT_FOUND);
    kit_message(k, m[2]->id); /* has an open recipient */
    assert_int_equal(kit_events(k, 1, 0)->count, 0);
    assert_int_equal(found(k, (struct store_messages){.to = STR("ann@example.net")}), 2);
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
    struct store_accept *again = keyed(k, "key", 2);
    RUN_OK(k, STORE_ACCEPT, again);
    assert_false(again->is_replay);
}

/* ---- keys, domains ---- */

static struct key_row key_row(struct kit *k, const char *prefix, uint8_t hash) {
    struct key_row r = {.id = id_new(k->now_wall_ms),
                        .project = 1,
                        .name = STR("main"),
                        .prefix = str_of(prefix),
                        .scopes = SCOPE_SEND | SCOPE_READ,
                        .created_wall_ms = k->now_wall_ms};
    memset(r.hash, hash, sizeof(r.hash));
    return r;
}

static void keys_are_put_listed_used_and_revoked(void **state) {
    struct kit *k = *state;
    struct str domains[] = {STR("example.org"), STR("example.com")};
    struct store_key_put p = {.key = key_row(k, "pc_live_a", 1)};
    p.key.from_domains = domains;
    p.key.from_domain_count = 2;
    p.key.rate = 60;
    RUN_OK(k, STORE_KEY_PUT, &p);
    struct store_keys first = {.project = 1};
    RUN_OK(k, STORE_KEYS, &first);
    assert_int_equal(first.key[0].rate, 60);
    struct id id = p.key.id;
    struct store_key_put other = {.key = key_row(k, "pc_live_a", 2)};
    assert_int_equal(RUN(k, STORE_KEY_PUT, &other), ERR_CONFLICT);
    struct store_key_put same = {.key = key_row(k, "pc_live_a", 1)};
    same.key.scopes = SCOPE_ADMIN;
    same.key.rate = 90;
    RUN_OK(k, STORE_KEY_PUT, &same);
    assert_true(id_equal(&same.key.id, &id)); /* it is that key */
    struct store_keys_used u = {.id = &id, .wall_ms = &k->now_wall_ms, .count = 1};
    RUN_OK(k, STORE_KEYS_USED, &u);
    struct store_key_revoke r = {.id = id, .project = 2, .now_wall_ms = k->now_wall_ms};
    assert_int_equal(RUN(k, STORE_KEY_REVOKE, &r), ERR_NOT_FOUND);
    r.project = 1;
    RUN_OK(k, STORE_KEY_REVOKE, &r);
    RUN_OK(k, STORE_KEY_REVOKE, &r);
    struct store_keys q = {.project = -1};
    RUN_OK(k, STORE_KEYS, &q);
    assert_int_equal(q.count, 1);
    assert_int_equal(q.key[0].scopes, SCOPE_ADMIN);
    assert_int_equal(q.key[0].rate, 90);
    assert_int_equal(q.key[0].from_domain_count, 0);
    assert_int_equal(q.key[0].used_wall_ms, k->now_wall_ms);
    assert_int_equal(q.key[0].revoked_wall_ms, k->now_wall_ms);
    assert_int_equal(q.key[0].hash[31], 1);
    q.project = 2;
    RUN_OK(k, STORE_KEYS, &q);
    assert_int_equal(q.count, 0);
}

static void the_domains_of_a_key_come_back_in_order(void **state) {
    struct kit *k = *state;
    struct str domains[] = {STR("b.example"), STR("a.example"), STR("c.example")};
    struct store_key_put p = {.key = key_row(k, "pc_live_b", 1)};
    p.key.from_domains = domains;
    p.key.from_domain_count = 3;
    RUN_OK(k, STORE_KEY_PUT, &p);
    struct store_keys q = {.project = 1};
    RUN_OK(k, STORE_KEYS, &q);
    assert_int_equal(q.key[0].from_domain_count, 3);
    for (size_t i = 0; i < 3; i++)
        assert_true(str_equal(q.key[0].from_domains[i], domains[i]));
}

static void domains_are_put_replaced_and_deleted(void **state) {
    struct kit *k = *state;
    struct domain_key_row keys[] = {{.selector = STR("s1"),
                                     .algorithm = STR("rsa-sha256"),
                                     .pem = STR("p1"),
                                     .record = STR("r1")},
                                    {.selector = STR("s2"),
                                     .algorithm = STR("ed25519-sha256"),
                                     .pem = STR("p2"),
                                     .published_wall_ms = 7}};
    struct store_domain_put p = {.domain = {.id = id_new(k->now_wall_ms),
                                            .project = 1,
                                            .name = STR("example.org"),
                                            .created_wall_ms = 5,
                                            .key = keys,
                                            .key_count = 2}};
    struct id id = p.domain.id;
    RUN_OK(k, STORE_DOMAIN_PUT, &p);
    assert_int_equal(RUN(k, STORE_DOMAIN_PUT, &p), ERR_CONFLICT);
    struct store_domains q = {.project = 1};
    RUN_OK(k, STORE_DOMAINS, &q);
    assert_int_equal(q.count, 1);
    assert_int_equal(q.domain[0].key_count, 2);
    assert_true(str_equal(q.domain[0].key[1].selector, STR("s2")));
    assert_true(str_is_absent(q.domain[0].key[1].record));
    assert_int_equal(q.domain[0].key[1].published_wall_ms, 7);
    p.replace = true;
    p.domain.id = id_new(k->now_wall_ms);
    p.domain.verified_wall_ms = 9;
    p.domain.key_count = 1;
    RUN_OK(k, STORE_DOMAIN_PUT, &p);
    RUN_OK(k, STORE_DOMAINS, &q);
    assert_int_equal(q.count, 1);
    assert_true(id_equal(&q.domain[0].id, &id)); /* it is that domain */
    assert_int_equal(q.domain[0].verified_wall_ms, 9);
    assert_int_equal(q.domain[0].key_count, 1);
    struct store_domain_delete d = {.name = STR("example.org"), .project = 2};
    assert_int_equal(RUN(k, STORE_DOMAIN_DELETE, &d), ERR_NOT_FOUND);
    d.project = 1;
    RUN_OK(k, STORE_DOMAIN_DELETE, &d);
    RUN_OK(k, STORE_DOMAINS, &q);
    assert_int_equal(q.count, 0);
}

/* ---- webhooks and notifications ---- */

static void an_endpoint_gets_the_events_that_it_wants(void **state) {
    struct kit *k = *state;
    struct id all = kit_webhook(k, 1, "*"), ended = kit_webhook(k, 1, "final"),
              bad = kit_webhook(k, 1, "undelivered"), one = kit_webhook(k, 1, "recipient.deferred"),
              other = kit_webhook(k, 2, "*");
    struct message_row *m = kit_accept(k, TO("ann@example.net"));
    kit_attempt(k, m->recipient[0].key, RECIPIENT_QUEUED);
    kit_attempt(k, m->recipient[0].key, RECIPIENT_BOUNCED);
    const struct {
        struct id *id;
        size_t want;
    } rows[] = {{&all, 4}, {&ended, 2}, {&bad, 1}, {&one, 1}, {&other, 0}};
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct store_notifications q = {.webhook_id = *rows[i].id, .project = -1, .limit = 100};
        RUN_OK(k, STORE_NOTIFICATIONS, &q);
        assert_int_equal(q.count, rows[i].want);
    }
    assert_int_equal(kit_totals(k).notifications_pending, 8);
}

static void a_notification_is_claimed_with_its_event_and_settled(void **state) {
    struct kit *k = *state;
    struct id hook = kit_webhook(k, 1, "recipient.bounced");
    struct message_row *m = kit_accept(k, TO("ann@example.net"));
    kit_attempt(k, m->recipient[0].key, RECIPIENT_BOUNCED);
    struct store_notify_claim *c = kit_notify_claim(k);
    assert_int_equal(c->count, 1);
    assert_int_equal(c->next_due_wall_ms, 0);
    assert_int_equal(c->event[0].type, EVENT_RECIPIENT_BOUNCED);
    assert_true(id_equal(&c->event[0].id, &c->notification[0].event_id));
    assert_true(id_equal(&c->notification[0].webhook_id, &hook));
    assert_true(str_equal(c->event[0].email, STR("ann@example.net")));
    assert_int_equal(c->event[0].result.code, 550);
    assert_int_equal(kit_notify_claim(k)->count, 0); /* it is being sent */
    struct notify_result r = {.seq = c->notification[0].seq,
                              .state = NOTIFICATION_PENDING,
                              .counts = true,
                              .due_wall_ms = k->now_wall_ms + 5000,
                              .status = 503,
                              .took_ms = 12,
                              .response = STR("busy")};
    assert_int_equal(kit_notify_settle(k, r), OK);
    c = kit_notify_claim(k);
    assert_int_equal(c->count, 0);
    assert_int_equal(c->next_due_wall_ms, k->now_wall_ms + 5000);
    k->now_wall_ms += 5000;
    c = kit_notify_claim(k);
    assert_int_equal(c->count, 1);
    assert_int_equal(c->notification[0].attempts, 1);
    r.state = NOTIFICATION_DELIVERED;
    r.status = 204;
    assert_int_equal(kit_notify_settle(k, r), OK);
    assert_int_equal(kit_notify_settle(k, r), ERR_CONFLICT);
    struct store_notifications q = {.webhook_id = hook, .project = 1, .limit = 10};
    RUN_OK(k, STORE_NOTIFICATIONS, &q);
    assert_int_equal(q.count, 1);
    assert_int_equal(q.notification[0].state, NOTIFICATION_DELIVERED);
    assert_int_equal(q.notification[0].attempts, 2);
    assert_int_equal(q.notification[0].status, 204);
    assert_true(str_equal(q.notification[0].response, STR("busy")));
    assert_int_equal(kit_totals(k).notifications_pending, 0);
}

static void a_slow_endpoint_gets_only_so_many_at_once(void **state) {
    struct kit *k = *state;
    kit_webhook(k, 1, "message.accepted");
    struct id fast = kit_webhook(k, 1, "message.accepted");
    for (int i = 0; i < 5; i++)
        kit_accept(k, TO("ann@example.net"));
    struct store_notify_claim q = {.now_wall_ms = k->now_wall_ms, .most = 100, .per_webhook = 3};
    RUN_OK(k, STORE_NOTIFY_CLAIM, &q);
    assert_int_equal(q.count, 6);
    assert_int_equal(q.next_due_wall_ms, k->now_wall_ms);
    struct notify_result done = {.state = NOTIFICATION_DELIVERED, .counts = true, .status = 200};
    size_t settled = 0;
    for (size_t i = 0; i < q.count; i++) {
        if (!id_equal(&q.notification[i].webhook_id, &fast))
            continue;
        done.seq = q.notification[i].seq;
        assert_int_equal(kit_notify_settle(k, done), OK);
        settled++;
    }
    assert_int_equal(settled, 3);
    RUN_OK(k, STORE_NOTIFY_CLAIM, &q);
    assert_int_equal(q.count, 2); /* of the fast one */
    assert_true(id_equal(&q.notification[0].webhook_id, &fast));
}

static struct webhook_row webhook_of(struct kit *k, struct id id) {
    struct store_webhooks q = {.project = -1};
    RUN_OK(k, STORE_WEBHOOKS, &q);
    for (size_t i = 0; i < q.count; i++)
        if (id_equal(&q.webhook[i].id, &id))
            return q.webhook[i];
    fail_msg("no such endpoint");
    return (struct webhook_row){0};
}

static void an_endpoint_that_is_gone_is_disabled(void **state) {
    struct kit *k = *state;
    struct id gone = kit_webhook(k, 1, "*"), other = kit_webhook(k, 1, "webhook.disabled");
    kit_accept(k, TO("ann@example.net"));
    kit_accept(k, TO("ann@example.net"));
    struct store_notify_claim c = {.now_wall_ms = k->now_wall_ms, .most = 1, .per_webhook = 1};
    RUN_OK(k, STORE_NOTIFY_CLAIM, &c);
    assert_int_equal(c.count, 1);
    struct notify_result r = {.seq = c.notification[0].seq,
                              .state = NOTIFICATION_FAILED,
                              .counts = true,
                              .status = 410,
                              .disable_webhook = true};
    assert_int_equal(kit_notify_settle(k, r), OK);
    assert_int_equal(webhook_of(k, gone).state, WEBHOOK_DISABLED);
    /* the event is in the feed and goes to the others; nothing goes to the disabled one */
    struct store_events *e = kit_events(k, 1, 0);
    const struct event_row *last = &e->event[e->count - 1];
    assert_int_equal(last->type, EVENT_WEBHOOK_DISABLED);
    assert_true(id_equal(&last->webhook_id, &gone));
    assert_true(last->note.n > 0);
    assert_true(id_is_zero(&last->message_id));
    struct store_notify_claim *n = kit_notify_claim(k);
    assert_int_equal(n->count, 1);
    assert_true(id_equal(&n->notification[0].webhook_id, &other));
    struct store_webhook_test t = {.id = gone, .project = 1, .now_wall_ms = k->now_wall_ms};
    assert_int_equal(RUN(k, STORE_WEBHOOK_TEST, &t), ERR_CONFLICT);
    /* enabled again, it gets what waited */
    struct store_webhook_put p = {.webhook = webhook_of(k, gone), .replace = true};
    p.webhook.state = WEBHOOK_ENABLED;
    RUN_OK(k, STORE_WEBHOOK_PUT, &p);
    assert_int_equal(kit_notify_claim(k)->count, 1);
}

static void an_endpoint_fails_and_works_again(void **state) {
    struct kit *k = *state;
    struct id hook = kit_webhook(k, 1, "message.accepted");
    for (int i = 0; i < 2; i++) {
        kit_accept(k, TO("ann@example.net"));
        struct store_notify_claim *c = kit_notify_claim(k);
        assert_int_equal(c->count, 1);
        struct notify_result r = {.seq = c->notification[0].seq,
                                  .state = i == 0 ? NOTIFICATION_FAILED : NOTIFICATION_DELIVERED,
                                  .counts = true,
                                  .mark_failing = i == 0,
                                  .mark_working = i == 1};
        assert_int_equal(kit_notify_settle(k, r), OK);
        assert_int_equal(webhook_of(k, hook).state, i == 0 ? WEBHOOK_FAILING : WEBHOOK_ENABLED);
    }
    struct store_events *e = kit_events(k, 1, 0);
    assert_int_equal(e->count, 3);
    assert_int_equal(e->event[1].type, EVENT_WEBHOOK_DISABLED);
}

static void notifications_are_replayed_one_or_a_period(void **state) {
    struct kit *k = *state;
    struct id hook = kit_webhook(k, 1, "message.accepted");
    int64_t start = k->now_wall_ms, seq[3];
    for (int i = 0; i < 3; i++, k->now_wall_ms += 1000) {
        kit_accept(k, TO("ann@example.net"));
        struct store_notify_claim *c = kit_notify_claim(k);
        seq[i] = c->notification[0].seq;
        struct notify_result r = {.seq = seq[i],
                                  .state = i == 1 ? NOTIFICATION_FAILED : NOTIFICATION_DELIVERED,
                                  .counts = true};
        assert_int_equal(kit_notify_settle(k, r), OK);
    }
    struct store_notify_replay q = {
        .webhook_id = hook, .project = 1, .seq = seq[2], .now_wall_ms = k->now_wall_ms};
    RUN_OK(k, STORE_NOTIFY_REPLAY, &q);
    assert_int_equal(q.replayed, 1);
    struct store_notify_claim *c = kit_notify_claim(k);
    assert_int_equal(c->count, 1);
    assert_int_equal(c->notification[0].seq, seq[2]);
    assert_int_equal(RUN(k, STORE_NOTIFY_REPLAY, &q), ERR_CONFLICT); /* being sent */
    q = (struct store_notify_replay){.webhook_id = hook,
                                     .project = 1,
                                     .since_wall_ms = start,
                                     .until_wall_ms = start + 1000,
                                     .only_failed = true,
                                     .now_wall_ms = k->now_wall_ms};
    RUN_OK(k, STORE_NOTIFY_REPLAY, &q);
    assert_int_equal(q.replayed, 1);
    q.only_failed = false;
    RUN_OK(k, STORE_NOTIFY_REPLAY, &q);
    assert_int_equal(q.replayed, 1); /* the other is pending already */
    assert_int_equal(kit_notify_claim(k)->count, 2);
    assert_int_equal(kit_totals(k).notifications_pending, 3);
    q.project = 2;
    assert_int_equal(RUN(k, STORE_NOTIFY_REPLAY, &q), ERR_NOT_FOUND);
}

static void a_test_goes_to_its_endpoint_alone(void **state) {
    struct kit *k = *state;
    struct id hook = kit_webhook(k, 1, "message.completed");
    kit_webhook(k, 1, "*");
    struct store_webhook_test t = {.id = hook, .project = 1, .now_wall_ms = k->now_wall_ms};
    RUN_OK(k, STORE_WEBHOOK_TEST, &t);
    struct store_notify_claim *c = kit_notify_claim(k);
    assert_int_equal(c->count, 1);
    assert_true(id_equal(&c->notification[0].webhook_id, &hook));
    assert_true(id_equal(&c->event[0].id, &t.event_id));
    t.project = 2;
    assert_int_equal(RUN(k, STORE_WEBHOOK_TEST, &t), ERR_NOT_FOUND);
}

static void a_deleted_endpoint_is_gone_at_once_and_swept_later(void **state) {
    struct kit *k = *state;
    struct id hook = kit_webhook(k, 1, "*");
    for (int i = 0; i < 5; i++)
        kit_accept(k, TO("ann@example.net"));
    struct store_notify_claim *c = kit_notify_claim(k);
    struct store_webhook_delete d = {.id = hook, .project = 2};
    assert_int_equal(RUN(k, STORE_WEBHOOK_DELETE, &d), ERR_NOT_FOUND);
    d.project = 1;
    RUN_OK(k, STORE_WEBHOOK_DELETE, &d);
    assert_int_equal(RUN(k, STORE_WEBHOOK_DELETE, &d), ERR_NOT_FOUND);
    struct store_webhooks q = {.project = 1};
    RUN_OK(k, STORE_WEBHOOKS, &q);
    assert_int_equal(q.count, 0);
    assert_int_equal(kit_notify_claim(k)->count, 0);
    kit_accept(k, TO("ann@example.net"));
    /* what was under way ends well */
    struct notify_result r = {
        .seq = c->notification[0].seq, .state = NOTIFICATION_DELIVERED, .counts = true};
    assert_int_equal(kit_notify_settle(k, r), OK);
    while (retain(k, 0, 0, 2) > 0)
        ;
    assert_int_equal(kit_totals(k).notifications_pending, 0);
    r.seq = c->notification[1].seq;
    assert_int_equal(kit_notify_settle(k, r), OK); /* swept meanwhile */
}

static void endpoints_come_back_as_they_were_put(void **state) {
    struct kit *k = *state;
    struct str events[] = {STR("final"), STR("recipient.deferred")};
    struct store_webhook_put p = {.webhook = {.id = id_new(k->now_wall_ms),
                                              .project = 3,
                                              .url = STR("https://x.example/"),
                                              .secret = STR("whsec_1"),
                                              .previous_secret = STR("whsec_0"),
                                              .previous_until_wall_ms = 99,
                                              .events = events,
                                              .event_count = 2,
                                              .description = STR("d"),
                                              .created_wall_ms = 4}};
    RUN_OK(k, STORE_WEBHOOK_PUT, &p);
    assert_int_equal(RUN(k, STORE_WEBHOOK_PUT, &p), ERR_CONFLICT);
    struct webhook_row w = webhook_of(k, p.webhook.id);
    assert_int_equal(w.project, 3);
    assert_true(str_equal(w.previous_secret, STR("whsec_0")));
    assert_int_equal(w.event_count, 2);
    assert_true(str_equal(w.events[1], STR("recipient.deferred")));
    assert_int_equal(w.created_wall_ms, 4);
    struct store_webhook_put absent = {.webhook = w, .replace = true};
    absent.webhook.id = id_new(k->now_wall_ms);
    assert_int_equal(RUN(k, STORE_WEBHOOK_PUT, &absent), ERR_NOT_FOUND);
}

static void a_change_does_not_undo_one_that_was_quicker(void **state) {
    struct kit *k = *state;
    struct id id = kit_webhook(k, 1, "*");
    struct webhook_row seen = webhook_of(k, id);
    struct store_webhook_put rotate = {.webhook = seen, .replace = true, .seen = &seen};
    rotate.webhook.secret = STR("whsec_bmV3");
    RUN_OK(k, STORE_WEBHOOK_PUT, &rotate);
    struct store_webhook_put rename = {.webhook = seen, .replace = true, .seen = &seen};
    rename.webhook.description = STR("d");
    assert_int_equal(RUN(k, STORE_WEBHOOK_PUT, &rename), ERR_CONFLICT);
    assert_true(str_equal(webhook_of(k, id).secret, STR("whsec_bmV3")));
    struct webhook_row now = webhook_of(k, id);
    struct store_webhook_put disable = {.webhook = now, .replace = true, .seen = &now};
    disable.webhook.state = WEBHOOK_DISABLED;
    RUN_OK(k, STORE_WEBHOOK_PUT, &disable);
    rename.webhook = now;
    rename.seen = &now;
    assert_int_equal(RUN(k, STORE_WEBHOOK_PUT, &rename), ERR_CONFLICT);
    assert_int_equal(webhook_of(k, id).state, WEBHOOK_DISABLED);
}

/* ---- captures ---- */

static void captures_are_listed_newest_first_and_limited(void **state) {
    struct kit *k = *state;
    struct id id[5];
    for (int i = 0; i < 5; i++) {
        struct store_capture_put p = {
            .capture = {.id = id_new(k->now_wall_ms + i),
                        .kind = i == 4 ? CAPTURE_WEBHOOK : CAPTURE_MESSAGE,
                        .wall_ms = k->now_wall_ms + i,
                        .meta_json = STR("{}"),
                        .content = STR("body")}};
        id[i] = p.capture.id;
        RUN_OK(k, STORE_CAPTURE_PUT, &p);
    }
    struct store_captures q = {.kind = CAPTURE_MESSAGE, .limit = 3};
    RUN_OK(k, STORE_CAPTURES, &q);
    assert_int_equal(q.count, 3);
    assert_true(q.more);
    assert_true(id_equal(&q.capture[0].id, &id[3]));
    assert_true(str_is_absent(q.capture[0].content));
    q.before = q.capture[2].id;
    RUN_OK(k, STORE_CAPTURES, &q);
    assert_int_equal(q.count, 1);
    assert_true(id_equal(&q.capture[0].id, &id[0]));
    assert_false(q.more);
    q = (struct store_captures){.kind = CAPTURE_WEBHOOK, .limit = 3};
    RUN_OK(k, STORE_CAPTURES, &q);
    assert_true(str_equal(q.capture[0].content, STR("body")));
    struct store_capture c = {.id = id[1]};
    RUN_OK(k, STORE_CAPTURE, &c);
    assert_true(str_equal(c.capture.content, STR("body")));
    assert_int_equal(retain(k, 0, 0, 100), 2); /* two of four messages */
    assert_int_equal(RUN(k, STORE_CAPTURE, &c), ERR_NOT_FOUND);
    c.id = id[2];
    RUN_OK(k, STORE_CAPTURE, &c);
}

/* ---- notices ---- */

struct heard {
    size_t due, gone, message, complete, notify, keys, webhooks, domains;
    struct outgoing *outgoing;
    struct str key;
};

static void hear(struct store_notice *n) {
    struct heard *h = n->ctx;
    h->message += n->kind == NOTICE_MESSAGE;
    h->complete += n->kind == NOTICE_MESSAGE && n->is_complete;
    h->notify += n->kind == NOTICE_NOTIFY;
    h->keys += n->kind == NOTICE_KEYS;
    h->webhooks += n->kind == NOTICE_WEBHOOKS;
    h->domains += n->kind == NOTICE_DOMAINS;
    h->gone += n->kind == NOTICE_GONE ? n->due_count : 0;
    if (n->kind == NOTICE_DUE) {
        h->due += n->due_count;
        outgoing_unref(&h->outgoing);
        h->outgoing = outgoing_ref(n->due[0].outgoing);
    }
    store_notice_free(&n);
}

static void watchers_hear_of_what_was_committed(void **state) {
    struct kit *k = *state;
    struct mailbox *box = kit_box(k);
    struct heard all = {0}, due = {0};
    store_watch(k->store, 0xFFFF, box, hear, &all);
    store_watch(k->store, NOTICE_DUE, box, hear, &due);
    kit_webhook(k, 1, "recipient.delivered");
    struct store_accept *q = keyed(k, "key", 1);
    struct message *content = message_ref(q->content);
    RUN_OK(k, STORE_ACCEPT, q);
    assert_int_equal(RUN(k, STORE_ACCEPT, keyed(k, "key", 2)), ERR_CONFLICT);
    RUN_OK(k, STORE_ACCEPT, keyed(k, "key", 1));
    mailbox_wait(box, 0);
    assert_int_equal(all.due, 1); /* not of the refused one, not of the replay */
    assert_int_equal(due.due, 1);
    assert_int_equal(all.webhooks, 1);
    assert_int_equal(due.webhooks, 0);
    assert_true(all.outgoing->message == content); /* it rides along */
    kit_attempt(k, q->message.recipient[0].key, RECIPIENT_DELIVERED);
    struct message_row *m = kit_accept(k, TO("b@example.net", "c@example.net"));
    struct store_cancel x = {.id = m->id, .project = 1, .now_wall_ms = k->now_wall_ms};
    RUN_OK(k, STORE_CANCEL, &x);
    mailbox_wait(box, 0);
    assert_int_equal(all.message, 2);
    assert_int_equal(all.complete, 2);
    assert_true(all.notify >= 1);
    assert_int_equal(all.due, 3);
    assert_int_equal(all.gone, 2);
    store_unwatch(k->store, box);
    kit_accept(k, TO("d@example.net"));
    mailbox_wait(box, 0);
    assert_int_equal(all.due, 3);
    outgoing_unref(&all.outgoing);
    outgoing_unref(&due.outgoing);
    message_unref(&content);
}

static void large_and_too_many_contents_do_not_ride_along(void **state) {
    struct kit *k = *state;
    struct mailbox *box = kit_box(k);
    struct heard h = {0};
    store_watch(k->store, NOTICE_DUE, box, hear, &h);
    struct store_accept *q = kit_accept_for(k, TO("ann@example.net"));
    message_unref(&q->content);
    q->content = kit_content(q->message.id, LIMIT_BODY_CHUNK + 1);
    RUN_OK(k, STORE_ACCEPT, q);
    mailbox_wait(box, 0);
    assert_null(h.outgoing->message);
    outgoing_unref(&h.outgoing);
    /* 6 MiB of 256 KiB each are carried; no more until some are let go */
    for (int i = 0; i < 30; i++) {
        q = kit_accept_for(k, TO("ann@example.net"));
        message_unref(&q->content);
        q->content = kit_content(q->message.id, LIMIT_BODY_CHUNK);
        RUN_OK(k, STORE_ACCEPT, q);
    }
    size_t carried = 0, count = 0;
    struct note *list = mailbox_take(box, 0), *next;
    for (struct note *n = list; n != NULL; n = n->next, count++)
        carried += CONTAINER_OF(n, struct store_notice, note)->due[0].outgoing->message != NULL;
    assert_int_equal(count, 30);
    assert_int_equal(carried, 24);
    for (struct note *n = list; n != NULL; n = next) {
        next = n->next;
        n->run(n);
    }
    outgoing_unref(&h.outgoing);
    q = kit_accept_for(k, TO("ann@example.net"));
    RUN_OK(k, STORE_ACCEPT, q);
    mailbox_wait(box, 0);
    assert_non_null(h.outgoing->message);
    outgoing_unref(&h.outgoing);
    store_unwatch(k->store, box);
}

/* ---- many threads ---- */

enum { WORKERS = 4, EACH = 60 };
struct worker {
    struct kit *k;
    struct thread *thread;
    struct store_accept *q[EACH];
};

static void work(void *arg) {
    struct worker *w = arg;
    for (int i = 0; i < EACH; i++) {
        struct store_accept *q = w->q[i];
        q->call.verb = STORE_ACCEPT;
        ASSERT(store_sync(w->k->store, &q->call) == OK);
        recipient_key_t key = q->message.recipient[0].key;
        bool is_claimed = false;
        struct store_claim c = {.call = {.verb = STORE_CLAIM},
                                .key = &key,
                                .count = 1,
                                .now_wall_ms = w->k->now_wall_ms,
                                .is_claimed = &is_claimed};
        ASSERT(store_sync(w->k->store, &c.call) == OK && is_claimed);
        struct settle_result r =
            kit_result(w->k, key, i % 3 == 0 ? RECIPIENT_QUEUED : RECIPIENT_DELIVERED);
        struct store_settle s = {.call = {.verb = STORE_SETTLE},
                                 .result = &r,
                                 .count = 1,
                                 .now_wall_ms = w->k->now_wall_ms};
        ASSERT(store_sync(w->k->store, &s.call) == OK);
        struct store_message m = {
            .call = {.verb = STORE_MESSAGE}, .id = q->message.id, .project = 1};
        ASSERT(store_sync(w->k->store, &m.call) == OK);
        ASSERT(m.message.recipient[0].state == r.state); /* sees what was done before */
        store_call_release(&m.call);
    }
}

static void many_threads_share_the_store(void **state) {
    struct kit *k = *state;
    kit_webhook(k, 1, "*");
    struct worker w[WORKERS] = {{.k = k}, {.k = k}, {.k = k}, {.k = k}};
    for (int i = 0; i < WORKERS; i++)
        for (int j = 0; j < EACH; j++)
            w[i].q[j] = kit_accept_for(k, j % 2 ? TO("a@one.example") : TO("b@two.example"));
    for (int i = 0; i < WORKERS; i++)
        w[i].thread = thread_start("worker", work, &w[i]);
    for (int i = 0; i < WORKERS; i++)
        thread_join(&w[i].thread);
    struct store_totals t = kit_totals(k);
    assert_int_equal(t.accepted, WORKERS * EACH);
    assert_int_equal(t.by_state[RECIPIENT_QUEUED], WORKERS * EACH / 3);
    /* accepted, deferred | delivered, completed */
    assert_int_equal(t.notifications_pending,
                     WORKERS * EACH + WORKERS * EACH + WORKERS * EACH * 2 / 3);
}

/* ---- every backend ---- */

static int sqlite_setup(void **state) {
    *state = kit_new(STORE_SQLITE);
    return 0;
}
static int sealed_setup(void **state) {
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
static int memory_setup(void **state) {
    *state = kit_new(STORE_MEMORY);
    return 0;
}

static int teardown(void **state) {
    kit_free(*state);
    return 0;
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, SETUP, teardown)
#define TESTS                                                                                      \
    TEST(an_accepted_message_is_read_back_as_it_was),                                              \
        TEST(an_empty_reverse_path_is_not_an_absent_one),                                          \
        TEST(another_projects_message_is_not_found),                                               \
        TEST(contents_of_every_size_come_back_byte_by_byte),                                       \
        TEST(a_content_in_two_pieces_is_stored_as_one),                                            \
        TEST(a_message_whose_recipients_are_all_suppressed_is_complete),                           \
        TEST(an_equal_submission_under_a_used_key_gets_the_first_answer),                          \
        TEST(another_submission_under_a_used_key_is_refused),                                      \
        TEST(concurrent_equal_submissions_make_one_message),                                       \
        TEST(a_key_is_forgotten_after_its_time), TEST(big_submissions_are_replayed_too),           \
        TEST(a_recipient_goes_from_claim_to_delivered), TEST(a_claim_is_given_once),               \
        TEST(only_what_is_sending_can_be_settled), TEST(a_settle_is_all_or_nothing),               \
        TEST(results_are_kept_with_their_attempt),                                                 \
        TEST(what_did_not_count_is_no_attempt_and_no_event), TEST(attempts_come_by_pages),         \
        TEST(attempts_that_found_no_domain_are_counted),                                           \
        TEST(an_unknown_outcome_marks_a_possible_duplicate),                                       \
        TEST(a_delivered_recipient_may_bounce_late), TEST(a_released_claim_is_queued_again),       \
        TEST(a_scheduled_recipient_is_not_claimed_before_its_time),                                \
        TEST(cancel_ends_what_waits_and_nothing_else),                                             \
        TEST(retry_makes_deferred_recipients_due_now),                                             \
        TEST(retry_of_what_ended_makes_a_new_message),                                             \
        TEST(what_is_all_delivered_cannot_be_retried),                                             \
        TEST(the_sweep_expires_what_waits_too_long), TEST(other_messages_do_not_expire_with_it),   \
        TEST(loading_is_fair_to_keys_lanes_and_projects),                                          \
        TEST(a_project_with_much_does_not_starve_one_with_little),                                 \
        TEST(the_next_due_time_is_told), TEST(due_rows_carry_what_delivery_needs),                 \
        TEST(the_feed_is_in_order_and_can_be_paged), TEST(an_event_carries_its_message),           \
        TEST(messages_are_found_by_each_filter), TEST(a_listing_is_paged_from_the_newest),         \
        TEST(contents_go_first_and_only_of_what_is_final),                                         \
        TEST(a_content_that_a_retry_shares_stays_until_both_are_old),                              \
        TEST(old_messages_go_with_all_that_is_theirs_and_totals_stay),                             \
        TEST(keys_are_put_listed_used_and_revoked), TEST(the_domains_of_a_key_come_back_in_order), \
        TEST(domains_are_put_replaced_and_deleted),                                                \
        TEST(an_endpoint_gets_the_events_that_it_wants),                                           \
        TEST(a_notification_is_claimed_with_its_event_and_settled),                                \
        TEST(a_slow_endpoint_gets_only_so_many_at_once),                                           \
        TEST(an_endpoint_that_is_gone_is_disabled), TEST(an_endpoint_fails_and_works_again),       \
        TEST(notifications_are_replayed_one_or_a_period), TEST(a_test_goes_to_its_endpoint_alone), \
        TEST(a_deleted_endpoint_is_gone_at_once_and_swept_later),                                  \
        TEST(endpoints_come_back_as_they_were_put),                                                \
        TEST(a_change_does_not_undo_one_that_was_quicker),                                         \
        TEST(captures_are_listed_newest_first_and_limited),                                        \
        TEST(watchers_hear_of_what_was_committed),                                                 \
        TEST(large_and_too_many_contents_do_not_ride_along), TEST(many_threads_share_the_store)

int main(void) {
#define SETUP sqlite_setup
    const struct CMUnitTest on_sqlite[] = {TESTS};
#undef SETUP
    int failed = cmocka_run_group_tests_name("sqlite", on_sqlite, NULL, NULL);
#define SETUP sealed_setup
    const struct CMUnitTest on_sealed[] = {
        TEST(domains_are_put_replaced_and_deleted),
        TEST(an_endpoint_gets_the_events_that_it_wants),
        TEST(an_endpoint_that_is_gone_is_disabled),
        TEST(a_deleted_endpoint_is_gone_at_once_and_swept_later),
        TEST(endpoints_come_back_as_they_were_put),
        TEST(a_change_does_not_undo_one_that_was_quicker),
    };
#undef SETUP
    failed += cmocka_run_group_tests_name("sqlite, sealed", on_sealed, NULL, NULL);
#define SETUP memory_setup
    const struct CMUnitTest on_memory[] = {TESTS};
    failed += cmocka_run_group_tests_name("memory", on_memory, NULL, NULL);
    return failed;
}
