/* dns against a responder that misbehaves as told. What needs a signed zone and a real resolver is
 * tested end to end. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <semaphore.h>

#include "server/base/limits.h"
#include "tests/unit/log_watch.h"
#include "tests/unit/net/asking.h"
#include "tests/unit/net/system.h"

static const struct rr rows[] = {
    {"a.example", DNS_A, "192.0.2.1", RR_ANSWER},
    {"a.example", DNS_A, "192.0.2.2", RR_ANSWER},
    {"a.example", DNS_AAAA, "2001:db8::1", RR_ANSWER},
    {"m.example", DNS_MX, "20 MX2.Example", RR_ANSWER},
    {"m.example", DNS_MX, "10 mx1.example", RR_ANSWER},
    {"null.example", DNS_MX, "0 .", RR_ANSWER},
    {"odd.example", DNS_MX, "10 bad host.example", RR_ANSWER},
    {"odd.example", DNS_MX, "10 <b>.example", RR_ANSWER},
    {"half.example", DNS_MX, "10 bad host.example", RR_ANSWER},
    {"half.example", DNS_MX, "10 good.example", RR_ANSWER},
    {"t.example", DNS_TXT, "v=DKIM1; |p=abc", RR_ANSWER},
    {"t.example", DNS_TXT, "", RR_ANSWER},
    {"_25._tcp.mx.example", DNS_TLSA, "\\#030101aabbcc", RR_ANSWER},
    {"1.2.0.192.in-addr.arpa", DNS_PTR, "Host.Example", RR_ANSWER},
    {"c.example", DNS_CNAME, "d.example", RR_ANSWER},
    {"d.example", DNS_CNAME, "a.example", RR_ANSWER},
    {"dangling.example", DNS_CNAME, "nowhere.example", RR_ANSWER},
    {"loop.example", DNS_CNAME, "loop.example", RR_ANSWER},
    {"servfail.example", 0, "", RR_SERVFAIL},
    {"refused.example", 0, "", RR_REFUSED},
    {"silent.example", 0, "", RR_DROP},
    {"big.example", DNS_A, "192.0.2.9", RR_TRUNCATE},
    {"lie.example", DNS_A, "192.0.2.66", RR_LIE},
    {"postfix", DNS_A, "10.0.0.5", RR_ANSWER},
    {"app.corp.example", DNS_A, "10.0.0.6", RR_ANSWER},
    {"svc.ns.cluster.local", DNS_A, "10.0.0.7", RR_ANSWER},
    {"box.test", DNS_A, "10.0.0.8", RR_ANSWER},
    {"a.example.cluster.local", DNS_A, "10.0.0.66", RR_ANSWER}, /* a wildcard's trap */
    {0},
};

static int begin(void **state) {
    (void)state;
    return begin_asking(rows);
}

static struct dns *start_plain(void) {
    return start(
        &(struct dns_options){.mode = server.mode, .trust_anchor_file = "", .timeout_ms = 15000});
}

static struct dns_query *ask(struct dns *d, enum dns_type type, const char *name, bool search) {
    struct dns_query *q = mem_zalloc(sizeof *q);
    put_question(d, q, type, name, search);
    return q;
}

static struct dns_query *lookup(struct dns *d, enum dns_type type, const char *name) {
    struct dns_query *q = ask(d, type, name, false);
    wait_for(1);
    return q;
}

static void done(struct dns_query *q) {
    dns_query_release(q);
    free(q);
}

static void records_are_read(void **state) {
    (void)state;
    struct dns *d = start_plain();
    struct dns_query *q = lookup(d, DNS_A, "a.example");
    char ip[SOCKADDR_TEXT_SIZE];
    assert_int_equal(q->failure, FAILURE_NONE);
    assert_int_equal(q->count, 2);
    sockaddr_print_ip(&q->addr[0], ip);
    assert_memory_equal(ip, "192.0.2.", 8);
    assert_in_range(q->ttl_s, 290, 300);
    assert_false(q->is_secure);
    assert_string_equal(q->canonical, "a.example");
    done(q);

    q = lookup(d, DNS_AAAA, "A.Example");
    assert_int_equal(q->count, 1);
    sockaddr_print_ip(&q->addr[0], ip);
    assert_string_equal(ip, "2001:db8::1");
    done(q);

    q = lookup(d, DNS_MX, "m.example");
    assert_int_equal(q->count, 2);
    size_t ten = q->mx[0].preference == 10 ? 0 : 1;
    assert_true(str_equal(q->mx[ten].host, STR("mx1.example")));
    assert_int_equal(q->mx[!ten].preference, 20);
    assert_true(str_equal(q->mx[!ten].host, STR("mx2.example")));
    done(q);

    q = lookup(d, DNS_MX, "null.example");
    assert_int_equal(q->count, 1);
    assert_int_equal(q->mx[0].host.n, 0);
    done(q);

    q = lookup(d, DNS_TXT, "t.example");
    assert_int_equal(q->count, 2);
    size_t full = q->data[0].n ? 0 : 1;
    assert_true(str_equal(q->data[full], STR("v=DKIM1; p=abc")));
    assert_int_equal(q->data[!full].n, 0);
    done(q);

    q = lookup(d, DNS_TLSA, "_25._tcp.mx.example");
    assert_int_equal(q->count, 1);
    assert_true(str_equal(q->data[0], STR("\x03\x01\x01\xaa\xbb\xcc")));
    done(q);

    q = lookup(d, DNS_PTR, "1.2.0.192.in-addr.arpa");
    assert_int_equal(q->count, 1);
    assert_true(str_equal(q->data[0], STR("host.example")));
    done(q);

    q = lookup(d, DNS_A, "c.example");
    assert_int_equal(q->count, 2);
    assert_string_equal(q->canonical, "a.example");
    done(q);
    dns_stop(&d);
    assert_null(d);
}

static void hosts_that_are_no_names_are_left_out(void **state) {
    (void)state;
    struct dns *d = start_plain();
    struct dns_query *q = lookup(d, DNS_MX, "odd.example");
    assert_int_equal(q->failure, FAILURE_NONE); /* not "no such data": no implicit MX */
    assert_int_equal(q->count, 0);
    done(q);
    q = lookup(d, DNS_MX, "half.example");
    assert_int_equal(q->count, 1);
    assert_true(str_equal(q->mx[0].host, STR("good.example")));
    done(q);
    dns_stop(&d);
}

static void each_no_has_its_name(void **state) {
    (void)state;
    static const struct {
        const char *name;
        enum dns_type type;
        enum failure want;
    } table[] = {
        {"nothing.example", DNS_MX, FAILURE_DNS_NXDOMAIN},
        {"a.example", DNS_MX, FAILURE_DNS_NO_ADDRESS},
        {"dangling.example", DNS_A, FAILURE_DNS_NXDOMAIN},
        {"servfail.example", DNS_MX, FAILURE_DNS_TEMPORARY},
        {"refused.example", DNS_MX, FAILURE_DNS_TEMPORARY},
        {"loop.example", DNS_A, FAILURE_DNS_TEMPORARY},
        /* never asked: nothing like these can exist */
        {"", DNS_MX, FAILURE_DNS_NXDOMAIN},
        {".", DNS_MX, FAILURE_DNS_NXDOMAIN},
        {"a..example", DNS_MX, FAILURE_DNS_NXDOMAIN},
        {"a b.example", DNS_MX, FAILURE_DNS_NXDOMAIN},
        {"a\\046b.example", DNS_MX, FAILURE_DNS_NXDOMAIN},
        {"a.example.", DNS_MX, FAILURE_DNS_NXDOMAIN},
        {"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa.example", DNS_MX,
         FAILURE_DNS_NXDOMAIN},
    };
    struct dns *d = start_plain();
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        struct dns_query *q = lookup(d, table[i].type, table[i].name);
        if (q->failure != table[i].want)
            fail_msg("%s: %s", table[i].name, failure_name(q->failure));
        assert_int_equal(q->count, 0);
        done(q);
    }
    dns_stop(&d);
}

static void a_truncated_answer_is_asked_for_again_over_tcp(void **state) {
    (void)state;
    struct dns *d = start_plain();
    struct dns_query *q = lookup(d, DNS_A, "big.example");
    assert_int_equal(q->failure, FAILURE_NONE);
    assert_int_equal(q->count, 1);
    assert_int_equal(server.tcp_questions, 1);
    done(q);
    dns_stop(&d);
}

/* As many as an answer of 64 KiB holds: who asked keeps no more than there is a use for. */
static void of_very_many_records_some_are_kept(void **state) {
    (void)state;
    enum { ADDRESSES = 4000, HOSTS = 2000 };
    static struct rr many[ADDRESSES + HOSTS + 1];
    static char text[ADDRESSES + HOSTS][32];
    for (int i = 0; i < ADDRESSES; i++) {
        snprintf(text[i], sizeof *text, "10.0.%d.%d", i / 250, i % 250 + 1);
        many[i] = (struct rr){"a.example", DNS_A, text[i], RR_TRUNCATE};
    }
    for (int i = ADDRESSES; i < ADDRESSES + HOSTS; i++) {
        snprintf(text[i], sizeof *text, "%d h%d", 10000 - i, i);
        many[i] = (struct rr){"m.example", DNS_MX, text[i], RR_TRUNCATE};
    }
    server.rows = many; /* atomic: the thread sees what was written before */
    struct dns *d = start_plain();
    struct dns_query *q = lookup(d, DNS_A, "a.example");
    assert_int_equal(q->failure, FAILURE_NONE);
    assert_int_equal(q->count, LIMIT_DNS_ADDRESSES);
    assert_true(arena_size(q->arena) < (size_t)64 * 1024);
    done(q);
    q = lookup(d, DNS_MX, "m.example");
    assert_int_equal(q->failure, FAILURE_NONE);
    assert_int_equal(q->count, LIMIT_DNS_RECORDS);
    for (size_t i = 0; i < q->count; i++) /* the best */
        assert_in_range(q->mx[i].preference, 10000 - (ADDRESSES + HOSTS - 1),
                        10000 - (ADDRESSES + HOSTS) + LIMIT_DNS_RECORDS);
    assert_int_equal(server.tcp_questions, 2);
    done(q);
    dns_stop(&d);
}

static void an_answer_for_another_name_is_none(void **state) {
    (void)state;
    struct dns *d = start_plain();
    struct dns_query *q = lookup(d, DNS_A, "lie.example");
    assert_int_not_equal(q->failure, FAILURE_NONE);
    assert_int_equal(q->count, 0);
    done(q);
    q = lookup(d, DNS_A, "elsewhere.example"); /* nor is it remembered */
    assert_int_equal(q->failure, FAILURE_DNS_NXDOMAIN);
    done(q);
    dns_stop(&d);
}

static void silence_ends_at_the_timeout(void **state) {
    (void)state;
    struct dns *d = start(
        &(struct dns_options){.mode = server.mode, .trust_anchor_file = "", .timeout_ms = 200});
    int64_t start_mono_ms = clock_mono_ms();
    struct dns_query *q = lookup(d, DNS_A, "silent.example");
    assert_int_equal(q->failure, FAILURE_DNS_TEMPORARY);
    assert_in_range(clock_mono_ms() - start_mono_ms, 150, 5000);
    done(q);
    dns_stop(&d);
}

static void answers_are_cached(void **state) {
    (void)state;
    struct dns *d = start_plain();
    done(lookup(d, DNS_MX, "m.example"));
    int before = server.questions;
    for (int i = 0; i < 50; i++)
        done(lookup(d, DNS_MX, "M.example"));
    assert_int_equal(server.questions, before);
    dns_stop(&d);
}

static void many_questions_at_once_are_all_answered(void **state) {
    (void)state;
    enum { N = 500 };
    struct dns *d = start_plain();
    static struct dns_query *q[N];
    for (int i = 0; i < N; i++) {
        char name[32];
        snprintf(name, sizeof name, "n%d.example", i);
        q[i] = ask(d, DNS_MX, i % 5 ? name : "m.example", false);
    }
    wait_for(N);
    for (int i = 0; i < N; i++) {
        assert_int_equal(q[i]->failure, i % 5 ? FAILURE_DNS_NXDOMAIN : FAILURE_NONE);
        done(q[i]);
    }
    dns_stop(&d);
}

static void a_stop_answers_what_is_under_way(void **state) {
    (void)state;
    struct dns *d = start_plain();
    struct dns_query *q[3];
    for (int i = 0; i < 3; i++)
        q[i] = ask(d, DNS_A, "silent.example", false);
    dns_stop(&d);
    wait_for(3);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(q[i]->failure, FAILURE_SHUTDOWN);
        done(q[i]);
    }
}

static void await_probe(struct dns *d) {
    int64_t until_mono_ms = clock_mono_ms() + 20000;
    while (!dns_status(d).is_known && clock_mono_ms() < until_mono_ms)
        mailbox_wait(box, 20);
    assert_true(dns_status(d).is_known);
}

static char anchor[64];

/* The responder has no signature for the root, as a resolver that strips. */
static struct dns *start_stripped(void) {
    static const char ds[] = "; the root's\n"
                             ". 3600 IN DS 20326 8 2 "
                             "E06D44B80B8F1D39A95C0B0D7C65D08458E880409BBC683457104237C7F8EC8D\n";
    expect_log("DNSSEC signatures do not come through: no validation, no DANE");
    snprintf(anchor, sizeof anchor, "/tmp/postchute-anchor-XXXXXX");
    int fd = mkstemp(anchor);
    assert_int_equal(write(fd, ds, sizeof ds - 1), sizeof ds - 1);
    close(fd);
    return start(&(struct dns_options){.mode = server.mode, .trust_anchor_file = anchor});
}

static void behind_a_stripping_resolver_answers_still_come(void **state) {
    (void)state;
    struct dns *d = start_stripped();
    struct dns_query *q = ask(d, DNS_MX, "m.example", false); /* before the probe ends */
    wait_for(1);
    assert_int_equal(q->failure, FAILURE_NONE);
    assert_int_equal(q->count, 2);
    assert_false(q->is_secure);
    done(q);
    await_probe(d);
    assert_false(dns_status(d).is_validating);
    assert_non_null(strstr(dns_status(d).text, "off"));
    q = lookup(d, DNS_A, "a.example");
    assert_int_equal(q->failure, FAILURE_NONE);
    done(q);
    dns_stop(&d);
    unlink(anchor);
}

/* More than the library is asked at once, so that most of them wait while the probe finds out. */
static void what_waited_for_the_probe_in_a_crowd_is_asked_without_validation(void **state) {
    (void)state;
    enum { N = 2000 };
    static struct dns_query *q[N];
    struct dns *d = start_stripped();
    char name[64];
    for (int i = 0; i < N; i++) {
        snprintf(name, sizeof name, "n%d.example", i);
        q[i] = ask(d, DNS_A, name, false);
    }
    wait_for(N);
    for (int i = 0; i < N; i++) {
        assert_int_equal(q[i]->failure, FAILURE_DNS_NXDOMAIN);
        done(q[i]);
    }
    dns_stop(&d);
    unlink(anchor);
}

/* It forwards nothing: of the root it knows neither keys nor name servers. */
static void behind_a_resolver_of_our_own_zones_only_answers_still_come(void **state) {
    (void)state;
    static const struct rr own[][3] = {
        {{"", 0, "", RR_REFUSED}, {"a.example", DNS_A, "192.0.2.1", RR_ANSWER}},
        {{"", 0, "", RR_SERVFAIL}, {"a.example", DNS_A, "192.0.2.1", RR_ANSWER}},
    };
    for (size_t i = 0; i < 2; i++) {
        server.rows = own[i];
        struct dns *d = start_stripped();
        struct dns_query *q = lookup(d, DNS_A, "a.example");
        assert_int_equal(q->failure, FAILURE_NONE);
        assert_int_equal(q->count, 1);
        assert_false(q->is_secure);
        done(q);
        q = lookup(d, DNS_A, "nothing.example");
        assert_int_equal(q->failure, FAILURE_DNS_NXDOMAIN);
        done(q);
        assert_true(dns_status(d).is_known);
        assert_false(dns_status(d).is_validating);
        dns_stop(&d);
        unlink(anchor);
    }
}

static void without_an_anchor_nothing_is_validated(void **state) {
    (void)state;
    struct dns *d = start_plain();
    assert_true(dns_status(d).is_known);
    assert_false(dns_status(d).is_validating);
    dns_stop(&d);
}

static void system_mode_knows_the_hosts_file(void **state) {
    (void)state;
    struct dns *d =
        start_system("search corp.example\n",
                     "127.0.0.1 localhost\n10.9.8.7\tmailhub mailhub.corp.example # the relay\n"
                     "garbage line here\n2001:db8::7 six.example\n10.0.0.6 app.corp.example\n");
    static const struct {
        const char *name, *ip;
        enum dns_type type;
        bool search;
    } table[] = {
        {"mailhub", "10.9.8.7", DNS_A, false},
        {"mailhub", "10.9.8.7", DNS_A, true},
        {"MAILHUB", "10.9.8.7", DNS_A, true},
        {"mailhub.corp.example", "10.9.8.7", DNS_A, true},
        {"app", "10.0.0.6", DNS_A, true},
        {"localhost", "127.0.0.1", DNS_A, false},
        {"six.example", "2001:db8::7", DNS_AAAA, false},
    };
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        struct dns_query *q = ask(d, table[i].type, table[i].name, table[i].search);
        wait_for(1);
        char ip[SOCKADDR_TEXT_SIZE];
        if (q->count != 1)
            fail_msg("%s: %s", table[i].name, failure_name(q->failure));
        sockaddr_print_ip(&q->addr[0], ip);
        assert_string_equal(ip, table[i].ip);
        done(q);
    }
    struct dns_query *q = ask(d, DNS_A, "app", true);
    wait_for(1);
    assert_string_equal(q->canonical, "app.corp.example");
    done(q);
    q = lookup(d, DNS_MX, "mailhub");
    assert_int_equal(q->failure, FAILURE_DNS_NO_ADDRESS); /* so that its address is its MX */
    done(q);
    dns_stop(&d);
}

/* A search domain with a wildcard. */
static void a_name_that_is_there_is_not_looked_for_in_the_search_list(void **state) {
    (void)state;
    struct dns *d = start_system("search corp.example\noptions ndots:5\n",
                                 "10.0.0.6 x.y\n2001:db8::66 x.y.corp.example\n"
                                 "10.0.0.7 z.corp.example\n");
    static const struct {
        const char *name;
        enum dns_type type;
        enum failure want;
    } table[] = {
        {"x.y", DNS_A, FAILURE_NONE},
        {"x.y", DNS_AAAA, FAILURE_DNS_NO_ADDRESS},
        {"z", DNS_A, FAILURE_NONE},
    };
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        struct dns_query *q = ask(d, table[i].type, table[i].name, true);
        wait_for(1);
        if (q->failure != table[i].want)
            fail_msg("%s %d: %s", table[i].name, table[i].type, failure_name(q->failure));
        assert_int_equal(q->name_at, 0);
        done(q);
    }
    dns_stop(&d);
}

static void of_two_answers_the_name_found_first_counts(void **state) {
    (void)state;
    struct dns *d =
        start_system("search a.example b.example\n", "10.0.0.6 four.a.example six.b.example\n"
                                                     "2001:db8::66 four.b.example six.a.example\n"
                                                     "10.0.0.7 dual.b.example\n"
                                                     "2001:db8::77 dual.b.example\n");
    static const struct {
        const char *name;
        enum failure a, aaaa;
    } table[] = {
        {"four", FAILURE_NONE, FAILURE_DNS_NO_ADDRESS},
        {"six", FAILURE_DNS_NO_ADDRESS, FAILURE_NONE},
        {"dual.b.example", FAILURE_NONE, FAILURE_NONE},
    };
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        struct dns_query *a = ask(d, DNS_A, table[i].name, true);
        struct dns_query *aaaa = ask(d, DNS_AAAA, table[i].name, true);
        wait_for(2);
        assert_int_equal(a->failure, FAILURE_NONE);
        assert_int_equal(aaaa->failure, FAILURE_NONE);
        dns_keep_first_name(a, aaaa);
        assert_int_equal(a->failure, table[i].a);
        assert_int_equal(a->count, table[i].a == FAILURE_NONE);
        assert_int_equal(aaaa->failure, table[i].aaaa);
        assert_int_equal(aaaa->count, table[i].aaaa == FAILURE_NONE);
        done(a);
        done(aaaa);
    }
    dns_stop(&d);
}

/* What a family of addresses was not told of is no reason to do without the other. */
static void what_was_found_is_kept_beside_a_failure(void **state) {
    (void)state;
    static const struct {
        enum failure of_a;
        bool is_past_a_name, keeps;
    } table[] = {
        {FAILURE_DNS_TEMPORARY, false, true}, /* not there, says who answers */
        {FAILURE_DNS_BOGUS, false, true},     {FAILURE_DNS_NO_ADDRESS, false, true},
        {FAILURE_DNS_TEMPORARY, true, false}, /* there: its address may be what was not told */
        {FAILURE_NONE, false, false},
    };
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        struct dns_query a = {.failure = table[i].of_a, .name_at = 0};
        struct dns_query aaaa = {.name_at = 1, .is_past_a_name = table[i].is_past_a_name};
        dns_keep_first_name(&a, &aaaa);
        assert_int_equal(aaaa.failure, table[i].keeps ? FAILURE_NONE : FAILURE_DNS_NO_ADDRESS);
        assert_int_equal(a.failure, table[i].of_a);
    }
}

static void names_of_private_networks_are_asked_upstream(void **state) {
    (void)state;
    struct dns *d = start_plain();
    static const char *const names[] = {"postfix", "box.test", "svc.ns.cluster.local"};
    for (size_t i = 0; i < 3; i++) {
        struct dns_query *q = lookup(d, DNS_A, names[i]);
        assert_int_equal(q->count, 1);
        done(q);
    }
    dns_stop(&d);
}

static void wrong_options_are_refused(void **state) {
    (void)state;
    static const struct dns_options table[] = {
        {.mode = "sytem"},
        {.mode = ""},
        {.mode = "192.0.2.1,"},
        {.mode = "192.0.2.1@0"},
        {.mode = "192.0.2.1@70000"},
        {.mode = "192.0.2.1:53"},
        {.mode = "recursive", .trust_anchor_file = "/nonexistent/anchor"},
        {.mode = "recursive", .trust_anchor_file = "/dev/null"},
        {.mode = "recursive", .trust_anchor_file = "", .root_hints_file = "/nonexistent/hints"},
        {.mode = "recursive", .trust_anchor_file = "", .root_hints_file = "/dev/null"},
        {.mode = "system", .resolv_conf = "/nonexistent/resolv.conf", .trust_anchor_file = ""},
    };
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        struct dns *d;
        struct errinfo info = {0};
        assert_int_equal(dns_start(&table[i], &d, &info), ERR_INVALID);
        assert_null(d);
        bool is_anchor = table[i].trust_anchor_file && table[i].trust_anchor_file[0];
        assert_string_equal(info.field, table[i].root_hints_file ? "dns_root_hints"
                                        : is_anchor              ? "dns_trust_anchor"
                                                                 : "dns");
        assert_true(info.text[0] != 0);
        if (!table[i].resolv_conf) { /* which only the start reads */
            assert_int_equal(dns_check(&table[i], &info), ERR_INVALID);
        }
    }
}

int main(void) {
#define T(f) cmocka_unit_test_setup_teardown(f, begin, end_asking)
    const struct CMUnitTest tests[] = {
        T(records_are_read),
        T(hosts_that_are_no_names_are_left_out),
        T(each_no_has_its_name),
        T(a_truncated_answer_is_asked_for_again_over_tcp),
        T(of_very_many_records_some_are_kept),
        T(an_answer_for_another_name_is_none),
        T(silence_ends_at_the_timeout),
        T(answers_are_cached),
        T(many_questions_at_once_are_all_answered),
        T(a_stop_answers_what_is_under_way),
        T(behind_a_stripping_resolver_answers_still_come),
        T(what_waited_for_the_probe_in_a_crowd_is_asked_without_validation),
        T(behind_a_resolver_of_our_own_zones_only_answers_still_come),
        T(without_an_anchor_nothing_is_validated),
        T(system_mode_knows_the_hosts_file),
        T(a_name_that_is_there_is_not_looked_for_in_the_search_list),
        T(of_two_answers_the_name_found_first_counts),
        T(what_was_found_is_kept_beside_a_failure),
        T(names_of_private_networks_are_asked_upstream),
        T(wrong_options_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
