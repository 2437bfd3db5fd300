#include "server/base/clock.h"
#include "server/base/limits.h"
#include "server/base/log.h"
#include "server/events/report.h"
#include "server/events/webhook_state.h"
#include "server/render/event.h"

static void load_endpoints(struct webhooks *w);

/* What was claimed is posted by endpoints of which no change is known, or that were read after the
 * claim: then who is not among them is gone. */
static void send_waiting(struct webhooks *w) {
    struct post *p, *next;
    bool is_to_be_read = false;
    for (p = TAILQ_FIRST(&w->posts); p; p = next) {
        next = TAILQ_NEXT(p, link);
        if (p->state != POST_WAITING)
            continue;
        bool is_fresh = w->read > p->reading;
        const struct endpoint *to = endpoints_find(w->endpoints, &p->webhook_id);
        if (w->is_stopping)
            post_put_back(p);
        else if (w->is_stale && !is_fresh)
            is_to_be_read |= p->reading == w->reading; /* else a reading comes, or the timer */
        else if (to && to->state != WEBHOOK_DISABLED)
            post_send(p, to);
        else if (is_fresh && to)
            post_put_back(p); /* nothing of a disabled one is claimed until it is enabled */
        else if (is_fresh)
            post_drop(p, "the endpoint was deleted");
        else
            is_to_be_read |= p->reading == w->reading;
    }
    if (is_to_be_read)
        load_endpoints(w);
}

static void loaded(struct store_call *call) {
    struct webhooks *w = call->ctx;
    bool ok = call->err == OK, again = w->load_again;
    w->is_loading = w->load_again = false;
    if (ok) {
        endpoints_free(&w->endpoints);
        w->endpoints = endpoints_new(w->load.webhook, w->load.count);
        w->read = w->reading;
    }
    w->is_stale = !ok || again;
    store_call_release(call);
    if (!w->is_stopping && !ok)
        timer_set(w->due, STORE_AGAIN_MS);
    else if (!w->is_stopping && again)
        load_endpoints(w); /* something was changed or claimed after this reading began */
    if (w->is_stopping || ok)
        send_waiting(w);
    webhook_finish_stop(w);
}

static void load_endpoints(struct webhooks *w) {
    if (w->is_loading) {
        w->load_again = true;
        return;
    }
    w->is_loading = true;
    w->reading++;
    w->load = (struct store_webhooks){
        .call = {.verb = STORE_WEBHOOKS, .reply_to = w->box, .done = loaded, .ctx = w},
        .project = -1};
    store_post(w->store, &w->load.call);
}

/* ---- claiming -------------------------------------------------------------------------------- */

static void take_in(struct webhooks *w, const struct notification_row *n,
                    const struct event_row *e) {
    struct post *p = mem_zalloc(sizeof *p);
    *p = (struct post){.w = w,
                       .state = POST_WAITING,
                       .webhook_id = n->webhook_id,
                       .event_id = n->event_id,
                       .type = n->type,
                       .attempts = n->attempts,
                       .created_wall_ms = n->created_wall_ms,
                       .reading = w->reading,
                       .body = BUF_INIT(BODY_MAX),
                       .error = BUF_INIT(2 * LIMIT_WEBHOOK_RESPONSE_STORED),
                       .response = BUF_INIT(2 * LIMIT_WEBHOOK_RESPONSE_STORED),
                       .result = {.seq = n->seq},
                       .again_ms = STORE_AGAIN_MS};
    mem_forget_short();
    render_event(e, &p->body);
    p->has_no_body = mem_is_short();
    ASSERT(buf_status(&p->body) == OK || p->has_no_body); /* bounded by what was accepted */
    TAILQ_INSERT_TAIL(&w->posts, p, link);
    w->post_count++;
}

/* When to look again. */
static void plan(struct webhooks *w, int64_t next_due_wall_ms) {
    int64_t wait = POLL_MS;
    if (next_due_wall_ms) {
        int64_t until = next_due_wall_ms - clock_wall_ms();
        int64_t least = w->post_count ? BUSY_POLL_MS : IDLE_POLL_MS;
        wait = until < least ? least : until > POLL_MS ? POLL_MS : until;
    }
    if (w->is_stale && wait > STORE_AGAIN_MS)
        wait = STORE_AGAIN_MS;
    timer_set(w->due, wait);
}

static void claimed(struct store_call *call) {
    struct webhooks *w = call->ctx;
    bool ok = call->err == OK, is_full = false;
    int64_t next = w->claim.next_due_wall_ms;
    w->is_claiming = false;
    if (ok) {
        for (size_t i = 0; i < w->claim.count; i++)
            take_in(w, &w->claim.notification[i], &w->claim.event[i]);
        is_full = w->claim.count == w->claim.most;
    }
    store_call_release(call);
    send_waiting(w);
    bool again = (w->claim_again || is_full) && ok;
    w->claim_again = false;
    if (w->is_stopping)
        webhook_finish_stop(w);
    else if (again)
        webhook_claim_more(w);
    else if (ok)
        plan(w, next);
    else
        timer_set(w->due, STORE_AGAIN_MS);
}

void webhook_claim_more(struct webhooks *w) {
    if (w->is_stopping || w->post_count >= POSTS_MAX)
        return; /* a post's end comes back here */
    if (w->is_claiming) {
        w->claim_again = true;
        return;
    }
    w->is_claiming = true;
    w->claim = (struct store_notify_claim){
        .call = {.verb = STORE_NOTIFY_CLAIM, .reply_to = w->box, .done = claimed, .ctx = w},
        .now_wall_ms = clock_wall_ms(),
        .most = POSTS_MAX - w->post_count,
        .per_webhook = STANDING_START};
    w->claim.share_count = standing_copy(&w->standing, &w->share);
    w->claim.share = w->share;
    store_post(w->store, &w->claim.call);
}

static void due(void *arg) {
    struct webhooks *w = arg;
    if (w->is_stale && !w->is_loading)
        load_endpoints(w);
    webhook_claim_more(w);
}

static void noticed(struct store_notice *n) {
    struct webhooks *w = n->ctx;
    enum store_notice_kind kind = n->kind;
    store_notice_free(&n);
    if (w->is_stopping)
        return;
    if (kind == NOTICE_WEBHOOKS) {
        w->is_stale = true;
        load_endpoints(w);
    }
    webhook_claim_more(w); /* of NOTICE_WEBHOOKS, too: an endpoint may be enabled again */
}

/* ---- start, guard, stop ---------------------------------------------------------------------- */

/* Something that main wants done on the loop, and waits for. */
struct question {
    struct note note;
    struct webhooks *w;
    const struct webhooks_options *options;
    bool is_answered;
};

static void question_answered(struct note *n) {
    CONTAINER_OF(n, struct question, note)->is_answered = true;
}

static void answer(struct question *q) {
    q->note.run = question_answered;
    mailbox_send(q->w->asker, &q->note);
}

static void ask_and_wait(struct question *q, void (*run)(struct note *n)) {
    q->note.run = run;
    mailbox_send(q->w->box, &q->note);
    while (!q->is_answered)
        mailbox_wait(q->w->asker, -1);
}

/* Ends the posts under way (they come back as FAILURE_SHUTDOWN), later gives up on the store. */
static void stop_time_over(void *arg) {
    struct webhooks *w = arg;
    if (w->http) {
        httpc_free(&w->http);
        timer_set(w->stopping, w->stop_ms < SETTLE_SHARE_MS ? w->stop_ms : SETTLE_SHARE_MS);
    } else {
        w->is_late = true;
        struct post *p, *next;
        for (p = TAILQ_FIRST(&w->posts); p; p = next) {
            next = TAILQ_NEXT(p, link);
            if (p->state == POST_UNSTORED)
                post_free(p);
        }
    }
    webhook_finish_stop(w);
}

static void begin_on_loop(struct note *n) {
    struct question *q = CONTAINER_OF(n, struct question, note);
    struct webhooks *w = q->w;
    struct httpc_options o = {.loop = w->loop,
                              .dns = w->dns,
                              .guard = w->guard,
                              .ca_file = w->ca_file,
                              .parallel_max = POSTS_MAX};
    w->http = httpc_new(&o);
    w->due = timer_new(w->loop, due, w);
    w->stopping = timer_new(w->loop, stop_time_over, w);
    store_watch(w->store, NOTICE_NOTIFY | NOTICE_WEBHOOKS, w->box, noticed, w);
    load_endpoints(w);
    webhook_claim_more(w);
    answer(q);
}

static void set_on_loop(struct note *n) {
    struct question *q = CONTAINER_OF(n, struct question, note);
    struct webhooks *w = q->w;
    w->guard = q->options->guard;
    w->timeout_ms = q->options->timeout_ms;
    httpc_set(w->http, q->options->guard, q->options->ca_file);
    answer(q);
}

void webhook_finish_stop(struct webhooks *w) {
    if (!w->stop_question || w->is_claiming || w->is_loading || w->post_count)
        return;
    struct question *q = w->stop_question;
    w->stop_question = NULL;
    httpc_free(&w->http);
    timer_free(&w->due);
    timer_free(&w->stopping);
    answer(q);
}

static void stop_on_loop(struct note *n) {
    struct question *q = CONTAINER_OF(n, struct question, note);
    struct webhooks *w = q->w;
    w->is_stopping = true;
    w->stop_question = q;
    store_unwatch(w->store, w->box);
    timer_cancel(w->due);
    int64_t share = w->stop_ms / 2 < SETTLE_SHARE_MS ? w->stop_ms / 2 : SETTLE_SHARE_MS;
    timer_set(w->stopping, w->stop_ms - share);
    w->stop_ms = share;
    if (!w->is_loading)
        send_waiting(w);
    webhook_finish_stop(w);
}

enum err webhooks_start(const struct webhooks_options *o, struct webhooks **out,
                        struct errinfo *info) {
    (void)info;
    struct webhooks *w = mem_zalloc(sizeof *w);
    *w = (struct webhooks){.store = o->store,
                           .dns = o->dns,
                           .guard = o->guard,
                           .ca_file = o->ca_file ? str_dupz(str_of(o->ca_file)) : NULL,
                           .user_agent = str_dupz(str_of(o->user_agent)),
                           .timeout_ms = o->timeout_ms};
    TAILQ_INIT(&w->posts);
    report_register();
    w->loop = loop_start("webhook");
    w->box = loop_mailbox(w->loop);
    w->asker = mailbox_new();
    struct question q = {.w = w};
    ask_and_wait(&q, begin_on_loop);
    *out = w;
    return OK;
}

void webhooks_set(struct webhooks *w, const struct webhooks_options *o) {
    struct question q = {.w = w, .options = o};
    ask_and_wait(&q, set_on_loop);
}

void webhooks_drain(struct webhooks *w, int64_t timeout_ms) {
    if (!w || w->is_drained)
        return;
    struct question q = {.w = w};
    w->stop_ms = timeout_ms > 0 ? timeout_ms : 0;
    ask_and_wait(&q, stop_on_loop);
    w->is_drained = true;
}

void webhooks_stop(struct webhooks **wp, int64_t timeout_ms) {
    struct webhooks *w = *wp;
    *wp = NULL;
    if (!w)
        return;
    webhooks_drain(w, timeout_ms);
    loop_stop(&w->loop);
    endpoints_free(&w->endpoints);
    standing_release(&w->standing);
    mailbox_free(&w->asker);
    free(w->share);
    free(w->user_agent);
    free(w->ca_file);
    free(w);
}
