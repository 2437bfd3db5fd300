#include "server/config_yaml.h"

#include <yaml.h>

enum { YAML_DEPTH_MAX = 8, YAML_NODES_MAX = 20000 };

struct reader {
    yaml_parser_t parser;
    struct arena *arena;
    struct errinfo *info;
    size_t nodes;
};

struct growing {
    struct yaml_node **child;
    struct str *key;
    size_t count, room;
};

static enum err fail(struct reader *r, size_t line, const char *what) {
    return err_set(r->info, ERR_INVALID, "", "line %zu: %s", line, what);
}

static enum err next_event(struct reader *r, yaml_event_t *ev) {
    if (yaml_parser_parse(&r->parser, ev))
        return OK;
    return fail(r, r->parser.problem_mark.line + 1,
                r->parser.problem ? r->parser.problem : "not YAML");
}

static void grow(struct reader *r, struct growing *g, struct str key, struct yaml_node *node) {
    if (g->count == g->room) {
        size_t room = g->room ? g->room * 2 : 8;
        struct yaml_node **child = ARENA_ARRAY(r->arena, struct yaml_node *, room);
        struct str *keys = ARENA_ARRAY(r->arena, struct str, room);
        if (g->count) {
            memcpy(child, g->child, g->count * sizeof(*child));
            memcpy(keys, g->key, g->count * sizeof(*keys));
        }
        g->child = child;
        g->key = keys;
        g->room = room;
    }
    g->key[g->count] = key;
    g->child[g->count++] = node;
}

static struct str scalar_of(struct reader *r, const yaml_event_t *ev) {
    return arena_dup(r->arena, str_make(ev->data.scalar.value, ev->data.scalar.length));
}

static enum err read_node(struct reader *r, const yaml_event_t *ev, int depth,
                          struct yaml_node **out);

static enum err read_list(struct reader *r, int depth, struct growing *g) {
    for (;;) {
        yaml_event_t ev;
        enum err e = next_event(r, &ev);
        if (e != OK)
            return e;
        if (ev.type == YAML_SEQUENCE_END_EVENT) {
            yaml_event_delete(&ev);
            return OK;
        }
        struct yaml_node *node = NULL;
        e = read_node(r, &ev, depth + 1, &node);
        yaml_event_delete(&ev);
        if (e != OK)
            return e;
        grow(r, g, STR_NONE, node);
    }
}

static enum err read_map(struct reader *r, int depth, struct growing *g) {
    for (;;) {
        yaml_event_t ev;
        enum err e = next_event(r, &ev);
        if (e != OK)
            return e;
        size_t line = ev.start_mark.line + 1;
        if (ev.type == YAML_MAPPING_END_EVENT) {
            yaml_event_delete(&ev);
            return OK;
        }
        if (ev.type != YAML_SCALAR_EVENT) {
            yaml_event_delete(&ev);
            return fail(r, line, "a key must be a plain word");
        }
        struct str key = scalar_of(r, &ev);
        yaml_event_delete(&ev);
        for (size_t i = 0; i < g->count; i++)
            if (str_equal(g->key[i], key))
                return fail(r, line, "this key stands twice");
        e = next_event(r, &ev);
        if (e != OK)
            return e;
        struct yaml_node *node = NULL;
        e = read_node(r, &ev, depth + 1, &node);
        yaml_event_delete(&ev);
        if (e != OK)
            return e;
        grow(r, g, key, node);
    }
}

static bool has_tag(const yaml_event_t *ev) {
    return (ev->type == YAML_SCALAR_EVENT && ev->data.scalar.tag) ||
           (ev->type == YAML_SEQUENCE_START_EVENT && ev->data.sequence_start.tag) ||
           (ev->type == YAML_MAPPING_START_EVENT && ev->data.mapping_start.tag);
}

static enum err read_node(struct reader *r, const yaml_event_t *ev, int depth,
                          struct yaml_node **out) {
    size_t line = ev->start_mark.line + 1;
    if (depth > YAML_DEPTH_MAX)
        return fail(r, line, "nested too deeply");
    if (has_tag(ev))
        return fail(r, line, "tags are not used here: the setting knows its type");
    if (++r->nodes > YAML_NODES_MAX)
        return fail(r, line, "too many values");
    struct yaml_node *n = ARENA_NEW(r->arena, struct yaml_node);
    struct growing g = {0};
    enum err e = OK;
    n->line = line;
    switch (ev->type) {
    case YAML_SCALAR_EVENT:
        n->kind = YAML_SCALAR;
        n->scalar = scalar_of(r, ev);
        n->is_quoted = ev->data.scalar.style != YAML_PLAIN_SCALAR_STYLE;
        break;
    case YAML_SEQUENCE_START_EVENT:
        n->kind = YAML_LIST;
        e = read_list(r, depth, &g);
        break;
    case YAML_MAPPING_START_EVENT:
        n->kind = YAML_MAP;
        e = read_map(r, depth, &g);
        break;
    case YAML_ALIAS_EVENT:
        return fail(r, line, "aliases are not used here: write the value out");
    default:
        return fail(r, line, "unexpected content");
    }
    n->child = g.child;
    n->key = g.key;
    n->count = g.count;
    *out = n;
    return e;
}

enum err yaml_parse(struct str text, struct arena *a, struct yaml_node **out,
                    struct errinfo *info) {
    struct reader r = {.arena = a, .info = info};
    struct yaml_node *root = NULL;
    enum err e = OK;
    bool done = false;
    if (!yaml_parser_initialize(&r.parser))
        return err_set(info, ERR_INTERNAL, "", "libyaml could not be initialised");
    yaml_parser_set_input_string(&r.parser, (const unsigned char *)(text.p ? text.p : ""), text.n);
    while (e == OK && !done) {
        yaml_event_t ev;
        e = next_event(&r, &ev);
        if (e != OK)
            break;
        size_t line = ev.start_mark.line + 1;
        switch (ev.type) {
        case YAML_STREAM_START_EVENT:
        case YAML_DOCUMENT_END_EVENT:
            break;
        case YAML_DOCUMENT_START_EVENT:
            if (root)
                e = fail(&r, line, "only one document is expected");
            break;
        case YAML_STREAM_END_EVENT:
            done = true;
            break;
        default:
            e = read_node(&r, &ev, 0, &root);
        }
        yaml_event_delete(&ev);
    }
    yaml_parser_delete(&r.parser);
    if (e != OK)
        return e;
    if (!root || (root->kind == YAML_SCALAR && root->scalar.n == 0)) {
        root = ARENA_NEW(a, struct yaml_node);
        root->kind = YAML_MAP;
        root->line = 1;
    }
    *out = root;
    return OK;
}

struct yaml_node *yaml_find(const struct yaml_node *map, const char *key) {
    for (size_t i = 0; map && map->kind == YAML_MAP && i < map->count; i++)
        if (str_equal(map->key[i], str_of(key)))
            return map->child[i];
    return NULL;
}
