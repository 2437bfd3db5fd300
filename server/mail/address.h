/* address: one mailbox as RFC 5321 4.1.2 Mailbox, with an optional display name (RFC 5322 3.4).
 *
 * There is one parser (T4, T5): the parsed form is what is stored, compared, put on the wire and
 * into headers. API input is "a@b" or "Name <a@b>"; comments, groups, source routes, several
 * addresses and control characters are refused. The domain is kept as an A-label in lower case
 * (mail/domain.h), the local part with its case (RFC 5321 2.4) and with the least quoting that it
 * needs. A local part outside ASCII needs SMTPUTF8 at the next hop.
 *
 * Thread: immutable after parsing; strings live in the arena given.
 */
#pragma once

#include "server/base/arena.h"

struct address {
    struct str
        email; /* local@domain, ready for MAIL and RCPT: local part quoted only where needed */
    struct str local;   /* as in email, before the '@' */
    struct str domain;  /* A-label, lower case, or an address literal "[192.0.2.1]" */
    struct str name;    /* display name, UTF-8, absent when none */
    bool is_utf8_local; /* the local part has octets above 127 */
};

/* "a@b" only. ERR_INVALID with info->text saying what is wrong and where. */
NODISCARD enum err address_parse(struct address *out, struct str text, struct arena *a,
                                 struct errinfo *info);
/* "a@b", "<a@b>", "Name <a@b>", "\"Quoted, Name\" <a@b>". */
NODISCARD enum err address_parse_named(struct address *out, struct str text, struct arena *a,
                                       struct errinfo *info);
/* Does a text that is no address name several, with commas or semicolons between? */
bool address_is_several(struct str text);
/* Checks and sets a display name that came in a field of its own. */
NODISCARD enum err address_set_name(struct address *addr, struct str name, struct arena *a,
                                    struct errinfo *info);
/* Same mailbox: domain compared as A-label, local part byte for byte. */
bool address_equal(const struct address *a, const struct address *b);
