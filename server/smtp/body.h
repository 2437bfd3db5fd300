/* body: a message as the octets that follow 354, dot-stuffed (RFC 5321 4.5.2), or as those of one
 * BDAT chunk (RFC 3030 2), without copying it.
 *
 * T1, the sending side of smuggling: what leaves here always matches
 * ^([^\r\n\0]{0,999}\r\n)*\.\r\n$ because body_check() refuses every message for which that would
 * not be so; nothing is repaired. Pure: body_next() yields pieces, the session writes them.
 *
 *     if (body_check(pieces, &is_8bit, &info) != OK) ...refuse, before MAIL is sent
 *     body_init(&b, pieces);
 *     while (body_next(&b, max, &piece)) write(piece);
 *
 * Thread: owner.
 */
#pragma once

#include "server/mail/message.h"

enum { BODY_LINE_MAX = 998 }; /* without CRLF and without the dot that is added */

struct body {
    struct message_pieces pieces;
    size_t piece, at;
    bool is_line_start;  /* what comes next begins a line */
    bool is_dot_doubled; /* the dot at `at` was sent once: now it begins the run */
    bool is_ended;       /* the terminator was given out */
};

/* ERR_INVALID: a CR or LF alone, a NUL, a line over BODY_LINE_MAX octets. A message that does not
 * end in CRLF is fine (C9: it is added). *is_8bit: there are octets above 127. */
NODISCARD enum err body_check(struct message_pieces m, bool *is_8bit, struct errinfo *info);

/* The pieces must have passed body_check() and outlive the body. */
void body_init(struct body *b, struct message_pieces m);
/* The next octets for the wire, 1 to `max` (at least 8), borrowed from the message or static.
 * False: the terminator was the last. */
bool body_next(struct body *b, size_t max, struct str *out);

/* The same message as the one chunk of BDAT: its octets as they are, and a CRLF when it does not
 * end in one. Returns how many octets `out` has, borrowed from the message or static. */
enum { BODY_CHUNK_PIECES = 3 };
size_t body_chunk(struct message_pieces m, struct str out[BODY_CHUNK_PIECES]);
/* T1: has it a line that a server which takes it for commands would begin a message by: DATA or
 * BDAT, in any case, also behind blanks? */
bool body_has_command(struct message_pieces m);
