/* The one thread that writes: group commit.
 *
 *   take all that waits -> begin -> [a piece of a large body] -> write* -> commit + sync
 *      -> tell watchers -> answer
 *
 * Accepts with a large body wait in a row of their own and go in one after the other, a piece with
 * each transaction, so that nobody else waits for more than a piece.
 *
 * Health, with the function on each edge:
 *
 *   READY ──after_failure(FULL)──► FULL ──tick──► READY
 *     └────after_failure(BROKEN)─► CLOSED ──open_again──► READY       (both tried once a second)
 *
 * READY and FULL have an open backend; in FULL each batch is still tried, since only a commit that
 * writes tells whether there is room: has_room(). CLOSED has none and answers ERR_UNAVAILABLE at
 * once. */
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "server/base/clock.h"
#include "server/base/limits.h"
#include "server/base/log.h"
#include "server/base/metrics.h"
#include "server/base/thread.h"
#include "storage/store_ops.h"

enum {
    TICK_MS = 1000,
    LINGER_MS = 8,     /* after a commit, what nobody waits for is collected so long */
    LINGER_ROWS = 128, /* ... or until so many rows have come together */
    CROWD = 4,         /* callers in one transaction that make the next one wait for more */
    CROWD_NAP_US = 200,
    CROWD_NAPS = 8,
};

static struct {
    struct metric *commits, *failures, *seconds, *rows, *recipients, *balance, *wal;
} metrics;

static void register_metrics(void) {
    static const double seconds[] = {0.0005, 0.001, 0.002, 0.005, 0.01, 0.02,
                                     0.05,   0.1,   0.25,  0.5,   1,    5};
    static const char *const states[] = {"scheduled", "queued",     "sending",
                                         "delivered", "bounced",    "failed",
                                         "expired",   "suppressed", "canceled"};
    _Static_assert(sizeof(states) / sizeof(states[0]) == RECIPIENT_STATE_COUNT, "all states");
    metrics.commits =
        metric_counter("postchute_store_commits_total", "Transactions committed and synced.");
    metrics.failures = metric_counter("postchute_store_commit_failures_total",
                                      "Transactions lost: disk full, I/O.");
    metrics.seconds = metric_histogram("postchute_store_commit_seconds",
                                       "Time of a transaction from begin to sync.", seconds,
                                       sizeof(seconds) / sizeof(seconds[0]));
    metrics.rows = metric_counter("postchute_store_batch_rows_total",
                                  "Rows written, by the measure that ends a batch.");
    metrics.recipients = metric_gauge_labelled("postchute_outbox_recipients",
                                               "Recipients ever accepted, by their state now.",
                                               "state", states, RECIPIENT_STATE_COUNT);
    metrics.balance = metric_gauge("postchute_outbox_balance",
                                   "Accepted minus final minus pending recipients: always 0.");
    metrics.wal = metric_gauge("postchute_store_wal_bytes", "Size of the write-ahead log in use.");
}

struct committer {
    const struct store_ops *ops;
    struct store_options options;
    struct backend *backend; /* NULL: closed after a failure */
    struct backend_file file;
    struct checkpoint *checkpoint;
    struct watch_list *watches;
    struct effects *effects;
    struct mailbox *box;
    struct thread *thread;
    struct note stop_note;
    bool is_stopping;
    struct note *pending, **pending_end;
    struct note *large, **large_end; /* accepts whose bodies are staged */
    struct {
        struct store_call *call; /* NULL: none is under way */
        size_t at, size;         /* what is committed of it */
    } staging;
    /* collected since the last commit: rows of those who can wait a moment, calls of those who
     * cannot */
    size_t pending_patient, pending_pressed, last_pressed;
    int64_t linger_until_mono_ms;
    int64_t next_tick_mono_ms;
    int64_t swept_wall_ms; /* of the last STORE_EXPIRE; 0: there was none */
    struct health *health;
};

/* ---- health ---- */

struct store_health committer_health(struct committer *c) {
    return health_get(c->health);
}

static void open_again(struct committer *c) {
    struct errinfo info = {0};
    struct store_health h = health_get(c->health);
    enum err e = c->ops->open(&c->options, &c->file, &c->backend, &info);
    if (e == OK && c->ops->probe(c->backend) != OK) { /* opening may have had nothing to write */
        e = err_set(&info, ERR_UNAVAILABLE, "store", "%s", c->ops->status_text(c->backend));
        c->ops->close(&c->backend);
    }
    if (e == OK) {
        health_set(c->health, true, "ready");
        return;
    }
    if (strncmp(h.text, info.text, sizeof(h.text) - 1) != 0) /* another reason than before */
        log_error("storage", "the store is not writable", LOG_STRZ("reason", info.text));
    health_set(c->health, false, info.text);
}

/* After a commit, of a disk that was full: a few pages fit into what the log has already, so the
 * next batch must fit beside it. */
static bool has_room(struct committer *c) {
    return c->ops->has_written(c->backend) &&
           health_get(c->health).disk_free_bytes >= LIMIT_BATCH_BYTES;
}

/* The handle stays also when a probe cannot be synced: the next one writes over what was refused,
 * which a new handle could find in the log and take for committed. */
static void tick(struct committer *c) {
    int64_t now_mono_ms = clock_mono_ms();
    if (now_mono_ms < c->next_tick_mono_ms)
        return;
    c->next_tick_mono_ms = now_mono_ms + TICK_MS;
    health_refresh_disk(c->health);
    if (c->backend == NULL)
        open_again(c);
    else if (!health_get(c->health).is_writable && c->ops->probe(c->backend) == OK && has_room(c))
        health_set(c->health, true, "ready");
}

/* The transaction is lost: why, and what follows for the next ones. */
static void after_failure(struct committer *c) {
    char text[160];
    snprintf(text, sizeof(text), "%s", c->ops->status_text(c->backend));
    enum backend_status status = c->ops->status(c->backend);
    metric_add(metrics.failures, 1);
    if (status == BACKEND_BROKEN) {
        /* After a failed sync nobody knows what the kernel still holds: nothing more goes through
         * this handle; the next one begins with what the disk has. */
        c->ops->close(&c->backend);
        c->next_tick_mono_ms = clock_mono_ms() + TICK_MS;
    }
    if (status != BACKEND_READY)
        health_set(c->health, false, text);
    else
        log_error("storage", "a transaction was lost", LOG_STRZ("reason", text));
}

/* ---- one batch ---- */

struct batch {
    struct store_call *call[LIMIT_BATCH_ROWS + 1]; /* one whose body was staged comes on top */
    enum err result[LIMIT_BATCH_ROWS + 1];
    struct message_row given[LIMIT_BATCH_ROWS + 1]; /* of an accept: a replay overwrites it */
    size_t count;
    size_t rows, bytes;
    size_t staged; /* how far the body under way has come, when this is committed */
};

static bool is_staged(const struct committer *c, const struct store_call *call) {
    if (call->verb != STORE_ACCEPT || c->ops->stage == NULL)
        return false;
    const struct store_accept *q = CONTAINER_OF(call, const struct store_accept, call);
    return q->content != NULL && message_size(q->content) > LIMIT_BODY_CHUNK;
}

static size_t rows_of(const struct store_call *call) {
    size_t rows, bytes;
    call_measure(call, &rows, &bytes);
    return rows;
}

static bool is_new(const struct store_call *call) {
    if (call->verb == STORE_ACCEPT)
        return !CONTAINER_OF(call, const struct store_accept, call)->asks_only;
    if (call->verb == STORE_RETRY)
        return !CONTAINER_OF(call, const struct store_retry, call)->asks_only;
    return call->verb == STORE_CAPTURE_PUT;
}

/* What is new needs room above the floor; results of what was accepted may use the rest. */
static bool is_below_floor(struct committer *c, struct store_call *call) {
    if (!is_new(call))
        return false;
    struct store_health h = health_get(c->health);
    if (h.disk_free_bytes >= h.disk_floor_bytes)
        return false;
    call->err =
        err_set(&call->info, ERR_UNAVAILABLE, "store",
                "not stored: %lld MiB of disk are free, fewer than the floor of %lld",
                (long long)(h.disk_free_bytes >> 20), (long long)(h.disk_floor_bytes >> 20));
    return true;
}

/* The next large body, when none is under way. */
static void begin_staging(struct committer *c) {
    while (c->staging.call == NULL && c->large != NULL) {
        struct store_call *call = CONTAINER_OF(c->large, struct store_call, note);
        c->large = call->note.next;
        if (c->large == NULL)
            c->large_end = &c->large;
        if (is_below_floor(c, call)) {
            store_call_finish(call, ERR_UNAVAILABLE);
            continue;
        }
        c->staging.call = call;
        c->staging.at = 0;
        c->staging.size = message_size(CONTAINER_OF(call, struct store_accept, call)->content);
    }
}

static bool is_all_staged(const struct committer *c) {
    return c->staging.call != NULL && c->staging.at == c->staging.size;
}

/* Moves from the front of what waits. */
static void gather(struct committer *c, struct batch *b) {
    b->count = b->rows = b->bytes = 0;
    while (c->pending != NULL && b->count < LIMIT_BATCH_ROWS) {
        struct store_call *call = CONTAINER_OF(c->pending, struct store_call, note);
        size_t rows, bytes;
        if (is_below_floor(c, call)) {
            c->pending = call->note.next;
            store_call_finish(call, ERR_UNAVAILABLE);
            continue;
        }
        call_measure(call, &rows, &bytes);
        if (b->count > 0 &&
            (b->rows + rows > LIMIT_BATCH_ROWS || b->bytes + bytes > LIMIT_BATCH_BYTES))
            break;
        c->pending = call->note.next;
        b->call[b->count++] = call;
        b->rows += rows;
        b->bytes += bytes;
    }
    if (c->pending == NULL)
        c->pending_end = &c->pending;
    if (is_all_staged(c)) {
        b->call[b->count++] = c->staging.call;
        b->rows +=
            1 + CONTAINER_OF(c->staging.call, struct store_accept, call)->message.recipient_count;
    }
}

static enum err stage_piece(struct committer *c, struct batch *b) {
    b->staged = c->staging.at;
    if (c->staging.call == NULL || is_all_staged(c))
        return OK;
    b->staged = c->ops->stage(c->backend, c->staging.call, c->staging.at);
    return c->ops->status(c->backend) == BACKEND_READY ? OK : ERR_UNAVAILABLE;
}

/* An idempotency key ends by the time that sweeps go by: a clock that was set ahead, and is put
 * right again, must not have sent anything twice. Before the first sweep the caller's is all there
 * is. It outlives the backend: after a failed sync callers repeat, and the next sweep is yet to
 * come. When a key ends is none the less written by the caller's clock: if that is right after all
 * (it began in 1970), what was made before it is believed would be forgotten at once. If it is not,
 * STORE_RETAIN brings the end back. */
static int64_t key_time(const struct committer *c, int64_t now_wall_ms) {
    bool is_ahead = c->swept_wall_ms != 0 && now_wall_ms > c->swept_wall_ms;
    return is_ahead ? c->swept_wall_ms : now_wall_ms;
}

static void tell_time(struct committer *c, struct store_call *call) {
    if (call->verb == STORE_EXPIRE) {
        c->swept_wall_ms = CONTAINER_OF(call, struct store_expire, call)->now_wall_ms;
    } else if (call->verb == STORE_ACCEPT) {
        struct store_accept *q = CONTAINER_OF(call, struct store_accept, call);
        q->key_wall_ms = key_time(c, q->now_wall_ms);
    } else if (call->verb == STORE_RETRY) {
        struct store_retry *q = CONTAINER_OF(call, struct store_retry, call);
        q->key_wall_ms = key_time(c, q->now_wall_ms);
    }
}

/* Puts those from `from` on back to the front of what waits, in their order. The one whose body was
 * staged stays: it is one, and would be put back for as long as there are others. */
static void put_back(struct committer *c, struct batch *b, size_t from) {
    size_t end = b->count;
    bool has_staged = from < end && b->call[end - 1] == c->staging.call;
    end -= has_staged;
    for (size_t i = end; i > from; i--) {
        struct store_call *call = b->call[i - 1];
        b->rows -= rows_of(call);
        call->note.next = c->pending;
        if (c->pending == NULL)
            c->pending_end = &call->note.next;
        c->pending = &call->note;
        c->pending_pressed++;
    }
    b->count = from + has_staged;
    if (has_staged && end != from) {
        b->call[from] = b->call[end];
        b->given[from] = b->given[end];
    }
}

/* Runs the verbs inside the open transaction, until they have written much: what a call weighs says
 * nothing of the endpoints that its events go to. ERR_AGAIN: one failed after it had written; the
 * caller rolls back and comes again with savepoints. ERR_UNAVAILABLE: the transaction is lost. */
static enum err run_verbs(struct committer *c, struct batch *b, bool with_savepoints) {
    const struct store_ops *ops = c->ops;
    int64_t changes_before = ops->change_count(c->backend);
    for (size_t i = 0; i < b->count; i++) {
        struct store_call *call = b->call[i];
        size_t mark = effects_mark(c->effects);
        int64_t changes = ops->change_count(c->backend);
        if (with_savepoints && ops->savepoint(c->backend) != OK)
            return ERR_UNAVAILABLE;
        tell_time(c, call);
        enum err e = ops->write[call->verb](c->backend, c->effects, call);
        if (ops->status(c->backend) != BACKEND_READY || e == ERR_UNAVAILABLE)
            return ERR_UNAVAILABLE;
        if (e == OK) {
            if (with_savepoints && ops->savepoint_release(c->backend) != OK)
                return ERR_UNAVAILABLE;
        } else {
            if (with_savepoints) {
                if (ops->savepoint_rollback(c->backend) != OK)
                    return ERR_UNAVAILABLE;
            } else if (e == ERR_INTERNAL || ops->change_count(c->backend) != changes) {
                return ERR_AGAIN;
            }
            effects_truncate(c->effects, mark);
        }
        b->result[i] = e;
        if (ops->change_count(c->backend) - changes_before >= LIMIT_BATCH_CHANGES)
            put_back(c, b, i + 1);
    }
    return OK;
}

/* Before a call is run, or run again: nothing has come out. */
static void reset_call(struct batch *b, size_t i, bool is_repeated) {
    struct store_call *call = b->call[i];
    arena_free(&call->arena);
    if (call->verb != STORE_ACCEPT)
        return;
    struct store_accept *q = CONTAINER_OF(call, struct store_accept, call);
    if (is_repeated)
        q->message = b->given[i];
    else
        b->given[i] = q->message;
}

static enum err try_transaction(struct committer *c, struct batch *b, bool is_repeated) {
    const struct store_ops *ops = c->ops;
    effects_truncate(c->effects, 0);
    for (size_t i = 0; i < b->count; i++)
        reset_call(b, i, is_repeated);
    if (ops->begin(c->backend) != OK)
        return ERR_UNAVAILABLE;
    enum err e = stage_piece(c, b);
    if (e == OK)
        e = run_verbs(c, b, is_repeated);
    if (e == OK)
        return ops->commit(c->backend);
    ops->rollback(c->backend);
    return e;
}

static enum err run_transaction(struct committer *c, struct batch *b) {
    enum err e = try_transaction(c, b, false);
    return e == ERR_AGAIN ? try_transaction(c, b, true) : e;
}

static void answer(struct batch *b) {
    for (size_t i = 0; i < b->count; i++)
        store_call_finish(b->call[i], b->result[i]);
}

static void refuse(struct committer *c, struct batch *b) {
    struct store_health h = health_get(c->health);
    for (size_t i = 0; i < b->count; i++) {
        struct store_call *call = b->call[i];
        arena_free(&call->arena);
        b->result[i] = err_set(&call->info, ERR_UNAVAILABLE, "store", "not stored: %s", h.text);
    }
}

static void publish_totals(struct committer *c) {
    int64_t accepted = 0, by_state[RECIPIENT_STATE_COUNT] = {0}, sum = 0;
    c->ops->totals(c->backend, &accepted, by_state);
    for (size_t i = 0; i < RECIPIENT_STATE_COUNT; i++) {
        metric_set_at(metrics.recipients, i, by_state[i]);
        sum += by_state[i];
    }
    metric_set(metrics.balance, accepted - sum);
}

/* What is under way fails with the others. */
static void add_staging(struct committer *c, struct batch *b) {
    if (c->staging.call != NULL && !is_all_staged(c))
        b->call[b->count++] = c->staging.call;
}

static void end_staging(struct committer *c) {
    if (c->backend != NULL)
        c->ops->unstage(c->backend);
    c->staging.call = NULL;
}

static void run_batch(struct committer *c, struct batch *b) {
    int64_t start_mono_us = clock_mono_us();
    for (size_t i = 0; i < b->count; i++)
        b->result[i] = OK;
    bool is_staged_to_end = is_all_staged(c);
    enum err e = run_transaction(c, b);
    if (e == OK) {
        c->staging.at = b->staged;
        metric_add(metrics.commits, 1);
        metric_add(metrics.rows, (int64_t)b->rows);
        metric_observe_us(metrics.seconds, clock_mono_us() - start_mono_us);
        if (!health_get(c->health).is_writable && has_room(c))
            health_set(c->health, true, "ready");
        publish_totals(c);
        watch_list_publish(c->watches, c->effects);
    } else {
        effects_truncate(c->effects, 0);
        after_failure(c);
        add_staging(c, b);
        refuse(c, b);
    }
    if (c->staging.call != NULL && (e != OK || is_staged_to_end))
        end_staging(c); /* before its caller hears that it failed */
    answer(b);
}

static void keep_log_short(struct committer *c) {
    if (c->ops->wal_bytes == NULL || c->backend == NULL)
        return;
    metric_set(metrics.wal, c->ops->wal_bytes(c->backend));
    checkpoint_after_commit(c->checkpoint, c->backend);
}

/* ---- the thread ---- */

/* Appends what came in to what waits. */
static void collect(struct committer *c, int timeout_ms) {
    struct note *n = mailbox_take(c->box, timeout_ms), *next;
    for (; n != NULL; n = next) {
        next = n->next;
        n->next = NULL;
        if (n == &c->stop_note) {
            c->is_stopping = true;
            continue;
        }
        const struct store_call *call = CONTAINER_OF(n, struct store_call, note);
        if (is_staged(c, call)) {
            *c->large_end = n;
            c->large_end = &n->next;
            continue;
        }
        *c->pending_end = n;
        c->pending_end = &n->next;
        if (call_is_patient(call))
            c->pending_patient += rows_of(call);
        else
            c->pending_pressed++;
    }
}

/* A transaction costs a sync and a copy of each page that it touched, whether it holds one result
 * or a hundred. The first one after a quiet moment waits for nothing. */
static void linger(struct committer *c) {
    while (c->pending_pressed == 0 && c->staging.call == NULL && c->large == NULL &&
           !c->is_stopping && c->pending_patient < LINGER_ROWS) {
        int64_t left_ms = c->linger_until_mono_ms - clock_mono_ms();
        if (left_ms <= 0)
            return;
        collect(c, (int)left_ms);
    }
}

/* Many callers were answered just now: they ask again one after the other, and the first must not
 * have a transaction of its own. Half of them are enough, so
 * that the others are read meanwhile; it ends when nobody came during one nap. */
static void wait_for_crowd(struct committer *c) {
    const struct timespec nap = {.tv_nsec = CROWD_NAP_US * 1000};
    if (c->last_pressed < CROWD || c->is_stopping)
        return;
    for (int i = 0; i < CROWD_NAPS && c->pending_pressed < c->last_pressed / 2; i++) {
        size_t before = c->pending_pressed;
        (void)nanosleep(&nap, NULL);
        collect(c, 0);
        if (c->pending_pressed == before)
            return;
    }
}

static bool has_work(const struct committer *c) {
    return c->pending != NULL || c->large != NULL || c->staging.call != NULL;
}

static void committer_main(void *arg) {
    struct committer *c = arg;
    struct batch *b = mem_zalloc(sizeof(*b));
    while (!c->is_stopping || has_work(c)) {
        collect(c, has_work(c) ? 0 : TICK_MS);
        tick(c);
        if (!has_work(c))
            continue;
        linger(c);
        begin_staging(c);
        if (c->pending_pressed > 0)
            wait_for_crowd(c);
        gather(c, b);
        c->last_pressed = c->pending_pressed;
        c->pending_patient = 0;
        c->pending_pressed = c->pending != NULL; /* what is left over has waited */
        if (b->count == 0 && c->staging.call == NULL)
            continue;
        if (c->backend == NULL) {
            add_staging(c, b);
            c->staging.call = NULL;
            refuse(c, b);
            answer(b);
            continue;
        }
        run_batch(c, b);
        keep_log_short(c);
        c->linger_until_mono_ms = clock_mono_ms() + LINGER_MS;
    }
    free(b);
}

struct committer *committer_start(const struct store_ops *ops, const struct store_options *o,
                                  struct backend *backend, struct checkpoint *ck,
                                  struct watch_list *w, struct content_budget *budget) {
    register_metrics();
    struct committer *c = mem_zalloc(sizeof(*c));
    c->ops = ops;
    c->options = *o;
    c->backend = backend;
    c->checkpoint = ck;
    c->watches = w;
    c->effects = effects_new(budget);
    c->box = mailbox_new();
    c->pending_end = &c->pending;
    c->large_end = &c->large;
    c->health = health_new(c->options.folder, w);
    if (ops->file != NULL)
        ops->file(backend, &c->file);
    publish_totals(c);
    c->thread = thread_start("store-commit", committer_main, c);
    return c;
}

void committer_set_floor(struct committer *c, int64_t bytes) {
    health_set_floor(c->health, bytes);
}

void committer_post(struct committer *c, struct store_call *call) {
    mailbox_send(c->box, &call->note);
}

void committer_stop(struct committer **cp) {
    struct committer *c = *cp;
    if (c == NULL)
        return;
    mailbox_send(c->box, &c->stop_note);
    thread_join(&c->thread);
    mailbox_free(&c->box);
    effects_free(&c->effects);
    c->ops->close(&c->backend);
    health_free(&c->health);
    free(c);
    *cp = NULL;
}
