#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>

#include "server/base/err.h"
#include "server/delivery/candidate.h"
#include "server/delivery/worker_state.h"

static struct sockaddr_any address(const char *text) {
    struct sockaddr_any a;
    assert_int_equal(sockaddr_parse(str_of(text), 25, &a), OK);
    return a;
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
    struct dead_address *d;
    while ((d = table_oldest(&w.dead)) != NULL) {
        table_remove(&w.dead, &d->in_table);
        free(d);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_host_that_refuses_our_login_is_left_out_with_all_its_addresses),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
