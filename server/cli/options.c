#include "server/cli/options.h"

enum { HELP_COLUMN = 28, HELP_WIDTH = 96 };

static const struct option_spec *find_name(const struct option_spec *spec, size_t count,
                                           struct str name) {
    for (size_t i = 0; i < count; i++)
        if (str_equal(str_of(spec[i].name), name))
            return &spec[i];
    return NULL;
}

static const struct option_spec *find_letter(const struct option_spec *spec, size_t count,
                                             char letter) {
    for (size_t i = 0; i < count; i++)
        if (spec[i].letter == letter)
            return &spec[i];
    return NULL;
}

static void put_value(struct options *o, const struct option_spec *spec, const char *text) {
    o->value[o->value_count++] = (struct option_value){spec, text};
}

/* One option at argv[*at]; *at stays on its last word. */
static enum err parse_one(const struct option_spec *spec, size_t count, int argc, char *const *argv,
                          int *at, struct options *o, struct errinfo *info) {
    struct str rest = str_of(argv[*at]);
    bool is_long = str_starts_with(rest, STR("--"));
    struct str shown = str_split(&rest, '=');
    const char *given = str_is_absent(rest) ? NULL : rest.p;
    char name[64];
    snprintf(name, sizeof name, "%.*s", STR_ARG(shown));
    const struct option_spec *s = NULL;
    if (is_long)
        s = find_name(spec, count, str_from(shown, 2));
    else if (shown.n == 2)
        s = find_letter(spec, count, shown.p[1]);
    if (!s)
        return err_set(info, ERR_INVALID, name, "there is no such option");
    if (s->kind == OPTION_FLAG && given)
        return err_set(info, ERR_INVALID, name, "takes no value");
    if (s->kind == OPTION_TEXT && !given) {
        if (*at + 1 >= argc)
            return err_set(info, ERR_INVALID, name, "needs a value: %s", s->value);
        given = argv[++*at];
    }
    put_value(o, s, given);
    return OK;
}

enum err options_parse(const struct option_spec *spec, size_t spec_count, int argc,
                       char *const *argv, struct options *out, struct errinfo *info) {
    size_t room = argc > 0 ? (size_t)argc : 1;
    *out = (struct options){.value = mem_zalloc(room * sizeof *out->value),
                            .word = mem_zalloc(room * sizeof *out->word)};
    bool is_over = false;
    enum err first = OK; /* whoever asks for help gets it, whatever else is wrong */
    for (int i = 0; i < argc; i++) {
        const char *arg = argv[i];
        if (!is_over && strcmp(arg, "--") == 0) {
            is_over = true;
        } else if (is_over || arg[0] != '-' || arg[1] == '\0') {
            out->word[out->word_count++] = arg;
        } else if (strcmp(arg, "--help") == 0 || strcmp(arg, "-h") == 0) {
            out->wants_help = true;
        } else {
            enum err e =
                parse_one(spec, spec_count, argc, argv, &i, out, first == OK ? info : NULL);
            first = first == OK ? e : first;
        }
    }
    return out->wants_help ? OK : first;
}

void options_release(struct options *o) {
    free(o->value);
    free(o->word);
    *o = (struct options){0};
}

bool options_has(const struct options *o, const char *name) {
    for (size_t i = 0; i < o->value_count; i++)
        if (strcmp(o->value[i].spec->name, name) == 0)
            return true;
    return false;
}

const char *options_text(const struct options *o, const char *name, const char *fallback) {
    for (size_t i = o->value_count; i > 0; i--)
        if (strcmp(o->value[i - 1].spec->name, name) == 0 && o->value[i - 1].text)
            return o->value[i - 1].text;
    return fallback;
}

const char *options_nth(const struct options *o, const char *name, size_t n) {
    for (size_t i = 0; i < o->value_count; i++)
        if (strcmp(o->value[i].spec->name, name) == 0 && o->value[i].text && n-- == 0)
            return o->value[i].text;
    return NULL;
}

enum err options_number(const struct options *o, const char *name, int64_t least, int64_t most,
                        int64_t fallback, int64_t *out, struct errinfo *info) {
    const char *text = options_text(o, name, NULL);
    uint64_t v = 0;
    *out = fallback;
    if (!text)
        return OK;
    if (str_parse_u64(str_of(text), (uint64_t)most, &v) != OK || (int64_t)v < least) {
        char shown[64];
        snprintf(shown, sizeof shown, "--%s", name);
        return err_set(info, ERR_INVALID, shown, "expects a number from %lld to %lld",
                       (long long)least, (long long)most);
    }
    *out = (int64_t)v;
    return OK;
}

/* ---- help ------------------------------------------------------------------------------------ */

/* Words of `text` from column HELP_COLUMN on. */
static void print_wrapped(const char *text, struct buf *out) {
    struct str rest = str_of(text);
    size_t column = HELP_COLUMN;
    while (!str_is_absent(rest)) {
        struct str word = str_split(&rest, ' ');
        if (column > HELP_COLUMN && column + 1 + word.n > HELP_WIDTH) {
            buf_printf(out, "\n%*s", HELP_COLUMN, "");
            column = HELP_COLUMN;
        } else if (column > HELP_COLUMN) {
            buf_putc(out, ' ');
            column++;
        }
        buf_put(out, word);
        column += word.n;
    }
    buf_putc(out, '\n');
}

void options_print(const struct option_spec *spec, size_t spec_count, struct buf *out) {
    for (size_t i = 0; i < spec_count; i++) {
        const struct option_spec *s = &spec[i];
        size_t start = out->n;
        if (s->letter)
            buf_printf(out, "  -%c, --%s", s->letter, s->name);
        else
            buf_printf(out, "      --%s", s->name);
        if (s->kind == OPTION_TEXT)
            buf_printf(out, " %s", s->value);
        else if (s->kind == OPTION_OPTIONAL)
            buf_printf(out, "[=%s]", s->value);
        size_t width = out->n - start;
        if (width + 2 > HELP_COLUMN)
            buf_printf(out, "\n%*s", HELP_COLUMN, "");
        else
            buf_printf(out, "%*s", (int)(HELP_COLUMN - width), "");
        print_wrapped(s->help, out);
    }
}
