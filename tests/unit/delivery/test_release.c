/* What was claimed and goes back unsent keeps its place in the queue. */
#include "tests/unit/delivery/world.h"

#include "server/delivery/scheduler_state.h"

enum { MESSAGES = 120 };

static void submit_numbered(struct world *w, int count) {
    for (int i = 0; i < count; i++) {
        char to[64];
        snprintf(to, sizeof(to), "ok%d@example.net", i);
        submit(w, to);
    }
}

/* Nobody goes to the end. Contents are read by two threads, so neighbours may change places. */
static void assert_in_order(const struct sink *s, int count) {
    int last = 0;
    for (int i = 0; i < count; i++) {
        if (s->number[i] > last)
            last = s->number[i];
        if (s->number[i] < last - MESSAGES / 2)
            fail_msg("%d came after %d", s->number[i], last);
    }
}

static void pass_a_millisecond(struct world *w) {
    int64_t now_wall_ms = clock_wall_ms();
    while (clock_wall_ms() <= now_wall_ms)
        mailbox_wait(w->box, 1);
}

/* The only session hangs, and the next message is claimed already. */
static void what_a_stop_releases_is_due_as_it_was(void **state) {
    expect_log("sessions are aborted");
    struct world *w = *state;
    w->route.concurrency = 1;
    start(w);
    submit(w, "hold@example.net");
    await_counter(w, &w->sink->held, 1);
    struct id id = submit(w, "ok@example.net");
    int64_t due_wall_ms = recipient(w, id, 0).due_wall_ms;
    await_state(w, id, RECIPIENT_SENDING, 0);
    pass_a_millisecond(w);
    delivery_stop(&w->delivery);
    assert_int_equal(recipient(w, id, 0).state, RECIPIENT_QUEUED);
    assert_int_equal(recipient(w, id, 0).due_wall_ms, due_wall_ms);
}

/* All sessions with the old server hang; behind them wait those that are claimed, and the others.
 */
static void a_reload_keeps_the_order_of_a_queue(void **state) {
    expect_log("sessions are aborted");
    struct world *w = *state;
    enum { SESSIONS = 3 };
    struct sink *hung = start_hung(w, SESSIONS);
    submit_numbered(w, MESSAGES);
    await_counter(w, &hung->held, SESSIONS);
    pass_a_millisecond(w);
    reload_to_sink(w, 1); /* of several sessions each has an order of its own */
    await_completed(w, MESSAGES - SESSIONS);
    assert_in_order(w->sink, MESSAGES - SESSIONS);
    delivery_stop(&w->delivery);
    sink_free(&hung);
}

struct memory_range {
    size_t least, most;
};

static bool is_in_memory(struct world *w, void *arg) {
    const struct memory_range *r = arg;
    size_t n = delivery_status(w->delivery).in_memory;
    return n >= r->least && n <= r->most;
}

/* The only session hangs, one is claimed, two wait, and one comes that is due for longer. */
static void what_comes_again_goes_before_what_was_due_later(void **state) {
    struct world *w = *state;
    static const int order[] = {1, 4, 2, 3};
    w->o.retry_ms[0] = 60000;
    w->route.concurrency = 1;
    start(w);
    submit(w, "hold@example.net");
    await_counter(w, &w->sink->held, 1);
    await_state(w, submit(w, "ok1@example.net"), RECIPIENT_SENDING, 0);
    submit(w, "ok2@example.net");
    pass_a_millisecond(w);
    submit(w, "ok3@example.net");
    assert_true(wait_until(w, is_in_memory, &(struct memory_range){4, 4}));
    submit_with(w, "ok4@example.net",
                &(struct message_row){.lane = LANE_TRANSACTIONAL,
                                      .created_wall_ms = clock_wall_ms() - 60000});
    assert_true(wait_until(w, is_in_memory, &(struct memory_range){5, 5}));
    sink_on_loop(w->sink->loop, sink_close_all, w->sink);
    await_completed(w, 4);
    for (size_t i = 0; i < sizeof(order) / sizeof(order[0]); i++)
        assert_int_equal(w->sink->number[i], order[i]);
}

/* Somebody locks the store, so that the first claims have no answer yet. */
static void a_reload_while_claims_are_on_their_way_keeps_the_order(void **state) {
    expect_log("could not be"); /* should it take long */
    expect_log("paused: the store cannot be written");
    expect_log("the store is not writable");
    struct world *w = *state;
    sqlite3 *db = NULL;
    w->route.concurrency = 1;
    submit_numbered(w, MESSAGES);
    pass_a_millisecond(w);
    run_sql(w, &db, "PRAGMA busy_timeout = 5000; BEGIN IMMEDIATE");
    start(w);
    assert_true(wait_until(w, is_in_memory, &(struct memory_range){MESSAGES, MESSAGES}));
    reload(w);
    assert_true(wait_until(w, is_in_memory, &(struct memory_range){0, MESSAGES / 2}));
    sqlite3_close(db);
    await_completed(w, MESSAGES);
    assert_in_order(w->sink, MESSAGES);
}

/* What is open of before, by hand. */
static void a_reload_loads_nothing_before_the_store_has_what_goes_back(void **state) {
    static const struct {
        size_t claims_open, releases;
        bool is_loading, loads;
    } rows[] = {
        {1, 0, false, false}, {0, 1, false, false}, {0, 0, true, false}, {0, 0, false, true}};
    struct world *w = *state;
    struct settings settings = {.o = {.due_in_memory = 10}};
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct scheduler s = {.settings = &settings,
                              .store = w->store,
                              .box = w->box,
                              .due = due_new(10, 10),
                              .wakeups = wakeups_new(),
                              .signers = signers_new(NULL, 0, NULL),
                              .has_more = true,
                              .is_regathering = true,
                              .claims_open = rows[i].claims_open,
                              .releases = rows[i].releases,
                              .is_loading = rows[i].is_loading};
        gather_load_if_needed(&s);
        if (s.calls != rows[i].loads)
            fail_msg("row %zu", i);
        while (s.calls > 0)
            mailbox_wait(w->box, -1);
        signers_unref(&s.signers);
        wakeups_free(&s.wakeups);
        due_free(&s.due);
    }
}

int main(void) {
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(what_a_stop_releases_is_due_as_it_was),
        T(a_reload_keeps_the_order_of_a_queue),
        T(what_comes_again_goes_before_what_was_due_later),
        T(a_reload_loads_nothing_before_the_store_has_what_goes_back),
        T(a_reload_while_claims_are_on_their_way_keeps_the_order),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
