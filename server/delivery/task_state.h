/* task_state: what the files of a task share; nobody else includes it.
 *
 *   task.c         sessions, transactions, which recipient goes on where
 *   task_report.c  what a reply or a failure means for a recipient, and the report of it
 *
 * Thread: the worker's loop.
 */
#pragma once

#include "server/base/limits.h"
#include "server/delivery/candidate.h"
#include "server/delivery/worker_state.h"

enum {
    SESSIONS_MOST = 2,               /* greeted ones that a job may use up */
    CONNECT_WHILE_OTHERS_MS = 10000, /* no longer than this while addresses remain */
};

enum todo { TODO_NOW, TODO_NEXT, TODO_DECIDED };

struct task {
    LIST_ENTRY(task) link;
    struct worker *w;
    struct job *job;
    struct share *share;
    enum todo *todo; /* one per recipient */
    size_t left;     /* not DECIDED */

    struct candidate candidate[LIMIT_MX_ADDRESSES];
    size_t candidates, next; /* how many, and which is tried next */
    struct candidate *at;    /* the one being tried */
    bool is_racing;          /* against candidate[next] */
    enum session_tls tls;
    bool in_clear;     /* TLS failed here: once more without */
    bool fresh_only;   /* a pooled session was dead: once more with a new one */
    unsigned sessions; /* greeted so far */

    struct conn *conn;
    bool is_ready;
    bool is_reused;     /* a transaction ended on it before this one's began */
    bool is_reached;    /* some session was greeted */
    bool is_wish_unmet; /* some host would have taken mail that asks for less TLS */
    bool is_site_well;
    bool is_login_good; /* the host accepted a recipient: what it says of others is no word on our
                           login */

    /* the transaction */
    struct report *report;
    size_t *index; /* of its recipients in the job */
    struct session_recipient *rcpt;
    bool *is_reported;
    size_t count;
    unsigned accepted_most; /* RCPTs taken before a 452 */
    struct judged {
        int code; /* 0: none yet */
        enum stage stage;
        struct verdict verdict;
    } judged; /* the refusal of everybody who was left */
    int64_t began_wall_ms, began_mono_ms;
    struct buf prologue; /* what came before, for the transcript */
};

static inline const struct route *task_route(const struct task *t) {
    return t->job->hosts->route->route;
}

static inline bool task_is_smarthost(const struct task *t) {
    return task_route(t)->kind != ROUTE_MX;
}

static inline bool task_has_next(const struct task *t) {
    return t->next < t->candidates && t->sessions < SESSIONS_MOST;
}

/* The same for what `r` is about. A host that does not offer what the message needs is sent
 * nothing: all others may be asked. */
static inline bool task_has_next_for(const struct task *t, const struct session_result *r) {
    return task_has_next(t) || (r->failure == FAILURE_NEEDS_SMTPUTF8 && t->next < t->candidates);
}

/* ---- task_report.c ---- */

/* Of a transaction, or of the attempt to have one. */
void task_begin_report(struct task *t, size_t room);
/* Of the session, when there is one and it is encrypted; else NULL. */
const struct tls_info *task_tls(const struct task *t);
/* What `r` means for recipient `i` of the job. */
void task_judge(struct task *t, struct report_entry *e, size_t i, const struct session_result *r);
/* Was it this message, not the route, that asked for the TLS which is not there? */
bool task_is_wish_unmet(const struct task *t, const struct session_result *r);
/* The route goes on with another smarthost; this one, which said so, rests for a while. */
void task_rest_login(struct task *t, struct str said);
/* The host is left with this verdict: what it said counts when all say so. */
void task_remember_said(struct task *t, const struct verdict *v);
/* The address was tried in vain: what was said there stands before the next one's dialogue. */
void task_remember_dialogue(struct task *t, struct str why);
/* There is an attempt to tell of. */
void task_fill_attempt(struct task *t);
/* Sends what is decided; the task goes on without it. */
void task_send_report(struct task *t);
