/* command: the lines that a client sends, each complete with its CRLF, put into a buf. The last
 * place where an address could bring something else onto the wire (T4, C12): a byte that does not
 * belong into MAIL or RCPT is ERR_INVALID and nothing is written. Pure. Thread: owner of the buf.
 */
#pragma once

#include "server/base/buf.h"

struct command_mail {
    struct str from;     /* empty: <> */
    bool with_size;      /* SIZE= (RFC 1870), only when offered (C8) */
    uint64_t size_bytes; /* the message without dot-stuffing */
    bool with_8bitmime;  /* BODY=8BITMIME */
    bool with_smtputf8;  /* SMTPUTF8; lets octets above 127 into addresses */
};

void command_ehlo(struct buf *out, bool is_esmtp, const char *name);
NODISCARD enum err command_mail(struct buf *out, const struct command_mail *m);
NODISCARD enum err command_rcpt(struct buf *out, struct str to, bool with_smtputf8);
