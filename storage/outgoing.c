/* What delivery needs to know of a message, and how many bytes of content may ride on it. */
#include <stdatomic.h>
#include <stdlib.h>

#include "server/base/limits.h"
#include "storage/store_ops.h"

/* Outgoings outlive the store, so the budget is shared by count. */
struct content_budget {
    atomic_int refs;
    atomic_llong used_bytes;
    int64_t most_bytes;
};

struct content_budget *content_budget_new(int64_t most_bytes) {
    struct content_budget *b = mem_zalloc(sizeof(*b));
    atomic_init(&b->refs, 1);
    atomic_init(&b->used_bytes, 0);
    b->most_bytes = most_bytes;
    return b;
}

static struct content_budget *content_budget_ref(struct content_budget *b) {
    atomic_fetch_add_explicit(&b->refs, 1, memory_order_relaxed);
    return b;
}

void content_budget_unref(struct content_budget **bp) {
    struct content_budget *b = *bp;
    *bp = NULL;
    if (b != NULL && atomic_fetch_sub_explicit(&b->refs, 1, memory_order_acq_rel) == 1)
        free(b);
}

static bool content_budget_take(struct content_budget *b, int64_t bytes) {
    int64_t before = atomic_fetch_add_explicit(&b->used_bytes, bytes, memory_order_relaxed);
    if (before + bytes <= b->most_bytes)
        return true;
    atomic_fetch_sub_explicit(&b->used_bytes, bytes, memory_order_relaxed);
    return false;
}

struct carrier {
    struct outgoing o;
    struct content_budget *budget; /* NULL: carries nothing */
    int64_t bytes;
    char text[]; /* mail_from, from_domain, route */
};

static struct str put(char **at, struct str s) {
    if (str_is_absent(s))
        return STR_NONE;
    struct str copy = {*at, s.n};
    if (s.n > 0)
        memcpy(*at, s.p, s.n);
    *at += s.n + 1;
    return copy;
}

struct outgoing *outgoing_new(const struct message_row *m, struct message *content,
                              struct content_budget *budget) {
    struct carrier *c = mem_zalloc(sizeof(*c) + m->mail_from.n + m->from_domain.n + m->route.n + 3);
    char *at = c->text;
    c->o = (struct outgoing){
        .seq = m->seq,
        .id = m->id,
        .project = m->project,
        .lane = m->lane,
        .tls = m->tls,
        .needs_smtputf8 = m->needs_smtputf8,
        .is_test = m->is_test,
        .created_wall_ms = m->created_wall_ms,
        .expires_wall_ms = m->expires_wall_ms,
        .size_bytes = m->size_bytes,
        .mail_from = put(&at, m->mail_from),
        .from_domain = put(&at, m->from_domain),
        .route = put(&at, m->route),
        .refs = 1,
    };
    if (content != NULL && message_size(content) <= LIMIT_BODY_CHUNK &&
        content_budget_take(budget, (int64_t)message_size(content))) {
        c->o.message = message_ref(content);
        c->budget = content_budget_ref(budget);
        c->bytes = (int64_t)message_size(content);
    }
    return &c->o;
}

/* Others who have `o` may be reading its content, or counting themselves, at this moment: it is
 * left as it is, and copied field by field. */
struct outgoing *outgoing_without_content(struct outgoing *o) {
    if (o->message == NULL)
        return outgoing_ref(o);
    const struct message_row m = {
        .seq = o->seq,
        .id = o->id,
        .project = o->project,
        .lane = o->lane,
        .tls = o->tls,
        .needs_smtputf8 = o->needs_smtputf8,
        .is_test = o->is_test,
        .created_wall_ms = o->created_wall_ms,
        .expires_wall_ms = o->expires_wall_ms,
        .size_bytes = o->size_bytes,
        .mail_from = o->mail_from,
        .from_domain = o->from_domain,
        .route = o->route,
    };
    return outgoing_new(&m, NULL, NULL);
}

struct outgoing *outgoing_ref(struct outgoing *o) {
    __atomic_fetch_add(&o->refs, 1, __ATOMIC_RELAXED);
    return o;
}

void outgoing_unref(struct outgoing **op) {
    struct outgoing *o = *op;
    *op = NULL;
    if (o == NULL || __atomic_fetch_sub(&o->refs, 1, __ATOMIC_ACQ_REL) != 1)
        return;
    struct carrier *c = CONTAINER_OF(o, struct carrier, o);
    message_unref(&o->message);
    if (c->budget != NULL) {
        atomic_fetch_sub_explicit(&c->budget->used_bytes, c->bytes, memory_order_relaxed);
        content_budget_unref(&c->budget);
    }
    free(c);
}

void due_row_release(struct due_row *d) {
    outgoing_unref(&d->outgoing);
    free((char *)(uintptr_t)d->email.p);
    free((char *)(uintptr_t)d->queue_key.p);
    d->email = d->queue_key = STR_NONE;
}
