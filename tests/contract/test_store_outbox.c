/* The contract of the outbox, on every backend. What becomes of a recipient: claim, settle,
 * release, cancel, retry, expiry. After each test store_check() recomputes what is kept along with
 * the rows. */
#include "tests/contract/store_kit.h"
#include "tests/unit/log_watch.h"

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

static void since_when_a_domain_is_not_there_is_remembered_until_it_is(void **state) {
    struct kit *k = *state;
    static const struct {
        enum stage stage;
        enum failure failure;
        int since; /* which of them, from 1; 0: it is there, for all that is known */
        int64_t kept_ms;
    } rows[] = {{STAGE_RESOLVE, FAILURE_DNS_TEMPORARY, 0, 0},
                {STAGE_RESOLVE, FAILURE_DNS_NXDOMAIN, 2, 0},
                {STAGE_RESOLVE, FAILURE_DNS_NO_ADDRESS, 2, 9},
                {STAGE_RESOLVE, FAILURE_DNS_TEMPORARY, 2, 0},
                {STAGE_CONNECT, FAILURE_CONNECT_REFUSED, 0, 0},
                {STAGE_RESOLVE, FAILURE_DNS_PRIVATE, 0, 9},
                {STAGE_RESOLVE, FAILURE_DNS_NO_ADDRESS, 7, 300000},
                {STAGE_RESOLVE, FAILURE_DNS_NO_ADDRESS, 7, 9}};
    enum { ROWS = sizeof(rows) / sizeof(rows[0]) };
    int64_t at_wall_ms[ROWS];
    struct message_row *m = kit_accept(k, TO("ann@example.net"));
    for (int i = 0; i < ROWS; i++) {
        at_wall_ms[i] = k->now_wall_ms += 1000;
        assert_true(kit_claim(k, m->recipient[0].key));
        struct settle_result r = kit_result(k, m->recipient[0].key, RECIPIENT_QUEUED);
        r.last = (struct last_result){.stage = rows[i].stage, .failure = rows[i].failure};
        r.kept_ms = rows[i].kept_ms;
        assert_int_equal(kit_settle(k, r), OK);
        struct store_due *d = kit_due(k, INT64_MAX);
        assert_int_equal(d->count, 1);
        int first = rows[i].since - 1;
        assert_int_equal(d->due[0].no_domain_wall_ms,
                         first >= 0 ? at_wall_ms[first] + rows[first].kept_ms : 0);
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

static struct store_retry keyed_retry(struct kit *k, struct id id, uint8_t fingerprint) {
    struct store_retry r = {.id = id,
                            .project = 1,
                            .new_id = id_new(k->now_wall_ms),
                            .now_wall_ms = k->now_wall_ms,
                            .expires_wall_ms = k->now_wall_ms + 7000,
                            .idempotency_key = STR("again"),
                            .idempotency_until_wall_ms = k->now_wall_ms + 1000};
    memset(r.fingerprint, fingerprint, sizeof(r.fingerprint));
    return r;
}

static void an_equal_retry_under_a_used_key_gets_the_first_answer(void **state) {
    struct kit *k = *state;
    struct message_row *m = kit_accept(k, TO("a@example.net"));
    kit_attempt(k, m->recipient[0].key, RECIPIENT_BOUNCED);
    struct store_retry ask = keyed_retry(k, m->id, 1);
    ask.asks_only = true;
    assert_int_equal(RUN(k, STORE_RETRY, &ask), ERR_NOT_FOUND);
    struct store_retry first = keyed_retry(k, m->id, 1), second = keyed_retry(k, m->id, 1);
    RUN_OK(k, STORE_RETRY, &first);
    assert_true(first.made_new);
    assert_false(first.is_replay);
    kit_attempt(k, first.new_message.recipient[0].key, RECIPIENT_DELIVERED);
    RUN_OK(k, STORE_RETRY, &second);
    assert_true(second.is_replay && second.made_new);
    assert_true(id_equal(&second.message.id, &m->id));
    assert_true(id_equal(&second.new_message.id, &first.new_id));
    assert_int_equal(second.new_message.recipient[0].state, RECIPIENT_DELIVERED);
    expect_log("less room than disk_floor");
    store_set_disk_floor(k->store, INT64_MAX); /* asking takes no room */
    RUN_OK(k, STORE_RETRY, &ask);
    store_set_disk_floor(k->store, 0);
    assert_true(ask.is_replay);
    assert_int_equal(kit_totals(k).accepted, 2);
    /* another one, also of a submission */
    struct store_retry other = keyed_retry(k, m->id, 2);
    assert_int_equal(RUN(k, STORE_RETRY, &other), ERR_CONFLICT);
    assert_string_equal(other.call.info.field, "Idempotency-Key");
    assert_int_equal(RUN(k, STORE_ACCEPT, kit_keyed(k, "again", 2)), ERR_CONFLICT);
    /* after its time it is a new one */
    k->now_wall_ms = first.idempotency_until_wall_ms;
    struct store_retry third = keyed_retry(k, m->id, 1);
    RUN_OK(k, STORE_RETRY, &third);
    assert_false(third.is_replay);
    assert_int_equal(kit_totals(k).accepted, 3);
}

static void a_key_answers_for_a_retry_that_made_no_message(void **state) {
    struct kit *k = *state;
    struct message_row *m = kit_accept(k, TO("a@example.net"));
    kit_attempt(k, m->recipient[0].key, RECIPIENT_QUEUED);
    struct store_retry first = keyed_retry(k, m->id, 1), second = keyed_retry(k, m->id, 1);
    RUN_OK(k, STORE_RETRY, &first);
    assert_false(first.made_new);
    kit_attempt(k, m->recipient[0].key, RECIPIENT_BOUNCED); /* which would go again */
    RUN_OK(k, STORE_RETRY, &second);
    assert_true(second.is_replay);
    assert_false(second.made_new);
    assert_int_equal(second.message.recipient[0].state, RECIPIENT_BOUNCED);
    assert_int_equal(kit_totals(k).accepted, 1);
}

/* What was sent under a key is not sent again because it was forgotten. */
static void a_key_outlives_both_messages_of_its_retry(void **state) {
    struct kit *k = *state;
    struct message_row *m = kit_accept(k, TO("a@example.net"));
    kit_attempt(k, m->recipient[0].key, RECIPIENT_BOUNCED);
    k->now_wall_ms += 1000;
    struct store_retry first = keyed_retry(k, m->id, 1);
    first.idempotency_until_wall_ms = k->now_wall_ms + 10000;
    RUN_OK(k, STORE_RETRY, &first);
    kit_attempt(k, first.new_message.recipient[0].key, RECIPIENT_DELIVERED);
    for (int i = 0; i < 2; i++) { /* without the first, and without both */
        kit_retain_all(k, (struct store_retain){.now_wall_ms = k->now_wall_ms,
                                                .events_before_wall_ms = k->now_wall_ms,
                                                .most = 100});
        struct store_retry again = keyed_retry(k, m->id, 1);
        assert_int_equal(RUN(k, STORE_RETRY, &again), ERR_CONFLICT);
        assert_string_equal(again.call.info.field, "Idempotency-Key");
        k->now_wall_ms += 1000;
    }
    assert_int_equal(kit_totals(k).accepted, 2);
}

static void what_is_under_way_is_neither_canceled_nor_sent_again(void **state) {
    struct kit *k = *state;
    struct message_row *m = kit_accept(k, TO("ann@example.net"));
    assert_true(kit_claim(k, m->recipient[0].key));
    struct store_cancel c = {.id = m->id, .project = 1, .now_wall_ms = k->now_wall_ms};
    RUN_OK(k, STORE_CANCEL, &c);
    assert_int_equal(c.result[0], CANCEL_TOO_LATE);
    struct store_retry r = {
        .id = m->id, .project = 1, .new_id = id_new(k->now_wall_ms), .now_wall_ms = k->now_wall_ms};
    assert_int_equal(RUN(k, STORE_RETRY, &r), ERR_CONFLICT);
    struct store_mend mend = {.now_wall_ms = k->now_wall_ms, .due_latest_wall_ms = 1, .most = 10};
    RUN_OK(k, STORE_MEND, &mend);
    assert_int_equal(mend.mended, 0);
    struct store_expire e = {.now_wall_ms = m->expires_wall_ms + 1, .most = 10};
    RUN_OK(k, STORE_EXPIRE, &e);
    assert_int_equal(e.expired, 0);
    assert_int_equal(kit_due_count(k, INT64_MAX), 0);
    struct settle_result deferred = kit_result(k, m->recipient[0].key, RECIPIENT_QUEUED);
    assert_int_equal(kit_settle(k, deferred), OK);
    RUN_OK(k, STORE_CANCEL, &c);
    assert_int_equal(c.result[0], CANCEL_DONE);
    assert_int_equal(kit_settle(k, deferred), ERR_CONFLICT); /* too late for a second result */
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

#define TESTS(T)                                                                                   \
    T(a_recipient_goes_from_claim_to_delivered), T(a_claim_is_given_once),                         \
        T(only_what_is_sending_can_be_settled), T(a_settle_is_all_or_nothing),                     \
        T(results_are_kept_with_their_attempt), T(what_did_not_count_is_no_attempt_and_no_event),  \
        T(attempts_come_by_pages), T(since_when_a_domain_is_not_there_is_remembered_until_it_is),  \
        T(an_unknown_outcome_marks_a_possible_duplicate),                                          \
        T(a_delivered_recipient_may_bounce_late), T(a_released_claim_is_queued_again),             \
        T(a_scheduled_recipient_is_not_claimed_before_its_time),                                   \
        T(cancel_ends_what_waits_and_nothing_else), T(retry_makes_deferred_recipients_due_now),    \
        T(retry_of_what_ended_makes_a_new_message),                                                \
        T(an_equal_retry_under_a_used_key_gets_the_first_answer),                                  \
        T(a_key_answers_for_a_retry_that_made_no_message),                                         \
        T(a_key_outlives_both_messages_of_its_retry),                                              \
        T(what_is_under_way_is_neither_canceled_nor_sent_again),                                   \
        T(what_is_all_delivered_cannot_be_retried), T(the_sweep_expires_what_waits_too_long),      \
        T(other_messages_do_not_expire_with_it)

MAIN_ON_EVERY_BACKEND(TESTS)
