/* /v1/sandbox: what the sandbox's receivers captured, and the receiver of webhooks among them. */
#include "api/api.h"
#include "api/page.h"
#include "api/v1/common.h"
#include "api/v1/v1.h"
#include "server/base/limits.h"
#include "server/render/capture.h"
#include "server/render/value.h"

static const char no_capture[] = "there is no capture with this id";

/* About how many values it has, were it JSON. */
static size_t count_values(struct str text) {
    size_t n = 1;
    bool is_in_string = false;
    for (size_t i = 0; i < text.n; i++) {
        char c = text.p[i];
        if (c == '"')
            is_in_string = !is_in_string;
        else if (is_in_string)
            i += c == '\\';
        else
            n += c == ',' || c == '[' || c == '{';
    }
    return n;
}

/* NULL: it is no JSON, or its tree would take many times what it takes as text. */
static json_t *tree_of(struct str body) {
    return count_values(body) <= LIMIT_CAPTURE_VALUES ? value_stored(body) : NULL;
}

/* A webhook's body is JSON and shown as such; a message is text. */
static json_t *render_capture(const struct capture_row *c) {
    json_t *o = json_object();
    json_object_set_new(o, "id", value_id(&c->id));
    json_object_set_new(o, "received_at", value_time(c->wall_ms));
    value_set_stored(o, "meta", c->meta_json);
    if (str_is_absent(c->content))
        return o;
    json_t *body = c->kind == CAPTURE_WEBHOOK ? tree_of(c->content) : NULL;
    if (body != NULL && !json_is_null(body)) {
        json_object_set_new(o, "body", body);
    } else {
        json_decref(body);
        json_object_set_new(o, "content", value_str(c->content));
    }
    return o;
}

/* ---- reading ---- */

static void listed(struct request *r, struct store_call *call) {
    const struct store_captures *q = CONTAINER_OF(call, struct store_captures, call);
    if (!v1_is_done(r, call, no_capture))
        return;
    json_t *list = json_array();
    for (size_t i = 0; i < q->count; i++)
        json_array_append_new(list, render_capture(&q->capture[i]));
    struct page_mark mark = {0};
    if (q->count > 0)
        mark.id = q->capture[q->count - 1].id;
    request_json(r, 200,
                 page_json(list, q->more ? page_print(PAGE_CAPTURES, &mark, r->arena) : STR_NONE));
    request_finish(r);
}

/* What the receivers capture came by SMTP or without a key: it has no project, and belongs to the
 * first one. */
static bool has_captures(const struct request *r) {
    return r->identity.project == API_PROJECT;
}

static void list(struct request *r, enum capture_kind kind) {
    static const char *const names[] = {"limit", "after"};
    struct store_captures *q = ARENA_NEW(r->arena, struct store_captures);
    struct page page;
    request_check_query(r, names, 2);
    page_read(r, PAGE_CAPTURES, &page);
    if (!v1_is_good(r))
        return;
    if (!has_captures(r)) {
        request_json(r, 200, page_json(json_array(), STR_NONE));
        request_finish(r);
        return;
    }
    if (!request_set_aside_page(r, page.limit * LIMIT_CAPTURE_ROW)) {
        request_finish(r);
        return;
    }
    q->kind = kind;
    q->before = page.after.id;
    q->limit = page.limit;
    request_store(r, &q->call, STORE_CAPTURES, listed);
}

void v1_sandbox_messages(struct request *r) {
    list(r, CAPTURE_MESSAGE);
}

void v1_sandbox_webhooks(struct request *r) {
    list(r, CAPTURE_WEBHOOK);
}

/* As JSON its content is in one piece, and larger than it is. */
static void too_large(struct request *r) {
    request_problem(r, PROBLEM_CONFLICT,
                    "an answer has at most %d MiB, and this capture takes more of it: "
                    "/v1/messages/{id}/raw has a message as it was sent",
                    HTTP_REPLY_MAX / (1024 * 1024));
}

/* Nor when nobody else asks for anything. */
static void never_fits(struct request *r) {
    request_problem(r, PROBLEM_CONFLICT,
                    "all requests have %zu MiB of memory here, and this capture takes more of it: "
                    "/v1/messages/{id}/raw has a message as it was sent",
                    r->memory_max_bytes / (1024 * 1024));
}

static void got(struct request *r, struct store_call *call) {
    if (!v1_is_done(r, call, no_capture))
        return;
    request_json(r, 200, render_capture(&CONTAINER_OF(call, struct store_capture, call)->capture));
    if (buf_status(&r->reply.body) == ERR_LIMIT)
        too_large(r);
    request_finish(r);
}

/* Its size is known before it is read, as with that of a message: so much for it, for its value,
 * and for the answer. */
static void got_head(struct request *r, struct store_call *call) {
    enum { COPIES = 3 };
    const struct store_capture *head = CONTAINER_OF(call, struct store_capture, call);
    struct store_capture *q = ARENA_NEW(r->arena, struct store_capture);
    if (!v1_is_done(r, call, no_capture))
        return;
    q->id = head->id;
    const size_t n = LIMIT_PAGE_ROW + (size_t)head->content_bytes * COPIES;
    if (head->content_bytes > HTTP_REPLY_MAX)
        too_large(r);
    else if (n > r->memory_max_bytes)
        never_fits(r);
    else if (request_set_aside_all(r, n)) {
        request_store(r, &q->call, STORE_CAPTURE, got);
        return;
    }
    request_finish(r);
}

void v1_sandbox_message(struct request *r) {
    struct store_capture *q = ARENA_NEW(r->arena, struct store_capture);
    q->is_head = true;
    if (!v1_read_nothing(r) || !v1_param_id(r, &q->id))
        return;
    if (!has_captures(r)) {
        request_problem(r, PROBLEM_NOT_FOUND, "%s", no_capture);
        request_finish(r);
    } else {
        request_store(r, &q->call, STORE_CAPTURE, got_head);
    }
}

/* ---- receiving ---- */

static void received(struct request *r, struct store_call *call) {
    if (!v1_is_done(r, call, no_capture))
        return;
    r->reply.status = 204;
    request_finish(r);
}

static struct str lower(struct arena *a, struct str s) {
    char *z = arena_dupz(a, s);
    for (size_t i = 0; i < s.n; i++)
        z[i] = ascii_lower(z[i]);
    return str_make(z, s.n);
}

/* Who may read captures is not to read the keys of who posts. */
static struct str value_to_keep(struct str name, struct str value) {
    static const struct str secret[] = {STR("authorization"), STR("proxy-authorization"),
                                        STR("cookie"), STR("x-api-key")};
    for (size_t i = 0; i < sizeof(secret) / sizeof(secret[0]); i++) {
        if (str_equal(name, secret[i]))
            return STR("(not kept)");
    }
    return value;
}

void v1_sandbox_receive(struct request *r) {
    struct store_capture_put *q = ARENA_NEW(r->arena, struct store_capture_put);
    struct capture_header *headers =
        ARENA_ARRAY(r->arena, struct capture_header, r->header_count + 1);
    struct buf meta = BUF_INIT(LIMIT_SMALL_BODY);
    for (size_t i = 0; i < r->header_count; i++) {
        struct str name = lower(r->arena, r->header[i].name);
        headers[i] =
            (struct capture_header){.name = name, .value = value_to_keep(name, r->header[i].value)};
    }
    render_capture_webhook(r->path, headers, r->header_count, r->body.n, &meta);
    q->capture = (struct capture_row){.id = id_new(r->started_wall_ms),
                                      .kind = CAPTURE_WEBHOOK,
                                      .wall_ms = r->started_wall_ms,
                                      .meta_json = arena_dup(r->arena, buf_str(&meta)),
                                      .content = buf_str(&r->body)};
    buf_release(&meta);
    request_store(r, &q->call, STORE_CAPTURE_PUT, received);
}
