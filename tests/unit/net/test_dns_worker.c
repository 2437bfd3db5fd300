/* dns when the library's own thread cannot begin, or ends, of which the library says nothing. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <dirent.h>
#include <errno.h>
#include <sys/epoll.h>
#include <sys/syscall.h>

#include "tests/unit/log_watch.h"
#include "tests/unit/net/asking.h"
#include "tests/unit/net/system.h"

/* What the library's thread had when it could not go on is lost by the library; so is the thread,
 * as it cannot be asked whether there is one to wait for. */
const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void) {
    return "leak:libunbound";
}
const char *__tsan_default_suppressions(void);
const char *__tsan_default_suppressions(void) {
    return "thread:libunbound";
}

/* These stand for libc's. Loops are made by the test, sets for the library's threads by the loop.
 */
enum { SETS = 4096 };
static atomic_bool is_librarys[SETS], is_new[SETS];
static atomic_int fails_left, answers_fail, threads_begun, last_pipe = -1;
static atomic_int asker, question_fails_in; /* who asks; 0: none of its writes fails */
static atomic_bool last_word_fails;         /* what tells a thread to end */

int epoll_create1(int flags) {
    int set = (int)syscall(SYS_epoll_create1, flags);
    assert_in_range(set, 0, SETS - 1);
    is_librarys[set] = is_new[set] = gettid() != getpid();
    if (is_librarys[set])
        asker = gettid();
    return set;
}

static bool is_pipe(int fd) {
    int domain = 0;
    return getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &(socklen_t){sizeof domain}) == 0 &&
           domain == AF_UNIX;
}

ssize_t write(int fd, const void *p, size_t n) {
    if (question_fails_in > 0 && gettid() == asker && is_pipe(fd) && --question_fails_in == 0) {
        errno = ENOMEM;
        return -1;
    }
    bool is_last_word = n == 4 && *(const uint32_t *)p == 4; /* its length: others are longer */
    if (is_last_word && last_word_fails && is_pipe(fd) &&
        atomic_exchange(&last_word_fails, false)) {
        errno = ENOMEM;
        return -1;
    }
    return syscall(SYS_write, fd, p, n);
}

int epoll_ctl(int set, int what, int fd, struct epoll_event *ev) {
    bool is_its_own = what == EPOLL_CTL_ADD && is_librarys[set];
    if (is_its_own && (ev->events & EPOLLOUT) != 0 && answers_fail > 0) {
        answers_fail--;
        errno = ENOSPC;
        return -1;
    }
    if (is_its_own && atomic_exchange(&is_new[set], false)) {
        threads_begun++;
        last_pipe = fd;
        if (fails_left > 0) {
            fails_left--;
            errno = ENOSPC;
            return -1;
        }
    }
    return (int)syscall(SYS_epoll_ctl, set, what, fd, ev);
}

static void threads_fail(int count) {
    fails_left = count;
    expect_log("the event library");
}

static const struct rr rows[] = {
    {"a.example", DNS_A, "192.0.2.1", RR_ANSWER}, {"silent.example", 0, "", RR_DROP}, {0}};

static int begin(void **state) {
    (void)state;
    fails_left = answers_fail = question_fails_in = 0;
    return begin_asking(rows);
}

static struct dns *start_with(int64_t timeout_ms) {
    return start(&(struct dns_options){
        .mode = server.mode, .trust_anchor_file = "", .timeout_ms = timeout_ms, .alive_ms = 500});
}

static enum failure lookup(struct dns *d, const char *name) {
    struct dns_query q;
    put_question(d, &q, DNS_A, name, false);
    wait_for(1);
    dns_query_release(&q);
    return q.failure;
}

static void a_thread_that_cannot_begin_is_replaced(void **state) {
    (void)state;
    expect_log("the resolver stopped answering: another one is made");
    struct dns *d = start_with(60000);
    threads_fail(1);
    assert_int_equal(lookup(d, "a.example"), FAILURE_NONE);
    assert_int_equal(fails_left, 0);
    dns_stop(&d);
}

/* Without a limit the pipe that nobody reads would be full, and who asks would wait for ever. */
static void many_questions_outlive_their_thread(void **state) {
    (void)state;
    enum { N = 2000 };
    static struct dns_query q[N];
    expect_log("the resolver stopped answering: another one is made");
    struct dns *d = start_with(60000);
    threads_fail(1);
    for (int i = 0; i < N; i++)
        put_question(d, &q[i], DNS_A, "a.example", false);
    wait_for(N);
    for (int i = 0; i < N; i++) {
        assert_int_equal(q[i].failure, FAILURE_NONE);
        dns_query_release(&q[i]);
    }
    dns_stop(&d);
}

static void a_thread_that_ends_is_replaced(void **state) {
    (void)state;
    expect_log("the resolver stopped answering: another one is made");
    struct dns *d = start_with(60000);
    assert_int_equal(lookup(d, "a.example"), FAILURE_NONE);
    int begun = threads_begun;
    shutdown(last_pipe, SHUT_RDWR);
    assert_int_equal(lookup(d, "nothing.example"), FAILURE_DNS_NXDOMAIN);
    assert_int_equal(threads_begun, begun + 1);
    dns_stop(&d);
}

/* Its thread waits for the rest of a question: it cannot be told to end, nor waited for. */
static void half_a_question_replaces_the_thread(void **state) {
    (void)state;
    expect_log("the resolver stopped answering: another one is made");
    struct dns *d = start_with(60000);
    assert_int_equal(lookup(d, "a.example"), FAILURE_NONE);
    int begun = threads_begun;
    question_fails_in = 2; /* after its length */
    assert_int_equal(lookup(d, "nothing.example"), FAILURE_DNS_NXDOMAIN);
    assert_int_equal(question_fails_in, 0);
    assert_int_equal(threads_begun, begun + 1);
    dns_stop(&d);
}

/* It goes on, but what it has to say stays with it. */
static void a_thread_that_cannot_say_its_answers_is_replaced(void **state) {
    (void)state;
    expect_log("the resolver stopped answering: another one is made");
    expect_log("the event library");
    struct dns *d = start_with(60000);
    assert_int_equal(lookup(d, "a.example"), FAILURE_NONE);
    int begun = threads_begun;
    answers_fail = 1;
    assert_int_equal(lookup(d, "nothing.example"), FAILURE_DNS_NXDOMAIN);
    assert_int_equal(answers_fail, 0);
    assert_int_equal(threads_begun, begun + 1);
    dns_stop(&d);
}

/* Nor does it hear that it shall end, with an answer that it still has. */
static void a_thread_that_hears_nothing_either_is_replaced(void **state) {
    (void)state;
    expect_log("the resolver stopped answering: another one is made");
    expect_log("the event library");
    struct dns *d = start_with(60000);
    assert_int_equal(lookup(d, "a.example"), FAILURE_NONE);
    int begun = threads_begun;
    answers_fail = 1;
    last_word_fails = true;
    assert_int_equal(lookup(d, "nothing.example"), FAILURE_DNS_NXDOMAIN);
    assert_false(last_word_fails);
    assert_int_equal(threads_begun, begun + 1);
    dns_stop(&d);
}

/* The first one at once, the second after a second, in which questions fail. */
static void more_than_one_is_replaced_after_pauses(void **state) {
    (void)state;
    expect_log("the resolver stopped answering: another one is made");
    struct dns *d = start_with(60000);
    threads_fail(2);
    int begun = threads_begun, failed = 0;
    assert_int_equal(lookup(d, "a.example"), FAILURE_DNS_TEMPORARY);
    assert_int_equal(fails_left, 0);
    int64_t until_mono_ms = clock_mono_ms() + 30000;
    enum failure found;
    while ((found = lookup(d, "a.example")) != FAILURE_NONE && clock_mono_ms() < until_mono_ms) {
        assert_int_equal(found, FAILURE_DNS_TEMPORARY);
        failed++;
        mailbox_wait(box, 10);
    }
    assert_int_equal(found, FAILURE_NONE);
    assert_true(failed > 0);
    assert_int_equal(threads_begun, begun + 3);
    dns_stop(&d);
}

static bool was_there[SETS];

static void note_pipes(void) {
    for (int fd = 3; fd < SETS; fd++)
        was_there[fd] = is_pipe(fd);
}

/* Those made since they were noted: what an earlier test lost may not wake up, since the library
 * cannot end one context while another is made. */
static void break_new_pipes(void) {
    for (int fd = 3; fd < SETS; fd++)
        if (is_pipe(fd) && !was_there[fd])
            shutdown(fd, SHUT_RDWR);
}

static size_t count_descriptors(void) {
    size_t count = 0;
    DIR *d = opendir("/proc/self/fd");
    assert_non_null(d);
    while (readdir(d))
        count++;
    closedir(d);
    return count;
}

static const char root_anchor[] =
    ". 3600 IN DS 20326 8 2 E06D44B80B8F1D39A95C0B0D7C65D08458E880409BBC683457104237C7F8EC8D\n";

static void put_text(const char *path, const char *text) {
    FILE *f = fopen(path, "we");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

/* `spoilt` NULL: the anchor's file is gone. What came of it cannot be freed each time: it is not
 * tried for each question. */
static void settings_that_are_not_taken_any_more_cost_little(const char *spoilt) {
    enum { QUESTIONS = 100 };
    char anchor[] = "/tmp/postchute-anchor-XXXXXX";
    write_file(anchor, root_anchor);
    expect_log("the resolver stopped answering: another one is made");
    expect_log("the resolver cannot be made");
    server.is_sick = true; /* so that what is asked is to be validated */
    note_pipes();
    struct dns *d = start(&(struct dns_options){
        .mode = server.mode, .trust_anchor_file = anchor, .timeout_ms = 60000, .alive_ms = 500});
    assert_int_equal(lookup(d, "a.example"), FAILURE_DNS_TEMPORARY);
    size_t before = count_descriptors();
    unlink(anchor);
    if (spoilt)
        put_text(anchor, spoilt);
    break_new_pipes();
    for (int i = 0; i < QUESTIONS; i++)
        assert_int_equal(lookup(d, "a.example"), FAILURE_DNS_TEMPORARY);
    assert_in_range(count_descriptors(), 0, before + QUESTIONS / 2);
    assert_int_equal(logged("the resolver cannot be made"), 1);
    expect_log("DNSSEC signatures do not come through: no validation, no DANE");
    server.is_sick = false;
    put_text(anchor, root_anchor);
    int64_t until_mono_ms = clock_mono_ms() + patience_ms(60000);
    while (lookup(d, "a.example") != FAILURE_NONE && clock_mono_ms() < until_mono_ms)
        mailbox_wait(box, 10);
    assert_int_equal(lookup(d, "a.example"), FAILURE_NONE);
    dns_stop(&d);
    unlink(anchor);
}

static void an_anchor_that_is_gone_costs_little(void **state) {
    (void)state;
    settings_that_are_not_taken_any_more_cost_little(NULL);
}

static void an_anchor_that_is_none_any_more_costs_little(void **state) {
    (void)state;
    settings_that_are_not_taken_any_more_cost_little("nonsense\n");
}

/* A replacement would be logged, and the test fail. */
static void a_network_without_dns_replaces_nothing(void **state) {
    (void)state;
    struct dns *d = start_with(300);
    int begun = threads_begun;
    for (int i = 0; i < 5; i++)
        assert_int_equal(lookup(d, "silent.example"), FAILURE_DNS_TEMPORARY);
    assert_int_equal(threads_begun, begun + 1);
    assert_int_equal(lookup(d, "a.example"), FAILURE_NONE);
    dns_stop(&d);
}

static void a_stop_does_not_wait_for_a_thread_that_is_not_there(void **state) {
    (void)state;
    struct dns *d = start_with(60000);
    threads_fail(1);
    struct dns_query q;
    put_question(d, &q, DNS_A, "a.example", false);
    dns_stop(&d);
    wait_for(1);
    assert_int_equal(q.failure, FAILURE_SHUTDOWN);
    assert_int_equal(fails_left, 0);
}

static void a_stop_does_not_wait_for_a_thread_that_ended(void **state) {
    (void)state;
    struct dns *d = start_with(60000);
    assert_int_equal(lookup(d, "a.example"), FAILURE_NONE);
    threads_fail(1000); /* nor for those that would replace it */
    expect_log("the resolver stopped answering: another one is made");
    shutdown(last_pipe, SHUT_RDWR);
    dns_stop(&d);
}

/* Its thread was not told to end. */
static void a_stop_does_not_wait_for_a_last_word_that_was_not_heard(void **state) {
    (void)state;
    struct dns *d = start_with(60000);
    assert_int_equal(lookup(d, "a.example"), FAILURE_NONE);
    last_word_fails = true;
    dns_stop(&d);
    assert_false(last_word_fails);
}

int main(void) {
#define T(f) cmocka_unit_test_setup_teardown(f, begin, end_asking)
    const struct CMUnitTest tests[] = {
        T(a_thread_that_cannot_begin_is_replaced),
        T(many_questions_outlive_their_thread),
        T(a_thread_that_ends_is_replaced),
        T(half_a_question_replaces_the_thread),
        T(a_thread_that_cannot_say_its_answers_is_replaced),
        T(a_thread_that_hears_nothing_either_is_replaced),
        T(more_than_one_is_replaced_after_pauses),
        T(an_anchor_that_is_gone_costs_little),
        T(an_anchor_that_is_none_any_more_costs_little),
        T(a_network_without_dns_replaces_nothing),
        T(a_stop_does_not_wait_for_a_thread_that_is_not_there),
        T(a_stop_does_not_wait_for_a_thread_that_ended),
        T(a_stop_does_not_wait_for_a_last_word_that_was_not_heard),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
