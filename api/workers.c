/* The workers: a few threads that take work from two queues, each in order. */
#include <stdlib.h>

#include "api/env.h"
#include "server/base/thread.h"

struct works {
    struct work *first, **end;
};

/* Thread: any (locks inside). */
struct workers {
    struct thread *thread[WORKERS];
    struct {
        pthread_mutex_t mu;
        pthread_cond_t more;
        struct works works, long_works;
        size_t long_count; /* that wait */
        bool is_long_running;
        bool is_stopping;
    } shared;
};

static void put(struct works *q, struct work *work) {
    work->next = NULL;
    *q->end = work;
    q->end = &work->next;
}

static struct work *take(struct works *q) {
    struct work *work = q->first;
    if (work == NULL)
        return NULL;
    q->first = work->next;
    if (q->first == NULL)
        q->end = &q->first;
    return work;
}

static void work_answered(struct note *note) {
    struct work *work = CONTAINER_OF(note, struct work, note);
    work->done(work);
}

/* Under the lock. NULL: nothing that may be done now. */
static struct work *choose(struct workers *w) {
    struct work *work = w->shared.is_long_running ? NULL : take(&w->shared.long_works);
    if (work == NULL)
        return take(&w->shared.works);
    w->shared.long_count--;
    w->shared.is_long_running = true;
    return work;
}

/* NULL: stopping, and nothing is left; long ones are left to who does one. */
static struct work *next_work(struct workers *w) {
    struct work *work;
    pthread_mutex_lock(&w->shared.mu);
    while ((work = choose(w)) == NULL && !w->shared.is_stopping)
        pthread_cond_wait(&w->shared.more, &w->shared.mu);
    pthread_mutex_unlock(&w->shared.mu);
    return work;
}

/* Who did a long one takes the next itself: nobody has to be woken for it. */
static void long_is_done(struct workers *w) {
    pthread_mutex_lock(&w->shared.mu);
    w->shared.is_long_running = false;
    pthread_mutex_unlock(&w->shared.mu);
}

static void worker_main(void *arg) {
    struct workers *w = arg;
    struct work *work;
    while ((work = next_work(w)) != NULL) {
        bool is_long = work->is_long;
        work->run(work);
        work->note.run = work_answered;
        mailbox_send(work->reply_to, &work->note);
        if (is_long)
            long_is_done(w);
    }
}

struct workers *workers_start(void) {
    struct workers *w = mem_zalloc(sizeof(*w));
    NEED(pthread_mutex_init(&w->shared.mu, NULL) == 0);
    NEED(pthread_cond_init(&w->shared.more, NULL) == 0);
    w->shared.works.end = &w->shared.works.first;
    w->shared.long_works.end = &w->shared.long_works.first;
    for (size_t i = 0; i < WORKERS; i++)
        w->thread[i] = thread_start("api-worker", worker_main, w);
    return w;
}

void workers_stop(struct workers **wp) {
    struct workers *w = *wp;
    if (w == NULL)
        return;
    pthread_mutex_lock(&w->shared.mu);
    w->shared.is_stopping = true;
    pthread_cond_broadcast(&w->shared.more);
    pthread_mutex_unlock(&w->shared.mu);
    for (size_t i = 0; i < WORKERS; i++)
        thread_join(&w->thread[i]);
    pthread_cond_destroy(&w->shared.more);
    pthread_mutex_destroy(&w->shared.mu);
    free(w);
    *wp = NULL;
}

bool workers_post(struct workers *w, struct work *work) {
    pthread_mutex_lock(&w->shared.mu);
    bool has_room = !work->is_long || w->shared.long_count < WORKS_LONG_MOST;
    if (has_room) {
        put(work->is_long ? &w->shared.long_works : &w->shared.works, work);
        w->shared.long_count += work->is_long;
        pthread_cond_signal(&w->shared.more);
    }
    pthread_mutex_unlock(&w->shared.mu);
    return has_room;
}
