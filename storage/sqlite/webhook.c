/* Webhook endpoints. */
#include "storage/sqlite/writer.h"

enum { WEBHOOK_DELETED = 3 }; /* in the column `state` only */

/* 0: none, or another project's. */
static int64_t find(struct backend *b, const struct id *id, int64_t project) {
    sqlite3_stmt *st = sq_use(&b->h, SQL_WEBHOOK_FIND);
    sq_bind_id(st, 1, id);
    int64_t n = 0;
    if (sq_row(&b->h, st) && (project == -1 || sq_int(st, 1) == project))
        n = sq_int(st, 0);
    sq_end(st);
    return n;
}

static enum err none(struct backend *b, struct store_call *call) {
    enum err e = sq_status(&b->h, &call->info);
    return e != OK ? e : err_set(&call->info, ERR_NOT_FOUND, "id", "no such endpoint");
}

static struct str close_secret(struct backend *b, const struct webhook_row *w, const char *column,
                               struct str plain) {
    return sq_close_secret(&b->h, (struct sealed_place){column, &w->id, STR_NONE}, plain,
                           b->scratch);
}

static void insert(struct backend *b, const struct webhook_row *w, struct str events) {
    sqlite3_stmt *st = sq_use(&b->h, SQL_WEBHOOK_PUT);
    sq_bind_id(st, 1, &w->id);
    sq_bind_int(st, 2, w->project);
    sq_bind_str(st, 3, w->url);
    sq_bind_str(st, 4, close_secret(b, w, "webhook.secret", w->secret));
    sq_bind_str(st, 5, close_secret(b, w, "webhook.previous_secret", w->previous_secret));
    sq_bind_int(st, 6, w->previous_until_wall_ms);
    sq_bind_str(st, 7, events);
    sq_bind_str(st, 8, w->description);
    sq_bind_int(st, 9, w->state);
    sq_bind_int(st, 10, w->created_wall_ms);
    sq_run(&b->h, st);
}

static void update(struct backend *b, int64_t n, const struct webhook_row *w, struct str events) {
    sqlite3_stmt *st = sq_use(&b->h, SQL_WEBHOOK_SET);
    sq_bind_int(st, 1, n);
    sq_bind_str(st, 2, w->url);
    sq_bind_str(st, 3, close_secret(b, w, "webhook.secret", w->secret));
    sq_bind_str(st, 4, close_secret(b, w, "webhook.previous_secret", w->previous_secret));
    sq_bind_int(st, 5, w->previous_until_wall_ms);
    sq_bind_str(st, 6, events);
    sq_bind_str(st, 7, w->description);
    sq_bind_int(st, 8, w->state);
    sq_run(&b->h, st);
}

static bool is_as_seen(struct backend *b, const struct webhook_row *seen) {
    struct damage damage = {0};
    struct arena *a = arena_new();
    sqlite3_stmt *st = sq_use(&b->h, SQL_WEBHOOK_GET);
    sq_bind_id(st, 1, &seen->id);
    bool is = sq_row(&b->h, st);
    if (is) {
        struct webhook_row now;
        webhook_from_row(&b->h, &damage, st, a, a, &now);
        is = damage.why == NULL && webhook_is_same(&now, seen);
    }
    sq_end(st);
    arena_free_secret(&a);
    return is;
}

static enum err check_room(struct backend *b, struct store_webhook_put *q) {
    sqlite3_stmt *st = sq_use(&b->h, SQL_WEBHOOK_COUNT);
    sq_bind_int(st, 1, q->webhook.project);
    int64_t count = sq_row(&b->h, st) ? sq_int(st, 0) : 0;
    sq_end(st);
    return room_for_one(&q->call, count, q->most, "webhooks");
}

enum err sqlite_webhook_put(struct backend *b, struct effects *fx, struct store_call *call) {
    struct store_webhook_put *q = CONTAINER_OF(call, struct store_webhook_put, call);
    const struct webhook_row *w = &q->webhook;
    int64_t n = find(b, &w->id, q->replace ? w->project : -1);
    if (n == 0 && q->replace)
        return none(b, call);
    if (n != 0 && !q->replace)
        return err_set(&call->info, ERR_CONFLICT, "id", "the endpoint exists");
    if (q->replace && q->seen != NULL && !is_as_seen(b, q->seen))
        return err_set(&call->info, ERR_CONFLICT, "id", "the endpoint was changed meanwhile");
    if (!q->replace && q->most > 0 && check_room(b, q) != OK)
        return ERR_LIMIT;
    struct str events = list_join(b->scratch, w->events, w->event_count);
    if (q->replace)
        update(b, n, w, events);
    else
        insert(b, w, events);
    webhooks_changed(b);
    effects_kind(fx, NOTICE_WEBHOOKS);
    effects_kind(fx, NOTICE_NOTIFY); /* enabled again: what waited may go */
    return sq_status(&b->h, &call->info);
}

enum err sqlite_webhook_delete(struct backend *b, struct effects *fx, struct store_call *call) {
    const struct store_webhook_delete *q = CONTAINER_OF(call, struct store_webhook_delete, call);
    int64_t n = find(b, &q->id, q->project);
    if (n == 0)
        return none(b, call);
    /* Its notifications can be very many: the sweep of retention takes them in steps. */
    sqlite3_stmt *st = sq_use(&b->h, SQL_WEBHOOK_STATE);
    sq_bind_int(st, 1, n);
    sq_bind_int(st, 2, WEBHOOK_DELETED);
    sq_run(&b->h, st);
    webhooks_changed(b);
    effects_kind(fx, NOTICE_WEBHOOKS);
    return sq_status(&b->h, &call->info);
}

enum err sqlite_webhook_test(struct backend *b, struct effects *fx, struct store_call *call) {
    struct store_webhook_test *q = CONTAINER_OF(call, struct store_webhook_test, call);
    size_t count, i = 0;
    const struct webhook_copy *w = webhooks_copy(b, &count);
    while (i < count && !(id_equal(&w[i].row.id, &q->id) &&
                          (q->project == -1 || w[i].row.project == q->project)))
        i++;
    if (i == count)
        return none(b, call);
    if (w[i].row.state == WEBHOOK_DISABLED)
        return err_set(&call->info, ERR_CONFLICT, "id", "the endpoint is disabled");
    event_put(b, fx,
              &(struct event_in){.type = EVENT_WEBHOOK_TEST,
                                 .project = w[i].row.project,
                                 .wall_ms = q->now_wall_ms,
                                 .recipient = -1,
                                 .webhook_id = q->id,
                                 .note = STR("a test of this endpoint"),
                                 .only_webhook = w[i].n},
              &q->event_id);
    return sq_status(&b->h, &call->info);
}

enum err sqlite_webhooks(struct backend_reader *r, struct store_call *call) {
    struct store_webhooks *q = CONTAINER_OF(call, struct store_webhooks, call);
    struct arena *a = store_call_arena(call);
    q->webhook = NULL;
    q->count = 0;
    sqlite3_stmt *st = sq_use(&r->h, SQL_WEBHOOKS);
    sq_bind_int(st, 1, q->project);
    while (sq_row(&r->h, st)) {
        struct damage damage = {0};
        struct webhook_row w;
        webhook_from_row(&r->h, &damage, st, a, a, &w); /* wiped with the call */
        if (!sq_is_sound(&r->h, &damage, DAMAGED_WEBHOOK, sq_int(st, 0)))
            continue; /* it hears of nothing, the others do */
        q->webhook = rows_grow(a, q->webhook, sizeof(*q->webhook), q->count);
        q->webhook[q->count++] = w;
    }
    sq_end(st);
    enum err e = sq_status(&r->h, &call->info);
    sq_forget(&r->h);
    return e;
}
