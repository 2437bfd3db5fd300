#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "server/delivery/route.h"

static void urls_are_read_as_they_say(void **state) {
    (void)state;
    static const struct {
        const char *url, *host;
        unsigned port;
        const char *user, *password;
        enum session_tls tls;
    } rows[] = {
        {"smtp://mail.example", "mail.example", 25, "", "", SESSION_TLS_OPPORTUNISTIC},
        {"SMTP://Mail.Example/", "mail.example", 25, "", "", SESSION_TLS_OPPORTUNISTIC},
        {"smtp://postfix:2525", "postfix", 2525, "", "", SESSION_TLS_OPPORTUNISTIC},
        {"smtp://u:p@mail.example", "mail.example", 587, "u", "p", SESSION_TLS_VERIFY},
        {"smtp://u%40x.y:p%3a%2F%23@mail.example:465", "mail.example", 465, "u@x.y", "p:/#",
         SESSION_TLS_VERIFY},
        {"smtp://u@x.y:a@b/c@mail.example", "mail.example", 587, "u@x.y", "a@b/c",
         SESSION_TLS_VERIFY},
        {"smtps://mail.example", "mail.example", 465, "", "", SESSION_TLS_IMPLICIT},
        {"smtps://u:p@mail.example:1465?tls=verify", "mail.example", 1465, "u", "p",
         SESSION_TLS_IMPLICIT},
        {"smtp://192.0.2.7:26?tls=none", "192.0.2.7", 26, "", "", SESSION_TLS_NONE},
        {"smtp://[2001:db8::7]:26?tls=encrypt", "2001:db8::7", 26, "", "", SESSION_TLS_ENCRYPT},
        {"smtp://[2001:DB8::7]", "2001:db8::7", 25, "", "", SESSION_TLS_OPPORTUNISTIC},
        {"smtp://b\xc3\xbc"
         "cher.example",
         "xn--bcher-kva.example", 25, "", "", SESSION_TLS_OPPORTUNISTIC},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct smarthost h;
        struct errinfo info = {0};
        enum err e = smarthost_parse(str_of(rows[i].url), &h, &info);
        if (e != OK)
            fail_msg("%s: %s: %s", rows[i].url, info.field, info.text);
        assert_string_equal(h.host, rows[i].host);
        assert_int_equal(h.port, rows[i].port);
        assert_string_equal(h.user, rows[i].user);
        assert_string_equal(h.password, rows[i].password);
        assert_int_equal(h.tls, rows[i].tls);
        assert_int_equal(h.weight, 1);
        assert_int_equal(h.priority, 0);
    }
}

static void parameters_are_read(void **state) {
    (void)state;
    struct smarthost h;
    const char *url = "smtp://mail.example?ca=%2Fetc%2Fca%20file.pem&weight=7&priority=3&tls=verify"
                      "&pin=sha256:"
                      "00112233445566778899aabbccddeeff00112233445566778899AABBCCDDEEFF";
    assert_int_equal(smarthost_parse(str_of(url), &h, NULL), OK);
    assert_string_equal(h.ca_file, "/etc/ca file.pem");
    assert_int_equal(h.weight, 7);
    assert_int_equal(h.priority, 3);
    assert_int_equal(h.pin_count, 1);
    assert_int_equal(h.pin[0].sha256[0], 0);
    assert_int_equal(h.pin[0].sha256[31], 0xff);
    assert_false(h.is_pin_alone);
}

#define EMPTY "sha256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=" /* of nothing at all */
#define ZEROS "sha256:0000000000000000000000000000000000000000000000000000000000000000"

static void a_pin_authenticates_alone_unless_more_is_asked(void **state) {
    (void)state;
    static const struct {
        const char *url;
        unsigned count;
        enum session_tls tls;
        bool is_alone;
    } rows[] = {
        {"smtp://mail.example?pin=" EMPTY, 1, SESSION_TLS_VERIFY, true},
        {"smtp://mail.example?pin=sha256:47DEQpj8HBSa%2B/TImW%2b5JCeuQeRkm5NMpJWZG3hSuFU%3D", 1,
         SESSION_TLS_VERIFY, true},
        {"smtp://mail.example?pin=SHA256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=," ZEROS, 2,
         SESSION_TLS_VERIFY, true},
        {"smtp://mail.example?tls=encrypt&pin=" ZEROS, 1, SESSION_TLS_VERIFY, true},
        {"smtp://mail.example?tls=verify&pin=" EMPTY, 1, SESSION_TLS_VERIFY, false},
        {"smtp://mail.example?pin=" EMPTY "&tls=verify", 1, SESSION_TLS_VERIFY, false},
        {"smtp://mail.example?pin=" EMPTY "&ca=/ca.pem", 1, SESSION_TLS_VERIFY, false},
        {"smtp://u:p@mail.example?pin=" EMPTY, 1, SESSION_TLS_VERIFY, true},
        {"smtp://u:p@mail.example?pin=" EMPTY "&tls=encrypt", 1, SESSION_TLS_VERIFY, true},
        {"smtps://mail.example?pin=" EMPTY, 1, SESSION_TLS_IMPLICIT, true},
        {"smtps://mail.example?tls=verify&pin=" EMPTY, 1, SESSION_TLS_IMPLICIT, false},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct smarthost h;
        struct errinfo info = {0};
        if (smarthost_parse(str_of(rows[i].url), &h, &info) != OK)
            fail_msg("%s: %s: %s", rows[i].url, info.field, info.text);
        if (h.pin_count != rows[i].count || h.tls != rows[i].tls ||
            h.is_pin_alone != rows[i].is_alone)
            fail_msg("%s: %u pins, tls %d, alone %d", rows[i].url, h.pin_count, (int)h.tls,
                     h.is_pin_alone);
    }
}

static void test_T4_what_is_wrong_is_refused_and_named(void **state) {
    (void)state;
    static const struct {
        const char *url, *field;
    } rows[] = {
        {"", "scheme"},
        {"http://mail.example", "scheme"},
        {"mail.example:25", "scheme"},
        {"smtp://", "host"},
        {"smtp://:25", "host"},
        {"smtp://mail..example", "host"},
        {"smtp://-x.example", "host"},
        {"smtp://mail.example/path", "host"},
        {"smtp://mail_host.example", "host"},
        {"smtp://a b", "host"},
        {"smtp://[192.0.2.1]", "host"},
        {"smtp://[mail.example]", "host"},
        {"smtp://[::1", "host"},
        {"smtp://[::1]25", "port"},
        {"smtp://mail.example:", "port"},
        {"smtp://mail.example:0", "port"},
        {"smtp://mail.example:65536", "port"},
        {"smtp://mail.example:25x", "port"},
        {"smtp://u@mail.example", "user"},
        {"smtp://u:@mail.example", "user"},
        {"smtp://:p@mail.example", "user"},
        {"smtp://@mail.example", "user"},
        {"smtp://u%0d%0aX:p@mail.example", "user"},
        {"smtp://u:p%00@mail.example", "password"},
        {"smtp://u:p%zz@mail.example", "password"},
        {"smtp://u:p%4@mail.example", "password"},
        {"smtp://u:p%ff@mail.example", "password"},
        {"smtp://mail.example#x", "url"},
        {"smtp://mail.example?", "query"},
        {"smtp://mail.example?tls", "query"},
        {"smtp://mail.example?tls=verify&", "query"},
        {"smtp://mail.example?verify=1", "query"},
        {"smtp://mail.example?TLS=none", "query"},
        {"smtp://mail.example?tls=always", "tls"},
        {"smtp://mail.example?tls=none&tls=verify", "tls"},
        {"smtps://mail.example?tls=none", "tls"},
        {"smtps://mail.example?tls=encrypt", "tls"},
        {"smtp://mail.example?weight=0", "weight"},
        {"smtp://mail.example?weight=1001", "weight"},
        {"smtp://mail.example?priority=-1", "priority"},
        {"smtp://mail.example?pin=abc", "pin"},
        {"smtp://mail.example?pin=", "pin"},
        {"smtp://mail.example?pin=sha256:", "pin"},
        {"smtp://mail.example?pin=sha256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuF==", "pin"},
        {"smtp://mail.example?pin=sha1:2jmj7l5rSw0yVb/vlWAYkK/YBwk=", "pin"},
        {"smtp://mail.example?pin=47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=", "pin"},
        {"smtp://mail.example?pin=" EMPTY ",", "pin"},
        {"smtp://mail.example?pin=" EMPTY "," EMPTY "," EMPTY "," EMPTY "," EMPTY "," EMPTY
         "," EMPTY "," EMPTY "," EMPTY,
         "pin"},
        {"smtp://mail.example?tls=none&pin=" EMPTY, "pin"},
        {"smtp://mail.example?pin=" EMPTY "&tls=opportunistic", "pin"},
        {"smtp://mail.example?ca=", "ca"},
        {"smtp://mail.example?insecure_auth=yes", "insecure_auth"},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct smarthost h;
        struct errinfo info = {0};
        if (smarthost_parse(str_of(rows[i].url), &h, &info) != ERR_INVALID)
            fail_msg("%s was taken", rows[i].url);
        if (strcmp(info.field, rows[i].field) != 0)
            fail_msg("%s: %s instead of %s", rows[i].url, info.field, rows[i].field);
        struct smarthost none = {0};
        assert_memory_equal(&h, &none, sizeof(h));
    }
}

static void test_T7_credentials_need_verified_tls_or_a_private_address_and_the_word(void **state) {
    (void)state;
    static const struct {
        const char *url;
        enum err want;
    } rows[] = {
        {"smtp://u:p@mail.example?tls=verify", OK},
        {"smtp://u:p@mail.example?tls=encrypt", ERR_INVALID},
        {"smtp://u:p@mail.example?tls=opportunistic", ERR_INVALID},
        {"smtp://u:p@127.0.0.1?tls=none", ERR_INVALID},
        {"smtp://u:p@127.0.0.1?tls=none&insecure_auth=0", ERR_INVALID},
        {"smtp://u:p@127.0.0.1?tls=none&insecure_auth=1", OK},
        {"smtp://u:p@10.1.2.3?tls=none&insecure_auth=1", OK},
        {"smtp://u:p@172.31.2.3?tls=none&insecure_auth=1", OK},
        {"smtp://u:p@172.32.2.3?tls=none&insecure_auth=1", ERR_INVALID},
        {"smtp://u:p@192.168.0.1?tls=encrypt&insecure_auth=1", OK},
        {"smtp://u:p@100.64.0.1?tls=encrypt&insecure_auth=1", OK},
        {"smtp://u:p@192.0.2.1?tls=encrypt&insecure_auth=1", ERR_INVALID},
        {"smtp://u:p@[fd00::1]?tls=encrypt&insecure_auth=1", OK},
        {"smtp://u:p@[::1]?tls=encrypt&insecure_auth=1", OK},
        {"smtp://u:p@[2001:db8::1]?tls=encrypt&insecure_auth=1", ERR_INVALID},
        {"smtp://u:p@[::ffff:8.8.8.8]?tls=encrypt&insecure_auth=1", ERR_INVALID},
        /* a name: its addresses are checked when they are known */
        {"smtp://u:p@postfix?tls=none&insecure_auth=1", OK},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct smarthost h;
        if (smarthost_parse(str_of(rows[i].url), &h, NULL) != rows[i].want)
            fail_msg("%s", rows[i].url);
    }
}

static void the_reason_never_repeats_the_secret(void **state) {
    (void)state;
    static const char *const urls[] = {
        "smtp://u:hunter2@mail.example?tls=none",  "smtp://u:hunter2@bad host",
        "smtp://u:hunter2%zz@mail.example",        "smtp://u:hunter2@mail.example:x",
        "smtp://u:hunter2@mail.example?hunter2=1",
    };
    for (size_t i = 0; i < sizeof(urls) / sizeof(urls[0]); i++) {
        struct smarthost h;
        struct errinfo info = {0};
        assert_int_equal(smarthost_parse(str_of(urls[i]), &h, &info), ERR_INVALID);
        assert_null(strstr(info.text, "hunter2"));
        assert_null(strstr(info.field, "hunter2"));
    }
}

static void the_route_is_the_named_one_else_the_first_that_matches_else_the_default(void **state) {
    (void)state;
    static const struct str ACME[] = {{"acme.test", 9}}, SUB[] = {{"*.acme.test", 11}};
    static const struct str PEER[] = {{"peer.test", 9}, {"*.peer.test", 11}};
    const struct route routes[] = {
        {.name = "both",
         .sender_domains = ACME,
         .sender_domain_count = 1,
         .recipient_domains = PEER,
         .recipient_domain_count = 2},
        {.name = "sender", .sender_domains = ACME, .sender_domain_count = 1},
        {.name = "sub", .sender_domains = SUB, .sender_domain_count = 1},
        {.name = "named"},
        {.name = "default"},
    };
    static const struct {
        const char *asked, *sender, *recipient, *want;
    } rows[] = {
        {"named", "acme.test", "peer.test", "named"}, {"", "acme.test", "peer.test", "both"},
        {"", "acme.test", "a.b.peer.test", "both"},   {"", "acme.test", "notpeer.test", "sender"},
        {"", "ACME.test", "other.test", "sender"},    {"", "x.acme.test", "peer.test", "sub"},
        {"", "xacme.test", "peer.test", "default"},   {"", "other.test", "peer.test", "default"},
        {"gone", "acme.test", "peer.test", NULL},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        const struct route *r = route_choose(routes, 5, str_of(rows[i].asked), STR("default"),
                                             str_of(rows[i].sender), str_of(rows[i].recipient));
        if (rows[i].want == NULL)
            assert_null(r);
        else
            assert_string_equal(r->name, rows[i].want);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(urls_are_read_as_they_say),
        cmocka_unit_test(parameters_are_read),
        cmocka_unit_test(a_pin_authenticates_alone_unless_more_is_asked),
        cmocka_unit_test(test_T4_what_is_wrong_is_refused_and_named),
        cmocka_unit_test(test_T7_credentials_need_verified_tls_or_a_private_address_and_the_word),
        cmocka_unit_test(the_reason_never_repeats_the_secret),
        cmocka_unit_test(the_route_is_the_named_one_else_the_first_that_matches_else_the_default),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
