#include "server/net/dns_rdata.h"

#include <netinet/in.h>

bool dns_rdata_name(struct str rdata, struct arena *a, struct str *out) {
    const unsigned char *p = (const unsigned char *)rdata.p;
    char text[256];
    size_t at = 0, len = 0;
    while (at < rdata.n && p[at] != 0) {
        size_t label = p[at++];
        if (label > 63 || label > rdata.n - at || len + label + 1 >= sizeof text)
            return false;
        if (len > 0)
            text[len++] = '.';
        for (; label > 0; label--, at++) {
            char c = ascii_lower((char)p[at]);
            if (!ascii_is_alnum(c) && c != '-' && c != '_')
                return false;
            text[len++] = c;
        }
    }
    if (at >= rdata.n)
        return false;
    *out = arena_dup(a, str_make(text, len));
    return true;
}

bool dns_rdata_mx(struct str rdata, struct arena *a, uint16_t *preference, struct str *host) {
    if (rdata.n < 3)
        return false;
    const unsigned char *p = (const unsigned char *)rdata.p;
    *preference = (uint16_t)(p[0] << 8 | p[1]);
    return dns_rdata_name(str_from(rdata, 2), a, host);
}

bool dns_rdata_text(struct str rdata, struct arena *a, struct str *out) {
    char *joined = arena_alloc(a, rdata.n + 1);
    size_t len = 0;
    for (size_t at = 0; at < rdata.n;) {
        size_t piece = (unsigned char)rdata.p[at++];
        if (piece > rdata.n - at)
            return false;
        memcpy(joined + len, rdata.p + at, piece);
        len += piece;
        at += piece;
    }
    *out = str_make(joined, len);
    return true;
}

bool dns_rdata_ipv4(struct str rdata, struct sockaddr_any *out) {
    struct sockaddr_in sin = {.sin_family = AF_INET};
    if (rdata.n != sizeof sin.sin_addr)
        return false;
    memcpy(&sin.sin_addr, rdata.p, sizeof sin.sin_addr);
    memcpy(&out->ss, &sin, sizeof sin);
    out->len = sizeof sin;
    return true;
}

bool dns_rdata_ipv6(struct str rdata, struct sockaddr_any *out) {
    struct sockaddr_in6 sin6 = {.sin6_family = AF_INET6};
    if (rdata.n != sizeof sin6.sin6_addr)
        return false;
    memcpy(&sin6.sin6_addr, rdata.p, sizeof sin6.sin6_addr);
    memcpy(&out->ss, &sin6, sizeof sin6);
    out->len = sizeof sin6;
    return true;
}
