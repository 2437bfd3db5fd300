#include "server/delivery/signers.h"

#include <stdlib.h>

#include "server/base/log.h"
#include "server/base/table.h"

struct ring_domain {
    struct str name, bounce_address;
    struct dkim_signer every, published; /* keys are references in `every`, borrowed in the other */
    struct table_node in_table;
};

struct signers {
    struct arena *arena;
    struct table by_name;
    int refs;
};

static void add_key(struct signers *k, struct ring_domain *d, const struct domain_key_row *row) {
    struct errinfo info = {0};
    struct dkim_key *key = NULL;
    if (d->every.key_count == DKIM_KEYS_MAX)
        return;
    if (dkim_key_parse_pem(row->pem, &key, &info) != OK) {
        log_error("delivery", "DKIM key cannot be read", LOG_STR("domain", d->name),
                  LOG_STR("selector", row->selector), LOG_STRZ("why", info.text));
        return;
    }
    struct str selector = arena_dup(k->arena, row->selector);
    d->every.keys[d->every.key_count].selector = selector;
    d->every.keys[d->every.key_count++].key = key;
    if (row->published_wall_ms != 0) {
        d->published.keys[d->published.key_count].selector = selector;
        d->published.keys[d->published.key_count++].key = key;
    }
}

static struct ring_domain *find(const struct signers *k, struct str name) {
    return table_find(&k->by_name, name.p, name.n);
}

struct signers *signers_new(const struct domain_row *rows, size_t count) {
    struct signers *k = mem_zalloc(sizeof(*k));
    k->refs = 1;
    k->arena = arena_new();
    for (size_t i = 0; i < count; i++) {
        if (str_is_empty(rows[i].name))
            continue;
        struct ring_domain *d = find(k, rows[i].name);
        if (d == NULL) {
            d = ARENA_NEW(k->arena, struct ring_domain);
            d->name = d->every.domain = d->published.domain = arena_dup(k->arena, rows[i].name);
            table_add(&k->by_name, &d->in_table, d->name.p, d->name.n, d);
        }
        if (!str_is_empty(rows[i].bounce_address))
            d->bounce_address = arena_dup(k->arena, rows[i].bounce_address);
        for (size_t j = 0; j < rows[i].key_count; j++)
            add_key(k, d, &rows[i].key[j]);
    }
    return k;
}

struct signers *signers_ref(struct signers *k) {
    __atomic_add_fetch(&k->refs, 1, __ATOMIC_RELAXED);
    return k;
}

void signers_unref(struct signers **kp) {
    struct signers *k = *kp;
    *kp = NULL;
    if (k == NULL || __atomic_sub_fetch(&k->refs, 1, __ATOMIC_ACQ_REL) > 0)
        return;
    struct ring_domain *d;
    struct table_cursor c = table_begin(&k->by_name);
    while ((d = table_next(&c)) != NULL)
        for (size_t i = 0; i < d->every.key_count; i++)
            dkim_key_unref(&d->every.keys[i].key);
    table_forget(&k->by_name);
    arena_free(&k->arena);
    free(k);
}

bool signers_find(const struct signers *k, struct str domain, bool published_only,
                  struct dkim_signer *out) {
    while (!str_is_empty(domain)) {
        const struct ring_domain *d = find(k, domain);
        const struct dkim_signer *s = d == NULL ? NULL : published_only ? &d->published : &d->every;
        if (s != NULL && s->key_count > 0) {
            *out = *s;
            return true;
        }
        ptrdiff_t dot = str_find_char(domain, '.');
        domain = dot < 0 ? STR_NONE : str_from(domain, (size_t)dot + 1);
    }
    return false;
}

struct str signers_bounce_address(const struct signers *k, struct str domain) {
    const struct ring_domain *d = find(k, domain);
    return d != NULL ? d->bounce_address : STR_NONE;
}
