#include "api/auth.h"
#include "server/base/base64.h"
#include "server/base/random.h"
#include "server/base/seal.h"
#include "server/cli/cli.h"

static int print_master_key(void) {
    uint8_t key[SEAL_KEY_BYTES];
    struct buf text = BUF_INIT(256);
    random_bytes(key, sizeof key);
    base64_encode(str_make(key, sizeof key), &text);
    buf_putc(&text, '\n');
    int code = cli_print(&text);
    explicit_bzero(key, sizeof key);
    buf_release_secret(&text);
    return code;
}

static int key_generate(const struct options *o, char *const *env) {
    (void)env;
    if (options_has(o, "master"))
        return print_master_key();
    struct auth_key_text key;
    auth_key_generate(options_has(o, "test"), &key);
    int code = cli_printed(puts(key.z) >= 0);
    explicit_bzero(&key, sizeof key);
    return code;
}

static const struct option_spec options[] = {
    {"test", 0, OPTION_FLAG, NULL, "a test key (pc_test_): what is sent with it never leaves"},
    {"master", 0, OPTION_FLAG, NULL,
     "a master key, which seals the secrets in the outbox, instead"},
};

const struct command cli_key_generate = {
    .name = "key generate",
    .arguments = "",
    .summary = "prints a new API key (or a master key) that no server knows yet",
    .text =
        "For a file that POSTCHUTE_ADMIN_KEY_FILE or POSTCHUTE_SEND_KEY_FILE names, or for keys\n"
        "declared in the YAML file: the server takes it over at its start. Works offline.\n"
        "\n"
        "  (umask 077; postchute key generate >/etc/postchute/admin.key)\n"
        "  (umask 077; postchute key generate --master >/etc/postchute/master.key)\n"
        "\n"
        "A master key is for POSTCHUTE_MASTER_KEY_FILE. Keep a copy where no backup of the outbox\n"
        "is: without it the DKIM keys and webhook secrets in there are lost.",
    COMMAND_OPTIONS(options),
    .run = key_generate,
};
