#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "server/base/base64.h"
#include "server/events/signature.h"

/* The vector that the Standard Webhooks libraries test themselves with. */
#define SPEC_SECRET "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
#define SPEC_ID "msg_p5jXN8AQM9LWM0D4loKWxJek"
#define SPEC_BODY "{\"test\": 2432232314}"
#define SPEC_SIGNATURE "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
enum { SPEC_TIMESTAMP = 1614265330 };

static void T20_the_published_vector_is_reproduced(void **state) {
    (void)state;
    struct buf out = BUF_INIT(1024);
    struct str secret = STR(SPEC_SECRET);
    assert_int_equal(
        signature_print(&secret, 1, STR(SPEC_ID), SPEC_TIMESTAMP, STR(SPEC_BODY), &out), OK);
    assert_string_equal(out.p, SPEC_SIGNATURE);
    buf_release(&out);
}

static void a_rotated_secret_adds_a_signature(void **state) {
    (void)state;
    struct buf fresh = BUF_INIT(256), both = BUF_INIT(1024), alone = BUF_INIT(1024);
    signature_new_secret(&fresh);
    struct str secrets[] = {buf_str(&fresh), STR(SPEC_SECRET)};
    assert_int_equal(
        signature_print(secrets, 2, STR(SPEC_ID), SPEC_TIMESTAMP, STR(SPEC_BODY), &both), OK);
    assert_int_equal(
        signature_print(secrets, 1, STR(SPEC_ID), SPEC_TIMESTAMP, STR(SPEC_BODY), &alone), OK);
    assert_true(str_starts_with(buf_str(&both), buf_str(&alone)));
    assert_true(str_equal(str_from(buf_str(&both), alone.n), STR(" " SPEC_SIGNATURE)));
    buf_release(&fresh);
    buf_release(&both);
    buf_release(&alone);
}

static void T20_every_part_is_signed(void **state) {
    (void)state;
    static const struct {
        struct str id;
        int64_t timestamp;
        struct str body;
    } rows[] = {
        {{SPEC_ID "x", sizeof SPEC_ID}, SPEC_TIMESTAMP, {SPEC_BODY, sizeof SPEC_BODY - 1}},
        {{SPEC_ID, sizeof SPEC_ID - 1}, SPEC_TIMESTAMP + 1, {SPEC_BODY, sizeof SPEC_BODY - 1}},
        {{SPEC_ID, sizeof SPEC_ID - 1}, SPEC_TIMESTAMP, {SPEC_BODY, sizeof SPEC_BODY - 2}},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct buf out = BUF_INIT(1024);
        struct str secret = STR(SPEC_SECRET);
        assert_int_equal(
            signature_print(&secret, 1, rows[i].id, rows[i].timestamp, rows[i].body, &out), OK);
        assert_string_not_equal(out.p, SPEC_SIGNATURE);
        buf_release(&out);
    }
}

static void T20_secrets_have_24_to_64_bytes(void **state) {
    (void)state;
    uint8_t bytes[80] = {1, 2, 3};
    static const struct {
        size_t n;
        enum err want;
    } rows[] = {{0, ERR_INVALID}, {23, ERR_INVALID}, {24, OK},         {32, OK},
                {64, OK},         {65, ERR_INVALID}, {80, ERR_INVALID}};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct buf text = BUF_INIT(256), key = BUF_INIT(256);
        buf_putz(&text, "whsec_");
        base64_encode(str_make(bytes, rows[i].n), &text);
        assert_int_equal(signature_parse_secret(buf_str(&text), &key), rows[i].want);
        assert_int_equal(key.n, rows[i].want == OK ? rows[i].n : 0);
        if (rows[i].want == OK)
            assert_memory_equal(key.p, bytes, rows[i].n);
        buf_release(&text);
        buf_release(&key);
    }
}

static void malformed_secrets_are_refused(void **state) {
    (void)state;
    static const char *const rows[] = {
        "",
        "whsec_",
        "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        "WHSEC_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaS",
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaS!",
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw ",
        "whpk_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct buf key = BUF_INIT(256), out = BUF_INIT(256);
        struct str secret = str_of(rows[i]);
        assert_int_equal(signature_parse_secret(secret, &key), ERR_INVALID);
        assert_int_equal(signature_print(&secret, 1, STR("a"), 1, STR("b"), &out), ERR_INVALID);
        buf_release(&key);
        buf_release(&out);
    }
}

static void new_secrets_are_valid_and_differ(void **state) {
    (void)state;
    struct buf a = BUF_INIT(256), b = BUF_INIT(256), key = BUF_INIT(256);
    signature_new_secret(&a);
    signature_new_secret(&b);
    assert_false(str_equal(buf_str(&a), buf_str(&b)));
    assert_int_equal(signature_parse_secret(buf_str(&a), &key), OK);
    assert_int_equal(key.n, 32);
    buf_release(&a);
    buf_release(&b);
    buf_release(&key);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(T20_the_published_vector_is_reproduced),
        cmocka_unit_test(a_rotated_secret_adds_a_signature),
        cmocka_unit_test(T20_every_part_is_signed),
        cmocka_unit_test(T20_secrets_have_24_to_64_bytes),
        cmocka_unit_test(malformed_secrets_are_refused),
        cmocka_unit_test(new_secrets_are_valid_and_differ),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
