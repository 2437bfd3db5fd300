/* receive: the SMTP server side (RFC 5321) as a state machine on a stream; who may send what to
 * whom is asked of callbacks. What the commands do is in smtp/dialogue, which has no socket.
 *
 * Used by the sandbox now, by bounces and submission later. T2: only CRLF.CRLF ends DATA; a bare CR
 * or LF is 550 5.5.2 and close; early talk is 554. R lines. Limits: base/limits.h. Thread: the
 * loop's.
 */
#pragma once

#include "server/net/stream.h"

struct receive; /* one connection */

struct received {
    struct str helo;
    struct str mail_from;   /* "" for <> */
    const struct str *rcpt; /* without brackets */
    size_t rcpt_count;
    struct str data; /* dot-unstuffed, CRLF */
    char peer[SOCKADDR_TEXT_SIZE];
    struct tls_info tls;
    bool smtputf8;
};

/* A reply of ours: code, enhanced code ("2.1.5", NULL: none), words. Static or living until the
 * next call. */
struct receive_answer {
    int code;
    const char *enhanced;
    const char *text;
};

struct receive_policy {
    /* May be NULL: everything is accepted. A code >= 400 refuses. The address lives during the
     * call. */
    struct receive_answer (*on_mail)(void *ctx, struct str from);
    struct receive_answer (*on_rcpt)(void *ctx, struct str to);
    /* A complete message. Answered by receive_answer_data(), at once or later on the loop; `m`
     * lives until then. `data` is what was sent: a Received field is the owner's to add (R13). */
    void (*on_message)(void *ctx, struct receive *r, const struct received *m);
    /* The connection is gone (a message under way too: do not answer it any more). The owner calls
     * receive_close(). */
    void (*on_end)(void *ctx, struct receive *r);
};

struct receive_options {
    const char *host_name;      /* greeting and EHLO answer */
    struct tls_server_ctx *tls; /* NULL: STARTTLS is not offered */
    size_t message_bytes_max;
    int64_t command_timeout_ms, data_timeout_ms; /* 0: 5 min, 3 min */
    size_t rcpt_max;                             /* 0: LIMIT_SMTP_RCPT */
    int64_t turn_ms;                             /* for a turn that brings no mail on; 0: 5 s */
};

/* Takes the descriptor. Callbacks run on the loop, never inside a receive_* call. A peer that talks
 * before the greeting is refused; one that sends neither a command nor a KiB of data in its
 * timeout, or stays for an hour, gets a 421. T17: one that talks and brings no mail on (a few
 * octets, NOOP, what is refused: dialogue_steps()) is heard once in turn_ms after some such turns,
 * until it does. */
struct receive *receive_new(struct loop *l, int fd, const struct receive_options *o,
                            const struct receive_policy *p, void *ctx);
void receive_answer_data(struct receive *r, struct receive_answer answer);
size_t receive_held_bytes(const struct receive *r); /* of the message that comes */
void receive_close(struct receive **rp, bool shutting_down /* says 421 */);
