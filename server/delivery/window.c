#include "server/delivery/window.h"

/* 1/N is not exact: N times 1/N must still count as one. */
static const double NEARLY = 1e-6;

static void start(struct window *w) {
    w->size = w->is_suspended ? 1 : w->ceiling < WINDOW_START ? w->ceiling : WINDOW_START;
    w->is_suspended = w->is_proven = false;
    w->success = w->failure = w->cohorts = 0;
    w->dead_until_mono_ms = 0;
}

void window_init(struct window *w, unsigned ceiling) {
    w->ceiling = ceiling > 0 ? ceiling : 1;
    w->is_suspended = false;
    start(w);
}

void window_set_ceiling(struct window *w, unsigned ceiling) {
    w->ceiling = ceiling > 0 ? ceiling : 1;
    if (w->size > w->ceiling)
        w->size = w->ceiling;
}

void window_success(struct window *w, unsigned in_flight) {
    w->cohorts = 0;
    /* A transaction that began before the site was declared dead got through: it is not dead. */
    if (w->is_suspended)
        return; /* a session that was open already says nothing about logins */
    if (w->dead_until_mono_ms != 0)
        start(w);
    w->is_proven = true;
    if (w->size >= w->ceiling || w->size >= in_flight + WINDOW_START)
        return;
    w->success += w->size < 4 ? 0.25 : 1.0 / w->size;
    if (w->success >= 1 - NEARLY) {
        w->size++;
        w->success = w->failure = 0;
    }
}

bool window_failure(struct window *w, int64_t now_mono_ms, int64_t dead_ms) {
    if (w->dead_until_mono_ms != 0)
        return false;
    double part = 1.0 / w->size;
    w->cohorts += part;
    if (w->cohorts >= WINDOW_COHORTS - NEARLY) {
        w->dead_until_mono_ms = now_mono_ms + dead_ms;
        return true;
    }
    w->failure -= part;
    if (w->failure < -NEARLY) {
        if (w->size > 1)
            w->size--;
        w->success = 0;
        w->failure += 1;
    }
    return false;
}

bool window_suspend(struct window *w, int64_t until_mono_ms) {
    bool was_alive = w->dead_until_mono_ms == 0;
    if (was_alive || until_mono_ms > w->dead_until_mono_ms)
        w->dead_until_mono_ms = until_mono_ms;
    w->is_suspended = true;
    return was_alive;
}

void window_revive(struct window *w) {
    w->is_suspended = false;
    start(w);
}

bool window_is_dead(struct window *w, int64_t now_mono_ms) {
    if (w->dead_until_mono_ms == 0)
        return false;
    if (now_mono_ms < w->dead_until_mono_ms)
        return true;
    start(w);
    return false;
}
