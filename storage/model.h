/* model: the rows of the outbox as structs, and the legal transitions of a recipient.
 *
 * Pure data; no backend, no thread. Strings in rows read from a store live in the arena of the call
 * that read them; strings in rows given to a store belong to the caller until the call is done.
 *
 * Members of these enums are stored as numbers: append only, never renumber
 * (tests/contract/test_stored_numbers.c).
 *
 * Thread: owner.
 */
#pragma once

#include "server/base/id.h"
#include "server/mail/outcome.h"
#include "server/mail/submission.h"

/* ---- the unit of delivery: a recipient
 * ---------------------------------------------------------------------- */

/* (message, index) as one number: message sequence * RECIPIENT_KEY_SPAN + index. */
typedef int64_t recipient_key_t;
enum { RECIPIENT_KEY_SPAN = 1024 };

enum recipient_state {
    RECIPIENT_SCHEDULED, /* for later */
    RECIPIENT_QUEUED,    /* shown as "deferred" once attempts > 0 */
    RECIPIENT_SENDING,   /* claimed */
    RECIPIENT_DELIVERED, /* accepted by the next hop; only this final state may change: to bounced,
                            late */
    RECIPIENT_BOUNCED,
    RECIPIENT_FAILED, /* policy, TLS or DNS of ours forbade it */
    RECIPIENT_EXPIRED,
    RECIPIENT_SUPPRESSED,
    RECIPIENT_CANCELED,
    RECIPIENT_STATE_COUNT
};

const char *recipient_state_name(enum recipient_state s); /* "queued" */
NODISCARD enum err recipient_state_parse(struct str s, enum recipient_state *out);
bool recipient_state_is_final(enum recipient_state s);
bool recipient_transition_is_legal(enum recipient_state from, enum recipient_state to);

enum lane { LANE_HIGH, LANE_TRANSACTIONAL, LANE_BULK, LANE_COUNT };

/* What the last attempt said; code 0 and failure NONE: no attempt yet. */
struct last_result {
    enum verdict_class class_;
    enum stage stage;
    enum failure failure;
    bool is_hard, is_about_recipient;
    int code;
    char enhanced[16];
    struct str text; /* at most LIMIT_REPLY_STORED */
    struct str mx;   /* host name of the peer */
    struct str tls;  /* "TLSv1.3", absent: in clear */
};

/* When an attempt first found no such domain, or no address in it, of those since one found it, or
 * `kept_ms` later, when no cache has that answer any more; 0: none did. What `before_wall_ms`
 * becomes with an attempt that ended so. (In a store of an earlier version it may be a small
 * number, which is long ago.) */
int64_t no_domain_since(int64_t before_wall_ms, const struct last_result *last, int64_t kept_ms,
                        int64_t now_wall_ms);

struct recipient_row {
    recipient_key_t key;
    struct str email;
    enum recipient_kind kind;
    enum recipient_state state;
    int attempts;
    int64_t due_wall_ms; /* queued, scheduled: not before */
    int64_t updated_wall_ms;
    uint32_t seq;            /* number of its events so far */
    bool possible_duplicate; /* an attempt before had an unknown outcome */
    struct last_result last;
};

/* ---- message
 * -------------------------------------------------------------------------------------------------
 */

struct message_row {
    int64_t seq;
    struct id id;
    int64_t project;
    struct id key_id;   /* the API key that submitted it */
    struct id retry_of; /* zero: none */
    int64_t created_wall_ms;
    int64_t expires_wall_ms;
    struct str message_id; /* "<...>" */
    struct str mail_from;  /* reverse-path, may be empty */
    struct str from_email, from_name, from_domain;
    struct str subject;
    struct str external_id;
    struct str tags_json;     /* ["a","b"] or absent */
    struct str metadata_json; /* {"k":"v"} or absent */
    struct str route;         /* asked for by name, absent: by rule */
    enum tls_level tls;
    bool needs_smtputf8;
    bool has_content; /* false: erased by retention */
    bool is_test;     /* of a test key: never leaves for real */
    int64_t size_bytes;
    enum lane lane;
    size_t recipient_count;
    struct recipient_row *recipient; /* in order of index; NULL in listings that do not ask */
};

/* The message's state from its recipients': api: scheduled, queued, sending while any is; all the
 * same -> that; mixed -> "partial"; "deferred" when what is still open has been tried. Static
 * storage. */
const char *message_state_name(const struct recipient_row *r, size_t count);
const char *
recipient_shown_state(const struct recipient_row *r); /* "deferred" for queued with attempts */

/* ---- attempt: one SMTP transaction, or the failure to have one
 * ------------------------------------------------- */

struct attempt_row {
    int64_t seq;
    struct id message_id;
    int64_t started_wall_ms;
    int64_t took_ms;
    struct str host;    /* name */
    struct str address; /* "192.0.2.1:25" */
    struct str tls_version, tls_cipher;
    bool tls_verified;
    struct str transcript; /* "C: " and "S: " lines */
    struct attempt_recipient {
        int index;
        enum verdict_action action;
        struct last_result result;
    } * recipient;
    size_t recipient_count;
};

/* ---- event
 * ---------------------------------------------------------------------------------------------------
 */

enum event_type {
    EVENT_MESSAGE_ACCEPTED,
    EVENT_MESSAGE_SCHEDULED,
    EVENT_MESSAGE_COMPLETED,
    EVENT_RECIPIENT_DEFERRED,
    EVENT_RECIPIENT_DELIVERED,
    EVENT_RECIPIENT_BOUNCED,
    EVENT_RECIPIENT_FAILED,
    EVENT_RECIPIENT_EXPIRED,
    EVENT_RECIPIENT_SUPPRESSED,
    EVENT_RECIPIENT_CANCELED,
    EVENT_RECIPIENT_COMPLAINED,
    EVENT_RECIPIENT_UNSUBSCRIBED,
    EVENT_WEBHOOK_DISABLED,
    EVENT_WEBHOOK_TEST,
    EVENT_TYPE_COUNT
};
const char *event_type_name(enum event_type t); /* "recipient.delivered" */
NODISCARD enum err event_type_parse(struct str s, enum event_type *out);
/* Is this the last word on its recipient or message? (filter "final") */
bool event_type_is_final(enum event_type t);
/* Bounced, failed, expired, suppressed (filter "undelivered"). */
bool event_type_is_undelivered(enum event_type t);

struct event_row {
    int64_t seq; /* feed order, assigned inside the commit */
    struct id id;
    enum event_type type;
    int64_t project;
    int64_t wall_ms;
    struct id message_id;                             /* zero: not about a message */
    struct str external_id, tags_json, metadata_json; /* of the message, as stored */
    int recipient_index;                              /* -1: about the message as a whole */
    struct str email;
    enum recipient_state state; /* of the recipient after it */
    uint32_t recipient_seq;
    int attempt;                  /* attempts so far */
    int64_t next_attempt_wall_ms; /* 0: none */
    bool is_late, possible_duplicate;
    struct last_result result;
    struct str message_state; /* of EVENT_MESSAGE_*: message_state_name() */
    struct id webhook_id;     /* of EVENT_WEBHOOK_* */
    struct str note;          /* words, for EVENT_WEBHOOK_* */
};

/* ---- keys, domains, webhooks
 * ------------------------------------------------------------------------------------ */

enum key_scope { SCOPE_SEND = 1, SCOPE_READ = 2, SCOPE_MANAGE = 4, SCOPE_ADMIN = 8 };

struct key_row {
    struct id id;
    int64_t project;
    struct str name;
    struct str prefix;        /* public part, "pc_live_ab12cd34": how it is found */
    uint8_t hash[32];         /* SHA-256 of the whole key text */
    unsigned scopes;          /*/* enum key_scope, combined */
    struct str *from_domains; /* allowed From domains; none: every domain of the project */
    size_t from_domain_count;
    bool is_test;
    int64_t rate; /* requests a minute; 0: not limited */
    int64_t created_wall_ms, expires_wall_ms /* 0: never */, revoked_wall_ms /* 0: not */,
        used_wall_ms;
};

struct domain_key_row {
    struct str selector;
    struct str algorithm; /* "rsa-sha256" | "ed25519-sha256" */
    struct str pem;       /* secret, PKCS#8; absent: it is there, and cannot be read, or
                             was not asked for */
    struct str record;    /* TXT to publish */
    int64_t created_wall_ms;
    int64_t published_wall_ms; /* found in DNS, 0: not yet */
};

struct domain_row {
    struct id id;
    int64_t project;
    struct str name;           /* A-label, lower case */
    struct str bounce_address; /* MAIL FROM for this domain, absent: Sender or From */
    int64_t created_wall_ms, verified_wall_ms;
    struct domain_key_row *key;
    size_t key_count;
};

enum webhook_state { WEBHOOK_ENABLED, WEBHOOK_FAILING, WEBHOOK_DISABLED };
const char *webhook_state_name(enum webhook_state s);

struct webhook_row {
    struct id id;
    int64_t project;
    struct str url;
    struct str secret;          /* "whsec_..." */
    struct str previous_secret; /* absent, or valid until previous_until_wall_ms (rotation) */
    int64_t previous_until_wall_ms;
    struct str *events; /* names, "*", "final", "undelivered"; none: "*" */
    size_t event_count;
    struct str description;
    enum webhook_state state;
    int64_t created_wall_ms;
};
/* Does every value that a change can give an endpoint stand in both? */
bool webhook_is_same(const struct webhook_row *a, const struct webhook_row *b);
/* Does the endpoint's filter take this event? */
bool webhook_wants(const struct webhook_row *w, enum event_type t);

/* One event for one endpoint. */
enum notification_state {
    NOTIFICATION_PENDING,
    NOTIFICATION_SENDING,
    NOTIFICATION_DELIVERED,
    NOTIFICATION_FAILED
};
const char *notification_state_name(enum notification_state s);
struct notification_row {
    int64_t seq;
    struct id webhook_id;
    struct id event_id; /* = webhook-id header, the same over retries */
    enum event_type type;
    enum notification_state state;
    int attempts;
    int64_t due_wall_ms, created_wall_ms, updated_wall_ms;
    /* last answer */
    int status; /* 0: none came */
    int64_t took_ms;
    struct str error;    /* words, absent when an answer came */
    struct str response; /* at most LIMIT_WEBHOOK_RESPONSE_STORED */
};

/* ---- sandbox: what the built-in receivers captured
 * ---------------------------------------------------------------- */

enum capture_kind { CAPTURE_MESSAGE, CAPTURE_WEBHOOK };
struct capture_row {
    struct id id;
    enum capture_kind kind;
    int64_t wall_ms;
    struct str meta_json; /* envelope, TLS, headers of the request */
    struct str content;   /* MIME or body; absent in listings */
};
