/* field: what is known about header fields by their names: which a caller may not set because the
 * composer writes them, which stand once, and which have a syntax of their own (RFC 2369, 2919,
 * 8058, 5322 3.6.4). Thread: any. */
#pragma once

#include "server/base/str.h"

enum field_syntax {
    FIELD_TEXT,     /* unstructured */
    FIELD_URIS,     /* RFC 2369 2: <uri>, <uri> */
    FIELD_LIST_ID,  /* RFC 2919 3: phrase <id> */
    FIELD_ONE_CLICK /* RFC 8058 3.1 */
};

struct field_rule {
    const char *name;    /* ends in "*" when it is the start of names */
    const char *instead; /* not NULL: reserved, and this is what to do instead */
    enum field_syntax syntax;
    bool once;
};

/* Never NULL: names without a rule of their own are text. */
const struct field_rule *field_rule_of(struct str name);
/* What is wrong with a value of that syntax, or NULL. The value holds no control character. */
const char *field_value_fault(const struct field_rule *rule, struct str value);
/* Cuts the next "<uri>" off a value that has no fault; false at its end. */
bool field_next_uri(struct str *rest, struct str *uri);
/* "<left@right>", as far as ids seen in received mail go: RFC 5322 3.6.4 and the characters beyond
 * it that are in use and that no parser misreads. */
bool field_is_message_id(struct str s);
