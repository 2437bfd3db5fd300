/* /v1/webhooks/{id}/…: what was sent to an endpoint, a test, and sending again. */
#include "api/page.h"
#include "api/v1/common.h"
#include "api/v1/v1.h"
#include "server/base/clock.h"
#include "server/base/log.h"
#include "server/render/value.h"

static const char no_delivery[] = "there is no such webhook or delivery";

/* ---- test ---- */

static void tested(struct request *r, struct store_call *call) {
    if (!v1_is_done(r, call, no_delivery))
        return;
    json_t *o = json_object();
    json_object_set_new(o, "event_id",
                        value_id(&CONTAINER_OF(call, struct store_webhook_test, call)->event_id));
    request_json(r, 202, o);
    request_finish(r);
}

void v1_webhook_test(struct request *r) {
    struct store_webhook_test *q = ARENA_NEW(r->arena, struct store_webhook_test);
    if (!v1_read_nothing(r) || !v1_param_id(r, &q->id))
        return;
    q->project = r->identity.project;
    q->now_wall_ms = r->started_wall_ms;
    q->event_id = id_new(r->started_wall_ms);
    request_store(r, &q->call, STORE_WEBHOOK_TEST, tested);
}

/* ---- the delivery log ---- */

static json_t *render_delivery(const struct notification_row *n) {
    json_t *o = json_object();
    json_object_set_new(o, "delivery", json_integer(n->seq));
    json_object_set_new(o, "event_id", value_id(&n->event_id));
    json_object_set_new(o, "type", json_string(event_type_name(n->type)));
    json_object_set_new(o, "state", json_string(notification_state_name(n->state)));
    json_object_set_new(o, "attempts", json_integer(n->attempts));
    json_object_set_new(o, "created_at", value_time(n->created_wall_ms));
    value_set_time(o, "updated_at", n->updated_wall_ms);
    if (n->state == NOTIFICATION_PENDING)
        value_set_time(o, "next_attempt_at", n->due_wall_ms);
    json_object_set_new(o, "status", n->status != 0 ? json_integer(n->status) : json_null());
    json_object_set_new(o, "took_ms", json_integer(n->took_ms));
    value_set_str(o, "error", n->error);
    value_set_str(o, "response", n->response);
    return o;
}

static void listed(struct request *r, struct store_call *call) {
    const struct store_notifications *q = CONTAINER_OF(call, struct store_notifications, call);
    if (!v1_is_done(r, call, no_delivery))
        return;
    json_t *list = json_array();
    for (size_t i = 0; i < q->count; i++)
        json_array_append_new(list, render_delivery(&q->notification[i]));
    struct page_mark mark = {.seq = q->count > 0 ? q->notification[q->count - 1].seq : 0};
    request_json(
        r, 200, page_json(list, q->more ? page_print(PAGE_DELIVERIES, &mark, r->arena) : STR_NONE));
    request_finish(r);
}

void v1_webhook_deliveries(struct request *r) {
    static const char *const names[] = {"limit", "after"};
    struct store_notifications *q = ARENA_NEW(r->arena, struct store_notifications);
    struct page page;
    if (!v1_param_id(r, &q->webhook_id))
        return;
    request_check_query(r, names, 2);
    page_read(r, PAGE_DELIVERIES, &page);
    if (!v1_is_good(r) || !v1_has_room(r, &page, 1))
        return;
    q->project = r->identity.project;
    q->before_seq = page.after.seq;
    q->limit = page.limit;
    request_store(r, &q->call, STORE_NOTIFICATIONS, listed);
}

/* ---- replay ---- */

#define REPLAY ((struct store_notify_replay *)out)

static void read_delivery(const struct json_at *at, const struct json_node *v, void *out) {
    (void)json_read_int(at, v, 1, INT64_MAX, &REPLAY->seq);
}

static void read_time(const struct json_at *at, const struct json_node *v, int64_t *wall_ms) {
    struct str s;
    if (json_read_str(at, v, &s) && clock_parse_rfc3339(s, wall_ms) != OK)
        json_fault(at, "invalid_time", "this is a time such as 2026-12-31T00:00:00Z");
}

static void read_since(const struct json_at *at, const struct json_node *v, void *out) {
    read_time(at, v, &REPLAY->since_wall_ms);
}

static void read_until(const struct json_at *at, const struct json_node *v, void *out) {
    read_time(at, v, &REPLAY->until_wall_ms);
}

static void read_only_failed(const struct json_at *at, const struct json_node *v, void *out) {
    (void)json_read_bool(at, v, &REPLAY->only_failed);
}

static const struct json_field fields[] = {
    {"delivery", {NULL}, read_delivery},
    {"since", {NULL}, read_since},
    {"until", {NULL}, read_until},
    {"only_failed", {"onlyFailed"}, read_only_failed},
};

enum { REPLAY_STEP = 1000 };

/* Two calls take turns: the one that was answered is still looked at when the next is posted. */
struct replay {
    struct store_notify_replay step[2];
    size_t turn, count;
    bool is_hurried; /* the server stops, or the client went away */
};

static void replayed(struct request *r, struct store_call *call);

static void replay_step(struct request *r, struct replay *p) {
    p->step[p->turn].most = REPLAY_STEP;
    request_store(r, &p->step[p->turn].call, STORE_NOTIFY_REPLAY, replayed);
}

static void hurry(struct request *r) {
    struct replay *p = r->state;
    p->is_hurried = true;
}

/* What was done stands: a client that still listens goes on from there, or repeats it. */
static void end_early(struct request *r, size_t count, int64_t last_seq) {
    log_info("api", "a replay ended early", LOG_ID("request", &r->id), LOG_INT("replayed", count),
             LOG_INT("last", last_seq));
    request_problem(
        r, PROBLEM_UNAVAILABLE,
        "ended early: %zu deliveries are due again, up to delivery %lld; those after it "
        "are as they were",
        count, (long long)last_seq);
    request_finish(r);
}

/* A period is gone through in steps, between which the store does other things. */
static void replayed(struct request *r, struct store_call *call) {
    struct replay *p = r->state;
    const struct store_notify_replay *q = &p->step[p->turn];
    if (!v1_is_done(r, call, no_delivery))
        return;
    p->count += q->replayed;
    if (q->more && p->is_hurried) {
        end_early(r, p->count, q->last_seq);
        return;
    }
    if (q->more) {
        p->turn = 1 - p->turn;
        p->step[p->turn] = (struct store_notify_replay){.webhook_id = q->webhook_id,
                                                        .project = q->project,
                                                        .since_wall_ms = q->since_wall_ms,
                                                        .until_wall_ms = q->until_wall_ms,
                                                        .only_failed = q->only_failed,
                                                        .now_wall_ms = q->now_wall_ms,
                                                        .after_seq = q->last_seq};
        replay_step(r, p);
        return;
    }
    json_t *o = json_object();
    json_object_set_new(o, "replayed", json_integer((json_int_t)p->count));
    request_json(r, 202, o);
    request_finish(r);
}

void v1_webhook_replay(struct request *r) {
    struct replay *p = ARENA_NEW(r->arena, struct replay);
    struct store_notify_replay *q = &p->step[0];
    r->state = p;
    struct json_node *root = NULL;
    if (!v1_param_id(r, &q->webhook_id))
        return;
    q->project = r->identity.project;
    q->now_wall_ms = q->until_wall_ms = r->started_wall_ms;
    if (!v1_read_body(r, fields, sizeof(fields) / sizeof(fields[0]), q, &root))
        return;
    struct json_at top = {.faults = &r->faults};
    struct json_at delivery = json_member(&top, "delivery"), until = json_member(&top, "until");
    bool has_one = json_has(root, "delivery"), has_period = json_has(root, "since");
    if (root->kind == JSON_IS_OBJECT && !has_one && !has_period)
        json_fault(&top, "required", "say which: \"delivery\", or a period from \"since\" on");
    if (has_one && (has_period || json_has(root, "until")))
        json_fault(&delivery, "conflict", "one delivery, or a period: not both");
    if (has_period && json_has(root, "until") && q->until_wall_ms < q->since_wall_ms)
        json_fault(&until, "out_of_range", "this is before \"since\"");
    if (!v1_is_good(r))
        return;
    r->hurry = hurry;
    replay_step(r, p);
}
