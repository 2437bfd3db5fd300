/* Webhooks through the API, into a store: those who change them at the same time, and which secrets
 * sign after a rotation. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <jansson.h>
#include <pthread.h>
#include <stdlib.h>

#include "api/api.h"
#include "api/auth.h"
#include "server/base/limits.h"
#include "server/base/log.h"
#include "server/events/endpoint.h"
#include "tests/unit/api/client.h"

static const int64_t day_ms = INT64_C(24) * 3600 * 1000;

/* ---- calls that are held back ---- */

enum { HELD = 16 };

static struct {
    pthread_mutex_t mu;
    pthread_cond_t came;
    bool is_on;
    struct store_call *call[HELD];
    size_t count;
} held = {.mu = PTHREAD_MUTEX_INITIALIZER, .came = PTHREAD_COND_INITIALIZER};

void __real_store_post(struct store *s, struct store_call *call);
void __wrap_store_post(struct store *s, struct store_call *call);
void __wrap_store_post(struct store *s, struct store_call *call) {
    pthread_mutex_lock(&held.mu);
    bool is_held = held.is_on && (call->verb == STORE_WEBHOOKS || call->verb == STORE_WEBHOOK_PUT);
    if (is_held) {
        ASSERT(held.count < HELD);
        held.call[held.count++] = call;
        pthread_cond_broadcast(&held.came);
    }
    pthread_mutex_unlock(&held.mu);
    if (!is_held)
        __real_store_post(s, call);
}

static void hold(void) {
    pthread_mutex_lock(&held.mu);
    held.is_on = true;
    pthread_mutex_unlock(&held.mu);
}

/* When so many have come they go on together; those that come then are held again, or not. */
static void let_go(struct store *s, size_t count, bool holds_on) {
    struct store_call *call[HELD];
    pthread_mutex_lock(&held.mu);
    while (held.count < count)
        pthread_cond_wait(&held.came, &held.mu);
    assert_int_equal(held.count, count);
    memcpy(call, held.call, count * sizeof(*call));
    held.count = 0;
    held.is_on = holds_on;
    pthread_mutex_unlock(&held.mu);
    for (size_t i = 0; i < count; i++)
        __real_store_post(s, call[i]);
}

/* ---- a server over a store ---- */

struct world {
    struct store *store;
    struct api *api;
    int port;
    struct auth_key_text key;
};

static int send_to(const struct world *w, const char *method, const char *path, const char *json) {
    struct buf b = BUF_INIT(65536);
    buf_printf(&b, "%s %s HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\n", method, path,
               w->key.z);
    if (json != NULL)
        buf_printf(&b, "Content-Type: application/json\r\nContent-Length: %zu\r\n", strlen(json));
    buf_printf(&b, "\r\n%s", json != NULL ? json : "");
    int fd = client_connect(w->port);
    client_send(fd, buf_str(&b));
    buf_release(&b);
    return fd;
}

static int answer_of(int fd, json_t **out) {
    struct answer a;
    client_read(fd, false, &a);
    close(fd);
    int status = a.status;
    *out = json_loadb(a.body.p, a.body.n, 0, NULL);
    client_release(&a);
    return status;
}

static json_t *expect(const struct world *w, int status, const char *method, const char *path,
                      const char *json) {
    json_t *v;
    assert_int_equal(answer_of(send_to(w, method, path, json), &v), status);
    return v;
}

/* So many endpoints at https://hook.test/0, ... */
static void add_webhooks(struct world *w, size_t count) {
    for (size_t i = 0; i < count; i++) {
        char url[64];
        snprintf(url, sizeof(url), "https://hook.test/%zu", i);
        struct store_webhook_put q = {.call.verb = STORE_WEBHOOK_PUT,
                                      .webhook = {.id = id_new(clock_wall_ms()),
                                                  .project = API_PROJECT,
                                                  .url = str_of(url),
                                                  .secret = STR("whsec_AAAA")}};
        assert_int_equal(store_sync(w->store, &q.call), OK);
        store_call_release(&q.call);
    }
}

/* What the store has; release it. */
static struct store_webhooks read_webhooks(struct world *w) {
    struct store_webhooks q = {.call.verb = STORE_WEBHOOKS, .project = API_PROJECT};
    assert_int_equal(store_sync(w->store, &q.call), OK);
    return q;
}

static int setup(void **state) {
    static const struct str listen[] = {{"127.0.0.1:0", 11}};
    static struct intake_route relay = {.name = {"relay", 5}, .kind = INTAKE_ROUTE_SANDBOX};
    const struct store_options so = {.backend = STORE_MEMORY};
    struct world *w = mem_zalloc(sizeof(*w));
    struct errinfo info = {0};
    struct arena *a = arena_new();
    struct store_key_put q = {.call.verb = STORE_KEY_PUT};
    assert_int_equal(store_open(&so, &w->store, &info), OK);
    auth_key_generate(false, &w->key);
    q.key = (struct key_row){.id = id_new(clock_wall_ms()),
                             .project = API_PROJECT,
                             .name = STR("k"),
                             .scopes = SCOPE_MANAGE};
    assert_int_equal(auth_key_describe(auth_key_str(&w->key), a, &q.key, NULL), OK);
    assert_int_equal(store_sync(w->store, &q.call), OK);
    store_call_release(&q.call);
    arena_free(&a);
    const struct api_options o = {
        .store = w->store,
        .listen = listen,
        .listen_count = 1,
        .sandbox = true,
        .hostname = STR("mail.ours.test"),
        .intake = {.limits = {.recipients_max = 50, .message_bytes_max = 1024 * 1024},
                   .expires_default_ms = 86400000,
                   .expires_max_ms = 86400000,
                   .idempotency_keep_ms = 86400000,
                   .routes = &relay,
                   .route_count = 1,
                   .default_route = STR("relay")}};
    assert_int_equal(api_start(&o, &w->api, &info), OK);
    w->port = api_port(w->api, 0);
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

/* ---- at the same time ---- */

static void test_two_changes_at_once_are_both_kept(void **state) {
    static const char *const change[] = {"{\"url\":\"https://hook.test/new\"}",
                                         "{\"description\":\"ours\"}"};
    struct world *w = *state;
    char id[ID_TEXT_SIZE], path[128];
    int fd[2];
    add_webhooks(w, 1);
    struct store_webhooks q = read_webhooks(w);
    id_print(&q.webhook[0].id, id);
    snprintf(path, sizeof(path), "/v1/webhooks/%s", id);
    store_call_release(&q.call);
    hold();
    for (size_t i = 0; i < 2; i++)
        fd[i] = send_to(w, "PATCH", path, change[i]);
    let_go(w->store, 2, true);  /* both have read */
    let_go(w->store, 2, false); /* and write */
    for (size_t i = 0; i < 2; i++) {
        json_t *v;
        assert_int_equal(answer_of(fd[i], &v), 200);
        json_decref(v);
    }
    q = read_webhooks(w);
    assert_true(str_equal(q.webhook[0].url, STR("https://hook.test/new")));
    assert_true(str_equal(q.webhook[0].description, STR("ours")));
    store_call_release(&q.call);
}

/* Each of them looks before any of them writes. */
static void test_those_made_at_once_stay_within_the_limit(void **state) {
    enum { AT_ONCE = 6, ROOM = 2 };
    struct world *w = *state;
    int fd[AT_ONCE], made = 0;
    add_webhooks(w, LIMIT_WEBHOOKS - ROOM);
    hold();
    for (size_t i = 0; i < AT_ONCE; i++)
        fd[i] = send_to(w, "POST", "/v1/webhooks", "{\"url\":\"https://hook.test/x\"}");
    let_go(w->store, AT_ONCE, false);
    for (size_t i = 0; i < AT_ONCE; i++) {
        json_t *v;
        int status = answer_of(fd[i], &v);
        made += status == 201;
        if (status != 201) {
            const json_t *fault = json_array_get(json_object_get(v, "errors"), 0);
            assert_int_equal(status, 422);
            assert_string_equal(json_string_value(json_object_get(fault, "code")), "too_many");
            assert_string_equal(json_string_value(json_object_get(fault, "detail")),
                                "a project has at most 100 webhooks");
        }
        json_decref(v);
    }
    assert_int_equal(made, ROOM);
}

/* ---- rotation ---- */

/* The secrets that sign now, the newest first, as one text. */
static void signing(struct world *w, char out[256]) {
    struct str secret[ENDPOINT_SECRETS_MAX];
    struct store_webhooks q = read_webhooks(w);
    struct endpoints *all = endpoints_new(q.webhook, q.count);
    const struct endpoint *e = endpoints_find(all, &q.webhook[0].id);
    size_t n = endpoint_secrets(e, clock_wall_ms(), secret);
    snprintf(out, 256, "%.*s %.*s", STR_ARG(secret[0]), STR_ARG(n > 1 ? secret[1] : STR("-")));
    endpoints_free(&all);
    store_call_release(&q.call);
}

static void set_previous_until(struct world *w, int64_t wall_ms) {
    struct store_webhooks q = read_webhooks(w);
    struct store_webhook_put p = {
        .call.verb = STORE_WEBHOOK_PUT, .webhook = q.webhook[0], .replace = true};
    p.webhook.previous_until_wall_ms = wall_ms;
    assert_int_equal(store_sync(w->store, &p.call), OK);
    store_call_release(&p.call);
    store_call_release(&q.call);
}

static int64_t previous_until(struct world *w) {
    struct store_webhooks q = read_webhooks(w);
    int64_t wall_ms = q.webhook[0].previous_until_wall_ms;
    store_call_release(&q.call);
    return wall_ms;
}

/* A client whose answer was lost repeats the rotation: its receiver knows the first secret alone.
 */
static void test_the_secret_that_was_promised_a_day_signs_for_it(void **state) {
    struct world *w = *state;
    char path[128], want[256], now[256], secret[4][128];
    json_t *v = expect(w, 201, "POST", "/v1/webhooks", "{\"url\":\"https://hook.test/x\"}");
    snprintf(path, sizeof(path), "/v1/webhooks/%s/rotate",
             json_string_value(json_object_get(v, "id")));
    for (size_t i = 0; i < 4; i++) {
        static const size_t before[] = {0, 0, 0, 2}; /* its place in `secret` */
        snprintf(secret[i], sizeof(secret[i]), "%s",
                 json_string_value(json_object_get(v, "secret")));
        json_decref(v);
        snprintf(want, sizeof(want), "%s %s", secret[i], i > 0 ? secret[before[i]] : "-");
        signing(w, now);
        assert_string_equal(now, want);
        int64_t until_wall_ms = previous_until(w);
        if (i == 2) /* its day is over */
            set_previous_until(w, clock_wall_ms() - 1);
        v = expect(w, 200, "POST", path, NULL);
        if (i == 1) /* that of the first rotation */
            assert_int_equal(previous_until(w), until_wall_ms);
    }
    json_decref(v);
    /* the clock was ahead when it was promised */
    set_previous_until(w, clock_wall_ms() + 30 * day_ms);
    v = expect(w, 200, "POST", path, NULL);
    json_decref(v);
    assert_true(previous_until(w) <= clock_wall_ms() + day_ms);
}

int main(void) {
#define SERVED(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        SERVED(test_two_changes_at_once_are_both_kept),
        SERVED(test_those_made_at_once_stay_within_the_limit),
        SERVED(test_the_secret_that_was_promised_a_day_signs_for_it),
    };
    log_setup(LOG_ERROR, LOG_FORMAT_TEXT);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
