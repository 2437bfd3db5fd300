#include "server/events/report.h"

#include "server/base/clock.h"
#include "server/base/log.h"
#include "server/base/metrics.h"

enum outcome { DELIVERED, RETRIED, FAILED, RELEASED };
static const char *const outcome_names[] = {"delivered", "retried", "failed", "released"};
static struct metric *posts_total, *posts_under_way, *post_seconds;

void report_register(void) {
    static const double bounds[] = {0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 15, 30};
    posts_total = metric_counter_labelled("postchute_webhook_posts_total",
                                          "Webhook posts by result.", "result", outcome_names,
                                          sizeof outcome_names / sizeof *outcome_names);
    posts_under_way = metric_gauge("postchute_webhook_posts_under_way", "Webhook posts under way.");
    post_seconds = metric_histogram("postchute_webhook_post_seconds",
                                    "Time to an endpoint's answer or failure.", bounds,
                                    sizeof bounds / sizeof *bounds);
}

void report_under_way(int by) {
    metric_add(posts_under_way, by);
}

void report_answered(int64_t took_ms) {
    metric_observe_us(post_seconds, took_ms * 1000);
}

static enum outcome outcome_of(const struct notify_result *r) {
    if (r->state == NOTIFICATION_DELIVERED)
        return DELIVERED;
    if (r->state == NOTIFICATION_FAILED)
        return FAILED;
    return r->counts ? RETRIED : RELEASED;
}

static const char *words_of(const struct notify_result *r, enum log_level *level) {
    *level = LOG_INFO;
    switch (outcome_of(r)) {
    case DELIVERED:
        return "delivered";
    case RETRIED:
        return "failed, again later";
    case RELEASED:
        return "released";
    case FAILED:
        break;
    }
    *level = r->disable_webhook || r->mark_failing ? LOG_WARN : LOG_INFO;
    if (r->disable_webhook)
        return "the endpoint answered 410: disabled";
    return r->mark_failing ? "failed for good: the endpoint is marked as failing" : "dropped";
}

void report_result(const struct report *r) {
    enum log_level level;
    const struct notify_result *result = r->result;
    const char *words = words_of(result, &level);
    struct log_field fields[9] = {LOG_ID("webhook", r->webhook),
                                  LOG_ID("event", r->event),
                                  LOG_STRZ("type", event_type_name(r->type)),
                                  LOG_INT("attempt", r->attempts + (result->counts ? 1 : 0)),
                                  LOG_INT("status", result->status),
                                  LOG_INT("ms", result->took_ms)};
    size_t n = 6;
    if (!str_is_empty(result->error))
        fields[n++] = LOG_STR("why", result->error);
    if (outcome_of(result) == RETRIED)
        fields[n++] = LOG_INT("again_in_s", (result->due_wall_ms - clock_wall_ms()) / 1000);
    metric_add_at(posts_total, (size_t)outcome_of(result), 1);
    if (log_is_on(level))
        log_write(level, "webhook", words, fields);
}
