/* tlspolicy: which TLS a session to one host gets, and which hosts are known to break it.
 *
 * A host is a name at an address: its name is what the handshake asks for, and one that the address
 * does not know may be why it fails.
 *
 * The route says a level, the message may tighten it. A host whose handshake failed under the
 * opportunistic level is used in clear for three days; one that only stopped answering in it, as
 * any connection may, for a quarter of an hour. That memory is bounded, shared by all loops, and
 * ends with the process: a restart asks the host once more.
 */
#pragma once

#include "server/smtp/session.h"
#include "storage/model.h"

struct tlspolicy; /* Thread: any (locks inside) */
struct tlspolicy *tlspolicy_new(void);
void tlspolicy_free(struct tlspolicy **tp);

/* Pure: the level of the route and what the message asks for; never less than either. */
enum session_tls tlspolicy_level(enum session_tls route, enum tls_level message);
/* The level for a session now: opportunistic becomes none where TLS is known to be broken. `host`
 * is the session's host_name. */
enum session_tls tlspolicy_now(struct tlspolicy *t, enum session_tls level,
                               const struct sockaddr_any *to, const char *host,
                               int64_t now_boot_ms);
/* `why` the handshake failed. */
void tlspolicy_broken(struct tlspolicy *t, const struct sockaddr_any *to, const char *host,
                      enum failure why, int64_t now_boot_ms);
