/* header: the fields of a header block, written with folding and the encodings that each place
 * allows (RFC 5322 2.2, 3.2; RFC 2047; RFC 2231). It reads nothing: see mime_read for that.
 *
 * A field is begun, filled from left to right, and ended; every put starts with the space that
 * separates it from what came before and folds there when the line would pass HEADER_LINE:
 *
 *     struct header_writer w = HEADER_WRITER(&buf);
 *     header_begin(&w, STR("From"));
 *     header_put_mailbox(&w, &from, false);
 *     header_end(&w);
 *
 * The text given is checked before (header_text_check); a CR, LF or NUL that comes here all the
 * same is never written: the writer fails and header_status() says ERR_INTERNAL (T3).
 *
 * Thread: owner.
 */
#pragma once

#include "server/base/buf.h"
#include "server/mail/address.h"

enum {
    HEADER_LINE = 76 /* RFC 2047 2: a line with an encoded-word; below RFC 5322's 78 */
};

struct header_writer {
    struct buf *out;
    size_t column;
    bool at_start; /* nothing stands after the colon yet */
    bool failed;
};
#define HEADER_WRITER(buffer) ((struct header_writer){.out = (buffer)})

enum header_text { HEADER_TEXT_OK, HEADER_TEXT_CONTROL, HEADER_TEXT_NOT_UTF8 };
/* What stands in the way of putting a text into a header: C0 (TAB passes when allow_tab), DEL, C1
 * (U+0080..U+009F), U+2028, U+2029; or it is not UTF-8. */
enum header_text header_text_check(struct str text, bool allow_tab);
bool header_is_name(struct str name); /* RFC 5322 2.2: 33..126 without ":" */

void header_begin(struct header_writer *w, struct str name);
void header_end(struct header_writer *w);
/* One word that is neither encoded nor broken. */
void header_put_word(struct header_writer *w, struct str word);
/* ASCII text as it is, folded at its white space only; never right after the colon, because some
 * readers then take the space for a part of the text. */
void header_put_raw(struct header_writer *w, struct str text);
/* Unstructured text; the words that need it go as encoded-words (RFC 2047 5 (1)). Reading gives the
 * same text back, white space included. */
void header_put_text(struct header_writer *w, struct str text);
/* Display name as atoms, quoted-string or encoded-words, then <address>; a comma when more follow.
 */
void header_put_mailbox(struct header_writer *w, const struct address *addr, bool more_follow);
/* "; name=value" with the value as quoted-string, or extended (RFC 2231) when it is not
 * us-ascii. */
void header_put_parameter(struct header_writer *w, const char *name, struct str value);
NODISCARD enum err header_status(const struct header_writer *w);
