#include "server/delivery/room.h"

#include <stdlib.h>

#include "server/delivery/letter.h"
#include "server/delivery/site.h"

enum {
    SMALL_PART = 256,     /* of all the room: no larger is a small one */
    SMALL_ROOM_PART = 4,  /* of all the room: what small ones have */
    SMALL_TAKES_PART = 8, /* of what it might have: no more takes a small one */
    WAITS_MS = 1000,      /* who waits is asked about several times in it */
    TURN_MS = 2000,       /* most transactions end in it; twice that the next time */
    TURN_MOST_MS = 32 * 1000,
};

/* Who waits longest, and who passed it. */
struct line {
    const struct bundle *first; /* NULL: nobody waits */
    int64_t until_mono_ms;      /* that it counts: it is asked about in each turn, or cannot go */
    uint64_t turn;
    size_t passed_bytes;                 /* held by those that passed it, in this turn */
    int64_t turn_ms, held_since_mono_ms; /* others were kept waiting; 0: nobody yet */
};

/* While it holds something. */
struct project {
    int64_t project;
    size_t bytes[ROOM_KINDS];
    struct line line; /* its large ones, for its share */
    struct table_node in_table;
};

struct room {
    size_t small_max;
    size_t most[ROOM_KINDS], bytes[ROOM_KINDS];
    struct line line[ROOM_KINDS];
    struct table projects;
    uint64_t turns;
};

struct room *room_new(size_t bytes_max) {
    struct room *r = mem_zalloc(sizeof(*r));
    r->small_max = bytes_max / SMALL_PART;
    r->most[ROOM_SMALL] = bytes_max / SMALL_ROOM_PART;
    r->most[ROOM_LARGE] = bytes_max - r->most[ROOM_SMALL];
    return r;
}

void room_free(struct room **rp) {
    struct room *r = *rp;
    *rp = NULL;
    if (r == NULL)
        return;
    ASSERT(table_count(&r->projects) == 0);
    free(r);
}

enum room_kind room_kind_of(const struct room *r, size_t size) {
    return size <= r->small_max          ? ROOM_SMALL
           : size <= r->most[ROOM_LARGE] ? ROOM_LARGE
                                         : ROOM_APART;
}

static struct project *project_find(const struct room *r, int64_t project) {
    return table_find(&r->projects, &project, sizeof(project));
}

void room_add(struct room *r, enum room_kind kind, int64_t project, size_t bytes) {
    if (bytes == 0)
        return;
    struct project *p = project_find(r, project);
    if (p == NULL) {
        p = mem_zalloc(sizeof(*p));
        p->project = project;
        table_add(&r->projects, &p->in_table, &p->project, sizeof(p->project), p);
    }
    p->bytes[kind] += bytes;
    r->bytes[kind] += bytes;
}

void room_remove(struct room *r, enum room_kind kind, int64_t project, size_t bytes) {
    if (bytes == 0)
        return;
    struct project *p = project_find(r, project);
    p->bytes[kind] -= bytes;
    r->bytes[kind] -= bytes;
    for (int i = 0; i < ROOM_KINDS; i++) {
        if (p->bytes[i] > 0)
            return;
    }
    table_remove(&r->projects, &p->in_table);
    free(p);
}

size_t room_bytes(const struct room *r) {
    return r->bytes[ROOM_SMALL] + r->bytes[ROOM_LARGE];
}

/* ---- the rule ----------------------------------------------------------------------------------
 */

static size_t less(size_t a, size_t b) {
    return a > b ? a - b : 0;
}

/* What others leave of all; `without` is held by some that do not count. */
static size_t left_for(const struct room *r, const struct letter *l, size_t without) {
    size_t others = less(r->bytes[l->room], letter_held_bytes(l) + without);
    if (l->room == ROOM_APART)
        return others == 0 ? SIZE_MAX : 0;
    return less(r->most[l->room], others);
}

/* May it take so much of what is left? */
static bool has_share(const struct room *r, const struct bundle *b, size_t left, size_t without) {
    const struct letter *l = b->letter;
    if (l->room == ROOM_APART)
        return true;
    const struct project *p = project_find(r, l->outgoing->project);
    size_t projects = p != NULL ? less(p->bytes[l->room], letter_held_bytes(l) + without) : 0;
    size_t most = less(left, projects + b->site->picked_bytes[l->room]);
    return letter_room_bytes(l) <= (l->room == ROOM_SMALL ? most / SMALL_TAKES_PART : most);
}

bool room_fits(const struct room *r, const struct bundle *b) {
    size_t left = left_for(r, b->letter, 0);
    return letter_room_bytes(b->letter) <= left && has_share(r, b, left, 0);
}

/* ---- lines -------------------------------------------------------------------------------------
 */

static void begin_turn(struct room *r, struct line *q) {
    q->turn = ++r->turns;
    q->passed_bytes = 0;
    q->held_since_mono_ms = 0;
}

static bool is_anybody_in(const struct line *q, int64_t now_mono_ms) {
    return q->first != NULL && (now_mono_ms < q->until_mono_ms ||
                                now_mono_ms < q->first->site->parked_until_mono_ms + WAITS_MS);
}

static void wait_in(struct room *r, struct line *q, const struct bundle *b, int64_t now_mono_ms) {
    if (!is_anybody_in(q, now_mono_ms)) {
        q->first = b;
        q->turn_ms = TURN_MS;
        begin_turn(r, q);
    }
    if (q->first == b)
        q->until_mono_ms = now_mono_ms + WAITS_MS;
}

static void leave(struct line *q, const struct bundle *b) {
    if (q->first == b)
        q->first = NULL;
}

/* The first one would fit but for those that passed it: has it waited for them long enough? */
static bool is_held(struct room *r, struct line *q, int64_t now_mono_ms) {
    if (q->held_since_mono_ms == 0)
        q->held_since_mono_ms = now_mono_ms;
    if (now_mono_ms - q->held_since_mono_ms < q->turn_ms)
        return true;
    if (q->turn_ms < TURN_MOST_MS)
        q->turn_ms *= 2;
    begin_turn(r, q);
    return false;
}

static bool is_after(const struct line *q, const struct bundle *b, int64_t now_mono_ms) {
    return q->first != b && is_anybody_in(q, now_mono_ms);
}

static bool waits_for_room(struct room *r, struct line *q, const struct bundle *b,
                           int64_t now_mono_ms) {
    if (!is_after(q, b, now_mono_ms))
        return false;
    size_t left = left_for(r, q->first->letter, q->passed_bytes);
    return letter_room_bytes(q->first->letter) <= left && is_held(r, q, now_mono_ms);
}

static bool waits_for_share(struct room *r, struct line *q, const struct bundle *b,
                            int64_t now_mono_ms) {
    if (!is_after(q, b, now_mono_ms))
        return false;
    size_t left = left_for(r, q->first->letter, q->passed_bytes);
    return has_share(r, q->first, left, q->passed_bytes) && is_held(r, q, now_mono_ms);
}

/* The line of its project; NULL: that holds nothing. */
static struct line *own_line(const struct room *r, const struct bundle *b) {
    if (b->letter->room != ROOM_LARGE)
        return NULL;
    struct project *p = project_find(r, b->letter->outgoing->project);
    return p != NULL ? &p->line : NULL;
}

bool room_has(struct room *r, struct bundle *b, int64_t now_mono_ms) {
    const struct letter *l = b->letter;
    if (letter_room_bytes(l) == 0)
        return true;
    if (l->room == ROOM_SMALL)
        return room_fits(r, b);
    struct line *all = &r->line[l->room], *own = own_line(r, b);
    size_t left = left_for(r, l, 0);
    if (letter_room_bytes(l) > left) {
        wait_in(r, all, b, now_mono_ms);
        return false;
    }
    if (!has_share(r, b, left, 0)) {
        leave(all, b);
        if (own != NULL)
            wait_in(r, own, b, now_mono_ms);
        return false;
    }
    return !waits_for_room(r, all, b, now_mono_ms) &&
           (own == NULL || !waits_for_share(r, own, b, now_mono_ms));
}

static void passes(struct line *q, uint64_t *passed, size_t bytes) {
    *passed = q->first != NULL ? q->turn : 0;
    if (*passed != 0)
        q->passed_bytes += bytes;
}

void room_taken(struct room *r, struct bundle *b) {
    room_left(r, b);
    struct line *own = own_line(r, b);
    passes(&r->line[b->letter->room], &b->passed_all, b->slot_bytes);
    if (own != NULL)
        passes(own, &b->passed_own, b->slot_bytes);
}

static void passes_no_more(struct line *q, uint64_t *passed, size_t bytes) {
    if (*passed != 0 && *passed == q->turn)
        q->passed_bytes -= bytes;
    *passed = 0;
}

void room_given(struct room *r, struct bundle *b) {
    struct line *own = own_line(r, b);
    passes_no_more(&r->line[b->letter->room], &b->passed_all, b->slot_bytes);
    if (own != NULL)
        passes_no_more(own, &b->passed_own, b->slot_bytes);
    b->passed_own = 0;
    b->slot_bytes = 0;
}

void room_left(struct room *r, const struct bundle *b) {
    struct line *own = own_line(r, b);
    leave(&r->line[b->letter->room], b);
    if (own != NULL)
        leave(own, b);
}
