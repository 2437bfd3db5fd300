/* memory: the outbox as plain lists, for tests and as the second opinion on the contract.
 *
 * Nothing survives closing. Sequences are positions: message seq n is message[n - 1], and so for
 * events and notifications; what was removed leaves NULL. Every verb decides before it changes
 * anything, so that there is nothing to roll back.
 *
 * Thread: the committer holds the lock for writing from begin to commit, readers for reading.
 */
#pragma once

#include <pthread.h>

#include "storage/store_ops.h"

struct mem_recipient {
    struct recipient_row row;
    struct str queue_key;
    int64_t no_domain_wall_ms;
};

struct mem_attempt {
    struct attempt_row row;
    struct mem_attempt *next;
};

struct mem_message {
    struct arena *arena; /* everything of it */
    struct message_row row;
    struct mem_recipient *recipient;
    struct mem_attempt *first_attempt, **last_attempt;
    size_t attempt_count;
    struct message *content; /* NULL: erased */
};

struct mem_event {
    struct arena *arena;
    struct event_row row;
};

struct mem_notification {
    struct arena *arena;
    struct notification_row row;
    int64_t event; /* seq */
    int64_t webhook;
};

struct mem_idempotency {
    struct mem_idempotency *next;
    int64_t project, message, until_wall_ms;
    uint8_t fingerprint[32];
    char *key;
    size_t key_size;
};

/* Anything that is put as a whole and listed as a whole. */
struct mem_thing {
    struct mem_thing *next;
    struct arena *arena;
    int64_t n;
    union {
        struct key_row key;
        struct domain_row domain;
        struct webhook_row webhook;
        struct capture_row capture;
    } as;
};

struct mem_list {
    void **item;
    size_t count, room;
};

struct backend {
    struct {
        pthread_rwlock_t lock;
        struct mem_list messages, events, notifications;
        struct mem_idempotency *idempotency;
        struct mem_thing *keys, *domains, *webhooks, *captures;
        int64_t next_thing;
        int64_t accepted, by_state[RECIPIENT_STATE_COUNT];
    } shared;
};

struct backend_reader {
    struct backend *b;
};

void mem_list_add(struct mem_list *l, void *item);
/* NULL: none, or removed. */
struct mem_message *mem_message_at(const struct backend *b, int64_t seq);
struct mem_event *mem_event_at(const struct backend *b, int64_t seq);
struct mem_notification *mem_notification_at(const struct backend *b, int64_t seq);
struct mem_message *mem_message_find(const struct backend *b, const struct id *id, int64_t project);
void mem_message_free(struct mem_message **mp);
void mem_message_copy(const struct mem_message *m, struct arena *a, struct message_row *out);
void mem_event_copy(const struct backend *b, const struct mem_event *e, struct arena *a,
                    struct event_row *out);
void mem_result_copy(struct arena *a, const struct last_result *from, struct last_result *out);
bool mem_message_is_open(const struct mem_message *m);
/* Assigns seq and id, keeps it, makes its notifications: for one endpoint (`only` not 0), or for
 * all that want it but `except`. */
struct event_row *mem_event_put(struct backend *b, struct effects *fx, const struct event_row *e,
                                int64_t only, int64_t except);
struct mem_thing *mem_thing_new(struct backend *b, struct mem_thing **list);
void mem_thing_remove(struct mem_thing **list, struct mem_thing *t);
struct mem_thing *mem_webhook_find(const struct backend *b, const struct id *id, int64_t project);
void mem_lists_free(struct backend *b);
void *mem_grow(struct arena *a, void *rows, size_t each, size_t count);

#define MEM_WRITE(name)                                                                            \
    enum err memory_##name(struct backend *b, struct effects *fx, struct store_call *call)
#define MEM_READ(name) enum err memory_##name(struct backend_reader *r, struct store_call *call)

MEM_WRITE(accept);
MEM_WRITE(claim);
MEM_WRITE(settle);
MEM_WRITE(release);
MEM_WRITE(cancel);
MEM_WRITE(retry);
MEM_WRITE(expire);
MEM_WRITE(retain);
MEM_WRITE(mend);
MEM_WRITE(key_put);
MEM_WRITE(key_revoke);
MEM_WRITE(keys_used);
MEM_WRITE(domain_put);
MEM_WRITE(domain_delete);
MEM_WRITE(domain_checked);
MEM_WRITE(webhook_put);
MEM_WRITE(webhook_delete);
MEM_WRITE(webhook_test);
MEM_WRITE(notify_claim);
MEM_WRITE(notify_settle);
MEM_WRITE(notify_replay);
MEM_WRITE(capture_put);
MEM_READ(due);
MEM_READ(content);
MEM_READ(message);
MEM_READ(messages);
MEM_READ(events);
MEM_READ(attempts);
MEM_READ(totals);
MEM_READ(keys);
MEM_READ(domains);
MEM_READ(webhooks);
MEM_READ(notifications);
MEM_READ(captures);
MEM_READ(capture);
