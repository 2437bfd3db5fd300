/* due: the recipients that the scheduler holds in memory: those that may go soon, and no more.
 *
 * The store is the truth; loading is no claim, and what is refused here is found there again
 * (STORE_DUE). At most `most` recipients are held. While memory is at most half full, a lane of a
 * project may hold as many of a queue key; then LIMIT_DUE_PER_KEY, but no more than a quarter of
 * the room that is left, so that many slow keys leave some for the next, and a newsletter leaves
 * some to the password that is sent the same way. The same holds for a site, however many keys lead
 * to it: who has no place there goes out of memory again, and its key is not loaded until the site
 * has nearly run out. A tenth of the room is for lane high alone. A parked key (its site is dead or
 * must wait) holds nothing.
 *
 *     struct due_item *i;
 *     if (due_put(d, &row, now, &i) == DUE_TAKEN && !due_enter_site(d, i, site))
 *         due_drop(d, &i); // as with DUE_FULL: the store is asked later
 *
 * Pure but for memory; times come in. Thread: the scheduler's.
 */
#pragma once

#include <sys/queue.h>

#include "server/base/table.h"
#include "storage/store.h"

struct bundle;
struct due_group;

/* One recipient in memory; owns its row. */
struct due_item {
    struct due_row row;
    struct due_group *key;  /* of its queue key */
    struct due_group *site; /* NULL: it is at none */
    struct bundle *bundle;  /* NULL: with a settle on its way to the store */
    TAILQ_ENTRY(due_item) link;
    struct table_node in_table;
};
TAILQ_HEAD(due_items, due_item);

struct due;
struct due *due_new(size_t most, size_t per_key);
void due_free(struct due **dp); /* with all items */

enum due_result {
    DUE_TAKEN,
    DUE_KNOWN,  /* it is here already */
    DUE_FULL,   /* no room for it now: the store has more */
    DUE_PARKED, /* its key waits: found again when that is over */
};
/* Takes the row when DUE_TAKEN (row->outgoing becomes NULL); else it stays the caller's. */
enum due_result due_put(struct due *d, struct due_row *row, int64_t now_mono_ms,
                        struct due_item **out);
struct due_item *due_find(struct due *d, recipient_key_t key);
void due_drop(struct due *d, struct due_item **ip);

/* Its bundle goes to this site's queue, and it was at none. False: the site has no room for it now;
 * it should be dropped, and its key is as one with enough here until the site has nearly run out.
 */
bool due_enter_site(struct due *d, struct due_item *i, struct str site);
/* Its bundle goes elsewhere. */
void due_leave_site(struct due *d, struct due_item *i);

/* Nothing of this key is taken until then. An earlier moment replaces a later one only by
 * due_unpark(). */
void due_park(struct due *d, struct str key, int64_t until_mono_ms);
/* Drops what is over; returns how many keys were freed, *next_mono_ms is when the next one is (0:
 * none). */
size_t due_unpark(struct due *d, int64_t now_mono_ms, int64_t *next_mono_ms);
/* Those that are parked until that very moment, before it; returns how many. */
size_t due_unpark_early(struct due *d, int64_t until_mono_ms);
void due_unpark_all(struct due *d);

/* Keys of which nothing should be loaded now: parked, or, unless with_busy, with more than a
 * quarter of their quota here, or turned away at a site (what others have in those is loaded now
 * and then all the same: *are_busy says that there are such). At most `most`; the strings live
 * until the next call that changes `d`.
 */
size_t due_skip_keys(struct due *d, bool with_busy, struct str *out, size_t most, bool *are_busy);

/* The store has more of what is here: ask when a key's share has nearly run out. */
void due_want_more(struct due *d);
/* Did that happen since it was last asked? */
bool due_take_thirst(struct due *d);

/* While a load is under way: remembers keys that leave, so that an answer that was read before they
 * were settled does not bring them back. */
void due_load_begins(struct due *d);
void due_load_ends(struct due *d);
bool due_left_meanwhile(const struct due *d, recipient_key_t key);

size_t due_count(const struct due *d);
/* More than half full, or it would be but for what was turned away at sites. */
bool due_is_crowded(const struct due *d);
size_t due_room(const struct due *d);
