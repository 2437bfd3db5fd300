/* confine: gives up what this process will not need, for good, before it reads a foreign byte.
 *
 * What is gone: core dumps and ptrace by equals (keys are in memory), new privileges by exec, and
 * every system call that serving mail does not take (seccomp). Starting a program, a process or a
 * tracer, or loading code into the kernel, ends the process at once (SIGSYS): nothing here ever
 * does that, so somebody else's code is running. Any other call that is not on the list fails with
 * EPERM and is logged as an error, once for each call's number. Memory is never writable and
 * executable at once.
 *
 *     confine_memory();
 *     ... files with secrets are read, limits raised, code compiled at run time ...
 *     if (confine_calls(CONFINE_ON, &info) != OK) ...
 *     ... threads are started, sockets opened ...
 *
 * The list is for glibc on x86-64 and arm64, where it is tested; what other C libraries and
 * processors call instead (open for openat, tkill for tgkill) is on it where it exists. Under
 * AddressSanitizer and ThreadSanitizer, which trace and start processes themselves, no filter is
 * set. Thread: main, before there are others.
 */
#pragma once

#include <stdint.h>

#include "server/base/err.h"

enum confine_mode {
    CONFINE_ON,
    CONFINE_LOG, /* what is not on the list is logged by the kernel and allowed */
    CONFINE_OFF,
};

/* No core, no reading of our memory by processes of the same user, no privileges by exec. */
void confine_memory(void);
/* Does this build set a filter at all? */
bool confine_is_built_in(void);
/* For this thread and all that it starts; it cannot be undone. ERR_UNAVAILABLE: the kernel refuses.
 */
NODISCARD enum err confine_calls(enum confine_mode mode, struct errinfo *info);

/* For tests: can the filter be made for a processor (SCMP_ARCH_... of seccomp.h)? */
NODISCARD enum err confine_check_arch(uint32_t arch);
