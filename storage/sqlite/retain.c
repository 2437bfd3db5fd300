/* STORE_RETAIN: a sweep in small steps over what has become old. Sequences are in order of time, so
 * each kind is looked at from its oldest row until one is too young; what is old but still needed
 * is passed over, LOOK_MOST at most in a step. A step ends after `most` rows, those counted that
 * hang on what is removed: accepts wait for it. */
#include "storage/sqlite/writer.h"

enum {
    AT_END = -1,
    LOOK_MOST = 1000,
    FUTURE_MS = 60 * 1000,    /* so far ahead nobody's clock is who writes at this moment */
    BYTES_OF_ROW = 64 * 1024, /* so much of a content costs as much as a row */
    PAGES_KEPT = 1024,        /* so many free ones may stay, and ... */
    PAGES_KEPT_PART = 8,      /* ... this part of all: new rows take them, nothing has to move */
};

struct sweep {
    struct backend *b;
    struct store_retain *q;
    size_t left; /* rows of this step */
};

/* One thing is gone, and `rows` with it: one at least, whatever is damaged. */
static void took(struct sweep *s, int64_t rows) {
    s->q->removed++;
    if (rows < 1)
        rows = 1;
    s->left -= rows < (int64_t)s->left ? (size_t)rows : s->left;
}

static int64_t rows_of_content(int64_t size_bytes) {
    return 1 + size_bytes / BYTES_OF_ROW;
}

static bool is_of_the_future(const struct sweep *s, int64_t wall_ms) {
    return s->q->mends_times && wall_ms > s->q->now_wall_ms + FUTURE_MS;
}

static void set_time(struct sweep *s, enum sql id, int64_t seq) {
    sqlite3_stmt *st = sq_use(&s->b->h, id);
    sq_bind_int(st, 1, seq);
    sq_bind_int(st, 2, s->q->now_wall_ms);
    sq_run(&s->b->h, st);
    s->left--;
}

/* Written by a clock that was wrong: it would keep everything behind it for as long. */
static bool is_mended(struct sweep *s, enum sql id, int64_t seq, int64_t wall_ms) {
    if (!is_of_the_future(s, wall_ms))
        return false;
    set_time(s, id, seq);
    return true;
}

static bool is_open(struct backend *b, int64_t seq) {
    sqlite3_stmt *st = sq_use(&b->h, SQL_OPEN_HAS);
    sq_bind_int(st, 1, seq);
    bool is = sq_row(&b->h, st);
    sq_end(st);
    return is;
}

/* The same of a message. One that is open keeps its times: STORE_MEND goes by what lies between
 * them, and if it is the clock now that is wrong, it must not expire early when that is right. */
static bool is_message_mended(struct sweep *s, int64_t seq, int64_t created_wall_ms) {
    if (!is_of_the_future(s, created_wall_ms))
        return false;
    if (!is_open(s->b, seq))
        set_time(s, SQL_MESSAGE_SET_TIME, seq);
    return true;
}

/* 0: no row. */
static int64_t one_int(struct backend *b, enum sql id, int64_t v1) {
    sqlite3_stmt *st = sq_use(&b->h, id);
    if (v1 != 0)
        sq_bind_int(st, 1, v1);
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

/* Goes on behind `from`, and answers behind what to go on in the next step, or AT_END. */
typedef int64_t (*part_fn)(struct sweep *s, int64_t from);

/* A part that took several steps rests until all those have come to their ends: each beginning anew
 * as soon as it had, there would always be one that is on its way. */
static void sweep_on(struct sweep *s, struct place *p, part_fn go) {
    if (p->is_done)
        return;
    int64_t from = p->at, to = go(s, from);
    p->is_done = to == AT_END && from != 0;
    p->at = to == AT_END ? 0 : to;
}

/* The same of what removes as it goes: when the rows of the first step are spent it begins anew. */
static void sweep_part(struct sweep *s, struct place *p, part_fn go) {
    bool is_begun = p->at != 0;
    sweep_on(s, p, go);
    if (s->left == 0 && !is_begun)
        p->at = 0;
}

static void end_step(struct sweep *s) {
    struct places *p = &s->b->places;
    s->q->more |= s->left == 0 || p->retain_waiting != 0;
    struct place *part[] = {&p->retain_body, &p->retain_notification, &p->retain_event,
                            &p->retain_message, &p->retain_queue};
    bool is_any_begun = false;
    for (size_t i = 0; i < sizeof(part) / sizeof(*part); i++)
        is_any_begun |= part[i]->at != 0;
    for (size_t i = 0; !is_any_begun && i < sizeof(part) / sizeof(*part); i++)
        part[i]->is_done = false;
    s->q->more |= is_any_begun;
}

/* ---- contents ---- */

static int64_t sweep_contents(struct sweep *s, int64_t body) {
    struct backend *b = s->b;
    for (int looked = 0; s->left > 0 && looked < LOOK_MOST; looked++) {
        sqlite3_stmt *st = sq_use(&b->h, SQL_RETAIN_BODIES);
        sq_bind_int(st, 1, body);
        if (!sq_row(&b->h, st))
            return AT_END;
        int64_t seq = sq_int(st, 0), created_wall_ms = sq_int(st, 2), size_bytes = sq_int(st, 4);
        bool is_retry = sq_bool(st, 3);
        body = sq_int(st, 1);
        sq_end(st);
        if (is_message_mended(s, seq, created_wall_ms))
            continue;
        if (created_wall_ms < s->q->content_before_wall_ms && !is_open(b, seq)) {
            body_erase(b, seq, body);
            took(s, rows_of_content(size_bytes));
            body--; /* others may share it */
        } else if (created_wall_ms >= s->q->content_before_wall_ms && !is_retry) {
            return AT_END; /* bodies are in order of time, but a retry shares an old one */
        }
    }
    return body;
}

/* ---- messages ---- */

struct old_message {
    int64_t seq, body, created_wall_ms, recipients, size_bytes;
};

/* Its attempts can be very many: what of them does not fit into this step goes in the next. */
static void delete_message(struct sweep *s, const struct old_message *m) {
    struct backend *b = s->b;
    int64_t before = sqlite3_total_changes64(b->h.db);
    sqlite3_stmt *st = sq_use(&b->h, SQL_ATTEMPTS_DELETE);
    sq_bind_int(st, 1, m->seq << ATTEMPT_BITS);
    sq_bind_int(st, 2, ((m->seq + 1) << ATTEMPT_BITS) - 1);
    sq_bind_int(st, 3, (int64_t)s->left);
    sq_run(&b->h, st);
    int64_t gone = sqlite3_total_changes64(b->h.db) - before;
    if (gone >= (int64_t)s->left) {
        took(s, gone);
        return;
    }
    if (m->body != 0)
        body_erase(b, m->seq, m->body);
    delete_range(b, SQL_RECIPIENTS_DELETE, first_key_of(m->seq), last_key_of(m->seq));
    delete_one(b, SQL_MESSAGE_DELETE, m->seq);
    bool is_damaged = m->recipients < 0 || m->recipients > RECIPIENT_KEY_SPAN;
    int64_t recipients = is_damaged ? RECIPIENT_KEY_SPAN : m->recipients;
    took(s, gone + recipients + (m->body != 0 ? rows_of_content(m->size_bytes) : 1));
}

static bool next_message(struct backend *b, struct old_message *m) {
    sqlite3_stmt *st = sq_use(&b->h, SQL_RETAIN_MESSAGES);
    sq_bind_int(st, 1, m->seq);
    bool found = sq_row(&b->h, st);
    if (found)
        *m = (struct old_message){sq_int(st, 0), sq_int(st, 1), sq_int(st, 2), sq_int(st, 3),
                                  sq_int(st, 4)};
    sq_end(st);
    return found;
}

/* An event needs its message as long as it lives. */
static bool has_event(struct backend *b, int64_t seq) {
    return one_int(b, SQL_EVENT_OF_MESSAGE, seq) != 0;
}

static int64_t sweep_messages(struct sweep *s, int64_t from) {
    struct backend *b = s->b;
    struct old_message m = {.seq = from};
    for (int looked = 0; s->left > 0 && looked < LOOK_MOST; looked++) {
        if (!next_message(b, &m))
            return AT_END;
        if (is_message_mended(s, m.seq, m.created_wall_ms))
            continue;
        if (m.created_wall_ms >= s->q->events_before_wall_ms)
            return AT_END;
        if (!is_open(b, m.seq) && !has_event(b, m.seq)) {
            delete_message(s, &m);
            m.seq--; /* there may be something left of it */
        }
    }
    return m.seq;
}

static void sweep_terms(struct sweep *s) {
    sqlite3_stmt *st = sq_use(&s->b->h, SQL_MESSAGE_OLDEST);
    int64_t oldest = 0;
    if (sq_row(&s->b->h, st))
        oldest = sqlite3_column_type(st, 0) == SQLITE_NULL ? s->b->now.next_message : sq_int(st, 0);
    sq_end(st);
    /* They are small and lie side by side; a message has some. */
    int64_t before = sqlite3_total_changes64(s->b->h.db), most = (int64_t)s->q->most * 8;
    delete_range(s->b, SQL_TERM_DELETE, oldest / TERM_BUCKET, most);
    s->q->more |= sqlite3_total_changes64(s->b->h.db) - before == most;
}

/* A damaged row can say that nothing waits: the flush counts anew. */
static void count_forgotten(struct backend *b, int64_t from, int64_t to) {
    sqlite3_stmt *st = sq_use(&b->h, SQL_QUEUE_FORGOTTEN);
    sq_bind_int(st, 1, from);
    sq_bind_int(st, 2, to);
    while (sq_row(&b->h, st)) {
        struct queue *q = queue_find(b, sq_int(st, 0));
        if (q != NULL)
            queue_changed(b, q, 0, 0);
    }
    sq_end(st);
}

/* Rows of queues in which nothing waits, a part of the table in each step. */
static int64_t sweep_queues(struct sweep *s, int64_t from) {
    struct backend *b = s->b;
    sqlite3_stmt *st = sq_use(&b->h, SQL_QUEUE_AFTER);
    sq_bind_int(st, 1, from);
    sq_bind_int(st, 2, LOOK_MOST);
    int64_t last = 0;
    if (sq_row(&b->h, st) && sqlite3_column_type(st, 0) != SQLITE_NULL)
        last = sq_int(st, 0);
    sq_end(st);
    if (last == 0)
        return AT_END;
    count_forgotten(b, from, last);
    delete_range(b, SQL_QUEUE_DELETE_EMPTY, from, last);
    return last;
}

/* ---- events and notifications ---- */

/* Notifications in their order, which is that of their events but where some are damaged: so many
 * are looked at together, and as long as most of them are sound the others hide none. */
enum { NEEDS = 32 };
struct need {
    int64_t seq, event;
};
struct needs {
    struct backend *b;
    int64_t behind; /* all up to here are about events before the one that was asked about last */
    struct need at[NEEDS];
    int count, looked;
    bool is_end; /* there are no more */
};

static void needs_fill(struct needs *n) {
    while (n->count < NEEDS && !n->is_end) {
        sqlite3_stmt *st = sq_use(&n->b->h, SQL_NOTIFICATION_EVENT_AFTER);
        sq_bind_int(st, 1, n->count > 0 ? n->at[n->count - 1].seq : n->behind);
        n->is_end = !sq_row(&n->b->h, st);
        if (!n->is_end)
            n->at[n->count++] = (struct need){.seq = sq_int(st, 0), .event = sq_int(st, 1)};
        sq_end(st);
    }
}

/* Most of those behind it are about earlier events: it is damaged, and would hold up the others. */
static bool is_first_damaged(const struct needs *n) {
    int earlier = 0;
    for (int i = 1; i < n->count; i++)
        earlier += n->at[i].event < n->at[0].event;
    return n->count == NEEDS && earlier > NEEDS / 2;
}

/* Goes on to those that are about `event` or a later one. false: it is too far for this step. */
static bool needs_from(struct needs *n, int64_t event) {
    for (;; n->looked++) {
        needs_fill(n);
        if (n->count == 0 || (n->at[0].event >= event && !is_first_damaged(n)))
            return true;
        if (n->looked == LOOK_MOST)
            return false;
        n->behind = n->at[0].seq;
        memmove(n->at, n->at + 1, (size_t)--n->count * sizeof(n->at[0]));
    }
}

static bool is_needed(const struct needs *n, int64_t event) {
    for (int i = 0; i < n->count; i++)
        if (n->at[i].event == event)
            return true;
    return false;
}

/* What the last attempt said goes into the event of the expiry, and is shown until then. */
static bool is_last_reply(struct backend *b, int64_t seq) {
    return one_int(b, SQL_EVENT_IS_LAST_REPLY, seq) != 0;
}

static int64_t sweep_events(struct sweep *s, int64_t seq) {
    struct backend *b = s->b;
    struct needs needs = {.b = b, .behind = b->places.retain_waiting};
    b->places.retain_waiting = 0;
    for (int looked = 0; s->left > 0 && looked < LOOK_MOST; looked++) {
        sqlite3_stmt *st = sq_use(&b->h, SQL_EVENT_OLD);
        sq_bind_int(st, 1, seq);
        if (!sq_row(&b->h, st))
            return AT_END;
        int64_t next = sq_int(st, 0), wall_ms = sq_int(st, 1);
        sq_end(st);
        if (!is_mended(s, SQL_EVENT_SET_TIME, next, wall_ms)) {
            if (wall_ms >= s->q->events_before_wall_ms)
                return AT_END;
            if (!needs_from(&needs, next))
                break;
            if (!is_needed(&needs, next) && !is_last_reply(b, next)) {
                delete_one(b, SQL_EVENT_DELETE, next);
                took(s, 1);
            }
        }
        seq = next;
    }
    b->places.retain_waiting = needs.behind;
    return seq;
}

static void delete_notification(struct backend *b, int64_t seq, enum notification_state state) {
    delete_one(b, SQL_NOTIFICATION_DELETE, seq);
    b->now.notifications_pending -= state == NOTIFICATION_PENDING || state == NOTIFICATION_SENDING;
}

/* Those of events that go, before the events. What waits for an endpoint that may yet take it is
 * kept; it changes at each attempt, so not for ever. */
static int64_t sweep_notifications(struct sweep *s, int64_t seq) {
    struct backend *b = s->b;
    for (int looked = 0; s->left > 0 && looked < LOOK_MOST; looked++) {
        sqlite3_stmt *st = sq_use(&b->h, SQL_NOTIFICATION_OLD);
        sq_bind_int(st, 1, seq);
        if (!sq_row(&b->h, st))
            return AT_END;
        seq = sq_int(st, 0);
        int64_t created_wall_ms = sq_int(st, 2), updated_wall_ms = sq_int(st, 3);
        struct damage damage = {0};
        enum notification_state state =
            (enum notification_state)sq_enum(&damage, st, 1, NOTIFICATION_FAILED + 1);
        bool is_served =
            sqlite3_column_type(st, 4) != SQLITE_NULL && sq_int(st, 4) < WEBHOOK_DISABLED;
        sq_end(st);
        if (!sq_is_sound(&b->h, &damage, DAMAGED_NOTIFICATION, seq))
            continue;
        int64_t latest_wall_ms =
            updated_wall_ms > created_wall_ms ? updated_wall_ms : created_wall_ms;
        if (is_mended(s, SQL_NOTIFICATION_SET_TIME, seq, latest_wall_ms))
            continue;
        bool waits = state == NOTIFICATION_PENDING || state == NOTIFICATION_SENDING;
        if (created_wall_ms >= s->q->events_before_wall_ms)
            return AT_END;
        if (waits && is_served && updated_wall_ms >= s->q->waiting_before_wall_ms)
            continue;
        delete_notification(b, seq, state);
        took(s, 1);
    }
    return seq;
}

/* Of endpoints that were deleted; then the endpoint itself. */
static void sweep_deleted_webhooks(struct sweep *s) {
    struct backend *b = s->b;
    while (s->left > 0) {
        int64_t webhook = one_int(b, SQL_WEBHOOK_DELETED, 0);
        if (webhook == 0)
            return;
        sqlite3_stmt *st = sq_use(&b->h, SQL_NOTIFICATION_ANY_OF);
        sq_bind_int(st, 1, webhook);
        bool found = sq_row(&b->h, st);
        int64_t seq = found ? sq_int(st, 0) : 0;
        /* whatever it is: nobody will ask for it again */
        enum notification_state state =
            found ? (enum notification_state)sq_int(st, 1) : NOTIFICATION_FAILED;
        sq_end(st);
        if (found)
            delete_notification(b, seq, state);
        else
            delete_one(b, SQL_WEBHOOK_DELETE, webhook);
        took(s, 1);
    }
}

/* ---- the rest ---- */

static void took_since(struct sweep *s, int64_t changes_before) {
    int64_t gone = sqlite3_total_changes64(s->b->h.db) - changes_before;
    s->q->removed += (size_t)gone;
    s->left -= gone < (int64_t)s->left ? (size_t)gone : s->left;
}

/* Made by a clock that was ahead: as those that are made now. Nobody knows when one was made, only
 * when it ends; so it may as well be the clock now that is behind, and a key that is forgotten
 * early sends a message twice: only what lies far beyond is set. A period that was made so much
 * shorter counts from now for those that are there. */
static void mend_keys(struct sweep *s) {
    if (!s->q->mends_times || s->q->keys_latest_wall_ms == 0 || s->left == 0)
        return;
    int64_t before = sqlite3_total_changes64(s->b->h.db);
    sqlite3_stmt *st = sq_use(&s->b->h, SQL_IDEMPOTENCY_SET_UNTIL);
    sq_bind_int(st, 1, s->q->keys_latest_wall_ms);
    sq_bind_int(st, 2, s->q->keys_latest_wall_ms + KEY_SLACK_MS);
    sq_bind_int(st, 3, (int64_t)s->left);
    sq_run(&s->b->h, st);
    s->left -= (size_t)(sqlite3_total_changes64(s->b->h.db) - before);
}

static void sweep_keys(struct sweep *s) {
    mend_keys(s);
    int64_t before = sqlite3_total_changes64(s->b->h.db);
    if (s->left > 0)
        delete_range(s->b, SQL_IDEMPOTENCY_DELETE_OLD, s->q->now_wall_ms, (int64_t)s->left);
    took_since(s, before);
}

static void sweep_captures(struct sweep *s, enum capture_kind kind) {
    struct backend *b = s->b;
    sqlite3_stmt *st = sq_use(&b->h, SQL_CAPTURE_COUNT);
    sq_bind_int(st, 1, kind);
    int64_t beyond = sq_row(&b->h, st) ? sq_int(st, 0) - (int64_t)s->q->captures_most : 0;
    sq_end(st);
    for (; beyond > 0 && s->left > 0; beyond--) {
        st = sq_use(&b->h, SQL_CAPTURE_OLDEST);
        sq_bind_int(st, 1, kind);
        bool found = sq_row(&b->h, st);
        int64_t n = found ? sq_int(st, 0) : 0, size_bytes = found ? sq_int(st, 1) : 0;
        sq_end(st);
        if (!found)
            return;
        delete_one(b, SQL_CAPTURE_DELETE, n);
        took(s, rows_of_content(size_bytes));
    }
}

/* Free pages go back to the disk. A step can free far more than fits into one: when much is free,
 * more goes back in each, and there are steps until little is. A file that cannot become smaller is
 * not asked for ever. */
static void give_back(struct sweep *s) {
    struct backend *b = s->b;
    int64_t pages_free = one_int(b, SQL_PAGES_FREE, 0), pages = one_int(b, SQL_PAGES, 0);
    bool is_much = pages_free > PAGES_KEPT && pages_free > pages / PAGES_KEPT_PART;
    sq_run(&b->h, sq_use(&b->h, is_much ? SQL_VACUUM_MUCH : SQL_VACUUM));
    if (is_much && one_int(b, SQL_PAGES_FREE, 0) < pages_free)
        s->q->more = true;
}

enum err sqlite_retain(struct backend *b, struct effects *fx, struct store_call *call) {
    (void)fx;
    struct store_retain *q = CONTAINER_OF(call, struct store_retain, call);
    struct sweep s = {b, q, q->most};
    q->removed = 0;
    q->more = false;
    sweep_part(&s, &b->places.retain_body, sweep_contents);
    sweep_on(&s, &b->places.retain_notification, sweep_notifications);
    sweep_deleted_webhooks(&s);
    if (b->places.retain_notification.at == 0)
        sweep_on(&s, &b->places.retain_event, sweep_events);
    if (b->places.retain_notification.at == 0 && b->places.retain_event.at == 0)
        sweep_on(&s, &b->places.retain_message, sweep_messages);
    sweep_terms(&s);
    sweep_keys(&s);
    sweep_captures(&s, CAPTURE_MESSAGE);
    sweep_captures(&s, CAPTURE_WEBHOOK);
    sweep_part(&s, &b->places.retain_queue, sweep_queues);
    end_step(&s);
    give_back(&s);
    return sq_status(&b->h, &call->info);
}
