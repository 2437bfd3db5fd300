/* dns_rdata: the data of one DNS record, in wire form (RFC 1035 3.3), as what the callers of dns
 * use. Pure: no resolver, no socket. Names come uncompressed, as libunbound gives them; what is
 * malformed is `false` and leaves nothing that may be used.
 *
 *     struct str host;
 *     uint16_t preference;
 *     if (dns_rdata_mx(rdata, arena, &preference, &host)) ...   // host.n == 0: the null MX
 *
 * Results live in the arena given. Thread: any.
 */
#pragma once

#include "server/base/arena.h"
#include "server/net/sockaddr.h"

/* CNAME, PTR: a name as text, lower case, without final dot; the root is "". Only letters, digits,
 * '-' and '_': what else stands in a label is no host (RFC 5321 2.3.5). What follows the root label
 * is not looked at. */
NODISCARD bool dns_rdata_name(struct str rdata, struct arena *a, struct str *out);
/* RFC 1035 3.3.9. */
NODISCARD bool dns_rdata_mx(struct str rdata, struct arena *a, uint16_t *preference,
                            struct str *host);
/* TXT: its strings, concatenated with nothing between them (RFC 6376 3.6.2.2); any bytes. */
NODISCARD bool dns_rdata_text(struct str rdata, struct arena *a, struct str *out);
/* A or AAAA by the length that it must have, 4 or 16 bytes; port 0. */
NODISCARD bool dns_rdata_ipv4(struct str rdata, struct sockaddr_any *out);
NODISCARD bool dns_rdata_ipv6(struct str rdata, struct sockaddr_any *out);
