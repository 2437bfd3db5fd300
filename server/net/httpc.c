#include "server/net/httpc.h"

#include <curl/curl.h>
#include <errno.h>
#include <event2/event.h>
#include <pthread.h>
#include <sys/queue.h>
#include <unistd.h>

#include "server/base/buf.h"
#include "server/base/clock.h"
#include "server/base/limits.h"

#ifndef POSTCHUTE_VERSION
#define POSTCHUTE_VERSION "0"
#endif

enum {
    PARALLEL_MAX = 64,
    ADDRESSES_MAX = 16, /* of one name that are checked; a name with more is refused */
    TRIES_MAX = 3,
    HEADER_BYTES_MAX = 64 * 1024
};
#define YEAR_S (365 * 24 * 3600)

/* Thread: owner loop. */
struct httpc {
    struct loop *loop;
    struct dns *dns;
    const struct guard *guard;
    char *ca_file;
    size_t parallel_max, running;
    CURLM *multi;
    struct timer *timer;   /* curl's */
    struct timer *starter; /* begins what waits, from the loop */
    TAILQ_HEAD(transfers, transfer) transfers, waiting;
};

struct name_query {
    struct dns_query q;
    struct transfer *t;
};

/* One request:  waiting -> (names asked) -> (curl runs, an address at a time) -> done, freed.
 * A transfer whose client is gone (`h` NULL) waits only for its dns answers. */
struct transfer {
    TAILQ_ENTRY(transfer) link;
    struct httpc *h;
    struct loop *loop;
    struct arena *arena;
    struct httpc_request r; /* strings in the arena; the body is the caller's */
    void (*done)(void *arg, const struct httpc_result *res);
    void *arg;
    struct url url;
    struct loop_hold hold;
    bool is_running; /* counted in h->running */
    struct timer *timeout;
    int64_t start_mono_ms;
    enum failure early; /* found inside httpc_send */
    struct name_query a, aaaa;
    int names_open;
    struct sockaddr_any addr[ADDRESSES_MAX];
    size_t addr_count, addr_at;
    CURL *easy; /* NULL: not with curl */
    struct curl_slist *headers, *connect_to;
    char error[CURL_ERROR_SIZE];
    struct buf body;
    size_t header_bytes;
    bool is_truncated, is_denied;
    struct httpc_result res;
    char text[320];
};

static void begin(struct transfer *t);
static void connect_next(struct transfer *t);

/* ---- the end of a transfer ---------------------------------------------------------------------
 */

static void leave_curl(struct transfer *t) {
    if (t->easy) {
        if (t->h)
            curl_multi_remove_handle(t->h->multi, t->easy);
        curl_easy_cleanup(t->easy);
    }
    t->easy = NULL;
    curl_slist_free_all(t->headers);
    curl_slist_free_all(t->connect_to);
    t->headers = t->connect_to = NULL;
}

static void free_transfer(struct transfer *t) {
    dns_query_release(&t->a.q);
    dns_query_release(&t->aaaa.q);
    buf_release(&t->body);
    arena_free(&t->arena);
    free(t);
}

static void start_waiting(void *arg) {
    struct httpc *h = arg;
    while (h->running < h->parallel_max && !TAILQ_EMPTY(&h->waiting)) {
        struct transfer *t = TAILQ_FIRST(&h->waiting);
        TAILQ_REMOVE(&h->waiting, t, link);
        TAILQ_INSERT_TAIL(&h->transfers, t, link);
        begin(t);
    }
}

/* Tells the owner and lets go. From the loop, never from inside httpc_send. */
static void finish(struct transfer *t, enum failure failure, const char *text) {
    struct httpc *h = t->h;
    t->res.failure = failure;
    t->res.failure_text = str_of(failure == FAILURE_NONE ? "" : text);
    t->res.body = buf_str(&t->body);
    t->res.is_truncated = t->is_truncated;
    t->res.took_ms = t->start_mono_ms ? clock_mono_ms() - t->start_mono_ms : 0;
    if (failure != FAILURE_NONE)
        t->res.status = 0;
    leave_curl(t);
    timer_free(&t->timeout);
    TAILQ_REMOVE(&h->transfers, t, link);
    h->running -= t->is_running;
    t->h = NULL;
    t->done(t->arg, &t->res);
    if (t->names_open == 0)
        free_transfer(t);
    if (!TAILQ_EMPTY(&h->waiting))
        timer_set(h->starter, 0);
}

static void note_address(struct transfer *t) {
    char *ip = NULL;
    long port = 0;
    struct sockaddr_any peer;
    curl_easy_getinfo(t->easy, CURLINFO_PRIMARY_IP, &ip);
    curl_easy_getinfo(t->easy, CURLINFO_PRIMARY_PORT, &port);
    if (ip && sockaddr_parse(str_of(ip), (uint16_t)port, &peer) == OK)
        sockaddr_print(&peer, t->res.address);
}

static void timed_out(void *arg) {
    struct transfer *t = arg;
    curl_off_t connected_us = 0;
    if (t->easy) { /* a reused connection has no time of connecting, but one of being ready */
        curl_easy_getinfo(t->easy, CURLINFO_PRETRANSFER_TIME_T, &connected_us);
        note_address(t);
    }
    if (t->names_open > 0)
        finish(t, FAILURE_DNS_TEMPORARY, "timeout while the name was resolved");
    else if (connected_us == 0)
        finish(t, FAILURE_CONNECT_TIMEOUT, "timeout while connecting");
    else
        finish(t, FAILURE_TIMEOUT, "no complete answer in time");
}

/* ---- what curl asks ----------------------------------------------------------------------------
 */

/* The last door: only the address that was checked, and only if it still may be. */
static curl_socket_t open_socket(void *arg, curlsocktype purpose, struct curl_sockaddr *to) {
    struct transfer *t = arg;
    struct sockaddr_any a = {.len = to->addrlen};
    bool fits = purpose == CURLSOCKTYPE_IPCXN && to->addrlen <= sizeof a.ss;
    if (fits)
        memcpy(&a.ss, &to->addr, to->addrlen);
    if (!fits || !t->h || !guard_allows(t->h->guard, &a) ||
        !sockaddr_equal(&a, &t->addr[t->addr_at])) {
        t->is_denied = true;
        return CURL_SOCKET_BAD;
    }
    return socket(to->family, to->socktype | SOCK_NONBLOCK | SOCK_CLOEXEC, to->protocol);
}

static size_t take_body(char *p, size_t size, size_t n, void *arg) {
    struct transfer *t = arg;
    size_t room = t->body.max - t->body.n, all = size * n;
    buf_put(&t->body, str_make(p, all < room ? all : room));
    t->is_truncated = all > room;
    return t->is_truncated ? 0 : all; /* 0 ends the transfer; what came is kept */
}

static size_t take_header(char *p, size_t size, size_t n, void *arg) {
    (void)p;
    struct transfer *t = arg;
    t->header_bytes += size * n;
    return t->header_bytes > HEADER_BYTES_MAX ? 0 : size * n;
}

int64_t httpc_retry_after_ms(const char *text, int64_t now_wall_ms) {
    const int64_t most_ms = (int64_t)YEAR_S * 1000;
    struct str value = str_trim(str_of(text));
    uint64_t seconds;
    bool is_number = value.n > 0;
    for (size_t i = 0; i < value.n; i++)
        is_number = is_number && ascii_is_digit(value.p[i]);
    if (is_number)
        return str_parse_u64(value, YEAR_S, &seconds) == OK ? (int64_t)seconds * 1000 : most_ms;
    time_t date = curl_getdate(text, NULL);
    if (date < 0)
        return -1;
    /* in seconds first: a year may have ten digits, and its milliseconds do not fit */
    int64_t now_s = now_wall_ms / 1000;
    if ((int64_t)date > now_s + YEAR_S)
        return most_ms;
    int64_t delay_ms = (int64_t)date * 1000 - now_wall_ms;
    return delay_ms < 0 ? 0 : delay_ms < most_ms ? delay_ms : most_ms;
}

static int64_t retry_after(CURL *easy) {
    struct curl_header *h;
    if (curl_easy_header(easy, "Retry-After", 0, CURLH_HEADER, -1, &h) != CURLHE_OK)
        return -1;
    return httpc_retry_after_ms(h->value, clock_wall_ms());
}

static enum failure failure_of_connect(const struct transfer *t) {
    long error = 0;
    if (t->is_denied)
        return FAILURE_CONNECT_FORBIDDEN;
    curl_easy_getinfo(t->easy, CURLINFO_OS_ERRNO, &error);
    switch (error) {
    case ECONNREFUSED:
        return FAILURE_CONNECT_REFUSED;
    case ETIMEDOUT:
        return FAILURE_CONNECT_TIMEOUT;
    case EMFILE:
    case ENFILE:
        return FAILURE_LOCAL;
    default:
        return FAILURE_CONNECT_UNREACHABLE;
    }
}

static enum failure failure_of_certificate(CURL *easy) {
    /* OpenSSL's numbers, for which the header would be on the wrong side of its fence */
    enum {
        VERIFY_OK = 0,
        UNSPECIFIED = 1,
        NOT_YET_VALID = 9,
        HAS_EXPIRED = 10,
        HOST = 62,
        IP = 64
    };
    long result = 0;
    curl_easy_getinfo(easy, CURLINFO_SSL_VERIFYRESULT, &result);
    switch (result) {
    case VERIFY_OK:   /* OpenSSL found nothing: it is the name, which curl looks at itself, ... */
    case UNSPECIFIED: /* ... before it asks OpenSSL for its result */
    case HOST:
    case IP:
        return FAILURE_TLS_NAME;
    case NOT_YET_VALID:
    case HAS_EXPIRED:
        return FAILURE_TLS_EXPIRED;
    default:
        return FAILURE_TLS_UNTRUSTED;
    }
}

static enum failure failure_of(const struct transfer *t, CURLcode code) {
    switch (code) {
    case CURLE_OK:
        return FAILURE_NONE;
    case CURLE_COULDNT_CONNECT:
        return failure_of_connect(t);
    case CURLE_OPERATION_TIMEDOUT:
        return FAILURE_CONNECT_TIMEOUT;
    case CURLE_PEER_FAILED_VERIFICATION:
        return failure_of_certificate(t->easy);
    case CURLE_SSL_CONNECT_ERROR:
        return FAILURE_TLS_HANDSHAKE;
    case CURLE_GOT_NOTHING:
    case CURLE_SEND_ERROR:
    case CURLE_RECV_ERROR:
    case CURLE_PARTIAL_FILE:
        return FAILURE_CLOSED;
    case CURLE_OUT_OF_MEMORY:
    case CURLE_SSL_CACERT_BADFILE:
    case CURLE_FAILED_INIT:
        return FAILURE_LOCAL;
    default:
        return FAILURE_PROTOCOL;
    }
}

static void curl_finished(struct transfer *t, CURLcode code) {
    long status = 0;
    curl_easy_getinfo(t->easy, CURLINFO_RESPONSE_CODE, &status);
    note_address(t);
    if (code == CURLE_WRITE_ERROR && t->is_truncated)
        code = CURLE_OK; /* the status is what counts */
    enum failure failure = failure_of(t, code);
    if (failure == FAILURE_NONE && (status < 200 || status > 599))
        failure = FAILURE_PROTOCOL;
    t->res.status = (int)status;
    t->res.retry_after_ms = failure == FAILURE_NONE ? retry_after(t->easy) : -1;
    bool may_try_next = code == CURLE_COULDNT_CONNECT || code == CURLE_OPERATION_TIMEDOUT;
    if (may_try_next && t->addr_at + 1 < t->addr_count && t->addr_at + 1 < TRIES_MAX) {
        leave_curl(t);
        t->addr_at++;
        connect_next(t);
        return;
    }
    snprintf(t->text, sizeof t->text, "%s", t->error[0] ? t->error : curl_easy_strerror(code));
    finish(t, failure, t->text);
}

static void collect_finished(struct httpc *h) {
    CURLMsg *m;
    int left;
    while ((m = curl_multi_info_read(h->multi, &left)) != NULL) {
        struct transfer *t;
        CURLcode code = m->data.result;
        if (m->msg != CURLMSG_DONE)
            continue;
        curl_easy_getinfo(m->easy_handle, CURLINFO_PRIVATE, (char **)&t);
        curl_finished(t, code);
    }
}

static void socket_ready(evutil_socket_t fd, short what, void *arg) {
    struct httpc *h = arg;
    int running,
        bits = (what & EV_READ ? CURL_CSELECT_IN : 0) | (what & EV_WRITE ? CURL_CSELECT_OUT : 0);
    curl_multi_socket_action(h->multi, fd, bits, &running);
    collect_finished(h);
}

static int watch_socket(CURL *easy, curl_socket_t fd, int what, void *arg, void *socket_arg) {
    (void)easy;
    struct httpc *h = arg;
    struct event *e = socket_arg;
    if (e)
        event_free(e); /* libevent cannot change what an event waits for */
    e = NULL;
    if (what != CURL_POLL_REMOVE) {
        short bits = (short)((what & CURL_POLL_IN ? EV_READ : 0) |
                             (what & CURL_POLL_OUT ? EV_WRITE : 0) | EV_PERSIST);
        e = event_new(loop_base(h->loop), fd, bits, socket_ready, h);
        ASSERT(e && event_add(e, NULL) == 0);
    }
    curl_multi_assign(h->multi, fd, e);
    return 0;
}

static void curl_timer(void *arg) {
    struct httpc *h = arg;
    int running;
    curl_multi_socket_action(h->multi, CURL_SOCKET_TIMEOUT, 0, &running);
    collect_finished(h);
}

static int set_curl_timer(CURLM *multi, long ms, void *arg) {
    (void)multi;
    struct httpc *h = arg;
    if (ms < 0)
        timer_cancel(h->timer);
    else
        timer_set(h->timer, ms);
    return 0;
}

/* ---- a request for curl ------------------------------------------------------------------------
 */

static void set_headers(struct transfer *t) {
    bool has_agent = false;
    for (size_t i = 0; t->r.headers && t->r.headers[i]; i++) {
        t->headers = curl_slist_append(t->headers, t->r.headers[i]);
        has_agent |= str_starts_with_nocase(str_of(t->r.headers[i]), STR("User-Agent:"));
    }
    t->headers = curl_slist_append(t->headers, "Expect:"); /* no pause before the body */
    if (!has_agent)
        curl_easy_setopt(t->easy, CURLOPT_USERAGENT, "postchute/" POSTCHUTE_VERSION);
    curl_easy_setopt(t->easy, CURLOPT_HTTPHEADER, t->headers);
}

static void set_target(struct transfer *t) {
    struct sockaddr_any host;
    char pin[SOCKADDR_TEXT_SIZE + 4], address[SOCKADDR_TEXT_SIZE];
    bool v6 =
        t->url.is_literal && sockaddr_parse(t->url.host, 0, &host) == OK && sockaddr_is_ipv6(&host);
    struct str url = arena_printf(
        t->arena, "%s://%s%.*s%s:%u%.*s", t->url.is_https ? "https" : "http", v6 ? "[" : "",
        STR_ARG(t->url.host), v6 ? "]" : "", (unsigned)t->url.port, STR_ARG(t->url.path_query));
    sockaddr_print(&t->addr[t->addr_at], address);
    snprintf(pin, sizeof pin, "::%s", address); /* for every host and port: there */
    t->connect_to = curl_slist_append(NULL, pin);
    curl_easy_setopt(t->easy, CURLOPT_URL, url.p);
    curl_easy_setopt(t->easy, CURLOPT_PATH_AS_IS, 1L);
    curl_easy_setopt(t->easy, CURLOPT_CONNECT_TO, t->connect_to);
    curl_easy_setopt(t->easy, CURLOPT_OPENSOCKETFUNCTION, open_socket);
    curl_easy_setopt(t->easy, CURLOPT_OPENSOCKETDATA, t);
    curl_easy_setopt(t->easy, CURLOPT_PROTOCOLS_STR, t->url.is_https ? "https" : "http");
    curl_easy_setopt(t->easy, CURLOPT_FOLLOWLOCATION, 0L);
    curl_easy_setopt(t->easy, CURLOPT_PROXY, "");
    curl_easy_setopt(t->easy, CURLOPT_NOPROXY, "*");
    curl_easy_setopt(t->easy, CURLOPT_NETRC, (long)CURL_NETRC_IGNORED);
}

static void set_tls(struct transfer *t) {
    curl_easy_setopt(t->easy, CURLOPT_SSLVERSION, (long)CURL_SSLVERSION_TLSv1_2);
    curl_easy_setopt(t->easy, CURLOPT_SSL_VERIFYPEER, 1L);
    curl_easy_setopt(t->easy, CURLOPT_SSL_VERIFYHOST, 2L);
    if (t->h->ca_file) {
        curl_easy_setopt(t->easy, CURLOPT_CAINFO, t->h->ca_file);
        curl_easy_setopt(t->easy, CURLOPT_CAPATH, NULL);
    }
}

static void set_method(struct transfer *t) {
    if (strcmp(t->r.method, "GET") == 0) {
        curl_easy_setopt(t->easy, CURLOPT_HTTPGET, 1L);
        return;
    }
    curl_easy_setopt(t->easy, CURLOPT_POST, 1L);
    curl_easy_setopt(t->easy, CURLOPT_POSTFIELDS, t->r.body.p ? t->r.body.p : "");
    curl_easy_setopt(t->easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)t->r.body.n);
    if (strcmp(t->r.method, "POST") != 0)
        curl_easy_setopt(t->easy, CURLOPT_CUSTOMREQUEST, t->r.method);
}

/* A share of the time for each address that is left, so that a silent one is not the end. */
static long connect_timeout_ms(const struct transfer *t) {
    size_t last = t->addr_count < TRIES_MAX ? t->addr_count : TRIES_MAX;
    int64_t left = t->r.timeout_ms - (clock_mono_ms() - t->start_mono_ms);
    int64_t share = left / (int64_t)(last - t->addr_at);
    return share > 1 ? (long)share : 1;
}

static void connect_next(struct transfer *t) {
    buf_clear(&t->body);
    t->error[0] = 0;
    t->easy = curl_easy_init();
    if (!t->easy) {
        finish(t, FAILURE_LOCAL, "no memory for a transfer");
        return;
    }
    curl_easy_setopt(t->easy, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(t->easy, CURLOPT_PRIVATE, (char *)t);
    curl_easy_setopt(t->easy, CURLOPT_ERRORBUFFER, t->error);
    curl_easy_setopt(t->easy, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
    curl_easy_setopt(t->easy, CURLOPT_CONNECTTIMEOUT_MS, connect_timeout_ms(t));
    curl_easy_setopt(t->easy, CURLOPT_MAXLIFETIME_CONN, 60L);
    curl_easy_setopt(t->easy, CURLOPT_WRITEFUNCTION, take_body);
    curl_easy_setopt(t->easy, CURLOPT_WRITEDATA, t);
    curl_easy_setopt(t->easy, CURLOPT_HEADERFUNCTION, take_header);
    curl_easy_setopt(t->easy, CURLOPT_HEADERDATA, t);
    set_target(t);
    set_tls(t);
    set_method(t);
    set_headers(t);
    if (curl_multi_add_handle(t->h->multi, t->easy) != CURLM_OK)
        finish(t, FAILURE_LOCAL, "the HTTP client takes no more transfers");
}

/* ---- names -------------------------------------------------------------------------------------
 */

static void take_addresses(struct transfer *t, const struct dns_query *q) {
    for (size_t i = 0; i < q->count; i++) {
        if (t->addr_count == ADDRESSES_MAX) {
            t->is_denied = true;
            return;
        }
        t->addr[t->addr_count] = q->addr[i];
        sockaddr_set_port(&t->addr[t->addr_count], t->url.port);
        t->is_denied |= !guard_allows(t->h->guard, &t->addr[t->addr_count]);
        t->addr_count++;
    }
}

static enum failure worse(enum failure a, enum failure b) {
    static const enum failure order[] = {FAILURE_SHUTDOWN, FAILURE_DNS_TEMPORARY, FAILURE_DNS_BOGUS,
                                         FAILURE_DNS_NXDOMAIN};
    for (size_t i = 0; i < sizeof order / sizeof *order; i++)
        if (a == order[i] || b == order[i])
            return order[i];
    return FAILURE_DNS_NO_ADDRESS;
}

/* An answer that comes to a loop which is gone would write into freed memory. */
static void on_stop(struct loop_hold *hold, bool at_once) {
    (void)hold;
    ASSERT(!at_once);
}

static void name_answered(struct note *n) {
    struct name_query *x =
        CONTAINER_OF(CONTAINER_OF(n, struct dns_query, note), struct name_query, q);
    struct transfer *t = x->t;
    if (--t->names_open > 0)
        return;
    loop_unhold(t->loop, &t->hold);
    if (!t->h) { /* nobody waits any more */
        free_transfer(t);
        return;
    }
    take_addresses(t, &t->a.q);
    take_addresses(t, &t->aaaa.q);
    if (t->is_denied) {
        finish(t, FAILURE_CONNECT_FORBIDDEN, "the name has an address that is not a public one");
    } else if (t->addr_count == 0) {
        enum failure why = worse(t->a.q.failure, t->aaaa.q.failure);
        finish(t, why, failure_text(why));
    } else {
        connect_next(t);
    }
}

static void prepare_name(struct transfer *t, struct name_query *x, enum dns_type type) {
    x->t = t;
    x->q = (struct dns_query){.note.run = name_answered,
                              .reply_to = loop_mailbox(t->h->loop),
                              .type = type,
                              .use_search = true};
    snprintf(x->q.name, sizeof x->q.name, "%.*s", STR_ARG(t->url.host));
    t->names_open++;
}

static void begin(struct transfer *t) {
    struct httpc *h = t->h;
    t->is_running = true;
    h->running++;
    t->start_mono_ms = clock_mono_ms();
    if (t->early != FAILURE_NONE) {
        finish(t, t->early, t->text);
        return;
    }
    timer_set(t->timeout, t->r.timeout_ms);
    if (t->url.is_literal) {
        if (sockaddr_parse(t->url.host, t->url.port, &t->addr[0]) == OK)
            t->addr_count = 1;
        ASSERT(t->addr_count == 1);
        connect_next(t);
        return;
    }
    prepare_name(t, &t->a, DNS_A);
    prepare_name(t, &t->aaaa, DNS_AAAA);
    t->hold.on_stop = on_stop;
    loop_hold(h->loop, &t->hold);
    dns_ask(h->dns, &t->a.q);
    dns_ask(h->dns, &t->aaaa.q);
}

/* ---- the owner's calls -------------------------------------------------------------------------
 */

static bool copy_headers(struct transfer *t, const char *const *headers) {
    size_t n = 0;
    while (headers && headers[n])
        n++;
    const char **copy = ARENA_ARRAY(t->arena, const char *, n + 1);
    for (size_t i = 0; i < n; i++) {
        if (str_has_control(str_of(headers[i]), true))
            return false;
        copy[i] = arena_dupz(t->arena, str_of(headers[i]));
    }
    t->r.headers = copy;
    return true;
}

void httpc_send(struct httpc *h, const struct httpc_request *r,
                void (*done)(void *arg, const struct httpc_result *res), void *arg) {
    struct errinfo info = {0};
    struct transfer *t = mem_zalloc(sizeof *t);
    ASSERT(r->timeout_ms > 0);
    t->h = h;
    t->loop = h->loop;
    t->arena = arena_new();
    t->done = done;
    t->arg = arg;
    t->r = *r;
    t->r.method = arena_dupz(t->arena, str_of(r->method));
    t->r.url = arena_dup(t->arena, r->url);
    t->res.retry_after_ms = -1;
    t->timeout = timer_new(h->loop, timed_out, t);
    buf_init(&t->body, r->response_max > 0 ? r->response_max : LIMIT_WEBHOOK_RESPONSE);
    if (guard_check_url(h->guard, t->r.url, t->arena, &t->url, &info) != OK) {
        t->early = FAILURE_CONNECT_FORBIDDEN;
        snprintf(t->text, sizeof t->text, "URL refused: %.300s", info.text);
    } else if (!copy_headers(t, r->headers)) {
        t->early = FAILURE_LOCAL;
        snprintf(t->text, sizeof t->text, "a header has control characters");
    }
    TAILQ_INSERT_TAIL(&h->waiting, t, link);
    timer_set(h->starter, 0);
}

static void init_curl(void) {
    ASSERT(curl_global_init(CURL_GLOBAL_DEFAULT) == CURLE_OK);
}

static void open_multi(struct httpc *h) {
    h->multi = curl_multi_init();
    ASSERT(h->multi != NULL);
    curl_multi_setopt(h->multi, CURLMOPT_SOCKETFUNCTION, watch_socket);
    curl_multi_setopt(h->multi, CURLMOPT_SOCKETDATA, h);
    curl_multi_setopt(h->multi, CURLMOPT_TIMERFUNCTION, set_curl_timer);
    curl_multi_setopt(h->multi, CURLMOPT_TIMERDATA, h);
    curl_multi_setopt(h->multi, CURLMOPT_MAXCONNECTS, (long)h->parallel_max);
}

struct httpc *httpc_new(const struct httpc_options *o) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, init_curl);
    struct httpc *h = mem_zalloc(sizeof *h);
    h->loop = o->loop;
    h->dns = dns_ref(o->dns);
    h->guard = o->guard;
    h->ca_file = o->ca_file ? mem_dup(o->ca_file, strlen(o->ca_file) + 1) : NULL;
    h->parallel_max = o->parallel_max > 0 ? o->parallel_max : PARALLEL_MAX;
    TAILQ_INIT(&h->transfers);
    TAILQ_INIT(&h->waiting);
    h->timer = timer_new(h->loop, curl_timer, h);
    h->starter = timer_new(h->loop, start_waiting, h);
    open_multi(h);
    return h;
}

void httpc_free(struct httpc **hp) {
    struct httpc *h = *hp;
    *hp = NULL;
    if (!h)
        return;
    h->parallel_max = 0; /* nothing begins any more */
    TAILQ_CONCAT(&h->transfers, &h->waiting, link);
    for (struct transfer *t; (t = TAILQ_FIRST(&h->transfers)) != NULL;)
        finish(t, FAILURE_SHUTDOWN, "shutting down");
    curl_multi_cleanup(h->multi);
    timer_free(&h->timer);
    timer_free(&h->starter);
    dns_unref(&h->dns);
    free(h->ca_file);
    free(h);
}

void httpc_set_guard(struct httpc *h, const struct guard *g) {
    h->guard = g;
}
