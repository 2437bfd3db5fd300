#include "api/json.h"

#include <stdarg.h>

#include "server/base/buf.h"
#include "server/base/random.h"

void json_setup(void) {
    json_object_seed((size_t)random_u64() | 1); /* 0 would let the library choose */
    /* What it has no memory for it leaves out without a word. */
    json_set_alloc_funcs(mem_noting_malloc, free);
}

/* Brackets and commas outside of strings, before anything is built of them: what a value costs in
 * memory has nothing to do with its bytes. What is not JSON otherwise is found by the parser later.
 */
static const char *shape_fault(struct str body) {
    size_t depth = 0, values = 1;
    bool in_string = false;
    for (size_t i = 0; i < body.n; i++) {
        char c = body.p[i];
        if (in_string) {
            if (c == '\\')
                i++;
            else if (c == '"')
                in_string = false;
        } else if (c == '"') {
            in_string = true;
        } else if (c == '[' || c == '{') {
            values++;
            if (++depth > LIMIT_JSON_DEPTH)
                return "nested too deeply";
        } else if (c == ',') {
            values++;
        } else if ((c == ']' || c == '}') && depth > 0) {
            depth--;
        }
        if (values > LIMIT_JSON_VALUES)
            return "too many values";
    }
    return NULL;
}

enum err json_body_parse(struct str body, json_t **out, struct errinfo *info) {
    if (body.n == 0)
        return err_set(info, ERR_INVALID, "", "the body is empty");
    if (memchr(body.p, '\0', body.n) != NULL)
        return err_set(info, ERR_INVALID, "", "a NUL byte is in the body");
    const char *fault = shape_fault(body);
    if (fault != NULL)
        return err_set(info, ERR_INVALID, "", "%s: at most %d levels and %d values", fault,
                       (int)LIMIT_JSON_DEPTH, (int)LIMIT_JSON_VALUES);
    json_error_t e;
    mem_forget_short();
    json_t *v = json_loadb(body.p, body.n, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, &e);
    if (v == NULL && mem_is_short())
        return err_set(info, ERR_UNAVAILABLE, "", "there is no memory for the body now");
    if (v == NULL)
        return err_set(info, ERR_INVALID, "", "line %d, column %d: %s", e.line, e.column,
                       json_error_code(&e) == json_error_null_character ? "\\u0000 is in a string"
                                                                        : e.text);
    *out = v;
    return OK;
}

/* ---- places ---- */

struct json_at json_member(const struct json_at *parent, const char *name) {
    return (struct json_at){.parent = parent, .name = str_of(name)};
}

struct json_at json_element(const struct json_at *parent, size_t index) {
    return (struct json_at){.parent = parent, .index = index};
}

static struct faults *faults_of(const struct json_at *at) {
    while (at->parent != NULL)
        at = at->parent;
    return at->faults;
}

struct arena *json_arena(const struct json_at *at) {
    return faults_of(at)->arena;
}

enum { POINTER_MAX = 1024, POINTER_NAME_MAX = 128 };

/* RFC 6901 4 and 6: "~" and "/" by tilde, what a fragment cannot hold by percent. */
static void put_name(struct buf *b, struct str name) {
    static const char plain[] = "-._!$&'()*+,;=:@?";
    if (name.n > POINTER_NAME_MAX)
        name.n = POINTER_NAME_MAX;
    for (size_t i = 0; i < name.n; i++) {
        char c = name.p[i];
        if (c == '~')
            buf_putz(b, "~0");
        else if (c == '/')
            buf_putz(b, "~1");
        else if (ascii_is_alnum(c) || strchr(plain, c) != NULL)
            buf_putc(b, c);
        else
            buf_printf(b, "%%%02X", (unsigned char)c);
    }
}

static void put_place(struct buf *b, const struct json_at *at) {
    if (at->parent == NULL)
        return;
    put_place(b, at->parent);
    buf_putc(b, '/');
    if (str_is_absent(at->name))
        buf_printf(b, "%zu", at->index);
    else
        put_name(b, at->name);
}

struct str json_pointer(const struct json_at *at) {
    struct buf b = BUF_INIT(POINTER_MAX);
    buf_putc(&b, '#');
    put_place(&b, at);
    struct str s = arena_dup(faults_of(at)->arena, buf_str(&b));
    buf_release(&b);
    return s;
}

void json_fault(const struct json_at *at, const char *code, const char *fmt, ...) {
    struct errinfo text;
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text.text, sizeof(text.text), fmt, ap);
    va_end(ap);
    faults_add(faults_of(at), json_pointer(at), code, "%s", text.text);
}

/* ---- reading ---- */

static const char *type_name(const json_t *v) {
    static const char *const names[] = {"an object",     "an array", "a string", "a whole number",
                                        "a real number", "true",     "false",    "null"};
    size_t t = (size_t)json_typeof(v);
    ASSERT(t < sizeof(names) / sizeof(names[0]));
    return names[t];
}

static bool wrong_type(const struct json_at *at, const json_t *v, const char *wanted) {
    json_fault(at, "wrong_type", "this must be %s, not %s", wanted, type_name(v));
    return false;
}

static ptrdiff_t find_field(const struct json_field *fields, size_t count, const char *name) {
    for (size_t i = 0; i < count; i++) {
        if (strcmp(fields[i].name, name) == 0)
            return (ptrdiff_t)i;
        for (size_t k = 0; k < sizeof(fields[i].alias) / sizeof(fields[i].alias[0]); k++)
            if (fields[i].alias[k] != NULL && strcmp(fields[i].alias[k], name) == 0)
                return (ptrdiff_t)i;
    }
    return -1;
}

enum { FIELDS_MAX = 64 };

void json_read_object(const struct json_at *at, json_t *v, const struct json_field *fields,
                      size_t count, void *out) {
    ASSERT(count <= FIELDS_MAX);
    uint64_t seen = 0;
    const char *name;
    json_t *member;
    if (!json_is_object(v)) {
        (void)wrong_type(at, v, "an object");
        return;
    }
    json_object_foreach(v, name, member) {
        struct json_at here = json_member(at, name);
        ptrdiff_t i = find_field(fields, count, name);
        if (i < 0) {
            json_fault(&here, "unknown_field", "there is no such field");
        } else if (json_is_null(member)) {
            continue;
        } else if ((seen & (UINT64_C(1) << i)) != 0) {
            json_fault(&here, "duplicate_field", "this is another name of \"%s\", which is there",
                       fields[i].name);
        } else {
            seen |= UINT64_C(1) << i;
            fields[i].read(&here, member, out);
        }
    }
}

bool json_has(const json_t *object, const char *name) {
    const json_t *member = json_object_get(object, name);
    return member != NULL && !json_is_null(member);
}

bool json_read_str(const struct json_at *at, json_t *v, struct str *out) {
    if (!json_is_string(v))
        return wrong_type(at, v, "a string");
    *out = str_make(json_string_value(v), json_string_length(v));
    return true;
}

bool json_read_bool(const struct json_at *at, json_t *v, bool *out) {
    if (!json_is_boolean(v))
        return wrong_type(at, v, "true or false");
    *out = json_is_true(v);
    return true;
}

bool json_read_int(const struct json_at *at, json_t *v, int64_t least, int64_t most, int64_t *out) {
    if (!json_is_integer(v))
        return wrong_type(at, v, "a whole number");
    int64_t n = json_integer_value(v);
    if (n < least || n > most) {
        json_fault(at, "out_of_range", "this must be from %lld to %lld", (long long)least,
                   (long long)most);
        return false;
    }
    *out = n;
    return true;
}

bool json_read_array(const struct json_at *at, json_t *v, size_t most) {
    if (json_typeof(v) != JSON_ARRAY)
        return wrong_type(at, v, "an array");
    if (json_array_size(v) > most) {
        json_fault(at, "too_many", "at most %zu are allowed, not %zu", most, json_array_size(v));
        return false;
    }
    return true;
}

bool json_read_strs(const struct json_at *at, json_t *v, size_t most, struct str **out,
                    size_t *count) {
    struct arena *a = faults_of(at)->arena;
    if (json_is_string(v)) {
        *out = ARENA_NEW(a, struct str);
        *count = 1;
        return json_read_str(at, v, &(*out)[0]);
    }
    if (json_typeof(v) != JSON_ARRAY)
        return wrong_type(at, v, "a string or an array of strings");
    if (!json_read_array(at, v, most))
        return false;
    size_t n = json_array_size(v);
    bool is_good = true;
    *out = ARENA_ARRAY(a, struct str, n + 1);
    for (size_t i = 0; i < n; i++) {
        struct json_at here = json_element(at, i);
        (*out)[i] = STR("");
        is_good &= json_read_str(&here, json_array_get(v, i), &(*out)[i]);
    }
    *count = n;
    return is_good;
}
