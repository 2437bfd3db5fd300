#include "server/net/listener.h"

#include <errno.h>
#include <event2/event.h>
#include <netinet/in.h>
#include <unistd.h>

enum { BACKLOG = 4096, PAUSE_MS = 100, ACCEPTS_A_TURN = 64 };

struct listener {
    struct loop *loop;
    struct event *readable;
    struct timer *pause;
    int fd;
    struct sockaddr_any address;
    void (*on_accept)(void *ctx, int fd, const struct sockaddr_any *peer);
    void *ctx;
};

static void accept_some(evutil_socket_t fd, short what, void *arg) {
    struct listener *l = arg;
    (void)what;
    for (int i = 0; i < ACCEPTS_A_TURN; i++) {
        struct sockaddr_any peer = {.len = sizeof peer.ss};
        int got = accept4(fd, (struct sockaddr *)&peer.ss, &peer.len, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (got >= 0) {
            l->on_accept(l->ctx, got, &peer);
            continue;
        }
        if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
            event_del(l->readable); /* level-triggered: it would come back at once, for ever */
            timer_set(l->pause, PAUSE_MS);
        }
        if (errno != EINTR && errno != ECONNABORTED)
            return;
    }
}

static void go_on(void *arg) {
    struct listener *l = arg;
    if (event_add(l->readable, NULL) != 0) /* no memory in the kernel either: nothing else tries */
        timer_set(l->pause, PAUSE_MS);
}

static enum err bind_and_listen(struct listener *l, const struct sockaddr_any *at,
                                struct errinfo *info) {
    char text[SOCKADDR_TEXT_SIZE];
    int on = 1;
    sockaddr_print(at, text);
    l->fd = socket(at->ss.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (l->fd < 0)
        return err_set(info, ERR_UNAVAILABLE, "", "%s: %s", text, strerror(errno));
    setsockopt(l->fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (sockaddr_is_ipv6(at)) /* one listener, one family: 0.0.0.0 has its own */
        setsockopt(l->fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof on);
    if (bind(l->fd, (const struct sockaddr *)&at->ss, at->len) != 0 || listen(l->fd, BACKLOG) != 0)
        return err_set(info, errno == EADDRINUSE ? ERR_CONFLICT : ERR_UNAVAILABLE, "", "%s: %s",
                       text, strerror(errno));
    l->address.len = sizeof l->address.ss;
    if (getsockname(l->fd, (struct sockaddr *)&l->address.ss, &l->address.len) != 0)
        return err_set(info, ERR_INTERNAL, "", "%s: %s", text, strerror(errno));
    return OK;
}

enum err listener_open(struct loop *loop, const struct sockaddr_any *at,
                       void (*on_accept)(void *ctx, int fd, const struct sockaddr_any *peer),
                       void *ctx, struct listener **out, struct errinfo *info) {
    ASSERT(loop_is_current(loop));
    struct listener *l = mem_zalloc(sizeof *l);
    l->loop = loop;
    l->on_accept = on_accept;
    l->ctx = ctx;
    enum err e = bind_and_listen(l, at, info);
    if (e != OK) {
        if (l->fd >= 0)
            close(l->fd);
        free(l);
        return e;
    }
    l->pause = timer_new(loop, go_on, l);
    l->readable = event_new(loop_base(loop), l->fd, EV_READ | EV_PERSIST, accept_some, l);
    NEED(l->readable != NULL && event_add(l->readable, NULL) == 0);
    *out = l;
    return OK;
}

struct sockaddr_any listener_address(const struct listener *l) {
    return l->address;
}

void listener_close(struct listener **lp) {
    struct listener *l = *lp;
    *lp = NULL;
    if (!l)
        return;
    event_free(l->readable);
    timer_free(&l->pause);
    close(l->fd);
    free(l);
}
