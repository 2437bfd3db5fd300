/* What our parser makes of addresses, for tests/golden/verify_addresses.py: reads one address a
 * line, in hex; writes one JSON object a line. */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>

#include "server/base/base64.h"
#include "server/mail/address.h"

static void put(json_t *o, const char *name, struct str s) {
    json_object_set_new(o, name, json_stringn(s.p ? s.p : "", s.n));
}

int main(void) {
    char *line = NULL;
    size_t room = 0;
    ssize_t n;
    struct arena *a = arena_new();
    while ((n = getline(&line, &room, stdin)) > 0) {
        struct buf bytes = BUF_INIT(1 << 20);
        struct address parsed;
        struct errinfo info = {0};
        json_t *o = json_object();
        if (hex_decode(str_trim(str_make(line, (size_t)n - 1)), &bytes) != OK) {
            fprintf(stderr, "not hex: %s", line);
            return 1;
        }
        if (address_parse_named(&parsed, buf_str(&bytes), a, &info) == OK) {
            put(o, "email", parsed.email);
            put(o, "local", parsed.local);
            put(o, "domain", parsed.domain);
            put(o, "name", parsed.name);
        } else {
            json_object_set_new(o, "refused", json_string(info.text));
        }
        json_dumpf(o, stdout, JSON_COMPACT);
        putchar('\n');
        json_decref(o);
        buf_release(&bytes);
        arena_clear(a);
    }
    free(line);
    arena_free(&a);
    return 0;
}
