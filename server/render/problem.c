#include "server/render/problem.h"

#include "server/render/value.h"

static const struct {
    int status;
    const char *name, *title;
} table[] = {
    [PROBLEM_INVALID_REQUEST] = {400, "invalid_request", "The request is not well-formed HTTP"},
    [PROBLEM_INVALID_JSON] = {400, "invalid_json", "The body is not JSON"},
    [PROBLEM_UNAUTHORIZED] = {401, "unauthorized", "An API key is needed"},
    [PROBLEM_INVALID_KEY] = {401, "invalid_key", "The API key is not valid"},
    [PROBLEM_FORBIDDEN] = {403, "forbidden", "The API key does not allow this"},
    [PROBLEM_FROM_NOT_ALLOWED] = {403, "from_not_allowed", "This sender may not be used"},
    [PROBLEM_NOT_FOUND] = {404, "not_found", "There is no such thing"},
    [PROBLEM_METHOD_NOT_ALLOWED] = {405, "method_not_allowed", "This method is not allowed here"},
    [PROBLEM_NOT_ACCEPTABLE] = {406, "not_acceptable", "No answer in a form that is accepted"},
    [PROBLEM_CONFLICT] = {409, "conflict", "The present state does not allow this"},
    [PROBLEM_BODY_TOO_LARGE] = {413, "body_too_large", "The request is too large"},
    [PROBLEM_MEDIA_TYPE] = {415, "unsupported_media_type", "The body is not in a form we read"},
    [PROBLEM_VALIDATION_FAILED] = {422, "validation_failed", "The request has faults"},
    [PROBLEM_IDEMPOTENCY_REUSED] = {422, "idempotency_key_reused",
                                    "The Idempotency-Key was used already"},
    [PROBLEM_RATE_LIMITED] = {429, "rate_limited", "Too many requests with this key"},
    [PROBLEM_HEADERS_TOO_LARGE] = {431, "headers_too_large", "The header fields are too large"},
    [PROBLEM_INTERNAL] = {500, "internal", "Something went wrong on our side"},
    [PROBLEM_UNAVAILABLE] = {503, "unavailable", "This cannot be stored now"},
    [PROBLEM_OVERLOADED] = {503, "overloaded", "Too much is under way"},
    [PROBLEM_DRAINING] = {503, "draining", "The server is shutting down"},
};
_Static_assert(sizeof(table) / sizeof(table[0]) == PROBLEM_COUNT, "a row for each code");

int problem_status(enum problem_code c) {
    ASSERT((size_t)c < PROBLEM_COUNT);
    return table[c].status;
}

const char *problem_name(enum problem_code c) {
    ASSERT((size_t)c < PROBLEM_COUNT);
    return table[c].name;
}

const char *problem_title(enum problem_code c) {
    ASSERT((size_t)c < PROBLEM_COUNT);
    return table[c].title;
}

static json_t *errors_of(const struct faults *f) {
    json_t *list = json_array();
    size_t kept = f->count < LIMIT_FAULTS ? f->count : LIMIT_FAULTS;
    for (size_t i = 0; i < kept; i++) {
        json_t *e = json_object();
        json_object_set_new(e, "pointer", value_str(f->list[i].pointer));
        json_object_set_new(e, "code", json_string(f->list[i].code));
        json_object_set_new(e, "detail", value_str(f->list[i].detail));
        json_array_append_new(list, e);
    }
    return list;
}

void render_problem(const struct problem *p, struct buf *out) {
    json_t *o = json_object();
    json_object_set_new(o, "type", json_sprintf("urn:postchute:problem:%s", problem_name(p->code)));
    json_object_set_new(o, "title", json_string(problem_title(p->code)));
    json_object_set_new(o, "status", json_integer(problem_status(p->code)));
    value_set_str(o, "detail", p->detail);
    json_object_set_new(o, "code", json_string(problem_name(p->code)));
    if (p->request_id != NULL)
        json_object_set_new(o, "request_id", value_id(p->request_id));
    if (p->faults != NULL && p->faults->count > 0) {
        json_object_set_new(o, "errors", errors_of(p->faults));
        if (p->faults->count > LIMIT_FAULTS)
            json_object_set_new(o, "errors_omitted",
                                json_integer((json_int_t)(p->faults->count - LIMIT_FAULTS)));
    }
    value_print(o, out);
    json_decref(o);
}
