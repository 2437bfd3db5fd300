/* STORE_MEND: after the clock was set back, what was planned before is moved into reach. */
#include "storage/sqlite/writer.h"

enum { LOOK_MOST = 1000 }; /* queues of one step */

static int64_t one_int(struct backend *b, enum sql id, int64_t v1) {
    sqlite3_stmt *st = sq_use(&b->h, id);
    sq_bind_int(st, 1, v1);
    int64_t v = sq_row(&b->h, st) ? sq_int(st, 0) : 0;
    sq_end(st);
    return v;
}

/* The next recipient of the queue that is due too late, behind the place given. Those that are
 * scheduled were asked to wait for a date. */
static enum found next_late(struct backend *b, int64_t queue, struct time_place *at) {
    sqlite3_stmt *st = sq_use(&b->h, SQL_QUEUE_DUE_AFTER);
    sq_bind_int(st, 1, queue);
    sq_bind_int(st, 2, at->wall_ms);
    sq_bind_int(st, 3, at->number);
    enum found found = FOUND_NONE;
    if (sq_row(&b->h, st)) {
        found = time_place_move(at, st, 1, 0) ? FOUND : FOUND_DAMAGED;
        if (found == FOUND_DAMAGED)
            sq_pass_over(&b->h, DAMAGED_MESSAGE, message_of_key(sq_int(st, 0)),
                         "a recipient is due at no time");
    }
    sq_end(st);
    return found;
}

/* `a` holds nothing but its message, which is read for each of its recipients. */
static bool hasten(struct backend *b, struct effects *fx, recipient_key_t key, int64_t now_wall_ms,
                   struct arena *a) {
    struct rcpt r;
    struct message_head m;
    struct message_row row;
    arena_clear(a);
    if (message_find(&b->h, message_of_key(key), a, &row) != FOUND ||
        rcpt_find(b, key, &r) != FOUND || message_head_find(b, row.seq, &m) != FOUND)
        return false; /* else the step would fail each time that it is tried */
    rcpt_move(b, &m, &r, RECIPIENT_QUEUED, now_wall_ms, now_wall_ms);
    struct outgoing *o = outgoing_new(&row, NULL, effects_budget(fx));
    effects_due(fx, &m.id,
                &(struct due_row){.key = r.key,
                                  .outgoing = o,
                                  .attempts = r.attempts,
                                  .no_domain_wall_ms = r.no_domain_wall_ms,
                                  .possible_duplicate = r.duplicate,
                                  .due_wall_ms = now_wall_ms,
                                  .email = r.email,
                                  .queue_key = queue_key_of(r.email, r.route_key)});
    outgoing_unref(&o);
    return true;
}

/* Goes on in the queue where the last step ended. */
static void mend_recipients(struct backend *b, struct effects *fx, struct store_mend *q,
                            struct arena *a) {
    int64_t queue = b->places.mend_queue;
    b->places.mend_queue = 0;
    for (int looked = 0;; looked++) {
        if (looked == LOOK_MOST || q->mended >= q->most) {
            b->places.mend_queue = queue;
            q->more = true;
            return;
        }
        int64_t next = one_int(b, SQL_QUEUE_NEXT, queue);
        if (next == 0)
            return;
        struct time_place at = {q->due_latest_wall_ms, INT64_MAX};
        enum found found;
        while (q->mended < q->most && (found = next_late(b, next, &at)) != FOUND_NONE)
            q->mended += found == FOUND && hasten(b, fx, at.number, q->now_wall_ms, a);
        if (q->mended < q->most)
            queue = next;
    }
}

static void mend_notifications(struct backend *b, struct effects *fx, struct store_mend *q) {
    size_t count;
    const struct webhook_copy *w = webhooks_copy(b, &count);
    for (size_t i = 0; i < count && q->mended < q->most; i++) {
        int64_t before = sqlite3_total_changes64(b->h.db);
        sqlite3_stmt *st = sq_use(&b->h, SQL_NOTIFICATION_HASTEN);
        sq_bind_int(st, 1, w[i].n);
        sq_bind_int(st, 2, q->notify_latest_wall_ms);
        sq_bind_int(st, 3, q->now_wall_ms);
        sq_bind_int(st, 4, (int64_t)(q->most - q->mended));
        sq_run(&b->h, st);
        size_t of_this = (size_t)(sqlite3_total_changes64(b->h.db) - before);
        if (of_this > 0)
            effects_kind(fx, NOTICE_NOTIFY);
        q->mended += of_this;
    }
}

static void set_expiry(struct backend *b, enum sql id, int64_t seq, int64_t expires_wall_ms) {
    sqlite3_stmt *st = sq_use(&b->h, id);
    sq_bind_int(st, 1, seq);
    sq_bind_int(st, 2, expires_wall_ms);
    sq_run(&b->h, st);
}

static void mend_expiry(struct backend *b, struct store_mend *q) {
    for (; q->mended < q->most; q->mended++) {
        sqlite3_stmt *st = sq_use(&b->h, SQL_OPEN_LATE);
        sq_bind_int(st, 1, q->expires_latest_wall_ms);
        if (!sq_row(&b->h, st))
            return;
        int64_t seq = sq_int(st, 0), life_ms = sq_int(st, 1) - sq_int(st, 2);
        sq_end(st);
        int64_t most_ms = q->expires_latest_wall_ms - q->now_wall_ms;
        int64_t expires_wall_ms =
            q->now_wall_ms + (life_ms < 0 || life_ms > most_ms ? most_ms : life_ms);
        set_expiry(b, SQL_OPEN_SET_EXPIRY, seq, expires_wall_ms);
        set_expiry(b, SQL_MESSAGE_SET_EXPIRY, seq, expires_wall_ms);
    }
}

enum err sqlite_mend(struct backend *b, struct effects *fx, struct store_call *call) {
    struct store_mend *q = CONTAINER_OF(call, struct store_mend, call);
    q->mended = 0;
    q->more = false;
    if (q->due_latest_wall_ms != 0) {
        struct arena *a = arena_new();
        mend_recipients(b, fx, q, a);
        arena_free(&a);
    }
    if (q->notify_latest_wall_ms != 0)
        mend_notifications(b, fx, q);
    if (q->expires_latest_wall_ms != 0)
        mend_expiry(b, q);
    q->more |= q->mended >= q->most;
    return sq_status(&b->h, &call->info);
}
