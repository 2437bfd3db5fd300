/* dkim_canon: the relaxed canonical forms of header fields and body (RFC 6376 3.4.2, 3.4.4), the
 * ones that we sign with. It changes nothing: canonical octets go to a sink (a hash), piece by
 * piece, however the input is cut.
 *
 *     struct dkim_body_canon c = {.sink = put_hash, .context = h};
 *     dkim_body_canon_put(&c, piece);
 *     dkim_body_canon_finish(&c);
 *
 * Input is a composed message: lines end in CRLF. A CR or LF that stands alone is an octet like any
 * other, as verifiers have it. Thread: owner.
 */
#pragma once

#include "server/base/buf.h"

typedef void dkim_sink_fn(void *context, struct str octets);

struct dkim_body_canon {
    dkim_sink_fn *sink;
    void *context;
    size_t empty_lines; /* line ends held back: at the end of the body they are dropped */
    bool has_space;     /* white space held back: before a line end it is dropped */
    bool has_cr;        /* a CR held back: it may begin a line end */
    bool has_text;      /* the body is not empty */
};

void dkim_body_canon_put(struct dkim_body_canon *c, struct str piece);
/* Nothing at all for an empty body; else the last line gets its CRLF. */
void dkim_body_canon_finish(struct dkim_body_canon *c);

/* One field as it stands in a header, folded or not, with or without its last CRLF, as
 * "name:value" without CRLF. */
void dkim_header_canon(struct str field, struct buf *out);

/* Cuts the first field (with its CRLF and folded lines) off a header block; false at the blank line
 * or the end. *name is what stands before the colon, without white space; absent when there is no
 * colon. */
bool dkim_next_field(struct str *rest, struct str *field, struct str *name);
