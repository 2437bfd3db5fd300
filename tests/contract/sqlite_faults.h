/* sqlite_faults: makes calls of SQLite fail, for the tests of the store, which are all linked with
 * it. What is made to fail is not done at all, and the library says why afterwards, as it would.
 *
 *     sqlite_fail(&(struct sqlite_fault){.rc = SQLITE_IOERR, .at = 3});
 *     ... the third call from here on fails, the ones before and after it do not ...
 *     assert_int_equal(sqlite_fail_end(), 1);
 *
 * Counted are sqlite3_open_v2, _prepare_v2, _prepare_v3, _exec, _step and _wal_checkpoint_v2, of
 * all threads. Thread: any; one fault at a time.
 */
#pragma once

#include <sqlite3.h>
#include <stdbool.h>

struct sqlite_fault {
    int rc;           /* what the call answers */
    long at;          /* the first call that fails; 1: the next; 0: none by count */
    bool for_ever;    /* all from that one on */
    const char *only; /* NULL, or: only calls whose SQL begins so are counted */
    bool only_reads;  /* steps alone, and not within a transaction that writes */
    bool only_work;   /* checkpoints work, and what ends a transaction without a result */
    /* Each statement fails once on each connection when it is prepared for keeping; so a call that
     * is repeated comes one statement further each time. */
    bool each_prepare_once;
};

void sqlite_fail(const struct sqlite_fault *f);
/* Everything works again; how many calls had failed. */
long sqlite_fail_end(void);
/* So far, while it is under way. */
long sqlite_failed(void);
/* Done on each connection that is opened from now on; NULL: nothing. */
void sqlite_at_open(const char *sql);
/* Of those, how many while a statement was prepared for keeping. */
long sqlite_fail_prepares(void);
