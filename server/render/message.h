/* message: rows of the outbox as the JSON that the API shows.
 *
 * What a function returns is one reference, the caller's. Thread: any.
 */
#pragma once

#include <jansson.h>

#include "storage/model.h"

/* The answer to a submission: what was accepted, as it was when it was accepted. A message that has
 * moved on in the meantime renders the same, so that a repetition with the same Idempotency-Key
 * gets the first answer again. */
void render_accepted(const struct message_row *m, struct buf *out);
/* The message as it is now, with every recipient and what was last heard about it. */
json_t *render_message(const struct message_row *m);
/* About what that takes as text: for memory that is set aside before it is rendered. */
size_t render_message_bytes(const struct message_row *m);
/* One line of a listing: the same without what was heard from each recipient; recipients may be
 * NULL. */
json_t *render_message_summary(const struct message_row *m);

json_t *render_recipient(const struct recipient_row *r);
/* {code, enhanced, text, mx, tls}; NULL when nothing was heard yet. */
json_t *render_smtp(const struct last_result *l);
/* {class, hard, scope, code, enhanced, text, mx}; NULL when nothing was heard yet. */
json_t *render_refusal(const struct last_result *l);

/* `m` gives recipients their addresses; NULL: only their index. */
json_t *render_attempt(const struct attempt_row *a, const struct message_row *m);
