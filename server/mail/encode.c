#include "server/mail/encode.h"

#include "server/base/base64.h"
#include "server/base/limits.h"

enum { BASE64_LINE_BYTES = ENCODE_LINE / 4 * 3 };

const char *encoding_name(enum encoding e) {
    static const char *const name[] = {"7bit", "quoted-printable", "base64"};
    _Static_assert(sizeof name / sizeof *name == ENCODING_COUNT, "a name for each encoding");
    return name[e];
}

/* Octets before the first CR or LF. Both are looked for in pieces of doubling length: a text of
 * short lines that end in one of them is not searched to its end for the other at each line. */
static size_t line_length(struct str s) {
    size_t from = 0, piece = 64;
    while (from < s.n) {
        size_t n = s.n - from < piece ? s.n - from : piece;
        const char *lf = memchr(s.p + from, '\n', n);
        n = lf ? (size_t)(lf - s.p) - from : n;
        const char *cr = memchr(s.p + from, '\r', n);
        if (cr)
            return (size_t)(cr - s.p);
        from += n;
        if (lf)
            return from;
        piece *= 2;
    }
    return s.n;
}

bool encode_next_line(struct str *rest, struct str *line, bool *has_end) {
    if (rest->n == 0)
        return false;
    size_t n = line_length(*rest), left = rest->n - n;
    size_t skip = left == 0 ? 0 : left > 1 && memcmp(rest->p + n, "\r\n", 2) == 0 ? 2 : 1;
    *line = str_make(rest->p, n);
    *has_end = skip > 0;
    *rest = str_from(*rest, n + skip);
    return true;
}

/* Printable us-ascii but "=", which introduces an octet (RFC 2045 6.7 rule 2). */
enum { QP_LITERAL = 1, QP_WSP = 2, QP_EQUALS = 4 };
static const uint8_t qp_class[256] = {
    ['!' ... '<'] = QP_LITERAL,
    ['>' ... '~'] = QP_LITERAL,
    ['='] = QP_EQUALS,
    [' '] = QP_WSP,
    ['\t'] = QP_WSP,
};

/* Octets at the beginning that stand for themselves in the middle of a line. Eight at once, and
 * only where one of them is a control, above us-ascii, DEL or "=", one by one. */
static size_t plain_run(const char *p, size_t n) {
    const uint64_t ones = UINT64_C(0x0101010101010101), tops = ones << 7;
    size_t i = 0;
    for (;;) {
        uint64_t w;
        for (; n - i >= sizeof w; i += sizeof w) {
            memcpy(&w, p + i, sizeof w);
            uint64_t del = w ^ ones * 0x7F, equals = w ^ ones * '=';
            if (((w | (w - ones * ' ') | (del - ones) | (equals - ones)) & tops) != 0)
                break;
        }
        size_t end = n - i < sizeof w ? n : i + sizeof w;
        for (; i < end; i++)
            if ((qp_class[(uint8_t)p[i]] & (QP_LITERAL | QP_WSP)) == 0)
                return i;
        if (i == n)
            return n;
    }
}

static bool is_wsp(char c) {
    return c == ' ' || c == '\t';
}

static bool line_is_plain(struct str line) {
    if (line.n > ENCODE_LINE_7BIT)
        return false;
    if (line.n == 0)
        return true;
    if (is_wsp(line.p[line.n - 1]) || str_equal(line, STR(".")) ||
        str_starts_with(line, STR("From ")))
        return false;
    return true;
}

enum encoding encode_choose(struct str text) {
    bool is_plain = true;
    size_t escapes = 0, lines = 0, octets = 0;
    struct str rest = text, line;
    bool has_end;
    while (encode_next_line(&rest, &line, &has_end)) {
        size_t line_escapes = 0;
        for (size_t i = plain_run(line.p, line.n); i < line.n;
             i += 1 + plain_run(line.p + i + 1, line.n - i - 1)) {
            line_escapes++;
            is_plain &= line.p[i] == '=';
        }
        is_plain = is_plain && line_is_plain(line);
        escapes += line_escapes;
        octets += line.n;
        lines++;
    }
    if (is_plain)
        return ENCODING_7BIT;
    /* sizes with their line ends; a soft break costs three */
    size_t qp = octets + 2 * escapes;
    qp += qp / (ENCODE_LINE - 1) * 3 + 2 * lines;
    size_t b64 = (octets + 2 * lines + 2) / 3 * 4;
    b64 += b64 / ENCODE_LINE * 2;
    return qp <= b64 ? ENCODING_QUOTED_PRINTABLE : ENCODING_BASE64;
}

/* How many octets from `at` on stand for themselves on the output line that has `column` already.
 * The last of a text line is not among them: it has rules of its own. */
static size_t qp_run(struct str line, size_t at, size_t column) {
    size_t left = line.n - at - 1, room = ENCODE_LINE - 1 - column;
    if (column == 0 && str_starts_with(str_from(line, at), STR("From ")))
        return 0;
    return plain_run(line.p + at, room < left ? room : left);
}

/* One line into `p`, which has room for 3 output octets an input octet and the soft breaks. */
static char *qp_line(struct str line, char *p) {
    static const char hex[] = "0123456789ABCDEF";
    size_t column = 0;
    for (size_t i = 0; i < line.n; i++) {
        size_t run = qp_run(line, i, column);
        memcpy(p, line.p + i, run);
        p += run;
        i += run;
        column += run;
        unsigned char c = (unsigned char)line.p[i];
        bool is_last = i + 1 == line.n;
        bool is_literal = qp_class[c] == QP_LITERAL || (qp_class[c] == QP_WSP && !is_last);
        size_t width = is_literal ? 1 : 3;
        /* the last character of a line needs no room for the "=" of a soft break */
        if (column + width > (is_last ? ENCODE_LINE : ENCODE_LINE - 1)) {
            *p++ = '=';
            *p++ = '\r';
            *p++ = '\n';
            column = 0;
        }
        /* What a path may change at the start of a line: mbox files quote "From ", and a lone "."
         * is the end of data where dot-stuffing is missing. */
        if (column == 0 && is_literal &&
            (str_starts_with(str_from(line, i), STR("From ")) || (c == '.' && is_last)))
            is_literal = false;
        if (is_literal) {
            *p++ = (char)c;
            column++;
        } else {
            *p++ = '=';
            *p++ = hex[c >> 4];
            *p++ = hex[c & 15];
            column += 3;
        }
    }
    return p;
}

static void qp_text(struct str text, struct buf *out) {
    struct str rest = text, line;
    bool has_end;
    while (encode_next_line(&rest, &line, &has_end)) {
        size_t room = line.n * 3;
        room += (room / (ENCODE_LINE - 5) + 1) * 3 + 2;
        /* the ceiling counts what is written, not what might be: a line near it goes by copy */
        struct buf one = BUF_INIT(SIZE_MAX);
        if (out->failed)
            return;
        bool is_near = room > out->max - out->n;
        struct buf *to = is_near ? &one : out;
        char *start = buf_reserve(to, room);
        if (!start) { /* memory has ended: a part of a text must not pass for the whole */
            out->failed = true;
            return;
        }
        char *end = qp_line(line, start);
        ASSERT((size_t)(end - start) <= room);
        buf_advance(to, (size_t)(end - start));
        if (has_end)
            buf_put(to, STR("\r\n"));
        if (is_near)
            buf_put(out, buf_str(&one));
        buf_release(&one);
    }
}

static void plain_text(struct str text, struct buf *out) {
    struct str rest = text, line;
    bool has_end;
    while (encode_next_line(&rest, &line, &has_end)) {
        buf_put(out, line);
        if (has_end)
            buf_put(out, STR("\r\n"));
    }
}

void encode_base64_lines(struct str bytes, struct buf *out) {
    bool is_first = true;
    while (bytes.n > 0) {
        size_t n = bytes.n < BASE64_LINE_BYTES ? bytes.n : BASE64_LINE_BYTES;
        if (!is_first)
            buf_put(out, STR("\r\n"));
        base64_encode(str_slice(bytes, 0, n), out);
        bytes = str_from(bytes, n);
        is_first = false;
    }
}

void encode_text(struct str text, enum encoding e, struct buf *out) {
    switch (e) {
    case ENCODING_7BIT:
        plain_text(text, out);
        break;
    case ENCODING_QUOTED_PRINTABLE:
        qp_text(text, out);
        break;
    case ENCODING_BASE64: {
        /* each octet may be a line end that becomes two */
        struct buf canonical = BUF_INIT(SIZE_MAX);
        plain_text(text, &canonical);
        if (buf_status(&canonical) == OK)
            encode_base64_lines(buf_str(&canonical), out);
        else
            out->failed = true; /* memory has ended */
        buf_release(&canonical);
        break;
    }
    case ENCODING_COUNT:
        ASSERT(false);
    }
}

bool encode_is_7bit(struct str bytes) {
    size_t crlf = 0, lf = 0, column = 0;
    for (size_t i = 0; i < bytes.n; i++) {
        unsigned char c = (unsigned char)bytes.p[i];
        if (c == 0 || c > 127)
            return false;
        if (c == '\r') {
            if (i + 1 == bytes.n || bytes.p[i + 1] != '\n')
                return false;
            continue;
        }
        if (c == '\n') {
            if (i > 0 && bytes.p[i - 1] == '\r')
                crlf++;
            else
                lf++;
            column = 0;
        } else if (++column > LIMIT_LINE) {
            return false;
        }
    }
    return crlf == 0 || lf == 0;
}
