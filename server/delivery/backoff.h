/* backoff: when a deferred recipient is tried again. Pure. Thread: any. */
#pragma once

#include <stddef.h>
#include <stdint.h>

struct backoff {
    const int64_t *step_ms; /* delay after attempt 1, 2, ... */
    size_t count;
    int64_t then_ms;         /* after that */
    unsigned jitter_percent; /* 0..50 */
};

/* Delay after the attempt number `attempt` (1: the first), moved by up to jitter_percent either way
 * as `random` (any number) says, so that what failed together does not come back together. */
int64_t backoff_delay_ms(const struct backoff *b, int attempt, uint64_t random);
