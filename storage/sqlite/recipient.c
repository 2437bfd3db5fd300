/* The one place where a recipient changes state. */
#include "storage/sqlite/writer.h"

static bool waits(enum recipient_state s) {
    return s == RECIPIENT_QUEUED || s == RECIPIENT_SCHEDULED;
}

enum found message_head_find(struct backend *b, int64_t seq, struct message_head *out) {
    struct damage damage = {0};
    sqlite3_stmt *st = sq_use(&b->h, SQL_MESSAGE_HEAD);
    sq_bind_int(st, 1, seq);
    bool found = sq_row(&b->h, st);
    if (found)
        *out = (struct message_head){
            .seq = seq,
            .id = sq_id(st, 0),
            .project = sq_int(st, 1),
            .lane = (enum lane)sq_enum(&damage, st, 2, LANE_COUNT),
            .recipients = (size_t)sq_between(&damage, st, 3, 1, RECIPIENT_KEY_SPAN),
            .body = sq_int(st, 4),
        };
    sq_end(st);
    return sq_found(&b->h, found, &damage, DAMAGED_MESSAGE, seq);
}

enum found rcpt_find(struct backend *b, recipient_key_t key, struct rcpt *out) {
    struct damage damage = {0};
    sqlite3_stmt *st = sq_use(&b->h, SQL_RECIPIENT_GET);
    sq_bind_int(st, 1, key);
    bool is_row = sq_row(&b->h, st);
    if (is_row)
        *out = (struct rcpt){
            .key = key,
            .state = (enum recipient_state)sq_enum(&damage, st, 0, RECIPIENT_STATE_COUNT),
            .attempts = (int)sq_int(st, 1),
            .no_domain_wall_ms = sq_int(st, 2),
            .queue = sq_int(st, 3),
            .due_wall_ms = sq_int(st, 4),
            .event_seq = (uint32_t)sq_int(st, 5),
            .duplicate = sq_bool(st, 6),
            .last_event = sq_int(st, 7),
            .email = sq_str(st, 8, b->scratch),
            .route_key = sq_str(st, 9, b->scratch),
            .kind = (enum recipient_kind)sq_enum(&damage, st, 10, RECIPIENT_BCC + 1),
        };
    sq_end(st);
    enum found found = sq_found(&b->h, is_row, &damage, DAMAGED_MESSAGE, message_of_key(key));
    if (found != FOUND || !waits(out->state))
        return found;
    out->waits_in = queue_find(b, out->queue);
    if (out->waits_in != NULL)
        return FOUND;
    return sq_has_failed(&b->h) ? FOUND_NONE : FOUND_DAMAGED;
}

enum err message_to_change(struct backend *b, struct store_call *call, const struct id *id,
                           int64_t project, struct message_row *row, struct message_head *m,
                           struct rcpt **r) {
    int64_t seq = message_seq_find(&b->h, id, project);
    enum found found =
        seq == 0 ? FOUND_NONE : message_load(&b->h, seq, store_call_arena(call), row);
    if (found == FOUND)
        found = message_head_find(b, seq, m);
    if (found == FOUND)
        *r = ARENA_ARRAY(b->scratch, struct rcpt, m->recipients);
    for (size_t i = 0; found == FOUND && i < m->recipients; i++)
        found = rcpt_find(b, row->recipient[i].key, &(*r)[i]);
    enum err e = sq_status(&b->h, &call->info);
    if (e != OK || found == FOUND)
        return e;
    if (found == FOUND_NONE)
        return err_set(&call->info, ERR_NOT_FOUND, "id", "no such message");
    return err_set(&call->info, ERR_CONFLICT, "id", MESSAGE_IS_DAMAGED);
}

static void keep_queues(struct backend *b, const struct message_head *m, struct rcpt *r,
                        enum recipient_state to, int64_t due_wall_ms) {
    if (waits(r->state) && waits(to)) {
        queue_changed(b, r->waits_in, 0, due_wall_ms);
    } else if (waits(r->state)) {
        queue_changed(b, r->waits_in, -1, 0);
    } else if (waits(to)) {
        /* By name: an empty queue's row may have been removed meanwhile. */
        struct queue *q = queue_get(b, queue_key_of(r->email, r->route_key), m->lane, m->project);
        r->queue = q->id;
        r->waits_in = q;
        queue_changed(b, q, 1, due_wall_ms);
    }
}

void rcpt_move(struct backend *b, const struct message_head *m, struct rcpt *r,
               enum recipient_state to, int64_t due_wall_ms, int64_t now_wall_ms) {
    ASSERT(to == r->state || recipient_transition_is_legal(r->state, to));
    keep_queues(b, m, r, to, due_wall_ms);
    b->now.by_state[r->state]--;
    b->now.by_state[to]++;
    r->state = to;
    r->due_wall_ms = due_wall_ms;
    sqlite3_stmt *st = sq_use(&b->h, SQL_RECIPIENT_SET);
    sq_bind_int(st, 1, r->key);
    sq_bind_int(st, 2, r->state);
    sq_bind_int(st, 3, r->attempts);
    sq_bind_int(st, 4, r->no_domain_wall_ms);
    sq_bind_int(st, 5, r->queue);
    sq_bind_int(st, 6, r->due_wall_ms);
    sq_bind_int(st, 7, now_wall_ms);
    sq_bind_int(st, 8, r->event_seq);
    sq_bind_int(st, 9, r->duplicate);
    if (r->last_event != 0)
        sq_bind_int(st, 10, r->last_event);
    else
        sqlite3_bind_null(st, 10);
    sq_run(&b->h, st);
}

static bool has_open_recipient(struct backend *b, int64_t seq) {
    sqlite3_stmt *st = sq_use(&b->h, SQL_RECIPIENT_ANY_OPEN);
    sq_bind_int(st, 1, first_key_of(seq));
    sq_bind_int(st, 2, last_key_of(seq));
    bool has = sq_row(&b->h, st);
    sq_end(st);
    return has;
}

/* A damaged recipient holds up no result of the others: the name is of those that can be read. */
static struct str state_of_message(struct backend *b, const struct message_head *m) {
    struct recipient_row *r = ARENA_ARRAY(b->scratch, struct recipient_row, m->recipients);
    size_t n = 0;
    sqlite3_stmt *st = sq_use(&b->h, SQL_RECIPIENT_STATES);
    sq_bind_int(st, 1, first_key_of(m->seq));
    sq_bind_int(st, 2, last_key_of(m->seq));
    while (n < m->recipients && sq_row(&b->h, st)) {
        struct damage damage = {0};
        r[n].state = (enum recipient_state)sq_enum(&damage, st, 0, RECIPIENT_STATE_COUNT);
        r[n].attempts = (int)sq_int(st, 1);
        n += sq_is_sound(&b->h, &damage, DAMAGED_MESSAGE, m->seq);
    }
    sq_end(st);
    return n > 0 ? str_of(message_state_name(r, n)) : STR_NONE;
}

static void complete(struct backend *b, struct effects *fx, const struct message_head *m,
                     struct str state, int64_t now_wall_ms) {
    sqlite3_stmt *st = sq_use(&b->h, SQL_OPEN_DELETE);
    sq_bind_int(st, 1, m->seq);
    sq_run(&b->h, st);
    event_put(b, fx,
              &(struct event_in){.type = EVENT_MESSAGE_COMPLETED,
                                 .project = m->project,
                                 .wall_ms = now_wall_ms,
                                 .message_seq = m->seq,
                                 .recipient = -1,
                                 .message_state = state},
              NULL);
}

bool message_complete(struct backend *b, struct effects *fx, const struct message_head *m,
                      int64_t now_wall_ms) {
    if (has_open_recipient(b, m->seq))
        return false;
    complete(b, fx, m, state_of_message(b, m), now_wall_ms);
    return true;
}

void message_complete_with(struct backend *b, struct effects *fx, const struct message_head *m,
                           const struct rcpt *only, int64_t now_wall_ms) {
    const struct recipient_row r = {.state = only->state, .attempts = only->attempts};
    ASSERT(m->recipients == 1 && recipient_state_is_final(only->state));
    complete(b, fx, m, str_of(message_state_name(&r, 1)), now_wall_ms);
}
