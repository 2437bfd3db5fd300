#include "storage/store.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "server/base/limits.h"
#include "storage/store_ops.h"

enum { READERS = 2, CHECKPOINT_PAGES = 5000, PATH_SIZE = STORE_FOLDER_MOST + 64 };
/* Content that rides on notices: eight of the largest; what is beyond is read again. */
static const int64_t content_budget_bytes = (int64_t)2 * 1024 * 1024;

struct store {
    const struct store_ops *ops;
    char *folder;
    char *vfs;
    struct store_options options; /* with copies of the strings */
    int lock_fd;
    struct backend *backend; /* the committer's; readers keep it for what is common */
    struct watch_list *watches;
    struct content_budget *budget;
    struct checkpoint *checkpoint;
    struct gate *gate; /* of the readers */
    struct reader_pool *readers;
    struct committer *committer;
};

/* ---- calls ---- */

struct arena *store_call_arena(struct store_call *call) {
    if (call->arena == NULL)
        call->arena = arena_new();
    return call->arena;
}

static bool is_secret(const struct store_call *call) {
    return call->verb == STORE_WEBHOOKS ||
           (call->verb == STORE_DOMAINS &&
            CONTAINER_OF(call, struct store_domains, call)->with_secrets);
}

void store_call_release(struct store_call *call) {
    if (call->arena != NULL && is_secret(call))
        arena_free_secret(&call->arena);
    arena_free(&call->arena);
}

size_t store_notify_share(const struct store_notify_claim *q, const struct id *webhook_id) {
    for (size_t i = 0; i < q->share_count; i++)
        if (id_equal(&q->share[i].webhook_id, webhook_id))
            return q->share[i].most;
    return q->per_webhook;
}

static void run_done(struct note *note) {
    struct store_call *call = CONTAINER_OF(note, struct store_call, note);
    call->done(call);
}

/* Where a thread waits in store_sync(). */
struct waiter {
    struct {
        pthread_mutex_t mu;
        pthread_cond_t changed;
        bool is_done;
    } shared;
};

static void wake(struct waiter *w) {
    pthread_mutex_lock(&w->shared.mu);
    w->shared.is_done = true;
    pthread_cond_signal(&w->shared.changed);
    pthread_mutex_unlock(&w->shared.mu); /* the waiter needs this lock before it can go away */
}

void store_call_finish(struct store_call *call, enum err e) {
    if (call->verb == STORE_ACCEPT)
        message_unref(&CONTAINER_OF(call, struct store_accept, call)->content);
    if (e != OK)
        store_call_release(call);
    call->err = e;
    if (call->waiter != NULL) {
        wake(call->waiter);
        return;
    }
    call->note.run = run_done;
    mailbox_send(call->reply_to, &call->note);
}

static void dispatch(struct store *s, struct store_call *call) {
    call->err = OK;
    call->info = (struct errinfo){0};
    call->arena = NULL;
    if (s->ops->write[call->verb] != NULL)
        committer_post(s->committer, call);
    else
        reader_pool_post(s->readers, call);
}

void store_post(struct store *s, struct store_call *call) {
    ASSERT(call->reply_to != NULL && call->done != NULL);
    call->waiter = NULL;
    dispatch(s, call);
}

enum err store_sync(struct store *s, struct store_call *call) {
    struct waiter w = {.shared = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, false}};
    call->waiter = &w;
    dispatch(s, call);
    pthread_mutex_lock(&w.shared.mu);
    while (!w.shared.is_done)
        pthread_cond_wait(&w.shared.changed, &w.shared.mu);
    pthread_mutex_unlock(&w.shared.mu);
    pthread_cond_destroy(&w.shared.changed);
    pthread_mutex_destroy(&w.shared.mu);
    call->waiter = NULL;
    return call->err;
}

/* ---- one process per store ---- */

/* A new folder is safe only when the one that holds its name is synced; SQLite syncs what it makes
 * inside. */
static enum err sync_parent(const char *folder, struct errinfo *info) {
    char path[PATH_SIZE];
    snprintf(path, sizeof(path), "%s/..", folder);
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    /* Who may make names in it, but not read it, cannot sync it. */
    if (fd < 0)
        return errno == EACCES ? OK
                               : err_set(info, ERR_UNAVAILABLE, "store", "cannot open %s: %s", path,
                                         strerror(errno));
    /* EINVAL: a file system that cannot, and need not. */
    enum err e =
        fsync(fd) == 0 || errno == EINVAL
            ? OK
            : err_set(info, ERR_UNAVAILABLE, "store", "cannot sync %s: %s", path, strerror(errno));
    close(fd);
    return e;
}

static enum err make_folder(const char *folder, struct errinfo *info) {
    if (strlen(folder) > STORE_FOLDER_MOST)
        return err_set(info, ERR_INVALID, "store", "the folder's name is too long");
    bool is_new = mkdir(folder, 0700) == 0;
    if (!is_new && errno != EEXIST)
        return err_set(info, ERR_UNAVAILABLE, "store",
                       "cannot make %s: %s (it has to be a folder of the user who runs this)",
                       folder, strerror(errno));
    /* One that was there may have been made by a start that was cut off here; or it is a volume in
     * a place that cannot be synced. */
    enum err e = sync_parent(folder, info);
    if (e != OK && is_new)
        return e;
    struct stat st;
    if (stat(folder, &st) != 0 || !S_ISDIR(st.st_mode))
        return err_set(info, ERR_INVALID, "store", "%s is not a folder", folder);
    /* Messages and keys are in it. A folder that was there (a volume) is narrowed when it is ours.
     */
    if ((st.st_mode & 077) != 0 && chmod(folder, 0700) != 0 && errno != EPERM)
        return err_set(info, ERR_UNAVAILABLE, "store", "cannot protect %s: %s", folder,
                       strerror(errno));
    return OK;
}

static void read_owner(int fd, char *out, size_t size) {
    ssize_t n = pread(fd, out, size - 1, 0);
    out[n > 0 ? n : 0] = '\0';
    out[strcspn(out, "\n")] = '\0';
}

static enum err take_lock(const char *folder, int *out, struct errinfo *info) {
    char path[PATH_SIZE];
    snprintf(path, sizeof(path), "%s/lock", folder);
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return err_set(info, ERR_UNAVAILABLE, "store",
                       "cannot open %s: %s (it has to be in a folder of the user who runs this)",
                       path, strerror(errno));
    if (flock(fd, LOCK_EX | LOCK_NB) != 0) {
        int why = errno;
        char owner[32] = "";
        read_owner(fd, owner, sizeof(owner));
        close(fd);
        if (why != EWOULDBLOCK)
            return err_set(info, ERR_UNAVAILABLE, "store", "cannot lock %s: %s", path,
                           strerror(why));
        return err_set(info, ERR_CONFLICT, "store",
                       "the store in %s is in use by process %s: end it first, or take another "
                       "folder",
                       folder, owner[0] != '\0' ? owner : "?");
    }
    /* For people only: the lock is what counts, so a failed write does not matter. */
    if (ftruncate(fd, 0) == 0)
        (void)!dprintf(fd, "%ld\n", (long)getpid());
    *out = fd;
    return OK;
}

/* ---- opening and closing ---- */

static enum err start_threads(struct store *s, struct errinfo *info) {
    enum err e = OK;
    s->gate = gate_new();
    if (s->ops->wal_bytes != NULL)
        e = checkpoint_start(s->ops, &s->options, s->backend, s->gate, &s->checkpoint, info);
    if (e == OK)
        e = reader_pool_start(s->ops, &s->options, s->backend, s->gate, s->options.readers,
                              &s->readers, info);
    if (e == OK)
        s->committer =
            committer_start(s->ops, &s->options, s->backend, s->checkpoint, s->watches, s->budget);
    return e;
}

enum err store_open(const struct store_options *o, struct store **out, struct errinfo *info) {
    struct store *s = mem_zalloc(sizeof(*s));
    s->lock_fd = -1;
    s->ops = o->backend == STORE_SQLITE ? &store_sqlite_ops : &store_memory_ops;
    s->options = *o;
    s->options.folder = s->folder = o->folder != NULL ? str_dupz(str_of(o->folder)) : NULL;
    s->options.vfs = s->vfs = o->vfs != NULL ? str_dupz(str_of(o->vfs)) : NULL;
    if (s->options.readers == 0)
        s->options.readers = READERS;
    if (s->options.cache_bytes == 0)
        s->options.cache_bytes = (size_t)4 * 1024 * 1024;
    if (s->options.checkpoint_pages == 0)
        s->options.checkpoint_pages = CHECKPOINT_PAGES;
    s->watches = watch_list_new();
    s->budget = content_budget_new(content_budget_bytes);
    enum err e = OK;
    if (o->backend == STORE_SQLITE) {
        ASSERT(o->folder != NULL);
        e = make_folder(o->folder, info);
        if (e == OK)
            e = take_lock(o->folder, &s->lock_fd, info);
    }
    if (e == OK)
        e = s->ops->open(&s->options, NULL, &s->backend, info);
    if (e == OK)
        e = start_threads(s, info);
    if (e != OK) {
        store_close(&s);
        return e;
    }
    *out = s;
    return OK;
}

void store_close(struct store **sp) {
    struct store *s = *sp;
    if (s == NULL)
        return;
    reader_pool_stop(&s->readers);
    if (s->committer != NULL)
        s->backend = NULL; /* it is the committer's, who closes it */
    committer_stop(&s->committer);
    checkpoint_stop(&s->checkpoint);
    gate_free(&s->gate);
    s->ops->close(&s->backend);
    content_budget_unref(&s->budget);
    watch_list_free(&s->watches);
    if (s->lock_fd >= 0)
        close(s->lock_fd);
    free(s->folder);
    free(s->vfs);
    free(s);
    *sp = NULL;
}

struct store_health store_health(struct store *s) {
    return committer_health(s->committer);
}

void store_set_disk_floor(struct store *s, int64_t bytes) {
    committer_set_floor(s->committer, bytes);
}

enum err store_check(struct store *s, struct errinfo *info) {
    struct backend_reader *r = NULL;
    enum err e = s->ops->reader_open(&s->options, s->backend, &r, info);
    if (e != OK)
        return e;
    e = s->ops->check(r, info);
    s->ops->reader_close(&r);
    return e;
}

void store_watch(struct store *s, unsigned mask, struct mailbox *box,
                 void (*fn)(struct store_notice *n), void *ctx) {
    watch_list_add(s->watches, mask, box, fn, ctx);
}

void store_unwatch(struct store *s, struct mailbox *box) {
    watch_list_remove(s->watches, box);
}
