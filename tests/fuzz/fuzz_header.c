/* Any text in a header field reads back as it was: unstructured, as a display name, as a parameter.
 * Lines keep their lengths, and what looks like an encoded-word is one of ours (M1, M4, M22 to
 * M24). The first octet is the length of the field's name, the second says which of the three. */
#include "server/base/base64.h"
#include "server/base/limits.h"
#include "server/mail/header.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct arena *arena;
static struct buf out = BUF_INIT(1 << 20), flat = BUF_INIT(1 << 20), text = BUF_INIT(1 << 20);

static void check_lines(struct str s) {
    bool is_encoded = false;
    while (s.n > 0) {
        ptrdiff_t end = str_find(s, STR("\r\n"));
        ASSERT(end > 0 && end <= LIMIT_LINE);
        struct str line = str_slice(s, 0, (size_t)end);
        ASSERT(str_trim(line).n > 0 && str_find_char(line, '\r') < 0);
        is_encoded = str_find(line, STR("=?utf-8?")) >= 0;
        ASSERT(!is_encoded || line.n <= HEADER_LINE);
        s = str_from(s, (size_t)end + 2);
    }
}

/* Without line ends: what follows the name, the colon and a space. */
static struct str unfolded(size_t name_length) {
    struct str s = buf_str(&out);
    buf_clear(&flat);
    for (size_t i = 0; i < s.n; i++)
        if (s.p[i] != '\r' && s.p[i] != '\n')
            buf_putc(&flat, s.p[i]);
    s = str_from(buf_str(&flat), name_length + 1);
    ASSERT(s.n > 0 && s.p[0] == ' ');
    return str_from(s, 1);
}

static unsigned hex_digit(char c) {
    ASSERT((c >= '0' && c <= '9') || (c >= 'A' && c <= 'F'));
    return (unsigned)(c <= '9' ? c - '0' : c - 'A' + 10);
}

/* One encoded-word at the start of `s`; returns how long it is. */
static size_t decode_word(struct str s) {
    ASSERT(s.n > 12 && str_starts_with(s, STR("=?utf-8?")) && s.p[9] == '?');
    ptrdiff_t end = str_find(str_from(s, 10), STR("?="));
    ASSERT(end > 0 && end + 12 <= 75);
    struct str inside = str_slice(s, 10, 10 + (size_t)end);
    size_t before = text.n;
    if (s.p[8] == 'B') {
        ASSERT(base64_decode(inside, &text) == OK);
    } else {
        ASSERT(s.p[8] == 'Q');
        for (size_t i = 0; i < inside.n; i++) {
            char c = inside.p[i];
            if (c == '=') {
                ASSERT(i + 2 < inside.n);
                c = (char)(hex_digit(inside.p[i + 1]) << 4 | hex_digit(inside.p[i + 2]));
                i += 2;
            } else if (c == '_') {
                c = ' ';
            }
            buf_putc(&text, c);
        }
    }
    ASSERT(str_is_utf8(str_from(buf_str(&text), before))); /* whole characters */
    return (size_t)end + 12;
}

/* RFC 2047 6.2: white space between two encoded-words is none. */
static struct str decoded(struct str s) {
    buf_clear(&text);
    bool after_word = false;
    for (size_t i = 0; i < s.n;) {
        if (s.p[i] == '=' && i + 1 < s.n && s.p[i + 1] == '?') {
            ASSERT(i == 0 || s.p[i - 1] == ' ');
            i += decode_word(str_from(s, i));
            ASSERT(i == s.n || s.p[i] == ' ');
            after_word = true;
            continue;
        }
        size_t k = i;
        while (k < s.n && s.p[k] == ' ')
            k++;
        bool is_between = after_word && k > i && str_starts_with(str_from(s, k), STR("=?"));
        if (!is_between)
            buf_put(&text, str_slice(s, i, k > i ? k : i + 1));
        i = k > i ? k : i + 1;
        after_word = false;
    }
    return buf_str(&text);
}

static void check_text(struct header_writer *w, size_t name_length, struct str in) {
    header_put_text(w, in);
    header_end(w);
    ASSERT(header_status(w) == OK);
    check_lines(buf_str(&out));
    ASSERT(str_equal(decoded(unfolded(name_length)), in));
}

static void check_mailbox(struct header_writer *w, size_t name_length, struct str in) {
    struct address a, again;
    ASSERT(address_parse(&a, STR("a@b.example"), arena, NULL) == OK);
    if (address_set_name(&a, in, arena, NULL) != OK)
        return;
    header_put_mailbox(w, &a, false);
    header_end(w);
    ASSERT(header_status(w) == OK);
    check_lines(buf_str(&out));
    struct str got = unfolded(name_length);
    if (str_starts_with(got, STR("=?"))) {
        ASSERT(str_ends_with(got, STR(" <a@b.example>")));
        ASSERT(str_equal(decoded(str_slice(got, 0, got.n - strlen(" <a@b.example>"))), in));
    } else {
        ASSERT(str_find(got, STR("=?")) < 0 && str_is_ascii(got));
        ASSERT(address_parse_named(&again, got, arena, NULL) == OK);
        ASSERT(address_equal(&a, &again) && str_equal(again.name, in));
    }
}

/* RFC 2231 3, 4. */
static void decode_extended(struct str s, unsigned number) {
    ASSERT(str_starts_with(s, STR("f*")));
    s = str_from(s, 2);
    bool is_first = true;
    if (s.n > 0 && ascii_is_digit(s.p[0])) {
        uint64_t n;
        struct str digits = str_split(&s, '*');
        ASSERT(str_parse_u64(digits, 999, &n) == OK && n == number);
        is_first = n == 0;
    } else {
        ASSERT(number == 0);
    }
    ASSERT(s.n > 0 && s.p[0] == '=');
    s = str_from(s, 1);
    if (is_first) {
        ASSERT(str_starts_with(s, STR("utf-8''")));
        s = str_from(s, 7);
    }
    for (size_t i = 0; i < s.n; i++) {
        char c = s.p[i];
        if (c == '%') {
            ASSERT(i + 2 < s.n);
            c = (char)(hex_digit(s.p[i + 1]) << 4 | hex_digit(s.p[i + 2]));
            i += 2;
        } else {
            ASSERT(c > ' ' && c < 127 && !strchr("*'()<>@,;:\\\"/[]?=", c));
        }
        buf_putc(&text, c);
    }
}

static void check_parameter(struct header_writer *w, size_t name_length, struct str in) {
    if (in.n > LIMIT_FILENAME)
        return;
    header_put_word(w, STR("attachment"));
    header_put_parameter(w, "f", in);
    header_end(w);
    ASSERT(header_status(w) == OK);
    check_lines(buf_str(&out));
    struct str rest = unfolded(name_length);
    ASSERT(str_starts_with(rest, STR("attachment;")));
    rest = str_trim(str_from(rest, strlen("attachment;")));
    buf_clear(&text);
    if (str_starts_with(rest, STR("f=\""))) {
        ASSERT(rest.n > 3 && rest.p[rest.n - 1] == '"');
        for (size_t i = 3; i + 1 < rest.n; i++) {
            ASSERT(rest.p[i] != '"');
            if (rest.p[i] == '\\')
                i++;
            buf_putc(&text, rest.p[i]);
        }
    } else {
        for (unsigned k = 0; !str_is_absent(rest); k++)
            decode_extended(str_trim(str_split(&rest, ';')), k);
    }
    ASSERT(str_equal(buf_str(&text), in));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const char name[] =
        "Xaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    if (size < 2)
        return 0;
    if (!arena)
        arena = arena_new();
    arena_clear(arena);
    struct str in = str_make(data + 2, size - 2);
    size_t name_length = 1 + data[0] % 76;
    if (in.n > LIMIT_HEADER_VALUE || header_text_check(in, false) != HEADER_TEXT_OK)
        return 0;
    buf_clear(&out);
    struct header_writer w = HEADER_WRITER(&out);
    header_begin(&w, str_make(name, name_length));
    switch (data[1] % 3) {
    case 0:
        check_text(&w, name_length, in);
        break;
    case 1:
        check_mailbox(&w, name_length, in);
        break;
    default:
        check_parameter(&w, name_length, in);
    }
    return 0;
}
