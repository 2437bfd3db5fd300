#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "server/events/standing.h"

enum { TIMEOUT_MS = 1000, QUICK = 10, HALF = 500, SLOW = 501, LATE = 900, OVER = 1003 };

static struct id number(uint8_t n) {
    struct id id = {0};
    id.b[0] = n;
    id.b[15] = 1;
    return id;
}

static void an_endpoint_may_have_as_many_as_its_answers_earn(void **state) {
    (void)state;
    static const struct {
        int64_t took_ms;
        size_t want;
    } table[] = {
        {QUICK, 4}, {HALF, 8},  {QUICK, 8}, /* it has earned the most */
        {SLOW, 2},  {SLOW, 2},  {QUICK, 4}, /* slow is as new */
        {OVER, 1},  {OVER, 1},  {LATE, 1},  /* never answered is the least */
        {SLOW, 1},  {QUICK, 2}, {QUICK, 4}, {QUICK, 8}, {QUICK, 8}, /* and back again */
    };
    struct standing s = {0};
    struct id one = number(1), other = number(2);
    assert_int_equal(standing_get(&s, &one), STANDING_START);
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        standing_note(&s, &one, table[i].took_ms, TIMEOUT_MS);
        if (standing_get(&s, &one) != table[i].want)
            fail_msg("after answer %zu: %zu", i, standing_get(&s, &one));
        assert_int_equal(standing_get(&s, &other), STANDING_START);
    }
    standing_release(&s);
}

static void a_claim_is_told_of_those_that_are_not_as_new(void **state) {
    (void)state;
    struct standing s = {0};
    struct notify_share *share = NULL;
    struct id ids[] = {number(1), number(2), number(3)};
    assert_int_equal(standing_copy(&s, &share), 0);
    standing_note(&s, &ids[0], OVER, TIMEOUT_MS);
    standing_note(&s, &ids[1], QUICK, TIMEOUT_MS);
    standing_note(&s, &ids[2], SLOW, TIMEOUT_MS);
    assert_int_equal(standing_copy(&s, &share), 2);
    assert_true(id_equal(&share[0].webhook_id, &ids[0]));
    assert_int_equal(share[0].most, STANDING_LEAST);
    assert_true(id_equal(&share[1].webhook_id, &ids[1]));
    assert_int_equal(share[1].most, 4);
    standing_note(&s, &ids[0], QUICK, TIMEOUT_MS);
    assert_int_equal(standing_copy(&s, &share), 1);
    assert_true(id_equal(&share[0].webhook_id, &ids[1]));
    standing_release(&s);
    free(share);
}

static void ever_new_endpoints_do_not_fill_the_memory(void **state) {
    (void)state;
    struct standing s = {0};
    struct notify_share *share = NULL;
    for (int i = 0; i < 5000; i++) {
        struct id id = number((uint8_t)i);
        id.b[1] = (uint8_t)(i >> 8);
        standing_note(&s, &id, OVER, TIMEOUT_MS);
        assert_int_equal(standing_get(&s, &id), STANDING_LEAST);
    }
    assert_in_range(standing_copy(&s, &share), 1, 1024);
    standing_release(&s);
    free(share);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_endpoint_may_have_as_many_as_its_answers_earn),
        cmocka_unit_test(a_claim_is_told_of_those_that_are_not_as_new),
        cmocka_unit_test(ever_new_endpoints_do_not_fill_the_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
