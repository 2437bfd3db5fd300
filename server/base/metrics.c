#include "server/base/metrics.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

enum { BOUNDS_MAX = 16 };

enum kind { KIND_COUNTER, KIND_GAUGE, KIND_HISTOGRAM };
static const char *const kind_names[] = {
    [KIND_COUNTER] = "counter",
    [KIND_GAUGE] = "gauge",
    [KIND_HISTOGRAM] = "histogram",
};

/* All but the cells is written once, at registration. Thread: any (the cells are atomic). */
struct metric {
    struct metric *next; /* by name */
    enum kind kind;
    const char *name, *help;
    const char *label; /* NULL: one series */
    const char *const *values;
    size_t count;                  /* cells: series, or the histogram's buckets with +Inf */
    int64_t bounds_us[BOUNDS_MAX]; /* histogram */
    atomic_int_fast64_t sum_us;    /* histogram */
    atomic_int_fast64_t cells[];   /* histogram: observations per bucket, not yet added up */
};

static struct {
    struct {
        pthread_mutex_t mu;
        struct metric *first;
    } shared;
} registry = {.shared = {.mu = PTHREAD_MUTEX_INITIALIZER}};

/* Prometheus data model: [a-zA-Z_:][a-zA-Z0-9_:]*; ours have no colon, those are for rules. */
static bool is_name(const char *z) {
    if (*z == '\0' || ascii_is_digit(*z))
        return false;
    for (; *z != '\0'; z++)
        if (!ascii_is_alnum(*z) && *z != '_')
            return false;
    return true;
}

/* The metric of that name: `made`, or the one that was there before. */
static struct metric *add_to_registry(struct metric *made) {
    ASSERT(is_name(made->name));
    ASSERT(made->kind != KIND_COUNTER || str_ends_with(str_of(made->name), STR("_total")));
    pthread_mutex_lock(&registry.shared.mu);
    struct metric **at = &registry.shared.first;
    int order = -1;
    while (*at != NULL && (order = strcmp((*at)->name, made->name)) < 0)
        at = &(*at)->next;
    struct metric *there = *at;
    if (there == NULL || order != 0) {
        made->next = there;
        *at = made;
        there = made;
    }
    pthread_mutex_unlock(&registry.shared.mu);
    if (there != made) {
        ASSERT(there->kind == made->kind && there->count == made->count);
        free(made);
    }
    return there;
}

static struct metric *metric_new(enum kind kind, const char *name, const char *help, size_t count) {
    struct metric *m = mem_zalloc(sizeof(*m) + count * sizeof(m->cells[0]));
    m->kind = kind;
    m->name = name;
    m->help = help;
    m->count = count;
    return m;
}

static struct metric *labelled(enum kind kind, const char *name, const char *help,
                               const char *label, const char *const *values, size_t count) {
    ASSERT(is_name(label) && count > 0);
    struct metric *m = metric_new(kind, name, help, count);
    m->label = label;
    m->values = values;
    return add_to_registry(m);
}

struct metric *metric_counter(const char *name, const char *help) {
    return add_to_registry(metric_new(KIND_COUNTER, name, help, 1));
}

struct metric *metric_gauge(const char *name, const char *help) {
    return add_to_registry(metric_new(KIND_GAUGE, name, help, 1));
}

struct metric *metric_counter_labelled(const char *name, const char *help, const char *label,
                                       const char *const *values, size_t count) {
    return labelled(KIND_COUNTER, name, help, label, values, count);
}

struct metric *metric_gauge_labelled(const char *name, const char *help, const char *label,
                                     const char *const *values, size_t count) {
    return labelled(KIND_GAUGE, name, help, label, values, count);
}

struct metric *metric_histogram(const char *name, const char *help, const double *bounds,
                                size_t count) {
    ASSERT(count > 0 && count <= BOUNDS_MAX);
    struct metric *m = metric_new(KIND_HISTOGRAM, name, help, count + 1);
    for (size_t i = 0; i < count; i++) {
        m->bounds_us[i] = (int64_t)(bounds[i] * 1e6 + 0.5);
        ASSERT(i == 0 || m->bounds_us[i] > m->bounds_us[i - 1]);
    }
    return add_to_registry(m);
}

void metric_add_at(struct metric *m, size_t index, int64_t by) {
    ASSERT(index < m->count && m->kind != KIND_HISTOGRAM);
    ASSERT(m->kind != KIND_COUNTER || by >= 0);
    atomic_fetch_add_explicit(&m->cells[index], by, memory_order_relaxed);
}

void metric_add(struct metric *m, int64_t by) {
    metric_add_at(m, 0, by);
}

void metric_set_at(struct metric *m, size_t index, int64_t value) {
    ASSERT(index < m->count && m->kind == KIND_GAUGE);
    atomic_store_explicit(&m->cells[index], value, memory_order_relaxed);
}

void metric_set(struct metric *m, int64_t value) {
    metric_set_at(m, 0, value);
}

void metric_observe_us(struct metric *m, int64_t microseconds) {
    ASSERT(m->kind == KIND_HISTOGRAM);
    size_t i = 0;
    while (i < m->count - 1 && microseconds > m->bounds_us[i])
        i++;
    atomic_fetch_add_explicit(&m->cells[i], 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&m->sum_us, microseconds, memory_order_relaxed);
}

int64_t metric_get(const struct metric *m, size_t index) {
    ASSERT(index < m->count);
    return atomic_load_explicit(&m->cells[index], memory_order_relaxed);
}

/* Text format 0.0.4: backslash and line feed are escaped, in label values the quote as well. */
static void put_escaped(struct buf *out, const char *z, bool quote) {
    for (; *z != '\0'; z++) {
        if (*z == '\n') {
            buf_put(out, STR("\\n"));
            continue;
        }
        if (*z == '\\' || (quote && *z == '"'))
            buf_putc(out, '\\');
        buf_putc(out, *z);
    }
}

/* Seconds as a decimal number, whatever the locale says about points. */
static void put_seconds(struct buf *out, int64_t us) {
    uint64_t size = us < 0 ? -(uint64_t)us : (uint64_t)us;
    if (us < 0)
        buf_putc(out, '-');
    buf_printf(out, "%llu", (unsigned long long)(size / 1000000));
    unsigned fraction = (unsigned)(size % 1000000);
    if (fraction == 0)
        return;
    int digits = 6;
    for (; fraction % 10 == 0; fraction /= 10)
        digits--;
    buf_printf(out, ".%0*u", digits, fraction);
}

static void print_series(struct buf *out, const struct metric *m) {
    for (size_t i = 0; i < m->count; i++) {
        buf_putz(out, m->name);
        if (m->label != NULL) {
            buf_printf(out, "{%s=\"", m->label);
            put_escaped(out, m->values[i], true);
            buf_put(out, STR("\"}"));
        }
        buf_printf(out, " %lld\n", (long long)metric_get(m, i));
    }
}

static void print_histogram(struct buf *out, const struct metric *m) {
    int64_t seen = 0;
    for (size_t i = 0; i < m->count; i++) {
        seen += metric_get(m, i);
        buf_printf(out, "%s_bucket{le=\"", m->name);
        if (i < m->count - 1)
            put_seconds(out, m->bounds_us[i]);
        else
            buf_put(out, STR("+Inf"));
        buf_printf(out, "\"} %lld\n", (long long)seen);
    }
    buf_printf(out, "%s_sum ", m->name);
    put_seconds(out, atomic_load_explicit(&m->sum_us, memory_order_relaxed));
    /* The same number as +Inf, even while others observe. */
    buf_printf(out, "\n%s_count %lld\n", m->name, (long long)seen);
}

void metrics_print(struct buf *out) {
    pthread_mutex_lock(&registry.shared.mu);
    const struct metric *first = registry.shared.first;
    pthread_mutex_unlock(&registry.shared.mu);
    for (const struct metric *m = first; m != NULL; m = m->next) {
        buf_printf(out, "# HELP %s ", m->name);
        put_escaped(out, m->help, false);
        buf_printf(out, "\n# TYPE %s %s\n", m->name, kind_names[m->kind]);
        if (m->kind == KIND_HISTOGRAM)
            print_histogram(out, m);
        else
            print_series(out, m);
    }
}
