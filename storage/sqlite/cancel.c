/* STORE_CANCEL: what is not yet on its way does not go any more. */
#include "storage/sqlite/writer.h"

static enum cancel_result cancel_one(struct backend *b, struct effects *fx,
                                     const struct message_head *m, struct rcpt *r,
                                     int64_t now_wall_ms) {
    if (r->state == RECIPIENT_SENDING)
        return CANCEL_TOO_LATE;
    if (recipient_state_is_final(r->state))
        return CANCEL_FINAL;
    struct event_in e = {
        .type = EVENT_RECIPIENT_CANCELED, .wall_ms = now_wall_ms, .state = RECIPIENT_CANCELED};
    rcpt_event(b, fx, m, r, &e);
    rcpt_move(b, m, r, RECIPIENT_CANCELED, r->due_wall_ms, now_wall_ms);
    effects_gone(fx, &m->id, r->key);
    return CANCEL_DONE;
}

enum err sqlite_cancel(struct backend *b, struct effects *fx, struct store_call *call) {
    struct store_cancel *q = CONTAINER_OF(call, struct store_cancel, call);
    struct arena *a = store_call_arena(call);
    struct message_head m;
    struct rcpt *r;
    enum err e = message_to_change(b, call, &q->id, q->project, &q->message, &m, &r);
    if (e != OK)
        return e;
    q->result = ARENA_ARRAY(a, enum cancel_result, m.recipients);
    bool some_canceled = false;
    for (size_t i = 0; i < m.recipients; i++) {
        q->result[i] = cancel_one(b, fx, &m, &r[i], q->now_wall_ms);
        some_canceled |= q->result[i] == CANCEL_DONE;
    }
    if (some_canceled)
        effects_message(fx, &m.id, message_complete(b, fx, &m, q->now_wall_ms));
    if (message_load(&b->h, m.seq, a, &q->message) != FOUND)
        sq_fail(&b->h, SQLITE_CORRUPT, "a message cannot be read again");
    return sq_status(&b->h, &call->info);
}
