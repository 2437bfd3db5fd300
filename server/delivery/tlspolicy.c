#include "server/delivery/tlspolicy.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include "server/base/table.h"

enum { HOSTS_MAX = 10000 };
static const int64_t BROKEN_MS = (int64_t)3 * 24 * 3600 * 1000, SILENT_MS = (int64_t)15 * 60 * 1000;

enum { KEY_SIZE = SOCKADDR_TEXT_SIZE + 256 };
struct broken {
    char key[KEY_SIZE];
    int64_t until_boot_ms;
    struct table_node in_table;
};

struct tlspolicy {
    struct {
        pthread_mutex_t mu;
        struct table by_key; /* in order of being added: the first is the oldest */
    } shared;
};

struct tlspolicy *tlspolicy_new(void) {
    struct tlspolicy *t = mem_zalloc(sizeof(*t));
    NEED(pthread_mutex_init(&t->shared.mu, NULL) == 0);
    return t;
}

/* The name that a handshake asks for is a stranger's choice, and may be why it fails: that says
 * nothing about other names at the address. */
static void make_key(const struct sockaddr_any *to, const char *host, char key[KEY_SIZE]) {
    char address[SOCKADDR_TEXT_SIZE];
    sockaddr_print(to, address);
    snprintf(key, KEY_SIZE, "%s %s", address, host);
}

static struct broken *find(const struct tlspolicy *t, const char *key) {
    return table_find(&t->shared.by_key, key, strlen(key));
}

static void forget(struct tlspolicy *t, struct broken *b) {
    table_remove(&t->shared.by_key, &b->in_table);
    free(b);
}

void tlspolicy_free(struct tlspolicy **tp) {
    struct tlspolicy *t = *tp;
    if (t == NULL)
        return;
    struct broken *b;
    while ((b = table_oldest(&t->shared.by_key)) != NULL)
        forget(t, b);
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
                               const struct sockaddr_any *to, const char *host,
                               int64_t now_boot_ms) {
    if (level != SESSION_TLS_OPPORTUNISTIC)
        return level;
    char key[KEY_SIZE];
    make_key(to, host, key);
    pthread_mutex_lock(&t->shared.mu);
    struct broken *b = find(t, key);
    if (b != NULL && b->until_boot_ms <= now_boot_ms) {
        forget(t, b);
        b = NULL;
    }
    pthread_mutex_unlock(&t->shared.mu);
    return b != NULL ? SESSION_TLS_NONE : level;
}

void tlspolicy_broken(struct tlspolicy *t, const struct sockaddr_any *to, const char *host,
                      enum failure why, int64_t now_boot_ms) {
    bool is_silent = why == FAILURE_TIMEOUT || why == FAILURE_CLOSED;
    struct broken *fresh = mem_zalloc(sizeof(*fresh));
    make_key(to, host, fresh->key);
    fresh->until_boot_ms = now_boot_ms + (is_silent ? SILENT_MS : BROKEN_MS);
    pthread_mutex_lock(&t->shared.mu);
    struct broken *old = find(t, fresh->key);
    if (old != NULL && old->until_boot_ms > fresh->until_boot_ms)
        fresh->until_boot_ms = old->until_boot_ms;
    if (old == NULL && table_count(&t->shared.by_key) >= HOSTS_MAX)
        old = table_oldest(&t->shared.by_key);
    if (old != NULL)
        forget(t, old);
    table_add(&t->shared.by_key, &fresh->in_table, fresh->key, strlen(fresh->key), fresh);
    pthread_mutex_unlock(&t->shared.mu);
}
