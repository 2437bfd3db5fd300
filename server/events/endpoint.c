#include "server/events/endpoint.h"

struct endpoints {
    struct endpoint *list; /* sorted by id */
    size_t count;
};

static int compare(const void *a, const void *b) {
    const struct endpoint *x = a, *y = b;
    return memcmp(x->id.b, y->id.b, ID_BYTES);
}

static struct str copy(struct str s) {
    return str_is_absent(s) ? STR_NONE : str_make(mem_dup(s.p, s.n ? s.n : 1), s.n);
}

static void wipe(struct str *s) {
    if (s->p) {
        explicit_bzero((char *)(uintptr_t)s->p, s->n);
        free((char *)(uintptr_t)s->p);
    }
    *s = STR_NONE;
}

struct endpoints *endpoints_new(const struct webhook_row *row, size_t count) {
    struct endpoints *e = mem_zalloc(sizeof *e);
    e->list = mem_zalloc((count ? count : 1) * sizeof *e->list);
    for (size_t i = 0; i < count; i++)
        e->list[e->count++] =
            (struct endpoint){.id = row[i].id,
                              .state = row[i].state,
                              .url = copy(row[i].url),
                              .secret = copy(row[i].secret),
                              .previous_secret = copy(row[i].previous_secret),
                              .previous_until_wall_ms = row[i].previous_until_wall_ms};
    qsort(e->list, e->count, sizeof *e->list, compare);
    return e;
}

void endpoints_free(struct endpoints **ep) {
    struct endpoints *e = *ep;
    *ep = NULL;
    if (!e)
        return;
    for (size_t i = 0; i < e->count; i++) {
        wipe(&e->list[i].url); /* may hold a token */
        wipe(&e->list[i].secret);
        wipe(&e->list[i].previous_secret);
    }
    free(e->list);
    free(e);
}

const struct endpoint *endpoints_find(const struct endpoints *e, const struct id *id) {
    const struct endpoint key = {.id = *id};
    return e && e->count ? bsearch(&key, e->list, e->count, sizeof key, compare) : NULL;
}

size_t endpoint_secrets(const struct endpoint *e, int64_t now_wall_ms,
                        struct str secrets[ENDPOINT_SECRETS_MAX]) {
    size_t n = 0;
    secrets[n++] = e->secret;
    if (e->previous_secret.n && now_wall_ms < e->previous_until_wall_ms)
        secrets[n++] = e->previous_secret;
    return n;
}
