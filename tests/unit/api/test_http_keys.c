/* API keys: what each may do, how often, and until when. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <event2/event.h>

#include "api/http_pause.h"
#include "api/page.h"
#include "api/request.h"
#include "tests/unit/api/http_world.h"

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

static void make_key_with_id(struct world *w, const char *form, struct auth_key_text *out,
                             char id[ID_TEXT_SIZE]) {
    struct answer a;
    ask(w, "POST", "/v1/keys", &w->key, "", str_of(form), &a);
    assert_int_equal(a.status, 201);
    json_t *v = json_of(&a);
    snprintf(out->z, sizeof(out->z), "%s", json_string_value(json_object_get(v, "key")));
    snprintf(id, ID_TEXT_SIZE, "%s", json_string_value(json_object_get(v, "id")));
    json_decref(v);
    client_release(&a);
}

static void make_key(struct world *w, const char *form, struct auth_key_text *out) {
    char id[ID_TEXT_SIZE];
    make_key_with_id(w, form, out, id);
}

static void test_retry_and_cancel_ask_for_the_rights_of_sending(void **state) {
    static const char *const acts[] = {"retry", "cancel"};
    static const int done[] = {202, 503}; /* the fake cancels nothing: it got through to it */
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
        ask(w, "POST", of_live, &same, "", STR("{}"), &a);
        assert_int_equal(a.status, done[i]);
        client_release(&a);
        ask(w, "POST", of_test, &test, "", STR("{}"), &a);
        assert_int_equal(a.status, done[i]);
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

static void test_what_a_key_may_not_do_counts_as_well(void **state) {
    struct world *w = *state;
    struct auth_key_text limited;
    make_key(w, "{\"name\":\"l\",\"scopes\":\"send\",\"rate\":1}", &limited);
    for (int i = 0; i < 3; i++) {
        struct answer a;
        ask(w, "GET", "/v1/keys", &limited, "", STR_NONE, &a);
        assert_problem(&a, i == 0 ? 403 : 429, i == 0 ? "forbidden" : "rate_limited");
        client_release(&a);
    }
}

/* Else who repeats at once takes all of the time in which others are served. */
static void test_T32_who_asks_too_often_is_told_so_late(void **state) {
    struct world *w = *state;
    struct auth_key_text limited;
    struct answer a;
    struct buf b = BUF_INIT(4096);
    make_key(w, "{\"name\":\"l\",\"scopes\":[\"send\",\"read\"],\"rate\":1}", &limited);
    ask(w, "POST", "/send", &limited, "", body_text(), &a);
    assert_int_equal(a.status, 202);
    client_release(&a);
    int64_t asked_mono_ms = clock_mono_ms();
    ask(w, "POST", "/send", &limited, "", body_text(), &a);
    assert_problem(&a, 429, "rate_limited");
    assert_true(clock_mono_ms() - asked_mono_ms >= REQUEST_PAUSE_MS);
    client_release(&a);
    /* whatever it says of a body that does not come */
    asked_mono_ms = clock_mono_ms();
    ask(w, "GET", "/v1/messages", &limited, "Expect: 100-continue\r\n", STR_NONE, &a);
    assert_problem(&a, 429, "rate_limited");
    assert_true(clock_mono_ms() - asked_mono_ms >= REQUEST_PAUSE_MS);
    client_release(&a);
    /* one that goes away while it waits leaves nothing behind */
    put_request(&b, "POST", "/send", &limited, "", body_text());
    int fd = client_connect(w->port);
    client_send(fd, buf_str(&b));
    close(fd);
    buf_release(&b);
    ask(w, "POST", "/send", &w->key, "", body_text(), &a);
    assert_int_equal(a.status, 202);
    client_release(&a);
}

static void with_eight_connections(struct api_options *o) {
    o->connections_max = 8; /* two of which may pause */
    o->loops = 1;
}

/* Else a client with more connections than may pause takes all of the time in which others are
 * served. */
static void test_T32_who_cannot_be_told_late_has_to_connect_anew(void **state) {
    enum { CLIENTS = 6 };
    struct world *w = *state;
    struct auth_key_text limited;
    struct answer a;
    struct buf b = BUF_INIT(4096);
    int fd[CLIENTS];
    size_t closed = 0;
    make_key(w, "{\"name\":\"l\",\"scopes\":\"send\",\"rate\":1}", &limited);
    ask(w, "POST", "/send", &limited, "", body_text(), &a);
    assert_int_equal(a.status, 202);
    client_release(&a);
    put_request(&b, "POST", "/send", &limited, "", body_text());
    for (size_t i = 0; i < CLIENTS; i++) {
        fd[i] = client_connect(w->port);
        client_send(fd[i], buf_str(&b));
    }
    for (size_t i = 0; i < CLIENTS; i++) {
        client_read(fd[i], false, &a);
        assert_problem(&a, 429, "rate_limited");
        assert_false(str_is_absent(client_header(&a, STR("Retry-After"))));
        if (str_equal(client_header(&a, STR("Connection")), STR("close"))) {
            assert_true(client_is_closed(fd[i]));
            closed++;
        }
        client_release(&a);
        close(fd[i]);
    }
    buf_release(&b);
    assert_in_range(closed, 1, CLIENTS - 2);
}

enum { PAUSES = 64, PAUSE_MS = 200, BUSY_MS = 60 };

static struct pausing {
    struct event_base *base;
    struct pauses *pauses;
    struct request r[PAUSES + 1];
    int64_t begun_mono_ms[PAUSES + 1], promised_ms[PAUSES + 1], took_ms[PAUSES + 1];
    size_t ended, turns;
} pausing;

static void pause_ended(struct request *r) {
    size_t i = (size_t)(r - pausing.r);
    pausing.took_ms[i] = clock_mono_ms() - pausing.begun_mono_ms[i];
    pausing.ended++;
}

static void count_turn(void *arg) {
    ++*(size_t *)arg;
}

static bool pause_now(size_t i) {
    pausing.begun_mono_ms[i] = clock_mono_ms();
    pausing.promised_ms[i] =
        pause_begin(pausing.pauses, &pausing.r[i], PAUSE_MS, PAUSES, pause_ended);
    return pausing.promised_ms[i] > 0;
}

/* The loop has been at work for a while when they begin, and is woken for other things. */
static void pause_in_a_busy_turn(evutil_socket_t fd, short what, void *arg) {
    const struct timespec busy = {.tv_nsec = BUSY_MS * 1000000L};
    (void)fd;
    (void)what;
    (void)arg;
    (void)nanosleep(&busy, NULL);
    for (size_t i = 0; i < PAUSES; i++)
        assert_true(pause_now(i));
    assert_false(pause_now(PAUSES));
    assert_null(pausing.r[PAUSES].hurry);
    /* the server drains, or the client has gone */
    pausing.r[0].hurry(&pausing.r[0]);
    assert_int_equal(pausing.ended, 1);
    assert_null(pausing.r[0].hurry);
    assert_true(pause_now(PAUSES));
}

static void nothing(evutil_socket_t fd, short what, void *arg) {
    (void)fd;
    (void)what;
    (void)arg;
}

/* Else who is refused holds the connections of others, and all come again at one moment. */
static void test_T32_not_all_wait_to_be_refused(void **state) {
    (void)state;
    struct event_base *base = event_base_new();
    pausing = (struct pausing){.base = base};
    pausing.pauses = pauses_new(base, count_turn, &pausing.turns);
    for (size_t i = 0; i <= PAUSES; i++)
        pausing.r[i] = (struct request){.arena = arena_new()};
    const struct timeval now = {0}, soon = {.tv_usec = (BUSY_MS + 10) * 1000};
    event_base_once(base, -1, EV_TIMEOUT, pause_in_a_busy_turn, NULL, &now);
    event_base_once(base, -1, EV_TIMEOUT, nothing, NULL, &soon);
    event_base_dispatch(base); /* until no pause is left */
    assert_int_equal(pausing.ended, PAUSES + 1);
    assert_int_equal(pausing.turns, PAUSES);
    size_t others = 0;
    for (size_t i = 1; i <= PAUSES; i++) {
        assert_in_range(pausing.promised_ms[i], PAUSE_MS, 2 * PAUSE_MS + 20);
        assert_true(pausing.took_ms[i] >= PAUSE_MS);
        others += pausing.promised_ms[i] != pausing.promised_ms[1];
    }
    assert_true(others > 0);
    pauses_free(&pausing.pauses);
    event_base_free(base);
    for (size_t i = 0; i <= PAUSES; i++)
        arena_free(&pausing.r[i].arena);
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

static void test_key_that_expires_while_its_body_comes_is_refused(void **state) {
    enum { GOOD_FOR_MS = 1500 };
    struct world *w = *state;
    struct answer a;
    struct auth_key_text made;
    struct buf b = BUF_INIT(4096), form = BUF_INIT(4096);
    char until[CLOCK_RFC3339_SIZE];
    int64_t end_wall_ms = clock_wall_ms() + GOOD_FOR_MS;
    clock_print_rfc3339(end_wall_ms, until);
    buf_printf(&form, "{\"name\":\"app\",\"scopes\":\"send\",\"expires_at\":\"%s\"}", until);
    ask(w, "POST", "/v1/keys", &w->key, "", buf_str(&form), &a);
    assert_int_equal(a.status, 201);
    json_t *v = json_of(&a);
    snprintf(made.z, sizeof(made.z), "%s", json_string_value(json_object_get(v, "key")));
    json_decref(v);
    client_release(&a);
    put_request(&b, "POST", "/send", &made, "", body_text());
    int fd = client_connect(w->port);
    client_send(fd, str_slice(buf_str(&b), 0, b.n - 1));
    while (clock_wall_ms() <= end_wall_ms)
        poll(NULL, 0, 20);
    client_send(fd, str_slice(buf_str(&b), b.n - 1, b.n));
    client_read(fd, false, &a);
    assert_problem(&a, 401, "invalid_key");
    assert_int_equal(w->store->message_count, 0);
    client_release(&a);
    close(fd);
    buf_release(&b);
    buf_release(&form);
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

static void test_key_with_from_domains_decides_about_no_other_domain(void **state) {
    static const struct {
        const char *method, *path, *form, *pointer;
        int status;
    } rows[] = {
        {"POST", "/v1/domains", "{\"name\":\"other.test\"}", "#/name", 403},
        {"POST", "/v1/domains", "{\"domain\":\"Sub.Acme.test\"}", "#/domain", 403},
        {"POST", "/v1/domains", "{\"name\":\"acme.test\",\"bounce_address\":\"b@other.test\"}",
         "#/bounce_address", 403},
        {"POST", "/v1/domains/other.test/verify", "{}", NULL, 403},
        {"DELETE", "/v1/domains/OTHER.test", "", NULL, 403},
        {"DELETE", "/v1/domains/x.acme.test", "", NULL, 403},
        /* the fake does none of these: they got through to it */
        {"POST", "/v1/domains", "{\"name\":\"Acme.test\",\"bounce_address\":\"b@a.news.test\"}",
         NULL, 503},
        {"POST", "/v1/domains", "{\"name\":\"x.news.test\"}", NULL, 503},
        {"POST", "/v1/domains/acme.test/verify", "{}", NULL, 404},
        {"DELETE", "/v1/domains/x.news.test", "", NULL, 503},
    };
    struct world *w = *state;
    struct auth_key_text key;
    make_key(
        w,
        "{\"name\":\"m\",\"scopes\":\"manage\",\"from_domains\":[\"acme.test\",\"*.news.test\"]}",
        &key);
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct answer a;
        bool has_form = rows[i].form[0] != '\0';
        ask(w, rows[i].method, rows[i].path, &key, "", has_form ? str_of(rows[i].form) : STR_NONE,
            &a);
        if (a.status != rows[i].status)
            fail_msg("%s %s %s: %d %.*s", rows[i].method, rows[i].path, rows[i].form, a.status,
                     STR_ARG(a.body));
        if (a.status == 403)
            assert_problem(&a, 403, "forbidden");
        if (rows[i].pointer != NULL)
            assert_true(str_find(a.body, str_of(rows[i].pointer)) > 0);
        client_release(&a);
    }
}

/* What is there is said before keys are made: the fake, which takes no domain, is not asked. */
static void test_T16_domain_that_is_there_gets_no_keys(void **state) {
    static const struct domain_row there[] = {
        {.project = API_PROJECT + 1, .name = {"theirs.test", 11}},
        {.project = API_PROJECT, .name = {"ours.test", 9}},
        {.project = API_PROJECT + 1, .name = {"ours.test", 9}},
    };
    static const struct {
        const char *form;
        int status;
    } rows[] = {{"{\"name\":\"Ours.test\"}", 409}, {"{\"name\":\"theirs.test\"}", 503}};
    struct world *w = mem_zalloc(sizeof(*w));
    (void)state;
    world_prepare(w);
    w->store->other_domains = there;
    w->store->other_domain_count = sizeof(there) / sizeof(there[0]);
    struct api_options o = options_of(w);
    world_start(w, &o);
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct answer a;
        ask(w, "POST", "/v1/domains", &w->key, "", str_of(rows[i].form), &a);
        assert_int_equal(a.status, rows[i].status);
        client_release(&a);
    }
    world_stop(w);
    free(w);
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

/* The prefix of a key is drawn, and may be there already. */
static void test_a_key_is_drawn_anew_when_its_prefix_is_taken(void **state) {
    static const struct { int conflicts, status; } rows[] = {{1, 201}, {2, 201}, {3, 503}};
    struct world *w = *state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct answer a;
        struct auth_key_text made = {{0}};
        fake_take_prefixes(w->store, rows[i].conflicts);
        ask(w, "POST", "/v1/keys", &w->key, "", STR("{\"name\":\"k\",\"scopes\":\"send\"}"), &a);
        assert_int_equal(a.status, rows[i].status);
        if (a.status == 503) {
            assert_problem(&a, 503, "unavailable");
            client_release(&a);
            continue;
        }
        json_t *v = json_of(&a);
        snprintf(made.z, sizeof(made.z), "%s", json_string_value(json_object_get(v, "key")));
        json_decref(v);
        client_release(&a);
        ask(w, "POST", "/send", &made, "", body_text(), &a);
        assert_int_equal(a.status, 202);
        client_release(&a);
    }
}

static size_t listed_by(struct world *w, const char *path, char after[64]) {
    struct answer a;
    ask(w, "GET", path, &w->key, "", STR_NONE, &a);
    assert_int_equal(a.status, 200);
    json_t *v = json_of(&a);
    size_t n = json_array_size(json_object_get(v, "data"));
    const char *next = json_string_value(json_object_get(v, "after"));
    snprintf(after, 64, "%s", next != NULL ? next : "");
    json_decref(v);
    client_release(&a);
    return n;
}

/* Of many, the store is asked for what is shown. */
static void test_T16_keys_and_domains_are_read_by_pages(void **state) {
    enum { MANY = LIMIT_KEYS, NAME = 16 };
    struct world *w = *state;
    struct key_row *keys = mem_zalloc(MANY * sizeof(*keys));
    struct domain_row *domains = mem_zalloc(MANY * sizeof(*domains));
    char(*name)[NAME] = mem_zalloc((size_t)MANY * NAME);
    for (size_t i = 0; i < MANY; i++) {
        snprintf(name[i], NAME, "n%zu.test", i);
        keys[i] = (struct key_row){.id = id_new((int64_t)i + 1), .revoked_wall_ms = 1};
        domains[i] = (struct domain_row){.id = keys[i].id, .name = str_of(name[i])};
    }
    w->store->other_keys = keys;
    w->store->other_domains = domains;
    w->store->other_key_count = w->store->other_domain_count = MANY;
    static const char *const paths[] = {"/v1/keys", "/v1/domains"};
    for (size_t i = 0; i < 2; i++) {
        char after[64], path[128];
        assert_int_equal(listed_by(w, paths[i], after), PAGE_DEFAULT);
        assert_int_equal(w->store->rows_listed, PAGE_DEFAULT);
        size_t seen = PAGE_DEFAULT;
        while (after[0] != '\0') {
            snprintf(path, sizeof(path), "%s?limit=100&after=%s", paths[i], after);
            seen += listed_by(w, path, after);
            assert_in_range(w->store->rows_listed, 1, 100);
        }
        assert_int_equal(seen, MANY);
    }
    struct answer a;
    ask(w, "GET", "/v1/domains/N77.test", &w->key, "", STR_NONE, &a);
    assert_int_equal(a.status, 200);
    assert_int_equal(w->store->rows_listed, 1);
    client_release(&a);
    ask(w, "GET", "/v1/domains/none.test", &w->key, "", STR_NONE, &a);
    assert_problem(&a, 404, "not_found");
    client_release(&a);
    world_stop(w); /* it may still ask for them */
    free(name);
    free(domains);
    free(keys);
}

/* Whether it may be revoked is asked of its own row, however many others there are. */
static void test_T16_a_limited_key_that_revokes_reads_one_key(void **state) {
    struct world *w = *state;
    struct auth_key_text limited;
    struct answer a;
    char path[128], id[ID_TEXT_SIZE];
    make_key(w, "{\"name\":\"a\",\"scopes\":\"admin\",\"from_domains\":\"acme.test\"}", &limited);
    id_print(&w->store->key[0].id, id); /* it has no limits */
    snprintf(path, sizeof(path), "/v1/keys/%s", id);
    ask(w, "DELETE", path, &limited, "", STR_NONE, &a);
    assert_problem(&a, 403, "forbidden");
    assert_int_equal(w->store->rows_listed, 1);
    client_release(&a);
    const struct id none = id_new(1);
    id_print(&none, id);
    snprintf(path, sizeof(path), "/v1/keys/%s", id);
    ask(w, "DELETE", path, &limited, "", STR_NONE, &a);
    assert_problem(&a, 404, "not_found");
    assert_int_equal(w->store->rows_listed, 0);
    client_release(&a);
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

static void test_T21_a_limited_key_revokes_no_key_that_may_more(void **state) {
    static const char *const makers[] = {"\"from_domains\":[\"acme.test\",\"*.b.test\"]",
                                         "\"test\":true", "\"rate\":60"};
    static const struct {
        const char *limits;
        bool may[3]; /* be revoked by each of them */
    } rows[] = {
        {"", {false, false, true}},
        {",\"from_domains\":\"acme.test\"", {true, false, true}},
        {",\"from_domains\":\"a.b.test\"", {true, false, true}},
        {",\"from_domains\":[\"acme.test\",\"b.test\"]", {false, false, true}},
        {",\"test\":true", {false, true, true}},
        {",\"test\":true,\"from_domains\":\"acme.test\"", {true, true, true}},
        {",\"rate\":61", {false, false, true}},
    };
    struct world *w = *state;
    for (size_t m = 0; m < sizeof(makers) / sizeof(makers[0]); m++) {
        char form[256], path[128], id[ID_TEXT_SIZE];
        struct auth_key_text maker, key;
        struct answer a;
        snprintf(form, sizeof(form), "{\"name\":\"m\",\"scopes\":\"admin\",%s}", makers[m]);
        make_key_with_id(w, form, &maker, path);
        for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
            snprintf(form, sizeof(form), "{\"name\":\"k\",\"scopes\":\"send\"%s}", rows[i].limits);
            make_key_with_id(w, form, &key, id);
            snprintf(path, sizeof(path), "/v1/keys/%s", id);
            ask(w, "DELETE", path, &maker, "", STR_NONE, &a);
            if (a.status != (rows[i].may[m] ? 204 : 403))
                fail_msg("%s revokes %s: %d", makers[m], rows[i].limits, a.status);
            if (!rows[i].may[m])
                assert_problem(&a, 403, "forbidden");
            const struct key_row *row = &w->store->key[w->store->key_count - 1];
            assert_int_equal(row->revoked_wall_ms != 0, rows[i].may[m]);
            client_release(&a);
        }
        ask(w, "DELETE", "/v1/keys/0193a3b0-0000-7000-8000-000000000000", &maker, "", STR_NONE, &a);
        assert_problem(&a, 404, "not_found");
        client_release(&a);
    }
}

static void test_a_limited_key_revokes_itself(void **state) {
    static const char form[] = "{\"name\":\"m\",\"scopes\":\"admin\",\"test\":true,"
                               "\"from_domains\":\"*.acme.test\"}";
    struct world *w = *state;
    char path[128], id[ID_TEXT_SIZE];
    struct auth_key_text key;
    struct answer a;
    make_key_with_id(w, form, &key, id);
    snprintf(path, sizeof(path), "/v1/keys/%s", id);
    ask(w, "DELETE", path, &key, "", STR_NONE, &a);
    assert_int_equal(a.status, 204);
    client_release(&a);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        SERVED(test_T21_revoked_key_is_refused_at_once),
        SERVED(test_retry_and_cancel_ask_for_the_rights_of_sending),
        SERVED(test_T32_key_with_a_rate_makes_no_more_requests),
        SERVED(test_what_a_key_may_not_do_counts_as_well),
        SERVED(test_T32_who_asks_too_often_is_told_so_late),
        cmocka_unit_test(test_T32_not_all_wait_to_be_refused),
        SERVED_WITH(test_T32_who_cannot_be_told_late_has_to_connect_anew, with_eight_connections),
        SERVED(test_T16_keys_and_domains_are_read_by_pages),
        SERVED(test_T16_a_limited_key_that_revokes_reads_one_key),
        SERVED(test_key_revoked_while_its_body_comes_is_refused),
        SERVED(test_key_that_expires_while_its_body_comes_is_refused),
        SERVED(test_a_limited_key_makes_no_key_with_fewer_limits),
        SERVED(test_T21_a_limited_key_revokes_no_key_that_may_more),
        SERVED(test_a_limited_key_revokes_itself),
        SERVED(test_key_with_from_domains_decides_about_no_other_domain),
        cmocka_unit_test(test_T16_domain_that_is_there_gets_no_keys),
        cmocka_unit_test(test_T32_keys_and_domains_of_a_project_are_limited),
        SERVED(test_a_key_is_drawn_anew_when_its_prefix_is_taken),
        SERVED(test_from_outside_of_the_key_is_403),
        SERVED(test_T21_the_text_of_a_key_is_nowhere_but_in_the_answer_that_made_it),
    };
    log_setup(LOG_ERROR, LOG_FORMAT_TEXT);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
