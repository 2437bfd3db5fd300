/* standing: how many posts each endpoint may have under way at once, learned from how long it
 * takes: so many endpoints that never answer do not hold up those that do.
 *
 * A new endpoint may have two. Each answer in good time doubles that, up to eight, whatever the
 * answer is; one that takes more than half of its time makes it two again, one that uses it up
 * makes it one, until it answers.
 *
 *     struct standing s = {0};
 *     standing_note(&s, &webhook_id, took_ms, timeout_ms);
 *     claim.per_webhook = STANDING_START;
 *     claim.share_count = standing_copy(&s, &claim.share);   // the others
 *     standing_release(&s);
 *
 * Pure. Thread: owner.
 */
#pragma once

#include "storage/store.h"

enum { STANDING_LEAST = 1, STANDING_START = 2, STANDING_MOST = 8 };

struct standing {
    struct notify_share *list; /* those that are not at STANDING_START */
    size_t count;
};

void standing_release(struct standing *s);
void standing_note(struct standing *s, const struct id *webhook_id, int64_t took_ms,
                   int64_t timeout_ms);
size_t standing_get(const struct standing *s, const struct id *webhook_id);
/* A copy into `*out`, which is allocated when it is NULL, and then the caller's; returns how many.
 */
size_t standing_copy(const struct standing *s, struct notify_share **out);
