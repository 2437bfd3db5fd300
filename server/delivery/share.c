#include "server/delivery/share.h"

#include <stdlib.h>

#include "server/base/clock.h"
#include "server/base/table.h"

enum { HELD_MS = 1000 /* others may have room */ };

/* Where something is held something is running: the end of that is what it waits for. */
struct share {
    struct shares *in;
    const void *site;
    unsigned running;
    struct note *held, **held_end; /* jobs, signed if they were to be */
    bool is_unwell;                /* held ones go back */
    struct table_node in_table;
};

struct shares {
    share_fn *start, *give_back;
    void *ctx;
    struct loop *loop;
    struct table by_site;
    struct timer *timer; /* set while some are held */
};

struct shares *shares_new(struct loop *l, share_fn *start, share_fn *give_back, void *ctx) {
    struct shares *t = mem_zalloc(sizeof(*t));
    *t = (struct shares){.start = start, .give_back = give_back, .ctx = ctx, .loop = l};
    return t;
}

void shares_free(struct shares **tp) {
    struct shares *t = *tp;
    *tp = NULL;
    if (t == NULL)
        return;
    ASSERT(table_count(&t->by_site) == 0);
    timer_free(&t->timer);
    free(t);
}

static struct share *share_get(struct shares *t, const void *site) {
    struct share *s = table_find(&t->by_site, &site, sizeof(site));
    if (s != NULL)
        return s;
    s = mem_zalloc(sizeof(*s));
    s->in = t;
    s->site = site;
    s->held_end = &s->held;
    table_add(&t->by_site, &s->in_table, &s->site, sizeof(s->site), s);
    return s;
}

static struct job *first_held(const struct share *s) {
    return CONTAINER_OF(s->held, struct job, note);
}

static struct job *take_held(struct share *s) {
    struct job *j = first_held(s);
    s->held = j->note.next;
    if (s->held == NULL)
        s->held_end = &s->held;
    return j;
}

/* `running` counts it. The share may be gone after it. */
static void begin(struct share *s, struct job *j, bool is_well) {
    struct shares *t = s->in;
    bool goes = is_well && clock_mono_ms() < j->expires_mono_ms;
    (goes ? t->start : t->give_back)(t->ctx, j, s);
}

static bool may_start_held(const struct share *s, unsigned running) {
    return s->held != NULL && running < first_held(s)->share;
}

void share_ended(struct share *s, bool is_site_well) {
    struct shares *t = s->in;
    ASSERT(s->running > 0);
    s->is_unwell |= !is_site_well;
    if (s->held == NULL)
        s->is_unwell = false;
    if (s->is_unwell || may_start_held(s, s->running - 1)) { /* in the place of what ended */
        begin(s, take_held(s), !s->is_unwell);
        return;
    }
    if (--s->running > 0)
        return;
    ASSERT(s->held == NULL);
    table_remove(&t->by_site, &s->in_table);
    free(s);
}

static int64_t held_until_mono_ms(const struct share *s) {
    return first_held(s)->held_mono_ms + HELD_MS;
}

/* Sessions that hang hold up what waits for them here, not what waits with the scheduler. */
static void look_at_held(void *arg) {
    struct shares *t = arg;
    int64_t now_mono_ms = clock_mono_ms(), next_mono_ms = INT64_MAX;
    struct share *s;
    struct table_cursor c = table_begin(&t->by_site);
    while ((s = table_next(&c)) != NULL) {
        while (s->held != NULL && held_until_mono_ms(s) <= now_mono_ms) {
            s->running++; /* for as long as it takes to go */
            t->give_back(t->ctx, take_held(s), s);
        }
        if (s->held != NULL && held_until_mono_ms(s) < next_mono_ms)
            next_mono_ms = held_until_mono_ms(s);
    }
    if (next_mono_ms < INT64_MAX)
        timer_set(t->timer, next_mono_ms - now_mono_ms);
    else
        timer_free(&t->timer);
}

static void hold(struct shares *t, struct share *s, struct job *j) {
    j->held_mono_ms = clock_mono_ms();
    j->note.next = NULL;
    *s->held_end = &j->note;
    s->held_end = &j->note.next;
    if (t->timer != NULL)
        return;
    t->timer = timer_new(t->loop, look_at_held, t);
    timer_set(t->timer, HELD_MS);
}

void shares_put(struct shares *t, struct job *j) {
    struct share *s = share_get(t, j->site);
    if (j->share > 0 && (s->held != NULL || s->running >= j->share)) {
        hold(t, s, j);
        if (!may_start_held(s, s->running))
            return;
        j = take_held(s);
    }
    s->running++;
    begin(s, j, true);
}
