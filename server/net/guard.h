/* guard: which addresses we may connect to on somebody else's word (webhook URLs, MX hosts): threat
 * T19.
 *
 * Denied unless the operator lists them: loopback, RFC 1918, link-local, CGNAT, ULA, multicast,
 * 0/8, 192.0.0/24, documentation, benchmarking, reserved. IPv4-mapped, NAT64, 6to4 and Teredo are
 * what the IPv4 address inside is. Of IPv6 only global unicast (2000::/3) is allowed at all. Pure.
 *
 *     guard_check_url(g, text, arena, &url, &info);      // when the URL is stored, and before use
 *     ... resolve url.host ...
 *     guard_allows(g, &address);                         // each address, again at the socket
 *
 * Thread: any.
 */
#pragma once

#include "server/base/arena.h"
#include "server/net/sockaddr.h"

struct guard; /* Thread: immutable */

struct guard_options {
    const struct str *allow_networks; /* CIDR texts, "127.0.0.0/8"; an address alone is itself */
    size_t allow_network_count;
    const struct str
        *allow_http_hosts; /* hosts (names or literals) for which plain http is allowed */
    size_t allow_http_host_count;
    const uint16_t *ports; /* allowed ports, for all; NULL: 443 and 8443, and any port for
                              allow_http_hosts and for literals in allow_networks */
    size_t port_count;
};
/* ERR_INVALID names the entry that is wrong (also a network with bits behind its prefix). */
NODISCARD enum err guard_new(const struct guard_options *o, struct guard **out,
                             struct errinfo *info);
void guard_free(struct guard **gp);
/* May this very address be connected to? The port is not looked at. */
bool guard_allows(const struct guard *g, const struct sockaddr_any *a);
/* May mail be brought there? Everywhere but to this machine and to private networks (loopback,
 * link-local, RFC 1918, CGNAT, ULA, multicast, 0/8, reserved), unless they are listed. What nobody
 * uses (documentation, benchmarking) is left to the network. */
bool guard_allows_mail(const struct guard *g, const struct sockaddr_any *a);

struct url {
    bool is_https;
    struct str host; /* lower case A-label, or a literal without brackets */
    bool is_literal;
    uint16_t port;
    struct str path_query; /* begins with '/' */
};
/* Parses and checks an endpoint's URL: scheme, no userinfo, no fragment, form of the host (no
 * octal, hex or short IPv4, no zone, no trailing dot), port, names of metadata services, and of a
 * literal the address. Nothing is repaired. Strings live in `a` or in `text`. ERR_INVALID with the
 * reason. */
NODISCARD enum err guard_check_url(const struct guard *g, struct str text, struct arena *a,
                                   struct url *out, struct errinfo *info);
