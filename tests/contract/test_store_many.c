/* The contract of the outbox, on every backend: many of each kind, some of them gone, so that a
 * verb has others to tell apart and gaps to step over. And verbs of which every step fails that are
 * too deep in other tests for it. */
#include "tests/contract/store_kit.h"

enum { DAY_MS = 86400000, THOROUGH = 1200 };

/* What prepares a test is not made to fail; afterwards each step of what it is about is. */
static int calm(struct kit *k) {
    int budget = k->failing_budget;
    k->failing_budget = 0;
    return budget;
}

static void fail_each_step(struct kit *k, int budget) {
    k->failing_budget = budget > 0 ? THOROUGH : 0;
}

static struct id id_of(uint8_t n) {
    struct id id = {{n}};
    return id;
}

/* ---- keys, domains, endpoints, captures ---- */

static void keys_are_told_apart(void **state) {
    struct kit *k = *state;
    static const char *const prefixes[] = {"pc_a", "pc_b", "pc_c"};
    for (uint8_t i = 0; i < 3; i++) {
        struct store_key_put p = {.key = {.id = id_of((uint8_t)(i + 1)),
                                          .project = 1 + i % 2,
                                          .prefix = str_of(prefixes[i]),
                                          .hash = {i}}};
        RUN_OK(k, STORE_KEY_PUT, &p);
        p.key.id = id_of(99); /* the same key, put again */
        RUN_OK(k, STORE_KEY_PUT, &p);
        assert_int_equal(p.key.id.b[0], i + 1);
    }
    const struct id used[] = {id_of(2), id_of(77), id_of(3), id_of(2)};
    const int64_t times[] = {500, 600, 300, 400};
    struct store_keys_used u = {.id = used, .wall_ms = times, .count = 4};
    RUN_OK(k, STORE_KEYS_USED, &u);
    struct store_keys q = {.project = -1};
    RUN_OK(k, STORE_KEYS, &q);
    assert_int_equal(q.count, 3);
    for (size_t i = 0; i < 3; i++) {
        static const int64_t want[] = {0, 500, 300};
        assert_int_equal(q.key[i].used_wall_ms, want[q.key[i].id.b[0] - 1]);
    }
    q.project = 1;
    RUN_OK(k, STORE_KEYS, &q);
    assert_int_equal(q.count, 2);
    struct store_key_revoke r = {.id = id_of(3), .project = 2, .now_wall_ms = 5};
    assert_int_equal(RUN(k, STORE_KEY_REVOKE, &r), ERR_NOT_FOUND); /* the other project's */
    r.project = 1;
    RUN_OK(k, STORE_KEY_REVOKE, &r);
}

static void put_domain(struct kit *k, uint8_t n, int64_t project, const char *name) {
    struct store_domain_put p = {
        .domain = {.id = id_of(n), .project = project, .name = str_of(name)}};
    RUN_OK(k, STORE_DOMAIN_PUT, &p);
}

static void domains_are_told_apart(void **state) {
    struct kit *k = *state;
    put_domain(k, 1, 1, "a.example");
    put_domain(k, 2, 2, "a.example");
    put_domain(k, 3, 1, "b.example");
    struct store_domain_delete d = {.name = STR("b.example"), .project = 2};
    assert_int_equal(RUN(k, STORE_DOMAIN_DELETE, &d), ERR_NOT_FOUND);
    struct store_domains q = {.project = 1};
    RUN_OK(k, STORE_DOMAINS, &q);
    assert_int_equal(q.count, 2);
    d.project = 1;
    RUN_OK(k, STORE_DOMAIN_DELETE, &d);
    d = (struct store_domain_delete){.name = STR("a.example"), .project = 2};
    RUN_OK(k, STORE_DOMAIN_DELETE, &d); /* not the first of them */
    q.project = -1;
    RUN_OK(k, STORE_DOMAINS, &q);
    assert_int_equal(q.count, 1);
    assert_int_equal(q.domain[0].id.b[0], 1);
}

static void put_key(struct kit *k, uint8_t n, int64_t project, const char *prefix) {
    struct store_key_put p = {
        .key = {.id = id_of(n), .project = project, .prefix = str_of(prefix), .hash = {n}}};
    RUN_OK(k, STORE_KEY_PUT, &p);
}

/* Ids of what is out, as digits. */
static const char *ids_of(const void *row, size_t size, size_t count) {
    static char text[16];
    for (size_t i = 0; i < count; i++)
        text[i] = (char)('0' + ((const struct id *)((const char *)row + i * size))->b[0]);
    text[count] = '\0';
    return text;
}

struct page_case {
    int64_t project;
    uint8_t after;
    size_t limit;
    const char *want;
    bool more;
};
static const struct page_case page_cases[] = {
    {1, 0, 2, "12", true},    {1, 2, 2, "35", false},  {1, 2, 1, "3", true},
    {1, 0, 4, "1235", false}, {1, 5, 2, "", false},    {2, 0, 2, "4", false},
    {3, 0, 2, "", false},     {-1, 1, 3, "234", true}, {-1, 0, 9, "12345", false},
};
enum { PAGE_CASES = sizeof(page_cases) / sizeof(page_cases[0]) };

/* In whatever order they came, and whatever their names are. */
static void keys_and_domains_come_by_pages_in_the_order_of_their_ids(void **state) {
    static const char *const name[] = {"e.example", "d.example", "c.example", "b.example",
                                       "a.example"};
    static const uint8_t order[] = {3, 1, 5, 4, 2};
    struct kit *k = *state;
    for (size_t i = 0; i < sizeof(order); i++) {
        put_domain(k, order[i], order[i] == 4 ? 2 : 1, name[order[i] - 1]);
        put_key(k, order[i], order[i] == 4 ? 2 : 1, name[order[i] - 1]);
    }
    for (size_t i = 0; i < PAGE_CASES; i++) {
        const struct page_case *c = &page_cases[i];
        struct store_keys keys = {.project = c->project, .limit = c->limit};
        struct store_domains domains = {.project = c->project, .limit = c->limit};
        if (c->after != 0)
            keys.after = domains.after = id_of(c->after);
        RUN_OK(k, STORE_KEYS, &keys);
        assert_string_equal(ids_of(keys.key, sizeof(*keys.key), keys.count), c->want);
        assert_int_equal(keys.more, c->more);
        RUN_OK(k, STORE_DOMAINS, &domains);
        assert_string_equal(ids_of(domains.domain, sizeof(*domains.domain), domains.count),
                            c->want);
        assert_int_equal(domains.more, c->more);
    }
}

static void one_domain_is_read_by_its_name(void **state) {
    struct kit *k = *state;
    put_domain(k, 1, 1, "a.example");
    put_domain(k, 2, 2, "a.example");
    put_domain(k, 3, 1, "b.example");
    struct store_domains q = {.project = 2, .name = STR("a.example")};
    RUN_OK(k, STORE_DOMAINS, &q);
    assert_string_equal(ids_of(q.domain, sizeof(*q.domain), q.count), "2");
    assert_false(q.more);
    q.name = STR("b.example");
    RUN_OK(k, STORE_DOMAINS, &q);
    assert_int_equal(q.count, 0);
}

static void one_key_is_read_by_its_id(void **state) {
    struct kit *k = *state;
    put_key(k, 1, 1, "a");
    put_key(k, 2, 2, "b");
    put_key(k, 3, 1, "c");
    static const struct {
        int64_t project;
        uint8_t id;
        const char *want;
    } rows[] = {{1, 1, "1"}, {1, 3, "3"}, {2, 2, "2"}, {-1, 2, "2"}, {1, 2, ""}, {1, 9, ""}};
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct store_keys q = {.project = rows[i].project, .id = id_of(rows[i].id)};
        RUN_OK(k, STORE_KEYS, &q);
        assert_string_equal(ids_of(q.key, sizeof(*q.key), q.count), rows[i].want);
        assert_false(q.more);
    }
}

static void put_capture(struct kit *k, uint8_t n, enum capture_kind kind) {
    struct store_capture_put p = {
        .capture = {.id = id_of(n), .kind = kind, .wall_ms = n, .content = STR("x")}};
    RUN_OK(k, STORE_CAPTURE_PUT, &p);
}

static void captures_are_listed_newest_first_in_whatever_order_they_came(void **state) {
    struct kit *k = *state;
    static const uint8_t order[] = {5, 2, 9, 1, 7};
    for (size_t i = 0; i < sizeof(order); i++)
        put_capture(k, order[i], CAPTURE_MESSAGE);
    put_capture(k, 8, CAPTURE_WEBHOOK);
    struct store_captures q = {.kind = CAPTURE_MESSAGE, .limit = 10};
    RUN_OK(k, STORE_CAPTURES, &q);
    assert_int_equal(q.count, 5);
    static const uint8_t want[] = {9, 7, 5, 2, 1};
    for (size_t i = 0; i < 5; i++)
        assert_int_equal(q.capture[i].id.b[0], want[i]);
    struct store_capture one = {.id = id_of(7)};
    RUN_OK(k, STORE_CAPTURE, &one);
    one.id = id_of(77);
    assert_int_equal(RUN(k, STORE_CAPTURE, &one), ERR_NOT_FOUND);
    /* a step of retention that ends among them */
    struct store_retain r =
        kit_retain_step(k, (struct store_retain){.captures_most = 1, .most = 2});
    assert_int_equal(r.removed, 2);
    assert_true(r.more);
    kit_retain_all(k, (struct store_retain){.captures_most = 1, .most = 2});
    RUN_OK(k, STORE_CAPTURES, &q);
    assert_int_equal(q.count, 1);
    q.kind = CAPTURE_WEBHOOK;
    RUN_OK(k, STORE_CAPTURES, &q);
    assert_int_equal(q.count, 1);
}

/* ---- notifications ---- */

static struct id hook_of(struct kit *k, uint8_t n, int64_t project, enum webhook_state to) {
    struct store_webhook_put p = {.webhook = {.id = id_of(n),
                                              .project = project,
                                              .url = STR("https://hooks.example.org/a"),
                                              .secret = STR("whsec_c2VjcmV0"),
                                              .state = to}};
    RUN_OK(k, STORE_WEBHOOK_PUT, &p);
    return p.webhook.id;
}

static size_t deliveries_of(struct kit *k, struct id hook, size_t limit, bool *more) {
    struct store_notifications q = {.webhook_id = hook, .project = -1, .limit = limit};
    RUN_OK(k, STORE_NOTIFICATIONS, &q);
    if (more != NULL)
        *more = q.more;
    return q.count;
}

static void an_event_goes_to_endpoints_that_want_it_and_only_then(void **state) {
    struct kit *k = *state;
    struct id on = hook_of(k, 1, 1, WEBHOOK_ENABLED), failing = hook_of(k, 2, 1, WEBHOOK_FAILING),
              off = hook_of(k, 3, 1, WEBHOOK_DISABLED), other = hook_of(k, 4, 2, WEBHOOK_ENABLED);
    kit_accept(k, TO("ann@example.net"));
    assert_int_equal(deliveries_of(k, on, 10, NULL), 1);
    assert_int_equal(deliveries_of(k, failing, 10, NULL), 1);
    assert_int_equal(deliveries_of(k, off, 10, NULL), 0);
    assert_int_equal(deliveries_of(k, other, 10, NULL), 0);
    struct store_webhooks q = {.project = 2};
    RUN_OK(k, STORE_WEBHOOKS, &q);
    assert_int_equal(q.count, 1);
}

static void settled(struct kit *k, const struct store_notify_claim *c, size_t i,
                    enum notification_state to) {
    struct notify_result r = {.seq = c->notification[i].seq,
                              .state = to,
                              .counts = true,
                              .due_wall_ms = k->now_wall_ms + 5000};
    assert_int_equal(kit_notify_settle(k, r), OK);
}

/* Two endpoints with deliveries of every state; the oldest are gone. */
static void gaps_in_the_log_of_deliveries_are_stepped_over(void **state) {
    struct kit *k = *state;
    struct id a = hook_of(k, 1, 1, WEBHOOK_ENABLED), b = hook_of(k, 2, 1, WEBHOOK_ENABLED);
    int budget = calm(k);
    for (int i = 0; i < 2; i++) {
        struct message_row *m = kit_accept(k, TO("ann@example.net"));
        kit_attempt(k, m->recipient[0].key, RECIPIENT_DELIVERED);
    }
    struct store_notify_claim *c = kit_notify_claim(k);
    assert_true(c->count >= 12);
    for (size_t i = 0; i < c->count; i++)
        settled(k, c, i, NOTIFICATION_DELIVERED);
    k->now_wall_ms += DAY_MS;
    kit_retain_all(k, (struct store_retain){.events_before_wall_ms = k->now_wall_ms - 1,
                                            .waiting_before_wall_ms = k->now_wall_ms - 1,
                                            .most = 3});
    assert_int_equal(deliveries_of(k, a, 10, NULL), 0);
    for (int i = 0; i < 4; i++, k->now_wall_ms += 1000)
        kit_accept(k, TO("ann@example.net"));
    c = kit_notify_claim(k);
    assert_int_equal(c->count, 8);
    for (size_t i = 0; i < 3; i++)
        settled(k, c, i,
                (enum notification_state)(i == 0   ? NOTIFICATION_PENDING
                                          : i == 1 ? NOTIFICATION_FAILED
                                                   : NOTIFICATION_DELIVERED));
    fail_each_step(k, budget);
    bool more;
    assert_int_equal(deliveries_of(k, a, 1, &more), 1);
    assert_true(more);
    assert_int_equal(deliveries_of(k, a, 4, &more), 4);
    assert_false(more);
    c = kit_notify_claim(k);
    assert_int_equal(c->count, 0);
    assert_int_equal(c->next_due_wall_ms, k->now_wall_ms + 5000);
    size_t replayed = 0;
    const struct id hooks[] = {a, b};
    for (size_t i = 0; i < 2; i++) {
        struct store_notify_replay q = {.webhook_id = hooks[i],
                                        .project = 1,
                                        .until_wall_ms = INT64_MAX,
                                        .most = 10,
                                        .now_wall_ms = k->now_wall_ms};
        RUN_OK(k, STORE_NOTIFY_REPLAY, &q);
        replayed += q.replayed;
    }
    assert_int_equal(replayed, 2); /* what failed, and what was delivered */
    struct store_notify_replay one = {
        .webhook_id = a, .project = 1, .seq = 1, .most = 10, .now_wall_ms = k->now_wall_ms};
    assert_int_equal(RUN(k, STORE_NOTIFY_REPLAY, &one), ERR_NOT_FOUND); /* it is gone */
    one.webhook_id = id_of(77);
    assert_int_equal(RUN(k, STORE_NOTIFY_REPLAY, &one), ERR_NOT_FOUND); /* no such endpoint */
}

/* What was found out about an endpoint that was deleted meanwhile changes nothing. */
static void a_deleted_endpoint_is_not_disabled(void **state) {
    struct kit *k = *state;
    struct id gone = hook_of(k, 1, 1, WEBHOOK_ENABLED);
    struct id left = hook_of(k, 2, 1, WEBHOOK_ENABLED);
    kit_accept(k, TO("ann@example.net"));
    struct store_notify_claim *c = kit_notify_claim(k);
    assert_int_equal(c->count, 2);
    struct store_webhook_delete d = {.id = gone, .project = 1};
    RUN_OK(k, STORE_WEBHOOK_DELETE, &d);
    size_t i = id_equal(&c->notification[0].webhook_id, &gone) ? 0 : 1;
    struct notify_result r = {.seq = c->notification[i].seq,
                              .state = NOTIFICATION_FAILED,
                              .disable_webhook = true,
                              .mark_failing = true};
    assert_int_equal(kit_notify_settle(k, r), OK);
    struct store_webhooks q = {.project = 1};
    RUN_OK(k, STORE_WEBHOOKS, &q);
    assert_int_equal(q.count, 1);
    assert_true(id_equal(&q.webhook[0].id, &left));
    assert_int_equal(kit_events(k, 1, 0)->count, 1); /* no webhook.disabled */
}

/* One that may be settled and one that may not: nothing of it is stored. */
static void a_settle_of_two_is_stored_whole_or_not_at_all(void **state) {
    struct kit *k = *state;
    struct id hook = hook_of(k, 1, 1, WEBHOOK_ENABLED);
    kit_accept(k, TO("ann@example.net"));
    struct store_notify_claim *c = kit_notify_claim(k);
    kit_accept(k, TO("ann@example.net"));
    int64_t sent = c->notification[0].seq;
    struct notify_result r[2] = {
        {.seq = sent, .state = NOTIFICATION_FAILED, .counts = true, .disable_webhook = true},
        {.seq = sent + 1, .state = NOTIFICATION_DELIVERED, .counts = true}};
    struct store_notify_settle q = {.result = r, .count = 2, .now_wall_ms = k->now_wall_ms};
    assert_int_equal(RUN(k, STORE_NOTIFY_SETTLE, &q), ERR_CONFLICT);
    struct store_webhooks w = {.project = 1};
    RUN_OK(k, STORE_WEBHOOKS, &w);
    assert_int_equal(w.webhook[0].state, WEBHOOK_ENABLED);
    assert_int_equal(kit_totals(k).notifications_pending, 2);
    kit_accept(k, TO("ann@example.net")); /* the endpoint still gets what happens */
    assert_int_equal(deliveries_of(k, hook, 10, NULL), 3);
    assert_int_equal(kit_notify_settle(k, r[0]), OK);
    RUN_OK(k, STORE_WEBHOOKS, &w);
    assert_int_equal(w.webhook[0].state, WEBHOOK_DISABLED);
}

/* ---- recipients ---- */

static void idempotency_keys_belong_to_their_project(void **state) {
    struct kit *k = *state;
    static const struct {
        const char *key;
        int64_t project;
        uint8_t fingerprint;
        int first; /* the row that it repeats; -1: none */
        enum err want;
    } rows[] = {{"a", 1, 1, -1, OK}, {"b", 1, 1, -1, OK},          {"a", 2, 2, -1, OK},
                {"b", 2, 2, -1, OK}, {"a", 1, 1, 0, OK},           {"b", 2, 2, 3, OK},
                {"a", 2, 2, 2, OK},  {"b", 1, 2, -1, ERR_CONFLICT}};
    struct id id[8];
    for (size_t i = 0; i < 8; i++) {
        struct store_accept *q = kit_keyed(k, rows[i].key, rows[i].fingerprint);
        q->message.project = rows[i].project;
        assert_int_equal(RUN(k, STORE_ACCEPT, q), rows[i].want);
        id[i] = q->message.id;
        assert_int_equal(q->is_replay, rows[i].first >= 0);
        if (rows[i].first >= 0)
            assert_true(id_equal(&id[i], &id[rows[i].first]));
    }
}

static void several_of_one_message_and_of_others_are_released(void **state) {
    struct kit *k = *state;
    struct message_row *m = kit_accept(k, TO("a@example.net", "b@example.net"));
    struct message_row *n = kit_accept(k, TO("c@example.net"));
    recipient_key_t keys[] = {m->recipient[0].key, m->recipient[1].key, n->recipient[0].key};
    for (size_t i = 0; i < 3; i++)
        assert_true(kit_claim(k, keys[i]));
    struct store_release q = {
        .key = keys, .count = 3, .due_wall_ms = k->now_wall_ms + 10, .now_wall_ms = k->now_wall_ms};
    RUN_OK(k, STORE_RELEASE, &q);
    assert_int_equal(kit_totals(k).by_state[RECIPIENT_QUEUED], 3);
    assert_int_equal(kit_due_count(k, k->now_wall_ms), 0);
    assert_int_equal(kit_due_count(k, k->now_wall_ms + 10), 3);
}

/* Of a message only those are made due that wait for later. */
static void a_retry_leaves_alone_what_does_not_wait(void **state) {
    struct kit *k = *state;
    struct message_row *m = kit_accept(
        k, TO("delivered@x.example", "now@x.example", "later@x.example", "bounced@x.example"));
    kit_attempt(k, m->recipient[0].key, RECIPIENT_DELIVERED);
    kit_attempt(k, m->recipient[2].key, RECIPIENT_QUEUED);
    kit_attempt(k, m->recipient[3].key, RECIPIENT_BOUNCED);
    struct store_retry r = {.id = m->id,
                            .project = 1,
                            .new_id = id_new(k->now_wall_ms),
                            .now_wall_ms = k->now_wall_ms,
                            .expires_wall_ms = k->now_wall_ms + 1000};
    RUN_OK(k, STORE_RETRY, &r);
    assert_true(r.made_new); /* for the one that bounced */
    assert_int_equal(r.new_message.recipient_count, 1);
    assert_int_equal(kit_due_count(k, k->now_wall_ms), 3);
    r.id = id_new(1);
    assert_int_equal(RUN(k, STORE_RETRY, &r), ERR_NOT_FOUND);
}

static struct message_row *accept_as(struct kit *k, enum lane lane, int64_t project,
                                     const char *email, int64_t due_wall_ms) {
    struct store_accept *q = kit_accept_for(k, TO(email));
    q->message.lane = lane;
    q->message.project = project;
    q->message.recipient[0].due_wall_ms = due_wall_ms;
    RUN_OK(k, STORE_ACCEPT, q);
    return &q->message;
}

/* What is due comes by lane, whatever order it was accepted in; with the earliest that is not. */
static void what_is_due_is_found_in_any_order(void **state) {
    struct kit *k = *state;
    int64_t now = k->now_wall_ms;
    int budget = calm(k);
    kit_attempt(k, accept_as(k, LANE_HIGH, 1, "gone@a.example", now)->recipient[0].key,
                RECIPIENT_DELIVERED);
    k->now_wall_ms += 2 * (int64_t)DAY_MS;
    kit_retain_all(k, (struct store_retain){.content_before_wall_ms = k->now_wall_ms,
                                            .events_before_wall_ms = k->now_wall_ms,
                                            .waiting_before_wall_ms = k->now_wall_ms,
                                            .most = 100});
    k->now_wall_ms = now;
    static const struct {
        enum lane lane;
        int64_t project;
        const char *email;
        int64_t due;
    } rows[] = {
        {LANE_BULK, 2, "a@b.example", -5},
        {LANE_HIGH, 1, "b@a.example", -1},
        {LANE_TRANSACTIONAL, 1, "c@a.example", -9},
        {LANE_HIGH, 2, "d@a.example", -3},
        {LANE_HIGH, 1, "e@a.example", -7},
        {LANE_HIGH, 1, "f@a.example", -7},
        {LANE_HIGH, 1, "g@c.example", -2},
        {LANE_BULK, 1, "h@b.example", 0},
        {LANE_TRANSACTIONAL, 1, "i@d.example", 900},
        {LANE_BULK, 1, "j@e.example", 300},
        {LANE_HIGH, 1, "k@f.example", 700},
        {LANE_BULK, 1, "l@b.example", 500}, /* of a queue with something due */
    };
    enum { ROWS = sizeof(rows) / sizeof(rows[0]), DUE = 8 };
    for (size_t i = 0; i < ROWS; i++)
        accept_as(k, rows[i].lane, rows[i].project, rows[i].email, now + rows[i].due);
    fail_each_step(k, budget);
    struct store_due *d = kit_due(k, now);
    assert_int_equal(d->count, DUE);
    assert_false(d->more);
    assert_int_equal(d->next_due_wall_ms, now + 300);
    for (size_t i = 1; i < DUE; i++)
        assert_true(d->due[i - 1].outgoing->lane <= d->due[i].outgoing->lane);
    kit_due_release(d);
    /* of parked queues nothing is told, not even when they would be due */
    struct str parked[] = {STR("f.example"), STR("e.example"), STR("a.example"), STR("b.example")};
    struct store_due q = {
        .until_wall_ms = now, .skip_key = parked, .skip_count = 4, .per_key = 10, .most = 10};
    RUN_OK(k, STORE_DUE, &q);
    assert_int_equal(q.count, 1);
    assert_int_equal(q.next_due_wall_ms, now + 900);
    kit_due_release(&q);
}

/* A queue counts what is due later, too, so that its share can be more than it has. What is left
 * is shared out again, but not without end: here each round finds one queue empty, and gives the
 * next one its rest. The last has use for it; that comes in a later load. */
static void shares_that_stay_empty_are_given_to_others_a_few_times(void **state) {
    enum { ROUNDS = 8 };
    struct kit *k = *state;
    int budget = calm(k);
    int64_t now = k->now_wall_ms;
    for (size_t queues = ROUNDS; queues <= ROUNDS + 1; queues++) {
        for (size_t i = 0; i < queues; i++) {
            const char *name = arena_printf(k->arena, "a@d%zu-%zu.example", queues, i).p;
            accept_as(k, LANE_BULK, 1, name, now);
            accept_as(k, LANE_BULK, 1, name, i + 1 < queues ? now + 1000 : now);
        }
        fail_each_step(k, budget > 0 ? 1 : 0);
        size_t due = queues + 1, rest = k->backend == STORE_SQLITE && queues > ROUNDS ? 1 : 0;
        struct store_due q = {.until_wall_ms = now, .per_key = due, .most = due};
        RUN_OK(k, STORE_DUE, &q);
        assert_int_equal(q.count, due - rest);
        assert_int_equal(q.more, rest > 0);
        assert_int_equal(q.next_due_wall_ms, now + 1000);
        calm(k);
        for (size_t i = 0; i < q.count; i++)
            assert_true(kit_claim(k, q.due[i].key));
        kit_due_release(&q);
        RUN_OK(k, STORE_DUE, &q);
        assert_int_equal(q.count, rest);
        assert_false(q.more);
        for (size_t i = 0; i < q.count; i++)
            assert_true(kit_claim(k, q.due[i].key));
        kit_due_release(&q);
    }
}

static void content_came(struct store_call *c) {
    ++*(size_t *)c->ctx;
}

/* Asked for at once: each gets its own, also those behind one that is not there. */
static void contents_asked_for_together_are_each_their_own(void **state) {
    enum { MANY = 60 };
    struct kit *k = *state;
    int budget = calm(k);
    store_close(&k->store);
    k->options.readers = 1;
    kit_open_with(k, k->options);
    struct store_content *q = ARENA_ARRAY(k->arena, struct store_content, MANY);
    size_t came = 0;
    for (size_t i = 0; i < MANY; i++) {
        struct store_accept *a = kit_accept_for(k, TO("ann@example.net"));
        kit_resize(a, 10 + i);
        RUN_OK(k, STORE_ACCEPT, a);
        q[i].id = i % 7 == 3 ? id_of(77) : a->message.id;
        q[i].project = i % 5 == 4 ? 2 : i % 2 == 0 ? 1 : -1;
        q[i].call = (struct store_call){
            .verb = STORE_CONTENT, .reply_to = kit_box(k), .done = content_came, .ctx = &came};
    }
    for (size_t i = 0; i < MANY; i++)
        store_post(k->store, &q[i].call);
    while (came < MANY)
        mailbox_wait(k->box, -1);
    for (size_t i = 0; i < MANY; i++) {
        bool is_there = i % 7 != 3 && i % 5 != 4;
        assert_int_equal(q[i].call.err, is_there ? OK : ERR_NOT_FOUND);
        if (is_there)
            assert_int_equal(message_size(q[i].message), 10 + i);
        message_unref(&q[i].message);
        store_call_release(&q[i].call);
    }
    fail_each_step(k, budget);
    struct store_content one = {.id = q[0].id, .project = 1};
    RUN_OK(k, STORE_CONTENT, &one);
    message_unref(&one.message);
}

/* ---- sweeps ---- */

static void those_that_expire_first_come_first(void **state) {
    struct kit *k = *state;
    static const int64_t lives[] = {5000, 3000, 9000, 3000, 7000};
    struct message_row *m[5];
    kit_attempt(k, kit_accept(k, TO("gone@example.net"))->recipient[0].key, RECIPIENT_DELIVERED);
    for (size_t i = 0; i < 5; i++) {
        struct store_accept *q = kit_accept_for(k, TO("ann@example.net"));
        q->message.expires_wall_ms = k->now_wall_ms + lives[i];
        RUN_OK(k, STORE_ACCEPT, q);
        m[i] = &q->message;
    }
    kit_retain_all(k, (struct store_retain){.content_before_wall_ms = k->now_wall_ms + 1,
                                            .events_before_wall_ms = k->now_wall_ms + 1,
                                            .waiting_before_wall_ms = k->now_wall_ms + 1,
                                            .most = 100});
    /* one that is being sent is left to its attempt */
    struct store_accept *sent = kit_accept_for(k, TO("ann@example.net"));
    sent->message.expires_wall_ms = k->now_wall_ms + 1000;
    RUN_OK(k, STORE_ACCEPT, sent);
    assert_true(kit_claim(k, sent->message.recipient[0].key));
    static const bool expired[5][5] = {
        {0, 1, 0, 0, 0}, {0, 1, 0, 1, 0}, {1, 1, 0, 1, 0}, {1, 1, 0, 1, 1}, {1, 1, 1, 1, 1}};
    for (size_t step = 0; step < 5; step++) {
        struct store_expire e = {.now_wall_ms = k->now_wall_ms + 10000, .most = 1};
        RUN_OK(k, STORE_EXPIRE, &e);
        assert_int_equal(e.expired, 1);
        assert_true(e.more);
        for (size_t i = 0; i < 5; i++)
            assert_int_equal(kit_state(k, m[i]->id, 0),
                             expired[step][i] ? RECIPIENT_EXPIRED : RECIPIENT_QUEUED);
    }
    for (int i = 0; i < 3; i++)
        kit_accept(k, TO("bob@example.net"));
    struct store_expire e = {.now_wall_ms = k->now_wall_ms + DAY_MS, .most = 9};
    RUN_OK(k, STORE_EXPIRE, &e);
    assert_int_equal(e.expired, 3);
    assert_false(e.more);
    assert_int_equal(kit_state(k, sent->message.id, 0), RECIPIENT_SENDING);
}

/* The event that said it is kept as long as its recipient waits. */
static void it_expires_with_what_was_said_however_long_ago(void **state) {
    struct kit *k = *state;
    struct message_row *m = kit_accept(k, TO("ann@example.net"));
    kit_attempt(k, m->recipient[0].key, RECIPIENT_QUEUED);
    k->now_wall_ms += 1000;
    kit_retain_all(k, (struct store_retain){.events_before_wall_ms = k->now_wall_ms,
                                            .waiting_before_wall_ms = k->now_wall_ms,
                                            .most = 100});
    struct store_expire e = {.now_wall_ms = m->expires_wall_ms, .most = 9};
    RUN_OK(k, STORE_EXPIRE, &e);
    assert_int_equal(e.expired, 1);
    assert_string_equal(kit_timeline(k, m->id),
                        "recipient.deferred recipient.expired message.completed");
}

static void mending_steps_over_what_needs_none(void **state) {
    struct kit *k = *state;
    struct id hook = hook_of(k, 1, 1, WEBHOOK_ENABLED);
    (void)hook;
    int budget = calm(k);
    int64_t now = k->now_wall_ms;
    kit_attempt(k, kit_accept(k, TO("gone@example.net"))->recipient[0].key, RECIPIENT_DELIVERED);
    struct store_notify_claim *c = kit_notify_claim(k);
    for (size_t i = 0; i < c->count; i++)
        settled(k, c, i, NOTIFICATION_DELIVERED);
    k->now_wall_ms += 1000;
    kit_retain_all(k, (struct store_retain){.content_before_wall_ms = k->now_wall_ms,
                                            .events_before_wall_ms = k->now_wall_ms,
                                            .waiting_before_wall_ms = k->now_wall_ms,
                                            .most = 100});
    /* one that is through, one that is being sent, one that is due, two that are far too late */
    kit_attempt(k, kit_accept(k, TO("done@example.net"))->recipient[0].key, RECIPIENT_BOUNCED);
    assert_true(kit_claim(k, kit_accept(k, TO("sent@example.net"))->recipient[0].key));
    kit_accept(k, TO("due@example.net"));
    struct message_row *late[2];
    for (size_t i = 0; i < 2; i++) {
        struct store_accept *q = kit_accept_for(k, TO("late@example.net"));
        q->message.recipient[0].due_wall_ms = now + 400 * (int64_t)DAY_MS;
        q->message.created_wall_ms = now + 399 * (int64_t)DAY_MS;
        q->message.expires_wall_ms = now + 401 * (int64_t)DAY_MS;
        RUN_OK(k, STORE_ACCEPT, q);
        late[i] = &q->message;
    }
    /* a delivery that is under way, one to be repeated soon, one in a year */
    c = kit_notify_claim(k);
    assert_true(c->count > 4);
    for (size_t i = 1; i < c->count; i++) {
        struct notify_result r = {.seq = c->notification[i].seq,
                                  .state = NOTIFICATION_PENDING,
                                  .due_wall_ms =
                                      k->now_wall_ms + (i == 1 ? 5000 : 400 * (int64_t)DAY_MS)};
        assert_int_equal(kit_notify_settle(k, r), OK);
    }
    size_t far = c->count - 2;
    fail_each_step(k, budget);
    struct store_mend q = {
        .now_wall_ms = k->now_wall_ms, .due_latest_wall_ms = k->now_wall_ms + DAY_MS, .most = 100};
    RUN_OK(k, STORE_MEND, &q);
    assert_int_equal(q.mended, 2);
    assert_false(q.more);
    calm(k);
    q.due_latest_wall_ms = 0;
    q.notify_latest_wall_ms = k->now_wall_ms + DAY_MS;
    RUN_OK(k, STORE_MEND, &q);
    assert_int_equal(q.mended, far);
    assert_int_equal(kit_notify_claim(k)->count, far);
    q.notify_latest_wall_ms = 0;
    q.expires_latest_wall_ms = k->now_wall_ms + 30 * (int64_t)DAY_MS;
    size_t mended = 0;
    for (q.most = 1; q.more || mended == 0; mended += q.mended)
        RUN_OK(k, STORE_MEND, &q);
    assert_int_equal(mended, 2);
    for (size_t i = 0; i < 2; i++)
        assert_int_equal(kit_message(k, late[i]->id).expires_wall_ms,
                         k->now_wall_ms + 2 * (int64_t)DAY_MS);
}

/* Written by a clock that was wrong: counts as of now, a step at a time. */
static void times_of_the_future_are_mended_by_steps(void **state) {
    struct kit *k = *state;
    kit_webhook(k, 1, "*");
    int64_t now = k->now_wall_ms;
    k->now_wall_ms += 100 * (int64_t)DAY_MS;
    int budget = calm(k);
    struct message_row *m = kit_accept(k, TO("ann@example.net"));
    kit_attempt(k, m->recipient[0].key, RECIPIENT_DELIVERED);
    struct store_notify_claim *c = kit_notify_claim(k);
    for (size_t i = 1; i < c->count; i++)
        settled(k, c, i, NOTIFICATION_DELIVERED);
    /* its content goes while the clock is still wrong */
    kit_retain_all(
        k, (struct store_retain){.content_before_wall_ms = k->now_wall_ms + 1, .most = 100});
    fail_each_step(k, budget > 0 ? 1 : 0);
    k->now_wall_ms = now;
    kit_retain_all(k, (struct store_retain){.mends_times = true, .most = 1});
    assert_int_equal(kit_message(k, m->id).created_wall_ms, now);
    for (size_t i = 0; i < kit_events(k, 1, 0)->count; i++)
        assert_int_equal(kit_events(k, 1, 0)->event[i].wall_ms, now);
    /* and then it goes like others */
    k->now_wall_ms += DAY_MS;
    kit_retain_all(k, (struct store_retain){.mends_times = true,
                                            .content_before_wall_ms = k->now_wall_ms,
                                            .events_before_wall_ms = k->now_wall_ms,
                                            .waiting_before_wall_ms = k->now_wall_ms,
                                            .most = 1});
    struct store_message gone = {.id = m->id, .project = 1};
    assert_int_equal(RUN(k, STORE_MESSAGE, &gone), ERR_NOT_FOUND);
}

static void settle_first(struct kit *k, enum notification_state state) {
    struct store_notify_claim *c = kit_notify_claim(k);
    assert_int_equal(c->count, 1);
    settled(k, c, 0, state);
}

static void assert_gone(struct kit *k, struct id id) {
    struct store_message gone = {.id = id, .project = 1};
    assert_int_equal(RUN(k, STORE_MESSAGE, &gone), ERR_NOT_FOUND);
}

/* What an endpoint waits for stays; what came before it, and behind it, goes. */
static void what_is_waited_for_holds_up_nothing_else(void **state) {
    struct kit *k = *state;
    int budget = calm(k);
    kit_webhook(k, 1, "message.accepted");
    struct message_row *m[5];
    for (size_t i = 0; i < 5; i++) {
        m[i] = kit_accept(k, TO("ann@example.net"));
        kit_attempt(k, m[i]->recipient[0].key, RECIPIENT_DELIVERED);
        if (i % 2 == 0)
            settle_first(k, NOTIFICATION_DELIVERED);
        else
            assert_int_equal(kit_notify_claim(k)->count, 1); /* and is being sent */
    }
    fail_each_step(k, budget);
    k->now_wall_ms += 1000;
    struct store_retain q = {.events_before_wall_ms = k->now_wall_ms,
                             .waiting_before_wall_ms = k->now_wall_ms - 5000};
    for (q.most = 1; q.most <= 100; q.most += 99)
        kit_retain_all(k, q);
    for (size_t i = 0; i < 5; i += 2)
        assert_gone(k, m[i]->id);
    assert_string_equal(kit_timeline(k, m[1]->id), "message.accepted");
    assert_string_equal(kit_timeline(k, m[3]->id), "message.accepted");
    assert_int_equal(kit_events(k, 1, 0)->count, 2);
    /* until it has waited too long */
    q.waiting_before_wall_ms = k->now_wall_ms;
    kit_retain_all(k, q);
    assert_gone(k, m[1]->id);
    assert_gone(k, m[3]->id);
}

/* ---- each step fails ---- */

static void results_with_an_attempt_fail_well(void **state) {
    struct kit *k = *state;
    int budget = calm(k);
    struct message_row *m = kit_accept(k, TO("ann@example.net"));
    for (int i = 0; i < 2; i++) {
        assert_true(kit_claim(k, m->recipient[0].key));
        struct settle_result r = kit_result(k, m->recipient[0].key, RECIPIENT_QUEUED);
        struct attempt_row a = {.started_wall_ms = 1};
        struct store_settle s = {
            .result = &r, .count = 1, .attempt = &a, .now_wall_ms = k->now_wall_ms};
        fail_each_step(k, budget);
        RUN_OK(k, STORE_SETTLE, &s);
        calm(k);
    }
    struct store_attempts q = {.message_id = m->id, .project = 1, .limit = 10};
    RUN_OK(k, STORE_ATTEMPTS, &q);
    assert_int_equal(q.count, 2);
}

static void what_is_not_there_is_not_found_when_looking_works(void **state) {
    struct kit *k = *state;
    int budget = calm(k);
    struct id hook = hook_of(k, 1, 1, WEBHOOK_ENABLED);
    struct message_row *m = kit_accept(k, TO("ann@example.net"));
    kit_attempt(k, m->recipient[0].key, RECIPIENT_DELIVERED);
    fail_each_step(k, budget);
    struct store_retry r = {
        .id = m->id, .project = 1, .new_id = id_of(5), .now_wall_ms = k->now_wall_ms};
    assert_int_equal(RUN(k, STORE_RETRY, &r), ERR_CONFLICT);
    r.id = id_of(77);
    assert_int_equal(RUN(k, STORE_RETRY, &r), ERR_NOT_FOUND);
    struct store_notify_replay p = {.webhook_id = id_of(77), .project = 1, .most = 5};
    assert_int_equal(RUN(k, STORE_NOTIFY_REPLAY, &p), ERR_NOT_FOUND);
    p.webhook_id = hook;
    p.seq = 4711;
    assert_int_equal(RUN(k, STORE_NOTIFY_REPLAY, &p), ERR_NOT_FOUND);
}

#define TESTS(T)                                                                                   \
    T(keys_are_told_apart), T(domains_are_told_apart),                                             \
        T(keys_and_domains_come_by_pages_in_the_order_of_their_ids),                               \
        T(one_domain_is_read_by_its_name), T(one_key_is_read_by_its_id),                           \
        T(captures_are_listed_newest_first_in_whatever_order_they_came),                           \
        T(an_event_goes_to_endpoints_that_want_it_and_only_then),                                  \
        T(gaps_in_the_log_of_deliveries_are_stepped_over), T(a_deleted_endpoint_is_not_disabled),  \
        T(a_settle_of_two_is_stored_whole_or_not_at_all),                                          \
        T(idempotency_keys_belong_to_their_project),                                               \
        T(several_of_one_message_and_of_others_are_released),                                      \
        T(a_retry_leaves_alone_what_does_not_wait), T(what_is_due_is_found_in_any_order),          \
        T(shares_that_stay_empty_are_given_to_others_a_few_times),                                 \
        T(contents_asked_for_together_are_each_their_own), T(those_that_expire_first_come_first),  \
        T(it_expires_with_what_was_said_however_long_ago), T(mending_steps_over_what_needs_none),  \
        T(times_of_the_future_are_mended_by_steps), T(what_is_waited_for_holds_up_nothing_else),   \
        T(results_with_an_attempt_fail_well), T(what_is_not_there_is_not_found_when_looking_works)

MAIN_ON_EVERY_BACKEND(TESTS)
