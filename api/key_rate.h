/* key_rate: how many requests a minute each key may make, as token buckets (T32).
 *
 * A key with a rate of N may make N requests at once and then N a minute. The state is in memory:
 * a restart fills every bucket. At most KEY_RATES_MAX keys are remembered; those whose bucket is
 * full are forgotten first, which changes nothing for them.
 *
 *     struct key_rates *rates = key_rates_new();
 *     if (!key_rates_take(rates, &key_id, 60, clock_mono_us(), &left)) ... // 429, left.wait_s
 *
 * Thread: any (locks inside).
 */
#pragma once

#include <stddef.h>

#include "server/base/id.h"

enum { KEY_RATES_MAX = 10000, KEY_RATE_MOST = 1000000, KEY_RATE_WINDOW_S = 60 };

struct key_rate_left {
    int64_t quota;     /* requests a minute; 0: not limited */
    int64_t remaining; /* now */
    int64_t reset_s;   /* until the bucket is full again */
    int64_t wait_s;    /* until the next request is taken, at least 1 when this one was not */
};

struct key_rates;
struct key_rates *key_rates_new(void);
void key_rates_free(struct key_rates **rp);
/* Takes one request of a key that may make `quota` a minute; false: it is too early. */
bool key_rates_take(struct key_rates *r, const struct id *key_id, int64_t quota,
                    int64_t now_mono_us, struct key_rate_left *out);
size_t key_rates_count(struct key_rates *r); /* remembered now; for tests */
