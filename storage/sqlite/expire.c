/* STORE_EXPIRE: a sweep over the open messages whose time is over. What is being sent now is left
 * to its attempt; when that defers it, the next sweep finds it. What is damaged holds up nothing
 * behind it, and stays as it is. */
#include "storage/sqlite/writer.h"

static struct str last_result_of(struct backend *b, const struct rcpt *r) {
    struct str packed = STR_NONE;
    if (r->last_event == 0)
        return packed;
    sqlite3_stmt *st = sq_use(&b->h, SQL_EVENT_RESULT);
    sq_bind_int(st, 1, r->last_event);
    if (sq_row(&b->h, st))
        packed = sq_str(st, 0, b->scratch);
    sq_end(st);
    return packed;
}

/* Whether it can be ended: its rows are those of a version, and so is the queue that it waits in.
 * FOUND_NONE: it is not there. */
static enum found look_at(struct backend *b, recipient_key_t key, struct rcpt *out) {
    enum found found = rcpt_try(b, key, out);
    if (found != FOUND || (out->state != RECIPIENT_QUEUED && out->state != RECIPIENT_SCHEDULED) ||
        queue_try(b, out->queue) != NULL)
        return found;
    if (sq_has_failed(&b->h))
        return FOUND_NONE;
    sq_pass_over(&b->h, DAMAGED_QUEUE, out->queue, "a recipient waits in it");
    return FOUND_DAMAGED;
}

/* Those that are damaged are passed over. When nothing else of the message is open, it is not
 * looked at again: it stays open for ever. */
static size_t expire_message(struct backend *b, struct effects *fx, const struct message_head *m,
                             int64_t now_wall_ms, size_t most) {
    size_t count = 0, i = 0;
    bool is_damaged = false, is_sending = false;
    for (; i < m->recipients && count < most; i++) {
        struct rcpt r;
        enum found found = look_at(b, first_key_of(m->seq) + (recipient_key_t)i, &r);
        is_damaged |= found == FOUND_DAMAGED;
        is_sending |= found == FOUND && r.state == RECIPIENT_SENDING;
        if (found != FOUND || (r.state != RECIPIENT_QUEUED && r.state != RECIPIENT_SCHEDULED))
            continue;
        struct event_in e = {.type = EVENT_RECIPIENT_EXPIRED,
                             .wall_ms = now_wall_ms,
                             .state = RECIPIENT_EXPIRED,
                             .packed_result = last_result_of(b, &r)};
        rcpt_event(b, fx, m, &r, &e);
        rcpt_move(b, m, &r, RECIPIENT_EXPIRED, r.due_wall_ms, now_wall_ms);
        effects_gone(fx, &m->id, r.key);
        count++;
    }
    if (count > 0)
        effects_message(fx, &m->id, message_complete(b, fx, m, now_wall_ms));
    if (is_damaged && !is_sending && i == m->recipients)
        (void)damaged_add(&b->hopeless, DAMAGED_MESSAGE, m->seq);
    return count;
}

/* The open message with the earliest expiry after the place given. */
static enum found next_expired(struct backend *b, int64_t now_wall_ms, struct time_place *at) {
    sqlite3_stmt *st = sq_use(&b->h, SQL_OPEN_EXPIRED);
    sq_bind_int(st, 1, at->wall_ms);
    sq_bind_int(st, 2, at->number);
    sq_bind_int(st, 3, now_wall_ms);
    enum found found = FOUND_NONE;
    if (sq_row(&b->h, st)) {
        found = time_place_move(at, st, 1, 0) ? FOUND : FOUND_DAMAGED;
        if (found == FOUND_DAMAGED)
            sq_pass_over(&b->h, DAMAGED_MESSAGE, sq_int(st, 0), "it expires at no time");
    }
    sq_end(st);
    return found;
}

enum err sqlite_expire(struct backend *b, struct effects *fx, struct store_call *call) {
    struct store_expire *q = CONTAINER_OF(call, struct store_expire, call);
    struct time_place at = {INT64_MIN, 0};
    enum found next;
    b->swept_wall_ms = q->now_wall_ms;
    q->expired = 0;
    while (q->expired < q->most && (next = next_expired(b, q->now_wall_ms, &at)) != FOUND_NONE) {
        struct message_head m;
        int64_t seq = at.number;
        if (next == FOUND_DAMAGED || damaged_has(&b->hopeless, DAMAGED_MESSAGE, seq))
            continue;
        enum found found = message_head_try(b, seq, &m);
        if (found == FOUND)
            q->expired += expire_message(b, fx, &m, q->now_wall_ms, q->most - q->expired);
        else if (found == FOUND_DAMAGED)
            (void)damaged_add(&b->hopeless, DAMAGED_MESSAGE, seq);
    }
    return sq_status(&b->h, &call->info);
}
