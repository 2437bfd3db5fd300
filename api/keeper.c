/* The keeper: loads keys and domains from the store, and tells it which keys were used. */
#include <stdlib.h>

#include "api/env.h"
#include "server/base/clock.h"
#include "server/base/log.h"
#include "server/base/thread.h"

enum {
    USED_EVERY_MS = 10 * 1000,
    RETRY_MS = 1000, /* after a load that the store refused */
    USED_BATCH = 512,
    WATCHED = NOTICE_KEYS | NOTICE_DOMAINS,
};

/* Thread: its own, but for the mailbox. */
struct keeper {
    struct env *env;
    struct mailbox *box;
    struct thread *thread;
    bool is_stopping;
    bool is_stale; /* a load failed: again soon */
    int64_t used_due_mono_ms, retry_due_mono_ms;
};

/* ---- loading ---- */

static enum err load_keys(struct env *env, struct errinfo *info) {
    struct store_keys q = {.call.verb = STORE_KEYS, .project = -1};
    enum err e = store_sync(env->store, &q.call);
    if (e == OK)
        env_set_keyring(env, keyring_new(q.key, q.count));
    else if (info != NULL)
        *info = q.call.info;
    store_call_release(&q.call);
    return e;
}

static enum err load_domains(struct env *env, struct errinfo *info) {
    struct store_domains q = {.call.verb = STORE_DOMAINS, .project = -1};
    enum err e = store_sync(env->store, &q.call);
    if (e == OK)
        env_set_domains(env, domains_new(q.domain, q.count));
    else if (info != NULL)
        *info = q.call.info;
    store_call_release(&q.call);
    return e;
}

static enum err load_first(struct keeper *k, struct errinfo *info) {
    enum err e = load_keys(k->env, info);
    if (e == OK)
        e = load_domains(k->env, info);
    k->is_stale = e != OK;
    if (e != OK)
        k->retry_due_mono_ms = clock_mono_ms() + RETRY_MS;
    return e;
}

static void flush_used(struct keeper *k) {
    struct id id[USED_BATCH];
    int64_t wall_ms[USED_BATCH];
    struct keyring *ring = env_keyring(k->env);
    size_t at = 0, n;
    k->used_due_mono_ms = clock_mono_ms() + USED_EVERY_MS;
    while ((n = keyring_take_used(ring, &at, id, wall_ms, USED_BATCH)) > 0) {
        struct store_keys_used q = {
            .call.verb = STORE_KEYS_USED, .id = id, .wall_ms = wall_ms, .count = n};
        /* Nothing depends on it: what cannot be stored now is told at the next use. */
        if (store_sync(k->env->store, &q.call) != OK)
            log_debug("api", "uses of keys were not stored");
        store_call_release(&q.call);
    }
    keyring_unref(&ring);
}

static enum err load(struct keeper *k, struct errinfo *info) {
    flush_used(k); /* the ring that knows of uses goes away */
    return load_first(k, info);
}

/* ---- what others ask ---- */

static void load_answered(struct note *note) {
    struct keeper_load *l = CONTAINER_OF(note, struct keeper_load, note);
    l->done(l);
}

static void load_asked(struct note *note) {
    struct keeper_load *l = CONTAINER_OF(note, struct keeper_load, note);
    l->err = load(l->keeper, NULL);
    l->note.run = load_answered;
    mailbox_send(l->reply_to, &l->note);
}

void keeper_reload(struct env *env, struct keeper_load *l) {
    l->keeper = env->keeper;
    l->note.run = load_asked;
    mailbox_send(env->keeper->box, &l->note);
}

static void changed(struct store_notice *n) {
    struct keeper *k = n->ctx;
    store_notice_free(&n);
    if (load(k, NULL) != OK)
        log_warn("api", "keys and domains could not be read again; trying once more soon");
}

struct stop {
    struct note note;
    struct keeper *keeper;
};

static void stop_asked(struct note *note) {
    CONTAINER_OF(note, struct stop, note)->keeper->is_stopping = true;
}

/* ---- life ---- */

static int wait_ms(const struct keeper *k) {
    int64_t due = k->used_due_mono_ms;
    if (k->is_stale && k->retry_due_mono_ms < due)
        due = k->retry_due_mono_ms;
    int64_t left = due - clock_mono_ms();
    return left > 0 ? (int)left : 0;
}

static void keeper_main(void *arg) {
    struct keeper *k = arg;
    while (!k->is_stopping) {
        mailbox_wait(k->box, wait_ms(k));
        if (k->is_stale && clock_mono_ms() >= k->retry_due_mono_ms)
            (void)load(k, NULL);
        if (clock_mono_ms() >= k->used_due_mono_ms)
            flush_used(k);
    }
    flush_used(k);
}

enum err keeper_start(struct env *env, struct errinfo *info) {
    struct keeper *k = mem_zalloc(sizeof(*k));
    k->env = env;
    k->box = mailbox_new();
    /* watch first, so that no change falls between */
    store_watch(env->store, WATCHED, k->box, changed, k);
    enum err e = load_first(k, info);
    if (e != OK) {
        store_unwatch(env->store, k->box);
        mailbox_free(&k->box);
        free(k);
        return e;
    }
    k->used_due_mono_ms = clock_mono_ms() + USED_EVERY_MS;
    env->keeper = k;
    k->thread = thread_start("api-keeper", keeper_main, k);
    return OK;
}

void keeper_stop(struct env *env) {
    struct keeper *k = env->keeper;
    if (k == NULL)
        return;
    store_unwatch(env->store, k->box);
    struct stop stop = {.note.run = stop_asked, .keeper = k};
    mailbox_send(k->box, &stop.note);
    thread_join(&k->thread);
    mailbox_free(&k->box);
    free(k);
    env->keeper = NULL;
}
