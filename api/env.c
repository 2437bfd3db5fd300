#include "api/env.h"

#include <stdlib.h>

struct body_holder {
    struct id key;
    size_t bytes;
    size_t page_bytes; /* of them */
    struct table_node in_table;
};

/* ---- snapshots ---- */

struct keyring *env_keyring(struct env *env) {
    pthread_mutex_lock(&env->shared.mu);
    struct keyring *k = keyring_ref(env->shared.keyring);
    pthread_mutex_unlock(&env->shared.mu);
    return k;
}

struct domains *env_domains(struct env *env) {
    pthread_mutex_lock(&env->shared.mu);
    struct domains *d = domains_ref(env->shared.domains);
    pthread_mutex_unlock(&env->shared.mu);
    return d;
}

bool env_can_accept(struct env *env, char why[160]) {
    if (env->is_ready != NULL)
        return env->is_ready(env->is_ready_ctx, why);
    struct store_health health = store_health(env->store);
    snprintf(why, 160, "%s", health.text);
    return health.is_writable;
}

struct intake *env_intake(struct env *env) {
    pthread_mutex_lock(&env->shared.mu);
    struct intake *i = intake_ref(env->shared.intake);
    pthread_mutex_unlock(&env->shared.mu);
    return i;
}

void env_set_keyring(struct env *env, struct keyring *k) {
    pthread_mutex_lock(&env->shared.mu);
    struct keyring *old = env->shared.keyring;
    env->shared.keyring = k;
    pthread_mutex_unlock(&env->shared.mu);
    keyring_unref(&old);
}

void env_set_domains(struct env *env, struct domains *d) {
    pthread_mutex_lock(&env->shared.mu);
    struct domains *old = env->shared.domains;
    env->shared.domains = d;
    pthread_mutex_unlock(&env->shared.mu);
    domains_unref(&old);
}

void env_set_intake(struct env *env, struct intake *i) {
    pthread_mutex_lock(&env->shared.mu);
    struct intake *old = env->shared.intake;
    env->shared.intake = i;
    pthread_mutex_unlock(&env->shared.mu);
    intake_unref(&old);
}

void env_set_guard(struct env *env, struct guard *g) {
    pthread_mutex_lock(&env->shared.mu);
    struct guard *old = env->shared.guard;
    env->shared.guard = g;
    pthread_mutex_unlock(&env->shared.mu);
    guard_free(&old);
}

enum err env_check_url(struct env *env, struct str url, struct arena *a, struct errinfo *info) {
    struct url parts;
    pthread_mutex_lock(&env->shared.mu);
    enum err e = guard_check_url(env->shared.guard, url, a, &parts, info);
    pthread_mutex_unlock(&env->shared.mu);
    return e;
}

/* ---- memory of bodies
 * ---------------------------------------------------------------------------------------- */

static bool fits(const struct body_holder *h, size_t all, size_t n, size_t own, size_t most) {
    size_t has = h != NULL ? h->bytes : 0;
    if (n > most || all > most - n)
        return false;
    return has == own || has + n <= most / 4 * 3;
}

/* The holder; NULL: they are not there. */
static struct body_holder *charge_locked(struct env *env, const struct id *key, size_t n,
                                         size_t own, size_t most) {
    struct body_holder *h = table_find(&env->shared.holders, key, sizeof(*key));
    if (!fits(h, atomic_load(&env->body_bytes), n, own, most))
        return NULL;
    if (h == NULL) {
        h = mem_zalloc(sizeof(*h));
        h->key = *key;
        table_add(&env->shared.holders, &h->in_table, &h->key, sizeof(h->key), h);
    }
    h->bytes += n;
    atomic_fetch_add(&env->body_bytes, n);
    return h;
}

bool env_charge(struct env *env, const struct id *key, size_t n, size_t own, size_t most) {
    if (n == 0)
        return true;
    pthread_mutex_lock(&env->shared.mu);
    bool ok = charge_locked(env, key, n, own, most) != NULL;
    pthread_mutex_unlock(&env->shared.mu);
    return ok;
}

bool env_charge_page(struct env *env, const struct id *key, size_t n, size_t own, size_t most) {
    if (n == 0)
        return true;
    pthread_mutex_lock(&env->shared.mu);
    struct body_holder *h = table_find(&env->shared.holders, key, sizeof(*key));
    size_t all = env->shared.page_bytes, pages_most = most / 2, has = h != NULL ? h->page_bytes : 0;
    bool ok =
        n <= pages_most && all <= pages_most - n && (has == 0 || has + n <= pages_most / 4 * 3);
    h = ok ? charge_locked(env, key, n, own, most) : NULL;
    if (h != NULL) {
        h->page_bytes += n;
        env->shared.page_bytes += n;
    }
    pthread_mutex_unlock(&env->shared.mu);
    return h != NULL;
}

void env_end_page(struct env *env, const struct id *key, size_t n) {
    if (n == 0)
        return;
    pthread_mutex_lock(&env->shared.mu);
    struct body_holder *h = table_find(&env->shared.holders, key, sizeof(*key));
    ASSERT(h != NULL && h->page_bytes >= n);
    h->page_bytes -= n;
    env->shared.page_bytes -= n;
    pthread_mutex_unlock(&env->shared.mu);
}

void env_uncharge(struct env *env, const struct id *key, size_t n) {
    if (n == 0)
        return;
    pthread_mutex_lock(&env->shared.mu);
    struct body_holder *h = table_find(&env->shared.holders, key, sizeof(*key));
    ASSERT(h != NULL && h->bytes >= n);
    h->bytes -= n;
    atomic_fetch_sub(&env->body_bytes, n);
    if (h->bytes == 0) {
        table_remove(&env->shared.holders, &h->in_table);
        free(h);
    }
    pthread_mutex_unlock(&env->shared.mu);
}
