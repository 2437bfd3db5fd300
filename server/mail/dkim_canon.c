#include "server/mail/dkim_canon.h"

/* ---- body ----------------------------------------------------------------------------------- */

/* What was held back turns out to be inside the text. */
static void release_held(struct dkim_body_canon *c) {
    for (; c->empty_lines > 0; c->empty_lines--)
        c->sink(c->context, STR("\r\n"));
    if (c->has_space)
        c->sink(c->context, STR(" "));
    c->has_space = false;
}

static void put_text(struct dkim_body_canon *c, struct str text) {
    release_held(c);
    c->sink(c->context, text);
    c->has_text = true;
}

static void end_line(struct dkim_body_canon *c) {
    c->has_space = false;
    c->empty_lines++;
}

static bool is_wsp(char c) {
    return c == ' ' || c == '\t';
}

/* Is this CRLF, before which there is text, canonical as it is? Yes, when text follows. */
static bool is_plain_line_end(struct str s, size_t cr) {
    return cr + 2 < s.n && s.p[cr + 1] == '\n' && s.p[cr + 2] != '\r' && !is_wsp(s.p[cr + 2]);
}

/* Octets up to one that must be looked at: white space or CR; a single space between two other
 * octets stays in the run, being canonical already, and so does a line end between two lines that
 * neither end nor begin with white space. */
static size_t plain_run(struct str s) {
    size_t i = 0;
    while (i < s.n) {
        char c = s.p[i];
        if (c == '\r' && is_plain_line_end(s, i)) {
            i += 2;
            continue;
        }
        if (c == '\r' || c == '\t')
            break;
        if (c == ' ' && (i + 1 == s.n || is_wsp(s.p[i + 1]) || s.p[i + 1] == '\r'))
            break;
        i++;
    }
    return i;
}

void dkim_body_canon_put(struct dkim_body_canon *c, struct str s) {
    while (s.n > 0) {
        char first = s.p[0];
        if (c->has_cr) {
            c->has_cr = false;
            if (first == '\n') {
                end_line(c);
                s = str_from(s, 1);
                continue;
            }
            put_text(c, STR("\r"));
        }
        if (first == '\r') {
            c->has_cr = true;
            s = str_from(s, 1);
        } else if (is_wsp(first)) {
            c->has_space = true;
            s = str_from(s, 1);
        } else {
            size_t n = plain_run(s);
            put_text(c, str_slice(s, 0, n));
            s = str_from(s, n);
        }
    }
}

void dkim_body_canon_finish(struct dkim_body_canon *c) {
    if (c->has_cr)
        put_text(c, STR("\r"));
    c->has_cr = false;
    /* RFC 6376 3.4.3, 3.4.4: a body that is not empty ends in one CRLF; empty lines at its end, of
     * white space too, are ignored. The last line with text in it is either still open, or its own
     * line end is the first of those held back. */
    if (c->has_text)
        c->sink(c->context, STR("\r\n"));
    c->empty_lines = 0;
    c->has_space = false;
}

/* ---- header --------------------------------------------------------------------------------- */

void dkim_header_canon(struct str field, struct buf *out) {
    ptrdiff_t colon = str_find_char(field, ':');
    size_t name_end = colon < 0 ? field.n : (size_t)colon;
    for (size_t i = 0; i < name_end; i++) {
        if (!is_wsp(field.p[i]) && field.p[i] != '\r' && field.p[i] != '\n')
            buf_putc(out, ascii_lower(field.p[i]));
    }
    buf_putc(out, ':');
    bool has_text = false, has_space = false;
    size_t i = name_end + 1;
    while (i < field.n) {
        char c = field.p[i];
        if (c == '\r' || c == '\n' || is_wsp(c)) {
            has_space |= is_wsp(c); /* unfolding: the white space that follows stays */
            i++;
            continue;
        }
        size_t from = i;
        while (i < field.n && !is_wsp(field.p[i]) && field.p[i] != '\r' && field.p[i] != '\n')
            i++;
        if (has_space && has_text)
            buf_putc(out, ' ');
        has_space = false;
        has_text = true;
        buf_put(out, str_slice(field, from, i));
    }
}

bool dkim_next_field(struct str *rest, struct str *field, struct str *name) {
    struct str s = *rest;
    if (s.n == 0 || str_starts_with(s, STR("\r\n")))
        return false;
    size_t end = 0;
    for (;;) {
        const char *lf = memchr(s.p + end, '\n', s.n - end);
        if (lf == NULL) {
            end = s.n;
            break;
        }
        end = (size_t)(lf - s.p) + 1;
        if (lf == s.p || lf[-1] != '\r')
            continue; /* no line end */
        if (end == s.n || !is_wsp(s.p[end]))
            break;
    }
    *field = str_slice(s, 0, end);
    *rest = str_from(s, end);
    ptrdiff_t colon = str_find_char(*field, ':');
    *name = colon < 0 ? STR_NONE : str_trim(str_slice(*field, 0, (size_t)colon));
    return true;
}
