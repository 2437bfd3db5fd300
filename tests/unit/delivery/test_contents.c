/* Contents that hang in memory, of sites that take mail slowly, and whose mail goes beside them. */
#include "tests/unit/delivery/world.h"

#include <stdlib.h>

enum { KIB = 1024, SLOW_MOST = 5 };

/* Sites that hold on to what they are sent, each with a domain of its own: ...@s0.test. */
struct slows {
    int count;
    struct sink *sink[SLOW_MOST];
    struct smarthost host[SLOW_MOST];
    struct route route[SLOW_MOST + 1];
    char name[SLOW_MOST][32], domain[SLOW_MOST][32];
    struct str of[SLOW_MOST];
};

static void begin(struct world *w, struct slows *t, int count, size_t room_bytes) {
    expect_log("sessions are aborted");
    *t = (struct slows){.count = count};
    struct route relay = w->route;
    struct smarthost host = w->host;
    for (int i = 0; i < count; i++) {
        t->sink[i] = sink_new(false, NULL);
        point_at(w, t->sink[i], "tls=none");
        t->host[i] = w->host;
        t->route[i] = w->route;
        snprintf(t->name[i], sizeof(t->name[i]), "slow%d", i);
        snprintf(t->domain[i], sizeof(t->domain[i]), "s%d.test", i);
        t->of[i] = str_of(t->domain[i]);
        t->route[i].name = t->name[i];
        t->route[i].smarthost = &t->host[i];
        t->route[i].recipient_domains = &t->of[i];
        t->route[i].recipient_domain_count = 1;
    }
    w->host = host;
    w->route = relay;
    t->route[count] = relay;
    t->route[count].smarthost = &w->host;
    w->o.routes = t->route;
    w->o.route_count = (size_t)count + 1;
    w->o.retry_ms[0] = 600 * 1000;
    w->o.content_bytes_max = room_bytes;
}

static void end(struct world *w, struct slows *t) {
    delivery_stop(&w->delivery);
    for (int i = 0; i < t->count; i++)
        sink_free(&t->sink[i]);
}

/* Read from the store as soon as it is due: it is not with the notice. */
static struct id submit_later(struct world *w, const char *to, int64_t size_bytes) {
    const struct message_row like = {.created_wall_ms = clock_wall_ms() + 200,
                                     .size_bytes = size_bytes};
    return submit_with(w, to, &like);
}

static struct id submit_to(struct world *w, const char *what, int slow, int64_t size_bytes) {
    char to[32];
    snprintf(to, sizeof(to), "%s@s%d.test", what, slow);
    return submit_later(w, to, size_bytes);
}

/* Until it had several turns of the scheduler, whatever it waits for. */
static void wait_some_turns(struct world *w) {
    for (int64_t until_mono_ms = clock_mono_ms() + 1000; clock_mono_ms() < until_mono_ms;)
        mailbox_wait(w->box, 50);
}

/* What is small enough to come with its notice is read as well, once the memory for that is used
 * up. */
static void five_sites_that_hang_leave_room_for_what_is_small(void **state) {
    struct world *w = *state;
    struct slows t;
    begin(w, &t, 5, 64 * KIB);
    start(w);
    for (int i = 0; i < 8; i++) { /* all that may come with notices: 2 MiB */
        char to[32];
        snprintf(to, sizeof(to), "hold@s%d.test", i % 5);
        submit_with(w, to, &(struct message_row){.size_bytes = 256 * KIB});
    }
    for (int i = 0; i < 5; i++)
        await_counter(w, &t.sink[i]->held, i < 3 ? 2 : 1);
    for (int i = 0; i < 5; i++)
        submit_to(w, "hold", i, 16 * KIB);
    wait_some_turns(w);
    struct id stored = submit_later(w, "ok@example.net", 0), fresh = submit(w, "ok@example.net");
    await_state(w, stored, RECIPIENT_DELIVERED, 1);
    await_state(w, fresh, RECIPIENT_DELIVERED, 1);
    end(w, &t);
}

/* A large one waits for tiny ones that hang in turn, in ever longer turns. */
static void small_ones_wait_for_no_large_one(void **state) {
    enum { ROOM = 256 * KIB, ROUNDS = 6 };
    struct world *w = *state;
    struct slows t;
    begin(w, &t, 3, ROOM);
    start(w);
    submit_to(w, "hold", 2, 2 * KIB);
    submit_to(w, "hold", 0, 0);
    await_counter(w, &t.sink[2]->held, 1);
    await_counter(w, &t.sink[0]->held, 1);
    struct id large = submit_later(w, "ok@example.net", ROOM / 2);
    wait_some_turns(w);
    int held[2] = {1, 0};
    for (int i = 1; i <= ROUNDS; i++) {
        int now = i % 2, before = !now;
        submit_to(w, "hold", now, 0);
        await_counter(w, &t.sink[now]->held, ++held[now]);
        sink_on_loop(t.sink[before]->loop, sink_close_all, t.sink[before]);
        await_state(w, submit_later(w, "ok@example.net", 0), RECIPIENT_DELIVERED, 1);
        assert_int_equal(recipient(w, large, 0).state, RECIPIENT_QUEUED);
    }
    sink_on_loop(t.sink[2]->loop, sink_close_all, t.sink[2]);
    await_state(w, large, RECIPIENT_DELIVERED, 1);
    end(w, &t);
}

/* They are looked at, now and then; who needs no room is not behind them. */
static void however_many_find_no_room_hold_up_none_that_needs_none(void **state) {
    enum { MANY = 600 };
    struct world *w = *state;
    struct slows t;
    begin(w, &t, 1, 64 * KIB);
    submit_with(
        w, "hold@s0.test",
        &(struct message_row){.created_wall_ms = clock_wall_ms() - 2000, .size_bytes = 32 * KIB});
    for (int i = 0; i < MANY; i++) /* before the start: no content comes with a notice */
        submit_with(w, "ok@example.net",
                    &(struct message_row){.created_wall_ms = clock_wall_ms() - 1000,
                                          .size_bytes = 20 * KIB});
    start(w);
    await_counter(w, &t.sink[0]->held, 1);
    wait_some_turns(w);
    await_state(w, submit(w, "ok@example.net"), RECIPIENT_DELIVERED, 1);
    assert_int_equal(sink_get(&w->sink->messages), 1);
    sink_on_loop(t.sink[0]->loop, sink_close_all, t.sink[0]);
    await_counter(w, &w->sink->messages, MANY + 1);
    end(w, &t);
}

static void sites_take_turns_with_contents_that_stand_apart(void **state) {
    enum { MANY = 60, SIZE = 300 * KIB };
    struct world *w = *state;
    struct slows t;
    begin(w, &t, 1, 64 * KIB);
    const struct message_row large = {.created_wall_ms = clock_wall_ms() - 1000,
                                      .size_bytes = SIZE};
    for (int i = 0; i < MANY; i++)
        submit_with(w, "ok@s0.test", &large);
    struct id id = submit_with(w, "ok@example.net", &large);
    start(w);
    await_state(w, id, RECIPIENT_DELIVERED, 1);
    assert_in_range(sink_get(&t.sink[0]->messages), 0, MANY / 2);
    await_counter(w, &t.sink[0]->messages, MANY);
    end(w, &t);
}

/* It waits at a site that has no slot to spare; others, which have, would pass it for ever. */
static void who_waits_longest_needs_no_free_slot(void **state) {
    enum { ROOM = 64 * KIB };
    struct world *w = *state;
    struct slows t;
    begin(w, &t, 2, ROOM);
    t.route[1].concurrency = 1;
    submit_with(
        w, "hold@s0.test",
        &(struct message_row){.created_wall_ms = clock_wall_ms() - 3000, .size_bytes = ROOM / 4});
    struct id large = submit_with(
        w, "ok@s1.test",
        &(struct message_row){.created_wall_ms = clock_wall_ms() - 2000, .size_bytes = ROOM / 2});
    for (int i = 0; i < 4; i++) /* they take the slots of its site */
        submit_with(w, "hold@s1.test",
                    &(struct message_row){.created_wall_ms = clock_wall_ms() - 1000});
    start(w);
    await_counter(w, &t.sink[0]->held, 1);
    await_counter(w, &t.sink[1]->held, 1);
    wait_some_turns(w);
    assert_int_equal(recipient(w, large, 0).state, RECIPIENT_QUEUED);
    sink_on_loop(t.sink[0]->loop, sink_close_all, t.sink[0]);
    for (int i = 0; i < 500 && recipient(w, large, 0).state == RECIPIENT_QUEUED; i++)
        mailbox_wait(w->box, 20);
    assert_int_equal(recipient(w, large, 0).state,
                     RECIPIENT_SENDING); /* claimed, behind the one that hangs */
    end(w, &t);
}

/* Somebody else read the contents, and is done with them. */
static void what_others_read_counts_for_who_holds_it(void **state) {
    struct world *w = *state;
    struct slows t;
    begin(w, &t, 1, 64 * KIB);
    start(w);
    for (int i = 0; i < 5; i++)
        submit_later(w, "ok@example.net,hold@s0.test", 15 * KIB);
    await_counter(w, &w->sink->messages, 5);
    wait_some_turns(w);
    assert_in_range(sink_get(&t.sink[0]->held), 1, 2);
    await_state(w, submit_later(w, "ok@example.net", 15 * KIB), RECIPIENT_DELIVERED, 1);
    end(w, &t);
}

/* They are in memory when they come back, to be tried again, all at once. */
static void what_was_kept_for_another_attempt_takes_no_more_than_what_is_read(void **state) {
    struct world *w = *state;
    struct slows t;
    begin(w, &t, 1, 64 * KIB);
    w->o.retry_ms[0] = 1500;
    t.sink[0]->later_times = 5;
    start(w);
    for (int i = 0; i < 5; i++)
        submit_to(w, "later", 0, 15 * KIB);
    await_counter(w, &t.sink[0]->later_seen, 5);
    __atomic_store_n(&t.sink[0]->holds_all, true, __ATOMIC_SEQ_CST);
    await_counter(w, &t.sink[0]->held, 1);
    wait_some_turns(w);
    wait_some_turns(w);
    assert_in_range(sink_get(&t.sink[0]->held), 1, 2);
    await_state(w, submit_later(w, "ok@example.net", 15 * KIB), RECIPIENT_DELIVERED, 1);
    end(w, &t);
}

/* Bulk has its one slot of two; the other is free, and room is there. */
static void what_is_no_bulk_waits_behind_none_that_found_no_room(void **state) {
    enum { ROOM = 64 * KIB, MANY = 600 };
    struct world *w = *state;
    struct slows t;
    begin(w, &t, 2, ROOM);
    t.route[0].concurrency = 1;
    struct message_row like = {.created_wall_ms = clock_wall_ms() - 9000, .size_bytes = ROOM / 2};
    submit_with(w, "hold@s1.test", &like);
    like = (struct message_row){
        .created_wall_ms = clock_wall_ms() - 8000, .lane = LANE_BULK, .size_bytes = 20 * KIB};
    for (int i = 0; i < MANY; i++)
        submit_with(w, "ok@s0.test", &like);
    like = (struct message_row){.created_wall_ms = clock_wall_ms() - 100, .lane = LANE_BULK};
    submit_with(w, "hold@s0.test", &like);
    like = (struct message_row){.created_wall_ms = clock_wall_ms() - 50, .size_bytes = 20 * KIB};
    struct id id = submit_with(w, "ok@s0.test", &like);
    start(w);
    await_counter(w, &t.sink[1]->held, 1);
    await_counter(w, &t.sink[0]->held, 1);
    wait_some_turns(w);
    assert_int_equal(recipient(w, id, 0).state, RECIPIENT_QUEUED);
    sink_on_loop(t.sink[1]->loop, sink_close_all, t.sink[1]);
    await_state(w, id, RECIPIENT_SENDING, 0);
    end(w, &t);
}

int main(void) {
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(five_sites_that_hang_leave_room_for_what_is_small),
        T(small_ones_wait_for_no_large_one),
        T(however_many_find_no_room_hold_up_none_that_needs_none),
        T(sites_take_turns_with_contents_that_stand_apart),
        T(who_waits_longest_needs_no_free_slot),
        T(what_others_read_counts_for_who_holds_it),
        T(what_was_kept_for_another_attempt_takes_no_more_than_what_is_read),
        T(what_is_no_bulk_waits_behind_none_that_found_no_room),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
