/* outcome: the ONE place where what happened to an attempt becomes what to do about it.
 *
 * (reply | failure) x stage -> verdict. Nothing else in the project looks at a reply code to decide
 * a recipient's fate. Text rules first (mail/rules.h), enhanced codes second, the reply code last.
 * Stages, failures, classes and actions are stored as numbers: append only, never renumber
 * (tests/contract/test_stored_numbers.c).
 *
 * Pure. Thread: any.
 */
#pragma once

#include "server/mail/reply.h"

/* Where in the dialogue it happened. */
enum stage {
    STAGE_RESOLVE,
    STAGE_CONNECT,
    STAGE_GREETING,
    STAGE_EHLO,
    STAGE_STARTTLS,
    STAGE_TLS,
    STAGE_AUTH,
    STAGE_MAIL,
    STAGE_RCPT,
    STAGE_DATA,
    STAGE_BODY,
    STAGE_END, /* END: after the final dot */
    STAGE_COUNT
};

/* What the floors below can report instead of a reply. This enum is the language of net and smtp.
 */
enum failure {
    FAILURE_NONE = 0,
    /* resolver */
    FAILURE_DNS_TEMPORARY, /* SERVFAIL, timeout: says nothing about the domain */
    FAILURE_DNS_NXDOMAIN,
    FAILURE_DNS_NO_ADDRESS, /* exists, but neither MX nor address */
    FAILURE_DNS_NULL_MX,    /* RFC 7505 */
    FAILURE_DNS_BOGUS,      /* DNSSEC validation failed */
    FAILURE_DNS_LOOP,       /* the MX set leads to ourselves (C28) */
    /* connection */
    FAILURE_CONNECT_REFUSED,
    FAILURE_CONNECT_TIMEOUT,
    FAILURE_CONNECT_UNREACHABLE,
    FAILURE_CONNECT_FORBIDDEN,
    FAILURE_NO_IPV6, /* there are only IPv6 addresses, and none may be used here */
    FAILURE_CLOSED,  /* by the peer, in a place where it may not (C18) */
    FAILURE_TIMEOUT,
    FAILURE_TOO_SLOW, /* below the minimum rate */
    /* TLS */
    FAILURE_TLS_NOT_OFFERED,
    FAILURE_TLS_HANDSHAKE,
    FAILURE_TLS_UNTRUSTED,
    FAILURE_TLS_NAME,
    FAILURE_TLS_EXPIRED,
    FAILURE_TLS_PIN,
    FAILURE_TLS_INJECTION, /* bytes after STARTTLS's reply (T6) */
    /* protocol */
    FAILURE_PROTOCOL, /* not SMTP, or limits of T8 */
    FAILURE_NEEDS_SMTPUTF8,
    FAILURE_TOO_LARGE /* over the advertised SIZE */,
    FAILURE_AUTH_UNAVAILABLE,
    /* ours */
    FAILURE_LOCAL,    /* this machine: an address that is not ours, a file that is not there; from
                         STAGE_MAIL on: what was composed may not go onto the wire */
    FAILURE_SHUTDOWN, /* we stop: no attempt is counted */
    FAILURE_SHORT, /* memory or descriptors of this machine, at any stage: soon again, uncounted */
    FAILURE_DNS_PRIVATE, /* resolver: there are only addresses that no stranger's word leads to */
    FAILURE_CHUNKING, /* protocol: BDAT was offered and is no command there; soon again with DATA */
    FAILURE_COUNT
};

/* Nothing that the peer has done. */
static inline bool failure_is_ours(enum failure f) {
    return f == FAILURE_LOCAL || f == FAILURE_SHUTDOWN || f == FAILURE_SHORT;
}

enum verdict_action {
    VERDICT_DELIVERED,
    VERDICT_DEFERRED,
    VERDICT_BOUNCED,
    VERDICT_FAILED /* policy, TLS, DNS of ours */
};
/* Who else would hear the same answer now. */
enum verdict_scope { SCOPE_RECIPIENT, SCOPE_MESSAGE, SCOPE_SESSION, SCOPE_HOST, SCOPE_SITE };
enum verdict_class {
    CLASS_NONE,
    CLASS_INVALID_RECIPIENT,
    CLASS_INVALID_DOMAIN,
    CLASS_INACTIVE,
    CLASS_MAILBOX_FULL,
    CLASS_SPAM_CONTENT,
    CLASS_REPUTATION,
    CLASS_BLOCKLIST,
    CLASS_POLICY,
    CLASS_AUTHENTICATION, /* SPF, DKIM, DMARC; at a smarthost our login */
    CLASS_RATE_LIMITED,
    CLASS_GREYLISTED,
    CLASS_TOO_LARGE,
    CLASS_NETWORK,
    CLASS_DNS,
    CLASS_TLS,
    CLASS_PROTOCOL,
    CLASS_EXPIRED,
    CLASS_OTHER,
    CLASS_COUNT
};

struct verdict {
    enum verdict_action action;
    enum verdict_scope scope;
    enum verdict_class class_;
    bool is_hard;            /* about class: a repetition cannot succeed */
    bool is_about_recipient; /* else about the infrastructure between */
    bool counts;        /* false: not an attempt (shutdown, too many recipients, local throttle) */
    bool try_next_host; /* the same recipients may go to the next MX at once */
    bool wants_every_host; /* it is final as soon as every host of the route says the same */
    bool retry_at_once;    /* the others of the transaction go at once in a new one (too many
                              recipients) */
    bool is_our_login; /* the smarthost does not take our credentials: no other message will fare
                          better there until somebody mends them */
};

struct outcome_input {
    enum stage stage;
    enum failure failure; /* FAILURE_NONE: look at reply */
    const struct reply *reply;
    bool is_smarthost;
    bool is_last_host;           /* no other MX is left to try */
    bool is_every_host;          /* each host that may be asked gave this very answer:
                                    `wants_every_host` */
    size_t rcpt_accepted_before; /* in this transaction, for 452 and 552 at RCPT */
    size_t earlier_nxdomain;     /* attempts of this recipient that found no domain before, by an
                                    answer to another question */
    bool is_literal;             /* the domain is an address in brackets: nobody was asked */
    bool has_other_source;       /* another source address could send it (reputation, blocklist) */
};

/* `action` holds when the caller does not follow `try_next_host` or `retry_at_once`; both are only
 * said when they are possible. A refusal for the source's reputation is bounced unless there is
 * another source. */
struct verdict outcome_judge(const struct outcome_input *in);

const char *stage_name(enum stage s);     /* "rcpt" */
const char *failure_name(enum failure f); /* "connect_refused" */
const char *failure_text(enum failure f); /* for people: "connection refused" */
/* The domain is not there, or has no address at all: what counts for
 * outcome_input.earlier_nxdomain. */
bool failure_is_no_domain(enum failure f);
/* What a server would have said about it (RFC 3463, RFC 7505 4.2), permanent or not; "" when no
 * code stands for it. */
void failure_print_enhanced(enum failure f, bool is_permanent, char out[16]);
const char *verdict_action_name(enum verdict_action a);
const char *verdict_class_name(enum verdict_class c); /* "invalid_recipient" */
const char *
verdict_scope_name(enum verdict_scope s); /* "recipient" | "infrastructure" (what the API shows) */
NODISCARD enum err verdict_class_parse(struct str s, enum verdict_class *out);
