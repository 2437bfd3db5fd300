/* worker: one delivery loop: a thread with its sessions, which runs jobs and sends reports.
 *
 *     struct worker *w = worker_start(0, &(struct worker_options){...});
 *     worker_send(w, job);       // reports follow in the scheduler's mailbox
 *     worker_abort(w);           // every job ends now
 *     worker_stop(&w);           // after all jobs came back
 *
 * Thread: these from the scheduler; what runs inside belongs to the loop.
 */
#pragma once

#include "server/delivery/job.h"
#include "server/delivery/tlspolicy.h"

struct worker;

struct worker_options {
    struct mailbox *reply_to;           /* the scheduler's */
    void (*run_signed)(struct note *n); /* of job.signed_note */
    void (*run_report)(struct note *n); /* of report.note */
    struct tlspolicy *tlspolicy;        /* shared by all loops, outlives them */
};

struct worker *worker_start(size_t index, const struct worker_options *o);
void worker_send(struct worker *w, struct job *j);
/* Jobs under way and jobs that come later end with FAILURE_SHUTDOWN. */
void worker_abort(struct worker *w);
void worker_stop(struct worker **wp);
