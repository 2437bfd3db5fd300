/* room: the memory for contents that are read from the store for delivery, and who may have some.
 *
 * A content is small, large, or stands apart (larger than all that the large ones have). Each kind
 * has room of its own: whatever large ones do, small ones go. One that stands apart goes when no
 * other such is held.
 *
 * Of small and large ones nobody gets more than what is left, less what its project and what its
 * site hold already: receivers that hang keep what they have until they give up, and leave some to
 * the next; so do projects. A small one may take an eighth of that at most, so that the smaller
 * one finds some longer.
 *
 * Who finds no room is passed by others that find some, but is not kept waiting by them: as soon as
 * it had room but for what they hold, no more may pass. They may hang, so after a while that ends,
 * they are no longer held against who comes, and it begins anew when room that they do not hold is
 * given back. There is a line for each kind that waits for room, and one for each project whose
 * share is taken; small ones have none, since they are small.
 *
 * What is in memory and only queues takes none from who asks: it is given up (letters_make_room()).
 *
 *     if (room_has(r, b, now)) { site_pick_slot(site, b); room_taken(r, b); }   // picked
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
struct room *room_new(size_t bytes_max);
void room_free(struct room **rp); /* nothing may be held */
enum room_kind room_kind_of(const struct room *r, size_t size);

/* A content of this project is held from now on, or no longer. */
void room_add(struct room *r, enum room_kind kind, int64_t project, size_t bytes);
void room_remove(struct room *r, enum room_kind kind, int64_t project, size_t bytes);
/* Small and large ones. */
size_t room_bytes(const struct room *r);

/* Would its content have room, nobody else considered? The bundle is queued at its site. */
bool room_fits(const struct room *r, const struct bundle *b);
/* May it be picked? Else it waits in line, and is to be asked about again, at least once a second,
 * unless its site is parked. */
bool room_has(struct room *r, struct bundle *b, int64_t now_mono_ms);
/* It has its slot. */
void room_taken(struct room *r, struct bundle *b);
/* Its slot was given back. */
void room_given(struct room *r, struct bundle *b);
/* It goes. */
void room_left(struct room *r, const struct bundle *b);
