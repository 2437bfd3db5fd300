/* wait: requests that wait until a message is final (Prefer: wait).
 *
 * Each loop has one of these. The store is asked for notices only while somebody waits.
 *
 *     wait_for(r, &id, seconds, answer);   // then read the message: a wait that begins after the
 *                                          // end would never be told
 *
 * Thread: owner loop.
 */
#pragma once

#include "api/request.h"

struct waits;
struct waits *waits_new(struct store *store, struct mailbox *box);
/* After the mailbox was freed: notices that were on their way end here. */
void waits_free(struct waits **wp);
/* Ends those whose time is over. */
void waits_tick(struct waits *w, int64_t now_mono_ms);

/* `done` runs once, later: when every recipient of the message is final, when the time is over,
 * when the server drains or when the client went away. */
void wait_for(struct request *r, const struct id *id, int64_t timeout_ms,
              void (*done)(struct request *r));
/* Waits no more; `done` does not run. */
void wait_cancel(struct request *r);
