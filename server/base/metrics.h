/* metrics: counters, gauges and histograms, shown in the Prometheus text format.
 *
 * A metric is registered once, before threads start, and then updated from any thread without a
 * lock. Names are `postchute_*` in base units, counters end in `_total`. At most one label, whose
 * values are a fixed list: no address, domain or id ever becomes a label. Names, help and values
 * live as long as the process. Registering a name again gives the metric that it has.
 *
 *     static struct metric *accepted;
 *     accepted = metric_counter("postchute_messages_accepted_total", "Messages stored durably.");
 *     metric_add(accepted, 1);
 */
#pragma once

#include "server/base/buf.h"

struct metric;

struct metric *metric_counter(const char *name, const char *help);
struct metric *metric_gauge(const char *name, const char *help);
/* One series per value; update with metric_add_at(m, index, by). */
struct metric *metric_counter_labelled(const char *name, const char *help, const char *label,
                                       const char *const *values, size_t count);
struct metric *metric_gauge_labelled(const char *name, const char *help, const char *label,
                                     const char *const *values, size_t count);
/* Upper bounds in seconds, ascending, at most 16; +Inf is added. */
struct metric *metric_histogram(const char *name, const char *help, const double *bounds,
                                size_t count);

void metric_add(struct metric *m, int64_t by);
void metric_add_at(struct metric *m, size_t index, int64_t by);
void metric_set(struct metric *m, int64_t value);
void metric_set_at(struct metric *m, size_t index, int64_t value);
void metric_observe_us(struct metric *m, int64_t microseconds);
/* Of a histogram: the observations in bucket `index` alone. */
int64_t metric_get(const struct metric *m, size_t index);
/* Everything registered, sorted by name. */
void metrics_print(struct buf *out);
