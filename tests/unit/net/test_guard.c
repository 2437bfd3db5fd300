/* T19: what a webhook's URL may not be, and what it may. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "server/base/limits.h"
#include "server/net/guard.h"

static const char *const refused[] = {
    "https://127.0.0.1/",
    "https://127.0.0.1:443/",
    "https://127.1/",
    "https://127.0.1/",
    "https://127.255.255.254/",
    "https://0177.0.0.1/",
    "https://0177.0.0.01/",
    "https://017700000001/",
    "https://0x7f.0.0.1/",
    "https://0x7f000001/",
    "https://0X7F000001/",
    "https://0x7f.1/",
    "https://0x7f.0x0.0x0.0x1/",
    "https://2130706433/",
    "https://127.0.0.1./",
    "https://127.0.0.01/",
    "https://127.0.0.0x1/",
    "https://127.0.0.1.0x/",
    "https://1.1.1.1.1/",
    "https://8.8.8/",
    "https://8.8.8.8./",
    "https://8.8.8.256/",
    "https://8.8.8.-1/",
    "https://08.8.8.8/",
    "https://example.123/",
    "https://example.0x1f/",
    "https://0/",
    "https://0.0.0.0/",
    "https://0.1.2.3/",
    "https://10.0.0.1/",
    "https://10.255.255.255/",
    "https://100.64.0.1/",
    "https://100.127.255.255/",
    "https://169.254.169.254/",
    "https://169.254.169.254/latest/meta-data/",
    "https://169.254.170.2/",
    "https://172.16.0.1/",
    "https://172.31.255.255/",
    "https://192.0.0.1/",
    "https://192.0.0.192/",
    "https://192.0.2.1/",
    "https://192.88.99.1/",
    "https://192.168.0.1/",
    "https://192.168.255.255/",
    "https://198.18.0.1/",
    "https://198.19.255.255/",
    "https://198.51.100.7/",
    "https://203.0.113.7/",
    "https://224.0.0.1/",
    "https://239.255.255.255/",
    "https://240.0.0.1/",
    "https://255.255.255.255/",
    "https://[::]/",
    "https://[::1]/",
    "https://[0:0:0:0:0:0:0:1]/",
    "https://[::ffff:127.0.0.1]/",
    "https://[::ffff:7f00:1]/",
    "https://[::ffff:10.0.0.1]/",
    "https://[::ffff:169.254.169.254]/",
    "https://[::127.0.0.1]/",
    "https://[::ffff:0:127.0.0.1]/",
    "https://[64:ff9b::127.0.0.1]/",
    "https://[64:ff9b::a00:1]/",
    "https://[64:ff9b:1::8.8.8.8]/",
    "https://[2002:7f00:1::]/",
    "https://[2002:a00:1::1]/",
    "https://[2002:a9fe:a9fe::]/",
    "https://[2001:0:a00:1::f7f7:f7f7]/",
    "https://[2001:0:808:808::f5ff:fffe]/",
    "https://[2001:0:808:808::80ff:fffe]/",
    "https://[2001:2::1]/",
    "https://[2001:10::1]/",
    "https://[2001:20::1]/",
    "https://[2001:db8::1]/",
    "https://[3fff::1]/",
    "https://[3fff:fff::1]/",
    "https://[100::1]/",
    "https://[5f00::1]/",
    "https://[fc00::1]/",
    "https://[fd00:ec2::254]/",
    "https://[fdff::1]/",
    "https://[fe80::1]/",
    "https://[fe80::1%eth0]/",
    "https://[fe80::1%25eth0]/",
    "https://[febf::1]/",
    "https://[fec0::1]/",
    "https://[ff02::1]/",
    "https://[ff0e::1]/",
    "https://[2606:4700::1%25lo]/",
    "https://[8.8.8.8]/",
    "https://2606:4700::1111/",
    "https://[2606:4700::1111/",
    "https://[2606:4700::1111]x/",
    "https://[2606:4700::1111]443/",
    "https://[]/",
    "https://[::g]/",
    "https://localhost/",
    "https://LOCALHOST/",
    "https://localhost./",
    "https://api.localhost/",
    "https://metadata.google.internal/computeMetadata/v1/",
    "https://Metadata.Google.Internal/",
    "https://metadata/",
    "https://instance-data/",
    "https://kubernetes.default.svc/",
    "https://kubernetes.default.svc.cluster.local/",
    "https://user@example.com/",
    "https://user:pass@example.com/",
    "https://example.com@10.0.0.1/",
    "https://10.0.0.1@example.com/",
    "https://example.com:443@example.org/",
    "https://@example.com/",
    "https://example.com#@10.0.0.1/",
    "https://example.com/#fragment",
    "https://example.com/path#",
    "https://example.com\\@10.0.0.1/",
    "https://example.com\\.evil.test/",
    "https:\\\\example.com/",
    "https:/example.com/",
    "https:example.com",
    "//example.com/",
    "example.com",
    "http://example.com/",
    "HTTP://example.com/",
    "ftp://example.com/",
    "file:///etc/passwd",
    "gopher://example.com/",
    "javascript:alert(1)",
    "https://",
    "https:///",
    "https:///path",
    "https://:443/",
    "https://?x",
    "https://example.com:/",
    "https://example.com:0/",
    "https://example.com:00443/",
    "https://example.com:000443/",
    "https://example.com:65536/",
    "https://example.com:-1/",
    "https://example.com:+443/",
    "https://example.com:4 43/",
    "https://example.com:443x/",
    "https://example.com:443:443/",
    "https://example.com:80/",
    "https://example.com:22/",
    "https://example.com:25/",
    "https://example.com:8080/",
    "https://example.com:6379/",
    "https://example.com./",
    "https://.example.com/",
    "https://example..com/",
    "https://-example.com/",
    "https://example-.com/",
    "https://exa mple.com/",
    "https://exa%6dple.com/",
    "https://%31%32%37.0.0.1/",
    "https://127%2e0%2e0%2e1/",
    "https://example.com%00.evil.test/",
    "https://*.example.com/",
    "https://example.com,evil.test/",
    "https://example.com;evil.test/",
    "https://exa_mple!.com/",
    "https://\357\274\221\357\274\222\357\274\227.0.0.1/",
    "https://127\343\200\2020\343\200\2020\343\200\2021/",
    "https://\342\221\240\342\221\241\342\221\246.\342\223\252.\342\223\252.\342\221\240/",
    "https://\331\241\331\242\331\247.0.0.1/",
    "https://"
    "\342\223\233\342\223\236\342\223\222\342\223\220\342\223\233\342\223\227\342\223\236\342\223"
    "\242\342\223\243/",
    "https://example.com/a b",
    "https://example.com/<script>",
    "https://example.com/a\"b",
    "https://example.com/a\\b",
    "https://example.com/%",
    "https://example.com/%4",
    "https://example.com/%zz",
    "https://example.com/\303\274",
    "https://example.com/{x}",
};

static const struct {
    const char *url, *host;
    uint16_t port;
    const char *path;
} accepted[] = {
    {"https://example.com", "example.com", 443, "/"},
    {"https://example.com/", "example.com", 443, "/"},
    {"HTTPS://EXAMPLE.COM/Path", "example.com", 443, "/Path"},
    {"https://example.com:443/hook?a=b&c=%20d", "example.com", 443, "/hook?a=b&c=%20d"},
    {"https://example.com:8443/hook", "example.com", 8443, "/hook"},
    {"https://example.com?x=1", "example.com", 443, "/?x=1"},
    {"https://example.com/?", "example.com", 443, "/?"},
    {"https://example.com/a//b/../c", "example.com", 443, "/a//b/../c"},
    {"https://example.com/@me:x/~y/!$&'()*+,;=", "example.com", 443, "/@me:x/~y/!$&'()*+,;="},
    {"https://b\303\274cher.example/", "xn--bcher-kva.example", 443, "/"},
    {"https://xn--bcher-kva.example/", "xn--bcher-kva.example", 443, "/"},
    {"https://app/hook", "app", 443, "/hook"},
    {"https://hooks.internal/", "hooks.internal", 443, "/"},
    {"https://1e100.net/", "1e100.net", 443, "/"},
    {"https://a.b.c.d.e.f.example/", "a.b.c.d.e.f.example", 443, "/"},
    {"https://8.8.8.8/", "8.8.8.8", 443, "/"},
    {"https://1.1.1.1:8443/x", "1.1.1.1", 8443, "/x"},
    {"https://9.255.255.255/", "9.255.255.255", 443, "/"},
    {"https://11.0.0.0/", "11.0.0.0", 443, "/"},
    {"https://100.63.255.255/", "100.63.255.255", 443, "/"},
    {"https://100.128.0.0/", "100.128.0.0", 443, "/"},
    {"https://172.15.255.255/", "172.15.255.255", 443, "/"},
    {"https://172.32.0.0/", "172.32.0.0", 443, "/"},
    {"https://192.0.1.0/", "192.0.1.0", 443, "/"},
    {"https://192.167.255.255/", "192.167.255.255", 443, "/"},
    {"https://198.17.255.255/", "198.17.255.255", 443, "/"},
    {"https://198.20.0.0/", "198.20.0.0", 443, "/"},
    {"https://223.255.255.255/", "223.255.255.255", 443, "/"},
    {"https://[2606:4700::1111]/", "2606:4700::1111", 443, "/"},
    {"https://[2A00:1450:0:0:0:0:0:5]:8443/", "2a00:1450::5", 8443, "/"},
    {"https://[::ffff:8.8.8.8]/", "::ffff:8.8.8.8", 443, "/"},
    {"https://[64:ff9b::8.8.8.8]/", "64:ff9b::808:808", 443, "/"},
    {"https://[2002:808:808::1]/", "2002:808:808::1", 443, "/"},
    {"https://[2001:0:808:808::f7f7:f7f7]/", "2001:0:808:808::f7f7:f7f7", 443, "/"},
    {"https://[2001:200::1]/", "2001:200::1", 443, "/"},
};

static struct guard *make(const struct guard_options *o) {
    struct guard *g;
    struct errinfo info = {0};
    if (guard_new(o, &g, &info) != OK)
        fail_msg("%s: %s", info.field, info.text);
    return g;
}

static void T19_what_leads_inside_is_refused(void **state) {
    (void)state;
    struct guard *g = make(&(struct guard_options){0});
    struct arena *a = arena_new();
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        struct url u;
        struct errinfo info = {0};
        if (guard_check_url(g, str_of(refused[i]), a, &u, &info) != ERR_INVALID)
            fail_msg("accepted: %s (host %.*s)", refused[i], STR_ARG(u.host));
        if (info.text[0] == 0 || strcmp(info.field, "url") != 0)
            fail_msg("no reason for %s", refused[i]);
    }
    static const struct str bytes[] = {
        STR("https://example.com\0.evil.test/"),
        STR("https://example.com/\r\nHost: x"),
        STR("https://example.com/\t"),
        STR("https://example.com/\x7f"),
        STR("https://exa\xadmple.com/"),
        STR("https://example.com/\xc2\x85"),
        STR("\0https://example.com/"),
        STR(""),
        STR(" https://example.com/"),
        STR("https://example.com/ "),
    };
    for (size_t i = 0; i < sizeof bytes / sizeof *bytes; i++) {
        struct url u;
        assert_int_equal(guard_check_url(g, bytes[i], a, &u, NULL), ERR_INVALID);
    }
    arena_free(&a);
    guard_free(&g);
}

static void a_refusal_says_what_is_allowed(void **state) {
    (void)state;
    static const uint16_t two[] = {443, 9000}, one[] = {444};
    static const struct {
        const uint16_t *ports;
        size_t count;
        const char *url, *want;
    } rows[] = {
        {NULL, 0, "https://a.test:9999/", "port 9999 is not allowed; allowed are 443, 8443"},
        {two, 2, "https://a.test:8443/", "port 8443 is not allowed; allowed are 443, 9000"},
        {one, 1, "https://a.test/", "port 443 is not allowed; allowed are 444"},
        {NULL, 0, "https://x.localhost/", "the name belongs to the machine itself"},
        {NULL, 0, "https://metadata.google.internal/",
         "the name belongs to the inside of a cloud or cluster"},
        {NULL, 0, "https://kubernetes/", "the name belongs to the inside of a cloud or cluster"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct guard *g =
            make(&(struct guard_options){.ports = rows[i].ports, .port_count = rows[i].count});
        struct arena *a = arena_new();
        struct url u;
        struct errinfo info = {0};
        assert_int_equal(guard_check_url(g, str_of(rows[i].url), a, &u, &info), ERR_INVALID);
        assert_string_equal(info.text, rows[i].want);
        arena_free(&a);
        guard_free(&g);
    }
}

static void T19_what_leads_outside_is_taken_apart(void **state) {
    (void)state;
    struct guard *g = make(&(struct guard_options){0});
    struct arena *a = arena_new();
    for (size_t i = 0; i < sizeof accepted / sizeof *accepted; i++) {
        struct url u;
        struct errinfo info = {0};
        if (guard_check_url(g, str_of(accepted[i].url), a, &u, &info) != OK)
            fail_msg("%s: %s", accepted[i].url, info.text);
        if (!str_equal(u.host, str_of(accepted[i].host)))
            fail_msg("%s: host %.*s", accepted[i].url, STR_ARG(u.host));
        assert_true(u.is_https);
        assert_int_equal(u.port, accepted[i].port);
        assert_true(str_equal(u.path_query, str_of(accepted[i].path)));
    }
    arena_free(&a);
    guard_free(&g);
}

static void a_url_has_a_longest_length(void **state) {
    (void)state;
    static char long_url[LIMIT_URL + 2];
    struct guard *g = make(&(struct guard_options){0});
    struct arena *a = arena_new();
    struct url u;
    memset(long_url, 'a', sizeof long_url);
    memcpy(long_url, "https://example.com/", 20);
    assert_int_equal(guard_check_url(g, str_make(long_url, LIMIT_URL), a, &u, NULL), OK);
    assert_int_equal(guard_check_url(g, str_make(long_url, LIMIT_URL + 1), a, &u, NULL),
                     ERR_INVALID);
    arena_free(&a);
    guard_free(&g);
}

static bool checks(const struct guard *g, const char *url) {
    struct arena *a = arena_new();
    struct url u;
    enum err e = guard_check_url(g, str_of(url), a, &u, NULL);
    arena_free(&a);
    return e == OK;
}

static bool allows(const struct guard *g, const char *ip) {
    struct sockaddr_any a;
    assert_int_equal(sockaddr_parse(str_of(ip), 443, &a), OK);
    return guard_allows(g, &a);
}

static void T19_mail_goes_to_no_private_network_that_is_not_listed(void **state) {
    (void)state;
    static const struct str networks[] = {STR("10.1.0.0/16"), STR("fd01::/16")};
    static const struct {
        const char *ip;
        bool want;
    } rows[] = {
        {"0.0.0.0", false},
        {"10.0.0.1", false},
        {"10.1.0.1", true},
        {"10.2.0.1", false},
        {"100.63.255.255", true},
        {"100.64.0.1", false},
        {"100.128.0.1", true},
        {"127.0.0.1", false},
        {"169.254.169.254", false},
        {"172.15.0.1", true},
        {"172.16.0.1", false},
        {"172.31.255.255", false},
        {"172.32.0.1", true},
        {"192.0.2.1", true},
        {"192.168.1.1", false},
        {"224.0.0.1", false},
        {"255.255.255.255", false},
        {"8.8.8.8", true},
        {"::", false},
        {"::1", false},
        {"::ffff:127.0.0.1", false},
        {"::ffff:10.1.0.1", true},
        {"64:ff9b::10.0.0.1", false},
        {"64:ff9b::8.8.8.8", true},
        {"64:ff9b:1::10.0.0.1", false}, /* local use, whatever is in it */
        {"64:ff9b:1::8.8.8.8", false},
        {"2002:7f00:1::", false},
        {"2001:0:808:808::f7f7:f7f7", true}, /* Teredo: the client's bits are turned */
        {"2001:0:808:808::f5ff:fffe", false},
        {"2001:0:a00:1::f7f7:f7f7", false},
        {"2001:0:808:808::f5fe:fffe", true}, /* 10.1.0.1 is listed */
        {"fe80::1", false},
        {"fec0::1", false},
        {"fc00::1", false},
        {"fd00::1", false},
        {"fd01::1", true},
        {"ff02::1", false},
        {"2001:db8::1", true},
        {"2a00:1450::1", true},
    };
    struct guard *g =
        make(&(struct guard_options){.allow_networks = networks, .allow_network_count = 2});
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct sockaddr_any a;
        assert_int_equal(sockaddr_parse(str_of(rows[i].ip), 25, &a), OK);
        if (guard_allows_mail(g, &a) != rows[i].want)
            fail_msg("%s", rows[i].ip);
    }
    const struct sockaddr_any none = {0};
    assert_false(guard_allows_mail(g, &none));
    guard_free(&g);
}

static void T19_the_operator_opens_networks(void **state) {
    (void)state;
    static const struct str networks[] = {STR("10.1.0.0/16"), STR("127.0.0.1"), STR("fd00::/8"),
                                          STR("192.168.1.128/25")};
    struct guard *g =
        make(&(struct guard_options){.allow_networks = networks, .allow_network_count = 4});
    static const struct {
        const char *ip;
        bool want;
    } rows[] = {
        {"10.1.0.0", true},
        {"10.1.255.255", true},
        {"10.2.0.0", false},
        {"10.0.255.255", false},
        {"127.0.0.1", true},
        {"127.0.0.2", false},
        {"fd12::1", true},
        {"fc00::1", false},
        {"192.168.1.128", true},
        {"192.168.1.127", false},
        {"192.168.1.255", true},
        {"::ffff:10.1.2.3", true},
        {"::ffff:10.2.2.3", false},
        {"2002:a01:203::1", true},
        {"64:ff9b::10.1.2.3", true},
        {"64:ff9b::10.2.2.3", false},
        {"8.8.8.8", true},
        {"::1", false},
        {"::", false},
        {"0.0.0.0", false},
        {"2606:4700::1", true},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        if (allows(g, rows[i].ip) != rows[i].want)
            fail_msg("%s", rows[i].ip);
    assert_true(checks(g, "https://10.1.2.3:9000/")); /* any port there */
    assert_false(checks(g, "https://10.2.2.3/"));
    assert_false(checks(g, "http://10.1.2.3/")); /* but not in clear */
    assert_false(checks(g, "https://8.8.8.8:9000/"));
    struct sockaddr_any none = {0};
    assert_false(guard_allows(g, &none));
    guard_free(&g);
}

static void T19_the_operator_opens_hosts_for_plain_http(void **state) {
    (void)state;
    static const struct str hosts[] = {STR("App"), STR("10.0.0.5"), STR("fd00::5"),
                                       STR("[fd00::6]"), STR("localhost")};
    static const struct str networks[] = {STR("10.0.0.5/32"), STR("fd00::/64")};
    struct guard *g = make(&(struct guard_options){.allow_http_hosts = hosts,
                                                   .allow_http_host_count = 5,
                                                   .allow_networks = networks,
                                                   .allow_network_count = 2});
    static const struct {
        const char *url;
        bool want;
    } rows[] = {
        {"http://app/hook", true},          {"http://APP:3000/hook", true},
        {"https://app:3000/", true},        {"http://app2/", false},
        {"http://app.example.com/", false}, {"http://10.0.0.5:8080/", true},
        {"http://10.0.0.6/", false},        {"http://[fd00::5]:80/", true},
        {"http://[fd00:0::6]/", true},      {"http://[fd00::7]/", false},
        {"http://localhost:3000/", true},   {"https://example.com:3000/", false},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        if (checks(g, rows[i].url) != rows[i].want)
            fail_msg("%s", rows[i].url);
    struct arena *a = arena_new();
    struct url u;
    assert_int_equal(guard_check_url(g, STR("http://app"), a, &u, NULL), OK);
    assert_false(u.is_https);
    assert_int_equal(u.port, 80);
    arena_free(&a);
    guard_free(&g);
    /* a literal that may be asked in clear still has to be in an open network */
    g = make(&(struct guard_options){.allow_http_hosts = hosts, .allow_http_host_count = 5});
    assert_false(checks(g, "http://10.0.0.5/"));
    assert_true(checks(g, "http://app/"));
    guard_free(&g);
}

static void a_list_of_ports_is_for_all(void **state) {
    (void)state;
    static const uint16_t ports[] = {443, 9443};
    static const struct str hosts[] = {STR("app")};
    struct guard *g = make(&(struct guard_options){
        .ports = ports, .port_count = 2, .allow_http_hosts = hosts, .allow_http_host_count = 1});
    assert_true(checks(g, "https://example.com/"));
    assert_true(checks(g, "https://example.com:9443/"));
    assert_false(checks(g, "https://example.com:8443/"));
    assert_false(checks(g, "http://app/"));
    assert_true(checks(g, "http://app:9443/"));
    guard_free(&g);
}

static void wrong_options_are_named(void **state) {
    (void)state;
    static const struct str networks[] = {
        STR(""),          STR("10.0.0.0/33"),  STR("10.0.0.1/8"),
        STR("10.0.0.0/"), STR("10.0.0/8"),     STR("::1/129"),
        STR("fd00::1/8"), STR("10.0.0.0/8/8"), STR("10.0.0.0/-1"),
        STR("all"),       STR("10.0.0.0 /8"),
    };
    for (size_t i = 0; i < sizeof networks / sizeof *networks; i++) {
        struct guard *g;
        struct errinfo info = {0};
        assert_int_equal(guard_new(&(struct guard_options){.allow_networks = &networks[i],
                                                           .allow_network_count = 1},
                                   &g, &info),
                         ERR_INVALID);
        assert_null(g);
        assert_string_equal(info.field, "allow_networks");
    }
    static const struct str hosts[] = {STR(""), STR("a b"), STR("http://app"), STR("app:80"),
                                       STR("app.")};
    for (size_t i = 0; i < sizeof hosts / sizeof *hosts; i++) {
        struct guard *g;
        struct errinfo info = {0};
        assert_int_equal(guard_new(&(struct guard_options){.allow_http_hosts = &hosts[i],
                                                           .allow_http_host_count = 1},
                                   &g, &info),
                         ERR_INVALID);
        assert_string_equal(info.field, "allow_http_hosts");
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(T19_what_leads_inside_is_refused),
        cmocka_unit_test(T19_what_leads_outside_is_taken_apart),
        cmocka_unit_test(a_refusal_says_what_is_allowed),
        cmocka_unit_test(a_url_has_a_longest_length),
        cmocka_unit_test(T19_mail_goes_to_no_private_network_that_is_not_listed),
        cmocka_unit_test(T19_the_operator_opens_networks),
        cmocka_unit_test(T19_the_operator_opens_hosts_for_plain_http),
        cmocka_unit_test(a_list_of_ports_is_for_all),
        cmocka_unit_test(wrong_options_are_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
