#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "server/base/clock.h"
#include "server/net/loop.h"

struct mark {
    struct note note;
    struct loop *loop;
    int *counter;
    bool on_loop;
};

static void mark_run(struct note *n) {
    struct mark *m = CONTAINER_OF(n, struct mark, note);
    (*m->counter)++;
    m->on_loop = loop_is_current(m->loop);
}

static void notes_sent_before_the_stop_are_run_on_the_loop(void **state) {
    (void)state;
    enum { N = 1000 }; /* more than one turn's share */
    static struct mark marks[N];
    int counter = 0;
    struct loop *l = loop_start("test");
    assert_false(loop_is_current(l));
    for (int i = 0; i < N; i++) {
        marks[i] = (struct mark){.note.run = mark_run, .loop = l, .counter = &counter};
        mailbox_send(loop_mailbox(l), &marks[i].note);
    }
    loop_stop(&l);
    assert_null(l);
    assert_int_equal(counter, N);
    for (int i = 0; i < N; i++)
        assert_true(marks[i].on_loop);
}

static void count(void *arg) {
    (*(int *)arg)++;
}

static void a_timer_fires_once_and_not_early(void **state) {
    (void)state;
    struct loop *l = loop_new();
    int fired = 0, cancelled = 0;
    struct timer *a = timer_new(l, count, &fired), *b = timer_new(l, count, &cancelled);
    int64_t start_mono_ms = clock_mono_ms();
    timer_set(a, 5000);
    timer_set(a, 30); /* moves it */
    timer_set(b, 10);
    timer_cancel(b);
    while (!fired && clock_mono_ms() < start_mono_ms + 4000)
        loop_dispatch_once(l, 100);
    /* the loop's clock is coarse: one tick */
    assert_true(clock_mono_ms() - start_mono_ms >= 20);
    loop_dispatch_once(l, 60);
    assert_int_equal(fired, 1);
    assert_int_equal(cancelled, 0);
    timer_free(&a);
    timer_free(&b);
    loop_free(&l);
}

struct suicide {
    struct timer *t;
    int fired;
};

static void free_self(void *arg) {
    struct suicide *s = arg;
    s->fired++;
    timer_free(&s->t);
}

static void a_timer_may_free_itself(void **state) {
    (void)state;
    struct loop *l = loop_new();
    struct suicide s = {0};
    s.t = timer_new(l, free_self, &s);
    timer_set(s.t, 0);
    for (int i = 0; i < 10 && !s.fired; i++)
        loop_dispatch_once(l, 100);
    assert_int_equal(s.fired, 1);
    assert_null(s.t);
    loop_free(&l);
}

static void break_it(void *arg) {
    loop_break(arg);
}

static void dispatch_ends_at_break(void **state) {
    (void)state;
    struct loop *l = loop_new();
    struct timer *t = timer_new(l, break_it, l);
    timer_set(t, 1);
    loop_dispatch(l);
    assert_true(loop_is_current(l));
    timer_free(&t);
    loop_free(&l);
}

static void one_turn_waits_no_longer_than_told(void **state) {
    (void)state;
    struct loop *l = loop_new();
    int64_t start_mono_ms = clock_mono_ms();
    loop_dispatch_once(l, 0);
    loop_dispatch_once(l, 20);
    assert_in_range(clock_mono_ms() - start_mono_ms, 10, 3000);
    loop_free(&l);
}

struct held {
    struct loop_hold hold;
    struct loop *loop;
    struct timer *t;
    int asked, at_once;
};

static void let_go(void *arg) {
    struct held *h = arg;
    timer_free(&h->t);
    loop_unhold(h->loop, &h->hold);
}

static void on_stop(struct loop_hold *lh, bool at_once) {
    struct held *h = CONTAINER_OF(lh, struct held, hold);
    h->asked++;
    h->at_once += at_once;
    if (at_once)
        let_go(h);
    else
        timer_set(h->t, 30);
}

struct hold_note {
    struct note note;
    struct held *h;
};

static void hold_run(struct note *n) {
    struct held *h = CONTAINER_OF(n, struct hold_note, note)->h;
    h->t = timer_new(h->loop, let_go, h);
    h->hold.on_stop = on_stop;
    loop_hold(h->loop, &h->hold);
}

static void a_stop_waits_for_what_holds_the_loop(void **state) {
    (void)state;
    struct loop *l = loop_start("test");
    struct held h = {.loop = l};
    struct hold_note n = {.note.run = hold_run, .h = &h};
    mailbox_send(loop_mailbox(l), &n.note);
    loop_stop(&l);
    assert_int_equal(h.asked, 1);
    assert_int_equal(h.at_once, 0);
    assert_null(h.t);
}

static void a_loop_that_is_freed_waits_for_nothing(void **state) {
    (void)state;
    struct loop *l = loop_new();
    struct held h = {.loop = l};
    struct hold_note n = {.note.run = hold_run, .h = &h};
    hold_run(&n.note);
    loop_free(&l);
    assert_int_equal(h.at_once, 1);
    assert_null(h.t);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(notes_sent_before_the_stop_are_run_on_the_loop),
        cmocka_unit_test(a_timer_fires_once_and_not_early),
        cmocka_unit_test(a_timer_may_free_itself),
        cmocka_unit_test(dispatch_ends_at_break),
        cmocka_unit_test(one_turn_waits_no_longer_than_told),
        cmocka_unit_test(a_stop_waits_for_what_holds_the_loop),
        cmocka_unit_test(a_loop_that_is_freed_waits_for_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
