#include "api/request.h"

#include <stdarg.h>

#include "server/base/clock.h"
#include "server/base/log.h"

struct request *request_new(struct env *env, struct mailbox *box, struct str target) {
    struct arena *a = arena_new();
    struct request *r = ARENA_NEW(a, struct request);
    r->env = env;
    r->box = box;
    r->arena = a;
    r->started_wall_ms = clock_wall_ms();
    r->started_mono_us = clock_mono_us();
    r->id = id_new(r->started_wall_ms);
    r->target = arena_dup(a, target);
    faults_init(&r->faults, a);
    http_reply_init(&r->reply);
    buf_init(&r->body, 0);
    return r;
}

void request_drop_body(struct request *r) {
    buf_release_secret(&r->body);
}

/* A key in clear is kept nowhere (T21); the rest of a header is no secret. */
static void wipe_key(struct request *r) {
    struct str key = request_header(r, STR("Authorization"));
    if (key.n > 0)
        explicit_bzero((char *)(uintptr_t)key.p, key.n); /* a copy in the arena */
}

void request_free(struct request **rp) {
    struct request *r = *rp;
    *rp = NULL;
    if (r == NULL)
        return;
    wipe_key(r);
    env_end_page(r->env, &r->charged_key_id, r->page_bytes);
    env_uncharge(r->env, &r->charged_key_id, r->charged_bytes);
    request_drop_body(r);
    http_reply_release(&r->reply);
    keyring_unref(&r->keyring);
    struct arena *a = r->arena; /* it holds the request itself */
    arena_free(&a);
}

/* ---- answers ---- */

/* Without memory there may be none for an answer either: this one is made without a library. */
static void reply_short(struct request *r) {
    static const enum problem_code code = PROBLEM_OVERLOADED;
    struct http_reply *reply = &r->reply;
    char id[ID_TEXT_SIZE];
    id_print(&r->id, id);
    mem_forget_short();
    http_reply_clear(reply);
    reply->status = problem_status(code);
    reply->content_type = "application/problem+json";
    reply->fixed = arena_printf(
        r->arena,
        "{\"type\":\"urn:postchute:problem:%s\",\"title\":\"%s\",\"status\":%d,"
        "\"detail\":\"there is no memory for it now; repeat the request\","
        "\"code\":\"%s\",\"request_id\":\"%s\"}",
        problem_name(code), problem_title(code), reply->status, problem_name(code), id);
    http_reply_header(reply, "Retry-After", STR("5"));
    log_warn("api", "no memory for a request", LOG_ID("request", &r->id));
}

void request_json(struct request *r, int status, json_t *v) {
    http_reply_json(&r->reply, status, v);
    if (mem_is_short())
        reply_short(r);
}

void request_json_text(struct request *r, int status, struct buf *json) {
    struct http_reply *reply = &r->reply;
    reply->status = status;
    reply->content_type = "application/json";
    buf_release_secret(&reply->body);
    reply->body = *json;
    *json = BUF_INIT(json->max);
    if (mem_is_short())
        reply_short(r);
}

void request_problem_short(struct request *r) {
    reply_short(r);
}

void request_problem_json(struct request *r, enum err e, const struct errinfo *info) {
    if (e == ERR_UNAVAILABLE)
        reply_short(r);
    else
        request_problem(r, PROBLEM_INVALID_JSON, "%s", info->text);
}

static void set_problem(struct request *r, enum problem_code code, struct str detail,
                        const struct faults *faults) {
    const struct problem p = {
        .code = code, .detail = detail, .request_id = &r->id, .faults = faults};
    http_reply_clear(&r->reply);
    http_reply_problem(&r->reply, &p);
    if (mem_is_short()) {
        reply_short(r);
        return;
    }
    if (r->reply.status == 503)
        http_reply_header(&r->reply, "Retry-After", STR("5"));
    if (r->reply.status == 401)
        http_reply_header(&r->reply, "WWW-Authenticate", STR("Bearer"));
}

void request_problem(struct request *r, enum problem_code code, const char *fmt, ...) {
    struct errinfo text;
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text.text, sizeof(text.text), fmt, ap);
    va_end(ap);
    set_problem(r, code, arena_dup(r->arena, str_of(text.text)), NULL);
}

/* Who shows or logs the detail alone must know what it is about. */
static struct str detail_of(struct request *r) {
    const struct fault *first = &r->faults.list[0];
    if (r->faults.count > 1)
        return arena_printf(r->arena, "%zu faults; see errors", r->faults.count);
    if (str_equal(first->pointer, STR("#")))
        return first->detail;
    return arena_printf(r->arena, "%.*s: %.*s", STR_ARG(first->pointer), STR_ARG(first->detail));
}

void request_problem_faults(struct request *r, enum problem_code code) {
    set_problem(r, code, detail_of(r), &r->faults);
}

struct rights request_rights(const struct request *r) {
    return (struct rights){.project = r->identity.project,
                           .from_domains = r->identity.from_domains,
                           .from_domain_count = r->identity.from_domain_count,
                           .is_test = r->identity.is_test};
}

void request_problem_store(struct request *r, enum err e, const struct errinfo *info) {
    switch (e) {
    case ERR_NOT_FOUND:
        request_problem(r, PROBLEM_NOT_FOUND, "%s",
                        info->text[0] != '\0' ? info->text : "there is no such thing");
        break;
    case ERR_CONFLICT:
        request_problem(r, PROBLEM_CONFLICT, "%s",
                        info->text[0] != '\0' ? info->text : "the present state forbids it");
        break;
    case ERR_INVALID:
    case ERR_LIMIT:
        request_problem(r, PROBLEM_VALIDATION_FAILED, "%s", info->text);
        break;
    case ERR_UNAVAILABLE:
    case ERR_AGAIN:
        log_info("api", "the store is not available", LOG_ID("request", &r->id),
                 LOG_STRZ("why", info->text));
        request_problem(r, PROBLEM_UNAVAILABLE, "nothing was stored; repeat the request");
        break;
    default:
        log_error("api", "the store failed", LOG_ID("request", &r->id),
                  LOG_STRZ("why", info->text));
        request_problem(r, PROBLEM_INTERNAL, "the request was not carried out");
        break;
    }
}

/* A client that reads slowly holds the answer: large ones are taken out of the same budget as large
 * bodies (T16). What was charged for a body stays until it is sent, too. */
static void charge_reply(struct request *r) {
    size_t n = r->reply.body.n > REQUEST_FREE_REPLY ? r->reply.body.n : 0;
    if (n > r->charged_bytes && !r->is_promised && !request_charge(r, n - r->charged_bytes)) {
        r->reply.must_close = false; /* its request was whole */
        n = 0;
    }
    size_t rest = r->charged_bytes - r->aside_bytes;
    size_t keep = n > rest ? n : rest;
    if (r->page_bytes > n) { /* what is left of it is the answer */
        env_end_page(r->env, &r->charged_key_id, r->page_bytes - n);
        r->page_bytes = n;
    }
    if (r->aside_bytes > 0 && keep < r->charged_bytes) {
        env_uncharge(r->env, &r->charged_key_id, r->charged_bytes - keep);
        r->charged_bytes = keep;
    }
    r->aside_bytes = 0;
}

void request_finish(struct request *r) {
    ASSERT(!r->is_finished && r->reply.status != 0);
    if (buf_status(&r->reply.body) == ERR_UNAVAILABLE) {
        reply_short(r);
    } else if (buf_status(&r->reply.body) != OK) {
        log_warn("api", "an answer is too large", LOG_ID("request", &r->id),
                 LOG_STR("path", r->path));
        request_problem(r, PROBLEM_INTERNAL, "the answer would be larger than %d MiB",
                        HTTP_REPLY_MAX / (1024 * 1024));
    }
    charge_reply(r);
    r->is_finished = true;
    r->hurry = NULL;
    if (r->wake != NULL)
        r->wake(r);
}

bool request_invalid(struct request *r, const char *why) {
    request_problem(r, PROBLEM_INVALID_REQUEST, "%s", why);
    r->reply.must_close = true;
    return false;
}

/* ---- what others do for it ---- */

static void store_answered(struct store_call *call) {
    struct request *r = call->ctx;
    void (*done)(struct request *, struct store_call *) = r->store_done;
    done(r,
         call); /* whatever it does, the request lives until its loop turns to the sockets again */
    store_call_release(call);
}

void request_store(struct request *r, struct store_call *call, enum store_verb verb,
                   void (*done)(struct request *r, struct store_call *call)) {
    r->store_done = done;
    call->verb = verb;
    call->reply_to = r->box;
    call->ctx = r;
    call->done = store_answered;
    store_post(r->env->store, call);
}

static void work_runs(struct work *work) {
    struct request *r = CONTAINER_OF(work, struct request, work);
    r->work_run(r);
}

static void work_is_done(struct work *work) {
    struct request *r = CONTAINER_OF(work, struct request, work);
    r->work_done(r);
}

static bool post_work(struct request *r, void (*run)(struct request *r),
                      void (*done)(struct request *r), bool is_long) {
    r->work_run = run;
    r->work_done = done;
    r->work = (struct work){
        .run = work_runs, .reply_to = r->box, .done = work_is_done, .is_long = is_long};
    return workers_post(r->env->workers, &r->work);
}

void request_work(struct request *r, void (*run)(struct request *r),
                  void (*done)(struct request *r)) {
    (void)post_work(r, run, done, false); /* there is always room for these */
}

bool request_work_long(struct request *r, void (*run)(struct request *r),
                       void (*done)(struct request *r)) {
    if (post_work(r, run, done, true))
        return true;
    request_problem(r, PROBLEM_OVERLOADED, "many keys are being made right now");
    return false;
}

static void load_is_done(struct keeper_load *load) {
    struct request *r = CONTAINER_OF(load, struct request, load);
    r->load_done(r, load->err);
}

void request_reload(struct request *r, void (*done)(struct request *r, enum err err)) {
    r->load_done = done;
    r->load = (struct keeper_load){.reply_to = r->box, .done = load_is_done};
    keeper_reload(r->env, &r->load);
}
