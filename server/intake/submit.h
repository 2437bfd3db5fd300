/* submit: the one door into the outbox; every way in (API, dialects, SMTP) ends here.
 *
 * A checked submission goes through rights (may this key send from there), routes (which queue each
 * recipient waits in, and whether the From domain must be verified), the staging guards, and
 * composition, and comes out as a `struct store_accept` ready to post. Nothing here waits and
 * nothing here touches the store: the caller posts, and answers 202 when the store says it is safe.
 *
 *     struct submit_input in = {.submission = &s, .intake = intake, .domains = domains, ...};
 *     struct store_accept *accept = NULL;
 *     if (submit_prepare(&in, &faults, arena, &accept) != SUBMIT_OK) ...   // faults say why
 *     accept->call.reply_to = box; accept->call.done = accepted;
 *     store_post(store, &accept->call);
 *
 * Thread: any; what goes in and comes out belongs to the caller.
 */
#pragma once

#include "server/intake/settings.h"
#include "storage/store.h"

struct submit_input {
    const struct submission *submission; /* as it came; in which submission_check() found no fault,
                                            but for submit_ask() */
    const struct intake *intake;
    const struct domains *domains;
    struct rights rights;
    struct id key_id;           /* zero: the administrator */
    struct str idempotency_key; /* absent: none */
    int64_t now_wall_ms;
};

enum submit_result {
    SUBMIT_OK,
    SUBMIT_INVALID,     /* 422: faults say what */
    SUBMIT_FORBIDDEN,   /* 403: faults say what */
    SUBMIT_TOO_LARGE,   /* 413: one fault names the limit */
    SUBMIT_UNAVAILABLE, /* 503: no memory for a message of this size */
};

/* SUBMIT_OK: *out and what it points to live in `a` and in the submission; of the composed content
 * it holds a reference, which the store takes over when it is posted, and submit_discard() drops.
 */
enum submit_result submit_prepare(const struct submit_input *in, struct faults *faults,
                                  struct arena *a, struct store_accept **out);
void submit_discard(struct store_accept *accept);

/* What to post to learn whether this submission was accepted before, under the Idempotency-Key that
 * it has: the rules of today, for which submit_prepare() or submission_check() refuse it, were not
 * those of then. ERR_NOT_FOUND: it was not. What comes lives in `a` and in the key. */
struct store_accept *submit_ask(const struct submit_input *in, struct arena *a);

/* May a stored message go again, as a new one, to those who did not get it (STORE_RETRY)? What a
 * submission would be refused for today it is refused for, too: a route that is gone, a staging
 * guard that was set since, a domain of From or Sender that has to be verified and is not any more
 * (Sender's as far as the reverse-path tells: rights_sender_domain()), a reverse-path in a domain
 * that is another project's. The key's rights are asked apart: rights_allow_stored(). false: faults
 * at "#" say why. */
bool submit_may_repeat(const struct intake *in, const struct domains *d,
                       const struct message_row *m, struct faults *faults);
