/* loop: a thread with an event loop, and the mailbox by which others reach it.
 *
 * loop_start() runs libevent on a thread of its own; everything that belongs to the loop (streams,
 * timers, transfers) is made and used only on that thread, which others enter by notes to
 * loop_mailbox(). The first loop sets SIGPIPE to be ignored in the process: a write to a connection
 * that the peer closed has to be an error, not a death.
 *
 *     struct loop *l = loop_start("delivery-0");
 *     mailbox_send(loop_mailbox(l), &my_note->note);
 *     loop_stop(&l);        // after everything on it was closed
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h> /* lint: containers: a hold lives in the storage of who holds */

#include "server/base/mailbox.h"

struct loop;
struct event_base;
struct timer;

struct loop *loop_start(const char *thread_name);
/* Ends the loop after the notes that are in the mailbox now, joins, frees. Streams that were closed
 * with `flush` get their time first (2 s at most). Thread: not the loop's own. */
void loop_stop(struct loop **lp);
/* A loop on the calling thread, for tests and for threads that run it themselves with
 * loop_dispatch(). */
struct loop *loop_new(void);
void loop_free(struct loop **lp);
void loop_dispatch(struct loop *l);                      /* until loop_break() */
void loop_dispatch_once(struct loop *l, int timeout_ms); /* one turn; -1: waits for ever */
void loop_break(struct loop *l);                         /* Thread: any */
struct mailbox *loop_mailbox(struct loop *l);
struct event_base *loop_base(struct loop *l); /* for rooms inside the libevent fence */
bool loop_is_current(const struct loop *l);   /* asked on the loop's thread? */

/* Timers. Thread: the loop's. One shot; timer_set again moves it. They count from the beginning of
 * the loop's turn. Freeing one from within its own `fn` is fine. */
struct timer *timer_new(struct loop *l, void (*fn)(void *arg), void *arg);
void timer_free(struct timer **tp);
void timer_set(struct timer *t, int64_t delay_ms); /* >= 0 */
void timer_cancel(struct timer *t);

/* What lives on after its owner let go of it (a stream that still flushes) holds the loop: at its
 * end the loop calls `on_stop` of each hold and goes on turning until the last was released. With
 * `at_once` the hold has to be released during the call. Thread: the loop's. */
struct loop_hold {
    TAILQ_ENTRY(loop_hold) link;
    void (*on_stop)(struct loop_hold *h, bool at_once);
};
void loop_hold(struct loop *l, struct loop_hold *h);
void loop_unhold(struct loop *l, struct loop_hold *h);
