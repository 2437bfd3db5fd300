#include "server/base/buf.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

enum { FIRST_ROOM = 64, WIPED_ROOM = BUF_SMALL };

void buf_init(struct buf *b, size_t max) {
    *b = BUF_INIT(max);
}

void buf_release(struct buf *b) {
    free(b->p);
    *b = BUF_INIT(b->max);
}

void buf_release_secret(struct buf *b) {
    if (b->p != NULL)
        explicit_bzero(b->p, b->room);
    buf_release(b);
}

void buf_clear(struct buf *b) {
    b->n = 0;
    b->failed = b->is_short = false;
    if (b->p != NULL)
        b->p[0] = '\0';
}

enum err buf_status(const struct buf *b) {
    return b->is_short ? ERR_UNAVAILABLE : b->failed ? ERR_LIMIT : OK;
}

/* Moves the bytes to a larger place. A secret may be among them, so the old place is wiped; secrets
 * are small, and what is large may move by realloc(), which then copies no page. */
static char *move(const struct buf *b, size_t room) {
    if (b->room >= WIPED_ROOM)
        return realloc(b->p, room);
    char *p = malloc(room);
    if (p == NULL)
        return NULL;
    if (b->p != NULL) {
        memcpy(p, b->p, b->n + 1);
        explicit_bzero(b->p, b->room);
        free(b->p);
    }
    return p;
}

/* Makes room for n more bytes and their NUL. */
static bool make_room(struct buf *b, size_t n) {
    if (b->failed)
        return false;
    size_t need; /* with the NUL */
    if (__builtin_add_overflow(b->n, n, &need) || need > b->max || need == SIZE_MAX) {
        b->failed = true;
        return false;
    }
    need++;
    if (need <= b->room)
        return true;
    /* who knows the size in advance gets it without slack */
    size_t room = b->room ? b->room : need > FIRST_ROOM ? need : FIRST_ROOM;
    while (room < need)
        room = room > SIZE_MAX / 2 ? need : room * 2;
    if (room - 1 > b->max)
        room = b->max + 1;
    char *p = move(b, room);
    if (p == NULL) {
        if (room <= BUF_SMALL)
            err_out_of_memory("a small buffer", room);
        /* An outsider chose this size: his request fails, not the process. */
        mem_note_short();
        b->failed = b->is_short = true;
        return false;
    }
    p[b->n] = '\0';
    b->p = p;
    b->room = room;
    return true;
}

void buf_put(struct buf *b, struct str s) {
    /* A piece of the buffer itself may be appended to it: it is found again after a move. */
    bool inside = b->p != NULL && s.p >= b->p && s.p < b->p + b->room;
    size_t offset = inside ? (size_t)(s.p - b->p) : 0;
    if (!make_room(b, s.n))
        return;
    if (s.n > 0)
        memmove(b->p + b->n, inside ? b->p + offset : s.p, s.n);
    b->n += s.n;
    b->p[b->n] = '\0';
}

void buf_putc(struct buf *b, char c) {
    if (!make_room(b, 1))
        return;
    b->p[b->n++] = c;
    b->p[b->n] = '\0';
}

void buf_putz(struct buf *b, const char *z) {
    buf_put(b, str_of(z));
}

void buf_printf(struct buf *b, const char *fmt, ...) {
    if (b->failed)
        return;
    /* most of what is printed has room already: then it is printed once */
    size_t left = b->room > b->n ? b->room - b->n : 0;
    char *place = left > 0 ? b->p + b->n : NULL;
    va_list args;
    va_start(args, fmt);
    int n = vsnprintf(place, left, fmt, args);
    va_end(args);
    if (n >= 0 && (size_t)n < left) {
        b->n += (size_t)n;
        return;
    }
    if (place != NULL)
        *place = '\0';
    if (n < 0) { /* longer than an int can say */
        b->failed = true;
        return;
    }
    if (!make_room(b, (size_t)n))
        return;
    va_start(args, fmt);
    vsnprintf(b->p + b->n, (size_t)n + 1, fmt, args);
    va_end(args);
    b->n += (size_t)n;
}

char *buf_reserve(struct buf *b, size_t n) {
    return make_room(b, n) ? b->p + b->n : NULL;
}

void buf_advance(struct buf *b, size_t n) {
    if (n == 0 && b->p == NULL)
        return;
    ASSERT(b->room > b->n && n <= b->room - b->n - 1);
    b->n += n;
    b->p[b->n] = '\0';
}

void buf_truncate(struct buf *b, size_t n) {
    ASSERT(n <= b->n);
    b->n = n;
    if (b->p != NULL)
        b->p[n] = '\0';
}

void buf_consume(struct buf *b, size_t n) {
    ASSERT(n <= b->n);
    if (n == 0)
        return;
    b->n -= n;
    memmove(b->p, b->p + n, b->n + 1);
}

void buf_fit(struct buf *b) {
    if (b->p == NULL || b->room - b->n < b->n / 8 + FIRST_ROOM)
        return;
    char *p = realloc(b->p, b->n + 1);
    if (p == NULL)
        return;
    b->p = p;
    b->room = b->n + 1;
}

char *buf_take(struct buf *b, size_t *n) {
    char *p = b->p ? b->p : mem_zalloc(1);
    if (n != NULL)
        *n = b->n;
    *b = BUF_INIT(b->max);
    return p;
}
