/* worker_state: what worker.c (the loop) and task.c (one job on it) share; nobody else includes it.
 *
 * Thread: the loop's.
 */
#pragma once

#include "server/base/table.h"
#include "server/delivery/pool.h"
#include "server/delivery/share.h"
#include "server/delivery/worker.h"

LIST_HEAD(task_list, task);

enum { WORKER_IDLE_MOST = 500 /* sessions kept open for nothing, a loop */ };

/* An address that did not answer, refused our login, or refused BDAT, a while ago. */
struct bad_address {
    char text[SOCKADDR_TEXT_SIZE];
    int64_t until_mono_ms;
    uint64_t refused_tag; /* of the smarthost's sessions (settings.h); 0: it did not answer */
    struct table_node in_table;
};

struct worker {
    struct worker_options o;
    struct loop *loop;
    struct pool *pool;
    struct task_list tasks;
    struct note *to_sign, **to_sign_end; /* jobs that begin with a signature */
    struct timer *sign_timer;            /* set while there are some */
    struct shares *shares;               /* jobs that are running, and those that are held */
    struct table dead;                   /* oldest first */
    struct table no_chunking;            /* the same, of hosts that refuse BDAT */
    bool is_aborting;
    int64_t local_told_mono_ms; /* trouble of this machine's own was logged; 0: never */
    struct note stop_note;
    struct mailbox *stop_reply;
};

/* task.c: signs the message, and gives it back signed. */
void task_sign(struct worker *w, struct job *j);
/* Runs the job to its last report, ends its share and frees itself. A share_fn of the worker. */
void task_start(void *worker, struct job *j, struct share *s);
/* The job goes back as it came, as at a shutdown: nothing was tried. A share_fn. */
void task_give_back(void *worker, struct job *j, struct share *s);
/* Ends every task at once. */
void task_abort_all(struct worker *w);

bool worker_address_is_dead(struct worker *w, const struct sockaddr_any *a);
void worker_address_died(struct worker *w, const struct sockaddr_any *a);
/* The same, and by whom: settings that were mended are tried. */
bool worker_login_is_refused(struct worker *w, const struct sockaddr_any *a, uint64_t session_tag);
void worker_login_refused(struct worker *w, const struct sockaddr_any *a, uint64_t session_tag);
/* BDAT fails there, though it is offered: remembered for an hour, by each loop for itself. */
bool worker_chunking_is_broken(struct worker *w, const struct sockaddr_any *a);
void worker_chunking_broke(struct worker *w, const struct sockaddr_any *a);
