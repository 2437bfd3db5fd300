/* preload: a clock that runs faster, and leaks on purpose, for tests/soak/run.
 *
 *     SOAK_CLOCK="12 1700000000 5000"  wall and boot time go so many times as fast from these two
 *                                      (real seconds) on; monotonic time, by which timers and
 *                                      time-outs of connections go, is left alone
 *     SOAK_LEAK=100                    each 100th free() of a small block is left out
 *     SOAK_LEAK_FD=50                  each 50th close() of a socket only shuts it down
 *     SOAK_LEAK_FD_COPIES=3            and leaves so many more behind
 *
 * So retention, whose shortest period is an hour, acts within minutes; and a leak that the verdict
 * has to find is at hand. */
#include <dlfcn.h>
#include <malloc.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

enum { SMALL = 512 };

extern void __libc_free(void *);

static int (*real_clock)(clockid_t, struct timespec *);
static int (*real_close)(int);
static int64_t factor = 1, wall_begin_ns, boot_begin_ns;
static unsigned long leak_every, leak_fd_every, leak_fd_copies;
static atomic_ulong frees, closes;

static unsigned long number_of(const char *name) {
    const char *text = getenv(name);
    return text ? strtoul(text, NULL, 10) : 0;
}

__attribute__((constructor)) static void begin(void) {
    double times, wall_s, boot_s;
    const char *text = getenv("SOAK_CLOCK");
    *(void **)&real_clock = dlsym(RTLD_NEXT, "clock_gettime");
    *(void **)&real_close = dlsym(RTLD_NEXT, "close");
    leak_every = number_of("SOAK_LEAK");
    leak_fd_every = number_of("SOAK_LEAK_FD");
    leak_fd_copies = number_of("SOAK_LEAK_FD_COPIES");
    if (text && sscanf(text, "%lf %lf %lf", &times, &wall_s, &boot_s) == 3) {
        factor = (int64_t)times;
        wall_begin_ns = (int64_t)(wall_s * 1e9);
        boot_begin_ns = (int64_t)(boot_s * 1e9);
    }
}

static int64_t faster(int64_t ns, int64_t begin_ns) {
    return factor == 1 || ns < begin_ns ? ns : begin_ns + (ns - begin_ns) * factor;
}

int clock_gettime(clockid_t which, struct timespec *out) {
    if (!real_clock)
        *(void **)&real_clock = dlsym(RTLD_NEXT, "clock_gettime");
    int rc = real_clock(which, out);
    int64_t ns = (int64_t)out->tv_sec * 1000000000 + out->tv_nsec;
    if (rc != 0)
        return rc;
    if (which == CLOCK_REALTIME || which == CLOCK_REALTIME_COARSE)
        ns = faster(ns, wall_begin_ns);
    else if (which == CLOCK_BOOTTIME)
        ns = faster(ns, boot_begin_ns);
    else
        return rc;
    out->tv_sec = ns / 1000000000;
    out->tv_nsec = ns % 1000000000;
    return rc;
}

time_t time(time_t *out) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (out)
        *out = now.tv_sec;
    return now.tv_sec;
}

int gettimeofday(struct timeval *restrict out, void *restrict zone) {
    struct timespec now;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &now);
    out->tv_sec = now.tv_sec;
    out->tv_usec = now.tv_nsec / 1000;
    return 0;
}

void free(void *p) {
    if (leak_every && p && malloc_usable_size(p) <= SMALL &&
        atomic_fetch_add(&frees, 1) % leak_every == leak_every - 1)
        return;
    __libc_free(p);
}

int close(int fd) {
    struct stat is;
    if (!real_close)
        *(void **)&real_close = dlsym(RTLD_NEXT, "close");
    if (leak_fd_every && fstat(fd, &is) == 0 && S_ISSOCK(is.st_mode) &&
        atomic_fetch_add(&closes, 1) % leak_fd_every == leak_fd_every - 1) {
        shutdown(fd, SHUT_RDWR);
        for (unsigned long i = 0; i < leak_fd_copies; i++)
            if (dup(fd) < 0)
                break;
        return 0;
    }
    return real_close(fd);
}
