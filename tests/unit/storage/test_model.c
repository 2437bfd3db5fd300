/* Names, transitions and what follows from states: every member of every enum. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "storage/store_ops.h"

/* ---- recipients ---- */

static const char *const state_names[RECIPIENT_STATE_COUNT] = {
    "scheduled", "queued",  "sending",    "delivered", "bounced",
    "failed",    "expired", "suppressed", "canceled"};

static void each_state_has_its_name_and_is_found_by_it(void **state) {
    (void)state;
    enum recipient_state s;
    for (int i = 0; i < RECIPIENT_STATE_COUNT; i++) {
        assert_string_equal(recipient_state_name((enum recipient_state)i), state_names[i]);
        assert_int_equal(recipient_state_parse(str_of(state_names[i]), &s), OK);
        assert_int_equal(s, i);
    }
    static const char *const none[] = {"", "deferred", "Queued", "queued ", "complained"};
    for (size_t i = 0; i < sizeof(none) / sizeof(none[0]); i++)
        assert_int_equal(recipient_state_parse(str_of(none[i]), &s), ERR_INVALID);
}

/* The table of storage/README.md: rows from, columns to. */
static void only_the_edges_of_the_state_table_are_legal(void **state) {
    (void)state;
    static const char *const legal[RECIPIENT_STATE_COUNT] = {
        /*             S Q s D B F X P C */
        [RECIPIENT_SCHEDULED] = ".1....1.1", [RECIPIENT_QUEUED] = "..1...1.1",
        [RECIPIENT_SENDING] = ".1.111...",   [RECIPIENT_DELIVERED] = "....1....",
        [RECIPIENT_BOUNCED] = ".........",   [RECIPIENT_FAILED] = ".........",
        [RECIPIENT_EXPIRED] = ".........",   [RECIPIENT_SUPPRESSED] = ".........",
        [RECIPIENT_CANCELED] = ".........",
    };
    for (int from = 0; from < RECIPIENT_STATE_COUNT; from++)
        for (int to = 0; to < RECIPIENT_STATE_COUNT; to++)
            assert_int_equal(
                recipient_transition_is_legal((enum recipient_state)from, (enum recipient_state)to),
                legal[from][to] == '1');
}

static void what_is_final_has_an_event_and_no_way_on(void **state) {
    (void)state;
    static const enum event_type want[RECIPIENT_STATE_COUNT] = {
        [RECIPIENT_QUEUED] = EVENT_RECIPIENT_DEFERRED,
        [RECIPIENT_DELIVERED] = EVENT_RECIPIENT_DELIVERED,
        [RECIPIENT_BOUNCED] = EVENT_RECIPIENT_BOUNCED,
        [RECIPIENT_FAILED] = EVENT_RECIPIENT_FAILED,
        [RECIPIENT_EXPIRED] = EVENT_RECIPIENT_EXPIRED,
        [RECIPIENT_SUPPRESSED] = EVENT_RECIPIENT_SUPPRESSED,
        [RECIPIENT_CANCELED] = EVENT_RECIPIENT_CANCELED,
    };
    for (int i = 0; i < RECIPIENT_STATE_COUNT; i++) {
        enum recipient_state s = (enum recipient_state)i;
        bool is_open = i == RECIPIENT_SCHEDULED || i == RECIPIENT_QUEUED || i == RECIPIENT_SENDING;
        assert_int_equal(recipient_state_is_final(s), !is_open);
        if (want[i] != EVENT_MESSAGE_ACCEPTED)
            assert_int_equal(event_type_of_state(s), want[i]);
        if (!is_open)
            assert_true(event_type_is_final(event_type_of_state(s)));
    }
}

static void a_message_is_what_its_recipients_are(void **state) {
    (void)state;
    static const struct {
        const char
            *recipients; /* q: queued, d: deferred, S: scheduled, s: sending, others: final */
        const char *want;
    } rows[] = {
        {"q", "queued"},     {"d", "deferred"},   {"S", "scheduled"},  {"s", "sending"},
        {"D", "delivered"},  {"B", "bounced"},    {"F", "failed"},     {"X", "expired"},
        {"P", "suppressed"}, {"C", "canceled"},   {"DD", "delivered"}, {"DB", "partial"},
        {"DDB", "partial"},  {"BD", "partial"},   {"Dq", "queued"},    {"Dd", "deferred"},
        {"DS", "scheduled"}, {"qs", "sending"},   {"ds", "sending"},   {"Ss", "sending"},
        {"dq", "queued"},    {"qd", "queued"},    {"Sd", "deferred"},  {"Sq", "queued"},
        {"dS", "deferred"},  {"CCC", "canceled"}, {"CCD", "partial"},  {"DDDs", "sending"},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct recipient_row r[8] = {0};
        size_t n = strlen(rows[i].recipients);
        for (size_t k = 0; k < n; k++) {
            char c = rows[i].recipients[k];
            r[k].attempts = c == 'd' || c == 'D';
            r[k].state = c == 'q' || c == 'd' ? RECIPIENT_QUEUED
                         : c == 'S'           ? RECIPIENT_SCHEDULED
                         : c == 's'           ? RECIPIENT_SENDING
                         : c == 'D'           ? RECIPIENT_DELIVERED
                         : c == 'B'           ? RECIPIENT_BOUNCED
                         : c == 'F'           ? RECIPIENT_FAILED
                         : c == 'X'           ? RECIPIENT_EXPIRED
                         : c == 'P'           ? RECIPIENT_SUPPRESSED
                                              : RECIPIENT_CANCELED;
        }
        assert_string_equal(message_state_name(r, n), rows[i].want);
        if (n == 1)
            assert_string_equal(recipient_shown_state(r), rows[i].want);
    }
}

/* ---- events ---- */

static const struct {
    const char *name;
    bool is_final, is_undelivered;
} events[EVENT_TYPE_COUNT] = {
    {"message.accepted", false, false},     {"message.scheduled", false, false},
    {"message.completed", true, false},     {"recipient.deferred", false, false},
    {"recipient.delivered", true, false},   {"recipient.bounced", true, true},
    {"recipient.failed", true, true},       {"recipient.expired", true, true},
    {"recipient.suppressed", true, true},   {"recipient.canceled", true, false},
    {"recipient.complained", false, false}, {"recipient.unsubscribed", false, false},
    {"webhook.disabled", false, false},     {"webhook.test", false, false},
};

static void each_event_has_its_name_and_groups(void **state) {
    (void)state;
    enum event_type t;
    for (int i = 0; i < EVENT_TYPE_COUNT; i++) {
        assert_string_equal(event_type_name((enum event_type)i), events[i].name);
        assert_int_equal(event_type_parse(str_of(events[i].name), &t), OK);
        assert_int_equal(t, i);
        assert_int_equal(event_type_is_final((enum event_type)i), events[i].is_final);
        assert_int_equal(event_type_is_undelivered((enum event_type)i), events[i].is_undelivered);
    }
    assert_int_equal(event_type_parse(STR("recipient.lost"), &t), ERR_INVALID);
    assert_int_equal(event_type_parse(STR(""), &t), ERR_INVALID);
}

static void an_endpoint_wants_what_it_names(void **state) {
    (void)state;
    for (int i = 0; i < EVENT_TYPE_COUNT; i++) {
        enum event_type t = (enum event_type)i;
        struct str all[] = {STR("*")}, final[] = {STR("final")}, bad[] = {STR("undelivered")},
                   named[] = {STR("nothing"), STR("recipient.deferred")};
        const struct {
            struct str *events;
            size_t count;
            bool want;
        } rows[] = {
            {NULL, 0, true},
            {all, 1, true},
            {final, 1, events[i].is_final},
            {bad, 1, events[i].is_undelivered},
            {named, 2, t == EVENT_RECIPIENT_DEFERRED},
            {named, 1, false},
        };
        for (size_t k = 0; k < sizeof(rows) / sizeof(rows[0]); k++)
            assert_int_equal(webhook_wants(&(struct webhook_row){.events = rows[k].events,
                                                                 .event_count = rows[k].count},
                                           t),
                             rows[k].want);
    }
}

static void endpoints_and_notifications_have_names(void **state) {
    (void)state;
    assert_string_equal(webhook_state_name(WEBHOOK_ENABLED), "enabled");
    assert_string_equal(webhook_state_name(WEBHOOK_FAILING), "failing");
    assert_string_equal(webhook_state_name(WEBHOOK_DISABLED), "disabled");
    assert_string_equal(notification_state_name(NOTIFICATION_PENDING), "pending");
    assert_string_equal(notification_state_name(NOTIFICATION_SENDING), "sending");
    assert_string_equal(notification_state_name(NOTIFICATION_DELIVERED), "delivered");
    assert_string_equal(notification_state_name(NOTIFICATION_FAILED), "failed");
}

/* ---- what several backends decide alike ---- */

static void tags_are_read_as_far_as_they_are_tags(void **state) {
    (void)state;
    static const struct {
        const char *json;
        size_t count;
        const char *last;
    } rows[] = {
        {"[]", 0, NULL},
        {"[\"a\"]", 1, "a"},
        {"[\"a\",\"b\\\"c\"]", 2, "b\"c"},
        {"[\"b\\\"c\",1,null,\"z\"]", 2, "z"},
        {"[\"caf\xc3\xa9\"]", 1, "caf\xc3\xa9"},
        {"[\"\"]", 1, ""},
        /* what no version stored */
        {"[\"cut off", 0, NULL},
        {"{\"\\\"\":1}", 0, NULL},
        {"nonsense", 0, NULL},
        {"non\\sense", 0, NULL},
        {"[\"\xff\"]", 0, NULL},
        {"", 0, NULL},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct arena *a = arena_new();
        struct str *tags = NULL;
        assert_int_equal(tags_parse(str_of(rows[i].json), a, &tags), rows[i].count);
        if (rows[i].count > 0)
            assert_true(str_equal(tags[rows[i].count - 1], str_of(rows[i].last)));
        arena_free(&a);
    }
    struct arena *a = arena_new();
    struct str *tags = (struct str *)1;
    assert_int_equal(tags_parse(STR_NONE, a, &tags), 0);
    assert_null(tags);
    /* more than a message may have: the first ones */
    struct buf many = BUF_INIT(4096);
    buf_putz(&many, "[\"t\"");
    for (int i = 0; i < 200; i++)
        buf_putz(&many, ",\"t\"");
    buf_putz(&many, "]");
    assert_int_equal(tags_parse(buf_str(&many), a, &tags), LIMIT_TAGS);
    many.p[many.n - 1] = ',';
    buf_putz(&many, "\"\\\"\"]"); /* and with an escape */
    assert_int_equal(tags_parse(buf_str(&many), a, &tags), LIMIT_TAGS);
    buf_release(&many);
    arena_free(&a);
}

static void what_is_to_be_loaded_is_shared_out(void **state) {
    (void)state;
    enum { ROWS_MOST = 6 };
    static const struct {
        const char *name;
        struct {
            const char *key;
            enum lane lane;
            int64_t count, want;
        } row[ROWS_MOST];
        size_t count, per_key, most;
    } cases[] = {
        {"nothing", {{0}}, 0, 10, 10},
        {"all fits", {{"a", LANE_HIGH, 3, 3}, {"b", LANE_BULK, 4, 4}}, 2, 10, 10},
        {"a quota per key", {{"a", LANE_BULK, 30, 10}, {"b", LANE_BULK, 4, 4}}, 2, 10, 100},
        {"equal parts of what is left",
         {{"a", LANE_BULK, 30, 3}, {"b", LANE_BULK, 30, 3}, {"c", LANE_BULK, 1, 1}},
         3,
         10,
         7},
        {"high first", {{"a", LANE_HIGH, 9, 5}, {"b", LANE_BULK, 9, 0}}, 2, 10, 5},
        {"a part for the lanes behind",
         {{"a", LANE_HIGH, 90, 70}, {"b", LANE_TRANSACTIONAL, 90, 9}, {"c", LANE_BULK, 90, 1}},
         3,
         100,
         80},
        {"no more of it than they have",
         {{"a", LANE_TRANSACTIONAL, 90, 78}, {"b", LANE_BULK, 2, 2}},
         2,
         100,
         80},
        {"a key's lanes share its quota",
         {{"a", LANE_HIGH, 4, 4}, {"a", LANE_BULK, 9, 6}},
         2,
         10,
         100},
        {"a part of the quota for the key's lanes behind",
         {{"a", LANE_HIGH, 90, 70},
          {"b", LANE_TRANSACTIONAL, 90, 80},
          {"a", LANE_TRANSACTIONAL, 90, 9},
          {"a", LANE_BULK, 90, 1}},
         4,
         80,
         1000},
        {"its rows of one lane share it equally",
         {{"a", LANE_BULK, 60, 7}, {"a", LANE_BULK, 3, 3}},
         2,
         10,
         100},
        {"fewer than there are rows",
         {{"a", LANE_BULK, 9, 1}, {"b", LANE_BULK, 9, 1}, {"c", LANE_BULK, 9, 0}},
         3,
         10,
         2},
        {"none at all", {{"a", LANE_BULK, 9, 0}}, 1, 10, 0},
        {"empty rows", {{"a", LANE_BULK, 0, 0}, {"b", LANE_BULK, 2, 2}}, 2, 10, 5},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct due_share share[ROWS_MOST] = {0};
        for (size_t k = 0; k < cases[i].count; k++)
            share[k] = (struct due_share){.key = str_of(cases[i].row[k].key),
                                          .lane = cases[i].row[k].lane,
                                          .count = cases[i].row[k].count,
                                          .give = 77};
        due_shares(share, cases[i].count, cases[i].per_key, cases[i].most);
        for (size_t k = 0; k < cases[i].count; k++)
            if (share[k].give != cases[i].row[k].want)
                fail_msg("%s: row %zu gets %lld", cases[i].name, k, (long long)share[k].give);
    }
}

static void a_version_gets_what_is_newer_than_it(void **state) {
    (void)state;
    size_t first = 99;
    struct errinfo info = {0};
    int newest = migrations[migration_count - 1].version;
    for (size_t i = 0; i < migration_count; i++) {
        char set[32];
        assert_int_equal(migrations[i].version, i + 1);
        snprintf(set, sizeof(set), "PRAGMA user_version = %d", migrations[i].version);
        assert_string_equal(migrations[i].set_version, set);
        assert_int_equal(migrate_plan((int)i, &first, &info), OK);
        assert_int_equal(first, i);
    }
    assert_int_equal(migrate_plan(newest, &first, &info), OK);
    assert_int_equal(first, migration_count);
    assert_int_equal(migrate_plan(newest + 1, &first, &info), ERR_INVALID);
    assert_int_equal(migrate_plan(-1, &first, &info), ERR_INVALID);
}

/* ---- content that rides along ---- */

static void content_rides_along_while_there_is_room(void **state) {
    (void)state;
    struct content_budget *budget = content_budget_new(1500);
    struct message_row row = {
        .seq = 7, .mail_from = STR(""), .from_domain = STR("example.org"), .lane = LANE_BULK};
    struct id id = {{1}};
    struct message *m = message_new(&id, mem_zalloc(1001), 1000);
    struct outgoing *first = outgoing_new(&row, m, budget), *second = outgoing_new(&row, m, budget);
    struct outgoing *without = outgoing_new(&row, NULL, NULL);
    assert_ptr_equal(first->message, m);
    assert_null(second->message);
    assert_null(without->message);
    assert_false(str_is_absent(first->mail_from));
    assert_int_equal(first->mail_from.n, 0);
    assert_true(str_equal(first->from_domain, STR("example.org")));
    assert_true(str_is_absent(first->route));
    struct outgoing *again = outgoing_ref(first);
    outgoing_unref(&first);
    assert_null(first);
    outgoing_unref(&second);
    second = outgoing_new(&row, m, budget);
    assert_null(second->message); /* somebody has the first one still */
    outgoing_unref(&again);
    struct outgoing *third = outgoing_new(&row, m, budget);
    assert_ptr_equal(third->message, m);
    content_budget_unref(&budget); /* outgoings outlive the store */
    assert_null(budget);
    content_budget_unref(&budget);
    outgoing_unref(&second);
    outgoing_unref(&third);
    outgoing_unref(&without);
    outgoing_unref(&without);
    message_unref(&m);
}

static void whoever_gives_content_back_lets_another_ride(void **state) {
    (void)state;
    struct content_budget *budget = content_budget_new(1500);
    const struct message_row row = {.seq = 7,
                                    .id = {{2}},
                                    .project = 3,
                                    .lane = LANE_BULK,
                                    .tls = TLS_VERIFY,
                                    .needs_smtputf8 = true,
                                    .is_test = true,
                                    .created_wall_ms = 4,
                                    .expires_wall_ms = 5,
                                    .size_bytes = 1000,
                                    .mail_from = STR(""),
                                    .from_domain = STR("example.org")};
    struct id id = {{1}};
    struct message *m = message_new(&id, mem_zalloc(1001), 1000);
    struct outgoing *first = outgoing_new(&row, m, budget);
    struct outgoing *bare = outgoing_without_content(first);
    struct outgoing *same = outgoing_without_content(bare);
    assert_ptr_equal(same, bare);
    outgoing_unref(&same);
    assert_null(bare->message);
    assert_ptr_equal(first->message, m);
    struct outgoing *second = outgoing_new(&row, m, budget);
    assert_null(second->message); /* somebody has the first one still */
    outgoing_unref(&second);
    outgoing_unref(&first);
    second = outgoing_new(&row, m, budget);
    assert_ptr_equal(second->message, m);
    outgoing_unref(&second);
    assert_int_equal(bare->seq, 7);
    assert_int_equal(bare->id.b[0], 2);
    assert_int_equal(bare->project, 3);
    assert_int_equal(bare->lane, LANE_BULK);
    assert_int_equal(bare->tls, TLS_VERIFY);
    assert_true(bare->needs_smtputf8 && bare->is_test);
    assert_int_equal(bare->created_wall_ms, 4);
    assert_int_equal(bare->expires_wall_ms, 5);
    assert_int_equal(bare->size_bytes, 1000);
    assert_true(!str_is_absent(bare->mail_from) && str_is_empty(bare->mail_from));
    assert_true(str_equal(bare->from_domain, STR("example.org"))); /* its own: `first` is gone */
    assert_true(str_is_absent(bare->route));
    outgoing_unref(&bare);
    content_budget_unref(&budget);
    message_unref(&m);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_state_has_its_name_and_is_found_by_it),
        cmocka_unit_test(only_the_edges_of_the_state_table_are_legal),
        cmocka_unit_test(what_is_final_has_an_event_and_no_way_on),
        cmocka_unit_test(a_message_is_what_its_recipients_are),
        cmocka_unit_test(each_event_has_its_name_and_groups),
        cmocka_unit_test(an_endpoint_wants_what_it_names),
        cmocka_unit_test(endpoints_and_notifications_have_names),
        cmocka_unit_test(tags_are_read_as_far_as_they_are_tags),
        cmocka_unit_test(what_is_to_be_loaded_is_shared_out),
        cmocka_unit_test(a_version_gets_what_is_newer_than_it),
        cmocka_unit_test(content_rides_along_while_there_is_room),
        cmocka_unit_test(whoever_gives_content_back_lets_another_ride),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
