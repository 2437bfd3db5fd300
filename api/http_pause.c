#include "api/http_pause.h"

#include <event2/event.h>
#include <stdlib.h>

#include "server/base/random.h"

enum { CLOCK_MS = 10 }; /* the library's clock may be behind by a tick of the kernel's */

struct pauses {
    struct event_base *base;
    void (*after)(void *arg);
    void *arg;
    size_t count;
};

struct pause {
    struct pauses *of;
    struct request *request;
    struct event *timer;
    void (*done)(struct request *r);
};

struct pauses *pauses_new(struct event_base *base, void (*after)(void *arg), void *arg) {
    struct pauses *p = mem_zalloc(sizeof(*p));
    *p = (struct pauses){.base = base, .after = after, .arg = arg};
    return p;
}

void pauses_free(struct pauses **pp) {
    if (*pp != NULL)
        ASSERT((*pp)->count == 0);
    free(*pp);
    *pp = NULL;
}

static void end(struct pause *pause) {
    struct request *r = pause->request;
    event_free(pause->timer);
    pause->of->count--;
    r->pause = NULL;
    r->hurry = NULL;
    pause->done(r);
}

static void hurry(struct request *r) {
    end(r->pause);
}

static void on_time(evutil_socket_t fd, short what, void *arg) {
    struct pause *pause = arg;
    struct pauses *p = pause->of;
    (void)fd;
    (void)what;
    end(pause);
    p->after(p->arg);
}

int64_t pause_begin(struct pauses *p, struct request *r, int64_t least_ms, size_t most,
                    void (*done)(struct request *r)) {
    ASSERT(r->pause == NULL && r->hurry == NULL);
    if (p->count >= most)
        return 0;
    struct pause *pause = ARENA_NEW(r->arena, struct pause);
    *pause = (struct pause){.of = p, .request = r, .done = done};
    int64_t ms = least_ms + CLOCK_MS + (int64_t)random_below((uint64_t)least_ms);
    const struct timeval in = {.tv_sec = (time_t)(ms / 1000),
                               .tv_usec = (suseconds_t)(ms % 1000 * 1000)};
    pause->timer = event_new(p->base, -1, 0, on_time, pause);
    if (pause->timer == NULL)
        return 0;
    (void)event_base_update_cache_time(p->base); /* else it counts from when the loop woke up */
    if (event_add(pause->timer, &in) != 0) {
        event_free(pause->timer);
        return 0;
    }
    p->count++;
    r->pause = pause;
    r->hurry = hurry;
    return ms;
}
