/* submission: what somebody asks to be sent, parsed and checked, before anything is composed.
 *
 * This is the one meeting point of every way in (native JSON, multipart, raw MIME, provider
 * dialects, SMTP): each fills a `struct submission`; intake/submit takes it from there.
 * submission_check() finds every fault of the values at once; faults of the foreign form (unknown
 * field, wrong type) are added to the same list by whoever parsed it.
 *
 * Thread: owner (one request); all strings live in the request's arena or body.
 */
#pragma once

#include "server/base/limits.h"
#include "server/mail/address.h"

/* One thing wrong with a request. `code` is stable snake_case; `pointer` an RFC 6901 fragment
 * ("#/to/0"). */
struct fault {
    struct str pointer;
    const char *code;
    struct str detail;
};

struct fault_place;

struct faults {
    struct arena *arena;
    struct fault_place *places, *last_place; /* of faults_place() */
    size_t count;                            /* faults seen; only the first LIMIT_FAULTS are kept */
    struct fault list[LIMIT_FAULTS];
};

void faults_init(struct faults *f, struct arena *a);
void faults_add(struct faults *f, struct str pointer, const char *code, const char *fmt, ...)
    PRINTF(4, 5);
/* What was given stands at `given`, not where the form usually has it: from now on a fault at
 * `usual` or below it is told at `given`, with what stood below, or without (is_single: one value
 * where a list is usual). Rules go in their order over what the one before made. Both live as long
 * as the arena. */
void faults_place(struct faults *f, struct str usual, struct str given, bool is_single);

/* Stored as a number: append only, never renumber. */
enum recipient_kind { RECIPIENT_TO, RECIPIENT_CC, RECIPIENT_BCC };

struct address_list {
    struct address *list;
    size_t count;
};

struct attachment {
    struct str filename;     /* UTF-8, no path separators; may be absent for inline parts */
    struct str content_type; /* type/subtype with parameters, absent: application/octet-stream */
    struct str content;      /* decoded bytes */
    struct str cid;          /* without brackets */
    bool is_inline;          /* also, unless something else was said, of what has a cid */
};

struct header_field {
    struct str name;
    struct str value; /* UTF-8 text, unfolded, without line ends */
};

struct pair {
    struct str key, value;
};

/* Stored as a number: append only, never renumber. */
enum tls_level { TLS_ROUTE_DEFAULT, TLS_ENCRYPT, TLS_VERIFY };

struct submission {
    struct address from;   /* email absent while not given */
    struct address sender; /* email absent: none */
    struct address_list to, cc, bcc, reply_to;
    struct str subject, text, html; /* UTF-8; line ends of text and html are any of CRLF, LF, CR */
    struct attachment *attachments;
    size_t attachment_count;
    struct header_field *headers;
    size_t header_count;
    struct str *tags;
    size_t tag_count;
    struct pair *metadata;
    size_t metadata_count;
    struct str external_id;
    struct str in_reply_to; /* "<id@host>" */
    struct str *references;
    size_t reference_count;
    int64_t expires_in_ms; /* 0: the setting's */
    enum tls_level tls;
    struct str route; /* named route, absent: chosen by rule */
};

struct submission_limits {
    size_t recipients_max;
    size_t message_bytes_max; /* composed */
};

/* Checks every value (RFC lines of mail/compose.h, T3) and adds a fault for each that is wrong;
 * pointers are those of the native JSON. Adds none when all is well. */
void submission_check(const struct submission *s, const struct submission_limits *limits,
                      struct faults *faults);
size_t submission_recipient_count(const struct submission *s);
/* SHA-256 over a canonical form of every field: equal submissions are equal however they came in
 * (api: Idempotency-Key). */
void submission_fingerprint(const struct submission *s, uint8_t out[32]);
