/* What OpenSSL answers when it gets no memory is not taken for what is wrong
 * with a key. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "server/mail/dkim_key.h"
#include "tests/unit/net/crypto_faults.h"
#include "tests/unit/patience.h"

enum { IS_OVER = 100 }; /* it needs no more allocations than those before */

/* In a process of its own: what is small and has no memory ends it. */
static int read_short(struct str pem, long first, long times) {
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        struct dkim_key *key = NULL;
        assert_non_null(freopen("/dev/null", "w", stderr));
        count = 0;
        fail_at = first;
        fail_count = times;
        enum err e = dkim_key_parse_pem(pem, &key, NULL);
        _exit((key != NULL) != (e == OK) ? 99 : (int)e + (count < first ? IS_OVER : 0));
    }
    int status = 0;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

/* One allocation of the reading after the other fails, and so many after it. */
static void read_all_short(struct str pem, long times, enum err want) {
    int lacked = 0, got;
    for (long n = 1; (got = read_short(pem, n, times)) < IS_OVER; n += 1 + n / 50) {
        if (got != (int)want && got != ERR_UNAVAILABLE && got != ERR_EXIT_MEMORY)
            fail_msg("allocation %ld, %ld times: %d", n, times, got);
        lacked += got == ERR_UNAVAILABLE;
    }
    assert_int_equal(got, IS_OVER + (int)want);
    assert_true(lacked > 0);
}

/* Not under memcheck: a child's status would be that of what OpenSSL did not give back. */
static void a_good_key_is_never_said_to_be_wrong(void **state) {
    (void)state;
    static const enum dkim_algorithm algorithms[] = {DKIM_RSA_SHA256, DKIM_ED25519_SHA256};
    static const long times[] = {1, 5, 1000000};
    if (is_under_memcheck())
        skip();
    for (size_t i = 0; i < 2; i++) {
        struct dkim_key *key = NULL;
        struct buf pem = BUF_INIT(8192);
        assert_int_equal(dkim_key_generate(algorithms[i], &key, NULL), OK);
        dkim_key_print_pem(key, &pem);
        for (size_t k = 0; k < sizeof times / sizeof *times; k++)
            read_all_short(buf_str(&pem), times[k], OK);
        buf_release_secret(&pem);
        dkim_key_unref(&key);
    }
}

static void a_wrong_key_is_never_taken(void **state) {
    (void)state;
    static const char CUT[] = "-----BEGIN PRIVATE KEY-----\n"
                              "MC4CAQAwBQYDK2VwBCIEIJ1hsZ3v/VpguoRK9JLsLMREScVpezJpGXA7rAMc\n"
                              "-----END PRIVATE KEY-----\n";
    if (is_under_memcheck())
        skip();
    read_all_short(str_of(CUT), 1, ERR_INVALID);
}

int main(void) {
    if (!crypto_faults_install())
        abort();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_good_key_is_never_said_to_be_wrong),
        cmocka_unit_test(a_wrong_key_is_never_taken),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
