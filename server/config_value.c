#include "server/config_value.h"

#include "server/base/arena.h"

static enum err parse_scaled(struct str s, const char *const *units, const int64_t *scale,
                             size_t count, int64_t bare, int64_t *out) {
    size_t digits = 0;
    uint64_t value = 0;
    while (digits < s.n && ascii_is_digit(s.p[digits]))
        digits++;
    if (str_parse_u64(str_slice(s, 0, digits), INT64_MAX / 1024, &value) != OK)
        return ERR_INVALID;
    struct str unit = str_trim(str_from(s, digits));
    int64_t factor = unit.n ? 0 : bare;
    for (size_t i = 0; i < count && unit.n; i++)
        if (str_equal_nocase(unit, str_of(units[i])))
            factor = scale[i];
    if (factor == 0 || (int64_t)value > INT64_MAX / factor)
        return ERR_INVALID;
    *out = (int64_t)value * factor;
    return OK;
}

enum err config_parse_duration(struct str s, int64_t *ms) {
    static const char *const units[] = {"ms", "s", "m", "h", "d"};
    static const int64_t scale[] = {1, 1000, 60000, 3600000, 86400000};
    return parse_scaled(s, units, scale, 5, 1000, ms);
}

enum err config_parse_size(struct str s, int64_t *bytes) {
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "k", "M", "G"};
    static const int64_t scale[] = {1, 1 << 10, 1 << 20, 1 << 30, 1 << 10, 1 << 20, 1 << 30};
    return parse_scaled(s, units, scale, 7, 1, bytes);
}

static enum err parse_choice(struct str s, const char *choices, int64_t *out) {
    struct str rest = str_of(choices);
    for (int64_t i = 0; !str_is_absent(rest); i++)
        if (str_equal(str_split(&rest, '|'), s)) {
            *out = i;
            return OK;
        }
    return ERR_INVALID;
}

/* ERR_INVALID: a comma with nothing before it. One at the end is a habit and says nothing. */
static enum err parse_list(struct str s, struct arena *a, struct config_list *out) {
    size_t most = 1;
    for (size_t i = 0; i < s.n; i++)
        most += s.p[i] == ',';
    out->list = ARENA_ARRAY(a, struct str, most);
    out->count = 0;
    for (struct str rest = s; !str_is_absent(rest);) {
        struct str item = str_trim(str_split(&rest, ','));
        if (item.n > 0)
            out->list[out->count++] = arena_dup(a, item);
        else if (!str_is_absent(rest))
            return ERR_INVALID;
    }
    return OK;
}

static enum err set_number(const struct setting *st, int64_t v, const char *what, int64_t *at,
                           const char *name, struct errinfo *info) {
    if (v < st->least || v > st->most)
        return err_set(info, ERR_INVALID, name, "out of range: %s from %lld to %lld%s", what,
                       (long long)st->least, (long long)st->most,
                       st->type == SETTING_DURATION ? " ms" : "");
    *at = v;
    return OK;
}

/* Empty is a value where "none" is one, which the default says; elsewhere somebody's variable was
 * not set, and what would be used instead is not what was meant. */
static bool may_be_empty(const struct setting *st) {
    return st->type != SETTING_SECRET && !*st->fallback;
}

enum err config_set_value(struct config *c, struct arena *a, const struct setting *st, struct str v,
                          const char *name, struct errinfo *info) {
    char *at = (char *)c + st->offset;
    int64_t number = 0;
    uint64_t u = 0;
    v = str_trim(v);
    if (str_has_control(v, false) || !str_is_utf8(v))
        return err_set(info, ERR_INVALID, name, "must be one line of UTF-8 text");
    switch (st->type) {
    case SETTING_TEXT:
    case SETTING_SECRET:
        if (v.n == 0 && !may_be_empty(st))
            return err_set(info, ERR_INVALID, name, "is empty; leave it out to have %s%s",
                           *st->fallback ? "the default, " : "none", st->fallback);
        *(struct str *)(void *)at = v.n ? arena_dup(a, v) : STR_NONE;
        return OK;
    case SETTING_LIST:
        if (parse_list(v, a, (struct config_list *)(void *)at) != OK)
            return err_set(info, ERR_INVALID, name, "a comma has nothing before it");
        if (((struct config_list *)(void *)at)->count == 0 && !may_be_empty(st))
            return err_set(info, ERR_INVALID, name,
                           "is empty; leave it out to have the default, %s", st->fallback);
        return OK;
    case SETTING_BOOL:
        if (parse_choice(v, "false|true", &number) != OK &&
            parse_choice(v, "no|yes", &number) != OK && parse_choice(v, "0|1", &number) != OK)
            return err_set(info, ERR_INVALID, name, "expects true or false");
        *(bool *)at = number != 0;
        return OK;
    case SETTING_CHOICE:
        if (parse_choice(v, st->unit_or_choices, (int64_t *)(void *)at) != OK)
            return err_set(info, ERR_INVALID, name, "expects one of %s", st->unit_or_choices);
        return OK;
    case SETTING_INTEGER:
        if (str_parse_u64(v, INT64_MAX, &u) != OK)
            return err_set(info, ERR_INVALID, name, "expects a whole number from %lld to %lld",
                           (long long)st->least, (long long)st->most);
        return set_number(st, (int64_t)u, "a whole number", (int64_t *)(void *)at, name, info);
    case SETTING_DURATION:
        if (config_parse_duration(v, &number) != OK)
            return err_set(info, ERR_INVALID, name,
                           "expects a duration such as 500ms, 30s, 5m, 48h, 7d");
        return set_number(st, number, "a duration", (int64_t *)(void *)at, name, info);
    case SETTING_SIZE:
        if (config_parse_size(v, &number) != OK)
            return err_set(info, ERR_INVALID, name,
                           "expects a size such as 4096, 64KiB, 25MiB, 1GiB");
        return set_number(st, number, "a size in bytes", (int64_t *)(void *)at, name, info);
    }
    return ERR_INTERNAL;
}
