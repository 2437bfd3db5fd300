/* A store that the test holds in its hand: it answers when and how the test says. In memory, with
 * the verbs that accepting and reading a message and keys and domains need. */
#pragma once

#include <poll.h>
#include <pthread.h>
#include <stdlib.h>

#include "server/base/arena.h"
#include "server/base/buf.h"
#include "storage/store.h"

struct fake_message {
    struct id id;
    struct arena *arena;
    struct message_row row;
    struct message *content;
    struct str idempotency_key;
    uint8_t fingerprint[32];
};

struct store {
    pthread_mutex_t mu;
    pthread_cond_t posted;
    bool is_held;      /* calls wait for fake_release() */
    enum err fail;     /* what writing verbs answer; OK: they work */
    int key_conflicts; /* so many keys that are put have the prefix of another */
    size_t held_count; /* waiting now */
    struct store_call *held[64];
    struct fake_message message[512];
    size_t message_count;
    size_t asked;                           /* calls of any verb but STORE_KEYS_USED */
    size_t accepts;                         /* carried out, replays too */
    size_t retries;                         /* carried out */
    size_t replay_steps, replay_steps_most; /* done, and of a period; most 0: it replays nothing */
    struct arena *arena;
    struct key_row key[64];
    size_t key_count;
    struct domain_row domain[8];
    size_t domain_count;
    const struct key_row *other_keys; /* of the test: listed instead of those above; NULL: none */
    const struct domain_row *other_domains;
    size_t other_key_count, other_domain_count;
    size_t rows_listed;         /* by the last listing of keys or domains */
    struct capture_row capture; /* of the test: the only one */
    int64_t capture_bytes;      /* what it says to have; 0: what it has */
    size_t captures_read;       /* with their content */
    struct mailbox *watch_box[16];
    unsigned watch_mask[16];
    void (*watch_fn[16])(struct store_notice *);
    void *watch_ctx[16];
};

static inline struct store *fake_new(void) {
    struct store *s = mem_zalloc(sizeof(*s));
    pthread_mutex_init(&s->mu, NULL);
    pthread_cond_init(&s->posted, NULL);
    s->arena = arena_new();
    return s;
}

static inline void fake_free(struct store *s) {
    for (size_t i = 0; i < s->message_count; i++) {
        arena_free(&s->message[i].arena);
        message_unref(&s->message[i].content);
    }
    arena_free(&s->arena);
    pthread_cond_destroy(&s->posted);
    pthread_mutex_destroy(&s->mu);
    free(s);
}

static inline struct recipient_row *fake_copy_recipients(struct arena *a,
                                                         const struct message_row *m) {
    struct recipient_row *r = ARENA_ARRAY(a, struct recipient_row, m->recipient_count + 1);
    for (size_t i = 0; i < m->recipient_count; i++) {
        r[i] = m->recipient[i];
        r[i].email = arena_dup(a, m->recipient[i].email);
        r[i].last.text = arena_dup(a, m->recipient[i].last.text);
        r[i].last.mx = arena_dup(a, m->recipient[i].last.mx);
        r[i].last.tls = arena_dup(a, m->recipient[i].last.tls);
    }
    return r;
}

static inline struct message_row fake_copy(struct arena *a, const struct message_row *m) {
    struct message_row c = *m;
    c.message_id = arena_dup(a, m->message_id);
    c.mail_from = arena_dup(a, m->mail_from);
    c.from_email = arena_dup(a, m->from_email);
    c.from_name = arena_dup(a, m->from_name);
    c.from_domain = arena_dup(a, m->from_domain);
    c.subject = arena_dup(a, m->subject);
    c.external_id = arena_dup(a, m->external_id);
    c.tags_json = arena_dup(a, m->tags_json);
    c.metadata_json = arena_dup(a, m->metadata_json);
    c.route = arena_dup(a, m->route);
    c.recipient = fake_copy_recipients(a, m);
    return c;
}

static inline void fake_accept(struct store *s, struct store_accept *q) {
    s->accepts++;
    for (size_t i = 0; i < s->message_count && !str_is_absent(q->idempotency_key); i++) {
        struct fake_message *m = &s->message[i];
        if (!str_equal(m->idempotency_key, q->idempotency_key))
            continue;
        message_unref(&q->content);
        if (memcmp(m->fingerprint, q->fingerprint, 32) != 0) {
            q->call.err = err_set(&q->call.info, ERR_CONFLICT, "", "the key was used so and so");
            return;
        }
        q->call.arena = arena_new();
        q->message = fake_copy(q->call.arena, &m->row);
        q->is_replay = true;
        return;
    }
    if (q->asks_only) {
        s->accepts--;
        q->call.err = ERR_NOT_FOUND;
        return;
    }
    ASSERT(s->message_count < 512);
    struct fake_message *m = &s->message[s->message_count++];
    m->arena = arena_new();
    q->message.seq = (int64_t)s->message_count;
    m->id = q->message.id;
    m->row = fake_copy(m->arena, &q->message);
    m->content = q->content;
    m->idempotency_key = arena_dup(m->arena, q->idempotency_key);
    memcpy(m->fingerprint, q->fingerprint, 32);
}

static inline struct fake_message *fake_find(struct store *s, const struct id *id) {
    for (size_t i = 0; i < s->message_count; i++)
        if (id_equal(&s->message[i].id, id))
            return &s->message[i];
    return NULL;
}

/* All of it goes again. */
static inline void fake_retry(struct store *s, struct store_retry *q) {
    const struct fake_message *old = fake_find(s, &q->id);
    q->call.arena = arena_new();
    if (old == NULL) {
        q->call.err = ERR_NOT_FOUND;
        return;
    }
    for (size_t i = 0; i < s->message_count && !str_is_absent(q->idempotency_key); i++) {
        const struct fake_message *m = &s->message[i];
        if (!str_equal(m->idempotency_key, q->idempotency_key))
            continue;
        q->is_replay = q->made_new = true;
        q->message = fake_copy(q->call.arena, &old->row);
        q->new_message = fake_copy(q->call.arena, &m->row);
        if (memcmp(m->fingerprint, q->fingerprint, 32) != 0)
            q->call.err = err_set(&q->call.info, ERR_CONFLICT, "Idempotency-Key", "it was used");
        return;
    }
    if (q->asks_only) {
        q->call.err = ERR_NOT_FOUND;
        return;
    }
    ASSERT(s->message_count < 512);
    struct fake_message *m = &s->message[s->message_count++];
    s->retries++;
    m->arena = arena_new();
    m->id = q->new_id;
    m->content = message_ref(old->content);
    m->idempotency_key = arena_dup(m->arena, q->idempotency_key);
    memcpy(m->fingerprint, q->fingerprint, 32);
    m->row = fake_copy(m->arena, &old->row);
    m->row.id = q->new_id;
    m->row.retry_of = q->id;
    m->row.seq = (int64_t)s->message_count;
    for (size_t i = 0; i < m->row.recipient_count; i++)
        m->row.recipient[i].state = RECIPIENT_QUEUED;
    q->message = fake_copy(q->call.arena, &old->row);
    q->new_message = fake_copy(q->call.arena, &m->row);
    q->made_new = true;
}

static inline void fake_list(struct store *s, struct store_messages *q) {
    q->call.arena = arena_new();
    q->message = ARENA_ARRAY(q->call.arena, struct message_row, q->limit + 1);
    for (size_t i = s->message_count; i > 0; i--) {
        const struct message_row *m = &s->message[i - 1].row;
        if (q->before_seq != 0 && m->seq >= q->before_seq)
            continue;
        if (q->count == q->limit) {
            q->more = true;
            return;
        }
        q->message[q->count++] = fake_copy(q->call.arena, m);
    }
}

/* A step takes a millisecond. */
static inline void fake_replay(struct store *s, struct store_notify_replay *q) {
    poll(NULL, 0, 1);
    q->replayed = q->most;
    q->last_seq = q->after_seq + (int64_t)q->most;
    q->more = ++s->replay_steps < s->replay_steps_most;
}

static inline int fake_by_id(const void *a, const void *b) {
    return memcmp(a, b, ID_BYTES);
}

/* A copy of the rows, which begin with their id: those of the page, or all. */
static inline void *fake_page(struct store_call *call, const void *row, size_t size, size_t *count,
                              const struct id *after, size_t limit, bool *more) {
    call->arena = arena_new();
    char *all = arena_alloc(call->arena, (*count + 1) * size), *first = all;
    if (*count > 0)
        memcpy(all, row, *count * size);
    *more = false;
    if (limit == 0)
        return all;
    qsort(all, *count, size, fake_by_id);
    while (*count > 0 && memcmp(first, after->b, ID_BYTES) <= 0) {
        first += size;
        --*count;
    }
    *more = *count > limit;
    *count = *more ? limit : *count;
    return first;
}

static inline bool fake_writes(enum store_verb v) {
    return v == STORE_ACCEPT || v == STORE_KEY_PUT || v == STORE_KEY_REVOKE ||
           v == STORE_DOMAIN_PUT || v == STORE_RETRY;
}

static inline void fake_carry_out(struct store *s, struct store_call *call) {
    struct fake_message *m;
    call->err = OK;
    call->arena = NULL;
    if (s->fail != OK && fake_writes(call->verb)) {
        call->err = err_set(&call->info, s->fail, "", "the disk is full");
        if (call->verb == STORE_ACCEPT)
            message_unref(&CONTAINER_OF(call, struct store_accept, call)->content);
        return;
    }
    switch ((int)call->verb) {
    case STORE_ACCEPT:
        fake_accept(s, CONTAINER_OF(call, struct store_accept, call));
        break;
    case STORE_RETRY:
        fake_retry(s, CONTAINER_OF(call, struct store_retry, call));
        break;
    case STORE_MESSAGE: {
        struct store_message *q = CONTAINER_OF(call, struct store_message, call);
        m = fake_find(s, &q->id);
        call->arena = arena_new();
        if (m == NULL)
            call->err = ERR_NOT_FOUND;
        else
            q->message = fake_copy(call->arena, &m->row);
        break;
    }
    case STORE_MESSAGES:
        fake_list(s, CONTAINER_OF(call, struct store_messages, call));
        break;
    case STORE_CONTENT: {
        struct store_content *q = CONTAINER_OF(call, struct store_content, call);
        m = fake_find(s, &q->id);
        if (m == NULL)
            call->err = ERR_NOT_FOUND;
        else
            q->message = message_ref(m->content);
        break;
    }
    case STORE_KEYS: {
        struct store_keys *q = CONTAINER_OF(call, struct store_keys, call);
        const struct key_row *k = s->other_keys != NULL ? s->other_keys : s->key;
        q->count = s->other_keys != NULL ? s->other_key_count : s->key_count;
        for (size_t i = 0; i < q->count && !id_is_zero(&q->id); i++)
            if (id_equal(&k[i].id, &q->id)) {
                k = &k[i];
                q->count = 1;
            }
        if (!id_is_zero(&q->id) && (q->count != 1 || !id_equal(&k->id, &q->id)))
            q->count = 0;
        q->key = fake_page(call, k, sizeof(*k), &q->count, &q->after, q->limit, &q->more);
        s->rows_listed = q->count;
        break;
    }
    case STORE_DOMAINS: {
        struct store_domains *q = CONTAINER_OF(call, struct store_domains, call);
        const struct domain_row *d = s->other_domains != NULL ? s->other_domains : s->domain;
        q->count = s->other_domains != NULL ? s->other_domain_count : s->domain_count;
        for (size_t i = 0; i < q->count && !str_is_absent(q->name); i++)
            if (str_equal(d[i].name, q->name)) {
                d = &d[i];
                q->count = 1;
            }
        if (!str_is_absent(q->name) && (q->count != 1 || !str_equal(d->name, q->name)))
            q->count = 0;
        q->domain = fake_page(call, d, sizeof(*d), &q->count, &q->after, q->limit, &q->more);
        s->rows_listed = q->count;
        break;
    }
    case STORE_KEY_PUT: {
        struct store_key_put *q = CONTAINER_OF(call, struct store_key_put, call);
        if (s->key_conflicts > 0) {
            s->key_conflicts--;
            call->err = err_set(&call->info, ERR_CONFLICT, "prefix", "another has it");
            break;
        }
        struct key_row *k = &s->key[s->key_count++];
        *k = q->key;
        k->name = arena_dup(s->arena, k->name);
        k->prefix = arena_dup(s->arena, k->prefix);
        k->from_domains = ARENA_ARRAY(s->arena, struct str, k->from_domain_count + 1);
        for (size_t i = 0; i < k->from_domain_count; i++)
            k->from_domains[i] = arena_dup(s->arena, q->key.from_domains[i]);
        break;
    }
    case STORE_KEY_REVOKE: {
        struct store_key_revoke *q = CONTAINER_OF(call, struct store_key_revoke, call);
        call->err = ERR_NOT_FOUND;
        for (size_t i = 0; i < s->key_count; i++)
            if (id_equal(&s->key[i].id, &q->id)) {
                s->key[i].revoked_wall_ms = q->now_wall_ms;
                call->err = OK;
            }
        break;
    }
    case STORE_KEYS_USED:
        break;
    case STORE_CAPTURE: {
        struct store_capture *q = CONTAINER_OF(call, struct store_capture, call);
        call->err = id_equal(&q->id, &s->capture.id) ? OK : ERR_NOT_FOUND;
        q->capture = s->capture;
        q->content_bytes = s->capture_bytes != 0 ? s->capture_bytes : (int64_t)s->capture.content.n;
        if (q->is_head)
            q->capture.content = STR_NONE;
        else
            s->captures_read++;
        break;
    }
    case STORE_CAPTURES: {
        struct store_captures *q = CONTAINER_OF(call, struct store_captures, call);
        q->capture = &s->capture;
        q->count = id_is_zero(&s->capture.id) ? 0 : 1;
        break;
    }
    case STORE_NOTIFY_REPLAY:
        if (s->replay_steps_most > 0) {
            fake_replay(s, CONTAINER_OF(call, struct store_notify_replay, call));
            break;
        }
        /* fallthrough */
    default:
        call->err = err_set(&call->info, ERR_UNAVAILABLE, "", "not in this store");
    }
}

static inline void fake_answer(struct note *note) {
    struct store_call *call = CONTAINER_OF(note, struct store_call, note);
    call->waiter = NULL;
    call->done(call);
}

void store_post(struct store *s, struct store_call *call) {
    pthread_mutex_lock(&s->mu);
    s->asked += call->verb != STORE_KEYS_USED;
    call->waiter = s;
    if (s->is_held) {
        s->held[s->held_count++] = call;
        pthread_cond_broadcast(&s->posted);
    } else {
        fake_carry_out(s, call);
        call->note.run = fake_answer;
        mailbox_send(call->reply_to, &call->note);
    }
    pthread_mutex_unlock(&s->mu);
}

enum err store_sync(struct store *s, struct store_call *call) {
    pthread_mutex_lock(&s->mu);
    fake_carry_out(s, call);
    pthread_mutex_unlock(&s->mu);
    return call->err;
}

void store_call_release(struct store_call *call) {
    ASSERT(call->waiter == NULL); /* else the store has it, on whatever thread */
    arena_free(&call->arena);
}

struct store_health store_health(struct store *s) {
    return (struct store_health){.is_writable = s->fail == OK};
}

void store_watch(struct store *s, unsigned mask, struct mailbox *box,
                 void (*fn)(struct store_notice *n), void *ctx) {
    pthread_mutex_lock(&s->mu);
    for (size_t i = 0; i < 16; i++) {
        if (s->watch_box[i] != NULL)
            continue;
        s->watch_box[i] = box;
        s->watch_mask[i] = mask;
        s->watch_fn[i] = fn;
        s->watch_ctx[i] = ctx;
        break;
    }
    pthread_mutex_unlock(&s->mu);
}

void store_unwatch(struct store *s, struct mailbox *box) {
    pthread_mutex_lock(&s->mu);
    for (size_t i = 0; i < 16; i++)
        if (s->watch_box[i] == box)
            s->watch_box[i] = NULL;
    pthread_mutex_unlock(&s->mu);
}

void store_notice_free(struct store_notice **np) {
    free(*np);
    *np = NULL;
}

/* ---- what the test does ---- */

static inline void fake_hold(struct store *s) {
    pthread_mutex_lock(&s->mu);
    s->is_held = true;
    pthread_mutex_unlock(&s->mu);
}

static inline void fake_wait_held(struct store *s, size_t count) {
    pthread_mutex_lock(&s->mu);
    while (s->held_count < count)
        pthread_cond_wait(&s->posted, &s->mu);
    pthread_mutex_unlock(&s->mu);
}

static inline void fake_release(struct store *s) {
    pthread_mutex_lock(&s->mu);
    s->is_held = false;
    for (size_t i = 0; i < s->held_count; i++) {
        fake_carry_out(s, s->held[i]);
        s->held[i]->note.run = fake_answer;
        mailbox_send(s->held[i]->reply_to, &s->held[i]->note);
    }
    s->held_count = 0;
    pthread_mutex_unlock(&s->mu);
}

static inline void fake_fail(struct store *s, enum err e) {
    pthread_mutex_lock(&s->mu);
    s->fail = e;
    pthread_mutex_unlock(&s->mu);
}

static inline void fake_take_prefixes(struct store *s, int count) {
    pthread_mutex_lock(&s->mu);
    s->key_conflicts = count;
    pthread_mutex_unlock(&s->mu);
}

static inline size_t fake_accepts(struct store *s) {
    pthread_mutex_lock(&s->mu);
    size_t n = s->accepts;
    pthread_mutex_unlock(&s->mu);
    return n;
}

static inline size_t fake_asked(struct store *s) {
    pthread_mutex_lock(&s->mu);
    size_t n = s->asked;
    pthread_mutex_unlock(&s->mu);
    return n;
}

static inline size_t fake_replay_steps(struct store *s) {
    pthread_mutex_lock(&s->mu);
    size_t n = s->replay_steps;
    pthread_mutex_unlock(&s->mu);
    return n;
}

static inline size_t fake_watches(struct store *s) {
    size_t n = 0;
    pthread_mutex_lock(&s->mu);
    for (size_t i = 0; i < 16; i++)
        n += s->watch_box[i] != NULL;
    pthread_mutex_unlock(&s->mu);
    return n;
}

static inline void fake_notice_run(struct note *note) {
    struct store_notice *n = CONTAINER_OF(note, struct store_notice, note);
    void (*fn)(struct store_notice *) = (void (*)(struct store_notice *))(uintptr_t)n->due_count;
    n->due_count = 0;
    fn(n);
}

/* Every recipient of the message was delivered; those who watch are told. */
static inline void fake_deliver(struct store *s, size_t index) {
    pthread_mutex_lock(&s->mu);
    struct message_row *m = &s->message[index].row;
    for (size_t i = 0; i < m->recipient_count; i++) {
        m->recipient[i].state = RECIPIENT_DELIVERED;
        m->recipient[i].attempts = 1;
        m->recipient[i].last =
            (struct last_result){.code = 250, .text = STR("2.0.0 ok"), .mx = STR("mx.example.net")};
    }
    for (size_t i = 0; i < 16; i++) {
        if (s->watch_box[i] == NULL || (s->watch_mask[i] & NOTICE_MESSAGE) == 0)
            continue;
        struct store_notice *n = mem_zalloc(sizeof(*n));
        n->kind = NOTICE_MESSAGE;
        n->ctx = s->watch_ctx[i];
        n->message_id = m->id;
        n->is_complete = true;
        n->due_count = (size_t)(uintptr_t)s->watch_fn[i]; /* where fake_notice_run() finds it */
        n->note.run = fake_notice_run;
        mailbox_send(s->watch_box[i], &n->note);
    }
    pthread_mutex_unlock(&s->mu);
}
