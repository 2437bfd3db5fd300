/* share: what a loop has of one site: transactions under way, and jobs that are here before a
 * session is free for them.
 *
 * To a site that answers quickly the scheduler sends more jobs than its window has room for
 * (site.h), so that a loop need not wait for it between two transactions. Such a job says how many
 * transactions of its site the loop may have (job.share). What is too much is held until one of
 * them ends, in the order in which it came. It counts as nothing, and goes back to the scheduler,
 * who knows what follows: all that is held after a transaction that did not get through; what is
 * held for a second, however the others move (some sessions hang, or all do); and what has expired
 * when its turn comes.
 *
 *     struct shares *t = shares_new(loop, start, give_back, ctx);
 *     shares_put(t, job);             // start(ctx, job, share) now or later; or give_back(...)
 *     ...
 *     share_ended(share, is_well);    // once for each start() and each give_back()
 *     ...
 *     shares_free(&t);                // after the last of them
 *
 * At a shutdown nothing needs to be done for what is held: each end begins the next one, and
 * start() ends it at once.
 *
 * Thread: the loop's.
 */
#pragma once

#include "server/delivery/job.h"
#include "server/net/loop.h"

struct shares;
struct share; /* of one site; lives while it has anything */

/* Both may call share_ended() before they return. */
typedef void share_fn(void *ctx, struct job *j, struct share *s);

struct shares *shares_new(struct loop *l, share_fn *start, share_fn *give_back, void *ctx);
void shares_free(struct shares **tp); /* must be empty */
/* Takes the job; what comes back of it is a start() or a give_back(). */
void shares_put(struct shares *t, struct job *j);
/* A transaction, or what was given back, has ended. `is_site_well`: it got through, or did not get
 * to be tried. The share may be gone after it. */
void share_ended(struct share *s, bool is_site_well);
