#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "server/intake/domain_check.h"

static void a_key_record_is_ours_when_its_key_is(void **state) {
    (void)state;
    static const struct {
        const char *found;
        bool want;
    } rows[] = {
        {"v=DKIM1; k=rsa; p=QUJD", true},
        {"p=QUJD", true},
        {"v=DKIM1;k=rsa;t=s;p=QU JD", true},
        {"k=rsa; p=QUJD; v=DKIM1;", true},
        {"v=DKIM1; k=rsa; p=QUJE", false},
        {"v=DKIM1; k=rsa; p=", false},
        {"v=DKIM1; k=rsa; p=QUJDQQ", false},
        {"v=DKIM1; k=ed25519; p=QUJD", false},
        {"v=DKIM2; k=rsa; p=QUJD", false},
        {"", false},
        {"v=spf1 -all", false},
        {";;;p;=;", false},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        assert_int_equal(
            domain_check_same_key(STR("v=DKIM1; k=rsa; p=QUJD"), str_of(rows[i].found)),
            rows[i].want);
}

static void dkim_is_required_spf_and_dmarc_are_advice(void **state) {
    (void)state;
    struct arena *a = arena_new();
    struct domain_key_row keys[] = {
        {.selector = STR("s1"), .record = STR("v=DKIM1; k=rsa; p=A")},
        {.selector = STR("s2"), .record = STR("v=DKIM1; k=ed25519; p=B")},
    };
    struct domain_row row = {.name = STR("acme.test"), .key = keys, .key_count = 2};
    struct domain_record *r = NULL;
    assert_int_equal(domain_records_wanted(&row, STR("mx.acme.test"), a, &r), 4);
    assert_true(str_equal(r[1].name, STR("s2._domainkey.acme.test")));
    assert_true(r[1].is_required);
    assert_true(str_equal(r[2].value, STR("v=spf1 a:mx.acme.test ~all")));
    assert_false(r[2].is_required);
    assert_true(str_equal(r[3].name, STR("_dmarc.acme.test")));
    assert_int_equal(domain_records_wanted(&row, STR_NONE, a, &r), 3);
    arena_free(&a);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_key_record_is_ours_when_its_key_is),
        cmocka_unit_test(dkim_is_required_spf_and_dmarc_are_advice),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
