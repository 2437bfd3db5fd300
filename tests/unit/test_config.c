#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <fcntl.h>
#include <pthread.h>
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
        {"POSTCHUTE_DSN=1", "POSTCHUTE_DSN", "did you mean POSTCHUTE_DNS?"},
        {"POSTCHUTE_FOO=1", "POSTCHUTE_FOO", "`postchute help settings` lists them"},
        {"POSTCHUTE_LISTEN=127.0.0.1:1,,127.0.0.1:2", "POSTCHUTE_LISTEN", "nothing before it"},
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
        {"POSTCHUTE_HOSTNAME=192.0.2.1", "POSTCHUTE_HOSTNAME",
         "expects this host's DNS name, as mail.example.org: the domain ends in a number, as no "
         "name does"},
        {"POSTCHUTE_RETRY_AFTER=1m,x", "POSTCHUTE_RETRY_AFTER", "'x'"},
        {"POSTCHUTE_RETRY_AFTER=1m,99ms", "POSTCHUTE_RETRY_AFTER", "'99ms'"},
        {"POSTCHUTE_RETRY_AFTER=30d,721h", "POSTCHUTE_RETRY_AFTER", "'721h'"},
        {"POSTCHUTE_RETRY_AFTER=99999999999d", "POSTCHUTE_RETRY_AFTER", "at most 30d"},
        {"POSTCHUTE_RETRY_AFTER=1m,1m,1m,1m,1m,1m,1m,1m,1m,1m,1m,1m,1m,1m,1m,1m,1m,1m,1m,1m,1m,1m,"
         "1m,"
         "1m,1m,1m,1m,1m,1m,1m,1m,1m,1m",
         "POSTCHUTE_RETRY_AFTER", "more than 32"},
        {"POSTCHUTE_MAX_MESSAGE_BYTES=300MiB", "POSTCHUTE_MAX_MESSAGE_BYTES", "268435456"},
        {"POSTCHUTE_DATA=a\nb", "POSTCHUTE_DATA", "one line"},
        {"POSTCHUTE_ADMIN_KEY_FILE=/does/not/exist", "POSTCHUTE_ADMIN_KEY_FILE", "No such file"},
        {"POSTCHUTE_CONFIG=/does/not/exist", "POSTCHUTE_CONFIG", "No such file"},
        {"POSTCHUTE_MAX_REQUEST_BYTES=1MiB", "POSTCHUTE_MAX_REQUEST_BYTES", "smaller"},
        {"POSTCHUTE_DATA=", "POSTCHUTE_DATA", "is empty"},
        {"POSTCHUTE_DATA=  ", "POSTCHUTE_DATA", "is empty"},
        {"POSTCHUTE_LISTEN=", "POSTCHUTE_LISTEN", "is empty"},
        {"POSTCHUTE_LISTEN=,", "POSTCHUTE_LISTEN", "nothing before it"},
        {"POSTCHUTE_ROUTE=", "POSTCHUTE_ROUTE", "is empty"},
        {"POSTCHUTE_DNS=", "POSTCHUTE_DNS", "is empty"},
        {"POSTCHUTE_RETRY_AFTER=", "POSTCHUTE_RETRY_AFTER", "is empty"},
        {"POSTCHUTE_ADMIN_KEY=", "POSTCHUTE_ADMIN_KEY", "is empty"},
        {"POSTCHUTE_SEND_KEY=", "POSTCHUTE_SEND_KEY", "is empty"},
        {"POSTCHUTE_ADMIN_KEY_FILE=", "POSTCHUTE_ADMIN_KEY_FILE", "names no file"},
        {"POSTCHUTE_ADMIN_KEY_FILE=/dev/null", "POSTCHUTE_ADMIN_KEY_FILE", "not a file"},
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
        {"routes: [{name: x, recipient_domains: ['*.a b']}]\n", "routes.recipient_domains",
         "character"},
        {"routes: [{name: x, sender_domains: ['ok.test', '']}]\n", "routes.sender_domains",
         "line 1: expects a list of texts"},
        {"routes:\n  - name: x\n    kind: smarthost\n", "routes.smarthosts", "needs it"},
        {"routes: [{name: x}, {name: x}]\nhostname: a.b\n", "routes.name", "twice"},
        {"keys: {a: b}\n", "keys", "list"},
        {"keys: [{name: a}]\n", "keys.secret", "required"},
        {"domains: [{name: a.test, dkim: [{selector: s}]}]\n", "domains.dkim", "exactly"},
        {"webhooks: [{url: x, secret: y, events: {a: b}}]\n", "webhooks.events", "list"},
        {"a: [1, 2\n", "", "line"},
        {"route: sandbox\nmax_recipients: x\n", "max_recipients", "/c.yaml: line 2: expects a"},
        {"route: sandbox\nlog_levle: x\n", "log_levle", "/c.yaml: line 2: there is no"},
        {"\nkeys:\n - {name: a,\n    nam: b}\n", "keys.nam", "/c.yaml: line 4: there is no"},
        {"a: [\n}\n", "", "/c.yaml: line 2: "},
        {"data:\n", "data", "/c.yaml: line 1: is empty"},
        {"data: ' '\n", "data", "is empty"},
        {"admin_key: ''\n", "admin_key", "is empty"},
        {"listen: []\n", "listen", "is empty"},
        {"keys: [{name: '', secret: x}]\n", "keys.name", "required"},
        {"keys: [{name: a, secret: ''}]\n", "keys.secret", "required"},
        {"keys: [{name: a, secret: x, from_domains: ['']}]\n", "keys.from_domains", "list"},
        {"routes: [{name: a, smarthosts: ''}]\n", "routes.smarthosts", "list"},
        {"route: sandbox\nroute_file: /x\n", "route_file",
         "/c.yaml: line 2: is given as a value and as"},
        {"keys: [{name: a, secret: x, secret_file: /x}]\n", "keys.secret_file",
         "as a value and as"},
        {"admin_key_file: c.yaml/x\n", "admin_key_file", "/c.yaml: line 1: c.yaml/x: "},
    };
    char env_config[160], path[160];
    snprintf(path, sizeof path, "%s/c.yaml", folder);
    snprintf(env_config, sizeof env_config, "POSTCHUTE_CONFIG=%s/c.yaml", folder);
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        write_file("c.yaml", rows[i].yaml, 0600);
        char *env[] = {env_config, (char *)(uintptr_t) "POSTCHUTE_ROUTE=smtp://127.0.0.1", NULL};
        struct config *c = NULL;
        struct errinfo info = {0};
        assert_int_equal(config_load(env, &c, &info), ERR_INVALID);
        assert_string_equal(info.field, rows[i].field);
        assert_non_null(strstr(info.text, rows[i].reason));
        assert_non_null(strstr(info.text, path));
        assert_non_null(strstr(info.text, ": line "));
    }
}

/* One row: the file, and what is said with its last route's name. */
static void a_declared_route_to_mail_servers_wants_our_name(void **state) {
    (void)state;
    static const struct {
        const char *yaml, *said;
    } rows[] = {
        {"route: smtp://127.0.0.1:9\nroutes: [{name: r}]\n",
         "route 'r' has no smarthosts, and mail servers want a full name in EHLO: set it to this "
         "host's DNS name (mail.example.org), or give the route smarthosts"},
        {"route: sandbox\nroutes: [{name: a, smarthosts: ['smtp://h.test']}, {name: b, kind: "
         "mx}]\n",
         "route 'b' has no smarthosts"},
        {"route: sandbox\nhostname: single\nroutes: [{name: r}]\n",
         "or give the route smarthosts; "},
        {"route: mx\nroutes: [{name: r}]\n", "or set POSTCHUTE_ROUTE to a smarthost"},
    };
    char env_config[160];
    snprintf(env_config, sizeof env_config, "POSTCHUTE_CONFIG=%s/c.yaml", folder);
    char *env[] = {env_config, NULL};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct config *c = NULL;
        struct errinfo info = {0};
        write_file("c.yaml", rows[i].yaml, 0600);
        assert_int_equal(config_load(env, &c, &info), ERR_INVALID);
        assert_null(c);
        assert_string_equal(info.field, "POSTCHUTE_HOSTNAME");
        assert_non_null(strstr(info.text, rows[i].said));
        assert_int_equal(config_load_lenient(env, &c, &info), OK); /* all else can be read */
        assert_true(config_uses_mx(c));
        assert_int_equal(config_check_hostname(c, &info), ERR_INVALID);
        config_unref(&c);
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
               "routes: [{name: r, smarthosts: ['smtp://h.test'],"
               " recipient_domains: ['*.München.Example']}]\n"
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
    assert_true(str_equal(c->routes[0].recipient_domains.list[0], STR("*.xn--mnchen-3ya.example")));
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

/* One row: what the file holds, and which name the refusal has; NULL: it is taken. */
static void a_yaml_file_with_secrets_is_not_open_to_everybody(void **state) {
    (void)state;
    static const struct {
        const char *yaml, *field;
    } rows[] = {
        {"route: sandbox\n", NULL},
        {"route: 'smtp://relay.test:587'\n", NULL},
        {"route: 'smtp://relay.test/?a=b:c@d'\n", NULL},
        {"route: 'smtp://user@relay.test'\n", NULL},
        {"keys: [{name: ci, secret_file: /run/secrets/none}]\n", "secret_file"},
        {"route: 'smtp://u:p@relay.test:587'\n", "route"},
        {"route: 'smtp://u:p/w@relay.test:587'\n", "route"},
        {"route: 'SMTPS://u:/@relay.test'\n", "route"},
        {"route: sandbox\nadmin_key: x\n", "admin_key"},
        {"route: sandbox\nsend_key: x\n", "send_key"},
        {"keys: [{name: a, secret: x}]\n", "secret"},
        {"webhooks: [{url: 'https://h.test', secret: x}]\n", "secret"},
        {"routes: [{name: r, smarthosts: ['smtp://h.test', 'smtps://u:p@h.test']}]\n",
         "smarthosts"},
    };
    static const mode_t open_to_all[] = {0644, 0604, 0602}, closed[] = {0600, 0640};
    char env_config[160];
    snprintf(env_config, sizeof env_config, "POSTCHUTE_CONFIG=%s/c.yaml", folder);
    char *env[] = {env_config, (char *)(uintptr_t) "POSTCHUTE_HOSTNAME=mail.acme.test", NULL};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        for (size_t m = 0; m < sizeof open_to_all / sizeof open_to_all[0]; m++) {
            struct config *c = NULL;
            struct errinfo info = {0};
            write_file("c.yaml", rows[i].yaml, open_to_all[m]);
            enum err e = config_load(env, &c, &info);
            if (rows[i].field) {
                assert_int_equal(e, ERR_INVALID);
                assert_string_equal(info.field, rows[i].field);
                bool is_other = strcmp(rows[i].field, "secret_file") == 0;
                assert_int_equal(strstr(info.text, "chmod o-rwx") == NULL, is_other);
            } else {
                assert_int_equal(e, OK);
            }
            config_unref(&c);
        }
        for (size_t m = 0; m < sizeof closed / sizeof closed[0]; m++) {
            struct config *c = NULL;
            struct errinfo info = {0};
            write_file("c.yaml", rows[i].yaml, closed[m]);
            enum err e = config_load(env, &c, &info);
            assert_true(e == OK || strstr(info.text, "/run/secrets/none"));
            config_unref(&c);
        }
    }
}

static void a_file_variable_with_a_password_is_a_secret(void **state) {
    (void)state;
    char env_route[160];
    write_file("open", "smtp://u:p@relay.test:587\n", 0644);
    snprintf(env_route, sizeof env_route, "POSTCHUTE_ROUTE_FILE=%s/open", folder);
    char *env[] = {env_route, NULL};
    struct config *c = NULL;
    struct errinfo info = {0};
    assert_int_equal(config_load(env, &c, &info), ERR_INVALID);
    assert_non_null(strstr(info.text, "chmod"));
    write_file("open", "smtp://relay.test:587\n", 0644);
    assert_int_equal(config_load(env, &c, &info), OK);
    config_unref(&c);
    write_file("open", " \n", 0600);
    assert_int_equal(config_load(env, &c, &info), ERR_INVALID);
    assert_non_null(strstr(info.text, "is empty"));
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

static struct config *load_with(const char *one, const char *two) {
    static char mx[] = "POSTCHUTE_ROUTE=sandbox";
    char *env[] = {mx, (char *)(uintptr_t)one, (char *)(uintptr_t)two, NULL};
    struct config *c = NULL;
    struct errinfo info = {0};
    if (config_load(env, &c, &info) != OK)
        fail_msg("%s: %s", info.field, info.text);
    return c;
}

/* Which of them counted depended on the order in which the environment came. */
static void a_setting_is_a_value_or_a_file(void **state) {
    (void)state;
    char file[160];
    write_file("secret", "127.0.0.1:1\n", 0600);
    snprintf(file, sizeof file, "POSTCHUTE_LISTEN_FILE=%s/secret", folder);
    for (int i = 0; i < 2; i++) {
        char *value = (char *)(uintptr_t) "POSTCHUTE_LISTEN=127.0.0.1:2";
        char *env[] = {(char *)(uintptr_t) "POSTCHUTE_ROUTE=sandbox", i ? file : value,
                       i ? value : file, NULL};
        struct config *c = NULL;
        struct errinfo info = {0};
        assert_int_equal(config_load(env, &c, &info), ERR_INVALID);
        assert_non_null(strstr(info.field, "POSTCHUTE_LISTEN"));
        assert_non_null(strstr(info.text, "leave one out"));
    }
    struct config *c = load_with(file, NULL); /* alone it is fine */
    assert_true(str_equal(c->listen.list[0], STR("127.0.0.1:1")));
    config_unref(&c);
}

static void *fill_pipe(void *path) {
    int fd = open(path, O_WRONLY);
    assert_int_equal(write(fd, "127.0.0.1", 9), 9);
    usleep(50000); /* the rest comes later, as from a program that computes it */
    assert_int_equal(write(fd, ":7\n", 3), 3);
    close(fd);
    return NULL;
}

/* A reload that waited for it for ever would be the end of every signal. */
static void a_pipe_is_read_to_its_end_and_not_waited_for_without_one(void **state) {
    (void)state;
    char path[128], variable[200];
    snprintf(path, sizeof path, "%s/pipe", folder);
    snprintf(variable, sizeof variable, "POSTCHUTE_LISTEN_FILE=%s", path);
    assert_int_equal(mkfifo(path, 0600), 0);
    pthread_t writer;
    assert_int_equal(pthread_create(&writer, NULL, fill_pipe, path), 0);
    struct config *c = load_with(variable, NULL);
    assert_true(str_equal(c->listen.list[0], STR("127.0.0.1:7")));
    config_unref(&c);
    pthread_join(writer, NULL);
    char *env[] = {(char *)(uintptr_t) "POSTCHUTE_ROUTE=sandbox", variable, NULL};
    struct errinfo info = {0};
    assert_int_equal(config_load(env, &c, &info), ERR_INVALID);
    assert_string_equal(info.field, "POSTCHUTE_LISTEN_FILE");
    assert_non_null(strstr(info.text, "nothing comes from it"));
    unlink(path);
}

static void what_a_reload_leaves_out_is_named(void **state) {
    static const struct {
        const char *one, *two, *names;
    } rows[] = {
        {"POSTCHUTE_GIVE_UP=7h", "POSTCHUTE_CA_FILE=/x", ""},
        {"POSTCHUTE_LISTEN=127.0.0.1:8025", NULL, ""}, /* as it was */
        {"POSTCHUTE_LISTEN=127.0.0.1:8026", NULL, "POSTCHUTE_LISTEN"},
        {"POSTCHUTE_LISTEN=127.0.0.1:8025,[::1]:8025", NULL, "POSTCHUTE_LISTEN"},
        {"POSTCHUTE_DATA=/x", "POSTCHUTE_HTTP_THREADS=3", "POSTCHUTE_DATA, POSTCHUTE_HTTP_THREADS"},
        {"POSTCHUTE_MASTER_KEY=x", "POSTCHUTE_SECCOMP=log",
         "POSTCHUTE_MASTER_KEY, POSTCHUTE_SECCOMP"},
    };
    (void)state;
    struct config *before = load_with(NULL, NULL);
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct buf names = BUF_INIT(4096);
        struct config *now = load_with(rows[i].one, rows[i].two);
        config_print_left_out(before, now, &names);
        assert_string_equal(names.p ? names.p : "", rows[i].names);
        buf_release(&names);
        config_unref(&now);
    }
    config_unref(&before);
}

/* RFC 5321 4.5.3.2 */
static void test_C21_no_default_is_below_its_minimum(void **state) {
    (void)state;
    char *env[] = {(char *)(uintptr_t) "POSTCHUTE_ROUTE=smtp://127.0.0.1", NULL};
    struct config *c = NULL;
    struct errinfo info = {0};
    assert_int_equal(config_load(env, &c, &info), OK);
    enum { MINUTE_MS = 60 * 1000 };
    assert_true(c->smtp_greeting_ms >= 5 * MINUTE_MS);
    assert_true(c->smtp_mail_ms >= 5 * MINUTE_MS);
    assert_true(c->smtp_rcpt_ms >= 5 * MINUTE_MS);
    assert_true(c->smtp_data_ms >= 2 * MINUTE_MS);
    assert_true(c->smtp_block_ms >= 3 * MINUTE_MS);
    assert_true(c->smtp_end_ms >= 10 * MINUTE_MS);
    config_unref(&c);
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

static bool is_accepted(const char *list, const char *field) {
    char env_config[160], yaml[160];
    struct config *c = NULL;
    struct errinfo info = {0};
    snprintf(env_config, sizeof env_config, "POSTCHUTE_CONFIG=%s/c.yaml", folder);
    snprintf(yaml, sizeof yaml, "route: sandbox\n%s: [{%s: x}]\n", list, field);
    write_file("c.yaml", yaml, 0600);
    char *env[] = {env_config, NULL};
    enum err e = config_load_lenient(env, &c, &info);
    config_unref(&c);
    return e == OK || !strstr(info.text, "there is no such field");
}

/* The rows come from the table by which declarations are read: each one has words, and is read. */
static void help_lists_every_field_of_declarations(void **state) {
    (void)state;
    static const char *const known[] = {
        "routes.name",
        "routes.kind",
        "routes.smarthosts",
        "routes.require_verified_domain",
        "routes.sign",
        "routes.sender_domains",
        "routes.recipient_domains",
        "keys.name",
        "keys.secret",
        "keys.scopes",
        "keys.from_domains",
        "keys.rate",
        "domains.name",
        "domains.bounce_address",
        "domains.dkim",
        "webhooks.url",
        "webhooks.secret",
        "webhooks.events",
        "webhooks.description",
        "smtp://...?tls=",
        "smtp://...?ca=",
        "smtp://...?pin=",
        "smtp://...?weight=",
        "smtp://...?priority=",
        "smtp://...?insecure_auth=",
    };
    struct buf markdown = BUF_INIT(1 << 20), text = BUF_INIT(1 << 20);
    size_t rows = 0;
    config_print_settings(CONFIG_HELP_MARKDOWN, &markdown);
    config_print_settings(CONFIG_HELP_TEXT, &text);
    struct str rest = buf_str(&markdown);
    ptrdiff_t begin = str_find(rest, STR("| declaration |"));
    assert_true(begin >= 0);
    rest = str_from(rest, (size_t)begin);
    while (!str_is_absent(rest)) {
        char line[512], list[64] = "", field[64] = "", value[128] = "", help[256] = "";
        struct str one = str_split(&rest, '\n');
        snprintf(line, sizeof line, "%.*s", STR_ARG(one));
        if (strncmp(line, "| `", 3) != 0)
            continue;
        rows++;
        if (strncmp(line, "| `smtp://", 10) == 0)
            continue;
        assert_int_equal(
            sscanf(line, "| `%63[a-z].%63[a-z_]` | %127[^|]| %255[^|]", list, field, value, help),
            4);
        assert_true(strlen(value) > 3 && strlen(help) > 5);
        assert_true(is_accepted(list, field));
    }
    assert_int_equal(rows, sizeof known / sizeof known[0]);
    for (size_t i = 0; i < rows; i++) {
        char row[80];
        snprintf(row, sizeof row, "| `%s` | ", known[i]);
        assert_true(str_find(buf_str(&markdown), str_of(row)) >= 0);
        snprintf(row, sizeof row, "\n  %s (", known[i]);
        assert_true(str_find(buf_str(&text), str_of(row)) >= 0);
    }
    assert_false(is_accepted("routes", "speed"));
    buf_release(&markdown);
    buf_release(&text);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bad_settings_are_named_with_the_reason),
        cmocka_unit_test(bad_files_are_refused_with_line_and_field),
        cmocka_unit_test(a_declared_route_to_mail_servers_wants_our_name),
        cmocka_unit_test(environment_goes_over_file_goes_over_defaults),
        cmocka_unit_test(a_secret_that_everybody_can_read_is_refused),
        cmocka_unit_test(a_yaml_file_with_secrets_is_not_open_to_everybody),
        cmocka_unit_test(a_file_variable_with_a_password_is_a_secret),
        cmocka_unit_test(durations_and_sizes_have_units),
        cmocka_unit_test(a_setting_is_a_value_or_a_file),
        cmocka_unit_test(a_pipe_is_read_to_its_end_and_not_waited_for_without_one),
        cmocka_unit_test(what_a_reload_leaves_out_is_named),
        cmocka_unit_test(test_C21_no_default_is_below_its_minimum),
        cmocka_unit_test(help_lists_every_setting_in_both_forms),
        cmocka_unit_test(help_lists_every_field_of_declarations),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
