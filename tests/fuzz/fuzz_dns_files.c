/* What others write for a resolver and our own code reads: hosts(5), resolv.conf(5), root hints, a
 * trust anchor; and the addresses of resolvers that a setting names. Whatever is in hosts(5),
 * libunbound is handed whole records of one name and one address; whatever is in resolv.conf(5),
 * names that are asked for are names. First octet: which of the files. */
#include <stdlib.h>
#include <sys/mman.h>
#include <unbound.h>
#include <unistd.h>

#include "server/net/dns_context.h"
#include "server/net/dns_names.h"
#include "server/net/sockaddr.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* In the place of libunbound's: what it is told is looked at, nothing is set up. */
static int made;
struct ub_ctx *ub_ctx_create(void) {
    return (struct ub_ctx *)(void *)&made;
}
void ub_ctx_delete(struct ub_ctx *ctx) {
    ASSERT((void *)ctx == &made);
}
int ub_ctx_debugout(struct ub_ctx *ctx, void *out) {
    (void)ctx, (void)out;
    return 0;
}
int ub_ctx_set_option(struct ub_ctx *ctx, const char *name, const char *value) {
    (void)ctx, (void)name, (void)value;
    return 0;
}
int ub_ctx_set_fwd(struct ub_ctx *ctx, const char *address) {
    (void)ctx, (void)address;
    return 0;
}
int ub_ctx_async(struct ub_ctx *ctx, int by_thread) {
    (void)ctx;
    ASSERT(by_thread == 1);
    return 0;
}
int ub_ctx_zone_remove(struct ub_ctx *ctx, const char *name) {
    (void)ctx, (void)name;
    return 0;
}
int ub_ctx_data_add(struct ub_ctx *ctx, const char *record) {
    (void)ctx;
    struct str rest = str_of(record), name = str_split(&rest, ' ');
    ASSERT(str_ends_with(name, STR(".")) && dns_name_is_valid(str_slice(name, 0, name.n - 1)));
    ASSERT(str_equal(str_split(&rest, ' '), STR("300")) &&
           str_equal(str_split(&rest, ' '), STR("IN")));
    bool is_ipv6 = str_equal(str_split(&rest, ' '), STR("AAAA"));
    struct sockaddr_any a;
    ASSERT(sockaddr_parse(rest, 0, &a) == OK && sockaddr_is_ipv6(&a) == is_ipv6);
    return 0;
}

/* Nothing: a file that is not there. */
static const char *file_of(struct str text) {
    if (text.n == 0)
        return "/proc/self/fd/none";
    static char path[64];
    static int fd = -1;
    if (fd < 0) {
        fd = memfd_create("dns_files", MFD_CLOEXEC);
        snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    }
    ASSERT(fd >= 0 && ftruncate(fd, 0) == 0);
    ASSERT(pwrite(fd, text.p, text.n, 0) == (ssize_t)text.n);
    return path;
}

static void check_hosts(const char *path) {
    struct dns_upstream u = {.mode = (char[]){"127.0.0.1"}, .hosts_file = (char *)(uintptr_t)path};
    struct ub_ctx *ctx = NULL;
    struct errinfo info = {0};
    ASSERT(dns_context_new(&u, false, &ctx, &info) == OK);
    ub_ctx_delete(ctx);
}

static void check_resolv_conf(const char *path) {
    static const struct str asked[] = {STR("db"), STR("db.corp"), STR("a.b.c.d")};
    struct dns_names n;
    char out[DNS_NAMES_MAX][256];
    dns_names_read(&n, path);
    ASSERT(n.search_count <= DNS_SEARCH_MAX && n.ndots <= 15);
    for (size_t i = 0; i < n.search_count; i++) {
        struct str s = str_make(n.search[i], strnlen(n.search[i], sizeof n.search[i]));
        ASSERT(s.n < sizeof n.search[i] && str_find_char(s, ' ') < 0);
        (void)dns_name_is_below(asked[0], s);
    }
    for (size_t i = 0; i < sizeof asked / sizeof asked[0]; i++) {
        size_t count = dns_names_collect(&n, asked[i], true, out);
        ASSERT(count >= 1 && count <= DNS_NAMES_MAX); /* the name itself at least */
        bool is_asked = false;
        for (size_t k = 0; k < count; k++) {
            ASSERT(dns_name_is_valid(str_of(out[k])) && str_starts_with(str_of(out[k]), asked[i]));
            is_asked |= str_equal(str_of(out[k]), asked[i]);
        }
        ASSERT(is_asked);
    }
}

static void check_root(const char *path) {
    struct errinfo info = {0};
    char name[DNS_ANCHOR_NAME_SIZE];
    if (dns_context_check_hints(path, &info) != OK)
        ASSERT(str_starts_with(str_of(info.text), str_of(path)));
    if (dns_context_anchor_name(path, name, &info) != OK)
        return;
    size_t n = strnlen(name, sizeof name);
    ASSERT(n > 0 && n < sizeof name && name[0] != ';');
    ASSERT(!strpbrk(name, " \t\n"));
}

static void check_addresses(struct str text) {
    struct errinfo info = {0};
    char *mode = str_dupz(text);
    if (dns_context_check_addresses(mode, &info) != OK)
        ASSERT(info.text[0] != '\0');
    else
        ASSERT(!strpbrk(mode, "/#;\"'\\(){}")); /* digits, colons, dots, ports, white space */
    free(mode);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size < 1)
        return 0;
    const char *path = file_of(str_make(data + 1, size - 1));
    check_addresses(str_make(data + 1, size - 1));
    if (data[0] % 3 == 0)
        check_hosts(path);
    else if (data[0] % 3 == 1)
        check_resolv_conf(path);
    else
        check_root(path);
    return 0;
}
