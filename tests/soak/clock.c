/* clock: another time for a process it is preloaded into; nothing else of it changes. Monotonic
 * time, by which timers and time-outs of connections go, is left alone.
 *
 *     SOAK_CLOCK="12 1700000000 5000"  wall and boot time go so many times as fast from these two
 *                                      (real seconds) on (tests/soak/run)
 *     CLOCK_FILE=PATH                  two 64-bit numbers that may change at any time: by how many
 *                                      milliseconds the wall clock was set, and how many the
 *                                      machine slept, upon which wall and boot time go ahead
 *                                      (tests/e2e/test_clock.py) */
#include <dlfcn.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

struct moved {
    _Atomic int64_t set_ms, slept_ms;
};

static int (*real_clock)(clockid_t, struct timespec *);
static int64_t factor = 1, wall_begin_ns, boot_begin_ns;
static const struct moved *moved;

static const struct moved *map(const char *path) {
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    void *at = fd < 0 ? MAP_FAILED : mmap(NULL, sizeof(struct moved), PROT_READ, MAP_SHARED, fd, 0);
    if (at == MAP_FAILED) {
        perror(path);
        _exit(70);
    }
    close(fd);
    return at;
}

__attribute__((constructor)) static void begin(void) {
    double times, wall_s, boot_s;
    const char *text = getenv("SOAK_CLOCK"), *path = getenv("CLOCK_FILE");
    *(void **)&real_clock = dlsym(RTLD_NEXT, "clock_gettime");
    if (text && sscanf(text, "%lf %lf %lf", &times, &wall_s, &boot_s) == 3) {
        factor = (int64_t)times;
        wall_begin_ns = (int64_t)(wall_s * 1e9);
        boot_begin_ns = (int64_t)(boot_s * 1e9);
    }
    if (path)
        moved = map(path);
}

static int64_t faster(int64_t ns, int64_t begin_ns) {
    return factor == 1 || ns < begin_ns ? ns : begin_ns + (ns - begin_ns) * factor;
}

static int64_t moved_ns(int64_t ns, int is_wall) {
    if (!moved)
        return ns;
    int64_t ms = atomic_load(&moved->slept_ms) + (is_wall ? atomic_load(&moved->set_ms) : 0);
    return ns + ms * 1000000;
}

int clock_gettime(clockid_t which, struct timespec *out) {
    if (!real_clock)
        *(void **)&real_clock = dlsym(RTLD_NEXT, "clock_gettime");
    int rc = real_clock(which, out);
    int is_wall = which == CLOCK_REALTIME || which == CLOCK_REALTIME_COARSE;
    if (rc != 0 || !(is_wall || which == CLOCK_BOOTTIME))
        return rc;
    int64_t ns = (int64_t)out->tv_sec * 1000000000 + out->tv_nsec;
    ns = moved_ns(faster(ns, is_wall ? wall_begin_ns : boot_begin_ns), is_wall);
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
