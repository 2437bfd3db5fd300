/* See shim.h. Calls that it passes on are made with syscall(): so nothing here depends on the order
 * in which libraries are loaded. */
#include "tests/power/shim.h"

#include <dlfcn.h>
#include <errno.h>
#include <execinfo.h>
#include <fcntl.h>
#include <link.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum { FD_MAX = 4096, NAMES = 256, SYNC_PAUSE_US = 200 };

static struct shim_control private_control, *control = &private_control;
static char folder[512];
static size_t folder_n;
static int log_fd = -1;
static uint64_t log_at;
static pthread_mutex_t log_mu = PTHREAD_MUTEX_INITIALIZER;
static uint32_t next_file = 1;
static struct {
    char name[96];
    uint32_t file;
} named[NAMES];
static size_t named_count;
/* 0: not ours. Ours: file number + 1, or UNRECORDED, or DIRECTORY. */
static atomic_uint of_fd[FD_MAX];
enum { UNRECORDED = 1u << 30, DIRECTORY = 1u << 31 };

/* ---- kill and fail ---- */

static void die_now(void) {
    /* tgkill: a program under a filter of system calls may make it */
    for (;;)
        syscall(SYS_tgkill, getpid(), syscall(SYS_gettid), SIGKILL);
}

struct turn {
    bool fails;     /* errno is set */
    bool half, end; /* killed after half of the call, after the call */
};

static struct turn turn_of(enum shim_class class_) {
    struct turn t = {0};
    struct shim_control *c = control;
    if ((c->mask & class_) == 0)
        return t;
    uint64_t n = __atomic_add_fetch(&c->calls, 1, __ATOMIC_SEQ_CST);
    if (c->kill_at != 0 && n == c->kill_at) {
        c->killed_in = class_;
        if (c->kill_how == SHIM_BEFORE)
            die_now();
        t.half = c->kill_how == SHIM_HALF;
        t.end = true;
    }
    if (c->fail_at != 0 && n >= c->fail_at && n - c->fail_at < c->fail_count) {
        __atomic_add_fetch(&c->failed, 1, __ATOMIC_SEQ_CST);
        t.fails = true;
        errno = (int)c->fail_errno;
    }
    return t;
}

/* ---- names and descriptors ---- */

static const char *inside(const char *path) {
    if (folder_n == 0 || strncmp(path, folder, folder_n) != 0)
        return NULL;
    if (path[folder_n] == '\0')
        return "";
    if (path[folder_n] != '/' || strcmp(path + folder_n, "/..") == 0)
        return NULL;
    return path + folder_n + 1;
}

static unsigned kind_of(int fd) {
    return fd >= 0 && fd < FD_MAX ? atomic_load_explicit(&of_fd[fd], memory_order_relaxed) : 0;
}

static void set_kind(int fd, unsigned kind) {
    if (fd >= 0 && fd < FD_MAX)
        atomic_store(&of_fd[fd], kind);
}

static bool is_recorded_name(const char *name) {
    size_t n = strlen(name);
    return name[0] != '\0' && strcmp(name, "lock") != 0 &&
           !(n > 4 && strcmp(name + n - 4, "-shm") == 0);
}

/* ---- the log ---- */

static void put_raw(const void *p, size_t n) {
    const char *at = p;
    while (n > 0) {
        long took = syscall(SYS_write, log_fd, at, n);
        if (took <= 0)
            abort();
        at += took;
        n -= (size_t)took;
        log_at += (uint64_t)took;
    }
}

static uint64_t put_entry(enum shim_what what, uint32_t file, uint64_t at, const void *p,
                          size_t n) {
    struct shim_entry e = {what, file, at, n};
    uint64_t place = log_at;
    put_raw(&e, sizeof e);
    put_raw(p, n);
    return place;
}

__attribute__((visibility("default"))) void shim_note(const void *p, size_t n);
void shim_note(const void *p, size_t n) {
    if (log_fd < 0)
        return;
    pthread_mutex_lock(&log_mu);
    put_entry(LOG_NOTE, 0, 0, p, n);
    pthread_mutex_unlock(&log_mu);
}

static uint32_t file_of_name(const char *name, bool is_new) {
    for (size_t i = 0; i < named_count; i++)
        if (strcmp(named[i].name, name) == 0) {
            if (is_new)
                named[i].file = next_file++;
            return named[i].file;
        }
    if (named_count == NAMES)
        abort();
    snprintf(named[named_count].name, sizeof named[0].name, "%s", name);
    named[named_count].file = next_file++;
    return named[named_count++].file;
}

/* ---- files ---- */

static int open_any(const char *path, int flags, mode_t mode) {
    const char *name = inside(path);
    if (name == NULL) {
        struct turn t = turn_of(SHIM_OPEN_OTHER);
        return t.fails ? -1 : (int)syscall(SYS_openat, AT_FDCWD, path, flags, mode);
    }
    struct turn t = turn_of(SHIM_OPEN);
    if (t.fails)
        return -1;
    if (log_fd >= 0)
        pthread_mutex_lock(&log_mu);
    bool was_there = syscall(SYS_faccessat, AT_FDCWD, path, F_OK) == 0;
    int fd = (int)syscall(SYS_openat, AT_FDCWD, path, flags, mode);
    if (fd >= 0) {
        unsigned kind = name[0] == '\0' ? DIRECTORY : UNRECORDED;
        if (log_fd >= 0 && is_recorded_name(name)) {
            size_t before = named_count;
            uint32_t file = file_of_name(name, !was_there);
            if (!was_there || named_count > before) /* new, or seen for the first time */
                put_entry(LOG_CREATE, file, was_there, name, strlen(name));
            kind = file + 1;
        }
        set_kind(fd, kind);
    }
    if (log_fd >= 0)
        pthread_mutex_unlock(&log_mu);
    if (t.end)
        die_now();
    return fd;
}

#define OPEN_BODY                                                                                  \
    mode_t mode = 0;                                                                               \
    if ((flags & (O_CREAT | __O_TMPFILE)) != 0) {                                                  \
        va_list ap;                                                                                \
        va_start(ap, flags);                                                                       \
        mode = va_arg(ap, mode_t);                                                                 \
        va_end(ap);                                                                                \
    }                                                                                              \
    return open_any(path, flags, mode);
int open(const char *path, int flags, ...) {
    OPEN_BODY
}
int open64(const char *path, int flags, ...) {
    OPEN_BODY
}
int __open_2(const char *path, int flags);
int __open_2(const char *path, int flags) {
    return open_any(path, flags, 0);
}
int __open64_2(const char *path, int flags);
int __open64_2(const char *path, int flags) {
    return open_any(path, flags, 0);
}

int close(int fd) {
    set_kind(fd, 0);
    return (int)syscall(SYS_close, fd);
}

static ssize_t write_file(int fd, const void *p, size_t n, off64_t at) {
    unsigned kind = kind_of(fd);
    struct turn t = turn_of(SHIM_WRITE);
    if (t.fails)
        return errno == SHIM_LIE ? (ssize_t)n : -1;
    if (t.half) {
        (void)!syscall(SYS_pwrite64, fd, p, n / 2, at);
        die_now();
    }
    ssize_t took;
    if (log_fd >= 0 && (kind & (UNRECORDED | DIRECTORY)) == 0) {
        pthread_mutex_lock(&log_mu);
        put_entry(LOG_WRITE, kind - 1, (uint64_t)at, p, n);
        took = syscall(SYS_pwrite64, fd, p, n, at);
        if (took != (ssize_t)n)
            abort();
        pthread_mutex_unlock(&log_mu);
    } else {
        took = syscall(SYS_pwrite64, fd, p, n, at);
    }
    if (t.end)
        die_now();
    return took;
}

ssize_t pwrite64(int fd, const void *p, size_t n, off64_t at) {
    return kind_of(fd) != 0 ? write_file(fd, p, n, at) : syscall(SYS_pwrite64, fd, p, n, at);
}
ssize_t pwrite(int fd, const void *p, size_t n, off_t at) {
    return pwrite64(fd, p, n, at);
}

static bool is_socket(int fd) {
    struct stat st;
    return (control->mask & (SHIM_SEND | SHIM_RECV | SHIM_CHANGE_OTHER)) != 0 &&
           syscall(SYS_fstat, fd, &st) == 0 && S_ISSOCK(st.st_mode);
}

/* Of a write to what is not the store's. */
static struct turn turn_of_other(int fd) {
    return turn_of(is_socket(fd) ? SHIM_SEND : SHIM_CHANGE_OTHER);
}

ssize_t write(int fd, const void *p, size_t n) {
    if (kind_of(fd) != 0) {
        off64_t at = syscall(SYS_lseek, fd, 0, SEEK_CUR);
        ssize_t took = write_file(fd, p, n, at);
        if (took > 0)
            syscall(SYS_lseek, fd, at + took, SEEK_SET);
        return took;
    }
    struct turn t = turn_of_other(fd);
    if (t.fails)
        return -1;
    ssize_t took = syscall(SYS_write, fd, p, t.half ? n / 2 : n);
    if (t.end)
        die_now();
    return took;
}

static int sync_any(int fd, long number) {
    unsigned kind = kind_of(fd);
    struct turn t = turn_of(kind == 0 ? SHIM_CHANGE_OTHER : SHIM_SYNC);
    if (t.fails)
        return -1;
    bool recorded = log_fd >= 0 && kind != 0 && kind != UNRECORDED;
    uint32_t file = (kind & DIRECTORY) != 0 ? LOG_FOLDER : kind - 1;
    uint64_t begun = 0;
    if (recorded) {
        pthread_mutex_lock(&log_mu);
        begun = put_entry(LOG_SYNC, file, 0, NULL, 0);
        pthread_mutex_unlock(&log_mu);
        usleep(SYNC_PAUSE_US); /* time for what others write meanwhile: that is not safe */
    }
    int rc = (int)syscall(number, fd);
    if (recorded) {
        pthread_mutex_lock(&log_mu);
        put_entry(LOG_SYNCED, file, begun, NULL, 0);
        pthread_mutex_unlock(&log_mu);
    }
    if (t.end)
        die_now();
    return rc;
}
int fdatasync(int fd) {
    return sync_any(fd, SYS_fdatasync);
}
int fsync(int fd) {
    return sync_any(fd, SYS_fsync);
}

int ftruncate64(int fd, off64_t size) {
    unsigned kind = kind_of(fd);
    if (kind == 0)
        return (int)syscall(SYS_ftruncate, fd, size);
    struct turn t = turn_of(SHIM_TRUNCATE);
    if (t.fails)
        return -1;
    bool recorded = log_fd >= 0 && (kind & (UNRECORDED | DIRECTORY)) == 0;
    if (recorded) {
        pthread_mutex_lock(&log_mu);
        put_entry(LOG_TRUNCATE, kind - 1, (uint64_t)size, NULL, 0);
    }
    int rc = (int)syscall(SYS_ftruncate, fd, size);
    if (recorded)
        pthread_mutex_unlock(&log_mu);
    if (t.end)
        die_now();
    return rc;
}
int ftruncate(int fd, off_t size) {
    return ftruncate64(fd, size);
}

int unlink(const char *path) {
    const char *name = inside(path);
    struct turn t = turn_of(name == NULL ? SHIM_CHANGE_OTHER : SHIM_UNLINK);
    if (t.fails)
        return -1;
    bool recorded = log_fd >= 0 && name != NULL && is_recorded_name(name);
    if (recorded) {
        pthread_mutex_lock(&log_mu);
        if (syscall(SYS_faccessat, AT_FDCWD, path, F_OK) == 0)
            put_entry(LOG_UNLINK, file_of_name(name, false), 0, name, strlen(name));
    }
    int rc = (int)syscall(SYS_unlink, path);
    if (recorded)
        pthread_mutex_unlock(&log_mu);
    if (t.end)
        die_now();
    return rc;
}

int mkdir(const char *path, mode_t mode) {
    struct turn t = turn_of(SHIM_CHANGE_OTHER);
    if (t.fails)
        return -1;
    int rc = (int)syscall(SYS_mkdir, path, mode);
    if (t.end)
        die_now();
    return rc;
}

ssize_t pread64(int fd, void *p, size_t n, off64_t at) {
    if (kind_of(fd) != 0 && turn_of(SHIM_READ).fails)
        return -1;
    return syscall(SYS_pread64, fd, p, n, at);
}
ssize_t pread(int fd, void *p, size_t n, off_t at) {
    return pread64(fd, p, n, at);
}

void *mmap64(void *p, size_t n, int prot, int flags, int fd, off64_t at) {
    if (fd >= 0 && kind_of(fd) != 0 && turn_of(SHIM_MMAP).fails)
        return MAP_FAILED;
    return (void *)syscall(SYS_mmap, p, n, prot, flags, fd, at); // NOLINT: that is what it returns
}

int fstat64(int fd, struct stat64 *st) {
    if (kind_of(fd) != 0 && turn_of(SHIM_STAT).fails)
        return -1;
    return (int)syscall(SYS_fstat, fd, st);
}
int stat64(const char *path, struct stat64 *st) {
    if (inside(path) != NULL && turn_of(SHIM_STAT).fails)
        return -1;
    return (int)syscall(SYS_stat, path, st);
}

int fcntl64(int fd, int what, ...) {
    va_list ap;
    va_start(ap, what);
    long arg = va_arg(ap, long);
    va_end(ap);
    if ((what == F_SETLK || what == F_SETLKW || what == F_GETLK) && kind_of(fd) != 0 &&
        ((struct flock *)arg)->l_type != F_UNLCK && turn_of(SHIM_LOCK).fails)
        return -1;
    return (int)syscall(SYS_fcntl, fd, what, arg);
}

/* ---- sockets ---- */

static size_t sum_of(const struct iovec *v, size_t n) {
    size_t sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += v[i].iov_len;
    return sum;
}

/* Half of it: the octets of the first piece, or half of these when it is the only one. */
static ssize_t send_half(int fd, const struct iovec *v, size_t n) {
    if (n == 0)
        return 0;
    return syscall(SYS_sendto, fd, v[0].iov_base, n > 1 ? v[0].iov_len : v[0].iov_len / 2,
                   MSG_NOSIGNAL, NULL, 0);
}

ssize_t sendmsg(int fd, const struct msghdr *m, int flags) {
    struct turn t = turn_of(SHIM_SEND);
    if (t.fails)
        return -1;
    ssize_t took =
        t.half ? send_half(fd, m->msg_iov, m->msg_iovlen) : syscall(SYS_sendmsg, fd, m, flags);
    if (t.end)
        die_now();
    return took;
}
ssize_t sendto(int fd, const void *p, size_t n, int flags, const struct sockaddr *to,
               socklen_t to_n) {
    struct turn t = turn_of(SHIM_SEND);
    if (t.fails)
        return -1;
    ssize_t took = syscall(SYS_sendto, fd, p, t.half ? n / 2 : n, flags, to, to_n);
    if (t.end)
        die_now();
    return took;
}
ssize_t send(int fd, const void *p, size_t n, int flags) {
    return sendto(fd, p, n, flags, NULL, 0);
}
ssize_t writev(int fd, const struct iovec *v, int n) {
    struct turn t = turn_of_other(fd);
    if (t.fails)
        return -1;
    if (t.half && sum_of(v, (size_t)n) > 1) {
        send_half(fd, v, (size_t)n);
        die_now();
    }
    ssize_t took = syscall(SYS_writev, fd, v, n);
    if (t.end)
        die_now();
    return took;
}

int socket(int domain, int type, int protocol) {
    return turn_of(SHIM_SOCKET).fails ? -1 : (int)syscall(SYS_socket, domain, type, protocol);
}
int accept4(int fd, struct sockaddr *a, socklen_t *n, int flags) {
    return turn_of(SHIM_ACCEPT).fails ? -1 : (int)syscall(SYS_accept4, fd, a, n, flags);
}
int accept(int fd, struct sockaddr *a, socklen_t *n) {
    return accept4(fd, a, n, 0);
}

int connect(int fd, const struct sockaddr *to, socklen_t n) {
    return turn_of(SHIM_CONNECT).fails ? -1 : (int)syscall(SYS_connect, fd, to, n);
}
ssize_t recvfrom(int fd, void *p, size_t n, int flags, struct sockaddr *from, socklen_t *from_n) {
    return turn_of(SHIM_RECV).fails ? -1 : syscall(SYS_recvfrom, fd, p, n, flags, from, from_n);
}
ssize_t recv(int fd, void *p, size_t n, int flags) {
    return recvfrom(fd, p, n, flags, NULL, NULL);
}
ssize_t recvmsg(int fd, struct msghdr *m, int flags) {
    return turn_of(SHIM_RECV).fails ? -1 : syscall(SYS_recvmsg, fd, m, flags);
}
ssize_t readv(int fd, const struct iovec *v, int n) {
    return is_socket(fd) && turn_of(SHIM_RECV).fails ? -1 : syscall(SYS_readv, fd, v, n);
}
ssize_t read(int fd, void *p, size_t n) {
    if (kind_of(fd) != 0 ? turn_of(SHIM_READ).fails : is_socket(fd) && turn_of(SHIM_RECV).fails)
        return -1;
    return syscall(SYS_read, fd, p, n);
}
/* Taking a descriptor out of a set, or changing what it waits for, needs no memory. */
int epoll_ctl(int set, int what, int fd, struct epoll_event *ev) {
    if (what == EPOLL_CTL_ADD && turn_of(SHIM_EPOLL).fails)
        return -1;
    return (int)syscall(SYS_epoll_ctl, set, what, fd, ev);
}
int epoll_create1(int flags) {
    return turn_of(SHIM_SOCKET).fails ? -1 : (int)syscall(SYS_epoll_create1, flags);
}
int eventfd(unsigned n, int flags) {
    return turn_of(SHIM_SOCKET).fails ? -1 : (int)syscall(SYS_eventfd2, n, flags);
}
int signalfd(int fd, const sigset_t *set, int flags) {
    return turn_of(SHIM_SOCKET).fails ? -1 : (int)syscall(SYS_signalfd4, fd, set, 8, flags);
}

static int (*real_pthread_create)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);
int pthread_create(pthread_t *t, const pthread_attr_t *a, void *(*fn)(void *), void *arg) {
    return turn_of(SHIM_THREAD).fails ? EAGAIN : real_pthread_create(t, a, fn, arg);
}
ssize_t getrandom(void *p, size_t n, unsigned flags) {
    return turn_of(SHIM_ENTROPY).fails ? -1 : syscall(SYS_getrandom, p, n, flags);
}
int getentropy(void *p, size_t n) { /* what OpenSSL asks */
    if (turn_of(SHIM_ENTROPY).fails)
        return -1;
    return syscall(SYS_getrandom, p, n, 0) == (long)n ? 0 : -1;
}

/* ---- memory ---- */

void *__libc_malloc(size_t n);
void *__libc_calloc(size_t count, size_t n);
void *__libc_realloc(void *p, size_t n);
void *__libc_memalign(size_t align, size_t n);

static const char *const library_names[SHIM_LIBRARY_COUNT] = {
    [SHIM_PROGRAM] = "",         [SHIM_SQLITE] = "libsqlite3", [SHIM_JANSSON] = "libjansson",
    [SHIM_CRYPTO] = "libcrypto", [SHIM_SSL] = "libssl",        [SHIM_MICROHTTPD] = "libmicrohttpd",
    [SHIM_EVENT] = "libevent",   [SHIM_CURL] = "libcurl",      [SHIM_UNBOUND] = "libunbound",
    [SHIM_IDN] = "libidn2",      [SHIM_PCRE] = "libpcre2",     [SHIM_LIBC] = "libc.so",
    [SHIM_GNUTLS] = "libgnutls", [SHIM_GMP] = "libgmp",        [SHIM_TASN1] = "libtasn1",
    [SHIM_OTHER] = "ld-linux",
};
static struct {
    uintptr_t from, to;
    int library;
} range[64];
static size_t range_count;

static int add_library(struct dl_phdr_info *info, size_t size, void *arg) {
    (void)size;
    (void)arg;
    const char *base = strrchr(info->dlpi_name, '/');
    base = base != NULL ? base + 1 : info->dlpi_name;
    int library = -1;
    for (int i = 0; i < SHIM_LIBRARY_COUNT; i++)
        if (i == SHIM_PROGRAM ? base[0] == '\0'
                              : strncmp(base, library_names[i], strlen(library_names[i])) == 0)
            library = i;
    for (int i = 0; i < info->dlpi_phnum && library >= 0; i++) {
        const ElfW(Phdr) *h = &info->dlpi_phdr[i];
        if (h->p_type == PT_LOAD && (h->p_flags & PF_X) != 0 &&
            range_count < sizeof range / sizeof range[0]) {
            range[range_count].from = info->dlpi_addr + h->p_vaddr;
            range[range_count].to = info->dlpi_addr + h->p_vaddr + h->p_memsz;
            range[range_count++].library = library;
        }
    }
    return 0;
}

static int library_of(const void *caller) {
    uintptr_t at = (uintptr_t)caller;
    for (size_t i = 0; i < range_count; i++)
        if (at >= range[i].from && at < range[i].to)
            return range[i].library;
    return SHIM_OTHER;
}

/* Jansson asks through a function of the program's: that is its allocation, though not its call. */
static bool is_for_jansson(void) {
    enum { FRAMES = 5 };
    static _Thread_local bool is_looking; /* whoever unwinds may allocate, too */
    void *at[FRAMES];
    if (is_looking)
        return false;
    is_looking = true;
    int n = backtrace(at, FRAMES);
    is_looking = false;
    for (int i = 0; i < n; i++)
        if (library_of(at[i]) == SHIM_JANSSON)
            return true;
    return false;
}

static bool is_starved(const void *caller, size_t n) {
    struct shim_control *c = control;
    if (c->alloc_libraries == 0 || n < c->alloc_most_bytes)
        return false;
    int library = library_of(caller);
    if (library == SHIM_PROGRAM && c->alloc_libraries == 1u << SHIM_JANSSON && is_for_jansson())
        library = SHIM_JANSSON;
    if ((c->alloc_libraries >> library & 1) == 0)
        return false;
    uint64_t number = __atomic_add_fetch(&c->allocs, 1, __ATOMIC_SEQ_CST);
    if (c->alloc_fail_at == 0 || number < c->alloc_fail_at ||
        number - c->alloc_fail_at >= c->alloc_fail_count)
        return false;
    __atomic_add_fetch(&c->alloc_failed, 1, __ATOMIC_SEQ_CST);
    c->last_failed_alloc_library = (uint64_t)library;
    errno = ENOMEM;
    return true;
}

void *malloc(size_t n) {
    return is_starved(__builtin_return_address(0), n) ? NULL : __libc_malloc(n);
}
void *calloc(size_t count, size_t n) {
    return is_starved(__builtin_return_address(0), count * n) ? NULL : __libc_calloc(count, n);
}
void *realloc(void *p, size_t n) {
    return is_starved(__builtin_return_address(0), n) ? NULL : __libc_realloc(p, n);
}

void *memalign(size_t align, size_t n);
void *memalign(size_t align, size_t n) {
    return is_starved(__builtin_return_address(0), n) ? NULL : __libc_memalign(align, n);
}
void *aligned_alloc(size_t align, size_t n) {
    return is_starved(__builtin_return_address(0), n) ? NULL : __libc_memalign(align, n);
}
int posix_memalign(void **p, size_t align, size_t n) {
    if (is_starved(__builtin_return_address(0), n))
        return ENOMEM;
    *p = __libc_memalign(align, n);
    return *p != NULL ? 0 : ENOMEM;
}

/* ---- a crash says where ---- */

/* In one write: what another thread or a child logs meanwhile must not stand between the lines that
 * tests/fault/server reads. */
static void crashed(int number) {
    enum { FRAMES = 40 };
    static char text[FRAMES * 256];
    void *at[FRAMES];
    int n = backtrace(at, FRAMES);
    size_t len = (size_t)snprintf(text, sizeof text, "shim: signal %d, last refused: library %d\n",
                                  number, (int)control->last_failed_alloc_library);
    control->alloc_fail_at = control->fail_at = 0;
    for (int i = 0; i < n && len < sizeof text; i++) {
        Dl_info in = {0};
        if (dladdr(at[i], &in) == 0 || in.dli_fname == NULL)
            in = (Dl_info){.dli_fname = "?"};
        len += (size_t)snprintf(
            text + len, sizeof text - len, "%s(%s+0x%zx)\n", in.dli_fname,
            in.dli_sname == NULL ? "" : in.dli_sname,
            (size_t)((char *)at[i] - (char *)(in.dli_saddr == NULL ? in.dli_fbase : in.dli_saddr)));
    }
    syscall(SYS_write, STDERR_FILENO, text, len < sizeof text ? len : sizeof text - 1);
    signal(number, SIG_DFL);
    raise(number);
}

static void watch_for_crashes(void) {
    void *at[2];
    backtrace(at, 2); /* loads what it needs now */
    static const int numbers[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL};
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++)
        signal(numbers[i], crashed);
}

/* ---- start ---- */

__attribute__((constructor)) static void start(void) {
    const char *text = getenv("SHIM_FOLDER");
    if (text != NULL && strlen(text) < sizeof folder) {
        snprintf(folder, sizeof folder, "%s", text);
        folder_n = strlen(folder);
    }
    watch_for_crashes();
    dl_iterate_phdr(add_library, NULL);
    *(void **)&real_pthread_create = dlsym(RTLD_NEXT, "pthread_create");
    if ((text = getenv("SHIM_RECORD")) != NULL) {
        log_fd = (int)syscall(SYS_openat, AT_FDCWD, text, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC,
                              0600);
        if (log_fd < 0)
            abort();
    }
    if ((text = getenv("SHIM_CONTROL")) != NULL) {
        int fd = (int)syscall(SYS_openat, AT_FDCWD, text, O_RDWR | O_CLOEXEC, 0);
        void *p = fd < 0 ? MAP_FAILED
                         : (void *)syscall(SYS_mmap, NULL, sizeof *control, PROT_READ | PROT_WRITE,
                                           MAP_SHARED, fd, 0);
        if (p == MAP_FAILED)
            abort();
        syscall(SYS_close, fd);
        control = p;
    }
}
