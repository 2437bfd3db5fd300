#include "server/delivery/host_list.h"

#include <stdlib.h>

/* One block of the size it takes: thousands are kept, most of them with one host. */
static struct host_list *host_list_new(struct settings *s, const struct settings_route *r,
                                       size_t hosts, size_t addresses, size_t name_bytes) {
    _Static_assert(sizeof(struct host_list) % _Alignof(struct host_entry) == 0 &&
                       sizeof(struct host_entry) % _Alignof(struct sockaddr_any) == 0,
                   "each part begins where it may");
    struct host_list *p = mem_zalloc(sizeof(*p) + hosts * sizeof(*p->host) +
                                     addresses * sizeof(*p->free_addr) + name_bytes);
    p->refs = 1;
    p->settings = settings_ref(s);
    p->route = r;
    p->host = (struct host_entry *)(void *)(p + 1);
    p->free_addr = (struct sockaddr_any *)(void *)(p->host + hosts);
    p->free_name = (char *)(p->free_addr + addresses);
    return p;
}

static const struct sockaddr_any *copy_addresses(struct host_list *p,
                                                 const struct sockaddr_any *from, size_t count) {
    struct sockaddr_any *to = p->free_addr;
    for (size_t i = 0; i < count; i++)
        to[i] = from[i];
    p->free_addr += count;
    return to;
}

static const char *copy_name(struct host_list *p, struct str name) {
    char *to = p->free_name;
    if (name.n > 0)
        memcpy(to, name.p, name.n);
    p->free_name += name.n + 1;
    return to;
}

struct host_list *host_list_new_mx(struct settings *s, const struct settings_route *r,
                                   const struct mx_lookup *q) {
    size_t addresses = 0, name_bytes = 0;
    for (size_t i = 0; i < q->count; i++) {
        addresses += q->host[i].addr_count;
        name_bytes += q->host[i].name.n + 1;
    }
    struct host_list *p = host_list_new(s, r, q->count, addresses, name_bytes);
    for (size_t i = 0; i < q->count; i++) {
        struct host_entry *h = &p->host[p->host_count];
        if (q->host[i].addr_count == 0)
            continue;
        h->name = copy_name(p, q->host[i].name);
        h->preference = q->host[i].preference;
        h->weight = 1;
        h->addr = copy_addresses(p, q->host[i].addr, q->host[i].addr_count);
        h->addr_count = q->host[i].addr_count;
        p->host_count++;
    }
    return p;
}

/* T7: credentials over less than verified TLS only to private addresses, whatever the name says
 * now. */
static bool may_connect(const struct settings_host *h, const struct sockaddr_any *a) {
    bool is_verified = h->host.tls == SESSION_TLS_VERIFY || h->host.tls == SESSION_TLS_IMPLICIT;
    return h->auth_tag == 0 || is_verified || smarthost_address_is_private(a);
}

static void add_smarthost(struct host_list *p, const struct settings_host *sh,
                          const struct sockaddr_any *addr, size_t count) {
    struct host_entry *h = &p->host[p->host_count];
    struct sockaddr_any *to = p->free_addr;
    h->addr_count = 0;
    for (size_t i = 0; i < count; i++) {
        if (may_connect(sh, &addr[i]))
            to[h->addr_count++] = addr[i];
    }
    if (h->addr_count == 0)
        return;
    h->name = sh->host.host;
    h->preference = (uint16_t)sh->host.priority;
    h->weight = sh->host.weight > 0 ? sh->host.weight : 1;
    h->smarthost = sh;
    h->addr = to;
    p->free_addr += h->addr_count;
    p->host_count++;
}

static int by_preference(const void *a, const void *b) {
    const struct host_entry *x = a, *y = b;
    return (x->preference > y->preference) - (x->preference < y->preference);
}

struct host_list *host_list_new_smarthosts(struct settings *s, const struct settings_route *r,
                                           struct mx_lookup *const *lookups,
                                           enum failure *failure) {
    size_t count = r->route->smarthost_count, addresses = 0;
    size_t hosts = 0; /* a name may be several, each with its addresses */
    for (size_t i = 0; i < count; i++) {
        bool is_literal = r->host[i].literal.len != 0;
        size_t found = is_literal ? 1 : lookups[i]->failure == FAILURE_NONE ? lookups[i]->count : 0;
        hosts += found;
        for (size_t k = 0; k < found; k++)
            addresses += is_literal ? 1 : lookups[i]->host[k].addr_count;
    }
    struct host_list *p = host_list_new(s, r, hosts, addresses, 0);
    *failure = FAILURE_CONNECT_FORBIDDEN;
    for (size_t i = 0; i < count; i++) {
        const struct settings_host *h = &r->host[i];
        if (h->literal.len != 0) {
            add_smarthost(p, h, &h->literal, 1);
            continue;
        }
        const struct mx_lookup *q = lookups[i];
        if (q->failure != FAILURE_NONE)
            *failure = q->failure;
        for (size_t k = 0; q->failure == FAILURE_NONE && k < q->count; k++)
            add_smarthost(p, h, q->host[k].addr, q->host[k].addr_count);
    }
    if (p->host_count == 0)
        host_list_unref(&p);
    else
        qsort(p->host, p->host_count, sizeof(p->host[0]), by_preference);
    return p;
}

struct host_list *host_list_ref(struct host_list *p) {
    __atomic_add_fetch(&p->refs, 1, __ATOMIC_RELAXED);
    return p;
}

void host_list_unref(struct host_list **pp) {
    struct host_list *p = *pp;
    *pp = NULL;
    if (p == NULL || __atomic_sub_fetch(&p->refs, 1, __ATOMIC_ACQ_REL) > 0)
        return;
    settings_unref(&p->settings);
    free(p);
}
