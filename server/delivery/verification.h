/* verification: keeps an eye on the DNS records of sending domains: a new one is looked at at once,
 * an unverified one every minute for an hour and then every 10 minutes, a verified one every hour;
 * one whose keys were replaced at once, and then every minute until DNS has one of them. What is
 * found is stored with the domain: MX routes ask for a verified domain, and are signed only with
 * keys that were found published. What cannot be stored is looked at again a minute later. A
 * resolver that does not answer changes nothing: a key whose record is not answered for stays as it
 * was, and a verified domain is looked at again a minute later. That a verified domain, or a
 * published key of it, has no record any more is believed when a second look, a minute later, says
 * so as well; of new keys, when an hour of such looks found none. (What is asked for by
 * verification_look() is stored as it is found.)
 *
 *     struct verification *v = verification_start(&options);   ...   verification_quit(v);
 * dns_stop(&dns); verification_stop(&v);
 *
 * Thread: start and stop on main, looks from any; a thread of its own inside.
 */
#pragma once

#include "server/intake/domain_check.h"
#include "server/net/dns.h"
#include "storage/store.h"

struct verification;

struct verification_options {
    struct store *store;
    struct dns *dns;
    const char *hostname;                    /* ours, for the SPF advice; may be "" */
    int64_t first_ms, later_ms, verified_ms; /* periods; 0: 1 min, 10 min, 1 h */
};
struct verification *verification_start(const struct verification_options *o);
/* From its return on no question is asked. Then dns_stop() answers those under way, and
 * verification_stop() need not wait for a resolver. */
void verification_quit(struct verification *v);
/* Looks at once, whatever is known; see struct domain_look. What is asked after
 * verification_quit() is answered ERR_UNAVAILABLE. Thread: any. */
void verification_look(struct verification *v, struct domain_look *look);
void verification_stop(struct verification **vp); /* before the store is closed */
