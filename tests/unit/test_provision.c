/* What a start and a reload make of what is declared. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <setjmp.h>

#include <cmocka.h>

#include "api/auth.h"
#include "server/base/clock.h"
#include "server/mail/dkim_key.h"
#include "server/provision.h"
#include "tests/unit/log_watch.h"

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

/* ---- keys that replace others ---- */

static const char replaced[] = "another key in force has the name of a declared one";

static void declare_admin(const struct auth_key_text *key) {
    const struct config c = {.admin_key = auth_key_str(key)};
    struct errinfo info = {0};
    if (provision_apply(store, NULL, &c, &info) != OK)
        fail_msg("%s: %s", info.field, info.text);
}

static void revoke(const struct auth_key_text *key) {
    struct store_keys q = {.call = {.verb = STORE_KEYS}, .project = -1};
    assert_int_equal(store_sync(store, &q.call), OK);
    for (size_t i = 0; i < q.count; i++) {
        struct store_key_revoke r = {.call = {.verb = STORE_KEY_REVOKE},
                                     .id = q.key[i].id,
                                     .project = -1,
                                     .now_wall_ms = clock_wall_ms()};
        if (str_starts_with(auth_key_str(key), q.key[i].prefix))
            assert_int_equal(store_sync(store, &r.call), OK);
        store_call_release(&r.call);
    }
    store_call_release(&q.call);
}

static void a_key_that_was_replaced_is_told_of_until_it_is_revoked(void **state) {
    (void)state;
    struct auth_key_text a, b, c;
    auth_key_generate(false, &a);
    auth_key_generate(false, &b);
    auth_key_generate(false, &c);
    expect_log(replaced);
    declare_admin(&a);
    declare_admin(&a);
    assert_int_equal(logged(replaced), 0);
    declare_admin(&b);
    assert_int_equal(logged(replaced), 1);
    declare_admin(&c);
    assert_int_equal(logged(replaced), 3);
    revoke(&a);
    revoke(&b);
    declare_admin(&c);
    assert_int_equal(logged(replaced), 3);
}

/* The second is there before the first goes. */
static void two_declared_keys_of_one_name_are_both_meant(void **state) {
    (void)state;
    struct auth_key_text a, b;
    auth_key_generate(false, &a);
    auth_key_generate(false, &b);
    struct config_key keys[] = {{.name = STR("shop"), .secret = auth_key_str(&a)},
                                {.name = STR("shop"), .secret = auth_key_str(&b)}};
    const struct config both = {.keys = keys, .key_count = 2},
                        second = {.keys = &keys[1], .key_count = 1};
    expect_log(replaced);
    assert_int_equal(provision_apply(store, NULL, &both, NULL), OK);
    assert_int_equal(provision_apply(store, NULL, &both, NULL), OK);
    assert_int_equal(logged(replaced), 0);
    assert_int_equal(provision_apply(store, NULL, &second, NULL), OK);
    assert_int_equal(logged(replaced), 1);
}

/* ---- what is wrong, and where ---- */

static void a_fault_is_told_with_the_name_of_its_declaration(void **state) {
    (void)state;
    static struct str everywhere[] = {{"*", 1}}, nothing[] = {{"-", 1}};
    struct auth_key_text text;
    auth_key_generate(false, &text);
    struct config_domain_key good_key = {.selector = STR("s1"), .pem = buf_str(&pem)},
                             bad_key = {.selector = STR("s1"), .pem = STR("no key")};
    struct config_domain bad_pem[] = {{.name = STR("a.test"), .keys = &good_key, .key_count = 1},
                                      {.name = STR("b.test"), .keys = &bad_key, .key_count = 1}},
                         bad_bounces = {.name = STR("c.test"), .bounce_address = STR("x")};
    struct config_key bad_secret = {.name = STR("shop"), .secret = STR("hunter2")},
                      bad_scopes = {.name = STR("shop"), .scopes = {nothing, 1}},
                      bad_from = {.name = STR("shop"),
                                  .secret = auth_key_str(&text),
                                  .from_domains = {nothing, 1}};
    struct config_webhook bad_url = {.url = STR("https://u:hunter2@app.test/x?token=hunter2")},
                          bad_hook = {.url = STR("https://app.test/x?token=hunter2"),
                                      .secret = STR("hunter2"),
                                      .events = {everywhere, 1}},
                          bad_slash = {.url = STR("https://u:hunter/hunter2@app.test/")},
                          bad_query = {.url = STR("https://u:hunter2?hunter2@app.test")},
                          bad_token = {.url = STR("https://app.test/x?token=a@hunter2")},
                          bad_scheme = {.url = STR("u:hunter2@app.test://x")};
    const struct {
        struct config c;
        const char *want;
    } rows[] = {
        {{.domains = bad_pem, .domain_count = 2}, "domain 'b.test': "},
        {{.domains = &bad_bounces, .domain_count = 1}, "domain 'c.test': "},
        {{.keys = &bad_secret, .key_count = 1}, "key 'shop': "},
        {{.keys = &bad_scopes, .key_count = 1}, "key 'shop': "},
        {{.keys = &bad_from, .key_count = 1}, "key 'shop': "},
        {{.webhooks = &bad_url, .webhook_count = 1}, "endpoint 'https://app.test': "},
        {{.webhooks = &bad_hook, .webhook_count = 1}, "endpoint 'https://app.test': "},
        {{.webhooks = &bad_slash, .webhook_count = 1}, "endpoint 'https://...': "},
        {{.webhooks = &bad_query, .webhook_count = 1}, "endpoint 'https://...': "},
        {{.webhooks = &bad_token, .webhook_count = 1}, "endpoint 'https://...': "},
        {{.webhooks = &bad_scheme, .webhook_count = 1}, "endpoint '"},
    };
    struct guard *guard = NULL;
    assert_int_equal(guard_new(&(struct guard_options){0}, &guard, NULL), OK);
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct errinfo info = {0};
        assert_int_equal(provision_check(guard, &rows[i].c, &info), ERR_INVALID);
        if (strstr(info.text, rows[i].want) != info.text || strstr(info.text, "hunter2"))
            fail_msg("%s: %s", info.field, info.text);
        assert_int_equal(provision_check(guard, &rows[i].c, NULL), ERR_INVALID);
    }
    guard_free(&guard);
}

int main(void) {
#define T(f) cmocka_unit_test_setup_teardown(f, begin, end)
    const struct CMUnitTest tests[] = {
        T(a_key_that_was_found_stays_so),
        T(a_key_that_was_found_under_another_selector_was_not_found),
        T(a_key_that_was_replaced_is_told_of_until_it_is_revoked),
        T(two_declared_keys_of_one_name_are_both_meant),
        T(a_fault_is_told_with_the_name_of_its_declaration),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
