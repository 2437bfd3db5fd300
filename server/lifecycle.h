/* lifecycle: one running server: starts its rooms bottom-up, reloads, drains, stops top-down.
 *
 *     dns, TLS, guard -> store -> declarations -> sandbox -> delivery -> webhooks -> housekeeping
 * -> api (the last: now it accepts)
 *
 * Settings that a start would refuse are found first: a wrong one leaves no outbox behind.
 *
 * SIGTERM, SIGINT: the API stops accepting, deliveries under way finish within the setting's time,
 * results are settled, exit 0. A second signal kills: what was under way is then as after a crash.
 * SIGHUP: settings are read again; what is wrong with them is logged and the old ones stay.
 * Thread: main.
 */
#pragma once

#include "server/config.h"

/* Runs until a signal ends it; returns the exit code: 0, or 1 when it could not start (the reason
 * is on standard error). */
int lifecycle_run(struct config *config, char *const *env);
