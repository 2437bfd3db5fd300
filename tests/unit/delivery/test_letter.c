#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>

#include "server/delivery/letter.h"
#include "server/delivery/site.h"
#include "storage/store_ops.h"

enum { KEPT_MAX = 1000, SIZE = 600 };

static struct message *content(void) {
    const struct id id = {{1}};
    return message_new(&id, mem_zalloc(SIZE), SIZE);
}

static struct outgoing *outgoing(int64_t seq, struct message *m) {
    const struct message_row row = {.seq = seq, .size_bytes = SIZE};
    struct content_budget *b = content_budget_new(1024 * 1024);
    struct outgoing *o = outgoing_new(&row, m, b);
    content_budget_unref(&b);
    return o;
}

/* A letter that is ready, has a recipient to be tried again, and is used by one bundle. */
static struct bundle *use_with(struct letters *t, int64_t seq, enum route_signing signing) {
    struct outgoing *o = outgoing(seq, NULL);
    struct bundle *b = mem_zalloc(sizeof(*b));
    b->letter = letters_get(t, o, signing);
    outgoing_unref(&o);
    letter_set_loading(t, b->letter);
    letter_set_content(t, b->letter, content());
    b->letter->has_retry = true;
    TAILQ_INSERT_TAIL(&b->letter->bundles, b, of_letter);
    return b;
}

static struct bundle *use(struct letters *t, int64_t seq) {
    return use_with(t, seq, ROUTE_SIGNING_OFF);
}

static void end_use(struct letters *t, struct bundle *b) {
    TAILQ_REMOVE(&b->letter->bundles, b, of_letter);
    letter_settle(t, &b->letter);
    free(b);
}

static void the_oldest_kept_ones_make_room(void **state) {
    (void)state;
    struct letters *t = letters_new(KEPT_MAX);
    struct bundle *a = use(t, 1), *b = use(t, 2);
    assert_int_equal(letters_bytes(t), 2 * SIZE);
    end_use(t, a);
    assert_int_equal(letters_kept_bytes(t), SIZE);
    end_use(t, b);
    assert_int_equal(letters_kept_bytes(t), SIZE);
    assert_int_equal(letters_bytes(t), 0);
    assert_null(letters_find(t, 1, ROUTE_SIGNING_OFF));
    assert_non_null(letters_find(t, 2, ROUTE_SIGNING_OFF));
    letters_free(&t);
}

struct visit {
    struct letters *t;
    int visited;
};

static void end_all_uses(void *ctx, struct letter *l) {
    struct visit *v = ctx;
    v->visited++;
    struct bundle *b = TAILQ_FIRST(&l->bundles);
    if (b != NULL)
        end_use(v->t, b);
}

/* What the first visit leaves to be kept pushes out the second one, which is visited next. */
static void a_visit_may_end_uses_while_much_is_kept(void **state) {
    (void)state;
    struct letters *t = letters_new(KEPT_MAX);
    struct visit v = {.t = t};
    use(t, 1);
    end_use(t, use(t, 2));
    letters_visit(t, &v, end_all_uses);
    assert_int_equal(v.visited, 2);
    assert_int_equal(letters_kept_bytes(t), SIZE);
    letters_free(&t);
}

static void what_came_with_a_notice_takes_no_room_from_what_is_read(void **state) {
    (void)state;
    struct letters *t = letters_new(KEPT_MAX);
    struct message *m = content();
    struct outgoing *o = outgoing(1, m);
    message_unref(&m);
    struct bundle *b = mem_zalloc(sizeof(*b));
    b->letter = letters_get(t, o, ROUTE_SIGNING_OFF);
    outgoing_unref(&o);
    assert_int_equal(b->letter->state, LETTER_READY);
    TAILQ_INSERT_TAIL(&b->letter->bundles, b, of_letter);
    assert_int_equal(letters_bytes(t), 0);
    b->letter->has_retry = true;
    end_use(t, b);
    assert_int_equal(letters_bytes(t), 0);
    assert_int_equal(letters_kept_bytes(t), SIZE);
    letters_free(&t);
}

static struct bundle *use_signed(struct letters *t, int64_t seq) {
    struct bundle *b = use_with(t, seq, ROUTE_SIGNING_FULL);
    assert_int_equal(b->letter->state, LETTER_UNSIGNED);
    letter_set_ready(t, b->letter, content());
    return b;
}

static void when_keys_change_nothing_that_was_signed_is_kept(void **state) {
    (void)state;
    struct letters *t = letters_new(4 * KEPT_MAX);
    end_use(t, use_signed(t, 1));
    end_use(t, use(t, 2));
    struct bundle *in_use = use_signed(t, 3), *of_both = use_signed(t, 4), *bare = use(t, 5);
    letters_outdate(t);
    assert_null(letters_find(t, 1, ROUTE_SIGNING_FULL));
    assert_non_null(letters_find(t, 2, ROUTE_SIGNING_OFF)); /* is never signed */
    end_use(t, in_use);
    assert_null(letters_find(t, 3, ROUTE_SIGNING_FULL));
    letter_set_unsigned(t, of_both->letter); /* its next bundle is picked */
    assert_int_equal(of_both->letter->state, LETTER_BARE);
    assert_int_equal(letters_bytes(t), SIZE); /* of the last one */
    letter_set_loading(t, of_both->letter);
    letter_set_content(t, of_both->letter, content());
    letter_set_ready(t, of_both->letter, content());
    end_use(t, of_both);
    assert_non_null(letters_find(t, 4, ROUTE_SIGNING_FULL));
    end_use(t, bare);
    assert_non_null(letters_find(t, 5, ROUTE_SIGNING_OFF));
    assert_int_equal(letters_bytes(t), 0);
    letters_free(&t);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_oldest_kept_ones_make_room),
        cmocka_unit_test(a_visit_may_end_uses_while_much_is_kept),
        cmocka_unit_test(what_came_with_a_notice_takes_no_room_from_what_is_read),
        cmocka_unit_test(when_keys_change_nothing_that_was_signed_is_kept),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
