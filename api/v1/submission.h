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

/* Text, HTML and the contents of attachments stay in the body that `root` was parsed from; base64
 * is decoded in its place, so that the two are not held together. All else is in the arena of
 * `faults`. */
void v1_submission_read(const struct json_node *root, struct faults *faults,
                        struct submission *out);
