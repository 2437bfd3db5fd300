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

static struct room *room; /* of the test's letters */

static void end(struct letters **tp) {
    letters_free(tp);
    room_free(&room);
}

/* As somebody does who wants more than is there. */
static void make_room(struct letters *t, size_t most) {
    const struct letter another = {.room = ROOM_SMALL};
    while (room_bytes(room, ROOM_SMALL) > most && letters_make_room(t, &another))
        continue;
}

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

static struct bundle *use_of(struct letters *t, struct outgoing *o, enum route_signing signing) {
    struct bundle *b = mem_zalloc(sizeof(*b));
    b->letter = letters_get(t, o, signing);
    b->state = BUNDLE_SENT;
    TAILQ_INSERT_TAIL(&b->letter->bundles, b, of_letter);
    return b;
}

/* A letter that is ready, has a recipient to be tried again, and is used by one bundle. */
static struct bundle *use_with(struct letters *t, int64_t seq, enum route_signing signing) {
    struct outgoing *o = outgoing(seq, NULL);
    struct bundle *b = use_of(t, o, signing);
    outgoing_unref(&o);
    letter_set_loading(t, b->letter);
    letter_set_content(t, b->letter, content());
    b->letter->has_retry = true;
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
    struct letters *t = letters_new(KEPT_MAX, room = room_new(SIZE_MAX));
    struct bundle *a = use(t, 1), *b = use(t, 2);
    assert_int_equal(room_bytes(room, ROOM_SMALL), 2 * SIZE);
    end_use(t, a);
    assert_int_equal(letters_kept_bytes(t), SIZE);
    end_use(t, b);
    assert_int_equal(letters_kept_bytes(t), SIZE);
    assert_int_equal(room_bytes(room, ROOM_SMALL), 0);
    assert_null(letters_find(t, 1, ROUTE_SIGNING_OFF));
    assert_non_null(letters_find(t, 2, ROUTE_SIGNING_OFF));
    end(&t);
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
    struct letters *t = letters_new(KEPT_MAX, room = room_new(SIZE_MAX));
    struct visit v = {.t = t};
    use(t, 1);
    end_use(t, use(t, 2));
    letters_visit(t, &v, end_all_uses);
    assert_int_equal(v.visited, 2);
    assert_int_equal(letters_kept_bytes(t), SIZE);
    end(&t);
}

static void what_came_with_a_notice_takes_no_room_from_what_is_read(void **state) {
    (void)state;
    struct letters *t = letters_new(KEPT_MAX, room = room_new(SIZE_MAX));
    struct message *m = content();
    struct outgoing *o = outgoing(1, m);
    message_unref(&m);
    struct bundle *b = use_of(t, o, ROUTE_SIGNING_OFF);
    outgoing_unref(&o);
    assert_int_equal(b->letter->state, LETTER_READY);
    assert_int_equal(room_bytes(room, ROOM_SMALL), 0);
    b->letter->has_retry = true;
    end_use(t, b);
    assert_int_equal(room_bytes(room, ROOM_SMALL), 0);
    assert_int_equal(letters_kept_bytes(t), SIZE);
    end(&t);
}

/* Of a thousand that were put off fresh mail would find the store's budget spent until their
 * retries. */
static void what_is_kept_for_a_retry_gives_back_what_came_with_the_notice(void **state) {
    (void)state;
    static const enum route_signing RULES[] = {ROUTE_SIGNING_FULL, ROUTE_SIGNING_OFF};
    for (size_t i = 0; i < sizeof(RULES) / sizeof(RULES[0]); i++) {
        struct letters *t = letters_new(KEPT_MAX, room = room_new(SIZE_MAX));
        struct content_budget *budget = content_budget_new(SIZE);
        struct message *m = content();
        const struct message_row row = {.seq = 1, .size_bytes = SIZE, .from_domain = STR("a.test")};
        struct outgoing *o = outgoing_new(&row, m, budget);
        struct bundle *b = use_of(t, o, RULES[i]);
        outgoing_unref(&o);
        if (RULES[i] != ROUTE_SIGNING_OFF)
            letter_set_ready(t, b->letter, content());
        b->letter->has_retry = true;
        assert_int_equal(room_bytes(room, ROOM_SMALL), 0);
        end_use(t, b);
        struct letter *kept = letters_find(t, 1, RULES[i]);
        assert_non_null(kept);
        assert_int_equal(kept->state, LETTER_READY);
        assert_true(str_equal(kept->outgoing->from_domain, row.from_domain));
        assert_int_equal(letters_kept_bytes(t), SIZE);
        o = outgoing_new(&row, m, budget);
        assert_non_null(o->message);
        outgoing_unref(&o);
        o = outgoing_new(&row, NULL, NULL); /* as a retry has it */
        b = use_of(t, o, RULES[i]);
        outgoing_unref(&o);
        assert_int_equal(b->letter->state, LETTER_READY);
        assert_int_equal(letters_kept_bytes(t), 0);
        assert_int_equal(room_bytes(room, ROOM_SMALL), SIZE); /* nobody else counts it any more */
        end_use(t, b);
        assert_int_equal(room_bytes(room, ROOM_SMALL), 0);
        end(&t);
        message_unref(&m);
        content_budget_unref(&budget);
    }
}

static enum letter_state state_of(struct letters *t, int64_t seq) {
    return letters_find(t, seq, ROUTE_SIGNING_FULL)->state;
}

/* Another recipient of the same message, at a site where it only queues. */
static struct bundle *queue_too(struct bundle *first, enum bundle_state state) {
    struct bundle *b = mem_zalloc(sizeof(*b));
    b->letter = first->letter;
    b->state = state;
    TAILQ_INSERT_TAIL(&b->letter->bundles, b, of_letter);
    return b;
}

static void those_that_only_queue_make_room_the_oldest_first(void **state) {
    (void)state;
    enum { COUNT = 6, ASKED = 1, RIDES = 2, RESOLVES = 3 };
    struct letters *t = letters_new(KEPT_MAX, room = room_new(SIZE_MAX));
    struct bundle *sent[COUNT], *queued[COUNT];
    for (int i = 0; i < COUNT; i++) {
        if (i == RIDES) {
            struct message *m = content();
            struct outgoing *o = outgoing(i, m);
            message_unref(&m);
            sent[i] = use_of(t, o, ROUTE_SIGNING_FULL);
            sent[i]->letter->has_retry = true;
            outgoing_unref(&o);
        } else {
            sent[i] = use_with(t, i, ROUTE_SIGNING_FULL);
        }
        if (i != ASKED)
            letter_set_ready(t, sent[i]->letter, content());
        queued[i] = queue_too(sent[i], i == RESOLVES ? BUNDLE_RESOLVING : BUNDLE_QUEUED);
    }
    assert_int_equal(room_bytes(room, ROOM_SMALL), (COUNT - 1) * SIZE);
    make_room(t, 0);
    assert_int_equal(room_bytes(room, ROOM_SMALL), (COUNT - 1) * SIZE); /* all are on their way */
    for (int i = COUNT - 1; i > 0; i--)
        end_use(t, sent[i]);
    queued[COUNT - 1]->state = BUNDLE_WAITING;
    make_room(t, (COUNT - 1) * SIZE);
    assert_int_equal(room_bytes(room, ROOM_SMALL), (COUNT - 1) * SIZE);
    make_room(t, (COUNT - 1) * SIZE - 1);
    assert_int_equal(state_of(t, COUNT - 1), LETTER_READY); /* picked again */
    assert_int_equal(state_of(t, COUNT - 2), LETTER_BARE);
    assert_int_equal(state_of(t, RESOLVES), LETTER_READY);
    assert_int_equal(room_bytes(room, ROOM_SMALL), (COUNT - 2) * SIZE);
    letters_find(t, RESOLVES, ROUTE_SIGNING_FULL)->is_outdated = true;
    make_room(t, 0);
    assert_int_equal(state_of(t, RESOLVES), LETTER_BARE);
    assert_false(queued[RESOLVES]->letter->is_outdated); /* it will be signed anew */
    assert_int_equal(state_of(t, RIDES), LETTER_READY);
    assert_int_equal(state_of(t, ASKED), LETTER_BARE);
    assert_int_equal(room_bytes(room, ROOM_SMALL), 2 * SIZE);
    queued[COUNT - 1]->state = BUNDLE_QUEUED; /* it gave its slot away */
    make_room(t, 0);
    assert_int_equal(state_of(t, COUNT - 1), LETTER_READY); /* nobody said so */
    letter_unpicked(t, queued[COUNT - 1]->letter);
    make_room(t, 0);
    assert_int_equal(state_of(t, COUNT - 1), LETTER_BARE);
    end_use(t, sent[0]);
    end_use(t, queued[0]); /* kept: it is on no other list */
    make_room(t, 0);
    assert_int_equal(state_of(t, 0), LETTER_READY);
    struct outgoing *o = outgoing(0, NULL);
    queued[0] = use_of(t, o, ROUTE_SIGNING_FULL);
    outgoing_unref(&o);
    queued[0]->state = BUNDLE_QUEUED; /* all retries at once */
    assert_int_equal(room_bytes(room, ROOM_SMALL), SIZE);
    make_room(t, 0);
    assert_int_equal(state_of(t, 0), LETTER_BARE);
    assert_int_equal(room_bytes(room, ROOM_SMALL), 0);
    for (int i = 0; i < COUNT; i++)
        end_use(t, queued[i]);
    assert_int_equal(letters_count(t), 1); /* what rode along is ready, and to be tried again */
    end(&t);
}

/* One that nobody may have beside it, when it only queues; what is of another kind stays. */
static void each_kind_of_room_is_made_by_its_own(void **state) {
    (void)state;
    struct letters *t = letters_new(KEPT_MAX, room = room_new(SIZE - 1));
    struct bundle *sent = use_with(t, 1, ROUTE_SIGNING_FULL);
    struct bundle *queued = queue_too(sent, BUNDLE_QUEUED);
    const struct letter large = {.room = ROOM_LARGE}, apart = {.room = ROOM_APART};
    assert_int_equal(sent->letter->room, ROOM_APART);
    assert_int_equal(room_bytes(room, ROOM_LARGE), 0);
    assert_int_equal(room_bytes(room, ROOM_APART), SIZE);
    assert_int_equal(letter_held_bytes(sent->letter), SIZE);
    end_use(t, sent);
    assert_false(letters_make_room(t, queued->letter)); /* not at its own cost */
    assert_false(letters_make_room(t, &large));
    assert_int_equal(state_of(t, 1), LETTER_UNSIGNED);
    assert_true(letters_make_room(t, &apart));
    assert_int_equal(state_of(t, 1), LETTER_BARE);
    assert_int_equal(letter_held_bytes(queued->letter), 0);
    assert_int_equal(letter_room_bytes(queued->letter), SIZE);
    assert_false(letters_make_room(t, &apart));
    end_use(t, queued);
    end(&t);
}

static void what_has_a_slot_is_not_counted_among_what_may_be_given_up(void **state) {
    (void)state;
    struct letters *t = letters_new(KEPT_MAX, room = room_new(2 * SIZE));
    struct site site[2] = {0};
    struct bundle *sent = use(t, 1), *queued = queue_too(sent, BUNDLE_QUEUED);
    struct outgoing *o = outgoing(2, NULL);
    struct bundle *asks = use_of(t, o, ROUTE_SIGNING_OFF);
    outgoing_unref(&o);
    sent->site = queued->site = &site[0];
    asks->site = &site[1];
    assert_int_equal(asks->letter->room, ROOM_LARGE);
    site_pick_slot(&site[0], queued);
    queued->state = BUNDLE_SENT;
    end_use(t, sent);
    assert_false(room_fits(room, asks, true));
    site_give_slot(&site[0], queued);
    queued->state = BUNDLE_QUEUED;
    letter_unpicked(t, queued->letter);
    assert_true(room_fits(room, asks, true));
    site_pick_slot(&site[0], queued);
    queued->state = BUNDLE_SENT;
    letter_picked(t, queued->letter);
    assert_false(room_fits(room, asks, true));
    struct bundle *other = queue_too(queued, BUNDLE_QUEUED); /* of the same content */
    other->site = &site[0];
    site_pick_slot(&site[0], other);
    site_give_slot(&site[0], other);
    letter_unpicked(t, other->letter);
    assert_false(room_fits(room, asks, true));
    letter_set_bare(t, other->letter); /* other keys: it is read again, for who has left by then */
    letter_set_loading(t, other->letter);
    letter_set_content(t, other->letter, content());
    assert_false(room_fits(room, asks, true));
    site_give_slot(&site[0], queued);
    end_use(t, queued);
    assert_true(room_fits(room, asks, true));
    end_use(t, other);
    end_use(t, asks);
    end(&t);
}

/* It was canceled while the content was read. */
static void content_that_nobody_waits_for_any_more_makes_room(void **state) {
    (void)state;
    struct letters *t = letters_new(KEPT_MAX, room = room_new(SIZE_MAX));
    struct outgoing *o = outgoing(1, NULL);
    struct bundle *asks = use_of(t, o, ROUTE_SIGNING_FULL);
    struct bundle *queues = queue_too(asks, BUNDLE_QUEUED);
    outgoing_unref(&o);
    letter_set_loading(t, asks->letter);
    end_use(t, asks);
    make_room(t, 0);
    assert_int_equal(state_of(t, 1), LETTER_LOADING);
    letter_set_content(t, queues->letter, content());
    make_room(t, 0);
    assert_int_equal(state_of(t, 1), LETTER_BARE);
    end_use(t, queues);
    end(&t);
}

static struct bundle *use_signed(struct letters *t, int64_t seq) {
    struct bundle *b = use_with(t, seq, ROUTE_SIGNING_FULL);
    assert_int_equal(b->letter->state, LETTER_UNSIGNED);
    letter_set_ready(t, b->letter, content());
    return b;
}

static struct signers *none(void) {
    return signers_new(NULL, 0, NULL);
}

/* Domains are read: does it outdate what was signed by the rule? */
static bool outdates(struct signers *was, struct signers *are, enum route_signing signing) {
    struct letters *t = letters_new(4 * KEPT_MAX, room = room_new(SIZE_MAX));
    struct bundle *b = use_with(t, 1, signing);
    if (signing != ROUTE_SIGNING_OFF)
        letter_set_ready(t, b->letter, content());
    letters_outdate(t, was, are);
    bool is_outdated = !letter_is_ready(b->letter);
    end_use(t, b);
    assert_int_equal(letters_find(t, 1, signing) == NULL, is_outdated);
    end(&t);
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
        struct signers *s = signers_new(&d, 1, NULL);
        if (first == NULL)
            first = signers_ref(s);
        if (signers_are_same(first, s, 0, STR("example.org"), false) != rows[i].want ||
            signers_are_same(s, first, 0, STR("example.org"), false) != rows[i].want)
            fail_msg("row %zu", i);
        signers_unref(&s);
    }
    signers_unref(&first);
    for (size_t i = 0; i < 2; i++)
        buf_release_secret(&pem[i]);
}

static void when_keys_change_nothing_that_was_signed_is_kept(void **state) {
    (void)state;
    struct letters *t = letters_new(4 * KEPT_MAX, room = room_new(SIZE_MAX));
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
    assert_int_equal(room_bytes(room, ROOM_SMALL), SIZE); /* of the last one */
    letter_set_loading(t, of_both->letter);
    letter_set_content(t, of_both->letter, content());
    letter_set_ready(t, of_both->letter, content());
    end_use(t, of_both);
    assert_non_null(letters_find(t, 4, ROUTE_SIGNING_FULL));
    end_use(t, bare);
    assert_non_null(letters_find(t, 5, ROUTE_SIGNING_OFF));
    assert_int_equal(room_bytes(room, ROOM_SMALL), 0);
    end(&t);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_oldest_kept_ones_make_room),
        cmocka_unit_test(a_visit_may_end_uses_while_much_is_kept),
        cmocka_unit_test(what_came_with_a_notice_takes_no_room_from_what_is_read),
        cmocka_unit_test(what_is_kept_for_a_retry_gives_back_what_came_with_the_notice),
        cmocka_unit_test(those_that_only_queue_make_room_the_oldest_first),
        cmocka_unit_test(each_kind_of_room_is_made_by_its_own),
        cmocka_unit_test(what_has_a_slot_is_not_counted_among_what_may_be_given_up),
        cmocka_unit_test(content_that_nobody_waits_for_any_more_makes_room),
        cmocka_unit_test(only_what_a_change_of_keys_concerns_is_signed_again),
        cmocka_unit_test(what_has_the_same_keys_under_the_same_names_signs_the_same),
        cmocka_unit_test(when_keys_change_nothing_that_was_signed_is_kept),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
