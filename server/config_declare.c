#include "server/config_declare.h"

#include "server/config_file.h"
#include "server/delivery/route.h"
#include "server/intake/rights.h"

enum { SECRET_MAX = 64 * 1024 };

/* One field of a declared thing. */
struct field {
    const char *name;
    enum { FIELD_TEXT, FIELD_SECRET /* also NAME_file */, FIELD_LIST, FIELD_BOOL, FIELD_KEYS } type;
    size_t offset;
    bool required;
    const char *help;
};

static enum err fail(struct errinfo *info, const char *what, const struct yaml_node *n,
                     const char *field, const char *text) {
    char where[96];
    snprintf(where, sizeof where, "%s%s%s", what, *field ? "." : "", field);
    return err_set(info, ERR_INVALID, where, "line %zu: %s", n->line, text);
}

static enum err read_list(const struct yaml_node *n, struct arena *a, struct config_list *out) {
    out->count = 0;
    if (n->kind == YAML_SCALAR) {
        if (n->scalar.n == 0)
            return ERR_INVALID;
        out->list = ARENA_NEW(a, struct str);
        out->list[out->count++] = n->scalar;
        return OK;
    }
    if (n->kind != YAML_LIST)
        return ERR_INVALID;
    out->list = ARENA_ARRAY(a, struct str, n->count ? n->count : 1);
    for (size_t i = 0; i < n->count; i++) {
        if (n->child[i]->kind != YAML_SCALAR || n->child[i]->scalar.n == 0)
            return ERR_INVALID;
        out->list[out->count++] = n->child[i]->scalar;
    }
    return OK;
}

static enum err read_secret_file(struct str path, struct arena *a, const char *name,
                                 struct str *out, struct errinfo *info) {
    struct buf b;
    enum err e = config_read_secret_file(path, SECRET_MAX, &b, name, info);
    struct str text = str_trim(buf_str(&b));
    if (e == OK && text.n == 0)
        e = err_set(info, ERR_INVALID, name, "%.*s is empty", STR_ARG(path));
    if (e == OK)
        *out = arena_dup(a, text);
    buf_release_secret(&b);
    return e;
}

static enum err read_domain_keys(struct config_domain *d, struct arena *a,
                                 const struct yaml_node *n, struct errinfo *info) {
    if (n->kind != YAML_LIST)
        return fail(info, "domains", n, "dkim", "expects a list of {selector, key_file}");
    d->keys = ARENA_ARRAY(a, struct config_domain_key, n->count ? n->count : 1);
    for (size_t i = 0; i < n->count; i++) {
        const struct yaml_node *k = n->child[i];
        struct yaml_node *selector = yaml_find(k, "selector"), *file = yaml_find(k, "key_file");
        if (k->count != 2 || !selector || !file || selector->kind != YAML_SCALAR ||
            file->kind != YAML_SCALAR)
            return fail(info, "domains", k, "dkim", "expects exactly selector and key_file");
        d->keys[i].selector = selector->scalar;
        enum err e =
            read_secret_file(file->scalar, a, "domains.dkim.key_file", &d->keys[i].pem, info);
        if (e != OK)
            return e;
        d->key_count++;
    }
    return OK;
}

static enum err set_field(void *at, const struct field *f, struct arena *a, const char *what,
                          const struct yaml_node *n, struct errinfo *info) {
    switch (f->type) {
    case FIELD_TEXT:
    case FIELD_SECRET:
        if (n->kind != YAML_SCALAR)
            return fail(info, what, n, f->name, "expects text");
        *(struct str *)at = n->scalar.n ? n->scalar : STR_NONE;
        return OK;
    case FIELD_LIST:
        if (read_list(n, a, at) != OK)
            return fail(info, what, n, f->name, "expects a list of texts");
        return OK;
    case FIELD_BOOL:
        if (n->kind != YAML_SCALAR ||
            (!str_equal(n->scalar, STR("true")) && !str_equal(n->scalar, STR("false"))))
            return fail(info, what, n, f->name, "expects true or false");
        *(bool *)at = str_equal(n->scalar, STR("true"));
        return OK;
    case FIELD_KEYS:
        return read_domain_keys(at, a, n, info);
    }
    return ERR_INTERNAL;
}

static enum err read_thing(void *thing, const struct field *fields, size_t count, struct arena *a,
                           const char *what, const struct yaml_node *n, struct errinfo *info) {
    if (n->kind != YAML_MAP)
        return fail(info, what, n, "", "expects `name: value` lines");
    for (size_t i = 0; i < n->count; i++) {
        const struct field *f = NULL;
        bool is_file = false;
        for (size_t k = 0; k < count && !f; k++) {
            char file[64];
            snprintf(file, sizeof file, "%s_file", fields[k].name);
            is_file = fields[k].type == FIELD_SECRET && str_equal(n->key[i], str_of(file));
            if (is_file || str_equal(n->key[i], str_of(fields[k].name)))
                f = &fields[k];
        }
        char shown[64];
        snprintf(shown, sizeof shown, "%.*s", STR_ARG(n->key[i]));
        if (!f)
            return fail(info, what, n->child[i], shown, "there is no such field");
        void *at = f->type == FIELD_KEYS ? thing : (char *)thing + f->offset;
        enum err e;
        if (f->type == FIELD_SECRET && !str_is_absent(*(struct str *)at))
            return fail(info, what, n->child[i], shown, "is given as a value and as a file");
        if (is_file && n->child[i]->kind == YAML_SCALAR)
            e = read_secret_file(n->child[i]->scalar, a, shown, at, info);
        else
            e = set_field(at, f, a, what, n->child[i], info);
        if (e != OK)
            return e;
    }
    for (size_t k = 0; k < count; k++)
        if (fields[k].required &&
            str_is_absent(*(struct str *)(void *)((char *)thing + fields[k].offset)))
            return fail(info, what, n, fields[k].name, "is required");
    return OK;
}

static const struct field route_fields[] = {
    {"name", FIELD_TEXT, offsetof(struct config_route, name), true,
     "what messages ask for it by (`route`)"},
    {"kind", FIELD_TEXT, offsetof(struct config_route, kind), false,
     "mx, smarthost or sandbox; left out: smarthost when it has smarthosts, else mx"},
    {"smarthosts", FIELD_LIST, offsetof(struct config_route, smarthosts), false,
     "smtp://[user:password@]host[:port], or smtps://, each with parameters (below) behind a ?"},
    {"require_verified_domain", FIELD_BOOL, offsetof(struct config_route, require_verified_domain),
     false, "accepts only From domains whose DNS was verified (MX routes always do)"},
    {"sign", FIELD_BOOL, offsetof(struct config_route, sign), false,
     "false: what takes it has no DKIM signature; left out: true"},
    {"sender_domains", FIELD_LIST, offsetof(struct config_route, sender_domains), false,
     "taken by mail From these domains; *.example.org is each one below"},
    {"recipient_domains", FIELD_LIST, offsetof(struct config_route, recipient_domains), false,
     "taken by mail to these domains; with sender_domains both must fit, with neither only "
     "messages that ask for it take it"},
};
static const struct field key_fields[] = {
    {"name", FIELD_TEXT, offsetof(struct config_key, name), true, "what it is listed by"},
    {"secret", FIELD_SECRET, offsetof(struct config_key, secret), true,
     "the key, as `postchute key generate` prints it"},
    {"scopes", FIELD_LIST, offsetof(struct config_key, scopes), false,
     "of send, read, manage and admin; left out: send"},
    {"from_domains", FIELD_LIST, offsetof(struct config_key, from_domains), false,
     "it may send From these domains alone; *.example.org is each one below"},
    {"rate", FIELD_TEXT, offsetof(struct config_key, rate), false,
     "requests a minute; left out: no limit"},
};
static const struct field domain_fields[] = {
    {"name", FIELD_TEXT, offsetof(struct config_domain, name), true, "a domain to sign for"},
    {"bounce_address", FIELD_TEXT, offsetof(struct config_domain, bounce_address), false,
     "where bounces of its mail go (MAIL FROM)"},
    {"dkim", FIELD_KEYS, 0, false,
     "its keys, each {selector, key_file}, the file in PEM; left out: a pair is made once"},
};
static const struct field webhook_fields[] = {
    {"url", FIELD_TEXT, offsetof(struct config_webhook, url), true, "where events are posted to"},
    {"secret", FIELD_SECRET, offsetof(struct config_webhook, secret), true,
     "what they are signed with, whsec_ and base64"},
    {"events", FIELD_LIST, offsetof(struct config_webhook, events), false,
     "which: names of events, final, undelivered, or * for all; left out: all"},
    {"description", FIELD_TEXT, offsetof(struct config_webhook, description), false, "for people"},
};

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

/* A list of things of one kind, each `size` bytes. */
static enum err read_things(void **out, size_t *out_count, size_t size, const struct field *fields,
                            size_t count, struct arena *a, const char *what,
                            const struct yaml_node *n, struct errinfo *info) {
    if (n->kind != YAML_LIST)
        return fail(info, what, n, "", "expects a list");
    char *things = arena_alloc(a, size * (n->count ? n->count : 1));
    *out = things;
    for (size_t i = 0; i < n->count; i++) {
        enum err e = read_thing(things + i * size, fields, count, a, what, n->child[i], info);
        if (e != OK)
            return e;
        *out_count = i + 1;
    }
    return OK;
}

/* As they are compared: intake and delivery, each with code of its own, must choose the same route.
 */
static enum err parse_rules(struct config_list *l, struct arena *a, const struct yaml_node *n,
                            const char *field, struct errinfo *info) {
    for (size_t i = 0; i < l->count; i++) {
        struct errinfo why = {0};
        if (rights_rule_parse(l->list[i], a, &l->list[i], &why) != OK)
            return fail(info, "routes", n, field, why.text);
    }
    return OK;
}

static enum err check_route(struct config_route *r, struct arena *a, const struct yaml_node *n,
                            struct errinfo *info) {
    if (str_is_absent(r->kind))
        r->kind = r->smarthosts.count ? STR("smarthost") : STR("mx");
    bool is_smarthost = str_equal(r->kind, STR("smarthost"));
    if (!is_smarthost && !str_equal(r->kind, STR("mx")) && !str_equal(r->kind, STR("sandbox")))
        return fail(info, "routes", n, "kind", "expects mx, smarthost or sandbox");
    if (is_smarthost != (r->smarthosts.count > 0))
        return fail(info, "routes", n, "smarthosts",
                    "belongs to the kind smarthost, which needs it");
    if (!yaml_find(n, "sign"))
        r->sign = true;
    enum err e = parse_rules(&r->sender_domains, a, n, "sender_domains", info);
    return e == OK ? parse_rules(&r->recipient_domains, a, n, "recipient_domains", info) : e;
}

static const struct {
    const char *name;
    const struct field *fields;
    size_t count;
} kinds[] = {
    {"routes", route_fields, COUNT(route_fields)},
    {"keys", key_fields, COUNT(key_fields)},
    {"domains", domain_fields, COUNT(domain_fields)},
    {"webhooks", webhook_fields, COUNT(webhook_fields)},
};

bool config_declare_knows(struct str key) {
    for (size_t i = 0; i < COUNT(kinds); i++)
        if (str_equal(key, str_of(kinds[i].name)))
            return true;
    return false;
}

enum err config_declare(struct config *c, struct arena *a, struct str key,
                        const struct yaml_node *node, struct errinfo *info) {
    if (str_equal(key, STR("keys")))
        return read_things((void **)&c->keys, &c->key_count, sizeof *c->keys, key_fields,
                           COUNT(key_fields), a, "keys", node, info);
    if (str_equal(key, STR("domains")))
        return read_things((void **)&c->domains, &c->domain_count, sizeof *c->domains,
                           domain_fields, COUNT(domain_fields), a, "domains", node, info);
    if (str_equal(key, STR("webhooks")))
        return read_things((void **)&c->webhooks, &c->webhook_count, sizeof *c->webhooks,
                           webhook_fields, COUNT(webhook_fields), a, "webhooks", node, info);
    enum err e = read_things((void **)&c->routes, &c->route_count, sizeof *c->routes, route_fields,
                             COUNT(route_fields), a, "routes", node, info);
    for (size_t i = 0; e == OK && i < c->route_count; i++) {
        e = check_route(&c->routes[i], a, node->child[i], info);
        for (size_t k = 0; k < i && e == OK; k++)
            if (str_equal(c->routes[i].name, c->routes[k].name))
                e = fail(info, "routes", node->child[i], "name", "stands twice");
    }
    return e;
}

enum err config_name_declaration(struct errinfo *info, enum err e, const char *kind,
                                 struct str name) {
    if (info == NULL)
        return e;
    const struct errinfo why = *info;
    return err_set(info, e, why.field, "%s '%.*s': %s", kind, STR_ARG(name), why.text);
}

/* ---- help ---- */

/* "text" or the like, in the words of the table of settings. */
static void print_value(const struct field *f, const char *tick, struct buf *out) {
    static const char *const values[] = {[FIELD_TEXT] = "text",
                                         [FIELD_SECRET] = "text, or ",
                                         [FIELD_LIST] = "list",
                                         [FIELD_BOOL] = "true or false",
                                         [FIELD_KEYS] = "list"};
    buf_putz(out, values[f->type]);
    if (f->type == FIELD_SECRET)
        buf_printf(out, "%s%s_file%s", tick, f->name, tick);
    if (f->required)
        buf_putz(out, "; required");
}

static void print_row(enum config_help form, const char *name, const struct field *f,
                      const char *help, struct buf *out) {
    bool is_table = form == CONFIG_HELP_MARKDOWN;
    buf_printf(out, is_table ? "| `%s` | " : "  %s (", name);
    if (f)
        print_value(f, is_table ? "`" : "", out);
    else
        buf_putz(out, "parameter");
    buf_printf(out, is_table ? " | %s |\n" : ")\n      %s\n", help);
}

void config_declare_print(enum config_help form, struct buf *out) {
    char name[64];
    buf_putz(out, "\nThe YAML file alone has lists of declarations, too (the parameters of a "
                  "smarthost are those of POSTCHUTE_ROUTE as well):\n\n");
    if (form == CONFIG_HELP_MARKDOWN)
        buf_putz(out, "| declaration | value | what |\n|---|---|---|\n");
    for (size_t k = 0; k < COUNT(kinds); k++)
        for (size_t i = 0; i < kinds[k].count; i++) {
            const struct field *f = &kinds[k].fields[i];
            snprintf(name, sizeof name, "%s.%s", kinds[k].name, f->name);
            print_row(form, name, f, f->help, out);
        }
    for (size_t i = 0; i < smarthost_parameter_count; i++) {
        snprintf(name, sizeof name, "smtp://...?%s=", smarthost_parameters[i].name.p);
        print_row(form, name, NULL, smarthost_parameters[i].help, out);
    }
}
