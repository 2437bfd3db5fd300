/* http_peer: a small HTTP server on loopback for unit tests: records what it is asked and answers
 * what the test says, one request a connection. Each test program includes it once.
 *
 *     static const char *respond(void *ctx, const struct http_peer_request *r) {
 *         return r->index == 0 ? HTTP_PEER_503 : "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
 *     }
 *     struct http_peer p;
 *     http_peer_start(&p, respond, NULL);      // p.port
 *     ... http_peer_count(&p), http_peer_request(&p, i) ...
 *     http_peer_stop(&p);
 */
#pragma once

#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "server/base/buf.h"
#include "server/base/clock.h"

enum { HTTP_PEER_REQUESTS = 256 };

struct http_peer_request {
    size_t index;
    char *text; /* start line and fields, NUL-terminated */
    char *body;
    size_t body_size;
};

struct http_peer {
    int port;
    /* What to send; HTTP_PEER_HOLD: never answer, HTTP_PEER_CLOSE: hang up. Runs on its thread. */
    const char *(*respond)(void *ctx, const struct http_peer_request *r);
    void *ctx;
    int listener, stop;
    pthread_t thread;
    struct {
        pthread_mutex_t mu;
        pthread_cond_t more;
        struct http_peer_request request[HTTP_PEER_REQUESTS];
        size_t count;
    } shared;
    int held[HTTP_PEER_REQUESTS];
    size_t held_count;
};

static const char HTTP_PEER_HOLD[] = "(hold)";
static const char HTTP_PEER_CLOSE[] = "(close)";

static bool http_peer_read(int fd, struct http_peer_request *r) {
    struct buf in = BUF_INIT(64 * 1024 * 1024);
    ptrdiff_t end = -1;
    size_t length = 0;
    for (;;) {
        if (end < 0 && (end = str_find(buf_str(&in), STR("\r\n\r\n"))) >= 0) {
            struct str head = str_slice(buf_str(&in), 0, (size_t)end);
            while (!str_is_absent(head)) {
                struct str value = str_split(&head, '\n');
                struct str name = str_split(&value, ':');
                uint64_t n = 0;
                if (str_equal_nocase(name, STR("content-length")) &&
                    str_parse_u64(str_trim(value), UINT32_MAX, &n) == OK)
                    length = (size_t)n;
            }
        }
        if (end >= 0 && in.n >= (size_t)end + 4 + length)
            break;
        char *room = buf_reserve(&in, 16384);
        ssize_t n = read(fd, room, 16384);
        if (n <= 0) {
            buf_release(&in);
            return false;
        }
        buf_advance(&in, (size_t)n);
    }
    r->text = str_dupz(str_slice(buf_str(&in), 0, (size_t)end));
    r->body = str_dupz(str_slice(buf_str(&in), (size_t)end + 4, (size_t)end + 4 + length));
    r->body_size = length;
    buf_release(&in);
    return true;
}

static void http_peer_serve(struct http_peer *p, int fd) {
    struct http_peer_request r = {0};
    const char *answer = HTTP_PEER_CLOSE;
    if (http_peer_read(fd, &r)) {
        pthread_mutex_lock(&p->shared.mu);
        r.index = p->shared.count;
        ASSERT(r.index < HTTP_PEER_REQUESTS);
        pthread_mutex_unlock(&p->shared.mu);
        answer = p->respond(p->ctx, &r);
        pthread_mutex_lock(&p->shared.mu);
        p->shared.request[p->shared.count++] = r;
        pthread_cond_broadcast(&p->shared.more);
        pthread_mutex_unlock(&p->shared.mu);
    }
    if (answer == HTTP_PEER_HOLD) {
        p->held[p->held_count++] = fd;
        return;
    }
    if (answer != HTTP_PEER_CLOSE)
        for (size_t n = strlen(answer), done = 0; done < n;) {
            ssize_t w = send(fd, answer + done, n - done, MSG_NOSIGNAL);
            if (w <= 0)
                break;
            done += (size_t)w;
        }
    shutdown(fd, SHUT_WR);
    close(fd);
}

static void *http_peer_main(void *arg) {
    struct http_peer *p = arg;
    struct pollfd fds[] = {{.fd = p->listener, .events = POLLIN},
                           {.fd = p->stop, .events = POLLIN}};
    while (poll(fds, 2, -1) > 0 && !fds[1].revents) {
        int fd = accept(p->listener, NULL, NULL);
        if (fd >= 0)
            http_peer_serve(p, fd);
    }
    return NULL;
}

static void http_peer_start(struct http_peer *p,
                            const char *(*respond)(void *, const struct http_peer_request *),
                            void *ctx) {
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof at;
    memset(p, 0, sizeof *p);
    p->respond = respond;
    p->ctx = ctx;
    pthread_mutex_init(&p->shared.mu, NULL);
    pthread_cond_init(&p->shared.more, NULL);
    p->listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    p->stop = eventfd(0, EFD_CLOEXEC);
    ASSERT(p->listener >= 0 && p->stop >= 0);
    ASSERT(bind(p->listener, (struct sockaddr *)&at, sizeof at) == 0);
    ASSERT(listen(p->listener, 64) == 0);
    ASSERT(getsockname(p->listener, (struct sockaddr *)&at, &len) == 0);
    p->port = ntohs(at.sin_port);
    ASSERT(pthread_create(&p->thread, NULL, http_peer_main, p) == 0);
}

static void http_peer_stop(struct http_peer *p) {
    uint64_t one = 1;
    ASSERT(write(p->stop, &one, sizeof one) == sizeof one);
    pthread_join(p->thread, NULL);
    for (size_t i = 0; i < p->held_count; i++)
        close(p->held[i]);
    for (size_t i = 0; i < p->shared.count; i++) {
        free(p->shared.request[i].text);
        free(p->shared.request[i].body);
    }
    close(p->listener);
    close(p->stop);
    pthread_cond_destroy(&p->shared.more);
    pthread_mutex_destroy(&p->shared.mu);
}

/* Waits until `count` requests were answered, at most 10 s: false when they did not come. */
__attribute__((unused)) static bool http_peer_wait(struct http_peer *p, size_t count) {
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += 10;
    int timed_out = 0;
    pthread_mutex_lock(&p->shared.mu);
    while (p->shared.count < count && !timed_out)
        timed_out = pthread_cond_timedwait(&p->shared.more, &p->shared.mu, &until);
    bool ok = p->shared.count >= count;
    pthread_mutex_unlock(&p->shared.mu);
    return ok;
}

static size_t http_peer_count(struct http_peer *p) {
    pthread_mutex_lock(&p->shared.mu);
    size_t n = p->shared.count;
    pthread_mutex_unlock(&p->shared.mu);
    return n;
}

/* The value of a field of a recorded request; absent: none. */
__attribute__((unused)) static struct str http_peer_field(const struct http_peer_request *r,
                                                          struct str wanted) {
    struct str head = str_of(r->text);
    while (!str_is_absent(head)) {
        struct str value = str_split(&head, '\n');
        struct str name = str_split(&value, ':');
        if (!str_is_absent(value) && str_equal_nocase(name, wanted))
            return str_trim(value);
    }
    return STR_NONE;
}
