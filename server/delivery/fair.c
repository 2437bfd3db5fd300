#include "server/delivery/fair.h"

#include <stdlib.h>

#include "server/base/err.h"

/* Recipients that a project may send before the next one's turn. Small, so that turns come often;
 * an entry that costs more waits for several turns. */
enum { QUANTUM = 10 };

/* What comes again was among the first. Whatever the clock did, a push looks no further. */
enum { LOOK_MOST = 256 };

static const int LANE_WEIGHT[] = {[LANE_HIGH] = 8, [LANE_TRANSACTIONAL] = 4, [LANE_BULK] = 1};
enum { ALL_WEIGHTS = 13 };
_Static_assert(sizeof(LANE_WEIGHT) / sizeof(LANE_WEIGHT[0]) == LANE_COUNT, "a weight per lane");

TAILQ_HEAD(fair_entries, fair_entry);

/* A project's queue in one lane; on the lane's ring while it has entries, else freed. */
struct fair_project {
    TAILQ_ENTRY(fair_project) link;
    int64_t project;
    int64_t deficit;
    struct fair_entries entries;
};
TAILQ_HEAD(fair_projects, fair_project);

struct fair_lane {
    struct fair_projects ring; /* the head's turn it is */
    size_t count;
    int credit; /* smooth weighted round robin among lanes */
};

struct fair {
    struct fair_lane lane[LANE_COUNT];
    size_t count;
};

struct fair *fair_new(void) {
    struct fair *f = mem_zalloc(sizeof(*f));
    for (int i = 0; i < LANE_COUNT; i++)
        TAILQ_INIT(&f->lane[i].ring);
    return f;
}

void fair_free(struct fair **fp) {
    struct fair *f = *fp;
    if (f == NULL)
        return;
    ASSERT(f->count == 0);
    free(f);
    *fp = NULL;
}

static struct fair_project *project_of(struct fair_lane *l, int64_t project) {
    struct fair_project *p;
    TAILQ_FOREACH (p, &l->ring, link) {
        if (p->project == project)
            return p;
    }
    p = mem_zalloc(sizeof(*p));
    p->project = project;
    TAILQ_INIT(&p->entries);
    TAILQ_INSERT_TAIL(&l->ring, p, link);
    return p;
}

static void entered(struct fair *f, struct fair_entry *e, struct fair_project *p) {
    e->in = p;
    f->lane[e->lane].count++;
    f->count++;
}

/* The first one that waits for less long; NULL: none does, or it is too far to look. */
static struct fair_entry *first_since(const struct fair_project *p, int64_t since_ms) {
    const struct fair_entry *last = TAILQ_LAST(&p->entries, fair_entries);
    if (last == NULL || last->since_ms <= since_ms)
        return NULL;
    struct fair_entry *e = TAILQ_FIRST(&p->entries);
    for (int i = 0; i < LOOK_MOST && e != NULL; i++, e = TAILQ_NEXT(e, link)) {
        if (e->since_ms > since_ms)
            return e;
    }
    return NULL;
}

void fair_push(struct fair *f, struct fair_entry *e) {
    ASSERT(e->in == NULL && e->cost > 0);
    struct fair_project *p = project_of(&f->lane[e->lane], e->project);
    struct fair_entry *after = first_since(p, e->since_ms);
    if (after != NULL)
        TAILQ_INSERT_BEFORE(after, e, link);
    else
        TAILQ_INSERT_TAIL(&p->entries, e, link);
    entered(f, e, p);
}

void fair_push_front(struct fair *f, struct fair_entry *e) {
    ASSERT(e->in == NULL && e->cost > 0);
    struct fair_project *p = project_of(&f->lane[e->lane], e->project);
    TAILQ_INSERT_HEAD(&p->entries, e, link);
    entered(f, e, p);
}

/* Smooth weighted round robin: who takes part gains its weight, who is chosen pays for all. `by` -1
 * takes that back. */
static void weigh(struct fair *f, unsigned lanes, enum lane chosen, int by) {
    for (int i = 0; i < LANE_COUNT; i++) {
        if ((lanes & 1u << i) == 0)
            continue;
        f->lane[i].credit += by * LANE_WEIGHT[i];
        f->lane[chosen].credit -= by * LANE_WEIGHT[i];
    }
}

/* What turns can leave: a lane that was empty meanwhile gets nothing back but that. */
static void bound_credits(struct fair *f) {
    for (int i = 0; i < LANE_COUNT; i++) {
        struct fair_lane *l = &f->lane[i];
        if (l->credit > ALL_WEIGHTS)
            l->credit = ALL_WEIGHTS;
        if (l->credit < -ALL_WEIGHTS)
            l->credit = -ALL_WEIGHTS;
    }
}

void fair_undo_pick(struct fair *f, struct fair_entry *e) {
    fair_push_front(f, e);
    weigh(f, e->weighed, e->lane, -1);
    bound_credits(f);
    e->weighed = 0;
    struct fair_project *p = e->in;
    struct fair_projects *ring = &f->lane[e->lane].ring;
    if (TAILQ_NEXT(e, link) == NULL) { /* its only one: the pick took the project off the ring */
        TAILQ_REMOVE(ring, p, link);
        TAILQ_INSERT_HEAD(ring, p, link);
    }
    p->deficit += e->paid;
    /* what one turn can leave: undone again and again, without a turn, they are no savings */
    int64_t most = QUANTUM + (int64_t)e->cost;
    if (p->deficit > most)
        p->deficit = most;
    e->paid = 0;
}

void fair_remove(struct fair *f, struct fair_entry *e) {
    struct fair_project *p = e->in;
    if (p == NULL)
        return;
    struct fair_lane *l = &f->lane[e->lane];
    TAILQ_REMOVE(&p->entries, e, link);
    e->in = NULL;
    l->count--;
    f->count--;
    if (TAILQ_EMPTY(&p->entries)) {
        TAILQ_REMOVE(&l->ring, p, link);
        free(p);
    }
}

/* Which lane, or -1; among which ones, if it is not high's by right. */
static int pick_lane(struct fair *f, unsigned slots, const unsigned busy[LANE_COUNT],
                     unsigned *weighed) {
    *weighed = 0;
    if (f->lane[LANE_HIGH].count > 0 && busy[LANE_HIGH] < (slots + 1) / 2)
        return LANE_HIGH;
    int best = -1, most = 0;
    for (int i = 0; i < LANE_COUNT; i++) {
        struct fair_lane *l = &f->lane[i];
        if (l->count == 0) {
            l->credit = 0;
            continue;
        }
        if (i == LANE_BULK && slots >= 2 && busy[LANE_BULK] >= slots - 1)
            continue;
        *weighed |= 1u << i;
        if (best < 0 || l->credit + LANE_WEIGHT[i] > most) {
            best = i;
            most = l->credit + LANE_WEIGHT[i];
        }
    }
    if (best >= 0)
        weigh(f, *weighed, (enum lane)best, 1);
    return best;
}

struct fair_entry *fair_pick(struct fair *f, unsigned slots, const unsigned busy[LANE_COUNT]) {
    if (f->count == 0)
        return NULL;
    unsigned weighed;
    int lane = pick_lane(f, slots, busy, &weighed);
    if (lane < 0)
        return NULL;
    struct fair_lane *l = &f->lane[lane];
    for (;;) {
        struct fair_project *p = TAILQ_FIRST(&l->ring);
        struct fair_entry *e = TAILQ_FIRST(&p->entries);
        /* alone: nobody to be fair to, and no debt to remember */
        bool alone = TAILQ_NEXT(p, link) == NULL;
        if (alone || p->deficit >= e->cost) {
            e->weighed = weighed;
            e->paid = alone ? 0 : e->cost;
            p->deficit = alone ? 0 : p->deficit - e->paid;
            fair_remove(f, e);
            return e;
        }
        p->deficit += QUANTUM;
        TAILQ_REMOVE(&l->ring, p, link);
        TAILQ_INSERT_TAIL(&l->ring, p, link);
    }
}

struct fair_entry *fair_first(struct fair *f) {
    for (int i = 0; i < LANE_COUNT; i++) {
        struct fair_project *p = TAILQ_FIRST(&f->lane[i].ring);
        if (p != NULL)
            return TAILQ_FIRST(&p->entries);
    }
    return NULL;
}

size_t fair_count(const struct fair *f) {
    return f->count;
}
