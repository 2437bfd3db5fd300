/* shim: what stands between a program and the kernel in the tests of power cuts, kills and faults.
 *
 * build/<variant>/tests/power/shim.so is preloaded. It sees the calls on the files of one folder
 * (the store), on sockets, and allocations, and does one or more of these:
 *
 *   record   writes each change of the folder's files, in order, with its bytes, to a log: of this
 *            log tool_images makes the disks that a power cut could have left
 *   kill     ends the process with SIGKILL at the n-th call: before it, after half of it, after it
 *   fail     lets the n-th call, and so many after it, fail with an errno
 *   starve   the same for allocations, by the library that asks
 *
 * and prints where the program was when it crashed.
 *
 *     SHIM_FOLDER=/dev/shm/x/store SHIM_RECORD=/dev/shm/x/log SHIM_CONTROL=/dev/shm/x/control
 *     LD_PRELOAD=build/release/tests/power/shim.so program
 *
 * SHIM_CONTROL is a file of sizeof(struct shim_control) that program and harness share; all its
 * members may be changed at any time. */
#pragma once

#include <stddef.h>
#include <stdint.h>

enum shim_class {
    SHIM_OPEN = 1,
    SHIM_WRITE = 2,
    SHIM_SYNC = 4,
    SHIM_TRUNCATE = 8,
    SHIM_UNLINK = 16,
    SHIM_READ = 32,
    SHIM_MMAP = 64,
    SHIM_STAT = 128,
    SHIM_LOCK = 256,
    SHIM_SEND = 512,    /* any socket */
    SHIM_SOCKET = 1024, /* socket, eventfd, signalfd, epoll_create1 */
    SHIM_ACCEPT = 2048,
    SHIM_CONNECT = 4096,
    SHIM_RECV = 8192,
    SHIM_EPOLL = 16384,      /* a descriptor is put into an epoll set */
    SHIM_OPEN_OTHER = 32768, /* files that are not the store's */
    SHIM_THREAD = 65536,     /* pthread_create */
    SHIM_ENTROPY = 131072,   /* getrandom, getentropy */
    /* write, sync, unlink and mkdir of what is neither the store's nor a socket: an eventfd that
     * wakes a thread, the log, the folder of the store */
    SHIM_CHANGE_OTHER = 262144,
};

/* As fail_errno: a write says that all was written, and wrote nothing. */
enum { SHIM_LIE = 1000 };

enum shim_kill { SHIM_BEFORE, SHIM_HALF, SHIM_AFTER };

/* By whom memory is asked for; others are never starved. */
enum shim_library {
    SHIM_PROGRAM,
    SHIM_SQLITE,
    SHIM_JANSSON,
    SHIM_CRYPTO,
    SHIM_SSL,
    SHIM_MICROHTTPD,
    SHIM_EVENT,
    SHIM_CURL,
    SHIM_UNBOUND,
    SHIM_IDN,
    SHIM_PCRE,
    SHIM_LIBC,
    SHIM_GNUTLS, /* this and what it uses: HTTPS */
    SHIM_GMP,
    SHIM_TASN1,
    SHIM_OTHER, /* what is none of these */
    SHIM_LIBRARY_COUNT
};

struct shim_control {
    uint64_t mask;  /* classes that count, kill and fail */
    uint64_t calls; /* of these classes so far */
    uint64_t kill_at, kill_how;
    uint64_t fail_at, fail_count, fail_errno,
        failed; /* calls fail_at .. fail_at + fail_count - 1 */
    uint64_t alloc_libraries, allocs, alloc_fail_at, alloc_fail_count, alloc_failed;
    uint64_t alloc_most_bytes; /* only requests of at least so many fail */
    uint64_t last_failed_alloc_library;
    uint64_t killed_in; /* the class of the call at which the process was killed */
};

/* ---- the log of changes ---- */

enum shim_what {
    LOG_CREATE = 1, /* a name and its `file`; at = 1: it was there before the log began */
    LOG_WRITE,
    LOG_TRUNCATE, /* at = the new size */
    LOG_SYNC,     /* begins; everything written before is safe once it has ended */
    LOG_SYNCED,   /* at = place of its LOG_SYNC */
    LOG_UNLINK,   /* the bytes are the name */
    LOG_NOTE      /* from the program: what it asked, what it was told */
};
enum { LOG_FOLDER = 0 }; /* `file` of syncs of the folder itself */

struct shim_entry {
    uint32_t what, file;
    uint64_t at;
    uint64_t size; /* bytes that follow */
};

/* What a program that runs under the shim calls, by dlsym(). */
typedef void shim_note_fn(const void *p, size_t n);
