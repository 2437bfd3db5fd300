#include "server/base/table.h"

#include <pthread.h>

#include "server/base/random.h"
#include "server/base/siphash.h"

static unsigned char secret[SIPHASH_KEY_SIZE]; /* of the process */
static pthread_once_t secret_once = PTHREAD_ONCE_INIT;

static void make_secret(void) {
    random_bytes(secret, sizeof(secret));
}

unsigned table_hash_of(const void *key, size_t n) {
    pthread_once(&secret_once, make_secret);
    return (unsigned)siphash(secret, key, n);
}

/* A key of no bytes may have no address. */
static const void *bytes_of(const void *key) {
    return key != NULL ? key : "";
}

void table_add(struct table *t, struct table_node *node, const void *key, size_t n, void *item) {
    node->item = item;
    HASH_ADD_KEYPTR(hh, t->first, bytes_of(key), n, node);
}

void *table_find(const struct table *t, const void *key, size_t n) {
    struct table_node *node = NULL;
    const void *bytes = bytes_of(key);
    HASH_FIND(hh, t->first, bytes, n, node);
    return node != NULL ? node->item : NULL;
}

void table_remove(struct table *t, struct table_node *node) {
    HASH_DEL(t->first, node);
}

void table_forget(struct table *t) {
    HASH_CLEAR(hh, t->first);
}

size_t table_count(const struct table *t) {
    return HASH_COUNT(t->first);
}

void *table_oldest(const struct table *t) {
    return t->first != NULL ? t->first->item : NULL;
}

size_t table_hash(const struct table_node *node) {
    return node->hh.hashv;
}

struct table_cursor table_begin(const struct table *t) {
    return (struct table_cursor){t->first};
}

void *table_next(struct table_cursor *c) {
    struct table_node *node = c->next;
    if (node == NULL)
        return NULL;
    c->next = node->hh.next;
    return node->item;
}
