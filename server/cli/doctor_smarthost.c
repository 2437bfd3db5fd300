/* The smarthosts: everything that a delivery does before its first MAIL. */
#include "server/cli/doctor.h"
#include "server/lifecycle_options.h"
#include "server/net/loop.h"

enum { TEXT_MAX = 512, ADDRESSES_MOST = 2, QUIT_TURNS = 2, QUIT_MS = 100 };

/* One conversation up to the point where a message could be sent. */
struct knock {
    struct loop *loop;
    struct session *session;
    bool is_ready;
    bool has_no_auth;
    enum stage stage; /* where it ended */
    char text[TEXT_MAX];
    struct tls_info tls;
};

static void on_ready(void *ctx) {
    struct knock *k = ctx;
    k->is_ready = true;
    k->tls = session_info_of(k->session)->tls;
    session_quit(&k->session);
    loop_break(k->loop);
}

static void on_failed(void *ctx, const struct session_result *r) {
    struct knock *k = ctx;
    k->stage = r->stage;
    k->has_no_auth = r->failure == FAILURE_AUTH_UNAVAILABLE;
    struct str text = session_result_text(r);
    if (r->failure == FAILURE_NONE)
        snprintf(k->text, sizeof k->text, "%d %.*s", r->reply->code, STR_ARG(text));
    else
        snprintf(k->text, sizeof k->text, "%.*s", STR_ARG(text));
    session_close(&k->session);
    loop_break(k->loop);
}

static void fill_patience(const struct doctor *d, struct session_timeouts *t) {
    session_timeouts_default(t);
    t->connect = t->greeting = t->ehlo = t->starttls = d->patience_ms;
}

static void knock(const struct doctor *d, const struct smarthost *h, const struct sockaddr_any *to,
                  struct tls_client_ctx *tls, struct knock *k) {
    static const struct session_events events = {.on_ready = on_ready, .on_failed = on_failed};
    struct session_options o = {.to = *to,
                                .host_name = h->host,
                                .ehlo_name = "[127.0.0.1]",
                                .tls = h->tls,
                                .tls_ctx = tls,
                                .insecure_auth = h->insecure_auth};
    char *hostname = str_dupz(d->config->hostname);
    if (*hostname)
        o.ehlo_name = hostname;
    if (h->user[0]) {
        o.auth_user = h->user;
        o.auth_password = h->password;
    }
    fill_patience(d, &o.timeouts);
    *k = (struct knock){.loop = loop_new()};
    k->session = session_open(k->loop, &o, &events, k);
    loop_dispatch(k->loop);
    for (int turn = 0; turn < QUIT_TURNS; turn++)
        loop_dispatch_once(k->loop, QUIT_MS); /* the QUIT leaves; its answer is not waited for */
    loop_free(&k->loop);
    free(hostname);
}

/* As delivery does, once it knows where a name leads (T7). */
static bool may_log_in(const struct smarthost *h, const struct sockaddr_any *to) {
    return !h->user[0] || !h->insecure_auth || h->tls == SESSION_TLS_VERIFY ||
           h->tls == SESSION_TLS_IMPLICIT || smarthost_address_is_private(to);
}

static void say_ready(struct doctor *d, const struct smarthost *h, const struct knock *k) {
    const char *login = h->user[0] ? "; takes our login" : "";
    if (!k->tls.version[0])
        doctor_ok(d, "smarthost", "%s:%u: ready, in clear%s", h->host, (unsigned)h->port, login);
    else if (k->tls.is_verified)
        doctor_ok(d, "smarthost", "%s:%u: ready over %s, verified%s", h->host, (unsigned)h->port,
                  k->tls.version, login);
    else
        doctor_ok(d, "smarthost", "%s:%u: ready over %s, not verified (%s)%s", h->host,
                  (unsigned)h->port, k->tls.version, k->tls.problem, login);
}

static void say_failed(struct doctor *d, const struct smarthost *h, const struct knock *k) {
    const char *mend = "is the name right, does it run, does a firewall stand between?";
    if (k->stage == STAGE_TLS && h->tls == SESSION_TLS_OPPORTUNISTIC) {
        doctor_look(d, "smarthost", "mail goes there in clear; ?tls=encrypt or verify forbids that",
                    "%s:%u: its TLS cannot be used: %s", h->host, (unsigned)h->port, k->text);
        return;
    }
    if (k->stage == STAGE_AUTH && !k->has_no_auth)
        mend = "correct user and password in its URL";
    else if (k->stage == STAGE_AUTH)
        mend = "is it the port for submissions? One that asks for no login gets a URL without";
    else if (k->stage == STAGE_STARTTLS || k->stage == STAGE_TLS)
        mend = "is it the right server? Its URL may name its authority (ca=) or its key (pin=)";
    else if (k->stage == STAGE_GREETING || k->stage == STAGE_EHLO)
        mend = "it does not speak with us like that: ask whoever runs it, or see ?tls= of its URL";
    doctor_bad(d, "smarthost", mend, "%s:%u: %s: %s", h->host, (unsigned)h->port,
               stage_name(k->stage), k->text);
}

static void try_addresses(struct doctor *d, const struct smarthost *h, const struct mx_lookup *q,
                          struct tls_client_ctx *tls) {
    struct knock k = {.stage = STAGE_RESOLVE};
    snprintf(k.text, sizeof k.text, "%s", failure_text(q->failure));
    int tried = 0;
    for (size_t i = 0; q->failure == FAILURE_NONE && i < q->count; i++)
        for (size_t n = 0; n < q->host[i].addr_count; n++) {
            if (k.is_ready || tried++ == ADDRESSES_MOST)
                break;
            if (may_log_in(h, &q->host[i].addr[n])) {
                knock(d, h, &q->host[i].addr[n], tls, &k);
                continue;
            }
            k = (struct knock){.stage = STAGE_AUTH};
            snprintf(k.text, sizeof k.text, "insecure_auth=1 is for private addresses");
        }
    if (k.is_ready)
        say_ready(d, h, &k);
    else
        say_failed(d, h, &k);
}

static void looked_up(struct note *n) {
    n->run = NULL;
}

void doctor_smarthost(struct doctor *d, const struct smarthost *h) {
    struct lifecycle_net net;
    struct tls_client_ctx *tls = NULL;
    struct errinfo info = {0};
    struct mx_lookup q = {.note.run = looked_up,
                          .reply_to = d->box,
                          .is_host = true,
                          .port = h->port,
                          .want_ipv6 = d->config->ipv6 == IPV6_ON};
    lifecycle_net_options(d->config, &net);
    struct tls_client_options o = {.ca_file = h->ca_file[0] ? h->ca_file : net.tls.ca_file,
                                   .pin = h->pin,
                                   .pin_count = h->pin_count,
                                   .is_pin_alone = h->is_pin_alone};
    if (tls_client_ctx_new(&o, &tls, &info) != OK) {
        doctor_bad(d, "smarthost", "correct ca= in its URL, or POSTCHUTE_CA_FILE", "%s:%u: %s",
                   h->host, (unsigned)h->port, info.text);
    } else {
        snprintf(q.domain, sizeof q.domain, "%s", h->host);
        mx_resolve(d->dns, &q);
        while (q.note.run)
            mailbox_wait(d->box, -1);
        try_addresses(d, h, &q, tls);
        mx_lookup_release(&q);
    }
    tls_client_ctx_unref(&tls);
    lifecycle_net_release(&net);
}
