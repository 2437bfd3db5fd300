/* wal_file: what a transaction appends to the write-ahead log leaves in large writes.
 *
 * SQLite writes two pieces for each page of a transaction, a header of 24 octets and the page: an
 * accept alone is about fifty calls. This VFS puts another one's log files behind a buffer that
 * collects what is appended; it is written when it is full and before anything else is asked of
 * the file: reading, syncing, truncating, its size. All other files are the other VFS's own.
 *
 * Right only with synchronous = FULL. There each commit ends by syncing the log before the log's
 * index says that the commit is there, so nobody looks for what is still in the buffer. With
 * NORMAL a commit is seen without a sync: use the other VFS itself.
 *
 * A write that fails is told by the call that brought it about. After xSync and xWrite SQLite rolls
 * the transaction back, and what was held is forgotten: a commit that was refused must not come
 * into the file later. After the others it stays, and the next call tries it again: nothing that
 * SQLite takes for written is missing.
 *
 * Nor does SQLite pad the log: it takes the disk for one that leaves the octets beside a write
 * alone (SQLITE_IOCAP_POWERSAFE_OVERWRITE, its default); the opener of the file says so.
 *
 * Thread: a file has one owner, as in SQLite; the VFS itself any.
 */
#pragma once

#include <sqlite3.h>

/* Fills `v`, which is to live as long as the process, as the VFS `name` over `other`, and
 * registers it, not as the default. An SQLite result code; SQLITE_ERROR when there is no other. */
int wal_file_register(sqlite3_vfs *v, const char *name, sqlite3_vfs *other);
