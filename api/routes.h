/* routes: THE table of what the API answers to: method, path, handler, scope, body limit.
 *
 * Everything that is checked before a handler runs is in the row: a handler can rely on it.
 * Thread: immutable.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "server/base/str.h"

struct request;

enum http_method { HTTP_GET, HTTP_POST, HTTP_PUT, HTTP_PATCH, HTTP_DELETE, HTTP_METHOD_COUNT };

enum route_flag {
    ROUTE_PUBLIC = 1,      /* without a key */
    ROUTE_HEALTH = 2,      /* on the health listener, when there is one, and then only there */
    ROUTE_SANDBOX = 4,     /* only with the sandbox */
    ROUTE_ANY_BODY = 8,    /* every Content-Type; others take application/json */
    ROUTE_DEVELOPMENT = 16 /* only in the development profile: it lets everybody store something */
};

enum { ROUTE_BODY_NONE = 0, ROUTE_BODY_MESSAGE = -1 /* the setting */ };
enum { ROUTE_PARAMS = 3 };

struct route {
    enum http_method method;
    const char *path; /* "{x}" stands for one segment */
    void (*handle)(struct request *r);
    unsigned scope; /* enum key_scope */
    int body_max;   /* bytes, or ROUTE_BODY_* */
    unsigned flags;
    const char *produces; /* what Accept is checked against; NULL: application/json */
};

extern const struct route routes[];
extern const size_t route_count;

const char *http_method_name(enum http_method m);
/* HEAD is GET here. false: none of ours. */
bool http_method_parse(struct str s, enum http_method *out);

struct route_match {
    const struct route *route; /* NULL: not found */
    struct str param[ROUTE_PARAMS];
    unsigned allowed; /* bits by method: what this path takes */
};
/* Compares the path as it came, segment by segment; parameters are not decoded. `wanted` says which
 * rows exist here (see ROUTE_HEALTH, ROUTE_SANDBOX). */
struct route_view {
    bool has_sandbox;
    bool has_health, has_others;
    bool is_development;
};
struct route_match routes_find(enum http_method method, struct str path,
                               const struct route_view *view);
/* "GET, HEAD, POST" */
void routes_print_allowed(unsigned allowed, char out[64]);
