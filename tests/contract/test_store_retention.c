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

#define TESTS(T)                                                                                   \
    T(contents_go_first_and_only_of_what_is_final),                                                \
        T(a_content_that_a_retry_shares_stays_until_both_are_old),                                 \
        T(old_messages_go_with_all_that_is_theirs_and_totals_stay)

MAIN_ON_EVERY_BACKEND(TESTS)
