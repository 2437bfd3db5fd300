/* One notification on its way. */
#include "server/base/clock.h"
#include "server/base/limits.h"
#include "server/base/log.h"
#include "server/base/random.h"
#include "server/events/report.h"
#include "server/events/retry.h"
#include "server/events/signature.h"
#include "server/events/webhook_state.h"

/* ---- a post's end ---------------------------------------------------------------------------- */

void post_free(struct post *p) {
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
    webhook_claim_more(w);
    webhook_finish_stop(w);
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

void post_put_back(struct post *p) {
    struct retry_input in = {.attempts_before = p->attempts,
                             .failure = FAILURE_SHUTDOWN,
                             .retry_after_ms = -1,
                             .now_wall_ms = clock_wall_ms()};
    retry_judge(&in, &p->result);
    conclude(p);
}

void post_drop(struct post *p, const char *why) {
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
                             .created_wall_ms = p->created_wall_ms,
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
    if (res->failure != FAILURE_SHUTDOWN) {
        report_answered(res->took_ms);
        standing_note(&p->w->standing, &p->webhook_id, res->took_ms, p->w->timeout_ms);
    }
    conclude(p);
}

/* A failure that was found before anything was sent: counted like one of the network. */
static void refuse(struct post *p, const char *why) {
    struct httpc_result res = {
        .failure = FAILURE_LOCAL, .failure_text = str_of(why), .retry_after_ms = -1};
    report_under_way(1); /* answered() takes it back */
    answered(p, &res);
}

void post_send(struct post *p, const struct endpoint *to) {
    struct webhooks *w = p->w;
    if (p->has_no_body) {
        refuse(p, "there was no memory for the event");
        return;
    }
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
