#include "storage/sqlite/wal_file.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

/* An accept alone is 95 KiB with pages of 4 KiB. */
enum { BUFFER_BYTES = 128 * 1024 };

struct wal_file {
    sqlite3_file base; /* first: SQLite knows the file by it */
    sqlite3_file *real;
    unsigned char *buffer; /* of BUFFER_BYTES; NULL until something is written */
    int held;              /* octets in it */
    sqlite3_int64 at;      /* where in the file they belong */
};

static struct wal_file *of(sqlite3_file *f) {
    return (struct wal_file *)(void *)f;
}

static int write_held(struct wal_file *w) {
    if (w->held == 0)
        return SQLITE_OK;
    int rc = w->real->pMethods->xWrite(w->real, w->buffer, w->held, w->at);
    if (rc == SQLITE_OK)
        w->held = 0;
    return rc;
}

/* For what SQLite rolls the transaction back: then nothing of it may come into the file later,
 * where a crash would bring it to life. */
static int write_held_or_drop(struct wal_file *w) {
    int rc = write_held(w);
    w->held = 0;
    return rc;
}

/* What is held belongs to a transaction that has not ended, or was rolled back: nobody misses it.
 */
static int wal_close(sqlite3_file *f) {
    struct wal_file *w = of(f);
    free(w->buffer);
    return w->real->pMethods->xClose(w->real);
}

static int wal_read(sqlite3_file *f, void *p, int n, sqlite3_int64 at) {
    struct wal_file *w = of(f);
    int rc = write_held(w);
    return rc != SQLITE_OK ? rc : w->real->pMethods->xRead(w->real, p, n, at);
}

static int wal_write(sqlite3_file *f, const void *p, int n, sqlite3_int64 at) {
    struct wal_file *w = of(f);
    bool follows = at == w->at + w->held && n <= BUFFER_BYTES - w->held;
    if (!follows) {
        int rc = write_held_or_drop(w);
        if (rc != SQLITE_OK)
            return rc;
        w->at = at;
    }
    if (w->buffer == NULL)
        w->buffer = malloc(BUFFER_BYTES);
    if (w->buffer == NULL || n > BUFFER_BYTES)
        return w->real->pMethods->xWrite(w->real, p, n, at);
    memcpy(w->buffer + w->held, p, (size_t)n);
    w->held += n;
    return SQLITE_OK;
}

static int wal_truncate(sqlite3_file *f, sqlite3_int64 size) {
    struct wal_file *w = of(f);
    int rc = write_held(w);
    return rc != SQLITE_OK ? rc : w->real->pMethods->xTruncate(w->real, size);
}

static int wal_sync(sqlite3_file *f, int flags) {
    struct wal_file *w = of(f);
    int rc = write_held_or_drop(w);
    return rc != SQLITE_OK ? rc : w->real->pMethods->xSync(w->real, flags);
}

static int wal_size(sqlite3_file *f, sqlite3_int64 *size) {
    struct wal_file *w = of(f);
    int rc = write_held(w);
    return rc != SQLITE_OK ? rc : w->real->pMethods->xFileSize(w->real, size);
}

static int wal_control(sqlite3_file *f, int op, void *arg) {
    struct wal_file *w = of(f);
    int rc = write_held(w);
    return rc != SQLITE_OK ? rc : w->real->pMethods->xFileControl(w->real, op, arg);
}

static int wal_sector(sqlite3_file *f) {
    return of(f)->real->pMethods->xSectorSize(of(f)->real);
}

static int wal_device(sqlite3_file *f) {
    return of(f)->real->pMethods->xDeviceCharacteristics(of(f)->real);
}

/* Locks and shared memory are the main file's, and version 1 has no more. */
static int wal_lock(sqlite3_file *f, int level) {
    return of(f)->real->pMethods->xLock(of(f)->real, level);
}

static int wal_unlock(sqlite3_file *f, int level) {
    return of(f)->real->pMethods->xUnlock(of(f)->real, level);
}

static int wal_is_reserved(sqlite3_file *f, int *is) {
    return of(f)->real->pMethods->xCheckReservedLock(of(f)->real, is);
}

static const sqlite3_io_methods wal_methods = {
    .iVersion = 1,
    .xClose = wal_close,
    .xRead = wal_read,
    .xWrite = wal_write,
    .xTruncate = wal_truncate,
    .xSync = wal_sync,
    .xFileSize = wal_size,
    .xLock = wal_lock,
    .xUnlock = wal_unlock,
    .xCheckReservedLock = wal_is_reserved,
    .xFileControl = wal_control,
    .xSectorSize = wal_sector,
    .xDeviceCharacteristics = wal_device,
};

static int wal_open(sqlite3_vfs *v, const char *name, sqlite3_file *f, int flags, int *out) {
    sqlite3_vfs *other = v->pAppData;
    if ((flags & SQLITE_OPEN_WAL) == 0)
        return other->xOpen(other, name, f, flags, out);
    struct wal_file *w = of(f);
    *w = (struct wal_file){.real = (sqlite3_file *)(void *)(w + 1)};
    int rc = other->xOpen(other, name, w->real, flags, out);
    /* Without methods SQLite does not close it. */
    w->base.pMethods = w->real->pMethods != NULL ? &wal_methods : NULL;
    return rc;
}

int wal_file_register(sqlite3_vfs *v, const char *name, sqlite3_vfs *other) {
    if (other == NULL)
        return SQLITE_ERROR;
    *v = *other;
    v->zName = name;
    v->szOsFile = (int)sizeof(struct wal_file) + other->szOsFile;
    v->pAppData = other;
    v->xOpen = wal_open;
    v->pNext = NULL;
    return sqlite3_vfs_register(v, 0);
}
