/* POST /send and POST /v1/messages: one message in, answered when it is safe. */
#include "api/v1/common.h"
#include "api/v1/submission.h"
#include "api/v1/v1.h"
#include "api/wait.h"
#include "server/base/clock.h"
#include "server/base/log.h"
#include "server/intake/submit.h"
#include "server/render/message.h"

struct sending {
    struct intake *intake;
    struct domains *domains;
    struct submission submission;
    struct store_accept *accept; /* NULL: the reply says why, unless */
    struct store_accept *ask;    /* it was accepted before; NULL: there is no key to ask by */
    struct id id; /* of what was stored: with a replay not the one that was composed */
    bool is_replay;
    /* waiting */
    int wait_s;          /* -1: not asked for */
    struct buf accepted; /* the answer when nothing better is known */
    struct store_message *look;
    bool is_reading, is_over, is_last_look;
};

/* What came in is not held while the request waits. */
static void release_input(struct sending *s) {
    intake_unref(&s->intake);
    domains_unref(&s->domains);
}

static void finish(struct request *r) {
    struct sending *s = r->state;
    release_input(s);
    buf_release(&s->accepted);
    request_finish(r);
}

/* ---- reading and composing: on the loop, or on a worker when the body is large ---- */

/* The tree takes up to thirty times its text: it is given back as soon as it was read. */
static bool read_body(struct request *r, struct sending *s) {
    struct errinfo info = {0};
    struct json_node *root;
    struct arena *own = r->body.n > LIMIT_SMALL_BODY ? arena_new() : NULL;
    enum err e = json_body_parse(&r->body, own != NULL ? own : r->scratch, &root, &info);
    if (e == OK)
        v1_submission_read(root, &r->faults, &s->submission);
    else
        request_problem_json(r, e, &info);
    if (own == NULL)
        arena_clear(r->scratch);
    arena_free(&own);
    return e == OK;
}

/* Its time is that at which it is whole: how slowly it came takes nothing from its life. */
static struct submit_input input(struct request *r, const struct sending *s, struct str key) {
    return (struct submit_input){
        .submission = &s->submission,
        .intake = s->intake,
        .domains = s->domains,
        .rights = request_rights(r),
        .key_id = r->identity.key_id,
        .idempotency_key = key,
        .now_wall_ms = clock_wall_ms(),
    };
}

/* The same answer whether that is seen before composing or by it. */
static bool is_only_too_large(const struct faults *f) {
    return f->count == 1 && strcmp(f->list[0].code, "message_too_large") == 0;
}

/* What is in the body is in the composed message now; the store needs the rest. */
static void drop_body(struct request *r, struct sending *s) {
    s->submission.text = s->submission.html = STR_NONE;
    s->submission.attachment_count = 0;
    request_drop_body(r);
}

static void submit(struct request *r, struct sending *s, const struct submit_input *in) {
    if (r->faults.count > 0) {
        request_problem_faults(r, is_only_too_large(&r->faults) ? PROBLEM_BODY_TOO_LARGE
                                                                : PROBLEM_VALIDATION_FAILED);
        return;
    }
    switch (submit_prepare(in, &r->faults, r->arena, &s->accept)) {
    case SUBMIT_OK:
        drop_body(r, s);
        break;
    case SUBMIT_INVALID:
        request_problem_faults(r, PROBLEM_VALIDATION_FAILED);
        break;
    case SUBMIT_FORBIDDEN:
        request_problem_faults(r, PROBLEM_FROM_NOT_ALLOWED);
        break;
    case SUBMIT_TOO_LARGE:
        request_problem_faults(r, PROBLEM_BODY_TOO_LARGE);
        break;
    case SUBMIT_UNAVAILABLE:
        request_problem_short(r);
        break;
    }
}

static void prepare(struct request *r) {
    struct sending *s = r->state;
    struct str key = v1_idempotency_key(r);
    request_check_query(r, NULL, 0);
    if (!read_body(r, s))
        return;
    bool is_as_it_came = r->faults.count == 0; /* else something stands in for what was refused */
    submission_check(&s->submission, &intake_settings_of(s->intake)->limits, &r->faults);
    if (mem_is_short()) { /* a fault may be none, and what is missing may have been there */
        request_problem_short(r);
        return;
    }
    if (!request_charge_read(r))
        return;
    const struct submit_input in = input(r, s, key);
    submit(r, s, &in);
    if (s->accept == NULL && is_as_it_came && !str_is_absent(key))
        s->ask = submit_ask(&in, r->arena);
}

/* ---- storing, and waiting when that is preferred ---- */

static void answer_accepted(struct request *r) {
    struct sending *s = r->state;
    request_json_text(r, 202, &s->accepted);
}

/* Location, and what was special about it. Whatever is answered: after this, no other reply is set.
 */
static void add_headers(struct request *r) {
    struct sending *s = r->state;
    char id[ID_TEXT_SIZE];
    id_print(&s->id, id);
    http_reply_header(&r->reply, "Location", arena_printf(r->arena, "/v1/messages/%s", id));
    if (s->is_replay)
        http_reply_header(&r->reply, "Idempotency-Replayed", STR("true"));
    if (s->wait_s >= 0)
        http_reply_header(&r->reply, "Preference-Applied",
                          arena_printf(r->arena, "wait=%d", s->wait_s));
}

static void look(struct request *r);

static bool is_final(const struct message_row *m) {
    for (size_t i = 0; i < m->recipient_count; i++)
        if (!recipient_state_is_final(m->recipient[i].state))
            return false;
    return true;
}

static void looked(struct request *r, struct store_call *call) {
    struct sending *s = r->state;
    s->is_reading = false;
    if (call->err != OK) {
        wait_cancel(r); /* it is stored; only how it goes on cannot be told */
        answer_accepted(r);
    } else if (is_final(&s->look->message) || s->is_last_look) {
        wait_cancel(r);
        request_json(r, is_final(&s->look->message) ? 200 : 202, render_message(&s->look->message));
    } else {
        if (s->is_over) /* it may have ended after this was read */
            look(r);
        return;
    }
    add_headers(r);
    finish(r);
}

static void look(struct request *r) {
    struct sending *s = r->state;
    s->is_reading = true;
    s->is_last_look = s->is_over;
    s->look = ARENA_NEW(r->arena, struct store_message);
    s->look->id = s->id;
    s->look->project = r->identity.project;
    request_store(r, &s->look->call, STORE_MESSAGE, looked);
}

static void waited(struct request *r) {
    struct sending *s = r->state;
    s->is_over = true;
    if (!s->is_reading)
        look(r);
}

static void accepted(struct request *r, struct store_call *call) {
    struct sending *s = r->state;
    if (call->err != OK) {
        if (call->err == ERR_CONFLICT)
            v1_problem_reused(r, call);
        else
            request_problem_store(r, call->err, &call->info);
        finish(r);
        return;
    }
    s->id = s->accept->message.id;
    s->is_replay = s->accept->is_replay;
    log_info("api", s->is_replay ? "accepted before" : "accepted", LOG_ID("message", &s->id),
             LOG_STR("from", s->accept->message.from_domain),
             LOG_INT("recipients", s->accept->message.recipient_count),
             LOG_INT("bytes", s->accept->message.size_bytes));
    s->accepted = BUF_INIT(HTTP_REPLY_MAX);
    render_accepted(&s->accept->message, &s->accepted);
    if (s->wait_s > 0) {
        release_input(s);
        wait_for(r, &s->id, s->wait_s * INT64_C(1000), waited);
        look(r); /* after the watch began, so that its end cannot be missed */
        return;
    }
    answer_accepted(r);
    add_headers(r);
    finish(r);
}

/* What is refused by now may have been accepted when it came first: that stands. */
static void asked(struct request *r, struct store_call *call) {
    struct sending *s = r->state;
    if (call->err == ERR_NOT_FOUND) {
        finish(r);
        return;
    }
    http_reply_clear(&r->reply);
    s->accept = s->ask;
    accepted(r, call);
}

/* After the commit it is too late to refuse the answer. Who waits is told of each recipient's last
 * reply; else hardly more than what the body, which is charged, said. */
static bool can_answer(struct request *r, const struct sending *s) {
    const struct message_row *m = &s->accept->message;
    size_t n = render_message_bytes(m) + m->recipient_count * LIMIT_PAGE_RECIPIENT;
    return request_promise_answer(r, s->wait_s > 0 ? n : 0);
}

static void prepared(struct request *r) {
    struct sending *s = r->state;
    if (s->accept != NULL && can_answer(r, s)) {
        request_store(r, &s->accept->call, STORE_ACCEPT, accepted);
        return;
    }
    if (s->accept == NULL && s->ask != NULL) {
        request_store(r, &s->ask->call, STORE_ACCEPT, asked);
        return;
    }
    if (s->accept != NULL)
        submit_discard(s->accept);
    finish(r);
}

void v1_send(struct request *r) {
    char why[160] = "";
    if (!env_can_accept(r->env, why)) { /* the disk's floor keeps room for what is under way */
        request_problem(r, PROBLEM_UNAVAILABLE, "%s", why);
        request_finish(r);
        return;
    }
    struct sending *s = ARENA_NEW(r->arena, struct sending);
    s->intake = env_intake(r->env);
    s->domains = env_domains(r->env);
    s->wait_s = request_prefer_wait(request_header_list(r, STR("Prefer")));
    r->state = s;
    if (r->body.n > LIMIT_SMALL_BODY) {
        request_work(r, prepare, prepared);
        return;
    }
    prepare(r);
    prepared(r);
}
