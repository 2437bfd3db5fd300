#include "server/mail/address.h"

#include <arpa/inet.h>

#include "server/base/limits.h"
#include "server/mail/domain.h"
#include "server/mail/header.h"

/* RFC 5322 3.2.3 atext, and with RFC 6531 3.3 every octet of UTF-8 beyond ASCII. */
static bool is_atext(char c) {
    return ascii_is_alnum(c) || (unsigned char)c > 127 || (c && strchr("!#$%&'*+-/=?^_`{|}~", c));
}

/* Steps over a quoted-string (RFC 5322 3.2.4) that starts at s.p[0]; *inside gets its content with
 * quoted-pairs resolved. Returns what it is long, 0 when it does not end. */
static size_t quoted_string(struct str s, struct arena *a, struct str *inside) {
    size_t end = 1;
    while (end < s.n && s.p[end] != '"')
        end += s.p[end] == '\\' ? 2 : 1;
    if (end >= s.n)
        return 0;
    /* only now, and only for what is inside: a text may hold hundreds of them */
    char *p = arena_alloc(a, end);
    size_t n = 0;
    for (size_t i = 1; i < end; i++) {
        if (s.p[i] == '\\')
            i++;
        p[n++] = s.p[i];
    }
    *inside = str_make(p, n);
    return end + 1;
}

static bool is_dot_atom(struct str s) {
    for (size_t i = 0; i < s.n; i++) {
        if (s.p[i] == '.') {
            if (i == 0 || i + 1 == s.n || s.p[i - 1] == '.')
                return false;
        } else if (!is_atext(s.p[i])) {
            return false;
        }
    }
    return s.n > 0;
}

/* The local part's text with the least quoting (RFC 5321 4.1.2). */
static struct str print_local(struct str content, struct arena *a) {
    if (is_dot_atom(content))
        return arena_dup(a, content);
    char *p = arena_alloc(a, content.n * 2 + 3);
    size_t n = 0;
    p[n++] = '"';
    for (size_t i = 0; i < content.n; i++) {
        if (content.p[i] == '"' || content.p[i] == '\\')
            p[n++] = '\\';
        p[n++] = content.p[i];
    }
    p[n++] = '"';
    return str_make(p, n);
}

static bool read_ip(int family, struct str text, unsigned char raw[16]) {
    char ip[INET6_ADDRSTRLEN];
    if (text.n >= sizeof ip || memchr(text.p, 0, text.n))
        return false;
    memcpy(ip, text.p, text.n);
    ip[text.n] = 0;
    return inet_pton(family, ip, raw) == 1;
}

/* [IPv4] and [IPv6:...] (RFC 5321 4.1.3), printed in their one canonical way. */
NODISCARD static enum err parse_literal(struct str text, struct arena *a, struct str *out,
                                        struct errinfo *info) {
    char ip[INET6_ADDRSTRLEN];
    unsigned char raw[16];
    struct str inner = domain_is_literal(text) ? str_slice(text, 1, text.n - 1) : STR("");
    bool is_v6 = str_starts_with_nocase(inner, STR("IPv6:"));
    int family = is_v6 ? AF_INET6 : AF_INET;
    if (!read_ip(family, is_v6 ? str_from(inner, 5) : inner, raw) ||
        !inet_ntop(family, raw, ip, sizeof ip))
        return err_set(info, ERR_INVALID, "address",
                       "the address literal is neither [192.0.2.1] nor [IPv6:2001:db8::1]");
    *out = arena_printf(a, is_v6 ? "[IPv6:%s]" : "[%s]", ip);
    return OK;
}

/* Characters that are not seen, that readers cut off or split at (JavaScript's trim() takes a
 * no-break space and a BOM), that turn the direction of the text, or that are an "@" once
 * normalised. */
static const struct {
    uint32_t from, to;
} misleading[] = {
    {0xA0, 0xA0},     {0xAD, 0xAD},     {0x34F, 0x34F},   {0x61C, 0x61C},     {0x115F, 0x1160},
    {0x1680, 0x1680}, {0x180B, 0x180F}, {0x2000, 0x200B}, {0x200E, 0x200F},   {0x202A, 0x202F},
    {0x205F, 0x206F}, {0x3000, 0x3000}, {0x3164, 0x3164}, {0xFE6B, 0xFE6B},   {0xFEFF, 0xFEFF},
    {0xFF20, 0xFF20}, {0xFFA0, 0xFFA0}, {0xFFF0, 0xFFFB}, {0xE0000, 0xE0FFF},
};

static bool is_misleading(uint32_t c) {
    for (size_t i = 0; i < sizeof misleading / sizeof *misleading; i++) {
        if (c >= misleading[i].from && c <= misleading[i].to)
            return true;
    }
    return false;
}

/* `s` is UTF-8. */
static bool has_misleading(struct str s) {
    while (s.n > 0) {
        size_t n = str_utf8_length(s);
        unsigned char first = (unsigned char)s.p[0];
        uint32_t c = n < 2 ? first : first & (0xFFU >> (n + 1));
        for (size_t i = 1; i < n; i++)
            c = c << 6 | ((unsigned char)s.p[i] & 0x3F);
        if (is_misleading(c))
            return true;
        s = str_from(s, n);
    }
    return false;
}

/* What the grammar allows in a local part, and others read as something else (T4, T5). */
static const char *content_fault(struct str content) {
    /* legal in a quoted-string, but they let one command argument look like two, and of two "@"
     * readers choose differently */
    for (size_t i = 0; i < content.n; i++) {
        if (content.p[i] == ' ' || content.p[i] == '<' || content.p[i] == '>')
            return "the local part has a space or an angle bracket";
        if (content.p[i] == '@')
            return "the address has a second @";
    }
    /* some readers decode it, although it may not stand there (RFC 2047 5), and get another address
     */
    ptrdiff_t word = str_find(content, STR("=?"));
    if (word >= 0 && str_find(str_from(content, (size_t)word + 2), STR("?=")) >= 0)
        return "the local part looks like an encoded word";
    if (has_misleading(content))
        return "the local part has an invisible or misleading character";
    return NULL;
}

/* The local part at the start of `text`: its content, and how far it goes. */
NODISCARD static enum err parse_local(struct str text, struct arena *a, struct str *content,
                                      size_t *length, struct errinfo *info) {
    if (text.n > 0 && text.p[0] == '"') {
        *length = quoted_string(text, a, content);
        if (*length == 0)
            return err_set(info, ERR_INVALID, "address", "a quoted local part does not end");
    } else {
        size_t n = 0;
        while (n < text.n && (is_atext(text.p[n]) || text.p[n] == '.'))
            n++;
        *length = n;
        *content = str_slice(text, 0, n);
        if (n > 0 && !is_dot_atom(*content))
            return err_set(info, ERR_INVALID, "address",
                           "the local part starts or ends with a dot, or has two in a row");
    }
    if (content->n == 0 && (*length > 0 || text.n == 0 || text.p[0] == '@'))
        return err_set(info, ERR_INVALID, "address", "the local part is empty");
    const char *fault = content_fault(*content);
    return fault ? err_set(info, ERR_INVALID, "address", "%s", fault) : OK;
}

/* A dot, or what is one in an international domain name (RFC 3490 3.1). */
static bool ends_in_dot(struct str domain) {
    return str_ends_with(domain, STR(".")) || str_ends_with(domain, STR("\xE3\x80\x82")) ||
           str_ends_with(domain, STR("\xEF\xBC\x8E")) || str_ends_with(domain, STR("\xEF\xBD\xA1"));
}

static const char *text_fault(struct str text) {
    switch (header_text_check(text, false)) {
    case HEADER_TEXT_OK:
        return NULL;
    case HEADER_TEXT_CONTROL:
        return "a control character or line end is in it";
    case HEADER_TEXT_NOT_UTF8:
        return "it is not valid UTF-8";
    }
    return NULL;
}

/* The first of these characters outside of quotes, from `i` on; the end of the text: there is none.
 */
static size_t find_plain(struct str text, size_t i, const char *wanted) {
    for (bool is_quoted = false; i < text.n; i++) {
        char c = text.p[i];
        if (c == '"')
            is_quoted = !is_quoted;
        else if (c == '\\' && is_quoted)
            i++;
        else if (!is_quoted && c && strchr(wanted, c))
            return i;
    }
    return text.n;
}

bool address_is_several(struct str text) {
    size_t separator = find_plain(text, find_plain(text, 0, "@"), ",;");
    return find_plain(text, separator, "@") < text.n;
}

/* Whatever else is wrong with the text, that is the reason. */
static enum err name_several(struct str text, enum err e, struct errinfo *info) {
    if (e == OK || !address_is_several(text))
        return e;
    return err_set(info, e, "address", "several addresses stand where one is taken");
}

static struct str joined(struct str local, struct str domain, struct arena *a) {
    ASSERT(local.n > 0 && domain.n > 0);
    char *z = arena_alloc(a, local.n + 1 + domain.n + 1);
    memcpy(z, local.p, local.n);
    z[local.n] = '@';
    memcpy(z + local.n + 1, domain.p, domain.n);
    return str_make(z, local.n + 1 + domain.n);
}

NODISCARD static enum err parse_one(struct address *out, struct str text, struct arena *a,
                                    struct errinfo *info) {
    *out = (struct address){0};
    if (text.n == 0)
        return err_set(info, ERR_INVALID, "address", "the address is empty");
    /* beyond any address, even when its domain shrinks as an A-label */
    if (text.n > 8 * LIMIT_ADDRESS)
        return err_set(info, ERR_INVALID, "address", "the address is longer than 254 octets");
    const char *fault = text_fault(text);
    if (fault)
        return err_set(info, ERR_INVALID, "address", "%s", fault);

    struct str content = STR_NONE;
    size_t length = 0;
    enum err e = parse_local(text, a, &content, &length, info);
    if (e != OK)
        return e;
    struct str rest = str_from(text, length);
    if (rest.n == 0)
        return err_set(info, ERR_INVALID, "address", "the address has no @");
    if (rest.p[0] != '@')
        return err_set(info, ERR_INVALID, "address",
                       "a character before the @ is not allowed there; comments, groups and lists "
                       "of addresses are not accepted");
    rest = str_from(rest, 1);

    struct address addr = {.local = print_local(content, a)};
    if (addr.local.n > LIMIT_LOCAL_PART)
        return err_set(info, ERR_INVALID, "address", "the local part is longer than 64 octets");
    if (rest.n > 0 && rest.p[0] == '[') {
        e = parse_literal(rest, a, &addr.domain, info);
    } else if (ends_in_dot(rest)) {
        e = err_set(info, ERR_INVALID, "address", "the domain ends in a dot");
    } else if (rest.n > 0 && read_ip(AF_INET, rest, (unsigned char[16]){0})) {
        e = err_set(info, ERR_INVALID, "address",
                    "an IP address stands in brackets after the @, as in [192.0.2.1]");
    } else {
        e = domain_parse(rest, false, a, &addr.domain, info);
    }
    if (e != OK)
        return e;
    addr.is_utf8_local = !str_is_ascii(addr.local);
    addr.email = joined(addr.local, addr.domain, a);
    if (addr.email.n > LIMIT_ADDRESS)
        return err_set(info, ERR_INVALID, "address", "the address is longer than 254 octets");
    *out = addr;
    return OK;
}

enum err address_parse(struct address *out, struct str text, struct arena *a,
                       struct errinfo *info) {
    return name_several(text, parse_one(out, text, a, info), info);
}

/* RFC 5322 3.2.3 specials; all but "." end a display name that is not quoted. */
static bool is_special(char c) {
    return c && strchr("()<>[]:;@\\,\"", c);
}

/* phrase = 1*word (RFC 5322 3.2.5), where a "." may stand in a word as in "John Q. Public". */
NODISCARD static enum err parse_phrase(struct str text, struct arena *a, struct str *out,
                                       struct errinfo *info) {
    char *p = arena_alloc(a, text.n + 1);
    size_t n = 0, i = 0;
    while (i < text.n) {
        if (text.p[i] == ' ') {
            i++;
            continue;
        }
        if (n > 0)
            p[n++] = ' ';
        if (text.p[i] == '"') {
            struct str inside;
            size_t length = quoted_string(str_from(text, i), a, &inside);
            if (length == 0)
                return err_set(info, ERR_INVALID, "address", "a quoted name does not end");
            memcpy(p + n, inside.p, inside.n);
            n += inside.n;
            i += length;
            if (i < text.n && text.p[i] != ' ')
                return err_set(info, ERR_INVALID, "address",
                               "a space is missing after a quoted name");
            continue;
        }
        if (n == 0 && text.p[i] == '.')
            return err_set(info, ERR_INVALID, "address",
                           "the name starts with a dot; put it in double quotes");
        for (; i < text.n && text.p[i] != ' '; i++) {
            if (is_special(text.p[i]))
                return err_set(info, ERR_INVALID, "address",
                               "the name has a '%c'; put the name in double quotes, or give it in "
                               "a field of its own",
                               text.p[i]);
            p[n++] = text.p[i];
        }
    }
    *out = str_make(p, n);
    return OK;
}

NODISCARD static enum err parse_without_bracket(struct address *out, struct str text,
                                                struct arena *a, struct errinfo *info) {
    size_t open = find_plain(text, 0, "<");
    if (open == text.n)
        return parse_one(out, text, a, info);
    return err_set(info, ERR_INVALID, "address", "%s",
                   find_plain(text, open, ">") < text.n ? "something stands after the '>'"
                                                        : "a '<' has no '>' after it");
}

NODISCARD static enum err parse_one_named(struct address *out, struct str text, struct arena *a,
                                          struct errinfo *info) {
    *out = (struct address){0};
    if (text.n > 8 * LIMIT_ADDRESS + 2 * LIMIT_DISPLAY_NAME)
        return err_set(info, ERR_INVALID, "address", "the address is too long");
    const char *fault = text_fault(text);
    if (fault)
        return err_set(info, ERR_INVALID, "address", "%s", fault);
    text = str_trim(text);
    if (text.n == 0 || text.p[text.n - 1] != '>')
        return parse_without_bracket(out, text, a, info);

    /* the bracket that opens the address is the last one: neither a name without quotes nor an
     * address may hold one */
    size_t open = text.n;
    while (open > 0 && text.p[open - 1] != '<')
        open--;
    if (open == 0)
        return err_set(info, ERR_INVALID, "address", "a '>' has no '<' before it");
    struct str phrase = str_trim(str_slice(text, 0, open - 1)), name = STR_NONE;
    enum err e = parse_phrase(phrase, a, &name, info);
    if (e == OK)
        e = parse_one(out, str_slice(text, open, text.n - 1), a, info);
    if (e == OK)
        e = address_set_name(out, name, a, info);
    if (e != OK)
        *out = (struct address){0};
    return e;
}

enum err address_parse_named(struct address *out, struct str text, struct arena *a,
                             struct errinfo *info) {
    return name_several(text, parse_one_named(out, text, a, info), info);
}

enum err address_set_name(struct address *addr, struct str name, struct arena *a,
                          struct errinfo *info) {
    const char *fault = text_fault(name);
    if (fault)
        return err_set(info, ERR_INVALID, "name", "%s", fault);
    if (name.n > LIMIT_DISPLAY_NAME)
        return err_set(info, ERR_INVALID, "name", "the name is longer than %d octets",
                       LIMIT_DISPLAY_NAME);
    addr->name = name.n > 0 ? arena_dup(a, name) : STR_NONE;
    return OK;
}

bool address_equal(const struct address *a, const struct address *b) {
    return str_equal(a->local, b->local) && str_equal_nocase(a->domain, b->domain);
}
