/* problem: what went wrong with a request, as application/problem+json (RFC 9457).
 *
 *     { "type": "urn:postchute:problem:validation_failed", "title": "…", "status": 422,
 *       "detail": "…", "code": "validation_failed", "request_id": "…",
 *       "errors": [ { "pointer": "#/to/0", "code": "invalid_address", "detail": "…" } ] }
 *
 * `code` is stable and in the table of problem.c, which also gives status and title: a code that is
 * not in the table does not exist. Thread: any.
 */
#pragma once

#include "server/base/buf.h"
#include "server/base/id.h"
#include "server/mail/submission.h"

enum problem_code {
    PROBLEM_INVALID_REQUEST,    /* 400: not HTTP as we take it */
    PROBLEM_INVALID_JSON,       /* 400 */
    PROBLEM_UNAUTHORIZED,       /* 401: no key */
    PROBLEM_INVALID_KEY,        /* 401: unknown, expired, revoked */
    PROBLEM_FORBIDDEN,          /* 403: the key lacks a scope */
    PROBLEM_FROM_NOT_ALLOWED,   /* 403 */
    PROBLEM_NOT_FOUND,          /* 404 */
    PROBLEM_METHOD_NOT_ALLOWED, /* 405 */
    PROBLEM_NOT_ACCEPTABLE,     /* 406 */
    PROBLEM_CONFLICT,           /* 409 */
    PROBLEM_BODY_TOO_LARGE,     /* 413 */
    PROBLEM_MEDIA_TYPE,         /* 415 */
    PROBLEM_VALIDATION_FAILED,  /* 422 */
    PROBLEM_IDEMPOTENCY_REUSED, /* 422 */
    PROBLEM_RATE_LIMITED,       /* 429 */
    PROBLEM_HEADERS_TOO_LARGE,  /* 431 */
    PROBLEM_INTERNAL,           /* 500 */
    PROBLEM_UNAVAILABLE,        /* 503: could not be stored */
    PROBLEM_OVERLOADED,         /* 503: memory or connections */
    PROBLEM_DRAINING,           /* 503: shutting down */
    PROBLEM_COUNT
};

int problem_status(enum problem_code c);
const char *problem_name(enum problem_code c); /* "validation_failed" */
const char *problem_title(enum problem_code c);

struct problem {
    enum problem_code code;
    struct str detail; /* for people; absent: the title says it all */
    const struct id *request_id;
    const struct faults *faults; /* NULL: none */
};
/* Appends the JSON; everything in `p` is borrowed. `out` says ERR_LIMIT when it is full. */
void render_problem(const struct problem *p, struct buf *out);
