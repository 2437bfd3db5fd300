#include "server/delivery/limit.h"

#include "server/base/err.h"

void limit_init(struct limit *l, unsigned concurrency, unsigned rate_per_s) {
    l->concurrency = concurrency;
    l->in_use = 0;
    /* a tenth of a second's worth may go at once, so that the timer need not fire per message */
    rate_init(&l->rate, rate_per_s, 1000, rate_per_s >= 10 ? rate_per_s / 10 : 1);
}

bool limit_has_room(const struct limit *l) {
    return l->concurrency == 0 || l->in_use < l->concurrency;
}

bool limit_take(struct limit *l, int64_t now_mono_us, uint64_t units, int64_t *wait_us) {
    *wait_us = 0;
    if (!limit_has_room(l) || !rate_take(&l->rate, now_mono_us, units, wait_us))
        return false;
    l->in_use++;
    return true;
}

void limit_give(struct limit *l) {
    ASSERT(l->in_use > 0);
    l->in_use--;
}
