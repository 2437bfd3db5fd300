/* Copies the log into the main file while others read and write.
 *
 * It never blocks the writer (PASSIVE), so it cannot let the log start again by itself: with a
 * continuous writer there is always a newer frame. When it reports that it copied everything, the
 * committer copies the few frames since then between two transactions, after which the next
 * transaction begins at the start of the log. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "server/base/thread.h"
#include "storage/store_ops.h"

struct checkpoint {
    const struct store_ops *ops;
    struct backend_reader *handle;
    struct thread *thread;
    atomic_bool is_done;
    struct {
        pthread_mutex_t mu;
        pthread_cond_t changed;
        bool is_wanted, is_stopping;
    } shared;
};

static bool wait_wanted(struct checkpoint *c) {
    pthread_mutex_lock(&c->shared.mu);
    while (!c->shared.is_wanted && !c->shared.is_stopping)
        pthread_cond_wait(&c->shared.changed, &c->shared.mu);
    c->shared.is_wanted = false;
    bool go_on = !c->shared.is_stopping;
    pthread_mutex_unlock(&c->shared.mu);
    return go_on;
}

static void checkpoint_main(void *arg) {
    struct checkpoint *c = arg;
    while (wait_wanted(c))
        if (c->ops->reader_checkpoint(c->handle))
            atomic_store(&c->is_done, true);
}

enum err checkpoint_start(const struct store_ops *ops, const struct store_options *o,
                          struct backend *b, struct checkpoint **out, struct errinfo *info) {
    struct checkpoint *c = mem_zalloc(sizeof(*c));
    c->ops = ops;
    enum err e = ops->reader_open(o, b, &c->handle, info);
    if (e != OK) {
        free(c);
        return e;
    }
    ASSERT(pthread_mutex_init(&c->shared.mu, NULL) == 0);
    ASSERT(pthread_cond_init(&c->shared.changed, NULL) == 0);
    c->thread = thread_start("store-ckpt", checkpoint_main, c);
    *out = c;
    return OK;
}

void checkpoint_wake(struct checkpoint *c) {
    pthread_mutex_lock(&c->shared.mu);
    c->shared.is_wanted = true;
    pthread_cond_signal(&c->shared.changed);
    pthread_mutex_unlock(&c->shared.mu);
}

bool checkpoint_take_done(struct checkpoint *c) {
    return atomic_load_explicit(&c->is_done, memory_order_relaxed) &&
           atomic_exchange(&c->is_done, false);
}

void checkpoint_stop(struct checkpoint **cp) {
    struct checkpoint *c = *cp;
    if (c == NULL)
        return;
    pthread_mutex_lock(&c->shared.mu);
    c->shared.is_stopping = true;
    pthread_cond_signal(&c->shared.changed);
    pthread_mutex_unlock(&c->shared.mu);
    thread_join(&c->thread);
    c->ops->reader_close(&c->handle);
    pthread_cond_destroy(&c->shared.changed);
    pthread_mutex_destroy(&c->shared.mu);
    free(c);
    *cp = NULL;
}
