/* config_yaml: a YAML document as a small tree (libyaml); aliases and tags are refused, depth and
 * size bounded. Thread: owner; nodes live in the arena given. */
#pragma once

#include "server/base/arena.h"

enum yaml_kind { YAML_SCALAR, YAML_LIST, YAML_MAP };

struct yaml_node {
    enum yaml_kind kind;
    size_t line; /* from 1 */
    struct str scalar;
    bool is_quoted;           /* scalar: was quoted */
    struct yaml_node **child; /* LIST, MAP: values */
    struct str *key;          /* MAP: names, same order */
    size_t count;
};

/* ERR_INVALID says line and reason. An empty document is an empty MAP. Duplicate keys are refused.
 */
NODISCARD enum err yaml_parse(struct str text, struct arena *a, struct yaml_node **out,
                              struct errinfo *info);
struct yaml_node *yaml_find(const struct yaml_node *map, const char *key); /* NULL when absent */
