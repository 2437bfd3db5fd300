#include "server/delivery/verification.h"

#include <sys/queue.h>

#include "server/base/clock.h"
#include "server/base/digest.h"
#include "server/base/log.h"
#include "server/base/table.h"
#include "server/base/thread.h"

enum {
    HOUR_MS = 3600 * 1000,
    MINUTE_MS = 60 * 1000,
    PARALLEL_MAX = 16,
    LOOKS_MAX = 16,
    LIST_AGAIN_MS = 1000, /* after the store refused */
};

/* What is known of one domain between two looks. */
struct watched {
    struct id id;
    int64_t due_mono_ms;
    int64_t first_mono_ms;      /* when it was first seen, or lost its records */
    int64_t new_until_mono_ms;  /* so long new keys may not be seen yet; 0: it has none */
    uint8_t keys[SHA256_BYTES]; /* names and records of those that are listed */
    bool is_verified, is_checking, is_listed;
    bool is_stored_verified;
    bool is_doubted;       /* verified, but the last look found nothing */
    uint64_t doubted_keys; /* bit i: of key i, published, the last look did not find the record */
    struct table_node in_table;
};

/* A look that somebody asked for. It lives until DNS and store are done with it, though who asked
 * may have been told before. */
struct looking {
    TAILQ_ENTRY(looking) link;
    struct verification *verification;
    struct domain_look *look; /* NULL: told */
    struct domain_check *check;
    int64_t deadline_mono_ms;
};

struct verification {
    struct verification_options o;
    struct mailbox *box;
    struct thread *thread;
    struct note quit_note, quit_done;
    struct mailbox *quit_box; /* main's */
    char *hostname;
    bool is_stopping;          /* asks nothing any more */
    bool is_ending;            /* and nobody asks it */
    bool is_listing;           /* STORE_DOMAINS is under way */
    bool list_again;           /* a notice came meanwhile */
    size_t under_way;          /* checks and store calls */
    struct store_domains list; /* the last listing */
    bool have_list;
    int64_t list_mono_ms;  /* without a list: when to ask for it again */
    struct table watched;  /* by id */
    size_t cursor;         /* in `list`: where the next round of looks goes on */
    int64_t round_mono_ms; /* nothing is due before */
    TAILQ_HEAD(, looking) looks;
    size_t look_count;
};

static struct watched *find(struct verification *v, const struct id *id) {
    return table_find(&v->watched, id, sizeof *id);
}

static void put_key(struct sha256 *h, struct str selector, struct str record) {
    uint64_t lengths[2] = {selector.n, record.n};
    sha256_put(h, lengths, sizeof lengths);
    sha256_put(h, selector.p, selector.n);
    sha256_put(h, record.p, record.n);
}

static void hash_keys_listed(const struct domain_row *row, uint8_t out[SHA256_BYTES]) {
    struct sha256 *h = sha256_new();
    for (size_t i = 0; i < row->key_count; i++)
        put_key(h, row->key[i].selector, row->key[i].record);
    sha256_finish(&h, out);
}

/* Did it look for the keys that the domain has now? */
static bool is_of_listed_keys(const struct watched *w, const struct domain_check *c) {
    uint8_t looked_for[SHA256_BYTES];
    struct sha256 *h = sha256_new();
    for (size_t i = 0; i < c->count; i++)
        if (c->record[i].kind == DOMAIN_RECORD_DKIM)
            put_key(h, c->record[i].selector, c->record[i].value);
    sha256_finish(&h, looked_for);
    return digest_equal(w->keys, looked_for, sizeof looked_for);
}

static struct watched *add(struct verification *v, const struct domain_row *row, int64_t now) {
    struct watched *w = mem_zalloc(sizeof *w);
    *w = (struct watched){.id = row->id, .due_mono_ms = now, .first_mono_ms = now};
    w->is_verified = w->is_stored_verified = row->verified_wall_ms != 0;
    hash_keys_listed(row, w->keys);
    table_add(&v->watched, &w->in_table, &w->id, sizeof w->id, w);
    return w;
}

static void forget(struct verification *v, bool all) {
    struct watched *w;
    struct table_cursor c = table_begin(&v->watched);
    while ((w = table_next(&c)) != NULL) {
        if (w->is_listed && !all)
            continue;
        table_remove(&v->watched, &w->in_table);
        free(w);
    }
}

static void set_due(struct verification *v, struct watched *w, int64_t due_mono_ms) {
    w->due_mono_ms = due_mono_ms;
    if (due_mono_ms < v->round_mono_ms)
        v->round_mono_ms = due_mono_ms;
}

static int64_t period(const struct verification *v, const struct watched *w, int64_t now) {
    if (w->is_verified && now >= w->new_until_mono_ms)
        return v->o.verified_ms;
    return now - w->first_mono_ms < HOUR_MS ? v->o.first_ms : v->o.later_ms;
}

/* ---- storing what was found ---- */

struct storing {
    struct store_domain_checked q;
    struct verification *verification;
    struct domain_check *check;
    struct str *published, *unknown;
    struct looking *looking; /* NULL: nobody asked for it */
};

static void look_is_over(struct looking *l);

/* What was found is not in the store, so that it is not known: it is looked at again soon. */
static void find_out_again(struct verification *v, struct watched *w, bool found_verified) {
    int64_t due_mono_ms = clock_mono_ms() + v->o.first_ms;
    w->is_verified = w->is_stored_verified;
    w->is_doubted = w->is_verified && !found_verified; /* it was, before it was believed */
    if (due_mono_ms < w->due_mono_ms)
        set_due(v, w, due_mono_ms);
}

static void on_stored(struct store_call *call) {
    struct store_domain_checked *q = CONTAINER_OF(call, struct store_domain_checked, call);
    struct storing *s = CONTAINER_OF(q, struct storing, q);
    struct watched *w = find(s->verification, &q->id);
    if (call->err == OK) {
        if (w)
            w->is_stored_verified = q->is_verified;
    } else if (call->err != ERR_NOT_FOUND) { /* deleted meanwhile */
        log_warn("verification", "not stored", LOG_STR("domain", s->check->domain),
                 LOG_STRZ("why", call->info.text));
        if (w)
            find_out_again(s->verification, w, q->is_verified);
    }
    s->verification->under_way--;
    store_call_release(call);
    if (s->looking)
        look_is_over(s->looking);
    domain_check_free(&s->check);
    free(s->published);
    free(s->unknown);
    free(s);
}

static bool has_bit(uint64_t bits, size_t i) {
    return i < 64 && (bits >> i & 1) != 0;
}

/* What is not known, or is doubted, leaves its key as it was. */
static void put_selectors(struct storing *s, const struct domain_check *c, uint64_t doubted_keys) {
    s->q.published = s->published = mem_zalloc((c->count + 1) * sizeof *s->published);
    s->q.unknown = s->unknown = mem_zalloc((c->count + 1) * sizeof *s->unknown);
    for (size_t i = 0; i < c->count; i++) {
        const struct domain_record *r = &c->record[i];
        if (r->kind != DOMAIN_RECORD_DKIM)
            continue;
        if (r->is_ok)
            s->published[s->q.published_count++] = r->selector;
        else if (r->failure != FAILURE_NONE || has_bit(doubted_keys, i))
            s->unknown[s->q.unknown_count++] = r->selector;
    }
}

/* What somebody asked for is stored as it was found. */
static void store_result(struct verification *v, struct domain_check *c, struct looking *looking) {
    const struct watched *w = find(v, &c->id);
    struct storing *s = mem_zalloc(sizeof *s);
    s->verification = v;
    s->check = c;
    s->looking = looking;
    s->q.call =
        (struct store_call){.verb = STORE_DOMAIN_CHECKED, .reply_to = v->box, .done = on_stored};
    s->q.id = c->id;
    s->q.project = c->project;
    s->q.is_verified = c->is_verified;
    s->q.now_wall_ms = clock_wall_ms();
    put_selectors(s, c, w && !looking ? w->doubted_keys : 0);
    v->under_way++;
    store_post(v->o.store, &s->q.call);
}

static bool is_worth_storing(const struct verification *v, const struct domain_check *c) {
    return (c->is_verified || c->is_conclusive) && !v->is_stopping;
}

static void take_result(struct verification *v, const struct domain_check *c) {
    int64_t now = clock_mono_ms();
    struct watched *w = find(v, &c->id);
    if (w) {
        if (c->is_verified || c->is_conclusive) {
            if (!w->is_verified && c->is_verified) {
                log_info("verification", "domain verified", LOG_STR("domain", c->domain));
            } else if (w->is_verified && !c->is_verified) {
                log_warn("verification", "domain not verified any more, MX routes refuse its mail",
                         LOG_STR("domain", c->domain));
                w->first_mono_ms = now;
            }
            w->is_verified = c->is_verified;
            w->is_doubted = false;
            w->new_until_mono_ms = 0;
        }
        /* what somebody asked for with keys that were replaced is stored, and may be wrong */
        bool is_open = w->is_verified && (!c->is_conclusive || w->doubted_keys != 0);
        int64_t wait_ms = is_open ? v->o.first_ms : period(v, w, now);
        set_due(v, w, is_of_listed_keys(w, c) ? now + wait_ms : now);
    }
}

/* That a verified domain has no records is believed the second time, as that a recipient's domain
 * is not there: one name server of several may be behind, and all mail of the domain would be
 * refused. Records of new keys take longer to be seen everywhere. */
static bool is_to_be_doubted(struct verification *v, const struct domain_check *c) {
    struct watched *w = find(v, &c->id);
    int64_t now = clock_mono_ms();
    if (!w || !w->is_verified || c->is_verified || !c->is_conclusive ||
        (w->is_doubted && now >= w->new_until_mono_ms))
        return false;
    if (!w->is_doubted)
        log_warn("verification",
                 "the records of a verified domain are not there, looked at again soon",
                 LOG_STR("domain", c->domain));
    w->is_doubted = true;
    set_due(v, w, now + v->o.first_ms);
    return true;
}

/* Of a domain that has another key, too: its mail goes on, but signed by fewer. */
static void doubt_keys(struct watched *w, const struct domain_check *c) {
    uint64_t before = w->doubted_keys;
    w->doubted_keys = 0;
    for (size_t i = 0; c->is_verified && i < c->count && i < 64; i++) {
        const struct domain_record *r = &c->record[i];
        if (!r->was_published || r->is_ok)
            continue;
        if (r->failure != FAILURE_NONE) {
            w->doubted_keys |= before & (uint64_t)1 << i;
        } else if (has_bit(before, i)) {
            log_warn("verification", "a DKIM key is not published any more, MX mail goes without",
                     LOG_STR("domain", c->domain), LOG_STR("selector", r->selector));
        } else {
            log_warn("verification",
                     "the record of a published DKIM key is not there, looked at again soon",
                     LOG_STR("domain", c->domain), LOG_STR("selector", r->selector));
            w->doubted_keys |= (uint64_t)1 << i;
        }
    }
}

static void on_checked(struct domain_check *c, void *ctx) {
    struct verification *v = ctx;
    struct watched *w = find(v, &c->id);
    v->under_way--;
    if (w)
        w->is_checking = false;
    if (w && !is_of_listed_keys(w, c)) { /* they were replaced meanwhile */
        set_due(v, w, clock_mono_ms());
        domain_check_free(&c);
        return;
    }
    if (is_to_be_doubted(v, c)) {
        domain_check_free(&c);
        return;
    }
    if (w)
        doubt_keys(w, c);
    take_result(v, c);
    if (is_worth_storing(v, c))
        store_result(v, c, NULL);
    else
        domain_check_free(&c);
}

/* ---- looks that are asked for ---- */

static void told(struct note *n) {
    struct domain_look *look = CONTAINER_OF(n, struct domain_look, note);
    look->done(look);
}

static void tell(struct domain_look *look, enum err err) {
    look->err = err;
    look->note.run = told;
    mailbox_send(look->reply_to, &look->note);
}

/* Copies what is known, perhaps not all of it, and tells it. */
static void tell_known(struct looking *l) {
    struct domain_look *look = l->look;
    const struct domain_check *c = l->check;
    struct arena *a = arena_new();
    look->arena = a;
    look->count = c->count;
    look->record = ARENA_ARRAY(a, struct domain_record, c->count + 1);
    look->is_verified = c->is_verified;
    look->is_conclusive = c->is_conclusive;
    for (size_t i = 0; i < c->count; i++) {
        look->record[i] = c->record[i];
        look->record[i].selector = arena_dup(a, c->record[i].selector);
        look->record[i].name = arena_dup(a, c->record[i].name);
        look->record[i].value = arena_dup(a, c->record[i].value);
        look->record[i].found = arena_dup(a, c->record[i].found);
    }
    l->look = NULL;
    tell(look, OK);
}

/* DNS and store are done with it. */
static void look_is_over(struct looking *l) {
    struct verification *v = l->verification;
    if (l->look)
        tell_known(l);
    TAILQ_REMOVE(&v->looks, l, link);
    v->look_count--;
    free(l);
}

static void on_looked(struct domain_check *c, void *ctx) {
    struct looking *l = ctx;
    struct verification *v = l->verification;
    v->under_way--;
    take_result(v, c);
    if (is_worth_storing(v, c)) {
        store_result(v, c, l);
    } else {
        look_is_over(l);
        domain_check_free(&c);
    }
}

/* A look as it crosses to the thread. Thread: whoever has it. */
struct asking {
    struct note note;
    struct verification *verification;
    struct domain_look *look;
};

static void asked(struct note *n) {
    struct asking *a = CONTAINER_OF(n, struct asking, note);
    struct verification *v = a->verification;
    struct domain_look *look = a->look;
    free(a);
    if (v->is_stopping || v->look_count >= LOOKS_MAX) {
        tell(look, v->is_stopping ? ERR_UNAVAILABLE : ERR_AGAIN);
        return;
    }
    struct looking *l = mem_zalloc(sizeof *l);
    l->verification = v;
    l->look = look;
    l->deadline_mono_ms = clock_mono_ms() + look->timeout_ms;
    TAILQ_INSERT_TAIL(&v->looks, l, link);
    v->look_count++;
    v->under_way++;
    l->check = domain_check_start(v->o.dns, look->row, str_of(v->hostname), v->box, on_looked, l);
}

void verification_look(struct verification *v, struct domain_look *look) {
    struct asking *a = mem_zalloc(sizeof *a);
    a->note.run = asked;
    a->verification = v;
    a->look = look;
    mailbox_send(v->box, &a->note);
}

/* Tells those whose time is over; returns when the next one's is, or `next`. */
static int64_t tell_late(struct verification *v, int64_t now, int64_t next) {
    struct looking *l;
    TAILQ_FOREACH (l, &v->looks, link) {
        if (l->look && (l->deadline_mono_ms <= now || v->is_stopping))
            tell_known(l);
        else if (l->look && l->deadline_mono_ms < next)
            next = l->deadline_mono_ms;
    }
    return next;
}

/* ---- the listing ---- */

static void ask_list(struct verification *v);

static void replace_keys(struct verification *v, struct watched *w, const struct domain_row *row,
                         int64_t now) {
    uint8_t keys[SHA256_BYTES];
    hash_keys_listed(row, keys);
    if (digest_equal(w->keys, keys, sizeof keys))
        return;
    memcpy(w->keys, keys, sizeof keys);
    w->is_verified = w->is_stored_verified = row->verified_wall_ms != 0;
    w->is_doubted = false;
    w->doubted_keys = 0;
    w->first_mono_ms = now;
    w->new_until_mono_ms = now + v->o.verified_ms;
    set_due(v, w, now); /* until they are found, MX mail is not signed */
}

static void on_list(struct store_call *call) {
    struct store_domains *q = CONTAINER_OF(call, struct store_domains, call);
    struct verification *v = CONTAINER_OF(q, struct verification, list);
    int64_t now = clock_mono_ms();
    v->is_listing = false;
    v->have_list = call->err == OK;
    if (!v->have_list)
        log_warn("verification", "domains could not be read", LOG_STRZ("why", call->info.text));
    v->list_mono_ms = now + LIST_AGAIN_MS;
    struct watched *old;
    struct table_cursor c = table_begin(&v->watched);
    while ((old = table_next(&c)) != NULL)
        old->is_listed = false;
    for (size_t i = 0; v->have_list && i < q->count; i++) {
        struct watched *w = find(v, &q->domain[i].id);
        if (w)
            replace_keys(v, w, &q->domain[i], now);
        else
            w = add(v, &q->domain[i], now);
        w->is_listed = true;
    }
    if (v->have_list)
        forget(v, false); /* what is not listed any more */
    v->round_mono_ms = 0;
    if (v->list_again)
        ask_list(v);
}

static void ask_list(struct verification *v) {
    if (v->is_listing || v->is_stopping) {
        v->list_again = true;
        return;
    }
    if (v->list.call.verb == STORE_DOMAINS)
        store_call_release(&v->list.call);
    v->list_again = v->have_list = false;
    v->is_listing = true;
    v->list = (struct store_domains){
        .call = {.verb = STORE_DOMAINS, .reply_to = v->box, .done = on_list}, .project = -1};
    store_post(v->o.store, &v->list.call);
}

static void on_notice(struct store_notice *n) {
    struct verification *v = n->ctx;
    store_notice_free(&n);
    ask_list(v);
}

/* ---- the thread ---- */

/* Starts what is due. Each answer brings us here, so there may be no way through all domains each
 * time: a round that has no slot left goes on where it was, and after a whole one is rest until
 * something is due. */
static void start_due(struct verification *v, int64_t now) {
    if (!v->have_list || v->is_stopping || now < v->round_mono_ms)
        return;
    int64_t next = now + MINUTE_MS;
    for (size_t n = 0; n < v->list.count; n++) {
        if (v->under_way >= PARALLEL_MAX)
            return;
        if (v->cursor >= v->list.count)
            v->cursor = 0;
        struct domain_row *row = &v->list.domain[v->cursor++];
        struct watched *w = find(v, &row->id);
        if (!w || w->is_checking)
            continue;
        if (w->due_mono_ms > now) {
            next = w->due_mono_ms < next ? w->due_mono_ms : next;
            continue;
        }
        w->is_checking = true;
        v->under_way++;
        domain_check_start(v->o.dns, row, str_of(v->hostname), v->box, on_checked, v);
    }
    v->round_mono_ms = next;
}

/* How long there is nothing to do, unless something comes in. */
static int work(struct verification *v) {
    int64_t now = clock_mono_ms(), next = now + MINUTE_MS;
    start_due(v, now);
    if (!v->have_list && !v->is_listing && !v->is_stopping) {
        if (v->list_mono_ms <= now)
            ask_list(v);
        else
            next = v->list_mono_ms;
    }
    if (v->round_mono_ms > now && v->round_mono_ms < next)
        next = v->round_mono_ms;
    return (int)(tell_late(v, now, next) - now);
}

static void quit_now(struct note *n) {
    struct verification *v = CONTAINER_OF(n, struct verification, quit_note);
    v->is_stopping = true;
    mailbox_send(v->quit_box, &v->quit_done);
}

static void nothing(struct note *n) {
    (void)n;
}

static void run(void *arg) {
    struct verification *v = arg;
    ask_list(v);
    while (!v->is_ending || v->is_listing || v->under_way > 0) {
        int wait_ms = work(v);
        mailbox_wait(v->box, v->is_stopping ? -1 : wait_ms);
    }
}

static void end_now(struct note *n) {
    CONTAINER_OF(n, struct verification, quit_note)->is_ending = true;
}

struct verification *verification_start(const struct verification_options *o) {
    struct verification *v = mem_zalloc(sizeof *v);
    v->o = *o;
    v->o.first_ms = o->first_ms ? o->first_ms : MINUTE_MS;
    v->o.later_ms = o->later_ms ? o->later_ms : 10 * MINUTE_MS;
    v->o.verified_ms = o->verified_ms ? o->verified_ms : HOUR_MS;
    v->hostname = str_dupz(str_of(o->hostname ? o->hostname : ""));
    v->box = mailbox_new();
    TAILQ_INIT(&v->looks);
    store_watch(o->store, NOTICE_DOMAINS, v->box, on_notice, v);
    v->thread = thread_start("verification", run, v);
    return v;
}

void verification_quit(struct verification *v) {
    if (!v || v->quit_box)
        return;
    store_unwatch(v->o.store, v->box);
    v->quit_box = mailbox_new();
    v->quit_note.run = quit_now;
    v->quit_done.run = nothing;
    mailbox_send(v->box, &v->quit_note);
    while (mailbox_wait(v->quit_box, -1) == 0)
        ;
}

void verification_stop(struct verification **vp) {
    struct verification *v = *vp;
    *vp = NULL;
    if (!v)
        return;
    verification_quit(v);
    v->quit_note.run = end_now;
    mailbox_send(v->box, &v->quit_note);
    thread_join(&v->thread);
    if (v->list.call.verb == STORE_DOMAINS)
        store_call_release(&v->list.call);
    mailbox_free(&v->quit_box);
    mailbox_free(&v->box);
    forget(v, true);
    free(v->hostname);
    free(v);
}
