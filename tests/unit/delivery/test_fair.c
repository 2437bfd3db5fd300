#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "server/delivery/fair.h"

enum { MOST = 1000 };

static struct fair_entry entries[MOST];
static size_t used;

static struct fair_entry *entry(enum lane lane, int64_t project, unsigned cost) {
    struct fair_entry *e = &entries[used++];
    *e = (struct fair_entry){.lane = lane, .project = project, .cost = cost};
    return e;
}

static void push(struct fair *f, size_t count, enum lane lane, int64_t project, unsigned cost) {
    for (size_t i = 0; i < count; i++)
        fair_push(f, entry(lane, project, cost));
}

static const unsigned NONE[LANE_COUNT] = {0};

static int setup(void **state) {
    used = 0;
    *state = fair_new();
    return 0;
}

static int teardown(void **state) {
    struct fair *f = *state, *gone = f;
    struct fair_entry *e;
    while ((e = fair_first(f)) != NULL)
        fair_remove(f, e);
    assert_int_equal(fair_count(f), 0);
    fair_free(&gone);
    assert_null(gone);
    return 0;
}

static void an_empty_queue_gives_nothing(void **state) {
    assert_null(fair_pick(*state, 10, NONE));
    assert_null(fair_first(*state));
}

static void one_project_is_served_in_order(void **state) {
    struct fair *f = *state;
    push(f, 50, LANE_TRANSACTIONAL, 1, 1);
    for (size_t i = 0; i < 50; i++)
        assert_ptr_equal(fair_pick(f, 10, NONE), &entries[i]);
    assert_null(fair_pick(f, 10, NONE));
}

static void T32_what_comes_again_has_the_place_of_its_time(void **state) {
    static const struct {
        int64_t since_ms[6];
        size_t order[6]; /* of what is pushed */
    } rows[] = {
        {{1, 2, 3, 4, 5, 6}, {0, 1, 2, 3, 4, 5}}, {{7, 7, 7, 7, 7, 7}, {0, 1, 2, 3, 4, 5}},
        {{2, 3, 4, 5, 6, 1}, {5, 0, 1, 2, 3, 4}}, {{1, 2, 3, 5, 6, 4}, {0, 1, 2, 5, 3, 4}},
        {{1, 3, 3, 5, 5, 3}, {0, 1, 2, 5, 3, 4}}, {{6, 5, 4, 3, 2, 1}, {5, 4, 3, 2, 1, 0}},
    };
    struct fair *f = *state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct fair_entry e[6];
        for (size_t j = 0; j < 6; j++) {
            e[j] = (struct fair_entry){.cost = 1, .since_ms = rows[i].since_ms[j]};
            fair_push(f, &e[j]);
        }
        for (size_t j = 0; j < 6; j++) {
            if (fair_pick(f, 10, NONE) != &e[rows[i].order[j]])
                fail_msg("row %zu, %zu", i, j);
        }
    }
}

static void what_is_put_back_comes_first(void **state) {
    struct fair *f = *state;
    push(f, 3, LANE_BULK, 1, 1);
    struct fair_entry *e = fair_pick(f, 10, NONE);
    fair_push_front(f, e);
    assert_ptr_equal(fair_pick(f, 10, NONE), e);
}

static void a_pick_that_is_undone_costs_nothing(void **state) {
    struct fair *f = *state;
    push(f, 200, LANE_TRANSACTIONAL, 1, 1);
    push(f, 200, LANE_TRANSACTIONAL, 2, 1);
    unsigned went[3] = {0};
    for (int i = 0; i < 200; i++) {
        struct fair_entry *e = fair_pick(f, 10, NONE);
        if (e->project == 1) { /* it has to wait for something first */
            fair_undo_pick(f, e);
            for (e = fair_pick(f, 10, NONE); e->project != 1; e = fair_pick(f, 10, NONE))
                went[2]++;
        }
        went[e->project]++;
    }
    assert_in_range(went[1], went[2] - 20, went[2] + 20);
}

static void T32_picks_that_are_undone_are_no_savings(void **state) {
    struct fair *f = *state;
    enum { UNDONE = 100 };
    struct fair_entry *undone[UNDONE];
    push(f, UNDONE, LANE_TRANSACTIONAL, 1, 1);
    push(f, 3 * UNDONE, LANE_TRANSACTIONAL, 2, 1);
    for (int i = 0; i < UNDONE; i++) {
        do
            undone[i] = fair_pick(f, 10, NONE);
        while (undone[i]->project != 1);
    }
    for (int i = UNDONE - 1; i >= 0; i--)
        fair_undo_pick(f, undone[i]);
    int before = 0;
    while (fair_pick(f, 10, NONE)->project != 2)
        before++;
    for (; before < UNDONE && fair_pick(f, 10, NONE)->project == 2;)
        continue; /* the turn that it had */
    int in_a_row = 1;
    while (fair_pick(f, 10, NONE)->project == 1)
        in_a_row++;
    assert_in_range(before, 0, 20);
    assert_in_range(in_a_row, 1, 20);
}

/* Whatever was undone between picks, also by bundles that come back late. */
static void a_pick_that_is_undone_costs_its_lane_nothing(void **state) {
    static const enum lane order[] = {LANE_TRANSACTIONAL, LANE_TRANSACTIONAL, LANE_BULK,
                                      LANE_TRANSACTIONAL, LANE_TRANSACTIONAL, LANE_TRANSACTIONAL,
                                      LANE_TRANSACTIONAL, LANE_BULK};
    enum { PICKS = sizeof(order) / sizeof(order[0]) };
    struct fair *f = *state;
    push(f, 100, LANE_TRANSACTIONAL, 1, 1);
    push(f, 100, LANE_BULK, 1, 1);
    for (int undone = 0; undone < PICKS; undone++) {
        struct fair_entry *e[PICKS];
        for (int i = 0; i < undone; i++)
            e[i] = fair_pick(f, 10, NONE);
        for (int i = undone - 1; i >= 0; i--)
            fair_undo_pick(f, e[i]);
        assert_int_equal(fair_pick(f, 10, NONE)->lane, order[undone]);
    }
}

/* Its lane was empty meanwhile. */
static void T32_a_lane_saves_nothing_by_picks_that_are_undone(void **state) {
    struct fair *f = *state;
    enum { UNDONE = 100 };
    struct fair_entry *undone[UNDONE];
    push(f, UNDONE, LANE_TRANSACTIONAL, 1, 1);
    push(f, UNDONE, LANE_BULK, 1, 1);
    static const unsigned full[LANE_COUNT] = {[LANE_BULK] = 9};
    for (int i = 0; i < UNDONE; i++) {
        do
            undone[i] = fair_pick(f, 10, NONE);
        while (undone[i]->lane == LANE_BULK);
    }
    assert_null(fair_pick(f, 10, full));
    for (int i = UNDONE - 1; i >= 0; i--)
        fair_undo_pick(f, undone[i]);
    int before = 0;
    while (fair_pick(f, 10, NONE)->lane != LANE_BULK)
        before++;
    assert_in_range(before, 0, 26);
}

static void T32_projects_share_by_cost_not_by_number(void **state) {
    struct fair *f = *state;
    push(f, 400, LANE_TRANSACTIONAL, 1, 1);
    push(f, 100, LANE_TRANSACTIONAL, 2, 10);
    unsigned cost[3] = {0};
    for (int i = 0; i < 220; i++) {
        struct fair_entry *e = fair_pick(f, 10, NONE);
        cost[e->project] += e->cost;
    }
    assert_in_range(cost[1], cost[2] - 20, cost[2] + 20);
}

static void T32_a_project_with_little_waits_for_one_turn_only(void **state) {
    struct fair *f = *state;
    push(f, 500, LANE_TRANSACTIONAL, 1, 1);
    push(f, 1, LANE_TRANSACTIONAL, 2, 1);
    int before = 0;
    while (fair_pick(f, 10, NONE)->project != 2)
        before++;
    assert_in_range(before, 0, 20);
}

static void an_entry_dearer_than_a_turn_goes_when_its_project_saved_enough(void **state) {
    struct fair *f = *state;
    push(f, 1, LANE_TRANSACTIONAL, 1, 100);
    push(f, 300, LANE_TRANSACTIONAL, 2, 1);
    int before = 0;
    while (fair_pick(f, 10, NONE)->project != 1)
        before++;
    assert_in_range(before, 80, 120);
}

static void lanes_share_eight_to_four_to_one(void **state) {
    struct fair *f = *state;
    push(f, 300, LANE_HIGH, 1, 1);
    push(f, 300, LANE_TRANSACTIONAL, 1, 1);
    push(f, 300, LANE_BULK, 1, 1);
    /* high holds its half: weights decide */
    const unsigned busy[LANE_COUNT] = {[LANE_HIGH] = 5};
    unsigned got[LANE_COUNT] = {0};
    for (int i = 0; i < 260; i++)
        got[fair_pick(f, 10, busy)->lane]++;
    assert_int_equal(got[LANE_HIGH], 160);
    assert_int_equal(got[LANE_TRANSACTIONAL], 80);
    assert_int_equal(got[LANE_BULK], 20);
}

static void high_goes_first_up_to_half_of_the_slots(void **state) {
    struct fair *f = *state;
    push(f, 100, LANE_BULK, 1, 1);
    push(f, 100, LANE_TRANSACTIONAL, 1, 1);
    push(f, 100, LANE_HIGH, 1, 1);
    unsigned busy[LANE_COUNT] = {0};
    for (unsigned i = 0; i < 5; i++) {
        struct fair_entry *e = fair_pick(f, 10, busy);
        assert_int_equal(e->lane, LANE_HIGH);
        busy[e->lane]++;
    }
}

static void T32_bulk_is_never_starved(void **state) {
    struct fair *f = *state;
    push(f, 400, LANE_TRANSACTIONAL, 1, 1);
    push(f, 10, LANE_BULK, 1, 1);
    unsigned bulk = 0;
    for (int i = 0; i < 50; i++)
        bulk += fair_pick(f, 10, NONE)->lane == LANE_BULK;
    assert_int_equal(bulk, 10);
}

static void one_slot_of_two_or_more_is_never_for_bulk(void **state) {
    struct fair *f = *state;
    push(f, 10, LANE_BULK, 1, 1);
    static const struct {
        unsigned slots, busy;
        int goes;
    } rows[] = {{1, 0, 1}, {2, 0, 1}, {2, 1, 0}, {5, 3, 1}, {5, 4, 0}, {5, 5, 0}};
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        const unsigned busy[LANE_COUNT] = {[LANE_BULK] = rows[i].busy};
        struct fair_entry *e = fair_pick(f, rows[i].slots, busy);
        assert_int_equal(e != NULL, rows[i].goes);
    }
}

static void a_removed_entry_is_not_served(void **state) {
    struct fair *f = *state;
    push(f, 3, LANE_HIGH, 1, 1);
    fair_remove(f, &entries[1]);
    fair_remove(f, &entries[1]); /* not queued: nothing happens */
    assert_int_equal(fair_count(f), 2);
    assert_ptr_equal(fair_pick(f, 10, NONE), &entries[0]);
    assert_ptr_equal(fair_pick(f, 10, NONE), &entries[2]);
}

int main(void) {
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(an_empty_queue_gives_nothing),
        T(one_project_is_served_in_order),
        T(T32_what_comes_again_has_the_place_of_its_time),
        T(what_is_put_back_comes_first),
        T(a_pick_that_is_undone_costs_nothing),
        T(T32_picks_that_are_undone_are_no_savings),
        T(a_pick_that_is_undone_costs_its_lane_nothing),
        T(T32_a_lane_saves_nothing_by_picks_that_are_undone),
        T(T32_projects_share_by_cost_not_by_number),
        T(T32_a_project_with_little_waits_for_one_turn_only),
        T(an_entry_dearer_than_a_turn_goes_when_its_project_saved_enough),
        T(lanes_share_eight_to_four_to_one),
        T(high_goes_first_up_to_half_of_the_slots),
        T(T32_bulk_is_never_starved),
        T(one_slot_of_two_or_more_is_never_for_bulk),
        T(a_removed_entry_is_not_served),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
