#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <dirent.h>
#include <signal.h>
#include <sys/resource.h>
#include <cmocka.h>

#include "server/base/clock.h"
#include "server/base/log.h"
#include "server/events/signature.h"
#include "server/events/webhook.h"
#include "server/render/event.h"
#include "tests/contract/sqlite_faults.h"
#include "tests/unit/http_peer.h"
#include "tests/unit/log_watch.h"

enum { PROJECT = 1, TIMEOUT_MS = 2000, WAIT_MS = 10000, LOG_MOST = 100 };
#define SECRET "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
#define READ_ENDPOINTS "SELECT n, id, project, url"
#define OLD_SECRET "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"

/* ---- a world: a store in a folder, an endpoint's server, the room under test ------------------
 */

struct world {
    char folder[64];
    struct store *store;
    struct dns *dns;
    struct guard *guard;
    struct webhooks *webhooks;
    struct http_peer peer;
    int64_t timeout_ms;
};

static char huge[256 * 1024];

/* While it is on, no file of this process can be written: the store fails as on a full disk. */
static void set_disk_full(bool on) {
    struct rlimit limit;
    ASSERT(getrlimit(RLIMIT_FSIZE, &limit) == 0);
    limit.rlim_cur = on ? 1 : limit.rlim_max;
    ASSERT(setrlimit(RLIMIT_FSIZE, &limit) == 0);
}

/* What the endpoint answers stands in its path. */
static const char *respond(void *ctx, const struct http_peer_request *r) {
    (void)ctx;
    static const struct {
        const char *path, *answer;
    } answers[] = {
        {"POST /ok ", "HTTP/1.1 200 OK\r\nContent-Length: 6\r\nConnection: close\r\n\r\nthanks"},
        {"POST /empty ", "HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n"},
        {"POST /500 ", "HTTP/1.1 500 Oops\r\nContent-Length: 6\r\nConnection: close\r\n\r\n\xFF"
                       "oops\r"},
        {"POST /gone ", "HTTP/1.1 410 Gone\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"},
        {"POST /moved ", "HTTP/1.1 302 Found\r\nLocation: /ok\r\nContent-Length: 0\r\n"
                         "Connection: close\r\n\r\n"},
        {"POST /later ", "HTTP/1.1 503 Later\r\nRetry-After: 60\r\nContent-Length: 0\r\n"
                         "Connection: close\r\n\r\n"},
        {"POST /huge ", huge},
        {"POST /hang-up ", HTTP_PEER_CLOSE},
        {"POST /nonsense ", "SMTP says hello\r\n\r\n"},
        {"POST /hold ", HTTP_PEER_HOLD},
    };
    if (strncmp(r->text, "POST /trap ", 11) == 0) {
        set_disk_full(true);
        return answers[0].answer;
    }
    for (size_t i = 0; i < sizeof answers / sizeof answers[0]; i++)
        if (strncmp(r->text, answers[i].path, strlen(answers[i].path)) == 0)
            return answers[i].answer;
    return "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
}

static void start(struct world *w) {
    struct webhooks_options o = {.store = w->store,
                                 .dns = w->dns,
                                 .guard = w->guard,
                                 .timeout_ms = w->timeout_ms,
                                 .user_agent = "postchute/test"};
    struct errinfo info = {0};
    assert_int_equal(webhooks_start(&o, &w->webhooks, &info), OK);
}

static struct guard *make_guard(bool allows_loopback) {
    struct str network = STR("127.0.0.0/8"), host = STR("127.0.0.1");
    struct guard_options o = {.allow_networks = &network,
                              .allow_network_count = allows_loopback,
                              .allow_http_hosts = &host,
                              .allow_http_host_count = allows_loopback};
    struct guard *g = NULL;
    struct errinfo info = {0};
    assert_int_equal(guard_new(&o, &g, &info), OK);
    return g;
}

static int set_up(void **state) {
    struct world *w = mem_zalloc(sizeof *w);
    struct errinfo info = {0};
    /* literals alone are used: nothing is asked, and no resolver is made on a thread */
    struct dns_options d = {.mode = "127.0.0.1@9", .trust_anchor_file = ""};
    snprintf(w->folder, sizeof w->folder, "/tmp/postchute-webhook-XXXXXX");
    assert_non_null(mkdtemp(w->folder));
    struct store_options s = {.backend = STORE_SQLITE, .folder = w->folder};
    log_setup(LOG_ERROR, LOG_FORMAT_TEXT);
    assert_int_equal(store_open(&s, &w->store, &info), OK);
    assert_int_equal(dns_start(&d, &w->dns, &info), OK);
    w->guard = make_guard(true);
    w->timeout_ms = TIMEOUT_MS;
    http_peer_start(&w->peer, respond, NULL);
    *state = w;
    return 0;
}

static int tear_down(void **state) {
    struct world *w = *state;
    webhooks_stop(&w->webhooks, 500);
    http_peer_stop(&w->peer);
    dns_stop(&w->dns);
    guard_free(&w->guard);
    store_close(&w->store);
    DIR *d = opendir(w->folder);
    for (struct dirent *e; d && (e = readdir(d)) != NULL;)
        unlinkat(dirfd(d), e->d_name, 0);
    closedir(d);
    assert_int_equal(rmdir(w->folder), 0);
    free(w);
    return 0;
}

/* ---- endpoints, events, the log -------------------------------------------------------------- */

static struct webhook_row endpoint_row(struct world *w, const char *path, char url[128]) {
    static struct str tests_alone[] = {{"webhook.test", 12}}; /* not what happens to the others */
    snprintf(url, 128, "http://127.0.0.1:%d/%s", w->peer.port, path);
    int64_t now = clock_wall_ms();
    return (struct webhook_row){.id = id_new(now),
                                .project = PROJECT,
                                .url = str_of(url),
                                .secret = STR(SECRET),
                                .events = tests_alone,
                                .event_count = 1,
                                .created_wall_ms = now};
}

static struct id put(struct world *w, const struct webhook_row *row) {
    struct store_webhook_put q = {.call.verb = STORE_WEBHOOK_PUT, .webhook = *row};
    assert_int_equal(store_sync(w->store, &q.call), OK);
    store_call_release(&q.call);
    return row->id;
}

static void replace(struct world *w, const struct webhook_row *row) {
    struct store_webhook_put q = {.call.verb = STORE_WEBHOOK_PUT, .webhook = *row, .replace = true};
    assert_int_equal(store_sync(w->store, &q.call), OK);
    store_call_release(&q.call);
}

static struct id put_endpoint(struct world *w, const char *path) {
    char url[128];
    struct webhook_row row = endpoint_row(w, path, url);
    return put(w, &row);
}

static struct id cause_event(struct world *w, const struct id *webhook) {
    struct store_webhook_test q = {.call.verb = STORE_WEBHOOK_TEST,
                                   .id = *webhook,
                                   .project = PROJECT,
                                   .now_wall_ms = clock_wall_ms()};
    assert_int_equal(store_sync(w->store, &q.call), OK);
    store_call_release(&q.call);
    return q.event_id;
}

/* The newest notification of an endpoint; texts are cut. */
struct entry {
    struct notification_row row;
    char error[256], response[2048];
    size_t count;
};

static struct entry look(struct world *w, const struct id *webhook) {
    struct entry e = {0};
    struct store_notifications q = {.call.verb = STORE_NOTIFICATIONS,
                                    .webhook_id = *webhook,
                                    .project = PROJECT,
                                    .limit = LOG_MOST};
    assert_int_equal(store_sync(w->store, &q.call), OK);
    e.count = q.count;
    if (q.count) {
        e.row = q.notification[0];
        snprintf(e.error, sizeof e.error, "%.*s", STR_ARG(e.row.error));
        snprintf(e.response, sizeof e.response, "%.*s", STR_ARG(e.row.response));
        e.row.error = e.row.response = STR_NONE;
    }
    store_call_release(&q.call);
    return e;
}

static void pause_shortly(void) {
    struct timespec t = {.tv_nsec = 5 * 1000 * 1000};
    nanosleep(&t, NULL);
}

/* Until `attempts` were counted. */
static struct entry wait_for(struct world *w, const struct id *webhook, int attempts) {
    int64_t until = clock_mono_ms() + WAIT_MS;
    struct entry e = look(w, webhook);
    while ((e.row.attempts < attempts || e.row.state == NOTIFICATION_SENDING) &&
           clock_mono_ms() < until) {
        pause_shortly();
        e = look(w, webhook);
    }
    assert_int_equal(e.row.attempts, attempts);
    return e;
}

static size_t count_delivered(struct world *w, const struct id *webhook) {
    size_t n = 0;
    struct store_notifications q = {.call.verb = STORE_NOTIFICATIONS,
                                    .webhook_id = *webhook,
                                    .project = PROJECT,
                                    .limit = LOG_MOST};
    assert_int_equal(store_sync(w->store, &q.call), OK);
    for (size_t i = 0; i < q.count; i++)
        n += q.notification[i].state == NOTIFICATION_DELIVERED;
    store_call_release(&q.call);
    return n;
}

static enum webhook_state state_of(struct world *w, const struct id *webhook) {
    struct store_webhooks q = {.call.verb = STORE_WEBHOOKS, .project = PROJECT};
    enum webhook_state s = WEBHOOK_ENABLED;
    assert_int_equal(store_sync(w->store, &q.call), OK);
    for (size_t i = 0; i < q.count; i++)
        if (id_equal(&q.webhook[i].id, webhook))
            s = q.webhook[i].state;
    store_call_release(&q.call);
    return s;
}

static void replay(struct world *w, const struct id *webhook, int64_t seq) {
    struct store_notify_replay q = {.call.verb = STORE_NOTIFY_REPLAY,
                                    .webhook_id = *webhook,
                                    .project = PROJECT,
                                    .seq = seq,
                                    .now_wall_ms = clock_wall_ms()};
    assert_int_equal(store_sync(w->store, &q.call), OK);
    store_call_release(&q.call);
}

/* ---- tests ----------------------------------------------------------------------------------- */

/* What the feed shows for the event is what was posted. */
static void assert_is_feed(struct world *w, const struct id *event, const char *body) {
    struct store_events q = {.call.verb = STORE_EVENTS, .project = PROJECT, .limit = LOG_MOST};
    struct buf want = BUF_INIT(1 << 20);
    assert_int_equal(store_sync(w->store, &q.call), OK);
    for (size_t i = 0; i < q.count; i++)
        if (id_equal(&q.event[i].id, event))
            render_event(&q.event[i], &want);
    assert_true(want.n > 0);
    assert_string_equal(body, want.p);
    buf_release(&want);
    store_call_release(&q.call);
}

static void an_event_is_posted_signed_and_recorded(void **state) {
    struct world *w = *state;
    char event_text[ID_TEXT_SIZE];
    int64_t before_s = clock_wall_ms() / 1000;
    uint64_t stamp = 0;
    start(w);
    struct id hook = put_endpoint(w, "ok"), event = cause_event(w, &hook);
    struct entry e = wait_for(w, &hook, 1);
    assert_int_equal(e.row.state, NOTIFICATION_DELIVERED);
    assert_int_equal(e.row.status, 200);
    assert_string_equal(e.response, "thanks");
    assert_string_equal(e.error, "");
    assert_int_equal(http_peer_count(&w->peer), 1);

    const struct http_peer_request *r = &w->peer.shared.request[0];
    id_print(&event, event_text);
    assert_true(str_equal(http_peer_field(r, STR("webhook-id")), str_of(event_text)));
    assert_true(str_equal(http_peer_field(r, STR("content-type")), STR("application/json")));
    assert_true(str_equal(http_peer_field(r, STR("user-agent")), STR("postchute/test")));
    struct str at = http_peer_field(r, STR("webhook-timestamp"));
    assert_int_equal(str_parse_u64(at, INT64_MAX, &stamp), OK);
    assert_in_range(stamp, before_s, clock_wall_ms() / 1000);
    struct buf want = BUF_INIT(256);
    struct str secret = STR(SECRET);
    assert_int_equal(signature_print(&secret, 1, str_of(event_text), (int64_t)stamp,
                                     str_make(r->body, r->body_size), &want),
                     OK);
    assert_true(str_equal(http_peer_field(r, STR("webhook-signature")), buf_str(&want)));
    buf_release(&want);
    assert_is_feed(w, &event, r->body);
}

static void answers_decide_what_becomes_of_a_notification(void **state) {
    expect_log("the endpoint answered 410: disabled");
    struct world *w = *state;
    static const struct {
        const char *path;
        enum notification_state state;
        int status;
        int64_t least_ms, most_ms; /* until the next attempt */
        enum webhook_state webhook;
        const char *response;
    } rows[] = {
        {"empty", NOTIFICATION_DELIVERED, 204, 0, 0, WEBHOOK_ENABLED, ""},
        {"500", NOTIFICATION_PENDING, 500, 4250, 5750, WEBHOOK_ENABLED, "\xEF\xBF\xBDoops\r"},
        {"moved", NOTIFICATION_PENDING, 302, 4250, 5750, WEBHOOK_ENABLED, ""},
        {"nowhere", NOTIFICATION_PENDING, 404, 4250, 5750, WEBHOOK_ENABLED, ""},
        {"later", NOTIFICATION_PENDING, 503, 60000, 60000, WEBHOOK_ENABLED, ""},
        {"gone", NOTIFICATION_FAILED, 410, 0, 0, WEBHOOK_DISABLED, ""},
        {"hang-up", NOTIFICATION_PENDING, 0, 4250, 5750, WEBHOOK_ENABLED, ""},
        {"nonsense", NOTIFICATION_PENDING, 0, 4250, 5750, WEBHOOK_ENABLED, ""},
        {"hold", NOTIFICATION_PENDING, 0, 4250, 5750, WEBHOOK_ENABLED, ""},
    };
    w->timeout_ms = 300;
    start(w);
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct id hook = put_endpoint(w, rows[i].path);
        (void)cause_event(w, &hook);
        struct entry e = wait_for(w, &hook, 1);
        if (e.row.state != rows[i].state || e.row.status != rows[i].status)
            print_error("%s: %d %d %s\n", rows[i].path, e.row.state, e.row.status, e.error);
        assert_int_equal(e.row.state, rows[i].state);
        assert_int_equal(e.row.status, rows[i].status);
        assert_string_equal(e.response, rows[i].response);
        assert_int_equal(*e.error != '\0', rows[i].status == 0);
        assert_int_equal(state_of(w, &hook), rows[i].webhook);
        if (rows[i].state == NOTIFICATION_PENDING)
            assert_in_range(e.row.due_wall_ms - e.row.updated_wall_ms, rows[i].least_ms - 50,
                            rows[i].most_ms);
        assert_int_equal(http_peer_count(&w->peer), i + 1); /* the redirect was not followed */
    }
}

static void an_endless_answer_is_cut(void **state) {
    struct world *w = *state;
    start(w);
    struct id hook = put_endpoint(w, "huge");
    (void)cause_event(w, &hook);
    struct entry e = wait_for(w, &hook, 1);
    assert_true(strlen(e.response) <= 1024);
    assert_true(e.row.state == NOTIFICATION_DELIVERED || *e.error);
}

static void a_forbidden_address_is_a_failed_attempt_with_the_reason(void **state) {
    struct world *w = *state;
    guard_free(&w->guard);
    w->guard = make_guard(false);
    start(w);
    struct id hook = put_endpoint(w, "ok");
    (void)cause_event(w, &hook);
    struct entry e = wait_for(w, &hook, 1);
    assert_int_equal(e.row.state, NOTIFICATION_PENDING);
    assert_int_equal(e.row.status, 0);
    assert_true(strlen(e.error) > 10);
    assert_int_equal(http_peer_count(&w->peer), 0);
    /* the operator allows it: the next attempt gets through */
    struct guard *before = w->guard;
    w->guard = make_guard(true);
    webhooks_set(w->webhooks, &(struct webhooks_options){.guard = w->guard, .timeout_ms = 5000});
    guard_free(&before);
    replay(w, &hook, e.row.seq);
    assert_int_equal(wait_for(w, &hook, 2).row.state, NOTIFICATION_DELIVERED);
}

static void settings_change_where_no_descriptor_is_left(void **state) {
    struct world *w = *state;
    start(w);
    struct rlimit before, none;
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
    none = before;
    none.rlim_cur = 3; /* as many as are open at any rate */
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
    webhooks_set(w->webhooks, &(struct webhooks_options){.guard = w->guard, .timeout_ms = 5000});
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
    struct id hook = put_endpoint(w, "ok");
    (void)cause_event(w, &hook);
    assert_int_equal(wait_for(w, &hook, 1).row.state, NOTIFICATION_DELIVERED);
}

static void the_id_stays_the_same_over_attempts(void **state) {
    struct world *w = *state;
    start(w);
    struct id hook = put_endpoint(w, "500");
    (void)cause_event(w, &hook);
    struct entry e = wait_for(w, &hook, 1);
    replay(w, &hook, e.row.seq);
    (void)wait_for(w, &hook, 2);
    const struct http_peer_request *r = w->peer.shared.request;
    assert_int_equal(http_peer_count(&w->peer), 2);
    assert_true(str_equal(http_peer_field(&r[0], STR("webhook-id")),
                          http_peer_field(&r[1], STR("webhook-id"))));
    assert_string_equal(r[0].body, r[1].body);
}

static void during_rotation_both_secrets_sign(void **state) {
    struct world *w = *state;
    char url[128];
    struct webhook_row row = endpoint_row(w, "ok", url);
    row.previous_secret = STR(OLD_SECRET);
    row.previous_until_wall_ms = clock_wall_ms() + 60000;
    struct id both = put(w, &row);
    row = endpoint_row(w, "ok", url);
    row.previous_secret = STR(OLD_SECRET);
    row.previous_until_wall_ms = clock_wall_ms() - 1;
    struct id over = put(w, &row);
    start(w);
    (void)cause_event(w, &both);
    (void)wait_for(w, &both, 1);
    (void)cause_event(w, &over);
    (void)wait_for(w, &over, 1);
    const struct http_peer_request *r = w->peer.shared.request;
    assert_true(str_find(http_peer_field(&r[0], STR("webhook-signature")), STR(" v1,")) > 0);
    assert_true(str_find(http_peer_field(&r[1], STR("webhook-signature")), STR(" ")) < 0);
}

static bool was_signed_with(const struct http_peer_request *r, struct str secret) {
    uint64_t stamp = 0;
    struct buf want = BUF_INIT(256);
    struct str at = http_peer_field(r, STR("webhook-timestamp"));
    assert_int_equal(str_parse_u64(at, INT64_MAX, &stamp), OK);
    assert_int_equal(signature_print(&secret, 1, http_peer_field(r, STR("webhook-id")),
                                     (int64_t)stamp, str_make(r->body, r->body_size), &want),
                     OK);
    bool is = str_equal(http_peer_field(r, STR("webhook-signature")), buf_str(&want));
    buf_release(&want);
    return is;
}

static void nothing_goes_to_a_former_url_because_the_endpoints_could_not_be_read(void **state) {
    struct world *w = *state;
    struct http_peer elsewhere;
    char url[128];
    http_peer_start(&elsewhere, respond, NULL);
    start(w);
    struct webhook_row row = endpoint_row(w, "ok", url);
    struct id hook = put(w, &row);
    (void)cause_event(w, &hook);
    (void)wait_for(w, &hook, 1);

    snprintf(url, sizeof url, "http://127.0.0.1:%d/ok", elsewhere.port);
    row.url = str_of(url);
    row.secret = STR(OLD_SECRET);
    /* not the committer's own reading, when an event comes */
    sqlite_fail(&(struct sqlite_fault){
        .rc = SQLITE_IOERR_READ, .at = 1, .only = READ_ENDPOINTS, .only_reads = true});
    replace(w, &row);
    int64_t until = clock_mono_ms() + WAIT_MS;
    while (sqlite_failed() == 0 && clock_mono_ms() < until)
        pause_shortly();
    assert_int_equal(sqlite_fail_end(), 1);
    (void)cause_event(w, &hook);
    until = clock_mono_ms() + WAIT_MS;
    while (count_delivered(w, &hook) < 2 && clock_mono_ms() < until)
        pause_shortly();
    size_t former = http_peer_count(&w->peer), now = http_peer_count(&elsewhere);
    bool is_new_secret = now > 0 && was_signed_with(&elsewhere.shared.request[0], STR(OLD_SECRET));
    webhooks_stop(&w->webhooks, 500);
    http_peer_stop(&elsewhere);
    assert_int_equal(former, 1);
    assert_int_equal(now, 1);
    assert_true(is_new_secret);
}

static bool wait_state(struct world *w, const struct id *webhook, enum notification_state wanted) {
    int64_t until = clock_mono_ms() + WAIT_MS;
    while (look(w, webhook).row.state != wanted && clock_mono_ms() < until)
        pause_shortly();
    return look(w, webhook).row.state == wanted;
}

/* Once the endpoints cannot be read, what is claimed waits for a reading. */
static void
what_was_claimed_when_its_endpoint_was_disabled_waits_until_it_is_enabled(void **state) {
    struct world *w = *state;
    char url[128];
    struct webhook_row row = endpoint_row(w, "ok", url);
    start(w);
    sqlite_fail(&(struct sqlite_fault){.rc = SQLITE_IOERR_READ,
                                       .at = 1,
                                       .for_ever = true,
                                       .only = READ_ENDPOINTS,
                                       .only_reads = true});
    struct id hook = put(w, &row);
    int64_t until = clock_mono_ms() + WAIT_MS;
    while (sqlite_failed() == 0 && clock_mono_ms() < until)
        pause_shortly();
    (void)cause_event(w, &hook);
    bool was_claimed = wait_state(w, &hook, NOTIFICATION_SENDING);
    row.state = WEBHOOK_DISABLED;
    replace(w, &row);
    assert_true(sqlite_fail_end() > 0);
    assert_true(was_claimed);
    assert_true(wait_state(w, &hook, NOTIFICATION_PENDING));
    assert_int_equal(look(w, &hook).row.attempts, 0);
    assert_int_equal(http_peer_count(&w->peer), 0);
    row.state = WEBHOOK_ENABLED;
    replace(w, &row);
    struct entry e = wait_for(w, &hook, 1);
    assert_int_equal(e.row.state, NOTIFICATION_DELIVERED);
}

static void a_dead_endpoint_holds_up_nobody(void **state) {
    struct world *w = *state;
    enum { EVENTS = 40 };
    struct id dead = put_endpoint(w, "hold"), good = put_endpoint(w, "ok");
    for (int i = 0; i < EVENTS; i++) {
        (void)cause_event(w, &dead);
        (void)cause_event(w, &good);
    }
    start(w);
    int64_t until = clock_mono_ms() + WAIT_MS;
    while (count_delivered(w, &good) < EVENTS && clock_mono_ms() < until)
        pause_shortly();
    assert_int_equal(count_delivered(w, &good), EVENTS);
}

static void a_new_timeout_counts_for_the_next_post(void **state) {
    struct world *w = *state;
    w->timeout_ms = 60000;
    start(w);
    webhooks_set(w->webhooks, &(struct webhooks_options){.guard = w->guard, .timeout_ms = 200});
    struct id hook = put_endpoint(w, "hold");
    (void)cause_event(w, &hook);
    struct entry e = wait_for(w, &hook, 1);
    assert_int_equal(e.row.state, NOTIFICATION_PENDING);
    assert_int_equal(e.row.status, 0);
}

static void a_stop_gives_back_what_was_not_answered(void **state) {
    struct world *w = *state;
    w->timeout_ms = 60000;
    struct id hook = put_endpoint(w, "hold");
    (void)cause_event(w, &hook);
    start(w);
    assert_true(http_peer_wait(&w->peer, 1));
    int64_t began = clock_mono_ms();
    webhooks_stop(&w->webhooks, 300);
    assert_true(clock_mono_ms() - began < 2000);
    struct entry e = look(w, &hook);
    assert_int_equal(e.row.state, NOTIFICATION_PENDING);
    assert_int_equal(e.row.attempts, 0);
    assert_true(e.row.due_wall_ms <= clock_wall_ms());
    /* it is taken up again, under the same id */
    start(w);
    assert_true(http_peer_wait(&w->peer, 2));
    const struct http_peer_request *r = w->peer.shared.request;
    assert_true(str_equal(http_peer_field(&r[0], STR("webhook-id")),
                          http_peer_field(&r[1], STR("webhook-id"))));
}

static void an_idle_room_stops_at_once(void **state) {
    struct world *w = *state;
    start(w);
    int64_t began = clock_mono_ms();
    webhooks_stop(&w->webhooks, 60000);
    assert_true(clock_mono_ms() - began < 2000);
}

static bool wait_writable(struct world *w, bool wanted) {
    int64_t until = clock_mono_ms() + WAIT_MS;
    while (store_health(w->store).is_writable != wanted && clock_mono_ms() < until)
        pause_shortly();
    return store_health(w->store).is_writable == wanted;
}

static void a_result_that_cannot_be_stored_is_kept_until_it_can(void **state) {
    expect_log("the store is not writable");
    struct world *w = *state;
    signal(SIGXFSZ, SIG_IGN);
    start(w);
    struct id hook = put_endpoint(w, "trap");
    (void)cause_event(w, &hook);
    bool failed = http_peer_wait(&w->peer, 1) && wait_writable(w, false);
    set_disk_full(false);
    assert_true(failed);
    struct entry e = wait_for(w, &hook, 1);
    assert_int_equal(e.row.state, NOTIFICATION_DELIVERED);
    assert_int_equal(http_peer_count(&w->peer), 1); /* not posted again */
}

static void a_stop_does_not_wait_for_a_store_that_cannot(void **state) {
    expect_log("the store is not writable");
    struct world *w = *state;
    signal(SIGXFSZ, SIG_IGN);
    start(w);
    struct id hook = put_endpoint(w, "trap");
    (void)cause_event(w, &hook);
    bool failed = http_peer_wait(&w->peer, 1) && wait_writable(w, false);
    int64_t began = clock_mono_ms();
    webhooks_stop(&w->webhooks, 300);
    int64_t took = clock_mono_ms() - began;
    set_disk_full(false);
    assert_true(failed);
    assert_true(took < 3000);
}

#define IN_WORLD(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)

int main(void) {
    snprintf(huge, sizeof huge, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n");
    memset(huge + strlen(huge), 'x', sizeof huge - strlen(huge) - 1);
    const struct CMUnitTest tests[] = {
        IN_WORLD(an_event_is_posted_signed_and_recorded),
        IN_WORLD(answers_decide_what_becomes_of_a_notification),
        IN_WORLD(an_endless_answer_is_cut),
        IN_WORLD(a_forbidden_address_is_a_failed_attempt_with_the_reason),
        IN_WORLD(settings_change_where_no_descriptor_is_left),
        IN_WORLD(the_id_stays_the_same_over_attempts),
        IN_WORLD(during_rotation_both_secrets_sign),
        IN_WORLD(nothing_goes_to_a_former_url_because_the_endpoints_could_not_be_read),
        IN_WORLD(what_was_claimed_when_its_endpoint_was_disabled_waits_until_it_is_enabled),
        IN_WORLD(a_dead_endpoint_holds_up_nobody),
        IN_WORLD(a_new_timeout_counts_for_the_next_post),
        IN_WORLD(a_stop_gives_back_what_was_not_answered),
        IN_WORLD(an_idle_room_stops_at_once),
        IN_WORLD(a_result_that_cannot_be_stored_is_kept_until_it_can),
        IN_WORLD(a_stop_does_not_wait_for_a_store_that_cannot),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
