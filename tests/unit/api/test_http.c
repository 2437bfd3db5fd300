#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <jansson.h>
#include <poll.h>
#include <stdatomic.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "api/api.h"
#include "api/auth.h"
#include "server/base/clock.h"
#include "server/base/limits.h"
#include "server/base/log.h"
#include "tests/unit/api/client.h"
#include "tests/unit/api/fake_store.h"
#include "tests/unit/log_watch.h"

/* Stands before the one of the C library, also for libmicrohttpd: who closes a descriptor twice
 * takes it from whoever got its number meanwhile. */
static atomic_int closed_twice;

int close(int fd) {
    int result = (int)syscall(SYS_close, fd);
    if (result != 0 && errno == EBADF)
        atomic_fetch_add(&closed_twice, 1);
    return result;
}

/* ---- one server for each test ---- */

struct world {
    struct store *store;
    struct api *api;
    int port;
    struct auth_key_text key, read_key, test_key, expired_key;
};

static void add_key(struct world *w, struct auth_key_text *out, bool is_test, unsigned scopes,
                    int64_t expires_wall_ms) {
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

static struct api_options options_of(struct world *w) {
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

static void world_start(struct world *w, const struct api_options *o) {
    struct errinfo info = {0};
    assert_int_equal(api_start(o, &w->api, &info), OK);
    w->port = api_port(w->api, 0);
    assert_true(w->port > 0);
}

static void world_prepare(struct world *w) {
    *w = (struct world){.store = fake_new()};
    add_key(w, &w->key, false, SCOPE_SEND | SCOPE_READ | SCOPE_MANAGE | SCOPE_ADMIN, 0);
    add_key(w, &w->read_key, false, SCOPE_READ, 0);
    add_key(w, &w->test_key, true, SCOPE_SEND, 0);
    add_key(w, &w->expired_key, false, SCOPE_SEND, clock_wall_ms() - 1);
}

static int setup(void **state) {
    struct world *w = mem_zalloc(sizeof(*w));
    world_prepare(w);
    struct api_options o = options_of(w);
    world_start(w, &o);
    *state = w;
    return 0;
}

static void world_stop(struct world *w) {
    api_stop(&w->api);
    assert_int_equal(fake_watches(w->store), 0);
    fake_free(w->store);
}

static int teardown(void **state) {
    struct world *w = *state;
    world_stop(w);
    free(w);
    return 0;
}

/* ---- requests ---- */

static const struct str good_body = {
    "{\"from\":\"Acme <no-reply@acme.test>\",\"to\":\"ann@example.net\","
    "\"subject\":\"Your code\",\"text\":\"123456\"}",
    100};

static void put_request(struct buf *b, const char *method, const char *path,
                        const struct auth_key_text *key, const char *headers, struct str body) {
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

static void ask(struct world *w, const char *method, const char *path,
                const struct auth_key_text *key, const char *headers, struct str body,
                struct answer *out) {
    struct buf b = BUF_INIT(CLIENT_ANSWER_MAX);
    put_request(&b, method, path, key, headers, body);
    client_once(w->port, buf_str(&b), out);
    buf_release(&b);
}

static struct str body_text(void) {
    return str_of(good_body.p);
}

static json_t *json_of(const struct answer *a) {
    json_t *v = json_loadb(a->body.p, a->body.n, 0, NULL);
    assert_non_null(v);
    return v;
}

static void assert_problem(const struct answer *a, int status, const char *code) {
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

/* ---- accepting ---- */

static void test_message_is_answered_202_after_it_is_stored(void **state) {
    struct world *w = *state;
    struct answer a;
    ask(w, "POST", "/send", &w->key, "", body_text(), &a);
    if (a.status != 202)
        fail_msg("%d %.*s", a.status, STR_ARG(a.body));
    json_t *v = json_of(&a);
    const char *id = json_string_value(json_object_get(v, "id"));
    assert_non_null(id);
    assert_string_equal(json_string_value(json_object_get(v, "state")), "queued");
    assert_int_equal(json_array_size(json_object_get(v, "recipients")), 1);
    char location[128];
    snprintf(location, sizeof(location), "/v1/messages/%s", id);
    assert_true(str_equal(client_header(&a, STR("Location")), str_of(location)));
    assert_int_equal(w->store->message_count, 1);
    assert_true(str_equal(w->store->message[0].row.from_domain, STR("acme.test")));
    json_decref(v);
    client_release(&a);
    ask(w, "GET", location, &w->read_key, "", STR_NONE, &a);
    assert_int_equal(a.status, 200);
    client_release(&a);
}

static void test_nothing_is_answered_before_the_store_has_it(void **state) {
    struct world *w = *state;
    struct buf b = BUF_INIT(4096);
    struct answer a;
    fake_hold(w->store);
    put_request(&b, "POST", "/send", &w->key, "", body_text());
    int fd = client_connect(w->port);
    client_send(fd, buf_str(&b));
    fake_wait_held(w->store, 1);
    struct pollfd p = {.fd = fd, .events = POLLIN};
    assert_int_equal(poll(&p, 1, 300), 0);
    fake_release(w->store);
    client_read(fd, false, &a);
    assert_int_equal(a.status, 202);
    client_release(&a);
    close(fd);
    buf_release(&b);
}

static void test_store_that_cannot_write_is_503_with_retry_after(void **state) {
    struct world *w = *state;
    struct answer a;
    fake_fail(w->store, ERR_UNAVAILABLE);
    ask(w, "POST", "/send", &w->key, "", body_text(), &a);
    assert_problem(&a, 503, "unavailable");
    assert_false(str_is_absent(client_header(&a, STR("Retry-After"))));
    client_release(&a);
    assert_int_equal(w->store->message_count, 0);
    ask(w, "GET", "/readyz", NULL, "", STR_NONE, &a);
    assert_int_equal(a.status, 503);
    client_release(&a);
}

static void test_large_body_goes_through_a_worker(void **state) {
    struct world *w = *state;
    struct answer a;
    struct buf body = BUF_INIT(4 * 1024 * 1024);
    buf_putz(&body,
             "{\"from\":\"a@acme.test\",\"to\":\"b@example.net\",\"subject\":\"s\",\"text\":\"");
    for (int i = 0; i < 20000; i++)
        buf_putz(&body, "a line of forty characters of some text\\n");
    buf_putz(&body, "\"}");
    ask(w, "POST", "/send", &w->key, "", buf_str(&body), &a);
    if (a.status != 202)
        fail_msg("%d %.*s", a.status, STR_ARG(a.body));
    assert_true(w->store->message[0].row.size_bytes > 20000 * 40);
    client_release(&a);
    buf_release(&body);
}

static void test_kept_connection_carries_many_requests(void **state) {
    struct world *w = *state;
    struct buf b = BUF_INIT(4096);
    put_request(&b, "POST", "/send", &w->key, "", body_text());
    int fd = client_connect(w->port);
    for (int i = 0; i < 50; i++) {
        struct answer a;
        client_send(fd, buf_str(&b));
        client_read(fd, false, &a);
        assert_int_equal(a.status, 202);
        assert_false(a.is_closed);
        client_release(&a);
    }
    close(fd);
    buf_release(&b);
    assert_int_equal(w->store->message_count, 50);
}

/* Who found no descriptor left is let in when there are some again, also while others stay. */
static void test_after_a_want_of_descriptors_clients_are_accepted_again(void **state) {
    struct world *w = *state;
    if (is_under_memcheck())
        skip(); /* it keeps the limit itself: takes the connection, then closes it */
    struct answer a;
    struct buf b = BUF_INIT(4096);
    put_request(&b, "GET", "/livez", NULL, "", STR(""));
    int kept[16]; /* each loop has some of them */
    for (size_t i = 0; i < 16; i++) {
        kept[i] = client_connect(w->port);
        client_send(kept[i], buf_str(&b));
        client_read(kept[i], false, &a);
        client_release(&a);
    }
    struct rlimit before, none;
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0); /* the lowest that was free */
    none = (struct rlimit){.rlim_cur = (rlim_t)fd + 1, .rlim_max = before.rlim_max};
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
    struct sockaddr_in sa = {.sin_family = AF_INET,
                             .sin_port = htons((uint16_t)w->port),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    assert_int_equal(connect(fd, (struct sockaddr *)&sa, sizeof(sa)), 0);
    client_send(fd, buf_str(&b));
    struct pollfd answer = {.fd = fd, .events = POLLIN};
    assert_int_equal(poll(&answer, 1, 300), 0);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
    client_read(fd, false, &a);
    assert_int_equal(a.status, 200);
    client_release(&a);
    close(fd);
    for (size_t i = 0; i < 16; i++)
        close(kept[i]);
    buf_release(&b);
}

/* ---- idempotency ---- */

static void test_repetition_with_the_same_key_gets_the_first_answer(void **state) {
    struct world *w = *state;
    struct answer first, second;
    ask(w, "POST", "/send", &w->key, "Idempotency-Key: k1\r\n", body_text(), &first);
    assert_int_equal(first.status, 202);
    assert_true(str_is_absent(client_header(&first, STR("Idempotency-Replayed"))));
    fake_deliver(w->store, 0);
    ask(w, "POST", "/send", &w->key, "Idempotency-Key: k1\r\n", body_text(), &second);
    assert_int_equal(second.status, 202);
    assert_true(str_equal(client_header(&second, STR("Idempotency-Replayed")), STR("true")));
    assert_true(str_equal(first.body, second.body));
    assert_true(
        str_equal(client_header(&first, STR("Location")), client_header(&second, STR("Location"))));
    assert_int_equal(w->store->message_count, 1);
    client_release(&first);
    client_release(&second);
}

static void test_same_key_with_another_message_is_422(void **state) {
    struct world *w = *state;
    struct answer a;
    ask(w, "POST", "/send", &w->key, "Idempotency-Key: k1\r\n", body_text(), &a);
    client_release(&a);
    ask(w, "POST", "/send", &w->key, "Idempotency-Key: k1\r\n",
        STR("{\"from\":\"a@acme.test\",\"to\":\"b@example.net\",\"text\":\"other\"}"), &a);
    assert_problem(&a, 422, "idempotency_key_reused");
    client_release(&a);
}

/* ---- waiting ---- */

static void test_test_and_live_message_are_never_the_same(void **state) {
    struct world *w = *state;
    struct answer a;
    ask(w, "POST", "/send", &w->test_key, "Idempotency-Key: k1\r\n", body_text(), &a);
    assert_int_equal(a.status, 202);
    client_release(&a);
    ask(w, "POST", "/send", &w->key, "Idempotency-Key: k1\r\n", body_text(), &a);
    assert_problem(&a, 422, "idempotency_key_reused");
    client_release(&a);
}

static void test_wait_answers_200_when_all_is_final(void **state) {
    struct world *w = *state;
    struct buf b = BUF_INIT(4096);
    struct answer a;
    put_request(&b, "POST", "/send", &w->key, "Prefer: wait=20\r\n", body_text());
    int fd = client_connect(w->port);
    client_send(fd, buf_str(&b));
    while (fake_watches(w->store) < 2) /* the keeper's, and the loop's that waits */
        poll(NULL, 0, 1);
    fake_deliver(w->store, 0);
    client_read(fd, false, &a);
    if (a.status != 200)
        fail_msg("%d %.*s", a.status, STR_ARG(a.body));
    assert_true(str_equal(client_header(&a, STR("Preference-Applied")), STR("wait=20")));
    json_t *v = json_of(&a);
    json_t *smtp = json_object_get(json_array_get(json_object_get(v, "recipients"), 0), "smtp");
    assert_int_equal(json_integer_value(json_object_get(smtp, "code")), 250);
    assert_string_equal(json_string_value(json_object_get(smtp, "mx")), "mx.example.net");
    json_decref(v);
    client_release(&a);
    close(fd);
    buf_release(&b);
}

static void test_wait_answers_202_when_the_time_is_over(void **state) {
    struct world *w = *state;
    struct answer a;
    int64_t before = clock_mono_ms();
    ask(w, "POST", "/send", &w->key, "Prefer: wait=1\r\n", body_text(), &a);
    assert_int_equal(a.status, 202);
    assert_in_range(clock_mono_ms() - before, 900, 5000);
    client_release(&a);
}

static void test_replay_waits_on_the_message_that_is_there(void **state) {
    struct world *w = *state;
    struct answer a;
    ask(w, "POST", "/send", &w->key, "Idempotency-Key: k\r\n", body_text(), &a);
    client_release(&a);
    fake_deliver(w->store, 0);
    ask(w, "POST", "/send", &w->key, "Idempotency-Key: k\r\nPrefer: wait=20\r\n", body_text(), &a);
    assert_int_equal(a.status, 200);
    assert_true(str_equal(client_header(&a, STR("Idempotency-Replayed")), STR("true")));
    client_release(&a);
}

static void test_waiting_ends_when_the_client_goes_away(void **state) {
    struct world *w = *state;
    struct buf b = BUF_INIT(4096);
    put_request(&b, "POST", "/send", &w->key, "Prefer: wait=60\r\n", body_text());
    int fd = client_connect(w->port);
    client_send(fd, buf_str(&b));
    while (fake_watches(w->store) < 2)
        poll(NULL, 0, 1);
    close(fd);
    int64_t until = clock_mono_ms() + 10000;
    while (fake_watches(w->store) > 1 && clock_mono_ms() < until)
        poll(NULL, 0, 5);
    assert_int_equal(fake_watches(w->store), 1);
    buf_release(&b);
}

/* ---- clients that go away ---- */

static void test_client_that_leaves_while_the_store_works_does_no_harm(void **state) {
    struct world *w = *state;
    struct buf b = BUF_INIT(4096);
    put_request(&b, "POST", "/send", &w->key, "", body_text());
    fake_hold(w->store);
    for (size_t i = 0; i < 20; i++) {
        int fd = client_connect(w->port);
        client_send(fd, buf_str(&b));
        fake_wait_held(w->store, i + 1);
        if (i % 2 == 0) {
            const struct linger reset = {.l_onoff = 1};
            setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
        }
        close(fd);
    }
    fake_release(w->store);
    struct answer a;
    client_once(w->port, buf_str(&b), &a);
    assert_int_equal(a.status, 202);
    client_release(&a);
    assert_int_equal(fake_accepts(w->store), 21);
    buf_release(&b);
}

static void test_client_that_leaves_in_the_middle_of_its_request_does_no_harm(void **state) {
    struct world *w = *state;
    struct buf b = BUF_INIT(4096);
    put_request(&b, "POST", "/send", &w->key, "", body_text());
    for (size_t n = 0; n < b.n; n += 7) {
        int fd = client_connect(w->port);
        client_send(fd, str_slice(buf_str(&b), 0, n));
        close(fd);
    }
    struct answer a;
    client_once(w->port, buf_str(&b), &a);
    assert_int_equal(a.status, 202);
    client_release(&a);
    assert_int_equal(w->store->message_count, 1);
    buf_release(&b);
}

/* ---- refusals ---- */

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
        int status; /* 404: it was taken, and there is no such message */
    } rows[] = {{"", 404},  {"{}", 404}, {" { \n\t} ", 404}, {"{\"a\":1}", 422}, {"[]", 422},
                {"x", 422}, {"{", 422},  {"}", 422},         {"{}{}", 422},      {"{{}}", 422}};
    struct world *w = *state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct answer a;
        ask(w, "POST", "/v1/messages/01930000-0000-7000-8000-000000000000/cancel", &w->key, "",
            str_of(rows[i].body), &a);
        if (a.status != rows[i].status)
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

/* ---- limits ---- */

static void test_T16_body_over_the_limit_is_413_and_names_it(void **state) {
    struct world *w = *state;
    struct answer a;
    struct buf body = BUF_INIT(LIMIT_SMALL_BODY + 100);
    while (body.n <= LIMIT_SMALL_BODY)
        buf_putz(&body, " ");
    ask(w, "POST", "/v1/keys", &w->key, "", buf_str(&body), &a);
    assert_problem(&a, 413, "body_too_large");
    assert_true(str_find(a.body, STR("262144")) > 0);
    client_release(&a);
    /* the same without a length */
    struct buf b = BUF_INIT(2 * LIMIT_SMALL_BODY);
    buf_printf(&b,
               "POST /v1/keys HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\n"
               "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n%zx\r\n",
               w->key.z, body.n);
    buf_put(&b, buf_str(&body));
    buf_putz(&b, "\r\n0\r\n\r\n");
    client_once(w->port, buf_str(&b), &a);
    assert_problem(&a, 413, "body_too_large");
    client_release(&a);
    buf_release(&b);
    buf_release(&body);
}

/* One field of that size, or many, or one of many cookies; or a query. */
static void put_large_header(struct buf *b, int kind, size_t size) {
    static const char *const unit[] = {"a", "a\r\nX-Padding: b", "a=b; "};
    static const char *const begin[] = {"X-Padding: ", "X-Padding: ", "Cookie: "};
    struct str one = str_of(unit[kind]);
    buf_putz(b, begin[kind]);
    for (size_t n = 0; n + one.n <= size; n += one.n) {
        if (kind == 1) /* at most 128 fields */
            for (size_t i = 0; i < 300 && n < size; i++, n++)
                buf_putc(b, 'a');
        buf_put(b, one);
    }
    buf_putz(b, "\r\n");
}

/* Header and answer share the library's memory of a connection: a message was taken whose answer
 * had no room, and taken again at each repetition. */
static void test_what_is_accepted_is_answered_however_large_the_header(void **state) {
    struct world *w = *state;
    int refused = 0;
    for (int kind = 0; kind < 3; kind++)
        for (size_t size = 1000; size < 44000; size += 331) {
            struct buf b = BUF_INIT(256 * 1024), header = BUF_INIT(128 * 1024);
            struct answer a;
            put_large_header(&header, kind, size);
            put_request(&b, "POST", "/send", &w->key, header.p, body_text());
            size_t before = fake_accepts(w->store);
            client_once(w->port, buf_str(&b), &a);
            bool is_accepted = fake_accepts(w->store) > before;
            if (is_accepted != (a.status == 202))
                fail_msg("kind %d, %zu octets: %s, answered %d", kind, size,
                         is_accepted ? "accepted" : "refused", a.status);
            refused += a.status == 431;
            client_release(&a);
            buf_release(&header);
            buf_release(&b);
        }
    assert_true(refused > 50);
}

static void test_refused_body_that_is_announced_is_not_asked_for(void **state) {
    struct world *w = *state;
    struct answer a;
    struct buf b = BUF_INIT(4096);
    buf_printf(&b,
               "POST /send HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\n"
               "Content-Type: application/json\r\nContent-Length: 99999999\r\n"
               "Expect: 100-continue\r\n\r\n",
               w->key.z);
    client_once(w->port, buf_str(&b), &a);
    assert_problem(&a, 413, "body_too_large");
    client_release(&a);
    buf_release(&b);
}

static void test_T16_bodies_beyond_the_memory_set_aside_are_503(void **state) {
    struct world *w = mem_zalloc(sizeof(*w));
    struct answer a;
    (void)state;
    world_prepare(w);
    struct api_options o = options_of(w);
    o.memory_max_bytes = 100000 * LIMIT_REQUEST_COST;
    world_start(w, &o);
    struct buf head = BUF_INIT(4096), body = BUF_INIT(100000);
    buf_printf(&head,
               "POST /send HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\n"
               "Content-Type: application/json\r\nContent-Length: 60000\r\n\r\n",
               w->key.z);
    while (body.n < 60000)
        buf_putz(&body, " ");
    int slow = client_connect(w->port);
    client_send(slow, buf_str(&head));
    client_send(slow, STR("{"));
    /* the first one holds 60,000 bytes as soon as its header was read */
    int64_t until = clock_mono_ms() + 10000;
    do {
        int fd = client_connect(w->port);
        client_send(fd, buf_str(&head));
        client_send(fd, buf_str(&body));
        client_read(fd, false, &a);
        close(fd);
        if (a.status == 503)
            break;
        client_release(&a);
    } while (clock_mono_ms() < until);
    assert_problem(&a, 503, "overloaded");
    client_release(&a);
    close(slow);
    buf_release(&head);
    buf_release(&body);
    world_stop(w);
    free(w);
}

static void test_client_that_left_in_its_body_holds_no_memory(void **state) {
    struct world *w = mem_zalloc(sizeof(*w));
    struct answer a;
    (void)state;
    world_prepare(w);
    struct api_options o = options_of(w);
    o.memory_max_bytes = 100000 * LIMIT_REQUEST_COST;
    o.loops = 1;
    world_start(w, &o);
    struct buf head = BUF_INIT(4096), body = BUF_INIT(100000);
    buf_printf(&head,
               "POST /send HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\n"
               "Content-Type: application/json\r\nContent-Length: 60000\r\n\r\n{",
               w->key.z);
    buf_put(&body, body_text());
    while (body.n < 60000)
        buf_putc(&body, ' ');
    int fd = client_connect(w->port);
    /* What it said and its end are one segment, and so one event of epoll: the library reads what
     * came, and is not woken for the end. */
    assert_int_equal(send(fd, head.p, head.n, MSG_MORE), (ssize_t)head.n);
    close(fd);
    /* far less than the 30 s that a body has */
    int64_t until = clock_mono_ms() + 10000;
    do {
        ask(w, "POST", "/send", &w->key, "", buf_str(&body), &a);
        if (a.status == 202)
            break;
        client_release(&a);
        poll(NULL, 0, 50);
    } while (clock_mono_ms() < until);
    assert_int_equal(a.status, 202);
    client_release(&a);
    buf_release(&head);
    buf_release(&body);
    world_stop(w);
    free(w);
}

/* Announcing is free; it must not cost others their place. */
static void test_T16_one_key_cannot_set_aside_all_memory(void **state) {
    enum { SLOW = 4, SIZE = 100000 };
    struct world *w = mem_zalloc(sizeof(*w));
    struct answer a;
    struct auth_key_text other;
    int slow[SLOW];
    (void)state;
    world_prepare(w);
    add_key(w, &other, false, SCOPE_SEND, 0);
    struct api_options o = options_of(w);
    o.memory_max_bytes = SLOW * SIZE * LIMIT_REQUEST_COST;
    world_start(w, &o);
    struct buf body = BUF_INIT(SIZE);
    buf_put(&body, body_text());
    while (body.n < SIZE)
        buf_putc(&body, ' ');
    for (size_t i = 0; i < SLOW; i++) {
        struct buf head = BUF_INIT(4096);
        struct pollfd p = {.events = POLLIN};
        buf_printf(&head,
                   "POST /send HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\n"
                   "Content-Type: application/json\r\nContent-Length: %d\r\n"
                   "Expect: 100-continue\r\n\r\n",
                   w->key.z, SIZE);
        slow[i] = client_connect(w->port);
        client_send(slow[i], buf_str(&head));
        p.fd = slow[i];
        assert_int_equal(poll(&p, 1, (int)patience_ms(CLIENT_TIMEOUT_MS)), 1); /* 100, or 503 */
        buf_release(&head);
    }
    client_read(slow[SLOW - 1], false, &a);
    assert_problem(&a, 503, "overloaded");
    client_release(&a);
    ask(w, "POST", "/send", &other, "", buf_str(&body), &a);
    assert_int_equal(a.status, 202);
    client_release(&a);
    for (size_t i = 0; i < SLOW; i++)
        close(slow[i]);
    buf_release(&body);
    world_stop(w);
    free(w);
}

static void test_T17_slow_clients_are_cut_off(void **state) {
    struct world *w = mem_zalloc(sizeof(*w));
    (void)state;
    world_prepare(w);
    struct api_options o = options_of(w);
    o.header_timeout_ms = 300;
    o.body_timeout_ms = 300;
    o.idle_timeout_ms = 300;
    world_start(w, &o);
    struct buf b = BUF_INIT(4096);
    put_request(&b, "POST", "/send", &w->key, "", body_text());
    const struct {
        const char *name;
        size_t bytes; /* of the request */
    } rows[] = {{"nothing", 0}, {"half a header", 40}, {"half a body", b.n - 10}};
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        int fd = client_connect(w->port);
        int64_t before = clock_mono_ms();
        client_send(fd, str_slice(buf_str(&b), 0, rows[i].bytes));
        if (!client_is_closed(fd))
            fail_msg("%s: still open", rows[i].name);
        assert_in_range(clock_mono_ms() - before, 250, 5000);
        close(fd);
    }
    /* after an answer the connection waits for the next request, but not for ever */
    struct answer a;
    int fd = client_connect(w->port);
    client_send(fd, buf_str(&b));
    client_read(fd, false, &a);
    assert_int_equal(a.status, 202);
    assert_true(client_is_closed(fd));
    close(fd);
    client_release(&a);
    buf_release(&b);
    world_stop(w);
    free(w);
}

static void test_T17_drop_by_drop_header_does_not_extend_the_deadline(void **state) {
    struct world *w = mem_zalloc(sizeof(*w));
    (void)state;
    world_prepare(w);
    struct api_options o = options_of(w);
    o.header_timeout_ms = 500;
    world_start(w, &o);
    int fd = client_connect(w->port);
    int64_t before = clock_mono_ms();
    struct pollfd p = {.fd = fd, .events = POLLIN};
    client_send(fd, STR("GET /livez HTTP/1.1\r\n"));
    while (poll(&p, 1, 20) == 0 && clock_mono_ms() - before < 5000)
        client_send(fd, STR("X-A: b\r\n"));
    assert_in_range(clock_mono_ms() - before, 400, 3000);
    close(fd);
    world_stop(w);
    free(w);
}

static void test_T17_connections_of_one_address_are_limited(void **state) {
    struct world *w = mem_zalloc(sizeof(*w));
    (void)state;
    world_prepare(w);
    struct api_options o = options_of(w);
    o.connections_per_ip_max = 3;
    o.loops = 1;
    world_start(w, &o);
    int fd[3];
    struct answer a;
    for (size_t i = 0; i < 3; i++) {
        fd[i] = client_connect(w->port);
        client_send(fd[i], STR("GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"));
        client_read(fd[i], false, &a);
        assert_int_equal(a.status, 200);
        client_release(&a);
    }
    int more = client_connect(w->port);
    assert_true(client_is_closed(more));
    close(more);
    close(fd[0]);
    /* its place is free as soon as the server saw that it left */
    int64_t until = clock_mono_ms() + 10000;
    do {
        client_once(w->port, STR("GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"), &a);
        if (a.status == 200)
            break;
        client_release(&a);
    } while (clock_mono_ms() < until);
    assert_int_equal(a.status, 200);
    client_release(&a);
    close(fd[1]);
    close(fd[2]);
    world_stop(w);
    free(w);
}

static void test_full_health_listener_shuts_no_client_out(void **state) {
    static const struct str health[] = {{"127.0.0.1:0", 11}};
    struct world *w = mem_zalloc(sizeof(*w));
    (void)state;
    world_prepare(w);
    struct api_options o = options_of(w);
    o.connections_max = 3;
    o.loops = 1;
    o.listen_health = health;
    o.listen_health_count = 1;
    world_start(w, &o);
    int fd[3];
    struct answer a;
    for (size_t i = 0; i < 3; i++) {
        fd[i] = client_connect(api_port(w->api, 1));
        client_send(fd[i], STR("GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"));
        client_read(fd[i], false, &a);
        assert_int_equal(a.status, 200);
        client_release(&a);
    }
    ask(w, "POST", "/send", &w->key, "", body_text(), &a);
    assert_int_equal(a.status, 202);
    client_release(&a);
    for (size_t i = 0; i < 3; i++)
        close(fd[i]);
    world_stop(w);
    free(w);
}

static const struct str livez = {"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n", 32};

/* Whoever reaches it could otherwise take the descriptors that delivery and the store need. */
static void test_health_listener_takes_so_many_and_no_more(void **state) {
    static const struct str health[] = {{"127.0.0.1:0", 11}};
    struct world *w = mem_zalloc(sizeof(*w));
    (void)state;
    world_prepare(w);
    struct api_options o = options_of(w);
    o.listen_health = health;
    o.listen_health_count = 1;
    world_start(w, &o);
    int fd[LIMIT_OTHER_CONNECTIONS], port = api_port(w->api, 1);
    struct answer a;
    for (size_t i = 0; i < LIMIT_OTHER_CONNECTIONS; i++) {
        fd[i] = client_connect(port);
        client_send(fd[i], livez);
        client_read(fd[i], false, &a);
        assert_int_equal(a.status, 200);
        client_release(&a);
    }
    int more = client_connect(port);
    assert_true(client_is_closed(more));
    close(more);
    close(fd[0]);
    /* its place is free as soon as the server saw that it left */
    int64_t until = clock_mono_ms() + 10000;
    do {
        client_once(port, livez, &a);
        client_release(&a);
    } while (a.status != 200 && clock_mono_ms() < until);
    assert_int_equal(a.status, 200);
    for (size_t i = 1; i < LIMIT_OTHER_CONNECTIONS; i++)
        close(fd[i]);
    world_stop(w);
    free(w);
}

static void test_reload_allows_more_connections(void **state) {
    struct world *w = mem_zalloc(sizeof(*w));
    (void)state;
    world_prepare(w);
    struct api_options o = options_of(w);
    o.connections_max = 2;
    o.loops = 1;
    world_start(w, &o);
    o.connections_max = 4;
    assert_int_equal(api_reload(w->api, &o, NULL), OK);
    int fd[4];
    struct answer a;
    for (size_t i = 0; i < 4; i++) {
        fd[i] = client_connect(w->port);
        client_send(fd[i], livez);
        client_read(fd[i], false, &a);
        assert_int_equal(a.status, 200);
        client_release(&a);
    }
    int more = client_connect(w->port);
    assert_true(client_is_closed(more));
    close(more);
    for (size_t i = 0; i < 4; i++)
        close(fd[i]);
    world_stop(w);
    free(w);
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

static void test_T18_requests_that_two_parsers_read_differently_are_refused(void **state) {
#include "tests/unit/api/smuggling.inc"
    struct world *w = mem_zalloc(sizeof(*w));
    (void)state;
    world_prepare(w);
    struct api_options o = options_of(w);
    o.header_timeout_ms = o.body_timeout_ms = o.idle_timeout_ms = 200; /* some wait for more */
    world_start(w, &o);
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
    world_stop(w);
    free(w);
}

/* ---- keys ---- */

static void test_T21_revoked_key_is_refused_at_once(void **state) {
    struct world *w = *state;
    for (int i = 0; i < 5; i++) {
        struct answer a;
        struct auth_key_text made;
        char path[128];
        ask(w, "POST", "/v1/keys", &w->key, "",
            STR("{\"name\":\"app\",\"scopes\":[\"send\"],\"from_domains\":[\"acme.test\"]}"), &a);
        if (a.status != 201)
            fail_msg("%d %.*s", a.status, STR_ARG(a.body));
        json_t *v = json_of(&a);
        snprintf(made.z, sizeof(made.z), "%s", json_string_value(json_object_get(v, "key")));
        snprintf(path, sizeof(path), "/v1/keys/%s", json_string_value(json_object_get(v, "id")));
        json_decref(v);
        client_release(&a);
        assert_true(auth_key_is_well_formed(auth_key_str(&made)));
        ask(w, "POST", "/send", &made, "", body_text(), &a);
        assert_int_equal(a.status, 202);
        client_release(&a);
        ask(w, "DELETE", path, &w->key, "", STR_NONE, &a);
        assert_int_equal(a.status, 204);
        client_release(&a);
        for (int k = 0; k < 4; k++) { /* on whatever loop */
            ask(w, "POST", "/send", &made, "", body_text(), &a);
            assert_problem(&a, 401, "invalid_key");
            client_release(&a);
        }
    }
}

static void make_key(struct world *w, const char *form, struct auth_key_text *out) {
    struct answer a;
    ask(w, "POST", "/v1/keys", &w->key, "", str_of(form), &a);
    assert_int_equal(a.status, 201);
    json_t *v = json_of(&a);
    snprintf(out->z, sizeof(out->z), "%s", json_string_value(json_object_get(v, "key")));
    json_decref(v);
    client_release(&a);
}

static void test_retry_and_cancel_ask_for_the_rights_of_sending(void **state) {
    static const char *const acts[] = {"retry", "cancel"};
    struct world *w = *state;
    struct answer a;
    struct auth_key_text other, same, test;
    char of_live[128], of_test[128], id[ID_TEXT_SIZE];
    make_key(w, "{\"name\":\"a\",\"scopes\":\"send\",\"from_domains\":\"other.test\"}", &other);
    make_key(w, "{\"name\":\"b\",\"scopes\":\"send\",\"from_domains\":\"acme.test\"}", &same);
    make_key(w, "{\"name\":\"c\",\"scopes\":\"send\",\"test\":true}", &test);
    ask(w, "POST", "/send", &w->key, "", body_text(), &a);
    client_release(&a);
    ask(w, "POST", "/send", &w->test_key, "", body_text(), &a);
    client_release(&a);
    assert_int_equal(w->store->message_count, 2);
    for (size_t i = 0; i < sizeof(acts) / sizeof(acts[0]); i++) {
        id_print(&w->store->message[0].id, id);
        snprintf(of_live, sizeof(of_live), "/v1/messages/%s/%s", id, acts[i]);
        id_print(&w->store->message[1].id, id);
        snprintf(of_test, sizeof(of_test), "/v1/messages/%s/%s", id, acts[i]);
        ask(w, "POST", of_live, &other, "", STR("{}"), &a);
        assert_problem(&a, 403, "from_not_allowed");
        client_release(&a);
        ask(w, "POST", of_live, &test, "", STR("{}"), &a);
        assert_problem(&a, 403, "forbidden");
        client_release(&a);
        /* the fake does neither: these got through to it */
        ask(w, "POST", of_live, &same, "", STR("{}"), &a);
        assert_problem(&a, 503, "unavailable");
        client_release(&a);
        ask(w, "POST", of_test, &test, "", STR("{}"), &a);
        assert_problem(&a, 503, "unavailable");
        client_release(&a);
    }
}

/* A body that came slowly would have let its key in long after the answer that it is revoked. */
static void test_T32_key_with_a_rate_makes_no_more_requests(void **state) {
    struct world *w = *state;
    struct auth_key_text limited;
    struct answer a;
    make_key(w, "{\"name\":\"l\",\"scopes\":\"send\",\"rate\":3}", &limited);
    for (int i = 0; i < 3; i++) {
        char left[64];
        ask(w, "POST", "/send", &limited, "", body_text(), &a);
        assert_int_equal(a.status, 202);
        snprintf(left, sizeof(left), "\"key\";r=%d;t=%d", 2 - i, 20 * (i + 1));
        assert_true(str_equal(client_header(&a, STR("RateLimit-Policy")), STR("\"key\";q=3;w=60")));
        assert_true(str_equal(client_header(&a, STR("RateLimit")), str_of(left)));
        client_release(&a);
    }
    ask(w, "POST", "/send", &limited, "", body_text(), &a);
    assert_problem(&a, 429, "rate_limited");
    uint64_t wait_s = 0;
    assert_int_equal(str_parse_u64(client_header(&a, STR("Retry-After")), 20, &wait_s), OK);
    assert_true(wait_s >= 15);
    client_release(&a);
    assert_int_equal(w->store->message_count, 3);
    /* others are not concerned */
    ask(w, "POST", "/send", &w->key, "", body_text(), &a);
    assert_int_equal(a.status, 202);
    assert_true(str_is_absent(client_header(&a, STR("RateLimit"))));
    client_release(&a);
}

static void test_key_revoked_while_its_body_comes_is_refused(void **state) {
    struct world *w = *state;
    struct answer a;
    struct auth_key_text made;
    char path[128];
    struct buf b = BUF_INIT(4096);
    ask(w, "POST", "/v1/keys", &w->key, "", STR("{\"name\":\"app\",\"scopes\":\"send\"}"), &a);
    assert_int_equal(a.status, 201);
    json_t *v = json_of(&a);
    snprintf(made.z, sizeof(made.z), "%s", json_string_value(json_object_get(v, "key")));
    snprintf(path, sizeof(path), "/v1/keys/%s", json_string_value(json_object_get(v, "id")));
    json_decref(v);
    client_release(&a);
    put_request(&b, "POST", "/send", &made, "Expect: 100-continue\r\n", body_text());
    struct str head = str_slice(buf_str(&b), 0, b.n - body_text().n);
    int fd = client_connect(w->port);
    client_send(fd, head);
    struct pollfd p = {.fd = fd, .events = POLLIN};
    assert_int_equal(poll(&p, 1, (int)patience_ms(CLIENT_TIMEOUT_MS)),
                     1); /* 100: the key was looked at */
    ask(w, "DELETE", path, &w->key, "", STR_NONE, &a);
    assert_int_equal(a.status, 204);
    client_release(&a);
    client_send(fd, body_text());
    client_read(fd, false, &a);
    assert_problem(&a, 401, "invalid_key");
    assert_int_equal(w->store->message_count, 0);
    client_release(&a);
    close(fd);
    buf_release(&b);
}

static void test_a_limited_key_makes_no_key_with_fewer_limits(void **state) {
#define SEND "{\"name\":\"k\",\"scopes\":\"send\""
    static const struct {
        const char *maker, *form, *pointer; /* NULL: it is made */
    } rows[] = {
        {"\"from_domains\":\"acme.test\"", SEND "}", "#/from_domains"},
        {"\"from_domains\":\"acme.test\"", SEND ",\"from_domains\":[]}", "#/from_domains"},
        {"\"from_domains\":\"acme.test\"", SEND ",\"from_domains\":[\"acme.test\",\"b.test\"]}",
         "#/from_domains"},
        {"\"from_domains\":\"acme.test\"", SEND ",\"from_domains\":\"*.acme.test\"}",
         "#/from_domains"},
        {"\"from_domains\":[\"acme.test\",\"*.b.test\"]", SEND ",\"from_domains\":\"a.b.test\"}",
         NULL},
        {"\"test\":true", SEND "}", "#/test"},
        {"\"test\":true", SEND ",\"test\":false}", "#/test"},
        {"\"test\":true", SEND ",\"test\":true}", NULL},
        {"\"rate\":60", SEND "}", "#/rate"},
        {"\"rate\":60", SEND ",\"rate\":61}", "#/rate"},
        {"\"rate\":60", SEND ",\"rate\":60}", NULL},
        {"\"expires_at\":\"2100-01-01T00:00:00Z\"", SEND "}", "#/expires_at"},
        {"\"expires_at\":\"2100-01-01T00:00:00Z\"",
         SEND ",\"expires_at\":\"2100-01-01T00:00:01Z\"}", "#/expires_at"},
        {"\"expires_at\":\"2100-01-01T00:00:00Z\"",
         SEND ",\"expires_at\":\"2099-12-31T00:00:00Z\"}", NULL},
    };
    struct world *w = *state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        char form[256];
        struct auth_key_text maker;
        struct answer a;
        snprintf(form, sizeof(form), "{\"name\":\"m\",\"scopes\":\"admin\",%s}", rows[i].maker);
        make_key(w, form, &maker);
        size_t before = w->store->key_count;
        ask(w, "POST", "/v1/keys", &maker, "", str_of(rows[i].form), &a);
        if (a.status != (rows[i].pointer != NULL ? 403 : 201))
            fail_msg("%s makes %s: %d", rows[i].maker, rows[i].form, a.status);
        if (rows[i].pointer != NULL) {
            assert_problem(&a, 403, "forbidden");
            assert_true(str_find(a.body, str_of(rows[i].pointer)) > 0);
            assert_int_equal(w->store->key_count, before);
        }
        client_release(&a);
    }
#undef SEND
}

/* Every change of one is all of them read anew: one project must not make that slow for others. */
static void test_T32_keys_and_domains_of_a_project_are_limited(void **state) {
    enum { OTHER = API_PROJECT + 1, NAME = 16 };
    struct world *w = mem_zalloc(sizeof(*w));
    struct key_row *keys = mem_zalloc((LIMIT_KEYS + 4) * sizeof(*keys));
    struct domain_row *domains = mem_zalloc(LIMIT_DOMAINS * sizeof(*domains));
    char(*name)[NAME] = mem_zalloc((size_t)LIMIT_KEYS * NAME);
    (void)state;
    world_prepare(w);
    size_t n = w->store->key_count;
    memcpy(keys, w->store->key, n * sizeof(*keys));
    for (size_t i = 0; i < LIMIT_KEYS; i++) {
        snprintf(name[i], NAME, "n%zu.test", i);
        domains[i] = (struct domain_row){.project = API_PROJECT, .name = str_of(name[i])};
        if (n < LIMIT_KEYS + 1) /* one of them is expired */
            keys[n++] = (struct key_row){.project = API_PROJECT, .prefix = str_of(name[i])};
    }
    w->store->other_keys = keys;
    w->store->other_domains = domains;
    const struct {
        size_t keys, domains;
        int status[2];
    } rows[] = {{n, LIMIT_DOMAINS, {422, 422}}, {n - 1, LIMIT_DOMAINS - 1, {201, 503}}};
    for (size_t i = 0; i < 2; i++) {
        struct answer a;
        struct api_options o = options_of(w);
        w->store->other_key_count = rows[i].keys;
        w->store->other_domain_count = rows[i].domains;
        world_start(w, &o);
        ask(w, "POST", "/v1/keys", &w->key, "", STR("{\"name\":\"k\",\"scopes\":\"send\"}"), &a);
        assert_int_equal(a.status, rows[i].status[0]);
        client_release(&a);
        ask(w, "POST", "/v1/domains", &w->key, "", STR("{\"name\":\"x.test\"}"), &a);
        assert_int_equal(a.status, rows[i].status[1]);
        client_release(&a);
        api_stop(&w->api);
    }
    /* (the fake stores no domain: 503 got through to it); others have room of their own */
    for (size_t i = 4; i < n; i++)
        keys[i].project = OTHER;
    struct keyring *ring = keyring_new(keys, n);
    assert_int_equal(keyring_count(ring, API_PROJECT, clock_wall_ms()), 3);
    keyring_unref(&ring);
    fake_free(w->store);
    free(name);
    free(domains);
    free(keys);
    free(w);
}

static void test_from_outside_of_the_key_is_403(void **state) {
    struct world *w = *state;
    struct answer a;
    struct auth_key_text made;
    ask(w, "POST", "/v1/keys", &w->key, "",
        STR("{\"name\":\"a\",\"scopes\":\"send\",\"from_domains\":\"*.acme.test\"}"), &a);
    assert_int_equal(a.status, 201);
    json_t *v = json_of(&a);
    snprintf(made.z, sizeof(made.z), "%s", json_string_value(json_object_get(v, "key")));
    json_decref(v);
    client_release(&a);
    ask(w, "POST", "/send", &made, "", body_text(), &a);
    assert_problem(&a, 403, "from_not_allowed");
    client_release(&a);
}

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
        {"https://hook.example.net:25/h", "url_not_allowed", "port 25"},
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

static void test_T21_the_text_of_a_key_is_nowhere_but_in_the_answer_that_made_it(void **state) {
    struct world *w = *state;
    struct answer a;
    ask(w, "GET", "/v1/keys", &w->key, "", STR_NONE, &a);
    assert_int_equal(a.status, 200);
    struct str secret = str_slice(auth_key_str(&w->key), AUTH_KEY_PREFIX, AUTH_KEY_TEXT);
    assert_true(str_find(a.body, str_slice(auth_key_str(&w->key), 0, AUTH_KEY_PREFIX)) > 0);
    assert_true(str_find(a.body, secret) < 0);
    client_release(&a);
}

/* ---- listings ---- */

static void test_pages_follow_each_other(void **state) {
    struct world *w = *state;
    struct answer a;
    char path[256] = "/v1/messages?limit=3";
    size_t seen = 0;
    for (int i = 0; i < 8; i++) {
        ask(w, "POST", "/send", &w->key, "", body_text(), &a);
        client_release(&a);
    }
    for (;;) {
        ask(w, "GET", path, &w->key, "", STR_NONE, &a);
        assert_int_equal(a.status, 200);
        json_t *v = json_of(&a);
        seen += json_array_size(json_object_get(v, "data"));
        const char *after = json_string_value(json_object_get(v, "after"));
        if (after != NULL)
            snprintf(path, sizeof(path), "/v1/messages?limit=3&after=%s", after);
        bool is_last = after == NULL;
        json_decref(v);
        client_release(&a);
        if (is_last)
            break;
    }
    assert_int_equal(seen, 8);
}

static void test_answer_beyond_every_limit_is_500_and_not_the_end(void **state) {
    expect_log("an answer is too large");
    struct world *w = *state;
    enum { ROWS = 80, SUBJECT = 1024 * 1024 };
    struct answer a;
    char *subject = mem_zalloc(SUBJECT);
    memset(subject, 's', SUBJECT);
    for (int i = 0; i < ROWS; i++) {
        ask(w, "POST", "/send", &w->key, "", body_text(), &a);
        assert_int_equal(a.status, 202);
        client_release(&a);
        w->store->message[i].row.subject = str_make(subject, SUBJECT);
    }
    ask(w, "GET", "/v1/messages?limit=100", &w->key, "", STR_NONE, &a);
    assert_problem(&a, 500, "internal");
    client_release(&a);
    ask(w, "GET", "/v1/messages?limit=10", &w->key, "", STR_NONE, &a);
    assert_int_equal(a.status, 200);
    client_release(&a);
    free(subject);
}

/* Who asks for a lot and reads nothing would hold as much as he likes. */
static void test_T16_large_answers_are_taken_out_of_the_memory_set_aside(void **state) {
    enum { ROWS = 4, SUBJECT = 4 * 1024 * 1024, SLOW = 3 }; /* far more than sockets hold */
    struct world *w = mem_zalloc(sizeof(*w));
    struct answer a;
    (void)state;
    world_prepare(w);
    struct api_options o = options_of(w);
    o.memory_max_bytes = (size_t)2 * ROWS * SUBJECT;
    world_start(w, &o);
    char *subject = mem_zalloc(SUBJECT);
    memset(subject, 's', SUBJECT);
    for (int i = 0; i < ROWS; i++) {
        ask(w, "POST", "/send", &w->key, "", body_text(), &a);
        assert_int_equal(a.status, 202);
        client_release(&a);
        w->store->message[i].row.subject = str_make(subject, SUBJECT);
    }
    struct buf b = BUF_INIT(4096);
    int fd[SLOW];
    put_request(&b, "GET", "/v1/messages", &w->key, "", STR_NONE);
    for (int i = 0; i < SLOW; i++) { /* three quarters hold one, not two */
        struct pollfd p = {.events = POLLIN};
        fd[i] = client_connect(w->port);
        client_send(fd[i], buf_str(&b));
        p.fd = fd[i];
        assert_int_equal(poll(&p, 1, (int)patience_ms(CLIENT_TIMEOUT_MS)), 1);
    }
    for (int i = 1; i < SLOW; i++) {
        client_read(fd[i], false, &a);
        assert_problem(&a, 503, "overloaded");
        assert_false(a.is_closed);
        client_release(&a);
    }
    client_read(fd[0], false, &a);
    assert_int_equal(a.status, 200);
    assert_true(a.body.n > (size_t)ROWS * SUBJECT);
    client_release(&a);
    /* and given back when it was read */
    client_send(fd[0], buf_str(&b));
    client_read(fd[0], false, &a);
    assert_int_equal(a.status, 200);
    client_release(&a);
    for (int i = 0; i < SLOW; i++)
        close(fd[i]);
    buf_release(&b);
    world_stop(w);
    free(subject);
    free(w);
}

static void test_raw_message_comes_back_byte_for_byte(void **state) {
    struct world *w = *state;
    struct answer a;
    char id[ID_TEXT_SIZE], path[128];
    ask(w, "POST", "/send", &w->key, "", body_text(), &a);
    client_release(&a);
    id_print(&w->store->message[0].id, id);
    snprintf(path, sizeof(path), "/v1/messages/%s/raw", id);
    ask(w, "GET", path, &w->key, "", STR_NONE, &a);
    assert_int_equal(a.status, 200);
    assert_true(str_equal(client_header(&a, STR("Content-Type")), STR("message/rfc822")));
    struct message_pieces pieces = message_bytes(w->store->message[0].content);
    assert_true(str_equal(a.body, pieces.piece[1]));
    client_release(&a);
    ask(w, "HEAD", path, &w->key, "", STR_NONE, &a);
    assert_int_equal(a.status, 200);
    client_release(&a);
}

/* ---- the contract ---- */

static void test_examples_of_the_contract_are_accepted(void **state) {
    struct world *w = *state;
    struct answer a;
    ask(w, "GET", "/openapi.json", NULL, "", STR_NONE, &a);
    assert_int_equal(a.status, 200);
    json_t *v = json_of(&a);
    client_release(&a);
    const struct {
        const char *path, *place[6];
        int status;
    } rows[] = {
        {"/send", {"components", "requestBodies", "Submission"}, 202},
        {"/v1/keys", {"paths", "/v1/keys", "post", "requestBody"}, 201},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        json_t *body = v, *example;
        const char *name;
        for (size_t k = 0; rows[i].place[k] != NULL; k++)
            body = json_object_get(body, rows[i].place[k]);
        body = json_object_get(json_object_get(body, "content"), "application/json");
        json_t *examples = json_object_get(body, "examples");
        assert_true(json_object_size(examples) > 1);
        json_object_foreach(examples, name, example) {
            char *text = json_dumps(json_object_get(example, "value"), 0);
            ask(w, "POST", rows[i].path, &w->key, "", str_of(text), &a);
            if (a.status != rows[i].status)
                fail_msg("%s, %s: %d %.*s", rows[i].path, name, a.status, STR_ARG(a.body));
            client_release(&a);
            free(text);
        }
    }
    json_decref(v);
}

/* ---- other listeners ---- */

static void test_health_has_a_listener_of_its_own(void **state) {
    struct world *w = mem_zalloc(sizeof(*w));
    static const struct str health[] = {{"127.0.0.1:0", 11}};
    (void)state;
    world_prepare(w);
    struct api_options o = options_of(w);
    o.listen_health = health;
    o.listen_health_count = 1;
    world_start(w, &o);
    int other = api_port(w->api, 1);
    struct answer a;
    const struct {
        int port;
        const char *path;
        int status;
    } rows[] = {
        {w->port, "/livez", 404}, {w->port, "/readyz", 404},       {w->port, "/metrics", 404},
        {other, "/livez", 200},   {other, "/readyz", 200},         {other, "/metrics", 200},
        {other, "/send", 404},    {w->port, "/openapi.json", 200}, {other, "/openapi.json", 404},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        char text[256];
        snprintf(text, sizeof(text), "GET %s HTTP/1.1\r\nHost: x\r\n\r\n", rows[i].path);
        client_once(rows[i].port, str_of(text), &a);
        if (a.status != rows[i].status)
            fail_msg("%s on %d: %d", rows[i].path, rows[i].port, a.status);
        client_release(&a);
    }
    world_stop(w);
    free(w);
}

static void test_control_socket_needs_no_key_and_lets_only_its_owner_in(void **state) {
    struct world *w = mem_zalloc(sizeof(*w));
    char folder[] = "/tmp/postchute-test-XXXXXX", path[128];
    (void)state;
    assert_non_null(mkdtemp(folder));
    snprintf(path, sizeof(path), "%s/control.sock", folder);
    world_prepare(w);
    struct api_options o = options_of(w);
    o.control_path = str_of(path);
    world_start(w, &o);
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    struct sockaddr_un sa = {.sun_family = AF_UNIX};
    memcpy(sa.sun_path, path, strlen(path) + 1);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&sa, sizeof(sa)), 0);
    client_send(fd, STR("GET /v1/keys HTTP/1.1\r\nHost: x\r\n\r\n"));
    struct answer a;
    client_read(fd, false, &a);
    assert_int_equal(a.status, 200);
    client_release(&a);
    close(fd);
    world_stop(w);
    assert_int_equal(stat(path, &st), -1);
    rmdir(folder);
    free(w);
}

/* ---- the end ---- */

static void test_drain_answers_what_is_open_and_takes_nothing_new(void **state) {
    struct world *w = mem_zalloc(sizeof(*w));
    (void)state;
    world_prepare(w);
    struct api_options o = options_of(w);
    world_start(w, &o);
    struct buf b = BUF_INIT(4096);
    struct answer a;
    put_request(&b, "POST", "/send", &w->key, "Prefer: wait=60\r\n", body_text());
    int idle = client_connect(w->port);
    client_send(idle, STR("GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"));
    client_read(idle, false, &a);
    client_release(&a);
    int fd = client_connect(w->port);
    client_send(fd, buf_str(&b));
    while (fake_watches(w->store) < 2)
        poll(NULL, 0, 1);
    int64_t before = clock_mono_ms();
    api_drain(w->api);
    assert_true(clock_mono_ms() - before < 4000);
    client_read(fd, false, &a);
    assert_int_equal(a.status, 202);
    assert_true(a.is_closed);
    client_release(&a);
    assert_true(client_is_closed(idle));
    struct sockaddr_in sa = {.sin_family = AF_INET,
                             .sin_port = htons((uint16_t)w->port),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int late = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(connect(late, (struct sockaddr *)&sa, sizeof(sa)), -1);
    close(late);
    close(idle);
    close(fd);
    buf_release(&b);
    world_stop(w);
    free(w);
}

static void test_stop_with_idle_and_half_open_connections(void **state) {
    struct world *w = mem_zalloc(sizeof(*w));
    (void)state;
    world_prepare(w);
    struct api_options o = options_of(w);
    o.drain_ms = 100;
    world_start(w, &o);
    struct buf b = BUF_INIT(4096);
    put_request(&b, "POST", "/send", &w->key, "", body_text());
    int fd[10];
    for (size_t i = 0; i < 10; i++) {
        fd[i] = client_connect(w->port);
        client_send(fd[i], str_slice(buf_str(&b), 0, i * b.n / 10));
    }
    world_stop(w);
    for (size_t i = 0; i < 10; i++) {
        assert_true(client_is_closed(fd[i]));
        close(fd[i]);
    }
    buf_release(&b);
    free(w);
}

static void test_options_that_cannot_be(void **state) {
    struct world w;
    struct api *api = NULL;
    (void)state;
    world_prepare(&w);
    const struct {
        const char *listen;
        enum err err;
    } rows[] = {{"127.0.0.1", ERR_INVALID},
                {"127.0.0.1:x", ERR_INVALID},
                {"127.0.0.1:70000", ERR_INVALID},
                {"localhost:1", ERR_INVALID},
                {"198.51.100.1:0", ERR_UNAVAILABLE}};
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct api_options o = options_of(&w);
        struct str listen = str_of(rows[i].listen);
        struct errinfo info = {0};
        o.listen = &listen;
        assert_int_equal(api_start(&o, &api, &info), rows[i].err);
        assert_string_equal(info.field, "listen");
        assert_true(info.text[0] != '\0');
    }
    struct api_options o = options_of(&w);
    o.tls_cert = STR("x");
    assert_int_equal(api_start(&o, &api, NULL), ERR_INVALID);
    o.tls_key = STR("y");
    assert_int_equal(api_start(&o, &api, NULL), ERR_INVALID);
    assert_int_equal(atomic_load(&closed_twice), 0);
    fake_free(w.store);
}

#define SERVED(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void) {
    const struct CMUnitTest tests[] = {
        SERVED(test_message_is_answered_202_after_it_is_stored),
        SERVED(test_nothing_is_answered_before_the_store_has_it),
        SERVED(test_store_that_cannot_write_is_503_with_retry_after),
        SERVED(test_large_body_goes_through_a_worker),
        SERVED(test_kept_connection_carries_many_requests),
        SERVED(test_after_a_want_of_descriptors_clients_are_accepted_again),
        SERVED(test_repetition_with_the_same_key_gets_the_first_answer),
        SERVED(test_same_key_with_another_message_is_422),
        SERVED(test_test_and_live_message_are_never_the_same),
        SERVED(test_wait_answers_200_when_all_is_final),
        SERVED(test_wait_answers_202_when_the_time_is_over),
        SERVED(test_replay_waits_on_the_message_that_is_there),
        SERVED(test_waiting_ends_when_the_client_goes_away),
        SERVED(test_client_that_leaves_while_the_store_works_does_no_harm),
        SERVED(test_client_that_leaves_in_the_middle_of_its_request_does_no_harm),
        SERVED(test_refusals),
        SERVED(test_several_accept_fields_are_one_list),
        SERVED(test_405_says_what_is_allowed),
        SERVED(test_all_faults_come_at_once),
        SERVED(test_replay_is_of_one_delivery_or_of_a_period),
        SERVED(test_what_takes_nothing_takes_an_empty_object),
        SERVED(test_domain_that_is_too_long_for_its_records_is_named),
        SERVED(test_T16_body_over_the_limit_is_413_and_names_it),
        SERVED(test_what_is_accepted_is_answered_however_large_the_header),
        SERVED(test_refused_body_that_is_announced_is_not_asked_for),
        cmocka_unit_test(test_T16_bodies_beyond_the_memory_set_aside_are_503),
        cmocka_unit_test(test_client_that_left_in_its_body_holds_no_memory),
        cmocka_unit_test(test_T16_one_key_cannot_set_aside_all_memory),
        cmocka_unit_test(test_T17_slow_clients_are_cut_off),
        cmocka_unit_test(test_T17_drop_by_drop_header_does_not_extend_the_deadline),
        cmocka_unit_test(test_T17_connections_of_one_address_are_limited),
        cmocka_unit_test(test_T18_requests_that_two_parsers_read_differently_are_refused),
        SERVED(test_retry_and_cancel_ask_for_the_rights_of_sending),
        SERVED(test_T21_revoked_key_is_refused_at_once),
        SERVED(test_T32_key_with_a_rate_makes_no_more_requests),
        SERVED(test_key_revoked_while_its_body_comes_is_refused),
        SERVED(test_answer_beyond_every_limit_is_500_and_not_the_end),
        cmocka_unit_test(test_full_health_listener_shuts_no_client_out),
        cmocka_unit_test(test_health_listener_takes_so_many_and_no_more),
        cmocka_unit_test(test_reload_allows_more_connections),
        SERVED(test_a_limited_key_makes_no_key_with_fewer_limits),
        cmocka_unit_test(test_T32_keys_and_domains_of_a_project_are_limited),
        SERVED(test_from_outside_of_the_key_is_403),
        SERVED(test_url_that_the_guard_refuses_is_not_stored),
        SERVED(test_reload_replaces_the_guard_of_urls),
        SERVED(test_T21_the_text_of_a_key_is_nowhere_but_in_the_answer_that_made_it),
        SERVED(test_pages_follow_each_other),
        cmocka_unit_test(test_T16_large_answers_are_taken_out_of_the_memory_set_aside),
        SERVED(test_raw_message_comes_back_byte_for_byte),
        SERVED(test_examples_of_the_contract_are_accepted),
        cmocka_unit_test(test_health_has_a_listener_of_its_own),
        cmocka_unit_test(test_control_socket_needs_no_key_and_lets_only_its_owner_in),
        cmocka_unit_test(test_drain_answers_what_is_open_and_takes_nothing_new),
        cmocka_unit_test(test_stop_with_idle_and_half_open_connections),
        cmocka_unit_test(test_options_that_cannot_be),
    };
    log_setup(LOG_ERROR, LOG_FORMAT_TEXT);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
