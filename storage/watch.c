/* Who wants to know what changed. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/queue.h>

#include "storage/effects.h"
#include "storage/store_ops.h"

enum { KINDS_WITH_ROWS = NOTICE_DUE | NOTICE_GONE | NOTICE_MESSAGE };

/* Lives until it was removed and its last notice has arrived. */
struct watch {
    LIST_ENTRY(watch) link;
    atomic_int refs; /* the list's, and one for each notice on its way */
    unsigned mask;
    struct mailbox *box;
    void (*fn)(struct store_notice *n);
    void *ctx;
    atomic_uint on_its_way; /* kinds without rows */
    atomic_bool is_removed;
};

struct watch_list {
    struct {
        pthread_mutex_t mu;
        LIST_HEAD(, watch) first;
    } shared;
};

/* What travels. */
struct notice_box {
    struct store_notice n;
    struct watch *watch;
};

static void watch_unref(struct watch *w) {
    if (atomic_fetch_sub_explicit(&w->refs, 1, memory_order_acq_rel) == 1)
        free(w);
}

struct watch_list *watch_list_new(void) {
    struct watch_list *l = mem_zalloc(sizeof(*l));
    NEED(pthread_mutex_init(&l->shared.mu, NULL) == 0);
    return l;
}

void watch_list_free(struct watch_list **wp) {
    struct watch_list *l = *wp;
    if (l == NULL)
        return;
    struct watch *w;
    while ((w = LIST_FIRST(&l->shared.first)) != NULL) {
        LIST_REMOVE(w, link);
        watch_unref(w);
    }
    pthread_mutex_destroy(&l->shared.mu);
    free(l);
    *wp = NULL;
}

void watch_list_add(struct watch_list *l, unsigned mask, struct mailbox *box,
                    void (*fn)(struct store_notice *n), void *ctx) {
    struct watch *w = mem_zalloc(sizeof(*w));
    atomic_init(&w->refs, 1);
    w->mask = mask;
    w->box = box;
    w->fn = fn;
    w->ctx = ctx;
    pthread_mutex_lock(&l->shared.mu);
    LIST_INSERT_HEAD(&l->shared.first, w, link);
    pthread_mutex_unlock(&l->shared.mu);
}

void watch_list_remove(struct watch_list *l, struct mailbox *box) {
    pthread_mutex_lock(&l->shared.mu);
    struct watch *w = LIST_FIRST(&l->shared.first), *next;
    for (; w != NULL; w = next) {
        next = LIST_NEXT(w, link);
        if (w->box != box)
            continue;
        LIST_REMOVE(w, link);
        atomic_store(&w->is_removed, true);
        watch_unref(w);
    }
    pthread_mutex_unlock(&l->shared.mu);
}

void store_notice_free(struct store_notice **np) {
    struct store_notice *n = *np;
    if (n == NULL)
        return;
    for (size_t i = 0; i < n->due_count; i++)
        due_row_release(&n->due[i]);
    free(n->due);
    free(CONTAINER_OF(n, struct notice_box, n));
    *np = NULL;
}

/* On the watcher's thread. */
static void arrive(struct note *note) {
    struct store_notice *n = CONTAINER_OF(note, struct store_notice, note);
    struct notice_box *b = CONTAINER_OF(n, struct notice_box, n);
    struct watch *w = b->watch;
    b->watch = NULL;
    /* From here on a change is a new notice: `fn` may look at the store now. */
    atomic_fetch_and(&w->on_its_way, ~(unsigned)n->kind);
    if (atomic_load(&w->is_removed))
        store_notice_free(&n);
    else
        w->fn(n);
    watch_unref(w);
}

static struct notice_box *notice_new(struct watch *w, enum store_notice_kind kind) {
    struct notice_box *b = mem_zalloc(sizeof(*b));
    atomic_fetch_add_explicit(&w->refs, 1, memory_order_relaxed);
    b->watch = w;
    b->n.note.run = arrive;
    b->n.kind = kind;
    b->n.ctx = w->ctx;
    return b;
}

static void send_plain(struct watch *w, enum store_notice_kind kind) {
    if ((atomic_fetch_or(&w->on_its_way, (unsigned)kind) & (unsigned)kind) == 0)
        mailbox_send(w->box, &notice_new(w, kind)->n.note);
}

/* The rows go to the last watcher who wants them; the others get copies. */
static void send_rows(struct watch *w, struct effect *first, size_t count, bool is_last) {
    struct notice_box *b = notice_new(w, first->kind);
    b->n.message_id = first->message_id;
    b->n.is_complete = first->is_complete;
    if (first->kind != NOTICE_MESSAGE) {
        b->n.due = mem_zalloc(count * sizeof(*b->n.due));
        b->n.due_count = count;
        for (size_t i = 0; i < count; i++) {
            struct due_row *row = &b->n.due[i];
            *row = first[i].row;
            if (is_last) {
                first[i].row = (struct due_row){0};
            } else if (first->kind == NOTICE_DUE) {
                row->outgoing = outgoing_ref(row->outgoing);
                row->email = str_make(str_dupz(row->email), row->email.n);
                row->queue_key = str_make(str_dupz(row->queue_key), row->queue_key.n);
            }
        }
    }
    mailbox_send(w->box, &b->n.note);
}

static void publish_group(struct watch_list *l, struct effect *first, size_t count) {
    struct watch *w, *wanting = NULL;
    LIST_FOREACH (w, &l->shared.first, link) {
        if ((w->mask & (unsigned)first->kind) == 0)
            continue;
        if (wanting != NULL)
            send_rows(wanting, first, count, false);
        wanting = w;
    }
    if (wanting != NULL)
        send_rows(wanting, first, count, true);
}

void watch_list_publish(struct watch_list *l, struct effects *fx) {
    unsigned plain = 0;
    pthread_mutex_lock(&l->shared.mu);
    for (size_t i = 0, n; i < fx->count; i += n) {
        struct effect *e = &fx->list[i];
        n = 1;
        if (((unsigned)e->kind & KINDS_WITH_ROWS) == 0) {
            plain |= (unsigned)e->kind;
            continue;
        }
        if (e->kind != NOTICE_MESSAGE)
            while (i + n < fx->count && fx->list[i + n].kind == e->kind &&
                   id_equal(&fx->list[i + n].message_id, &e->message_id))
                n++;
        publish_group(l, e, n);
    }
    struct watch *w;
    LIST_FOREACH (w, &l->shared.first, link)
        for (unsigned kind = 1; kind <= plain; kind <<= 1)
            if ((plain & w->mask & kind) != 0)
                send_plain(w, (enum store_notice_kind)kind);
    pthread_mutex_unlock(&l->shared.mu);
    effects_truncate(fx, 0);
}

void watch_list_tell(struct watch_list *l, enum store_notice_kind kind) {
    ASSERT(((unsigned)kind & KINDS_WITH_ROWS) == 0);
    pthread_mutex_lock(&l->shared.mu);
    struct watch *w;
    LIST_FOREACH (w, &l->shared.first, link)
        if ((w->mask & (unsigned)kind) != 0)
            send_plain(w, kind);
    pthread_mutex_unlock(&l->shared.mu);
}
