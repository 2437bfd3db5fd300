/* config_value: one value of one setting, from text. Private to server/config*.c. Thread: owner. */
#pragma once

#include "server/base/arena.h"
#include "server/config_settings.h"

/* Into its member of `c`; texts are copied to `a`. `name` is the setting as the user wrote it.
 * ERR_INVALID: info->text says what it expects; the member is as it was, or half of a list. */
NODISCARD enum err config_set_value(struct config *c, struct arena *a, const struct setting *st,
                                    struct str v, const char *name, struct errinfo *info);
