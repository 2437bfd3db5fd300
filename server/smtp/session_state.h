/* session_state: what session.c (states, failure), opening.c (greeting to AUTH) and transaction.c
 * (MAIL to final dot) share; nobody else includes it.
 *
 *   CONNECTING --opened--> GREETING --greeted--> EHLO --answered_ehlo--> (choose_next)
 *   EHLO --5xx--> HELO --> choose_next
 *   choose_next: STARTTLS --220--> TLS --opened--> EHLO
 *                AUTH --235--> IDLE
 *                IDLE
 *   IDLE --session_send--> MAIL --> RCPT --> DATA --354--> BODY --written--> END --> IDLE
 *   one flight: MAIL --> RCPT --> END --> IDLE;  a trial of BDAT: as with DATA, and 250 for 354
 *   MAIL, RCPT, DATA, END --transaction failed--> RESET --2xx--> IDLE
 *   IDLE --session_send that cannot be--> REFUSED --timer--> IDLE
 *   any --session_die--> DEAD
 *
 *   state       what is true
 *   CONNECTING  no byte was exchanged
 *   GREETING    nothing was sent (C19)
 *   EHLO, HELO  caps is empty
 *   STARTTLS    caps is of the clear connection; forgotten at TLS (C33)
 *   AUTH        auth is non-NULL, the connection good enough for it (C39)
 *   IDLE        no transaction, expected == 0
 *   MAIL..END   t is the transaction; expected counts replies outstanding (C36); recipients are
 *               PENDING, ACCEPTED or REPORTED
 *   RESET       every recipient is REPORTED, on_done is still due
 *   REFUSED     the same, and nothing was sent
 *   DEAD        no stream, no timer runs; only session_close is left
 *
 * Thread: owner loop.
 */
#pragma once

#include "server/smtp/auth.h"
#include "server/smtp/body.h"
#include "server/smtp/capability.h"
#include "server/smtp/session.h"
#include "server/smtp/transcript.h"

enum session_state {
    SESSION_CONNECTING,
    SESSION_GREETING,
    SESSION_EHLO,
    SESSION_HELO,
    SESSION_STARTTLS,
    SESSION_TLS,
    SESSION_AUTH,
    SESSION_IDLE,
    SESSION_MAIL,
    SESSION_RCPT,
    SESSION_DATA,
    SESSION_BODY,
    SESSION_END,
    SESSION_RESET,
    SESSION_REFUSED,
    SESSION_DEAD,
    SESSION_STATE_COUNT
};

enum recipient_state { RECIPIENT_PENDING, RECIPIENT_ACCEPTED, RECIPIENT_REPORTED };

struct session {
    struct loop *loop;
    struct stream *stream; /* NULL when DEAD */
    struct session_options o;
    char *host_name, *ehlo_name;
    struct buf auth_user, auth_password; /* wiped when AUTH is over */
    const struct session_events *ev;
    void *ctx;

    enum session_state state;
    size_t expected; /* replies outstanding */
    struct reply_parser *parser;
    struct capability caps;
    struct auth *auth;
    bool is_auth_canceled; /* by us: a refusal is all that may follow */
    bool is_esmtp;
    bool has_taken;        /* a message */
    bool knows_bdat;       /* took a trial's message */
    int64_t heard_boot_ms; /* the last reply */
    bool had_tls;
    bool in_transaction;
    struct session_info info;
    struct transcript transcript;
    struct timer *watchdog; /* bounds what single timeouts do not: the whole of a phase */

    /* the transaction */
    struct transaction t;
    enum recipient_state *recipient;
    size_t next;          /* the recipient whose reply comes next */
    size_t asked;         /* recipients whose RCPT was sent */
    size_t accepted;      /* so far */
    bool is_pipelined;    /* all commands up to DATA, or BDAT, were sent at once */
    bool is_trial;        /* BDAT 1 stands for DATA */
    bool is_one_flight;   /* and the message behind BDAT */
    bool is_mail_refused; /* the replies to what was pipelined behind it are read and dropped */
    bool is_8bit;         /* content that needs 8BITMIME */
    enum failure refusal; /* of REFUSED */
    struct errinfo refusal_info;
    struct body body;
    bool is_body_written; /* the terminator, or the chunk, is in the stream's hands */

    /* the owner may close from within a callback: freed when the last of our frames is left */
    unsigned depth;
    bool is_closed;
};

/* What a reply is an answer to. While the body is under way it is session_stage(). */
enum stage session_stage_of_reply(const struct session *s);
/* The one place where the state changes: traces it, sets the deadline, sends the state's command.
 */
void session_enter(struct session *s, enum session_state to);
/* Ends the session: reports to whoever waits, closes the stream. `polite`: QUIT is sent (C11). */
void session_die(struct session *s, const struct session_result *why, bool polite);
void session_die_failed(struct session *s, enum failure why, const char *text);
void session_die_protocol(struct session *s, const char *text);
void session_die_refused(struct session *s, const struct reply *r);
/* Ends it when something is unread where no reply is due: a command sent now would find its reply
 * here already, the two are out of step. True: it is DEAD. */
bool session_die_out_of_step(struct session *s);
/* Sends complete lines; `replies` of the server answer them. */
void session_command(struct session *s, struct str lines, size_t replies);

/* opening.c */
void opening_reply(struct session *s, const struct reply *r);
void opening_begin_auth(struct session *s);

/* transaction.c */
void transaction_refused(struct session *s); /* REFUSED's turn has come */
void transaction_enter(struct session *s);   /* the action of MAIL, RCPT, DATA, BODY, RESET */
void transaction_reply(struct session *s, const struct reply *r);
void transaction_drained(struct session *s);
/* Tells every recipient that has no result yet. False: the owner closed the session meanwhile. */
bool transaction_report_rest(struct session *s, const struct session_result *r);
/* on_done; the transaction is forgotten before. */
void transaction_finish(struct session *s, bool reusable);
void transaction_release(struct session *s);
