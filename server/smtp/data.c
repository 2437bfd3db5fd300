#include "server/smtp/data.h"

void data_init(struct data_reader *d) {
    *d = (struct data_reader){.state = DATA_LINE_START};
}

static void keep(struct data_reader *d, struct buf *out, struct str s) {
    if (d->is_too_large || d->is_short)
        return;
    if (out->n + s.n > out->max) {
        d->is_too_large = true;
        return;
    }
    buf_put(out, s);
    d->is_short = buf_status(out) != OK;
}

/* Length of the run that is neither CR, LF nor NUL. */
static size_t plain_run(struct str s) {
    size_t n = s.n;
    const char *hit = memchr(s.p, '\r', n);
    n = hit ? (size_t)(hit - s.p) : n;
    hit = memchr(s.p, '\n', n);
    n = hit ? (size_t)(hit - s.p) : n;
    hit = memchr(s.p, '\0', n);
    return hit ? (size_t)(hit - s.p) : n;
}

enum err data_read(struct data_reader *d, struct str *in, struct buf *out) {
    while (in->n > 0) {
        char c = in->p[0];
        size_t taken = 1;
        switch (d->state) {
        case DATA_LINE_START:
            if (c == '.') {
                d->state = DATA_DOT;
                break;
            }
            d->state = DATA_TEXT;
            continue;
        case DATA_DOT:
            if (c == '\r') {
                d->state = DATA_DOT_CR;
                break;
            }
            d->state = DATA_TEXT; /* the dot was stuffing: dropped */
            continue;
        case DATA_DOT_CR:
            if (c != '\n')
                return ERR_INVALID;
            *in = str_from(*in, 1);
            return OK;
        case DATA_TEXT:
            if (c == '\r') {
                d->state = DATA_CR;
            } else if (c == '\n' || c == '\0') {
                return ERR_INVALID;
            } else {
                taken = plain_run(*in);
                keep(d, out, str_slice(*in, 0, taken));
            }
            break;
        default: /* DATA_CR */
            if (c != '\n')
                return ERR_INVALID;
            keep(d, out, STR("\r\n"));
            d->state = DATA_LINE_START;
            break;
        }
        d->octets += taken;
        *in = str_from(*in, taken);
    }
    return ERR_AGAIN;
}
