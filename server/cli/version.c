#include "server/cli/cli.h"

static int version(const struct options *o, char *const *env) {
    (void)o;
    (void)env;
    return cli_printed(puts("postchute " POSTCHUTE_VERSION) >= 0);
}

const struct command cli_version = {
    .name = "version",
    .arguments = "",
    .summary = "prints the version",
    .text = "Prints the version.",
    .run = version,
};
