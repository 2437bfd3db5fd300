/* json_tree: JSON (RFC 8259) to a tree of nodes, without a copy of the text.
 *
 * json_parse() refuses what is not JSON, what is not UTF-8, NUL and U+0000, what says a member
 * twice, numbers that nobody can hold, and what is deeper than LIMIT_JSON_DEPTH or has more than
 * LIMIT_JSON_VALUES values: memory and stack are bounded before anything is built.
 *
 *     struct json_node *root;
 *     if (json_parse(text, size, arena, &root, &info) != OK) ...
 *     for (struct json_node *n = root->first; n != NULL; n = n->next) ...
 *
 * Strings lie where they were received: `text` is overwritten with what its escapes stand for, and
 * must stay as long as strings of the tree are used. Nodes are in the arena.
 *
 * Thread: owner.
 */
#pragma once

#include "server/base/arena.h"

enum json_kind {
    JSON_IS_OBJECT,
    JSON_IS_ARRAY,
    JSON_IS_STRING,
    JSON_IS_INTEGER,
    JSON_IS_REAL, /* its value is not kept: no field takes one */
    JSON_IS_TRUE,
    JSON_IS_FALSE,
    JSON_IS_NULL,
};

struct json_node {
    enum json_kind kind;
    bool has_escapes;       /* until the whole text was read */
    uint32_t count;         /* of an object or array */
    struct json_node *next; /* its neighbour in the same object or array */
    struct str name;        /* of a member; in the text */
    union {
        struct str text;
        int64_t integer;
        struct json_node *first;
    };
};

/* ERR_INVALID: `info` says what and where; ERR_UNAVAILABLE: no memory. In both cases `text` is as
 * it was. */
NODISCARD enum err json_parse(char *text, size_t size, struct arena *a, struct json_node **out,
                              struct errinfo *info);
/* A member of an object; NULL: there is none, or it is no object. */
const struct json_node *json_member_of(const struct json_node *n, const char *name);
