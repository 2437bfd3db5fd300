/* The tree of a text is what another reader of JSON makes of it, and what the one refuses the other
 * refuses, but for our own limits. */
#include <stdlib.h>

#include "server/base/limits.h"
#include "tests/unit/api/json_same.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static bool is_of_a_limit(const struct errinfo *info) {
    return strstr(info->text, "too deeply") || strstr(info->text, "too many values") ||
           strstr(info->text, "too long");
}

static void check_strings(const struct json_node *n, const char *text, size_t size) {
    if (n->kind == JSON_IS_STRING) {
        ASSERT(n->text.p >= text && n->text.p + n->text.n <= text + size);
        ASSERT(str_is_utf8(n->text) && !n->has_escapes);
    } else if (n->kind == JSON_IS_OBJECT || n->kind == JSON_IS_ARRAY) {
        for (const struct json_node *m = n->first; m != NULL; m = m->next)
            check_strings(m, text, size);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static struct arena *a;
    if (!a)
        a = arena_new();
    arena_clear(a);
    struct errinfo info = {0};
    struct json_node *n = NULL;
    char *text = malloc(size > 0 ? size : 1); /* exactly as long: what is read behind it is seen */
    if (!text)
        return 0;
    memcpy(text, data, size);
    json_t *v =
        json_loadb((const char *)data, size, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, NULL);
    enum err e = json_parse(text, size, a, &n, &info);
    ASSERT(e != OK || memchr(data, 0, size) == NULL); /* to the other reader a NUL is the end */
    if (e == OK) {
        ASSERT(v != NULL && json_is_same(n, v));
        check_strings(n, text, size);
    } else {
        ASSERT(v == NULL || is_of_a_limit(&info) || memchr(data, 0, size) != NULL);
        ASSERT(memcmp(text, data, size) == 0);
    }
    json_decref(v);
    free(text);
    return 0;
}
