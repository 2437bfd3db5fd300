/* The contract of the outbox, on every backend. What is read: due recipients, the feed, search.
 * After each test store_check() recomputes what is kept along with the rows. */
#include "tests/contract/store_kit.h"

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

/* One load after the other, as long as each hands on where it ended. */
static void each_queue_has_its_turn_however_many_come_again(void **state) {
    struct kit *k = *state;
    put_many(k, "a.example", LANE_TRANSACTIONAL, 1, 2);
    put_many(k, "b.example", LANE_TRANSACTIONAL, 1, 2);
    put_many(k, "c.example", LANE_TRANSACTIONAL, 1, 2);
    put_many(k, "d.example", LANE_TRANSACTIONAL, 1, 2);
    put_many(k, "e.example", LANE_TRANSACTIONAL, 1, 1);
    put_many(k, "f.example", LANE_BULK, 1, 1);
    static const char *const wanted[] = {"ab", "cd", "ef", "ab"};
    struct store_due q = {.until_wall_ms = k->now_wall_ms, .per_key = 10, .most = 2};
    for (size_t i = 0; i < sizeof(wanted) / sizeof(wanted[0]); i++) {
        RUN_OK(k, STORE_DUE, &q);
        assert_int_equal(q.count, 2);
        assert_int_equal(q.due[0].queue_key.p[0], wanted[i][0]);
        assert_int_equal(q.due[1].queue_key.p[0], wanted[i][1]);
        assert_true(q.more);
        assert_int_equal(q.at[LANE_TRANSACTIONAL].number == 0, wanted[i][0] == 'e');
        kit_due_release(&q);
    }
    q.most = 10; /* the rest, from where it went on */
    RUN_OK(k, STORE_DUE, &q);
    assert_int_equal(q.count, 6);
    assert_int_equal(q.at[LANE_TRANSACTIONAL].number, 0);
    assert_true(q.more);
    kit_due_release(&q);
    RUN_OK(k, STORE_DUE, &q);
    assert_int_equal(q.count, 10);
    assert_false(q.more);
    kit_due_release(&q);
}

static void a_lane_that_had_no_room_keeps_its_turn(void **state) {
    struct kit *k = *state;
    put_many(k, "a.example", LANE_BULK, 1, 1);
    put_many(k, "b.example", LANE_BULK, 1, 1);
    struct store_due q = {.until_wall_ms = k->now_wall_ms, .per_key = 10, .most = 1};
    static const char wanted[] = "ahb";
    for (size_t i = 0; i < sizeof(wanted) - 1; i++) {
        if (wanted[i] == 'h')
            put_many(k, "h.example", LANE_TRANSACTIONAL, 1, 1);
        q.skip_key = &(struct str){"h.example", 9};
        q.skip_count = wanted[i] == 'h' ? 0 : 1;
        RUN_OK(k, STORE_DUE, &q);
        assert_int_equal(q.count, 1);
        assert_int_equal(q.due[0].queue_key.p[0], wanted[i]);
        kit_due_release(&q);
    }
}

static void a_lane_that_has_room_but_no_quota_begins_anew(void **state) {
    struct kit *k = *state;
    put_many(k, "a.example", LANE_BULK, 1, 1);
    put_many(k, "b.example", LANE_BULK, 1, 1);
    struct store_due q = {.until_wall_ms = k->now_wall_ms, .per_key = 1, .most = 1};
    RUN_OK(k, STORE_DUE, &q);
    assert_int_not_equal(q.at[LANE_BULK].number, 0);
    kit_due_release(&q);
    put_many(k, "b.example", LANE_TRANSACTIONAL, 1, 1);
    q.most = 10;
    RUN_OK(k, STORE_DUE, &q);
    assert_int_equal(q.count, 1);
    assert_int_equal(q.due[0].queue_key.p[0], 'b');
    assert_int_equal(q.at[LANE_BULK].number, 0);
    assert_true(q.more);
    kit_due_release(&q);
}

/* They may be here already, or have no place here: rows that come again as long as they cannot go.
 */
static void however_much_comes_again_in_a_lane_the_next_one_has_a_part(void **state) {
    struct kit *k = *state;
    put_many(k, "a.example", LANE_TRANSACTIONAL, 1, 6);
    put_many(k, "b.example", LANE_TRANSACTIONAL, 1, 6);
    put_many(k, "c.example", LANE_BULK, 1, 6);
    struct store_due q = {.per_key = 10, .most = 8};
    for (int i = 0; i < 3; i++) {
        struct due_counts c = due_with(k, &q, STR("c.example"));
        assert_int_equal(c.all, 8);
        assert_int_equal(c.of_key, 1);
    }
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
        assert_int_equal(kit_found(k, rows[i].q), rows[i].want);
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

/* New ones come in front, old ones go: a reader of pages sees each of the others once. */
static void pages_hold_while_messages_come_and_go(void **state) {
    struct kit *k = *state;
    enum { FIRST = 12, GONE = 3 };
    struct message_row *m[FIRST];
    for (int i = 0; i < FIRST; i++) {
        m[i] = kit_accept(k, TO("ann@example.net"));
        if (i < GONE)
            kit_attempt(k, m[i]->recipient[0].key, RECIPIENT_DELIVERED);
    }
    k->now_wall_ms += 1000;
    int64_t before = 0, event = 0;
    size_t seen = 0, events = 0;
    for (bool more = true; more;) {
        struct store_messages q = {.project = 1, .before_seq = before, .limit = 4};
        RUN_OK(k, STORE_MESSAGES, &q);
        for (size_t i = 0; i < q.count; i++) {
            assert_true(before == 0 || q.message[i].seq < before);
            assert_int_equal(q.message[i].seq, m[FIRST - 1 - seen++]->seq);
            before = q.message[i].seq;
        }
        more = q.more;
        kit_accept(k, TO("bob@example.net"));
        kit_retain_all(k, (struct store_retain){.events_before_wall_ms = k->now_wall_ms,
                                                .waiting_before_wall_ms = k->now_wall_ms,
                                                .most = 100});
    }
    assert_int_equal(seen, FIRST - GONE);
    /* the feed: what was removed is missing, nothing is twice */
    for (bool more = true; more;) {
        struct store_events q = {.project = 1, .after_seq = event, .limit = 2};
        RUN_OK(k, STORE_EVENTS, &q);
        for (size_t i = 0; i < q.count; i++, events++) {
            assert_true(q.event[i].seq > event);
            event = q.event[i].seq;
        }
        more = q.more;
        if (events < 4)
            kit_accept(k, TO("cat@example.net"));
    }
    assert_true(events >= 3);
}

/* Cursors come from outside: what one names need not be there, nor in reach of any number. */
static const int64_t beyond[] = {INT64_C(1) << 40, INT64_MAX / 1024, INT64_MAX / 1024 + 2,
                                 INT64_C(1) << 62, INT64_MAX};
enum { BEYOND = sizeof(beyond) / sizeof(beyond[0]) };

static void a_page_before_what_there_will_never_be_is_the_first(void **state) {
    struct kit *k = *state;
    struct message_row *m = kit_accept(k, TO("ann@example.net", "bob@example.net"));
    kit_attempt(k, m->recipient[0].key, RECIPIENT_BOUNCED);
    const struct store_messages rows[] = {
        {.project = 1},
        {.project = -1},
        {.to = STR("ann@example.net")},
        {.state = STR("bounced")},
        {.state = STR("queued")},
        {.to = STR("bob@example.net"), .tag = STR("welcome"), .state = STR("queued")},
    };
    for (size_t b = 0; b < BEYOND; b++)
        for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
            struct store_messages q = rows[i], none = rows[i];
            q.before_seq = none.before_seq = beyond[b];
            assert_int_equal(kit_found(k, q), 1);
            none.external_id = STR("nobody's");
            assert_int_equal(kit_found(k, none), 0);
        }
    struct store_notifications n = {.webhook_id = kit_webhook(k, 1, "*"), .project = 1, .limit = 9};
    kit_accept(k, TO("ann@example.net"));
    for (size_t b = 0; b < BEYOND; b++) {
        n.before_seq = beyond[b];
        RUN_OK(k, STORE_NOTIFICATIONS, &n);
        assert_int_equal(n.count, 1);
    }
}

/* One attempt, recorded. */
static struct id attempted(struct kit *k, int64_t project) {
    struct store_accept *q = kit_accept_for(k, TO("ann@example.net"));
    q->message.project = project;
    RUN_OK(k, STORE_ACCEPT, q);
    struct settle_result r = kit_result(k, q->message.recipient[0].key, RECIPIENT_DELIVERED);
    struct attempt_row a = {.started_wall_ms = k->now_wall_ms, .transcript = STR("S: 220 hello")};
    struct store_settle s = {.result = &r, .count = 1, .attempt = &a, .now_wall_ms = 1};
    assert_true(kit_claim(k, r.key));
    RUN_OK(k, STORE_SETTLE, &s);
    return q->message.id;
}

static void after_what_there_will_never_be_there_is_nothing(void **state) {
    struct kit *k = *state;
    const struct id id[] = {attempted(k, 1), attempted(k, 2), attempted(k, 1)};
    for (size_t i = 0; i < 3; i++) {
        struct store_attempts a = {.message_id = id[i], .project = -1, .limit = 9};
        RUN_OK(k, STORE_ATTEMPTS, &a);
        assert_int_equal(a.count, 1);
        for (size_t b = 0; b < BEYOND; b++) {
            a.after_seq = beyond[b];
            RUN_OK(k, STORE_ATTEMPTS, &a);
            assert_int_equal(a.count, 0); /* not what another message has */
        }
        struct store_events of = {.message_id = id[i], .project = -1, .limit = 9},
                            all = {.project = -1, .limit = 9};
        for (size_t b = 0; b < BEYOND; b++) {
            of.after_seq = all.after_seq = beyond[b];
            RUN_OK(k, STORE_EVENTS, &of);
            RUN_OK(k, STORE_EVENTS, &all);
            assert_int_equal(of.count + all.count, 0);
        }
    }
}

#define TESTS(T)                                                                                   \
    T(loading_is_fair_to_keys_lanes_and_projects),                                                 \
        T(each_queue_has_its_turn_however_many_come_again),                                        \
        T(a_lane_that_had_no_room_keeps_its_turn),                                                 \
        T(a_lane_that_has_room_but_no_quota_begins_anew),                                          \
        T(however_much_comes_again_in_a_lane_the_next_one_has_a_part),                             \
        T(a_project_with_much_does_not_starve_one_with_little), T(the_next_due_time_is_told),      \
        T(due_rows_carry_what_delivery_needs), T(the_feed_is_in_order_and_can_be_paged),           \
        T(an_event_carries_its_message), T(messages_are_found_by_each_filter),                     \
        T(a_listing_is_paged_from_the_newest), T(pages_hold_while_messages_come_and_go),           \
        T(a_page_before_what_there_will_never_be_is_the_first),                                    \
        T(after_what_there_will_never_be_there_is_nothing)

MAIN_ON_EVERY_BACKEND(TESTS)
