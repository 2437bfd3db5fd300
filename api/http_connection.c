#include <netinet/in.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "api/http_state.h"
#include "server/base/clock.h"
#include "server/base/limits.h"

enum {
    VISITS_MOST = 2048, /* in one look for ends, */
    LOOKS_MOST = 512,   /* of which so many are worth a look */
    STEP_MOST = 256,    /* deadlines looked at in one step */
    CUTS_MOST = 32,     /* connections cut in each of these: the library ends them all in one go */
};

struct http_metrics http_metric;

void http_register_metrics(void) {
    static const char *const classes[] = {"1xx", "2xx", "3xx", "4xx", "5xx"};
    static const double bounds[] = {0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 30};
    http_metric.requests = metric_counter_labelled("postchute_http_requests_total",
                                                   "Requests answered.", "status", classes, 5);
    http_metric.connections = metric_gauge("postchute_http_connections", "Connections open now.");
    http_metric.refused = metric_counter("postchute_http_connections_refused_total",
                                         "Connections refused at a limit.");
    http_metric.timeouts = metric_counter("postchute_http_timeouts_total",
                                          "Connections closed because the client was too slow.");
    http_metric.body_bytes =
        metric_gauge("postchute_http_body_bytes", "Bytes of request bodies held now, as charged.");
    http_metric.duration =
        metric_histogram("postchute_http_request_seconds",
                         "From the request line to the end of the answer, with what "
                         "the client waited for (Prefer: wait, a 429's pause).",
                         bounds, sizeof(bounds) / sizeof(bounds[0]));
}

void connection_enter(struct connection *c, enum phase phase, int64_t timeout_ms) {
    c->phase = phase;
    c->phase_mono_ms = clock_mono_ms();
    c->deadline_mono_ms = timeout_ms > 0 ? c->phase_mono_ms + timeout_ms : 0;
}

/* ---- peers ---- */

static bool peer_key(const struct sockaddr *sa, uint8_t key[PEER_KEY_BYTES]) {
    memset(key, 0, PEER_KEY_BYTES);
    if (sa->sa_family == AF_INET) {
        key[10] = key[11] = 0xff;
        memcpy(key + 12, &((const struct sockaddr_in *)(const void *)sa)->sin_addr, 4);
        return true;
    }
    if (sa->sa_family != AF_INET6)
        return false;
    const struct in6_addr *a = &((const struct sockaddr_in6 *)(const void *)sa)->sin6_addr;
    memcpy(key, a, IN6_IS_ADDR_V4MAPPED(a) ? PEER_KEY_BYTES : 8);
    return true;
}

static size_t peer_count(struct http *h, const uint8_t key[PEER_KEY_BYTES]) {
    pthread_mutex_lock(&h->shared.mu);
    const struct peer *p = table_find(&h->shared.peers, key, PEER_KEY_BYTES);
    size_t n = p != NULL ? p->count : 0;
    pthread_mutex_unlock(&h->shared.mu);
    return n;
}

static void peer_enter(struct http *h, const uint8_t key[PEER_KEY_BYTES]) {
    pthread_mutex_lock(&h->shared.mu);
    struct peer *p = table_find(&h->shared.peers, key, PEER_KEY_BYTES);
    if (p == NULL) {
        p = mem_zalloc(sizeof(*p));
        memcpy(p->key, key, PEER_KEY_BYTES);
        table_add(&h->shared.peers, &p->in_table, p->key, PEER_KEY_BYTES, p);
    }
    p->count++;
    pthread_mutex_unlock(&h->shared.mu);
}

static void peer_leave(struct http *h, const uint8_t key[PEER_KEY_BYTES]) {
    pthread_mutex_lock(&h->shared.mu);
    struct peer *p = table_find(&h->shared.peers, key, PEER_KEY_BYTES);
    ASSERT(p != NULL);
    if (--p->count == 0) {
        table_remove(&h->shared.peers, &p->in_table);
        free(p);
    }
    pthread_mutex_unlock(&h->shared.mu);
}

/* ---- coming and going ---- */

/* The administrator and the supervisor get in when clients have filled the house, but take no more
 * descriptors than were set aside for them. */
static bool is_room(const struct daemon_of_http *d, const struct sockaddr *sa) {
    const struct http_limits *limits = &d->loop->limits;
    struct http *h = d->loop->http;
    uint8_t key[PEER_KEY_BYTES];
    if (d->kind != HTTP_API)
        return d->connections < LIMIT_OTHER_CONNECTIONS;
    return atomic_load(&h->connections) < limits->connections_max &&
           !(peer_key(sa, key) && peer_count(h, key) >= limits->connections_per_ip_max);
}

enum MHD_Result http_on_accept(void *cls, const struct sockaddr *sa, socklen_t size) {
    struct daemon_of_http *d = cls;
    (void)size;
    d->accepts++;
    if (is_room(d, sa))
        return MHD_YES;
    metric_add(http_metric.refused, 1);
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
    connection_enter(c, PHASE_HEADER, d->loop->limits.header_timeout_ms);
    TAILQ_INSERT_TAIL(&d->loop->connections, c, link);
    d->connections++;
    if (d->kind == HTTP_API)
        atomic_fetch_add(&d->loop->http->connections, 1);
    metric_add(http_metric.connections, 1);
    *ctx = c;
}

static void connection_end(struct connection *c, void **ctx) {
    struct daemon_of_http *d = c->daemon;
    if (c->has_peer)
        peer_leave(d->loop->http, c->peer);
    request_free(&c->request);
    if (d->loop->next_look == c)
        d->loop->next_look = TAILQ_NEXT(c, link);
    TAILQ_REMOVE(&d->loop->connections, c, link);
    d->connections--;
    if (d->kind == HTTP_API)
        atomic_fetch_sub(&d->loop->http->connections, 1);
    metric_add(http_metric.connections, -1);
    free(c);
    *ctx = NULL;
}

void http_on_connection(void *cls, struct MHD_Connection *mhd, void **ctx,
                        enum MHD_ConnectionNotificationCode what) {
    if (what == MHD_CONNECTION_NOTIFY_STARTED)
        connection_begin(cls, mhd, ctx);
    else if (*ctx != NULL)
        connection_end(*ctx, ctx);
}

struct connection *http_connection_of(struct MHD_Connection *mhd) {
    return MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_SOCKET_CONTEXT)->socket_context;
}

/* ---- slow, gone and open ones ---- */

static bool is_open(const struct connection *c) {
    return c->phase == PHASE_BODY || c->phase == PHASE_WORK || c->phase == PHASE_REPLY;
}

bool http_loop_is_any_open(const struct loop_of_http *l) {
    const struct connection *c;
    TAILQ_FOREACH (c, &l->connections, link)
        if (is_open(c) && c->daemon->kind != HTTP_HEALTH)
            return true;
    return false;
}

bool http_loop_is_any_at_work(const struct loop_of_http *l) {
    const struct connection *c;
    TAILQ_FOREACH (c, &l->connections, link)
        if (c->phase == PHASE_WORK)
            return true;
    return false;
}

/* Told to the library as if the client had gone; it closes the connection. */
void connection_cut(struct connection *c) {
    c->deadline_mono_ms = 0;
    shutdown(c->fd, SHUT_RDWR);
}

/* An end that comes in one segment with what stands before it is one event of epoll, after which
 * the library reads what it wants and sleeps: the connection, and the memory set aside for its
 * body, would stay until the deadline, which for a large body is far away. */
static void end_seen(struct connection *c) {
    int unread = 0;
    if (c->phase == PHASE_WORK)
        c->request->hurry(c->request);
    else if (ioctl(c->fd, FIONREAD, &unread) == 0 && unread == 0)
        connection_cut(c); /* what it began will never be complete */
}

/* In PHASE_REPLY it may have said all it had to say, and listens. */
static bool is_worth_a_look(const struct connection *c) {
    if (c->phase == PHASE_WORK)
        return c->request->hurry != NULL;
    return c->deadline_mono_ms != 0 && c->phase != PHASE_REPLY;
}

static void to_the_end(struct loop_of_http *l, struct connection *c) {
    if (l->next_look == c)
        l->next_look = TAILQ_NEXT(c, link);
    TAILQ_REMOVE(&l->connections, c, link);
    TAILQ_INSERT_TAIL(&l->connections, c, link);
}

/* In one call, and not all of them at once when there are thousands. Who was looked at goes to the
 * end of the line. */
static void look_for_ends(struct loop_of_http *l) {
    struct pollfd p[LOOKS_MOST];
    struct connection *seen[LOOKS_MOST], *c, *last = NULL;
    nfds_t n = 0;
    size_t visits = 0, cuts = 0;
    TAILQ_FOREACH (c, &l->connections, link) {
        if (visits++ == VISITS_MOST || n == LOOKS_MOST)
            break;
        last = c;
        if (!is_worth_a_look(c))
            continue;
        seen[n] = c;
        p[n++] = (struct pollfd){.fd = c->fd, .events = POLLRDHUP};
    }
    (void)poll(p, n, 0); /* failed: nothing is known of any */
    for (nfds_t i = 0; i < n && cuts < CUTS_MOST; i++) {
        if ((p[i].revents & (POLLRDHUP | POLLHUP | POLLERR)) == 0)
            continue;
        end_seen(seen[i]);
        cuts++;
        last = cuts < CUTS_MOST ? last : seen[i];
    }
    do {
        c = TAILQ_FIRST(&l->connections);
        if (c != NULL)
            to_the_end(l, c);
    } while (c != last);
}

/* true: it was cut. */
static bool look_at(struct loop_of_http *l, struct connection *c, int64_t now_mono_ms) {
    if (c->deadline_mono_ms != 0 && c->deadline_mono_ms <= now_mono_ms) {
        if (c->phase != PHASE_IDLE)
            metric_add(http_metric.timeouts, 1);
    } else if (c->phase == PHASE_IDLE && l->is_draining && c->daemon->kind != HTTP_HEALTH) {
        /* it has nothing to lose */
    } else {
        return false;
    }
    connection_cut(c);
    return true;
}

bool http_loop_look_on(struct loop_of_http *l) {
    int64_t now_mono_ms = clock_mono_ms();
    size_t looks = 0, cuts = 0;
    while (l->next_look != NULL && looks < STEP_MOST && cuts < CUTS_MOST) {
        struct connection *c = l->next_look;
        l->next_look = TAILQ_NEXT(c, link);
        looks++;
        cuts += look_at(l, c, now_mono_ms);
    }
    return l->next_look != NULL;
}

static void hurry_all(struct loop_of_http *l) {
    struct connection *c;
    TAILQ_FOREACH (c, &l->connections, link)
        if (c->phase == PHASE_WORK && c->request->hurry != NULL)
            c->request->hurry(c->request);
}

void http_loop_look_anew(struct loop_of_http *l) {
    look_for_ends(l);
    if (l->is_draining)
        hurry_all(l);
    if (l->next_look == NULL)
        l->next_look = TAILQ_FIRST(&l->connections);
}
