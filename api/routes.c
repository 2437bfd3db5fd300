#include "api/routes.h"

#include "api/v1/v1.h"
#include "server/base/buf.h"
#include "server/base/limits.h"
#include "storage/model.h"

const struct route routes[] = {
    /* messages */
    {HTTP_POST, "/send", v1_send, SCOPE_SEND, ROUTE_BODY_MESSAGE, 0, NULL},
    {HTTP_POST, "/v1/messages", v1_send, SCOPE_SEND, ROUTE_BODY_MESSAGE, 0, NULL},
};
const size_t route_count = sizeof(routes) / sizeof(routes[0]);

static const char *const method_names[] = {[HTTP_GET] = "GET",
                                           [HTTP_POST] = "POST",
                                           [HTTP_PUT] = "PUT",
                                           [HTTP_PATCH] = "PATCH",
                                           [HTTP_DELETE] = "DELETE"};
_Static_assert(sizeof(method_names) / sizeof(method_names[0]) == HTTP_METHOD_COUNT,
               "a name for each method");

const char *http_method_name(enum http_method m) {
    ASSERT((size_t)m < HTTP_METHOD_COUNT);
    return method_names[m];
}

bool http_method_parse(struct str s, enum http_method *out) {
    if (str_equal(s, STR("HEAD"))) {
        *out = HTTP_GET;
        return true;
    }
    for (size_t i = 0; i < HTTP_METHOD_COUNT; i++) {
        if (str_equal(s, str_of(method_names[i]))) {
            *out = (enum http_method)i;
            return true;
        }
    }
    return false;
}

/* Segment by segment; an empty one is no parameter. */
static bool path_matches(const char *pattern, struct str path, struct str param[ROUTE_PARAMS]) {
    struct str wanted = str_of(pattern);
    size_t params = 0;
    while (!str_is_absent(wanted) && !str_is_absent(path)) {
        struct str w = str_split(&wanted, '/');
        struct str p = str_split(&path, '/');
        if (str_starts_with(w, STR("{"))) {
            ASSERT(params < ROUTE_PARAMS);
            if (p.n == 0)
                return false;
            param[params++] = p;
        } else if (!str_equal(w, p)) {
            return false;
        }
    }
    return str_is_absent(wanted) && str_is_absent(path);
}

static bool exists(const struct route *r, const struct route_view *view) {
    if ((r->flags & ROUTE_SANDBOX) != 0 && !view->has_sandbox)
        return false;
    return (r->flags & ROUTE_HEALTH) != 0 ? view->has_health : view->has_others;
}

struct route_match routes_find(enum http_method method, struct str path,
                               const struct route_view *view) {
    struct route_match m = {0};
    for (size_t i = 0; i < route_count; i++) {
        struct str param[ROUTE_PARAMS] = {0};
        if (!exists(&routes[i], view) || !path_matches(routes[i].path, path, param))
            continue;
        m.allowed |= 1U << routes[i].method;
        if (routes[i].method != method || m.route != NULL)
            continue;
        m.route = &routes[i];
        memcpy(m.param, param, sizeof(param));
    }
    return m;
}

void routes_print_allowed(unsigned allowed, char out[64]) {
    struct buf b = BUF_INIT(63);
    for (size_t i = 0; i < HTTP_METHOD_COUNT; i++) {
        if ((allowed & (1U << i)) == 0)
            continue;
        buf_printf(&b, "%s%s", b.n > 0 ? ", " : "", method_names[i]);
        if (i == HTTP_GET)
            buf_putz(&b, ", HEAD");
    }
    ASSERT(buf_status(&b) == OK);
    snprintf(out, 64, "%.*s", STR_ARG(buf_str(&b)));
    buf_release(&b);
}
