/* What is refused, with which words, and that nothing of it is done. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "tests/unit/api/http_world.h"

static void test_refusals(void **state) {
    struct world *w = *state;
    struct auth_key_text other;
    auth_key_generate(false, &other);
    const struct {
        const char *name, *method, *path, *headers;
        const struct auth_key_text *key;
        const char *body; /* NULL: none */
        int status;
        const char *code;
    } rows[] = {
        {"no key", "POST", "/send", "", NULL, "{}", 401, "unauthorized"},
        {"unknown key", "POST", "/send", "", &other, "{}", 401, "invalid_key"},
        {"expired key", "POST", "/send", "", &w->expired_key, "{}", 401, "invalid_key"},
        {"other scheme", "POST", "/send", "Authorization: Basic Zm9v\r\n", NULL, "{}", 401,
         "unauthorized"},
        {"scheme alone", "POST", "/send", "Authorization: Bearer \r\n", NULL, "{}", 401,
         "unauthorized"},
        {"not a key", "POST", "/send", "Authorization: Bearer x\r\n", NULL, "{}", 401,
         "invalid_key"},
        {"no scope", "POST", "/send", "", &w->read_key, "{}", 403, "forbidden"},
        {"unknown path", "GET", "/nothing", "", &w->key, NULL, 404, "not_found"},
        {"path below", "GET", "/send/x", "", &w->key, NULL, 404, "not_found"},
        {"slash at the end", "GET", "/v1/messages/", "", &w->key, NULL, 404, "not_found"},
        {"dots", "GET", "/v1/../../etc/passwd", "", &w->key, NULL, 404, "not_found"},
        {"escaped dots", "GET", "/v1/messages/%2e%2e%2f%2e%2e", "", &w->key, NULL, 404,
         "not_found"},
        {"escaped NUL", "GET", "/v1/messages/%00", "", &w->key, NULL, 404, "not_found"},
        {"no id", "GET", "/v1/messages/abc", "", &w->key, NULL, 404, "not_found"},
        {"unknown id", "GET", "/v1/messages/01930000-0000-7000-8000-000000000000", "", &w->key,
         NULL, 404, "not_found"},
        {"method", "DELETE", "/send", "", &w->key, NULL, 405, "method_not_allowed"},
        {"unknown method", "BREW", "/send", "", &w->key, NULL, 405, "method_not_allowed"},
        {"answer type", "POST", "/send", "Accept: text/html\r\n", &w->key, "{}", 406,
         "not_acceptable"},
        {"not JSON", "POST", "/send", "", &w->key, "{", 400, "invalid_json"},
        {"duplicate", "POST", "/send", "", &w->key, "{\"a\":1,\"a\":1}", 400, "invalid_json"},
        {"faults", "POST", "/send", "", &w->key, "{}", 422, "validation_failed"},
        {"no object", "POST", "/send", "", &w->key, "[]", 422, "validation_failed"},
        {"query", "POST", "/send?x=1", "", &w->key, "{}", 422, "validation_failed"},
        {"cursor", "GET", "/v1/messages?after=zzzz", "", &w->key, NULL, 422, "validation_failed"},
        {"limit", "GET", "/v1/messages?limit=0", "", &w->key, NULL, 422, "validation_failed"},
        {"broken escape", "GET", "/v1/messages?limit=%zz", "", &w->key, NULL, 400,
         "invalid_request"},
        {"body where none is taken", "GET", "/v1/messages", "", &w->key, "{}", 413,
         "body_too_large"},
        {"encoding", "POST", "/send", "Content-Encoding: gzip\r\n", &w->key, "{}", 415,
         "unsupported_media_type"},
        {"two encodings", "POST", "/send",
         "Content-Encoding: identity\r\nContent-Encoding: gzip\r\n", &w->key, "{}", 415,
         "unsupported_media_type"},
        {"two keys", "POST", "/send", "Authorization: Bearer x\r\n", &w->key, "{}", 400,
         "invalid_request"},
        {"two types", "POST", "/send", "Content-Type: text/plain\r\n", &w->key, "{}", 400,
         "invalid_request"},
        {"two idempotency keys", "POST", "/send", "Idempotency-Key: a\r\nIdempotency-Key: a\r\n",
         &w->key, "{}", 400, "invalid_request"},
        {"null for a name", "POST", "/v1/keys", "", &w->key,
         "{\"name\":null,\"scopes\":[\"send\"]}", 422, "validation_failed"},
        {"null for an address", "POST", "/send", "", &w->key,
         "{\"from\":\"a@acme.test\",\"to\":{\"email\":null},\"text\":\"t\"}", 422,
         "validation_failed"},
        {"long key", "POST", "/send", "Idempotency-Key: a b\r\n", &w->key, "{}", 422,
         "validation_failed"},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct answer a;
        ask(w, rows[i].method, rows[i].path, rows[i].key, rows[i].headers,
            rows[i].body != NULL ? str_of(rows[i].body) : STR_NONE, &a);
        if (a.status != rows[i].status)
            fail_msg("%s: %d, not %d: %.*s", rows[i].name, a.status, rows[i].status,
                     STR_ARG(a.body));
        assert_problem(&a, rows[i].status, rows[i].code);
        client_release(&a);
    }
    assert_int_equal(w->store->message_count, 0);
}

static void test_several_accept_fields_are_one_list(void **state) {
    struct world *w = *state;
    struct answer a;
    ask(w, "POST", "/send", &w->key, "Accept: text/html\r\nAccept: application/json\r\n",
        body_text(), &a);
    assert_int_equal(a.status, 202);
    client_release(&a);
}

static void test_405_says_what_is_allowed(void **state) {
    struct world *w = *state;
    struct answer a;
    ask(w, "PUT", "/v1/messages", &w->key, "", STR("{}"), &a);
    assert_problem(&a, 405, "method_not_allowed");
    assert_true(str_equal(client_header(&a, STR("Allow")), STR("GET, HEAD, POST")));
    client_release(&a);
}

static void test_all_faults_come_at_once(void **state) {
    enum { MOST = 6 };
    static const struct {
        const char *path, *body, *pointer[MOST + 1];
    } rows[] = {
        {"/send",
         "{\"from\":\"x\",\"to\":[1,\"b@example.net\",\"c\"],\"subject\":7,\"nope\":1,"
         "\"attachments\":[{\"filename\":\"a\",\"content\":\"!\"}],\"text\":\"t\"}",
         {"#/from", "#/to/0", "#/to/2", "#/subject", "#/nope", "#/attachments/0/content"}},
        {"/v1/keys", "{}", {"#/name", "#/scopes"}},
        {"/v1/keys", "{\"nope\":1,\"scopes\":[]}", {"#/nope", "#/name", "#/scopes"}},
        {"/v1/keys", "{\"scopes\":null,\"name\":\"\"}", {"#/name", "#/scopes"}},
        {"/v1/keys", "{\"name\":\"a\",\"scopes\":\"x\"}", {"#/scopes"}},
        {"/v1/keys", "{\"name\":\"a\",\"scopes\":\"\"}", {"#/scopes"}},
        {"/v1/keys", "{\"name\":\"a\",\"scopes\":[\"\"]}", {"#/scopes/0"}},
        {"/v1/keys",
         "{\"name\":\"a\",\"scopes\":[\"x\",\"send\",1],\"from_domains\":[null,\"-\"]}",
         {"#/scopes/2", "#/scopes/0", "#/from_domains/0", "#/from_domains/1"}},
        {"/v1/keys",
         "{\"name\":\"a\",\"scopes\":\"send\",\"fromDomains\":\"-\",\"rate\":0,"
         "\"expiresAt\":\"x\"}",
         {"#/fromDomains", "#/rate", "#/expiresAt"}},
        {"/v1/keys", "[]", {"#"}},
        {"/v1/domains", "{\"bounce_address\":\"x\"}", {"#/bounce_address", "#/name"}},
        {"/v1/domains",
         "{\"domain\":\"x\",\"bounceAddress\":\"x\"}",
         {"#/domain", "#/bounceAddress"}},
        {"/v1/webhooks", "{\"events\":\"x\"}", {"#/events", "#/url"}},
        {"/v1/webhooks",
         "{\"events\":[\"x\",1,\"\"]}",
         {"#/events/1", "#/events/0", "#/events/2", "#/url"}},
    };
    struct world *w = *state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct answer a;
        size_t n = 0;
        ask(w, "POST", rows[i].path, &w->key, "", str_of(rows[i].body), &a);
        assert_problem(&a, 422, "validation_failed");
        json_t *v = json_of(&a), *errors = json_object_get(v, "errors");
        for (; rows[i].pointer[n] != NULL; n++) {
            const char *has =
                json_string_value(json_object_get(json_array_get(errors, n), "pointer"));
            if (has == NULL || strcmp(has, rows[i].pointer[n]) != 0)
                fail_msg("%s: %s is not named: %.*s", rows[i].body, rows[i].pointer[n],
                         STR_ARG(a.body));
        }
        if (json_array_size(errors) != n)
            fail_msg("%s: more than that: %.*s", rows[i].body, STR_ARG(a.body));
        /* one fault is named in the detail, too */
        const char *detail = json_string_value(json_object_get(v, "detail"));
        bool is_named = strncmp(detail, rows[i].pointer[0], strlen(rows[i].pointer[0])) == 0;
        if (n == 1 && is_named != (strcmp(rows[i].pointer[0], "#") != 0))
            fail_msg("%s: %s", rows[i].body, detail);
        json_decref(v);
        client_release(&a);
    }
}

#define NULL_SAYS_NOTHING                                                                          \
    "null changes nothing: leave the field out, or give \"\" where it may be empty"

static void test_a_fault_says_what_to_do_instead(void **state) {
    static const char hook[] = "/v1/webhooks/0199f3a0-0000-7000-8000-000000000001";
    const struct {
        const char *method, *path, *body, *pointer, *detail;
    } rows[] = {
        {"PATCH", hook, "{\"description\":null}", "#/description", NULL_SAYS_NOTHING},
        {"PATCH", hook, "{\"url\":null}", "#/url", NULL_SAYS_NOTHING},
        {"PATCH", hook, "{\"events\":null}", "#/events", NULL_SAYS_NOTHING},
        {"PATCH", hook, "{\"state\":null,\"description\":\"\"}", "#/state", NULL_SAYS_NOTHING},
        {"PATCH", hook, "{\"description\":\"a\\nb\"}", "#/description",
         "at most 255 octets of text, no control characters"},
        {"POST", "/v1/keys", "{\"name\":\"a\\nb\",\"scopes\":[\"send\"]}", "#/name",
         "1 to 128 octets of text, no control characters"},
        {"GET", "/v1/messages?state=foo", NULL, "?state",
         "this is one of scheduled, queued, sending, delivered, bounced, failed, expired, "
         "suppressed, canceled, deferred"},
        {"GET", "/v1/messages?to=a@b.test,c@d.test", NULL, "?to",
         "several addresses stand where one is taken"},
    };
    struct world *w = *state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct answer a;
        ask(w, rows[i].method, rows[i].path, &w->key, "",
            rows[i].body != NULL ? str_of(rows[i].body) : STR_NONE, &a);
        if (a.status != 422)
            fail_msg("%s %s: %d %.*s", rows[i].path, rows[i].body, a.status, STR_ARG(a.body));
        json_t *v = json_of(&a), *errors = json_object_get(v, "errors");
        const json_t *fault = json_array_get(errors, 0);
        assert_int_equal(json_array_size(errors), 1);
        assert_string_equal(json_string_value(json_object_get(fault, "pointer")), rows[i].pointer);
        assert_string_equal(json_string_value(json_object_get(fault, "detail")), rows[i].detail);
        json_decref(v);
        client_release(&a);
    }
}

/* The store of these tests replays nothing: 503 got through to it. */
static void test_replay_is_of_one_delivery_or_of_a_period(void **state) {
    static const struct {
        const char *body, *pointer; /* NULL: taken */
    } rows[] = {
        {"{}", "#"},
        {"{\"only_failed\":true}", "#"},
        {"{\"delivery\":null,\"since\":null}", "#"},
        {"{\"until\":\"2026-01-01T00:00:00Z\"}", "#"},
        {"{\"delivery\":0}", "#/delivery"},
        {"{\"delivery\":1,\"since\":\"2026-01-01T00:00:00Z\"}", "#/delivery"},
        {"{\"delivery\":1,\"until\":\"2026-01-01T00:00:00Z\"}", "#/delivery"},
        {"{\"since\":\"x\"}", "#/since"},
        {"{\"since\":\"2026-01-02T00:00:00Z\",\"until\":\"2026-01-01T00:00:00Z\"}", "#/until"},
        {"{\"delivery\":1}", NULL},
        {"{\"since\":\"2026-01-01T00:00:00Z\",\"until\":\"2026-01-01T00:00:00Z\"}", NULL},
        {"{\"since\":\"1970-01-01T00:00:00Z\"}", NULL}, /* whatever there is */
    };
    struct world *w = *state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct answer a;
        ask(w, "POST", "/v1/webhooks/0199f3a0-0000-7000-8000-000000000001/replay", &w->key, "",
            str_of(rows[i].body), &a);
        if (a.status != (rows[i].pointer != NULL ? 422 : 503))
            fail_msg("%s: %d %.*s", rows[i].body, a.status, STR_ARG(a.body));
        json_t *v = json_of(&a), *errors = json_object_get(v, "errors");
        if (rows[i].pointer != NULL)
            assert_string_equal(
                json_string_value(json_object_get(json_array_get(errors, 0), "pointer")),
                rows[i].pointer);
        assert_int_equal(json_array_size(errors), rows[i].pointer != NULL);
        json_decref(v);
        client_release(&a);
    }
}

static void test_what_takes_nothing_takes_an_empty_object(void **state) {
    static const struct {
        const char *body;
        int status;       /* 404: it was taken, and there is no such message */
        const char *says; /* NULL: nothing of the body */
    } rows[] = {{"", 404, NULL},
                {" \n", 404, NULL},
                {"{}", 404, NULL},
                {" { \n\t} ", 404, NULL},
                {"{\"a\":1}", 422, "\"pointer\":\"#/a\",\"code\":\"unknown_field\""},
                {"[]", 422, "this must be an object, not an array"},
                {"x", 400, "column 1"},
                {"{", 400, "column 2"},
                {"}", 400, "column 1"},
                {"{{}}", 400, "column 2"},
                {"{}{}", 400, "something follows the value"}};
    struct world *w = *state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct answer a;
        ask(w, "POST", "/v1/messages/01930000-0000-7000-8000-000000000000/cancel", &w->key, "",
            str_of(rows[i].body), &a);
        if (a.status != rows[i].status ||
            (rows[i].says != NULL && str_find(a.body, str_of(rows[i].says)) < 0))
            fail_msg("%s: %d %.*s", rows[i].body, a.status, STR_ARG(a.body));
        client_release(&a);
    }
}

/* The server would have no name for the records; what it would call its keys nobody asked. */
static void test_domain_that_is_too_long_for_its_records_is_named(void **state) {
    struct world *w = *state;
    struct answer a;
    struct buf b = BUF_INIT(1024);
    buf_putz(&b, "{\"name\":\"");
    for (int i = 0; i < 245; i++)
        buf_putc(&b, i % 49 == 48 ? '.' : 'a');
    buf_putz(&b, "test\"}");
    ask(w, "POST", "/v1/domains", &w->key, "", buf_str(&b), &a);
    assert_problem(&a, 422, "validation_failed");
    json_t *v = json_of(&a);
    json_t *fault = json_array_get(json_object_get(v, "errors"), 0);
    assert_string_equal(json_string_value(json_object_get(fault, "pointer")), "#/name");
    assert_string_equal(json_string_value(json_object_get(fault, "code")), "invalid_domain");
    json_decref(v);
    client_release(&a);
    buf_release(&b);
}

static void test_a_guard_that_was_set_since_stops_a_retry(void **state) {
    static struct str staging[] = {{"staging.test", 12}};
    struct world *w = *state;
    struct api_options o = options_of(w);
    struct answer a;
    char path[128], id[ID_TEXT_SIZE];
    ask(w, "POST", "/send", &w->key, "", body_text(), &a);
    assert_int_equal(a.status, 202);
    client_release(&a);
    w->store->message[0].row.recipient[0].state = RECIPIENT_BOUNCED;
    id_print(&w->store->message[0].id, id);
    snprintf(path, sizeof(path), "/v1/messages/%s/retry", id);
    ask(w, "POST", path, &w->key, "", STR("{}"), &a);
    assert_int_equal(a.status, 202);
    client_release(&a);
    o.intake.only_to = (struct str_list){staging, 1};
    assert_int_equal(api_reload(w->api, &o, NULL), OK);
    ask(w, "POST", path, &w->key, "", STR("{}"), &a);
    assert_problem(&a, 422, "validation_failed");
    assert_true(str_find(a.body, STR("\"code\":\"recipient_not_allowed\"")) > 0);
    client_release(&a);
}

static void test_a_retry_under_a_used_key_makes_nothing_new(void **state) {
    static struct str staging[] = {{"staging.test", 12}};
    static const char again[] = "Idempotency-Key: again\r\n", send[] = "Idempotency-Key: send\r\n";
    struct world *w = *state;
    struct api_options o = options_of(w);
    struct answer a;
    char path[2][128], id[ID_TEXT_SIZE], made[128];
    for (size_t i = 0; i < 2; i++) {
        ask(w, "POST", "/send", &w->key, i == 0 ? send : "", body_text(), &a);
        client_release(&a);
        w->store->message[i].row.recipient[0].state = RECIPIENT_BOUNCED;
        id_print(&w->store->message[i].id, id);
        snprintf(path[i], sizeof(path[i]), "/v1/messages/%s/retry", id);
    }
    for (size_t i = 0; i < 2; i++) {
        ask(w, "POST", path[0], &w->key, again, STR(""), &a);
        assert_int_equal(a.status, 202);
        struct str to = client_header(&a, STR("Location"));
        if (i == 0)
            snprintf(made, sizeof(made), "%.*s", STR_ARG(to));
        assert_true(str_equal(to, str_of(made)));
        assert_int_equal(client_header(&a, STR("Idempotency-Replayed")).n > 0, i > 0);
        client_release(&a);
        o.intake.only_to = (struct str_list){staging, 1}; /* stops another one */
        assert_int_equal(api_reload(w->api, &o, NULL), OK);
    }
    assert_int_equal(w->store->retries, 1);
    o.intake.only_to = (struct str_list){0};
    assert_int_equal(api_reload(w->api, &o, NULL), OK);
    const struct { const char *path, *headers; } others[] = {{path[1], again}, {path[0], send}};
    for (size_t i = 0; i < 2; i++) {
        ask(w, "POST", others[i].path, &w->key, others[i].headers, STR(""), &a);
        assert_problem(&a, 422, "idempotency_key_reused");
        client_release(&a);
    }
    ask(w, "POST", path[0], &w->key, "Idempotency-Key: a b\r\n", STR(""), &a);
    assert_problem(&a, 422, "validation_failed");
    client_release(&a);
    assert_int_equal(w->store->retries, 1);
}

/* Also to a key that may not send from there by now, or never could. */
static void test_a_retry_that_was_done_is_answered_whoever_may_still_send(void **state) {
    static const char again[] = "Idempotency-Key: again\r\n", other[] = "Idempotency-Key: b\r\n";
    struct world *w = *state;
    struct answer a;
    struct auth_key_text limited;
    char path[128], id[ID_TEXT_SIZE], made[128];
    ask(w, "POST", "/v1/keys", &w->key, "",
        STR("{\"name\":\"a\",\"scopes\":\"send\",\"from_domains\":\"other.test\"}"), &a);
    assert_int_equal(a.status, 201);
    json_t *v = json_of(&a);
    snprintf(limited.z, sizeof(limited.z), "%s", json_string_value(json_object_get(v, "key")));
    json_decref(v);
    client_release(&a);
    ask(w, "POST", "/send", &w->key, "", body_text(), &a);
    client_release(&a);
    w->store->message[0].row.recipient[0].state = RECIPIENT_BOUNCED;
    id_print(&w->store->message[0].id, id);
    snprintf(path, sizeof(path), "/v1/messages/%s/retry", id);
    ask(w, "POST", path, &w->key, again, STR(""), &a);
    assert_int_equal(a.status, 202);
    snprintf(made, sizeof(made), "%.*s", STR_ARG(client_header(&a, STR("Location"))));
    client_release(&a);
    ask(w, "POST", path, &limited, again, STR(""), &a);
    assert_int_equal(a.status, 202);
    assert_true(str_equal(client_header(&a, STR("Location")), str_of(made)));
    assert_true(client_header(&a, STR("Idempotency-Replayed")).n > 0);
    client_release(&a);
    ask(w, "POST", path, &limited, other, STR(""), &a);
    assert_problem(&a, 403, "from_not_allowed");
    client_release(&a);
    ask(w, "POST", path, &limited, "", STR(""), &a);
    assert_problem(&a, 403, "from_not_allowed");
    client_release(&a);
    assert_int_equal(w->store->retries, 1);
}

static void test_retries_of_tests_have_their_idempotency_keys_apart(void **state) {
    struct world *w = *state;
    const struct auth_key_text *keys[] = {&w->test_key, &w->key};
    char path[2][128], id[ID_TEXT_SIZE];
    struct answer a;
    for (size_t i = 0; i < 2; i++) {
        ask(w, "POST", "/send", keys[i], "", body_text(), &a);
        client_release(&a);
        w->store->message[i].row.recipient[0].state = RECIPIENT_BOUNCED;
        id_print(&w->store->message[i].id, id);
        snprintf(path[i], sizeof(path[i]), "/v1/messages/%s/retry", id);
    }
    for (size_t i = 0; i < 4; i++) { /* the second two are replays */
        ask(w, "POST", path[i % 2], keys[i % 2], "Idempotency-Key: again\r\n", STR(""), &a);
        assert_int_equal(a.status, 202);
        assert_int_equal(client_header(&a, STR("Idempotency-Replayed")).n > 0, i > 1);
        client_release(&a);
    }
    assert_int_equal(w->store->retries, 2);
}

/* ---- URLs of webhooks ---- */

static void assert_url_fault(const struct answer *a, const char *code, const char *detail) {
    assert_problem(a, 422, "validation_failed");
    json_t *v = json_of(a), *errors = json_object_get(v, "errors");
    json_t *fault = json_array_get(errors, 0);
    assert_int_equal(json_array_size(errors), 1);
    assert_string_equal(json_string_value(json_object_get(fault, "pointer")), "#/url");
    assert_string_equal(json_string_value(json_object_get(fault, "code")), code);
    const char *said = json_string_value(json_object_get(fault, "detail"));
    if (strstr(said, detail) == NULL)
        fail_msg("\"%s\" says nothing of \"%s\"", said, detail);
    json_decref(v);
}

static void ask_webhook(struct world *w, const char *method, const char *path, const char *url,
                        struct answer *a) {
    char body[256];
    snprintf(body, sizeof(body), "{\"url\":\"%s\"}", url);
    ask(w, method, path, &w->key, "", str_of(body), a);
}

static void test_url_that_the_guard_refuses_is_not_stored(void **state) {
    static const struct {
        const char *url, *code, *detail;
    } rows[] = {
        {"https://127.0.0.1/h", "url_not_allowed", "not a public one"},
        {"https://[::ffff:10.0.0.1]/h", "url_not_allowed", "not a public one"},
        {"https://169.254.169.254/h", "url_not_allowed", "not a public one"},
        {"https://2130706433/h", "url_not_allowed", "ends in a number"},
        {"https://localhost/h", "url_not_allowed", "the machine itself"},
        {"http://hook.example.net/h", "url_not_allowed", "plain http"},
        {"https://metadata.google.internal/h", "url_not_allowed", "inside of a cloud"},
        {"https://kubernetes.default.svc/h", "url_not_allowed", "inside of a cloud"},
        {"https://hook.example.net:25/h", "url_not_allowed",
         "port 25 is not allowed; allowed are 443, 8443"},
        {"https://u:p@127.0.0.1/h", "invalid_url", "password"},
        {"ftp://127.0.0.1/h", "invalid_url", "https"},
    };
    struct world *w = *state;
    struct answer a;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        ask_webhook(w, "POST", "/v1/webhooks", rows[i].url, &a);
        assert_url_fault(&a, rows[i].code, rows[i].detail);
        client_release(&a);
        ask_webhook(w, "PATCH", "/v1/webhooks/0199f3a0-0000-7000-8000-000000000001", rows[i].url,
                    &a);
        assert_url_fault(&a, rows[i].code, rows[i].detail);
        client_release(&a);
    }
}

/* The store of these tests has no webhooks: what gets as far as that passed the guard. */
static void test_reload_replaces_the_guard_of_urls(void **state) {
    static const struct str network = {"127.0.0.0/8", 11}, bad = {"127.0.0.1/8", 11};
    static const struct str host = {"127.0.0.1", 9};
    struct world *w = *state;
    struct api_options o = options_of(w);
    struct errinfo info = {0};
    struct answer a;
    o.guard = (struct guard_options){.allow_networks = &network,
                                     .allow_network_count = 1,
                                     .allow_http_hosts = &host,
                                     .allow_http_host_count = 1};
    assert_int_equal(api_reload(w->api, &o, &info), OK);
    ask_webhook(w, "POST", "/v1/webhooks", "http://127.0.0.1:8080/h", &a);
    assert_problem(&a, 503, "unavailable");
    client_release(&a);

    o.guard.allow_networks = &bad;
    assert_int_equal(api_check(&o, &info), ERR_INVALID);
    assert_int_equal(api_reload(w->api, &o, &info), ERR_INVALID);
    assert_string_equal(info.field, "allow_networks");
    ask_webhook(w, "POST", "/v1/webhooks", "http://127.0.0.1:8080/h", &a);
    assert_problem(&a, 503, "unavailable");
    client_release(&a);

    o.guard = (struct guard_options){0};
    assert_int_equal(api_reload(w->api, &o, &info), OK);
    ask_webhook(w, "POST", "/v1/webhooks", "http://127.0.0.1:8080/h", &a);
    assert_url_fault(&a, "url_not_allowed", "not a public one");
    client_release(&a);
}

/* ---- two parsers, two readings (T18) ---- */

/* Reads until the server closes. false: it accepted something after its first answer. */
static bool only_refusals_follow(int fd) {
    struct answer a;
    for (;;) {
        client_read(fd, false, &a);
        bool is_end = a.status == 0;
        bool is_refusal = a.status >= 400;
        client_release(&a);
        if (is_end || !is_refusal)
            return is_end;
    }
}

static void with_little_time(struct api_options *o) {
    /* some of them wait for more */
    o->header_timeout_ms = o->body_timeout_ms = o->idle_timeout_ms = 200;
}

static void test_T18_requests_that_two_parsers_read_differently_are_refused(void **state) {
#include "tests/unit/api/smuggling.inc"
    struct world *w = *state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct buf b = BUF_INIT(65536);
        struct answer a;
        buf_printf(&b, "%s", rows[i].line);
        buf_printf(&b, "Authorization: Bearer %s\r\nContent-Type: application/json\r\n", w->key.z);
        buf_putz(&b, rows[i].rest);
        int fd = client_connect(w->port);
        client_send(fd, buf_str(&b));
        client_read(fd, false, &a);
        /* "{}" is answered 422 by whoever takes it for a body, so what was read as a request shows
         */
        bool is_ours = str_find(a.body, STR("\"code\":\"invalid_request\"")) >= 0;
        bool is_librarys =
            !str_equal(client_header(&a, STR("Content-Type")), STR("application/problem+json"));
        bool is_refused = a.status >= 400 && (is_ours || is_librarys);
        if (rows[i].status == 400 ? !(a.status == 400 && is_refused)
                                  : !(a.status == 0 || is_refused))
            fail_msg("%s: taken for a request: %d %.*s", rows[i].name, a.status, STR_ARG(a.body));
        if (!only_refusals_follow(fd))
            fail_msg("%s: what stood behind it was answered", rows[i].name);
        client_release(&a);
        close(fd);
        buf_release(&b);
    }
    assert_int_equal(fake_accepts(w->store), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        SERVED(test_refusals),
        SERVED(test_several_accept_fields_are_one_list),
        SERVED(test_405_says_what_is_allowed),
        SERVED(test_all_faults_come_at_once),
        SERVED(test_a_fault_says_what_to_do_instead),
        SERVED(test_replay_is_of_one_delivery_or_of_a_period),
        SERVED(test_what_takes_nothing_takes_an_empty_object),
        SERVED(test_a_guard_that_was_set_since_stops_a_retry),
        SERVED(test_a_retry_under_a_used_key_makes_nothing_new),
        SERVED(test_a_retry_that_was_done_is_answered_whoever_may_still_send),
        SERVED(test_retries_of_tests_have_their_idempotency_keys_apart),
        SERVED(test_domain_that_is_too_long_for_its_records_is_named),
        SERVED(test_url_that_the_guard_refuses_is_not_stored),
        SERVED(test_reload_replaces_the_guard_of_urls),
        SERVED_WITH(test_T18_requests_that_two_parsers_read_differently_are_refused,
                    with_little_time),
    };
    log_setup(LOG_ERROR, LOG_FORMAT_TEXT);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
