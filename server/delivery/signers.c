#include "server/delivery/signers.h"

#include <stdlib.h>

#include "server/base/digest.h"
#include "server/base/log.h"
#include "server/base/table.h"
#include "server/intake/rights.h"

/* Keys of a domain, in their order. */
struct ring {
    struct dkim_signer signer;
    bool has_unreadable;
    uint8_t pem_hash[DKIM_KEYS_MAX][SHA256_BYTES]; /* tells whether a key is the same as before */
};

struct ring_domain {
    int64_t project;
    struct str name;
    struct ring every, published; /* keys are references in `every`, borrowed in the other */
    int64_t unpublished_wall_ms;  /* when the newest of the others was made; 0: there is none */
    struct table_node in_table;   /* of the first of a name; the others hang on it */
    struct ring_domain *next;     /* of the same name, another project's */
};

struct signers {
    struct arena *arena;
    struct table by_name;
    struct domains *domains; /* a reference */
    int refs;
};

static void ring_put(struct ring *r, struct str selector, struct dkim_key *key,
                     const uint8_t pem_hash[SHA256_BYTES]) {
    size_t i = r->signer.key_count++;
    r->signer.keys[i].selector = selector;
    r->signer.keys[i].key = key;
    memcpy(r->pem_hash[i], pem_hash, SHA256_BYTES);
}

/* NULL: it was not there. */
static struct dkim_key *find_key(const struct ring_domain *d,
                                 const uint8_t pem_hash[SHA256_BYTES]) {
    for (size_t i = 0; d != NULL && i < d->every.signer.key_count; i++)
        if (digest_equal(d->every.pem_hash[i], pem_hash, SHA256_BYTES))
            return d->every.signer.keys[i].key;
    return NULL;
}

/* `was`: the domain as it was before; NULL: it is new. false: there is no memory to read the
 * key. */
static bool add_key(struct signers *k, struct ring_domain *d, const struct domain_key_row *row,
                    const struct ring_domain *was) {
    struct errinfo info = {0};
    uint8_t pem_hash[SHA256_BYTES];
    if (d->every.signer.key_count == DKIM_KEYS_MAX)
        return true;
    digest_sha256(row->pem, pem_hash);
    struct dkim_key *key = find_key(was, pem_hash);
    enum err e = OK;
    if (key != NULL)
        dkim_key_ref(key);
    else
        e = dkim_key_parse_pem(row->pem, &key, &info);
    if (e == ERR_UNAVAILABLE)
        return false;
    if (e != OK) {
        log_error("delivery", "DKIM key cannot be read", LOG_STR("domain", d->name),
                  LOG_STR("selector", row->selector), LOG_STRZ("why", info.text));
        d->every.has_unreadable = true;
        d->published.has_unreadable |= row->published_wall_ms != 0;
        return true;
    }
    struct str selector = arena_dup(k->arena, row->selector);
    ring_put(&d->every, selector, key, pem_hash);
    if (row->published_wall_ms != 0)
        ring_put(&d->published, selector, key, pem_hash);
    else if (row->created_wall_ms > d->unpublished_wall_ms)
        d->unpublished_wall_ms = row->created_wall_ms;
    return true;
}

static struct ring_domain *find(const struct signers *k, int64_t project, struct str name) {
    struct ring_domain *d = table_find(&k->by_name, name.p, name.n);
    while (d != NULL && d->project != project)
        d = d->next;
    return d;
}

static struct ring_domain *add_domain(struct signers *k, const struct domain_row *row) {
    struct ring_domain *first = table_find(&k->by_name, row->name.p, row->name.n),
                       *d = ARENA_NEW(k->arena, struct ring_domain);
    d->project = row->project;
    d->name = arena_dup(k->arena, row->name);
    d->every.signer.domain = d->published.signer.domain = d->name;
    if (first == NULL) {
        table_add(&k->by_name, &d->in_table, d->name.p, d->name.n, d);
    } else {
        d->next = first->next;
        first->next = d;
    }
    return d;
}

struct signers *signers_new(const struct domain_row *rows, size_t count,
                            const struct signers *was) {
    struct signers *k = mem_zalloc(sizeof(*k));
    k->refs = 1;
    k->arena = arena_new();
    k->domains = domains_new(rows, count);
    for (size_t i = 0; i < count; i++) {
        if (str_is_empty(rows[i].name))
            continue;
        struct ring_domain *d = add_domain(k, &rows[i]);
        const struct ring_domain *before = was != NULL ? find(was, d->project, d->name) : NULL;
        for (size_t j = 0; j < rows[i].key_count; j++)
            if (!add_key(k, d, &rows[i].key[j], before)) {
                signers_unref(&k);
                return NULL;
            }
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
    struct ring_domain *first;
    struct table_cursor c = table_begin(&k->by_name);
    while ((first = table_next(&c)) != NULL)
        for (struct ring_domain *d = first; d != NULL; d = d->next)
            for (size_t i = 0; i < d->every.signer.key_count; i++)
                dkim_key_unref(&d->every.signer.keys[i].key);
    table_forget(&k->by_name);
    domains_unref(&k->domains);
    arena_free(&k->arena);
    free(k);
}

/* What stands behind the first dot; absent: there is none. */
static struct str parent_of(struct str domain) {
    ptrdiff_t dot = str_find_char(domain, '.');
    return dot < 0 ? STR_NONE : str_from(domain, (size_t)dot + 1);
}

/* Of the domain or the nearest parent that has keys; NULL: there is none. */
static const struct ring *nearest(const struct signers *k, int64_t project, struct str domain,
                                  bool published_only) {
    while (!str_is_empty(domain)) {
        const struct ring_domain *d = find(k, project, domain);
        const struct ring *r = d == NULL ? NULL : published_only ? &d->published : &d->every;
        if (r != NULL && (r->signer.key_count > 0 || r->has_unreadable))
            return r;
        domain = parent_of(domain);
    }
    return NULL;
}

bool signers_find(const struct signers *k, int64_t project, struct str domain, bool published_only,
                  struct dkim_signer *out) {
    const struct ring *r = nearest(k, project, domain, published_only);
    if (r != NULL)
        *out = r->signer;
    return r != NULL;
}

bool signers_are_same(const struct signers *a, const struct signers *b, int64_t project,
                      struct str domain, bool published_only) {
    const struct ring *x = nearest(a, project, domain, published_only),
                      *y = nearest(b, project, domain, published_only);
    if (x == NULL || y == NULL)
        return x == y;
    if (!str_equal(x->signer.domain, y->signer.domain) ||
        x->signer.key_count != y->signer.key_count)
        return false;
    for (size_t i = 0; i < x->signer.key_count; i++) {
        if (!str_equal(x->signer.keys[i].selector, y->signer.keys[i].selector) ||
            !digest_equal(x->pem_hash[i], y->pem_hash[i], SHA256_BYTES))
            return false;
    }
    return true;
}

int64_t signers_unpublished_wall_ms(const struct signers *k, int64_t project, struct str domain) {
    int64_t newest_wall_ms = 0;
    for (; !str_is_empty(domain); domain = parent_of(domain)) {
        const struct ring_domain *d = find(k, project, domain);
        if (d != NULL && d->unpublished_wall_ms > newest_wall_ms)
            newest_wall_ms = d->unpublished_wall_ms;
    }
    return newest_wall_ms;
}

struct str signers_bounce_address(const struct signers *k, int64_t project, struct str domain) {
    return domains_bounce_address(k->domains, project, domain);
}
