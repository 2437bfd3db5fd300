/* T25: the path of a request against the table of routes. What matches is the route's own path,
 * segment for segment, and a parameter is one whole segment. First octet: what exists here. */
#include "api/routes.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_match(const struct route_match *m, struct str path) {
    struct str pattern = str_of(m->route->path);
    size_t params = 0;
    while (!str_is_absent(pattern)) {
        struct str p = str_split(&pattern, '/'), s = str_split(&path, '/');
        if (!str_starts_with(p, STR("{"))) {
            ASSERT(str_equal(p, s));
            continue;
        }
        ASSERT(s.n > 0 && str_find_char(s, '/') < 0 && str_equal(m->param[params++], s));
    }
    ASSERT(str_is_absent(path));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size < 1)
        return 0;
    struct str path = str_make(data + 1, size - 1), rest = path;
    const struct route_view view = {.has_sandbox = data[0] & 1,
                                    .has_health = data[0] & 2,
                                    .has_others = data[0] & 4,
                                    .is_development = data[0] & 8};
    enum http_method method;
    if (http_method_parse(str_split(&rest, ' '), &method))
        path = rest;
    else
        method = (enum http_method)((data[0] >> 4) % HTTP_METHOD_COUNT);
    if (str_is_absent(path))
        return 0;
    struct route_match m = routes_find(method, path, &view);
    char allowed[64];
    routes_print_allowed(m.allowed, allowed);
    ASSERT((m.allowed != 0) == (allowed[0] != '\0'));
    ASSERT((m.route != NULL) == ((m.allowed & 1U << method) != 0));
    if (m.route) {
        ASSERT(m.route->method == method);
        ASSERT(!(m.route->flags & ROUTE_SANDBOX) || view.has_sandbox);
        ASSERT(!(m.route->flags & ROUTE_DEVELOPMENT) || view.is_development);
        check_match(&m, path);
    }
    return 0;
}
