#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "server/base/base64.h"
#include "server/mail/dkim_key.h"

/* made with `openssl genpkey` for this test */
static const char rsa_512[] = "-----BEGIN PRIVATE KEY-----\n"
                              "MIIBVgIBADANBgkqhkiG9w0BAQEFAASCAUAwggE8AgEAAkEAtMMjejowYLRP81cM\n"
                              "xnKnwoV45/cLtbxnvg9lxElEWicLI8PSMRjJ8+j3NsYZahBYy8Fnf7cCEBBezPmt\n"
                              "v3uVzQIDAQABAkAI50OsFYmkeb0mYzdB3wvcTO6znjt5bBpABkog7Ors9cIpmJGu\n"
                              "LR38G6+xsbHAwEc5FKGbEJn19iTfrkhmzKMRAiEA2KnwlG9wSoU5aNXqHvJ48BJb\n"
                              "Lhnga2b/hJuN/HOBzjMCIQDVlJKVuiPioFuB5aqJBi5o7wWTMkXaV9kc+483FGEL\n"
                              "/wIhANOENCX1FP7rSLyb+U/1DzPv96vt/zVa/CCNa/QFH7gZAiEAsCN3QEPilGPr\n"
                              "E5V0rsyKOb/luR8cvJT2WRCda69C2cECIQDO4cA2863eR4tq6gDG41rYi3Z2sh19\n"
                              "eeqkR1m7ctOiaQ==\n"
                              "-----END PRIVATE KEY-----\n";
static const char rsa_1024[] = "-----BEGIN PRIVATE KEY-----\n"
                               "MIICdwIBADANBgkqhkiG9w0BAQEFAASCAmEwggJdAgEAAoGBAKFEc3PmwCU1LUi3\n"
                               "5mwCz9KCvxUhzBhyV8v3cKUhHOr9u3Lo1iBi/8ZvbX/34T+su6S7Xkb6QNl4TQz9\n"
                               "H7Qq1h4Ct27tbnmJMVZENj/n1XFhaptLCUdgCQwMsTZrAYhREX/ITCRJT1AWJZ1W\n"
                               "kGISRx1gTVhzWcYWByLsV2AHNSoRAgMBAAECgYAJ8PZNBsSBhq2r9eo2blXxXC37\n"
                               "V4IFX8cZw78l7syhj9KmWsQYawHpcaUGZnl0O2m11fcR2Qt2XHwjeNcjfCCG0AcA\n"
                               "V1rvlreLKI+4OCodKq9ZTX2sPy6C/Mb8AKCvhpaB9o5iTSbbLfvZYli32Qd+/Qnd\n"
                               "DuV2l35NnKPc01DgAQJBAMt20mLVSA0WSfrChgxjWANE8fgF2x0IUUKhjVCfADDo\n"
                               "JH7idaov5GxDH6B10y9wi47nLSDa8JtaNUhJrdBowsECQQDK6GHXcbg5PuvWMkhP\n"
                               "5FPeHUw/0J6lrfZmEiVTXvk3mt/IH52rNzmtfqpvgdU9HQgnBDLgyH9+a7e4PL9y\n"
                               "QUtRAkEAuDmiTTLoxlDEM3UmgtkAvBUVMom62BLL4RT+K12MgrvvL6RE/g/XN9+f\n"
                               "J18IFRBGjOHtDq6u5TtMu2NbKjVxAQJAVbCv6Ul4UIy3El1n1n2JwarD0ctrxHJk\n"
                               "NZUCOGRKgWYhjaV0c6M983wjxDWjdUy2bavDRNTHqv8YtnDJNRpIEQJBAI4P3aZE\n"
                               "AWyFDAEgM+xuBYAzLbfY7Wr7HxUI3dEpMoJHccCPsNJSzCWdaqG9bz6eHSCynNFP\n"
                               "iVihGEmoBKcTb7M=\n"
                               "-----END PRIVATE KEY-----\n";
static const char rsa_pkcs1[] = "-----BEGIN RSA PRIVATE KEY-----\n"
                                "MIICXQIBAAKBgQChRHNz5sAlNS1It+ZsAs/Sgr8VIcwYclfL93ClIRzq/bty6NYg\n"
                                "Yv/Gb21/9+E/rLuku15G+kDZeE0M/R+0KtYeArdu7W55iTFWRDY/59VxYWqbSwlH\n"
                                "YAkMDLE2awGIURF/yEwkSU9QFiWdVpBiEkcdYE1Yc1nGFgci7FdgBzUqEQIDAQAB\n"
                                "AoGACfD2TQbEgYatq/XqNm5V8Vwt+1eCBV/HGcO/Je7MoY/SplrEGGsB6XGlBmZ5\n"
                                "dDtptdX3EdkLdlx8I3jXI3wghtAHAFda75a3iyiPuDgqHSqvWU19rD8ugvzG/ACg\n"
                                "r4aWgfaOYk0m2y372WJYt9kHfv0J3Q7ldpd+TZyj3NNQ4AECQQDLdtJi1UgNFkn6\n"
                                "woYMY1gDRPH4BdsdCFFCoY1QnwAw6CR+4nWqL+RsQx+gddMvcIuO5y0g2vCbWjVI\n"
                                "Sa3QaMLBAkEAyuhh13G4OT7r1jJIT+RT3h1MP9Cepa32ZhIlU175N5rfyB+dqzc5\n"
                                "rX6qb4HVPR0IJwQy4Mh/fmu3uDy/ckFLUQJBALg5ok0y6MZQxDN1JoLZALwVFTKJ\n"
                                "utgSy+EU/itdjIK77y+kRP4P1zffnydfCBUQRozh7Q6uruU7TLtjWyo1cQECQFWw\n"
                                "r+lJeFCMtxJdZ9Z9icGqw9HLa8RyZDWVAjhkSoFmIY2ldHOjPfN8I8Q1o3VMtm2r\n"
                                "w0TUx6r/GLZwyTUaSBECQQCOD92mRAFshQwBIDPsbgWAMy232O1q+x8VCN3RKTKC\n"
                                "R3HAj7DSUswlnWqhvW8+nh0gspzRT4lYoRhJqASnE2+z\n"
                                "-----END RSA PRIVATE KEY-----\n";
static const char encrypted[] = "-----BEGIN ENCRYPTED PRIVATE KEY-----\n"
                                "MIHsMFcGCSqGSIb3DQEFDTBKMCkGCSqGSIb3DQEFDDAcBAjlMUU5H/KnjwICCAAw\n"
                                "DAYIKoZIhvcNAgkFADAdBglghkgBZQMEASoEEL4ayJZi5YKDxB0SBqFteZkEgZC9\n"
                                "7rrIZ2sSbcQ8i1UaQqylQ4gfYTOtNSvZPm5sDoV6LDVcfsSjfmkQZtXgQDKg2lpk\n"
                                "TWZE2abBYVT57/SjRfzm231bnohAW/LUzMb0dRIOtEB3ScwshAyv+248M2fb3TBh\n"
                                "Y1hOBNPcxZqDOllrt20A906e7nl4Wx+K0oUPpO2yeJ3ivizc5soYHRLzkqLi914=\n"
                                "-----END ENCRYPTED PRIVATE KEY-----\n";
static const char ec[] = "-----BEGIN PRIVATE KEY-----\n"
                         "MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgl14oOtacZABsWiC2\n"
                         "Kz4Qql6EYoHGrWVPdjQOtl6yRCmhRANCAATOmkoRrcItAVPUpud61sF0tcnsImO7\n"
                         "mNxOPWdhGaqD6YQ418wWq8/1YyHXeTTKNazXZK/I2HgJX1TlWDUoxl9S\n"
                         "-----END PRIVATE KEY-----\n";
/* RFC 8463 A.2, as PKCS#8 */
static const char ed25519[] = "-----BEGIN PRIVATE KEY-----\n"
                              "MC4CAQAwBQYDK2VwBCIEIJ1hsZ3v/VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g\n"
                              "-----END PRIVATE KEY-----\n";

static void made_keys_print_and_parse(void **state) {
    (void)state;
    static const enum dkim_algorithm algorithms[] = {DKIM_RSA_SHA256, DKIM_ED25519_SHA256};
    for (size_t i = 0; i < 2; i++) {
        struct dkim_key *k = NULL, *again = NULL;
        struct errinfo info = {0};
        struct buf pem = BUF_INIT(8192), r1 = BUF_INIT(4096), r2 = BUF_INIT(4096);
        assert_int_equal(dkim_key_generate(algorithms[i], &k, &info), OK);
        assert_int_equal(dkim_key_algorithm(k), algorithms[i]);
        dkim_key_print_pem(k, &pem);
        assert_true(str_starts_with(buf_str(&pem), STR("-----BEGIN PRIVATE KEY-----\n")));
        assert_int_equal(dkim_key_parse_pem(buf_str(&pem), &again, &info), OK);
        dkim_key_print_record(k, &r1);
        dkim_key_print_record(again, &r2);
        assert_true(r1.n > 0 && str_equal(buf_str(&r1), buf_str(&r2)));
        buf_release_secret(&pem);
        buf_release(&r1);
        buf_release(&r2);
        struct dkim_key *ref = dkim_key_ref(k);
        dkim_key_unref(&k);
        assert_null(k);
        dkim_key_unref(&ref);
        dkim_key_unref(&again);
        dkim_key_unref(&again);
    }
}

static void test_K12_records_start_with_the_version(void **state) {
    (void)state;
    struct dkim_key *k = NULL;
    struct buf r = BUF_INIT(4096);
    assert_int_equal(dkim_key_parse_pem(str_of(ed25519), &k, NULL), OK);
    dkim_key_print_record(k, &r);
    assert_string_equal(r.p, "v=DKIM1; k=ed25519; p=11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=");
    dkim_key_unref(&k);
    buf_clear(&r);
    assert_int_equal(dkim_key_parse_pem(str_of(rsa_1024), &k, NULL), OK);
    dkim_key_print_record(k, &r);
    assert_string_equal(
        r.p, "v=DKIM1; k=rsa; "
             "p=MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQChRHNz5sAlNS1It+ZsAs/Sgr8VIcwYclfL93ClIRzq/"
             "bty6NYgYv/Gb21/9+E/rLuku15G+kDZeE0M/R+0KtYeArdu7W55iTFWRDY/"
             "59VxYWqbSwlHYAkMDLE2awGIURF/yEwkSU9QFiWdVpBiEkcdYE1Yc1nGFgci7FdgBzUqEQIDAQAB");
    dkim_key_unref(&k);
    buf_release(&r);
}

static void test_K2_what_is_no_usable_key_is_refused(void **state) {
    (void)state;
    static const struct {
        const char *title, *pem, *says; /* says NULL: accepted */
    } rows[] = {
        {"RSA 1024", rsa_1024, NULL},
        {"RSA in its old form", rsa_pkcs1, NULL},
        {"Ed25519", ed25519, NULL},
        {"RSA 512", rsa_512, "512 bits"},
        {"elliptic curve", ec, "neither RSA nor Ed25519"},
        {"encrypted", encrypted, "passphrase"},
        {"empty", "", "PEM"},
        {"text", "hello", "PEM"},
        {"cut", "-----BEGIN PRIVATE KEY-----\nMIIC\n", "PEM"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct dkim_key *k = NULL;
        struct errinfo info = {0};
        enum err e = dkim_key_parse_pem(str_of(rows[i].pem), &k, &info);
        if (rows[i].says ? e != ERR_INVALID || k || !strstr(info.text, rows[i].says) : e != OK)
            fail_msg("%s: %d %s", rows[i].title, e, info.text);
        dkim_key_unref(&k);
    }
}

static void test_K1_K3_signatures_are_those_of_openssl(void **state) {
    (void)state;
    /* openssl dgst -sha256 -sign, and the Ed25519 signature of the SHA-256 hash (RFC 8463 3) */
    static const struct {
        const char *pem, *name, *want;
    } rows[] = {
        {rsa_1024, "rsa-sha256",
         "dvYoThxqEAIIGvu9GfIVgFgoK80CohoLAWGx8aMGRBo/"
         "jtY7XgWtCTIYItWXxX7RGe3H+"
         "cRuDmISYn1sjCzAtRTWYE375JvrK6Lr3uDIS14j7UAihxlC0IhIbFOOBlb9oQ2wmLhLLxQc3hDSn3OWw3XR7yff+/"
         "504ojCpU5ikHU="},
        {ed25519, "ed25519-sha256",
         "GNk0e8WRhtG02Yg5rrc1473tx17BdoWefn1ufWdjhL/"
         "RM0TcDbIcnOz1hVNb9NiSM2znZhQ5y6unAsVR40RrDw=="},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct dkim_key *k = NULL;
        struct buf raw = BUF_INIT(1024), text = BUF_INIT(1024), small = BUF_INIT(10);
        assert_int_equal(dkim_key_parse_pem(str_of(rows[i].pem), &k, NULL), OK);
        assert_string_equal(dkim_algorithm_name(dkim_key_algorithm(k)), rows[i].name);
        assert_int_equal(dkim_key_sign(k, STR("from:a@example.net\r\n"), &raw), OK);
        base64_encode(buf_str(&raw), &text);
        assert_string_equal(text.p, rows[i].want);
        assert_int_equal(dkim_key_sign(k, STR("x"), &small), ERR_LIMIT);
        dkim_key_unref(&k);
        buf_release(&raw);
        buf_release(&text);
        buf_release(&small);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(made_keys_print_and_parse),
        cmocka_unit_test(test_K12_records_start_with_the_version),
        cmocka_unit_test(test_K2_what_is_no_usable_key_is_refused),
        cmocka_unit_test(test_K1_K3_signatures_are_those_of_openssl),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
