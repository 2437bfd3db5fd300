/* thread: starting and joining, with a name that tools show; signals are blocked in every thread
 * but main. */
#pragma once

#include "server/base/err.h"

struct thread;
typedef void (*thread_fn)(void *arg);

/* Ends the process (NEED) when the system has no thread to give. `name` is at most 15 characters.
 */
struct thread *thread_start(const char *name, thread_fn fn, void *arg);
void thread_join(struct thread **tp); /* NULL is accepted; *tp = NULL */
size_t thread_cores(void);            /* that this process may use, at least 1 */
void thread_block_signals(void);      /* main, before the first thread */
