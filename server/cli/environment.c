#include "server/cli/environment.h"

#include "server/config_file.h"

void environment_take(char **env, struct environment *out) {
    size_t count = 0;
    while (env && env[count])
        count++;
    *out = (struct environment){.arena = arena_new()};
    out->list = ARENA_ARRAY(out->arena, char *, count + 1);
    for (size_t i = 0; i < count; i++) {
        struct str value = str_of(env[i]);
        struct str name = str_split(&value, '=');
        out->list[i] = env[i];
        if (!config_is_secret_variable(name, value))
            continue;
        out->list[i] = arena_dupz(out->arena, str_of(env[i]));
        explicit_bzero(env[i] + name.n + 1, value.n);
    }
}

void environment_release(struct environment *e) {
    arena_free_secret(&e->arena);
    e->list = NULL;
}
