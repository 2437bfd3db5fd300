/* Codecs, UTF-8, times and ids: what is decoded encodes to the same text again, what is encoded
 * decodes to the same bytes. */
#include <stdlib.h>

#include "server/base/base64.h"
#include "server/base/clock.h"
#include "server/base/id.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

typedef void (*encode_fn)(struct str in, struct buf *out);
typedef enum err (*decode_fn)(struct str in, struct buf *out);

static void check_codec(struct str in, encode_fn encode, decode_fn decode) {
    static struct buf coded = BUF_INIT(1 << 20), plain = BUF_INIT(1 << 20);
    buf_clear(&coded);
    buf_clear(&plain);
    encode(in, &coded);
    ASSERT(decode(buf_str(&coded), &plain) == OK);
    ASSERT(str_equal(buf_str(&plain), in));
    buf_clear(&coded);
    buf_clear(&plain);
    /* Strict means that each value has one spelling (but for the case of base32 and hex). */
    if (decode(in, &plain) == OK) {
        encode(buf_str(&plain), &coded);
        ASSERT(str_equal_nocase(buf_str(&coded), in));
        ASSERT(decode != base64_decode || str_equal(buf_str(&coded), in));
    } else {
        ASSERT(plain.n == 0);
    }
}

static void check_text(struct str in) {
    bool utf8 = true;
    for (struct str rest = in; rest.n > 0;) {
        size_t n = str_utf8_length(rest);
        ASSERT(n <= 4 && n <= rest.n);
        utf8 = utf8 && n > 0;
        rest = str_from(rest, n > 0 ? n : 1);
    }
    ASSERT(str_is_utf8(in) == utf8);
    ASSERT(!str_is_ascii(in) || str_is_utf8(in));
    struct str trimmed = str_trim(in);
    ASSERT(str_equal(str_trim(trimmed), trimmed));
    size_t total = 0, pieces = 0;
    for (struct str rest = in; !str_is_absent(rest); pieces++)
        total += str_split(&rest, ',').n;
    ASSERT(total + pieces - 1 == in.n);
    uint64_t v;
    if (str_parse_u64(in, UINT64_MAX, &v) == OK)
        ASSERT(in.n > 0 && ascii_is_digit(in.p[0]));
    int64_t wall_ms;
    if (clock_parse_rfc3339(in, &wall_ms) == OK) {
        char text[CLOCK_RFC3339_SIZE];
        int64_t again;
        clock_print_rfc3339(wall_ms, text);
        ASSERT(clock_parse_rfc3339(str_of(text), &again) == OK && again == wall_ms);
    }
    struct id id;
    if (id_parse(in, &id) == OK) {
        char text[ID_TEXT_SIZE];
        id_print(&id, text);
        ASSERT(str_equal_nocase(str_of(text), in));
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct str in = str_make(data ? (const void *)data : "", size);
    check_codec(in, base64_encode, base64_decode);
    check_codec(in, base32_encode, base32_decode);
    check_codec(in, hex_encode, hex_decode);
    check_text(in);
    return 0;
}
