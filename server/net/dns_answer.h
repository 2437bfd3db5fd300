/* dns_answer: what libunbound found, as a dns_query shows it. For dns only. Thread: any. */
#pragma once

#include "server/net/dns.h"

struct ub_result;

/* `err` is libunbound's; `r` may be NULL then. */
enum failure dns_answer_failure(int err, const struct ub_result *r);
/* Fills the answer's part of *q but for `failure`; records only when there is none. `asked` is the
 * name that was asked for. */
void dns_answer_take(struct dns_query *q, const struct ub_result *r, const char *asked);
