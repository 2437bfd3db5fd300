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
#include <time.h>

#include "server/base/thread.h"
#include "storage/store_ops.h"

static struct {
    sem_t entered, go_on;
    atomic_int opened;
    int open_most; /* from then on there is no handle */
    /* of contents */
    atomic_int begun, ended, read_shared, read_alone;
    atomic_bool is_open;         /* the snapshot */
    atomic_bool is_frozen;       /* the clock: it goes on at each content only, ... */
    atomic_llong later_ms;       /* ... so much */
    _Atomic(int64_t) forward_ms; /* how far it has gone on */
    atomic_bool goes_on;         /* a search: it rests again and again, as long as this */
} f;

int64_t __real_clock_mono_ms(void);
int64_t __wrap_clock_mono_ms(void);
int64_t __wrap_clock_mono_ms(void) {
    return f.is_frozen ? 1000 + f.forward_ms : __real_clock_mono_ms();
}

struct backend_reader {
    int number;
    void (*rest)(void *arg);
    void *rest_arg;
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

static void fake_begin(struct backend_reader *r) {
    (void)r;
    assert_false(f.is_open);
    f.is_open = true;
    f.begun++;
}
static void fake_end(struct backend_reader *r) {
    (void)r;
    assert_true(f.is_open);
    f.is_open = false;
    f.ended++;
}
static enum err fake_content(struct backend_reader *r, struct store_call *call) {
    (void)r;
    (void)call;
    if (f.is_open)
        f.read_shared++;
    else
        f.read_alone++;
    f.forward_ms += f.later_ms;
    return OK;
}

static void fake_rests(struct backend_reader *r, void (*rest)(void *arg), void *arg) {
    assert_non_null(r);
    r->rest = rest;
    r->rest_arg = arg;
}
static enum err fake_search(struct backend_reader *r, struct store_call *call) {
    (void)call;
    sem_post(&f.entered);
    sem_wait(&f.go_on);
    while (f.goes_on)
        r->rest(r->rest_arg);
    return OK;
}

static const struct store_ops fake_ops = {
    .name = "fake",
    .reader_open = fake_open,
    .reader_close = fake_close,
    .read_begin = fake_begin,
    .read_end = fake_end,
    .reader_rests = fake_rests,
    .read = {[STORE_TOTALS] = fake_read,
             [STORE_CONTENT] = fake_content,
             [STORE_MESSAGES] = fake_search,
             [STORE_KEYS] = fake_search,
             [STORE_DOMAINS] = fake_search},
};
/* One without snapshots. */
static const struct store_ops plain_ops = {
    .name = "plain",
    .reader_open = fake_open,
    .reader_close = fake_close,
    .read = {[STORE_TOTALS] = fake_read, [STORE_CONTENT] = fake_content},
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
    f.opened = f.begun = f.ended = f.read_shared = f.read_alone = 0;
    f.later_ms = f.forward_ms = 0;
    f.is_frozen = f.goes_on = false;
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

/* What is asked for while another call is read, and by which calls. */
static void contents_that_wait_together_share_a_snapshot(void **state) {
    static const struct {
        const char *calls; /* c: a content, t: totals */
        const struct store_ops *ops;
        int64_t later_ms;
        int begun, shared, alone;
    } rows[] = {
        {"c", &fake_ops, 0, 0, 0, 1},
        {"cc", &fake_ops, 0, 1, 2, 0},
        {"cct", &fake_ops, 0, 1, 2, 0},
        {"tcc", &fake_ops, 0, 1, 2, 0},
        {"ctc", &fake_ops, 0, 0, 0, 2},
        {"cctccc", &fake_ops, 0, 2, 5, 0},
        {"ccc", &plain_ops, 0, 0, 0, 3},
        {"cccc", &fake_ops, 60000, 1, 1, 3},
        {"ccccccccccccccccccccccccccccccccccccccccc", &fake_ops, 0, -1, -1, -1},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct world *w = *state;
        struct errinfo info;
        enum { MOST = 64 };
        size_t n = strlen(rows[i].calls);
        struct store_totals first = {0}, t[MOST] = {0};
        struct store_content c[MOST] = {0};
        assert_int_equal(reader_pool_start(rows[i].ops, &(struct store_options){0}, NULL, w->gate,
                                           1, &w->pool, &info),
                         OK);
        f.is_frozen = true;
        f.later_ms = rows[i].later_ms;
        post(w, &first);
        sem_wait(&f.entered);
        for (size_t k = 0; k < n; k++) {
            if (rows[i].calls[k] == 't') {
                post(w, &t[k]);
                continue;
            }
            c[k].call = (struct store_call){
                .verb = STORE_CONTENT, .reply_to = w->box, .done = done, .ctx = w};
            reader_pool_post(w->pool, &c[k].call);
        }
        for (size_t k = 0; k <= n; k++)
            sem_post(&f.go_on);
        wait_done(w, n + 1);
        reader_pool_stop(&w->pool);
        assert_int_equal(f.begun, f.ended);
        if (rows[i].begun >= 0) {
            if (f.begun != rows[i].begun || f.read_shared != rows[i].shared ||
                f.read_alone != rows[i].alone)
                fail_msg("%s: %d snapshots, %d in them, %d alone", rows[i].calls, f.begun,
                         f.read_shared, f.read_alone);
        } else { /* more than share one */
            assert_true(f.begun > 1);
            assert_int_equal(f.read_shared + f.read_alone, n);
        }
        teardown(state);
        setup(state);
    }
}

static void post_as(struct world *w, struct store_call *call, enum store_verb verb) {
    *call = (struct store_call){.verb = verb, .reply_to = w->box, .done = done, .ctx = w};
    reader_pool_post(w->pool, call);
}

static void wait_done_soon(struct world *w, size_t count) {
    for (int i = 0; i < 100 && w->done < count; i++)
        mailbox_wait(w->box, 100);
    assert_int_equal(w->done, count);
}

static void post_search(struct world *w, struct store_messages *q) {
    q->tag = STR("welcome");
    post_as(w, &q->call, STORE_MESSAGES);
}

/* Whoever searches for long holds up who searches, too, and nobody else. */
static void searches_leave_a_reader_to_the_others(void **state) {
    struct world *w = *state;
    enum { SEARCHES = 5 };
    for (size_t readers = 2; readers < 4; readers++) {
        struct store_messages q[SEARCHES] = {0};
        struct store_content c[3] = {0};
        struct store_totals t = {0};
        w->done = 0;
        start(w, readers);
        for (int i = 0; i < SEARCHES; i++)
            post_search(w, &q[i]);
        for (size_t i = 0; i < readers - 1; i++)
            sem_wait(&f.entered);
        for (int i = 0; i < 3; i++)
            post_as(w, &c[i].call, STORE_CONTENT);
        wait_done_soon(w, 3);
        assert_int_equal(sem_trywait(&f.entered), -1); /* no further search */
        post(w, &t);
        sem_wait(&f.entered); /* this one waits for `go_on`, too */
        for (int i = 0; i <= SEARCHES; i++)
            sem_post(&f.go_on);
        wait_done_soon(w, 3 + SEARCHES + 1);
        for (size_t i = readers; i <= SEARCHES; i++)
            sem_wait(&f.entered);
        reader_pool_stop(&w->pool);
    }
}

static void wait_entered_soon(void) {
    struct timespec end;
    assert_int_equal(clock_gettime(CLOCK_REALTIME, &end), 0);
    end.tv_sec += 10;
    if (sem_timedwait(&f.entered, &end) == 0)
        return;
    for (int i = 0; i < 10; i++)
        sem_post(&f.go_on); /* so that the pool can stop */
    fail_msg("nobody reads");
}

/* What one asks for decides, not which verb it is. */
static void a_listing_without_a_filter_waits_for_no_search(void **state) {
    struct world *w = *state;
    const struct str any = STR("x");
    const struct store_messages searches[] = {
        {.state = any}, {.to = any}, {.from = any}, {.tag = any}, {.external_id = any}};
    for (size_t i = 0; i < sizeof(searches) / sizeof(searches[0]); i++) {
        struct store_messages one = searches[i], next = searches[i], plain = {.limit = 10};
        w->done = 0;
        start(w, 2);
        post_as(w, &one.call, STORE_MESSAGES);
        wait_entered_soon();
        post_as(w, &next.call, STORE_MESSAGES);
        post_as(w, &plain.call, STORE_MESSAGES);
        wait_entered_soon(); /* the listing, beside the search; the next one waits */
        assert_int_equal(sem_trywait(&f.entered), -1);
        for (int n = 0; n < 3; n++)
            sem_post(&f.go_on);
        wait_done_soon(w, 3);
        wait_entered_soon();
        reader_pool_stop(&w->pool);
    }
}

/* A page of them takes a while when there are many; who wants all wants to go by them. */
static void pages_of_keys_and_domains_hold_up_nobody_but_searches(void **state) {
    struct world *w = *state;
    struct store_keys keys = {.limit = 10}, all_keys = {0};
    struct store_domains domains = {.limit = 10}, all_domains = {0};
    struct store_content c = {0};
    start(w, 2);
    post_as(w, &keys.call, STORE_KEYS);
    wait_entered_soon();
    post_as(w, &domains.call, STORE_DOMAINS);
    post_as(w, &c.call, STORE_CONTENT);
    for (int i = 0; i < 100 && w->done < 1; i++)
        mailbox_wait(w->box, 100);
    size_t came = w->done;
    post_as(w, &all_keys.call, STORE_KEYS);
    wait_entered_soon();
    post_as(w, &all_domains.call, STORE_DOMAINS);
    for (int i = 0; i < 4; i++)
        sem_post(&f.go_on);
    wait_done_soon(w, 5);
    assert_int_equal(came, 1);
    for (int i = 0; i < 2; i++)
        wait_entered_soon();
}

static void searches_that_wait_when_it_stops_are_made_before(void **state) {
    struct world *w = *state;
    enum { SEARCHES = 4 };
    for (size_t readers = 1; readers < 4; readers++) {
        struct store_messages q[SEARCHES] = {0};
        w->done = 0;
        start(w, readers);
        for (int i = 0; i < SEARCHES; i++)
            post_search(w, &q[i]);
        for (int i = 0; i < SEARCHES; i++)
            sem_post(&f.go_on);
        reader_pool_stop(&w->pool);
        mailbox_wait(w->box, 0);
        assert_int_equal(w->done, SEARCHES);
        while (sem_trywait(&f.entered) == 0)
            ;
    }
}

/* The gate waits for a statement, not for a search. */
static void a_search_lets_the_gate_close(void **state) {
    struct world *w = *state;
    struct store_messages q = {0};
    f.goes_on = true;
    start(w, 2);
    post_search(w, &q);
    sem_post(&f.go_on);
    sem_wait(&f.entered);
    assert_true(gate_close(w->gate, 60000));
    mailbox_wait(w->box, 0);
    assert_int_equal(w->done, 0);
    gate_open(w->gate);
    f.goes_on = false;
    wait_done_soon(w, 1);
}

/* Listings may take every reader; what delivery reads does not wait for their ends. */
static void who_is_no_listing_comes_in_between_listings(void **state) {
    struct world *w = *state;
    for (size_t readers = 1; readers < 3; readers++) {
        struct store_messages q[4] = {{.limit = 10}, {.limit = 10}, {.limit = 10}, {.limit = 10}};
        struct store_content c[2] = {0};
        w->done = 0;
        f.goes_on = true;
        start(w, readers);
        for (size_t i = 0; i < readers; i++) {
            post_as(w, &q[i].call, STORE_MESSAGES);
            wait_entered_soon();
        }
        post_as(w, &q[2].call, STORE_MESSAGES); /* in front of them */
        post_as(w, &c[0].call, STORE_CONTENT);
        post_as(w, &c[1].call, STORE_CONTENT);
        post_as(w, &q[3].call, STORE_MESSAGES);
        for (int i = 0; i < 4; i++)
            sem_post(&f.go_on);
        for (int i = 0; i < 100 && w->done < 2; i++)
            mailbox_wait(w->box, 100);
        size_t came = w->done;
        f.goes_on = false; /* so that the pool can stop */
        assert_int_equal(came, 2);
        wait_done_soon(w, readers + 4);
        reader_pool_stop(&w->pool);
        while (sem_trywait(&f.entered) == 0)
            ;
    }
}

int main(void) {
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(a_gate_that_is_closed_lets_out_and_not_in),
        TEST(who_closes_the_gate_waits_for_the_last_to_leave),
        TEST(a_pool_without_all_of_its_handles_is_none),
        TEST(what_waits_when_it_stops_is_read_before),
        TEST(contents_that_wait_together_share_a_snapshot),
        TEST(searches_leave_a_reader_to_the_others),
        TEST(a_listing_without_a_filter_waits_for_no_search),
        TEST(pages_of_keys_and_domains_hold_up_nobody_but_searches),
        TEST(searches_that_wait_when_it_stops_are_made_before),
        TEST(a_search_lets_the_gate_close),
        TEST(who_is_no_listing_comes_in_between_listings),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
