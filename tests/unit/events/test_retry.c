#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "server/base/limits.h"
#include "server/events/retry.h"

enum { NOW = 1000000, MINUTE = 60 * 1000, HOUR = 60 * MINUTE };

static struct notify_result judge(int before, enum failure f, int status, int64_t retry_after,
                                  uint64_t random) {
    struct retry_input in = {.attempts_before = before,
                             .failure = f,
                             .status = status,
                             .retry_after_ms = retry_after,
                             .now_wall_ms = NOW,
                             .random = random};
    struct notify_result out = {.seq = 7, .took_ms = 3};
    retry_judge(&in, &out);
    assert_int_equal(out.seq, 7);
    assert_int_equal(out.took_ms, 3);
    return out;
}

static void only_2xx_is_success(void **state) {
    (void)state;
    static const struct {
        enum failure failure;
        int status;
        enum notification_state want;
    } rows[] = {
        {FAILURE_NONE, 200, NOTIFICATION_DELIVERED},
        {FAILURE_NONE, 204, NOTIFICATION_DELIVERED},
        {FAILURE_NONE, 299, NOTIFICATION_DELIVERED},
        {FAILURE_NONE, 199, NOTIFICATION_PENDING},
        {FAILURE_NONE, 301, NOTIFICATION_PENDING},
        {FAILURE_NONE, 302, NOTIFICATION_PENDING},
        {FAILURE_NONE, 307, NOTIFICATION_PENDING},
        {FAILURE_NONE, 308, NOTIFICATION_PENDING},
        {FAILURE_NONE, 400, NOTIFICATION_PENDING},
        {FAILURE_NONE, 404, NOTIFICATION_PENDING},
        {FAILURE_NONE, 410, NOTIFICATION_FAILED},
        {FAILURE_NONE, 500, NOTIFICATION_PENDING},
        {FAILURE_TIMEOUT, 0, NOTIFICATION_PENDING},
        {FAILURE_CONNECT_FORBIDDEN, 0, NOTIFICATION_PENDING},
        {FAILURE_TIMEOUT, 200, NOTIFICATION_PENDING}, /* a status before the answer broke off */
        {FAILURE_SHUTDOWN, 200, NOTIFICATION_PENDING},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct notify_result r = judge(0, rows[i].failure, rows[i].status, -1, 0);
        assert_int_equal(r.state, rows[i].want);
        assert_int_equal(r.mark_working, rows[i].want == NOTIFICATION_DELIVERED);
        assert_int_equal(r.disable_webhook, rows[i].status == 410);
        assert_int_equal(r.counts, rows[i].failure != FAILURE_SHUTDOWN);
        assert_int_equal(r.status, rows[i].failure == FAILURE_NONE ? rows[i].status : 0);
        assert_false(r.mark_failing);
    }
}

/* For a minute: the endpoint knows nothing of what name servers do not answer. */
static void what_was_not_asked_is_asked_soon(void **state) {
    (void)state;
    static const struct {
        enum failure failure;
        int64_t age_ms;
        bool is_soon;
    } rows[] = {
        {FAILURE_DNS_TEMPORARY, 0, true},
        {FAILURE_DNS_TEMPORARY, MINUTE - 1, true},
        {FAILURE_DNS_TEMPORARY, MINUTE, false},
        {FAILURE_DNS_TEMPORARY, -HOUR, false}, /* the clock was set back */
        {FAILURE_DNS_NXDOMAIN, 0, false},
        {FAILURE_CONNECT_REFUSED, 0, false},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct notify_result out = {0};
        retry_judge(&(struct retry_input){.attempts_before = 1,
                                          .failure = rows[i].failure,
                                          .retry_after_ms = -1,
                                          .now_wall_ms = NOW,
                                          .created_wall_ms = NOW - rows[i].age_ms},
                    &out);
        assert_int_equal(out.state, NOTIFICATION_PENDING);
        assert_int_equal(out.counts, !rows[i].is_soon);
        int64_t wait_ms = rows[i].is_soon ? 5000 : 5 * MINUTE;
        assert_int_equal(out.due_wall_ms, NOW + wait_ms - wait_ms * 15 / 100);
    }
}

static void waits_follow_the_schedule(void **state) {
    (void)state;
    static const int64_t wait[] = {5000,      5 * MINUTE, 30 * MINUTE, 2 * HOUR, 5 * HOUR,
                                   10 * HOUR, 14 * HOUR,  20 * HOUR,   24 * HOUR};
    for (int i = 0; i < 9; i++) {
        int64_t span = wait[i] * 15 / 100;
        assert_int_equal(judge(i, FAILURE_TIMEOUT, 0, -1, 0).due_wall_ms, NOW + wait[i] - span);
        assert_int_equal(judge(i, FAILURE_TIMEOUT, 0, -1, (uint64_t)span).due_wall_ms,
                         NOW + wait[i]);
        assert_int_equal(judge(i, FAILURE_TIMEOUT, 0, -1, (uint64_t)(2 * span)).due_wall_ms,
                         NOW + wait[i] + span);
    }
    struct notify_result last = judge(9, FAILURE_TIMEOUT, 0, -1, 0);
    assert_int_equal(last.state, NOTIFICATION_FAILED);
    assert_true(last.mark_failing);
    assert_true(last.counts);
    assert_int_equal(judge(100, FAILURE_NONE, 500, -1, 0).state, NOTIFICATION_FAILED);
}

static void a_longer_retry_after_is_honoured_up_to_a_day(void **state) {
    (void)state;
    const uint64_t middle = 5000 * 15 / 100;
    assert_int_equal(judge(0, FAILURE_NONE, 503, 1000, middle).due_wall_ms, NOW + 5000);
    assert_int_equal(judge(0, FAILURE_NONE, 503, 0, middle).due_wall_ms, NOW + 5000);
    assert_int_equal(judge(0, FAILURE_NONE, 429, 60000, middle).due_wall_ms, NOW + 60000);
    assert_int_equal(judge(0, FAILURE_NONE, 429, INT64_MAX, middle).due_wall_ms, NOW + 24 * HOUR);
    /* it does not lengthen the life of a notification */
    assert_int_equal(judge(9, FAILURE_NONE, 429, 60000, 0).state, NOTIFICATION_FAILED);
}

static void a_shutdown_is_as_if_never_tried(void **state) {
    (void)state;
    struct notify_result r = judge(9, FAILURE_SHUTDOWN, 0, -1, 5);
    assert_int_equal(r.state, NOTIFICATION_PENDING);
    assert_false(r.counts);
    assert_int_equal(r.due_wall_ms, NOW);
    assert_false(r.mark_failing);
}

static void excerpts_are_valid_text_of_bounded_size(void **state) {
    (void)state;
    static const struct {
        struct str in;
        const char *want;
    } rows[] = {
        {{"ok", 2}, "ok"},
        {{"", 0}, ""},
        {{"gr\xC3\xBC\xC3\x9F", 6}, "gr\xC3\xBC\xC3\x9F"},
        {{"a\xFF"
          "b",
          3},
         "a\xEF\xBF\xBD"
         "b"},
        {{"a\0b", 3},
         "a\xEF\xBF\xBD"
         "b"},
        {{"cut \xC3", 5}, "cut \xEF\xBF\xBD"},
        {{"\xED\xA0\x80", 3}, "\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD"}, /* a surrogate */
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct buf out = BUF_INIT(4096);
        retry_excerpt(rows[i].in, &out);
        assert_string_equal(out.p ? out.p : "", rows[i].want);
        buf_release(&out);
    }
    char big[3001];
    for (size_t i = 0; i < 3000; i += 2) {
        big[i + 1] = '\xC3'; /* characters of two bytes from 1 on: the limit falls inside one */
        big[i + 2 < 3000 ? i + 2 : 0] = '\xA4';
    }
    big[0] = 'x';
    struct buf out = BUF_INIT(4096);
    retry_excerpt(str_make(big, 2999), &out);
    assert_int_equal(out.n, LIMIT_WEBHOOK_RESPONSE_STORED - 1);
    assert_true(str_is_utf8(buf_str(&out)));
    buf_clear(&out);
    memset(big, '\xFF', 3000);
    retry_excerpt(str_make(big, 3000), &out);
    assert_true(out.n <= LIMIT_WEBHOOK_RESPONSE_STORED);
    buf_release(&out);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(only_2xx_is_success),
        cmocka_unit_test(what_was_not_asked_is_asked_soon),
        cmocka_unit_test(waits_follow_the_schedule),
        cmocka_unit_test(a_longer_retry_after_is_honoured_up_to_a_day),
        cmocka_unit_test(a_shutdown_is_as_if_never_tried),
        cmocka_unit_test(excerpts_are_valid_text_of_bounded_size),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
