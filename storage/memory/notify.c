/* Notifications on lists. */
#include "storage/memory/memory.h"

static struct mem_thing *webhook_of(const struct backend *b, const struct mem_notification *n) {
    struct mem_thing *t = b->shared.webhooks;
    while (t != NULL && t->n != n->webhook)
        t = t->next;
    return t;
}

static void copy(struct arena *a, const struct mem_notification *n, struct notification_row *out) {
    *out = n->row;
    out->error = arena_dup(a, n->row.error);
    out->response = arena_dup(a, n->row.response);
}

/* Of one endpoint the pending one that is due first; NULL: none. */
static struct mem_notification *next_of(const struct backend *b, int64_t webhook) {
    struct mem_notification *best = NULL;
    for (size_t i = 0; i < b->shared.notifications.count; i++) {
        struct mem_notification *n = b->shared.notifications.item[i];
        if (n != NULL && n->webhook == webhook && n->row.state == NOTIFICATION_PENDING &&
            (best == NULL || n->row.due_wall_ms < best->row.due_wall_ms))
            best = n;
    }
    return best;
}

static size_t count_sending(const struct backend *b, int64_t webhook) {
    size_t count = 0;
    for (size_t i = 0; i < b->shared.notifications.count; i++) {
        const struct mem_notification *n = b->shared.notifications.item[i];
        count += n != NULL && n->webhook == webhook && n->row.state == NOTIFICATION_SENDING;
    }
    return count;
}

MEM_WRITE(notify_claim) {
    (void)fx;
    struct store_notify_claim *q = CONTAINER_OF(call, struct store_notify_claim, call);
    struct arena *a = store_call_arena(call);
    q->notification = ARENA_ARRAY(a, struct notification_row, q->most);
    q->event = ARENA_ARRAY(a, struct event_row, q->most);
    q->count = 0;
    q->next_due_wall_ms = 0;
    for (const struct mem_thing *w = b->shared.webhooks; w != NULL; w = w->next) {
        if (w->as.webhook.state == WEBHOOK_DISABLED)
            continue;
        struct mem_notification *n;
        size_t sending = count_sending(b, w->n);
        size_t share = store_notify_share(q, &w->as.webhook.id);
        while ((n = next_of(b, w->n)) != NULL && n->row.due_wall_ms <= q->now_wall_ms &&
               q->count < q->most && sending < share) {
            n->row.state = NOTIFICATION_SENDING;
            n->row.updated_wall_ms = q->now_wall_ms;
            copy(a, n, &q->notification[q->count]);
            mem_event_copy(b, mem_event_at(b, n->event), a, &q->event[q->count++]);
            sending++;
        }
        if (n != NULL && (q->next_due_wall_ms == 0 || n->row.due_wall_ms < q->next_due_wall_ms))
            q->next_due_wall_ms = n->row.due_wall_ms;
    }
    return OK;
}

static void set_webhook(struct backend *b, struct effects *fx, struct mem_thing *w,
                        enum webhook_state to, const char *why, int64_t now_wall_ms) {
    if (w->as.webhook.state == to)
        return;
    w->as.webhook.state = to;
    effects_kind(fx, NOTICE_WEBHOOKS);
    if (to == WEBHOOK_ENABLED)
        return;
    struct event_row e = {.type = EVENT_WEBHOOK_DISABLED,
                          .project = w->as.webhook.project,
                          .wall_ms = now_wall_ms,
                          .recipient_index = -1,
                          .webhook_id = w->as.webhook.id,
                          .note = str_of(why)};
    mem_event_put(b, fx, &e, 0, w->n);
}

static void settle_one(struct backend *b, struct effects *fx, struct mem_notification *n,
                       const struct notify_result *r, int64_t now_wall_ms) {
    n->row.state = r->state;
    n->row.attempts += r->counts;
    n->row.due_wall_ms = r->state == NOTIFICATION_PENDING ? r->due_wall_ms : now_wall_ms;
    n->row.updated_wall_ms = now_wall_ms;
    n->row.status = r->status;
    n->row.took_ms = r->took_ms;
    n->row.error = arena_dup(n->arena, r->error);
    n->row.response = arena_dup(n->arena, r->response);
    struct mem_thing *w = webhook_of(b, n);
    if (w == NULL)
        return;
    if (r->disable_webhook)
        set_webhook(b, fx, w, WEBHOOK_DISABLED, "disabled", now_wall_ms);
    else if (r->mark_failing && w->as.webhook.state == WEBHOOK_ENABLED)
        set_webhook(b, fx, w, WEBHOOK_FAILING, "failing", now_wall_ms);
    else if (r->mark_working && w->as.webhook.state == WEBHOOK_FAILING)
        set_webhook(b, fx, w, WEBHOOK_ENABLED, "", now_wall_ms);
}

MEM_WRITE(notify_settle) {
    const struct store_notify_settle *q = CONTAINER_OF(call, struct store_notify_settle, call);
    for (size_t i = 0; i < q->count; i++) {
        const struct mem_notification *n = mem_notification_at(b, q->result[i].seq);
        if (n != NULL &&
            (n->row.state != NOTIFICATION_SENDING || q->result[i].state == NOTIFICATION_SENDING))
            return err_set(&call->info, ERR_CONFLICT, "state", "the notification is not sending");
    }
    for (size_t i = 0; i < q->count; i++) {
        struct mem_notification *n = mem_notification_at(b, q->result[i].seq);
        if (n != NULL)
            settle_one(b, fx, n, &q->result[i], q->now_wall_ms);
    }
    return OK;
}

static void again(struct mem_notification *n, int64_t now_wall_ms) {
    if (n->row.state != NOTIFICATION_PENDING)
        n->row.attempts = 0;
    n->row.state = NOTIFICATION_PENDING;
    n->row.due_wall_ms = n->row.updated_wall_ms = now_wall_ms;
}

static bool is_replayed(const struct store_notify_replay *q, const struct mem_notification *n) {
    return n->row.created_wall_ms >= q->since_wall_ms &&
           n->row.created_wall_ms <= q->until_wall_ms &&
           (n->row.state == NOTIFICATION_FAILED ||
            (n->row.state == NOTIFICATION_DELIVERED && !q->only_failed));
}

MEM_WRITE(notify_replay) {
    struct store_notify_replay *q = CONTAINER_OF(call, struct store_notify_replay, call);
    const struct mem_thing *w = mem_webhook_find(b, &q->webhook_id, q->project);
    q->replayed = 0;
    q->last_seq = q->after_seq;
    q->more = false;
    if (w == NULL)
        return err_set(&call->info, ERR_NOT_FOUND, "id", "no such endpoint");
    if (w->as.webhook.state == WEBHOOK_DISABLED)
        return err_set(&call->info, ERR_CONFLICT, "id", "the endpoint is disabled");
    struct mem_notification *one = mem_notification_at(b, q->seq);
    if (q->seq != 0 && (one == NULL || one->webhook != w->n))
        return err_set(&call->info, ERR_NOT_FOUND, "seq", "no such notification");
    if (q->seq != 0 && one->row.state == NOTIFICATION_SENDING)
        return err_set(&call->info, ERR_CONFLICT, "seq", "the notification is being sent");
    size_t looked = 0;
    for (size_t i = 0; i < b->shared.notifications.count && !q->more; i++) {
        struct mem_notification *n = b->shared.notifications.item[i];
        if (n == NULL || n->webhook != w->n ||
            (q->seq != 0 ? n != one : n->row.seq <= q->after_seq))
            continue;
        if (q->seq == 0 && looked++ == q->most) {
            q->more = true;
            continue;
        }
        q->last_seq = n->row.seq;
        if (q->seq == 0 ? !is_replayed(q, n)
                        : q->only_failed && n->row.state != NOTIFICATION_FAILED)
            continue;
        again(n, q->now_wall_ms);
        q->replayed++;
    }
    if (q->replayed > 0)
        effects_kind(fx, NOTICE_NOTIFY);
    return OK;
}

MEM_READ(notifications) {
    struct store_notifications *q = CONTAINER_OF(call, struct store_notifications, call);
    struct arena *a = store_call_arena(call);
    struct backend *b = r->b;
    enum err e = OK;
    pthread_rwlock_rdlock(&b->shared.lock);
    const struct mem_thing *w = mem_webhook_find(b, &q->webhook_id, q->project);
    q->notification = NULL;
    q->count = 0;
    q->more = false;
    if (w == NULL)
        e = err_set(&call->info, ERR_NOT_FOUND, "id", "no such endpoint");
    for (size_t i = b->shared.notifications.count; w != NULL && i > 0 && !q->more; i--) {
        const struct mem_notification *n = b->shared.notifications.item[i - 1];
        if (n == NULL || n->webhook != w->n || (q->before_seq > 0 && n->row.seq >= q->before_seq))
            continue;
        if (q->count == q->limit) {
            q->more = true;
            continue;
        }
        q->notification = mem_grow(a, q->notification, sizeof(*q->notification), q->count);
        copy(a, n, &q->notification[q->count++]);
    }
    pthread_rwlock_unlock(&b->shared.lock);
    return e;
}
