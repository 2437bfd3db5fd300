#include "api/http_state.h"
#include "server/base/clock.h"
#include "server/base/limits.h"
#include "server/base/log.h"

enum {
    /* What is read of a body that was refused, so that the client gets to read why: closing on
     * unread bytes would reset the connection. */
    DISCARD_MAX = 8 * 1024 * 1024,
    REPLY_TIMEOUT_MS = 30 * 1000,
    HEADER_FIELDS = 128,
    PAUSES_SHARE = 8, /* of all connections */
};

/* ---- the answer ---- */

/* The library sends from memory that the request keeps until it is told that all is sent. NULL: no
 * memory. */
static struct MHD_Response *make_response(struct http_reply *reply) {
    struct str bytes = buf_str(&reply->body);
    if (reply->message != NULL) {
        struct message_pieces pieces = message_bytes(reply->message);
        bytes = pieces.piece[1];
        if (pieces.piece[0].n > 0) {
            buf_put(&reply->body, pieces.piece[0]);
            buf_put(&reply->body, pieces.piece[1]);
            bytes = buf_str(&reply->body);
        }
    } else if (!str_is_absent(reply->fixed)) {
        bytes = reply->fixed;
    }
    if (buf_status(&reply->body) != OK) {
        ASSERT(buf_status(&reply->body) == ERR_UNAVAILABLE);
        return NULL;
    }
    void *p = (void *)(uintptr_t)bytes.p; /* the library only reads it */
    return MHD_create_response_from_buffer(bytes.n, p, MHD_RESPMEM_PERSISTENT);
}

/* A response without one of its header fields is none: it becomes NULL. */
static void add_header(struct MHD_Response **response, const char *name, struct str value) {
    if (*response == NULL)
        return;
    char small[128], *z = value.n < sizeof(small) ? small : str_dupz(value);
    if (z == small) {
        if (value.n > 0)
            memcpy(small, value.p, value.n);
        small[value.n] = '\0';
    }
    if (MHD_add_response_header(*response, name, z) != MHD_YES) {
        MHD_destroy_response(*response);
        *response = NULL;
    }
    if (z != small)
        free(z);
}

struct MHD_Response *http_response_short_new(void) {
    static const char text[] =
        "{\"type\":\"urn:postchute:problem:overloaded\",\"title\":\"Too much is under way\","
        "\"status\":503,\"detail\":\"there is no memory for an answer now; repeat the request\","
        "\"code\":\"overloaded\",\"request_id\":\"00000000-0000-0000-0000-000000000000\"}";
    struct MHD_Response *response = MHD_create_response_from_buffer(
        sizeof(text) - 1, (void *)(uintptr_t)text, MHD_RESPMEM_PERSISTENT);
    add_header(&response, "Content-Type", STR("application/problem+json"));
    add_header(&response, "Retry-After", STR("5"));
    add_header(&response, "Cache-Control", STR("no-store"));
    add_header(&response, "X-Content-Type-Options", STR("nosniff"));
    NEED(response != NULL);
    return response;
}

/* draft-ietf-httpapi-ratelimit-headers, as of 2025. */
static void add_rate(struct MHD_Response **response, const struct request *r) {
    const struct key_rate_left *left = &r->rate;
    if (left->quota == 0)
        return;
    add_header(
        response, "RateLimit-Policy",
        arena_printf(r->arena, "\"key\";q=%lld;w=%d", (long long)left->quota, KEY_RATE_WINDOW_S));
    add_header(response, "RateLimit",
               arena_printf(r->arena, "\"key\";r=%lld;t=%lld", (long long)left->remaining,
                            (long long)left->reset_s));
}

static struct MHD_Response *response_of(struct connection *c) {
    struct request *r = c->request;
    struct http_reply *reply = &r->reply;
    char id[ID_TEXT_SIZE];
    struct MHD_Response *response = make_response(reply);
    id_print(&r->id, id);
    add_header(&response, "X-Request-Id", str_of(id));
    add_header(&response, "Cache-Control", STR("no-store"));
    add_header(&response, "X-Content-Type-Options", STR("nosniff"));
    if (reply->content_type != NULL)
        add_header(&response, "Content-Type", str_of(reply->content_type));
    for (size_t i = 0; i < reply->header_count; i++)
        add_header(&response, reply->header[i].name, reply->header[i].value);
    add_rate(&response, r);
    if (reply->must_close || c->daemon->loop->is_draining)
        add_header(&response, "Connection", STR("close"));
    return response;
}

static enum MHD_Result send_reply(struct connection *c) {
    struct http_reply *reply = &c->request->reply;
    size_t rate = c->daemon->loop->limits.body_rate_min;
    struct MHD_Response *response = response_of(c), *made = response;
    int status = reply->status;
    if (response == NULL) { /* what was done stays done: a 503 says that nobody knows */
        response = c->daemon->loop->response_short;
        status = 503;
    }
    connection_enter(c, PHASE_REPLY,
                     REPLY_TIMEOUT_MS + (int64_t)(http_reply_size(reply) / (rate / 1000 + 1)));
    metric_add_at(http_metric.requests, (size_t)(status / 100 - 1), 1);
    enum MHD_Result result = MHD_queue_response(c->mhd, (unsigned)status, response);
    if (made != NULL)
        MHD_destroy_response(made);
    return result;
}

/* From request_finish(), when the connection waits for it. */
static void on_finished(struct request *r) {
    struct connection *c = r->connection;
    ASSERT(c->phase == PHASE_WORK);
    c->daemon->is_dirty = true;
    MHD_resume_connection(c->mhd);
}

/* ---- the request ---- */

void *http_on_request_line(void *cls, const char *target, struct MHD_Connection *mhd) {
    struct daemon_of_http *d = cls;
    struct connection *c = http_connection_of(mhd);
    struct request *r = request_new(d->loop->http->env, d->loop->box, str_of(target));
    r->is_control = d->kind == HTTP_CONTROL;
    r->view = (struct route_view){
        .has_sandbox = r->env->is_sandbox,
        .is_development = r->env->is_development,
        .has_health = d->kind != HTTP_API || !r->env->has_health_listener,
        .has_others = d->kind != HTTP_HEALTH,
    };
    r->waits = d->loop->waits;
    r->scratch = d->loop->scratch;
    r->connection = c;
    c->request = r;
    c->received_bytes = 0;
    if (c->phase == PHASE_IDLE) /* the first header's time runs since the connection began */
        connection_enter(c, PHASE_HEADER, d->loop->limits.header_timeout_ms);
    return r;
}

struct header_copy {
    struct request *request;
    size_t cost;
    bool is_too_many, is_folded;
};

enum { ELEMENT_COST = 80 }; /* what the library keeps of each field, cookie and query parameter */

static size_t count_any(struct str s, const char *of) {
    size_t n = 0;
    for (size_t i = 0; i < s.n; i++)
        n += s.p[i] != '\0' && strchr(of, s.p[i]) != NULL;
    return n;
}

/* The memory of a connection holds the request's header, and then the answer's. What leaves no room
 * for that would be carried out and never answered: it is refused. */
static size_t cost_of(struct str name, struct str value) {
    size_t cost = name.n + value.n + ELEMENT_COST;
    if (str_equal_nocase(name, STR("Cookie"))) /* copied, and taken to pieces */
        cost += value.n + ELEMENT_COST * (count_any(value, ";, ") + 1);
    return cost;
}

/* Library versions before 0.9.77 append a folded line to the field's NAME ("Content-Length: 5" and
 * " 6" become the field "Content-Length6", "Content-Len: 5" and " gth" a field that counts),
 * without a word. Otherwise name and value stay where they were received: the name, a NUL in the
 * colon's place, blanks, the value. Folding moves one of the two. */
static bool is_as_received(const char *name, size_t name_size, const char *value) {
#if MHD_VERSION >= 0x00097701
    (void)name, (void)name_size, (void)value;
    return true; /* refuses folding itself */
#else
    uintptr_t end = (uintptr_t)name + name_size, begin = (uintptr_t)value;
    if (begin <= end || begin - end > LIMIT_HTTP_HEADER_BYTES)
        return false;
    for (const char *p = name + name_size + 1; p < value; p++)
        if (*p != ' ' && *p != '\t')
            return false;
    return true;
#endif
}

static enum MHD_Result copy_header(void *cls, enum MHD_ValueKind kind, const char *name,
                                   size_t name_size, const char *value, size_t value_size) {
    struct header_copy *copy = cls;
    struct request *r = copy->request;
    (void)kind;
    if (r->header_count == HEADER_FIELDS) {
        copy->is_too_many = true;
        return MHD_NO;
    }
    if (!is_as_received(name, name_size, value)) {
        copy->is_folded = true;
        return MHD_NO;
    }
    copy->cost +=
        cost_of(str_make(name, name_size), str_make(value, value != NULL ? value_size : 0));
    r->header[r->header_count++] = (struct request_field){
        .name = arena_dup(r->arena, str_make(name, name_size)),
        .value = arena_dup(r->arena, str_make(value != NULL ? value : "", value_size)),
    };
    return MHD_YES;
}

static bool read_header(struct request *r, struct MHD_Connection *mhd) {
    struct header_copy copy = {
        .request = r, .cost = r->target.n + ELEMENT_COST * (count_any(r->target, "?&") + 1)};
    int count = MHD_get_connection_values_n(mhd, MHD_HEADER_KIND, NULL, NULL);
    ASSERT(count >= 0);
    r->header =
        ARENA_ARRAY(r->arena, struct request_field, count < HEADER_FIELDS ? count : HEADER_FIELDS);
    MHD_get_connection_values_n(mhd, MHD_HEADER_KIND, copy_header, &copy);
    bool is_too_large = copy.cost > LIMIT_HTTP_HEADER_BYTES;
    if (!copy.is_too_many && !copy.is_folded && !is_too_large)
        return true;
    if (copy.is_folded)
        request_problem(r, PROBLEM_INVALID_REQUEST, "a header field is folded");
    else if (is_too_large)
        request_problem(r, PROBLEM_HEADERS_TOO_LARGE,
                        "at most %d KiB of header fields, %d octets more for each",
                        LIMIT_HTTP_HEADER_BYTES / 1024, (int)ELEMENT_COST);
    else
        request_problem(r, PROBLEM_HEADERS_TOO_LARGE, "at most %d header fields",
                        (int)HEADER_FIELDS);
    r->reply.must_close = true;
    return false;
}

/* Is it worth reading what is left of the body, so that the client listens? */
static bool should_discard(const struct request *r) {
    uint64_t length = 0;
    struct str text = request_header(r, STR("Content-Length"));
    bool is_chunked = !str_is_absent(request_header(r, STR("Transfer-Encoding")));
    if (!str_is_absent(text) && str_parse_u64(text, INT64_MAX, &length) != OK)
        return false;
    if (!str_is_absent(request_header(r, STR("Expect"))) && (length > 0 || is_chunked))
        return false; /* it asks before it sends */
    return length <= DISCARD_MAX;
}

static enum MHD_Result on_header(struct connection *c, const char *method, const char *version) {
    struct request *r = c->request;
    const struct http_limits *limits = &c->daemon->loop->limits;
    r->method = arena_dup(r->arena, str_of(method));
    r->version = arena_dup(r->arena, str_of(version));
    if (!read_header(r, c->mhd) || !request_check_framing(r) || !request_parse_target(r)) {
        r->is_finished = true;
        return send_reply(c); /* nothing that follows can be trusted to be a body */
    }
    if (request_admit(r, &limits->request)) {
        connection_enter(c, PHASE_BODY, limits->body_timeout_ms);
        return MHD_YES;
    }
    r->is_finished = true;
    if (!should_discard(r))
        return send_reply(c);
    connection_enter(c, PHASE_DISCARD, limits->body_timeout_ms);
    return MHD_YES;
}

/* The body has the timeout, and on top of it the time that what has come took at the least rate. */
static void extend_deadline(struct connection *c, size_t n) {
    const struct http_limits *limits = &c->daemon->loop->limits;
    c->received_bytes += n;
    c->deadline_mono_ms = c->phase_mono_ms + limits->body_timeout_ms +
                          (int64_t)(c->received_bytes / (limits->body_rate_min / 1000 + 1));
}

static enum MHD_Result on_piece(struct connection *c, struct str piece) {
    struct request *r = c->request;
    extend_deadline(c, piece.n);
    if (c->phase == PHASE_DISCARD)
        return c->received_bytes <= DISCARD_MAX + r->body_max_bytes ? MHD_YES : MHD_NO;
    if (request_add_body(r, piece) == OK)
        return MHD_YES;
    r->is_finished = true;
    request_drop_body(r);
    c->phase = PHASE_DISCARD;
    return MHD_YES;
}

/* Not so many at once that they would hold the connections of others: who is refused beyond that
 * has to connect anew. */
static bool is_paused(struct connection *c) {
    struct request *r = c->request;
    const struct loop_of_http *l = c->daemon->loop;
    size_t most = 1 + l->limits.connections_max / PAUSES_SHARE / l->http->loop_count;
    if (!r->is_slowed)
        return false;
    bool is_begun = pause_begin(l->pauses, r, REQUEST_PAUSE_MS, most, request_finish) > 0;
    r->reply.must_close = !is_begun;
    r->is_finished = !is_begun;
    return is_begun;
}

static enum MHD_Result on_complete(struct connection *c) {
    struct request *r = c->request;
    if (!r->is_finished && c->received_bytes > 0)
        r->is_finished = !request_is_still_allowed(r);
    bool is_refused = r->is_finished;
    if (is_refused && !is_paused(c))
        return send_reply(c);
    c->phase = PHASE_WORK;
    c->deadline_mono_ms = 0;
    if (!is_refused)
        r->route->handle(r);
    if (r->is_finished)
        return send_reply(c);
    r->wake = on_finished;
    MHD_suspend_connection(c->mhd);
    return MHD_YES;
}

enum MHD_Result http_on_request(void *cls, struct MHD_Connection *mhd, const char *url,
                                const char *method, const char *version, const char *upload,
                                size_t *upload_size, void **ctx) {
    struct request *r = *ctx;
    (void)cls;
    (void)url;
    (void)mhd;
    ASSERT(r != NULL);
    struct connection *c = r->connection;
    switch (c->phase) {
    case PHASE_HEADER:
        return on_header(c, method, version);
    case PHASE_BODY:
    case PHASE_DISCARD:
        if (*upload_size == 0)
            return on_complete(c);
        size_t n = *upload_size;
        *upload_size = 0;
        return on_piece(c, str_make(upload, n));
    case PHASE_WORK:
        ASSERT(r->is_finished);
        return send_reply(c);
    case PHASE_REPLY:
    case PHASE_IDLE:
        break;
    }
    return MHD_NO;
}

static void log_request(const struct request *r) {
    log_debug("api", "answered", LOG_ID("request", &r->id), LOG_STR("method", r->method),
              LOG_STR("path", r->path), LOG_INT("status", r->reply.status),
              LOG_INT("us", clock_mono_us() - r->started_mono_us));
}

void http_on_completed(void *cls, struct MHD_Connection *mhd, void **ctx,
                       enum MHD_RequestTerminationCode how) {
    struct daemon_of_http *d = cls;
    struct connection *c = http_connection_of(mhd);
    (void)how;
    *ctx = NULL;
    if (c == NULL || c->request == NULL)
        return;
    metric_observe_us(http_metric.duration, clock_mono_us() - c->request->started_mono_us);
    log_request(c->request);
    request_free(&c->request);
    metric_set(http_metric.body_bytes, (int64_t)atomic_load(&d->loop->http->env->body_bytes));
    connection_enter(c, PHASE_IDLE, d->loop->limits.idle_timeout_ms);
}
