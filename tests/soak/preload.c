/* preload: leaks on purpose, for tests/soak/run: so a leak that the verdict has to find is at hand.
 *
 *     SOAK_LEAK=100                    each 100th free() of a small block is left out
 *     SOAK_LEAK_FD=50                  each 50th close() of a socket only shuts it down
 *     SOAK_LEAK_FD_COPIES=3            and leaves so many more behind */
#include <dlfcn.h>
#include <malloc.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

enum { SMALL = 512 };

extern void __libc_free(void *);

static int (*real_close)(int);
static unsigned long leak_every, leak_fd_every, leak_fd_copies;
static atomic_ulong frees, closes;

static unsigned long number_of(const char *name) {
    const char *text = getenv(name);
    return text ? strtoul(text, NULL, 10) : 0;
}

__attribute__((constructor)) static void begin(void) {
    *(void **)&real_close = dlsym(RTLD_NEXT, "close");
    leak_every = number_of("SOAK_LEAK");
    leak_fd_every = number_of("SOAK_LEAK_FD");
    leak_fd_copies = number_of("SOAK_LEAK_FD_COPIES");
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
