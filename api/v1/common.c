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

bool v1_param_id(struct request *r, struct id *out) {
    if (request_param_id(r, 0, out))
        return true;
    request_finish(r);
    return false;
}

bool v1_read_body(struct request *r, const struct json_field *fields, size_t count, void *out,
                  json_t **root) {
    struct errinfo info = {0};
    const struct json_at top = {.faults = &r->faults};
    if (json_body_parse(buf_str(&r->body), root, &info) != OK) {
        request_problem(r, PROBLEM_INVALID_JSON, "%s", info.text);
        request_finish(r);
        return false;
    }
    request_check_query(r, NULL, 0);
    json_read_object(&top, *root, fields, count, out);
    return true;
}

void v1_answer_list(struct request *r, json_t *list) {
    json_t *o = json_object();
    json_object_set_new(o, "data", list);
    request_json(r, 200, o);
    request_finish(r);
}
