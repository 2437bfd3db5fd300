/* httpc_sync: one request that is waited for, in clear, over TLS, and over a socket file. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <netinet/in.h>
#include <signal.h>
#include <sys/un.h>

#include "server/net/httpc_sync.h"
#include "tests/unit/net/web.h"

enum { DAY = 86400, PATIENCE_MS = 20000, ENOUGH = 64 * 1024 };

static struct certs certs;
static struct web web;

static int prepare(void **state) {
    (void)state;
    signal(SIGPIPE, SIG_IGN);
    /* must not be looked at */
    setenv("http_proxy", "http://127.0.0.9:1/", 1);
    setenv("https_proxy", "http://127.0.0.9:1/", 1);
    setenv("ALL_PROXY", "http://127.0.0.9:1/", 1);
    certs_init(&certs);
    return 0;
}

static int clean(void **state) {
    (void)state;
    certs_free(&certs);
    return 0;
}

static void ask(const char *scheme, const char *host, const char *path, const char *ca_file,
                bool is_own, struct httpc_sync_result *r) {
    char url[256];
    snprintf(url, sizeof url, "%s://%s:%u%s", scheme, host, (unsigned)web.port, path);
    httpc_sync(&(struct httpc_sync_request){.method = "GET",
                                            .url = url,
                                            .timeout_ms = PATIENCE_MS,
                                            .response_max = ENOUGH,
                                            .ca_file = ca_file,
                                            .is_own = is_own},
               r);
}

static void each_answer_is_told_as_it_came(void **state) {
    (void)state;
    static const struct {
        const char *path;
        enum failure failure;
        int status;
        const char *body;
    } rows[] = {
        {"/ok", FAILURE_NONE, 200, "hello"},
        {"/gone", FAILURE_NONE, 410, ""},
        {"/later", FAILURE_NONE, 503, ""},
        {"/moved", FAILURE_NONE, 302, ""}, /* redirects are not followed ... */
        {"/moved7", FAILURE_NONE, 307, ""},
        {"/moved8", FAILURE_NONE, 308, ""},
        {"/noise", FAILURE_PROTOCOL, 0, NULL},
        {"/short", FAILURE_CLOSED, 0, NULL},
        {"/nothing", FAILURE_CLOSED, 0, NULL},
        {"/big", FAILURE_TOO_LARGE, 0, NULL},
        {"/headers", FAILURE_TOO_LARGE, 0, NULL},
    };
    for (int tls = 0; tls < 2; tls++) {
        web_start(&web, tls ? web_ctx(&certs, "IP:127.0.0.1", -DAY, DAY, false) : NULL);
        for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
            struct httpc_sync_result r;
            int before = web.requests;
            ask(tls ? "https" : "http", "127.0.0.1", rows[i].path, certs.ca_file, false, &r);
            if (r.failure != rows[i].failure || r.status != rows[i].status)
                fail_msg("%s %d: %s %d %s", rows[i].path, tls, failure_name(r.failure), r.status,
                         r.failure_text);
            if (rows[i].body)
                assert_true(str_equal(buf_str(&r.body), str_of(rows[i].body)));
            assert_int_equal(r.failure_text[0] != 0, r.failure != FAILURE_NONE);
            assert_int_equal(web.requests, before + 1); /* ... and nothing else is asked */
            httpc_sync_release(&r);
        }
        web_stop(&web);
    }
}

static void certificates_are_verified(void **state) {
    (void)state;
    static const struct {
        const char *what, *san, *host;
        long from, until;
        bool is_self, knows_ca, is_own;
        enum failure failure;
    } rows[] = {
        {"good", "DNS:localhost", "localhost", -DAY, DAY, false, true, false, FAILURE_NONE},
        {"good address", "IP:127.0.0.1", "127.0.0.1", -DAY, DAY, false, true, false, FAILURE_NONE},
        {"another name", "DNS:other.test", "localhost", -DAY, DAY, false, true, false,
         FAILURE_TLS_NAME},
        {"another address", "IP:127.0.0.2", "127.0.0.1", -DAY, DAY, false, true, false,
         FAILURE_TLS_NAME},
        {"expired", "DNS:localhost", "localhost", -2 * DAY, -DAY, false, true, false,
         FAILURE_TLS_EXPIRED},
        {"not yet valid", "DNS:localhost", "localhost", DAY, 2 * DAY, false, true, false,
         FAILURE_TLS_EXPIRED},
        {"self-signed", "DNS:localhost", "localhost", -DAY, DAY, true, true, false,
         FAILURE_TLS_UNTRUSTED},
        {"an authority that the system does not know", "DNS:localhost", "localhost", -DAY, DAY,
         false, false, false, FAILURE_TLS_UNTRUSTED},
        {"our own server, whatever it shows", "DNS:other.test", "127.0.0.1", -2 * DAY, -DAY, true,
         false, true, FAILURE_NONE},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct httpc_sync_result r;
        web_start(&web, web_ctx(&certs, rows[i].san, rows[i].from, rows[i].until, rows[i].is_self));
        ask("https", rows[i].host, "/ok", rows[i].knows_ca ? certs.ca_file : NULL, rows[i].is_own,
            &r);
        if (r.failure != rows[i].failure)
            fail_msg("%s: %s %s", rows[i].what, failure_name(r.failure), r.failure_text);
        /* who did not prove who he is was told nothing */
        assert_int_equal(web.requests, rows[i].failure == FAILURE_NONE);
        httpc_sync_release(&r);
        web_stop(&web);
    }
}

static void what_cannot_be_reached_is_said(void **state) {
    (void)state;
    static const struct {
        const char *url;
        enum failure failure;
    } rows[] = {
        {"ftp://127.0.0.1/", FAILURE_LOCAL},
        {"http://", FAILURE_LOCAL},
        {"file:///etc/passwd", FAILURE_LOCAL},
        {"http://127.0.0.9:1/", FAILURE_CONNECT_REFUSED},
        {"https://127.0.0.9:1/", FAILURE_CONNECT_REFUSED},
        {"http://nobody.invalid/", FAILURE_DNS_TEMPORARY},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct httpc_sync_result r;
        httpc_sync(&(struct httpc_sync_request){.method = "GET",
                                                .url = rows[i].url,
                                                .timeout_ms = PATIENCE_MS,
                                                .response_max = ENOUGH},
                   &r);
        if (r.failure != rows[i].failure)
            fail_msg("%s: %s %s", rows[i].url, failure_name(r.failure), r.failure_text);
        assert_int_equal(r.status, 0);
        httpc_sync_release(&r);
    }
}

static void silence_ends_at_the_timeout(void **state) {
    (void)state;
    struct httpc_sync_result r;
    char url[64];
    web_start(&web, NULL);
    snprintf(url, sizeof url, "http://127.0.0.1:%u/hang", (unsigned)web.port);
    httpc_sync(
        &(struct httpc_sync_request){
            .method = "GET", .url = url, .timeout_ms = 100, .response_max = ENOUGH},
        &r);
    assert_int_equal(r.failure, FAILURE_TIMEOUT); /* it was connected */
    httpc_sync_release(&r);
    web_stop(&web);
}

static void a_post_carries_what_it_was_given(void **state) {
    (void)state;
    static const char *const headers[] = {"X-Test: yes", "Content-Type: application/json", NULL};
    struct httpc_sync_result r;
    char url[64];
    web_start(&web, web_ctx(&certs, "IP:127.0.0.1", -DAY, DAY, false));
    snprintf(url, sizeof url, "https://127.0.0.1:%u/ok", (unsigned)web.port);
    httpc_sync(&(struct httpc_sync_request){.method = "POST",
                                            .url = url,
                                            .headers = headers,
                                            .body = STR("{}"),
                                            .timeout_ms = PATIENCE_MS,
                                            .response_max = ENOUGH,
                                            .ca_file = certs.ca_file},
               &r);
    assert_int_equal(r.failure, FAILURE_NONE);
    assert_true(str_equal(httpc_sync_header(&r, STR("content-length")), STR("5")));
    assert_true(str_is_absent(httpc_sync_header(&r, STR("x-none"))));
    httpc_sync_release(&r);
    web_stop(&web); /* its thread has ended: `last` can be read */
    assert_non_null(strstr(web.last, "POST /ok HTTP/"));
    assert_non_null(strstr(web.last, "X-Test: yes\r\n"));
    assert_null(strcasestr(web.last, "Expect:"));
    assert_non_null(strstr(web.last, "\r\n\r\n{}"));
}

/* The listening socket of a `web` in a file instead of a port. */
static void a_socket_file_is_asked_too(void **state) {
    (void)state;
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    struct httpc_sync_result r;
    snprintf(at.sun_path, sizeof at.sun_path, "%s/control.sock", certs.dir);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&at, sizeof at), 0);
    assert_int_equal(listen(fd, 8), 0);
    web = (struct web){.fd = fd, .stop = eventfd(0, EFD_CLOEXEC)};
    assert_int_equal(pthread_create(&web.thread, NULL, web_main, &web), 0);
    httpc_sync(&(struct httpc_sync_request){.method = "GET",
                                            .url = "http://control/ok",
                                            .socket_path = at.sun_path,
                                            .timeout_ms = PATIENCE_MS,
                                            .response_max = ENOUGH},
               &r);
    assert_int_equal(r.failure, FAILURE_NONE);
    assert_int_equal(r.status, 200);
    httpc_sync_release(&r);
    web_stop(&web);
    unlink(at.sun_path);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_answer_is_told_as_it_came),
        cmocka_unit_test(certificates_are_verified),
        cmocka_unit_test(what_cannot_be_reached_is_said),
        cmocka_unit_test(silence_ends_at_the_timeout),
        cmocka_unit_test(a_post_carries_what_it_was_given),
        cmocka_unit_test(a_socket_file_is_asked_too),
    };
    return cmocka_run_group_tests(tests, prepare, clean);
}
