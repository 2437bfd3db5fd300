/* Sending domains and their DKIM keys. */
#include "storage/sqlite/writer.h"

static struct sealed_place sealed_pem(const struct domain_row *d, const struct domain_key_row *k) {
    return (struct sealed_place){"domain_key.pem", &d->id, k->selector};
}

static void put_keys(struct backend *b, int64_t n, const struct domain_row *d) {
    sqlite3_stmt *st = sq_use(&b->h, SQL_DOMAIN_KEYS_DELETE);
    sq_bind_int(st, 1, n);
    sq_run(&b->h, st);
    for (size_t i = 0; i < d->key_count; i++) {
        const struct domain_key_row *k = &d->key[i];
        st = sq_use(&b->h, SQL_DOMAIN_KEY_PUT);
        sq_bind_int(st, 1, n);
        sq_bind_int(st, 2, (int64_t)i);
        sq_bind_str(st, 3, k->selector);
        sq_bind_str(st, 4, k->algorithm);
        sq_bind_str(st, 5, sq_close_secret(&b->h, sealed_pem(d, k), k->pem, b->scratch));
        sq_bind_str(st, 6, k->record);
        sq_bind_int(st, 7, k->created_wall_ms);
        sq_bind_int(st, 8, k->published_wall_ms);
        sq_run(&b->h, st);
    }
}

static int64_t find(struct backend *b, int64_t project, struct str name, struct domain_row *d) {
    sqlite3_stmt *st = sq_use(&b->h, SQL_DOMAIN_FIND);
    sq_bind_int(st, 1, project);
    sq_bind_str(st, 2, name);
    int64_t n = 0;
    if (sq_row(&b->h, st)) {
        n = sq_int(st, 0);
        if (d != NULL) {
            d->id = sq_id(st, 1);
            d->created_wall_ms = sq_int(st, 2);
        }
    }
    sq_end(st);
    return n;
}

static enum err check_room(struct backend *b, struct store_domain_put *q) {
    sqlite3_stmt *st = sq_use(&b->h, SQL_DOMAIN_COUNT);
    sq_bind_int(st, 1, q->domain.project);
    int64_t count = sq_row(&b->h, st) ? sq_int(st, 0) : 0;
    sq_end(st);
    return room_for_one(&q->call, count, q->most, "domains");
}

enum err sqlite_domain_put(struct backend *b, struct effects *fx, struct store_call *call) {
    struct store_domain_put *q = CONTAINER_OF(call, struct store_domain_put, call);
    struct domain_row *d = &q->domain;
    for (size_t i = 0; i < d->key_count; i++)
        if (str_is_absent(d->key[i].pem)) /* it may be one that did not open: what is there stays */
            return err_set(&call->info, ERR_INVALID, "pem",
                           "a key cannot be read: give the domain its keys anew, or remove it");
    int64_t n = find(b, d->project, d->name, NULL);
    if (n != 0 && !q->replace)
        return err_set(&call->info, ERR_CONFLICT, "name", "the domain exists");
    if (n == 0 && q->most > 0 && check_room(b, q) != OK)
        return ERR_LIMIT;
    if (n != 0) {
        find(b, d->project, d->name, d); /* id and time of creation stay */
        sqlite3_stmt *st = sq_use(&b->h, SQL_DOMAIN_SET);
        sq_bind_int(st, 1, n);
        sq_bind_str(st, 2, d->bounce_address);
        sq_bind_int(st, 3, d->verified_wall_ms);
        sq_run(&b->h, st);
    } else {
        sqlite3_stmt *st = sq_use(&b->h, SQL_DOMAIN_PUT);
        sq_bind_id(st, 1, &d->id);
        sq_bind_int(st, 2, d->project);
        sq_bind_str(st, 3, d->name);
        sq_bind_str(st, 4, d->bounce_address);
        sq_bind_int(st, 5, d->created_wall_ms);
        sq_bind_int(st, 6, d->verified_wall_ms);
        sq_run(&b->h, st);
        n = sqlite3_last_insert_rowid(b->h.db);
    }
    put_keys(b, n, d);
    effects_kind(fx, NOTICE_DOMAINS);
    return sq_status(&b->h, &call->info);
}

enum err sqlite_domain_delete(struct backend *b, struct effects *fx, struct store_call *call) {
    const struct store_domain_delete *q = CONTAINER_OF(call, struct store_domain_delete, call);
    int64_t n = find(b, q->project, q->name, NULL);
    if (n == 0 && !sq_has_failed(&b->h))
        return err_set(&call->info, ERR_NOT_FOUND, "name", "no such domain");
    put_keys(b, n, &(struct domain_row){0});
    sqlite3_stmt *st = sq_use(&b->h, SQL_DOMAIN_DELETE);
    sq_bind_int(st, 1, n);
    sq_run(&b->h, st);
    effects_kind(fx, NOTICE_DOMAINS);
    return sq_status(&b->h, &call->info);
}

/* A key that does not open has no `pem`: who signs has to know that there is one. So none is left
 * out: one that was published at no time is looked for in the DNS again. */
static void load_keys(struct sq *h, struct arena *a, int64_t n, bool with_secrets,
                      struct domain_row *d) {
    sqlite3_stmt *st = sq_use(h, SQL_DOMAIN_KEYS);
    sq_bind_int(st, 1, n);
    while (sq_row(h, st)) {
        struct damage damage = {0};
        d->key = rows_grow(a, d->key, sizeof(*d->key), d->key_count);
        d->key[d->key_count++] = (struct domain_key_row){
            .selector = sq_str(st, 0, a),
            .algorithm = sq_str(st, 1, a),
            .record = sq_str(st, 3, a),
            .created_wall_ms = sq_shown_time(&damage, st, 4),
            .published_wall_ms = sq_time(&damage, st, 5),
        };
        struct domain_key_row *k = &d->key[d->key_count - 1];
        if (with_secrets)
            k->pem = sq_open_secret(h, &damage, sealed_pem(d, k), sq_peek(st, 2), a);
        (void)sq_is_sound(h, &damage, DAMAGED_DOMAIN, n);
    }
    sq_end(st);
}

enum err sqlite_domain_checked(struct backend *b, struct effects *fx, struct store_call *call) {
    const struct store_domain_checked *q = CONTAINER_OF(call, struct store_domain_checked, call);
    struct arena *a = arena_new();
    struct domain_row d = {.id = q->id};
    sqlite3_stmt *st = sq_use(&b->h, SQL_DOMAIN_BY_ID);
    sq_bind_int(st, 1, q->project);
    sq_bind_id(st, 2, &q->id);
    int64_t n = 0;
    struct damage damage = {0}; /* the same: verified at no time */
    if (sq_row(&b->h, st)) {
        n = sq_int(st, 0);
        d.verified_wall_ms = sq_time(&damage, st, 1);
    }
    sq_end(st);
    if (n != 0)
        load_keys(&b->h, a, n, false, &d);
    bool changed = false;
    int64_t verified = since_wall_ms(q->is_verified, d.verified_wall_ms, q->now_wall_ms);
    if (n != 0 && verified != d.verified_wall_ms) {
        changed = true;
        st = sq_use(&b->h, SQL_DOMAIN_VERIFIED);
        sq_bind_int(st, 1, n);
        sq_bind_int(st, 2, verified);
        sq_run(&b->h, st);
    }
    for (size_t i = 0; i < d.key_count; i++) {
        const struct domain_key_row *k = &d.key[i];
        int64_t published = key_published_wall_ms(q, k);
        if (published == k->published_wall_ms)
            continue;
        changed = true;
        st = sq_use(&b->h, SQL_DOMAIN_KEY_PUBLISHED);
        sq_bind_int(st, 1, n);
        sq_bind_str(st, 2, k->selector);
        sq_bind_int(st, 3, published);
        sq_run(&b->h, st);
    }
    arena_free(&a);
    if (changed)
        effects_kind(fx, NOTICE_DOMAINS);
    enum err e = sq_status(&b->h, &call->info);
    return e == OK && n == 0 ? err_set(&call->info, ERR_NOT_FOUND, "id", "no such domain") : e;
}

static sqlite3_stmt *statement_for(struct sq *h, const struct store_domains *q) {
    bool is_one = !str_is_absent(q->name), is_page = q->limit > 0;
    sqlite3_stmt *st = sq_use(h, is_one    ? SQL_DOMAIN_NAMED
                                 : is_page ? SQL_DOMAINS_PAGE
                                           : SQL_DOMAINS);
    sq_bind_int(st, 1, q->project);
    if (is_one) {
        sq_bind_str(st, 2, q->name);
    } else if (is_page) {
        sq_bind_id(st, 2, &q->after);
        sq_bind_int(st, 3, (int64_t)q->limit + 1);
    }
    return st;
}

enum err sqlite_domains(struct backend_reader *r, struct store_call *call) {
    struct store_domains *q = CONTAINER_OF(call, struct store_domains, call);
    struct arena *a = store_call_arena(call);
    struct sq *h = &r->h;
    q->domain = NULL;
    q->count = 0;
    q->more = false;
    sq_run(h, sq_use(h, SQL_READ_BEGIN));
    sqlite3_stmt *st = statement_for(h, q);
    while (sq_row(h, st)) {
        q->more = q->limit > 0 && q->count == q->limit;
        if (q->more)
            break;
        q->domain = rows_grow(a, q->domain, sizeof(*q->domain), q->count);
        struct domain_row *d = &q->domain[q->count++];
        struct damage damage = {0};
        *d = (struct domain_row){
            .id = sq_id(st, 1),
            .project = sq_int(st, 2),
            .name = sq_str(st, 3, a),
            .bounce_address = sq_str(st, 4, a),
            .created_wall_ms = sq_shown_time(&damage, st, 5),
            .verified_wall_ms = sq_time(&damage, st, 6),
        };
        (void)sq_is_sound(h, &damage, DAMAGED_DOMAIN, sq_int(st, 0));
        load_keys(h, a, sq_int(st, 0), q->with_secrets, d);
    }
    sq_end(st);
    sq_end_snapshot(h);
    enum err e = sq_status(h, &call->info);
    sq_forget(h);
    return e;
}
