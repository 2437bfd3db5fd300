#include "server/cli/settings.h"

enum { ADDED_MAX = 5 }; /* four here, one of settings_load_lenient() */

const char *settings_variable(char *const *env, const char *name) {
    size_t n = strlen(name);
    for (; env && *env; env++)
        if (strncmp(*env, name, n) == 0 && (*env)[n] == '=' && (*env)[n + 1])
            return *env + n + 1;
    return NULL;
}

static bool is_set(char *const *env, const char *name, const char *name_file) {
    return settings_variable(env, name) || settings_variable(env, name_file);
}

/* A later variable wins over an earlier one: what comes from options stands behind, what is only a
 * default of --dev before. A file of settings says itself where data and mail go. */
static void make_env(const struct options *o, char *const *env, struct settings *s) {
    size_t count = 0, n = 0;
    bool is_dev = options_has(o, "dev");
    const char *config = options_text(o, "config", NULL);
    bool has_file = config || settings_variable(env, "POSTCHUTE_CONFIG");
    while (env && env[count])
        count++;
    s->env = ARENA_ARRAY(s->arena, char *, count + ADDED_MAX + 1);
    if (is_dev && !has_file && !is_set(env, "POSTCHUTE_DATA", "POSTCHUTE_DATA_FILE"))
        s->env[n++] = arena_dupz(s->arena, STR("POSTCHUTE_DATA=var"));
    if (is_dev && !has_file && !is_set(env, "POSTCHUTE_ROUTE", "POSTCHUTE_ROUTE_FILE"))
        s->env[n++] = arena_dupz(s->arena, STR("POSTCHUTE_ROUTE=sandbox"));
    for (size_t i = 0; i < count; i++)
        if (!config || !str_starts_with(str_of(env[i]), STR("POSTCHUTE_CONFIG=")))
            s->env[n++] = env[i];
    if (is_dev)
        s->env[n++] = arena_dupz(s->arena, STR("POSTCHUTE_PROFILE=development"));
    if (config)
        s->env[n++] = arena_dupz(s->arena, arena_printf(s->arena, "POSTCHUTE_CONFIG=%s", config));
    ASSERT(n < count + ADDED_MAX);
}

enum err settings_load(const struct options *o, char *const *env, struct settings *out,
                       struct errinfo *info) {
    *out = (struct settings){.arena = arena_new()};
    make_env(o, env, out);
    return config_load(out->env, &out->config, info);
}

enum err settings_load_lenient(const struct options *o, char *const *env, struct settings *out,
                               struct errinfo *info) {
    enum err e = settings_load(o, env, out, info);
    if (e == OK)
        return OK;
    struct errinfo ignored = {0};
    size_t n = 0;
    char *route = arena_dupz(out->arena, STR("POSTCHUTE_ROUTE=sandbox"));
    for (; out->env[n]; n++)
        if (str_starts_with(str_of(out->env[n]), STR("POSTCHUTE_ROUTE_FILE=")))
            out->env[n] = route;
    out->env[n] = route;
    return config_load(out->env, &out->config, &ignored) == OK ? OK : e;
}

void settings_release(struct settings *s) {
    config_unref(&s->config);
    arena_free(&s->arena);
}
