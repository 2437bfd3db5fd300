/* Keys, domains, webhooks, captures: lists of what was put. */
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "storage/memory/memory.h"

static const struct backend *lock(struct backend_reader *r) {
    pthread_rwlock_rdlock(&r->b->shared.lock);
    return r->b;
}

static enum err unlock(struct backend_reader *r, enum err e) {
    pthread_rwlock_unlock(&r->b->shared.lock);
    return e;
}

static bool is_of(int64_t project, int64_t wanted) {
    return wanted == -1 || project == wanted;
}

static bool is_after(const struct id *id, const struct id *after) {
    return memcmp(id->b, after->b, ID_BYTES) > 0;
}

static int by_id(const void *a, const void *b) {
    return memcmp(a, b, ID_BYTES);
}

_Static_assert(offsetof(struct key_row, id) == 0 && offsetof(struct domain_row, id) == 0,
               "by_id() looks for it there");

/* Of rows that begin with their id, the first ones; limit 0: all, as they are. */
static void cut_page(void *row, size_t size, size_t *count, size_t limit, bool *more) {
    *more = limit > 0 && *count > limit;
    if (limit > 0 && *count > 1)
        qsort(row, *count, size, by_id);
    if (*more)
        *count = limit;
}

static struct str *copy_list(struct arena *a, const struct str *list, size_t count) {
    struct str *out = count > 0 ? ARENA_ARRAY(a, struct str, count) : NULL;
    for (size_t i = 0; i < count; i++)
        out[i] = arena_dup(a, list[i]);
    return out;
}

/* ---- keys ---- */

static void copy_key(struct arena *a, const struct key_row *from, struct key_row *out) {
    *out = *from;
    out->name = arena_dup(a, from->name);
    out->prefix = arena_dup(a, from->prefix);
    out->from_domains = copy_list(a, from->from_domains, from->from_domain_count);
}

static int64_t keys_in_force(const struct backend *b, int64_t project, int64_t now_wall_ms) {
    int64_t count = 0;
    for (const struct mem_thing *t = b->shared.keys; t != NULL; t = t->next) {
        const struct key_row *k = &t->as.key;
        count += k->project == project && k->revoked_wall_ms == 0 &&
                 (k->expires_wall_ms == 0 || k->expires_wall_ms > now_wall_ms);
    }
    return count;
}

MEM_WRITE(key_put) {
    struct store_key_put *q = CONTAINER_OF(call, struct store_key_put, call);
    struct mem_thing *t = b->shared.keys;
    while (t != NULL && !str_equal(t->as.key.prefix, q->key.prefix))
        t = t->next;
    if (t != NULL && memcmp(t->as.key.hash, q->key.hash, sizeof(q->key.hash)) != 0)
        return err_set(&call->info, ERR_CONFLICT, "prefix", "another key has this prefix");
    int64_t count = keys_in_force(b, q->key.project, q->key.created_wall_ms);
    if (t == NULL && room_for_one(call, count, q->most, KEYS_IN_FORCE) != OK)
        return ERR_LIMIT;
    struct key_row row = q->key;
    if (t != NULL) {
        q->key.id = row.id = t->as.key.id;
        row.created_wall_ms = t->as.key.created_wall_ms;
        row.used_wall_ms = t->as.key.used_wall_ms;
        if (t->as.key.revoked_wall_ms != 0)
            q->key.revoked_wall_ms = row.revoked_wall_ms = t->as.key.revoked_wall_ms;
    } else {
        t = mem_thing_new(b, &b->shared.keys);
    }
    copy_key(t->arena, &row, &t->as.key);
    effects_kind(fx, NOTICE_KEYS);
    return OK;
}

MEM_WRITE(key_revoke) {
    const struct store_key_revoke *q = CONTAINER_OF(call, struct store_key_revoke, call);
    struct mem_thing *t = b->shared.keys;
    while (t != NULL && !(id_equal(&t->as.key.id, &q->id) && is_of(t->as.key.project, q->project)))
        t = t->next;
    if (t == NULL)
        return err_set(&call->info, ERR_NOT_FOUND, "id", "no such key");
    if (t->as.key.revoked_wall_ms == 0)
        t->as.key.revoked_wall_ms = q->now_wall_ms;
    effects_kind(fx, NOTICE_KEYS);
    return OK;
}

MEM_WRITE(keys_used) {
    (void)fx;
    const struct store_keys_used *q = CONTAINER_OF(call, struct store_keys_used, call);
    for (size_t i = 0; i < q->count; i++)
        for (struct mem_thing *t = b->shared.keys; t != NULL; t = t->next)
            if (id_equal(&t->as.key.id, &q->id[i]) && t->as.key.used_wall_ms < q->wall_ms[i])
                t->as.key.used_wall_ms = q->wall_ms[i];
    return OK;
}

MEM_READ(keys) {
    struct store_keys *q = CONTAINER_OF(call, struct store_keys, call);
    struct arena *a = store_call_arena(call);
    const struct backend *b = lock(r);
    q->key = NULL;
    q->count = 0;
    for (const struct mem_thing *t = b->shared.keys; t != NULL; t = t->next) {
        const struct key_row *k = &t->as.key;
        if (!is_of(k->project, q->project) || !is_after(&k->id, &q->after) ||
            (!id_is_zero(&q->id) && !id_equal(&k->id, &q->id)))
            continue;
        q->key = mem_grow(a, q->key, sizeof(*q->key), q->count);
        copy_key(a, k, &q->key[q->count++]);
    }
    cut_page(q->key, sizeof(*q->key), &q->count, q->limit, &q->more);
    return unlock(r, OK);
}

/* ---- domains ---- */

static void copy_domain(struct arena *a, const struct domain_row *from, bool with_secrets,
                        struct domain_row *out) {
    *out = *from;
    out->name = arena_dup(a, from->name);
    out->bounce_address = arena_dup(a, from->bounce_address);
    out->key = ARENA_ARRAY(a, struct domain_key_row, from->key_count);
    for (size_t i = 0; i < from->key_count; i++) {
        out->key[i] = from->key[i];
        out->key[i].selector = arena_dup(a, from->key[i].selector);
        out->key[i].algorithm = arena_dup(a, from->key[i].algorithm);
        out->key[i].pem = with_secrets ? arena_dup(a, from->key[i].pem) : STR_NONE;
        out->key[i].record = arena_dup(a, from->key[i].record);
    }
}

static struct mem_thing *domain_find(struct backend *b, struct str name, int64_t project) {
    struct mem_thing *t = b->shared.domains;
    while (t != NULL && !(t->as.domain.project == project && str_equal(t->as.domain.name, name)))
        t = t->next;
    return t;
}

static int64_t domain_count(const struct backend *b, int64_t project) {
    int64_t count = 0;
    for (const struct mem_thing *t = b->shared.domains; t != NULL; t = t->next)
        count += t->as.domain.project == project;
    return count;
}

MEM_WRITE(domain_put) {
    struct store_domain_put *q = CONTAINER_OF(call, struct store_domain_put, call);
    for (size_t i = 0; i < q->domain.key_count; i++)
        if (str_is_absent(q->domain.key[i].pem))
            return err_set(&call->info, ERR_INVALID, "pem",
                           "a key cannot be read: give the domain its keys anew, or remove it");
    struct mem_thing *t = domain_find(b, q->domain.name, q->domain.project);
    if (t != NULL && !q->replace)
        return err_set(&call->info, ERR_CONFLICT, "name", "the domain exists");
    int64_t count = domain_count(b, q->domain.project);
    if (t == NULL && room_for_one(call, count, q->most, "domains") != OK)
        return ERR_LIMIT;
    if (t != NULL) {
        q->domain.id = t->as.domain.id;
        q->domain.created_wall_ms = t->as.domain.created_wall_ms;
    } else {
        t = mem_thing_new(b, &b->shared.domains);
    }
    copy_domain(t->arena, &q->domain, true, &t->as.domain);
    effects_kind(fx, NOTICE_DOMAINS);
    return OK;
}

MEM_WRITE(domain_delete) {
    const struct store_domain_delete *q = CONTAINER_OF(call, struct store_domain_delete, call);
    struct mem_thing *t = domain_find(b, q->name, q->project);
    if (t == NULL)
        return err_set(&call->info, ERR_NOT_FOUND, "name", "no such domain");
    mem_thing_remove(&b->shared.domains, t);
    effects_kind(fx, NOTICE_DOMAINS);
    return OK;
}

/* Sets `*wall_ms`; did it change? */
static bool set_time(int64_t *wall_ms, int64_t to_wall_ms) {
    int64_t before_wall_ms = *wall_ms;
    *wall_ms = to_wall_ms;
    return before_wall_ms != to_wall_ms;
}

MEM_WRITE(domain_checked) {
    const struct store_domain_checked *q = CONTAINER_OF(call, struct store_domain_checked, call);
    struct mem_thing *t = b->shared.domains;
    while (t != NULL && !(t->as.domain.project == q->project && id_equal(&t->as.domain.id, &q->id)))
        t = t->next;
    if (t == NULL)
        return err_set(&call->info, ERR_NOT_FOUND, "id", "no such domain");
    struct domain_row *d = &t->as.domain;
    bool changed = set_time(&d->verified_wall_ms,
                            since_wall_ms(q->is_verified, d->verified_wall_ms, q->now_wall_ms));
    for (size_t i = 0; i < d->key_count; i++)
        changed |= set_time(&d->key[i].published_wall_ms, key_published_wall_ms(q, &d->key[i]));
    if (changed)
        effects_kind(fx, NOTICE_DOMAINS);
    return OK;
}

MEM_READ(domains) {
    struct store_domains *q = CONTAINER_OF(call, struct store_domains, call);
    struct arena *a = store_call_arena(call);
    const struct backend *b = lock(r);
    q->domain = NULL;
    q->count = 0;
    for (const struct mem_thing *t = b->shared.domains; t != NULL; t = t->next) {
        const struct domain_row *d = &t->as.domain;
        if (!is_of(d->project, q->project) || !is_after(&d->id, &q->after) ||
            (!str_is_absent(q->name) && !str_equal(d->name, q->name)))
            continue;
        q->domain = mem_grow(a, q->domain, sizeof(*q->domain), q->count);
        copy_domain(a, d, q->with_secrets, &q->domain[q->count++]);
    }
    cut_page(q->domain, sizeof(*q->domain), &q->count, q->limit, &q->more);
    return unlock(r, OK);
}

/* ---- webhooks ---- */

static void copy_webhook(struct arena *a, const struct webhook_row *from, struct webhook_row *out) {
    *out = *from;
    out->url = arena_dup(a, from->url);
    out->secret = arena_dup(a, from->secret);
    out->previous_secret = arena_dup(a, from->previous_secret);
    out->description = arena_dup(a, from->description);
    out->events = copy_list(a, from->events, from->event_count);
}

struct mem_thing *mem_webhook_find(const struct backend *b, const struct id *id, int64_t project) {
    struct mem_thing *t = b->shared.webhooks;
    while (t != NULL && !(id_equal(&t->as.webhook.id, id) && is_of(t->as.webhook.project, project)))
        t = t->next;
    return t;
}

static enum err no_endpoint(struct store_call *call) {
    return err_set(&call->info, ERR_NOT_FOUND, "id", "no such endpoint");
}

static int64_t webhook_count(const struct backend *b, int64_t project) {
    int64_t count = 0;
    for (const struct mem_thing *t = b->shared.webhooks; t != NULL; t = t->next)
        count += t->as.webhook.project == project;
    return count;
}

MEM_WRITE(webhook_put) {
    struct store_webhook_put *q = CONTAINER_OF(call, struct store_webhook_put, call);
    struct mem_thing *t = mem_webhook_find(b, &q->webhook.id, q->replace ? q->webhook.project : -1);
    if (t == NULL && q->replace)
        return no_endpoint(call);
    if (t != NULL && !q->replace)
        return err_set(&call->info, ERR_CONFLICT, "id", "the endpoint exists");
    if (t != NULL && q->seen != NULL && !webhook_is_same(&t->as.webhook, q->seen))
        return err_set(&call->info, ERR_CONFLICT, "id", "the endpoint was changed meanwhile");
    int64_t count = webhook_count(b, q->webhook.project);
    if (t == NULL && room_for_one(call, count, q->most, "webhooks") != OK)
        return ERR_LIMIT;
    struct webhook_row row = q->webhook;
    if (t != NULL)
        row.created_wall_ms = t->as.webhook.created_wall_ms;
    else
        t = mem_thing_new(b, &b->shared.webhooks);
    copy_webhook(t->arena, &row, &t->as.webhook);
    effects_kind(fx, NOTICE_WEBHOOKS);
    effects_kind(fx, NOTICE_NOTIFY);
    return OK;
}

MEM_WRITE(webhook_delete) {
    const struct store_webhook_delete *q = CONTAINER_OF(call, struct store_webhook_delete, call);
    struct mem_thing *t = mem_webhook_find(b, &q->id, q->project);
    if (t == NULL)
        return no_endpoint(call);
    mem_thing_remove(&b->shared.webhooks, t);
    effects_kind(fx, NOTICE_WEBHOOKS);
    return OK;
}

MEM_WRITE(webhook_test) {
    struct store_webhook_test *q = CONTAINER_OF(call, struct store_webhook_test, call);
    const struct mem_thing *t = mem_webhook_find(b, &q->id, q->project);
    if (t == NULL)
        return no_endpoint(call);
    if (t->as.webhook.state == WEBHOOK_DISABLED)
        return err_set(&call->info, ERR_CONFLICT, "id", "the endpoint is disabled");
    struct event_row e = {.type = EVENT_WEBHOOK_TEST,
                          .project = t->as.webhook.project,
                          .wall_ms = q->now_wall_ms,
                          .recipient_index = -1,
                          .webhook_id = q->id,
                          .note = STR("a test of this endpoint")};
    q->event_id = mem_event_put(b, fx, &e, t->n, 0)->id;
    return OK;
}

MEM_READ(webhooks) {
    struct store_webhooks *q = CONTAINER_OF(call, struct store_webhooks, call);
    struct arena *a = store_call_arena(call);
    const struct backend *b = lock(r);
    q->webhook = NULL;
    q->count = 0;
    for (const struct mem_thing *t = b->shared.webhooks; t != NULL; t = t->next) {
        if (!is_of(t->as.webhook.project, q->project))
            continue;
        q->webhook = mem_grow(a, q->webhook, sizeof(*q->webhook), q->count);
        copy_webhook(a, &t->as.webhook, &q->webhook[q->count++]);
    }
    return unlock(r, OK);
}

/* ---- captures ---- */

static void copy_capture(struct arena *a, const struct capture_row *from, bool with_content,
                         struct capture_row *out) {
    *out = *from;
    out->meta_json = arena_dup(a, from->meta_json);
    out->content = with_content ? arena_dup(a, from->content) : STR_NONE;
}

MEM_WRITE(capture_put) {
    (void)fx;
    const struct store_capture_put *q = CONTAINER_OF(call, struct store_capture_put, call);
    struct mem_thing *t = mem_thing_new(b, &b->shared.captures);
    copy_capture(t->arena, &q->capture, true, &t->as.capture);
    return OK;
}

/* The newest before the one given. */
static const struct capture_row *capture_before(const struct backend *b, enum capture_kind kind,
                                                const struct id *before) {
    const struct capture_row *best = NULL;
    for (const struct mem_thing *t = b->shared.captures; t != NULL; t = t->next) {
        const struct capture_row *c = &t->as.capture;
        if (c->kind == kind && memcmp(c->id.b, before->b, ID_BYTES) < 0 &&
            (best == NULL || memcmp(c->id.b, best->id.b, ID_BYTES) > 0))
            best = c;
    }
    return best;
}

MEM_READ(captures) {
    struct store_captures *q = CONTAINER_OF(call, struct store_captures, call);
    struct arena *a = store_call_arena(call);
    const struct backend *b = lock(r);
    struct id before = q->before;
    if (id_is_zero(&before))
        memset(before.b, 0xFF, sizeof(before.b));
    q->capture = NULL;
    q->count = 0;
    q->more = false;
    const struct capture_row *c;
    while ((c = capture_before(b, q->kind, &before)) != NULL) {
        if (q->count == q->limit) {
            q->more = true;
            break;
        }
        before = c->id;
        q->capture = mem_grow(a, q->capture, sizeof(*q->capture), q->count);
        copy_capture(a, c, q->kind == CAPTURE_WEBHOOK, &q->capture[q->count++]);
    }
    return unlock(r, OK);
}

MEM_READ(capture) {
    struct store_capture *q = CONTAINER_OF(call, struct store_capture, call);
    const struct mem_thing *t = lock(r)->shared.captures;
    while (t != NULL && !id_equal(&t->as.capture.id, &q->id))
        t = t->next;
    if (t == NULL)
        return unlock(r, err_set(&call->info, ERR_NOT_FOUND, "id", "no such capture"));
    copy_capture(store_call_arena(call), &t->as.capture, !q->is_head, &q->capture);
    q->content_bytes = (int64_t)t->as.capture.content.n;
    return unlock(r, OK);
}
