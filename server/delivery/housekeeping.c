#include "server/delivery/housekeeping.h"

#include <stdlib.h>

#include "server/base/clock.h"
#include "server/base/log.h"
#include "server/base/thread.h"

enum {
    EXPIRE_EVERY_MS = 5000,
    RETAIN_EVERY_MS = 3600 * 1000,
    CAPTURES_MOST = 1000,
    STEP = 500,            /* rows of one call: a few milliseconds of the committer's time */
    RETAIN_PAUSE_MS = 100, /* between steps: retention is in no hurry */
    RETAIN_FIRST_MS = 60 * 1000,
};

struct housekeeping {
    struct housekeeping_options o;
    struct mailbox *box;
    struct thread *thread;
    bool is_stopping;
};

static void fill_defaults(struct housekeeping_options *o) {
    if (o->expire_every_ms == 0)
        o->expire_every_ms = EXPIRE_EVERY_MS;
    if (o->retain_every_ms == 0)
        o->retain_every_ms = RETAIN_EVERY_MS;
    if (o->captures_most == 0)
        o->captures_most = CAPTURES_MOST;
}

/* One step; true: there may be more. */
static bool expire(struct housekeeping *h) {
    struct store_expire q = {
        .call = {.verb = STORE_EXPIRE}, .now_wall_ms = clock_wall_ms(), .most = STEP};
    if (store_sync(h->o.store, &q.call) != OK)
        log_warn("housekeeping", "expiry sweep failed", LOG_STRZ("why", q.call.info.text));
    else if (q.expired > 0)
        log_info("housekeeping", "recipients expired", LOG_INT("count", q.expired));
    bool more = q.call.err == OK && q.expired == STEP;
    store_call_release(&q.call);
    return more;
}

static int64_t before(int64_t now_wall_ms, int64_t keep_ms) {
    return keep_ms == 0 || keep_ms > now_wall_ms ? 0 : now_wall_ms - keep_ms;
}

static bool retain(struct housekeeping *h) {
    int64_t now_wall_ms = clock_wall_ms();
    struct store_retain q = {
        .call = {.verb = STORE_RETAIN},
        .now_wall_ms = now_wall_ms,
        .content_before_wall_ms = before(now_wall_ms, h->o.content_keep_ms),
        .events_before_wall_ms = before(now_wall_ms, h->o.events_keep_ms),
        .captures_most = h->o.captures_most,
        .most = STEP,
    };
    if (store_sync(h->o.store, &q.call) != OK)
        log_warn("housekeeping", "retention failed", LOG_STRZ("why", q.call.info.text));
    bool more = q.call.err == OK && q.removed > 0;
    store_call_release(&q.call);
    return more;
}

static void run(void *arg) {
    struct housekeeping *h = arg;
    int64_t expire_mono_ms = clock_mono_ms();
    int64_t retain_mono_ms = expire_mono_ms + RETAIN_FIRST_MS;
    while (!h->is_stopping) {
        int64_t now_mono_ms = clock_mono_ms();
        if (now_mono_ms >= expire_mono_ms)
            expire_mono_ms = expire(h) ? now_mono_ms : clock_mono_ms() + h->o.expire_every_ms;
        if (now_mono_ms >= retain_mono_ms)
            retain_mono_ms = clock_mono_ms() + (retain(h) ? RETAIN_PAUSE_MS : h->o.retain_every_ms);
        int64_t next_mono_ms = expire_mono_ms < retain_mono_ms ? expire_mono_ms : retain_mono_ms;
        int64_t wait_ms = next_mono_ms - clock_mono_ms();
        mailbox_wait(h->box, wait_ms < 0 ? 0 : (int)wait_ms);
    }
}

struct housekeeping *housekeeping_start(const struct housekeeping_options *o) {
    struct housekeeping *h = mem_zalloc(sizeof(*h));
    h->o = *o;
    fill_defaults(&h->o);
    h->box = mailbox_new();
    h->thread = thread_start("housekeeping", run, h);
    return h;
}

struct set_note {
    struct note note;
    struct housekeeping *h;
    struct housekeeping_options o;
};

static void set_run(struct note *n) {
    struct set_note *s = CONTAINER_OF(n, struct set_note, note);
    s->h->o = s->o;
    free(s);
}

void housekeeping_set(struct housekeeping *h, const struct housekeeping_options *o) {
    struct set_note *s = mem_zalloc(sizeof(*s));
    s->note.run = set_run;
    s->h = h;
    s->o = *o;
    fill_defaults(&s->o);
    mailbox_send(h->box, &s->note);
}

struct stop_note {
    struct note note;
    struct housekeeping *h;
};

static void stop_run(struct note *n) {
    struct stop_note *s = CONTAINER_OF(n, struct stop_note, note);
    s->h->is_stopping = true;
    free(s);
}

void housekeeping_stop(struct housekeeping **hp) {
    struct housekeeping *h = *hp;
    *hp = NULL;
    if (h == NULL)
        return;
    struct stop_note *s = mem_zalloc(sizeof(*s));
    s->note.run = stop_run;
    s->h = h;
    mailbox_send(h->box, &s->note);
    thread_join(&h->thread);
    mailbox_free(&h->box);
    free(h);
}
