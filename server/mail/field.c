#include "server/mail/field.h"

#include "server/base/limits.h"

static const char written[] = "it is written by the relay";
static const char bounces[] = "bounces go to the bounce address of the domain, or to 'sender'";

static const struct field_rule rule[] = {
    {"from", "use the field 'from'", FIELD_TEXT, true},
    {"sender", "use the field 'sender'", FIELD_TEXT, true},
    {"reply-to", "use the field 'reply_to'", FIELD_TEXT, true},
    {"to", "use the field 'to'", FIELD_TEXT, true},
    {"cc", "use the field 'cc'", FIELD_TEXT, true},
    {"bcc", "use the field 'bcc'", FIELD_TEXT, true},
    {"apparently-to", "use the field 'to' or 'bcc'", FIELD_TEXT, true},
    {"subject", "use the field 'subject'", FIELD_TEXT, true},
    {"in-reply-to", "use the field 'in_reply_to'", FIELD_TEXT, true},
    {"references", "use the field 'references'", FIELD_TEXT, true},
    {"return-path", bounces, FIELD_TEXT, true},
    {"errors-to", bounces, FIELD_TEXT, true},
    {"date", written, FIELD_TEXT, true},
    {"message-id", written, FIELD_TEXT, true},
    {"content-*", "it is written by the relay; use 'text', 'html' and 'attachments'", FIELD_TEXT,
     true},
    {"mime-*", written, FIELD_TEXT, true},
    {"dkim-signature", "signatures are made by the relay with the keys of the domain", FIELD_TEXT,
     true},
    {"domainkey-signature", "signatures are made by the relay with the keys of the domain",
     FIELD_TEXT, true},
    {"arc-*", "it belongs to the servers on the way", FIELD_TEXT, true},
    {"authentication-results", "it belongs to the servers on the way", FIELD_TEXT, true},
    {"received*", "it belongs to the servers on the way", FIELD_TEXT, true},
    {"delivered-to", "it belongs to the servers on the way", FIELD_TEXT, true},
    {"original-recipient", "it belongs to the servers on the way", FIELD_TEXT, true},
    {"resent-*", "a message is not resent through the relay", FIELD_TEXT, true},
    {"list-unsubscribe", NULL, FIELD_URIS, true},
    {"list-unsubscribe-post", NULL, FIELD_ONE_CLICK, true},
    {"list-help", NULL, FIELD_URIS, true},
    {"list-subscribe", NULL, FIELD_URIS, true},
    {"list-post", NULL, FIELD_URIS, true},
    {"list-owner", NULL, FIELD_URIS, true},
    {"list-archive", NULL, FIELD_URIS, true},
    {"list-id", NULL, FIELD_LIST_ID, true},
    {"auto-submitted", NULL, FIELD_TEXT, true},
    {"precedence", NULL, FIELD_TEXT, true},
    {"importance", NULL, FIELD_TEXT, true},
    {"priority", NULL, FIELD_TEXT, true},
    {"x-priority", NULL, FIELD_TEXT, true},
    {"disposition-notification-to", NULL, FIELD_TEXT, true},
    {"feedback-id", NULL, FIELD_TEXT, true},
};

static const struct field_rule text_rule = {"*", NULL, FIELD_TEXT, false};

const struct field_rule *field_rule_of(struct str name) {
    for (size_t i = 0; i < sizeof rule / sizeof *rule; i++) {
        if (name.n == 0 || ascii_lower(name.p[0]) != rule[i].name[0])
            continue;
        struct str known = str_of(rule[i].name);
        if (str_ends_with(known, STR("*"))
                ? str_starts_with_nocase(name, str_slice(known, 0, known.n - 1))
                : str_equal_nocase(name, known))
            return &rule[i];
    }
    return &text_rule;
}

static struct str skip_space(struct str s) {
    while (s.n > 0 && (s.p[0] == ' ' || s.p[0] == '\t'))
        s = str_from(s, 1);
    return s;
}

bool field_next_uri(struct str *rest, struct str *uri) {
    struct str s = skip_space(*rest);
    ptrdiff_t end = str_find_char(s, '>');
    if (s.n == 0 || s.p[0] != '<' || end < 0)
        return false;
    *uri = str_slice(s, 0, (size_t)end + 1);
    s = skip_space(str_from(s, (size_t)end + 1));
    *rest = s.n > 0 && s.p[0] == ',' ? str_from(s, 1) : s;
    return true;
}

/* "<scheme:rest>" of printable us-ascii (RFC 3986 3.1; RFC 2369 2: no white space inside). */
static bool is_uri(struct str s) {
    s = str_slice(s, 1, s.n - 1);
    ptrdiff_t colon = str_find_char(s, ':');
    if (colon <= 0 || (size_t)colon + 1 == s.n || ascii_is_digit(s.p[0]))
        return false;
    for (size_t i = 0; i < s.n; i++) {
        if (s.p[i] <= 32 || s.p[i] > 126 || s.p[i] == '<' || s.p[i] == '"')
            return false;
        if (i < (size_t)colon && !ascii_is_alnum(s.p[i]) && !strchr("+-.", s.p[i]))
            return false;
    }
    return true;
}

static const char *uris_fault(struct str value) {
    struct str rest = value, uri;
    size_t count = 0;
    while (field_next_uri(&rest, &uri)) {
        if (!is_uri(uri))
            return "between the angle brackets stands no URI without white space";
        if (uri.n > LIMIT_LINE - 2)
            return "a URI is longer than a line may be (998 octets)";
        count++;
    }
    if (count == 0 || skip_space(rest).n > 0)
        return "the value is not a list of <URI>, <URI>";
    return NULL;
}

static const char *list_id_fault(struct str value) {
    value = str_trim(value);
    size_t open = value.n;
    while (open > 0 && value.p[open - 1] != '<')
        open--;
    if (open == 0 || value.p[value.n - 1] != '>')
        return "the value does not end in <list.id>";
    struct str id = str_slice(value, open, value.n - 1);
    if (id.n == 0 || id.n > 255)
        return "the list id has not 1 to 255 octets";
    for (size_t i = 0; i < id.n; i++) {
        if (id.p[i] <= 32 || id.p[i] > 126 || strchr("<>()[]:;@\\,\"", id.p[i]))
            return "the list id has a character that is not allowed";
    }
    return NULL;
}

const char *field_value_fault(const struct field_rule *r, struct str value) {
    switch (r->syntax) {
    case FIELD_TEXT:
        return NULL;
    case FIELD_URIS:
        /* RFC 2369 3.4: nobody may post */
        if (str_equal(value, STR("NO")) && strcmp(r->name, "list-post") == 0)
            return NULL;
        return uris_fault(value);
    case FIELD_LIST_ID:
        return list_id_fault(value);
    case FIELD_ONE_CLICK:
        return str_equal(value, STR("List-Unsubscribe=One-Click"))
                   ? NULL
                   : "the value is not List-Unsubscribe=One-Click";
    }
    return NULL;
}

bool field_is_message_id(struct str s) {
    if (s.n < 5 || s.n > LIMIT_LINE - 98 || s.p[0] != '<' || s.p[s.n - 1] != '>')
        return false;
    struct str inner = str_slice(s, 1, s.n - 1);
    ptrdiff_t at = str_find_char(inner, '@');
    if (at <= 0 || (size_t)at + 1 == inner.n ||
        str_find_char(str_from(inner, (size_t)at + 1), '@') >= 0)
        return false;
    for (size_t i = 0; i < inner.n; i++) {
        if (inner.p[i] <= 32 || inner.p[i] > 126 || strchr("<>()\\\",;", inner.p[i]))
            return false;
    }
    return true;
}
