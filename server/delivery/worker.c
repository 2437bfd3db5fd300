#include "server/delivery/worker.h"

#include <stdio.h>
#include <stdlib.h>

#include "server/base/clock.h"
#include "server/delivery/worker_state.h"

enum {
    REMEMBERED_MOST = 5000,  /* addresses of a kind, a loop */
    DEAD_MS = 3 * 60 * 1000, /* long enough to spare others the wait, short against a retry */
    NO_CHUNKING_MS = 60 * 60 * 1000,
    SIGN_AT_ONCE = 4, /* in one turn */
};

struct worker *worker_start(size_t index, const struct worker_options *o) {
    struct worker *w = mem_zalloc(sizeof(*w));
    w->o = *o;
    LIST_INIT(&w->tasks);
    w->to_sign_end = &w->to_sign;
    char name[16];
    snprintf(name, sizeof(name), "delivery-%zu", index);
    w->loop = loop_start(name);
    w->shares = shares_new(w->loop, task_start, task_give_back, w);
    return w;
}

/* ---- addresses that are remembered ------------------------------------------------------------
 */

static void forget(struct table *t, struct bad_address *b) {
    table_remove(t, &b->in_table);
    free(b);
}

/* NULL: it is not there, or no more. */
static const struct bad_address *find(struct table *t, const struct sockaddr_any *a) {
    if (table_count(t) == 0)
        return NULL;
    char text[SOCKADDR_TEXT_SIZE];
    sockaddr_print(a, text);
    struct bad_address *b = table_find(t, text, strlen(text));
    if (b != NULL && b->until_mono_ms <= clock_mono_ms()) {
        forget(t, b);
        b = NULL;
    }
    return b;
}

static void remember(struct table *t, const struct sockaddr_any *a, uint64_t refused_tag,
                     int64_t ms) {
    struct bad_address *b = mem_zalloc(sizeof(*b));
    b->refused_tag = refused_tag;
    sockaddr_print(a, b->text);
    b->until_mono_ms = clock_mono_ms() + ms;
    struct bad_address *old = table_find(t, b->text, strlen(b->text));
    if (old == NULL && table_count(t) >= REMEMBERED_MOST)
        old = table_oldest(t);
    if (old != NULL)
        forget(t, old);
    table_add(t, &b->in_table, b->text, strlen(b->text), b);
}

static void forget_all(struct table *t) {
    struct bad_address *b;
    while ((b = table_oldest(t)) != NULL)
        forget(t, b);
}

bool worker_address_is_dead(struct worker *w, const struct sockaddr_any *a) {
    return find(&w->dead, a) != NULL;
}

bool worker_login_is_refused(struct worker *w, const struct sockaddr_any *a, uint64_t session_tag) {
    const struct bad_address *b = find(&w->dead, a);
    return b != NULL && b->refused_tag == session_tag;
}

void worker_address_died(struct worker *w, const struct sockaddr_any *a) {
    remember(&w->dead, a, 0, DEAD_MS);
}

void worker_login_refused(struct worker *w, const struct sockaddr_any *a, uint64_t session_tag) {
    remember(&w->dead, a, session_tag, DEAD_MS);
}

bool worker_chunking_is_broken(struct worker *w, const struct sockaddr_any *a) {
    return find(&w->no_chunking, a) != NULL;
}

void worker_chunking_broke(struct worker *w, const struct sockaddr_any *a) {
    remember(&w->no_chunking, a, 0, NO_CHUNKING_MS);
}

/* ---- notes ----------------------------------------------------------------------------------- */

static void start_signing_job(struct worker *w) {
    struct job *j = CONTAINER_OF(w->to_sign, struct job, note);
    w->to_sign = j->note.next;
    if (w->to_sign == NULL)
        w->to_sign_end = &w->to_sign;
    task_sign(w, j);
    shares_put(w->shares, j);
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
        shares_put(w->shares, j);
        return;
    }
    if (w->sign_timer == NULL)
        w->sign_timer = timer_new(w->loop, sign_next, w);
    if (w->to_sign == NULL)
        timer_set(w->sign_timer, 0);
    j->note.next = NULL;
    *w->to_sign_end = &j->note;
    w->to_sign_end = &j->note.next;
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
    shares_free(&w->shares);
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
    forget_all(&w->dead);
    forget_all(&w->no_chunking);
    free(w);
}
