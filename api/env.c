#include "api/env.h"

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
