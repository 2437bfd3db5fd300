#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <semaphore.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "api/env.h"
#include "server/base/clock.h"
#include "tests/unit/patience.h"

enum { WAIT_MS = 20 * 1000 };

/* A piece of work that ends when it is told to. */
struct piece {
    struct work work;
    struct world *w;
    bool is_done;
};

struct world {
    struct workers *workers;
    struct mailbox *box;
    sem_t go;
    atomic_int running, most; /* long ones */
    struct piece piece[WORKS_LONG_MOST + 8];
};

static void run_long(struct work *work) {
    struct world *w = CONTAINER_OF(work, struct piece, work)->w;
    int running = atomic_fetch_add(&w->running, 1) + 1;
    if (running > atomic_load(&w->most))
        atomic_store(&w->most, running);
    while (sem_wait(&w->go) != 0)
        ;
    atomic_fetch_sub(&w->running, 1);
}

static void run_short(struct work *work) {
    (void)work;
}

static void done(struct work *work) {
    CONTAINER_OF(work, struct piece, work)->is_done = true;
}

static bool post(struct world *w, size_t i, bool is_long) {
    w->piece[i] = (struct piece){.w = w,
                                 .work = {.run = is_long ? run_long : run_short,
                                          .reply_to = w->box,
                                          .done = done,
                                          .is_long = is_long}};
    return workers_post(w->workers, &w->piece[i].work);
}

static bool wait_done(struct world *w, size_t i) {
    int64_t until = clock_mono_ms() + patience_ms(WAIT_MS);
    while (!w->piece[i].is_done && clock_mono_ms() < until)
        mailbox_wait(w->box, 100);
    return w->piece[i].is_done;
}

static int set_up(void **state) {
    struct world *w = mem_zalloc(sizeof(*w));
    assert_int_equal(sem_init(&w->go, 0, 0), 0);
    w->box = mailbox_new();
    w->workers = workers_start();
    *state = w;
    return 0;
}

static int tear_down(void **state) {
    struct world *w = *state;
    for (size_t i = 0; i < sizeof(w->piece) / sizeof(w->piece[0]); i++)
        sem_post(&w->go);
    workers_stop(&w->workers);
    while (mailbox_wait(w->box, 0) > 0)
        ;
    mailbox_free(&w->box);
    sem_destroy(&w->go);
    free(w);
    return 0;
}

static void test_T16_keys_that_are_made_leave_a_worker_to_the_others(void **state) {
    struct world *w = *state;
    enum { LONG = 2 * WORKERS };
    for (size_t i = 0; i < LONG; i++)
        assert_true(post(w, i, true));
    assert_true(post(w, LONG, false));
    assert_true(wait_done(w, LONG));
    for (size_t i = 0; i < LONG; i++)
        sem_post(&w->go);
    for (size_t i = 0; i < LONG; i++)
        assert_true(wait_done(w, i));
    assert_int_equal(atomic_load(&w->most), 1);
}

static void test_T16_few_keys_wait_to_be_made(void **state) {
    struct world *w = *state;
    size_t taken = 0;
    while (taken < sizeof(w->piece) / sizeof(w->piece[0]) && post(w, taken, true))
        taken++;
    /* one may be under way by now */
    assert_in_range(taken, WORKS_LONG_MOST, WORKS_LONG_MOST + 1);
    assert_true(post(w, taken, false));
    for (size_t i = 0; i < taken; i++)
        sem_post(&w->go);
    for (size_t i = 0; i <= taken; i++)
        assert_true(wait_done(w, i));
    assert_true(post(w, taken + 1, true)); /* there is room again */
    sem_post(&w->go);
    assert_true(wait_done(w, taken + 1));
}

#define IN_WORLD(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)

int main(void) {
    const struct CMUnitTest tests[] = {
        IN_WORLD(test_T16_keys_that_are_made_leave_a_worker_to_the_others),
        IN_WORLD(test_T16_few_keys_wait_to_be_made),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
