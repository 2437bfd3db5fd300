#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#include "server/lifecycle_options.h"

static char folder[] = "/tmp/postchute-options-XXXXXX", path[128], file_variable[160];

static int make_folder(void **state) {
    (void)state;
    if (!mkdtemp(folder))
        return 1;
    snprintf(path, sizeof path, "%s/c.yaml", folder);
    snprintf(file_variable, sizeof file_variable, "POSTCHUTE_CONFIG=%s", path);
    return 0;
}

static int remove_folder(void **state) {
    (void)state;
    unlink(path);
    return rmdir(folder);
}

static struct config *load(const char *yaml) {
    char *env[] = {file_variable, NULL};
    struct config *c = NULL;
    struct errinfo info = {0};
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(yaml, f);
    fclose(f);
    enum err e = config_load(env, &c, &info);
    if (e != OK)
        print_error("%s: %s\n", info.field, info.text);
    assert_int_equal(e, OK);
    return c;
}

/* Of each route, the default one last: "x" wants a verified domain, "-" does not. */
static void T11_a_verified_domain_is_wanted_by_the_routes_that_the_setting_means(void **state) {
    (void)state;
    static const char ROUTES[] = "hostname: mail.acme.test\n"
                                 "routes:\n"
                                 "  - {name: relay, smarthosts: ['smtp://192.0.2.1']}\n"
                                 "  - {name: own, smarthosts: ['smtp://192.0.2.1'],"
                                 " require_verified_domain: true}\n"
                                 "  - {name: direct, kind: mx}\n"
                                 "  - {name: trial, kind: sandbox}\n";
    static const struct {
        const char *settings, *want;
    } rows[] = {
        {"route: 'smtp://192.0.2.2'\n", "-xx--"},
        {"route: 'smtp://192.0.2.2'\nrequire_verified_domain: true\n", "xxx-x"},
        {"route: mx\n", "-xx-x"},
        {"route: sandbox\nrequire_verified_domain: true\n", "xxx--"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        char yaml[1024], intake[8] = "", delivery[8] = "";
        struct lifecycle_api api;
        struct lifecycle_delivery d;
        struct errinfo info = {0};
        snprintf(yaml, sizeof yaml, "%s%s", rows[i].settings, ROUTES);
        struct config *c = load(yaml);
        assert_int_equal(lifecycle_api_options(c, &api, &info), OK);
        assert_int_equal(lifecycle_delivery_options(c, 1025, &d, &info), OK);
        const struct intake_settings *s = &api.options.intake;
        assert_int_equal(s->route_count, 5);
        assert_int_equal(d.options.route_count, 5);
        for (size_t k = 0; k < 5; k++) {
            intake[k] = s->routes[k].requires_verified_domain ? 'x' : '-';
            delivery[k] = d.options.routes[k].require_verified_domain ? 'x' : '-';
        }
        assert_string_equal(intake, rows[i].want);
        assert_string_equal(delivery, rows[i].want); /* what is shown is what is asked */
        lifecycle_api_release(&api);
        lifecycle_delivery_release(&d);
        config_unref(&c);
    }
}

/* A clock that was wrong is mended; an expiry that was promised is not, whatever give_up says now.
 */
static void no_promised_expiry_is_later_than_housekeeping_believes(void **state) {
    (void)state;
    static const char *const rows[] = {"1s", "48h", "5d", "30d"};
    struct config *longest = load("route: sandbox\ngive_up: 30d\n");
    struct lifecycle_api api;
    struct errinfo info = {0};
    assert_int_equal(lifecycle_api_options(longest, &api, &info), OK);
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        char yaml[64];
        struct housekeeping_options o;
        snprintf(yaml, sizeof yaml, "route: sandbox\ngive_up: %s\n", rows[i]);
        struct config *c = load(yaml);
        lifecycle_housekeeping_options(c, &o);
        assert_true(o.expires_most_ms >= api.options.intake.expires_max_ms);
        config_unref(&c);
    }
    lifecycle_api_release(&api);
    config_unref(&longest);
}

/* To the API 0 means its own default, which is longer than anybody asked for. */
static void a_shutdown_without_time_is_one(void **state) {
    (void)state;
    static const struct {
        const char *timeout;
        int64_t want_ms;
    } rows[] = {{"0", 1}, {"1ms", 1}, {"2ms", 1}, {"8s", 4000}};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        char yaml[80];
        struct lifecycle_api api;
        struct errinfo info = {0};
        snprintf(yaml, sizeof yaml, "route: sandbox\nshutdown_timeout: %s\n", rows[i].timeout);
        struct config *c = load(yaml);
        assert_int_equal(lifecycle_api_options(c, &api, &info), OK);
        assert_int_equal(api.options.drain_ms, rows[i].want_ms);
        lifecycle_api_release(&api);
        config_unref(&c);
    }
}

static void what_is_wrong_with_a_route_is_told_with_its_name(void **state) {
    (void)state;
    struct lifecycle_delivery d;
    struct errinfo info = {0};
    struct config *c = load("route: sandbox\n"
                            "routes:\n"
                            "  - {name: relay, smarthosts: ['smtp://192.0.2.1']}\n"
                            "  - {name: other, smarthosts: ['smtp://192.0.2.1', 'no:url']}\n");
    assert_int_equal(lifecycle_delivery_options(c, 1025, &d, &info), ERR_INVALID);
    assert_string_equal(info.field, "routes.smarthosts");
    assert_ptr_equal(strstr(info.text, "route 'other': "), info.text);
    lifecycle_delivery_release(&d);
    config_unref(&c);
}

static void the_default_route_is_one_of_two_words_or_a_url(void **state) {
    (void)state;
    static const struct {
        const char *route, *want;
    } rows[] = {
        {"MX", "expects mx, sandbox, or a smarthost as smtp://host:port"},
        {"sanbox", "expects mx, sandbox, or a smarthost as smtp://host:port"},
        {"smarthost", "expects mx, sandbox, or a smarthost as smtp://host:port"},
        {"smtp.example.org", "expects mx, sandbox, or a smarthost as smtp://host:port"},
        {"smtp:/u:hunter2@relay.test", "expects mx, sandbox, or a smarthost as smtp://host:port"},
        {"http://relay.test", "scheme: must be smtp:// or smtps://"},
        {"smtp://relay.test:0", "port: must be a number"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        char yaml[80];
        struct lifecycle_delivery d;
        struct errinfo info = {0};
        snprintf(yaml, sizeof yaml, "route: '%s'\n", rows[i].route);
        struct config *c = load(yaml);
        assert_int_equal(lifecycle_delivery_options(c, 1025, &d, &info), ERR_INVALID);
        assert_string_equal(info.field, "POSTCHUTE_ROUTE");
        assert_ptr_equal(strstr(info.text, rows[i].want), info.text);
        assert_null(strstr(info.text, "hunter2"));
        lifecycle_delivery_release(&d);
        config_unref(&c);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_shutdown_without_time_is_one),
        cmocka_unit_test(the_default_route_is_one_of_two_words_or_a_url),
        cmocka_unit_test(what_is_wrong_with_a_route_is_told_with_its_name),
        cmocka_unit_test(T11_a_verified_domain_is_wanted_by_the_routes_that_the_setting_means),
        cmocka_unit_test(no_promised_expiry_is_later_than_housekeeping_believes),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
