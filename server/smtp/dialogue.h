/* dialogue: the server's side of an SMTP conversation as a pure machine: bytes in, replies out. No
 * socket, no clock; receive wires it to a stream, tests and fuzzers feed it directly.
 *
 *   EXPECT_HELO --EHLO, HELO--> READY --MAIL--> MAIL --RCPT--> RCPT --DATA--> DATA
 *   DATA --CRLF.CRLF--> ANSWERING --dialogue_answer--> READY
 *   any of the first four but EXPECT_HELO --RSET--> READY    any of the first four --EHLO--> READY
 *   READY, MAIL, RCPT --STARTTLS--> TLS --dialogue_secured--> EXPECT_HELO
 *   any --QUIT, T2, too many errors--> CLOSED
 *
 * T2: only CRLF.CRLF ends DATA; a CR or LF alone, or a NUL, is 550 5.5.2 and the end; so are bytes
 * that follow DATA before its 354 (554). Thread: owner.
 */
#pragma once

#include "server/base/buf.h"
#include "server/smtp/receive.h"

struct dialogue;

enum dialogue_wants {
    DIALOGUE_MORE,   /* input */
    DIALOGUE_ANSWER, /* a message is complete: dialogue_answer() */
    DIALOGUE_TLS,    /* the 220 was put: secure the connection, drop what is left of the input,
                        then dialogue_secured() */
    DIALOGUE_CLOSE,  /* the last reply was put */
};

struct dialogue_options {
    const char *host_name;
    bool offers_tls;
    size_t message_bytes_max;
    size_t rcpt_max;
    const struct receive_policy *policy; /* only on_mail and on_rcpt are used; may be NULL */
    void *ctx;
};

struct dialogue *dialogue_new(const struct dialogue_options *o); /* host_name is copied */
void dialogue_free(struct dialogue **dp);
void dialogue_greet(struct dialogue *d, struct buf *out);
/* Consumes from the front of *in until it is empty, something else is wanted, a command was
 * refused, or `out` (room for 128 KiB) holds much: then it is called again. */
enum dialogue_wants dialogue_feed(struct dialogue *d, struct str *in, struct buf *out);
/* The message that waits for its answer; peer and tls are the caller's to fill in. */
struct received *dialogue_message(struct dialogue *d);
enum dialogue_wants dialogue_answer(struct dialogue *d, struct receive_answer answer,
                                    struct buf *out);
void dialogue_secured(struct dialogue *d);
/* How much was done: changes with each command and each KiB of data, for progress timers. */
size_t dialogue_progress(const struct dialogue *d);
/* How far mail was brought: grows with the first EHLO (once more in TLS), STARTTLS, MAIL that is
 * accepted, RCPT, DATA, each call that brings the end of a line of the message, and each 64 octets
 * of it; not with NOOP, RSET or other refusals, nor with the 21st MAIL without a message and the
 * RCPT above twice rcpt_max. */
size_t dialogue_steps(const struct dialogue *d);
bool dialogue_is_in_data(const struct dialogue *d);
size_t dialogue_held_bytes(const struct dialogue *d); /* of the message that comes */
