#include "server/delivery/limit.h"

#include "server/base/err.h"

/* A tenth of a second's worth may go at once, so that the timer need not fire per message. */
static struct rate make_rate(unsigned rate_per_s) {
    struct rate rate;
    rate_init(&rate, rate_per_s, 1000, rate_per_s >= 10 ? rate_per_s / 10 : 1);
    return rate;
}

void limit_init(struct limit *l, unsigned concurrency, unsigned rate_per_s) {
    l->concurrency = concurrency;
    l->in_use = 0;
    l->rate = make_rate(rate_per_s);
}

void limit_set_rate(struct limit *l, unsigned rate_per_s) {
    struct rate rate = make_rate(rate_per_s);
    rate.tat_us = l->rate.tat_us;
    l->rate = rate;
}

bool limit_has_rate(const struct limit *l) {
    return l->rate.interval_us > 0;
}

unsigned limit_per_second(const struct limit *l) {
    enum { SECOND_US = 1000000 };
    return l->rate.interval_us < SECOND_US ? (unsigned)(SECOND_US / l->rate.interval_us) : 1;
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
