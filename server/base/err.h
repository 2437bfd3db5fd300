/* err: what a call can say besides its result.
 *
 * An `enum err` tells the caller what it can do next, never what went wrong inside. What went wrong
 * is text in a `struct errinfo` that the caller owns; it is optional everywhere (NULL is accepted),
 * and filling it never allocates. A remote server's refusal is not an error: it is a `struct
 * verdict` (mail/outcome.h).
 *
 *     struct errinfo info = {0};
 *     if (domain_parse(&d, text, &info) != OK)
 *         fprintf(stderr, "%s: %s\n", info.field, info.text);
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

enum err {
    OK = 0,
    ERR_INVALID,     /* the input is wrong: fix it */
    ERR_LIMIT,       /* a ceiling of base/limits.h or of the settings is reached */
    ERR_NOT_FOUND,   /* there is no such thing */
    ERR_CONFLICT,    /* the state does not allow it, or somebody was first */
    ERR_AGAIN,       /* not now: the same call can succeed later */
    ERR_UNAVAILABLE, /* something that we depend on is down (disk, resolver, peer) */
    ERR_INTERNAL,    /* a defect of ours, or a library that failed without a reason */
    ERR_COUNT
};

#define NODISCARD __attribute__((warn_unused_result))
#define PRINTF(fmt, args) __attribute__((format(printf, fmt, args)))

/* What went wrong, for people. `field` names the input (a setting, a JSON pointer) and may be
 * empty. Both are NUL-terminated and cut when too long. Thread: owner. */
struct errinfo {
    char field[128];
    char text[384];
};

/* Short lower-case name of an error, e.g. "not_found". Static storage. */
const char *err_name(enum err e);

/* Fills `info` (may be NULL) and returns `e`, so that a failure is one line:
 * `return err_set(info, ERR_INVALID, "port", "%ld is not a port", v);` */
enum err err_set(struct errinfo *info, enum err e, const char *field, const char *fmt, ...)
    PRINTF(4, 5);

/* A broken promise between our own parts; always on, never for input or I/O. Prints the place and
 * aborts. */
#define ASSERT(cond) ((cond) ? (void)0 : err_assert_failed(#cond, __FILE__, __LINE__))
_Noreturn void err_assert_failed(const char *cond, const char *file, int line);

/* Memory for small bounded things: succeeds, or ends the process with a reason and ERR_EXIT_MEMORY
 * (the outbox makes that safe, and whoever supervises us starts us again). Sizes that an outsider
 * chooses go through buf with a ceiling, or mem_try_zalloc(), instead. */
void *mem_zalloc(size_t n) __attribute__((malloc, returns_nonnull));
void *mem_dup(const void *p, size_t n) __attribute__((malloc, returns_nonnull));
/* realloc() of an array; `old` may be NULL. What is new is not zero. */
void *mem_regrow(void *old, size_t each, size_t count) __attribute__((returns_nonnull));

/* The same for what a library makes for us: small, of bounded size, and failing only for want of
 * memory or of descriptors. `cond` says that it succeeded. */
#define NEED(cond) ((cond) ? (void)0 : err_out_of_memory(#cond, 0))
enum { ERR_EXIT_MEMORY = 71 }; /* EX_OSERR of sysexits.h */
_Noreturn void err_out_of_memory(const char *what, size_t n);

/* Zeroed; NULL: there is not so much, and mem_is_short() says so. */
void *mem_try_zalloc(size_t n) __attribute__((malloc));

/* That memory was refused to this thread since mem_forget_short(). For what is built of many pieces
 * by a library that only leaves out the pieces it got no memory for: whoever uses the whole asks
 * once, at its end, and says "not now" instead. */
bool mem_is_short(void);
void mem_note_short(void);
void mem_forget_short(void);
/* malloc() that notes it; for json_set_alloc_funcs(). */
void *mem_noting_malloc(size_t n);
