#include "server/base/err.h"

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char *const err_names[] = {
    [OK] = "ok",
    [ERR_INVALID] = "invalid",
    [ERR_LIMIT] = "limit",
    [ERR_NOT_FOUND] = "not_found",
    [ERR_CONFLICT] = "conflict",
    [ERR_AGAIN] = "again",
    [ERR_UNAVAILABLE] = "unavailable",
    [ERR_INTERNAL] = "internal",
};
_Static_assert(sizeof(err_names) / sizeof(err_names[0]) == ERR_COUNT, "every error has a name");

const char *err_name(enum err e) {
    return (unsigned)e < ERR_COUNT ? err_names[e] : "unknown";
}

enum err err_set(struct errinfo *info, enum err e, const char *field, const char *fmt, ...) {
    if (info == NULL)
        return e;
    /* The arguments may point into `info` itself, when a caller adds context to what it got. */
    struct errinfo made;
    snprintf(made.field, sizeof(made.field), "%s", field ? field : "");
    va_list args;
    va_start(args, fmt);
    if (vsnprintf(made.text, sizeof(made.text), fmt, args) < 0)
        made.text[0] = '\0';
    va_end(args);
    memcpy(info->field, made.field, strlen(made.field) + 1);
    memcpy(info->text, made.text, strlen(made.text) + 1);
    return e;
}

_Noreturn void err_assert_failed(const char *cond, const char *file, int line) {
    fprintf(stderr, "postchute: %s:%d: broken promise: %s\n", file, line, cond);
    abort();
}

_Noreturn void err_out_of_memory(const char *what, size_t n) {
    if (n > 0)
        fprintf(stderr, "postchute: out of memory: %s, %zu bytes\n", what, n);
    else
        fprintf(stderr, "postchute: out of memory: %s\n", what);
    _exit(ERR_EXIT_MEMORY); /* nothing is tidied up: that would need memory, and takes locks */
}

void *mem_zalloc(size_t n) {
    void *p = calloc(1, n ? n : 1);
    if (p == NULL)
        err_out_of_memory("something small", n);
    return p;
}

void *mem_dup(const void *p, size_t n) {
    void *copy = malloc(n ? n : 1);
    if (copy == NULL)
        err_out_of_memory("a small copy", n);
    if (n > 0)
        memcpy(copy, p, n);
    return copy;
}

void *mem_regrow(void *old, size_t each, size_t count) {
    size_t n;
    void *p = __builtin_mul_overflow(each, count, &n) ? NULL : realloc(old, n);
    if (p == NULL)
        err_out_of_memory("a list", count);
    return p;
}

static _Thread_local bool is_short;

void mem_note_short(void) {
    is_short = true;
}

bool mem_is_short(void) {
    return is_short;
}

void mem_forget_short(void) {
    is_short = false;
}

void *mem_try_zalloc(size_t n) {
    void *p = calloc(1, n ? n : 1);
    if (p == NULL)
        is_short = true;
    return p;
}

void *mem_noting_malloc(size_t n) {
    void *p = malloc(n);
    if (p == NULL)
        is_short = true;
    return p;
}
