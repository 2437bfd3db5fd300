#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "api/key_rate.h"

enum { SECOND_US = 1000000 };

static struct id id_of(uint32_t n) {
    struct id id = {0};
    memcpy(id.b, &n, sizeof(n));
    return id;
}

static void a_bucket_empties_and_fills(void **state) {
    static const struct {
        const char *name;
        int at_s;
        bool is_taken;
        int remaining, reset_s, wait_s;
    } rows[] = {
        {"full", 100, true, 3, 15, 0},
        {"half", 100, true, 2, 30, 0},
        {"almost empty", 100, true, 1, 45, 0},
        {"the last one", 100, true, 0, 60, 0},
        {"too early", 100, false, 0, 60, 15},
        {"still too early", 114, false, 0, 46, 1},
        {"one came back", 115, true, 0, 60, 0},
        {"after a long time it is full", 1000, true, 3, 15, 0},
    };
    struct key_rates *r = key_rates_new();
    const struct id id = id_of(1);
    struct key_rate_left left;
    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        bool is_taken = key_rates_take(r, &id, 4, rows[i].at_s * (int64_t)SECOND_US, &left);
        if (is_taken != rows[i].is_taken || left.quota != 4 ||
            left.remaining != rows[i].remaining || left.reset_s != rows[i].reset_s ||
            left.wait_s != rows[i].wait_s)
            fail_msg("%s: %d, r=%lld t=%lld wait %lld", rows[i].name, is_taken,
                     (long long)left.remaining, (long long)left.reset_s, (long long)left.wait_s);
    }
    key_rates_free(&r);
}

static void keys_do_not_share_a_bucket(void **state) {
    struct key_rates *r = key_rates_new();
    const struct id one = id_of(1), two = id_of(2);
    struct key_rate_left left;
    (void)state;
    assert_true(key_rates_take(r, &one, 1, SECOND_US, &left));
    assert_false(key_rates_take(r, &one, 1, SECOND_US, &left));
    assert_true(key_rates_take(r, &two, 1, SECOND_US, &left));
    key_rates_free(&r);
}

static void a_key_without_a_rate_is_not_remembered(void **state) {
    struct key_rates *r = key_rates_new();
    const struct id id = id_of(1);
    struct key_rate_left left;
    (void)state;
    for (int i = 0; i < 1000; i++)
        assert_true(key_rates_take(r, &id, 0, SECOND_US, &left));
    assert_int_equal(left.quota, 0);
    assert_int_equal(key_rates_count(r), 0);
    key_rates_free(&r);
}

static void the_table_is_bounded_and_forgets_full_buckets_first(void **state) {
    struct key_rates *r = key_rates_new();
    const struct id busy = id_of(0);
    struct key_rate_left left;
    (void)state;
    for (uint32_t i = 1; i < KEY_RATES_MAX; i++) {
        const struct id id = id_of(i);
        assert_true(key_rates_take(r, &id, 60, SECOND_US, &left));
    }
    int64_t later = 100 * (int64_t)SECOND_US; /* all of them are full again */
    assert_true(key_rates_take(r, &busy, 1, later, &left));
    assert_int_equal(key_rates_count(r), KEY_RATES_MAX);
    const struct id another = id_of(KEY_RATES_MAX);
    assert_true(key_rates_take(r, &another, 1, later, &left));
    assert_int_equal(key_rates_count(r), 2);
    assert_false(key_rates_take(r, &busy, 1, later, &left)); /* not forgotten */
    for (uint32_t i = 1; i < 3 * KEY_RATES_MAX; i++) {
        const struct id id = id_of(i);
        (void)key_rates_take(r, &id, 1, later, &left);
        assert_true(key_rates_count(r) <= KEY_RATES_MAX);
    }
    key_rates_free(&r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_bucket_empties_and_fills),
        cmocka_unit_test(keys_do_not_share_a_bucket),
        cmocka_unit_test(a_key_without_a_rate_is_not_remembered),
        cmocka_unit_test(the_table_is_bounded_and_forgets_full_buckets_first),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
