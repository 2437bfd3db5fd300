#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "server/delivery/window.h"

enum { DEAD_MS = 60000 };

static void it_starts_at_five_or_at_its_ceiling(void **state) {
    (void)state;
    struct window w;
    window_init(&w, 20);
    assert_int_equal(w.size, 5);
    window_init(&w, 3);
    assert_int_equal(w.size, 3);
    window_init(&w, 0);
    assert_int_equal(w.size, 1);
}

static void it_is_proven_by_a_success_until_it_begins_anew(void **state) {
    (void)state;
    struct window w;
    window_init(&w, 2);
    assert_false(w.is_proven);
    window_success(&w, 1);
    assert_true(w.is_proven);
    for (int i = 0; !window_failure(&w, 1000, 100); i++)
        assert_in_range(i, 0, 100);
    assert_true(window_is_dead(&w, 1099));
    assert_false(window_is_dead(&w, 1100));
    assert_false(w.is_proven);
}

static void a_whole_window_of_successes_grows_it_by_one(void **state) {
    (void)state;
    struct window w;
    window_init(&w, 20);
    for (unsigned size = 5; size < 20; size++) {
        for (unsigned i = 0; i < size; i++) {
            assert_int_equal(w.size, size);
            window_success(&w, size);
        }
        assert_int_equal(w.size, size + 1);
    }
    for (int i = 0; i < 1000; i++)
        window_success(&w, 20);
    assert_int_equal(w.size, 20);
}

static void below_four_it_grows_every_four_successes(void **state) {
    (void)state;
    struct window w;
    window_init(&w, 20);
    w.size = 1;
    for (unsigned size = 1; size < 4; size++) {
        for (int i = 0; i < 4; i++)
            window_success(&w, size);
        assert_int_equal(w.size, size + 1);
    }
}

static void a_window_that_is_not_used_does_not_grow(void **state) {
    (void)state;
    struct window w;
    window_init(&w, 20);
    for (int i = 0; i < 100; i++)
        window_success(&w, 1);
    assert_int_equal(w.size, 6); /* one in flight and the start's five */
}

static void the_first_failure_shrinks_it_and_then_a_window_of_them_does(void **state) {
    (void)state;
    struct window w;
    window_init(&w, 20);
    w.size = 10;
    assert_false(window_failure(&w, 0, DEAD_MS));
    assert_int_equal(w.size, 9);
    unsigned failures = 0;
    while (w.size == 9 && failures < 100) {
        window_success(&w, 0); /* keeps it from dying; too little in flight to grow it */
        assert_false(window_failure(&w, 0, DEAD_MS));
        failures++;
    }
    assert_int_equal(w.size, 8);
    assert_in_range(failures, 8, 10);
}

static void three_windows_of_failures_without_a_success_kill_it(void **state) {
    (void)state;
    struct window w;
    window_init(&w, 20);
    int failures = 0;
    while (!window_failure(&w, 1000, DEAD_MS))
        assert_in_range(++failures, 1, 15);
    assert_in_range(failures, 5, 14);
    assert_true(window_is_dead(&w, 1000));
    assert_true(window_is_dead(&w, 1000 + DEAD_MS - 1));
    assert_false(window_failure(&w, 2000, DEAD_MS)); /* it is dead only once */
    assert_int_equal(w.dead_until_mono_ms, 1000 + DEAD_MS);
    assert_false(window_is_dead(&w, 1000 + DEAD_MS));
    assert_int_equal(w.size, 5);
    assert_int_equal(w.dead_until_mono_ms, 0);
}

static void one_success_in_between_keeps_it_alive(void **state) {
    (void)state;
    struct window w;
    window_init(&w, 20);
    for (int i = 0; i < 1000; i++) {
        assert_false(window_failure(&w, 0, DEAD_MS));
        if (w.cohorts > 1)
            window_success(&w, 0);
        assert_true(w.size >= 1);
    }
}

static void a_success_of_an_older_transaction_revives_it(void **state) {
    (void)state;
    struct window w;
    window_init(&w, 20);
    while (!window_failure(&w, 0, DEAD_MS))
        ;
    window_success(&w, 1);
    assert_false(window_is_dead(&w, 1));
}

static void a_suspended_one_stays_so_and_then_feels_its_way(void **state) {
    (void)state;
    struct window w;
    window_init(&w, 20);
    assert_true(window_suspend(&w, 5000));
    assert_false(window_suspend(&w, 6000)); /* longer, but it was not alive */
    assert_false(window_suspend(&w, 4000)); /* never shorter */
    window_success(&w, 5);                  /* of a session that was logged in before */
    assert_true(window_is_dead(&w, 5999));
    assert_false(window_is_dead(&w, 6000));
    assert_int_equal(w.size, 1);
    for (int i = 0; i < 4; i++)
        window_success(&w, 1);
    assert_int_equal(w.size, 2);
}

static void a_revived_one_begins_as_new(void **state) {
    (void)state;
    struct window w;
    window_init(&w, 20);
    assert_true(window_suspend(&w, 5000));
    window_revive(&w);
    assert_false(window_is_dead(&w, 0));
    assert_int_equal(w.size, 5);
    assert_true(window_suspend(&w, 7000));
}

static void a_lower_ceiling_takes_effect_at_once(void **state) {
    (void)state;
    struct window w;
    window_init(&w, 20);
    w.size = 15;
    window_set_ceiling(&w, 4);
    assert_int_equal(w.size, 4);
    window_set_ceiling(&w, 20);
    assert_int_equal(w.size, 4);
}

/* A server that takes 8 at once and refuses the others' connections: the window stays near it. */
static void against_a_server_with_eight_slots_it_stays_near_eight(void **state) {
    (void)state;
    struct window w;
    window_init(&w, 20);
    unsigned least = 99, most = 0;
    for (int round = 0; round < 500; round++) {
        unsigned n = w.size;
        for (unsigned i = 0; i < n; i++) {
            if (i < 8)
                window_success(&w, n);
            else
                assert_false(window_failure(&w, round, DEAD_MS));
        }
        if (round >= 50) {
            least = w.size < least ? w.size : least;
            most = w.size > most ? w.size : most;
        }
    }
    assert_in_range(least, 7, 10);
    assert_in_range(most, 8, 13);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(it_starts_at_five_or_at_its_ceiling),
        cmocka_unit_test(it_is_proven_by_a_success_until_it_begins_anew),
        cmocka_unit_test(a_whole_window_of_successes_grows_it_by_one),
        cmocka_unit_test(below_four_it_grows_every_four_successes),
        cmocka_unit_test(a_window_that_is_not_used_does_not_grow),
        cmocka_unit_test(the_first_failure_shrinks_it_and_then_a_window_of_them_does),
        cmocka_unit_test(three_windows_of_failures_without_a_success_kill_it),
        cmocka_unit_test(one_success_in_between_keeps_it_alive),
        cmocka_unit_test(a_success_of_an_older_transaction_revives_it),
        cmocka_unit_test(a_suspended_one_stays_so_and_then_feels_its_way),
        cmocka_unit_test(a_revived_one_begins_as_new),
        cmocka_unit_test(a_lower_ceiling_takes_effect_at_once),
        cmocka_unit_test(against_a_server_with_eight_slots_it_stays_near_eight),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
