/* cli: the commands of the program: one file each, one table of all.
 *
 * A command says what it is in a `struct command`: from it come `postchute help`, `--help`, and
 * what is parsed before `run` is called. Results go to standard output, everything else to
 * standard error.
 */
#pragma once

#include <stdio.h>

#include "server/cli/options.h"

/* Exit codes, the same for every command, so that a script can rely on them. */
enum {
    CLI_OK = 0,
    CLI_FAILED = 1,      /* refused, or found wrong */
    CLI_UNDELIVERED = 2, /* send: at least one recipient will not get it */
    CLI_UNREACHABLE = 3, /* no server, or it cannot answer now */
    CLI_NOT_FINAL = 4,   /* send --wait: the time was over first */
    CLI_USAGE = 64,      /* EX_USAGE of sysexits.h */
};

struct command {
    const char *name;      /* "key create" */
    const char *arguments; /* of the usage line, "NAME" */
    const char *summary;   /* one line */
    const char *text;      /* what it does, and examples */
    const struct option_spec *options;
    size_t option_count;
    size_t words_least, words_most; /* besides options */
    int (*run)(const struct options *o, char *const *env);
};
#define COMMAND_OPTIONS(table) .options = (table), .option_count = sizeof(table) / sizeof(table)[0]

/* The table, ended by a NULL. */
extern const struct command *const cli_commands[];

/* argv and environ as main has them; returns the exit code. */
int cli_run(int argc, char **argv, char *const *env);

/* Prints to a terminal what strangers may have chosen (a mail server's reply): control characters
 * but LF become '?'. Cut at 4 KiB. */
void cli_say(FILE *to, const char *fmt, ...) PRINTF(2, 3);
/* "postchute send: <field>: <text>" on standard error; returns `code`. */
int cli_fail(int code, const char *command, const struct errinfo *info);
/* The end of what went to standard output: `ok` and all of it was written. */
int cli_printed(bool ok);
/* Everything of `b` to standard output; CLI_OK, or CLI_FAILED when it could not be written. */
int cli_print(const struct buf *b);

extern const struct command cli_serve, cli_check_config, cli_send, cli_key_create, cli_key_list,
    cli_key_revoke, cli_key_generate, cli_domain_add, cli_domain_list, cli_domain_dns,
    cli_domain_verify, cli_domain_delete, cli_doctor, cli_help, cli_version;
