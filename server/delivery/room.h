/* room: the memory for contents that are read from the store for delivery, and who may have some.
 *
 * A content is small, large, or stands apart (larger than half of what large ones have). Each kind
 * has room of its own: whatever large ones do, small ones go. One that stands apart goes when no
 * other such is held.
 *
 * Receivers that hang keep what they have until they give up. So nobody takes more than half of
 * what is left; a site that holds something gets no more than leaves a quarter of all, and as much
 * as it has then; a project that holds something, at another site, leaves an eighth: that is for
 * projects that have nothing. Of small ones each needs what the largest of them needs, so that it
 * makes no difference which one comes first.
 *
 * Who finds no room is passed by others of its kind that find some, but is not kept waiting by
 * them: as soon as it had room but for what they hold, no more may pass, until it has its room or
 * has waited for long: they may hang. Then they are no longer held against who comes, and it begins
 * anew when room that they do not hold is given back. With small ones, of which each needs little,
 * that takes seconds at most. A content that others had before has not passed, however many more
 * sites have it by now.
 *
 * What is in memory and only queues takes none from who asks: it is given up (letters_make_room()).
 *
 *     if (room_has(r, b, now)) { site_pick_slot(site, b); room_taken(r, b, now); }   // picked
 *     site_give_slot(site, b); room_given(r, b);                                // over
 *
 * Sizes in octets. Thread: the scheduler's.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum room_kind { ROOM_SMALL, ROOM_LARGE, ROOM_APART, ROOM_KINDS };

struct bundle;
struct room;
/* So much for large ones, and half as much for small ones. */
struct room *room_new(size_t bytes_max);
void room_free(struct room **rp); /* nothing may be held */
enum room_kind room_kind_of(const struct room *r, size_t size);

/* Of what is held so much more, or less, may be given up: nobody needs it soon. */
void room_idle_add(struct room *r, enum room_kind kind, size_t bytes);
void room_idle_remove(struct room *r, enum room_kind kind, size_t bytes);
/* A content of this project is held from now on, or no longer. */
void room_add(struct room *r, enum room_kind kind, int64_t project, size_t bytes);
void room_remove(struct room *r, enum room_kind kind, int64_t project, size_t bytes);
size_t room_bytes(const struct room *r, enum room_kind kind);

/* Would it have room if nobody waited, as it is, or if all were given up that may be? The bundle is
 * queued at its site. */
bool room_fits(const struct room *r, const struct bundle *b, bool without_idle);
/* May it be picked? Else it waits, and is to be asked about again; the first one of its kind
 * several times a second, unless its site is parked, or others go before it. */
bool room_has(struct room *r, struct bundle *b, int64_t now_mono_ms);
/* Who waits, and has for longest, but that sites take turns; NULL: nobody. */
struct bundle *room_first(const struct room *r, enum room_kind kind);
/* It has its slot. */
void room_taken(struct room *r, struct bundle *b, int64_t now_mono_ms);
/* Its slot was given back. */
void room_given(struct room *r, struct bundle *b);
/* It goes, or to another site. */
void room_left(struct room *r, const struct bundle *b);
