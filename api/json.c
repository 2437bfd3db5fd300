#include "api/json.h"

#include <stdarg.h>

#include "server/base/buf.h"
#include "server/base/random.h"

void json_setup(void) {
    json_object_seed((size_t)random_u64() | 1); /* 0 would let the library choose */
    /* What it has no memory for it leaves out without a word. */
    json_set_alloc_funcs(mem_noting_malloc, free);
}

enum err json_body_parse(struct buf *body, struct arena *a, struct json_node **out,
                         struct errinfo *info) {
    if (body->n == 0)
        return err_set(info, ERR_INVALID, "", "the body is empty");
    mem_forget_short();
    return json_parse(body->p, body->n, a, out, info);
}

/* ---- places ---- */

struct json_at json_member(const struct json_at *parent, const char *name) {
    return (struct json_at){.parent = parent, .name = str_of(name)};
}

struct json_at json_element(const struct json_at *parent, size_t index) {
    return (struct json_at){.parent = parent, .index = index};
}

static const struct json_at *top_of(const struct json_at *at) {
    while (at->parent != NULL)
        at = at->parent;
    return at;
}

static struct faults *faults_of(const struct json_at *at) {
    return top_of(at)->faults;
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
    struct faults *f = faults_of(at);
    bool is_shown = f->count < LIMIT_FAULTS; /* else it only counts, and its place takes memory */
    faults_add(f, is_shown ? json_pointer(at) : STR_NONE, code, "%s", text.text);
}

/* ---- reading ---- */

static const char *type_name(const struct json_node *v) {
    static const char *const names[] = {
        [JSON_IS_OBJECT] = "an object",   [JSON_IS_ARRAY] = "an array",
        [JSON_IS_STRING] = "a string",    [JSON_IS_INTEGER] = "a whole number",
        [JSON_IS_REAL] = "a real number", [JSON_IS_TRUE] = "true",
        [JSON_IS_FALSE] = "false",        [JSON_IS_NULL] = "null",
    };
    return names[v->kind];
}

static bool wrong_type(const struct json_at *at, const struct json_node *v, const char *wanted) {
    json_fault(at, "wrong_type", "this must be %s, not %s", wanted, type_name(v));
    return false;
}

static bool is_name(const char *name, struct str given) {
    return name != NULL && strlen(name) == given.n && memcmp(name, given.p, given.n) == 0;
}

static ptrdiff_t find_field(const struct json_field *fields, size_t count, struct str name) {
    for (size_t i = 0; i < count; i++) {
        if (is_name(fields[i].name, name))
            return (ptrdiff_t)i;
        for (size_t k = 0; k < sizeof(fields[i].alias) / sizeof(fields[i].alias[0]); k++)
            if (is_name(fields[i].alias[k], name))
                return (ptrdiff_t)i;
    }
    return -1;
}

/* Who checks values later names fields by their own names. */
static void note_other_name(const struct json_at *given, const char *name) {
    struct json_at usual = json_member(given->parent, name);
    faults_place(faults_of(given), json_pointer(&usual), json_pointer(given), false);
}

void json_note_single(const struct json_at *at) {
    struct str pointer = json_pointer(at);
    faults_place(faults_of(at), pointer, pointer, true);
}

enum { FIELDS_MAX = 64 };

void json_read_object(const struct json_at *at, const struct json_node *v,
                      const struct json_field *fields, size_t count, void *out) {
    ASSERT(count <= FIELDS_MAX);
    uint64_t seen = 0;
    if (v->kind != JSON_IS_OBJECT) {
        (void)wrong_type(at, v, "an object");
        return;
    }
    for (const struct json_node *member = v->first; member != NULL; member = member->next) {
        struct json_at here = {.parent = at, .name = member->name};
        ptrdiff_t i = find_field(fields, count, member->name);
        if (i < 0) {
            json_fault(&here, "unknown_field", "there is no such field");
        } else if (member->kind == JSON_IS_NULL && top_of(at)->is_change) {
            json_fault(&here, "wrong_type",
                       "null changes nothing: leave the field out, or give \"\" where it may be "
                       "empty");
        } else if (member->kind == JSON_IS_NULL) {
            continue;
        } else if ((seen & (UINT64_C(1) << i)) != 0) {
            json_fault(&here, "duplicate_field", "this is another name of \"%s\", which is there",
                       fields[i].name);
        } else {
            seen |= UINT64_C(1) << i;
            if (!is_name(fields[i].name, member->name))
                note_other_name(&here, fields[i].name);
            fields[i].read(&here, member, out);
        }
    }
}

bool json_has(const struct json_node *object, const char *name) {
    const struct json_node *member = json_member_of(object, name);
    return member != NULL && member->kind != JSON_IS_NULL;
}

bool json_read_content(const struct json_at *at, const struct json_node *v, struct str *out) {
    if (v->kind != JSON_IS_STRING)
        return wrong_type(at, v, "a string");
    *out = v->text;
    return true;
}

bool json_read_str(const struct json_at *at, const struct json_node *v, struct str *out) {
    struct str text;
    if (!json_read_content(at, v, &text))
        return false;
    char *copy = arena_try_alloc(faults_of(at)->arena, text.n + 1);
    if (copy == NULL)
        return false;
    if (text.n > 0)
        memcpy(copy, text.p, text.n);
    *out = str_make(copy, text.n);
    return true;
}

bool json_read_bool(const struct json_at *at, const struct json_node *v, bool *out) {
    if (v->kind != JSON_IS_TRUE && v->kind != JSON_IS_FALSE)
        return wrong_type(at, v, "true or false");
    *out = v->kind == JSON_IS_TRUE;
    return true;
}

bool json_read_int(const struct json_at *at, const struct json_node *v, int64_t least, int64_t most,
                   int64_t *out) {
    if (v->kind != JSON_IS_INTEGER)
        return wrong_type(at, v, "a whole number");
    if (v->integer < least && most == INT64_MAX) {
        json_fault(at, "out_of_range", "this must be at least %lld", (long long)least);
        return false;
    }
    if (v->integer < least || v->integer > most) {
        json_fault(at, "out_of_range", "this must be from %lld to %lld", (long long)least,
                   (long long)most);
        return false;
    }
    *out = v->integer;
    return true;
}

bool json_read_array(const struct json_at *at, const struct json_node *v, size_t most) {
    if (v->kind != JSON_IS_ARRAY)
        return wrong_type(at, v, "an array");
    if (v->count > most) {
        json_fault(at, "too_many", "at most %zu are allowed, not %u", most, v->count);
        return false;
    }
    return true;
}

bool json_read_strs(const struct json_at *at, const struct json_node *v, size_t most,
                    struct str **out, size_t *count) {
    struct arena *a = faults_of(at)->arena;
    if (v->kind == JSON_IS_STRING) {
        *out = ARENA_NEW(a, struct str);
        *count = 1;
        json_note_single(at);
        return json_read_str(at, v, &(*out)[0]);
    }
    if (v->kind != JSON_IS_ARRAY)
        return wrong_type(at, v, "a string or an array of strings");
    if (!json_read_array(at, v, most))
        return false;
    bool is_good = true;
    size_t i = 0;
    *out = ARENA_ARRAY(a, struct str, (size_t)v->count + 1);
    for (const struct json_node *each = v->first; each != NULL; each = each->next, i++) {
        struct json_at here = json_element(at, i);
        is_good &= json_read_str(&here, each, &(*out)[i]);
    }
    *count = i;
    return is_good;
}
