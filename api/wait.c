#include "api/wait.h"

#include <stdlib.h>
#include <sys/queue.h>

#include "server/base/clock.h"

struct wait {
    TAILQ_ENTRY(wait) link;
    struct request *request;
    struct id id;
    int64_t until_mono_ms;
    void (*done)(struct request *r);
};

struct waits {
    struct store *store;
    struct mailbox *box;
    TAILQ_HEAD(, wait) list;
    bool is_watching;
};

struct waits *waits_new(struct store *store, struct mailbox *box) {
    struct waits *w = mem_zalloc(sizeof(*w));
    w->store = store;
    w->box = box;
    TAILQ_INIT(&w->list);
    return w;
}

void waits_free(struct waits **wp) {
    if (*wp != NULL)
        ASSERT(TAILQ_EMPTY(&(*wp)->list));
    free(*wp);
    *wp = NULL;
}

static void leave(struct waits *w, struct wait *wait) {
    struct request *r = wait->request;
    TAILQ_REMOVE(&w->list, wait, link);
    r->wait = NULL;
    r->hurry = NULL;
    if (TAILQ_EMPTY(&w->list) && w->is_watching) {
        store_unwatch(w->store, w->box);
        w->is_watching = false;
    }
}

static void end(struct waits *w, struct wait *wait) {
    leave(w, wait);
    wait->done(wait->request);
}

static void noticed(struct store_notice *n) {
    struct waits *w = n->ctx;
    struct wait *wait, *next;
    for (wait = TAILQ_FIRST(&w->list); wait != NULL && n->is_complete; wait = next) {
        next = TAILQ_NEXT(wait, link);
        if (id_equal(&wait->id, &n->message_id))
            end(w, wait);
    }
    store_notice_free(&n);
}

void waits_tick(struct waits *w, int64_t now_mono_ms) {
    struct wait *wait, *next;
    for (wait = TAILQ_FIRST(&w->list); wait != NULL; wait = next) {
        next = TAILQ_NEXT(wait, link);
        if (wait->until_mono_ms <= now_mono_ms)
            end(w, wait);
    }
}

static void hurry(struct request *r) {
    end(r->waits, r->wait);
}

void wait_for(struct request *r, const struct id *id, int64_t timeout_ms,
              void (*done)(struct request *r)) {
    struct waits *w = r->waits;
    struct wait *wait = ARENA_NEW(r->arena, struct wait);
    ASSERT(r->wait == NULL);
    wait->request = r;
    wait->id = *id;
    wait->until_mono_ms = clock_mono_ms() + timeout_ms;
    wait->done = done;
    r->wait = wait;
    r->hurry = hurry;
    TAILQ_INSERT_TAIL(&w->list, wait, link);
    if (!w->is_watching) {
        w->is_watching = true;
        store_watch(w->store, NOTICE_MESSAGE, w->box, noticed, w);
    }
}

void wait_cancel(struct request *r) {
    if (r->wait != NULL)
        leave(r->waits, r->wait);
}
