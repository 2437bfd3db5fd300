/* store_ops: what a backend fills in; private to storage/.
 *
 * The front (store.c, committer.c, reader.c, checkpoint.c) owns threads, queues, batches, notices
 * and health; a backend owns rows. All functions here are synchronous. A backend has one writer,
 * used by the committer alone, and any number of readers, each used by one thread.
 *
 *     begin -> { write }* -> commit | rollback           one batch
 *
 * A writing verb decides before it writes: when it returns an error of its own (NOT_FOUND,
 * CONFLICT, INVALID, LIMIT) it has usually changed nothing and the batch goes on. When it has
 * (change_count() moved), the committer rolls the whole batch back and runs it again with a
 * savepoint around each verb, so that a failure fails only itself. (Savepoints around each verb
 * from the start would copy every page that a verb touches.) So a writing verb must be repeatable:
 * it reads what is "in" and overwrites what is "out".
 *
 * Thread: as said at each function.
 */
#pragma once

#include "storage/store.h"

struct backend;        /* the writer, and what is common */
struct backend_reader; /* one reading handle */
struct effects;

/* Bytes of a store's folder name; what lies in the folder has short names. */
enum { STORE_FOLDER_MOST = 4000 };

enum backend_status {
    BACKEND_READY,
    BACKEND_FULL,  /* no room: the batch is lost, a later one may succeed */
    BACKEND_BROKEN /* I/O error: close and open again */
};

typedef enum err (*store_write_fn)(struct backend *b, struct effects *fx, struct store_call *call);
typedef enum err (*store_read_fn)(struct backend_reader *r, struct store_call *call);

/* How many notifications of this endpoint may be SENDING. */
size_t store_notify_share(const struct store_notify_claim *q, const struct id *webhook_id);

/* Which file a backend writes to. */
struct backend_file {
    uint64_t device, inode;
};

struct store_ops {
    const char *name;
    /* Opens the writer. `was` NULL: this is the start of the process: makes it, migrates, and what
     * was SENDING becomes due. Else it is opened again, and has to be the file that it was then:
     * ERR_UNAVAILABLE while another one is in its place, or none; nothing is made or migrated. */
    enum err (*open)(const struct store_options *o, const struct backend_file *was,
                     struct backend **out, struct errinfo *info);
    void (*file)(const struct backend *b, struct backend_file *out); /* NULL: it has none */
    void (*close)(struct backend **bp); /* of one that is open, or NULL */

    /* committer */
    enum err (*begin)(struct backend *b);  /* never on one that is broken */
    enum err (*commit)(struct backend *b); /* durable when OK; else it was rolled back */
    void (*rollback)(struct backend *b);
    enum err (*savepoint)(struct backend *b);
    enum err (*savepoint_release)(struct backend *b);
    enum err (*savepoint_rollback)(struct backend *b);
    int64_t (*change_count)(const struct backend *b);
    bool (*has_written)(const struct backend *b); /* the last commit: so there was room */
    enum backend_status (*status)(const struct backend *b);
    const char *(*status_text)(const struct backend *b);
    /* A body too large for one transaction goes in piece by piece, ahead of the verb, each piece in
     * a transaction that it shares with others. `stage`, in an open one, writes the piece that
     * begins at `at` and returns where the next begins; the size of the message: it was the last,
     * and the verb comes in a later transaction. What failed shows status(); it may be repeated
     * from the same place after a rollback. NULL: nothing is staged. `unstage`, outside of a
     * transaction, ends it, and removes what no verb used. One at a time. */
    size_t (*stage)(struct backend *b, struct store_call *call, size_t at);
    void (*unstage)(struct backend *b);
    /* A transaction that writes a little and is synced: can this handle write (again)? What it
     * wrote shows has_written(), what failed status(). Outside of a transaction. */
    enum err (*probe)(struct backend *b);
    /* As committed: accepted and by_state. */
    void (*totals)(const struct backend *b, int64_t *accepted, int64_t by_state[]);
    /* Keeps the log of the backend short; NULL: there is none. */
    int64_t (*wal_bytes)(const struct backend *b); /* after the last commit */
    bool (*checkpoint)(struct backend *b);         /* between transactions */

    /* readers */
    enum err (*reader_open)(const struct store_options *o, struct backend *b,
                            struct backend_reader **out, struct errinfo *info);
    void (*reader_close)(struct backend_reader **rp);
    /* Contents that are read between the two share a snapshot. NULL: there are none to share. */
    void (*read_begin)(struct backend_reader *r);
    void (*read_end)(struct backend_reader *r);
    /* From now on `rest` is called between the statements of a read that can be long: it may wait,
     * and other reading verbs may run in it on the same handle. Not after a failure of the read.
     * NULL: no read is long. */
    void (*reader_rests)(struct backend_reader *r, void (*rest)(void *arg), void *arg);
    /* true: everything is in the main file. Thread: checkpoint, on a reader of its own. */
    bool (*reader_checkpoint)(struct backend_reader *r);
    enum err (*check)(struct backend_reader *r, struct errinfo *info);

    store_write_fn write[STORE_VERB_COUNT]; /* each verb is in one of the two */
    store_read_fn read[STORE_VERB_COUNT];
};

extern const struct store_ops store_sqlite_ops;
extern const struct store_ops store_memory_ops;

/* The arena of what comes out, made at first use. */
struct arena *store_call_arena(struct store_call *call);

/* ---- what a batch will tell its watchers, collected while it runs ---- */

/* How many bytes of content ride on notices; shared by the store and every outgoing. */
struct content_budget;
struct content_budget *content_budget_new(int64_t most_bytes);
void content_budget_unref(struct content_budget **bp);

/* A new outgoing with one reference. `content` may be NULL; it is carried (with a reference of its
 * own) when it is small enough and the budget has room. */
struct outgoing *outgoing_new(const struct message_row *m, struct message *content,
                              struct content_budget *budget);

/* Thread: committer. */
struct effects *effects_new(struct content_budget *budget);
void effects_free(struct effects **fp);
struct content_budget *effects_budget(const struct effects *fx);
/* Copies the strings of `row`, takes one reference to its outgoing. Rows of one message that follow
 * one another make one notice. */
void effects_due(struct effects *fx, const struct id *message, const struct due_row *row);
void effects_gone(struct effects *fx, const struct id *message, recipient_key_t key);
void effects_message(struct effects *fx, const struct id *message, bool is_complete);
void effects_kind(struct effects *fx, enum store_notice_kind kind);
size_t effects_mark(const struct effects *fx);
void effects_truncate(struct effects *fx, size_t mark); /* drops what came after the mark */

/* ---- watches ---- */
struct watch_list;
struct watch_list *watch_list_new(void);
void watch_list_free(struct watch_list **wp);
void watch_list_add(struct watch_list *w, unsigned mask, struct mailbox *box,
                    void (*fn)(struct store_notice *n), void *ctx);
void watch_list_remove(struct watch_list *w, struct mailbox *box);
/* Sends what was collected; the effects are empty afterwards. */
void watch_list_publish(struct watch_list *w, struct effects *fx);
void watch_list_tell(struct watch_list *w, enum store_notice_kind kind); /* a kind without rows */

/* ---- reading threads ---- */
/* Between two reads: closed for the moment in which the log begins anew, which it cannot while
 * anybody reads in it. Outlives readers and committer. Thread: any (locks inside). */
struct gate;
struct gate *gate_new(void);
void gate_free(struct gate **gp);
/* Nobody enters any more; waits until all have left, but not longer than that. False: somebody is
 * still in. gate_open() in any case. */
bool gate_close(struct gate *g, int64_t timeout_ms);
void gate_open(struct gate *g);

struct reader_pool;
NODISCARD enum err reader_pool_start(const struct store_ops *ops, const struct store_options *o,
                                     struct backend *b, struct gate *g, size_t count,
                                     struct reader_pool **out, struct errinfo *info);
void reader_pool_post(struct reader_pool *p, struct store_call *call);
void reader_pool_stop(struct reader_pool **pp); /* answers what waits first */

/* ---- checkpoint thread ---- */
struct checkpoint;
NODISCARD enum err checkpoint_start(const struct store_ops *ops, const struct store_options *o,
                                    struct backend *b, struct gate *readers,
                                    struct checkpoint **out, struct errinfo *info);
/* Keeps the log short: starts a copy, ends one, keeps readers out for a moment when there is no
 * other way. Thread: committer, between two transactions; `b` is its backend now. */
void checkpoint_after_commit(struct checkpoint *c, struct backend *b);
void checkpoint_stop(struct checkpoint **cp);

/* ---- what store_health() shows. Thread: the committer's; health_get(), health_set_floor(): any */
struct health;
struct health *health_new(const char *folder, struct watch_list *w); /* both outlive it */
void health_free(struct health **hp);
struct store_health health_get(struct health *h);
void health_set(struct health *h, bool is_writable, const char *text); /* logs and tells a change */
/* Both log it when the floor is crossed. */
void health_refresh_disk(struct health *h);
void health_set_floor(struct health *h, int64_t bytes);

/* ---- what the committer goes by, of a call. Pure ---- */
/* As limits of a batch count it. */
void call_measure(const struct store_call *call, size_t *rows, size_t *bytes);
/* Results and claims: their caller goes on with other work meanwhile. */
bool call_is_patient(const struct store_call *call);

/* ---- committer ---- */
struct committer;
struct committer *committer_start(const struct store_ops *ops, const struct store_options *o,
                                  struct backend *b, struct checkpoint *ck, struct watch_list *w,
                                  struct content_budget *budget);
void committer_post(struct committer *c, struct store_call *call);
void committer_stop(struct committer **cp); /* executes what was posted; closes the backend */
struct store_health committer_health(struct committer *c);    /* Thread: any */
void committer_set_floor(struct committer *c, int64_t bytes); /* Thread: any */

/* Gives the call back to whoever posted it. */
void store_call_finish(struct store_call *call, enum err e);

/* ---- migrations: numbered, each applied once ---- */
struct migration {
    int version;
    const char *name;
    const char *sql, *set_version;
};
extern const struct migration migrations[];
extern const size_t migration_count;
/* The steps from `version` on; ERR_INVALID when the store was made by a newer program. */
NODISCARD enum err migrate_plan(int version, size_t *first, struct errinfo *info);

/* ---- what several backends decide alike ---- */
/* The tags of ["a","b"]. */
size_t tags_parse(struct str json, struct arena *a, struct str **out);
/* Does a message (with its recipients) pass the filters of the listing? */
bool messages_match(const struct store_messages *q, const struct message_row *m);
/* Has it filters? Then it goes through what there is until enough was found. */
bool messages_is_search(const struct store_messages *q);
/* Of a project that has `count` there may be one more while they are less than `most` (0: any
 * number). ERR_LIMIT; `what` they are stands in the call's info. */
NODISCARD enum err room_for_one(struct store_call *call, int64_t count, size_t most,
                                const char *what);
/* An idempotency key may end so much later than one that is made now (STORE_RETAIN): a clock that
 * is behind by less costs none of its time. */
#define KEY_SLACK_MS ((int64_t)30 * 86400 * 1000)
#define KEYS_IN_FORCE "keys in force: revoke some, or let them expire"
/* The time since when something holds: the old one while it goes on, 0 when it does not. */
int64_t since_wall_ms(bool holds, int64_t before_wall_ms, int64_t now_wall_ms);
/* The time since when the key's record is published, after this look at DNS. */
int64_t key_published_wall_ms(const struct store_domain_checked *q,
                              const struct domain_key_row *key);
/* The event of a change of state. */
enum event_type event_type_of_state(enum recipient_state to);
/* Who gets how many of `most` rows: key after key and row after row get equal parts of what is
 * left, `high` first; an eighth of it is for the lanes behind. In and out: `give` of each, rows
 * sorted by lane. */
struct due_share {
    struct str key;
    enum lane lane;
    int64_t count; /* waiting in this row */
    int64_t give;  /* out */
};
void due_shares(struct due_share *row, size_t count, size_t per_key, size_t most);
