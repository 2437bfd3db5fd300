/* doctor: what `postchute doctor` examines, and how it says what it found. Private to
 * server/cli/doctor*.c.
 *
 * An examination ends in one line: ok, "look" (works, but should be seen to) or "BAD" with what
 * mends it. Thread: main; it waits.
 */
#pragma once

#include "server/cli/admin.h"
#include "server/net/dns.h"
#include "server/net/mx.h"

struct doctor {
    const struct config *config;
    bool has_bad_settings; /* said already: what follows from them is not said again */
    const char *folder;    /* the store's */
    bool is_online;        /* questions may leave this machine */
    int64_t patience_ms;   /* for one connection */
    const char *mx_domain; /* whose MX the way out is tried with */
    struct dns *dns;
    struct mailbox *box;
    size_t bad, look;
};

void doctor_ok(struct doctor *d, const char *what, const char *fmt, ...) PRINTF(3, 4);
/* `mend` in one or two sentences; printed below. */
void doctor_look(struct doctor *d, const char *what, const char *mend, const char *fmt, ...)
    PRINTF(4, 5);
void doctor_bad(struct doctor *d, const char *what, const char *mend, const char *fmt, ...)
    PRINTF(4, 5);

/* doctor_net.c */
void doctor_dns(struct doctor *d);
void doctor_hostname(struct doctor *d);
void doctor_way_out(struct doctor *d);
/* Asks and waits; release the query afterwards. */
void doctor_ask(struct doctor *d, enum dns_type type, struct str name, struct dns_query *q);
/* doctor_smarthost.c: TLS, certificate or pin, and login; sends nothing. */
struct smarthost;
void doctor_smarthost(struct doctor *d, const struct smarthost *h);
/* doctor_domain.c: every sending domain in the answer of /v1/domains. */
void doctor_domains(struct doctor *d, const json_t *domains);
