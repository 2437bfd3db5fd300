/* sender_domain: makes a new sending domain with its DKIM keys: RSA-2048 and Ed25519 under
 * selectors of their own (K15), named after the month so that a rotated pair never takes the place
 * of one in use. Generating takes some hundred ms: never on a loop. Thread: any. */
#pragma once

#include "storage/model.h"

/* Fills *out with strings in `a`; pem texts are secrets and are wiped with sender_domain_wipe()
 * when they were stored. `bounce_address` may be absent. ERR_INVALID: not a domain, or not an
 * address. */
NODISCARD enum err sender_domain_make(struct str name, struct str bounce_address, int64_t project,
                                      int64_t now_wall_ms, struct arena *a, struct domain_row *out,
                                      struct errinfo *info);
/* The same with keys that exist already: PEM texts and their selectors. ERR_INVALID as well: more
 * than DKIM_KEYS_MAX of them, which is what one message is signed with. */
struct sender_domain_key {
    struct str selector, pem;
};
NODISCARD enum err sender_domain_import(struct str name, struct str bounce_address,
                                        const struct sender_domain_key *keys, size_t count,
                                        int64_t project, int64_t now_wall_ms, struct arena *a,
                                        struct domain_row *out, struct errinfo *info);
void sender_domain_wipe(struct domain_row *row);
