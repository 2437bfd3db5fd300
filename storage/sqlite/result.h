/* result: what an attempt said, as bytes in a column: of an event, or of each recipient of an
 * attempt.
 *
 * The form has a version; reading checks every length, so a damaged column is an error and not a
 * crash. Thread: any.
 */
#pragma once

#include "server/base/arena.h"
#include "server/base/buf.h"
#include "storage/model.h"

/* Nothing was said: no reply, no failure, no class. Such a result is stored as NULL. */
bool result_is_empty(const struct last_result *r);
void result_pack(struct buf *out, const struct last_result *r);
NODISCARD enum err result_unpack(struct str in, struct arena *a, struct last_result *out);

void attempt_recipients_pack(struct buf *out, const struct attempt_row *a);
NODISCARD enum err attempt_recipients_unpack(struct str in, struct arena *a,
                                             struct attempt_row *out);
