/* host_list: the hosts and addresses of one next hop, as they were resolved at one time. What jobs
 * carry to the loops.
 *
 * Thread: immutable; host_list_ref/unref are atomic.
 */
#pragma once

#include "server/delivery/settings.h"
#include "server/net/mx.h"

struct host_entry {
    const char *name;
    uint16_t preference;                   /* lower first; equals are tried in any order */
    unsigned weight;                       /* share among equals */
    const struct settings_host *smarthost; /* NULL: an MX host */
    const struct sockaddr_any *addr;       /* with port */
    size_t addr_count;
};

struct host_list {
    struct settings *settings; /* a reference */
    const struct settings_route *route;
    struct host_entry *host; /* by preference */
    size_t host_count;
    /* private; what the above points to follows in the same block */
    struct sockaddr_any *free_addr;
    char *free_name;
    int refs;
};

/* Of an answered lookup with failure NONE. */
struct host_list *host_list_new_mx(struct settings *s, const struct settings_route *r,
                                   const struct mx_lookup *q);
/* Of a smarthost route; lookups[i] belongs to host i and may be NULL when its address is literal.
 * Hosts that have no address, or none that credentials may be sent to, are left out; *failure says
 * why when none is left (and NULL comes back). */
struct host_list *host_list_new_smarthosts(struct settings *s, const struct settings_route *r,
                                           struct mx_lookup *const *lookups, enum failure *failure);
struct host_list *host_list_ref(struct host_list *p);
void host_list_unref(struct host_list **pp);
