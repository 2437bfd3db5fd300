/* endpoint: the webhook endpoints as they were last read: a copy that can be searched by id.
 *
 *     struct endpoints *all = endpoints_new(rows, count);
 *     const struct endpoint *e = endpoints_find(all, &notification->webhook_id);
 *     size_t n = endpoint_secrets(e, clock_wall_ms(), secrets);
 *     endpoints_free(&all);      // wipes the secrets
 *
 * Thread: immutable once made.
 */
#pragma once

#include "storage/model.h"

enum { ENDPOINT_SECRETS_MAX = 2 };

struct endpoint {
    struct id id;
    enum webhook_state state;
    struct str url;
    struct str secret, previous_secret;
    int64_t previous_until_wall_ms;
};

struct endpoints;
struct endpoints *endpoints_new(const struct webhook_row *row, size_t count);
void endpoints_free(struct endpoints **ep);
/* NULL: unknown; a NULL set knows none. Lives as long as the set. */
const struct endpoint *endpoints_find(const struct endpoints *e, const struct id *id);
/* Those that a delivery is signed with now: the newest first; during rotation two. */
size_t endpoint_secrets(const struct endpoint *e, int64_t now_wall_ms,
                        struct str secrets[ENDPOINT_SECRETS_MAX]);
