/* Is a tree the same as what another JSON reader makes of the text? */
#pragma once

#include <jansson.h>

#include "api/json_tree.h"

static inline bool json_is_same(const struct json_node *n, const json_t *v);

static inline bool json_is_same_object(const struct json_node *n, const json_t *v) {
    if (n->count != json_object_size(v))
        return false;
    for (const struct json_node *m = n->first; m != NULL; m = m->next) {
        const json_t *other = json_object_getn(v, m->name.p, m->name.n);
        if (other == NULL || !json_is_same(m, other))
            return false;
    }
    return true;
}

static inline bool json_is_same_array(const struct json_node *n, const json_t *v) {
    size_t i = 0;
    for (const struct json_node *m = n->first; m != NULL; m = m->next)
        if (i == json_array_size(v) || !json_is_same(m, json_array_get(v, i++)))
            return false;
    return i == n->count && i == json_array_size(v);
}

static inline bool json_is_same(const struct json_node *n, const json_t *v) {
    switch (n->kind) {
    case JSON_IS_OBJECT:
        return json_is_object(v) && json_is_same_object(n, v);
    case JSON_IS_ARRAY:
        return json_is_array(v) && json_is_same_array(n, v);
    case JSON_IS_STRING:
        return json_is_string(v) && n->text.n == json_string_length(v) &&
               (n->text.n == 0 || memcmp(n->text.p, json_string_value(v), n->text.n) == 0);
    case JSON_IS_INTEGER:
        return json_is_integer(v) && n->integer == json_integer_value(v);
    case JSON_IS_REAL:
        return json_is_real(v);
    case JSON_IS_TRUE:
        return json_is_true(v);
    case JSON_IS_FALSE:
        return json_is_false(v);
    case JSON_IS_NULL:
        return json_is_null(v);
    }
    return false;
}
