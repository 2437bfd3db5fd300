/* table: a hash table over items that belong to somebody else. An item holds a node and the bytes
 * of its key; the table allocates its buckets only, and finds items in no other way than by key or
 * in the order in which they were added.
 *
 *     struct site { char *key; struct table_node in_table; };
 *     struct table sites = {0};
 *     table_add(&sites, &s->in_table, s->key, strlen(s->key), s);
 *     struct site *found = table_find(&sites, key, n);       // NULL: none
 *     struct table_cursor c = table_begin(&sites);
 *     while ((s = table_next(&c)) != NULL) ...               // s may be removed, and freed
 *     table_remove(&sites, &s->in_table);
 *
 * All zeros is an empty table. Without memory for a bucket the process ends with a reason, as
 * everywhere (err.h). Thread: owner.
 */
#pragma once

#include "server/base/err.h"
/* Its own way out is exit(-1) without a word. */
#define uthash_fatal(msg) err_out_of_memory("a hash table", 0)
/* Its own hash has no key: strangers, who choose most keys, could fill one bucket with theirs. */
#define HASH_FUNCTION(key, n, hash) ((hash) = table_hash_of(key, n))
unsigned table_hash_of(const void *key, size_t n); /* for this header alone; thread: any */
#include <uthash.h> /* lint: containers: a node lives in the storage of what is found */

struct table_node {
    void *item;
    UT_hash_handle hh;
};

struct table {
    struct table_node *first;
};

/* The key stays where it is, unchanged, until the item is removed; no other item has it. */
void table_add(struct table *t, struct table_node *node, const void *key, size_t n, void *item);
void *table_find(const struct table *t, const void *key, size_t n);
void table_remove(struct table *t, struct table_node *node);
/* Empties it without touching an item. */
void table_forget(struct table *t);

size_t table_count(const struct table *t);
void *table_oldest(const struct table *t); /* NULL: it is empty */
/* A number that hangs on the key and the process, well spread: not to be stored. */
size_t table_hash(const struct table_node *node);

/* From the oldest to the newest. What is added meanwhile may be met; of what is removed meanwhile
 * only the item that was returned last. */
struct table_cursor {
    struct table_node *next;
};
struct table_cursor table_begin(const struct table *t);
void *table_next(struct table_cursor *c); /* NULL: that was the last */
