/* The text of a pinned key. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "server/base/digest.h"
#include "server/net/tls_pin.h"

#define NOTHING "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=" /* SHA-256 of no octets */
#define NOTHING_HEX "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

static void texts_are_read_or_refused(void **state) {
    (void)state;
    static const struct {
        const char *text;
        bool is_good;
    } rows[] = {
        {"sha256:" NOTHING, true},
        {"SHA256:" NOTHING, true},
        {"sha256:" NOTHING_HEX, true},
        {"sha256:E3B0C44298FC1C149AFBF4C8996FB92427AE41E4649B934CA495991B7852B855", true},
        {"", false},
        {"sha256:", false},
        {NOTHING, false},
        {"sha1:" NOTHING, false},
        {"sha256//" NOTHING, false},
        {"sha256:" NOTHING " ", false},
        {" sha256:" NOTHING, false},
        {"sha256:" NOTHING_HEX "00", false},
        {"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b8", false},
        {"sha256:g3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", false},
        {"sha256:" NOTHING NOTHING, false},
        {"sha256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hS", false},
        {"sha256:47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU=", false},
    };
    struct tls_pin want;
    digest_sha256(STR(""), want.sha256);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct tls_pin got = {0}, none = {0};
        if (tls_pin_parse(str_of(rows[i].text), &got) != rows[i].is_good)
            fail_msg("%s", rows[i].text);
        assert_memory_equal(&got, rows[i].is_good ? &want : &none, sizeof got);
    }
}

static void what_is_printed_can_be_read(void **state) {
    (void)state;
    char text[TLS_PIN_TEXT_SIZE];
    struct tls_pin pin, again;
    digest_sha256(STR(""), pin.sha256);
    tls_pin_print(&pin, text);
    assert_string_equal(text, "sha256:" NOTHING);
    assert_true(tls_pin_parse(str_of(text), &again));
    assert_memory_equal(&pin, &again, sizeof pin);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(texts_are_read_or_refused),
        cmocka_unit_test(what_is_printed_can_be_read),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
