/* scheduler_state: what the files of the scheduler share; nobody else includes it.
 *
 *   scheduler.c  the thread, its turns, reload, drain, stop
 *   gather.c     rows -> recipients in memory -> bundles; loading; what is gone
 *   dispatch.c   bundles -> slots -> claims -> jobs
 *   prepare.c    a picked bundle's content, and whether it signs it
 *   room.c       who may have its content in memory
 *   settle.c     reports -> the store; feedback to sites and letters
 *
 * A bundle's way, with the function on each edge:
 *
 *   new       --gather_row--> QUEUED; RESOLVING when its hop is looked up first;
 *             CLAIMING when it is preset: it has no route, or no host
 *   RESOLVING --gather_resolved--> QUEUED, or CLAIMING (preset)
 *   QUEUED    --pick--> CLAIMING; WAITING when its letter has no content or no signature yet, or a
 *             reading of domains that may bring its key has not ended
 *             --gather_place_anew (its hop moved, or the hosts are a day old)--> as a new one
 *             --pause_bundle (its site is dead)--> freed, with its key parked; CLAIMING when the
 *             key is not its own
 *   WAITING   --prepare_letter_woken--> CLAIMING, or WAITING for the next thing; QUEUED, in front,
 *             when it gave its slot away
 *             --content_refused--> CLAIMING
 *   CLAIMING  --claimed--> READY; preset: settled; draining, of old settings, expired, its content
 *             not readable or its site dead: released; all canceled meanwhile: freed
 *             --claim_failed--> QUEUED, in front; freed without a slot, or while draining
 *   READY     --send_ready--> SENT; expired, its hop moved or the hosts a day old, or its letter to
 *             be signed anew: released
 *             --dispatch_release_ready (draining, site dead, reload)--> released
 *   SENT      --settle_report (the last one)--> freed
 *   RESOLVING, QUEUED, WAITING --gather_take_out (gone, evicted, its site is full)--> freed: not
 *             claimed, so nothing is lost
 *
 * Thread: the scheduler's, but for `shared`.
 */
#pragma once

#include "server/base/doubt.h"
#include "server/base/metrics.h"
#include "server/base/thread.h"
#include "server/delivery/hop.h"
#include "server/delivery/job.h"
#include "server/delivery/scheduler.h"
#include "server/delivery/site.h"
#include "server/delivery/worker.h"

struct settle_call;
TAILQ_HEAD(settle_list, settle_call);

enum {
    LOAD_SPACING_MS = 20,          /* between loads */
    LOAD_VAIN_MS = 1000,           /* after one that brought nothing although there is more */
    LOAD_CROWDED_MS = 500,         /* while memory is crowded (due.h) */
    LOAD_BUSY_MS = 5000,           /* keys with enough here are looked at for what others have */
    LOAD_SAFETY_MS = 60 * 1000,    /* the store is asked so often whatever we believe */
    SWEEP_MS = 30 * 1000,          /* hops and sites that nobody needs */
    BLOCKED_MS = 1000,             /* after the store refused */
    KEEP_BYTES = 32 * 1024 * 1024, /* signed messages that wait for a retry */
    SKIP_KEYS_MOST = 1000,
    CLAIM_KEYS_MOST = 1000, /* of one call: one SAVEPOINT */
};

struct delivery_metrics {
    struct metric *attempts; /* by verdict */
    struct metric *in_flight, *in_memory, *sites, *window, *unsigned_messages, *signed_messages;
    struct metric *seconds, *settle_retries, *kept_bytes, *logins_refused;
};

struct scheduler {
    struct settings *settings;
    struct store *store;
    struct mailbox *box;
    struct thread *thread;
    struct worker **worker;
    size_t workers;
    struct tlspolicy *tlspolicy;

    struct due *due;
    struct room *room;
    struct letters *letters;
    struct hops *hops;
    struct sites sites;
    struct site_list runnable;
    struct signers *signers; /* NULL until the store told */
    struct wakeups *wakeups;

    struct bundles claims; /* to be claimed at the end of the turn, by bundle.wait */
    size_t claim_count;    /* recipients in them */

    /* loading */
    bool is_loading, has_more;
    bool are_busy; /* the last load left out keys with enough here or at a site, or could have */
    struct time_place load_at[LANE_COUNT]; /* where the next one goes on */
    int64_t load_busy_mono_ms;
    int64_t load_after_mono_ms; /* not before */
    int64_t next_due_wall_ms;   /* 0: none known */
    int64_t load_safety_mono_ms;
    struct wakeup load_wake, sweep_wake, blocked_wake, unpark_wake, domains_wake, retry_wake;
    struct wakeup signers_wake, keys_wake;

    /* Of a reload: until what was claimed before is stored as released, and what was asked for
     * before is answered, nothing is taken, else the oldest of a queue would come to its end. */
    bool is_regathering;
    size_t releases; /* that the store has not answered yet, repeated ones not counted */

    bool is_paused;  /* the store cannot be written */
    bool is_blocked; /* it refused a claim: paused until blocked_wake */
    bool is_reading_domains, reads_domains_again;
    uint64_t domain_readings; /* that brought something, since the start */
    unsigned readings_failed; /* since the last one that did */

    struct doubt doubt;

    size_t jobs;          /* with workers */
    size_t jobs_unproven; /* of them: with sites that had not taken mail when they were sent */
    size_t calls;         /* with the store, of every kind */
    size_t claims_open;   /* of them: claims */
    size_t settles; /* results and releases that are not stored yet, also those to be repeated */
    struct settle_list retries; /* those to be repeated */

    /* ending */
    bool is_draining, is_aborted, is_stopping, is_ended;
    struct wakeup drain_wake;
    int64_t drain_deadline_mono_ms;
    struct drain_note *drain;
    struct mailbox
        *drain_box; /* who drains waits there; kept, so that a stop takes no descriptor */

    struct table logged; /* domains without a key, messages that cannot be read: said once */
    struct delivery_metrics metrics;
    struct {
        size_t in_memory, in_flight, sites; /* atomics */
        bool is_paused;
    } shared;
};

/* scheduler.c */
/* The store refused: nothing new is claimed for a moment. */
void scheduler_block(struct scheduler *s);
/* The time that messages expire by: the wall clock, doubted. */
int64_t scheduler_expiry_wall_ms(struct scheduler *s);
/* May something new be claimed now? */
bool scheduler_may_claim(const struct scheduler *s);
/* What is remembered of hops and sites that no mail is for, as far as it can go. */
void scheduler_forget_unused(struct scheduler *s, int64_t now_mono_ms);
void scheduler_read_domains(struct scheduler *s);
/* After a reading that failed the next one, a second later, shows the change, too. */
void scheduler_domains_changed(struct scheduler *s);
void scheduler_read_health(struct scheduler *s);

/* gather.c */
void gather_notice(struct store_notice *n);
void gather_resolved(void *ctx, struct hop *h);
void gather_hop_dropped(void *ctx, struct hop *h);
void gather_load_if_needed(struct scheduler *s);
void gather_due_at(struct scheduler *s, int64_t due_wall_ms);
/* Everything that is not claimed leaves memory; the store has it. */
void gather_evict_all(struct scheduler *s);
/* The same for a site that is dead; its queue keys are parked for as long. */
void gather_pause_site(struct scheduler *s, struct site *site);
/* The recipient leaves its bundle; an empty bundle goes, with its slot. */
void gather_take_out(struct scheduler *s, struct due_item *i);
/* A bundle that gave its slot away and is on no list: in front of its site's queue. It may be gone
 * after it (the site is dead). */
void gather_requeue(struct scheduler *s, struct bundle *b);
/* A bundle that was picked, has no slot, and does not belong to its site any more: to where its hop
 * leads now. It may be gone after it. */
void gather_place_anew(struct scheduler *s, struct bundle *b);
/* The bundle goes; it must be empty and on no list. */
void gather_free_bundle(struct scheduler *s, struct bundle *b);
void gather_unpark(void *arg);
struct str gather_domain_of(struct str email);

/* dispatch.c */
extern const char DISPATCH_NO_SANDBOX[]; /* why a test message fails */
void dispatch_runnable(struct scheduler *s);
void dispatch_make_runnable(struct scheduler *s, struct site *site);
/* Claims the bundle at the end of the turn, to be settled with its preset or to be sent. */
void dispatch_claim(struct scheduler *s, struct bundle *b);
void dispatch_flush_claims(struct scheduler *s);
/* When what is released is due: when it was before, at the latest now, so that it keeps its place.
 */
enum { DUE_AS_BEFORE = 0 };
/* Claimed bundles of this site that were not sent go back to the store, due as before: if it is
 * dead they are found again when it is not. */
void dispatch_release_ready(struct scheduler *s, struct site *site);
/* Due: DUE_AS_BEFORE, or not before that time. */
void dispatch_release_bundle(struct scheduler *s, struct bundle *b, int64_t due_wall_ms);
void dispatch_give_slot(struct scheduler *s, struct bundle *b);
/* May another transaction begin with this site, for all that there are? */
bool dispatch_may_begin(const struct scheduler *s, const struct site *site);
void dispatch_site_woken(void *arg);

/* prepare.c */
/* A picked bundle goes as far as its letter is: it is claimed, or waits for the letter. */
void prepare_bundle(struct scheduler *s, struct bundle *b);
/* The bundles that wait for the letter go on; those without a slot when they get one. */
void prepare_letter_woken(struct scheduler *s, struct letter *l);
/* A claimed bundle is ready, and may be the signer: who waits for it at other sites is picked
 * again, and signs in its place, when it may have to wait for long. */
void prepare_signer_ready(struct scheduler *s, struct bundle *b);
/* The same for all that are waited for: signers_wake is set while somebody waits. */
void prepare_look_at_signers(void *arg);
/* Domains were read, or nobody waits for DNS any more: whose key was waited for, and whose key is
 * not there. */
void prepare_keys_read(struct scheduler *s);
/* The job that signs it is with a loop, which does so within milliseconds, whatever its sessions
 * do.
 */
bool prepare_is_being_signed(const struct letter *l);
/* A claimed bundle that can go now, but for the signature: it makes it itself. False: another job
 * is making it, or there is no content, or no key. */
bool prepare_take_over(struct scheduler *s, struct bundle *b);
void prepare_signed(struct note *n);
/* Is there room for the content of a bundle that is to be picked (room.h)? What nobody needs soon
 * makes some. */
bool prepare_has_room(struct scheduler *s, struct bundle *b);
/* A domain without a key is said again. */
void prepare_forget_logged(struct scheduler *s);

/* settle.c */
void settle_report(struct note *n);
/* A claimed bundle whose outcome is known without a job. Frees it. */
void settle_preset(struct scheduler *s, struct bundle *b);
/* Claimed recipients back to the queue without an attempt; they leave memory. Due: DUE_AS_BEFORE
 * (the longest due of them all, since they go together), or not before that time. */
void settle_release(struct scheduler *s, struct due_item *const *items, size_t count,
                    int64_t due_wall_ms);
/* Until a message of this age is tried again after trouble of our own: 10 s to 5 min. */
int64_t settle_uncounted_ms(int64_t age_ms);
/* Repeats what the store refused. */
void settle_retry(void *arg);
/* Gives up on what the store refuses (stopping): it recovers those recipients when it is opened. */
void settle_abandon(struct scheduler *s);
