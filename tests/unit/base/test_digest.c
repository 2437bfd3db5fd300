#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "server/base/base64.h"
#include "server/base/digest.h"

static void assert_hex(const uint8_t *bytes, const char *want) {
    struct buf hex = BUF_INIT(100);
    hex_encode(str_make(bytes, SHA256_BYTES), &hex);
    assert_string_equal(hex.p, want);
    buf_release(&hex);
}

static void sha256_gives_the_published_values(void **state) {
    (void)state;
    static const struct {
        const char *in, *want;
    } rows[] = {
        {"", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},
        {"abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"},
        {"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
         "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        uint8_t out[SHA256_BYTES];
        struct str in = str_of(rows[i].in);
        digest_sha256(in, out);
        assert_hex(out, rows[i].want);
        /* in pieces */
        struct sha256 *h = sha256_new();
        for (size_t at = 0; at < in.n; at += 7)
            sha256_put(h, in.p + at, in.n - at < 7 ? in.n - at : 7);
        sha256_put(h, NULL, 0);
        memset(out, 0, sizeof(out));
        sha256_finish(&h, out);
        assert_null(h);
        assert_hex(out, rows[i].want);
    }
    uint8_t out[SHA256_BYTES];
    digest_sha256(STR_NONE, out);
    assert_hex(out, rows[0].want);
}

/* RFC 4231 4 */
static void hmac_gives_the_published_values(void **state) {
    (void)state;
    char key_0b[20], key_aa[131], data_dd[50];
    memset(key_0b, 0x0b, sizeof(key_0b));
    memset(key_aa, 0xaa, sizeof(key_aa));
    memset(data_dd, 0xdd, sizeof(data_dd));
    char key_aa_20[20];
    memset(key_aa_20, 0xaa, sizeof(key_aa_20));
    const struct {
        struct str key, data;
        const char *want;
    } rows[] = {
        {str_make(key_0b, 20), STR("Hi There"),
         "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"},
        {STR("Jefe"), STR("what do ya want for nothing?"),
         "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"},
        {str_make(key_aa_20, 20), str_make(data_dd, 50),
         "773ea91e36800e46854db8ebd09181a72959098b3ef8c122d9635514ced565fe"},
        {str_make(key_aa, 131), STR("Test Using Larger Than Block-Size Key - Hash Key First"),
         "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54"},
        /* without key and data */
        {STR_NONE, STR_NONE, "b613679a0814d9ec772f95d778c35fc5ff1697c493715653c6c712144292c5ad"},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        uint8_t out[SHA256_BYTES];
        digest_hmac_sha256(rows[i].key, rows[i].data, out);
        assert_hex(out, rows[i].want);
        if (rows[i].data.n < 3)
            continue;
        const struct str pieces[] = {str_slice(rows[i].data, 0, 2), STR_NONE, STR(""),
                                     str_from(rows[i].data, 2)};
        digest_hmac_sha256_v(rows[i].key, pieces, 4, out);
        assert_hex(out, rows[i].want);
    }
}

static void equality_looks_at_every_byte(void **state) {
    (void)state;
    assert_true(digest_equal("abcd", "abcd", 4));
    assert_false(digest_equal("abcd", "abce", 4));
    assert_false(digest_equal("Abcd", "abcd", 4));
    assert_true(digest_equal("abcd", "abce", 3));
    assert_true(digest_equal(NULL, NULL, 0));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sha256_gives_the_published_values),
        cmocka_unit_test(hmac_gives_the_published_values),
        cmocka_unit_test(equality_looks_at_every_byte),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
