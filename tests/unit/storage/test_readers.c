/* The reading threads, over a backend that reads as long as the test says, and the gate that keeps
 * them out for a moment. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <semaphore.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "server/base/thread.h"
#include "storage/store_ops.h"

static struct {
    sem_t entered, go_on;
    atomic_int opened;
    int open_most; /* from then on there is no handle */
} f;

struct backend_reader {
    int number;
};

static enum err fake_open(const struct store_options *o, struct backend *b,
                          struct backend_reader **out, struct errinfo *info) {
    (void)o;
    (void)b;
    if (f.opened == f.open_most)
        return err_set(info, ERR_UNAVAILABLE, "store", "no more handles");
    *out = mem_zalloc(sizeof(**out));
    (*out)->number = ++f.opened;
    return OK;
}
static void fake_close(struct backend_reader **rp) {
    f.opened -= *rp != NULL;
    free(*rp);
    *rp = NULL;
}
static enum err fake_read(struct backend_reader *r, struct store_call *call) {
    (void)call;
    assert_non_null(r);
    sem_post(&f.entered);
    sem_wait(&f.go_on);
    return OK;
}

static const struct store_ops fake_ops = {
    .name = "fake",
    .reader_open = fake_open,
    .reader_close = fake_close,
    .read = {[STORE_TOTALS] = fake_read},
};

struct world {
    struct gate *gate;
    struct reader_pool *pool;
    struct mailbox *box;
    size_t done;
};

static int setup(void **state) {
    struct world *w = *state = mem_zalloc(sizeof(*w));
    sem_init(&f.entered, 0, 0);
    sem_init(&f.go_on, 0, 0);
    f.opened = 0;
    f.open_most = 16;
    w->gate = gate_new();
    w->box = mailbox_new();
    return 0;
}

static int teardown(void **state) {
    struct world *w = *state;
    reader_pool_stop(&w->pool);
    assert_int_equal(f.opened, 0);
    gate_free(&w->gate);
    gate_free(&w->gate); /* of nothing: nothing */
    mailbox_free(&w->box);
    sem_destroy(&f.entered);
    sem_destroy(&f.go_on);
    free(w);
    return 0;
}

static void done(struct store_call *call) {
    struct world *w = call->ctx;
    assert_int_equal(call->err, OK);
    w->done++;
}

static void post(struct world *w, struct store_totals *q) {
    q->call = (struct store_call){.verb = STORE_TOTALS, .reply_to = w->box, .done = done, .ctx = w};
    reader_pool_post(w->pool, &q->call);
}

static void wait_done(struct world *w, size_t count) {
    while (w->done < count)
        mailbox_wait(w->box, -1);
}

static void start(struct world *w, size_t readers) {
    struct errinfo info;
    assert_int_equal(reader_pool_start(&fake_ops, &(struct store_options){0}, NULL, w->gate,
                                       readers, &w->pool, &info),
                     OK);
}

static void a_gate_that_is_closed_lets_out_and_not_in(void **state) {
    struct world *w = *state;
    struct store_totals q[2] = {0};
    start(w, 2);
    assert_true(gate_close(w->gate, 0)); /* nobody is in */
    gate_open(w->gate);
    post(w, &q[0]);
    sem_wait(&f.entered);
    assert_false(gate_close(w->gate, 0)); /* one is in, and stays */
    post(w, &q[1]);
    assert_false(gate_close(w->gate, 20));
    assert_int_equal(sem_trywait(&f.entered), -1); /* the second waits outside */
    sem_post(&f.go_on);
    assert_true(gate_close(w->gate, 60000)); /* the first has left, or does now */
    assert_int_equal(sem_trywait(&f.entered), -1);
    gate_open(w->gate);
    sem_wait(&f.entered);
    sem_post(&f.go_on);
    wait_done(w, 2);
}

static void leave_soon(void *arg) {
    (void)arg;
    sem_post(&f.go_on);
}

static void who_closes_the_gate_waits_for_the_last_to_leave(void **state) {
    struct world *w = *state;
    start(w, 1);
    for (int i = 0; i < 20; i++) {
        struct store_totals q = {0};
        post(w, &q);
        sem_wait(&f.entered);
        struct thread *t = thread_start("leave", leave_soon, NULL);
        assert_true(gate_close(w->gate, 60000));
        gate_open(w->gate);
        thread_join(&t);
        wait_done(w, (size_t)i + 1);
    }
}

static void a_pool_without_all_of_its_handles_is_none(void **state) {
    struct world *w = *state;
    for (int most = 0; most < 3; most++) {
        struct errinfo info = {0};
        f.open_most = most;
        assert_int_equal(reader_pool_start(&fake_ops, &(struct store_options){0}, NULL, w->gate, 3,
                                           &w->pool, &info),
                         ERR_UNAVAILABLE);
        assert_string_equal(info.text, "no more handles");
        assert_null(w->pool);
        assert_int_equal(f.opened, 0);
    }
}

static void what_waits_when_it_stops_is_read_before(void **state) {
    struct world *w = *state;
    enum { CALLS = 5 };
    struct store_totals q[CALLS] = {0};
    start(w, 1);
    for (int i = 0; i < CALLS; i++)
        post(w, &q[i]);
    for (int i = 0; i < CALLS; i++)
        sem_post(&f.go_on);
    reader_pool_stop(&w->pool);
    mailbox_wait(w->box, 0);
    assert_int_equal(w->done, CALLS);
}

int main(void) {
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(a_gate_that_is_closed_lets_out_and_not_in),
        TEST(who_closes_the_gate_waits_for_the_last_to_leave),
        TEST(a_pool_without_all_of_its_handles_is_none),
        TEST(what_waits_when_it_stops_is_read_before),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
