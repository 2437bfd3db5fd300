#include "server/events/standing.h"

enum { STANDINGS = 1024 };

void standing_release(struct standing *s) {
    free(s->list);
    *s = (struct standing){0};
}

static struct notify_share *find(const struct standing *s, const struct id *webhook_id) {
    for (size_t i = 0; i < s->count; i++)
        if (id_equal(&s->list[i].webhook_id, webhook_id))
            return &s->list[i];
    return NULL;
}

size_t standing_get(const struct standing *s, const struct id *webhook_id) {
    const struct notify_share *found = find(s, webhook_id);
    return found ? found->most : STANDING_START;
}

static void set(struct standing *s, const struct id *webhook_id, size_t most) {
    struct notify_share *found = find(s, webhook_id);
    if (found && most == STANDING_START) {
        *found = s->list[--s->count];
    } else if (found) {
        found->most = most;
    } else if (most != STANDING_START) {
        if (!s->list)
            s->list = mem_zalloc(STANDINGS * sizeof *s->list);
        if (s->count == STANDINGS)
            s->count = 0; /* endpoints come and go: learned anew now and then */
        s->list[s->count++] = (struct notify_share){.webhook_id = *webhook_id, .most = most};
    }
}

void standing_note(struct standing *s, const struct id *webhook_id, int64_t took_ms,
                   int64_t timeout_ms) {
    size_t most = standing_get(s, webhook_id);
    if (took_ms >= timeout_ms - timeout_ms / 10)
        most = STANDING_LEAST;
    else if (took_ms > timeout_ms / 2)
        most = most < STANDING_START ? most : STANDING_START;
    else
        most = 2 * most < STANDING_MOST ? 2 * most : STANDING_MOST;
    set(s, webhook_id, most);
}

size_t standing_copy(const struct standing *s, struct notify_share **out) {
    if (s->count > 0) {
        if (!*out)
            *out = mem_zalloc(STANDINGS * sizeof **out);
        memcpy(*out, s->list, s->count * sizeof **out);
    }
    return s->count;
}
