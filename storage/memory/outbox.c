/* The writing verbs of the outbox. */
#include <stdlib.h>

#include "server/base/limits.h"
#include "storage/memory/memory.h"

static struct mem_recipient *recipient_at(const struct backend *b, recipient_key_t key,
                                          struct mem_message **m) {
    *m = mem_message_at(b, key / RECIPIENT_KEY_SPAN);
    size_t i = (size_t)(key % RECIPIENT_KEY_SPAN);
    return *m != NULL && i < (*m)->row.recipient_count ? &(*m)->recipient[i] : NULL;
}

static void move(struct backend *b, struct mem_recipient *r, enum recipient_state to,
                 int64_t due_wall_ms, int64_t now_wall_ms) {
    ASSERT(to == r->row.state || recipient_transition_is_legal(r->row.state, to));
    b->shared.by_state[r->row.state]--;
    b->shared.by_state[to]++;
    r->row.state = to;
    r->row.due_wall_ms = due_wall_ms;
    r->row.updated_wall_ms = now_wall_ms;
}

static struct event_row about(const struct mem_message *m, enum event_type type,
                              int64_t now_wall_ms) {
    return (struct event_row){.type = type,
                              .project = m->row.project,
                              .wall_ms = now_wall_ms,
                              .message_id = m->row.id,
                              .recipient_index = -1};
}

static struct event_row about_recipient(const struct mem_message *m, struct mem_recipient *r,
                                        enum recipient_state to, int64_t now_wall_ms) {
    struct event_row e = about(m, event_type_of_state(to), now_wall_ms);
    e.recipient_index = (int)(r->row.key % RECIPIENT_KEY_SPAN);
    e.email = r->row.email;
    e.state = to;
    e.recipient_seq = ++r->row.seq;
    e.attempt = r->row.attempts;
    e.possible_duplicate = r->row.possible_duplicate;
    return e;
}

static struct str state_of(const struct mem_message *m) {
    struct recipient_row *rows = mem_zalloc(m->row.recipient_count * sizeof(*rows));
    for (size_t i = 0; i < m->row.recipient_count; i++)
        rows[i] = m->recipient[i].row;
    struct str name = str_of(message_state_name(rows, m->row.recipient_count));
    free(rows);
    return name;
}

static bool complete(struct backend *b, struct effects *fx, const struct mem_message *m,
                     int64_t now_wall_ms) {
    if (mem_message_is_open(m))
        return false;
    struct event_row e = about(m, EVENT_MESSAGE_COMPLETED, now_wall_ms);
    e.message_state = state_of(m);
    mem_event_put(b, fx, &e, 0, 0);
    return true;
}

/* ---- accept ---- */

static struct mem_message *keep(struct backend *b, const struct message_row *row,
                                const struct str *queue_key, struct message *content) {
    struct arena *a = arena_new();
    struct mem_message *m = ARENA_NEW(a, struct mem_message);
    struct mem_recipient *r = ARENA_ARRAY(a, struct mem_recipient, row->recipient_count);
    for (size_t i = 0; i < row->recipient_count; i++) {
        r[i].row = row->recipient[i];
        r[i].queue_key = arena_dup(a, queue_key[i]);
    }
    struct mem_message given = {.row = *row, .recipient = r, .content = content};
    mem_message_copy(&given, a, &m->row);
    for (size_t i = 0; i < row->recipient_count; i++)
        r[i].row.email = m->row.recipient[i].email;
    m->arena = a;
    m->recipient = r;
    m->content = message_ref(content);
    m->last_attempt = &m->first_attempt;
    mem_list_add(&b->shared.messages, m);
    return m;
}

static void tell_due(struct effects *fx, const struct mem_message *m, struct message *content) {
    struct outgoing *o = outgoing_new(&m->row, content, effects_budget(fx));
    for (size_t i = 0; i < m->row.recipient_count; i++) {
        const struct mem_recipient *r = &m->recipient[i];
        if (!recipient_state_is_final(r->row.state))
            effects_due(fx, &m->row.id,
                        &(struct due_row){.key = r->row.key,
                                          .outgoing = o,
                                          .due_wall_ms = r->row.due_wall_ms,
                                          .email = r->row.email,
                                          .queue_key = r->queue_key});
    }
    outgoing_unref(&o);
}

static void first_events(struct backend *b, struct effects *fx, struct mem_message *m,
                         int64_t now_wall_ms) {
    struct event_row e = about(m, EVENT_MESSAGE_ACCEPTED, now_wall_ms);
    e.message_state = state_of(m);
    mem_event_put(b, fx, &e, 0, 0);
    for (size_t i = 0; i < m->row.recipient_count; i++) {
        if (m->recipient[i].row.state == RECIPIENT_SCHEDULED) {
            e.type = EVENT_MESSAGE_SCHEDULED;
            mem_event_put(b, fx, &e, 0, 0);
            break;
        }
    }
    for (size_t i = 0; i < m->row.recipient_count; i++) {
        struct mem_recipient *r = &m->recipient[i];
        if (r->row.state != RECIPIENT_SUPPRESSED)
            continue;
        struct event_row s = about_recipient(m, r, RECIPIENT_SUPPRESSED, now_wall_ms);
        mem_event_put(b, fx, &s, 0, 0);
    }
    if (complete(b, fx, m, now_wall_ms))
        effects_message(fx, &m->row.id, true);
}

static void insert(struct backend *b, struct effects *fx, struct message_row *row,
                   const struct str *queue_key, struct message *content, int64_t now_wall_ms,
                   bool at_hand) {
    row->seq = (int64_t)b->shared.messages.count + 1;
    row->size_bytes = (int64_t)message_size(content);
    row->has_content = true;
    for (size_t i = 0; i < row->recipient_count; i++) {
        struct recipient_row *r = &row->recipient[i];
        r->key = row->seq * RECIPIENT_KEY_SPAN + (recipient_key_t)i;
        r->attempts = 0;
        r->seq = 0;
        r->updated_wall_ms = now_wall_ms;
        b->shared.accepted++;
        b->shared.by_state[r->state]++;
    }
    struct mem_message *m = keep(b, row, queue_key, content);
    first_events(b, fx, m, now_wall_ms);
    for (size_t i = 0; i < row->recipient_count; i++)
        row->recipient[i].seq = m->recipient[i].row.seq;
    tell_due(fx, m, at_hand ? content : NULL);
}

static struct mem_idempotency *key_find(struct backend *b, int64_t project, struct str key) {
    struct mem_idempotency *i = b->shared.idempotency;
    while (i != NULL && !(i->project == project && str_equal(str_make(i->key, i->key_size), key)))
        i = i->next;
    return i;
}

/* What was made under the key; OK and NULL: nothing. */
static enum err key_made(struct backend *b, int64_t project, struct str key,
                         const uint8_t fingerprint[32], int64_t wall_ms, struct errinfo *info,
                         const struct mem_message **made) {
    const struct mem_idempotency *used = str_is_absent(key) ? NULL : key_find(b, project, key);
    *made = NULL;
    if (used == NULL || used->until_wall_ms <= wall_ms)
        return OK;
    *made = mem_message_at(b, used->message);
    if (*made == NULL)
        return err_set(info, ERR_CONFLICT, "Idempotency-Key",
                       "the key was used for a message that is no longer kept");
    if (memcmp(used->fingerprint, fingerprint, sizeof(used->fingerprint)) != 0)
        return err_set(info, ERR_CONFLICT, "Idempotency-Key",
                       "the key was used for another submission");
    return OK;
}

static void key_remember(struct backend *b, int64_t project, struct str key,
                         const uint8_t fingerprint[32], int64_t message, int64_t until_wall_ms) {
    if (str_is_absent(key))
        return;
    struct mem_idempotency *i = key_find(b, project, key);
    if (i == NULL) {
        i = mem_zalloc(sizeof(*i));
        i->next = b->shared.idempotency;
        b->shared.idempotency = i;
        i->project = project;
        i->key = str_dupz(key);
        i->key_size = key.n;
    }
    memcpy(i->fingerprint, fingerprint, sizeof(i->fingerprint));
    i->message = message;
    i->until_wall_ms = until_wall_ms;
}

MEM_WRITE(accept) {
    struct store_accept *q = CONTAINER_OF(call, struct store_accept, call);
    const struct mem_message *first;
    q->is_replay = false;
    enum err e = key_made(b, q->message.project, q->idempotency_key, q->fingerprint, q->key_wall_ms,
                          &call->info, &first);
    if (e != OK)
        return e;
    if (first != NULL) {
        q->is_replay = true;
        mem_message_copy(first, store_call_arena(call), &q->message);
        return OK;
    }
    if (q->asks_only)
        return ERR_NOT_FOUND;
    if (q->message.recipient_count == 0 || q->message.recipient_count > LIMIT_RECIPIENTS_MAX)
        return err_set(&call->info, ERR_LIMIT, "recipients", "%zu recipients",
                       q->message.recipient_count);
    /* as one piece, as a backend that writes it would give it back */
    struct message_pieces p = message_bytes(q->content);
    size_t size = message_size(q->content);
    char *bytes = mem_zalloc(size + 1);
    size_t at = 0;
    for (size_t i = 0; i < 2; at += p.piece[i++].n)
        if (p.piece[i].n > 0)
            memcpy(bytes + at, p.piece[i].p, p.piece[i].n);
    struct message *copy = message_new(&q->message.id, bytes, size);
    insert(b, fx, &q->message, q->queue_key, q->content, q->now_wall_ms, true);
    struct mem_message *m = mem_message_at(b, q->message.seq);
    message_unref(&m->content);
    m->content = copy;
    key_remember(b, q->message.project, q->idempotency_key, q->fingerprint, q->message.seq,
                 q->idempotency_until_wall_ms);
    return OK;
}

/* ---- claim, release, settle ---- */

MEM_WRITE(claim) {
    (void)fx;
    const struct store_claim *q = CONTAINER_OF(call, struct store_claim, call);
    for (size_t i = 0; i < q->count; i++) {
        struct mem_message *m;
        struct mem_recipient *r = recipient_at(b, q->key[i], &m);
        q->is_claimed[i] =
            r != NULL &&
            (r->row.state == RECIPIENT_QUEUED ||
             (r->row.state == RECIPIENT_SCHEDULED && r->row.due_wall_ms <= q->now_wall_ms));
        if (!q->is_claimed[i])
            continue;
        if (r->row.state == RECIPIENT_SCHEDULED)
            move(b, r, RECIPIENT_QUEUED, r->row.due_wall_ms, q->now_wall_ms);
        move(b, r, RECIPIENT_SENDING, r->row.due_wall_ms, q->now_wall_ms);
    }
    return OK;
}

MEM_WRITE(release) {
    (void)fx;
    const struct store_release *q = CONTAINER_OF(call, struct store_release, call);
    for (size_t i = 0; i < q->count; i++) {
        struct mem_message *m;
        struct mem_recipient *r = recipient_at(b, q->key[i], &m);
        if (r != NULL && r->row.state == RECIPIENT_SENDING)
            move(b, r, RECIPIENT_QUEUED, q->due_wall_ms, q->now_wall_ms);
    }
    return OK;
}

static enum err settle_check(const struct backend *b, const struct store_settle *q,
                             struct errinfo *info) {
    for (size_t i = 0; i < q->count; i++) {
        struct mem_message *m;
        const struct mem_recipient *r = recipient_at(b, q->result[i].key, &m);
        if (q->result[i].key / RECIPIENT_KEY_SPAN != q->result[0].key / RECIPIENT_KEY_SPAN)
            return err_set(info, ERR_INVALID, "key", "the results are of two messages");
        if (r == NULL)
            return err_set(info, ERR_NOT_FOUND, "key", "no such recipient");
        for (size_t k = 0; k < i; k++)
            if (q->result[k].key == q->result[i].key)
                return err_set(info, ERR_INVALID, "key", "a recipient has two results");
        if ((r->row.state != RECIPIENT_SENDING && r->row.state != RECIPIENT_DELIVERED) ||
            !recipient_transition_is_legal(r->row.state, q->result[i].state))
            return err_set(info, ERR_CONFLICT, "state", "not from %s to %s",
                           recipient_state_name(r->row.state),
                           recipient_state_name(q->result[i].state));
    }
    return OK;
}

static bool has_said(const struct last_result *r) {
    return r->code != 0 || r->failure != FAILURE_NONE || r->class_ != CLASS_NONE || r->text.n > 0;
}

/* Is it now final that was open before? */
static bool settle_one(struct backend *b, struct effects *fx, struct mem_message *m,
                       struct mem_recipient *r, const struct settle_result *s,
                       int64_t now_wall_ms) {
    bool was_final = recipient_state_is_final(r->row.state);
    bool is_final = recipient_state_is_final(s->state);
    r->row.attempts += s->counts;
    if (s->counts)
        r->no_domain_wall_ms =
            no_domain_since(r->no_domain_wall_ms, &s->last, s->kept_ms, now_wall_ms);
    r->row.possible_duplicate |= s->unknown_outcome;
    if (s->counts || is_final) {
        struct event_row e = about_recipient(m, r, s->state, now_wall_ms);
        e.next_attempt_wall_ms = is_final ? 0 : s->due_wall_ms;
        e.is_late = was_final;
        if (has_said(&s->last)) {
            mem_result_copy(m->arena, &s->last, &r->row.last);
            e.result = r->row.last;
        }
        mem_event_put(b, fx, &e, 0, 0);
    }
    move(b, r, s->state, is_final ? r->row.due_wall_ms : s->due_wall_ms, now_wall_ms);
    return is_final && !was_final;
}

static void put_attempt(struct mem_message *m, const struct attempt_row *row) {
    struct arena *a = m->arena;
    struct mem_attempt *t = ARENA_NEW(a, struct mem_attempt);
    t->row = *row;
    t->row.seq = (int64_t)++m->attempt_count;
    t->row.message_id = m->row.id;
    t->row.host = arena_dup(a, row->host);
    t->row.address = arena_dup(a, row->address);
    t->row.tls_version = arena_dup(a, row->tls_version);
    t->row.tls_cipher = arena_dup(a, row->tls_cipher);
    t->row.transcript = arena_dup(a, row->transcript);
    t->row.recipient = ARENA_ARRAY(a, struct attempt_recipient, row->recipient_count);
    for (size_t i = 0; i < row->recipient_count; i++) {
        t->row.recipient[i] = row->recipient[i];
        mem_result_copy(a, &row->recipient[i].result, &t->row.recipient[i].result);
    }
    *m->last_attempt = t;
    m->last_attempt = &t->next;
}

MEM_WRITE(settle) {
    const struct store_settle *q = CONTAINER_OF(call, struct store_settle, call);
    if (q->count == 0)
        return OK;
    enum err e = settle_check(b, q, &call->info);
    if (e != OK)
        return e;
    struct mem_message *m = NULL;
    bool some_ended = false;
    for (size_t i = 0; i < q->count; i++) {
        struct mem_recipient *r = recipient_at(b, q->result[i].key, &m);
        some_ended |= settle_one(b, fx, m, r, &q->result[i], q->now_wall_ms);
    }
    ASSERT(m != NULL); /* a call with no result was answered above */
    if (q->attempt != NULL)
        put_attempt(m, q->attempt);
    effects_message(fx, &m->row.id, some_ended && complete(b, fx, m, q->now_wall_ms));
    return OK;
}

/* ---- cancel, retry, expire ---- */

static enum err none(struct store_call *call) {
    return err_set(&call->info, ERR_NOT_FOUND, "id", "no such message");
}

static void end_waiting(struct backend *b, struct effects *fx, struct mem_message *m,
                        struct mem_recipient *r, enum recipient_state to, int64_t now_wall_ms) {
    struct event_row e = about_recipient(m, r, to, now_wall_ms);
    if (to == RECIPIENT_EXPIRED)
        e.result = r->row.last;
    mem_event_put(b, fx, &e, 0, 0);
    move(b, r, to, r->row.due_wall_ms, now_wall_ms);
    effects_gone(fx, &m->row.id, r->row.key);
}

MEM_WRITE(cancel) {
    struct store_cancel *q = CONTAINER_OF(call, struct store_cancel, call);
    struct mem_message *m = mem_message_find(b, &q->id, q->project);
    if (m == NULL)
        return none(call);
    struct arena *a = store_call_arena(call);
    q->result = ARENA_ARRAY(a, enum cancel_result, m->row.recipient_count);
    bool some = false;
    for (size_t i = 0; i < m->row.recipient_count; i++) {
        struct mem_recipient *r = &m->recipient[i];
        q->result[i] = r->row.state == RECIPIENT_SENDING        ? CANCEL_TOO_LATE
                       : recipient_state_is_final(r->row.state) ? CANCEL_FINAL
                                                                : CANCEL_DONE;
        if (q->result[i] != CANCEL_DONE)
            continue;
        end_waiting(b, fx, m, r, RECIPIENT_CANCELED, q->now_wall_ms);
        some = true;
    }
    if (some)
        effects_message(fx, &m->row.id, complete(b, fx, m, q->now_wall_ms));
    mem_message_copy(m, a, &q->message);
    return OK;
}

static bool goes_again(enum recipient_state s) {
    return s == RECIPIENT_BOUNCED || s == RECIPIENT_FAILED || s == RECIPIENT_EXPIRED ||
           s == RECIPIENT_CANCELED;
}

static void make_due(struct backend *b, struct effects *fx, struct mem_message *m,
                     int64_t now_wall_ms) {
    struct outgoing *o = outgoing_new(&m->row, NULL, NULL);
    for (size_t i = 0; i < m->row.recipient_count; i++) {
        struct mem_recipient *r = &m->recipient[i];
        if (r->row.state != RECIPIENT_QUEUED || r->row.due_wall_ms <= now_wall_ms)
            continue;
        move(b, r, RECIPIENT_QUEUED, now_wall_ms, now_wall_ms);
        effects_due(fx, &m->row.id,
                    &(struct due_row){.key = r->row.key,
                                      .outgoing = o,
                                      .attempts = r->row.attempts,
                                      .no_domain_wall_ms = r->no_domain_wall_ms,
                                      .possible_duplicate = r->row.possible_duplicate,
                                      .due_wall_ms = now_wall_ms,
                                      .email = r->row.email,
                                      .queue_key = r->queue_key});
    }
    outgoing_unref(&o);
    effects_message(fx, &m->row.id, false);
}

static void send_again(struct backend *b, struct effects *fx, struct mem_message *m,
                       struct store_retry *q, struct arena *a) {
    struct message_row *n = &q->new_message;
    struct str *keys = ARENA_ARRAY(a, struct str, m->row.recipient_count);
    mem_message_copy(m, a, n);
    n->id = q->new_id;
    n->retry_of = m->row.id;
    n->created_wall_ms = q->now_wall_ms;
    n->expires_wall_ms = q->expires_wall_ms;
    n->recipient_count = 0;
    for (size_t i = 0; i < m->row.recipient_count; i++) {
        const struct mem_recipient *r = &m->recipient[i];
        if (!goes_again(r->row.state))
            continue;
        keys[n->recipient_count] = r->queue_key;
        n->recipient[n->recipient_count++] =
            (struct recipient_row){.email = arena_dup(a, r->row.email),
                                   .kind = r->row.kind,
                                   .state = RECIPIENT_QUEUED,
                                   .due_wall_ms = q->now_wall_ms};
    }
    insert(b, fx, n, keys, m->content, q->now_wall_ms, false);
    q->made_new = true;
}

static enum err replay(struct backend *b, struct store_retry *q, const struct mem_message *made) {
    const struct mem_message *m = mem_message_find(b, &q->id, q->project);
    struct arena *a = store_call_arena(&q->call);
    if (m == NULL)
        return err_set(&q->call.info, ERR_CONFLICT, "Idempotency-Key",
                       "the key was used for a message that is no longer kept");
    q->is_replay = true;
    q->made_new = made != m;
    mem_message_copy(m, a, &q->message);
    mem_message_copy(made, a, &q->new_message);
    return OK;
}

MEM_WRITE(retry) {
    struct store_retry *q = CONTAINER_OF(call, struct store_retry, call);
    struct mem_message *m = mem_message_find(b, &q->id, q->project);
    const struct mem_message *made;
    q->made_new = q->is_replay = false;
    enum err e = key_made(b, q->project, q->idempotency_key, q->fingerprint, q->key_wall_ms,
                          &call->info, &made);
    if (e != OK)
        return e;
    if (made != NULL)
        return replay(b, q, made);
    if (q->asks_only)
        return ERR_NOT_FOUND;
    if (m == NULL)
        return none(call);
    size_t later = 0, again = 0;
    for (size_t i = 0; i < m->row.recipient_count; i++) {
        const struct recipient_row *r = &m->recipient[i].row;
        later += r->state == RECIPIENT_QUEUED && r->due_wall_ms > q->now_wall_ms;
        again += goes_again(r->state);
    }
    if (later == 0 && (again == 0 || m->content == NULL))
        return err_set(&call->info, ERR_CONFLICT, "id",
                       again > 0 ? "the content is erased" : "there is nothing to retry");
    struct arena *a = store_call_arena(call);
    if (later > 0)
        make_due(b, fx, m, q->now_wall_ms);
    if (again > 0) /* its content is there: while one waits, none is erased */
        send_again(b, fx, m, q, a);
    key_remember(b, q->project, q->idempotency_key, q->fingerprint,
                 q->made_new ? q->new_message.seq : m->row.seq, q->idempotency_until_wall_ms);
    mem_message_copy(m, a, &q->message);
    return OK;
}

/* The open message that expires first, after the place given. */
static struct mem_message *next_expired(const struct backend *b, int64_t now_wall_ms,
                                        int64_t after_wall_ms, int64_t after_seq) {
    struct mem_message *best = NULL;
    for (size_t i = 0; i < b->shared.messages.count; i++) {
        struct mem_message *m = b->shared.messages.item[i];
        if (m == NULL || m->row.expires_wall_ms > now_wall_ms || !mem_message_is_open(m) ||
            m->row.expires_wall_ms < after_wall_ms ||
            (m->row.expires_wall_ms == after_wall_ms && m->row.seq <= after_seq))
            continue;
        if (best == NULL || m->row.expires_wall_ms < best->row.expires_wall_ms)
            best = m;
    }
    return best;
}

MEM_WRITE(expire) {
    struct store_expire *q = CONTAINER_OF(call, struct store_expire, call);
    int64_t wall_ms = INT64_MIN, seq = 0;
    struct mem_message *m;
    q->expired = 0;
    while (q->expired < q->most && (m = next_expired(b, q->now_wall_ms, wall_ms, seq)) != NULL) {
        size_t before = q->expired;
        wall_ms = m->row.expires_wall_ms;
        seq = m->row.seq;
        for (size_t i = 0; i < m->row.recipient_count && q->expired < q->most; i++) {
            struct mem_recipient *r = &m->recipient[i];
            if (r->row.state != RECIPIENT_QUEUED && r->row.state != RECIPIENT_SCHEDULED)
                continue;
            end_waiting(b, fx, m, r, RECIPIENT_EXPIRED, q->now_wall_ms);
            q->expired++;
        }
        if (q->expired > before)
            effects_message(fx, &m->row.id, complete(b, fx, m, q->now_wall_ms));
    }
    q->more = q->expired == q->most;
    return OK;
}
