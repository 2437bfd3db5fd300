/* What a start would refuse is found before anything is made. */
#include "server/lifecycle.h"

#include "server/lifecycle_options.h"
#include "server/provision.h"

enum { ANY_PORT = 1025 }; /* of the sandbox, which is not started here */

static enum err check_delivery(const struct config *c, struct errinfo *info) {
    struct lifecycle_delivery o;
    enum err e = lifecycle_delivery_options(c, lifecycle_wants_sandbox(c) ? ANY_PORT : 0, &o, info);
    lifecycle_delivery_release(&o);
    return e;
}

static enum err check_api(const struct config *c, struct errinfo *info) {
    struct lifecycle_api o;
    enum err e = lifecycle_api_options(c, &o, info);
    if (e == OK)
        e = api_check(&o.options, info);
    lifecycle_api_release(&o);
    return e;
}

static enum err check_net(const struct config *c, struct errinfo *info) {
    struct lifecycle_net o;
    struct guard *guard = NULL;
    struct tls_client_ctx *tls = NULL;
    lifecycle_net_options(c, &o);
    enum err e = dns_check(&o.dns, info);
    if (e == OK)
        e = tls_client_ctx_new(&o.tls, &tls, info);
    if (e == OK)
        e = guard_new(&o.guard, &guard, info);
    guard_free(&guard);
    tls_client_ctx_unref(&tls);
    lifecycle_net_release(&o);
    return e;
}

/* Keys, domains and webhooks, declared to a store that forgets them. */
static enum err check_declarations(const struct config *c, struct errinfo *info) {
    struct lifecycle_net o;
    struct guard *guard = NULL;
    struct store *store = NULL;
    lifecycle_net_options(c, &o);
    enum err e = guard_new(&o.guard, &guard, info);
    if (e == OK)
        e = store_open(&(struct store_options){.backend = STORE_MEMORY}, &store, info);
    if (e == OK)
        e = provision_apply(store, guard, c, info);
    store_close(&store);
    guard_free(&guard);
    lifecycle_net_release(&o);
    return e;
}

static enum err check_master_key(const struct config *c, struct errinfo *info) {
    struct seal *seal = NULL;
    enum err e = lifecycle_seal(c, &seal, info);
    seal_free(&seal);
    return e;
}

enum err lifecycle_check(const struct config *c, struct errinfo *info) {
    enum err e = check_master_key(c, info);
    if (e == OK)
        e = check_delivery(c, info);
    if (e == OK)
        e = check_api(c, info);
    if (e == OK)
        e = check_net(c, info);
    if (e == OK)
        e = check_declarations(c, info);
    if (e != OK)
        lifecycle_name_setting(info);
    return e;
}
