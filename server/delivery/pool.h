/* pool: the sessions of one loop that are open and idle, so that the next message finds one.
 *
 * Key: everything that makes two sessions different: source, address and port, TLS level and
 * context, TLS name, credentials. A session leaves after its number of messages, its age, or its
 * idle time, whichever is first; the one used last is taken first, so that idle ones can age out.
 *
 *     struct conn *c = pool_take(p, &key);
 *     if (c == NULL) c = conn_open(p, &key, ...);
 *     ... session_send(c->session, ...) ...
 *     pool_put(p, &c);          // or conn_close(&c)
 *
 * Thread: the loop's.
 */
#pragma once

#include <sys/queue.h>

#include "server/smtp/session.h"

enum { CONN_KEY_SIZE = 512 };

struct conn_key {
    char octets[CONN_KEY_SIZE];
    size_t n;
};

struct conn_limits {
    int64_t idle_ms, age_ms;
    unsigned messages; /* 0: no limit */
};

struct conn {
    struct session *session;
    struct conn_key key;
    struct conn_limits limits;
    struct pool *pool;
    int64_t opened_mono_ms, idle_until_mono_ms;
    unsigned messages; /* transactions so far */
    bool is_idle;
    TAILQ_ENTRY(conn) idle;     /* all idle ones, longest idle first */
    TAILQ_ENTRY(conn) the_same; /* idle ones with its key, used last first */
    struct conn_bucket *bucket;
};

struct pool;
struct pool *pool_new(struct loop *l, size_t idle_most);
void pool_free(struct pool **pp); /* quits idle sessions; none may be taken */

/* Equal keys: sessions can stand for each other. */
void conn_key_make(struct conn_key *k, const struct session_options *o, uint64_t auth_tag);
/* An idle session; its events are still the pool's: session_set_events(). NULL: none. */
struct conn *pool_take(struct pool *p, const struct conn_key *k);
bool pool_has(const struct pool *p, const struct conn_key *k);
struct conn *conn_open(struct pool *p, const struct conn_key *k, const struct session_options *o,
                       const struct conn_limits *limits, const struct session_events *ev,
                       void *ctx);
/* Its number of messages or its age is reached: it takes no further transaction. */
bool conn_is_used_up(const struct conn *c, int64_t now_mono_ms);
/* Gives an idle session back: kept or quit. */
void pool_put(struct pool *p, struct conn **cp);
void conn_close(struct conn **cp); /* at once */
/* Quits every idle session. */
void pool_clear(struct pool *p);
size_t pool_idle_count(const struct pool *p);
