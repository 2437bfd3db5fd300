/* dkim_sign: DKIM-Signature fields for a composed message (RFC 6376, 8301, 8463; K lines).
 * relaxed/relaxed, oversigned, no l=, t= set, RSA and Ed25519 together. Pure but for OpenSSL.
 * Thread: any; keys are immutable and shared. */
#pragma once

#include "server/mail/dkim_key.h"
#include "server/mail/message.h"

enum { DKIM_KEYS_MAX = 4 };

struct dkim_signer {
    struct str domain; /* d=, A-label */
    struct {
        struct str selector;
        struct dkim_key *key; /* borrowed */
    } keys[DKIM_KEYS_MAX];
    size_t key_count;
};

/* A new signed message (one reference, the caller's); `m` keeps its own. ERR_INVALID: no From in
 * the header. */
NODISCARD enum err dkim_sign(struct message *m, const struct dkim_signer *signer, int64_t wall_ms,
                             struct message **out, struct errinfo *info);
