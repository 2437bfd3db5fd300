/* Messages over HTTP: accepted, repeated, waited for, listed; clients that go away. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "tests/unit/api/http_world.h"
#include "tests/unit/log_watch.h"

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
    assert_true(
        str_find(a.body, STR("{\"pointer\":\"header:Idempotency-Key\",\"code\":\"idempotency_"
                             "key_reused\",\"detail\":\"the key was used so and so: take a "
                             "new key\"}")) >= 0);
    client_release(&a);
}

static void test_test_and_live_message_are_never_the_same(void **state) {
    struct world *w = *state;
    const struct auth_key_text *keys[] = {&w->test_key, &w->key};
    char location[2][128];
    for (int i = 0; i < 4; i++) { /* the second two are replays */
        struct answer a;
        ask(w, "POST", "/send", keys[i % 2], "Idempotency-Key: k1\r\n", body_text(), &a);
        assert_int_equal(a.status, 202);
        struct str to = client_header(&a, STR("Location"));
        assert_int_equal(!str_is_absent(client_header(&a, STR("Idempotency-Replayed"))), i > 1);
        if (i < 2)
            snprintf(location[i], sizeof(location[i]), "%.*s", STR_ARG(to));
        assert_true(str_equal(to, str_of(location[i % 2])));
        client_release(&a);
    }
    assert_string_not_equal(location[0], location[1]);
    assert_int_equal(w->store->message_count, 2);
    for (int i = 0; i < 2; i++) {
        struct answer a;
        assert_int_equal(w->store->message[i].row.is_test, i == 0);
        ask(w, "POST", "/send", keys[i], "Idempotency-Key: k1\r\n",
            STR("{\"from\":\"a@acme.test\",\"to\":\"b@example.net\",\"text\":\"other\"}"), &a);
        assert_problem(&a, 422, "idempotency_key_reused");
        client_release(&a);
    }
    assert_true(str_equal(w->store->message[1].idempotency_key, STR("k1"))); /* as ever */
}

static void test_a_test_keys_longest_idempotency_key_is_one(void **state) {
    struct world *w = *state;
    struct answer a;
    char header[LIMIT_IDEMPOTENCY_KEY + 32], key[LIMIT_IDEMPOTENCY_KEY + 1];
    memset(key, 'k', LIMIT_IDEMPOTENCY_KEY);
    key[LIMIT_IDEMPOTENCY_KEY] = '\0';
    snprintf(header, sizeof(header), "Idempotency-Key: %s\r\n", key);
    for (int i = 0; i < 2; i++) {
        ask(w, "POST", "/send", &w->test_key, header, body_text(), &a);
        assert_int_equal(a.status, 202);
        client_release(&a);
    }
    assert_int_equal(w->store->message_count, 1);
}

/* Restricts what is taken from now on. */
static void refuse_from_now_on(struct world *w, void (*change)(struct api_options *o)) {
    struct api_options o = options_of(w);
    change(&o);
    assert_int_equal(api_reload(w->api, &o, NULL), OK);
}

static void by_mx_alone(struct api_options *o) { /* which takes a verified domain */
    o->intake.routes = NULL;
    o->intake.route_count = 0;
    o->intake.default_route = STR_NONE;
}

static void to_nobody(struct api_options *o) {
    static struct str only_to[] = {{"nobody@example.net", 18}};
    o->intake.only_to = (struct str_list){.list = only_to, .count = 1};
}

static void for_an_hour(struct api_options *o) {
    o->intake.expires_default_ms = o->intake.expires_max_ms = 3600 * 1000;
}

static void of_few_recipients(struct api_options *o) {
    o->intake.limits.recipients_max = 1;
}

static void of_few_bytes(struct api_options *o) {
    o->intake.limits.message_bytes_max = 200;
}

/* What was accepted stays so: a repetition asks what became of it, and makes nothing. */
static void test_rules_that_came_later_refuse_no_repetition(void **state) {
    static const char form[] =
        "{\"from\":\"a@acme.test\",\"to\":[\"b@example.net\",\"c@example.net\"],"
        "\"text\":\"t\",\"expires_in\":7200%s}";
    static const struct {
        void (*change)(struct api_options *o);
        int status;
        const char *code;
    } rows[] = {{by_mx_alone, 422, "validation_failed"},
                {to_nobody, 422, "validation_failed"},
                {for_an_hour, 422, "validation_failed"},
                {of_few_recipients, 422, "validation_failed"},
                {of_few_bytes, 413, "body_too_large"}};
    struct world *w = *state;
    struct answer first, a;
    struct buf good = BUF_INIT(1024), other = BUF_INIT(1024), wrong = BUF_INIT(1024);
    buf_printf(&good, form, "");
    buf_printf(&other, form, ",\"subject\":\"s\"");
    buf_printf(&wrong, form, ",\"no_field\":1");
    ask(w, "POST", "/send", &w->key, "Idempotency-Key: k1\r\n", buf_str(&good), &first);
    assert_int_equal(first.status, 202);
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        refuse_from_now_on(w, rows[i].change);
        ask(w, "POST", "/send", &w->key, "Idempotency-Key: k1\r\n", buf_str(&good), &a);
        if (a.status != 202)
            fail_msg("row %zu: %d %.*s", i, a.status, STR_ARG(a.body));
        assert_true(str_equal(a.body, first.body));
        assert_true(str_equal(client_header(&a, STR("Idempotency-Replayed")), STR("true")));
        assert_true(
            str_equal(client_header(&a, STR("Location")), client_header(&first, STR("Location"))));
        assert_true(str_equal(client_header(&a, STR("Content-Type")), STR("application/json")));
        client_release(&a);
        ask(w, "POST", "/send", &w->key, "Idempotency-Key: k1\r\n", buf_str(&other), &a);
        assert_problem(&a, 422, "idempotency_key_reused");
        client_release(&a);
        /* whose faults say nothing of the rules: it was never accepted */
        ask(w, "POST", "/send", &w->key, "Idempotency-Key: k1\r\n", buf_str(&wrong), &a);
        assert_problem(&a, 422, "validation_failed");
        client_release(&a);
        ask(w, "POST", "/send", &w->key, "Idempotency-Key: k2\r\n", buf_str(&good), &a);
        assert_problem(&a, rows[i].status, rows[i].code);
        client_release(&a);
        ask(w, "POST", "/send", &w->key, "", buf_str(&good), &a);
        assert_problem(&a, rows[i].status, rows[i].code);
        client_release(&a);
    }
    assert_int_equal(w->store->message_count, 1);
    client_release(&first);
    buf_release(&good);
    buf_release(&other);
    buf_release(&wrong);
}

static void test_key_that_lost_its_domain_gets_the_first_answer(void **state) {
    struct world *w = *state;
    struct answer first, a;
    struct str domains[] = {STR("other.test")};
    ask(w, "POST", "/send", &w->key, "Idempotency-Key: k1\r\n", body_text(), &first);
    assert_int_equal(first.status, 202);
    w->store->key[0].from_domains = domains;
    w->store->key[0].from_domain_count = 1;
    /* a change of any key: they are read anew */
    ask(w, "POST", "/v1/keys", &w->key, "", STR("{\"name\":\"r\",\"scopes\":\"send\"}"), &a);
    client_release(&a);
    ask(w, "POST", "/send", &w->key, "Idempotency-Key: k2\r\n", body_text(), &a);
    assert_problem(&a, 403, "from_not_allowed");
    client_release(&a);
    ask(w, "POST", "/send", &w->key, "Idempotency-Key: k1\r\n", body_text(), &a);
    assert_int_equal(a.status, 202);
    assert_true(str_equal(a.body, first.body));
    client_release(&a);
    /* nobody learns anything without a key of the API */
    ask(w, "POST", "/send", &w->expired_key, "Idempotency-Key: k1\r\n", body_text(), &a);
    assert_problem(&a, 401, "invalid_key");
    client_release(&a);
    client_release(&first);
}

static void test_refusal_that_nobody_could_look_behind_is_503(void **state) {
    struct world *w = *state;
    struct answer a;
    refuse_from_now_on(w, to_nobody);
    fake_hold(w->store);
    struct buf b = BUF_INIT(4096);
    put_request(&b, "POST", "/send", &w->key, "Idempotency-Key: k1\r\n", body_text());
    int fd = client_connect(w->port);
    client_send(fd, buf_str(&b));
    fake_wait_held(w->store, 1);
    fake_fail(w->store, ERR_UNAVAILABLE);
    fake_release(w->store);
    client_read(fd, false, &a);
    assert_problem(&a, 503, "unavailable");
    client_release(&a);
    close(fd);
    buf_release(&b);
}

/* ---- time ---- */

static void read_until(int fd, const char *text) {
    struct buf b = BUF_INIT(4096);
    char c;
    while (!str_ends_with(buf_str(&b), str_of(text))) {
        assert_int_equal(recv(fd, &c, 1, 0), 1);
        buf_putc(&b, c);
    }
    buf_release(&b);
}

/* Its life, its Date and its Idempotency-Key's time begin when it is whole. */
static void test_message_that_came_slowly_has_its_whole_life(void **state) {
    struct world *w = *state;
    struct answer a;
    struct buf b = BUF_INIT(4096);
    buf_printf(&b,
               "POST /send HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\n"
               "Content-Type: application/json\r\nContent-Length: %zu\r\n"
               "Expect: 100-continue\r\n\r\n",
               w->key.z, body_text().n);
    int fd = client_connect(w->port);
    client_send(fd, buf_str(&b));
    read_until(fd, "HTTP/1.1 100 Continue\r\n\r\n"); /* the request has begun */
    int64_t before_ms = clock_wall_ms() + 5;
    while (clock_wall_ms() < before_ms)
        poll(NULL, 0, 1);
    client_send(fd, body_text());
    client_read(fd, false, &a);
    assert_int_equal(a.status, 202);
    const struct message_row *m = &w->store->message[0].row;
    assert_true(m->created_wall_ms >= before_ms);
    assert_int_equal(m->expires_wall_ms - m->created_wall_ms,
                     options_of(w).intake.expires_default_ms);
    client_release(&a);
    close(fd);
    buf_release(&b);
}

/* ---- waiting ---- */

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

/* ---- replaying a period ---- */

enum { REPLAY_STEPS = 5000 };

static int begin_replay(struct world *w) {
    struct buf b = BUF_INIT(4096);
    w->store->replay_steps_most = REPLAY_STEPS;
    put_request(&b, "POST", "/v1/webhooks/0199f3a0-0000-7000-8000-000000000001/replay", &w->key, "",
                STR("{\"since\":\"2026-01-01T00:00:00Z\"}"));
    int fd = client_connect(w->port);
    client_send(fd, buf_str(&b));
    while (fake_replay_steps(w->store) == 0)
        poll(NULL, 0, 1);
    buf_release(&b);
    return fd;
}

static void test_replaying_ends_when_the_client_goes_away(void **state) {
    struct world *w = *state;
    close(begin_replay(w));
    size_t before, steps = 0;
    do {
        before = steps;
        poll(NULL, 0, 500);
        steps = fake_replay_steps(w->store);
    } while (steps != before);
    assert_true(steps < REPLAY_STEPS);
}

static void test_replaying_ends_when_the_server_stops_and_says_how_far_it_got(void **state) {
    struct world *w = *state;
    struct answer a;
    int fd = begin_replay(w);
    api_drain(w->api);
    client_read(fd, false, &a);
    size_t steps = fake_replay_steps(w->store);
    char want[64];
    snprintf(want, sizeof want, "%zu deliveries are due again", steps * 1000);
    assert_problem(&a, 503, "unavailable");
    if (str_find(a.body, str_of(want)) < 0)
        fail_msg("not '%s': %.*s", want, STR_ARG(a.body));
    assert_true(steps < REPLAY_STEPS);
    client_release(&a);
    close(fd);
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

/* ---- what is shown ---- */

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
    struct answer a;
    char *subject = put_large_subjects(w, 80, 1024 * 1024);
    ask(w, "GET", "/v1/messages?limit=100", &w->key, "", STR_NONE, &a);
    assert_problem(&a, 500, "internal");
    client_release(&a);
    ask(w, "GET", "/v1/messages?limit=10", &w->key, "", STR_NONE, &a);
    assert_int_equal(a.status, 200);
    client_release(&a);
    free(subject);
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

int main(void) {
    const struct CMUnitTest tests[] = {
        SERVED(test_message_is_answered_202_after_it_is_stored),
        SERVED(test_nothing_is_answered_before_the_store_has_it),
        SERVED(test_store_that_cannot_write_is_503_with_retry_after),
        SERVED(test_large_body_goes_through_a_worker),
        SERVED(test_kept_connection_carries_many_requests),
        SERVED(test_repetition_with_the_same_key_gets_the_first_answer),
        SERVED(test_same_key_with_another_message_is_422),
        SERVED(test_test_and_live_message_are_never_the_same),
        SERVED(test_a_test_keys_longest_idempotency_key_is_one),
        SERVED(test_rules_that_came_later_refuse_no_repetition),
        SERVED(test_key_that_lost_its_domain_gets_the_first_answer),
        SERVED(test_refusal_that_nobody_could_look_behind_is_503),
        SERVED(test_message_that_came_slowly_has_its_whole_life),
        SERVED(test_wait_answers_200_when_all_is_final),
        SERVED(test_wait_answers_202_when_the_time_is_over),
        SERVED(test_replay_waits_on_the_message_that_is_there),
        SERVED(test_waiting_ends_when_the_client_goes_away),
        SERVED(test_replaying_ends_when_the_client_goes_away),
        SERVED(test_replaying_ends_when_the_server_stops_and_says_how_far_it_got),
        SERVED(test_client_that_leaves_while_the_store_works_does_no_harm),
        SERVED(test_client_that_leaves_in_the_middle_of_its_request_does_no_harm),
        SERVED(test_pages_follow_each_other),
        SERVED(test_answer_beyond_every_limit_is_500_and_not_the_end),
        SERVED(test_raw_message_comes_back_byte_for_byte),
        SERVED(test_examples_of_the_contract_are_accepted),
    };
    log_setup(LOG_ERROR, LOG_FORMAT_TEXT);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
