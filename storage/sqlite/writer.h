/* writer: the SQLite backend's one writing handle and what it keeps in memory between transactions.
 *
 * Kept along with the rows, and written once per batch, at its end: sequences and totals (one row),
 * and the summary of what waits per (queue key, lane, project). Webhooks are a copy that is read
 * again after any change, also after one that was rolled back.
 *
 * Thread: committer.
 */
#pragma once

#include "server/base/limits.h"
#include "server/base/table.h"
#include "storage/sqlite/handle.h"
#include "storage/store_ops.h"

struct counters {
    int64_t next_message, next_event, next_body, next_queue, next_notification;
    int64_t accepted;
    int64_t by_state[RECIPIENT_STATE_COUNT];
    int64_t notifications_pending;
};

/* A summary row. `count` and `earliest` are as in the database; changes of the open transaction are
 * in the list of changes. */
struct queue {
    int64_t id;
    int64_t count;
    int64_t earliest_wall_ms; /* count > 0 */
    enum lane lane;
    int64_t project;
    struct str key;
    bool is_touched, must_search; /* during the flush */
    int64_t flush_delta, flush_earliest_wall_ms;
    struct table_node of_id, of_name;
    size_t name_size;
    char name[]; /* lane, project, key: what is hashed */
};

/* A recipient came to or left what waits in a queue, or its due time changed. */
struct queue_change {
    struct queue *queue;
    int delta;           /* +1, -1, 0 */
    int64_t due_wall_ms; /* of what came */
};

struct webhook_copy {
    int64_t n;
    struct webhook_row row; /* without its secrets */
};

/* Where a sweep goes on that passed over many rows; 0: from the start. What is rolled back is
 * looked at again. */
struct place {
    int64_t at;
    bool is_done; /* it took several steps, and waits for the others that do */
};
struct places {
    struct place retain_body, retain_notification, retain_event, retain_message, retain_queue;
    int64_t retain_waiting; /* notifications up to here are about events before retain_event */
    int64_t mend_queue;
    struct time_place expire; /* number 0: from the start */
};

struct backend {
    struct sq h;
    struct backend_file file;
    bool in_transaction, has_written; /* the transaction, to the log */
    struct counters now, committed, at_savepoint;
    int64_t page_bytes, wal_bytes;
    struct arena *scratch; /* of a transaction; cleared before the next */
    struct buf pack;

    struct table queues_by_id, queues_by_name;
    struct queue_change *change;
    size_t change_count, change_room, changes_at_savepoint;

    struct webhook_copy *webhook;
    size_t webhook_count;
    struct arena *webhook_arena;
    bool webhooks_known, webhooks_touched;

    struct places places, places_committed;
    size_t notify_turn; /* which endpoint is served first */

    /* a body that went in before its message */
    const struct store_call *staged_for;
    int64_t staged_body; /* 0: none */
    bool staged_is_used; /* its message was accepted in the open transaction, or committed */
    bool staged_is_used_at_savepoint;
    bool has_orphans; /* what was written could not be removed: before the next one is */
};

/* ---- transactions (backend.c) ---- */
void writer_flush(struct backend *b); /* counters and queues into the open transaction */

/* ---- secrets (sealed.c) ---- */
/* At the start: looks whether each secret opens, and stores anew those that are not as the ring
 * says. ERR_INVALID: one does not open. */
NODISCARD enum err sealed_renew(struct backend *b, struct errinfo *info);

/* ---- queues (queue.c) ---- */
struct queue *queue_get(struct backend *b, struct str key, enum lane lane, int64_t project);
/* Of one with waiting recipients. NULL: it is not there or damaged, and passed over; or the handle
 * failed. */
struct queue *queue_find(struct backend *b, int64_t id);
void queue_changed(struct backend *b, struct queue *q, int delta, int64_t due_wall_ms);
void queue_flush(struct backend *b);
void queue_forget(struct backend *b); /* empties the cache; no change may be pending */
/* The queue's key in a row: absent when it is the domain of the address. */
struct str queue_route_key(struct str email, struct str queue_key);
struct str queue_key_of(struct str email, struct str route_key);

/* ---- recipients (recipient.c) ---- */
#define MESSAGE_IS_DAMAGED "the message is damaged in the store"
/* What the writer needs of a message. */
struct message_head {
    int64_t seq;
    struct id id;
    int64_t project;
    enum lane lane;
    size_t recipients;
    int64_t body;
};
/* A recipient as it is; strings live in the scratch arena. */
struct rcpt {
    recipient_key_t key;
    enum recipient_state state;
    enum recipient_kind kind;
    int attempts;
    int64_t no_domain_wall_ms;
    int64_t queue, due_wall_ms, last_event;
    struct queue *waits_in; /* NULL: it does not wait */
    uint32_t event_seq;
    bool duplicate;
    struct str email, route_key;
};
static inline int64_t message_of_key(recipient_key_t key) {
    return key / RECIPIENT_KEY_SPAN;
}
static inline recipient_key_t first_key_of(int64_t message_seq) {
    return message_seq * RECIPIENT_KEY_SPAN;
}
static inline recipient_key_t last_key_of(int64_t message_seq) {
    return message_seq * RECIPIENT_KEY_SPAN + RECIPIENT_KEY_SPAN - 1;
}
enum found message_head_find(struct backend *b, int64_t seq, struct message_head *out);
/* With the queue that it waits in: when that is damaged, so is it. */
enum found rcpt_find(struct backend *b, recipient_key_t key, struct rcpt *out);
/* For who asks to change one message: reads all of it before anything is written, each recipient in
 * its place. One that is damaged fails alone; as a failure of the handle it would take the whole
 * batch along. ERR_NOT_FOUND, ERR_CONFLICT (damaged), ERR_UNAVAILABLE. */
NODISCARD enum err message_to_change(struct backend *b, struct store_call *call,
                                     const struct id *id, int64_t project, struct message_row *row,
                                     struct message_head *m, struct rcpt **r);
/* Moves `r` to `to` and writes all of it; keeps totals and queues. `now` becomes updated. */
void rcpt_move(struct backend *b, const struct message_head *m, struct rcpt *r,
               enum recipient_state to, int64_t due_wall_ms, int64_t now_wall_ms);
/* After recipients of `m` became final: when it was the last, the event message.completed. */
bool message_complete(struct backend *b, struct effects *fx, const struct message_head *m,
                      int64_t now_wall_ms);
/* The same for the only recipient of a message, which became final: nothing has to be read. */
void message_complete_with(struct backend *b, struct effects *fx, const struct message_head *m,
                           const struct rcpt *only, int64_t now_wall_ms);

/* ---- events (event.c) ---- */
struct event_in {
    enum event_type type;
    int64_t project;
    int64_t wall_ms;
    int64_t message_seq;       /* 0: not about a message */
    recipient_key_t recipient; /* -1: the message as a whole */
    enum recipient_state state;
    uint32_t recipient_seq;
    int attempt;
    int64_t next_attempt_wall_ms;
    bool is_late, possible_duplicate;
    const struct last_result *result; /* NULL or empty: none */
    struct str packed_result;         /* used when `result` is NULL: as stored */
    struct str message_state;
    struct id webhook_id;
    struct str note;
    int64_t only_webhook;   /* 0: all that want it */
    int64_t except_webhook; /* 0: none */
};
/* Writes it with its notifications; the feed's sequence. */
int64_t event_put(struct backend *b, struct effects *fx, const struct event_in *e, struct id *id);
/* The event of what `r` has become; sets its event_seq (and last_event when there is a result). To
 * be called before rcpt_move(). */
void rcpt_event(struct backend *b, struct effects *fx, const struct message_head *m, struct rcpt *r,
                struct event_in *e);
const struct webhook_copy *webhooks_copy(struct backend *b, size_t *count);
void webhooks_changed(struct backend *b);

/* ---- bodies (body.c) ---- */
enum { BODY_CHUNKS = 1024, BODY_BYTES_MOST = BODY_CHUNKS * LIMIT_BODY_CHUNK };
_Static_assert((int)BODY_BYTES_MOST >= (int)LIMIT_MESSAGE_MAX, "what is accepted can be stored");
/* Writes a body that fits one transaction; its number. */
int64_t body_put(struct backend *b, const struct message *m);
size_t body_stage(struct backend *b, struct store_call *call, size_t at);
void body_unstage(struct backend *b);
void body_remove_orphans(struct backend *b);
/* Erases the body of a message; the bytes go when no other message has them. */
void body_erase(struct backend *b, int64_t message_seq, int64_t body);

/* ---- idempotency keys (idempotency.c) ---- */
enum { KEY_FINGERPRINT = 32 };
struct key_use {
    int64_t project;
    struct str key;             /* absent: none; nothing is found, and nothing put */
    const uint8_t *fingerprint; /* of the request */
    int64_t wall_ms;            /* by this time keys end */
};
/* What was made under the key: 0: nothing. ERR_CONFLICT: by another request, or nobody knows. */
enum err key_use_find(struct backend *b, const struct key_use *u, struct errinfo *info,
                      int64_t *message_seq);
/* ERR_CONFLICT: it cannot be read any more, or is another project's. */
enum err key_use_load(struct backend *b, int64_t project, int64_t message_seq, struct errinfo *info,
                      struct arena *a, struct message_row *out);
void key_use_put(struct backend *b, const struct key_use *u, int64_t message_seq,
                 int64_t until_wall_ms);

/* ---- a new message (insert.c) ---- */
/* Assigns seq and keys, writes all rows, tells who waits. `body`: its content's number; `content`
 * may ride on the notice, NULL: not at hand. */
void message_insert(struct backend *b, struct effects *fx, struct message_row *m,
                    const struct str *queue_key, int64_t body, struct message *content,
                    int64_t now_wall_ms);

/* An attempt's key: message seq << ATTEMPT_BITS | number. */
enum { ATTEMPT_BITS = 20 };

/* ---- rows into structs (rows.c): on any handle ---- */
void message_from_row(struct damage *d, sqlite3_stmt *st, struct arena *a, struct message_row *out);
/* Without its recipients; with metadata, so that it can be large. */
NODISCARD enum found message_find(struct sq *h, int64_t seq, struct arena *a,
                                  struct message_row *out);
/* With its recipients; a damaged one is passed over. */
NODISCARD enum found message_load(struct sq *h, int64_t seq, struct arena *a,
                                  struct message_row *out);
/* 0: none, or another project's (-1: any). */
int64_t message_seq_find(struct sq *h, const struct id *id, int64_t project);
void event_from_row(struct damage *d, sqlite3_stmt *st, struct arena *a, struct event_row *out);
/* Its secrets live in `secrets`, which is to be wiped when it ends. */
void webhook_from_row(const struct sq *h, struct damage *d, sqlite3_stmt *st, struct arena *a,
                      struct arena *secrets, struct webhook_row *out);
/* Moves to the row at hand. False: its time is no whole number, which no version wrote; the place
 * is behind it then, since it would be the next one for ever. What lies behind all times (texts,
 * numbers beyond 64 bits) is to be kept out by the statement. */
bool time_place_move(struct time_place *p, sqlite3_stmt *st, int at_time, int at_number);
/* Names joined by LF in one column. */
struct str list_join(struct arena *a, const struct str *list, size_t count);
struct str *list_split(struct arena *a, struct str joined, size_t *count);
/* Grows an array in an arena to hold one more; for results of unknown length. */
void *rows_grow(struct arena *a, void *rows, size_t each, size_t count);

/* ---- search (search.c) ---- */
enum { TERM_BUCKET = 512 }; /* messages; stored: another number needs a migration */
enum term_kind { TERM_TO = 't', TERM_FROM = 'f', TERM_TAG = 'g', TERM_EXTERNAL_ID = 'x' };
int64_t term_hash(enum term_kind kind, struct str value);
void terms_put(struct backend *b, const struct message_row *m);

struct backend_reader {
    struct sq h;
    void (*rest)(void *arg); /* between the statements of a long read; NULL: nobody wants that */
    void *rest_arg;
};
/* Between two statements, in no snapshot: others may want a moment without readers, or this handle.
 */
void reader_rest(struct backend_reader *r);

/* ---- verbs ---- */
enum err sqlite_accept(struct backend *b, struct effects *fx, struct store_call *call);
enum err sqlite_claim(struct backend *b, struct effects *fx, struct store_call *call);
enum err sqlite_settle(struct backend *b, struct effects *fx, struct store_call *call);
enum err sqlite_release(struct backend *b, struct effects *fx, struct store_call *call);
enum err sqlite_cancel(struct backend *b, struct effects *fx, struct store_call *call);
enum err sqlite_retry(struct backend *b, struct effects *fx, struct store_call *call);
enum err sqlite_expire(struct backend *b, struct effects *fx, struct store_call *call);
enum err sqlite_retain(struct backend *b, struct effects *fx, struct store_call *call);
enum err sqlite_mend(struct backend *b, struct effects *fx, struct store_call *call);
enum err sqlite_key_put(struct backend *b, struct effects *fx, struct store_call *call);
enum err sqlite_key_revoke(struct backend *b, struct effects *fx, struct store_call *call);
enum err sqlite_keys_used(struct backend *b, struct effects *fx, struct store_call *call);
enum err sqlite_domain_put(struct backend *b, struct effects *fx, struct store_call *call);
enum err sqlite_domain_delete(struct backend *b, struct effects *fx, struct store_call *call);
enum err sqlite_domain_checked(struct backend *b, struct effects *fx, struct store_call *call);
enum err sqlite_webhook_put(struct backend *b, struct effects *fx, struct store_call *call);
enum err sqlite_webhook_delete(struct backend *b, struct effects *fx, struct store_call *call);
enum err sqlite_webhook_test(struct backend *b, struct effects *fx, struct store_call *call);
enum err sqlite_notify_claim(struct backend *b, struct effects *fx, struct store_call *call);
enum err sqlite_notify_settle(struct backend *b, struct effects *fx, struct store_call *call);
enum err sqlite_notify_replay(struct backend *b, struct effects *fx, struct store_call *call);
enum err sqlite_capture_put(struct backend *b, struct effects *fx, struct store_call *call);
enum err sqlite_due(struct backend_reader *r, struct store_call *call);
enum err sqlite_content(struct backend_reader *r, struct store_call *call);
enum err sqlite_message(struct backend_reader *r, struct store_call *call);
enum err sqlite_messages(struct backend_reader *r, struct store_call *call);
enum err sqlite_events(struct backend_reader *r, struct store_call *call);
enum err sqlite_attempts(struct backend_reader *r, struct store_call *call);
enum err sqlite_totals(struct backend_reader *r, struct store_call *call);
enum err sqlite_keys(struct backend_reader *r, struct store_call *call);
enum err sqlite_domains(struct backend_reader *r, struct store_call *call);
enum err sqlite_webhooks(struct backend_reader *r, struct store_call *call);
enum err sqlite_notifications(struct backend_reader *r, struct store_call *call);
enum err sqlite_captures(struct backend_reader *r, struct store_call *call);
enum err sqlite_capture(struct backend_reader *r, struct store_call *call);
enum err sqlite_check(struct backend_reader *r, struct errinfo *info);
