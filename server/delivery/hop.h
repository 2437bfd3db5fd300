/* hop: the next hop of a recipient: (route, domain) for MX hosts, the route alone for smarthosts;
 * and its resolution, kept as long as the DNS says, within bounds.
 *
 * Names are looked up before recipients are claimed, so that a slow resolver holds no claim; each
 * hop is looked up once however many wait for it.
 *
 *     struct hop *h = hops_get(t, settings, route, domain);
 *     if (hop_is_usable(h, now_boot_ms)) ... h->hosts or h->failure
 *     if (!hop_is_fresh(h, now_boot_ms))
 *         hop_resolve(t, h, now_boot_ms);       // on_resolved(h) follows, maybe before it returns
 *
 * Answers grow old while the machine sleeps, too: by clock_boot_ms().
 *
 * Thread: the scheduler's.
 */
#pragma once

#include <sys/queue.h>

#include "server/base/table.h"
#include "server/delivery/host_list.h"

/* The answer that a domain is not there is used for so long. Who asks later than this after
 * somebody was told so hears it anew: no cache of ours keeps it for longer (dns_context.c). What
 * names hosts, or an address that nobody can use, is kept for hop.kept_ms. */
enum { HOP_NO_DOMAIN_MS = 7000 };

struct bundle;
struct site;
TAILQ_HEAD(bundles, bundle);

struct hop {
    char *key;
    struct settings *settings; /* a reference */
    const struct settings_route *route;
    char *domain; /* "": smarthosts */
    /* resolved: hosts, or why not */
    struct host_list *hosts;
    enum failure failure;
    int64_t asked_wall_ms; /* when what is known was asked for, or is */
    int64_t kept_ms; /* of `failure`: so long from then on caches may repeat the records that led to
                        it; 0: there were none */
    char *site_name; /* of its site, with the tag: the same one when sessions with the hosts of the
                        one can stand for those of the other */
    uint64_t site_tag;           /* says something about credentials: not to be shown */
    struct site *site;           /* the scheduler's; it takes and releases it */
    int64_t until_boot_ms;       /* it is looked up again after that */
    int64_t hosts_until_boot_ms; /* what the hosts are good for when name servers are silent */
    int failed; /* lookups in a row that found out nothing: they are repeated soon, then later */
    bool is_resolving;
    size_t users;           /* bundles that point here */
    struct bundles waiting; /* for the resolution */
    size_t lookups_left;
    struct hop_lookup *lookup;
    struct table_node in_table;
};

struct hops;
struct hops *hops_new(struct mailbox *box, void (*on_resolved)(void *ctx, struct hop *h),
                      void *ctx);
/* No lookup may be under way: hops_lookups(). `drop` is called for each hop before it goes. */
void hops_free(struct hops **tp);
void hops_set_drop(struct hops *t, void (*drop)(void *ctx, struct hop *h));
/* Finds or makes. Hops of other settings are not found: a reload begins afresh. */
struct hop *hops_get(struct hops *t, struct settings *s, const struct settings_route *r,
                     struct str domain);
bool hop_is_fresh(const struct hop *h, int64_t now_boot_ms);
/* Fresh, or an old answer, no older than a day (RFC 8767 5), that serves until the name servers,
 * which were silent, are back. */
bool hop_is_usable(const struct hop *h, int64_t now_boot_ms);
void hop_resolve(struct hops *t, struct hop *h, int64_t now_boot_ms);
/* Frees hops that nobody uses and whose answer is old, or that are of other settings; and beyond
 * LIMIT_HOPS of all those that nobody uses, who was asked for longest ago first. */
void hops_sweep(struct hops *t, const struct settings *current, int64_t now_boot_ms);
/* So many came since the last sweep that another one is worth its while. */
bool hops_are_many(const struct hops *t);
size_t hops_lookups(const struct hops *t);
size_t hops_count(const struct hops *t);
