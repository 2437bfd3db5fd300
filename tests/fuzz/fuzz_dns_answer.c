/* What a resolver hands over, as records of a type that was asked for: malformed ones are left out
 * and counted by nobody. Then the same octets as a TXT record beside a key that is wanted, as all
 * that is found of a domain, and as a name. First octet: the type; second: what the resolver says
 * of the answer; records are cut at each 0xFE. */
#include <unbound.h>

#include "server/intake/domain_check.h"
#include "server/net/dns_answer.h"
#include "server/net/dns_names.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { RECORDS_MAX = 320 }; /* more than are kept of any type */

struct answer {
    char *record[RECORDS_MAX + 1];
    int length[RECORDS_MAX];
    size_t count;
    struct ub_result u;
};

static void answer_read(struct answer *a, uint8_t flags, struct str rest) {
    *a = (struct answer){.count = 0};
    while (!str_is_absent(rest) && a->count < RECORDS_MAX) {
        struct str r = str_split(&rest, (char)0xFE);
        /* exact: ASan sees one too far */
        a->record[a->count] = r.n > 0 ? mem_dup(r.p, r.n) : mem_zalloc(1);
        a->length[a->count++] = (int)r.n;
    }
    a->u = (struct ub_result){.data = a->record,
                              .len = a->length,
                              .havedata = flags & 1,
                              .nxdomain = flags & 2 ? 1 : 0,
                              .secure = flags & 4 ? 1 : 0,
                              .bogus = flags & 8 ? 1 : 0,
                              .rcode = flags & 16 ? 2 : 0,
                              .ttl = flags & 32 ? -1 : 300,
                              .canonname =
                                  flags & 64 ? (char *)(uintptr_t) "Mail.Example.ORG." : NULL};
}

static void answer_free(struct answer *a) {
    while (a->count > 0)
        free(a->record[--a->count]);
}

static void check_answer(enum dns_type type, const struct answer *a) {
    struct dns_query q = {.type = type};
    dns_answer_take(&q, &a->u, "example.org");
    enum failure why = dns_answer_failure(0, &a->u);
    ASSERT(q.count <= a->count && (why == FAILURE_NONE || q.count == 0));
    ASSERT(!(q.is_secure && a->u.bogus) && (!a->u.bogus || why == FAILURE_DNS_BOGUS));
    ASSERT(str_equal(str_of(q.canonical),
                     a->u.canonname ? STR("mail.example.org") : STR("example.org")));
    for (size_t i = 0; i < q.count; i++) {
        if (type == DNS_MX)
            ASSERT(str_is_ascii(q.mx[i].host) && !str_has_control(q.mx[i].host, false));
        else if (type == DNS_A || type == DNS_AAAA)
            ASSERT(sockaddr_is_ipv6(&q.addr[i]) == (type == DNS_AAAA));
        else if (type == DNS_PTR || type == DNS_CNAME)
            ASSERT(str_is_ascii(q.data[i]) && !str_has_control(q.data[i], false));
    }
    dns_query_release(&q);
}

/* The record of a key differs from what is published: it signs nothing. */
static void check_key(struct str text) {
    static const struct str
        wanted = STR("v=DKIM1; k=ed25519; p=11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo="),
        value = STR("11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=");
    ASSERT(domain_check_same_key(wanted, wanted));
    if (!domain_check_same_key(wanted, text))
        return;
    /* every octet of the key is there, in this order, with nothing but white space between */
    size_t at = 0;
    for (size_t i = 0; i < text.n && at < value.n; i++)
        at += text.p[i] == value.p[at];
    ASSERT(at == value.n && str_find_char(text, 'p') >= 0);
}

/* In the place of server/net/dns.c: what is asked waits for its answer. */
enum { QUESTIONS_MAX = 4 };
static struct dns_query *asked[QUESTIONS_MAX];
static size_t asked_count;
void dns_ask(struct dns *d, struct dns_query *q) {
    ASSERT(!d && q->type == DNS_TXT && asked_count < QUESTIONS_MAX);
    asked[asked_count++] = q;
}

static struct domain_check *checked;
static void on_checked(struct domain_check *c, void *ctx) {
    (void)ctx;
    ASSERT(!checked);
    checked = c;
}

static void check_record(const struct domain_record *r) {
    const char *state = domain_record_state_name(r);
    ASSERT(r->is_answered && r->is_ok == (strcmp(state, "found") == 0));
    ASSERT(!r->is_ok || (!str_is_absent(r->found) && r->failure == FAILURE_NONE));
    if (r->is_ok && r->kind == DOMAIN_RECORD_DKIM)
        ASSERT(domain_check_same_key(r->value, r->found));
    else if (r->is_ok)
        ASSERT(str_starts_with_nocase(r->found, r->kind == DOMAIN_RECORD_SPF ? STR("v=spf1")
                                                                             : STR("v=DMARC1")));
}

/* The same answer to each question about a domain with one key: it is verified when its key was
 * found, and by nothing else. */
static void check_domain(const struct answer *a) {
    struct domain_key_row key = {
        .selector = STR("s1"),
        .record = STR("v=DKIM1; k=ed25519; p=11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=")};
    const struct domain_row row = {.name = STR("acme.test"), .key = &key, .key_count = 1};
    checked = NULL;
    asked_count = 0;
    (void)domain_check_start(NULL, &row, STR("mx.acme.test"), NULL, on_checked, NULL);
    ASSERT(asked_count == 3);
    for (size_t i = 0; i < 3; i++) {
        ASSERT(!checked);
        dns_answer_take(asked[i], &a->u, asked[i]->name);
        asked[i]->failure = dns_answer_failure(0, &a->u);
        asked[i]->note.run(&asked[i]->note);
    }
    ASSERT(checked && checked->count == 3);
    for (size_t i = 0; i < 3; i++)
        check_record(&checked->record[i]);
    ASSERT(checked->is_verified == checked->record[0].is_ok);
    domain_check_free(&checked);
}

static void check_name(struct str name) {
    static const struct dns_names names = {
        .search = {"corp.example", "example.org"}, .search_count = 2, .ndots = 2};
    char out[DNS_NAMES_MAX][256];
    (void)dns_name_is_private(name);
    for (int use_search = 0; use_search < 2; use_search++) {
        size_t count = dns_names_collect(&names, name, use_search, out);
        ASSERT(count <= DNS_NAMES_MAX);
        for (size_t i = 0; i < count; i++)
            ASSERT(dns_name_is_valid(str_of(out[i])) && str_starts_with(str_of(out[i]), name));
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const enum dns_type types[] = {DNS_A,   DNS_AAAA,  DNS_MX,  DNS_TXT,
                                          DNS_PTR, DNS_CNAME, DNS_TLSA};
    if (size < 2)
        return 0;
    struct str rest = str_make(data + 2, size - 2);
    struct answer a;
    answer_read(&a, data[1], rest);
    check_answer(types[data[0] % (sizeof types / sizeof types[0])], &a);
    check_domain(&a);
    answer_free(&a);
    check_key(rest);
    check_name(rest);
    return 0;
}
