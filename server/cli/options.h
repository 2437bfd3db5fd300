/* options: the words of a command line, after a table of what is allowed.
 *
 *     static const struct option_spec specs[] = {
 *         {"to", 0, OPTION_TEXT, "ADDRESS", "a recipient; may be given more than once"},
 *         {"wait", 'w', OPTION_OPTIONAL, "SECONDS", "until every recipient is final"},
 *     };
 *     struct options o;
 *     if (options_parse(specs, 2, argc, argv, &o, &info) != OK) ...   // info.field: "--too"
 *     const char *seconds = options_text(&o, "wait", NULL);
 *     options_release(&o);
 *
 * `--name value`, `--name=value`, `-n value`; the value of an OPTIONAL one only with `=`; `--` ends
 * the options, a lone `-` is a word. Names are never abbreviated: a script that works today must
 * not become ambiguous by a new option. Thread: owner.
 */
#pragma once

#include "server/base/buf.h"

enum option_kind {
    OPTION_FLAG,
    OPTION_TEXT,     /* needs a value */
    OPTION_OPTIONAL, /* may have one */
};

struct option_spec {
    const char *name;
    char letter; /* 0: none */
    enum option_kind kind;
    const char *value; /* how help calls the value */
    const char *help;
};

struct option_value {
    const struct option_spec *spec;
    const char *text; /* NULL: a flag, or an optional value that was not given */
};

/* Values and words point into argv. */
struct options {
    struct option_value *value; /* in the order of the command line */
    size_t value_count;
    const char **word; /* what is no option */
    size_t word_count;
    bool
        wants_help; /* --help or -h, where no value is: faults of other options do not count then */
};

/* argv[0] is the first word, not the program. ERR_INVALID: info->field is the option, info->text
 * the fault. Release in any case. */
NODISCARD enum err options_parse(const struct option_spec *spec, size_t spec_count, int argc,
                                 char *const *argv, struct options *out, struct errinfo *info);
void options_release(struct options *o);

bool options_has(const struct options *o, const char *name);
/* The last value given; `fallback` when there is none. */
const char *options_text(const struct options *o, const char *name, const char *fallback);
/* The i-th value of an option that may be repeated; NULL behind the last. */
const char *options_nth(const struct options *o, const char *name, size_t i);
/* A whole number from `least` to `most`; `fallback` when it was not given. */
NODISCARD enum err options_number(const struct options *o, const char *name, int64_t least,
                                  int64_t most, int64_t fallback, int64_t *out,
                                  struct errinfo *info);

/* The lines of help, one or more an option. */
void options_print(const struct option_spec *spec, size_t spec_count, struct buf *out);
