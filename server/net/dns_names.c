#include "server/net/dns_names.h"

#include <string.h>

bool dns_name_is_below(struct str name, struct str zone) {
    if (zone.n > 0 && zone.p[zone.n - 1] == '.')
        zone.n--;
    return zone.n > 0 && str_ends_with_nocase(name, zone) &&
           (name.n == zone.n || name.p[name.n - zone.n - 1] == '.');
}

bool dns_name_is_valid(struct str s) {
    size_t label = 0;
    if (s.n == 0 || s.n > 253)
        return false;
    for (size_t i = 0; i < s.n; i++) {
        char c = s.p[i];
        if (c == '.' ? label == 0 : !(ascii_is_alnum(c) || c == '-' || c == '_'))
            return false;
        label = c == '.' ? 0 : label + 1;
        if (label > 63)
            return false;
    }
    return label > 0;
}

/* The next word of a line of hosts(5) or resolv.conf(5), whose TABs are spaces by now. */
struct str dns_file_word(struct str *rest) {
    struct str word = STR("");
    while (word.n == 0 && !str_is_absent(*rest))
        word = str_split(rest, ' ');
    return word;
}

struct str dns_file_line(char *line, int size, FILE *f) {
    if (!fgets(line, size, f))
        return STR_NONE;
    for (char *tab = line; (tab = strchr(tab, '\t')) != NULL;)
        *tab = ' ';
    char *comment = strpbrk(line, "#;");
    if (comment)
        *comment = 0;
    return str_trim(str_of(line));
}

/* Search list and ndots, which libunbound leaves to us (resolv.conf(5)). */
void dns_names_read(struct dns_names *n, const char *resolv_conf) {
    *n = (struct dns_names){.ndots = 1};
    FILE *f = fopen(resolv_conf, "re");
    if (!f)
        return;
    char line[1024];
    for (struct str rest; !str_is_absent(rest = dns_file_line(line, sizeof line, f));) {
        struct str word = dns_file_word(&rest);
        bool is_options = str_equal(word, STR("options"));
        if (!is_options && !str_equal(word, STR("search")) && !str_equal(word, STR("domain")))
            continue;
        if (!is_options)
            n->search_count = 0; /* the last line counts */
        while ((word = dns_file_word(&rest)).n > 0) {
            uint64_t dots;
            if (is_options) {
                if (str_starts_with(word, STR("ndots:")) &&
                    str_parse_u64(str_from(word, 6), 15, &dots) == OK)
                    n->ndots = (size_t)dots;
            } else if (word.n < sizeof n->search[0] && !str_equal(word, STR(".")) &&
                       n->search_count < DNS_SEARCH_MAX) {
                if (word.p[word.n - 1] == '.')
                    word.n--;
                memcpy(n->search[n->search_count], word.p, word.n);
                n->search[n->search_count++][word.n] = 0;
            }
        }
    }
    fclose(f);
}

bool dns_name_is_private(struct str name) {
    static const struct str zones[] = {
        STR(".internal"), STR(".local"),    STR(".localdomain"), STR(".lan"),       STR(".home"),
        STR(".corp"),     STR(".intranet"), STR(".private"),     STR(".home.arpa"), STR(".test"),
    };
    if (str_find_char(name, '.') < 0)
        return true;
    for (size_t i = 0; i < sizeof zones / sizeof *zones; i++)
        if (str_ends_with_nocase(name, zones[i]))
            return true;
    return false;
}

static size_t add_name(char to[256], struct str name, const char *suffix) {
    int n = snprintf(to, 256, "%.*s%s%s", STR_ARG(name), *suffix ? "." : "", suffix);
    return n > 0 && n < 256 && dns_name_is_valid(str_of(to));
}

/* resolv.conf(5): fewer dots than `ndots`: the search list first. Unlike there, a name with a dot
 * is tried as it stands first (and where it is there, ends the search: dns.c), and with more dots
 * it is never extended: nobody's wildcard shall get what was meant for the public name. */
size_t dns_names_collect(const struct dns_names *n, struct str name, bool use_search,
                         char out[DNS_NAMES_MAX][256]) {
    size_t count = 0, dots = 0;
    if (!dns_name_is_valid(name)) /* printed, it would end at a NUL */
        return 0;
    for (size_t i = 0; i < name.n; i++)
        dots += name.p[i] == '.';
    bool search = use_search && dots < n->ndots;
    if (!search || dots > 0)
        count += add_name(out[count], name, "");
    for (size_t i = 0; search && i < n->search_count; i++)
        count += add_name(out[count], name, n->search[i]);
    if (search && dots == 0)
        count += add_name(out[count], name, "");
    return count;
}
