/* The contract of the outbox, on every backend. Endpoints and notifications. After each test
 * store_check() recomputes what is kept along with the rows. */
#include "tests/contract/store_kit.h"

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

static void endpoints_may_have_shares_of_their_own(void **state) {
    struct kit *k = *state;
    struct id ids[4];
    static const size_t want[4] = {1, 3, 5, 0}; /* the second has none of its own */
    for (int i = 0; i < 4; i++)
        ids[i] = kit_webhook(k, 1, "message.accepted");
    for (int i = 0; i < 5; i++)
        kit_accept(k, TO("ann@example.net"));
    const struct notify_share share[] = {{ids[3], 0}, {ids[0], 1}, {ids[2], 8}};
    struct store_notify_claim q = {.now_wall_ms = k->now_wall_ms,
                                   .most = 100,
                                   .per_webhook = 3,
                                   .share = share,
                                   .share_count = 3};
    for (int turn = 0; turn < 2; turn++) { /* what is under way already counts */
        RUN_OK(k, STORE_NOTIFY_CLAIM, &q);
        size_t count[4] = {0};
        for (size_t i = 0; i < q.count; i++)
            for (int n = 0; n < 4; n++)
                count[n] += id_equal(&q.notification[i].webhook_id, &ids[n]);
        for (int n = 0; n < 4; n++)
            assert_int_equal(count[n], turn == 0 ? want[n] : 0);
    }
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
    struct store_notify_replay q = {.webhook_id = hook,
                                    .project = 1,
                                    .seq = seq[2],
                                    .most = 100,
                                    .now_wall_ms = k->now_wall_ms};
    RUN_OK(k, STORE_NOTIFY_REPLAY, &q);
    assert_int_equal(q.replayed, 1);
    struct store_notify_claim *c = kit_notify_claim(k);
    assert_int_equal(c->count, 1);
    assert_int_equal(c->notification[0].seq, seq[2]);
    assert_int_equal(RUN(k, STORE_NOTIFY_REPLAY, &q), ERR_CONFLICT); /* being sent */
    q = (struct store_notify_replay){.webhook_id = hook,
                                     .project = 1,
                                     .since_wall_ms = INT64_MIN,
                                     .until_wall_ms = 0, /* a time like any other */
                                     .most = 100,
                                     .now_wall_ms = k->now_wall_ms};
    RUN_OK(k, STORE_NOTIFY_REPLAY, &q);
    assert_int_equal(q.replayed, 0); /* all are younger */
    q = (struct store_notify_replay){.webhook_id = hook,
                                     .project = 1,
                                     .since_wall_ms = start,
                                     .until_wall_ms = start + 1000,
                                     .only_failed = true,
                                     .most = 100,
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

/* The notification of a new message, tried once; its number. */
static int64_t one_tried(struct kit *k, enum notification_state state) {
    kit_accept(k, TO("ann@example.net"));
    struct store_notify_claim *c = kit_notify_claim(k);
    assert_int_equal(c->count, 1);
    struct notify_result r = {.seq = c->notification[0].seq,
                              .state = state,
                              .counts = true,
                              .due_wall_ms = k->now_wall_ms + 5000};
    assert_int_equal(kit_notify_settle(k, r), OK);
    return r.seq;
}

/* Else the last try before it would be the last one after it, too. */
static void attempts_start_anew_when_what_ended_is_replayed(void **state) {
    struct kit *k = *state;
    struct id hook = kit_webhook(k, 1, "message.accepted");
    static const struct {
        enum notification_state state;
        int attempts; /* after the replay */
    } rows[] = {{NOTIFICATION_FAILED, 0}, {NOTIFICATION_DELIVERED, 0}, {NOTIFICATION_PENDING, 1}};
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct store_notify_replay q = {.webhook_id = hook,
                                        .project = 1,
                                        .seq = one_tried(k, rows[i].state),
                                        .now_wall_ms = k->now_wall_ms};
        RUN_OK(k, STORE_NOTIFY_REPLAY, &q);
        struct store_notify_claim *c = kit_notify_claim(k);
        assert_int_equal(c->count, 1);
        assert_int_equal(c->notification[0].attempts, rows[i].attempts);
    }
}

static void one_that_did_not_fail_is_left_when_only_failed_ones_are_wanted(void **state) {
    struct kit *k = *state;
    struct id hook = kit_webhook(k, 1, "message.accepted");
    static const struct {
        enum notification_state state;
        size_t replayed;
    } rows[] = {{NOTIFICATION_DELIVERED, 0}, {NOTIFICATION_PENDING, 0}, {NOTIFICATION_FAILED, 1}};
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct store_notify_replay q = {.webhook_id = hook,
                                        .project = 1,
                                        .seq = one_tried(k, rows[i].state),
                                        .only_failed = true,
                                        .now_wall_ms = k->now_wall_ms};
        RUN_OK(k, STORE_NOTIFY_REPLAY, &q);
        assert_int_equal(q.replayed, rows[i].replayed);
        assert_int_equal(kit_notify_claim(k)->count, rows[i].replayed);
    }
}

static void a_period_is_replayed_in_steps(void **state) {
    struct kit *k = *state;
    struct id hook = kit_webhook(k, 1, "message.accepted");
    for (int i = 0; i < 25; i++)
        kit_accept(k, TO("ann@example.net"));
    struct store_notify_claim *c = kit_notify_claim(k);
    assert_int_equal(c->count, 25);
    for (size_t i = 0; i < 25; i++)
        assert_int_equal(
            kit_notify_settle(k, (struct notify_result){.seq = c->notification[i].seq,
                                                        .state = NOTIFICATION_DELIVERED,
                                                        .counts = true}),
            OK);
    struct store_notify_replay q = {.webhook_id = hook,
                                    .project = 1,
                                    .since_wall_ms = k->now_wall_ms,
                                    .until_wall_ms = k->now_wall_ms,
                                    .most = 10,
                                    .now_wall_ms = k->now_wall_ms};
    static const size_t each[] = {10, 10, 5};
    for (size_t i = 0; i < 3; i++) {
        RUN_OK(k, STORE_NOTIFY_REPLAY, &q);
        assert_int_equal(q.replayed, each[i]);
        assert_int_equal(q.more, i < 2);
        q.after_seq = q.last_seq;
    }
    assert_int_equal(kit_notify_claim(k)->count, 25);
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
    while (kit_retain(k, 0, 0, 2) > 0)
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

/* Each of two who read the same writes all of it. */
static void neither_of_two_changes_of_one_endpoint_undoes_the_other(void **state) {
    static struct str some[] = {{"final", 5}}, more[] = {{"final", 5}, {"message.accepted", 16}};
    static const struct webhook_row quicker[] = {
        {.url = {"https://other.example/", 22}},
        {.description = {"wakes somebody up", 17}},
        {.events = some, .event_count = 1},
        {.events = more, .event_count = 2},
        {.previous_secret = {"whsec_b2xk", 10}},
        {.previous_until_wall_ms = 7},
        {.state = WEBHOOK_DISABLED},
        {.secret = {"whsec_bmV3", 10}},
    };
    struct kit *k = *state;
    for (size_t i = 0; i < sizeof(quicker) / sizeof(quicker[0]); i++) {
        const struct webhook_row *to = &quicker[i];
        struct id id = kit_webhook(k, 1, "*");
        struct webhook_row seen = webhook_of(k, id);
        struct store_webhook_put first = {.webhook = seen, .replace = true, .seen = &seen};
        struct webhook_row *row = &first.webhook;
        row->url = to->url.n > 0 ? to->url : row->url;
        row->description = to->description;
        row->events = to->event_count > 0 ? to->events : row->events;
        row->event_count = to->event_count > 0 ? to->event_count : row->event_count;
        row->secret = to->secret.n > 0 ? to->secret : row->secret;
        row->previous_secret = to->previous_secret;
        row->previous_until_wall_ms = to->previous_until_wall_ms;
        row->state = to->state;
        RUN_OK(k, STORE_WEBHOOK_PUT, &first);
        struct store_webhook_put second = {.webhook = seen, .replace = true, .seen = &seen};
        second.webhook.description = STR("d");
        if (RUN(k, STORE_WEBHOOK_PUT, &second) != ERR_CONFLICT)
            fail_msg("row %zu: it was undone", i);
        seen = webhook_of(k, id);
        second.webhook = seen;
        second.webhook.description = STR("d");
        RUN_OK(k, STORE_WEBHOOK_PUT, &second);
    }
}

static void a_project_has_at_most_so_many_endpoints(void **state) {
    struct kit *k = *state;
    struct id gone = kit_webhook(k, 1, "*");
    kit_webhook(k, 1, "*");
    kit_webhook(k, 2, "*");
    struct store_webhook_put p = {.webhook = webhook_of(k, gone), .most = 2};
    p.webhook.id = id_new(k->now_wall_ms);
    assert_int_equal(RUN(k, STORE_WEBHOOK_PUT, &p), ERR_LIMIT);
    struct store_webhook_put change = {.webhook = webhook_of(k, gone), .replace = true, .most = 2};
    RUN_OK(k, STORE_WEBHOOK_PUT, &change);
    struct store_webhook_delete d = {.id = gone, .project = 1};
    RUN_OK(k, STORE_WEBHOOK_DELETE, &d);
    RUN_OK(k, STORE_WEBHOOK_PUT, &p);
    struct store_webhooks q = {.project = 1};
    RUN_OK(k, STORE_WEBHOOKS, &q);
    assert_int_equal(q.count, 2);
}

#define TESTS(T)                                                                                   \
    T(an_endpoint_gets_the_events_that_it_wants),                                                  \
        T(a_notification_is_claimed_with_its_event_and_settled),                                   \
        T(a_slow_endpoint_gets_only_so_many_at_once), T(an_endpoint_that_is_gone_is_disabled),     \
        T(endpoints_may_have_shares_of_their_own), T(an_endpoint_fails_and_works_again),           \
        T(notifications_are_replayed_one_or_a_period), T(a_period_is_replayed_in_steps),           \
        T(attempts_start_anew_when_what_ended_is_replayed),                                        \
        T(one_that_did_not_fail_is_left_when_only_failed_ones_are_wanted),                         \
        T(a_test_goes_to_its_endpoint_alone),                                                      \
        T(a_deleted_endpoint_is_gone_at_once_and_swept_later),                                     \
        T(endpoints_come_back_as_they_were_put), T(a_change_does_not_undo_one_that_was_quicker),   \
        T(a_project_has_at_most_so_many_endpoints),                                                \
        T(neither_of_two_changes_of_one_endpoint_undoes_the_other)

MAIN_WITH_SECRETS(TESTS)
