/* encode: content as lines that every mail path carries (RFC 2045 6): us-ascii, CRLF, short.
 *
 * encode_choose() looks at a text once and says how it goes: as it is when it is us-ascii in short
 * lines with nothing that a path may change ("From " at the start of a line, a lone ".", white
 * space at the end), else by quoted-printable or base64, whichever is shorter. What the writers put
 * out has no line end after its last line unless the text itself ends in one and it is not base64:
 * the CRLF that follows belongs to the boundary or to the message's end.
 *
 *     enum encoding e = encode_choose(text);
 *     buf_printf(out, "Content-Transfer-Encoding: %s\r\n\r\n", encoding_name(e));
 *     encode_text(text, e, out);
 *
 * Line ends of a text are any of CRLF, LF and CR; each becomes CRLF before it is encoded (RFC 2045
 * 6.8, RFC 2046 4.1.1). Thread: any.
 */
#pragma once

#include "server/base/buf.h"

enum encoding { ENCODING_7BIT, ENCODING_QUOTED_PRINTABLE, ENCODING_BASE64, ENCODING_COUNT };

enum {
    ENCODE_LINE = 76,     /* of encoded text, without CRLF (RFC 2045 6.7, 6.8) */
    ENCODE_LINE_7BIT = 78 /* of text that goes unencoded (RFC 5322 2.1.1) */
};

const char *encoding_name(enum encoding e); /* "7bit" */
enum encoding encode_choose(struct str text);
void encode_text(struct str text, enum encoding e, struct buf *out);
/* Bytes as they are, in lines of 76 characters. */
void encode_base64_lines(struct str bytes, struct buf *out);
/* Cuts the first line off `rest`: *line without its line end, *has_end false only for a last line
 * that had none. False when nothing is left. */
bool encode_next_line(struct str *rest, struct str *line, bool *has_end);
/* True when the bytes may stand in a message as they are (7bit, RFC 2045 2.7): us-ascii without
 * NUL, lines of at most 998 octets, and line ends that are all CRLF or all LF. */
bool encode_is_7bit(struct str bytes);
