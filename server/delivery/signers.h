/* signers: what the store's domains mean for sending: DKIM keys and bounce addresses by project and
 * domain. Who asks says for which project: the message's. What others have under the same name is
 * theirs alone.
 *
 * An immutable snapshot, made of one STORE_DOMAINS answer, shared by reference count.
 */
#pragma once

#include "server/mail/dkim_sign.h"
#include "storage/model.h"

struct signers; /* Thread: immutable; ref/unref are atomic */

/* A key that cannot be read is left out, and logged; the domain signs with its others. Keys that
 * `was` has, too (NULL: nothing), are shared with it: to read one takes a signature, and each
 * change of any domain reads them all. NULL: there is no memory to read one, which says nothing
 * about it. */
struct signers *signers_new(const struct domain_row *rows, size_t count, const struct signers *was);
struct signers *signers_ref(struct signers *k);
void signers_unref(struct signers **kp);

/* Fills *out for the project's domain itself or the nearest parent that has keys (relaxed
 * alignment, RFC 7489 3.1.1); `published_only`: with keys that were found in DNS. False: there is
 * none. With a key_count of 0 none of them can be read: its mail waits, rather than to go without a
 * signature. What is filled in lives as long as they do. */
bool signers_find(const struct signers *k, int64_t project, struct str domain, bool published_only,
                  struct dkim_signer *out);
/* Would both have signers_find() say the same of the domain: the same keys under the same names, or
 * none? */
bool signers_are_same(const struct signers *a, const struct signers *b, int64_t project,
                      struct str domain, bool published_only);
/* When the newest key of the domain, or of a parent of it, was made that was not found in DNS yet;
 * 0: there is none. */
int64_t signers_unpublished_wall_ms(const struct signers *k, int64_t project, struct str domain);
/* Where the bounces of the project's domain go, see domains_bounce_address(); absent: none. */
struct str signers_bounce_address(const struct signers *k, int64_t project, struct str domain);
