#include "server/lifecycle.h"

#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include "api/api.h"
#include "server/base/clock.h"
#include "server/base/confine.h"
#include "server/base/limits.h"
#include "server/base/log.h"
#include "server/base/thread.h"
#include "server/delivery/delivery.h"
#include "server/delivery/housekeeping.h"
#include "server/delivery/verification.h"
#include "server/events/webhook.h"
#include "server/inbound/sandbox.h"
#include "server/lifecycle_options.h"
#include "server/mail/rules.h"
#include "server/process.h"
#include "server/provision.h"

struct server {
    struct config *config;
    struct config *config_at_start; /* what runs of the settings that no reload takes */
    char *const *env;
    struct seal *seal;
    struct store *store;
    struct dns *dns;
    struct tls_client_ctx *tls;
    struct guard *guard;
    struct sandbox *sandbox;
    struct delivery *delivery;
    size_t delivery_loops; /* which a reload leaves as they are */
    struct webhooks *webhooks;
    struct housekeeping *housekeeping;
    struct verification *verification;
    struct api *api;
    struct buf dev_key;
};

static bool is_development(const struct server *s) {
    return s->config->profile == PROFILE_DEVELOPMENT;
}

/* ---- readiness ---- */

static bool is_ready(void *ctx, char why[160]) {
    struct server *s = ctx;
    struct store_health h = store_health(s->store);
    if (!h.is_writable) {
        snprintf(why, 160, "the outbox cannot be written: %.100s", h.text);
        return false;
    }
    if (h.disk_free_bytes < h.disk_floor_bytes) {
        snprintf(why, 160, "%lld MiB of disk are free, fewer than disk_floor",
                 (long long)(h.disk_free_bytes >> 20));
        return false;
    }
    return true;
}

/* ---- start ---- */

static enum err start_store(struct server *s, struct errinfo *info) {
    char *folder = str_dupz(s->config->data);
    enum err e = lifecycle_seal(s->config, &s->seal, info);
    struct store_options o = {.backend = STORE_SQLITE, .folder = folder, .seal = s->seal};
    if (e == OK)
        e = store_open(&o, &s->store, info);
    free(folder);
    return e;
}

static enum err start_net(struct server *s, struct errinfo *info) {
    struct lifecycle_net o;
    lifecycle_net_options(s->config, &o);
    enum err e = dns_start(&o.dns, &s->dns, info);
    if (e == OK)
        e = tls_client_ctx_new(&o.tls, &s->tls, info);
    if (e == OK)
        e = guard_new(&o.guard, &s->guard, info);
    lifecycle_net_release(&o);
    return e;
}

static enum err start_sandbox(struct server *s, struct errinfo *info) {
    if (!lifecycle_wants_sandbox(s->config))
        return OK;
    /* Of what comes from us intake has looked at the size, by a setting that a reload may raise;
     * what all connections hold together is bounded apart from that. */
    struct sandbox_options o = {.store = s->store,
                                .address = "127.0.0.1",
                                .message_bytes_max = (size_t)LIMIT_MESSAGE_MAX + 65536};
    return sandbox_start(&o, &s->sandbox, info);
}

static enum err start_delivery(struct server *s, struct errinfo *info) {
    struct lifecycle_delivery o;
    enum err e =
        lifecycle_delivery_options(s->config, s->sandbox ? sandbox_port(s->sandbox) : 0, &o, info);
    o.options.store = s->store;
    o.options.dns = s->dns;
    o.options.tls_ctx = s->tls;
    if (e == OK)
        e = delivery_start(&o.options, &s->delivery, info);
    s->delivery_loops = o.options.loops;
    lifecycle_delivery_release(&o);
    return e;
}

static enum err start_webhooks(struct server *s, struct errinfo *info) {
    char *ca = s->config->ca_file.n ? str_dupz(s->config->ca_file) : NULL;
    struct webhooks_options o = {.store = s->store,
                                 .dns = s->dns,
                                 .guard = s->guard,
                                 .ca_file = ca,
                                 .timeout_ms = s->config->webhook_timeout_ms,
                                 .user_agent = "postchute/" POSTCHUTE_VERSION};
    enum err e = webhooks_start(&o, &s->webhooks, info);
    free(ca);
    return e;
}

static void set_housekeeping(struct server *s) {
    struct housekeeping_options o;
    lifecycle_housekeeping_options(s->config, &o);
    o.store = s->store;
    if (s->housekeeping)
        housekeeping_set(s->housekeeping, &o);
    else
        s->housekeeping = housekeeping_start(&o);
}

static void start_housekeeping(struct server *s) {
    char *hostname = str_dupz(s->config->hostname);
    struct verification_options o = {.store = s->store, .dns = s->dns, .hostname = hostname};
    set_housekeeping(s);
    store_set_disk_floor(s->store, s->config->disk_floor_bytes);
    s->verification = verification_start(&o);
    free(hostname);
}

/* Release in any case. */
static void look(void *ctx, struct domain_look *look) {
    struct server *s = ctx;
    verification_look(s->verification, look);
}

static void put_company(struct server *s, const struct config *config, struct lifecycle_api *o) {
    o->options.store = s->store;
    o->options.sandbox = s->sandbox != NULL;
    o->options.development = config->profile == PROFILE_DEVELOPMENT;
    o->options.is_ready = is_ready;
    o->options.is_ready_ctx = s;
    o->options.look = look;
    o->options.look_ctx = s;
}

static enum err api_options(struct server *s, const struct config *config, struct lifecycle_api *o,
                            struct errinfo *info) {
    enum err e = lifecycle_api_options(config, o, info);
    put_company(s, config, o);
    return e;
}

static enum err start_api(struct server *s, struct lifecycle_api *o, struct errinfo *info) {
    put_company(s, s->config, o);
    return api_start(&o->options, &s->api, info);
}

static enum err start_provision(struct server *s, struct errinfo *info) {
    enum err e = provision_apply(s->store, s->guard, s->config, info);
    if (e == OK && is_development(s)) {
        char url[128];
        char *folder = str_dupz(s->config->data);
        lifecycle_local_url(s->config, "/v1/sandbox/webhook-receiver", url, sizeof url);
        bool has_receiver = lifecycle_wants_sandbox(s->config);
        e = provision_development(s->store, folder, has_receiver ? url : NULL, &s->dev_key, info);
        free(folder);
    }
    return e;
}

/* What settings say wrongly is found before an outbox is made. Files of the API are read here,
 * once: one may be a pipe. */
static enum err check(struct server *s, struct lifecycle_api *api, struct errinfo *info) {
    enum { ANY_PORT = 1025 }; /* of the sandbox, which is not started yet */
    struct lifecycle_delivery o;
    enum err e = lifecycle_delivery_options(
        s->config, lifecycle_wants_sandbox(s->config) ? ANY_PORT : 0, &o, info);
    o.options.tls_ctx = s->tls;
    if (e == OK)
        e = delivery_check(&o.options, info);
    lifecycle_delivery_release(&o);
    if (e == OK)
        e = provision_check(s->guard, s->config, info);
    if (e == OK)
        e = lifecycle_api_options(s->config, api, info);
    if (e == OK)
        e = api_check(&api->options, info);
    return e;
}

static enum err start(struct server *s, struct errinfo *info) {
    struct lifecycle_api api = {0};
    enum err e = start_net(s, info);
    if (e == OK)
        e = check(s, &api, info);
    if (e == OK)
        e = start_store(s, info);
    if (e == OK)
        e = start_provision(s, info);
    if (e == OK)
        e = start_sandbox(s, info);
    if (e == OK)
        e = start_delivery(s, info);
    if (e == OK)
        e = start_webhooks(s, info);
    if (e == OK)
        start_housekeeping(s);
    if (e == OK)
        e = start_api(s, &api, info);
    lifecycle_api_release(&api);
    return e;
}

/* ---- stop ---- */

static void stop(struct server *s) {
    int64_t deadline = clock_mono_ms() + s->config->shutdown_ms;
    process_notify("STOPPING=1");
    if (s->api)
        api_drain(s->api);
    if (s->delivery)
        delivery_drain(s->delivery, deadline);
    int64_t left = deadline - clock_mono_ms();
    webhooks_drain(s->webhooks, left > 500 ? left : 500);
    housekeeping_stop(&s->housekeeping);
    verification_quit(s->verification);
    /* Answers every open question now: whoever waits for a slow resolver ends at once. The
     * reference keeps it there for rooms that ask once more on their way out. */
    struct dns *dns = s->dns ? dns_ref(s->dns) : NULL;
    dns_stop(&s->dns);
    api_stop(&s->api);
    delivery_stop(&s->delivery);
    sandbox_stop(&s->sandbox);
    webhooks_stop(&s->webhooks, 0);
    verification_stop(&s->verification);
    dns_unref(&dns);
    store_close(&s->store);
    seal_free(&s->seal);
    guard_free(&s->guard);
    tls_client_ctx_unref(&s->tls);
    buf_release_secret(&s->dev_key);
}

/* ---- reload ---- */

/* What the rooms will have, made and checked before any of them takes it: all or nothing. */
struct change {
    struct config *config;
    struct lifecycle_net net;
    struct lifecycle_delivery delivery_options;
    struct lifecycle_api api, api_before;
    struct guard *guard;
    struct tls_client_ctx *tls;
    struct settings *delivery;
};

static enum err check_intake(const struct intake_settings *settings, struct errinfo *info) {
    struct intake *intake = NULL;
    enum err e = intake_new(settings, &intake, info);
    intake_unref(&intake);
    return e;
}

static enum err prepare(struct server *s, struct change *c, struct errinfo *info) {
    struct errinfo none = {0};
    enum err e = lifecycle_delivery_options(c->config, s->sandbox ? sandbox_port(s->sandbox) : 0,
                                            &c->delivery_options, info);
    lifecycle_net_options(c->config, &c->net);
    if (e == OK) /* the file of authorities is read again, whether it has another name or not */
        e = tls_client_ctx_new(&c->net.tls, &c->tls, info);
    /* set anew, or counted anew: who runs on fewer cores now keeps its threads, too */
    c->delivery_options.options.loops = s->delivery_loops;
    c->delivery_options.options.store = s->store;
    c->delivery_options.options.dns = s->dns;
    c->delivery_options.options.tls_ctx = c->tls;
    if (e == OK)
        e = guard_new(&c->net.guard, &c->guard, info);
    if (e == OK)
        e = delivery_prepare(s->delivery, &c->delivery_options.options, &c->delivery, info);
    if (e == OK)
        e = provision_check(c->guard, c->config, info);
    if (e == OK)
        e = api_options(s, c->config, &c->api, info);
    if (e == OK)
        e = check_intake(&c->api.options.intake, info);
    /* for the way back; a certificate that was taken stays, whatever its file says now */
    if (e == OK) {
        (void)!api_options(s, s->config, &c->api_before, &none); /* only its files can be gone */
        c->api_before.options.tls_cert = c->api.options.tls_cert;
        c->api_before.options.tls_key = c->api.options.tls_key;
    }
    return e;
}

static void say_what_waits(const struct server *s) {
    struct buf names = BUF_INIT(4096);
    config_print_left_out(s->config_at_start, s->config, &names);
    if (names.n > 0)
        log_warn("server", "changed, but taken at the next start only",
                 LOG_STR("settings", buf_str(&names)));
    buf_release(&names);
}

/* The two steps that can still fail come first, and the first is taken back when the second does;
 * the others cannot. Mail is accepted by new routes only when delivery knows them: declarations
 * take their time, and until then it would wait, or fail, for want of its route. */
static enum err take_rooms(struct server *s, struct change *c, struct errinfo *info) {
    struct errinfo none = {0};
    struct api_options first = c->api.options;
    first.intake = c->api_before.options.intake;
    enum err e = api_reload(s->api, &first, info);
    if (e != OK)
        return e;
    e = provision_apply(s->store, c->guard, c->config, info);
    if (e != OK) {
        if (api_reload(s->api, &c->api_before.options, &none) != OK)
            log_error("server", "the API could not go back to its settings",
                      LOG_STRZ("why", none.text));
        return e;
    }
    delivery_take(s->delivery, &c->delivery);
    if (api_reload(s->api, &c->api.options, &none) != OK)
        log_error("server", "the API could not take the new routes", LOG_STRZ("why", none.text));
    return OK;
}

static enum err take(struct server *s, struct change *c, struct errinfo *info) {
    enum err e = take_rooms(s, c, info);
    if (e != OK)
        return e;
    const struct webhooks_options webhooks = {.guard = c->guard,
                                              .ca_file = c->net.tls.ca_file,
                                              .timeout_ms = c->config->webhook_timeout_ms};
    webhooks_set(s->webhooks, &webhooks);
    struct guard *guard_before = s->guard;
    s->guard = c->guard;
    c->guard = guard_before;
    struct tls_client_ctx *tls_before = s->tls;
    s->tls = c->tls;
    c->tls = tls_before;
    struct config *config_before = s->config;
    s->config = c->config;
    c->config = config_before;
    say_what_waits(s);
    set_housekeeping(s);
    store_set_disk_floor(s->store, s->config->disk_floor_bytes);
    log_setup((enum log_level)s->config->log_level, lifecycle_log_format(s->config));
    process_check_descriptors((size_t)s->config->max_connections);
    return OK;
}

/* Takes `next`, whatever comes of it. */
static enum err reload_with(struct server *s, struct config *next, struct errinfo *info) {
    struct change c = {.config = next};
    enum err e = prepare(s, &c, info);
    if (e == OK)
        e = take(s, &c, info);
    delivery_forget(&c.delivery);
    guard_free(&c.guard);
    tls_client_ctx_unref(&c.tls);
    lifecycle_api_release(&c.api_before);
    lifecycle_api_release(&c.api);
    lifecycle_net_release(&c.net);
    lifecycle_delivery_release(&c.delivery_options);
    config_unref(&c.config);
    return e;
}

static void reload(struct server *s) {
    struct errinfo info = {0};
    struct config *next = NULL;
    process_notify("RELOADING=1");
    enum err e = config_load(s->env, &next, &info);
    if (e == OK)
        e = reload_with(s, next, &info);
    if (e == OK) {
        log_info("server", "settings read again");
    } else {
        lifecycle_name_setting(&info);
        log_error("server", "settings not taken over, the old ones stay",
                  LOG_STRZ("setting", info.field), LOG_STRZ("why", info.text));
    }
    process_notify("READY=1");
}

/* ---- run ---- */

static void print_development(const struct server *s) {
    char url[128];
    bool is_mx = str_equal(s->config->route, STR("mx"));
    lifecycle_local_url(s->config, "", url, sizeof url);
    printf("postchute " POSTCHUTE_VERSION ", development profile: %s\n"
           "mail goes to: %.*s\n\n"
           "Send a message:\n\n"
           "  curl -X POST %s/send \\\n"
           "    -H 'Authorization: Bearer %.*s' \\\n"
           "    -H 'Content-Type: application/json' \\\n"
           "    -d '{\"from\": \"Acme <no-reply@acme.test>\", \"to\": \"ann@example.net\","
           " \"subject\": \"Your code\", \"text\": \"123456\"}'\n\n",
           url, STR_ARG(lifecycle_shown_route(s->config)), url, STR_ARG(buf_str(&s->dev_key)));
    printf("See what happened:\n\n"
           "  curl -H 'Authorization: Bearer %.*s' %s/v1/messages\n",
           STR_ARG(buf_str(&s->dev_key)), url);
    if (s->sandbox)
        printf("  curl -H 'Authorization: Bearer %.*s' %s/v1/sandbox/messages\n"
               "  curl -H 'Authorization: Bearer %.*s' %s/v1/sandbox/webhooks\n",
               STR_ARG(buf_str(&s->dev_key)), url, STR_ARG(buf_str(&s->dev_key)), url);
    else
        printf(
            "\nThis route leaves the machine: put addresses of your own into the line above.%s\n",
            is_mx ? "\nFrom has to be in a domain whose records are in DNS: `postchute domain add "
                    "DOMAIN --dev`."
                  : "");
    printf("\nCtrl-C ends it.\n\n");
    fflush(stdout);
}

static int open_signals(void) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGHUP);
    int fd = signalfd(-1, &set, SFD_CLOEXEC);
    NEED(fd >= 0);
    return fd;
}

static void wait_for_end(struct server *s, int signals) {
    struct signalfd_siginfo got;
    for (;;) {
        ssize_t n = read(signals, &got, sizeof got);
        if (n != (ssize_t)sizeof got) {
            ASSERT(n < 0 && errno == EINTR);
            continue;
        }
        if (got.ssi_signo != SIGHUP)
            break;
        reload(s);
    }
    log_info("server", "stopping",
             LOG_STRZ("signal", got.ssi_signo == SIGINT ? "SIGINT" : "SIGTERM"));
}

/* A second signal is meant: it ends the process as if nobody had blocked it. The store can be left
 * like that at any moment. */
static void let_signals_kill(void) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    signal(SIGTERM, SIG_DFL);
    signal(SIGINT, SIG_DFL);
    ASSERT(pthread_sigmask(SIG_UNBLOCK, &set, NULL) == 0);
}

int lifecycle_run(struct config *config, char *const *env) {
    struct server s = {.config = config_ref(config),
                       .config_at_start = config_ref(config),
                       .env = env,
                       .dev_key = BUF_INIT(256)};
    struct errinfo info = {0};
    int code = 0;
    process_tune_heap();
    thread_block_signals();
    int signals = open_signals();
    signal(SIGPIPE, SIG_IGN);
    umask(077);
    log_setup((enum log_level)config->log_level, lifecycle_log_format(config));
    process_raise_descriptors();
    process_check_descriptors((size_t)config->max_connections);
    rules_prepare();
    if (!confine_is_built_in())
        log_info("server", "a sanitizer's build: system calls are not filtered");
    enum err e = confine_calls((enum confine_mode)config->seccomp, &info);
    if (e == OK)
        e = start(&s, &info);
    if (e == OK) {
        if (is_development(&s))
            print_development(&s);
        log_info("server", "ready", LOG_STRZ("version", POSTCHUTE_VERSION),
                 LOG_STR("listen", s.config->listen.list[0]),
                 LOG_STR("route", lifecycle_shown_route(s.config)),
                 LOG_STR("data", s.config->data));
        process_notify("READY=1");
        wait_for_end(&s, signals);
        let_signals_kill();
    } else {
        lifecycle_name_setting(&info);
        fprintf(stderr, "postchute: cannot start: %s%s%s\n", info.field, info.field[0] ? ": " : "",
                info.text);
        code = 1;
    }
    stop(&s);
    if (code == 0)
        log_info("server", "stopped");
    close(signals);
    config_unref(&s.config);
    config_unref(&s.config_at_start);
    return code;
}
