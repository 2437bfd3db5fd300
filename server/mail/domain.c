#include "server/mail/domain.h"

#include <idn2.h>

#include "server/base/limits.h"

enum { LABEL_MAX = 63 };

/* What is wrong with labels in ASCII, or NULL (RFC 1035 2.3.1, RFC 1123 2.1). */
static const char *labels_fault(struct str name, size_t *labels, bool *is_last_numeric) {
    *labels = 0;
    *is_last_numeric = false;
    if (name.n == 0)
        return "the domain is empty";
    if (name.n > LIMIT_DOMAIN)
        return "the domain is longer than 253 octets";
    struct str rest = name;
    while (!str_is_absent(rest)) {
        struct str label = str_split(&rest, '.');
        if (label.n == 0)
            return "the domain has an empty label";
        if (label.n > LABEL_MAX)
            return "a label of the domain is longer than 63 octets";
        if (label.p[0] == '-' || label.p[label.n - 1] == '-')
            return "a label of the domain starts or ends with a hyphen";
        *is_last_numeric = true;
        for (size_t i = 0; i < label.n; i++) {
            if (!ascii_is_alnum(label.p[i]) && label.p[i] != '-')
                return "the domain has a character that is no letter, digit or hyphen";
            if (!ascii_is_digit(label.p[i]))
                *is_last_numeric = false;
        }
        ++*labels;
    }
    return NULL;
}

/* The same of a whole domain name (RFC 3696 2). */
static const char *ldh_fault(struct str name, bool single_ok) {
    size_t labels = 0;
    bool is_last_numeric = false;
    const char *fault = labels_fault(name, &labels, &is_last_numeric);
    if (fault)
        return fault;
    if (labels < 2 && !single_ok)
        return "the domain has a single label; a full name is needed";
    /* no top-level domain is a number: this is an IPv4 address without its brackets */
    if (is_last_numeric)
        return "the domain ends in a number, as no name does";
    return NULL;
}

static struct str lower(struct str s, struct arena *a) {
    char *p = arena_dupz(a, s);
    for (size_t i = 0; i < s.n; i++)
        p[i] = ascii_lower(p[i]);
    return str_make(p, s.n);
}

NODISCARD static enum err from_unicode(struct str text, struct arena *a, struct str *out,
                                       struct errinfo *info) {
    if (!str_is_utf8(text) || memchr(text.p, 0, text.n))
        return err_set(info, ERR_INVALID, "domain", "the domain is not valid UTF-8");
    char *ascii = NULL;
    /* Not with IDN2_USE_STD3_ASCII_RULES: libidn2 then drops a character that maps to one outside
     * LDH (U+2100 "a/c"), which makes another domain of it; without, ldh_fault() sees what it maps
     * to. */
    int rc = idn2_to_ascii_8z(arena_dupz(a, text), &ascii, IDN2_NFC_INPUT | IDN2_NONTRANSITIONAL);
    NEED(rc != IDN2_MALLOC); /* it says nothing about the name */
    if (rc != IDN2_OK)
        return err_set(info, ERR_INVALID, "domain",
                       "the domain is no international domain name: %s", idn2_strerror(rc));
    *out = arena_dup(a, str_of(ascii));
    idn2_free(ascii);
    return OK;
}

enum err domain_parse(struct str text, bool single_ok, struct arena *a, struct str *out,
                      struct errinfo *info) {
    /* A U-label is at most four octets for each of its characters, and shorter as an A-label. */
    if (text.n > 4 * LIMIT_DOMAIN)
        return err_set(info, ERR_INVALID, "domain", "the domain is longer than 253 octets");
    struct str name = text;
    /* Names in ASCII do not pass libidn2: A-labels that IDNA 2008 disallows exist in the DNS and
     * receive mail; as octets they are compared and looked up all the same. */
    if (!str_is_ascii(text)) {
        enum err e = from_unicode(text, a, &name, info);
        if (e != OK)
            return e;
    }
    if (name.n > 0 && name.p[name.n - 1] == '.')
        name.n--;
    const char *fault = ldh_fault(name, single_ok);
    if (fault)
        return err_set(info, ERR_INVALID, "domain", "%s", fault);
    *out = lower(name, a);
    return OK;
}

enum err domain_parse_selector(struct str text, struct arena *a, struct str *out,
                               struct errinfo *info) {
    size_t labels = 0;
    bool is_last_numeric = false;
    if (labels_fault(text, &labels, &is_last_numeric))
        return err_set(info, ERR_INVALID, "selector",
                       "a selector is labels of letters, digits and hyphens with dots between");
    *out = lower(text, a);
    return OK;
}

bool domain_is_within(struct str domain, struct str parent) {
    if (parent.n == 0 || domain.n < parent.n)
        return false;
    size_t cut = domain.n - parent.n;
    if (!str_equal_nocase(str_from(domain, cut), parent))
        return false;
    return cut == 0 || domain.p[cut - 1] == '.';
}

struct str domain_to_unicode(struct str a_label, struct arena *a) {
    char *text = NULL;
    struct str out = a_label;
    if (str_find(a_label, STR("xn--")) >= 0 &&
        idn2_to_unicode_8z8z(arena_dupz(a, a_label), &text, IDN2_NONTRANSITIONAL) == IDN2_OK)
        out = str_of(text);
    out = arena_dup(a, out);
    idn2_free(text);
    return out;
}

bool domain_is_literal(struct str s) {
    return s.n > 2 && s.p[0] == '[' && s.p[s.n - 1] == ']';
}
