#include "api/routes.h"

#include "api/v1/v1.h"
#include "server/base/buf.h"
#include "server/base/limits.h"
#include "storage/model.h"

enum { SMALL = LIMIT_SMALL_BODY };

const struct route routes[] = {
    /* messages */
    {HTTP_POST, "/send", v1_send, SCOPE_SEND, ROUTE_BODY_MESSAGE, 0, NULL},
    {HTTP_POST, "/v1/messages", v1_send, SCOPE_SEND, ROUTE_BODY_MESSAGE, 0, NULL},
    {HTTP_GET, "/v1/messages", v1_messages_list, SCOPE_READ, 0, 0, NULL},
    {HTTP_GET, "/v1/messages/{id}", v1_message_get, SCOPE_READ, 0, 0, NULL},
    {HTTP_GET, "/v1/messages/{id}/events", v1_message_events, SCOPE_READ, 0, 0, NULL},
    {HTTP_GET, "/v1/messages/{id}/attempts", v1_message_attempts, SCOPE_READ, 0, 0, NULL},
    {HTTP_GET, "/v1/messages/{id}/raw", v1_message_raw, SCOPE_READ, 0, 0, "message/rfc822"},
    {HTTP_POST, "/v1/messages/{id}/cancel", v1_message_cancel, SCOPE_SEND, SMALL, 0, NULL},
    {HTTP_POST, "/v1/messages/{id}/retry", v1_message_retry, SCOPE_SEND, SMALL, 0, NULL},
    /* keys */
    {HTTP_POST, "/v1/keys", v1_keys_create, SCOPE_ADMIN, SMALL, 0, NULL},
    {HTTP_GET, "/v1/keys", v1_keys_list, SCOPE_ADMIN, 0, 0, NULL},
    {HTTP_DELETE, "/v1/keys/{id}", v1_key_revoke, SCOPE_ADMIN, 0, 0, NULL},
    /* domains */
    {HTTP_POST, "/v1/domains", v1_domains_create, SCOPE_MANAGE, SMALL, 0, NULL},
    {HTTP_GET, "/v1/domains", v1_domains_list, SCOPE_MANAGE, 0, 0, NULL},
    {HTTP_GET, "/v1/domains/{name}", v1_domain_get, SCOPE_MANAGE, 0, 0, NULL},
    {HTTP_POST, "/v1/domains/{name}/verify", v1_domain_verify, SCOPE_MANAGE, SMALL, 0, NULL},
    {HTTP_DELETE, "/v1/domains/{name}", v1_domain_delete, SCOPE_MANAGE, 0, 0, NULL},
    /* webhooks */
    {HTTP_POST, "/v1/webhooks", v1_webhooks_create, SCOPE_MANAGE, SMALL, 0, NULL},
    {HTTP_GET, "/v1/webhooks", v1_webhooks_list, SCOPE_MANAGE, 0, 0, NULL},
    {HTTP_GET, "/v1/webhooks/{id}", v1_webhook_get, SCOPE_MANAGE, 0, 0, NULL},
    {HTTP_PATCH, "/v1/webhooks/{id}", v1_webhook_change, SCOPE_MANAGE, SMALL, 0, NULL},
    {HTTP_DELETE, "/v1/webhooks/{id}", v1_webhook_delete, SCOPE_MANAGE, 0, 0, NULL},
    {HTTP_POST, "/v1/webhooks/{id}/rotate", v1_webhook_rotate, SCOPE_MANAGE, SMALL, 0, NULL},
    {HTTP_POST, "/v1/webhooks/{id}/test", v1_webhook_test, SCOPE_MANAGE, SMALL, 0, NULL},
    {HTTP_GET, "/v1/webhooks/{id}/deliveries", v1_webhook_deliveries, SCOPE_MANAGE, 0, 0, NULL},
    {HTTP_POST, "/v1/webhooks/{id}/replay", v1_webhook_replay, SCOPE_MANAGE, SMALL, 0, NULL},
    /* sandbox */
    {HTTP_GET, "/v1/sandbox/messages", v1_sandbox_messages, SCOPE_READ, 0, ROUTE_SANDBOX, NULL},
    {HTTP_GET, "/v1/sandbox/messages/{id}", v1_sandbox_message, SCOPE_READ, 0, ROUTE_SANDBOX, NULL},
    {HTTP_GET, "/v1/sandbox/webhooks", v1_sandbox_webhooks, SCOPE_READ, 0, ROUTE_SANDBOX, NULL},
    {HTTP_POST, "/v1/sandbox/webhook-receiver", v1_sandbox_receive, 0, SMALL,
     ROUTE_SANDBOX | ROUTE_DEVELOPMENT | ROUTE_PUBLIC | ROUTE_ANY_BODY, NULL},
    /* service */
    {HTTP_GET, "/livez", v1_livez, 0, 0, ROUTE_PUBLIC | ROUTE_HEALTH, NULL},
    {HTTP_GET, "/readyz", v1_readyz, 0, 0, ROUTE_PUBLIC | ROUTE_HEALTH, NULL},
    {HTTP_GET, "/metrics", v1_metrics, 0, 0, ROUTE_PUBLIC | ROUTE_HEALTH, "text/plain"},
    {HTTP_GET, "/openapi.json", v1_openapi, 0, 0, ROUTE_PUBLIC, NULL},
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
    for (size_t i = 0; pattern[i] != '\0' && pattern[i] != '{'; i++) /* most end here */
        if (i >= path.n || path.p[i] != pattern[i])
            return false;
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
    if ((r->flags & ROUTE_DEVELOPMENT) != 0 && !view->is_development)
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
