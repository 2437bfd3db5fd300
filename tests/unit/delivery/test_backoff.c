#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "server/delivery/backoff.h"

enum { MINUTE = 60000 };
static const int64_t STEPS[] = {1 * MINUTE,  5 * MINUTE,   15 * MINUTE, 30 * MINUTE,
                                60 * MINUTE, 120 * MINUTE, 180 * MINUTE};
static const struct backoff PLAIN = {.step_ms = STEPS, .count = 7, .then_ms = 240 * MINUTE};
static const struct backoff JITTERED = {
    .step_ms = STEPS, .count = 7, .then_ms = 240 * MINUTE, .jitter_percent = 15};

static void test_C22_each_attempt_has_its_delay_and_the_last_one_repeats(void **state) {
    (void)state;
    static const struct {
        int attempt;
        int64_t minutes;
    } rows[] = {{1, 1},   {2, 5},   {3, 15},  {4, 30},   {5, 60},
                {6, 120}, {7, 180}, {8, 240}, {50, 240}, {0, 1}};
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
        assert_int_equal(backoff_delay_ms(&PLAIN, rows[i].attempt, 12345),
                         rows[i].minutes * MINUTE);
}

static void jitter_reaches_both_ends_and_never_passes_them(void **state) {
    (void)state;
    for (int attempt = 1; attempt <= 9; attempt++) {
        int64_t plain = backoff_delay_ms(&PLAIN, attempt, 0), jitter = plain / 100 * 15;
        assert_int_equal(backoff_delay_ms(&JITTERED, attempt, 0), plain - jitter);
        assert_int_equal(backoff_delay_ms(&JITTERED, attempt, (uint64_t)(2 * jitter)),
                         plain + jitter);
        for (uint64_t r = 1; r < 1000; r++) {
            int64_t d = backoff_delay_ms(&JITTERED, attempt, r * 0x9e3779b97f4a7c15ULL);
            assert_in_range(d, plain - jitter, plain + jitter);
        }
    }
}

static void a_delay_too_short_for_jitter_stays_as_it_is(void **state) {
    (void)state;
    static const int64_t SHORT[] = {50};
    const struct backoff b = {.step_ms = SHORT, .count = 1, .then_ms = 99, .jitter_percent = 15};
    assert_int_equal(backoff_delay_ms(&b, 1, UINT64_MAX), 50);
    assert_int_equal(backoff_delay_ms(&b, 2, UINT64_MAX), 99);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_C22_each_attempt_has_its_delay_and_the_last_one_repeats),
        cmocka_unit_test(jitter_reaches_both_ends_and_never_passes_them),
        cmocka_unit_test(a_delay_too_short_for_jitter_stays_as_it_is),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
