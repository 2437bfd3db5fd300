/* mx: where mail for a domain goes (RFC 5321 5.1, 7505): an ordered list of hosts with addresses.
 *
 * Preference order, equals shuffled, implicit MX when there is none, null MX, own name and worse
 * preferences dropped (C25-C29). An address literal domain gives its address. A smarthost's name
 * goes the same way without an MX question. Thread: mx_resolve from any; the note comes back to the
 * mailbox given.
 */
#pragma once

#include "server/net/dns.h"

struct mx_host {
    struct str name; /* for TLS and logs; lower case */
    uint16_t preference;
    bool is_secure;            /* the way from domain to name was validated */
    struct sockaddr_any *addr; /* with port; up to LIMIT_MX_ADDRESSES */
    size_t addr_count;
};

struct mx_lookup {
    struct note note;
    struct mailbox *reply_to;
    char domain[256];      /* in: A-label or literal */
    bool is_host;          /* in: a smarthost's name: no MX question */
    uint16_t port;         /* in */
    bool want_ipv6;        /* in */
    const char *own_name;  /* in: our EHLO name, for the loop check; may be NULL */
    uint64_t shuffle_seed; /* in */
    /* out, until mx_lookup_release() */
    enum failure failure;
    bool is_implicit; /* no MX: the name's own addresses */
    struct mx_host *host;
    size_t count;
    struct str site; /* sorted host names joined by ',': the key of the site */
    uint32_t ttl_s;
    struct arena *arena;
};

void mx_resolve(struct dns *d, struct mx_lookup *q);
void mx_lookup_release(struct mx_lookup *q);
