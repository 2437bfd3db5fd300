/* The snapshot of intake's settings: a deep copy that requests hold while they run. */
#include <stdatomic.h>
#include <stdlib.h>

#include "server/intake/settings.h"

struct intake {
    atomic_int refs;
    struct arena *arena;
    struct intake_settings settings;
};

static struct str_list copy_list(struct arena *a, const struct str_list *from) {
    struct str_list to = {.list = ARENA_ARRAY(a, struct str, from->count + 1),
                          .count = from->count};
    for (size_t i = 0; i < from->count; i++)
        to.list[i] = arena_dup(a, from->list[i]);
    return to;
}

/* Domain rules in the form in which they are compared. */
static enum err copy_rules(struct arena *a, const struct str_list *from, struct str_list *to,
                           const char *what, struct errinfo *info) {
    *to = copy_list(a, from);
    for (size_t i = 0; i < to->count; i++) {
        struct errinfo why = {0};
        if (rights_rule_parse(from->list[i], a, &to->list[i], &why) != OK)
            return err_set(info, ERR_INVALID, what, "%.*s: %s", STR_ARG(from->list[i]), why.text);
    }
    return OK;
}

static enum err copy_routes(struct intake *in, const struct intake_settings *s,
                            struct errinfo *info) {
    struct arena *a = in->arena;
    struct intake_route *routes = ARENA_ARRAY(a, struct intake_route, s->route_count + 1);
    for (size_t i = 0; i < s->route_count; i++) {
        const struct intake_route *from = &s->routes[i];
        routes[i] = *from;
        routes[i].name = arena_dup(a, from->name);
        enum err e =
            copy_rules(a, &from->sender_domains, &routes[i].sender_domains, "sender_domains", info);
        if (e == OK)
            e = copy_rules(a, &from->recipient_domains, &routes[i].recipient_domains,
                           "recipient_domains", info);
        if (e != OK)
            return e;
    }
    in->settings.routes = routes;
    return OK;
}

/* "a@b", "b" or "*.b", each in its parsed form. */
static enum err copy_only_to(struct intake *in, const struct intake_settings *s,
                             struct errinfo *info) {
    struct arena *a = in->arena;
    in->settings.only_to = copy_list(a, &s->only_to);
    for (size_t i = 0; i < s->only_to.count; i++) {
        struct str text = s->only_to.list[i];
        struct errinfo why = {0};
        enum err e;
        if (str_find_char(text, '@') < 0) {
            e = rights_rule_parse(text, a, &in->settings.only_to.list[i], &why);
        } else {
            struct address addr;
            e = address_parse(&addr, text, a, &why);
            in->settings.only_to.list[i] = addr.email;
        }
        if (e != OK)
            return err_set(info, ERR_INVALID, "only_to", "%.*s: %s", STR_ARG(text), why.text);
    }
    return OK;
}

static enum err copy_redirect(struct intake *in, const struct intake_settings *s,
                              struct errinfo *info) {
    if (str_is_empty(s->redirect_to)) {
        in->settings.redirect_to = STR_NONE;
        return OK;
    }
    struct address addr;
    struct errinfo why = {0};
    if (address_parse(&addr, s->redirect_to, in->arena, &why) != OK)
        return err_set(info, ERR_INVALID, "redirect_to", "%.*s: %s", STR_ARG(s->redirect_to),
                       why.text);
    in->settings.redirect_to = addr.email;
    return OK;
}

const struct intake_route *intake_route_find(const struct intake *in, struct str name) {
    for (size_t i = 0; i < in->settings.route_count; i++)
        if (str_equal(in->settings.routes[i].name, name))
            return &in->settings.routes[i];
    return NULL;
}

static enum err copy_default_route(struct intake *in, const struct intake_settings *s,
                                   struct errinfo *info) {
    in->settings.default_route = arena_dup(in->arena, s->default_route);
    if (!str_is_absent(s->default_route) && intake_route_find(in, s->default_route) == NULL)
        return err_set(info, ERR_INVALID, "route", "there is no route named %.*s",
                       STR_ARG(s->default_route));
    return OK;
}

enum err intake_new(const struct intake_settings *s, struct intake **out, struct errinfo *info) {
    struct intake *in = mem_zalloc(sizeof(*in));
    atomic_init(&in->refs, 1);
    in->arena = arena_new();
    in->settings = *s;
    enum err e = copy_routes(in, s, info);
    if (e == OK)
        e = copy_only_to(in, s, info);
    if (e == OK)
        e = copy_redirect(in, s, info);
    if (e == OK)
        e = copy_default_route(in, s, info);
    if (e != OK) {
        intake_unref(&in);
        return e;
    }
    *out = in;
    return OK;
}

struct intake *intake_ref(struct intake *in) {
    atomic_fetch_add_explicit(&in->refs, 1, memory_order_relaxed);
    return in;
}

void intake_unref(struct intake **ip) {
    struct intake *in = *ip;
    *ip = NULL;
    if (in == NULL || atomic_fetch_sub_explicit(&in->refs, 1, memory_order_acq_rel) != 1)
        return;
    arena_free(&in->arena);
    free(in);
}

const struct intake_settings *intake_settings_of(const struct intake *in) {
    return &in->settings;
}
