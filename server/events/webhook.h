/* webhook: tells the endpoints of applications what happened (Standard Webhooks 1.0): claim ->
 * render -> sign -> POST -> settle.
 *
 * One thread with a loop and an HTTP client. It wakes on NOTICE_NOTIFY and on the earliest due
 * time, claims due notifications (at most 8 of one endpoint at once, so that a dead endpoint holds
 * up nobody), posts each, and settles: 2xx delivered; 410 disables the endpoint; anything else, a
 * redirect too, is tried again after 5 s, 5 m, 30 m, 2 h, 5 h, 10 h, 14 h, 20 h, 24 h (15 % jitter;
 * Retry-After is honoured when it is longer, up to 24 h), then failed and the endpoint is marked
 * failing. Every attempt is in the delivery log.
 *
 *     webhooks_start(&options, &w, &info);  ...  webhooks_stop(&w);
 *
 * Thread: start, reload, stop on main; everything else inside.
 */
#pragma once

#include "server/net/httpc.h"
#include "storage/store.h"

struct webhooks;

struct webhooks_options {
    struct store *store;
    struct dns *dns;
    const struct guard *guard; /* borrowed until webhooks_set() or stop */
    const char *ca_file;       /* NULL: the system's */
    int64_t timeout_ms;        /* of one POST */
    const char *user_agent;    /* "postchute/0.1.0" */
};

NODISCARD enum err webhooks_start(const struct webhooks_options *o, struct webhooks **out,
                                  struct errinfo *info);
/* Takes guard, ca_file and timeout_ms over, for what is posted from now on; the old guard may be
 * freed after it returns. */
void webhooks_set(struct webhooks *w, const struct webhooks_options *o);
/* Ends within timeout_ms: posts under way may finish, the others go back to pending without a
 * counted attempt. */
void webhooks_drain(struct webhooks *w, int64_t timeout_ms);
/* Drains, unless that was done, and frees. A name that is being looked up is waited for: so drain,
 * dns_stop(), and then this. */
void webhooks_stop(struct webhooks **wp, int64_t timeout_ms);
