/* Settings by environment: each line is a variable without its prefix. What is loaded is the same
 * when it is given twice; what is refused is named; no secret is left where others of the machine
 * could read it. Variables that name files are left out. */
#include "server/cli/environment.h"
#include "server/config.h"
#include "server/config_file.h"
#include "server/config_settings.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { VARIABLES_MAX = 12 };
static const char prefix[] = "POSTCHUTE_";

static bool names_a_file(struct str name) {
    char last[8] = "";
    for (size_t i = 0; i < 5 && name.n >= 5; i++)
        last[i] = ascii_lower(name.p[name.n - 5 + i]);
    return str_equal(str_of(last), STR("_file")) || str_starts_with_nocase(name, STR("CONFIG"));
}

static size_t make_environment(struct str rest, struct arena *a, char **env) {
    size_t n = 0;
    while (!str_is_absent(rest) && n < VARIABLES_MAX) {
        struct str value = str_split(&rest, '\n');
        char *line = arena_alloc(a, strlen(prefix) + value.n + 1);
        memcpy(line, prefix, strlen(prefix));
        if (value.n > 0)
            memcpy(line + strlen(prefix), value.p, value.n);
        struct str name = str_split(&value, '=');
        if (!names_a_file(name))
            env[n++] = line;
    }
    return n;
}

static void check_value(const struct config *c, const struct setting *st) {
    const void *at = (const char *)c + st->offset;
    const struct str *text = at;
    const struct config_list *list = at;
    switch (st->type) {
    case SETTING_TEXT:
    case SETTING_SECRET:
        ASSERT(str_is_utf8(*text) && !str_has_control(*text, false));
        break;
    case SETTING_LIST:
        for (size_t i = 0; i < list->count; i++)
            ASSERT(list->list[i].n > 0 && !str_has_control(list->list[i], false));
        break;
    case SETTING_INTEGER:
    case SETTING_DURATION:
    case SETTING_SIZE:
        ASSERT(*(const int64_t *)at >= st->least && *(const int64_t *)at <= st->most);
        break;
    case SETTING_CHOICE:
    case SETTING_BOOL:
        break;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static struct arena *a;
    if (!a)
        a = arena_new();
    arena_clear(a);
    char *env[VARIABLES_MAX + 1] = {NULL};
    size_t n = make_environment(str_make(data, size), a, env);
    struct config *c = NULL;
    struct errinfo info = {0};
    if (config_load(env, &c, &info) == OK) {
        for (size_t i = 0; i < config_settings_count; i++)
            check_value(c, &config_settings[i]);
        config_unref(&c);
    } else {
        ASSERT(!c && info.text[0] != '\0' && info.field[0] != '\0');
    }
    struct environment taken;
    environment_take(env, &taken);
    for (size_t i = 0; i < n; i++) {
        struct str value = str_of(taken.list[i]), left = str_of(env[i]);
        struct str name = str_split(&value, '=');
        if (config_is_secret_variable(name, value))
            ASSERT(left.n == name.n + 1 || value.n == 0);
        else
            ASSERT(taken.list[i] == env[i]);
    }
    environment_release(&taken);
    return 0;
}
