/* common: what the handlers of several resources do in the same way.
 *
 * Each of these either goes well, or has answered the request: then the handler returns.
 * Thread: the request's loop.
 */
#pragma once

#include "api/json.h"
#include "api/request.h"

/* Nothing was wrong so far; else 422 with all faults. */
bool v1_is_good(struct request *r);
/* The store did it; else its problem. `missing` is what a 404 says. */
bool v1_is_done(struct request *r, const struct store_call *call, const char *missing);
/* The id in the path; else 404. */
bool v1_param_id(struct request *r, struct id *out);
/* The body, an object of these fields, and no query: what is wrong with them becomes faults. *root
 * is the caller's. Else 400: it is not JSON. */
bool v1_read_body(struct request *r, const struct json_field *fields, size_t count, void *out,
                  json_t **root);
/* 200 with {"data": list}; takes it. For what is shown as a whole. */
void v1_answer_list(struct request *r, json_t *list);
