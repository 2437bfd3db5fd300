#include "api/json_tree.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>

#include "server/base/limits.h"

enum {
    NUMBER_MOST = 512, /* characters of a real number */
    NAME_MOST = 64,    /* of one that is told */
    FEW_MEMBERS = 8,   /* compared one by one */
};

static const char NO_MEMORY[] = "there is no memory for the body now";

struct parser {
    char *begin, *at, *end;
    struct arena *arena;
    size_t values, depth;
    bool has_escapes; /* anywhere */
    const char *fault;
    struct str
        twin; /* the fault: a name that comes twice, and stands in the text without escapes */
};

/* Always NULL, false: so that it can be returned. */
static struct json_node *fail(struct parser *p, const char *what) {
    if (p->fault == NULL)
        p->fault = what;
    return NULL;
}

static bool refuse(struct parser *p, const char *what) {
    (void)fail(p, what);
    return false;
}

static void skip_space(struct parser *p) {
    while (p->at < p->end && (*p->at == ' ' || *p->at == '\n' || *p->at == '\t' || *p->at == '\r'))
        p->at++;
}

/* The next character after blanks, which is not taken; 0: the text is over. */
static char peek(struct parser *p) {
    skip_space(p);
    return p->at < p->end ? *p->at : '\0';
}

static bool count_value(struct parser *p) {
    if (++p->values <= LIMIT_JSON_VALUES)
        return true;
    return refuse(p, "too many values");
}

/* ---- strings ---- */

/* Eight characters at a time: is one of them a quote, a backslash, a control or not us-ascii? */
static bool has_special(uint64_t eight) {
    const uint64_t ones = 0x0101010101010101u, tops = 0x8080808080808080u;
    uint64_t quote = eight ^ ones * '"', backslash = eight ^ ones * '\\';
    return ((eight | (eight - ones * 0x20) | (quote - ones) | (backslash - ones)) & tops) != 0;
}

static void skip_plain(struct parser *p) {
    uint64_t eight;
    while ((size_t)(p->end - p->at) >= sizeof(eight)) {
        memcpy(&eight, p->at, sizeof(eight));
        if (has_special(eight))
            break;
        p->at += sizeof(eight);
    }
    while (p->at < p->end && (uint8_t)*p->at >= 0x20 && (uint8_t)*p->at < 0x80 && *p->at != '"' &&
           *p->at != '\\')
        p->at++;
}

/* Four hexadecimal digits; -1: they are none. */
static int32_t hex4(const char *s) {
    int32_t v = 0;
    for (int i = 0; i < 4; i++) {
        char c = ascii_lower(s[i]);
        if (!ascii_is_digit(c) && !(c >= 'a' && c <= 'f'))
            return -1;
        v = v * 16 + (ascii_is_digit(c) ? c - '0' : c - 'a' + 10);
    }
    return v;
}

static bool is_high_surrogate(int32_t v) {
    return v >= 0xD800 && v <= 0xDBFF;
}

static bool is_low_surrogate(int32_t v) {
    return v >= 0xDC00 && v <= 0xDFFF;
}

static bool check_unicode_escape(struct parser *p) { /* after "\u" */
    int32_t v = p->end - p->at >= 4 ? hex4(p->at) : -1;
    if (v < 0)
        return refuse(p, "an escape is none");
    if (v == 0)
        return refuse(p, "\\u0000 is in a string");
    p->at += 4;
    if (is_low_surrogate(v))
        return refuse(p, "half of a surrogate pair is in a string");
    if (!is_high_surrogate(v))
        return true;
    if (p->end - p->at < 6 || p->at[0] != '\\' || p->at[1] != 'u' ||
        !is_low_surrogate(hex4(p->at + 2)))
        return refuse(p, "half of a surrogate pair is in a string");
    p->at += 6;
    return true;
}

static bool check_escape(struct parser *p) { /* at the backslash */
    char c = p->end - p->at >= 2 ? p->at[1] : '\0';
    if (c == '\0' || strchr("\"\\/bfnrtu", c) == NULL)
        return refuse(p, "an escape is none");
    p->at += 2;
    return c != 'u' || check_unicode_escape(p);
}

/* What is neither plain nor the end: an escape, a character beyond us-ascii, or a fault. */
static bool check_special(struct parser *p, bool *has_escapes) {
    if (*p->at == '\\') {
        *has_escapes = p->has_escapes = true;
        return check_escape(p);
    }
    if ((uint8_t)*p->at < 0x20)
        return refuse(p, "a control character is in a string");
    size_t n = str_utf8_length(str_make(p->at, (size_t)(p->end - p->at)));
    if (n == 0)
        return refuse(p, "this is not UTF-8");
    p->at += n;
    return true;
}

/* At the quote; *out is what stands between the two. */
static bool take_string(struct parser *p, struct str *out, bool *has_escapes) {
    const char *begin = ++p->at;
    *has_escapes = false;
    for (;;) {
        skip_plain(p);
        if (p->at == p->end)
            return refuse(p, "a string does not end");
        if (*p->at == '"')
            break;
        if (!check_special(p, has_escapes))
            return false;
    }
    *out = str_make(begin, (size_t)(p->at - begin));
    p->at++;
    return true;
}

static char *put_utf8(char *q, uint32_t v) {
    if (v < 0x80) {
        *q++ = (char)v;
    } else if (v < 0x800) {
        *q++ = (char)(0xC0 | v >> 6);
        *q++ = (char)(0x80 | (v & 0x3F));
    } else if (v < 0x10000) {
        *q++ = (char)(0xE0 | v >> 12);
        *q++ = (char)(0x80 | (v >> 6 & 0x3F));
        *q++ = (char)(0x80 | (v & 0x3F));
    } else {
        *q++ = (char)(0xF0 | v >> 18);
        *q++ = (char)(0x80 | (v >> 12 & 0x3F));
        *q++ = (char)(0x80 | (v >> 6 & 0x3F));
        *q++ = (char)(0x80 | (v & 0x3F));
    }
    return q;
}

/* An escape that was checked, at its backslash. No escape is shorter than what it stands for. */
static const char *put_escape(const char *s, char **q) {
    static const char from[] = "bfnrt", to[] = "\b\f\n\r\t";
    if (s[1] != 'u') {
        const char *at = strchr(from, s[1]);
        *(*q)++ = at != NULL ? to[at - from] : s[1];
        return s + 2;
    }
    uint32_t v = (uint32_t)hex4(s + 2);
    s += 6;
    if (is_high_surrogate((int32_t)v)) {
        v = 0x10000 + ((v - 0xD800) << 10) + ((uint32_t)hex4(s + 2) - 0xDC00);
        s += 6;
    }
    *q = put_utf8(*q, v);
    return s;
}

/* Writes what the escapes stand for to `q`, which may be where they are; returns its end. */
static char *unescape(struct str in, char *q) {
    const char *s = in.p, *end = in.p + in.n;
    while (s < end) {
        const char *next = memchr(s, '\\', (size_t)(end - s));
        size_t n = (size_t)((next != NULL ? next : end) - s);
        memmove(q, s, n);
        q += n;
        s += n;
        if (next != NULL)
            s = put_escape(s, &q);
    }
    return q;
}

/* ---- numbers and words ---- */

static size_t take_digits(struct parser *p) {
    const char *begin = p->at;
    while (p->at < p->end && ascii_is_digit(*p->at))
        p->at++;
    return (size_t)(p->at - begin);
}

static bool take_if(struct parser *p, char c) {
    if (p->at == p->end || *p->at != c)
        return false;
    p->at++;
    return true;
}

static bool is_finite(struct parser *p, struct str text) {
    char z[NUMBER_MOST + 1];
    if (text.n > NUMBER_MOST)
        return refuse(p, "a number is too long");
    memcpy(z, text.p, text.n);
    z[text.n] = '\0';
    return isfinite(strtod(z, NULL)) || refuse(p, "a number is too large");
}

static bool read_integer(struct parser *p, struct str text, int64_t *out) {
    char z[32];
    if (text.n >= sizeof(z))
        return refuse(p, "a number is too large"); /* no leading zeros: that many digits count */
    memcpy(z, text.p, text.n);
    z[text.n] = '\0';
    errno = 0;
    long long v = strtoll(z, NULL, 10);
    *out = v;
    return errno == 0 || refuse(p, "a number is too large");
}

static bool take_number(struct parser *p, struct json_node *n) {
    const char *begin = p->at;
    bool is_real = false;
    (void)take_if(p, '-');
    bool is_zero = take_if(p, '0');
    if (!is_zero && take_digits(p) == 0)
        return refuse(p, "a value is none");
    if (is_zero && p->at < p->end && ascii_is_digit(*p->at))
        return refuse(p, "a number begins with 0");
    if (take_if(p, '.')) {
        is_real = true;
        if (take_digits(p) == 0)
            return refuse(p, "a number has no digit after its point");
    }
    if (take_if(p, 'e') || take_if(p, 'E')) {
        is_real = true;
        if (!take_if(p, '+'))
            (void)take_if(p, '-');
        if (take_digits(p) == 0)
            return refuse(p, "a number has no digit in its exponent");
    }
    struct str text = str_make(begin, (size_t)(p->at - begin));
    n->kind = is_real ? JSON_IS_REAL : JSON_IS_INTEGER;
    return is_real ? is_finite(p, text) : read_integer(p, text, &n->integer);
}

static bool take_word(struct parser *p, struct json_node *n) {
    static const struct {
        struct str word;
        enum json_kind kind;
    } words[] = {
        {{"true", 4}, JSON_IS_TRUE}, {{"false", 5}, JSON_IS_FALSE}, {{"null", 4}, JSON_IS_NULL}};
    for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++) {
        struct str w = words[i].word;
        if ((size_t)(p->end - p->at) >= w.n && memcmp(p->at, w.p, w.n) == 0) {
            n->kind = words[i].kind;
            p->at += w.n;
            return true;
        }
    }
    return refuse(p, "a value is none");
}

/* ---- objects and arrays ---- */

static struct json_node *take_value(struct parser *p);

static bool enter(struct parser *p) {
    p->at++;
    if (++p->depth > LIMIT_JSON_DEPTH)
        return refuse(p, "nested too deeply");
    return count_value(p);
}

/* After a value: true when another one follows the comma. */
static bool goes_on(struct parser *p, char close) {
    char c = peek(p);
    if (c == ',') {
        p->at++;
        return count_value(p);
    }
    if (c != close)
        return refuse(p, close == ']' ? "a comma or ] is missing" : "a comma or } is missing");
    p->at++;
    p->depth--;
    return false;
}

static bool is_empty(struct parser *p, char close) {
    if (peek(p) != close)
        return false;
    p->at++;
    p->depth--;
    return true;
}

static void take_array(struct parser *p, struct json_node *n) {
    struct json_node **link = &n->first;
    n->kind = JSON_IS_ARRAY;
    if (!enter(p) || is_empty(p, ']'))
        return;
    do {
        struct json_node *v = take_value(p);
        if (v == NULL)
            return;
        *link = v;
        link = &v->next;
        n->count++;
    } while (goes_on(p, ']'));
}

/* A name is needed for comparing at once; one with escapes is rare. */
static bool take_name(struct parser *p, struct str *out) {
    bool has_escapes;
    if (peek(p) != '"')
        return refuse(p, "the name of a member is missing");
    if (!take_string(p, out, &has_escapes))
        return false;
    if (has_escapes) {
        char *q = arena_try_alloc(p->arena, out->n);
        if (q == NULL)
            return refuse(p, NO_MEMORY);
        *out = str_make(q, (size_t)(unescape(*out, q) - q));
    }
    if (peek(p) != ':')
        return refuse(p, "a colon is missing");
    p->at++;
    return true;
}

static int compare_names(struct str x, struct str y) {
    if (x.n != y.n)
        return x.n < y.n ? -1 : 1;
    return x.n > 0 ? memcmp(x.p, y.p, x.n) : 0;
}

/* Two sorted runs, from[begin..middle) and from[middle..end), to one. */
static void merge_runs(const struct str *from, struct str *to, size_t begin, size_t middle,
                       size_t end) {
    size_t left = begin, right = middle;
    for (size_t i = begin; i < end; i++) {
        bool is_left =
            right == end || (left < middle && compare_names(from[left], from[right]) <= 0);
        to[i] = from[is_left ? left++ : right++];
    }
}

/* By merging: at most count * log2(count) comparisons, in whatever order names come. qsort()
 * promises no such thing: without memory for its copy, glibc's before 2.39 takes the square for
 * names in an order that can be chosen. Returns `name` or `room`, whichever holds them sorted. */
static struct str *sort_names(struct str *name, struct str *room, size_t count) {
    for (size_t run = 1; run < count; run *= 2) {
        for (size_t i = 0; i < count; i += 2 * run) {
            size_t middle = i + run < count ? i + run : count;
            size_t end = middle + run < count ? middle + run : count;
            merge_runs(name, room, i, middle, end);
        }
        struct str *sorted = room;
        room = name;
        name = sorted;
    }
    return name;
}

/* Sorted, since nobody can choose names that are slow to sort, as one can choose some that are slow
 * to hash. */
static bool find_twin_among_many(struct parser *p, const struct json_node *n, struct str *out) {
    struct str *name = mem_try_zalloc(2 * (size_t)n->count * sizeof(*name));
    size_t count = 0;
    if (name == NULL)
        return refuse(p, NO_MEMORY);
    bool found = false;
    for (const struct json_node *m = n->first; m != NULL; m = m->next)
        name[count++] = m->name;
    const struct str *sorted = sort_names(name, name + count, count);
    for (size_t i = 1; i < count && !found; i++) {
        *out = sorted[i];
        found = compare_names(sorted[i - 1], sorted[i]) == 0;
    }
    free(name);
    return found;
}

/* *out: the name that comes for the second time. */
static bool find_twin(struct parser *p, const struct json_node *n, struct str *out) {
    if (n->count > FEW_MEMBERS)
        return find_twin_among_many(p, n, out);
    for (const struct json_node *a = n->first; a != NULL; a = a->next)
        for (const struct json_node *b = a->next; b != NULL; b = b->next)
            if (str_equal(a->name, b->name)) {
                *out = b->name;
                return true;
            }
    return false;
}

static void check_twins(struct parser *p, const struct json_node *n) {
    struct str name = STR_NONE;
    if (!find_twin(p, n, &name))
        return;
    (void)fail(p, "an object has a member twice");
    bool is_in_text =
        (uintptr_t)name.p >= (uintptr_t)p->begin && (uintptr_t)name.p < (uintptr_t)p->at;
    if (!is_in_text)
        return;
    p->twin = name;
    p->at = p->begin + (name.p - p->begin);
}

static void take_object(struct parser *p, struct json_node *n) {
    struct json_node **link = &n->first;
    n->kind = JSON_IS_OBJECT;
    if (!enter(p) || is_empty(p, '}'))
        return;
    do {
        struct str name;
        if (!take_name(p, &name))
            return;
        struct json_node *v = take_value(p);
        if (v == NULL)
            return;
        v->name = name;
        *link = v;
        link = &v->next;
        n->count++;
    } while (goes_on(p, '}'));
    if (p->fault == NULL)
        check_twins(p, n);
}

/* NULL: a fault was found. Recursion ends at LIMIT_JSON_DEPTH. */
static struct json_node *take_value(struct parser *p) {
    char c = peek(p);
    if (p->at == p->end)
        return fail(p, "the text ends early");
    struct json_node *n = arena_try_alloc(p->arena, sizeof(*n));
    if (n == NULL)
        return fail(p, NO_MEMORY);
    if (c == '"') {
        n->kind = JSON_IS_STRING;
        (void)take_string(p, &n->text, &n->has_escapes);
    } else if (c == '{') {
        take_object(p, n);
    } else if (c == '[') {
        take_array(p, n);
    } else if (c == '-' || ascii_is_digit(c)) {
        (void)take_number(p, n);
    } else {
        (void)take_word(p, n);
    }
    return p->fault == NULL ? n : NULL;
}

/* After everything was read, so that a fault is reported where it was sent. */
static void write_strings(struct json_node *n) {
    if (n->kind == JSON_IS_STRING && n->has_escapes) {
        char *p = (char *)(uintptr_t)n->text.p;
        n->text.n = (size_t)(unescape(n->text, p) - p);
        n->has_escapes = false;
    } else if (n->kind == JSON_IS_OBJECT || n->kind == JSON_IS_ARRAY) {
        for (struct json_node *m = n->first; m != NULL; m = m->next)
            write_strings(m);
    }
}

static enum err report(const struct parser *p, struct errinfo *info) {
    if (p->fault == NO_MEMORY)
        return err_set(info, ERR_UNAVAILABLE, "", "%s", NO_MEMORY);
    size_t line = 1, column = 1;
    for (const char *s = p->begin; s < p->at; s++) {
        column = *s == '\n' ? 1 : column + 1;
        line += *s == '\n';
    }
    struct str name = p->twin.n <= NAME_MOST ? p->twin : STR_NONE;
    return err_set(info, ERR_INVALID, "", "line %zu, column %zu: %s%s%.*s", line, column, p->fault,
                   name.n > 0 ? ": " : "", STR_ARG(name));
}

enum err json_parse(char *text, size_t size, struct arena *a, struct json_node **out,
                    struct errinfo *info) {
    static const char mark[] = "\xEF\xBB\xBF";
    struct parser p = {.begin = text, .at = text, .end = text + size, .arena = a, .values = 1};
    struct json_node *n = size >= 3 && memcmp(text, mark, 3) == 0
                              ? fail(&p, "it begins with a byte order mark: leave that out")
                              : take_value(&p);
    if (n != NULL && (skip_space(&p), p.at < p.end))
        n = fail(&p, "something follows the value");
    if (n == NULL)
        return report(&p, info);
    if (p.has_escapes)
        write_strings(n);
    *out = n;
    return OK;
}

const struct json_node *json_member_of(const struct json_node *n, const char *name) {
    struct str wanted = str_of(name);
    if (n->kind != JSON_IS_OBJECT)
        return NULL;
    for (const struct json_node *m = n->first; m != NULL; m = m->next)
        if (str_equal(m->name, wanted))
            return m;
    return NULL;
}
