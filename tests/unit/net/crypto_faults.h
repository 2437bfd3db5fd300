/* OpenSSL without memory: crypto_faults_install() before anything else of it is used; then the
 * allocation number `fail_at` (0: none) that this thread asks it for fails, and so many after it.
 */
#pragma once

#include <errno.h>
#include <openssl/crypto.h>
#include <stdbool.h>
#include <stdlib.h>

static _Thread_local long count, fail_at, fail_count;

static inline bool crypto_fails(void) {
    count++;
    bool is_so = fail_at != 0 && count >= fail_at && count - fail_at < fail_count;
    if (is_so)
        errno = ENOMEM;
    return is_so;
}

static inline void *crypto_get(size_t n, const char *file, int line) {
    (void)file, (void)line;
    return crypto_fails() ? NULL : malloc(n);
}

static inline void *crypto_get_more(void *p, size_t n, const char *file, int line) {
    (void)file, (void)line;
    return crypto_fails() ? NULL : realloc(p, n);
}

static inline void crypto_put_back(void *p, const char *file, int line) {
    (void)file, (void)line;
    free(p);
}

/* false: OpenSSL has allocated already. */
static inline bool crypto_faults_install(void) {
    return CRYPTO_set_mem_functions(crypto_get, crypto_get_more, crypto_put_back) == 1;
}
