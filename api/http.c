#include "api/http.h"

#include <unistd.h>

#include "api/http_state.h"
#include "server/base/clock.h"
#include "server/base/log.h"
#include "server/net/tls.h"

/* ---- orders ---- */

/* From the front to a loop and back. Thread: whoever has it. */
struct order {
    struct note note;
    struct loop_of_http *loop;
    void (*carry_out)(struct order *o);
    struct http_limits limits;
    struct tls_pem tls;
    bool failed;
    bool is_undone;
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

/* Beside the ones that are there. */
static void carry_out_tls(struct order *o) {
    struct loop_of_http *l = o->loop;
    for (size_t i = 0; i < l->http->listener_count && !o->failed; i++) {
        if (l->http->listener[i].kind != HTTP_API)
            continue;
        struct daemon_of_http *fresh = daemon_new(l, i, &o->tls);
        o->failed = fresh == NULL;
        if (fresh != NULL)
            fresh->is_fresh = true;
    }
    order_return(o);
}

/* One of the two goes. */
static void carry_out_swap(struct order *o) {
    struct daemon_of_http *d, *next;
    for (d = TAILQ_FIRST(&o->loop->daemons); d != NULL; d = next) {
        next = TAILQ_NEXT(d, link);
        if (d->kind == HTTP_API && d->is_fresh == o->is_undone)
            daemon_retire(d);
        d->is_fresh = false;
    }
    order_return(o);
}

enum err http_set_tls(struct http *h, const char *cert, const char *key, struct errinfo *info) {
    /* the library loses memory by what it cannot read */
    enum err e = tls_pem_check(cert, key, info);
    if (e != OK)
        return e;
    struct order *orders = mem_zalloc(h->loop_count * sizeof(*orders));
    size_t left;
    (void)give_order(h, orders,
                     &(struct order){.carry_out = carry_out_tls, .tls = {.cert = cert, .key = key}},
                     &left, -1);
    for (size_t i = 0; i < h->loop_count; i++)
        if (orders[i].failed)
            e = err_set(info, ERR_INVALID, "tls_cert", "the certificate or its key is not usable");
    (void)give_order(h, orders, &(struct order){.carry_out = carry_out_swap, .is_undone = e != OK},
                     &left, -1);
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
    http_loop_look_after(l);
    http_loop_tell_drained(l);
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
            connection_cut(c);
    }
    order_return(o);
}

static void http_free(struct http **hp) {
    struct http *h = *hp;
    for (size_t i = 0; i < h->loop_count; i++)
        http_loop_free(&h->loop[i]);
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
    http_register_metrics();
    h->env = o->env;
    h->front = mailbox_new();
    NEED(pthread_mutex_init(&h->shared.mu, NULL) == 0);
    h->listener = mem_dup(o->listener, o->listener_count * sizeof(*o->listener));
    h->listener_count = o->listener_count;
    h->loop = mem_zalloc(o->loops * sizeof(struct loop_of_http *));
    h->loop_count = o->loops;
    for (size_t i = 0; i < o->loops; i++)
        h->loop[i] = http_loop_new(h, &o->limits);
    enum err e = o->tls_cert != NULL ? tls_pem_check(o->tls_cert, o->tls_key, info) : OK;
    if (e == OK)
        e = add_daemons(h, &(struct tls_pem){.cert = o->tls_cert, .key = o->tls_key}, info);
    if (e != OK) {
        http_free(&h);
        return e;
    }
    for (size_t i = 0; i < o->loops; i++) {
        char name[16];
        snprintf(name, sizeof(name), "api-%zu", i % 1000);
        h->loop[i]->thread = thread_start(name, http_loop_main, h->loop[i]);
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
