/* The linker puts these before the functions of the same name (--wrap). */
#include "tests/unit/log_watch.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <cmocka.h>

#include "server/base/buf.h"
#include "server/base/clock.h"
#include "server/base/log.h"

enum { EXPECTED_MOST = 16, LINES_BYTES = 16 * 1024 };

static atomic_bool is_silent;

static struct {
    pthread_mutex_t mu;
    const char *expected[EXPECTED_MOST];
    unsigned seen[EXPECTED_MOST]; /* lines with them */
    size_t expected_count;
    struct buf unexpected; /* lines */
} shared = {.mu = PTHREAD_MUTEX_INITIALIZER, .unexpected = BUF_INIT(LINES_BYTES)};

void expect_log(const char *words) {
    pthread_mutex_lock(&shared.mu);
    assert_true(shared.expected_count < EXPECTED_MOST);
    shared.seen[shared.expected_count] = 0;
    shared.expected[shared.expected_count++] = words;
    pthread_mutex_unlock(&shared.mu);
}

static bool is_expected(const char *message) {
    bool is = false;
    for (size_t i = 0; i < shared.expected_count; i++)
        if (strstr(message, shared.expected[i]) != NULL) {
            shared.seen[i]++;
            is = true;
        }
    return is;
}

void silence_log(void) {
    is_silent = true;
}

unsigned logged(const char *words) {
    unsigned count = 0;
    pthread_mutex_lock(&shared.mu);
    for (size_t i = 0; i < shared.expected_count; i++)
        if (strcmp(words, shared.expected[i]) == 0)
            count = shared.seen[i];
    pthread_mutex_unlock(&shared.mu);
    return count;
}

/* ---- the log ---- */

bool __real_log_is_on(enum log_level level);
bool __wrap_log_is_on(enum log_level level);
bool __wrap_log_is_on(enum log_level level) {
    return !is_silent && (level >= LOG_WARN || __real_log_is_on(level));
}

void __real_log_write(enum log_level level, const char *room, const char *message,
                      const struct log_field *fields);
void __wrap_log_write(enum log_level level, const char *room, const char *message,
                      const struct log_field *fields);
void __wrap_log_write(enum log_level level, const char *room, const char *message,
                      const struct log_field *fields) {
    if (level >= LOG_WARN) {
        pthread_mutex_lock(&shared.mu);
        if (!is_expected(message))
            log_format_line(&shared.unexpected, LOG_FORMAT_TEXT, level, clock_wall_ms(), room,
                            message, fields);
        pthread_mutex_unlock(&shared.mu);
    }
    if (__real_log_is_on(level))
        __real_log_write(level, room, message, fields);
}

/* ---- the tests ---- */

static const struct CMUnitTest *tests_of_group;
static size_t at; /* the one that runs, plus one */

static int watched_setup(void **state) {
    const struct CMUnitTest *t = &tests_of_group[at++];
    pthread_mutex_lock(&shared.mu);
    is_silent = false;
    shared.expected_count = 0;
    buf_clear(&shared.unexpected);
    pthread_mutex_unlock(&shared.mu);
    return t->setup_func != NULL ? t->setup_func(state) : 0;
}

static int watched_teardown(void **state) {
    const struct CMUnitTest *t = &tests_of_group[at - 1];
    int failed = t->teardown_func != NULL ? t->teardown_func(state) : 0;
    pthread_mutex_lock(&shared.mu);
    if (shared.unexpected.n > 0) {
        print_error("%s: unexpected in the log:\n%.*s", t->name,
                    STR_ARG(buf_str(&shared.unexpected)));
        failed = -1;
    }
    pthread_mutex_unlock(&shared.mu);
    return failed;
}

int __real__cmocka_run_group_tests(const char *name, const struct CMUnitTest *tests, size_t count,
                                   CMFixtureFunction setup, CMFixtureFunction teardown);
int __wrap__cmocka_run_group_tests(const char *name, const struct CMUnitTest *tests, size_t count,
                                   CMFixtureFunction setup, CMFixtureFunction teardown);
int __wrap__cmocka_run_group_tests(const char *name, const struct CMUnitTest *tests, size_t count,
                                   CMFixtureFunction setup, CMFixtureFunction teardown) {
    struct CMUnitTest *watched = mem_dup(tests, count * sizeof(*tests));
    for (size_t i = 0; i < count; i++) {
        watched[i].setup_func = watched_setup;
        watched[i].teardown_func = watched_teardown;
    }
    tests_of_group = tests;
    at = 0;
    int failed = __real__cmocka_run_group_tests(name, watched, count, setup, teardown);
    buf_release(&shared.unexpected);
    shared.unexpected = BUF_INIT(LINES_BYTES);
    free(watched);
    return failed;
}
