/* submission: the native JSON of one message, read into a struct submission.
 *
 * Faults of the form (unknown field, wrong type, an address that is none, base64 that is none) are
 * added here; those of the values by submission_check(). A value that was refused is replaced by
 * one that is fine, so that it is not complained of twice and what follows keeps its index.
 *
 * Thread: owner.
 */
#pragma once

#include "api/json.h"

/* Strings live in `root` and in the arena of `faults`. The contents of attachments are taken out of
 * `root` as they are decoded, so that the two are not held together. */
void v1_submission_read(json_t *root, struct faults *faults, struct submission *out);
