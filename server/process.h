/* process: what the process asks of the kernel, of its heap, and tells its supervisor. Private to
 * server/lifecycle.c. Thread: main; the first two before any other thread starts. */
#pragma once

#include <stddef.h>

void process_tune_heap(void);
/* Takes as many descriptors as any settings can need, if the hard limit lets it. */
void process_raise_descriptors(void);
/* Warns when clients on `connections` could leave too few for delivery and the store. */
void process_check_descriptors(size_t connections);
/* systemd's readiness protocol (sd_notify(3)), one datagram; nothing without NOTIFY_SOCKET. */
void process_notify(const char *state);
