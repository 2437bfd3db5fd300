/* The buffer before the write-ahead log: what arrives in the file, when, and what a failure leaves.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "storage/sqlite/wal_file.h"

enum { FILE_MOST = 1 << 20, BUFFER = 128 * 1024 };

/* Another VFS: one file in memory that counts its calls and fails as it is told. */
struct memory_file {
    sqlite3_file base;
};

static struct {
    unsigned char octets[FILE_MOST];
    sqlite3_int64 size;
    int writes, syncs, closed, controls;
    int fails; /* what xWrite answers */
    int open_fails;
} m;

static int m_close(sqlite3_file *f) {
    (void)f;
    m.closed++;
    return SQLITE_OK;
}

static int m_read(sqlite3_file *f, void *p, int n, sqlite3_int64 at) {
    (void)f;
    if (at + n > m.size)
        return SQLITE_IOERR_SHORT_READ;
    memcpy(p, m.octets + at, (size_t)n);
    return SQLITE_OK;
}

static int m_write(sqlite3_file *f, const void *p, int n, sqlite3_int64 at) {
    (void)f;
    if (m.fails != SQLITE_OK)
        return m.fails;
    assert_true(at + n <= FILE_MOST);
    memcpy(m.octets + at, p, (size_t)n);
    m.size = m.size > at + n ? m.size : at + n;
    m.writes++;
    return SQLITE_OK;
}

static int m_truncate(sqlite3_file *f, sqlite3_int64 size) {
    (void)f;
    m.size = size;
    return SQLITE_OK;
}

static int m_sync(sqlite3_file *f, int flags) {
    (void)f;
    assert_int_equal(flags, SQLITE_SYNC_NORMAL);
    m.syncs++;
    return SQLITE_OK;
}

static int m_size(sqlite3_file *f, sqlite3_int64 *size) {
    (void)f;
    *size = m.size;
    return SQLITE_OK;
}

static int m_lock(sqlite3_file *f, int level) {
    (void)f;
    return level == 7 ? SQLITE_OK : SQLITE_BUSY;
}

static int m_reserved(sqlite3_file *f, int *is) {
    (void)f;
    *is = 1;
    return SQLITE_OK;
}

static int m_control(sqlite3_file *f, int op, void *arg) {
    (void)f;
    assert_int_equal(op, 77);
    assert_ptr_equal(arg, &m);
    m.controls++;
    return SQLITE_OK;
}

static int m_sector(sqlite3_file *f) {
    (void)f;
    return 512;
}

static int m_device(sqlite3_file *f) {
    (void)f;
    return SQLITE_IOCAP_POWERSAFE_OVERWRITE;
}

static const sqlite3_io_methods m_methods = {
    .iVersion = 1,
    .xClose = m_close,
    .xRead = m_read,
    .xWrite = m_write,
    .xTruncate = m_truncate,
    .xSync = m_sync,
    .xFileSize = m_size,
    .xLock = m_lock,
    .xUnlock = m_lock,
    .xCheckReservedLock = m_reserved,
    .xFileControl = m_control,
    .xSectorSize = m_sector,
    .xDeviceCharacteristics = m_device,
};

static int m_open(sqlite3_vfs *v, const char *name, sqlite3_file *f, int flags, int *out) {
    assert_string_equal(v->zName, "memory");
    assert_string_equal(name, "log");
    if (out != NULL)
        *out = flags;
    f->pMethods = m.open_fails == SQLITE_OK ? &m_methods : NULL;
    return m.open_fails;
}

static sqlite3_vfs other, own;
static union {
    sqlite3_file file;
    max_align_t align;
    char room[4096];
} opened;

static int setup(void **state) {
    memset(&m, 0, sizeof(m));
    memset(&opened, 0, sizeof(opened));
    if (own.zName == NULL) {
        assert_int_equal(sqlite3_initialize(), SQLITE_OK);
        other = *sqlite3_vfs_find(NULL);
        other.zName = "memory";
        other.szOsFile = sizeof(struct memory_file);
        other.xOpen = m_open;
        assert_int_equal(wal_file_register(&own, "buffered", &other), SQLITE_OK);
    }
    int flags = 0;
    assert_int_equal(own.xOpen(&own, "log", &opened.file, SQLITE_OPEN_WAL, &flags), SQLITE_OK);
    assert_int_equal(flags, SQLITE_OPEN_WAL);
    *state = &opened.file;
    return 0;
}

static int teardown(void **state) {
    sqlite3_file *f = *state;
    return f->pMethods != NULL ? f->pMethods->xClose(f) : 0;
}

static int put(sqlite3_file *f, char c, int n, sqlite3_int64 at) {
    char *p = malloc((size_t)n);
    memset(p, c, (size_t)n);
    int rc = f->pMethods->xWrite(f, p, n, at);
    free(p);
    return rc;
}

static void assert_octets(sqlite3_int64 from, sqlite3_int64 to, char c) {
    assert_true(to <= m.size);
    for (sqlite3_int64 i = from; i < to; i++)
        if (m.octets[i] != (unsigned char)c)
            fail_msg("octet %lld is %c, not %c", (long long)i, m.octets[i], c);
}

static void it_is_registered_and_not_the_default(void **state) {
    (void)state;
    assert_ptr_equal(sqlite3_vfs_find("buffered"), &own);
    assert_ptr_not_equal(sqlite3_vfs_find(NULL), &own);
}

static void without_another_there_is_none(void **state) {
    (void)state;
    sqlite3_vfs v;
    assert_int_equal(wal_file_register(&v, "of nothing", NULL), SQLITE_ERROR);
    assert_null(sqlite3_vfs_find("of nothing"));
}

static void what_is_appended_arrives_with_the_sync_in_one_write(void **state) {
    sqlite3_file *f = *state;
    for (int i = 0; i < 23; i++) {
        assert_int_equal(put(f, 'h', 24, 32 + i * 4120), SQLITE_OK);
        assert_int_equal(put(f, 'p', 4096, 32 + i * 4120 + 24), SQLITE_OK);
    }
    assert_int_equal(m.writes, 0);
    assert_int_equal(f->pMethods->xSync(f, SQLITE_SYNC_NORMAL), SQLITE_OK);
    assert_int_equal(m.writes, 1);
    assert_int_equal(m.syncs, 1);
    for (int i = 0; i < 23; i++) {
        assert_octets(32 + i * 4120, 32 + i * 4120 + 24, 'h');
        assert_octets(32 + i * 4120 + 24, 32 + (i + 1) * 4120, 'p');
    }
    assert_int_equal(m.size, 32 + 23 * 4120);
    assert_int_equal(f->pMethods->xSync(f, SQLITE_SYNC_NORMAL), SQLITE_OK);
    assert_int_equal(m.writes, 1); /* nothing is written twice */
}

static void everything_that_asks_about_the_file_sees_what_was_written(void **state) {
    sqlite3_file *f = *state;
    char c[8];
    sqlite3_int64 size = 0;
    assert_int_equal(put(f, 'a', 8, 0), SQLITE_OK);
    assert_int_equal(f->pMethods->xRead(f, c, 8, 0), SQLITE_OK);
    assert_memory_equal(c, "aaaaaaaa", 8);
    assert_int_equal(put(f, 'b', 8, 8), SQLITE_OK);
    assert_int_equal(f->pMethods->xFileSize(f, &size), SQLITE_OK);
    assert_int_equal(size, 16);
    assert_int_equal(put(f, 'c', 8, 16), SQLITE_OK);
    assert_int_equal(f->pMethods->xTruncate(f, 20), SQLITE_OK);
    assert_int_equal(m.size, 20); /* not 24 afterwards */
    assert_int_equal(put(f, 'd', 8, 24), SQLITE_OK);
    assert_int_equal(f->pMethods->xFileControl(f, 77, &m), SQLITE_OK);
    assert_octets(24, 32, 'd');
    assert_int_equal(m.writes, 4);
}

static void what_goes_elsewhere_is_written_in_order(void **state) {
    sqlite3_file *f = *state;
    assert_int_equal(put(f, 'a', 100, 0), SQLITE_OK);
    assert_int_equal(put(f, 'b', 10, 50), SQLITE_OK);  /* over a part of it: later, so it stays */
    assert_int_equal(put(f, 'c', 10, 200), SQLITE_OK); /* with a gap */
    assert_int_equal(f->pMethods->xSync(f, SQLITE_SYNC_NORMAL), SQLITE_OK);
    assert_octets(0, 50, 'a');
    assert_octets(50, 60, 'b');
    assert_octets(60, 100, 'a');
    assert_octets(100, 200, 0);
    assert_octets(200, 210, 'c');
    assert_int_equal(m.writes, 3);
}

static void a_full_buffer_is_written_and_goes_on(void **state) {
    sqlite3_file *f = *state;
    assert_int_equal(put(f, 'a', BUFFER - 10, 0), SQLITE_OK);
    assert_int_equal(put(f, 'b', 10, BUFFER - 10), SQLITE_OK); /* to the last octet */
    assert_int_equal(m.writes, 0);
    assert_int_equal(put(f, 'c', 1, BUFFER), SQLITE_OK);
    assert_int_equal(m.writes, 1);
    assert_int_equal(put(f, 'd', BUFFER, BUFFER + 1), SQLITE_OK);
    assert_int_equal(m.writes, 2);
    assert_int_equal(put(f, 'e', BUFFER + 1, 2 * BUFFER + 1), SQLITE_OK); /* larger than it */
    assert_int_equal(m.writes, 4);
    assert_int_equal(put(f, 'f', 5, 3 * BUFFER + 2), SQLITE_OK);
    assert_int_equal(f->pMethods->xSync(f, SQLITE_SYNC_NORMAL), SQLITE_OK);
    assert_octets(0, BUFFER - 10, 'a');
    assert_octets(BUFFER - 10, BUFFER, 'b');
    assert_octets(BUFFER, BUFFER + 1, 'c');
    assert_octets(BUFFER + 1, 2 * BUFFER + 1, 'd');
    assert_octets(2 * BUFFER + 1, 3 * BUFFER + 2, 'e');
    assert_octets(3 * BUFFER + 2, 3 * BUFFER + 7, 'f');
}

static void what_cannot_be_written_is_told_by_each_call_and_not_forgotten(void **state) {
    sqlite3_file *f = *state;
    char c[4];
    sqlite3_int64 size;
    assert_int_equal(put(f, 'a', 4, 0), SQLITE_OK);
    m.fails = SQLITE_FULL;
    assert_int_equal(f->pMethods->xRead(f, c, 4, 0), SQLITE_FULL);
    assert_int_equal(f->pMethods->xTruncate(f, 0), SQLITE_FULL);
    assert_int_equal(f->pMethods->xFileSize(f, &size), SQLITE_FULL);
    assert_int_equal(f->pMethods->xFileControl(f, 77, &m), SQLITE_FULL);
    assert_int_equal(m.controls, 0);
    assert_int_equal(put(f, 'b', 4, 4), SQLITE_OK); /* it follows: there is room for it */
    m.fails = SQLITE_OK;
    assert_int_equal(f->pMethods->xSync(f, SQLITE_SYNC_NORMAL), SQLITE_OK);
    assert_octets(0, 4, 'a');
    assert_octets(4, 8, 'b');
}

static void a_transaction_that_was_refused_never_comes_into_the_file(void **state) {
    sqlite3_file *f = *state;
    assert_int_equal(put(f, 'a', 100, 32), SQLITE_OK);
    m.fails = SQLITE_FULL;
    assert_int_equal(f->pMethods->xSync(f, SQLITE_SYNC_NORMAL), SQLITE_FULL);
    assert_int_equal(m.syncs, 0); /* a sync that succeeds would be a lie */
    m.fails = SQLITE_OK;
    assert_int_equal(f->pMethods->xSync(f, SQLITE_SYNC_NORMAL), SQLITE_OK); /* of a checkpoint */
    assert_int_equal(m.writes, 0);
    assert_int_equal(put(f, 'b', 100, 32), SQLITE_OK); /* the next one */
    m.fails = SQLITE_IOERR_WRITE;
    assert_int_equal(put(f, 'c', 10, 500), SQLITE_IOERR_WRITE); /* needs the buffer */
    m.fails = SQLITE_OK;
    assert_int_equal(put(f, 'd', 10, 32), SQLITE_OK); /* the one after that */
    assert_int_equal(f->pMethods->xSync(f, SQLITE_SYNC_NORMAL), SQLITE_OK);
    assert_octets(32, 42, 'd');
    assert_int_equal(m.size, 42);
    assert_int_equal(m.writes, 1);
}

static void closing_forgets_what_nobody_synced(void **state) {
    sqlite3_file *f = *state;
    assert_int_equal(put(f, 'a', 4, 0), SQLITE_OK);
    assert_int_equal(f->pMethods->xClose(f), SQLITE_OK);
    f->pMethods = NULL;
    assert_int_equal(m.closed, 1);
    assert_int_equal(m.size, 0);
}

static void the_rest_is_asked_of_the_other(void **state) {
    sqlite3_file *f = *state;
    int is = 0;
    assert_int_equal(f->pMethods->xSectorSize(f), 512);
    assert_int_equal(f->pMethods->xDeviceCharacteristics(f), SQLITE_IOCAP_POWERSAFE_OVERWRITE);
    assert_int_equal(f->pMethods->xLock(f, 7), SQLITE_OK);
    assert_int_equal(f->pMethods->xUnlock(f, 8), SQLITE_BUSY);
    assert_int_equal(f->pMethods->xCheckReservedLock(f, &is), SQLITE_OK);
    assert_int_equal(is, 1);
}

static void other_files_are_the_others_own(void **state) {
    (void)state;
    union {
        sqlite3_file file;
        max_align_t align;
        char room[4096];
    } main_file = {0};
    assert_int_equal(own.xOpen(&own, "log", &main_file.file, SQLITE_OPEN_MAIN_DB, NULL), SQLITE_OK);
    assert_ptr_equal(main_file.file.pMethods, &m_methods);
}

static void a_log_that_cannot_be_opened_has_no_methods(void **state) {
    (void)state;
    union {
        sqlite3_file file;
        max_align_t align;
        char room[4096];
    } log = {0};
    m.open_fails = SQLITE_CANTOPEN;
    assert_int_equal(own.xOpen(&own, "log", &log.file, SQLITE_OPEN_WAL, NULL), SQLITE_CANTOPEN);
    assert_null(log.file.pMethods);
}

static bool has_no_memory;
void *__real_malloc(size_t n);
void *__wrap_malloc(size_t n);
void *__wrap_malloc(size_t n) {
    return has_no_memory && n == BUFFER ? NULL : __real_malloc(n);
}

static void without_memory_for_it_pieces_are_written_as_they_come(void **state) {
    sqlite3_file *f = *state;
    has_no_memory = true;
    assert_int_equal(put(f, 'a', 4, 0), SQLITE_OK);
    assert_int_equal(put(f, 'b', 4, 4), SQLITE_OK);
    assert_int_equal(m.writes, 2);
    m.fails = SQLITE_FULL;
    assert_int_equal(put(f, 'c', 4, 8), SQLITE_FULL);
    m.fails = SQLITE_OK;
    has_no_memory = false;
    assert_int_equal(put(f, 'd', 4, 8), SQLITE_OK);
    assert_int_equal(f->pMethods->xSync(f, SQLITE_SYNC_NORMAL), SQLITE_OK);
    assert_octets(0, 4, 'a');
    assert_octets(4, 8, 'b');
    assert_octets(8, 12, 'd');
}

int main(void) {
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(it_is_registered_and_not_the_default),
        T(without_another_there_is_none),
        T(what_is_appended_arrives_with_the_sync_in_one_write),
        T(everything_that_asks_about_the_file_sees_what_was_written),
        T(what_goes_elsewhere_is_written_in_order),
        T(a_full_buffer_is_written_and_goes_on),
        T(what_cannot_be_written_is_told_by_each_call_and_not_forgotten),
        T(a_transaction_that_was_refused_never_comes_into_the_file),
        T(closing_forgets_what_nobody_synced),
        T(the_rest_is_asked_of_the_other),
        T(other_files_are_the_others_own),
        T(a_log_that_cannot_be_opened_has_no_methods),
        T(without_memory_for_it_pieces_are_written_as_they_come),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
