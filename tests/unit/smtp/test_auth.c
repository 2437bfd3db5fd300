/* AUTH as lines: what is sent at first, what answers each challenge, and where it ends. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "server/smtp/auth.h"

static const struct capability plain = {.auth_plain = true}, login = {.auth_login = true},
                               both = {.auth_plain = true, .auth_login = true};

static void assert_line(struct buf *out, const char *expected) {
    assert_int_equal(buf_status(out), OK);
    struct str got = buf_str(out);
    if (!str_equal(got, str_of(expected)))
        fail_msg("%.*s instead of %s", STR_ARG(got), expected);
    buf_clear(out);
}

static void test_C38_plain_goes_with_the_command(void **state) {
    (void)state;
    struct buf out = BUF_INIT(4096);
    struct auth *a = auth_new(&both, "ann", "secret");
    assert_string_equal(auth_mechanism(a), "PLAIN");
    auth_begin(a, &out);
    assert_line(&out, "AUTH PLAIN AGFubgBzZWNyZXQ=\r\n");
    /* it has all that there is: a challenge is one too many */
    assert_int_equal(auth_continue(a, STR(""), &out), ERR_INVALID);
    assert_line(&out, "*\r\n");
    auth_free(&a);
    assert_null(a);
    buf_release_secret(&out);
}

static void test_T23_a_text_that_repeats_the_password_is_known(void **state) {
    (void)state;
    struct auth *a = auth_new(&plain, "ann", "secret");
    assert_true(auth_is_told_by(a, STR("no: AUTH PLAIN AGFubgBzZWNyZXQ= is wrong")));
    assert_true(auth_is_told_by(a, STR("no such password: secret")));
    assert_true(auth_is_told_by(a, STR("c2VjcmV0")));
    /* cut off, in lines, without its end */
    assert_true(auth_is_told_by(a, STR("no: AUTH PLAIN AGFubgBzZWNyZX...")));
    assert_true(auth_is_told_by(a, STR("AGFubgBzZW\nNyZXQ")));
    assert_true(auth_is_told_by(a, STR("no such password: sec\nret")));
    assert_false(auth_is_told_by(a, STR("ann, that is wrong: AGFubgBz")));
    assert_false(auth_is_told_by(a, STR("")));
    auth_free(&a);
    static const struct {
        const char *password, *text;
        bool is_told;
    } rows[] = {
        {"", "5.7.8 no", false},
        {"no", "5.7.8 no", false}, /* so short that it may be a word of any refusal */
        {"p\xE4ssword", "wrong: p?ssword", true}, /* as the reply's reader cleans it */
        {"\xE4\xF6\xFC\xE4", "wrong: ????", false},
        {"a long password, and more of it", "YSBsb25nIHBhc3N3b3JkLCBhbmQgbW9yZSBv", true},
        {"a long password, and more of it", "bmQgbW9yZSBvZiBpd", true},
        {"a long password, and more of it", "no: a long password, and mor", true},
        {"a long password, and more of it", "more: no", false},
        {"secret", "no: AGFubgBzZWNyZ", true},
        {"secret", "no: AGFubgBzZWN", false}, /* not all of three octets */
        {"secret", "wrong: secr", true},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        a = auth_new(&plain, "ann", rows[i].password);
        if (auth_is_told_by(a, str_of(rows[i].text)) != rows[i].is_told)
            fail_msg("%s: %s", rows[i].password, rows[i].text);
        auth_free(&a);
    }
}

static void test_C38_an_empty_user_and_password_are_still_a_response(void **state) {
    (void)state;
    struct buf out = BUF_INIT(4096);
    struct auth *a = auth_new(&plain, "", "");
    auth_begin(a, &out);
    assert_line(&out, "AUTH PLAIN AAA=\r\n");
    auth_free(&a);
    buf_release_secret(&out);
}

/* 512 octets with CRLF, RFC 4954 4: "AUTH PLAIN " are 11, so 499 are left, and base64 gives 496 of
 * them to 372 octets: NUL, user, NUL, password. */
static void test_C38_a_long_secret_waits_for_the_challenge(void **state) {
    (void)state;
    static const struct {
        int password;
        bool is_at_once;
    } rows[] = {{366, true}, {367, true}, {368, false}, {900, false}};
    struct buf out = BUF_INIT(8192);
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        char password[1024];
        memset(password, 'p', sizeof(password));
        password[rows[i].password] = '\0';
        struct auth *a = auth_new(&plain, "ann", password);
        auth_begin(a, &out);
        assert_int_equal(buf_status(&out), OK);
        assert_true(out.n <= 512);
        assert_int_equal(out.n > 12, rows[i].is_at_once);
        if (!rows[i].is_at_once) {
            assert_line(&out, "AUTH PLAIN\r\n");
            assert_int_equal(auth_continue(a, STR(""), &out), OK);
            assert_true(out.n > 500);
            assert_true(str_ends_with(buf_str(&out), STR("\r\n")));
            assert_true(str_starts_with(buf_str(&out), STR("AGFubgBwcHBw")));
            buf_clear(&out);
        }
        buf_clear(&out);
        assert_int_equal(auth_continue(a, STR(""), &out), ERR_INVALID);
        assert_line(&out, "*\r\n");
        auth_free(&a);
    }
    buf_release_secret(&out);
}

static void test_C38_login_answers_two_challenges(void **state) {
    (void)state;
    struct buf out = BUF_INIT(4096);
    struct auth *a = auth_new(&login, "ann", "secret");
    assert_string_equal(auth_mechanism(a), "LOGIN");
    auth_begin(a, &out);
    assert_line(&out, "AUTH LOGIN\r\n");
    assert_int_equal(auth_continue(a, STR("VXNlcm5hbWU6"), &out), OK);
    assert_line(&out, "YW5u\r\n");
    assert_int_equal(auth_continue(a, STR("UGFzc3dvcmQ6"), &out), OK);
    assert_line(&out, "c2VjcmV0\r\n");
    assert_int_equal(auth_continue(a, STR("TW9yZTo="), &out), ERR_INVALID);
    assert_line(&out, "*\r\n");
    auth_free(&a);
    buf_release_secret(&out);
}

static void test_C38_a_challenge_that_is_no_base64_ends_it(void **state) {
    (void)state;
    struct buf out = BUF_INIT(4096);
    struct auth *a = auth_new(&login, "ann", "secret");
    auth_begin(a, &out);
    buf_clear(&out);
    assert_int_equal(auth_continue(a, STR("User name please!"), &out), ERR_INVALID);
    assert_line(&out, "*\r\n");
    auth_free(&a);
    buf_release_secret(&out);
}

static void test_no_mechanism_in_common(void **state) {
    (void)state;
    static const struct capability none = {.pipelining = true};
    assert_null(auth_new(&none, "ann", "secret"));
    struct auth *a = NULL;
    auth_free(&a);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_C38_plain_goes_with_the_command),
        cmocka_unit_test(test_T23_a_text_that_repeats_the_password_is_known),
        cmocka_unit_test(test_C38_an_empty_user_and_password_are_still_a_response),
        cmocka_unit_test(test_C38_a_long_secret_waits_for_the_challenge),
        cmocka_unit_test(test_C38_login_answers_two_challenges),
        cmocka_unit_test(test_C38_a_challenge_that_is_no_base64_ends_it),
        cmocka_unit_test(test_no_mechanism_in_common),
    };
    return cmocka_run_group_tests_name("auth", tests, NULL, NULL);
}
