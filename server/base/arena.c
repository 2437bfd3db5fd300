#include "server/base/arena.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

enum { FIRST_BLOCK_BYTES = 4096, LARGEST_BLOCK_BYTES = 64 * 1024 };

/* Blocks are a stack, and the newest is the one being filled. The first, at the bottom, stays when
 * the arena is cleared. */
struct block {
    struct block *below;
    size_t room, used;
    _Alignas(max_align_t) char bytes[];
};

struct arena {
    struct block *top;
    size_t size;       /* bytes handed out */
    size_t next_block; /* usual size of the next block */
};

static size_t block_bytes(size_t room) {
    ASSERT(room <= SIZE_MAX - sizeof(struct block));
    return sizeof(struct block) + room;
}

static struct block *block_begin(struct block *b, struct block *below, size_t room) {
    *b = (struct block){.below = below, .room = room};
    return b;
}

static struct block *block_new(struct block *below, size_t room) {
    return block_begin(mem_regrow(NULL, 1, block_bytes(room)), below, room);
}

struct arena *arena_new(void) {
    struct arena *a = mem_zalloc(sizeof(*a));
    a->top = block_new(NULL, FIRST_BLOCK_BYTES - sizeof(struct block));
    a->next_block = (size_t)FIRST_BLOCK_BYTES * 2;
    return a;
}

void arena_free(struct arena **ap) {
    struct arena *a = *ap;
    if (a == NULL)
        return;
    for (struct block *b = a->top, *below; b != NULL; b = below) {
        below = b->below;
        free(b);
    }
    free(a);
    *ap = NULL;
}

void arena_free_secret(struct arena **ap) {
    for (struct block *b = *ap ? (*ap)->top : NULL; b != NULL; b = b->below)
        explicit_bzero(b->bytes, b->used);
    arena_free(ap);
}

void arena_clear(struct arena *a) {
    while (a->top->below != NULL) {
        struct block *b = a->top;
        a->top = b->below;
        free(b);
    }
    a->top->used = 0;
    a->size = 0;
    a->next_block = (size_t)FIRST_BLOCK_BYTES * 2;
}

/* What n bytes take: two things of no bytes still have two addresses. */
static size_t step_of(size_t n) {
    const size_t align = _Alignof(max_align_t);
    ASSERT(n <= SIZE_MAX - align);
    return n > 0 ? (n + align - 1) / align * align : align;
}

static bool has_room(const struct arena *a, size_t n) {
    return step_of(n) <= a->top->room - a->top->used;
}

static void add_block(struct arena *a, struct block *b) {
    a->top = b;
    if (a->next_block < LARGEST_BLOCK_BYTES)
        a->next_block *= 2;
}

static void *take(struct arena *a, size_t n) {
    size_t step = step_of(n);
    if (!has_room(a, n))
        add_block(a, block_new(a->top, step > a->next_block ? step : a->next_block));
    void *p = a->top->bytes + a->top->used;
    a->top->used += step;
    a->size += n;
    return p;
}

void *arena_alloc(struct arena *a, size_t n) {
    return memset(take(a, n), 0, step_of(n));
}

void *arena_try_alloc(struct arena *a, size_t n) {
    size_t step = step_of(n);
    if (!has_room(a, n) && step > a->next_block) {
        struct block *b = mem_try_zalloc(block_bytes(step)); /* what is large may cost nothing so */
        if (b == NULL)
            return NULL;
        add_block(a, block_begin(b, a->top, step));
        return take(a, n);
    }
    return arena_alloc(a, n);
}

void *arena_alloc_array(struct arena *a, size_t each, size_t count) {
    size_t n;
    ASSERT(!__builtin_mul_overflow(each, count, &n));
    return arena_alloc(a, n);
}

struct str arena_dup(struct arena *a, struct str s) {
    if (str_is_absent(s))
        return STR_NONE;
    return (struct str){arena_dupz(a, s), s.n};
}

char *arena_dupz(struct arena *a, struct str s) {
    ASSERT(s.n < SIZE_MAX);
    char *z = take(a, s.n + 1);
    if (s.n > 0)
        memcpy(z, s.p, s.n);
    z[s.n] = '\0';
    return z;
}

struct str arena_printf(struct arena *a, const char *fmt, ...) {
    /* what has room in the newest block is printed once */
    size_t left = a->top->room - a->top->used;
    char *place = a->top->bytes + a->top->used;
    va_list args;
    va_start(args, fmt);
    int n = vsnprintf(left > 0 ? place : NULL, left, fmt, args);
    va_end(args);
    ASSERT(n >= 0);
    if (has_room(a, (size_t)n + 1))
        return (struct str){take(a, (size_t)n + 1), (size_t)n};
    explicit_bzero(place, left); /* a part of it, which may be secret, and belongs to nobody */
    char *z = take(a, (size_t)n + 1);
    va_start(args, fmt);
    vsnprintf(z, (size_t)n + 1, fmt, args);
    va_end(args);
    return (struct str){z, (size_t)n};
}

size_t arena_size(const struct arena *a) {
    return a->size;
}
