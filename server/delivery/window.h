/* window: how many transactions a site gets at once, learned from how it answers.
 *
 * After the feedback of Postfix's scheduler: a success adds min(1/4, 1/N) of a slot, and the window
 * grows by one when a whole one is together; a failure to connect or to be greeted takes 1/N, and
 * the window shrinks by one as soon as what was gained is used up. Failures of three whole windows
 * without a success between them: the site is dead for a while. A 4xx for one recipient is no
 * failure of the site: whoever calls this decides that.
 *
 * Pure. Thread: owner.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

enum { WINDOW_START = 5, WINDOW_COHORTS = 3 };

struct window {
    unsigned size, ceiling;
    double success, failure;    /* parts of a slot gained, and left to lose */
    double cohorts;             /* whole windows of failures since the last success */
    int64_t dead_until_mono_ms; /* 0: alive */
    bool is_suspended;          /* dead by window_suspend() */
    bool is_proven;             /* a transaction got through since it began */
};

void window_init(struct window *w, unsigned ceiling); /* at least 1 */
void window_set_ceiling(struct window *w, unsigned ceiling);
/* A transaction got as far as MAIL. `in_flight` counts it: a window that is not used does not grow.
 */
void window_success(struct window *w, unsigned in_flight);
/* Returns true when the site became dead: until now + dead_ms nothing goes. */
bool window_failure(struct window *w, int64_t now_mono_ms, int64_t dead_ms);
/* Dead until then, whatever went before; afterwards one transaction at a time feels its way: what
 * counts failures (of logins) must not be hit by a whole window of them. Returns true when it was
 * alive. */
bool window_suspend(struct window *w, int64_t until_mono_ms);
/* After its time a dead site starts again at the beginning. */
bool window_is_dead(struct window *w, int64_t now_mono_ms);
/* Alive again, and at the beginning: what killed it was mended. */
void window_revive(struct window *w);
