/* doubt: the wall clock for decisions that nobody can take back: what expires, what is removed.
 *
 * A wall clock jumps when it is set: a machine without a clock of its own begins in 1970 and learns
 * the time later, somebody types a wrong year. A jump ahead is not believed for DOUBT_MS: until
 * then time goes on from where it was, so that a clock that is put right again has done no harm.
 * What is slewed, and what a machine slept, is no jump.
 *
 *     struct doubt d = {0};
 *     struct doubt_view v;
 *     doubt_look(&d, clock_wall_ms(), clock_boot_ms(), &v);   // each second
 *     expire(v.wall_ms);
 *     if (v.is_settled) mend(v.wall_ms);
 *
 * Pure. Thread: owner.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

enum {
    /* within DOUBT_OVER_MS, however often it is looked: less is slewing, or our own slowness */
    DOUBT_JUMP_MS = 60 * 1000,
    DOUBT_OVER_MS = 3000,
    DOUBT_MS = 60 * 60 * 1000,
};

struct doubt {
    bool is_begun;
    int64_t offset_ms;     /* wall minus boot, at `boot_ms` */
    int64_t boot_ms;       /* of the last jump, or of a look DOUBT_OVER_MS ago and less */
    int64_t ahead_ms;      /* what is not believed yet */
    int64_t until_boot_ms; /* then it is */
};

struct doubt_view {
    int64_t wall_ms;   /* the time to go by */
    int64_t jumped_ms; /* since the last look; 0: it did not */
    bool is_settled;   /* no jump, in either direction, for DOUBT_MS; nor a start */
};

void doubt_look(struct doubt *d, int64_t wall_ms, int64_t boot_ms, struct doubt_view *out);
