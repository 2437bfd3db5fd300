#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "server/base/clock.h"

static void times_are_printed_and_read_back(void **state) {
    (void)state;
    static const struct {
        int64_t wall_ms;
        const char *text;
    } rows[] = {
        {0, "1970-01-01T00:00:00.000Z"},
        {1, "1970-01-01T00:00:00.001Z"},
        {951782400000, "2000-02-29T00:00:00.000Z"},
        {1709251199999, "2024-02-29T23:59:59.999Z"},
        {1769860800123, "2026-01-31T12:00:00.123Z"},
        {4107542400000, "2100-03-01T00:00:00.000Z"},
        {253402300799999, "9999-12-31T23:59:59.999Z"},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        char out[CLOCK_RFC3339_SIZE];
        clock_print_rfc3339(rows[i].wall_ms, out);
        assert_string_equal(out, rows[i].text);
        int64_t back = -1;
        assert_int_equal(clock_parse_rfc3339(str_of(out), &back), OK);
        assert_true(back == rows[i].wall_ms);
    }
}

static void rfc3339_is_read_in_all_its_forms(void **state) {
    (void)state;
    static const struct {
        const char *in;
        int64_t want; /* -1: ERR_INVALID */
    } rows[] = {
        {"2026-01-31T12:00:00Z", 1769860800000},
        {"2026-01-31t12:00:00z", 1769860800000},
        {"2026-01-31T12:00:00.1Z", 1769860800100},
        {"2026-01-31T12:00:00.1239999999999Z", 1769860800123},
        {"2026-01-31T13:30:00+01:30", 1769860800000},
        {"2026-01-31T00:00:00-12:00", 1769860800000},
        {"2026-01-31T12:00:00-00:00", 1769860800000},
        {"1985-04-12T23:20:50.52Z", 482196050520}, /* RFC 3339 5.8 */
        {"1996-12-19T16:39:57-08:00", 851042397000},
        {"1990-12-31T23:59:60Z", 662688000000}, /* leap second */
        {"1990-12-31T15:59:60-08:00", 662688000000},
        {"1990-12-31T23:58:60Z", -1},
        {"1990-12-31T23:59:61Z", -1},
        {"1970-01-01T00:59:00+01:00", -1}, /* before 1970 in UTC */
        {"1969-12-31T23:59:59Z", -1},
        {"9999-12-31T23:59:59-00:01", -1}, /* after 9999 in UTC */
        {"2026-02-29T00:00:00Z", -1},
        {"2024-02-30T00:00:00Z", -1},
        {"2100-02-29T00:00:00Z", -1},
        {"2026-04-31T00:00:00Z", -1},
        {"2026-00-01T00:00:00Z", -1},
        {"2026-13-01T00:00:00Z", -1},
        {"2026-01-00T00:00:00Z", -1},
        {"2026-01-01T24:00:00Z", -1},
        {"2026-01-01T00:60:00Z", -1},
        {"2026-01-01T00:00:00", -1},
        {"2026-01-01T00:00:00.Z", -1},
        {"2026-01-01T00:00:00,5Z", -1},
        {"2026-01-01T00:00:00+0100", -1},
        {"2026-01-01T00:00:00+24:00", -1},
        {"2026-01-01T00:00:00+01:60", -1},
        {"2026-01-01T00:00:00Z ", -1},
        {" 2026-01-01T00:00:00Z", -1},
        {"2026-01-01 00:00:00Z", -1},
        {"2026-1-1T00:00:00Z", -1},
        {"+026-01-01T00:00:00Z", -1},
        {"2026-01-01", -1},
        {"", -1},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        print_message("%s\n", rows[i].in);
        int64_t got = 4711;
        enum err e = clock_parse_rfc3339(str_of(rows[i].in), &got);
        assert_int_equal(e, rows[i].want < 0 ? ERR_INVALID : OK);
        assert_true(got == (rows[i].want < 0 ? 4711 : rows[i].want));
    }
}

static void a_day_has_its_weekday(void **state) {
    (void)state;
    struct civil_time t = clock_civil(0);
    assert_int_equal(t.weekday, 4); /* a Thursday */
    t = clock_civil(1769860800123);
    assert_int_equal(t.year, 2026);
    assert_int_equal(t.month, 1);
    assert_int_equal(t.day, 31);
    assert_int_equal(t.hour, 12);
    assert_int_equal(t.minute, 0);
    assert_int_equal(t.second, 0);
    assert_int_equal(t.weekday, 6);
    t = clock_civil(-1);
    assert_int_equal(t.year, 1969);
    assert_int_equal(t.second, 59);
}

static void the_clocks_run(void **state) {
    (void)state;
    assert_true(clock_wall_ms() > 1700000000000);
    int64_t a = clock_mono_us();
    int64_t b = clock_mono_us();
    assert_true(b >= a);
    assert_true(clock_mono_ms() >= a / 1000);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(times_are_printed_and_read_back),
        cmocka_unit_test(rfc3339_is_read_in_all_its_forms),
        cmocka_unit_test(a_day_has_its_weekday),
        cmocka_unit_test(the_clocks_run),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
