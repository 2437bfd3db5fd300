/* The reading verbs of the outbox. */
#include <stdlib.h>

#include "storage/memory/memory.h"

static const struct backend *lock(struct backend_reader *r) {
    pthread_rwlock_rdlock(&r->b->shared.lock);
    return r->b;
}

static enum err unlock(struct backend_reader *r, enum err e) {
    pthread_rwlock_unlock(&r->b->shared.lock);
    return e;
}

/* ---- due ---- */

/* What is due, sorted: those of one summary row together, each row by time. */
struct candidate {
    const struct mem_message *m;
    const struct mem_recipient *r;
};

static int order(int64_t a, int64_t b) {
    return (a > b) - (a < b);
}

static int compare_due(const void *x, const void *y) {
    const struct candidate *a = x, *b = y;
    int c = order((int64_t)a->m->row.lane, (int64_t)b->m->row.lane);
    if (c == 0)
        c = str_compare(a->r->queue_key, b->r->queue_key);
    if (c == 0)
        c = order(a->m->row.project, b->m->row.project);
    if (c == 0)
        c = order(a->r->row.due_wall_ms, b->r->row.due_wall_ms);
    return c != 0 ? c : order(a->r->row.key, b->r->row.key);
}

static bool same_row(const struct candidate *a, const struct candidate *b) {
    return a->m->row.lane == b->m->row.lane && a->m->row.project == b->m->row.project &&
           str_equal(a->r->queue_key, b->r->queue_key);
}

static bool is_skipped(const struct store_due *q, struct str key) {
    for (size_t i = 0; i < q->skip_count; i++)
        if (str_equal(q->skip_key[i], key))
            return true;
    return false;
}

/* A summary row: count candidates from `first` on. */
struct queue_due {
    size_t first, count;
    enum lane lane;
    struct time_place place; /* of the first one */
};

static int compare_places(const struct time_place *a, const struct time_place *b) {
    int c = order(a->wall_ms, b->wall_ms);
    return c != 0 ? c : order(a->number, b->number);
}

static int compare_queues(const void *x, const void *y) {
    const struct queue_due *a = x, *b = y;
    int c = order((int64_t)a->lane, (int64_t)b->lane);
    return c != 0 ? c : compare_places(&a->place, &b->place);
}

/* By lane and then by earliest; those that the load goes on behind are left out. */
static size_t find_queues(const struct store_due *q, const struct candidate *list, size_t count,
                          struct queue_due *out) {
    size_t n = 0;
    for (size_t i = 0, next; i < count; i = next) {
        const struct candidate *c = &list[i];
        for (next = i + 1; next < count && same_row(&list[next], c); next++)
            ;
        out[n] = (struct queue_due){.first = i,
                                    .count = next - i,
                                    .lane = c->m->row.lane,
                                    .place = {c->r->row.due_wall_ms, c->r->row.key}};
        const struct time_place *at = &q->at[out[n].lane];
        n += at->number == 0 || compare_places(&out[n].place, at) > 0;
    }
    qsort(out, n, sizeof(*out), compare_queues);
    return n;
}

/* As the other backend's. */
static void move_on(struct store_due *q, enum lane lane, const struct queue_due *queue,
                    const struct due_share *share, size_t count) {
    const struct queue_due *last = NULL;
    bool left_out = false;
    for (size_t i = 0; i < count; i++) {
        if (queue[i].lane != lane)
            continue;
        left_out = share[i].give == 0;
        if (!left_out)
            last = &queue[i];
    }
    if (left_out && last != NULL)
        q->at[lane] = last->place;
    else if (!left_out || q->count < q->most)
        q->at[lane] = (struct time_place){0};
}

static struct candidate *find_due(const struct backend *b, struct store_due *q, struct arena *a,
                                  size_t *count) {
    struct candidate *list = NULL;
    for (size_t i = 0; i < b->shared.messages.count; i++) {
        const struct mem_message *m = b->shared.messages.item[i];
        for (size_t k = 0; m != NULL && k < m->row.recipient_count; k++) {
            const struct mem_recipient *r = &m->recipient[k];
            if ((r->row.state != RECIPIENT_QUEUED && r->row.state != RECIPIENT_SCHEDULED) ||
                is_skipped(q, r->queue_key))
                continue;
            if (r->row.due_wall_ms > q->until_wall_ms) {
                if (q->next_due_wall_ms == 0 || r->row.due_wall_ms < q->next_due_wall_ms)
                    q->next_due_wall_ms = r->row.due_wall_ms;
                continue;
            }
            list = mem_grow(a, list, sizeof(*list), *count);
            list[(*count)++] = (struct candidate){m, r};
        }
    }
    return list;
}

static void put_due(struct store_due *q, struct arena *a, const struct candidate *c) {
    struct outgoing *o = q->count > 0 && q->due[q->count - 1].outgoing->seq == c->m->row.seq
                             ? outgoing_ref(q->due[q->count - 1].outgoing)
                             : outgoing_new(&c->m->row, NULL, NULL);
    q->due = mem_grow(a, q->due, sizeof(*q->due), q->count);
    q->due[q->count++] = (struct due_row){
        .key = c->r->row.key,
        .outgoing = o,
        .attempts = c->r->row.attempts,
        .no_domain_wall_ms = c->r->no_domain_wall_ms,
        .possible_duplicate = c->r->row.possible_duplicate,
        .due_wall_ms = c->r->row.due_wall_ms,
        .email = str_make(str_dupz(c->r->row.email), c->r->row.email.n),
        .queue_key = str_make(str_dupz(c->r->queue_key), c->r->queue_key.n),
    };
}

MEM_READ(due) {
    struct store_due *q = CONTAINER_OF(call, struct store_due, call);
    struct arena *a = store_call_arena(call);
    const struct backend *b = lock(r);
    size_t count = 0;
    q->due = NULL;
    q->count = 0;
    q->next_due_wall_ms = 0;
    struct candidate *list = find_due(b, q, a, &count);
    if (count > 0)
        qsort(list, count, sizeof(*list), compare_due);
    struct queue_due *queue = ARENA_ARRAY(a, struct queue_due, count + 1);
    struct due_share *share = ARENA_ARRAY(a, struct due_share, count + 1);
    size_t queues = find_queues(q, list, count, queue);
    for (size_t i = 0; i < queues; i++)
        share[i] = (struct due_share){.key = list[queue[i].first].r->queue_key,
                                      .lane = queue[i].lane,
                                      .count = (int64_t)queue[i].count};
    due_shares(share, queues, q->per_key, q->most);
    for (size_t i = 0; i < queues; i++)
        for (int64_t k = 0; k < share[i].give; k++)
            put_due(q, a, &list[queue[i].first + (size_t)k]);
    q->more = q->count < count;
    for (int lane = 0; lane < LANE_COUNT; lane++)
        move_on(q, (enum lane)lane, queue, share, queues);
    return unlock(r, OK);
}

/* ---- content, message, listing ---- */

MEM_READ(content) {
    struct store_content *q = CONTAINER_OF(call, struct store_content, call);
    const struct mem_message *m = mem_message_find(lock(r), &q->id, q->project);
    q->message = NULL;
    if (m == NULL)
        return unlock(r, err_set(&call->info, ERR_NOT_FOUND, "id", "no such message"));
    if (m->content == NULL)
        return unlock(r, err_set(&call->info, ERR_NOT_FOUND, "content", "the content is erased"));
    struct str bytes = message_bytes(m->content).piece[1];
    q->message = message_new(&q->id, str_dupz(bytes), bytes.n);
    return unlock(r, OK);
}

MEM_READ(message) {
    struct store_message *q = CONTAINER_OF(call, struct store_message, call);
    const struct mem_message *m = mem_message_find(lock(r), &q->id, q->project);
    if (m == NULL)
        return unlock(r, err_set(&call->info, ERR_NOT_FOUND, "id", "no such message"));
    mem_message_copy(m, store_call_arena(call), &q->message);
    return unlock(r, OK);
}

MEM_READ(messages) {
    struct store_messages *q = CONTAINER_OF(call, struct store_messages, call);
    struct arena *a = store_call_arena(call), *scratch = arena_new();
    const struct backend *b = lock(r);
    q->message = NULL;
    q->count = 0;
    q->more = false;
    size_t from = b->shared.messages.count;
    if (q->before_seq > 0 && (size_t)q->before_seq - 1 < from)
        from = (size_t)q->before_seq - 1;
    for (size_t i = from; i > 0 && !q->more; i--) {
        const struct mem_message *m = b->shared.messages.item[i - 1];
        struct message_row row;
        arena_clear(scratch);
        if (m == NULL)
            continue;
        mem_message_copy(m, scratch, &row);
        if (!messages_match(q, &row))
            continue;
        if (q->count == q->limit) {
            q->more = true;
            continue;
        }
        q->message = mem_grow(a, q->message, sizeof(*q->message), q->count);
        mem_message_copy(m, a, &q->message[q->count++]);
    }
    arena_free(&scratch);
    return unlock(r, OK);
}

/* ---- events, attempts, totals ---- */

MEM_READ(events) {
    struct store_events *q = CONTAINER_OF(call, struct store_events, call);
    struct arena *a = store_call_arena(call);
    const struct backend *b = lock(r);
    bool of_message = !id_is_zero(&q->message_id);
    q->event = NULL;
    q->count = 0;
    q->more = false;
    if (of_message && mem_message_find(b, &q->message_id, q->project) == NULL)
        return unlock(r, err_set(&call->info, ERR_NOT_FOUND, "id", "no such message"));
    for (size_t i = q->after_seq > 0 ? (size_t)q->after_seq : 0;
         i < b->shared.events.count && !q->more; i++) {
        const struct mem_event *e = b->shared.events.item[i];
        if (e == NULL || (of_message && !id_equal(&e->row.message_id, &q->message_id)) ||
            (!of_message && q->project != -1 && e->row.project != q->project))
            continue;
        if (q->count == q->limit) {
            q->more = true;
            continue;
        }
        q->event = mem_grow(a, q->event, sizeof(*q->event), q->count);
        mem_event_copy(b, e, a, &q->event[q->count++]);
    }
    return unlock(r, OK);
}

MEM_READ(attempts) {
    struct store_attempts *q = CONTAINER_OF(call, struct store_attempts, call);
    struct arena *a = store_call_arena(call);
    const struct mem_message *m = mem_message_find(lock(r), &q->message_id, q->project);
    q->attempt = NULL;
    q->count = 0;
    q->more = false;
    if (m == NULL)
        return unlock(r, err_set(&call->info, ERR_NOT_FOUND, "id", "no such message"));
    for (const struct mem_attempt *t = m->first_attempt; t != NULL && !q->more; t = t->next) {
        if (t->row.seq <= q->after_seq)
            continue;
        if (q->count == q->limit) {
            q->more = true;
            continue;
        }
        q->attempt = mem_grow(a, q->attempt, sizeof(*q->attempt), q->count);
        struct attempt_row *out = &q->attempt[q->count++];
        *out = t->row;
        out->host = arena_dup(a, t->row.host);
        out->address = arena_dup(a, t->row.address);
        out->tls_version = arena_dup(a, t->row.tls_version);
        out->tls_cipher = arena_dup(a, t->row.tls_cipher);
        out->transcript = arena_dup(a, t->row.transcript);
        out->recipient = ARENA_ARRAY(a, struct attempt_recipient, t->row.recipient_count);
        for (size_t i = 0; i < t->row.recipient_count; i++) {
            out->recipient[i] = t->row.recipient[i];
            mem_result_copy(a, &t->row.recipient[i].result, &out->recipient[i].result);
        }
    }
    return unlock(r, OK);
}

static bool has_queued(const struct mem_message *m) {
    for (size_t i = 0; i < m->row.recipient_count; i++)
        if (m->recipient[i].row.state == RECIPIENT_QUEUED)
            return true;
    return false;
}

MEM_READ(totals) {
    struct store_totals *q = CONTAINER_OF(call, struct store_totals, call);
    const struct backend *b = lock(r);
    q->accepted = b->shared.accepted;
    memcpy(q->by_state, b->shared.by_state, sizeof(q->by_state));
    q->oldest_queued_wall_ms = 0;
    q->notifications_pending = 0;
    for (size_t i = 0; i < b->shared.messages.count && q->oldest_queued_wall_ms == 0; i++) {
        const struct mem_message *m = b->shared.messages.item[i];
        if (m != NULL && has_queued(m))
            q->oldest_queued_wall_ms = m->row.created_wall_ms;
    }
    for (size_t i = 0; i < b->shared.notifications.count; i++) {
        const struct mem_notification *n = b->shared.notifications.item[i];
        q->notifications_pending += n != NULL && (n->row.state == NOTIFICATION_PENDING ||
                                                  n->row.state == NOTIFICATION_SENDING);
    }
    return unlock(r, OK);
}
