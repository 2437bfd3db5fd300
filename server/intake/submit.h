/* submit: the one door into the outbox; every way in (API, dialects, SMTP) ends here.
 *
 * A checked submission goes through rights (may this key send from there), routes (which queue each
 * recipient waits in, and whether the From domain must be verified), the staging guards, and
 * composition, and comes out as a `struct store_accept` ready to post. Nothing here waits and
 * nothing here touches the store: the caller posts, and answers 202 when the store says it is safe.
 *
 *     struct submit_input in = {.submission = &s, .settings = settings, .domains = domains, ...};
 *     struct store_accept *accept = NULL;
 *     enum submit_result r = submit_prepare(&in, &faults, arena, &accept);
 *     if (r != SUBMIT_OK) ... faults say why
 *     accept->call.reply_to = box; accept->call.done = accepted;
 *     store_post(store, &accept->call);
 *
 * Thread: any; everything in it belongs to the caller, settings and domains are immutable.
 */
#pragma once

#include "server/intake/rights.h"
#include "storage/store.h"

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
    /* chosen without being asked for when it has at least one of these, and all that it has match;
     * "acme.test" is the domain itself, "*.acme.test" every domain below it */
    struct str_list sender_domains, recipient_domains;
};

/* Thread: immutable. */
struct intake_settings {
    struct submission_limits limits;
    int64_t expires_default_ms, expires_max_ms;
    int64_t idempotency_keep_ms;
    struct intake_route *routes;
    size_t route_count;
    struct str
        default_route; /* name of one of them; absent: MX by domain, verified domain required */
    /* staging guards */
    struct str_list only_to; /* "a@b", "b" or "*.b"; none: no guard */
    struct str redirect_to;  /* "a@b": every recipient's envelope goes there; absent: no guard */
};

/* A deep copy; one reference. The staging addresses are parsed here: ERR_INVALID names what is
 * wrong with them. */
struct intake;
NODISCARD enum err intake_new(const struct intake_settings *s, struct intake **out,
                              struct errinfo *info);
struct intake *intake_ref(struct intake *i); /* Thread: any */
void intake_unref(struct intake **ip);
const struct intake_settings *intake_settings_of(const struct intake *i);

struct submit_input {
    const struct submission *submission; /* submission_check() has found no fault */
    const struct intake *intake;
    const struct rights *rights;
    const struct domains *domains;
    struct str idempotency_key; /* absent: none */
    int64_t now_wall_ms;
};

enum submit_result {
    SUBMIT_OK,
    SUBMIT_INVALID,   /* faults: 422 */
    SUBMIT_FORBIDDEN, /* faults: 403 */
    SUBMIT_TOO_LARGE, /* composed it is larger than the limit; the fault says both sizes: 413 */
};

/* SUBMIT_OK: *out lives in `a`, but for the composed content, of which it holds a reference: post
 * it, or give it to submit_discard(). */
enum submit_result submit_prepare(const struct submit_input *in, struct faults *faults,
                                  struct arena *a, struct store_accept **out);
void submit_discard(struct store_accept *accept);
