/* domain_check: the DNS records that a sending domain wants, and whether they are there.
 *
 * Wanted: a TXT record for each DKIM key (required: finding one proves that whoever added the
 * domain controls it, and makes it verified), SPF and DMARC (advice: receivers ask for them). The
 * check asks the resolver for all of them at once.
 *
 *     domain_check_start(dns, &row, hostname, box, done, ctx);
 *     ... done(c, ctx) on the thread of `box`: c->record[i].is_ok, c->is_verified, c->is_conclusive
 *     domain_check_free(&c);
 *
 * Thread: start from any; the result belongs to the thread of `box`.
 */
#pragma once

#include "server/net/dns.h"
#include "storage/model.h"

enum domain_record_kind { DOMAIN_RECORD_DKIM, DOMAIN_RECORD_SPF, DOMAIN_RECORD_DMARC };

struct domain_record {
    enum domain_record_kind kind;
    bool is_required;
    struct str selector; /* of DKIM */
    struct str name;     /* owner name, "pc202611r._domainkey.acme.test" */
    struct str value;    /* wanted TXT */
    bool was_published;  /* a DKIM key, found there before, as its row says */
    /* after a check */
    bool is_answered;
    enum failure failure; /* NONE: `found` is what DNS says; DNS_TEMPORARY and such: not known */
    struct str found;     /* absent: no such record */
    bool is_ok;
};

/* Pure: what is wanted. `hostname` is ours, for SPF; empty: none is advised. Returns the count;
 * strings in `a`. */
size_t domain_records_wanted(const struct domain_row *row, struct str hostname, struct arena *a,
                             struct domain_record **out);
/* "dkim", "spf", "dmarc". */
const char *domain_record_kind_name(enum domain_record_kind k);

struct domain_check {
    struct arena *arena;
    struct id id;
    int64_t project;
    struct str domain;
    struct domain_record *record;
    size_t count;
    bool is_verified;   /* a DKIM record of ours was found */
    bool is_conclusive; /* DNS answered every required question: is_verified == false means really
                           not there */
    struct domain_check_private *private_;
};

/* Returns the check, whose records fill in on the thread of `box`; after `done` it is the caller's
 * to free. Who is on another thread than `box` must not look at it: it may be gone already. */
struct domain_check *domain_check_start(struct dns *dns, const struct domain_row *row,
                                        struct str hostname, struct mailbox *box,
                                        void (*done)(struct domain_check *c, void *ctx), void *ctx);
void domain_check_free(struct domain_check **cp); /* only after done */

/* "found", "missing", "different" (a record of that kind with another value), or "unknown": DNS did
 * not answer (yet). */
const char *domain_record_state_name(const struct domain_record *r);

/* A look at a domain's records now, asked of whoever watches domains. The struct and its row are
 * the caller's and stay until `done`, which runs on the thread of `reply_to`, after what was found
 * is in the store. */
struct domain_look {
    struct note note;
    struct mailbox *reply_to;
    void (*done)(struct domain_look *look);
    const struct domain_row *row; /* keys without their secrets will do */
    int64_t timeout_ms;           /* then what is known is told */
    /* out */
    enum err err;        /* OK, ERR_AGAIN: too many look, ERR_UNAVAILABLE: nobody does any more */
    struct arena *arena; /* of the records, the caller's to free; NULL: none */
    struct domain_record *record;
    size_t count;
    bool is_verified,
        is_conclusive; /* as of struct domain_check; both false when it took too long */
};

/* Is `found` a key record (RFC 6376 3.6.1) with the same p= as `wanted`? Tags and white space may
 * differ. Pure. */
bool domain_check_same_key(struct str wanted, struct str found);
