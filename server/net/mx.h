/* mx: where mail for a domain goes (RFC 5321 5.1, 7505): an ordered list of hosts with addresses.
 *
 * Preference order, equals shuffled, implicit MX when there is none, null MX, own name and worse
 * preferences dropped (C25-C29). An address literal domain gives its address. A smarthost's name
 * goes the same way without an MX question, and with the search list of system mode.
 *
 *     *m = (struct mx_lookup){.note.run = resolved, .reply_to = box, .port = 25, ...};
 *     mx_resolve(dns, m);       // then resolved(&m->note) on the thread of `box`
 *     ... m->host[0].addr[0] ...
 *     mx_lookup_release(m);
 *
 * Thread: mx_resolve from any; the work in between and the note are done on the thread of the
 * mailbox given.
 */
#pragma once

#include "server/net/dns.h"
#include "server/net/guard.h"

struct mx_host {
    struct str name; /* for TLS and logs; lower case; of a literal its address without brackets */
    uint16_t preference;
    bool is_secure;            /* the way from domain to name was validated; of a smarthost: its
                                  addresses were */
    struct sockaddr_any *addr; /* with port; 1 to LIMIT_MX_ADDRESSES, in the order to try */
    size_t addr_count;
};

struct mx_lookup {
    struct note note;
    struct mailbox *reply_to;
    char domain[256]; /* in: A-label or literal */
    bool is_host;     /* in: a smarthost's name (or plain address): no MX question */
    uint16_t port;    /* in */
    bool want_ipv6;   /* in */
    /* in: whether the machine can send there at all, asked of IPv6 addresses; NULL: the kernel */
    bool (*has_route)(const struct sockaddr_any *a);
    const char *own_name; /* in: our EHLO name, for the loop check; may be NULL. Lives until the
                             answer. */
    const struct guard *guard; /* in: to whom mail may be brought on a domain's word; NULL: anybody.
                                  Lives until the answer. */
    uint64_t shuffle_seed;     /* in */
    /* out, until mx_lookup_release() */
    enum failure failure; /* NONE, DNS_*, SHUTDOWN; NO_IPV6: the only addresses are not usable;
                             DNS_PRIVATE: `guard` allows none of them */
    bool is_implicit;     /* no MX: the name's own addresses */
    struct mx_host *host; /* those with addresses, in the order to try; enough of them for
                             LIMIT_MX_ADDRESSES addresses in all */
    size_t count;
    struct str site; /* names of all hosts of the set, sorted, joined by ',': the key of the site.
                        Does not depend on which of them had an address today. */
    uint32_t ttl_s;  /* of the shortest-lived answer */
    uint32_t longest_ttl_s; /* of the longest-lived one with a record; 0: none had any */
    struct arena *arena;
};

void mx_resolve(struct dns *d, struct mx_lookup *q);
void mx_lookup_release(struct mx_lookup *q);
