/* provision: brings what the settings declare (keys, domains, webhooks) into the store,
 * idempotently: at start and at each reload.
 *
 * What is declared wins over what was stored: over a domain of its name, an endpoint of its URL, a
 * key of its text. A key that was revoked stays so, and that is logged. What is no longer declared
 * stays, because it may have been made by the API meanwhile; a key in force that has the name of a
 * declared one is logged with the command that ends it. A declared domain without key files gets a
 * generated pair once. Thread: main; blocks (store_sync).
 */
#pragma once

#include "server/config.h"
#include "server/net/guard.h"
#include "storage/store.h"

/* `guard` says which URLs a webhook may have. ERR_INVALID names the declaration that is wrong.
 * Looks at all of them before anything is stored. */
NODISCARD enum err provision_check(const struct guard *guard, const struct config *c,
                                   struct errinfo *info);
/* The same, and stores them. After ERR_UNAVAILABLE a part of them may be stored: apply it again. */
NODISCARD enum err provision_apply(struct store *s, const struct guard *guard,
                                   const struct config *c, struct errinfo *info);

/* The development profile: the domain acme.test, a key kept in `folder`/dev.key (0600), and an
 * endpoint for the built-in receiver of webhooks (NULL: there is none). The key's text is put into
 * `key`. */
NODISCARD enum err provision_development(struct store *s, const char *folder,
                                         const char *receiver_url, struct buf *key,
                                         struct errinfo *info);
