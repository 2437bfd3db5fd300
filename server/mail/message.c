#include "server/mail/message.h"

#include <stdatomic.h>
#include <stdlib.h>

struct message {
    atomic_uint refs;
    struct id id;
    struct message *base; /* the message whose bytes we share, NULL when they are ours */
    char *prefix;
    size_t prefix_bytes;
    char *bytes; /* ours; NULL when `base` is set */
    size_t size_bytes;
};

static struct message *message_alloc(const struct id *id) {
    struct message *m = mem_zalloc(sizeof *m);
    atomic_init(&m->refs, 1);
    m->id = *id;
    return m;
}

struct message *message_new(const struct id *id, char *bytes, size_t n) {
    struct message *m = message_alloc(id);
    m->bytes = bytes;
    m->size_bytes = n;
    return m;
}

struct message *message_new_prefixed(struct message *of, char *prefix, size_t n) {
    struct message *m = message_alloc(&of->id);
    m->base = message_ref(of->base ? of->base : of);
    m->prefix = prefix;
    m->prefix_bytes = n;
    if (of->prefix_bytes > 0) { /* signed before: both sets of fields become one prefix */
        char *both = mem_zalloc(n + of->prefix_bytes);
        memcpy(both, prefix, n);
        memcpy(both + n, of->prefix, of->prefix_bytes);
        free(prefix);
        m->prefix = both;
        m->prefix_bytes = n + of->prefix_bytes;
    }
    return m;
}

struct message *message_ref(struct message *m) {
    atomic_fetch_add_explicit(&m->refs, 1, memory_order_relaxed);
    return m;
}

void message_unref(struct message **mp) {
    struct message *m = *mp;
    *mp = NULL;
    if (!m || atomic_fetch_sub_explicit(&m->refs, 1, memory_order_acq_rel) != 1)
        return;
    message_unref(&m->base); /* one level: a base has none itself */
    free(m->prefix);
    free(m->bytes);
    free(m);
}

const struct id *message_id_of(const struct message *m) {
    return &m->id;
}

struct message_pieces message_bytes(const struct message *m) {
    const struct message *b = m->base ? m->base : m;
    return (struct message_pieces){
        {str_make(m->prefix ? m->prefix : "", m->prefix_bytes), str_make(b->bytes, b->size_bytes)}};
}

size_t message_size(const struct message *m) {
    return m->prefix_bytes + (m->base ? m->base : m)->size_bytes;
}

bool message_is_signed(const struct message *m) {
    return m->prefix_bytes > 0;
}
