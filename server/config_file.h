/* config_file: reading the files that settings name, and who else may read them. Private to
 * floor 7.
 *
 *     struct buf content;
 *     bool is_open;
 *     if (config_read_file(path, most, &content, &is_open, "POSTCHUTE_CONFIG", &info) == OK) ...
 *     buf_release_secret(&content);
 *
 * A file with a secret must not be readable by everybody, unless it is a container's, below
 * /run/secrets/. What is a secret: server/cli asks, too. Thread: main.
 */
#pragma once

#include "server/config.h"
#include "server/config_yaml.h"

/* A whole file of at most `most` bytes into `out` (initialised here, released by the caller in any
 * case). *is_open (may be NULL): everybody may read or write it. ERR_INVALID names `setting`. */
NODISCARD enum err config_read_file(struct str path, size_t most, struct buf *out, bool *is_open,
                                    const char *setting, struct errinfo *info);
/* The same for a file that holds a secret: open to everybody is ERR_INVALID. */
NODISCARD enum err config_read_secret_file(struct str path, size_t most, struct buf *out,
                                           const char *setting, struct errinfo *info);
/* A URL with a password: smtp://user:password@host. */
bool config_has_password(struct str text);
/* POSTCHUTE_ADMIN_KEY, POSTCHUTE_KEY, and whatever has a password in it. */
bool config_is_secret_variable(struct str name, struct str value);
/* The first secret written out in a YAML file, and the `key` that it belongs to; NULL: none. */
const struct yaml_node *config_find_secret(const struct yaml_node *root, struct str *key);
