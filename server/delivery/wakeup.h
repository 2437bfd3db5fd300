/* wakeup: the one structure for everything in the scheduler that waits for a time: a binary heap of
 * wakeups that live inside the things that wait.
 *
 *     struct wakeups *w = wakeups_new();
 *     wakeup_init(&site->wake, site_woken, site);
 *     wakeup_set(w, &site->wake, now_mono_ms + 60000);   // again: moves it
 *     poll(..., wakeups_wait_ms(w, now_mono_ms));
 *     wakeups_run(w, now_mono_ms);
 *
 * Setting, moving and cancelling cost O(log n). Thread: owner.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct wakeup {
    int64_t at_mono_ms;
    size_t place; /* 1-based place in the heap; 0: not set */
    void (*fn)(void *arg);
    void *arg;
};

struct wakeups;
struct wakeups *wakeups_new(void);
void wakeups_free(struct wakeups **wp); /* wakeups that are set are forgotten, not run */

void wakeup_init(struct wakeup *k, void (*fn)(void *arg), void *arg);
void wakeup_set(struct wakeups *w, struct wakeup *k, int64_t at_mono_ms);
void wakeup_cancel(struct wakeups *w, struct wakeup *k); /* not set: nothing happens */
static inline bool wakeup_is_set(const struct wakeup *k) {
    return k->place != 0;
}
/* Milliseconds until the first one, 0 when it is due; -1: none is set. At most an hour. */
int wakeups_wait_ms(const struct wakeups *w, int64_t now_mono_ms);
/* Runs what is due, earliest first, each once; `fn` may set its own and others again. What is set
 * for `now` while running waits for the next call. Returns how many ran. */
size_t wakeups_run(struct wakeups *w, int64_t now_mono_ms);
size_t wakeups_count(const struct wakeups *w);
