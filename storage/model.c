#include "storage/model.h"

static const char *const recipient_states[] = {
    [RECIPIENT_SCHEDULED] = "scheduled", [RECIPIENT_QUEUED] = "queued",
    [RECIPIENT_SENDING] = "sending",     [RECIPIENT_DELIVERED] = "delivered",
    [RECIPIENT_BOUNCED] = "bounced",     [RECIPIENT_FAILED] = "failed",
    [RECIPIENT_EXPIRED] = "expired",     [RECIPIENT_SUPPRESSED] = "suppressed",
    [RECIPIENT_CANCELED] = "canceled",
};
_Static_assert(sizeof(recipient_states) / sizeof(recipient_states[0]) == RECIPIENT_STATE_COUNT,
               "each state of a recipient has a name");

static const char *const event_types[] = {
    [EVENT_MESSAGE_ACCEPTED] = "message.accepted",
    [EVENT_MESSAGE_SCHEDULED] = "message.scheduled",
    [EVENT_MESSAGE_COMPLETED] = "message.completed",
    [EVENT_RECIPIENT_DEFERRED] = "recipient.deferred",
    [EVENT_RECIPIENT_DELIVERED] = "recipient.delivered",
    [EVENT_RECIPIENT_BOUNCED] = "recipient.bounced",
    [EVENT_RECIPIENT_FAILED] = "recipient.failed",
    [EVENT_RECIPIENT_EXPIRED] = "recipient.expired",
    [EVENT_RECIPIENT_SUPPRESSED] = "recipient.suppressed",
    [EVENT_RECIPIENT_CANCELED] = "recipient.canceled",
    [EVENT_RECIPIENT_COMPLAINED] = "recipient.complained",
    [EVENT_RECIPIENT_UNSUBSCRIBED] = "recipient.unsubscribed",
    [EVENT_WEBHOOK_DISABLED] = "webhook.disabled",
    [EVENT_WEBHOOK_TEST] = "webhook.test",
};
_Static_assert(sizeof(event_types) / sizeof(event_types[0]) == EVENT_TYPE_COUNT,
               "each type of event has a name");

const char *recipient_state_name(enum recipient_state s) {
    ASSERT((unsigned)s < RECIPIENT_STATE_COUNT);
    return recipient_states[s];
}

enum err recipient_state_parse(struct str s, enum recipient_state *out) {
    for (unsigned i = 0; i < RECIPIENT_STATE_COUNT; i++) {
        if (str_equal(s, str_of(recipient_states[i]))) {
            *out = (enum recipient_state)i;
            return OK;
        }
    }
    return ERR_INVALID;
}

bool recipient_state_is_final(enum recipient_state s) {
    return s != RECIPIENT_SCHEDULED && s != RECIPIENT_QUEUED && s != RECIPIENT_SENDING;
}

bool recipient_transition_is_legal(enum recipient_state from, enum recipient_state to) {
#define TO(state) (1u << RECIPIENT_##state)
    static const unsigned legal[RECIPIENT_STATE_COUNT] = {
        [RECIPIENT_SCHEDULED] = TO(QUEUED) | TO(EXPIRED) | TO(CANCELED),
        [RECIPIENT_QUEUED] = TO(SENDING) | TO(EXPIRED) | TO(CANCELED),
        [RECIPIENT_SENDING] = TO(QUEUED) | TO(DELIVERED) | TO(BOUNCED) | TO(FAILED),
        [RECIPIENT_DELIVERED] = TO(BOUNCED), /* the report of a later hop */
    };
#undef TO
    return (legal[from] >> to & 1u) != 0;
}

int64_t no_domain_since(int64_t before_wall_ms, const struct last_result *last, int64_t kept_ms,
                        int64_t now_wall_ms) {
    if (failure_is_no_domain(last->failure))
        return before_wall_ms != 0 ? before_wall_ms : now_wall_ms + kept_ms;
    return last->stage > STAGE_RESOLVE ? 0 : before_wall_ms;
}

const char *recipient_shown_state(const struct recipient_row *r) {
    return r->state == RECIPIENT_QUEUED && r->attempts > 0 ? "deferred"
                                                           : recipient_state_name(r->state);
}

/* What the first state in this order that any recipient has says about the whole, while something
 * is open. */
static const char *open_state(const struct recipient_row *r, size_t count) {
    bool scheduled = false, fresh = false, deferred = false;
    for (size_t i = 0; i < count; i++) {
        if (r[i].state == RECIPIENT_SENDING)
            return "sending";
        scheduled |= r[i].state == RECIPIENT_SCHEDULED;
        fresh |= r[i].state == RECIPIENT_QUEUED && r[i].attempts == 0;
        deferred |= r[i].state == RECIPIENT_QUEUED && r[i].attempts > 0;
    }
    return fresh ? "queued" : deferred ? "deferred" : scheduled ? "scheduled" : NULL;
}

const char *message_state_name(const struct recipient_row *r, size_t count) {
    ASSERT(count > 0);
    const char *open = open_state(r, count);
    if (open != NULL)
        return open;
    for (size_t i = 1; i < count; i++)
        if (r[i].state != r[0].state)
            return "partial";
    return recipient_state_name(r[0].state);
}

const char *event_type_name(enum event_type t) {
    ASSERT((unsigned)t < EVENT_TYPE_COUNT);
    return event_types[t];
}

enum err event_type_parse(struct str s, enum event_type *out) {
    for (unsigned i = 0; i < EVENT_TYPE_COUNT; i++) {
        if (str_equal(s, str_of(event_types[i]))) {
            *out = (enum event_type)i;
            return OK;
        }
    }
    return ERR_INVALID;
}

bool event_type_is_final(enum event_type t) {
    static const bool is_final[EVENT_TYPE_COUNT] = {
        [EVENT_MESSAGE_COMPLETED] = true,  [EVENT_RECIPIENT_DELIVERED] = true,
        [EVENT_RECIPIENT_BOUNCED] = true,  [EVENT_RECIPIENT_FAILED] = true,
        [EVENT_RECIPIENT_EXPIRED] = true,  [EVENT_RECIPIENT_SUPPRESSED] = true,
        [EVENT_RECIPIENT_CANCELED] = true,
    };
    return is_final[t];
}

bool event_type_is_undelivered(enum event_type t) {
    return t == EVENT_RECIPIENT_BOUNCED || t == EVENT_RECIPIENT_FAILED ||
           t == EVENT_RECIPIENT_EXPIRED || t == EVENT_RECIPIENT_SUPPRESSED;
}

const char *webhook_state_name(enum webhook_state s) {
    static const char *const names[] = {
        [WEBHOOK_ENABLED] = "enabled",
        [WEBHOOK_FAILING] = "failing",
        [WEBHOOK_DISABLED] = "disabled",
    };
    ASSERT((unsigned)s < sizeof(names) / sizeof(names[0]));
    return names[s];
}

static bool has_same_events(const struct webhook_row *a, const struct webhook_row *b) {
    bool is_same = a->event_count == b->event_count;
    for (size_t i = 0; i < a->event_count && is_same; i++)
        is_same = str_equal(a->events[i], b->events[i]);
    return is_same;
}

bool webhook_is_same(const struct webhook_row *a, const struct webhook_row *b) {
    return a->state == b->state && a->previous_until_wall_ms == b->previous_until_wall_ms &&
           str_equal(a->url, b->url) && str_equal(a->description, b->description) &&
           str_equal(a->secret, b->secret) && str_equal(a->previous_secret, b->previous_secret) &&
           has_same_events(a, b);
}

bool webhook_wants(const struct webhook_row *w, enum event_type t) {
    if (w->event_count == 0)
        return true;
    for (size_t i = 0; i < w->event_count; i++) {
        struct str e = w->events[i];
        if (str_equal(e, STR("*")) || str_equal(e, str_of(event_type_name(t))) ||
            (str_equal(e, STR("final")) && event_type_is_final(t)) ||
            (str_equal(e, STR("undelivered")) && event_type_is_undelivered(t)))
            return true;
    }
    return false;
}

const char *notification_state_name(enum notification_state s) {
    static const char *const names[] = {
        [NOTIFICATION_PENDING] = "pending",
        [NOTIFICATION_SENDING] = "sending",
        [NOTIFICATION_DELIVERED] = "delivered",
        [NOTIFICATION_FAILED] = "failed",
    };
    ASSERT((unsigned)s < sizeof(names) / sizeof(names[0]));
    return names[s];
}
