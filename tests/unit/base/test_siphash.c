#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>

#include "server/base/siphash.h"

/* The key 00 01 .. 0f, of the inputs 00 01 .. of each length (the reference implementation's). */
static const uint64_t published[] = {
    UINT64_C(0x726fdb47dd0e0e31), UINT64_C(0x74f839c593dc67fd), UINT64_C(0x0d6c8009d9a94f5a),
    UINT64_C(0x85676696d7fb7e2d), UINT64_C(0xcf2794e0277187b7), UINT64_C(0x18765564cd99a68d),
    UINT64_C(0xcbc9466e58fee3ce), UINT64_C(0xab0200f58b01d137), UINT64_C(0x93f5f5799a932462),
    UINT64_C(0x9e0082df0ba9e4b0), UINT64_C(0x7a5dbbc594ddb9f3), UINT64_C(0xf4b32f46226bada7),
    UINT64_C(0x751e8fbc860ee5fb), UINT64_C(0x14ea5627c0843d90), UINT64_C(0xf723ca908e7af2ee),
    UINT64_C(0xa129ca6149be45e5), UINT64_C(0x3f2acc7f57c29bdb), UINT64_C(0x699ae9f52cbe4794),
};

static void it_gives_the_published_values(void **state) {
    (void)state;
    unsigned char key[SIPHASH_KEY_SIZE], input[sizeof(published) / sizeof(published[0])];
    for (size_t i = 0; i < sizeof(key); i++)
        key[i] = (unsigned char)i;
    for (size_t i = 0; i < sizeof(input); i++)
        input[i] = (unsigned char)i;
    for (size_t n = 0; n < sizeof(input); n++)
        assert_int_equal(siphash(key, input, n), published[n]);
    assert_int_equal(siphash(key, NULL, 0), published[0]);
}

static void another_key_gives_another_value(void **state) {
    (void)state;
    unsigned char key[SIPHASH_KEY_SIZE] = {0};
    uint64_t before = siphash(key, "example.net", 11);
    for (size_t i = 0; i < sizeof(key); i++) {
        key[i] = 1;
        uint64_t now = siphash(key, "example.net", 11);
        assert_int_not_equal(now, before);
        before = now;
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(it_gives_the_published_values),
        cmocka_unit_test(another_key_gives_another_value),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
