#include "server/events/retry.h"

#include "server/base/limits.h"

enum { JITTER_PERCENT = 15 };

#define MINUTES(n) ((int64_t)(n)*60 * 1000)
#define HOURS(n) MINUTES((n)*60LL)

/* After attempt 1, 2, ...: the schedule that Standard Webhooks recommends. */
static const int64_t delay_ms[] = {5000,      MINUTES(5), MINUTES(30), HOURS(2), HOURS(5),
                                   HOURS(10), HOURS(14),  HOURS(20),   HOURS(24)};
enum { DELAY_COUNT = sizeof delay_ms / sizeof delay_ms[0] };

/* Nobody asked the endpoint: the resolver keeps a failure for five seconds, so that the second try
 * after a blink of our own would meet it, and the third come minutes later. */
enum { ASK_SOON_MS = 5000, ASK_SOON_FOR_MS = 60 * 1000 };

static const struct str REPLACEMENT = {"\xEF\xBF\xBD", 3};

static int64_t with_jitter(int64_t ms, uint64_t random) {
    int64_t span = ms * JITTER_PERCENT / 100;
    return ms - span + (int64_t)(random % (uint64_t)(2 * span + 1));
}

static void try_again(const struct retry_input *in, struct notify_result *out) {
    int64_t delay = with_jitter(delay_ms[in->attempts_before], in->random);
    int64_t asked = in->retry_after_ms > HOURS(24) ? HOURS(24) : in->retry_after_ms;
    out->state = NOTIFICATION_PENDING;
    out->due_wall_ms = in->now_wall_ms + (asked > delay ? asked : delay);
}

static bool was_not_asked(const struct retry_input *in) {
    int64_t age_ms = in->now_wall_ms - in->created_wall_ms;
    return in->failure == FAILURE_DNS_TEMPORARY && age_ms >= 0 && age_ms < ASK_SOON_FOR_MS;
}

void retry_judge(const struct retry_input *in, struct notify_result *out) {
    ASSERT(in->attempts_before >= 0);
    out->counts = in->failure != FAILURE_SHUTDOWN;
    out->status = in->failure == FAILURE_NONE ? in->status : 0;
    out->due_wall_ms = 0;
    out->disable_webhook = out->mark_failing = out->mark_working = false;
    if (in->failure == FAILURE_SHUTDOWN) { /* ours, not the endpoint's: as if never tried */
        out->state = NOTIFICATION_PENDING;
        out->due_wall_ms = in->now_wall_ms;
    } else if (was_not_asked(in)) {
        out->counts = false;
        out->state = NOTIFICATION_PENDING;
        out->due_wall_ms = in->now_wall_ms + with_jitter(ASK_SOON_MS, in->random);
    } else if (in->failure == FAILURE_NONE && in->status >= 200 && in->status <= 299) {
        out->state = NOTIFICATION_DELIVERED;
        out->mark_working = true;
    } else if (in->failure == FAILURE_NONE && in->status == 410) {
        out->state = NOTIFICATION_FAILED;
        out->disable_webhook = true;
    } else if (in->attempts_before < DELAY_COUNT) {
        try_again(in, out);
    } else {
        out->state = NOTIFICATION_FAILED;
        out->mark_failing = true;
    }
}

void retry_excerpt(struct str body, struct buf *out) {
    size_t end = out->n + LIMIT_WEBHOOK_RESPONSE_STORED;
    while (body.n > 0) {
        size_t n = str_utf8_length(body);
        struct str character = n && body.p[0] != '\0' ? str_slice(body, 0, n) : REPLACEMENT;
        if (out->n + character.n > end)
            break;
        buf_put(out, character);
        body = str_from(body, n ? n : 1);
    }
}
