/* dns_names: which names one question asks for: the search list and `ndots` of resolv.conf(5), and
 * what the public tree cannot know. Pure but for reading that file. Thread: any.
 *
 *     dns_names_read(&n, "/etc/resolv.conf");
 *     char names[DNS_NAMES_MAX][256];
 *     size_t count = dns_names_collect(&n, STR("postfix"), true, names);
 */
#pragma once

#include <stdio.h>

#include "server/base/str.h"

enum { DNS_SEARCH_MAX = 6 /* as resolv.conf(5) */, DNS_NAMES_MAX = DNS_SEARCH_MAX + 1 };

struct dns_names {
    char search[DNS_SEARCH_MAX][256];
    size_t search_count, ndots;
};

/* A file that is not there is one without a search list. */
void dns_names_read(struct dns_names *n, const char *resolv_conf);
/* The names to ask for, in this order; 0: no such name can be in the DNS. */
size_t dns_names_collect(const struct dns_names *n, struct str name, bool use_search,
                         char out[DNS_NAMES_MAX][256]);
/* Whether only a local resolver can know the name; validating it would call every answer bogus. */
bool dns_name_is_private(struct str name);
/* Is it this zone (with or without a final dot), or in it? Not asked of the root. */
bool dns_name_is_below(struct str name, struct str zone);
/* Letters, digits, '-' and '_' in labels as DNS has them. */
bool dns_name_is_valid(struct str name);

/* Lines and words of hosts(5) and resolv.conf(5): comments are cut off, absent at the end. */
struct str dns_file_line(char *line, int size, FILE *f);
struct str dns_file_word(struct str *rest);
