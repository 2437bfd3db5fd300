/* capability: what a server offered in its answer to EHLO (RFC 5321 4.1.1.1). Keywords without
 * case; what is unknown is ignored. Pure. Thread: any. */
#pragma once

#include "server/mail/reply.h"

struct capability {
    bool pipelining; /* RFC 2920 */
    bool chunking;   /* RFC 3030 */
    bool eightbit;   /* RFC 6152 */
    bool smtputf8;   /* RFC 6531 */
    bool enhanced;   /* RFC 2034 */
    bool starttls;   /* RFC 3207 */
    bool auth_plain, auth_login;
    bool size_known;   /* RFC 1870 */
    uint64_t size_max; /* 0: no limit given */
};

/* `r`: a 2xx reply to EHLO. Its first line is the greeting, each other line one keyword. */
struct capability capability_parse(const struct reply *r);
