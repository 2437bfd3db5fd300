/* Copies the log into the main file while others read and write.
 *
 * It never blocks the writer (PASSIVE), so it cannot let the log start again by itself: with a
 * continuous writer there is always a newer frame. When it reports that it copied everything, the
 * committer copies the few frames since then between two transactions, after which the next
 * transaction begins at the start of the log.
 *
 * A copy must not begin when the log is copied to its end already: if a transaction begins the log
 * anew just then, SQLite before 3.51.3 goes by the old length, takes what was not copied for copied
 * and loses it (https://sqlite.org/wal.html, the WAL-reset bug). So the committer sets the thread
 * to work only after a commit of its own, and copies itself only while the thread rests. */
#include <pthread.h>
#include <stdlib.h>
#include <time.h>

#include "server/base/clock.h"
#include "server/base/thread.h"
#include "storage/store_ops.h"

enum {
    PAGE_BYTES = 4096,      /* what `checkpoint_pages` counts */
    LOG_MOST_TIMES = 5,     /* what the log may have, in `checkpoint_pages`: 102 MB */
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
    int64_t copied_bytes; /* the committer's: so long was the log when it was copied whole */
    struct {
        pthread_mutex_t mu;
        pthread_cond_t changed;
        bool is_at_work; /* from wake() to the end of the copy */
        bool is_done;    /* it reached the end */
        bool is_stopping;
    } shared;
};

static bool wait_for_work(struct checkpoint *c) {
    pthread_mutex_lock(&c->shared.mu);
    while (!c->shared.is_at_work && !c->shared.is_stopping)
        pthread_cond_wait(&c->shared.changed, &c->shared.mu);
    bool go_on = !c->shared.is_stopping;
    pthread_mutex_unlock(&c->shared.mu);
    return go_on;
}

static void checkpoint_main(void *arg) {
    struct checkpoint *c = arg;
    while (wait_for_work(c)) {
        bool is_done = c->ops->reader_checkpoint(c->handle);
        pthread_mutex_lock(&c->shared.mu);
        c->shared.is_at_work = false;
        c->shared.is_done = is_done;
        pthread_mutex_unlock(&c->shared.mu);
    }
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

/* Between transactions of the committer. */
static bool copy_rest(struct checkpoint *c, struct backend *b, int64_t bytes) {
    bool is_copied = c->ops->checkpoint(b);
    c->copied_bytes = is_copied ? bytes : -1;
    return is_copied;
}

static bool rests(struct checkpoint *c) {
    pthread_mutex_lock(&c->shared.mu);
    bool is_at_work = c->shared.is_at_work;
    pthread_mutex_unlock(&c->shared.mu);
    return !is_at_work;
}

/* While somebody always reads, there is no moment at which nobody needs what is in the log: it
 * would grow for as long. So one is made. */
static void begin_log_anew(struct checkpoint *c, struct backend *b, int64_t bytes) {
    const struct timespec moment = {.tv_nsec = AGAIN_NS};
    int64_t end_mono_ms = clock_mono_ms() + READERS_LEAVE_MS;
    bool is_well = gate_close(c->readers, READERS_LEAVE_MS);
    while (!rests(c) || !copy_rest(c, b, bytes)) {
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

/* Whether the thread has reached the end since it was asked last; else it is set to work if it
 * rests and there is enough to copy. */
static bool is_done_or_wake(struct checkpoint *c, int64_t bytes) {
    bool has_work = bytes >= c->copy_bytes && bytes != c->copied_bytes;
    pthread_mutex_lock(&c->shared.mu);
    bool is_done = !c->shared.is_at_work && c->shared.is_done;
    if (is_done) {
        c->shared.is_done = false;
    } else if (!c->shared.is_at_work && has_work) {
        c->shared.is_at_work = true;
        pthread_cond_signal(&c->shared.changed);
    }
    pthread_mutex_unlock(&c->shared.mu);
    return is_done;
}

void checkpoint_after_commit(struct checkpoint *c, struct backend *b) {
    int64_t bytes = c->ops->wal_bytes(b), most = c->copy_bytes * LOG_MOST_TIMES;
    if (bytes < most)
        c->begin_anew_bytes = most;
    if (bytes >= c->begin_anew_bytes)
        begin_log_anew(c, b, bytes);
    else if (is_done_or_wake(c, bytes))
        (void)copy_rest(c, b, bytes);
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
