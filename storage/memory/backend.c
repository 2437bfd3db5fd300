/* The memory backend: the lock as a transaction, the table of verbs. */
#include <stdlib.h>

#include "storage/memory/memory.h"

static enum err backend_open(const struct store_options *o, const struct backend_file *was,
                             struct backend **out, struct errinfo *info) {
    (void)o;
    (void)was;
    (void)info;
    struct backend *b = mem_zalloc(sizeof(*b));
    NEED(pthread_rwlock_init(&b->shared.lock, NULL) == 0);
    *out = b;
    return OK;
}

static void backend_close(struct backend **bp) {
    struct backend *b = *bp;
    if (b == NULL)
        return;
    mem_lists_free(b);
    pthread_rwlock_destroy(&b->shared.lock);
    free(b);
    *bp = NULL;
}

static enum err backend_begin(struct backend *b) {
    pthread_rwlock_wrlock(&b->shared.lock);
    return OK;
}

static enum err backend_commit(struct backend *b) {
    pthread_rwlock_unlock(&b->shared.lock);
    return OK;
}

static void backend_rollback(struct backend *b) {
    pthread_rwlock_unlock(&b->shared.lock);
}

static enum err nothing(struct backend *b) {
    (void)b;
    return OK;
}

static int64_t backend_change_count(const struct backend *b) {
    (void)b;
    return 0; /* a verb that fails has changed nothing */
}

static bool backend_has_written(const struct backend *b) {
    (void)b;
    return true;
}

static enum backend_status backend_status(const struct backend *b) {
    (void)b;
    return BACKEND_READY;
}

static const char *backend_status_text(const struct backend *b) {
    (void)b;
    return "";
}

/* Called by the committer outside of a batch: it is the only writer. */
static void backend_totals(const struct backend *b, int64_t *accepted, int64_t by_state[]) {
    *accepted = b->shared.accepted;
    memcpy(by_state, b->shared.by_state, sizeof(b->shared.by_state));
}

static enum err backend_reader_open(const struct store_options *o, struct backend *b,
                                    struct backend_reader **out, struct errinfo *info) {
    (void)o;
    (void)info;
    struct backend_reader *r = mem_zalloc(sizeof(*r));
    r->b = b;
    *out = r;
    return OK;
}

static void backend_reader_close(struct backend_reader **rp) {
    free(*rp);
    *rp = NULL;
}

static enum err backend_check(struct backend_reader *r, struct errinfo *info) {
    struct backend *b = r->b;
    int64_t rows[RECIPIENT_STATE_COUNT] = {0}, sum = 0;
    enum err e = OK;
    pthread_rwlock_rdlock(&b->shared.lock);
    for (size_t i = 0; i < b->shared.messages.count; i++) {
        const struct mem_message *m = b->shared.messages.item[i];
        for (size_t k = 0; m != NULL && k < m->row.recipient_count; k++)
            rows[m->recipient[k].row.state]++;
    }
    for (int i = 0; i < RECIPIENT_STATE_COUNT; i++) {
        enum recipient_state s = (enum recipient_state)i;
        sum += b->shared.by_state[i];
        if (b->shared.by_state[i] < rows[i] ||
            (!recipient_state_is_final(s) && b->shared.by_state[i] != rows[i]))
            e = err_set(info, ERR_INTERNAL, "totals", "%s differs", recipient_state_name(s));
    }
    if (sum != b->shared.accepted)
        e = err_set(info, ERR_INTERNAL, "totals", "the states do not sum up to what was accepted");
    pthread_rwlock_unlock(&b->shared.lock);
    return e;
}

const struct store_ops store_memory_ops = {
    .name = "memory",
    .open = backend_open,
    .close = backend_close,
    .begin = backend_begin,
    .commit = backend_commit,
    .rollback = backend_rollback,
    .savepoint = nothing,
    .savepoint_release = nothing,
    .savepoint_rollback = nothing,
    .change_count = backend_change_count,
    .has_written = backend_has_written,
    .status = backend_status,
    .status_text = backend_status_text,
    .probe = nothing,
    .totals = backend_totals,
    .reader_open = backend_reader_open,
    .reader_close = backend_reader_close,
    .check = backend_check,
    .write =
        {
            [STORE_ACCEPT] = memory_accept,
            [STORE_CLAIM] = memory_claim,
            [STORE_SETTLE] = memory_settle,
            [STORE_RELEASE] = memory_release,
            [STORE_CANCEL] = memory_cancel,
            [STORE_RETRY] = memory_retry,
            [STORE_EXPIRE] = memory_expire,
            [STORE_RETAIN] = memory_retain,
            [STORE_MEND] = memory_mend,
            [STORE_KEY_PUT] = memory_key_put,
            [STORE_KEY_REVOKE] = memory_key_revoke,
            [STORE_KEYS_USED] = memory_keys_used,
            [STORE_DOMAIN_PUT] = memory_domain_put,
            [STORE_DOMAIN_DELETE] = memory_domain_delete,
            [STORE_DOMAIN_CHECKED] = memory_domain_checked,
            [STORE_WEBHOOK_PUT] = memory_webhook_put,
            [STORE_WEBHOOK_DELETE] = memory_webhook_delete,
            [STORE_WEBHOOK_TEST] = memory_webhook_test,
            [STORE_NOTIFY_CLAIM] = memory_notify_claim,
            [STORE_NOTIFY_SETTLE] = memory_notify_settle,
            [STORE_NOTIFY_REPLAY] = memory_notify_replay,
            [STORE_CAPTURE_PUT] = memory_capture_put,
        },
    .read =
        {
            [STORE_DUE] = memory_due,
            [STORE_CONTENT] = memory_content,
            [STORE_MESSAGE] = memory_message,
            [STORE_MESSAGES] = memory_messages,
            [STORE_EVENTS] = memory_events,
            [STORE_ATTEMPTS] = memory_attempts,
            [STORE_TOTALS] = memory_totals,
            [STORE_KEYS] = memory_keys,
            [STORE_DOMAINS] = memory_domains,
            [STORE_WEBHOOKS] = memory_webhooks,
            [STORE_NOTIFICATIONS] = memory_notifications,
            [STORE_CAPTURES] = memory_captures,
            [STORE_CAPTURE] = memory_capture,
        },
};
