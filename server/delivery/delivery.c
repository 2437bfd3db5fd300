#include "server/delivery/delivery.h"

#include <stdlib.h>

#include "server/base/clock.h"
#include "server/delivery/scheduler.h"

/* Thread: main. */
struct delivery {
    struct scheduler *scheduler;
    const struct store *store;
    const struct dns *dns;
    size_t loops;
    bool is_drained;
};

enum err delivery_check(const struct delivery_options *o, struct errinfo *info) {
    struct settings *s = NULL;
    enum err e = settings_new(o, &s, info);
    settings_unref(&s);
    return e;
}

static bool asks_resolver(const struct route *r) {
    struct sockaddr_any literal;
    for (size_t i = 0; i < r->smarthost_count; i++)
        if (sockaddr_parse(str_of(r->smarthost[i].host), r->smarthost[i].port, &literal) != OK)
            return true;
    return r->kind == ROUTE_MX;
}

static enum err check_company(const struct delivery_options *o, struct errinfo *info) {
    if (o->store == NULL)
        return err_set(info, ERR_INVALID, "store", "is needed");
    for (size_t i = 0; i < o->route_count && o->dns == NULL; i++)
        if (asks_resolver(&o->routes[i]))
            return err_set(info, ERR_INVALID, o->routes[i].name,
                           "a route to MX hosts, or to a smarthost's name, needs a resolver");
    return OK;
}

enum err delivery_start(const struct delivery_options *o, struct delivery **out,
                        struct errinfo *info) {
    struct settings *s = NULL;
    *out = NULL;
    enum err e = check_company(o, info);
    if (e == OK)
        e = settings_new(o, &s, info);
    if (e != OK)
        return e;
    struct delivery *d = mem_zalloc(sizeof(*d));
    d->store = o->store;
    d->dns = o->dns;
    d->loops = o->loops;
    d->scheduler = scheduler_start(s);
    *out = d;
    return OK;
}

enum err delivery_prepare(struct delivery *d, const struct delivery_options *o,
                          struct settings **out, struct errinfo *info) {
    *out = NULL;
    if (o->store != d->store || o->dns != d->dns)
        return err_set(info, ERR_INVALID, "store", "store and resolver stay as they were started");
    if (o->loops != d->loops)
        return err_set(info, ERR_INVALID, "loops", "the number of loops needs a restart");
    enum err e = check_company(o, info);
    return e == OK ? settings_new(o, out, info) : e;
}

void delivery_take(struct delivery *d, struct settings **prepared) {
    scheduler_reload(d->scheduler, *prepared);
    *prepared = NULL;
}

void delivery_forget(struct settings **prepared) {
    settings_unref(prepared);
}

enum err delivery_reload(struct delivery *d, const struct delivery_options *o,
                         struct errinfo *info) {
    struct settings *s = NULL;
    enum err e = delivery_prepare(d, o, &s, info);
    if (e == OK)
        delivery_take(d, &s);
    return e;
}

void delivery_drain(struct delivery *d, int64_t deadline_mono_ms) {
    d->is_drained = true;
    scheduler_drain(d->scheduler, deadline_mono_ms);
}

void delivery_stop(struct delivery **dp) {
    struct delivery *d = *dp;
    *dp = NULL;
    if (d == NULL)
        return;
    if (!d->is_drained)
        delivery_drain(d, clock_mono_ms());
    scheduler_stop(&d->scheduler);
    free(d);
}

struct delivery_status delivery_status(struct delivery *d) {
    return scheduler_status(d->scheduler);
}
