#include "server/delivery/candidate.h"

#include "server/base/clock.h"
#include "server/base/random.h"
#include "server/delivery/worker_state.h"

enum { ADDRESSES_OF_ONE_HOST = 2 /* while there are other hosts */ };

/* ---- which addresses, in which order ----------------------------------------------------------
 */

/* Of hosts[from..to) with one preference: a random order by weight. */
static void shuffle_by_weight(const struct host_entry **hosts, size_t count) {
    for (size_t i = 0; i + 1 < count; i++) {
        uint64_t total = 0;
        for (size_t k = i; k < count; k++)
            total += hosts[k]->weight;
        uint64_t at = random_below(total);
        size_t k = i;
        while (k + 1 < count && at >= hosts[k]->weight)
            at -= hosts[k++]->weight;
        const struct host_entry *chosen = hosts[k];
        hosts[k] = hosts[i];
        hosts[i] = chosen;
    }
}

enum session_tls candidate_tls_of_route(const struct job *j, const struct candidate *c) {
    const struct settings_host *sh = c->host->smarthost;
    return sh != NULL ? sh->host.tls : j->hosts->route->route->mx_tls;
}

void candidate_session(struct worker *w, const struct job *j, const struct candidate *c,
                       struct session_options *o, struct conn_key *k) {
    const struct settings *s = j->hosts->settings;
    const struct settings_host *sh = c->host->smarthost;
    enum session_tls level = tlspolicy_level(candidate_tls_of_route(j, c), j->tls);
    *o = (struct session_options){.to = *c->addr,
                                  .source = sockaddr_is_ipv6(c->addr) ? s->o.source_ipv6
                                                                      : s->o.source_ipv4,
                                  .host_name = c->host->name,
                                  .ehlo_name = s->o.hostname,
                                  .tls_ctx = sh ? sh->tls : s->tls_ctx,
                                  .timeouts = s->o.timeouts,
                                  .keep_transcript = s->o.keep_transcripts};
    o->tls = tlspolicy_now(w->o.tlspolicy, level, c->addr, c->host->name, clock_boot_ms());
    if (sh != NULL && sh->auth_tag != 0) {
        o->auth_user = sh->host.user;
        o->auth_password = sh->host.password;
        o->insecure_auth = sh->host.insecure_auth;
    }
    conn_key_make(k, o, sh ? sh->auth_tag : 0);
}

bool candidate_race(struct worker *w, const struct job *j, const struct candidate *first,
                    const struct candidate *rival, struct session_options *o) {
    if (rival->host != first->host ||
        sockaddr_is_ipv6(rival->addr) == sockaddr_is_ipv6(first->addr) ||
        worker_address_is_dead(w, rival->addr))
        return false;
    struct session_options other;
    struct conn_key k;
    candidate_session(w, j, rival, &other, &k);
    if (other.tls != o->tls) /* one of them has broken TLS */
        return false;
    o->rival = other.to;
    o->rival_source = other.source;
    o->head_start_ms = j->hosts->settings->o.race_head_start_ms;
    return true;
}

struct order {
    struct worker *w;
    struct candidate *out;
    size_t count;
};

/* At one address: another of the host would refuse the same login, and count it. */
static bool is_login_refused(struct worker *w, const struct host_entry *h) {
    bool is_refused = false;
    for (size_t i = 0; h->smarthost != NULL && i < h->addr_count && !is_refused; i++)
        is_refused = worker_login_is_refused(w, &h->addr[i], h->smarthost->session_tag);
    return is_refused;
}

static void add_addresses(struct order *order, const struct host_entry *h, size_t hosts,
                          bool is_dead) {
    size_t most = hosts > 1 ? ADDRESSES_OF_ONE_HOST : LIMIT_MX_ADDRESSES;
    if (hosts > 1 && is_login_refused(order->w, h))
        return;
    for (size_t i = 0; i < h->addr_count && i < most; i++) {
        if (order->count == LIMIT_MX_ADDRESSES)
            return;
        if (worker_address_is_dead(order->w, &h->addr[i]) == is_dead)
            order->out[order->count++] = (struct candidate){.host = h, .addr = &h->addr[i]};
    }
}

static void prefer_open_session(struct order *order, const struct job *j) {
    if (j->hosts->route->route->kind != ROUTE_MX || order->count < 2)
        return;
    struct candidate *c = order->out;
    for (size_t i = 0; i < order->count; i++) {
        struct session_options o;
        struct conn_key k;
        if (c[i].host->preference != c[0].host->preference)
            return;
        candidate_session(order->w, j, &c[i], &o, &k);
        if (!pool_has(order->w->pool, &k))
            continue;
        struct candidate found = c[i];
        c[i] = c[0];
        c[0] = found;
        return;
    }
}

size_t candidates_order(struct worker *w, const struct job *j,
                        struct candidate out[LIMIT_MX_ADDRESSES]) {
    const struct host_list *l = j->hosts;
    const struct host_entry *hosts[LIMIT_MX_HOSTS];
    struct order order = {.w = w, .out = out};
    size_t count = l->host_count < LIMIT_MX_HOSTS ? l->host_count : LIMIT_MX_HOSTS;
    ASSERT(count > 0);
    for (size_t i = 0; i < count; i++)
        hosts[i] = &l->host[i];
    for (size_t from = 0, to; from < count; from = to) {
        for (to = from + 1; to < count && hosts[to]->preference == hosts[from]->preference; to++)
            ;
        shuffle_by_weight(hosts + from, to - from);
    }
    for (size_t i = 0; i < count; i++)
        add_addresses(&order, hosts[i], count, false);
    for (size_t i = 0; i < count; i++)
        add_addresses(&order, hosts[i], count, true);
    /* all refuse our login; or the rest of an address ended between the two looks */
    if (order.count == 0)
        out[order.count++] = (struct candidate){.host = hosts[0], .addr = &hosts[0]->addr[0]};
    prefer_open_session(&order, j);
    return order.count;
}
