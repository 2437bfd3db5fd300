/* site: the queue of one next hop: a set of MX hosts, or a route's smarthosts, with the TLS and the
 * login that the settings want there. Hundreds of domains behind one provider share one site, its
 * window and its sessions.
 *
 * A slot is taken when a bundle is picked (its content is fetched, it is claimed) and given back
 * when its transaction is over, or while it waits for a signature that another site's job makes:
 * that site may hang. More than the window may be picked, so that a claim is committed by
 * the time a slot for sending is free; only the window is sent at once. To a site that answers
 * loops are sent some more, which they sign and keep until one of their sessions is free,
 * for a second at most.
 *
 * What is claimed can be neither canceled nor overtaken, and expires late: to a site that takes its
 * time no more is claimed ahead than a window, to one with a rate no more than goes in a second
 * and one that is not bulk, and nothing waits in loops.
 *
 * Thread: the scheduler's.
 */
#pragma once

#include <sys/queue.h>

#include "server/base/table.h"
#include "server/delivery/due.h"
#include "server/delivery/fair.h"
#include "server/delivery/letter.h"
#include "server/delivery/limit.h"
#include "server/delivery/wakeup.h"
#include "server/delivery/window.h"

/* Where a bundle is. */
enum bundle_state {
    BUNDLE_RESOLVING, /* on hop.waiting */
    BUNDLE_QUEUED,    /* in site.waiting, or in site.roomless */
    BUNDLE_WAITING,   /* on letter.waiting; with a slot, but while another site's job signs */
    BUNDLE_CLAIMING,  /* in a batch that goes or went to the store; from here on it has a slot,
                         unless it is preset, its content not readable, or its site dead */
    BUNDLE_READY,     /* claimed; in site.ready */
    BUNDLE_SENT,      /* with a loop */
};

/* Recipients of one message for one next hop: what one transaction carries. */
struct bundle {
    struct fair_entry fair;
    enum bundle_state state;
    struct letter *letter;
    struct hop *hop;   /* NULL: its route is not configured */
    struct site *site; /* NULL while resolving, and when `failure` or `text` stands for a job */
    struct due_items items;
    unsigned count;
    bool has_slot;
    bool wants_room;    /* QUEUED: in site.roomless, by `wait` */
    size_t slot_bytes;  /* of its content; 0: that came with a notice, or another one of its site
                           has it */
    uint64_t passed;    /* of room.c: the turn in which it had room before another; 0: it had not */
    bool is_unreadable; /* its content, just now: claimed, it is released for a while */
    /* instead of a job: what its recipients are settled with */
    bool is_preset;
    bool is_hopeless; /* `text` says what no later attempt mends */
    enum failure failure;
    int64_t asked_wall_ms; /* when it was asked for what led to the failure */
    int64_t kept_ms;       /* hop.kept_ms */
    const char *text;      /* static; NULL: failure's own */
    TAILQ_ENTRY(bundle) of_letter;
    TAILQ_ENTRY(bundle) wait;
};

struct site {
    char *name; /* for people; sites that differ in TLS or login may share it */
    struct window window;
    struct limit limit;
    struct fair *waiting, *ready;
    struct bundles roomless; /* those of the waiting that found no room for their content */
    size_t roomless_count;
    int64_t asked_mono_ms; /* when they were asked last */
    unsigned picked, picked_lane[LANE_COUNT];
    size_t picked_bytes[ROOM_KINDS];  /* contents for them, also those that other sites need */
    uint64_t passed_turn[ROOM_KINDS]; /* of room.c */
    size_t passed_bytes[ROOM_KINDS];  /* of them: held by those that passed another in that turn */
    unsigned sent, sent_lane[LANE_COUNT];
    unsigned sent_loop[DELIVERY_LOOPS_MAX];
    unsigned recipients_most; /* per transaction, learned */
    unsigned full_taken;      /* jobs in a row that had as many, and none was too many */
    int64_t reached_mono_ms;  /* when a transaction with it last ended; 0: never */
    double took_ms;   /* a transaction, by the last ones; before the first: it is not quick */
    size_t home_loop; /* used while there is little: keeps its sessions in one pool */
    int64_t parked_until_mono_ms;
    void *owner;        /* the scheduler */
    struct wakeup wake; /* set while parked or dead */
    bool is_runnable;
    TAILQ_ENTRY(site) runnable;
    size_t users;   /* hops and bundles */
    struct str key; /* in the table: name and tag */
    struct table_node in_table;
};
TAILQ_HEAD(site_list, site);

enum {
    SITE_RECIPIENTS_MAX = 100, /* RFC 5321 4.5.3.1.8: what every server must take */
    SITE_AHEAD_MS = 1000,      /* loops are sent more than can go while it answered this lately */
};

struct sites {
    struct table by_key;
};

/* Finds (hop.site_name, hop.site_tag), or makes it with the limits of `r`. One user is added. */
struct site *sites_get(struct sites *t, const char *name, uint64_t tag, const struct route *r,
                       size_t loops);
/* Its limits are those of `r` from now on. */
void site_set_limits(struct site *s, const struct route *r);
/* One user less. */
void site_release(struct site **sp);
/* Frees those without users that remember nothing. Their wakeups must not be set. */
void sites_sweep(struct sites *t, int64_t now_mono_ms);
void sites_free(struct sites *t);

/* A job with so many recipients has ended; it took no more than `learned` in one transaction (0:
 * none was too many). A limit that was learned is doubted after some that were full. */
void site_learn_recipients(struct site *s, size_t count, unsigned learned);
/* A transaction with it has ended, and took so long. */
void site_reached(struct site *s, int64_t took_ms, int64_t now_mono_ms);
/* May what is ready wait for long? There is more than the window, and it does not answer quickly.
 */
bool site_is_held_up(const struct site *s, int64_t now_mono_ms);
/* What may go soon. */
unsigned site_picks_most(const struct site *s);
/* How many bundles may be picked, and of how many slots fair_pick() shares out: to a site with a
 * rate one more than may go soon, since the one that is never bulk's would be all that the rate
 * leaves, and without one bulk would have all. */
unsigned site_slots(const struct site *s);
/* How many jobs may be with loops: the window, and up to two windows more that wait there, signed,
 * for a session to be free, so that no loop waits for the scheduler. */
unsigned site_sends_most(const struct site *s, size_t loops, int64_t now_mono_ms);
/* Of the window, what one loop may use at once; 0: it need not count. All shares together are the
 * window, and site_choose_loop() gives no loop more than its share while no more than the window is
 * sent. */
unsigned site_share(const struct site *s, size_t loop, size_t loops, int64_t now_mono_ms);
/* Any bundle that is queued; NULL: none is. */
struct bundle *site_first_queued(struct site *s);
/* It leaves the queue that it is in. */
void site_unqueue(struct site *s, struct bundle *b);
/* It was picked, and there is no room for its content: to the end of those, or, when it was one of
 * them and has some, to its place among the waiting. */
void site_set_roomless(struct site *s, struct bundle *b);
void site_set_waiting(struct site *s, struct bundle *b);
/* Of those without room: that of each lane and kind which has waited longest goes to the front. */
void site_put_oldest_first(struct site *s);
/* Has another bundle a slot there, for which the same content is held? */
bool site_has_companion(const struct bundle *b);
void site_pick_slot(struct site *s, struct bundle *b);
void site_give_slot(struct site *s, struct bundle *b);
/* The loop with the fewest transactions of this site; at home while that is good enough. */
size_t site_choose_loop(const struct site *s, size_t loops);
