#include "server/base/thread.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { NAME_SIZE = 16 }; /* the kernel's, with its NUL */

struct thread {
    pthread_t handle;
    thread_fn fn;
    void *arg;
    char name[NAME_SIZE];
};

/* All but what the thread's own instructions raise (blocking those would be undefined), what a
 * terminal stops and continues us with, and what profilers count with. */
static void signals_to_block(sigset_t *set) {
    static const int left_open[] = {SIGSEGV, SIGBUS,  SIGFPE,  SIGILL,  SIGABRT, SIGTRAP,  SIGSYS,
                                    SIGTSTP, SIGTTIN, SIGTTOU, SIGCONT, SIGPROF, SIGVTALRM};
    sigfillset(set);
    for (size_t i = 0; i < sizeof(left_open) / sizeof(left_open[0]); i++)
        sigdelset(set, left_open[i]);
}

void thread_block_signals(void) {
    sigset_t set;
    signals_to_block(&set);
    ASSERT(pthread_sigmask(SIG_BLOCK, &set, NULL) == 0);
}

static void *thread_main(void *arg) {
    struct thread *t = arg;
    pthread_setname_np(pthread_self(), t->name);
    t->fn(t->arg);
    return NULL;
}

size_t thread_cores(void) {
    cpu_set_t set;
    CPU_ZERO(&set);
    if (sched_getaffinity(0, sizeof(set), &set) != 0)
        return 1;
    int count = CPU_COUNT(&set);
    return count > 0 ? (size_t)count : 1;
}

struct thread *thread_start(const char *name, thread_fn fn, void *arg) {
    ASSERT(strlen(name) < NAME_SIZE);
    struct thread *t = mem_zalloc(sizeof(*t));
    t->fn = fn;
    t->arg = arg;
    snprintf(t->name, sizeof(t->name), "%s", name);
    /* A thread begins with its creator's mask: blocked there and then, it never sees a signal. */
    sigset_t set, before;
    signals_to_block(&set);
    ASSERT(pthread_sigmask(SIG_BLOCK, &set, &before) == 0);
    int failed = pthread_create(&t->handle, NULL, thread_main, t);
    ASSERT(pthread_sigmask(SIG_SETMASK, &before, NULL) == 0);
    if (failed != 0)
        err_out_of_memory("a thread could not be started", 0);
    return t;
}

void thread_join(struct thread **tp) {
    struct thread *t = *tp;
    if (t == NULL)
        return;
    ASSERT(pthread_join(t->handle, NULL) == 0);
    free(t);
    *tp = NULL;
}
