/* Copies the log into the main file while others read and write.
 *
 * It never blocks the writer (PASSIVE), so it cannot let the log start again by itself: with a
 * continuous writer there is always a newer frame. When it reports that it copied everything, the
 * committer copies the few frames since then between two transactions, after which the next
 * transaction begins at the start of the log. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>

#include "server/base/clock.h"
#include "server/base/thread.h"
#include "storage/store_ops.h"

enum {
    PAGE_BYTES = 4096,      /* what `checkpoint_pages` counts */
    LOG_MOST_TIMES = 3,     /* what the log may have, in `checkpoint_pages`: 98 MB */
    READERS_LEAVE_MS = 250, /* no read transaction lasts so long */
    AGAIN_NS = 10 * 1000 * 1000,
};

struct checkpoint {
    const struct store_ops *ops;
    struct gate *readers;
    int64_t copy_bytes;       /* copied from so many on */
    int64_t begin_anew_bytes; /* the committer's: then it has to */
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
                          struct backend *b, struct gate *readers, struct checkpoint **out,
                          struct errinfo *info) {
    struct checkpoint *c = mem_zalloc(sizeof(*c));
    c->ops = ops;
    c->readers = readers;
    c->copy_bytes = (int64_t)o->checkpoint_pages * PAGE_BYTES;
    enum err e = ops->reader_open(o, b, &c->handle, info);
    if (e != OK) {
        free(c);
        return e;
    }
    NEED(pthread_mutex_init(&c->shared.mu, NULL) == 0);
    NEED(pthread_cond_init(&c->shared.changed, NULL) == 0);
    c->thread = thread_start("store-ckpt", checkpoint_main, c);
    *out = c;
    return OK;
}

static void wake(struct checkpoint *c) {
    pthread_mutex_lock(&c->shared.mu);
    c->shared.is_wanted = true;
    pthread_cond_signal(&c->shared.changed);
    pthread_mutex_unlock(&c->shared.mu);
}

/* While somebody always reads, there is no moment at which nobody needs what is in the log: it
 * would grow for as long. So one is made. */
static void begin_log_anew(struct checkpoint *c, struct backend *b, int64_t bytes) {
    const struct timespec moment = {.tv_nsec = AGAIN_NS};
    int64_t end_mono_ms = clock_mono_ms() + READERS_LEAVE_MS;
    bool is_well = gate_close(c->readers, READERS_LEAVE_MS);
    while (!c->ops->checkpoint(b)) { /* the thread is copying, too */
        is_well = clock_mono_ms() < end_mono_ms;
        if (!is_well)
            break;
        (void)nanosleep(&moment, NULL);
    }
    gate_open(c->readers);
    /* Whether it begins anew the next transaction shows; what was in vain is tried a little later.
     */
    c->begin_anew_bytes = bytes + c->copy_bytes / (is_well ? 1 : 4);
}

void checkpoint_after_commit(struct checkpoint *c, struct backend *b) {
    int64_t bytes = c->ops->wal_bytes(b), most = c->copy_bytes * LOG_MOST_TIMES;
    if (bytes < most)
        c->begin_anew_bytes = most;
    if (bytes >= c->begin_anew_bytes)
        begin_log_anew(c, b, bytes);
    else if (atomic_exchange(&c->is_done, false))
        c->ops->checkpoint(b);
    else if (bytes >= c->copy_bytes)
        wake(c);
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
