#include "server/smtp/capability.h"

static bool is_separator(char c) {
    return c == ' ' || c == '='; /* "AUTH=PLAIN LOGIN": what Outlook Express made servers say */
}

static struct str next_word(struct str *rest) {
    size_t n = 0;
    while (rest->n > 0 && is_separator(rest->p[0]))
        *rest = str_from(*rest, 1);
    while (n < rest->n && !is_separator(rest->p[n]))
        n++;
    struct str word = str_slice(*rest, 0, n);
    *rest = str_from(*rest, n);
    return word;
}

static void read_auth(struct capability *c, struct str words) {
    while (words.n > 0) {
        struct str mechanism = next_word(&words);
        if (str_equal_nocase(mechanism, STR("PLAIN")))
            c->auth_plain = true;
        else if (str_equal_nocase(mechanism, STR("LOGIN")))
            c->auth_login = true;
    }
}

static void read_size(struct capability *c, struct str words) {
    c->size_known = true;
    /* a value that is no number, or beyond every message, is no limit for us */
    if (str_parse_u64(next_word(&words), UINT64_MAX, &c->size_max) != OK)
        c->size_max = 0;
}

static void read_line(struct capability *c, struct str line) {
    struct str keyword = next_word(&line);
    if (str_equal_nocase(keyword, STR("PIPELINING")))
        c->pipelining = true;
    else if (str_equal_nocase(keyword, STR("CHUNKING")))
        c->chunking = true;
    else if (str_equal_nocase(keyword, STR("8BITMIME")))
        c->eightbit = true;
    else if (str_equal_nocase(keyword, STR("SMTPUTF8")))
        c->smtputf8 = true;
    else if (str_equal_nocase(keyword, STR("ENHANCEDSTATUSCODES")))
        c->enhanced = true;
    else if (str_equal_nocase(keyword, STR("STARTTLS")))
        c->starttls = true;
    else if (str_equal_nocase(keyword, STR("SIZE")))
        read_size(c, line);
    else if (str_equal_nocase(keyword, STR("AUTH")))
        read_auth(c, line);
}

struct capability capability_parse(const struct reply *r) {
    struct capability c = {0};
    struct str rest = r->text;
    (void)str_split(&rest, '\n');
    while (!str_is_absent(rest))
        read_line(&c, str_split(&rest, '\n'));
    return c;
}
