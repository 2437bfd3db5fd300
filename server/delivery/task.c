/* task: one job on its loop.
 *
 *   task_start: order the addresses -> attempt
 *   attempt:   pooled session -> transact        no session -> open -> (on_ready) transact
 *   transact:  up to recipients_most of those to be sent now, those in ASCII before others
 *              -> (on_recipient...) -> on_done
 *   on_done:   decided ones into a report; others again at once on this session, or at the next
 *              address; none left: finish
 *   on_failed: everybody is judged by it: next address, in clear, or a report
 *
 * Each recipient is NOW, NEXT (at the next address) or DECIDED, and is in exactly one report.
 */
#include <stdio.h>
#include <stdlib.h>

#include "server/base/clock.h"
#include "server/base/log.h"
#include "server/delivery/task_state.h"

static const struct session_events TASK_EVENTS;
static void attempt(struct task *t);
static void transact(struct task *t);

/* Another address of the same smarthost would refuse the same login, and count it. */
static void skip_this_host(struct task *t) {
    while (t->next < t->candidates && t->candidate[t->next].host == t->at->host)
        t->next++;
}

/* ---- signing ----------------------------------------------------------------------------------
 */

void task_sign(struct worker *w, struct job *j) {
    struct dkim_signer signer;
    struct errinfo info = {0};
    int64_t began_mono_us = clock_mono_us();
    struct message *made = NULL;
    enum err e = ERR_NOT_FOUND;
    if (!signers_find(j->signers, j->project, j->from_domain, j->published_only, &signer)) {
        /* there was one when the scheduler looked: it was taken out since */
        log_warn("delivery", "sent without a DKIM signature: the domain has no key any more",
                 LOG_STR("domain", j->from_domain));
    } else if (signer.key_count == 0) { /* which was told when the domains were read */
        e = ERR_UNAVAILABLE;
        j->is_held = true;
        log_info("delivery", "held: no key of the domain can be read",
                 LOG_ID("message", &j->message_id), LOG_STR("domain", signer.domain));
    } else if ((e = dkim_sign(j->message, &signer, clock_wall_ms(), &made, &info)) != OK) {
        log_error("delivery", "cannot be signed", LOG_ID("message", &j->message_id),
                  LOG_STR("domain", signer.domain), LOG_STRZ("why", info.text));
    } else {
        log_info("delivery", "signed", LOG_ID("message", &j->message_id),
                 LOG_STR("domain", signer.domain), LOG_INT("signatures", signer.key_count),
                 LOG_INT("us", clock_mono_us() - began_mono_us));
        message_unref(&j->message);
        j->message = message_ref(made);
        j->signed_message = made;
    }
    /* the library's trouble, or want of memory: a domain that signs does not send without */
    j->is_put_off = e == ERR_INTERNAL || e == ERR_UNAVAILABLE;
    j->signed_note.run = w->o.run_signed;
    mailbox_send(w->o.reply_to, &j->signed_note);
}

static void task_free(struct task *t) {
    ASSERT(t->conn == NULL && t->left == 0);
    struct share *share = t->share;
    bool is_site_well = t->is_site_well;
    report_free(&t->report);
    LIST_REMOVE(t, link);
    buf_release(&t->prologue);
    free(t->todo);
    free(t->index);
    free(t->rcpt);
    free(t->is_reported);
    free(t);
    share_ended(share, is_site_well);
}

static void release_session(struct task *t, bool is_reusable) {
    if (t->conn == NULL)
        return;
    if (is_reusable)
        pool_put(t->w->pool, &t->conn);
    else
        conn_close(&t->conn);
    t->is_ready = false;
}

/* ---- one address ------------------------------------------------------------------------------
 */

/* After the race: `at` is who won, the loser is the next candidate; or both are dead. */
static void end_race(struct task *t, enum failure failure) {
    if (!t->is_racing)
        return;
    t->is_racing = false;
    const struct session_info *info = session_info_of(t->conn->session);
    struct candidate *first = &t->candidate[t->next - 1], *rival = &t->candidate[t->next];
    if (info->to.len == 0) {
        if (!failure_is_ours(failure))
            worker_address_died(t->w, rival->addr);
        t->next++;
    } else if (sockaddr_equal(&info->to, rival->addr)) {
        struct session_options o;
        struct candidate loser = *first;
        *first = *rival;
        *rival = loser;
        candidate_session(t->w, t->job, first, &o, &t->conn->key);
        worker_address_died(t->w, loser.addr); /* with its head start */
    }
}

static void try_next(struct task *t) {
    ASSERT(t->conn == NULL && t->next < t->candidates);
    for (size_t i = 0; i < t->job->count; i++) {
        if (t->todo[i] == TODO_NEXT)
            t->todo[i] = TODO_NOW;
    }
    t->is_login_good = false;
    t->at = &t->candidate[t->next++];
    t->in_clear = t->fresh_only = false;
    attempt(t);
}

static void attempt(struct task *t) {
    struct session_options o;
    struct conn_key k;
    candidate_session(t->w, t->job, t->at, &o, &k);
    if (t->in_clear) {
        o.tls = SESSION_TLS_NONE;
        conn_key_make(&k, &o, t->at->host->smarthost ? t->at->host->smarthost->auth_tag : 0);
    }
    t->tls = o.tls;
    task_begin_report(t, t->job->count);
    t->conn = t->fresh_only ? NULL : pool_take(t->w->pool, &k);
    if (t->conn != NULL) {
        t->is_reused = t->is_ready = true;
        t->sessions++;
        session_set_events(t->conn->session, &TASK_EVENTS, t);
        transact(t);
        return;
    }
    const struct settings *s = t->job->hosts->settings;
    const struct conn_limits limits = {.idle_ms = task_is_smarthost(t) ? s->o.idle_smarthost_ms
                                                                       : s->o.idle_mx_ms,
                                       .age_ms = s->o.session_age_max_ms,
                                       .messages = task_route(t)->messages_per_connection};
    if (task_has_next(t) && o.timeouts.connect > CONNECT_WHILE_OTHERS_MS)
        o.timeouts.connect = CONNECT_WHILE_OTHERS_MS;
    t->is_reused = false;
    t->is_racing = !t->in_clear && task_has_next(t) &&
                   candidate_race(t->w, t->job, t->at, &t->candidate[t->next], &o);
    t->conn = conn_open(t->w->pool, &k, &o, &limits, &TASK_EVENTS, t);
}

static void on_ready(void *ctx) {
    struct task *t = ctx;
    end_race(t, FAILURE_NONE);
    t->is_ready = t->is_reached = true;
    t->sessions++;
    transact(t);
}

/* Opportunistic TLS that does not come about is worth as much as none (RFC 7435); bytes injected
 * behind STARTTLS are an attack, and get nothing. */
static bool can_go_in_clear(const struct task *t, const struct session_result *r) {
    return t->tls == SESSION_TLS_OPPORTUNISTIC && !t->in_clear &&
           (r->stage == STAGE_STARTTLS || r->stage == STAGE_TLS) && r->reply == NULL &&
           r->failure != FAILURE_TLS_INJECTION && !failure_is_ours(r->failure);
}

/* Everybody who is left is decided by it. */
static void decide_all(struct task *t, const struct session_result *r) {
    struct report *rep = t->report;
    rep->count = 0;
    for (size_t i = 0; i < t->job->count; i++) {
        if (t->todo[i] == TODO_DECIDED)
            continue;
        task_judge(t, &rep->entry[rep->count++], i, r);
        t->todo[i] = TODO_DECIDED;
        t->left--;
    }
    ASSERT(t->left == 0);
}

/* No descriptor or port is left, or the source address is not one of this machine: nothing gets out
 * until somebody looks at it. Said once a minute. */
static void tell_local_trouble(struct task *t, const struct session_result *r) {
    enum { EVERY_MS = 60 * 1000 };
    int64_t now_mono_ms = clock_mono_ms();
    if (t->w->local_told_mono_ms != 0 && now_mono_ms - t->w->local_told_mono_ms < EVERY_MS)
        return;
    t->w->local_told_mono_ms = now_mono_ms;
    log_warn("delivery", "this machine could not open a connection, tried again soon",
             LOG_STRZ("host", t->at->host->name), LOG_STR("why", session_result_text(r)));
}

static void on_failed(void *ctx, const struct session_result *r) {
    struct task *t = ctx;
    struct report_entry probe;
    end_race(t, r->failure);
    if (r->failure == FAILURE_LOCAL || r->failure == FAILURE_SHORT)
        tell_local_trouble(t, r);
    if (can_go_in_clear(t, r)) {
        if (r->stage == STAGE_TLS)
            tlspolicy_broken(t->w->o.tlspolicy, t->at->addr, t->at->host->name, r->failure,
                             clock_boot_ms());
        log_info("delivery", "TLS failed, going on in clear",
                 LOG_ID("message", &t->job->message_id), LOG_STRZ("host", t->at->host->name),
                 LOG_STR("why", session_result_text(r)));
        task_remember_dialogue(t, STR("TLS failed, once more in clear"));
        release_session(t, false);
        t->in_clear = true;
        attempt(t);
        return;
    }
    if (r->stage <= STAGE_GREETING && !failure_is_ours(r->failure))
        worker_address_died(t->w, t->at->addr);
    if (r->stage == STAGE_AUTH)
        skip_this_host(t);
    t->is_wish_unmet |= task_is_wish_unmet(t, r);
    size_t first = 0;
    while (t->todo[first] == TODO_DECIDED)
        first++;
    task_judge(t, &probe, first, r);
    if (probe.verdict.try_next_host) {
        if (probe.verdict.is_our_login)
            task_rest_login(t, probe.last.text);
        else
            t->at->is_left = true;
        task_remember_said(t, &probe.verdict);
        task_remember_dialogue(t, session_result_text(r));
        release_session(t, false);
        try_next(t);
        return;
    }
    decide_all(t, r);
    if (r->failure != FAILURE_SHUTDOWN)
        task_fill_attempt(t);
    release_session(t, false);
    task_send_report(t);
    task_free(t);
}

/* ---- one transaction ---------------------------------------------------------------------------
 */

static bool is_ascii_now(const struct task *t, size_t i) {
    return t->todo[i] == TODO_NOW && str_is_ascii(t->job->recipient[i].email);
}

/* An address that needs SMTPUTF8 makes its whole transaction need it. Where the message does not,
 * ASCII ones go without the others: a server that does not offer it takes them. */
static bool goes_in_ascii(const struct task *t) {
    size_t i = 0;
    while (i < t->job->count && !is_ascii_now(t, i))
        i++;
    return !t->job->needs_smtputf8 && i < t->job->count;
}

static void transact(struct task *t) {
    struct job *j = t->job;
    bool ascii_only = goes_in_ascii(t);
    task_begin_report(t, j->count);
    t->count = 0;
    for (size_t i = 0; i < j->count && t->count < j->recipients_most; i++) {
        if (t->todo[i] != TODO_NOW || (ascii_only && !is_ascii_now(t, i)))
            continue;
        t->index[t->count] = i;
        t->is_reported[t->count] = false;
        t->rcpt[t->count] = (struct session_recipient){.email = j->recipient[i].email};
        t->count++;
    }
    t->conn->messages++;
    const struct transaction tx = {.mail_from = j->mail_from,
                                   .recipient = t->rcpt,
                                   .count = t->count,
                                   .message = j->message,
                                   .needs_smtputf8 = j->needs_smtputf8,
                                   .avoid_chunking = worker_chunking_is_broken(t->w, t->at->addr)};
    session_send(t->conn->session, &tx);
}

static void on_recipient(void *ctx, size_t k, const struct session_result *r) {
    struct task *t = ctx;
    struct report_entry *e = &t->report->entry[k];
    t->is_reported[k] = true;
    task_judge(t, e, t->index[k], r);
    t->is_login_good |= r->stage > STAGE_RCPT && !e->verdict.is_our_login;
}

/* A session from the pool that the server had closed meanwhile: nothing was said, nothing is
 * counted. */
static bool was_stale(const struct task *t) {
    if (!t->is_reused)
        return false;
    for (size_t k = 0; k < t->count; k++) {
        const struct last_result *l = &t->report->entry[k].last;
        bool is_gone =
            l->code == 421 || l->failure == FAILURE_CLOSED ||
            (l->failure >= FAILURE_CONNECT_REFUSED && l->failure <= FAILURE_CONNECT_UNREACHABLE);
        if (!is_gone || l->stage != STAGE_MAIL)
            return false;
    }
    return true;
}

/* Sorts the transaction's recipients: decided ones stay in the report, the others go on. */
static void sort_results(struct task *t) {
    struct report *r = t->report;
    r->count = 0;
    for (size_t k = 0; k < t->count; k++) {
        struct report_entry *e = &r->entry[k];
        ASSERT(t->is_reported[k]);
        if (e->verdict.retry_at_once) {
            t->todo[t->index[k]] = TODO_NOW;
        } else if (e->verdict.try_next_host) {
            t->todo[t->index[k]] = TODO_NEXT;
            task_remember_said(t, &e->verdict);
            t->at->is_left |= !e->verdict.is_our_login || t->is_login_good;
        } else {
            t->todo[t->index[k]] = TODO_DECIDED;
            t->left--;
            r->entry[r->count++] = *e;
        }
    }
}

static bool has_todo(const struct task *t, enum todo what) {
    for (size_t i = 0; i < t->job->count; i++) {
        if (t->todo[i] == what)
            return true;
    }
    return false;
}

/* The session ended before their turn came, or is used up: back to the queue, without an attempt.
 */
static void give_back(struct task *t, enum todo what) {
    struct report *r = t->report;
    for (size_t i = 0; i < t->job->count; i++) {
        if (t->todo[i] != what)
            continue;
        struct report_entry *e = &r->entry[r->count++];
        *e = (struct report_entry){.item = t->job->recipient[i].item,
                                   .key = t->job->recipient[i].key,
                                   .is_shutdown = true};
        t->todo[i] = TODO_DECIDED;
        t->left--;
    }
}

/* Said once a host and loop, while it is remembered. */
static void note_chunking(struct task *t) {
    if (!session_info_of(t->conn->session)->is_chunking_broken ||
        worker_chunking_is_broken(t->w, t->at->addr))
        return;
    worker_chunking_broke(t->w, t->at->addr);
    log_info("delivery", "BDAT was refused, or a session lost with it: DATA for an hour",
             LOG_ID("message", &t->job->message_id), LOG_STRZ("host", t->at->host->name));
}

static void on_done(void *ctx, bool is_reusable) {
    struct task *t = ctx;
    note_chunking(t);
    if (!is_reusable && was_stale(t)) {
        release_session(t, false);
        t->sessions--;
        t->fresh_only = true;
        t->report->count = 0;
        attempt(t);
        return;
    }
    t->is_reached = true;
    sort_results(t);
    bool now = has_todo(t, TODO_NOW), next = has_todo(t, TODO_NEXT);
    if (now && (!is_reusable || conn_is_used_up(t->conn, clock_mono_ms()))) {
        give_back(t, TODO_NOW);
        now = false;
    }
    if (t->report->count > 0) {
        task_fill_attempt(t);
        if (!now)
            release_session(t, is_reusable);
        task_send_report(t);
    } else if (!now) {
        task_remember_dialogue(t, STR("trying the next host"));
        release_session(t, is_reusable);
    }
    t->is_reused = now; /* a server may take one message a session */
    if (now)
        transact(t);
    else if (next)
        try_next(t);
    else
        task_free(t);
}

static const struct session_events TASK_EVENTS = {
    .on_ready = on_ready, .on_recipient = on_recipient, .on_done = on_done, .on_failed = on_failed};

/* Nothing is sent, nothing is counted: later. */
static void put_off(struct task *t) {
    const struct session_result r = {.stage = STAGE_CONNECT,
                                     .failure = FAILURE_SHORT,
                                     .text = STR("the message could not be signed")};
    task_begin_report(t, t->job->count);
    decide_all(t, &r);
    task_send_report(t);
    task_free(t);
}

/* ---- begin and abort ---------------------------------------------------------------------------
 */

static void abort_task(struct task *t) {
    struct session_result r = {.stage = STAGE_CONNECT, .failure = FAILURE_SHUTDOWN};
    bool in_transaction = t->is_ready;
    if (in_transaction)
        r.stage = session_stage(t->conn->session);
    task_begin_report(t, t->job->count);
    struct report *rep = t->report;
    rep->count = 0;
    for (size_t k = 0; in_transaction && k < t->count; k++) {
        /* what the server has said to one recipient stands; entries only move forward */
        if (!t->is_reported[k])
            continue;
        struct report_entry e = rep->entry[k];
        rep->entry[rep->count++] = e;
        t->todo[t->index[k]] = TODO_DECIDED;
        t->left--;
    }
    for (size_t i = 0; i < t->job->count; i++) {
        if (t->todo[i] == TODO_DECIDED)
            continue;
        struct session_result mine = r;
        bool is_sent = false;
        for (size_t k = 0; in_transaction && k < t->count; k++)
            is_sent = is_sent || t->index[k] == i;
        if (!is_sent && mine.stage == STAGE_END)
            mine.stage = STAGE_MAIL;
        task_judge(t, &rep->entry[rep->count++], i, &mine);
        t->todo[i] = TODO_DECIDED;
        t->left--;
    }
    if (in_transaction)
        task_fill_attempt(t);
    release_session(t, false);
    task_send_report(t);
    task_free(t);
}

void task_abort_all(struct worker *w) {
    struct task *t;
    while ((t = LIST_FIRST(&w->tasks)) != NULL)
        abort_task(t);
    if (w->pool != NULL)
        pool_clear(w->pool);
}

static struct task *task_new(struct worker *w, struct job *j, struct share *s) {
    if (w->pool == NULL)
        w->pool = pool_new(w->loop, WORKER_IDLE_MOST);
    struct task *t = mem_zalloc(sizeof(*t));
    t->w = w;
    t->job = j;
    t->share = s;
    t->left = j->count;
    t->todo = mem_zalloc(j->count * sizeof(*t->todo));
    t->index = mem_zalloc(j->count * sizeof(*t->index));
    t->rcpt = mem_zalloc(j->count * sizeof(*t->rcpt));
    t->is_reported = mem_zalloc(j->count * sizeof(*t->is_reported));
    buf_init(&t->prologue, LIMIT_TRANSCRIPT);
    LIST_INSERT_HEAD(&w->tasks, t, link);
    t->candidates = candidates_order(w, j, t->candidate);
    ASSERT(t->candidates > 0);
    t->at = &t->candidate[0];
    return t;
}

void task_start(void *worker, struct job *j, struct share *s) {
    struct worker *w = worker;
    struct task *t = task_new(w, j, s);
    if (w->is_aborting)
        abort_task(t);
    else if (j->is_put_off)
        put_off(t);
    else
        try_next(t);
}

void task_give_back(void *worker, struct job *j, struct share *s) {
    abort_task(task_new(worker, j, s));
}
