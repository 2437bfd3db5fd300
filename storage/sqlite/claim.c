/* STORE_CLAIM and STORE_RELEASE: recipients to and from `sending`. */
#include "storage/sqlite/writer.h"

/* A claim is the hottest small change: it writes two columns and no event. */
static bool claim_one(struct backend *b, recipient_key_t key, int64_t now_wall_ms) {
    sqlite3_stmt *st = sq_use(&b->h, SQL_RECIPIENT_GET);
    sq_bind_int(st, 1, key);
    if (!sq_row(&b->h, st))
        return false;
    int64_t state = sq_int(st, 0), queue = sq_int(st, 3), due_wall_ms = sq_int(st, 4);
    bool is_sound = sq_int(st, 10) >= 0 && sq_int(st, 10) <= RECIPIENT_BCC;
    sq_end(st);
    /* A scheduled one passes through `queued` here, but never before its time. What no version
     * wrote is left alone: STORE_DUE has told of it. */
    if (!is_sound || (state != RECIPIENT_QUEUED &&
                      !(state == RECIPIENT_SCHEDULED && due_wall_ms <= now_wall_ms)))
        return false;
    struct queue *q = queue_find(b, queue);
    if (q == NULL) /* else nobody's claim would be stored as long as this one is tried */
        return false;
    st = sq_use(&b->h, SQL_RECIPIENT_CLAIM);
    sq_bind_int(st, 1, key);
    sq_bind_int(st, 2, now_wall_ms);
    sq_run(&b->h, st);
    b->now.by_state[state]--;
    b->now.by_state[RECIPIENT_SENDING]++;
    queue_changed(b, q, -1, 0);
    return true;
}

enum err sqlite_claim(struct backend *b, struct effects *fx, struct store_call *call) {
    (void)fx;
    struct store_claim *q = CONTAINER_OF(call, struct store_claim, call);
    for (size_t i = 0; i < q->count; i++)
        q->is_claimed[i] = claim_one(b, q->key[i], q->now_wall_ms);
    return sq_status(&b->h, &call->info);
}

enum err sqlite_release(struct backend *b, struct effects *fx, struct store_call *call) {
    (void)fx;
    const struct store_release *q = CONTAINER_OF(call, const struct store_release, call);
    struct message_head m = {0};
    for (size_t i = 0; i < q->count; i++) {
        struct rcpt r;
        if (rcpt_find(b, q->key[i], &r) != FOUND || r.state != RECIPIENT_SENDING)
            continue; /* it was settled, or is damaged */
        if (m.seq != message_of_key(r.key) &&
            message_head_find(b, message_of_key(r.key), &m) != FOUND) {
            m.seq = 0; /* the next recipient asks again */
            continue;
        }
        rcpt_move(b, &m, &r, RECIPIENT_QUEUED, q->due_wall_ms, q->now_wall_ms);
    }
    return sq_status(&b->h, &call->info);
}
