/* Reading threads: one queue, a handle each. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include "server/base/thread.h"
#include "storage/store_ops.h"

enum { READERS_MOST = 16 };

struct reader {
    struct reader_pool *pool;
    struct backend_reader *handle;
    struct thread *thread;
};

struct reader_pool {
    const struct store_ops *ops;
    struct {
        pthread_mutex_t mu;
        pthread_cond_t changed;
        struct note *first, **end;
        bool is_stopping;
    } shared;
    size_t count;
    struct reader reader[READERS_MOST];
};

/* The next call, or NULL when the pool stops and nothing is left. */
static struct store_call *next_call(struct reader_pool *p) {
    pthread_mutex_lock(&p->shared.mu);
    while (p->shared.first == NULL && !p->shared.is_stopping)
        pthread_cond_wait(&p->shared.changed, &p->shared.mu);
    struct note *n = p->shared.first;
    if (n != NULL) {
        p->shared.first = n->next;
        if (p->shared.first == NULL)
            p->shared.end = &p->shared.first;
    }
    pthread_mutex_unlock(&p->shared.mu);
    return n == NULL ? NULL : CONTAINER_OF(n, struct store_call, note);
}

static void reader_main(void *arg) {
    struct reader *r = arg;
    struct store_call *call;
    while ((call = next_call(r->pool)) != NULL)
        store_call_finish(call, r->pool->ops->read[call->verb](r->handle, call));
}

enum err reader_pool_start(const struct store_ops *ops, const struct store_options *o,
                           struct backend *b, size_t count, struct reader_pool **out,
                           struct errinfo *info) {
    ASSERT(count > 0 && count <= READERS_MOST);
    struct reader_pool *p = mem_zalloc(sizeof(*p));
    p->ops = ops;
    p->shared.end = &p->shared.first;
    ASSERT(pthread_mutex_init(&p->shared.mu, NULL) == 0);
    ASSERT(pthread_cond_init(&p->shared.changed, NULL) == 0);
    enum err e = OK;
    for (; p->count < count && e == OK; p->count += e == OK)
        e = ops->reader_open(o, b, &p->reader[p->count].handle, info);
    if (e != OK) {
        reader_pool_stop(&p);
        return e;
    }
    for (size_t i = 0; i < count; i++) {
        char name[16];
        snprintf(name, sizeof(name), "store-read-%u", (unsigned)(i % 100));
        p->reader[i].pool = p;
        p->reader[i].thread = thread_start(name, reader_main, &p->reader[i]);
    }
    *out = p;
    return OK;
}

void reader_pool_post(struct reader_pool *p, struct store_call *call) {
    call->note.next = NULL;
    pthread_mutex_lock(&p->shared.mu);
    ASSERT(!p->shared.is_stopping);
    *p->shared.end = &call->note;
    p->shared.end = &call->note.next;
    pthread_cond_signal(&p->shared.changed);
    pthread_mutex_unlock(&p->shared.mu);
}

void reader_pool_stop(struct reader_pool **pp) {
    struct reader_pool *p = *pp;
    if (p == NULL)
        return;
    pthread_mutex_lock(&p->shared.mu);
    p->shared.is_stopping = true;
    pthread_cond_broadcast(&p->shared.changed);
    pthread_mutex_unlock(&p->shared.mu);
    for (size_t i = 0; i < p->count; i++) {
        thread_join(&p->reader[i].thread);
        p->ops->reader_close(&p->reader[i].handle);
    }
    pthread_cond_destroy(&p->shared.changed);
    pthread_mutex_destroy(&p->shared.mu);
    free(p);
    *pp = NULL;
}
