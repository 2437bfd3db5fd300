#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "server/intake/rights.h"

/* acme.test and münchen.test and ours.other.test are ours (project 1), other.test is project 2's,
 * who says that co.test and said.acme.test are as well. */
static struct domains *world_domains(void) {
    const struct domain_row rows[] = {
        {.project = 1, .name = STR("acme.test"), .verified_wall_ms = 1},
        {.project = 1, .name = STR("xn--mnchen-3ya.test")},
        {.project = 2, .name = STR("other.test"), .verified_wall_ms = 1},
        {.project = 1, .name = STR("ours.other.test"), .verified_wall_ms = 1},
        {.project = 1, .name = STR("said.other.test")},
        {.project = 2, .name = STR("co.test")},
        {.project = 2, .name = STR("said.acme.test")},
    };
    return domains_new(rows, 7);
}

struct row {
    const char *name, *from, *sender; /* sender NULL: none */
    const char *rule;                 /* NULL: none */
    enum { MAY, MAY_NOT, NO_ADDRESS } want;
};

static const struct row rows[] = {
    {"same domain", "a@acme.test", NULL, "acme.test", MAY},
    {"upper case address", "a@ACME.TEST", NULL, "acme.test", MAY},
    {"upper case rule", "a@acme.test", NULL, "ACME.Test", MAY},
    {"trailing dot of the address", "a@acme.test.", NULL, "acme.test", NO_ADDRESS},
    {"trailing dot of the rule", "a@acme.test", NULL, "acme.test.", MAY},
    {"display name", "Ann <a@acme.test>", NULL, "acme.test", MAY},
    {"display name that looks like an address", "\"a@acme.test\" <x@evil.test>", NULL, "acme.test",
     MAY_NOT},
    {"display name without quotes that has an at sign", "a@acme.test <x@evil.test>", NULL,
     "acme.test", NO_ADDRESS},
    {"other domain", "a@evil.test", NULL, "acme.test", MAY_NOT},
    {"longer name with the same end", "a@notacme.test", NULL, "acme.test", MAY_NOT},
    {"longer name with the same beginning", "a@acme.test.evil.test", NULL, "acme.test", MAY_NOT},
    {"hyphen before", "a@my-acme.test", NULL, "acme.test", MAY_NOT},
    {"subdomain under an exact rule", "a@sub.acme.test", NULL, "acme.test", MAY_NOT},
    {"subdomain under a rule for subdomains", "a@sub.acme.test", NULL, "*.acme.test", MAY},
    {"deep subdomain", "a@x.y.acme.test", NULL, "*.acme.test", MAY},
    {"the domain itself under a rule for subdomains", "a@acme.test", NULL, "*.acme.test", MAY_NOT},
    {"no dot before, under a rule for subdomains", "a@notacme.test", NULL, "*.acme.test", MAY_NOT},
    {"subdomain in upper case", "a@SUB.ACME.test", NULL, "*.acme.test", MAY},
    {"IDN as U-label", "a@m\xc3\xbcnchen.test", NULL, "xn--mnchen-3ya.test", MAY},
    {"IDN as A-label", "a@xn--mnchen-3ya.test", NULL, "m\xc3\xbcnchen.test", MAY},
    {"IDN in upper case", "a@M\xc3\x9cNCHEN.test", NULL, "xn--mnchen-3ya.test", MAY},
    {"IDN decomposed", "a@mu\xcc\x88nchen.test", NULL, "xn--mnchen-3ya.test", MAY},
    {"IDN against its plain spelling", "a@munchen.test", NULL, "xn--mnchen-3ya.test", MAY_NOT},
    {"homograph: Cyrillic a", "a@\xd0\xb0\x63me.test", NULL, "acme.test", MAY_NOT},
    {"fullwidth letters", "a@\xef\xbd\x81\xef\xbd\x83\xef\xbd\x8d\xef\xbd\x85.test", NULL,
     "acme.test", MAY},
    {"ideographic full stop", "a@acme\xe3\x80\x82test", NULL, "acme.test", MAY},
    {"quoted local part with an at sign", "\"a@evil.test\"@acme.test", NULL, "acme.test",
     NO_ADDRESS},
    {"quoted at sign of ours at a foreign domain", "\"a@acme.test\"@evil.test", NULL, "acme.test",
     NO_ADDRESS},
    {"two at signs", "a@acme.test@evil.test", NULL, "acme.test", NO_ADDRESS},
    {"two addresses", "a@acme.test, x@evil.test", NULL, "acme.test", NO_ADDRESS},
    {"two addresses, foreign first", "x@evil.test, a@acme.test", NULL, "acme.test", NO_ADDRESS},
    {"group", "Team: a@acme.test;", NULL, "acme.test", NO_ADDRESS},
    {"comment", "a@acme.test (x@evil.test)", NULL, "acme.test", NO_ADDRESS},
    {"comment in the domain", "a@acme.test(evil)", NULL, "acme.test", NO_ADDRESS},
    {"source route", "<@evil.test:a@acme.test>", NULL, "acme.test", NO_ADDRESS},
    {"percent hack", "x%evil.test@acme.test", NULL, "acme.test", MAY},
    {"encoded word is no address", "=?utf-8?q?a=40acme=2Etest?=", NULL, "acme.test", NO_ADDRESS},
    {"encoded word as name of a foreign address", "=?utf-8?q?a=40acme.test?= <x@evil.test>", NULL,
     "acme.test", MAY_NOT},
    {"address literal", "a@[192.0.2.1]", NULL, "acme.test", MAY_NOT},
    {"line end in the domain", "a@acme.test\r\nBcc: x@evil.test", NULL, "acme.test", NO_ADDRESS},
    {"NUL escape is text", "a@acme.test%00.evil.test", NULL, "acme.test", NO_ADDRESS},
    {"sender of ours", "a@acme.test", "b@acme.test", "acme.test", MAY},
    {"foreign sender", "a@acme.test", "b@evil.test", "acme.test", MAY_NOT},
    {"foreign from with a sender of ours", "a@evil.test", "b@acme.test", "acme.test", MAY_NOT},
    {"no rule, domain of nobody", "a@evil.test", NULL, NULL, MAY},
    {"no rule, domain of ours", "a@acme.test", NULL, NULL, MAY},
    {"no rule, domain of another project", "a@other.test", NULL, NULL, MAY_NOT},
    {"no rule, below a domain of another project", "a@x.other.test", NULL, NULL, MAY_NOT},
    {"no rule, far below one", "a@x.y.z.other.test", NULL, NULL, MAY_NOT},
    {"no rule, ours below one of another project", "a@ours.other.test", NULL, NULL, MAY},
    {"no rule, below one of another project, and not proved", "a@said.other.test", NULL, NULL,
     MAY_NOT},
    {"no rule, below ours below one of another project", "a@x.ours.other.test", NULL, NULL, MAY},
    {"no rule, same end as one of another project", "a@another.test", NULL, NULL, MAY},
    {"a rule gives nothing below a domain of another project", "a@x.other.test", NULL,
     "*.other.test", MAY_NOT},
    {"no rule, a domain that another project did not prove", "a@co.test", NULL, NULL, MAY_NOT},
    {"no rule, below a domain that another project did not prove", "a@x.co.test", NULL, NULL, MAY},
    {"no rule, below ours, though another project says that it is its", "a@said.acme.test", NULL,
     NULL, MAY},
    {"no rule, below that", "a@x.said.acme.test", NULL, NULL, MAY},
    {"a rule gives no domain of another project", "a@other.test", NULL, "other.test", MAY_NOT},
    {"no rule, foreign project as sender", "a@acme.test", "b@OTHER.test", NULL, MAY_NOT},
};

static void test_T11_from_table(void **state) {
    struct domains *domains = world_domains();
    (void)state;
    assert_true(sizeof(rows) / sizeof(rows[0]) >= 40);
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct arena *a = arena_new();
        struct faults faults;
        struct submission s = {0};
        struct errinfo info = {0};
        struct str rule = STR_NONE;
        struct rights rights = {.project = 1, .from_domains = &rule};
        faults_init(&faults, a);
        bool is_address = address_parse_named(&s.from, str_of(rows[i].from), a, &info) == OK;
        if (is_address != (rows[i].want != NO_ADDRESS))
            fail_msg("%s: %s an address", rows[i].name, is_address ? "is" : "is not");
        if (rows[i].sender != NULL)
            assert_int_equal(address_parse(&s.sender, str_of(rows[i].sender), a, &info), OK);
        if (rows[i].rule != NULL) {
            assert_int_equal(rights_rule_parse(str_of(rows[i].rule), a, &rule, &info), OK);
            rights.from_domain_count = 1;
        }
        if (is_address) {
            bool may = rights_check(&rights, domains, &s, &faults);
            if (may != (rows[i].want == MAY))
                fail_msg("%s: %s", rows[i].name, may ? "may" : "may not");
            assert_int_equal(faults.count == 0, may);
        }
        arena_free(&a);
    }
    domains_unref(&domains);
}

static void test_fault_points_at_the_address(void **state) {
    struct arena *a = arena_new();
    struct domains *domains = world_domains();
    struct faults faults;
    struct submission s = {0};
    struct str rule = STR("acme.test");
    struct rights rights = {.project = 1, .from_domains = &rule, .from_domain_count = 1};
    (void)state;
    faults_init(&faults, a);
    assert_int_equal(address_parse(&s.from, STR("a@evil.test"), a, NULL), OK);
    assert_int_equal(address_parse(&s.sender, STR("b@evil.test"), a, NULL), OK);
    assert_false(rights_check(&rights, domains, &s, &faults));
    assert_int_equal(faults.count, 2);
    assert_true(str_equal(faults.list[0].pointer, STR("#/from")));
    assert_true(str_equal(faults.list[1].pointer, STR("#/sender")));
    assert_string_equal(faults.list[0].code, "domain_not_allowed");
    domains_unref(&domains);
    arena_free(&a);
}

static void test_rules_that_are_none(void **state) {
    static const char *const bad[] = {"",           "*",           "*.",         "acme",
                                      "*.*.test",   "a@acme.test", "acme .test", "*acme.test",
                                      ".acme.test", "acme..test",  "[192.0.2.1]"};
    struct arena *a = arena_new();
    (void)state;
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        struct str out;
        struct errinfo info = {0};
        if (rights_rule_parse(str_of(bad[i]), a, &out, &info) != ERR_INVALID)
            fail_msg("%s: taken as %.*s", bad[i], STR_ARG(out));
    }
    arena_free(&a);
}

static void test_domains_are_found_by_name(void **state) {
    struct domains *d = world_domains();
    (void)state;
    assert_non_null(domains_find(d, 1, STR("acme.test")));
    assert_true(domains_find(d, 1, STR("acme.test"))->is_verified);
    assert_false(domains_find(d, 1, STR("xn--mnchen-3ya.test"))->is_verified);
    assert_int_equal(domains_find(d, 2, STR("other.test"))->project, 2);
    assert_null(domains_find(d, 1, STR("other.test")));
    assert_null(domains_find(d, 1, STR("sub.acme.test")));
    assert_null(domains_find(d, 1, STR("")));
    domains_unref(&d);
}

static void test_domains_are_counted_by_project(void **state) {
    static const struct domain_row of_both[] = {{.project = 1, .name = STR("a.test")},
                                                {.project = 2, .name = STR("b.test")},
                                                {.project = 1, .name = STR("c.test")},
                                                {.project = 1, .name = STR("d.test")}};
    (void)state;
    for (size_t n = 0; n <= 4; n++) {
        static const size_t want[] = {0, 1, 1, 2, 3};
        struct domains *d = domains_new(of_both, n);
        assert_int_equal(domains_count(d, 1), want[n]);
        assert_int_equal(domains_count(d, 2), n > 1);
        assert_int_equal(domains_count(d, 3), 0);
        domains_unref(&d);
    }
}

static void test_domains_live_as_long_as_their_last_holder(void **state) {
    (void)state;
    struct domains *d = world_domains(), *held = domains_ref(d);
    domains_unref(&d);
    assert_null(d);
    assert_non_null(domains_find(held, 1, STR("acme.test")));
    domains_unref(&held);
    domains_unref(&held); /* nobody: nothing */
}

/* Two projects have one name, in whatever order they are read; a third has not. */
static void test_T11_a_name_that_two_projects_have_is_theirs_who_proved_it(void **state) {
    static const struct {
        const char *name, *asked;
        struct domain_row row[2]; /* of projects 1 and 2 */
        bool may[3];              /* of projects 1, 2 and 3 */
    } cases[] = {
        {"one proved it",
         "ours.test",
         {{.verified_wall_ms = 9, .created_wall_ms = 2}, {.created_wall_ms = 1}},
         {true, false, false}},
        {"the later one proved it",
         "ours.test",
         {{.created_wall_ms = 1}, {.verified_wall_ms = 9, .created_wall_ms = 2}},
         {false, true, false}},
        {"both proved it",
         "ours.test",
         {{.verified_wall_ms = 9, .created_wall_ms = 1},
          {.verified_wall_ms = 9, .created_wall_ms = 2}},
         {true, true, false}},
        {"nobody proved it",
         "ours.test",
         {{.created_wall_ms = 2}, {.created_wall_ms = 1}},
         {false, true, false}},
        {"below it, one proved it",
         "x.ours.test",
         {{.verified_wall_ms = 9, .created_wall_ms = 2}, {.created_wall_ms = 1}},
         {true, false, false}},
        {"below it, both proved it",
         "x.ours.test",
         {{.verified_wall_ms = 9, .created_wall_ms = 1},
          {.verified_wall_ms = 9, .created_wall_ms = 2}},
         {true, true, false}},
        {"below it, nobody proved it",
         "x.ours.test",
         {{.created_wall_ms = 2}, {.created_wall_ms = 1}},
         {true, true, true}},
    };
    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        for (int way = 0; way < 2; way++) {
            struct domain_row row[4] = {{.project = 1, .name = STR("a.test")},
                                        cases[i].row[way],
                                        cases[i].row[1 - way],
                                        {.project = 2, .name = STR("z.test")}};
            row[1].project = way + 1;
            row[2].project = 2 - way;
            row[1].name = row[2].name = STR("ours.test");
            struct domains *d = domains_new(row, 4);
            for (int64_t project = 1; project <= 3; project++) {
                const struct rights r = {.project = project};
                if (rights_allow_domain(&r, d, str_of(cases[i].asked)) != cases[i].may[project - 1])
                    fail_msg("%s: project %d", cases[i].name, (int)project);
            }
            domains_unref(&d);
        }
}

/* A bounce address says whose Sender it was: of ours. */
static void test_T11_a_bounce_address_of_another_project_is_no_sender_of_ours(void **state) {
    const struct domain_row row[] = {
        {.project = 1, .name = STR("ours.test"), .bounce_address = STR("b@far.test")},
        {.project = 2, .name = STR("ours.test"), .bounce_address = STR("spy@evil.test")}};
    struct str rule = STR("ours.test");
    const struct rights r = {.project = 1, .from_domains = &rule, .from_domain_count = 1};
    (void)state;
    struct domains *d = domains_new(row, 2);
    assert_true(str_equal(domains_find(d, 1, rule)->bounce_address, STR("b@far.test")));
    assert_true(str_equal(domains_find(d, 2, rule)->bounce_address, STR("spy@evil.test")));
    assert_true(rights_allow_stored(&r, d, rule, STR("b@far.test")));
    assert_false(rights_allow_stored(&r, d, rule, STR("spy@evil.test")));
    domains_unref(&d);
}

static void test_T11_bounces_go_to_no_domain_of_another_project(void **state) {
    static const struct {
        const char *address;
        bool may;
    } cases[] = {
        {"b@nobodys.test", true},  {"b@acme.test", true},        {"b@ours.other.test", true},
        {"b@x.co.test", true},     {"b@co.test", false},         {"b@other.test", false},
        {"b@x.other.test", false}, {"b@said.other.test", false}, {"", false},
    };
    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct str set = str_of(cases[i].address);
        const struct domain_row row[] = {
            {.project = 1, .name = STR("acme.test"), .bounce_address = set, .verified_wall_ms = 1},
            {.project = 2, .name = STR("other.test"), .verified_wall_ms = 1},
            {.project = 1, .name = STR("ours.other.test"), .verified_wall_ms = 1},
            {.project = 1, .name = STR("said.other.test")},
            {.project = 2, .name = STR("co.test")},
        };
        struct domains *d = domains_new(row, 5);
        struct str found = domains_bounce_address(d, 1, STR("acme.test"));
        if (str_is_absent(found) == cases[i].may || (cases[i].may && !str_equal(found, set)))
            fail_msg("%s: %.*s", cases[i].address, STR_ARG(found));
        assert_true(str_is_absent(domains_bounce_address(d, 1, STR("other.test"))));
        assert_true(str_is_absent(domains_bounce_address(d, 2, STR("acme.test"))));
        domains_unref(&d);
    }
}

static void test_T11_stored_message_takes_the_rights_of_its_sender(void **state) {
    static const struct {
        const char *name, *from_domain, *mail_from, *rules[2];
        bool may;
    } cases[] = {
        {"From alone", "a.test", "x@a.test", {"a.test"}, true},
        {"other From", "b.test", "x@b.test", {"a.test"}, false},
        {"other Sender", "a.test", "x@b.test", {"a.test"}, false},
        {"other Sender that it may use", "a.test", "x@b.test", {"a.test", "b.test"}, true},
        {"other Sender, no rules", "a.test", "x@b.test", {NULL}, true},
        {"From's bounce address", "a.test", "bounces@far.test", {"a.test"}, true},
        {"From's bounce address, by a rule for what is below",
         "c.a.test",
         "b@c.a.test",
         {"*.a.test"},
         true},
        {"bounce address of another Sender", "b.test", "bounces@far.test", {"b.test"}, false},
        {"bounce address of a Sender that it may use",
         "b.test",
         "bounces@far.test",
         {"b.test", "a.test"},
         true},
        {"the same with its rules the other way round",
         "b.test",
         "bounces@far.test",
         {"a.test", "b.test"},
         true},
        {"bounce address that was changed since", "a.test", "old@far.test", {"a.test"}, false},
        {"an at sign in the local part", "a.test", "\"x@a.test\"@b.test", {"a.test"}, false},
    };
    const struct domain_row domain[] = {
        {.project = 1, .name = STR("a.test"), .bounce_address = STR("bounces@far.test")},
        {.project = 1, .name = STR("b.test")}};
    (void)state;
    struct domains *d = domains_new(domain, 2);
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct str rules[2];
        struct rights r = {.project = 1, .from_domains = rules};
        while (r.from_domain_count < 2 && cases[i].rules[r.from_domain_count] != NULL) {
            rules[r.from_domain_count] = str_of(cases[i].rules[r.from_domain_count]);
            r.from_domain_count++;
        }
        if (rights_allow_stored(&r, d, str_of(cases[i].from_domain), str_of(cases[i].mail_from)) !=
            cases[i].may)
            fail_msg("%s", cases[i].name);
    }
    domains_unref(&d);
}

static void test_a_rule_is_within_another_when_it_covers_nothing_else(void **state) {
    static const struct {
        const char *rule, *outer;
        bool is_within;
    } cases[] = {
        {"acme.test", "acme.test", true},        {"*.acme.test", "*.acme.test", true},
        {"a.acme.test", "*.acme.test", true},    {"*.a.acme.test", "*.acme.test", true},
        {"acme.test", "*.acme.test", false},     {"*.acme.test", "acme.test", false},
        {"a.acme.test", "acme.test", false},     {"*.a.acme.test", "acme.test", false},
        {"*.acme.test", "*.a.acme.test", false}, {"*.xacme.test", "*.acme.test", false},
        {"*.test", "*.acme.test", false},        {"other.test", "acme.test", false},
    };
    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        if (rights_rule_is_within(str_of(cases[i].rule), str_of(cases[i].outer)) !=
            cases[i].is_within)
            fail_msg("%s in %s", cases[i].rule, cases[i].outer);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_T11_from_table),
        cmocka_unit_test(test_fault_points_at_the_address),
        cmocka_unit_test(test_rules_that_are_none),
        cmocka_unit_test(test_T11_a_name_that_two_projects_have_is_theirs_who_proved_it),
        cmocka_unit_test(test_T11_a_bounce_address_of_another_project_is_no_sender_of_ours),
        cmocka_unit_test(test_T11_bounces_go_to_no_domain_of_another_project),
        cmocka_unit_test(test_T11_stored_message_takes_the_rights_of_its_sender),
        cmocka_unit_test(test_a_rule_is_within_another_when_it_covers_nothing_else),
        cmocka_unit_test(test_domains_are_found_by_name),
        cmocka_unit_test(test_domains_are_counted_by_project),
        cmocka_unit_test(test_domains_live_as_long_as_their_last_holder),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
