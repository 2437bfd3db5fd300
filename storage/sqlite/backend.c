/* The SQLite backend: opening, transactions, the table of verbs. */
#include <stdio.h>
#include <stdlib.h>

#include "server/base/clock.h"
#include "server/base/limits.h"
#include "server/base/log.h"
#include "storage/sqlite/writer.h"

/* Results of an attempt with 1,000 recipients, each with texts of 1 KiB. */
enum { PACK_MOST = 4 * 1024 * 1024 };
/* So long the others have when one crashes the process each time that it is sent. */
enum { AGAIN_LATER_MS = 10 * 1000 };

/* ---- counters ---- */

static enum err load_counters(struct backend *b, struct errinfo *info) {
    sqlite3_stmt *st = sq_use(&b->h, SQL_COUNTER_GET);
    if (sq_row(&b->h, st)) {
        b->now = (struct counters){
            .next_message = sq_int(st, 0),
            .next_event = sq_int(st, 1),
            .next_body = sq_int(st, 2),
            .next_queue = sq_int(st, 3),
            .next_notification = sq_int(st, 4),
            .accepted = sq_int(st, 5),
            .notifications_pending = sq_int(st, 6 + RECIPIENT_STATE_COUNT),
        };
        for (int i = 0; i < RECIPIENT_STATE_COUNT; i++)
            b->now.by_state[i] = sq_int(st, 6 + i);
    } else if (!sq_has_failed(&b->h)) {
        sq_fail(&b->h, SQLITE_CORRUPT, "the row of counters is missing");
    }
    sq_end(st);
    b->committed = b->now;
    b->page_bytes = sq_exec_int(&b->h, "PRAGMA page_size"); /* of an older store: 16 KiB */
    return sq_status(&b->h, info);
}

static void write_counters(struct backend *b) {
    const struct counters *c = &b->now;
    sqlite3_stmt *st = sq_use(&b->h, SQL_COUNTER_SET);
    sq_bind_int(st, 1, c->next_message);
    sq_bind_int(st, 2, c->next_event);
    sq_bind_int(st, 3, c->next_body);
    sq_bind_int(st, 4, c->next_queue);
    sq_bind_int(st, 5, c->next_notification);
    sq_bind_int(st, 6, c->accepted);
    for (int i = 0; i < RECIPIENT_STATE_COUNT; i++)
        sq_bind_int(st, 7 + i, c->by_state[i]);
    sq_bind_int(st, 7 + RECIPIENT_STATE_COUNT, c->notifications_pending);
    sq_run(&b->h, st);
}

void writer_flush(struct backend *b) {
    queue_flush(b);
    if (memcmp(&b->now, &b->committed, sizeof(b->now)) != 0)
        write_counters(b);
}

/* ---- transactions ---- */

static enum backend_status backend_status(const struct backend *b) {
    if (sq_is_full(&b->h))
        return BACKEND_FULL;
    return sq_status(&b->h, NULL) == ERR_UNAVAILABLE ? BACKEND_BROKEN : BACKEND_READY;
}

static enum err backend_begin(struct backend *b) {
    ASSERT(!b->in_transaction);
    if (backend_status(b) == BACKEND_BROKEN)
        return ERR_UNAVAILABLE; /* nothing more goes through this handle */
    if (sq_has_failed(&b->h))
        sq_forget(&b->h);
    sq_run(&b->h, sq_use(&b->h, SQL_BEGIN));
    b->in_transaction = !sq_has_failed(&b->h);
    b->webhooks_touched = b->has_written = false;
    arena_clear(b->scratch);
    return b->in_transaction ? OK : ERR_UNAVAILABLE;
}

/* What is kept in memory becomes what the database has. The failure stays: whoever asks for the
 * status afterwards sees it. */
static void backend_rollback(struct backend *b) {
    int rc = b->h.rc;
    char text[sizeof(b->h.text)];
    memcpy(text, b->h.text, sizeof(text));
    sq_forget(&b->h);
    /* Full and I/O errors may have rolled back already. */
    if (!sqlite3_get_autocommit(b->h.db))
        sq_run(&b->h, sq_use(&b->h, SQL_ROLLBACK));
    if (sq_has_failed(&b->h)) {
        sq_forget(&b->h);
        sq_fail(&b->h, SQLITE_IOERR, "a transaction cannot be rolled back");
    } else if (rc != SQLITE_OK && (rc & 0xFF) != SQLITE_CONSTRAINT) {
        b->h.rc = rc;
        memcpy(b->h.text, text, sizeof(text));
    }
    b->in_transaction = false;
    b->places = b->places_committed;
    b->now = b->committed;
    b->change_count = 0;
    b->staged_is_used = false;
    queue_forget(b);
    if (b->webhooks_touched)
        b->webhooks_known = false;
}

static enum err backend_commit(struct backend *b) {
    writer_flush(b);
    if (!sq_has_failed(&b->h))
        sq_run(&b->h, sq_use(&b->h, SQL_COMMIT));
    if (sq_has_failed(&b->h)) {
        backend_rollback(b);
        return ERR_UNAVAILABLE;
    }
    b->in_transaction = false;
    b->committed = b->now;
    b->places_committed = b->places;
    return OK;
}

static enum err backend_savepoint(struct backend *b) {
    sq_run(&b->h, sq_use(&b->h, SQL_SAVEPOINT));
    b->at_savepoint = b->now;
    b->changes_at_savepoint = b->change_count;
    b->staged_is_used_at_savepoint = b->staged_is_used;
    return sq_has_failed(&b->h) ? ERR_UNAVAILABLE : OK;
}

static enum err backend_savepoint_release(struct backend *b) {
    sq_run(&b->h, sq_use(&b->h, SQL_SAVEPOINT_RELEASE));
    return sq_has_failed(&b->h) ? ERR_UNAVAILABLE : OK;
}

static enum err backend_savepoint_rollback(struct backend *b) {
    sq_forget(&b->h);
    sq_run(&b->h, sq_use(&b->h, SQL_SAVEPOINT_ROLLBACK));
    sq_run(&b->h, sq_use(&b->h, SQL_SAVEPOINT_RELEASE));
    /* A number of a queue that was given out stays so: the cache knows the queue by it. */
    int64_t next_queue = b->now.next_queue;
    b->now = b->at_savepoint;
    b->now.next_queue = next_queue;
    b->change_count = b->changes_at_savepoint;
    b->places = b->places_committed;
    /* Another verb's failure takes no body away from the message that was accepted with it. */
    b->staged_is_used = b->staged_is_used_at_savepoint;
    if (b->webhooks_touched)
        b->webhooks_known = false;
    return sq_has_failed(&b->h) ? ERR_UNAVAILABLE : OK;
}

static int64_t backend_change_count(const struct backend *b) {
    return sqlite3_total_changes64(b->h.db);
}

static bool backend_has_written(const struct backend *b) {
    return b->has_written;
}

static const char *backend_status_text(const struct backend *b) {
    return b->h.text;
}

static enum err backend_probe(struct backend *b) {
    sq_forget(&b->h);
    if (backend_begin(b) != OK)
        return ERR_UNAVAILABLE;
    b->now.next_body++; /* what stands there already would not be written */
    return backend_commit(b);
}

static void backend_totals(const struct backend *b, int64_t *accepted, int64_t by_state[]) {
    *accepted = b->committed.accepted;
    memcpy(by_state, b->committed.by_state, sizeof(b->committed.by_state));
}

/* ---- the log ---- */

static int on_wal(void *arg, sqlite3 *db, const char *name, int pages) {
    (void)db;
    (void)name;
    struct backend *b = arg;
    b->has_written = true;
    b->wal_bytes = pages * b->page_bytes;
    return SQLITE_OK;
}

static int64_t backend_wal_bytes(const struct backend *b) {
    return b->wal_bytes;
}

/* True when all frames are in the main file, so that the next transaction begins at the start. */
static bool copy_log(struct sq *h) {
    int in_log = 0, copied = 0;
    int rc = sqlite3_wal_checkpoint_v2(h->db, NULL, SQLITE_CHECKPOINT_PASSIVE, &in_log, &copied);
    if (rc != SQLITE_OK && (rc & 0xFF) != SQLITE_BUSY)
        log_warn("storage", "a checkpoint failed", LOG_STRZ("reason", sqlite3_errmsg(h->db)));
    return rc == SQLITE_OK && in_log == copied;
}

static bool backend_checkpoint(struct backend *b) {
    return copy_log(&b->h);
}

/* ---- opening ---- */

static enum err migrate(struct backend *b, bool is_start, struct errinfo *info) {
    size_t first;
    enum err e = migrate_plan((int)sq_exec_int(&b->h, "PRAGMA user_version"), &first, info);
    if (e != OK)
        return e;
    if (!is_start && first < migration_count && !sq_has_failed(&b->h))
        return err_set(info, ERR_UNAVAILABLE, "store",
                       "the store was emptied or replaced while it was open");
    for (size_t i = first; i < migration_count; i++) {
        sq_exec(&b->h, "BEGIN IMMEDIATE");
        sq_exec(&b->h, migrations[i].sql);
        sq_exec(&b->h, migrations[i].set_version);
        sq_exec(&b->h, "COMMIT");
        if (!sq_has_failed(&b->h))
            log_info("storage", "migrated", LOG_INT("version", migrations[i].version),
                     LOG_STRZ("name", migrations[i].name));
    }
    return sq_status(&b->h, info);
}

/* What was under way when the last process ended. Nobody knows whether the peer took it. */
static void recover_sending(struct backend *b, int64_t now_wall_ms) {
    int64_t seq = 0;
    while (b->now.by_state[RECIPIENT_SENDING] > 0) {
        sqlite3_stmt *st = sq_use(&b->h, SQL_RECIPIENT_SENDING_NEXT);
        sq_bind_int(st, 1, seq);
        bool found = sq_row(&b->h, st);
        if (found)
            seq = message_of_key(sq_int(st, 0));
        sq_end(st);
        struct message_head m;
        if (!found)
            return;
        if (message_head_find(b, seq, &m) != FOUND)
            continue; /* it stays as it is, and the others do not */
        for (size_t i = 0; i < m.recipients; i++) {
            struct rcpt r;
            if (rcpt_find(b, first_key_of(seq) + (recipient_key_t)i, &r) != FOUND ||
                r.state != RECIPIENT_SENDING)
                continue;
            /* As it was, so that it keeps its place; of a clock that was ahead: now. Who was under
             * way at a crash before may be what crashes: the others go first. */
            int64_t due_wall_ms = r.due_wall_ms < now_wall_ms ? r.due_wall_ms : now_wall_ms;
            if (r.duplicate)
                due_wall_ms = now_wall_ms + AGAIN_LATER_MS;
            r.duplicate = true;
            rcpt_move(b, &m, &r, RECIPIENT_QUEUED, due_wall_ms, now_wall_ms);
        }
        arena_clear(b->scratch);
    }
}

/* The total says when there is nothing more to recover. One that says too few would leave the rest
 * as they are, for ever; then the totals do not sum up to what was accepted. */
static void count_sending(struct backend *b) {
    int64_t sum = 0;
    for (int i = 0; i < RECIPIENT_STATE_COUNT; i++)
        sum += b->now.by_state[i];
    if (sum >= b->now.accepted)
        return;
    log_warn("storage", "the totals are damaged; what was under way is counted anew",
             LOG_INT("accepted", b->now.accepted), LOG_INT("sum", sum));
    sqlite3_stmt *st = sq_use(&b->h, SQL_RECIPIENT_SENDING_COUNT);
    if (sq_row(&b->h, st))
        b->now.by_state[RECIPIENT_SENDING] = sq_int(st, 0);
    sq_end(st);
}

static void recover_claims(struct backend *b) {
    count_sending(b);
    int64_t now_wall_ms = clock_wall_ms(), sending = b->now.by_state[RECIPIENT_SENDING];
    recover_sending(b, now_wall_ms);
    sqlite3_stmt *st = sq_use(&b->h, SQL_NOTIFICATION_RECOVER);
    sq_bind_int(st, 1, now_wall_ms);
    sq_run(&b->h, st);
    if (sending > 0)
        log_warn("storage", "attempts were under way at the last stop; they are repeated",
                 LOG_INT("recipients", sending));
}

static enum err recover(struct backend *b, bool is_start, struct errinfo *info) {
    enum err e = backend_begin(b);
    if (e == OK) {
        body_remove_orphans(b);
        if (is_start)
            recover_claims(b);
        e = backend_commit(b);
    }
    return e == OK ? OK : err_set(info, e, "store", "%s", b->h.text);
}

static void backend_close(struct backend **bp) {
    struct backend *b = *bp;
    if (b == NULL)
        return;
    *bp = NULL;
    b->change_count = 0;
    queue_forget(b);
    sq_close(&b->h);
    arena_free(&b->scratch);
    arena_free(&b->webhook_arena);
    buf_release(&b->pack);
    free(b->change);
    free(b);
}

/* What is opened again is the file that was opened at the start: mail that went into a new one, or
 * into another, would be out of sight when that is back. */
static enum err find_file(const struct store_options *o, const struct backend_file *was,
                          struct backend_file *out, struct errinfo *info) {
    enum err e = was == NULL ? sq_make_file(o, info) : OK;
    if (e == OK)
        e = sq_find_file(o, out, info);
    if (e == OK && was != NULL && (out->device != was->device || out->inode != was->inode))
        e = err_set(info, ERR_UNAVAILABLE, "store",
                    "outbox.db in %s is not the file that was opened at the start: put that back, "
                    "or restart",
                    o->folder);
    return e;
}

static enum err backend_open(const struct store_options *o, const struct backend_file *was,
                             struct backend **out, struct errinfo *info) {
    bool is_start = was == NULL;
    struct backend *b = mem_zalloc(sizeof(*b));
    buf_init(&b->pack, PACK_MOST);
    b->scratch = arena_new();
    b->webhook_arena = arena_new();
    enum err e = find_file(o, was, &b->file, info);
    if (e == OK)
        e = sq_open(&b->h, o, true, info);
    if (e == OK)
        e = migrate(b, is_start, info);
    if (e == OK)
        e = load_counters(b, info);
    if (e == OK && is_start)
        e = sealed_renew(b, info);
    if (e == OK) {
        sqlite3_wal_hook(b->h.db, on_wal, b);
        e = recover(b, is_start, info);
    }
    if (e != OK) {
        backend_close(&b);
        return e;
    }
    *out = b;
    return OK;
}

static void backend_file(const struct backend *b, struct backend_file *out) {
    *out = b->file;
}

/* ---- readers ---- */

static enum err backend_reader_open(const struct store_options *o, struct backend *b,
                                    struct backend_reader **out, struct errinfo *info) {
    (void)b;
    struct backend_reader *r = mem_zalloc(sizeof(*r));
    enum err e = sq_open(&r->h, o, false, info);
    if (e != OK) {
        free(r);
        return e;
    }
    *out = r;
    return OK;
}

static void backend_reader_close(struct backend_reader **rp) {
    sq_close(&(*rp)->h);
    free(*rp);
    *rp = NULL;
}

static void backend_read_begin(struct backend_reader *r) {
    sq_run(&r->h, sq_use(&r->h, SQL_READ_BEGIN));
    sq_forget(&r->h); /* without it each read has a snapshot of its own */
}

static void backend_read_end(struct backend_reader *r) {
    sq_end_snapshot(&r->h);
}

static void backend_reader_rests(struct backend_reader *r, void (*rest)(void *arg), void *arg) {
    r->rest = rest;
    r->rest_arg = arg;
}

void reader_rest(struct backend_reader *r) {
    if (r->rest != NULL && !sq_has_failed(&r->h)) /* who comes in between would forget it */
        r->rest(r->rest_arg);
}

static bool backend_reader_checkpoint(struct backend_reader *r) {
    return copy_log(&r->h);
}

const struct store_ops store_sqlite_ops = {
    .name = "sqlite",
    .open = backend_open,
    .file = backend_file,
    .close = backend_close,
    .begin = backend_begin,
    .commit = backend_commit,
    .rollback = backend_rollback,
    .savepoint = backend_savepoint,
    .savepoint_release = backend_savepoint_release,
    .savepoint_rollback = backend_savepoint_rollback,
    .change_count = backend_change_count,
    .has_written = backend_has_written,
    .status = backend_status,
    .status_text = backend_status_text,
    .stage = body_stage,
    .unstage = body_unstage,
    .probe = backend_probe,
    .totals = backend_totals,
    .wal_bytes = backend_wal_bytes,
    .checkpoint = backend_checkpoint,
    .reader_open = backend_reader_open,
    .reader_close = backend_reader_close,
    .read_begin = backend_read_begin,
    .read_end = backend_read_end,
    .reader_rests = backend_reader_rests,
    .reader_checkpoint = backend_reader_checkpoint,
    .check = sqlite_check,
    .write =
        {
            [STORE_ACCEPT] = sqlite_accept,
            [STORE_CLAIM] = sqlite_claim,
            [STORE_SETTLE] = sqlite_settle,
            [STORE_RELEASE] = sqlite_release,
            [STORE_CANCEL] = sqlite_cancel,
            [STORE_RETRY] = sqlite_retry,
            [STORE_EXPIRE] = sqlite_expire,
            [STORE_RETAIN] = sqlite_retain,
            [STORE_MEND] = sqlite_mend,
            [STORE_KEY_PUT] = sqlite_key_put,
            [STORE_KEY_REVOKE] = sqlite_key_revoke,
            [STORE_KEYS_USED] = sqlite_keys_used,
            [STORE_DOMAIN_PUT] = sqlite_domain_put,
            [STORE_DOMAIN_DELETE] = sqlite_domain_delete,
            [STORE_DOMAIN_CHECKED] = sqlite_domain_checked,
            [STORE_WEBHOOK_PUT] = sqlite_webhook_put,
            [STORE_WEBHOOK_DELETE] = sqlite_webhook_delete,
            [STORE_WEBHOOK_TEST] = sqlite_webhook_test,
            [STORE_NOTIFY_CLAIM] = sqlite_notify_claim,
            [STORE_NOTIFY_SETTLE] = sqlite_notify_settle,
            [STORE_NOTIFY_REPLAY] = sqlite_notify_replay,
            [STORE_CAPTURE_PUT] = sqlite_capture_put,
        },
    .read =
        {
            [STORE_DUE] = sqlite_due,
            [STORE_CONTENT] = sqlite_content,
            [STORE_MESSAGE] = sqlite_message,
            [STORE_MESSAGES] = sqlite_messages,
            [STORE_EVENTS] = sqlite_events,
            [STORE_ATTEMPTS] = sqlite_attempts,
            [STORE_TOTALS] = sqlite_totals,
            [STORE_KEYS] = sqlite_keys,
            [STORE_DOMAINS] = sqlite_domains,
            [STORE_WEBHOOKS] = sqlite_webhooks,
            [STORE_NOTIFICATIONS] = sqlite_notifications,
            [STORE_CAPTURES] = sqlite_captures,
            [STORE_CAPTURE] = sqlite_capture,
        },
};
