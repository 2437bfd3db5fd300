#include "server/base/base64.h"

static const char base64_digits[] =
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
static const char base32_digits[] = "abcdefghijklmnopqrstuvwxyz234567";
static const char hex_digits[] = "0123456789abcdef";

/* Values of digits; what is no digit is -1. */
static int base64_value(char c) {
    if (c >= 'A' && c <= 'Z')
        return c - 'A';
    if (c >= 'a' && c <= 'z')
        return c - 'a' + 26;
    if (c >= '0' && c <= '9')
        return c - '0' + 52;
    return c == '+' ? 62 : c == '/' ? 63 : -1;
}

static int base32_value(char c) {
    c = ascii_lower(c);
    if (c >= 'a' && c <= 'z')
        return c - 'a';
    return c >= '2' && c <= '7' ? c - '2' + 26 : -1;
}

static int hex_value(char c) {
    c = ascii_lower(c);
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    return c >= '0' && c <= '9' ? c - '0' : -1;
}

size_t base64_encoded_size(size_t n) {
    ASSERT(n <= SIZE_MAX / 4 * 3 - 3);
    return (n + 2) / 3 * 4;
}

void base64_encode(struct str in, struct buf *out) {
    size_t size = base64_encoded_size(in.n);
    char *q = buf_reserve(out, size);
    if (q == NULL)
        return;
    const uint8_t *p = (const uint8_t *)in.p;
    size_t left = in.n;
    for (; left >= 3; left -= 3, p += 3) {
        uint32_t v = (uint32_t)p[0] << 16 | (uint32_t)p[1] << 8 | p[2];
        *q++ = base64_digits[v >> 18];
        *q++ = base64_digits[v >> 12 & 63];
        *q++ = base64_digits[v >> 6 & 63];
        *q++ = base64_digits[v & 63];
    }
    if (left > 0) {
        uint32_t v = (uint32_t)p[0] << 16 | (left == 2 ? (uint32_t)p[1] << 8 : 0);
        *q++ = base64_digits[v >> 18];
        *q++ = base64_digits[v >> 12 & 63];
        *q++ = left == 2 ? base64_digits[v >> 6 & 63] : '=';
        *q++ = '=';
    }
    buf_advance(out, size);
}

/* Writes the value of four digits; false when one is none. */
static bool decode_four(const char *p, char *q) {
    int a = base64_value(p[0]), b = base64_value(p[1]), c = base64_value(p[2]),
        d = base64_value(p[3]);
    if ((a | b | c | d) < 0)
        return false;
    q[0] = (char)(a << 2 | b >> 4);
    q[1] = (char)(b << 4 | c >> 2);
    q[2] = (char)(c << 6 | d);
    return true;
}

static size_t padding_of(struct str in) {
    if (in.n < 4 || in.p[in.n - 1] != '=')
        return 0;
    return in.p[in.n - 2] != '=' ? 1 : 2;
}

size_t base64_decoded_size(struct str in) {
    return in.n / 4 * 3 - padding_of(in);
}

enum err base64_decode_to(struct str in, char *q) {
    if (in.n % 4 != 0)
        return ERR_INVALID;
    size_t padding = padding_of(in);
    size_t whole = in.n - (padding > 0 ? 4 : 0);
    for (size_t i = 0; i < whole; i += 4, q += 3)
        if (!decode_four(in.p + i, q))
            return ERR_INVALID;
    if (padding > 0) {
        /* RFC 4648 3.5: the bits that the padding leaves over must be zero. */
        const char *p = in.p + whole;
        char last[3];
        const char filled[4] = {p[0], p[1], padding == 1 ? p[2] : 'A', 'A'};
        if (!decode_four(filled, last) || last[2] != 0 || (padding == 2 && last[1] != 0))
            return ERR_INVALID;
        memcpy(q, last, 3 - padding);
    }
    return OK;
}

enum err base64_decode(struct str in, struct buf *out) {
    if (in.n % 4 != 0)
        return ERR_INVALID;
    if (in.n == 0)
        return buf_status(out);
    size_t size = base64_decoded_size(in);
    char *q = buf_reserve(out, size);
    if (q == NULL)
        return buf_status(out);
    enum err e = base64_decode_to(in, q);
    buf_advance(out, e == OK ? size : 0);
    return e;
}

void base32_encode(struct str in, struct buf *out) {
    ASSERT(in.n <= SIZE_MAX / 8 - 1);
    size_t size = (in.n * 8 + 4) / 5;
    char *q = buf_reserve(out, size);
    if (q == NULL)
        return;
    uint32_t held = 0;
    unsigned bits = 0;
    for (size_t i = 0; i < in.n; i++) {
        held = held << 8 | (uint8_t)in.p[i];
        for (bits += 8; bits >= 5; bits -= 5)
            *q++ = base32_digits[held >> (bits - 5) & 31];
    }
    if (bits > 0)
        *q++ = base32_digits[held << (5 - bits) & 31];
    buf_advance(out, size);
}

enum err base32_decode(struct str in, struct buf *out) {
    /* 1, 3 and 6 digits over a group of eight are no whole number of bytes. */
    size_t over = in.n % 8;
    if (over == 1 || over == 3 || over == 6)
        return ERR_INVALID;
    size_t size = in.n / 8 * 5 + over * 5 / 8;
    char *q = buf_reserve(out, size);
    if (q == NULL)
        return buf_status(out);
    uint32_t held = 0;
    unsigned bits = 0;
    for (size_t i = 0; i < in.n; i++) {
        int v = base32_value(in.p[i]);
        if (v < 0) {
            buf_advance(out, 0);
            return ERR_INVALID;
        }
        held = held << 5 | (uint32_t)v;
        bits += 5;
        if (bits >= 8) {
            bits -= 8;
            *q++ = (char)(held >> bits);
        }
    }
    if ((held & ((1u << bits) - 1)) != 0) {
        buf_advance(out, 0);
        return ERR_INVALID;
    }
    buf_advance(out, size);
    return OK;
}

void hex_encode(struct str in, struct buf *out) {
    ASSERT(in.n <= SIZE_MAX / 2);
    char *q = buf_reserve(out, in.n * 2);
    if (q == NULL)
        return;
    for (size_t i = 0; i < in.n; i++) {
        uint8_t c = (uint8_t)in.p[i];
        *q++ = hex_digits[c >> 4];
        *q++ = hex_digits[c & 15];
    }
    buf_advance(out, in.n * 2);
}

enum err hex_decode(struct str in, struct buf *out) {
    if (in.n % 2 != 0)
        return ERR_INVALID;
    char *q = buf_reserve(out, in.n / 2);
    if (q == NULL)
        return buf_status(out);
    for (size_t i = 0; i < in.n; i += 2) {
        int high = hex_value(in.p[i]), low = hex_value(in.p[i + 1]);
        if ((high | low) < 0) {
            buf_advance(out, 0);
            return ERR_INVALID;
        }
        *q++ = (char)(high << 4 | low);
    }
    buf_advance(out, in.n / 2);
    return OK;
}
