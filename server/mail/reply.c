#include "server/mail/reply.h"

#include <stdio.h>
#include <string.h>

#include "server/base/limits.h"

struct reply_parser {
    struct buf line; /* an unfinished line, kept over calls */
    struct buf text;
    int code; /* of the lines so far, 0 before the first */
    size_t line_count;
    size_t byte_count;
    struct enhanced_code enhanced;
    bool is_complete; /* the reply was given out: the next call begins a new one */
    bool is_broken;   /* not SMTP: stays so */
};

struct reply_parser *reply_parser_new(void) {
    struct reply_parser *p = mem_zalloc(sizeof(*p));
    buf_init(&p->line, LIMIT_REPLY_LINE);
    buf_init(&p->text, LIMIT_REPLY);
    return p;
}

void reply_parser_free(struct reply_parser **pp) {
    struct reply_parser *p = *pp;
    if (p) {
        buf_release(&p->line);
        buf_release(&p->text);
        free(p);
    }
    *pp = NULL;
}

static void reset(struct reply_parser *p) {
    buf_clear(&p->line);
    buf_clear(&p->text);
    p->code = 0;
    p->line_count = 0;
    p->byte_count = 0;
    p->enhanced = (struct enhanced_code){0};
    p->is_complete = false;
}

/* Length of the well-formed UTF-8 sequence at the front of s that is no C1 control; 0: none. */
static size_t utf8_length(struct str s) {
    unsigned char c = (unsigned char)s.p[0];
    size_t n = c < 0x80                ? 1
               : c >= 0xc2 && c < 0xe0 ? 2
               : c >= 0xe0 && c < 0xf0 ? 3
               : c >= 0xf0 && c < 0xf5 ? 4
                                       : 0;
    if (n == 0 || n > s.n || !str_is_utf8(str_make(s.p, n)) ||
        str_has_control(str_make(s.p, n), false))
        return 0;
    return n;
}

/* Foreign words end up in rows, logs and pages: what is no text becomes '?', a TAB a space. */
static void put_clean(struct buf *out, struct str s) {
    while (s.n > 0) {
        size_t plain = 0;
        while (plain < s.n && s.p[plain] >= 0x20 && s.p[plain] < 0x7f)
            plain++;
        buf_put(out, str_slice(s, 0, plain));
        s = str_from(s, plain);
        if (s.n == 0)
            break;
        size_t n = utf8_length(s);
        if (n > 0)
            buf_put(out, str_slice(s, 0, n));
        else
            buf_putc(out, s.p[0] == '\t' ? ' ' : '?');
        s = str_from(s, n > 0 ? n : 1);
    }
}

/* Reads "5.7.1" at the front; returns its length, 0 when there is none. */
static size_t enhanced_scan(struct str text, struct enhanced_code *out) {
    uint16_t part[3] = {0};
    size_t at = 0;
    for (size_t i = 0; i < 3; i++) {
        size_t digits = 0;
        unsigned value = 0;
        while (at < text.n && ascii_is_digit(text.p[at]) && digits < 3) {
            value = value * 10 + (unsigned)(text.p[at] - '0');
            at++;
            digits++;
        }
        if (digits == 0 || (i == 0 && digits != 1))
            return 0;
        part[i] = (uint16_t)value;
        if (i < 2) {
            if (at >= text.n || text.p[at] != '.')
                return 0;
            at++;
        }
    }
    if (at < text.n && text.p[at] != ' ' && text.p[at] != '\t')
        return 0;
    *out = (struct enhanced_code){part[0], part[1], part[2]};
    return at;
}

struct enhanced_code enhanced_code_parse(struct str text, int reply_code) {
    struct enhanced_code e = {0};
    size_t n = enhanced_scan(text, &e);
    bool is_class = e.class_ == 2 || e.class_ == 4 || e.class_ == 5;
    if (n == 0 || !is_class || e.class_ != reply_code / 100)
        return (struct enhanced_code){0};
    return e;
}

void enhanced_code_print(struct enhanced_code e, char out[16]) {
    out[0] = '\0';
    if (e.class_ != 0)
        snprintf(out, 16, "%u.%u.%u", e.class_ % 10u, e.subject % 1000u, e.detail % 1000u);
}

static bool same_enhanced(struct enhanced_code a, struct enhanced_code b) {
    return a.class_ == b.class_ && a.subject == b.subject && a.detail == b.detail;
}

/* One line without its line end. OK: it was the last of the reply; ERR_AGAIN: more follow. */
static enum err take_line(struct reply_parser *p, struct str line, struct errinfo *info) {
    if (line.n < 3 || !ascii_is_digit(line.p[0]) || !ascii_is_digit(line.p[1]) ||
        !ascii_is_digit(line.p[2]) || (line.n > 3 && line.p[3] != ' ' && line.p[3] != '-'))
        return err_set(info, ERR_INVALID, "reply", "a line does not begin with a reply code");
    int code = (line.p[0] - '0') * 100 + (line.p[1] - '0') * 10 + (line.p[2] - '0');
    if (code < 200 || code > 599)
        return err_set(info, ERR_INVALID, "reply", "%d is no reply code", code);
    if (p->code != 0 && code != p->code)
        return err_set(info, ERR_INVALID, "reply", "the code changes from %d to %d inside a reply",
                       p->code, code);
    if (++p->line_count > LIMIT_REPLY_LINES)
        return err_set(info, ERR_LIMIT, "reply", "more than %d lines", LIMIT_REPLY_LINES);
    struct str words = str_from(line, line.n > 3 ? 4 : 3);
    struct enhanced_code e = enhanced_code_parse(words, code);
    if (p->code == 0) {
        p->code = code;
        p->enhanced = e;
    } else {
        buf_putc(&p->text, '\n');
    }
    /* servers repeat the enhanced code on each line (RFC 2034 4); it is kept once, as a number */
    if (e.class_ != 0 && same_enhanced(e, p->enhanced)) {
        struct enhanced_code ignored;
        words = str_from(words, enhanced_scan(words, &ignored));
        if (words.n > 0)
            words = str_from(words, 1);
    }
    put_clean(&p->text, words);
    return line.n > 3 && line.p[3] == '-' ? ERR_AGAIN : OK;
}

static enum err feed(struct reply_parser *p, struct str *in, struct errinfo *info) {
    while (in->n > 0) {
        const char *lf = memchr(in->p, '\n', in->n);
        size_t n = lf ? (size_t)(lf - in->p) : in->n;
        p->byte_count += n + (lf ? 1 : 0);
        if (p->line.n + n > LIMIT_REPLY_LINE)
            return err_set(info, ERR_LIMIT, "reply", "a line is longer than %d octets",
                           LIMIT_REPLY_LINE);
        if (p->byte_count > LIMIT_REPLY)
            return err_set(info, ERR_LIMIT, "reply", "longer than %d octets", LIMIT_REPLY);
        buf_put(&p->line, str_slice(*in, 0, n));
        *in = str_from(*in, lf ? n + 1 : n);
        if (!lf)
            return ERR_AGAIN;
        struct str line = buf_str(&p->line);
        if (line.n > 0 && line.p[line.n - 1] == '\r')
            line.n--;
        enum err e = take_line(p, line, info);
        buf_clear(&p->line);
        if (e != ERR_AGAIN)
            return e;
    }
    return ERR_AGAIN;
}

enum err reply_parse(struct reply_parser *p, struct str *in, struct reply *out,
                     struct errinfo *info) {
    if (p->is_broken)
        return err_set(info, ERR_INVALID, "reply", "the connection is out of step");
    if (p->is_complete)
        reset(p);
    enum err e = feed(p, in, info);
    /* '?' for a byte never grows the text, so LIMIT_REPLY bounds it too */
    if (e == OK && buf_status(&p->text) != OK)
        e = err_set(info, ERR_LIMIT, "reply", "longer than %d octets", LIMIT_REPLY);
    if (e != OK) {
        p->is_broken = e != ERR_AGAIN;
        return e;
    }
    p->is_complete = true;
    *out = (struct reply){.code = p->code,
                          .enhanced = p->enhanced,
                          .line_count = p->line_count,
                          .text = buf_str(&p->text)};
    return OK;
}
