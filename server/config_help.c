/* What is told of the settings: their table, and which of them a reload leaves as they were. */

#include "server/config_declare.h"
#include "server/config_settings.h"

/* ---- what a reload leaves out ---- */

static void print_variable(const char *setting, char out[CONFIG_VARIABLE_SIZE]) {
    size_t n = (size_t)snprintf(out, CONFIG_VARIABLE_SIZE, "POSTCHUTE_");
    for (const char *p = setting; *p && n < CONFIG_VARIABLE_SIZE - 1; p++, n++)
        out[n] = *p >= 'a' && *p <= 'z' ? (char)(*p - 32) : *p;
    out[n] = '\0';
}

bool config_variable_of(const char *setting, char out[CONFIG_VARIABLE_SIZE]) {
    if (!config_find_setting(str_of(setting)))
        return false;
    print_variable(setting, out);
    return true;
}

static bool same_list(const struct config_list *a, const struct config_list *b) {
    bool same = a->count == b->count;
    for (size_t i = 0; same && i < a->count; i++)
        same = str_equal(a->list[i], b->list[i]);
    return same;
}

static bool is_same(const struct setting *s, const struct config *a, const struct config *b) {
    const void *x = (const char *)a + s->offset, *y = (const char *)b + s->offset;
    switch (s->type) {
    case SETTING_TEXT:
    case SETTING_SECRET:
        return str_equal(*(const struct str *)x, *(const struct str *)y);
    case SETTING_LIST:
        return same_list(x, y);
    case SETTING_BOOL:
        return *(const bool *)x == *(const bool *)y;
    case SETTING_INTEGER:
    case SETTING_DURATION:
    case SETTING_SIZE:
    case SETTING_CHOICE:
        break;
    }
    return *(const int64_t *)x == *(const int64_t *)y;
}

void config_print_left_out(const struct config *before, const struct config *now, struct buf *out) {
    for (size_t i = 0; i < config_settings_count; i++) {
        char name[CONFIG_VARIABLE_SIZE];
        if (!config_settings[i].at_start || is_same(&config_settings[i], before, now))
            continue;
        print_variable(config_settings[i].name, name);
        buf_printf(out, "%s%s", out->n > 0 ? ", " : "", name);
    }
}

/* ---- help ---- */

void config_print_settings(enum config_help form, struct buf *out) {
    if (form == CONFIG_HELP_MARKDOWN)
        buf_putz(out, "| setting | default | value | what |\n|---|---|---|---|\n");
    for (size_t i = 0; i < config_settings_count; i++) {
        const struct setting *s = &config_settings[i];
        char env[CONFIG_VARIABLE_SIZE];
        print_variable(s->name, env);
        if (form == CONFIG_HELP_MARKDOWN) {
            buf_printf(out, "| `%s` | %s%s%s | ", env, *s->fallback ? "`" : "", s->fallback,
                       *s->fallback ? "`" : "");
            for (const char *p = s->unit_or_choices; *p; p++)
                buf_putz(out, *p == '|' ? " or " : (char[]){*p, '\0'});
            buf_printf(out, " | %s%s |\n", s->help, s->at_start ? " (restart)" : "");
        } else {
            buf_printf(out, "  %s\n      %s", env, s->help);
            if (*s->unit_or_choices)
                buf_printf(out, " (%s)", s->unit_or_choices);
            buf_printf(out, "\n      default: %s%s\n", *s->fallback ? s->fallback : "none",
                       s->at_start ? "; a change takes a restart" : "");
        }
    }
    config_declare_print(form, out);
}
