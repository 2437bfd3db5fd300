/* The contract of the outbox, on every backend. What lies at the edges: none, one too many, what
 * was done already, what belongs to somebody else. After each test store_check() recomputes what is
 * kept along with the rows. */
#include "tests/contract/store_kit.h"

/* ---- accept ---- */

static void too_few_and_too_many_recipients_are_refused(void **state) {
    struct kit *k = *state;
    const char *to[1002] = {NULL};
    struct store_accept *none = kit_accept_for(k, to);
    assert_int_equal(RUN(k, STORE_ACCEPT, none), ERR_LIMIT);
    for (size_t i = 0; i < 1001; i++)
        to[i] = arena_printf(k->arena, "a%zu@d%zu.example", i, i).p;
    assert_int_equal(RUN(k, STORE_ACCEPT, kit_accept_for(k, to)), ERR_LIMIT);
    assert_int_equal(kit_totals(k).accepted, 0);
    /* as many as there may be, each in a queue of its own; all expire in one sweep */
    k->failing_budget = 0; /* not for all this */
    to[1000] = NULL;
    struct message_row *m = kit_accept(k, to);
    kit_accept(k, to);
    struct store_due *d = kit_due(k, k->now_wall_ms);
    assert_int_equal(d->count, 2000);
    kit_due_release(d);
    struct store_expire e = {.now_wall_ms = m->expires_wall_ms, .most = 5000};
    RUN_OK(k, STORE_EXPIRE, &e);
    assert_int_equal(e.expired, 2000);
    assert_int_equal(kit_due_count(k, INT64_MAX), 0);
}

static void contents_of_nothing_and_with_long_prefixes_come_back(void **state) {
    struct kit *k = *state;
    static const size_t prefixes[] = {0, 1, LIMIT_BODY_CHUNK, LIMIT_BODY_CHUNK + 3};
    for (size_t i = 0; i < 4; i++)
        for (size_t size = 0; size <= 10; size += 10) {
            struct store_accept *q = kit_accept_for(k, TO("ann@example.net"));
            message_unref(&q->content);
            struct message *plain = kit_content(q->message.id, size);
            char *prefix = mem_zalloc(prefixes[i] + 1);
            memset(prefix, 'p', prefixes[i]);
            q->content = message_new_prefixed(plain, prefix, prefixes[i]);
            RUN_OK(k, STORE_ACCEPT, q);
            struct store_content c = {.id = q->message.id, .project = 1};
            RUN_OK(k, STORE_CONTENT, &c);
            assert_int_equal(message_size(c.message), prefixes[i] + size);
            struct str got = message_bytes(c.message).piece[1];
            for (size_t b = 0; b < prefixes[i]; b++)
                assert_int_equal(got.p[b], 'p');
            if (size > 0)
                assert_memory_equal(got.p + prefixes[i], message_bytes(plain).piece[1].p, size);
            message_unref(&c.message);
            message_unref(&plain);
        }
}

static void a_content_without_octets_is_one(void **state) {
    struct kit *k = *state;
    struct store_accept *q = kit_accept_for(k, TO("ann@example.net"));
    message_unref(&q->content);
    q->content = message_new(&q->message.id, NULL, 0);
    RUN_OK(k, STORE_ACCEPT, q);
    struct store_content c = {.id = q->message.id, .project = 1};
    RUN_OK(k, STORE_CONTENT, &c);
    assert_int_equal(message_size(c.message), 0);
    message_unref(&c.message);
}

/* A queue is its key, whatever that looks like. */
static void odd_addresses_and_keys_have_their_queues(void **state) {
    struct kit *k = *state;
    static const struct {
        const char *email, *key;
    } rows[] = {
        {"postmaster", "postmaster"}, {"a@b@c.example", "c.example"}, {"x@", ""}, {"", ""},
        {"ann@example.net", ""},      {"ann@example.net", "route:r"},
    };
    enum { ROWS = sizeof(rows) / sizeof(rows[0]) };
    struct message_row *m[ROWS];
    for (size_t i = 0; i < ROWS; i++) {
        struct store_accept *q = kit_accept_for(k, TO("ann@example.net"));
        q->message.recipient[0].email = str_of(rows[i].email);
        *(struct str *)(uintptr_t)q->queue_key = str_of(rows[i].key);
        RUN_OK(k, STORE_ACCEPT, q);
        m[i] = &q->message;
        kit_attempt(k, q->message.recipient[0].key, RECIPIENT_QUEUED);
    }
    struct store_due *d = kit_due(k, INT64_MAX);
    assert_int_equal(d->count, ROWS);
    for (size_t n = 0; n < ROWS; n++)
        for (size_t i = 0; i < ROWS; i++)
            if (d->due[n].key == m[i]->recipient[0].key) {
                assert_true(str_equal(d->due[n].queue_key, str_of(rows[i].key)));
                assert_true(str_equal(d->due[n].email, str_of(rows[i].email)));
            }
    kit_due_release(d);
}

/* ---- settle ---- */

static void a_settle_of_nothing_and_one_of_two_messages(void **state) {
    struct kit *k = *state;
    struct message_row *m = kit_accept(k, TO("ann@example.net"));
    struct message_row *n = kit_accept(k, TO("bob@example.net"));
    assert_true(kit_claim(k, m->recipient[0].key));
    assert_true(kit_claim(k, n->recipient[0].key));
    struct settle_result r[2] = {kit_result(k, m->recipient[0].key, RECIPIENT_DELIVERED),
                                 kit_result(k, n->recipient[0].key, RECIPIENT_DELIVERED)};
    struct store_settle q = {.result = r, .count = 2, .now_wall_ms = k->now_wall_ms};
    assert_int_equal(RUN(k, STORE_SETTLE, &q), ERR_INVALID);
    q.count = 0;
    RUN_OK(k, STORE_SETTLE, &q);
    assert_int_equal(kit_totals(k).by_state[RECIPIENT_SENDING], 2);
}

static void what_a_server_said_is_kept_as_far_as_there_is_room(void **state) {
    struct kit *k = *state;
    static char text[4000];
    memset(text, 't', sizeof(text));
    const struct {
        struct last_result last;
        bool is_kept;
    } rows[] = {
        {{.text = {text, sizeof(text)}}, true},
        {{.text = STR("words alone")}, true},
        {{.failure = FAILURE_TLS_PIN}, true},
        {{.class_ = CLASS_GREYLISTED}, true},
        {{.code = 421}, true},
        {{.stage = STAGE_RCPT, .mx = STR("mx.example.net")}, false}, /* nothing was said */
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct message_row *m = kit_accept(k, TO("ann@example.net"));
        assert_true(kit_claim(k, m->recipient[0].key));
        struct settle_result r = kit_result(k, m->recipient[0].key, RECIPIENT_QUEUED);
        r.last = rows[i].last;
        assert_int_equal(kit_settle(k, r), OK);
        struct last_result got = kit_message(k, m->id).recipient[0].last;
        if (!rows[i].is_kept) {
            assert_true(str_is_absent(got.mx));
            continue;
        }
        assert_int_equal(got.code, rows[i].last.code);
        assert_int_equal(got.failure, rows[i].last.failure);
        assert_int_equal(got.class_, rows[i].last.class_);
        size_t n = rows[i].last.text.n;
        assert_int_equal(got.text.n, n > LIMIT_REPLY_STORED ? LIMIT_REPLY_STORED : n);
    }
}

static void a_message_with_two_that_wait_is_made_due_at_once(void **state) {
    struct kit *k = *state;
    struct message_row *m = kit_accept(
        k, TO("a@x.example", "b@x.example", "c@y.example", "d@y.example", "e@z.example"));
    kit_attempt(k, m->recipient[0].key, RECIPIENT_QUEUED);
    kit_attempt(k, m->recipient[1].key, RECIPIENT_QUEUED);
    struct store_cancel c = {.id = m->id, .project = -1, .now_wall_ms = k->now_wall_ms};
    k->now_wall_ms += 10;
    struct store_retry r = {.id = m->id,
                            .project = -1,
                            .new_id = id_new(k->now_wall_ms),
                            .now_wall_ms = k->now_wall_ms,
                            .expires_wall_ms = k->now_wall_ms + 1000};
    RUN_OK(k, STORE_RETRY, &r);
    assert_false(r.made_new);
    assert_int_equal(kit_due_count(k, k->now_wall_ms), 5);
    /* canceled ones and expired ones go again, as another message */
    kit_attempt(k, m->recipient[4].key, RECIPIENT_QUEUED);
    RUN_OK(k, STORE_CANCEL, &c);
    RUN_OK(k, STORE_RETRY, &r);
    assert_true(r.made_new);
    assert_int_equal(r.new_message.recipient_count, 5);
    k->now_wall_ms = r.expires_wall_ms;
    struct store_expire e = {.now_wall_ms = k->now_wall_ms, .most = 100};
    RUN_OK(k, STORE_EXPIRE, &e);
    assert_int_equal(e.expired, 5);
    r.id = r.new_id;
    r.new_id = id_new(k->now_wall_ms);
    RUN_OK(k, STORE_RETRY, &r);
    assert_int_equal(r.new_message.recipient_count, 5);
}

/* ---- notifications ---- */

static struct notify_result notified(int64_t seq, enum notification_state to) {
    return (struct notify_result){.seq = seq, .state = to, .counts = true};
}

static void put_state(struct kit *k, struct id id, enum webhook_state to) {
    struct store_webhook_put p = {.webhook = {.id = id,
                                              .project = 1,
                                              .url = STR("https://hooks.example.org/a"),
                                              .secret = STR("whsec_c2VjcmV0"),
                                              .state = to},
                                  .replace = true};
    RUN_OK(k, STORE_WEBHOOK_PUT, &p);
}

static enum webhook_state state_of(struct kit *k, struct id id) {
    struct store_webhooks q = {.project = 1};
    RUN_OK(k, STORE_WEBHOOKS, &q);
    for (size_t i = 0; i < q.count; i++)
        if (id_equal(&q.webhook[i].id, &id))
            return q.webhook[i].state;
    fail_msg("the endpoint is gone");
    return WEBHOOK_DISABLED;
}

static void only_what_is_sent_can_be_settled(void **state) {
    struct kit *k = *state;
    kit_webhook(k, 1, "message.accepted");
    kit_accept(k, TO("ann@example.net"));
    struct store_notifications none = {.webhook_id = id_new(1), .project = -1, .limit = 9};
    assert_int_equal(RUN(k, STORE_NOTIFICATIONS, &none), ERR_NOT_FOUND);
    assert_int_equal(kit_notify_settle(k, notified(1, NOTIFICATION_DELIVERED)), ERR_CONFLICT);
    assert_int_equal(kit_notify_claim(k)->count, 1);
    assert_int_equal(kit_notify_settle(k, notified(1, NOTIFICATION_SENDING)), ERR_CONFLICT);
    assert_int_equal(kit_notify_settle(k, notified(1, NOTIFICATION_DELIVERED)), OK);
    assert_int_equal(kit_notify_settle(k, notified(1, NOTIFICATION_FAILED)), ERR_CONFLICT);
    assert_int_equal(kit_totals(k).notifications_pending, 0);
    assert_int_equal(kit_notify_settle(k, notified(4711, NOTIFICATION_FAILED)), OK); /* swept */
}

/* What was found out about an endpoint changes it once, and never one that was disabled. */
static void an_endpoint_changes_only_from_what_it_was(void **state) {
    struct kit *k = *state;
    struct id hook = kit_webhook(k, 1, "message.accepted");
    static const struct {
        enum webhook_state from;
        bool failing, working, gone;
        enum webhook_state want;
    } rows[] = {
        {WEBHOOK_ENABLED, true, false, false, WEBHOOK_FAILING},
        {WEBHOOK_FAILING, true, false, false, WEBHOOK_FAILING},
        {WEBHOOK_DISABLED, true, false, false, WEBHOOK_DISABLED},
        {WEBHOOK_ENABLED, false, true, false, WEBHOOK_ENABLED},
        {WEBHOOK_FAILING, false, true, false, WEBHOOK_ENABLED},
        {WEBHOOK_DISABLED, false, true, false, WEBHOOK_DISABLED},
        {WEBHOOK_ENABLED, false, false, true, WEBHOOK_DISABLED},
        {WEBHOOK_DISABLED, false, false, true, WEBHOOK_DISABLED},
        {WEBHOOK_FAILING, false, false, false, WEBHOOK_FAILING},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        put_state(k, hook, WEBHOOK_ENABLED);
        kit_accept(k, TO("ann@example.net"));
        struct store_notify_claim *c = kit_notify_claim(k);
        assert_int_equal(c->count, 1);
        put_state(k, hook, rows[i].from); /* meanwhile */
        struct notify_result r = notified(c->notification[0].seq, NOTIFICATION_FAILED);
        r.mark_failing = rows[i].failing;
        r.mark_working = rows[i].working;
        r.disable_webhook = rows[i].gone;
        assert_int_equal(kit_notify_settle(k, r), OK);
        assert_int_equal(state_of(k, hook), rows[i].want);
    }
    size_t told = 0;
    struct store_events *e = kit_events(k, 1, 0);
    for (size_t i = 0; i < e->count; i++)
        told += e->event[i].type == EVENT_WEBHOOK_DISABLED;
    assert_int_equal(told, 2); /* the first row and the seventh */
}

static void a_replay_finds_only_what_is_its_endpoints(void **state) {
    struct kit *k = *state;
    struct id hook = kit_webhook(k, 1, "message.accepted"), other = kit_webhook(k, 1, "final");
    for (int i = 0; i < 3; i++, k->now_wall_ms += 1000) {
        kit_accept(k, TO("ann@example.net"));
        struct store_notify_claim *c = kit_notify_claim(k);
        assert_int_equal(
            kit_notify_settle(k, notified(c->notification[0].seq,
                                          i == 2 ? NOTIFICATION_FAILED : NOTIFICATION_DELIVERED)),
            OK);
    }
    struct store_notify_replay q = {
        .webhook_id = other, .project = -1, .seq = 1, .most = 10, .now_wall_ms = k->now_wall_ms};
    assert_int_equal(RUN(k, STORE_NOTIFY_REPLAY, &q), ERR_NOT_FOUND); /* the other's */
    q.webhook_id = hook;
    q.seq = 4711;
    assert_int_equal(RUN(k, STORE_NOTIFY_REPLAY, &q), ERR_NOT_FOUND);
    q.seq = 0;
    q.since_wall_ms = q.until_wall_ms = k->now_wall_ms;
    RUN_OK(k, STORE_NOTIFY_REPLAY, &q);
    assert_int_equal(q.replayed, 0); /* all are older */
    q.since_wall_ms = 0;
    q.only_failed = true;
    RUN_OK(k, STORE_NOTIFY_REPLAY, &q);
    assert_int_equal(q.replayed, 1);
    q.only_failed = false;
    q.seq = 3;
    RUN_OK(k, STORE_NOTIFY_REPLAY, &q); /* pending: it stays so, and is counted once */
    assert_int_equal(kit_totals(k).notifications_pending, 1);
    put_state(k, hook, WEBHOOK_DISABLED);
    assert_int_equal(RUN(k, STORE_NOTIFY_REPLAY, &q), ERR_CONFLICT);
    struct store_webhook_test t = {.id = hook, .project = -1, .now_wall_ms = k->now_wall_ms};
    assert_int_equal(RUN(k, STORE_WEBHOOK_TEST, &t), ERR_CONFLICT);
    t.id = other;
    RUN_OK(k, STORE_WEBHOOK_TEST, &t);
    assert_false(id_is_zero(&t.event_id));
    /* the log of deliveries, by pages, newest first */
    struct store_notifications l = {.webhook_id = hook, .project = 2, .limit = 2};
    assert_int_equal(RUN(k, STORE_NOTIFICATIONS, &l), ERR_NOT_FOUND);
    l.project = 1;
    RUN_OK(k, STORE_NOTIFICATIONS, &l);
    assert_int_equal(l.count, 2);
    assert_true(l.more);
    assert_int_equal(l.notification[0].seq, 3);
    l.before_seq = 2;
    RUN_OK(k, STORE_NOTIFICATIONS, &l);
    assert_int_equal(l.count, 1);
    assert_false(l.more);
    assert_int_equal(l.notification[0].seq, 1);
}

static void the_next_moment_of_all_endpoints_is_told(void **state) {
    struct kit *k = *state;
    struct id early = kit_webhook(k, 1, "*"), late = kit_webhook(k, 1, "*");
    (void)early;
    (void)late;
    kit_accept(k, TO("ann@example.net"));
    struct store_notify_claim *c = kit_notify_claim(k);
    assert_int_equal(c->count, 2);
    for (size_t i = 0; i < 2; i++) {
        struct notify_result r = notified(c->notification[i].seq, NOTIFICATION_PENDING);
        r.due_wall_ms = k->now_wall_ms + (i == 0 ? 700 : 300);
        assert_int_equal(kit_notify_settle(k, r), OK);
    }
    for (int turn = 0; turn < 2; turn++) /* whoever is looked at first */
        assert_int_equal(kit_notify_claim(k)->next_due_wall_ms, k->now_wall_ms + 300);
}

/* ---- keys ---- */

static void names_may_be_empty_in_lists(void **state) {
    struct kit *k = *state;
    struct str domains[] = {STR("a.example"), STR(""), STR("b.example")};
    struct store_key_put p = {.key = {.id = id_new(1),
                                      .project = 1,
                                      .prefix = STR("pc_a"),
                                      .from_domains = domains,
                                      .from_domain_count = 3}};
    RUN_OK(k, STORE_KEY_PUT, &p);
    struct store_keys q = {.project = 1};
    RUN_OK(k, STORE_KEYS, &q);
    assert_int_equal(q.key[0].from_domain_count, 3);
    for (size_t i = 0; i < 3; i++)
        assert_true(str_equal(q.key[0].from_domains[i], domains[i]));
    struct store_key_revoke r = {.id = p.key.id, .project = -1, .now_wall_ms = 5};
    RUN_OK(k, STORE_KEY_REVOKE, &r);
    r.id = id_new(2);
    assert_int_equal(RUN(k, STORE_KEY_REVOKE, &r), ERR_NOT_FOUND);
}

/* ---- search ---- */

static void a_search_goes_on_beyond_a_page_of_candidates(void **state) {
    enum { MANY = 600 };
    struct kit *k = *state;
    int budget = k->failing_budget;
    k->failing_budget = 0; /* not for all this */
    for (int i = 0; i < MANY; i++) {
        struct store_accept *q = kit_accept_for(k, TO("ann@example.net"));
        q->message.project = i % 300 == 0 ? 1 : 2;
        q->message.external_id = STR_NONE;
        RUN_OK(k, STORE_ACCEPT, q);
        if (i % 3 == 0)
            kit_attempt(k, q->message.recipient[0].key, RECIPIENT_BOUNCED);
    }
    k->failing_budget = budget;
    const struct {
        struct store_messages q;
        size_t want;
    } rows[] = {
        {{.project = 1, .to = STR("ann@example.net")}, 2},
        {{.project = 1, .state = STR("bounced")}, 2},
        {{.project = 1, .state = STR("queued")}, 0},
        {{.project = 1}, 2},
        {{.project = -1, .limit = 1000}, MANY},
        {{.project = -1, .state = STR("queued"), .limit = 1000}, MANY * 2 / 3},
        {{.project = -1, .to = STR(""), .limit = 10}, 0}, /* nobody is called so */
        {{.project = -1, .tag = STR(""), .limit = 10}, 0},
        {{.project = -1, .state = STR(""), .limit = 10}, 0},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
        assert_int_equal(kit_found(k, rows[i].q), rows[i].want);
}

static void nothing_is_found_where_nothing_is(void **state) {
    struct kit *k = *state;
    assert_int_equal(kit_found(k, (struct store_messages){.project = -1}), 0);
    assert_int_equal(kit_found(k, (struct store_messages){.state = STR("bounced")}), 0);
    assert_int_equal(kit_found(k, (struct store_messages){.to = STR("a@example.net")}), 0);
    assert_int_equal(kit_found(k, (struct store_messages){.before_seq = 1}), 0);
}

/* ---- sweeps ---- */

static void a_sweep_goes_on_where_it_stopped(void **state) {
    enum { QUEUES = 1100 };
    struct kit *k = *state;
    int budget = k->failing_budget;
    k->failing_budget = 0; /* not for all this */
    const char *to[1001] = {NULL};
    for (size_t i = 0; i < 1000; i++)
        to[i] = arena_printf(k->arena, "a@d%zu.example", i).p;
    kit_accept(k, to);
    for (size_t i = 0; i < QUEUES - 1000; i++)
        kit_accept(k, TO(arena_printf(k->arena, "a@e%zu.example", i).p));
    k->now_wall_ms += 100 * (int64_t)86400000;
    struct message_row *far = kit_accept(k, TO("ann@last.example"));
    kit_attempt(k, far->recipient[0].key, RECIPIENT_QUEUED);
    k->now_wall_ms -= 100 * (int64_t)86400000;
    k->failing_budget = budget;
    struct store_mend q = {.now_wall_ms = k->now_wall_ms,
                           .due_latest_wall_ms = k->now_wall_ms + 86400000,
                           .expires_latest_wall_ms = k->now_wall_ms + 86400000,
                           .most = 10};
    size_t mended = 0, steps = 0;
    do {
        RUN_OK(k, STORE_MEND, &q);
        mended += q.mended;
    } while (q.more && ++steps < 10);
    assert_int_equal(mended, 2); /* its due time, and its life */
    assert_true(steps < 10);
    assert_int_equal(kit_message(k, far->id).recipient[0].due_wall_ms, k->now_wall_ms);
    assert_int_equal(kit_message(k, far->id).expires_wall_ms, k->now_wall_ms + 3600000);
    /* a life that was longer than any may be */
    struct store_accept *a = kit_accept_for(k, TO("ann@example.net"));
    a->message.expires_wall_ms = k->now_wall_ms + 1000 * (int64_t)86400000;
    RUN_OK(k, STORE_ACCEPT, a);
    struct store_accept *b = kit_accept_for(k, TO("ann@example.net"));
    b->message.created_wall_ms = k->now_wall_ms + 2000 * (int64_t)86400000;
    b->message.expires_wall_ms = k->now_wall_ms + 1000 * (int64_t)86400000;
    RUN_OK(k, STORE_ACCEPT, b);
    q.due_latest_wall_ms = 0;
    RUN_OK(k, STORE_MEND, &q);
    assert_int_equal(kit_message(k, a->message.id).expires_wall_ms, k->now_wall_ms + 86400000);
    assert_int_equal(kit_message(k, b->message.id).expires_wall_ms, k->now_wall_ms + 86400000);
}

static void retention_passes_over_very_many_that_are_needed(void **state) {
    enum { OPEN = 1100 };
    struct kit *k = *state;
    int budget = k->failing_budget;
    k->failing_budget = 0; /* not for all this */
    for (int i = 0; i < OPEN; i++)
        kit_accept(k, TO("ann@example.net"));
    struct message_row *m = kit_accept(k, TO("ann@example.net"));
    for (int i = 0; i < 40; i++) {
        struct settle_result r =
            kit_result(k, m->recipient[0].key, i < 39 ? RECIPIENT_QUEUED : RECIPIENT_DELIVERED);
        struct attempt_row a = {.started_wall_ms = k->now_wall_ms};
        struct store_settle s = {
            .result = &r, .count = 1, .attempt = &a, .now_wall_ms = k->now_wall_ms};
        assert_true(kit_claim(k, m->recipient[0].key));
        RUN_OK(k, STORE_SETTLE, &s);
        k->now_wall_ms += 60000;
    }
    k->failing_budget = budget;
    /* fewer rows a step than it has attempts */
    struct store_retain q = {.events_before_wall_ms = k->now_wall_ms,
                             .waiting_before_wall_ms = k->now_wall_ms,
                             .content_before_wall_ms = k->now_wall_ms,
                             .most = 20};
    kit_retain_all(k, q);
    struct store_message gone = {.id = m->id, .project = 1};
    assert_int_equal(RUN(k, STORE_MESSAGE, &gone), ERR_NOT_FOUND);
    assert_int_equal(kit_found(k, (struct store_messages){.project = 1, .limit = 2000}), OPEN);
}

static size_t events_left(struct kit *k, enum event_type type) {
    size_t n = 0;
    struct store_events q = {.project = 1, .limit = 1000};
    do {
        RUN_OK(k, STORE_EVENTS, &q);
        for (size_t i = 0; i < q.count; i++) {
            assert_int_equal(q.event[i].type, type);
            q.after_seq = q.event[i].seq;
        }
        n += q.count;
    } while (q.count > 0);
    return n;
}

/* A step looks at so many events, and at so many notifications about them: where one waits for
 * each event it is the events that end it, where several do it is the notifications. */
static void retention_passes_over_very_many_that_are_waited_for(void **state) {
    enum { WAITING = 2100, ENDPOINTS = 8, LOOKED_AT = 1000 };
    struct kit *k = *state;
    int budget = k->failing_budget;
    k->failing_budget = 0; /* not for all this */
    kit_webhook(k, 1, "message.accepted");
    for (int i = 0; i < WAITING; i++) {
        for (int n = 1; i == WAITING / 2 && n < ENDPOINTS; n++)
            kit_webhook(k, 1, "message.accepted");
        kit_accept(k, TO("ann@example.net"));
    }
    struct message_row *m = kit_accept(k, TO("bob@example.net"));
    kit_attempt(k, m->recipient[0].key, RECIPIENT_DELIVERED);
    k->failing_budget = budget > 0 ? 1 : 0;
    k->now_wall_ms += 1000;
    struct store_retain q = {.events_before_wall_ms = k->now_wall_ms, .most = 10};
    int steps = 1, pending = WAITING / 2 + (WAITING / 2 + 1) * ENDPOINTS;
    while (kit_retain_step(k, q).more)
        assert_true(++steps < 100);
    if (k->backend == STORE_SQLITE) /* once over the notifications, and once with the events */
        assert_true(steps >= 2 * (pending / LOOKED_AT));
    assert_string_equal(kit_timeline(k, m->id), "message.accepted"); /* the others are gone */
    assert_int_equal(events_left(k, EVENT_MESSAGE_ACCEPTED), WAITING + 1);
    assert_int_equal(kit_totals(k).notifications_pending, pending);
    q.waiting_before_wall_ms = k->now_wall_ms;
    q.most = 1000;
    kit_retain_all(k, q);
    assert_int_equal(kit_totals(k).notifications_pending, 0);
    struct store_message gone = {.id = m->id, .project = 1};
    assert_int_equal(RUN(k, STORE_MESSAGE, &gone), ERR_NOT_FOUND);
    assert_int_equal(kit_found(k, (struct store_messages){.project = 1, .limit = WAITING + 1}),
                     WAITING);
}

/* ---- watches ---- */

static void hear(struct store_notice *n) {
    size_t *gone = n->ctx;
    *gone += n->kind == NOTICE_GONE ? n->due_count : 0;
    store_notice_free(&n);
    store_notice_free(&n); /* of nothing */
}

static void what_is_on_its_way_does_not_reach_who_left(void **state) {
    struct kit *k = *state;
    struct mailbox *box = kit_box(k), *other = mailbox_new();
    size_t here = 0, there = 0, again = 0;
    store_watch(k->store, NOTICE_GONE, other, hear, &there);
    store_watch(k->store, NOTICE_GONE | NOTICE_KEYS, box, hear, &here);
    struct message_row *m = kit_accept(k, TO("a@example.net", "b@example.net"));
    struct store_cancel c = {.id = m->id, .project = 1, .now_wall_ms = k->now_wall_ms};
    RUN_OK(k, STORE_CANCEL, &c);
    struct store_key_put p = {.key = {.id = id_new(1), .project = 1, .prefix = STR("pc_a")}};
    RUN_OK(k, STORE_KEY_PUT, &p);
    RUN_OK(k, STORE_KEY_PUT, &p); /* two changes, one notice */
    store_unwatch(k->store, box);
    assert_true(mailbox_wait(box, 0) > 0);
    assert_int_equal(here, 0);
    assert_true(mailbox_wait(other, 0) > 0);
    assert_int_equal(there, 2);
    store_watch(k->store, NOTICE_GONE, box, hear, &again);
    m = kit_accept(k, TO("a@example.net"));
    c.id = m->id;
    RUN_OK(k, STORE_CANCEL, &c);
    mailbox_wait(box, 0);
    mailbox_wait(other, 0);
    assert_int_equal(again, 1);
    assert_int_equal(there, 3);
    /* a store may be closed while it is watched */
    if (k->options.backend == STORE_SQLITE) {
        kit_reopen(k);
        assert_int_equal(kit_due_count(k, INT64_MAX), 0);
    } else {
        store_unwatch(k->store, other);
    }
    store_close(&k->store);
    mailbox_free(&other);
    kit_open_with(k, k->options);
}

#define TESTS(T)                                                                                   \
    T(too_few_and_too_many_recipients_are_refused),                                                \
        T(contents_of_nothing_and_with_long_prefixes_come_back),                                   \
        T(a_content_without_octets_is_one), T(odd_addresses_and_keys_have_their_queues),           \
        T(a_settle_of_nothing_and_one_of_two_messages),                                            \
        T(what_a_server_said_is_kept_as_far_as_there_is_room),                                     \
        T(a_message_with_two_that_wait_is_made_due_at_once), T(only_what_is_sent_can_be_settled),  \
        T(an_endpoint_changes_only_from_what_it_was),                                              \
        T(a_replay_finds_only_what_is_its_endpoints), T(the_next_moment_of_all_endpoints_is_told), \
        T(names_may_be_empty_in_lists), T(a_search_goes_on_beyond_a_page_of_candidates),           \
        T(nothing_is_found_where_nothing_is), T(a_sweep_goes_on_where_it_stopped),                 \
        T(retention_passes_over_very_many_that_are_needed),                                        \
        T(retention_passes_over_very_many_that_are_waited_for),                                    \
        T(what_is_on_its_way_does_not_reach_who_left)

MAIN_ON_EVERY_BACKEND(TESTS)
