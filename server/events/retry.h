/* retry: what the answer of an endpoint means for its notification. Pure: time and randomness are
 * arguments. Thread: any.
 *
 *     struct retry_input in = {.attempts_before = n->attempts, .status = 503, ...};
 *     retry_judge(&in, &result);        // DELIVERED, PENDING with a due time, or FAILED
 */
#pragma once

#include "server/base/buf.h"
#include "storage/store.h"

struct retry_input {
    int attempts_before;    /* counted ones, without this; not negative */
    enum failure failure;   /* FAILURE_NONE: `status` holds */
    int status;             /* of the HTTP answer */
    int64_t retry_after_ms; /* -1: not given */
    int64_t now_wall_ms;
    int64_t created_wall_ms; /* of the notification */
    uint64_t random;         /* for the jitter */
};

/* Sets everything of `out` but seq, took_ms, error and response. */
void retry_judge(const struct retry_input *in, struct notify_result *out);

/* The beginning of an answer, at most LIMIT_WEBHOOK_RESPONSE_STORED bytes, as text that can be
 * stored and shown: what is not UTF-8, and NUL, becomes U+FFFD. */
void retry_excerpt(struct str body, struct buf *out);
