#include "api/v1/common.h"

#include "server/render/value.h"

bool v1_is_good(struct request *r) {
    if (r->faults.count == 0)
        return true;
    request_problem_faults(r, PROBLEM_VALIDATION_FAILED);
    request_finish(r);
    return false;
}

bool v1_is_done(struct request *r, const struct store_call *call, const char *missing) {
    if (call->err == OK)
        return true;
    if (call->err == ERR_NOT_FOUND)
        request_problem(r, PROBLEM_NOT_FOUND, "%s", missing);
    else
        request_problem_store(r, call->err, &call->info);
    request_finish(r);
    return false;
}

bool v1_had_place(struct request *r, const struct store_call *call) {
    if (call->err == ERR_LIMIT)
        faults_add(&r->faults, STR("#"), "too_many", "%s", call->info.text);
    return v1_is_good(r);
}

void v1_problem_reused(struct request *r, const struct store_call *call) {
    faults_add(&r->faults, STR("header:Idempotency-Key"), "idempotency_key_reused",
               "%s: take a new key", call->info.text);
    request_problem_faults(r, PROBLEM_IDEMPOTENCY_REUSED);
}

bool v1_has_room(struct request *r, const struct page *page, size_t recipients) {
    if (page_set_aside(r, page, recipients))
        return true;
    request_finish(r);
    return false;
}

bool v1_param_id(struct request *r, struct id *out) {
    if (request_param_id(r, 0, out))
        return true;
    request_finish(r);
    return false;
}

bool v1_read_body(struct request *r, const struct json_field *fields, size_t count, void *out,
                  struct json_node **root) {
    struct errinfo info = {0};
    const struct json_at top = {.faults = &r->faults,
                                .is_change = str_equal(r->method, STR("PATCH"))};
    arena_clear(r->scratch); /* of what another request left */
    enum err e = json_body_parse(&r->body, r->scratch, root, &info);
    if (e != OK) {
        request_problem_json(r, e, &info);
        request_finish(r);
        return false;
    }
    request_check_query(r, NULL, 0);
    json_read_object(&top, *root, fields, count, out);
    if (mem_is_short()) { /* what is missing may have been there: a limit of a key, for one */
        request_problem_short(r);
        request_finish(r);
        return false;
    }
    if (request_charge_read(r))
        return true;
    request_finish(r);
    return false;
}

bool v1_read_nothing(struct request *r) {
    struct json_node *root;
    if (str_trim(buf_str(&r->body)).n > 0)
        return v1_read_body(r, NULL, 0, NULL, &root) && v1_is_good(r);
    request_check_query(r, NULL, 0);
    return v1_is_good(r);
}

struct str v1_idempotency_key(struct request *r) {
    struct str key = request_header(r, STR("Idempotency-Key"));
    bool is_good = request_is_idempotency_key(key);
    if (!str_is_absent(key) && !is_good)
        faults_add(&r->faults, STR("header:Idempotency-Key"), "invalid_value",
                   "1 to %d visible characters of us-ascii", (int)LIMIT_IDEMPOTENCY_KEY);
    if (!is_good)
        return STR_NONE;
    /* no key that comes in begins so: those of test keys meet none of the others */
    return r->identity.is_test ? arena_printf(r->arena, " %.*s", STR_ARG(key)) : key;
}

void v1_answer_list(struct request *r, json_t *list) {
    json_t *o = json_object();
    json_object_set_new(o, "data", list);
    request_json(r, 200, o);
    request_finish(r);
}

bool v1_read_listing(struct request *r, enum page_kind kind, struct page *out) {
    static const char *const names[] = {"limit", "after"};
    request_check_query(r, names, 2);
    page_read(r, kind, out);
    return v1_is_good(r) && v1_has_room(r, out, 1);
}

void v1_answer_page(struct request *r, enum page_kind kind, const void *row, size_t size,
                    size_t count, bool more,
                    json_t *(*render)(const struct request *r, const void *row)) {
    struct page_mark mark = {0};
    json_t *list = json_array();
    for (size_t i = 0; i < count; i++) {
        const char *at = (const char *)row + i * size;
        json_array_append_new(list, render(r, at));
        memcpy(mark.id.b, at, ID_BYTES);
    }
    request_json(r, 200, page_json(list, more ? page_print(kind, &mark, r->arena) : STR_NONE));
    request_finish(r);
}
