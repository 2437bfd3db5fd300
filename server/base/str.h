/* str: text as pointer and length; not owned, not NUL-terminated, may hold any byte.
 *
 * A `struct str` borrows: whoever gives one out says in its header how long it lives. `{NULL, 0}`
 * is the absent string; an empty but present one has a non-NULL pointer.
 *
 *     struct str s = STR("Example.ORG");
 *     if (str_ends_with_nocase(s, STR(".org"))) ...
 *     printf("%.*s\n", STR_ARG(s));
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "server/base/err.h"

struct str {
    const char *p;
    size_t n;
};

#define STR(literal) ((struct str){("" literal), sizeof(literal) - 1})
#define STR_NONE ((struct str){NULL, 0})
#define STR_ARG(s) (int)(s).n, (s).p ? (s).p : ""

static inline struct str str_of(const char *z) {
    return (struct str){z, z ? strlen(z) : 0};
}
static inline struct str str_make(const void *p, size_t n) {
    return (struct str){p, n};
}
static inline bool str_is_absent(struct str s) {
    return s.p == NULL;
}
static inline bool str_is_empty(struct str s) {
    return s.n == 0;
}

bool str_equal(struct str a, struct str b);
bool str_equal_nocase(struct str a, struct str b); /* ASCII only */
int str_compare(struct str a, struct str b);       /* bytes, shorter first */
bool str_starts_with(struct str s, struct str prefix);
bool str_starts_with_nocase(struct str s, struct str prefix);
bool str_ends_with(struct str s, struct str suffix);
bool str_ends_with_nocase(struct str s, struct str suffix);
/* Position of the first `c`, or -1. */
ptrdiff_t str_find_char(struct str s, char c);
/* Position of the first `needle`, or -1; an empty needle is found at 0. */
ptrdiff_t str_find(struct str s, struct str needle);
struct str str_slice(struct str s, size_t from, size_t to); /* ASSERTs from <= to <= n */
struct str str_from(struct str s, size_t from);
/* Without leading and trailing space, TAB, CR and LF. */
struct str str_trim(struct str s);
/* Cuts off and returns what stands before the first `sep`; *rest becomes what follows it, or absent
 * when there was no separator: loop `while (!str_is_absent(rest))`. */
struct str str_split(struct str *rest, char sep);
/* Decimal digits only, no sign, no space, value in 0..max; ERR_INVALID otherwise. */
NODISCARD enum err str_parse_u64(struct str s, uint64_t max, uint64_t *out);
/* True when the bytes are well-formed UTF-8 (no overlong form, no surrogate, at most U+10FFFF). */
bool str_is_utf8(struct str s);
/* Length (1..4) of the well-formed UTF-8 character that `s` begins with; 0 when it begins with none
 * or is empty. */
size_t str_utf8_length(struct str s);
bool str_is_ascii(struct str s);
/* True when a CR, LF, NUL, other C0 (but TAB when allow_tab), DEL or a C1 control (U+0080..U+009F)
 * is in it. */
bool str_has_control(struct str s, bool allow_tab);
/* A NUL-terminated copy that the caller frees with free(). */
char *str_dupz(struct str s);
char ascii_lower(char c);
bool ascii_is_alnum(char c);
bool ascii_is_digit(char c);
