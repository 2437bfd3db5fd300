/* One server for each test, over a store that does as it is told, and how it is asked. A test
 * program includes it once, behind cmocka.h.
 *
 *     ask(w, "POST", "/send", &w->key, "", body_text(), &a);
 *     assert_problem(&a, 422, "validation_failed");
 *     client_release(&a);
 *
 *     SERVED(test_x), SERVED_WITH(test_y, with_little_memory),     // in main
 */
#pragma once

#include <jansson.h>

#include "api/api.h"
#include "api/auth.h"
#include "server/base/clock.h"
#include "server/base/limits.h"
#include "server/base/log.h"
#include "tests/unit/api/client.h"
#include "tests/unit/api/fake_store.h"

struct world {
    struct store *store;
    struct api *api;
    int port;
    struct auth_key_text key, read_key, test_key, expired_key;
};

static inline void add_key(struct world *w, struct auth_key_text *out, bool is_test,
                           unsigned scopes, int64_t expires_wall_ms) {
    struct store_key_put q = {.call.verb = STORE_KEY_PUT};
    auth_key_generate(is_test, out);
    q.key = (struct key_row){.id = id_new(clock_wall_ms()),
                             .project = API_PROJECT,
                             .name = STR("test"),
                             .scopes = scopes,
                             .expires_wall_ms = expires_wall_ms};
    struct arena *a = arena_new();
    assert_int_equal(auth_key_describe(auth_key_str(out), a, &q.key, NULL), OK);
    assert_int_equal(store_sync(w->store, &q.call), OK);
    arena_free(&a);
}

static struct intake_route sandbox_route = {.name = {"default", 7}, .kind = INTAKE_ROUTE_SANDBOX};

static inline struct api_options options_of(struct world *w) {
    static const struct str listen[] = {{"127.0.0.1:0", 11}};
    return (struct api_options){
        .store = w->store,
        .listen = listen,
        .listen_count = 1,
        .sandbox = true,
        .hostname = STR("mail.acme.test"),
        .intake = {.limits = {.recipients_max = 50, .message_bytes_max = 25 * 1024 * 1024},
                   .expires_default_ms = INT64_C(86400000),
                   .expires_max_ms = INT64_C(5 * 86400000),
                   .idempotency_keep_ms = INT64_C(86400000),
                   .routes = &sandbox_route,
                   .route_count = 1,
                   .default_route = STR("default")},
        .drain_ms = 5000,
    };
}

static inline void world_start(struct world *w, const struct api_options *o) {
    struct errinfo info = {0};
    assert_int_equal(api_start(o, &w->api, &info), OK);
    w->port = api_port(w->api, 0);
    assert_true(w->port > 0);
}

static inline void world_prepare(struct world *w) {
    *w = (struct world){.store = fake_new()};
    add_key(w, &w->key, false, SCOPE_SEND | SCOPE_READ | SCOPE_MANAGE | SCOPE_ADMIN, 0);
    add_key(w, &w->read_key, false, SCOPE_READ, 0);
    add_key(w, &w->test_key, true, SCOPE_SEND, 0);
    add_key(w, &w->expired_key, false, SCOPE_SEND, clock_wall_ms() - 1);
}

/* What a test wants otherwise; *state before setup(), NULL: nothing. */
struct world_wish {
    void (*change)(struct api_options *o);
};

static inline void with_a_health_listener(struct api_options *o) {
    static const struct str health[] = {{"127.0.0.1:0", 11}};
    o->listen_health = health;
    o->listen_health_count = 1;
}

static inline int setup(void **state) {
    const struct world_wish *wish = *state;
    struct world *w = mem_zalloc(sizeof(*w));
    world_prepare(w);
    struct api_options o = options_of(w);
    if (wish != NULL)
        wish->change(&o);
    world_start(w, &o);
    *state = w;
    return 0;
}

/* A test may do it before its end. */
static inline void world_stop(struct world *w) {
    if (w->store == NULL)
        return;
    api_stop(&w->api);
    assert_int_equal(fake_watches(w->store), 0);
    fake_free(w->store);
    w->store = NULL;
}

static inline int teardown(void **state) {
    struct world *w = *state;
    world_stop(w);
    free(w);
    return 0;
}

static const struct str good_body = {
    "{\"from\":\"Acme <no-reply@acme.test>\",\"to\":\"ann@example.net\","
    "\"subject\":\"Your code\",\"text\":\"123456\"}",
    100};

static inline void put_request(struct buf *b, const char *method, const char *path,
                               const struct auth_key_text *key, const char *headers,
                               struct str body) {
    buf_printf(b, "%s %s HTTP/1.1\r\nHost: localhost\r\n", method, path);
    if (key != NULL)
        buf_printf(b, "Authorization: Bearer %s\r\n", key->z);
    buf_putz(b, headers);
    if (!str_is_absent(body))
        buf_printf(b, "Content-Type: application/json\r\nContent-Length: %zu\r\n", body.n);
    buf_putz(b, "\r\n");
    if (!str_is_absent(body))
        buf_put(b, body);
    assert_int_equal(buf_status(b), OK);
}

static inline void ask(struct world *w, const char *method, const char *path,
                       const struct auth_key_text *key, const char *headers, struct str body,
                       struct answer *out) {
    struct buf b = BUF_INIT(CLIENT_ANSWER_MAX);
    put_request(&b, method, path, key, headers, body);
    client_once(w->port, buf_str(&b), out);
    buf_release(&b);
}

static inline struct str body_text(void) {
    return str_of(good_body.p);
}

static inline json_t *json_of(const struct answer *a) {
    json_t *v = json_loadb(a->body.p, a->body.n, 0, NULL);
    assert_non_null(v);
    return v;
}

static inline void assert_problem(const struct answer *a, int status, const char *code) {
    if (a->status != status)
        fail_msg("status %d, not %d: %.*s", a->status, status, STR_ARG(a->body));
    assert_true(str_equal(client_header(a, STR("Content-Type")), STR("application/problem+json")));
    json_t *v = json_of(a);
    assert_string_equal(json_string_value(json_object_get(v, "code")), code);
    assert_int_equal(json_integer_value(json_object_get(v, "status")), status);
    struct str id = client_header(a, STR("X-Request-Id"));
    assert_true(str_equal(str_of(json_string_value(json_object_get(v, "request_id"))), id));
    json_decref(v);
}

/* Stores `count` messages whose subjects have so many bytes; free() the text when nobody asks for
 * them any more. */
static inline char *put_large_subjects(struct world *w, size_t count, size_t bytes) {
    char *subject = mem_zalloc(bytes);
    memset(subject, 's', bytes);
    for (size_t i = 0; i < count; i++) {
        struct answer a;
        ask(w, "POST", "/send", &w->key, "", body_text(), &a);
        assert_int_equal(a.status, 202);
        client_release(&a);
        w->store->message[w->store->message_count - 1].row.subject = str_make(subject, bytes);
    }
    return subject;
}

#define SERVED(test) cmocka_unit_test_setup_teardown(test, setup, teardown)
/* By a server with options that change(&options) makes its own. */
#define SERVED_WITH(test, change)                                                                  \
    cmocka_unit_test_prestate_setup_teardown(test, setup, teardown, &(struct world_wish){change})
