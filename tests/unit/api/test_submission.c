#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>

#include "api/v1/submission.h"
#include "server/base/buf.h"
#include "server/base/clock.h"
#include "tests/unit/api/malformed.inc"

static const struct submission_limits limits = {50, 25 * 1024 * 1024};

struct reading {
    struct arena *arena;
    struct faults faults;
    struct submission submission;
    struct json_node *root;
};

/* Parsing writes to the text. */
static enum err parse(struct str body, struct arena *a, struct json_node **out,
                      struct errinfo *info) {
    struct buf copy = {.p = arena_dupz(a, body), .n = body.n};
    return json_body_parse(&copy, a, out, info);
}

static bool is_json(struct str body, struct errinfo *info) {
    struct arena *a = arena_new();
    struct json_node *root;
    enum err e = parse(body, a, &root, info);
    arena_free(&a);
    return e == OK;
}

static void read_it(struct reading *r, struct str body) {
    struct errinfo info = {0};
    *r = (struct reading){.arena = arena_new()};
    faults_init(&r->faults, r->arena);
    if (parse(body, r->arena, &r->root, &info) != OK)
        fail_msg("%.*s: %s", STR_ARG(body), info.text);
    v1_submission_read(r->root, &r->faults, &r->submission);
    submission_check(&r->submission, &limits, &r->faults);
}

static void done(struct reading *r) {
    arena_free(&r->arena);
}

static void test_T15_what_is_not_json_is_refused(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof(not_json) / sizeof(not_json[0]); i++) {
        struct errinfo info = {0};
        if (is_json(str_make(not_json[i].body, not_json[i].size), &info) || info.text[0] == '\0')
            fail_msg("%s", not_json[i].name);
    }
    assert_true(sizeof(not_json) / sizeof(not_json[0]) >= 150);
}

static void test_each_fault_is_named_once_where_it_is(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof(faulty) / sizeof(faulty[0]); i++) {
        struct reading r;
        size_t hits = 0, others = 0;
        read_it(&r, str_of(faulty[i].body));
        for (size_t k = 0; k < r.faults.count && k < LIMIT_FAULTS; k++) {
            if (str_equal(r.faults.list[k].pointer, str_of(faulty[i].pointer)) &&
                strcmp(r.faults.list[k].code, faulty[i].code) == 0)
                hits++;
            else
                others++;
        }
        bool is_empty_body = strcmp(faulty[i].body, "{}") == 0;
        /* a value that is no object has no fields: their absence is said as well */
        bool is_object = faulty[i].body[0] == '{';
        if (hits != 1 || (others != 0 && is_object && !is_empty_body)) {
            for (size_t k = 0; k < r.faults.count && k < LIMIT_FAULTS; k++)
                print_message("  %.*s %s\n", STR_ARG(r.faults.list[k].pointer),
                              r.faults.list[k].code);
            fail_msg("%.200s: wanted %s %s", faulty[i].body, faulty[i].pointer, faulty[i].code);
        }
        done(&r);
    }
}

static void test_faults_beyond_those_kept_are_counted(void **state) {
    struct reading r;
    struct buf b = BUF_INIT(65536);
    (void)state;
    buf_putz(&b, "{\"from\":\"a@acme.test\",\"to\":\"b@c.test\",\"text\":\"t\"");
    for (int i = 0; i < 200; i++)
        buf_printf(&b, ",\"x%d\":1", i);
    buf_putz(&b, "}");
    read_it(&r, buf_str(&b));
    assert_int_equal(r.faults.count, 200);
    done(&r);
    buf_release(&b);
}

static void test_good_message_arrives_whole(void **state) {
    struct reading r;
    (void)state;
    read_it(&r, STR("{\"from\":\"Acme <no-reply@ACME.test>\",\"to\":[\"ann@example.net\","
                    "{\"email\":\"bob@example.net\",\"name\":\"B\\u00f6b\"}],\"cc\":{\"address\":"
                    "\"c@d.test\"},\"bcc\":\"x@y.test\",\"replyTo\":[\"r@s.test\"],\"sender\":"
                    "\"s@acme.test\",\"subject\":\"hi\",\"text\":\"a\\nb\",\"html\":\"<p>\","
                    "\"attachments\":[{\"filename\":\"a.txt\",\"contentType\":\"text/plain\","
                    "\"content\":\"aGk=\"},{\"content_id\":\"logo\",\"content\":\"\","
                    "\"type\":\"image/png\"},{\"filename\":\"b\",\"disposition\":\"attachment\","
                    "\"cid\":\"z\",\"content\":\"aGk=\"}],"
                    "\"headers\":{\"X-A\":\"1\",\"X-B\":[\"2\",\"3\"]},\"tags\":[\"a\",\"b\"],"
                    "\"metadata\":{\"k\":\"v\"},\"external_id\":\"e\",\"expires_in\":60,"
                    "\"in_reply_to\":\"<a@b.test>\",\"references\":\"<a@b.test>  <c@d.test>\","
                    "\"tls\":\"encrypt\",\"require_tls\":true,\"route\":\"r\",\"tracking\":null}"));
    /* a field that nobody knows is a fault even when it is null */
    assert_int_equal(r.faults.count, 1);
    const struct submission *s = &r.submission;
    assert_true(str_equal(s->from.email, STR("no-reply@acme.test")));
    assert_true(str_equal(s->from.name, STR("Acme")));
    assert_int_equal(s->to.count, 2);
    assert_true(str_equal(s->to.list[1].name, STR("B\xc3\xb6"
                                                  "b")));
    assert_int_equal(s->cc.count, 1);
    assert_int_equal(s->bcc.count, 1);
    assert_int_equal(s->reply_to.count, 1);
    assert_true(str_equal(s->sender.email, STR("s@acme.test")));
    assert_int_equal(s->attachment_count, 3);
    assert_true(str_equal(s->attachments[0].content, STR("hi")));
    assert_true(str_equal(s->attachments[0].content_type, STR("text/plain")));
    assert_false(s->attachments[0].is_inline);
    assert_true(s->attachments[1].is_inline);
    assert_true(str_equal(s->attachments[1].cid, STR("logo")));
    assert_int_equal(s->attachments[1].content.n, 0);
    assert_false(s->attachments[2].is_inline);
    assert_int_equal(s->header_count, 3);
    assert_true(str_equal(s->headers[2].value, STR("3")));
    assert_int_equal(s->tag_count, 2);
    assert_int_equal(s->metadata_count, 1);
    assert_int_equal(s->expires_in_ms, 60000);
    assert_int_equal(s->reference_count, 2);
    assert_int_equal(s->tls, TLS_VERIFY);
    assert_true(str_equal(s->route, STR("r")));
    done(&r);
}

static void test_literal_percent_escapes_are_text(void **state) {
    struct reading r;
    (void)state;
    read_it(&r, STR("{\"from\":\"a@acme.test\",\"to\":\"b@c.test\",\"text\":\"t\","
                    "\"subject\":\"%0d%0aBcc: x@y.test\",\"headers\":{\"X-A\":\"%0d%0a\"}}"));
    assert_int_equal(r.faults.count, 0);
    done(&r);
}

static void test_T15_nesting_ends_at_the_limit(void **state) {
    (void)state;
    struct buf b = BUF_INIT(64 * 1024 * 1024);
    struct errinfo info = {0};
    for (int i = 0; i < LIMIT_JSON_DEPTH; i++)
        buf_putc(&b, '[');
    for (int i = 0; i < LIMIT_JSON_DEPTH; i++)
        buf_putc(&b, ']');
    assert_true(is_json(buf_str(&b), &info));
    buf_clear(&b);
    for (int i = 0; i <= LIMIT_JSON_DEPTH; i++)
        buf_putc(&b, '[');
    for (int i = 0; i <= LIMIT_JSON_DEPTH; i++)
        buf_putc(&b, ']');
    assert_false(is_json(buf_str(&b), &info));
    buf_clear(&b);
    char *p = buf_reserve(&b, 10000000);
    assert_non_null(p);
    memset(p, '[', 10000000);
    buf_advance(&b, 10000000);
    int64_t before = clock_mono_ms();
    assert_false(is_json(buf_str(&b), &info));
    assert_true(clock_mono_ms() - before < 1000);
    buf_clear(&b);
    /* brackets in strings are text */
    buf_putz(&b, "[\"");
    for (int i = 0; i < 1000; i++)
        buf_putz(&b, "[{\\\"");
    buf_putz(&b, "\"]");
    assert_true(is_json(buf_str(&b), &info));
    buf_release(&b);
}

/* "[[],[],...]" of the largest body took gigabytes. */
static void test_T15_values_end_at_the_limit(void **state) {
    static const char *const pieces[] = {"1", "[]", "{}", "\"a,b\""};
    (void)state;
    for (size_t p = 0; p < sizeof(pieces) / sizeof(pieces[0]); p++) {
        for (int more = 0; more < 2; more++) {
            bool is_container = pieces[p][0] == '[' || pieces[p][0] == '{';
            int most = (LIMIT_JSON_VALUES - 1) / (is_container ? 2 : 1) + more;
            struct buf b = BUF_INIT(64 * 1024 * 1024);
            struct errinfo info = {0};
            buf_putc(&b, '[');
            for (int i = 0; i < most; i++) {
                buf_putz(&b, i > 0 ? "," : "");
                buf_putz(&b, pieces[p]);
            }
            buf_putc(&b, ']');
            if (is_json(buf_str(&b), &info) != (more == 0))
                fail_msg("%s x %d: %s", pieces[p], most, info.text);
            buf_release(&b);
        }
    }
}

#ifdef __SANITIZE_ADDRESS__
#define ENDS_WITHOUT_MEMORY 1
#elif defined(__SANITIZE_THREAD__)
#define ENDS_WITHOUT_MEMORY 1
#else
#define ENDS_WITHOUT_MEMORY 0
#endif

/* As long as no memory holds: whoever copies it gets none. */
static void lengthen(struct json_node *v) {
    assert_int_equal(v->kind, JSON_IS_STRING);
    v->text.n = SIZE_MAX / 4;
}

/* What is read without memory is nothing, not what another was on the stack. */
static void test_T15_what_there_is_no_memory_for_is_nothing(void **state) {
    (void)state;
    if (ENDS_WITHOUT_MEMORY) /* a sanitizer ends the process instead */
        skip();
    struct errinfo info = {0};
    struct reading r = {.arena = arena_new()};
    faults_init(&r.faults, r.arena);
    assert_int_equal(parse(STR("{\"to\": [\"first@example.com\", \"second@example.com\"],"
                               " \"references\": \"<a@b>\", \"tags\": [\"one\", \"two\"]}"),
                           r.arena, &r.root, &info),
                     OK);
    struct json_node *to = r.root->first, *references = to->next, *tags = references->next;
    lengthen(to->first->next);
    lengthen(references);
    lengthen(tags->first->next);
    v1_submission_read(r.root, &r.faults, &r.submission);
    assert_true(mem_is_short());
    mem_forget_short();
    assert_int_equal(r.submission.to.count, 2);
    assert_true(str_equal(r.submission.to.list[0].email, STR("first@example.com")));
    assert_true(str_equal(r.submission.to.list[1].email, STR("a@invalid.invalid")));
    assert_int_equal(r.submission.reference_count, 0);
    assert_true(str_equal(r.submission.tags[1], STR("")));
    done(&r);
}

static void test_a_fault_says_what_to_do_instead(void **state) {
    static const struct {
        const char *body, *pointer, *detail;
    } rows[] = {
        {"{\"from\":\"a@acme.test\",\"text\":\"t\",\"to\":\"a@b.test, c@d.test\"}", "#/to",
         "several addresses are given as an array, each in an element of its own"},
        {"{\"from\":\"a@acme.test\",\"text\":\"t\",\"cc\":\"A <a@b.test>; C <c@d.test>\"}", "#/cc",
         "several addresses are given as an array, each in an element of its own"},
        {"{\"from\":\"a@acme.test\",\"text\":\"t\",\"to\":[\"a@b.test,c@d.test\"]}", "#/to/0",
         "several addresses are given as an array, each in an element of its own"},
        {"{\"from\":\"a@acme.test,b@acme.test\",\"text\":\"t\",\"to\":\"a@b.test\"}", "#/from",
         "several addresses stand where one is taken"},
        {"{\"from\":\"a@acme.test\",\"text\":\"t\",\"to\":\"Ann <a@b.test\"}", "#/to",
         "a '<' has no '>' after it"},
        {"{\"from\":\"a@acme.test\",\"text\":\"t\",\"to\":\"a@b.test\",\"route\":\"\"}", "#/route",
         "the name is empty: leave the field out to have the route chosen"},
        {"{\"from\":\"a@acme.test\",\"text\":\"t\",\"to\":\"a@b.test\",\"expires_in\":0}",
         "#/expires_in", "this must be at least 1"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct reading r;
        read_it(&r, str_of(rows[i].body));
        if (r.faults.count != 1 || !str_equal(r.faults.list[0].pointer, str_of(rows[i].pointer)) ||
            !str_equal(r.faults.list[0].detail, str_of(rows[i].detail)))
            fail_msg("%s: %zu faults, %.*s: %.*s", rows[i].body, r.faults.count,
                     STR_ARG(r.faults.list[0].pointer), STR_ARG(r.faults.list[0].detail));
        done(&r);
    }
}

/* How long is too long is a setting's to say, so that there is one answer. */
static void test_any_time_to_expire_is_read(void **state) {
    static const struct {
        const char *text;
        int64_t want_ms;
    } rows[] = {
        {"1", 1000},
        {"31622401", INT64_C(31622401000)},
        {"9223372036854775807", INT64_MAX},
    };
    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct reading r;
        char body[256];
        snprintf(body, sizeof(body),
                 "{\"from\":\"a@acme.test\",\"to\":\"b@c.test\",\"text\":\"t\",\"expires_in\":%s}",
                 rows[i].text);
        read_it(&r, str_of(body));
        assert_int_equal(r.faults.count, 0);
        assert_true(r.submission.expires_in_ms == rows[i].want_ms);
        done(&r);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_fault_says_what_to_do_instead),
        cmocka_unit_test(test_any_time_to_expire_is_read),
        cmocka_unit_test(test_T15_what_there_is_no_memory_for_is_nothing),
        cmocka_unit_test(test_T15_what_is_not_json_is_refused),
        cmocka_unit_test(test_each_fault_is_named_once_where_it_is),
        cmocka_unit_test(test_faults_beyond_those_kept_are_counted),
        cmocka_unit_test(test_good_message_arrives_whole),
        cmocka_unit_test(test_literal_percent_escapes_are_text),
        cmocka_unit_test(test_T15_nesting_ends_at_the_limit),
        cmocka_unit_test(test_T15_values_end_at_the_limit),
    };
    json_setup();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
