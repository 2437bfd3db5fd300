#include "server/delivery/wakeup.h"

#include <stdlib.h>

#include "server/base/err.h"

enum { FIRST_ROOM = 64, WAIT_MAX_MS = 3600 * 1000 };

/* heap[1..count]; heap[0] is not used, so that place 0 can mean "not set". */
struct wakeups {
    struct wakeup **heap;
    size_t count, room;
};

struct wakeups *wakeups_new(void) {
    struct wakeups *w = mem_zalloc(sizeof(*w));
    w->room = FIRST_ROOM;
    w->heap = mem_zalloc((w->room + 1) * sizeof(struct wakeup *));
    return w;
}

void wakeups_free(struct wakeups **wp) {
    struct wakeups *w = *wp;
    if (w == NULL)
        return;
    for (size_t i = 1; i <= w->count; i++)
        w->heap[i]->place = 0;
    free(w->heap);
    free(w);
    *wp = NULL;
}

void wakeup_init(struct wakeup *k, void (*fn)(void *arg), void *arg) {
    *k = (struct wakeup){.fn = fn, .arg = arg};
}

static void put_at(struct wakeups *w, size_t place, struct wakeup *k) {
    w->heap[place] = k;
    k->place = place;
}

static void sift_up(struct wakeups *w, size_t place, struct wakeup *k) {
    while (place > 1 && k->at_mono_ms < w->heap[place / 2]->at_mono_ms) {
        put_at(w, place, w->heap[place / 2]);
        place /= 2;
    }
    put_at(w, place, k);
}

static void sift_down(struct wakeups *w, size_t place, struct wakeup *k) {
    for (;;) {
        size_t child = place * 2;
        if (child > w->count)
            break;
        if (child < w->count && w->heap[child + 1]->at_mono_ms < w->heap[child]->at_mono_ms)
            child++;
        if (k->at_mono_ms <= w->heap[child]->at_mono_ms)
            break;
        put_at(w, place, w->heap[child]);
        place = child;
    }
    put_at(w, place, k);
}

void wakeup_set(struct wakeups *w, struct wakeup *k, int64_t at_mono_ms) {
    if (k->place != 0) {
        int64_t before = k->at_mono_ms;
        k->at_mono_ms = at_mono_ms;
        if (at_mono_ms < before)
            sift_up(w, k->place, k);
        else
            sift_down(w, k->place, k);
        return;
    }
    if (w->count == w->room) {
        w->room *= 2;
        w->heap = mem_regrow(w->heap, sizeof(struct wakeup *), w->room + 1);
    }
    k->at_mono_ms = at_mono_ms;
    w->count++;
    sift_up(w, w->count, k);
}

void wakeup_cancel(struct wakeups *w, struct wakeup *k) {
    size_t place = k->place;
    if (place == 0)
        return;
    k->place = 0;
    struct wakeup *last = w->heap[w->count--];
    if (last == k)
        return;
    if (place > 1 && last->at_mono_ms < w->heap[place / 2]->at_mono_ms)
        sift_up(w, place, last);
    else
        sift_down(w, place, last);
}

int wakeups_wait_ms(const struct wakeups *w, int64_t now_mono_ms) {
    if (w->count == 0)
        return -1;
    int64_t wait_ms = w->heap[1]->at_mono_ms - now_mono_ms;
    if (wait_ms <= 0)
        return 0;
    return wait_ms < WAIT_MAX_MS ? (int)wait_ms : WAIT_MAX_MS;
}

size_t wakeups_run(struct wakeups *w, int64_t now_mono_ms) {
    size_t most = w->count, ran = 0;
    while (ran < most && w->count > 0 && w->heap[1]->at_mono_ms <= now_mono_ms) {
        struct wakeup *k = w->heap[1];
        wakeup_cancel(w, k);
        ran++;
        k->fn(k->arg);
    }
    return ran;
}

size_t wakeups_count(const struct wakeups *w) {
    return w->count;
}
