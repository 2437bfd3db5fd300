/* Notifications: events on their way to endpoints.
 *
 *   pending ──claim──► sending ──settle──► delivered | failed
 *      ▲  ▲               └─settle(pending): again, later       at the start of the process:
 * sending ──► pending └──┴── replay: delivered, failed ──► pending, due now
 *
 * Those of a disabled endpoint stay pending and are not claimed. */
#include <limits.h>

#include "storage/sqlite/writer.h"

/* Who plans the next one looks for its delay with it. */
static int attempts_at(struct damage *d, sqlite3_stmt *st, int at) {
    return (int)sq_between(d, st, at, 0, INT_MAX - 1); /* one more is counted */
}

static void notification_from_row(struct damage *d, sqlite3_stmt *st, struct arena *a,
                                  struct notification_row *out) {
    *out = (struct notification_row){
        .seq = sq_int(st, 0),
        .webhook_id = sq_id(st, 1),
        .event_id = sq_id(st, 2),
        .type = (enum event_type)sq_enum(d, st, 3, EVENT_TYPE_COUNT),
        .state = (enum notification_state)sq_enum(d, st, 4, NOTIFICATION_FAILED + 1),
        .attempts = attempts_at(d, st, 5),
        .due_wall_ms = sq_time(d, st, 6),
        .created_wall_ms = sq_time(d, st, 7),
        .updated_wall_ms = sq_time(d, st, 8),
        .status = (int)sq_int(st, 9),
        .took_ms = sq_int(st, 10),
        .error = sq_str(st, 11, a),
        .response = sq_str(st, 12, a),
    };
}

/* ---- claim ---- */

/* What is told of: the notification and its event. False: one of them is not there or damaged; such
 * a one stays pending and is passed over, or nobody would hear of anything any more. */
static bool read_one(struct backend *b, struct store_notify_claim *q, int64_t seq) {
    struct arena *a = store_call_arena(&q->call);
    struct damage damage = {0};
    int64_t event = 0;
    sqlite3_stmt *st = sq_use(&b->h, SQL_NOTIFICATION_GET);
    sq_bind_int(st, 1, seq);
    bool found = sq_row(&b->h, st);
    if (found) {
        notification_from_row(&damage, st, a, &q->notification[q->count]);
        event = sq_int(st, 13);
    }
    sq_end(st);
    st = sq_use(&b->h, SQL_EVENT_GET);
    sq_bind_int(st, 1, event);
    if (sq_row(&b->h, st))
        event_from_row(&damage, st, a, &q->event[q->count]);
    else
        damage_note(&damage, "it has no event");
    sq_end(st);
    return !sq_has_failed(&b->h) && sq_is_sound(&b->h, &damage, DAMAGED_NOTIFICATION, seq);
}

static void claim_one(struct backend *b, struct store_notify_claim *q, int64_t seq) {
    if (!read_one(b, q, seq))
        return;
    struct notification_row *n = &q->notification[q->count++];
    n->state = NOTIFICATION_SENDING;
    n->updated_wall_ms = q->now_wall_ms;
    sqlite3_stmt *st = sq_use(&b->h, SQL_NOTIFICATION_CLAIM);
    sq_bind_int(st, 1, seq);
    sq_bind_int(st, 2, q->now_wall_ms);
    sq_run(&b->h, st);
}

static size_t count_sending(struct backend *b, int64_t webhook) {
    sqlite3_stmt *st = sq_use(&b->h, SQL_NOTIFICATION_SENDING);
    sq_bind_int(st, 1, webhook);
    size_t count = sq_row(&b->h, st) ? (size_t)sq_int(st, 0) : 0;
    sq_end(st);
    return count;
}

/* The next ones behind `from`, at most `most`, which moves to the last of them. `good` are those
 * that can be claimed. */
static size_t next_due(struct backend *b, const struct store_notify_claim *q, int64_t webhook,
                       struct time_place *from, int64_t *seqs, size_t *good, size_t most) {
    size_t n = 0;
    *good = 0;
    sqlite3_stmt *st = sq_use(&b->h, SQL_NOTIFICATION_DUE);
    sq_bind_int(st, 1, webhook);
    sq_bind_int(st, 2, q->now_wall_ms);
    sq_bind_int(st, 3, from->wall_ms);
    sq_bind_int(st, 4, from->number);
    sq_bind_int(st, 5, (int64_t)most);
    for (; sq_row(&b->h, st); n++)
        if (time_place_move(from, st, 1, 0))
            seqs[(*good)++] = sq_int(st, 0);
        else
            sq_pass_over(&b->h, DAMAGED_NOTIFICATION, sq_int(st, 0), "it is due at no time");
    sq_end(st);
    return n;
}

static void claim_of_webhook(struct backend *b, struct store_notify_claim *q, int64_t webhook,
                             size_t share, int64_t *seqs) {
    size_t room = q->most - q->count, sending = count_sending(b, webhook);
    size_t more = sending < share ? share - sending : 0;
    size_t end = q->count + (more < room ? more : room);
    struct time_place place = {INT64_MIN, 0};
    while (q->count < end) { /* again only when some were passed over */
        size_t wanted = end - q->count, good;
        size_t n = next_due(b, q, webhook, &place, seqs, &good, wanted);
        for (size_t i = 0; i < good; i++)
            claim_one(b, q, seqs[i]);
        if (n < wanted)
            break;
    }
    sqlite3_stmt *st = sq_use(&b->h, SQL_NOTIFICATION_NEXT);
    sq_bind_int(st, 1, webhook);
    sq_bind_int(st, 2, place.wall_ms);
    sq_bind_int(st, 3, place.number);
    if (sq_row(&b->h, st) && (q->next_due_wall_ms == 0 || sq_int(st, 0) < q->next_due_wall_ms))
        q->next_due_wall_ms = sq_int(st, 0);
    sq_end(st);
}

enum err sqlite_notify_claim(struct backend *b, struct effects *fx, struct store_call *call) {
    (void)fx;
    struct store_notify_claim *q = CONTAINER_OF(call, struct store_notify_claim, call);
    struct arena *a = store_call_arena(call);
    q->notification = ARENA_ARRAY(a, struct notification_row, q->most);
    q->event = ARENA_ARRAY(a, struct event_row, q->most);
    q->count = 0;
    q->next_due_wall_ms = 0;
    int64_t *seqs = ARENA_ARRAY(b->scratch, int64_t, q->most);
    size_t count;
    const struct webhook_copy *w = webhooks_copy(b, &count);
    /* Begins at another endpoint each time, so that none is last for ever. */
    for (size_t i = 0; i < count; i++) {
        const struct webhook_copy *one = &w[(b->notify_turn + i) % count];
        if (one->row.state != WEBHOOK_DISABLED)
            claim_of_webhook(b, q, one->n, store_notify_share(q, &one->row.id), seqs);
    }
    b->notify_turn++;
    return sq_status(&b->h, &call->info);
}

/* ---- settle ---- */

struct head {
    enum notification_state state;
    int attempts;
    int64_t webhook, project;
    enum webhook_state webhook_state;
    bool is_deleted, has_created;
    struct id webhook_id;
};

static enum found find_head(struct backend *b, int64_t seq, struct head *out) {
    struct damage damage = {0}, of_created = {0};
    sqlite3_stmt *st = sq_use(&b->h, SQL_NOTIFICATION_HEAD);
    sq_bind_int(st, 1, seq);
    bool found = sq_row(&b->h, st);
    if (found) {
        *out = (struct head){
            .state = (enum notification_state)sq_enum(&damage, st, 0, NOTIFICATION_FAILED + 1),
            .attempts = attempts_at(&damage, st, 1),
            .webhook = sq_int(st, 2),
            .is_deleted = sq_int(st, 3) > WEBHOOK_DISABLED,
            .project = sq_int(st, 4),
            .webhook_id = sq_id(st, 5),
        };
        if (!out->is_deleted)
            out->webhook_state = (enum webhook_state)sq_int(st, 3);
        (void)sq_time(&of_created, st, 6);
        out->has_created = of_created.why == NULL;
    }
    sq_end(st);
    return sq_found(&b->h, found, &damage, DAMAGED_NOTIFICATION, seq);
}

static void set_webhook(struct backend *b, struct effects *fx, const struct head *h,
                        enum webhook_state to, struct str why, int64_t now_wall_ms) {
    if (h->is_deleted || h->webhook_state == to)
        return;
    sqlite3_stmt *st = sq_use(&b->h, SQL_WEBHOOK_STATE);
    sq_bind_int(st, 1, h->webhook);
    sq_bind_int(st, 2, to);
    sq_run(&b->h, st);
    webhooks_changed(b);
    effects_kind(fx, NOTICE_WEBHOOKS);
    if (to == WEBHOOK_ENABLED)
        return;
    event_put(b, fx,
              &(struct event_in){.type = EVENT_WEBHOOK_DISABLED,
                                 .project = h->project,
                                 .wall_ms = now_wall_ms,
                                 .recipient = -1,
                                 .webhook_id = h->webhook_id,
                                 .note = why,
                                 .except_webhook = h->webhook},
              NULL);
}

static void settle_one(struct backend *b, struct effects *fx, const struct notify_result *r,
                       const struct head *h, int64_t now_wall_ms) {
    sqlite3_stmt *st = sq_use(&b->h, SQL_NOTIFICATION_SET);
    sq_bind_int(st, 1, r->seq);
    sq_bind_int(st, 2, r->state);
    sq_bind_int(st, 3, h->attempts + (r->counts ? 1 : 0));
    sq_bind_int(st, 4, r->state == NOTIFICATION_PENDING ? r->due_wall_ms : now_wall_ms);
    sq_bind_int(st, 5, now_wall_ms);
    sq_bind_int(st, 6, r->status);
    sq_bind_int(st, 7, r->took_ms);
    sq_bind_str(st, 8, r->error);
    sq_bind_str(st, 9, r->response);
    sq_run(&b->h, st);
    if (r->state != NOTIFICATION_PENDING)
        b->now.notifications_pending--;
    if (r->disable_webhook)
        set_webhook(b, fx, h, WEBHOOK_DISABLED, STR("disabled: it answered that it is gone"),
                    now_wall_ms);
    else if (r->mark_failing && h->webhook_state == WEBHOOK_ENABLED)
        set_webhook(b, fx, h, WEBHOOK_FAILING,
                    STR("failing: every attempt to deliver an event failed"), now_wall_ms);
    else if (r->mark_working && h->webhook_state == WEBHOOK_FAILING)
        set_webhook(b, fx, h, WEBHOOK_ENABLED, STR_NONE, now_wall_ms);
}

enum err sqlite_notify_settle(struct backend *b, struct effects *fx, struct store_call *call) {
    const struct store_notify_settle *q = CONTAINER_OF(call, struct store_notify_settle, call);
    for (size_t i = 0; i < q->count; i++) {
        struct head h = {0};
        if (find_head(b, q->result[i].seq, &h) != FOUND)
            continue; /* its endpoint was deleted and swept meanwhile; or it is damaged */
        if (h.state != NOTIFICATION_SENDING || q->result[i].state == NOTIFICATION_SENDING)
            return err_set(
                &call->info, ERR_CONFLICT, "state", "a notification that is %s cannot become %s",
                notification_state_name(h.state), notification_state_name(q->result[i].state));
        settle_one(b, fx, &q->result[i], &h, q->now_wall_ms);
    }
    return sq_status(&b->h, &call->info);
}

/* ---- replay ---- */

static void again(struct backend *b, int64_t seq, enum notification_state state,
                  int64_t now_wall_ms) {
    sqlite3_stmt *st = sq_use(&b->h, SQL_NOTIFICATION_AGAIN);
    sq_bind_int(st, 1, seq);
    sq_bind_int(st, 2, now_wall_ms);
    sq_run(&b->h, st);
    b->now.notifications_pending += state == NOTIFICATION_DELIVERED || state == NOTIFICATION_FAILED;
}

static enum err replay_one(struct backend *b, struct store_notify_replay *q, int64_t webhook) {
    struct head h = {0};
    enum found found = find_head(b, q->seq, &h);
    if (found == FOUND_NONE || (found == FOUND && h.webhook != webhook)) {
        enum err e = sq_status(&b->h, &q->call.info);
        return e != OK ? e : err_set(&q->call.info, ERR_NOT_FOUND, "seq", "no such notification");
    }
    if (found == FOUND_DAMAGED || !h.has_created) /* no claim would take it */
        return err_set(&q->call.info, ERR_CONFLICT, "seq", "the notification is damaged");
    if (h.state == NOTIFICATION_SENDING)
        return err_set(&q->call.info, ERR_CONFLICT, "seq", "the notification is being sent");
    if (q->only_failed && h.state != NOTIFICATION_FAILED)
        return OK;
    again(b, q->seq, h.state, q->now_wall_ms);
    q->replayed = 1;
    return OK;
}

/* One step: a period can hold millions. */
static void replay_period(struct backend *b, struct store_notify_replay *q, int64_t webhook) {
    q->last_seq = q->after_seq;
    for (size_t looked = 0; looked < q->most; looked++) {
        sqlite3_stmt *st = sq_use(&b->h, SQL_NOTIFICATION_NEXT_OF);
        sq_bind_int(st, 1, webhook);
        sq_bind_int(st, 2, q->last_seq);
        if (!sq_row(&b->h, st))
            return;
        int64_t state = sq_int(st, 1); /* a damaged one is none of those that go again */
        struct damage damage = {0};
        int64_t created_wall_ms = sq_time(&damage, st, 2);
        (void)attempts_at(&damage, st, 3);
        q->last_seq = sq_int(st, 0);
        sq_end(st);
        if (!sq_is_sound(&b->h, &damage, DAMAGED_NOTIFICATION, q->last_seq))
            continue; /* no claim would take it */
        if (created_wall_ms < q->since_wall_ms || created_wall_ms > q->until_wall_ms ||
            !(state == NOTIFICATION_FAILED || (state == NOTIFICATION_DELIVERED && !q->only_failed)))
            continue;
        again(b, q->last_seq, (enum notification_state)state, q->now_wall_ms);
        q->replayed++;
    }
    q->more = true;
}

enum err sqlite_notify_replay(struct backend *b, struct effects *fx, struct store_call *call) {
    struct store_notify_replay *q = CONTAINER_OF(call, struct store_notify_replay, call);
    q->replayed = 0;
    q->more = false;
    sqlite3_stmt *st = sq_use(&b->h, SQL_WEBHOOK_FIND);
    sq_bind_id(st, 1, &q->webhook_id);
    bool found = sq_row(&b->h, st) && (q->project == -1 || sq_int(st, 1) == q->project);
    int64_t webhook = found ? sq_int(st, 0) : 0;
    bool is_disabled = found && sq_int(st, 2) == WEBHOOK_DISABLED;
    sq_end(st);
    if (!found) {
        enum err e = sq_status(&b->h, &call->info);
        return e != OK ? e : err_set(&call->info, ERR_NOT_FOUND, "id", "no such endpoint");
    }
    if (is_disabled)
        return err_set(&call->info, ERR_CONFLICT, "id", "the endpoint is disabled");
    enum err e = OK;
    if (q->seq != 0)
        e = replay_one(b, q, webhook);
    else
        replay_period(b, q, webhook);
    if (e == OK && q->replayed > 0)
        effects_kind(fx, NOTICE_NOTIFY);
    return e != OK ? e : sq_status(&b->h, &call->info);
}

/* ---- the delivery log ---- */

/* One statement, of those before `before`; it answers the last that it saw, or AT_END. */
enum { AT_END = -1 };

static int64_t read_page(struct backend_reader *r, struct store_notifications *q, int64_t webhook,
                         int64_t before) {
    struct arena *a = store_call_arena(&q->call);
    size_t rows = 0;
    sqlite3_stmt *st = sq_use(&r->h, SQL_NOTIFICATIONS);
    sq_bind_int(st, 1, webhook);
    sq_bind_int(st, 2, before);
    sq_bind_int(st, 3, (int64_t)q->limit + 1);
    for (; sq_row(&r->h, st); rows++) {
        struct damage damage = {0};
        struct notification_row n;
        if (q->count == q->limit) {
            q->more = true;
            break;
        }
        notification_from_row(&damage, st, a, &n);
        before = n.seq;
        if (!sq_is_sound(&r->h, &damage, DAMAGED_NOTIFICATION, n.seq))
            continue;
        q->notification = rows_grow(a, q->notification, sizeof(*q->notification), q->count);
        q->notification[q->count++] = n;
    }
    sq_end(st);
    return q->more || rows <= q->limit ? AT_END : before;
}

enum err sqlite_notifications(struct backend_reader *r, struct store_call *call) {
    struct store_notifications *q = CONTAINER_OF(call, struct store_notifications, call);
    struct sq *h = &r->h;
    q->notification = NULL;
    q->count = 0;
    q->more = false;
    sqlite3_stmt *st = sq_use(h, SQL_WEBHOOK_FIND);
    sq_bind_id(st, 1, &q->webhook_id);
    int64_t webhook = 0;
    if (sq_row(h, st) && (q->project == -1 || sq_int(st, 1) == q->project))
        webhook = sq_int(st, 0);
    sq_end(st);
    int64_t before = q->before_seq > 0 ? q->before_seq : INT64_MAX;
    while (webhook != 0 && before != AT_END) { /* again only when some were passed over */
        reader_rest(r);
        before = read_page(r, q, webhook, before);
    }
    enum err e = sq_status(h, &call->info);
    sq_forget(h);
    if (e == OK && webhook == 0)
        e = err_set(&call->info, ERR_NOT_FOUND, "id", "no such endpoint");
    return e;
}
