/* reply: one SMTP reply (RFC 5321 4.2), with its enhanced status code when it has a credible one
 * (RFC 2034, RFC 3463).
 *
 * reply_parser takes bytes as they come and yields whole replies; every hostile form (T8) ends in
 * ERR_INVALID or ERR_LIMIT and the session is to be closed. Same code on each line, last line with
 * SP or nothing (C16); bare code accepted (C14). Thread: owner.
 */
#pragma once

#include "server/base/buf.h"

struct enhanced_code {
    uint16_t class_, subject,
        detail; /* class_ 0: none given, or it contradicts the reply code (C43) */
};

struct reply {
    int code; /* 200..599; 0: none */
    struct enhanced_code enhanced;
    size_t line_count;
    struct str text; /* lines joined by LF, without the reply code and without the enhanced code
                        when that is in `enhanced`; bytes made valid UTF-8 and free of controls */
};

struct reply_parser;
struct reply_parser *reply_parser_new(void);
void reply_parser_free(struct reply_parser **pp);
/* Consumes from the front of *in. OK: *out is complete and lives until the next call, *in is what
 * follows; ERR_AGAIN: needs more, all consumed; ERR_INVALID or ERR_LIMIT: not SMTP, `info` says
 * why. */
NODISCARD enum err reply_parse(struct reply_parser *p, struct str *in, struct reply *out,
                               struct errinfo *info);
/* "5.7.1" at the front of text. */
struct enhanced_code enhanced_code_parse(struct str text, int reply_code);
void enhanced_code_print(struct enhanced_code e, char out[16]); /* "" when none */
