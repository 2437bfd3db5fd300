#include <stdlib.h>

#include "server/base/clock.h"
#include "server/base/limits.h"
#include "server/base/log.h"
#include "server/delivery/scheduler_state.h"

/* ---- bundles ----------------------------------------------------------------------------------
 */

struct str gather_domain_of(struct str email) {
    size_t at = email.n;
    while (at > 0 && email.p[at - 1] != '@')
        at--;
    return str_from(email, at);
}

void gather_free_bundle(struct scheduler *s, struct bundle *b) {
    ASSERT(TAILQ_EMPTY(&b->items) && b->letter->signer != b);
    dispatch_give_slot(s, b);
    room_left(s->room, b);
    TAILQ_REMOVE(&b->letter->bundles, b, of_letter);
    letter_settle(s->letters, &b->letter);
    if (b->hop != NULL)
        b->hop->users--;
    site_release(&b->site);
    free(b);
}

/* From whatever list its state says. Claimed ones cannot be unlinked. */
static void unlink_bundle(struct bundle *b) {
    switch (b->state) {
    case BUNDLE_RESOLVING:
        TAILQ_REMOVE(&b->hop->waiting, b, wait);
        break;
    case BUNDLE_QUEUED:
        site_unqueue(b->site, b);
        break;
    case BUNDLE_WAITING:
        TAILQ_REMOVE(&b->letter->waiting, b, wait);
        break;
    case BUNDLE_CLAIMING:
    case BUNDLE_READY:
    case BUNDLE_SENT:
        ASSERT(false); /* a claimed bundle is not dropped */
    }
}

static bool is_unclaimed(const struct bundle *b) {
    return b->state == BUNDLE_RESOLVING || b->state == BUNDLE_QUEUED || b->state == BUNDLE_WAITING;
}

void gather_take_out(struct scheduler *s, struct due_item *i) {
    struct bundle *b = i->bundle;
    TAILQ_REMOVE(&b->items, i, link);
    b->count--;
    due_drop(s->due, &i);
    if (b->count > 0 || !is_unclaimed(b))
        return;
    unlink_bundle(b);
    gather_free_bundle(s, b);
}

/* All of it leaves memory; the bundle is gone after it. */
static void evict(struct scheduler *s, struct bundle *b) {
    size_t left = b->count;
    while (left-- > 0)
        gather_take_out(s, TAILQ_FIRST(&b->items));
}

static void park_key(struct scheduler *s, struct str key, int64_t until_mono_ms) {
    due_park(s->due, key, until_mono_ms);
    if (!wakeup_is_set(&s->unpark_wake) || s->unpark_wake.at_mono_ms > until_mono_ms)
        wakeup_set(s->wakeups, &s->unpark_wake, until_mono_ms);
}

static void evict_and_park(struct scheduler *s, struct bundle *b, int64_t until_mono_ms) {
    struct due_item *i;
    TAILQ_FOREACH (i, &b->items, link) {
        park_key(s, i->row.queue_key, until_mono_ms);
    }
    evict(s, b);
}

void gather_unpark(void *arg) {
    struct scheduler *s = arg;
    int64_t next_mono_ms;
    if (due_unpark(s->due, clock_mono_ms(), &next_mono_ms) > 0)
        s->has_more = true;
    if (next_mono_ms != 0)
        wakeup_set(s->wakeups, &s->unpark_wake, next_mono_ms);
}

/* Mail keeps the key that it was accepted with: that of a route which leads elsewhere by now may
 * stand for many sites. */
static bool are_keys_its_own(const struct bundle *b) {
    const struct route *r = b->hop->route->route;
    const struct due_item *i;
    TAILQ_FOREACH (i, &b->items, link) {
        struct str own = r->kind == ROUTE_MX ? gather_domain_of(i->row.email) : str_of(r->name);
        if (!str_equal(i->row.queue_key, own))
            return false;
    }
    return true;
}

/* All mail goes by this smarthost route: whatever the key, nobody shares it. */
static bool is_only_way(const struct scheduler *s, const struct bundle *b) {
    return s->settings->route_count == 1 && b->hop->route->route->kind != ROUTE_MX;
}

/* Its site is dead until then. Where its hop leads elsewhere by now, that is nothing to it. Parked,
 * a key that is not its own would hold up others; not parked, it would be loaded again at once: it
 * is claimed, and released until the site is alive. */
static void pause_bundle(struct scheduler *s, struct bundle *b, int64_t until_mono_ms) {
    if (b->hop->site != b->site) {
        unlink_bundle(b);
        gather_place_anew(s, b);
    } else if (are_keys_its_own(b) || is_only_way(s, b)) {
        evict_and_park(s, b, until_mono_ms);
    } else {
        unlink_bundle(b);
        dispatch_claim(s, b);
    }
}

void gather_pause_site(struct scheduler *s, struct site *site) {
    struct bundle *b;
    while ((b = site_first_queued(site)) != NULL)
        pause_bundle(s, b, site->window.dead_until_mono_ms);
}

static void evict_letter(void *ctx, struct letter *l) {
    struct scheduler *s = ctx;
    struct bundle *b, *next;
    /* the last one takes the letter with it: `next` is read before */
    for (b = TAILQ_FIRST(&l->bundles); b != NULL; b = next) {
        next = TAILQ_NEXT(b, of_letter);
        if (is_unclaimed(b))
            evict(s, b);
    }
}

void gather_evict_all(struct scheduler *s) {
    struct site *site;
    struct table_cursor c = table_begin(&s->sites.by_key);
    while ((site = table_next(&c)) != NULL) {
        struct bundle *b;
        while ((b = site_first_queued(site)) != NULL)
            evict(s, b);
    }
    letters_visit(s->letters, s, evict_letter);
    memset(s->load_at, 0, sizeof(s->load_at));
    s->has_more = true;
}

/* ---- from a row to a bundle --------------------------------------------------------------------
 */

static void queued(struct scheduler *s, struct bundle *b) {
    if (window_is_dead(&b->site->window, clock_mono_ms()))
        pause_bundle(s, b, b->site->window.dead_until_mono_ms);
    else
        dispatch_make_runnable(s, b->site);
}

/* Its bundle is in the site's queue, or goes there. False: it has no place there, and is to leave
 * memory. */
static bool enter_site(struct scheduler *s, const struct site *site, struct due_item *i) {
    bool has_place = due_enter_site(s->due, i, site->key);
    s->are_busy = s->are_busy || !has_place;
    return has_place;
}

/* Who has no place at its site leaves memory. False: these were all, and the bundle is gone. */
static bool enter_all(struct scheduler *s, struct bundle *b) {
    bool is_gone = false;
    struct due_item *i, *next;
    for (i = TAILQ_FIRST(&b->items); i != NULL; i = next) {
        next = TAILQ_NEXT(i, link);
        if (enter_site(s, b->site, i))
            continue;
        is_gone = b->count == 1;
        gather_take_out(s, i);
    }
    return !is_gone;
}

/* Where its hop's resolution says. The bundle may be gone after it. */
static void place(struct scheduler *s, struct bundle *b) {
    struct hop *h = b->hop;
    if (h->hosts == NULL) {
        b->is_preset = true;
        b->failure = h->failure;
        b->asked_wall_ms = h->asked_wall_ms;
        b->kept_ms = h->kept_ms;
        dispatch_claim(s, b);
        return;
    }
    b->site = h->site;
    b->site->users++;
    b->state = BUNDLE_QUEUED;
    fair_push(b->site->waiting, &b->fair);
    if (enter_all(s, b))
        queued(s, b);
}

/* Where its hop's answer says, or to those that wait for one. The bundle may be gone after it. */
static void find_place(struct scheduler *s, struct bundle *b, int64_t now_boot_ms) {
    struct hop *h = b->hop;
    if (hop_is_usable(h, now_boot_ms)) {
        place(s, b);
    } else {
        b->state = BUNDLE_RESOLVING;
        TAILQ_INSERT_TAIL(&h->waiting, b, wait);
    }
    if (!hop_is_fresh(h, now_boot_ms))
        hop_resolve(s->hops, h, now_boot_ms);
}

void gather_place_anew(struct scheduler *s, struct bundle *b) {
    struct due_item *i;
    TAILQ_FOREACH (i, &b->items, link) {
        due_leave_site(s->due, i);
    }
    room_left(s->room, b);
    site_release(&b->site);
    find_place(s, b, clock_boot_ms());
}

void gather_requeue(struct scheduler *s, struct bundle *b) {
    b->state = BUNDLE_QUEUED;
    letter_unpicked(s->letters, b->letter);
    fair_undo_pick(b->site->waiting, &b->fair);
    queued(s, b);
}

void gather_resolved(void *ctx, struct hop *h) {
    struct scheduler *s = ctx;
    site_release(&h->site);
    if (h->hosts != NULL) {
        h->site = sites_get(&s->sites, h->site_name, h->site_tag, h->route->route, s->workers);
        if (h->settings == s->settings) /* else it was asked before a reload */
            site_set_limits(h->site, h->route->route);
        if (h->site->owner == NULL) {
            h->site->owner = s;
            wakeup_init(&h->site->wake, dispatch_site_woken, h->site);
        }
    }
    struct bundle *b;
    while ((b = TAILQ_FIRST(&h->waiting)) != NULL) {
        TAILQ_REMOVE(&h->waiting, b, wait);
        place(s, b);
    }
}

void gather_hop_dropped(void *ctx, struct hop *h) {
    (void)ctx;
    site_release(&h->site);
}

static struct bundle *find_bundle(const struct letter *l, const struct hop *h) {
    struct bundle *b;
    TAILQ_FOREACH (b, &l->bundles, of_letter) {
        unsigned most = b->site != NULL ? b->site->recipients_most : SITE_RECIPIENTS_MAX;
        if (b->hop == h && b->count < most &&
            (b->state == BUNDLE_RESOLVING || b->state == BUNDLE_QUEUED))
            return b;
    }
    return NULL;
}

static void add_item(struct bundle *b, struct due_item *i) {
    TAILQ_INSERT_TAIL(&b->items, i, link);
    i->bundle = b;
    b->count++;
    b->fair.cost = b->count;
}

static struct bundle *new_bundle(struct letter *l, struct hop *h, struct due_item *first) {
    struct bundle *b = mem_zalloc(sizeof(*b));
    b->letter = l;
    b->hop = h;
    b->fair.lane = l->outgoing->lane;
    b->fair.project = l->outgoing->project;
    b->fair.since_ms = first->row.due_wall_ms;
    TAILQ_INIT(&b->items);
    TAILQ_INSERT_TAIL(&l->bundles, b, of_letter);
    add_item(b, first);
    if (h != NULL)
        h->users++;
    return b;
}

static void bundle_up(struct scheduler *s, struct due_item *i, int64_t now_mono_ms) {
    struct outgoing *o = i->row.outgoing;
    struct str domain = gather_domain_of(i->row.email);
    const struct settings_route *r =
        o->is_test ? settings_choose_sandbox(s->settings, o->route)
                   : settings_choose(s->settings, o->route, o->from_domain, domain);
    struct letter *l =
        letters_get(s->letters, o, r != NULL ? r->route->signing : ROUTE_SIGNING_OFF);
    if (hops_are_many(s->hops))
        scheduler_forget_unused(s, now_mono_ms);
    struct hop *h = r != NULL ? hops_get(s->hops, s->settings, r, domain) : NULL;
    struct bundle *b = h != NULL ? find_bundle(l, h) : NULL;
    if (b != NULL) {
        if (b->site == NULL || enter_site(s, b->site, i))
            add_item(b, i);
        else
            due_drop(s->due, &i);
        return;
    }
    b = new_bundle(l, h, i);
    if (h == NULL) {
        /* its route was taken out of the settings: it waits, and the reason can be read */
        b->is_preset = true;
        b->is_hopeless = o->is_test;
        b->text = o->is_test ? DISPATCH_NO_SANDBOX
                             : "the route that the message asks for is not configured";
        dispatch_claim(s, b);
        return;
    }
    find_place(s, b, clock_boot_ms());
}

/* Takes what is in the row when it is taken. */
static bool gather_row(struct scheduler *s, struct due_row *row, int64_t now_mono_ms,
                       int64_t now_wall_ms) {
    if (s->is_draining)
        return false;
    if (row->due_wall_ms > now_wall_ms) {
        gather_due_at(s, row->due_wall_ms);
        return false;
    }
    if (s->is_regathering) {
        s->has_more = true;
        return false;
    }
    struct due_item *i;
    switch (due_put(s->due, row, now_mono_ms, &i)) {
    case DUE_TAKEN:
        bundle_up(s, i, now_mono_ms);
        return due_find(s->due, row->key) != NULL; /* its site may be dead, or have no room */
    case DUE_FULL:
        s->has_more = true;
        return false;
    case DUE_KNOWN:
        /* Its result is stored already, and made due again by somebody, before we hear of it. */
        if (due_find(s->due, row->key)->bundle == NULL)
            s->has_more = true;
        return false;
    case DUE_PARKED: /* found again when its time comes */
        return false;
    }
    return false;
}

/* ---- notices -----------------------------------------------------------------------------------
 */

static void gone(struct scheduler *s, recipient_key_t key) {
    struct due_item *i = due_find(s->due, key);
    /* a claimed one is ours: the store lets nobody else end it */
    if (i != NULL && i->bundle != NULL && is_unclaimed(i->bundle))
        gather_take_out(s, i);
}

void gather_notice(struct store_notice *n) {
    struct scheduler *s = n->ctx;
    int64_t now_mono_ms = clock_mono_ms(), now_wall_ms = clock_wall_ms();
    if (!s->is_ended) {
        switch (n->kind) {
        case NOTICE_DUE:
            for (size_t i = 0; i < n->due_count; i++)
                (void)gather_row(s, &n->due[i], now_mono_ms, now_wall_ms);
            break;
        case NOTICE_GONE:
            for (size_t i = 0; i < n->due_count; i++)
                gone(s, n->due[i].key);
            break;
        case NOTICE_DOMAINS:
            scheduler_domains_changed(s);
            break;
        case NOTICE_HEALTH:
            scheduler_read_health(s);
            break;
        case NOTICE_MESSAGE:
        case NOTICE_NOTIFY:
        case NOTICE_KEYS:
        case NOTICE_WEBHOOKS:
            break;
        }
    }
    store_notice_free(&n);
}

/* ---- loading ------------------------------------------------------------------------------------
 */

struct load_call {
    struct store_due q;
    struct scheduler *s;
    struct arena *arena; /* names of skipped keys, and this */
};

void gather_due_at(struct scheduler *s, int64_t due_wall_ms) {
    if (s->next_due_wall_ms == 0 || due_wall_ms < s->next_due_wall_ms)
        s->next_due_wall_ms = due_wall_ms;
}

static void loaded(struct store_call *c) {
    struct load_call *l =
        CONTAINER_OF(CONTAINER_OF(c, struct store_due, call), struct load_call, q);
    struct scheduler *s = l->s;
    int64_t now_mono_ms = clock_mono_ms(), now_wall_ms = clock_wall_ms();
    size_t taken = 0;
    s->calls--;
    s->is_loading = false;
    if (c->err == OK) {
        s->has_more = s->has_more || l->q.more;
        for (size_t i = 0; i < l->q.count; i++) {
            struct due_row *row = &l->q.due[i];
            if (!due_left_meanwhile(s->due, row->key))
                taken += gather_row(s, row, now_mono_ms, now_wall_ms);
            if (row->outgoing != NULL)
                due_row_release(row);
        }
        if (l->q.next_due_wall_ms != 0)
            gather_due_at(s, l->q.next_due_wall_ms);
        memcpy(s->load_at, l->q.at, sizeof(s->load_at));
    } else {
        s->has_more = true;
        log_warn("delivery", "due recipients could not be read", LOG_STRZ("why", c->info.text));
    }
    due_load_ends(s->due);
    if (c->err == OK && l->q.more)
        due_want_more(s->due);
    bool is_vain = taken == 0 && s->has_more && !s->is_regathering;
    s->load_after_mono_ms = now_mono_ms + (is_vain ? LOAD_VAIN_MS : LOAD_SPACING_MS);
    store_call_release(c);
    struct arena *a = l->arena;
    arena_free(&a);
}

static void load(struct scheduler *s, int64_t now_mono_ms, int64_t now_wall_ms) {
    struct arena *a = arena_new();
    struct load_call *l = ARENA_NEW(a, struct load_call);
    l->arena = a;
    l->s = s;
    struct str *skip = ARENA_ARRAY(a, struct str, SKIP_KEYS_MOST);
    bool with_busy = now_mono_ms >= s->load_busy_mono_ms;
    size_t skips = due_skip_keys(s->due, with_busy, skip, SKIP_KEYS_MOST, &s->are_busy);
    if (with_busy)
        s->load_busy_mono_ms = now_mono_ms + LOAD_BUSY_MS;
    for (size_t i = 0; i < skips; i++)
        skip[i] = arena_dup(a, skip[i]);
    l->q = (struct store_due){
        .call = {.verb = STORE_DUE, .reply_to = s->box, .done = loaded},
        .until_wall_ms = now_wall_ms,
        .skip_key = skip,
        .skip_count = skips,
        .per_key = LIMIT_DUE_PER_KEY,
        .most = due_room(s->due),
    };
    memcpy(l->q.at, s->load_at, sizeof(l->q.at));
    s->calls++;
    s->is_loading = true;
    s->has_more = false;
    s->next_due_wall_ms = 0;
    s->load_safety_mono_ms = now_mono_ms + LOAD_SAFETY_MS;
    due_load_begins(s->due);
    store_post(s->store, &l->q.call);
}

void gather_load_if_needed(struct scheduler *s) {
    if (s->is_regathering && (s->claims_open > 0 || s->releases > 0 || s->is_loading))
        return; /* the answers bring us here again */
    s->is_regathering = false;
    if (s->is_loading || !scheduler_may_claim(s))
        return;
    int64_t now_mono_ms = clock_mono_ms(), now_wall_ms = clock_wall_ms();
    if (due_take_thirst(s->due)) {
        s->has_more = true;
        s->load_after_mono_ms = now_mono_ms;
    }
    /* What fills memory may be slow for long: others are looked for all the same, less often. */
    int64_t crowded_mono_ms = s->load_safety_mono_ms - LOAD_SAFETY_MS + LOAD_CROWDED_MS;
    int64_t after_mono_ms = s->load_after_mono_ms;
    if (due_is_crowded(s->due) && after_mono_ms < crowded_mono_ms)
        after_mono_ms = crowded_mono_ms;
    bool has_due = s->next_due_wall_ms != 0 && s->next_due_wall_ms <= now_wall_ms;
    bool busy_is_due = s->are_busy && now_mono_ms >= s->load_busy_mono_ms;
    bool is_wanted = s->has_more || has_due || busy_is_due || now_mono_ms >= s->load_safety_mono_ms;
    int64_t at_mono_ms = s->load_safety_mono_ms;
    if (s->are_busy && s->load_busy_mono_ms < at_mono_ms)
        at_mono_ms = s->load_busy_mono_ms;
    if (due_room(s->due) == 0)
        return; /* the end of a job brings us here again */
    if (is_wanted && now_mono_ms >= after_mono_ms) {
        load(s, now_mono_ms, now_wall_ms);
        return;
    }
    if (is_wanted) {
        at_mono_ms = after_mono_ms;
    } else if (s->next_due_wall_ms != 0) {
        int64_t due_mono_ms = now_mono_ms + (s->next_due_wall_ms - now_wall_ms);
        if (due_mono_ms < at_mono_ms)
            at_mono_ms = due_mono_ms;
    }
    wakeup_set(s->wakeups, &s->load_wake, at_mono_ms);
}
