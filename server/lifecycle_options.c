#include "server/lifecycle_options.h"

#include <unistd.h>

#include "server/base/limits.h"
#include "server/base/thread.h"
#include "server/config_file.h"

enum { PEM_FILE_MAX = 1024 * 1024, DEFAULT_ROUTE_COUNT = 1 };

static const char DEFAULT_ROUTE[] = "default";

static const char *text_or_null(struct arena *a, struct str s) {
    return s.n ? arena_dupz(a, s) : NULL;
}

/* ---- net ---- */

/* Private addresses are for those whom the operator lists; in the development profile, where the
 * receiver is on this machine, for the loopback too. */
static void fill_guard(const struct config *c, struct arena *a, struct guard_options *o) {
    static const struct str loopback[] = {{"127.0.0.0/8", 11}, {"::1/128", 7}};
    static const struct str local_hosts[] = {{"127.0.0.1", 9}, {"::1", 3}, {"localhost", 9}};
    bool dev = c->profile == PROFILE_DEVELOPMENT;
    struct str *networks = ARENA_ARRAY(a, struct str, c->webhook_networks.count + 2);
    struct str *hosts = ARENA_ARRAY(a, struct str, c->webhook_http_hosts.count + 3);
    size_t n = 0, h = 0;
    for (size_t i = 0; i < c->webhook_networks.count; i++)
        networks[n++] = c->webhook_networks.list[i];
    for (size_t i = 0; i < c->webhook_http_hosts.count; i++)
        hosts[h++] = c->webhook_http_hosts.list[i];
    for (size_t i = 0; dev && i < 2; i++)
        networks[n++] = loopback[i];
    for (size_t i = 0; dev && i < 3; i++)
        hosts[h++] = local_hosts[i];
    *o = (struct guard_options){.allow_networks = networks,
                                .allow_network_count = n,
                                .allow_http_hosts = hosts,
                                .allow_http_host_count = h};
}

void lifecycle_net_options(const struct config *c, struct lifecycle_net *o) {
    bool has_no_anchor = str_equal(c->dns_trust_anchor, STR("none"));
    *o = (struct lifecycle_net){.arena = arena_new()};
    struct arena *a = o->arena;
    o->dns = (struct dns_options){.mode = arena_dupz(a, c->dns),
                                  .trust_anchor_file =
                                      has_no_anchor ? "" : text_or_null(a, c->dns_trust_anchor),
                                  .root_hints_file = text_or_null(a, c->dns_root_hints)};
    o->tls.ca_file = text_or_null(a, c->ca_file);
    fill_guard(c, a, &o->guard);
}

void lifecycle_net_release(struct lifecycle_net *o) {
    arena_free(&o->arena);
}

/* ---- routes ---- */

static enum intake_route_kind intake_kind(struct str kind) {
    if (str_equal(kind, STR("mx")))
        return INTAKE_ROUTE_MX;
    return str_equal(kind, STR("sandbox")) ? INTAKE_ROUTE_SANDBOX : INTAKE_ROUTE_SMARTHOST;
}

/* T11. The setting is for every smarthost; `own` is what a declared route says of itself. From the
 * sandbox nothing leaves. */
static bool wants_verified_domain(const struct config *c, struct str kind, bool own) {
    switch (intake_kind(kind)) {
    case INTAKE_ROUTE_MX:
        return true;
    case INTAKE_ROUTE_SMARTHOST:
        return own || c->require_verified_domain;
    case INTAKE_ROUTE_SANDBOX:
        break;
    }
    return own;
}

bool lifecycle_wants_sandbox(const struct config *c) {
    if (str_equal(c->route, STR("sandbox")))
        return true;
    for (size_t i = 0; i < c->route_count; i++)
        if (str_equal(c->routes[i].kind, STR("sandbox")))
            return true;
    return false;
}

static enum err add_hosts(struct lifecycle_delivery *o, struct route *r, const struct str *urls,
                          size_t count, const char *setting, struct errinfo *info) {
    r->smarthost = o->hosts + o->host_count;
    for (size_t i = 0; i < count; i++) {
        struct errinfo why = {0};
        if (smarthost_parse(urls[i], &o->hosts[o->host_count], &why) != OK)
            return err_set(info, ERR_INVALID, setting, "%s: %s", why.field, why.text);
        o->host_count++;
        r->smarthost_count++;
    }
    return OK;
}

static enum err add_sandbox(struct lifecycle_delivery *o, struct route *r, uint16_t port,
                            const char *setting, struct errinfo *info) {
    struct str url = arena_printf(o->arena, "smtp://127.0.0.1:%u?tls=encrypt", (unsigned)port);
    r->kind = ROUTE_SANDBOX;
    return add_hosts(o, r, &url, 1, setting, info);
}

/* The default route's kind is its own text: a slip in a word is no URL with a wrong scheme. */
static enum err check_default_route(struct str s, struct errinfo *info) {
    if (str_equal(s, STR("mx")) || str_equal(s, STR("sandbox")) || str_find(s, STR("://")) >= 0)
        return OK;
    return err_set(info, ERR_INVALID, "POSTCHUTE_ROUTE",
                   "expects mx, sandbox, or a smarthost as smtp://host:port or smtps://host:port");
}

static enum err fill_route(struct lifecycle_delivery *o, struct route *r, struct str kind,
                           const struct str *urls, size_t count, uint16_t sandbox_port,
                           const char *setting, struct errinfo *info) {
    if (str_equal(kind, STR("mx"))) {
        r->kind = ROUTE_MX;
        return OK;
    }
    if (str_equal(kind, STR("sandbox"))) {
        if (sandbox_port == 0)
            return err_set(info, ERR_INVALID, setting,
                           "the sandbox was not on at the start: restart to use it");
        return add_sandbox(o, r, sandbox_port, setting, info);
    }
    r->kind = ROUTE_SMARTHOST;
    return add_hosts(o, r, urls, count, setting, info);
}

static void fill_timeouts(const struct config *c, struct session_timeouts *t) {
    t->connect = c->smtp_connect_ms;
    t->greeting = c->smtp_greeting_ms;
    t->ehlo = c->smtp_ehlo_ms;
    t->starttls = c->smtp_starttls_ms;
    t->mail = c->smtp_mail_ms;
    t->rcpt = c->smtp_rcpt_ms;
    t->data = c->smtp_data_ms;
    t->block = c->smtp_block_ms;
    t->end = c->smtp_end_ms;
    t->rset = c->smtp_rset_ms;
    t->min_rate_bytes_s = c->smtp_min_rate;
}

static void fill_retries(const struct config *c, struct delivery_options *d) {
    d->retry_count = 0;
    ASSERT(c->retry_after.count <= DELIVERY_RETRY_STEPS_MAX); /* config_load() */
    for (size_t i = 0; i < c->retry_after.count; i++)
        if (config_parse_duration(c->retry_after.list[i], &d->retry_ms[d->retry_count]) == OK)
            d->retry_count++;
    if (d->retry_count)
        d->retry_then_ms = d->retry_ms[d->retry_count - 1];
}

enum { DAY_MS = 24 * 3600 * 1000 };

void lifecycle_housekeeping_options(const struct config *c, struct housekeeping_options *o) {
    struct delivery_options d;
    delivery_options_default(&d);
    fill_retries(c, &d);
    *o = (struct housekeeping_options){
        .content_keep_ms = c->content_keep_ms > 0 ? c->content_keep_ms : 1, /* 0: not at all */
        /* a key that is remembered answers with its message */
        .events_keep_ms =
            c->events_keep_ms > c->idempotency_keep_ms ? c->events_keep_ms : c->idempotency_keep_ms,
        .retry_most_ms = d.retry_then_ms,
        /* what any give_up allowed: a shorter one now takes nothing from what was accepted */
        .expires_most_ms = (int64_t)LIMIT_EXPIRES_DAYS * DAY_MS,
        .keys_keep_ms = c->idempotency_keep_ms,
    };
    for (size_t i = 0; i < d.retry_count; i++)
        if (d.retry_ms[i] > o->retry_most_ms)
            o->retry_most_ms = d.retry_ms[i];
    o->retry_most_ms += o->retry_most_ms / 2 + 600000; /* jitter, greylists, a site that rests */
}

static enum err fill_source(const struct config *c, struct delivery_options *d,
                            struct errinfo *info) {
    struct sockaddr_any source;
    if (str_is_absent(c->source_address))
        return OK;
    if (sockaddr_parse(c->source_address, 0, &source) != OK)
        return err_set(info, ERR_INVALID, "POSTCHUTE_SOURCE_ADDRESS", "is not an IP address");
    if (sockaddr_is_ipv6(&source))
        d->source_ipv6 = source;
    else
        d->source_ipv4 = source;
    return OK;
}

enum err lifecycle_delivery_options(const struct config *c, uint16_t sandbox_port,
                                    struct lifecycle_delivery *o, struct errinfo *info) {
    *o = (struct lifecycle_delivery){.arena = arena_new()};
    struct arena *a = o->arena;
    struct delivery_options *d = &o->options;
    size_t hosts = 1 + DEFAULT_ROUTE_COUNT;
    for (size_t i = 0; i < c->route_count; i++)
        hosts += c->routes[i].smarthosts.count + 1;
    o->hosts = ARENA_ARRAY(a, struct smarthost, hosts);
    struct route *routes = ARENA_ARRAY(a, struct route, c->route_count + DEFAULT_ROUTE_COUNT);
    delivery_options_default(d);
    fill_timeouts(c, &d->timeouts);
    fill_retries(c, d);
    d->loops = c->delivery_threads > 0 ? (size_t)c->delivery_threads : thread_cores();
    if (d->loops > DELIVERY_LOOPS_MAX)
        d->loops = DELIVERY_LOOPS_MAX;
    d->hostname = c->hostname.n ? arena_dupz(a, c->hostname) : "[127.0.0.1]";
    d->want_ipv6 = c->ipv6 == IPV6_ON;
    d->mx_networks = c->mx_networks.list;
    d->mx_network_count = c->mx_networks.count;
    d->keep_transcripts = true;
    d->routes = routes;
    d->default_route = DEFAULT_ROUTE;
    enum err e = fill_source(c, d, info);
    for (size_t i = 0; i < c->route_count + DEFAULT_ROUTE_COUNT && e == OK; i++) {
        bool is_default = i == c->route_count;
        const struct config_route *from = is_default ? NULL : &c->routes[i];
        struct route *r = &routes[i];
        struct str kind = is_default ? c->route : from->kind;
        bool is_mx = str_equal(kind, STR("mx")), sign = is_default || from->sign;
        *r = (struct route){.name = is_default ? DEFAULT_ROUTE : arena_dupz(a, from->name),
                            .mx_port = (uint16_t)c->smtp_port,
                            .require_verified_domain = wants_verified_domain(
                                c, kind, !is_default && from->require_verified_domain),
                            /* a signature that nobody can check is worse than none */
                            .signing = !sign   ? ROUTE_SIGNING_OFF
                                       : is_mx ? ROUTE_SIGNING_PUBLISHED
                                               : ROUTE_SIGNING_FULL,
                            .concurrency = (unsigned)c->site_connections,
                            .mx_tls = SESSION_TLS_OPPORTUNISTIC};
        if (!is_default) {
            r->sender_domains = from->sender_domains.list;
            r->sender_domain_count = from->sender_domains.count;
            r->recipient_domains = from->recipient_domains.list;
            r->recipient_domain_count = from->recipient_domains.count;
        }
        if (is_default)
            e = check_default_route(c->route, info);
        if (e == OK)
            e = fill_route(o, r, kind, is_default ? &c->route : from->smarthosts.list,
                           is_default ? 1 : from->smarthosts.count, sandbox_port,
                           is_default ? "POSTCHUTE_ROUTE" : "routes.smarthosts", info);
        if (e != OK && !is_default)
            e = config_name_declaration(info, e, "route", from->name);
        d->route_count = i + 1;
    }
    return e;
}

void lifecycle_delivery_release(struct lifecycle_delivery *o) {
    for (size_t i = 0; i < o->host_count; i++)
        smarthost_wipe(&o->hosts[i]);
    arena_free(&o->arena);
}

/* ---- api ---- */

static void fill_intake(const struct config *c, struct arena *a, struct intake_settings *s) {
    *s = (struct intake_settings){
        .limits = {.recipients_max = (size_t)c->max_recipients,
                   .message_bytes_max = (size_t)c->max_message_bytes},
        .expires_default_ms = c->give_up_ms,
        .expires_max_ms = c->give_up_ms > 5LL * DAY_MS ? c->give_up_ms : 5LL * DAY_MS,
        .idempotency_keep_ms = c->idempotency_keep_ms,
        .default_route = STR("default"),
        .only_to = {c->only_to.list, c->only_to.count},
        .redirect_to = c->redirect_to,
    };
    s->routes = ARENA_ARRAY(a, struct intake_route, c->route_count + DEFAULT_ROUTE_COUNT);
    for (size_t i = 0; i < c->route_count; i++) {
        const struct config_route *r = &c->routes[i];
        s->routes[s->route_count++] = (struct intake_route){
            .name = r->name,
            .kind = intake_kind(r->kind),
            .requires_verified_domain =
                wants_verified_domain(c, r->kind, r->require_verified_domain),
            .sender_domains = {r->sender_domains.list, r->sender_domains.count},
            .recipient_domains = {r->recipient_domains.list, r->recipient_domains.count}};
    }
    s->routes[s->route_count++] = (struct intake_route){
        .name = STR("default"),
        .kind = intake_kind(c->route),
        .requires_verified_domain = wants_verified_domain(c, c->route, false)};
}

enum err lifecycle_api_options(const struct config *c, struct lifecycle_api *o,
                               struct errinfo *info) {
    *o = (struct lifecycle_api){.arena = arena_new(),
                                .tls_cert = BUF_INIT(PEM_FILE_MAX),
                                .tls_key = BUF_INIT(PEM_FILE_MAX)};
    struct arena *a = o->arena;
    struct api_options *p = &o->options;
    enum err e = OK;
    if (c->tls_cert.n) {
        e = config_read_file(c->tls_cert, PEM_FILE_MAX, &o->tls_cert, NULL, "POSTCHUTE_TLS_CERT",
                             info);
        if (e == OK)
            e = config_read_secret_file(c->tls_key, PEM_FILE_MAX, &o->tls_key, "POSTCHUTE_TLS_KEY",
                                        info);
        p->tls_cert = buf_str(&o->tls_cert);
        p->tls_key = buf_str(&o->tls_key);
    }
    p->listen = c->listen.list;
    p->listen_count = c->listen.count;
    p->listen_health = c->listen_health.list;
    p->listen_health_count = c->listen_health.count;
    p->control_path = arena_printf(a, "%.*s/control.sock", STR_ARG(c->data));
    p->loops = c->http_threads > 0 ? (size_t)c->http_threads : (thread_cores() + 1) / 2;
    p->body_max_bytes = (size_t)c->max_request_bytes;
    p->memory_max_bytes = (size_t)c->max_memory_bytes;
    p->connections_max = (size_t)c->max_connections;
    p->connections_per_ip_max = (size_t)c->max_connections_per_ip;
    p->drain_ms = c->shutdown_ms > 1 ? c->shutdown_ms / 2 : 1; /* 0 means the API's own */
    p->hostname = c->hostname;
    fill_intake(c, a, &p->intake);
    fill_guard(c, a, &p->guard);
    return e;
}

void lifecycle_api_release(struct lifecycle_api *o) {
    buf_release(&o->tls_cert);
    buf_release_secret(&o->tls_key);
    arena_free(&o->arena);
}

/* ---- secrets at rest ---- */

enum err lifecycle_seal(const struct config *c, struct seal **out, struct errinfo *info) {
    return seal_new(c->master_key, c->master_key_previous, out, info);
}

/* ---- what is shown ---- */

/* Options bear the names of their settings, but for these. */
void lifecycle_name_setting(struct errinfo *info) {
    static const struct {
        const char *option, *setting;
    } others[] = {{"tls", "ca_file"},
                  {"allow_networks", "webhook_networks"},
                  {"allow_http_hosts", "webhook_http_hosts"},
                  {"control_path", "data"}, /* a socket in it */
                  {"store", "data"}};
    const char *name = info->field;
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++)
        if (strcmp(name, others[i].option) == 0)
            name = others[i].setting;
    char variable[CONFIG_VARIABLE_SIZE];
    if (config_variable_of(name, variable))
        snprintf(info->field, sizeof info->field, "%s", variable);
}

enum log_format lifecycle_log_format(const struct config *c) {
    if (c->log_format == 0)
        return isatty(STDERR_FILENO) || c->profile == PROFILE_DEVELOPMENT ? LOG_FORMAT_TEXT
                                                                          : LOG_FORMAT_JSON;
    return c->log_format == 1 ? LOG_FORMAT_JSON : LOG_FORMAT_TEXT;
}

void lifecycle_local_url(const struct config *c, const char *path, char *out, size_t size) {
    struct str at = c->listen.list[0];
    size_t colon = at.n;
    while (colon > 0 && at.p[colon - 1] != ':')
        colon--;
    struct str host = colon ? str_slice(at, 0, colon - 1) : at;
    if (host.n == 0 || str_equal(host, STR("0.0.0.0")) || str_equal(host, STR("[::]")))
        host = STR("127.0.0.1");
    snprintf(out, size, "%s://%.*s:%.*s%s", c->tls_cert.n ? "https" : "http", STR_ARG(host),
             STR_ARG(str_from(at, colon)), path);
}

struct str lifecycle_shown_route(const struct config *c) {
    struct str s = c->route;
    for (size_t i = s.n; i > 0; i--)
        if (s.p[i - 1] == '@')
            return str_from(s, i);
    return s;
}
