#include "server/smtp/body.h"

static enum err refuse(struct errinfo *info, const char *what, size_t line) {
    return err_set(info, ERR_INVALID, "message", "%s in line %zu of the composed message", what,
                   line);
}

/* One line of n octets without its LF (is_ended: there was one). */
static enum err check_line(const char *p, size_t n, bool is_ended, bool *is_8bit, size_t number,
                           struct errinfo *info) {
    const char *cr = memchr(p, '\r', n);
    if (cr && (!is_ended || cr != p + n - 1))
        return refuse(info, "a CR without LF", number);
    if (is_ended && !cr)
        return refuse(info, "an LF without CR", number);
    if (n - (cr ? 1 : 0) > BODY_LINE_MAX)
        return refuse(info, "more than 998 octets", number);
    if (memchr(p, '\0', n))
        return refuse(info, "a NUL", number);
    if (!*is_8bit && !str_is_ascii(str_make(p, n)))
        *is_8bit = true;
    return OK;
}

enum err body_check(struct message_pieces m, bool *is_8bit, struct errinfo *info) {
    /* the prefix is header fields of our own, complete lines, or absent: a line never spans both */
    size_t number = 0;
    *is_8bit = false;
    for (size_t i = 0; i < 2; i++) {
        struct str rest = m.piece[i];
        while (rest.n > 0) {
            const char *lf = memchr(rest.p, '\n', rest.n);
            size_t n = lf ? (size_t)(lf - rest.p) : rest.n;
            if (!lf && i == 0)
                return refuse(info, "an unfinished header field", number + 1);
            enum err e = check_line(rest.p, n, lf != NULL, is_8bit, ++number, info);
            if (e != OK)
                return e;
            rest = str_from(rest, lf ? n + 1 : n);
        }
    }
    return OK;
}

/* The LF of the first line that is followed by one with a dot in front. For needles this short
 * memmem() looks at each octet; memchr() does not. */
static const char *find_dot_line(struct str s) {
    const char *end = s.p + s.n;
    for (const char *p = s.p; (p = memchr(p, '\n', (size_t)(end - p))) != NULL; p++)
        if (p + 1 < end && p[1] == '.')
            return p;
    return NULL;
}

void body_init(struct body *b, struct message_pieces m) {
    *b = (struct body){.pieces = m, .is_line_start = true};
}

bool body_next(struct body *b, size_t max, struct str *out) {
    ASSERT(max >= 8);
    while (b->piece < 2 && b->at == b->pieces.piece[b->piece].n) {
        b->piece++;
        b->at = 0;
    }
    if (b->piece == 2) {
        if (b->is_ended)
            return false;
        b->is_ended = true;
        *out = b->is_line_start ? STR(".\r\n") : STR("\r\n.\r\n");
        return true;
    }
    struct str rest = str_from(b->pieces.piece[b->piece], b->at);
    if (rest.n > max)
        rest.n = max;
    size_t n = rest.n;
    bool stops_at_dot = false;
    if (b->is_line_start && rest.p[0] == '.' && !b->is_dot_doubled) {
        n = 1; /* this dot now, and the same one again at the front of the next run */
        stops_at_dot = true;
    } else {
        const char *hit = find_dot_line(rest);
        if (hit) {
            n = (size_t)(hit - rest.p) + 2;
            stops_at_dot = true;
        }
    }
    *out = str_make(rest.p, n);
    b->is_dot_doubled = stops_at_dot;
    b->at += stops_at_dot ? n - 1 : n;
    b->is_line_start = stops_at_dot || out->p[n - 1] == '\n';
    return true;
}

size_t body_chunk(struct message_pieces m, struct str out[BODY_CHUNK_PIECES]) {
    struct str last = m.piece[m.piece[1].n > 0 ? 1 : 0];
    bool is_ended = last.n == 0 || last.p[last.n - 1] == '\n';
    out[0] = m.piece[0];
    out[1] = m.piece[1];
    out[2] = is_ended ? STR("") : STR("\r\n");
    return out[0].n + out[1].n + out[2].n;
}

static bool is_command(struct str rest) {
    while (rest.n > 0 && strchr(" \t\v\f", rest.p[0]) && rest.p[0])
        rest = str_from(rest, 1);
    struct str verb = str_slice(rest, 0, rest.n < 4 ? rest.n : 4);
    return str_equal_nocase(verb, STR("DATA")) || str_equal_nocase(verb, STR("BDAT"));
}

bool body_has_command(struct message_pieces m) {
    for (size_t i = 0; i < 2; i++) {
        struct str rest = m.piece[i];
        while (rest.n > 0) {
            if (is_command(rest))
                return true;
            const char *lf = memchr(rest.p, '\n', rest.n);
            rest = str_from(rest, lf ? (size_t)(lf - rest.p) + 1 : rest.n);
        }
    }
    return false;
}
