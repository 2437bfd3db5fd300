#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>

#include "server/delivery/letter.h"
#include "server/delivery/site.h"
#include "server/mail/dkim_key.h"
#include "storage/store_ops.h"
#include "tests/unit/delivery/keys.h"

enum { KEPT_MAX = 1000, SIZE = 600 };

static struct message *content(void) {
    const struct id id = {{1}};
    return message_new(&id, mem_zalloc(SIZE), SIZE);
}

static struct outgoing *outgoing(int64_t seq, struct message *m) {
    const struct message_row row = {
        .seq = seq, .size_bytes = SIZE, .from_domain = STR("news.example.org")};
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

static struct signers *none(void) {
    return signers_new(NULL, 0);
}

/* Domains are read: does it outdate what was signed by the rule? */
static bool outdates(struct signers *was, struct signers *are, enum route_signing signing) {
    struct letters *t = letters_new(4 * KEPT_MAX);
    struct bundle *b = use_with(t, 1, signing);
    if (signing != ROUTE_SIGNING_OFF)
        letter_set_ready(t, b->letter, content());
    letters_outdate(t, was, are);
    bool is_outdated = !letter_is_ready(b->letter);
    end_use(t, b);
    assert_int_equal(letters_find(t, 1, signing) == NULL, is_outdated);
    letters_free(&t);
    return is_outdated;
}

static void only_what_a_change_of_keys_concerns_is_signed_again(void **state) {
    (void)state;
    const enum route_signing FULL = ROUTE_SIGNING_FULL, PUBLISHED = ROUTE_SIGNING_PUBLISHED;
    struct signers *no = none(), *mine = signers_of("example.org", "s1", true),
                   *next = signers_of("example.org", "s1", true), /* another key, the same name */
                       *hidden = signers_of("example.org", "s1", false),
                   *other = signers_of("example.com", "s1", true),
                   *nearer = signers_of("news.example.org", "s1", true);
    const struct {
        struct signers *was, *are;
        enum route_signing signing;
        bool want;
    } rows[] = {
        {no, no, FULL, false},
        {mine, mine, FULL, false},
        {no, mine, FULL, true},
        {mine, no, FULL, true},
        {mine, next, FULL, true},
        {mine, nearer, FULL, true},
        {no, other, FULL, false},
        {other, no, FULL, false},
        {mine, other, FULL, true},
        {no, hidden, FULL, true},
        {no, hidden, PUBLISHED, false},
        {hidden, mine, PUBLISHED, true},
        {mine, next, ROUTE_SIGNING_OFF, false},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        if (outdates(rows[i].was, rows[i].are, rows[i].signing) != rows[i].want)
            fail_msg("row %zu", i);
    }
    struct signers *all[] = {no, mine, next, hidden, other, nearer};
    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++)
        signers_unref(&all[i]);
}

static void what_has_the_same_keys_under_the_same_names_signs_the_same(void **state) {
    (void)state;
    static const char *const SELECTORS[] = {"s1", "s2"};
    struct buf pem[2] = {new_key(), new_key()};
    const struct {
        size_t count, selector[2], pem[2];
        const char *bounce_address;
        bool want;
    } rows[] = {
        {2, {0, 1}, {0, 1}, NULL, true},
        {2, {0, 1}, {0, 1}, "b@example.org", true}, /* signs nothing */
        {1, {0, 0}, {0, 0}, NULL, false},
        {2, {0, 1}, {0, 0}, NULL, false},
        {2, {0, 0}, {0, 1}, NULL, false},
        {2, {1, 0}, {1, 0}, NULL, false}, /* signatures in another order */
        {0, {0, 0}, {0, 0}, NULL, false},
    };
    struct signers *first = NULL;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct domain_key_row k[2] = {0};
        for (size_t j = 0; j < rows[i].count; j++) {
            k[j].selector = str_of(SELECTORS[rows[i].selector[j]]);
            k[j].pem = buf_str(&pem[rows[i].pem[j]]);
        }
        const struct domain_row d = {.name = STR("example.org"),
                                     .bounce_address = str_of(rows[i].bounce_address),
                                     .key = k,
                                     .key_count = rows[i].count};
        struct signers *s = signers_new(&d, 1);
        if (first == NULL)
            first = signers_ref(s);
        if (signers_are_same(first, s, STR("example.org"), false) != rows[i].want ||
            signers_are_same(s, first, STR("example.org"), false) != rows[i].want)
            fail_msg("row %zu", i);
        signers_unref(&s);
    }
    signers_unref(&first);
    for (size_t i = 0; i < 2; i++)
        buf_release_secret(&pem[i]);
}

static void when_keys_change_nothing_that_was_signed_is_kept(void **state) {
    (void)state;
    struct letters *t = letters_new(4 * KEPT_MAX);
    struct signers *was = none(), *are = signers_of("example.org", "s1", false);
    end_use(t, use_signed(t, 1));
    end_use(t, use(t, 2));
    struct bundle *in_use = use_signed(t, 3), *of_both = use_signed(t, 4), *bare = use(t, 5);
    letters_outdate(t, was, are);
    signers_unref(&was);
    signers_unref(&are);
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
        cmocka_unit_test(only_what_a_change_of_keys_concerns_is_signed_again),
        cmocka_unit_test(what_has_the_same_keys_under_the_same_names_signs_the_same),
        cmocka_unit_test(when_keys_change_nothing_that_was_signed_is_kept),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
