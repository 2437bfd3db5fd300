#include "server/cli/cli.h"
#include "server/cli/settings.h"
#include "server/lifecycle_options.h"

static int check_config(const struct options *o, char *const *env) {
    struct settings s;
    struct errinfo info = {0};
    int code = CLI_OK;
    enum err e = settings_load_lenient(o, env, &s, &info);
    if (e == OK)
        e = settings_check(s.config, &info);
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
