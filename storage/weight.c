/* What a call weighs in a transaction, and whether its caller waits for it. */
#include "server/base/limits.h"
#include "storage/store_ops.h"

/* Of one message, of which the caller may have said how many recipients it has. */
static size_t rows_of_message(size_t recipient_count) {
    return 1 + (recipient_count != 0 ? recipient_count : LIMIT_RECIPIENTS_MAX);
}

void call_measure(const struct store_call *call, size_t *rows, size_t *bytes) {
    *rows = 1;
    *bytes = 512;
    if (call->verb == STORE_ACCEPT) {
        const struct store_accept *q = CONTAINER_OF(call, const struct store_accept, call);
        *rows += q->message.recipient_count;
        *bytes += q->message.recipient_count * 256;
        *bytes += q->content != NULL ? message_size(q->content) : 0;
    } else if (call->verb == STORE_CLAIM) {
        *rows = CONTAINER_OF(call, const struct store_claim, call)->count;
    } else if (call->verb == STORE_RELEASE) {
        *rows = CONTAINER_OF(call, const struct store_release, call)->count;
    } else if (call->verb == STORE_SETTLE) {
        const struct store_settle *q = CONTAINER_OF(call, const struct store_settle, call);
        *rows += q->count;
        *bytes += q->count * 512 + (q->attempt != NULL ? q->attempt->transcript.n : 0);
    } else if (call->verb == STORE_CANCEL) {
        const struct store_cancel *q = CONTAINER_OF(call, const struct store_cancel, call);
        *rows = rows_of_message(q->recipient_count);
    } else if (call->verb == STORE_RETRY) {
        const struct store_retry *q = CONTAINER_OF(call, const struct store_retry, call);
        *rows = rows_of_message(q->recipient_count);
    } else if (call->verb == STORE_EXPIRE) {
        *rows += CONTAINER_OF(call, const struct store_expire, call)->most;
    } else if (call->verb == STORE_RETAIN) {
        *rows += CONTAINER_OF(call, const struct store_retain, call)->most;
    } else if (call->verb == STORE_MEND) {
        *rows += CONTAINER_OF(call, const struct store_mend, call)->most;
    } else if (call->verb == STORE_NOTIFY_SETTLE) {
        *rows = CONTAINER_OF(call, const struct store_notify_settle, call)->count;
    } else if (call->verb == STORE_NOTIFY_REPLAY) {
        const struct store_notify_replay *q =
            CONTAINER_OF(call, const struct store_notify_replay, call);
        *rows += q->seq != 0 ? 0 : q->most;
    } else if (call->verb == STORE_CAPTURE_PUT) {
        *bytes += CONTAINER_OF(call, const struct store_capture_put, call)->capture.content.n;
    }
}

bool call_is_patient(const struct store_call *call) {
    switch (call->verb) {
    case STORE_CLAIM:
    case STORE_SETTLE:
    case STORE_RELEASE:
    case STORE_NOTIFY_CLAIM:
    case STORE_NOTIFY_SETTLE:
    case STORE_KEYS_USED:
        return true;
    default:
        return false;
    }
}
