#include "api/auth.h"
#include "server/cli/cli.h"

static int key_generate(const struct options *o, char *const *env) {
    (void)env;
    struct auth_key_text key;
    auth_key_generate(options_has(o, "test"), &key);
    int code = cli_printed(puts(key.z) >= 0);
    explicit_bzero(&key, sizeof key);
    return code;
}

static const struct option_spec options[] = {
    {"test", 0, OPTION_FLAG, NULL, "a test key (pc_test_): what is sent with it never leaves"},
};

const struct command cli_key_generate = {
    .name = "key generate",
    .arguments = "",
    .summary = "prints a new API key that no server knows yet",
    .text =
        "For a file that POSTCHUTE_ADMIN_KEY_FILE or POSTCHUTE_SEND_KEY_FILE names, or for keys\n"
        "declared in the YAML file: the server takes it over at its start. Works offline.\n"
        "\n"
        "  (umask 077; postchute key generate >/etc/postchute/admin.key)",
    COMMAND_OPTIONS(options),
    .run = key_generate,
};
