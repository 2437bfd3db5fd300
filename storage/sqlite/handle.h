/* handle: one SQLite connection with its prepared statements and its first failure.
 *
 * All SQL is the constant text of sql.h; a statement is prepared at its first use and kept.
 * Failures stick: after the first one sq_row() and sq_run() do nothing and say false, so that a
 * verb binds and steps in peace and asks once, with sq_status().
 *
 *     sqlite3_stmt *st = sq_use(h, SQL_MESSAGE_SEQ);
 *     sq_bind_id(st, 1, &id);
 *     if (sq_row(h, st)) seq = sqlite3_column_int64(st, 0);
 *     sq_end(st);
 *     return sq_status(h, info);
 *
 * Thread: owner.
 */
#pragma once

#include <sqlite3.h>

#include "server/base/arena.h"
#include "server/base/id.h"
#include "storage/sqlite/sql.h"
#include "storage/store_ops.h"

/* Rows that no version wrote and that were passed over, so many as are remembered. */
enum damaged_kind {
    DAMAGED_MESSAGE,
    DAMAGED_EVENT,
    DAMAGED_NOTIFICATION,
    DAMAGED_QUEUE,
    DAMAGED_WEBHOOK,
    DAMAGED_ATTEMPT,
    DAMAGED_DOMAIN,
    DAMAGED_KEY
};
enum { DAMAGED_MOST = 256 };
struct damaged {
    struct {
        enum damaged_kind kind;
        int64_t number;
    } row[DAMAGED_MOST];
    size_t count;
};

/* What is wrong with a row that no version wrote: the first that was found, NULL: nothing. Nothing
 * of such a row is used. */
struct damage {
    const char *why;
};
void damage_note(struct damage *d, const char *why);

struct sq {
    sqlite3 *db;
    sqlite3_stmt *statement[SQL_COUNT];
    const struct seal *seal; /* of the store's options; NULL: secrets are stored in clear */
    int rc;                  /* the first failure, extended; SQLITE_OK */
    char text[160];          /* about it */
    struct damaged *told;    /* what the log knows of */
};

/* Makes `folder`/outbox.db when it is not there: SQLite gives -wal and -shm the rights of the main
 * file, so that is made first, for us alone. Only before the first handle is opened: whoever closes
 * a file by hand takes away all of the process's locks on it, those of SQLite's handles, too, and
 * another program that closes the store takes itself for the last and removes the log.
 * ERR_UNAVAILABLE. */
NODISCARD enum err sq_make_file(const struct store_options *o, struct errinfo *info);
/* Which one it is, without opening it. ERR_UNAVAILABLE: it is not there. */
NODISCARD enum err sq_find_file(const struct store_options *o, struct backend_file *out,
                                struct errinfo *info);
/* Opens it, and makes none; ERR_UNAVAILABLE with the reason. */
NODISCARD enum err sq_open(struct sq *h, const struct store_options *o, bool writer,
                           struct errinfo *info);
void sq_close(struct sq *h);
/* Runs constant text without results: pragmas and migrations. */
void sq_exec(struct sq *h, const char *sql);
int64_t sq_exec_int(struct sq *h, const char *sql); /* first column of the first row */

/* The statement, not running; every parameter is to be bound. NULL when it could not be prepared:
 * then the handle has failed, and everything below takes NULL without harm. */
sqlite3_stmt *sq_use(struct sq *h, enum sql id);
void sq_bind_int(sqlite3_stmt *st, int at, int64_t v);
/* The bytes stay where they are until the statement is used again; absent is NULL. */
void sq_bind_str(sqlite3_stmt *st, int at, struct str s);
void sq_bind_blob(sqlite3_stmt *st, int at, const void *p, size_t n);
void sq_bind_id(sqlite3_stmt *st, int at, const struct id *id); /* zero is NULL */
bool sq_row(struct sq *h, sqlite3_stmt *st);                    /* is there another row? */
void sq_run(struct sq *h, sqlite3_stmt *st);                    /* to its end, then resets */
void sq_end(sqlite3_stmt *st); /* after rows: no read transaction stays open */
void sq_fail(struct sq *h, int rc,
             const char *text); /* a failure that is not SQLite's own: corruption */
/* A row is damaged, and what goes through many goes on without it: a warning, once for each row on
 * each handle. Who asks for it alone is refused, and the handle is well; nobody changes it. */
void sq_pass_over(struct sq *h, enum damaged_kind kind, int64_t number, const char *why);
/* Nothing is wrong with it; else it is passed over. */
bool sq_is_sound(struct sq *h, const struct damage *d, enum damaged_kind kind, int64_t number);
/* The same of a row that may not be there: FOUND_NONE, which is also the answer of a handle that
 * failed. */
enum found { FOUND_NONE, FOUND_DAMAGED, FOUND };
enum found sq_found(struct sq *h, bool is_row, const struct damage *d, enum damaged_kind kind,
                    int64_t number);

int64_t sq_int(sqlite3_stmt *st, int at);
bool sq_bool(sqlite3_stmt *st, int at);
struct str sq_peek(sqlite3_stmt *st, int at);                 /* lives until the next step */
struct str sq_str(sqlite3_stmt *st, int at, struct arena *a); /* NULL is absent */
struct id sq_id(sqlite3_stmt *st, int at);                    /* NULL is zero */
/* A number from `least` to `most`, which are sizes of what is made room for; anything else is
 * damage, and `least`. */
int64_t sq_between(struct damage *d, sqlite3_stmt *st, int at, int64_t least, int64_t most);
/* A wall time that can be printed, or 0; anything else is damage, and 0. */
int64_t sq_time(struct damage *d, sqlite3_stmt *st, int at);
/* The same of one that is only shown: anything else is -1, which is shown as null. */
int64_t sq_shown_time(struct damage *d, sqlite3_stmt *st, int at);
/* A value of an enum with `count` members. */
int sq_enum(struct damage *d, sqlite3_stmt *st, int at, int count);

/* Where a secret belongs, which it is bound to: a column of the row with this id. `part` tells
 * several of one row apart. */
struct sealed_place {
    const char *column;
    const struct id *id;
    struct str part;
};
/* What is to be stored, in `a`. */
struct str sq_close_secret(const struct sq *h, struct sealed_place place, struct str plain,
                           struct arena *a);
/* What was stored in clear, in `a`. One that does not open is absent, and damage: opening looked at
 * all. */
struct str sq_open_secret(const struct sq *h, struct damage *d, struct sealed_place place,
                          struct str stored, struct arena *a);

bool sq_has_failed(const struct sq *h);
bool sq_is_full(const struct sq *h);
/* OK, ERR_UNAVAILABLE (full, I/O, memory, lock), ERR_INTERNAL (anything else). */
NODISCARD enum err sq_status(const struct sq *h, struct errinfo *info);
void sq_end_snapshot(struct sq *h); /* after SQL_READ_BEGIN, when no statement runs any more; keeps
                                       the failure, if there is one */
void sq_forget(struct sq *h);       /* the failure was dealt with: statements are reset */
