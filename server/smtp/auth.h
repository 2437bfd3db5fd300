/* auth: the client's side of AUTH PLAIN (RFC 4616) and AUTH LOGIN, as lines to send. The secret is
 * held in memory that is wiped; the lines go into bufs that the caller releases with
 * buf_release_secret() and never logs. Whether the connection is good enough for a secret is the
 * session's question (C39). Thread: owner. */
#pragma once

#include "server/base/buf.h"
#include "server/smtp/capability.h"

struct auth;

/* NULL: no mechanism that both know. Both strings are copied. */
struct auth *auth_new(const struct capability *c, const char *user, const char *password);
void auth_free(struct auth **ap);                 /* wipes; NULL accepted */
const char *auth_mechanism(const struct auth *a); /* "PLAIN" */
/* The AUTH command with CRLF. The initial response goes into it when the line stays within 512
 * octets, else it follows the first challenge (RFC 4954 4). */
void auth_begin(struct auth *a, struct buf *out);
/* Does a text of the server hold a piece of the password (of four octets at least), in clear or as
 * it was sent, in any number of lines? What it refuses some servers repeat. */
bool auth_is_told_by(const struct auth *a, struct str text);
/* The line that answers a 334; "*" (cancel) and ERR_INVALID when the challenge is no base64 or one
 * too many (C38). */
NODISCARD enum err auth_continue(struct auth *a, struct str challenge, struct buf *out);
