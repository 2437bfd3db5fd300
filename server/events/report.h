/* report: what became of each post, for the log and the metrics. Private to server/events/.
 * Thread: the webhook loop's; report_register() before it. */
#pragma once

#include "storage/store.h"

struct report {
    const struct id *webhook, *event;
    enum event_type type;
    int attempts; /* before this one */
    const struct notify_result *result;
};

void report_register(void);
void report_under_way(int by);
void report_answered(int64_t took_ms); /* by an answer, or by a failure that is not ours */
/* One line and one count: delivered, tried again later, failed, released. */
void report_result(const struct report *r);
