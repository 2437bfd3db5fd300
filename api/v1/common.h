/* common: what the handlers of several resources do in the same way.
 *
 * Each of these either goes well, or has answered the request: then the handler returns.
 * Thread: the request's loop.
 */
#pragma once

#include "api/json.h"
#include "api/page.h"
#include "api/request.h"

/* Nothing was wrong so far; else 422 with all faults. */
bool v1_is_good(struct request *r);
/* The store did it; else its problem. `missing` is what a 404 says. */
bool v1_is_done(struct request *r, const struct store_call *call, const char *missing);
/* The store did not say that the project has as many as there may be; else 422, `too_many`. */
bool v1_had_place(struct request *r, const struct store_call *call);
/* There is memory for a page of rows with so many recipients each, and it is set aside; else 503.
 */
bool v1_has_room(struct request *r, const struct page *page, size_t recipients);
/* The id in the path; else 404. */
bool v1_param_id(struct request *r, struct id *out);
/* The body, an object of these fields, and no query: what is wrong with them becomes faults. *root
 * is there until the handler returns: a tree can take thirty times its text. Else 400: it is not
 * JSON; 503: no memory. */
bool v1_read_body(struct request *r, const struct json_field *fields, size_t count, void *out,
                  struct json_node **root);
/* As it is stored: a test key's has a space in front, so that tests and mail never share one. Lives
 * in the request. Absent when there is none, or when it is refused, which is a fault. */
struct str v1_idempotency_key(struct request *r);
/* 422 about the Idempotency-Key, with what the store says of it. */
void v1_problem_reused(struct request *r, const struct store_call *call);
/* No query, and no body or an empty object. */
bool v1_read_nothing(struct request *r);
/* 200 with {"data": list}; takes it. For what is shown as a whole. */
void v1_answer_list(struct request *r, json_t *list);

/* A listing by pages in the order of ids, which is that of creation. `limit` and `after` are the
 * only parameters. There is memory for the page, and it is set aside; else 503. */
bool v1_read_listing(struct request *r, enum page_kind kind, struct page *out);
/* Answers with a page: `count` rows of `size` bytes that begin with their id. */
void v1_answer_page(struct request *r, enum page_kind kind, const void *row, size_t size,
                    size_t count, bool more,
                    json_t *(*render)(const struct request *r, const void *row));
