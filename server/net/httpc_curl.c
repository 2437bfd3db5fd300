#include "server/net/httpc_state.h"

#include <curl/curl.h>
#include <event2/event.h>
#include <pthread.h>
#include <unistd.h>

#include "server/base/clock.h"
#include "server/net/httpc_failure.h"
#include "server/net/tls_bound.h"

#ifndef POSTCHUTE_VERSION
#define POSTCHUTE_VERSION "0"
#endif

enum { HEADER_BYTES_MAX = 64 * 1024, CA_CACHE_S = 60 };
#define YEAR_S (365 * 24 * 3600)

_Static_assert(sizeof(((struct transfer *)0)->error) >= CURL_ERROR_SIZE, "as libcurl wants it");

void httpc_curl_note_address(struct transfer *t) {
    char *ip = NULL;
    long port = 0;
    struct sockaddr_any peer;
    curl_easy_getinfo(t->easy, CURLINFO_PRIMARY_IP, &ip);
    curl_easy_getinfo(t->easy, CURLINFO_PRIMARY_PORT, &port);
    if (ip && sockaddr_parse(str_of(ip), (uint16_t)port, &peer) == OK)
        sockaddr_print(&peer, t->res.address);
}

bool httpc_curl_is_connected(const struct transfer *t) {
    return t->easy && httpc_failure_of(t->easy, CURLE_OPERATION_TIMEDOUT) == FAILURE_TIMEOUT;
}

void httpc_curl_leave(struct transfer *t) {
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

/* libcurl keeps a connection also when a request could not be sent on it (7.88), and what waits
 * in it half sent goes out in the place of the next request, whose answer it gets. So none is kept
 * before a final answer came. */
static bool keep_connection(struct transfer *t, bool keeps) {
    return curl_easy_setopt(t->easy, CURLOPT_FORBID_REUSE, keeps ? 0L : 1L) == CURLE_OK;
}

static bool is_final(struct transfer *t) {
    long status = 0;
    curl_easy_getinfo(t->easy, CURLINFO_RESPONSE_CODE, &status);
    return status >= 200;
}

/* A line at a time; after an interim answer comes another header, after a body perhaps a trailer.
 */
static size_t take_header(char *p, size_t size, size_t n, void *arg) {
    struct transfer *t = arg;
    struct str line = str_make(p, size * n);
    t->header_bytes += line.n;
    if (str_starts_with(line, STR("HTTP/")))
        t->is_header_whole = false;
    else if (str_equal(line, STR("\r\n")) || str_equal(line, STR("\n")))
        t->is_header_whole = keep_connection(t, is_final(t));
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

static void curl_finished(struct transfer *t, CURLcode code) {
    long status = 0;
    curl_easy_getinfo(t->easy, CURLINFO_RESPONSE_CODE, &status);
    httpc_curl_note_address(t);
    if (code == CURLE_WRITE_ERROR && t->is_truncated)
        code = CURLE_OK; /* the status is what counts */
    enum failure failure = httpc_failure_of(t->easy, (int)code);
    if (t->is_denied && code == CURLE_COULDNT_CONNECT)
        failure = FAILURE_CONNECT_FORBIDDEN;
    if (failure == FAILURE_NONE && !t->is_header_whole)
        failure = FAILURE_CLOSED; /* curl takes what there is */
    bool is_odd = failure == FAILURE_NONE && (status < 200 || status > 599);
    if (is_odd)
        failure = FAILURE_PROTOCOL;
    t->res.status = (int)status;
    t->res.retry_after_ms = failure == FAILURE_NONE ? retry_after(t->easy) : -1;
    bool may_try_next = code == CURLE_COULDNT_CONNECT || code == CURLE_OPERATION_TIMEDOUT;
    if (may_try_next && t->addr_at + 1 < t->addr_count && t->addr_at + 1 < HTTPC_TRIES_MAX) {
        httpc_curl_leave(t);
        t->addr_at++;
        httpc_curl_begin(t);
        return;
    }
    snprintf(t->text, sizeof t->text, "%s",
             is_odd             ? "a status that is no answer"
             : code == CURLE_OK ? failure_text(failure)
             : t->error[0]      ? t->error
                                : curl_easy_strerror(code));
    httpc_finish(t, failure, t->text);
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

static void drive(struct httpc *h, curl_socket_t fd, int bits) {
    int running;
    /* A socket that it has no memory to keep account of it keeps by halves, and divides by zero
     * when it comes back to it (7.88). */
    NEED(curl_multi_socket_action(h->multi, fd, bits, &running) != CURLM_OUT_OF_MEMORY);
    collect_finished(h);
}

static void socket_ready(evutil_socket_t fd, short what, void *arg) {
    struct httpc *h = arg;
    int bits = (what & EV_READ ? CURL_CSELECT_IN : 0) | (what & EV_WRITE ? CURL_CSELECT_OUT : 0);
    drive(h, fd, bits);
}

static int watch_socket(CURL *easy, curl_socket_t fd, int what, void *arg, void *socket_arg) {
    struct httpc *h = arg;
    struct event *e = socket_arg;
    if (e)
        event_free(e); /* libevent cannot change what an event waits for */
    e = NULL;
    if (what != CURL_POLL_REMOVE) {
        short bits = (short)((what & CURL_POLL_IN ? EV_READ : 0) |
                             (what & CURL_POLL_OUT ? EV_WRITE : 0) | EV_PERSIST);
        e = event_new(loop_base(h->loop), fd, bits, socket_ready, h);
        NEED(e);
        if (event_add(e, NULL) != 0) {
            /* libcurl would end all of its transfers if it were told here */
            struct transfer *t = NULL;
            curl_easy_getinfo(easy, CURLINFO_PRIVATE, (char **)&t);
            if (t) { /* else it is a kept connection, which ends by itself */
                t->is_short = true;
                timer_set(t->timeout, 0);
            }
        }
    }
    curl_multi_assign(h->multi, fd, e);
    return 0;
}

void httpc_curl_timer(void *arg) {
    struct httpc *h = arg;
    drive(h, CURL_SOCKET_TIMEOUT, 0);
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

/* What libcurl has no memory for it does without: a header, the address to go to, no proxy. A
 * transfer that lacks something is not begun. */
#define SET(t, option, value)                                                                      \
    ((t)->is_short |= curl_easy_setopt((t)->easy, option, value) != CURLE_OK)

static void append(struct transfer *t, struct curl_slist **list, const char *text) {
    struct curl_slist *longer = curl_slist_append(*list, text);
    if (longer)
        *list = longer;
    else
        t->is_short = true;
}

static void set_headers(struct transfer *t) {
    bool has_agent = false;
    for (size_t i = 0; t->r.headers && t->r.headers[i]; i++) {
        append(t, &t->headers, t->r.headers[i]);
        has_agent |= str_starts_with_nocase(str_of(t->r.headers[i]), STR("User-Agent:"));
    }
    append(t, &t->headers, "Expect:"); /* no pause before the body */
    if (!has_agent)
        SET(t, CURLOPT_USERAGENT, "postchute/" POSTCHUTE_VERSION);
    SET(t, CURLOPT_HTTPHEADER, t->headers);
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
    append(t, &t->connect_to, pin);
    SET(t, CURLOPT_URL, url.p);
    SET(t, CURLOPT_PATH_AS_IS, 1L);
    SET(t, CURLOPT_CONNECT_TO, t->connect_to);
    SET(t, CURLOPT_OPENSOCKETFUNCTION, open_socket);
    SET(t, CURLOPT_OPENSOCKETDATA, t);
    SET(t, CURLOPT_PROTOCOLS_STR, t->url.is_https ? "https" : "http");
    SET(t, CURLOPT_FOLLOWLOCATION, 0L);
    SET(t, CURLOPT_PROXY, "");
    SET(t, CURLOPT_NOPROXY, "*");
    SET(t, CURLOPT_NETRC, (long)CURL_NETRC_IGNORED);
}

static CURLcode bound_tls(CURL *easy, void *ssl_ctx, void *arg) {
    (void)easy, (void)arg;
    tls_bound(ssl_ctx);
    return CURLE_OK;
}

static void set_tls(struct transfer *t) {
    SET(t, CURLOPT_SSL_CTX_FUNCTION, bound_tls);
    SET(t, CURLOPT_SSLVERSION, (long)CURL_SSLVERSION_TLSv1_2);
    SET(t, CURLOPT_SSL_VERIFYPEER, 1L);
    SET(t, CURLOPT_SSL_VERIFYHOST, 2L);
    if (t->h->ca_file) {
        SET(t, CURLOPT_CAINFO, t->h->ca_file);
        SET(t, CURLOPT_CAPATH, NULL);
    }
#if LIBCURL_VERSION_NUM >=                                                                         \
    0x075700 /* 7.87.0 keeps them for a day, whatever the file says by then */
    SET(t, CURLOPT_CA_CACHE_TIMEOUT, (long)CA_CACHE_S);
#endif
}

static void set_method(struct transfer *t) {
    if (strcmp(t->r.method, "GET") == 0) {
        SET(t, CURLOPT_HTTPGET, 1L);
        return;
    }
    SET(t, CURLOPT_POST, 1L);
    SET(t, CURLOPT_POSTFIELDS, t->r.body.p ? t->r.body.p : "");
    SET(t, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)t->r.body.n);
    if (strcmp(t->r.method, "POST") != 0)
        SET(t, CURLOPT_CUSTOMREQUEST, t->r.method);
}

/* A share of the time for each address that is left, so that a silent one is not the end. */
static long connect_timeout_ms(const struct transfer *t) {
    size_t last = t->addr_count < HTTPC_TRIES_MAX ? t->addr_count : HTTPC_TRIES_MAX;
    int64_t left = t->r.timeout_ms - (clock_mono_ms() - t->start_mono_ms);
    int64_t share = left / (int64_t)(last - t->addr_at);
    return share > 1 ? (long)share : 1;
}

void httpc_curl_begin(struct transfer *t) {
    buf_clear(&t->body);
    t->is_header_whole = false;
    t->error[0] = 0;
    t->is_short = false;
    t->easy = curl_easy_init();
    if (!t->easy) {
        httpc_finish(t, FAILURE_LOCAL, "no memory for a transfer");
        return;
    }
    SET(t, CURLOPT_NOSIGNAL, 1L);
    SET(t, CURLOPT_PRIVATE, (char *)t);
    SET(t, CURLOPT_ERRORBUFFER, t->error);
    SET(t, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
    SET(t, CURLOPT_CONNECTTIMEOUT_MS, connect_timeout_ms(t));
    SET(t, CURLOPT_MAXLIFETIME_CONN, 60L);
    SET(t, CURLOPT_WRITEFUNCTION, take_body);
    SET(t, CURLOPT_WRITEDATA, t);
    SET(t, CURLOPT_HEADERFUNCTION, take_header);
    SET(t, CURLOPT_HEADERDATA, t);
    t->is_short |= !keep_connection(t, false);
    set_target(t);
    set_tls(t);
    set_method(t);
    set_headers(t);
    if (t->is_short)
        httpc_finish(t, FAILURE_LOCAL, "no memory for a transfer");
    else if (curl_multi_add_handle(t->h->multi, t->easy) != CURLM_OK)
        httpc_finish(t, FAILURE_LOCAL, "the HTTP client takes no more transfers");
}

/* ---- the client ---------------------------------------------------------------------------------
 */

static void init_curl(void) {
    NEED(curl_global_init(CURL_GLOBAL_DEFAULT) == CURLE_OK);
}

void httpc_curl_open(struct httpc *h) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, init_curl);
    h->multi = curl_multi_init();
    NEED(h->multi != NULL);
    curl_multi_setopt(h->multi, CURLMOPT_SOCKETFUNCTION, watch_socket);
    curl_multi_setopt(h->multi, CURLMOPT_SOCKETDATA, h);
    curl_multi_setopt(h->multi, CURLMOPT_TIMERFUNCTION, set_curl_timer);
    curl_multi_setopt(h->multi, CURLMOPT_TIMERDATA, h);
    curl_multi_setopt(h->multi, CURLMOPT_MAXCONNECTS, (long)h->parallel_max);
}

void httpc_curl_close(struct httpc *h) {
    curl_multi_cleanup(h->multi);
}
