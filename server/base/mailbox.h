/* mailbox: how one thread hands something to another.
 *
 * A note is a struct that begins with `struct note` and says what to do with it: `run` is called on
 * the thread that owns the mailbox, and from mailbox_send() on the note belongs to that thread.
 * There is no reply mechanism: an answer is the same note, with another `run`, sent back to the
 * mailbox of whoever asked. Order is kept between one sender and one mailbox. Nothing is ever
 * dropped; sending never blocks and never fails.
 *
 * A thread with an event loop attaches its mailbox to the loop's event_base; a thread without one
 * waits in mailbox_wait().
 *
 *     struct greet {
 *         struct note note;
 *         char name[32];
 *     };
 *     static void greet_run(struct note *n) {
 *         struct greet *g = CONTAINER_OF(n, struct greet, note);
 *         printf("hello %s\n", g->name);
 *         free(g);
 *     }
 *     ...
 *     g->note.run = greet_run;
 *     mailbox_send(box, &g->note);
 *
 * Thread: mailbox_send() and mailbox_fd() any; everything else the owner's.
 */
#pragma once

#include <stddef.h>

#include "server/base/err.h"

#define CONTAINER_OF(ptr, type, member) ((type *)(void *)((char *)(ptr)-offsetof(type, member)))

struct note {
    struct note *next;
    void (*run)(struct note *note);
};

struct mailbox;
struct event_base;

struct mailbox *mailbox_new(void);
/* Runs what is left in it on the calling thread, then frees. Nobody may begin to send any more; who
 * sent the last note need not be joined: it may be asked in a mailbox that ends with the answer.
 * Not from inside of a note. */
void mailbox_free(struct mailbox **mp);
/* Thread: any. */
void mailbox_send(struct mailbox *m, struct note *note);
/* Owner: notes are run from the event loop (at most 256 a turn, so that sockets get their share).
 */
void mailbox_attach(struct mailbox *m, struct event_base *base);
void mailbox_detach(struct mailbox *m);
/* Owner without a loop: waits up to timeout_ms (-1: for ever) for a note, runs all that are there,
 * returns how many. */
size_t mailbox_wait(struct mailbox *m, int timeout_ms);
/* Owner: takes the whole chain in order without running it (NULL when empty), after waiting up to
 * timeout_ms. */
struct note *mailbox_take(struct mailbox *m, int timeout_ms);
/* The descriptor that becomes readable when notes wait; for external poll loops, which then call
 * mailbox_run(). */
int mailbox_fd(const struct mailbox *m);
/* Owner: runs at most `most` of the notes that are there now, returns how many; when some are left,
 * the descriptor is readable again. */
size_t mailbox_run(struct mailbox *m, size_t most);
