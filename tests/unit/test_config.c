#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#include "server/config.h"

static char folder[] = "/tmp/postchute-config-XXXXXX";

static int make_folder(void **state) {
    (void)state;
    return mkdtemp(folder) ? 0 : 1;
}

static int remove_folder(void **state) {
    (void)state;
    static const char *const names[] = {"c.yaml", "secret", "open"};
    char path[128];
    for (size_t i = 0; i < 3; i++) {
        snprintf(path, sizeof path, "%s/%s", folder, names[i]);
        unlink(path);
    }
    return rmdir(folder);
}

static void write_file(const char *name, const char *text, mode_t mode) {
    char path[128];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
    assert_int_equal(chmod(path, mode), 0);
}

static void bad_settings_are_named_with_the_reason(void **state) {
    (void)state;
    static const struct {
        const char *env, *field, *reason;
    } rows[] = {
        {"POSTCHUTE_LISTENN=1", "POSTCHUTE_LISTENN", "did you mean POSTCHUTE_LISTEN?"},
        {"POSTCHUTE_QQQQQQQQQQQ=1", "POSTCHUTE_QQQQQQQQQQQ", "no such setting"},
        {"POSTCHUTE_MAX_RECIPIENTS=0", "POSTCHUTE_MAX_RECIPIENTS", "from 1 to 1000"},
        {"POSTCHUTE_MAX_RECIPIENTS=-1", "POSTCHUTE_MAX_RECIPIENTS", "whole number"},
        {"POSTCHUTE_MAX_RECIPIENTS=99999999999999999999", "POSTCHUTE_MAX_RECIPIENTS",
         "whole number"},
        {"POSTCHUTE_GIVE_UP=soon", "POSTCHUTE_GIVE_UP", "duration"},
        {"POSTCHUTE_GIVE_UP=", "POSTCHUTE_GIVE_UP", "duration"},
        {"POSTCHUTE_MAX_MESSAGE_BYTES=25 parsecs", "POSTCHUTE_MAX_MESSAGE_BYTES", "size"},
        {"POSTCHUTE_PROFILE=test", "POSTCHUTE_PROFILE", "production|development"},
        {"POSTCHUTE_REQUIRE_VERIFIED_DOMAIN=maybe", "POSTCHUTE_REQUIRE_VERIFIED_DOMAIN",
         "true or false"},
        {"POSTCHUTE_TLS_KEY=/x", "POSTCHUTE_TLS_CERT", "both"},
        {"POSTCHUTE_ROUTE=mx", "POSTCHUTE_HOSTNAME", "EHLO"},
        {"POSTCHUTE_RETRY_AFTER=1m,x", "POSTCHUTE_RETRY_AFTER", "'x'"},
        {"POSTCHUTE_DATA=a\nb", "POSTCHUTE_DATA", "one line"},
        {"POSTCHUTE_ADMIN_KEY_FILE=/does/not/exist", "POSTCHUTE_ADMIN_KEY_FILE", "No such file"},
        {"POSTCHUTE_CONFIG=/does/not/exist", "POSTCHUTE_CONFIG", "No such file"},
        {"POSTCHUTE_MAX_REQUEST_BYTES=1MiB", "POSTCHUTE_MAX_REQUEST_BYTES", "smaller"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        char *env[] = {(char *)(uintptr_t) "POSTCHUTE_ROUTE=smtp://127.0.0.1",
                       (char *)(uintptr_t)rows[i].env, NULL};
        struct config *c = NULL;
        struct errinfo info = {0};
        assert_int_equal(config_load(env, &c, &info), ERR_INVALID);
        assert_null(c);
        assert_string_equal(info.field, rows[i].field);
        assert_non_null(strstr(info.text, rows[i].reason));
    }
}

static void bad_files_are_refused_with_line_and_field(void **state) {
    (void)state;
    static const struct {
        const char *yaml, *field, *reason;
    } rows[] = {
        {"listen: [a, {b: c}]\n", "listen", "line 1"},
        {"profile: a\nprofile: b\n", "", "stands twice"},
        {"- 1\n", "POSTCHUTE_CONFIG", "name: value"},
        {"a: &x 1\nb: *x\n", "", "aliases"},
        {"data: !!str x\n", "", "tags"},
        {"listen: !a [x]\n", "", "tags"},
        {"keys: !a {x: y}\n", "", "tags"},
        {"listenn: 1\n", "listenn", "did you mean listen?"},
        {"log_level: {a: b}\n", "log_level", "one value"},
        {"routes:\n  - name: x\n    speed: 3\n", "routes.speed", "no such field"},
        {"routes:\n  - kind: mx\n", "routes.name", "required"},
        {"routes:\n  - name: x\n    kind: smarthost\n", "routes.smarthosts", "needs it"},
        {"routes: [{name: x}, {name: x}]\nhostname: a.b\n", "routes.name", "twice"},
        {"keys: {a: b}\n", "keys", "list"},
        {"keys: [{name: a}]\n", "keys.secret", "required"},
        {"domains: [{name: a.test, dkim: [{selector: s}]}]\n", "domains.dkim", "exactly"},
        {"webhooks: [{url: x, secret: y, events: {a: b}}]\n", "webhooks.events", "list"},
        {"a: [1, 2\n", "", "line"},
    };
    char env_config[160];
    snprintf(env_config, sizeof env_config, "POSTCHUTE_CONFIG=%s/c.yaml", folder);
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        write_file("c.yaml", rows[i].yaml, 0600);
        char *env[] = {env_config, (char *)(uintptr_t) "POSTCHUTE_ROUTE=smtp://127.0.0.1", NULL};
        struct config *c = NULL;
        struct errinfo info = {0};
        assert_int_equal(config_load(env, &c, &info), ERR_INVALID);
        assert_string_equal(info.field, rows[i].field);
        assert_non_null(strstr(info.text, rows[i].reason));
    }
}

static void environment_goes_over_file_goes_over_defaults(void **state) {
    (void)state;
    char env_config[160], env_secret[160];
    write_file("c.yaml",
               "route: smtp://relay.test\nmax_recipients: 7\nlog_level: warn\n"
               "listen: ['127.0.0.1:1', '[::1]:2']\n"
               "keys: [{name: ci, secret: pc_live_x, scopes: [send, read], from_domains: a.test}]\n"
               "domains: [{name: a.test, bounce_address: b@a.test}]\n"
               "routes: [{name: r, smarthosts: ['smtp://h.test']}]\n"
               "webhooks: [{url: 'https://x.test/h', secret: whsec_x, events: [final]}]\n",
               0600);
    write_file("secret", "pc_live_secret\n", 0600);
    snprintf(env_config, sizeof env_config, "POSTCHUTE_CONFIG=%s/c.yaml", folder);
    snprintf(env_secret, sizeof env_secret, "POSTCHUTE_ADMIN_KEY_FILE=%s/secret", folder);
    char *env[] = {env_config,
                   env_secret,
                   (char *)(uintptr_t) "POSTCHUTE_MAX_RECIPIENTS=9",
                   (char *)(uintptr_t) "POSTCHUTE_PORT_8025_TCP=ignored",
                   (char *)(uintptr_t) "PATH=/bin",
                   NULL};
    struct config *c = NULL;
    struct errinfo info = {0};
    assert_int_equal(config_load(env, &c, &info), OK);
    assert_int_equal(c->max_recipients, 9);
    assert_int_equal(c->log_level, LOG_WARN);
    assert_int_equal(c->give_up_ms, 48 * 3600 * 1000LL);
    assert_int_equal(c->listen.count, 2);
    assert_true(str_equal(c->listen.list[1], STR("[::1]:2")));
    assert_true(str_equal(c->admin_key, STR("pc_live_secret")));
    assert_int_equal(c->key_count, 1);
    assert_int_equal(c->keys[0].scopes.count, 2);
    assert_int_equal(c->keys[0].from_domains.count, 1);
    assert_int_equal(c->domain_count, 1);
    assert_true(c->routes[0].sign);
    assert_true(str_equal(c->routes[0].kind, STR("smarthost")));
    assert_true(str_equal(c->webhooks[0].events.list[0], STR("final")));
    config_unref(&c);
}

static void a_secret_that_everybody_can_read_is_refused(void **state) {
    (void)state;
    char env_secret[160];
    write_file("open", "pc_live_secret\n", 0644);
    snprintf(env_secret, sizeof env_secret, "POSTCHUTE_ADMIN_KEY_FILE=%s/open", folder);
    char *env[] = {env_secret, (char *)(uintptr_t) "POSTCHUTE_ROUTE=smtp://127.0.0.1", NULL};
    struct config *c = NULL;
    struct errinfo info = {0};
    assert_int_equal(config_load(env, &c, &info), ERR_INVALID);
    assert_non_null(strstr(info.text, "chmod"));
}

static void durations_and_sizes_have_units(void **state) {
    (void)state;
    int64_t v = 0;
    assert_int_equal(config_parse_duration(STR("1500ms"), &v), OK);
    assert_int_equal(v, 1500);
    assert_int_equal(config_parse_duration(STR("7d"), &v), OK);
    assert_int_equal(v, 7 * 86400000LL);
    assert_int_equal(config_parse_duration(STR("30"), &v), OK);
    assert_int_equal(v, 30000);
    assert_int_equal(config_parse_duration(STR("m"), &v), ERR_INVALID);
    assert_int_equal(config_parse_duration(STR("9007199254740993d"), &v), ERR_INVALID);
    assert_int_equal(config_parse_size(STR("25MiB"), &v), OK);
    assert_int_equal(v, 25LL << 20);
    assert_int_equal(config_parse_size(STR("1 GiB"), &v), OK);
    assert_int_equal(v, 1LL << 30);
    assert_int_equal(config_parse_size(STR("1.5MiB"), &v), ERR_INVALID);
}

static void help_lists_every_setting_in_both_forms(void **state) {
    (void)state;
    struct buf text = BUF_INIT(1 << 20), markdown = BUF_INIT(1 << 20);
    config_print_settings(CONFIG_HELP_TEXT, &text);
    config_print_settings(CONFIG_HELP_MARKDOWN, &markdown);
    assert_true(str_find(buf_str(&text), STR("POSTCHUTE_LOG_FORMAT\n")) >= 0);
    assert_true(str_find(buf_str(&text), STR("(auto|json|text)\n      default: auto\n")) >= 0);
    assert_true(str_find(buf_str(&markdown), STR("| `POSTCHUTE_GIVE_UP` | `48h` | duration |")) >=
                0);
    buf_release(&text);
    buf_release(&markdown);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bad_settings_are_named_with_the_reason),
        cmocka_unit_test(bad_files_are_refused_with_line_and_field),
        cmocka_unit_test(environment_goes_over_file_goes_over_defaults),
        cmocka_unit_test(a_secret_that_everybody_can_read_is_refused),
        cmocka_unit_test(durations_and_sizes_have_units),
        cmocka_unit_test(help_lists_every_setting_in_both_forms),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
