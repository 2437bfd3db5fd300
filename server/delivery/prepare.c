/* What a picked bundle needs before it is claimed: the content, and who signs it. */
#include <stdlib.h>

#include "server/base/clock.h"
#include "server/base/log.h"
#include "server/delivery/scheduler_state.h"

enum {
    LOOK_AT_SIGNERS_MS = 2 * SITE_AHEAD_MS, /* a site that answered may hang by then */
    READINGS_FAILED_MOST = 5,               /* of domains, in a row: a second each */
    KEY_LOOK_MS = 5 * 1000,                 /* a look at DNS takes a fraction of it */
};

static const char ERASED[] = "the content of the message was erased";

struct content_call {
    struct store_content q;
    struct scheduler *s;
    int64_t seq;
    enum route_signing signing;
};

void prepare_letter_woken(struct scheduler *s, struct letter *l) {
    struct bundles woken = TAILQ_HEAD_INITIALIZER(woken), queued = TAILQ_HEAD_INITIALIZER(queued);
    TAILQ_CONCAT(&woken, &l->waiting, wait);
    struct bundle *b;
    while ((b = TAILQ_FIRST(&woken)) != NULL) {
        TAILQ_REMOVE(&woken, b, wait);
        if (b->has_slot)
            prepare_bundle(s, b);
        else
            TAILQ_INSERT_HEAD(&queued, b, wait);
    }
    while ((b = TAILQ_FIRST(&queued)) != NULL) { /* each in front: the first one last */
        TAILQ_REMOVE(&queued, b, wait);
        gather_requeue(s, b);
    }
}

struct logged {
    struct table_node in_table;
    char name[];
};
enum { LOGGED_MOST = 1000 };

/* Of the first time only, until domains are read again; and of no more than LOGGED_MOST. */
static bool is_to_be_logged(struct scheduler *s, struct str name) {
    if (table_find(&s->logged, name.p, name.n) != NULL || table_count(&s->logged) >= LOGGED_MOST)
        return false;
    struct logged *d = mem_zalloc(sizeof(*d) + name.n + 1);
    memcpy(d->name, name.p, name.n);
    table_add(&s->logged, &d->in_table, d->name, name.n, d);
    return true;
}

void prepare_forget_logged(struct scheduler *s) {
    struct logged *d;
    while ((d = table_oldest(&s->logged)) != NULL) {
        table_remove(&s->logged, &d->in_table);
        free(d);
    }
}

/* It may be this one row that cannot be read, for ever, and its queue key may be all mail's: what
 * waits for it is claimed, and released until a while later. */
static void content_refused(struct scheduler *s, struct letter *l) {
    letter_set_bare(s->letters, l);
    struct bundle *b;
    while ((b = TAILQ_FIRST(&l->waiting)) != NULL) {
        TAILQ_REMOVE(&l->waiting, b, wait);
        dispatch_give_slot(s, b);
        b->is_unreadable = true;
        dispatch_claim(s, b);
    }
}

static void content_read(struct store_call *call) {
    struct content_call *c =
        CONTAINER_OF(CONTAINER_OF(call, struct store_content, call), struct content_call, q);
    struct scheduler *s = c->s;
    s->calls--;
    struct letter *l = letters_find(s->letters, c->seq, c->signing);
    if (l != NULL && l->state == LETTER_LOADING) {
        if (call->err == OK) {
            letter_set_content(s->letters, l, c->q.message);
            c->q.message = NULL;
            prepare_letter_woken(s, l);
        } else if (call->err == ERR_NOT_FOUND) {
            letter_set_bare(s->letters, l);
            l->state = LETTER_ERASED;
            prepare_letter_woken(s, l);
        } else {
            const struct id *id = &l->outgoing->id;
            if (is_to_be_logged(s, str_make((const char *)id, sizeof(*id))))
                log_warn("delivery", "content could not be read", LOG_ID("message", id),
                         LOG_STRZ("why", call->info.text));
            content_refused(s, l);
        }
    }
    message_unref(&c->q.message);
    store_call_release(call);
    free(c);
}

static void ask_content(struct scheduler *s, struct letter *l) {
    struct content_call *c = mem_zalloc(sizeof(*c));
    c->s = s;
    c->seq = l->key.seq;
    c->signing = (enum route_signing)l->key.signing;
    c->q = (struct store_content){
        .call = {.verb = STORE_CONTENT, .reply_to = s->box, .done = content_read},
        .id = l->outgoing->id,
        .project = -1,
    };
    letter_set_loading(s->letters, l);
    s->calls++;
    store_post(s->store, &c->q.call);
}

/* Nothing is wrong with mail without a signature but its chances: said once a domain, counted
 * always. */
static void goes_unsigned(struct scheduler *s, const struct letter *l) {
    metric_add(s->metrics.unsigned_messages, 1);
    struct str name = l->outgoing->from_domain;
    if (is_to_be_logged(s, name))
        log_warn("delivery", "sent without a DKIM signature: the domain has no key",
                 LOG_STR("domain", name));
}

/* The job that signs is sent when its own site has room: it holds up no others of this site. */
static void wait_for_letter(struct scheduler *s, struct bundle *b) {
    struct letter *l = b->letter;
    b->state = BUNDLE_WAITING;
    TAILQ_INSERT_TAIL(&l->waiting, b, wait);
    if (l->signer == NULL || l->signer->site == b->site)
        return;
    dispatch_give_slot(s, b);
    if (!wakeup_is_set(&s->signers_wake))
        wakeup_set(s->wakeups, &s->signers_wake, clock_mono_ms() + LOOK_AT_SIGNERS_MS);
}

/* Mail that came after its domain's key must not go without it, and the change is noticed before
 * the mail, but read a moment later. One reading is waited for, the first that begins after the
 * letter was looked at: who changes domains all the time holds up nobody, nor does for long what
 * cannot be read. */
static bool is_key_on_its_way(struct scheduler *s, struct letter *l) {
    bool is_awaited = s->is_reading_domains || wakeup_is_set(&s->domains_wake);
    if (!is_awaited || s->readings_failed >= READINGS_FAILED_MOST)
        return false;
    if (l->key_reading == 0)
        l->key_reading = s->domain_readings + (s->reads_domains_again ? 2 : 1);
    return s->domain_readings < l->key_reading;
}

/* DNS is looked at as soon as a domain has new keys (verification.h). Those that it has are known a
 * moment later, and mail that can only be signed by them waits for that. A letter waits once: who
 * changes keys all the time holds up his own mail no longer. */
static bool is_key_looked_for(struct scheduler *s, struct letter *l) {
    int64_t now_mono_ms = clock_mono_ms();
    if (l->key.signing != ROUTE_SIGNING_PUBLISHED)
        return false;
    if (l->key_until_mono_ms == 0) {
        int64_t age_ms =
            clock_wall_ms() -
            signers_unpublished_wall_ms(s->signers, l->outgoing->project, l->outgoing->from_domain);
        bool is_new = age_ms >= 0 && age_ms < KEY_LOOK_MS;
        l->key_until_mono_ms = now_mono_ms + (is_new ? KEY_LOOK_MS - age_ms : 0);
    }
    if (now_mono_ms >= l->key_until_mono_ms)
        return false;
    if (!wakeup_is_set(&s->keys_wake))
        wakeup_set(s->wakeups, &s->keys_wake, l->key_until_mono_ms);
    return true;
}

static void look_for_key(void *ctx, struct letter *l) {
    if (l->state == LETTER_UNSIGNED && !TAILQ_EMPTY(&l->waiting))
        prepare_letter_woken(ctx, l);
}

void prepare_keys_read(struct scheduler *s) {
    letters_visit(s->letters, s, look_for_key);
}

static void proceed_unsigned(struct scheduler *s, struct bundle *b) {
    struct letter *l = b->letter;
    struct dkim_signer signer;
    bool published_only = l->key.signing == ROUTE_SIGNING_PUBLISHED;
    l->is_outdated = false;
    if (signers_find(s->signers, l->outgoing->project, l->outgoing->from_domain, published_only,
                     &signer)) {
        l->state = LETTER_SIGNING;
        l->signer = b;
    } else if (is_key_on_its_way(s, l)) {
        wait_for_letter(s, b);
        return;
    } else if (is_key_looked_for(s, l)) {
        wait_for_letter(s, b);
        dispatch_give_slot(s, b); /* it may take seconds: others of its site go on */
        return;
    } else {
        goes_unsigned(s, l);
        letter_set_ready(s->letters, l, message_ref(l->message));
    }
    dispatch_claim(s, b);
}

static bool is_signer_unsent(const struct letter *l) {
    return l->signer != NULL && l->signer->state != BUNDLE_SENT;
}

bool prepare_is_being_signed(const struct letter *l) {
    return l->signer != NULL && l->signer->state == BUNDLE_SENT;
}

/* The signer is claimed, and stands behind sessions that may hang: its site's own, or everybody's.
 */
static bool is_signer_held_up(const struct scheduler *s, const struct letter *l) {
    return is_signer_unsent(l) && (site_is_held_up(l->signer->site, clock_mono_ms()) ||
                                   !dispatch_may_begin(s, l->signer->site));
}

void prepare_signer_ready(struct scheduler *s, struct bundle *b) {
    struct letter *l = b->letter;
    if (l->signer == b && is_signer_held_up(s, l))
        prepare_letter_woken(s, l);
}

static void look_at_signer(void *ctx, struct letter *l) {
    struct scheduler *s = ctx;
    if (TAILQ_EMPTY(&l->waiting) || !is_signer_unsent(l))
        return;
    if (is_signer_held_up(s, l))
        prepare_letter_woken(s, l);
    else if (!wakeup_is_set(&s->signers_wake))
        wakeup_set(s->wakeups, &s->signers_wake, clock_mono_ms() + LOOK_AT_SIGNERS_MS);
}

void prepare_look_at_signers(void *arg) {
    struct scheduler *s = arg;
    letters_visit(s->letters, s, look_at_signer);
}

bool prepare_take_over(struct scheduler *s, struct bundle *b) {
    struct letter *l = b->letter;
    struct dkim_signer signer;
    if (l->state != LETTER_UNSIGNED && !(l->state == LETTER_SIGNING && is_signer_unsent(l)))
        return false;
    if (!signers_find(s->signers, l->outgoing->project, l->outgoing->from_domain,
                      l->key.signing == ROUTE_SIGNING_PUBLISHED, &signer))
        return false; /* it is found out, and said, when it is picked */
    l->state = LETTER_SIGNING;
    l->signer = b;
    return true;
}

/* A picked bundle goes as far as its letter is. */
void prepare_bundle(struct scheduler *s, struct bundle *b) {
    struct letter *l = b->letter;
    if (l->state == LETTER_READY && l->is_outdated)
        letter_set_unsigned(s->letters, l);
    switch (l->state) {
    case LETTER_BARE:
        ask_content(s, l);
        wait_for_letter(s, b);
        break;
    case LETTER_LOADING:
        wait_for_letter(s, b);
        break;
    case LETTER_SIGNING:
        if (is_signer_held_up(s, l) && l->signer->site != b->site) {
            l->signer = b;
            dispatch_claim(s, b);
        } else {
            wait_for_letter(s, b);
        }
        break;
    case LETTER_UNSIGNED:
        proceed_unsigned(s, b);
        break;
    case LETTER_READY:
        dispatch_claim(s, b);
        break;
    case LETTER_ERASED:
        b->is_preset = b->is_hopeless = true;
        b->text = ERASED;
        dispatch_claim(s, b);
        break;
    }
}

void prepare_signed(struct note *n) {
    struct job *j = CONTAINER_OF(n, struct job, signed_note);
    struct bundle *b = j->bundle;
    struct letter *l = b->letter;
    struct scheduler *s = b->site->owner;
    struct message *m = j->signed_message;
    j->signed_message = NULL;
    if (m != NULL)
        metric_add(s->metrics.signed_messages, 1);
    l->signer = NULL;
    if (j->is_put_off)
        l->state = LETTER_UNSIGNED; /* the next one tries */
    else
        letter_set_ready(s->letters, l, m != NULL ? m : message_ref(l->message));
    prepare_letter_woken(s, l);
}

bool prepare_has_room(struct scheduler *s, struct bundle *b) {
    if (!room_fits(s->room, b, false) && room_fits(s->room, b, true)) {
        while (letters_make_room(s->letters, b->letter) && !room_fits(s->room, b, false))
            continue;
    }
    return room_has(s->room, b, clock_mono_ms());
}
