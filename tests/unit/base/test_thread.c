#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <pthread.h>
#include <signal.h>
#include <string.h>

#include "server/base/thread.h"

struct seen {
    char name[16];
    sigset_t blocked;
    pthread_t self;
};

static void look(void *arg) {
    struct seen *s = arg;
    s->self = pthread_self();
    pthread_getname_np(pthread_self(), s->name, sizeof(s->name));
    pthread_sigmask(SIG_BLOCK, NULL, &s->blocked);
}

static const int blocked[] = {SIGTERM, SIGINT, SIGHUP, SIGUSR1, SIGUSR2, SIGPIPE, SIGCHLD, SIGALRM};
static const int open_signals[] = {SIGSEGV, SIGBUS, SIGABRT, SIGTSTP};

static void assert_blocked(const sigset_t *set) {
    for (size_t i = 0; i < sizeof(blocked) / sizeof(blocked[0]); i++)
        assert_int_equal(sigismember(set, blocked[i]), 1);
    for (size_t i = 0; i < sizeof(open_signals) / sizeof(open_signals[0]); i++)
        assert_int_equal(sigismember(set, open_signals[i]), 0);
}

static void a_thread_has_its_name_and_no_signals(void **state) {
    (void)state;
    struct seen s = {.name = ""};
    struct thread *t = thread_start("delivery loop 1", look, &s);
    thread_join(&t);
    assert_null(t);
    assert_string_equal(s.name, "delivery loop 1");
    assert_false(pthread_equal(s.self, pthread_self()));
    assert_blocked(&s.blocked);
    thread_join(&t);
}

static void the_starter_keeps_its_signals(void **state) {
    (void)state;
    sigset_t before, after;
    pthread_sigmask(SIG_BLOCK, NULL, &before);
    struct seen s;
    struct thread *t = thread_start("x", look, &s);
    pthread_sigmask(SIG_BLOCK, NULL, &after);
    thread_join(&t);
    for (int i = 1; i < 32; i++)
        assert_int_equal(sigismember(&before, i), sigismember(&after, i));
    assert_int_equal(sigismember(&after, SIGTERM), 0);
}

static void main_blocks_them_when_asked(void **state) {
    (void)state;
    sigset_t before, now;
    pthread_sigmask(SIG_BLOCK, NULL, &before);
    thread_block_signals();
    pthread_sigmask(SIG_BLOCK, NULL, &now);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    assert_blocked(&now);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_thread_has_its_name_and_no_signals),
        cmocka_unit_test(the_starter_keeps_its_signals),
        cmocka_unit_test(main_blocks_them_when_asked),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
