/* httpc against a small HTTP server and a DNS responder of the test's own; a second listener
 * records whoever comes to an address that is denied. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <openssl/ssl.h>
#include <signal.h>

#include "server/base/buf.h"
#include "server/base/clock.h"
#include "server/base/limits.h"
#include "server/net/httpc.h"
#include "tests/unit/net/certs.h"
#include "tests/unit/net/responder.h"
#include "tests/unit/net/system.h"
#include "tests/unit/net/web.h"

enum { DAY = 86400 };

static const struct rr rows[] = {
    {"app", DNS_A, "127.0.0.1", RR_ANSWER},
    {"hook.example", DNS_A, "127.0.0.1", RR_ANSWER},
    {"other.example", DNS_A, "127.0.0.1", RR_ANSWER},
    {"inside.example", DNS_A, "127.0.0.9", RR_ANSWER}, /* not in the open network */
    {"mixed.example", DNS_A, "127.0.0.1", RR_ANSWER},
    {"mixed.example", DNS_A, "127.0.0.9", RR_ANSWER},
    {"mixed6.example", DNS_A, "127.0.0.1", RR_ANSWER},
    {"mixed6.example", DNS_AAAA, "::1", RR_ANSWER},
    {"second.example", DNS_A, "127.0.0.2", RR_ANSWER}, /* nobody listens there */
    {"second.example", DNS_A, "127.0.0.1", RR_ANSWER},
    {"closed.example", DNS_A, "127.0.0.2", RR_ANSWER},
    {"broken.example", 0, "", RR_SERVFAIL},
    {"silent.example", 0, "", RR_DROP},
    {"six.example", DNS_TXT, "no address", RR_ANSWER},
    {"crowd.example", DNS_A, "127.0.0.10", RR_ANSWER},
    {"crowd.example", DNS_A, "127.0.0.11", RR_ANSWER},
    {"crowd.example", DNS_A, "127.0.0.12", RR_ANSWER},
    {"crowd.example", DNS_A, "127.0.0.13", RR_ANSWER},
    {"crowd.example", DNS_A, "127.0.0.14", RR_ANSWER},
    {"crowd.example", DNS_A, "127.0.0.15", RR_ANSWER},
    {"crowd.example", DNS_A, "127.0.0.16", RR_ANSWER},
    {"crowd.example", DNS_A, "127.0.0.17", RR_ANSWER},
    {"crowd.example", DNS_A, "127.0.0.18", RR_ANSWER},
    {"crowd.example", DNS_A, "127.0.0.19", RR_ANSWER},
    {"crowd.example", DNS_A, "127.0.0.20", RR_ANSWER},
    {"crowd.example", DNS_A, "127.0.0.21", RR_ANSWER},
    {"crowd.example", DNS_A, "127.0.0.22", RR_ANSWER},
    {"crowd.example", DNS_A, "127.0.0.23", RR_ANSWER},
    {"crowd.example", DNS_A, "127.0.0.24", RR_ANSWER},
    {"crowd.example", DNS_A, "127.0.0.25", RR_ANSWER},
    {"crowd.example", DNS_A, "127.0.0.26", RR_ANSWER},
    {0},
};

static struct web web, tls_web;

/* ---- the client --------------------------------------------------------------------------------
 */

static struct certs certs;
static struct responder server;
static struct loop *l;
static struct dns *dns;
static struct guard *guard;
static struct httpc *http;
static int recorder; /* listens on the denied address, on the web's port */

static struct outcome {
    int count;
    enum failure failure;
    int status;
    char body[256], text[256], address[SOCKADDR_TEXT_SIZE];
    size_t body_n;
    bool is_truncated;
    int64_t retry_after_ms;
} got;

static struct guard *make_guard(void) {
    static const struct str networks[] = {STR("127.0.0.0/29")};
    static const struct str hosts[] = {
        STR("app"),
        STR("hook.example"),
        STR("inside.example"),
        STR("mixed.example"),
        STR("mixed6.example"),
        STR("second.example"),
        STR("crowd.example"),
        STR("closed.example"),
        STR("broken.example"),
        STR("silent.example"),
        STR("127.0.0.1"),
        STR("127.0.0.9"),
        STR("six.example"),
        STR("nothing.example"),
        STR("other.example"),
    };
    struct guard *g;
    assert_int_equal(
        guard_new(&(struct guard_options){.allow_networks = networks,
                                          .allow_network_count = 1,
                                          .allow_http_hosts = hosts,
                                          .allow_http_host_count = sizeof hosts / sizeof *hosts},
                  &g, NULL),
        OK);
    return g;
}

static int begin(void **state) {
    (void)state;
    signal(SIGPIPE, SIG_IGN);
    /* must not be looked at */
    setenv("http_proxy", "http://127.0.0.9:1/", 1);
    setenv("https_proxy", "http://127.0.0.9:1/", 1);
    setenv("all_proxy", "http://127.0.0.9:1/", 1);
    responder_start(&server, rows);
    web_start(&web, NULL);
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(web.port)};
    inet_pton(AF_INET, "127.0.0.9", &at.sin_addr);
    recorder = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(recorder, (struct sockaddr *)&at, sizeof at), 0);
    assert_int_equal(listen(recorder, 8), 0);
    l = loop_new();
    assert_int_equal(
        dns_start(&(struct dns_options){.mode = server.mode, .trust_anchor_file = ""}, &dns, NULL),
        OK);
    guard = make_guard();
    http = httpc_new(
        &(struct httpc_options){.loop = l, .dns = dns, .guard = guard, .ca_file = certs.ca_file});
    memset(&got, 0, sizeof got);
    return 0;
}

static int finish(void **state) {
    (void)state;
    assert_int_equal(accept(recorder, NULL, NULL), -1); /* nobody ever came */
    httpc_free(&http);
    dns_stop(&dns);
    guard_free(&guard);
    loop_dispatch_once(l, 0);
    loop_free(&l);
    web_stop(&web);
    responder_stop(&server);
    close(recorder);
    return 0;
}

static void done(void *arg, const struct httpc_result *r) {
    (void)arg;
    got.count++;
    got.failure = r->failure;
    got.status = r->status;
    got.body_n = r->body.n;
    got.is_truncated = r->is_truncated;
    got.retry_after_ms = r->retry_after_ms;
    snprintf(got.body, sizeof got.body, "%.*s", STR_ARG(r->body));
    snprintf(got.text, sizeof got.text, "%.*s", STR_ARG(r->failure_text));
    memcpy(got.address, r->address, sizeof got.address);
}

static void wait_for(int n) {
    int64_t until_mono_ms = clock_mono_ms() + 20000;
    while (got.count < n && clock_mono_ms() < until_mono_ms)
        loop_dispatch_once(l, 50);
    assert_int_equal(got.count, n);
}

static void send_to(const char *url, struct httpc_request r) {
    r.url = str_of(url);
    r.method = r.method ? r.method : "GET";
    r.timeout_ms = r.timeout_ms ? r.timeout_ms : 5000;
    int before = got.count;
    httpc_send(http, &r, done, NULL);
    assert_int_equal(got.count, before); /* never inside the call */
}

/* `path` on `host` at the port of `w`. */
static void get_from(const struct web *w, const char *host, const char *path) {
    char url[256];
    snprintf(url, sizeof url, "%s://%s:%u%s", w->ctx ? "https" : "http", host, (unsigned)w->port,
             path);
    memset(&got, 0, sizeof got);
    send_to(url, (struct httpc_request){0});
    wait_for(1);
}

static void a_post_carries_what_it_was_given(void **state) {
    (void)state;
    char url[128], want[64];
    snprintf(url, sizeof url, "http://HOOK.example:%u/ok?a=b", (unsigned)web.port);
    static const char *const headers[] = {"Content-Type: application/json", "webhook-id: 1", NULL};
    send_to(url,
            (struct httpc_request){.method = "POST", .headers = headers, .body = STR("{\"a\":1}")});
    wait_for(1);
    assert_int_equal(got.failure, FAILURE_NONE);
    assert_int_equal(got.status, 200);
    assert_string_equal(got.body, "hello");
    assert_false(got.is_truncated);
    assert_int_equal(got.retry_after_ms, -1);
    snprintf(want, sizeof want, "127.0.0.1:%u", (unsigned)web.port);
    assert_string_equal(got.address, want);
    assert_memory_equal(web.last, "POST /ok?a=b HTTP/1.1\r\n", 23);
    snprintf(want, sizeof want, "\r\nHost: hook.example:%u\r\n", (unsigned)web.port);
    assert_non_null(strstr(web.last, want));
    assert_non_null(strstr(web.last, "\r\nContent-Type: application/json\r\n"));
    assert_non_null(strstr(web.last, "\r\nwebhook-id: 1\r\n"));
    assert_non_null(strstr(web.last, "\r\nUser-Agent: postchute/"));
    assert_null(strstr(web.last, "Expect"));
    assert_non_null(strstr(web.last, "\r\n\r\n{\"a\":1}"));
}

static void each_answer_is_told_as_it_came(void **state) {
    (void)state;
    static const struct {
        const char *path;
        enum failure failure;
        int status;
        int64_t retry_after_ms;
    } table[] = {
        {"/gone", FAILURE_NONE, 410, -1},
        {"/moved", FAILURE_NONE, 302, -1},
        {"/moved7", FAILURE_NONE, 307, -1},
        {"/moved8", FAILURE_NONE, 308, -1},
        {"/later", FAILURE_NONE, 503, 120000},
        {"/past", FAILURE_NONE, 429, 0},
        {"/date", FAILURE_NONE, 429, 365LL * 24 * 3600 * 1000},
        {"/never", FAILURE_NONE, 429, 365LL * 24 * 3600 * 1000},
        {"/soon", FAILURE_NONE, 429, -1},
        {"/noise", FAILURE_PROTOCOL, 0, -1},
        {"/nothing", FAILURE_CLOSED, 0, -1},
        {"/short", FAILURE_CLOSED, 0, -1},
        {"/half", FAILURE_CLOSED, 0, -1},
        {"/endless", FAILURE_CLOSED, 0, -1},
        {"/interim", FAILURE_CLOSED, 0, -1},
        {"/beyond", FAILURE_PROTOCOL, 0, -1},
        {"/headers", FAILURE_PROTOCOL, 0, -1},
    };
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        int before = web.requests;
        get_from(&web, "app", table[i].path);
        if (got.failure != table[i].failure || got.status != table[i].status)
            fail_msg("%s: %s %d %s", table[i].path, failure_name(got.failure), got.status,
                     got.text);
        assert_int_equal(got.retry_after_ms, table[i].retry_after_ms);
        assert_int_equal(web.requests, before + 1); /* no redirect was followed */
        assert_int_equal(got.text[0] != 0, got.failure != FAILURE_NONE);
        assert_null(strstr(got.text, "No error"));
    }
}

static void a_body_is_read_up_to_its_ceiling(void **state) {
    (void)state;
    char url[64];
    get_from(&web, "app", "/big");
    assert_int_equal(got.failure, FAILURE_NONE);
    assert_int_equal(got.status, 200);
    assert_int_equal(got.body_n, LIMIT_WEBHOOK_RESPONSE);
    assert_true(got.is_truncated);
    memset(&got, 0, sizeof got);
    snprintf(url, sizeof url, "http://app:%u/ok", (unsigned)web.port);
    send_to(url, (struct httpc_request){.response_max = 5});
    wait_for(1);
    assert_string_equal(got.body, "hello");
    assert_false(got.is_truncated);
}

static void T19_denied_addresses_see_no_connection(void **state) {
    (void)state;
    static const struct {
        const char *host;
        enum failure want;
    } table[] = {
        {"inside.example", FAILURE_CONNECT_FORBIDDEN}, {"mixed.example", FAILURE_CONNECT_FORBIDDEN},
        {"mixed6.example", FAILURE_CONNECT_FORBIDDEN}, {"127.0.0.9", FAILURE_CONNECT_FORBIDDEN},
        {"user@app", FAILURE_CONNECT_FORBIDDEN},       {"127.1", FAILURE_CONNECT_FORBIDDEN},
        {"nothing.example", FAILURE_DNS_NXDOMAIN},     {"six.example", FAILURE_DNS_NO_ADDRESS},
        {"broken.example", FAILURE_DNS_TEMPORARY},     {"closed.example", FAILURE_CONNECT_REFUSED},
    };
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        get_from(&web, table[i].host, "/ok");
        if (got.failure != table[i].want)
            fail_msg("%s: %s (%s)", table[i].host, failure_name(got.failure), got.text);
        assert_true(got.text[0] != 0);
    }
    get_from(&web, "crowd.example", "/ok");
    assert_int_equal(got.failure, FAILURE_CONNECT_FORBIDDEN);
    assert_string_equal(got.text, "the name has more than 16 addresses");
    assert_int_equal(web.connections, 0);
}

/* A search domain with a wildcard: its address is a denied one. */
static void the_addresses_of_a_host_are_of_one_name(void **state) {
    (void)state;
    httpc_free(&http);
    dns_stop(&dns);
    dns = start_system("search a.example b.example\noptions ndots:5\n",
                       "127.0.0.1 app.a.example hook.example\n"
                       "::1 app.b.example hook.example.b.example\n");
    http = httpc_new(&(struct httpc_options){.loop = l, .dns = dns, .guard = guard});
    get_from(&web, "app", "/ok");
    assert_int_equal(got.failure, FAILURE_NONE);
    get_from(&web, "hook.example", "/ok");
    assert_int_equal(got.failure, FAILURE_NONE);
}

static void a_second_address_is_tried_when_the_first_refuses(void **state) {
    (void)state;
    for (int i = 0; i < 4; i++) {
        get_from(&web, "second.example", "/ok");
        assert_int_equal(got.failure, FAILURE_NONE);
        assert_string_equal(got.body, "hello");
        assert_memory_equal(got.address, "127.0.0.1:", 10);
    }
}

static void a_literal_needs_no_name(void **state) {
    (void)state;
    get_from(&web, "127.0.0.1", "/ok");
    assert_int_equal(got.failure, FAILURE_NONE);
    assert_int_equal(server.questions, 0);
}

static void a_connection_serves_several_requests(void **state) {
    (void)state;
    for (int i = 0; i < 5; i++)
        get_from(&web, "app", "/ok");
    assert_int_equal(web.requests, 5);
    assert_int_equal(web.connections, 1);
}

static void a_new_guard_counts_at_once(void **state) {
    (void)state;
    get_from(&web, "app", "/ok");
    assert_int_equal(got.failure, FAILURE_NONE);
    struct guard *strict;
    static const struct str hosts[] = {STR("app")};
    assert_int_equal(
        guard_new(&(struct guard_options){.allow_http_hosts = hosts, .allow_http_host_count = 1},
                  &strict, NULL),
        OK);
    httpc_set(http, strict, NULL);
    get_from(&web, "app", "/ok"); /* also not over the connection that is still open */
    assert_int_equal(got.failure, FAILURE_CONNECT_FORBIDDEN);
    assert_int_equal(web.requests, 1);
    httpc_set(http, guard, NULL);
    guard_free(&strict);
}

static void silence_ends_at_the_timeout(void **state) {
    (void)state;
    char url[64];
    snprintf(url, sizeof url, "http://app:%u/hang", (unsigned)web.port);
    int64_t start_mono_ms = clock_mono_ms();
    send_to(url, (struct httpc_request){.timeout_ms = 150});
    wait_for(1);
    assert_int_equal(got.failure, FAILURE_TIMEOUT);
    assert_in_range(clock_mono_ms() - start_mono_ms, 130, 5000);
    memset(&got, 0, sizeof got);
    snprintf(url, sizeof url, "http://silent.example:%u/", (unsigned)web.port);
    send_to(url, (struct httpc_request){.timeout_ms = 100});
    wait_for(1);
    assert_int_equal(got.failure, FAILURE_DNS_TEMPORARY);
}

static void more_than_the_limit_waits_its_turn(void **state) {
    (void)state;
    char url[64];
    httpc_free(&http);
    http = httpc_new(
        &(struct httpc_options){.loop = l, .dns = dns, .guard = guard, .parallel_max = 2});
    snprintf(url, sizeof url, "http://app:%u/gone", (unsigned)web.port);
    for (int i = 0; i < 20; i++)
        send_to(url, (struct httpc_request){0});
    wait_for(20);
    assert_int_equal(got.failure, FAILURE_NONE);
    assert_int_equal(web.requests, 20);
}

static void a_stop_ends_everything_at_once(void **state) {
    (void)state;
    char hang[64], silent[64];
    snprintf(hang, sizeof hang, "http://app:%u/hang", (unsigned)web.port);
    snprintf(silent, sizeof silent, "http://silent.example:%u/", (unsigned)web.port);
    httpc_free(&http);
    http = httpc_new(
        &(struct httpc_options){.loop = l, .dns = dns, .guard = guard, .parallel_max = 2});
    send_to(hang, (struct httpc_request){0});
    send_to(silent, (struct httpc_request){0});
    send_to(hang, (struct httpc_request){0}); /* waits */
    int64_t until_mono_ms = clock_mono_ms() + 5000;
    while (web.requests < 1 && clock_mono_ms() < until_mono_ms)
        loop_dispatch_once(l, 5);
    httpc_free(&http);
    assert_int_equal(got.count, 3);
    assert_int_equal(got.failure, FAILURE_SHUTDOWN);
    /* finish() stops dns, whose answers then find nobody */
}

/* Stands for libc's: the n-th send of this thread does not get what it takes from the kernel. */
static int send_fails_in;

ssize_t send(int fd, const void *p, size_t n, int flags) {
    if (send_fails_in > 0 && gettid() == getpid() && --send_fails_in == 0) {
        errno = ENOBUFS;
        return -1;
    }
    return sendto(fd, p, n, flags, NULL, 0); /* whose order the thread sanitizer sees */
}

static void post(const char *path) {
    char url[128];
    snprintf(url, sizeof url, "https://app:%u%s", (unsigned)tls_web.port, path);
    memset(&got, 0, sizeof got);
    send_to(url, (struct httpc_request){.method = "POST", .body = STR("{}")});
    wait_for(1);
}

/* A request of which nobody knows how much went out is not what the next one's answer is about. */
static void an_answer_is_to_what_was_asked(void **state) {
    (void)state;
    int failed = 0;
    for (int n = 1; n <= 6; n++) {
        web_start(&tls_web, web_ctx(&certs, "DNS:app", -DAY, DAY, false));
        send_fails_in = n;
        post("/ok?first");
        failed += got.failure != FAILURE_NONE;
        send_fails_in = 0;
        post("/ok?other");
        assert_int_equal(got.failure, FAILURE_NONE);
        if (!strstr(tls_web.last, "/ok?other"))
            fail_msg("send %d: said to be taken, and never received", n);
        web_stop(&tls_web);
    }
    assert_true(failed > 0);
}

static void certificates_are_verified(void **state) {
    (void)state;
    static const struct {
        const char *san;
        long from, until;
        bool self;
        enum failure want;
    } table[] = {
        {"DNS:app", -DAY, DAY, false, FAILURE_NONE},
        {"DNS:other.example", -DAY, DAY, false, FAILURE_TLS_NAME},
        {"DNS:app", -2 * DAY, -DAY, false, FAILURE_TLS_EXPIRED},
        {"DNS:app", DAY, 2 * DAY, false, FAILURE_TLS_EXPIRED},
        {"DNS:app", -DAY, DAY, true, FAILURE_TLS_UNTRUSTED},
    };
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        web_start(&tls_web,
                  web_ctx(&certs, table[i].san, table[i].from, table[i].until, table[i].self));
        get_from(&tls_web, "app", "/ok");
        if (got.failure != table[i].want)
            fail_msg("%zu: %s (%s)", i, failure_name(got.failure), got.text);
        assert_int_equal(tls_web.requests, table[i].want == FAILURE_NONE);
        web_stop(&tls_web);
    }
    /* not TLS at all */
    char url[64];
    memset(&got, 0, sizeof got);
    snprintf(url, sizeof url, "https://app:%u/ok", (unsigned)web.port);
    send_to(url, (struct httpc_request){0});
    wait_for(1);
    assert_int_not_equal(got.failure, FAILURE_NONE);
}

static void headers_cannot_be_smuggled(void **state) {
    (void)state;
    char url[64];
    static const char *const headers[] = {"X-A: b\r\nHost: evil", NULL};
    snprintf(url, sizeof url, "http://app:%u/ok", (unsigned)web.port);
    send_to(url, (struct httpc_request){.headers = headers});
    wait_for(1);
    assert_int_equal(got.failure, FAILURE_LOCAL);
    assert_int_equal(web.requests, 0);
}

static int prepare(void **state) {
    (void)state;
    certs_init(&certs);
    return 0;
}

static int clean(void **state) {
    (void)state;
    certs_free(&certs);
    return 0;
}

int main(void) {
#define T(f) cmocka_unit_test_setup_teardown(f, begin, finish)
    const struct CMUnitTest tests[] = {
        T(a_post_carries_what_it_was_given),
        T(each_answer_is_told_as_it_came),
        T(a_body_is_read_up_to_its_ceiling),
        T(T19_denied_addresses_see_no_connection),
        T(the_addresses_of_a_host_are_of_one_name),
        T(a_second_address_is_tried_when_the_first_refuses),
        T(a_literal_needs_no_name),
        T(a_connection_serves_several_requests),
        T(a_new_guard_counts_at_once),
        T(silence_ends_at_the_timeout),
        T(more_than_the_limit_waits_its_turn),
        T(a_stop_ends_everything_at_once),
        T(an_answer_is_to_what_was_asked),
        T(certificates_are_verified),
        T(headers_cannot_be_smuggled),
    };
    return cmocka_run_group_tests(tests, prepare, clean);
}
