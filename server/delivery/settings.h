/* settings: the immutable copy of delivery_options that the scheduler and all loops share by
 * reference count; a reload makes a new one, what is under way keeps the old one.
 *
 * Thread: immutable; settings_ref/unref are atomic.
 */
#pragma once

#include "server/delivery/backoff.h"
#include "server/delivery/delivery.h"

/* A smarthost with what was made of it. */
struct settings_host {
    struct smarthost host;
    struct tls_client_ctx *tls;  /* a reference */
    struct sockaddr_any literal; /* len 0: `host` is a name to be resolved */
    uint64_t auth_tag;           /* tells sessions of different credentials apart; 0: none */
    uint64_t session_tag;        /* and those that differ in that, TLS, pins or authority */
};

struct settings_route {
    const struct route *route; /* with every default filled in */
    struct settings_host *host;
};

struct settings {
    struct delivery_options o; /* with every default filled in; strings live as long as it does */
    struct backoff backoff;
    struct tls_client_ctx *tls_ctx;
    struct guard *mx_guard; /* of o.mx_networks */
    struct settings_route *route;
    size_t route_count;
    /* private */
    struct arena *arena;
    struct route *route_copy;
    int refs;
};

/* Checks and copies. ERR_INVALID: info->field names the option. */
NODISCARD enum err settings_new(const struct delivery_options *o, struct settings **out,
                                struct errinfo *info);
struct settings *settings_ref(struct settings *s);
void settings_unref(struct settings **sp);
/* For a test message: the route asked for when it is a sandbox, else the first sandbox; NULL: there
 * is none. */
const struct settings_route *settings_choose_sandbox(const struct settings *s, struct str asked);
/* NULL: no such route. */
const struct settings_route *settings_choose(const struct settings *s, struct str asked,
                                             struct str sender_domain, struct str recipient_domain);
