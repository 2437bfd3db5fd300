/* Who sends much holds up nobody who sends little the same way. */
#include "tests/unit/delivery/world.h"

/* Fifteen hundred of a newsletter, at 50 a second, to where the next message goes, too. */
static void begin_newsletter(struct world *w, size_t due_in_memory) {
    enum { NEWSLETTER = 1500 };
    expect_log("sessions are aborted"); /* some of it may be under way at the end */
    w->route.rate_per_s = 50;
    w->o.due_in_memory = due_in_memory;
    start(w);
    for (int i = 0; i < NEWSLETTER; i++)
        submit_with(w, "ok@example.net", &(struct message_row){.lane = LANE_BULK});
}

static void a_newsletter_that_fills_memory_holds_up_no_password(void **state) {
    struct world *w = *state;
    begin_newsletter(w, 2000); /* of which it takes more than half */
    int before = sink_get(&w->sink->messages);
    struct id id = submit(w, "ok@example.net");
    await_state(w, id, RECIPIENT_DELIVERED, 1);
    assert_in_range(sink_get(&w->sink->messages) - before, 1, 400);
}

static void a_newsletter_under_way_holds_up_no_retry(void **state) {
    struct world *w = *state;
    w->sink->later_times = 1;
    begin_newsletter(w, 4000);
    int before = sink_get(&w->sink->messages);
    struct id id = submit(w, "later@example.net");
    await_state(w, id, RECIPIENT_DELIVERED, 2);
    assert_in_range(sink_get(&w->sink->messages) - before, 1, 600);
}

/* Each in a queue of its own, to the slow site. */
static void submit_domains(struct world *w, enum lane lane, int count) {
    const struct message_row like = {.route = STR("slow"), .lane = lane};
    while (count-- > 0) {
        char to[32];
        snprintf(to, sizeof(to), "ok@d%d.lane%d.test", count, (int)lane);
        submit_with(w, to, &like);
    }
}

/* They wait for the one session that there is, and that hangs. */
enum { DOMAINS = 150 };
static void begin_many_domains(struct world *w, struct slow *slow) {
    add_slow_route(w, slow);
    slow->route[0].concurrency = 1;
    w->o.due_in_memory = 100;
    w->o.retry_ms[0] = 600 * 1000;
    start(w);
    submit_slow(w, "hold@slow.test", 1);
    await_counter(w, &slow->sink->held, 1);
    submit_domains(w, LANE_TRANSACTIONAL, DOMAINS);
}

/* Nothing was forgotten. */
static void end_many_domains(struct world *w, struct slow *slow, int count) {
    assert_int_equal(sink_get(&slow->sink->messages), 0);
    sink_on_loop(slow->sink->loop, sink_close_all, slow->sink);
    await_completed(w, count + 1); /* and the one that they left room for */
    assert_int_equal(sink_get(&slow->sink->messages), count);
    end_slow(w, slow);
}

static void a_slow_site_of_many_domains_leaves_room_for_fresh_mail(void **state) {
    struct world *w = *state;
    struct slow slow;
    begin_many_domains(w, &slow);
    struct id id = submit(w, "ok@example.net");
    await_state(w, id, RECIPIENT_DELIVERED, 1);
    end_many_domains(w, &slow, DOMAINS);
}

/* With the bulk mail there are more queues with something in memory than there is room left: those
 * alone would be all that is loaded. */
static void a_slow_site_of_many_domains_leaves_room_for_what_is_loaded(void **state) {
    enum { BULK = 20 };
    struct world *w = *state;
    struct slow slow;
    begin_many_domains(w, &slow);
    submit_domains(w, LANE_BULK, BULK);
    const struct message_row later = {.created_wall_ms = clock_wall_ms() + 200};
    struct id id = submit_with(w, "ok@example.net", &later);
    await_state(w, id, RECIPIENT_DELIVERED, 1);
    end_many_domains(w, &slow, DOMAINS + BULK);
}

int main(void) {
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(a_newsletter_that_fills_memory_holds_up_no_password),
        T(a_newsletter_under_way_holds_up_no_retry),
        T(a_slow_site_of_many_domains_leaves_room_for_fresh_mail),
        T(a_slow_site_of_many_domains_leaves_room_for_what_is_loaded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
