/* Which sessions can stand for each other. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "server/delivery/pool.h"

static struct sockaddr_any address(const char *text, uint16_t port) {
    struct sockaddr_any a = {0};
    assert_int_equal(sockaddr_parse(str_of(text), port, &a), OK);
    return a;
}

static bool are_equal(const struct conn_key *a, const struct conn_key *b) {
    return a->n == b->n && memcmp(a->octets, b->octets, a->n) == 0;
}

static void a_session_stands_for_no_other_login_nor_other_tls_nor_other_end(void **state) {
    (void)state;
    char one, two; /* contexts: pins and authorities */
    const struct session_options like = {.to = address("192.0.2.1", 25),
                                         .source = address("192.0.2.9", 0),
                                         .host_name = "mx.example",
                                         .ehlo_name = "out.example",
                                         .tls = SESSION_TLS_OPPORTUNISTIC,
                                         .tls_ctx = (struct tls_client_ctx *)(void *)&one};
    enum { OTHERS = 10 };
    struct session_options o[OTHERS];
    struct conn_key key[OTHERS];
    for (size_t i = 0; i < OTHERS; i++)
        o[i] = like;
    o[1].tls = SESSION_TLS_ENCRYPT;
    o[2].tls = SESSION_TLS_VERIFY;
    o[3].tls = SESSION_TLS_NONE;
    o[4].tls_ctx = (struct tls_client_ctx *)(void *)&two;
    o[5].to = address("192.0.2.1", 26);
    o[6].to = address("192.0.2.2", 25);
    o[7].source = address("192.0.2.8", 0);
    o[8].host_name = "mx2.example";
    o[9].ehlo_name = "out2.example";
    for (size_t i = 0; i < OTHERS; i++)
        conn_key_make(&key[i], &o[i], 7);
    for (size_t i = 0; i < OTHERS; i++) {
        struct conn_key again, other_login;
        conn_key_make(&again, &o[i], 7);
        conn_key_make(&other_login, &o[i], 8);
        assert_true(are_equal(&key[i], &again));
        assert_false(are_equal(&key[i], &other_login));
        for (size_t k = 0; k < i; k++) {
            if (are_equal(&key[i], &key[k]))
                fail_msg("%zu stands for %zu", i, k);
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_session_stands_for_no_other_login_nor_other_tls_nor_other_end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
