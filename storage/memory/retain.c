/* STORE_RETAIN and STORE_MEND on lists. */
#include <stdlib.h>

#include "storage/memory/memory.h"

enum { FUTURE_MS = 60 * 1000, BYTES_OF_ROW = 64 * 1024 };

struct sweep {
    struct backend *b;
    struct store_retain *q;
    size_t left;
};

static void took(struct sweep *s, size_t rows) {
    s->q->removed++;
    s->left -= rows < s->left ? rows : s->left;
}

static void mend(struct sweep *s, int64_t *wall_ms) {
    if (!s->q->mends_times || s->left == 0 || *wall_ms <= s->q->now_wall_ms + FUTURE_MS)
        return;
    *wall_ms = s->q->now_wall_ms;
    s->left--;
}

static size_t rows_of_content(const struct mem_message *m) {
    return m->content == NULL ? 1 : 1 + message_size(m->content) / BYTES_OF_ROW;
}

static void sweep_contents(struct sweep *s) {
    for (size_t i = 0; i < s->b->shared.messages.count && s->left > 0; i++) {
        struct mem_message *m = s->b->shared.messages.item[i];
        if (m == NULL)
            continue;
        if (!mem_message_is_open(m)) /* STORE_MEND goes by both of its times */
            mend(s, &m->row.created_wall_ms);
        if (m->content == NULL || m->row.created_wall_ms >= s->q->content_before_wall_ms ||
            mem_message_is_open(m))
            continue;
        size_t rows = rows_of_content(m);
        message_unref(&m->content);
        took(s, rows);
    }
}

static bool is_still_served(const struct sweep *s, const struct mem_notification *n,
                            const struct mem_thing *webhook) {
    bool waits = n->row.state == NOTIFICATION_PENDING || n->row.state == NOTIFICATION_SENDING;
    return waits && webhook->as.webhook.state != WEBHOOK_DISABLED &&
           n->row.updated_wall_ms >= s->q->waiting_before_wall_ms;
}

static void sweep_notifications(struct sweep *s) {
    for (size_t i = 0; i < s->b->shared.notifications.count && s->left > 0; i++) {
        struct mem_notification *n = s->b->shared.notifications.item[i];
        if (n == NULL)
            continue;
        mend(s, &n->row.created_wall_ms);
        mend(s, &n->row.updated_wall_ms);
        const struct mem_thing *webhook = mem_webhook_find(s->b, &n->row.webhook_id, -1);
        if (webhook != NULL && (n->row.created_wall_ms >= s->q->events_before_wall_ms ||
                                is_still_served(s, n, webhook)))
            continue;
        struct arena *a = n->arena;
        arena_free(&a);
        s->b->shared.notifications.item[i] = NULL;
        took(s, 1);
    }
}

static bool has_notification(const struct sweep *s, int64_t event) {
    for (size_t i = 0; i < s->b->shared.notifications.count; i++) {
        const struct mem_notification *n = s->b->shared.notifications.item[i];
        if (n != NULL && n->event == event)
            return true;
    }
    return false;
}

static bool has_said(const struct last_result *r) {
    return r->code != 0 || r->failure != FAILURE_NONE || r->class_ != CLASS_NONE || r->text.n > 0;
}

/* Of a recipient that is open: the last of its events that says something. */
static bool is_last_reply(const struct sweep *s, const struct mem_event *e) {
    const struct mem_message *m = mem_message_find(s->b, &e->row.message_id, -1);
    if (m == NULL || e->row.recipient_index < 0 || !has_said(&e->row.result) ||
        recipient_state_is_final(m->recipient[e->row.recipient_index].row.state))
        return false;
    for (size_t i = (size_t)e->row.seq; i < s->b->shared.events.count; i++) {
        const struct mem_event *later = s->b->shared.events.item[i];
        if (later != NULL && id_equal(&later->row.message_id, &e->row.message_id) &&
            later->row.recipient_index == e->row.recipient_index && has_said(&later->row.result))
            return false;
    }
    return true;
}

static void sweep_events(struct sweep *s) {
    for (size_t i = 0; i < s->b->shared.events.count && s->left > 0; i++) {
        struct mem_event *e = s->b->shared.events.item[i];
        if (e == NULL)
            continue;
        mend(s, &e->row.wall_ms);
        if (e->row.wall_ms >= s->q->events_before_wall_ms || has_notification(s, e->row.seq) ||
            is_last_reply(s, e))
            continue;
        struct arena *a = e->arena;
        arena_free(&a);
        s->b->shared.events.item[i] = NULL;
        took(s, 1);
    }
}

static bool has_event(const struct sweep *s, const struct mem_message *m) {
    for (size_t i = 0; i < s->b->shared.events.count; i++) {
        const struct mem_event *e = s->b->shared.events.item[i];
        if (e != NULL && id_equal(&e->row.message_id, &m->row.id))
            return true;
    }
    return false;
}

static void sweep_messages(struct sweep *s) {
    for (size_t i = 0; i < s->b->shared.messages.count && s->left > 0; i++) {
        struct mem_message *m = s->b->shared.messages.item[i];
        if (m == NULL || mem_message_is_open(m) ||
            m->row.created_wall_ms >= s->q->events_before_wall_ms || has_event(s, m))
            continue;
        size_t rows = m->row.recipient_count + rows_of_content(m);
        mem_message_free(&m);
        s->b->shared.messages.item[i] = NULL;
        took(s, rows);
    }
}

static void sweep_keys(struct sweep *s) {
    int64_t latest_wall_ms = s->q->keys_latest_wall_ms;
    bool mends = s->q->mends_times && latest_wall_ms != 0;
    for (struct mem_idempotency **at = &s->b->shared.idempotency; *at != NULL && s->left > 0;) {
        struct mem_idempotency *i = *at;
        if (mends && i->until_wall_ms > latest_wall_ms + KEY_SLACK_MS) {
            i->until_wall_ms = latest_wall_ms;
            s->left--;
        }
        if (i->until_wall_ms > s->q->now_wall_ms) {
            at = &i->next;
            continue;
        }
        *at = i->next;
        free(i->key);
        free(i);
        took(s, 1);
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
        size_t rows = 1 + t->as.capture.content.n / BYTES_OF_ROW;
        mem_thing_remove(&s->b->shared.captures, t);
        count--;
        took(s, rows);
    }
}

MEM_WRITE(retain) {
    (void)fx;
    struct store_retain *q = CONTAINER_OF(call, struct store_retain, call);
    struct sweep s = {b, q, q->most};
    q->removed = 0;
    sweep_contents(&s);
    sweep_notifications(&s);
    sweep_events(&s);
    sweep_messages(&s);
    sweep_keys(&s);
    sweep_captures(&s, CAPTURE_MESSAGE);
    sweep_captures(&s, CAPTURE_WEBHOOK);
    q->more = s.left == 0;
    return OK;
}

MEM_WRITE(mend) { /* tells nobody of recipients: delivery asks once a minute */
    struct store_mend *q = CONTAINER_OF(call, struct store_mend, call);
    q->mended = 0;
    q->more = false;
    for (size_t i = 0; i < b->shared.messages.count; i++) {
        struct mem_message *m = b->shared.messages.item[i];
        if (m == NULL || !mem_message_is_open(m))
            continue;
        for (size_t k = 0; q->due_latest_wall_ms != 0 && k < m->row.recipient_count; k++) {
            struct recipient_row *r = &m->recipient[k].row;
            if (r->state != RECIPIENT_QUEUED || r->due_wall_ms <= q->due_latest_wall_ms)
                continue;
            r->due_wall_ms = r->updated_wall_ms = q->now_wall_ms;
            q->mended++;
        }
        if (q->expires_latest_wall_ms == 0 || m->row.expires_wall_ms <= q->expires_latest_wall_ms)
            continue;
        int64_t life_ms = m->row.expires_wall_ms - m->row.created_wall_ms;
        int64_t most_ms = q->expires_latest_wall_ms - q->now_wall_ms;
        m->row.expires_wall_ms =
            q->now_wall_ms + (life_ms < 0 || life_ms > most_ms ? most_ms : life_ms);
        q->mended++;
    }
    for (size_t i = 0; q->notify_latest_wall_ms != 0 && i < b->shared.notifications.count; i++) {
        struct mem_notification *n = b->shared.notifications.item[i];
        if (n == NULL || n->row.state != NOTIFICATION_PENDING ||
            n->row.due_wall_ms <= q->notify_latest_wall_ms)
            continue;
        n->row.due_wall_ms = q->now_wall_ms;
        q->mended++;
        effects_kind(fx, NOTICE_NOTIFY);
    }
    return OK;
}
