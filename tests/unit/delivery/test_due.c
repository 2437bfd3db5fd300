#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>

#include "server/delivery/due.h"
#include "storage/store_ops.h"

enum { MOST = 100, PER_KEY = 20 };

static int setup(void **state) {
    *state = due_new(MOST, PER_KEY);
    return 0;
}

static int teardown(void **state) {
    struct due *d = *state;
    due_free(&d);
    assert_null(d);
    return 0;
}

/* A row as the store gives it. */
static int64_t project; /* of the next rows */
static struct due_row row(recipient_key_t key, const char *queue_key, enum lane lane) {
    const struct message_row m = {.lane = lane, .project = project};
    struct outgoing *o = outgoing_new(&m, NULL, NULL);
    return (struct due_row){.key = key,
                            .outgoing = o,
                            .email = str_make(str_dupz(STR("a@b.test")), 8),
                            .queue_key = str_make(str_dupz(str_of(queue_key)), strlen(queue_key))};
}

static enum due_result put(struct due *d, recipient_key_t key, const char *queue_key,
                           enum lane lane) {
    struct due_row r = row(key, queue_key, lane);
    struct due_item *i;
    enum due_result got = due_put(d, &r, 1000, &i);
    assert_int_equal(got == DUE_TAKEN, i != NULL);
    assert_int_equal(got == DUE_TAKEN, r.outgoing == NULL);
    if (r.outgoing != NULL)
        due_row_release(&r);
    return got;
}

static void drop(struct due *d, recipient_key_t key) {
    struct due_item *i = due_find(d, key);
    assert_non_null(i);
    due_drop(d, &i);
    assert_null(due_find(d, key));
}

static void a_recipient_is_held_once(void **state) {
    assert_int_equal(put(*state, 1, "k", LANE_BULK), DUE_TAKEN);
    assert_int_equal(put(*state, 1, "k", LANE_BULK), DUE_KNOWN);
    assert_int_equal(due_count(*state), 1);
    drop(*state, 1);
    assert_int_equal(put(*state, 1, "k", LANE_BULK), DUE_TAKEN);
}

/* Puts rows of the key until it is full; how many were taken. */
static size_t fill(struct due *d, recipient_key_t *key, const char *queue_key) {
    size_t before = due_count(d);
    while (put(d, ++*key, queue_key, LANE_TRANSACTIONAL) == DUE_TAKEN)
        ;
    return due_count(d) - before;
}

static void a_key_may_fill_half_and_the_next_ones_a_part_of_what_is_left(void **state) {
    recipient_key_t key = 0;
    assert_int_equal(fill(*state, &key, "busy"), MOST / 2);
    assert_int_equal(fill(*state, &key, "other"), 9); /* more than (90 - 50 - 9) / 4 */
    assert_int_equal(fill(*state, &key, "third"), 7);
}

static void ten_keys_that_take_all_they_can_leave_room_for_another(void **state) {
    char name[16];
    recipient_key_t key = 0;
    for (int i = 0; i < 10; i++) {
        snprintf(name, sizeof(name), "slow%d", i);
        assert_true(fill(*state, &key, name) > 0);
    }
    assert_true(fill(*state, &key, "next") > 0);
}

static void a_key_has_a_quota(void **state) {
    struct due *d = due_new(100 * PER_KEY, PER_KEY);
    recipient_key_t key = 0;
    (void)state;
    assert_int_equal(fill(d, &key, "busy"), 50 * PER_KEY);
    assert_int_equal(fill(d, &key, "other"), PER_KEY);
    due_free(&d);
}

static void a_flood_leaves_room_for_others_of_the_same_key(void **state) {
    recipient_key_t key = 0;
    project = 1;
    assert_int_equal(fill(*state, &key, "relay"), MOST / 2);
    project = 2;
    assert_int_equal(fill(*state, &key, "relay"), 9);
    project = 1;
    assert_int_equal(put(*state, ++key, "relay", LANE_TRANSACTIONAL), DUE_FULL);
    assert_int_equal(put(*state, ++key, "relay", LANE_BULK), DUE_TAKEN);
    project = 0;
}

static void the_last_tenth_is_for_high(void **state) {
    char name[16];
    recipient_key_t key = 0;
    for (; key < MOST; key++) {
        snprintf(name, sizeof(name), "k%d", (int)key);
        if (put(*state, key, name, LANE_BULK) != DUE_TAKEN)
            break;
    }
    assert_int_equal(due_count(*state), MOST - MOST / 10);
    assert_int_equal(put(*state, 500, "t", LANE_TRANSACTIONAL), DUE_FULL);
    for (int i = 0; i < MOST / 10; i++)
        assert_int_equal(put(*state, 600 + i, "h", LANE_HIGH), DUE_TAKEN);
    assert_int_equal(put(*state, 700, "h", LANE_HIGH), DUE_FULL);
    assert_int_equal(due_room(*state), 0);
}

static void a_parked_key_takes_nothing_until_its_time(void **state) {
    struct due *d = *state;
    int64_t next = 0;
    due_park(d, STR("k"), 5000);
    due_park(d, STR("k"), 3000); /* an earlier moment does not shorten it */
    due_park(d, STR("l"), 9000);
    assert_int_equal(put(d, 1, "k", LANE_HIGH), DUE_PARKED);
    assert_int_equal(put(d, 2, "m", LANE_HIGH), DUE_TAKEN);
    assert_int_equal(due_unpark(d, 4999, &next), 0);
    assert_int_equal(next, 5000);
    assert_int_equal(due_unpark(d, 5000, &next), 1);
    assert_int_equal(next, 9000);
    assert_int_equal(put(d, 1, "k", LANE_HIGH), DUE_TAKEN);
    due_unpark_all(d);
    assert_int_equal(put(d, 3, "l", LANE_HIGH), DUE_TAKEN);
}

static void parked_and_well_filled_keys_are_skipped_by_a_load(void **state) {
    struct due *d = *state;
    struct str skip[10];
    due_park(d, STR("parked"), 5000);
    for (int i = 0; i < PER_KEY / 4; i++)
        put(d, i, "little", LANE_BULK);
    for (int i = 0; i <= PER_KEY / 4; i++)
        put(d, 100 + i, "much", LANE_BULK);
    bool are_busy = false;
    assert_int_equal(due_skip_keys(d, false, skip, 10, &are_busy), 2);
    assert_true(are_busy);
    for (int i = 0; i < 2; i++)
        assert_true(str_equal(skip[i], STR("parked")) || str_equal(skip[i], STR("much")));
    assert_int_equal(due_skip_keys(d, false, skip, 1, &are_busy), 1);
    assert_int_equal(due_skip_keys(d, true, skip, 10, &are_busy), 1);
    assert_true(str_equal(skip[0], STR("parked")));
    assert_true(are_busy);
}

static void a_skipped_key_calls_for_more_when_it_runs_dry(void **state) {
    struct due *d = *state;
    struct str skip[10];
    bool are_busy = false;
    for (int i = 0; i < PER_KEY; i++)
        put(d, i, "much", LANE_BULK);
    assert_int_equal(due_skip_keys(d, false, skip, 10, &are_busy), 1);
    for (int i = 0; i < PER_KEY * 3 / 4 - 1; i++)
        drop(d, i);
    assert_false(due_take_thirst(d));
    drop(d, PER_KEY - 1);
    assert_true(due_take_thirst(d));
    assert_false(due_take_thirst(d)); /* once */
    drop(d, PER_KEY - 2);
    assert_false(due_take_thirst(d));
}

/* Puts one row of each of so many keys, all at this site; how many have a place there. */
static size_t fill_site(struct due *d, recipient_key_t *key, struct str site, int keys) {
    size_t before = due_count(d);
    while (keys-- > 0) {
        char name[16];
        snprintf(name, sizeof(name), "d%d", (int)++*key);
        if (put(d, *key, name, LANE_TRANSACTIONAL) != DUE_TAKEN)
            break;
        struct due_item *i = due_find(d, *key);
        if (!due_enter_site(d, i, site))
            due_drop(d, &i);
    }
    return due_count(d) - before;
}

static void a_site_has_no_more_than_a_key_however_many_lead_to_it(void **state) {
    recipient_key_t key = 0;
    assert_int_equal(fill_site(*state, &key, STR("slow"), 2 * MOST), MOST / 2);
    assert_int_equal(fill_site(*state, &key, STR("next"), 2 * MOST), 9); /* as one key */
    project = 2;
    assert_int_equal(fill_site(*state, &key, STR("slow"), 2 * MOST), 7);
    project = 0;
    for (int i = 0; i < 10; i++) {
        char site[16];
        snprintf(site, sizeof(site), "slow%d", i);
        assert_true(fill_site(*state, &key, str_of(site), 2 * MOST) > 0);
    }
}

static void a_site_has_a_quota(void **state) {
    struct due *d = due_new(100 * PER_KEY, PER_KEY);
    recipient_key_t key = 0;
    (void)state;
    assert_int_equal(fill_site(d, &key, STR("busy"), 200 * PER_KEY), 50 * PER_KEY);
    assert_int_equal(fill_site(d, &key, STR("other"), 200 * PER_KEY), PER_KEY);
    due_free(&d);
}

static void who_goes_to_another_site_leaves_its_place_to_others(void **state) {
    struct due *d = *state;
    recipient_key_t key = 0;
    fill_site(d, &key, STR("slow"), MOST / 2);
    assert_int_equal(fill_site(d, &key, STR("slow"), 1), 0);
    struct due_item *i = due_find(d, key - 1);
    due_leave_site(d, i);
    assert_true(due_enter_site(d, i, STR("other")));
    for (recipient_key_t k = 1; k < MOST / 2; k++) {
        i = due_find(d, k);
        due_leave_site(d, i);
    }
    assert_int_equal(fill_site(d, &key, STR("slow"), MOST), 9); /* of what is left, as anybody */
}

static void a_key_that_was_turned_away_is_skipped_until_its_site_runs_dry(void **state) {
    struct due *d = *state;
    recipient_key_t key = 0;
    struct str skip[10];
    bool are_busy;
    fill_site(d, &key, STR("slow"), MOST / 2);
    assert_int_equal(due_skip_keys(d, false, skip, 10, &are_busy), 0);
    assert_false(are_busy);
    assert_false(due_is_crowded(d));
    fill_site(d, &key, STR("slow"), 1);
    assert_true(due_is_crowded(d));
    assert_int_equal(due_skip_keys(d, false, skip, 10, &are_busy), 1);
    assert_true(str_equal(skip[0], STR("d51")));
    assert_true(are_busy);
    /* what others have in it is taken */
    assert_int_equal(put(d, 1000, "d51", LANE_TRANSACTIONAL), DUE_TAKEN);
    drop(d, 1000);
    for (recipient_key_t k = 1; k < MOST / 2 - PER_KEY / 4; k++)
        drop(d, k);
    assert_false(due_take_thirst(d));
    drop(d, MOST / 2);
    assert_true(due_take_thirst(d));
    assert_int_equal(due_skip_keys(d, false, skip, 10, &are_busy), 0);
    assert_false(due_is_crowded(d));
}

static void a_key_that_was_turned_away_is_loaded_with_the_busy_ones(void **state) {
    struct due *d = *state;
    recipient_key_t key = 0;
    struct str skip[10];
    bool are_busy;
    fill_site(d, &key, STR("slow"), MOST / 2 + 3);
    assert_int_equal(due_skip_keys(d, false, skip, 10, &are_busy), 3);
    assert_int_equal(due_skip_keys(d, true, skip, 10, &are_busy), 0);
    assert_true(are_busy);
    assert_int_equal(due_skip_keys(d, false, skip, 10, &are_busy), 0);
    assert_false(are_busy);
}

static void what_left_while_loading_is_remembered_for_that_load(void **state) {
    struct due *d = *state;
    put(d, 1, "k", LANE_BULK);
    put(d, 2, "k", LANE_BULK);
    drop(d, 1);
    due_load_begins(d);
    drop(d, 2);
    assert_false(due_left_meanwhile(d, 1));
    assert_true(due_left_meanwhile(d, 2));
    due_load_ends(d);
    assert_false(due_left_meanwhile(d, 2));
}

int main(void) {
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(a_recipient_is_held_once),
        T(a_key_may_fill_half_and_the_next_ones_a_part_of_what_is_left),
        T(ten_keys_that_take_all_they_can_leave_room_for_another),
        T(a_key_has_a_quota),
        T(a_flood_leaves_room_for_others_of_the_same_key),
        T(the_last_tenth_is_for_high),
        T(a_parked_key_takes_nothing_until_its_time),
        T(parked_and_well_filled_keys_are_skipped_by_a_load),
        T(a_skipped_key_calls_for_more_when_it_runs_dry),
        T(a_site_has_no_more_than_a_key_however_many_lead_to_it),
        T(a_site_has_a_quota),
        T(who_goes_to_another_site_leaves_its_place_to_others),
        T(a_key_that_was_turned_away_is_skipped_until_its_site_runs_dry),
        T(a_key_that_was_turned_away_is_loaded_with_the_busy_ones),
        T(what_left_while_loading_is_remembered_for_that_load),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
