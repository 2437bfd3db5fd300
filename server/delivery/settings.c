#include "server/delivery/settings.h"

#include <stdlib.h>

#include "server/base/digest.h"
#include "server/base/limits.h"
#include "server/net/guard.h"

enum {
    MINUTE_MS = 60 * 1000,
    MX_PORT = 25,
    MX_CONCURRENCY = 10,
    SMARTHOST_CONCURRENCY = 20,
    MX_MESSAGES = 100,
    SESSIONS_MAX = 1000,
    CONTENT_BYTES_MAX = 64 * 1024 * 1024,
    IDLE_MX_MS = 5000,
    IDLE_SMARTHOST_MS = 45000,
    SESSION_AGE_MS = 300000,
    SITE_DEAD_MS = 60000,
    SITE_LOCKED_MS = 5 * 60 * 1000,
    RACE_HEAD_START_MS = 250, /* RFC 8305 5 */
    ROUTE_NAME_MAX = 128,     /* it stands before a domain in keys of bounded length (hop.c) */
};

static const char BUILTIN_ROUTE[] = "mx";

void delivery_options_default(struct delivery_options *o) {
    static const int64_t MINUTES[] = {1, 5, 15, 30, 60, 120, 180};
    *o = (struct delivery_options){.loops = 1, .retry_jitter_percent = 15};
    o->retry_count = sizeof(MINUTES) / sizeof(MINUTES[0]);
    for (size_t i = 0; i < o->retry_count; i++)
        o->retry_ms[i] = MINUTES[i] * MINUTE_MS;
    o->retry_then_ms = (int64_t)240 * MINUTE_MS;
    o->keep_transcripts = true;
    session_timeouts_default(&o->timeouts);
}

static void fill_defaults(struct delivery_options *o) {
    if (o->due_in_memory == 0)
        o->due_in_memory = LIMIT_DUE_IN_MEMORY;
    if (o->sessions_max == 0)
        o->sessions_max = SESSIONS_MAX;
    if (o->content_bytes_max == 0)
        o->content_bytes_max = CONTENT_BYTES_MAX;
    if (o->idle_mx_ms == 0)
        o->idle_mx_ms = IDLE_MX_MS;
    if (o->idle_smarthost_ms == 0)
        o->idle_smarthost_ms = IDLE_SMARTHOST_MS;
    if (o->session_age_max_ms == 0)
        o->session_age_max_ms = SESSION_AGE_MS;
    if (o->site_dead_ms == 0)
        o->site_dead_ms = SITE_DEAD_MS;
    if (o->race_head_start_ms == 0)
        o->race_head_start_ms = RACE_HEAD_START_MS;
    if (o->site_locked_ms == 0)
        o->site_locked_ms = SITE_LOCKED_MS;
}

static enum err check(const struct delivery_options *o, struct errinfo *info) {
    if (o->hostname == NULL || o->hostname[0] == '\0')
        return err_set(info, ERR_INVALID, "hostname", "is needed to greet other servers");
    if (o->loops == 0 || o->loops > DELIVERY_LOOPS_MAX)
        return err_set(info, ERR_INVALID, "loops", "must be from 1 to %d", DELIVERY_LOOPS_MAX);
    if (o->retry_count > DELIVERY_RETRY_STEPS_MAX || o->retry_then_ms <= 0 ||
        o->retry_jitter_percent > 50)
        return err_set(info, ERR_INVALID, "retry", "steps, last step or jitter out of range");
    for (size_t i = 0; i < o->retry_count; i++) {
        if (o->retry_ms[i] <= 0)
            return err_set(info, ERR_INVALID, "retry", "a delay must be more than 0");
    }
    return OK;
}

static enum err check_route(const struct delivery_options *o, size_t at, struct errinfo *info) {
    const struct route *r = &o->routes[at];
    if (r->name == NULL || r->name[0] == '\0')
        return err_set(info, ERR_INVALID, "routes", "a route has no name");
    if (strlen(r->name) > ROUTE_NAME_MAX)
        return err_set(info, ERR_INVALID, "routes", "the name of a route is longer than %d octets",
                       ROUTE_NAME_MAX);
    for (size_t i = 0; i < at; i++) {
        if (str_equal(str_of(o->routes[i].name), str_of(r->name)))
            return err_set(
                info, ERR_INVALID, "routes.name", "two routes are called '%s'%s", r->name,
                i == 0 ? ": it is the name of the one that the setting route makes" : "");
    }
    if (r->kind != ROUTE_MX && r->smarthost_count == 0)
        return err_set(info, ERR_INVALID, r->name, "the route has no smarthost");
    if (r->kind == ROUTE_MX && r->mx_tls == SESSION_TLS_IMPLICIT)
        return err_set(info, ERR_INVALID, r->name, "not a TLS level for MX hosts");
    return OK;
}

static const struct str *copy_strings(struct arena *a, const struct str *from, size_t count) {
    if (count == 0)
        return NULL;
    struct str *to = ARENA_ARRAY(a, struct str, count);
    for (size_t i = 0; i < count; i++)
        to[i] = arena_dup(a, from[i]);
    return to;
}

static uint64_t auth_tag(const struct smarthost *h) {
    if (h->user[0] == '\0')
        return 0;
    uint8_t hash[SHA256_BYTES];
    const struct str pieces[] = {str_of(h->user), str_make("", 1), str_of(h->password)};
    digest_hmac_sha256_v(str_of(h->host), pieces, 3, hash);
    uint64_t tag;
    memcpy(&tag, hash, sizeof(tag));
    return tag | 1;
}

static uint64_t session_tag(const struct settings_host *sh) {
    const struct smarthost *h = &sh->host;
    const char flags[] = {(char)h->tls, h->insecure_auth, h->is_pin_alone};
    const struct str pieces[] = {str_make(flags, sizeof(flags)),
                                 str_make((const char *)&sh->auth_tag, sizeof(sh->auth_tag)),
                                 str_of(h->ca_file), str_make("", 1),
                                 str_make((const char *)h->pin, h->pin_count * sizeof(h->pin[0]))};
    uint8_t hash[SHA256_BYTES];
    digest_hmac_sha256_v(str_of(h->host), pieces, sizeof(pieces) / sizeof(pieces[0]), hash);
    uint64_t tag;
    memcpy(&tag, hash, sizeof(tag));
    return tag;
}

static enum err copy_host(struct settings *s, const struct route *r, const struct smarthost *from,
                          struct settings_host *to, struct errinfo *info) {
    to->host = *from;
    if (sockaddr_parse(str_of(from->host), from->port, &to->literal) != OK)
        to->literal.len = 0;
    to->auth_tag = auth_tag(from);
    to->session_tag = session_tag(to);
    if (from->ca_file[0] == '\0' && from->pin_count == 0) {
        to->tls = tls_client_ctx_ref(s->tls_ctx);
        return OK;
    }
    struct errinfo why = {0};
    struct tls_client_options o = {
        .pin = from->pin, .pin_count = from->pin_count, .is_pin_alone = from->is_pin_alone};
    if (from->ca_file[0] == '\0')
        o.roots_of = s->tls_ctx;
    else
        o.ca_file = from->ca_file;
    if (tls_client_ctx_new(&o, &to->tls, &why) != OK)
        return err_set(info, ERR_INVALID, r->name, "ca: %s", why.text);
    return OK;
}

static enum err copy_route(struct settings *s, const struct route *from, size_t at,
                           struct errinfo *info) {
    struct route *r = &s->route_copy[at];
    struct settings_route *sr = &s->route[at];
    *r = *from;
    r->name = arena_dupz(s->arena, str_of(from->name));
    r->sender_domains = copy_strings(s->arena, from->sender_domains, from->sender_domain_count);
    r->recipient_domains =
        copy_strings(s->arena, from->recipient_domains, from->recipient_domain_count);
    if (r->mx_port == 0)
        r->mx_port = MX_PORT;
    if (r->mx_tls == SESSION_TLS_NONE)
        r->mx_tls = SESSION_TLS_OPPORTUNISTIC;
    if (r->concurrency == 0)
        r->concurrency = r->kind == ROUTE_MX ? MX_CONCURRENCY : SMARTHOST_CONCURRENCY;
    if (r->messages_per_connection == 0 && r->kind == ROUTE_MX)
        r->messages_per_connection = MX_MESSAGES;
    r->smarthost = NULL; /* settings_route.host stands for it */
    if (r->kind == ROUTE_MX)
        r->smarthost_count = 0;
    sr->route = r;
    /* not in the arena: has secrets */
    sr->host = mem_zalloc((r->smarthost_count + 1) * sizeof(struct settings_host));
    for (size_t i = 0; i < r->smarthost_count; i++) {
        enum err e = copy_host(s, from, &from->smarthost[i], &sr->host[i], info);
        if (e != OK)
            return e;
    }
    return OK;
}

static enum err copy_routes(struct settings *s, const struct delivery_options *o,
                            struct errinfo *info) {
    bool is_builtin = o->default_route == NULL;
    s->route_count = o->route_count + is_builtin;
    s->route_copy = ARENA_ARRAY(s->arena, struct route, s->route_count);
    s->route = ARENA_ARRAY(s->arena, struct settings_route, s->route_count);
    for (size_t i = 0; i < o->route_count; i++) {
        enum err e = check_route(o, i, info);
        if (e == OK)
            e = copy_route(s, &o->routes[i], i, info);
        if (e != OK)
            return e;
    }
    if (is_builtin) {
        const struct route mx = {
            .name = BUILTIN_ROUTE, .kind = ROUTE_MX, .mx_tls = SESSION_TLS_OPPORTUNISTIC};
        /* a declared route of that name comes before it, and is found first */
        s->o.default_route = BUILTIN_ROUTE;
        enum err e = copy_route(s, &mx, o->route_count, info);
        if (e != OK)
            return e;
    }
    s->o.routes = s->route_copy;
    s->o.route_count = s->route_count;
    if (route_choose(s->o.routes, s->route_count, str_of(s->o.default_route), STR_NONE, STR_NONE,
                     STR_NONE) == NULL)
        return err_set(info, ERR_INVALID, "default_route", "there is no route \"%s\"",
                       s->o.default_route);
    return OK;
}

static enum err build_guard(struct settings *s, struct errinfo *info) {
    struct errinfo why = {0};
    const struct guard_options o = {.allow_networks = s->o.mx_networks,
                                    .allow_network_count = s->o.mx_network_count};
    enum err e = guard_new(&o, &s->mx_guard, &why);
    s->o.mx_networks = NULL; /* the guard stands for them */
    s->o.mx_network_count = 0;
    return e == OK ? OK : err_set(info, e, "mx_networks", "%s", why.text);
}

static enum err build(struct settings *s, const struct delivery_options *o, struct errinfo *info) {
    enum err e = check(o, info);
    if (e != OK)
        return e;
    s->o = *o;
    fill_defaults(&s->o);
    e = build_guard(s, info);
    if (e != OK)
        return e;
    s->o.hostname = arena_dupz(s->arena, str_of(o->hostname));
    s->o.default_route = o->default_route ? arena_dupz(s->arena, str_of(o->default_route)) : NULL;
    if (o->tls_ctx != NULL)
        s->tls_ctx = tls_client_ctx_ref(o->tls_ctx);
    else if (tls_client_ctx_new(&(struct tls_client_options){0}, &s->tls_ctx, info) != OK)
        return ERR_INVALID;
    s->o.tls_ctx = s->tls_ctx;
    s->backoff = (struct backoff){.step_ms = s->o.retry_ms,
                                  .count = s->o.retry_count,
                                  .then_ms = s->o.retry_then_ms,
                                  .jitter_percent = s->o.retry_jitter_percent};
    return copy_routes(s, o, info);
}

enum err settings_new(const struct delivery_options *o, struct settings **out,
                      struct errinfo *info) {
    struct settings *s = mem_zalloc(sizeof(*s));
    s->refs = 1;
    s->arena = arena_new();
    enum err e = build(s, o, info);
    if (e != OK)
        settings_unref(&s);
    *out = s;
    return e;
}

struct settings *settings_ref(struct settings *s) {
    __atomic_add_fetch(&s->refs, 1, __ATOMIC_RELAXED);
    return s;
}

void settings_unref(struct settings **sp) {
    struct settings *s = *sp;
    *sp = NULL;
    if (s == NULL || __atomic_sub_fetch(&s->refs, 1, __ATOMIC_ACQ_REL) > 0)
        return;
    for (size_t i = 0; i < s->route_count && s->route != NULL; i++) {
        struct settings_route *r = &s->route[i];
        for (size_t k = 0; r->host != NULL && k < r->route->smarthost_count; k++) {
            tls_client_ctx_unref(&r->host[k].tls);
            smarthost_wipe(&r->host[k].host);
        }
        free(r->host);
    }
    guard_free(&s->mx_guard);
    tls_client_ctx_unref(&s->tls_ctx);
    arena_free(&s->arena);
    free(s);
}

const struct settings_route *settings_choose(const struct settings *s, struct str asked,
                                             struct str sender_domain,
                                             struct str recipient_domain) {
    const struct route *r =
        route_choose(s->route_copy, s->route_count, asked, str_of(s->o.default_route),
                     sender_domain, recipient_domain);
    return r != NULL ? &s->route[r - s->route_copy] : NULL;
}

const struct settings_route *settings_choose_sandbox(const struct settings *s, struct str asked) {
    const struct settings_route *first = NULL;
    for (size_t i = 0; i < s->route_count; i++) {
        const struct settings_route *r = &s->route[i];
        if (r->route->kind != ROUTE_SANDBOX)
            continue;
        if (str_equal(str_of(r->route->name), asked))
            return r;
        if (first == NULL)
            first = r;
    }
    return first;
}
