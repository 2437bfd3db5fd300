/* What OpenSSL answers when it gets no memory for a peer's certificate is no verdict about it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <openssl/ssl.h>
#include <poll.h>
#include <pthread.h>

#include "server/base/digest.h"
#include "server/net/stream.h"
#include "tests/unit/net/certs.h"
#include "tests/unit/net/crypto_faults.h"
#include "tests/unit/net/ends.h"

/* For so little the process ends. */
void __real_digest_sha256(struct str data, uint8_t out[SHA256_BYTES]);
void __wrap_digest_sha256(struct str data, uint8_t out[SHA256_BYTES]);
void __wrap_digest_sha256(struct str data, uint8_t out[SHA256_BYTES]) {
    long at = fail_at;
    fail_at = 0;
    __real_digest_sha256(data, out);
    fail_at = at;
}

/* ---- the peer: a thread of its own, one connection after the other ---- */

struct peer {
    struct tls_server_ctx *tls;
    int listening;
    struct sockaddr_any at;
    pthread_t thread;
};

static void *serve(void *arg) {
    struct peer *p = arg;
    char byte;
    int fd;
    while ((fd = accept4(p->listening, NULL, NULL, SOCK_CLOEXEC)) >= 0) {
        SSL *ssl = tls_server_session(p->tls);
        assert_non_null(ssl);
        SSL_set_fd(ssl, fd);
        if (SSL_accept(ssl) == 1)
            SSL_read(ssl, &byte, 1); /* until it goes */
        tls_session_free(ssl);
        close(fd);
    }
    return NULL;
}

static void peer_start(struct peer *p, const struct cert_files *f) {
    assert_int_equal(tls_server_ctx_new_files(f->cert, f->key, &p->tls, NULL), OK);
    p->listening = listen_any(&p->at, 16);
    assert_int_equal(pthread_create(&p->thread, NULL, serve, p), 0);
}

static void peer_stop(struct peer *p) {
    shutdown(p->listening, SHUT_RDWR);
    pthread_join(p->thread, NULL);
    close(p->listening);
    tls_server_ctx_unref(&p->tls);
}

/* ---- the client ---- */

struct world {
    struct certs certs;
    struct cert_files good, other_name, old, unknown;
    struct tls_pin pin;
    struct loop *loop;
};

static int setup(void **state) {
    struct world *w = *state = mem_zalloc(sizeof *w);
    certs_init(&w->certs);
    w->good = certs_issue(&w->certs, "mx", "DNS:mx.example.test", -1000, 86400, false);
    w->other_name = certs_issue(&w->certs, "mx", "DNS:other.example.test", -1000, 86400, false);
    w->old = certs_issue(&w->certs, "mx", "DNS:mx.example.test", -2000, -1000, false);
    w->unknown = certs_issue(&w->certs, "mx", "DNS:mx.example.test", -1000, 86400, true);
    FILE *f = fopen(w->good.cert, "r");
    X509 *x = PEM_read_X509(f, NULL, NULL, NULL);
    unsigned char *der = NULL;
    int n = i2d_X509_PUBKEY(X509_get_X509_PUBKEY(x), &der);
    digest_sha256(str_make((const char *)der, (size_t)n), w->pin.sha256);
    OPENSSL_free(der);
    X509_free(x);
    fclose(f);
    w->loop = loop_new();
    return 0;
}

static int teardown(void **state) {
    struct world *w = *state;
    loop_free(&w->loop);
    certs_free(&w->certs);
    free(w);
    return 0;
}

/* Connects while the allocation number n, and so many after it, fail. FAILURE_NONE: it is open. */
static enum failure connect_once(struct world *w, struct tls_client_ctx *tls, const struct peer *p,
                                 long n, long times, char text[256]) {
    struct end e = {.loop = w->loop};
    struct stream_connect_options o = {
        .to = p->at, .tls = tls, .verify = TLS_VERIFY_NAME, .tls_name = "mx.example.test"};
    buf_init(&e.got, 1024);
    e.s = stream_connect(w->loop, &o, &end_events, &e);
    count = 0;
    fail_count = times;
    fail_at = n;
    while (!e.opened && !e.failed && !e.closed)
        loop_dispatch_once(w->loop, -1);
    fail_at = 0;
    assert_false(e.closed);
    struct tls_info info = stream_tls_info(e.s);
    if (e.opened)
        assert_true(info.is_verified);
    stream_close(&e.s, false);
    buf_release(&e.got);
    snprintf(text, 256, "%s", e.text);
    return e.failed ? e.why : FAILURE_NONE;
}

/* At each allocation, later ones more coarsely. `known` is what the certificate is worth; NONE: it
 * is good. */
static void judge(struct world *w, const struct cert_files *f, const struct tls_client_options *o,
                  long fineness, enum failure known) {
    static const long times[] = {1, 1000000};
    struct peer peer;
    struct tls_client_ctx *tls;
    char text[256];
    long shorts = 0, wrong = 0;
    peer_start(&peer, f);
    assert_int_equal(tls_client_ctx_new(o, &tls, NULL), OK);
    for (size_t i = 0; i < sizeof times / sizeof *times; i++)
        for (long n = 1;; n += 1 + n / (is_under_memcheck() ? 4 : fineness)) {
            enum failure why = connect_once(w, tls, &peer, n, times[i], text);
            if (count < n)
                break; /* it needs no more */
            shorts += why == FAILURE_SHORT;
            /* a handshake that fails is said to have failed: OpenSSL does not always know why */
            if (why == FAILURE_SHORT || why == FAILURE_TLS_HANDSHAKE || why == known)
                continue;
            wrong++;
            print_error("allocation %ld, %ld times: %s: %s\n", n, times[i], failure_name(why),
                        text);
        }
    assert_true(shorts > 20);
    assert_int_equal(wrong, 0);
    /* nothing of it stays */
    assert_int_equal(connect_once(w, tls, &peer, 0, 0, text), known);
    tls_client_ctx_unref(&tls);
    peer_stop(&peer);
}

static void a_good_chain_is_never_said_to_be_wrong(void **state) {
    struct world *w = *state;
    judge(w, &w->good, &(struct tls_client_options){.ca_file = w->certs.ca_file}, 100,
          FAILURE_NONE);
}

static void a_good_pin_is_never_said_to_be_wrong(void **state) {
    struct world *w = *state;
    struct tls_client_options o = {
        .ca_file = w->certs.ca_file, .pin = &w->pin, .pin_count = 1, .is_pin_alone = true};
    judge(w, &w->good, &o, 20, FAILURE_NONE);
    o.is_pin_alone = false;
    judge(w, &w->good, &o, 20, FAILURE_NONE);
}

static void what_is_wrong_never_passes(void **state) {
    struct world *w = *state;
    struct tls_client_options o = {.ca_file = w->certs.ca_file};
    judge(w, &w->other_name, &o, 20, FAILURE_TLS_NAME);
    judge(w, &w->old, &o, 20, FAILURE_TLS_EXPIRED);
    judge(w, &w->unknown, &o, 20, FAILURE_TLS_UNTRUSTED);
    o.pin = &w->pin;
    o.pin_count = 1;
    judge(w, &w->other_name, &o, 20, FAILURE_TLS_NAME);
}

int main(void) {
    if (!crypto_faults_install())
        abort();
#define TEST(t) cmocka_unit_test_setup_teardown(t, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(a_good_chain_is_never_said_to_be_wrong),
        TEST(a_good_pin_is_never_said_to_be_wrong),
        TEST(what_is_wrong_never_passes),
    };
    return cmocka_run_group_tests_name("tls_verdict", tests, NULL, NULL);
}
