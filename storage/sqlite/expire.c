/* STORE_EXPIRE: a sweep over the open messages whose time is over. What is being sent now is left
 * to its attempt; when that defers it, the next sweep finds it. What is damaged holds up nothing
 * behind it, and stays as it is. */
#include "storage/sqlite/writer.h"

enum { LOOK_MOST = 5000 }; /* messages and recipients of one step */

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

/* Those that are damaged are passed over. */
static size_t expire_message(struct backend *b, struct effects *fx, const struct message_head *m,
                             int64_t now_wall_ms, size_t most) {
    size_t count = 0;
    for (size_t i = 0; i < m->recipients && count < most; i++) {
        struct rcpt r;
        if (rcpt_find(b, first_key_of(m->seq) + (recipient_key_t)i, &r) != FOUND ||
            r.waits_in == NULL)
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

/* What is damaged stays open, and is the first for ever: so a step looks at a bounded number of
 * rows, and the next goes on behind them, until it comes to the end. */
enum err sqlite_expire(struct backend *b, struct effects *fx, struct store_call *call) {
    struct store_expire *q = CONTAINER_OF(call, struct store_expire, call);
    struct time_place *place = &b->places.expire, at = *place;
    enum found found = FOUND;
    q->expired = 0;
    if (at.number == 0)
        at.wall_ms = INT64_MIN;
    for (size_t looked = 0; looked < LOOK_MOST && q->expired < q->most;) {
        *place = at; /* the last one again: something may be left of it */
        found = next_expired(b, q->now_wall_ms, &at);
        if (found == FOUND_NONE)
            break;
        struct message_head m;
        looked++;
        if (found != FOUND || message_head_find(b, at.number, &m) != FOUND)
            continue;
        looked += m.recipients;
        q->expired += expire_message(b, fx, &m, q->now_wall_ms, q->most - q->expired);
    }
    q->more = found != FOUND_NONE;
    if (!q->more)
        *place = (struct time_place){0};
    return sq_status(&b->h, &call->info);
}
