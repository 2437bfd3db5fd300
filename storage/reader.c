/* Reading threads, a handle each. What is read for delivery must not wait for long reads: searches,
 * which can take seconds, and pages of keys and domains have a line of their own and never all of
 * the threads, and between the statements of any listing of messages others come in. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "server/base/clock.h"
#include "server/base/thread.h"
#include "storage/store_ops.h"

enum {
    READERS_MOST = 16,
    CONTENTS_MOST = 16, /* in one snapshot */
    SNAPSHOT_MS = 20,   /* ... which ends after so long: the log cannot begin anew meanwhile */
};

struct reader {
    struct reader_pool *pool;
    struct backend_reader *handle;
    struct thread *thread;
    bool is_listing; /* what it does now */
};

struct gate {
    struct {
        pthread_mutex_t mu;
        pthread_cond_t changed;
        size_t inside;
        bool is_closed;
    } shared;
};

struct gate *gate_new(void) {
    struct gate *g = mem_zalloc(sizeof(*g));
    pthread_condattr_t a;
    NEED(pthread_mutex_init(&g->shared.mu, NULL) == 0);
    NEED(pthread_condattr_init(&a) == 0);
    ASSERT(pthread_condattr_setclock(&a, CLOCK_MONOTONIC) == 0);
    NEED(pthread_cond_init(&g->shared.changed, &a) == 0);
    pthread_condattr_destroy(&a);
    return g;
}

void gate_free(struct gate **gp) {
    struct gate *g = *gp;
    *gp = NULL;
    if (g == NULL)
        return;
    pthread_cond_destroy(&g->shared.changed);
    pthread_mutex_destroy(&g->shared.mu);
    free(g);
}

static void gate_enter(struct gate *g) {
    pthread_mutex_lock(&g->shared.mu);
    while (g->shared.is_closed)
        pthread_cond_wait(&g->shared.changed, &g->shared.mu);
    g->shared.inside++;
    pthread_mutex_unlock(&g->shared.mu);
}

static void gate_leave(struct gate *g) {
    pthread_mutex_lock(&g->shared.mu);
    g->shared.inside--;
    if (g->shared.is_closed)
        pthread_cond_broadcast(&g->shared.changed);
    pthread_mutex_unlock(&g->shared.mu);
}

bool gate_close(struct gate *g, int64_t timeout_ms) {
    int64_t end_mono_ms = clock_mono_ms() + timeout_ms;
    const struct timespec end = {.tv_sec = end_mono_ms / 1000,
                                 .tv_nsec = end_mono_ms % 1000 * 1000000};
    int rc = 0;
    pthread_mutex_lock(&g->shared.mu);
    g->shared.is_closed = true;
    while (g->shared.inside > 0 && rc == 0)
        rc = pthread_cond_timedwait(&g->shared.changed, &g->shared.mu, &end);
    bool is_empty = g->shared.inside == 0;
    pthread_mutex_unlock(&g->shared.mu);
    return is_empty;
}

void gate_open(struct gate *g) {
    pthread_mutex_lock(&g->shared.mu);
    g->shared.is_closed = false;
    pthread_cond_broadcast(&g->shared.changed);
    pthread_mutex_unlock(&g->shared.mu);
}

/* Calls that wait. */
struct line {
    struct note *first, **end;
};

struct reader_pool {
    const struct store_ops *ops;
    struct gate *gate;
    struct {
        pthread_mutex_t mu;
        pthread_cond_t changed;
        struct line calls, searches;
        size_t searching; /* readers */
        bool is_stopping;
    } shared;
    size_t count;
    struct reader reader[READERS_MOST];
};

static bool is_content(const struct note *n) {
    return CONTAINER_OF(n, const struct store_call, note)->verb == STORE_CONTENT;
}

static bool is_listing(const struct note *n) {
    return CONTAINER_OF(n, const struct store_call, note)->verb == STORE_MESSAGES;
}

/* A listing without a filter has what it wants at once. Who wants all keys or domains wants them in
 * force; who shows them can wait. */
static bool is_search(const struct store_call *call) {
    switch ((int)call->verb) {
    case STORE_MESSAGES:
        return messages_is_search(CONTAINER_OF(call, const struct store_messages, call));
    case STORE_KEYS:
        return CONTAINER_OF(call, const struct store_keys, call)->limit > 0;
    case STORE_DOMAINS:
        return CONTAINER_OF(call, const struct store_domains, call)->limit > 0;
    default:
        return false;
    }
}

/* Where a call waits; a single reader does all in their order. */
static struct line *line_of(struct reader_pool *p, const struct store_call *call) {
    return is_search(call) && p->count > 1 ? &p->shared.searches : &p->shared.calls;
}

static bool may_search(const struct reader_pool *p) {
    return p->shared.searches.first != NULL &&
           (p->shared.is_stopping || p->shared.searching < p->count - 1);
}

static bool has_work(const struct reader_pool *p) {
    return p->shared.calls.first != NULL || may_search(p);
}

/* The call at this place of the line, if there is one, with more contents behind a content. */
static struct note *take(struct line *l, struct note **at) {
    struct note *n = *at, *last = n;
    if (n == NULL)
        return NULL;
    for (int i = 1;
         i < CONTENTS_MOST && is_content(last) && last->next != NULL && is_content(last->next); i++)
        last = last->next;
    *at = last->next;
    last->next = NULL;
    if (*at == NULL)
        l->end = at;
    return n;
}

/* What is next; NULL when the pool stops and nothing is left. `is_search`, of what the reader did
 * last, becomes that of what it does now. */
static struct note *next_calls(struct reader_pool *p, bool *is_search) {
    pthread_mutex_lock(&p->shared.mu);
    p->shared.searching -= *is_search;
    while (!has_work(p) && !p->shared.is_stopping)
        pthread_cond_wait(&p->shared.changed, &p->shared.mu);
    *is_search = may_search(p);
    p->shared.searching += *is_search;
    struct line *l = *is_search ? &p->shared.searches : &p->shared.calls;
    struct note *n = take(l, &l->first);
    if (has_work(p))
        pthread_cond_signal(&p->shared.changed); /* the next reader */
    pthread_mutex_unlock(&p->shared.mu);
    return n;
}

/* A snapshot costs more than what is read in it, and the pages above the rows are the same. */
static void read_all(struct reader *r, struct note *n) {
    const struct store_ops *ops = r->pool->ops;
    bool is_shared = n->next != NULL && ops->read_begin != NULL;
    int64_t end_mono_ms = clock_mono_ms() + SNAPSHOT_MS;
    if (is_shared)
        ops->read_begin(r->handle);
    for (struct note *next; n != NULL; n = next) {
        struct store_call *call = CONTAINER_OF(n, struct store_call, note);
        next = n->next;
        if (is_shared && clock_mono_ms() >= end_mono_ms) {
            ops->read_end(r->handle);
            is_shared = false;
        }
        store_call_finish(call, ops->read[call->verb](r->handle, call));
    }
    if (is_shared)
        ops->read_end(r->handle);
}

/* The first that waits and is no listing. */
static struct note *take_short(struct reader_pool *p) {
    pthread_mutex_lock(&p->shared.mu);
    struct note **at = &p->shared.calls.first;
    while (*at != NULL && is_listing(*at))
        at = &(*at)->next;
    struct note *n = take(&p->shared.calls, at);
    pthread_mutex_unlock(&p->shared.mu);
    return n;
}

/* Between two statements: nobody is in while it waits for a closed gate to open, and who waits for
 * a listing comes in between. */
static void reader_rests(void *arg) {
    struct reader *r = arg;
    struct note *n = r->is_listing ? take_short(r->pool) : NULL;
    gate_leave(r->pool->gate);
    gate_enter(r->pool->gate);
    if (n == NULL)
        return;
    r->is_listing = false;
    read_all(r, n);
    r->is_listing = true;
}

static void reader_main(void *arg) {
    struct reader *r = arg;
    bool is_search = false;
    struct note *n;
    while ((n = next_calls(r->pool, &is_search)) != NULL) {
        r->is_listing = is_listing(n);
        gate_enter(r->pool->gate);
        read_all(r, n);
        gate_leave(r->pool->gate);
    }
}

enum err reader_pool_start(const struct store_ops *ops, const struct store_options *o,
                           struct backend *b, struct gate *g, size_t count,
                           struct reader_pool **out, struct errinfo *info) {
    ASSERT(count > 0 && count <= READERS_MOST);
    struct reader_pool *p = mem_zalloc(sizeof(*p));
    p->ops = ops;
    p->gate = g;
    p->shared.calls.end = &p->shared.calls.first;
    p->shared.searches.end = &p->shared.searches.first;
    NEED(pthread_mutex_init(&p->shared.mu, NULL) == 0);
    NEED(pthread_cond_init(&p->shared.changed, NULL) == 0);
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
        if (ops->reader_rests != NULL)
            ops->reader_rests(p->reader[i].handle, reader_rests, &p->reader[i]);
        p->reader[i].thread = thread_start(name, reader_main, &p->reader[i]);
    }
    *out = p;
    return OK;
}

void reader_pool_post(struct reader_pool *p, struct store_call *call) {
    struct line *l = line_of(p, call);
    call->note.next = NULL;
    pthread_mutex_lock(&p->shared.mu);
    ASSERT(!p->shared.is_stopping);
    bool is_first = l->first == NULL;
    *l->end = &call->note;
    l->end = &call->note.next;
    if (is_first) /* else who was woken for the first wakes the next */
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
