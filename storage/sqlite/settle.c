/* STORE_SETTLE: the results of one transaction with a server: states, attempt, events and
 * notifications together. */
#include "storage/sqlite/result.h"
#include "storage/sqlite/writer.h"

enum { LEFT_OUT = -1 };

/* A damaged recipient is left out (its key becomes LEFT_OUT): the others' results are true, and
 * would be sent again if they were not stored. */
static enum err check(struct backend *b, const struct store_settle *q, struct rcpt *r,
                      struct errinfo *info) {
    size_t left_out = 0;
    for (size_t i = 0; i < q->count; i++) {
        const struct settle_result *s = &q->result[i];
        if (message_of_key(s->key) != message_of_key(q->result[0].key))
            return err_set(info, ERR_INVALID, "key", "the results are of two messages");
        enum found found = rcpt_find(b, s->key, &r[i]);
        if (found == FOUND_DAMAGED) {
            r[i].key = LEFT_OUT;
            left_out++;
            continue;
        }
        if (found == FOUND_NONE) {
            enum err e = sq_status(&b->h, info);
            return e != OK ? e : err_set(info, ERR_NOT_FOUND, "key", "no such recipient");
        }
        if ((r[i].state != RECIPIENT_SENDING && r[i].state != RECIPIENT_DELIVERED) ||
            !recipient_transition_is_legal(r[i].state, s->state))
            return err_set(info, ERR_CONFLICT, "state", "a recipient that is %s cannot become %s",
                           recipient_state_name(r[i].state), recipient_state_name(s->state));
        for (size_t k = 0; k < i; k++)
            if (q->result[k].key == s->key)
                return err_set(info, ERR_INVALID, "key", "a recipient has two results");
    }
    if (left_out == q->count) /* fails alone, and takes nobody of its batch along */
        return err_set(info, ERR_CONFLICT, "key", "the recipient's row is damaged");
    return OK;
}

static void put_attempt(struct backend *b, int64_t message_seq, const struct attempt_row *a) {
    sqlite3_stmt *st = sq_use(&b->h, SQL_ATTEMPT_LAST);
    int64_t first = message_seq << ATTEMPT_BITS, last = first + ((int64_t)1 << ATTEMPT_BITS) - 1;
    sq_bind_int(st, 1, first);
    sq_bind_int(st, 2, last);
    int64_t key = first;
    if (sq_row(&b->h, st) && sqlite3_column_type(st, 0) != SQLITE_NULL)
        key = sq_int(st, 0) + 1;
    sq_end(st);
    if (key > last)
        return; /* a million attempts are recorded already */
    buf_clear(&b->pack);
    attempt_recipients_pack(&b->pack, a);
    st = sq_use(&b->h, SQL_ATTEMPT_PUT);
    sq_bind_int(st, 1, key);
    sq_bind_int(st, 2, a->started_wall_ms);
    sq_bind_int(st, 3, a->took_ms);
    sq_bind_str(st, 4, a->host);
    sq_bind_str(st, 5, a->address);
    sq_bind_str(st, 6, a->tls_version);
    sq_bind_str(st, 7, a->tls_cipher);
    sq_bind_int(st, 8, a->tls_verified);
    sq_bind_str(st, 9, a->transcript);
    sq_bind_blob(st, 10, b->pack.p, b->pack.n);
    sq_run(&b->h, st);
}

/* Is it now final that was open before? */
static bool settle_one(struct backend *b, struct effects *fx, const struct message_head *m,
                       struct rcpt *r, const struct settle_result *s, int64_t now_wall_ms) {
    bool was_final = recipient_state_is_final(r->state);
    bool is_final = recipient_state_is_final(s->state);
    if (s->counts) {
        r->attempts++;
        r->no_domain_wall_ms =
            no_domain_since(r->no_domain_wall_ms, &s->last, s->kept_ms, now_wall_ms);
    }
    r->duplicate |= s->unknown_outcome;
    /* What did not count as an attempt and changed nothing is nobody's news. */
    if (s->counts || is_final) {
        struct event_in e = {.type = event_type_of_state(s->state),
                             .wall_ms = now_wall_ms,
                             .state = s->state,
                             .next_attempt_wall_ms = is_final ? 0 : s->due_wall_ms,
                             .is_late = was_final,
                             .result = &s->last};
        rcpt_event(b, fx, m, r, &e);
    }
    rcpt_move(b, m, r, s->state, is_final ? r->due_wall_ms : s->due_wall_ms, now_wall_ms);
    return is_final && !was_final;
}

enum err sqlite_settle(struct backend *b, struct effects *fx, struct store_call *call) {
    const struct store_settle *q = CONTAINER_OF(call, const struct store_settle, call);
    if (q->count == 0)
        return OK;
    struct rcpt *r = ARENA_ARRAY(b->scratch, struct rcpt, q->count);
    enum err e = check(b, q, r, &call->info);
    if (e != OK)
        return e;
    struct message_head m;
    enum found found = message_head_find(b, message_of_key(q->result[0].key), &m);
    if (found == FOUND_DAMAGED)
        return err_set(&call->info, ERR_CONFLICT, "key", "the message's row is damaged");
    if (found == FOUND_NONE) {
        e = sq_status(&b->h, &call->info);
        return e != OK ? e : err_set(&call->info, ERR_NOT_FOUND, "key", "no such message");
    }
    bool some_ended = false;
    for (size_t i = 0; i < q->count; i++)
        if (r[i].key != LEFT_OUT)
            some_ended |= settle_one(b, fx, &m, &r[i], &q->result[i], q->now_wall_ms);
    if (q->attempt != NULL)
        put_attempt(b, m.seq, q->attempt);
    if (some_ended && m.recipients == 1)
        message_complete_with(b, fx, &m, &r[0], q->now_wall_ms);
    bool is_complete =
        some_ended && (m.recipients == 1 || message_complete(b, fx, &m, q->now_wall_ms));
    effects_message(fx, &m.id, is_complete);
    return sq_status(&b->h, &call->info);
}
