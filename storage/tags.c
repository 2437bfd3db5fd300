/* The tags of a message as stored: a JSON array of strings. The one file of storage/ that reads
 * JSON. */
#include <jansson.h>

#include "server/base/limits.h"
#include "storage/store_ops.h"

/* Without an escape a string is what stands between two quotes: this is done for each message that
 * is accepted. */
static size_t parse_plain(struct str json, struct arena *a, struct str *out, size_t most) {
    size_t count = 0;
    const char *p = json.p, *end = json.p + json.n;
    while (count < most && (p = memchr(p, '"', (size_t)(end - p))) != NULL) {
        p++;
        const char *close = memchr(p, '"', (size_t)(end - p));
        if (close == NULL)
            break;
        out[count++] = arena_dup(a, str_make(p, (size_t)(close - p)));
        p = close + 1;
    }
    return count;
}

size_t tags_parse(struct str json, struct arena *a, struct str **out) {
    *out = NULL;
    if (str_is_absent(json))
        return 0;
    if (memchr(json.p, '\\', json.n) == NULL && str_is_utf8(json)) {
        *out = ARENA_ARRAY(a, struct str, LIMIT_TAGS + 1);
        return parse_plain(json, a, *out, LIMIT_TAGS);
    }
    mem_forget_short();
    json_t *list = json_loadb(json.p, json.n, JSON_ALLOW_NUL, NULL);
    NEED(list != NULL || !mem_is_short()); /* without its tags a message would not be found */
    size_t count = 0, most = json_array_size(list);
    if (most > LIMIT_TAGS)
        most = LIMIT_TAGS;
    *out = ARENA_ARRAY(a, struct str, most + 1);
    for (size_t i = 0; i < most; i++) {
        const json_t *tag = json_array_get(list, i);
        if (json_typeof(tag) == JSON_STRING)
            (*out)[count++] =
                arena_dup(a, str_make(json_string_value(tag), json_string_length(tag)));
    }
    json_decref(list);
    return count;
}
