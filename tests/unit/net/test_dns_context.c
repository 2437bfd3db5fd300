/* Contexts of libunbound: what they share. Whom they ask is tested in test_dns.c and end to end. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unbound.h>
#include <unistd.h>

#include "server/net/dns_context.h"

enum { TYPE_A = 1, CLASS_IN = 1 };

static size_t count_open(const char *path) {
    size_t count = 0;
    DIR *d = opendir("/proc/self/fd");
    assert_non_null(d);
    for (struct dirent *e; (e = readdir(d)) != NULL;) {
        char target[256];
        ssize_t n = readlinkat(dirfd(d), e->d_name, target, sizeof target - 1);
        target[n > 0 ? n : 0] = 0;
        count += strcmp(target, path) == 0;
    }
    closedir(d);
    return count;
}

static struct ub_ctx *make(bool is_recursive) {
    char resolv_conf[] = "/dev/null", mode[] = "system";
    struct dns_upstream u = {
        .mode = mode, .resolv_conf = resolv_conf, .is_recursive = is_recursive};
    struct ub_ctx *ctx = NULL;
    struct errinfo info = {0};
    if (dns_context_new(&u, false, &ctx, &info) != OK)
        fail_msg("%s", info.text);
    return ctx;
}

static void ask(struct ub_ctx *ctx) {
    char name[] = "localhost";
    struct ub_result *r = NULL;
    assert_int_equal(ub_resolve(ctx, name, TYPE_A, CLASS_IN, &r), 0);
    assert_int_equal(r->havedata, 1);
    ub_resolve_free(r);
}

/* The library closes the log that it writes to when the next context is made, unless it knows that
 * the log is somebody else's: the end of any context makes it forget, and in some of its versions
 * (not in 1.17.1) the first question to another does not remind it. */
static void log_of_all_outlives_each(bool is_recursive) {
    struct ub_ctx *first = make(is_recursive), *second = make(is_recursive);
    size_t open = count_open("/dev/null");
    assert_true(open > 0);
    ask(first);
    ub_ctx_delete(first);
    ask(second);
    struct ub_ctx *third = make(is_recursive);
    assert_int_equal(count_open("/dev/null"), open);
    ask(third);
    ub_ctx_delete(second);
    ub_ctx_delete(third);
    assert_int_equal(count_open("/dev/null"), open);
}

static void log_of_all_outlives_each_that_forwards(void **state) {
    (void)state;
    log_of_all_outlives_each(false);
}

static void log_of_all_outlives_each_that_recurses(void **state) {
    (void)state;
    log_of_all_outlives_each(true);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(log_of_all_outlives_each_that_forwards),
        cmocka_unit_test(log_of_all_outlives_each_that_recurses),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
