/* dns: asynchronous questions to a caching, validating resolver (libunbound) on a thread of its
 * own.
 *
 * Modes: system (resolv.conf, hosts file and its search list, so that container names resolve),
 * recursive, or addresses of resolvers. Trust anchor and root servers are those of Debian's
 * dns-root-data, or of a file given.
 *
 * DNSSEC is probed from the start on, without holding it up: until the probe has an answer, what
 * cannot be validated waits for it. Behind a resolver that strips signatures, or knows zones of its
 * own and not the root, validation is off: answers come, are never `is_secure`, and dns_status()
 * says so; the probe is repeated, so that a repaired resolver is noticed. Names that the public
 * tree cannot know (single labels, `internal`, `local`, `test`, ... ) are never validated in system
 * mode and with given addresses.
 *
 *     struct dns_query *q = ...;
 *     *q = (struct dns_query){.note.run = answered, .reply_to = box, .type = DNS_TXT};
 *     snprintf(q->name, sizeof q->name, "%s", "_dmarc.example.org");
 *     dns_ask(dns, q);          // then answered(&q->note) on the thread of `box`
 *
 * Thread: dns_ask from any; the note comes back to the mailbox given.
 */
#pragma once

#include "server/base/arena.h"
#include "server/base/mailbox.h"
#include "server/mail/outcome.h"
#include "server/net/sockaddr.h"

struct dns;

struct dns_options {
    const char *mode;              /* "system" | "recursive" | "192.0.2.1,192.0.2.2@5353" */
    const char *resolv_conf;       /* NULL: /etc/resolv.conf */
    const char *hosts_file;        /* NULL: /etc/hosts */
    const char *trust_anchor_file; /* NULL: the system's; "": none, nothing is validated */
    const char *root_hints_file;   /* recursive: the root servers; NULL: the system's, or what the
                                      library knows; "": that */
    int64_t timeout_ms;            /* of one question, all tries; 0: 20 s */
    int64_t alive_ms; /* who asks nothing of the network and gets no answer for so long replaces the
                         resolver's thread (dns_worker.h); 0: 1.5 s */
};

enum dns_type {
    DNS_A = 1,
    DNS_CNAME = 5,
    DNS_PTR = 12,
    DNS_MX = 15,
    DNS_TXT = 16,
    DNS_AAAA = 28,
    DNS_TLSA = 52
};

struct dns_mx {
    uint16_t preference;
    struct str host; /* lower case, no final dot; "" is the null MX */
};

struct dns_query {
    struct note note; /* run() is called on `reply_to`'s thread when answered; the query is the
                         caller's again */
    struct mailbox *reply_to;
    enum dns_type type;
    char name[256];  /* A-label, without final dot */
    bool use_search; /* a host name that the operator wrote: the search list of system mode applies.
                        Never for what stands in an address or in the DNS. */
    /* the answer, valid until dns_query_release() */
    enum failure failure; /* NONE, DNS_TEMPORARY, DNS_NXDOMAIN, DNS_NO_ADDRESS (= no such data),
                             DNS_BOGUS, SHUTDOWN */
    bool is_secure;       /* validated by DNSSEC; also of NXDOMAIN and of no such data */
    char canonical[256];  /* after search list and CNAMEs */
    size_t name_at;       /* which of the names to try it ended at: 0 without a search list */
    bool is_past_a_name;  /* one before is there, without such an address */
    uint32_t ttl_s;
    size_t count;      /* with NONE, 0: there are records, but all of them malformed. At most
                          LIMIT_DNS_ADDRESSES, or LIMIT_DNS_RECORDS of another type, of MX
                          the best */
    struct dns_mx *mx; /* DNS_MX */
    struct sockaddr_any *addr; /* DNS_A, DNS_AAAA; port 0 */
    struct str
        *data; /* TXT (strings concatenated, RFC 6376 3.6.2.2), TLSA rdata, PTR and CNAME names */
    struct arena *arena; /* owns the answer */
};

/* ERR_INVALID: the mode or the trust anchor's file is wrong; info names the setting. Asks nothing.
 */
NODISCARD enum err dns_check(const struct dns_options *o, struct errinfo *info);
/* ERR_INVALID: as above, or a file is wrong. Nothing is asked before it returns. */
NODISCARD enum err dns_start(const struct dns_options *o, struct dns **out, struct errinfo *info);
/* Questions under way are answered with FAILURE_SHUTDOWN first; what is asked later, by holders of
 * a reference, too. Gives up the caller's reference. */
void dns_stop(struct dns **dp);
/* For rooms that ask several questions in a row: the resolver may be stopped in between, but it is
 * still there to say so. */
struct dns *dns_ref(struct dns *d);
void dns_unref(struct dns **dp);
void dns_ask(struct dns *d, struct dns_query *q);
void dns_query_release(struct dns_query *q); /* frees the answer, not q */
/* Two answers for one host, of each family: each walked the search list alone. What was found at a
 * later name than the other is another host's, and so is what was found behind a name that is
 * there and that the other got no answer for: it becomes DNS_NO_ADDRESS. */
void dns_keep_first_name(struct dns_query *a, struct dns_query *b);

struct dns_status {
    bool is_known;      /* false while probing */
    bool is_validating; /* the probe found signatures that validate */
    char text[160];     /* for the log, doctor and readiness */
};
struct dns_status dns_status(struct dns *d); /* Thread: any */
