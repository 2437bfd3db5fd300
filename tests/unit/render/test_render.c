#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "server/base/clock.h"
#include "server/render/event.h"
#include "server/render/message.h"
#include "server/render/problem.h"
#include "server/render/value.h"

static struct id some_id(void) {
    struct id id;
    assert_int_equal(id_parse(STR("01934d7e-6f00-7a3b-8c1d-0242ac120002"), &id), OK);
    return id;
}

static void assert_text(const struct buf *b, const char *want) {
    if (!str_equal(buf_str(b), str_of(want)))
        fail_msg("%.*s\nwanted\n%s", STR_ARG(buf_str(b)), want);
}

static void assert_value(json_t *v, const char *want) {
    struct buf b = BUF_INIT(65536);
    value_print(v, &b);
    json_decref(v);
    assert_text(&b, want);
    buf_release(&b);
}

static void test_text_is_always_valid_utf8(void **state) {
    (void)state;
    assert_value(value_str(STR_NONE), "null");
    assert_value(value_str(STR("")), "\"\"");
    assert_value(value_str(STR("a\"\\\n\x01")), "\"a\\\"\\\\\\n\\u0001\"");
    assert_value(value_str(STR("\xc3\xa4")), "\"\xc3\xa4\"");
    assert_value(value_str(STR("a\xff"
                               "b")),
                 "\"a\xef\xbf\xbd"
                 "b\"");
    assert_value(value_str(STR("\xed\xa0\x80")), "\"\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\"");
    assert_value(value_stored(STR("[\"a\"]")), "[\"a\"]");
    assert_value(value_stored(STR("[")), "null");
    assert_value(value_stored(STR_NONE), "null");
    assert_value(value_time(1769860800123), "\"2026-01-31T12:00:00.123Z\"");
    /* of a damaged row */
    static const int64_t unprintable[] = {-1, INT64_MIN, CLOCK_LAST_WALL_MS + 1, INT64_MAX};
    for (size_t i = 0; i < sizeof(unprintable) / sizeof(unprintable[0]); i++)
        assert_value(value_time(unprintable[i]), "null");
    assert_value(value_time(CLOCK_LAST_WALL_MS), "\"9999-12-31T23:59:59.999Z\"");
}

static void test_problem(void **state) {
    struct arena *a = arena_new();
    struct buf b = BUF_INIT(65536);
    struct id id = some_id();
    struct faults faults;
    (void)state;
    faults_init(&faults, a);
    faults_add(&faults, STR("#/to/0"), "invalid_address", "no %s", "good");
    const struct problem p = {.code = PROBLEM_VALIDATION_FAILED,
                              .detail = STR("1 fault"),
                              .request_id = &id,
                              .faults = &faults};
    render_problem(&p, &b);
    assert_text(&b, "{\"type\":\"urn:postchute:problem:validation_failed\","
                    "\"title\":\"The request has faults\",\"status\":422,\"detail\":\"1 fault\","
                    "\"code\":\"validation_failed\","
                    "\"request_id\":\"01934d7e-6f00-7a3b-8c1d-0242ac120002\","
                    "\"errors\":[{\"pointer\":\"#/to/0\",\"code\":\"invalid_address\","
                    "\"detail\":\"no good\"}]}");
    buf_release(&b);
    arena_free(&a);
}

static void test_every_problem_has_a_status_and_a_name_of_its_own(void **state) {
    (void)state;
    for (size_t i = 0; i < PROBLEM_COUNT; i++) {
        assert_in_range(problem_status((enum problem_code)i), 400, 503);
        for (size_t k = 0; k < i; k++)
            assert_string_not_equal(problem_name((enum problem_code)i),
                                    problem_name((enum problem_code)k));
    }
}

static struct event_row event_row(enum event_type type, enum recipient_state state) {
    return (struct event_row){.id = some_id(),
                              .type = type,
                              .wall_ms = 1769860800123,
                              .message_id = some_id(),
                              .email = STR("ann@example.net"),
                              .state = state,
                              .recipient_seq = 2,
                              .attempt = 1};
}

static void test_event_of_a_delivery(void **state) {
    struct event_row e = event_row(EVENT_RECIPIENT_DELIVERED, RECIPIENT_DELIVERED);
    struct buf b = BUF_INIT(65536);
    (void)state;
    e.tags_json = STR("[\"a\"]");
    e.external_id = STR("e1");
    e.result = (struct last_result){
        .code = 250, .text = STR("ok"), .mx = STR("mx.example.net"), .tls = STR("TLSv1.3")};
    memcpy(e.result.enhanced, "2.0.0", 6);
    render_event(&e, &b);
    assert_text(&b, "{\"id\":\"01934d7e-6f00-7a3b-8c1d-0242ac120002\",\"type\":"
                    "\"recipient.delivered\",\"timestamp\":\"2026-01-31T12:00:00.123Z\",\"data\":{"
                    "\"message_id\":\"01934d7e-6f00-7a3b-8c1d-0242ac120002\",\"external_id\":"
                    "\"e1\",\"recipient\":{\"email\":\"ann@example.net\",\"state\":\"delivered\"},"
                    "\"final\":true,\"seq\":2,\"attempt\":1,\"smtp\":{\"code\":250,\"enhanced\":"
                    "\"2.0.0\",\"text\":\"ok\",\"mx\":\"mx.example.net\",\"tls\":\"TLSv1.3\"},"
                    "\"tags\":[\"a\"]}}");
    buf_release(&b);
}

static void test_event_of_a_refusal(void **state) {
    struct event_row e = event_row(EVENT_RECIPIENT_DEFERRED, RECIPIENT_QUEUED);
    (void)state;
    e.next_attempt_wall_ms = 1769860800123;
    e.result = (struct last_result){
        .class_ = CLASS_NETWORK, .stage = STAGE_CONNECT, .failure = FAILURE_CONNECT_REFUSED};
    json_t *v = render_event_value(&e), *data = json_object_get(v, "data");
    json_t *refusal = json_object_get(data, "refusal");
    assert_string_equal(
        json_string_value(json_object_get(json_object_get(data, "recipient"), "state")),
        "deferred");
    assert_false(json_is_true(json_object_get(data, "final")));
    assert_null(json_object_get(data, "smtp"));
    assert_true(json_is_null(json_object_get(refusal, "code")));
    assert_string_equal(json_string_value(json_object_get(refusal, "scope")), "infrastructure");
    assert_string_equal(json_string_value(json_object_get(refusal, "text")),
                        failure_text(FAILURE_CONNECT_REFUSED));
    json_decref(v);
}

static void test_answer_to_a_submission_stays_the_first_one(void **state) {
    struct recipient_row r[2] = {{.email = STR("a@b.test"), .state = RECIPIENT_QUEUED},
                                 {.email = STR("c@d.test"), .state = RECIPIENT_SUPPRESSED}};
    struct message_row m = {.id = some_id(),
                            .message_id = STR("<x@y>"),
                            .created_wall_ms = 1769860800123,
                            .recipient = r,
                            .recipient_count = 2};
    struct buf first = BUF_INIT(65536);
    (void)state;
    json_t *v = render_accepted(&m);
    value_print(v, &first);
    json_decref(v);
    static const enum recipient_state later[] = {RECIPIENT_SENDING, RECIPIENT_DELIVERED,
                                                 RECIPIENT_BOUNCED, RECIPIENT_EXPIRED,
                                                 RECIPIENT_CANCELED};
    for (size_t i = 0; i < sizeof(later) / sizeof(later[0]); i++) {
        r[0].state = later[i];
        r[0].attempts = 3;
        assert_value(render_accepted(&m), first.p);
    }
    buf_release(&first);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_text_is_always_valid_utf8),
        cmocka_unit_test(test_problem),
        cmocka_unit_test(test_every_problem_has_a_status_and_a_name_of_its_own),
        cmocka_unit_test(test_event_of_a_delivery),
        cmocka_unit_test(test_event_of_a_refusal),
        cmocka_unit_test(test_answer_to_a_submission_stays_the_first_one),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
