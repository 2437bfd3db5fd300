/* Contents: by chunks, one with each transaction. */
#include <stdlib.h>

#include "server/base/limits.h"
#include "storage/sqlite/writer.h"

static void put_chunk(struct backend *b, int64_t key, struct str bytes) {
    sqlite3_stmt *st = sq_use(&b->h, SQL_BODY_PUT);
    sq_bind_int(st, 1, key);
    sq_bind_blob(st, 2, bytes.p != NULL ? bytes.p : "", bytes.n);
    sq_run(&b->h, st);
}

/* Bytes from..to of the message; joined in `joined` where the two pieces meet. */
static struct str slice_of(const struct message_pieces *p, size_t from, size_t to, char *joined) {
    size_t n0 = p->piece[0].n;
    if (from >= n0)
        return str_slice(p->piece[1], from - n0, to - n0);
    if (to <= n0)
        return str_slice(p->piece[0], from, to);
    memcpy(joined, p->piece[0].p + from, n0 - from);
    memcpy(joined + (n0 - from), p->piece[1].p, to - n0);
    return str_make(joined, to - from);
}

/* The chunk that begins at `at`; where it ends. */
static size_t put_chunk_at(struct backend *b, int64_t body, const struct message *m, size_t at) {
    struct message_pieces p = message_bytes(m);
    size_t size = message_size(m);
    size_t to = size - at < LIMIT_BODY_CHUNK ? size : at + LIMIT_BODY_CHUNK;
    char *joined = p.piece[0].n > 0 ? mem_try_zalloc(LIMIT_BODY_CHUNK) : NULL;
    if (p.piece[0].n > 0 && joined == NULL) {
        sq_fail(&b->h, SQLITE_NOMEM, "there is no memory to store a content");
        return at;
    }
    put_chunk(b, body * BODY_CHUNKS + (int64_t)(at / LIMIT_BODY_CHUNK),
              slice_of(&p, at, to, joined));
    free(joined);
    return to;
}

int64_t body_put(struct backend *b, const struct message *m) {
    int64_t body = b->now.next_body++;
    (void)put_chunk_at(b, body, m, 0);
    return body;
}

static void set_upload(struct backend *b, enum sql what, int64_t body) {
    sqlite3_stmt *st = sq_use(&b->h, what);
    sq_bind_int(st, 1, body);
    sq_run(&b->h, st);
}

static void delete_chunks(struct backend *b, int64_t body) {
    sqlite3_stmt *st = sq_use(&b->h, SQL_BODY_DELETE);
    sq_bind_int(st, 1, body * BODY_CHUNKS);
    sq_bind_int(st, 2, body * BODY_CHUNKS + BODY_CHUNKS - 1);
    sq_run(&b->h, st);
}

void body_remove_orphans(struct backend *b) {
    for (;;) {
        sqlite3_stmt *st = sq_use(&b->h, SQL_UPLOAD_ANY);
        int64_t body = sq_row(&b->h, st) ? sq_int(st, 0) : 0;
        sq_end(st);
        if (body == 0)
            return;
        delete_chunks(b, body);
        set_upload(b, SQL_UPLOAD_DELETE, body);
    }
}

size_t body_stage(struct backend *b, struct store_call *call, size_t at) {
    ASSERT(call->verb == STORE_ACCEPT);
    const struct message *m = CONTAINER_OF(call, struct store_accept, call)->content;
    size_t size = message_size(m);
    if (size > BODY_BYTES_MOST)
        return size; /* the verb says so */
    if (at == 0) {
        if (b->has_orphans)
            body_remove_orphans(b);
        b->staged_body = b->now.next_body++;
        set_upload(b, SQL_UPLOAD_PUT, b->staged_body);
    } else {
        b->has_orphans = false; /* they went with the first piece, which was committed */
    }
    at = put_chunk_at(b, b->staged_body, m, at);
    b->staged_for = at == size ? call : NULL;
    return at;
}

void body_unstage(struct backend *b) {
    int64_t body = b->staged_is_used ? 0 : b->staged_body;
    b->staged_body = 0;
    b->staged_for = NULL;
    b->staged_is_used = false;
    if (body == 0)
        return;
    const struct store_ops *ops = &store_sqlite_ops;
    b->has_orphans = true;
    if (ops->begin(b) != OK)
        return; /* the next one, or the next opening, removes it */
    delete_chunks(b, body);
    set_upload(b, SQL_UPLOAD_DELETE, body);
    b->has_orphans = ops->commit(b) != OK;
}

void body_erase(struct backend *b, int64_t message_seq, int64_t body) {
    sqlite3_stmt *st = sq_use(&b->h, SQL_MESSAGE_ERASE);
    sq_bind_int(st, 1, message_seq);
    sq_run(&b->h, st);
    st = sq_use(&b->h, SQL_MESSAGE_WITH_BODY);
    sq_bind_int(st, 1, body);
    bool is_shared = sq_row(&b->h, st); /* with a message that retried this one */
    sq_end(st);
    if (!is_shared)
        delete_chunks(b, body);
}
