/* The workers: a few threads that take work from one queue, in order. */
#include <stdlib.h>

#include "api/env.h"
#include "server/base/thread.h"

/* Thread: any (locks inside). */
struct workers {
    struct thread *thread[WORKERS];
    struct {
        pthread_mutex_t mu;
        pthread_cond_t more;
        struct work *first, **end;
        bool is_stopping;
    } shared;
};

static void work_answered(struct note *note) {
    struct work *work = CONTAINER_OF(note, struct work, note);
    work->done(work);
}

/* NULL: stopping, and nothing is left. */
static struct work *next_work(struct workers *w) {
    pthread_mutex_lock(&w->shared.mu);
    while (w->shared.first == NULL && !w->shared.is_stopping)
        pthread_cond_wait(&w->shared.more, &w->shared.mu);
    struct work *work = w->shared.first;
    if (work != NULL) {
        w->shared.first = work->next;
        if (w->shared.first == NULL)
            w->shared.end = &w->shared.first;
    }
    pthread_mutex_unlock(&w->shared.mu);
    return work;
}

static void worker_main(void *arg) {
    struct workers *w = arg;
    struct work *work;
    while ((work = next_work(w)) != NULL) {
        work->run(work);
        work->note.run = work_answered;
        mailbox_send(work->reply_to, &work->note);
    }
}

struct workers *workers_start(void) {
    struct workers *w = mem_zalloc(sizeof(*w));
    NEED(pthread_mutex_init(&w->shared.mu, NULL) == 0);
    NEED(pthread_cond_init(&w->shared.more, NULL) == 0);
    w->shared.end = &w->shared.first;
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

void workers_post(struct workers *w, struct work *work) {
    work->next = NULL;
    pthread_mutex_lock(&w->shared.mu);
    *w->shared.end = work;
    w->shared.end = &work->next;
    pthread_cond_signal(&w->shared.more);
    pthread_mutex_unlock(&w->shared.mu);
}
