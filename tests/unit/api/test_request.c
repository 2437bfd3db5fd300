#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "api/json.h"
#include "api/page.h"
#include "api/request.h"
#include "api/v1/v1.h"
#include "server/base/limits.h"

static void test_decode(void **state) {
    (void)state;
    static const struct {
        const char *in;
        bool plus;
        const char *want; /* NULL: refused */
    } rows[] = {{"", false, ""},
                {"abc", false, "abc"},
                {"a%20b", false, "a b"},
                {"a+b", true, "a b"},
                {"a+b", false, "a+b"},
                {"%41%6a", false, "Aj"},
                {"%c3%a4", false, "\xc3\xa4"},
                {"100%25", false, "100%"},
                {"%", false, NULL},
                {"%4", false, NULL},
                {"%4g", false, NULL},
                {"%g4", false, NULL},
                {"%00", false, NULL},
                {"%0d%0a", false, NULL},
                {"%7f", false, NULL},
                {"%ff", false, NULL},
                {"%c3", false, NULL},
                {"%c2%85", false, NULL},
                {"a%", false, NULL},
                {"%2e%2e%2f", false, "../"}};
    struct arena *a = arena_new();
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct str out = STR_NONE;
        enum err e = request_decode(str_of(rows[i].in), rows[i].plus, a, &out);
        if ((e == OK) != (rows[i].want != NULL) ||
            (e == OK && !str_equal(out, str_of(rows[i].want))))
            fail_msg("%s: %s %.*s", rows[i].in, err_name(e), STR_ARG(out));
    }
    arena_free(&a);
}

static void test_accepts(void **state) {
    (void)state;
    static const struct {
        const char *accept, *type;
        bool want;
    } rows[] = {
        {"", "application/json", true},
        {"*/*", "application/json", true},
        {"application/json", "application/json", true},
        {"APPLICATION/JSON", "application/json", true},
        {"application/*", "application/json", true},
        {"text/html", "application/json", false},
        {"text/*", "application/json", false},
        {"text/html, application/json", "application/json", true},
        {"text/html,*/*;q=0.1", "application/json", true},
        {"application/json;q=0", "application/json", false},
        {"application/json;q=0.0, */*", "application/json", false},
        {"*/*;q=0", "application/json", false},
        {"*/*;q=0, application/json", "application/json", true},
        {"application/json; charset=utf-8", "application/json", true},
        {"application/jsonx", "application/json", false},
        {"applicationx/*", "application/json", false},
        {"message/rfc822", "message/rfc822", true},
        {"application/json", "message/rfc822", false},
        {",,;;", "application/json", false},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
        if (request_accepts(str_of(rows[i].accept), str_of(rows[i].type)) != rows[i].want)
            fail_msg("%s for %s", rows[i].accept, rows[i].type);
    assert_true(request_accepts(STR_NONE, STR("application/json")));
}

static void test_prefer(void **state) {
    (void)state;
    static const struct {
        const char *in;
        int want;
    } rows[] = {{"wait=10", 10},
                {"WAIT=10", 10},
                {"wait = 10", 10},
                {"respond-async, wait=5", 5},
                {"wait=5; foo=1", 5},
                {"wait=61", 60},
                {"wait=4294967295", 60},
                {"wait=0", 0},
                {"wait", -1},
                {"wait=", -1},
                {"wait=-1", -1},
                {"wait=1s", -1},
                {"waiting=1", -1},
                {"", -1},
                {"wait=99999999999999999999", 60},
                {"wait=\"10\"", 10},
                {"wait=\"\"", -1},
                {"wait=\"10", -1},
                {"wait=1.5", -1},
                {"wait=abc, wait=10", -1}, /* RFC 7240 2: only the first is looked at */
                {"wait=3, wait=10", 3},
                {"wait=10;wait=3", 10}};
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
        if (request_prefer_wait(str_of(rows[i].in)) != rows[i].want)
            fail_msg("%s: %d", rows[i].in, request_prefer_wait(str_of(rows[i].in)));
    assert_int_equal(request_prefer_wait(STR_NONE), -1);
}

static void test_media_type(void **state) {
    (void)state;
    assert_true(str_equal(request_media_type(STR("application/json; charset=utf-8")),
                          STR("application/json")));
    assert_true(str_equal(request_media_type(STR(" a/b ")), STR("a/b")));
    assert_true(str_is_empty(request_media_type(STR_NONE)));
}

static void test_routes(void **state) {
    (void)state;
    static const struct route_view all = {true, true, true, false},
                                   development = {true, true, true, true},
                                   no_sandbox = {false, true, true, false},
                                   health = {true, true, false, false},
                                   others = {true, false, true, false};
    static const struct {
        enum http_method method;
        const char *path;
        const struct route_view *view;
        const char *want; /* NULL: none */
        unsigned allowed;
        const char *param;
    } rows[] = {
        {HTTP_POST, "/send", &all, "/send", 1U << HTTP_POST, NULL},
        {HTTP_GET, "/send", &all, NULL, 1U << HTTP_POST, NULL},
        {HTTP_GET, "/v1/messages", &all, "/v1/messages", 1U << HTTP_GET | 1U << HTTP_POST, NULL},
        {HTTP_GET, "/v1/messages/x", &all, "/v1/messages/{id}", 1U << HTTP_GET, "x"},
        {HTTP_GET, "/v1/messages/x/raw", &all, "/v1/messages/{id}/raw", 1U << HTTP_GET, "x"},
        {HTTP_GET, "/v1/messages/", &all, NULL, 0, NULL},
        {HTTP_GET, "/v1/messages//raw", &all, NULL, 0, NULL},
        {HTTP_GET, "/v1/messages/x/raw/", &all, NULL, 0, NULL},
        {HTTP_GET, "v1/messages", &all, NULL, 0, NULL},
        {HTTP_GET, "//v1/messages", &all, NULL, 0, NULL},
        {HTTP_GET, "/V1/messages", &all, NULL, 0, NULL},
        {HTTP_GET, "/", &all, NULL, 0, NULL},
        {HTTP_GET, "", &all, NULL, 0, NULL},
        {HTTP_GET, "/v1/{id}", &all, NULL, 0, NULL},
        {HTTP_GET, "/v1/messages/%2e%2e", &all, "/v1/messages/{id}", 1U << HTTP_GET, "%2e%2e"},
        {HTTP_PATCH, "/v1/webhooks/w", &all, "/v1/webhooks/{id}",
         1U << HTTP_GET | 1U << HTTP_PATCH | 1U << HTTP_DELETE, "w"},
        {HTTP_GET, "/v1/sandbox/messages", &all, "/v1/sandbox/messages", 1U << HTTP_GET, NULL},
        {HTTP_GET, "/v1/sandbox/messages", &no_sandbox, NULL, 0, NULL},
        {HTTP_POST, "/v1/sandbox/webhook-receiver", &all, NULL, 0, NULL},
        {HTTP_POST, "/v1/sandbox/webhook-receiver", &development, "/v1/sandbox/webhook-receiver",
         1U << HTTP_POST, NULL},
        {HTTP_GET, "/livez", &health, "/livez", 1U << HTTP_GET, NULL},
        {HTTP_GET, "/livez", &others, NULL, 0, NULL},
        {HTTP_POST, "/send", &health, NULL, 0, NULL},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct route_match m = routes_find(rows[i].method, str_of(rows[i].path), rows[i].view);
        if ((m.route != NULL) != (rows[i].want != NULL) || m.allowed != rows[i].allowed ||
            (m.route != NULL && strcmp(m.route->path, rows[i].want) != 0))
            fail_msg("%s: %s, %x", rows[i].path, m.route != NULL ? m.route->path : "none",
                     m.allowed);
        if (rows[i].param != NULL)
            assert_true(str_equal(m.param[0], str_of(rows[i].param)));
    }
}

/* What stands before us decides by the path, too: it has to be the same one. */
static void test_T18_the_path_of_a_target_is_where_others_see_it(void **state) {
    (void)state;
    static const struct {
        const char *target;
        const char *path; /* NULL: refused */
        const char *name; /* of the first parameter of the query; NULL: there is none */
    } rows[] = {
        {"/send", "/send", NULL},
        {"/send?a=b", "/send", "a"},
        {"http://x/send", "/send", NULL},
        {"HTTPS://x:8025/send?a", "/send", "a"},
        {"http://[::1]:8025/send", "/send", NULL},
        {"http://x", "/", NULL},
        {"http://x?a=/v1/keys", "/", "a"},
        {"http://x?/v1/keys", "/", "/v1/keys"},
        {"http://x#/v1/keys", NULL, NULL},
        {"http:///v1/keys", NULL, NULL},
        {"http://?/v1/keys", NULL, NULL},
        {"http://u:p@x/v1/keys", NULL, NULL},
        {"http://x\\@y/v1/keys", NULL, NULL},
        {"ftp://x/send", NULL, NULL},
        {"x:8025", NULL, NULL},
        {"*", NULL, NULL},
        {"", NULL, NULL},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct request *r = request_new(NULL, NULL, str_of(rows[i].target));
        bool is_good = request_parse_target(r);
        if (is_good != (rows[i].path != NULL) ||
            (is_good && !str_equal(r->path, str_of(rows[i].path))))
            fail_msg("%s: %.*s", rows[i].target, STR_ARG(r->path));
        if (is_good && (r->query_count > 0) != (rows[i].name != NULL))
            fail_msg("%s: %zu parameters", rows[i].target, r->query_count);
        if (rows[i].name != NULL)
            assert_true(str_equal(r->query[0].name, str_of(rows[i].name)));
        assert_int_equal(r->reply.status, is_good ? 0 : 400);
        request_free(&r);
    }
}

static void test_every_route_that_is_not_public_needs_a_scope(void **state) {
    (void)state;
    for (size_t i = 0; i < route_count; i++) {
        bool is_public = (routes[i].flags & ROUTE_PUBLIC) != 0;
        if (is_public != (routes[i].scope == 0))
            fail_msg("%s", routes[i].path);
        assert_non_null(routes[i].handle);
        assert_int_equal(routes[i].path[0], '/');
    }
}

static void test_cursors_come_back(void **state) {
    static const int64_t seqs[] = {1, 255, 256, 1234567890123, INT64_MAX};
    struct arena *a = arena_new();
    (void)state;
    for (size_t i = 0; i < sizeof(seqs) / sizeof(seqs[0]); i++) {
        struct page_mark in = {.seq = seqs[i]}, out;
        struct str text = page_print(PAGE_MESSAGES, &in, a);
        assert_int_equal(page_parse(text, PAGE_MESSAGES, &out), OK);
        assert_int_equal(out.seq, seqs[i]);
        assert_int_equal(page_parse(text, PAGE_EVENTS, &out), ERR_INVALID);
        assert_int_equal(page_parse(text, PAGE_CAPTURES, &out), ERR_INVALID);
        assert_int_equal(page_parse(str_slice(text, 0, text.n - 1), PAGE_MESSAGES, &out),
                         ERR_INVALID);
    }
    struct page_mark in = {.id = id_new(1)}, out;
    assert_int_equal(page_parse(page_print(PAGE_CAPTURES, &in, a), PAGE_CAPTURES, &out), OK);
    assert_true(id_equal(&in.id, &out.id));
    in = (struct page_mark){0}; /* would be the first page */
    assert_int_equal(page_parse(page_print(PAGE_CAPTURES, &in, a), PAGE_CAPTURES, &out),
                     ERR_INVALID);
    static const char *const bad[] = {
        "", "a", "!!!!", "nuaaaaaaaaaaaaaaaaaaaaa", "0", "1", "mmmmmmmmmmmmmmmm", "\xc3\xa4"};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        assert_int_equal(page_parse(str_of(bad[i]), PAGE_MESSAGES, &out), ERR_INVALID);
    arena_free(&a);
}

/* ---- what stays of a body ---- */

static bool always_ready(void *ctx, char why[160]) {
    (void)ctx;
    (void)why;
    return true;
}

static void env_start(struct env *env) {
    const struct intake_settings s = {
        .limits = {.recipients_max = 50, .message_bytes_max = LIMIT_MESSAGE}};
    struct errinfo info = {0};
    *env = (struct env){.is_ready = always_ready};
    pthread_mutex_init(&env->shared.mu, NULL);
    if (intake_new(&s, &env->shared.intake, &info) != OK)
        fail_msg("%s: %s", info.field, info.text);
    env->shared.domains = domains_new(NULL, 0);
}

static void env_stop(struct env *env) {
    assert_int_equal(atomic_load(&env->body_bytes), 0);
    env_set_intake(env, NULL);
    env_set_domains(env, NULL);
    pthread_mutex_destroy(&env->shared.mu);
}

struct body_row {
    void (*handle)(struct request *r);
    const char *begin, *unit, *end; /* unit: what follows the number */
    size_t count;
};

/* As it is when its body has come, then handled. */
static struct request *handled(struct env *env, struct arena *scratch, const struct body_row *row,
                               size_t memory_max_bytes) {
    struct request *r = request_new(env, NULL, STR("/"));
    r->scratch = scratch;
    r->memory_max_bytes = memory_max_bytes;
    r->body.max = LIMIT_SMALL_BODY;
    buf_putz(&r->body, row->begin);
    for (size_t i = 0; i < row->count; i++)
        buf_printf(&r->body, row->unit[0] == '"' ? "\"%zu%s" : "%zu%s", i, row->unit);
    buf_putz(&r->body, row->end);
    assert_int_equal(buf_status(&r->body), OK);
    assert_true(request_charge(r, r->body.n * LIMIT_REQUEST_COST));
    row->handle(r);
    assert_true(r->is_finished);
    return r;
}

static const struct body_row body_rows[] = {
    {v1_keys_create, "[", ",", "0]", 40000},
    {v1_keys_create, "{\"name\":[", ",", "0]}", 40000},
    {v1_keys_create, "{", "\":0,", "\"x\":0}", 20000},
    {v1_send, "[", ",", "0]", 40000},
    {v1_send, "{", "\":0,", "\"x\":0}", 20000},
    {v1_send, "{\"to\":[", ",", "0]}", 999},
};
enum { BODY_ROWS = sizeof(body_rows) / sizeof(body_rows[0]) };

enum { ANSWER = 1024 }; /* what is made for it afterwards */

/* A tree takes thirty times its text, and who does not read the answer holds the request. */
static void test_T16_what_stays_of_a_body_is_charged(void **state) {
    struct env env;
    struct arena *scratch = arena_new();
    (void)state;
    json_setup();
    env_start(&env);
    for (size_t i = 0; i < BODY_ROWS; i++) {
        struct request *r = handled(&env, scratch, &body_rows[i], SIZE_MAX);
        assert_int_equal(r->reply.status, 422);
        if (arena_size(r->arena) > r->charged_bytes + REQUEST_FREE_READ + ANSWER)
            fail_msg("row %zu: %zu octets of body, %zu charged, %zu taken", i, r->body.n,
                     r->charged_bytes, arena_size(r->arena));
        request_free(&r);
    }
    env_stop(&env);
    arena_free(&scratch);
}

static void test_T16_body_that_takes_more_than_there_is_is_503(void **state) {
    const struct body_row *row = &body_rows[BODY_ROWS - 1];
    struct env env;
    struct arena *scratch = arena_new();
    (void)state;
    json_setup();
    env_start(&env);
    struct request *r = handled(&env, scratch, row, (size_t)9 * 1024);
    assert_int_equal(r->reply.status, 503);
    assert_false(r->reply.must_close);
    request_free(&r);
    env_stop(&env);
    arena_free(&scratch);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_decode),
        cmocka_unit_test(test_accepts),
        cmocka_unit_test(test_prefer),
        cmocka_unit_test(test_media_type),
        cmocka_unit_test(test_routes),
        cmocka_unit_test(test_T18_the_path_of_a_target_is_where_others_see_it),
        cmocka_unit_test(test_every_route_that_is_not_public_needs_a_scope),
        cmocka_unit_test(test_cursors_come_back),
        cmocka_unit_test(test_T16_what_stays_of_a_body_is_charged),
        cmocka_unit_test(test_T16_body_that_takes_more_than_there_is_is_503),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
