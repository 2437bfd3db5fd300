/* Where it listens, and how it ends. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <openssl/ssl.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "tests/unit/api/http_world.h"
#include "tests/unit/net/certs.h"

/* ---- listeners ---- */

static void test_health_has_a_listener_of_its_own(void **state) {
    struct world *w = *state;
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
}

static char folder[64], control_path[128];

static void with_a_control_socket(struct api_options *o) {
    snprintf(folder, sizeof(folder), "/tmp/postchute-test-XXXXXX");
    assert_non_null(mkdtemp(folder));
    snprintf(control_path, sizeof(control_path), "%s/control.sock", folder);
    o->control_path = str_of(control_path);
}

static void test_control_socket_needs_no_key_and_lets_only_its_owner_in(void **state) {
    struct world *w = *state;
    struct stat st;
    assert_int_equal(stat(control_path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    struct sockaddr_un sa = {.sun_family = AF_UNIX};
    memcpy(sa.sun_path, control_path, strlen(control_path) + 1);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&sa, sizeof(sa)), 0);
    client_send(fd, STR("GET /v1/keys HTTP/1.1\r\nHost: x\r\n\r\n"));
    struct answer a;
    client_read(fd, false, &a);
    assert_int_equal(a.status, 200);
    client_release(&a);
    close(fd);
    world_stop(w);
    assert_int_equal(stat(control_path, &st), -1);
    rmdir(folder);
}

/* Stands before the one of the C library, also for libmicrohttpd: who closes a descriptor twice
 * takes it from whoever got its number meanwhile. */
static atomic_int closed_twice;

int close(int fd) {
    int result = (int)syscall(SYS_close, fd);
    if (result != 0 && errno == EBADF)
        atomic_fetch_add(&closed_twice, 1);
    return result;
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
    struct str nowhere = STR("198.51.100.1:0");
    struct errinfo why = {0};
    struct api_options o = options_of(&w);
    o.listen = &nowhere;
    assert_int_equal(api_start(&o, &api, &why), ERR_UNAVAILABLE);
    assert_non_null(strstr(why.text, "this machine has no such address"));
    o = options_of(&w);
    o.tls_cert = STR("x");
    assert_int_equal(api_start(&o, &api, NULL), ERR_INVALID);
    o.tls_key = STR("y");
    assert_int_equal(api_start(&o, &api, NULL), ERR_INVALID);
    assert_int_equal(atomic_load(&closed_twice), 0);
    fake_free(w.store);
}

/* ---- another certificate ---- */

/* Before the one of the C library: of the copies that are made of descriptors, this one (from 1) is
 * refused; 0: none. */
static atomic_int copy_refused;

int fcntl(int fd, int cmd, ...) {
    va_list ap;
    va_start(ap, cmd);
    void *arg = va_arg(ap, void *);
    va_end(ap);
    if (cmd == F_DUPFD_CLOEXEC && atomic_load(&copy_refused) > 0 &&
        atomic_fetch_sub(&copy_refused, 1) == 1) {
        errno = EMFILE;
        return -1;
    }
    return (int)syscall(SYS_fcntl, fd, cmd, arg);
}

static struct certs certs;
static char pem[2][2][8192]; /* of the first and the second: certificate, key */

static void use_certificate(struct api_options *o, int which) {
    static const struct str listen[] = {{"127.0.0.1:0", 11}, {"127.0.0.1:0", 11}};
    o->listen = listen;
    o->listen_count = 2;
    o->loops = 1;
    o->tls_cert = str_of(pem[which][0]);
    o->tls_key = str_of(pem[which][1]);
}

static void with_the_first_certificate(struct api_options *o) {
    certs_init(&certs);
    for (int i = 0; i < 2; i++) {
        struct cert_files f =
            certs_issue(&certs, i == 0 ? "first" : "second", "DNS:x", -3600, 3600, false);
        certs_pem(f.cert, pem[i][0], sizeof(pem[i][0]));
        certs_pem(f.key, pem[i][1], sizeof(pem[i][1]));
    }
    certs_free(&certs);
    use_certificate(o, 0);
}

static void assert_served(struct world *w, const char *name) {
    for (size_t i = 0; i < 6; i++) { /* whoever of those that listen takes it */
        char cn[64] = "";
        SSL_CTX *ctx = SSL_CTX_new(TLS_client_method());
        SSL *ssl = SSL_new(ctx);
        int fd = client_connect(api_port(w->api, i % 2));
        SSL_set_fd(ssl, fd);
        assert_int_equal(SSL_connect(ssl), 1);
        X509 *x = SSL_get1_peer_certificate(ssl);
        assert_non_null(x);
        X509_NAME_get_text_by_NID(X509_get_subject_name(x), NID_commonName, cn, sizeof(cn));
        assert_string_equal(cn, name);
        X509_free(x);
        SSL_free(ssl);
        SSL_CTX_free(ctx);
        close(fd);
    }
}

static void test_certificate_that_one_listener_cannot_take_changes_none(void **state) {
    struct world *w = *state;
    struct errinfo info = {0};
    struct api_options o = options_of(w);
    use_certificate(&o, 1);
    assert_served(w, "first");
    for (int at = 1; at <= 2; at++) {
        atomic_store(&copy_refused, at);
        assert_int_equal(api_reload(w->api, &o, &info), ERR_INVALID);
        assert_int_equal(atomic_load(&copy_refused), 0);
        assert_served(w, "first");
    }
    assert_int_equal(api_reload(w->api, &o, &info), OK);
    assert_served(w, "second");
}

/* ---- the end ---- */

static void test_drain_answers_what_is_open_and_takes_nothing_new(void **state) {
    struct world *w = *state;
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
}

static void with_little_patience(struct api_options *o) {
    o->drain_ms = 100;
}

static void test_stop_with_idle_and_half_open_connections(void **state) {
    struct world *w = *state;
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
}

int main(void) {
    const struct CMUnitTest tests[] = {
        SERVED_WITH(test_health_has_a_listener_of_its_own, with_a_health_listener),
        SERVED_WITH(test_control_socket_needs_no_key_and_lets_only_its_owner_in,
                    with_a_control_socket),
        cmocka_unit_test(test_options_that_cannot_be),
        SERVED_WITH(test_certificate_that_one_listener_cannot_take_changes_none,
                    with_the_first_certificate),
        SERVED(test_drain_answers_what_is_open_and_takes_nothing_new),
        SERVED_WITH(test_stop_with_idle_and_half_open_connections, with_little_patience),
    };
    log_setup(LOG_ERROR, LOG_FORMAT_TEXT);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
