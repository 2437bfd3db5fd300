/* ends: one end of a stream in a test: remembers what was called, does what it was told. */
#pragma once

#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <event2/event.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "server/base/buf.h"
#include "server/base/clock.h"
#include "server/net/stream.h"
#include "tests/unit/patience.h"

struct end {
    struct loop *loop;
    struct stream *s;
    struct buf got;
    int opened, closed, failed, drained, reads;
    bool keep;   /* on_read does not drain */
    bool inside; /* a stream_* call is under way: no callback may come */
    enum failure why;
    char text[256];
    void (*at_open)(struct end *e);
    void (*at_read)(struct end *e);
    void (*at_drained)(struct end *e);
    void (*at_failed)(struct end *e);
    void (*at_closed)(struct end *e);
    void *more;
};

static inline void end_open(void *ctx) {
    struct end *e = ctx;
    assert_false(e->inside);
    e->opened++;
    if (e->at_open)
        e->at_open(e);
}

static inline void end_read(void *ctx) {
    struct end *e = ctx;
    assert_false(e->inside);
    e->reads++;
    if (!e->keep) {
        struct str in = stream_peek(e->s);
        buf_put(&e->got, in);
        stream_drain(e->s, in.n);
    }
    if (e->at_read)
        e->at_read(e);
}

static inline void end_drained(void *ctx) {
    struct end *e = ctx;
    assert_false(e->inside);
    e->drained++;
    if (e->at_drained)
        e->at_drained(e);
}

static inline void end_failed(void *ctx, enum failure why, struct str text) {
    struct end *e = ctx;
    assert_false(e->inside);
    assert_int_equal(e->failed + e->closed, 0);
    e->failed++;
    e->why = why;
    if (e->at_failed)
        e->at_failed(e);
    /* also when that closed the stream */
    snprintf(e->text, sizeof e->text, "%.*s", STR_ARG(text));
}

static inline void end_closed(void *ctx) {
    struct end *e = ctx;
    assert_false(e->inside);
    assert_int_equal(e->failed + e->closed, 0);
    e->closed++;
    if (e->at_closed)
        e->at_closed(e);
}

static const struct stream_events end_events = {end_open, end_read, end_drained, end_failed,
                                                end_closed};

static inline void end_init(struct end *e, struct loop *l) {
    *e = (struct end){.loop = l};
    buf_init(&e->got, 64 * 1024 * 1024);
}

static inline void end_release(struct end *e) {
    stream_close(&e->s, false);
    buf_release(&e->got);
}

static inline void end_accept(struct end *e, int fd) {
    e->inside = true;
    e->s = stream_accept(e->loop, fd, &end_events, e);
    e->inside = false;
}

static inline void end_connect(struct end *e, const struct stream_connect_options *o) {
    e->inside = true;
    e->s = stream_connect(e->loop, o, &end_events, e);
    e->inside = false;
}

static inline struct sockaddr_any loopback(uint16_t port) {
    struct sockaddr_any a;
    assert_int_equal(sockaddr_parse(STR("127.0.0.1"), port, &a), OK);
    return a;
}

/* A listening socket on a port of the kernel's choice. */
static inline int listen_any(struct sockaddr_any *at, int backlog) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(fd >= 0);
    *at = loopback(0);
    assert_int_equal(bind(fd, (struct sockaddr *)&at->ss, at->len), 0);
    assert_int_equal(listen(fd, backlog), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&at->ss, &at->len), 0);
    return fd;
}

/* Two connected TCP sockets. */
static inline void tcp_pair(int fds[2]) {
    struct sockaddr_any at;
    int l = listen_any(&at, 1);
    fds[0] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(connect(fds[0], (struct sockaddr *)&at.ss, at.len), 0);
    fds[1] = accept(l, NULL, NULL);
    assert_true(fds[1] >= 0);
    close(l);
}

/* Turns the loop until `cond`, at most 10 s (patience.h). */
#define TURN_UNTIL(l, cond)                                                                        \
    do {                                                                                           \
        int64_t until_mono_ms = clock_mono_ms() + patience_ms(10000);                              \
        while (!(cond) && clock_mono_ms() < until_mono_ms)                                         \
            loop_dispatch_once((l), 20);                                                           \
        assert_true(cond);                                                                         \
    } while (0)

static inline void fail_at_warning(int severity, const char *text) {
    if (severity >= EVENT_LOG_WARN)
        fail_msg("libevent: %s", text);
}

static inline int count_fds(void) {
    event_set_log_callback(fail_at_warning);
    int n = 0;
    DIR *d = opendir("/proc/self/fd");
    assert_non_null(d);
    while (readdir(d))
        n++;
    closedir(d);
    return n;
}
