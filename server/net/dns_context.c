#include "server/net/dns_context.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unbound.h>
#include <unistd.h>

#include "server/net/dns_names.h"
#include "server/net/sockaddr.h"

/* libunbound writes to standard error on its own; decisions are logged by who takes them. It has
 * one log for all contexts, and who makes a context closes the log unless it is known to belong to
 * somebody: that is forgotten when a context ends, and by some versions not said again when one is
 * finalized. So each is finalized here, and nowhere is named after that once more. */
static FILE *nowhere;

static void open_nowhere(void) {
    nowhere = fopen("/dev/null", "we");
}

static char *file_or_systems(const char *given, const char *systems) {
    if (given)
        return *given ? str_dupz(str_of(given)) : NULL;
    return access(systems, R_OK) == 0 ? str_dupz(str_of(systems)) : NULL;
}

char *dns_context_anchor_file(const char *given) {
    return file_or_systems(given, "/usr/share/dns/root.key");
}

char *dns_context_hints_file(const char *given) {
    return file_or_systems(given, "/usr/share/dns/root.hints");
}

static enum err set_options(struct ub_ctx *ctx) {
    static const char *const options[][2] = {
        /* the library's defaults are for one program with one question */
        {"num-queries-per-thread:", "4096"},
        {"outgoing-range:", "512"},
        {"outgoing-num-tcp:", "32"},
        {"msg-cache-size:", "16m"},
        {"rrset-cache-size:", "32m"},
        {"infra-cache-numhosts:", "10000"},
        {"cache-max-ttl:", "86400"},
        /* shorter than the first wait of a retry (HOP_NO_DOMAIN_MS in delivery): a domain that is
         * not there is believed the second time that somebody who knows says so, and a record just
         * published is soon seen */
        {"cache-max-negative-ttl:", "5"},
        {"do-not-query-localhost:", "no"}, /* 127.0.0.11, 127.0.0.53 */
        {"val-log-level:", "0"},
    };
    for (size_t i = 0; i < sizeof options / sizeof *options; i++)
        if (ub_ctx_set_option(ctx, options[i][0], options[i][1]) != 0)
            return ERR_INTERNAL;
    return OK;
}

static enum err set_upstream(const struct dns_upstream *u, struct ub_ctx *ctx,
                             struct errinfo *info) {
    if (u->is_recursive) {
        if (u->hints_file && ub_ctx_set_option(ctx, "root-hints:", u->hints_file) != 0)
            return err_set(info, ERR_INVALID, "dns_root_hints", "%s: not taken", u->hints_file);
        return OK;
    }
    /* zones that the library would answer by itself: here somebody may know them */
    if (ub_ctx_set_option(ctx, "unblock-lan-zones:", "yes") != 0 ||
        ub_ctx_set_option(ctx, "insecure-lan-zones:", "yes") != 0)
        return ERR_INTERNAL;
    int r = 0;
    if (strcmp(u->mode, "system") == 0) {
        r = ub_ctx_resolvconf(ctx, u->resolv_conf);
        if (r != 0)
            return err_set(info, ERR_INVALID, "dns", "%s: %s", u->resolv_conf, ub_strerror(r));
    } else {
        struct str rest = str_of(u->mode);
        while (r == 0 && !str_is_absent(rest)) {
            char *one = str_dupz(str_trim(str_split(&rest, ',')));
            r = ub_ctx_set_fwd(ctx, one);
            free(one);
        }
        if (r != 0)
            return err_set(info, ERR_INVALID, "dns", "%s: %s", u->mode, ub_strerror(r));
    }
    return OK;
}

/* hosts(5). The library's own reader ends at the first line that it does not understand. */
static void add_hosts(const struct dns_upstream *u, struct ub_ctx *ctx) {
    FILE *f = fopen(u->hosts_file, "re");
    if (!f)
        return;
    char line[4096], record[512], ip[SOCKADDR_TEXT_SIZE];
    for (struct str rest; !str_is_absent(rest = dns_file_line(line, sizeof line, f));) {
        struct sockaddr_any a;
        if (sockaddr_parse(dns_file_word(&rest), 0, &a) != OK)
            continue;
        sockaddr_print_ip(&a, ip);
        for (struct str name; (name = dns_file_word(&rest)).n > 0;) {
            if (!dns_name_is_valid(name))
                continue;
            snprintf(record, sizeof record, "%.*s. 300 IN %s %s", STR_ARG(name),
                     sockaddr_is_ipv6(&a) ? "AAAA" : "A", ip);
            (void)!ub_ctx_data_add(ctx, record);
        }
    }
    fclose(f);
}

/* The library notices late, when the context may not be freed any more. */
static enum err check_files(const struct dns_upstream *u, bool validates, struct errinfo *info) {
    char name[DNS_ANCHOR_NAME_SIZE];
    enum err e = OK;
    if (validates && u->anchor_file)
        e = dns_context_anchor_name(u->anchor_file, name, info);
    if (e == OK && u->is_recursive && u->hints_file)
        e = dns_context_check_hints(u->hints_file, info);
    return e;
}

enum err dns_context_new(const struct dns_upstream *u, bool validates, struct ub_ctx **out,
                         struct errinfo *info) {
    *out = NULL;
    enum err e = check_files(u, validates, info);
    if (e != OK)
        return e;
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, open_nowhere);
    struct ub_ctx *ctx = ub_ctx_create();
    if (!ctx)
        return err_set(info, ERR_INTERNAL, "dns", "cannot make a resolver: %s", "no memory");
    if (nowhere)
        ub_ctx_debugout(ctx, nowhere);
    e = set_options(ctx);
    if (e == OK)
        e = set_upstream(u, ctx, info);
    if (e == OK && validates && u->anchor_file && ub_ctx_add_ta_file(ctx, u->anchor_file) != 0)
        e = err_set(info, ERR_INVALID, "dns_trust_anchor", "%s: not a trust anchor",
                    u->anchor_file);
    if (e == OK && ub_ctx_async(ctx, 1) != 0)
        e = ERR_INTERNAL;
    bool is_half = false;
    /* RFC 6761 reserves it for what it is used for here, but for names that come from the root;
     * from now on nothing can be set any more */
    const char *zone = u->is_recursive ? "none.test." : "test.";
    if (e == OK && ub_ctx_zone_remove(ctx, zone) != 0) {
        e = err_set(info, ERR_INVALID, "dns", "the resolver does not take these settings%s%s",
                    validates && u->anchor_file ? ", or not this trust anchor: " : "",
                    validates && u->anchor_file ? u->anchor_file : "");
        is_half = true; /* without memory freeing it would read through a null pointer */
    }
    if (nowhere)
        ub_ctx_debugout(ctx, nowhere);
    if (e == OK && u->hosts_file)
        add_hosts(u, ctx);
    if (e != OK && !is_half)
        ub_ctx_delete(ctx);
    else
        *out = ctx;
    return e;
}

enum err dns_context_check_addresses(const char *mode, struct errinfo *info) {
    struct str rest = str_of(mode);
    while (!str_is_absent(rest)) {
        struct str one = str_trim(str_split(&rest, ','));
        struct sockaddr_any a;
        uint64_t port = 53;
        struct str ip = str_split(&one, '@');
        if (sockaddr_parse(ip, 53, &a) != OK ||
            (!str_is_absent(one) && (str_parse_u64(one, 65535, &port) != OK || port == 0)))
            return err_set(info, ERR_INVALID, "dns",
                           "\"%s\" is neither system, recursive nor addresses", mode);
    }
    return OK;
}

enum err dns_context_anchor_name(const char *file, char name[DNS_ANCHOR_NAME_SIZE],
                                 struct errinfo *info) {
    FILE *f = fopen(file, "re");
    if (!f)
        return err_set(info, ERR_INVALID, "dns_trust_anchor", "%s: %s", file,
                       strerrordesc_np(errno));
    char line[4096];
    name[0] = 0;
    while (name[0] == 0 && fgets(line, sizeof line, f)) {
        struct str s = str_trim(str_of(line));
        size_t n = 0;
        while (n < s.n && s.p[n] != ' ' && s.p[n] != '\t')
            n++;
        if (n == 0 || s.p[0] == ';' || n >= DNS_ANCHOR_NAME_SIZE)
            continue;
        memcpy(name, s.p, n);
        name[n] = 0;
    }
    fclose(f);
    if (name[0] == 0)
        return err_set(info, ERR_INVALID, "dns_trust_anchor", "%s: no trust anchor in it", file);
    return OK;
}

enum err dns_context_check_hints(const char *file, struct errinfo *info) {
    FILE *f = fopen(file, "re");
    if (!f)
        return err_set(info, ERR_INVALID, "dns_root_hints", "%s: %s", file, strerrordesc_np(errno));
    char line[4096];
    bool has_address = false;
    for (struct str rest; !str_is_absent(rest = dns_file_line(line, sizeof line, f));) {
        struct str word = STR(""), next;
        while ((next = dns_file_word(&rest)).n > 0)
            word = next;
        struct sockaddr_any a;
        has_address |= sockaddr_parse(word, 53, &a) == OK;
    }
    fclose(f);
    return has_address ? OK
                       : err_set(info, ERR_INVALID, "dns_root_hints",
                                 "%s: no address of a root server in it", file);
}
