/* capture: what the sandbox's receivers note about a message or a webhook post, as JSON for
 * capture_row.meta_json. Thread: any. */
#pragma once

#include "server/base/buf.h"
#include "server/smtp/receive.h"

/* {"mail_from", "rcpt_to":[...], "helo", "peer", "tls":{"version","cipher"}|null, "size",
 * "smtputf8"} */
void render_capture_message(const struct received *m, struct buf *out);

struct capture_header {
    struct str name, value;
};
/* {"path", "headers":{...}, "size"}; names in lower case. */
void render_capture_webhook(struct str path, const struct capture_header *headers, size_t count,
                            size_t size, struct buf *out);
