#include "server/delivery/hop.h"

#include <stdio.h>
#include <stdlib.h>

#include "server/base/clock.h"
#include "server/base/digest.h"
#include "server/base/limits.h"
#include "server/base/log.h"
#include "server/base/random.h"

/* A TTL of 0 must not mean a question per message, nor one of a week that a change of provider
 * needs a restart. */
enum {
    TTL_LEAST_MS = 60 * 1000,
    TTL_MOST_MS = 3600 * 1000,
    FAILED_MS = 30 * 1000,
    /* An answer that cannot be renewed serves so long (RFC 8767 5 allows one to three days): an
     * address may be somebody else's by then. */
    STALE_MOST_MS = 24 * 3600 * 1000,
    MORE = LIMIT_HOPS / 8, /* come between two sweeps, so that each costs a few steps of one */
};

/* What may be well again soon: our own network, the resolver, a name that was just repaired. The
 * resolver itself keeps a failure for 5 s: the first question after that is soon enough. */
static const int64_t again_ms[] = {1000, 1000, 1000, 1000, 1000, 1000, 2000, 4000, 8000, 16000};
enum { AGAIN_STEPS = sizeof(again_ms) / sizeof(again_ms[0]) };
static const struct backoff again = {again_ms, AGAIN_STEPS, FAILED_MS, 20};

struct hop_lookup {
    struct mx_lookup q;
    struct hops *table;
    struct hop *hop;
};

struct hops {
    struct mailbox *box;
    void (*on_resolved)(void *ctx, struct hop *h);
    void (*drop)(void *ctx, struct hop *h);
    void *ctx;
    struct table by_key; /* while there are many: who was asked for last is last */
    size_t many;
    size_t lookups;
};

struct hops *hops_new(struct mailbox *box, void (*on_resolved)(void *ctx, struct hop *h),
                      void *ctx) {
    struct hops *t = mem_zalloc(sizeof(*t));
    t->box = box;
    t->on_resolved = on_resolved;
    t->ctx = ctx;
    t->many = LIMIT_HOPS + MORE;
    return t;
}

void hops_set_drop(struct hops *t, void (*drop)(void *ctx, struct hop *h)) {
    t->drop = drop;
}

static void hop_free(struct hops *t, struct hop *h) {
    ASSERT(h->users == 0 && !h->is_resolving);
    table_remove(&t->by_key, &h->in_table);
    if (t->drop != NULL)
        t->drop(t->ctx, h);
    host_list_unref(&h->hosts);
    settings_unref(&h->settings);
    free(h->key);
    free(h->domain);
    free(h->site_name);
    free(h);
}

void hops_free(struct hops **tp) {
    struct hops *t = *tp;
    if (t == NULL)
        return;
    ASSERT(t->lookups == 0);
    struct hop *h;
    while ((h = table_oldest(&t->by_key)) != NULL)
        hop_free(t, h);
    free(t);
    *tp = NULL;
}

struct hop *hops_get(struct hops *t, struct settings *s, const struct settings_route *r,
                     struct str domain) {
    if (r->route->kind != ROUTE_MX)
        domain = STR("");
    char key[640]; /* a route's name has at most 128 octets, a domain 255 */
    int n = snprintf(key, sizeof(key), "%p %s %.*s", (void *)s, r->route->name, STR_ARG(domain));
    ASSERT(n > 0 && n < (int)sizeof(key)); /* cut, one domain's mail would go to another's hosts */
    size_t length = (size_t)n;
    struct hop *h = table_find(&t->by_key, key, length);
    if (h != NULL) {
        if (table_count(&t->by_key) > LIMIT_HOPS / 2) { /* else none will have to go */
            table_remove(&t->by_key, &h->in_table);
            table_add(&t->by_key, &h->in_table, h->key, length, h);
        }
        return h;
    }
    h = mem_zalloc(sizeof(*h));
    h->key = str_dupz(str_make(key, length));
    h->settings = settings_ref(s); /* also keeps the pointer in the key from being used again */
    h->route = r;
    h->domain = str_dupz(domain);
    TAILQ_INIT(&h->waiting);
    table_add(&t->by_key, &h->in_table, h->key, length, h);
    return h;
}

bool hop_is_fresh(const struct hop *h, int64_t now_boot_ms) {
    /* What is too old goes nowhere, so it is looked up although the last try was just now. */
    return !h->is_resolving && (h->hosts != NULL || h->failure != FAILURE_NONE) &&
           (h->hosts == NULL || now_boot_ms < h->hosts_until_boot_ms) &&
           now_boot_ms < h->until_boot_ms;
}

bool hop_is_usable(const struct hop *h, int64_t now_boot_ms) {
    return hop_is_fresh(h, now_boot_ms) ||
           (h->hosts != NULL && h->failed > 0 && now_boot_ms < h->hosts_until_boot_ms);
}

static int64_t bounded_ttl_ms(int64_t ttl_ms) {
    return ttl_ms < TTL_LEAST_MS ? TTL_LEAST_MS : ttl_ms > TTL_MOST_MS ? TTL_MOST_MS : ttl_ms;
}

static void name_site(struct hop *h, struct str site, uint64_t tag) {
    const char *route = h->route->route->name;
    struct buf b = BUF_INIT(strlen(route) + 1 + site.n);
    buf_printf(&b, "%s %.*s", route, STR_ARG(site));
    free(h->site_name);
    h->site_name = buf_take(&b, NULL);
    h->site_tag = tag;
}

static void name_mx_site(struct hop *h, struct str site) {
    const struct route *r = h->route->route;
    enum { TLS_LEVELS = 16 };
    name_site(h, site, (uint64_t)r->mx_port * TLS_LEVELS + (uint64_t)r->mx_tls);
}

static int by_name(const void *a, const void *b) {
    const struct settings_host *x = *(const struct settings_host *const *)a;
    const struct settings_host *y = *(const struct settings_host *const *)b;
    int order = strcmp(x->host.host, y->host.host);
    if (order == 0)
        order = (x->host.port > y->host.port) - (x->host.port < y->host.port);
    return order != 0 ? order
                      : (x->session_tag > y->session_tag) - (x->session_tag < y->session_tag);
}

/* By the names of its hosts and by what they are asked to prove, in whatever order they stand: a
 * route that goes elsewhere after a reload, with another login or other TLS, has another site: it
 * waits for no session of the old one, and what the old one is refused does not stop it. */
static void name_smarthosts_site(struct hop *h) {
    size_t count = h->route->route->smarthost_count;
    const struct settings_host **host = mem_zalloc(count * sizeof(*host));
    uint64_t *tag = mem_zalloc(count * sizeof(*tag));
    struct buf b = BUF_INIT(count * (sizeof((*host)->host.host) + sizeof(":65535 ")));
    for (size_t i = 0; i < count; i++)
        host[i] = &h->route->host[i];
    qsort(host, count, sizeof(*host), by_name);
    for (size_t i = 0; i < count; i++) {
        const struct smarthost *sh = &host[i]->host;
        buf_printf(&b, "%s%s:%u", i > 0 ? "," : "", sh->host, (unsigned)sh->port);
        tag[i] = host[i]->session_tag;
    }
    uint8_t hash[SHA256_BYTES];
    uint64_t all;
    digest_sha256(str_make((const char *)tag, count * sizeof(*tag)), hash);
    memcpy(&all, hash, sizeof(all));
    name_site(h, buf_str(&b), all);
    buf_release(&b);
    free(tag);
    free(host);
}

/* ttl_ms 0: some lookup found out nothing. */
static void resolved(struct hops *t, struct hop *h, struct host_list *hosts, enum failure failure,
                     int64_t ttl_ms, int64_t now_boot_ms) {
    h->is_resolving = false;
    h->failed = ttl_ms > 0 ? 0 : h->failed + 1;
    h->until_boot_ms =
        now_boot_ms + (ttl_ms > 0 ? ttl_ms : backoff_delay_ms(&again, h->failed, random_u64()));
    if (hosts != NULL) {
        host_list_unref(&h->hosts);
        h->hosts = hosts;
        h->hosts_until_boot_ms = now_boot_ms + STALE_MOST_MS;
        h->failure = FAILURE_NONE;
    } else if (failure != FAILURE_DNS_TEMPORARY || h->hosts == NULL ||
               now_boot_ms >= h->hosts_until_boot_ms) {
        /* else: an old answer is better than none while the name servers are away */
        host_list_unref(&h->hosts);
        h->failure = failure;
    }
    t->on_resolved(t->ctx, h);
}

static void finish_mx(struct hops *t, struct hop *h, int64_t now_boot_ms) {
    const struct mx_lookup *q = &h->lookup[0].q;
    struct host_list *hosts = NULL;
    enum failure failure = q->failure;
    int64_t ttl_ms = failure == FAILURE_DNS_TEMPORARY ? 0 : FAILED_MS;
    if (failure_is_no_domain(failure)) /* somebody may be making it */
        ttl_ms = HOP_NO_DOMAIN_MS;
    if (failure == FAILURE_NONE) {
        hosts = host_list_new_mx(h->settings, h->route, q);
        if (hosts->host_count == 0) {
            host_list_unref(&hosts);
            failure = FAILURE_DNS_NO_ADDRESS;
            ttl_ms = HOP_NO_DOMAIN_MS;
        } else {
            name_mx_site(h, str_is_empty(q->site) ? str_of(h->domain) : q->site);
            ttl_ms = bounded_ttl_ms((int64_t)q->ttl_s * 1000);
        }
    }
    h->kept_ms = (int64_t)q->longest_ttl_s * 1000;
    resolved(t, h, hosts, failure, ttl_ms, now_boot_ms);
}

/* All mail of a route waits for a name that the settings, or the resolver's, have wrong. Said at
 * once, and then about twice a minute as long as it is so. */
static void tell_unresolved(const struct hop *h, enum failure failure) {
    if (failure != FAILURE_SHUTDOWN && (h->failed == 0 || h->failed >= AGAIN_STEPS))
        log_warn("delivery", "no smarthost of the route has an address that may be used",
                 LOG_STRZ("route", h->route->route->name),
                 LOG_STRZ("host", h->route->host[0].host.host),
                 LOG_STRZ("why", failure_text(failure)));
}

static void finish_smarthosts(struct hops *t, struct hop *h, int64_t now_boot_ms) {
    size_t count = h->route->route->smarthost_count;
    struct mx_lookup **q = mem_zalloc((count + 1) * sizeof(*q));
    int64_t ttl_ms = TTL_MOST_MS;
    for (size_t i = 0; i < count && h->lookup != NULL; i++) {
        q[i] = &h->lookup[i].q;
        bool was_asked = h->route->host[i].literal.len == 0;
        int64_t one_ms =
            q[i]->failure == FAILURE_NONE ? bounded_ttl_ms((int64_t)q[i]->ttl_s * 1000) : 0;
        if (was_asked && one_ms < ttl_ms)
            ttl_ms = one_ms;
    }
    enum failure failure;
    struct host_list *hosts = host_list_new_smarthosts(h->settings, h->route, q, &failure);
    free(q);
    if (hosts == NULL) {
        tell_unresolved(h, failure);
        ttl_ms = ttl_ms < FAILED_MS ? ttl_ms : FAILED_MS;
    }
    name_smarthosts_site(h);
    resolved(t, h, hosts, failure, ttl_ms, now_boot_ms);
}

static void lookups_done(struct hops *t, struct hop *h) {
    int64_t now_boot_ms = clock_boot_ms();
    bool is_mx = h->route->route->kind == ROUTE_MX;
    if (is_mx)
        finish_mx(t, h, now_boot_ms);
    else
        finish_smarthosts(t, h, now_boot_ms);
}

static void release_lookups(struct hop *h, struct hop_lookup *lookup, size_t count) {
    for (size_t i = 0; i < count; i++) {
        bool was_asked = h->route->route->kind == ROUTE_MX || h->route->host[i].literal.len == 0;
        if (was_asked)
            mx_lookup_release(&lookup[i].q);
    }
    free(lookup);
}

static void lookup_answered(struct note *n) {
    struct mx_lookup *q = CONTAINER_OF(n, struct mx_lookup, note);
    struct hop_lookup *l = CONTAINER_OF(q, struct hop_lookup, q);
    struct hops *t = l->table;
    struct hop *h = l->hop;
    t->lookups--;
    if (--h->lookups_left > 0)
        return;
    struct hop_lookup *lookup = h->lookup;
    bool is_mx = h->route->route->kind == ROUTE_MX;
    size_t count = is_mx ? 1 : h->route->route->smarthost_count;
    h->users++; /* the callback must not lose it */
    lookups_done(t, h);
    h->users--;
    h->lookup = NULL;
    release_lookups(h, lookup, count);
}

static void ask(struct hops *t, struct hop *h, struct hop_lookup *l, struct str name, bool is_host,
                uint16_t port) {
    const struct delivery_options *o = &h->settings->o;
    l->table = t;
    l->hop = h;
    l->q = (struct mx_lookup){.note = {.run = lookup_answered},
                              .reply_to = t->box,
                              .is_host = is_host,
                              .port = port,
                              .want_ipv6 = o->want_ipv6,
                              .own_name = o->hostname,
                              .guard = is_host ? NULL : h->settings->mx_guard,
                              .shuffle_seed = random_u64()};
    snprintf(l->q.domain, sizeof(l->q.domain), "%.*s", STR_ARG(name));
    t->lookups++;
    mx_resolve(o->dns, &l->q);
}

void hop_resolve(struct hops *t, struct hop *h, int64_t now_boot_ms) {
    if (h->is_resolving)
        return;
    const struct route *r = h->route->route;
    h->is_resolving = true;
    h->asked_wall_ms = clock_wall_ms();
    if (r->kind == ROUTE_MX) {
        h->lookup = mem_zalloc(sizeof(*h->lookup));
        h->lookups_left = 1;
        ask(t, h, &h->lookup[0], str_of(h->domain), false, r->mx_port);
        return;
    }
    size_t names = 0;
    for (size_t i = 0; i < r->smarthost_count; i++)
        names += h->route->host[i].literal.len == 0;
    if (names == 0) {
        finish_smarthosts(t, h, now_boot_ms);
        return;
    }
    h->lookup = mem_zalloc(r->smarthost_count * sizeof(*h->lookup));
    h->lookups_left = names;
    for (size_t i = 0; i < r->smarthost_count; i++) {
        const struct settings_host *sh = &h->route->host[i];
        if (sh->literal.len == 0)
            ask(t, h, &h->lookup[i], str_of(sh->host.host), true, sh->host.port);
    }
}

static bool is_unused(const struct hop *h) {
    return h->users == 0 && !h->is_resolving;
}

void hops_sweep(struct hops *t, const struct settings *current, int64_t now_boot_ms) {
    struct hop *h;
    struct table_cursor c = table_begin(&t->by_key);
    while ((h = table_next(&c)) != NULL) {
        bool is_old = h->settings != current || now_boot_ms >= h->until_boot_ms;
        if (is_old && is_unused(h))
            hop_free(t, h);
    }
    c = table_begin(&t->by_key);
    while (table_count(&t->by_key) > LIMIT_HOPS && (h = table_next(&c)) != NULL) {
        if (is_unused(h))
            hop_free(t, h);
    }
    size_t left = table_count(&t->by_key);
    t->many = (left > LIMIT_HOPS ? left : LIMIT_HOPS) + MORE;
}

bool hops_are_many(const struct hops *t) {
    return table_count(&t->by_key) >= t->many;
}

size_t hops_lookups(const struct hops *t) {
    return t->lookups;
}

size_t hops_count(const struct hops *t) {
    return table_count(&t->by_key);
}
