#include "server/net/dns_worker.h"

#include <event2/event.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unbound.h>

#include "server/base/buf.h"
#include "server/base/clock.h"
#include "server/base/log.h"

enum {
    ALIVE_MS = 1500,
    GRACE_MS = 500,    /* after a stop of the process the answer is there, too: it is read first */
    SILENCE_MS = 1000, /* who owes answers has to show again that it lives */
    /* taken without a sign of life: together with what cancels them they do not fill the pipe */
    SENT_MOST = 32,
    PAUSE_MS = 1000, /* before the second replacement, then twice as long each time */
    PAUSE_MOST_MS = 5 * 60 * 1000,
    STOP_MS = 1000,
    END_MS = 500, /* a thread that heard of it ends within some */
    /* a megabyte or two each, and six descriptors; what answered before, what its caches hold */
    ABANDONED_MOST = 20,
    TYPE_A = 1,
    CLASS_IN = 1
};

/* A zone that every context has built in. */
#define OWN_NAME "localhost"

/* No context -> made, at the first question -> is_proven, when it answered for itself -> replaced:
 * no context. */
struct dns_worker {
    struct dns_worker_options o;
    struct ub_ctx *ctx;
    struct event *readable;
    struct timer *timer; /* until it has to show that it lives; then, until it has */
    bool is_used;        /* its thread was to begin */
    bool is_proven;
    bool is_broken;
    bool is_garbled; /* its thread has half of what was said to it, and waits for the rest */
    bool is_watched; /* the timer is set: it owes answers */
    bool is_checked, had_grace; /* the question that shows it is under way */
    size_t owed;
    unsigned sent;
    int64_t made_mono_ms, alive_mono_ms;
    int64_t next_mono_ms; /* none is made before */
    unsigned replaced;    /* in a row, or not made */
    bool is_refused;      /* told: it cannot be made of these settings */
};

/* ---- contexts that cannot be freed, or not yet ---- */

/* Whether the library could start its thread cannot be asked, and to free a context whose thread
 * never was, or that was set up by halves, reads through a null pointer. Kept where leak checkers
 * find them. */
static struct {
    pthread_mutex_t mu;
    struct ub_ctx *ctx[ABANDONED_MOST];
    size_t count;
    size_t ending; /* threads that wait for the library's */
    bool is_told;
} left = {.mu = PTHREAD_MUTEX_INITIALIZER};

static void abandon(struct ub_ctx *ctx) {
    pthread_mutex_lock(&left.mu);
    if (left.count < ABANDONED_MOST)
        left.ctx[left.count++] = ctx;
    pthread_mutex_unlock(&left.mu);
}

static bool may_make(void) {
    pthread_mutex_lock(&left.mu);
    bool may = left.count + left.ending < ABANDONED_MOST;
    bool is_new = !may && !left.is_told;
    left.is_told = !may;
    pthread_mutex_unlock(&left.mu);
    if (is_new)
        log_error("dns", "the resolver cannot be made to answer; the server needs a restart");
    return may;
}

static size_t count_ending(void) {
    pthread_mutex_lock(&left.mu);
    size_t n = left.ending;
    pthread_mutex_unlock(&left.mu);
    return n;
}

static void *end_context(void *ctx) {
    (void)pthread_setname_np(pthread_self(), "dns-end");
    ub_ctx_delete(ctx); /* calls back nobody */
    pthread_mutex_lock(&left.mu);
    left.ending--;
    pthread_mutex_unlock(&left.mu);
    return NULL;
}

/* On a thread of its own: the library tells its thread to end and waits for that, also when it
 * could not tell it. The end is waited for as long as it can take, since one context is not made
 * while another ends: they share a log (dns_context.c). */
static void end(struct ub_ctx *ctx) {
    pthread_t thread;
    pthread_mutex_lock(&left.mu);
    size_t before = left.ending++;
    pthread_mutex_unlock(&left.mu);
    if (pthread_create(&thread, NULL, end_context, ctx) != 0) {
        pthread_mutex_lock(&left.mu);
        left.ending--;
        pthread_mutex_unlock(&left.mu);
        abandon(ctx);
        return;
    }
    pthread_detach(thread);
    int64_t until_mono_ms = clock_mono_ms() + END_MS;
    while (count_ending() > before && clock_mono_ms() < until_mono_ms)
        poll(NULL, 0, 1);
}

/* ---- the context ---- */

static void drop_context(struct dns_worker *w) {
    if (w->readable)
        event_free(w->readable);
    w->readable = NULL;
    if (!w->ctx)
        return;
    /* The library would tell its thread to end, in words that it takes for the other half, and wait
     * for it. */
    if (w->is_garbled || (w->is_used && !w->is_proven)) {
        abandon(w->ctx);
    } else if (!w->is_used) {
        ub_ctx_delete(w->ctx); /* it has no thread yet */
    } else {
        /* its thread said its last word before it was asked to: the library would wait for it */
        if (w->is_broken)
            shutdown(ub_fd(w->ctx), SHUT_RDWR);
        end(w->ctx);
    }
    w->ctx = NULL;
    w->is_used = w->is_proven = w->is_broken = w->is_garbled = w->is_checked = w->is_watched =
        false;
    w->sent = 0;
    w->owed = 0;
}

static void make_no_other_yet(struct dns_worker *w) {
    int64_t pause_ms = w->replaced == 0   ? 0
                       : w->replaced > 10 ? PAUSE_MOST_MS
                                          : PAUSE_MS << (w->replaced - 1);
    w->next_mono_ms = clock_mono_ms() + (pause_ms < PAUSE_MOST_MS ? pause_ms : PAUSE_MOST_MS);
    w->replaced++;
}

static void replace(struct dns_worker *w) {
    if (w->is_proven && clock_mono_ms() - w->made_mono_ms > PAUSE_MOST_MS)
        w->replaced = 0;
    if (w->replaced == 0)
        log_warn("dns", "the resolver stopped answering: another one is made",
                 LOG_STRZ("why", w->is_broken ? "a broken pipe" : "no sign of life"));
    make_no_other_yet(w);
    drop_context(w);
    w->o.lost(w->o.arg);
}

/* Not at once: whoever notices may be in the middle of what lost() changes. */
static void found_broken(struct dns_worker *w) {
    w->is_broken = true;
    timer_set(w->timer, 0);
}

static void readable(evutil_socket_t fd, short what, void *arg) {
    (void)fd, (void)what;
    struct dns_worker *w = arg;
    if (!w->is_broken && ub_process(w->ctx) == UB_PIPE)
        found_broken(w);
}

static enum err listen_to(struct dns_worker *w) {
    if (w->readable)
        return OK;
    w->readable = event_new(loop_base(w->o.loop), ub_fd(w->ctx), EV_READ | EV_PERSIST, readable, w);
    NEED(w->readable != NULL);
    if (event_add(w->readable, NULL) == 0)
        return OK;
    event_free(w->readable);
    w->readable = NULL;
    return ERR_UNAVAILABLE;
}

enum err dns_worker_open(struct dns_worker *w, struct errinfo *info) {
    if (w->ctx)
        return OK;
    w->made_mono_ms = clock_mono_ms();
    enum err e = dns_context_new(w->o.from, w->o.validates, &w->ctx, info);
    if (e != OK && w->ctx)
        abandon(w->ctx);
    if (e != OK)
        w->ctx = NULL;
    return e;
}

/* One that takes its settings no more: a file of theirs may have gone since the start. */
static enum err open_another(struct dns_worker *w) {
    struct errinfo info = {0};
    enum err e = dns_worker_open(w, &info);
    if (e != OK && !w->is_refused)
        log_error("dns", "the resolver cannot be made", LOG_STRZ("setting", info.field),
                  LOG_STRZ("why", info.text[0] ? info.text : err_name(e)));
    w->is_refused = e != OK;
    if (e != OK)
        make_no_other_yet(w);
    return e;
}

/* ---- does it live? ---- */

static enum err check(struct dns_worker *w);

static void watch(struct dns_worker *w) {
    if (w->is_checked || w->is_broken || w->is_watched)
        return;
    w->is_watched = true;
    timer_set(w->timer, SILENCE_MS);
}

static void time_is_up(void *arg) {
    struct dns_worker *w = arg;
    w->is_watched = false;
    if (!w->is_broken && !w->is_checked) {
        if (w->owed > 0 && check(w) != OK)
            watch(w);
        return;
    }
    if (!w->is_broken && !w->had_grace) {
        w->had_grace = true;
        timer_set(w->timer, GRACE_MS);
        return;
    }
    replace(w);
}

static void lives(void *arg, int err, struct ub_result *r) {
    (void)err; /* whatever it says */
    struct dns_worker *w = arg;
    ub_resolve_free(r);
    w->is_checked = false;
    w->is_proven = true;
    w->sent = 0;
    w->alive_mono_ms = clock_mono_ms();
    if (w->is_broken)
        return;
    timer_cancel(w->timer);
    w->is_watched = false;
    if (w->owed > 0)
        watch(w);
    w->o.ready(w->o.arg);
}

static enum err ask(struct dns_worker *w, const char *name, int type, void *arg, dns_worker_fn *fn,
                    int *id) {
    w->is_used = true;
    w->sent++;
    int r = ub_resolve_async(w->ctx, name, type, CLASS_IN, arg, fn, id);
    if (r == UB_PIPE) { /* half of it may have gone: what follows cannot be understood */
        w->is_garbled = true;
        found_broken(w);
        return ERR_AGAIN;
    }
    return r == 0 ? OK : ERR_UNAVAILABLE;
}

static enum err check(struct dns_worker *w) {
    if (w->is_checked)
        return OK;
    enum err e = ask(w, OWN_NAME, TYPE_A, w, lives, NULL);
    if (e != OK)
        return e;
    w->is_checked = true;
    w->is_watched = w->had_grace = false;
    timer_set(w->timer, w->o.alive_ms);
    return OK;
}

/* ---- questions ---- */

static enum err prepare(struct dns_worker *w) {
    if (!w->timer)
        w->timer = timer_new(w->o.loop, time_is_up, w);
    if (w->is_broken)
        return ERR_AGAIN;
    if (!w->ctx && (clock_mono_ms() < w->next_mono_ms || !may_make()))
        return ERR_UNAVAILABLE;
    if (!w->ctx && open_another(w) != OK)
        return ERR_UNAVAILABLE;
    return listen_to(w);
}

enum err dns_worker_ask(struct dns_worker *w, const char *name, int type, void *arg,
                        dns_worker_fn *answered, int *id) {
    enum err e = prepare(w);
    if (e != OK)
        return e;
    bool is_early = !w->is_proven || w->sent >= SENT_MOST;
    if (is_early || clock_mono_ms() - w->alive_mono_ms >= SILENCE_MS)
        e = check(w);
    if (e == OK && is_early)
        e = ERR_AGAIN;
    if (e == OK)
        e = ask(w, name, type, arg, answered, id);
    if (e == OK) {
        w->owed++;
        watch(w);
    }
    return e;
}

void dns_worker_answered(struct dns_worker *w) {
    ASSERT(w->owed > 0);
    w->owed--;
}

void dns_worker_cancel(struct dns_worker *w, int id) {
    ASSERT(w->owed > 0);
    w->owed--;
    if (w->is_broken)
        return;
    w->sent++;
    if (ub_cancel(w->ctx, id) == UB_PIPE) {
        w->is_garbled = true;
        found_broken(w);
    }
}

void dns_worker_forget(struct dns_worker *w) {
    if (w->ctx && w->is_proven && w->owed == 0 && !w->is_checked && !w->is_broken)
        drop_context(w);
}

/* ---- from new to free ---- */

struct dns_worker *dns_worker_new(const struct dns_worker_options *o) {
    struct dns_worker *w = mem_zalloc(sizeof *w);
    w->o = *o;
    if (w->o.alive_ms <= 0)
        w->o.alive_ms = ALIVE_MS;
    return w;
}

void dns_worker_free(struct dns_worker **wp) {
    struct dns_worker *w = *wp;
    *wp = NULL;
    if (!w)
        return;
    timer_free(&w->timer);
    if (w->ctx && w->is_used && !w->is_proven) { /* just begun? */
        struct pollfd p = {.fd = ub_fd(w->ctx), .events = POLLIN};
        w->is_proven = poll(&p, 1, STOP_MS) > 0;
    }
    drop_context(w);
    free(w);
}
