/* rights: from which addresses a key may send (T11).
 *
 * Every comparison is of parsed A-label domains in lower case, never of text. A rule is
 * "acme.test": exactly that domain, or "*.acme.test": every domain below it, but not itself. A key
 * without rules may send from every domain that is not another project's; what is below a verified
 * domain of another project is that project's, too, unless a verified domain in between is ours.
 * A name that several projects have is theirs who verified it, or the nearest one above it; when
 * nobody did, theirs who had it first.
 * From and Sender are checked; Reply-To is free, because answers do not speak for the sender.
 *
 * Thread: immutable, any.
 */
#pragma once

#include "server/mail/submission.h"
#include "storage/model.h"

/* The sending domains of all projects, as a snapshot. */
struct domains;
struct domains *domains_new(const struct domain_row *row, size_t count); /* one reference */
struct domains *domains_ref(struct domains *d);
void domains_unref(struct domains **dp);

struct domain_info {
    int64_t project;
    int64_t created_wall_ms;
    bool is_verified;
    struct str bounce_address; /* as it is set; absent: none; lives as long as the snapshot */
};
/* What this project has, whoever has the same name as well. NULL: it has not got it. */
const struct domain_info *domains_find(const struct domains *d, int64_t project,
                                       struct str a_label);
/* Where the bounces of the project's domain go. Absent: nothing is set, or what is set is another
 * project's domain, whose row may be younger than the address. Lives as long as the snapshot. */
struct str domains_bounce_address(const struct domains *d, int64_t project, struct str a_label);
/* May nothing of the project name the address, because its domain is another project's? */
bool domains_is_anothers_address(const struct domains *d, int64_t project, struct str address);
size_t domains_count(const struct domains *d, int64_t project); /* that this project has */

struct rights {
    int64_t project;
    const struct str *from_domains; /* rules, checked when the key was made */
    size_t from_domain_count;
    bool is_test; /* no verified domain is asked for */
};

/* Does the rule cover the domain? Both in A-label form. */
bool rights_rule_covers(struct str rule, struct str domain);
/* Does `outer` cover every domain that the rule covers? Both as stored. */
bool rights_rule_is_within(struct str rule, struct str outer);
/* The rule in the form that is stored: A-label, lower case. */
NODISCARD enum err rights_rule_parse(struct str text, struct arena *a, struct str *out,
                                     struct errinfo *info);
/* Is it within the key's rules, whoever has the domain? */
bool rights_cover_domain(const struct rights *r, struct str domain);
/* May a message be From this domain? */
bool rights_allow_domain(const struct rights *r, const struct domains *d, struct str domain);
/* May a message that was stored be decided about: From this domain, with this reverse-path? That is
 * the Sender's, when there was one, or the bounce address of the domain of either. A bounce address
 * that was changed since is nobody's: then only keys without rules may. */
bool rights_allow_stored(const struct rights *r, const struct domains *d, struct str from_domain,
                         struct str mail_from);
/* Of which domain the Sender of a stored message was, as far as its reverse-path tells: From's when
 * it is that, its bounce address or nobody; else the project's domain with this bounce address (of
 * several a verified one); else that of the address, when the project has it; else From's: it was a
 * bounce address, and another one is set since. */
struct str rights_sender_domain(const struct domains *d, int64_t project, struct str from_domain,
                                struct str mail_from);
/* Adds a fault for each address that the key may not use: true when there was none. */
bool rights_check(const struct rights *r, const struct domains *d, const struct submission *s,
                  struct faults *faults);
