#include "server/net/httpc_state.h"

#include "server/base/clock.h"
#include "server/base/limits.h"

enum { GRACE_MS = 50, PARALLEL_MAX = 64 };

static void begin(struct transfer *t);

/* ---- the end of a transfer ---------------------------------------------------------------------
 */

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

void httpc_finish(struct transfer *t, enum failure failure, const char *text) {
    struct httpc *h = t->h;
    t->res.failure = failure;
    t->res.failure_text = str_of(failure == FAILURE_NONE ? "" : text);
    t->res.body = buf_str(&t->body);
    t->res.is_truncated = t->is_truncated;
    t->res.took_ms = t->start_mono_ms ? clock_mono_ms() - t->start_mono_ms : 0;
    if (failure != FAILURE_NONE)
        t->res.status = 0;
    httpc_curl_leave(t);
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

/* A process that was stopped finds the time over and the answer come, both at once: it is read
 * first.
 */
static void timed_out(void *arg) {
    struct transfer *t = arg;
    if (!t->had_grace && !t->is_short) {
        t->had_grace = true;
        timer_set(t->timeout, GRACE_MS);
        return;
    }
    if (t->easy)
        httpc_curl_note_address(t);
    if (t->is_short)
        httpc_finish(t, FAILURE_LOCAL, "no memory for a transfer");
    else if (t->names_open > 0)
        httpc_finish(t, FAILURE_DNS_TEMPORARY, "timeout while the name was resolved");
    else if (!httpc_curl_is_connected(t))
        httpc_finish(t, FAILURE_CONNECT_TIMEOUT, "timeout while connecting");
    else
        httpc_finish(t, FAILURE_TIMEOUT, "no complete answer in time");
}

/* ---- names -------------------------------------------------------------------------------------
 */

static void take_addresses(struct transfer *t, const struct dns_query *q) {
    for (size_t i = 0; i < q->count; i++) {
        if (t->addr_count == HTTPC_ADDRESSES_MAX) {
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
    dns_keep_first_name(&t->a.q, &t->aaaa.q);
    take_addresses(t, &t->a.q);
    take_addresses(t, &t->aaaa.q);
    if (t->a.q.count + t->aaaa.q.count > HTTPC_ADDRESSES_MAX) {
        httpc_finish(t, FAILURE_CONNECT_FORBIDDEN, "the name has more than 16 addresses");
    } else if (t->is_denied) {
        httpc_finish(t, FAILURE_CONNECT_FORBIDDEN,
                     "the name has an address that is not a public one");
    } else if (t->addr_count == 0) {
        enum failure why = worse(t->a.q.failure, t->aaaa.q.failure);
        httpc_finish(t, why, failure_text(why));
    } else {
        httpc_curl_begin(t);
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
        httpc_finish(t, t->early, t->text);
        return;
    }
    timer_set(t->timeout, t->r.timeout_ms);
    if (t->url.is_literal) {
        if (sockaddr_parse(t->url.host, t->url.port, &t->addr[0]) == OK)
            t->addr_count = 1;
        ASSERT(t->addr_count == 1);
        httpc_curl_begin(t);
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

static void set_ca_file(struct httpc *h, const char *path) {
    free(h->ca_file);
    h->ca_file = path ? str_dupz(str_of(path)) : NULL;
}

struct httpc *httpc_new(const struct httpc_options *o) {
    struct httpc *h = mem_zalloc(sizeof *h);
    h->loop = o->loop;
    h->dns = dns_ref(o->dns);
    h->guard = o->guard;
    set_ca_file(h, o->ca_file);
    h->parallel_max = o->parallel_max > 0 ? o->parallel_max : PARALLEL_MAX;
    TAILQ_INIT(&h->transfers);
    TAILQ_INIT(&h->waiting);
    h->timer = timer_new(h->loop, httpc_curl_timer, h);
    h->starter = timer_new(h->loop, start_waiting, h);
    httpc_curl_open(h);
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
        httpc_finish(t, FAILURE_SHUTDOWN, "shutting down");
    ASSERT(TAILQ_EMPTY(&h->waiting));
    httpc_curl_close(h);
    timer_free(&h->timer);
    timer_free(&h->starter);
    dns_unref(&h->dns);
    free(h->ca_file);
    free(h);
}

void httpc_set(struct httpc *h, const struct guard *g, const char *ca_file) {
    h->guard = g;
    set_ca_file(h, ca_file);
}
