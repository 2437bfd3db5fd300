#include "server/cli/cli.h"
#include "server/config.h"

enum { HELP_MAX = 256 * 1024, SUMMARY_COLUMN = 18 };

static void print_overview(struct buf *out) {
    buf_putz(out, "postchute " POSTCHUTE_VERSION
                  ": an HTTP-to-SMTP relay gateway\n\nusage: postchute COMMAND [OPTIONS]\n\n");
    for (size_t i = 0; cli_commands[i]; i++)
        buf_printf(out, "  %-*s %s\n", SUMMARY_COLUMN, cli_commands[i]->name,
                   cli_commands[i]->summary);
    buf_putz(out, "\n`postchute COMMAND --help` explains one, `postchute help settings` lists the\n"
                  "settings of the server.\n");
}

static void print_command(const struct command *c, struct buf *out) {
    buf_printf(out, "usage: postchute %s%s%s%s\n\n%s\n", c->name,
               c->option_count ? " [OPTIONS]" : "", c->arguments[0] ? " " : "", c->arguments,
               c->text);
    if (c->option_count) {
        buf_putz(out, "\nOptions:\n");
        options_print(c->options, c->option_count, out);
    }
}

/* Commands whose name is `name` or begins with it and a space. */
static size_t print_matching(struct str name, struct buf *out) {
    size_t found = 0;
    for (size_t i = 0; cli_commands[i]; i++) {
        const struct command *c = cli_commands[i];
        struct str its = str_of(c->name);
        if (str_equal(its, name)) {
            print_command(c, out);
            return 1;
        }
        if (str_starts_with(its, name) && its.n > name.n && its.p[name.n] == ' ') {
            if (found++ == 0)
                buf_printf(out, "usage: postchute %.*s COMMAND\n\n", STR_ARG(name));
            buf_printf(out, "  %-*s %s\n", SUMMARY_COLUMN, c->name, c->summary);
        }
    }
    if (found)
        buf_printf(out, "\n`postchute %.*s COMMAND --help` explains one.\n", STR_ARG(name));
    return found;
}

static int help(const struct options *o, char *const *env) {
    (void)env;
    struct buf out = BUF_INIT(HELP_MAX), name = BUF_INIT(256);
    int code = CLI_OK;
    for (size_t i = 0; i < o->word_count; i++)
        buf_printf(&name, "%s%s", i ? " " : "", o->word[i]);
    if (o->word_count == 0) {
        print_overview(&out);
    } else if (str_equal(buf_str(&name), STR("settings"))) {
        config_print_settings(options_has(o, "markdown") ? CONFIG_HELP_MARKDOWN : CONFIG_HELP_TEXT,
                              &out);
    } else if (print_matching(buf_str(&name), &out) == 0) {
        fprintf(stderr, "postchute: there is no command '%.*s'; `postchute help` lists them\n",
                STR_ARG(buf_str(&name)));
        code = CLI_USAGE;
    }
    if (code == CLI_OK)
        code = cli_print(&out);
    buf_release(&name);
    buf_release(&out);
    return code;
}

static const struct option_spec options[] = {
    {"markdown", 0, OPTION_FLAG, NULL, "with `settings`: as a table for a README"},
};

const struct command cli_help = {
    .name = "help",
    .arguments = "[settings | COMMAND]",
    .summary = "explains a command, or the settings",
    .text = "Without a word: the commands. `settings`: every setting with its default, its unit\n"
            "and what it is for; each is POSTCHUTE_<NAME> in the environment and <name> in the\n"
            "file that POSTCHUTE_CONFIG names.",
    COMMAND_OPTIONS(options),
    .words_most = 3,
    .run = help,
};
