/* candidate: which addresses a job tries, in which order, and with which session.
 *
 * Hosts by preference, equals in a random order by weight; at most LIMIT_MX_ADDRESSES addresses, of
 * one host at most two while there are others; those that did not answer a while ago last; and
 * while there are others, none of those that refused our login a while ago: they count. Among
 * the best MX hosts one to which a session is open comes first; a smarthost's weight is the user's
 * word and stands above that.
 *
 * Thread: the loop's.
 */
#pragma once

#include "server/base/limits.h"
#include "server/delivery/pool.h"
#include "server/delivery/worker.h"

struct candidate {
    const struct host_entry *host; /* of the job's list, as is `addr` */
    const struct sockaddr_any *addr;
    bool is_left; /* the task's: it was tried in vain, and not since it refuses our login */
    enum verdict_class
        said; /* the task's: what is final when every host says it; NONE: it did not */
};

/* At least one. */
size_t candidates_order(struct worker *w, const struct job *j,
                        struct candidate out[LIMIT_MX_ADDRESSES]);
/* The session that the job needs there, and its key in the pool. Strings are the settings'. */
void candidate_session(struct worker *w, const struct job *j, const struct candidate *c,
                       struct session_options *o, struct conn_key *k);
/* What the route asks for there; a message may ask for more (tlspolicy_level()). */
enum session_tls candidate_tls_of_route(const struct job *j, const struct candidate *c);
/* Both families of a host are connected to at once, the first with a head start (RFC 8305 5), so
 * that one which does not work costs no more than that. Adds the rival to *o, which is `first`'s;
 * false: they are not two families of one host, or more than the address is different. */
bool candidate_race(struct worker *w, const struct job *j, const struct candidate *first,
                    const struct candidate *rival, struct session_options *o);
