#include "server/config.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <sys/stat.h>
#include <unistd.h>

#include "server/base/arena.h"
#include "server/config_declare.h"
#include "server/config_settings.h"
#include "server/config_yaml.h"

enum { CONFIG_FILE_MAX = 1024 * 1024, SECRET_FILE_MAX = 64 * 1024 };

struct config_private {
    atomic_int refs;
    struct arena *arena;
};

/* ---- single values ---- */

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

static enum err parse_list(struct str s, struct arena *a, struct config_list *out) {
    size_t most = 1;
    for (size_t i = 0; i < s.n; i++)
        most += s.p[i] == ',';
    out->list = ARENA_ARRAY(a, struct str, most);
    out->count = 0;
    for (struct str rest = s; !str_is_absent(rest);) {
        struct str item = str_trim(str_split(&rest, ','));
        if (item.n)
            out->list[out->count++] = arena_dup(a, item);
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

static enum err set_value(struct config *c, const struct setting *st, struct str v,
                          const char *name, struct errinfo *info) {
    char *at = (char *)c + st->offset;
    struct arena *a = c->private_->arena;
    int64_t number = 0;
    uint64_t u = 0;
    if (str_has_control(v, false) || !str_is_utf8(v))
        return err_set(info, ERR_INVALID, name, "must be one line of UTF-8 text");
    switch (st->type) {
    case SETTING_TEXT:
    case SETTING_SECRET:
        *(struct str *)(void *)at = v.n ? arena_dup(a, v) : STR_NONE;
        return OK;
    case SETTING_LIST:
        return parse_list(v, a, (struct config_list *)(void *)at);
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

/* ---- files ---- */

static enum err read_descriptor(int fd, size_t most, struct buf *out, const char *name,
                                const char *path, struct errinfo *info) {
    for (;;) {
        char *room = buf_reserve(out, 4096);
        if (!room)
            return err_set(info, ERR_INVALID, name, "%s: larger than %zu bytes", path, most);
        ssize_t n = read(fd, room, 4096);
        if (n < 0)
            return err_set(info, ERR_INVALID, name, "%s: %s", path, strerror(errno));
        if (n == 0)
            return OK;
        buf_advance(out, (size_t)n);
    }
}

/* Where container engines put secrets: with mode 0444, in a file system that only the container
 * has, and nobody can change it there. */
static bool is_container_secret(struct str path) {
    return str_starts_with(path, STR("/run/secrets/")) && str_find(path, STR("..")) < 0;
}

enum err config_read_file(struct str path, size_t most, bool secret, struct buf *out,
                          const char *name, struct errinfo *info) {
    char *z = str_dupz(path);
    enum err e = OK;
    struct stat st;
    int fd = open(z, O_RDONLY | O_CLOEXEC);
    buf_init(out, most + 4096);
    if (fd < 0 || fstat(fd, &st) != 0)
        e = err_set(info, ERR_INVALID, name, "%s: %s", z, strerror(errno));
    else if (!S_ISREG(st.st_mode) && !S_ISFIFO(st.st_mode))
        e = err_set(info, ERR_INVALID, name, "%s is not a file", z);
    else if (secret && (st.st_mode & (S_IROTH | S_IWOTH)) && !is_container_secret(path))
        e = err_set(info, ERR_INVALID, name, "%s can be read by everybody: chmod o-rwx it", z);
    else
        e = read_descriptor(fd, most, out, name, z, info);
    if (fd >= 0)
        close(fd);
    free(z);
    return e;
}

/* ---- the environment ---- */

static const struct setting *find_setting(struct str lower) {
    for (size_t i = 0; i < config_settings_count; i++)
        if (str_equal(str_of(config_settings[i].name), lower))
            return &config_settings[i];
    return NULL;
}

static size_t edit_distance(struct str a, struct str b) {
    size_t row[64];
    if (a.n >= 63 || b.n >= 63)
        return 63;
    for (size_t j = 0; j <= b.n; j++)
        row[j] = j;
    for (size_t i = 1; i <= a.n; i++) {
        size_t diagonal = row[0];
        row[0] = i;
        for (size_t j = 1; j <= b.n; j++) {
            size_t best = diagonal + (a.p[i - 1] != b.p[j - 1]);
            diagonal = row[j];
            if (row[j] + 1 < best)
                best = row[j] + 1;
            if (row[j - 1] + 1 < best)
                best = row[j - 1] + 1;
            row[j] = best;
        }
    }
    return row[b.n];
}

static enum err unknown_setting(struct str lower, const char *shown, bool in_env,
                                struct errinfo *info) {
    const char *nearest = NULL;
    size_t best = 4;
    for (size_t i = 0; i < config_settings_count; i++) {
        size_t d = edit_distance(lower, str_of(config_settings[i].name));
        if (d < best) {
            best = d;
            nearest = config_settings[i].name;
        }
    }
    if (!nearest)
        return err_set(info, ERR_INVALID, shown,
                       "there is no such setting; `postchute help settings` lists them");
    char upper[64];
    size_t n = strlen(nearest);
    for (size_t i = 0; i <= n && i < sizeof upper; i++)
        upper[i] =
            in_env && nearest[i] >= 'a' && nearest[i] <= 'z' ? (char)(nearest[i] - 32) : nearest[i];
    return err_set(info, ERR_INVALID, shown, "there is no such setting; did you mean %s%s?",
                   in_env ? "POSTCHUTE_" : "", upper);
}

static enum err apply_file_variable(struct config *c, const struct setting *st, struct str path,
                                    const char *shown, struct errinfo *info) {
    struct buf content;
    enum err e =
        config_read_file(path, SECRET_FILE_MAX, st->type == SETTING_SECRET, &content, shown, info);
    if (e == OK)
        e = set_value(c, st, str_trim(buf_str(&content)), shown, info);
    buf_release_secret(&content);
    return e;
}

static enum err apply_environment(struct config *c, char *const *env, struct errinfo *info) {
    for (; env && *env; env++) {
        struct str value = str_of(*env);
        struct str name = str_split(&value, '=');
        if (!str_starts_with(name, STR("POSTCHUTE_")) || str_is_absent(value))
            continue;
        struct str bare = str_from(name, strlen("POSTCHUTE_"));
        if (config_is_foreign_variable(bare))
            continue;
        char shown[128], lower[128];
        snprintf(shown, sizeof shown, "%.*s", STR_ARG(name));
        size_t n = bare.n < sizeof lower - 1 ? bare.n : sizeof lower - 1;
        for (size_t i = 0; i < n; i++)
            lower[i] = ascii_lower(bare.p[i]);
        struct str key = str_make(lower, n);
        const struct setting *st = find_setting(key);
        enum err e;
        if (st)
            e = set_value(c, st, str_trim(value), shown, info);
        else if (str_ends_with(key, STR("_file")) &&
                 (st = find_setting(str_slice(key, 0, key.n - 5))) != NULL)
            e = apply_file_variable(c, st, value, shown, info);
        else
            e = unknown_setting(key, shown, true, info);
        if (e != OK)
            return e;
    }
    return OK;
}

/* ---- the file ---- */

static enum err apply_yaml_setting(struct config *c, const struct setting *st,
                                   const struct yaml_node *n, const char *shown,
                                   struct errinfo *info) {
    if (n->kind == YAML_SCALAR)
        return set_value(c, st, n->scalar, shown, info);
    if (n->kind != YAML_LIST || st->type != SETTING_LIST)
        return err_set(info, ERR_INVALID, shown, "line %zu: expects one value", n->line);
    struct buf joined = BUF_INIT(CONFIG_FILE_MAX);
    enum err e = OK;
    for (size_t i = 0; i < n->count && e == OK; i++) {
        if (n->child[i]->kind != YAML_SCALAR)
            e = err_set(info, ERR_INVALID, shown, "line %zu: expects text", n->child[i]->line);
        buf_put(&joined, n->child[i]->scalar);
        buf_putc(&joined, ',');
    }
    if (e == OK)
        e = set_value(c, st, buf_str(&joined), shown, info);
    buf_release(&joined);
    return e;
}

static enum err apply_yaml(struct config *c, struct str path, struct errinfo *info) {
    struct buf text;
    struct yaml_node *root = NULL;
    enum err e = config_read_file(path, CONFIG_FILE_MAX, false, &text, "POSTCHUTE_CONFIG", info);
    if (e == OK)
        e = yaml_parse(buf_str(&text), c->private_->arena, &root, info);
    if (e == OK && root->kind != YAML_MAP)
        e = err_set(info, ERR_INVALID, "POSTCHUTE_CONFIG",
                    "the file must hold `name: value` lines");
    for (size_t i = 0; e == OK && i < root->count; i++) {
        char shown[128];
        snprintf(shown, sizeof shown, "%.*s", STR_ARG(root->key[i]));
        const struct setting *st = find_setting(root->key[i]);
        struct str key = root->key[i];
        if (st)
            e = apply_yaml_setting(c, st, root->child[i], shown, info);
        else if (str_ends_with(key, STR("_file")) && root->child[i]->kind == YAML_SCALAR &&
                 (st = find_setting(str_slice(key, 0, key.n - 5))) != NULL)
            e = apply_file_variable(c, st, root->child[i]->scalar, shown, info);
        else if (config_declare_knows(key))
            e = config_declare(c, c->private_->arena, key, root->child[i], info);
        else
            e = unknown_setting(key, shown, false, info);
    }
    buf_release_secret(&text);
    return e;
}

/* ---- what must fit together ---- */

static enum err check_together(struct config *c, struct errinfo *info) {
    if (str_is_absent(c->tls_cert) != str_is_absent(c->tls_key))
        return err_set(info, ERR_INVALID,
                       str_is_absent(c->tls_cert) ? "POSTCHUTE_TLS_CERT" : "POSTCHUTE_TLS_KEY",
                       "HTTPS needs both, a certificate and its key");
    if (c->listen.count == 0)
        return err_set(info, ERR_INVALID, "POSTCHUTE_LISTEN", "names no address");
    if (c->retry_after.count == 0)
        return err_set(info, ERR_INVALID, "POSTCHUTE_RETRY_AFTER", "names no duration");
    for (size_t i = 0; i < c->retry_after.count; i++) {
        int64_t ms;
        if (config_parse_duration(c->retry_after.list[i], &ms) != OK || ms < 100)
            return err_set(info, ERR_INVALID, "POSTCHUTE_RETRY_AFTER",
                           "'%.*s' is not a duration of at least 100ms",
                           STR_ARG(c->retry_after.list[i]));
    }
    bool wants_mx = str_equal(c->route, STR("mx"));
    for (size_t i = 0; i < c->route_count; i++)
        wants_mx = wants_mx || str_equal(c->routes[i].kind, STR("mx"));
    bool is_fqdn = !str_is_absent(c->hostname) && str_find_char(c->hostname, '.') > 0;
    if (wants_mx && !is_fqdn)
        return err_set(info, ERR_INVALID, "POSTCHUTE_HOSTNAME",
                       "mail servers want a full name in EHLO: set it to this host's DNS name "
                       "(mail.example.org), or set POSTCHUTE_ROUTE to a smarthost");
    if (c->max_request_bytes < c->max_message_bytes)
        return err_set(info, ERR_INVALID, "POSTCHUTE_MAX_REQUEST_BYTES",
                       "is smaller than max_message_bytes");
    return OK;
}

enum err config_load(char *const *env, struct config **out, struct errinfo *info) {
    struct config *c = mem_zalloc(sizeof *c);
    enum err e = OK;
    c->private_ = mem_zalloc(sizeof *c->private_);
    atomic_init(&c->private_->refs, 1);
    c->private_->arena = arena_new();
    for (size_t i = 0; i < config_settings_count && e == OK; i++)
        e = set_value(c, &config_settings[i], str_of(config_settings[i].fallback),
                      config_settings[i].name, info);
    ASSERT(e == OK); /* the table's own defaults */
    for (char *const *v = env; v && *v && e == OK; v++)
        if (str_starts_with(str_of(*v), STR("POSTCHUTE_CONFIG=")) && (*v)[17] != '\0')
            e = apply_yaml(c, str_of(*v + 17), info);
    if (e == OK)
        e = apply_environment(c, env, info);
    if (e == OK)
        e = check_together(c, info);
    if (e != OK) {
        config_unref(&c);
        return e;
    }
    *out = c;
    return OK;
}

struct config *config_ref(struct config *c) {
    atomic_fetch_add(&c->private_->refs, 1);
    return c;
}

static void wipe(struct str s) {
    if (s.n)
        explicit_bzero((void *)(uintptr_t)s.p, s.n);
}

void config_unref(struct config **cp) {
    struct config *c = *cp;
    *cp = NULL;
    if (!c || atomic_fetch_sub(&c->private_->refs, 1) != 1)
        return;
    wipe(c->admin_key);
    wipe(c->send_key);
    for (size_t i = 0; i < c->key_count; i++)
        wipe(c->keys[i].secret);
    for (size_t i = 0; i < c->domain_count; i++)
        for (size_t k = 0; k < c->domains[i].key_count; k++)
            wipe(c->domains[i].keys[k].pem);
    for (size_t i = 0; i < c->webhook_count; i++)
        wipe(c->webhooks[i].secret);
    arena_free(&c->private_->arena);
    free(c->private_);
    free(c);
}

/* ---- help ---- */

void config_print_settings(enum config_help form, struct buf *out) {
    if (form == CONFIG_HELP_MARKDOWN)
        buf_putz(out, "| setting | default | value | what |\n|---|---|---|---|\n");
    for (size_t i = 0; i < config_settings_count; i++) {
        const struct setting *s = &config_settings[i];
        char env[96] = "POSTCHUTE_";
        size_t n = strlen(env);
        for (const char *p = s->name; *p && n < sizeof env - 1; p++, n++)
            env[n] = *p >= 'a' && *p <= 'z' ? (char)(*p - 32) : *p;
        env[n] = '\0';
        if (form == CONFIG_HELP_MARKDOWN) {
            buf_printf(out, "| `%s` | %s%s%s | ", env, *s->fallback ? "`" : "", s->fallback,
                       *s->fallback ? "`" : "");
            for (const char *p = s->unit_or_choices; *p; p++)
                buf_putz(out, *p == '|' ? " or " : (char[]){*p, '\0'});
            buf_printf(out, " | %s |\n", s->help);
        } else {
            buf_printf(out, "  %s\n      %s", env, s->help);
            if (*s->unit_or_choices)
                buf_printf(out, " (%s)", s->unit_or_choices);
            buf_printf(out, "\n      default: %s\n", *s->fallback ? s->fallback : "none");
        }
    }
}
