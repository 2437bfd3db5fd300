#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "server/mail/date.h"

static void test_M5_dates_have_the_right_weekday_and_a_numeric_zone(void **state) {
    (void)state;
    static const struct {
        int64_t wall_ms;
        const char *want;
    } rows[] = {
        {0, "Thu, 1 Jan 1970 00:00:00 +0000"},
        {999, "Thu, 1 Jan 1970 00:00:00 +0000"},
        {951782400000, "Tue, 29 Feb 2000 00:00:00 +0000"},
        {1769860800123, "Sat, 31 Jan 2026 12:00:00 +0000"},
        {1798761599999, "Thu, 31 Dec 2026 23:59:59 +0000"},
        {4107542400000, "Mon, 1 Mar 2100 00:00:00 +0000"},
        {253402300799999, "Fri, 31 Dec 9999 23:59:59 +0000"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        char got[DATE_SIZE];
        date_print(rows[i].wall_ms, got);
        assert_string_equal(got, rows[i].want);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_M5_dates_have_the_right_weekday_and_a_numeric_zone),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
