#include "api/http.h"

#include <errno.h>
#include <event2/event.h>
#include <fcntl.h>
#include <microhttpd.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdarg.h>
#include <sys/ioctl.h>
#include <sys/queue.h>
#include <sys/socket.h>
#include <unistd.h>
#include <uthash.h>

#include "api/wait.h"
#include "server/base/clock.h"
#include "server/base/limits.h"
#include "server/base/log.h"
#include "server/base/metrics.h"
#include "server/base/thread.h"

enum {
    TICK_MS = 250,
    NOTES_PER_TURN = 256,
    /* What is read of a body that was refused, so that the client gets to read why: closing on
     * unread bytes would reset the connection. */
    DISCARD_MAX = 8 * 1024 * 1024,
    REPLY_TIMEOUT_MS = 30 * 1000,
    HEADER_FIELDS = 128,
};

/* ---- what there is ---- */

/* How many connections an address has. IPv6 counts by /64, which is what one host gets. */
struct peer {
    uint8_t key[16];
    size_t count;
    UT_hash_handle hh;
};

/* Thread: any (locks inside). */
struct http {
    struct env *env;
    struct http_listener *listener;
    size_t listener_count;
    struct loop_of_http **loop;
    size_t loop_count;
    struct mailbox *front;     /* of the thread that starts and stops */
    atomic_size_t connections; /* of HTTP_API: filling the health listener shuts nobody out */
    struct {
        pthread_mutex_t mu;
        struct peer *peers;
    } shared;
};

/* Thread: its own, but for the mailbox. */
struct loop_of_http {
    struct http *http;
    struct thread *thread;
    struct event_base *base;
    struct mailbox *box;
    struct waits *waits;
    struct event *box_event, *tick;
    struct http_limits limits;
    TAILQ_HEAD(, daemon_of_http) daemons;
    TAILQ_HEAD(, connection) connections;
    bool is_draining, is_stopping;
    struct note *drained; /* to be sent to the front when nothing is open; NULL: nobody waits */
};

/* One daemon of the library. Thread: owner loop. */
struct daemon_of_http {
    TAILQ_ENTRY(daemon_of_http) link;
    struct loop_of_http *loop;
    enum http_kind kind;
    size_t listener; /* index */
    struct MHD_Daemon *mhd;
    struct event *io, *timer;
    size_t connections;
    bool is_dirty;   /* something of it was resumed */
    bool is_retired; /* accepts no more; ends with its last connection */
};

enum phase {
    PHASE_HEADER,  /* from the connection's start, or from the request line of a later request */
    PHASE_BODY,    /* admitted; the body comes */
    PHASE_DISCARD, /* refused; the rest of the body is thrown away */
    PHASE_WORK,    /* with its handler; suspended */
    PHASE_REPLY,   /* the answer goes out */
    PHASE_IDLE,    /* between two requests */
};

/* Thread: owner loop. */
struct connection {
    TAILQ_ENTRY(connection) link;
    struct daemon_of_http *daemon;
    struct MHD_Connection *mhd;
    int fd;
    bool has_peer;
    uint8_t peer[16];
    enum phase phase;
    int64_t phase_mono_ms;    /* when it began */
    int64_t deadline_mono_ms; /* 0: none */
    size_t received_bytes;    /* of the body */
    struct request *request;
};

static struct {
    struct metric *requests, *connections, *refused, *body_bytes, *duration, *timeouts;
} metric;

static void register_metrics(void) {
    static const char *const classes[] = {"1xx", "2xx", "3xx", "4xx", "5xx"};
    static const double bounds[] = {0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 30};
    metric.requests = metric_counter_labelled("postchute_http_requests_total", "Requests answered.",
                                              "status", classes, 5);
    metric.connections = metric_gauge("postchute_http_connections", "Connections open now.");
    metric.refused = metric_counter("postchute_http_connections_refused_total",
                                    "Connections refused at a limit.");
    metric.timeouts = metric_counter("postchute_http_timeouts_total",
                                     "Connections closed because the client was too slow.");
    metric.body_bytes =
        metric_gauge("postchute_http_body_bytes", "Bytes of request bodies held now, as charged.");
    metric.duration = metric_histogram("postchute_http_request_seconds",
                                       "From the request line to the end of the answer.", bounds,
                                       sizeof(bounds) / sizeof(bounds[0]));
}

static void enter(struct connection *c, enum phase phase, int64_t timeout_ms) {
    c->phase = phase;
    c->phase_mono_ms = clock_mono_ms();
    c->deadline_mono_ms = timeout_ms > 0 ? c->phase_mono_ms + timeout_ms : 0;
}

/* ---- peers ---- */

static bool peer_key(const struct sockaddr *sa, uint8_t key[16]) {
    memset(key, 0, 16);
    if (sa->sa_family == AF_INET) {
        key[10] = key[11] = 0xff;
        memcpy(key + 12, &((const struct sockaddr_in *)(const void *)sa)->sin_addr, 4);
        return true;
    }
    if (sa->sa_family != AF_INET6)
        return false;
    const struct in6_addr *a = &((const struct sockaddr_in6 *)(const void *)sa)->sin6_addr;
    memcpy(key, a, IN6_IS_ADDR_V4MAPPED(a) ? 16 : 8);
    return true;
}

static size_t peer_count(struct http *h, const uint8_t key[16]) {
    struct peer *p;
    pthread_mutex_lock(&h->shared.mu);
    HASH_FIND(hh, h->shared.peers, key, 16, p);
    size_t n = p != NULL ? p->count : 0;
    pthread_mutex_unlock(&h->shared.mu);
    return n;
}

static void peer_enter(struct http *h, const uint8_t key[16]) {
    struct peer *p;
    pthread_mutex_lock(&h->shared.mu);
    HASH_FIND(hh, h->shared.peers, key, 16, p);
    if (p == NULL) {
        p = mem_zalloc(sizeof(*p));
        memcpy(p->key, key, 16);
        HASH_ADD(hh, h->shared.peers, key, 16, p);
    }
    p->count++;
    pthread_mutex_unlock(&h->shared.mu);
}

static void peer_leave(struct http *h, const uint8_t key[16]) {
    struct peer *p;
    pthread_mutex_lock(&h->shared.mu);
    HASH_FIND(hh, h->shared.peers, key, 16, p);
    ASSERT(p != NULL);
    if (--p->count == 0) {
        HASH_DEL(h->shared.peers, p);
        free(p);
    }
    pthread_mutex_unlock(&h->shared.mu);
}

/* ---- connections ---- */

/* The administrator and the supervisor get in when clients have filled the house. */
static enum MHD_Result on_accept(void *cls, const struct sockaddr *sa, socklen_t size) {
    struct daemon_of_http *d = cls;
    struct http *h = d->loop->http;
    uint8_t key[16];
    (void)size;
    if (d->kind != HTTP_API)
        return MHD_YES;
    if (atomic_load(&h->connections) < d->loop->limits.connections_max &&
        !(peer_key(sa, key) && peer_count(h, key) >= d->loop->limits.connections_per_ip_max))
        return MHD_YES;
    metric_add(metric.refused, 1);
    return MHD_NO;
}

static void connection_begin(struct daemon_of_http *d, struct MHD_Connection *mhd, void **ctx) {
    struct connection *c = mem_zalloc(sizeof(*c));
    c->daemon = d;
    c->mhd = mhd;
    c->fd = MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_CONNECTION_FD)->connect_fd;
    const struct sockaddr *sa =
        MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_CLIENT_ADDRESS)->client_addr;
    c->has_peer = d->kind == HTTP_API && sa != NULL && peer_key(sa, c->peer);
    if (c->has_peer)
        peer_enter(d->loop->http, c->peer);
    enter(c, PHASE_HEADER, d->loop->limits.header_timeout_ms);
    TAILQ_INSERT_TAIL(&d->loop->connections, c, link);
    d->connections++;
    if (d->kind == HTTP_API)
        atomic_fetch_add(&d->loop->http->connections, 1);
    metric_add(metric.connections, 1);
    *ctx = c;
}

static void connection_end(struct connection *c, void **ctx) {
    struct daemon_of_http *d = c->daemon;
    if (c->has_peer)
        peer_leave(d->loop->http, c->peer);
    request_free(&c->request);
    TAILQ_REMOVE(&d->loop->connections, c, link);
    d->connections--;
    if (d->kind == HTTP_API)
        atomic_fetch_sub(&d->loop->http->connections, 1);
    metric_add(metric.connections, -1);
    free(c);
    *ctx = NULL;
}

static void on_connection(void *cls, struct MHD_Connection *mhd, void **ctx,
                          enum MHD_ConnectionNotificationCode what) {
    if (what == MHD_CONNECTION_NOTIFY_STARTED)
        connection_begin(cls, mhd, ctx);
    else if (*ctx != NULL)
        connection_end(*ctx, ctx);
}

static struct connection *connection_of(struct MHD_Connection *mhd) {
    return MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_SOCKET_CONTEXT)->socket_context;
}

/* ---- the answer ---- */

/* The library sends from memory that the request keeps until it is told that all is sent. */
static struct MHD_Response *make_response(struct http_reply *reply) {
    struct str bytes = buf_str(&reply->body);
    if (reply->message != NULL) {
        struct message_pieces pieces = message_bytes(reply->message);
        bytes = pieces.piece[1];
        if (pieces.piece[0].n > 0) {
            buf_put(&reply->body, pieces.piece[0]);
            buf_put(&reply->body, pieces.piece[1]);
            bytes = buf_str(&reply->body);
        }
    } else if (!str_is_absent(reply->fixed)) {
        bytes = reply->fixed;
    }
    ASSERT(buf_status(&reply->body) == OK);
    void *p = (void *)(uintptr_t)bytes.p; /* the library only reads it */
    struct MHD_Response *response =
        MHD_create_response_from_buffer(bytes.n, p, MHD_RESPMEM_PERSISTENT);
    ASSERT(response != NULL);
    return response;
}

static void add_header(struct MHD_Response *response, const char *name, struct str value) {
    char *z = str_dupz(value);
    ASSERT(MHD_add_response_header(response, name, z) == MHD_YES);
    free(z);
}

static enum MHD_Result send_reply(struct connection *c) {
    struct request *r = c->request;
    struct http_reply *reply = &r->reply;
    char id[ID_TEXT_SIZE];
    struct MHD_Response *response = make_response(reply);
    id_print(&r->id, id);
    add_header(response, "X-Request-Id", str_of(id));
    add_header(response, "Cache-Control", STR("no-store"));
    add_header(response, "X-Content-Type-Options", STR("nosniff"));
    if (reply->content_type != NULL)
        add_header(response, "Content-Type", str_of(reply->content_type));
    for (size_t i = 0; i < reply->header_count; i++)
        add_header(response, reply->header[i].name, reply->header[i].value);
    if (reply->must_close || c->daemon->loop->is_draining)
        add_header(response, "Connection", STR("close"));
    size_t rate = c->daemon->loop->limits.body_rate_min;
    enter(c, PHASE_REPLY, REPLY_TIMEOUT_MS + (int64_t)(http_reply_size(reply) / (rate / 1000 + 1)));
    metric_add_at(metric.requests, (size_t)(reply->status / 100 - 1), 1);
    enum MHD_Result result = MHD_queue_response(c->mhd, (unsigned)reply->status, response);
    MHD_destroy_response(response);
    return result;
}

/* From request_finish(), when the connection waits for it. */
static void on_finished(struct request *r) {
    struct connection *c = r->connection;
    ASSERT(c->phase == PHASE_WORK);
    c->daemon->is_dirty = true;
    MHD_resume_connection(c->mhd);
}

/* ---- the request ---- */

static void *on_request_line(void *cls, const char *target, struct MHD_Connection *mhd) {
    struct daemon_of_http *d = cls;
    struct connection *c = connection_of(mhd);
    struct request *r = request_new(d->loop->http->env, d->loop->box, str_of(target));
    r->is_control = d->kind == HTTP_CONTROL;
    r->view = (struct route_view){
        .has_sandbox = r->env->is_sandbox,
        .is_development = r->env->is_development,
        .has_health = d->kind != HTTP_API || !r->env->has_health_listener,
        .has_others = d->kind != HTTP_HEALTH,
    };
    r->waits = d->loop->waits;
    r->connection = c;
    c->request = r;
    c->received_bytes = 0;
    if (c->phase == PHASE_IDLE) /* the first header's time runs since the connection began */
        enter(c, PHASE_HEADER, d->loop->limits.header_timeout_ms);
    return r;
}

struct header_copy {
    struct request *request;
    bool is_too_many, is_folded;
};

/* Library versions before 0.9.77 append a folded line to the field's NAME ("Content-Length: 5" and
 * " 6" become the field "Content-Length6", "Content-Len: 5" and " gth" a field that counts),
 * without a word. Otherwise name and value stay where they were received: the name, a NUL in the
 * colon's place, blanks, the value. Folding moves one of the two. */
static bool is_as_received(const char *name, size_t name_size, const char *value) {
#if MHD_VERSION >= 0x00097701
    (void)name, (void)name_size, (void)value;
    return true; /* refuses folding itself */
#else
    uintptr_t end = (uintptr_t)name + name_size, begin = (uintptr_t)value;
    if (begin <= end || begin - end > LIMIT_HTTP_HEADER_BYTES)
        return false;
    for (const char *p = name + name_size + 1; p < value; p++)
        if (*p != ' ' && *p != '\t')
            return false;
    return true;
#endif
}

static enum MHD_Result copy_header(void *cls, enum MHD_ValueKind kind, const char *name,
                                   size_t name_size, const char *value, size_t value_size) {
    struct header_copy *copy = cls;
    struct request *r = copy->request;
    (void)kind;
    if (r->header_count == HEADER_FIELDS) {
        copy->is_too_many = true;
        return MHD_NO;
    }
    if (!is_as_received(name, name_size, value)) {
        copy->is_folded = true;
        return MHD_NO;
    }
    r->header[r->header_count++] = (struct request_field){
        .name = arena_dup(r->arena, str_make(name, name_size)),
        .value = arena_dup(r->arena, str_make(value != NULL ? value : "", value_size)),
    };
    return MHD_YES;
}

static bool read_header(struct request *r, struct MHD_Connection *mhd) {
    struct header_copy copy = {.request = r};
    r->header = ARENA_ARRAY(r->arena, struct request_field, HEADER_FIELDS);
    MHD_get_connection_values_n(mhd, MHD_HEADER_KIND, copy_header, &copy);
    if (!copy.is_too_many && !copy.is_folded)
        return true;
    if (copy.is_folded)
        request_problem(r, PROBLEM_INVALID_REQUEST, "a header field is folded");
    else
        request_problem(r, PROBLEM_HEADERS_TOO_LARGE, "at most %d header fields",
                        (int)HEADER_FIELDS);
    r->reply.must_close = true;
    return false;
}

/* Is it worth reading what is left of the body, so that the client listens? */
static bool should_discard(const struct request *r) {
    uint64_t length = 0;
    struct str text = request_header(r, STR("Content-Length"));
    if (!str_is_absent(request_header(r, STR("Expect"))))
        return false; /* it asks before it sends */
    return str_is_absent(text) ||
           (str_parse_u64(text, INT64_MAX, &length) == OK && length <= DISCARD_MAX);
}

static enum MHD_Result on_header(struct connection *c, const char *method, const char *version) {
    struct request *r = c->request;
    const struct http_limits *limits = &c->daemon->loop->limits;
    r->method = arena_dup(r->arena, str_of(method));
    r->version = arena_dup(r->arena, str_of(version));
    if (!read_header(r, c->mhd) || !request_check_framing(r) || !request_parse_target(r)) {
        r->is_finished = true;
        return send_reply(c); /* nothing that follows can be trusted to be a body */
    }
    if (request_admit(r, &limits->request)) {
        enter(c, PHASE_BODY, limits->body_timeout_ms);
        return MHD_YES;
    }
    r->is_finished = true;
    if (!should_discard(r))
        return send_reply(c);
    enter(c, PHASE_DISCARD, limits->body_timeout_ms);
    return MHD_YES;
}

/* The body has the timeout, and on top of it the time that what has come took at the least rate. */
static void extend_deadline(struct connection *c, size_t n) {
    const struct http_limits *limits = &c->daemon->loop->limits;
    c->received_bytes += n;
    c->deadline_mono_ms = c->phase_mono_ms + limits->body_timeout_ms +
                          (int64_t)(c->received_bytes / (limits->body_rate_min / 1000 + 1));
}

static enum MHD_Result on_piece(struct connection *c, struct str piece) {
    struct request *r = c->request;
    extend_deadline(c, piece.n);
    if (c->phase == PHASE_DISCARD)
        return c->received_bytes <= DISCARD_MAX + r->body_max_bytes ? MHD_YES : MHD_NO;
    if (request_add_body(r, piece, &c->daemon->loop->limits.request) == OK)
        return MHD_YES;
    r->is_finished = true;
    request_drop_body(r);
    c->phase = PHASE_DISCARD;
    return MHD_YES;
}

static enum MHD_Result on_complete(struct connection *c) {
    struct request *r = c->request;
    if (!r->is_finished && c->received_bytes > 0)
        r->is_finished = !request_is_still_allowed(r);
    if (r->is_finished)
        return send_reply(c);
    c->phase = PHASE_WORK;
    c->deadline_mono_ms = 0;
    r->route->handle(r);
    if (r->is_finished)
        return send_reply(c);
    r->wake = on_finished;
    MHD_suspend_connection(c->mhd);
    return MHD_YES;
}

static enum MHD_Result on_request(void *cls, struct MHD_Connection *mhd, const char *url,
                                  const char *method, const char *version, const char *upload,
                                  size_t *upload_size, void **ctx) {
    struct request *r = *ctx;
    (void)cls;
    (void)url;
    (void)mhd;
    ASSERT(r != NULL);
    struct connection *c = r->connection;
    switch (c->phase) {
    case PHASE_HEADER:
        return on_header(c, method, version);
    case PHASE_BODY:
    case PHASE_DISCARD:
        if (*upload_size == 0)
            return on_complete(c);
        size_t n = *upload_size;
        *upload_size = 0;
        return on_piece(c, str_make(upload, n));
    case PHASE_WORK:
        ASSERT(r->is_finished);
        return send_reply(c);
    case PHASE_REPLY:
    case PHASE_IDLE:
        break;
    }
    return MHD_NO;
}

static void log_request(const struct request *r) {
    log_debug("api", "answered", LOG_ID("request", &r->id), LOG_STR("method", r->method),
              LOG_STR("path", r->path), LOG_INT("status", r->reply.status),
              LOG_INT("us", clock_mono_us() - r->started_mono_us));
}

static void on_completed(void *cls, struct MHD_Connection *mhd, void **ctx,
                         enum MHD_RequestTerminationCode how) {
    struct daemon_of_http *d = cls;
    struct connection *c = connection_of(mhd);
    (void)how;
    *ctx = NULL;
    if (c == NULL || c->request == NULL)
        return;
    metric_observe_us(metric.duration, clock_mono_us() - c->request->started_mono_us);
    log_request(c->request);
    request_free(&c->request);
    metric_set(metric.body_bytes, (int64_t)atomic_load(&d->loop->http->env->body_bytes));
    enter(c, PHASE_IDLE, d->loop->limits.idle_timeout_ms);
}

/* ---- the loop ---- */

static void pump(struct daemon_of_http *d) {
    unsigned long long ms;
    d->is_dirty = false;
    MHD_run(d->mhd);
    if (MHD_get_timeout(d->mhd, &ms) == MHD_YES) {
        struct timeval in = {.tv_sec = (time_t)(ms / 1000),
                             .tv_usec = (suseconds_t)(ms % 1000 * 1000)};
        event_add(d->timer, &in);
    } else {
        event_del(d->timer);
    }
}

static void on_daemon_event(evutil_socket_t fd, short what, void *arg) {
    (void)fd;
    (void)what;
    pump(arg);
}

static void pump_dirty(struct loop_of_http *l) {
    struct daemon_of_http *d;
    TAILQ_FOREACH (d, &l->daemons, link)
        if (d->is_dirty)
            pump(d);
}

static bool is_open(const struct connection *c) {
    return c->phase == PHASE_BODY || c->phase == PHASE_WORK || c->phase == PHASE_REPLY;
}

static bool is_any_open(const struct loop_of_http *l) {
    const struct connection *c;
    TAILQ_FOREACH (c, &l->connections, link)
        if (is_open(c) && c->daemon->kind != HTTP_HEALTH)
            return true;
    return false;
}

static bool is_any_at_work(const struct loop_of_http *l) {
    const struct connection *c;
    TAILQ_FOREACH (c, &l->connections, link)
        if (c->phase == PHASE_WORK)
            return true;
    return false;
}

/* Told to the library as if the client had gone; it closes the connection. */
static void cut(struct connection *c) {
    c->deadline_mono_ms = 0;
    shutdown(c->fd, SHUT_RDWR);
}

static bool has_gone(const struct connection *c) {
    struct pollfd p = {.fd = c->fd, .events = POLLRDHUP};
    return poll(&p, 1, 0) > 0 && (p.revents & (POLLRDHUP | POLLHUP | POLLERR)) != 0;
}

/* An end that comes in one segment with what stands before it is one event of epoll, after which
 * the library reads what it wants and sleeps: the connection, and the memory set aside for its
 * body, would stay until the deadline, which for a large body is far away. */
static bool will_never_be_complete(const struct connection *c) {
    int unread = 0;
    if (c->phase == PHASE_WORK || c->phase == PHASE_REPLY)
        return false; /* it may have said all it had to say, and listens */
    return has_gone(c) && ioctl(c->fd, FIONREAD, &unread) == 0 && unread == 0;
}

/* Only slow clients and waiting requests are looked after here; nothing else needs a tick. */
static void look_after(struct loop_of_http *l) {
    int64_t now_mono_ms = clock_mono_ms();
    struct connection *c, *next;
    for (c = TAILQ_FIRST(&l->connections); c != NULL; c = next) {
        next = TAILQ_NEXT(c, link);
        if (c->deadline_mono_ms != 0 && c->deadline_mono_ms <= now_mono_ms) {
            if (c->phase != PHASE_IDLE)
                metric_add(metric.timeouts, 1);
            cut(c);
        } else if (c->phase == PHASE_WORK && c->request->hurry != NULL &&
                   (l->is_draining || has_gone(c))) {
            c->request->hurry(c->request);
        } else if (c->deadline_mono_ms != 0 && will_never_be_complete(c)) {
            cut(c);
        } else if (c->phase == PHASE_IDLE && l->is_draining && c->daemon->kind != HTTP_HEALTH) {
            cut(c);
        }
    }
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

static void tell_drained(struct loop_of_http *l) {
    if (l->drained == NULL || is_any_open(l))
        return;
    struct note *note = l->drained;
    l->drained = NULL;
    mailbox_send(l->http->front, note);
}

static void on_tick(evutil_socket_t fd, short what, void *arg) {
    struct loop_of_http *l = arg;
    (void)fd;
    (void)what;
    look_after(l);
    waits_tick(l->waits, clock_mono_ms());
    pump_dirty(l);
    end_retired(l);
    tell_drained(l);
    if (l->is_stopping && !is_any_at_work(l))
        event_base_loopbreak(l->base);
}

static void on_notes(evutil_socket_t fd, short what, void *arg) {
    struct loop_of_http *l = arg;
    (void)fd;
    (void)what;
    mailbox_run(l->box, NOTES_PER_TURN);
    pump_dirty(l);
}

static void loop_main(void *arg) {
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

struct tls_pem {
    const char *cert, *key;
};

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
    return MHD_start_daemon(
        flags, 0, on_accept, d, on_request, d, MHD_OPTION_EXTERNAL_LOGGER, on_log, NULL,
        MHD_OPTION_LISTEN_SOCKET, fd, MHD_OPTION_URI_LOG_CALLBACK, on_request_line, d,
        MHD_OPTION_NOTIFY_COMPLETED, on_completed, d, MHD_OPTION_NOTIFY_CONNECTION, on_connection,
        d, MHD_OPTION_CONNECTION_LIMIT, (unsigned)d->loop->limits.connections_max,
        MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)LIMIT_HTTP_HEADER_BYTES,
        MHD_OPTION_CONNECTION_TIMEOUT, 0U, MHD_OPTION_ARRAY, options, MHD_OPTION_END);
}

/* Thread: the loop's, or before it runs. NULL: the library does not take the certificate. */
static struct daemon_of_http *daemon_new(struct loop_of_http *l, size_t listener,
                                         const struct tls_pem *tls) {
    int fd = fcntl(l->http->listener[listener].fd, F_DUPFD_CLOEXEC, 0);
    if (fd < 0)
        return NULL;
    struct daemon_of_http *d = mem_zalloc(sizeof(*d));
    d->loop = l;
    d->kind = l->http->listener[listener].kind;
    d->listener = listener;
    d->mhd = start_mhd(d, fd, tls);
    if (d->mhd == NULL) {
        close(fd);
        free(d);
        return NULL;
    }
    int epoll_fd = MHD_get_daemon_info(d->mhd, MHD_DAEMON_INFO_EPOLL_FD)->epoll_fd;
    d->io = event_new(l->base, epoll_fd, EV_READ | EV_PERSIST, on_daemon_event, d);
    d->timer = event_new(l->base, -1, 0, on_daemon_event, d);
    ASSERT(d->io != NULL && d->timer != NULL && event_add(d->io, NULL) == 0);
    TAILQ_INSERT_TAIL(&l->daemons, d, link);
    return d;
}

static void daemon_retire(struct daemon_of_http *d) {
    if (d->is_retired)
        return;
    d->is_retired = true;
    int fd = MHD_quiesce_daemon(d->mhd);
    if (fd >= 0)
        close(fd);
    pump(d);
}

/* ---- orders ---- */

/* From the front to a loop and back. Thread: whoever has it. */
struct order {
    struct note note;
    struct loop_of_http *loop;
    void (*carry_out)(struct order *o);
    struct http_limits limits;
    struct tls_pem tls;
    bool failed;
    size_t *left; /* the front's: orders that are not back */
};

static void order_is_back(struct note *note) {
    --*CONTAINER_OF(note, struct order, note)->left;
}

static void order_runs(struct note *note) {
    struct order *o = CONTAINER_OF(note, struct order, note);
    o->carry_out(o);
}

static void order_return(struct order *o) {
    o->note.run = order_is_back;
    mailbox_send(o->loop->http->front, &o->note);
}

/* To every loop; waits until all are back, or for timeout_ms (-1: for ever). true: all are back. */
static bool give_order(struct http *h, struct order *orders, const struct order *what, size_t *left,
                       int64_t timeout_ms) {
    int64_t until_mono_ms = clock_mono_ms() + timeout_ms;
    *left = h->loop_count;
    for (size_t i = 0; i < h->loop_count; i++) {
        orders[i] = *what;
        orders[i].loop = h->loop[i];
        orders[i].note.run = order_runs;
        orders[i].left = left;
        mailbox_send(h->loop[i]->box, &orders[i].note);
    }
    while (*left > 0) {
        int64_t rest = timeout_ms < 0 ? -1 : until_mono_ms - clock_mono_ms();
        if (timeout_ms >= 0 && rest <= 0)
            break;
        mailbox_wait(h->front, (int)rest);
    }
    return *left == 0;
}

static void carry_out_limits(struct order *o) {
    o->loop->limits = o->limits;
    order_return(o);
}

void http_set_limits(struct http *h, const struct http_limits *limits) {
    struct order *orders = mem_zalloc(h->loop_count * sizeof(*orders));
    size_t left;
    (void)give_order(h, orders, &(struct order){.carry_out = carry_out_limits, .limits = *limits},
                     &left, -1);
    free(orders);
}

static void carry_out_tls(struct order *o) {
    struct daemon_of_http *d, *next;
    struct loop_of_http *l = o->loop;
    for (size_t i = 0; i < l->http->listener_count && !o->failed; i++) {
        if (l->http->listener[i].kind != HTTP_API)
            continue;
        struct daemon_of_http *fresh = daemon_new(l, i, &o->tls);
        o->failed = fresh == NULL;
        for (d = TAILQ_FIRST(&l->daemons); d != NULL && !o->failed; d = next) {
            next = TAILQ_NEXT(d, link);
            if (d != fresh && d->listener == i)
                daemon_retire(d);
        }
    }
    order_return(o);
}

enum err http_set_tls(struct http *h, const char *cert, const char *key, struct errinfo *info) {
    struct order *orders = mem_zalloc(h->loop_count * sizeof(*orders));
    size_t left;
    enum err e = OK;
    (void)give_order(h, orders,
                     &(struct order){.carry_out = carry_out_tls, .tls = {.cert = cert, .key = key}},
                     &left, -1);
    for (size_t i = 0; i < h->loop_count; i++)
        if (orders[i].failed)
            e = err_set(info, ERR_INVALID, "tls_cert", "the certificate or its key is not usable");
    free(orders);
    return e;
}

static void carry_out_drain(struct order *o) {
    struct loop_of_http *l = o->loop;
    struct daemon_of_http *d;
    l->is_draining = true;
    TAILQ_FOREACH (d, &l->daemons, link)
        if (d->kind != HTTP_HEALTH)
            daemon_retire(d);
    o->note.run = order_is_back;
    l->drained = &o->note;
    look_after(l);
    pump_dirty(l);
    tell_drained(l);
}

/* A loop that did not answer in time must not answer later into memory that is gone. */
static void carry_out_forget(struct order *o) {
    o->loop->drained = NULL;
    order_return(o);
}

static void close_listeners(struct http *h) {
    for (size_t i = 0; i < h->listener_count; i++) {
        if (h->listener[i].fd >= 0 && h->listener[i].kind != HTTP_HEALTH) {
            close(h->listener[i].fd);
            h->listener[i].fd = -1;
        }
    }
}

void http_drain(struct http *h, int64_t timeout_ms) {
    struct order *orders = mem_zalloc(2 * h->loop_count * sizeof(*orders));
    size_t left, forgotten;
    close_listeners(h);
    if (!give_order(h, orders, &(struct order){.carry_out = carry_out_drain}, &left, timeout_ms)) {
        log_info("api", "requests are still open", LOG_INT("loops", left));
        (void)give_order(h, orders + h->loop_count, &(struct order){.carry_out = carry_out_forget},
                         &forgotten, -1);
        mailbox_wait(h->front, 0); /* what came back meanwhile */
    }
    free(orders);
}

static void carry_out_stop(struct order *o) {
    struct connection *c, *next;
    struct loop_of_http *l = o->loop;
    l->is_draining = l->is_stopping = true;
    for (c = TAILQ_FIRST(&l->connections); c != NULL; c = next) {
        next = TAILQ_NEXT(c, link);
        if (c->phase != PHASE_WORK)
            cut(c);
    }
    order_return(o);
}

static void loop_free(struct loop_of_http **lp) {
    struct loop_of_http *l = *lp;
    struct daemon_of_http *d;
    if (l == NULL)
        return;
    while ((d = TAILQ_FIRST(&l->daemons)) != NULL) /* of a start that failed */
        daemon_free(d);
    event_free(l->box_event);
    event_free(l->tick);
    mailbox_free(&l->box);
    waits_free(&l->waits);
    event_base_free(l->base);
    free(l);
    *lp = NULL;
}

static struct loop_of_http *loop_new(struct http *h, const struct http_limits *limits) {
    struct loop_of_http *l = mem_zalloc(sizeof(*l));
    l->http = h;
    l->limits = *limits;
    TAILQ_INIT(&l->daemons);
    TAILQ_INIT(&l->connections);
    l->base = event_base_new();
    ASSERT(l->base != NULL);
    l->box = mailbox_new();
    l->waits = waits_new(h->env->store, l->box);
    l->box_event = event_new(l->base, mailbox_fd(l->box), EV_READ | EV_PERSIST, on_notes, l);
    l->tick = event_new(l->base, -1, EV_PERSIST, on_tick, l);
    const struct timeval every = {.tv_usec = TICK_MS * 1000};
    ASSERT(l->box_event != NULL && l->tick != NULL);
    ASSERT(event_add(l->box_event, NULL) == 0 && event_add(l->tick, &every) == 0);
    return l;
}

static void http_free(struct http **hp) {
    struct http *h = *hp;
    for (size_t i = 0; i < h->loop_count; i++)
        loop_free(&h->loop[i]);
    for (size_t i = 0; i < h->listener_count; i++)
        if (h->listener[i].fd >= 0)
            close(h->listener[i].fd);
    mailbox_free(&h->front);
    pthread_mutex_destroy(&h->shared.mu);
    free(h->listener);
    free(h->loop);
    free(h);
    *hp = NULL;
}

/* Health and the control socket are served by the first loop alone. */
static enum err add_daemons(struct http *h, const struct tls_pem *tls, struct errinfo *info) {
    for (size_t i = 0; i < h->loop_count; i++)
        for (size_t k = 0; k < h->listener_count; k++)
            if ((i == 0 || h->listener[k].kind == HTTP_API) &&
                daemon_new(h->loop[i], k, tls) == NULL)
                return tls->cert != NULL
                           ? err_set(info, ERR_INVALID, "tls_cert",
                                     "the certificate or its key is not usable")
                           : err_set(info, ERR_UNAVAILABLE, "listen", "the HTTP library refused");
    return OK;
}

enum err http_start(const struct http_options *o, struct http **out, struct errinfo *info) {
    struct http *h = mem_zalloc(sizeof(*h));
    register_metrics();
    h->env = o->env;
    h->front = mailbox_new();
    ASSERT(pthread_mutex_init(&h->shared.mu, NULL) == 0);
    h->listener = mem_dup(o->listener, o->listener_count * sizeof(*o->listener));
    h->listener_count = o->listener_count;
    h->loop = mem_zalloc(o->loops * sizeof(struct loop_of_http *));
    h->loop_count = o->loops;
    for (size_t i = 0; i < o->loops; i++)
        h->loop[i] = loop_new(h, &o->limits);
    enum err e = add_daemons(h, &(struct tls_pem){.cert = o->tls_cert, .key = o->tls_key}, info);
    if (e != OK) {
        http_free(&h);
        return e;
    }
    for (size_t i = 0; i < o->loops; i++) {
        char name[16];
        snprintf(name, sizeof(name), "api-%zu", i % 1000);
        h->loop[i]->thread = thread_start(name, loop_main, h->loop[i]);
    }
    *out = h;
    return OK;
}

void http_stop(struct http **hp) {
    struct http *h = *hp;
    if (h == NULL)
        return;
    struct order *orders = mem_zalloc(h->loop_count * sizeof(*orders));
    size_t left;
    close_listeners(h);
    (void)give_order(h, orders, &(struct order){.carry_out = carry_out_stop}, &left, -1);
    for (size_t i = 0; i < h->loop_count; i++)
        thread_join(&h->loop[i]->thread);
    free(orders);
    http_free(hp);
}
