#include "server/base/confine.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <seccomp.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <ucontext.h>
#include <unistd.h>

#include "server/base/log.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define IS_SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define IS_SANITIZED 1
#endif
#endif
#ifndef IS_SANITIZED
#define IS_SANITIZED 0
#endif

/* A refused call comes to a handler of ours where we know which register holds its result. */
#if defined(__x86_64__)
#define RESULT_OF(context) ((context)->uc_mcontext.gregs[REG_RAX])
#elif defined(__aarch64__)
#define RESULT_OF(context) ((context)->uc_mcontext.regs[0])
#endif

#ifndef PR_SET_VMA
#define PR_SET_VMA 0x53564d41 /* Linux 5.17; glibc names its heaps with it */
#endif

void confine_memory(void) {
    const struct rlimit none = {0, 0};
    if (!IS_SANITIZED) /* what looks for leaks at the end is a tracer */
        (void)prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
    (void)prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    (void)setrlimit(RLIMIT_CORE, &none);
}

bool confine_is_built_in(void) {
    return !IS_SANITIZED;
}

/* ---- what is allowed ------------------------------------------------------------------------- */

/* By name, because which of them exist depends on the processor: arm64 has no open(), no poll(). */
static const char *const allowed[] = {
    /* files: the outbox, certificates, settings read again */
    "read", "readv", "pread64", "preadv", "write", "writev", "pwrite64", "pwritev", "lseek", "open",
    "openat", "close", "close_range", "dup", "dup2", "dup3", "fcntl", "flock", "fsync", "fdatasync",
    "ftruncate", "fallocate", "fadvise64", "sendfile", "stat", "lstat", "fstat", "newfstatat",
    "statx", "statfs", "fstatfs", "access", "faccessat", "faccessat2", "readlink", "readlinkat",
    "getdents64", "getcwd", "mkdir", "mkdirat", "unlink", "unlinkat", "chmod", "fchmod", "fchmodat",
    "fchown", "umask", "utimensat",
    /* sockets, events, timers */
    "socketpair", "bind", "listen", "accept", "accept4", "connect", "getsockname", "getpeername",
    "sendto", "recvfrom", "sendmsg", "recvmsg", "sendmmsg", "recvmmsg", "shutdown", "setsockopt",
    "getsockopt", "epoll_create", "epoll_create1", "epoll_ctl", "epoll_wait", "epoll_pwait",
    "epoll_pwait2", "poll", "ppoll", "select", "pselect6", "pipe", "pipe2", "eventfd", "eventfd2",
    "timerfd_create", "timerfd_settime", "timerfd_gettime", "signalfd", "signalfd4",
    /* memory: mmap and mprotect are below */
    "brk", "munmap", "mremap", "madvise", "msync",
    /* threads: clone is below */
    "futex", "set_robust_list", "get_robust_list", "rseq", "set_tid_address", "sched_yield",
    "sched_getaffinity", "getcpu", "membarrier", "exit", "exit_group", "arch_prctl",
    /* signals */
    "rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "rt_sigtimedwait", "sigaltstack",
    "restart_syscall",
    /* time, chance, who and where we are */
    "clock_gettime", "clock_getres", "clock_nanosleep", "nanosleep", "gettimeofday", "time",
    "getrandom", "getpid", "getppid", "gettid", "getuid", "geteuid", "getgid", "getegid",
    "getresuid", "getresgid", "getrusage", "times", "uname", "sysinfo",
#ifndef __GLIBC__
    "tkill", /* musl's raise() */
#endif
};

/* Nothing of ours, nor of a library that we use, ever does these. */
static const char *const deadly[] = {
    "execve",
    "execveat",
    "fork",
    "vfork",
    "ptrace",
    "process_vm_readv",
    "process_vm_writev",
    "process_madvise",
    "pidfd_open",
    "pidfd_getfd",
    "kcmp",
    "init_module",
    "finit_module",
    "delete_module",
    "create_module",
    "kexec_load",
    "kexec_file_load",
    "bpf",
    "perf_event_open",
    "userfaultfd",
    "io_uring_setup",
    "io_uring_enter",
    "io_uring_register",
    "mount",
    "umount2",
    "pivot_root",
    "move_mount",
    "open_tree",
    "fsopen",
    "fsmount",
    "mount_setattr",
    "chroot",
    "setns",
    "unshare",
    "personality",
    "reboot",
    "swapon",
    "swapoff",
    "acct",
    "iopl",
    "ioperm",
    "modify_ldt",
    "add_key",
    "request_key",
    "keyctl",
    "open_by_handle_at",
    "name_to_handle_at",
};

/* A call that is allowed when `value` is what `mask` leaves of an argument. */
struct with_argument {
    const char *name;
    unsigned argument;
    uint64_t mask, value;
};

#define WHOLE UINT32_MAX /* arguments that are an int: the upper half is anything */

static const struct with_argument allowed_with[] = {
    {"socket", 0, WHOLE, AF_UNIX},
    {"socket", 0, WHOLE, AF_INET},
    {"socket", 0, WHOLE, AF_INET6},
    {"socket", 0, WHOLE, AF_NETLINK}, /* which addresses this machine has */
    /* writable or executable, never both; code comes from files */
    {"mmap", 2, PROT_EXEC, 0},
    {"mmap", 2, PROT_WRITE, 0},
    {"mprotect", 2, PROT_EXEC, 0},
    {"ioctl", 1, WHOLE, FIONREAD},
    {"ioctl", 1, WHOLE, FIONBIO},
    {"ioctl", 1, WHOLE, FIOCLEX},
    {"ioctl", 1, WHOLE, TCGETS},     /* isatty() */
    {"ioctl", 1, WHOLE, TIOCGWINSZ}, /* musl's isatty() */
    {"ioctl", 1, WHOLE, 0x8933},     /* SIOCGIFINDEX: the zone of fe80::1%eth0 */
    {"prctl", 0, WHOLE, PR_SET_NAME},
    {"prctl", 0, WHOLE, PR_GET_NAME},
    {"prctl", 0, WHOLE, PR_GET_DUMPABLE},
    {"prctl", 0, WHOLE, PR_SET_VMA},
    {"prlimit64", 2, UINT64_MAX, 0}, /* asking, not setting */
};

enum {
    NEW_SPACES = CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWUSER |
                 CLONE_NEWPID | CLONE_NEWNET
};

/* ---- the filter ------------------------------------------------------------------------------ */

/* A name that this processor does not know is no fault. */
static int add(scmp_filter_ctx f, uint32_t action, const char *name, unsigned count,
               const struct scmp_arg_cmp *compare) {
    int number = seccomp_syscall_resolve_name(name);
    int failed =
        number == __NR_SCMP_ERROR ? 0 : seccomp_rule_add_array(f, action, number, count, compare);
    return failed == -EDOM || failed == -EOPNOTSUPP ? 0 : failed;
}

static int add_names(scmp_filter_ctx f, uint32_t action, const char *const *name, size_t count) {
    int failed = 0;
    for (size_t i = 0; i < count && failed == 0; i++)
        failed = add(f, action, name[i], 0, NULL);
    return failed;
}

static int add_with_arguments(scmp_filter_ctx f) {
    int failed = 0;
    for (size_t i = 0; i < sizeof allowed_with / sizeof allowed_with[0] && failed == 0; i++) {
        const struct with_argument *w = &allowed_with[i];
        struct scmp_arg_cmp compare = {w->argument, SCMP_CMP_MASKED_EQ, w->mask, w->value};
        failed = add(f, SCMP_ACT_ALLOW, w->name, 1, &compare);
    }
    return failed;
}

/* Threads, not processes. clone3() has its flags in memory, where a filter cannot look: it does not
 * exist, and the C library takes clone(). */
static int add_threads(scmp_filter_ctx f) {
    struct scmp_arg_cmp thread = {0, SCMP_CMP_MASKED_EQ, CLONE_THREAD | NEW_SPACES, CLONE_THREAD};
    struct scmp_arg_cmp process = {0, SCMP_CMP_MASKED_EQ, CLONE_THREAD, 0};
    struct scmp_arg_cmp own = {0, SCMP_CMP_MASKED_EQ, WHOLE, (uint64_t)getpid()};
    int failed = add(f, SCMP_ACT_ALLOW, "clone", 1, &thread);
    if (failed == 0)
        failed = add(f, SCMP_ACT_KILL_PROCESS, "clone", 1, &process);
    if (failed == 0)
        failed = add(f, SCMP_ACT_ERRNO(ENOSYS), "clone3", 0, NULL);
    if (failed == 0)
        failed = add(f, SCMP_ACT_ALLOW, "tgkill", 1, &own); /* abort(), pthread_kill() */
    return failed;
}

static int fill(scmp_filter_ctx f) {
    int failed = seccomp_attr_set(f, SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_KILL_PROCESS);
    if (failed == 0)
        failed = seccomp_attr_set(f, SCMP_FLTATR_CTL_TSYNC, 1);
    if (failed == 0)
        failed = add_names(f, SCMP_ACT_ALLOW, allowed, sizeof allowed / sizeof allowed[0]);
    if (failed == 0)
        failed = add_names(f, SCMP_ACT_KILL_PROCESS, deadly, sizeof deadly / sizeof deadly[0]);
    if (failed == 0)
        failed = add_with_arguments(f);
    return failed == 0 ? add_threads(f) : failed;
}

/* ---- what is refused ------------------------------------------------------------------------- */

#ifdef RESULT_OF
enum { NUMBERS_MAX = 1024 };

/* Each number once: a loop that is refused must not fill the disk. */
static bool is_news(int number) {
    static atomic_flag seen[NUMBERS_MAX];
    return number >= 0 && number < NUMBERS_MAX && !atomic_flag_test_and_set(&seen[number]);
}

static void refused(int signal_number, siginfo_t *info, void *context) {
    (void)signal_number;
    int saved_errno = errno;
    if (is_news(info->si_syscall))
        log_signal_safe(LOG_ERROR, "confine", "a system call was refused", "number",
                        info->si_syscall);
    RESULT_OF((ucontext_t *)context) = -EPERM;
    errno = saved_errno;
}

static uint32_t refuse(void) {
    struct sigaction sa = {.sa_sigaction = refused, .sa_flags = SA_SIGINFO | SA_RESTART};
    sigfillset(&sa.sa_mask);
    return sigaction(SIGSYS, &sa, NULL) == 0 ? SCMP_ACT_TRAP : SCMP_ACT_ERRNO(EPERM);
}
#else
static uint32_t refuse(void) {
    return SCMP_ACT_ERRNO(EPERM);
}
#endif

enum err confine_calls(enum confine_mode mode, struct errinfo *info) {
    if (mode == CONFINE_OFF || IS_SANITIZED)
        return OK;
    scmp_filter_ctx f = seccomp_init(mode == CONFINE_LOG ? SCMP_ACT_LOG : refuse());
    NEED(f != NULL);
    int failed = fill(f);
    NEED(failed != -ENOMEM);
    ASSERT(failed == 0); /* constant tables */
    failed = seccomp_load(f);
    seccomp_release(f);
    if (failed != 0)
        return err_set(info, ERR_UNAVAILABLE, "seccomp",
                       "the kernel takes no filter of system calls (%s); where it cannot, run with "
                       "POSTCHUTE_SECCOMP=off",
                       strerror(-failed));
    return OK;
}

enum err confine_check_arch(uint32_t arch) {
    scmp_filter_ctx f = seccomp_init(SCMP_ACT_ERRNO(EPERM));
    ASSERT(f != NULL);
    if (arch != seccomp_arch_native()) {
        ASSERT(seccomp_arch_add(f, arch) == 0);
        ASSERT(seccomp_arch_remove(f, seccomp_arch_native()) == 0);
    }
    int failed = fill(f);
    seccomp_release(f);
    return failed == 0 ? OK : ERR_INTERNAL;
}
