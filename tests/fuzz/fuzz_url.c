/* Whatever is accepted as a webhook's URL has the parts it says it has, and leads nowhere inside.
 */
#include "server/net/guard.h"

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t n);

/* What an operator allows: read as a network, or as a host. What is allowed is exactly that. */
static void check_lists(struct str text) {
    struct guard *g = NULL;
    struct errinfo info = {0};
    static const uint16_t ports[] = {443, 9443};
    struct sockaddr_any loopback, ip, none = {0};
    if (sockaddr_parse(STR("127.0.0.1"), 25, &loopback) != OK)
        abort();
    if (guard_new(&(struct guard_options){.allow_networks = &text, .allow_network_count = 1}, &g,
                  &info) == OK) {
        ASSERT(!guard_allows(g, &none) && !guard_allows_mail(g, &none));
        struct str rest = text, address = str_split(&rest, '/');
        if (sockaddr_parse(address, 25, &ip) == OK)
            ASSERT(guard_allows(g, &ip) && guard_allows_mail(g, &ip));
        if (str_equal(text, STR("10.0.0.0/8")))
            ASSERT(!guard_allows(g, &loopback) && !guard_allows_mail(g, &loopback));
        guard_free(&g);
    } else {
        ASSERT(!g && info.text[0] != 0);
    }
    if (guard_new(&(struct guard_options){.allow_http_hosts = &text,
                                          .allow_http_host_count = 1,
                                          .ports = ports,
                                          .port_count = 2},
                  &g, &info) == OK) {
        ASSERT(!guard_allows(g, &loopback) || sockaddr_parse(text, 25, &ip) == OK);
        guard_free(&g);
    }
}

/* Mail goes to private networks no more than webhooks do, if to a few reserved ones. */
static void check_address(const struct guard *g, struct str text) {
    struct sockaddr_any ip;
    if (sockaddr_parse(text, 25, &ip) == OK)
        ASSERT(guard_allows_mail(g, &ip) || !guard_allows(g, &ip));
}

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t n) {
    static struct guard *g;
    if (!g && guard_new(&(struct guard_options){0}, &g, NULL) != OK)
        abort();
    static struct arena *a;
    if (!a)
        a = arena_new();
    arena_clear(a);
    struct errinfo info = {0};
    struct url u, again;
    char *text = mem_dup(data, n + (n == 0)); /* of its exact size: ASan sees one byte too far */
    if (guard_check_url(g, str_make(text, n), a, &u, &info) == OK) {
        struct sockaddr_any addr;
        ASSERT(u.is_https && u.host.n > 0 && (u.port == 443 || u.port == 8443));
        ASSERT(u.path_query.n > 0 && u.path_query.p[0] == '/');
        ASSERT(!str_has_control(u.host, false) && !str_has_control(u.path_query, false));
        ASSERT(str_is_ascii(u.host) && str_is_ascii(u.path_query));
        bool is_ip = sockaddr_parse(u.host, u.port, &addr) == OK;
        ASSERT(is_ip == u.is_literal);
        ASSERT(!is_ip || guard_allows(g, &addr));
        /* put together again it is the same URL: no second reading is possible */
        bool v6 = is_ip && sockaddr_is_ipv6(&addr);
        struct str whole =
            arena_printf(a, "https://%s%.*s%s:%u%.*s", v6 ? "[" : "", STR_ARG(u.host),
                         v6 ? "]" : "", (unsigned)u.port, STR_ARG(u.path_query));
        if (whole.n <= 2048) {
            ASSERT(guard_check_url(g, whole, a, &again, &info) == OK);
            ASSERT(str_equal(u.host, again.host) && u.port == again.port &&
                   str_equal(u.path_query, again.path_query));
        }
    } else {
        ASSERT(info.text[0] != 0);
    }
    if (n < 64) {
        check_address(g, str_make(text, n));
        check_lists(str_make(text, n));
    }
    free(text);
    return 0;
}
