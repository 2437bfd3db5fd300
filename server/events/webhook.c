#include "server/events/webhook.h"

#include <sys/queue.h>

#include "server/base/clock.h"
#include "server/base/limits.h"
#include "server/base/log.h"
#include "server/base/random.h"
#include "server/events/endpoint.h"
#include "server/events/report.h"
#include "server/events/retry.h"
#include "server/events/signature.h"
#include "server/net/loop.h"
#include "server/render/event.h"

/* A notification from its claim to its settle is a `struct post`, in ONE of these states:
 *
 *     claimed ──► WAITING ──send──► UNDER_WAY ──answered──► SETTLING ──stored──► freed
 *                    │ endpoint unknown: the endpoints         ▲ │ the store cannot now
 *                    │ are read again first                    │ ▼
 *                    └── gone, disabled, shutdown ────────► UNSTORED (timer)
 */
enum post_state { POST_WAITING, POST_UNDER_WAY, POST_SETTLING, POST_UNSTORED };

enum {
    POSTS_MAX = 64,      /* held at once, in every state */
    PER_ENDPOINT = 8,    /* of one endpoint, so that a dead one holds up nobody */
    BODY_MAX = 1 << 20,  /* an event has no content: metadata and one reply at most */
    POLL_MS = 60 * 1000, /* looks at least so often, whatever the clock did */
    BUSY_POLL_MS = 1000, /* due, but at its endpoint's limit */
    IDLE_POLL_MS = 100,
    STORE_AGAIN_MS = 1000,           /* the store could not: first wait, */
    STORE_AGAIN_MOST_MS = 30 * 1000, /* doubled up to this */
    SETTLE_SHARE_MS = 1000,          /* of the time to stop: kept for the results */
};

struct webhooks {
    struct store *store;
    struct loop *loop;
    struct mailbox *box; /* the loop's */
    char *user_agent, *ca_file;
    int64_t timeout_ms;
    struct dns *dns;
    const struct guard *guard;
    /* the loop's thread alone */
    struct httpc *http;
    struct endpoints *endpoints;
    struct timer *due;      /* claims */
    struct timer *stopping; /* the time to stop is over, in two steps */
    TAILQ_HEAD(, post) posts;
    size_t post_count;
    struct store_notify_claim claim;
    struct store_webhooks load;
    bool is_claiming, claim_again;
    bool is_loading, load_again;
    bool is_stopping, is_late; /* late: what is not stored is left to the store's recovery */
    bool is_drained;           /* main's */
    int64_t stop_ms;
    struct question *stop_question;
};

struct post {
    TAILQ_ENTRY(post) link;
    struct webhooks *w;
    enum post_state state;
    struct id webhook_id, event_id;
    enum event_type type;
    int attempts;
    struct buf body, error, response;
    struct notify_result result;
    struct store_notify_settle settle;
    struct timer *again;
    int64_t again_ms;
};

/* ---- a post's end ---------------------------------------------------------------------------- */

static void claim_more(struct webhooks *w);
static void finish_stop(struct webhooks *w);

static void post_free(struct post *p) {
    struct webhooks *w = p->w;
    TAILQ_REMOVE(&w->posts, p, link);
    w->post_count--;
    timer_free(&p->again);
    buf_release(&p->body);
    buf_release(&p->error);
    buf_release(&p->response);
    free(p);
}

static void settle(struct post *p);

static void settle_again(void *arg) {
    settle(arg);
}

static void settled(struct store_call *call) {
    struct post *p = call->ctx;
    struct webhooks *w = p->w;
    enum err e = call->err;
    struct errinfo info = call->info;
    store_call_release(call);
    if ((e == ERR_UNAVAILABLE || e == ERR_AGAIN) && !w->is_late) {
        p->state = POST_UNSTORED;
        if (!p->again)
            p->again = timer_new(w->loop, settle_again, p);
        timer_set(p->again, p->again_ms);
        p->again_ms = p->again_ms * 2 < STORE_AGAIN_MOST_MS ? p->again_ms * 2 : STORE_AGAIN_MOST_MS;
        return;
    }
    if (e != OK && e != ERR_NOT_FOUND) /* not found: its endpoint was deleted meanwhile */
        log_error("webhook", "result not stored", LOG_ID("webhook", &p->webhook_id),
                  LOG_ID("event", &p->event_id), LOG_STRZ("why", info.text));
    post_free(p);
    claim_more(w);
    finish_stop(w);
}

static void settle(struct post *p) {
    p->state = POST_SETTLING;
    p->settle = (struct store_notify_settle){
        .call = {.verb = STORE_NOTIFY_SETTLE, .reply_to = p->w->box, .done = settled, .ctx = p},
        .result = &p->result,
        .count = 1,
        .now_wall_ms = clock_wall_ms()};
    store_post(p->w->store, &p->settle.call);
}

static void conclude(struct post *p) {
    p->result.error = p->error.n ? buf_str(&p->error) : STR_NONE;
    p->result.response = p->response.n ? buf_str(&p->response) : STR_NONE;
    report_result(&(struct report){.webhook = &p->webhook_id,
                                   .event = &p->event_id,
                                   .type = p->type,
                                   .attempts = p->attempts,
                                   .result = &p->result});
    settle(p);
}

/* Back to pending, as if never claimed. */
static void put_back(struct post *p) {
    struct retry_input in = {.attempts_before = p->attempts,
                             .failure = FAILURE_SHUTDOWN,
                             .retry_after_ms = -1,
                             .now_wall_ms = clock_wall_ms()};
    retry_judge(&in, &p->result);
    conclude(p);
}

/* Nobody is there to be asked. */
static void drop(struct post *p, const char *why) {
    p->result.state = NOTIFICATION_FAILED;
    buf_putz(&p->error, why);
    conclude(p);
}

/* ---- posting --------------------------------------------------------------------------------- */

static void answered(void *arg, const struct httpc_result *res) {
    struct post *p = arg;
    struct retry_input in = {.attempts_before = p->attempts,
                             .failure = res->failure,
                             .status = res->status,
                             .retry_after_ms = res->retry_after_ms,
                             .now_wall_ms = clock_wall_ms(),
                             .random = random_u64()};
    report_under_way(-1);
    retry_judge(&in, &p->result);
    p->result.took_ms = res->took_ms;
    if (res->failure != FAILURE_NONE) {
        struct str why =
            res->failure_text.n ? res->failure_text : str_of(failure_text(res->failure));
        retry_excerpt(why, &p->error);
    } else {
        retry_excerpt(res->body, &p->response);
    }
    if (res->failure != FAILURE_SHUTDOWN)
        report_answered(res->took_ms);
    conclude(p);
}

/* A failure that was found before anything was sent: counted like one of the network. */
static void refuse(struct post *p, const char *why) {
    struct httpc_result res = {
        .failure = FAILURE_LOCAL, .failure_text = str_of(why), .retry_after_ms = -1};
    report_under_way(1); /* answered() takes it back */
    answered(p, &res);
}

static void send_post(struct post *p, const struct endpoint *to) {
    struct webhooks *w = p->w;
    int64_t now_wall_ms = clock_wall_ms();
    struct str secrets[ENDPOINT_SECRETS_MAX];
    char id[ID_TEXT_SIZE];
    struct buf signature = BUF_INIT(1024);
    struct arena *a = arena_new();
    size_t count = endpoint_secrets(to, now_wall_ms, secrets);
    id_print(&p->event_id, id);
    p->state = POST_UNDER_WAY;
    if (signature_print(secrets, count, str_of(id), now_wall_ms / 1000, buf_str(&p->body),
                        &signature) != OK) {
        refuse(p, "the endpoint's secret is malformed: rotate it");
    } else {
        const char *headers[] = {
            "content-type: application/json",
            arena_printf(a, "user-agent: %s", w->user_agent).p,
            arena_printf(a, "webhook-id: %s", id).p,
            arena_printf(a, "webhook-timestamp: %lld", (long long)(now_wall_ms / 1000)).p,
            arena_printf(a, "webhook-signature: %.*s", STR_ARG(buf_str(&signature))).p,
            NULL};
        struct httpc_request r = {.method = "POST",
                                  .url = to->url,
                                  .headers = headers,
                                  .body = buf_str(&p->body),
                                  .timeout_ms = w->timeout_ms,
                                  .response_max = LIMIT_WEBHOOK_RESPONSE};
        report_under_way(1);
        httpc_send(w->http, &r, answered, p);
    }
    buf_release(&signature);
    arena_free(&a);
}

static void load_endpoints(struct webhooks *w);

/* `is_fresh`: the endpoints were read after the claim, so who is not among them is gone. */
static void send_waiting(struct webhooks *w, bool is_fresh) {
    struct post *p, *next;
    bool is_unknown = false;
    for (p = TAILQ_FIRST(&w->posts); p; p = next) {
        next = TAILQ_NEXT(p, link);
        if (p->state != POST_WAITING)
            continue;
        const struct endpoint *to = endpoints_find(w->endpoints, &p->webhook_id);
        if (w->is_stopping)
            put_back(p);
        else if (to && to->state != WEBHOOK_DISABLED)
            send_post(p, to);
        else if (is_fresh)
            drop(p, to ? "the endpoint is disabled" : "the endpoint was deleted");
        else
            is_unknown = true;
    }
    if (is_unknown)
        load_endpoints(w);
}

static void loaded(struct store_call *call) {
    struct webhooks *w = call->ctx;
    bool ok = call->err == OK, again = w->load_again;
    w->is_loading = w->load_again = false;
    if (ok) {
        endpoints_free(&w->endpoints);
        w->endpoints = endpoints_new(w->load.webhook, w->load.count);
    }
    store_call_release(call);
    if (!w->is_stopping && !ok)
        timer_set(w->due, STORE_AGAIN_MS); /* which loads when something waits */
    else if (!w->is_stopping && again)
        load_endpoints(w); /* something was changed or claimed after this reading began */
    else
        send_waiting(w, true);
    finish_stop(w);
}

static void load_endpoints(struct webhooks *w) {
    if (w->is_loading) {
        w->load_again = true;
        return;
    }
    w->is_loading = true;
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
                       .body = BUF_INIT(BODY_MAX),
                       .error = BUF_INIT(2 * LIMIT_WEBHOOK_RESPONSE_STORED),
                       .response = BUF_INIT(2 * LIMIT_WEBHOOK_RESPONSE_STORED),
                       .result = {.seq = n->seq},
                       .again_ms = STORE_AGAIN_MS};
    render_event(e, &p->body);
    ASSERT(buf_status(&p->body) == OK); /* events are bounded by what was accepted */
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
    send_waiting(w, false);
    bool again = (w->claim_again || is_full) && ok;
    w->claim_again = false;
    if (w->is_stopping)
        finish_stop(w);
    else if (again)
        claim_more(w);
    else if (ok)
        plan(w, next);
    else
        timer_set(w->due, STORE_AGAIN_MS);
}

static void claim_more(struct webhooks *w) {
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
        .per_webhook = PER_ENDPOINT};
    store_post(w->store, &w->claim.call);
}

static void due(void *arg) {
    struct webhooks *w = arg;
    struct post *p;
    TAILQ_FOREACH (p, &w->posts, link) {
        if (p->state == POST_WAITING && !w->is_loading) {
            load_endpoints(w);
            break;
        }
    }
    claim_more(w);
}

static void noticed(struct store_notice *n) {
    struct webhooks *w = n->ctx;
    enum store_notice_kind kind = n->kind;
    store_notice_free(&n);
    if (w->is_stopping)
        return;
    if (kind == NOTICE_WEBHOOKS)
        load_endpoints(w);
    claim_more(w); /* of NOTICE_WEBHOOKS, too: an endpoint may be enabled again */
}

/* ---- start, guard, stop ---------------------------------------------------------------------- */

/* Something that main wants done on the loop, and waits for. */
struct question {
    struct note note;
    struct webhooks *w;
    const struct guard *guard;
    struct mailbox *asker;
    bool is_answered;
};

static void question_answered(struct note *n) {
    CONTAINER_OF(n, struct question, note)->is_answered = true;
}

static void answer(struct question *q) {
    q->note.run = question_answered;
    mailbox_send(q->asker, &q->note);
}

static void ask_and_wait(struct question *q, void (*run)(struct note *n)) {
    q->asker = mailbox_new();
    q->note.run = run;
    mailbox_send(q->w->box, &q->note);
    while (!q->is_answered)
        mailbox_wait(q->asker, -1);
    mailbox_free(&q->asker);
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
    finish_stop(w);
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
    claim_more(w);
    answer(q);
}

static void set_guard_on_loop(struct note *n) {
    struct question *q = CONTAINER_OF(n, struct question, note);
    q->w->guard = q->guard;
    httpc_set_guard(q->w->http, q->guard);
    answer(q);
}

static void finish_stop(struct webhooks *w) {
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
        send_waiting(w, false);
    finish_stop(w);
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
    struct question q = {.w = w};
    ask_and_wait(&q, begin_on_loop);
    *out = w;
    return OK;
}

void webhooks_set_guard(struct webhooks *w, const struct guard *g) {
    struct question q = {.w = w, .guard = g};
    ask_and_wait(&q, set_guard_on_loop);
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
    free(w->user_agent);
    free(w->ca_file);
    free(w);
}
