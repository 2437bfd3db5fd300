/* What OpenSSL answers when it gets no memory is not taken for what is wrong with a file. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "server/net/tls.h"
#include "tests/unit/net/certs.h"
#include "tests/unit/net/crypto_faults.h"

static void a_good_pair_is_never_said_to_be_wrong(void **state) {
    (void)state;
    static const long times[] = {1, 1000000};
    static char cert[8192], key[4096];
    struct certs certs;
    certs_init(&certs);
    struct cert_files good = certs_issue(&certs, "a.example", NULL, -1000, 86400, false);
    certs_pem(good.cert, cert, sizeof cert);
    certs_pem(good.key, key, sizeof key);
    for (size_t i = 0; i < sizeof times / sizeof *times; i++) {
        long failed = 0;
        for (long n = 1;; n += 1 + n / 100) {
            struct errinfo info = {0};
            count = 0;
            fail_at = n;
            fail_count = times[i];
            enum err e = tls_pem_check(cert, key, &info);
            fail_at = 0;
            if (count < n)
                break; /* it needs no more */
            if (e != OK && e != ERR_UNAVAILABLE)
                fail_msg("allocation %ld, %ld times: %s: %s", n, times[i], info.field, info.text);
            assert_true(e == OK || strcmp(info.text, "out of memory") == 0);
            failed += e != OK;
        }
        assert_true(failed > 20);
    }
    certs_free(&certs);
}

int main(void) {
    if (!crypto_faults_install())
        abort();
    const struct CMUnitTest tests[] = {cmocka_unit_test(a_good_pair_is_never_said_to_be_wrong)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
