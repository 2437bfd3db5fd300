#include "server/delivery/tlspolicy.h"

#include <pthread.h>
#include <stdlib.h>
#include <uthash.h>

enum { HOSTS_MAX = 10000 };
static const int64_t BROKEN_MS = (int64_t)3 * 24 * 3600 * 1000, SILENT_MS = (int64_t)15 * 60 * 1000;

struct broken {
    char address[SOCKADDR_TEXT_SIZE];
    int64_t until_boot_ms;
    UT_hash_handle hh;
};

struct tlspolicy {
    struct {
        pthread_mutex_t mu;
        struct broken *by_address; /* in order of being added: the first is the oldest */
    } shared;
};

struct tlspolicy *tlspolicy_new(void) {
    struct tlspolicy *t = mem_zalloc(sizeof(*t));
    NEED(pthread_mutex_init(&t->shared.mu, NULL) == 0);
    return t;
}

void tlspolicy_free(struct tlspolicy **tp) {
    struct tlspolicy *t = *tp;
    if (t == NULL)
        return;
    struct broken *b, *next;
    HASH_ITER (hh, t->shared.by_address, b, next) {
        HASH_DEL(t->shared.by_address, b);
        free(b);
    }
    pthread_mutex_destroy(&t->shared.mu);
    free(t);
    *tp = NULL;
}

enum session_tls tlspolicy_level(enum session_tls route, enum tls_level message) {
    if (route == SESSION_TLS_IMPLICIT)
        return route;
    enum session_tls asked = message == TLS_VERIFY    ? SESSION_TLS_VERIFY
                             : message == TLS_ENCRYPT ? SESSION_TLS_ENCRYPT
                                                      : SESSION_TLS_NONE;
    return asked > route ? asked : route;
}
_Static_assert(SESSION_TLS_NONE < SESSION_TLS_OPPORTUNISTIC &&
                   SESSION_TLS_OPPORTUNISTIC < SESSION_TLS_ENCRYPT &&
                   SESSION_TLS_ENCRYPT < SESSION_TLS_VERIFY,
               "levels are compared");

enum session_tls tlspolicy_now(struct tlspolicy *t, enum session_tls level,
                               const struct sockaddr_any *to, int64_t now_boot_ms) {
    if (level != SESSION_TLS_OPPORTUNISTIC)
        return level;
    char address[SOCKADDR_TEXT_SIZE];
    sockaddr_print(to, address);
    struct broken *b;
    pthread_mutex_lock(&t->shared.mu);
    HASH_FIND_STR(t->shared.by_address, address, b);
    if (b != NULL && b->until_boot_ms <= now_boot_ms) {
        HASH_DEL(t->shared.by_address, b);
        free(b);
        b = NULL;
    }
    pthread_mutex_unlock(&t->shared.mu);
    return b != NULL ? SESSION_TLS_NONE : level;
}

void tlspolicy_broken(struct tlspolicy *t, const struct sockaddr_any *to, enum failure why,
                      int64_t now_boot_ms) {
    bool is_silent = why == FAILURE_TIMEOUT || why == FAILURE_CLOSED;
    struct broken *fresh = mem_zalloc(sizeof(*fresh));
    sockaddr_print(to, fresh->address);
    fresh->until_boot_ms = now_boot_ms + (is_silent ? SILENT_MS : BROKEN_MS);
    struct broken *old;
    pthread_mutex_lock(&t->shared.mu);
    HASH_FIND_STR(t->shared.by_address, fresh->address, old);
    if (old != NULL && old->until_boot_ms > fresh->until_boot_ms)
        fresh->until_boot_ms = old->until_boot_ms;
    if (old == NULL && HASH_COUNT(t->shared.by_address) >= HOSTS_MAX)
        old = t->shared.by_address;
    if (old != NULL) {
        HASH_DEL(t->shared.by_address, old);
        free(old);
    }
    HASH_ADD_STR(t->shared.by_address, address, fresh);
    pthread_mutex_unlock(&t->shared.mu);
}
