/* STORE_RETRY: what waits goes now; what ended without delivery goes again, as a new message. */
#include "storage/sqlite/writer.h"

/* Suppressed ones would be suppressed again; delivered ones have it. */
static bool goes_again(enum recipient_state s) {
    return s == RECIPIENT_BOUNCED || s == RECIPIENT_FAILED || s == RECIPIENT_EXPIRED ||
           s == RECIPIENT_CANCELED;
}

static size_t make_due(struct backend *b, struct effects *fx, const struct message_head *m,
                       struct rcpt *recipients, const struct message_row *row,
                       int64_t now_wall_ms) {
    size_t count = 0;
    struct outgoing *o = NULL;
    for (size_t i = 0; i < m->recipients; i++) {
        struct rcpt *r = &recipients[i];
        if (r->state != RECIPIENT_QUEUED || r->due_wall_ms <= now_wall_ms)
            continue;
        count++;
        rcpt_move(b, m, r, RECIPIENT_QUEUED, now_wall_ms, now_wall_ms);
        if (o == NULL)
            o = outgoing_new(row, NULL, effects_budget(fx));
        effects_due(fx, &m->id,
                    &(struct due_row){.key = r->key,
                                      .outgoing = o,
                                      .attempts = r->attempts,
                                      .no_domain_wall_ms = r->no_domain_wall_ms,
                                      .possible_duplicate = r->duplicate,
                                      .due_wall_ms = now_wall_ms,
                                      .email = r->email,
                                      .queue_key = queue_key_of(r->email, r->route_key)});
    }
    outgoing_unref(&o);
    return count;
}

/* The old message's rows with those recipients that go again. */
static size_t copy_message(const struct store_retry *q, const struct message_head *m,
                           const struct rcpt *recipients, struct arena *a, struct message_row *out,
                           struct str **queue_key) {
    *out = q->message;
    out->id = q->new_id;
    out->retry_of = q->message.id;
    out->created_wall_ms = q->now_wall_ms;
    out->expires_wall_ms = q->expires_wall_ms;
    out->recipient = ARENA_ARRAY(a, struct recipient_row, m->recipients);
    *queue_key = ARENA_ARRAY(a, struct str, m->recipients);
    out->recipient_count = 0;
    for (size_t i = 0; i < m->recipients; i++) {
        const struct rcpt *r = &recipients[i];
        if (!goes_again(r->state))
            continue;
        (*queue_key)[out->recipient_count] = arena_dup(a, queue_key_of(r->email, r->route_key));
        out->recipient[out->recipient_count++] =
            (struct recipient_row){.email = arena_dup(a, r->email),
                                   .kind = r->kind,
                                   .state = RECIPIENT_QUEUED,
                                   .due_wall_ms = q->now_wall_ms};
    }
    return out->recipient_count;
}

/* What was made then; OK with made_new as it was. */
static enum err replay(struct backend *b, struct store_retry *q, int64_t seq) {
    struct arena *a = store_call_arena(&q->call);
    struct errinfo *info = &q->call.info;
    struct message_row made;
    enum err e = key_use_load(b, q->project, seq, info, a, &made);
    if (e != OK)
        return e;
    q->made_new = !id_equal(&made.id, &q->id);
    q->message = q->new_message = made;
    if (q->made_new)
        e = key_use_load(b, q->project, message_seq_find(&b->h, &q->id, q->project), info, a,
                         &q->message);
    q->is_replay = e == OK;
    return e;
}

enum err sqlite_retry(struct backend *b, struct effects *fx, struct store_call *call) {
    struct store_retry *q = CONTAINER_OF(call, struct store_retry, call);
    struct arena *a = store_call_arena(call);
    struct message_head m;
    struct rcpt *r;
    const struct key_use use = {.project = q->project,
                                .key = q->idempotency_key,
                                .fingerprint = q->fingerprint,
                                .wall_ms = q->key_wall_ms};
    int64_t seq;
    q->made_new = q->is_replay = false;
    enum err e = key_use_find(b, &use, &call->info, &seq);
    if (e != OK)
        return e;
    if (seq != 0)
        return replay(b, q, seq);
    if (q->asks_only)
        return ERR_NOT_FOUND;
    e = message_to_change(b, call, &q->id, q->project, &q->message, &m, &r);
    if (e != OK)
        return e;
    size_t due = make_due(b, fx, &m, r, &q->message, q->now_wall_ms);
    struct message_row copy;
    struct str *queue_key;
    size_t again = copy_message(q, &m, r, a, &copy, &queue_key);
    if (again > 0 && m.body != 0) {
        message_insert(b, fx, &copy, queue_key, m.body, NULL, q->now_wall_ms);
        q->new_message = copy;
        q->made_new = true;
    } else if (due == 0) {
        return err_set(&call->info, ERR_CONFLICT, "id",
                       again > 0 ? "the content is erased"
                                 : "there is nothing to retry: all is delivered or under way");
    }
    key_use_put(b, &use, q->made_new ? q->new_message.seq : m.seq, q->idempotency_until_wall_ms);
    if (due > 0) {
        effects_message(fx, &m.id, false);
        if (message_load(&b->h, m.seq, a, &q->message) != FOUND)
            sq_fail(&b->h, SQLITE_CORRUPT, "a message cannot be read again");
    }
    return sq_status(&b->h, &call->info);
}
