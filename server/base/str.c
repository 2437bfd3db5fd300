#include "server/base/str.h"

#include <stdlib.h>

char ascii_lower(char c) {
    return c >= 'A' && c <= 'Z' ? (char)(c | 0x20) : c;
}

bool ascii_is_digit(char c) {
    return c >= '0' && c <= '9';
}

bool ascii_is_alnum(char c) {
    char l = ascii_lower(c);
    return ascii_is_digit(c) || (l >= 'a' && l <= 'z');
}

/* memcmp() must not see the NULL of an absent string, even with length 0. */
static bool bytes_equal(const char *a, const char *b, size_t n) {
    return n == 0 || memcmp(a, b, n) == 0; /* NOLINT(clang-analyzer-core.NonNullParamChecker) */
}

static bool bytes_equal_nocase(const char *a, const char *b, size_t n) {
    for (size_t i = 0; i < n; i++)
        /* NOLINTNEXTLINE(clang-analyzer-core.NullDereference): with n octets there is a pointer */
        if (ascii_lower(a[i]) != ascii_lower(b[i]))
            return false;
    return true;
}

bool str_equal(struct str a, struct str b) {
    return a.n == b.n && bytes_equal(a.p, b.p, a.n);
}

bool str_equal_nocase(struct str a, struct str b) {
    return a.n == b.n && bytes_equal_nocase(a.p, b.p, a.n);
}

int str_compare(struct str a, struct str b) {
    size_t n = a.n < b.n ? a.n : b.n;
    int c = n > 0 ? memcmp(a.p, b.p, n) : 0;
    if (c != 0)
        return c;
    return a.n < b.n ? -1 : a.n > b.n;
}

bool str_starts_with(struct str s, struct str prefix) {
    return s.n >= prefix.n && bytes_equal(s.p, prefix.p, prefix.n);
}

bool str_starts_with_nocase(struct str s, struct str prefix) {
    return s.n >= prefix.n && bytes_equal_nocase(s.p, prefix.p, prefix.n);
}

bool str_ends_with(struct str s, struct str suffix) {
    return s.n >= suffix.n && str_equal(str_from(s, s.n - suffix.n), suffix);
}

bool str_ends_with_nocase(struct str s, struct str suffix) {
    return s.n >= suffix.n && str_equal_nocase(str_from(s, s.n - suffix.n), suffix);
}

ptrdiff_t str_find_char(struct str s, char c) {
    const char *at = s.n > 0 ? memchr(s.p, c, s.n) : NULL;
    return at ? at - s.p : -1;
}

ptrdiff_t str_find(struct str s, struct str needle) {
    if (needle.n == 0)
        return 0;
    const char *at = s.n >= needle.n ? memmem(s.p, s.n, needle.p, needle.n) : NULL;
    return at ? at - s.p : -1;
}

struct str str_slice(struct str s, size_t from, size_t to) {
    ASSERT(from <= to && to <= s.n);
    if (s.n == 0)
        return s; /* no arithmetic on the NULL of an absent string */
    return (struct str){s.p + from, to - from};
}

struct str str_from(struct str s, size_t from) {
    return str_slice(s, from, s.n);
}

static bool is_blank(char c) {
    return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

struct str str_trim(struct str s) {
    size_t from = 0, to = s.n;
    while (from < to && is_blank(s.p[from]))
        from++;
    while (to > from && is_blank(s.p[to - 1]))
        to--;
    return str_slice(s, from, to);
}

struct str str_split(struct str *rest, char sep) {
    struct str all = *rest;
    ptrdiff_t at = str_find_char(all, sep);
    if (at < 0) {
        *rest = STR_NONE;
        return all;
    }
    *rest = str_from(all, (size_t)at + 1);
    return str_slice(all, 0, (size_t)at);
}

enum err str_parse_u64(struct str s, uint64_t max, uint64_t *out) {
    uint64_t v = 0;
    if (s.n == 0)
        return ERR_INVALID;
    for (size_t i = 0; i < s.n; i++) {
        if (!ascii_is_digit(s.p[i]))
            return ERR_INVALID;
        uint64_t digit = (uint64_t)(s.p[i] - '0');
        if (v > UINT64_MAX / 10 || v * 10 > UINT64_MAX - digit)
            return ERR_INVALID;
        v = v * 10 + digit;
    }
    if (v > max)
        return ERR_INVALID;
    *out = v;
    return OK;
}

size_t str_utf8_length(struct str s) {
    if (s.n == 0)
        return 0;
    const uint8_t *p = (const uint8_t *)s.p;
    if (p[0] < 0x80)
        return 1;
    /* RFC 3629 4: the second byte's range is what forbids overlong forms (E0, F0), surrogates (ED)
     * and what lies above U+10FFFF (F4). */
    uint8_t low = 0x80, high = 0xBF;
    size_t n;
    if (p[0] >= 0xC2 && p[0] <= 0xDF) {
        n = 2;
    } else if (p[0] >= 0xE0 && p[0] <= 0xEF) {
        n = 3;
        if (p[0] == 0xE0)
            low = 0xA0;
        if (p[0] == 0xED)
            high = 0x9F;
    } else if (p[0] >= 0xF0 && p[0] <= 0xF4) {
        n = 4;
        if (p[0] == 0xF0)
            low = 0x90;
        if (p[0] == 0xF4)
            high = 0x8F;
    } else {
        return 0;
    }
    if (s.n < n || p[1] < low || p[1] > high)
        return 0;
    for (size_t i = 2; i < n; i++)
        if ((p[i] & 0xC0) != 0x80)
            return 0;
    return n;
}

/* Octets of us-ascii at the beginning, counted by eights. */
static size_t ascii_run(struct str s) {
    uint64_t eight;
    size_t n = 0;
    for (; s.n - n >= sizeof(eight); n += sizeof(eight)) {
        memcpy(&eight, s.p + n, sizeof(eight));
        if ((eight & UINT64_C(0x8080808080808080)) != 0)
            break;
    }
    return n;
}

bool str_is_utf8(struct str s) {
    while (s.n > 0) {
        s = str_from(s, ascii_run(s));
        if (s.n == 0)
            break;
        size_t n = str_utf8_length(s);
        if (n == 0)
            return false;
        s = str_from(s, n);
    }
    return true;
}

bool str_is_ascii(struct str s) {
    for (size_t i = ascii_run(s); i < s.n; i++)
        if ((uint8_t)s.p[i] >= 0x80)
            return false;
    return true;
}

bool str_has_control(struct str s, bool allow_tab) {
    for (size_t i = 0; i < s.n; i++) {
        uint8_t c = (uint8_t)s.p[i];
        if (c < 0x20 && !(c == '\t' && allow_tab))
            return true;
        if (c == 0x7F)
            return true;
        /* U+0080..U+009F in UTF-8. 0xC2 is only ever a lead byte, so no other character matches. */
        if (c == 0xC2 && i + 1 < s.n && (uint8_t)s.p[i + 1] >= 0x80 && (uint8_t)s.p[i + 1] <= 0x9F)
            return true;
    }
    return false;
}

char *str_dupz(struct str s) {
    char *z = mem_zalloc(s.n + 1);
    if (s.n > 0)
        memcpy(z, s.p, s.n);
    return z;
}
