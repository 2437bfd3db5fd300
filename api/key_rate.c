#include "api/key_rate.h"

#include <pthread.h>
#include <stdlib.h>

#include "server/base/err.h"
#include "server/base/rate.h"
#include "server/base/table.h"

struct bucket {
    struct id key_id;
    int64_t tat_us; /* when it will be full again */
    struct table_node in_table;
};

/* Thread: any (locks inside). */
struct key_rates {
    struct {
        pthread_mutex_t mu;
        struct table buckets; /* in the order in which they were made */
    } shared;
};

struct key_rates *key_rates_new(void) {
    struct key_rates *r = mem_zalloc(sizeof(*r));
    NEED(pthread_mutex_init(&r->shared.mu, NULL) == 0);
    return r;
}

static void forget(struct key_rates *r, struct bucket *b) {
    table_remove(&r->shared.buckets, &b->in_table);
    free(b);
}

void key_rates_free(struct key_rates **rp) {
    struct key_rates *r = *rp;
    *rp = NULL;
    if (r == NULL)
        return;
    struct bucket *b;
    while ((b = table_oldest(&r->shared.buckets)) != NULL)
        forget(r, b);
    pthread_mutex_destroy(&r->shared.mu);
    free(r);
}

/* Full buckets say nothing. When there is none, the oldest goes: its key starts anew. */
static void make_room(struct key_rates *r, int64_t now_mono_us) {
    struct bucket *b;
    struct table_cursor c = table_begin(&r->shared.buckets);
    if (table_count(&r->shared.buckets) < KEY_RATES_MAX)
        return;
    while ((b = table_next(&c)) != NULL)
        if (b->tat_us <= now_mono_us)
            forget(r, b);
    if (table_count(&r->shared.buckets) >= KEY_RATES_MAX)
        forget(r, table_oldest(&r->shared.buckets));
}

static struct bucket *bucket_of(struct key_rates *r, const struct id *key_id, int64_t now_mono_us) {
    struct bucket *b = table_find(&r->shared.buckets, key_id, sizeof(*key_id));
    if (b != NULL)
        return b;
    make_room(r, now_mono_us);
    b = mem_zalloc(sizeof(*b));
    b->key_id = *key_id;
    b->tat_us = INT64_MIN;
    table_add(&r->shared.buckets, &b->in_table, &b->key_id, sizeof(b->key_id), b);
    return b;
}

static int64_t seconds_up(int64_t us) {
    return us > 0 ? (us + 999999) / 1000000 : 0;
}

bool key_rates_take(struct key_rates *r, const struct id *key_id, int64_t quota,
                    int64_t now_mono_us, struct key_rate_left *out) {
    struct rate rate;
    int64_t wait_us = 0;
    *out = (struct key_rate_left){.quota = quota};
    if (quota <= 0)
        return true;
    rate_init(&rate, (uint64_t)quota, KEY_RATE_WINDOW_S * 1000, (uint64_t)quota);
    pthread_mutex_lock(&r->shared.mu);
    struct bucket *b = bucket_of(r, key_id, now_mono_us);
    rate.tat_us = b->tat_us;
    bool is_taken = rate_take(&rate, now_mono_us, 1, &wait_us);
    b->tat_us = rate.tat_us;
    pthread_mutex_unlock(&r->shared.mu);
    int64_t ahead_us = rate.tat_us > now_mono_us ? rate.tat_us - now_mono_us : 0;
    out->remaining = ahead_us < rate.burst_us ? (rate.burst_us - ahead_us) / rate.interval_us : 0;
    out->reset_s = seconds_up(ahead_us);
    out->wait_s = seconds_up(wait_us);
    return is_taken;
}

size_t key_rates_count(struct key_rates *r) {
    pthread_mutex_lock(&r->shared.mu);
    size_t n = table_count(&r->shared.buckets);
    pthread_mutex_unlock(&r->shared.mu);
    return n;
}
