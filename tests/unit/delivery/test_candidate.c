#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>

#include "server/base/clock.h"
#include "server/base/err.h"
#include "server/delivery/candidate.h"
#include "server/delivery/worker_state.h"

static struct sockaddr_any address(const char *text) {
    struct sockaddr_any a;
    assert_int_equal(sockaddr_parse(str_of(text), 25, &a), OK);
    return a;
}

static void forget_all(struct table *t) {
    struct bad_address *b;
    while ((b = table_oldest(t)) != NULL) {
        table_remove(t, &b->in_table);
        free(b);
    }
}

/* Its other addresses would refuse the same login, and count it. */
static void a_host_that_refuses_our_login_is_left_out_with_all_its_addresses(void **state) {
    (void)state;
    const struct route route = {.kind = ROUTE_SMARTHOST};
    const struct settings_route settings = {.route = &route};
    const struct settings_host login[] = {{.session_tag = 7}, {.session_tag = 8}};
    const struct sockaddr_any first[] = {address("192.0.2.1"), address("192.0.2.2")},
                              second[] = {address("192.0.2.3")};
    struct host_entry host[] = {
        {.name = "a", .weight = 1, .smarthost = &login[0], .addr = first, .addr_count = 2},
        {.name = "b",
         .preference = 1,
         .weight = 1,
         .smarthost = &login[1],
         .addr = second,
         .addr_count = 1},
    };
    struct host_list hosts = {.route = &settings, .host = host, .host_count = 2};
    const struct job job = {.hosts = &hosts};
    struct candidate out[LIMIT_MX_ADDRESSES];
    struct worker w = {0};
    assert_int_equal(candidates_order(&w, &job, out), 3);
    worker_login_refused(&w, &first[0], login[0].session_tag);
    assert_int_equal(candidates_order(&w, &job, out), 1);
    assert_ptr_equal(out[0].addr, &second[0]);
    worker_address_died(&w, &first[0]); /* and forgets what it said */
    assert_int_equal(candidates_order(&w, &job, out), 3);
    worker_address_died(&w, &first[1]);
    worker_login_refused(&w, &second[0], login[1].session_tag);
    assert_int_equal(candidates_order(&w, &job, out), 2);
    forget_all(&w.dead);
}

static void a_host_that_breaks_at_bdat_is_remembered_and_not_dead(void **state) {
    (void)state;
    struct worker w = {0};
    struct sockaddr_any at[2];
    for (size_t i = 0; i < 2; i++)
        assert_int_equal(sockaddr_parse(i == 0 ? STR("192.0.2.1") : STR("192.0.2.2"), 25, &at[i]),
                         OK);
    assert_false(worker_chunking_is_broken(&w, &at[0]));
    worker_address_died(&w, &at[0]);
    assert_false(worker_chunking_is_broken(&w, &at[0]));
    worker_chunking_broke(&w, &at[1]);
    worker_chunking_broke(&w, &at[1]);
    assert_true(worker_chunking_is_broken(&w, &at[1]));
    assert_false(worker_chunking_is_broken(&w, &at[0]));
    assert_false(worker_address_is_dead(&w, &at[1]));
    /* not for ever */
    struct bad_address *b = table_oldest(&w.no_chunking);
    assert_in_range(b->until_mono_ms - clock_mono_ms(), 30 * 60 * 1000, 60 * 60 * 1000);
    b->until_mono_ms = clock_mono_ms();
    assert_false(worker_chunking_is_broken(&w, &at[1]));
    assert_int_equal(table_count(&w.no_chunking), 0);
    forget_all(&w.dead);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_host_that_refuses_our_login_is_left_out_with_all_its_addresses),
        cmocka_unit_test(a_host_that_breaks_at_bdat_is_remembered_and_not_dead),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
