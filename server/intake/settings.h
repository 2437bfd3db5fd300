/* settings: what the operator decided about accepting mail, as an immutable snapshot.
 *
 *     struct intake *intake;
 *     if (intake_new(&settings, &intake, &info) != OK) ...   // info.field is the setting
 *     intake_unref(&intake);
 *
 * Thread: immutable; ref and unref from any.
 */
#pragma once

#include "server/intake/rights.h"

enum intake_route_kind { INTAKE_ROUTE_MX, INTAKE_ROUTE_SMARTHOST, INTAKE_ROUTE_SANDBOX };

struct str_list {
    struct str *list;
    size_t count;
};

/* One way out. The queue key of a recipient is the route's name for smarthost and sandbox, the
 * recipient's domain for MX. */
struct intake_route {
    struct str name;
    enum intake_route_kind kind;
    bool requires_verified_domain;
    /* Chosen without being asked for when it has at least one of these, and all that it has match;
     * "acme.test" is the domain itself, "*.acme.test" every domain below it. */
    struct str_list sender_domains, recipient_domains;
};

struct intake_settings {
    struct submission_limits limits;
    int64_t expires_default_ms, expires_max_ms;
    int64_t idempotency_keep_ms;
    struct intake_route *routes;
    size_t route_count;
    /* Name of one of them; absent: MX by domain, verified domain required. */
    struct str default_route;
    /* staging guards */
    struct str_list only_to; /* "a@b", "b" or "*.b"; none: no guard */
    struct str redirect_to;  /* "a@b": every recipient's envelope goes there; absent: no guard */
};

struct intake;
/* A deep copy with domains and addresses parsed; one reference. ERR_INVALID: info->field is the
 * setting that is wrong. */
NODISCARD enum err intake_new(const struct intake_settings *s, struct intake **out,
                              struct errinfo *info);
struct intake *intake_ref(struct intake *in);
void intake_unref(struct intake **ip);
const struct intake_settings *intake_settings_of(const struct intake *in);
/* NULL: no route of this name. */
const struct intake_route *intake_route_find(const struct intake *in, struct str name);
