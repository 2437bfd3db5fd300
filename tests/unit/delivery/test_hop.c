/* When the name of a next hop is looked up again. */
#include "tests/unit/delivery/world.h"

#include "server/base/limits.h"
#include "server/delivery/hop.h"
#include "server/delivery/scheduler_state.h"
#include "storage/store_ops.h"
#include "tests/unit/net/responder.h"

enum { RESOLVED = 20000 };

struct lookups {
    struct world *w;
    struct responder server;
    struct settings *settings;
    struct hops *hops;
    struct hop *hop;
    int count;
    int64_t asked_boot_ms, answered_boot_ms;
};

static const struct rr broken[] = {{"relay.example", 0, NULL, RR_SERVFAIL},
                                   {"spare.example", DNS_A, "127.0.0.1", RR_ANSWER},
                                   {"broken.example", 0, NULL, RR_SERVFAIL},
                                   {"empty.example", DNS_MX, "10 nothing.example", RR_ANSWER},
                                   {NULL, 0, NULL, RR_ANSWER}};
static const struct rr well[] = {{"relay.example", DNS_A, "127.0.0.1", RR_ANSWER},
                                 {"spare.example", DNS_A, "127.0.0.1", RR_ANSWER},
                                 {"broken.example", DNS_A, "127.0.0.1", RR_ANSWER},
                                 {NULL, 0, NULL, RR_ANSWER}};

static void on_resolved(void *ctx, struct hop *h) {
    (void)h;
    struct lookups *l = ctx;
    l->count++;
}

static bool has_resolved(struct world *w, void *arg) {
    (void)w;
    struct lookups *l = arg;
    return l->count > 0;
}

/* Once more, whether it is time or not. */
static void look_up(struct lookups *l) {
    l->count = 0;
    l->asked_boot_ms = clock_boot_ms();
    hop_resolve(l->hops, l->hop, l->asked_boot_ms);
    assert_true(wait_until(l->w, has_resolved, l));
    l->answered_boot_ms = clock_boot_ms();
}

static void assert_looked_up_after(const struct lookups *l, int64_t least_ms, int64_t most_ms) {
    assert_in_range(l->hop->until_boot_ms, l->asked_boot_ms + least_ms,
                    l->answered_boot_ms + most_ms);
    assert_true(hop_is_fresh(l->hop, l->hop->until_boot_ms - 1));
    assert_false(hop_is_fresh(l->hop, l->hop->until_boot_ms));
}

static struct dns *dns_of(struct lookups *l, const struct rr *zone) {
    struct dns *dns = NULL;
    responder_start(&l->server, zone);
    const struct dns_options d = {.mode = l->server.mode, .trust_anchor_file = ""};
    assert_int_equal(dns_start(&d, &dns, NULL), OK);
    return dns;
}

static void end_dns(struct lookups *l) {
    dns_stop(&l->settings->o.dns);
    responder_stop(&l->server);
}

static void begin(struct lookups *l, struct world *w, const char *domain) {
    struct errinfo info = {0};
    *l = (struct lookups){.w = w};
    static const struct str networks[] = {STR("10.0.0.0/8"), STR("127.0.0.0/8")};
    w->o.dns = dns_of(l, broken);
    w->o.mx_networks = networks;
    w->o.mx_network_count = 2;
    if (settings_new(&w->o, &l->settings, &info) != OK)
        fail_msg("%s: %s", info.field, info.text);
    l->hops = hops_new(w->box, on_resolved, l);
    l->hop = hops_get(l->hops, l->settings, &l->settings->route[0], str_of(domain));
}

static void end(struct lookups *l) {
    end_dns(l);
    hops_free(&l->hops);
    settings_unref(&l->settings);
}

static void assert_soon_then_later(struct lookups *l) {
    static const int64_t steps_ms[] = {1000, 1000, 1000, 1000,  1000,  1000,
                                       2000, 4000, 8000, 16000, 30000, 30000};
    for (size_t i = 0; i < sizeof(steps_ms) / sizeof(*steps_ms); i++) {
        look_up(l);
        assert_looked_up_after(l, steps_ms[i] * 8 / 10, steps_ms[i] * 12 / 10);
    }
}

static void heal(struct lookups *l) {
    end_dns(l);
    l->settings->o.dns = dns_of(l, well);
}

static void fall_ill(struct lookups *l) {
    end_dns(l);
    l->settings->o.dns = dns_of(l, broken);
}

static void a_smarthost_that_cannot_be_found_is_looked_up_soon_then_later(void **state) {
    struct world *w = *state;
    struct lookups l;
    struct errinfo info = {0};
    expect_log("no smarthost of the route has an address");
    log_setup(LOG_ERROR, LOG_FORMAT_TEXT);
    assert_int_equal(smarthost_parse(STR("smtp://relay.example"), &w->host, &info), OK);
    begin(&l, w, "");
    assert_soon_then_later(&l);
    assert_null(l.hop->hosts);
    assert_false(hop_is_usable(l.hop, l.hop->until_boot_ms));
    assert_int_equal(logged("no smarthost of the route has an address"), 3); /* of twelve */
    heal(&l);
    look_up(&l);
    assert_non_null(l.hop->hosts);
    assert_looked_up_after(&l, 60000, 301000);
    assert_false(hop_is_usable(l.hop, l.hop->until_boot_ms)); /* the DNS said how long */
    fall_ill(&l);
    look_up(&l);
    assert_non_null(l.hop->hosts); /* the old answer */
    assert_looked_up_after(&l, 800, 1200);
    /* nobody waits for servers that may be silent for as long as a question takes */
    assert_true(hop_is_usable(l.hop, l.hop->until_boot_ms));
    end(&l);
}

/* The name servers are silent for longer than an address can be trusted to be theirs. */
static void an_old_answer_serves_for_a_day_at_most(void **state) {
    struct world *w = *state;
    struct lookups l;
    enum { DAY_MS = 24 * 3600 * 1000 };
    w->route.kind = ROUTE_MX;
    w->route.smarthost_count = 0;
    begin(&l, w, "relay.example");
    heal(&l);
    look_up(&l);
    assert_non_null(l.hop->hosts);
    int64_t answered_boot_ms = l.answered_boot_ms;
    fall_ill(&l);
    look_up(&l);
    assert_non_null(l.hop->hosts);
    assert_true(hop_is_usable(l.hop, l.asked_boot_ms + DAY_MS / 2));
    assert_false(hop_is_usable(l.hop, answered_boot_ms + DAY_MS));
    /* the last try was half a minute before the day was over: claimed and given back until the next
     * one would be all that comes of it */
    l.hop->hosts_until_boot_ms = l.hop->until_boot_ms - 10;
    assert_true(hop_is_fresh(l.hop, l.hop->hosts_until_boot_ms - 1));
    assert_false(hop_is_fresh(l.hop, l.hop->hosts_until_boot_ms));
    l.hop->hosts_until_boot_ms = clock_boot_ms(); /* as after a day */
    look_up(&l);
    assert_null(l.hop->hosts);
    assert_int_equal(l.hop->failure, FAILURE_DNS_TEMPORARY);
    assert_false(hop_is_usable(l.hop, l.hop->until_boot_ms));
    heal(&l);
    look_up(&l);
    assert_non_null(l.hop->hosts);
    end(&l);
}

static void one_smarthost_of_two_is_used_while_the_other_is_looked_up(void **state) {
    struct world *w = *state;
    struct lookups l;
    struct errinfo info = {0};
    struct smarthost two[2];
    assert_int_equal(smarthost_parse(STR("smtp://relay.example"), &two[0], &info), OK);
    assert_int_equal(smarthost_parse(STR("smtp://spare.example"), &two[1], &info), OK);
    w->route.smarthost = two;
    w->route.smarthost_count = 2;
    begin(&l, w, "");
    assert_soon_then_later(&l);
    assert_int_equal(l.hop->hosts->host_count, 1);
    heal(&l);
    look_up(&l);
    assert_int_equal(l.hop->hosts->host_count, 2);
    assert_looked_up_after(&l, 60000, 301000);
    end(&l);
}

static void
a_domain_whose_servers_fail_is_looked_up_soon_and_one_that_is_not_there_later(void **state) {
    struct world *w = *state;
    struct lookups l;
    w->route.kind = ROUTE_MX;
    w->route.smarthost_count = 0;
    begin(&l, w, "broken.example");
    assert_soon_then_later(&l);
    assert_int_equal(l.hop->failure, FAILURE_DNS_TEMPORARY);
    l.hop = hops_get(l.hops, l.settings, &l.settings->route[0], STR("nothing.example"));
    for (int i = 0; i < 3; i++) {
        look_up(&l);
        assert_looked_up_after(&l, HOP_NO_DOMAIN_MS, HOP_NO_DOMAIN_MS);
    }
    assert_int_equal(l.hop->failure, FAILURE_DNS_NXDOMAIN);
    assert_int_equal(l.hop->kept_ms, 0);
    l.hop = hops_get(l.hops, l.settings, &l.settings->route[0], STR("empty.example"));
    look_up(&l);
    assert_int_equal(l.hop->failure, FAILURE_DNS_NO_ADDRESS); /* by a record that is kept */
    assert_in_range(l.hop->kept_ms, 200 * 1000, 300 * 1000);
    end(&l);
}

/* Literal addresses: resolved before hop_resolve() returns. */
static struct hop *resolved_hop(struct lookups *l, struct world *w, const char *const url[2]) {
    struct errinfo info = {0};
    struct smarthost host[2];
    *l = (struct lookups){.w = w};
    for (size_t i = 0; i < 2; i++) {
        if (smarthost_parse(str_of(url[i]), &host[i], &info) != OK)
            fail_msg("%s: %s", url[i], info.text);
    }
    w->route.smarthost = host;
    w->route.smarthost_count = 2;
    if (settings_new(&w->o, &l->settings, &info) != OK)
        fail_msg("%s: %s", info.field, info.text);
    l->hops = hops_new(w->box, on_resolved, l);
    l->hop = hops_get(l->hops, l->settings, &l->settings->route[0], STR(""));
    hop_resolve(l->hops, l->hop, clock_boot_ms());
    assert_int_equal(l->count, 1);
    return l->hop;
}

static void
smarthosts_are_one_site_while_sessions_with_them_can_stand_for_each_other(void **state) {
#define PIN_A "sha256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="
#define PIN_B "sha256:07DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="
    static const struct {
        const char *before[2], *after[2];
        bool same, same_name;
    } rows[] = {
        {{"smtp://127.0.0.1:26", "smtp://127.0.0.2:25"},
         {"smtp://127.0.0.2:25", "smtp://127.0.0.1:26"},
         true,
         true}, /* the order says nothing */
        {{"smtp://127.0.0.1:26", "smtp://127.0.0.1:25?tls=encrypt"},
         {"smtp://127.0.0.1:25?tls=encrypt", "smtp://127.0.0.1:26"},
         true,
         true},
        {{"smtp://127.0.0.1:26", "smtp://127.0.0.2:25"},
         {"smtp://127.0.0.1:26?priority=5&weight=7", "smtp://127.0.0.2:25"},
         true,
         true},
        {{"smtp://127.0.0.1:26", "smtp://127.0.0.2:25"},
         {"smtp://127.0.0.1:25", "smtp://127.0.0.2:26"},
         false,
         false},
        {{"smtp://127.0.0.1", "smtp://127.0.0.2"},
         {"smtp://127.0.0.1?tls=encrypt", "smtp://127.0.0.2"},
         false,
         true},
        {{"smtp://127.0.0.1?tls=encrypt", "smtp://127.0.0.2"},
         {"smtp://127.0.0.1", "smtp://127.0.0.2?tls=encrypt"},
         false,
         true},
        {{"smtp://127.0.0.1:25", "smtp://127.0.0.2"},
         {"smtp://u:p@127.0.0.1:25", "smtp://127.0.0.2"},
         false,
         true},
        {{"smtp://u:p@127.0.0.1", "smtp://127.0.0.2"},
         {"smtp://u:q@127.0.0.1", "smtp://127.0.0.2"},
         false,
         true},
        {{"smtp://u:p@127.0.0.1", "smtp://127.0.0.2"},
         {"smtp://v:p@127.0.0.1", "smtp://127.0.0.2"},
         false,
         true},
        {{"smtp://u:p@127.0.0.1?tls=encrypt&insecure_auth=1", "smtp://127.0.0.2"},
         {"smtp://u:p@127.0.0.1?tls=opportunistic&insecure_auth=1", "smtp://127.0.0.2"},
         false,
         true},
        {{"smtp://127.0.0.1?tls=verify", "smtp://127.0.0.2"},
         {"smtp://127.0.0.1?tls=verify&pin=" PIN_A, "smtp://127.0.0.2"},
         false,
         true},
        {{"smtp://127.0.0.1?pin=" PIN_A, "smtp://127.0.0.2"},
         {"smtp://127.0.0.1?pin=" PIN_B, "smtp://127.0.0.2"},
         false,
         true},
    };
    struct world *w = *state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct lookups before, after;
        const struct hop *b = resolved_hop(&before, w, rows[i].before);
        const struct hop *a = resolved_hop(&after, w, rows[i].after);
        bool same_name = strcmp(b->site_name, a->site_name) == 0;
        if ((same_name && b->site_tag == a->site_tag) != rows[i].same ||
            same_name != rows[i].same_name)
            fail_msg("row %zu: \"%s\" %d, \"%s\"", i, b->site_name, b->site_tag == a->site_tag,
                     a->site_name);
        hops_free(&before.hops);
        hops_free(&after.hops);
        settings_unref(&before.settings);
        settings_unref(&after.settings);
    }
}

/* A bundle without a signature, and without recipients: nothing is asked of the store. */
static struct bundle *add_bundle(struct scheduler *s, struct site *site, struct hop *h) {
    const struct id id = {{1}};
    const struct message_row row = {.seq = (int64_t)letters_count(s->letters) + 1,
                                    .size_bytes = 1,
                                    .expires_wall_ms = clock_wall_ms() + 3600000};
    struct content_budget *budget = content_budget_new(1024);
    struct message *m = message_new(&id, mem_zalloc(1), 1);
    struct outgoing *o = outgoing_new(&row, m, budget);
    struct bundle *b = mem_zalloc(sizeof(*b));
    *b = (struct bundle){.hop = h, .site = site, .fair = {.cost = 1}};
    b->letter = letters_get(s->letters, o, ROUTE_SIGNING_OFF);
    TAILQ_INIT(&b->items);
    TAILQ_INSERT_TAIL(&b->letter->bundles, b, of_letter);
    h->users++;
    site->users++;
    outgoing_unref(&o);
    message_unref(&m);
    content_budget_unref(&budget);
    return b;
}

static void run_site(struct scheduler *s, struct site *site) {
    dispatch_make_runnable(s, site);
    dispatch_runnable(s);
}

static void pick_one(struct scheduler *s, struct site *site, struct hop *h) {
    struct bundle *b = add_bundle(s, site, h);
    b->state = BUNDLE_QUEUED;
    fair_push(site->waiting, &b->fair);
    run_site(s, site);
    assert_ptr_equal(TAILQ_FIRST(&s->claims), b);
    TAILQ_REMOVE(&s->claims, b, wait);
    gather_free_bundle(s, b);
}

/* All of it is in memory already, and its server answers slowly. */
static void a_queue_that_nothing_is_added_to_is_looked_up_again_all_the_same(void **state) {
    static const char *const urls[] = {"smtp://127.0.0.1", "smtp://127.0.0.2"};
    struct world *w = *state;
    struct lookups l;
    struct hop *h = resolved_hop(&l, w, urls);
    struct room *room = room_new(SIZE_MAX);
    struct scheduler s = {.wakeups = wakeups_new(),
                          .hops = l.hops,
                          .room = room,
                          .letters = letters_new(0, room),
                          .settings = l.settings,
                          .signers = signers_new(NULL, 0, NULL)};
    TAILQ_INIT(&s.runnable);
    TAILQ_INIT(&s.claims);
    struct site *site = sites_get(&s.sites, "relay", 0, l.settings->route[0].route, 1);
    site->owner = &s;
    h->site = site;
    wakeup_init(&site->wake, dispatch_site_woken, site);
    pick_one(&s, site, h);
    assert_int_equal(l.count, 1);
    h->until_boot_ms = clock_boot_ms();
    pick_one(&s, site, h);
    assert_int_equal(l.count, 2);
    assert_true(hop_is_fresh(h, clock_boot_ms()));
    /* claimed a day ago */
    struct bundle *b = add_bundle(&s, site, h);
    site_pick_slot(site, b);
    b->state = BUNDLE_READY;
    fair_push(site->ready, &b->fair);
    h->hosts_until_boot_ms = clock_boot_ms();
    run_site(&s, site);
    assert_int_equal(s.jobs, 0);
    assert_int_equal(fair_count(site->ready), 0);
    assert_int_equal(letters_count(s.letters), 0); /* it went back */
    run_site(&s, site);
    site_release(&site);
    sites_free(&s.sites);
    letters_free(&s.letters);
    room_free(&room);
    signers_unref(&s.signers);
    wakeups_free(&s.wakeups);
    hops_free(&l.hops);
    settings_unref(&l.settings);
}

/* The lookups of before a reload may end after those that began with it. */
static void an_old_lookup_brings_no_old_limits_back(void **state) {
    static const char *const urls[] = {"smtp://127.0.0.1", "smtp://127.0.0.2"};
    struct world *w = *state;
    struct lookups before, now;
    w->route.concurrency = 20;
    struct hop *old = resolved_hop(&before, w, urls);
    w->route.concurrency = 2;
    w->route.rate_per_s = 1;
    struct hop *current = resolved_hop(&now, w, urls);
    struct scheduler s = {.settings = now.settings, .workers = 1};
    gather_resolved(&s, current);
    gather_resolved(&s, old);
    assert_ptr_equal(old->site, current->site);
    assert_int_equal(current->site->window.ceiling, 2);
    assert_true(limit_has_rate(&current->site->limit));
    site_release(&old->site);
    site_release(&current->site);
    sites_free(&s.sites);
    hops_free(&before.hops);
    hops_free(&now.hops);
    settings_unref(&before.settings);
    settings_unref(&now.settings);
}

static bool have_resolved(struct world *w, void *arg) {
    (void)w;
    struct lookups *l = arg;
    return l->count == RESOLVED;
}

/* Somebody's wildcard: each message goes to another domain, whose answer is good for an hour. */
static void what_nobody_uses_is_forgotten_beyond_a_bound_oldest_first(void **state) {
    struct world *w = *state;
    struct lookups l;
    char name[32];
    static struct hop *hop[RESOLVED];
    w->route.kind = ROUTE_MX;
    w->route.smarthost_count = 0;
    begin(&l, w, "relay.example");
    l.hop->users++; /* the oldest, with mail that waits */
    for (unsigned i = 0; i < RESOLVED; i++) {
        snprintf(name, sizeof(name), "[10.0.%u.%u]", i / 256, i % 256);
        hop[i] = hops_get(l.hops, l.settings, &l.settings->route[0], str_of(name));
        hop_resolve(l.hops, hop[i], clock_boot_ms());
    }
    assert_true(wait_until(w, have_resolved, &l));
    const int64_t now_boot_ms = clock_boot_ms();
    for (unsigned i = 0; i < RESOLVED; i++)
        assert_in_range(hop[i]->until_boot_ms, now_boot_ms + 3000000, now_boot_ms + 3600000);
    assert_int_equal(hops_count(l.hops), RESOLVED + 1);
    assert_true(hops_are_many(l.hops));
    struct hop *again = hops_get(l.hops, l.settings, &l.settings->route[0], STR("[10.0.0.0]"));
    assert_ptr_equal(again, hop[0]);
    hop[1]->users++;
    hops_sweep(l.hops, l.settings, now_boot_ms);
    assert_int_equal(hops_count(l.hops), LIMIT_HOPS);
    assert_false(hops_are_many(l.hops));
    /* those with mail, those that were asked for last, and no others */
    static const struct {
        unsigned i;
        bool is_kept;
    } rows[] = {{0, true},
                {1, true},
                {2, false},
                {RESOLVED - LIMIT_HOPS + 2, false},
                {RESOLVED - LIMIT_HOPS + 3, true},
                {RESOLVED - 1, true}};
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        size_t before = hops_count(l.hops);
        snprintf(name, sizeof(name), "[10.0.%u.%u]", rows[i].i / 256, rows[i].i % 256);
        (void)hops_get(l.hops, l.settings, &l.settings->route[0], str_of(name));
        if ((hops_count(l.hops) == before) != rows[i].is_kept)
            fail_msg("row %zu", i);
    }
    size_t before = hops_count(l.hops);
    assert_ptr_equal(hops_get(l.hops, l.settings, &l.settings->route[0], STR("relay.example")),
                     l.hop);
    assert_int_equal(hops_count(l.hops), before);
    hop[1]->users--;
    l.hop->users--;
    end(&l);
}

/* What is used cannot go: it is not tried for each one that comes. */
static void many_that_are_used_are_swept_now_and_then(void **state) {
    struct world *w = *state;
    struct lookups l;
    char name[32];
    unsigned sweeps = 0;
    w->route.kind = ROUTE_MX;
    w->route.smarthost_count = 0;
    begin(&l, w, "relay.example");
    for (unsigned i = 0; i < RESOLVED; i++) {
        snprintf(name, sizeof(name), "n%u.example", i);
        hops_get(l.hops, l.settings, &l.settings->route[0], str_of(name))->users++;
        if (hops_are_many(l.hops)) {
            hops_sweep(l.hops, l.settings, clock_boot_ms());
            sweeps++;
        }
    }
    assert_int_equal(hops_count(l.hops), RESOLVED); /* relay.example had no user */
    assert_in_range(sweeps, 1, 10);
    for (unsigned i = 0; i < RESOLVED; i++) {
        snprintf(name, sizeof(name), "n%u.example", i);
        hops_get(l.hops, l.settings, &l.settings->route[0], str_of(name))->users--;
    }
    end(&l);
}

int main(void) {
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(a_smarthost_that_cannot_be_found_is_looked_up_soon_then_later),
        T(an_old_answer_serves_for_a_day_at_most),
        T(one_smarthost_of_two_is_used_while_the_other_is_looked_up),
        T(a_queue_that_nothing_is_added_to_is_looked_up_again_all_the_same),
        T(an_old_lookup_brings_no_old_limits_back),
        T(smarthosts_are_one_site_while_sessions_with_them_can_stand_for_each_other),
        T(what_nobody_uses_is_forgotten_beyond_a_bound_oldest_first),
        T(many_that_are_used_are_swept_now_and_then),
        T(a_domain_whose_servers_fail_is_looked_up_soon_and_one_that_is_not_there_later),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
