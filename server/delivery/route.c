#include "server/delivery/route.h"

#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>

#include "server/base/limits.h"
#include "server/mail/domain.h"

static const char *const KIND_NAMES[] = {
    [ROUTE_MX] = "mx", [ROUTE_SMARTHOST] = "smarthost", [ROUTE_SANDBOX] = "sandbox"};

const char *route_kind_name(enum route_kind k) {
    return KIND_NAMES[k];
}

/* ---- choosing ------------------------------------------------------------------------------- */

static bool one_matches(const struct str *patterns, size_t count, struct str domain) {
    for (size_t i = 0; i < count; i++) {
        struct str p = patterns[i];
        bool is_below = str_starts_with(p, STR("*."));
        if (is_below)
            p = str_from(p, 2);
        if (str_equal_nocase(p, domain) ? !is_below : is_below && domain_is_within(domain, p))
            return true;
    }
    return false;
}

static bool rule_matches(const struct route *r, struct str sender_domain,
                         struct str recipient_domain) {
    if (r->sender_domain_count == 0 && r->recipient_domain_count == 0)
        return false;
    return (r->sender_domain_count == 0 ||
            one_matches(r->sender_domains, r->sender_domain_count, sender_domain)) &&
           (r->recipient_domain_count == 0 ||
            one_matches(r->recipient_domains, r->recipient_domain_count, recipient_domain));
}

static const struct route *route_find(const struct route *routes, size_t count, struct str name) {
    for (size_t i = 0; i < count; i++) {
        if (str_equal(str_of(routes[i].name), name))
            return &routes[i];
    }
    return NULL;
}

const struct route *route_choose(const struct route *routes, size_t count, struct str asked,
                                 struct str default_name, struct str sender_domain,
                                 struct str recipient_domain) {
    if (!str_is_empty(asked))
        return route_find(routes, count, asked);
    for (size_t i = 0; i < count; i++) {
        if (rule_matches(&routes[i], sender_domain, recipient_domain))
            return &routes[i];
    }
    return route_find(routes, count, default_name);
}

void smarthost_wipe(struct smarthost *h) {
    explicit_bzero(h, sizeof(*h));
}

/* ---- addresses ------------------------------------------------------------------------------ */

static bool ipv4_is_private(const uint8_t b[4]) {
    return b[0] == 127 || b[0] == 10 || (b[0] == 172 && (b[1] & 0xf0) == 16) ||
           (b[0] == 192 && b[1] == 168) || (b[0] == 169 && b[1] == 254) ||
           (b[0] == 100 && (b[1] & 0xc0) == 64);
}

bool smarthost_address_is_private(const struct sockaddr_any *a) {
    uint8_t b[16];
    if (a->ss.ss_family == AF_INET) {
        struct sockaddr_in in;
        memcpy(&in, &a->ss, sizeof(in));
        memcpy(b, &in.sin_addr, 4);
        return ipv4_is_private(b);
    }
    if (a->ss.ss_family != AF_INET6)
        return false;
    struct sockaddr_in6 in6;
    memcpy(&in6, &a->ss, sizeof(in6));
    if (IN6_IS_ADDR_V4MAPPED(&in6.sin6_addr)) {
        memcpy(b, (const char *)&in6.sin6_addr + 12, 4);
        return ipv4_is_private(b);
    }
    memcpy(b, &in6.sin6_addr, 16);
    return IN6_IS_ADDR_LOOPBACK(&in6.sin6_addr) || IN6_IS_ADDR_LINKLOCAL(&in6.sin6_addr) ||
           (b[0] & 0xfe) == 0xfc;
}

/* ---- URL ------------------------------------------------------------------------------------ */

static int hex_digit(char c) {
    if (c >= '0' && c <= '9')
        return c - '0';
    c = ascii_lower(c);
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* %-decodes into out[size], NUL-terminated. What could end a line or a string is refused. */
static enum err decode(struct str in, char *out, size_t size, const char *what,
                       struct errinfo *info) {
    size_t n = 0;
    for (size_t i = 0; i < in.n; i++) {
        char c = in.p[i];
        if (c == '%') {
            int high = i + 2 < in.n ? hex_digit(in.p[i + 1]) : -1;
            int low = i + 2 < in.n ? hex_digit(in.p[i + 2]) : -1;
            if (high < 0 || low < 0)
                return err_set(info, ERR_INVALID, what, "%% must be followed by two hex digits");
            c = (char)(high * 16 + low);
            i += 2;
        }
        if (n + 1 >= size)
            return err_set(info, ERR_INVALID, what, "is longer than %zu octets", size - 1);
        out[n++] = c;
    }
    out[n] = '\0';
    if (str_has_control(str_make(out, n), false) || !str_is_utf8(str_make(out, n)))
        return err_set(info, ERR_INVALID, what, "has a control character or is not UTF-8");
    return OK;
}

static enum err parse_number(struct str value, uint64_t least, uint64_t most, const char *what,
                             unsigned *out, struct errinfo *info) {
    uint64_t v;
    if (str_parse_u64(value, most, &v) != OK || v < least)
        return err_set(info, ERR_INVALID, what, "must be a number from %llu to %llu",
                       (unsigned long long)least, (unsigned long long)most);
    *out = (unsigned)v;
    return OK;
}

static enum err parse_host(struct str host, bool in_brackets, struct smarthost *out,
                           struct errinfo *info) {
    struct sockaddr_any literal;
    if (sockaddr_parse(host, 0, &literal) == OK) {
        if (sockaddr_is_ipv6(&literal) != in_brackets)
            return err_set(info, ERR_INVALID, "host",
                           "an IPv6 address, and only that, stands in brackets");
        char text[SOCKADDR_TEXT_SIZE];
        sockaddr_print_ip(&literal, text);
        snprintf(out->host, sizeof(out->host), "%s", text);
        return OK;
    }
    if (in_brackets)
        return err_set(info, ERR_INVALID, "host", "not an IPv6 address");
    struct arena *a = arena_new();
    struct str name;
    struct errinfo why = {0};
    enum err e = domain_parse(host, true, a, &name, &why);
    if (e == OK && !domain_is_literal(name) && name.n < sizeof(out->host))
        memcpy(out->host, name.p, name.n);
    else
        e = err_set(info, ERR_INVALID, "host", "%s", why.text[0] != '\0' ? why.text : "not a name");
    arena_free(&a);
    return e;
}

/* host[:port] */
static enum err parse_authority(struct str text, struct smarthost *out, struct errinfo *info) {
    struct str host = text, port = STR_NONE;
    bool in_brackets = text.n > 0 && text.p[0] == '[';
    if (in_brackets) {
        ptrdiff_t end = str_find_char(text, ']');
        if (end < 0)
            return err_set(info, ERR_INVALID, "host", "the bracket is not closed");
        host = str_slice(text, 1, (size_t)end);
        struct str rest = str_from(text, (size_t)end + 1);
        if (rest.n > 0 && rest.p[0] != ':')
            return err_set(info, ERR_INVALID, "port", "expected after the bracket");
        if (rest.n > 0)
            port = str_from(rest, 1);
    } else {
        ptrdiff_t colon = str_find_char(text, ':');
        if (colon >= 0) {
            host = str_slice(text, 0, (size_t)colon);
            port = str_from(text, (size_t)colon + 1);
        }
    }
    enum err e = parse_host(host, in_brackets, out, info);
    if (e != OK || str_is_absent(port))
        return e;
    unsigned number = 0;
    e = parse_number(port, 1, 65535, "port", &number, info);
    if (e == OK)
        out->port = (uint16_t)number;
    return e;
}

static enum err parse_userinfo(struct str text, struct smarthost *out, struct errinfo *info) {
    struct str rest = text;
    struct str user = str_split(&rest, ':');
    enum err e = decode(user, out->user, sizeof(out->user), "user", info);
    if (e == OK && !str_is_absent(rest))
        e = decode(rest, out->password, sizeof(out->password), "password", info);
    if (e == OK && (out->user[0] == '\0' || out->password[0] == '\0'))
        e = err_set(info, ERR_INVALID, "user", "user and password are needed, or neither");
    return e;
}

static enum err parse_tls(struct str value, enum session_tls *out, struct errinfo *info) {
    static const struct {
        struct str name;
        enum session_tls tls;
    } LEVELS[] = {
        {{"none", 4}, SESSION_TLS_NONE},
        {{"opportunistic", 13}, SESSION_TLS_OPPORTUNISTIC},
        {{"encrypt", 7}, SESSION_TLS_ENCRYPT},
        {{"verify", 6}, SESSION_TLS_VERIFY},
    };
    for (size_t i = 0; i < sizeof(LEVELS) / sizeof(LEVELS[0]); i++) {
        if (str_equal(value, LEVELS[i].name)) {
            *out = LEVELS[i].tls;
            return OK;
        }
    }
    return err_set(info, ERR_INVALID, "tls", "must be none, opportunistic, encrypt or verify");
}

static enum err parse_pins(struct str value, struct smarthost *out, struct errinfo *info) {
    char text[SMARTHOST_PINS_MAX * 2 * TLS_PIN_TEXT_SIZE];
    enum err e = decode(value, text, sizeof(text), "pin", info);
    struct str rest = str_of(text);
    while (e == OK && !str_is_absent(rest)) {
        if (out->pin_count == SMARTHOST_PINS_MAX)
            return err_set(info, ERR_INVALID, "pin", "at most %d keys", SMARTHOST_PINS_MAX);
        if (!tls_pin_parse(str_split(&rest, ','), &out->pin[out->pin_count++]))
            return err_set(info, ERR_INVALID, "pin",
                           "must be sha256: and the SHA-256 of a public key in base64 or hex, "
                           "several separated by commas");
    }
    return e;
}

enum parameter {
    PARAMETER_TLS,
    PARAMETER_CA,
    PARAMETER_PIN,
    PARAMETER_WEIGHT,
    PARAMETER_PRIORITY,
    PARAMETER_INSECURE_AUTH,
    PARAMETER_COUNT
};
const struct smarthost_parameter smarthost_parameters[] = {
    [PARAMETER_TLS] = {{"tls", 3},
                       "none, opportunistic, encrypt or verify; left out: verify with credentials "
                       "or a pin, else opportunistic; smtps:// is always verify"},
    [PARAMETER_CA] = {{"ca", 2}, "file with certificate authorities (PEM); left out: ca_file"},
    [PARAMETER_PIN] = {{"pin", 3},
                       "sha256: and the hash of the server's public key; several with commas"},
    [PARAMETER_WEIGHT] = {{"weight", 6}, "1 to 1000: its share among those of one priority"},
    [PARAMETER_PRIORITY] = {{"priority", 8},
                            "0 to 1000: the lower first, the others when those before are down"},
    [PARAMETER_INSECURE_AUTH] = {{"insecure_auth", 13},
                                 "1: logs in without verified TLS, at private addresses alone"},
};
const size_t smarthost_parameter_count = PARAMETER_COUNT;
_Static_assert(sizeof(smarthost_parameters) / sizeof(smarthost_parameters[0]) == PARAMETER_COUNT,
               "names");

static enum err parse_parameter(enum parameter which, struct str value, struct smarthost *out,
                                struct errinfo *info) {
    unsigned flag = 0;
    enum err e;
    switch (which) {
    case PARAMETER_TLS:
        return parse_tls(value, &out->tls, info);
    case PARAMETER_CA:
        if (str_is_empty(value))
            return err_set(info, ERR_INVALID, "ca", "must name a file");
        return decode(value, out->ca_file, sizeof(out->ca_file), "ca", info);
    case PARAMETER_PIN:
        return parse_pins(value, out, info);
    case PARAMETER_WEIGHT:
        return parse_number(value, 1, SMARTHOST_WEIGHT_MAX, "weight", &out->weight, info);
    case PARAMETER_PRIORITY:
        return parse_number(value, 0, SMARTHOST_PRIORITY_MAX, "priority", &out->priority, info);
    case PARAMETER_INSECURE_AUTH:
        e = parse_number(value, 0, 1, "insecure_auth", &flag, info);
        if (e == OK)
            out->insecure_auth = flag == 1;
        return e;
    case PARAMETER_COUNT:
        break;
    }
    return ERR_INTERNAL;
}

/* Each parameter at most once; *seen has a bit for each that was there. */
static enum err parse_query(struct str query, struct smarthost *out, unsigned *seen,
                            struct errinfo *info) {
    while (!str_is_absent(query)) {
        struct str value = str_split(&query, '&');
        struct str name = str_split(&value, '=');
        if (str_is_absent(value))
            return err_set(info, ERR_INVALID, "query", "each parameter is name=value");
        unsigned i = 0;
        while (i < PARAMETER_COUNT && !str_equal(name, smarthost_parameters[i].name))
            i++;
        if (i == PARAMETER_COUNT)
            return err_set(info, ERR_INVALID, "query",
                           "unknown parameter (known: tls, ca, pin, "
                           "weight, priority, insecure_auth)");
        if ((*seen & 1u << i) != 0)
            return err_set(info, ERR_INVALID, smarthost_parameters[i].name.p, "given twice");
        *seen |= 1u << i;
        enum err e = parse_parameter((enum parameter)i, value, out, info);
        if (e != OK)
            return e;
    }
    return OK;
}

/* A pin makes TLS a must, and is enough unless more was asked for aloud. */
static enum err apply_pins(struct smarthost *out, unsigned seen, struct errinfo *info) {
    bool has_tls = (seen & 1u << PARAMETER_TLS) != 0;
    if (out->pin_count == 0)
        return OK;
    if (has_tls && out->tls < SESSION_TLS_ENCRYPT)
        return err_set(info, ERR_INVALID, "pin", "needs tls=encrypt or tls=verify");
    out->is_pin_alone = out->ca_file[0] == '\0' && !(has_tls && out->tls >= SESSION_TLS_VERIFY);
    if (out->tls != SESSION_TLS_IMPLICIT)
        out->tls = SESSION_TLS_VERIFY;
    return OK;
}

/* T7: credentials leave us over verified TLS, or, when that is said aloud, to a private address. */
static enum err check_credentials(const struct smarthost *h, struct errinfo *info) {
    if (h->user[0] == '\0' || h->tls == SESSION_TLS_VERIFY || h->tls == SESSION_TLS_IMPLICIT)
        return OK;
    struct sockaddr_any literal;
    if (!h->insecure_auth)
        return err_set(info, ERR_INVALID, "tls",
                       "credentials need tls=verify (or insecure_auth=1 and a private address)");
    if (sockaddr_parse(str_of(h->host), h->port, &literal) == OK &&
        !smarthost_address_is_private(&literal))
        return err_set(info, ERR_INVALID, "insecure_auth", "the address is not a private one");
    return OK;
}

static enum err parse_url(struct str url, struct smarthost *out, struct errinfo *info) {
    bool is_smtps = str_starts_with_nocase(url, STR("smtps://"));
    if (!is_smtps && !str_starts_with_nocase(url, STR("smtp://")))
        return err_set(info, ERR_INVALID, "scheme", "must be smtp:// or smtps://");
    if (url.n > LIMIT_URL)
        return err_set(info, ERR_INVALID, "url", "is longer than %d octets", LIMIT_URL);
    struct str rest = str_from(url, is_smtps ? 8 : 7);
    if (str_find_char(rest, '#') >= 0)
        return err_set(info, ERR_INVALID, "url", "has a fragment (write # as %%23)");
    struct str query = rest;
    struct str authority = str_split(&query, '?');
    /* a password may contain '@' and '/' unencoded: the last '@' ends it */
    ptrdiff_t at = -1;
    for (size_t i = 0; i < authority.n; i++) {
        if (authority.p[i] == '@')
            at = (ptrdiff_t)i;
    }
    bool has_user = at >= 0;
    if (has_user) {
        enum err e = parse_userinfo(str_slice(authority, 0, (size_t)at), out, info);
        if (e != OK)
            return e;
        authority = str_from(authority, (size_t)at + 1);
    }
    if (str_ends_with(authority, STR("/")))
        authority.n--;
    out->port = is_smtps ? 465 : has_user ? 587 : 25;
    out->weight = 1;
    out->tls = is_smtps   ? SESSION_TLS_IMPLICIT
               : has_user ? SESSION_TLS_VERIFY
                          : SESSION_TLS_OPPORTUNISTIC;
    enum err e = parse_authority(authority, out, info);
    if (e != OK)
        return e;
    unsigned seen = 0;
    e = parse_query(query, out, &seen, info);
    if (e != OK)
        return e;
    if (is_smtps && (seen & 1u << PARAMETER_TLS) != 0) {
        if (out->tls != SESSION_TLS_VERIFY)
            return err_set(info, ERR_INVALID, "tls", "smtps:// is always verified TLS");
        out->tls = SESSION_TLS_IMPLICIT;
    }
    e = apply_pins(out, seen, info);
    return e == OK ? check_credentials(out, info) : e;
}

enum err smarthost_parse(struct str url, struct smarthost *out, struct errinfo *info) {
    *out = (struct smarthost){0};
    enum err e = parse_url(url, out, info);
    if (e != OK)
        smarthost_wipe(out);
    return e;
}
