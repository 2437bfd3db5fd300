/* Health, metrics, and the contract itself. */
#include "api/v1/openapi.h"
#include "api/v1/v1.h"
#include "server/base/metrics.h"
#include "server/render/value.h"

void v1_livez(struct request *r) {
    json_t *o = json_object();
    json_object_set_new(o, "status", json_string("ok"));
    request_json(r, 200, o);
    request_finish(r);
}

static bool is_ready(struct env *env, char why[160]) {
    if (atomic_load(&env->is_draining)) {
        snprintf(why, 160, "shutting down");
        return false;
    }
    return env_can_accept(env, why);
}

void v1_readyz(struct request *r) {
    char why[160] = "";
    bool ready = is_ready(r->env, why);
    json_t *o = json_object();
    json_object_set_new(o, "status", json_string(ready ? "ready" : "not_ready"));
    if (!ready)
        json_object_set_new(o, "why", value_str(str_of(why)));
    request_json(r, ready ? 200 : 503, o);
    request_finish(r);
}

void v1_metrics(struct request *r) {
    metrics_print(&r->reply.body);
    r->reply.status = 200;
    r->reply.content_type = "text/plain; version=0.0.4; charset=utf-8";
    request_finish(r);
}

void v1_openapi(struct request *r) {
    r->reply.fixed = openapi_json();
    r->reply.status = 200;
    r->reply.content_type = "application/json";
    request_finish(r);
}
