/* housekeeping: the thread that asks the store for its sweeps: expiry every few seconds, retention
 * once an hour in small steps.
 *
 *     struct housekeeping *h = housekeeping_start(&(struct housekeeping_options){.store = store});
 *     ...
 *     housekeeping_stop(&h);
 *
 * What expires and what is removed is the store's business; this is only the clock, and what is to
 * be thought of it when it was set (server/base/doubt.h): a jump ahead expires and removes nothing
 * for an hour; after a jump back what is due beyond reach is made due at once, and after an hour
 * what would expire beyond reach begins its life anew.
 */
#pragma once

#include "storage/store.h"

struct housekeeping_options {
    struct store *store;
    int64_t expire_every_ms; /* 0: 5 s */
    int64_t retain_every_ms; /* 0: 1 h */
    int64_t content_keep_ms; /* bodies of messages that are done; 0: for ever */
    int64_t events_keep_ms;  /* events, attempts, messages; 0: for ever */
    int64_t retry_most_ms;   /* nothing is ever due later than this from now; 0: a day */
    int64_t expires_most_ms; /* nor expires later; 0: a year */
    int64_t keys_keep_ms;    /* how long an idempotency key answers; 0: a year */
    size_t captures_most;    /* 0: 1000 */
};

struct housekeeping;
struct housekeeping *housekeeping_start(const struct housekeeping_options *o);
/* New periods (reload), by which retention goes at once. Thread: main. */
void housekeeping_set(struct housekeeping *h, const struct housekeeping_options *o);
/* Ends the thread after the step that it is in; NULL is accepted. */
void housekeeping_stop(struct housekeeping **hp);
