#include "server/delivery/scheduler.h"

#include <stdlib.h>

#include "server/base/clock.h"
#include "server/base/limits.h"
#include "server/base/log.h"
#include "server/delivery/scheduler_state.h"

enum {
    TURN_MOST_MS = 1000,   /* the status is refreshed at least so often */
    WAITING_SITE_MS = 100, /* a site waits for something that no event announces */
    DRAIN_GRACE_MS = 5000,
    TURN_SPACING_US =
        2000, /* between turns: what comes in meanwhile is claimed and settled together */
};

/* ---- metrics -----------------------------------------------------------------------------------
 */

static void register_metrics(struct delivery_metrics *m) {
    static const char *const VERDICTS[] = {"delivered", "deferred", "bounced", "failed"};
    static const double SECONDS[] = {0.01, 0.05, 0.1, 0.5,  1,     5,     10,    30,
                                     60,   300,  900, 3600, 14400, 86400, 172800};
    m->attempts =
        metric_counter_labelled("postchute_delivery_attempts_total",
                                "Recipients attempted, by verdict.", "verdict", VERDICTS, 4);
    m->in_flight = metric_gauge("postchute_delivery_in_flight",
                                "Transactions sent to loops: under way, or waiting there.");
    m->in_memory =
        metric_gauge("postchute_delivery_queue_in_memory", "Recipients that the scheduler holds.");
    m->sites = metric_gauge("postchute_delivery_sites", "Next hops known.");
    m->window =
        metric_gauge("postchute_delivery_window", "Slots of all sites together, as learned.");
    m->unsigned_messages = metric_counter("postchute_delivery_unsigned_total",
                                          "Messages sent unsigned for want of a key.");
    m->signed_messages = metric_counter("postchute_delivery_signed_total", "Messages signed.");
    m->settle_retries = metric_counter("postchute_delivery_settle_retries_total",
                                       "Results that the store did not take at first.");
    m->logins_refused = metric_counter("postchute_delivery_logins_refused_total",
                                       "Smarthosts that did not take our credentials.");
    m->kept_bytes = metric_gauge("postchute_delivery_kept_bytes",
                                 "Signed messages kept for their next attempt.");
    m->seconds = metric_histogram("postchute_delivery_seconds", "From accepted to delivered.",
                                  SECONDS, sizeof(SECONDS) / sizeof(SECONDS[0]));
}

static void publish(struct scheduler *s) {
    struct delivery_metrics *m = &s->metrics;
    metric_set(m->in_flight, (int64_t)s->jobs);
    metric_set(m->in_memory, (int64_t)due_count(s->due));
    metric_set(m->sites, (int64_t)table_count(&s->sites.by_key));
    metric_set(m->kept_bytes, (int64_t)letters_kept_bytes(s->letters));
    __atomic_store_n(&s->shared.in_memory, due_count(s->due), __ATOMIC_RELAXED);
    __atomic_store_n(&s->shared.in_flight, s->jobs, __ATOMIC_RELAXED);
    __atomic_store_n(&s->shared.sites, table_count(&s->sites.by_key), __ATOMIC_RELAXED);
    __atomic_store_n(&s->shared.is_paused, s->is_paused, __ATOMIC_RELAXED);
}

struct delivery_status scheduler_status(struct scheduler *s) {
    return (struct delivery_status){
        .is_running = true,
        .is_paused = __atomic_load_n(&s->shared.is_paused, __ATOMIC_RELAXED),
        .in_memory = __atomic_load_n(&s->shared.in_memory, __ATOMIC_RELAXED),
        .in_flight = __atomic_load_n(&s->shared.in_flight, __ATOMIC_RELAXED),
        .sites = __atomic_load_n(&s->shared.sites, __ATOMIC_RELAXED),
    };
}

/* ---- pausing ------------------------------------------------------------------------------------
 */

static void rerun_all_sites(struct scheduler *s) {
    struct site *site;
    struct table_cursor c = table_begin(&s->sites.by_key);
    while ((site = table_next(&c)) != NULL) {
        dispatch_make_runnable(s, site);
    }
}

bool scheduler_may_claim(const struct scheduler *s) {
    return !s->is_paused && !s->is_blocked && !s->is_draining && s->signers != NULL;
}

int64_t scheduler_expiry_wall_ms(struct scheduler *s) {
    struct doubt_view v;
    doubt_look(&s->doubt, clock_wall_ms(), clock_boot_ms(), &v);
    return v.wall_ms;
}

void scheduler_block(struct scheduler *s) {
    s->is_blocked = true;
    wakeup_set(s->wakeups, &s->blocked_wake, clock_mono_ms() + BLOCKED_MS);
}

static void unblock(void *arg) {
    struct scheduler *s = arg;
    s->is_blocked = false;
    rerun_all_sites(s);
}

void scheduler_read_health(struct scheduler *s) {
    struct store_health h = store_health(s->store);
    if (s->is_paused == !h.is_writable)
        return;
    s->is_paused = !h.is_writable;
    if (s->is_paused) {
        log_warn("delivery", "paused: the store cannot be written", LOG_STRZ("why", h.text));
        return;
    }
    log_info("delivery", "goes on: the store can be written again");
    settle_retry(s);
    unblock(s);
}

/* ---- keys and bounce addresses ------------------------------------------------------------------
 */

struct domains_call {
    struct store_domains q;
    struct scheduler *s;
};

static void domains_read(struct store_call *call) {
    struct domains_call *c =
        CONTAINER_OF(CONTAINER_OF(call, struct store_domains, call), struct domains_call, q);
    struct scheduler *s = c->s;
    s->calls--;
    s->is_reading_domains = false;
    struct signers *are = call->err == OK ? signers_new(c->q.domain, c->q.count, s->signers) : NULL;
    if (are != NULL) {
        s->domain_readings++;
        s->readings_failed = 0;
        struct signers *was = s->signers;
        s->signers = are;
        if (was != NULL) /* before, nothing was signed */
            letters_outdate(s->letters, was, s->signers);
        signers_unref(&was);
        prepare_forget_logged(s);
        rerun_all_sites(s);
    } else {
        s->readings_failed++;
        s->reads_domains_again = false; /* it is read again anyway, in a second */
        log_warn("delivery", "domains could not be read",
                 LOG_STRZ("why", call->err == OK ? "no memory to read a key" : call->info.text));
        wakeup_set(s->wakeups, &s->domains_wake, clock_mono_ms() + BLOCKED_MS);
    }
    store_call_release(call);
    free(c);
    if (s->reads_domains_again) {
        s->reads_domains_again = false;
        scheduler_read_domains(s);
    }
    prepare_keys_read(s);
}

void scheduler_read_domains(struct scheduler *s) {
    if (s->is_reading_domains) { /* it may have been read before the change */
        s->reads_domains_again = true;
        return;
    }
    struct domains_call *c = mem_zalloc(sizeof(*c));
    c->s = s;
    c->q = (struct store_domains){
        .call = {.verb = STORE_DOMAINS, .reply_to = s->box, .done = domains_read},
        .project = -1,
        .with_secrets = true};
    s->is_reading_domains = true;
    s->calls++;
    store_post(s->store, &c->q.call);
}

void scheduler_domains_changed(struct scheduler *s) {
    if (!wakeup_is_set(&s->domains_wake))
        scheduler_read_domains(s);
}

static void keys_woken(void *arg) {
    prepare_keys_read(arg);
}

static void domains_woken(void *arg) {
    scheduler_read_domains(arg);
}

/* ---- housekeeping of memory ---------------------------------------------------------------------
 */

void scheduler_forget_unused(struct scheduler *s, int64_t now_mono_ms) {
    hops_sweep(s->hops, s->settings, clock_boot_ms());
    sites_sweep(&s->sites, now_mono_ms);
}

static void sweep(void *arg) {
    struct scheduler *s = arg;
    int64_t now_mono_ms = clock_mono_ms(), slots = 0;
    scheduler_forget_unused(s, now_mono_ms);
    struct site *site;
    struct table_cursor c = table_begin(&s->sites.by_key);
    while ((site = table_next(&c)) != NULL) {
        slots += site->window.size;
    }
    metric_set(s->metrics.window, slots);
    wakeup_set(s->wakeups, &s->sweep_wake, now_mono_ms + SWEEP_MS);
}

static void load_woken(void *arg) {
    (void)arg; /* the turn that it begins looks whether to load */
}

/* ---- notes from main ---- */

struct reload_note {
    struct note note;
    struct scheduler *s;
    struct settings *settings;
};

/* New credentials, or another server behind the same name: what was wrong may be mended. */
static void revive_sites(struct scheduler *s) {
    struct site *site;
    struct table_cursor c = table_begin(&s->sites.by_key);
    while ((site = table_next(&c)) != NULL) {
        if (site->window.dead_until_mono_ms == 0)
            continue;
        window_revive(&site->window);
        dispatch_make_runnable(s, site);
    }
}

static void release_all_ready(struct scheduler *s) {
    struct site *site;
    struct table_cursor c = table_begin(&s->sites.by_key);
    while ((site = table_next(&c)) != NULL) {
        dispatch_release_ready(s, site);
    }
}

static void reload_run(struct note *n) {
    struct reload_note *r = CONTAINER_OF(n, struct reload_note, note);
    struct scheduler *s = r->s;
    /* What is not with a loop finds its route afresh, claimed or not: the old one may be what was
     * wrong. What is, ends as it began; bundle_claimed() sees to claims on their way. */
    dispatch_flush_claims(s);
    s->is_regathering = true;
    gather_evict_all(s);
    release_all_ready(s);
    due_unpark_all(s->due);
    settings_unref(&s->settings);
    s->settings = r->settings;
    hops_sweep(s->hops, s->settings, clock_boot_ms());
    revive_sites(s);
    free(r);
    log_info("delivery", "settings reloaded", LOG_INT("routes", s->settings->route_count));
}

void scheduler_reload(struct scheduler *s, struct settings *settings) {
    struct reload_note *r = mem_zalloc(sizeof(*r));
    r->note.run = reload_run;
    r->s = s;
    r->settings = settings;
    mailbox_send(s->box, &r->note);
}

/* Goes to the scheduler, and back to the waiting thread when all is done. */
struct drain_note {
    struct note note;
    struct scheduler *s;
    int64_t deadline_mono_ms;
    struct mailbox *reply_to;
    bool is_done;
};

static void drained_run(struct note *n) {
    CONTAINER_OF(n, struct drain_note, note)->is_done = true;
}

static void answer_drain(struct scheduler *s) {
    struct drain_note *d = s->drain;
    s->drain = NULL;
    wakeup_cancel(s->wakeups, &s->drain_wake);
    d->note.run = drained_run;
    mailbox_send(d->reply_to, &d->note);
}

static void drain_woken(void *arg) {
    struct scheduler *s = arg;
    if (!s->is_aborted) {
        s->is_aborted = true;
        if (s->jobs > 0)
            log_warn("delivery", "sessions are aborted", LOG_INT("transactions", s->jobs));
        for (size_t i = 0; i < s->workers; i++)
            worker_abort(s->worker[i]);
        wakeup_set(s->wakeups, &s->drain_wake, clock_mono_ms() + DRAIN_GRACE_MS);
    } else if (s->drain != NULL) {
        /* A claim that the store has yet to answer is no result: the end waits for it. */
        if (s->settles > 0 || s->jobs > 0)
            log_error("delivery", "ends with results that the store did not take",
                      LOG_INT("results", s->settles), LOG_INT("transactions", s->jobs));
        answer_drain(s);
    }
}

static void drain_run(struct note *n) {
    struct drain_note *d = CONTAINER_OF(n, struct drain_note, note);
    struct scheduler *s = d->s;
    s->drain = d;
    if (!s->is_draining) {
        s->is_draining = true;
        gather_evict_all(s);
        release_all_ready(s);
    }
    wakeup_set(s->wakeups, &s->drain_wake, d->deadline_mono_ms);
}

void scheduler_drain(struct scheduler *s, int64_t deadline_mono_ms) {
    struct drain_note d = {.note = {.run = drain_run},
                           .s = s,
                           .deadline_mono_ms = deadline_mono_ms,
                           .reply_to = s->drain_box};
    mailbox_send(s->box, &d.note);
    while (!d.is_done)
        mailbox_wait(d.reply_to, -1);
}

struct stop_note {
    struct note note;
    struct scheduler *s;
};

static void stop_run(struct note *n) {
    struct stop_note *st = CONTAINER_OF(n, struct stop_note, note);
    st->s->is_stopping = true;
    free(st);
}

/* ---- the thread ---- */

static void look_after_the_end(struct scheduler *s) {
    if (s->drain != NULL && s->jobs == 0 && s->claims_open == 0 && s->settles == 0)
        answer_drain(s);
    if (!s->is_stopping)
        return;
    settle_abandon(s);
    if (s->jobs == 0 && s->calls == 0 && hops_lookups(s->hops) == 0)
        s->is_ended = true;
}

static int patience_ms(const struct scheduler *s) {
    int wait_ms = wakeups_wait_ms(s->wakeups, clock_mono_ms());
    int most_ms = TAILQ_EMPTY(&s->runnable) ? TURN_MOST_MS : WAITING_SITE_MS;
    return wait_ms < 0 || wait_ms > most_ms ? most_ms : wait_ms;
}

/* Under load every report and every notice would be a turn of its own, with a claim of its own and
 * a transaction for each result. The first one after a quiet moment waits for nothing. */
static void space_turns(int64_t last_mono_us) {
    int64_t left_us = last_mono_us + TURN_SPACING_US - clock_mono_us();
    if (left_us <= 0)
        return;
    const struct timespec t = {.tv_nsec = left_us * 1000};
    (void)nanosleep(&t, NULL);
}

static void run(void *arg) {
    struct scheduler *s = arg;
    int64_t turn_mono_us = 0;
    store_watch(s->store, NOTICE_DUE | NOTICE_GONE | NOTICE_DOMAINS | NOTICE_HEALTH, s->box,
                gather_notice, s);
    (void)scheduler_expiry_wall_ms(s);
    scheduler_read_health(s);
    scheduler_read_domains(s);
    sweep(s);
    while (!s->is_ended) {
        space_turns(turn_mono_us);
        mailbox_wait(s->box, patience_ms(s));
        turn_mono_us = clock_mono_us();
        (void)scheduler_expiry_wall_ms(s); /* a look at the clock in each turn */
        wakeups_run(s->wakeups, clock_mono_ms());
        dispatch_runnable(s);
        dispatch_flush_claims(s);
        gather_load_if_needed(s);
        look_after_the_end(s);
        publish(s);
    }
    store_unwatch(s->store, s->box);
    mailbox_wait(s->box, 0); /* notices that were on their way */
}

static void init_wakeups(struct scheduler *s) {
    s->wakeups = wakeups_new();
    wakeup_init(&s->load_wake, load_woken, s);
    wakeup_init(&s->sweep_wake, sweep, s);
    wakeup_init(&s->blocked_wake, unblock, s);
    wakeup_init(&s->unpark_wake, gather_unpark, s);
    wakeup_init(&s->domains_wake, domains_woken, s);
    wakeup_init(&s->keys_wake, keys_woken, s);
    wakeup_init(&s->retry_wake, settle_retry, s);
    wakeup_init(&s->signers_wake, prepare_look_at_signers, s);
    wakeup_init(&s->drain_wake, drain_woken, s);
}

struct scheduler *scheduler_start(struct settings *settings) {
    struct scheduler *s = mem_zalloc(sizeof(*s));
    register_metrics(&s->metrics);
    s->settings = settings;
    s->store = settings->o.store;
    s->box = mailbox_new();
    s->drain_box = mailbox_new();
    s->tlspolicy = tlspolicy_new();
    s->due = due_new(settings->o.due_in_memory, LIMIT_DUE_PER_KEY);
    s->room = room_new(settings->o.content_bytes_max);
    s->letters = letters_new(KEEP_BYTES, s->room);
    s->hops = hops_new(s->box, gather_resolved, s);
    hops_set_drop(s->hops, gather_hop_dropped);
    TAILQ_INIT(&s->runnable);
    TAILQ_INIT(&s->claims);
    TAILQ_INIT(&s->retries);
    init_wakeups(s);
    s->has_more = true;
    s->workers = settings->o.loops;
    s->worker = mem_zalloc(s->workers * sizeof(*s->worker));
    const struct worker_options w = {.reply_to = s->box,
                                     .run_signed = prepare_signed,
                                     .run_report = settle_report,
                                     .tlspolicy = s->tlspolicy};
    for (size_t i = 0; i < s->workers; i++)
        s->worker[i] = worker_start(i, &w);
    s->thread = thread_start("scheduler", run, s);
    return s;
}

void scheduler_stop(struct scheduler **sp) {
    struct scheduler *s = *sp;
    *sp = NULL;
    if (s == NULL)
        return;
    struct stop_note *st = mem_zalloc(sizeof(*st));
    st->note.run = stop_run;
    st->s = s;
    mailbox_send(s->box, &st->note);
    thread_join(&s->thread);
    for (size_t i = 0; i < s->workers; i++)
        worker_stop(&s->worker[i]);
    free(s->worker);
    wakeups_free(&s->wakeups);
    hops_free(&s->hops);
    letters_free(&s->letters);
    room_free(&s->room);
    sites_free(&s->sites);
    due_free(&s->due);
    signers_unref(&s->signers);
    tlspolicy_free(&s->tlspolicy);
    prepare_forget_logged(s);
    mailbox_free(&s->box);
    mailbox_free(&s->drain_box);
    settings_unref(&s->settings);
    free(s);
}
