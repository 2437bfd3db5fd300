#include "server/net/dns_answer.h"

#include <unbound.h>

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

static void take_records(struct dns_query *q, const struct ub_result *r) {
    size_t n = 0;
    while (r->data[n])
        n++;
    q->arena = arena_new();
    if (q->type == DNS_MX)
        q->mx = ARENA_ARRAY(q->arena, struct dns_mx, n);
    else if (q->type == DNS_A || q->type == DNS_AAAA)
        q->addr = ARENA_ARRAY(q->arena, struct sockaddr_any, n);
    else
        q->data = ARENA_ARRAY(q->arena, struct str, n);
    for (size_t i = 0; i < n; i++)
        if (r->len[i] >= 0 && take_record(q, str_make(r->data[i], (size_t)r->len[i])))
            q->count++;
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
