#include "server/net/dns_answer.h"

#include <stdlib.h>
#include <unbound.h>

#include "server/base/limits.h"
#include "server/net/dns_rdata.h"

enum failure dns_answer_failure(int err, const struct ub_result *r) {
    if (err != 0 || !r)
        return FAILURE_DNS_TEMPORARY;
    if (r->bogus)
        return FAILURE_DNS_BOGUS;
    if (r->havedata)
        return FAILURE_NONE;
    if (r->nxdomain)
        return FAILURE_DNS_NXDOMAIN;
    return r->rcode == 0 ? FAILURE_DNS_NO_ADDRESS : FAILURE_DNS_TEMPORARY;
}

static bool take_record(struct dns_query *q, struct str rdata) {
    size_t i = q->count;
    switch (q->type) {
    case DNS_A:
        return dns_rdata_ipv4(rdata, &q->addr[i]);
    case DNS_AAAA:
        return dns_rdata_ipv6(rdata, &q->addr[i]);
    case DNS_MX:
        return dns_rdata_mx(rdata, q->arena, &q->mx[i].preference, &q->mx[i].host);
    case DNS_TXT:
        return dns_rdata_text(rdata, q->arena, &q->data[i]);
    case DNS_PTR:
    case DNS_CNAME:
        return dns_rdata_name(rdata, q->arena, &q->data[i]);
    case DNS_TLSA:
        q->data[i] = arena_dup(q->arena, rdata);
        return true;
    }
    return false;
}

static int by_octets(const void *a, const void *b) {
    return str_compare(*(const struct str *)a, *(const struct str *)b);
}

/* Where there are more than are kept, the first in the order of their octets are: of MX records
 * those are the best, and of all types the same ones each time, in whatever order they came. */
static void take_records(struct dns_query *q, const struct ub_result *r) {
    bool is_address = q->type == DNS_A || q->type == DNS_AAAA;
    size_t most = is_address ? LIMIT_DNS_ADDRESSES : LIMIT_DNS_RECORDS, n = 0, kept = 0;
    while (r->data[n])
        n++;
    struct str *rdata = mem_zalloc((n + 1) * sizeof *rdata); /* 64 KiB of answer: 5,000 at most */
    for (size_t i = 0; i < n; i++)
        if (r->len[i] >= 0)
            rdata[kept++] = str_make(r->data[i], (size_t)r->len[i]);
    if (kept > most) {
        qsort(rdata, kept, sizeof *rdata, by_octets);
        kept = most;
    }
    q->arena = arena_new();
    if (q->type == DNS_MX)
        q->mx = ARENA_ARRAY(q->arena, struct dns_mx, kept);
    else if (is_address)
        q->addr = ARENA_ARRAY(q->arena, struct sockaddr_any, kept);
    else
        q->data = ARENA_ARRAY(q->arena, struct str, kept);
    for (size_t i = 0; i < kept; i++)
        if (take_record(q, rdata[i]))
            q->count++;
    free(rdata);
}

static void put_name(char out[256], const char *name) {
    size_t n = strlen(name);
    if (n > 0 && name[n - 1] == '.')
        n--;
    n = n < 255 ? n : 255;
    for (size_t i = 0; i < n; i++)
        out[i] = ascii_lower(name[i]);
    out[n] = 0;
}

void dns_query_release(struct dns_query *q) {
    arena_free(&q->arena);
    q->mx = NULL;
    q->addr = NULL;
    q->data = NULL;
    q->count = 0;
}

void dns_answer_take(struct dns_query *q, const struct ub_result *r, const char *asked) {
    q->is_secure = r->secure && !r->bogus;
    q->ttl_s = r->ttl > 0 ? (uint32_t)r->ttl : 0;
    put_name(q->canonical, r->canonname ? r->canonname : asked);
    if (dns_answer_failure(0, r) == FAILURE_NONE)
        take_records(q, r);
}
