#include "server/smtp/path.h"

/* Position of the bracket that ends the path: quoted strings may hold others. */
static ptrdiff_t find_end(struct str s) {
    bool is_quoted = false;
    for (size_t i = 0; i < s.n; i++) {
        if (is_quoted && s.p[i] == '\\')
            i++;
        else if (s.p[i] == '"')
            is_quoted = !is_quoted;
        else if (s.p[i] == '>' && !is_quoted)
            return (ptrdiff_t)i;
        else if (s.p[i] == '<' && !is_quoted)
            return -1;
    }
    return -1;
}

static bool has_bad_octet(struct str s) {
    bool is_quoted = false, is_pair = false; /* is_pair: behind the backslash of a quoted-pair */
    for (size_t i = 0; i < s.n; i++) {
        unsigned char c = (unsigned char)s.p[i];
        if (c < 0x20 || c == 0x7f)
            return true;
        if (is_pair)
            is_pair = false;
        else if (is_quoted && c == '\\')
            is_pair = true;
        else if (c == '"')
            is_quoted = !is_quoted;
        else if (c == ' ' && !is_quoted)
            return true;
    }
    return is_quoted;
}

/* The '@' before the domain: the last one, since a domain has none. */
static ptrdiff_t find_at(struct str s) {
    for (size_t i = s.n; i > 0; i--)
        if (s.p[i - 1] == '@')
            return (ptrdiff_t)(i - 1);
    return -1;
}

static enum err check_mailbox(struct str m) {
    ptrdiff_t at = find_at(m);
    if (at <= 0) /* R2: <postmaster> alone is a mailbox of every server */
        return str_equal_nocase(m, STR("postmaster")) ? OK : ERR_INVALID;
    size_t domain = m.n - (size_t)at - 1;
    if (domain == 0)
        return ERR_INVALID;
    _Static_assert(PATH_DOMAIN_MAX > PATH_MAX_OCTETS - 3, "a longer domain makes too long a path");
    if (at > PATH_LOCAL_MAX)
        return ERR_LIMIT;
    return OK;
}

enum err path_parse(struct str text, struct str *mailbox, struct str *parameters, bool *is_utf8) {
    while (text.n > 0 && text.p[0] == ' ') /* "MAIL FROM: <a@b>" is everywhere */
        text = str_from(text, 1);
    if (text.n == 0 || text.p[0] != '<')
        return ERR_INVALID;
    text = str_from(text, 1);
    ptrdiff_t end = find_end(text);
    if (end < 0)
        return ERR_INVALID;
    struct str path = str_slice(text, 0, (size_t)end);
    struct str rest = str_from(text, (size_t)end + 1);
    if (rest.n > 0 && rest.p[0] != ' ')
        return ERR_INVALID;
    if (path.n + 2 > PATH_MAX_OCTETS)
        return ERR_LIMIT;
    if (path.n > 0 && path.p[0] == '@') {
        ptrdiff_t colon = str_find_char(path, ':');
        if (colon < 0)
            return ERR_INVALID;
        path = str_from(path, (size_t)colon + 1);
        if (path.n == 0)
            return ERR_INVALID;
    }
    if (has_bad_octet(path))
        return ERR_INVALID;
    *is_utf8 = !str_is_ascii(path);
    if (*is_utf8 && !str_is_utf8(path))
        return ERR_INVALID;
    *mailbox = path;
    *parameters = str_trim(rest);
    return path.n == 0 ? OK : check_mailbox(path);
}
