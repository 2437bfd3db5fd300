#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "server/base/doubt.h"

#define HOURS(n) ((int64_t)(n)*3600 * 1000)
#define YEARS(n) HOURS(8766LL * (n))
static const int64_t START_MS = 1800000000000;

/* Looks at these moments; wall time is START plus what is given. */
struct look {
    int64_t boot_ms, wall_ms;
    int64_t want_wall_ms, want_jump_ms;
    bool want_settled;
};

static const struct {
    const char *name;
    struct look look[6];
} cases[] = {
    {"time that goes on is believed",
     {{0, 0, 0, 0, false}, {5000, 5000, 5000, 0, false}, {HOURS(1), HOURS(1), HOURS(1), 0, true}}},
    {"slewing is no jump",
     {{0, 0, 0, 0, false},
      {5000, 5400, 5400, 0, false},
      {10000, 65000, 65000, 0, false},
      {HOURS(1), HOURS(1) + 110000, HOURS(1) + 110000, 0, true}}},
    {"a second that comes twice is no jump",
     {{0, 0, 0, 0, false},
      {5000, 4000, 4000, 0, false},
      {10000, 9000, 9000, 0, false},
      {HOURS(1), HOURS(1) - 1000, HOURS(1) - 1000, 0, true}}},
    {"a sleep is no jump",
     {{0, 0, 0, 0, false},
      {5000, 5000, 5000, 0, false},
      {HOURS(10), HOURS(10) + 300, HOURS(10) + 300, 0, true},
      {HOURS(10) + 5000, HOURS(10) + 5300, HOURS(10) + 5300, 0, true}}},
    {"an hour ahead is not believed for an hour",
     {{0, 0, 0, 0, false},
      {5000, HOURS(1) + 5000, 5000, HOURS(1), false},
      {HOURS(1), HOURS(2), HOURS(1), 0, false},
      {HOURS(1) + 5000, HOURS(2) + 5000, HOURS(2) + 5000, 0, true}}},
    {"ten years ahead and back have done nothing",
     {{0, 0, 0, 0, false},
      {5000, YEARS(10) + 5000, 5000, YEARS(10), false},
      {10000, 10000, 10000, -YEARS(10), false},
      {HOURS(2), HOURS(2), HOURS(2), 0, true}}},
    {"back is believed at once",
     {{0, 0, 0, 0, false},
      {5000, 5000 - YEARS(10), 5000 - YEARS(10), -YEARS(10), false},
      {HOURS(1) + 5000, HOURS(1) + 5000 - YEARS(10), HOURS(1) + 5000 - YEARS(10), 0, true}}},
    {"back, and right again, is a jump ahead: not believed for an hour",
     {{0, 0, 0, 0, false},
      {5000, 5000 - YEARS(10), 5000 - YEARS(10), -YEARS(10), false},
      {9000, 9000, 9000 - YEARS(10), YEARS(10), false},
      {HOURS(1) + 9000, HOURS(1) + 9000, HOURS(1) + 9000, 0, true}}},
    {"a second jump is doubted with the first",
     {{0, 0, 0, 0, false},
      {5000, 5000 + HOURS(2), 5000, HOURS(2), false},
      {6000, 6000 + HOURS(3), 6000, HOURS(1), false},
      {7000, 7000 + HOURS(2), 7000, -HOURS(1), false}}},
};

static void looks_go_by(void **state) {
    (void)state;
    for (size_t c = 0; c < sizeof(cases) / sizeof(cases[0]); c++) {
        struct doubt d = {0};
        for (size_t i = 0; i < 6 && (i == 0 || cases[c].look[i].boot_ms != 0); i++) {
            const struct look *l = &cases[c].look[i];
            struct doubt_view v;
            doubt_look(&d, START_MS + l->wall_ms, 777000 + l->boot_ms, &v);
            if (v.wall_ms != START_MS + l->want_wall_ms || v.jumped_ms != l->want_jump_ms ||
                v.is_settled != l->want_settled)
                fail_msg("%s: look %zu: wall %+lld, jump %+lld, settled %d", cases[c].name, i,
                         (long long)(v.wall_ms - START_MS), (long long)v.jumped_ms, v.is_settled);
        }
    }
}

static void a_jump_in_pieces_is_a_jump_however_often_it_is_looked(void **state) {
    (void)state;
    for (int every_ms = 100; every_ms <= 2500; every_ms += 300) {
        struct doubt d = {0};
        struct doubt_view v;
        int64_t jumped_ms = 0, believed_ms = 0;
        for (int64_t boot_ms = 0; boot_ms < 60 * 1000; boot_ms += every_ms) {
            doubt_look(&d, START_MS + 31 * boot_ms, boot_ms, &v); /* 30 s too many each second */
            jumped_ms += v.jumped_ms;
            believed_ms = v.wall_ms - START_MS - boot_ms;
        }
        assert_true(jumped_ms > 25 * 60 * 1000);
        assert_true(believed_ms < 3 * 60 * 1000);
        assert_false(v.is_settled);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(looks_go_by),
        cmocka_unit_test(a_jump_in_pieces_is_a_jump_however_often_it_is_looked),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
