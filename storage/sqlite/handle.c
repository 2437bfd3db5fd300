#include "storage/sqlite/handle.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "server/base/clock.h"
#include "server/base/log.h"
#include "storage/sqlite/wal_file.h"

enum { PATH_SIZE = STORE_FOLDER_MOST + 64, BUSY_MS = 5000 };

/* X-macro: the constant set of SQL. */
static const char *const sql_text[] = {
#define SQL(name, text) [SQL_##name] = (text),
#include "storage/sqlite/sql.inc"
#undef SQL
};

static const char *const own_vfs = "postchute";

static void configure_library(void) {
    /* Its statistics take one global lock at each allocation. */
    sqlite3_config(SQLITE_CONFIG_MEMSTATUS, 0);
    /* What a savepoint can undo stays in memory. */
    sqlite3_config(SQLITE_CONFIG_STMTJRNL_SPILL, -1);
}

/* At the first opening, and again at the next one when there was no memory for it. */
static void register_own_vfs(void) {
    static pthread_mutex_t mu = PTHREAD_MUTEX_INITIALIZER;
    static sqlite3_vfs v;
    pthread_mutex_lock(&mu);
    /* Without it a file is not opened, and that says why. */
    if (sqlite3_vfs_find(own_vfs) == NULL)
        (void)wal_file_register(&v, own_vfs, sqlite3_vfs_find(NULL));
    pthread_mutex_unlock(&mu);
}

static void note_failure(struct sq *h, int rc) {
    if (h->rc != SQLITE_OK)
        return;
    h->rc = rc;
    int system = h->db != NULL ? sqlite3_system_errno(h->db) : 0;
    const char *words = h->db != NULL ? sqlite3_errmsg(h->db) : sqlite3_errstr(rc);
    if (system != 0)
        snprintf(h->text, sizeof(h->text), "%s (%d): %s", words, rc, strerror(system));
    else
        snprintf(h->text, sizeof(h->text), "%s (%d)", words, rc);
}

void sq_fail(struct sq *h, int rc, const char *text) {
    if (h->rc != SQLITE_OK)
        return;
    h->rc = rc;
    snprintf(h->text, sizeof(h->text), "%s", text);
}

/* false: it is there already, or there is no room. */
static bool add_told(struct damaged *d, enum damaged_kind kind, int64_t number) {
    for (size_t i = 0; i < d->count; i++)
        if (d->row[i].kind == kind && d->row[i].number == number)
            return false;
    if (d->count == DAMAGED_MOST)
        return false;
    d->row[d->count].kind = kind;
    d->row[d->count++].number = number;
    return true;
}

void sq_pass_over(struct sq *h, enum damaged_kind kind, int64_t number, const char *why) {
    static const char *const names[] = {[DAMAGED_MESSAGE] = "message",
                                        [DAMAGED_EVENT] = "event",
                                        [DAMAGED_NOTIFICATION] = "notification",
                                        [DAMAGED_QUEUE] = "queue",
                                        [DAMAGED_WEBHOOK] = "webhook",
                                        [DAMAGED_ATTEMPT] = "attempt",
                                        [DAMAGED_DOMAIN] = "domain",
                                        [DAMAGED_KEY] = "key"};
    if (add_told(h->told, kind, number))
        log_warn("storage", "a damaged row is passed over", LOG_STRZ("row", names[kind]),
                 LOG_INT("number", number), LOG_STRZ("why", why));
}

bool sq_is_sound(struct sq *h, const struct damage *d, enum damaged_kind kind, int64_t number) {
    if (d->why != NULL)
        sq_pass_over(h, kind, number, d->why);
    return d->why == NULL;
}

enum found sq_found(struct sq *h, bool is_row, const struct damage *d, enum damaged_kind kind,
                    int64_t number) {
    if (!is_row || sq_has_failed(h))
        return FOUND_NONE;
    return sq_is_sound(h, d, kind, number) ? FOUND : FOUND_DAMAGED;
}

void damage_note(struct damage *d, const char *why) {
    if (d->why == NULL)
        d->why = why;
}

void sq_exec(struct sq *h, const char *sql) {
    if (h->rc != SQLITE_OK)
        return;
    int rc = sqlite3_exec(h->db, sql, NULL, NULL, NULL);
    if (rc != SQLITE_OK)
        note_failure(h, sqlite3_extended_errcode(h->db));
}

int64_t sq_exec_int(struct sq *h, const char *sql) {
    sqlite3_stmt *st = NULL;
    int64_t v = 0;
    if (h->rc != SQLITE_OK)
        return 0;
    int rc = sqlite3_prepare_v2(h->db, sql, -1, &st, NULL);
    if (rc == SQLITE_OK)
        rc = sqlite3_step(st);
    if (rc == SQLITE_ROW)
        v = sqlite3_column_int64(st, 0);
    else
        note_failure(h, sqlite3_extended_errcode(h->db));
    sqlite3_finalize(st);
    return v;
}

static void print_path(char path[PATH_SIZE], const struct store_options *o) {
    snprintf(path, PATH_SIZE, "%s/outbox.db", o->folder);
}

enum err sq_make_file(const struct store_options *o, struct errinfo *info) {
    char path[PATH_SIZE];
    print_path(path, o);
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return err_set(info, ERR_UNAVAILABLE, "store", "cannot open %s: %s", path, strerror(errno));
    close(fd);
    return OK;
}

enum err sq_find_file(const struct store_options *o, struct backend_file *out,
                      struct errinfo *info) {
    char path[PATH_SIZE];
    print_path(path, o);
    struct stat st;
    if (stat(path, &st) != 0)
        return err_set(info, ERR_UNAVAILABLE, "store", "cannot find %s: %s", path, strerror(errno));
    *out = (struct backend_file){.device = st.st_dev, .inode = st.st_ino};
    return OK;
}

static void set_pragmas(struct sq *h, const struct store_options *o, bool writer) {
    if (writer) {
        /* These two count only before the first table. A transaction writes each page that it
         * touches whole, twice; an accept alone touches about twenty. */
        sq_exec(h, "PRAGMA page_size = 4096");
        sq_exec(h, "PRAGMA auto_vacuum = INCREMENTAL");
        sq_exec(h, "PRAGMA journal_mode = WAL");
        sq_exec(h, "PRAGMA wal_autocheckpoint = 0"); /* checkpoint.c does it */
        sq_exec(h, "PRAGMA journal_size_limit = 67108864");
    }
    /* This one reads the schema, and from its first read on a handle keeps the log's index in
     * memory. The index, not the log, says where the last commit ends: while one handle has it, a
     * writer that is opened again after a failed sync does not find the transaction that was
     * refused. */
    sq_exec(h, o->synchronous_normal ? "PRAGMA synchronous = NORMAL" : "PRAGMA synchronous = FULL");
    sq_exec(h, "PRAGMA temp_store = MEMORY");
    sq_exec(h, "PRAGMA trusted_schema = OFF");
    sq_exec(h, "PRAGMA cell_size_check = ON");
    /* A pragma takes no parameter, and no SQL is put together: the largest of these that fits. */
    static const struct {
        size_t bytes;
        const char *sql;
    } caches[] = {
        {(size_t)1024 << 20, "PRAGMA cache_size = -1048576"},
        {(size_t)256 << 20, "PRAGMA cache_size = -262144"},
        {(size_t)64 << 20, "PRAGMA cache_size = -65536"},
        {(size_t)16 << 20, "PRAGMA cache_size = -16384"},
        {(size_t)8 << 20, "PRAGMA cache_size = -8192"},
        {(size_t)4 << 20, "PRAGMA cache_size = -4096"},
        {0, "PRAGMA cache_size = -1024"},
    };
    /* Readers look things up here and there; the kernel has the pages, too. */
    size_t i = 0, bytes = writer ? o->cache_bytes : o->cache_bytes / 8;
    while (bytes < caches[i].bytes)
        i++;
    sq_exec(h, caches[i].sql);
}

enum err sq_open(struct sq *h, const struct store_options *o, bool writer, struct errinfo *info) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, configure_library);
    register_own_vfs();
    *h = (struct sq){.seal = o->seal, .told = mem_zalloc(sizeof(*h->told))};
    char path[PATH_SIZE];
    print_path(path, o);
    const char *vfs = o->vfs != NULL || o->synchronous_normal ? o->vfs : own_vfs;
    int rc = sqlite3_open_v2(path, &h->db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX, vfs);
    if (rc != SQLITE_OK) {
        note_failure(h, rc);
    } else {
        int powersafe = 1; /* else the last octets of a commit come after its sync */
        sqlite3_file_control(h->db, "main", SQLITE_FCNTL_POWERSAFE_OVERWRITE, &powersafe);
        sqlite3_extended_result_codes(h->db, 1);
        sqlite3_busy_timeout(h->db, BUSY_MS);
        sqlite3_db_config(h->db, SQLITE_DBCONFIG_DEFENSIVE, 1, NULL);
        set_pragmas(h, o, writer);
        /* What undoes is at hand when memory is short. */
        if (h->rc == SQLITE_OK)
            (void)sq_use(h, SQL_ROLLBACK);
    }
    if (h->rc == SQLITE_OK)
        return OK;
    err_set(info, ERR_UNAVAILABLE, "store", "cannot open %s: %s", path, h->text);
    sq_close(h);
    return ERR_UNAVAILABLE;
}

void sq_close(struct sq *h) {
    for (size_t i = 0; i < SQL_COUNT; i++)
        sqlite3_finalize(h->statement[i]);
    /* A handle that failed may not be closed well; v2 lets it end later instead of leaking locks.
     */
    sqlite3_close_v2(h->db);
    free(h->told);
    *h = (struct sq){0};
}

sqlite3_stmt *sq_use(struct sq *h, enum sql id) {
    sqlite3_stmt **st = &h->statement[id];
    if (*st == NULL) {
        int rc = sqlite3_prepare_v3(h->db, sql_text[id], -1, SQLITE_PREPARE_PERSISTENT, st, NULL);
        if (rc != SQLITE_OK) {
            note_failure(h, sqlite3_extended_errcode(h->db));
            /* Binding to NULL is refused by SQLite without harm, stepping is skipped after a
             * failure. */
            return NULL;
        }
    }
    return *st;
}

void sq_bind_int(sqlite3_stmt *st, int at, int64_t v) {
    sqlite3_bind_int64(st, at, v);
}

void sq_bind_str(sqlite3_stmt *st, int at, struct str s) {
    if (str_is_absent(s))
        sqlite3_bind_null(st, at);
    else
        sqlite3_bind_text64(st, at, s.p, s.n, SQLITE_STATIC, SQLITE_UTF8);
}

void sq_bind_blob(sqlite3_stmt *st, int at, const void *p, size_t n) {
    if (p == NULL)
        sqlite3_bind_null(st, at);
    else
        sqlite3_bind_blob64(st, at, p, n, SQLITE_STATIC);
}

void sq_bind_id(sqlite3_stmt *st, int at, const struct id *id) {
    sq_bind_blob(st, at, id_is_zero(id) ? NULL : id->b, ID_BYTES);
}

bool sq_row(struct sq *h, sqlite3_stmt *st) {
    if (h->rc != SQLITE_OK)
        return false;
    int rc = sqlite3_step(st);
    if (rc == SQLITE_ROW)
        return true;
    if (rc != SQLITE_DONE)
        note_failure(h, sqlite3_extended_errcode(h->db));
    sqlite3_reset(st);
    return false;
}

void sq_run(struct sq *h, sqlite3_stmt *st) {
    while (sq_row(h, st))
        ;
    sq_end(st);
}

void sq_end(sqlite3_stmt *st) {
    sqlite3_reset(st);
}

int64_t sq_int(sqlite3_stmt *st, int at) {
    return sqlite3_column_int64(st, at);
}

bool sq_bool(sqlite3_stmt *st, int at) {
    return sqlite3_column_int64(st, at) != 0;
}

struct str sq_peek(sqlite3_stmt *st, int at) {
    if (sqlite3_column_type(st, at) == SQLITE_NULL)
        return STR_NONE;
    const void *p = sqlite3_column_blob(st, at);
    return str_make(p != NULL ? p : "", (size_t)sqlite3_column_bytes(st, at));
}

struct str sq_str(sqlite3_stmt *st, int at, struct arena *a) {
    return arena_dup(a, sq_peek(st, at));
}

struct id sq_id(sqlite3_stmt *st, int at) {
    struct id id = {{0}};
    struct str s = sq_peek(st, at);
    if (s.n == ID_BYTES)
        memcpy(id.b, s.p, ID_BYTES);
    return id;
}

int64_t sq_between(struct damage *d, sqlite3_stmt *st, int at, int64_t least, int64_t most) {
    int64_t v = sqlite3_column_int64(st, at);
    if (v >= least && v <= most)
        return v;
    damage_note(d, "a row has a value that no version wrote");
    return least;
}

int64_t sq_time(struct damage *d, sqlite3_stmt *st, int at) {
    if (sqlite3_column_type(st, at) == SQLITE_INTEGER)
        return sq_between(d, st, at, 0, CLOCK_LAST_WALL_MS);
    damage_note(d, "a row has a time that no version wrote");
    return 0;
}

int64_t sq_shown_time(struct damage *d, sqlite3_stmt *st, int at) {
    struct damage of_this = {0};
    int64_t wall_ms = sq_time(&of_this, st, at);
    if (of_this.why == NULL)
        return wall_ms;
    damage_note(d, of_this.why);
    return -1;
}

int sq_enum(struct damage *d, sqlite3_stmt *st, int at, int count) {
    return (int)sq_between(d, st, at, 0, count - 1);
}

bool sq_has_failed(const struct sq *h) {
    return h->rc != SQLITE_OK;
}

bool sq_is_full(const struct sq *h) {
    return (h->rc & 0xFF) == SQLITE_FULL;
}

enum err sq_status(const struct sq *h, struct errinfo *info) {
    switch (h->rc & 0xFF) {
    case SQLITE_OK:
        return OK;
    case SQLITE_FULL:
    case SQLITE_IOERR:
    case SQLITE_NOMEM:
    case SQLITE_BUSY:
    case SQLITE_READONLY:
    case SQLITE_CANTOPEN:
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
    case SQLITE_PROTOCOL:
        return err_set(info, ERR_UNAVAILABLE, "store", "%s", h->text);
    default:
        return err_set(info, ERR_INTERNAL, "store", "%s", h->text);
    }
}

void sq_end_snapshot(struct sq *h) {
    if (!sqlite3_get_autocommit(h->db)) {
        sqlite3_step(h->statement[SQL_ROLLBACK]);
        sqlite3_reset(h->statement[SQL_ROLLBACK]);
    }
}

void sq_forget(struct sq *h) {
    for (size_t i = 0; i < SQL_COUNT; i++)
        if (h->statement[i] != NULL)
            sqlite3_reset(h->statement[i]);
    h->rc = SQLITE_OK;
    h->text[0] = '\0';
}
