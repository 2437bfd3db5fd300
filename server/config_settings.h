/* config_settings: THE table of settings. Private to server/config*.c. Thread: any (constant). */
#pragma once

#include "server/config.h"

enum setting_type {
    SETTING_TEXT,
    SETTING_SECRET, /* text that is never shown */
    SETTING_LIST,   /* comma-separated */
    SETTING_INTEGER,
    SETTING_BOOL,
    SETTING_DURATION,
    SETTING_SIZE,
    SETTING_CHOICE,
};

struct setting {
    const char
        *name; /* "max_message_bytes": in YAML so, in the environment POSTCHUTE_MAX_MESSAGE_BYTES */
    enum setting_type type;
    size_t offset; /* in struct config */
    const char *fallback;
    const char *unit_or_choices; /* CHOICE: "a|b|c", the index is the value */
    int64_t least, most;         /* INTEGER, DURATION (ms), SIZE */
    const char *help;
    bool at_start; /* a reload does not take it, or not in full */
};

extern const struct setting config_settings[];
extern const size_t config_settings_count;
/* NULL: there is none of that name. */
const struct setting *config_find_setting(struct str name);
/* Names in the environment that are not settings of the server: used by commands and containers. */
bool config_is_foreign_variable(struct str name_without_prefix);
