/* reply: the HTTP answer to one request, before it goes to the library.
 *
 * Not to be confused with the reply of an SMTP server (mail/reply.h): this one is `struct
 * http_reply`, made by a handler and sent by http_request.c. Thread: owner.
 */
#pragma once

#include <jansson.h>

#include "server/mail/message.h"
#include "server/render/problem.h"

enum { HTTP_REPLY_HEADERS = 12 };

struct http_reply {
    int status;               /* 0: none yet */
    const char *content_type; /* static storage; NULL: no body */
    struct {
        const char *name; /* static storage */
        struct str value; /* lives as long as the request */
    } header[HTTP_REPLY_HEADERS];
    size_t header_count;
    struct buf body;         /* or: */
    struct str fixed;        /* lives as long as the request; or: */
    struct message *message; /* one reference */
    bool must_close;
};

/* What one answer may hold; a page of messages with all their recipients is the largest. */
enum { HTTP_REPLY_MAX = 64 * 1024 * 1024 };

void http_reply_init(struct http_reply *r);
void http_reply_release(struct http_reply *r);
/* Forgets what was said so far. */
void http_reply_clear(struct http_reply *r);
/* `value` has no control characters; another value for a name given before replaces it. */
void http_reply_header(struct http_reply *r, const char *name, struct str value);
/* Takes `v`. */
void http_reply_json(struct http_reply *r, int status, json_t *v);
void http_reply_problem(struct http_reply *r, const struct problem *p);
size_t http_reply_size(const struct http_reply *r);
