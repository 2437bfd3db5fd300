/* delivery: takes what is due out of the store, hands it to the next hop by SMTP, and writes what
 * happened back. The only room that claims recipients.
 *
 *     struct delivery_options o;
 *     delivery_options_default(&o);
 *     o.store = store; o.dns = dns; o.hostname = "mail.example.org";
 *     o.routes = &route; o.route_count = 1; o.default_route = "default";
 *     struct delivery *d = NULL;
 *     if (delivery_start(&o, &d, &info) != OK) ...
 *     ...
 *     delivery_drain(d, clock_mono_ms() + 30000);   // stop claiming, finish, then abort; all
 * settled delivery_stop(&d);                            // joins its threads
 *
 * Threads: one scheduler (sites, windows, the due queue) and `loops` delivery loops (sessions).
 * The store and the resolver must outlive it. DKIM keys and bounce addresses are read from the
 * store (STORE_DOMAINS) and again at each NOTICE_DOMAINS.
 *
 * Thread: main calls everything here; delivery_status from any.
 */
#pragma once

#include "server/base/limits.h"
#include "server/delivery/route.h"
#include "server/net/dns.h"
#include "storage/store.h"

enum { DELIVERY_LOOPS_MAX = 64, DELIVERY_RETRY_STEPS_MAX = LIMIT_RETRY_STEPS };

/* Everything is copied by delivery_start() and delivery_reload(), but for store, dns and tls_ctx
 * (a reference is taken). */
struct delivery_options {
    struct store *store;
    struct dns *dns;      /* NULL: only smarthosts given by address can be reached */
    size_t loops;         /* delivery loop threads; not changed by a reload */
    const char *hostname; /* EHLO name: a FQDN, or an address literal */
    const struct route *routes;
    size_t route_count;
    const char *default_route; /* name of the one that messages take which name none and match no
                                  rule; NULL: a route to the MX hosts with the values of default */

    /* Delay after attempt 1, 2, ...; after the last step `retry_then_ms` for ever; the message's
     * expiry ends it. */
    int64_t retry_ms[DELIVERY_RETRY_STEPS_MAX];
    size_t retry_count;
    int64_t retry_then_ms;
    unsigned retry_jitter_percent; /* each delay is moved by up to so much either way */

    struct session_timeouts timeouts;
    bool want_ipv6;
    const struct str *mx_networks; /* CIDR texts: private networks that MX hosts may be in */
    size_t mx_network_count;
    struct sockaddr_any source_ipv4, source_ipv6; /* len 0: the kernel chooses */
    int64_t
        race_head_start_ms; /* an address of a host before that of its other family; 0: 250 ms */
    struct tls_client_ctx *tls_ctx; /* of hosts without a ca_file; NULL: the system's store */

    size_t due_in_memory; /* recipients held; 0: LIMIT_DUE_IN_MEMORY */
    size_t sessions_max;  /* transactions at once, whole server; a sixteenth is kept for sites that
                             have none; 0: 1000 */
    /* Contents that are read from the store: large ones, and half as much small ones; 0: 64 MiB. */
    size_t content_bytes_max;
    int64_t idle_mx_ms, idle_smarthost_ms; /* idle sessions are kept so long; 0: 5 s, 45 s */
    int64_t session_age_max_ms;            /* 0: 300 s */
    int64_t site_dead_ms;                  /* 0: 60 s */
    int64_t site_locked_ms; /* after a refused login; 0: 5 min: servers count failed ones */
    bool keep_transcripts;  /* with each attempt */
};
/* The values of the design; store, dns, hostname and routes are left for the caller. */
void delivery_options_default(struct delivery_options *o);

struct delivery;

/* What delivery_start() would refuse, but for store and resolver, which may be NULL. ERR_INVALID:
 * info->field names the option. */
NODISCARD enum err delivery_check(const struct delivery_options *o, struct errinfo *info);
/* ERR_INVALID: an option is wrong (info->field names it). */
NODISCARD enum err delivery_start(const struct delivery_options *o, struct delivery **out,
                                  struct errinfo *info);
/* New options for everything that no delivery loop has yet; what is under way ends under the old
 * ones. store, dns and loops must be the same. In two steps, so that a reload of several rooms is
 * all or nothing: only the first can fail, and it changes nothing. */
struct settings;
NODISCARD enum err delivery_prepare(struct delivery *d, const struct delivery_options *o,
                                    struct settings **out, struct errinfo *info);
void delivery_take(struct delivery *d, struct settings **prepared);
void delivery_forget(struct settings **prepared); /* NULL: nothing happens */
/* Both steps. */
NODISCARD enum err delivery_reload(struct delivery *d, const struct delivery_options *o,
                                   struct errinfo *info);
/* Stops claiming and waits until nothing is under way; at `deadline_mono_ms` sessions are aborted:
 * what did not reach the end of DATA goes back to the queue without an attempt, what did has an
 * unknown outcome. Returns when all results are stored, or, when the store does not take them,
 * 5 s after the deadline (the store recovers such recipients when it is opened). */
void delivery_drain(struct delivery *d, int64_t deadline_mono_ms);
/* Drains at once if that was not done, ends the threads, frees. */
void delivery_stop(struct delivery **dp);

/* For readiness and the queue view; a snapshot, at most a second old. */
struct delivery_status {
    bool is_running, is_paused; /* paused: the store cannot be written */
    size_t in_memory, sites;
    size_t in_flight; /* with the loops: transactions, and what waits there for a session */
};
struct delivery_status delivery_status(struct delivery *d); /* Thread: any */
