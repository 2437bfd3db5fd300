#include "server/smtp/transcript.h"

#include <stdarg.h>
#include <stdio.h>

#include "server/base/limits.h"

enum { USUAL = 1024 };
static const char cut_note[] = "(cut)\n";

void transcript_init(struct transcript *t, bool is_on) {
    *t = (struct transcript){.is_on = is_on};
    buf_init(&t->text, LIMIT_TRANSCRIPT);
    if (is_on)
        (void)buf_reserve(&t->text, USUAL);
}

void transcript_release(struct transcript *t) {
    buf_release(&t->text);
}

void transcript_clear(struct transcript *t) {
    buf_clear(&t->text);
    t->is_cut = false;
}

static void put_line(struct transcript *t, const char *who, struct str line) {
    if (!t->is_on || t->is_cut)
        return;
    size_t with_line = t->text.n + strlen(who) + line.n + 1;
    if (with_line + sizeof(cut_note) > LIMIT_TRANSCRIPT) {
        buf_putz(&t->text, cut_note);
        t->is_cut = true;
        return;
    }
    buf_putz(&t->text, who);
    buf_put(&t->text, line);
    buf_putc(&t->text, '\n');
}

void transcript_client(struct transcript *t, struct str lines) {
    while (lines.n > 0) {
        ptrdiff_t lf = str_find_char(lines, '\n');
        struct str line = str_slice(lines, 0, lf < 0 ? lines.n : (size_t)lf);
        lines = str_from(lines, lf < 0 ? lines.n : (size_t)lf + 1);
        put_line(t, "C: ", str_trim(line));
    }
}

void transcript_server(struct transcript *t, const struct reply *r) {
    if (!t->is_on)
        return;
    char enhanced[16];
    enhanced_code_print(r->enhanced, enhanced);
    size_t n = strnlen(enhanced, sizeof(enhanced));
    struct str rest = r->text;
    while (!str_is_absent(rest)) {
        struct str line = str_split(&rest, '\n');
        char head[32] = "S: ";
        char *p = head + 3;
        *p++ = (char)('0' + r->code / 100 % 10);
        *p++ = (char)('0' + r->code / 10 % 10);
        *p++ = (char)('0' + r->code % 10);
        *p++ = str_is_absent(rest) ? ' ' : '-';
        memcpy(p, enhanced, n);
        p += n;
        if (n > 0 && line.n > 0)
            *p++ = ' ';
        *p = '\0';
        put_line(t, head, line);
    }
}

void transcript_note(struct transcript *t, const char *fmt, ...) {
    if (!t->is_on)
        return;
    char text[256] = "(";
    va_list args;
    va_start(args, fmt);
    vsnprintf(text + 1, sizeof(text) - 2, fmt, args);
    va_end(args);
    size_t n = strlen(text);
    text[n++] = ')';
    put_line(t, "C: ", str_make(text, n));
}

struct str transcript_text(const struct transcript *t) {
    return buf_str(&t->text);
}
