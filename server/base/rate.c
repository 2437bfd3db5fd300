#include "server/base/rate.h"

#include "server/base/err.h"

static int64_t times_saturating(uint64_t n, int64_t us) {
    int64_t product;
    return __builtin_mul_overflow(n, us, &product) ? INT64_MAX : product;
}

static int64_t plus_saturating(int64_t a, int64_t b) {
    int64_t sum;
    return __builtin_add_overflow(a, b, &sum) ? INT64_MAX : sum;
}

void rate_init(struct rate *r, uint64_t per_period, int64_t period_ms, uint64_t burst) {
    ASSERT(period_ms > 0);
    *r = (struct rate){.tat_us = INT64_MIN};
    if (per_period == 0)
        return;
    /* Rounded up: a limit is a promise to a receiver, and never exceeded. */
    uint64_t period_us = (uint64_t)times_saturating((uint64_t)period_ms, 1000);
    uint64_t interval_us = period_us / per_period + (period_us % per_period != 0);
    r->interval_us = (int64_t)interval_us;
    r->burst_us = times_saturating(burst > 0 ? burst : 1, r->interval_us);
}

bool rate_take(struct rate *r, int64_t now_mono_us, uint64_t units, int64_t *wait_us) {
    *wait_us = 0;
    if (r->interval_us == 0 || units == 0)
        return true;
    int64_t begin = r->tat_us > now_mono_us ? r->tat_us : now_mono_us;
    int64_t cost = times_saturating(units, r->interval_us);
    /* What costs more than a full bucket goes when the bucket is full, and is paid off after. */
    int64_t allowed = cost < r->burst_us ? r->burst_us - cost : 0;
    int64_t ahead = begin - now_mono_us;
    if (ahead > allowed) {
        *wait_us = ahead - allowed;
        return false;
    }
    r->tat_us = plus_saturating(begin, cost);
    return true;
}
