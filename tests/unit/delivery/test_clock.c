/* The wall clock is set while mail waits, repeats a second, or goes on while the machine sleeps. */
#include "tests/unit/delivery/world.h"

#include <stdatomic.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

/* Stands for libc's: everything in this program sees the wall clock moved, by what it was set and
 * by what the machine slept; the time since boot by the latter; no other clock. */
static atomic_llong shift_s, slept_s;
int clock_gettime(clockid_t which, struct timespec *now) {
    int failed = (int)syscall(SYS_clock_gettime, which, now);
    if (which == CLOCK_REALTIME)
        now->tv_sec += (time_t)atomic_load(&shift_s);
    if (which == CLOCK_REALTIME || which == CLOCK_BOOTTIME)
        now->tv_sec += (time_t)atomic_load(&slept_s);
    return failed;
}

#define HOUR_S 3600LL
#define TEN_YEARS_S (10 * 8766 * HOUR_S)

static int clock_setup(void **state) {
    atomic_store(&shift_s, 0);
    atomic_store(&slept_s, 0);
    return setup(state);
}

static void keep_house(struct world *w) {
    w->housekeeping =
        housekeeping_start(&(struct housekeeping_options){.store = w->store,
                                                          .expire_every_ms = 10,
                                                          .retain_every_ms = 10,
                                                          .content_keep_ms = HOUR_S * 1000 / 2,
                                                          .events_keep_ms = HOUR_S * 1000 / 2,
                                                          .retry_most_ms = 60000,
                                                          .expires_most_ms = 5 * 86400000LL});
}

/* Sweeps are over when what can be seen of them was seen: an expiry that is right. */
static void await_sweeps(struct world *w) {
    struct id id =
        submit_with(w, "soon@example.net",
                    &(struct message_row){.expires_wall_ms = clock_wall_ms() - TEN_YEARS_S * 2000});
    await_state(w, id, RECIPIENT_EXPIRED, 0);
}

/* One that waits for its second attempt, and one that comes after the step. */
static void over_a_step(struct world *w, long long step_s) {
    log_setup(LOG_ERROR, LOG_FORMAT_TEXT);
    w->o.retry_ms[0] = 20000;
    w->sink->later_times = 1;
    start(w);
    keep_house(w);
    struct id id = submit(w, "later@example.net");
    await_state(w, id, RECIPIENT_QUEUED, 1);
    atomic_store(&shift_s, step_s);
    submit(w, "ok@example.net");
    await_completed(w, 2);
    assert_int_equal(sink_get(&w->sink->messages), 2);
}

static void mail_arrives_over_an_hour_ahead(void **state) {
    expect_log("the clock was set");
    over_a_step(*state, HOUR_S);
}

static void mail_arrives_over_an_hour_back(void **state) {
    expect_log("the clock was set");
    over_a_step(*state, -HOUR_S);
}

static void mail_arrives_over_ten_years_ahead(void **state) {
    expect_log("the clock was set");
    over_a_step(*state, TEN_YEARS_S);
}

static void mail_arrives_over_ten_years_back(void **state) {
    expect_log("the clock was set");
    over_a_step(*state, -TEN_YEARS_S);
}

static void a_step_ahead_and_back_expires_and_removes_nothing(void **state) {
    expect_log("the clock was set");
    struct world *w = *state;
    log_setup(LOG_ERROR, LOG_FORMAT_TEXT);
    start(w);
    struct id done = submit(w, "ok@example.net");
    await_completed(w, 1);
    delivery_stop(&w->delivery);
    struct id waits = submit(w, "ok@example.net");
    keep_house(w);
    await_sweeps(w);
    static const long long ahead_s[] = {2 * HOUR_S, TEN_YEARS_S};
    for (size_t i = 0; i < 2; i++) {
        atomic_store(&shift_s, ahead_s[i]);
        await_sweeps(w);
        await_sweeps(w);
        assert_int_equal(recipient(w, waits, 0).state, RECIPIENT_QUEUED);
        struct arena *a = NULL;
        assert_true(message(w, done, &a).has_content);
        arena_free(&a);
        atomic_store(&shift_s, 0);
        await_sweeps(w);
    }
    start(w);
    await_state(w, waits, RECIPIENT_DELIVERED, 1);
}

static bool was_noticed(struct world *w, void *steps) {
    (void)w;
    return logged("the clock was set") == *(unsigned *)steps;
}

/* Also one that is put right before the next sweep: what was planned in between is to be mended. */
static void a_step_between_two_sweeps_is_noticed(void **state) {
    expect_log("the clock was set");
    struct world *w = *state;
    log_setup(LOG_ERROR, LOG_FORMAT_TEXT);
    struct id id = submit_with(w, "soon@example.net", &(struct message_row){.expires_wall_ms = 1});
    w->housekeeping = housekeeping_start(&(struct housekeeping_options){
        .store = w->store, .expire_every_ms = HOUR_S * 1000, .retain_every_ms = HOUR_S * 1000});
    await_state(w, id, RECIPIENT_EXPIRED, 0); /* the first sweep is over */
    unsigned steps = 1;
    atomic_store(&shift_s, HOUR_S);
    assert_true(wait_until(w, was_noticed, &steps));
    steps = 2;
    atomic_store(&shift_s, 0);
    assert_true(wait_until(w, was_noticed, &steps));
}

/* Its second attempt is due an hour later; by no clock that stood still meanwhile does that hour
 * pass in this test. Nothing is logged: a sleep is no jump. */
static void what_was_due_while_the_machine_slept_is_sent(void **state) {
    struct world *w = *state;
    w->o.retry_ms[0] = HOUR_S * 1000;
    w->sink->later_times = 1;
    start(w);
    struct id id =
        submit_with(w, "later@example.net",
                    &(struct message_row){.expires_wall_ms = clock_wall_ms() + 10 * HOUR_S * 1000});
    await_state(w, id, RECIPIENT_QUEUED, 1);
    atomic_store(&slept_s, 3 * HOUR_S);
    submit(w, "ok@example.net");
    await_completed(w, 2);
    await_state(w, id, RECIPIENT_DELIVERED, 2);
    assert_int_equal(sink_get(&w->sink->messages), 2);
}

static void what_ended_while_the_machine_slept_expires(void **state) {
    struct world *w = *state;
    w->o.retry_ms[0] = 20000;
    w->sink->later_times = 1000;
    start(w);
    keep_house(w);
    struct id short_ = submit(w, "later@example.net");
    struct id long_ =
        submit_with(w, "later@example.net",
                    &(struct message_row){.expires_wall_ms = clock_wall_ms() + 24 * HOUR_S * 1000});
    await_state(w, short_, RECIPIENT_QUEUED, 1);
    await_state(w, long_, RECIPIENT_QUEUED, 1);
    atomic_store(&slept_s, 3 * HOUR_S);
    await_state(w, short_, RECIPIENT_EXPIRED, 1);
    assert_int_not_equal(recipient(w, long_, 0).state, RECIPIENT_EXPIRED); /* it is due, too */
}

/* As at a leap second. Nothing is logged. */
static void mail_arrives_once_over_a_second_that_comes_twice(void **state) {
    struct world *w = *state;
    w->o.retry_ms[0] = 2000;
    w->sink->later_times = 1;
    start(w);
    keep_house(w);
    struct id id = submit(w, "later@example.net");
    await_state(w, id, RECIPIENT_QUEUED, 1);
    int64_t before_wall_ms = clock_wall_ms();
    atomic_store(&shift_s, -1);
    assert_true(clock_wall_ms() < before_wall_ms);
    struct id within = submit(w, "ok@example.net");
    await_completed(w, 2);
    assert_int_equal(recipient(w, id, 0).attempts, 2);
    assert_int_equal(recipient(w, within, 0).attempts, 1);
    assert_int_equal(sink_get(&w->sink->messages), 2);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, clock_setup, teardown)

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(mail_arrives_over_an_hour_ahead),
        TEST(mail_arrives_over_an_hour_back),
        TEST(mail_arrives_over_ten_years_ahead),
        TEST(mail_arrives_over_ten_years_back),
        TEST(a_step_ahead_and_back_expires_and_removes_nothing),
        TEST(a_step_between_two_sweeps_is_noticed),
        TEST(what_was_due_while_the_machine_slept_is_sent),
        TEST(what_ended_while_the_machine_slept_expires),
        TEST(mail_arrives_once_over_a_second_that_comes_twice),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
