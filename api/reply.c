#include "api/reply.h"

#include "server/render/value.h"

void http_reply_init(struct http_reply *r) {
    *r = (struct http_reply){0};
    buf_init(&r->body, HTTP_REPLY_MAX);
}

void http_reply_release(struct http_reply *r) {
    buf_release_secret(&r->body); /* an answer can hold a new key */
    message_unref(&r->message);
}

void http_reply_clear(struct http_reply *r) {
    bool must_close = r->must_close;
    http_reply_release(r);
    http_reply_init(r);
    r->must_close = must_close;
}

void http_reply_header(struct http_reply *r, const char *name, struct str value) {
    ASSERT(!str_has_control(value, false));
    size_t i = 0;
    while (i < r->header_count && strcmp(r->header[i].name, name) != 0)
        i++;
    ASSERT(i < HTTP_REPLY_HEADERS);
    r->header[i].name = name;
    r->header[i].value = value;
    if (i == r->header_count)
        r->header_count++;
}

void http_reply_json(struct http_reply *r, int status, json_t *v) {
    r->status = status;
    r->content_type = "application/json";
    value_print(v, &r->body);
    json_decref(v);
}

void http_reply_problem(struct http_reply *r, const struct problem *p) {
    r->status = problem_status(p->code);
    r->content_type = "application/problem+json";
    render_problem(p, &r->body);
}

size_t http_reply_size(const struct http_reply *r) {
    return r->message != NULL   ? message_size(r->message)
           : r->fixed.p != NULL ? r->fixed.n
                                : r->body.n;
}
