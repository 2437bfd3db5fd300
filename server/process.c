#include "server/process.h"

#include <malloc.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "server/base/limits.h"
#include "server/base/log.h"

void process_notify(const char *state) {
    const char *path = getenv("NOTIFY_SOCKET");
    struct sockaddr_un to = {.sun_family = AF_UNIX};
    if (!path || (path[0] != '/' && path[0] != '@') || strlen(path) >= sizeof to.sun_path)
        return;
    memcpy(to.sun_path, path, strlen(path));
    socklen_t len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(path));
    if (path[0] == '@')
        to.sun_path[0] = '\0';
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd >= 0) {
        (void)sendto(fd, state, strlen(state), MSG_NOSIGNAL, (struct sockaddr *)&to, len);
        close(fd);
    }
}

/* The usual soft limit of 1,024 is there for select(), which nothing here uses. Later, when a
 * reload allows more connections, the filter of system calls forbids it. */
void process_raise_descriptors(void) {
    struct rlimit limit;
    const rlim_t most = LIMIT_CONNECTIONS + LIMIT_OTHER_DESCRIPTORS;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur >= most)
        return;
    limit.rlim_cur = limit.rlim_max < most ? limit.rlim_max : most;
    (void)setrlimit(RLIMIT_NOFILE, &limit);
}

/* Clients that fill every connection they may have must leave descriptors for delivery and the
 * store. */
void process_check_descriptors(size_t connections) {
    struct rlimit limit;
    rlim_t wanted = (rlim_t)connections + LIMIT_OTHER_DESCRIPTORS;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < wanted)
        log_warn("server", "fewer file descriptors than max_connections and delivery may need",
                 LOG_INT("limit", limit.rlim_cur), LOG_INT("wanted", wanted));
}

/* What one thread allocates another one frees, here more than in most programs: with an arena for
 * each of twenty threads, what is free in one is of no use to the others; with two, those that are
 * busy (HTTP, committer, scheduler, two loops) wait for each other. A fixed threshold lets large
 * bodies go back to the system at once, instead of being learned as the usual size. */
void process_tune_heap(void) {
    enum { ARENAS = 5, MMAP_BYTES = 256 * 1024, TRIM_BYTES = 1024 * 1024 };
    mallopt(M_ARENA_MAX, ARENAS);
    mallopt(M_MMAP_THRESHOLD, MMAP_BYTES);
    mallopt(M_TRIM_THRESHOLD, TRIM_BYTES);
}
