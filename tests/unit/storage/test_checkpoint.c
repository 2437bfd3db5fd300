/* Who copies the log when: never two at once, and never when there is nothing to copy. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <sched.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <time.h>

#include "server/base/clock.h"
#include "storage/store_ops.h"

enum { PAGES = 100, COPIED_FROM = PAGES * 4096, TOO_LONG = 5 * COPIED_FROM };

static struct {
    sem_t begun, go_on;
    atomic_int copies_of_thread;
    atomic_bool is_in_thread, thread_reaches_end;
    /* the committer's, that is the test's */
    int64_t bytes;
    int copies;
    bool reaches_end;
    int fails_before; /* so many times before it does */
    bool can_open;
} f;

static enum err fake_open(const struct store_options *o, struct backend *b,
                          struct backend_reader **out, struct errinfo *info) {
    (void)o;
    (void)b;
    *out = NULL;
    return f.can_open ? OK : err_set(info, ERR_UNAVAILABLE, "store", "no handle");
}

static void fake_close(struct backend_reader **rp) {
    (void)rp;
}

static bool fake_reader_checkpoint(struct backend_reader *r) {
    (void)r;
    f.is_in_thread = true;
    f.copies_of_thread++;
    sem_post(&f.begun);
    sem_wait(&f.go_on);
    f.is_in_thread = false;
    return f.thread_reaches_end;
}

static bool fake_checkpoint(struct backend *b) {
    (void)b;
    assert_false(f.is_in_thread);
    f.copies++;
    return f.reaches_end && f.fails_before-- <= 0;
}

static int64_t fake_bytes(const struct backend *b) {
    (void)b;
    return f.bytes;
}

static const struct store_ops fake_ops = {
    .wal_bytes = fake_bytes,
    .checkpoint = fake_checkpoint,
    .reader_open = fake_open,
    .reader_close = fake_close,
    .reader_checkpoint = fake_reader_checkpoint,
};

struct world {
    struct gate *gate;
    struct checkpoint *c;
};

static int setup(void **state) {
    static struct world w;
    memset(&f, 0, sizeof(f));
    sem_init(&f.begun, 0, 0);
    sem_init(&f.go_on, 0, 0);
    f.can_open = f.reaches_end = f.thread_reaches_end = true;
    w.gate = gate_new();
    struct errinfo info;
    if (checkpoint_start(&fake_ops, &(struct store_options){.checkpoint_pages = PAGES}, NULL,
                         w.gate, &w.c, &info) != OK)
        return -1;
    *state = &w;
    return 0;
}

static int teardown(void **state) {
    struct world *w = *state;
    for (int i = 0; i < 10; i++)
        sem_post(&f.go_on);
    checkpoint_stop(&w->c);
    gate_free(&w->gate);
    sem_destroy(&f.begun);
    sem_destroy(&f.go_on);
    return 0;
}

static void commit(struct world *w, int64_t bytes) {
    f.bytes = bytes;
    checkpoint_after_commit(w->c, NULL);
}

/* The thread was let go and rests soon: commits of the same length, until the committer copies. */
static void commit_until_copied(struct world *w, int64_t bytes) {
    int before = f.copies;
    int64_t end_mono_ms = clock_mono_ms() + 60000;
    while (f.copies == before && clock_mono_ms() < end_mono_ms) {
        sched_yield();
        commit(w, bytes);
    }
    assert_int_equal(f.copies, before + 1);
}

/* The thread has time to begin, and does not. */
static void assert_none_begins(void) {
    struct timespec end;
    clock_gettime(CLOCK_REALTIME, &end);
    end.tv_sec += 1;
    assert_int_equal(sem_timedwait(&f.begun, &end), -1);
}

static void a_short_log_is_left_alone(void **state) {
    struct world *w = *state;
    commit(w, COPIED_FROM - 1);
    commit(w, 0);
    assert_none_begins();
    assert_int_equal(f.copies_of_thread, 0);
    assert_int_equal(f.copies, 0);
}

static void while_the_thread_copies_the_committer_does_not(void **state) {
    struct world *w = *state;
    commit(w, COPIED_FROM);
    sem_wait(&f.begun);
    for (int i = 1; i < 10; i++)
        commit(w, COPIED_FROM + i);
    assert_int_equal(f.copies, 0);
    sem_post(&f.go_on);
    commit_until_copied(w, COPIED_FROM + 10);
    assert_int_equal(f.copies_of_thread, 1); /* what came meanwhile set it to work no second time */
}

static void a_log_that_is_copied_whole_is_not_copied_again_before_a_commit(void **state) {
    struct world *w = *state;
    commit(w, COPIED_FROM);
    sem_wait(&f.begun);
    sem_post(&f.go_on);
    commit_until_copied(w, COPIED_FROM);
    for (int i = 0; i < 10; i++)
        commit(w, COPIED_FROM); /* transactions that wrote nothing, or failed */
    assert_none_begins();
    assert_int_equal(f.copies_of_thread, 1);
    assert_int_equal(f.copies, 1);
    commit(w, COPIED_FROM + 1);
    sem_wait(&f.begun);
    assert_int_equal(f.copies_of_thread, 2);
}

static void what_the_thread_did_not_finish_it_goes_on_with_at_the_next_commit(void **state) {
    struct world *w = *state;
    f.thread_reaches_end = false;
    commit(w, COPIED_FROM);
    sem_wait(&f.begun);
    sem_post(&f.go_on);
    int64_t end_mono_ms = clock_mono_ms() + 60000;
    while (f.copies_of_thread < 2 && clock_mono_ms() < end_mono_ms) {
        sched_yield();
        commit(w, COPIED_FROM + 1);
    }
    assert_int_equal(f.copies_of_thread, 2);
    assert_int_equal(f.copies, 0);
}

static void what_the_committer_did_not_finish_the_thread_goes_on_with(void **state) {
    struct world *w = *state;
    commit(w, COPIED_FROM);
    sem_wait(&f.begun);
    sem_post(&f.go_on);
    f.reaches_end = false;
    commit_until_copied(w, COPIED_FROM);
    commit(w, COPIED_FROM);
    sem_wait(&f.begun);
    assert_int_equal(f.copies_of_thread, 2);
}

static void a_log_that_is_too_long_is_copied_when_the_thread_rests(void **state) {
    struct world *w = *state;
    f.fails_before = 2; /* a reader was still in it */
    commit(w, TOO_LONG);
    assert_int_equal(f.copies, 3);
    assert_int_equal(f.copies_of_thread, 0);
    assert_true(gate_close(w->gate, 0)); /* it was opened again */
    gate_open(w->gate);
    commit(w, TOO_LONG + 1);
    assert_int_equal(f.copies, 3); /* not with each commit */
    sem_wait(&f.begun);
}

static void beside_a_thread_that_copies_for_long_it_waits_in_vain(void **state) {
    struct world *w = *state;
    commit(w, COPIED_FROM);
    sem_wait(&f.begun);
    commit(w, TOO_LONG);
    assert_int_equal(f.copies, 0);
    commit(w, TOO_LONG + COPIED_FROM / 4 - 1);
    assert_int_equal(f.copies, 0);
    sem_post(&f.go_on);
    int64_t end_mono_ms = clock_mono_ms() + 60000;
    while (f.is_in_thread && clock_mono_ms() < end_mono_ms)
        sched_yield();
    commit(w, TOO_LONG + COPIED_FROM / 4); /* a little later it is tried again */
    assert_int_equal(f.copies, 1);
    commit(w, COPIED_FROM - 1); /* it began anew: from here on all is as in the beginning */
}

static void without_a_handle_it_does_not_start(void **state) {
    (void)state;
    f.can_open = false;
    struct checkpoint *c = NULL;
    struct errinfo info;
    assert_int_equal(checkpoint_start(&fake_ops, &(struct store_options){0}, NULL, NULL, &c, &info),
                     ERR_UNAVAILABLE);
    checkpoint_stop(&c); /* of nothing: nothing */
}

int main(void) {
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(a_short_log_is_left_alone),
        T(while_the_thread_copies_the_committer_does_not),
        T(a_log_that_is_copied_whole_is_not_copied_again_before_a_commit),
        T(what_the_thread_did_not_finish_it_goes_on_with_at_the_next_commit),
        T(what_the_committer_did_not_finish_the_thread_goes_on_with),
        T(a_log_that_is_too_long_is_copied_when_the_thread_rests),
        T(beside_a_thread_that_copies_for_long_it_waits_in_vain),
        T(without_a_handle_it_does_not_start),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
