#include "server/net/dns.h"

#include <errno.h>
#include <event2/event.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/queue.h>
#include <unbound.h>
#include <unistd.h>

#include "server/base/log.h"
#include "server/base/metrics.h"
#include "server/net/dns_rdata.h"
#include "server/net/loop.h"

enum {
    TIMEOUT_MS = 20000,
    SEARCH_MAX = 6,                 /* as resolv.conf(5) */
    PROBE_AGAIN_MS = 5000,          /* nothing answered */
    PROBE_REPAIRED_MS = 10 * 60000, /* signatures were missing */
    DNS_NS = 2,
    DNS_DNSKEY = 48,
    ANCHOR_NAME_SIZE = 256
};

#define SYSTEM_ANCHOR "/usr/share/dns/root.key"

/* Two contexts with the same upstream: one validates, the other (made when first needed) does not.
 */
enum which { VALIDATING, PLAIN, CONTEXTS };

/* What the probe knows. `probing` -> `validating` is final; `stripped` is looked at again. */
enum probe { PROBING, IS_VALIDATING, IS_STRIPPED, NO_ANCHOR };

struct upstream {
    struct ub_ctx *ctx; /* NULL: not made yet */
    struct event *readable;
};

/* Thread: the dns loop, but for what is set before it starts, and `shared`. */
struct dns {
    struct loop *loop;
    struct upstream up[CONTEXTS];
    char *mode, *resolv_conf, *hosts_file, *anchor_file;
    char anchor_name[ANCHOR_NAME_SIZE]; /* owner of the trust anchor: what the probe asks for */
    int64_t timeout_ms;
    bool is_recursive, has_hosts;
    char search[SEARCH_MAX][256];
    size_t search_count, ndots;
    TAILQ_HEAD(questions, question) asked, waiting; /* waiting: for the probe */
    struct timer *probe_timer;
    enum probe probe;
    bool is_stopping;
    atomic_uint refs;
    struct {
        pthread_mutex_t mu;
        struct dns_status status;
        bool is_stopped; /* the loop takes no more notes */
    } shared;
};

/* One dns_query under way. `names` are tried in order. */
struct question {
    struct note note;
    TAILQ_ENTRY(question) link;
    struct dns *dns;
    struct dns_query *q;
    char names[SEARCH_MAX + 1][256];
    size_t name_count, name_at;
    enum which which;
    bool is_asked;
    int ub_id;
    struct timer *timeout;
};

static void ask_current(struct question *x);

/* ---- set-up ------------------------------------------------------------------------------------
 */

/* libunbound writes to standard error on its own; decisions are logged by who takes them. */
static FILE *nowhere;

static void open_nowhere(void) {
    nowhere = fopen("/dev/null", "we");
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
        {"cache-max-negative-ttl:", "900"},
        {"do-not-query-localhost:", "no"}, /* 127.0.0.11, 127.0.0.53 */
        {"val-log-level:", "0"},
    };
    for (size_t i = 0; i < sizeof options / sizeof *options; i++)
        if (ub_ctx_set_option(ctx, options[i][0], options[i][1]) != 0)
            return ERR_INTERNAL;
    return OK;
}

static enum err set_upstream(const struct dns *d, struct ub_ctx *ctx, struct errinfo *info) {
    if (d->is_recursive)
        return OK;
    /* zones that the library would answer by itself: here somebody may know them */
    if (ub_ctx_set_option(ctx, "unblock-lan-zones:", "yes") != 0 ||
        ub_ctx_set_option(ctx, "insecure-lan-zones:", "yes") != 0)
        return ERR_INTERNAL;
    int r = 0;
    if (strcmp(d->mode, "system") == 0) {
        r = ub_ctx_resolvconf(ctx, d->resolv_conf);
        if (r != 0)
            return err_set(info, ERR_INVALID, "dns", "%s: %s", d->resolv_conf, ub_strerror(r));
    } else {
        struct str rest = str_of(d->mode);
        while (r == 0 && !str_is_absent(rest)) {
            char *one = str_dupz(str_trim(str_split(&rest, ',')));
            r = ub_ctx_set_fwd(ctx, one);
            free(one);
        }
        if (r != 0)
            return err_set(info, ERR_INVALID, "dns", "%s: %s", d->mode, ub_strerror(r));
    }
    return OK;
}

static bool is_name(struct str s) {
    size_t label = 0;
    if (s.n == 0 || s.n > 253)
        return false;
    for (size_t i = 0; i < s.n; i++) {
        char c = s.p[i];
        if (c == '.' ? label == 0 : !(ascii_is_alnum(c) || c == '-' || c == '_'))
            return false;
        label = c == '.' ? 0 : label + 1;
        if (label > 63)
            return false;
    }
    return label > 0;
}

/* The next word of a line of hosts(5) or resolv.conf(5), whose TABs are spaces by now. */
static struct str next_word(struct str *rest) {
    struct str word = STR("");
    while (word.n == 0 && !str_is_absent(*rest))
        word = str_split(rest, ' ');
    return word;
}

static struct str read_line(char *line, int size, FILE *f) {
    if (!fgets(line, size, f))
        return STR_NONE;
    for (char *tab = line; (tab = strchr(tab, '\t')) != NULL;)
        *tab = ' ';
    char *comment = strpbrk(line, "#;");
    if (comment)
        *comment = 0;
    return str_trim(str_of(line));
}

/* hosts(5). The library's own reader ends at the first line that it does not understand. */
static void add_hosts(const struct dns *d, struct ub_ctx *ctx) {
    FILE *f = fopen(d->hosts_file, "re");
    if (!f)
        return;
    char line[4096], record[512], ip[SOCKADDR_TEXT_SIZE];
    for (struct str rest; !str_is_absent(rest = read_line(line, sizeof line, f));) {
        struct sockaddr_any a;
        if (sockaddr_parse(next_word(&rest), 0, &a) != OK)
            continue;
        sockaddr_print_ip(&a, ip);
        for (struct str name; (name = next_word(&rest)).n > 0;) {
            if (!is_name(name))
                continue;
            snprintf(record, sizeof record, "%.*s. 300 IN %s %s", STR_ARG(name),
                     sockaddr_is_ipv6(&a) ? "AAAA" : "A", ip);
            (void)!ub_ctx_data_add(ctx, record);
        }
    }
    fclose(f);
}

static enum err make_ctx(const struct dns *d, enum which which, struct ub_ctx **out,
                         struct errinfo *info) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, open_nowhere);
    struct ub_ctx *ctx = ub_ctx_create();
    if (!ctx)
        return err_set(info, ERR_INTERNAL, "dns", "cannot make a resolver: %s", "no memory");
    if (nowhere)
        ub_ctx_debugout(ctx, nowhere);
    enum err e = set_options(ctx);
    if (e == OK)
        e = set_upstream(d, ctx, info);
    if (e == OK && which == VALIDATING && d->anchor_file &&
        ub_ctx_add_ta_file(ctx, d->anchor_file) != 0)
        e = err_set(info, ERR_INVALID, "dns_trust_anchor", "%s: not a trust anchor",
                    d->anchor_file);
    if (e == OK && ub_ctx_async(ctx, 1) != 0)
        e = ERR_INTERNAL;
    /* RFC 6761 reserves it for what it is used for here; from now on nothing can be set any more */
    if (e == OK && !d->is_recursive && ub_ctx_zone_remove(ctx, "test.") != 0)
        e = err_set(info, ERR_INVALID, "dns", "the resolver does not take these settings");
    if (e == OK && d->has_hosts)
        add_hosts(d, ctx);
    if (e != OK) {
        ub_ctx_delete(ctx);
        return e;
    }
    *out = ctx;
    return OK;
}

static void answers_wait(evutil_socket_t fd, short what, void *arg) {
    (void)fd, (void)what;
    ub_process(arg);
}

static enum err open_upstream(struct dns *d, enum which which) {
    struct upstream *u = &d->up[which];
    enum err e = u->ctx ? OK : make_ctx(d, which, &u->ctx, NULL);
    if (e != OK || u->readable)
        return e;
    u->readable =
        event_new(loop_base(d->loop), ub_fd(u->ctx), EV_READ | EV_PERSIST, answers_wait, u->ctx);
    ASSERT(u->readable && event_add(u->readable, NULL) == 0);
    return OK;
}

/* Search list and ndots, which libunbound leaves to us (resolv.conf(5)). */
static void read_search(struct dns *d) {
    d->ndots = 1;
    FILE *f = fopen(d->resolv_conf, "re");
    if (!f)
        return;
    char line[1024];
    for (struct str rest; !str_is_absent(rest = read_line(line, sizeof line, f));) {
        struct str word = next_word(&rest);
        bool is_options = str_equal(word, STR("options"));
        if (!is_options && !str_equal(word, STR("search")) && !str_equal(word, STR("domain")))
            continue;
        if (!is_options)
            d->search_count = 0; /* the last line counts */
        while ((word = next_word(&rest)).n > 0) {
            uint64_t n;
            if (is_options) {
                if (str_starts_with(word, STR("ndots:")) &&
                    str_parse_u64(str_from(word, 6), 15, &n) == OK)
                    d->ndots = (size_t)n;
            } else if (word.n < sizeof d->search[0] && !str_equal(word, STR(".")) &&
                       d->search_count < SEARCH_MAX) {
                if (word.p[word.n - 1] == '.')
                    word.n--;
                memcpy(d->search[d->search_count], word.p, word.n);
                d->search[d->search_count++][word.n] = 0;
            }
        }
    }
    fclose(f);
}

static enum err check_addresses(const char *mode, struct errinfo *info) {
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

/* The owner of the first record of the anchor's file: "." or, in tests, a zone of one's own. */
static enum err read_anchor_name(const char *file, char name[ANCHOR_NAME_SIZE],
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
        if (n == 0 || s.p[0] == ';' || n >= ANCHOR_NAME_SIZE)
            continue;
        memcpy(name, s.p, n);
        name[n] = 0;
    }
    fclose(f);
    if (name[0] == 0)
        return err_set(info, ERR_INVALID, "dns_trust_anchor", "%s: no trust anchor in it", file);
    return OK;
}

/* ---- status and probe --------------------------------------------------------------------------
 */

static const char *upstream_words(const struct dns *d) {
    return d->is_recursive                  ? "recursive"
           : strcmp(d->mode, "system") == 0 ? "the system's resolver"
                                            : "the resolvers given";
}

static struct metric *validating;

static void register_metrics(void) {
    validating = metric_gauge("postchute_dns_validating",
                              "1 when DNSSEC answers are validated, 0 when not or not yet known.");
}

static void set_status(struct dns *d, enum probe probe) {
    struct dns_status s = {.is_known = probe != PROBING, .is_validating = probe == IS_VALIDATING};
    static const char *const words[] = {
        [PROBING] = "DNSSEC: probing",
        [IS_VALIDATING] = "DNSSEC: answers are validated",
        [IS_STRIPPED] = "DNSSEC: off, signatures do not come through; DANE is off too",
        [NO_ANCHOR] = "DNSSEC: off, no trust anchor; DANE is off too",
    };
    snprintf(s.text, sizeof s.text, "%s; %s", upstream_words(d), words[probe]);
    d->probe = probe;
    metric_set(validating, s.is_validating);
    pthread_mutex_lock(&d->shared.mu);
    d->shared.status = s;
    pthread_mutex_unlock(&d->shared.mu);
}

struct dns_status dns_status(struct dns *d) {
    pthread_mutex_lock(&d->shared.mu);
    struct dns_status s = d->shared.status;
    pthread_mutex_unlock(&d->shared.mu);
    return s;
}

static void probe_found(struct dns *d, enum probe found) {
    if (d->is_stopping)
        return;
    if (found != d->probe) {
        set_status(d, found);
        if (found == IS_VALIDATING)
            log_info("dns", "DNSSEC signatures validate");
        else if (found == IS_STRIPPED)
            log_warn("dns", "DNSSEC signatures do not come through: no validation, no DANE");
    }
    if (found != IS_VALIDATING)
        timer_set(d->probe_timer, found == PROBING ? PROBE_AGAIN_MS : PROBE_REPAIRED_MS);
    if (found == PROBING)
        return;
    struct questions waiting = TAILQ_HEAD_INITIALIZER(waiting);
    TAILQ_CONCAT(&waiting, &d->waiting, link);
    for (struct question *x; (x = TAILQ_FIRST(&waiting)) != NULL;) {
        TAILQ_REMOVE(&waiting, x, link);
        TAILQ_INSERT_TAIL(&d->asked, x, link);
        ask_current(x);
    }
}

/* Second step: does the upstream answer at all? Then it is the signatures that are missing. */
static void probed_plain(void *arg, int err, struct ub_result *r) {
    struct dns *d = arg;
    bool answers = err == 0 && r && (r->rcode == 0 || r->rcode == 3);
    ub_resolve_free(r);
    probe_found(d, answers ? IS_STRIPPED : d->probe == IS_STRIPPED ? IS_STRIPPED : PROBING);
}

static void probed_keys(void *arg, int err, struct ub_result *r) {
    struct dns *d = arg;
    bool is_secure = err == 0 && r && r->secure && r->havedata;
    ub_resolve_free(r);
    if (is_secure) {
        probe_found(d, IS_VALIDATING);
        return;
    }
    if (open_upstream(d, PLAIN) == OK &&
        ub_resolve_async(d->up[PLAIN].ctx, d->anchor_name, DNS_NS, 1, d, probed_plain, NULL) == 0)
        return;
    probe_found(d, d->probe);
}

static void probe(void *arg) {
    struct dns *d = arg;
    if (open_upstream(d, VALIDATING) != OK ||
        ub_resolve_async(d->up[VALIDATING].ctx, d->anchor_name, DNS_DNSKEY, 1, d, probed_keys,
                         NULL) != 0)
        probe_found(d, d->probe);
}

/* ---- answers -----------------------------------------------------------------------------------
 */

static bool take_record(struct dns_query *q, struct str rdata) {
    size_t i = q->count;
    switch (q->type) {
    case DNS_A:
        return dns_rdata_ipv4(rdata, &q->addr[i]);
    case DNS_AAAA:
        return dns_rdata_ipv6(rdata, &q->addr[i]);
    case DNS_MX:
        return dns_rdata_mx(rdata, q->arena, &q->mx[i].preference, &q->mx[i].host);
    case DNS_TXT:
        return dns_rdata_text(rdata, q->arena, &q->data[i]);
    case DNS_PTR:
    case DNS_CNAME:
        return dns_rdata_name(rdata, q->arena, &q->data[i]);
    case DNS_TLSA:
        q->data[i] = arena_dup(q->arena, rdata);
        return true;
    }
    return false;
}

static void take_answer(struct dns_query *q, const struct ub_result *r) {
    size_t n = 0;
    while (r->data[n])
        n++;
    q->arena = arena_new();
    if (q->type == DNS_MX)
        q->mx = ARENA_ARRAY(q->arena, struct dns_mx, n);
    else if (q->type == DNS_A || q->type == DNS_AAAA)
        q->addr = ARENA_ARRAY(q->arena, struct sockaddr_any, n);
    else
        q->data = ARENA_ARRAY(q->arena, struct str, n);
    for (size_t i = 0; i < n; i++)
        if (r->len[i] >= 0 && take_record(q, str_make(r->data[i], (size_t)r->len[i])))
            q->count++;
}

static void put_name(char out[256], const char *name) {
    size_t n = strlen(name);
    if (n > 0 && name[n - 1] == '.')
        n--;
    n = n < 255 ? n : 255;
    for (size_t i = 0; i < n; i++)
        out[i] = ascii_lower(name[i]);
    out[n] = 0;
}

void dns_query_release(struct dns_query *q) {
    arena_free(&q->arena);
    q->mx = NULL;
    q->addr = NULL;
    q->data = NULL;
    q->count = 0;
}

/* ---- questions ---------------------------------------------------------------------------------
 */

/* The end of a question that is in no list any more. */
static void reply(struct question *x, enum failure failure) {
    struct dns_query *q = x->q;
    q->failure = failure;
    timer_free(&x->timeout);
    free(x);
    mailbox_send(q->reply_to, &q->note);
}

static void finish(struct question *x, enum failure failure) {
    TAILQ_REMOVE(&x->dns->asked, x, link);
    reply(x, failure);
}

static enum failure failure_of(int err, const struct ub_result *r) {
    if (err != 0 || !r)
        return FAILURE_DNS_TEMPORARY;
    if (r->bogus)
        return FAILURE_DNS_BOGUS;
    if (r->havedata)
        return FAILURE_NONE;
    if (r->nxdomain)
        return FAILURE_DNS_NXDOMAIN;
    return r->rcode == 0 ? FAILURE_DNS_NO_ADDRESS : FAILURE_DNS_TEMPORARY;
}

static void answered(void *arg, int err, struct ub_result *r) {
    struct question *x = arg;
    struct dns *d = x->dns;
    struct dns_query *q = x->q;
    enum failure failure = failure_of(err, r);
    x->is_asked = false;
    bool is_last = x->name_at + 1 == x->name_count;
    if (failure == FAILURE_DNS_BOGUS && x->which == VALIDATING && d->probe == PROBING) {
        /* bogus, or stripped on the way? The probe will tell. */
        TAILQ_REMOVE(&d->asked, x, link);
        TAILQ_INSERT_TAIL(&d->waiting, x, link);
    } else if (failure == FAILURE_DNS_BOGUS && x->which == VALIDATING && d->probe == IS_STRIPPED) {
        ask_current(x); /* the probe was slower than the question */
    } else if ((failure == FAILURE_DNS_NXDOMAIN || failure == FAILURE_DNS_NO_ADDRESS) && !is_last) {
        x->name_at++;
        ask_current(x);
    } else {
        if (r) {
            q->is_secure = r->secure && !r->bogus;
            q->ttl_s = r->ttl > 0 ? (uint32_t)r->ttl : 0;
            put_name(q->canonical, r->canonname ? r->canonname : x->names[x->name_at]);
        }
        if (failure == FAILURE_NONE)
            take_answer(q, r);
        finish(x, failure);
    }
    ub_resolve_free(r);
}

/* Whether the public tree can know the name; validating it would call every answer bogus. */
static bool is_private_name(struct str name) {
    static const struct str zones[] = {
        STR(".internal"), STR(".local"),    STR(".localdomain"), STR(".lan"),       STR(".home"),
        STR(".corp"),     STR(".intranet"), STR(".private"),     STR(".home.arpa"), STR(".test"),
    };
    if (str_find_char(name, '.') < 0)
        return true;
    for (size_t i = 0; i < sizeof zones / sizeof *zones; i++)
        if (str_ends_with_nocase(name, zones[i]))
            return true;
    return false;
}

/* A trust anchor for the name itself makes it public, here. */
static bool is_anchored(const struct dns *d, struct str name) {
    struct str anchor = str_of(d->anchor_name);
    if (anchor.n > 0 && anchor.p[anchor.n - 1] == '.')
        anchor.n--;
    return anchor.n > 0 && str_ends_with_nocase(name, anchor) &&
           (name.n == anchor.n || name.p[name.n - anchor.n - 1] == '.');
}

static void ask_current(struct question *x) {
    struct dns *d = x->dns;
    struct str name = str_of(x->names[x->name_at]);
    bool is_private = !d->is_recursive && is_private_name(name) && !is_anchored(d, name);
    x->which = is_private || d->probe == IS_STRIPPED || d->probe == NO_ANCHOR ? PLAIN : VALIDATING;
    if (open_upstream(d, x->which) != OK) {
        finish(x, FAILURE_DNS_TEMPORARY);
        return;
    }
    x->is_asked = true;
    if (ub_resolve_async(d->up[x->which].ctx, x->names[x->name_at], (int)x->q->type, 1, x, answered,
                         &x->ub_id) != 0) {
        x->is_asked = false;
        finish(x, FAILURE_DNS_TEMPORARY);
    }
}

static void add_name(struct question *x, struct str name, const char *suffix) {
    char *to = x->names[x->name_count];
    int n = snprintf(to, sizeof x->names[0], "%.*s%s%s", STR_ARG(name), *suffix ? "." : "", suffix);
    if (n > 0 && (size_t)n < sizeof x->names[0] && is_name(str_of(to)))
        x->name_count++;
}

/* resolv.conf(5): fewer dots than `ndots`: the search list first. Unlike there, a name with a dot
 * is tried as it stands first, and with more dots it is never extended: nobody's wildcard shall get
 * what was meant for the public name. */
static void collect_names(struct question *x) {
    const struct dns *d = x->dns;
    struct str name = str_of(x->q->name);
    size_t dots = 0;
    for (size_t i = 0; i < name.n; i++)
        dots += name.p[i] == '.';
    bool search = x->q->use_search && dots < d->ndots;
    if (!search || dots > 0)
        add_name(x, name, "");
    for (size_t i = 0; search && i < d->search_count; i++)
        add_name(x, name, d->search[i]);
    if (search && dots == 0)
        add_name(x, name, "");
}

static void timed_out(void *arg) {
    struct question *x = arg;
    struct dns *d = x->dns;
    if (x->is_asked) {
        ub_cancel(d->up[x->which].ctx, x->ub_id);
        TAILQ_REMOVE(&d->asked, x, link);
    } else {
        TAILQ_REMOVE(&d->waiting, x, link);
    }
    reply(x, FAILURE_DNS_TEMPORARY);
}

static void begin_question(struct note *n) {
    struct question *x = CONTAINER_OF(n, struct question, note);
    struct dns *d = x->dns;
    if (d->is_stopping) {
        reply(x, FAILURE_SHUTDOWN);
        return;
    }
    collect_names(x);
    if (x->name_count == 0) {
        reply(x, FAILURE_DNS_NXDOMAIN); /* nothing with such a name can be in the DNS */
        return;
    }
    x->timeout = timer_new(d->loop, timed_out, x);
    timer_set(x->timeout, d->timeout_ms);
    TAILQ_INSERT_TAIL(&d->asked, x, link);
    ask_current(x);
}

void dns_ask(struct dns *d, struct dns_query *q) {
    struct question *x = mem_zalloc(sizeof *x);
    x->note.run = begin_question;
    x->dns = d;
    x->q = q;
    q->failure = FAILURE_NONE;
    q->is_secure = false;
    q->canonical[0] = 0;
    q->ttl_s = 0;
    q->arena = NULL;
    dns_query_release(q);
    pthread_mutex_lock(&d->shared.mu);
    bool is_stopped = d->shared.is_stopped;
    if (!is_stopped)
        mailbox_send(loop_mailbox(d->loop), &x->note);
    pthread_mutex_unlock(&d->shared.mu);
    if (is_stopped)
        reply(x, FAILURE_SHUTDOWN);
}

/* ---- start and stop ----------------------------------------------------------------------------
 */

struct dns_note {
    struct note note;
    struct dns *dns;
};

static void start_run(struct note *n) {
    struct dns *d = CONTAINER_OF(n, struct dns_note, note)->dns;
    free(CONTAINER_OF(n, struct dns_note, note));
    d->probe_timer = timer_new(d->loop, probe, d);
    if (d->probe == PROBING)
        probe(d);
}

static void stop_run(struct note *n) {
    struct dns *d = CONTAINER_OF(n, struct dns_note, note)->dns;
    free(CONTAINER_OF(n, struct dns_note, note));
    d->is_stopping = true;
    for (struct question *x; (x = TAILQ_FIRST(&d->asked)) != NULL;) {
        if (x->is_asked)
            ub_cancel(d->up[x->which].ctx, x->ub_id);
        finish(x, FAILURE_SHUTDOWN);
    }
    for (struct question *x; (x = TAILQ_FIRST(&d->waiting)) != NULL;) {
        TAILQ_REMOVE(&d->waiting, x, link);
        reply(x, FAILURE_SHUTDOWN);
    }
    timer_free(&d->probe_timer);
    for (size_t i = 0; i < CONTEXTS; i++)
        if (d->up[i].readable) {
            event_free(d->up[i].readable);
            d->up[i].readable = NULL;
        }
}

static void send_to_loop(struct dns *d, void (*run)(struct note *)) {
    struct dns_note *n = mem_zalloc(sizeof *n);
    n->note.run = run;
    n->dns = d;
    mailbox_send(loop_mailbox(d->loop), &n->note);
}

static char *dupz(const char *z) {
    return z ? mem_dup(z, strlen(z) + 1) : NULL;
}

enum err dns_check(const struct dns_options *o, struct errinfo *info) {
    char name[ANCHOR_NAME_SIZE];
    bool is_word = strcmp(o->mode, "system") == 0 || strcmp(o->mode, "recursive") == 0;
    enum err e = is_word ? OK : check_addresses(o->mode, info);
    if (e == OK && o->trust_anchor_file && *o->trust_anchor_file)
        e = read_anchor_name(o->trust_anchor_file, name, info);
    return e;
}

enum err dns_start(const struct dns_options *o, struct dns **out, struct errinfo *info) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, register_metrics);
    *out = NULL;
    enum err e = OK;
    bool is_system = strcmp(o->mode, "system") == 0;
    struct dns *d = mem_zalloc(sizeof *d);
    atomic_init(&d->refs, 1);
    TAILQ_INIT(&d->asked);
    TAILQ_INIT(&d->waiting);
    pthread_mutex_init(&d->shared.mu, NULL);
    d->mode = dupz(o->mode);
    d->resolv_conf = dupz(o->resolv_conf ? o->resolv_conf : "/etc/resolv.conf");
    d->hosts_file = dupz(o->hosts_file ? o->hosts_file : "/etc/hosts");
    d->timeout_ms = o->timeout_ms > 0 ? o->timeout_ms : TIMEOUT_MS;
    d->is_recursive = strcmp(o->mode, "recursive") == 0;
    d->has_hosts = is_system;
    if (!is_system && !d->is_recursive)
        e = check_addresses(o->mode, info);
    if (is_system)
        read_search(d);
    const char *anchor = o->trust_anchor_file ? o->trust_anchor_file : SYSTEM_ANCHOR;
    /* that the system has none is its decision; that a file given is missing is a mistake */
    if (*anchor && (o->trust_anchor_file || access(anchor, R_OK) == 0)) {
        d->anchor_file = dupz(anchor);
        if (e == OK)
            e = read_anchor_name(d->anchor_file, d->anchor_name, info);
    }
    if (e == OK) {
        set_status(d, d->anchor_file ? PROBING : NO_ANCHOR);
        d->loop = loop_start("dns");
        e = make_ctx(d, d->anchor_file ? VALIDATING : PLAIN,
                     &d->up[d->anchor_file ? VALIDATING : PLAIN].ctx, info);
    }
    if (e != OK) {
        dns_stop(&d);
        return e;
    }
    send_to_loop(d, start_run);
    *out = d;
    return OK;
}

void dns_stop(struct dns **dp) {
    struct dns *d = *dp;
    *dp = NULL;
    if (!d)
        return;
    pthread_mutex_lock(&d->shared.mu);
    d->shared.is_stopped = true;
    pthread_mutex_unlock(&d->shared.mu);
    if (d->loop) {
        send_to_loop(d, stop_run);
        loop_stop(&d->loop);
    }
    for (size_t i = 0; i < CONTEXTS; i++)
        if (d->up[i].ctx)
            ub_ctx_delete(d->up[i].ctx); /* calls back nobody */
    dns_unref(&d);
}

struct dns *dns_ref(struct dns *d) {
    atomic_fetch_add_explicit(&d->refs, 1, memory_order_relaxed);
    return d;
}

void dns_unref(struct dns **dp) {
    struct dns *d = *dp;
    *dp = NULL;
    if (!d || atomic_fetch_sub_explicit(&d->refs, 1, memory_order_acq_rel) != 1)
        return;
    pthread_mutex_destroy(&d->shared.mu);
    free(d->mode);
    free(d->resolv_conf);
    free(d->hosts_file);
    free(d->anchor_file);
    free(d);
}
