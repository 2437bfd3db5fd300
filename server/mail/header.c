#include "server/mail/header.h"

#include "server/base/base64.h"
#include "server/base/limits.h"

/* ---- what may stand in a header ------------------------------------------------------------- */

enum header_text header_text_check(struct str text, bool allow_tab) {
    if (!str_is_utf8(text))
        return HEADER_TEXT_NOT_UTF8;
    if (str_has_control(text, allow_tab))
        return HEADER_TEXT_CONTROL;
    /* line and paragraph separator: some readers break lines there */
    if (!str_is_ascii(text) &&
        (str_find(text, STR("\xE2\x80\xA8")) >= 0 || str_find(text, STR("\xE2\x80\xA9")) >= 0))
        return HEADER_TEXT_CONTROL;
    return HEADER_TEXT_OK;
}

bool header_is_name(struct str name) {
    for (size_t i = 0; i < name.n; i++) {
        if (name.p[i] < 33 || name.p[i] > 126 || name.p[i] == ':')
            return false;
    }
    return name.n > 0;
}

static bool is_wsp(char c) {
    return c == ' ' || c == '\t';
}

static bool is_atext_ascii(char c) {
    return ascii_is_alnum(c) || (c && strchr("!#$%&'*+-/=?^_`{|}~", c));
}

/* ---- writing and folding -------------------------------------------------------------------- */

static void emit(struct header_writer *w, struct str s) {
    if (s.n > 0 && (memchr(s.p, '\r', s.n) || memchr(s.p, '\n', s.n) || memchr(s.p, 0, s.n)))
        w->failed = true;
    if (w->failed)
        return;
    buf_put(w->out, s);
    w->column += s.n;
    w->at_start = false;
}

static void fold(struct header_writer *w) {
    if (w->failed)
        return;
    buf_put(w->out, STR("\r\n"));
    w->column = 0;
}

/* `space` and `word` are about to be written together. */
static void fold_before(struct header_writer *w, size_t space, size_t word) {
    if (w->column > 0 && w->column + space + word > HEADER_LINE)
        fold(w);
}

void header_begin(struct header_writer *w, struct str name) {
    w->column = 0;
    emit(w, name);
    emit(w, STR(":"));
    w->at_start = true;
}

void header_end(struct header_writer *w) {
    fold(w);
}

enum err header_status(const struct header_writer *w) {
    return w->failed ? ERR_INTERNAL : buf_status(w->out);
}

void header_put_word(struct header_writer *w, struct str word) {
    fold_before(w, 1, word.n);
    emit(w, STR(" "));
    emit(w, word);
}

/* Length of the white space, then of the word after it, at the start of `s`. */
static void next_unit(struct str s, size_t *space, size_t *word) {
    size_t i = 0;
    while (i < s.n && is_wsp(s.p[i]))
        i++;
    *space = i;
    while (i < s.n && !is_wsp(s.p[i]))
        i++;
    *word = i - *space;
}

/* Text that continues the field: white space as it stands, a fold before it where needed. White
 * space at the end stays on its line, so that no line is white space only (RFC 5322 3.2.2). */
static void put_units(struct header_writer *w, struct str text) {
    while (text.n > 0) {
        size_t space = 0, word = 0;
        next_unit(text, &space, &word);
        if (space > 0 && word > 0)
            fold_before(w, space, word);
        emit(w, str_slice(text, 0, space + word));
        text = str_from(text, space + word);
    }
}

void header_put_raw(struct header_writer *w, struct str text) {
    size_t space = 0, word = 0;
    next_unit(text, &space, &word);
    if (!w->at_start)
        fold_before(w, 1 + space, word);
    emit(w, STR(" "));
    emit(w, str_slice(text, 0, space + word));
    put_units(w, str_from(text, space + word));
}

/* ---- RFC 2047 ------------------------------------------------------------------------------- */

enum {
    WORD_MAX = 75,      /* RFC 2047 2 */
    WORD_OVERHEAD = 12, /* =?utf-8?Q? and ?= */
    WORD_ROOM_MIN = 36, /* less is not worth beginning on a line */
};

/* One alphabet for all places: that of a phrase (RFC 2047 5 (3)). */
static size_t q_width(char c) {
    return ascii_is_alnum(c) || c == ' ' || (c && strchr("!*+-/", c)) ? 1 : 3;
}

/* Octets of the UTF-8 character at s.p[0]; a stray octet counts as one. */
static size_t character(struct str s) {
    unsigned char c = (unsigned char)s.p[0];
    size_t n = c >= 0xF0 ? 4 : c >= 0xE0 ? 3 : c >= 0xC0 ? 2 : 1;
    return n < s.n ? n : s.n;
}

/* How much of `s`, in whole characters (RFC 2047 5), fits into `room` encoded characters. */
static size_t fitting(struct str s, bool is_q, size_t room) {
    size_t n = 0, q = 0;
    while (n < s.n) {
        size_t c = character(str_from(s, n));
        for (size_t i = 0; i < c; i++)
            q += q_width(s.p[n + i]);
        if ((is_q ? q : base64_encoded_size(n + c)) > room)
            break;
        n += c;
    }
    return n;
}

static void put_encoded_word(struct header_writer *w, struct str s, bool is_q) {
    static const char hex[] = "0123456789ABCDEF";
    char text[WORD_MAX + 1];
    struct buf b64 = BUF_INIT(WORD_MAX);
    size_t n = 0;
    emit(w, is_q ? STR(" =?utf-8?Q?") : STR(" =?utf-8?B?"));
    if (is_q) {
        for (size_t i = 0; i < s.n; i++) {
            unsigned char c = (unsigned char)s.p[i];
            ASSERT(n + 3 < sizeof text);
            if (q_width((char)c) == 1) {
                text[n++] = c == ' ' ? '_' : (char)c;
            } else {
                text[n++] = '=';
                text[n++] = hex[c >> 4];
                text[n++] = hex[c & 15];
            }
        }
        emit(w, str_make(text, n));
    } else {
        base64_encode(s, &b64);
        emit(w, buf_str(&b64));
    }
    emit(w, STR("?="));
    buf_release(&b64);
}

/* White space between two encoded-words is not part of the text (RFC 2047 6.2). */
static void put_encoded(struct header_writer *w, struct str s) {
    size_t q = 0;
    for (size_t i = 0; i < s.n; i++)
        q += q_width(s.p[i]);
    bool is_q = q <= base64_encoded_size(s.n);
    while (s.n > 0 && !w->failed) {
        if (w->column + 1 + WORD_ROOM_MIN > HEADER_LINE)
            fold(w);
        size_t room = HEADER_LINE - w->column - 1;
        room = (room < WORD_MAX ? room : WORD_MAX) - WORD_OVERHEAD;
        size_t n = fitting(s, is_q, room);
        ASSERT(n > 0);
        put_encoded_word(w, str_slice(s, 0, n), is_q);
        s = str_from(s, n);
    }
}

/* A word that a reader would not get back as it is: beyond ASCII, or with what looks like an
 * encoded-word (RFC 2047 7), or too long for a line. */
static bool needs_encoding(struct str word) {
    return !str_is_ascii(word) || str_find(word, STR("=?")) >= 0 || word.n > LIMIT_LINE / 2;
}

/* The span that goes as encoded-words: from the first to the last word that needs it, with the
 * white space around it but for one space on each side, which separates it from raw text. A text
 * with white space at an end goes whole, because readers drop it there; so does one with a run of
 * it that is longer than a line, which can be folded nowhere (RFC 5322 3.2.2). False when there is
 * none. */
static bool encoded_span(struct str text, size_t *from, size_t *to) {
    size_t first = text.n, last = 0;
    if (text.n > 0 && (is_wsp(text.p[0]) || is_wsp(text.p[text.n - 1]))) {
        *from = 0;
        *to = text.n;
        return true;
    }
    for (size_t i = 0; i < text.n;) {
        size_t space = 0, word = 0;
        next_unit(str_from(text, i), &space, &word);
        size_t start = i + space, end = start + word;
        if (space > HEADER_LINE) {
            *from = 0;
            *to = text.n;
            return true;
        }
        if (needs_encoding(str_slice(text, start, end))) {
            if (first == text.n)
                first = start;
            last = end;
        }
        i = end;
    }
    if (first >= last)
        return false;
    size_t run = first;
    while (run > 0 && is_wsp(text.p[run - 1]))
        run--;
    *from = run > 0 && text.p[run] == ' ' ? run + 1 : 0;
    run = last;
    while (run < text.n && is_wsp(text.p[run]))
        run++;
    *to = run < text.n && text.p[run - 1] == ' ' ? run - 1 : text.n;
    return true;
}

void header_put_text(struct header_writer *w, struct str text) {
    size_t from = 0, to = 0;
    if (!encoded_span(text, &from, &to)) {
        header_put_raw(w, text);
        return;
    }
    if (from > 0)
        header_put_raw(w, str_slice(text, 0, from - 1));
    put_encoded(w, str_slice(text, from, to));
    put_units(w, str_from(text, to));
}

/* ---- mailboxes ------------------------------------------------------------------------------ */

static bool is_atoms(struct str name) {
    for (size_t i = 0; i < name.n; i++) {
        if (name.p[i] == ' ') {
            if (i == 0 || i + 1 == name.n || name.p[i - 1] == ' ')
                return false;
        } else if (!is_atext_ascii(name.p[i])) {
            return false;
        }
    }
    return name.n > 0;
}

/* RFC 5322 3.2.4; folded at its spaces, which stay part of it. */
static void put_quoted(struct header_writer *w, struct str s) {
    struct buf quoted = BUF_INIT(2 * LIMIT_DISPLAY_NAME + 2);
    buf_putc(&quoted, '"');
    for (size_t i = 0; i < s.n; i++) {
        if (s.p[i] == '"' || s.p[i] == '\\')
            buf_putc(&quoted, '\\');
        buf_putc(&quoted, s.p[i]);
    }
    buf_putc(&quoted, '"');
    if (buf_status(&quoted) != OK)
        w->failed = true;
    header_put_raw(w, buf_str(&quoted));
    buf_release(&quoted);
}

static void put_phrase(struct header_writer *w, struct str name) {
    /* the length: quoting may double it, and it need not have a space to fold at */
    if (!str_is_ascii(name) || str_find(name, STR("=?")) >= 0 || name.n > LIMIT_LINE / 3)
        put_encoded(w, name);
    else if (is_atoms(name))
        header_put_raw(w, name);
    else
        put_quoted(w, name);
}

void header_put_mailbox(struct header_writer *w, const struct address *addr, bool more_follow) {
    struct buf spec = BUF_INIT(LIMIT_ADDRESS + 3);
    bool has_name = addr->name.n > 0;
    if (has_name) {
        put_phrase(w, addr->name);
        buf_putc(&spec, '<');
    }
    buf_put(&spec, addr->email);
    if (has_name)
        buf_putc(&spec, '>');
    if (more_follow)
        buf_putc(&spec, ',');
    if (buf_status(&spec) != OK)
        w->failed = true;
    header_put_word(w, buf_str(&spec));
    buf_release(&spec);
}

/* ---- parameters ----------------------------------------------------------------------------- */

/* RFC 2231 7 attribute-char. */
static size_t extended_width(char c) {
    return ascii_is_alnum(c) || (c && strchr("!#$&+-.^_`{}~|", c)) ? 1 : 3;
}

static void put_extended(struct buf *b, struct str s) {
    for (size_t i = 0; i < s.n; i++) {
        if (extended_width(s.p[i]) == 1)
            buf_putc(b, s.p[i]);
        else
            buf_printf(b, "%%%02X", (unsigned char)s.p[i]);
    }
}

/* RFC 2231 3, 4: name*0*=utf-8''...; name*1*=... ; a value that fits on a line goes as name*=. */
static void put_parameter_extended(struct header_writer *w, const char *name, struct str value) {
    struct buf segment = BUF_INIT(1024);
    size_t total = 0;
    for (size_t i = 0; i < value.n; i++)
        total += extended_width(value.p[i]);
    bool is_whole = strlen(name) + 10 + total + 1 <= HEADER_LINE;
    for (unsigned k = 0; value.n > 0; k++) {
        buf_clear(&segment);
        if (is_whole)
            buf_printf(&segment, "%s*=utf-8''", name);
        else
            buf_printf(&segment, "%s*%u*=%s", name, k, k == 0 ? "utf-8''" : "");
        size_t n = 0, width = segment.n + 2; /* space before, semicolon after */
        while (n < value.n) {
            size_t c = character(str_from(value, n)), more = 0;
            for (size_t i = 0; i < c; i++)
                more += extended_width(value.p[n + i]);
            if (n > 0 && width + more > HEADER_LINE)
                break;
            width += more;
            n += c;
        }
        put_extended(&segment, str_slice(value, 0, n));
        value = str_from(value, n);
        emit(w, STR(";"));
        if (buf_status(&segment) != OK)
            w->failed = true;
        header_put_word(w, buf_str(&segment));
    }
    buf_release(&segment);
}

void header_put_parameter(struct header_writer *w, const char *name, struct str value) {
    if (!str_is_ascii(value) || str_find(value, STR("=?")) >= 0) {
        put_parameter_extended(w, name, value);
        return;
    }
    struct buf b = BUF_INIT(LIMIT_LINE - 2);
    buf_printf(&b, "%s=", name);
    buf_putc(&b, '"');
    for (size_t i = 0; i < value.n; i++) {
        if (value.p[i] == '"' || value.p[i] == '\\')
            buf_putc(&b, '\\');
        buf_putc(&b, value.p[i]);
    }
    buf_putc(&b, '"');
    if (buf_status(&b) != OK)
        w->failed = true;
    emit(w, STR(";"));
    header_put_word(w, buf_str(&b));
    buf_release(&b);
}
