#include "server/cli/settings.h"

#include "server/lifecycle_options.h"
#include "server/provision.h"

enum { ADDED_MAX = 4 };

/* ---- reading --------------------------------------------------------------------------------- */

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
    ASSERT(n <= count + ADDED_MAX);
}

enum err settings_load(const struct options *o, char *const *env, struct settings *out,
                       struct errinfo *info) {
    *out = (struct settings){.arena = arena_new()};
    make_env(o, env, out);
    return config_load(out->env, &out->config, info);
}

enum err settings_load_lenient(const struct options *o, char *const *env, struct settings *out,
                               struct errinfo *info) {
    *out = (struct settings){.arena = arena_new()};
    make_env(o, env, out);
    return config_load_lenient(out->env, &out->config, info);
}

void settings_release(struct settings *s) {
    config_unref(&s->config);
    arena_free(&s->arena);
}

/* ---- checking -------------------------------------------------------------------------------- */

enum { ANY_PORT = 1025 }; /* of the sandbox, which is not started here */

static enum err check_delivery(const struct config *c, struct errinfo *info) {
    struct lifecycle_delivery o;
    enum err e = lifecycle_delivery_options(c, lifecycle_wants_sandbox(c) ? ANY_PORT : 0, &o, info);
    if (e == OK)
        e = delivery_check(&o.options, info);
    lifecycle_delivery_release(&o);
    return e;
}

static enum err check_api(const struct config *c, struct errinfo *info) {
    struct lifecycle_api o;
    enum err e = lifecycle_api_options(c, &o, info);
    if (e == OK)
        e = api_check(&o.options, info);
    lifecycle_api_release(&o);
    return e;
}

static enum err check_net(const struct config *c, struct errinfo *info) {
    struct lifecycle_net o;
    struct guard *guard = NULL;
    struct tls_client_ctx *tls = NULL;
    lifecycle_net_options(c, &o);
    enum err e = dns_check(&o.dns, info);
    if (e == OK)
        e = tls_client_ctx_new(&o.tls, &tls, info);
    if (e == OK)
        e = guard_new(&o.guard, &guard, info);
    guard_free(&guard);
    tls_client_ctx_unref(&tls);
    lifecycle_net_release(&o);
    return e;
}

/* Keys, domains and webhooks, declared to a store that forgets them. */
static enum err check_declarations(const struct config *c, struct errinfo *info) {
    struct lifecycle_net o;
    struct guard *guard = NULL;
    struct store *store = NULL;
    lifecycle_net_options(c, &o);
    enum err e = guard_new(&o.guard, &guard, info);
    if (e == OK)
        e = store_open(&(struct store_options){.backend = STORE_MEMORY}, &store, info);
    if (e == OK)
        e = provision_apply(store, guard, c, info);
    store_close(&store);
    guard_free(&guard);
    lifecycle_net_release(&o);
    return e;
}

static enum err check_master_key(const struct config *c, struct errinfo *info) {
    struct seal *seal = NULL;
    enum err e = lifecycle_seal(c, &seal, info);
    seal_free(&seal);
    return e;
}

enum err settings_check(const struct config *c, struct errinfo *info) {
    enum err e = config_check_hostname(c, info);
    if (e == OK)
        e = check_master_key(c, info);
    if (e == OK)
        e = check_delivery(c, info);
    if (e == OK)
        e = check_api(c, info);
    if (e == OK)
        e = check_net(c, info);
    if (e == OK)
        e = check_declarations(c, info);
    if (e != OK)
        lifecycle_name_setting(info);
    return e;
}
