#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>

#include "server/base/clock.h"
#include "server/delivery/share.h"

enum { JOBS = 20, SHARE = 3 };

/* What became of the jobs: their numbers, in order. */
struct fixture {
    struct loop *loop;
    struct shares *shares;
    struct job job[JOBS];
    int started[JOBS], starts, given_back[JOBS], returns;
    struct share *of[2]; /* by site */
    char site[2];
    bool ends_at_once; /* as while the loop aborts */
};

static int number_of(const struct fixture *f, const struct job *j) {
    return (int)(j - f->job);
}

static void start(void *ctx, struct job *j, struct share *s) {
    struct fixture *f = ctx;
    f->started[f->starts++] = number_of(f, j);
    f->of[(const char *)j->site - f->site] = s;
    if (f->ends_at_once)
        share_ended(s, true);
}

static void give_back(void *ctx, struct job *j, struct share *s) {
    struct fixture *f = ctx;
    f->given_back[f->returns++] = number_of(f, j);
    share_ended(s, true);
}

static int begin(void **state) {
    struct fixture *f = mem_zalloc(sizeof(*f));
    f->loop = loop_new();
    f->shares = shares_new(f->loop, start, give_back, f);
    *state = f;
    return 0;
}

static int finish(void **state) {
    struct fixture *f = *state;
    shares_free(&f->shares);
    loop_free(&f->loop);
    free(f);
    return 0;
}

static void put(struct fixture *f, int from, int to, int site, unsigned share) {
    for (int i = from; i < to; i++) {
        f->job[i] =
            (struct job){.site = &f->site[site], .share = share, .expires_mono_ms = INT64_MAX};
        shares_put(f->shares, &f->job[i]);
    }
}

static void end(struct fixture *f, int site, int count, bool is_well) {
    while (count-- > 0)
        share_ended(f->of[site], is_well);
}

static void assert_in_order(const int *numbers, int count, int first) {
    for (int i = 0; i < count; i++)
        assert_int_equal(numbers[i], first + i);
}

static void what_is_over_the_share_begins_when_another_ends_in_order(void **state) {
    struct fixture *f = *state;
    put(f, 0, 8, 0, SHARE);
    assert_int_equal(f->starts, SHARE);
    end(f, 0, 2, true);
    assert_int_equal(f->starts, SHARE + 2);
    end(f, 0, 6, true);
    assert_int_equal(f->starts, 8);
    assert_in_order(f->started, 8, 0);
    assert_int_equal(f->returns, 0);
}

static void a_job_without_a_share_waits_for_nobody(void **state) {
    struct fixture *f = *state;
    put(f, 0, 5, 0, SHARE);
    put(f, 5, 10, 0, 0);
    assert_int_equal(f->starts, SHARE + 5);
    end(f, 0, 5, true); /* so many are over the share: nobody begins */
    assert_int_equal(f->starts, SHARE + 5);
    end(f, 0, 5, true);
    assert_int_equal(f->starts, 10);
}

static void another_site_has_a_share_of_its_own(void **state) {
    struct fixture *f = *state;
    put(f, 0, 5, 0, SHARE);
    put(f, 5, 10, 1, SHARE);
    assert_int_equal(f->starts, 2 * SHARE);
    end(f, 1, SHARE, false);
    assert_in_order(f->given_back, f->returns, 5 + SHARE);
    assert_int_equal(f->returns, 2);
    end(f, 0, 5, true);
    assert_int_equal(f->starts, 5 + SHARE);
}

static void a_larger_share_lets_more_begin(void **state) {
    struct fixture *f = *state;
    put(f, 0, 4, 0, 2);
    assert_int_equal(f->starts, 2);
    put(f, 4, 6, 0, 4); /* behind those that are here */
    assert_int_equal(f->starts, 2);
    end(f, 0, 2, true);
    assert_int_equal(f->starts, 4);
    put(f, 6, 7, 0, 4);
    assert_int_equal(f->starts, 5);
    end(f, 0, 5, true);
    assert_in_order(f->started, 7, 0);
}

static void after_one_that_did_not_get_through_all_that_is_held_goes_back(void **state) {
    struct fixture *f = *state;
    put(f, 0, 10, 0, SHARE);
    end(f, 0, 1, false);
    assert_int_equal(f->returns, 10 - SHARE);
    assert_in_order(f->given_back, f->returns, SHARE);
    assert_int_equal(f->starts, SHARE);
    put(f, 10, 12, 0, SHARE); /* what comes later has a chance */
    assert_int_equal(f->starts, SHARE + 1);
    end(f, 0, SHARE + 1, true);
    assert_int_equal(f->starts, SHARE + 2);
    assert_int_equal(f->returns, 10 - SHARE);
}

static void what_waits_for_sessions_that_hang_goes_back(void **state) {
    struct fixture *f = *state;
    put(f, 0, 10, 0, SHARE);
    while (f->returns < 10 - SHARE)
        loop_dispatch_once(f->loop, -1);
    assert_in_order(f->given_back, f->returns, SHARE);
    end(f, 0, SHARE, true);
    assert_int_equal(f->starts, SHARE);
}

/* Jobs that wait for nobody come and go; the sessions that are waited for hang. */
static void what_is_held_too_long_goes_back_however_others_move(void **state) {
    struct fixture *f = *state;
    put(f, 0, SHARE + 2, 0, SHARE);
    for (int i = 0; i < 1000 && f->returns < 2; i++) {
        put(f, 10, 11, 0, 0);
        end(f, 0, 1, true);
        f->starts = SHARE;
        loop_dispatch_once(f->loop, 10);
    }
    assert_int_equal(f->returns, 2);
    assert_in_order(f->given_back, f->returns, SHARE);
    end(f, 0, SHARE, true);
    assert_int_equal(f->starts, SHARE);
}

static void what_expired_while_it_was_held_goes_back_and_the_next_one_begins(void **state) {
    struct fixture *f = *state;
    put(f, 0, SHARE + 3, 0, SHARE);
    f->job[SHARE].expires_mono_ms = f->job[SHARE + 1].expires_mono_ms = clock_mono_ms();
    end(f, 0, 1, true);
    assert_int_equal(f->returns, 2);
    assert_in_order(f->given_back, f->returns, SHARE);
    assert_int_equal(f->starts, SHARE + 1);
    assert_int_equal(f->started[SHARE], SHARE + 2);
    end(f, 0, SHARE, true);
}

static void what_expired_on_its_way_goes_back(void **state) {
    struct fixture *f = *state;
    f->job[0] = (struct job){.site = &f->site[0], .expires_mono_ms = clock_mono_ms()};
    shares_put(f->shares, &f->job[0]);
    assert_int_equal(f->returns, 1);
    assert_int_equal(f->starts, 0);
}

static void an_end_in_an_end_leaves_nothing_held(void **state) {
    struct fixture *f = *state;
    put(f, 0, JOBS, 0, SHARE);
    f->ends_at_once = true;
    end(f, 0, SHARE, true);
    assert_int_equal(f->starts, JOBS);
    assert_int_equal(f->returns, 0);
}

int main(void) {
#define T(f) cmocka_unit_test_setup_teardown(f, begin, finish)
    const struct CMUnitTest tests[] = {
        T(what_is_over_the_share_begins_when_another_ends_in_order),
        T(a_job_without_a_share_waits_for_nobody),
        T(another_site_has_a_share_of_its_own),
        T(a_larger_share_lets_more_begin),
        T(after_one_that_did_not_get_through_all_that_is_held_goes_back),
        T(what_waits_for_sessions_that_hang_goes_back),
        T(what_is_held_too_long_goes_back_however_others_move),
        T(what_expired_while_it_was_held_goes_back_and_the_next_one_begins),
        T(what_expired_on_its_way_goes_back),
        T(an_end_in_an_end_leaves_nothing_held),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
