#include "server/delivery/site.h"

#include <stdlib.h>

enum {
    PREFETCH_WINDOWS = 6, /* so many are claimed ahead: a claim takes a transaction's time */
    PREFETCH_MOST = 128,  /* ... and no more: repeated with `possible_duplicate` after a crash */
    QUICK_MS = 250,       /* a transaction: else a window of claims is time enough for the next */
    AHEAD_OF_LOOP = 20,   /* jobs that wait in a loop: six milliseconds of signatures, three of the
                             scheduler's turns */
    FULL_ENOUGH =
        16,          /* jobs with as many recipients as it takes, until more recipients are tried */
    HOME_ENOUGH = 3, /* transactions that one loop takes before the others are asked */
};

static unsigned least(unsigned a, unsigned b) {
    return a < b ? a : b;
}

struct site *sites_get(struct sites *t, const char *name, uint64_t tag, const struct route *r,
                       size_t loops) {
    size_t name_n = strlen(name) + 1, key_n = name_n + sizeof(tag); /* with its end: a divider */
    char *key = mem_zalloc(key_n);
    memcpy(key, name, name_n);
    memcpy(key + name_n, &tag, sizeof(tag));
    struct site *s = table_find(&t->by_key, key, key_n);
    if (s != NULL) {
        free(key);
    } else {
        s = mem_zalloc(sizeof(*s));
        s->name = str_dupz(str_of(name));
        s->key = str_make(key, key_n);
        s->waiting = fair_new();
        s->ready = fair_new();
        TAILQ_INIT(&s->roomless);
        s->recipients_most = SITE_RECIPIENTS_MAX;
        s->took_ms = QUICK_MS;
        window_init(&s->window, r->concurrency);
        limit_init(&s->limit, 0, r->rate_per_s);
        table_add(&t->by_key, &s->in_table, s->key.p, s->key.n, s);
        s->home_loop = table_hash(&s->in_table) % loops;
    }
    s->users++;
    return s;
}

void site_set_limits(struct site *s, const struct route *r) {
    window_set_ceiling(&s->window, r->concurrency);
    limit_set_rate(&s->limit, r->rate_per_s);
}

void site_release(struct site **sp) {
    struct site *s = *sp;
    *sp = NULL;
    if (s == NULL)
        return;
    ASSERT(s->users > 0);
    s->users--;
}

static void site_free(struct sites *t, struct site *s) {
    table_remove(&t->by_key, &s->in_table);
    fair_free(&s->waiting);
    fair_free(&s->ready);
    free((char *)(uintptr_t)s->key.p);
    free(s->name);
    free(s);
}

void sites_sweep(struct sites *t, int64_t now_mono_ms) {
    struct site *s;
    struct table_cursor c = table_begin(&t->by_key);
    while ((s = table_next(&c)) != NULL) {
        if (s->users == 0 && !s->is_runnable && !wakeup_is_set(&s->wake) &&
            !window_is_dead(&s->window, now_mono_ms))
            site_free(t, s);
    }
}

void sites_free(struct sites *t) {
    struct site *s;
    while ((s = table_oldest(&t->by_key)) != NULL) {
        ASSERT(s->users == 0);
        site_free(t, s);
    }
}

void site_reached(struct site *s, int64_t took_ms, int64_t now_mono_ms) {
    bool is_first = s->reached_mono_ms == 0;
    s->reached_mono_ms = now_mono_ms;
    s->took_ms += ((double)took_ms - s->took_ms) / (is_first ? 1 : 8);
}

void site_learn_recipients(struct site *s, size_t count, unsigned learned) {
    if (learned > 0) {
        s->recipients_most = least(learned, s->recipients_most);
        s->full_taken = 0;
    } else if (s->recipients_most < SITE_RECIPIENTS_MAX && count >= s->recipients_most &&
               ++s->full_taken >= FULL_ENOUGH) {
        s->recipients_most = least(2 * s->recipients_most, SITE_RECIPIENTS_MAX);
        s->full_taken = 0;
    }
}

static bool is_quick(const struct site *s) {
    return s->took_ms < QUICK_MS;
}

bool site_is_held_up(const struct site *s, int64_t now_mono_ms) {
    bool answers = is_quick(s) && now_mono_ms - s->reached_mono_ms < SITE_AHEAD_MS;
    return !answers && s->sent + fair_count(s->ready) > s->window.size;
}

unsigned site_picks_most(const struct site *s) {
    unsigned ahead =
        is_quick(s) ? least(s->window.size * PREFETCH_WINDOWS, PREFETCH_MOST) : s->window.size;
    unsigned most = s->window.size + ahead;
    return limit_has_rate(&s->limit) ? least(most, s->sent + limit_per_second(&s->limit)) : most;
}

unsigned site_slots(const struct site *s) {
    return site_picks_most(s) + limit_has_rate(&s->limit);
}

/* A site that is not known to take mail quickly, or is small, is sent what can go at once: what
 * waits in a loop cannot be called back. */
static bool sends_ahead(const struct site *s, size_t loops, int64_t now_mono_ms) {
    return s->window.is_proven && s->window.cohorts <= 0 &&
           now_mono_ms - s->reached_mono_ms < SITE_AHEAD_MS && is_quick(s) &&
           !limit_has_rate(&s->limit) && s->window.size >= HOME_ENOUGH * loops;
}

unsigned site_sends_most(const struct site *s, size_t loops, int64_t now_mono_ms) {
    unsigned ahead = sends_ahead(s, loops, now_mono_ms) ? AHEAD_OF_LOOP * (unsigned)loops : 0;
    return s->window.size + least(ahead, 2 * s->window.size);
}

/* Loops have places: home is the first. Who comes earlier has one more when they do not come out
 * even, as in site_choose_loop(). */
static size_t place_of(const struct site *s, size_t loop, size_t loops) {
    return (loop + loops - s->home_loop) % loops;
}

unsigned site_share(const struct site *s, size_t loop, size_t loops, int64_t now_mono_ms) {
    if (!sends_ahead(s, loops, now_mono_ms))
        return 0;
    return s->window.size / (unsigned)loops + (place_of(s, loop, loops) < s->window.size % loops);
}

struct bundle *site_first_queued(struct site *s) {
    struct fair_entry *e = fair_first(s->waiting);
    return e != NULL ? CONTAINER_OF(e, struct bundle, fair) : TAILQ_FIRST(&s->roomless);
}

void site_unqueue(struct site *s, struct bundle *b) {
    if (!b->wants_room) {
        fair_remove(s->waiting, &b->fair);
        return;
    }
    TAILQ_REMOVE(&s->roomless, b, wait);
    s->roomless_count--;
    b->wants_room = false;
}

void site_set_roomless(struct site *s, struct bundle *b) {
    site_unqueue(s, b);
    TAILQ_INSERT_TAIL(&s->roomless, b, wait);
    s->roomless_count++;
    b->wants_room = true;
}

void site_set_waiting(struct site *s, struct bundle *b) {
    site_unqueue(s, b);
    fair_push(s->waiting, &b->fair);
}

void site_put_oldest_first(struct site *s) {
    enum { SORTS = LANE_COUNT * ROOM_KINDS };
    struct bundle *oldest[SORTS] = {NULL}, *b;
    TAILQ_FOREACH (b, &s->roomless, wait) {
        struct bundle **of_sort = &oldest[b->fair.lane * ROOM_KINDS + b->letter->room];
        if (*of_sort == NULL || b->fair.since_ms < (*of_sort)->fair.since_ms)
            *of_sort = b;
    }
    for (int i = SORTS - 1; i >= 0; i--) {
        if (oldest[i] == NULL)
            continue;
        TAILQ_REMOVE(&s->roomless, oldest[i], wait);
        TAILQ_INSERT_HEAD(&s->roomless, oldest[i], wait);
    }
}

/* A message to many domains of one provider is many bundles, and one content. */
static struct bundle *find_companion(const struct bundle *b) {
    struct bundle *c;
    TAILQ_FOREACH (c, &b->letter->bundles, of_letter) {
        if (c != b && c->has_slot && c->site == b->site)
            return c;
    }
    return NULL;
}

bool site_has_companion(const struct bundle *b) {
    return find_companion(b) != NULL;
}

void site_pick_slot(struct site *s, struct bundle *b) {
    ASSERT(!b->has_slot);
    b->has_slot = true;
    b->letter->slots++;
    s->picked++;
    s->picked_lane[b->fair.lane]++;
    b->slot_bytes = letter_room_bytes(b->letter);
    if (b->slot_bytes > 0 && site_has_companion(b))
        b->slot_bytes = 0;
    s->picked_bytes[b->letter->room] += b->slot_bytes;
}

void site_give_slot(struct site *s, struct bundle *b) {
    if (!b->has_slot)
        return;
    b->has_slot = false;
    b->letter->slots--;
    s->picked--;
    s->picked_lane[b->fair.lane]--;
    struct bundle *heir = b->slot_bytes > 0 ? find_companion(b) : NULL;
    if (heir != NULL) {
        heir->slot_bytes = b->slot_bytes;
        heir->passed = b->passed;
        b->slot_bytes = 0;
    }
    s->picked_bytes[b->letter->room] -= b->slot_bytes;
}

size_t site_choose_loop(const struct site *s, size_t loops) {
    size_t best = s->home_loop;
    if (s->sent_loop[best] < HOME_ENOUGH)
        return best;
    for (size_t place = 1; place < loops; place++) {
        size_t i = (s->home_loop + place) % loops;
        if (s->sent_loop[i] < s->sent_loop[best])
            best = i;
    }
    return best;
}
