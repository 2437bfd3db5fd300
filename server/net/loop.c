#include "server/net/loop.h"

#include <event2/event.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>

#include "server/base/log.h"
#include "server/base/thread.h"

/* Thread: owner loop, but for `mailbox` and what is set before the thread starts. */
struct loop {
    struct event_base *base;
    struct mailbox *mailbox;
    struct event *turn_timeout; /* of loop_dispatch_once */
    TAILQ_HEAD(, loop_hold) holds;
    bool is_stopping;      /* breaks when the last hold goes */
    pthread_t owner;       /* set by the owner before `started` */
    sem_t started;         /* loop_start waits for it */
    struct thread *thread; /* NULL: loop_new */
};

struct timer {
    struct event *event;
    void (*fn)(void *arg);
    void *arg;
};

struct loop_note {
    struct note note;
    struct loop *loop;
};

/* libevent's own way out of what it cannot go on without. */
static void on_fatal(int code) {
    (void)code;
    err_out_of_memory("the event library gave up", 0);
}

static void on_log(int severity, const char *text) {
    if (severity >= EVENT_LOG_WARN)
        log_warn("net", "the event library", LOG_STRZ("text", text));
}

static void set_up_library(void) {
    signal(SIGPIPE, SIG_IGN);
    event_set_log_callback(on_log);
    event_set_fatal_callback(on_fatal);
}

static void turn_timeout(evutil_socket_t fd, short what, void *arg) {
    (void)fd, (void)what, (void)arg;
}

static struct loop *loop_make(void) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, set_up_library);
    struct loop *l = mem_zalloc(sizeof *l);
    l->base = event_base_new();
    NEED(l->base != NULL);
    l->mailbox = mailbox_new();
    mailbox_attach(l->mailbox, l->base);
    l->turn_timeout = evtimer_new(l->base, turn_timeout, NULL);
    NEED(l->turn_timeout != NULL);
    TAILQ_INIT(&l->holds);
    ASSERT(sem_init(&l->started, 0, 0) == 0);
    return l;
}

static void loop_destroy(struct loop *l) {
    /* what is left in the mailbox runs now and may still close streams: the base goes last */
    mailbox_detach(l->mailbox);
    mailbox_free(&l->mailbox);
    for (struct loop_hold *h; (h = TAILQ_FIRST(&l->holds)) != NULL;) {
        h->on_stop(h, true);
        ASSERT(TAILQ_FIRST(&l->holds) != h);
    }
    event_free(l->turn_timeout);
    event_base_free(l->base); /* runs the finalizers of bufferevents that were freed */
    sem_destroy(&l->started);
    free(l);
}

struct loop *loop_new(void) {
    struct loop *l = loop_make();
    l->owner = pthread_self();
    return l;
}

void loop_free(struct loop **lp) {
    struct loop *l = *lp;
    *lp = NULL;
    if (!l)
        return;
    ASSERT(l->thread == NULL);
    loop_destroy(l);
}

static void loop_main(void *arg) {
    struct loop *l = arg;
    l->owner = pthread_self();
    sem_post(&l->started);
    loop_dispatch(l);
}

struct loop *loop_start(const char *thread_name) {
    struct loop *l = loop_make();
    l->thread = thread_start(thread_name, loop_main, l);
    while (sem_wait(&l->started) != 0)
        ;
    return l;
}

static void stop_run(struct note *n) {
    struct loop_note *stop = CONTAINER_OF(n, struct loop_note, note);
    struct loop *l = stop->loop;
    free(stop);
    l->is_stopping = true;
    for (struct loop_hold *h = TAILQ_FIRST(&l->holds), *next; h; h = next) {
        next = TAILQ_NEXT(h, link);
        h->on_stop(h, false);
    }
    if (TAILQ_EMPTY(&l->holds))
        event_base_loopbreak(l->base);
}

static void break_run(struct note *n) {
    struct loop_note *b = CONTAINER_OF(n, struct loop_note, note);
    event_base_loopbreak(b->loop->base);
    free(b);
}

static void send_to_self(struct loop *l, void (*run)(struct note *)) {
    struct loop_note *n = mem_zalloc(sizeof *n);
    n->note.run = run;
    n->loop = l;
    mailbox_send(l->mailbox, &n->note);
}

void loop_stop(struct loop **lp) {
    struct loop *l = *lp;
    if (!l)
        return;
    ASSERT(l->thread != NULL && !loop_is_current(l));
    send_to_self(l, stop_run);
    thread_join(&l->thread);
    l->owner = pthread_self();
    loop_destroy(l);
    *lp = NULL; /* not earlier: what runs until here may look there */
}

void loop_dispatch(struct loop *l) {
    event_base_loop(l->base, EVLOOP_NO_EXIT_ON_EMPTY);
}

void loop_dispatch_once(struct loop *l, int timeout_ms) {
    if (timeout_ms == 0) {
        event_base_loop(l->base, EVLOOP_NONBLOCK);
        return;
    }
    if (timeout_ms > 0) {
        struct timeval tv = {timeout_ms / 1000, (timeout_ms % 1000) * 1000};
        evtimer_add(l->turn_timeout, &tv);
    }
    event_base_loop(l->base, EVLOOP_ONCE | EVLOOP_NO_EXIT_ON_EMPTY);
    evtimer_del(l->turn_timeout);
}

/* By a note, so that no lock inside libevent is needed and every wake-up goes one way. */
void loop_break(struct loop *l) {
    send_to_self(l, break_run);
}

struct mailbox *loop_mailbox(struct loop *l) {
    return l->mailbox;
}

struct event_base *loop_base(struct loop *l) {
    return l->base;
}

bool loop_is_current(const struct loop *l) {
    return pthread_equal(l->owner, pthread_self()) != 0;
}

void loop_hold(struct loop *l, struct loop_hold *h) {
    TAILQ_INSERT_TAIL(&l->holds, h, link);
}

void loop_unhold(struct loop *l, struct loop_hold *h) {
    TAILQ_REMOVE(&l->holds, h, link);
    if (l->is_stopping && TAILQ_EMPTY(&l->holds))
        event_base_loopbreak(l->base);
}

static void timer_fired(evutil_socket_t fd, short what, void *arg) {
    (void)fd, (void)what;
    struct timer *t = arg;
    t->fn(t->arg);
}

struct timer *timer_new(struct loop *l, void (*fn)(void *arg), void *arg) {
    struct timer *t = mem_zalloc(sizeof *t);
    t->fn = fn;
    t->arg = arg;
    t->event = evtimer_new(l->base, timer_fired, t);
    NEED(t->event != NULL);
    return t;
}

void timer_free(struct timer **tp) {
    struct timer *t = *tp;
    *tp = NULL;
    if (!t)
        return;
    event_free(t->event);
    free(t);
}

void timer_set(struct timer *t, int64_t delay_ms) {
    ASSERT(delay_ms >= 0);
    struct timeval tv = {(time_t)(delay_ms / 1000), (suseconds_t)(delay_ms % 1000) * 1000};
    NEED(evtimer_add(t->event, &tv) == 0);
}

void timer_cancel(struct timer *t) {
    evtimer_del(t->event);
}
