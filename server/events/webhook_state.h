/* webhook_state: what the files of the room share; nobody else includes it.
 *
 *   webhook.c       what is claimed when, for which endpoints; start and stop
 *   webhook_post.c  one notification: sent, answered, stored
 *
 * Thread: the webhook loop.
 */
#pragma once

#include <sys/queue.h>

#include "server/events/endpoint.h"
#include "server/events/standing.h"
#include "server/events/webhook.h"
#include "server/net/loop.h"

/* A notification from its claim to its settle is a `struct post`, in ONE of these states:
 *
 *     claimed ──► WAITING ──send──► UNDER_WAY ──answered──► SETTLING ──stored──► freed
 *                    │ endpoint unknown, or changed: the       ▲ │ the store cannot now
 *                    │ endpoints are read again first          │ ▼
 *                    └── gone, disabled, shutdown ────────► UNSTORED (timer)
 */
enum post_state { POST_WAITING, POST_UNDER_WAY, POST_SETTLING, POST_UNSTORED };

enum {
    /* held at once, in every state: room for all endpoints of a project when none of them answers
     * (one each, standing.h), and for others beside them */
    POSTS_MAX = 192,
    BODY_MAX = 1 << 20,  /* an event has no content: metadata and one reply at most */
    POLL_MS = 60 * 1000, /* looks at least so often, whatever the clock did */
    BUSY_POLL_MS = 1000, /* due, but at its endpoint's limit */
    IDLE_POLL_MS = 100,
    STORE_AGAIN_MS = 1000,           /* the store could not: first wait, */
    STORE_AGAIN_MOST_MS = 30 * 1000, /* doubled up to this */
    SETTLE_SHARE_MS = 1000,          /* of the time to stop: kept for the results */
};

struct webhooks {
    struct store *store;
    struct loop *loop;
    struct mailbox *box;   /* the loop's */
    struct mailbox *asker; /* of whoever waits for the loop's answer; kept, so that asking takes no
                              descriptor */
    char *user_agent, *ca_file;
    int64_t timeout_ms;
    struct dns *dns;
    const struct guard *guard;
    /* the loop's thread alone */
    struct httpc *http;
    struct endpoints *endpoints;
    struct timer *due;      /* claims */
    struct timer *stopping; /* the time to stop is over, in two steps */
    TAILQ_HEAD(, post) posts;
    size_t post_count;
    struct standing standing;
    struct store_notify_claim claim;
    struct notify_share *share; /* of the claim */
    struct store_webhooks load;
    bool is_claiming, claim_again;
    bool is_loading, load_again;
    uint64_t reading, read; /* of the endpoints: the newest that began, and the one they are of */
    bool is_stale;          /* they were changed since, or could not be read */
    bool is_stopping, is_late; /* late: what is not stored is left to the store's recovery */
    bool is_drained;           /* main's */
    int64_t stop_ms;
    struct question *stop_question;
};

struct post {
    TAILQ_ENTRY(post) link;
    struct webhooks *w;
    enum post_state state;
    struct id webhook_id, event_id;
    enum event_type type;
    int attempts;
    int64_t created_wall_ms;
    uint64_t reading; /* the newest that had begun when it was claimed */
    bool has_no_body; /* there was no memory for it */
    struct buf body, error, response;
    struct notify_result result;
    struct store_notify_settle settle;
    struct timer *again;
    int64_t again_ms;
};

/* ---- webhook_post.c ---- */

void post_send(struct post *p, const struct endpoint *to);
/* Back to pending, as if never claimed. */
void post_put_back(struct post *p);
/* Nobody is there to be asked. */
void post_drop(struct post *p, const char *why);
void post_free(struct post *p);

/* ---- webhook.c ---- */

/* There is room for one more. */
void webhook_claim_more(struct webhooks *w);
/* Answers who stops it when nothing is left. */
void webhook_finish_stop(struct webhooks *w);
