/* path: the argument of MAIL and RCPT as a server reads it (RFC 5321 4.1.2): brackets, an old
 * source route that is dropped (R12), the mailbox, parameters. Shape, lengths and octets are
 * checked; whether anybody lives there is somebody else's question. Pure. Thread: any. */
#pragma once

#include "server/base/str.h"

enum { PATH_MAX_OCTETS = 256, PATH_LOCAL_MAX = 64, PATH_DOMAIN_MAX = 255 };

/* `text`: what follows "FROM:" or "TO:". *mailbox borrows from it, without brackets, "" for <>.
 * *parameters: what follows the path. ERR_INVALID: no path; ERR_LIMIT: too long. *is_utf8: octets
 * above 127 are in it. */
NODISCARD enum err path_parse(struct str text, struct str *mailbox, struct str *parameters,
                              bool *is_utf8);
