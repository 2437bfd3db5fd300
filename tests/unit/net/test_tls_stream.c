/* TLS on streams: what a certificate proves, STARTTLS in both directions, and T6. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <openssl/err.h>
#include <openssl/ssl.h>
#include <pthread.h>

#include "server/base/digest.h"
#include "tests/unit/net/certs.h"
#include "tests/unit/net/ends.h"

#define NAME "mx.example.test"
enum { DAY = 86400 };

static struct loop *l;
static int fds_before;
static struct certs certs;
static struct cert_files good;
static struct tls_server_ctx *server_ctx;
static struct tls_client_ctx *client_ctx;

static int prepare(void **state) {
    (void)state;
    certs_init(&certs);
    good = certs_issue(&certs, NAME, "DNS:" NAME, -DAY, DAY, false);
    assert_int_equal(tls_server_ctx_new_files(good.cert, good.key, &server_ctx, NULL), OK);
    assert_int_equal(tls_client_ctx_new(&(struct tls_client_options){.ca_file = certs.ca_file},
                                        &client_ctx, NULL),
                     OK);
    return 0;
}

static int clean(void **state) {
    (void)state;
    tls_server_ctx_unref(&server_ctx);
    tls_client_ctx_unref(&client_ctx);
    certs_free(&certs);
    return 0;
}

static int begin(void **state) {
    (void)state;
    fds_before = count_fds();
    l = loop_new();
    return 0;
}

static int finish(void **state) {
    (void)state;
    loop_free(&l);
    assert_int_equal(count_fds(), fds_before);
    return 0;
}

/* The server's end goes to TLS at once when it opens; the client connects with implicit TLS. */
static void start_server_tls(struct end *e) {
    if (e->opened == 1)
        stream_start_tls_server(e->s, e->more, 5000);
}

static void dial(struct end *c, struct end *s, struct tls_client_ctx *cctx,
                 struct tls_server_ctx *sctx, enum tls_verify verify, const char *name) {
    struct sockaddr_any at;
    int lfd = listen_any(&at, 4);
    end_init(c, l);
    end_init(s, l);
    s->at_open = start_server_tls;
    s->more = sctx;
    end_connect(c, &(struct stream_connect_options){.to = at,
                                                    .tls = cctx,
                                                    .verify = verify,
                                                    .tls_name = name,
                                                    .connect_timeout_ms = 5000,
                                                    .tls_timeout_ms = 5000});
    end_accept(s, accept(lfd, NULL, NULL));
    close(lfd);
}

static void test_T7_a_certificate_proves_what_it_proves(void **state) {
    (void)state;
    static const struct {
        const char *what, *san, *client_name;
        long from, until;
        bool self;
        enum failure want; /* of TLS_VERIFY_NAME */
    } rows[] = {
        {"good", "DNS:" NAME, NAME, -DAY, DAY, false, FAILURE_NONE},
        {"another case", "DNS:MX.Example.TEST", NAME, -DAY, DAY, false, FAILURE_NONE},
        {"wildcard", "DNS:*.example.test", NAME, -DAY, DAY, false, FAILURE_NONE},
        {"partial wildcard", "DNS:m*.example.test", NAME, -DAY, DAY, false, FAILURE_TLS_NAME},
        {"wildcard of two labels", "DNS:*.test", NAME, -DAY, DAY, false, FAILURE_TLS_NAME},
        {"address", "IP:127.0.0.1", "127.0.0.1", -DAY, DAY, false, FAILURE_NONE},
        {"another address", "IP:127.0.0.2", "127.0.0.1", -DAY, DAY, false, FAILURE_TLS_NAME},
        {"address as a name", "DNS:127.0.0.1", "127.0.0.1", -DAY, DAY, false, FAILURE_TLS_NAME},
        {"wrong name", "DNS:other.test", NAME, -DAY, DAY, false, FAILURE_TLS_NAME},
        {"name in the subject only", NULL, NAME, -DAY, DAY, false, FAILURE_TLS_NAME},
        {"expired", "DNS:" NAME, NAME, -2 * DAY, -DAY, false, FAILURE_TLS_EXPIRED},
        {"not yet valid", "DNS:" NAME, NAME, DAY, 2 * DAY, false, FAILURE_TLS_EXPIRED},
        {"self-signed", "DNS:" NAME, NAME, -DAY, DAY, true, FAILURE_TLS_UNTRUSTED},
        {"no name asked for", "DNS:" NAME, NULL, -DAY, DAY, false, FAILURE_TLS_NAME},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct cert_files f =
            certs_issue(&certs, NAME, rows[i].san, rows[i].from, rows[i].until, rows[i].self);
        struct tls_server_ctx *sctx;
        assert_int_equal(tls_server_ctx_new_files(f.cert, f.key, &sctx, NULL), OK);
        for (enum tls_verify verify = TLS_VERIFY_NONE; verify <= TLS_VERIFY_NAME; verify++) {
            struct end c, s;
            dial(&c, &s, client_ctx, sctx, verify, rows[i].client_name);
            TURN_UNTIL(l, c.opened + c.failed == 1);
            if (verify == TLS_VERIFY_NAME)
                assert_int_equal(c.why, rows[i].want);
            else
                assert_int_equal(c.opened, 1);
            if (c.opened) {
                struct tls_info info = stream_tls_info(c.s);
                assert_string_equal(info.version, "TLSv1.3");
                assert_true(info.cipher[0] != 0);
                assert_int_equal(info.is_verified, rows[i].want == FAILURE_NONE);
                assert_int_equal(info.problem[0] != 0, rows[i].want != FAILURE_NONE);
                stream_write(c.s, STR("EHLO me\r\n"));
                TURN_UNTIL(l, s.got.n == 9);
                assert_int_equal(s.opened, 2);
                assert_string_equal(stream_tls_info(s.s).version, "TLSv1.3");
            } else {
                assert_true(c.text[0] != 0);
                if (rows[i].client_name) {
                    TURN_UNTIL(l, s.failed == 1); /* it got our alert */
                    assert_int_equal(s.why, FAILURE_TLS_HANDSHAKE);
                }
            }
            end_release(&c);
            end_release(&s);
        }
        tls_server_ctx_unref(&sctx);
    }
}

static struct tls_pin pin_of(const char *cert_file) {
    struct tls_pin pin;
    unsigned char *der = NULL;
    FILE *f = fopen(cert_file, "r");
    X509 *x = f ? PEM_read_X509(f, NULL, NULL, NULL) : NULL;
    int n = x ? i2d_PUBKEY(X509_get0_pubkey(x), &der) : 0;
    assert_true(n > 0);
    digest_sha256(str_make((const char *)der, (size_t)n), pin.sha256);
    OPENSSL_free(der);
    X509_free(x);
    fclose(f);
    return pin;
}

static void test_T7_a_pinned_key_is_asked_for(void **state) {
    (void)state;
    static const struct {
        const char *what, *san, *client_name;
        bool is_self, is_expired, is_pinned, is_alone;
        enum failure want;
    } rows[] = {
        {"its key", "DNS:" NAME, NAME, false, false, true, true, FAILURE_NONE},
        {"nothing else counts", "DNS:other.test", NAME, true, true, true, true, FAILURE_NONE},
        {"not even a name", "DNS:" NAME, NULL, true, false, true, true, FAILURE_NONE},
        {"another key", "DNS:" NAME, NAME, false, false, false, true, FAILURE_TLS_PIN},
        {"its key too", "DNS:" NAME, NAME, false, false, true, false, FAILURE_NONE},
        {"another key behind a good chain", "DNS:" NAME, NAME, false, false, false, false,
         FAILURE_TLS_PIN},
        {"its key, no authority", "DNS:" NAME, NAME, true, false, true, false,
         FAILURE_TLS_UNTRUSTED},
        {"its key, expired", "DNS:" NAME, NAME, false, true, true, false, FAILURE_TLS_EXPIRED},
        {"its key, another name", "DNS:other.test", NAME, false, false, true, false,
         FAILURE_TLS_NAME},
        {"its key, no name to check", "DNS:" NAME, NULL, false, false, true, false,
         FAILURE_TLS_NAME},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct cert_files f = certs_issue(&certs, NAME, rows[i].san, -2 * DAY,
                                          rows[i].is_expired ? -DAY : DAY, rows[i].is_self);
        struct tls_pin shown = pin_of(f.cert), pins[2] = {pin_of(good.cert)};
        pins[1] = rows[i].is_pinned ? shown : pins[0];
        struct tls_server_ctx *sctx;
        struct tls_client_ctx *cctx;
        assert_int_equal(tls_server_ctx_new_files(f.cert, f.key, &sctx, NULL), OK);
        assert_int_equal(
            tls_client_ctx_new(&(struct tls_client_options){.roots_of = client_ctx,
                                                            .pin = pins,
                                                            .pin_count = 2,
                                                            .is_pin_alone = rows[i].is_alone},
                               &cctx, NULL),
            OK);
        for (enum tls_verify verify = TLS_VERIFY_NONE; verify <= TLS_VERIFY_NAME; verify++) {
            struct end c, s;
            dial(&c, &s, cctx, sctx, verify, rows[i].client_name);
            TURN_UNTIL(l, c.opened + c.failed == 1);
            enum failure want = verify == TLS_VERIFY_NAME ? rows[i].want : FAILURE_NONE;
            if (c.opened != (want == FAILURE_NONE) || (c.failed && c.why != want))
                fail_msg("%s: %s", rows[i].what, c.opened ? "opened" : failure_name(c.why));
            if (c.opened)
                assert_int_equal(stream_tls_info(c.s).is_verified, rows[i].want == FAILURE_NONE);
            if (want == FAILURE_TLS_PIN) { /* what is to be pinned instead can be read */
                char text[TLS_PIN_TEXT_SIZE];
                tls_pin_print(&shown, text);
                assert_non_null(strstr(c.text, text));
            }
            end_release(&c);
            end_release(&s);
        }
        tls_server_ctx_unref(&sctx);
        tls_client_ctx_unref(&cctx);
    }
}

/* The context may be let go of while its handshake is under way. */
static void pins_live_as_long_as_their_sessions(void **state) {
    (void)state;
    struct tls_pin pin = pin_of(good.cert);
    struct tls_client_ctx *cctx;
    struct end c, s;
    assert_int_equal(
        tls_client_ctx_new(
            &(struct tls_client_options){.pin = &pin, .pin_count = 1, .is_pin_alone = true}, &cctx,
            NULL),
        OK);
    dial(&c, &s, cctx, server_ctx, TLS_VERIFY_NAME, NAME);
    tls_client_ctx_unref(&cctx);
    TURN_UNTIL(l, c.opened + c.failed == 1);
    assert_int_equal(c.opened, 1);
    assert_true(stream_tls_info(c.s).is_verified);
    end_release(&c);
    end_release(&s);
}

static void a_self_made_certificate_serves_who_does_not_ask(void **state) {
    (void)state;
    struct tls_server_ctx *sctx;
    struct errinfo info = {0};
    assert_int_equal(tls_server_ctx_new_selfsigned("sandbox.localhost", &sctx, &info), OK);
    for (enum tls_verify verify = TLS_VERIFY_NONE; verify <= TLS_VERIFY_NAME; verify++) {
        struct end c, s;
        dial(&c, &s, client_ctx, sctx, verify, "sandbox.localhost");
        TURN_UNTIL(l, c.opened + c.failed == 1);
        assert_int_equal(c.why, verify == TLS_VERIFY_NONE ? FAILURE_NONE : FAILURE_TLS_UNTRUSTED);
        end_release(&c);
        end_release(&s);
    }
    tls_server_ctx_unref(&sctx);
    assert_int_equal(tls_server_ctx_new_selfsigned("127.0.0.1", &sctx, NULL), OK);
    tls_server_ctx_unref(&sctx);
    static const char *const bad[] = {"", "a,DNS:b", "a b", "x:y"};
    for (size_t i = 0; i < 4; i++)
        assert_int_equal(tls_server_ctx_new_selfsigned(bad[i], &sctx, NULL), ERR_INVALID);
    char longest[254];
    memset(longest, 'a', 253);
    longest[253] = 0;
    assert_int_equal(tls_server_ctx_new_selfsigned(longest, &sctx, NULL), OK);
    tls_server_ctx_unref(&sctx);
}

static void a_chain_and_its_key_are_checked_as_texts(void **state) {
    (void)state;
    static char cert[4096], key[4096], other_key[4096], chain[9000], locked[4096];
    struct cert_files other = certs_issue(&certs, NAME, NULL, -DAY, DAY, false);
    certs_pem(good.cert, cert, sizeof cert);
    certs_pem(good.key, key, sizeof key);
    certs_pem(other.key, other_key, sizeof other_key);
    snprintf(chain, sizeof chain, "%s%s", cert, certs_pem(other.cert, locked, sizeof locked));
    BIO *bio = BIO_new_mem_buf(key, -1), *out = BIO_new(BIO_s_mem());
    EVP_PKEY *k = PEM_read_bio_PrivateKey(bio, NULL, NULL, NULL);
    assert_int_equal(
        PEM_write_bio_PKCS8PrivateKey(out, k, EVP_aes_128_cbc(), "secret", 6, NULL, NULL), 1);
    locked[BIO_read(out, locked, sizeof locked - 1)] = 0;
    EVP_PKEY_free(k);
    BIO_free(bio);
    BIO_free(out);
    const struct {
        const char *cert, *key, *field; /* NULL: good */
    } rows[] = {
        {cert, key, NULL},
        {chain, key, NULL},
        {"", key, "tls_cert"},
        {key, key, "tls_cert"},
        {"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", key, "tls_cert"},
        {cert, "", "tls_key"},
        {cert, cert, "tls_key"},
        {cert, other_key, "tls_key"},
        {cert, locked, "tls_key"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct errinfo info = {0};
        assert_int_equal(tls_pem_check(rows[i].cert, rows[i].key, &info),
                         rows[i].field ? ERR_INVALID : OK);
        assert_string_equal(info.field, rows[i].field ? rows[i].field : "");
    }
    /* one that cannot be read is found behind one that can */
    struct errinfo info = {0};
    snprintf(chain, sizeof chain,
             "%s-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", cert);
    assert_int_equal(tls_pem_check(chain, key, &info), ERR_INVALID);
    assert_string_equal(info.field, "tls_cert");
}

static void bad_files_say_which_and_why(void **state) {
    (void)state;
    struct cert_files other = certs_issue(&certs, NAME, NULL, -DAY, DAY, false);
    struct tls_server_ctx *sctx;
    struct tls_client_ctx *cctx;
    struct errinfo info = {0};
    assert_int_equal(tls_server_ctx_new_files("/nonexistent", good.key, &sctx, &info), ERR_INVALID);
    assert_non_null(strstr(info.text, "/nonexistent"));
    assert_int_equal(tls_server_ctx_new_files(good.cert, other.key, &sctx, &info), ERR_INVALID);
    assert_non_null(strstr(info.text, other.key));
    assert_non_null(strstr(info.text, "mismatch"));
    assert_int_equal(tls_server_ctx_new_files(good.key, good.key, &sctx, &info), ERR_INVALID);
    assert_null(sctx);
    assert_int_equal(
        tls_client_ctx_new(&(struct tls_client_options){.ca_file = good.key}, &cctx, &info),
        ERR_INVALID);
    assert_null(cctx);
    assert_int_equal(tls_client_ctx_new(NULL, &cctx, &info), OK);
    tls_client_ctx_unref(&cctx);
}

/* ---- STARTTLS -------------------------------------------------------------------------------- */

/* Both ends in clear. */
static void pair_up(struct end *c, struct end *s) {
    int fds[2];
    tcp_pair(fds);
    end_init(c, l);
    end_init(s, l);
    end_accept(c, fds[0]);
    end_accept(s, fds[1]);
    TURN_UNTIL(l, c->opened == 1 && s->opened == 1);
}

static void on_starttls(struct end *e) {
    if (!str_starts_with(buf_str(&e->got), STR("STARTTLS\r\n")) || e->more)
        return;
    e->more = e;
    stream_write(e->s, STR("220 go ahead\r\n"));
    e->inside = true;
    stream_start_tls_server(e->s, server_ctx, 5000);
    e->inside = false;
}

static void on_220(struct end *e) {
    if (e->more || e->got.n < 14)
        return;
    e->more = e;
    e->inside = true;
    stream_start_tls_client(e->s, client_ctx, TLS_VERIFY_NAME, NAME, 5000);
    e->inside = false;
}

static void starttls_switches_in_place(void **state) {
    (void)state;
    struct end c, s;
    pair_up(&c, &s);
    s.at_read = on_starttls;
    c.at_read = on_220;
    stream_write(c.s, STR("STARTTLS\r\n"));
    TURN_UNTIL(l, c.opened == 2 && s.opened == 2);
    assert_true(stream_tls_info(c.s).is_verified);
    buf_clear(&s.got);
    buf_clear(&c.got);
    stream_write(c.s, STR("EHLO secret\r\n"));
    stream_write(s.s, STR("250 ok\r\n"));
    TURN_UNTIL(l, s.got.n == 13 && c.got.n == 8);
    assert_string_equal(s.got.p, "EHLO secret\r\n");
    assert_int_equal(s.drained, 1); /* of the 250; the 220 was the switch's own */
    stream_write(c.s, STR("QUIT\r\n"));
    stream_close(&c.s, true);
    TURN_UNTIL(l, s.closed == 1);
    assert_int_equal(s.got.n, 19);
    end_release(&c);
    end_release(&s);
}

/* T6, towards us as a client: an answer to commands not yet given, in the 220's segment. */
static void test_T6_bytes_behind_the_220_end_the_connection(void **state) {
    (void)state;
    int fds[2];
    tcp_pair(fds);
    struct end c;
    end_init(&c, l);
    end_accept(&c, fds[0]);
    TURN_UNTIL(l, c.opened == 1);
    c.keep = true;
    static const char evil[] = "220 go ahead\r\n250-AUTH PLAIN\r\n";
    assert_int_equal(send(fds[1], evil, sizeof evil - 1, 0), sizeof evil - 1);
    TURN_UNTIL(l, c.reads == 1);
    stream_drain(c.s, 14);
    c.inside = true;
    stream_start_tls_client(c.s, client_ctx, TLS_VERIFY_NONE, NAME, 5000);
    c.inside = false;
    TURN_UNTIL(l, c.failed == 1);
    assert_int_equal(c.why, FAILURE_TLS_INJECTION);
    end_release(&c);
    char byte;
    assert_true(recv(fds[1], &byte, 1, MSG_DONTWAIT) <= 0); /* no ClientHello left */
    close(fds[1]);

    /* the same in a segment of its own that we have not read yet */
    tcp_pair(fds);
    end_init(&c, l);
    end_accept(&c, fds[0]);
    TURN_UNTIL(l, c.opened == 1);
    assert_int_equal(send(fds[1], evil, sizeof evil - 1, 0), sizeof evil - 1);
    struct pollfd p = {.fd = fds[0], .events = POLLIN};
    assert_int_equal(poll(&p, 1, 5000), 1);
    stream_start_tls_client(c.s, client_ctx, TLS_VERIFY_NONE, NAME, 5000);
    TURN_UNTIL(l, c.failed == 1);
    assert_int_equal(c.why, FAILURE_TLS_INJECTION);
    end_release(&c);
    close(fds[1]);
}

/* The client side of TLS by hand, blocking, on a thread of its own. */
struct hand {
    int fd;
    const char *clear; /* sent first, in clear */
    bool two_segments;
    char reply[64];
    SSL *ssl;
    int records; /* of application data that came */
    size_t want; /* bytes to read */
    char *got;
    size_t got_n;
    const char *say;
    bool ok;
};

static void count_records(int write_p, int version, int type, const void *buf, size_t n, SSL *ssl,
                          void *arg) {
    (void)version, (void)ssl;
    struct hand *h = arg;
    if (!write_p && type == SSL3_RT_HEADER && n > 2 && *(const unsigned char *)buf == 23)
        h->records++;
}

static void *hand_main(void *arg) {
    struct hand *h = arg;
    SSL_CTX *ctx = SSL_CTX_new(TLS_client_method());
    h->ssl = SSL_new(ctx);
    SSL_set_msg_callback(h->ssl, count_records);
    SSL_set_msg_callback_arg(h->ssl, h);
    SSL_set_fd(h->ssl, h->fd);
    if (h->clear) {
        (void)!send(h->fd, h->clear, strlen(h->clear), MSG_NOSIGNAL);
        (void)!recv(h->fd, h->reply, sizeof h->reply - 1, 0);
    }
    h->ok = SSL_connect(h->ssl) == 1;
    if (h->ok && h->say)
        h->ok = SSL_write(h->ssl, h->say, (int)strlen(h->say)) > 0;
    h->records = 0;
    while (h->ok && h->got_n < h->want) {
        int n = SSL_read(h->ssl, h->got + h->got_n, (int)(h->want - h->got_n));
        if (n <= 0)
            break;
        h->got_n += (size_t)n;
    }
    SSL_shutdown(h->ssl);
    SSL_free(h->ssl);
    SSL_CTX_free(ctx);
    close(h->fd);
    return NULL;
}

/* T6, towards us as a server: what came in clear together with STARTTLS is not executed later. */
static void test_T6_commands_behind_starttls_are_dropped(void **state) {
    (void)state;
    int fds[2];
    tcp_pair(fds);
    struct end s;
    end_init(&s, l);
    end_accept(&s, fds[1]);
    s.at_read = on_starttls;
    struct hand h = {.fd = fds[0],
                     .clear = "STARTTLS\r\nMAIL FROM:<evil@example.test>\r\n",
                     .say = "EHLO good\r\n"};
    /* our end takes only its line, as a receiver does */
    s.keep = true;
    pthread_t t;
    assert_int_equal(pthread_create(&t, NULL, hand_main, &h), 0);
    TURN_UNTIL(l, s.reads == 1);
    stream_drain(s.s, 10);
    stream_write(s.s, STR("220 go ahead\r\n"));
    stream_start_tls_server(s.s, server_ctx, 5000);
    s.keep = false;
    s.at_read = NULL;
    TURN_UNTIL(l, s.opened == 2);
    TURN_UNTIL(l, s.got.n >= 11);
    assert_string_equal(s.got.p, "EHLO good\r\n");
    pthread_join(t, NULL);
    assert_true(h.ok);
    assert_string_equal(h.reply, "220 go ahead\r\n");
    TURN_UNTIL(l, s.closed == 1);
    assert_string_equal(s.got.p, "EHLO good\r\n");
    end_release(&s);
}

/* The same in a segment that the kernel holds when the 220 is written. */
static void test_T6_clear_bytes_still_in_the_kernel_are_dropped_too(void **state) {
    (void)state;
    int fds[2];
    tcp_pair(fds);
    struct end s;
    end_init(&s, l);
    end_accept(&s, fds[1]);
    TURN_UNTIL(l, s.opened == 1);
    static const char evil[] = "RCPT TO:<evil@example.test>\r\n";
    assert_int_equal(send(fds[0], evil, sizeof evil - 1, 0), sizeof evil - 1);
    struct pollfd p = {.fd = fds[1], .events = POLLIN};
    assert_int_equal(poll(&p, 1, 5000), 1);
    stream_write(s.s, STR("220 go ahead\r\n"));
    stream_start_tls_server(s.s, server_ctx, 5000);
    struct hand h = {.fd = fds[0], .clear = "", .say = "EHLO good\r\n"};
    pthread_t t;
    assert_int_equal(pthread_create(&t, NULL, hand_main, &h), 0);
    TURN_UNTIL(l, s.got.n >= 11 || s.failed);
    assert_string_equal(s.got.p, "EHLO good\r\n");
    pthread_join(t, NULL);
    end_release(&s);
}

static void writes_of_one_turn_are_one_record(void **state) {
    (void)state;
    int fds[2];
    tcp_pair(fds);
    struct end s;
    end_init(&s, l);
    s.at_open = start_server_tls;
    s.more = server_ctx;
    end_accept(&s, fds[1]);
    static char got[4096];
    struct hand h = {.fd = fds[0], .want = 1800 + 900, .got = got};
    pthread_t t;
    assert_int_equal(pthread_create(&t, NULL, hand_main, &h), 0);
    TURN_UNTIL(l, s.opened == 2);
    static const char ref[900] = "referenced";
    for (int i = 0; i < 200; i++) {
        stream_write(s.s, STR("RCPT TO\r\n"));
        if (i == 100)
            stream_write_ref(s.s, str_make(ref, sizeof ref), NULL, NULL);
    }
    TURN_UNTIL(l, s.drained == 1);
    TURN_UNTIL(l, s.closed == 1);
    pthread_join(t, NULL);
    assert_int_equal(h.got_n, 2700);
    assert_memory_equal(got + 101 * 9, "referenced", 10);
    assert_int_equal(h.records, 1);
    end_release(&s);
}

/* ---- what can go wrong ----------------------------------------------------------------------- */

/* Anybody on the way can do the latter two, which say nothing about the peer's TLS. */
static void a_peer_without_tls_and_one_that_goes_are_told_apart(void **state) {
    (void)state;
    static const struct {
        const char *answer; /* NULL: goes */
        bool reads_first;   /* else what it has not read makes a reset of its going */
        enum failure want;
    } rows[] = {{"500 what?\r\n", true, FAILURE_TLS_HANDSHAKE},
                {NULL, true, FAILURE_CLOSED},
                {NULL, false, FAILURE_CLOSED}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        int fds[2];
        char hello[4096];
        tcp_pair(fds);
        struct end c;
        end_init(&c, l);
        end_accept(&c, fds[0]);
        TURN_UNTIL(l, c.opened == 1);
        stream_start_tls_client(c.s, client_ctx, TLS_VERIFY_NONE, NAME, 5000);
        struct pollfd p = {.fd = fds[1], .events = POLLIN};
        TURN_UNTIL(l, poll(&p, 1, 0) == 1);
        if (rows[i].reads_first)
            assert_true(recv(fds[1], hello, sizeof hello, 0) > 0);
        if (rows[i].answer)
            assert_true(send(fds[1], rows[i].answer, strlen(rows[i].answer), 0) > 0);
        else
            close(fds[1]);
        TURN_UNTIL(l, c.failed == 1);
        assert_int_equal(c.why, rows[i].want);
        assert_true(c.text[0] != 0);
        end_release(&c);
        if (rows[i].answer)
            close(fds[1]);
    }
}

/* A ServerHello of TLS 1.3 for the ClientHello, with a share of X25519 that is zero: no secret can
 * be agreed with it, which some versions of OpenSSL call an internal error. */
static void answer_with_a_zero_share(int fd) {
    enum { HELLO_SESSION_ID = 5 + 4 + 2 + 32, SHARE = 32 };
    unsigned char hello[2048], out[256], *p = out + 9;
    ssize_t got = recv(fd, hello, sizeof hello, 0);
    assert_in_range(got, HELLO_SESSION_ID + 33, sizeof hello);
    memcpy(p, "\x03\x03", 2);
    memset(p + 2, 7, 32); /* random */
    memcpy(p + 34, hello + HELLO_SESSION_ID, 33);
    p += 34 + 33;
    static const unsigned char rest[] = {0x13, 0x01, 0,    0, 46, 0, 0x2b, 0, 2,    0x03,
                                         0x04, 0,    0x33, 0, 36, 0, 0x1d, 0, SHARE};
    memcpy(p, rest, sizeof rest);
    p += sizeof rest;
    memset(p, 0, SHARE);
    p += SHARE;
    size_t n = (size_t)(p - out);
    const unsigned char begin_of[] = {
        22, 3, 3, 0, (unsigned char)(n - 5), 2, 0, 0, (unsigned char)(n - 9)};
    memcpy(out, begin_of, sizeof begin_of);
    assert_int_equal(send(fd, out, n, 0), (ssize_t)n);
}

static void only_a_lack_of_memory_is_the_librarys_own_trouble(void **state) {
    (void)state;
    assert_true(tls_error_is_ours(ERR_PACK(ERR_LIB_EVP, 0, ERR_R_MALLOC_FAILURE)));
    assert_false(tls_error_is_ours(ERR_PACK(ERR_LIB_SSL, 0, ERR_R_INTERNAL_ERROR)));
    assert_false(tls_error_is_ours(ERR_PACK(ERR_LIB_EC, 0, ERR_R_PASSED_INVALID_ARGUMENT)));
    assert_false(tls_error_is_ours(ERR_PACK(ERR_LIB_SSL, 0, SSL_R_BAD_KEY_SHARE)));
    assert_false(tls_error_is_ours(0));
}

/* Whatever OpenSSL calls it. */
static void what_a_peer_sends_is_no_trouble_of_ours(void **state) {
    (void)state;
    int fds[2];
    tcp_pair(fds);
    struct end c;
    end_init(&c, l);
    end_accept(&c, fds[0]);
    TURN_UNTIL(l, c.opened == 1);
    stream_start_tls_client(c.s, client_ctx, TLS_VERIFY_NONE, NAME, 5000);
    struct pollfd p = {.fd = fds[1], .events = POLLIN};
    TURN_UNTIL(l, poll(&p, 1, 0) == 1);
    answer_with_a_zero_share(fds[1]);
    TURN_UNTIL(l, c.failed == 1);
    assert_int_equal(c.why, FAILURE_TLS_HANDSHAKE);
    end_release(&c);
    close(fds[1]);
}

static void a_silent_handshake_times_out(void **state) {
    (void)state;
    int fds[2];
    tcp_pair(fds);
    struct end c, s;
    end_init(&c, l);
    end_init(&s, l);
    end_accept(&c, fds[0]);
    TURN_UNTIL(l, c.opened == 1);
    stream_start_tls_client(c.s, client_ctx, TLS_VERIFY_NONE, NAME, 30);
    TURN_UNTIL(l, c.failed == 1);
    assert_int_equal(c.why, FAILURE_TIMEOUT);
    end_release(&c);
    close(fds[1]);
    tcp_pair(fds);
    end_accept(&s, fds[1]);
    TURN_UNTIL(l, s.opened == 1);
    stream_start_tls_server(s.s, server_ctx, 30);
    TURN_UNTIL(l, s.failed == 1);
    assert_int_equal(s.why, FAILURE_TIMEOUT);
    end_release(&s);
    close(fds[0]);
}

static void *old_tls_main(void *arg) {
    int fd = *(int *)arg;
    SSL_CTX *ctx = SSL_CTX_new(TLS_server_method());
    SSL_CTX_set_min_proto_version(ctx, TLS1_VERSION);
    SSL_CTX_set_max_proto_version(ctx, TLS1_1_VERSION);
    SSL_CTX_set_cipher_list(ctx, "ALL:@SECLEVEL=0");
    SSL_CTX_use_certificate_chain_file(ctx, good.cert);
    SSL_CTX_use_PrivateKey_file(ctx, good.key, SSL_FILETYPE_PEM);
    SSL *ssl = SSL_new(ctx);
    SSL_set_fd(ssl, fd);
    SSL_accept(ssl);
    SSL_free(ssl);
    SSL_CTX_free(ctx);
    close(fd);
    return NULL;
}

static void test_T7_tls_1_1_is_not_spoken(void **state) {
    (void)state;
    int fds[2];
    tcp_pair(fds);
    pthread_t t;
    assert_int_equal(pthread_create(&t, NULL, old_tls_main, &fds[1]), 0);
    struct end c;
    end_init(&c, l);
    end_accept(&c, fds[0]);
    TURN_UNTIL(l, c.opened == 1);
    stream_start_tls_client(c.s, client_ctx, TLS_VERIFY_NONE, NAME, 5000);
    TURN_UNTIL(l, c.failed + (c.opened == 2));
    assert_int_equal(c.why, FAILURE_TLS_HANDSHAKE);
    pthread_join(t, NULL);
    end_release(&c);
}

static void resets_and_ends_are_told_apart_under_tls(void **state) {
    (void)state;
    for (int hard = 0; hard < 2; hard++) {
        struct end c, s;
        dial(&c, &s, client_ctx, server_ctx, TLS_VERIFY_NAME, NAME);
        TURN_UNTIL(l, c.opened == 1 && s.opened == 2);
        stream_write(s.s, STR("421 bye\r\n"));
        TURN_UNTIL(l, c.got.n == 9 && s.drained);
        if (hard) { /* bytes that nobody reads make a reset of a close */
            stream_set_reading(s.s, false);
            stream_write(c.s, STR("unread"));
            TURN_UNTIL(l, c.drained == 1);
        }
        stream_close(&s.s, false); /* no close_notify: a bare FIN is an orderly end all the same */
        TURN_UNTIL(l, c.closed + c.failed == 1);
        assert_int_equal(c.failed, hard);
        assert_int_equal(c.why, hard ? FAILURE_CLOSED : FAILURE_NONE);
        end_release(&c);
        end_release(&s);
    }
}

static void big_writes_and_floods_work_under_tls(void **state) {
    (void)state;
    enum { N = 6 * 1024 * 1024 };
    char *want = mem_zalloc(N);
    for (size_t i = 0; i < N; i++)
        want[i] = (char)(i * 31 + (i >> 12));
    struct end c, s;
    dial(&c, &s, client_ctx, server_ctx, TLS_VERIFY_NAME, NAME);
    TURN_UNTIL(l, c.opened == 1 && s.opened == 2);
    s.keep = true;
    stream_write(c.s, str_make(want, 100));
    stream_write_ref(c.s, str_make(want + 100, N / 2), NULL, NULL);
    stream_write(c.s, str_make(want + 100 + N / 2, N - 100 - N / 2));
    for (int i = 0; i < 300; i++)
        loop_dispatch_once(l, 1);
    /* it stands at the limit */
    assert_in_range(stream_peek(s.s).n, STREAM_INPUT_MAX, STREAM_INPUT_MAX + 128 * 1024);
    assert_int_equal(c.drained, 0);
    s.keep = false;
    struct str in = stream_peek(s.s);
    buf_put(&s.got, in);
    stream_drain(s.s, in.n);
    TURN_UNTIL(l, s.got.n == N);
    assert_memory_equal(s.got.p, want, N);
    TURN_UNTIL(l, c.drained == 1);

    /* held and released while records wait */
    buf_clear(&s.got);
    stream_set_reading(s.s, false);
    stream_write(c.s, str_make(want, 40000));
    for (int i = 0; i < 20; i++)
        loop_dispatch_once(l, 1);
    assert_int_equal(s.got.n, 0);
    stream_set_reading(s.s, true);
    TURN_UNTIL(l, s.got.n == 40000);

    /* and after a flushing close */
    buf_clear(&s.got);
    stream_write(c.s, str_make(want, N));
    stream_close(&c.s, true);
    TURN_UNTIL(l, s.closed == 1);
    assert_int_equal(s.got.n, N);
    end_release(&c);
    end_release(&s);
    free(want);
}

/* libevent stops reading when a write of TLS fails; the answer waits in the kernel. */
static void the_last_words_before_a_reset_are_not_lost_under_tls(void **state) {
    (void)state;
    static char big[8 * 1024 * 1024];
    for (int i = 0; i < 20; i++) {
        struct loop *theirs = loop_new(); /* answers and resets while our loop stands still */
        struct end c, s;
        int fds[2];
        tcp_pair(fds);
        end_init(&c, l);
        end_init(&s, theirs);
        end_accept(&c, fds[0]);
        end_accept(&s, fds[1]);
        s.at_open = start_server_tls;
        s.more = server_ctx;
        TURN_UNTIL(theirs, s.opened == 1);
        TURN_UNTIL(l, c.opened == 1);
        stream_start_tls_client(c.s, client_ctx, TLS_VERIFY_NAME, NAME, 5000);
        for (int turn = 0; turn < 1000 && (c.opened < 2 || s.opened < 2); turn++) {
            loop_dispatch_once(l, 1);
            loop_dispatch_once(theirs, 1);
        }
        stream_set_reading(s.s, false);
        stream_write_ref(c.s, str_make(big, sizeof big), NULL, NULL);
        for (int turn = 0; turn < 20; turn++)
            loop_dispatch_once(l, 1);
        assert_true(stream_pending(c.s) > 0);
        stream_write(s.s, STR("552 too much\r\n"));
        TURN_UNTIL(theirs, s.drained == 1);
        stream_close(&s.s, false);
        loop_free(&theirs);
        TURN_UNTIL(l, c.failed + c.closed == 1);
        assert_int_equal(c.why, FAILURE_CLOSED);
        assert_string_equal(c.got.p, "552 too much\r\n");
        end_release(&c);
        end_release(&s);
    }
}

static void answer_late(struct end *e) {
    stream_write(e->s, STR("221 bye\r\n"));
    stream_close(&e->s, true);
}

static void the_other_half_still_works_under_tls(void **state) {
    (void)state;
    struct end c, s;
    dial(&c, &s, client_ctx, server_ctx, TLS_VERIFY_NAME, NAME);
    TURN_UNTIL(l, c.opened == 1 && s.opened == 2);
    s.at_closed = answer_late;
    int fd_c = -1;
    (void)fd_c;
    stream_write(c.s, STR("QUIT\r\n"));
    stream_close(&c.s, true); /* close_notify and FIN, then waits for theirs */
    TURN_UNTIL(l, s.s == NULL);
    assert_string_equal(s.got.p, "QUIT\r\n");
    for (int i = 0; i < 5; i++)
        loop_dispatch_once(l, 2);
    end_release(&c);
    end_release(&s);
}

static void close_hard(struct end *e) {
    stream_close(&e->s, false);
}

static void close_soft(struct end *e) {
    stream_close(&e->s, true);
}

static void streams_may_be_closed_in_each_callback_under_tls(void **state) {
    (void)state;
    void (*const ways[])(struct end *) = {close_hard, close_soft};
    for (int w = 0; w < 2; w++) {
        for (int which = 0; which < 5; which++) {
            struct end c, s;
            dial(&c, &s, client_ctx, server_ctx, which == 3 ? TLS_VERIFY_NAME : TLS_VERIFY_NONE,
                 which == 3 ? "wrong.test" : NAME);
            c.at_open = which == 0 ? ways[w] : NULL;
            c.at_read = which == 1 ? ways[w] : NULL;
            c.at_drained = which == 2 ? ways[w] : NULL;
            c.at_failed = which == 3 ? ways[w] : NULL;
            c.at_closed = which == 4 ? ways[w] : NULL;
            if (which == 1)
                stream_write(s.s, STR("hello")); /* in clear, before TLS: garbage to the client */
            if (which == 1)
                c.at_failed = ways[w];
            if (which == 2)
                stream_write(c.s, STR("hello")); /* before the handshake: waits for it */
            if (which == 4) {
                TURN_UNTIL(l, s.opened == 2);
                stream_close(&s.s, true);
            }
            TURN_UNTIL(l, c.s == NULL);
            if (s.s)
                TURN_UNTIL(l, s.closed + s.failed == 1);
            end_release(&c);
            end_release(&s);
        }
    }
    /* while handshakes are under way */
    struct end c, s;
    dial(&c, &s, client_ctx, server_ctx, TLS_VERIFY_NONE, NAME);
    TURN_UNTIL(l, s.opened == 1);
    stream_close(&c.s, true);
    TURN_UNTIL(l, s.failed + s.closed == 1);
    end_release(&c);
    end_release(&s);
}

int main(void) {
#define T(f) cmocka_unit_test_setup_teardown(f, begin, finish)
    const struct CMUnitTest tests[] = {
        T(test_T7_a_certificate_proves_what_it_proves),
        T(test_T7_a_pinned_key_is_asked_for),
        T(pins_live_as_long_as_their_sessions),
        T(a_self_made_certificate_serves_who_does_not_ask),
        T(a_chain_and_its_key_are_checked_as_texts),
        T(bad_files_say_which_and_why),
        T(starttls_switches_in_place),
        T(test_T6_bytes_behind_the_220_end_the_connection),
        T(test_T6_commands_behind_starttls_are_dropped),
        T(test_T6_clear_bytes_still_in_the_kernel_are_dropped_too),
        T(writes_of_one_turn_are_one_record),
        T(a_peer_without_tls_and_one_that_goes_are_told_apart),
        T(only_a_lack_of_memory_is_the_librarys_own_trouble),
        T(what_a_peer_sends_is_no_trouble_of_ours),
        T(a_silent_handshake_times_out),
        T(test_T7_tls_1_1_is_not_spoken),
        T(resets_and_ends_are_told_apart_under_tls),
        T(big_writes_and_floods_work_under_tls),
        T(the_last_words_before_a_reset_are_not_lost_under_tls),
        T(the_other_half_still_works_under_tls),
        T(streams_may_be_closed_in_each_callback_under_tls),
    };
    return cmocka_run_group_tests(tests, prepare, clean);
}
