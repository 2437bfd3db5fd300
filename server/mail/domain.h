/* domain: host and domain names. Unicode to A-label by libidn2 (UTS 46 non-transitional, IDNA
 * 2008), then LDH rules: labels of 1..63, at most 253 in all, no leading or trailing hyphen, at
 * least two labels unless `single_ok`, one trailing dot removed (RFC 5321 2.3.5, RFC 1035 2.3.4,
 * RFC 5890). Thread: any. */
#pragma once

#include "server/base/arena.h"

/* The A-label form in lower case. ERR_INVALID says why. */
NODISCARD enum err domain_parse(struct str text, bool single_ok, struct arena *a, struct str *out,
                                struct errinfo *info);
/* A DKIM selector: labels with dots between (RFC 6376 3.1), which unlike a domain's may all be
 * digits ("20230601"). In lower case. ERR_INVALID says why. */
NODISCARD enum err domain_parse_selector(struct str text, struct arena *a, struct str *out,
                                         struct errinfo *info);
/* `domain` is `parent` or below it; both in A-label form. */
bool domain_is_within(struct str domain, struct str parent);
/* U-label form for people; the A-label itself when it has none. */
struct str domain_to_unicode(struct str a_label, struct arena *a);
bool domain_is_literal(struct str s); /* "[...]" */
