#include "server/cli/cli.h"

static int version(const struct options *o, char *const *env) {
    (void)o;
    (void)env;
    return puts("postchute " POSTCHUTE_VERSION) >= 0 && fflush(stdout) == 0 ? CLI_OK : CLI_FAILED;
}

const struct command cli_version = {
    .name = "version",
    .arguments = "",
    .summary = "prints the version",
    .text = "Prints the version.",
    .run = version,
};
