/* clock: the two times. Wall time (ms since 1970 UTC) is what people and the store see and may
 * jump; monotonic time never jumps, has no date, and measures delays. They never share a variable
 * name (`_wall_ms`, `_mono_ms`). Pure code takes times as arguments; only loops and threads ask
 * here. Thread: any. */
#pragma once

#include "server/base/str.h"

int64_t clock_wall_ms(void);
int64_t clock_mono_ms(void);
int64_t clock_mono_us(void);
int64_t clock_boot_ms(void); /* monotonic, and goes on while the machine sleeps */

enum { CLOCK_RFC3339_SIZE = 25 };
/* The last that prints: 9999-12-31T23:59:59.999Z. */
#define CLOCK_LAST_WALL_MS INT64_C(253402300799999)
/* "2026-01-31T12:00:00.123Z" plus NUL (RFC 3339 5.6). 0..CLOCK_LAST_WALL_MS; ASSERTs otherwise. */
void clock_print_rfc3339(int64_t wall_ms, char out[CLOCK_RFC3339_SIZE]);
/* The last `digits` decimal digits of `value`, which is not negative, without a NUL: where they
 * end. */
char *clock_put_digits(char *p, int value, int digits);
/* Date-time with offset or Z, fraction optional (cut to milliseconds); ERR_INVALID otherwise and
 * outside of the years 1970..9999 in UTC, so that what was parsed can be printed. */
NODISCARD enum err clock_parse_rfc3339(struct str s, int64_t *wall_ms);

struct civil_time {
    int year, month, day, hour, minute, second, weekday; /* month 1..12, weekday 0 = Sunday */
};
struct civil_time clock_civil(int64_t wall_ms); /* UTC */
