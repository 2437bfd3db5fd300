#include "server/delivery/pool.h"

#include <stdio.h>
#include <stdlib.h>

#include "server/base/clock.h"
#include "server/base/table.h"

TAILQ_HEAD(conns, conn);

struct conn_bucket {
    struct conn_key key;
    struct conns idle;
    struct table_node in_table;
};

struct pool {
    struct loop *loop;
    struct table by_key;
    struct conns idle;
    size_t idle_count, idle_most;
    struct timer *timer;
};

static void idle_failed(void *ctx, const struct session_result *r);
static const struct session_events IDLE_EVENTS = {.on_failed = idle_failed};

static void expire(void *arg);

struct pool *pool_new(struct loop *l, size_t idle_most) {
    struct pool *p = mem_zalloc(sizeof(*p));
    p->loop = l;
    p->idle_most = idle_most;
    p->timer = timer_new(l, expire, p);
    TAILQ_INIT(&p->idle);
    return p;
}

void pool_free(struct pool **pp) {
    struct pool *p = *pp;
    if (p == NULL)
        return;
    pool_clear(p);
    timer_free(&p->timer);
    free(p);
    *pp = NULL;
}

static void put(struct conn_key *k, const void *p, size_t n) {
    if (n > sizeof(k->octets) - k->n)
        n = sizeof(k->octets) - k->n; /* names: the key is compared, nobody reads it */
    memcpy(k->octets + k->n, p, n);
    k->n += n;
}

static void put_address(struct conn_key *k, const struct sockaddr_any *a) {
    uint16_t port = sockaddr_port(a);
    struct str ip = sockaddr_octets(a);
    put(k, &port, sizeof(port));
    put(k, &ip.n, sizeof(ip.n));
    put(k, ip.p, ip.n);
}

void conn_key_make(struct conn_key *k, const struct session_options *o, uint64_t auth_tag) {
    k->n = 0;
    put_address(k, &o->source);
    put_address(k, &o->to);
    put(k, &o->tls, sizeof(o->tls));
    put(k, &o->tls_ctx, sizeof(o->tls_ctx));
    put(k, &auth_tag, sizeof(auth_tag));
    put(k, o->host_name, strlen(o->host_name) + 1);
    put(k, o->ehlo_name, strlen(o->ehlo_name) + 1);
}

static struct conn_bucket *bucket_find(const struct pool *p, const struct conn_key *k) {
    return table_find(&p->by_key, k->octets, k->n);
}

static struct conn_bucket *bucket_get(struct pool *p, const struct conn_key *k) {
    struct conn_bucket *b = bucket_find(p, k);
    if (b != NULL)
        return b;
    b = mem_zalloc(sizeof(*b));
    b->key = *k;
    TAILQ_INIT(&b->idle);
    table_add(&p->by_key, &b->in_table, b->key.octets, b->key.n, b);
    return b;
}

static void leave_idle(struct pool *p, struct conn *c) {
    struct conn_bucket *b = c->bucket;
    TAILQ_REMOVE(&p->idle, c, idle);
    TAILQ_REMOVE(&b->idle, c, the_same);
    p->idle_count--;
    c->is_idle = false;
    c->bucket = NULL;
    if (TAILQ_EMPTY(&b->idle)) {
        table_remove(&p->by_key, &b->in_table);
        free(b);
    }
}

static void quit(struct conn *c) {
    session_quit(&c->session);
    free(c);
}

/* The server closed an idle session, or spoke unasked. Nothing is lost. */
static void idle_failed(void *ctx, const struct session_result *r) {
    (void)r;
    struct conn *c = ctx;
    leave_idle(c->pool, c);
    conn_close(&c);
}

static void set_timer(struct pool *p, int64_t now_mono_ms) {
    struct conn *c = TAILQ_FIRST(&p->idle);
    if (c == NULL) {
        timer_cancel(p->timer);
        return;
    }
    /* The list is by beginning, not by end; idle times differ by kind of route only, so a look
     * once a second ends each of them soon enough. */
    int64_t wait_ms = c->idle_until_mono_ms - now_mono_ms;
    timer_set(p->timer, wait_ms < 0 ? 0 : wait_ms > 1000 ? 1000 : wait_ms);
}

static void expire(void *arg) {
    struct pool *p = arg;
    int64_t now_mono_ms = clock_mono_ms();
    struct conn *c = TAILQ_FIRST(&p->idle), *next;
    for (; c != NULL; c = next) {
        next = TAILQ_NEXT(c, idle);
        if (c->idle_until_mono_ms > now_mono_ms)
            continue;
        leave_idle(p, c);
        quit(c);
    }
    set_timer(p, now_mono_ms);
}

struct conn *pool_take(struct pool *p, const struct conn_key *k) {
    struct conn_bucket *b = bucket_find(p, k);
    if (b == NULL)
        return NULL;
    struct conn *c = TAILQ_FIRST(&b->idle);
    leave_idle(p, c);
    return c;
}

bool pool_has(const struct pool *p, const struct conn_key *k) {
    return bucket_find(p, k) != NULL;
}

struct conn *conn_open(struct pool *p, const struct conn_key *k, const struct session_options *o,
                       const struct conn_limits *limits, const struct session_events *ev,
                       void *ctx) {
    struct conn *c = mem_zalloc(sizeof(*c));
    c->pool = p;
    c->key = *k;
    c->limits = *limits;
    c->opened_mono_ms = clock_mono_ms();
    c->session = session_open(p->loop, o, ev, ctx);
    return c;
}

static int64_t age_left_ms(const struct conn *c, int64_t now_mono_ms) {
    return c->opened_mono_ms + c->limits.age_ms - now_mono_ms;
}

bool conn_is_used_up(const struct conn *c, int64_t now_mono_ms) {
    return age_left_ms(c, now_mono_ms) <= 0 ||
           (c->limits.messages != 0 && c->messages >= c->limits.messages);
}

void pool_put(struct pool *p, struct conn **cp) {
    struct conn *c = *cp;
    *cp = NULL;
    int64_t now_mono_ms = clock_mono_ms();
    if (conn_is_used_up(c, now_mono_ms)) {
        quit(c);
        return;
    }
    if (p->idle_count >= p->idle_most) {
        struct conn *oldest = TAILQ_FIRST(&p->idle);
        leave_idle(p, oldest);
        quit(oldest);
    }
    session_set_events(c->session, &IDLE_EVENTS, c);
    c->is_idle = true;
    int64_t left_ms = age_left_ms(c, now_mono_ms);
    c->idle_until_mono_ms =
        now_mono_ms + (c->limits.idle_ms < left_ms ? c->limits.idle_ms : left_ms);
    c->bucket = bucket_get(p, &c->key);
    TAILQ_INSERT_TAIL(&p->idle, c, idle);
    TAILQ_INSERT_HEAD(&c->bucket->idle, c, the_same);
    if (p->idle_count++ == 0)
        set_timer(p, now_mono_ms);
}

void conn_close(struct conn **cp) {
    struct conn *c = *cp;
    *cp = NULL;
    if (c == NULL)
        return;
    session_close(&c->session);
    free(c);
}

void pool_clear(struct pool *p) {
    struct conn *c;
    while ((c = TAILQ_FIRST(&p->idle)) != NULL) {
        leave_idle(p, c);
        quit(c);
    }
    timer_cancel(p->timer);
}

size_t pool_idle_count(const struct pool *p) {
    return p->idle_count;
}
