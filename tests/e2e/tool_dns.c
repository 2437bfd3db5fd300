/* tool_dns: one question to the resolver or the MX room of the server, the answer as JSON, so that
 * they can be driven against real resolvers and a real signed zone.
 *
 *   tool_dns [--mode M] [--anchor FILE] [--resolv FILE] [--hosts FILE] [--timeout MS] [--no-probe]
 *            TYPE NAME [TYPE NAME ...]
 *
 * TYPE is A, AAAA, MX, TXT, TLSA, PTR, CNAME, "route" (where mail for the domain goes) or "host"
 * (a smarthost). Waits for the DNSSEC probe first, unless --no-probe. Prints one line for the state
 * of the resolver and one for each question, in order. */
#include <jansson.h>

#include "server/base/clock.h"
#include "server/base/log.h"
#include "server/net/mx.h"

static bool is_answered;

static void answered(struct note *n) {
    (void)n;
    is_answered = true;
}

static void await(struct mailbox *box) {
    is_answered = false;
    while (!is_answered)
        mailbox_wait(box, 1000);
}

static void print(json_t *j) {
    char *text = json_dumps(j, JSON_COMPACT | JSON_ENSURE_ASCII);
    puts(text);
    fflush(stdout);
    free(text);
    json_decref(j);
}

static json_t *address(const struct sockaddr_any *a, bool with_port) {
    char text[SOCKADDR_TEXT_SIZE];
    if (with_port)
        sockaddr_print(a, text);
    else
        sockaddr_print_ip(a, text);
    return json_string(text);
}

static json_t *hex(struct str s) {
    char *text = mem_zalloc(s.n * 2 + 1);
    for (size_t i = 0; i < s.n; i++)
        snprintf(text + 2 * i, 3, "%02x", (unsigned)(unsigned char)s.p[i]);
    json_t *j = json_string(text);
    free(text);
    return j;
}

static json_t *record(const struct dns_query *q, size_t i) {
    if (q->type == DNS_MX)
        return json_pack("[i,s%]", (int)q->mx[i].preference, q->mx[i].host.p, q->mx[i].host.n);
    if (q->type == DNS_A || q->type == DNS_AAAA)
        return address(&q->addr[i], false);
    if (q->type == DNS_TLSA)
        return hex(q->data[i]);
    json_t *j = json_stringn(q->data[i].p, q->data[i].n);
    return j ? j : hex(q->data[i]); /* not UTF-8 */
}

static void ask(struct dns *d, struct mailbox *box, enum dns_type type, const char *type_name,
                const char *name) {
    struct dns_query q = {.note.run = answered, .reply_to = box, .type = type};
    snprintf(q.name, sizeof q.name, "%s", name);
    int64_t start_mono_ms = clock_mono_ms();
    dns_ask(d, &q);
    await(box);
    json_t *data = json_array();
    for (size_t i = 0; i < q.count; i++)
        json_array_append_new(data, record(&q, i));
    print(json_pack("{ss,ss,ss,sb,ss,sI,sI,so}", "type", type_name, "name", name, "failure",
                    failure_name(q.failure), "secure", (int)q.is_secure, "canonical", q.canonical,
                    "ttl", (json_int_t)q.ttl_s, "ms", (json_int_t)(clock_mono_ms() - start_mono_ms),
                    "data", data));
    dns_query_release(&q);
}

static void route(struct dns *d, struct mailbox *box, bool is_host, const char *name) {
    struct mx_lookup m = {.note.run = answered,
                          .reply_to = box,
                          .is_host = is_host,
                          .port = 25,
                          .want_ipv6 = true,
                          .shuffle_seed = 1};
    snprintf(m.domain, sizeof m.domain, "%s", name);
    mx_resolve(d, &m);
    await(box);
    json_t *hosts = json_array();
    for (size_t i = 0; i < m.count; i++) {
        json_t *addresses = json_array();
        for (size_t j = 0; j < m.host[i].addr_count; j++)
            json_array_append_new(addresses, address(&m.host[i].addr[j], true));
        json_array_append_new(hosts, json_pack("{ss%,si,sb,so}", "name", m.host[i].name.p,
                                               m.host[i].name.n, "preference",
                                               (int)m.host[i].preference, "secure",
                                               (int)m.host[i].is_secure, "addresses", addresses));
    }
    print(json_pack("{ss,ss,ss,sb,ss%,sI,so}", "type", is_host ? "host" : "route", "name", name,
                    "failure", failure_name(m.failure), "implicit", (int)m.is_implicit, "site",
                    m.site.p ? m.site.p : "", m.site.n, "ttl", (json_int_t)m.ttl_s, "hosts",
                    hosts));
    mx_lookup_release(&m);
}

static enum dns_type type_of(const char *name) {
    static const struct {
        const char *name;
        enum dns_type type;
    } types[] = {{"A", DNS_A},       {"AAAA", DNS_AAAA}, {"MX", DNS_MX},      {"TXT", DNS_TXT},
                 {"TLSA", DNS_TLSA}, {"PTR", DNS_PTR},   {"CNAME", DNS_CNAME}};
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        if (strcmp(types[i].name, name) == 0)
            return types[i].type;
    fprintf(stderr, "tool_dns: unknown type %s\n", name);
    exit(2);
}

int main(int argc, char **argv) {
    struct dns_options o = {.mode = "system"};
    struct errinfo info = {0};
    struct dns *d;
    bool wait_for_probe = true;
    int i = 1;
    for (; i < argc && argv[i][0] == '-'; i++) {
        const char *value = i + 1 < argc ? argv[i + 1] : "";
        uint64_t ms;
        if (strcmp(argv[i], "--no-probe") == 0) {
            wait_for_probe = false;
            continue;
        }
        if (strcmp(argv[i], "--mode") == 0)
            o.mode = value;
        else if (strcmp(argv[i], "--anchor") == 0)
            o.trust_anchor_file = value;
        else if (strcmp(argv[i], "--resolv") == 0)
            o.resolv_conf = value;
        else if (strcmp(argv[i], "--hosts") == 0)
            o.hosts_file = value;
        else if (strcmp(argv[i], "--timeout") == 0 &&
                 str_parse_u64(str_of(value), 600000, &ms) == OK)
            o.timeout_ms = (int64_t)ms;
        else {
            fprintf(stderr, "tool_dns: what is %s?\n", argv[i]);
            return 2;
        }
        i++;
    }
    log_setup(LOG_ERROR, LOG_FORMAT_TEXT);
    if (dns_start(&o, &d, &info) != OK) {
        fprintf(stderr, "tool_dns: %s\n", info.text);
        return 1;
    }
    struct mailbox *box = mailbox_new();
    int64_t until_mono_ms = clock_mono_ms() + 30000;
    while (wait_for_probe && !dns_status(d).is_known && clock_mono_ms() < until_mono_ms)
        mailbox_wait(box, 10);
    struct dns_status s = dns_status(d);
    print(json_pack("{sb,sb,ss}", "known", (int)s.is_known, "validating", (int)s.is_validating,
                    "text", s.text));
    for (; i + 1 < argc; i += 2) {
        if (strcmp(argv[i], "route") == 0 || strcmp(argv[i], "host") == 0)
            route(d, box, argv[i][0] == 'h', argv[i + 1]);
        else
            ask(d, box, type_of(argv[i]), argv[i], argv[i + 1]);
    }
    dns_stop(&d);
    mailbox_free(&box);
    return 0;
}
