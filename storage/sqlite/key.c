/* API keys. */
#include "storage/sqlite/writer.h"

static void bind_common(sqlite3_stmt *st, int at, const struct key_row *k, struct str domains) {
    sq_bind_str(st, at, domains);
    sq_bind_int(st, at + 1, k->is_test);
}

static void key_insert(struct backend *b, const struct key_row *k, struct str domains) {
    sqlite3_stmt *st = sq_use(&b->h, SQL_KEY_PUT);
    sq_bind_id(st, 1, &k->id);
    sq_bind_int(st, 2, k->project);
    sq_bind_str(st, 3, k->name);
    sq_bind_str(st, 4, k->prefix);
    sq_bind_blob(st, 5, k->hash, sizeof(k->hash));
    sq_bind_int(st, 6, k->scopes);
    bind_common(st, 7, k, domains);
    sq_bind_int(st, 9, k->created_wall_ms);
    sq_bind_int(st, 10, k->expires_wall_ms);
    sq_bind_int(st, 11, k->revoked_wall_ms);
    sq_bind_int(st, 12, k->used_wall_ms);
    sq_bind_int(st, 13, k->rate);
    sq_run(&b->h, st);
}

static void key_update(struct backend *b, const struct key_row *k, struct str domains) {
    sqlite3_stmt *st = sq_use(&b->h, SQL_KEY_UPDATE);
    sq_bind_id(st, 1, &k->id);
    sq_bind_int(st, 2, k->project);
    sq_bind_str(st, 3, k->name);
    sq_bind_int(st, 4, k->scopes);
    bind_common(st, 5, k, domains);
    sq_bind_int(st, 7, k->expires_wall_ms);
    sq_bind_int(st, 8, k->revoked_wall_ms);
    sq_bind_int(st, 9, k->rate);
    sq_run(&b->h, st);
}

static enum err check_room(struct backend *b, struct store_key_put *q) {
    sqlite3_stmt *st = sq_use(&b->h, SQL_KEY_COUNT);
    sq_bind_int(st, 1, q->key.project);
    sq_bind_int(st, 2, q->key.created_wall_ms);
    int64_t count = sq_row(&b->h, st) ? sq_int(st, 0) : 0;
    sq_end(st);
    return room_for_one(&q->call, count, q->most, KEYS_IN_FORCE);
}

enum err sqlite_key_put(struct backend *b, struct effects *fx, struct store_call *call) {
    struct store_key_put *q = CONTAINER_OF(call, struct store_key_put, call);
    struct key_row *k = &q->key;
    sqlite3_stmt *st = sq_use(&b->h, SQL_KEY_BY_PREFIX);
    sq_bind_str(st, 1, k->prefix);
    bool exists = sq_row(&b->h, st), is_equal = false;
    struct damage damage = {0};
    struct id id = k->id;
    int64_t revoked_wall_ms = 0;
    if (exists) {
        struct str hash = sq_peek(st, 1);
        if (hash.n != sizeof(k->hash))
            damage_note(&damage, "it has no hash");
        id = sq_id(st, 0);
        revoked_wall_ms = sq_time(&damage, st, 2);
        is_equal = damage.why == NULL && memcmp(hash.p, k->hash, sizeof(k->hash)) == 0;
    }
    sq_end(st);
    if (exists && !is_equal)
        return err_set(&call->info, ERR_CONFLICT, "prefix",
                       damage.why != NULL
                           ? "the stored key of this prefix is damaged: use a new key"
                           : "another key has this prefix");
    if (!exists && q->most > 0 && check_room(b, q) != OK)
        return ERR_LIMIT;
    k->id = id; /* of the key that it is already */
    if (revoked_wall_ms != 0)
        k->revoked_wall_ms = revoked_wall_ms;
    struct str domains = list_join(b->scratch, k->from_domains, k->from_domain_count);
    if (exists)
        key_update(b, k, domains);
    else
        key_insert(b, k, domains);
    effects_kind(fx, NOTICE_KEYS);
    return sq_status(&b->h, &call->info);
}

enum err sqlite_key_revoke(struct backend *b, struct effects *fx, struct store_call *call) {
    struct store_key_revoke *q = CONTAINER_OF(call, struct store_key_revoke, call);
    sqlite3_stmt *st = sq_use(&b->h, SQL_KEY_HAS);
    sq_bind_id(st, 1, &q->id);
    sq_bind_int(st, 2, q->project);
    bool exists = sq_row(&b->h, st);
    sq_end(st);
    if (!exists && !sq_has_failed(&b->h))
        return err_set(&call->info, ERR_NOT_FOUND, "id", "no such key");
    st = sq_use(&b->h, SQL_KEY_REVOKE);
    sq_bind_id(st, 1, &q->id);
    sq_bind_int(st, 2, q->project);
    sq_bind_int(st, 3, q->now_wall_ms);
    sq_run(&b->h, st);
    effects_kind(fx, NOTICE_KEYS);
    return sq_status(&b->h, &call->info);
}

/* No notice: who watches keys wants to know of rights, not of use. */
enum err sqlite_keys_used(struct backend *b, struct effects *fx, struct store_call *call) {
    (void)fx;
    const struct store_keys_used *q = CONTAINER_OF(call, struct store_keys_used, call);
    for (size_t i = 0; i < q->count; i++) {
        sqlite3_stmt *st = sq_use(&b->h, SQL_KEY_USED);
        sq_bind_id(st, 1, &q->id[i]);
        sq_bind_int(st, 2, q->wall_ms[i]);
        sq_run(&b->h, st);
    }
    return sq_status(&b->h, &call->info);
}

enum err sqlite_keys(struct backend_reader *r, struct store_call *call) {
    struct store_keys *q = CONTAINER_OF(call, struct store_keys, call);
    struct arena *a = store_call_arena(call);
    struct sq *h = &r->h;
    q->key = NULL;
    q->count = 0;
    q->more = false;
    bool is_one = !id_is_zero(&q->id);
    sqlite3_stmt *st = sq_use(h, is_one ? SQL_KEY_ONE : SQL_KEYS);
    sq_bind_int(st, 1, q->project);
    sq_bind_id(st, 2, is_one ? &q->id : &q->after);
    while (sq_row(h, st)) {
        struct str hash = sq_peek(st, 4);
        struct damage damage = {0}, of_shown = {0};
        struct key_row k = {
            .id = sq_id(st, 0),
            .project = sq_int(st, 1),
            .name = sq_str(st, 2, a),
            .prefix = sq_str(st, 3, a),
            .scopes = (unsigned)sq_int(st, 5),
            .is_test = sq_bool(st, 7),
            .created_wall_ms = sq_shown_time(&of_shown, st, 8),
            .expires_wall_ms = sq_time(&damage, st, 9),
            .revoked_wall_ms = sq_time(&damage, st, 10),
            .used_wall_ms = sq_shown_time(&of_shown, st, 11),
            .rate = sq_int(st, 12),
        };
        if (hash.n != sizeof(k.hash))
            damage_note(&damage, "it has no hash");
        if (id_is_zero(&k.id)) /* a page that ends with it would be followed by the first */
            damage_note(&damage, "it has no id");
        if (!sq_is_sound(h, &damage, DAMAGED_KEY, sq_int(st, 8)))
            continue; /* it opens nothing, the others do */
        (void)sq_is_sound(h, &of_shown, DAMAGED_KEY, sq_int(st, 8));
        q->more = q->limit > 0 && q->count == q->limit;
        if (q->more)
            break;
        memcpy(k.hash, hash.p, sizeof(k.hash));
        k.from_domains = list_split(a, sq_str(st, 6, a), &k.from_domain_count);
        q->key = rows_grow(a, q->key, sizeof(*q->key), q->count);
        q->key[q->count++] = k;
    }
    sq_end(st);
    enum err e = sq_status(h, &call->info);
    sq_forget(h);
    return e;
}
