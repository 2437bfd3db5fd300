#include "server/delivery/worker.h"

#include <stdio.h>
#include <stdlib.h>

#include "server/base/clock.h"
#include "server/delivery/worker_state.h"

enum {
    DEAD_MOST = 5000,        /* addresses remembered, a loop */
    DEAD_MS = 3 * 60 * 1000, /* long enough to spare others the wait, short against a retry */
    SIGN_AT_ONCE = 4,        /* in one turn */
    HELD_MS = 1000,          /* nothing ended meanwhile: others may have room */
};

struct worker *worker_start(size_t index, const struct worker_options *o) {
    struct worker *w = mem_zalloc(sizeof(*w));
    w->o = *o;
    LIST_INIT(&w->tasks);
    w->to_sign_end = &w->to_sign;
    char name[16];
    snprintf(name, sizeof(name), "delivery-%zu", index);
    w->loop = loop_start(name);
    return w;
}

/* ---- dead addresses -------------------------------------------------------------------------- */

static struct dead_address *dead_find(const struct worker *w, const char *text) {
    return table_find(&w->dead, text, strlen(text));
}

static void dead_forget(struct worker *w, struct dead_address *d) {
    table_remove(&w->dead, &d->in_table);
    free(d);
}

bool worker_address_is_dead(struct worker *w, const struct sockaddr_any *a) {
    if (table_count(&w->dead) == 0)
        return false;
    char text[SOCKADDR_TEXT_SIZE];
    sockaddr_print(a, text);
    struct dead_address *d = dead_find(w, text);
    if (d != NULL && d->until_mono_ms <= clock_mono_ms()) {
        dead_forget(w, d);
        d = NULL;
    }
    return d != NULL;
}

void worker_address_died(struct worker *w, const struct sockaddr_any *a) {
    struct dead_address *d = mem_zalloc(sizeof(*d));
    sockaddr_print(a, d->text);
    d->until_mono_ms = clock_mono_ms() + DEAD_MS;
    struct dead_address *old = dead_find(w, d->text);
    if (old == NULL && table_count(&w->dead) >= DEAD_MOST)
        old = table_oldest(&w->dead);
    if (old != NULL)
        dead_forget(w, old);
    table_add(&w->dead, &d->in_table, d->text, strlen(d->text), d);
}

/* ---- notes ----------------------------------------------------------------------------------- */

static void put(struct note ***end, struct job *j) {
    j->note.next = NULL;
    **end = &j->note;
    *end = &j->note.next;
}

static struct job *take(struct note **first, struct note ***end) {
    struct job *j = CONTAINER_OF(*first, struct job, note);
    *first = j->note.next;
    if (*first == NULL)
        *end = first;
    return j;
}

static struct share *share_get(struct worker *w, const void *site) {
    struct share *s = table_find(&w->shares, &site, sizeof(site));
    if (s != NULL)
        return s;
    s = mem_zalloc(sizeof(*s));
    s->site = site;
    s->held_end = &s->held;
    table_add(&w->shares, &s->in_table, &s->site, sizeof(s->site), s);
    return s;
}

static bool may_start_held(const struct share *s, unsigned running) {
    return s->held != NULL && running < CONTAINER_OF(s->held, struct job, note)->share;
}

void worker_task_ended(struct worker *w, struct share *s, bool is_site_well) {
    ASSERT(s->running > 0);
    s->moved_mono_ms = clock_mono_ms();
    s->is_unwell |= !is_site_well;
    if (s->held == NULL)
        s->is_unwell = false;
    if (s->is_unwell || may_start_held(s, s->running - 1)) { /* in the place of what ended */
        struct job *j = take(&s->held, &s->held_end);
        (s->is_unwell ? task_give_back : task_start)(w, j, s);
        return;
    }
    if (--s->running > 0)
        return;
    ASSERT(s->held == NULL);
    table_remove(&w->shares, &s->in_table);
    free(s);
}

/* Sessions that hang hold up what waits for them here, not what waits with the scheduler. */
static void look_at_held(void *arg) {
    struct worker *w = arg;
    int64_t long_ago_mono_ms = clock_mono_ms() - HELD_MS;
    bool some_are_held = false;
    struct share *s;
    struct table_cursor c = table_begin(&w->shares);
    while ((s = table_next(&c)) != NULL) {
        if (s->held != NULL && s->moved_mono_ms <= long_ago_mono_ms) {
            s->is_unwell = true;
            s->running++; /* for as long as they take to go */
            task_give_back(w, take(&s->held, &s->held_end), s);
        }
        some_are_held |= s->held != NULL;
    }
    if (some_are_held)
        timer_set(w->held_timer, HELD_MS);
    else
        timer_free(&w->held_timer);
}

static void hold(struct worker *w, struct share *s, struct job *j) {
    put(&s->held_end, j);
    if (w->held_timer != NULL)
        return;
    w->held_timer = timer_new(w->loop, look_at_held, w);
    timer_set(w->held_timer, HELD_MS);
}

/* It may be held until a transaction of its site ends. */
static void start_job(struct worker *w, struct job *j) {
    struct share *s = share_get(w, j->site);
    if (j->share > 0 && (s->held != NULL || s->running >= j->share)) {
        hold(w, s, j);
        if (!may_start_held(s, s->running))
            return;
        j = take(&s->held, &s->held_end);
    }
    s->moved_mono_ms = clock_mono_ms();
    s->running++;
    task_start(w, j, s);
}

static void start_signing_job(struct worker *w) {
    struct job *j = take(&w->to_sign, &w->to_sign_end);
    task_sign(w, j);
    start_job(w, j);
}

static void sign_next(void *arg) {
    struct worker *w = arg;
    for (int i = 0; i < SIGN_AT_ONCE && w->to_sign != NULL; i++)
        start_signing_job(w);
    if (w->to_sign != NULL)
        timer_set(w->sign_timer, 0);
}

/* A signature takes as long as all the rest of a transaction ten times over. A few a turn: they
 * leave together, and are answered while the next ones are signed; else a loop signs for all of its
 * sessions, then waits for all of them. */
static void job_arrived(struct note *n) {
    struct job *j = CONTAINER_OF(n, struct job, note);
    struct worker *w = j->worker;
    if (!j->sign) {
        start_job(w, j);
        return;
    }
    if (w->sign_timer == NULL)
        w->sign_timer = timer_new(w->loop, sign_next, w);
    if (w->to_sign == NULL)
        timer_set(w->sign_timer, 0);
    put(&w->to_sign_end, j);
}

void worker_send(struct worker *w, struct job *j) {
    j->worker = w;
    j->note.run = job_arrived;
    mailbox_send(loop_mailbox(w->loop), &j->note);
}

struct abort_note {
    struct note note;
    struct worker *worker;
};

static void abort_run(struct note *n) {
    struct abort_note *a = CONTAINER_OF(n, struct abort_note, note);
    struct worker *w = a->worker;
    w->is_aborting = true;
    while (w->to_sign != NULL)
        start_signing_job(w);
    if (w->sign_timer != NULL)
        timer_cancel(w->sign_timer);
    task_abort_all(w);
    free(a);
}

void worker_abort(struct worker *w) {
    struct abort_note *a = mem_zalloc(sizeof(*a));
    a->note.run = abort_run;
    a->worker = w;
    mailbox_send(loop_mailbox(w->loop), &a->note);
}

static void stopped_run(struct note *n) {
    (void)n;
}

/* Sessions are closed on the loop, by which they live. */
static void stop_run(struct note *n) {
    struct worker *w = CONTAINER_OF(n, struct worker, stop_note);
    ASSERT(LIST_EMPTY(&w->tasks) && w->to_sign == NULL);
    timer_free(&w->sign_timer);
    timer_free(&w->held_timer);
    pool_free(&w->pool);
    n->run = stopped_run;
    mailbox_send(w->stop_reply, n);
}

void worker_stop(struct worker **wp) {
    struct worker *w = *wp;
    *wp = NULL;
    if (w == NULL)
        return;
    w->stop_reply = mailbox_new();
    w->stop_note.run = stop_run;
    mailbox_send(loop_mailbox(w->loop), &w->stop_note);
    while (mailbox_wait(w->stop_reply, -1) == 0)
        ;
    loop_stop(&w->loop);
    mailbox_free(&w->stop_reply);
    struct dead_address *d;
    while ((d = table_oldest(&w->dead)) != NULL)
        dead_forget(w, d);
    free(w);
}
