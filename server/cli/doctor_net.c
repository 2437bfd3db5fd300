#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "server/base/clock.h"
#include "server/cli/doctor.h"
#include "server/lifecycle_options.h"

enum { PROBE_WAIT_MS = 5000, GREETING_MAX = 512, REVERSE_MAX = 80 };

/* ---- questions ------------------------------------------------------------------------------- */

static void answered(struct note *n) {
    n->run = NULL;
}

void doctor_ask(struct doctor *d, enum dns_type type, struct str name, struct dns_query *q) {
    *q = (struct dns_query){.note.run = answered, .reply_to = d->box, .type = type};
    snprintf(q->name, sizeof q->name, "%.*s", STR_ARG(name));
    dns_ask(d->dns, q);
    while (q->note.run)
        mailbox_wait(d->box, -1);
}

void doctor_dns(struct doctor *d) {
    int64_t until_mono_ms = clock_mono_ms() + PROBE_WAIT_MS;
    struct dns_status s = dns_status(d->dns);
    while (!s.is_known && clock_mono_ms() < until_mono_ms) {
        mailbox_wait(d->box, 50); /* nobody writes: the probe has no note */
        s = dns_status(d->dns);
    }
    if (!s.is_known)
        doctor_bad(d, "dns", "is the resolver reachable? See POSTCHUTE_DNS",
                   "no answer within %d s: %s", PROBE_WAIT_MS / 1000, s.text);
    else if (!s.is_validating)
        doctor_look(d, "dns",
                    "without DNSSEC there is no DANE; POSTCHUTE_DNS=recursive, or the "
                    "addresses of a resolver that passes signatures on",
                    "%s", s.text);
    else
        doctor_ok(d, "dns", "%s", s.text);
}

/* ---- our name -------------------------------------------------------------------------------- */

/* "1.2.0.192.in-addr.arpa", or its counterpart of ip6.arpa (RFC 3596 2.5). */
static void print_reverse(const struct sockaddr_any *a, char out[REVERSE_MAX]) {
    struct buf b = BUF_INIT(REVERSE_MAX - 1);
    if (sockaddr_is_ipv6(a)) {
        const struct sockaddr_in6 *in6 = (const void *)&a->ss;
        for (int i = 15; i >= 0; i--)
            buf_printf(&b, "%x.%x.", in6->sin6_addr.s6_addr[i] & 15,
                       in6->sin6_addr.s6_addr[i] >> 4);
        buf_putz(&b, "ip6.arpa");
    } else {
        const struct sockaddr_in *in = (const void *)&a->ss;
        uint32_t v = ntohl(in->sin_addr.s_addr);
        buf_printf(&b, "%u.%u.%u.%u.in-addr.arpa", v & 255, v >> 8 & 255, v >> 16 & 255, v >> 24);
    }
    snprintf(out, REVERSE_MAX, "%.*s", STR_ARG(buf_str(&b)));
    buf_release(&b);
}

/* Does the address's PTR lead back to our name? */
static void examine_address(struct doctor *d, const struct sockaddr_any *a) {
    char ip[SOCKADDR_TEXT_SIZE], reverse[REVERSE_MAX];
    struct dns_query q;
    struct str hostname = d->config->hostname, first = STR_NONE;
    bool found = false;
    sockaddr_print_ip(a, ip);
    print_reverse(a, reverse);
    doctor_ask(d, DNS_PTR, str_of(reverse), &q);
    for (size_t i = 0; q.failure == FAILURE_NONE && i < q.count; i++) {
        found |= str_equal_nocase(q.data[i], hostname);
        first = q.data[0];
    }
    if (found)
        doctor_ok(d, "hostname", "%.*s -> %s -> %.*s", STR_ARG(hostname), ip, STR_ARG(hostname));
    else if (q.failure == FAILURE_NONE)
        doctor_bad(d, "hostname",
                   "set the address's PTR record to our name, or "
                   "POSTCHUTE_HOSTNAME to its PTR",
                   "%s has the PTR %.*s, not %.*s", ip, STR_ARG(first), STR_ARG(hostname));
    else
        doctor_bad(d, "hostname",
                   "whoever gave you the address has to set its PTR record: large "
                   "receivers refuse mail without one",
                   "%s has no PTR: %s", ip, failure_text(q.failure));
    dns_query_release(&q);
}

/* The address that deliveries are made to leave from: a receiver looks at that one. */
static void examine_source(struct doctor *d, const char *ip, bool is_ours) {
    if (is_ours)
        doctor_ok(d, "source", "mail leaves from %s, which is %.*s", ip,
                  STR_ARG(d->config->hostname));
    else
        doctor_bad(
            d, "source", "let POSTCHUTE_HOSTNAME resolve to POSTCHUTE_SOURCE_ADDRESS, and back",
            "mail leaves from %s, which is no address of %.*s", ip, STR_ARG(d->config->hostname));
}

static bool is_ip(const struct sockaddr_any *a, const char *ip) {
    char text[SOCKADDR_TEXT_SIZE];
    sockaddr_print_ip(a, text);
    return strcmp(text, ip) == 0;
}

void doctor_hostname(struct doctor *d) {
    static const enum dns_type types[] = {DNS_A, DNS_AAAA};
    size_t found = 0;
    bool has_source = false;
    char source[SOCKADDR_TEXT_SIZE] = "";
    struct sockaddr_any a;
    if (!config_uses_mx(d->config))
        return; /* a smarthost knows us by our credentials */
    if (d->config->hostname.n == 0)
        return; /* as the settings were told */
    if (sockaddr_parse(d->config->source_address, 0, &a) == OK)
        sockaddr_print_ip(&a, source);
    for (size_t t = 0; t < 2; t++) {
        struct dns_query q;
        doctor_ask(d, types[t], d->config->hostname, &q);
        for (size_t i = 0; q.failure == FAILURE_NONE && i < q.count; i++, found++) {
            has_source |= is_ip(&q.addr[i], source);
            if (types[t] == DNS_A || d->config->ipv6 == IPV6_ON)
                examine_address(d, &q.addr[i]);
        }
        dns_query_release(&q);
    }
    if (!found)
        doctor_bad(d, "hostname", "give it an A record with this host's public address",
                   "%.*s has no address in DNS", STR_ARG(d->config->hostname));
    if (source[0])
        examine_source(d, source, has_source);
}

/* ---- the way out ----------------------------------------------------------------------------- */

static bool wait_for(int fd, short events, int64_t until_mono_ms) {
    struct pollfd p = {.fd = fd, .events = events};
    int64_t left = until_mono_ms - clock_mono_ms();
    return left > 0 && poll(&p, 1, (int)left) == 1;
}

/* Connects and reads the greeting's first line; false: `text` says why not. */
static bool greets(const struct doctor *d, const struct sockaddr_any *to, char text[GREETING_MAX]) {
    int64_t until = clock_mono_ms() + d->patience_ms;
    int fd = socket(to->ss.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), why = 0;
    socklen_t size = sizeof why;
    bool ok = false;
    snprintf(text, GREETING_MAX, "no answer within %lld s", (long long)d->patience_ms / 1000);
    if (fd < 0)
        return false;
    if (connect(fd, (const struct sockaddr *)&to->ss, to->len) != 0 && errno != EINPROGRESS)
        why = errno;
    else if (wait_for(fd, POLLOUT, until))
        getsockopt(fd, SOL_SOCKET, SO_ERROR, &why, &size);
    else
        why = ETIMEDOUT;
    if (why) {
        snprintf(text, GREETING_MAX, "%s", strerror(why));
    } else if (wait_for(fd, POLLIN, until)) {
        ssize_t n = read(fd, text, GREETING_MAX - 1);
        text[n > 0 ? n : 0] = '\0';
        text[strcspn(text, "\r\n")] = '\0';
        ok = n > 0 && strncmp(text, "220", 3) == 0;
    }
    close(fd);
    return ok;
}

static void looked_up(struct note *n) {
    n->run = NULL;
}

/* Tries the addresses of a domain's MX until one greets. */
static bool try_mx(struct doctor *d, char text[GREETING_MAX]) {
    struct mx_lookup q = {.note.run = looked_up,
                          .reply_to = d->box,
                          .port = (uint16_t)d->config->smtp_port,
                          .want_ipv6 = d->config->ipv6 == IPV6_ON};
    bool ok = false;
    int tried = 0;
    snprintf(q.domain, sizeof q.domain, "%s", d->mx_domain);
    mx_resolve(d->dns, &q);
    while (q.note.run)
        mailbox_wait(d->box, -1);
    if (q.failure != FAILURE_NONE)
        snprintf(text, GREETING_MAX, "%s", failure_text(q.failure));
    for (size_t h = 0; q.failure == FAILURE_NONE && h < q.count && !ok && tried < 2; h++)
        for (size_t i = 0; i < q.host[h].addr_count && !ok && tried < 2; i++, tried++)
            ok = greets(d, &q.host[h].addr[i], text);
    mx_lookup_release(&q);
    return ok;
}

static void examine_mx(struct doctor *d) {
    char text[GREETING_MAX] = "";
    if (try_mx(d, text))
        doctor_ok(d, "port 25", "the MX of %s greets: %s", d->mx_domain, text);
    else
        doctor_bad(d, "port 25",
                   "many providers block it: ask them to open it, or send through a "
                   "smarthost (POSTCHUTE_ROUTE)",
                   "the MX of %s: %s", d->mx_domain, text);
}

void doctor_way_out(struct doctor *d) {
    struct lifecycle_delivery o;
    struct errinfo info = {0};
    if (config_uses_mx(d->config))
        examine_mx(d);
    enum err e = lifecycle_delivery_options(d->config, 1, &o, &info);
    for (size_t r = 0; e == OK && r < o.options.route_count; r++)
        if (o.options.routes[r].kind == ROUTE_SMARTHOST)
            for (size_t i = 0; i < o.options.routes[r].smarthost_count; i++)
                doctor_smarthost(d, &o.options.routes[r].smarthost[i]);
    if (e != OK)
        doctor_look(d, "smarthost", "mend the settings first", "not tried");
    lifecycle_delivery_release(&o);
}
