#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <stdarg.h>
#include <sys/stat.h>
#include <unistd.h>

#include "api/http_state.h"
#include "server/base/clock.h"
#include "server/base/limits.h"
#include "server/base/log.h"

enum { TICK_MS = 250, STEP_MS = 1, WAITING_TICKS = 2, NOTES_PER_TURN = 256 };

static void pump(struct daemon_of_http *d) {
    unsigned long long ms;
    d->is_dirty = false;
    MHD_run(d->mhd);
    if (MHD_get_timeout(d->mhd, &ms) == MHD_YES) {
        struct timeval in = {.tv_sec = (time_t)(ms / 1000),
                             .tv_usec = (suseconds_t)(ms % 1000 * 1000)};
        if (event_add(d->timer, &in) != 0)
            d->is_dirty = true; /* no memory: the next tick does it */
    } else {
        event_del(d->timer);
    }
}

static void on_daemon_event(evutil_socket_t fd, short what, void *arg) {
    (void)fd;
    (void)what;
    pump(arg);
}

void http_loop_pump_dirty(struct loop_of_http *l) {
    struct daemon_of_http *d;
    TAILQ_FOREACH (d, &l->daemons, link)
        if (d->is_dirty)
            pump(d);
}

static void on_pause_over(void *arg) {
    http_loop_pump_dirty(arg);
}

static void daemon_free(struct daemon_of_http *d) {
    TAILQ_REMOVE(&d->loop->daemons, d, link);
    event_free(d->io);
    event_free(d->timer);
    MHD_stop_daemon(d->mhd); /* the connections that are left end in here */
    free(d);
}

static void end_retired(struct loop_of_http *l) {
    struct daemon_of_http *d, *next;
    for (d = TAILQ_FIRST(&l->daemons); d != NULL; d = next) {
        next = TAILQ_NEXT(d, link);
        if (d->is_retired && d->connections == 0)
            daemon_free(d);
    }
}

void http_loop_tell_drained(struct loop_of_http *l) {
    if (l->drained == NULL || http_loop_is_any_open(l))
        return;
    struct note *note = l->drained;
    l->drained = NULL;
    mailbox_send(l->http->front, note);
}

/* When it finds no descriptor the library accepts nobody until one of its connections has ended,
 * however many there are by then, and looks only when something happens. Clients that stay would
 * keep everybody out: a connection that ends at once takes that back. */
static void let_in(struct daemon_of_http *d) {
    if (d->is_retired)
        return;
    struct pollfd waiting = {
        .fd = MHD_get_daemon_info(d->mhd, MHD_DAEMON_INFO_LISTEN_FD)->listen_fd, .events = POLLIN};
    bool is_stuck = d->accepts == d->accepts_seen && poll(&waiting, 1, 0) == 1 &&
                    (waiting.revents & POLLIN) != 0;
    d->accepts_seen = d->accepts;
    d->waiting_ticks = is_stuck ? d->waiting_ticks + 1 : 0;
    if (d->waiting_ticks < WAITING_TICKS ||
        atomic_load(&d->loop->http->connections) >= d->loop->limits.connections_max)
        return;
    d->waiting_ticks = 0;
    struct sockaddr_in nobody = {.sin_family = AF_INET};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd >= 0) /* the library closes it, also when it does not take it */
        (void)MHD_add_connection(d->mhd, fd, (const struct sockaddr *)&nobody, sizeof(nobody));
}

static void on_step(evutil_socket_t fd, short what, void *arg) {
    struct loop_of_http *l = arg;
    const struct timeval soon = {.tv_usec = STEP_MS * 1000};
    (void)fd;
    (void)what;
    if (http_loop_look_on(l))
        (void)event_add(l->step, &soon); /* no memory: the next tick goes on */
    http_loop_pump_dirty(l);
}

void http_loop_look_after(struct loop_of_http *l) {
    http_loop_look_anew(l);
    on_step(-1, 0, l);
}

static void on_tick(evutil_socket_t fd, short what, void *arg) {
    struct loop_of_http *l = arg;
    (void)fd;
    (void)what;
    http_loop_look_after(l);
    waits_tick(l->waits, clock_mono_ms());
    struct daemon_of_http *d;
    TAILQ_FOREACH (d, &l->daemons, link) {
        let_in(d);
        d->is_dirty = true;
    }
    http_loop_pump_dirty(l);
    end_retired(l);
    http_loop_tell_drained(l);
    if (l->is_stopping && !http_loop_is_any_at_work(l))
        event_base_loopbreak(l->base);
}

static void on_notes(evutil_socket_t fd, short what, void *arg) {
    struct loop_of_http *l = arg;
    (void)fd;
    (void)what;
    mailbox_run(l->box, NOTES_PER_TURN);
    http_loop_pump_dirty(l);
}

void http_loop_main(void *arg) {
    struct loop_of_http *l = arg;
    event_base_dispatch(l->base);
    struct daemon_of_http *d;
    while ((d = TAILQ_FIRST(&l->daemons)) != NULL)
        daemon_free(d);
}

/* ---- daemons ---- */

__attribute__((format(printf, 2, 0))) static void on_log(void *cls, const char *fmt, va_list ap) {
    char text[256];
    (void)cls;
    int n = vsnprintf(text, sizeof(text), fmt, ap);
    if (n < 0)
        return;
    log_debug("api", "libmicrohttpd", LOG_STR("text", str_trim(str_of(text))));
}

static struct MHD_Daemon *start_mhd(struct daemon_of_http *d, int fd, const struct tls_pem *tls) {
    struct MHD_OptionItem options[8];
    size_t n = 0;
    unsigned flags = MHD_USE_EPOLL | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ERROR_LOG;
    if (tls->cert != NULL && d->kind == HTTP_API) {
        flags |= MHD_USE_TLS;
        options[n++] =
            (struct MHD_OptionItem){MHD_OPTION_HTTPS_MEM_CERT, 0, (void *)(uintptr_t)tls->cert};
        options[n++] =
            (struct MHD_OptionItem){MHD_OPTION_HTTPS_MEM_KEY, 0, (void *)(uintptr_t)tls->key};
        options[n++] = (struct MHD_OptionItem){
            MHD_OPTION_HTTPS_PRIORITIES, 0,
            (void *)(uintptr_t) "NORMAL:-VERS-ALL:+VERS-TLS1.3:+VERS-TLS1.2"};
    }
#if MHD_VERSION >= 0x00097701
    options[n++] = (struct MHD_OptionItem){MHD_OPTION_CLIENT_DISCIPLINE_LVL, 3, NULL};
#else
    options[n++] = (struct MHD_OptionItem){MHD_OPTION_STRICT_FOR_CLIENT, 1, NULL};
#endif
    options[n++] = (struct MHD_OptionItem){MHD_OPTION_END, 0, NULL};
    /* http_on_accept() refuses: at a limit of its own the library looks at the listener no more,
     * until something else wakes it */
    return MHD_start_daemon(
        flags, 0, http_on_accept, d, http_on_request, d, MHD_OPTION_EXTERNAL_LOGGER, on_log, NULL,
        MHD_OPTION_LISTEN_SOCKET, fd, MHD_OPTION_URI_LOG_CALLBACK, http_on_request_line, d,
        MHD_OPTION_NOTIFY_COMPLETED, http_on_completed, d, MHD_OPTION_NOTIFY_CONNECTION,
        http_on_connection, d, MHD_OPTION_CONNECTION_LIMIT,
        (unsigned)LIMIT_CONNECTIONS + LIMIT_OTHER_CONNECTIONS, MHD_OPTION_CONNECTION_MEMORY_LIMIT,
        (size_t)LIMIT_HTTP_HEADER_BYTES + LIMIT_HTTP_ANSWER_HEADER, MHD_OPTION_CONNECTION_TIMEOUT,
        0U, MHD_OPTION_ARRAY, options, MHD_OPTION_END);
}

static bool is_same_socket(int a, int b) {
    struct stat x, y;
    return fstat(a, &x) == 0 && fstat(b, &y) == 0 && x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

/* When it does not start, the library has closed its socket in some cases (a certificate that it
 * does not take) and not in others. Closing it again would take a descriptor from another thread;
 * one at a time, so that none of them has a socket of the same listener under this number. */
static struct MHD_Daemon *start_with(struct daemon_of_http *d, const struct tls_pem *tls) {
    static pthread_mutex_t mu = PTHREAD_MUTEX_INITIALIZER;
    int listening = d->loop->http->listener[d->listener].fd;
    struct MHD_Daemon *mhd = NULL;
    pthread_mutex_lock(&mu);
    int fd = fcntl(listening, F_DUPFD_CLOEXEC, 0);
    if (fd >= 0)
        mhd = start_mhd(d, fd, tls);
    if (mhd == NULL && fd >= 0 && is_same_socket(fd, listening))
        close(fd);
    pthread_mutex_unlock(&mu);
    return mhd;
}

struct daemon_of_http *daemon_new(struct loop_of_http *l, size_t listener,
                                  const struct tls_pem *tls) {
    struct daemon_of_http *d = mem_zalloc(sizeof(*d));
    d->loop = l;
    d->kind = l->http->listener[listener].kind;
    d->listener = listener;
    d->mhd = start_with(d, tls);
    if (d->mhd == NULL) {
        free(d);
        return NULL;
    }
    int epoll_fd = MHD_get_daemon_info(d->mhd, MHD_DAEMON_INFO_EPOLL_FD)->epoll_fd;
    d->io = event_new(l->base, epoll_fd, EV_READ | EV_PERSIST, on_daemon_event, d);
    d->timer = event_new(l->base, -1, 0, on_daemon_event, d);
    NEED(d->io != NULL && d->timer != NULL && event_add(d->io, NULL) == 0);
    TAILQ_INSERT_TAIL(&l->daemons, d, link);
    return d;
}

void daemon_retire(struct daemon_of_http *d) {
    if (d->is_retired)
        return;
    d->is_retired = true;
    int fd = MHD_quiesce_daemon(d->mhd);
    if (fd >= 0)
        close(fd);
    pump(d);
}

/* ---- life ---- */

void http_loop_free(struct loop_of_http **lp) {
    struct loop_of_http *l = *lp;
    struct daemon_of_http *d;
    if (l == NULL)
        return;
    while ((d = TAILQ_FIRST(&l->daemons)) != NULL) /* of a start that failed */
        daemon_free(d);
    event_free(l->box_event);
    event_free(l->tick);
    event_free(l->step);
    mailbox_free(&l->box);
    waits_free(&l->waits);
    pauses_free(&l->pauses);
    arena_free(&l->scratch);
    event_base_free(l->base);
    MHD_destroy_response(l->response_short);
    free(l);
    *lp = NULL;
}

struct loop_of_http *http_loop_new(struct http *h, const struct http_limits *limits) {
    struct loop_of_http *l = mem_zalloc(sizeof(*l));
    l->http = h;
    l->limits = *limits;
    TAILQ_INIT(&l->daemons);
    TAILQ_INIT(&l->connections);
    l->base = event_base_new();
    NEED(l->base != NULL);
    l->response_short = http_response_short_new();
    l->box = mailbox_new();
    l->waits = waits_new(h->env->store, l->box);
    l->pauses = pauses_new(l->base, on_pause_over, l);
    l->scratch = arena_new();
    l->box_event = event_new(l->base, mailbox_fd(l->box), EV_READ | EV_PERSIST, on_notes, l);
    l->tick = event_new(l->base, -1, EV_PERSIST, on_tick, l);
    l->step = event_new(l->base, -1, 0, on_step, l);
    const struct timeval every = {.tv_usec = TICK_MS * 1000};
    NEED(l->box_event != NULL && l->tick != NULL && l->step != NULL);
    NEED(event_add(l->box_event, NULL) == 0 && event_add(l->tick, &every) == 0);
    return l;
}
