/* limit: one ceiling on concurrency and rate, as a route, a site or the whole server has one.
 *
 * When a limit refuses, it says until when: the queue is parked until that moment, not each
 * message. Pure; time comes in. Thread: owner.
 */
#pragma once

#include "server/base/rate.h"

struct limit {
    unsigned concurrency; /* 0: none */
    unsigned in_use;
    struct rate rate;
};

void limit_init(struct limit *l, unsigned concurrency, unsigned rate_per_s);
/* Another rate from now on; what was taken stays taken. */
void limit_set_rate(struct limit *l, unsigned rate_per_s);
bool limit_has_rate(const struct limit *l);       /* is there one at all? */
unsigned limit_per_second(const struct limit *l); /* at least 1; only when there is a rate */
/* Is a slot free, concurrency alone? */
bool limit_has_room(const struct limit *l);
/* Takes one slot and `units` of the rate. False: nothing was taken, and *wait_us says when the rate
 * allows it; 0: when a slot is given back. */
bool limit_take(struct limit *l, int64_t now_mono_us, uint64_t units, int64_t *wait_us);
void limit_give(struct limit *l);
