#include "server/delivery/room.h"

#include <stdlib.h>

#include "server/delivery/letter.h"
#include "server/delivery/site.h"

enum {
    SMALL_PART = 256, /* of what large ones have: no larger is a small one */
    WAITS_MS = 1000,  /* who waits is asked about several times in it */
    SERVED_MS = 100,  /* each site asks in it */
    TURN_MS = 2000,   /* most transactions end in it; twice that the next time */
    TURN_MOST_MS = 32 * 1000,
};

/* Who waits longest, and who passed it. */
struct line {
    struct bundle *first;      /* NULL: nobody waits */
    int64_t until_mono_ms;     /* that it counts: it is asked about in each turn, or cannot go */
    const struct site *served; /* whose had the place before: others come first, for a moment */
    int64_t served_until_mono_ms;
    uint64_t turn;
    size_t passed_bytes;                 /* of contents that passed it, in this turn */
    int64_t turn_ms, held_since_mono_ms; /* others were kept waiting; 0: nobody yet */
};

/* While it holds something. */
struct project {
    int64_t project;
    size_t bytes[ROOM_KINDS];
    struct table_node in_table;
};

struct room {
    size_t small_max;
    size_t most[ROOM_KINDS], bytes[ROOM_KINDS];
    size_t idle[ROOM_KINDS];
    struct line line[ROOM_KINDS];
    struct table projects;
};

struct room *room_new(size_t bytes_max) {
    struct room *r = mem_zalloc(sizeof(*r));
    r->small_max = bytes_max / SMALL_PART;
    r->most[ROOM_SMALL] = bytes_max / 2;
    r->most[ROOM_LARGE] = bytes_max;
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
    return size <= r->small_max              ? ROOM_SMALL
           : size <= r->most[ROOM_LARGE] / 2 ? ROOM_LARGE
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

void room_idle_add(struct room *r, enum room_kind kind, size_t bytes) {
    r->idle[kind] += bytes;
}

void room_idle_remove(struct room *r, enum room_kind kind, size_t bytes) {
    r->idle[kind] -= bytes;
}

size_t room_bytes(const struct room *r, enum room_kind kind) {
    return r->bytes[kind];
}

/* ---- the rule ----------------------------------------------------------------------------------
 */

static size_t less(size_t a, size_t b) {
    return a > b ? a - b : 0;
}

static bool has_some(const struct room *r, const struct letter *l) {
    const struct project *p = project_find(r, l->outgoing->project);
    return p != NULL && p->bytes[l->room] > letter_held_bytes(l);
}

/* As if so much less were held of the kind, and of that so much by its site. */
static bool fits(const struct room *r, const struct bundle *b, size_t without, size_t of_site) {
    const struct letter *l = b->letter;
    size_t others = less(r->bytes[l->room], letter_held_bytes(l) + without);
    if (l->room == ROOM_APART)
        return others == 0;
    size_t most = r->most[l->room], left = less(most, others);
    size_t size = l->room == ROOM_SMALL ? r->small_max : (size_t)l->outgoing->size_bytes;
    if (size > left / 2)
        return false;
    size_t sites = less(b->site->picked_bytes[l->room], of_site);
    if (sites > 0)
        return sites + size <= left && left - size >= most / 4;
    return left - size >= most / 8 || !has_some(r, l);
}

/* What may be given up for it: not its own. */
static size_t idle_for(const struct room *r, const struct bundle *b) {
    const struct letter *l = b->letter;
    return r->idle[l->room] - (l->is_idle ? letter_held_bytes(l) : 0);
}

bool room_fits(const struct room *r, const struct bundle *b, bool without_idle) {
    return letter_room_bytes(b->letter) == 0 || site_has_companion(b) ||
           fits(r, b, without_idle ? idle_for(r, b) : 0, 0);
}

/* ---- who waits ---------------------------------------------------------------------------------
 */

static void begin_turn(struct line *q) {
    q->turn++;
    q->passed_bytes = 0;
    q->held_since_mono_ms = 0;
}

static bool is_anybody_in(const struct line *q, int64_t now_mono_ms) {
    return q->first != NULL && (now_mono_ms < q->until_mono_ms ||
                                now_mono_ms < q->first->site->parked_until_mono_ms + WAITS_MS);
}

static void wait_in(struct line *q, struct bundle *b, int64_t now_mono_ms) {
    if (b->site == q->served && now_mono_ms < q->served_until_mono_ms)
        return;
    if (!is_anybody_in(q, now_mono_ms)) {
        q->first = b;
        q->turn_ms = TURN_MS;
        begin_turn(q);
    } else if (b->fair.since_ms < q->first->fair.since_ms) {
        q->first = b;
    }
    if (q->first == b)
        q->until_mono_ms = now_mono_ms + WAITS_MS;
}

/* But for its own, which is held whoever passes, and not against it. */
static size_t passed_the_first(const struct line *q) {
    const struct letter *l = q->first->letter;
    return q->passed_bytes - (l->passed == q->turn ? l->passed_bytes : 0);
}

/* Would the first one go but for those that passed it, and has it waited for them long enough? */
static bool is_waited_for(struct room *r, struct line *q, int64_t now_mono_ms) {
    const struct site *s = q->first->site;
    enum room_kind kind = q->first->letter->room;
    size_t of_site = s->passed_turn[kind] == q->turn ? s->passed_bytes[kind] : 0;
    if (!fits(r, q->first, passed_the_first(q) + idle_for(r, q->first), of_site))
        return false;
    if (q->held_since_mono_ms == 0)
        q->held_since_mono_ms = now_mono_ms;
    if (now_mono_ms - q->held_since_mono_ms < q->turn_ms)
        return true;
    if (kind != ROOM_SMALL && q->turn_ms < TURN_MOST_MS)
        q->turn_ms *= 2;
    begin_turn(q);
    return false;
}

bool room_has(struct room *r, struct bundle *b, int64_t now_mono_ms) {
    struct line *q = &r->line[b->letter->room];
    if (room_fits(r, b, false))
        return letter_room_bytes(b->letter) == 0 || q->first == b ||
               !is_anybody_in(q, now_mono_ms) || !is_waited_for(r, q, now_mono_ms);
    wait_in(q, b, now_mono_ms);
    return false;
}

struct bundle *room_first(const struct room *r, enum room_kind kind) {
    return r->line[kind].first;
}

/* A content is held once, however many sites have it: it is the first one that takes the room, and
 * the last one that gives it back. */
static void letter_passes(struct line *q, const struct bundle *b) {
    struct letter *l = b->letter;
    if (l->slots > 1)
        return;
    l->passed = b->passed;
    l->passed_bytes = b->slot_bytes;
    q->passed_bytes += l->passed_bytes;
}

static void letter_given(struct line *q, struct letter *l) {
    if (l->slots > 0)
        return;
    if (l->passed != 0 && l->passed == q->turn)
        q->passed_bytes -= l->passed_bytes;
    l->passed = 0;
}

void room_taken(struct room *r, struct bundle *b, int64_t now_mono_ms) {
    enum room_kind kind = b->letter->room;
    struct line *q = &r->line[kind];
    struct site *s = b->site;
    if (q->first == b) {
        q->first = NULL;
        q->served = s;
        q->served_until_mono_ms = now_mono_ms + SERVED_MS;
    }
    b->passed = q->first != NULL && b->slot_bytes > 0 ? q->turn : 0;
    if (b->passed == 0)
        return;
    letter_passes(q, b);
    if (s->passed_turn[kind] != q->turn)
        s->passed_bytes[kind] = 0;
    s->passed_turn[kind] = q->turn;
    s->passed_bytes[kind] += b->slot_bytes;
}

void room_given(struct room *r, struct bundle *b) {
    enum room_kind kind = b->letter->room;
    struct line *q = &r->line[kind];
    letter_given(q, b->letter);
    if (b->passed != 0 && b->passed == q->turn)
        b->site->passed_bytes[kind] -= b->slot_bytes;
    b->passed = 0;
    b->slot_bytes = 0;
}

void room_left(struct room *r, const struct bundle *b) {
    struct line *q = &r->line[b->letter->room];
    if (q->first == b)
        q->first = NULL;
}
