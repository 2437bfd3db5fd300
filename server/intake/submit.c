#include "server/intake/submit.h"

#include "server/base/random.h"
#include "server/mail/compose.h"
#include "server/mail/domain.h"
#include "server/render/value.h"

/* One submission on its way through. */
struct work {
    const struct submit_input *in;
    const struct intake_settings *settings;
    struct faults *faults;
    struct arena *arena;
    struct recipient_row *row;
    struct str *queue_key;
    size_t count;
    bool needs_verified_domain;
};

/* ---- routes ---- */

static bool any_covers(const struct str_list *rules, struct str domain) {
    for (size_t i = 0; i < rules->count; i++)
        if (rights_rule_covers(rules->list[i], domain))
            return true;
    return false;
}

static bool matches_by_rule(const struct intake_route *r, struct str from, struct str to) {
    if (r->sender_domains.count == 0 && r->recipient_domains.count == 0)
        return false;
    return (r->sender_domains.count == 0 || any_covers(&r->sender_domains, from)) &&
           (r->recipient_domains.count == 0 || any_covers(&r->recipient_domains, to));
}

static const struct intake_route *sandbox_of(const struct intake_settings *s) {
    for (size_t i = 0; i < s->route_count; i++)
        if (s->routes[i].kind == INTAKE_ROUTE_SANDBOX)
            return &s->routes[i];
    return NULL;
}

/* Without any route: to the MX of each domain, which only a verified sender may use. */
static const struct intake_route by_mx = {.kind = INTAKE_ROUTE_MX,
                                          .requires_verified_domain = true};

/* In the place of one that is missing, which is a fault already: what else is wrong is told with
 * it. */
static const struct intake_route none = {.kind = INTAKE_ROUTE_SANDBOX};

static const struct intake_route *or_none(const struct intake_route *route) {
    return route != NULL ? route : &none;
}

/* A test key never sends for real, whatever it asks for. */
static const struct intake_route *route_for(const struct work *w, struct str domain) {
    const struct submission *s = w->in->submission;
    if (w->in->rights.is_test)
        return or_none(sandbox_of(w->settings));
    if (!str_is_absent(s->route))
        return or_none(intake_route_find(w->in->intake, s->route));
    for (size_t i = 0; i < w->settings->route_count; i++)
        if (matches_by_rule(&w->settings->routes[i], s->from.domain, domain))
            return &w->settings->routes[i];
    if (!str_is_absent(w->settings->default_route))
        return intake_route_find(w->in->intake, w->settings->default_route);
    return &by_mx;
}

static void check_route(const struct work *w) {
    const struct submission *s = w->in->submission;
    if (!str_is_absent(s->route) && intake_route_find(w->in->intake, s->route) == NULL)
        faults_add(w->faults, STR("#/route"), "route_unknown", "there is no route named %.*s",
                   STR_ARG(s->route));
    if (w->in->rights.is_test && sandbox_of(w->settings) == NULL)
        faults_add(w->faults, STR("#"), "sandbox_unavailable",
                   "a test key sends to the sandbox only, and there is none: the server needs a "
                   "route of kind sandbox, as routes: [ {name: box, kind: sandbox} ] in its YAML "
                   "file");
}

/* ---- recipients ---- */

static bool only_to_allows(const struct intake_settings *s, const struct address *addr) {
    for (size_t i = 0; i < s->only_to.count; i++) {
        struct str rule = s->only_to.list[i];
        bool is_address = str_find_char(rule, '@') >= 0;
        if (is_address ? str_equal(rule, addr->email) : rights_rule_covers(rule, addr->domain))
            return true;
    }
    return s->only_to.count == 0;
}

/* One mailbox gets one copy, however often it is named. */
static bool is_there(const struct work *w, struct str email) {
    for (size_t i = 0; i < w->count; i++)
        if (str_equal(w->row[i].email, email))
            return true;
    return false;
}

static void add_row(struct work *w, struct str email, struct str domain, enum recipient_kind kind) {
    if (is_there(w, email))
        return;
    const struct intake_route *route = route_for(w, domain);
    w->needs_verified_domain |= route->requires_verified_domain;
    w->queue_key[w->count] = route->kind == INTAKE_ROUTE_MX ? domain : route->name;
    w->row[w->count++] = (struct recipient_row){
        .email = email,
        .kind = kind,
        .state = RECIPIENT_QUEUED,
        .due_wall_ms = w->in->now_wall_ms,
        .updated_wall_ms = w->in->now_wall_ms,
    };
}

static void add_recipients(struct work *w, const struct address_list *list,
                           enum recipient_kind kind, const char *name) {
    for (size_t i = 0; i < list->count; i++) {
        const struct address *addr = &list->list[i];
        struct str redirect = w->settings->redirect_to;
        if (!str_is_absent(redirect)) {
            ptrdiff_t at = (ptrdiff_t)redirect.n - 1;
            while (redirect.p[at] != '@')
                at--;
            add_row(w, redirect, str_from(redirect, (size_t)at + 1), RECIPIENT_TO);
        } else if (!only_to_allows(w->settings, addr)) {
            faults_add(w->faults, arena_printf(w->arena, "#/%s/%zu", name, i),
                       "recipient_not_allowed",
                       "this server delivers to a list of recipients only, and %.*s is not on it",
                       STR_ARG(addr->email));
        } else {
            add_row(w, addr->email, addr->domain, kind);
        }
    }
}

/* ---- the message ---- */

static struct str mail_from_of(const struct submit_input *in) {
    const struct submission *s = in->submission;
    const struct address *who = str_is_absent(s->sender.email) ? &s->from : &s->sender;
    struct str bounce = domains_bounce_address(in->domains, in->rights.project, who->domain);
    return str_is_absent(bounce) ? who->email : bounce;
}

static void check_domain(const struct work *w, struct str domain, struct str pointer) {
    const struct domain_info *d = domains_find(w->in->domains, w->in->rights.project, domain);
    if (d == NULL)
        faults_add(w->faults, pointer, "domain_unknown",
                   "%.*s is not one of your domains: add it to /v1/domains and publish its records",
                   STR_ARG(domain));
    else if (!d->is_verified)
        faults_add(w->faults, pointer, "domain_not_verified",
                   "the records of %.*s were not found in DNS yet", STR_ARG(domain));
}

/* From, and Sender as well: the reverse-path is the Sender's (T11). */
static void check_verified(const struct work *w) {
    const struct submission *s = w->in->submission;
    if (!w->needs_verified_domain || w->in->rights.is_test)
        return;
    check_domain(w, s->from.domain, STR("#/from"));
    if (!str_is_absent(s->sender.email) && !str_equal(s->sender.domain, s->from.domain))
        check_domain(w, s->sender.domain, STR("#/sender"));
}

static struct str printed(struct arena *a, struct buf *b) {
    ASSERT(buf_status(b) == OK || mem_is_short());
    struct str s = b->n > 0 ? arena_dup(a, buf_str(b)) : STR_NONE;
    buf_release(b);
    return s;
}

/* Every ceiling of tags and metadata is far below these. */
enum { JSON_TEXT_MAX = 1024 * 1024 };

static struct str tags_of(const struct submission *s, struct arena *a) {
    struct buf b = BUF_INIT(JSON_TEXT_MAX);
    value_print_strings(s->tags, s->tag_count, &b);
    return printed(a, &b);
}

static struct str metadata_of(const struct submission *s, struct arena *a) {
    struct buf b = BUF_INIT(JSON_TEXT_MAX);
    value_print_pairs(s->metadata, s->metadata_count, &b);
    return printed(a, &b);
}

static int64_t expires_wall_ms(const struct work *w) {
    int64_t in_ms = w->in->submission->expires_in_ms;
    int64_t most_ms = w->settings->expires_max_ms;
    if (in_ms > most_ms) {
        faults_add(w->faults, STR("#/expires_in"), "out_of_range",
                   "at most %lld seconds on this server", (long long)(most_ms / 1000));
        in_ms = most_ms;
    }
    return w->in->now_wall_ms + (in_ms > 0 ? in_ms : w->settings->expires_default_ms);
}

/* Delivery chooses anew when it is due: a test key's message names its route, so that it goes to
 * the same sandbox while that is there; that it goes to no other kind is the mark's doing. */
static struct str route_name(const struct work *w) {
    return w->in->rights.is_test ? sandbox_of(w->settings)->name : w->in->submission->route;
}

static void fill_message(const struct work *w, const struct composed *c, struct id id,
                         struct store_accept *out) {
    const struct submit_input *in = w->in;
    const struct submission *s = in->submission;
    out->message = (struct message_row){
        .id = id,
        .project = in->rights.project,
        .key_id = in->key_id,
        .created_wall_ms = in->now_wall_ms,
        .expires_wall_ms = expires_wall_ms(w),
        .message_id = arena_dup(w->arena, str_of(c->message_id_field)),
        /* the snapshot of domains can end before the store is done */
        .mail_from = arena_dup(w->arena, mail_from_of(in)),
        .from_email = s->from.email,
        .from_name = s->from.name,
        .from_domain = s->from.domain,
        .subject = s->subject,
        .external_id = s->external_id,
        .tags_json = tags_of(s, w->arena),
        .metadata_json = metadata_of(s, w->arena),
        .route = arena_dup(w->arena, route_name(w)),
        .tls = s->tls,
        .needs_smtputf8 = c->needs_smtputf8,
        .has_content = true,
        .is_test = in->rights.is_test,
        .size_bytes = (int64_t)message_size(c->message),
        .lane = LANE_TRANSACTIONAL,
        .recipient_count = w->count,
        .recipient = w->row,
    };
}

static enum submit_result compose_it(const struct work *w, struct store_accept *out) {
    const struct submit_input *in = w->in;
    struct compose_input ci = {
        .submission = in->submission,
        .id = id_new(in->now_wall_ms),
        .date_wall_ms = in->now_wall_ms,
        .message_bytes_max = w->settings->limits.message_bytes_max,
    };
    random_bytes(ci.seed, sizeof(ci.seed));
    struct composed c = {0};
    struct errinfo info = {0};
    mem_forget_short();
    enum err e = compose(&ci, &c, &info);
    if (e == ERR_LIMIT) {
        faults_add(w->faults, STR("#"), "message_too_large",
                   "composed, the message is larger than the %zu bytes that are allowed",
                   ci.message_bytes_max);
        return SUBMIT_TOO_LARGE;
    }
    if (e == ERR_UNAVAILABLE)
        return SUBMIT_UNAVAILABLE;
    if (e != OK) {
        faults_add(w->faults, STR("#"), "not_composable", "%s", info.text);
        return SUBMIT_INVALID;
    }
    fill_message(w, &c, ci.id, out);
    if (mem_is_short()) { /* tags or metadata may be cut off */
        message_unref(&c.message);
        return SUBMIT_UNAVAILABLE;
    }
    out->content = c.message;
    return SUBMIT_OK;
}

static void fingerprint(const struct submit_input *in, uint8_t out[32]) {
    submission_fingerprint(in->submission, out);
    /* The same words for the sandbox and for the world are two messages: a test must not be
     * answered with what was sent, nor the other way round. */
    if (in->rights.is_test)
        out[0] ^= 0xFF;
}

enum submit_result submit_prepare(const struct submit_input *in, struct faults *faults,
                                  struct arena *a, struct store_accept **out) {
    const struct submission *s = in->submission;
    if (!rights_check(&in->rights, in->domains, s, faults))
        return SUBMIT_FORBIDDEN;
    size_t before = faults->count;
    struct work w = {
        .in = in, .settings = intake_settings_of(in->intake), .faults = faults, .arena = a};
    check_route(&w);
    size_t most = submission_recipient_count(s);
    ASSERT(most > 0 && most <= RECIPIENT_KEY_SPAN);
    w.row = ARENA_ARRAY(a, struct recipient_row, most);
    w.queue_key = ARENA_ARRAY(a, struct str, most);
    add_recipients(&w, &s->to, RECIPIENT_TO, "to");
    add_recipients(&w, &s->cc, RECIPIENT_CC, "cc");
    add_recipients(&w, &s->bcc, RECIPIENT_BCC, "bcc");
    check_verified(&w);
    (void)expires_wall_ms(&w);
    if (faults->count > before)
        return SUBMIT_INVALID;

    struct store_accept *accept = ARENA_NEW(a, struct store_accept);
    enum submit_result r = compose_it(&w, accept);
    if (r != SUBMIT_OK)
        return r;
    accept->call.verb = STORE_ACCEPT;
    for (size_t i = 0; i < w.count;
         i++) /* a reload may end the routes' names before the store is done */
        w.queue_key[i] = arena_dup(a, w.queue_key[i]);
    accept->queue_key = w.queue_key;
    accept->idempotency_key = in->idempotency_key;
    if (!str_is_absent(in->idempotency_key))
        fingerprint(in, accept->fingerprint);
    accept->idempotency_until_wall_ms = in->now_wall_ms + w.settings->idempotency_keep_ms;
    accept->now_wall_ms = in->now_wall_ms;
    *out = accept;
    return SUBMIT_OK;
}

void submit_discard(struct store_accept *accept) {
    message_unref(&accept->content);
}

struct store_accept *submit_ask(const struct submit_input *in, struct arena *a) {
    struct store_accept *ask = ARENA_NEW(a, struct store_accept);
    ask->call.verb = STORE_ACCEPT;
    ask->message.project = in->rights.project;
    ask->idempotency_key = in->idempotency_key;
    fingerprint(in, ask->fingerprint);
    ask->now_wall_ms = in->now_wall_ms;
    ask->asks_only = true;
    return ask;
}

/* ---- again ---- */

/* What the store would put into the new message. */
static bool goes_again(enum recipient_state s) {
    return recipient_state_is_final(s) && s != RECIPIENT_DELIVERED && s != RECIPIENT_SUPPRESSED;
}

static void check_guards(const struct work *w, const struct address *to) {
    struct str redirect = w->settings->redirect_to;
    if (!str_is_absent(redirect) && !str_equal(to->email, redirect))
        faults_add(w->faults, STR("#"), "recipient_not_allowed",
                   "this server delivers to %.*s only, not to %.*s: submit the message anew",
                   STR_ARG(redirect), STR_ARG(to->email));
    else if (str_is_absent(redirect) && !only_to_allows(w->settings, to))
        faults_add(w->faults, STR("#"), "recipient_not_allowed",
                   "this server delivers to a list of recipients only, and %.*s is not on it",
                   STR_ARG(to->email));
}

bool submit_may_repeat(const struct intake *in, const struct domains *d,
                       const struct message_row *m, struct faults *faults) {
    /* A test goes to the sandbox that there is, whatever its name was. */
    const struct submission s = {.from = {.domain = m->from_domain},
                                 .route =
                                     m->is_test || str_is_empty(m->route) ? STR_NONE : m->route};
    const struct submit_input input = {
        .submission = &s,
        .intake = in,
        .domains = d,
        .rights = {.project = m->project, .is_test = m->is_test},
    };
    struct work w = {
        .in = &input, .settings = intake_settings_of(in), .faults = faults, .arena = faults->arena};
    size_t before = faults->count, again = 0;
    for (size_t i = 0; i < m->recipient_count; i++)
        again += goes_again(m->recipient[i].state);
    if (again == 0) /* no new message is made: who waits is due at once */
        return true;
    faults_place(faults, STR("#/route"), STR("#"), true); /* nobody gave it now */
    check_route(&w);
    for (size_t i = 0; i < m->recipient_count && faults->count == before; i++) {
        struct str email = m->recipient[i].email, domain = email;
        if (!goes_again(m->recipient[i].state))
            continue;
        while (str_find_char(domain, '@') >= 0)
            (void)str_split(&domain, '@');
        check_guards(&w, &(struct address){.email = email, .domain = domain});
        w.needs_verified_domain |= route_for(&w, domain)->requires_verified_domain;
    }
    if (domains_is_anothers_address(d, m->project, m->mail_from)) {
        faults_add(faults, STR("#"), "domain_not_allowed",
                   "its bounces go to %.*s, whose domain is another project's by now: submit the "
                   "message anew",
                   STR_ARG(m->mail_from));
    } else if (w.needs_verified_domain && !m->is_test) {
        struct str sender = rights_sender_domain(d, m->project, m->from_domain, m->mail_from);
        check_domain(&w, m->from_domain, STR("#"));
        if (!str_equal(sender, m->from_domain))
            check_domain(&w, sender, STR("#"));
    }
    return faults->count == before;
}
