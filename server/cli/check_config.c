#include "server/cli/cli.h"
#include "server/cli/settings.h"
#include "server/lifecycle_options.h"
#include "server/provision.h"

enum { ANY_PORT = 1025 }; /* of the sandbox, which is not started here */

static enum err check_delivery(const struct config *c, struct errinfo *info) {
    struct lifecycle_delivery o;
    enum err e = lifecycle_delivery_options(c, lifecycle_wants_sandbox(c) ? ANY_PORT : 0, &o, info);
    if (e == OK)
        e = delivery_check(&o.options, info);
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

/* Everything that the start would refuse, without starting anything. */
static enum err check(const struct config *c, struct errinfo *info) {
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

static int check_config(const struct options *o, char *const *env) {
    struct settings s;
    struct errinfo info = {0};
    int code = CLI_OK;
    enum err e = settings_load(o, env, &s, &info);
    if (e == OK)
        e = check(s.config, &info);
    if (e == OK)
        printf("ok: %zu routes, %zu keys, %zu domains, %zu webhooks declared; mail goes to %.*s\n",
               s.config->route_count, s.config->key_count, s.config->domain_count,
               s.config->webhook_count, STR_ARG(lifecycle_shown_route(s.config)));
    else
        code = cli_fail(CLI_FAILED, "check-config", &info);
    settings_release(&s);
    return code;
}

static const struct option_spec options[] = {SETTINGS_OPTION_DEV, SETTINGS_OPTION_CONFIG};

const struct command cli_check_config = {
    .name = "check-config",
    .arguments = "",
    .summary = "says whether the settings are right",
    .text =
        "Reads the settings as `serve` would, starts nothing, and prints `ok` or what is wrong:\n"
        "the setting, the reason and the remedy.\n"
        "\n"
        "  postchute check-config && systemctl reload postchute\n"
        "\n"
        "Exit code: 0 right, 1 wrong.",
    COMMAND_OPTIONS(options),
    .run = check_config,
};
