/* STORE_RETAIN: a sweep in small steps over what has become old. Sequences are in order of time, so
 * each kind is looked at from its oldest row until one is too young; what is old but still needed
 * is passed over, LOOK_MOST at most in a step. */
#include "storage/sqlite/writer.h"

enum { LOOK_MOST = 10000 };

struct sweep {
    struct backend *b;
    const struct store_retain *q;
    size_t left; /* rows of this step */
};

static void took(struct sweep *s) {
    s->left--;
}

static bool is_open(struct backend *b, int64_t seq) {
    sqlite3_stmt *st = sq_use(&b->h, SQL_OPEN_HAS);
    sq_bind_int(st, 1, seq);
    bool is = sq_row(&b->h, st);
    sq_end(st);
    return is;
}

static int64_t one_int(struct backend *b, enum sql id, int64_t v1, int64_t v2) {
    sqlite3_stmt *st = sq_use(&b->h, id);
    sq_bind_int(st, 1, v1);
    sq_bind_int(st, 2, v2);
    int64_t v = sq_row(&b->h, st) ? sq_int(st, 0) : 0;
    sq_end(st);
    return v;
}

static void delete_range(struct backend *b, enum sql id, int64_t from, int64_t to) {
    sqlite3_stmt *st = sq_use(&b->h, id);
    sq_bind_int(st, 1, from);
    sq_bind_int(st, 2, to);
    sq_run(&b->h, st);
}

static void delete_one(struct backend *b, enum sql id, int64_t key) {
    sqlite3_stmt *st = sq_use(&b->h, id);
    sq_bind_int(st, 1, key);
    sq_run(&b->h, st);
}

/* ---- contents ---- */

static void sweep_contents(struct sweep *s) {
    struct backend *b = s->b;
    int64_t body = b->retain_body;
    b->retain_body = 0;
    for (int looked = 0; s->left > 0; looked++) {
        if (looked == LOOK_MOST) {
            b->retain_body = body;
            return;
        }
        sqlite3_stmt *st = sq_use(&b->h, SQL_RETAIN_BODIES);
        sq_bind_int(st, 1, body);
        if (!sq_row(&b->h, st))
            return;
        int64_t seq = sq_int(st, 0), created_wall_ms = sq_int(st, 2);
        bool is_retry = sq_bool(st, 3);
        body = sq_int(st, 1);
        sq_end(st);
        if (created_wall_ms < s->q->content_before_wall_ms && !is_open(b, seq)) {
            body_erase(b, seq, body);
            took(s);
            body--; /* others may share it */
        } else if (created_wall_ms >= s->q->content_before_wall_ms && !is_retry) {
            return; /* bodies are in order of time, but a retry shares an old one */
        }
    }
}

/* ---- messages ---- */

static void delete_message(struct backend *b, int64_t seq, int64_t body) {
    if (body != 0)
        body_erase(b, seq, body);
    delete_range(b, SQL_RECIPIENTS_DELETE, first_key_of(seq), last_key_of(seq));
    delete_range(b, SQL_ATTEMPTS_DELETE, seq << ATTEMPT_BITS, ((seq + 1) << ATTEMPT_BITS) - 1);
    delete_one(b, SQL_MESSAGE_DELETE, seq);
}

static void sweep_messages(struct sweep *s) {
    struct backend *b = s->b;
    int64_t seq = b->retain_message;
    b->retain_message = 0;
    for (int looked = 0; s->left > 0; looked++) {
        if (looked == LOOK_MOST) {
            b->retain_message = seq;
            return;
        }
        sqlite3_stmt *st = sq_use(&b->h, SQL_RETAIN_MESSAGES);
        sq_bind_int(st, 1, seq);
        if (!sq_row(&b->h, st))
            return;
        int64_t body = sq_int(st, 1), created_wall_ms = sq_int(st, 2);
        seq = sq_int(st, 0);
        sq_end(st);
        if (created_wall_ms >= s->q->events_before_wall_ms)
            return;
        /* An event needs its message as long as it lives. */
        if (is_open(b, seq) || one_int(b, SQL_RECIPIENT_NEWEST, first_key_of(seq),
                                       last_key_of(seq)) >= s->q->events_before_wall_ms)
            continue;
        delete_message(b, seq, body);
        took(s);
    }
}

static void sweep_terms(struct sweep *s) {
    sqlite3_stmt *st = sq_use(&s->b->h, SQL_MESSAGE_OLDEST);
    int64_t oldest = 0;
    if (sq_row(&s->b->h, st))
        oldest = sqlite3_column_type(st, 0) == SQLITE_NULL ? s->b->now.next_message : sq_int(st, 0);
    sq_end(st);
    delete_range(s->b, SQL_TERM_DELETE, oldest / TERM_BUCKET, (int64_t)s->q->most * 8);
}

/* ---- events and notifications ---- */

static void sweep_events(struct sweep *s) {
    struct backend *b = s->b;
    while (s->left > 0) {
        sqlite3_stmt *st = sq_use(&b->h, SQL_EVENT_OLD);
        if (!sq_row(&b->h, st))
            return;
        int64_t seq = sq_int(st, 0), wall_ms = sq_int(st, 1);
        sq_end(st);
        if (wall_ms >= s->q->events_before_wall_ms)
            return;
        delete_one(b, SQL_EVENT_DELETE, seq);
        took(s);
    }
}

static void delete_notification(struct backend *b, int64_t seq, enum notification_state state) {
    delete_one(b, SQL_NOTIFICATION_DELETE, seq);
    b->now.notifications_pending -= state == NOTIFICATION_PENDING || state == NOTIFICATION_SENDING;
}

/* Those of events that go, before the events. */
static void sweep_notifications(struct sweep *s) {
    struct backend *b = s->b;
    while (s->left > 0) {
        sqlite3_stmt *st = sq_use(&b->h, SQL_NOTIFICATION_OLD);
        if (!sq_row(&b->h, st))
            return;
        int64_t seq = sq_int(st, 0), created_wall_ms = sq_int(st, 2);
        enum notification_state state =
            (enum notification_state)sq_enum(&b->h, st, 1, NOTIFICATION_FAILED + 1);
        sq_end(st);
        if (created_wall_ms >= s->q->events_before_wall_ms)
            return;
        delete_notification(b, seq, state);
        took(s);
    }
}

/* Of endpoints that were deleted; then the endpoint itself. */
static void sweep_deleted_webhooks(struct sweep *s) {
    struct backend *b = s->b;
    while (s->left > 0) {
        int64_t webhook = one_int(b, SQL_WEBHOOK_DELETED, 0, 0);
        if (webhook == 0)
            return;
        sqlite3_stmt *st = sq_use(&b->h, SQL_NOTIFICATION_ANY_OF);
        sq_bind_int(st, 1, webhook);
        bool found = sq_row(&b->h, st);
        int64_t seq = found ? sq_int(st, 0) : 0;
        enum notification_state state =
            found ? (enum notification_state)sq_enum(&b->h, st, 1, NOTIFICATION_FAILED + 1)
                  : NOTIFICATION_FAILED;
        sq_end(st);
        if (found)
            delete_notification(b, seq, state);
        else
            delete_one(b, SQL_WEBHOOK_DELETE, webhook);
        took(s);
    }
}

/* ---- the rest ---- */

static void sweep_by_count(struct sweep *s, enum sql id, int64_t v1) {
    if (s->left == 0)
        return;
    int64_t before = sqlite3_total_changes64(s->b->h.db);
    delete_range(s->b, id, v1, (int64_t)s->left);
    int64_t gone = sqlite3_total_changes64(s->b->h.db) - before;
    s->left -= gone < (int64_t)s->left ? (size_t)gone : s->left;
}

static void sweep_captures(struct sweep *s, enum capture_kind kind) {
    if (s->left == 0)
        return;
    sqlite3_stmt *st = sq_use(&s->b->h, SQL_CAPTURE_DELETE_OLD);
    sq_bind_int(st, 1, kind);
    sq_bind_int(st, 2, (int64_t)s->q->captures_most);
    sq_bind_int(st, 3, (int64_t)s->left);
    int64_t before = sqlite3_total_changes64(s->b->h.db);
    sq_run(&s->b->h, st);
    int64_t gone = sqlite3_total_changes64(s->b->h.db) - before;
    s->left -= gone < (int64_t)s->left ? (size_t)gone : s->left;
}

enum err sqlite_retain(struct backend *b, struct effects *fx, struct store_call *call) {
    (void)fx;
    struct store_retain *q = CONTAINER_OF(call, struct store_retain, call);
    struct sweep s = {b, q, q->most};
    sweep_contents(&s);
    sweep_notifications(&s);
    sweep_deleted_webhooks(&s);
    sweep_events(&s);
    sweep_messages(&s);
    sweep_terms(&s);
    sweep_by_count(&s, SQL_IDEMPOTENCY_DELETE_OLD, q->now_wall_ms);
    sweep_captures(&s, CAPTURE_MESSAGE);
    sweep_captures(&s, CAPTURE_WEBHOOK);
    q->removed = q->most - s.left;
    sqlite3_stmt *st = sq_use(&b->h, SQL_QUEUE_DELETE_EMPTY);
    sq_bind_int(st, 1, (int64_t)q->most);
    sq_run(&b->h, st);
    sq_run(&b->h, sq_use(&b->h, SQL_VACUUM));
    return sq_status(&b->h, &call->info);
}
