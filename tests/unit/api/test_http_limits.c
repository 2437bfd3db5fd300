/* Sizes, memory, time, connections and descriptors end where they are to end (T16, T17). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <sys/resource.h>

#include "api/reply.h"
#include "api/routes.h"
#include "tests/unit/api/http_world.h"

/* ---- sizes and memory ---- */

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

enum { LARGEST_MESSAGE_BODY = 300000 };

static void with_every_route(struct api_options *o) {
    o->development = true;
    o->body_max_bytes = LARGEST_MESSAGE_BODY;
}

static void put_path(struct buf *b, const char *pattern, const struct id *message_id) {
    char id[ID_TEXT_SIZE];
    id_print(message_id, id);
    struct str rest = str_from(str_of(pattern), 1);
    while (!str_is_absent(rest)) {
        struct str segment = str_split(&rest, '/');
        bool is_id = str_equal(segment, STR("{id}")), is_name = str_equal(segment, STR("{name}"));
        buf_putc(b, '/');
        buf_put(b, is_id ? str_of(id) : is_name ? STR("acme.test") : segment);
    }
}

/* A body of so many octets, announced or in a chunk: what a good one says, and blanks. */
static void post_body(struct world *w, const struct route *r, bool is_chunked, size_t size,
                      struct answer *out) {
    struct buf b = BUF_INIT(2 * LARGEST_MESSAGE_BODY);
    bool is_message = r->body_max == ROUTE_BODY_MESSAGE;
    struct str says = is_message ? body_text() : STR("{\"name\":\"far.test\"}");
    buf_printf(&b, "%s ", http_method_name(r->method));
    put_path(&b, r->path, &w->store->message[0].id);
    buf_printf(&b,
               " HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\n"
               "Content-Type: application/json\r\n",
               w->key.z);
    if (is_chunked)
        buf_printf(&b, "Transfer-Encoding: chunked\r\n\r\n%zx\r\n", size);
    else
        buf_printf(&b, "Content-Length: %zu\r\n\r\n", size);
    for (size_t i = 0; i < size; i++)
        buf_putc(&b, i < says.n ? says.p[i] : ' ');
    if (is_chunked)
        buf_putz(&b, size > 0 ? "\r\n0\r\n\r\n" : "\r\n");
    assert_int_equal(buf_status(&b), OK);
    client_once(w->port, buf_str(&b), out);
    buf_release(&b);
}

/* Each row of the table. The store is not even asked, and the largest body is no larger than that.
 */
static void test_T16_every_route_ends_a_body_over_its_limit_with_413(void **state) {
    struct world *w = *state;
    struct answer a;
    size_t asked = 0, with_body = 0;
    ask(w, "POST", "/send", &w->key, "", body_text(), &a);
    assert_int_equal(a.status, 202);
    client_release(&a);
    for (size_t i = 0; i < route_count; i++)
        for (int is_chunked = 0; is_chunked < 2; is_chunked++) {
            const struct route *r = &routes[i];
            bool is_message = r->body_max == ROUTE_BODY_MESSAGE;
            size_t most = is_message ? LARGEST_MESSAGE_BODY : (size_t)r->body_max;
            char limit[32];
            snprintf(limit, sizeof(limit), "is %zu bytes", most);
            size_t before = fake_asked(w->store);
            post_body(w, r, is_chunked, most + 1, &a);
            if (a.status != 413 || fake_asked(w->store) != before)
                fail_msg("%s %s, chunked %d: %d, %zu calls", http_method_name(r->method), r->path,
                         is_chunked, a.status, fake_asked(w->store) - before);
            assert_problem(&a, 413, "body_too_large");
            assert_true(str_find(a.body, most > 0 ? str_of(limit) : STR("takes no body")) >= 0);
            assert_true(a.is_closed);
            client_release(&a);
            if (most == 0 && is_chunked) /* a chunked body is one, however short */
                continue;
            post_body(w, r, is_chunked, most, &a);
            if (a.status == 413 || a.status == 0 || a.status == 401)
                fail_msg("%s %s, chunked %d: %d", http_method_name(r->method), r->path, is_chunked,
                         a.status);
            asked += fake_asked(w->store) > before;
            with_body += most > 0;
            client_release(&a);
        }
    assert_true(asked > 20); /* what the store is asked is seen */
    assert_true(with_body > 20);
    assert_true(fake_accepts(w->store) == 1 + 4); /* of the largest: two routes, both ways */
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

static void with_memory_for_one(struct api_options *o) {
    o->memory_max_bytes = 100000 * LIMIT_REQUEST_COST;
    o->loops = 1;
}

static void test_T16_bodies_beyond_the_memory_set_aside_are_503(void **state) {
    struct world *w = *state;
    struct answer a;
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
}

static void test_client_that_left_in_its_body_holds_no_memory(void **state) {
    struct world *w = *state;
    struct answer a;
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
}

enum { SLOW = 4, SIZE = 100000 };

static void with_memory_for_four(struct api_options *o) {
    o->memory_max_bytes = SLOW * SIZE * LIMIT_REQUEST_COST;
}

/* Announcing is free; it must not cost others their place. */
static void test_T16_one_key_cannot_set_aside_all_memory(void **state) {
    struct world *w = *state;
    struct answer a;
    int slow[SLOW];
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
    ask(w, "POST", "/send", &w->test_key, "", buf_str(&body), &a);
    assert_int_equal(a.status, 202);
    client_release(&a);
    for (size_t i = 0; i < SLOW; i++)
        close(slow[i]);
    buf_release(&body);
}

enum { ROWS = 4, SUBJECT = 4 * 1024 * 1024 }; /* far more than sockets hold */

static void with_memory_for_two_answers(struct api_options *o) {
    o->memory_max_bytes = (size_t)2 * ROWS * SUBJECT;
}

/* Who asks for a lot and reads nothing would hold as much as he likes. */
static void test_T16_large_answers_are_taken_out_of_the_memory_set_aside(void **state) {
    enum { READERS = 3 };
    struct world *w = *state;
    struct answer a;
    char *subject = put_large_subjects(w, ROWS, SUBJECT);
    struct buf b = BUF_INIT(4096);
    int fd[READERS];
    put_request(&b, "GET", "/v1/messages", &w->key, "", STR_NONE);
    for (int i = 0; i < READERS; i++) { /* three quarters hold one, not two */
        struct pollfd p = {.events = POLLIN};
        fd[i] = client_connect(w->port);
        client_send(fd[i], buf_str(&b));
        p.fd = fd[i];
        assert_int_equal(poll(&p, 1, (int)patience_ms(CLIENT_TIMEOUT_MS)), 1);
    }
    for (int i = 1; i < READERS; i++) {
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
    for (int i = 0; i < READERS; i++)
        close(fd[i]);
    buf_release(&b);
    free(subject);
}

/* Beside four large subjects there is room for what is free, and for little else. */
static void with_memory_for_one_answer(struct api_options *o) {
    o->memory_max_bytes = ((size_t)ROWS * SUBJECT + 40 * 1024) / 3 * 4;
}

enum { MANY = 50 };

static void put_to_many(struct buf *b) {
    buf_putz(b, "{\"from\":\"no-reply@acme.test\",\"subject\":\"s\",\"text\":\"t\",\"to\":[");
    for (int i = 0; i < MANY; i++)
        buf_printf(b, "%s\"ann%d@example.net\"", i == 0 ? "" : ",", i);
    buf_putz(b, "]}");
}

/* Everybody refused it, at length. */
static void bounce(struct fake_message *m) {
    static char words[LIMIT_REPLY_STORED];
    memset(words, 'w', sizeof(words));
    for (size_t i = 0; i < m->row.recipient_count; i++) {
        m->row.recipient[i].state = RECIPIENT_BOUNCED;
        m->row.recipient[i].last.code = 550;
        m->row.recipient[i].last.text = str_make(words, sizeof(words));
    }
}

/* A client that reads 503 repeats: what it asked for must not have happened. */
static void test_T16_a_503_for_want_of_memory_has_changed_nothing(void **state) {
    static const char once[] = "Idempotency-Key: once\r\n",
                      waiting[] = "Idempotency-Key: once\r\nPrefer: wait=5\r\n";
    struct world *w = *state;
    struct answer a;
    struct buf list = BUF_INIT(4096), body = BUF_INIT(8192);
    char id[ID_TEXT_SIZE];
    put_to_many(&body);
    ask(w, "POST", "/send", &w->key, once, buf_str(&body), &a);
    assert_int_equal(a.status, 202);
    client_release(&a);
    bounce(&w->store->message[0]);
    id_print(&w->store->message[0].id, id);
    struct str retry = arena_printf(w->store->arena, "/v1/messages/%s/retry", id);
    char *subject = put_large_subjects(w, ROWS, SUBJECT);
    size_t accepts = w->store->accepts;
    int fd = client_connect(w->port);
    struct pollfd p = {.fd = fd, .events = POLLIN};
    put_request(&list, "GET", "/v1/messages?limit=4", &w->key, "", STR_NONE);
    client_send(fd, buf_str(&list));
    assert_int_equal(poll(&p, 1, (int)patience_ms(CLIENT_TIMEOUT_MS)), 1);
    ask(w, "POST", retry.p, &w->key, "", STR(""), &a);
    assert_problem(&a, 503, "overloaded");
    assert_int_equal(w->store->retries, 0);
    client_release(&a);
    ask(w, "POST", "/send", &w->key, waiting, buf_str(&body), &a);
    assert_problem(&a, 503, "overloaded");
    assert_int_equal(w->store->accepts, accepts);
    client_release(&a);
    client_read(fd, false, &a); /* now there is room */
    assert_int_equal(a.status, 200);
    client_release(&a);
    close(fd);
    ask(w, "POST", retry.p, &w->key, "", STR(""), &a);
    assert_int_equal(a.status, 202);
    assert_int_equal(w->store->retries, 1);
    assert_true(a.body.n > (size_t)MANY * LIMIT_REPLY_STORED);
    client_release(&a);
    buf_release(&list);
    buf_release(&body);
    free(subject);
}

enum {
    PAGE_ROW = LIMIT_PAGE_ROW + 50 * LIMIT_PAGE_RECIPIENT,
    SETTING_ROW = LIMIT_PAGE_ROW + LIMIT_PAGE_RECIPIENT, /* a key, a domain */
};

static void with_memory_for_two_pages(struct api_options *o) {
    o->memory_max_bytes = (size_t)4 * LIMIT_PAGE * PAGE_ROW; /* of which pages have half */
}

/* So many of these pages of one key fit, and others are not read meanwhile. */
static void assert_pages_fit(struct world *w, const char *path, size_t page_bytes) {
    enum { READERS = 20 };
    const size_t pages_most = (size_t)2 * LIMIT_PAGE * PAGE_ROW;
    const size_t many = pages_most / 4 * 3 / page_bytes, fit = many > 0 ? many : 1;
    struct buf b = BUF_INIT(4096);
    struct answer a;
    assert_in_range(fit, 1, READERS - 1);
    put_request(&b, "GET", path, &w->key, "", STR_NONE);
    for (int round = 0; round < 3; round++) { /* it is given back */
        int fd[READERS];
        struct pollfd p = {.events = POLLIN};
        fake_hold(w->store);
        for (size_t i = 0; i < READERS; i++) {
            fd[i] = client_connect(w->port);
            client_send(fd[i], buf_str(&b));
            if (i < fit) {
                fake_wait_held(w->store, i + 1);
                continue;
            }
            p.fd = fd[i];
            if (poll(&p, 1, (int)patience_ms(CLIENT_TIMEOUT_MS)) != 1)
                fail_msg("%s, round %d: the store has %zu", path, round, w->store->held_count);
            client_read(fd[i], false, &a);
            assert_problem(&a, 503, "overloaded");
            assert_true(client_header(&a, STR("Retry-After")).n > 0);
            assert_false(a.is_closed);
            client_release(&a);
        }
        assert_int_equal(w->store->held_count, fit);
        fake_release(w->store);
        for (size_t i = 0; i < READERS; i++) {
            if (i < fit) {
                client_read(fd[i], false, &a);
                assert_int_equal(a.status, 200);
                client_release(&a);
            }
            close(fd[i]);
        }
    }
    buf_release(&b);
}

/* Rows are read, and rendered, before anybody knows how large they are. */
static void test_T16_pages_are_read_within_the_memory_set_aside(void **state) {
    struct world *w = *state;
    struct answer a;
    ask(w, "POST", "/send", &w->key, "", body_text(), &a);
    client_release(&a);
    assert_pages_fit(w, "/v1/messages?limit=100", (size_t)100 * PAGE_ROW);
}

/* What one key's pages take leaves others theirs. */
static void test_T32_pages_of_one_key_leave_room_for_those_of_others(void **state) {
    struct world *w = *state;
    const struct auth_key_text *keys[] = {&w->key, &w->key, &w->read_key, &w->key};
    static const int limits[] = {100, 100, 100, 25}, statuses[] = {200, 503, 200, 503};
    int fd[4];
    struct buf b = BUF_INIT(4096);
    struct answer a;
    struct pollfd p = {.events = POLLIN};
    bool is_refused = true;
    fake_hold(w->store);
    for (size_t i = 0, held = 0; i < 4; i++) {
        char path[64];
        snprintf(path, sizeof(path), "/v1/messages?limit=%d", limits[i]);
        buf_clear(&b);
        put_request(&b, "GET", path, keys[i], "", STR_NONE);
        p.fd = fd[i] = client_connect(w->port);
        client_send(fd[i], buf_str(&b));
        if (statuses[i] == 200)
            fake_wait_held(w->store, ++held);
        else
            is_refused &= poll(&p, 1, (int)patience_ms(CLIENT_TIMEOUT_MS)) == 1;
    }
    assert_true(is_refused);
    fake_release(w->store);
    for (size_t i = 0; i < 4; i++) {
        client_read(fd[i], false, &a);
        assert_int_equal(a.status, statuses[i]);
        client_release(&a);
        close(fd[i]);
    }
    buf_release(&b);
}

static void with_memory_for_six_pages(struct api_options *o) {
    o->memory_max_bytes = (size_t)6 * LIMIT_PAGE * PAGE_ROW;
}

/* However many keys' pages wait for the store: they have half. */
static void test_T16_pages_leave_room_for_bodies(void **state) {
    enum { PAGES = 6, FIT = 3, TEXT = 200 * 1024 };
    struct world *w = *state;
    const struct auth_key_text *keys[] = {&w->key, &w->read_key};
    struct buf b = BUF_INIT(TEXT * 2);
    struct answer a;
    int fd[PAGES + 1];
    bool is_refused = true;
    struct pollfd p = {.events = POLLIN};
    struct buf body = BUF_INIT(TEXT * 2);
    buf_putz(&body, "{\"from\":\"a@acme.test\",\"to\":\"b@example.net\",\"text\":\"");
    for (size_t i = 0; i < TEXT; i++)
        buf_putc(&body, 't');
    buf_putz(&body, "\"}");
    fake_hold(w->store);
    for (size_t i = 0; i < PAGES; i++) {
        buf_clear(&b);
        put_request(&b, "GET", "/v1/messages?limit=100&tag=x", keys[i % 2], "", STR_NONE);
        p.fd = fd[i] = client_connect(w->port);
        client_send(p.fd, buf_str(&b));
        if (i < FIT)
            fake_wait_held(w->store, i + 1);
        else
            is_refused &= poll(&p, 1, (int)patience_ms(CLIENT_TIMEOUT_MS)) == 1;
    }
    buf_clear(&b);
    put_request(&b, "POST", "/send", &w->key, "", buf_str(&body));
    fd[PAGES] = client_connect(w->port);
    client_send(fd[PAGES], buf_str(&b));
    if (is_refused)
        fake_wait_held(w->store, FIT + 1);
    fake_release(w->store);
    for (size_t i = PAGES + 1; i-- > 0;) {
        client_read(fd[i], false, &a);
        if (i == PAGES)
            assert_int_equal(a.status, 202);
        else if (i < FIT)
            assert_int_equal(a.status, 200);
        else
            assert_problem(&a, 503, "overloaded");
        client_release(&a);
        close(fd[i]);
    }
    buf_release(&body);
    buf_release(&b);
}

static void test_T16_pages_of_keys_are_read_within_the_memory_set_aside(void **state) {
    assert_pages_fit(*state, "/v1/keys?limit=100", (size_t)100 * SETTING_ROW);
}

static void test_T16_pages_of_domains_are_read_within_the_memory_set_aside(void **state) {
    assert_pages_fit(*state, "/v1/domains?limit=100", (size_t)100 * SETTING_ROW);
}

/* A webhook's body is as large as a small body may be. */
static void test_T16_pages_of_captures_are_read_within_the_memory_set_aside(void **state) {
    assert_pages_fit(*state, "/v1/sandbox/webhooks?limit=20", (size_t)20 * LIMIT_CAPTURE_ROW);
}

static void with_a_mebibyte(struct api_options *o) {
    o->memory_max_bytes = 1024 * 1024;
}

static void get_capture(struct world *w, struct answer *out) {
    char id[ID_TEXT_SIZE], path[100];
    id_print(&w->store->capture.id, id);
    snprintf(path, sizeof(path), "/v1/sandbox/messages/%s", id);
    ask(w, "GET", path, &w->key, "", STR_NONE, out);
}

/* How large it is is known before it is read. */
static void test_T16_captures_are_read_within_the_memory_set_aside(void **state) {
    enum { LARGE = 2 * 1024 * 1024, SMALL = 1000 };
    struct world *w = *state;
    struct answer a;
    char *content = mem_zalloc(LARGE);
    memset(content, 'c', LARGE);
    w->store->capture = (struct capture_row){
        .id = id_new(1), .kind = CAPTURE_MESSAGE, .content = str_make(content, LARGE)};
    get_capture(w, &a); /* more than there ever is */
    assert_problem(&a, 409, "conflict");
    assert_true(str_find(a.body, STR("/raw")) > 0);
    assert_false(a.is_closed);
    assert_int_equal(w->store->captures_read, 0);
    client_release(&a);
    w->store->capture.content.n = SMALL;
    for (size_t i = 1; i < 10; i++) { /* it is given back */
        get_capture(w, &a);
        assert_int_equal(a.status, 200);
        assert_true(a.body.n > SMALL);
        assert_int_equal(w->store->captures_read, i);
        client_release(&a);
    }
    free(content);
}

static void with_memory_for_two_messages(struct api_options *o) {
    o->memory_max_bytes = 3 * PAGE_ROW; /* of which a key has three quarters */
}

/* So many are read at a time, of one message as of pages; each other is told to come again. */
static void assert_reads_fit(struct world *w, const char *path, size_t fit) {
    enum { READERS = 6 };
    struct buf b = BUF_INIT(4096);
    struct answer a;
    int fd[READERS];
    put_request(&b, "GET", path, &w->key, "", STR_NONE);
    fake_hold(w->store);
    for (size_t i = 0; i < READERS; i++) {
        struct pollfd p = {.events = POLLIN};
        p.fd = fd[i] = client_connect(w->port);
        client_send(fd[i], buf_str(&b));
        if (i < fit) {
            fake_wait_held(w->store, i + 1);
            continue;
        }
        if (poll(&p, 1, (int)patience_ms(CLIENT_TIMEOUT_MS)) != 1)
            fail_msg("%s: the store has %zu", path, w->store->held_count);
        client_read(fd[i], false, &a);
        assert_problem(&a, 503, "overloaded");
        client_release(&a);
    }
    fake_release(w->store);
    for (size_t i = 0; i < READERS; i++) {
        if (i < fit) {
            client_read(fd[i], false, &a);
            client_release(&a);
        }
        close(fd[i]);
    }
    buf_release(&b);
}

static void test_T16_a_message_is_read_within_the_memory_set_aside(void **state) {
    struct world *w = *state;
    struct answer a;
    char id[ID_TEXT_SIZE], path[128];
    ask(w, "POST", "/send", &w->key, "", body_text(), &a);
    client_release(&a);
    id_print(&w->store->message[0].id, id);
    snprintf(path, sizeof(path), "/v1/messages/%s", id);
    assert_reads_fit(w, path, 2);
    snprintf(path, sizeof(path), "/v1/messages/%s/events?limit=1", id);
    assert_reads_fit(w, path, 1);
}

static void test_capture_that_no_answer_can_hold_is_told_so(void **state) {
    struct world *w = *state;
    struct answer a;
    w->store->capture = (struct capture_row){.id = id_new(1), .content = STR("c")};
    w->store->capture_bytes = HTTP_REPLY_MAX + 1;
    get_capture(w, &a);
    assert_problem(&a, 409, "conflict");
    assert_true(str_find(a.body, STR("/raw")) > 0);
    assert_int_equal(w->store->captures_read, 0);
    client_release(&a);
}

/* As a tree, JSON takes up to a hundred times its text. */
static void test_captured_body_of_many_values_is_shown_as_text(void **state) {
    static const struct {
        const char *unit;
        size_t count;
        bool is_tree;
    } rows[] = {{"{},", LIMIT_CAPTURE_VALUES / 3, true},
                {"{},", LIMIT_SMALL_BODY / 3 - 10, false},
                {"\"\\\",[,\",", LIMIT_CAPTURE_VALUES / 2, true}}; /* text has no values */
    struct world *w = *state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct buf b = BUF_INIT(LIMIT_SMALL_BODY);
        struct answer a;
        buf_putc(&b, '[');
        for (size_t k = 0; k < rows[i].count; k++)
            buf_putz(&b, rows[i].unit);
        buf_putz(&b, "0]");
        w->store->capture =
            (struct capture_row){.id = id_new(1), .kind = CAPTURE_WEBHOOK, .content = buf_str(&b)};
        get_capture(w, &a);
        assert_int_equal(a.status, 200);
        json_t *v = json_of(&a), *body = json_object_get(v, "body");
        if (rows[i].is_tree)
            assert_int_equal(json_array_size(body), rows[i].count + 1);
        else
            assert_int_equal(json_string_length(json_object_get(v, "content")), b.n);
        assert_int_equal(json_object_size(v), 3);
        json_decref(v);
        client_release(&a);
        buf_release(&b);
    }
}

/* ---- time ---- */

static void with_little_time(struct api_options *o) {
    o->header_timeout_ms = o->body_timeout_ms = o->idle_timeout_ms = 300;
}

static void test_T17_slow_clients_are_cut_off(void **state) {
    struct world *w = *state;
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
}

static void with_room_for_a_crowd(struct api_options *o) {
    o->header_timeout_ms = patience_ms(600);
    o->loops = 1;
}

enum { CROWD = 300 }; /* more than are looked at, and many more than are cut, in one turn */

static void come(struct world *w, int *fd) {
    for (size_t i = 0; i < CROWD; i++) {
        fd[i] = client_connect(w->port);
        client_send(fd[i], STR("GET /livez HTTP/1.1\r\n"));
    }
}

static void test_T17_crowd_of_slow_clients_is_cut_off(void **state) {
    struct world *w = *state;
    static int fd[CROWD];
    come(w, fd);
    for (size_t i = 0; i < CROWD; i++) {
        if (!client_is_closed(fd[i]))
            fail_msg("client %zu: still open", i);
        close(fd[i]);
    }
}

/* Whoever comes next in the round ends before it goes on. */
static void test_T17_crowd_leaves_while_it_is_cut_off(void **state) {
    struct world *w = *state;
    static int fd[CROWD];
    struct answer a;
    for (int round = 0; round < 3; round++) {
        come(w, fd);
        assert_true(client_is_closed(fd[0]));
        for (size_t i = CROWD; i-- > 0;)
            close(fd[i]);
        client_once(w->port, STR("GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"), &a);
        assert_int_equal(a.status, 200);
        client_release(&a);
    }
}

static void with_one_loop(struct api_options *o) {
    o->loops = 1;
}

static void test_drain_ends_a_crowd_that_has_nothing_under_way(void **state) {
    struct world *w = *state;
    static int fd[CROWD];
    struct answer a;
    for (size_t i = 0; i < CROWD; i++) {
        fd[i] = client_connect(w->port);
        client_send(fd[i], STR("GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"));
        client_read(fd[i], false, &a);
        assert_int_equal(a.status, 200);
        client_release(&a);
    }
    api_drain(w->api);
    for (size_t i = 0; i < CROWD; i++) {
        if (!client_is_closed(fd[i]))
            fail_msg("client %zu: still open", i);
        close(fd[i]);
    }
}

static void with_time_for_a_header(struct api_options *o) {
    o->header_timeout_ms = 500;
}

static void test_T17_drop_by_drop_header_does_not_extend_the_deadline(void **state) {
    struct world *w = *state;
    int fd = client_connect(w->port);
    int64_t before = clock_mono_ms();
    struct pollfd p = {.fd = fd, .events = POLLIN};
    client_send(fd, STR("GET /livez HTTP/1.1\r\n"));
    while (poll(&p, 1, 20) == 0 && clock_mono_ms() - before < 5000)
        client_send(fd, STR("X-A: b\r\n"));
    assert_in_range(clock_mono_ms() - before, 400, 3000);
    close(fd);
}

/* ---- connections ---- */

static void with_three_an_address(struct api_options *o) {
    o->connections_per_ip_max = 3;
    o->loops = 1;
}

static void test_T17_connections_of_one_address_are_limited(void **state) {
    struct world *w = *state;
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
}

static void with_three_and_a_health_listener(struct api_options *o) {
    with_a_health_listener(o);
    o->connections_max = 3;
    o->loops = 1;
}

static void test_full_health_listener_shuts_no_client_out(void **state) {
    struct world *w = *state;
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
}

static const struct str livez = {"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n", 32};

/* Whoever reaches it could otherwise take the descriptors that delivery and the store need. */
static void test_health_listener_takes_so_many_and_no_more(void **state) {
    struct world *w = *state;
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
}

static void with_two_connections(struct api_options *o) {
    o->connections_max = 2;
    o->loops = 1;
}

static void test_reload_allows_more_connections(void **state) {
    struct world *w = *state;
    struct api_options o = options_of(w);
    o.connections_max = 4;
    o.loops = 1;
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

int main(void) {
    const struct CMUnitTest tests[] = {
        SERVED(test_T16_body_over_the_limit_is_413_and_names_it),
        SERVED_WITH(test_T16_every_route_ends_a_body_over_its_limit_with_413, with_every_route),
        SERVED(test_what_is_accepted_is_answered_however_large_the_header),
        SERVED(test_refused_body_that_is_announced_is_not_asked_for),
        SERVED_WITH(test_T16_bodies_beyond_the_memory_set_aside_are_503, with_memory_for_one),
        SERVED_WITH(test_client_that_left_in_its_body_holds_no_memory, with_memory_for_one),
        SERVED_WITH(test_T16_one_key_cannot_set_aside_all_memory, with_memory_for_four),
        SERVED_WITH(test_T16_large_answers_are_taken_out_of_the_memory_set_aside,
                    with_memory_for_two_answers),
        SERVED_WITH(test_T16_a_503_for_want_of_memory_has_changed_nothing,
                    with_memory_for_one_answer),
        SERVED_WITH(test_T16_pages_are_read_within_the_memory_set_aside, with_memory_for_two_pages),
        SERVED_WITH(test_T16_pages_of_keys_are_read_within_the_memory_set_aside,
                    with_memory_for_two_pages),
        SERVED_WITH(test_T16_pages_of_domains_are_read_within_the_memory_set_aside,
                    with_memory_for_two_pages),
        SERVED_WITH(test_T16_pages_leave_room_for_bodies, with_memory_for_six_pages),
        SERVED_WITH(test_T32_pages_of_one_key_leave_room_for_those_of_others,
                    with_memory_for_two_pages),
        SERVED_WITH(test_T16_pages_of_captures_are_read_within_the_memory_set_aside,
                    with_memory_for_two_pages),
        SERVED_WITH(test_T16_captures_are_read_within_the_memory_set_aside, with_a_mebibyte),
        SERVED_WITH(test_T16_a_message_is_read_within_the_memory_set_aside,
                    with_memory_for_two_messages),
        SERVED(test_capture_that_no_answer_can_hold_is_told_so),
        SERVED(test_captured_body_of_many_values_is_shown_as_text),
        SERVED_WITH(test_T17_slow_clients_are_cut_off, with_little_time),
        SERVED_WITH(test_T17_crowd_of_slow_clients_is_cut_off, with_room_for_a_crowd),
        SERVED_WITH(test_T17_crowd_leaves_while_it_is_cut_off, with_room_for_a_crowd),
        SERVED_WITH(test_drain_ends_a_crowd_that_has_nothing_under_way, with_one_loop),
        SERVED_WITH(test_T17_drop_by_drop_header_does_not_extend_the_deadline,
                    with_time_for_a_header),
        SERVED_WITH(test_T17_connections_of_one_address_are_limited, with_three_an_address),
        SERVED_WITH(test_full_health_listener_shuts_no_client_out,
                    with_three_and_a_health_listener),
        SERVED_WITH(test_health_listener_takes_so_many_and_no_more, with_a_health_listener),
        SERVED_WITH(test_reload_allows_more_connections, with_two_connections),
        SERVED(test_after_a_want_of_descriptors_clients_are_accepted_again),
    };
    log_setup(LOG_ERROR, LOG_FORMAT_TEXT);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
