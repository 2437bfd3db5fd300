#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "server/base/err.h"
#include "server/delivery/wakeup.h"

enum { MOST = 500 };

static struct wakeups *wakeups;
static int64_t order[MOST * 2];
static size_t ran;

static void note_time(void *arg) {
    order[ran++] = ((struct wakeup *)arg)->at_mono_ms;
}

static int setup(void **state) {
    (void)state;
    wakeups = wakeups_new();
    ran = 0;
    return 0;
}

static int teardown(void **state) {
    (void)state;
    wakeups_free(&wakeups);
    return 0;
}

static uint64_t random_state = 42;
static int64_t some(int64_t below) {
    random_state = random_state * 6364136223846793005ULL + 1442695040888963407ULL;
    return (int64_t)((random_state >> 33) % (uint64_t)below);
}

static void they_run_in_order_of_time_whatever_was_moved_or_cancelled(void **state) {
    (void)state;
    static struct wakeup k[MOST];
    size_t set = 0;
    for (int i = 0; i < MOST; i++) {
        wakeup_init(&k[i], note_time, &k[i]);
        wakeup_set(wakeups, &k[i], some(10000));
    }
    for (int i = 0; i < 2000; i++) {
        struct wakeup *one = &k[some(MOST)];
        if (some(3) == 0)
            wakeup_cancel(wakeups, one);
        else
            wakeup_set(wakeups, one, some(10000));
    }
    for (int i = 0; i < MOST; i++)
        set += wakeup_is_set(&k[i]);
    assert_int_equal(wakeups_count(wakeups), set);
    assert_int_equal(wakeups_run(wakeups, 5000) + wakeups_run(wakeups, 10000), set);
    assert_int_equal(ran, set);
    for (size_t i = 1; i < ran; i++)
        assert_true(order[i - 1] <= order[i]);
    assert_int_equal(wakeups_wait_ms(wakeups, 0), -1);
}

static void the_wait_is_until_the_first(void **state) {
    (void)state;
    struct wakeup a, b;
    wakeup_init(&a, note_time, &a);
    wakeup_init(&b, note_time, &b);
    assert_int_equal(wakeups_wait_ms(wakeups, 100), -1);
    wakeup_set(wakeups, &a, 1000);
    wakeup_set(wakeups, &b, 600);
    assert_int_equal(wakeups_wait_ms(wakeups, 100), 500);
    assert_int_equal(wakeups_wait_ms(wakeups, 700), 0);
    wakeup_cancel(wakeups, &b);
    assert_int_equal(wakeups_wait_ms(wakeups, 700), 300);
    wakeup_cancel(wakeups, &a); /* before it is gone */
}

static void again(void *arg) {
    wakeup_set(wakeups, arg, 50);
    ran++;
}

static void one_that_sets_itself_again_runs_once_a_call(void **state) {
    (void)state;
    struct wakeup a;
    wakeup_init(&a, again, &a);
    wakeup_set(wakeups, &a, 50);
    assert_int_equal(wakeups_run(wakeups, 100), 1);
    assert_int_equal(ran, 1);
    assert_true(wakeup_is_set(&a));
    wakeup_cancel(wakeups, &a);
}

int main(void) {
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(they_run_in_order_of_time_whatever_was_moved_or_cancelled),
        T(the_wait_is_until_the_first),
        T(one_that_sets_itself_again_runs_once_a_call),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
