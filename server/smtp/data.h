/* data: what follows DATA, read as it comes: undoes dot-stuffing (RFC 5321 4.5.2) and finds the one
 * true end. Nothing is normalised: a CR or LF alone, or a NUL, is ERR_INVALID (T2). Pure. Thread:
 * owner. */
#pragma once

#include "server/base/buf.h"

struct data_reader {
    enum {
        DATA_LINE_START,
        DATA_DOT,    /* a dot at the start of a line */
        DATA_DOT_CR, /* and a CR after it */
        DATA_TEXT,
        DATA_CR,
    } state;
    bool is_too_large; /* what no longer fitted was dropped; the end is still looked for */
    bool is_short;     /* the same for want of memory */
    size_t octets;     /* seen, for progress */
};

void data_init(struct data_reader *d);
/* OK: the end was found, *in is what follows; ERR_AGAIN: needs more, all consumed; ERR_INVALID.
 * `out` may reach its ceiling: then is_too_large is set; or get no memory: is_short. */
NODISCARD enum err data_read(struct data_reader *d, struct str *in, struct buf *out);
