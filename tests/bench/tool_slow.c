/* tool_slow: many clients that are as slow as they dare, and one that is not, beside each other.
 *
 *     tool_slow --to 127.0.0.1:8025 --key KEY --slow 10000 --seconds 30 [--requests 300]
 * [--addresses 64] [--pid PID] [--smtp 1] [--slow-to 127.0.0.1:8026]
 *
 * A quarter of the slow ones each: H sends its header an octet a second, B its body, R asks for
 * much and reads nothing, X says nothing at all. They come from 127.1.0.1 upwards, so many
 * addresses; one that is closed comes again. The healthy one posts a message on a connection of its
 * own each time, from 127.0.0.1, first alone, then during the attack.
 *
 * With --smtp 1 all speak SMTP: H sends its EHLO an octet a second, B a message, R asks for help
 * and reads nothing, X says nothing; the healthy one has a message captured on a connection of its
 * own.
 *
 * With --slow-to the slow ones go elsewhere, which tells what the machine makes of them: what the
 * healthy one feels then is not its server's doing.
 *
 * Prints one JSON line: latencies (ms) alone, while they come (three seconds), and during; the
 * ratio, how many slow connections were open at most, refused, closed by the server and how old
 * they were then; resident memory of PID before, and at its highest during the attack.
 */
#include "tests/bench/ends.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <unistd.h>

enum {
    COMING_MS = 3000,
    EVENTS = 512,
    ROUND_MS = 1000,
    OPEN_PER_TURN = 20,
    TURN_MS = 1,
    PATIENCE_S = 10,
    KINDS = 4
};

struct client {
    int fd; /* -1: none */
    char kind;
    bool is_open;
    size_t sent;
    int64_t since_ms;
};

static struct sockaddr_in to, slow_to; /* slow_to without a port: `to` */
static const char *api_key = "";
static size_t slow_count = 10000, request_count = 300, address_count = 64;
static int64_t seconds = 30;
static long pid;
static bool is_smtp;
static atomic_bool is_over;
static size_t absent_count; /* of the slow ones; their thread's */
static atomic_size_t open_now, open_most, refused, closed, oldest_ms;
static char header[512], body_header[512];

static int64_t now_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* ---- the slow ones ---- */

static void drop(struct client *c, bool by_server) {
    if (c->is_open) {
        atomic_fetch_sub(&open_now, 1);
        if (by_server) {
            size_t age_ms = (size_t)(now_ms() - c->since_ms);
            atomic_fetch_add(&closed, 1);
            if (age_ms > atomic_load(&oldest_ms))
                atomic_store(&oldest_ms, age_ms);
        }
    } else if (by_server) {
        atomic_fetch_add(&refused, 1);
    }
    close(c->fd);
    c->fd = -1;
    absent_count++;
    c->is_open = false;
}

static void come(struct client *c, size_t number, int epoll_fd) {
    struct sockaddr_in from = {.sin_family = AF_INET};
    from.sin_addr.s_addr = htonl(0x7F010001u + (uint32_t)(number % address_count));
    int yes = 1, little = 4096;
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (c->fd < 0) {
        perror("tool_slow: socket");
        exit(1);
    }
    absent_count--;
    setsockopt(c->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &yes, sizeof yes);
    if (c->kind == 'R')
        setsockopt(c->fd, SOL_SOCKET, SO_RCVBUF, &little, sizeof little);
    if (bind(c->fd, (struct sockaddr *)&from, sizeof from) != 0 ||
        (connect(c->fd, (struct sockaddr *)&slow_to, sizeof slow_to) != 0 &&
         errno != EINPROGRESS)) {
        drop(c, true);
        return;
    }
    c->sent = 0;
    c->is_open = false;
    struct epoll_event ev = {.events = EPOLLOUT | EPOLLIN | EPOLLRDHUP, .data.u64 = number};
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, c->fd, &ev);
}

static void put(struct client *c, const char *p, size_t n) {
    ssize_t done = send(c->fd, p, n, MSG_NOSIGNAL);
    if (done > 0)
        c->sent += (size_t)done;
    else if (errno != EAGAIN)
        drop(c, true);
}

static void begin(struct client *c) {
    c->is_open = true;
    c->since_ms = now_ms();
    size_t is = atomic_fetch_add(&open_now, 1) + 1;
    if (is > atomic_load(&open_most))
        atomic_store(&open_most, is);
    if (c->kind == 'B' && !is_smtp) { /* of SMTP: when it is greeted */
        put(c, body_header, strlen(body_header));
    } else if (c->kind == 'R') {
        static const char ask[] = "GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n";
        for (int i = 0; i < 4 && c->fd >= 0 && !is_smtp; i++)
            put(c, ask, sizeof ask - 1);
    }
}

static void one_octet(struct client *c) {
    if (c->kind == 'H')
        put(c, c->sent < strlen(header) ? header + c->sent : "x", 1);
    else if (c->kind == 'B')
        put(c, " ", 1);
    else if (c->kind == 'R' && is_smtp)
        put(c, "HELP\r\nHELP\r\n", 12);
}

/* What the server says is not read by R; the others take it as what it is, an end. */
static void hear(struct client *c, uint32_t events) {
    char text[4096];
    if (!c->is_open && (events & EPOLLOUT) && !(events & (EPOLLERR | EPOLLHUP))) {
        begin(c);
        return;
    }
    if (c->kind != 'R' && (events & EPOLLIN) && recv(c->fd, text, sizeof text, 0) > 0) {
        if (is_smtp && c->kind == 'B' && c->sent == 0)
            put(c, body_header, strlen(body_header));
        return;
    }
    if (events & (EPOLLERR | EPOLLHUP | EPOLLRDHUP))
        drop(c, true);
}

static void *attack(void *arg) {
    struct client *all = calloc(slow_count, sizeof *all);
    struct epoll_event got[EVENTS];
    int epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    int64_t begun_ms = now_ms();
    size_t turn = 0, done = 0;
    (void)arg;
    /* elsewhere in earnest: it gives way to the server and the healthy one */
    setpriority(PRIO_PROCESS, (id_t)gettid(), 19);
    for (size_t i = 0; i < slow_count; i++)
        all[i] = (struct client){.fd = -1, .kind = "HBRX"[i % KINDS]};
    absent_count = slow_count;
    while (!atomic_load(&is_over)) {
        for (size_t i = 0, opened = 0; i < slow_count && absent_count > 0 && opened < OPEN_PER_TURN;
             i++) {
            size_t number = (turn + i) % slow_count;
            if (all[number].fd < 0) {
                come(&all[number], number, epoll_fd);
                opened++;
                turn = number + 1;
            }
        }
        int n = epoll_wait(epoll_fd, got, EVENTS, TURN_MS);
        for (int i = 0; i < n; i++) {
            struct client *c = &all[got[i].data.u64];
            if (c->fd < 0)
                continue;
            bool was_open = c->is_open;
            hear(c, got[i].events);
            struct epoll_event ev = {.events = EPOLLRDHUP | (c->kind == 'R' ? 0 : EPOLLIN),
                                     .data.u64 = got[i].data.u64};
            if (c->fd >= 0 && c->is_open && !was_open)
                epoll_ctl(epoll_fd, EPOLL_CTL_MOD, c->fd, &ev);
        }
        /* spread over the round: thousands of octets in the same millisecond are something else */
        size_t due = (size_t)(now_ms() - begun_ms) * slow_count / ROUND_MS;
        for (; done < due; done++) {
            struct client *c = &all[done % slow_count];
            if (c->fd >= 0 && c->is_open)
                one_octet(c);
        }
    }
    for (size_t i = 0; i < slow_count; i++)
        if (all[i].fd >= 0)
            drop(&all[i], false);
    close(epoll_fd);
    free(all);
    return NULL;
}

/* ---- the healthy one ---- */

static bool smtp_step(int fd, const char *command, const char *wanted) {
    char answer[4096];
    size_t n = strlen(command), have = 0;
    if (n > 0 && send(fd, command, n, MSG_NOSIGNAL) != (ssize_t)n)
        return false;
    for (;;) { /* up to the last line of the reply */
        ssize_t got = recv(fd, answer + have, sizeof answer - 1 - have, 0);
        if (got <= 0)
            return false;
        have += (size_t)got;
        answer[have] = '\0';
        char *last = answer + have;
        if (have < 5 || last[-1] != '\n')
            continue;
        for (last--; last > answer && last[-1] != '\n';)
            last--;
        if (last[3] == ' ')
            return strncmp(last, wanted, 3) == 0;
    }
}

static bool smtp_one(int fd) {
    return smtp_step(fd, "", "220") && smtp_step(fd, "EHLO healthy.test\r\n", "250") &&
           smtp_step(fd, "MAIL FROM:<a@acme.test>\r\n", "250") &&
           smtp_step(fd, "RCPT TO:<b@example.net>\r\n", "250") &&
           smtp_step(fd, "DATA\r\n", "354") &&
           smtp_step(fd, "Subject: s\r\n\r\nt\r\n.\r\n", "250") && smtp_step(fd, "QUIT\r\n", "221");
}

/* Milliseconds for one message on a connection of its own; negative: not accepted. */
static double post_one(void) {
    char text[1024], answer[4096];
    static const char message[] =
        "{\"from\":\"a@acme.test\",\"to\":\"b@example.net\",\"subject\":\"s\","
        "\"text\":\"t\"}";
    struct timeval patience = {.tv_sec = PATIENCE_S};
    int yes = 1;
    int64_t begun = now_us();
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    int n = snprintf(text, sizeof text,
                     "POST /send HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\n"
                     "Content-Type: application/json\r\nConnection: close\r\n"
                     "Content-Length: %zu\r\n\r\n%s",
                     api_key, sizeof message - 1, message);
    bool ok = connect(fd, (struct sockaddr *)&to, sizeof to) == 0;
    if (is_smtp)
        ok = ok && smtp_one(fd);
    else
        ok = ok && send(fd, text, (size_t)n, MSG_NOSIGNAL) == n &&
             recv(fd, answer, sizeof answer, 0) > 12 && memcmp(answer + 9, "202", 3) == 0;
    close(fd);
    return ok ? (double)(now_us() - begun) / 1e3 : -1;
}

struct figures {
    double p50, p99, most;
    size_t count, failed;
};

static int compare(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static struct figures measure(int64_t until_ms) {
    double *ms = calloc(request_count, sizeof *ms);
    struct figures f = {0};
    size_t n = 0;
    int64_t begun = now_ms(), step_ms = (until_ms - begun) / (int64_t)request_count;
    for (size_t i = 0; i < request_count && now_ms() < until_ms; i++) {
        double one = post_one();
        if (one < 0)
            f.failed++;
        else
            ms[n++] = one;
        int64_t left = begun + (int64_t)(i + 1) * step_ms - now_ms();
        if (left > 0)
            nanosleep(&(struct timespec){.tv_sec = left / 1000, .tv_nsec = left % 1000 * 1000000},
                      NULL);
    }
    qsort(ms, n, sizeof *ms, compare);
    f.count = n;
    if (n) {
        f.p50 = ms[n / 2];
        f.p99 = ms[n * 99 / 100];
        f.most = ms[n - 1];
    }
    free(ms);
    return f;
}

/* ---- the server's memory ---- */

static long resident_kib(void) {
    char path[64], line[256];
    long found = 0;
    snprintf(path, sizeof path, "/proc/%ld/status", pid);
    FILE *f = pid ? fopen(path, "r") : NULL;
    while (f && fgets(line, sizeof line, f))
        if (strncmp(line, "VmRSS:", 6) == 0)
            found = strtol(line + 6, NULL, 10);
    if (f)
        fclose(f);
    return found;
}

static atomic_long resident_most;

static void *watch(void *arg) {
    (void)arg;
    while (!atomic_load(&is_over)) {
        long is = resident_kib();
        if (is > atomic_load(&resident_most))
            atomic_store(&resident_most, is);
        nanosleep(&(struct timespec){.tv_nsec = 100000000}, NULL);
    }
    return NULL;
}

/* ---- */

static void take(int argc, char **argv) {
    for (int i = 1; i + 1 < argc; i += 2) {
        const char *name = argv[i], *value = argv[i + 1];
        if (strcmp(name, "--to") == 0) {
            to = address_of(name, value);
        } else if (strcmp(name, "--slow-to") == 0) {
            slow_to = address_of(name, value);
        } else if (strcmp(name, "--key") == 0) {
            api_key = value;
        } else if (strcmp(name, "--slow") == 0) {
            slow_count = strtoul(value, NULL, 10);
        } else if (strcmp(name, "--seconds") == 0) {
            seconds = strtol(value, NULL, 10);
        } else if (strcmp(name, "--requests") == 0) {
            request_count = strtoul(value, NULL, 10);
        } else if (strcmp(name, "--addresses") == 0) {
            address_count = strtoul(value, NULL, 10);
        } else if (strcmp(name, "--smtp") == 0) {
            is_smtp = strtol(value, NULL, 10) != 0;
        } else if (strcmp(name, "--pid") == 0) {
            pid = strtol(value, NULL, 10);
        } else {
            fprintf(stderr, "tool_slow: no option %s\n", name);
            exit(2);
        }
    }
    if (slow_to.sin_port == 0)
        slow_to = to;
    if (argc % 2 == 0 || to.sin_port == 0 || request_count == 0 || address_count == 0) {
        fprintf(stderr, "tool_slow: see the beginning of its source\n");
        exit(2);
    }
}

int main(int argc, char **argv) {
    take(argc, argv);
    struct rlimit files = {slow_count + 256, slow_count + 256};
    if (setrlimit(RLIMIT_NOFILE, &files) != 0) {
        perror("tool_slow: RLIMIT_NOFILE");
        return 1;
    }
    snprintf(header, sizeof header,
             "GET /livez HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nX-Slow: ", api_key);
    snprintf(body_header, sizeof body_header,
             "POST /send HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\n"
             "Content-Type: application/json\r\nContent-Length: 100000\r\n\r\n",
             api_key);
    if (is_smtp) {
        snprintf(header, sizeof header, "EHLO %0400d", 0);
        snprintf(body_header, sizeof body_header,
                 "EHLO slow.test\r\nMAIL FROM:<>\r\nRCPT TO:<c@example.net>\r\nDATA\r\n");
    }
    struct figures alone = measure(now_ms() + seconds * 1000);
    long before_kib = resident_kib();
    pthread_t attacker, watcher;
    pthread_create(&watcher, NULL, watch, NULL);
    pthread_create(&attacker, NULL, attack, NULL);
    /* what it costs when thousands come at once is another question than what they cost */
    struct figures coming = measure(now_ms() + COMING_MS);
    struct figures during = measure(now_ms() + seconds * 1000);
    atomic_store(&is_over, true);
    pthread_join(attacker, NULL);
    pthread_join(watcher, NULL);
    printf(
        "{\"slow\":%zu,\"open_most\":%zu,\"refused\":%zu,\"closed\":%zu,\"oldest_closed_ms\":%zu,"
        "\"coming\":{\"count\":%zu,\"p50\":%.2f,\"p99\":%.2f,\"max\":%.2f,\"failed\":%zu},"
        "\"alone\":{\"count\":%zu,\"p50\":%.2f,\"p99\":%.2f,\"max\":%.2f,\"failed\":%zu},"
        "\"during\":{\"count\":%zu,\"p50\":%.2f,\"p99\":%.2f,\"max\":%.2f,\"failed\":%zu},"
        "\"p99_ratio\":%.2f,\"rss_before_kib\":%ld,\"rss_most_kib\":%ld}\n",
        slow_count, atomic_load(&open_most), atomic_load(&refused), atomic_load(&closed),
        atomic_load(&oldest_ms), coming.count, coming.p50, coming.p99, coming.most, coming.failed,
        alone.count, alone.p50, alone.p99, alone.most, alone.failed, during.count, during.p50,
        during.p99, during.most, during.failed, alone.p99 > 0 ? during.p99 / alone.p99 : 0,
        before_kib, atomic_load(&resident_most));
    return 0;
}
