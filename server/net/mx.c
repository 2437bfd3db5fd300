#include "server/net/mx.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include "server/base/limits.h"

/* MX hosts whose addresses are asked for at once. More are asked only when these gave too few
 * addresses, so a set of thirty names costs no sixty questions. */
enum { BATCH = LIMIT_MX_ADDRESSES };

struct question {
    struct dns_query q;
    struct work *work;
};

struct candidate {
    struct question a, aaaa; /* aaaa: only when IPv6 is wanted */
};

/* One mx_lookup under way. Thread: that of the lookup's mailbox. */
struct work {
    struct dns *dns;
    struct mx_lookup *q;
    struct question mx;
    struct mx_host *host;        /* the whole set, in the arena */
    struct candidate *candidate; /* beside it */
    size_t count, asked;         /* 0..asked-1 were or are asked */
    size_t open;                 /* answers still to come */
    size_t addr_count;
    bool saw_temporary, saw_bogus, saw_shutdown;
    bool saw_private;     /* an address that the guard refuses */
    bool saw_ipv6;        /* an address that may not be used */
    bool is_looking_back; /* for those, as nothing else was found */
    uint64_t seed;
};

static void answer(struct note *n);

static uint64_t next_random(uint64_t *seed) {
    uint64_t z = (*seed += 0x9e3779b97f4a7c15u); /* splitmix64 */
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static void reply(struct work *w, enum failure failure) {
    struct mx_lookup *q = w->q;
    q->failure = failure;
    if (failure != FAILURE_NONE)
        q->count = 0;
    dns_query_release(&w->mx.q);
    for (size_t i = 0; i < w->asked; i++) {
        dns_query_release(&w->candidate[i].a.q);
        dns_query_release(&w->candidate[i].aaaa.q);
    }
    free(w->candidate);
    dns_unref(&w->dns);
    free(w);
    q->note.run(&q->note);
}

static void note_ttl(struct work *w, const struct dns_query *d) {
    if (d->ttl_s < w->q->ttl_s)
        w->q->ttl_s = d->ttl_s;
    if (d->ttl_s > w->q->longest_ttl_s)
        w->q->longest_ttl_s = d->ttl_s;
}

/* ---- the set of hosts --------------------------------------------------------------------------
 */

static int by_preference(const void *a, const void *b) {
    const struct mx_host *x = a, *y = b;
    if (x->preference != y->preference)
        return x->preference < y->preference ? -1 : 1;
    return str_compare(x->name, y->name); /* so that only the seed decides the rest */
}

static int by_name(const void *a, const void *b) {
    return str_compare(*(const struct str *)a, *(const struct str *)b);
}

static struct str site_key(struct work *w) {
    struct arena *a = w->q->arena;
    struct str *names = ARENA_ARRAY(a, struct str, w->count);
    size_t length = 0;
    for (size_t i = 0; i < w->count; i++) {
        names[i] = w->host[i].name;
        length += names[i].n + 1;
    }
    qsort(names, w->count, sizeof *names, by_name);
    char *key = arena_alloc(a, length + 1);
    size_t n = 0;
    for (size_t i = 0; i < w->count; i++) {
        if (i > 0)
            key[n++] = ',';
        memcpy(key + n, names[i].p, names[i].n);
        n += names[i].n;
    }
    return str_make(key, n);
}

/* RFC 5321 5.1: "the sender-SMTP MUST randomize them" */
static void shuffle_equals(struct work *w) {
    for (size_t from = 0, to; from < w->count; from = to) {
        for (to = from; to < w->count && w->host[to].preference == w->host[from].preference;)
            to++;
        for (size_t i = to - from; i > 1; i--) {
            size_t j = (size_t)(next_random(&w->seed) % i);
            struct mx_host t = w->host[from + i - 1];
            w->host[from + i - 1] = w->host[from + j];
            w->host[from + j] = t;
        }
    }
}

/* The same host twice counts once, with its best preference; what is over the limit is never looked
 * at. Before the shuffle, so that the same set always makes the same site. */
static void drop_repeated(struct work *w) {
    size_t kept = 0;
    for (size_t i = 0; i < w->count && kept < LIMIT_MX_HOSTS; i++) {
        bool seen = false;
        for (size_t j = 0; j < kept && !seen; j++)
            seen = str_equal(w->host[j].name, w->host[i].name);
        if (!seen)
            w->host[kept++] = w->host[i];
    }
    w->count = kept;
}

/* C28: we are one of the hosts: only better ones may get it from us. */
static void drop_from_own_name(struct work *w) {
    if (!w->q->own_name)
        return;
    for (size_t i = 0; i < w->count; i++)
        if (str_equal_nocase(w->host[i].name, str_of(w->q->own_name))) {
            uint16_t own = w->host[i].preference;
            w->count = 0;
            while (w->host[w->count].preference < own)
                w->count++;
            return;
        }
}

static void add_host(struct work *w, struct str name, uint16_t preference, bool is_secure) {
    w->host[w->count++] = (struct mx_host){
        .name = arena_dup(w->q->arena, name), .preference = preference, .is_secure = is_secure};
}

/* ---- addresses ---------------------------------------------------------------------------------
 */

static void prepare(struct work *w, struct question *x, enum dns_type type, struct str name) {
    x->work = w;
    x->q = (struct dns_query){
        .note.run = answer, .reply_to = w->q->reply_to, .type = type, .use_search = w->q->is_host};
    snprintf(x->q.name, sizeof x->q.name, "%.*s", STR_ARG(name));
    w->open++;
}

/* All questions are counted before the first is asked; after the last one `w` may be gone, as its
 * answer is another thread's. */
static void ask_batch(struct work *w) {
    struct dns *dns = w->dns;
    struct candidate *candidate = w->candidate;
    bool want_ipv6 = w->q->want_ipv6;
    size_t from = w->asked, to = from + BATCH < w->count ? from + BATCH : w->count;
    w->asked = to;
    for (size_t i = from; i < to; i++) {
        prepare(w, &candidate[i].a, DNS_A, w->host[i].name);
        if (want_ipv6)
            prepare(w, &candidate[i].aaaa, DNS_AAAA, w->host[i].name);
    }
    for (size_t i = from; i < to; i++) {
        if (want_ipv6)
            dns_ask(dns, &candidate[i].aaaa.q);
        dns_ask(dns, &candidate[i].a.q);
    }
}

/* Nothing listens for us there, whatever a zone or an address literal says: "any address" is this
 * machine to the kernel, and a mapped address is an IPv4 one that got past the looks at those. */
static bool is_unusable(const struct sockaddr_any *a) {
    if (sockaddr_is_ipv6(a)) {
        const struct in6_addr *ip = &((const struct sockaddr_in6 *)(const void *)&a->ss)->sin6_addr;
        return IN6_IS_ADDR_UNSPECIFIED(ip) || IN6_IS_ADDR_MULTICAST(ip) || IN6_IS_ADDR_V4MAPPED(ip);
    }
    uint32_t ip = ntohl(((const struct sockaddr_in *)(const void *)&a->ss)->sin_addr.s_addr);
    return ip >> 24 == 0 || ip >> 28 >= 14; /* this network; multicast, reserved, broadcast */
}

/* Of a datagram socket connecting sends nothing, it only looks for a route. Without one the first
 * address of every message would fail, and take the place of one that might not. */
static bool kernel_has_route(const struct sockaddr_any *a) {
    int fd = socket(a->ss.ss_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    bool has = fd >= 0 ? connect(fd, (const struct sockaddr *)&a->ss, a->len) == 0 ||
                             (errno != ENETUNREACH && errno != EADDRNOTAVAIL)
                       : errno != EAFNOSUPPORT;
    if (fd >= 0)
        close(fd);
    return has;
}

static bool is_reachable(struct work *w, const struct sockaddr_any *a) {
    if (!sockaddr_is_ipv6(a))
        return true;
    struct sockaddr_any to = *a;
    sockaddr_set_port(&to, w->q->port);
    bool is = (w->q->has_route ? w->q->has_route : kernel_has_route)(&to);
    w->saw_ipv6 |= !is;
    return is;
}

static bool is_allowed(struct work *w, const struct sockaddr_any *a) {
    bool is = w->q->guard == NULL || guard_allows_mail(w->q->guard, a);
    w->saw_private |= !is;
    return is;
}

static size_t usable(struct work *w, struct dns_query *d, struct sockaddr_any *out, size_t most) {
    size_t n = 0;
    for (size_t i = d->count; i > 1; i--) {
        size_t j = (size_t)(next_random(&w->seed) % i);
        struct sockaddr_any t = d->addr[i - 1];
        d->addr[i - 1] = d->addr[j];
        d->addr[j] = t;
    }
    for (size_t i = 0; i < d->count && n < most; i++)
        if (!is_unusable(&d->addr[i]) && is_allowed(w, &d->addr[i]) && is_reachable(w, &d->addr[i]))
            out[n++] = d->addr[i];
    return n;
}

static void see(struct work *w, const struct dns_query *d) {
    w->saw_temporary |= d->failure == FAILURE_DNS_TEMPORARY;
    w->saw_bogus |= d->failure == FAILURE_DNS_BOGUS;
    w->saw_shutdown |= d->failure == FAILURE_SHUTDOWN;
    if (d->failure == FAILURE_NONE)
        note_ttl(w, d);
}

/* IPv6 and IPv4 in turn, IPv6 first: a family that does not work costs one attempt, not all. */
static void take_addresses(struct work *w, size_t at) {
    struct sockaddr_any v4[LIMIT_MX_ADDRESSES], v6[LIMIT_MX_ADDRESSES] = {0};
    struct mx_host *h = &w->host[at];
    struct dns_query *a = &w->candidate[at].a.q, *aaaa = &w->candidate[at].aaaa.q;
    if (w->q->want_ipv6)
        dns_keep_first_name(a, aaaa);
    see(w, a);
    size_t n4 = usable(w, a, v4, LIMIT_MX_ADDRESSES), n6 = 0;
    if (w->q->want_ipv6) {
        see(w, aaaa);
        n6 = usable(w, aaaa, v6, LIMIT_MX_ADDRESSES);
    }
    if (w->q->is_host)
        h->is_secure = (n4 == 0 || a->is_secure) && (n6 == 0 || aaaa->is_secure);
    h->addr = ARENA_ARRAY(w->q->arena, struct sockaddr_any, LIMIT_MX_ADDRESSES);
    for (size_t i4 = 0, i6 = 0; h->addr_count < LIMIT_MX_ADDRESSES && (i4 < n4 || i6 < n6);) {
        bool take_v6 = i6 < n6 && (i6 <= i4 || i4 >= n4);
        struct sockaddr_any *to = &h->addr[h->addr_count++];
        *to = take_v6 ? v6[i6++] : v4[i4++];
        sockaddr_set_port(to, w->q->port);
    }
    w->addr_count += h->addr_count;
    /* others may keep silent for long; how these ended is still read */
    dns_query_release(a);
    dns_query_release(aaaa);
}

/* What to say when no host has an address: the failure that may pass is the one to report. */
static enum failure no_address(const struct work *w) {
    if (w->saw_shutdown)
        return FAILURE_SHUTDOWN;
    if (w->saw_temporary)
        return FAILURE_DNS_TEMPORARY;
    if (w->saw_bogus)
        return FAILURE_DNS_BOGUS;
    if (w->saw_ipv6)
        return FAILURE_NO_IPV6;
    if (w->saw_private)
        return FAILURE_DNS_PRIVATE;
    if (w->q->is_host && w->candidate[0].a.q.failure == FAILURE_DNS_NXDOMAIN)
        return FAILURE_DNS_NXDOMAIN;
    return FAILURE_DNS_NO_ADDRESS;
}

/* Nobody has an IPv4 address. Before the domain is called one without a mail server, is there one
 * that we only may not talk to? */
static bool look_back(struct work *w) {
    if (w->q->want_ipv6 || w->is_looking_back || no_address(w) == FAILURE_SHUTDOWN)
        return false;
    w->is_looking_back = true;
    struct dns *dns = w->dns;
    struct candidate *candidate = w->candidate;
    size_t count = w->asked < BATCH ? w->asked : BATCH;
    for (size_t i = 0; i < count; i++)
        prepare(w, &candidate[i].aaaa, DNS_AAAA, w->host[i].name);
    for (size_t i = 0; i < count; i++)
        dns_ask(dns, &candidate[i].aaaa.q);
    return true;
}

static void looked_back(struct work *w) {
    for (size_t i = 0; i < w->asked && i < BATCH; i++) {
        see(w, &w->candidate[i].aaaa.q);
        w->saw_ipv6 |= w->candidate[i].aaaa.q.count > 0;
    }
    reply(w, no_address(w));
}

static void batch_answered(struct work *w) {
    struct mx_lookup *q = w->q;
    size_t from = w->asked > 0 ? (w->asked - 1) / BATCH * BATCH : 0;
    for (size_t i = from; i < w->asked; i++)
        take_addresses(w, i);
    if (!w->saw_shutdown && w->addr_count < LIMIT_MX_ADDRESSES && w->asked < w->count) {
        ask_batch(w);
        return;
    }
    for (size_t i = 0; i < w->asked; i++)
        if (w->host[i].addr_count > 0)
            q->host[q->count++] = w->host[i];
    if (q->count > 0)
        reply(w, FAILURE_NONE);
    else if (!look_back(w))
        reply(w, no_address(w));
}

static void answer(struct note *n) {
    struct question *x = CONTAINER_OF(CONTAINER_OF(n, struct dns_query, note), struct question, q);
    struct work *w = x->work;
    if (--w->open > 0)
        return;
    if (w->is_looking_back)
        looked_back(w);
    else
        batch_answered(w);
}

/* ---- the MX answer -----------------------------------------------------------------------------
 */

static void ask_hosts(struct work *w) {
    dns_query_release(&w->mx.q); /* the names were copied */
    w->q->site = site_key(w);
    w->q->host = ARENA_ARRAY(w->q->arena, struct mx_host, w->count);
    w->candidate = mem_zalloc(w->count * sizeof *w->candidate);
    ask_batch(w);
}

static void take_mx(struct work *w) {
    const struct dns_query *mx = &w->mx.q;
    size_t nulls = 0;
    w->host = ARENA_ARRAY(w->q->arena, struct mx_host, mx->count + 1);
    for (size_t i = 0; i < mx->count; i++) {
        if (mx->mx[i].host.n == 0)
            nulls++;
        else
            add_host(w, mx->mx[i].host, mx->mx[i].preference, mx->is_secure);
    }
    if (w->count == 0) {
        /* C31; or every name was malformed, which is no reason for the implicit MX (C26). A null MX
         * among others is against RFC 7505 3, and the others are what somebody meant. */
        reply(w, nulls > 0 ? FAILURE_DNS_NULL_MX : FAILURE_DNS_NO_ADDRESS);
        return;
    }
    qsort(w->host, w->count, sizeof *w->host, by_preference);
    drop_from_own_name(w);
    drop_repeated(w);
    if (w->count == 0) {
        reply(w, FAILURE_DNS_LOOP);
        return;
    }
    shuffle_equals(w);
    ask_hosts(w);
}

static void take_domain(struct work *w, bool is_secure) {
    char name[256];
    size_t n = strlen(w->q->domain);
    for (size_t i = 0; i < n; i++)
        name[i] = ascii_lower(w->q->domain[i]);
    w->host = ARENA_ARRAY(w->q->arena, struct mx_host, 1);
    add_host(w, str_make(name, n), 0, is_secure);
    ask_hosts(w);
}

static void mx_answered(struct note *n) {
    struct question *x = CONTAINER_OF(CONTAINER_OF(n, struct dns_query, note), struct question, q);
    struct work *w = x->work;
    struct mx_lookup *q = w->q;
    w->open--;
    switch (x->q.failure) {
    case FAILURE_NONE:
        note_ttl(w, &x->q);
        take_mx(w);
        return;
    case FAILURE_DNS_NO_ADDRESS: /* the name exists: the implicit MX */
        q->is_implicit = true;
        if (q->own_name && str_equal_nocase(str_of(q->domain), str_of(q->own_name)))
            reply(w, FAILURE_DNS_LOOP);
        else
            take_domain(w, x->q.is_secure);
        return;
    default:
        reply(w, x->q.failure);
    }
}

/* ---- the beginning -----------------------------------------------------------------------------
 */

/* "[192.0.2.1]", "[IPv6:2001:db8::1]" (RFC 5321 4.1.3); of a smarthost also without brackets. */
static bool parse_literal(const struct mx_lookup *q, struct sockaddr_any *out) {
    struct str s = str_of(q->domain);
    bool has_brackets = s.n >= 2 && s.p[0] == '[' && s.p[s.n - 1] == ']';
    if (!has_brackets && !q->is_host)
        return false;
    if (has_brackets)
        s = str_slice(s, 1, s.n - 1);
    bool is_ipv6 = has_brackets && str_starts_with_nocase(s, STR("IPv6:"));
    if (is_ipv6)
        s = str_from(s, 5);
    if (sockaddr_parse(s, q->port, out) != OK)
        return false;
    return !has_brackets || q->is_host || is_ipv6 == sockaddr_is_ipv6(out);
}

static void take_literal(struct mx_lookup *q, const struct sockaddr_any *a) {
    char ip[SOCKADDR_TEXT_SIZE];
    sockaddr_print_ip(a, ip);
    q->host = ARENA_NEW(q->arena, struct mx_host);
    q->host->name = arena_dup(q->arena, str_of(ip));
    q->host->addr = ARENA_NEW(q->arena, struct sockaddr_any);
    q->host->addr[0] = *a;
    q->host->addr_count = 1;
    q->host->is_secure = true; /* nothing was asked that could lie */
    q->ttl_s = 86400;
    q->count = 1;
    q->site = arena_printf(q->arena, "[%s]", ip);
}

/* Of a recipient's domain; a smarthost's is the operator's word. */
static enum failure judge_literal(const struct mx_lookup *q, const struct sockaddr_any *a) {
    if (is_unusable(a))
        return FAILURE_DNS_NO_ADDRESS;
    if (q->guard != NULL && !guard_allows_mail(q->guard, a))
        return FAILURE_DNS_PRIVATE;
    return sockaddr_is_ipv6(a) && !q->want_ipv6 ? FAILURE_NO_IPV6 : FAILURE_NONE;
}

void mx_resolve(struct dns *d, struct mx_lookup *q) {
    struct sockaddr_any literal;
    q->failure = FAILURE_NONE;
    q->is_implicit = false;
    q->host = NULL;
    q->count = 0;
    q->site = STR("");
    q->ttl_s = UINT32_MAX;
    q->longest_ttl_s = 0;
    q->arena = arena_new();
    bool is_literal = parse_literal(q, &literal);
    if (is_literal) {
        if (!q->is_host)
            q->failure = judge_literal(q, &literal);
        if (q->failure == FAILURE_NONE)
            take_literal(q, &literal);
        mailbox_send(q->reply_to, &q->note);
        return;
    }
    if (q->domain[0] == '[') {
        q->failure = FAILURE_DNS_NXDOMAIN; /* a literal of no kind that there is */
        mailbox_send(q->reply_to, &q->note);
        return;
    }
    struct work *w = mem_zalloc(sizeof *w);
    w->dns = dns_ref(d);
    w->q = q;
    w->seed = q->shuffle_seed;
    if (q->is_host) {
        take_domain(w, false);
        return;
    }
    prepare(w, &w->mx, DNS_MX, str_of(q->domain));
    w->mx.q.note.run = mx_answered;
    dns_ask(d, &w->mx.q);
}

void mx_lookup_release(struct mx_lookup *q) {
    arena_free(&q->arena);
    q->host = NULL;
    q->count = 0;
    q->site = STR_NONE;
}
