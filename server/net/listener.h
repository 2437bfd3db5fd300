/* listener: a listening TCP socket on a loop. Accepted descriptors are non-blocking and
 * close-on-exec. When the process runs out of descriptors, accepting pauses for 100 ms instead of
 * spinning. Thread: the loop's. */
#pragma once

#include "server/net/loop.h"
#include "server/net/sockaddr.h"

struct listener;

/* Binds and listens at once, so that a port in use is reported here: ERR_CONFLICT (in use),
 * ERR_UNAVAILABLE (no right, no such address), both with words. `on_accept` owns the descriptor. */
NODISCARD enum err listener_open(struct loop *l, const struct sockaddr_any *at,
                                 void (*on_accept)(void *ctx, int fd,
                                                   const struct sockaddr_any *peer),
                                 void *ctx, struct listener **out, struct errinfo *info);
/* The address that it really has (port 0 was asked). */
struct sockaddr_any listener_address(const struct listener *l);
void listener_close(struct listener **lp);
