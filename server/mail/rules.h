/* rules: what the words of a refusal mean. A table of patterns with the class that each stands for;
 * first match wins.
 *
 * Receivers put the reason for a refusal into words, and use enhanced codes loosely; so
 * mail/outcome asks here first. Each rule carries lines that it must match and lines that it must
 * not (rules_at() shows them to the test). To add a rule: put it into the table of rules.c before
 * more general ones, with at least one line of each kind, and add the whole reply to the corpus.
 *
 * Patterns are compiled once, by whoever comes first; matching is bounded in steps, depth and
 * memory, and looks at the first RULES_TEXT_MAX octets. Pure apart from that. Thread: any.
 */
#pragma once

#include "server/mail/outcome.h"

enum { RULES_TEXT_MAX = 2048 };

/* When a rule overrides what the first digit of the code says. */
enum rule_effect {
    RULE_AS_CODE, /* 4xx deferred, 5xx bounced */
    RULE_DEFER,   /* deferred even when 5xx: this receiver says 5 and means 4 */
    RULE_BOUNCE,  /* bounced even when 4xx: a repetition is known to be futile */
};

struct rule {
    const char *name;    /* for tests and traces */
    const char *pattern; /* PCRE2, without case, UTF-8 not assumed */
    char digit;          /* '4' or '5': only such codes; 0: both */
    unsigned stages;     /* bits 1 << enum stage; 0: all */
    enum verdict_class class_;
    enum rule_effect effect;
    bool is_too_many_recipients; /* the others of the transaction go at once in a new one */
    const char *match[4];        /* NULL after the last */
    const char *miss[3];
};

/* Compiles the rules, to machine code where memory may become executable; else that is done at the
 * first look, and after base/confine it may not. */
void rules_prepare(void);
/* The first rule that fits, or NULL. `text` as in struct reply. */
const struct rule *rules_find(int code, struct str text, enum stage stage);

size_t rules_count(void);
const struct rule *rules_at(size_t i); /* ASSERTs i < count */
/* Does this rule's pattern match, whatever code and stage? */
bool rule_matches(size_t i, struct str text);
