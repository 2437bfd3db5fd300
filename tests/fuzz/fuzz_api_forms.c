/* What the handlers of /v1 make of a path, a query and a body (T3, T15, T24, T25): either the
 * request is answered with a problem, or what is asked of the store keeps the store's promises.
 * First octet: the handler, and what the key and the project are like; then, up to a line end, path
 * and query; of a retry, up to another, its Idempotency-Key; the rest is the body.
 *
 * The request's side is below: what is asked is kept and looked at, a call that only reads is
 * answered with one row. */
#include <stdarg.h>

#include "api/json.h"
#include "api/page.h"
#include "api/v1/v1.h"
#include "server/base/base64.h"
#include "server/base/log.h"
#include "server/mail/address.h"
#include "server/mail/domain.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static size_t answers, asked;

/* What the first octet says beside the handler. */
enum {
    WORLD_LIMITED = 1, /* a key with each limit that there is */
    WORLD_FULL = 2,    /* as many keys and webhooks as there may be */
    WORLD_BUSY = 4,    /* others change the same webhook; without WORLD_FULL, delete it, too */
    WORLDS = 8
};
static unsigned world;

static bool is_short;
bool mem_is_short(void) {
    return is_short;
}

static void check_text(struct str s, size_t most) {
    ASSERT(s.n <= most && str_is_utf8(s) && !str_has_control(s, false));
}

static void check_webhook(struct request *r, const struct webhook_row *w) {
    struct str secret = w->secret;
    struct buf bytes = BUF_INIT(64);
    ASSERT(env_check_url(r->env, w->url, r->arena, NULL) == OK && w->url.n <= LIMIT_URL);
    check_text(w->url, LIMIT_URL);
    check_text(w->description, 255);
    ASSERT(str_starts_with(secret, STR("whsec_")) &&
           base64_decode(str_from(secret, 6), &bytes) == OK && bytes.n >= 24);
    buf_release(&bytes);
    for (size_t i = 0; i < w->event_count; i++) {
        enum event_type type;
        ASSERT(event_type_parse(w->events[i], &type) == OK || str_equal(w->events[i], STR("*")) ||
               str_equal(w->events[i], STR("final")) ||
               str_equal(w->events[i], STR("undelivered")));
    }
}

static void check_key(const struct request *r, const struct key_row *k) {
    struct str again;
    check_text(k->name, LIMIT_TAG);
    ASSERT(k->name.n > 0 && k->scopes != 0 && k->rate >= 0 && k->project == r->identity.project);
    ASSERT(k->expires_wall_ms == 0 || k->expires_wall_ms > r->started_wall_ms);
    for (size_t i = 0; i < k->from_domain_count; i++) {
        ASSERT(rights_rule_parse(k->from_domains[i], r->arena, &again, NULL) == OK);
        ASSERT(str_equal(k->from_domains[i], again) && str_is_ascii(again));
        ASSERT(r->identity.from_domain_count == 0 ||
               rights_rule_is_within(again, r->identity.from_domains[0]));
    }
    ASSERT(k->is_test || !r->identity.is_test);
    ASSERT(k->from_domain_count > 0 || r->identity.from_domain_count == 0);
    ASSERT(r->identity.rate == 0 || (k->rate > 0 && k->rate <= r->identity.rate));
    ASSERT(r->identity.expires_wall_ms == 0 ||
           (k->expires_wall_ms > 0 && k->expires_wall_ms <= r->identity.expires_wall_ms));
}

static void check_search(const struct request *r, const struct store_messages *q) {
    struct address a;
    enum recipient_state state;
    ASSERT(q->project == r->identity.project && q->limit >= 1 && q->limit <= LIMIT_PAGE);
    ASSERT(q->before_seq >= 0);
    ASSERT(str_is_absent(q->state) || str_equal(q->state, STR("deferred")) ||
           recipient_state_parse(q->state, &state) == OK);
    ASSERT(str_is_absent(q->to) || address_parse(&a, q->to, r->arena, NULL) == OK);
    ASSERT(str_is_absent(q->from) || address_parse(&a, q->from, r->arena, NULL) == OK);
    if (!str_is_absent(q->tag))
        check_text(q->tag, LIMIT_TAG);
    if (!str_is_absent(q->external_id))
        check_text(q->external_id, LIMIT_EXTERNAL_ID);
}

static bool is_retry;
static void check_retry(const struct request *r) {
    const struct store_retry *q = r->state;
    struct str key = is_retry ? q->idempotency_key : STR_NONE;
    if (str_is_absent(key))
        return;
    if (r->identity.is_test) {
        ASSERT(str_starts_with(key, STR(" ")));
        key = str_from(key, 1);
    }
    ASSERT(request_is_idempotency_key(key) && r->faults.count == 0);
}

/* ---- in the place of api/request.c ----------------------------------------------------------- */

void request_store(struct request *r, struct store_call *call, enum store_verb verb,
                   void (*done)(struct request *r, struct store_call *call)) {
    static struct str event = {"final", 5};
    static struct webhook_row webhook[LIMIT_WEBHOOKS];
    ASSERT(answers == 0 && r->faults.count == 0 && ++asked < 12);
    call->err = OK;
    switch (verb) {
    case STORE_WEBHOOKS: {
        struct store_webhooks *q = CONTAINER_OF(call, struct store_webhooks, call);
        q->webhook = webhook;
        q->count = world & WORLD_FULL ? LIMIT_WEBHOOKS : 1;
        for (size_t i = 0; i < q->count; i++)
            webhook[i] = (struct webhook_row){
                .id = {{(uint8_t)i}},
                .project = 1,
                .url = STR("https://example.com/"),
                .secret = STR("whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"),
                .events = &event,
                .event_count = i % 2};
        bool is_gone = (world & (WORLD_BUSY | WORLD_FULL)) == WORLD_BUSY && asked > 3;
        if (!is_gone)
            (void)!id_parse(r->param[0], &webhook[0].id);
        done(r, call);
        return;
    }
    case STORE_WEBHOOK_PUT: {
        const struct store_webhook_put *q = CONTAINER_OF(call, struct store_webhook_put, call);
        check_webhook(r, &q->webhook);
        ASSERT(q->replace || q->most == LIMIT_WEBHOOKS);
        if ((world & WORLD_BUSY) && q->replace)
            call->err = ERR_CONFLICT;
        else if ((world & WORLD_FULL) && !q->replace)
            call->err = err_set(&call->info, ERR_LIMIT, "project", "there are too many");
        done(r, call);
        return;
    }
    case STORE_KEY_PUT:
        check_key(r, &CONTAINER_OF(call, struct store_key_put, call)->key);
        break;
    case STORE_MESSAGE:
        check_retry(r);
        break;
    case STORE_MESSAGES:
        check_search(r, CONTAINER_OF(call, struct store_messages, call));
        break;
    case STORE_NOTIFICATIONS: {
        const struct store_notifications *q = CONTAINER_OF(call, struct store_notifications, call);
        ASSERT(q->limit >= 1 && q->limit <= LIMIT_PAGE && q->before_seq >= 0);
        break;
    }
    case STORE_NOTIFY_REPLAY: {
        const struct store_notify_replay *q = CONTAINER_OF(call, struct store_notify_replay, call);
        ASSERT(q->seq >= 0 && (q->seq == 0 || q->since_wall_ms == 0));
        break;
    }
    case STORE_DOMAIN_DELETE: {
        struct str again, name = CONTAINER_OF(call, struct store_domain_delete, call)->name;
        ASSERT(domain_parse(name, false, r->arena, &again, NULL) == OK && str_equal(name, again));
        break;
    }
    default:
        break;
    }
    answers++; /* what is rendered from the store's rows is another matter */
}

bool request_work_long(struct request *r, void (*run)(struct request *r),
                       void (*done)(struct request *r)) {
    (void)run, (void)done;
    ASSERT(r->faults.count == 0);
    answers++;
    return true;
}

void request_reload(struct request *r, void (*done)(struct request *r, enum err err)) {
    (void)r, (void)done;
    answers++;
}

void request_json(struct request *r, int status, json_t *v) {
    r->reply.status = status;
    ASSERT(json_is_object(v));
    json_decref(v);
}

void request_problem(struct request *r, enum problem_code code, const char *fmt, ...) {
    struct errinfo text;
    va_list ap;
    va_start(ap, fmt);
    ASSERT(vsnprintf(text.text, sizeof(text.text), fmt, ap) > 0);
    va_end(ap);
    r->reply.status = 400 + (int)code;
}

void request_problem_faults(struct request *r, enum problem_code code) {
    ASSERT(r->faults.count > 0);
    for (size_t i = 0; i < r->faults.count && i < LIMIT_FAULTS; i++)
        ASSERT(r->faults.list[i].pointer.n > 0 && str_is_utf8(r->faults.list[i].pointer) &&
               str_is_utf8(r->faults.list[i].detail));
    r->reply.status = 400 + (int)code;
}

void request_problem_json(struct request *r, enum err e, const struct errinfo *info) {
    ASSERT((is_short || e == ERR_INVALID) && info->text[0] != '\0');
    r->reply.status = 400;
}

void request_problem_short(struct request *r) {
    r->reply.status = 503;
}

void request_problem_store(struct request *r, enum err e, const struct errinfo *info) {
    (void)info;
    r->reply.status = 500 + (int)e;
}

void request_finish(struct request *r) {
    ASSERT(r->reply.status != 0);
    answers++;
}

bool request_invalid(struct request *r, const char *why) {
    ASSERT(why[0] != '\0');
    r->reply.status = 400;
    return false;
}

void http_reply_header(struct http_reply *r, const char *name, struct str value) {
    (void)r, (void)name;
    ASSERT(!str_has_control(value, false));
}

bool request_charge(struct request *r, size_t n) {
    (void)r;
    ASSERT(n > 0);
    return true;
}

/* What is set aside is given back by who ends a request, whom nobody calls here. */
bool request_charge_read(struct request *r) {
    (void)r;
    return true;
}

bool request_set_aside(struct request *r, size_t n) {
    return request_charge(r, n);
}

bool request_set_aside_all(struct request *r, size_t n) {
    return request_charge(r, n);
}

bool request_set_aside_page(struct request *r, size_t n) {
    return request_charge(r, n);
}

bool request_promise_answer(struct request *r, size_t n) {
    return request_charge(r, n);
}

struct rights request_rights(const struct request *r) {
    return (struct rights){.project = r->identity.project,
                           .from_domains = r->identity.from_domains,
                           .from_domain_count = r->identity.from_domain_count,
                           .is_test = r->identity.is_test};
}

struct domains *env_domains(struct env *env) {
    (void)env;
    return domains_new(NULL, 0);
}

static int intake; /* asked for how long a repeated message waits */
struct intake *env_intake(struct env *env) {
    (void)env;
    return (struct intake *)(void *)&intake;
}
const struct intake_settings *intake_settings_of(const struct intake *in) {
    static const struct intake_settings settings = {.expires_default_ms = 1000};
    ASSERT((const void *)in == &intake);
    return &settings;
}
void intake_unref(struct intake **ip) {
    ASSERT((void *)*ip == &intake);
    *ip = NULL;
}

struct keyring *env_keyring(struct env *env) {
    static struct keyring *full;
    (void)env;
    if (!(world & WORLD_FULL))
        return keyring_new(NULL, 0);
    if (!full) {
        struct key_row *row = mem_zalloc(LIMIT_KEYS * sizeof *row);
        for (size_t i = 0; i < LIMIT_KEYS; i++)
            row[i] = (struct key_row){.project = 1, .prefix = STR("pc_live_aaaaaaaa")};
        full = keyring_new(row, LIMIT_KEYS);
        free(row);
    }
    return keyring_ref(full);
}

enum err env_check_url(struct env *env, struct str url, struct arena *a, struct errinfo *info) {
    static struct guard *guard;
    struct url parts;
    (void)env;
    if (!guard)
        ASSERT(guard_new(&(struct guard_options){0}, &guard, NULL) == OK);
    return guard_check_url(guard, url, a, &parts, info);
}

/* ---- */

static void (*const handlers[])(struct request *r) = {
    v1_messages_list,      v1_keys_create,      v1_webhooks_create, v1_webhook_change,
    v1_domains_create,     v1_webhook_replay,   v1_domain_delete,   v1_domain_verify,
    v1_message_events,     v1_message_attempts, v1_message_cancel,  v1_webhook_rotate,
    v1_webhook_deliveries, v1_keys_list,        v1_key_revoke,      v1_message_get,
    v1_webhooks_list,      v1_webhook_get,      v1_webhook_delete,  v1_domain_get,
    v1_domains_list,       v1_webhook_test,
};

enum { handler_count = sizeof handlers / sizeof handlers[0] };
/* The first octet from 240 on: these, and from 248 on handlers that have no memory. */
enum { OTHERS_FROM = 240, SHORT_FROM = 248 };
static void (*const others[])(struct request *r) = {v1_message_retry, v1_message_raw};

static void take_key(struct request *r, struct str *body) {
    if (str_find_char(*body, '\n') < 0)
        return;
    r->header = ARENA_NEW(r->arena, struct request_field);
    r->header_count = 1;
    r->header[0] = (struct request_field){STR("idempotency-key"), str_split(body, '\n')};
}

static void handle(struct request *r, uint8_t which) {
    is_short = which >= SHORT_FROM;
    void (*run)(struct request * r) =
        which >= OTHERS_FROM && !is_short
            ? others[which % (sizeof others / sizeof others[0])]
            : handlers[(is_short ? which - SHORT_FROM : which) % handler_count];
    r->method = run == v1_webhook_change ? STR("PATCH") : STR("POST");
    run(r);
    is_short = false;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const struct str domain = {"*.acme.test", 11};
    static const struct identity limited = {.project = 1,
                                            .is_test = true,
                                            .rate = 60,
                                            .expires_wall_ms = INT64_C(4102444800000), /* 2100 */
                                            .from_domains = &domain,
                                            .from_domain_count = 1};
    static struct arena *a, *scratch;
    static struct env env; /* asked for a host name and whether it looks at DNS */
    if (size < 1)
        return 0;
    if (!a) {
        a = arena_new();
        scratch = arena_new();
        log_setup((enum log_level)(LOG_ERROR + 1), LOG_FORMAT_TEXT);
    }
    arena_clear(a);
    struct request *r = ARENA_NEW(a, struct request);
    struct str body = str_make(data + 1, size - 1), target = str_split(&body, '\n'), rest;
    answers = asked = 0;
    world = data[0] / handler_count % WORLDS;
    r->env = &env;
    r->arena = a;
    r->scratch = scratch;
    r->started_wall_ms = 1700000000000;
    r->memory_max_bytes = 256 << 20;
    r->identity = world & WORLD_LIMITED ? limited : (struct identity){.project = 1};
    faults_init(&r->faults, a);
    buf_init(&r->body, 1 << 20);
    r->target = arena_printf(a, "/%.*s", STR_ARG(target));
    if (!request_parse_target(r)) {
        ASSERT(r->reply.status == 400);
        return 0;
    }
    rest = str_from(r->path, 1);
    if (request_decode(rest, false, a, &r->param[0]) != OK)
        return 0;
    is_retry = data[0] >= OTHERS_FROM && data[0] < SHORT_FROM && data[0] % 2 == 0;
    if (is_retry)
        take_key(r, &body);
    buf_put(&r->body, str_is_absent(body) ? STR("") : body);
    handle(r, data[0]);
    ASSERT(answers == 1);
    buf_release(&r->body);
    return 0;
}
