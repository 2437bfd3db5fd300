/* scheduler: the thread that decides what goes where and when. It owns sites, windows, limits and
 * the due queue; asks the store, feeds the workers, and writes results back.
 *
 * delivery.c is the only one who calls this. Thread: main, but for what says otherwise.
 */
#pragma once

#include "server/delivery/settings.h"

struct scheduler;

/* Takes a reference of the settings. */
struct scheduler *scheduler_start(struct settings *settings);
void scheduler_reload(struct scheduler *s, struct settings *settings); /* takes the reference */
/* Returns when nothing is under way; see delivery_drain(). */
void scheduler_drain(struct scheduler *s, int64_t deadline_mono_ms);
void scheduler_stop(struct scheduler **sp);
struct delivery_status scheduler_status(struct scheduler *s); /* Thread: any */
