#include "server/delivery/housekeeping.h"

#include <stdlib.h>

#include "server/base/clock.h"
#include "server/base/doubt.h"
#include "server/base/log.h"
#include "server/base/thread.h"

enum {
    LOOK_EVERY_MS = 1000, /* at the clock: nobody notices a step that is taken back before */
    EXPIRE_EVERY_MS = 5000,
    RETAIN_EVERY_MS = 3600 * 1000,
    CAPTURES_MOST = 1000,
    STEP = 500, /* rows of one call: a few milliseconds of the committer's time */
    /* Between steps: so many times as long as the last one took, so that sweeps keep up with any
     * load and have a fifth of a quick committer's time at most. */
    PAUSE_TIMES = 4,
    PAUSE_LEAST_MS = 10,
    PAUSE_MOST_MS = 100,
    RETAIN_FIRST_MS = 60 * 1000,
    RETAIN_AGAIN_MS = 60 * 1000, /* after one that failed */
};

#define HOURS(n) ((int64_t)(n)*3600 * 1000)
/* A notification waits at most a day between two attempts, with jitter; one that still changes is
 * kept four. */
static const int64_t NOTIFY_MOST_MS = HOURS(30), WAITING_KEEP_MS = HOURS(96);

struct housekeeping {
    struct housekeeping_options o;
    struct mailbox *box;
    struct thread *thread;
    struct doubt doubt;
    struct doubt_view now;
    bool is_set_back; /* the clock was, or this is the start: what is due may be beyond reach */
    bool is_new;      /* the periods are: retention goes by them now */
    bool is_stopping;
};

static void fill_defaults(struct housekeeping_options *o) {
    if (o->expire_every_ms == 0)
        o->expire_every_ms = EXPIRE_EVERY_MS;
    if (o->retain_every_ms == 0)
        o->retain_every_ms = RETAIN_EVERY_MS;
    if (o->captures_most == 0)
        o->captures_most = CAPTURES_MOST;
    if (o->retry_most_ms == 0)
        o->retry_most_ms = HOURS(24);
    if (o->expires_most_ms == 0)
        o->expires_most_ms = HOURS(24 * 366);
    if (o->keys_keep_ms == 0)
        o->keys_keep_ms = HOURS(24 * 366);
}

static void look_at_the_clock(struct housekeeping *h) {
    doubt_look(&h->doubt, clock_wall_ms(), clock_boot_ms(), &h->now);
    if (h->now.jumped_ms == 0)
        return;
    log_warn("housekeeping",
             h->now.jumped_ms > 0
                 ? "the clock was set ahead: nothing expires or is removed by it for an hour"
                 : "the clock was set back: what is due beyond reach is due now",
             LOG_INT("ms", h->now.jumped_ms));
    h->is_set_back |= h->now.jumped_ms < 0;
}

/* What one step of a sweep comes to. After a failure the next one is not before its time: a store
 * that is in trouble gets no storm of questions, and the log none of complaints. */
enum step { STEP_DONE, STEP_MORE, STEP_FAILED };

static enum step step_of(enum err e, bool more) {
    return e != OK ? STEP_FAILED : more ? STEP_MORE : STEP_DONE;
}

static enum step expire(struct housekeeping *h) {
    struct store_expire q = {
        .call = {.verb = STORE_EXPIRE}, .now_wall_ms = h->now.wall_ms, .most = STEP};
    if (store_sync(h->o.store, &q.call) != OK)
        log_warn("housekeeping", "expiry sweep failed", LOG_STRZ("why", q.call.info.text));
    else if (q.expired > 0)
        log_info("housekeeping", "recipients expired", LOG_INT("count", q.expired));
    enum step step = step_of(q.call.err, q.more);
    store_call_release(&q.call);
    return step;
}

/* By the wall clock itself, as what is due is. */
static enum step mend(struct housekeeping *h, bool with_expiry) {
    int64_t now_wall_ms = clock_wall_ms();
    struct store_mend q = {
        .call = {.verb = STORE_MEND},
        .now_wall_ms = now_wall_ms,
        .due_latest_wall_ms = now_wall_ms + h->o.retry_most_ms,
        .notify_latest_wall_ms = now_wall_ms + NOTIFY_MOST_MS,
        .expires_latest_wall_ms = with_expiry ? now_wall_ms + h->o.expires_most_ms + HOURS(1) : 0,
        .most = STEP,
    };
    if (store_sync(h->o.store, &q.call) != OK)
        log_warn("housekeeping", "times beyond reach stay", LOG_STRZ("why", q.call.info.text));
    else if (q.mended > 0)
        log_info("housekeeping", "times beyond reach were mended", LOG_INT("count", q.mended));
    enum step step = step_of(q.call.err, q.more);
    store_call_release(&q.call);
    return step;
}

static int64_t before(int64_t now_wall_ms, int64_t keep_ms) {
    return keep_ms == 0 || keep_ms > now_wall_ms ? 0 : now_wall_ms - keep_ms;
}

static enum step retain(struct housekeeping *h) {
    int64_t now_wall_ms = h->now.wall_ms;
    struct store_retain q = {
        .call = {.verb = STORE_RETAIN},
        .now_wall_ms = now_wall_ms,
        .content_before_wall_ms = before(now_wall_ms, h->o.content_keep_ms),
        .events_before_wall_ms = before(now_wall_ms, h->o.events_keep_ms),
        .waiting_before_wall_ms = before(now_wall_ms, WAITING_KEEP_MS),
        .mends_times = h->now.is_settled,
        .keys_latest_wall_ms = now_wall_ms + h->o.keys_keep_ms,
        .captures_most = h->o.captures_most,
        .most = STEP,
    };
    if (store_sync(h->o.store, &q.call) != OK)
        log_warn("housekeeping", "retention failed", LOG_STRZ("why", q.call.info.text));
    enum step step = step_of(q.call.err, q.more);
    store_call_release(&q.call);
    return step == STEP_DONE && h->now.is_settled ? mend(h, true) : step;
}

static int64_t pause_ms(int64_t begun_mono_ms) {
    int64_t ms = PAUSE_TIMES * (clock_mono_ms() - begun_mono_ms);
    return ms < PAUSE_LEAST_MS ? PAUSE_LEAST_MS : ms < PAUSE_MOST_MS ? ms : PAUSE_MOST_MS;
}

/* When the next step is due. */
static int64_t sweep_expired(struct housekeeping *h) {
    int64_t begun_mono_ms = clock_mono_ms();
    enum step step = expire(h);
    if (h->is_set_back && step != STEP_FAILED) {
        enum step mended = mend(h, false);
        h->is_set_back = mended != STEP_DONE;
        if (h->is_set_back)
            step = mended;
    }
    return clock_mono_ms() + (step == STEP_MORE ? pause_ms(begun_mono_ms) : h->o.expire_every_ms);
}

static int64_t sweep_old(struct housekeeping *h) {
    int64_t begun_mono_ms = clock_mono_ms();
    enum step step = retain(h);
    int64_t ms = step == STEP_MORE     ? pause_ms(begun_mono_ms)
                 : step == STEP_FAILED ? RETAIN_AGAIN_MS
                                       : INT64_MAX;
    return clock_mono_ms() + (ms < h->o.retain_every_ms ? ms : h->o.retain_every_ms);
}

static void run(void *arg) {
    struct housekeeping *h = arg;
    int64_t expire_mono_ms = clock_mono_ms();
    int64_t retain_mono_ms = expire_mono_ms + RETAIN_FIRST_MS;
    h->is_set_back = true;
    while (!h->is_stopping) {
        int64_t now_mono_ms = clock_mono_ms();
        look_at_the_clock(h);
        if (now_mono_ms >= expire_mono_ms)
            expire_mono_ms = sweep_expired(h);
        bool is_new = h->is_new;
        h->is_new = false;
        if (is_new || now_mono_ms >= retain_mono_ms)
            retain_mono_ms = sweep_old(h);
        int64_t next_mono_ms = expire_mono_ms < retain_mono_ms ? expire_mono_ms : retain_mono_ms;
        int64_t wait_ms = next_mono_ms - clock_mono_ms();
        if (wait_ms > LOOK_EVERY_MS)
            wait_ms = LOOK_EVERY_MS;
        mailbox_wait(h->box, wait_ms < 0 ? 0 : (int)wait_ms);
    }
}

struct housekeeping *housekeeping_start(const struct housekeeping_options *o) {
    struct housekeeping *h = mem_zalloc(sizeof(*h));
    h->o = *o;
    fill_defaults(&h->o);
    h->box = mailbox_new();
    doubt_look(&h->doubt, clock_wall_ms(), clock_boot_ms(), &h->now);
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
    s->h->is_new = true;
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
