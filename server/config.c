#include "server/config.h"

#include <stdatomic.h>
#include <stdlib.h>

#include "server/base/arena.h"
#include "server/base/limits.h"
#include "server/config_declare.h"
#include "server/config_file.h"
#include "server/config_settings.h"
#include "server/config_value.h"
#include "server/config_yaml.h"
#include "server/mail/domain.h"

enum { CONFIG_FILE_MAX = 1024 * 1024, SECRET_FILE_MAX = 64 * 1024, SETTINGS_MAX = 128 };
enum form { FORM_VALUE = 1, FORM_FILE = 2 }; /* NAME and NAME_FILE */

struct config_private {
    atomic_int refs;
    struct arena *arena;
    uint8_t forms[SETTINGS_MAX]; /* that the source being read has of each setting */
};

/* ---- the environment ---- */

/* At least `enough` as soon as it cannot be less. */
static size_t edit_distance(struct str a, struct str b, size_t enough) {
    size_t row[64];
    if (a.n >= 63 || b.n >= 63 || a.n >= b.n + enough || b.n >= a.n + enough)
        return enough;
    for (size_t j = 0; j <= b.n; j++)
        row[j] = j;
    for (size_t i = 1; i <= a.n; i++) {
        size_t diagonal = row[0], least = i;
        row[0] = i;
        for (size_t j = 1; j <= b.n; j++) {
            size_t best = diagonal + (a.p[i - 1] != b.p[j - 1]);
            diagonal = row[j];
            if (row[j] + 1 < best)
                best = row[j] + 1;
            if (row[j - 1] + 1 < best)
                best = row[j - 1] + 1;
            row[j] = best;
            if (best < least)
                least = best;
        }
        if (least >= enough)
            return enough;
    }
    return row[b.n];
}

static enum err unknown_setting(struct str lower, const char *shown, bool in_env,
                                struct errinfo *info) {
    const char *nearest = NULL;
    size_t best = lower.n < 4 ? lower.n : 4; /* another word altogether is no slip */
    for (size_t i = 0; i < config_settings_count; i++) {
        size_t d = edit_distance(lower, str_of(config_settings[i].name), best);
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

/* Of NAME and NAME_FILE in one source neither is the later one. */
static enum err take_form(struct config *c, const struct setting *st, enum form form,
                          const char *shown, struct errinfo *info) {
    size_t i = (size_t)(st - config_settings);
    ASSERT(i < SETTINGS_MAX);
    c->private_->forms[i] |= (uint8_t)form;
    if (c->private_->forms[i] != (FORM_VALUE | FORM_FILE))
        return OK;
    return err_set(info, ERR_INVALID, shown,
                   "is given as a value and as a file (%s and %s_file): leave one out", st->name,
                   st->name);
}

static enum err apply_file_variable(struct config *c, const struct setting *st, struct str path,
                                    const char *shown, struct errinfo *info) {
    struct buf content;
    bool is_open = false;
    enum err e = take_form(c, st, FORM_FILE, shown, info);
    if (e != OK)
        return e;
    e = config_read_file(path, SECRET_FILE_MAX, &content, &is_open, shown, info);
    struct str value = str_trim(buf_str(&content));
    bool is_secret = st->type == SETTING_SECRET || config_has_password(value);
    if (e == OK && is_secret && is_open)
        e = err_set(info, ERR_INVALID, shown, "%.*s can be read by everybody: chmod o-rwx it",
                    STR_ARG(path));
    else if (e == OK && value.n == 0)
        e = err_set(info, ERR_INVALID, shown, "%.*s is empty", STR_ARG(path));
    if (e == OK)
        e = config_set_value(c, c->private_->arena, st, value, shown, info);
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
        const struct setting *st = config_find_setting(key);
        enum err e;
        if (st) {
            e = take_form(c, st, FORM_VALUE, shown, info);
            if (e == OK)
                e = config_set_value(c, c->private_->arena, st, value, shown, info);
        } else if (str_ends_with(key, STR("_file")) &&
                   (st = config_find_setting(str_slice(key, 0, key.n - 5))) != NULL) {
            e = apply_file_variable(c, st, value, shown, info);
        } else {
            e = unknown_setting(key, shown, true, info);
        }
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
        return config_set_value(c, c->private_->arena, st, n->scalar, shown, info);
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
        e = config_set_value(c, c->private_->arena, st, buf_str(&joined), shown, info);
    buf_release(&joined);
    return e;
}

static enum err apply_yaml_line(struct config *c, struct str key, const struct yaml_node *n,
                                struct errinfo *info) {
    char shown[128];
    snprintf(shown, sizeof shown, "%.*s", STR_ARG(key));
    const struct setting *st = config_find_setting(key);
    if (st) {
        enum err e = take_form(c, st, FORM_VALUE, shown, info);
        return e == OK ? apply_yaml_setting(c, st, n, shown, info) : e;
    }
    if (str_ends_with(key, STR("_file")) && n->kind == YAML_SCALAR &&
        (st = config_find_setting(str_slice(key, 0, key.n - 5))) != NULL)
        return apply_file_variable(c, st, n->scalar, shown, info);
    if (config_declare_knows(key))
        return config_declare(c, c->private_->arena, key, n, info);
    return unknown_setting(key, shown, false, info);
}

/* A file that everybody can read must not hold a secret, as a file with nothing else in it must not
 * be readable. */
static enum err check_secrets(const struct yaml_node *root, bool is_open, struct errinfo *info) {
    struct str key = STR_NONE;
    const struct yaml_node *secret = is_open ? config_find_secret(root, &key) : NULL;
    if (!secret)
        return OK;
    char shown[128];
    snprintf(shown, sizeof shown, "%.*s", STR_ARG(key));
    return err_set(info, ERR_INVALID, shown,
                   "line %zu: is a secret, and everybody can read the file: chmod o-rwx it",
                   secret->line);
}

static enum err apply_yaml(struct config *c, struct str path, struct errinfo *info) {
    struct buf text;
    struct yaml_node *root = NULL;
    bool is_open = false;
    size_t line = 1;
    enum err e = config_read_file(path, CONFIG_FILE_MAX, &text, &is_open, "POSTCHUTE_CONFIG", info);
    bool is_read = e == OK;
    if (e == OK)
        e = yaml_parse(buf_str(&text), c->private_->arena, &root, info);
    if (e == OK && root->kind != YAML_MAP)
        e = err_set(info, ERR_INVALID, "POSTCHUTE_CONFIG",
                    "the file must hold `name: value` lines");
    if (e == OK)
        e = check_secrets(root, is_open, info);
    for (size_t i = 0; e == OK && i < root->count; i++) {
        line = root->child[i]->line;
        e = apply_yaml_line(c, root->key[i], root->child[i], info);
    }
    if (e != OK && is_read && info) {
        bool has_line = strncmp(info->text, "line ", 5) == 0;
        char at[32] = "";
        if (!has_line)
            snprintf(at, sizeof at, "line %zu: ", line);
        e = err_set(info, e, info->field, "%.*s: %s%s", STR_ARG(path), at, info->text);
    }
    buf_release_secret(&text);
    return e;
}

/* ---- what must fit together ---- */

/* A smarthost is content with a single label. */
static enum err read_hostname(struct config *c, struct errinfo *info) {
    struct errinfo why = {0};
    struct str name = STR_NONE;
    if (c->hostname.n == 0)
        return OK;
    if (domain_parse(c->hostname, true, c->private_->arena, &name, &why) != OK)
        return err_set(info, ERR_INVALID, "POSTCHUTE_HOSTNAME",
                       "expects this host's DNS name, as mail.example.org: %s", why.text);
    c->hostname = name;
    return OK;
}

static const struct config_route *find_mx_route(const struct config *c) {
    for (size_t i = 0; i < c->route_count; i++)
        if (str_equal(c->routes[i].kind, STR("mx")))
            return &c->routes[i];
    return NULL;
}

bool config_uses_mx(const struct config *c) {
    return str_equal(c->route, STR("mx")) || find_mx_route(c);
}

static bool is_full_name(struct str hostname, struct errinfo *why) {
    struct arena *a = arena_new();
    struct str name = STR_NONE;
    bool is = hostname.n > 0 && domain_parse(hostname, false, a, &name, why) == OK;
    arena_free(&a);
    return is;
}

/* RFC 5321 4.1.4 (C2): what we say in EHLO. */
enum err config_check_hostname(const struct config *c, struct errinfo *info) {
    struct errinfo why = {0};
    if (!config_uses_mx(c) || is_full_name(c->hostname, &why))
        return OK;
    const char *link = why.text[0] ? "; " : "";
    if (str_equal(c->route, STR("mx")))
        return err_set(info, ERR_INVALID, "POSTCHUTE_HOSTNAME",
                       "mail servers want a full name in EHLO: set it to this host's DNS name "
                       "(mail.example.org), or set POSTCHUTE_ROUTE to a smarthost%s%s",
                       link, why.text);
    return err_set(
        info, ERR_INVALID, "POSTCHUTE_HOSTNAME",
        "route '%.*s' has no smarthosts, and mail servers want a full name in EHLO: set "
        "it to this host's DNS name (mail.example.org), or give the route smarthosts%s%s",
        STR_ARG(find_mx_route(c)->name), link, why.text);
}

/* Nothing waits longer: it expires. */
static const int64_t RETRY_MAX_MS = (int64_t)LIMIT_EXPIRES_DAYS * 24 * 3600 * 1000;

static enum err check_together(struct config *c, struct errinfo *info) {
    if (str_is_absent(c->tls_cert) != str_is_absent(c->tls_key))
        return err_set(info, ERR_INVALID,
                       str_is_absent(c->tls_cert) ? "POSTCHUTE_TLS_CERT" : "POSTCHUTE_TLS_KEY",
                       "HTTPS needs both, a certificate and its key");
    if (c->listen.count == 0)
        return err_set(info, ERR_INVALID, "POSTCHUTE_LISTEN", "names no address");
    if (c->retry_after.count == 0)
        return err_set(info, ERR_INVALID, "POSTCHUTE_RETRY_AFTER", "names no duration");
    if (c->retry_after.count > LIMIT_RETRY_STEPS)
        return err_set(info, ERR_INVALID, "POSTCHUTE_RETRY_AFTER", "has more than %d durations",
                       (int)LIMIT_RETRY_STEPS);
    for (size_t i = 0; i < c->retry_after.count; i++) {
        int64_t ms;
        if (config_parse_duration(c->retry_after.list[i], &ms) != OK || ms < 100 ||
            ms > RETRY_MAX_MS)
            return err_set(info, ERR_INVALID, "POSTCHUTE_RETRY_AFTER",
                           "'%.*s' is not a duration of at least 100ms and at most %dd",
                           STR_ARG(c->retry_after.list[i]), (int)LIMIT_EXPIRES_DAYS);
    }
    enum err e = read_hostname(c, info);
    if (e != OK)
        return e;
    if (c->max_memory_bytes / LIMIT_REQUEST_COST < c->max_request_bytes)
        return err_set(info, ERR_INVALID, "POSTCHUTE_MAX_MEMORY",
                       "is less than %d times max_request_bytes, which is what one request takes",
                       (int)LIMIT_REQUEST_COST);
    if (c->max_request_bytes < c->max_message_bytes)
        return err_set(info, ERR_INVALID, "POSTCHUTE_MAX_REQUEST_BYTES",
                       "is smaller than max_message_bytes");
    return OK;
}

enum err config_load_lenient(char *const *env, struct config **out, struct errinfo *info) {
    struct config *c = mem_zalloc(sizeof *c);
    enum err e = OK;
    c->private_ = mem_zalloc(sizeof *c->private_);
    atomic_init(&c->private_->refs, 1);
    c->private_->arena = arena_new();
    for (size_t i = 0; i < config_settings_count && e == OK; i++)
        if (config_settings[i].type != SETTING_SECRET) /* none */
            e = config_set_value(c, c->private_->arena, &config_settings[i],
                                 str_of(config_settings[i].fallback), config_settings[i].name,
                                 info);
    ASSERT(e == OK); /* the table's own defaults */
    for (char *const *v = env; v && *v && e == OK; v++)
        if (str_starts_with(str_of(*v), STR("POSTCHUTE_CONFIG=")) && (*v)[17] != '\0')
            e = apply_yaml(c, str_of(*v + 17), info);
    memset(c->private_->forms, 0, sizeof c->private_->forms); /* another source may say it anew */
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

enum err config_load(char *const *env, struct config **out, struct errinfo *info) {
    struct config *c = NULL;
    enum err e = config_load_lenient(env, &c, info);
    if (e == OK)
        e = config_check_hostname(c, info);
    if (e == OK)
        *out = c;
    else
        config_unref(&c);
    return e;
}

struct config *config_ref(struct config *c) {
    atomic_fetch_add(&c->private_->refs, 1);
    return c;
}

void config_unref(struct config **cp) {
    struct config *c = *cp;
    *cp = NULL;
    if (!c || atomic_fetch_sub(&c->private_->refs, 1) != 1)
        return;
    arena_free_secret(&c->private_->arena);
    free(c->private_);
    free(c);
}
