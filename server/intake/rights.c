#include "server/intake/rights.h"

#include <stdatomic.h>
#include <stdlib.h>

#include "server/mail/domain.h"

struct entry {
    struct str name;
    struct domain_info info;
};

struct domains {
    atomic_int refs;
    struct arena *arena;
    struct entry *entry; /* sorted by name, then by project */
    size_t count;
};

static int by_name(const void *a, const void *b) {
    const struct entry *x = a, *y = b;
    int c = str_compare(x->name, y->name);
    return c != 0 ? c : (x->info.project > y->info.project) - (x->info.project < y->info.project);
}

struct domains *domains_new(const struct domain_row *row, size_t count) {
    struct domains *d = mem_zalloc(sizeof(*d));
    atomic_init(&d->refs, 1);
    d->arena = arena_new();
    d->entry = ARENA_ARRAY(d->arena, struct entry, count + 1);
    d->count = count;
    for (size_t i = 0; i < count; i++) {
        d->entry[i] = (struct entry){
            .name = arena_dup(d->arena, row[i].name),
            .info = {.project = row[i].project,
                     .created_wall_ms = row[i].created_wall_ms,
                     .is_verified = row[i].verified_wall_ms != 0,
                     .bounce_address = arena_dup(d->arena, row[i].bounce_address)},
        };
    }
    qsort(d->entry, count, sizeof(d->entry[0]), by_name);
    return d;
}

struct domains *domains_ref(struct domains *d) {
    atomic_fetch_add_explicit(&d->refs, 1, memory_order_relaxed);
    return d;
}

void domains_unref(struct domains **dp) {
    struct domains *d = *dp;
    *dp = NULL;
    if (d == NULL || atomic_fetch_sub_explicit(&d->refs, 1, memory_order_acq_rel) != 1)
        return;
    arena_free(&d->arena);
    free(d);
}

const struct domain_info *domains_find(const struct domains *d, int64_t project,
                                       struct str a_label) {
    const struct entry key = {.name = a_label, .info = {.project = project}};
    const struct entry *e = bsearch(&key, d->entry, d->count, sizeof(d->entry[0]), by_name);
    return e != NULL ? &e->info : NULL;
}

size_t domains_count(const struct domains *d, int64_t project) {
    size_t n = 0;
    for (size_t i = 0; i < d->count; i++)
        n += d->entry[i].info.project == project;
    return n;
}

bool rights_rule_covers(struct str rule, struct str domain) {
    if (!str_starts_with(rule, STR("*.")))
        return str_equal(rule, domain);
    /* longer than ".acme.test", and ending in it: a label stands before the dot */
    struct str tail = str_from(rule, 1);
    return domain.n > tail.n && str_ends_with(domain, tail);
}

bool rights_rule_is_within(struct str rule, struct str outer) {
    const struct str wildcard = STR("*.");
    if (!str_starts_with(rule, wildcard))
        return rights_rule_covers(outer, rule);
    return str_equal(rule, outer) || (str_starts_with(outer, wildcard) &&
                                      rights_rule_covers(outer, str_from(rule, wildcard.n)));
}

enum err rights_rule_parse(struct str text, struct arena *a, struct str *out,
                           struct errinfo *info) {
    bool is_below = str_starts_with(text, STR("*."));
    struct str name;
    enum err e = domain_parse(is_below ? str_from(text, 2) : text, false, a, &name, info);
    if (e != OK)
        return e;
    *out = is_below ? arena_printf(a, "*.%.*s", STR_ARG(name)) : name;
    return OK;
}

/* Where those who have the name begin. */
static size_t first_of(const struct domains *d, struct str name) {
    size_t first = 0, end = d->count;
    while (first < end) {
        size_t middle = first + (end - first) / 2;
        if (str_compare(d->entry[middle].name, name) < 0)
            first = middle + 1;
        else
            end = middle;
    }
    return first;
}

/* Proved by another project, or had by it before that time. */
static bool another_has(const struct domains *d, int64_t project, struct str name,
                        int64_t before_wall_ms) {
    for (size_t i = first_of(d, name); i < d->count && str_equal(d->entry[i].name, name); i++) {
        const struct domain_info *other = &d->entry[i].info;
        if (other->project != project &&
            (other->is_verified || other->created_wall_ms < before_wall_ms))
            return true;
    }
    return false;
}

/* Another project's: it has proved the domain, or the nearest proved one above it; or nobody has
 * proved any, and it was the first to have an entry for the domain. An entry alone neither takes
 * from others what is below it (anybody can add "co.test") nor wins against a proved domain above
 * it, whoever's that is. */
static bool is_anothers(const struct domains *d, int64_t project, struct str domain) {
    for (struct str above = domain; !str_is_absent(above); (void)str_split(&above, '.')) {
        const struct domain_info *own = domains_find(d, project, above);
        if (own != NULL && own->is_verified)
            return false;
        if (another_has(d, project, above, INT64_MIN))
            return true;
    }
    const struct domain_info *own = domains_find(d, project, domain);
    return another_has(d, project, domain, own != NULL ? own->created_wall_ms : INT64_MAX);
}

bool rights_cover_domain(const struct rights *r, struct str domain) {
    for (size_t i = 0; i < r->from_domain_count; i++)
        if (rights_rule_covers(r->from_domains[i], domain))
            return true;
    return r->from_domain_count == 0;
}

bool rights_allow_domain(const struct rights *r, const struct domains *d, struct str domain) {
    return !is_anothers(d, r->project, domain) && rights_cover_domain(r, domain);
}

static bool is_bounce_address_of(const struct domains *d, int64_t project, struct str domain,
                                 struct str address) {
    const struct domain_info *info = domains_find(d, project, domain);
    return info != NULL && str_equal(info->bounce_address, address);
}

/* Behind the last @; of nobody: nothing. */
static struct str domain_of(struct str address) {
    size_t at = address.n;
    while (at > 0 && address.p[at - 1] != '@')
        at--;
    return at > 0 ? str_from(address, at) : STR_NONE;
}

bool domains_is_anothers_address(const struct domains *d, int64_t project, struct str address) {
    struct str domain = domain_of(address);
    return !str_is_empty(domain) && is_anothers(d, project, domain);
}

struct str domains_bounce_address(const struct domains *d, int64_t project, struct str a_label) {
    const struct domain_info *own = domains_find(d, project, a_label);
    if (own == NULL || str_is_empty(own->bounce_address) ||
        domains_is_anothers_address(d, project, own->bounce_address))
        return STR_NONE;
    return own->bounce_address;
}

struct str rights_sender_domain(const struct domains *d, int64_t project, struct str from_domain,
                                struct str mail_from) {
    struct str domain = domain_of(mail_from);
    if (str_is_empty(domain) || is_bounce_address_of(d, project, from_domain, mail_from))
        return from_domain;
    const struct entry *found = NULL;
    for (size_t i = 0; i < d->count; i++)
        if (d->entry[i].info.project == project &&
            str_equal(d->entry[i].info.bounce_address, mail_from) &&
            (found == NULL || d->entry[i].info.is_verified))
            found = &d->entry[i];
    if (found != NULL)
        return found->name;
    return domains_find(d, project, domain) != NULL ? domain : from_domain;
}

bool rights_allow_stored(const struct rights *r, const struct domains *d, struct str from_domain,
                         struct str mail_from) {
    if (!rights_allow_domain(r, d, from_domain))
        return false;
    struct str domain = domain_of(mail_from);
    if (r->from_domain_count == 0 || str_equal(domain, from_domain) ||
        rights_allow_domain(r, d, domain) ||
        is_bounce_address_of(d, r->project, from_domain, mail_from))
        return true;
    for (size_t i = 0; i < r->from_domain_count; i++)
        if (is_bounce_address_of(d, r->project, r->from_domains[i], mail_from))
            return true;
    return false;
}

static void check_address(const struct rights *r, const struct domains *d,
                          const struct address *addr, struct str pointer, struct faults *faults) {
    if (str_is_absent(addr->email) || rights_allow_domain(r, d, addr->domain))
        return;
    faults_add(faults, pointer, "domain_not_allowed", "this key may not send from %.*s",
               STR_ARG(addr->domain));
}

bool rights_check(const struct rights *r, const struct domains *d, const struct submission *s,
                  struct faults *faults) {
    size_t before = faults->count;
    check_address(r, d, &s->from, STR("#/from"), faults);
    check_address(r, d, &s->sender, STR("#/sender"), faults);
    return faults->count == before;
}
