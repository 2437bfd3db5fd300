#include "server/delivery/due.h"

#include <stdlib.h>

TAILQ_HEAD(due_accounts, due_account);

/* A queue key, or a site. */
struct due_account {
    struct str name;
    size_t count;
    bool wants_more; /* the store has more of it */
    /* a key's */
    int64_t parked_until_mono_ms;       /* 0: not parked */
    struct due_account *turned_away_at; /* the site that had no room for it; NULL: none */
    TAILQ_ENTRY(due_account) link;
    /* a site's: not empty only while it wants more */
    struct due_accounts turned_away;
    struct table *in;
    struct table_node in_table;
};

/* What a lane of a project has of a key, or at a site. */
struct due_group {
    struct {
        struct due_account *account;
        int64_t lane, project; /* without padding for the hash */
    } of;
    size_t count;
    struct table_node in_table;
};

/* A recipient that left memory while a load was under way. */
struct due_left {
    recipient_key_t key;
    struct table_node in_table;
};

struct due {
    size_t most, per_key;
    struct table items, keys, sites, groups, left;
    size_t turned_away; /* keys */
    bool is_loading, is_thirsty;
};

struct due *due_new(size_t most, size_t per_key) {
    struct due *d = mem_zalloc(sizeof(*d));
    d->most = most;
    d->per_key = per_key;
    return d;
}

static void account_free_if_unused(struct due_account *a) {
    if (a->count > 0 || a->parked_until_mono_ms != 0 || a->turned_away_at != NULL)
        return;
    ASSERT(TAILQ_EMPTY(&a->turned_away));
    table_remove(a->in, &a->in_table);
    free((char *)(uintptr_t)a->name.p);
    free(a);
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

static struct due_account *account_find(const struct table *in, struct str name) {
    return table_find(in, name.p, name.n);
}

static struct due_account *account_get(struct table *in, struct str name) {
    struct due_account *a = account_find(in, name);
    if (a != NULL)
        return a;
    a = mem_zalloc(sizeof(*a));
    a->name = str_make(str_dupz(name), name.n);
    a->in = in;
    TAILQ_INIT(&a->turned_away);
    table_add(in, &a->in_table, a->name.p, a->name.n, a);
    return a;
}

/* `a` may be NULL. */
static struct due_group *group_find(const struct due *d, struct due_account *a,
                                    const struct outgoing *o) {
    const struct due_group like = {.of = {.account = a, .lane = o->lane, .project = o->project}};
    return table_find(&d->groups, &like.of, sizeof(like.of));
}

static struct due_group *enter(struct due *d, struct due_account *a, const struct outgoing *o) {
    struct due_group *g = group_find(d, a, o);
    if (g == NULL) {
        g = mem_zalloc(sizeof(*g));
        g->of.account = a;
        g->of.lane = o->lane;
        g->of.project = o->project;
        table_add(&d->groups, &g->in_table, &g->of, sizeof(g->of), g);
    }
    g->count++;
    a->count++;
    return g;
}

static void admit_again(struct due *d, struct due_account *key) {
    if (key->turned_away_at == NULL)
        return;
    TAILQ_REMOVE(&key->turned_away_at->turned_away, key, link);
    key->turned_away_at = NULL;
    d->turned_away--;
    account_free_if_unused(key);
}

static void turn_away(struct due *d, struct due_account *key, struct due_account *site) {
    site->wants_more = true;
    if (key->turned_away_at != NULL)
        TAILQ_REMOVE(&key->turned_away_at->turned_away, key, link);
    else
        d->turned_away++;
    key->turned_away_at = site;
    TAILQ_INSERT_TAIL(&site->turned_away, key, link);
}

static void leave(struct due *d, struct due_group **gp) {
    struct due_group *g = *gp;
    struct due_account *a = g->of.account;
    *gp = NULL;
    if (--g->count == 0) {
        table_remove(&d->groups, &g->in_table);
        free(g);
    }
    a->count--;
    if (a->wants_more && a->count <= d->per_key / 4) {
        a->wants_more = false;
        d->is_thirsty = true;
        while (!TAILQ_EMPTY(&a->turned_away))
            admit_again(d, TAILQ_FIRST(&a->turned_away));
    }
    account_free_if_unused(a);
}

/* But for lane high's. */
static size_t most_held(const struct due *d) {
    return d->most - d->most / 10;
}

/* Beside `count` others, for one more of a group; `g` may be NULL. */
static bool has_share(const struct due *d, const struct due_group *g, enum lane lane,
                      size_t count) {
    if (lane == LANE_HIGH || g == NULL || count < d->most / 2)
        return true;
    /* A part of what is left: however many are slow, the next one finds room. */
    size_t part = count < most_held(d) ? (most_held(d) - count) / 4 : 0;
    return g->count < d->per_key && g->count <= part;
}

static bool has_room(const struct due *d, const struct due_group *g, enum lane lane) {
    size_t count = table_count(&d->items);
    return count < (lane == LANE_HIGH ? d->most : most_held(d)) && has_share(d, g, lane, count);
}

enum due_result due_put(struct due *d, struct due_row *row, int64_t now_mono_ms,
                        struct due_item **out) {
    *out = NULL;
    if (due_find(d, row->key) != NULL)
        return DUE_KNOWN;
    struct due_account *k = account_find(&d->keys, row->queue_key);
    if (k != NULL && k->parked_until_mono_ms > now_mono_ms)
        return DUE_PARKED;
    if (!has_room(d, group_find(d, k, row->outgoing), row->outgoing->lane)) {
        if (k != NULL)
            k->wants_more = true;
        return DUE_FULL;
    }
    struct due_item *i = mem_zalloc(sizeof(*i));
    i->row = *row;
    i->key = enter(d, k != NULL ? k : account_get(&d->keys, row->queue_key), row->outgoing);
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
    due_leave_site(d, i);
    leave(d, &i->key);
    due_row_release(&i->row);
    free(i);
}

bool due_enter_site(struct due *d, struct due_item *i, struct str site) {
    ASSERT(i->site == NULL);
    const struct outgoing *o = i->row.outgoing;
    struct due_account *a = account_find(&d->sites, site);
    if (!has_share(d, group_find(d, a, o), o->lane, table_count(&d->items) - 1)) {
        turn_away(d, i->key->of.account, a);
        return false;
    }
    i->site = enter(d, a != NULL ? a : account_get(&d->sites, site), o);
    return true;
}

void due_leave_site(struct due *d, struct due_item *i) {
    if (i->site != NULL)
        leave(d, &i->site);
}

void due_park(struct due *d, struct str key, int64_t until_mono_ms) {
    struct due_account *k = account_get(&d->keys, key);
    if (k->parked_until_mono_ms < until_mono_ms)
        k->parked_until_mono_ms = until_mono_ms;
}

size_t due_unpark(struct due *d, int64_t now_mono_ms, int64_t *next_mono_ms) {
    size_t freed = 0;
    *next_mono_ms = 0;
    struct due_account *k;
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
        account_free_if_unused(k);
    }
    return freed;
}

size_t due_unpark_early(struct due *d, int64_t until_mono_ms) {
    size_t freed = 0;
    struct due_account *k;
    struct table_cursor c = table_begin(&d->keys);
    while ((k = table_next(&c)) != NULL) {
        if (k->parked_until_mono_ms != until_mono_ms)
            continue;
        k->parked_until_mono_ms = 0;
        freed++;
        account_free_if_unused(k);
    }
    return freed;
}

void due_unpark_all(struct due *d) {
    int64_t next_mono_ms;
    (void)due_unpark(d, INT64_MAX, &next_mono_ms);
}

size_t due_skip_keys(struct due *d, bool with_busy, struct str *out, size_t most, bool *are_busy) {
    size_t n = 0;
    struct due_account *k;
    struct table_cursor c = table_begin(&d->keys);
    *are_busy = false;
    while ((k = table_next(&c)) != NULL) {
        if (k->parked_until_mono_ms == 0) {
            if (k->count <= d->per_key / 4 && k->turned_away_at == NULL)
                continue;
            *are_busy = true;
            if (with_busy) {
                admit_again(d, k); /* unless it is turned away again */
                continue;
            }
        }
        k->wants_more = k->turned_away_at == NULL; /* else its site does */
        if (n < most)
            out[n++] = k->name;
    }
    return n;
}

void due_want_more(struct due *d) {
    struct due_account *k;
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

bool due_is_crowded(const struct due *d) {
    return table_count(&d->items) > d->most / 2 || d->turned_away > 0;
}

size_t due_room(const struct due *d) {
    size_t count = table_count(&d->items);
    return count < d->most ? d->most - count : 0;
}
