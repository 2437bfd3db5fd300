/* world: a store, a receiving server on loopback and delivery between them, for the tests of the
 * room as a whole. In a header since each test is one program of one file. Thread: the test's. */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <dirent.h>
#include <sqlite3.h>

#include "server/base/clock.h"
#include "server/base/log.h"
#include "server/delivery/delivery.h"
#include "server/delivery/housekeeping.h"
#include "server/mail/dkim_key.h"
#include "tests/unit/delivery/sink.h"
#include "tests/unit/log_watch.h"
#include "tests/unit/patience.h"

#define WORLD static __attribute__((unused))

enum { PATIENCE_MS = 30000, RECIPIENTS = 1000 };

struct world {
    char folder[64];
    struct store *store;
    struct sink *sink;
    struct delivery *delivery;
    struct housekeeping *housekeeping; /* NULL: the test has none */
    struct mailbox *box;
    int completed; /* messages, since the last wait */
    int changed;
    const char *queue_key; /* of what is submitted; NULL: the recipient's domain */
    struct delivery_options o;
    struct route route;
    struct smarthost host;
};

/* ---- the world ---------------------------------------------------------------------------------
 */

WORLD void on_notice(struct store_notice *n) {
    struct world *w = n->ctx;
    w->changed++;
    w->completed += n->is_complete;
    store_notice_free(&n);
}

WORLD void point_at(struct world *w, const struct sink *s, const char *parameters) {
    char url[256], to[SOCKADDR_TEXT_SIZE];
    struct errinfo info = {0};
    sockaddr_print(&s->at, to);
    snprintf(url, sizeof(url), "smtp://%s?%s", to, parameters);
    if (smarthost_parse(str_of(url), &w->host, &info) != OK)
        fail_msg("%s: %s", url, info.text);
    w->route = (struct route){
        .name = "relay", .kind = ROUTE_SMARTHOST, .smarthost = &w->host, .smarthost_count = 1};
    w->o.routes = &w->route;
    w->o.route_count = 1;
    w->o.default_route = "relay";
}

WORLD void prepare(struct world *w) {
    struct errinfo info = {0};
    snprintf(w->folder, sizeof(w->folder), "/tmp/postchute-test-XXXXXX");
    assert_non_null(mkdtemp(w->folder));
    const struct store_options so = {.backend = STORE_SQLITE, .folder = w->folder};
    if (store_open(&so, &w->store, &info) != OK)
        fail_msg("store: %s", info.text);
    w->box = mailbox_new();
    store_watch(w->store, NOTICE_MESSAGE, w->box, on_notice, w);
    delivery_options_default(&w->o);
    w->o.store = w->store;
    w->o.hostname = "sender.test";
    w->o.loops = 2;
    for (size_t i = 0; i < w->o.retry_count; i++)
        w->o.retry_ms[i] = 50;
    w->o.retry_then_ms = 50;
    w->o.site_dead_ms = 200;
    w->o.timeouts.connect = 2000;
}

WORLD void start(struct world *w) {
    struct errinfo info = {0};
    if (delivery_start(&w->o, &w->delivery, &info) != OK)
        fail_msg("delivery: %s: %s", info.field, info.text);
}

WORLD void reload(struct world *w) {
    struct errinfo info = {0};
    if (delivery_reload(w->delivery, &w->o, &info) != OK)
        fail_msg("reload: %s: %s", info.field, info.text);
}

/* Another server in the place of the first. */
WORLD void replace_sink(struct world *w, bool with_tls, const char *hostile,
                        const char *parameters) {
    sink_free(&w->sink);
    w->sink = sink_new(with_tls, hostile);
    point_at(w, w->sink, parameters);
}

/* Over so many sessions to a server that never answers; the caller frees it after delivery. */
WORLD struct sink *start_hung(struct world *w, unsigned sessions) {
    struct sink *hung = sink_new(false, NULL);
    hung->holds_all = true;
    w->o.retry_ms[0] = 60000;
    point_at(w, hung, "tls=none");
    w->route.concurrency = sessions;
    start(w);
    return hung;
}

/* And from now on to the one that does. */
WORLD void reload_to_sink(struct world *w, unsigned sessions) {
    point_at(w, w->sink, "tls=none");
    w->route.concurrency = sessions;
    reload(w);
}

WORLD int setup(void **state) {
    log_setup(LOG_WARN, LOG_FORMAT_TEXT);
    struct world *w = mem_zalloc(sizeof(*w));
    expect_log("sent without a DKIM signature"); /* most need none */
    *state = w;
    w->sink = sink_new(false, NULL);
    prepare(w);
    point_at(w, w->sink, "tls=none");
    return 0;
}

WORLD void remove_folder(const char *folder) {
    DIR *d = opendir(folder);
    for (struct dirent *f; d != NULL && (f = readdir(d)) != NULL;) {
        if (f->d_name[0] != '.')
            unlinkat(dirfd(d), f->d_name, 0);
    }
    if (d != NULL)
        closedir(d);
    rmdir(folder);
}

WORLD struct store_totals totals(struct world *w) {
    struct store_totals q = {.call = {.verb = STORE_TOTALS}};
    assert_int_equal(store_sync(w->store, &q.call), OK);
    store_call_release(&q.call);
    return q;
}

WORLD int teardown(void **state) {
    struct world *w = *state;
    housekeeping_stop(&w->housekeeping);
    delivery_stop(&w->delivery);
    struct store_totals t = totals(w);
    int64_t sum = 0;
    for (int i = 0; i < RECIPIENT_STATE_COUNT; i++)
        sum += t.by_state[i];
    assert_int_equal(t.accepted, sum);
    assert_int_equal(t.by_state[RECIPIENT_SENDING], 0);
    store_unwatch(w->store, w->box);
    mailbox_free(&w->box);
    store_close(&w->store);
    sink_free(&w->sink);
    remove_folder(w->folder);
    free(w);
    return 0;
}

/* ---- what tests do -----------------------------------------------------------------------------
 */

/* A message to the recipients that are separated by commas. */
WORLD struct id submit_with(struct world *w, const char *to, const struct message_row *like) {
    struct arena *a = arena_new();
    struct recipient_row *r = ARENA_ARRAY(a, struct recipient_row, RECIPIENTS);
    struct str *keys = ARENA_ARRAY(a, struct str, RECIPIENTS);
    size_t n = 0;
    int64_t now_wall_ms = clock_wall_ms();
    struct str rest = str_of(to);
    while (!str_is_absent(rest)) {
        struct str email = str_split(&rest, ',');
        r[n] = (struct recipient_row){
            .email = email, .state = RECIPIENT_QUEUED, .due_wall_ms = now_wall_ms};
        keys[n++] = w->queue_key != NULL ? str_of(w->queue_key)
                                         : str_from(email, (size_t)str_find_char(email, '@') + 1);
    }
    static const char BYTES[] = "From: Shop <shop@example.org>\r\nTo: you@example.net\r\n"
                                "Subject: Hello\r\nDate: Thu, 01 Jan 2026 00:00:00 +0000\r\n"
                                "Message-ID: <m@example.org>\r\n\r\nHello.\r\n";
    struct store_accept q = {.call = {.verb = STORE_ACCEPT}, .now_wall_ms = now_wall_ms};
    q.message = (struct message_row){
        .id = id_new(now_wall_ms),
        .project = 1,
        .created_wall_ms = now_wall_ms,
        .expires_wall_ms = now_wall_ms + 3600000,
        .message_id = STR("<m@example.org>"),
        .mail_from = STR("shop@example.org"),
        .from_email = STR("shop@example.org"),
        .from_domain = STR("example.org"),
        .subject = STR("Hello"),
        .lane = LANE_TRANSACTIONAL,
        .size_bytes = sizeof(BYTES) - 1,
        .has_content = true,
        .recipient_count = n,
        .recipient = r,
    };
    if (like != NULL) {
        q.message.route = like->route;
        q.message.tls = like->tls;
        q.message.is_test = like->is_test;
        if (!str_is_absent(like->mail_from))
            q.message.mail_from = like->mail_from;
        if (like->lane == LANE_BULK)
            q.message.lane = like->lane;
        for (size_t i = 0; i < n && like->created_wall_ms != 0; i++)
            r[i].due_wall_ms = like->created_wall_ms;
        if (like->expires_wall_ms != 0)
            q.message.expires_wall_ms = like->expires_wall_ms;
        if (like->size_bytes > q.message.size_bytes)
            q.message.size_bytes = like->size_bytes;
    }
    q.queue_key = keys;
    size_t size = (size_t)q.message.size_bytes;
    char *content = mem_zalloc(size);
    memset(content, 'x', size);
    for (size_t i = sizeof(BYTES) + 500; i + 4 < size; i += 500)
        memcpy(content + i, "\r\n", 2);
    memcpy(content, BYTES, sizeof(BYTES) - 1);
    memcpy(content + size - 2, "\r\n", 2);
    q.content = message_new(&q.message.id, content, size);
    assert_int_equal(store_sync(w->store, &q.call), OK);
    struct id id = q.message.id;
    store_call_release(&q.call);
    arena_free(&a);
    return id;
}

WORLD struct id submit(struct world *w, const char *to) {
    return submit_with(w, to, NULL);
}

WORLD void retry_now(struct world *w, struct id id) {
    int64_t now = clock_wall_ms();
    struct store_retry q = {.call = {.verb = STORE_RETRY},
                            .id = id,
                            .project = -1,
                            .new_id = id_new(now),
                            .now_wall_ms = now,
                            .expires_wall_ms = now + 3600 * 1000};
    assert_int_equal(store_sync(w->store, &q.call), OK);
    assert_false(q.made_new);
    arena_free(&q.call.arena);
}

WORLD bool wait_until(struct world *w, bool (*is_so)(struct world *w, void *arg), void *arg) {
    int64_t end_mono_ms = clock_mono_ms() + patience_ms(PATIENCE_MS);
    while (!is_so(w, arg)) {
        if (clock_mono_ms() >= end_mono_ms)
            return false;
        mailbox_wait(w->box, 20); /* a message changed; counters of the sink have no event */
    }
    return true;
}

WORLD bool has_completed(struct world *w, void *arg) {
    return w->completed >= *(int *)arg;
}

WORLD void await_completed(struct world *w, int count) {
    if (!wait_until(w, has_completed, &count))
        fail_msg("%d of %d messages completed", w->completed, count);
}

WORLD bool counter_reached(struct world *w, void *arg) {
    (void)w;
    int **p = arg;
    return sink_get(p[0]) >= *p[1];
}

WORLD void await_counter(struct world *w, int *counter, int least) {
    int *args[] = {counter, &least};
    if (!wait_until(w, counter_reached, args))
        fail_msg("a counter stays at %d", sink_get(counter));
}

WORLD struct message_row message(struct world *w, struct id id, struct arena **a) {
    struct store_message q = {.call = {.verb = STORE_MESSAGE}, .id = id, .project = -1};
    assert_int_equal(store_sync(w->store, &q.call), OK);
    *a = q.call.arena;
    return q.message;
}

WORLD struct recipient_row recipient(struct world *w, struct id id, size_t i) {
    static struct arena *kept;
    arena_free(&kept);
    struct message_row m = message(w, id, &kept);
    assert_true(i < m.recipient_count);
    return m.recipient[i];
}

struct expected_state {
    struct id id;
    int attempts;
    enum recipient_state state;
};
WORLD bool has_state(struct world *w, void *arg) {
    const struct expected_state *e = arg;
    struct recipient_row r = recipient(w, e->id, 0);
    return r.state == e->state && r.attempts >= e->attempts;
}
WORLD void await_state(struct world *w, struct id id, enum recipient_state state, int attempts) {
    struct expected_state e = {id, attempts, state};
    if (!wait_until(w, has_state, &e)) {
        struct recipient_row r = recipient(w, id, 0);
        fail_msg("recipient is %s after %d attempts", recipient_state_name(r.state), r.attempts);
    }
}

WORLD bool all_have_state(struct world *w, void *arg) {
    const struct expected_state *e = arg;
    struct arena *a = NULL;
    struct message_row m = message(w, e->id, &a);
    size_t n = 0;
    for (size_t i = 0; i < m.recipient_count; i++)
        n += m.recipient[i].state == e->state;
    bool have = n == m.recipient_count;
    arena_free(&a);
    return have;
}
/* of this message, whatever is told about others meanwhile */
WORLD void await_all(struct world *w, struct id id, enum recipient_state state) {
    if (!wait_until(w, all_have_state, &(struct expected_state){.id = id, .state = state}))
        fail_msg("not all recipients are %s", recipient_state_name(state));
}

WORLD size_t attempts_of(struct world *w, struct id id, struct attempt_row *last,
                         struct arena **a) {
    struct store_attempts q = {
        .call = {.verb = STORE_ATTEMPTS}, .message_id = id, .project = -1, .limit = 1000};
    assert_int_equal(store_sync(w->store, &q.call), OK);
    if (q.count > 0)
        *last = q.attempt[q.count - 1];
    *a = q.call.arena;
    return q.count;
}

/* What the program would never write. *db is opened the first time; the caller closes it. */
WORLD void run_sql(struct world *w, sqlite3 **db, const char *sql) {
    char path[128];
    snprintf(path, sizeof(path), "%s/outbox.db", w->folder);
    if (*db == NULL)
        assert_int_equal(sqlite3_open(path, db), SQLITE_OK);
    assert_int_equal(sqlite3_exec(*db, sql, NULL, NULL, NULL), SQLITE_OK);
}

WORLD void put_key_in(struct world *w, int64_t project, const char *name,
                      const char *bounce_address, const char *selector) {
    struct dkim_key *key = NULL;
    struct errinfo info = {0};
    struct buf pem = BUF_INIT(8192);
    assert_int_equal(dkim_key_generate(DKIM_ED25519_SHA256, &key, &info), OK);
    dkim_key_print_pem(key, &pem);
    struct domain_key_row row = {.selector = str_of(selector),
                                 .algorithm = STR("ed25519-sha256"),
                                 .pem = buf_str(&pem),
                                 .record = STR("v=DKIM1"),
                                 .created_wall_ms = clock_wall_ms()};
    struct store_domain_put q = {.call = {.verb = STORE_DOMAIN_PUT}, .replace = true};
    q.domain = (struct domain_row){.id = id_new(clock_wall_ms()),
                                   .project = project,
                                   .name = str_of(name),
                                   .bounce_address = str_of(bounce_address),
                                   .created_wall_ms = clock_wall_ms(),
                                   .key = &row,
                                   .key_count = 1};
    assert_int_equal(store_sync(w->store, &q.call), OK);
    store_call_release(&q.call);
    buf_release_secret(&pem);
    dkim_key_unref(&key);
}

WORLD void put_key_of(struct world *w, const char *name, const char *bounce_address,
                      const char *selector) {
    put_key_in(w, 1, name, bounce_address, selector);
}

WORLD void put_key(struct world *w, const char *bounce_address, const char *selector) {
    put_key_of(w, "example.org", bounce_address, selector);
}

WORLD void put_signing_domain(struct world *w, const char *bounce_address) {
    put_key(w, bounce_address, "s1");
}

/* ---- a second route ----------------------------------------------------------------------------
 */

/* A second route, to a server that takes mail to hold@ and never answers the final dot. */
struct slow {
    struct sink *sink;
    struct smarthost host;
    struct route route[2];
};

WORLD void add_slow_route(struct world *w, struct slow *slow) {
    struct route relay = w->route;
    struct smarthost host = w->host;
    slow->sink = sink_new(false, NULL);
    point_at(w, slow->sink, "tls=none");
    slow->host = w->host;
    slow->route[0] = w->route;
    slow->route[0].name = "slow";
    slow->route[0].smarthost = &slow->host;
    w->host = host;
    w->route = relay;
    slow->route[1] = relay;
    w->o.routes = slow->route;
    w->o.route_count = 2;
}

WORLD void submit_slow(struct world *w, const char *to, int count) {
    const struct message_row like = {.route = STR("slow")};
    while (count-- > 0)
        submit_with(w, to, &like);
}

WORLD void end_slow(struct world *w, struct slow *slow) {
    delivery_stop(&w->delivery);
    sink_free(&slow->sink);
}
