#include "server/base/random.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/random.h>

#include "server/base/err.h"

enum { POOL_BYTES = 512 };

/* Parent and child of a fork() must not hand out the same bytes: a child is of another generation,
 * and a pool of an older generation counts as empty. */
static atomic_uint generation = 1;
static pthread_once_t fork_once = PTHREAD_ONCE_INIT;

static _Thread_local struct {
    unsigned generation; /* 0: never filled */
    size_t used;
    unsigned char bytes[POOL_BYTES];
} pool;

static void after_fork(void) {
    atomic_fetch_add_explicit(&generation, 1, memory_order_relaxed);
}

static void watch_fork(void) {
    NEED(pthread_atfork(NULL, NULL, after_fork) == 0);
}

static void from_kernel(void *p, size_t n) {
    for (size_t done = 0; done < n;) {
        ssize_t got = getrandom((char *)p + done, n - done, 0);
        if (got < 0 && errno == EINTR)
            continue;
        ASSERT(got > 0);
        done += (size_t)got;
    }
}

void random_bytes(void *p, size_t n) {
    if (n > POOL_BYTES / 4) {
        from_kernel(p, n);
        return;
    }
    if (n == 0)
        return;
    pthread_once(&fork_once, watch_fork);
    unsigned now = atomic_load_explicit(&generation, memory_order_relaxed);
    if (pool.generation != now || n > POOL_BYTES - pool.used) {
        from_kernel(pool.bytes, POOL_BYTES);
        pool.used = 0;
        pool.generation = now;
    }
    memcpy(p, pool.bytes + pool.used, n);
    /* What was handed out may become a key: it is not kept. */
    explicit_bzero(pool.bytes + pool.used, n);
    pool.used += n;
}

uint64_t random_u64(void) {
    uint64_t v;
    random_bytes(&v, sizeof(v));
    return v;
}

uint64_t random_below(uint64_t bound) {
    ASSERT(bound > 0);
    /* 2^64 mod bound values at the bottom would make the low results likelier: they are redrawn. */
    uint64_t skip = (UINT64_MAX - bound + 1) % bound;
    uint64_t v;
    do {
        v = random_u64();
    } while (v < skip);
    return v % bound;
}
