#include "server/delivery/backoff.h"

int64_t backoff_delay_ms(const struct backoff *b, int attempt, uint64_t random) {
    size_t step = attempt > 1 ? (size_t)attempt - 1 : 0;
    int64_t delay_ms = step < b->count ? b->step_ms[step] : b->then_ms;
    int64_t jitter_ms = delay_ms / 100 * b->jitter_percent;
    if (jitter_ms == 0)
        return delay_ms;
    return delay_ms - jitter_ms + (int64_t)(random % (uint64_t)(2 * jitter_ms + 1));
}
