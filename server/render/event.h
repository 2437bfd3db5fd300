/* event: an event as the JSON that webhooks carry and feeds show.
 *
 *     { "id": "…", "type": "recipient.delivered", "timestamp": "…",
 *       "data": { "message_id": "…", "recipient": { "email": "…", "state": "delivered" },
 *                 "final": true, "seq": 2, "attempt": 1, "smtp": {…}, "tags": […], … } }
 *
 * One renderer, so that what a webhook says and what the API says about one event is equal byte for
 * byte. No content of the message is ever in it. Thread: any.
 */
#pragma once

#include <jansson.h>

#include "server/base/buf.h"
#include "storage/model.h"

/* Appends the body; `out` says ERR_LIMIT when it is full. */
void render_event(const struct event_row *e, struct buf *out);
/* The same as a value: one reference, the caller's. */
json_t *render_event_value(const struct event_row *e);
