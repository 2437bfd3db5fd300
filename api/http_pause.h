/* http_pause: requests that are answered a little later, each at a moment of its own. Who is told
 * at one moment comes again at one, and what comes at one is in everybody's way.
 *
 *     if (!pause_begin(loop_pauses, r, 250, most, answer))
 *         answer(r);
 *
 * Thread: owner loop.
 */
#pragma once

#include "api/request.h"

struct event_base;
struct pauses;
/* `after` runs after each `done` that the loop ran because the time was over. */
struct pauses *pauses_new(struct event_base *base, void (*after)(void *arg), void *arg);
void pauses_free(struct pauses **pp); /* none is left */

/* `done` runs once, later: after `least_ms` to a little more than twice that, when the server
 * drains or when the client went away. Returns how many milliseconds it will be; 0: `most` pause
 * already, or there is no memory, and this one does not. */
int64_t pause_begin(struct pauses *p, struct request *r, int64_t least_ms, size_t most,
                    void (*done)(struct request *r));
