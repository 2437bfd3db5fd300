/* env: what every request can reach: the store, the snapshots in force, the workers.
 *
 * Snapshots (keys, domains, intake's settings) are immutable and replaced as a whole; a request
 * takes a reference of each when it begins and keeps to it. Keys and domains are loaded from the
 * store by one thread, the keeper, one load after the other, so that an older state never replaces
 * a newer one: at start, when the store says that they changed, and when a handler asks because its
 * answer must not go out before (a revoked key, for example).
 *
 * Thread: env_* from any.
 */
#pragma once

#include <pthread.h>
#include <stdatomic.h>

#include "api/auth.h"
#include "api/key_rate.h"
#include "server/base/mailbox.h"
#include "server/base/table.h"
#include "server/intake/domain_check.h"
#include "server/intake/settings.h"
#include "server/net/guard.h"
#include "storage/store.h"

struct keeper;
struct workers;

/* Thread: any (locks inside); what stands outside of `shared` never changes after start. */
struct env {
    struct store *store;
    bool is_sandbox, is_development;
    bool has_health_listener;
    struct str hostname; /* in `arena` */
    bool (*is_ready)(void *ctx, char why[160]);
    void *is_ready_ctx;
    void (*look)(void *ctx, struct domain_look *look);
    void *look_ctx;
    struct arena *arena;
    struct keeper *keeper;
    struct workers *workers;
    struct key_rates *rates;
    atomic_size_t body_bytes; /* of request bodies in flight, on all loops; see env_charge() */
    atomic_bool is_draining;
    struct {
        pthread_mutex_t mu;
        struct keyring *keyring;
        struct domains *domains;
        struct intake *intake;
        struct guard *guard;  /* used under the lock only, hence without references */
        struct table holders; /* how many of body_bytes each key has */
        size_t page_bytes;    /* of them, what pages have */
    } shared;
};

/* Can a message be stored now? Else `why`. What is draining still takes what is under way. */
bool env_can_accept(struct env *env, char why[160]);
struct keyring *env_keyring(struct env *env); /* one reference, as the next two */
struct domains *env_domains(struct env *env);
struct intake *env_intake(struct env *env);
void env_set_keyring(struct env *env, struct keyring *k); /* takes it, as the next three */
void env_set_domains(struct env *env, struct domains *d);
void env_set_intake(struct env *env, struct intake *i);
void env_set_guard(struct env *env, struct guard *g);

/* May a webhook with this URL be stored? guard_check_url() with the guard in force: the name is not
 * resolved, its addresses are looked at when something is sent there. ERR_INVALID with the reason.
 */
NODISCARD enum err env_check_url(struct env *env, struct str url, struct arena *a,
                                 struct errinfo *info);

/* Sets n bytes of the budget of `most` for all bodies aside for a request of this key (zero:
 * without one) that has `own` already. false: they are not there. One key gets three quarters, so
 * that requests which announce a lot and send nothing shut nobody else out; but a single request of
 * it may have all. */
bool env_charge(struct env *env, const struct id *key, size_t n, size_t own, size_t most);
void env_uncharge(struct env *env, const struct id *key, size_t n);
/* The same for a page of rows, which may wait long for the store: pages have half in all, so that
 * they shut no bodies out, and one key three quarters of it, beside its first one. Bodies leave
 * them a quarter, unless several keys fill it. */
bool env_charge_page(struct env *env, const struct id *key, size_t n, size_t own, size_t most);
/* So much of what was charged to this key is a page's no more; it stays charged. */
void env_end_page(struct env *env, const struct id *key, size_t n);

/* ---- keeper ---- */

/* Loads keys and domains before it returns. ERR_UNAVAILABLE: the store did not answer. */
NODISCARD enum err keeper_start(struct env *env, struct errinfo *info);
void keeper_stop(struct env *env);

/* Asks for a fresh load; `done` runs on the thread of `reply_to` when what was committed before is
 * in force, or when the store could not be read (err). The struct is the caller's again then. */
struct keeper_load {
    struct note note;
    struct keeper *keeper;
    struct mailbox *reply_to;
    void (*done)(struct keeper_load *load);
    enum err err; /* out */
};
void keeper_reload(struct env *env, struct keeper_load *load);

/* ---- workers: what would stop a loop for too long (large bodies, making keys)
 *
 * Of the long ones (keys: a tenth of a second each) one is done at a time, so that the other worker
 * is there for large bodies, and few wait, so that a stop does not wait long. ---- */

enum { WORKERS = 2, WORKS_LONG_MOST = 32 };
struct work {
    struct note note;
    struct work *next;
    void (*run)(struct work *work); /* on a worker */
    struct mailbox *reply_to;
    void (*done)(struct work *work); /* on the thread of reply_to */
    bool is_long;
};
struct workers *workers_start(void);
void workers_stop(struct workers **wp); /* after everything asked for is done */
/* false: it is a long one, and so many wait already; nothing is done. */
NODISCARD bool workers_post(struct workers *w, struct work *work);
