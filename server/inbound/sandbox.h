/* sandbox: postchute's own receiving mail server on loopback, where a development profile really
 * relays its mail to by SMTP (with STARTTLS), and from which nothing leaves: each message is
 * captured in the store, shown by GET /v1/sandbox/messages.
 *
 * Local parts choose the answer, so that failures can be tried: bounce@ 550 5.1.1, defer@
 * 451 4.7.1, full@ 452 4.2.2, spam@ 554 5.7.1 (at the end of DATA); a `+tag` behind them is
 * ignored; everything else is accepted.
 *
 * Thread: start and stop on main; a loop of its own inside.
 */
#pragma once

#include "server/net/sockaddr.h"
#include "storage/store.h"

struct sandbox;

struct sandbox_options {
    struct store *store;
    const char *address;      /* "127.0.0.1"; copied */
    uint16_t port;            /* 0: any free one */
    size_t message_bytes_max; /* of one message; what is larger gets 552 */
    size_t held_bytes_max;    /* of all messages that are coming; 0: 256 MiB */
};
/* Serves as many connections as five eighths of the process's descriptors, from 256 up to 12,288.
 * The next one takes the place of the one that is idle for longest, which gets a 421; so do, once a
 * second, an eighth of the idle ones beyond four fifths of that, and those that began their
 * messages first when too much is held. A connection can hold a message and its copy on the way to
 * the store, and no more. The store is borrowed until sandbox_stop(). ERR_CONFLICT: the port is in
 * use; ERR_UNAVAILABLE: no such address, or no right to it; ERR_INVALID: no address. */
NODISCARD enum err sandbox_start(const struct sandbox_options *o, struct sandbox **out,
                                 struct errinfo *info);
uint16_t sandbox_port(const struct sandbox *s);
/* Says 421 to all, waits until captures on their way are stored. NULL is accepted; *sp = NULL. */
void sandbox_stop(struct sandbox **sp);
