#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>

#include "server/delivery/site.h"

enum { NOW = 1000000 };

struct fixture {
    struct sites sites;
    struct site *site;
};

static void begin(struct fixture *f, unsigned concurrency, unsigned rate_per_s, size_t loops) {
    const struct route r = {.concurrency = concurrency, .rate_per_s = rate_per_s};
    *f = (struct fixture){0};
    f->site = sites_get(&f->sites, "relay", 0, &r, loops);
    f->site->window.size = concurrency;
}

/* It has taken mail a moment ago, which took so long. */
static void answer_after(struct fixture *f, int64_t took_ms) {
    window_success(&f->site->window, 1);
    site_reached(f->site, took_ms, NOW);
}

static void end(struct fixture *f) {
    site_release(&f->site);
    sites_free(&f->sites);
}

static void sites_of_one_name_and_other_tags_are_two(void **state) {
    (void)state;
    const struct route r = {.concurrency = 20};
    struct sites sites = {0};
    struct site *a = sites_get(&sites, "relay", 1, &r, 2),
                *b = sites_get(&sites, "relay", 2, &r, 2);
    struct site *again = sites_get(&sites, "relay", 1, &r, 2);
    assert_ptr_equal(a, again);
    assert_ptr_not_equal(a, b);
    assert_string_equal(a->name, b->name);
    site_release(&a);
    site_release(&again);
    site_release(&b);
    sites_free(&sites);
}

static void a_quick_site_is_sent_more_than_can_go(void **state) {
    (void)state;
    struct fixture f;
    begin(&f, 20, 0, 2);
    assert_int_equal(site_sends_most(f.site, 2, NOW), 20); /* not known yet */
    assert_int_equal(site_picks_most(f.site), 40);
    answer_after(&f, 5);
    assert_int_equal(site_sends_most(f.site, 2, NOW), 60);
    assert_int_equal(site_sends_most(f.site, 2, NOW + SITE_AHEAD_MS), 20); /* silent since */
    assert_int_equal(site_picks_most(f.site), 140);
    end(&f);
}

/* What is urgent would wait behind what is held; and all of it could not be canceled meanwhile. */
static void a_slow_site_is_sent_its_window_and_claimed_no_more_than_another_one(void **state) {
    (void)state;
    struct fixture f;
    begin(&f, 20, 0, 2);
    answer_after(&f, 5000);
    assert_int_equal(site_sends_most(f.site, 2, NOW), 20);
    assert_int_equal(site_share(f.site, 0, 2, NOW), 0);
    assert_int_equal(site_picks_most(f.site), 40);
    end(&f);
}

static void a_site_is_slow_when_most_of_its_last_transactions_were(void **state) {
    (void)state;
    struct fixture f;
    begin(&f, 20, 0, 2);
    for (int i = 0; i < 10; i++)
        answer_after(&f, 5);
    answer_after(&f, 1000);
    assert_int_equal(site_sends_most(f.site, 2, NOW), 60);
    for (int i = 0; i < 3; i++)
        answer_after(&f, 1000);
    assert_int_equal(site_sends_most(f.site, 2, NOW), 20);
    for (int i = 0; i < 10; i++)
        answer_after(&f, 5);
    assert_int_equal(site_sends_most(f.site, 2, NOW), 60);
    end(&f);
}

/* Two a second, and 140 of them claimed: the last one would be beyond recall for 70 seconds. */
static void of_a_site_with_a_rate_no_more_is_claimed_ahead_than_goes_in_a_second(void **state) {
    (void)state;
    static const struct {
        unsigned rate_per_s, sent, want;
    } rows[] = {{1, 0, 1}, {1, 3, 4}, {2, 0, 2}, {50, 10, 60}, {1000, 10, 140}};
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct fixture f;
        begin(&f, 20, rows[i].rate_per_s, 2);
        answer_after(&f, 5);
        f.site->sent = rows[i].sent;
        assert_int_equal(site_picks_most(f.site), rows[i].want);
        f.site->sent = 0;
        end(&f);
    }
}

/* What bulk has under way must not keep the next of it from being claimed when the rate allows it.
 */
static void bulk_has_all_that_a_rate_allows_and_leaves_a_place_to_others(void **state) {
    (void)state;
    for (unsigned rate_per_s = 1; rate_per_s < 20; rate_per_s++) {
        for (unsigned sent = 0; sent < 10; sent++) {
            struct fixture f;
            struct fair *queue = fair_new();
            unsigned picked[LANE_COUNT] = {[LANE_BULK] = sent};
            struct fair_entry e[40] = {0};
            begin(&f, 20, rate_per_s, 2);
            f.site->sent = sent;
            for (size_t i = 0; i < 40; i++) {
                e[i] = (struct fair_entry){.lane = LANE_BULK, .cost = 1};
                fair_push(queue, &e[i]);
            }
            while (picked[LANE_BULK] < site_picks_most(f.site)) {
                if (fair_pick(queue, site_slots(f.site), picked) == NULL)
                    fail_msg("%u a second, %u sent: %u are picked", rate_per_s, sent,
                             picked[LANE_BULK]);
                picked[LANE_BULK]++;
            }
            assert_true(picked[LANE_BULK] > sent);
            assert_null(fair_pick(queue, site_slots(f.site), picked));
            assert_true(picked[LANE_BULK] < site_slots(f.site)); /* one more is somebody else's */
            while (fair_first(queue) != NULL)
                fair_remove(queue, fair_first(queue));
            fair_free(&queue);
            f.site->sent = 0;
            end(&f);
        }
    }
}

static unsigned shares(const struct fixture *f, size_t loops) {
    unsigned sum = 0;
    for (size_t i = 0; i < loops; i++)
        sum += site_share(f->site, i, loops, NOW);
    return sum;
}

static void send_one(struct fixture *f, size_t loops) {
    size_t loop = site_choose_loop(f->site, loops);
    f->site->sent++;
    f->site->sent_loop[loop]++;
    /* as soon as it answers again, a loop may have its share: who has more already is over it */
    assert_true(f->site->sent_loop[loop] <= site_share(f->site, loop, loops, NOW));
}

/* In any order of ends, transactions that were sent while nothing is sent ahead leave each loop
 * within its share: together with what is held they open no more sessions than the window. */
static void no_loop_gets_more_than_its_share_of_the_window(void **state) {
    (void)state;
    srand(1);
    for (size_t loops = 1; loops <= 5; loops++) {
        for (unsigned window = 3 * (unsigned)loops; window < 30; window++) {
            struct fixture f;
            begin(&f, window, 0, loops);
            answer_after(&f, 5);
            f.site->home_loop = (size_t)rand() % loops;
            assert_int_equal(shares(&f, loops), window);
            for (int turn = 0; turn < 2000; turn++) {
                size_t loop = (size_t)rand() % loops;
                if (f.site->sent < window && rand() % 3 > 0) {
                    send_one(&f, loops);
                } else if (f.site->sent_loop[loop] > 0) {
                    f.site->sent--;
                    f.site->sent_loop[loop]--;
                }
            }
            end(&f);
        }
    }
}

/* A message to many domains of one provider is many bundles, and one content. */
static void a_content_counts_once_however_many_are_picked_for_it(void **state) {
    (void)state;
    struct fixture f;
    begin(&f, 20, 0, 2);
    struct outgoing o = {.size_bytes = 1000};
    struct letter l = {.room = ROOM_LARGE, .outgoing = &o};
    struct bundle first = {.letter = &l, .site = f.site}, second = first;
    const size_t *picked = &f.site->picked_bytes[ROOM_LARGE];
    TAILQ_INIT(&l.bundles);
    TAILQ_INSERT_TAIL(&l.bundles, &first, of_letter);
    TAILQ_INSERT_TAIL(&l.bundles, &second, of_letter);
    site_pick_slot(f.site, &first);
    assert_int_equal(*picked, 1000);
    site_pick_slot(f.site, &second);
    assert_int_equal(*picked, 1000);
    site_give_slot(f.site, &first);
    assert_int_equal(*picked, 1000); /* the other one needs it */
    site_give_slot(f.site, &second);
    assert_int_equal(*picked, 0);
    end(&f);
}

/* It was read for another site, which may be done with it sooner. */
static void a_content_counts_at_each_site_that_needs_it(void **state) {
    (void)state;
    struct fixture f;
    begin(&f, 20, 0, 2);
    struct site other = {0};
    struct outgoing o = {.size_bytes = 1000};
    struct letter l = {
        .room = ROOM_LARGE, .state = LETTER_READY, .held_bytes = 1100, .outgoing = &o};
    struct bundle here = {.letter = &l, .site = f.site}, there = {.letter = &l, .site = &other};
    TAILQ_INIT(&l.bundles);
    TAILQ_INSERT_TAIL(&l.bundles, &here, of_letter);
    TAILQ_INSERT_TAIL(&l.bundles, &there, of_letter);
    site_pick_slot(&other, &there);
    site_pick_slot(f.site, &here);
    assert_int_equal(other.picked_bytes[ROOM_LARGE], 1100);
    assert_int_equal(f.site->picked_bytes[ROOM_LARGE], 1100);
    site_give_slot(&other, &there);
    assert_int_equal(other.picked_bytes[ROOM_LARGE], 0);
    assert_int_equal(f.site->picked_bytes[ROOM_LARGE], 1100);
    site_give_slot(f.site, &here);
    end(&f);
}

static void of_those_without_room_the_oldest_of_each_lane_and_kind_is_asked_first(void **state) {
    (void)state;
    enum { COUNT = 8 };
    static const struct {
        enum room_kind kind;
        int64_t since_ms;
        enum lane lane;
    } rows[COUNT] = {
        {ROOM_LARGE, 30, LANE_TRANSACTIONAL}, {ROOM_SMALL, 20, LANE_TRANSACTIONAL},
        {ROOM_LARGE, 10, LANE_TRANSACTIONAL}, {ROOM_APART, 40, LANE_TRANSACTIONAL},
        {ROOM_SMALL, 20, LANE_TRANSACTIONAL}, {ROOM_LARGE, 10, LANE_TRANSACTIONAL},
        {ROOM_SMALL, 5, LANE_BULK},           {ROOM_LARGE, 50, LANE_HIGH},
    };
    static const int want[COUNT] = {7, 1, 2, 3, 6, 0, 4, 5};
    struct fixture f;
    begin(&f, 20, 0, 2);
    struct letter l[COUNT] = {0};
    struct bundle b[COUNT] = {0};
    site_put_oldest_first(f.site);
    assert_null(site_first_queued(f.site));
    for (int i = 0; i < COUNT; i++) {
        l[i].room = rows[i].kind;
        b[i].letter = &l[i];
        b[i].fair =
            (struct fair_entry){.cost = 1, .since_ms = rows[i].since_ms, .lane = rows[i].lane};
        fair_push(f.site->waiting, &b[i].fair);
        site_set_roomless(f.site, &b[i]);
    }
    site_put_oldest_first(f.site);
    for (int i = 0; i < COUNT; i++) {
        struct bundle *first = site_first_queued(f.site);
        assert_ptr_equal(first, &b[want[i]]);
        site_unqueue(f.site, first);
    }
    end(&f);
}

/* The disk was full for a moment, or somebody set another limit. */
static void a_limit_of_recipients_that_was_learned_is_doubted_in_time(void **state) {
    (void)state;
    struct fixture f;
    begin(&f, 20, 0, 2);
    site_learn_recipients(f.site, SITE_RECIPIENTS_MAX, 0);
    assert_int_equal(f.site->recipients_most, SITE_RECIPIENTS_MAX);
    static const struct {
        size_t count;
        unsigned learned;
        int times;
        unsigned want;
    } rows[] = {
        {10, 1, 1, 1}, {1, 0, 15, 1}, {1, 0, 1, 2}, {1, 0, 100, 2},
        {2, 0, 16, 4}, {4, 0, 15, 4}, {4, 3, 1, 3}, /* from the beginning */
        {4, 0, 15, 3}, {3, 0, 1, 6},  {7, 9, 1, 6}, {100, 0, 200, SITE_RECIPIENTS_MAX},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        for (int k = 0; k < rows[i].times; k++)
            site_learn_recipients(f.site, rows[i].count, rows[i].learned);
        if (f.site->recipients_most != rows[i].want)
            fail_msg("row %zu: %u", i, f.site->recipients_most);
    }
    end(&f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sites_of_one_name_and_other_tags_are_two),
        cmocka_unit_test(a_quick_site_is_sent_more_than_can_go),
        cmocka_unit_test(a_slow_site_is_sent_its_window_and_claimed_no_more_than_another_one),
        cmocka_unit_test(a_site_is_slow_when_most_of_its_last_transactions_were),
        cmocka_unit_test(of_a_site_with_a_rate_no_more_is_claimed_ahead_than_goes_in_a_second),
        cmocka_unit_test(bulk_has_all_that_a_rate_allows_and_leaves_a_place_to_others),
        cmocka_unit_test(no_loop_gets_more_than_its_share_of_the_window),
        cmocka_unit_test(a_limit_of_recipients_that_was_learned_is_doubted_in_time),
        cmocka_unit_test(a_content_counts_once_however_many_are_picked_for_it),
        cmocka_unit_test(a_content_counts_at_each_site_that_needs_it),
        cmocka_unit_test(of_those_without_room_the_oldest_of_each_lane_and_kind_is_asked_first),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
