#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "server/base/metrics.h"
#include "server/base/thread.h"

static const char *const words[] = {"delivered", "say \"no\"", "back\\slash", "two\nlines"};
static const double bounds[] = {0.005, 0.1, 1, 2.5};

static void everything_is_printed_in_the_text_format(void **state) {
    (void)state;
    /* not in the order of their names */
    struct metric *c = metric_counter("postchute_z_total", "Back\\slash and\nline.");
    struct metric *g = metric_gauge("postchute_a", "A gauge.");
    struct metric *l =
        metric_counter_labelled("postchute_m_total", "With a label.", "result", words, 4);
    struct metric *lg = metric_gauge_labelled("postchute_n", "Gauge.", "lane", words, 1);
    struct metric *h = metric_histogram("postchute_h_seconds", "A histogram.", bounds, 4);
    metric_add(c, 2);
    metric_add(c, 0);
    metric_set(g, 10);
    metric_add(g, -13);
    metric_add_at(l, 1, 5);
    metric_add_at(l, 3, 1);
    metric_set_at(lg, 0, 4);
    static const int64_t observed_us[] = {0, 5000, 5001, 100000, 999999, 2500001, 7000000};
    for (size_t i = 0; i < sizeof(observed_us) / sizeof(observed_us[0]); i++)
        metric_observe_us(h, observed_us[i]);
    struct buf b = BUF_INIT(10000);
    metrics_print(&b);
    assert_int_equal(buf_status(&b), OK);
    assert_string_equal(b.p, "# HELP postchute_a A gauge.\n"
                             "# TYPE postchute_a gauge\n"
                             "postchute_a -3\n"
                             "# HELP postchute_h_seconds A histogram.\n"
                             "# TYPE postchute_h_seconds histogram\n"
                             "postchute_h_seconds_bucket{le=\"0.005\"} 2\n"
                             "postchute_h_seconds_bucket{le=\"0.1\"} 4\n"
                             "postchute_h_seconds_bucket{le=\"1\"} 5\n"
                             "postchute_h_seconds_bucket{le=\"2.5\"} 5\n"
                             "postchute_h_seconds_bucket{le=\"+Inf\"} 7\n"
                             "postchute_h_seconds_sum 10.610001\n"
                             "postchute_h_seconds_count 7\n"
                             "# HELP postchute_m_total With a label.\n"
                             "# TYPE postchute_m_total counter\n"
                             "postchute_m_total{result=\"delivered\"} 0\n"
                             "postchute_m_total{result=\"say \\\"no\\\"\"} 5\n"
                             "postchute_m_total{result=\"back\\\\slash\"} 0\n"
                             "postchute_m_total{result=\"two\\nlines\"} 1\n"
                             "# HELP postchute_n Gauge.\n"
                             "# TYPE postchute_n gauge\n"
                             "postchute_n{lane=\"delivered\"} 4\n"
                             "# HELP postchute_z_total Back\\\\slash and\\nline.\n"
                             "# TYPE postchute_z_total counter\n"
                             "postchute_z_total 2\n");
    buf_release(&b);
    assert_true(metric_get(l, 1) == 5);
    assert_true(metric_get(h, 4) == 2);
}

static void a_name_is_registered_once(void **state) {
    (void)state;
    struct metric *first = metric_counter("postchute_once_total", "Once.");
    metric_add(first, 1);
    struct metric *again = metric_counter("postchute_once_total", "Once.");
    assert_ptr_equal(first, again);
    assert_true(metric_get(again, 0) == 1);
}

enum { THREADS = 4, TIMES = 20000 };
static struct metric *counted, *observed;

static void count(void *arg) {
    (void)arg;
    for (int i = 0; i < TIMES; i++) {
        metric_add(counted, 1);
        metric_observe_us(observed, 1000);
    }
}

static void threads_lose_no_count(void **state) {
    (void)state;
    counted = metric_counter("postchute_counted_total", "Counted.");
    observed = metric_histogram("postchute_observed_seconds", "Observed.", bounds, 4);
    struct thread *threads[THREADS];
    for (int i = 0; i < THREADS; i++)
        threads[i] = thread_start("count", count, NULL);
    struct buf b = BUF_INIT(100000);
    metrics_print(&b); /* meanwhile */
    buf_clear(&b);
    for (int i = 0; i < THREADS; i++)
        thread_join(&threads[i]);
    assert_true(metric_get(counted, 0) == THREADS * TIMES);
    metrics_print(&b);
    assert_non_null(strstr(b.p, "postchute_observed_seconds_count 80000\n"));
    assert_non_null(strstr(b.p, "postchute_observed_seconds_sum 80\n"));
    buf_release(&b);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(everything_is_printed_in_the_text_format),
        cmocka_unit_test(a_name_is_registered_once),
        cmocka_unit_test(threads_lose_no_count),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
