#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "server/base/base64.h"

typedef enum err (*decode_fn)(struct str in, struct buf *out);
typedef void (*encode_fn)(struct str in, struct buf *out);

static const struct codec {
    const char *name;
    encode_fn encode;
    decode_fn decode;
} codecs[] = {
    {"base64", base64_encode, base64_decode},
    {"base32", base32_encode, base32_decode},
    {"hex", hex_encode, hex_decode},
};

/* RFC 4648 10 */
static void the_published_values_come_out(void **state) {
    (void)state;
    static const struct {
        const char *plain, *coded[3];
    } rows[] = {
        {"", {"", "", ""}},
        {"f", {"Zg==", "my", "66"}},
        {"fo", {"Zm8=", "mzxq", "666f"}},
        {"foo", {"Zm9v", "mzxw6", "666f6f"}},
        {"foob", {"Zm9vYg==", "mzxw6yq", "666f6f62"}},
        {"fooba", {"Zm9vYmE=", "mzxw6ytb", "666f6f6261"}},
        {"foobar", {"Zm9vYmFy", "mzxw6ytboi", "666f6f626172"}},
        {"\xff\xfe\xfb", {"//77", "777pw", "fffefb"}},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        for (size_t c = 0; c < 3; c++) {
            struct buf b = BUF_INIT(100);
            buf_putc(&b, '>'); /* codecs append */
            codecs[c].encode(str_of(rows[i].plain), &b);
            assert_string_equal(b.p + 1, rows[i].coded[c]);
            buf_clear(&b);
            buf_putc(&b, '>');
            assert_int_equal(codecs[c].decode(str_of(rows[i].coded[c]), &b), OK);
            assert_string_equal(b.p + 1, rows[i].plain);
            buf_release(&b);
        }
        assert_int_equal(base64_encoded_size(strlen(rows[i].plain)), strlen(rows[i].coded[0]));
        char plain[16] = "";
        assert_int_equal(base64_decoded_size(str_of(rows[i].coded[0])), strlen(rows[i].plain));
        assert_int_equal(base64_decode_to(str_of(rows[i].coded[0]), plain), OK);
        assert_string_equal(plain, rows[i].plain);
    }
}

static void all_bytes_survive(void **state) {
    (void)state;
    uint8_t all[256];
    for (int i = 0; i < 256; i++)
        all[i] = (uint8_t)(i * 167 + 13);
    for (size_t n = 0; n <= sizeof(all); n++) {
        for (size_t c = 0; c < 3; c++) {
            struct buf coded = BUF_INIT(1000), plain = BUF_INIT(n);
            codecs[c].encode(str_make(all, n), &coded);
            assert_int_equal(codecs[c].decode(buf_str(&coded), &plain), OK);
            assert_true(str_equal(buf_str(&plain), str_make(all, n)));
            buf_release(&coded);
            buf_release(&plain);
        }
    }
}

static void sloppy_codes_are_refused(void **state) {
    (void)state;
    static const struct {
        const char *name;
        int codec;
        struct str in;
        enum err want;
    } rows[] = {
        {"no padding", 0, {"Zg", 2}, ERR_INVALID},
        {"half of the padding", 0, {"Zg=", 3}, ERR_INVALID},
        {"too much padding", 0, {"Zm9v====", 8}, ERR_INVALID},
        {"three paddings", 0, {"Z===", 4}, ERR_INVALID},
        {"only padding", 0, {"====", 4}, ERR_INVALID},
        {"padding in the middle", 0, {"Zg==Zg==", 8}, ERR_INVALID},
        {"padding before a digit", 0, {"Zg=v", 4}, ERR_INVALID},
        {"stray bits in one byte", 0, {"Zh==", 4}, ERR_INVALID},
        {"stray bits in two bytes", 0, {"Zm9=", 4}, ERR_INVALID},
        {"white space", 0, {"Zm 9", 4}, ERR_INVALID},
        {"line feed", 0, {"Zm9v\n", 5}, ERR_INVALID},
        {"URL alphabet", 0, {"__77", 4}, ERR_INVALID},
        {"a byte above ASCII", 0, {"Zm9\xff", 4}, ERR_INVALID},
        {"NUL", 0, {"Zm\0v", 4}, ERR_INVALID},
        {"one digit of base32", 1, {"m", 1}, ERR_INVALID},
        {"three digits", 1, {"mzx", 3}, ERR_INVALID},
        {"six digits", 1, {"mzxw6y", 6}, ERR_INVALID},
        {"padding of base32", 1, {"my======", 8}, ERR_INVALID},
        {"stray bits of base32", 1, {"mz", 2}, ERR_INVALID},
        {"1 is no digit", 1, {"m1", 2}, ERR_INVALID},
        {"upper case base32 is fine", 1, {"MZXW6YTBOI", 10}, OK},
        {"odd hex", 2, {"666", 3}, ERR_INVALID},
        {"no hex", 2, {"6g", 2}, ERR_INVALID},
        {"upper case hex is fine", 2, {"6F", 2}, OK},
        {"0x", 2, {"0x", 2}, ERR_INVALID},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        print_message("%s\n", rows[i].name);
        struct buf b = BUF_INIT(100);
        buf_putz(&b, "kept");
        assert_int_equal(codecs[rows[i].codec].decode(rows[i].in, &b), rows[i].want);
        if (rows[i].want != OK) {
            assert_int_equal(b.n, 4);
            assert_int_equal(buf_status(&b), OK);
        }
        assert_memory_equal(b.p, "kept", 4);
        buf_release(&b);
    }
}

static void a_full_buffer_is_a_limit(void **state) {
    (void)state;
    static const char *const coded[] = {"Zm9vYmFy", "mzxw6ytboi", "666f6f626172"};
    for (size_t c = 0; c < 3; c++) {
        struct buf b = BUF_INIT(5);
        assert_int_equal(codecs[c].decode(str_of(coded[c]), &b), ERR_LIMIT);
        assert_int_equal(b.n, 0);
        buf_clear(&b);
        codecs[c].encode(STR("foobar"), &b);
        assert_int_equal(buf_status(&b), ERR_LIMIT);
        assert_int_equal(b.n, 0);
        buf_release(&b);
    }
}

/* Whoever looks at the buffer as a string finds the end where it was. */
static void what_does_not_decode_leaves_the_buffer_as_it_was(void **state) {
    (void)state;
    static const char *const bad[] = {"Zm9vZm9vZm9v????", "mzxw6ytbmzxw6yt!", "666f6f666f6f66zz"};
    for (size_t c = 0; c < 3; c++) {
        struct buf b = BUF_INIT(100);
        buf_putz(&b, "kept");
        assert_int_equal(codecs[c].decode(str_of(bad[c]), &b), ERR_INVALID);
        assert_int_equal(b.n, 4);
        assert_string_equal(b.p, "kept");
        buf_release(&b);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_published_values_come_out),
        cmocka_unit_test(all_bytes_survive),
        cmocka_unit_test(sloppy_codes_are_refused),
        cmocka_unit_test(a_full_buffer_is_a_limit),
        cmocka_unit_test(what_does_not_decode_leaves_the_buffer_as_it_was),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
