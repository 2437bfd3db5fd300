/* mime: media types, and the structure of a message: multiparts, boundaries, parts (RFC 2045, 2046,
 * 2183, 2387). It writes; reading received MIME is mime_read's.
 *
 * A multipart is opened in the place of a part's (or the message's) Content-Type, then each of its
 * parts is begun, gets its fields, a blank line and its content, and it is closed:
 *
 *     struct mime_writer w = {.out = &buf, .seed = seed, .unencoded = texts, .unencoded_count = 2};
 *     mime_open(&w, "alternative", NULL);
 *     mime_next(&w);  ... fields, blank line, content ...
 *     mime_next(&w);  ... fields, blank line, content ...
 *     mime_close(&w);
 *
 * Boundaries are 128 bits derived from the seed behind "=_", which neither quoted-printable nor
 * base64 can contain; contents that go unencoded are searched, and a boundary found there is
 * replaced by the next one (T14).
 *
 * Thread: owner.
 */
#pragma once

#include "server/base/buf.h"

enum {
    MIME_DEPTH_MAX = 4,
    MIME_PARAMETERS_MAX = 16,
    MIME_BOUNDARY_SIZE = 2 + 32 + 1,
    MIME_TYPE_MAX = 255
};

struct mime_parameter {
    struct str name;
    struct str written; /* value as written, with its quotes */
};

struct mime_type {
    struct str type, subtype;
    struct mime_parameter parameters[MIME_PARAMETERS_MAX];
    size_t parameter_count;
};

/* "type/subtype" with parameters (RFC 2045 5.1), us-ascii, without comments. What `out` holds
 * points into `text`. ERR_INVALID says why. */
NODISCARD enum err mime_type_parse(struct str text, struct mime_type *out, struct errinfo *info);
bool mime_type_is(const struct mime_type *t, const char *type, const char *subtype); /* NULL: any */
bool mime_type_has_parameter(const struct mime_type *t, const char *name);

struct mime_writer {
    struct buf *out;
    const uint8_t *seed;         /* 16 bytes */
    const struct str *unencoded; /* contents that go into the message as they are */
    size_t unencoded_count;
    unsigned made; /* boundaries made so far, those that were dropped too */
    size_t depth;
    struct {
        char boundary[MIME_BOUNDARY_SIZE];
        bool has_part;
    } open[MIME_DEPTH_MAX];
};

/* Writes "Content-Type: multipart/<subtype>; boundary=..." and the blank line. `root_type` is the
 * `type` parameter that multipart/related must have (RFC 2387 3.1), else NULL. */
void mime_open(struct mime_writer *w, const char *subtype, const char *root_type);
void mime_next(struct mime_writer *w);  /* the delimiter before a part of the innermost multipart */
void mime_close(struct mime_writer *w); /* the closing delimiter, without a line end after it */
