#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <dirent.h>
#include <jansson.h>
#include <sys/stat.h>
#include <cmocka.h>

#include "api/auth.h"
#include "storage/store.h"
#include "tests/unit/cli/run_cli.h"
#include "tests/unit/http_peer.h"

static char no_anchor[] = "POSTCHUTE_DNS_TRUST_ANCHOR=none";
static char no_listener[] = "POSTCHUTE_LISTEN=127.0.0.1:0";
static char data_variable[128], route[] = "POSTCHUTE_ROUTE=sandbox",
                                listen_variable[64] = "POSTCHUTE_LISTEN=127.0.0.1:1";
static char *env[] = {data_variable, route, listen_variable, NULL};

static int make_folder(void **state) {
    (void)state;
    if (!mkdtemp(folder))
        return 1;
    snprintf(data_variable, sizeof data_variable, "POSTCHUTE_DATA=%s/data", folder);
    return 0;
}

static void empty(const char *path) {
    DIR *d = opendir(path);
    for (struct dirent *e; d && (e = readdir(d)) != NULL;)
        unlinkat(dirfd(d), e->d_name, 0);
    if (d)
        closedir(d);
}

static int remove_folder(void **state) {
    (void)state;
    char path[128];
    snprintf(path, sizeof path, "%s/data", folder);
    empty(path);
    rmdir(path);
    empty(folder);
    return rmdir(folder);
}

static void what_only_looks_makes_no_store(void **state) {
    (void)state;
    static const char *const rows[] = {"key|list",
                                       "domain|list",
                                       "domain|dns|acme.test",
                                       "key|revoke|x",
                                       "domain|delete|acme.test",
                                       "domain|verify|acme.test"};
    char path[128];
    struct stat st;
    snprintf(path, sizeof path, "%s/data", folder);
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct outcome o = run_cli(rows[i], env);
        assert_int_equal(o.code, CLI_FAILED);
        assert_int_not_equal(stat(path, &st), 0);
    }
    run_cli("doctor|--offline", env);
    assert_int_not_equal(stat(path, &st), 0);
}

/* The start makes it, in a folder that is there. */
static void doctor_looks_where_the_data_folder_will_be(void **state) {
    (void)state;
    char here[128], deeper[160], file[160], said[256], *at[] = {no_listener, route, here, NULL};
    snprintf(here, sizeof here, "POSTCHUTE_DATA=%s/new/", folder);
    snprintf(said, sizeof said, " MiB are free at %s\n", folder);
    struct outcome o = run_cli("doctor|--offline", at);
    assert_int_equal(o.code, CLI_OK);
    assert_non_null(strstr(o.out, "look  store"));
    assert_non_null(strstr(o.out, "ok    disk"));
    assert_non_null(strstr(o.out, said));

    snprintf(deeper, sizeof deeper, "POSTCHUTE_DATA=%s/none/new", folder);
    snprintf(
        said, sizeof said,
        "BAD   disk          %s/none/new cannot be made in %s/none: No such file or directory\n",
        folder, folder);
    at[2] = deeper;
    o = run_cli("doctor|--offline", at);
    assert_int_equal(o.code, CLI_FAILED);
    assert_non_null(strstr(o.out, said));

    snprintf(file, sizeof file, "POSTCHUTE_DATA=%s/out", folder); /* of run_cli() */
    at[2] = file;
    o = run_cli("doctor|--offline", at);
    assert_int_equal(o.code, CLI_FAILED);
    assert_non_null(strstr(o.out, "/out: Not a directory\n"));
}

/* The longest name of a socket has 107 octets, 13 of them are "/control.sock". */
static void a_folder_too_deep_for_its_socket_is_found_before_the_start(void **state) {
    (void)state;
    static const struct {
        size_t length;
        int code;
    } rows[] = {{94, CLI_OK}, {95, CLI_FAILED}, {300, CLI_FAILED}};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        char variable[400] = "POSTCHUTE_DATA=/";
        size_t n = strlen(variable);
        memset(variable + n, 'd', rows[i].length - 1);
        char *deep[] = {variable, route, listen_variable, NULL};
        struct outcome o = run_cli("check-config", deep);
        assert_int_equal(o.code, rows[i].code);
        assert_int_equal(strstr(o.err, "POSTCHUTE_DATA: ") != NULL, rows[i].code != CLI_OK);
    }
}

static void keys_are_made_listed_and_revoked_without_a_server(void **state) {
    (void)state;
    struct outcome o = run_cli("key|create|shop|--scope|send|--from-domain|acme.test", env);
    assert_int_equal(o.code, CLI_OK);
    assert_int_equal(strlen(o.out), AUTH_KEY_TEXT + 1);
    assert_true(auth_key_is_well_formed(str_make(o.out, AUTH_KEY_TEXT)));
    assert_non_null(strstr(o.err, "/data: made one")); /* where nobody may have meant it to be */
    char prefix[AUTH_KEY_PREFIX + 1];
    snprintf(prefix, sizeof prefix, "%.*s", AUTH_KEY_PREFIX, o.out);

    char cert[] = "POSTCHUTE_TLS_CERT=/nowhere", tls_key[] = "POSTCHUTE_TLS_KEY=/nowhere";
    char *no_https[] = {data_variable, route, cert, tls_key, NULL}; /* no matter here */
    o = run_cli("key|list", no_https);
    assert_int_equal(o.code, CLI_OK);
    assert_string_equal(o.err, "");
    assert_non_null(strstr(o.out, prefix));
    assert_non_null(strstr(o.out, "in force"));
    assert_non_null(strstr(o.out, "shop"));

    assert_int_equal(run_cli("key|revoke|nobody", env).code, CLI_FAILED);
    char line[64];
    snprintf(line, sizeof line, "key|revoke|%s", prefix);
    assert_int_equal(run_cli(line, env).code, CLI_OK);
    o = run_cli("key|list", env);
    assert_non_null(strstr(o.out, "revoked"));
    assert_null(strstr(o.out, "in force"));

    /* a name that two have ends neither */
    run_cli("key|create|twin", env);
    o = run_cli("key|create|twin", env);
    snprintf(line, sizeof line, "key|revoke|%.*s", AUTH_KEY_PREFIX, o.out);
    o = run_cli("key|revoke|twin", env);
    assert_int_equal(o.code, CLI_FAILED);
    assert_non_null(strstr(o.err, "'twin' is the name of 2 keys in force: give the prefix or"));
    assert_int_equal(run_cli(line, env).code, CLI_OK);
    assert_int_equal(run_cli("key|revoke|twin", env).code, CLI_OK);
    assert_null(strstr(run_cli("key|list", env).out, "in force"));
}

static void a_refusal_of_the_api_names_the_field(void **state) {
    (void)state;
    struct outcome o = run_cli("key|create|bad|--scope|fly", env);
    assert_int_equal(o.code, CLI_FAILED);
    assert_string_equal(o.out, "");
    assert_non_null(strstr(o.err, "#/scopes/0"));
    o = run_cli("domain|add|not a domain", env);
    assert_int_equal(o.code, CLI_FAILED);
    assert_non_null(strstr(o.err, "#/name"));
}

static void domains_show_what_must_be_published(void **state) {
    (void)state;
    struct outcome o = run_cli("domain|add|acme.test", env);
    assert_int_equal(o.code, CLI_OK);
    assert_non_null(strstr(o.out, "._domainkey.acme.test\n  type:  TXT\n  value: v=DKIM1;"));
    assert_int_equal(run_cli("domain|add|acme.test", env).code, CLI_FAILED); /* it is there */
    assert_non_null(strstr(run_cli("domain|list", env).out, "acme.test"));
    o = run_cli("domain|dns|acme.test|--zone", env);
    assert_int_equal(o.code, CLI_OK);
    /* an RSA key is longer than a string of a TXT record can be: it is two of them */
    assert_non_null(strstr(o.out, ". 3600 IN TXT ( \"v=DKIM1; k=rsa; p="));
    assert_non_null(strstr(o.out, "\" \""));
    assert_int_equal(run_cli("domain|delete|acme.test", env).code, CLI_OK);
    assert_int_equal(run_cli("domain|dns|acme.test", env).code, CLI_FAILED);
    assert_string_equal(run_cli("domain|list", env).out, "");
}

static void a_store_held_without_an_answer_is_unreachable(void **state) {
    (void)state;
    char path[128];
    struct store *store = NULL;
    struct errinfo info = {0};
    snprintf(path, sizeof path, "%s/data", folder);
    struct store_options so = {.backend = STORE_SQLITE, .folder = path};
    assert_int_equal(store_open(&so, &store, &info), OK);
    struct outcome o = run_cli("key|list", env);
    store_close(&store);
    assert_int_equal(o.code, CLI_UNREACHABLE);
    assert_non_null(strstr(o.err, "a server holds it"));
}

static void generated_keys_are_well_formed(void **state) {
    (void)state;
    struct outcome a = run_cli("key|generate", env), b = run_cli("key|generate|--test", env);
    assert_int_equal(a.code, CLI_OK);
    assert_true(auth_key_is_well_formed(str_make(a.out, strlen(a.out) - 1)));
    assert_true(auth_key_is_well_formed(str_make(b.out, strlen(b.out) - 1)));
    assert_memory_equal(a.out, "pc_live_", 8);
    assert_memory_equal(b.out, "pc_test_", 8);
}

static const char *answer_live(void *ctx, const struct http_peer_request *r) {
    (void)ctx;
    return strncmp(r->text, "GET /livez ", 11) == 0
               ? "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
               : "HTTP/1.1 503 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
}

static const char *answer_503(void *ctx, const struct http_peer_request *r) {
    (void)ctx;
    (void)r;
    return "HTTP/1.1 503 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
}

static void live_asks_the_listener_alone(void **state) {
    (void)state;
    struct http_peer peer;
    http_peer_start(&peer, answer_live, NULL);
    char at[64], mx[] = "POSTCHUTE_ROUTE=mx"; /* without a hostname: no matter here */
    snprintf(at, sizeof at, "POSTCHUTE_LISTEN=127.0.0.1:%d", peer.port);
    char *up[] = {data_variable, mx, at, NULL};
    struct outcome o = run_cli("doctor|--live", up);
    assert_int_equal(o.code, CLI_OK);
    assert_non_null(strstr(o.out, "HTTP 200\n"));
    assert_ptr_equal(strchr(o.out, '\n'), o.out + strlen(o.out) - 1); /* one line */
    assert_int_equal(http_peer_count(&peer), 1);
    http_peer_stop(&peer);
    assert_int_equal(run_cli("doctor|--live", up).code, CLI_FAILED); /* nobody listens */
    http_peer_start(&peer, answer_503, NULL);
    snprintf(at, sizeof at, "POSTCHUTE_LISTEN=127.0.0.1:%d", peer.port);
    assert_int_equal(run_cli("doctor|--live", up).code, CLI_FAILED);
    http_peer_stop(&peer);
}

static void doctor_says_what_to_mend(void **state) {
    (void)state;
    struct http_peer taken; /* another program has our port */
    char at[64];
    http_peer_start(&taken, answer_503, NULL);
    snprintf(at, sizeof at, "POSTCHUTE_LISTEN=127.0.0.1:%d", taken.port);
    char *bad[] = {data_variable, route, at, NULL};
    struct outcome o = run_cli("doctor|--offline", bad);
    http_peer_stop(&taken);
    assert_int_equal(o.code, CLI_FAILED);
    assert_non_null(strstr(o.out, "BAD   listen"));
    assert_non_null(strstr(o.out, "-> another program has it"));
    assert_non_null(strstr(o.out, "ok    store"));
    assert_non_null(strstr(o.out, "\n1 to mend"));

    char nowhere[] = "POSTCHUTE_LISTEN=[fe80::1]:18"; /* without the link that it is of */
    bad[2] = nowhere;
    o = run_cli("doctor|--offline", bad);
    assert_int_equal(o.code, CLI_FAILED);
    assert_non_null(strstr(o.out, "BAD   listen        [fe80::1]:18: "));
}

/* Of the doctor and of check-config the same is heard. */
static void assert_doctor_agrees(char *const *settings, const struct outcome *checked) {
    char wanted[600];
    static const char PREFIX[] = "postchute check-config: ";
    struct outcome o = run_cli("doctor|--offline", settings);
    assert_int_equal(o.code, CLI_FAILED);
    assert_memory_equal(checked->err, PREFIX, sizeof PREFIX - 1);
    snprintf(wanted, sizeof wanted, "BAD   settings      %s", checked->err + sizeof PREFIX - 1);
    if (!strstr(o.out, wanted) || strstr(o.out, "ok    settings"))
        fail_msg("%s: not in: %s", wanted, o.out);
}

static void settings_are_checked_with_the_reason(void **state) {
    (void)state;
    char wrong[] = "POSTCHUTE_ROUTE=smtp://u:p@relay.test?tls=none", mx[] = "POSTCHUTE_ROUTE=mx";
    char *bad_route[] = {wrong, NULL}, *no_name[] = {mx, NULL};
    assert_int_equal(run_cli("check-config", env).code, CLI_OK);
    assert_non_null(strstr(run_cli("check-config", env).out, "ok: "));
    struct outcome o = run_cli("check-config", bad_route);
    assert_int_equal(o.code, CLI_FAILED);
    assert_non_null(strstr(o.err, "POSTCHUTE_ROUTE: tls: credentials need tls=verify"));
    o = run_cli("check-config", no_name);
    assert_int_equal(o.code, CLI_FAILED);
    assert_non_null(strstr(o.err, "POSTCHUTE_HOSTNAME"));
    static struct {
        char setting[64];
        const char *said;
    } rows[] = {
        {"POSTCHUTE_LISTEN=nonsense", "POSTCHUTE_LISTEN: nonsense"},
        {"POSTCHUTE_LISTEN=127.0.0.1:99999", "POSTCHUTE_LISTEN: 127.0.0.1:99999"},
        {"POSTCHUTE_LISTEN=localhost:8025", "an address in numbers"},
        {"POSTCHUTE_LISTEN_HEALTH=nonsense", "POSTCHUTE_LISTEN_HEALTH: nonsense"},
        {"POSTCHUTE_DNS=nonsense", "POSTCHUTE_DNS: \"nonsense\""},
        {"POSTCHUTE_DNS_TRUST_ANCHOR=/nowhere/root.key", "POSTCHUTE_DNS_TRUST_ANCHOR: /nowhere"},
        {"POSTCHUTE_CA_FILE=/nowhere/ca.pem", "POSTCHUTE_CA_FILE: /nowhere/ca.pem"},
        {"POSTCHUTE_MX_NETWORKS=10.0.0.1/8", "POSTCHUTE_MX_NETWORKS: \"10.0.0.1/8\""},
        {"POSTCHUTE_WEBHOOK_NETWORKS=10.0.0.1/99", "POSTCHUTE_WEBHOOK_NETWORKS: \"10.0.0.1/99\""},
        {"POSTCHUTE_WEBHOOK_HTTP_HOSTS=a/b", "POSTCHUTE_WEBHOOK_HTTP_HOSTS: \"a/b\""},
        {"POSTCHUTE_ONLY_TO=a b", "POSTCHUTE_ONLY_TO: a b"},
        {"POSTCHUTE_REDIRECT_TO=nobody", "POSTCHUTE_REDIRECT_TO: nobody"},
        {"POSTCHUTE_ADMIN_KEY=hunter2", "POSTCHUTE_ADMIN_KEY: is not an API key"},
        {"POSTCHUTE_MASTER_KEY=abc", "POSTCHUTE_MASTER_KEY: expects 32 random bytes"},
        {"POSTCHUTE_MAX_RECIPIENTS=many", "POSTCHUTE_MAX_RECIPIENTS: expects a whole number"},
        {"POSTCHUTE_TLS_CERT=/nowhere", "POSTCHUTE_TLS_KEY: HTTPS needs both"},
    };
    assert_doctor_agrees(no_name, &o);
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        char *settings[] = {data_variable, route, rows[i].setting, NULL};
        o = run_cli("check-config", settings);
        if (o.code != CLI_FAILED || !strstr(o.err, rows[i].said) || strstr(o.err, "hunter2"))
            fail_msg("%s: %d %s", rows[i].setting, o.code, o.err);
        assert_doctor_agrees(settings, &o);
    }
    o = run_cli("check-config", (char *[]){route, no_anchor, NULL});
    assert_int_equal(o.code, CLI_OK); /* no file's name */
    assert_int_equal(run_cli("check-config|--dev", (char *[]){NULL}).code, CLI_OK);
    assert_int_equal(run_cli("check-config|--config|/nonexistent", env).code, CLI_FAILED);
}

static void write_file(const char *name, const char *text) {
    char path[128];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
    assert_int_equal(chmod(path, 0600), 0);
}

/* What is wrong keeps nobody from looking at the rest, by the settings as they are. */
static void doctor_goes_on_beside_wrong_settings(void **state) {
    (void)state;
    char config[128], mx[] = "POSTCHUTE_ROUTE=mx", key[] = "POSTCHUTE_MASTER_KEY=abc";
    char secret[] = "POSTCHUTE_ROUTE=smtp:/u:hunter2", many[] = "POSTCHUTE_MAX_RECIPIENTS=many";
    snprintf(config, sizeof config, "POSTCHUTE_CONFIG=%s/c.yaml", folder);
    write_file("c.yaml", "keys: [{name: x, secret: abc, scopes: [foo]}]\n");
    assert_int_equal(run_cli("key|create|shop", env).code, CLI_OK); /* there is a store */
    struct {
        char *one, *two;
        const char *said, *not_said;
    } rows[] = {
        {mx, NULL, "look  route         mail would go to mx\n", "sandbox"},
        {mx, NULL, "ok    store", "BAD   store"},
        {secret, NULL, "look  route         not known\n", "hunter2"},
        {secret, NULL, "ok    disk", "BAD   disk"},
        {route, key, "look  store         not opened\n", "BAD   store"},
        {route, config, "ok    store", "BAD   store"},
        {route, config, "key 'x': 'foo' is none of", "ok    settings"},
        {route, many, "not known, nor where the server listens", "listen  "},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        char *settings[] = {data_variable, no_listener, rows[i].one, rows[i].two, NULL};
        struct outcome o = run_cli("doctor|--offline", settings);
        assert_int_equal(o.code, CLI_FAILED);
        if (!strstr(o.out, rows[i].said) || strstr(o.out, rows[i].not_said) ||
            !strstr(o.out, "\n1 to mend, "))
            fail_msg("%zu: %s", i, o.out);
    }
    char with_data[128];
    snprintf(with_data, sizeof with_data, "doctor|--offline|--data|%s/data", folder);
    struct outcome o = run_cli(with_data, (char *[]){route, many, NULL});
    assert_non_null(strstr(o.out, "BAD   settings      POSTCHUTE_MAX_RECIPIENTS: "));
    assert_non_null(strstr(o.out, "ok    store"));
    assert_null(strstr(o.out, "listen  ")); /* the default is not what is set */
}

static void every_command_explains_itself(void **state) {
    (void)state;
    for (size_t i = 0; cli_commands[i]; i++) {
        char line[64];
        snprintf(line, sizeof line, "%s|--help", cli_commands[i]->name);
        for (char *space = line; (space = strchr(space, ' ')) != NULL;)
            *space = '|';
        struct outcome o = run_cli(line, env);
        assert_int_equal(o.code, CLI_OK);
        assert_memory_equal(o.out, "usage: postchute ", 17);
        assert_string_equal(o.err, "");
        assert_non_null(strstr(run_cli("help", env).out, cli_commands[i]->summary));
    }
    assert_int_equal(run_cli("nonsense", env).code, CLI_USAGE);
    assert_int_equal(run_cli("key", env).code, CLI_USAGE);
    assert_int_equal(run_cli("key|create", env).code, CLI_USAGE);
    assert_int_equal(run_cli("version|x", env).code, CLI_USAGE);
    assert_int_equal(run_cli("--version", env).code, CLI_OK);
    assert_non_null(strstr(run_cli("help|settings", env).out, "POSTCHUTE_LISTEN"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_only_looks_makes_no_store),
        cmocka_unit_test(doctor_looks_where_the_data_folder_will_be),
        cmocka_unit_test(a_folder_too_deep_for_its_socket_is_found_before_the_start),
        cmocka_unit_test(keys_are_made_listed_and_revoked_without_a_server),
        cmocka_unit_test(a_refusal_of_the_api_names_the_field),
        cmocka_unit_test(domains_show_what_must_be_published),
        cmocka_unit_test(a_store_held_without_an_answer_is_unreachable),
        cmocka_unit_test(generated_keys_are_well_formed),
        cmocka_unit_test(live_asks_the_listener_alone),
        cmocka_unit_test(doctor_says_what_to_mend),
        cmocka_unit_test(settings_are_checked_with_the_reason),
        cmocka_unit_test(doctor_goes_on_beside_wrong_settings),
        cmocka_unit_test(every_command_explains_itself),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
