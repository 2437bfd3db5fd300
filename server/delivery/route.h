/* route: where a recipient's mail is handed over: the MX hosts of its domain, or smarthosts.
 *
 * A `struct route` is what the settings say about one way out. Which one a recipient's mail takes:
 * the one that the message names, else the first whose rule matches, else the default.
 *
 *     struct smarthost h;
 *     if (smarthost_parse(STR("smtp://user:secret@mail.example:587"), &h, &info) != OK) ...
 *     smarthost_wipe(&h);
 *
 * Nothing here resolves a name or opens a connection.
 */
#pragma once

#include "server/base/err.h"
#include "server/smtp/session.h"

/* ---- one smarthost -------------------------------------------------------------------------- */

enum { SMARTHOST_PINS_MAX = 8 };

/* By value, without pointers, so that it can be copied and wiped. Thread: immutable once made. */
struct smarthost {
    char host[254]; /* A-label in lower case, or an IP address without brackets */
    uint16_t port;
    char user[256], password[512]; /* "": no AUTH. Secrets: smarthost_wipe() */
    enum session_tls tls;
    bool insecure_auth; /* AUTH although the peer is not verified; private addresses only */
    char ca_file[512];  /* "": the system's store */
    struct tls_pin pin[SMARTHOST_PINS_MAX]; /* keys of which the server must show one */
    unsigned pin_count;                     /* 0: none */
    bool is_pin_alone;                      /* and that is all that it must prove */
    unsigned weight;                        /* share among hosts of one priority, 1..1000 */
    unsigned priority; /* lower first; the next one is used when all before are down */
};

enum { SMARTHOST_WEIGHT_MAX = 1000, SMARTHOST_PRIORITY_MAX = 1000 };

/* smtp://[user:password@]host[:port][?tls=none|opportunistic|encrypt|verify&ca=FILE&
 * pin=sha256:KEY[,sha256:KEY...]&weight=N&priority=N&insecure_auth=1]; smtps:// is TLS from the
 * first byte, port 465. User, password and values may be %-encoded; an IPv6 address stands in
 * brackets. The default port is 25, 587 with credentials.
 *
 * A pin (net/tls_pin.h) authenticates the server by its key alone; with tls=verify or `ca` its
 * certificate is verified as well. TLS is required then, also when `tls` says encrypt.
 *
 * `tls` is by default verify with credentials and opportunistic without. Credentials over anything
 * less than verify are ERR_INVALID but for insecure_auth=1, and then only private addresses are
 * connected to: an address in the URL is checked here, those of a name when they are known. The
 * words in `info` never contain what stood in the URL. */
NODISCARD enum err smarthost_parse(struct str url, struct smarthost *out, struct errinfo *info);
void smarthost_wipe(struct smarthost *h);
/* What may stand behind the "?", for people. */
struct smarthost_parameter {
    struct str name;
    const char *help;
};
extern const struct smarthost_parameter smarthost_parameters[];
extern const size_t smarthost_parameter_count;
/* Loopback, RFC 1918, link-local, ULA, CGNAT. */
bool smarthost_address_is_private(const struct sockaddr_any *a);

/* ---- a route -------------------------------------------------------------------------------- */

enum route_kind { ROUTE_MX, ROUTE_SMARTHOST, ROUTE_SANDBOX /* smarthosts of our own */ };

enum route_signing {
    ROUTE_SIGNING_FULL,      /* with every key of the domain */
    ROUTE_SIGNING_PUBLISHED, /* only with keys that were found in DNS */
    ROUTE_SIGNING_OFF,
};

struct route {
    const char *name;
    enum route_kind kind;
    const struct smarthost *smarthost; /* ROUTE_SMARTHOST, ROUTE_SANDBOX: at least one */
    size_t smarthost_count;
    /* Chosen without being named when it has at least one of these lists, and one entry of each
     * list that it has matches: "acme.test" is that domain, "*.acme.test" every one below it. */
    const struct str *sender_domains; /* of From */
    size_t sender_domain_count;
    const struct str *recipient_domains;
    size_t recipient_domain_count;
    uint16_t mx_port;             /* 0: 25 */
    bool require_verified_domain; /* asked by intake, kept here for the views */
    enum route_signing signing;
    unsigned concurrency;             /* transactions at once to one site; 0: 10 MX, 20 else */
    unsigned rate_per_s;              /* messages to one site; 0: unlimited */
    unsigned messages_per_connection; /* 0: 100 */
    enum session_tls mx_tls;          /* of MX hosts: ENCRYPT or VERIFY, else OPPORTUNISTIC */
};

const char *route_kind_name(enum route_kind k); /* "mx" */
/* The route of a recipient; NULL: none has the name that was asked for, or there is no default. */
const struct route *route_choose(const struct route *routes, size_t count, struct str asked,
                                 struct str default_name, struct str sender_domain,
                                 struct str recipient_domain);
