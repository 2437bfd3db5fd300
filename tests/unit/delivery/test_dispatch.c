/* When a site that may not go on is looked at again. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>

#include "server/base/clock.h"
#include "server/delivery/scheduler_state.h"

/* It waits for its rate; meanwhile it died, which moved its wake-up, and was revived. */
static void a_parked_site_is_woken_when_it_may_go_on_whatever_happened_meanwhile(void **state) {
    (void)state;
    const struct route r = {.concurrency = 5, .rate_per_s = 1};
    int64_t parked_until_mono_ms = clock_mono_ms() + 60 * 1000;
    struct scheduler s = {.wakeups = wakeups_new()};
    TAILQ_INIT(&s.runnable);
    struct site *site = sites_get(&s.sites, "relay", 0, &r, 1);
    site->owner = &s;
    wakeup_init(&site->wake, dispatch_site_woken, site);
    site->parked_until_mono_ms = parked_until_mono_ms;
    wakeup_set(s.wakeups, &site->wake, parked_until_mono_ms + 3600 * 1000);
    dispatch_make_runnable(&s, site);
    dispatch_runnable(&s);
    assert_false(site->is_runnable);
    assert_true(wakeup_is_set(&site->wake));
    assert_int_equal(site->wake.at_mono_ms, parked_until_mono_ms);
    wakeup_cancel(s.wakeups, &site->wake); /* it may also be gone */
    dispatch_make_runnable(&s, site);
    dispatch_runnable(&s);
    assert_int_equal(wakeups_run(s.wakeups, parked_until_mono_ms), 1);
    assert_true(site->is_runnable);
    site_release(&site);
    sites_free(&s.sites);
    wakeups_free(&s.wakeups);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_parked_site_is_woken_when_it_may_go_on_whatever_happened_meanwhile),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
