/* /v1/sandbox: what the sandbox's receivers captured, and the receiver of webhooks among them. */
#include "api/api.h"
#include "api/page.h"
#include "api/v1/common.h"
#include "api/v1/v1.h"
#include "server/render/capture.h"
#include "server/render/value.h"

static const char no_capture[] = "there is no capture with this id";

/* A webhook's body is JSON and shown as such; a message is text. */
static json_t *render_capture(const struct capture_row *c) {
    json_t *o = json_object();
    json_object_set_new(o, "id", value_id(&c->id));
    json_object_set_new(o, "received_at", value_time(c->wall_ms));
    value_set_stored(o, "meta", c->meta_json);
    if (str_is_absent(c->content))
        return o;
    json_t *body = c->kind == CAPTURE_WEBHOOK ? value_stored(c->content) : NULL;
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
    if (!v1_has_room(r, &page, 1))
        return;
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

static void got(struct request *r, struct store_call *call) {
    if (!v1_is_done(r, call, no_capture))
        return;
    request_json(r, 200, render_capture(&CONTAINER_OF(call, struct store_capture, call)->capture));
    request_finish(r);
}

void v1_sandbox_message(struct request *r) {
    struct store_capture *q = ARENA_NEW(r->arena, struct store_capture);
    if (!v1_read_nothing(r) || !v1_param_id(r, &q->id))
        return;
    if (!has_captures(r)) {
        request_problem(r, PROBLEM_NOT_FOUND, "%s", no_capture);
        request_finish(r);
    } else {
        request_store(r, &q->call, STORE_CAPTURE, got);
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

void v1_sandbox_receive(struct request *r) {
    struct store_capture_put *q = ARENA_NEW(r->arena, struct store_capture_put);
    struct capture_header *headers =
        ARENA_ARRAY(r->arena, struct capture_header, r->header_count + 1);
    struct buf meta = BUF_INIT(LIMIT_SMALL_BODY);
    for (size_t i = 0; i < r->header_count; i++)
        headers[i] = (struct capture_header){.name = lower(r->arena, r->header[i].name),
                                             .value = r->header[i].value};
    render_capture_webhook(r->path, headers, r->header_count, r->body.n, &meta);
    q->capture = (struct capture_row){.id = id_new(r->started_wall_ms),
                                      .kind = CAPTURE_WEBHOOK,
                                      .wall_ms = r->started_wall_ms,
                                      .meta_json = arena_dup(r->arena, buf_str(&meta)),
                                      .content = buf_str(&r->body)};
    buf_release(&meta);
    request_store(r, &q->call, STORE_CAPTURE_PUT, received);
}
