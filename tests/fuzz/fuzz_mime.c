/* What the MIME writer writes is read back: texts through each encoding, and the parts of a
 * multipart whose boundaries come from a seed that the author knows (M13 to M18, M20, T14). The
 * first octet is the seed; contents are cut at each 0xFE. */
#include "server/base/base64.h"
#include "server/base/limits.h"
#include "server/mail/encode.h"
#include "server/mail/mime.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { PARTS_MAX = 4 };

static struct buf canonical = BUF_INIT(1 << 20), coded = BUF_INIT(1 << 22),
                  back = BUF_INIT(1 << 20);

/* Each CRLF, CR and LF becomes a CRLF. */
static void make_canonical(struct str in, struct buf *to) {
    buf_clear(to);
    char *start = buf_reserve(to, 2 * in.n), *p = start;
    ASSERT(start);
    for (size_t i = 0; i < in.n; i++) {
        if (in.p[i] == '\r' || in.p[i] == '\n') {
            if (in.p[i] == '\r' && i + 1 < in.n && in.p[i + 1] == '\n')
                i++;
            *p++ = '\r';
            *p++ = '\n';
        } else {
            *p++ = in.p[i];
        }
    }
    buf_advance(to, (size_t)(p - start));
}

static unsigned hex_digit(char c) {
    ASSERT((c >= '0' && c <= '9') || (c >= 'A' && c <= 'F'));
    return (unsigned)(c <= '9' ? c - '0' : c - 'A' + 10);
}

/* RFC 2045 6.7, its rules checked on the way. No octet stands for more than one. */
static void decode_quoted_printable(struct str s) {
    char *start = buf_reserve(&back, s.n), *p = start;
    size_t column = 0;
    ASSERT(start);
    for (size_t i = 0; i < s.n; i++) {
        char c = s.p[i];
        if (c == '\r') {
            ASSERT(i + 1 < s.n && s.p[i + 1] == '\n' && column <= ENCODE_LINE);
            ASSERT(column == 0 || (s.p[i - 1] != ' ' && s.p[i - 1] != '\t'));
            *p++ = '\r';
            *p++ = '\n';
            i++;
            column = 0;
            continue;
        }
        column++;
        if (c != '=') {
            ASSERT(c == '\t' || (c >= ' ' && c <= '~'));
            *p++ = c;
            continue;
        }
        ASSERT(i + 2 < s.n);
        if (s.p[i + 1] == '\r') {
            ASSERT(s.p[i + 2] == '\n' && column <= ENCODE_LINE);
            column = 0;
        } else {
            *p++ = (char)(hex_digit(s.p[i + 1]) << 4 | hex_digit(s.p[i + 2]));
            column += 2;
        }
        i += 2;
    }
    ASSERT(column <= ENCODE_LINE);
    buf_advance(&back, (size_t)(p - start));
}

static void decode_base64(struct str s) {
    while (s.n > 0) {
        ptrdiff_t end = str_find(s, STR("\r\n"));
        size_t n = end < 0 ? s.n : (size_t)end;
        ASSERT(n > 0 && n <= ENCODE_LINE && (end < 0 || n == ENCODE_LINE));
        ASSERT(base64_decode(str_slice(s, 0, n), &back) == OK);
        s = str_from(s, end < 0 ? n : n + 2);
    }
}

static void check_encodings(struct str in) {
    enum encoding chosen = encode_choose(in);
    make_canonical(in, &canonical);
    for (int e = 0; e < ENCODING_COUNT; e++) {
        buf_clear(&coded);
        buf_clear(&back);
        encode_text(in, (enum encoding)e, &coded);
        ASSERT(buf_status(&coded) == OK);
        if (e == ENCODING_QUOTED_PRINTABLE)
            decode_quoted_printable(buf_str(&coded));
        else if (e == ENCODING_BASE64)
            decode_base64(buf_str(&coded));
        ASSERT(str_equal(buf_str(e == ENCODING_7BIT ? &coded : &back), buf_str(&canonical)));
    }
    if (chosen == ENCODING_7BIT) {
        ASSERT(str_is_ascii(in) && str_find_char(in, '\0') < 0);
        ASSERT(encode_is_7bit(buf_str(&canonical)));
        for (struct str rest = buf_str(&canonical); !str_is_absent(rest);)
            ASSERT(str_split(&rest, '\n').n <= ENCODE_LINE_7BIT + 1);
    }
    if (encode_is_7bit(in))
        ASSERT(str_is_ascii(in));
}

/* mixed(alternative(part, part), part ...), read by its boundaries alone. */
static void check_multipart(uint8_t seed_byte, const struct str *part, size_t count) {
    uint8_t seed[16] = {seed_byte};
    buf_clear(&coded);
    struct mime_writer w = {
        .out = &coded, .seed = seed, .unencoded = part, .unencoded_count = count};
    mime_open(&w, "mixed", NULL);
    for (size_t i = 0; i < count; i++) {
        mime_next(&w);
        buf_put(&coded, STR("\r\n"));
        encode_text(part[i], ENCODING_7BIT, &coded);
    }
    mime_close(&w);
    ASSERT(buf_status(&coded) == OK);
    struct str rest = buf_str(&coded), mark = STR("boundary=\"");
    ptrdiff_t at = str_find(rest, mark);
    ASSERT(at > 0);
    rest = str_from(rest, (size_t)at + mark.n);
    char delimiter[80];
    snprintf(delimiter, sizeof delimiter, "\r\n--%.34s", rest.p);
    at = str_find(rest, str_of(delimiter));
    ASSERT(at >= 0);
    rest = str_from(rest, (size_t)at + strlen(delimiter));
    for (size_t i = 0; i < count; i++) {
        ASSERT(str_starts_with(rest, STR("\r\n\r\n")));
        rest = str_from(rest, 4);
        at = str_find(rest, str_of(delimiter));
        /* an empty part: its blank line's end is the delimiter's */
        ASSERT(at >= 0);
        make_canonical(part[i], &canonical);
        ASSERT(str_equal(str_slice(rest, 0, (size_t)at), buf_str(&canonical)));
        rest = str_from(rest, (size_t)at + strlen(delimiter));
    }
    ASSERT(str_equal(rest, STR("--")));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct str part[PARTS_MAX], rest;
    struct mime_type type;
    size_t count = 0;
    if (size < 1)
        return 0;
    rest = str_make(data + 1, size - 1);
    if (mime_type_parse(rest, &type, NULL) == OK) {
        ASSERT(str_is_ascii(rest) && !str_has_control(rest, false) && type.type.n > 0 &&
               type.subtype.n > 0);
        for (size_t i = 0; i < type.parameter_count; i++)
            ASSERT(type.parameters[i].name.n > 0 && type.parameters[i].written.n > 0);
    }
    check_encodings(rest);
    while (!str_is_absent(rest) && count < PARTS_MAX)
        part[count++] = str_split(&rest, (char)0xFE);
    check_multipart(data[0], part, count);
    return 0;
}
