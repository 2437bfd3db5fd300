#include "server/cli/cli.h"

#include <stdarg.h>

const struct command *const cli_commands[] = {
    &cli_serve,         //
    &cli_check_config,  //
    &cli_key_create,    //
    &cli_key_list,      //
    &cli_key_revoke,    //
    &cli_key_generate,  //
    &cli_domain_add,    //
    &cli_domain_list,   //
    &cli_domain_dns,    //
    &cli_domain_verify, //
    &cli_domain_delete, //
    &cli_send,          //
    &cli_doctor,        //
    &cli_version,       //
    &cli_help,          //
    NULL,
};

/* "key create" matches `key create x` with two words, "send" matches with one; 0: not at all. */
static int words_matched(const struct command *c, int argc, char *const *argv) {
    struct str rest = str_of(c->name);
    int n = 0;
    while (!str_is_absent(rest)) {
        struct str word = str_split(&rest, ' ');
        if (n >= argc || !str_equal(word, str_of(argv[n])))
            return 0;
        n++;
    }
    return n;
}

void cli_say(FILE *to, const char *fmt, ...) {
    char text[4096];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    struct str rest = str_of(text);
    while (rest.n) {
        size_t n = str_utf8_length(rest);
        struct str character = str_slice(rest, 0, n ? n : 1);
        bool is_plain = n && (character.p[0] == '\n' || !str_has_control(character, false));
        if (is_plain)
            fwrite(character.p, 1, character.n, to);
        else
            fputc('?', to);
        rest = str_from(rest, character.n);
    }
}

int cli_fail(int code, const char *command, const struct errinfo *info) {
    cli_say(stderr, "postchute %s: %s%s%s\n", command, info->field, info->field[0] ? ": " : "",
            info->text);
    return code;
}

int cli_printed(bool ok) {
    return fflush(stdout) == 0 && ok ? CLI_OK : CLI_FAILED;
}

int cli_print(const struct buf *b) {
    struct str s = buf_str(b);
    bool ok = fwrite(s.p, 1, s.n, stdout) == s.n;
    return cli_printed(ok);
}

/* Of a command that does not exist, whose options nobody knows. */
static bool wants_help(int argc, char *const *argv) {
    for (int i = 0; i < argc && strcmp(argv[i], "--") != 0; i++)
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0)
            return true;
    return false;
}

static int usage_fault(const struct command *c, const struct errinfo *info) {
    cli_fail(CLI_USAGE, c->name, info);
    fprintf(stderr, "See `postchute %s --help`.\n", c->name);
    return CLI_USAGE;
}

static int run(const struct command *c, int argc, char *const *argv, char *const *env) {
    struct options o;
    struct errinfo info = {0};
    int code = CLI_USAGE;
    enum err e = options_parse(c->options, c->option_count, argc, argv, &o, &info);
    if (e == OK && o.wants_help) {
        const struct options of = {.word = (const char *[]){c->name}, .word_count = 1};
        options_release(&o);
        return cli_help.run(&of, env);
    }
    if (e == OK && o.word_count < c->words_least)
        e = err_set(&info, ERR_INVALID, "", "expects %s", c->arguments);
    if (e == OK && o.word_count > c->words_most)
        e = err_set(&info, ERR_INVALID, o.word[c->words_most], "is one word too many");
    code = e == OK ? c->run(&o, env) : usage_fault(c, &info);
    options_release(&o);
    return code;
}

int cli_run(int argc, char **argv, char *const *env) {
    if (argc < 2) {
        const struct options none = {0};
        cli_help.run(&none, env);
        return CLI_USAGE;
    }
    char **words = argv + 1;
    int count = argc - 1;
    static char version_word[] = "version", help_word[] = "help";
    if (strcmp(words[0], "--version") == 0)
        words[0] = version_word;
    else if (strcmp(words[0], "--help") == 0 || strcmp(words[0], "-h") == 0)
        words[0] = help_word;
    for (size_t i = 0; cli_commands[i]; i++) {
        int n = words_matched(cli_commands[i], count, words);
        if (n)
            return run(cli_commands[i], count - n, words + n, env);
    }
    const struct options of = {.word = (const char *[]){words[0]}, .word_count = 1};
    return cli_help.run(&of, env) == CLI_OK && wants_help(count, words) ? CLI_OK : CLI_USAGE;
}
