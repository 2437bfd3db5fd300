/* tool_hook: a receiver of webhooks for load and crash tests: takes everything, remembers what it
 * took.
 *
 *     tool_hook [--listen 127.0.0.1:0] [--ledger FILE] [--refuse-permille N] [--drop-permille N]
 *
 * For each POST it appends "hook <webhook-id>" to the ledger before it answers 204.
 * --refuse-permille answers some with 500 ("refused ..."), --drop-permille closes the connection
 * instead of answering
 * ("dropped ..."). Prints "ready PORT" once, and counts at SIGTERM. */
#include "tests/bench/ends.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <unistd.h>

enum { IN_MAX = 262144, EVENTS = 128 };

struct peer {
    int fd;
    size_t n;
    bool is_continued;
    char in[IN_MAX];
};

static int ledger = -1, epoll_fd;
static unsigned refuse_permille, drop_permille;
static uint64_t taken, refused, dropped, random_state = 88172645463325252ull;

static unsigned random_permille(void) {
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (unsigned)(random_state % 1000);
}

static void die(const char *what) {
    perror(what);
    exit(1);
}

static void record(const char *what, const char *head) {
    char line[256], id[128] = "-";
    const char *at = strcasestr(head, "\r\nwebhook-id:");
    if (at != NULL) {
        at += strlen("\r\nwebhook-id:");
        at += strspn(at, " ");
        snprintf(id, sizeof id, "%.*s", (int)strcspn(at, "\r\n"), at);
    }
    int n = snprintf(line, sizeof line, "%s %s\n", what, id);
    if (ledger >= 0 && write(ledger, line, (size_t)n) != n)
        die("ledger");
}

static void end(struct peer *p) {
    close(p->fd);
    free(p);
}

/* False: the connection is over. */
static bool answer(struct peer *p) {
    static const char ok[] = "HTTP/1.1 204 No Content\r\n\r\n";
    static const char no[] = "HTTP/1.1 500 Later\r\nContent-Length: 0\r\n\r\n";
    unsigned dice = random_permille();
    if (dice < drop_permille) {
        record("dropped", p->in);
        dropped++;
        return false;
    }
    bool refuses = dice < drop_permille + refuse_permille;
    record(refuses ? "refused" : "hook", p->in);
    taken += !refuses;
    refused += refuses;
    const char *text = refuses ? no : ok;
    return send(p->fd, text, strlen(text), MSG_NOSIGNAL) == (ssize_t)strlen(text);
}

static bool work(struct peer *p) {
    for (;;) {
        p->in[p->n] = '\0';
        char *head = strstr(p->in, "\r\n\r\n");
        if (head == NULL)
            return p->n < IN_MAX - 1;
        const char *length = strcasestr(p->in, "\r\nContent-Length:");
        size_t whole = (size_t)(head - p->in) + 4 +
                       (length != NULL && length < head ? strtoul(length + 17, NULL, 10) : 0);
        const char *expect = strcasestr(p->in, "\r\nExpect: 100-continue");
        if (expect != NULL && expect < head && p->n < whole && !p->is_continued) {
            static const char go_on[] = "HTTP/1.1 100 Continue\r\n\r\n";
            p->is_continued = true;
            (void)!send(p->fd, go_on, strlen(go_on), MSG_NOSIGNAL);
        }
        if (whole >= IN_MAX)
            return false;
        if (p->n < whole)
            return true;
        if (!answer(p))
            return false;
        p->is_continued = false;
        memmove(p->in, p->in + whole, p->n - whole);
        p->n -= whole;
    }
}

static void readable(struct peer *p) {
    ssize_t n = recv(p->fd, p->in + p->n, IN_MAX - 1 - p->n, 0);
    if (n < 0 && errno == EAGAIN)
        return;
    if (n <= 0) {
        end(p);
        return;
    }
    p->n += (size_t)n;
    if (!work(p))
        end(p);
}

static void accept_all(int listener) {
    int fd, on = 1;
    while ((fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK)) >= 0) {
        struct peer *p = malloc(sizeof *p);
        if (p == NULL)
            die("malloc");
        p->fd = fd;
        p->n = 0;
        p->is_continued = false;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        struct epoll_event ev = {.events = EPOLLIN, .data.ptr = p};
        if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &ev) != 0)
            die("epoll_ctl");
    }
}

int main(int argc, char **argv) {
    const char *at = "127.0.0.1:0";
    for (int i = 1; i + 1 < argc; i += 2) {
        if (strcmp(argv[i], "--listen") == 0)
            at = argv[i + 1];
        else if (strcmp(argv[i], "--ledger") == 0)
            ledger = open(argv[i + 1], O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
        else if (strcmp(argv[i], "--refuse-permille") == 0)
            refuse_permille = (unsigned)strtoul(argv[i + 1], NULL, 10);
        else if (strcmp(argv[i], "--drop-permille") == 0)
            drop_permille = (unsigned)strtoul(argv[i + 1], NULL, 10);
        else
            return 64;
    }
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigprocmask(SIG_BLOCK, &set, NULL);
    int signals = signalfd(-1, &set, SFD_CLOEXEC), listener = listen_at(at);
    static int listener_tag, signal_tag;
    struct epoll_event ev = {.events = EPOLLIN, .data.ptr = &listener_tag}, got[EVENTS];
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, listener, &ev);
    ev.data.ptr = &signal_tag;
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, signals, &ev);
    for (;;) {
        int n = epoll_wait(epoll_fd, got, EVENTS, -1);
        for (int i = 0; i < n; i++) {
            if (got[i].data.ptr == &listener_tag) {
                accept_all(listener);
            } else if (got[i].data.ptr == &signal_tag) {
                printf("{\"taken\": %llu, \"refused\": %llu, \"dropped\": %llu}\n",
                       (unsigned long long)taken, (unsigned long long)refused,
                       (unsigned long long)dropped);
                return 0;
            } else {
                readable(got[i].data.ptr);
            }
        }
    }
}
