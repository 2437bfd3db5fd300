#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
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
    render_accepted(&m, &first);
    json_t *v = json_loads(first.p, JSON_REJECT_DUPLICATES, NULL);
    assert_non_null(v);
    json_decref(v);
    static const enum recipient_state later[] = {RECIPIENT_SENDING, RECIPIENT_DELIVERED,
                                                 RECIPIENT_BOUNCED, RECIPIENT_EXPIRED,
                                                 RECIPIENT_CANCELED};
    for (size_t i = 0; i < sizeof(later) / sizeof(later[0]); i++) {
        r[0].state = later[i];
        r[0].attempts = 3;
        struct buf again = BUF_INIT(65536);
        render_accepted(&m, &again);
        assert_string_equal(again.p, first.p);
        buf_release(&again);
    }
    buf_release(&first);
}

static void test_text_of_an_answer_is_what_a_tree_would_print(void **state) {
    static const struct str texts[] = {
        STR(""),
        STR("plain ~ text"),
        STR("\"quoted\""),
        STR("back\\slash"),
        STR("tab\tnul\0end"),
        STR("\x1f\x7f"),
        STR("gr\xC3\xBC\xC3\x9F"),
        STR("bad \xFF octet"),
        STR("cut \xE2\x80"),
        STR("/</script>"),
        STR_NONE,
    };
    (void)state;
    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
        struct recipient_row r[2] = {{.email = texts[i], .state = RECIPIENT_DELIVERED},
                                     {.email = STR("c@d.test"), .state = RECIPIENT_SCHEDULED}};
        struct message_row m = {.id = some_id(),
                                .message_id = texts[i],
                                .created_wall_ms = 1769860800123,
                                .external_id = texts[i],
                                .recipient = r,
                                .recipient_count = 1 + i % 2};
        struct buf got = BUF_INIT(65536), wanted = BUF_INIT(65536);
        static const char *const state_of[] = {"queued", "scheduled"};
        json_t *o = json_object(), *list = json_array();
        json_object_set_new(o, "id", value_id(&m.id));
        json_object_set_new(o, "message_id", value_str(texts[i]));
        render_accepted(&m, &got);
        json_t *whole = json_loadb(got.p, got.n, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, NULL);
        assert_non_null(whole);
        json_object_set(o, "state", json_object_get(whole, "state")); /* another test's */
        for (size_t k = 0; k < m.recipient_count; k++)
            json_array_append_new(list, json_pack("{s:o, s:s}", "email", value_str(r[k].email),
                                                  "state", state_of[k]));
        json_object_set_new(o, "recipients", list);
        json_object_set_new(o, "created_at", value_time(m.created_wall_ms));
        value_set_str(o, "external_id", texts[i]);
        value_print(o, &wanted);
        assert_string_equal(got.p, wanted.p);
        assert_int_equal(got.n, wanted.n);
        json_decref(whole);
        json_decref(o);
        buf_release(&got);
        buf_release(&wanted);
    }
}

/* ---- what a row of a page takes (T16) ---- */

enum { FILL_MOST = 2048, TREE_MOST = 1024 * 1024 };

/* So many characters that JSON writes as two. */
static struct str quotes(size_t n) {
    static char text[FILL_MOST];
    ASSERT(n <= FILL_MOST);
    memset(text, '"', sizeof(text));
    return str_make(text, n);
}

/* Every label at its limit. */
static struct message_row largest_message(struct buf *tags, struct buf *metadata) {
    static char key[LIMIT_METADATA_PAIRS][LIMIT_METADATA_KEY];
    struct pair pairs[LIMIT_METADATA_PAIRS];
    struct str tag[LIMIT_TAGS];
    for (size_t i = 0; i < LIMIT_TAGS; i++)
        tag[i] = quotes(LIMIT_TAG);
    for (size_t i = 0; i < LIMIT_METADATA_PAIRS; i++) {
        memset(key[i], '"', LIMIT_METADATA_KEY);
        key[i][0] = (char)('A' + i);
        pairs[i] = (struct pair){.key = str_make(key[i], LIMIT_METADATA_KEY),
                                 .value = quotes(LIMIT_METADATA_VALUE)};
    }
    value_print_strings(tag, LIMIT_TAGS, tags);
    value_print_pairs(pairs, LIMIT_METADATA_PAIRS, metadata);
    return (struct message_row){
        .id = some_id(),
        .created_wall_ms = 1,
        .expires_wall_ms = 1,
        .message_id = quotes(LIMIT_LINE),
        .mail_from = quotes(LIMIT_ADDRESS),
        .from_email = quotes(LIMIT_ADDRESS),
        .from_name = quotes(LIMIT_DISPLAY_NAME),
        .from_domain = quotes(LIMIT_DOMAIN),
        .subject = quotes(LIMIT_SUBJECT),
        .external_id = quotes(LIMIT_EXTERNAL_ID),
        .route = quotes(LIMIT_TAG),
        .tags_json = buf_str(tags),
        .metadata_json = buf_str(metadata),
        .size_bytes = LIMIT_MESSAGE_MAX,
    };
}

/* As stored and as shown. */
static void assert_fits(const char *name, size_t stored, json_t *shown, size_t most) {
    struct buf b = BUF_INIT(TREE_MOST);
    value_print(shown, &b);
    json_decref(shown);
    assert_int_equal(buf_status(&b), OK);
    if (stored + b.n > most)
        fail_msg("%s: %zu stored and %zu shown", name, stored, b.n);
    buf_release(&b);
}

static void assert_row_fits(const char *name, size_t stored, json_t *shown) {
    assert_fits(name, stored, shown, LIMIT_PAGE_ROW);
}

static void test_T16_largest_rows_of_a_page_fit_what_they_are_charged(void **state) {
    struct buf tags = BUF_INIT(TREE_MOST), metadata = BUF_INIT(TREE_MOST);
    static char words[LIMIT_REPLY_STORED], dialogue[LIMIT_TRANSCRIPT];
    (void)state;
    memset(words, 1, sizeof(words)); /* a control is six characters */
    memset(dialogue, 1, sizeof(dialogue));
    const struct message_row m = largest_message(&tags, &metadata);
    const struct last_result last = {
        .code = 550, .text = str_make(words, sizeof(words)), .mx = quotes(LIMIT_DOMAIN)};
    struct event_row e = {.id = m.id,
                          .type = EVENT_RECIPIENT_BOUNCED,
                          .message_id = m.id,
                          .external_id = m.external_id,
                          .tags_json = m.tags_json,
                          .metadata_json = m.metadata_json,
                          .email = quotes(LIMIT_ADDRESS),
                          .state = RECIPIENT_BOUNCED,
                          .result = last};
    struct attempt_row a = {.message_id = m.id,
                            .host = quotes(LIMIT_DOMAIN),
                            .transcript = str_make(dialogue, sizeof(dialogue))};
    size_t labels = m.external_id.n + m.tags_json.n + m.metadata_json.n;
    assert_true(labels > 2 * LIMIT_METADATA_PAIRS * LIMIT_METADATA_VALUE);
    assert_row_fits("message",
                    sizeof(m) + labels + m.message_id.n + m.mail_from.n + m.from_email.n +
                        m.from_name.n + m.from_domain.n + m.subject.n + m.route.n,
                    render_message_summary(&m));
    assert_row_fits("event", sizeof(e) + labels + e.email.n + last.text.n + last.mx.n,
                    render_event_value(&e));
    assert_row_fits("attempt", sizeof(a) + a.host.n + a.transcript.n, render_attempt(&a, NULL));
    buf_release(&metadata);
    buf_release(&tags);
}

/* Many of one message or of one attempt; what those have else is nothing here. */
static void test_T16_largest_recipients_of_a_row_fit_what_they_are_charged(void **state) {
    enum { MANY = 100 };
    static char words[LIMIT_REPLY_STORED];
    struct recipient_row r[MANY];
    struct attempt_recipient of_attempt[MANY];
    (void)state;
    memset(words, 'w', sizeof(words));
    const struct last_result last = {.code = 550,
                                     .enhanced = "5.7.1",
                                     .text = str_make(words, sizeof(words)),
                                     .mx = str_make(words, LIMIT_DOMAIN),
                                     .tls = STR("TLSv1.3")};
    size_t strings = LIMIT_ADDRESS + last.text.n + last.mx.n + last.tls.n;
    for (int i = 0; i < MANY; i++) {
        r[i] = (struct recipient_row){.email = str_make(words, LIMIT_ADDRESS),
                                      .state = RECIPIENT_BOUNCED,
                                      .attempts = 1,
                                      .updated_wall_ms = 1,
                                      .last = last};
        of_attempt[i] =
            (struct attempt_recipient){.index = i, .action = VERDICT_BOUNCED, .result = last};
    }
    const struct message_row m = {.recipient = r, .recipient_count = MANY};
    const struct attempt_row a = {.recipient = of_attempt, .recipient_count = MANY};
    assert_fits("recipients of a message", sizeof(r) + MANY * strings, render_message_summary(&m),
                (size_t)MANY * LIMIT_PAGE_RECIPIENT);
    assert_fits("recipients of an attempt", sizeof(of_attempt) + MANY * strings,
                render_attempt(&a, &m), (size_t)MANY * LIMIT_PAGE_RECIPIENT);
}

/* ---- no memory ---- */

static bool is_memory_refused;

static void *refuse_or_allocate(size_t n) {
    return is_memory_refused ? NULL : malloc(n);
}

/* A member without its value would be no JSON, and whoever is shown the text later asks nobody
 * else. */
static void test_text_that_finds_no_memory_is_known_to_be_cut(void **state) {
    (void)state;
    json_set_alloc_funcs(refuse_or_allocate, free);
    for (int refused = 0; refused < 2; refused++) {
        struct buf b = BUF_INIT(1024);
        is_memory_refused = refused;
        value_put_member(&b, "{\"a\":", STR("x\"y"));
        is_memory_refused = false;
        assert_int_equal(buf_status(&b), refused ? ERR_UNAVAILABLE : OK);
        buf_release(&b);
    }
    json_set_alloc_funcs(malloc, free);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_text_is_always_valid_utf8),
        cmocka_unit_test(test_problem),
        cmocka_unit_test(test_every_problem_has_a_status_and_a_name_of_its_own),
        cmocka_unit_test(test_event_of_a_delivery),
        cmocka_unit_test(test_event_of_a_refusal),
        cmocka_unit_test(test_answer_to_a_submission_stays_the_first_one),
        cmocka_unit_test(test_text_of_an_answer_is_what_a_tree_would_print),
        cmocka_unit_test(test_T16_largest_rows_of_a_page_fit_what_they_are_charged),
        cmocka_unit_test(test_T16_largest_recipients_of_a_row_fit_what_they_are_charged),
        cmocka_unit_test(test_text_that_finds_no_memory_is_known_to_be_cut),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
