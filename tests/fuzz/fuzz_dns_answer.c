/* What a resolver hands over, as records of a type that was asked for: malformed ones are left out
 * and counted by nobody. Then the same octets as a TXT record beside a key that is wanted, and as a
 * name. First octet: the type; second: what the resolver says of the answer; records are cut at
 * each 0xFE. */
#include <unbound.h>

#include "server/intake/domain_check.h"
#include "server/net/dns_answer.h"
#include "server/net/dns_names.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { RECORDS_MAX = 8 };

static void check_answer(enum dns_type type, uint8_t flags, struct str rest) {
    char *record[RECORDS_MAX + 1] = {NULL};
    int length[RECORDS_MAX];
    size_t n = 0;
    while (!str_is_absent(rest) && n < RECORDS_MAX) {
        struct str r = str_split(&rest, (char)0xFE);
        record[n] = r.n > 0 ? mem_dup(r.p, r.n) : mem_zalloc(1); /* exact: ASan sees one too far */
        length[n++] = (int)r.n;
    }
    struct ub_result u = {.data = record,
                          .len = length,
                          .havedata = flags & 1,
                          .nxdomain = flags & 2 ? 1 : 0,
                          .secure = flags & 4 ? 1 : 0,
                          .bogus = flags & 8 ? 1 : 0,
                          .rcode = flags & 16 ? 2 : 0,
                          .ttl = flags & 32 ? -1 : 300,
                          .canonname = flags & 64 ? (char[]){"Mail.Example.ORG."} : NULL};
    struct dns_query q = {.type = type};
    dns_answer_take(&q, &u, "example.org");
    enum failure why = dns_answer_failure(0, &u);
    ASSERT(q.count <= n && (why == FAILURE_NONE || q.count == 0));
    ASSERT(!(q.is_secure && u.bogus) && (!u.bogus || why == FAILURE_DNS_BOGUS));
    ASSERT(
        str_equal(str_of(q.canonical), u.canonname ? STR("mail.example.org") : STR("example.org")));
    for (size_t i = 0; i < q.count; i++) {
        if (type == DNS_MX)
            ASSERT(str_is_ascii(q.mx[i].host) && !str_has_control(q.mx[i].host, false));
        else if (type == DNS_A || type == DNS_AAAA)
            ASSERT(sockaddr_is_ipv6(&q.addr[i]) == (type == DNS_AAAA));
        else if (type == DNS_PTR || type == DNS_CNAME)
            ASSERT(str_is_ascii(q.data[i]) && !str_has_control(q.data[i], false));
    }
    dns_query_release(&q);
    while (n > 0)
        free(record[--n]);
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
    check_answer(types[data[0] % (sizeof types / sizeof types[0])], data[1], rest);
    check_key(rest);
    check_name(rest);
    return 0;
}
