/* housekeeping: the thread that asks the store for its sweeps: expiry every few seconds, retention
 * once an hour in small steps.
 *
 *     struct housekeeping *h = housekeeping_start(&(struct housekeeping_options){.store = store});
 *     ...
 *     housekeeping_stop(&h);
 *
 * What expires and what is removed is the store's business; this is only the clock.
 */
#pragma once

#include "storage/store.h"

struct housekeeping_options {
    struct store *store;
    int64_t expire_every_ms; /* 0: 5 s */
    int64_t retain_every_ms; /* 0: 1 h */
    int64_t content_keep_ms; /* bodies of messages that are done; 0: for ever */
    int64_t events_keep_ms;  /* events, attempts, messages; 0: for ever */
    size_t captures_most;    /* 0: 1000 */
};

struct housekeeping;
struct housekeeping *housekeeping_start(const struct housekeeping_options *o);
/* New periods (reload). Thread: main. */
void housekeeping_set(struct housekeeping *h, const struct housekeeping_options *o);
/* Ends the thread after the step that it is in; NULL is accepted. */
void housekeeping_stop(struct housekeeping **hp);
