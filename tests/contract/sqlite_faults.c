/* The linker puts these before the functions of the same name (--wrap). */
#include "tests/contract/sqlite_faults.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum { SEEN_MOST = 4096 };
static const char CHECKPOINT[] = "checkpoint"; /* stands for its SQL */

static struct {
    pthread_mutex_t mu;
    bool is_armed;
    struct sqlite_fault fault;
    long calls, failed, prepares;
    struct {
        const sqlite3 *db;
        const char *sql;
    } seen[SEEN_MOST];
    size_t seen_count;
    const char *at_open;
} shared = {.mu = PTHREAD_MUTEX_INITIALIZER};

/* What the last call of this thread was made to answer; SQLITE_OK: it was a real one. */
static _Thread_local int made_up;

void sqlite_fail(const struct sqlite_fault *f) {
    pthread_mutex_lock(&shared.mu);
    shared.fault = *f;
    shared.is_armed = true;
    shared.calls = shared.failed = shared.prepares = 0;
    pthread_mutex_unlock(&shared.mu);
}

long sqlite_fail_end(void) {
    pthread_mutex_lock(&shared.mu);
    long failed = shared.is_armed ? shared.failed : 0;
    shared.is_armed = false;
    pthread_mutex_unlock(&shared.mu);
    return failed;
}

long sqlite_failed(void) {
    pthread_mutex_lock(&shared.mu);
    long failed = shared.failed;
    pthread_mutex_unlock(&shared.mu);
    return failed;
}

void sqlite_at_open(const char *sql) {
    pthread_mutex_lock(&shared.mu);
    shared.at_open = sql;
    pthread_mutex_unlock(&shared.mu);
}

long sqlite_fail_prepares(void) {
    pthread_mutex_lock(&shared.mu);
    long prepares = shared.prepares;
    pthread_mutex_unlock(&shared.mu);
    return prepares;
}

static bool begins_with(const char *sql, const char *what) {
    return strncmp(sql, what, strlen(what)) == 0;
}

/* Under the lock. */
static bool is_next(const char *sql) {
    const struct sqlite_fault *f = &shared.fault;
    if (!shared.is_armed || (f->only != NULL && !begins_with(sql, f->only)) ||
        (f->only_work && (strcmp(sql, "ROLLBACK") == 0 || strcmp(sql, CHECKPOINT) == 0)))
        return false;
    shared.calls++;
    return f->at != 0 && (f->for_ever ? shared.calls >= f->at : shared.calls == f->at);
}

static bool is_new(const sqlite3 *db, const char *sql) {
    for (size_t i = 0; i < shared.seen_count; i++)
        if (shared.seen[i].db == db && shared.seen[i].sql == sql)
            return false;
    if (shared.seen_count == SEEN_MOST)
        abort();
    shared.seen[shared.seen_count].db = db;
    shared.seen[shared.seen_count++].sql = sql;
    return true;
}

static int fails(const char *sql, bool is_read) {
    pthread_mutex_lock(&shared.mu);
    bool is_meant = is_read || !shared.fault.only_reads;
    made_up = is_meant && is_next(sql != NULL ? sql : "") ? shared.fault.rc : SQLITE_OK;
    shared.failed += made_up != SQLITE_OK;
    pthread_mutex_unlock(&shared.mu);
    return made_up;
}

static int fails_to_prepare(const sqlite3 *db, const char *sql) {
    pthread_mutex_lock(&shared.mu);
    if (shared.is_armed && shared.fault.each_prepare_once)
        made_up = is_new(db, sql) ? shared.fault.rc : SQLITE_OK;
    else
        made_up = !shared.fault.only_reads && is_next(sql) ? shared.fault.rc : SQLITE_OK;
    shared.failed += made_up != SQLITE_OK;
    shared.prepares += made_up != SQLITE_OK;
    pthread_mutex_unlock(&shared.mu);
    return made_up;
}

/* ---- in their place ---- */

int __real_sqlite3_exec(sqlite3 *db, const char *sql, int (*fn)(void *, int, char **, char **),
                        void *arg, char **text);
int __real_sqlite3_open_v2(const char *name, sqlite3 **db, int flags, const char *vfs);
int __wrap_sqlite3_open_v2(const char *name, sqlite3 **db, int flags, const char *vfs);
int __wrap_sqlite3_open_v2(const char *name, sqlite3 **db, int flags, const char *vfs) {
    if (fails(NULL, false) != SQLITE_OK) {
        *db = NULL; /* as without memory for a connection */
        return made_up;
    }
    int rc = __real_sqlite3_open_v2(name, db, flags, vfs);
    pthread_mutex_lock(&shared.mu);
    const char *sql = shared.at_open;
    pthread_mutex_unlock(&shared.mu);
    return rc == SQLITE_OK && sql != NULL ? __real_sqlite3_exec(*db, sql, NULL, NULL, NULL) : rc;
}

int __real_sqlite3_prepare_v2(sqlite3 *db, const char *sql, int n, sqlite3_stmt **st,
                              const char **tail);
int __wrap_sqlite3_prepare_v2(sqlite3 *db, const char *sql, int n, sqlite3_stmt **st,
                              const char **tail);
int __wrap_sqlite3_prepare_v2(sqlite3 *db, const char *sql, int n, sqlite3_stmt **st,
                              const char **tail) {
    *st = NULL;
    return fails(sql, false) != SQLITE_OK ? made_up
                                          : __real_sqlite3_prepare_v2(db, sql, n, st, tail);
}

int __real_sqlite3_prepare_v3(sqlite3 *db, const char *sql, int n, unsigned flags,
                              sqlite3_stmt **st, const char **tail);
int __wrap_sqlite3_prepare_v3(sqlite3 *db, const char *sql, int n, unsigned flags,
                              sqlite3_stmt **st, const char **tail);
int __wrap_sqlite3_prepare_v3(sqlite3 *db, const char *sql, int n, unsigned flags,
                              sqlite3_stmt **st, const char **tail) {
    *st = NULL;
    return fails_to_prepare(db, sql) != SQLITE_OK
               ? made_up
               : __real_sqlite3_prepare_v3(db, sql, n, flags, st, tail);
}

int __real_sqlite3_step(sqlite3_stmt *st);
int __wrap_sqlite3_step(sqlite3_stmt *st);
int __wrap_sqlite3_step(sqlite3_stmt *st) {
    bool is_read = sqlite3_txn_state(sqlite3_db_handle(st), NULL) != SQLITE_TXN_WRITE;
    return fails(sqlite3_sql(st), is_read) != SQLITE_OK ? made_up : __real_sqlite3_step(st);
}

int __real_sqlite3_exec(sqlite3 *db, const char *sql, int (*fn)(void *, int, char **, char **),
                        void *arg, char **text);
int __wrap_sqlite3_exec(sqlite3 *db, const char *sql, int (*fn)(void *, int, char **, char **),
                        void *arg, char **text);
int __wrap_sqlite3_exec(sqlite3 *db, const char *sql, int (*fn)(void *, int, char **, char **),
                        void *arg, char **text) {
    return fails(sql, false) != SQLITE_OK ? made_up : __real_sqlite3_exec(db, sql, fn, arg, text);
}

int __real_sqlite3_wal_checkpoint_v2(sqlite3 *db, const char *name, int mode, int *in_log,
                                     int *copied);
int __wrap_sqlite3_wal_checkpoint_v2(sqlite3 *db, const char *name, int mode, int *in_log,
                                     int *copied);
int __wrap_sqlite3_wal_checkpoint_v2(sqlite3 *db, const char *name, int mode, int *in_log,
                                     int *copied) {
    return fails(CHECKPOINT, false) != SQLITE_OK
               ? made_up
               : __real_sqlite3_wal_checkpoint_v2(db, name, mode, in_log, copied);
}

/* ---- why ---- */

int __real_sqlite3_extended_errcode(sqlite3 *db);
int __wrap_sqlite3_extended_errcode(sqlite3 *db);
int __wrap_sqlite3_extended_errcode(sqlite3 *db) {
    return made_up != SQLITE_OK ? made_up : __real_sqlite3_extended_errcode(db);
}

const char *__real_sqlite3_errmsg(sqlite3 *db);
const char *__wrap_sqlite3_errmsg(sqlite3 *db);
const char *__wrap_sqlite3_errmsg(sqlite3 *db) {
    return made_up != SQLITE_OK ? "made to fail" : __real_sqlite3_errmsg(db);
}

int __real_sqlite3_system_errno(sqlite3 *db);
int __wrap_sqlite3_system_errno(sqlite3 *db);
int __wrap_sqlite3_system_errno(sqlite3 *db) {
    return made_up == SQLITE_OK               ? __real_sqlite3_system_errno(db)
           : (made_up & 0xFF) == SQLITE_IOERR ? EIO
                                              : 0;
}
