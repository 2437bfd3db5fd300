#include "server/net/dns.h"

#include <pthread.h>
#include <stdatomic.h>
#include <sys/queue.h>
#include <unbound.h>

#include "server/base/log.h"
#include "server/base/metrics.h"
#include "server/net/dns_answer.h"
#include "server/net/dns_context.h"
#include "server/net/dns_names.h"
#include "server/net/dns_worker.h"
#include "server/net/loop.h"

enum {
    GRACE_MS = 50,
    TIMEOUT_MS = 20000,
    PROBE_AGAIN_MS = 1000, /* nothing answered; the library keeps a failure for 5 s */
    PROBES_AFRESH = 10,
    PROBES_IN_VAIN = 3,
    PROBE_REPAIRED_MS = 10 * 60000, /* signatures were missing */
    DNS_NS = 2,
    DNS_DNSKEY = 48
};

/* Two contexts with the same upstream; the second is made when first needed. */
enum which { VALIDATING, PLAIN, CONTEXTS };

/* What the probe knows. `probing` -> `validating` is final; `stripped` is looked at again. */
enum probe { PROBING, IS_VALIDATING, IS_STRIPPED, NO_ANCHOR };

/* The questions of the probe, one after the other. */
enum step { NOT_ASKING, KEYS, PLAINLY };

TAILQ_HEAD(questions, question);

/* Thread: the dns loop, but for what is set before it starts, and `shared`. */
struct dns {
    struct loop *loop;
    struct end {
        struct dns *dns;
        struct dns_worker *worker;
        struct questions held; /* asked too early for this worker */
        bool has_answered;     /* the network, through it */
    } end[CONTEXTS];
    struct dns_upstream from;
    struct dns_names names;
    char anchor_name[DNS_ANCHOR_NAME_SIZE]; /* owner of the trust anchor: what the probe asks for */
    int64_t timeout_ms;
    struct questions asked, waiting; /* waiting: for the probe */
    struct timer *probe_timer;
    enum probe probe;
    enum step step;
    bool is_step_asked;  /* or it was too early for that */
    int probes, in_vain; /* in_vain: in a row, while answers waited for them */
    bool is_stopping;
    atomic_uint refs;
    struct {
        pthread_mutex_t mu;
        struct dns_status status;
        bool is_stopped; /* the loop takes no more notes */
    } shared;
};

/* One dns_query under way. `names` are tried in order. */
struct question {
    struct note note;
    TAILQ_ENTRY(question) link;
    struct questions *in;
    struct dns *dns;
    struct dns_query *q;
    char names[DNS_NAMES_MAX][256];
    size_t name_count, name_at;
    enum which which;
    bool is_asked;
    bool had_grace; /* its time is over */
    int ub_id;
    struct timer *timeout;
};

static bool ask_current(struct question *x);

static void put(struct question *x, struct questions *in) {
    if (x->in)
        TAILQ_REMOVE(x->in, x, link);
    x->in = in;
    if (in)
        TAILQ_INSERT_TAIL(in, x, link);
}

/* ---- status and probe ---- */

static const char *upstream_words(const struct dns *d) {
    return d->from.is_recursive                  ? "recursive"
           : strcmp(d->from.mode, "system") == 0 ? "the system's resolver"
                                                 : "the resolvers given";
}

static struct metric *validating;

static void register_metrics(void) {
    validating = metric_gauge("postchute_dns_validating",
                              "1 when DNSSEC answers are validated, 0 when not or not yet known.");
}

static void set_status(struct dns *d, enum probe probe) {
    struct dns_status s = {.is_known = probe != PROBING, .is_validating = probe == IS_VALIDATING};
    static const char *const words[] = {
        [PROBING] = "DNSSEC: probing",
        [IS_VALIDATING] = "DNSSEC: answers are validated",
        [IS_STRIPPED] = "DNSSEC: off, signatures do not come through; DANE is off too",
        [NO_ANCHOR] = "DNSSEC: off, no trust anchor; DANE is off too",
    };
    snprintf(s.text, sizeof s.text, "%s; %s", upstream_words(d), words[probe]);
    d->probe = probe;
    metric_set(validating, s.is_validating);
    pthread_mutex_lock(&d->shared.mu);
    d->shared.status = s;
    pthread_mutex_unlock(&d->shared.mu);
}

struct dns_status dns_status(struct dns *d) {
    pthread_mutex_lock(&d->shared.mu);
    struct dns_status s = d->shared.status;
    pthread_mutex_unlock(&d->shared.mu);
    return s;
}

static void probe_found(struct dns *d, enum probe found) {
    if (d->is_stopping)
        return;
    if (found != d->probe) {
        set_status(d, found);
        if (found == IS_VALIDATING)
            log_info("dns", "DNSSEC signatures validate");
        else if (found == IS_STRIPPED)
            log_warn("dns", "DNSSEC signatures do not come through: no validation, no DANE");
    }
    if (found != IS_VALIDATING)
        timer_set(d->probe_timer, found == PROBING ? PROBE_AGAIN_MS : PROBE_REPAIRED_MS);
    if (found == PROBING)
        return;
    for (struct question *x; (x = TAILQ_FIRST(&d->waiting)) != NULL;)
        ask_current(x); /* nothing waits again: what was found stays */
}

static void take_step(struct dns *d);

static void step_ended(struct dns *d, enum probe found) {
    d->step = NOT_ASKING;
    d->is_step_asked = false;
    probe_found(d, found);
}

/* An upstream that knows its operator's zones and not the root: what waits are answers of it. Who
 * sits on the way there gains nothing that leaving out the signatures would not give. */
static bool knows_no_root(struct dns *d) {
    d->in_vain = TAILQ_EMPTY(&d->waiting) ? 0 : d->in_vain + 1;
    return d->in_vain >= PROBES_IN_VAIN;
}

/* Second step: does the upstream answer at all? Then it is the signatures that are missing. */
static void probed_plain(void *arg, int err, struct ub_result *r) {
    struct dns *d = arg;
    dns_worker_answered(d->end[PLAIN].worker);
    bool answers = err == 0 && r && (r->rcode == 0 || r->rcode == 3);
    d->end[PLAIN].has_answered |= answers;
    ub_resolve_free(r);
    bool is_stripped = answers || d->probe == IS_STRIPPED || knows_no_root(d);
    step_ended(d, is_stripped ? IS_STRIPPED : PROBING);
}

static void probed_keys(void *arg, int err, struct ub_result *r) {
    struct dns *d = arg;
    dns_worker_answered(d->end[VALIDATING].worker);
    bool is_secure = err == 0 && r && r->secure && r->havedata;
    d->end[VALIDATING].has_answered |= is_secure;
    ub_resolve_free(r);
    if (is_secure) {
        step_ended(d, IS_VALIDATING);
        return;
    }
    d->step = PLAINLY;
    take_step(d);
}

static enum which step_asks(const struct dns *d) {
    return d->step == KEYS ? VALIDATING : PLAIN;
}

static void take_step(struct dns *d) {
    bool is_keys = d->step == KEYS;
    enum err e =
        dns_worker_ask(d->end[step_asks(d)].worker, d->anchor_name, is_keys ? DNS_DNSKEY : DNS_NS,
                       d, is_keys ? probed_keys : probed_plain, NULL);
    d->is_step_asked = e == OK;
    if (e != OK && e != ERR_AGAIN)
        step_ended(d, d->probe);
}

static void probe(void *arg) {
    struct dns *d = arg;
    /* a start in trouble: whoever knows nothing but failures forgets them */
    for (size_t i = 0; i < CONTEXTS && d->probes < PROBES_AFRESH; i++)
        if (!d->end[i].has_answered)
            dns_worker_forget(d->end[i].worker);
    d->probes++;
    d->step = KEYS;
    take_step(d);
}

/* ---- questions ---- */

/* The end of a question that is in no list any more. */
static void reply(struct question *x, enum failure failure) {
    struct dns_query *q = x->q;
    q->failure = failure;
    q->name_at = x->name_at;
    timer_free(&x->timeout);
    free(x);
    mailbox_send(q->reply_to, &q->note);
}

static void finish(struct question *x, enum failure failure) {
    put(x, NULL);
    reply(x, failure);
}

/* Is there another name to look for? Not after one with a dot that is there as it stands: the other
 * family of addresses is found for that one, and shall not be somebody's wildcard's. */
static bool may_go_on(const struct question *x, enum failure failure) {
    bool is_there = failure == FAILURE_DNS_NO_ADDRESS;
    bool is_as_it_stands = x->name_at == 0 && strchr(x->q->name, '.') != NULL;
    return x->name_at + 1 < x->name_count &&
           (failure == FAILURE_DNS_NXDOMAIN || (is_there && !is_as_it_stands));
}

static void answered(void *arg, int err, struct ub_result *r) {
    struct question *x = arg;
    struct dns *d = x->dns;
    struct dns_query *q = x->q;
    enum failure failure = dns_answer_failure(err, r);
    dns_worker_answered(d->end[x->which].worker);
    /* bogus without the root's keys, too, is a failure that it keeps */
    d->end[x->which].has_answered |=
        failure != FAILURE_DNS_TEMPORARY && (failure != FAILURE_DNS_BOGUS || d->probe != PROBING);
    x->is_asked = false;
    if (failure == FAILURE_DNS_BOGUS && x->which == VALIDATING && d->probe == PROBING) {
        /* bogus, or stripped on the way? The probe will tell. */
        put(x, &d->waiting);
    } else if (failure == FAILURE_DNS_BOGUS && x->which == VALIDATING && d->probe == IS_STRIPPED) {
        ask_current(x); /* the probe was slower than the question */
    } else if (may_go_on(x, failure)) {
        q->is_past_a_name |= failure == FAILURE_DNS_NO_ADDRESS;
        x->name_at++;
        ask_current(x);
    } else {
        if (r && err == 0)
            dns_answer_take(q, r, x->names[x->name_at]);
        finish(x, failure);
    }
    ub_resolve_free(r);
}

/* false: too early, it is held */
static bool ask_current(struct question *x) {
    struct dns *d = x->dns;
    struct str name = str_of(x->names[x->name_at]);
    /* a trust anchor for the name itself makes it public, here */
    bool is_private = !d->from.is_recursive && dns_name_is_private(name) &&
                      !dns_name_is_below(name, str_of(d->anchor_name));
    x->which = is_private || d->probe == IS_STRIPPED || d->probe == NO_ANCHOR ? PLAIN : VALIDATING;
    struct end *end = &d->end[x->which];
    put(x, &d->asked);
    enum err e =
        dns_worker_ask(end->worker, x->names[x->name_at], (int)x->q->type, x, answered, &x->ub_id);
    x->is_asked = e == OK;
    if (e == ERR_AGAIN)
        put(x, &end->held);
    else if (e != OK)
        finish(x, FAILURE_DNS_TEMPORARY);
    return e != ERR_AGAIN;
}

/* The worker takes questions: those that came too early, as many as it takes now. */
static void worker_ready(void *arg) {
    struct end *end = arg;
    struct dns *d = end->dns;
    if (d->step != NOT_ASKING && !d->is_step_asked && &d->end[step_asks(d)] == end)
        take_step(d);
    /* what the probe found meanwhile may have made one the other end's: it waits there */
    for (struct question *x; (x = TAILQ_FIRST(&end->held)) != NULL;)
        if (!ask_current(x) && x->in == &end->held)
            break;
}

/* Its questions are asked once more: their time goes on. */
static void worker_lost(void *arg) {
    struct end *end = arg;
    struct dns *d = end->dns;
    struct questions lost = TAILQ_HEAD_INITIALIZER(lost);
    for (struct question *x = TAILQ_FIRST(&d->asked), *next; x; x = next) {
        next = TAILQ_NEXT(x, link);
        if (&d->end[x->which] == end)
            put(x, &lost);
    }
    for (struct question *x; (x = TAILQ_FIRST(&end->held)) != NULL;)
        put(x, &lost);
    if (d->step != NOT_ASKING && &d->end[step_asks(d)] == end)
        take_step(d);
    for (struct question *x; (x = TAILQ_FIRST(&lost)) != NULL;)
        ask_current(x);
}

static void timed_out(void *arg) {
    struct question *x = arg;
    struct dns *d = x->dns;
    if (!x->had_grace) { /* after a stop of the process the answer is there, too: it is read first
                          */
        x->had_grace = true;
        timer_set(x->timeout, GRACE_MS);
        return;
    }
    if (x->is_asked)
        dns_worker_cancel(d->end[x->which].worker, x->ub_id);
    finish(x, FAILURE_DNS_TEMPORARY);
}

static void begin_question(struct note *n) {
    struct question *x = CONTAINER_OF(n, struct question, note);
    struct dns *d = x->dns;
    if (d->is_stopping) {
        reply(x, FAILURE_SHUTDOWN);
        return;
    }
    x->name_count = dns_names_collect(&d->names, str_of(x->q->name), x->q->use_search, x->names);
    if (x->name_count == 0) {
        reply(x, FAILURE_DNS_NXDOMAIN); /* nothing with such a name can be in the DNS */
        return;
    }
    x->timeout = timer_new(d->loop, timed_out, x);
    timer_set(x->timeout, d->timeout_ms);
    ask_current(x);
}

void dns_ask(struct dns *d, struct dns_query *q) {
    struct question *x = mem_zalloc(sizeof *x);
    x->note.run = begin_question;
    x->dns = d;
    x->q = q;
    q->failure = FAILURE_NONE;
    q->is_secure = false;
    q->canonical[0] = 0;
    q->name_at = 0;
    q->is_past_a_name = false;
    q->ttl_s = 0;
    q->arena = NULL;
    dns_query_release(q);
    pthread_mutex_lock(&d->shared.mu);
    bool is_stopped = d->shared.is_stopped;
    if (!is_stopped)
        mailbox_send(loop_mailbox(d->loop), &x->note);
    pthread_mutex_unlock(&d->shared.mu);
    if (is_stopped)
        reply(x, FAILURE_SHUTDOWN);
}

void dns_keep_first_name(struct dns_query *a, struct dns_query *b) {
    struct dns_query *later = a->name_at > b->name_at ? a : b, *earlier = later == a ? b : a;
    if (a->name_at == b->name_at || later->failure != FAILURE_NONE)
        return;
    /* one name server says that the name is not there, another nothing, or half of it */
    if (earlier->failure != FAILURE_NONE && !later->is_past_a_name)
        return;
    dns_query_release(later);
    later->failure = FAILURE_DNS_NO_ADDRESS;
}

/* ---- start and stop ---- */

struct dns_note {
    struct note note;
    struct dns *dns;
};

static void start_run(struct note *n) {
    struct dns *d = CONTAINER_OF(n, struct dns_note, note)->dns;
    free(CONTAINER_OF(n, struct dns_note, note));
    d->probe_timer = timer_new(d->loop, probe, d);
    if (d->probe == PROBING)
        probe(d);
}

static void answer_all(struct questions *in) {
    for (struct question *x; (x = TAILQ_FIRST(in)) != NULL;)
        finish(x, FAILURE_SHUTDOWN);
}

static void stop_run(struct note *n) {
    struct dns *d = CONTAINER_OF(n, struct dns_note, note)->dns;
    free(CONTAINER_OF(n, struct dns_note, note));
    d->is_stopping = true;
    timer_free(&d->probe_timer);
    for (size_t i = 0; i < CONTEXTS; i++)
        dns_worker_free(&d->end[i].worker); /* calls back nobody */
    answer_all(&d->asked);
    answer_all(&d->waiting);
    for (size_t i = 0; i < CONTEXTS; i++)
        answer_all(&d->end[i].held);
}

static void send_to_loop(struct dns *d, void (*run)(struct note *)) {
    struct dns_note *n = mem_zalloc(sizeof *n);
    n->note.run = run;
    n->dns = d;
    mailbox_send(loop_mailbox(d->loop), &n->note);
}

static char *dupz(const char *z) {
    return z ? mem_dup(z, strlen(z) + 1) : NULL;
}

enum err dns_check(const struct dns_options *o, struct errinfo *info) {
    char name[DNS_ANCHOR_NAME_SIZE];
    bool is_word = strcmp(o->mode, "system") == 0 || strcmp(o->mode, "recursive") == 0;
    enum err e = is_word ? OK : dns_context_check_addresses(o->mode, info);
    if (e == OK && o->trust_anchor_file && *o->trust_anchor_file)
        e = dns_context_anchor_name(o->trust_anchor_file, name, info);
    if (e == OK && o->root_hints_file && *o->root_hints_file)
        e = dns_context_check_hints(o->root_hints_file, info);
    return e;
}

static enum err take_options(struct dns *d, const struct dns_options *o, struct errinfo *info) {
    enum err e = OK;
    struct dns_upstream *u = &d->from;
    const char *resolv_conf = o->resolv_conf ? o->resolv_conf : "/etc/resolv.conf";
    bool is_system = strcmp(o->mode, "system") == 0;
    u->mode = dupz(o->mode);
    u->resolv_conf = dupz(resolv_conf);
    u->is_recursive = strcmp(o->mode, "recursive") == 0;
    u->anchor_file = dns_context_anchor_file(o->trust_anchor_file);
    if (is_system) {
        u->hosts_file = dupz(o->hosts_file ? o->hosts_file : "/etc/hosts");
        dns_names_read(&d->names, resolv_conf);
    } else if (u->is_recursive) {
        u->hints_file = dns_context_hints_file(o->root_hints_file);
        if (u->hints_file)
            e = dns_context_check_hints(u->hints_file, info);
    } else {
        e = dns_context_check_addresses(o->mode, info);
    }
    if (e == OK && u->anchor_file)
        e = dns_context_anchor_name(u->anchor_file, d->anchor_name, info);
    return e;
}

static void new_workers(struct dns *d, int64_t alive_ms) {
    for (enum which i = 0; i < CONTEXTS; i++)
        d->end[i].worker = dns_worker_new(&(struct dns_worker_options){.loop = d->loop,
                                                                       .from = &d->from,
                                                                       .validates = i == VALIDATING,
                                                                       .alive_ms = alive_ms,
                                                                       .ready = worker_ready,
                                                                       .lost = worker_lost,
                                                                       .arg = &d->end[i]});
}

enum err dns_start(const struct dns_options *o, struct dns **out, struct errinfo *info) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, register_metrics);
    *out = NULL;
    enum err e = OK;
    struct dns *d = mem_zalloc(sizeof *d);
    atomic_init(&d->refs, 1);
    TAILQ_INIT(&d->asked);
    TAILQ_INIT(&d->waiting);
    for (size_t i = 0; i < CONTEXTS; i++) {
        d->end[i].dns = d;
        TAILQ_INIT(&d->end[i].held);
    }
    pthread_mutex_init(&d->shared.mu, NULL);
    d->timeout_ms = o->timeout_ms > 0 ? o->timeout_ms : TIMEOUT_MS;
    e = take_options(d, o, info);
    if (e == OK) {
        set_status(d, d->from.anchor_file ? PROBING : NO_ANCHOR);
        d->loop = loop_start("dns");
        new_workers(d, o->alive_ms);
        e = dns_worker_open(d->end[d->from.anchor_file ? VALIDATING : PLAIN].worker, info);
    }
    if (e != OK) {
        dns_stop(&d);
        return e;
    }
    send_to_loop(d, start_run);
    *out = d;
    return OK;
}

void dns_stop(struct dns **dp) {
    struct dns *d = *dp;
    *dp = NULL;
    if (!d)
        return;
    pthread_mutex_lock(&d->shared.mu);
    d->shared.is_stopped = true;
    pthread_mutex_unlock(&d->shared.mu);
    if (d->loop) {
        send_to_loop(d, stop_run);
        loop_stop(&d->loop);
    }
    dns_unref(&d);
}

struct dns *dns_ref(struct dns *d) {
    atomic_fetch_add_explicit(&d->refs, 1, memory_order_relaxed);
    return d;
}

void dns_unref(struct dns **dp) {
    struct dns *d = *dp;
    *dp = NULL;
    if (!d || atomic_fetch_sub_explicit(&d->refs, 1, memory_order_acq_rel) != 1)
        return;
    pthread_mutex_destroy(&d->shared.mu);
    free(d->from.mode);
    free(d->from.resolv_conf);
    free(d->from.hosts_file);
    free(d->from.anchor_file);
    free(d->from.hints_file);
    free(d);
}
