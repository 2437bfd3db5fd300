/* count_io: preloaded into a program under measurement; counts syncs and the bytes that it writes
 * to files, in a page that all of its processes share.
 *
 *     cc -shared -fPIC -O2 -o count_io.so count_io.c
 *     COUNT_IO=/path/of/16/bytes LD_PRELOAD=./count_io.so program
 *
 * The file holds two 64-bit numbers: syncs, bytes. What the program does without libc is not seen.
 * COUNT_IO_SYNC_US: a sync takes so many microseconds at least, as on a disk that does.
 */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

static struct { atomic_ullong syncs, bytes; } nowhere, *counts = &nowhere;
static long sync_us;

__attribute__((constructor)) static void begin(void) {
    const char *us = getenv("COUNT_IO_SYNC_US"), *path = getenv("COUNT_IO");
    sync_us = us ? strtol(us, NULL, 10) : 0;
    int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    if (fd < 0)
        return;
    void *p = mmap(NULL, sizeof *counts, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (p != MAP_FAILED)
        counts = p;
    close(fd);
}

/* What is written at a place is written to a file; else it is looked at. */
static void written_at(ssize_t n) {
    if (n > 0)
        atomic_fetch_add(&counts->bytes, (unsigned long long)n);
}

static void written(int fd, ssize_t n) {
    struct stat st;
    int saved = errno;
    if (n > 0 && fstat(fd, &st) == 0 && S_ISREG(st.st_mode))
        atomic_fetch_add(&counts->bytes, (unsigned long long)n);
    errno = saved;
}

/* `result` is the sync's, which began at `t`. */
static int drawn_out(struct timespec t, int result) {
    int saved = errno;
    t.tv_sec += (t.tv_nsec + sync_us * 1000) / 1000000000;
    t.tv_nsec = (t.tv_nsec + sync_us * 1000) % 1000000000;
    if (sync_us > 0)
        (void)clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL);
    errno = saved;
    return result;
}

static struct timespec now(void) {
    struct timespec t = {0};
    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return t;
}

#define REAL(name)                                                                                 \
    static __typeof__(&name) real;                                                                 \
    if (!real)                                                                                     \
    real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

int fsync(int fd) {
    REAL(fsync);
    atomic_fetch_add(&counts->syncs, 1);
    struct timespec began = now();
    return drawn_out(began, real(fd));
}

int fdatasync(int fd) {
    REAL(fdatasync);
    atomic_fetch_add(&counts->syncs, 1);
    struct timespec began = now();
    return drawn_out(began, real(fd));
}

ssize_t write(int fd, const void *p, size_t size) {
    REAL(write);
    ssize_t n = real(fd, p, size);
    written(fd, n);
    return n;
}

ssize_t writev(int fd, const struct iovec *v, int count) {
    REAL(writev);
    ssize_t n = real(fd, v, count);
    written(fd, n);
    return n;
}

ssize_t pwrite(int fd, const void *p, size_t size, off_t at) {
    REAL(pwrite);
    ssize_t n = real(fd, p, size, at);
    written_at(n);
    return n;
}

ssize_t pwrite64(int fd, const void *p, size_t size, off64_t at) {
    REAL(pwrite64);
    ssize_t n = real(fd, p, size, at);
    written_at(n);
    return n;
}

ssize_t pwritev(int fd, const struct iovec *v, int count, off_t at) {
    REAL(pwritev);
    ssize_t n = real(fd, v, count, at);
    written_at(n);
    return n;
}
