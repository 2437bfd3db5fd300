/* What a reload makes of domains that are declared. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <setjmp.h>

#include <cmocka.h>

#include "server/base/clock.h"
#include "server/mail/dkim_key.h"
#include "server/provision.h"

static struct store *store;
static struct buf pem = BUF_INIT(8192);

static int begin(void **state) {
    (void)state;
    struct dkim_key *key = NULL;
    if (dkim_key_generate(DKIM_ED25519_SHA256, &key, NULL) != OK)
        return -1;
    dkim_key_print_pem(key, &pem);
    dkim_key_unref(&key);
    return store_open(&(struct store_options){.backend = STORE_MEMORY}, &store, NULL) == OK ? 0
                                                                                            : -1;
}

static int end(void **state) {
    (void)state;
    buf_release_secret(&pem);
    store_close(&store);
    return 0;
}

static void declare(const char *selector) {
    struct config_domain_key key = {.selector = str_of(selector), .pem = buf_str(&pem)};
    struct config_domain domain = {.name = STR("good.test"), .keys = &key, .key_count = 1};
    const struct config c = {.domains = &domain, .domain_count = 1};
    struct errinfo info = {0};
    if (provision_apply(store, NULL, &c, &info) != OK)
        fail_msg("%s: %s", info.field, info.text);
}

static struct store_domains read_domain(void) {
    struct store_domains q = {.call = {.verb = STORE_DOMAINS}, .project = -1};
    assert_int_equal(store_sync(store, &q.call), OK);
    assert_int_equal(q.count, 1);
    assert_int_equal(q.domain[0].key_count, 1);
    return q;
}

static void found_in_dns(const char *selector) {
    struct store_domains q = read_domain();
    struct str published = str_of(selector);
    struct store_domain_checked c = {.call = {.verb = STORE_DOMAIN_CHECKED},
                                     .id = q.domain[0].id,
                                     .project = q.domain[0].project,
                                     .is_verified = true,
                                     .published = &published,
                                     .published_count = 1,
                                     .now_wall_ms = clock_wall_ms()};
    assert_int_equal(store_sync(store, &c.call), OK);
    store_call_release(&c.call);
    store_call_release(&q.call);
}

static bool is_published(void) {
    struct store_domains q = read_domain();
    bool is = q.domain[0].key[0].published_wall_ms != 0;
    assert_true(q.domain[0].verified_wall_ms != 0);
    store_call_release(&q.call);
    return is;
}

static void a_key_that_was_found_stays_so(void **state) {
    (void)state;
    declare("s1");
    found_in_dns("s1");
    declare("s1");
    assert_true(is_published());
}

static void a_key_that_was_found_under_another_selector_was_not_found(void **state) {
    (void)state;
    declare("s1");
    found_in_dns("s1");
    declare("s2");
    assert_false(is_published());
}

int main(void) {
#define T(f) cmocka_unit_test_setup_teardown(f, begin, end)
    const struct CMUnitTest tests[] = {
        T(a_key_that_was_found_stays_so),
        T(a_key_that_was_found_under_another_selector_was_not_found),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
