/* rate: a token bucket in the GCRA form (one number of state). Time comes in as an argument.
 * Thread: owner. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

struct rate {
    int64_t interval_us; /* time that one unit costs; 0 = unlimited */
    int64_t burst_us;    /* how far ahead the bucket may run */
    int64_t tat_us;      /* theoretical arrival time */
};

/* per_period units each period_ms, bursts of `burst` units (at least 1). per_period 0 = unlimited.
 */
void rate_init(struct rate *r, uint64_t per_period, int64_t period_ms, uint64_t burst);
/* Takes `units` if allowed. Otherwise takes nothing and *wait_us says how long until it will be (0
 * when taken). More units than the burst are allowed once the bucket is full; what comes after them
 * waits until they are paid off. Times are not negative. */
bool rate_take(struct rate *r, int64_t now_mono_us, uint64_t units, int64_t *wait_us);
