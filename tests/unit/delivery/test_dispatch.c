/* When a site that may not go on is looked at again, and what stays in front of its queues. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>

#include "server/base/clock.h"
#include "server/delivery/scheduler_state.h"
#include "storage/store_ops.h"

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

enum { BUNDLES = 3 };

/* Bundles of one message at one site, without recipients: nothing is asked of the store. */
struct fixture {
    struct scheduler s;
    struct settings settings;
    struct settings_route route;
    struct hop hop;
    struct site *site;
    struct bundle *bundle[BUNDLES];
};

static void begin(struct fixture *f, const struct route *r) {
    static struct host_list hosts;
    *f = (struct fixture){.route = {.route = r},
                          .settings = {.o = {.sessions_max = 100}},
                          .hop = {.route = &f->route,
                                  .hosts = &hosts,
                                  .until_mono_ms = INT64_MAX,
                                  .hosts_until_mono_ms = INT64_MAX}};
    f->s.wakeups = wakeups_new();
    f->s.letters = letters_new(0);
    f->s.settings = &f->settings;
    TAILQ_INIT(&f->s.runnable);
    TAILQ_INIT(&f->s.claims);
    f->site = sites_get(&f->s.sites, "relay", 0, r, 1);
    f->site->owner = &f->s;
    wakeup_init(&f->site->wake, dispatch_site_woken, f->site);
    const struct message_row row = {
        .seq = 1, .size_bytes = 1, .expires_wall_ms = clock_wall_ms() + 3600 * 1000};
    const struct id id = {{1}};
    struct content_budget *budget = content_budget_new(1024);
    struct message *m = message_new(&id, mem_zalloc(1), 1);
    struct outgoing *o = outgoing_new(&row, m, budget);
    for (int i = 0; i < BUNDLES; i++) {
        struct bundle *b = f->bundle[i] = mem_zalloc(sizeof(*b));
        *b = (struct bundle){.hop = &f->hop, .site = f->site, .fair = {.cost = 1, .project = i}};
        b->letter = letters_get(f->s.letters, o, ROUTE_SIGNING_OFF);
        TAILQ_INIT(&b->items);
        TAILQ_INSERT_TAIL(&b->letter->bundles, b, of_letter);
        f->hop.users++;
        f->site->users++;
    }
    outgoing_unref(&o);
    message_unref(&m);
    content_budget_unref(&budget);
}

static void end(struct fixture *f) {
    for (int i = 0; i < BUNDLES; i++) {
        fair_remove(f->site->ready, &f->bundle[i]->fair);
        fair_remove(f->site->waiting, &f->bundle[i]->fair);
        gather_free_bundle(&f->s, f->bundle[i]);
    }
    f->site->is_runnable = false;
    wakeup_cancel(f->s.wakeups, &f->site->wake);
    site_release(&f->site);
    sites_free(&f->s.sites);
    letters_free(&f->s.letters);
    wakeups_free(&f->s.wakeups);
}

/* Its rate lets nothing go: who is first stays first, and pays nothing. */
static void a_project_pays_for_no_turn_that_a_rate_refuses(void **state) {
    (void)state;
    const struct route r = {.concurrency = 5, .rate_per_s = 1};
    struct fixture f;
    int64_t wait_us;
    begin(&f, &r);
    while (limit_take(&f.site->limit, clock_mono_us() + 60 * 1000000LL, 1, &wait_us))
        continue;
    for (int i = 0; i < BUNDLES; i++) {
        f.bundle[i]->state = BUNDLE_READY;
        fair_push(f.site->ready, &f.bundle[i]->fair);
    }
    for (int i = 0; i < 100; i++) {
        f.site->parked_until_mono_ms = 0;
        dispatch_make_runnable(&f.s, f.site);
        dispatch_runnable(&f.s);
        assert_true(f.site->parked_until_mono_ms > clock_mono_ms());
        assert_int_equal(fair_count(f.site->ready), BUNDLES);
    }
    static const unsigned none[LANE_COUNT] = {0};
    assert_ptr_equal(fair_pick(f.site->ready, 5, none), &f.bundle[0]->fair);
    end(&f);
}

static void what_is_woken_without_a_slot_keeps_its_order(void **state) {
    (void)state;
    const struct route r = {.concurrency = 5};
    struct fixture f;
    begin(&f, &r);
    for (int i = 0; i < BUNDLES; i++) {
        struct bundle *b = f.bundle[i];
        b->fair.project = 1;
        b->state = BUNDLE_WAITING;
        TAILQ_INSERT_TAIL(&b->letter->waiting, b, wait);
    }
    prepare_letter_woken(&f.s, f.bundle[0]->letter);
    static const unsigned none[LANE_COUNT] = {0};
    for (int i = 0; i < BUNDLES; i++)
        assert_ptr_equal(fair_pick(f.site->waiting, 5, none), &f.bundle[i]->fair);
    TAILQ_REMOVE(&f.s.runnable, f.site, runnable);
    end(&f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_parked_site_is_woken_when_it_may_go_on_whatever_happened_meanwhile),
        cmocka_unit_test(a_project_pays_for_no_turn_that_a_rate_refuses),
        cmocka_unit_test(what_is_woken_without_a_slot_keeps_its_order),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
