#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "server/base/rate.h"

enum { SECOND_US = 1000000 };

static void a_burst_goes_at_once_and_the_rest_in_step(void **state) {
    (void)state;
    struct rate r;
    int64_t now = 5000 * (int64_t)SECOND_US, wait;
    rate_init(&r, 10, 1000, 3); /* one each 100 ms, three at once */
    for (int i = 0; i < 3; i++)
        assert_true(rate_take(&r, now, 1, &wait));
    assert_false(rate_take(&r, now, 1, &wait));
    assert_true(wait == 100000);
    assert_false(rate_take(&r, now + 99999, 1, &wait));
    assert_true(wait == 1);
    assert_true(rate_take(&r, now + 100000, 1, &wait));
    assert_true(wait == 0);
    assert_false(rate_take(&r, now + 100000, 1, &wait));
    /* after a rest the burst is back, and not more than the burst */
    now += 60 * (int64_t)SECOND_US;
    for (int i = 0; i < 3; i++)
        assert_true(rate_take(&r, now, 1, &wait));
    assert_false(rate_take(&r, now, 1, &wait));
}

static void the_long_run_keeps_the_rate(void **state) {
    (void)state;
    static const struct {
        uint64_t per_period;
        int64_t period_ms;
        uint64_t burst;
    } rows[] = {{1, 1000, 1}, {7, 1000, 1}, {600, 60000, 10}, {100, 3600000, 5}, {3, 1000, 0}};
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct rate r;
        rate_init(&r, rows[i].per_period, rows[i].period_ms, rows[i].burst);
        uint64_t taken = 0, burst = rows[i].burst ? rows[i].burst : 1;
        int64_t wait, end = rows[i].period_ms * 1000 * 10;
        for (int64_t now = 0; now < end; now += wait) {
            while (rate_take(&r, now, 1, &wait))
                taken++;
            assert_true(wait > 0);
        }
        uint64_t want = rows[i].per_period * 10 + burst - 1;
        print_message("%llu of %llu\n", (unsigned long long)taken, (unsigned long long)want);
        assert_true(taken <= want);
        assert_true(taken + 1 >= want);
    }
}

static void a_refusal_takes_nothing(void **state) {
    (void)state;
    struct rate r;
    int64_t wait;
    rate_init(&r, 10, 1000, 4);
    assert_true(rate_take(&r, 0, 3, &wait));
    for (int i = 0; i < 10; i++) {
        assert_false(rate_take(&r, 0, 2, &wait));
        assert_true(wait == 100000);
    }
    assert_true(rate_take(&r, 0, 1, &wait));
}

static void more_than_the_burst_goes_from_a_full_bucket_and_is_paid_off(void **state) {
    (void)state;
    struct rate r;
    int64_t wait;
    rate_init(&r, 10, 1000, 4);
    assert_true(rate_take(&r, 0, 1, &wait));
    assert_false(rate_take(&r, 0, 50, &wait));
    assert_true(wait == 100000);
    assert_true(rate_take(&r, 100000, 50, &wait)); /* costs 5 s */
    assert_false(rate_take(&r, 100000, 1, &wait));
    assert_true(wait == 5000000 - 300000);
    assert_true(rate_take(&r, 100000 + wait, 1, &wait));
}

static void zero_means_unlimited(void **state) {
    (void)state;
    struct rate r;
    int64_t wait = 7;
    rate_init(&r, 0, 1000, 0);
    for (int i = 0; i < 1000; i++)
        assert_true(rate_take(&r, 0, 1000000, &wait));
    assert_true(wait == 0);
    rate_init(&r, 1, 1000, 1);
    assert_true(rate_take(&r, 0, 0, &wait));
    assert_true(rate_take(&r, 0, 1, &wait));
    assert_true(rate_take(&r, 0, 0, &wait));
}

static void extreme_numbers_stay_in_range(void **state) {
    (void)state;
    struct rate r;
    int64_t wait;
    rate_init(&r, 1, INT64_MAX, UINT64_MAX);
    assert_true(rate_take(&r, 0, UINT64_MAX, &wait));
    assert_false(rate_take(&r, 1, UINT64_MAX, &wait));
    assert_true(wait > 0);
    rate_init(&r, UINT64_MAX, 1, 1); /* more than one a microsecond: one a microsecond */
    assert_true(rate_take(&r, 0, 1, &wait));
    assert_false(rate_take(&r, 0, 1, &wait));
    assert_true(wait == 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_burst_goes_at_once_and_the_rest_in_step),
        cmocka_unit_test(the_long_run_keeps_the_rate),
        cmocka_unit_test(a_refusal_takes_nothing),
        cmocka_unit_test(more_than_the_burst_goes_from_a_full_bucket_and_is_paid_off),
        cmocka_unit_test(zero_means_unlimited),
        cmocka_unit_test(extreme_numbers_stay_in_range),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
