/* task: one job on its loop.
 *
 *   task_start: sign -> order the addresses -> attempt
 *   attempt:   pooled session -> transact        no session -> open -> (on_ready) transact
 *   transact:  up to recipients_most of those to be sent now -> (on_recipient...) -> on_done
 *   on_done:   decided ones into a report; others again at once on this session, or at the next
 *              address; none left: finish
 *   on_failed: everybody is judged by it: next address, in clear, or a report
 *
 * Each recipient is NOW, NEXT (at the next address) or DECIDED, and is in exactly one report.
 */
#include <stdio.h>
#include <stdlib.h>

#include "server/base/clock.h"
#include "server/base/limits.h"
#include "server/base/log.h"
#include "server/delivery/candidate.h"
#include "server/delivery/worker_state.h"
#include "server/mail/outcome.h"

enum {
    SESSIONS_MOST = 2,               /* greeted ones that a job may use up */
    CONNECT_WHILE_OTHERS_MS = 10000, /* no longer than this while addresses remain */
};

enum todo { TODO_NOW, TODO_NEXT, TODO_DECIDED };

struct task {
    LIST_ENTRY(task) link;
    struct worker *w;
    struct job *job;
    enum todo *todo; /* one per recipient */
    size_t left;     /* not DECIDED */

    struct candidate candidate[LIMIT_MX_ADDRESSES];
    size_t candidates, next;    /* how many, and which is tried next */
    const struct candidate *at; /* the one being tried */
    bool is_racing;             /* against candidate[next] */
    enum session_tls tls;
    bool in_clear;     /* TLS failed here: once more without */
    bool fresh_only;   /* a pooled session was dead: once more with a new one */
    unsigned sessions; /* greeted so far */

    struct conn *conn;
    bool is_ready;
    bool is_reused;  /* from the pool, and nothing was sent on it yet */
    bool is_reached; /* some session was greeted */

    /* the transaction */
    struct report *report;
    size_t *index; /* of its recipients in the job */
    struct session_recipient *rcpt;
    bool *is_reported;
    size_t count;
    unsigned accepted_most; /* RCPTs taken before a 452 */
    int64_t began_wall_ms, began_mono_ms;
    struct buf prologue; /* what came before, for the transcript */
};

static const struct session_events TASK_EVENTS;
static void attempt(struct task *t);
static void transact(struct task *t);

static const struct route *route_of(const struct task *t) {
    return t->job->hosts->route->route;
}

static bool is_smarthost(const struct task *t) {
    return route_of(t)->kind != ROUTE_MX;
}

static bool has_next(const struct task *t) {
    return t->next < t->candidates && t->sessions < SESSIONS_MOST;
}

/* Another address of the same smarthost would refuse the same login, and count it. */
static void skip_this_host(struct task *t) {
    while (t->next < t->candidates && t->candidate[t->next].host == t->at->host)
        t->next++;
}

/* ---- signing ----------------------------------------------------------------------------------
 */

static void sign(struct task *t) {
    struct job *j = t->job;
    struct dkim_signer signer;
    struct errinfo info = {0};
    int64_t began_mono_us = clock_mono_us();
    struct message *made = NULL;
    if (!signers_find(j->signers, j->from_domain, j->published_only, &signer)) {
        /* the scheduler looked before it asked, in the same signers */
        log_error("delivery", "no key to sign with", LOG_STR("domain", j->from_domain));
    } else if (dkim_sign(j->message, &signer, clock_wall_ms(), &made, &info) != OK) {
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
    j->signed_note.run = t->w->o.run_signed;
    mailbox_send(t->w->o.reply_to, &j->signed_note);
}

/* ---- reports ----------------------------------------------------------------------------------
 */

static void begin_report(struct task *t, size_t room) {
    if (t->report == NULL)
        t->report = report_new(room);
    t->began_wall_ms = clock_wall_ms();
    t->began_mono_ms = clock_mono_ms();
}

/* What protects the connection, also while the session is not open yet (AUTH); NULL: nothing. */
static const struct tls_info *tls_of(const struct task *t) {
    if (t->conn == NULL)
        return NULL;
    const struct tls_info *tls = &session_info_of(t->conn->session)->tls;
    return tls->version[0] != '\0' ? tls : NULL;
}

static void fill_last(struct task *t, struct report_entry *e, const struct session_result *r) {
    const struct verdict *v = &e->verdict;
    struct report *rep = t->report;
    e->last = (struct last_result){.class_ = v->class_,
                                   .stage = r->stage,
                                   .failure = r->failure,
                                   .is_hard = v->is_hard,
                                   .is_about_recipient = v->is_about_recipient,
                                   .mx = arena_dup(rep->arena, str_of(t->at->host->name))};
    if (r->reply != NULL) {
        e->last.code = r->reply->code;
        enhanced_code_print(r->reply->enhanced, e->last.enhanced);
        e->last.text = report_text(rep, r->reply->text);
    } else {
        e->last.text =
            report_text(rep, str_is_empty(r->text) ? str_of(failure_text(r->failure)) : r->text);
    }
    const struct tls_info *tls = tls_of(t);
    if (tls != NULL)
        e->last.tls = arena_dup(rep->arena, str_of(tls->version));
}

static void judge(struct task *t, struct report_entry *e, size_t i,
                  const struct session_result *r) {
    const struct outcome_input in = {.stage = r->stage,
                                     .failure = r->failure,
                                     .reply = r->reply,
                                     .is_smarthost = is_smarthost(t),
                                     .is_last_host = !has_next(t),
                                     .rcpt_accepted_before = r->rcpt_accepted_before};
    *e = (struct report_entry){.item = t->job->recipient[i].item, .key = t->job->recipient[i].key};
    e->verdict = outcome_judge(&in);
    /* the final dot was on its way: whether they have it, nobody knows (C18) */
    e->unknown_outcome = r->failure != FAILURE_NONE && r->stage == STAGE_END;
    e->is_shutdown = r->failure == FAILURE_SHUTDOWN;
    fill_last(t, e, r);
    if (e->verdict.retry_at_once && r->rcpt_accepted_before > t->accepted_most)
        t->accepted_most = (unsigned)r->rcpt_accepted_before;
}

static struct str transcript_of(const struct task *t) {
    return t->conn != NULL ? session_transcript(t->conn->session) : STR_NONE;
}

/* The address was tried in vain: what was said there stands before the next one's dialogue. */
static void remember_dialogue(struct task *t, struct str why) {
    char to[SOCKADDR_TEXT_SIZE];
    sockaddr_print(t->at->addr, to);
    buf_printf(&t->prologue, "*: %s %s: %.*s\n", t->at->host->name, to, STR_ARG(why));
    struct str said = transcript_of(t);
    if (!str_is_empty(said)) {
        buf_put(&t->prologue, said);
        if (!str_ends_with(said, STR("\n")))
            buf_putc(&t->prologue, '\n');
    }
}

static void fill_attempt(struct task *t) {
    struct report *r = t->report;
    struct attempt_row *a = &r->attempt;
    char to[SOCKADDR_TEXT_SIZE];
    sockaddr_print(t->at->addr, to);
    r->has_attempt = true;
    a->message_id = t->job->message_id;
    a->started_wall_ms = t->began_wall_ms;
    a->took_ms = clock_mono_ms() - t->began_mono_ms;
    a->host = arena_dup(r->arena, str_of(t->at->host->name));
    a->address = arena_dup(r->arena, str_of(to));
    const struct tls_info *tls = tls_of(t);
    if (tls != NULL) {
        a->tls_version = arena_dup(r->arena, str_of(tls->version));
        a->tls_cipher = arena_dup(r->arena, str_of(tls->cipher));
        a->tls_verified = tls->is_verified;
    }
    struct buf all = BUF_INIT(LIMIT_TRANSCRIPT);
    buf_put(&all, buf_str(&t->prologue));
    struct str said = transcript_of(t);
    size_t room = LIMIT_TRANSCRIPT - all.n;
    buf_put(&all, said.n <= room ? said : str_slice(said, 0, room));
    a->transcript = arena_dup(r->arena, buf_str(&all));
    buf_release(&all);
    buf_clear(&t->prologue);
}

/* Sends what is decided; `fill_attempt` was called when there is an attempt to tell of. */
static void send_report(struct task *t) {
    struct report *r = t->report;
    t->report = NULL;
    r->job = t->job;
    r->is_last = t->left == 0;
    if (r->entry[0].verdict.is_our_login)
        r->feedback = SITE_LOCKED;
    else if (t->is_reached)
        r->feedback = SITE_REACHED;
    else if (r->entry[0].last.failure != FAILURE_SHUTDOWN &&
             r->entry[0].last.failure != FAILURE_LOCAL)
        r->feedback = SITE_UNREACHABLE;
    r->recipients_learned = t->accepted_most;
    r->note.run = t->w->o.run_report;
    mailbox_send(t->w->o.reply_to, &r->note);
}

static void task_free(struct task *t) {
    ASSERT(t->conn == NULL && t->left == 0);
    report_free(&t->report);
    LIST_REMOVE(t, link);
    buf_release(&t->prologue);
    free(t->todo);
    free(t->index);
    free(t->rcpt);
    free(t->is_reported);
    free(t);
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
        if (failure != FAILURE_SHUTDOWN && failure != FAILURE_LOCAL)
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
    begin_report(t, t->job->count);
    t->conn = t->fresh_only ? NULL : pool_take(t->w->pool, &k);
    if (t->conn != NULL) {
        t->is_reused = t->is_ready = t->is_reached = true;
        t->sessions++;
        session_set_events(t->conn->session, &TASK_EVENTS, t);
        transact(t);
        return;
    }
    const struct settings *s = t->job->hosts->settings;
    const struct conn_limits limits = {.idle_ms = is_smarthost(t) ? s->o.idle_smarthost_ms
                                                                  : s->o.idle_mx_ms,
                                       .age_ms = s->o.session_age_max_ms,
                                       .messages = route_of(t)->messages_per_connection};
    if (has_next(t) && o.timeouts.connect > CONNECT_WHILE_OTHERS_MS)
        o.timeouts.connect = CONNECT_WHILE_OTHERS_MS;
    t->is_reused = false;
    t->is_racing = !t->in_clear && has_next(t) &&
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
           r->failure != FAILURE_TLS_INJECTION && r->failure != FAILURE_SHUTDOWN &&
           r->failure != FAILURE_LOCAL;
}

static struct str words_of(const struct session_result *r) {
    if (r->reply != NULL)
        return r->reply->text;
    return str_is_empty(r->text) ? str_of(failure_text(r->failure)) : r->text;
}

/* Everybody who is left is decided by it. */
static void decide_all(struct task *t, const struct session_result *r) {
    struct report *rep = t->report;
    rep->count = 0;
    for (size_t i = 0; i < t->job->count; i++) {
        if (t->todo[i] == TODO_DECIDED)
            continue;
        judge(t, &rep->entry[rep->count++], i, r);
        t->todo[i] = TODO_DECIDED;
        t->left--;
    }
    ASSERT(t->left == 0);
}

static void on_failed(void *ctx, const struct session_result *r) {
    struct task *t = ctx;
    struct report_entry probe;
    end_race(t, r->failure);
    if (can_go_in_clear(t, r)) {
        if (r->stage == STAGE_TLS)
            tlspolicy_broken(t->w->o.tlspolicy, t->at->addr, clock_boot_ms());
        log_info("delivery", "TLS failed, going on in clear",
                 LOG_ID("message", &t->job->message_id), LOG_STRZ("host", t->at->host->name),
                 LOG_STR("why", words_of(r)));
        remember_dialogue(t, STR("TLS failed, once more in clear"));
        release_session(t, false);
        t->in_clear = true;
        attempt(t);
        return;
    }
    if (r->stage <= STAGE_GREETING && r->failure != FAILURE_SHUTDOWN && r->failure != FAILURE_LOCAL)
        worker_address_died(t->w, t->at->addr);
    if (r->stage == STAGE_AUTH)
        skip_this_host(t);
    size_t first = 0;
    while (t->todo[first] == TODO_DECIDED)
        first++;
    judge(t, &probe, first, r);
    if (probe.verdict.try_next_host && has_next(t)) {
        if (probe.verdict.is_our_login && !worker_address_is_dead(t->w, t->at->addr)) {
            /* the route goes on with another smarthost; this one waits until it is asked again */
            log_error("delivery", "the smarthost refuses our credentials, another one is used",
                      LOG_STRZ("host", t->at->host->name), LOG_STR("text", words_of(r)));
            worker_address_died(t->w, t->at->addr);
        }
        remember_dialogue(t, words_of(r));
        release_session(t, false);
        try_next(t);
        return;
    }
    decide_all(t, r);
    if (r->failure != FAILURE_SHUTDOWN)
        fill_attempt(t);
    release_session(t, false);
    send_report(t);
    task_free(t);
}

/* ---- one transaction ---------------------------------------------------------------------------
 */

static void transact(struct task *t) {
    struct job *j = t->job;
    begin_report(t, j->count);
    t->count = 0;
    for (size_t i = 0; i < j->count && t->count < j->recipients_most; i++) {
        if (t->todo[i] != TODO_NOW)
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
                                   .needs_smtputf8 = j->needs_smtputf8};
    session_send(t->conn->session, &tx);
}

static void on_recipient(void *ctx, size_t k, const struct session_result *r) {
    struct task *t = ctx;
    t->is_reported[k] = true;
    judge(t, &t->report->entry[k], t->index[k], r);
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
        } else if (e->verdict.try_next_host && has_next(t)) {
            t->todo[t->index[k]] = TODO_NEXT;
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

/* The session ended before their turn came: back to the queue, without an attempt. */
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

static void on_done(void *ctx, bool is_reusable) {
    struct task *t = ctx;
    if (!is_reusable && was_stale(t)) {
        release_session(t, false);
        t->sessions--;
        t->fresh_only = true;
        t->report->count = 0;
        attempt(t);
        return;
    }
    t->is_reused = false;
    sort_results(t);
    bool now = has_todo(t, TODO_NOW), next = has_todo(t, TODO_NEXT);
    if (now && !is_reusable) {
        give_back(t, TODO_NOW);
        now = false;
    }
    if (t->report->count > 0) {
        fill_attempt(t);
        if (!now)
            release_session(t, is_reusable);
        send_report(t);
    } else if (!now) {
        remember_dialogue(t, STR("trying the next host"));
        release_session(t, is_reusable);
    }
    if (now)
        transact(t);
    else if (next)
        try_next(t);
    else
        task_free(t);
}

static const struct session_events TASK_EVENTS = {
    .on_ready = on_ready, .on_recipient = on_recipient, .on_done = on_done, .on_failed = on_failed};

/* ---- begin and abort ---------------------------------------------------------------------------
 */

static void abort_task(struct task *t) {
    struct session_result r = {.stage = STAGE_CONNECT, .failure = FAILURE_SHUTDOWN};
    bool in_transaction = t->is_ready;
    if (in_transaction)
        r.stage = session_stage(t->conn->session);
    begin_report(t, t->job->count);
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
        judge(t, &rep->entry[rep->count++], i, &mine);
        t->todo[i] = TODO_DECIDED;
        t->left--;
    }
    if (in_transaction)
        fill_attempt(t);
    release_session(t, false);
    send_report(t);
    task_free(t);
}

void task_abort_all(struct worker *w) {
    struct task *t;
    while ((t = LIST_FIRST(&w->tasks)) != NULL)
        abort_task(t);
    if (w->pool != NULL)
        pool_clear(w->pool);
}

void task_start(struct worker *w, struct job *j) {
    if (w->pool == NULL)
        w->pool = pool_new(w->loop, 500);
    struct task *t = mem_zalloc(sizeof(*t));
    t->w = w;
    t->job = j;
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
    if (j->sign)
        sign(t);
    if (w->is_aborting)
        abort_task(t);
    else
        try_next(t);
}
