/* settings: the settings that a command works with: the environment, with --dev and --config of its
 * command line before it.
 *
 *     struct settings s;
 *     if (settings_load(o, env, &s, &info) != OK) ...      // s.config
 *     settings_release(&s);
 *
 * Thread: main.
 */
#pragma once

#include "server/base/arena.h"
#include "server/cli/options.h"
#include "server/config.h"

/* Rows of a command's table of options. */
#define SETTINGS_OPTION_CONFIG                                                                     \
    { "config", 'c', OPTION_TEXT, "FILE", "the YAML file with settings; else POSTCHUTE_CONFIG" }
#define SETTINGS_OPTION_DEV                                                                        \
    {                                                                                              \
        "dev", 0, OPTION_FLAG, NULL,                                                               \
            "the development profile; what is set nowhere else: data in ./var, route sandbox"      \
    }

struct settings {
    char **env; /* as environ */
    struct config *config;
    struct arena *arena;
};

/* ERR_INVALID: info->field is the setting. Release in any case. */
NODISCARD enum err settings_load(const struct options *o, char *const *env, struct settings *out,
                                 struct errinfo *info);
/* The same for a command that needs to know where the server listens, keeps its data or sends, not
 * that it can: as config_load_lenient(). */
NODISCARD enum err settings_load_lenient(const struct options *o, char *const *env,
                                         struct settings *out, struct errinfo *info);
/* Everything that the start would refuse of what was read, without starting anything. ERR_INVALID,
 * ERR_UNAVAILABLE: info->field is the setting. */
NODISCARD enum err settings_check(const struct config *c, struct errinfo *info);
void settings_release(struct settings *s);
/* The value of a variable that is set and not empty; NULL: none. */
const char *settings_variable(char *const *env, const char *name);
