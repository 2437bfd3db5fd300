/* fair: the order in which a site's queue is served.
 *
 * Three lanes. `high` goes first as long as it holds at most half of the slots; otherwise lanes
 * with work share by weight 8:4:1, so bulk is slowed but never starved; of two slots or more one is
 * never bulk's. Within a lane deficit round robin over projects (a cost per entry: its recipients),
 * within a project by `since_ms`, and first in, first out: what was here before and comes again
 * finds its place among the first.
 *
 *     struct fair_entry *e = fair_pick(f, slots, busy);   // busy[lane]: slots in use
 *
 * Entries live inside what is queued. Pure. Thread: owner.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/queue.h>

#include "storage/model.h"

struct fair_project;

struct fair_entry {
    TAILQ_ENTRY(fair_entry) link;
    struct fair_project *in; /* NULL: not queued */
    enum lane lane;
    int64_t project;
    int64_t since_ms; /* it waits since then, by any clock; does not change while queued */
    unsigned cost;    /* at least 1; may grow while queued */
    /* when it was picked last */
    unsigned paid;    /* of its project's turn */
    unsigned weighed; /* the lanes that it was chosen among, a bit each */
};

struct fair;
struct fair *fair_new(void);
void fair_free(struct fair **fp); /* must be empty */
void fair_push(struct fair *f, struct fair_entry *e);
void fair_push_front(struct fair *f, struct fair_entry *e); /* it was picked but could not go */
/* In front, too, but the turn was none: its project and its lane get back what they paid, and their
 * turn. */
void fair_undo_pick(struct fair *f, struct fair_entry *e);
void fair_remove(struct fair *f, struct fair_entry *e); /* queued or not */
/* Takes the next one out; NULL: nothing is queued that may have a slot now. `slots` is how many
 * there are in all, busy[] how many each lane holds. */
struct fair_entry *fair_pick(struct fair *f, unsigned slots, const unsigned busy[LANE_COUNT]);
/* Any entry, for emptying the queue; NULL when there is none. */
struct fair_entry *fair_first(struct fair *f);
size_t fair_count(const struct fair *f);
