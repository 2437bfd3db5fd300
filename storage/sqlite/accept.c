/* STORE_ACCEPT: the message, its recipients, its content and its first events, or the answer that
 * its idempotency key already has. */
#include "server/base/limits.h"
#include "storage/sqlite/writer.h"

/* OK: go on; is_replay set: answered. */
static enum err look_up_key(struct backend *b, struct store_accept *q, const struct key_use *use) {
    int64_t seq;
    enum err e = key_use_find(b, use, &q->call.info, &seq);
    if (e != OK || seq == 0)
        return e;
    e = key_use_load(b, use->project, seq, &q->call.info, store_call_arena(&q->call), &q->message);
    q->is_replay = e == OK;
    return e;
}

static int64_t put_content(struct backend *b, const struct store_accept *q) {
    if (b->staged_for != &q->call)
        return body_put(b, q->content);
    sqlite3_stmt *st = sq_use(&b->h, SQL_UPLOAD_DELETE);
    sq_bind_int(st, 1, b->staged_body);
    sq_run(&b->h, st);
    b->staged_is_used = true;
    return b->staged_body;
}

enum err sqlite_accept(struct backend *b, struct effects *fx, struct store_call *call) {
    struct store_accept *q = CONTAINER_OF(call, struct store_accept, call);
    const struct key_use use = {.project = q->message.project,
                                .key = q->idempotency_key,
                                .fingerprint = q->fingerprint,
                                .wall_ms = q->key_wall_ms};
    q->is_replay = false;
    enum err e = look_up_key(b, q, &use);
    if (e != OK || q->is_replay)
        return e;
    if (q->asks_only)
        return ERR_NOT_FOUND;
    struct message_row *m = &q->message;
    if (m->recipient_count == 0 || m->recipient_count > LIMIT_RECIPIENTS_MAX)
        return err_set(&call->info, ERR_LIMIT, "recipients", "%zu recipients, 1 to %d are stored",
                       m->recipient_count, LIMIT_RECIPIENTS_MAX);
    if (message_size(q->content) > BODY_BYTES_MOST)
        return err_set(&call->info, ERR_LIMIT, "content", "%zu bytes are more than is stored",
                       message_size(q->content));
    m->size_bytes = (int64_t)message_size(q->content);
    m->has_content = true;
    message_insert(b, fx, m, q->queue_key, put_content(b, q), q->content, q->now_wall_ms);
    key_use_put(b, &use, m->seq, q->idempotency_until_wall_ms);
    return sq_status(&b->h, &call->info);
}
