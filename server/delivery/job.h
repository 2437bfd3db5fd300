/* job: one bundle on its way through a loop, and the reports that come back.
 *
 * The scheduler makes a job, sends it to a worker, and gets: once, when it was to be signed, the
 * signed message (`signed_note`), before anything is sent; then a report for each transaction that
 * decided recipients, the last one with is_last. Every recipient of the job is in exactly one
 * report. The job is the worker's from job_note on until the last report is the scheduler's.
 *
 * Thread: moved between scheduler and one worker by their mailboxes.
 */
#pragma once

#include "server/delivery/host_list.h"
#include "server/delivery/signers.h"
#include "storage/model.h"

struct worker;

struct job_recipient {
    struct str email; /* the scheduler's: lives until the last report */
    recipient_key_t key;
    void *item; /* the scheduler's */
};

struct job {
    struct note note;
    struct note signed_note;
    struct worker *worker; /* set by worker_send() */
    void *bundle;          /* the scheduler's */
    size_t loop;
    bool is_unproven; /* the scheduler's */
    const void *site; /* whose sessions are shared out: only compared */
    unsigned share;   /* how many transactions of it the loop may have; 0: it waits for none */
    int64_t expires_mono_ms; /* the loop does not begin it after that */
    int64_t held_mono_ms;    /* the loop's: since when it waits there for a session */
    struct host_list *hosts; /* a reference */
    struct signers *signers; /* a reference */
    struct message *message; /* a reference */
    bool sign;               /* before sending, and give the signed message back */
    bool published_only;
    struct message *signed_message; /* out: a reference for the scheduler; NULL: could not be */
    bool is_put_off;                /* out: it could not be signed now, nothing is sent */
    bool is_held;                   /* out: nor soon: no key of its domain can be read */
    struct id message_id;
    int64_t project;                   /* the message's */
    struct str mail_from, from_domain; /* live as long as the job */
    enum tls_level tls;
    bool needs_smtputf8;
    unsigned recipients_most; /* per transaction */
    struct job_recipient *recipient;
    size_t count;
    struct arena *arena;
};

enum site_feedback {
    SITE_SILENT,
    SITE_REACHED,
    SITE_UNREACHABLE,
    SITE_LOCKED, /* no smarthost takes our credentials */
};

struct report_entry {
    void *item;
    recipient_key_t key;
    struct verdict verdict;
    struct last_result last;
    int64_t kept_ms;      /* settle_result.kept_ms */
    bool is_shutdown;     /* stopped before the end of DATA: back to the queue */
    bool unknown_outcome; /* the final dot had been sent */
};

struct report {
    struct note note;
    struct job *job; /* NULL: of a bundle that had no job */
    bool is_last;
    struct report_entry *entry;
    size_t count;
    bool has_attempt;
    struct attempt_row attempt;  /* without recipients: settle adds them */
    enum site_feedback feedback; /* with is_last */
    unsigned recipients_learned; /* 0: nothing */
    struct arena *arena;         /* everything in it */
};

struct report *report_new(size_t room);
void report_free(struct report **rp);
void job_free(struct job **jp);
/* Cut to what is stored, at a character's beginning. */
struct str report_text(struct report *r, struct str text);
