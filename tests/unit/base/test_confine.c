#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <seccomp.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#include "server/base/confine.h"
#include "server/base/log.h"
#include "server/base/thread.h"

enum { CANNOT_CONFINE = 77, UNEXPECTED = 78 };

/* ---- what the child tries; the result is its exit status ---- */

static char *const no_words[] = {NULL};

static int run_a_program(void) {
    execve("/bin/true", no_words, no_words);
    return UNEXPECTED;
}
static int run_a_program_by_descriptor(void) {
    int fd = open("/bin/true", O_RDONLY | O_CLOEXEC);
    return (int)syscall(SYS_execveat, fd, "", no_words, no_words, 0x1000) ? UNEXPECTED : 0;
}
static int run_a_shell(void) {
    FILE *f = popen("true", "r"); /* NOLINT: that it cannot is what is tested */
    return f ? UNEXPECTED : UNEXPECTED + 1;
}
static int fork_a_process(void) {
    pid_t p = fork();
    if (p == 0)
        _exit(0);
    return UNEXPECTED;
}
static int vfork_a_process(void) {
#ifdef SYS_vfork
    if (syscall(SYS_vfork) == 0)
        _exit(0);
    return UNEXPECTED;
#else
    return fork_a_process();
#endif
}
static int trace_a_process(void) {
    return ptrace(PTRACE_TRACEME, 0, NULL, NULL) == 0 ? UNEXPECTED : UNEXPECTED + 1;
}
static int enter_a_user_namespace(void) {
    return unshare(CLONE_NEWUSER) == 0 ? UNEXPECTED : UNEXPECTED + 1;
}
static int set_up_an_io_uring(void) {
    char params[256] = {0};
    return syscall(SYS_io_uring_setup, 8, params) >= 0 ? UNEXPECTED : UNEXPECTED + 1;
}

static int is_refused(long result) {
    return result == -1 && errno == EPERM ? 0 : UNEXPECTED;
}
static int open_a_raw_socket(void) {
    return is_refused(socket(AF_PACKET, SOCK_RAW, 0));
}
static int map_writable_code(void) {
    void *p =
        mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return is_refused(p == MAP_FAILED ? -1 : 0);
}
static int make_data_executable(void) {
    void *p = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return p == MAP_FAILED ? UNEXPECTED : is_refused(mprotect(p, 4096, PROT_READ | PROT_EXEC));
}
static int become_somebody_else(void) {
    return is_refused(setgid(getgid()));
}
static int end_another_process(void) {
    return is_refused(kill(getppid(), 0));
}
static int signal_another_process(void) {
    return is_refused(syscall(SYS_tgkill, getppid(), getppid(), 0));
}
static int become_dumpable(void) {
    return is_refused(prctl(PR_SET_DUMPABLE, 1, 0, 0, 0));
}
static int raise_a_limit(void) {
    const struct rlimit core = {0, 0};
    return is_refused(setrlimit(RLIMIT_CORE, &core));
}
static int be_refused_twice(void) {
    return is_refused(sethostname("x", 1)) || is_refused(sethostname("y", 1));
}
static int is_a_log_that_refuses_nothing(void) {
    const struct rlimit core = {0, 0};
    return setrlimit(RLIMIT_CORE, &core) == 0 ? 0 : UNEXPECTED;
}

static void answer(void *arg) {
    *(int *)arg = 1;
}
static int serve_as_usual(void) {
    char c = 0;
    int answered = 0, pair[2], one = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct thread *t = thread_start("usual", answer, &answered);
    thread_join(&t);
    struct rlimit files;
    FILE *f = fopen("/proc/self/status", "r");
    bool ok = answered && one >= 0 && socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0 &&
              write(pair[0], "x", 1) == 1 && read(pair[1], &c, 1) == 1 && c == 'x' && f &&
              getrlimit(RLIMIT_NOFILE, &files) == 0 && getpriority(PRIO_PROCESS, 0) != -2;
    return ok ? 0 : UNEXPECTED;
}

/* ---- trying it in a child ---- */

struct outcome {
    int status;
    char log[2048];
};

static struct outcome in_a_child(enum confine_mode mode, int (*act)(void)) {
    struct outcome o = {0};
    int log[2];
    assert_int_equal(pipe(log), 0);
    fflush(NULL);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        dup2(log[1], STDERR_FILENO);
        log_setup(LOG_INFO, LOG_FORMAT_JSON);
        confine_memory();
        _exit(confine_calls(mode, NULL) == OK ? act() : CANNOT_CONFINE);
    }
    close(log[1]);
    size_t n = 0;
    for (ssize_t got; (got = read(log[0], o.log + n, sizeof o.log - 1 - n)) > 0;)
        n += (size_t)got;
    close(log[0]);
    assert_int_equal(waitpid(child, &o.status, 0), child);
    return o;
}

static void T29_starting_anything_ends_the_process(void **state) {
    (void)state;
    static int (*const rows[])(void) = {run_a_program,      run_a_program_by_descriptor,
                                        run_a_shell,        fork_a_process,
                                        vfork_a_process,    trace_a_process,
                                        set_up_an_io_uring, enter_a_user_namespace};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        for (int mode = CONFINE_ON; mode <= CONFINE_LOG; mode++) {
            struct outcome o = in_a_child((enum confine_mode)mode, rows[i]);
            if (!WIFSIGNALED(o.status))
                print_error("row %zu: status %x\n", i, (unsigned)o.status);
            assert_true(WIFSIGNALED(o.status));
            assert_int_equal(WTERMSIG(o.status), SIGSYS);
        }
}

static void T30_what_serving_does_not_take_fails_and_is_logged(void **state) {
    (void)state;
    static int (*const rows[])(void) = {
        open_a_raw_socket,   map_writable_code,      make_data_executable, become_somebody_else,
        end_another_process, signal_another_process, become_dumpable,      raise_a_limit};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct outcome o = in_a_child(CONFINE_ON, rows[i]);
        if (o.status != 0)
            print_error("row %zu: status %x, log %s\n", i, (unsigned)o.status, o.log);
        assert_int_equal(o.status, 0);
        assert_non_null(strstr(o.log, "\"level\":\"error\",\"room\":\"confine\""));
        assert_non_null(strstr(o.log, "\"number\":"));
        assert_int_equal(o.log[strlen(o.log) - 1], '\n');
    }
}

static void a_refusal_is_logged_once(void **state) {
    (void)state;
    struct outcome o = in_a_child(CONFINE_ON, be_refused_twice);
    char number[32];
    snprintf(number, sizeof number, "\"number\":%d}\n", (int)SYS_sethostname);
    assert_int_equal(o.status, 0);
    assert_non_null(strstr(o.log, number));
    assert_null(strchr(strchr(o.log, '\n') + 1, '\n'));
}

static void what_serving_takes_works_and_logs_nothing(void **state) {
    (void)state;
    struct outcome o = in_a_child(CONFINE_ON, serve_as_usual);
    /* getpriority() is the one that is not on the list: the filter is there */
    assert_int_equal(o.status, 0);
    assert_non_null(strstr(o.log, "\"number\":"));
    assert_null(strchr(strchr(o.log, '\n') + 1, '\n'));
}

static void log_and_off_refuse_nothing(void **state) {
    (void)state;
    assert_int_equal(in_a_child(CONFINE_LOG, is_a_log_that_refuses_nothing).status, 0);
    assert_int_equal(in_a_child(CONFINE_OFF, is_a_log_that_refuses_nothing).status, 0);
    struct outcome o = in_a_child(CONFINE_OFF, fork_a_process);
    assert_true(WIFEXITED(o.status));
    assert_int_equal(WEXITSTATUS(o.status), UNEXPECTED);
}

static int report_memory(void) {
    struct rlimit core;
    bool is_hidden = !confine_is_built_in() || prctl(PR_GET_DUMPABLE, 0, 0, 0, 0) == 0;
    bool ok = is_hidden && getrlimit(RLIMIT_CORE, &core) == 0 && core.rlim_max == 0 &&
              prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1;
    return ok ? 0 : UNEXPECTED;
}

static void T23_memory_is_dumped_for_nobody(void **state) {
    (void)state;
    assert_int_equal(in_a_child(CONFINE_OFF, report_memory).status, 0);
}

static void the_filter_can_be_made_for_each_processor(void **state) {
    (void)state;
    static const uint32_t rows[] = {SCMP_ARCH_X86_64, SCMP_ARCH_AARCH64, SCMP_ARCH_RISCV64};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        assert_int_equal(confine_check_arch(rows[i]), OK);
}

int main(void) {
    const struct CMUnitTest always[] = {
        cmocka_unit_test(T23_memory_is_dumped_for_nobody),
        cmocka_unit_test(the_filter_can_be_made_for_each_processor),
    };
    const struct CMUnitTest with_filter[] = {
        cmocka_unit_test(T29_starting_anything_ends_the_process),
        cmocka_unit_test(T30_what_serving_does_not_take_fails_and_is_logged),
        cmocka_unit_test(a_refusal_is_logged_once),
        cmocka_unit_test(what_serving_takes_works_and_logs_nothing),
        cmocka_unit_test(log_and_off_refuse_nothing),
    };
    int failed = cmocka_run_group_tests(always, NULL, NULL);
    if (confine_is_built_in())
        failed += cmocka_run_group_tests(with_filter, NULL, NULL);
    return failed;
}
