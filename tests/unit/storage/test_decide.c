/* What the backends of the store decide alike, and what the one in memory checks of itself. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>

#include "server/base/limits.h"
#include "storage/memory/memory.h"

static void tags_are_read_as_far_as_they_are_tags(void **state) {
    (void)state;
    static const struct {
        const char *json, *want[4]; /* NULL ends */
    } rows[] = {
        {"[]", {NULL}},
        {"[\"a\",\"b\"]", {"a", "b"}},
        {"[\"a\\\"b\",\"c\"]", {"a\"b", "c"}},
        {"[\"\\u0061\",1,null,\"b\"]", {"a", "b"}}, /* of no version; not the end of the others */
        {"[\"a\",\"b", {"a"}},
        {"\"\\u0061\"", {NULL}},
        {"[\"\\", {NULL}},
    };
    struct arena *a = arena_new();
    struct str *tags;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        size_t n = tags_parse(str_of(rows[i].json), a, &tags);
        for (size_t t = 0; t < n; t++)
            if (rows[i].want[t] == NULL || !str_equal(tags[t], str_of(rows[i].want[t])))
                fail_msg("%s: tag %zu is %.*s", rows[i].json, t, STR_ARG(tags[t]));
        assert_null(rows[i].want[n]);
    }
    assert_int_equal(tags_parse(STR_NONE, a, &tags), 0);
    assert_null(tags);
    /* more than anybody may give */
    struct buf b = BUF_INIT(65536), escaped = BUF_INIT(65536);
    for (int i = 0; i < LIMIT_TAGS + 2; i++) {
        buf_putz(&b, i == 0 ? "[\"t\"" : ",\"t\"");
        buf_putz(&escaped, i == 0 ? "[\"\\u0074\"" : ",\"t\"");
    }
    buf_putz(&b, "]");
    buf_putz(&escaped, "]");
    assert_int_equal(tags_parse(buf_str(&b), a, &tags), LIMIT_TAGS);
    assert_int_equal(tags_parse(buf_str(&escaped), a, &tags), LIMIT_TAGS);
    assert_true(str_equal(tags[LIMIT_TAGS - 1], STR("t")));
    buf_release(&b);
    buf_release(&escaped);
    arena_free(&a);
}

static void a_message_matches_by_any_of_its_tags(void **state) {
    (void)state;
    const struct message_row m = {.project = 1, .tags_json = STR("[\"a\",\"b\",\"c\"]")};
    static const struct {
        const char *tag;
        bool want;
    } rows[] = {{"a", true}, {"b", true}, {"c", true}, {"d", false}, {"", false}};
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct store_messages q = {.project = 1, .tag = str_of(rows[i].tag)};
        assert_int_equal(messages_match(&q, &m), rows[i].want);
        q.project = 2;
        assert_false(messages_match(&q, &m));
    }
}

static void effects_of_nothing_can_be_freed(void **state) {
    (void)state;
    struct effects *fx = NULL;
    effects_free(&fx);
    assert_null(fx);
}

/* ---- the memory backend's check ---- */

static void put_message(struct backend *b, enum recipient_state state) {
    struct arena *a = arena_new();
    struct mem_message *m = ARENA_NEW(a, struct mem_message);
    m->arena = a;
    m->recipient = ARENA_NEW(a, struct mem_recipient);
    m->recipient->row.state = state;
    m->row.recipient_count = 1;
    mem_list_add(&b->shared.messages, m);
    mem_list_add(&b->shared.messages, NULL); /* one that retention took */
    b->shared.by_state[state]++;
    b->shared.accepted++;
}

static void totals_that_do_not_add_up_are_found(void **state) {
    (void)state;
    const struct store_ops *ops = &store_memory_ops;
    static const struct {
        enum recipient_state counted;
        int64_t count, accepted; /* more than there is */
        enum err want;
    } rows[] = {
        {RECIPIENT_QUEUED, 0, 0, OK},
        {RECIPIENT_QUEUED, 1, 1, ERR_INTERNAL}, /* one that waits is not there */
        {RECIPIENT_QUEUED, -1, -1, ERR_INTERNAL},
        {RECIPIENT_DELIVERED, 1, 1, OK}, /* its row is gone */
        {RECIPIENT_DELIVERED, -1, -1, ERR_INTERNAL},
        {RECIPIENT_DELIVERED, 1, 0, ERR_INTERNAL},
        {RECIPIENT_QUEUED, 0, 1, ERR_INTERNAL},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct backend *b;
        struct backend_reader *r;
        struct errinfo info = {0};
        assert_int_equal(ops->open(&(struct store_options){0}, NULL, &b, &info), OK);
        assert_int_equal(ops->reader_open(&(struct store_options){0}, b, &r, &info), OK);
        put_message(b, RECIPIENT_QUEUED);
        put_message(b, RECIPIENT_DELIVERED);
        b->shared.by_state[rows[i].counted] += rows[i].count;
        b->shared.accepted += rows[i].accepted;
        if (ops->check(r, &info) != rows[i].want)
            fail_msg("row %zu: %s", i, info.text);
        ops->reader_close(&r);
        ops->close(&b);
        ops->close(&b); /* of nothing: nothing */
    }
}

static void a_store_in_memory_needs_no_folder(void **state) {
    (void)state;
    struct store *s;
    assert_int_equal(store_open(&(struct store_options){.backend = STORE_MEMORY}, &s, NULL), OK);
    assert_int_equal(store_health(s).disk_free_bytes, INT64_MAX);
    assert_int_equal(store_check(s, NULL), OK);
    store_close(&s);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tags_are_read_as_far_as_they_are_tags),
        cmocka_unit_test(a_message_matches_by_any_of_its_tags),
        cmocka_unit_test(effects_of_nothing_can_be_freed),
        cmocka_unit_test(totals_that_do_not_add_up_are_found),
        cmocka_unit_test(a_store_in_memory_needs_no_folder),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
