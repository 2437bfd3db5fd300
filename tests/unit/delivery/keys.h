/* keys: DKIM keys and signers for the tests of the room. Thread: the test's. */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "server/delivery/signers.h"
#include "server/mail/dkim_key.h"

#define KEYS static __attribute__((unused))

KEYS struct buf new_key(void) {
    struct dkim_key *key = NULL;
    struct errinfo info = {0};
    struct buf pem = BUF_INIT(8192);
    assert_int_equal(dkim_key_generate(DKIM_ED25519_SHA256, &key, &info), OK);
    dkim_key_print_pem(key, &pem);
    dkim_key_unref(&key);
    return pem;
}

/* Of one domain with one key. */
KEYS struct signers *signers_of(const char *domain, const char *selector, bool is_published) {
    struct buf pem = new_key();
    struct domain_key_row k = {
        .selector = str_of(selector), .pem = buf_str(&pem), .published_wall_ms = is_published};
    const struct domain_row d = {.name = str_of(domain), .key = &k, .key_count = 1};
    struct signers *s = signers_new(&d, 1, NULL);
    buf_release_secret(&pem);
    return s;
}
