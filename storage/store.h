/* store: the contract of the durable outbox; everything remembered goes through here.
 *
 * A verb is a struct that begins with `struct store_call`: the caller fills in what goes in, posts
 * it, and gets the same struct back in its mailbox with what came out. Backends block; callers
 * never do: writing verbs run on the committer thread, in GROUP COMMIT (all that wait share one
 * transaction and one sync; a verb that fails fails alone), reading verbs on reader threads.
 *
 *     struct store_accept *q = mem_zalloc(sizeof *q);
 *     q->call = (struct store_call){.verb = STORE_ACCEPT, .reply_to = box, .done = accepted};
 *     q->message = ...;
 *     store_post(store, &q->call);
 *     // later, on the thread of `box`:
 *     static void accepted(struct store_call *c) {
 *         struct store_accept *q = CONTAINER_OF(c, struct store_accept, call);
 *         if (c->err == OK) ...                     // committed AND synced
 *         store_call_release(c); free(q);
 *     }
 *
 * Durability: `done` of a writing verb with OK is run only after the commit was synced. After any
 * other result nothing of that verb is stored. ERR_UNAVAILABLE: could not be stored now (disk full,
 * I/O error, closing); the answer to the user is 503.
 *
 * Order: writing verbs of one thread are executed in the order in which they were posted, but for
 * accepts with a content of more than LIMIT_BODY_CHUNK, which keep the order among themselves: what
 * was posted after one may come before it. A read posted after a `done` sees its effect.
 *
 * Guarantees and crash points: storage/README.md. Thread: store_post from any; results in the
 * mailbox given.
 */
#pragma once

#include "server/base/arena.h"
#include "server/base/mailbox.h"
#include "server/base/seal.h"
#include "server/mail/message.h"
#include "storage/model.h"

struct store;

enum store_verb {
    /* outbox, writing */
    STORE_ACCEPT,
    STORE_CLAIM,
    STORE_SETTLE,
    STORE_RELEASE,
    STORE_CANCEL,
    STORE_RETRY,
    STORE_EXPIRE,
    STORE_RETAIN,
    STORE_MEND,
    /* outbox, reading */
    STORE_DUE,
    STORE_CONTENT,
    STORE_MESSAGE,
    STORE_MESSAGES,
    STORE_EVENTS,
    STORE_ATTEMPTS,
    STORE_TOTALS,
    /* keys, domains, webhooks */
    STORE_KEY_PUT,
    STORE_KEY_REVOKE,
    STORE_KEYS_USED,
    STORE_KEYS,
    STORE_DOMAIN_PUT,
    STORE_DOMAIN_DELETE,
    STORE_DOMAIN_CHECKED,
    STORE_DOMAINS,
    STORE_WEBHOOK_PUT,
    STORE_WEBHOOK_DELETE,
    STORE_WEBHOOKS,
    STORE_WEBHOOK_TEST,
    /* notifications */
    STORE_NOTIFY_CLAIM,
    STORE_NOTIFY_SETTLE,
    STORE_NOTIFY_REPLAY,
    STORE_NOTIFICATIONS,
    /* sandbox */
    STORE_CAPTURE_PUT,
    STORE_CAPTURES,
    STORE_CAPTURE,
    STORE_VERB_COUNT
};

struct store_call {
    struct note note; /* the store's own use */
    enum store_verb verb;
    struct mailbox *reply_to;
    void (*done)(struct store_call *call);
    void *ctx;    /* the caller's own use */
    void *waiter; /* the store's own use */
    /* out */
    enum err err;
    struct errinfo info;
    struct arena *arena; /* holds what came out; NULL when nothing did */
};

/* ---- opening
 * -------------------------------------------------------------------------------------------------------
 */

enum store_backend { STORE_SQLITE, STORE_MEMORY };

struct store_options {
    enum store_backend backend;
    const char *folder; /* sqlite: made if absent (0700); locked with flock: one server per store */
    size_t cache_bytes; /* of the writer, a reader has an eighth; 0: 4 MiB; the largest of 4, 8, 16,
                           64, 256, 1024 MiB that fits, else 1 */
    size_t readers;     /* threads that read, at most 16; 0: 2. All but one may be at searches; one
                           alone does everything in its order */
    /* Seals DKIM keys and webhook secrets in the files; outlives the store. NULL: none does. sqlite
     * only: opening seals anew what is not as the ring says, and refuses what it cannot open
     * (ERR_INVALID, info->field "master_key"). */
    const struct seal *seal;
    bool synchronous_normal; /* negative control of the power-cut tests only */
    size_t
        checkpoint_pages; /* sqlite: the log is copied from so many pages of 4 KiB on; 0: 5,000 */
    const char *vfs; /* sqlite: name of a registered VFS, for fault injection; NULL: the default */
};

/* Opens, migrates, recovers (every recipient found SENDING becomes queued, due as it was, now at
 * the latest, or ten seconds from now when it was a possible_duplicate; it is one then), starts the
 * threads. ERR_CONFLICT: another process holds the lock. ERR_INVALID: made by a newer version. */
NODISCARD enum err store_open(const struct store_options *o, struct store **out,
                              struct errinfo *info);
/* Executes what was posted, then closes. Nobody may post any more. */
void store_close(struct store **sp);

/* Takes the call until `done` is run. */
void store_post(struct store *s, struct store_call *call);
/* The same, waiting for the result on the calling thread (commands, start-up, tests; never a loop).
 * reply_to and done are ignored. */
enum err store_sync(struct store *s, struct store_call *call);
/* Frees what came out, and wipes it first where it has secrets. The struct itself is the caller's.
 */
void store_call_release(struct store_call *call);

struct store_health {
    bool is_writable; /* false after a failed sync until it was reopened, or while the disk is full
                       */
    char text[160];
    int64_t disk_free_bytes, disk_floor_bytes;
};
struct store_health store_health(struct store *s); /* Thread: any */
/* Below so many free bytes nothing new is stored (accept, retry, capture): ERR_UNAVAILABLE; results
 * of what was accepted still are. Crossing it is logged. 0, the default: no floor. Thread: any. */
void store_set_disk_floor(struct store *s, int64_t bytes);

/* Recomputes from the rows what is kept along with them: totals, the queues' counts and earliest
 * due times, open messages, pending notifications. ERR_INTERNAL: they differ, `info` says where.
 * Reads everything, on the calling thread and on a handle of its own: for tests and `doctor`. */
NODISCARD enum err store_check(struct store *s, struct errinfo *info);

/* ---- watches: what changed, told after the commit
 * ------------------------------------------------------------------- */

/* Of one message, what delivery needs to know; immutable, refcounted, shared. */
struct outgoing {
    int64_t seq;
    struct id id;
    int64_t project;
    enum lane lane;
    enum tls_level tls;
    bool needs_smtputf8, is_test;
    int64_t created_wall_ms, expires_wall_ms;
    int64_t size_bytes;
    struct str mail_from, from_domain, route; /* live as long as it does */
    struct message *message; /* composed bytes when they are at hand (a fresh accept of at most 256
                                KiB), else NULL: STORE_CONTENT */
    int refs;                /* use outgoing_ref/unref */
};
struct outgoing *outgoing_ref(struct outgoing *o);
/* The same but for the content, which is the caller's no longer: once nobody has `o` its bytes are
 * free for fresh mail. Leaves the reference to `o`. */
struct outgoing *outgoing_without_content(struct outgoing *o);
void outgoing_unref(struct outgoing **op);

/* One recipient that is or will be due. `outgoing` holds one reference, released with the row by
 * its owner. */
struct due_row {
    recipient_key_t key;
    struct outgoing *outgoing;
    int attempts;
    int64_t no_domain_wall_ms; /* no_domain_since() */
    bool possible_duplicate;
    int64_t due_wall_ms;
    struct str email, queue_key; /* malloc'ed: due_row_release() */
};
void due_row_release(struct due_row *d);

enum store_notice_kind {
    NOTICE_DUE =
        1, /* recipients became due (accept, retry, cancel's counterpart); rows are in the notice */
    NOTICE_GONE = 2, /* recipients became final or canceled otherwise than by settle: drop them */
    NOTICE_MESSAGE = 4, /* a message's recipients changed state otherwise than by claim and release:
                           `message_id`, `is_complete` */
    NOTICE_NOTIFY = 8,  /* webhook notifications wait */
    NOTICE_KEYS = 16,
    NOTICE_DOMAINS = 32,
    NOTICE_WEBHOOKS = 64,
    NOTICE_HEALTH = 128, /* store_health() changed */
};

struct store_notice {
    struct note note;
    enum store_notice_kind kind;
    void *ctx;
    struct id message_id; /* DUE, GONE, MESSAGE */
    bool is_complete;     /* MESSAGE: every recipient is final */
    struct due_row *due;  /* DUE, GONE (GONE: only keys are set) */
    size_t due_count;
};
void store_notice_free(
    struct store_notice **np); /* rows that were taken out have outgoing == NULL */

/* From now on `fn` gets every notice of the kinds in `mask`, on the thread of `box`; it owns the
 * notice. Kinds without rows are merged while one is on its way. Watch first, then read: what is
 * committed meanwhile is in one of the two. */
void store_watch(struct store *s, unsigned mask, struct mailbox *box,
                 void (*fn)(struct store_notice *n), void *ctx);
void store_unwatch(struct store *s,
                   struct mailbox *box); /* after it, no further notice is sent to the box */

/* ---- outbox: writing
 * --------------------------------------------------------------------------------------------------
 */

struct store_accept {
    struct store_call call;
    struct message_row message;  /* recipients with email, kind, state (QUEUED | SUPPRESSED), due;
                                    seq and keys are assigned */
    const struct str *queue_key; /* one per recipient: named route or domain */
    struct message *content;     /* a reference that the store takes over */
    struct str idempotency_key;  /* absent: none */
    uint8_t fingerprint[32];     /* of the submission; not looked at without a key */
    int64_t idempotency_until_wall_ms; /* by the time of STORE_EXPIRE, as soon as there was one */
    int64_t now_wall_ms;
    bool asks_only;      /* nothing is stored, and no room is wanted: was it, under this key?
                            ERR_NOT_FOUND: no. Of the message its project alone is looked at */
    int64_t key_wall_ms; /* the store's own: by this time keys end */
    /* out */
    bool is_replay; /* the key was used for an equal submission: `message` is the stored one, as it
                       is now */
    /* ERR_CONFLICT: the key was used for another submission, or for a message that is no longer
     * kept or cannot be read any more */
};

/* Claims recipients: queued -> sending, committed before the job leaves. What cannot be read is not
 * claimed, and holds up no other. */
struct store_claim {
    struct store_call call;
    const recipient_key_t *key;
    size_t count;
    int64_t now_wall_ms;
    bool *is_claimed; /* out, the caller's array of `count` */
};

/* The results of one transaction (or of its failure): states, attempt, events, notifications
 * together. A recipient whose row is damaged is left out and stays `sending`; ERR_CONFLICT when no
 * other is left. */
struct settle_result {
    recipient_key_t key;
    enum recipient_state state; /* QUEUED (deferred) or a final one */
    bool counts;                /* an attempt (false: shutdown, throttle) */
    int64_t due_wall_ms;        /* QUEUED */
    bool unknown_outcome; /* lost after the final dot: marks possible_duplicate when retried */
    int64_t kept_ms;      /* no_domain_since() */
    struct last_result last;
};
struct store_settle {
    struct store_call call;
    const struct settle_result *result; /* all of one message */
    size_t count;
    const struct attempt_row *attempt; /* NULL: none to record */
    int64_t now_wall_ms;
};

/* Back to queued without an attempt: claimed but never started. */
struct store_release {
    struct store_call call;
    const recipient_key_t *key;
    size_t count;
    int64_t due_wall_ms, now_wall_ms;
};

/* ERR_CONFLICT: the message, or the queue that it waits in, is damaged. */
struct store_cancel {
    struct store_call call;
    struct id id;
    int64_t project;
    int64_t now_wall_ms;
    size_t recipient_count; /* of the message: what the call weighs in a transaction; 0: unknown,
                               then it has one to itself */
    /* out: the message as it is now; per recipient what happened */
    struct message_row message;
    enum cancel_result {
        CANCEL_DONE,
        CANCEL_TOO_LATE /* sending */,
        CANCEL_FINAL
    } *
        result; /* message.recipient_count */
};

/* Deferred recipients become due now. Final undelivered ones go into a NEW message with the same
 * content, `new_id` and retry_of. ERR_CONFLICT: there is nothing to retry, or it is damaged. */
struct store_retry {
    struct store_call call;
    struct id id;
    int64_t project;
    struct id new_id;
    int64_t now_wall_ms, expires_wall_ms;
    size_t recipient_count;     /* as of store_cancel */
    struct str idempotency_key; /* these as with an accept, of whose keys they are: */
    uint8_t fingerprint[32];
    int64_t idempotency_until_wall_ms;
    bool asks_only;      /* nothing is changed: was it, under this key? ERR_NOT_FOUND: no */
    int64_t key_wall_ms; /* the store's own */
    /* out */
    struct message_row message; /* the old one, as it is now */
    bool made_new;
    struct message_row new_message; /* when made_new */
    bool is_replay; /* the key was used for this: the messages are those of then, as they are now */
    /* ERR_CONFLICT: nothing to retry (all delivered or under way, or content is erased); with
     * info.field "Idempotency-Key": as with an accept */
};

/* A sweep: queued and scheduled recipients past their message's expiry become expired, at most
 * `most`; those that cannot be read are passed over, and the log says so. Its time is one that can
 * be trusted (server/base/doubt.h), so idempotency keys end by it, too; it comes every few seconds.
 */
struct store_expire {
    struct store_call call;
    int64_t now_wall_ms;
    size_t most;
    /* out */
    size_t expired;
    bool more; /* it did not come to the end */
};

/* A sweep of retention, in small steps: contents of messages whose recipients are all final,
 * events, attempts, messages, idempotency rows, notifications, captures. What still waits for its
 * endpoint keeps its event, and an event keeps its message. */
struct store_retain {
    struct store_call call;
    int64_t now_wall_ms;
    int64_t content_before_wall_ms, events_before_wall_ms;
    int64_t waiting_before_wall_ms; /* of notifications that wait: since their last change */
    bool mends_times; /* what is written to be of the future was so by a clock that was wrong: it
                         counts as of now; a message that is open keeps its times */
    int64_t
        keys_latest_wall_ms; /* with it: an idempotency key that is made now ends then, and one
                                that would end 30 days later still ends then, too; 0: not this */
    size_t captures_most;    /* keep at most so many of each kind */
    size_t most;             /* rows of one step; a large content counts as many */
    size_t removed;          /* out: things, large and small */
    bool more;               /* out: ask again */
};

/* After the clock was set back, what was planned before lies too far ahead. A sweep: queued
 * recipients due after `due_latest` are due now, notifications after `notify_latest` too, and a
 * message that would expire after `expires_latest` begins its life anew. 0: not this. */
struct store_mend {
    struct store_call call;
    int64_t now_wall_ms;
    int64_t due_latest_wall_ms, notify_latest_wall_ms, expires_latest_wall_ms;
    size_t most;   /* rows of one step, all of them together */
    size_t mended; /* out */
    bool more;     /* out: ask again */
};

/* ---- outbox: reading
 * ----------------------------------------------------------------------------------------------------
 */

/* How far a list that is ordered by a time and a number was gone through; number 0: from the start.
 */
struct time_place {
    int64_t wall_ms, number;
};

/* Recipients that may go soon. Quota per key, parked keys skipped, room kept for high. Those that
 * cannot be read are left out, and the log says so.
 *
 * Of more queues than `most` those that wait longest have a part, and a lane leaves some to those
 * behind it. `at` says where the next load goes on, so that each has its turn, however many come
 * again and again: those who repeat the call hand it back as it is. */
struct store_due {
    struct store_call call;
    int64_t until_wall_ms;      /* due at or before */
    const struct str *skip_key; /* keys of which nothing is wanted now */
    size_t skip_count;
    size_t per_key, most;
    struct time_place at[LANE_COUNT]; /* in and out; zeros: from the start, or all had a part */
    /* out */
    struct due_row *due; /* each owned by the caller; the array lives in the arena */
    size_t count;
    bool more;                /* something was left out, or may have been before `at` */
    int64_t next_due_wall_ms; /* earliest due time beyond until; 0: none */
};

struct store_content {
    struct store_call call;
    struct id id;
    int64_t project;         /* -1: any */
    struct message *message; /* out: one reference, the caller's. ERR_NOT_FOUND: no such message, or
                                content erased (info) */
};

/* ERR_CONFLICT: it is damaged; so of a content and of a capture. */
struct store_message {
    struct store_call call;
    struct id id;
    int64_t project;
    struct message_row message; /* out */
};

/* With a filter it is a search, which may take long and waits for other searches; without one it is
 * read like anything else. What is damaged is left out, and the log says so. */
struct store_messages {
    struct store_call call;
    int64_t project;
    struct str state, to, from, tag,
        external_id;    /* filters, absent: any; state is what the API shows of a recipient */
    int64_t before_seq; /* 0: from the newest */
    size_t limit;
    /* out: newest first */
    struct message_row *message;
    size_t count;
    bool more;
};

struct store_events { /* those that are damaged are left out, and the log says so */
    struct store_call call;
    int64_t project;
    struct id message_id; /* zero: the whole feed */
    int64_t after_seq;
    size_t limit;
    struct event_row *event; /* out, ascending */
    size_t count;
    bool more;
};

struct store_attempts { /* those that are damaged are left out, as of notifications and keys */
    struct store_call call;
    struct id message_id;
    int64_t project;
    int64_t after_seq; /* 0: from the first */
    size_t limit;
    struct attempt_row *attempt; /* out, ascending */
    size_t count;
    bool more;
};

/* accepted = final + pending, always. In recipients. */
struct store_totals {
    struct store_call call;
    int64_t accepted;
    int64_t by_state[RECIPIENT_STATE_COUNT]; /* now; final ones also count those whose rows
                                                retention removed */
    int64_t oldest_queued_wall_ms;           /* 0: none */
    int64_t notifications_pending;
};

/* ---- keys, domains, webhooks (project -1 in readers: all)
 * ------------------------------------------------------------------ */

struct store_key_put {
    struct store_call call;
    struct key_row key;
    size_t most; /* a new one: ERR_LIMIT when so many of its project are in force at its
                    created_wall_ms; 0: any number */
}; /* inserts; the same prefix again: ERR_CONFLICT unless the hash is equal (then updates). A key
      that was revoked stays so; key.id and key.revoked_wall_ms are out, too */
struct store_key_revoke {
    struct store_call call;
    struct id id;
    int64_t project;
    int64_t now_wall_ms;
};
struct store_keys_used {
    struct store_call call;
    const struct id *id;
    const int64_t *wall_ms;
    size_t count;
};
/* A limit makes it a page, which waits for searches; the whole is read like anything else. */
struct store_keys {
    struct store_call call;
    int64_t project;
    struct id id;    /* this one alone; zero: any */
    struct id after; /* of a page; zero: from the first id */
    size_t limit;    /* 0: all */
    /* out; of a page: ascending by id */
    struct key_row *key;
    size_t count;
    bool more;
};
struct store_domain_put {
    struct store_call call;
    struct domain_row domain;
    bool replace;
    size_t most; /* a new one: ERR_LIMIT when its project has so many; 0: any number */
};               /* ERR_CONFLICT: exists and !replace; ERR_INVALID: a key without its pem */
struct store_domain_delete {
    struct store_call call;
    struct str name;
    int64_t project;
};
/* What a look at a domain's DNS records found. Watchers are told only when that changes something.
 * ERR_NOT_FOUND: deleted meanwhile. */
struct store_domain_checked {
    struct store_call call;
    struct id id;
    int64_t project;
    bool is_verified;
    const struct str *published; /* selectors whose records were found */
    size_t published_count;
    const struct str *unknown; /* selectors that nobody answered for: they stay as they were */
    size_t unknown_count;
    int64_t now_wall_ms;
};
/* Private keys come out only with_secrets, for who signs or puts them back, and are wiped when the
 * call is released. Without, each key is there with its `pem` absent. Pages as with keys. */
struct store_domains {
    struct store_call call;
    int64_t project;
    struct str name; /* this one alone, of one project; absent: any */
    bool with_secrets;
    struct id after; /* as of store_keys, also what is out */
    size_t limit;
    /* out */
    struct domain_row *domain;
    size_t count;
    bool more;
};
struct store_webhook_put {
    struct store_call call;
    struct webhook_row webhook;
    bool replace;
    size_t most; /* as of domains */
    /* Replace only while it is still this (ERR_CONFLICT: somebody was quicker, with a change, or
     * with an answer that made it failing or disabled): else a change made of what was read before
     * would undo theirs. NULL: whatever it is. */
    const struct webhook_row *seen;
}; /* replace: ERR_NOT_FOUND when absent */
struct store_webhook_delete {
    struct store_call call;
    struct id id;
    int64_t project;
};
struct store_webhooks {
    struct store_call call;
    int64_t project;
    struct webhook_row *webhook;
    size_t count;
};
/* Writes a webhook.test event for this endpoint alone. */
struct store_webhook_test {
    struct store_call call;
    struct id id;
    int64_t project;
    int64_t now_wall_ms;
    struct id event_id;
};

/* ---- notifications
 * -------------------------------------------------------------------------------------------------------
 */

/* Takes due notifications (pending -> sending) with their events. At most `per_webhook` of one
 * endpoint (of those in `share`: as many as stands there) are SENDING at once, those of earlier
 * claims included, so that a dead endpoint holds up nobody. What is found SENDING when the store is
 * opened becomes PENDING, due now. */
struct notify_share {
    struct id webhook_id;
    size_t most;
};
struct store_notify_claim {
    struct store_call call;
    int64_t now_wall_ms;
    size_t most, per_webhook;
    const struct notify_share *share; /* the caller's, until the call is done */
    size_t share_count;
    struct notification_row *notification; /* out */
    struct event_row *event;               /* out, same order */
    size_t count;
    int64_t next_due_wall_ms; /* earliest that was not taken; 0: none */
};
struct notify_result {
    int64_t seq;
    enum notification_state state; /* PENDING (again), DELIVERED, FAILED */
    bool counts;
    int64_t due_wall_ms;
    int status;
    int64_t took_ms;
    struct str error, response;
    bool disable_webhook; /* 410: the endpoint becomes disabled, with an event */
    bool mark_failing;    /* the last try failed: endpoint FAILING, with an event */
    bool mark_working;    /* it answered: FAILING -> ENABLED */
};
struct store_notify_settle {
    struct store_call call;
    const struct notify_result *result;
    size_t count;
    int64_t now_wall_ms;
};
/* Due again, now: one (seq != 0), or those of an endpoint in a period, a step at a time. The
 * attempts of what had ended start anew. */
struct store_notify_replay {
    struct store_call call;
    struct id webhook_id;
    int64_t project;
    int64_t seq;
    int64_t since_wall_ms, until_wall_ms; /* when they were made, both included */
    bool only_failed;
    int64_t now_wall_ms;
    size_t most;       /* rows looked at in one step */
    int64_t after_seq; /* where it goes on: 0, then last_seq of the step before */
    size_t replayed;   /* out: of this step */
    int64_t last_seq;  /* out */
    bool more;         /* out */
};
/* The delivery log, newest first. */
struct store_notifications {
    struct store_call call;
    struct id webhook_id;
    int64_t project;
    int64_t before_seq;
    size_t limit;
    struct notification_row *notification; /* out */
    size_t count;
    bool more;
};

/* ---- sandbox
 * ---------------------------------------------------------------------------------------------------------------
 */

struct store_capture_put {
    struct store_call call;
    struct capture_row capture;
};
struct store_captures {
    struct store_call call;
    enum capture_kind kind;
    struct id before; /* zero: from the newest */
    size_t limit;
    struct capture_row *capture; /* out, newest first, without content for messages */
    size_t count;
    bool more;
};
struct store_capture {
    struct store_call call;
    struct id id;
    bool is_head; /* its content is left where it is: how large is it? */
    /* out */
    struct capture_row capture; /* is_head: the content is absent */
    int64_t content_bytes;
};
