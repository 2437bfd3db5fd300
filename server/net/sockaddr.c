#include "server/net/sockaddr.h"

#include <arpa/inet.h>
#include <netinet/in.h>

enum err sockaddr_parse(struct str ip, uint16_t port, struct sockaddr_any *out) {
    char text[INET6_ADDRSTRLEN];
    *out = (struct sockaddr_any){0};
    if (ip.n == 0 || ip.n >= sizeof text || memchr(ip.p, 0, ip.n))
        return ERR_INVALID;
    memcpy(text, ip.p, ip.n);
    text[ip.n] = 0;
    struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_port = htons(port)};
    struct sockaddr_in6 v6 = {.sin6_family = AF_INET6, .sin6_port = htons(port)};
    if (inet_pton(AF_INET, text, &v4.sin_addr) == 1) {
        memcpy(&out->ss, &v4, sizeof v4);
        out->len = sizeof v4;
        return OK;
    }
    if (inet_pton(AF_INET6, text, &v6.sin6_addr) == 1) {
        memcpy(&out->ss, &v6, sizeof v6);
        out->len = sizeof v6;
        return OK;
    }
    return ERR_INVALID;
}

static const struct sockaddr_in *as_v4(const struct sockaddr_any *a) {
    return (const struct sockaddr_in *)(const void *)&a->ss;
}

static const struct sockaddr_in6 *as_v6(const struct sockaddr_any *a) {
    return (const struct sockaddr_in6 *)(const void *)&a->ss;
}

bool sockaddr_is_ipv6(const struct sockaddr_any *a) {
    return a->len != 0 && a->ss.ss_family == AF_INET6;
}

static bool is_ipv4(const struct sockaddr_any *a) {
    return a->len != 0 && a->ss.ss_family == AF_INET;
}

/* inet_ntop() and snprintf() cost a microsecond together, for each message several times. */
static char *put_number(char *p, unsigned v) {
    char digits[8];
    size_t n = 0;
    do {
        digits[n++] = (char)('0' + v % 10);
    } while ((v /= 10) > 0);
    while (n > 0)
        *p++ = digits[--n];
    *p = 0;
    return p;
}

static char *put_ipv4(char *p, const struct sockaddr_any *a) {
    uint32_t v = ntohl(as_v4(a)->sin_addr.s_addr);
    for (unsigned shift = 32; shift > 0;) {
        shift -= 8;
        p = put_number(p, v >> shift & 0xFF);
        if (shift > 0)
            *p++ = '.';
    }
    return p;
}

void sockaddr_print_ip(const struct sockaddr_any *a, char out[SOCKADDR_TEXT_SIZE]) {
    out[0] = 0;
    if (is_ipv4(a))
        put_ipv4(out, a);
    else if (sockaddr_is_ipv6(a))
        inet_ntop(AF_INET6, &as_v6(a)->sin6_addr, out, SOCKADDR_TEXT_SIZE);
}

void sockaddr_print(const struct sockaddr_any *a, char out[SOCKADDR_TEXT_SIZE]) {
    out[0] = 0;
    if (is_ipv4(a)) {
        char *p = put_ipv4(out, a);
        *p++ = ':';
        put_number(p, sockaddr_port(a));
    } else if (sockaddr_is_ipv6(a)) {
        char ip[SOCKADDR_TEXT_SIZE];
        sockaddr_print_ip(a, ip);
        /* INET6_ADDRSTRLEN (46) + "[]:65535" fits; the precision lets the compiler see it too */
        snprintf(out, SOCKADDR_TEXT_SIZE, "[%.46s]:%u", ip, (unsigned)sockaddr_port(a));
    }
}

struct str sockaddr_octets(const struct sockaddr_any *a) {
    if (is_ipv4(a))
        return str_make((const char *)&as_v4(a)->sin_addr, sizeof(struct in_addr));
    if (sockaddr_is_ipv6(a))
        return str_make((const char *)&as_v6(a)->sin6_addr, sizeof(struct in6_addr));
    return STR("");
}

uint16_t sockaddr_port(const struct sockaddr_any *a) {
    if (is_ipv4(a))
        return ntohs(as_v4(a)->sin_port);
    if (sockaddr_is_ipv6(a))
        return ntohs(as_v6(a)->sin6_port);
    return 0;
}

void sockaddr_set_port(struct sockaddr_any *a, uint16_t port) {
    if (is_ipv4(a))
        ((struct sockaddr_in *)(void *)&a->ss)->sin_port = htons(port);
    else if (sockaddr_is_ipv6(a))
        ((struct sockaddr_in6 *)(void *)&a->ss)->sin6_port = htons(port);
}

bool sockaddr_equal(const struct sockaddr_any *a, const struct sockaddr_any *b) {
    if (a->len == 0 || b->len == 0)
        return a->len == b->len;
    if (a->ss.ss_family != b->ss.ss_family || sockaddr_port(a) != sockaddr_port(b))
        return false;
    if (is_ipv4(a))
        return as_v4(a)->sin_addr.s_addr == as_v4(b)->sin_addr.s_addr;
    if (sockaddr_is_ipv6(a))
        return memcmp(&as_v6(a)->sin6_addr, &as_v6(b)->sin6_addr, sizeof(struct in6_addr)) == 0 &&
               as_v6(a)->sin6_scope_id == as_v6(b)->sin6_scope_id;
    return false;
}
