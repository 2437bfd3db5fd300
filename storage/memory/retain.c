/* STORE_RETAIN on lists. */
#include <stdlib.h>

#include "storage/memory/memory.h"

struct sweep {
    struct backend *b;
    const struct store_retain *q;
    size_t left;
};

static void sweep_contents(struct sweep *s) {
    for (size_t i = 0; i < s->b->shared.messages.count && s->left > 0; i++) {
        struct mem_message *m = s->b->shared.messages.item[i];
        if (m == NULL || m->content == NULL ||
            m->row.created_wall_ms >= s->q->content_before_wall_ms || mem_message_is_open(m))
            continue;
        message_unref(&m->content);
        s->left--;
    }
}

static void sweep_notifications(struct sweep *s) {
    for (size_t i = 0; i < s->b->shared.notifications.count && s->left > 0; i++) {
        const struct mem_notification *n = s->b->shared.notifications.item[i];
        if (n == NULL)
            continue;
        bool is_orphan = mem_webhook_find(s->b, &n->row.webhook_id, -1) == NULL;
        if (!is_orphan && n->row.created_wall_ms >= s->q->events_before_wall_ms)
            continue;
        struct arena *a = n->arena;
        arena_free(&a);
        s->b->shared.notifications.item[i] = NULL;
        s->left--;
    }
}

static void sweep_events(struct sweep *s) {
    for (size_t i = 0; i < s->b->shared.events.count && s->left > 0; i++) {
        const struct mem_event *e = s->b->shared.events.item[i];
        if (e == NULL || e->row.wall_ms >= s->q->events_before_wall_ms)
            continue;
        struct arena *a = e->arena;
        arena_free(&a);
        s->b->shared.events.item[i] = NULL;
        s->left--;
    }
}

static bool is_young(const struct mem_message *m, int64_t before_wall_ms) {
    if (m->row.created_wall_ms >= before_wall_ms)
        return true;
    for (size_t i = 0; i < m->row.recipient_count; i++)
        if (m->recipient[i].row.updated_wall_ms >= before_wall_ms)
            return true;
    return false;
}

static void sweep_messages(struct sweep *s) {
    for (size_t i = 0; i < s->b->shared.messages.count && s->left > 0; i++) {
        struct mem_message *m = s->b->shared.messages.item[i];
        if (m == NULL || mem_message_is_open(m) || is_young(m, s->q->events_before_wall_ms))
            continue;
        mem_message_free(&m);
        s->b->shared.messages.item[i] = NULL;
        s->left--;
    }
}

static void sweep_keys(struct sweep *s) {
    for (struct mem_idempotency **at = &s->b->shared.idempotency; *at != NULL && s->left > 0;) {
        struct mem_idempotency *i = *at;
        if (i->until_wall_ms > s->q->now_wall_ms) {
            at = &i->next;
            continue;
        }
        *at = i->next;
        free(i->key);
        free(i);
        s->left--;
    }
}

static void sweep_captures(struct sweep *s, enum capture_kind kind) {
    size_t count = 0;
    for (const struct mem_thing *t = s->b->shared.captures; t != NULL; t = t->next)
        count += t->as.capture.kind == kind;
    for (struct mem_thing *t = s->b->shared.captures, *next; t != NULL && s->left > 0; t = next) {
        next = t->next;
        if (t->as.capture.kind != kind || count <= s->q->captures_most)
            continue;
        mem_thing_remove(&s->b->shared.captures, t);
        count--;
        s->left--;
    }
}

MEM_WRITE(retain) {
    (void)fx;
    struct store_retain *q = CONTAINER_OF(call, struct store_retain, call);
    struct sweep s = {b, q, q->most};
    sweep_contents(&s);
    sweep_notifications(&s);
    sweep_events(&s);
    sweep_messages(&s);
    sweep_keys(&s);
    sweep_captures(&s, CAPTURE_MESSAGE);
    sweep_captures(&s, CAPTURE_WEBHOOK);
    q->removed = q->most - s.left;
    return OK;
}
