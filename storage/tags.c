/* The tags of a message as stored: a JSON array of strings. The one file of storage/ that reads
 * JSON. */
#include <jansson.h>

#include "server/base/limits.h"
#include "storage/store_ops.h"

size_t tags_parse(struct str json, struct arena *a, struct str **out) {
    *out = NULL;
    if (str_is_absent(json))
        return 0;
    json_t *list = json_loadb(json.p, json.n, JSON_ALLOW_NUL, NULL);
    size_t count = 0, most = json_array_size(list);
    if (most > LIMIT_TAGS)
        most = LIMIT_TAGS;
    *out = ARENA_ARRAY(a, struct str, most + 1);
    for (size_t i = 0; i < most; i++) {
        const json_t *tag = json_array_get(list, i);
        if (json_is_string(tag))
            (*out)[count++] =
                arena_dup(a, str_make(json_string_value(tag), json_string_length(tag)));
    }
    json_decref(list);
    return count;
}
