/* session: one SMTP conversation as a client (RFC 5321), a state machine on a stream. No store, no
 * policy: it does what it is told and reports each reply; what a reply means is decided in
 * mail/outcome.
 *
 *     session_open -> on_ready -> session_send(transaction) -> on_recipient ... on_done -> (again,
 * reuse) -> session_quit
 *
 *     CONNECTING -> GREETING -> EHLO -> [STARTTLS -> TLS -> EHLO] -> [AUTH] -> IDLE
 *     IDLE --session_send--> MAIL -> RCPT -> DATA -> BODY -> END -> IDLE   (RESET -> IDLE after a
 * failed transaction) any  --failure--> DEAD (on_failed), then session_close
 *     one flight: MAIL -> RCPT -> END, all of it sent at the beginning
 *
 * One flight: MAIL, RCPT and the message as BDAT LAST at once (RFC 2920 3.1, RFC 3030 2): one round
 * trip a message. Only where PIPELINING and CHUNKING are offered, this session has taken a message
 * by DATA and then one by a trial (BDAT 1 stands for DATA, the rest follows its answer), and the
 * server spoke within the last second. A message of more than 64 KiB, or with a line that begins
 * with DATA or BDAT, goes by DATA. A server that refuses BDAT 1 for anybody, or says to a chunk
 * that it knows no such command, is left at once, without QUIT, as it may take what comes for
 * commands: FAILURE_CHUNKING, nobody has the message. A connection that is lost in a flight leaves
 * the outcome unknown from its first octet on; so does a reply too many that has come with the
 * last one (one that comes later cannot be told from it). Each reply of a flight has `end` to come,
 * as a server may read all before it answers.
 *
 * PIPELINING, CHUNKING, SIZE, 8BITMIME, SMTPUTF8, ENHANCEDSTATUSCODES, STARTTLS, AUTH are used when
 * offered. HELO when EHLO is refused (C1). Lines C1-C43 that apply; T1, T6, T8. Callbacks run on
 * the loop, never inside a session_* call; the owner may close or quit the session from within one.
 *
 * How it ends: a refusal while opening is reported with its reply after a QUIT was sent. A failed
 * handshake is on_failed(STAGE_TLS); whether to open another session in clear is the owner's
 * decision (opportunistic only). STARTTLS refused by a reply goes on in clear when opportunistic. A
 * server that is out of step (more replies than commands, 2xx to DATA, no SMTP at all) is
 * FAILURE_PROTOCOL and the session is dead. A connection that is lost after the end of the message
 * was sent is a failure at STAGE_END: nobody knows whether it was taken.
 *
 * A transaction that cannot be is told on the loop's next turn with STAGE_MAIL, without a byte
 * sent, and the session stays usable: FAILURE_TOO_LARGE (C35), FAILURE_NEEDS_SMTPUTF8 (C41; also
 * 8-bit content without 8BITMIME), FAILURE_LOCAL (octets that would break the framing: T1, T4; a
 * defect of ours, logged as an error).
 *
 * How long it lasts: each reply has its stage's timeout, which partial replies do not move; the
 * envelope as a whole has mail + rcpt + data + 30 s a recipient (in one flight `end` more), the
 * body block + octets / min_rate, and a block that the peer does not take in `block` ms ends it.
 *
 * Thread: the loop's.
 */
#pragma once

#include "server/mail/message.h"
#include "server/net/stream.h"

struct session;

enum session_tls {
    SESSION_TLS_NONE,          /* never */
    SESSION_TLS_OPPORTUNISTIC, /* STARTTLS when offered, any certificate; a failed handshake is
                                  reported as such */
    SESSION_TLS_ENCRYPT,       /* required, any certificate */
    SESSION_TLS_VERIFY,        /* required and verified */
    SESSION_TLS_IMPLICIT,      /* port 465: TLS from the first byte, verified */
};

struct session_timeouts { /* milliseconds; RFC 5321 4.5.3.2; all are settings */
    int64_t connect, greeting, ehlo, starttls, mail, rcpt, data, block, end, rset;
    int64_t min_rate_bytes_s; /* of the body, beyond the block timeout */
};
void session_timeouts_default(struct session_timeouts *t);

struct session_options {
    struct sockaddr_any to, source;
    /* Another address of the same host, which races `to` as stream.h says; len 0: none. */
    struct sockaddr_any rival, rival_source;
    int64_t head_start_ms;
    const char *host_name; /* of the peer: SNI, verification, logs */
    const char *ehlo_name; /* ours, FQDN or address literal (C2) */
    enum session_tls tls;
    struct tls_client_ctx *tls_ctx;
    const char *auth_user, *auth_password; /* NULL: no AUTH. Copied into memory that is wiped. */
    bool insecure_auth; /* AUTH over unverified TLS or in clear: explicit only (C39) */
    struct session_timeouts timeouts;
    bool keep_transcript;
};

/* What was agreed, for attempts and reuse. */
struct session_info {
    struct sockaddr_any to; /* that was connected to; len 0: no connection came about */
    char peer[SOCKADDR_TEXT_SIZE];
    struct tls_info tls;
    bool pipelining, size_known, smtputf8, eightbit, enhanced;
    uint64_t size_max; /* 0: no limit given */
    size_t transactions;
    /* BDAT was refused (a trial put off counts, too), or a session lost that had asked it: the next
     * transaction with this host had better be without it. */
    bool is_chunking_broken;
};

struct session_recipient {
    struct str email; /* for RCPT TO; lives until on_done */
    void *ctx;
};

struct transaction {
    struct str mail_from; /* empty: <> */
    struct session_recipient *recipient;
    size_t count;
    struct message *message; /* the session takes a reference of its own */
    bool needs_smtputf8;
    bool avoid_chunking; /* DATA, whatever is offered */
};

struct session_result {
    enum stage stage;
    enum failure failure;      /* NONE: `reply` decides */
    const struct reply *reply; /* NULL when failure */
    struct str text;           /* the failure's words; absent: session_result_text() has some */
    size_t rcpt_accepted_before;
};

/* The words that may be shown: those of the reply, or of the failure. A refused login's are left
 * out when they repeat what was sent. Lives as long as `r`. */
struct str session_result_text(const struct session_result *r);

struct session_events {
    void (*on_ready)(void *ctx);
    /* Once for every recipient of the transaction, before on_done. Success is a 2xx reply with
     * STAGE_END. */
    void (*on_recipient)(void *ctx, size_t index, const struct session_result *r);
    /* The transaction is over. `reusable`: the session is IDLE again; else it is DEAD. */
    void (*on_done)(void *ctx, bool reusable);
    /* Died outside of a transaction: while opening (the stage says where) or idle (STAGE_MAIL). */
    void (*on_failed)(void *ctx, const struct session_result *r);
};

struct session *session_open(struct loop *l, const struct session_options *o,
                             const struct session_events *ev, void *ctx);
void session_send(struct session *s, const struct transaction *t); /* only in IDLE */
void session_set_events(struct session *s, const struct session_events *ev,
                        void *ctx); /* a pooled one changes hands */
/* In IDLE sends QUIT and does not wait for its answer (C11); else as session_close. Frees. */
void session_quit(struct session **sp);
void session_close(struct session **sp); /* at once */
const struct session_info *session_info_of(const struct session *s);
/* Where the conversation is now. STAGE_END: the end of the message may have arrived, so that a
 * session_close leaves the outcome unknown. */
enum stage session_stage(const struct session *s);
/* The dialogue of the current or last transaction (with the opening, for the first), secrets left
 * out, cut at LIMIT_TRANSCRIPT; lines begin with "C: " or "S: ". Valid until the next session_send
 * or close. */
struct str session_transcript(const struct session *s);
