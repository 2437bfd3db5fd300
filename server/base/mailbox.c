#include "server/base/mailbox.h"

#include <errno.h>
#include <event2/event.h>
#include <poll.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "server/base/clock.h"

enum { NOTES_PER_TURN = 256 };

/* Senders push onto `incoming`, newest first; the owner takes that chain whole, turns it round and
 * appends it to `ready`.
 *
 * Why no note is forgotten: who pushes onto an empty `incoming` signals after pushing, and the
 * owner empties the eventfd before it takes the chain. So a note that the owner did not see has a
 * signal that is still to come or still there. Whenever the owner leaves notes in `ready` it
 * signals itself.
 *
 * Why it may end as soon as its last note ran: that note can be seen before its sender has
 * signalled. A sender counts itself before it pushes, and is gone when it no longer counts itself.
 */
struct mailbox {
    _Atomic(struct note *) incoming;
    atomic_size_t senders; /* inside of mailbox_send() */
    int fd;                /* eventfd */
    /* the owner's */
    struct note *ready, **ready_end;
    struct event *event; /* NULL: not attached */
};

struct mailbox *mailbox_new(void) {
    struct mailbox *m = mem_zalloc(sizeof(*m));
    m->ready_end = &m->ready;
    m->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    NEED(m->fd >= 0);
    return m;
}

void mailbox_free(struct mailbox **mp) {
    struct mailbox *m = *mp;
    if (m == NULL)
        return;
    mailbox_detach(m);
    /* What runs may still send to this mailbox, from this thread. */
    while (mailbox_run(m, SIZE_MAX) > 0)
        ;
    while (atomic_load_explicit(&m->senders, memory_order_acquire) > 0)
        sched_yield(); /* it has a write(2) to go at most */
    close(m->fd);
    free(m);
    *mp = NULL;
}

static void signal_owner(struct mailbox *m) {
    const uint64_t one = 1;
    ssize_t n;
    do {
        n = write(m->fd, &one, sizeof(one));
    } while (n < 0 && errno == EINTR);
    /* EAGAIN: 2^64-2 signals are waiting, so one more tells nothing. */
    ASSERT(n == (ssize_t)sizeof(one) || errno == EAGAIN);
}

static void empty_signals(struct mailbox *m) {
    uint64_t count;
    ssize_t n;
    do {
        n = read(m->fd, &count, sizeof(count));
    } while (n < 0 && errno == EINTR);
    ASSERT(n == (ssize_t)sizeof(count) || errno == EAGAIN);
}

void mailbox_send(struct mailbox *m, struct note *note) {
    atomic_fetch_add_explicit(&m->senders, 1, memory_order_relaxed); /* told by the push below */
    struct note *head = atomic_load_explicit(&m->incoming, memory_order_relaxed);
    do {
        note->next = head;
    } while (!atomic_compare_exchange_weak_explicit(&m->incoming, &head, note, memory_order_acq_rel,
                                                    memory_order_relaxed));
    /* `note` may be gone already. */
    if (head == NULL)
        signal_owner(m);
    atomic_fetch_sub_explicit(&m->senders, 1, memory_order_release);
    /* and now the mailbox */
}

/* Moves what came in behind what is ready, oldest first. */
static void collect(struct mailbox *m) {
    empty_signals(m);
    struct note *newest = atomic_exchange_explicit(&m->incoming, NULL, memory_order_acq_rel);
    if (newest == NULL)
        return;
    struct note *oldest = NULL;
    for (struct note *n = newest, *next; n != NULL; n = next) {
        next = n->next;
        n->next = oldest;
        oldest = n;
    }
    *m->ready_end = oldest;
    m->ready_end = &newest->next;
}

size_t mailbox_run(struct mailbox *m, size_t most) {
    collect(m);
    size_t count = 0;
    while (count < most && m->ready != NULL) {
        struct note *note = m->ready;
        m->ready = note->next;
        if (m->ready == NULL)
            m->ready_end = &m->ready;
        note->next = NULL;
        count++;
        note->run(note);
    }
    if (m->ready != NULL)
        signal_owner(m);
    return count;
}

static void on_readable(evutil_socket_t fd, short what, void *arg) {
    (void)fd;
    (void)what;
    mailbox_run(arg, NOTES_PER_TURN);
}

void mailbox_attach(struct mailbox *m, struct event_base *base) {
    ASSERT(m->event == NULL);
    m->event = event_new(base, m->fd, EV_READ | EV_PERSIST, on_readable, m);
    NEED(m->event != NULL);
    NEED(event_add(m->event, NULL) == 0);
}

void mailbox_detach(struct mailbox *m) {
    if (m->event == NULL)
        return;
    event_free(m->event);
    m->event = NULL;
}

struct note *mailbox_take(struct mailbox *m, int timeout_ms) {
    int64_t until_mono_ms = timeout_ms > 0 ? clock_mono_ms() + timeout_ms : 0;
    int left_ms = timeout_ms;
    for (;;) {
        collect(m);
        if (m->ready != NULL || left_ms == 0)
            break;
        struct pollfd p = {.fd = m->fd, .events = POLLIN};
        ASSERT(poll(&p, 1, left_ms < 0 ? -1 : left_ms) >= 0 || errno == EINTR);
        if (timeout_ms > 0) {
            int64_t rest = until_mono_ms - clock_mono_ms();
            left_ms = rest > 0 ? (int)rest : 0;
        }
    }
    struct note *chain = m->ready;
    m->ready = NULL;
    m->ready_end = &m->ready;
    return chain;
}

size_t mailbox_wait(struct mailbox *m, int timeout_ms) {
    size_t count = 0;
    for (struct note *n = mailbox_take(m, timeout_ms), *next; n != NULL; n = next) {
        next = n->next;
        n->next = NULL;
        n->run(n);
        count++;
    }
    return count;
}

int mailbox_fd(const struct mailbox *m) {
    return m->fd;
}
