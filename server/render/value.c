#include "server/render/value.h"

#include "server/base/clock.h"
#include "server/mail/submission.h"

static const struct str replacement = {"\xEF\xBF\xBD", 3}; /* U+FFFD */

/* Rows can hold bytes of foreign servers; JSON cannot. */
static json_t *repaired(struct str s) {
    struct buf b = BUF_INIT(s.n * replacement.n);
    while (s.n > 0) {
        size_t n = str_utf8_length(s);
        buf_put(&b, n > 0 ? str_slice(s, 0, n) : replacement);
        s = str_from(s, n > 0 ? n : 1);
    }
    json_t *v = buf_status(&b) == OK ? json_stringn(buf_str(&b).p, b.n) : NULL;
    buf_release(&b);
    return v;
}

json_t *value_str(struct str s) {
    if (str_is_absent(s))
        return json_null();
    json_t *v = json_stringn(s.p, s.n);
    return v != NULL ? v : repaired(s);
}

json_t *value_id(const struct id *id) {
    char text[ID_TEXT_SIZE];
    id_print(id, text);
    return json_string(text);
}

json_t *value_time(int64_t wall_ms) {
    if (wall_ms < 0 || wall_ms > CLOCK_LAST_WALL_MS)
        return json_null();
    char text[CLOCK_RFC3339_SIZE];
    clock_print_rfc3339(wall_ms, text);
    return json_string(text);
}

json_t *value_stored(struct str json) {
    if (str_is_empty(json))
        return json_null();
    json_t *v = json_loadb(json.p, json.n, JSON_DECODE_ANY, NULL);
    return v != NULL ? v : json_null();
}

void value_set_str(json_t *object, const char *name, struct str s) {
    if (!str_is_absent(s))
        json_object_set_new(object, name, value_str(s));
}

void value_set_time(json_t *object, const char *name, int64_t wall_ms) {
    if (wall_ms != 0)
        json_object_set_new(object, name, value_time(wall_ms));
}

void value_set_stored(json_t *object, const char *name, struct str json) {
    if (!str_is_empty(json))
        json_object_set_new(object, name, value_stored(json));
}

static int put(const char *p, size_t n, void *arg) {
    buf_put(arg, str_make(p, n));
    return 0;
}

void value_print(const json_t *v, struct buf *out) {
    /* Fails only for want of memory, and for what is not a value, which would be ours. */
    NEED(json_dump_callback(v, put, out, JSON_COMPACT | JSON_ENCODE_ANY) == 0 || mem_is_short());
}

static bool is_plain(struct str s) {
    for (size_t i = 0; i < s.n; i++)
        if (s.p[i] < ' ' || s.p[i] > '~' || s.p[i] == '"' || s.p[i] == '\\')
            return false;
    return !str_is_absent(s);
}

void value_put_member(struct buf *out, const char *before, struct str s) {
    buf_putz(out, before);
    if (is_plain(s)) {
        buf_putc(out, '"');
        buf_put(out, s);
        buf_putc(out, '"');
        return;
    }
    json_t *v = value_str(s);
    if (v == NULL)
        out->failed = out->is_short = true; /* else what is printed would be no JSON */
    else
        value_print(v, out);
    json_decref(v);
}

void value_print_strings(const struct str *list, size_t count, struct buf *out) {
    if (count == 0)
        return;
    json_t *v = json_array();
    for (size_t i = 0; i < count; i++)
        json_array_append_new(v, value_str(list[i]));
    value_print(v, out);
    json_decref(v);
}

void value_print_pairs(const struct pair *list, size_t count, struct buf *out) {
    if (count == 0)
        return;
    json_t *v = json_object();
    for (size_t i = 0; i < count; i++)
        json_object_setn_new_nocheck(v, list[i].key.p, list[i].key.n, value_str(list[i].value));
    value_print(v, out);
    json_decref(v);
}
