#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "server/base/clock.h"
#include "server/base/limits.h"
#include "server/net/mx.h"
#include "tests/unit/net/asking.h"
#include "tests/unit/net/system.h"

static const struct rr rows[] = {
    {"order.example", DNS_MX, "30 c.example", RR_ANSWER},
    {"order.example", DNS_MX, "10 a.example", RR_ANSWER},
    {"order.example", DNS_MX, "20 b.example", RR_ANSWER},
    {"a.example", DNS_A, "192.0.2.1", RR_ANSWER},
    {"b.example", DNS_A, "192.0.2.2", RR_ANSWER},
    {"c.example", DNS_A, "192.0.2.3", RR_ANSWER},
    {"same.example", DNS_MX, "5 a.example", RR_ANSWER},
    {"same.example", DNS_MX, "5 b.example", RR_ANSWER},
    {"same.example", DNS_MX, "5 c.example", RR_ANSWER},
    {"twice.example", DNS_MX, "20 A.example", RR_ANSWER},
    {"twice.example", DNS_MX, "10 a.example", RR_ANSWER},
    {"implicit.example", DNS_A, "192.0.2.9", RR_ANSWER},
    {"null.example", DNS_MX, "0 .", RR_ANSWER},
    {"null.example", DNS_A, "192.0.2.66", RR_ANSWER},
    {"null10.example", DNS_MX, "10 .", RR_ANSWER},
    {"nulls.example", DNS_MX, "0 .", RR_ANSWER},
    {"nulls.example", DNS_MX, "5 .", RR_ANSWER},
    {"mixed.example", DNS_MX, "0 .", RR_ANSWER},
    {"mixed.example", DNS_MX, "10 a.example", RR_ANSWER},
    {"malformed.example", DNS_MX, "10 bad host.example", RR_ANSWER},
    {"malformed.example", DNS_A, "192.0.2.66", RR_ANSWER},
    {"gone.example", DNS_MX, "10 nowhere.example", RR_ANSWER},
    {"gone.example", DNS_A, "192.0.2.66", RR_ANSWER},
    {"partly.example", DNS_MX, "10 nowhere.example", RR_ANSWER},
    {"partly.example", DNS_MX, "20 broken.example", RR_ANSWER},
    {"partly.example", DNS_MX, "30 b.example", RR_ANSWER},
    {"sick.example", DNS_MX, "10 nowhere.example", RR_ANSWER},
    {"sick.example", DNS_MX, "20 broken.example", RR_ANSWER},
    {"broken.example", 0, "", RR_SERVFAIL},
    {"six.example", DNS_MX, "10 dual.example", RR_ANSWER},
    {"dual.example", DNS_A, "192.0.2.20", RR_ANSWER},
    {"dual.example", DNS_A, "192.0.2.21", RR_ANSWER},
    {"dual.example", DNS_A, "192.0.2.22", RR_ANSWER},
    {"dual.example", DNS_AAAA, "2001:db8::20", RR_ANSWER},
    {"dual.example", DNS_AAAA, "2001:db8::21", RR_ANSWER},
    {"dual.example", DNS_AAAA, "2001:db8::22", RR_ANSWER},
    {"mx6.example", DNS_MX, "10 only6.example", RR_ANSWER},
    {"only6.example", DNS_AAAA, "2001:db8::99", RR_ANSWER},
    {"alias.example", DNS_MX, "10 cname.example", RR_ANSWER},
    {"cname.example", DNS_CNAME, "a.example", RR_ANSWER},
    {"zero.example", DNS_MX, "10 zeros.example", RR_ANSWER},
    {"zeros.example", DNS_A, "0.0.0.0", RR_ANSWER},
    {"zeros.example", DNS_A, "255.255.255.255", RR_ANSWER},
    {"zeros.example", DNS_A, "224.0.0.1", RR_ANSWER},
    {"mapped.example", DNS_MX, "10 mapped4.example", RR_ANSWER},
    {"mapped4.example", DNS_AAAA, "::ffff:127.0.0.1", RR_ANSWER},
    {"mapped4.example", DNS_AAAA, "::ffff:0.0.0.0", RR_ANSWER},
    {"relay", DNS_A, "10.0.0.5", RR_ANSWER},
    {"inside.example", DNS_MX, "10 relay", RR_ANSWER},
    {"halfway.example", DNS_MX, "10 relay", RR_ANSWER},
    {"halfway.example", DNS_MX, "20 both.example", RR_ANSWER},
    {"both.example", DNS_A, "127.0.0.1", RR_ANSWER},
    {"both.example", DNS_A, "192.0.2.7", RR_ANSWER},
    {"here.example", DNS_A, "127.0.0.1", RR_ANSWER},
    {"here.example", DNS_AAAA, "::1", RR_ANSWER},
    {"held.example", DNS_MX, "1 z1.example", RR_ANSWER},
    {"z1.example", DNS_A, "0.0.0.1", RR_ANSWER},
    {"held.example", DNS_MX, "2 z2.example", RR_ANSWER},
    {"z2.example", DNS_A, "0.0.0.2", RR_ANSWER},
    {"held.example", DNS_MX, "3 z3.example", RR_ANSWER},
    {"z3.example", DNS_A, "0.0.0.3", RR_ANSWER},
    {"held.example", DNS_MX, "4 z4.example", RR_ANSWER},
    {"z4.example", DNS_A, "0.0.0.4", RR_ANSWER},
    {"held.example", DNS_MX, "5 z5.example", RR_ANSWER},
    {"z5.example", DNS_A, "0.0.0.5", RR_ANSWER},
    {"held.example", DNS_MX, "6 z6.example", RR_ANSWER},
    {"z6.example", 0, "", RR_DROP},
    /* 40 hosts, of which the first 33 by preference have no address */
    {"crowd.example", DNS_MX, "", RR_ANSWER}, /* replaced below */
    {0},
};

static struct dns *dns;
static struct rr table[200];
static char crowd[40][2][48];

static void add_crowd(void) {
    size_t n = 0;
    for (const struct rr *r = rows; r->name; r++)
        if (strcmp(r->name, "crowd.example") != 0)
            table[n++] = *r;
    for (int i = 0; i < 40; i++) {
        snprintf(crowd[i][0], 48, "%d h%02d.crowd.example", i, i);
        snprintf(crowd[i][1], 48, "h%02d.crowd.example", i);
        table[n++] = (struct rr){"crowd.example", DNS_MX, crowd[i][0], RR_ANSWER};
        /* the first seven and those beyond the limit of 32 have none or are never seen */
        table[n++] = i < 7 ? (struct rr){crowd[i][1], DNS_TXT, "x", RR_ANSWER}
                           : (struct rr){crowd[i][1], DNS_A, "192.0.2.40", RR_ANSWER};
    }
}

static int begin(void **state) {
    (void)state;
    add_crowd();
    begin_asking(table);
    dns = start(&(struct dns_options){.mode = server.mode, .trust_anchor_file = ""});
    return 0;
}

static int finish(void **state) {
    dns_stop(&dns);
    return end_asking(state);
}

static bool everywhere(const struct sockaddr_any *a) {
    assert_true(sockaddr_is_ipv6(a));
    return true;
}

static bool nowhere(const struct sockaddr_any *a) {
    assert_true(sockaddr_is_ipv6(a));
    return false;
}

static void prepare(struct mx_lookup *m, const char *domain) {
    *m = (struct mx_lookup){.note.run = count_answer,
                            .reply_to = box,
                            .port = 25,
                            .has_route = everywhere,
                            .shuffle_seed = 1};
    snprintf(m->domain, sizeof m->domain, "%s", domain);
}

static void resolve(struct mx_lookup *m) {
    mx_resolve(dns, m);
    assert_int_equal(answers, 0); /* never inside the call */
    wait_for(1);
}

static void text_of(const struct mx_lookup *m, char out[1024]) {
    size_t n = 0;
    out[0] = 0;
    for (size_t i = 0; i < m->count; i++) {
        n += (size_t)snprintf(out + n, 1024 - n, "%s%.*s", i ? " " : "", STR_ARG(m->host[i].name));
        for (size_t j = 0; j < m->host[i].addr_count; j++) {
            char addr[SOCKADDR_TEXT_SIZE];
            sockaddr_print(&m->host[i].addr[j], addr);
            n += (size_t)snprintf(out + n, 1024 - n, "=%s", addr);
        }
    }
}

static void test_C25_C26_C28_C31_each_domain_leads_where_it_says(void **state) {
    (void)state;
    static const struct {
        const char *domain, *own, *want, *site;
        enum failure failure;
        bool is_host;
    } cases[] = {
        {"order.example", NULL,
         "a.example=192.0.2.1:25 b.example=192.0.2.2:25 c.example=192.0.2.3:25",
         "a.example,b.example,c.example", FAILURE_NONE, false},
        {"ORDER.Example", NULL,
         "a.example=192.0.2.1:25 b.example=192.0.2.2:25 c.example=192.0.2.3:25",
         "a.example,b.example,c.example", FAILURE_NONE, false},
        {"twice.example", NULL, "a.example=192.0.2.1:25", "a.example", FAILURE_NONE, false},
        /* C26 */
        {"implicit.example", NULL, "implicit.example=192.0.2.9:25", "implicit.example",
         FAILURE_NONE, false},
        {"gone.example", NULL, "", NULL, FAILURE_DNS_NO_ADDRESS, false},
        {"malformed.example", NULL, "", NULL, FAILURE_DNS_NO_ADDRESS, false},
        /* C25 */
        {"nowhere.example", NULL, "", NULL, FAILURE_DNS_NXDOMAIN, false},
        {"broken.example", NULL, "", NULL, FAILURE_DNS_TEMPORARY, false},
        {"sick.example", NULL, "", NULL, FAILURE_DNS_TEMPORARY, false},
        {"partly.example", NULL, "b.example=192.0.2.2:25",
         "b.example,broken.example,nowhere.example", FAILURE_NONE, false},
        /* C28 */
        {"order.example", "B.example", "a.example=192.0.2.1:25", "a.example", FAILURE_NONE, false},
        {"order.example", "a.example", "", NULL, FAILURE_DNS_LOOP, false},
        {"same.example", "b.example", "", NULL, FAILURE_DNS_LOOP, false},
        {"implicit.example", "implicit.example", "", NULL, FAILURE_DNS_LOOP, false},
        {"order.example", "other.example",
         "a.example=192.0.2.1:25 b.example=192.0.2.2:25 c.example=192.0.2.3:25",
         "a.example,b.example,c.example", FAILURE_NONE, false},
        /* C31 */
        {"null.example", NULL, "", NULL, FAILURE_DNS_NULL_MX, false},
        {"null10.example", NULL, "", NULL, FAILURE_DNS_NULL_MX, false},
        {"nulls.example", NULL, "", NULL, FAILURE_DNS_NULL_MX, false},
        {"mixed.example", NULL, "a.example=192.0.2.1:25", "a.example", FAILURE_NONE, false},
        /* C29 */
        {"not a name", NULL, "", NULL, FAILURE_DNS_NXDOMAIN, false},
        {"", NULL, "", NULL, FAILURE_DNS_NXDOMAIN, false},
        {"alias.example", NULL, "cname.example=192.0.2.1:25", "cname.example", FAILURE_NONE, false},
        {"zero.example", NULL, "", NULL, FAILURE_DNS_NO_ADDRESS, false},
        {"only6.example", NULL, "", NULL, FAILURE_NO_IPV6, false},
        /* literals */
        {"[192.0.2.5]", NULL, "192.0.2.5=192.0.2.5:25", "[192.0.2.5]", FAILURE_NONE, false},
        {"[IPv6:2001:DB8::5]", NULL, "", NULL, FAILURE_NO_IPV6, false},
        {"[0.0.0.0]", NULL, "", NULL, FAILURE_DNS_NO_ADDRESS, false},
        {"[224.0.0.1]", NULL, "", NULL, FAILURE_DNS_NO_ADDRESS, false},
        {"[ipv6:192.0.2.5]", NULL, "", NULL, FAILURE_DNS_NXDOMAIN, false},
        {"[2001:db8::5]", NULL, "", NULL, FAILURE_DNS_NXDOMAIN, false},
        {"[]", NULL, "", NULL, FAILURE_DNS_NXDOMAIN, false},
        {"[192.0.2.5", NULL, "", NULL, FAILURE_DNS_NXDOMAIN, false},
        {"192.0.2.5", NULL, "", NULL, FAILURE_DNS_NXDOMAIN, false},
        /* smarthosts */
        {"192.0.2.5", NULL, "192.0.2.5=192.0.2.5:25", "[192.0.2.5]", FAILURE_NONE, true},
        {"2001:db8::5", NULL, "2001:db8::5=[2001:db8::5]:25", "[2001:db8::5]", FAILURE_NONE, true},
        {"[2001:db8::5]", NULL, "2001:db8::5=[2001:db8::5]:25", "[2001:db8::5]", FAILURE_NONE,
         true},
        {"relay", NULL, "relay=10.0.0.5:25", "relay", FAILURE_NONE, true},
        {"A.Example", "a.example", "a.example=192.0.2.1:25", "a.example", FAILURE_NONE, true},
        {"null.example", NULL, "null.example=192.0.2.66:25", "null.example", FAILURE_NONE, true},
        {"nowhere.example", NULL, "", NULL, FAILURE_DNS_NXDOMAIN, true},
        {"broken.example", NULL, "", NULL, FAILURE_DNS_TEMPORARY, true},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct mx_lookup m;
        char got[1024];
        prepare(&m, cases[i].domain);
        m.own_name = cases[i].own;
        m.is_host = cases[i].is_host;
        resolve(&m);
        text_of(&m, got);
        if (m.failure != cases[i].failure || strcmp(got, cases[i].want) != 0)
            fail_msg("%s (own %s): %s, %s", cases[i].domain, cases[i].own ? cases[i].own : "-",
                     failure_name(m.failure), got);
        if (cases[i].site && !str_equal(m.site, str_of(cases[i].site)))
            fail_msg("%s: site %.*s", cases[i].domain, STR_ARG(m.site));
        if (m.failure == FAILURE_NONE && m.domain[0] != '[')
            assert_int_equal(m.is_implicit, strcmp(cases[i].domain, "implicit.example") == 0);
        mx_lookup_release(&m);
    }
}

static void a_domain_leads_to_no_private_network(void **state) {
    (void)state;
    static const struct {
        const char *domain, *allowed, *want;
        enum failure failure;
    } cases[] = {
        {"order.example", "10.0.0.0/8",
         "a.example=192.0.2.1:25 b.example=192.0.2.2:25 c.example=192.0.2.3:25", FAILURE_NONE},
        {"inside.example", NULL, "", FAILURE_DNS_PRIVATE},
        {"inside.example", "10.0.0.0/8", "relay=10.0.0.5:25", FAILURE_NONE},
        {"halfway.example", NULL, "both.example=192.0.2.7:25", FAILURE_NONE},
        {"here.example", NULL, "", FAILURE_DNS_PRIVATE},
        {"[127.0.0.1]", NULL, "", FAILURE_DNS_PRIVATE},
        {"[169.254.169.254]", "10.0.0.0/8", "", FAILURE_DNS_PRIVATE},
        {"[IPv6:::1]", NULL, "", FAILURE_DNS_PRIVATE},
        {"[IPv6:fd00::1]", NULL, "", FAILURE_DNS_PRIVATE},
        {"[10.0.0.5]", "10.0.0.5", "10.0.0.5=10.0.0.5:25", FAILURE_NONE},
        {"[192.0.2.5]", NULL, "192.0.2.5=192.0.2.5:25", FAILURE_NONE},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct mx_lookup m;
        struct guard *g = NULL;
        char got[1024];
        const struct str network = cases[i].allowed ? str_of(cases[i].allowed) : STR_NONE;
        assert_int_equal(
            guard_new(&(struct guard_options){.allow_networks = &network,
                                              .allow_network_count = cases[i].allowed != NULL},
                      &g, NULL),
            OK);
        prepare(&m, cases[i].domain);
        m.want_ipv6 = true;
        m.guard = g;
        resolve(&m);
        text_of(&m, got);
        if (m.failure != cases[i].failure || strcmp(got, cases[i].want) != 0)
            fail_msg("%s: %s, %s", cases[i].domain, failure_name(m.failure), got);
        mx_lookup_release(&m);
        guard_free(&g);
    }
}

static void test_C27_equals_are_shuffled_by_the_seed(void **state) {
    (void)state;
    int first[3] = {0};
    char got[1024], again[1024];
    for (uint64_t seed = 0; seed < 300; seed++) {
        struct mx_lookup m;
        prepare(&m, "same.example");
        m.shuffle_seed = seed;
        resolve(&m);
        assert_int_equal(m.count, 3);
        assert_true(str_equal(m.site, STR("a.example,b.example,c.example")));
        first[m.host[0].name.p[0] - 'a']++;
        text_of(&m, got);
        mx_lookup_release(&m);
        if (seed % 50 == 0) { /* the same seed, the same order */
            prepare(&m, "same.example");
            m.shuffle_seed = seed;
            resolve(&m);
            text_of(&m, again);
            assert_string_equal(got, again);
            mx_lookup_release(&m);
        }
    }
    for (int i = 0; i < 3; i++)
        assert_in_range(first[i], 60, 140);
}

static void both_families_take_turns_up_to_the_limit(void **state) {
    (void)state;
    struct mx_lookup m;
    prepare(&m, "six.example");
    m.want_ipv6 = true;
    m.port = 2525;
    resolve(&m);
    assert_int_equal(m.count, 1);
    assert_int_equal(m.host[0].addr_count, LIMIT_MX_ADDRESSES);
    for (size_t i = 0; i < LIMIT_MX_ADDRESSES; i++) {
        assert_int_equal(sockaddr_is_ipv6(&m.host[0].addr[i]), i % 2 == 0);
        assert_int_equal(sockaddr_port(&m.host[0].addr[i]), 2525);
    }
    mx_lookup_release(&m);

    prepare(&m, "six.example");
    resolve(&m);
    assert_int_equal(m.host[0].addr_count, 3);
    for (size_t i = 0; i < 3; i++)
        assert_false(sockaddr_is_ipv6(&m.host[0].addr[i]));
    mx_lookup_release(&m);

    prepare(&m, "only6.example");
    m.want_ipv6 = true;
    resolve(&m);
    assert_int_equal(m.failure, FAILURE_NONE);
    assert_true(m.is_implicit);
    assert_in_range(m.ttl_s, 290, 300);
    mx_lookup_release(&m);
}

static void addresses_that_may_not_be_used_are_not_taken_for_none(void **state) {
    (void)state;
    static const struct {
        const char *domain;
        bool want_ipv6, is_host;
        bool (*has_route)(const struct sockaddr_any *a);
        enum failure failure;
        size_t addresses;
    } cases[] = {
        {"only6.example", true, false, everywhere, FAILURE_NONE, 1},
        {"only6.example", true, false, nowhere, FAILURE_NO_IPV6, 0},
        {"only6.example", false, false, everywhere, FAILURE_NO_IPV6, 0},
        {"only6.example", false, true, everywhere, FAILURE_NO_IPV6, 0},
        {"mx6.example", false, false, everywhere, FAILURE_NO_IPV6, 0},
        {"mx6.example", true, false, nowhere, FAILURE_NO_IPV6, 0},
        {"mx6.example", true, false, everywhere, FAILURE_NONE, 1},
        {"six.example", true, false, nowhere, FAILURE_NONE, 3}, /* no place is lost to them */
        {"six.example", true, false, everywhere, FAILURE_NONE, LIMIT_MX_ADDRESSES},
        {"gone.example", false, false, everywhere, FAILURE_DNS_NO_ADDRESS, 0},
        {"gone.example", true, false, nowhere, FAILURE_DNS_NO_ADDRESS, 0},
        {"sick.example", false, false, everywhere, FAILURE_DNS_TEMPORARY, 0},
        {"[IPv6:2001:db8::5]", false, false, everywhere, FAILURE_NO_IPV6, 0},
        {"[IPv6:2001:DB8::5]", true, false, everywhere, FAILURE_NONE, 1},
        {"2001:db8::5", false, true, everywhere, FAILURE_NONE, 1}, /* the operator wrote it */
        {"[IPv6:::]", true, false, everywhere, FAILURE_DNS_NO_ADDRESS, 0},
        {"[IPv6:::ffff:127.0.0.1]", true, false, everywhere, FAILURE_DNS_NO_ADDRESS, 0},
        {"mapped.example", true, false, everywhere, FAILURE_DNS_NO_ADDRESS, 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct mx_lookup m;
        prepare(&m, cases[i].domain);
        m.want_ipv6 = cases[i].want_ipv6;
        m.is_host = cases[i].is_host;
        m.has_route = cases[i].has_route;
        resolve(&m);
        size_t n = m.count > 0 ? m.host[0].addr_count : 0;
        if (m.failure != cases[i].failure || n != cases[i].addresses)
            fail_msg("%zu %s: %s, %zu addresses", i, cases[i].domain, failure_name(m.failure), n);
        mx_lookup_release(&m);
    }
}

/* A search domain with a wildcard, or another host of that name. */
static void the_addresses_of_a_host_are_of_one_name(void **state) {
    (void)state;
    static const struct {
        const char *host, *want;
    } cases[] = {
        {"four", "four=10.0.0.6:25"},
        {"six", "six=[2001:db8::66]:25"},
        {"x.y", "x.y=10.0.0.8:25"},
        {"dual", "dual=[2001:db8::77]:25=10.0.0.7:25"},
    };
    dns_stop(&dns);
    dns = start_system("search a.example b.example\noptions ndots:5\n",
                       "10.0.0.6 four.a.example six.b.example\n"
                       "2001:db8::66 four.b.example six.a.example\n"
                       "10.0.0.7 dual.a.example\n2001:db8::77 dual.a.example\n"
                       "10.0.0.8 x.y\n2001:db8::88 x.y.b.example\n");
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct mx_lookup m;
        char got[1024];
        prepare(&m, cases[i].host);
        m.is_host = m.want_ipv6 = true;
        resolve(&m);
        text_of(&m, got);
        assert_string_equal(got, cases[i].want);
        mx_lookup_release(&m);
    }
}

static void the_kernel_is_asked_for_a_route(void **state) {
    (void)state;
    /* nothing is sent there; whether there is a route is this machine's, that it answers is ours */
    struct mx_lookup m;
    prepare(&m, "only6.example");
    m.want_ipv6 = true;
    m.has_route = NULL;
    resolve(&m);
    assert_true(m.failure == FAILURE_NONE || m.failure == FAILURE_NO_IPV6);
    mx_lookup_release(&m);
}

static void a_crowd_is_asked_in_batches(void **state) {
    (void)state;
    struct mx_lookup m;
    prepare(&m, "crowd.example");
    resolve(&m);
    assert_int_equal(m.failure, FAILURE_NONE);
    /* 5 without addresses, 5 with three of them, then 5 more: 15 asked, not 32; newer libraries ask
     * again when an answer is empty, which 7 are */
    assert_int_equal(m.count, 8);
    assert_true(str_equal(m.host[0].name, STR("h07.crowd.example")));
    assert_in_range(server.questions, 16, 25);
    size_t commas = 0;
    for (size_t i = 0; i < m.site.n; i++)
        commas += m.site.p[i] == ',';
    assert_int_equal(commas, LIMIT_MX_HOSTS - 1);
    mx_lookup_release(&m);
}

/* What the lookup asks, for as long as it lives. */
static struct dns_query *asked[2 * LIMIT_MX_HOSTS];
static size_t asked_count;

void __real_dns_ask(struct dns *d, struct dns_query *q);
void __wrap_dns_ask(struct dns *d, struct dns_query *q);

void __wrap_dns_ask(struct dns *d, struct dns_query *q) {
    if (asked_count < sizeof asked / sizeof *asked)
        asked[asked_count++] = q;
    __real_dns_ask(d, q);
}

/* A host that keeps silent holds the lookup, but not what the others answered. */
static void while_one_host_is_silent_the_answers_of_others_are_gone(void **state) {
    (void)state;
    struct mx_lookup m;
    prepare(&m, "held.example");
    asked_count = 0;
    mx_resolve(dns, &m);
    int64_t until_mono_ms = clock_mono_ms() + patience_ms(30000);
    while (asked_count < 1 + LIMIT_MX_ADDRESSES + 1 && clock_mono_ms() < until_mono_ms)
        mailbox_wait(box, 20);
    assert_int_equal(asked_count, 1 + LIMIT_MX_ADDRESSES + 1);
    for (size_t i = 0; i <= LIMIT_MX_ADDRESSES; i++) {
        assert_int_equal(asked[i]->failure, FAILURE_NONE);
        assert_null(asked[i]->arena);
    }
    assert_int_equal(answers, 0);
    dns_stop(&dns);
    wait_for(1);
    assert_int_equal(m.failure, FAILURE_SHUTDOWN);
    mx_lookup_release(&m);
}

static void a_stop_ends_lookups_too(void **state) {
    (void)state;
    static struct mx_lookup m[20];
    for (int i = 0; i < 20; i++) {
        char name[32];
        snprintf(name, sizeof name, "n%d.broken.example", i);
        prepare(&m[i], i % 2 ? "order.example" : name);
        m[i].is_host = i % 4 == 0;
        mx_resolve(dns, &m[i]);
    }
    dns_stop(&dns); /* between two questions of some of them */
    wait_for(20);
    for (int i = 0; i < 20; i++) {
        if (m[i].failure != FAILURE_SHUTDOWN && m[i].failure != FAILURE_DNS_NXDOMAIN)
            assert_int_equal(m[i].failure, FAILURE_NONE);
        mx_lookup_release(&m[i]);
    }
}

int main(void) {
#define T(f) cmocka_unit_test_setup_teardown(f, begin, finish)
    const struct CMUnitTest tests[] = {
        T(test_C25_C26_C28_C31_each_domain_leads_where_it_says),
        T(a_domain_leads_to_no_private_network),
        T(test_C27_equals_are_shuffled_by_the_seed),
        T(both_families_take_turns_up_to_the_limit),
        T(addresses_that_may_not_be_used_are_not_taken_for_none),
        T(the_addresses_of_a_host_are_of_one_name),
        T(the_kernel_is_asked_for_a_route),
        T(a_crowd_is_asked_in_batches),
        T(while_one_host_is_silent_the_answers_of_others_are_gone),
        T(a_stop_ends_lookups_too),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
