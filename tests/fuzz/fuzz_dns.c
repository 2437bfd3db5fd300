/* The data of DNS records: what is taken as a name goes back to the same wire form, text is all of
 * its strings and nothing else, and no prefix of a record passes for the whole. */
#include "server/net/dns_rdata.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Writes `name` in wire form; returns its length. */
static size_t to_wire(struct str name, unsigned char out[260]) {
    size_t n = 0;
    while (!str_is_absent(name) && name.n > 0) {
        struct str label = str_split(&name, '.');
        ASSERT(label.n > 0 && label.n <= 63 && n + label.n + 2 <= 260);
        out[n++] = (unsigned char)label.n;
        memcpy(out + n, label.p, label.n);
        n += label.n;
    }
    out[n++] = 0;
    return n;
}

static void check_name(struct str rdata, struct arena *a) {
    struct str name, again;
    if (!dns_rdata_name(rdata, a, &name))
        return;
    ASSERT(name.n <= 255 && (name.n == 0 || name.p[name.n - 1] != '.'));
    for (size_t i = 0; i < name.n; i++) {
        char c = name.p[i];
        ASSERT(c == '.' || c == '-' || c == '_' || (ascii_is_alnum(c) && ascii_lower(c) == c));
    }
    unsigned char wire[260];
    size_t n = to_wire(name, wire);
    ASSERT(n <= rdata.n && str_equal_nocase(str_make(wire, n), str_slice(rdata, 0, n)));
    ASSERT(dns_rdata_name(str_make(wire, n), a, &again) && str_equal(name, again));
    for (size_t cut = 0; cut < n; cut++)
        ASSERT(!dns_rdata_name(str_make(wire, cut), a, &again));
}

static void check_mx(struct str rdata, struct arena *a) {
    uint16_t preference;
    struct str host, name;
    bool is_mx = dns_rdata_mx(rdata, a, &preference, &host);
    bool is_name = rdata.n >= 2 && dns_rdata_name(str_from(rdata, 2), a, &name);
    ASSERT(is_mx == is_name);
    if (is_mx)
        ASSERT(str_equal(host, name) && preference >> 8 == (unsigned char)rdata.p[0] &&
               (preference & 255) == (unsigned char)rdata.p[1]);
}

static void check_text(struct str rdata, struct arena *a) {
    struct str text, part;
    if (!dns_rdata_text(rdata, a, &text))
        return;
    size_t at = 0, taken = 0, last = 0;
    while (at < rdata.n) {
        last = (unsigned char)rdata.p[at++];
        ASSERT(str_equal(str_slice(text, taken, taken + last), str_slice(rdata, at, at + last)));
        taken += last;
        at += last;
    }
    ASSERT(at == rdata.n && taken == text.n);
    if (rdata.n > 0) /* without its last byte: only a last string that was empty can go unnoticed */
        ASSERT(dns_rdata_text(str_slice(rdata, 0, rdata.n - 1), a, &part) == (last == 0));
}

static void check_address(struct str rdata) {
    struct sockaddr_any ip, again;
    char text[SOCKADDR_TEXT_SIZE];
    bool is_v4 = dns_rdata_ipv4(rdata, &ip);
    ASSERT(is_v4 == (rdata.n == 4));
    bool is_v6 = !is_v4 && dns_rdata_ipv6(rdata, &ip);
    ASSERT(is_v6 == (rdata.n == 16));
    if (!is_v4 && !is_v6)
        return;
    ASSERT(sockaddr_is_ipv6(&ip) == is_v6 && sockaddr_port(&ip) == 0);
    sockaddr_print_ip(&ip, text);
    ASSERT(sockaddr_parse(str_of(text), 0, &again) == OK && sockaddr_equal(&ip, &again));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct str rdata = str_make(data, size);
    static struct arena *a;
    if (!a)
        a = arena_new();
    arena_clear(a);
    check_name(rdata, a);
    check_mx(rdata, a);
    check_text(rdata, a);
    check_address(rdata);
    return 0;
}
