#include "server/delivery/letter.h"

#include <stdlib.h>

#include "server/delivery/site.h"

TAILQ_HEAD(letter_list, letter);

struct letters {
    struct table by_key;
    struct room *room;
    struct letter_list kept;             /* oldest first */
    struct letter_list idle[ROOM_KINDS]; /* the same; none has a slot */
    size_t kept_bytes, kept_bytes_max;
    bool is_visiting;
};

struct letters *letters_new(size_t kept_bytes_max, struct room *room) {
    struct letters *t = mem_zalloc(sizeof(*t));
    t->kept_bytes_max = kept_bytes_max;
    t->room = room;
    TAILQ_INIT(&t->kept);
    for (int i = 0; i < ROOM_KINDS; i++)
        TAILQ_INIT(&t->idle[i]);
    return t;
}

/* What came with a notice lies in the store's budget as long as the outgoing lives. Were it counted
 * here as well, what waits for a slow site could take all the room from what must be read. */
size_t letter_held_bytes(const struct letter *l) {
    return l->is_kept || l->outgoing->message != NULL ? 0 : l->held_bytes;
}

size_t letter_room_bytes(const struct letter *l) {
    if (l->outgoing->message != NULL || l->state == LETTER_ERASED)
        return 0;
    return l->held_bytes > 0 ? l->held_bytes : (size_t)l->outgoing->size_bytes;
}

static void set_held(struct letters *t, struct letter *l, size_t held_bytes, bool is_kept) {
    if (l->is_kept)
        t->kept_bytes -= l->held_bytes;
    if (l->is_idle)
        room_idle_remove(t->room, l->room, letter_held_bytes(l));
    room_remove(t->room, l->room, l->outgoing->project, letter_held_bytes(l));
    l->held_bytes = held_bytes;
    l->is_kept = is_kept;
    room_add(t->room, l->room, l->outgoing->project, letter_held_bytes(l));
    if (l->is_idle)
        room_idle_add(t->room, l->room, letter_held_bytes(l));
    if (l->is_kept)
        t->kept_bytes += l->held_bytes;
}

static void hold(struct letters *t, struct letter *l, struct message *m) {
    message_unref(&l->message);
    l->message = m;
    set_held(t, l, m != NULL ? message_size(m) : 0, l->is_kept);
}

static void set_idle(struct letters *t, struct letter *l, bool is_idle) {
    if (l->is_idle == is_idle)
        return;
    l->is_idle = is_idle;
    if (is_idle) {
        TAILQ_INSERT_TAIL(&t->idle[l->room], l, idle);
        room_idle_add(t->room, l->room, letter_held_bytes(l));
    } else {
        TAILQ_REMOVE(&t->idle[l->room], l, idle);
        room_idle_remove(t->room, l->room, letter_held_bytes(l));
    }
}

static void letter_free(struct letters *t, struct letter *l) {
    set_idle(t, l, false);
    if (l->is_kept)
        TAILQ_REMOVE(&t->kept, l, kept);
    hold(t, l, NULL);
    table_remove(&t->by_key, &l->in_table);
    outgoing_unref(&l->outgoing);
    free(l);
}

void letters_free(struct letters **tp) {
    struct letters *t = *tp;
    if (t == NULL)
        return;
    struct letter *l;
    while ((l = table_oldest(&t->by_key)) != NULL) {
        ASSERT(TAILQ_EMPTY(&l->bundles));
        letter_free(t, l);
    }
    free(t);
    *tp = NULL;
}

struct letter *letters_find(struct letters *t, int64_t seq, enum route_signing signing) {
    const struct letter_key key = {.seq = seq, .signing = signing};
    return table_find(&t->by_key, &key, sizeof(key));
}

struct letter *letters_get(struct letters *t, struct outgoing *o, enum route_signing signing) {
    struct letter *l = letters_find(t, o->seq, signing);
    if (l == NULL) {
        l = mem_zalloc(sizeof(*l));
        l->key = (struct letter_key){.seq = o->seq, .signing = signing};
        l->outgoing = outgoing_ref(o);
        l->room = room_kind_of(t->room, (size_t)o->size_bytes);
        TAILQ_INIT(&l->bundles);
        TAILQ_INIT(&l->waiting);
        table_add(&t->by_key, &l->in_table, &l->key, sizeof(l->key), l);
    }
    if (l->is_kept) {
        TAILQ_REMOVE(&t->kept, l, kept);
        set_held(t, l, l->held_bytes, false);
        set_idle(t, l, true);
    }
    l->has_retry = false;
    if (l->state == LETTER_ERASED)
        l->state = LETTER_BARE;
    if (l->state == LETTER_BARE && o->message != NULL)
        letter_set_content(t, l, message_ref(o->message));
    return l;
}

void letter_set_loading(struct letters *t, struct letter *l) {
    hold(t, l, NULL);
    set_held(t, l, (size_t)l->outgoing->size_bytes, false);
    l->state = LETTER_LOADING;
}

void letter_set_bare(struct letters *t, struct letter *l) {
    hold(t, l, NULL);
    l->state = LETTER_BARE;
}

void letter_set_content(struct letters *t, struct letter *l, struct message *m) {
    hold(t, l, m);
    if (TAILQ_EMPTY(&l->waiting)) /* who asked for it may have left */
        set_idle(t, l, l->slots == 0);
    l->key_reading = 0;
    l->key_until_mono_ms = 0;
    l->state = l->key.signing == ROUTE_SIGNING_OFF ? LETTER_READY : LETTER_UNSIGNED;
}

void letter_set_ready(struct letters *t, struct letter *l, struct message *m) {
    hold(t, l, m);
    l->state = LETTER_READY;
}

void letter_set_unsigned(struct letters *t, struct letter *l) {
    ASSERT(l->state == LETTER_READY && l->key.signing != ROUTE_SIGNING_OFF);
    l->is_outdated = false;
    if (l->outgoing->message != NULL)
        letter_set_content(t, l, message_ref(l->outgoing->message));
    else
        letter_set_bare(t, l);
}

void letters_outdate(struct letters *t, const struct signers *was, const struct signers *are) {
    struct letter *l;
    struct table_cursor c = table_begin(&t->by_key);
    while ((l = table_next(&c)) != NULL) {
        if (l->key.signing == ROUTE_SIGNING_OFF ||
            signers_are_same(was, are, l->outgoing->project, l->outgoing->from_domain,
                             l->key.signing == ROUTE_SIGNING_PUBLISHED))
            continue;
        if (l->is_kept)
            letter_free(t, l);
        else if (l->state == LETTER_READY || l->state == LETTER_SIGNING)
            l->is_outdated = true;
    }
}

static void trim(struct letters *t) {
    while (t->kept_bytes > t->kept_bytes_max)
        letter_free(t, TAILQ_FIRST(&t->kept));
}

void letter_settle(struct letters *t, struct letter **lp) {
    struct letter *l = *lp;
    *lp = NULL;
    if (l->is_kept)
        return;
    if (!TAILQ_EMPTY(&l->bundles)) {
        set_idle(t, l, l->slots == 0);
        return;
    }
    /* LOADING: the answer will look for it by its key, and throw away what it does not find */
    if (!l->has_retry || l->state != LETTER_READY || l->is_outdated) {
        letter_free(t, l);
        return;
    }
    set_held(t, l, l->held_bytes, true);
    set_idle(t, l, false);
    TAILQ_INSERT_TAIL(&t->kept, l, kept);
    struct outgoing *carrier = l->outgoing;
    l->outgoing = outgoing_without_content(carrier);
    outgoing_unref(&carrier);
    if (!t->is_visiting)
        trim(t);
}

void letter_picked(struct letters *t, struct letter *l) {
    set_idle(t, l, false);
}

void letter_unpicked(struct letters *t, struct letter *l) {
    set_idle(t, l, l->slots == 0);
}

static bool is_picked(const struct letter *l) {
    const struct bundle *b;
    TAILQ_FOREACH (b, &l->bundles, of_letter) {
        if (b->state != BUNDLE_QUEUED && b->state != BUNDLE_RESOLVING)
            return true;
    }
    return false;
}

/* Each is looked at once for every time that one of its bundles leaves, or queues again. */
static void give_up_idle(struct letters *t, struct letter *l) {
    set_idle(t, l, false);
    bool has_content = l->state == LETTER_READY || l->state == LETTER_UNSIGNED;
    if (!has_content || letter_held_bytes(l) == 0 || is_picked(l))
        return;
    l->is_outdated = false;
    letter_set_bare(t, l);
}

bool letters_make_room(struct letters *t, const struct letter *for_whom) {
    struct letter *l = TAILQ_FIRST(&t->idle[for_whom->room]);
    if (l == for_whom)
        l = TAILQ_NEXT(l, idle);
    if (l != NULL)
        give_up_idle(t, l);
    return l != NULL;
}

void letters_visit(struct letters *t, void *ctx, void (*fn)(void *ctx, struct letter *l)) {
    struct letter *l;
    struct table_cursor c = table_begin(&t->by_key);
    t->is_visiting = true; /* what is kept by the visit may push out another, even the next one */
    while ((l = table_next(&c)) != NULL)
        fn(ctx, l);
    t->is_visiting = false;
    trim(t);
}

size_t letters_kept_bytes(const struct letters *t) {
    return t->kept_bytes;
}

size_t letters_count(const struct letters *t) {
    return table_count(&t->by_key);
}
