/* compose: submission -> the bytes of one RFC 5322 message. Pure: time, id and randomness come in.
 *
 * What comes out obeys the M lines of tests/conformance.md: CRLF only, lines <= 998 (<= 78 where a
 * rule allows), 7bit by quoted-printable or base64, RFC 2047 in headers, RFC 2231 in parameters,
 * exactly one Date, From, Message-ID; Bcc in no byte. Structure: text | html | alternative(text,
 * html), wrapped in related when there are inline parts, in mixed when there are attachments. Only
 * `needs_smtputf8` messages carry UTF-8 in headers, and only in addresses (RFC 6532).
 *
 * submission_check() must have found no fault. Thread: any.
 */
#pragma once

#include "server/base/id.h"
#include "server/mail/message.h"
#include "server/mail/submission.h"

struct compose_input {
    const struct submission *submission;
    struct id id; /* the message's id; Message-ID is <id@from-domain> */
    int64_t date_wall_ms;
    uint8_t seed[16]; /* for boundaries (T14) */
    size_t message_bytes_max;
};

struct composed {
    struct message *message;    /* one reference, the caller's */
    char message_id_field[512]; /* "<0193...@acme.test>" */
    bool needs_smtputf8;
};

/* ERR_LIMIT: larger than message_bytes_max. */
NODISCARD enum err compose(const struct compose_input *in, struct composed *out,
                           struct errinfo *info);
