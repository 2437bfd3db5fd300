/* dns_worker: a libunbound context, the library's thread that answers for it, and whether it lives.
 * For dns only.
 *
 * When that thread cannot begin (its pipe is not taken into its epoll set) or has ended, the
 * library says nothing of it: questions are taken and never answered, the pipe fills and blocks who
 * asks, and freeing the context waits for ever. The same when the thread cannot say an answer. So
 * each context is first asked for something that it answers by itself, without any network, and
 * again each second as long as it owes an answer. Who does not answer that in time is replaced, and
 * so is one whose pipe broke; more than once in a row only after pauses that grow. One that takes
 * its settings no more (a file is gone) is tried again after such pauses, too. A network without
 * DNS replaces nothing. A context ends on a thread of its own, since its end, too, may be waited
 * for in vain: the loop waits for half a second.
 *
 *     struct dns_worker *w = dns_worker_new(&(struct dns_worker_options){...});
 *     enum err e = dns_worker_ask(w, "example.org", DNS_MX, x, answered, &x->ub_id);
 *     // in answered(): dns_worker_answered(w)
 *     // ERR_AGAIN: asked too early; ready() or lost() is called when it is time
 *     ...
 *     dns_worker_free(&w);
 *
 * Thread: the loop's, but for what says otherwise.
 */
#pragma once

#include "server/net/dns_context.h"
#include "server/net/loop.h"

struct ub_result;
struct dns_worker;

/* As the library calls it; it calls dns_worker_answered(). `r` is the caller's, to be freed with
 * ub_resolve_free(). */
typedef void dns_worker_fn(void *arg, int err, struct ub_result *r);

struct dns_worker_options {
    struct loop *loop;
    const struct dns_upstream *from; /* outlives it */
    bool validates;
    int64_t alive_ms;         /* how long it may take to show that it lives; 0: 1.5 s */
    void (*ready)(void *arg); /* what was refused with ERR_AGAIN can be asked now */
    void (*lost)(void *arg);  /* nothing that was asked will be answered; ask again */
    void *arg;
};

/* Thread: any. */
struct dns_worker *dns_worker_new(const struct dns_worker_options *o);
/* Makes the context now, so that wrong settings are told: ERR_INVALID names the setting. Thread:
 * who made it, before the first question. */
NODISCARD enum err dns_worker_open(struct dns_worker *w, struct errinfo *info);
/* OK: `answered` follows, unless it is canceled or lost. ERR_AGAIN: see above. ERR_UNAVAILABLE: not
 * now, nothing follows. */
NODISCARD enum err dns_worker_ask(struct dns_worker *w, const char *name, int type, void *arg,
                                  dns_worker_fn *answered, int *id);
void dns_worker_answered(struct dns_worker *w);
void dns_worker_cancel(struct dns_worker *w, int id); /* one that was not answered yet */
/* Forgets what it knows, if it owes nothing. The library keeps a failure for 5 s. */
void dns_worker_forget(struct dns_worker *w);
/* What was asked is not answered any more. Accepts NULL in *wp. */
void dns_worker_free(struct dns_worker **wp);
