/* sockaddr: an IPv4 or IPv6 address with port, by value. Thread: any. */
#pragma once

#include <sys/socket.h>

#include "server/base/str.h"

enum { SOCKADDR_TEXT_SIZE = 64 };

struct sockaddr_any {
    struct sockaddr_storage ss;
    socklen_t len; /* 0: none */
};

/* "192.0.2.1" or "2001:db8::1" (no brackets, no zone). */
NODISCARD enum err sockaddr_parse(struct str ip, uint16_t port, struct sockaddr_any *out);
/* "192.0.2.1" / "2001:db8::1". */
void sockaddr_print_ip(const struct sockaddr_any *a, char out[SOCKADDR_TEXT_SIZE]);
/* "192.0.2.1:25" / "[2001:db8::1]:25". */
void sockaddr_print(const struct sockaddr_any *a, char out[SOCKADDR_TEXT_SIZE]);
/* The 4 or 16 octets of the address, in it; none: it is empty. */
struct str sockaddr_octets(const struct sockaddr_any *a);
uint16_t sockaddr_port(const struct sockaddr_any *a);
void sockaddr_set_port(struct sockaddr_any *a, uint16_t port);
bool sockaddr_is_ipv6(const struct sockaddr_any *a);
bool sockaddr_equal(const struct sockaddr_any *a, const struct sockaddr_any *b); /* with port */
