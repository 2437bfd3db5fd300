/* Routes that change while recipients wait for them. */
#include "tests/unit/delivery/world.h"

/* Two routes, each with a sink of its own: what the settings say of them changes. */
struct two {
    struct world *w;
    struct sink *second_sink;
    struct smarthost second_host;
    struct route route[2];
};

static void name_routes(struct two *t, const char *first, enum route_kind first_kind,
                        const char *second, enum route_kind second_kind) {
    struct world *w = t->w;
    char url[256], to[SOCKADDR_TEXT_SIZE];
    struct errinfo info = {0};
    if (t->second_sink == NULL)
        t->second_sink = sink_new(false, NULL);
    sockaddr_print(&t->second_sink->at, to);
    snprintf(url, sizeof(url), "smtp://%s?tls=none", to);
    assert_int_equal(smarthost_parse(str_of(url), &t->second_host, &info), OK);
    t->route[0] = (struct route){
        .name = first, .kind = first_kind, .smarthost = &w->host, .smarthost_count = 1};
    t->route[1] = (struct route){
        .name = second, .kind = second_kind, .smarthost = &t->second_host, .smarthost_count = 1};
    w->o.routes = t->route;
    w->o.route_count = 2;
    w->o.default_route = first;
}

static void end_two(struct two *t) {
    delivery_stop(&t->w->delivery);
    sink_free(&t->second_sink);
}

static const struct message_row TEST_FOR_BOX = {.route = {"box", 3}, .is_test = true};

static void a_test_message_goes_to_its_sandbox(void **state) {
    struct two t = {.w = *state};
    name_routes(&t, "real", ROUTE_SMARTHOST, "box", ROUTE_SANDBOX);
    start(t.w);
    submit_with(t.w, "ok@example.net", &TEST_FOR_BOX);
    await_completed(t.w, 1);
    assert_int_equal(sink_get(&t.second_sink->messages), 1);
    assert_int_equal(sink_get(&t.w->sink->messages), 0);
    end_two(&t);
}

/* Before the start, or while it waits: the name may stand for the world now. */
static void a_test_message_goes_to_another_sandbox_when_its_own_became_real(void **state) {
    struct two t = {.w = *state};
    submit_with(t.w, "ok@example.net", &TEST_FOR_BOX);
    name_routes(&t, "box", ROUTE_SMARTHOST, "other", ROUTE_SANDBOX);
    start(t.w);
    await_completed(t.w, 1);
    assert_int_equal(sink_get(&t.second_sink->messages), 1);
    assert_int_equal(sink_get(&t.w->sink->messages), 0);
    end_two(&t);
}

static void a_test_message_without_a_sandbox_fails_and_says_why(void **state) {
    struct two t = {.w = *state};
    static const struct message_row NAMELESS = {.is_test = true};
    name_routes(&t, "box", ROUTE_SMARTHOST, "other", ROUTE_SMARTHOST);
    start(t.w);
    struct id named = submit_with(t.w, "ok@example.net", &TEST_FOR_BOX);
    struct id nameless = submit_with(t.w, "ok@example.net", &NAMELESS);
    await_completed(t.w, 2);
    for (size_t i = 0; i < 2; i++) {
        struct recipient_row r = recipient(t.w, i == 0 ? named : nameless, 0);
        assert_int_equal(r.state, RECIPIENT_FAILED);
        assert_int_equal(r.last.class_, CLASS_POLICY);
        assert_true(str_find(r.last.text, STR("sandbox")) >= 0);
    }
    assert_int_equal(sink_get(&t.w->sink->messages), 0);
    assert_int_equal(sink_get(&t.second_sink->messages), 0);
    end_two(&t);
}

/* It was tried, and waits for its next attempt, when the settings change. */
static void a_test_message_that_waits_for_a_retry_stays_one(void **state) {
    struct two t = {.w = *state};
    for (size_t i = 0; i < t.w->o.retry_count; i++)
        t.w->o.retry_ms[i] = 3600 * 1000; /* no attempt but those that are asked for */
    name_routes(&t, "real", ROUTE_SMARTHOST, "box", ROUTE_SANDBOX);
    t.second_sink->later_times = 1;
    start(t.w);
    struct id id = submit_with(t.w, "later@example.net", &TEST_FOR_BOX);
    await_state(t.w, id, RECIPIENT_QUEUED, 1);
    name_routes(&t, "box", ROUTE_SMARTHOST, "real", ROUTE_SMARTHOST);
    reload(t.w);
    retry_now(t.w, id);
    await_completed(t.w, 1);
    assert_int_equal(recipient(t.w, id, 0).state, RECIPIENT_FAILED);
    assert_int_equal(sink_get(&t.w->sink->messages), 0);
    assert_int_equal(sink_get(&t.second_sink->messages), 0);
    end_two(&t);
}

static void a_route_that_is_renamed_keeps_what_was_queued_for_it(void **state) {
    struct two t = {.w = *state};
    for (size_t i = 0; i < t.w->o.retry_count; i++)
        t.w->o.retry_ms[i] = 3600 * 1000; /* no attempt but those that are asked for */
    name_routes(&t, "real", ROUTE_SMARTHOST, "second", ROUTE_SMARTHOST);
    t.second_sink->later_times = 1;
    start(t.w);
    struct id id =
        submit_with(t.w, "later@example.net", &(struct message_row){.route = STR("second")});
    await_state(t.w, id, RECIPIENT_QUEUED, 1);
    name_routes(&t, "real", ROUTE_SMARTHOST, "third", ROUTE_SMARTHOST);
    reload(t.w);
    retry_now(t.w, id);
    await_state(t.w, id, RECIPIENT_QUEUED, 2);
    assert_true(str_find(recipient(t.w, id, 0).last.text, STR("route")) >= 0);
    name_routes(&t, "real", ROUTE_SMARTHOST, "second", ROUTE_SMARTHOST);
    reload(t.w);
    retry_now(t.w, id);
    await_completed(t.w, 1);
    assert_int_equal(sink_get(&t.second_sink->messages), 1);
    assert_int_equal(sink_get(&t.w->sink->messages), 0);
    end_two(&t);
}

int main(void) {
    const struct CMUnitTest tests[] = {
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
        TEST(a_test_message_goes_to_its_sandbox),
        TEST(a_test_message_goes_to_another_sandbox_when_its_own_became_real),
        TEST(a_test_message_without_a_sandbox_fails_and_says_why),
        TEST(a_test_message_that_waits_for_a_retry_stays_one),
        TEST(a_route_that_is_renamed_keeps_what_was_queued_for_it),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
