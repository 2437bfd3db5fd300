/* What a reply or a failure means for a recipient, and the report of it. */
#include <stdio.h>

#include "server/base/clock.h"
#include "server/base/log.h"
#include "server/delivery/task_state.h"
#include "server/mail/outcome.h"

void task_begin_report(struct task *t, size_t room) {
    if (t->report == NULL)
        t->report = report_new(room);
    t->began_wall_ms = clock_wall_ms();
    t->began_mono_ms = clock_mono_ms();
    t->judged.code = 0;
}

/* What protects the connection, also while the session is not open yet (AUTH); NULL: nothing. */
const struct tls_info *task_tls(const struct task *t) {
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
    }
    e->last.text = report_text(rep, session_result_text(r));
    const struct tls_info *tls = task_tls(t);
    if (tls != NULL)
        e->last.tls = arena_dup(rep->arena, str_of(tls->version));
}

/* It is one more than an attempt asks; what rests is not asked, either, but will be. */
static bool is_beyond_reach(const struct task *t, const struct host_entry *h) {
    bool is_so = t->candidates == LIMIT_MX_ADDRESSES;
    for (size_t i = 0; i < t->candidates && is_so; i++)
        is_so = t->candidate[i].host != h;
    for (size_t i = 0; i < h->addr_count && is_so; i++)
        is_so = !worker_address_is_dead(t->w, &h->addr[i]);
    return is_so;
}

static bool has_said(const struct task *t, const struct host_entry *h, enum verdict_class what) {
    bool has = h == t->at->host;
    for (size_t i = 0; i < t->candidates && !has; i++)
        has = t->candidate[i].host == h && t->candidate[i].said == what;
    return has;
}

/* Those before it, and the one that says it now. Where there are more than one attempt asks, those
 * that it asks: else nothing would ever be final there. */
static bool have_all_said(const struct task *t, enum verdict_class what) {
    const struct host_list *l = t->job->hosts;
    size_t i = 0;
    while (i < l->host_count && (has_said(t, &l->host[i], what) || is_beyond_reach(t, &l->host[i])))
        i++;
    return i == l->host_count;
}

/* One reply but to RCPT is the same for all whom it decides: the rules are asked once. */
static struct verdict judge(struct task *t, const struct session_result *r) {
    struct judged *same = &t->judged;
    bool is_for_all = r->reply != NULL && (r->stage != STAGE_RCPT || r->reply->code == 421);
    if (is_for_all && same->code == r->reply->code && same->stage == r->stage)
        return same->verdict;
    struct outcome_input in = {.stage = r->stage,
                               .failure = r->failure,
                               .reply = r->reply,
                               .is_smarthost = task_is_smarthost(t),
                               .is_last_host = !task_has_next_for(t, r),
                               .rcpt_accepted_before = r->rcpt_accepted_before};
    struct verdict v = outcome_judge(&in);
    in.is_every_host = v.wants_every_host && have_all_said(t, v.class_);
    if (in.is_every_host)
        v = outcome_judge(&in);
    if (is_for_all)
        *same = (struct judged){.code = r->reply->code, .stage = r->stage, .verdict = v};
    return v;
}

void task_judge(struct task *t, struct report_entry *e, size_t i, const struct session_result *r) {
    *e = (struct report_entry){.item = t->job->recipient[i].item, .key = t->job->recipient[i].key};
    e->verdict = judge(t, r);
    /* the final dot was on its way: whether they have it, nobody knows (C18) */
    e->unknown_outcome = r->failure != FAILURE_NONE && r->stage == STAGE_END;
    e->is_shutdown = r->failure == FAILURE_SHUTDOWN;
    fill_last(t, e, r);
    if (e->verdict.retry_at_once && r->reply != NULL && r->rcpt_accepted_before > t->accepted_most)
        t->accepted_most = (unsigned)r->rcpt_accepted_before;
}

void task_remember_said(struct task *t, const struct verdict *v) {
    if (v->wants_every_host)
        t->at->said = v->class_;
}

bool task_is_wish_unmet(const struct task *t, const struct session_result *r) {
    enum session_tls level = candidate_tls_of_route(t->job, t->at);
    if (tlspolicy_level(level, t->job->tls) == level)
        return false;
    if (level >= SESSION_TLS_ENCRYPT) /* the route would have met anything else, too */
        return r->failure == FAILURE_TLS_UNTRUSTED || r->failure == FAILURE_TLS_NAME ||
               r->failure == FAILURE_TLS_EXPIRED;
    bool is_refused = r->failure == FAILURE_NONE && r->stage == STAGE_STARTTLS;
    /* however a handshake ended, the route would have gone on in clear */
    return is_refused || r->stage == STAGE_TLS ||
           (r->failure >= FAILURE_TLS_NOT_OFFERED && r->failure <= FAILURE_TLS_INJECTION);
}

void task_rest_login(struct task *t, struct str said) {
    uint64_t tag = t->at->host->smarthost->session_tag;
    if (worker_login_is_refused(t->w, t->at->addr, tag))
        return; /* which was said */
    log_error("delivery", "the smarthost refuses our credentials, another one is used",
              LOG_STRZ("host", t->at->host->name), LOG_STR("text", said));
    worker_login_refused(t->w, t->at->addr, tag);
}

static struct str transcript_of(const struct task *t) {
    return t->conn != NULL ? session_transcript(t->conn->session) : STR_NONE;
}

/* The address was tried in vain: what was said there stands before the next one's dialogue. */
void task_remember_dialogue(struct task *t, struct str why) {
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

void task_fill_attempt(struct task *t) {
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
    const struct tls_info *tls = task_tls(t);
    if (tls != NULL) {
        a->tls_version = arena_dup(r->arena, str_of(tls->version));
        a->tls_cipher = arena_dup(r->arena, str_of(tls->cipher));
        a->tls_verified = tls->is_verified;
    }
    struct str said = transcript_of(t);
    size_t before = t->prologue.n, room = LIMIT_TRANSCRIPT - before;
    size_t n = said.n <= room ? said.n : room;
    char *all = arena_alloc(r->arena, before + n + 1);
    if (before > 0)
        memcpy(all, t->prologue.p, before);
    if (n > 0)
        memcpy(all + before, said.p, n);
    a->transcript = str_make(all, before + n);
    buf_clear(&t->prologue);
}

static bool is_another_host_left(const struct task *t) {
    for (size_t i = 0; i < t->candidates; i++) {
        if (t->candidate[i].is_left && t->candidate[i].host != t->at->host)
            return true;
    }
    return false;
}

static bool is_login_refused(const struct task *t) {
    return t->report->entry[0].verdict.is_our_login && !t->is_login_good;
}

/* What one message asks for, and what this machine lacks, says nothing about the site; nor does a
 * refused login about smarthosts that will be back. */
static enum site_feedback feedback_of(const struct task *t) {
    const struct report_entry *e = &t->report->entry[0];
    if (is_login_refused(t) && !is_another_host_left(t))
        return SITE_LOCKED;
    if (t->is_reached)
        return SITE_REACHED;
    bool is_silent = t->is_wish_unmet || failure_is_ours(e->last.failure);
    return is_silent ? SITE_SILENT : SITE_UNREACHABLE;
}

/* Sends what is decided; `fill_attempt` was called when there is an attempt to tell of. */
void task_send_report(struct task *t) {
    struct report *r = t->report;
    r->job = t->job;
    r->is_last = t->left == 0;
    r->feedback = feedback_of(t);
    if (is_login_refused(t) && r->feedback != SITE_LOCKED)
        task_rest_login(t, r->entry[0].last.text);
    t->report = NULL;
    t->is_site_well = r->feedback == SITE_REACHED || r->feedback == SITE_SILENT;
    r->recipients_learned = t->accepted_most;
    r->note.run = t->w->o.run_report;
    mailbox_send(t->w->o.reply_to, &r->note);
}
