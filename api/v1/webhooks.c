/* /v1/webhooks: endpoints that are told what happens; their secrets are shown when they are made.
 */
#include "api/v1/common.h"
#include "api/v1/v1.h"
#include "server/base/base64.h"
#include "server/base/log.h"
#include "server/base/random.h"
#include "server/render/value.h"

enum {
    DESCRIPTION_MAX = 255,
    SECRET_BYTES = 32,
    SECRET_LEAST = 24,
    SECRET_MOST = 64,
    CHANGE_TRIES = 5,
};
static const int64_t overlap_ms = INT64_C(24) * 3600 * 1000; /* the old secret signs as well */

/* ---- what is shown ---- */

static json_t *render_webhook(const struct webhook_row *w, bool with_secret) {
    json_t *o = json_object(), *events = json_array();
    for (size_t i = 0; i < w->event_count; i++)
        json_array_append_new(events, value_str(w->events[i]));
    if (w->event_count == 0)
        json_array_append_new(events, json_string("*"));
    json_object_set_new(o, "id", value_id(&w->id));
    json_object_set_new(o, "url", value_str(w->url));
    json_object_set_new(o, "events", events);
    value_set_str(o, "description", w->description);
    json_object_set_new(o, "state", json_string(webhook_state_name(w->state)));
    json_object_set_new(o, "created_at", value_time(w->created_wall_ms));
    value_set_time(o, "previous_secret_until", w->previous_until_wall_ms);
    if (with_secret)
        json_object_set_new(o, "secret", value_str(w->secret));
    return o;
}

/* ---- what is read ---- */

struct form {
    struct webhook_row row;
    bool is_url_sound; /* its form; whether it is allowed remains to be seen */
    bool has_url, has_events, has_description, has_state;
};
#define FORM ((struct form *)out)

/* The authority of an absolute URL; absent: it is none that can be posted to. */
static struct str authority_of(struct str url) {
    struct str rest;
    if (str_starts_with_nocase(url, STR("https://")))
        rest = str_from(url, 8);
    else if (str_starts_with_nocase(url, STR("http://")))
        rest = str_from(url, 7);
    else
        return STR_NONE;
    size_t n = 0;
    while (n < rest.n && strchr("/?#", rest.p[n]) == NULL)
        n++;
    return str_slice(rest, 0, n);
}

static bool has_octet_to_escape(struct str url) {
    for (size_t i = 0; i < url.n; i++)
        if (url.p[i] <= ' ' || url.p[i] > '~' || strchr("\"<>\\^`{|}", url.p[i]) != NULL)
            return true;
    return false;
}

static void read_url(const struct json_at *at, const struct json_node *v, void *out) {
    struct str url;
    FORM->has_url = true;
    if (!json_read_str(at, v, &url))
        return;
    FORM->row.url = arena_dup(json_arena(at), url);
    struct str authority = authority_of(url);
    if (url.n > LIMIT_URL)
        json_fault(at, "too_long", "at most %d octets", (int)LIMIT_URL);
    else if (str_is_empty(authority) || str_starts_with(authority, STR(":")))
        json_fault(at, "invalid_url", "this must be an absolute https URL");
    else if (has_octet_to_escape(url))
        json_fault(at, "invalid_url", "a character in it must be escaped");
    else if (str_find_char(authority, '@') >= 0)
        json_fault(at, "invalid_url", "user and password do not belong into the URL");
    else if (str_find_char(url, '#') >= 0)
        json_fault(at, "invalid_url", "a fragment does not belong into the URL");
    else
        FORM->is_url_sound = true;
}

static bool is_event(struct str name) {
    enum event_type type;
    return str_equal(name, STR("*")) || str_equal(name, STR("final")) ||
           str_equal(name, STR("undelivered")) || event_type_parse(name, &type) == OK;
}

static void read_events(const struct json_at *at, const struct json_node *v, void *out) {
    struct arena *a = json_arena(at);
    struct str *list = NULL;
    size_t count = 0;
    FORM->has_events = true;
    (void)json_read_strs(at, v, 2 * EVENT_TYPE_COUNT, &list, &count);
    for (size_t i = 0; i < count; i++) {
        struct json_at here = json_element(at, i);
        list[i] = arena_dup(a, list[i]);
        if (!str_is_absent(list[i]) && !is_event(list[i]))
            json_fault(&here, "invalid_value",
                       "there is no such event: *, final, undelivered, or a type such as "
                       "recipient.delivered");
    }
    FORM->row.events = list;
    FORM->row.event_count = count;
}

static void read_description(const struct json_at *at, const struct json_node *v, void *out) {
    struct str s;
    FORM->has_description = true;
    if (!json_read_str(at, v, &s))
        return;
    FORM->row.description = arena_dup(json_arena(at), s);
    if (s.n > DESCRIPTION_MAX || str_has_control(s, false))
        json_fault(at, "invalid_value", "at most %d octets of text, no control characters",
                   (int)DESCRIPTION_MAX);
}

static void read_secret(const struct json_at *at, const struct json_node *v, void *out) {
    struct str s, prefix = STR("whsec_");
    struct buf bytes = BUF_INIT(SECRET_MOST);
    if (!json_read_str(at, v, &s))
        return;
    FORM->row.secret = arena_dup(json_arena(at), s);
    if (!str_starts_with(s, prefix) || base64_decode(str_from(s, prefix.n), &bytes) != OK ||
        bytes.n < SECRET_LEAST)
        json_fault(at, "invalid_value", "whsec_ and base64 of %d to %d bytes", (int)SECRET_LEAST,
                   (int)SECRET_MOST);
    buf_release_secret(&bytes);
}

static void read_state(const struct json_at *at, const struct json_node *v, void *out) {
    struct str s;
    FORM->has_state = true;
    if (!json_read_str(at, v, &s))
        return;
    if (str_equal(s, STR("enabled")))
        FORM->row.state = WEBHOOK_ENABLED;
    else if (str_equal(s, STR("disabled")))
        FORM->row.state = WEBHOOK_DISABLED;
    else
        json_fault(at, "invalid_value", "this is \"enabled\" or \"disabled\"");
}

static const struct json_field create_fields[] = {
    {"url", {NULL}, read_url},
    {"events", {NULL}, read_events},
    {"description", {NULL}, read_description},
    {"secret", {NULL}, read_secret},
};
static const struct json_field change_fields[] = {
    {"url", {NULL}, read_url},
    {"events", {NULL}, read_events},
    {"description", {NULL}, read_description},
    {"state", {NULL}, read_state},
};

/* false: the request is answered. What was read is in the arena. */
static bool read_form(struct request *r, const struct json_field *fields, size_t count,
                      bool needs_url, struct form *out) {
    struct errinfo info = {0};
    struct json_node *root = NULL;
    if (!v1_read_body(r, fields, count, out, &root))
        return false;
    struct json_at top = {.faults = &r->faults};
    struct json_at url = json_member(&top, "url");
    if (needs_url && root->kind == JSON_IS_OBJECT && !out->has_url)
        json_fault(&url, "required", "the URL is missing");
    if (out->is_url_sound && env_check_url(r->env, out->row.url, r->arena, &info) != OK)
        json_fault(&url, "url_not_allowed", "%s", info.text);
    return v1_is_good(r);
}

static struct str new_secret(struct arena *a) {
    uint8_t bytes[SECRET_BYTES];
    struct buf b = BUF_INIT(128);
    random_bytes(bytes, sizeof(bytes));
    buf_putz(&b, "whsec_");
    base64_encode(str_make(bytes, sizeof(bytes)), &b);
    struct str secret = arena_dup(a, buf_str(&b));
    buf_release_secret(&b);
    explicit_bzero(bytes, sizeof(bytes));
    return secret;
}

/* ---- create ---- */

static const char no_webhook[] = "there is no webhook with this id";

static void created(struct request *r, struct store_call *call) {
    const struct store_webhook_put *q = CONTAINER_OF(call, struct store_webhook_put, call);
    char id[ID_TEXT_SIZE];
    if (!v1_had_place(r, call) || !v1_is_done(r, call, no_webhook))
        return;
    id_print(&q->webhook.id, id);
    request_json(r, 201, render_webhook(&q->webhook, true));
    http_reply_header(&r->reply, "Location", arena_printf(r->arena, "/v1/webhooks/%s", id));
    request_finish(r);
}

void v1_webhooks_create(struct request *r) {
    struct store_webhook_put *q = ARENA_NEW(r->arena, struct store_webhook_put);
    struct form form = {0};
    if (!read_form(r, create_fields, sizeof(create_fields) / sizeof(create_fields[0]), true, &form))
        return;
    q->webhook = form.row;
    q->webhook.id = id_new(r->started_wall_ms);
    q->webhook.project = r->identity.project;
    q->webhook.created_wall_ms = r->started_wall_ms;
    if (str_is_absent(q->webhook.secret))
        q->webhook.secret = new_secret(r->arena);
    q->most = LIMIT_WEBHOOKS;
    request_store(r, &q->call, STORE_WEBHOOK_PUT, created);
}

/* ---- list, get ---- */

static void read_webhooks(struct request *r,
                          void (*done)(struct request *r, struct store_call *call)) {
    struct store_webhooks *q = ARENA_NEW(r->arena, struct store_webhooks);
    request_check_query(r, NULL, 0);
    if (!v1_is_good(r))
        return;
    q->project = r->identity.project;
    request_store(r, &q->call, STORE_WEBHOOKS, done);
}

static void listed(struct request *r, struct store_call *call) {
    const struct store_webhooks *q = CONTAINER_OF(call, struct store_webhooks, call);
    if (!v1_is_done(r, call, no_webhook))
        return;
    json_t *list = json_array();
    for (size_t i = 0; i < q->count; i++)
        json_array_append_new(list, render_webhook(&q->webhook[i], false));
    v1_answer_list(r, list);
}

void v1_webhooks_list(struct request *r) {
    read_webhooks(r, listed);
}

/* The one of the path; NULL: the request is answered. */
static const struct webhook_row *find(struct request *r, struct store_call *call,
                                      const struct id *id) {
    const struct store_webhooks *q = CONTAINER_OF(call, struct store_webhooks, call);
    if (!v1_is_done(r, call, no_webhook))
        return NULL;
    for (size_t i = 0; i < q->count; i++)
        if (id_equal(&q->webhook[i].id, id))
            return &q->webhook[i];
    request_problem(r, PROBLEM_NOT_FOUND, "%s", no_webhook);
    request_finish(r);
    return NULL;
}

/* The id of the path; NULL: the request is answered. */
static struct id *read_id(struct request *r) {
    struct id *id = ARENA_NEW(r->arena, struct id);
    return v1_param_id(r, id) ? id : NULL;
}

static void got(struct request *r, struct store_call *call) {
    const struct webhook_row *w = find(r, call, r->state);
    if (w == NULL)
        return;
    request_json(r, 200, render_webhook(w, false));
    request_finish(r);
}

void v1_webhook_get(struct request *r) {
    r->state = read_id(r);
    if (r->state != NULL)
        read_webhooks(r, got);
}

/* ---- change, rotate ---- */

struct changing {
    struct id id;
    struct form form;
    bool is_rotation;
    int tries;
    struct webhook_row seen;
    struct store_webhook_put put;
};

/* The row outlives the call that read it. */
static struct webhook_row keep(struct arena *a, const struct webhook_row *w) {
    struct webhook_row kept = *w;
    kept.url = arena_dup(a, w->url);
    kept.secret = arena_dup(a, w->secret);
    kept.previous_secret = arena_dup(a, w->previous_secret);
    kept.description = arena_dup(a, w->description);
    kept.events = ARENA_ARRAY(a, struct str, w->event_count + 1);
    for (size_t i = 0; i < w->event_count; i++)
        kept.events[i] = arena_dup(a, w->events[i]);
    return kept;
}

/* A secret that still signs beside a newer one does so until its time is over: the newer one may be
 * one that nobody knows, of a rotation whose answer was lost. */
static void rotate(struct request *r, struct webhook_row *row) {
    int64_t now_wall_ms = r->started_wall_ms, latest_wall_ms = now_wall_ms + overlap_ms;
    bool overlaps = row->previous_secret.n > 0 && row->previous_until_wall_ms > now_wall_ms;
    if (!overlaps)
        row->previous_secret = row->secret;
    if (!overlaps || row->previous_until_wall_ms > latest_wall_ms) /* the clock was set back */
        row->previous_until_wall_ms = latest_wall_ms;
    row->secret = new_secret(r->arena);
}

static void change(struct request *r, struct changing *c) {
    struct webhook_row *row = &c->put.webhook;
    const struct form *form = &c->form;
    if (c->is_rotation)
        rotate(r, row);
    if (form->has_url)
        row->url = form->row.url;
    if (form->has_events) {
        row->events = form->row.events;
        row->event_count = form->row.event_count;
    }
    if (form->has_description)
        row->description = form->row.description;
    if (form->has_state)
        row->state = form->row.state;
}

static void change_found(struct request *r, struct store_call *call);

static void changed(struct request *r, struct store_call *call) {
    struct changing *c = r->state;
    if (call->err == ERR_CONFLICT && ++c->tries < CHANGE_TRIES) {
        read_webhooks(r, change_found); /* another change was quicker: on top of it */
        return;
    }
    if (!v1_is_done(r, call, no_webhook))
        return;
    request_json(r, 200, render_webhook(&c->put.webhook, c->is_rotation));
    request_finish(r);
}

static void change_found(struct request *r, struct store_call *call) {
    struct changing *c = r->state;
    const struct webhook_row *w = find(r, call, &c->id);
    if (w == NULL)
        return;
    c->seen = keep(r->arena, w);
    c->put = (struct store_webhook_put){.webhook = c->seen, .replace = true, .seen = &c->seen};
    change(r, c);
    request_store(r, &c->put.call, STORE_WEBHOOK_PUT, changed);
}

static void begin_change(struct request *r, bool is_rotation) {
    struct changing *c = ARENA_NEW(r->arena, struct changing);
    struct id *id = !is_rotation || v1_read_nothing(r) ? read_id(r) : NULL;
    if (id == NULL)
        return;
    c->id = *id;
    c->is_rotation = is_rotation;
    r->state = c;
    if (is_rotation || read_form(r, change_fields, sizeof(change_fields) / sizeof(change_fields[0]),
                                 false, &c->form))
        read_webhooks(r, change_found);
}

void v1_webhook_change(struct request *r) {
    begin_change(r, false);
}

void v1_webhook_rotate(struct request *r) {
    begin_change(r, true);
}

/* ---- delete ---- */

static void deleted(struct request *r, struct store_call *call) {
    if (!v1_is_done(r, call, no_webhook))
        return;
    r->reply.status = 204;
    request_finish(r);
}

void v1_webhook_delete(struct request *r) {
    struct store_webhook_delete *q = ARENA_NEW(r->arena, struct store_webhook_delete);
    struct id *id = v1_read_nothing(r) ? read_id(r) : NULL;
    if (id == NULL)
        return;
    q->id = *id;
    q->project = r->identity.project;
    request_store(r, &q->call, STORE_WEBHOOK_DELETE, deleted);
}
