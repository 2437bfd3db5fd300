/* buf: a growing byte buffer with a ceiling.
 *
 * Every buffer whose size an outsider influences is one of these. The first write that would pass
 * the ceiling puts the buffer into its failed state: it keeps what it has, ignores further writes,
 * and buf_status() says ERR_LIMIT. So a writer puts away and asks once, at the end. The same when
 * there is no memory for a large buffer: ERR_UNAVAILABLE, and mem_is_short(). (For a small one, of
 * up to BUF_SMALL, the process ends: see mem_zalloc().)
 *
 *     struct buf b = BUF_INIT(64 * 1024);
 *     buf_put(&b, STR("Subject: "));
 *     buf_put(&b, subject);
 *     if (buf_status(&b) != OK) ...
 *     buf_release(&b);
 *
 * Thread: owner.
 */
#pragma once

#include "server/base/str.h"

struct buf {
    char *p; /* NUL-terminated whenever non-NULL; the NUL is not counted */
    size_t n;
    size_t room; /* bytes allocated */
    size_t max;  /* ceiling for n */
    bool failed, is_short;
};

enum { BUF_SMALL = 64 * 1024 };

#define BUF_INIT(ceiling) ((struct buf){.max = (ceiling)})

void buf_init(struct buf *b, size_t max);
void buf_release(struct buf *b);        /* frees; usable again with the same ceiling */
void buf_release_secret(struct buf *b); /* wipes, then frees */
void buf_clear(struct buf *b);          /* empty, keeps the memory, leaves the failed state */
NODISCARD enum err buf_status(const struct buf *b);
void buf_put(struct buf *b, struct str s);
void buf_putc(struct buf *b, char c);
void buf_putz(struct buf *b, const char *z);
void buf_printf(struct buf *b, const char *fmt, ...) PRINTF(2, 3);
/* Room for n more bytes without a write: pointer to them, or NULL (and the failed state) at the
 * ceiling. */
char *buf_reserve(struct buf *b, size_t n);
/* n bytes of the reserved room were written and belong to the buffer now; 0, when they turn out not
 * to: who wrote into the room calls it in any case, because the NUL behind the bytes is set here.
 */
void buf_advance(struct buf *b, size_t n);
void buf_truncate(struct buf *b, size_t n);
void buf_consume(struct buf *b, size_t n); /* drops n bytes at the front */
static inline struct str buf_str(const struct buf *b) {
    return str_make(b->p ? b->p : "", b->n);
}
/* Gives back room that is not used; not for secrets, whose copies it would leave behind. */
void buf_fit(struct buf *b);
/* The bytes become the caller's (free()); the buffer is empty afterwards. Never NULL. */
char *buf_take(struct buf *b, size_t *n);
