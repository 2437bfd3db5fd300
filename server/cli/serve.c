#include "server/cli/cli.h"
#include "server/cli/settings.h"
#include "server/lifecycle.h"

static int serve(const struct options *o, char *const *env) {
    struct settings s;
    struct errinfo info = {0};
    int code;
    if (settings_load(o, env, &s, &info) == OK)
        code = lifecycle_run(s.config, s.env);
    else
        code = cli_fail(CLI_FAILED, "serve", &info);
    settings_release(&s);
    return code;
}

static const struct option_spec options[] = {SETTINGS_OPTION_DEV, SETTINGS_OPTION_CONFIG};

const struct command cli_serve = {
    .name = "serve",
    .arguments = "",
    .summary = "runs the server",
    .text =
        "Runs in the foreground and logs to standard error. SIGHUP reads the settings again,\n"
        "SIGTERM and SIGINT end it after the deliveries under way.\n"
        "\n"
        "  postchute serve --dev\n"
        "  POSTCHUTE_HOSTNAME=mail.acme.test POSTCHUTE_DATA=/srv/mail postchute serve\n"
        "  POSTCHUTE_ROUTE=smtp://user:password@relay.acme.test:587 postchute serve\n"
        "\n"
        "`postchute help settings` lists the settings. Exit code: 0 ended by a signal, 1 could\n"
        "not start.",
    COMMAND_OPTIONS(options),
    .run = serve,
};
