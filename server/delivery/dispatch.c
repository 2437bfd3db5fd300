#include <stdlib.h>

#include "server/base/clock.h"
#include "server/base/log.h"
#include "server/delivery/scheduler_state.h"

enum {
    EXPIRED_AGAIN_MS = 30 * 1000,
    RESERVE = 16,     /* of so many transactions one is for sites that have none */
    LOOKS_MOST = 256, /* in vain, for room, in a turn of a site */
    ASKS_MOST = 16,   /* those that found none before */
    ASKS_EVERY_MS = 20,
};

const char DISPATCH_NO_SANDBOX[] = "a test message goes to a sandbox only, and there is none";

/* ---- slots -------------------------------------------------------------------------------------
 */

void dispatch_make_runnable(struct scheduler *s, struct site *site) {
    if (site->is_runnable)
        return;
    site->is_runnable = true;
    TAILQ_INSERT_TAIL(&s->runnable, site, runnable);
}

void dispatch_give_slot(struct scheduler *s, struct bundle *b) {
    if (!b->has_slot)
        return;
    site_give_slot(b->site, b);
    room_given(s->room, b);
    dispatch_make_runnable(s, b->site);
}

void dispatch_site_woken(void *arg) {
    struct site *site = arg;
    dispatch_make_runnable(site->owner, site);
}

static void park(struct scheduler *s, struct site *site, int64_t until_mono_ms) {
    site->parked_until_mono_ms = until_mono_ms;
    wakeup_set(s->wakeups, &site->wake, until_mono_ms);
}

/* Back into its site's queue, in front: it was picked and cannot go on. */
static void put_back(struct scheduler *s, struct bundle *b) {
    site_give_slot(b->site, b);
    room_given(s->room, b);
    b->state = BUNDLE_QUEUED;
    fair_push_front(b->site->waiting, &b->fair);
}

/* ---- claims ------------------------------------------------------------------------------------
 */

struct claim_call {
    struct store_claim q;
    struct scheduler *s;
    struct bundles bundles;
    recipient_key_t *key;
    bool *is_claimed;
};

void dispatch_claim(struct scheduler *s, struct bundle *b) {
    b->state = BUNDLE_CLAIMING;
    TAILQ_INSERT_TAIL(&s->claims, b, wait);
    s->claim_count += b->count;
}

/* Its letter can be signed by the next one. */
static void is_signer_no_more(struct scheduler *s, struct bundle *b) {
    if (b->letter->signer != b)
        return;
    b->letter->signer = NULL;
    b->letter->state = LETTER_UNSIGNED;
    prepare_letter_woken(s, b->letter);
}

static void claim_failed(struct scheduler *s, struct bundle *b) {
    if (b->has_slot && !s->is_draining) {
        put_back(s, b);
        is_signer_no_more(s, b);
        letter_unpicked(s->letters, b->letter);
        dispatch_make_runnable(s, b->site);
        return;
    }
    s->has_more = true; /* it has no queue to go back to, or nobody serves it: the store has it */
    is_signer_no_more(s, b);
    b->state = BUNDLE_CLAIMING;
    while (b->count > 0)
        gather_take_out(s, TAILQ_FIRST(&b->items));
    gather_free_bundle(s, b);
}

static bool is_expired(struct scheduler *s, const struct bundle *b) {
    return b->letter->outgoing->expires_wall_ms <= scheduler_expiry_wall_ms(s);
}

/* Never late: the sweep ends it, which may take some seconds. */
static void release_expired(struct scheduler *s, struct bundle *b) {
    dispatch_release_bundle(s, b, clock_wall_ms() + EXPIRED_AGAIN_MS);
}

/* It died since; or it was dead, and the bundle was claimed, without a slot, to be put off. */
static void release_from_dead(struct scheduler *s, struct bundle *b) {
    int64_t left_ms = b->site->window.dead_until_mono_ms - clock_mono_ms();
    dispatch_release_bundle(s, b, b->has_slot ? DUE_AS_BEFORE : clock_wall_ms() + left_ms);
}

/* It may be damaged for ever, or until somebody puts back a copy of the store. */
static void release_unreadable(struct scheduler *s, struct bundle *b) {
    int64_t now_wall_ms = clock_wall_ms();
    int64_t age_ms = now_wall_ms - b->letter->outgoing->created_wall_ms;
    dispatch_release_bundle(s, b, now_wall_ms + settle_uncounted_ms(age_ms));
}

static bool is_of_old_settings(const struct scheduler *s, const struct bundle *b) {
    return b->hop != NULL && b->hop->settings != s->settings;
}

static void bundle_claimed(struct scheduler *s, struct bundle *b) {
    if (b->count == 0) { /* all were canceled meanwhile */
        is_signer_no_more(s, b);
        gather_free_bundle(s, b);
    } else if (s->is_draining || is_of_old_settings(s, b)) {
        dispatch_release_bundle(s, b, DUE_AS_BEFORE);
    } else if (is_expired(s, b)) {
        release_expired(s, b);
    } else if (b->is_preset) {
        settle_preset(s, b);
    } else if (b->is_unreadable) {
        release_unreadable(s, b);
    } else if (window_is_dead(&b->site->window, clock_mono_ms())) {
        release_from_dead(s, b);
    } else {
        b->state = BUNDLE_READY;
        fair_push(b->site->ready, &b->fair);
        dispatch_make_runnable(s, b->site);
        prepare_signer_ready(s, b);
    }
}

static void claimed(struct store_call *call) {
    struct claim_call *c =
        CONTAINER_OF(CONTAINER_OF(call, struct store_claim, call), struct claim_call, q);
    struct scheduler *s = c->s;
    s->calls--;
    s->claims_open--;
    if (call->err != OK) {
        log_warn("delivery", "recipients could not be claimed", LOG_STRZ("why", call->info.text));
        scheduler_block(s);
    }
    size_t at = 0;
    struct bundle *b;
    while ((b = TAILQ_FIRST(&c->bundles)) != NULL) {
        TAILQ_REMOVE(&c->bundles, b, wait);
        if (call->err != OK) {
            claim_failed(s, b);
            continue;
        }
        struct due_item *i, *next;
        for (i = TAILQ_FIRST(&b->items); i != NULL; i = next) {
            next = TAILQ_NEXT(i, link);
            if (!c->is_claimed[at++])
                gather_take_out(s, i);
        }
        bundle_claimed(s, b);
    }
    store_call_release(call);
    free(c->key);
    free(c->is_claimed);
    free(c);
}

/* One call for the bundles at the front, up to CLAIM_KEYS_MOST recipients. */
static void post_claim(struct scheduler *s) {
    struct claim_call *c = mem_zalloc(sizeof(*c));
    c->s = s;
    TAILQ_INIT(&c->bundles);
    size_t room = s->claim_count < CLAIM_KEYS_MOST ? s->claim_count : CLAIM_KEYS_MOST;
    c->key = mem_zalloc((room + SITE_RECIPIENTS_MAX) * sizeof(*c->key));
    size_t n = 0;
    struct bundle *b;
    while (n < room && (b = TAILQ_FIRST(&s->claims)) != NULL) {
        TAILQ_REMOVE(&s->claims, b, wait);
        TAILQ_INSERT_TAIL(&c->bundles, b, wait);
        struct due_item *i;
        TAILQ_FOREACH (i, &b->items, link) {
            c->key[n++] = i->row.key;
        }
    }
    s->claim_count -= n;
    c->is_claimed = mem_zalloc((n + 1) * sizeof(*c->is_claimed));
    c->q = (struct store_claim){
        .call = {.verb = STORE_CLAIM, .reply_to = s->box, .done = claimed},
        .key = c->key,
        .count = n,
        .now_wall_ms = clock_wall_ms(),
        .is_claimed = c->is_claimed,
    };
    s->calls++;
    s->claims_open++;
    store_post(s->store, &c->q.call);
}

void dispatch_flush_claims(struct scheduler *s) {
    while (!TAILQ_EMPTY(&s->claims))
        post_claim(s);
}

void dispatch_release_bundle(struct scheduler *s, struct bundle *b, int64_t due_wall_ms) {
    is_signer_no_more(s, b);
    struct due_item *items[SITE_RECIPIENTS_MAX];
    size_t n = 0;
    struct due_item *i;
    TAILQ_FOREACH (i, &b->items, link) {
        items[n++] = i;
    }
    TAILQ_INIT(&b->items);
    b->count = 0;
    settle_release(s, items, n, due_wall_ms);
    gather_free_bundle(s, b);
}

void dispatch_release_ready(struct scheduler *s, struct site *site) {
    struct fair_entry *e;
    while ((e = fair_first(site->ready)) != NULL) {
        fair_remove(site->ready, e);
        dispatch_release_bundle(s, CONTAINER_OF(e, struct bundle, fair), DUE_AS_BEFORE);
    }
}

/* ---- picking and sending -----------------------------------------------------------------------
 */

/* A long queue may get no new rows for hours, which would ask. This one goes by the old answer. */
static void look_up_when_old(struct scheduler *s, struct hop *h) {
    int64_t now_boot_ms = clock_boot_ms();
    if (!hop_is_fresh(h, now_boot_ms))
        hop_resolve(s->hops, h, now_boot_ms);
}

/* Its hop leads elsewhere by now, or nowhere, or its hosts are a day old: what happened there would
 * be booked here, or it would go to an address that may be somebody else's. */
static bool is_out_of_place(const struct bundle *b) {
    return b->hop->site != b->site || clock_boot_ms() >= b->hop->hosts_until_boot_ms;
}

static bool may_pick(const struct scheduler *s, const struct site *site) {
    return scheduler_may_claim(s) && site->picked < site_slots(site);
}

static void take(struct scheduler *s, struct site *site, struct bundle *b) {
    site_pick_slot(site, b);
    letter_picked(s->letters, b->letter);
    room_taken(s->room, b, clock_mono_ms());
    prepare_bundle(s, b);
}

/* Who waits for room longest of all is asked each time; where the slots are taken it gets one more
 * as soon as there is some, or others would pass it as long as they like. */
static void look_at_first(struct scheduler *s, struct site *site, enum room_kind kind) {
    struct bundle *b = room_first(s->room, kind);
    if (b == NULL || b->site != site || !b->wants_room || site->picked > site_slots(site) ||
        !prepare_has_room(s, b))
        return;
    if (may_pick(s, site)) {
        site_set_waiting(site, b);
        return;
    }
    site_unqueue(site, b);
    if (is_out_of_place(b))
        gather_place_anew(s, b);
    else
        take(s, site, b);
}

/* Those that have room by now wait with the others again, each at its place: which of them goes is
 * told by its lane and its project, not by who was asked. They are asked in turn, but the oldest
 * first: by asking it gets the place of who waits longest, and the others leave it the room. */
static void look_for_room(struct scheduler *s, struct site *site) {
    int64_t now_mono_ms = clock_mono_ms();
    for (int kind = 0; kind < ROOM_KINDS && scheduler_may_claim(s); kind++)
        look_at_first(s, site, (enum room_kind)kind);
    if (!may_pick(s, site) || now_mono_ms < site->asked_mono_ms + ASKS_EVERY_MS)
        return;
    site->asked_mono_ms = now_mono_ms;
    site_put_oldest_first(site);
    size_t asks = site->roomless_count < ASKS_MOST ? site->roomless_count : ASKS_MOST;
    for (; asks > 0; asks--) {
        struct bundle *b = TAILQ_FIRST(&site->roomless);
        if (prepare_has_room(s, b))
            site_set_waiting(site, b);
        else
            site_set_roomless(site, b);
    }
}

/* One of them is first, or may be picked: it is looked at again in the next turn. */
static bool is_anybody_asked_again(const struct scheduler *s, const struct site *site) {
    for (int kind = 0; kind < ROOM_KINDS; kind++) {
        const struct bundle *b = room_first(s->room, (enum room_kind)kind);
        if (b != NULL && b->site == site && b->wants_room)
            return true;
    }
    return site->roomless_count > 0 && may_pick(s, site);
}

/* Who has no room for its content is passed by those that need none, or less. */
static void pick(struct scheduler *s, struct site *site) {
    look_for_room(s, site);
    size_t in_vain = 0;
    while (may_pick(s, site) && in_vain < LOOKS_MOST) {
        struct fair_entry *e = fair_pick(site->waiting, site_slots(site), site->picked_lane);
        if (e == NULL)
            break;
        struct bundle *b = CONTAINER_OF(e, struct bundle, fair);
        look_up_when_old(s, b->hop);
        if (is_out_of_place(b)) {
            gather_place_anew(s, b);
            continue;
        }
        if (prepare_has_room(s, b)) {
            take(s, site, b);
        } else {
            fair_undo_pick(site->waiting, &b->fair); /* it pays for no turn */
            site_set_roomless(site, b);
            in_vain++;
        }
    }
    if (is_anybody_asked_again(s, site))
        dispatch_make_runnable(s, site);
}

/* The stored one, or, where it is of From's domain, the bounce address which that has by now. A
 * Sender's of another domain stays; so does <>: a bounce must not bounce. */
static struct str reverse_path_of(const struct scheduler *s, const struct outgoing *o) {
    struct str bounce = signers_bounce_address(s->signers, o->project, o->from_domain);
    bool is_froms = str_equal(gather_domain_of(o->mail_from), o->from_domain);
    return is_froms && !str_is_empty(bounce) ? bounce : o->mail_from;
}

static struct job *job_of(struct scheduler *s, struct bundle *b) {
    struct arena *a = arena_new();
    struct job *j = ARENA_NEW(a, struct job);
    const struct outgoing *o = b->letter->outgoing;
    j->arena = a;
    j->bundle = b;
    j->hosts = host_list_ref(b->hop->hosts);
    j->signers = signers_ref(s->signers);
    j->message = message_ref(b->letter->message);
    j->sign = b->letter->signer == b;
    j->published_only = b->letter->key.signing == ROUTE_SIGNING_PUBLISHED;
    j->message_id = o->id;
    j->mail_from = reverse_path_of(s, o);
    j->project = o->project;
    j->from_domain = o->from_domain;
    j->tls = o->tls;
    j->needs_smtputf8 = o->needs_smtputf8;
    j->recipients_most = b->site->recipients_most;
    j->recipient = ARENA_ARRAY(a, struct job_recipient, b->count);
    struct due_item *i;
    TAILQ_FOREACH (i, &b->items, link) {
        j->recipient[j->count++] =
            (struct job_recipient){.email = i->row.email, .key = i->row.key, .item = i};
    }
    return j;
}

static void start_job(struct scheduler *s, struct site *site, struct bundle *b,
                      int64_t now_mono_ms) {
    struct job *j = job_of(s, b);
    j->loop = site_choose_loop(site, s->workers);
    j->site = site;
    if (j->sign)
        b->letter->is_outdated = false; /* it signs by the keys as they are now */
    j->share = site_share(site, j->loop, s->workers, now_mono_ms);
    j->expires_mono_ms =
        now_mono_ms + b->letter->outgoing->expires_wall_ms - scheduler_expiry_wall_ms(s);
    b->state = BUNDLE_SENT;
    site->sent++;
    site->sent_lane[b->fair.lane]++;
    site->sent_loop[j->loop]++;
    s->jobs++;
    j->is_unproven = !site->window.is_proven;
    s->jobs_unproven += j->is_unproven;
    worker_send(s->worker[j->loop], j);
}

/* The last look before it leaves. Whatever chose its route, and whenever: a test message goes to no
 * other kind. */
static bool may_leave(const struct bundle *b) {
    return !b->letter->outgoing->is_test || b->hop->route->route->kind == ROUTE_SANDBOX;
}

/* May another transaction begin with this site, for all that there are? Sites that never answer
 * hold theirs for minutes: all of those that have not shown yet that they take mail leave a quarter
 * to those that have, and nobody but the first of each gets into the second half. What those have
 * that take mail is not counted for it; but they, too, may hang: the last sixteenth is for the
 * first transaction of a site alone. However busy others are, somebody new has a chance. */
bool dispatch_may_begin(const struct scheduler *s, const struct site *site) {
    size_t most = s->settings->o.sessions_max;
    bool is_first = site->sent == 0;
    size_t most_unproven = is_first ? most - most / 4 : most / 2;
    size_t most_here = is_first || most < 2 ? most : most - (most + RESERVE - 1) / RESERVE;
    return s->jobs < most_here && (site->window.is_proven || s->jobs_unproven < most_unproven);
}

/* What waits in loops takes no room that somebody might need for a transaction. */
static unsigned sends_most(const struct scheduler *s, const struct site *site,
                           int64_t now_mono_ms) {
    bool is_crowded = s->jobs >= s->settings->o.sessions_max / 2;
    return is_crowded ? site->window.size : site_sends_most(site, s->workers, now_mono_ms);
}

/* It is signed, or signs; else keys have changed since it was claimed. */
static bool can_be_signed(struct scheduler *s, struct bundle *b) {
    return b->letter->signer == b || letter_is_ready(b->letter) || prepare_take_over(s, b);
}

static void send_ready(struct scheduler *s, struct site *site, int64_t now_mono_ms) {
    unsigned most;
    while (site->sent < (most = sends_most(s, site, now_mono_ms)) && dispatch_may_begin(s, site)) {
        struct fair_entry *e = fair_pick(site->ready, most, site->sent_lane);
        if (e == NULL)
            return;
        struct bundle *b = CONTAINER_OF(e, struct bundle, fair);
        int64_t wait_us;
        if (is_expired(s, b)) {
            release_expired(s, b);
        } else if (is_out_of_place(b)) {
            dispatch_release_bundle(s, b, DUE_AS_BEFORE);
        } else if (prepare_is_being_signed(b->letter)) {
            fair_undo_pick(site->ready, e);
            dispatch_make_runnable(s, site); /* for the turn that the signature begins */
            return;
        } else if (!can_be_signed(s, b)) {
            dispatch_release_bundle(s, b, DUE_AS_BEFORE);
        } else if (!may_leave(b)) {
            log_error("delivery", "a test message was on its way to a real route",
                      LOG_ID("message", &b->letter->outgoing->id),
                      LOG_STRZ("route", b->hop->route->route->name));
            b->is_preset = b->is_hopeless = true;
            b->text = DISPATCH_NO_SANDBOX;
            is_signer_no_more(s, b);
            settle_preset(s, b);
        } else if (!limit_take(&site->limit, clock_mono_us(), 1, &wait_us)) {
            fair_undo_pick(site->ready, e);
            park(s, site, clock_mono_ms() + wait_us / 1000 + 1);
            return;
        } else {
            start_job(s, site, b, now_mono_ms);
        }
    }
    if (fair_count(site->ready) > 0 && site->sent < most)
        dispatch_make_runnable(s, site); /* the whole server's limit: in the next turn */
}

static void run_site(struct scheduler *s, struct site *site) {
    int64_t now_mono_ms = clock_mono_ms();
    if (window_is_dead(&site->window, now_mono_ms)) {
        wakeup_set(s->wakeups, &site->wake, site->window.dead_until_mono_ms);
        return;
    }
    if (site->parked_until_mono_ms > now_mono_ms) {
        /* set already, unless it died meanwhile and is alive again: it has one wakeup for both */
        wakeup_set(s->wakeups, &site->wake, site->parked_until_mono_ms);
        return;
    }
    send_ready(s, site, now_mono_ms);
    if (site->parked_until_mono_ms <= now_mono_ms)
        pick(s, site);
}

void dispatch_runnable(struct scheduler *s) {
    struct site_list now = TAILQ_HEAD_INITIALIZER(now);
    TAILQ_CONCAT(&now, &s->runnable, runnable);
    struct site *site;
    while ((site = TAILQ_FIRST(&now)) != NULL) {
        TAILQ_REMOVE(&now, site, runnable);
        site->is_runnable = false;
        run_site(s, site);
    }
}
