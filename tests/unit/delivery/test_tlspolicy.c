#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "server/delivery/tlspolicy.h"
#include "tests/unit/net/ends.h"

static void the_stricter_of_route_and_message_decides(void **state) {
    (void)state;
    static const struct {
        enum session_tls route;
        enum tls_level message;
        enum session_tls want;
    } rows[] = {
        {SESSION_TLS_NONE, TLS_ROUTE_DEFAULT, SESSION_TLS_NONE},
        {SESSION_TLS_OPPORTUNISTIC, TLS_ROUTE_DEFAULT, SESSION_TLS_OPPORTUNISTIC},
        {SESSION_TLS_NONE, TLS_ENCRYPT, SESSION_TLS_ENCRYPT},
        {SESSION_TLS_OPPORTUNISTIC, TLS_ENCRYPT, SESSION_TLS_ENCRYPT},
        {SESSION_TLS_OPPORTUNISTIC, TLS_VERIFY, SESSION_TLS_VERIFY},
        {SESSION_TLS_ENCRYPT, TLS_VERIFY, SESSION_TLS_VERIFY},
        {SESSION_TLS_VERIFY, TLS_ENCRYPT, SESSION_TLS_VERIFY},
        {SESSION_TLS_IMPLICIT, TLS_ROUTE_DEFAULT, SESSION_TLS_IMPLICIT},
        {SESSION_TLS_IMPLICIT, TLS_VERIFY, SESSION_TLS_IMPLICIT},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
        assert_int_equal(tlspolicy_level(rows[i].route, rows[i].message), rows[i].want);
}

static void broken_tls_is_remembered_for_three_days_and_only_for_opportunistic(void **state) {
    (void)state;
    const int64_t day = 24 * 3600 * 1000;
    struct tlspolicy *t = tlspolicy_new();
    struct sockaddr_any a, b;
    assert_int_equal(sockaddr_parse(STR("192.0.2.1"), 25, &a), OK);
    assert_int_equal(sockaddr_parse(STR("192.0.2.1"), 26, &b), OK);
    tlspolicy_broken(t, &a, "mx.test", FAILURE_TLS_HANDSHAKE, 1000);
    tlspolicy_broken(t, &a, "mx.test", FAILURE_TIMEOUT, 1000); /* shortens nothing */
    assert_int_equal(tlspolicy_now(t, SESSION_TLS_OPPORTUNISTIC, &a, "mx.test", 1000),
                     SESSION_TLS_NONE);
    assert_int_equal(tlspolicy_now(t, SESSION_TLS_ENCRYPT, &a, "mx.test", 1000),
                     SESSION_TLS_ENCRYPT);
    assert_int_equal(tlspolicy_now(t, SESSION_TLS_VERIFY, &a, "mx.test", 1000), SESSION_TLS_VERIFY);
    assert_int_equal(tlspolicy_now(t, SESSION_TLS_OPPORTUNISTIC, &b, "mx.test", 1000),
                     SESSION_TLS_OPPORTUNISTIC);
    assert_int_equal(tlspolicy_now(t, SESSION_TLS_OPPORTUNISTIC, &a, "mx.test", 1000 + 3 * day - 1),
                     SESSION_TLS_NONE);
    assert_int_equal(tlspolicy_now(t, SESSION_TLS_OPPORTUNISTIC, &a, "mx.test", 1000 + 3 * day),
                     SESSION_TLS_OPPORTUNISTIC);
    tlspolicy_free(&t);
}

static void a_handshake_that_found_no_answer_is_soon_tried_again(void **state) {
    (void)state;
    static const enum failure silent[] = {FAILURE_TIMEOUT, FAILURE_CLOSED};
    const int64_t quarter = 15 * 60 * 1000;
    struct tlspolicy *t = tlspolicy_new();
    struct sockaddr_any a;
    for (uint16_t i = 0; i < 2; i++) {
        assert_int_equal(sockaddr_parse(STR("192.0.2.1"), i, &a), OK);
        tlspolicy_broken(t, &a, "mx.test", silent[i], 1000);
        assert_int_equal(tlspolicy_now(t, SESSION_TLS_OPPORTUNISTIC, &a, "mx.test", 999 + quarter),
                         SESSION_TLS_NONE);
        assert_int_equal(tlspolicy_now(t, SESSION_TLS_OPPORTUNISTIC, &a, "mx.test", 1000 + quarter),
                         SESSION_TLS_OPPORTUNISTIC);
    }
    tlspolicy_free(&t);
}

/* Whoever points names at a stranger's server makes them fail there, and no others. */
static void what_failed_under_one_name_says_nothing_about_another(void **state) {
    (void)state;
    struct tlspolicy *t = tlspolicy_new();
    struct sockaddr_any a = loopback(25);
    tlspolicy_broken(t, &a, "bad.test", FAILURE_TLS_HANDSHAKE, 1000);
    assert_int_equal(tlspolicy_now(t, SESSION_TLS_OPPORTUNISTIC, &a, "bad.test", 1000),
                     SESSION_TLS_NONE);
    assert_int_equal(tlspolicy_now(t, SESSION_TLS_OPPORTUNISTIC, &a, "good.test", 1000),
                     SESSION_TLS_OPPORTUNISTIC);
    tlspolicy_free(&t);
}

/* What a stream says of a peer that resets the connection after the ClientHello. */
static enum failure reset_in_the_handshake(void) {
    struct loop *l = loop_new();
    struct tls_client_ctx *tls = NULL;
    struct end c;
    int fds[2];
    tcp_pair(fds);
    assert_int_equal(tls_client_ctx_new(NULL, &tls, NULL), OK);
    end_init(&c, l);
    end_accept(&c, fds[0]);
    TURN_UNTIL(l, c.opened == 1);
    stream_start_tls_client(c.s, tls, TLS_VERIFY_NONE, "mx.test", 5000);
    struct pollfd p = {.fd = fds[1], .events = POLLIN};
    TURN_UNTIL(l, poll(&p, 1, 0) == 1);
    close(fds[1]); /* with the ClientHello unread */
    TURN_UNTIL(l, c.failed == 1);
    end_release(&c);
    tls_client_ctx_unref(&tls);
    loop_free(&l);
    return c.why;
}

static void one_reset_makes_no_three_days_in_clear(void **state) {
    (void)state;
    const int64_t quarter = 15 * 60 * 1000;
    struct tlspolicy *t = tlspolicy_new();
    struct sockaddr_any a = loopback(25);
    tlspolicy_broken(t, &a, "mx.test", reset_in_the_handshake(), 1000);
    assert_int_equal(tlspolicy_now(t, SESSION_TLS_OPPORTUNISTIC, &a, "mx.test", 1001 + quarter),
                     SESSION_TLS_OPPORTUNISTIC);
    tlspolicy_free(&t);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_stricter_of_route_and_message_decides),
        cmocka_unit_test(broken_tls_is_remembered_for_three_days_and_only_for_opportunistic),
        cmocka_unit_test(a_handshake_that_found_no_answer_is_soon_tried_again),
        cmocka_unit_test(what_failed_under_one_name_says_nothing_about_another),
        cmocka_unit_test(one_reset_makes_no_three_days_in_clear),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
