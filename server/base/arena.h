/* arena: memory that ends all at once, with its request or its job.
 *
 * Nothing taken from an arena is freed by itself, and nothing in it outlives it. Allocation
 * succeeds or aborts; sizes chosen by an outsider are checked against a limit before they come
 * here. Thread: owner.
 */
#pragma once

#include "server/base/str.h"

struct arena;

struct arena *arena_new(void);
void arena_free(struct arena **ap);
/* Wipes first all that was handed out since it was new: not for one that was cleared. */
void arena_free_secret(struct arena **ap);
void arena_clear(struct arena *a); /* empty, keeps its first block */
void *arena_alloc(struct arena *a, size_t n)
    __attribute__((malloc, returns_nonnull)); /* zeroed, aligned for any type */
/* The same for a size that an outsider chose: NULL: there is not so much, and mem_is_short(). */
void *arena_try_alloc(struct arena *a, size_t n) __attribute__((malloc));
void *arena_alloc_array(struct arena *a, size_t each, size_t count)
    __attribute__((malloc, returns_nonnull)); /* aborts when the product overflows */
struct str arena_dup(struct arena *a,
                     struct str s);              /* a NUL follows the copy; absent stays absent */
char *arena_dupz(struct arena *a, struct str s); /* NUL-terminated */
struct str arena_printf(struct arena *a, const char *fmt, ...) PRINTF(2, 3);
size_t arena_size(const struct arena *a); /* bytes handed out */

#define ARENA_NEW(a, type) ((type *)arena_alloc((a), sizeof(type)))
#define ARENA_ARRAY(a, type, count) ((type *)arena_alloc_array((a), sizeof(type), (size_t)(count)))
