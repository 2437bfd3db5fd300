/* STORE_ACCEPT: the message, its recipients, its content and its first events, or the answer that
 * its idempotency key already has. */
#include "server/base/limits.h"
#include "storage/sqlite/writer.h"

/* OK: go on; is_replay set: answered. */
static enum err look_up_key(struct backend *b, struct store_accept *q) {
    if (str_is_absent(q->idempotency_key))
        return OK;
    sqlite3_stmt *st = sq_use(&b->h, SQL_IDEMPOTENCY_GET);
    sq_bind_int(st, 1, q->message.project);
    sq_bind_str(st, 2, q->idempotency_key);
    sq_bind_int(st, 3, q->key_wall_ms);
    int64_t seq = 0;
    bool is_equal = false;
    if (sq_row(&b->h, st)) {
        struct str stored = sq_peek(st, 0);
        is_equal = stored.n == sizeof(q->fingerprint) &&
                   memcmp(stored.p, q->fingerprint, sizeof(q->fingerprint)) == 0;
        seq = sq_int(st, 1);
    }
    sq_end(st);
    if (seq == 0)
        return sq_status(&b->h, &q->call.info);
    if (!is_equal)
        return err_set(&q->call.info, ERR_CONFLICT, "Idempotency-Key",
                       "the key was used for another submission");
    enum found found = message_load(&b->h, seq, store_call_arena(&q->call), &q->message);
    q->is_replay = found == FOUND;
    enum err e = sq_status(&b->h, &q->call.info);
    if (e == OK && !q->is_replay) /* sent once, whatever is known of it: not again */
        e = err_set(&q->call.info, ERR_CONFLICT, "Idempotency-Key",
                    found == FOUND_DAMAGED
                        ? "the key was used for a message that cannot be read any more"
                        : "the key was used for a message that is no longer kept");
    return e;
}

static void remember_key(struct backend *b, const struct store_accept *q) {
    if (str_is_absent(q->idempotency_key))
        return;
    sqlite3_stmt *st = sq_use(&b->h, SQL_IDEMPOTENCY_PUT);
    sq_bind_int(st, 1, q->message.project);
    sq_bind_str(st, 2, q->idempotency_key);
    sq_bind_blob(st, 3, q->fingerprint, sizeof(q->fingerprint));
    sq_bind_int(st, 4, q->message.seq);
    sq_bind_int(st, 5, q->idempotency_until_wall_ms);
    sq_run(&b->h, st);
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
    q->is_replay = false;
    enum err e = look_up_key(b, q);
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
    remember_key(b, q);
    return sq_status(&b->h, &call->info);
}
