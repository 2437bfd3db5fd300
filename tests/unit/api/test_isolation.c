/* Two projects on one server: neither sees, changes or learns of what the other has. Every route of
 * the table with something in its path is asked, so that one that is added is asked, too. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <jansson.h>
#include <stdlib.h>

#include "api/api.h"
#include "api/auth.h"
#include "api/routes.h"
#include "server/base/log.h"
#include "tests/unit/api/client.h"

enum { OURS = API_PROJECT, THEIRS = API_PROJECT + 1 };

struct world {
    struct store *store;
    struct api *api;
    int port;
    struct auth_key_text key[THEIRS + 1];
    /* what each project has, by name of the path's second segment */
    char message[THEIRS + 1][ID_TEXT_SIZE], webhook[THEIRS + 1][ID_TEXT_SIZE];
    char key_id[THEIRS + 1][ID_TEXT_SIZE], capture[ID_TEXT_SIZE];
};

static const char *const domain_of[] = {[OURS] = "ours.test", [THEIRS] = "theirs.test"};

static int call(const struct world *w, int project, const char *method, const char *path,
                const char *json, json_t **out) {
    struct buf b = BUF_INIT(65536);
    struct answer a;
    buf_printf(&b, "%s %s HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\n", method, path,
               w->key[project].z);
    if (json != NULL)
        buf_printf(&b, "Content-Type: application/json\r\nContent-Length: %zu\r\n", strlen(json));
    buf_printf(&b, "\r\n%s", json != NULL ? json : "");
    client_once(w->port, buf_str(&b), &a);
    int status = a.status;
    if (out != NULL)
        *out = json_loadb(a.body.p, a.body.n, 0, NULL);
    client_release(&a);
    buf_release(&b);
    return status;
}

static void make(const struct world *w, int project, const char *path, const char *json,
                 char id[ID_TEXT_SIZE]) {
    json_t *v = NULL;
    int status = call(w, project, "POST", path, json, &v);
    if (status != 201 && status != 202)
        fail_msg("%s: %d", path, status);
    snprintf(id, ID_TEXT_SIZE, "%s", json_string_value(json_object_get(v, "id")));
    json_decref(v);
}

static void add_key(struct world *w, int project) {
    struct arena *a = arena_new();
    struct store_key_put q = {.call.verb = STORE_KEY_PUT};
    auth_key_generate(false, &w->key[project]);
    q.key = (struct key_row){.id = id_new(clock_wall_ms()),
                             .project = project,
                             .name = STR("all"),
                             .scopes = SCOPE_SEND | SCOPE_READ | SCOPE_MANAGE | SCOPE_ADMIN,
                             .created_wall_ms = clock_wall_ms()};
    assert_int_equal(auth_key_describe(auth_key_str(&w->key[project]), a, &q.key, NULL), OK);
    assert_int_equal(store_sync(w->store, &q.call), OK);
    id_print(&q.key.id, w->key_id[project]);
    store_call_release(&q.call);
    arena_free(&a);
}

static void add_capture(struct world *w) {
    struct store_capture_put q = {.call.verb = STORE_CAPTURE_PUT};
    q.capture = (struct capture_row){.id = id_new(clock_wall_ms()),
                                     .kind = CAPTURE_MESSAGE,
                                     .wall_ms = clock_wall_ms(),
                                     .meta_json = STR("{}"),
                                     .content = STR("Subject: s\r\n\r\n")};
    assert_int_equal(store_sync(w->store, &q.call), OK);
    id_print(&q.capture.id, w->capture);
    store_call_release(&q.call);
}

static void add_proved_domain(struct world *w, int project, struct str name) {
    struct store_domain_put q = {.call.verb = STORE_DOMAIN_PUT};
    int64_t now_wall_ms = clock_wall_ms();
    q.domain = (struct domain_row){.id = id_new(now_wall_ms),
                                   .project = project,
                                   .name = name,
                                   .created_wall_ms = now_wall_ms,
                                   .verified_wall_ms = now_wall_ms};
    assert_int_equal(store_sync(w->store, &q.call), OK);
    store_call_release(&q.call);
}

static void furnish(struct world *w, int project) {
    char json[512], ignored[ID_TEXT_SIZE];
    snprintf(json, sizeof(json), "{\"name\":\"%s\"}", domain_of[project]);
    make(w, project, "/v1/domains", json, ignored);
    snprintf(json, sizeof(json),
             "{\"from\":\"a@%s\",\"to\":\"b@far.test\",\"subject\":\"secret\",\"text\":\"t\"}",
             domain_of[project]);
    make(w, project, "/send", json, w->message[project]);
    make(w, project, "/v1/webhooks", "{\"url\":\"https://hook.far.test/x\"}", w->webhook[project]);
}

/* Looks at once and finds nothing. */
static void look_done(struct note *note) {
    struct domain_look *look = CONTAINER_OF(note, struct domain_look, note);
    look->done(look);
}

static void look(void *ctx, struct domain_look *look) {
    (void)ctx;
    look->note.run = look_done;
    mailbox_send(look->reply_to, &look->note);
}

static int setup(void **state) {
    static const struct str listen[] = {{"127.0.0.1:0", 11}};
    static struct intake_route relay = {.name = {"relay", 5}, .kind = INTAKE_ROUTE_SANDBOX};
    const struct store_options so = {.backend = STORE_MEMORY};
    struct world *w = mem_zalloc(sizeof(*w));
    struct errinfo info = {0};
    assert_int_equal(store_open(&so, &w->store, &info), OK);
    add_key(w, OURS);
    add_key(w, THEIRS);
    add_capture(w);
    add_proved_domain(w, THEIRS, STR("proved.test"));
    const struct api_options o = {
        .store = w->store,
        .listen = listen,
        .listen_count = 1,
        .sandbox = true,
        .hostname = STR("mail.ours.test"),
        .look = look,
        .intake = {.limits = {.recipients_max = 50, .message_bytes_max = 1024 * 1024},
                   .expires_default_ms = 86400000,
                   .expires_max_ms = 86400000,
                   .idempotency_keep_ms = 86400000,
                   .routes = &relay,
                   .route_count = 1,
                   .default_route = STR("relay")}};
    assert_int_equal(api_start(&o, &w->api, &info), OK);
    w->port = api_port(w->api, 0);
    furnish(w, OURS);
    furnish(w, THEIRS);
    *state = w;
    return 0;
}

static int teardown(void **state) {
    struct world *w = *state;
    api_stop(&w->api);
    store_close(&w->store);
    free(w);
    return 0;
}

/* The path of a route with the thing that this project has in it. */
static void fill_path(const struct world *w, const struct route *r, int project, char out[256]) {
    const char *what = NULL;
    if (str_starts_with(str_of(r->path), STR("/v1/messages/")))
        what = w->message[project];
    else if (str_starts_with(str_of(r->path), STR("/v1/webhooks/")))
        what = w->webhook[project];
    else if (str_starts_with(str_of(r->path), STR("/v1/keys/")))
        what = w->key_id[project];
    else if (str_starts_with(str_of(r->path), STR("/v1/domains/")))
        what = domain_of[project];
    else if (str_starts_with(str_of(r->path), STR("/v1/sandbox/messages/")))
        what = w->capture;
    if (what == NULL)
        fail_msg("%s: this test does not know what stands in its path", r->path);
    const char *open = strchr(r->path, '{'), *close = strchr(r->path, '}');
    snprintf(out, 256, "%.*s%s%s", (int)(open - r->path), r->path, what, close + 1);
}

static const char *body_of(const struct route *r) {
    if (strcmp(r->path, "/v1/webhooks/{id}/replay") == 0)
        return "{\"since\":\"2020-01-01T00:00:00Z\"}";
    return r->body_max != ROUTE_BODY_NONE ? "{}" : NULL;
}

static void test_no_route_reaches_what_another_project_has(void **state) {
    struct world *w = *state;
    size_t asked = 0;
    for (size_t i = 0; i < route_count; i++) {
        const struct route *r = &routes[i];
        char path[256];
        if (strchr(r->path, '{') == NULL)
            continue;
        /* captures have no project and belong to the first one */
        bool is_capture = strstr(r->path, "sandbox") != NULL;
        fill_path(w, r, is_capture ? OURS : THEIRS, path);
        int status = call(w, is_capture ? THEIRS : OURS, http_method_name(r->method), path,
                          body_of(r), NULL);
        if (status != 404)
            fail_msg("%s %s: %d", http_method_name(r->method), path, status);
        asked++;
    }
    assert_true(asked >= 18);
    /* and they still have it: what answered 404 did nothing; DELETE comes last */
    for (int pass = 0; pass < 2; pass++) {
        for (size_t i = 0; i < route_count; i++) {
            const struct route *r = &routes[i];
            char path[256];
            if (strchr(r->path, '{') == NULL || (r->method == HTTP_DELETE) != (pass == 1) ||
                strcmp(r->path, "/v1/keys/{id}") == 0)
                continue;
            bool is_capture = strstr(r->path, "sandbox") != NULL;
            int owner = is_capture ? OURS : THEIRS;
            fill_path(w, r, owner, path);
            int status = call(w, owner, http_method_name(r->method), path, body_of(r), NULL);
            if (status == 404 || status >= 500)
                fail_msg("%s %s: %d", http_method_name(r->method), path, status);
        }
    }
}

static void test_no_list_shows_what_another_project_has(void **state) {
    struct world *w = *state;
    for (size_t i = 0; i < route_count; i++) {
        const struct route *r = &routes[i];
        json_t *list = NULL;
        if (r->method != HTTP_GET || r->scope == 0 || strchr(r->path, '{') != NULL)
            continue;
        bool is_capture = strstr(r->path, "sandbox") != NULL;
        assert_int_equal(call(w, is_capture ? THEIRS : OURS, "GET", r->path, NULL, &list), 200);
        char *text = json_dumps(list, 0);
        assert_null(strstr(text, domain_of[THEIRS]));
        assert_null(strstr(text, w->message[THEIRS]));
        assert_null(strstr(text, w->webhook[THEIRS]));
        assert_null(strstr(text, w->key_id[THEIRS]));
        assert_null(strstr(text, w->capture));
        assert_int_equal(json_array_size(json_object_get(list, "data")), is_capture ? 0 : 1);
        free(text);
        json_decref(list);
    }
}

/* A filter with a typing error must not answer as if it had been none. */
static void test_no_route_passes_over_what_it_does_not_know(void **state) {
    struct world *w = *state;
    for (size_t i = 0; i < route_count; i++) {
        const struct route *r = &routes[i];
        char path[256], asked[300];
        if (r->scope == 0)
            continue;
        if (strchr(r->path, '{') != NULL)
            fill_path(w, r, OURS, path);
        else
            snprintf(path, sizeof(path), "%s", r->path);
        snprintf(asked, sizeof(asked), "%s?limt=1", path);
        int status = call(w, OURS, http_method_name(r->method), asked, body_of(r), NULL);
        if (status != 422)
            fail_msg("%s %s: %d", http_method_name(r->method), asked, status);
        if (r->body_max == ROUTE_BODY_NONE)
            continue;
        status = call(w, OURS, http_method_name(r->method), path, "{\"nope\":1}", NULL);
        if (status != 422)
            fail_msg("%s %s with a field: %d", http_method_name(r->method), path, status);
    }
}

static void test_T11_another_project_sends_not_from_a_domain_that_is_taken(void **state) {
    struct world *w = *state;
    json_t *v = NULL;
    assert_int_equal(call(w, OURS, "POST", "/send",
                          "{\"from\":\"a@theirs.test\",\"to\":\"b@far.test\",\"text\":\"t\"}", &v),
                     403);
    assert_string_equal(json_string_value(json_object_get(v, "code")), "from_not_allowed");
    json_decref(v);
}

static void test_T11_bounces_go_to_no_domain_of_another_project(void **state) {
    static const struct {
        const char *form;
        int want;
    } rows[] = {
        {"{\"name\":\"a.test\",\"bounce_address\":\"b@proved.test\"}", 403},
        {"{\"name\":\"a.test\",\"bounce_address\":\"b@x.proved.test\"}", 403},
        {"{\"name\":\"a.test\",\"bounce_address\":\"b@theirs.test\"}", 403},
        {"{\"name\":\"proved.test\",\"bounce_address\":\"b@theirs.test\"}", 403},
        {"{\"name\":\"a.test\",\"bounce_address\":\"b@ours.test\"}", 201},
        {"{\"name\":\"x.proved.test\",\"bounce_address\":\"b@x.proved.test\"}", 201},
    };
    struct world *w = *state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        json_t *v = NULL;
        int status = call(w, OURS, "POST", "/v1/domains", rows[i].form, &v);
        if (status != rows[i].want)
            fail_msg("%s: %d", rows[i].form, status);
        if (status == 403) {
            const json_t *fault = json_array_get(json_object_get(v, "errors"), 0);
            assert_string_equal(json_string_value(json_object_get(fault, "pointer")),
                                "#/bounce_address");
            assert_string_equal(json_string_value(json_object_get(fault, "code")),
                                "domain_not_allowed");
        }
        json_decref(v);
    }
}

static void test_a_key_of_one_domain_decides_about_its_messages_alone(void **state) {
    static const struct {
        const char *domain, *action;
        int want;
    } rows[] = {
        {"other.test", "cancel", 403}, {"other.test", "retry", 403}, {"*.ours.test", "cancel", 403},
        {"ours.test", "retry", 202},   {"ours.test", "cancel", 200},
    };
    struct world *w = *state;
    struct auth_key_text all = w->key[OURS];
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        char json[256], path[128];
        json_t *made = NULL;
        snprintf(json, sizeof(json),
                 "{\"name\":\"k\",\"scopes\":[\"send\"],\"from_domains\":\"%s\"}", rows[i].domain);
        w->key[OURS] = all;
        assert_int_equal(call(w, OURS, "POST", "/v1/keys", json, &made), 201);
        memcpy(w->key[OURS].z, json_string_value(json_object_get(made, "key")), AUTH_KEY_TEXT);
        json_decref(made);
        snprintf(path, sizeof(path), "/v1/messages/%s/%s", w->message[OURS], rows[i].action);
        int status = call(w, OURS, "POST", path, "{}", NULL);
        if (status != rows[i].want && !(rows[i].want == 202 && status == 409))
            fail_msg("%s by a key of %s: %d", rows[i].action, rows[i].domain, status);
    }
}

static void test_T11_a_sender_takes_rights_at_retry_and_cancel_as_at_sending(void **state) {
    static const struct {
        const char *domains, *action;
        bool may;
    } rows[] = {{"[\"ours.test\"]", "cancel", false},
                {"[\"ours.test\"]", "retry", false},
                {"[\"ours.test\",\"list.test\"]", "retry", true},
                {"[\"ours.test\",\"list.test\"]", "cancel", true}};
    struct world *w = *state;
    struct auth_key_text all = w->key[OURS];
    char id[ID_TEXT_SIZE];
    make(w, OURS, "/send",
         "{\"from\":\"a@ours.test\",\"sender\":\"s@list.test\",\"to\":\"b@far.test\",\"text\":"
         "\"t\"}",
         id);
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        char json[256], path[128];
        json_t *made = NULL;
        snprintf(json, sizeof(json), "{\"name\":\"k\",\"scopes\":[\"send\"],\"from_domains\":%s}",
                 rows[i].domains);
        w->key[OURS] = all;
        assert_int_equal(call(w, OURS, "POST", "/v1/keys", json, &made), 201);
        memcpy(w->key[OURS].z, json_string_value(json_object_get(made, "key")), AUTH_KEY_TEXT);
        json_decref(made);
        snprintf(path, sizeof(path), "/v1/messages/%s/%s", id, rows[i].action);
        int status = call(w, OURS, "POST", path, "{}", NULL);
        if ((status == 403) == rows[i].may)
            fail_msg("%s by a key of %s: %d", rows[i].action, rows[i].domains, status);
    }
}

int main(void) {
#define SERVED(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        SERVED(test_no_route_reaches_what_another_project_has),
        SERVED(test_no_list_shows_what_another_project_has),
        SERVED(test_no_route_passes_over_what_it_does_not_know),
        SERVED(test_T11_another_project_sends_not_from_a_domain_that_is_taken),
        SERVED(test_T11_bounces_go_to_no_domain_of_another_project),
        SERVED(test_a_key_of_one_domain_decides_about_its_messages_alone),
        SERVED(test_T11_a_sender_takes_rights_at_retry_and_cancel_as_at_sending),
    };
    log_setup(LOG_ERROR, LOG_FORMAT_TEXT);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
