/* letter: what the scheduler knows of one message under one signing rule: its content, whether it
 * is signed yet, and the bundles of recipients that wait for it.
 *
 *   BARE      no content; --ask_content--> LOADING; --letters_get (a notice has it)--> UNSIGNED
 *   LOADING   asked of the store; --content_read--> UNSIGNED, ERASED, or BARE (refused)
 *   UNSIGNED  as composed; --proceed_unsigned--> SIGNING, or READY (the domain has no key, nor does
 *             the reading of domains that is under way bring one, or the look at DNS);
 *             --prepare_take_over (a claimed one can go now)--> SIGNING
 *   SIGNING   `signer` is claimed, or its job is out; --prepare_signed--> READY, or UNSIGNED (could
 *             not be signed now); --is_signer_no_more (it goes back unsent)--> UNSIGNED
 *   READY     as it is sent; --letter_set_unsigned (keys have changed)--> UNSIGNED or BARE
 *   UNSIGNED, READY --letters_make_room (others need the memory, and all its bundles only queue)-->
 *             BARE
 *   ERASED    the content is gone: who waits fails; --letters_get--> BARE
 *
 * What is never signed is READY as soon as the content is here. letter_settle ends any of them, but
 * for a letter that is READY and to be tried again: that one is kept.
 *
 * A message is signed once per rule: its first job goes alone; the others follow when the signed
 * one is back. `signer` may change until its job is out: a job for a site that hangs signs for
 * nobody else, whoever has a session first does. Letters whose recipients must be tried again are
 * kept, within a bound of bytes, so that a retry neither reads nor signs again. When keys change, a
 * signature that was made before goes no further than the jobs that loops have by then: what is
 * picked later is signed anew, and what is claimed already goes with the new signature, or back
 * when there is none yet.
 *
 * Thread: the scheduler's.
 */
#pragma once

#include <sys/queue.h>

#include "server/delivery/hop.h"
#include "server/delivery/room.h"
#include "server/delivery/signers.h"
#include "storage/store.h"

enum letter_state {
    LETTER_BARE,
    LETTER_LOADING,
    LETTER_UNSIGNED,
    LETTER_SIGNING,
    LETTER_READY,
    LETTER_ERASED,
};

struct letter_key {
    int64_t seq;
    int64_t signing; /* enum route_signing, without padding for the hash */
};

struct letter {
    struct letter_key key;
    enum letter_state state;
    struct outgoing *outgoing; /* a reference */
    struct message *message;   /* a reference: as composed, in READY as it is sent */
    enum room_kind room;       /* by the size that the message was accepted with */
    size_t held_bytes;         /* size of the message, or of the one that is asked for */
    struct bundles bundles;    /* all, by bundle.of_letter */
    struct bundles waiting;    /* picked, for content or signature, by bundle.wait */
    unsigned slots;            /* of its bundles, at all sites */
    uint64_t passed;           /* of room.c: as bundle.passed, of the first of them */
    size_t passed_bytes;       /* that it counts for */
    struct bundle *signer;     /* SIGNING: whose job signs for all; else NULL */
    bool is_kept;              /* on the list of kept ones: no bundle uses it */
    bool is_idle;         /* on the list of idle ones: no bundle has a slot; one may wait without */
    bool has_retry;       /* keep it when the last bundle is gone */
    bool is_outdated;     /* READY or SIGNING: by keys, or for want of them, as they were */
    uint64_t key_reading; /* UNSIGNED: the reading of domains that is waited for; 0: none */
    int64_t key_until_mono_ms; /* UNSIGNED: so long a new key may be found in DNS; 0: not asked */
    TAILQ_ENTRY(letter) kept;
    TAILQ_ENTRY(letter) idle;
    struct table_node in_table;
};

struct letters;
/* `room`, which stays the caller's, is told of what is held for bundles, but not of what came with
 * a notice: the store bounds that. */
struct letters *letters_new(size_t kept_bytes_max, struct room *room);
void letters_free(struct letters **tp); /* no bundle may be left */
/* Finds, or makes with what `o` has. */
struct letter *letters_get(struct letters *t, struct outgoing *o, enum route_signing signing);
struct letter *letters_find(struct letters *t, int64_t seq, enum route_signing signing);
/* Its content is asked for: its size counts from now on; asked in vain: it is BARE again. */
void letter_set_loading(struct letters *t, struct letter *l);
void letter_set_bare(struct letters *t, struct letter *l);
/* The content as composed, a reference that it takes. */
void letter_set_content(struct letters *t, struct letter *l, struct message *m);
/* What is sent from now on; takes the reference. */
void letter_set_ready(struct letters *t, struct letter *l, struct message *m);
/* Can it be sent as it is? */
static inline bool letter_is_ready(const struct letter *l) {
    return l->state == LETTER_READY && !l->is_outdated;
}
/* Domains have changed: what was signed by keys that are not what they were is read and signed
 * again before it is next sent. Other people's changes leave a letter alone. */
void letters_outdate(struct letters *t, const struct signers *was, const struct signers *are);
/* READY becomes BARE, or UNSIGNED when the content is here. Bundles that are claimed wait for
 * nothing: they look at the letter before they leave. */
void letter_set_unsigned(struct letters *t, struct letter *l);
/* To be called when a bundle left: frees or keeps the letter once none is left. What is kept gives
 * back what came with a notice: the store's budget of that is for fresh mail. */
void letter_settle(struct letters *t, struct letter **lp);
/* To be called when a bundle was picked, and when one that was queues again. */
void letter_picked(struct letters *t, struct letter *l);
void letter_unpicked(struct letters *t, struct letter *l);
/* Looks at another letter of the same kind of room whose bundles only queued, for who knows how
 * long, that first which has been so for longest: if they do, it is BARE again, to be read, and
 * signed, again when a bundle is picked. What came with a notice would free nothing. False: there
 * was none to look at. */
bool letters_make_room(struct letters *t, const struct letter *for_whom);
/* What it has of the room; and what it wants of it, or has: 0 when its content came with a notice,
 * or is gone. */
size_t letter_held_bytes(const struct letter *l);
size_t letter_room_bytes(const struct letter *l);
/* Calls `fn` for each; it may end the letter that it is given, and no other. */
void letters_visit(struct letters *t, void *ctx, void (*fn)(void *ctx, struct letter *l));
size_t letters_kept_bytes(const struct letters *t); /* held for retries */
size_t letters_count(const struct letters *t);
