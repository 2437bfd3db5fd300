/* Every rule matches its examples, and misses what it must miss. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <pthread.h>

#include "server/mail/rules.h"

static enum stage first_stage(const struct rule *r) {
    for (int s = 0; s < STAGE_COUNT; s++)
        if (r->stages & (1u << s))
            return (enum stage)s;
    return STAGE_END;
}

static void test_every_rule_has_lines_that_match_and_lines_that_do_not(void **state) {
    (void)state;
    for (size_t i = 0; i < rules_count(); i++) {
        const struct rule *r = rules_at(i);
        if (!r->match[0] || !r->miss[0])
            fail_msg("rule %s lacks an example", r->name);
        for (size_t j = 0; j < 4 && r->match[j]; j++)
            if (!rule_matches(i, str_of(r->match[j])))
                fail_msg("rule %s misses: %s", r->name, r->match[j]);
        for (size_t j = 0; j < 3 && r->miss[j]; j++)
            if (rule_matches(i, str_of(r->miss[j])))
                fail_msg("rule %s matches: %s", r->name, r->miss[j]);
    }
}

/* What stands first wins, so a rule that is shadowed by an earlier one is dead weight. */
static void test_every_example_finds_its_own_class(void **state) {
    (void)state;
    for (size_t i = 0; i < rules_count(); i++) {
        const struct rule *r = rules_at(i);
        for (size_t j = 0; j < 4 && r->match[j]; j++) {
            int code = r->digit == '4' ? 450 : 550;
            const struct rule *found = rules_find(code, str_of(r->match[j]), first_stage(r));
            if (!found || found->class_ != r->class_)
                fail_msg("rule %s: %s is found by %s", r->name, r->match[j],
                         found ? found->name : "none");
        }
    }
}

static void test_an_address_in_the_reply_is_no_word_of_the_server(void **state) {
    (void)state;
    const struct rule *r = rules_find(
        550, STR("<spamhaus@spam.example>: Recipient address rejected: User unknown"), STAGE_RCPT);
    assert_non_null(r);
    assert_int_equal(r->class_, CLASS_INVALID_RECIPIENT);
    assert_null(rules_find(550, STR("greylisted@x.example virus@y.example"), STAGE_RCPT));
}

static void test_a_phrase_that_is_wrapped_over_lines_is_found(void **state) {
    (void)state;
    const struct rule *r = rules_find(
        550, STR("The email account that you tried to reach does not\nexist."), STAGE_RCPT);
    assert_non_null(r);
    assert_int_equal(r->class_, CLASS_INVALID_RECIPIENT);
}

/* Built to make a backtracking matcher run for ever; must come back, and soon. */
static void test_hostile_text_is_bounded(void **state) {
    (void)state;
    static char text[65536];
    static const char *const seeds[] = {"account ", "ip ",      "sender ",
                                        "a@",       "message ", "quota over "};
    for (size_t k = 0; k < sizeof(seeds) / sizeof(seeds[0]); k++) {
        size_t n = strlen(seeds[k]);
        for (size_t i = 0; i + n <= sizeof(text); i += n)
            memcpy(text + i, seeds[k], n);
        struct timespec a, b;
        clock_gettime(CLOCK_THREAD_CPUTIME_ID, &a);
        (void)rules_find(550, str_make(text, sizeof(text)), STAGE_RCPT);
        clock_gettime(CLOCK_THREAD_CPUTIME_ID, &b);
        assert_true((b.tv_sec - a.tv_sec) * 1000 + (b.tv_nsec - a.tv_nsec) / 1000000 < 500);
    }
}

static void *look_up(void *arg) {
    size_t *found = arg;
    for (size_t round = 0; round < 50; round++)
        for (size_t i = 0; i < rules_count(); i++)
            *found += rule_matches(i, str_of(rules_at(i)->match[0]));
    return NULL;
}

/* Whoever comes first compiles them, and then all look at the same (run under TSan). */
static void test_many_threads_at_once(void **state) {
    (void)state;
    pthread_t thread[4];
    size_t found[4] = {0};
    for (size_t i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&thread[i], NULL, look_up, &found[i]), 0);
    for (size_t i = 0; i < 4; i++) {
        pthread_join(thread[i], NULL);
        assert_int_equal(found[i], 50 * rules_count());
    }
}

static void test_empty_text_finds_nothing(void **state) {
    (void)state;
    assert_null(rules_find(550, STR(""), STAGE_RCPT));
    assert_null(rules_find(550, STR_NONE, STAGE_RCPT));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_many_threads_at_once),
        cmocka_unit_test(test_every_rule_has_lines_that_match_and_lines_that_do_not),
        cmocka_unit_test(test_every_example_finds_its_own_class),
        cmocka_unit_test(test_an_address_in_the_reply_is_no_word_of_the_server),
        cmocka_unit_test(test_a_phrase_that_is_wrapped_over_lines_is_found),
        cmocka_unit_test(test_hostile_text_is_bounded),
        cmocka_unit_test(test_empty_text_finds_nothing),
    };
    return cmocka_run_group_tests_name("rules", tests, NULL, NULL);
}
