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

int main(void) {
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(a_newsletter_that_fills_memory_holds_up_no_password),
        T(a_newsletter_under_way_holds_up_no_retry),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
