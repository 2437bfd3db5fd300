/* Secrets in columns: sealed and opened, and all of them renewed when the ring of keys changed. */
#include "server/base/log.h"
#include "storage/sqlite/writer.h"

/* "webhook.secret 0193...", "domain_key.pem 0193... s1" */
static struct str place_text(struct sealed_place place, struct arena *a) {
    char id[ID_TEXT_SIZE];
    id_print(place.id, id);
    return arena_printf(a, "%s %s%s%.*s", place.column, id, place.part.n ? " " : "",
                        STR_ARG(place.part));
}

struct str sq_close_secret(const struct sq *h, struct sealed_place place, struct str plain,
                           struct arena *a) {
    return h->seal ? seal_close(h->seal, place_text(place, a), plain, a) : plain;
}

struct str sq_open_secret(const struct sq *h, struct damage *d, struct sealed_place place,
                          struct str stored, struct arena *a) {
    struct str plain = STR_NONE;
    if (!seal_is_sealed(stored))
        return arena_dup(a, stored);
    if (seal_open(h->seal, place_text(place, a), stored, a, &plain) != OK)
        damage_note(d, "a sealed secret does not open");
    return plain;
}

/* ---- all of them, at the start --------------------------------------------------------------- */

struct renewal {
    struct backend *b;
    struct arena *a;
    struct errinfo *info;
    size_t changed;
};

/* *value: as stored, becomes what is to be stored. */
static enum err renew(struct renewal *r, struct sealed_place place, struct str *value) {
    const struct seal *seal = r->b->h.seal;
    struct str text = place_text(place, r->a), plain = STR_NONE, key = seal_key_of(*value);
    char given[32];
    enum err e = seal_open(seal, text, *value, r->a, &plain);
    seal_describe(seal, given, sizeof given);
    if (e == ERR_NOT_FOUND)
        return err_set(
            r->info, ERR_INVALID, "master_key",
            "the outbox has secrets that are sealed with the master key %.*s; given: %s. "
            "Give that one, or both while it is changed (master_key_previous_file)",
            (int)key.n, key.p, given); /* what is malformed is no key that is not there */
    if (e != OK)
        return err_set(r->info, ERR_INVALID, "master_key",
                       "%s does not open with the master key %.*s: the row was changed", text.p,
                       STR_ARG(key));
    if (!seal_is_current(seal, *value) && plain.n) {
        *value = seal_close(seal, text, plain, r->a);
        r->changed++;
    }
    return OK;
}

struct key_to_renew {
    int64_t domain, n;
    struct id id;
    struct str selector, pem;
};

static enum err renew_domain_keys(struct renewal *r) {
    struct sq *h = &r->b->h;
    struct key_to_renew *list = NULL;
    size_t count = 0;
    enum err e = OK;
    sqlite3_stmt *st = sq_use(h, SQL_SEALED_DOMAIN_KEYS);
    while (sq_row(h, st)) {
        list = rows_grow(r->a, list, sizeof(*list), count);
        list[count++] = (struct key_to_renew){.domain = sq_int(st, 0),
                                              .n = sq_int(st, 1),
                                              .id = sq_id(st, 2),
                                              .selector = sq_str(st, 3, r->a),
                                              .pem = sq_str(st, 4, r->a)};
    }
    sq_end(st);
    for (size_t i = 0; i < count && e == OK; i++) {
        struct key_to_renew *k = &list[i];
        const char *stored = k->pem.p;
        e = renew(r, (struct sealed_place){"domain_key.pem", &k->id, k->selector}, &k->pem);
        if (e != OK || k->pem.p == stored)
            continue;
        st = sq_use(h, SQL_SEALED_DOMAIN_KEY_SET);
        sq_bind_int(st, 1, k->domain);
        sq_bind_int(st, 2, k->n);
        sq_bind_str(st, 3, k->pem);
        sq_run(h, st);
    }
    return e;
}

struct webhook_to_renew {
    int64_t n;
    struct id id;
    struct str secret, previous;
};

static enum err renew_webhooks(struct renewal *r) {
    struct sq *h = &r->b->h;
    struct webhook_to_renew *list = NULL;
    size_t count = 0;
    enum err e = OK;
    sqlite3_stmt *st = sq_use(h, SQL_SEALED_WEBHOOKS);
    while (sq_row(h, st)) {
        list = rows_grow(r->a, list, sizeof(*list), count);
        list[count++] = (struct webhook_to_renew){.n = sq_int(st, 0),
                                                  .id = sq_id(st, 1),
                                                  .secret = sq_str(st, 2, r->a),
                                                  .previous = sq_str(st, 3, r->a)};
    }
    sq_end(st);
    for (size_t i = 0; i < count && e == OK; i++) {
        struct webhook_to_renew *w = &list[i];
        size_t before = r->changed;
        e = renew(r, (struct sealed_place){"webhook.secret", &w->id, STR_NONE}, &w->secret);
        if (e == OK)
            e = renew(r, (struct sealed_place){"webhook.previous_secret", &w->id, STR_NONE},
                      &w->previous);
        if (e != OK || r->changed == before)
            continue;
        st = sq_use(h, SQL_SEALED_WEBHOOK_SET);
        sq_bind_int(st, 1, w->n);
        sq_bind_str(st, 2, w->secret);
        sq_bind_str(st, 3, w->previous);
        sq_run(h, st);
    }
    return e;
}

enum err sealed_renew(struct backend *b, struct errinfo *info) {
    struct renewal r = {.b = b, .a = arena_new(), .info = info};
    /* What stood there before is overwritten, not only forgotten, in the file and in its log. */
    int64_t usual = sq_exec_int(&b->h, "PRAGMA secure_delete");
    sq_exec(&b->h, "PRAGMA secure_delete = ON");
    sq_exec(&b->h, "BEGIN IMMEDIATE");
    enum err e = renew_domain_keys(&r);
    if (e == OK)
        e = renew_webhooks(&r);
    sq_exec(&b->h, e == OK ? "COMMIT" : "ROLLBACK");
    if (usual != 1)
        sq_exec(&b->h, usual ? "PRAGMA secure_delete = FAST" : "PRAGMA secure_delete = OFF");
    if (r.changed && e == OK)
        (void)sq_exec_int(&b->h, "PRAGMA wal_checkpoint(TRUNCATE)");
    if (e == OK)
        e = sq_status(&b->h, info);
    if (e == OK && r.changed) {
        char given[32];
        seal_describe(b->h.seal, given, sizeof given);
        log_info("storage", "secrets were sealed anew", LOG_INT("secrets", r.changed),
                 LOG_STRZ("master_keys", given));
    }
    arena_free_secret(&r.a);
    return e;
}
