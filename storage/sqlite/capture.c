/* What the sandbox's receivers captured. */
#include "storage/sqlite/writer.h"

enum err sqlite_capture_put(struct backend *b, struct effects *fx, struct store_call *call) {
    (void)fx;
    const struct capture_row *c = &CONTAINER_OF(call, struct store_capture_put, call)->capture;
    sqlite3_stmt *st = sq_use(&b->h, SQL_CAPTURE_PUT);
    sq_bind_id(st, 1, &c->id);
    sq_bind_int(st, 2, c->kind);
    sq_bind_int(st, 3, c->wall_ms);
    sq_bind_str(st, 4, c->meta_json);
    sq_bind_blob(st, 5, c->content.p, c->content.n);
    sq_run(&b->h, st);
    return sq_status(&b->h, &call->info);
}

static void from_row(struct damage *d, sqlite3_stmt *st, struct arena *a, struct capture_row *out) {
    *out = (struct capture_row){
        .id = sq_id(st, 0),
        .kind = (enum capture_kind)sq_enum(d, st, 1, CAPTURE_WEBHOOK + 1),
        .wall_ms = sq_int(st, 2), /* is shown only: what cannot be shown is null */
        .meta_json = sq_str(st, 3, a),
        .content = sq_str(st, 4, a),
    };
}

enum err sqlite_captures(struct backend_reader *r, struct store_call *call) {
    struct store_captures *q = CONTAINER_OF(call, struct store_captures, call);
    struct arena *a = store_call_arena(call);
    struct sq *h = &r->h;
    q->capture = NULL;
    q->count = 0;
    q->more = false;
    /* Ids ascend with time; no id is above all ones. */
    struct id before = q->before;
    if (id_is_zero(&before))
        memset(before.b, 0xFF, sizeof(before.b));
    sqlite3_stmt *st = sq_use(h, SQL_CAPTURES);
    sq_bind_int(st, 1, q->kind);
    sq_bind_id(st, 2, &before);
    sq_bind_int(st, 3, (int64_t)q->limit + 1);
    while (sq_row(h, st)) {
        if (q->count == q->limit) {
            q->more = true;
            break;
        }
        q->capture = rows_grow(a, q->capture, sizeof(*q->capture), q->count);
        struct damage damage = {0}; /* it is of the kind that was asked for */
        from_row(&damage, st, a, &q->capture[q->count++]);
    }
    sq_end(st);
    enum err e = sq_status(h, &call->info);
    sq_forget(h);
    return e;
}

enum err sqlite_capture(struct backend_reader *r, struct store_call *call) {
    struct store_capture *q = CONTAINER_OF(call, struct store_capture, call);
    struct sq *h = &r->h;
    sqlite3_stmt *st = sq_use(h, SQL_CAPTURE_GET);
    sq_bind_id(st, 1, &q->id);
    sq_bind_int(st, 2, q->is_head);
    bool found = sq_row(h, st);
    struct damage damage = {0};
    if (found) {
        from_row(&damage, st, store_call_arena(call), &q->capture);
        q->content_bytes = sq_int(st, 5);
    }
    sq_end(st);
    enum err e = sq_status(h, &call->info);
    sq_forget(h);
    if (e == OK && !found)
        e = err_set(&call->info, ERR_NOT_FOUND, "id", "no such capture");
    else if (e == OK && damage.why != NULL)
        e = err_set(&call->info, ERR_CONFLICT, "id", "%s", damage.why);
    return e;
}
