#include "server/net/guard.h"

#include <arpa/inet.h>
#include <netinet/in.h>

#include "server/base/limits.h"
#include "server/mail/domain.h"

struct network {
    int family;
    unsigned char ip[16];
    unsigned prefix;
};

struct guard {
    struct arena *arena;
    struct network *allowed;
    size_t allowed_count;
    struct str *http_host; /* as struct url has them */
    size_t http_host_count;
    uint16_t *port;
    size_t port_count;
    bool has_usual_ports; /* nobody chose others */
};

static const uint16_t usual_ports[] = {443, 8443};

/* ---- networks ----------------------------------------------------------------------------------
 */

static bool is_in(const struct network *n, int family, const unsigned char *ip) {
    if (n->family != family || memcmp(n->ip, ip, n->prefix / 8) != 0)
        return false;
    unsigned rest = n->prefix % 8;
    if (rest == 0)
        return true;
    unsigned mask = 0xffu << (8 - rest);
    return ((n->ip[n->prefix / 8] ^ ip[n->prefix / 8]) & mask) == 0;
}

static void get_ip(const struct sockaddr_any *a, unsigned char out[16]) {
    if (a->ss.ss_family == AF_INET6)
        memcpy(out, &((const struct sockaddr_in6 *)(const void *)&a->ss)->sin6_addr, 16);
    else
        memcpy(out, &((const struct sockaddr_in *)(const void *)&a->ss)->sin_addr, 4);
}

/* "192.0.2.0/24"; nothing may stand behind the prefix, as it would be a slip of somebody. */
static bool parse_network(struct str text, struct network *out) {
    struct str rest = text;
    struct str ip = str_split(&rest, '/');
    struct sockaddr_any a = {0};
    uint64_t prefix;
    if (sockaddr_parse(ip, 0, &a) != OK)
        return false;
    unsigned bits = sockaddr_is_ipv6(&a) ? 128 : 32;
    prefix = bits;
    if (!str_is_absent(rest) && str_parse_u64(rest, bits, &prefix) != OK)
        return false;
    *out = (struct network){.family = a.ss.ss_family, .prefix = (unsigned)prefix};
    get_ip(&a, out->ip);
    for (unsigned bit = out->prefix; bit < bits; bit++)
        if (out->ip[bit / 8] & (0x80u >> (bit % 8)))
            return false;
    return true;
}

#define V4(a, b, c, d, n)                                                                          \
    { AF_INET, {a, b, c, d}, n }
/* IANA's registry of special-purpose addresses, and what is reserved. */
static const struct network denied_v4[] = {
    V4(0, 0, 0, 0, 8),       /* this network */
    V4(10, 0, 0, 0, 8),      /* RFC 1918 */
    V4(100, 64, 0, 0, 10),   /* shared, CGNAT */
    V4(127, 0, 0, 0, 8),     /* loopback */
    V4(169, 254, 0, 0, 16),  /* link-local: the clouds' metadata */
    V4(172, 16, 0, 0, 12),   /* RFC 1918 */
    V4(192, 0, 0, 0, 24),    /* protocol assignments */
    V4(192, 0, 2, 0, 24),    /* documentation */
    V4(192, 88, 99, 0, 24),  /* 6to4 relays */
    V4(192, 168, 0, 0, 16),  /* RFC 1918 */
    V4(198, 18, 0, 0, 15),   /* benchmarking */
    V4(198, 51, 100, 0, 24), /* documentation */
    V4(203, 0, 113, 0, 24),  /* documentation */
    V4(224, 0, 0, 0, 4),     /* multicast */
    V4(240, 0, 0, 0, 4),     /* reserved, broadcast */
};

/* Parts of 2000::/3 that are not the public Internet; all outside of it is denied anyway. */
static const struct network denied_v6[] = {
    {AF_INET6, {0x20, 0x01}, 23},             /* protocol assignments, benchmarking, ORCHID */
    {AF_INET6, {0x20, 0x01, 0x0d, 0xb8}, 32}, /* documentation */
    {AF_INET6, {0x3f, 0xff}, 20},             /* documentation */
};

static const struct network global_unicast = {AF_INET6, {0x20}, 3};
static const struct network v4_mapped = {AF_INET6, {[10] = 0xff, [11] = 0xff}, 96};
static const struct network nat64 = {AF_INET6, {0, 0x64, 0xff, 0x9b}, 96};
static const struct network six_to_four = {AF_INET6, {0x20, 0x02}, 16};
static const struct network teredo = {AF_INET6, {0x20, 0x01}, 32};

static bool is_listed(const struct guard *g, int family, const unsigned char *ip) {
    for (size_t i = 0; i < g->allowed_count; i++)
        if (is_in(&g->allowed[i], family, ip))
            return true;
    return false;
}

static bool allows_v4(const struct guard *g, const unsigned char *ip) {
    if (is_listed(g, AF_INET, ip))
        return true;
    for (size_t i = 0; i < sizeof denied_v4 / sizeof *denied_v4; i++)
        if (is_in(&denied_v4[i], AF_INET, ip))
            return false;
    return true;
}

/* The server stands before it; its own bits are all turned (RFC 4380 4). */
static void get_teredo_client(const unsigned char *ip, unsigned char out[4]) {
    for (int i = 0; i < 4; i++)
        out[i] = (unsigned char)~ip[12 + i];
}

static bool allows_v6(const struct guard *g, const unsigned char *ip) {
    if (is_listed(g, AF_INET6, ip))
        return true;
    if (is_in(&v4_mapped, AF_INET6, ip) || is_in(&nat64, AF_INET6, ip))
        return allows_v4(g, ip + 12);
    if (is_in(&six_to_four, AF_INET6, ip))
        return allows_v4(g, ip + 2);
    if (is_in(&teredo, AF_INET6, ip)) {
        unsigned char client[4];
        get_teredo_client(ip, client);
        return allows_v4(g, ip + 4) && allows_v4(g, client);
    }
    if (!is_in(&global_unicast, AF_INET6, ip))
        return false;
    for (size_t i = 0; i < sizeof denied_v6 / sizeof *denied_v6; i++)
        if (is_in(&denied_v6[i], AF_INET6, ip))
            return false;
    return true;
}

bool guard_allows(const struct guard *g, const struct sockaddr_any *a) {
    unsigned char ip[16] = {0};
    if (a->len == 0 || (a->ss.ss_family != AF_INET && a->ss.ss_family != AF_INET6))
        return false;
    get_ip(a, ip);
    return a->ss.ss_family == AF_INET ? allows_v4(g, ip) : allows_v6(g, ip);
}

static const struct network private_v4[] = {
    V4(0, 0, 0, 0, 8),      V4(10, 0, 0, 0, 8),     V4(100, 64, 0, 0, 10),
    V4(127, 0, 0, 0, 8),    V4(169, 254, 0, 0, 16), V4(172, 16, 0, 0, 12),
    V4(192, 168, 0, 0, 16), V4(224, 0, 0, 0, 4),    V4(240, 0, 0, 0, 4),
};

static const struct network private_v6[] = {
    {AF_INET6, {0}, 96},                         /* unspecified, loopback */
    {AF_INET6, {0, 0x64, 0xff, 0x9b, 0, 1}, 48}, /* NAT64 of a network's own (RFC 8215) */
    {AF_INET6, {0xfc}, 7},                       /* ULA */
    {AF_INET6, {0xfe, 0x80}, 10},                /* link-local */
    {AF_INET6, {0xfe, 0xc0}, 10},                /* site-local */
    {AF_INET6, {0xff}, 8},                       /* multicast */
};

static bool is_private_v4(const struct guard *g, const unsigned char *ip) {
    if (is_listed(g, AF_INET, ip))
        return false;
    for (size_t i = 0; i < sizeof private_v4 / sizeof *private_v4; i++)
        if (is_in(&private_v4[i], AF_INET, ip))
            return true;
    return false;
}

static bool is_private_v6(const struct guard *g, const unsigned char *ip) {
    if (is_listed(g, AF_INET6, ip))
        return false;
    if (is_in(&v4_mapped, AF_INET6, ip) || is_in(&nat64, AF_INET6, ip))
        return is_private_v4(g, ip + 12);
    if (is_in(&six_to_four, AF_INET6, ip))
        return is_private_v4(g, ip + 2);
    if (is_in(&teredo, AF_INET6, ip)) {
        unsigned char client[4];
        get_teredo_client(ip, client);
        return is_private_v4(g, ip + 4) || is_private_v4(g, client);
    }
    for (size_t i = 0; i < sizeof private_v6 / sizeof *private_v6; i++)
        if (is_in(&private_v6[i], AF_INET6, ip))
            return true;
    return false;
}

bool guard_allows_mail(const struct guard *g, const struct sockaddr_any *a) {
    unsigned char ip[16] = {0};
    if (a->len == 0 || (a->ss.ss_family != AF_INET && a->ss.ss_family != AF_INET6))
        return false;
    get_ip(a, ip);
    return a->ss.ss_family == AF_INET ? !is_private_v4(g, ip) : !is_private_v6(g, ip);
}

/* ---- making one --------------------------------------------------------------------------------
 */

/* The form in which struct url has hosts: a literal as it is printed, a name as an A-label. */
static enum err normal_host(struct str text, struct arena *a, struct str *out, bool *is_literal,
                            struct sockaddr_any *addr, struct errinfo *info) {
    char ip[SOCKADDR_TEXT_SIZE];
    bool has_brackets = text.n > 2 && text.p[0] == '[' && text.p[text.n - 1] == ']';
    struct str inner = has_brackets ? str_slice(text, 1, text.n - 1) : text;
    *is_literal = sockaddr_parse(inner, 0, addr) == OK;
    if (*is_literal && sockaddr_is_ipv6(addr) != has_brackets)
        return err_set(info, ERR_INVALID, "url", "an IPv6 address, and only that, has brackets");
    if (*is_literal) {
        sockaddr_print_ip(addr, ip);
        *out = arena_dup(a, str_of(ip));
        return OK;
    }
    if (text.n > 0 && text.p[text.n - 1] == '.')
        return err_set(info, ERR_INVALID, "url", "the host ends with a dot");
    return domain_parse(text, true, a, out, info);
}

static enum err add_host(struct guard *g, struct str text, struct errinfo *info) {
    bool is_literal;
    struct sockaddr_any addr;
    struct str *to = &g->http_host[g->http_host_count];
    /* in a list of hosts, an IPv6 address is as good without brackets */
    if (sockaddr_parse(text, 0, &addr) == OK && sockaddr_is_ipv6(&addr))
        text = arena_printf(g->arena, "[%.*s]", STR_ARG(text));
    if (normal_host(text, g->arena, to, &is_literal, &addr, NULL) != OK)
        return err_set(info, ERR_INVALID, "allow_http_hosts", "\"%.*s\" is not a host",
                       STR_ARG(text));
    g->http_host_count++;
    return OK;
}

enum err guard_new(const struct guard_options *o, struct guard **out, struct errinfo *info) {
    struct guard *g = mem_zalloc(sizeof *g);
    enum err e = OK;
    *out = NULL;
    g->arena = arena_new();
    g->allowed = ARENA_ARRAY(g->arena, struct network, o->allow_network_count + 1);
    g->http_host = ARENA_ARRAY(g->arena, struct str, o->allow_http_host_count + 1);
    for (size_t i = 0; i < o->allow_network_count && e == OK; i++) {
        if (!parse_network(o->allow_networks[i], &g->allowed[g->allowed_count++]))
            e = err_set(info, ERR_INVALID, "allow_networks",
                        "\"%.*s\" is not a network: 10.0.0.0/8, with nothing set behind the prefix",
                        STR_ARG(o->allow_networks[i]));
    }
    for (size_t i = 0; i < o->allow_http_host_count && e == OK; i++)
        e = add_host(g, o->allow_http_hosts[i], info);
    const uint16_t *ports = o->ports ? o->ports : usual_ports;
    g->has_usual_ports = !o->ports;
    g->port_count = o->ports ? o->port_count : sizeof usual_ports / sizeof *usual_ports;
    g->port = ARENA_ARRAY(g->arena, uint16_t, g->port_count + 1);
    memcpy(g->port, ports, g->port_count * sizeof *g->port);
    if (e != OK) {
        guard_free(&g);
        return e;
    }
    *out = g;
    return OK;
}

void guard_free(struct guard **gp) {
    struct guard *g = *gp;
    *gp = NULL;
    if (!g)
        return;
    arena_free(&g->arena);
    free(g);
}

/* ---- URLs --------------------------------------------------------------------------------------
 */

static bool is_http_host(const struct guard *g, struct str host) {
    for (size_t i = 0; i < g->http_host_count; i++)
        if (str_equal(g->http_host[i], host))
            return true;
    return false;
}

static bool allows_port(const struct guard *g, const struct url *u, bool is_listed_address) {
    for (size_t i = 0; i < g->port_count; i++)
        if (g->port[i] == u->port)
            return true;
    return g->has_usual_ports && (is_listed_address || is_http_host(g, u->host));
}

/* "443, 8443" */
static struct str print_ports(const struct guard *g, struct arena *a) {
    struct str list = STR("");
    for (size_t i = 0; i < g->port_count; i++)
        list = arena_printf(a, "%.*s%s%u", STR_ARG(list), i > 0 ? ", " : "", (unsigned)g->port[i]);
    return list;
}

/* What some resolvers and URL parsers take for an IPv4 address: a last label that is a number. */
static bool looks_like_number(struct str host) {
    size_t from = host.n;
    while (from > 0 && host.p[from - 1] != '.')
        from--;
    struct str last = str_from(host, from);
    if (str_starts_with_nocase(last, STR("0x")))
        return true;
    for (size_t i = 0; i < last.n; i++)
        if (!ascii_is_digit(last.p[i]))
            return false;
    return true;
}

static bool is_own_name(struct str host) {
    return str_equal(host, STR("localhost")) || str_ends_with(host, STR(".localhost"));
}

/* Their addresses are denied too; the name says what somebody wanted. */
static bool is_internal_name(struct str host) {
    static const struct str names[] = {
        STR("metadata"),
        STR("instance-data"),
        STR("metadata.google.internal"),
        STR("metadata.azure.internal"),
        STR("instance-data.ec2.internal"),
        STR("metadata.tencentyun.com"),
        STR("metadata.platformequinix.com"),
        STR("metadata.packet.net"),
        STR("rancher-metadata"),
        STR("kubernetes.default.svc"),
        STR("kubernetes.default"),
        STR("kubernetes"),
    };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (str_equal(host, names[i]))
            return true;
    return str_ends_with(host, STR(".metadata.google.internal")) ||
           str_starts_with(host, STR("kubernetes.default.svc."));
}

#define REFUSE(...) return err_set(info, ERR_INVALID, "url", __VA_ARGS__)

static bool is_hex(char c) {
    return ascii_is_digit(c) || (ascii_lower(c) >= 'a' && ascii_lower(c) <= 'f');
}

/* RFC 3986 3.3 and 3.4, with the fragment refused. */
static enum err take_path(struct str path, struct arena *a, struct url *out, struct errinfo *info) {
    for (size_t i = 0; i < path.n; i++) {
        char c = path.p[i];
        if (c == '#')
            REFUSE("a fragment is not sent");
        if (c <= ' ' || c >= 0x7f || strchr("\"<>\\^`{|}", c))
            REFUSE("the path has a character that must be percent-encoded");
        if (c == '%' && (path.n - i < 3 || !is_hex(path.p[i + 1]) || !is_hex(path.p[i + 2])))
            REFUSE("a %% in the path is not followed by two hex digits");
    }
    if (path.n > 0 && path.p[0] == '/')
        out->path_query = path;
    else
        out->path_query = arena_printf(a, "/%.*s", STR_ARG(path));
    return OK;
}

/* Splits "host:port" with the brackets of IPv6 in mind. */
static enum err split_authority(struct str authority, struct str *host, struct str *port,
                                struct errinfo *info) {
    size_t end = 0;
    if (str_find_char(authority, '@') >= 0)
        REFUSE("no user or password may stand in it");
    if (authority.n > 0 && authority.p[0] == '[') {
        ptrdiff_t close = str_find_char(authority, ']');
        if (close < 0)
            REFUSE("the bracket of the host is not closed");
        end = (size_t)close + 1;
    } else {
        ptrdiff_t colon = str_find_char(authority, ':');
        end = colon < 0 ? authority.n : (size_t)colon;
    }
    *host = str_slice(authority, 0, end);
    *port = STR_NONE;
    if (end < authority.n) {
        if (authority.p[end] != ':')
            REFUSE("something stands behind the host");
        *port = str_from(authority, end + 1);
    }
    if (host->n == 0)
        REFUSE("no host");
    return OK;
}

static enum err take_host(const struct guard *g, struct str host, struct arena *a, struct url *out,
                          struct sockaddr_any *addr, struct errinfo *info) {
    struct errinfo why = {0};
    if (str_find_char(host, '%') >= 0)
        REFUSE("a host is not percent-encoded and has no zone");
    if (normal_host(host, a, &out->host, &out->is_literal, addr, &why) != OK)
        REFUSE("host: %s", why.text);
    if (out->is_literal) {
        if (!guard_allows(g, addr))
            REFUSE("the address is not a public one");
        return OK;
    }
    if (looks_like_number(out->host))
        REFUSE("an IPv4 address is four decimal numbers without leading zeros");
    if (is_http_host(g, out->host))
        return OK;
    if (is_own_name(out->host))
        REFUSE("the name belongs to the machine itself");
    if (is_internal_name(out->host))
        REFUSE("the name belongs to the inside of a cloud or cluster");
    return OK;
}

enum err guard_check_url(const struct guard *g, struct str text, struct arena *a, struct url *out,
                         struct errinfo *info) {
    struct str host = STR_NONE, port = STR_NONE;
    struct sockaddr_any addr = {0};
    uint64_t number;
    *out = (struct url){0};
    if (text.n > LIMIT_URL)
        REFUSE("longer than %d bytes", LIMIT_URL);
    if (str_has_control(text, false) || !str_is_utf8(text))
        REFUSE("control characters or broken UTF-8 in it");
    if (str_starts_with_nocase(text, STR("https://")))
        out->is_https = true;
    else if (!str_starts_with_nocase(text, STR("http://")))
        REFUSE("it does not begin with https://");
    struct str rest = str_from(text, out->is_https ? 8 : 7);
    size_t end = 0;
    while (end < rest.n && !strchr("/?#\\", rest.p[end]))
        end++;
    enum err e = split_authority(str_slice(rest, 0, end), &host, &port, info);
    if (e == OK)
        e = take_path(str_from(rest, end), a, out, info);
    if (e == OK)
        e = take_host(g, host, a, out, &addr, info);
    if (e != OK)
        return e;
    number = out->is_https ? 443 : 80;
    if (!str_is_absent(port) && (port.n > 5 || str_starts_with(port, STR("0")) ||
                                 str_parse_u64(port, 65535, &number) != OK))
        REFUSE("the port is not a number up to 65535");
    out->port = (uint16_t)number;
    unsigned char ip[16] = {0};
    bool listed = false;
    if (out->is_literal) {
        get_ip(&addr, ip);
        listed = is_listed(g, addr.ss.ss_family, ip);
    }
    if (!out->is_https && !is_http_host(g, out->host))
        REFUSE("plain http is only for hosts that the operator allowed");
    if (number == 0 || !allows_port(g, out, listed))
        REFUSE("port %u is not allowed; allowed are %.*s", (unsigned)out->port,
               STR_ARG(print_ports(g, a)));
    return OK;
}
