#include <stdlib.h>

#include "server/base/clock.h"
#include "server/base/log.h"
#include "server/base/random.h"
#include "server/delivery/scheduler_state.h"
#include "server/mail/outcome.h"

enum {
    RETRY_MS = 1000,               /* what the store refused is repeated so often */
    UNCOUNTED_MS = 10 * 1000,      /* trouble of our own: not at once, not late, ... */
    UNCOUNTED_PART = 60,           /* ... and more seldom as it lasts: of the message's age */
    HELD_MS = 5 * 60 * 1000,       /* until somebody mends it: all of a domain's mail comes round */
    GREYLISTED_MS = 5 * 60 * 1000, /* most greylists open after this */
    NO_DOMAIN_MS = HOP_NO_DOMAIN_MS + 1000, /* before it there would be no other answer */
};

/* A result, or a release, on its way to the store; repeated until it is taken. */
struct settle_call {
    union {
        struct store_settle settle;
        struct store_release release;
    } q;
    struct store_call *call; /* of the one that it is */
    struct scheduler *s;
    struct report *report; /* settle: everything in it lives there; NULL: release */
    struct due_item **item;
    struct settle_result *result;
    recipient_key_t *key;
    size_t count;
    bool is_repeated; /* which was said */
    TAILQ_ENTRY(settle_call) link;
};

static void post(struct settle_call *c) {
    c->s->calls++;
    c->call->err = OK;
    store_post(c->s->store, c->call);
}

static void settle_free(struct settle_call *c) {
    c->s->settles--;
    for (size_t i = 0; c->item != NULL && i < c->count; i++)
        due_drop(c->s->due, &c->item[i]);
    if (c->report != NULL) {
        report_free(&c->report); /* c lives in it */
        return;
    }
    free(c->key);
    free(c);
}

static void stored(struct settle_call *c) {
    struct scheduler *s = c->s;
    if (c->report == NULL) {
        gather_due_at(s, c->q.release.due_wall_ms);
        return;
    }
    for (size_t i = 0; i < c->count; i++) {
        if (c->result[i].state == RECIPIENT_QUEUED)
            gather_due_at(s, c->result[i].due_wall_ms);
    }
}

static void answered(struct settle_call *c) {
    struct scheduler *s = c->s;
    enum err e = c->call->err;
    s->calls--;
    s->releases -= c->report == NULL && !c->is_repeated;
    if (e == OK) {
        stored(c);
    } else if (e == ERR_NOT_FOUND || e == ERR_CONFLICT) {
        /* somebody removed or settled them: nothing that a repetition could mend */
        log_error("delivery", "a result was not taken by the store",
                  LOG_INT("recipients", c->count), LOG_STRZ("why", c->call->info.text));
    } else {
        if (!c->is_repeated) /* every second, for as long as the disk is full */
            log_warn("delivery", "a result could not be stored, will be repeated",
                     LOG_INT("recipients", c->count), LOG_STRZ("why", c->call->info.text));
        c->is_repeated = true;
        store_call_release(c->call);
        metric_add(s->metrics.settle_retries, 1);
        TAILQ_INSERT_TAIL(&s->retries, c, link);
        if (!wakeup_is_set(&s->retry_wake))
            wakeup_set(s->wakeups, &s->retry_wake, clock_mono_ms() + RETRY_MS);
        if (e == ERR_UNAVAILABLE || e == ERR_AGAIN) /* else it is this result, not the store */
            scheduler_block(s);
        return;
    }
    store_call_release(c->call);
    settle_free(c);
}

static void settled(struct store_call *call) {
    struct store_settle *q = CONTAINER_OF(call, struct store_settle, call);
    answered((struct settle_call *)(void *)q);
}

static void released(struct store_call *call) {
    struct store_release *q = CONTAINER_OF(call, struct store_release, call);
    answered((struct settle_call *)(void *)q);
}
_Static_assert(offsetof(struct settle_call, q) == 0, "a call is found from its verb");

void settle_retry(void *arg) {
    struct scheduler *s = arg;
    struct settle_list again = TAILQ_HEAD_INITIALIZER(again);
    TAILQ_CONCAT(&again, &s->retries, link);
    struct settle_call *c;
    while ((c = TAILQ_FIRST(&again)) != NULL) {
        TAILQ_REMOVE(&again, c, link);
        post(c);
    }
}

void settle_abandon(struct scheduler *s) {
    struct settle_call *c;
    while ((c = TAILQ_FIRST(&s->retries)) != NULL) {
        TAILQ_REMOVE(&s->retries, c, link);
        settle_free(c);
    }
}

/* ---- release ------------------------------------------------------------------------------------
 */

void settle_release(struct scheduler *s, struct due_item *const *items, size_t count,
                    int64_t due_wall_ms) {
    if (count == 0)
        return;
    struct settle_call *c = mem_zalloc(sizeof(*c));
    c->s = s;
    c->count = count;
    c->key = mem_zalloc(count * sizeof(*c->key));
    int64_t now_wall_ms = clock_wall_ms(), before_wall_ms = now_wall_ms;
    for (size_t i = 0; i < count; i++) {
        struct due_item *gone = items[i];
        c->key[i] = gone->row.key;
        if (gone->row.due_wall_ms < before_wall_ms)
            before_wall_ms = gone->row.due_wall_ms;
        due_drop(s->due, &gone);
    }
    c->q.release = (struct store_release){
        .call = {.verb = STORE_RELEASE, .reply_to = s->box, .done = released},
        .key = c->key,
        .count = count,
        .due_wall_ms = due_wall_ms == DUE_AS_BEFORE ? before_wall_ms : due_wall_ms,
        .now_wall_ms = now_wall_ms,
    };
    c->call = &c->q.release.call;
    s->settles++;
    s->releases++;
    post(c);
}

/* ---- a report -----------------------------------------------------------------------------------
 */

static enum recipient_state state_of(enum verdict_action a) {
    switch (a) {
    case VERDICT_DELIVERED:
        return RECIPIENT_DELIVERED;
    case VERDICT_BOUNCED:
        return RECIPIENT_BOUNCED;
    case VERDICT_FAILED:
        return RECIPIENT_FAILED;
    case VERDICT_DEFERRED:
        break;
    }
    return RECIPIENT_QUEUED;
}

int64_t settle_uncounted_ms(int64_t age_ms) {
    int64_t ms = age_ms / UNCOUNTED_PART;
    return ms < UNCOUNTED_MS ? UNCOUNTED_MS : ms > HELD_MS ? HELD_MS : ms;
}

static int64_t delay_ms(const struct scheduler *s, const struct report *r,
                        const struct report_entry *e, bool counts, int64_t now_wall_ms) {
    const struct due_item *i = e->item;
    if (!counts) {
        int64_t at_least_ms =
            r->job != NULL && r->job->is_held
                ? HELD_MS
                : settle_uncounted_ms(now_wall_ms - i->row.outgoing->created_wall_ms);
        return at_least_ms + (int64_t)random_below((uint64_t)at_least_ms / 2);
    }
    int64_t ms = backoff_delay_ms(&s->settings->backoff, i->row.attempts + 1, random_u64());
    if (e->verdict.class_ == CLASS_GREYLISTED && ms < GREYLISTED_MS)
        ms = GREYLISTED_MS;
    if (e->verdict.class_ == CLASS_INVALID_DOMAIN && failure_is_no_domain(e->last.failure) &&
        ms < NO_DOMAIN_MS)
        ms = NO_DOMAIN_MS;
    return ms;
}

static void log_decision(const struct report *r, const struct report_entry *e,
                         const struct due_item *i, const struct settle_result *res) {
    static const char *const WORDS[] = {[VERDICT_DELIVERED] = "delivered",
                                        [VERDICT_DEFERRED] = "deferred",
                                        [VERDICT_BOUNCED] = "bounced",
                                        [VERDICT_FAILED] = "failed"};
    const struct last_result *l = &e->last;
    struct str domain = gather_domain_of(i->row.email);
    if (e->verdict.action == VERDICT_DELIVERED)
        log_info("delivery", WORDS[e->verdict.action], LOG_ID("message", &i->row.outgoing->id),
                 LOG_STR("domain", domain), LOG_STR("host", l->mx), LOG_INT("code", l->code),
                 LOG_STR("tls", str_is_absent(l->tls) ? STR("none") : l->tls),
                 LOG_INT("ms", r->attempt.took_ms));
    else
        log_info("delivery", WORDS[e->verdict.action], LOG_ID("message", &i->row.outgoing->id),
                 LOG_STR("domain", domain), LOG_STR("host", l->mx), LOG_INT("code", l->code),
                 LOG_STRZ("class", verdict_class_name(l->class_)),
                 LOG_STRZ("stage", stage_name(l->stage)), LOG_STR("text", l->text),
                 LOG_INT("attempt", i->row.attempts + (res->counts ? 1 : 0)),
                 LOG_INT("retry_ms",
                         res->state == RECIPIENT_QUEUED ? res->due_wall_ms - clock_wall_ms() : 0),
                 LOG_INT("ms", r->attempt.took_ms));
}

static void decide(struct scheduler *s, struct settle_call *c, const struct report_entry *e,
                   int64_t now_wall_ms) {
    struct due_item *i = e->item;
    struct settle_result *res = &c->result[c->count];
    *res = (struct settle_result){
        .key = e->key,
        .state = state_of(e->verdict.action),
        /* what may have been delivered is an attempt, whatever ended it */
        .counts = e->verdict.counts || e->unknown_outcome,
        .unknown_outcome = e->unknown_outcome,
        .kept_ms = e->kept_ms,
        .last = e->last,
    };
    if (res->state == RECIPIENT_QUEUED)
        res->due_wall_ms = now_wall_ms + delay_ms(s, c->report, e, res->counts, now_wall_ms);
    c->item[c->count++] = i;
    metric_add_at(s->metrics.attempts, e->verdict.action, 1);
    if (res->state == RECIPIENT_DELIVERED)
        metric_observe_us(s->metrics.seconds,
                          (now_wall_ms - i->row.outgoing->created_wall_ms) * 1000);
    log_decision(c->report, e, i, res);
}

static void fill_attempt_recipients(struct settle_call *c, const struct report *r) {
    struct attempt_row *a = &c->report->attempt;
    a->recipient = ARENA_ARRAY(r->arena, struct attempt_recipient, c->count);
    a->recipient_count = c->count;
    for (size_t i = 0; i < c->count; i++) {
        enum recipient_state st = c->result[i].state;
        a->recipient[i] = (struct attempt_recipient){
            .index = (int)(c->result[i].key % RECIPIENT_KEY_SPAN),
            .action = st == RECIPIENT_DELIVERED ? VERDICT_DELIVERED
                      : st == RECIPIENT_BOUNCED ? VERDICT_BOUNCED
                      : st == RECIPIENT_FAILED  ? VERDICT_FAILED
                                                : VERDICT_DEFERRED,
            .result = c->result[i].last,
        };
    }
}

/* What counts for nobody may come round often, and leaves no row. */
static bool has_counted(const struct settle_call *c) {
    for (size_t i = 0; i < c->count; i++)
        if (c->result[i].counts)
            return true;
    return false;
}

/* The report's recipients leave `b`; what becomes of them is posted. Takes the report. */
static void settle_entries(struct scheduler *s, struct bundle *b, struct report *r) {
    struct settle_call *c = ARENA_NEW(r->arena, struct settle_call);
    struct due_item **released_items = ARENA_ARRAY(r->arena, struct due_item *, r->count + 1);
    size_t releases = 0;
    int64_t now_wall_ms = clock_wall_ms();
    c->s = s;
    c->report = r;
    c->item = ARENA_ARRAY(r->arena, struct due_item *, r->count + 1);
    c->result = ARENA_ARRAY(r->arena, struct settle_result, r->count + 1);
    for (size_t k = 0; k < r->count; k++) {
        struct report_entry *e = &r->entry[k];
        struct due_item *i = e->item;
        TAILQ_REMOVE(&b->items, i, link);
        b->count--;
        i->bundle = NULL;
        if (e->is_shutdown && !e->unknown_outcome)
            released_items[releases++] = i;
        else
            decide(s, c, e, now_wall_ms);
        b->letter->has_retry |= e->verdict.action == VERDICT_DEFERRED;
    }
    settle_release(s, released_items, releases, DUE_AS_BEFORE);
    if (c->count == 0) {
        report_free(&r);
        return;
    }
    r->has_attempt = r->has_attempt && has_counted(c);
    if (r->has_attempt)
        fill_attempt_recipients(c, r);
    c->q.settle = (struct store_settle){
        .call = {.verb = STORE_SETTLE, .reply_to = s->box, .done = settled},
        .result = c->result,
        .count = c->count,
        .attempt = r->has_attempt ? &r->attempt : NULL,
        .now_wall_ms = now_wall_ms,
    };
    c->call = &c->q.settle.call;
    s->settles++;
    post(c);
}

/* ---- after the job ------------------------------------------------------------------------------
 */

static void site_died(struct scheduler *s, struct site *site) {
    gather_pause_site(s, site);
    dispatch_release_ready(s, site);
    wakeup_set(s->wakeups, &site->wake, site->window.dead_until_mono_ms);
}

/* Somebody has to do something, so it is an error, said once a pause. */
static void site_locked(struct scheduler *s, struct site *site, const struct report *r) {
    int64_t pause_ms = s->settings->o.site_locked_ms;
    metric_add(s->metrics.logins_refused, 1);
    if (!window_suspend(&site->window, clock_mono_ms() + pause_ms))
        return;
    log_error("delivery", "the smarthost refuses our credentials, route paused",
              LOG_STRZ("site", site->name), LOG_STR("host", r->entry[0].last.mx),
              LOG_INT("ms", pause_ms), LOG_INT("code", r->entry[0].last.code),
              LOG_STR("text", r->entry[0].last.text));
    site_died(s, site);
}

/* What was under way when it was declared dead got through. */
static void site_revived(struct scheduler *s, int64_t dead_until_mono_ms) {
    if (due_unpark_early(s->due, dead_until_mono_ms) > 0)
        s->has_more = true;
}

static void feed_back(struct scheduler *s, struct site *site, const struct report *r) {
    if (r->feedback == SITE_REACHED)
        site_learn_recipients(site, r->job->count, r->recipients_learned);
    int64_t dead_ms = s->settings->o.site_dead_ms;
    if (r->feedback == SITE_LOCKED) {
        site_locked(s, site, r);
    } else if (r->feedback == SITE_REACHED) {
        site_reached(site, r->attempt.took_ms, clock_mono_ms());
        int64_t dead_until_mono_ms = site->window.dead_until_mono_ms;
        window_success(&site->window, site->sent);
        if (dead_until_mono_ms != site->window.dead_until_mono_ms)
            site_revived(s, dead_until_mono_ms);
    } else if (r->feedback == SITE_UNREACHABLE &&
               window_failure(&site->window, clock_mono_ms(), dead_ms)) {
        log_warn("delivery", "site does not answer, paused", LOG_STRZ("site", site->name),
                 LOG_INT("ms", dead_ms), LOG_STR("last", r->entry[0].last.text));
        site_died(s, site);
    }
}

void settle_report(struct note *n) {
    struct report *r = CONTAINER_OF(n, struct report, note);
    struct job *j = r->job;
    struct bundle *b = j->bundle;
    struct site *site = b->site;
    struct scheduler *s = site->owner;
    bool is_last = r->is_last;
    if (is_last)
        feed_back(s, site, r);
    settle_entries(s, b, r);
    if (!is_last)
        return;
    ASSERT(b->count == 0);
    site->sent--;
    site->sent_lane[b->fair.lane]--;
    site->sent_loop[j->loop]--;
    limit_give(&site->limit);
    s->jobs--;
    s->jobs_unproven -= j->is_unproven;
    gather_free_bundle(s, b);
    dispatch_make_runnable(s, site);
    job_free(&j);
}

/* ---- without a job ------------------------------------------------------------------------------
 */

static struct verdict preset_verdict(const struct bundle *b, const struct due_item *i) {
    if (b->text != NULL && b->is_hopeless) /* content erased, no sandbox: for good */
        return (struct verdict){.action = VERDICT_FAILED,
                                .scope = SCOPE_MESSAGE,
                                .class_ =
                                    b->text == DISPATCH_NO_SANDBOX ? CLASS_POLICY : CLASS_OTHER,
                                .is_hard = true,
                                .counts = true};
    if (b->text != NULL) /* its route is missing: until the settings are mended */
        return (struct verdict){.action = VERDICT_DEFERRED,
                                .scope = SCOPE_SITE,
                                .class_ = CLASS_POLICY,
                                .counts = true};
    int64_t since_wall_ms = i->row.no_domain_wall_ms;
    bool is_said_again = since_wall_ms != 0 && b->asked_wall_ms - since_wall_ms >= HOP_NO_DOMAIN_MS;
    const struct outcome_input in = {
        .stage = STAGE_RESOLVE,
        .failure = b->failure,
        .is_smarthost = b->hop->route->route->kind != ROUTE_MX,
        .is_last_host = true,
        .earlier_nxdomain = is_said_again ? 1 : 0,
        .is_literal = b->hop->domain[0] == '[',
    };
    return outcome_judge(&in);
}

void settle_preset(struct scheduler *s, struct bundle *b) {
    struct report *r = report_new(b->count);
    struct due_item *i;
    TAILQ_FOREACH (i, &b->items, link) {
        struct report_entry *e = &r->entry[r->count++];
        e->item = i;
        e->key = i->row.key;
        e->kept_ms = b->kept_ms;
        e->verdict = preset_verdict(b, i);
        const char *text = b->text != NULL ? b->text : failure_text(b->failure);
        e->last = (struct last_result){.class_ = e->verdict.class_,
                                       .stage = STAGE_RESOLVE,
                                       .failure = b->failure,
                                       .is_hard = e->verdict.is_hard,
                                       .is_about_recipient = e->verdict.is_about_recipient,
                                       .text = str_of(text)};
        failure_print_enhanced(b->failure, e->verdict.action >= VERDICT_BOUNCED, e->last.enhanced);
        r->has_attempt = e->verdict.counts;
    }
    r->attempt.message_id = b->letter->outgoing->id;
    r->attempt.started_wall_ms = clock_wall_ms();
    r->attempt.host = b->hop != NULL ? arena_dup(r->arena, str_of(b->hop->domain)) : STR("");
    r->attempt.transcript = arena_printf(r->arena, "*: %.*s\n", STR_ARG(r->entry[0].last.text));
    settle_entries(s, b, r);
    gather_free_bundle(s, b);
}
