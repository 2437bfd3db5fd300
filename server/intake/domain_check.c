#include "server/intake/domain_check.h"

struct question {
    struct dns_query query;
    struct domain_check *check;
    size_t index;
};

struct domain_check_private {
    struct question *question;
    size_t waiting; /* owner of the mailbox only */
    void (*done)(struct domain_check *c, void *ctx);
    void *ctx;
};

const char *domain_record_kind_name(enum domain_record_kind k) {
    static const char *const names[] = {"dkim", "spf", "dmarc"};
    return names[k];
}

const char *domain_record_state_name(const struct domain_record *r) {
    if (r->is_ok)
        return "found";
    if (!r->is_answered || r->failure != FAILURE_NONE)
        return "unknown";
    return str_is_absent(r->found) ? "missing" : "different";
}

size_t domain_records_wanted(const struct domain_row *row, struct str hostname, struct arena *a,
                             struct domain_record **out) {
    struct domain_record *r = ARENA_ARRAY(a, struct domain_record, row->key_count + 2);
    size_t n = 0;
    for (size_t i = 0; i < row->key_count; i++)
        r[n++] = (struct domain_record){.kind = DOMAIN_RECORD_DKIM,
                                        .is_required = true,
                                        .selector = arena_dup(a, row->key[i].selector),
                                        .name = arena_printf(a, "%.*s._domainkey.%.*s",
                                                             STR_ARG(row->key[i].selector),
                                                             STR_ARG(row->name)),
                                        .value = arena_dup(a, row->key[i].record),
                                        .was_published = row->key[i].published_wall_ms != 0};
    if (hostname.n)
        r[n++] = (struct domain_record){
            .kind = DOMAIN_RECORD_SPF,
            .name = arena_dup(a, row->name),
            .value = arena_printf(a, "v=spf1 a:%.*s ~all", STR_ARG(hostname))};
    r[n++] = (struct domain_record){.kind = DOMAIN_RECORD_DMARC,
                                    .name = arena_printf(a, "_dmarc.%.*s", STR_ARG(row->name)),
                                    .value = STR("v=DMARC1; p=none")};
    *out = r;
    return n;
}

/* The value of one tag of a "k=v; k=v" record (RFC 6376 3.2), absent when there is none. */
static struct str tag_value(struct str record, char name) {
    for (struct str rest = record; !str_is_absent(rest);) {
        struct str value = str_split(&rest, ';');
        struct str tag = str_trim(str_split(&value, '='));
        if (tag.n == 1 && tag.p[0] == name && !str_is_absent(value))
            return str_trim(value);
    }
    return STR_NONE;
}

/* Equal but for white space, which a p= may be folded with. */
static bool equal_without_space(struct str a, struct str b) {
    size_t i = 0, k = 0;
    for (;;) {
        while (i < a.n && (a.p[i] == ' ' || a.p[i] == '\t' || a.p[i] == '\r' || a.p[i] == '\n'))
            i++;
        while (k < b.n && (b.p[k] == ' ' || b.p[k] == '\t' || b.p[k] == '\r' || b.p[k] == '\n'))
            k++;
        if (i == a.n || k == b.n)
            return i == a.n && k == b.n;
        if (a.p[i++] != b.p[k++])
            return false;
    }
}

bool domain_check_same_key(struct str wanted, struct str found) {
    struct str p = tag_value(wanted, 'p'), version = tag_value(found, 'v');
    struct str k = tag_value(wanted, 'k'), found_k = tag_value(found, 'k');
    if (!str_is_absent(version) && !str_equal(version, STR("DKIM1")))
        return false;
    if (str_is_absent(k))
        k = STR("rsa"); /* the default of both */
    if (str_is_absent(found_k))
        found_k = STR("rsa");
    return p.n > 0 && str_equal(k, found_k) && equal_without_space(p, tag_value(found, 'p'));
}

static bool is_wanted(const struct domain_record *r, struct str txt) {
    switch (r->kind) {
    case DOMAIN_RECORD_DKIM:
        return domain_check_same_key(r->value, txt);
    case DOMAIN_RECORD_SPF: /* whether it covers our address is doctor's question */
        return str_starts_with_nocase(txt, STR("v=spf1")) && (txt.n == 6 || txt.p[6] == ' ');
    case DOMAIN_RECORD_DMARC:
        return str_starts_with_nocase(txt, STR("v=DMARC1"));
    }
    return false;
}

static void take_answer(struct domain_check *c, struct domain_record *r,
                        const struct dns_query *q) {
    r->is_answered = true;
    bool is_none = q->failure == FAILURE_DNS_NXDOMAIN || q->failure == FAILURE_DNS_NO_ADDRESS;
    r->failure = is_none ? FAILURE_NONE : q->failure;
    for (size_t i = 0; q->failure == FAILURE_NONE && i < q->count && !r->is_ok; i++) {
        bool ok = is_wanted(r, q->data[i]);
        if (ok || (r->kind == DOMAIN_RECORD_DKIM && str_is_absent(r->found)))
            r->found = arena_dup(c->arena, q->data[i]);
        r->is_ok = ok;
    }
}

static void finish(struct domain_check *c) {
    c->is_conclusive = true;
    for (size_t i = 0; i < c->count; i++) {
        if (!c->record[i].is_required)
            continue;
        c->is_verified |= c->record[i].is_ok;
        c->is_conclusive &= c->record[i].failure == FAILURE_NONE;
    }
    c->private_->done(c, c->private_->ctx);
}

static void answered(struct note *n) {
    struct dns_query *q = CONTAINER_OF(n, struct dns_query, note);
    struct question *question = CONTAINER_OF(q, struct question, query);
    struct domain_check *c = question->check;
    take_answer(c, &c->record[question->index], q);
    dns_query_release(q);
    if (--c->private_->waiting == 0)
        finish(c);
}

struct domain_check *domain_check_start(struct dns *dns, const struct domain_row *row,
                                        struct str hostname, struct mailbox *box,
                                        void (*done)(struct domain_check *c, void *ctx),
                                        void *ctx) {
    struct domain_check *c = mem_zalloc(sizeof *c);
    c->arena = arena_new();
    c->id = row->id;
    c->project = row->project;
    c->domain = arena_dup(c->arena, row->name);
    c->count = domain_records_wanted(row, hostname, c->arena, &c->record);
    c->private_ = ARENA_NEW(c->arena, struct domain_check_private);
    *c->private_ =
        (struct domain_check_private){.question = ARENA_ARRAY(c->arena, struct question, c->count),
                                      .waiting = c->count,
                                      .done = done,
                                      .ctx = ctx};
    size_t count =
        c->count; /* the last answer may come, and free it all, before this function returns */
    struct question *question = c->private_->question;
    for (size_t i = 0; i < count; i++) {
        question[i].check = c;
        question[i].index = i;
        question[i].query.note.run = answered;
        question[i].query.reply_to = box;
        question[i].query.type = DNS_TXT;
        snprintf(question[i].query.name, sizeof question[i].query.name, "%.*s",
                 STR_ARG(c->record[i].name));
    }
    for (size_t i = 0; i < count; i++)
        dns_ask(dns, &question[i].query);
    return c;
}

void domain_check_free(struct domain_check **cp) {
    struct domain_check *c = *cp;
    *cp = NULL;
    if (!c)
        return;
    ASSERT(c->private_->waiting == 0);
    arena_free(&c->arena);
    free(c);
}
