#include "server/delivery/due.h"

#include <stdlib.h>

/* What a lane of a project has of a key. */
struct due_group {
    struct {
        const struct due_key *key;
        int64_t lane, project; /* without padding for the hash */
    } of;
    size_t count;
    struct table_node in_table;
};

struct due_key {
    struct str name;
    size_t count;
    int64_t parked_until_mono_ms; /* 0: not parked */
    bool wants_more;              /* the store has more of it */
    struct table_node in_table;
};

/* A recipient that left memory while a load was under way. */
struct due_left {
    recipient_key_t key;
    struct table_node in_table;
};

struct due {
    size_t most, per_key;
    struct table items, keys, groups, left;
    bool is_loading, is_thirsty;
};

struct due *due_new(size_t most, size_t per_key) {
    struct due *d = mem_zalloc(sizeof(*d));
    d->most = most;
    d->per_key = per_key;
    return d;
}

static void key_free_if_unused(struct due *d, struct due_key *k) {
    if (k->count > 0 || k->parked_until_mono_ms != 0)
        return;
    table_remove(&d->keys, &k->in_table);
    free((char *)(uintptr_t)k->name.p);
    free(k);
}

void due_free(struct due **dp) {
    struct due *d = *dp;
    if (d == NULL)
        return;
    struct due_item *i;
    while ((i = table_oldest(&d->items)) != NULL)
        due_drop(d, &i);
    due_unpark_all(d);
    due_load_ends(d);
    free(d);
    *dp = NULL;
}

static struct due_key *key_find(const struct due *d, struct str name) {
    return table_find(&d->keys, name.p, name.n);
}

static struct due_key *key_get(struct due *d, struct str name) {
    struct due_key *k = key_find(d, name);
    if (k != NULL)
        return k;
    k = mem_zalloc(sizeof(*k));
    k->name = str_make(str_dupz(name), name.n);
    table_add(&d->keys, &k->in_table, k->name.p, k->name.n, k);
    return k;
}

/* `k` may be NULL. */
static struct due_group *group_find(const struct due *d, const struct due_key *k,
                                    const struct outgoing *o) {
    const struct due_group like = {.of = {.key = k, .lane = o->lane, .project = o->project}};
    return table_find(&d->groups, &like.of, sizeof(like.of));
}

static struct due_group *group_get(struct due *d, const struct due_key *k,
                                   const struct outgoing *o) {
    struct due_group *g = group_find(d, k, o);
    if (g != NULL)
        return g;
    g = mem_zalloc(sizeof(*g));
    g->of.key = k;
    g->of.lane = o->lane;
    g->of.project = o->project;
    table_add(&d->groups, &g->in_table, &g->of, sizeof(g->of), g);
    return g;
}

static void group_leave(struct due *d, struct due_group *g) {
    if (--g->count > 0)
        return;
    table_remove(&d->groups, &g->in_table);
    free(g);
}

static bool has_room(const struct due *d, const struct due_group *g, enum lane lane) {
    size_t count = table_count(&d->items);
    if (lane == LANE_HIGH)
        return count < d->most;
    size_t most = d->most - d->most / 10;
    if (count >= most)
        return false;
    if (g == NULL || count < d->most / 2)
        return true;
    /* A part of what is left: however many are slow, the next one finds room. */
    size_t part = (most - count) / 4;
    return g->count < d->per_key && g->count <= part;
}

enum due_result due_put(struct due *d, struct due_row *row, int64_t now_mono_ms,
                        struct due_item **out) {
    *out = NULL;
    if (due_find(d, row->key) != NULL)
        return DUE_KNOWN;
    struct due_key *k = key_find(d, row->queue_key);
    if (k != NULL && k->parked_until_mono_ms > now_mono_ms)
        return DUE_PARKED;
    if (!has_room(d, group_find(d, k, row->outgoing), row->outgoing->lane)) {
        if (k != NULL)
            k->wants_more = true;
        return DUE_FULL;
    }
    struct due_item *i = mem_zalloc(sizeof(*i));
    i->row = *row;
    i->key = k != NULL ? k : key_get(d, row->queue_key);
    i->key->count++;
    i->group = group_get(d, i->key, row->outgoing);
    i->group->count++;
    row->outgoing = NULL;
    row->email = row->queue_key = STR_NONE;
    table_add(&d->items, &i->in_table, &i->row.key, sizeof(i->row.key), i);
    *out = i;
    return DUE_TAKEN;
}

struct due_item *due_find(struct due *d, recipient_key_t key) {
    return table_find(&d->items, &key, sizeof(key));
}

static void remember_left(struct due *d, recipient_key_t key) {
    if (due_left_meanwhile(d, key))
        return;
    struct due_left *l = mem_zalloc(sizeof(*l));
    l->key = key;
    table_add(&d->left, &l->in_table, &l->key, sizeof(l->key), l);
}

void due_drop(struct due *d, struct due_item **ip) {
    struct due_item *i = *ip;
    *ip = NULL;
    table_remove(&d->items, &i->in_table);
    if (d->is_loading)
        remember_left(d, i->row.key);
    i->key->count--;
    group_leave(d, i->group);
    if (i->key->wants_more && i->key->count <= d->per_key / 4) {
        i->key->wants_more = false;
        d->is_thirsty = true;
    }
    key_free_if_unused(d, i->key);
    due_row_release(&i->row);
    free(i);
}

void due_park(struct due *d, struct str key, int64_t until_mono_ms) {
    struct due_key *k = key_get(d, key);
    if (k->parked_until_mono_ms < until_mono_ms)
        k->parked_until_mono_ms = until_mono_ms;
}

size_t due_unpark(struct due *d, int64_t now_mono_ms, int64_t *next_mono_ms) {
    size_t freed = 0;
    *next_mono_ms = 0;
    struct due_key *k;
    struct table_cursor c = table_begin(&d->keys);
    while ((k = table_next(&c)) != NULL) {
        if (k->parked_until_mono_ms == 0)
            continue;
        if (k->parked_until_mono_ms > now_mono_ms) {
            if (*next_mono_ms == 0 || k->parked_until_mono_ms < *next_mono_ms)
                *next_mono_ms = k->parked_until_mono_ms;
            continue;
        }
        k->parked_until_mono_ms = 0;
        freed++;
        key_free_if_unused(d, k);
    }
    return freed;
}

size_t due_unpark_early(struct due *d, int64_t until_mono_ms) {
    size_t freed = 0;
    struct due_key *k;
    struct table_cursor c = table_begin(&d->keys);
    while ((k = table_next(&c)) != NULL) {
        if (k->parked_until_mono_ms != until_mono_ms)
            continue;
        k->parked_until_mono_ms = 0;
        freed++;
        key_free_if_unused(d, k);
    }
    return freed;
}

void due_unpark_all(struct due *d) {
    int64_t next_mono_ms;
    (void)due_unpark(d, INT64_MAX, &next_mono_ms);
}

size_t due_skip_keys(struct due *d, bool with_busy, struct str *out, size_t most, bool *are_busy) {
    size_t n = 0;
    struct due_key *k;
    struct table_cursor c = table_begin(&d->keys);
    *are_busy = false;
    while (n < most && (k = table_next(&c)) != NULL) {
        if (k->parked_until_mono_ms == 0) {
            if (k->count <= d->per_key / 4)
                continue;
            *are_busy = true;
            if (with_busy)
                continue;
        }
        k->wants_more = true;
        out[n++] = k->name;
    }
    return n;
}

void due_want_more(struct due *d) {
    struct due_key *k;
    struct table_cursor c = table_begin(&d->keys);
    while ((k = table_next(&c)) != NULL)
        k->wants_more = true;
}

bool due_take_thirst(struct due *d) {
    bool is_thirsty = d->is_thirsty;
    d->is_thirsty = false;
    return is_thirsty;
}

void due_load_begins(struct due *d) {
    d->is_loading = true;
}

void due_load_ends(struct due *d) {
    d->is_loading = false;
    struct due_left *l;
    while ((l = table_oldest(&d->left)) != NULL) {
        table_remove(&d->left, &l->in_table);
        free(l);
    }
}

bool due_left_meanwhile(const struct due *d, recipient_key_t key) {
    return table_find(&d->left, &key, sizeof(key)) != NULL;
}

size_t due_count(const struct due *d) {
    return table_count(&d->items);
}

size_t due_room(const struct due *d) {
    size_t count = table_count(&d->items);
    return count < d->most ? d->most - count : 0;
}
