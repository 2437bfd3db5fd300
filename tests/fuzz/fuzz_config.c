/* The configuration file: the tree keeps its bounds, durations and sizes print to themselves, and
 * what is loaded keeps the table's promises and, given by environment instead, is the same. */
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "server/config.h"
#include "server/config_settings.h"
#include "server/config_yaml.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { DEPTH_MAX = 8, VARIABLES_MAX = 80 };

/* ---- the tree ---- */

/* What a document may read here: a file with a secret, and an empty one. */
#define SECRET_FILE "/proc/self/fd/900"
#define EMPTY_FILE "/dev/null"

static bool may_be_read(const struct yaml_node *n) {
    return n->kind != YAML_SCALAR || str_equal(n->scalar, STR(SECRET_FILE)) ||
           str_equal(n->scalar, STR(EMPTY_FILE));
}

/* Adds to *reads_files whether a key names another file: such a document is not loaded here. */
static void check_node(const struct yaml_node *n, int depth, size_t breaks_max, bool *reads_files) {
    ASSERT(depth <= DEPTH_MAX && n->line >= 1 && n->line <= breaks_max + 1);
    ASSERT(n->kind != YAML_SCALAR || n->count == 0);
    for (size_t i = 0; i < n->count; i++) {
        if (n->kind == YAML_MAP) {
            *reads_files = *reads_files ||
                           (str_ends_with(n->key[i], STR("_file")) && !may_be_read(n->child[i]));
            for (size_t k = 0; k < i; k++)
                ASSERT(!str_equal(n->key[i], n->key[k]));
        }
        check_node(n->child[i], depth + 1, breaks_max, reads_files);
    }
}

static bool is_loadable(struct str text, struct arena *a) {
    struct yaml_node *root = NULL;
    struct errinfo info = {0};
    bool reads_files = false;
    enum err e = yaml_parse(text, a, &root, &info);
    if (e == OK)
        check_node(root, 0, text.n, &reads_files); /* a line break has at least one byte */
    else
        ASSERT(e == ERR_INVALID && info.text[0] != '\0');
    return e == OK && !reads_files;
}

/* ---- single values ---- */

static void check_scalars(struct str text, struct arena *a) {
    int64_t n, again;
    if (config_parse_duration(text, &n) == OK) {
        ASSERT(n >= 0 && text.n > 0 && ascii_is_digit(text.p[0]));
        if (n <= INT64_MAX / 1024)
            ASSERT(config_parse_duration(arena_printf(a, "%lldms", (long long)n), &again) == OK &&
                   again == n);
    }
    if (config_parse_size(text, &n) == OK) {
        ASSERT(n >= 0 && text.n > 0 && ascii_is_digit(text.p[0]));
        if (n <= INT64_MAX / 1024)
            ASSERT(config_parse_size(arena_printf(a, "%lld", (long long)n), &again) == OK &&
                   again == n);
    }
}

/* ---- the whole ---- */

static const void *at(const struct config *c, const struct setting *st) {
    return (const char *)c + st->offset;
}

static void check_text(struct str s) {
    ASSERT(str_is_utf8(s) && !str_has_control(s, false));
}

static void check_setting(const struct config *c, const struct setting *st) {
    const struct config_list *list = at(c, st);
    switch (st->type) {
    case SETTING_TEXT:
    case SETTING_SECRET:
        check_text(*(const struct str *)at(c, st));
        return;
    case SETTING_LIST:
        for (size_t i = 0; i < list->count; i++) {
            check_text(list->list[i]);
            ASSERT(list->list[i].n > 0 && str_find_char(list->list[i], ',') < 0);
        }
        return;
    case SETTING_INTEGER:
    case SETTING_DURATION:
    case SETTING_SIZE:
        ASSERT(*(const int64_t *)at(c, st) >= st->least && *(const int64_t *)at(c, st) <= st->most);
        return;
    case SETTING_CHOICE: {
        struct str rest = str_of(st->unit_or_choices);
        for (int64_t i = *(const int64_t *)at(c, st); i >= 0; i--)
            ASSERT(!str_is_absent(str_split(&rest, '|')));
        return;
    }
    case SETTING_BOOL:
        return;
    }
}

static void check_declarations(const struct config *c) {
    for (size_t i = 0; i < c->route_count; i++) {
        const struct config_route *r = &c->routes[i];
        bool is_smarthost = str_equal(r->kind, STR("smarthost"));
        ASSERT(!str_is_absent(r->name) && is_smarthost == (r->smarthosts.count > 0));
        ASSERT(is_smarthost || str_equal(r->kind, STR("mx")) || str_equal(r->kind, STR("sandbox")));
        ASSERT(!str_equal(r->kind, STR("mx")) || str_find_char(c->hostname, '.') > 0);
        for (size_t k = 0; k < i; k++)
            ASSERT(!str_equal(r->name, c->routes[k].name));
    }
    for (size_t i = 0; i < c->key_count; i++)
        ASSERT(!str_is_absent(c->keys[i].name) && !str_is_absent(c->keys[i].secret));
    for (size_t i = 0; i < c->domain_count; i++)
        ASSERT(!str_is_absent(c->domains[i].name));
    for (size_t i = 0; i < c->webhook_count; i++)
        ASSERT(!str_is_absent(c->webhooks[i].url) && !str_is_absent(c->webhooks[i].secret));
}

static struct str print_value(const struct config *c, const struct setting *st, struct arena *a) {
    const struct config_list *list = at(c, st);
    long long number = st->type == SETTING_BOOL ? *(const bool *)at(c, st) : 0;
    struct str rest = str_of(st->unit_or_choices), value = STR("");
    switch (st->type) {
    case SETTING_TEXT:
    case SETTING_SECRET:
        return *(const struct str *)at(c, st);
    case SETTING_LIST:
        for (size_t i = 0; i < list->count; i++)
            value = arena_printf(a, "%.*s%.*s,", STR_ARG(value), STR_ARG(list->list[i]));
        return value;
    case SETTING_BOOL:
        return number ? STR("true") : STR("false");
    case SETTING_CHOICE:
        for (int64_t i = *(const int64_t *)at(c, st); i >= 0; i--)
            value = str_split(&rest, '|');
        return value;
    case SETTING_INTEGER:
    case SETTING_SIZE:
        return arena_printf(a, "%lld", (long long)*(const int64_t *)at(c, st));
    case SETTING_DURATION:
        return arena_printf(a, "%lldms", (long long)*(const int64_t *)at(c, st));
    }
    return value;
}

/* The environment takes white space off a text, the file keeps what was quoted. */
static bool is_trimmed(const struct config *c, const struct setting *st) {
    if (st->type != SETTING_TEXT && st->type != SETTING_SECRET)
        return true;
    struct str s = *(const struct str *)at(c, st);
    return str_trim(s).n == s.n;
}

static bool same_value(const struct config *c, const struct config *d, const struct setting *st) {
    const struct config_list *x = at(c, st), *y = at(d, st);
    switch (st->type) {
    case SETTING_TEXT:
    case SETTING_SECRET:
        return str_equal(*(const struct str *)at(c, st), *(const struct str *)at(d, st));
    case SETTING_LIST:
        for (size_t i = 0; x->count == y->count && i < x->count; i++)
            if (!str_equal(x->list[i], y->list[i]))
                return false;
        return x->count == y->count;
    case SETTING_BOOL:
        return *(const bool *)at(c, st) == *(const bool *)at(d, st);
    case SETTING_CHOICE:
    case SETTING_INTEGER:
    case SETTING_SIZE:
    case SETTING_DURATION:
        return *(const int64_t *)at(c, st) == *(const int64_t *)at(d, st);
    }
    return false;
}

/* What is loaded of nothing but a route, which must be said. */
static const struct config *usual_config(void) {
    static struct config *c;
    char route[] = "POSTCHUTE_ROUTE=sandbox", *env[] = {route, NULL};
    if (!c)
        ASSERT(config_load(env, &c, NULL) == OK);
    return c;
}

/* A variable that says what is so anyway is given by one input in 16 only: there are many. */
static void check_as_environment(const struct config *c, bool is_whole, struct arena *a) {
    char *env[VARIABLES_MAX + 1] = {NULL};
    size_t n = 0;
    ASSERT(config_settings_count <= VARIABLES_MAX);
    for (size_t i = 0; i < config_settings_count; i++) {
        const struct setting *st = &config_settings[i];
        if (!is_trimmed(c, st))
            return;
        if (!is_whole && same_value(c, usual_config(), st) && strcmp(st->name, "route") != 0)
            continue;
        struct str value = print_value(c, st, a);
        if (st->type == SETTING_SECRET && value.n == 0)
            continue; /* an empty variable is no way to have no secret */
        env[n++] = arena_dupz(a, arena_printf(a, "POSTCHUTE_%s=%.*s", st->name, STR_ARG(value)));
        for (char *p = env[n - 1]; *p != '='; p++)
            *p = *p >= 'a' && *p <= 'z' ? (char)(*p - 32) : *p;
    }
    struct config *again = NULL;
    struct errinfo info = {0};
    ASSERT(config_load(env, &again, &info) == OK);
    for (size_t i = 0; i < config_settings_count; i++)
        ASSERT(same_value(c, again, &config_settings[i]));
    config_unref(&again);
}

static void make_secret_file(void) {
    int fd = memfd_create("secret", MFD_CLOEXEC);
    ASSERT(fd >= 0 && write(fd, "s3cret\n", 7) == 7 && fchmod(fd, 0600) == 0);
    ASSERT(dup2(fd, 900) == 900);
    close(fd);
}

/* The file that is loaded. */
static char *make_file(struct str text) {
    static int fd = -1;
    static mode_t mode;
    static size_t size;
    static char variable[64];
    mode_t wanted = text.n % 4 == 0 ? 0644 : 0600; /* open to everybody: without secrets */
    if (fd < 0) {
        fd = memfd_create("config", MFD_CLOEXEC);
        snprintf(variable, sizeof variable, "POSTCHUTE_CONFIG=/proc/self/fd/%d", fd);
        make_secret_file();
    }
    ASSERT(fd >= 0 && (mode == wanted || fchmod(fd, wanted) == 0));
    ASSERT(pwrite(fd, text.p, text.n, 0) == (ssize_t)text.n);
    ASSERT(text.n >= size || ftruncate(fd, (off_t)text.n) == 0);
    mode = wanted;
    size = text.n;
    return variable;
}

/* A fault of what is declared names it, by any name. */
static void check_naming(struct errinfo info, struct str name) {
    const struct errinfo why = info;
    ASSERT(config_name_declaration(&info, ERR_INVALID, "route", name) == ERR_INVALID);
    ASSERT(str_starts_with(str_of(info.text), STR("route '")) &&
           strcmp(info.field, why.field) == 0);
}

static void check_load(struct str text, struct arena *a) {
    char *env[] = {make_file(text), NULL};
    struct config *c = NULL;
    struct errinfo info = {0};
    enum err e = config_load(env, &c, &info);
    if (e != OK) {
        ASSERT(e == ERR_INVALID && !c && info.text[0] != '\0');
        check_naming(info, text);
        return;
    }
    for (size_t i = 0; i < config_settings_count; i++)
        check_setting(c, &config_settings[i]);
    ASSERT(str_is_absent(c->tls_cert) == str_is_absent(c->tls_key));
    ASSERT(c->listen.count > 0 && c->max_request_bytes >= c->max_message_bytes);
    for (size_t i = 0; i < c->retry_after.count; i++) {
        int64_t ms = 0;
        ASSERT(config_parse_duration(c->retry_after.list[i], &ms) == OK && ms >= 100);
    }
    check_declarations(c);
    check_as_environment(c, text.n % 16 == 0, a);
    config_unref(&c);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct str text = str_make(data, size);
    static struct arena *a;
    if (!a)
        a = arena_new();
    arena_clear(a);
    check_scalars(text, a);
    if (size > 0 && is_loadable(text, a))
        check_load(text, a);
    return 0;
}
