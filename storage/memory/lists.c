/* The lists, and copies out of them. */
#include <stdlib.h>

#include "server/base/clock.h"
#include "server/base/limits.h"
#include "storage/memory/memory.h"

void mem_list_add(struct mem_list *l, void *item) {
    if (l->count == l->room) {
        l->room = l->room == 0 ? 64 : l->room * 2;
        l->item = mem_regrow(l->item, sizeof(*l->item), l->room);
    }
    l->item[l->count++] = item;
}

static void *at(const struct mem_list *l, int64_t seq) {
    return seq >= 1 && (uint64_t)seq <= l->count ? l->item[seq - 1] : NULL;
}

struct mem_message *mem_message_at(const struct backend *b, int64_t seq) {
    return at(&b->shared.messages, seq);
}

struct mem_event *mem_event_at(const struct backend *b, int64_t seq) {
    return at(&b->shared.events, seq);
}

struct mem_notification *mem_notification_at(const struct backend *b, int64_t seq) {
    return at(&b->shared.notifications, seq);
}

struct mem_message *mem_message_find(const struct backend *b, const struct id *id,
                                     int64_t project) {
    for (size_t i = 0; i < b->shared.messages.count; i++) {
        struct mem_message *m = b->shared.messages.item[i];
        if (m != NULL && id_equal(&m->row.id, id))
            return project == -1 || m->row.project == project ? m : NULL;
    }
    return NULL;
}

void mem_message_free(struct mem_message **mp) {
    struct mem_message *m = *mp;
    *mp = NULL;
    if (m == NULL)
        return;
    message_unref(&m->content);
    struct arena *a = m->arena; /* m lives in it */
    arena_free(&a);
}

static size_t smaller(size_t a, size_t b) {
    return a < b ? a : b;
}

void mem_result_copy(struct arena *a, const struct last_result *from, struct last_result *out) {
    *out = *from;
    out->text = arena_dup(a, str_slice(from->text, 0, smaller(from->text.n, LIMIT_REPLY_STORED)));
    out->mx = arena_dup(a, from->mx);
    out->tls = arena_dup(a, from->tls);
}

void mem_message_copy(const struct mem_message *m, struct arena *a, struct message_row *out) {
    *out = m->row;
    out->message_id = arena_dup(a, m->row.message_id);
    out->mail_from = arena_dup(a, m->row.mail_from);
    out->from_email = arena_dup(a, m->row.from_email);
    out->from_name = arena_dup(a, m->row.from_name);
    out->from_domain = arena_dup(a, m->row.from_domain);
    out->subject = arena_dup(a, m->row.subject);
    out->external_id = arena_dup(a, m->row.external_id);
    out->tags_json = arena_dup(a, m->row.tags_json);
    out->metadata_json = arena_dup(a, m->row.metadata_json);
    out->route = arena_dup(a, m->row.route);
    out->has_content = m->content != NULL;
    out->recipient = ARENA_ARRAY(a, struct recipient_row, m->row.recipient_count);
    for (size_t i = 0; i < m->row.recipient_count; i++) {
        out->recipient[i] = m->recipient[i].row;
        out->recipient[i].email = arena_dup(a, m->recipient[i].row.email);
        mem_result_copy(a, &m->recipient[i].row.last, &out->recipient[i].last);
    }
}

bool mem_message_is_open(const struct mem_message *m) {
    for (size_t i = 0; i < m->row.recipient_count; i++)
        if (!recipient_state_is_final(m->recipient[i].row.state))
            return true;
    return false;
}

/* With what its message says of itself. */
void mem_event_copy(const struct backend *b, const struct mem_event *e, struct arena *a,
                    struct event_row *out) {
    *out = e->row;
    out->email = arena_dup(a, e->row.email);
    out->message_state = arena_dup(a, e->row.message_state);
    out->note = arena_dup(a, e->row.note);
    mem_result_copy(a, &e->row.result, &out->result);
    const struct mem_message *m =
        id_is_zero(&e->row.message_id) ? NULL : mem_message_find(b, &e->row.message_id, -1);
    if (m == NULL)
        return;
    out->external_id = arena_dup(a, m->row.external_id);
    out->tags_json = arena_dup(a, m->row.tags_json);
    out->metadata_json = arena_dup(a, m->row.metadata_json);
}

static void notify(struct backend *b, struct effects *fx, const struct mem_thing *w,
                   const struct event_row *e) {
    struct arena *a = arena_new();
    struct mem_notification *n = ARENA_NEW(a, struct mem_notification);
    n->arena = a;
    n->event = e->seq;
    n->webhook = w->n;
    n->row = (struct notification_row){.seq = (int64_t)b->shared.notifications.count + 1,
                                       .webhook_id = w->as.webhook.id,
                                       .event_id = e->id,
                                       .type = e->type,
                                       .due_wall_ms = e->wall_ms,
                                       .created_wall_ms = e->wall_ms,
                                       .updated_wall_ms = e->wall_ms};
    mem_list_add(&b->shared.notifications, n);
    effects_kind(fx, NOTICE_NOTIFY);
}

struct event_row *mem_event_put(struct backend *b, struct effects *fx, const struct event_row *e,
                                int64_t only, int64_t except) {
    struct arena *a = arena_new();
    struct mem_event *kept = ARENA_NEW(a, struct mem_event);
    kept->arena = a;
    kept->row = *e;
    kept->row.seq = (int64_t)b->shared.events.count + 1;
    kept->row.id = id_new(e->wall_ms);
    kept->row.email = arena_dup(a, e->email);
    kept->row.message_state = arena_dup(a, e->message_state);
    kept->row.note = arena_dup(a, e->note);
    mem_result_copy(a, &e->result, &kept->row.result);
    mem_list_add(&b->shared.events, kept);
    for (const struct mem_thing *w = b->shared.webhooks; w != NULL; w = w->next) {
        const struct webhook_row *row = &w->as.webhook;
        if (row->project != e->project || w->n == except)
            continue;
        if (only != 0 ? w->n == only
                      : row->state != WEBHOOK_DISABLED && webhook_wants(row, e->type))
            notify(b, fx, w, &kept->row);
    }
    return &kept->row;
}

struct mem_thing *mem_thing_new(struct backend *b, struct mem_thing **list) {
    struct arena *a = arena_new();
    struct mem_thing *t = ARENA_NEW(a, struct mem_thing);
    t->arena = a;
    t->n = ++b->shared.next_thing;
    while (*list != NULL)
        list = &(*list)->next;
    *list = t;
    return t;
}

void mem_thing_remove(struct mem_thing **list, struct mem_thing *t) {
    while (*list != t)
        list = &(*list)->next;
    *list = t->next;
    struct arena *a = t->arena;
    arena_free(&a);
}

static void things_free(struct mem_thing **list) {
    while (*list != NULL)
        mem_thing_remove(list, *list);
}

void mem_lists_free(struct backend *b) {
    for (size_t i = 0; i < b->shared.messages.count; i++) {
        struct mem_message *m = b->shared.messages.item[i];
        mem_message_free(&m);
    }
    for (size_t i = 0; i < b->shared.events.count; i++) {
        const struct mem_event *e = b->shared.events.item[i];
        struct arena *a = e != NULL ? e->arena : NULL;
        arena_free(&a);
    }
    for (size_t i = 0; i < b->shared.notifications.count; i++) {
        const struct mem_notification *n = b->shared.notifications.item[i];
        struct arena *a = n != NULL ? n->arena : NULL;
        arena_free(&a);
    }
    free(b->shared.messages.item);
    free(b->shared.events.item);
    free(b->shared.notifications.item);
    for (struct mem_idempotency *i = b->shared.idempotency, *next; i != NULL; i = next) {
        next = i->next;
        free(i->key);
        free(i);
    }
    things_free(&b->shared.keys);
    things_free(&b->shared.domains);
    things_free(&b->shared.webhooks);
    things_free(&b->shared.captures);
}

void *mem_grow(struct arena *a, void *rows, size_t each, size_t count) {
    if (count != 0 && (count < 8 || (count & (count - 1)) != 0))
        return rows;
    void *bigger = arena_alloc_array(a, each, count == 0 ? 8 : count * 2);
    if (count > 0)
        memcpy(bigger, rows, each * count);
    return bigger;
}
