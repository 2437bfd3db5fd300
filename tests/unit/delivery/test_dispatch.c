/* When a site that may not go on is looked at again, where what waits there goes, and what stays in
 * front of its queues. */
#include "tests/unit/delivery/keys.h"
#include "tests/unit/delivery/world.h"

#include "server/base/digest.h"
#include "server/delivery/scheduler_state.h"
#include "storage/store_ops.h"
#include "tests/unit/net/crypto_faults.h"

#include <stdatomic.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

/* Stands for libc's: while it is not 0, it is what everything in this program sees of the monotonic
 * clock, and of no other. */
static atomic_llong held_mono_ms;
static atomic_llong slept_ms; /* the machine, in all: the one clock that tells */
int clock_gettime(clockid_t which, struct timespec *now) {
    int failed = (int)syscall(SYS_clock_gettime, which, now);
    long long ms = atomic_load(&held_mono_ms);
    if (which == CLOCK_MONOTONIC && ms != 0)
        *now = (struct timespec){.tv_sec = (time_t)(ms / 1000), .tv_nsec = ms % 1000 * 1000000};
    if (which == CLOCK_BOOTTIME)
        now->tv_sec += (time_t)(atomic_load(&slept_ms) / 1000);
    return failed;
}

static void refuse_login(void *arg) {
    struct sink *s = arg;
    receive_answer_data(s->connection[0].receive,
                        (struct receive_answer){530, "5.7.0", "authentication required"});
}

static bool is_locked(struct world *w, void *arg) {
    (void)w;
    (void)arg;
    return logged("the smarthost refuses our credentials") > 0;
}

/* It waits for its rate when it is paused, for an hour, and then for its rate again. What was
 * claimed keeps its place. */
static void a_site_that_a_reload_revives_goes_on_when_its_rate_lets_it(void **state) {
    enum { HOUR_MS = 3600 * 1000 };
    struct world *w = *state;
    if (is_under_memcheck())
        skip(); /* the login is refused within the second that the rate makes the other one wait */
    log_setup(LOG_ERROR, LOG_FORMAT_TEXT);
    expect_log("the smarthost refuses our credentials");
    w->route.rate_per_s = 1;
    w->o.site_locked_ms = HOUR_MS;
    w->o.retry_ms[0] = HOUR_MS;
    start(w);
    submit(w, "hold@example.net");
    await_counter(w, &w->sink->held, 1);
    struct id id = submit(w, "ok@example.net");
    int64_t due_wall_ms = recipient(w, id, 0).due_wall_ms;
    await_state(w, id, RECIPIENT_SENDING, 0);
    sink_on_loop(w->sink->loop, refuse_login, w->sink);
    assert_true(wait_until(w, is_locked, NULL));
    await_state(w, id, RECIPIENT_QUEUED, 0);
    assert_int_equal(recipient(w, id, 0).due_wall_ms, due_wall_ms);
    reload(w);
    await_completed(w, 1);
}

/* ---- by hand ------------------------------------------------------------------------------------
 */

enum { BUNDLES = 3 };

/* Bundles of one message at one site, without recipients: nothing is asked of the store. */
struct fixture {
    struct scheduler s;
    struct settings settings;
    struct settings_route route;
    struct hop hop;
    struct site *site;
    struct bundle *bundle[BUNDLES]; /* NULL: it is gone */
};

static void begin(struct fixture *f, const struct route *r, enum route_signing signing) {
    static struct host_list hosts;
    static char name[] = "relay";
    *f = (struct fixture){.route = {.route = r},
                          .settings = {.o = {.sessions_max = 100}},
                          .hop = {.route = &f->route,
                                  .hosts = &hosts,
                                  .site_name = name,
                                  .until_boot_ms = INT64_MAX,
                                  .hosts_until_boot_ms = INT64_MAX}};
    f->s.wakeups = wakeups_new();
    f->s.room = room_new(SIZE_MAX);
    f->s.letters = letters_new(0, f->s.room);
    f->s.settings = &f->settings;
    f->s.signers = signers_new(NULL, 0, NULL);
    f->s.workers = 1;
    TAILQ_INIT(&f->s.runnable);
    TAILQ_INIT(&f->s.claims);
    TAILQ_INIT(&f->hop.waiting);
    gather_resolved(&f->s, &f->hop);
    f->site = f->hop.site;
    f->site->users++;
    const struct message_row row = {.seq = 1,
                                    .size_bytes = 1,
                                    .from_domain = STR("example.org"),
                                    .expires_wall_ms = clock_wall_ms() + 3600 * 1000};
    const struct id id = {{1}};
    struct content_budget *budget = content_budget_new(1024);
    struct message *m = message_new(&id, mem_zalloc(1), 1);
    struct outgoing *o = outgoing_new(&row, m, budget);
    for (int i = 0; i < BUNDLES; i++) {
        struct bundle *b = f->bundle[i] = mem_zalloc(sizeof(*b));
        *b = (struct bundle){.hop = &f->hop, .site = f->site, .fair = {.cost = 1, .project = i}};
        b->letter = letters_get(f->s.letters, o, signing);
        TAILQ_INIT(&b->items);
        TAILQ_INSERT_TAIL(&b->letter->bundles, b, of_letter);
        f->hop.users++;
        f->site->users++;
    }
    outgoing_unref(&o);
    message_unref(&m);
    content_budget_unref(&budget);
}

/* Those that are on a list are the test's to take. */
static void end(struct fixture *f) {
    for (int i = 0; i < BUNDLES; i++) {
        if (f->bundle[i] == NULL)
            continue;
        f->bundle[i]->letter->signer = NULL;
        gather_free_bundle(&f->s, f->bundle[i]);
    }
    wakeup_cancel(f->s.wakeups, &f->site->wake);
    site_release(&f->site);
    site_release(&f->hop.site);
    sites_free(&f->s.sites);
    letters_free(&f->s.letters);
    room_free(&f->s.room);
    signers_unref(&f->s.signers);
    wakeups_free(&f->s.wakeups);
}

static void put_in(struct fixture *f, int first, int last, enum bundle_state state) {
    for (int i = first; i <= last; i++) {
        struct fair *queue = state == BUNDLE_READY ? f->site->ready : f->site->waiting;
        f->bundle[i]->state = state;
        fair_push(queue, &f->bundle[i]->fair);
    }
}

static void run_site(struct fixture *f) {
    dispatch_make_runnable(&f->s, f->site);
    dispatch_runnable(&f->s);
}

/* In this order, and no others. */
static void assert_takes(struct fair *queue, struct bundle *const *want, int most) {
    static const unsigned none[LANE_COUNT] = {0};
    assert_int_equal(fair_count(queue), most);
    for (int i = 0; i < most; i++)
        assert_ptr_equal(fair_pick(queue, 5, none), &want[i]->fair);
}

/* Its rate lets nothing go: who is first stays first, and pays nothing. */
static void a_project_pays_for_no_turn_that_a_rate_refuses(void **state) {
    (void)state;
    const struct route r = {.concurrency = 5, .rate_per_s = 1};
    struct fixture f;
    int64_t wait_us;
    begin(&f, &r, ROUTE_SIGNING_OFF);
    while (limit_take(&f.site->limit, clock_mono_us() + 60 * 1000000LL, 1, &wait_us))
        continue;
    put_in(&f, 0, BUNDLES - 1, BUNDLE_READY);
    for (int i = 0; i < 100; i++) {
        f.site->parked_until_mono_ms = 0;
        run_site(&f);
        assert_true(f.site->parked_until_mono_ms > clock_mono_ms());
    }
    assert_takes(f.site->ready, f.bundle, BUNDLES);
    end(&f);
}

static void what_is_woken_without_a_slot_keeps_its_order(void **state) {
    (void)state;
    const struct route r = {.concurrency = 5};
    struct fixture f;
    begin(&f, &r, ROUTE_SIGNING_OFF);
    for (int i = 0; i < BUNDLES; i++) {
        struct bundle *b = f.bundle[i];
        b->fair.project = 1;
        b->state = BUNDLE_WAITING;
        TAILQ_INSERT_TAIL(&b->letter->waiting, b, wait);
    }
    prepare_letter_woken(&f.s, f.bundle[0]->letter);
    assert_takes(f.site->waiting, f.bundle, BUNDLES);
    TAILQ_REMOVE(&f.s.runnable, f.site, runnable);
    end(&f);
}

/* Its name servers take a while. */
static void what_waits_while_an_answer_of_a_day_ago_is_renewed_is_not_claimed(void **state) {
    (void)state;
    const struct route r = {.concurrency = 5};
    struct fixture f;
    begin(&f, &r, ROUTE_SIGNING_OFF);
    put_in(&f, 0, BUNDLES - 1, BUNDLE_QUEUED);
    f.hop.is_resolving = true;
    f.hop.hosts_until_boot_ms = clock_boot_ms();
    run_site(&f);
    assert_true(TAILQ_EMPTY(&f.s.claims));
    assert_int_equal(f.site->picked, 0);
    for (int i = 0; i < BUNDLES; i++)
        assert_int_equal(f.bundle[i]->state, BUNDLE_RESOLVING);
    f.hop.is_resolving = false;
    f.hop.hosts_until_boot_ms = INT64_MAX;
    gather_resolved(&f.s, &f.hop);
    assert_takes(f.site->waiting, f.bundle, BUNDLES);
    TAILQ_REMOVE(&f.s.runnable, f.site, runnable);
    end(&f);
}

/* The address may be somebody else's by then. */
static void an_answer_grows_old_while_the_machine_sleeps(void **state) {
    (void)state;
    const struct route r = {.concurrency = 5};
    struct fixture f;
    begin(&f, &r, ROUTE_SIGNING_OFF);
    put_in(&f, 0, 0, BUNDLE_QUEUED);
    f.hop.is_resolving = true;
    f.hop.hosts_until_boot_ms = clock_boot_ms() + 3600 * 1000;
    atomic_fetch_add(&slept_ms, 24 * 3600 * 1000);
    run_site(&f);
    atomic_store(&slept_ms, 0);
    assert_true(TAILQ_EMPTY(&f.s.claims));
    assert_int_equal(f.bundle[0]->state, BUNDLE_RESOLVING);
    TAILQ_REMOVE(&f.hop.waiting, f.bundle[0], wait);
    end(&f);
}

/* Its domain has other mail servers: one of its bundles is claimed already. */
static void what_waits_at_a_site_follows_its_hop_to_another(void **state) {
    (void)state;
    const struct route r = {.concurrency = 5};
    static char name[] = "elsewhere";
    struct fixture f;
    begin(&f, &r, ROUTE_SIGNING_OFF);
    put_in(&f, 0, BUNDLES - 2, BUNDLE_QUEUED);
    put_in(&f, BUNDLES - 1, BUNDLES - 1, BUNDLE_READY);
    f.hop.site_name = name;
    gather_resolved(&f.s, &f.hop);
    assert_ptr_not_equal(f.hop.site, f.site);
    run_site(&f);
    f.bundle[BUNDLES - 1] = NULL; /* it went back to the store */
    assert_int_equal(f.s.jobs, 0);
    assert_int_equal(fair_count(f.site->ready), 0);
    assert_int_equal(fair_count(f.site->waiting), 0);
    assert_int_equal(f.site->users, 1);
    assert_true(TAILQ_EMPTY(&f.s.claims));
    assert_takes(f.hop.site->waiting, f.bundle, BUNDLES - 1);
    TAILQ_REMOVE(&f.s.runnable, f.hop.site, runnable);
    end(&f);
}

static void what_waits_for_a_domain_that_is_gone_is_told_so(void **state) {
    (void)state;
    const struct route r = {.concurrency = 5};
    struct fixture f;
    begin(&f, &r, ROUTE_SIGNING_OFF);
    put_in(&f, 0, BUNDLES - 1, BUNDLE_QUEUED);
    f.hop.hosts = NULL;
    f.hop.failure = FAILURE_DNS_NULL_MX;
    gather_resolved(&f.s, &f.hop);
    run_site(&f);
    for (int i = 0; i < BUNDLES; i++) {
        assert_ptr_equal(TAILQ_FIRST(&f.s.claims), f.bundle[i]);
        assert_true(f.bundle[i]->is_preset);
        assert_int_equal(f.bundle[i]->failure, FAILURE_DNS_NULL_MX);
        TAILQ_REMOVE(&f.s.claims, f.bundle[i], wait);
    }
    end(&f);
}

/* They were claimed while both could have signed it. */
static void what_is_signed_at_this_moment_is_not_given_back(void **state) {
    (void)state;
    const struct route r = {.concurrency = 5};
    struct fixture f;
    begin(&f, &r, ROUTE_SIGNING_FULL);
    struct letter *l = f.bundle[0]->letter;
    l->state = LETTER_SIGNING;
    l->signer = f.bundle[0];
    l->signer->state = BUNDLE_SENT;
    put_in(&f, 1, BUNDLES - 1, BUNDLE_READY);
    run_site(&f);
    assert_true(f.site->is_runnable); /* the signature begins a turn */
    TAILQ_REMOVE(&f.s.runnable, f.site, runnable);
    assert_takes(f.site->ready, f.bundle + 1, BUNDLES - 1);
    end(&f);
}

/* A change of domains is noticed before the mail that came after it, and read a moment later; the
 * reading that was under way by then may be of before the change. */
static void mail_without_a_key_waits_for_the_reading_that_may_bring_one(void **state) {
    (void)state;
    static const struct {
        bool is_older, brings_key;
    } rows[] = {{false, false}, {false, true}, {true, false}, {true, true}};
    const struct route r = {.concurrency = 5};
    expect_log("sent without a DKIM signature");
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct fixture f;
        begin(&f, &r, ROUTE_SIGNING_FULL);
        f.s.metrics.unsigned_messages = metric_counter("postchute_delivery_unsigned_total", "");
        int64_t before = metric_get(f.s.metrics.unsigned_messages, 0);
        struct letter *l = f.bundle[0]->letter;
        f.s.domain_readings = 7;
        f.s.is_reading_domains = true;
        f.s.reads_domains_again = rows[i].is_older;
        put_in(&f, 0, BUNDLES - 1, BUNDLE_QUEUED);
        run_site(&f);
        for (int again = 0; again <= rows[i].is_older; again++) {
            prepare_keys_read(&f.s); /* no reading ended: it was refused */
            assert_true(TAILQ_EMPTY(&f.s.claims));
            for (int b = 0; b < BUNDLES; b++)
                assert_int_equal(f.bundle[b]->state, BUNDLE_WAITING);
            f.s.domain_readings++; /* the next one begins: somebody changes domains all the time */
            f.s.reads_domains_again = true;
        }
        if (rows[i].brings_key) {
            signers_unref(&f.s.signers);
            f.s.signers = signers_of("example.org", "s1", true);
        }
        prepare_keys_read(&f.s);
        assert_ptr_equal(TAILQ_FIRST(&f.s.claims), f.bundle[0]);
        assert_int_equal(l->state, rows[i].brings_key ? LETTER_SIGNING : LETTER_READY);
        assert_int_equal(metric_get(f.s.metrics.unsigned_messages, 0) - before,
                         !rows[i].brings_key);
        struct bundle *b;
        while ((b = TAILQ_FIRST(&f.s.claims)) != NULL)
            TAILQ_REMOVE(&f.s.claims, b, wait);
        while ((b = TAILQ_FIRST(&l->waiting)) != NULL)
            TAILQ_REMOVE(&l->waiting, b, wait);
        prepare_forget_logged(&f.s);
        end(&f);
    }
}

/* It holds a slot while it waits. */
static void domains_that_cannot_be_read_hold_up_nobody_for_long(void **state) {
    (void)state;
    const struct route r = {.concurrency = 5};
    struct fixture f;
    begin(&f, &r, ROUTE_SIGNING_FULL);
    expect_log("sent without a DKIM signature");
    f.s.metrics.unsigned_messages = metric_counter("postchute_delivery_unsigned_total", "");
    f.s.is_reading_domains = true;
    put_in(&f, 0, 0, BUNDLE_QUEUED);
    run_site(&f);
    for (int i = 0; i < 5; i++) {
        assert_int_equal(f.bundle[0]->state, BUNDLE_WAITING);
        f.s.readings_failed++;
        prepare_keys_read(&f.s);
    }
    assert_ptr_equal(TAILQ_FIRST(&f.s.claims), f.bundle[0]);
    TAILQ_REMOVE(&f.s.claims, f.bundle[0], wait);
    prepare_forget_logged(&f.s);
    end(&f);
}

/* Of a parent of the fixture's domain when it is one, with a key that was made so long ago. */
static struct signers *signers_made(const char *domain, int64_t age_ms, bool is_published) {
    struct buf pem = new_key();
    struct domain_key_row k = {.selector = STR("s1"),
                               .pem = buf_str(&pem),
                               .created_wall_ms = clock_wall_ms() - age_ms,
                               .published_wall_ms = is_published};
    const struct domain_row d = {.name = str_of(domain), .key = &k, .key_count = 1};
    struct signers *s = signers_new(&d, 1, NULL);
    buf_release_secret(&pem);
    return s;
}

static void keys_woken(void *arg) {
    prepare_keys_read(arg);
}

/* DNS is looked at as soon as there are new keys: what it has of them is known a moment later. Who
 * waits for that leaves the site to others. */
static void mail_waits_for_the_look_at_dns_that_may_find_its_new_key(void **state) {
    (void)state;
    enum { BOUND_MS = 5000, AGE_MS = 60 * 1000 };
    static const struct {
        const char *domain;
        int64_t age_ms;
        bool is_awaited, is_found;
    } rows[] = {
        {"example.org", 0, true, true},
        {"org", 0, true, true},
        {"example.org", 0, true, false},
        {"example.net", 0, false, false},
        {"example.org", AGE_MS, false, false},
        {"example.org", -AGE_MS, false, false}, /* the clock was put back */
    };
    const struct route r = {.concurrency = 5};
    expect_log("sent without a DKIM signature");
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct fixture f;
        begin(&f, &r, ROUTE_SIGNING_PUBLISHED);
        wakeup_init(&f.s.keys_wake, keys_woken, &f.s);
        f.s.metrics.unsigned_messages = metric_counter("postchute_delivery_unsigned_total", "");
        int64_t before = metric_get(f.s.metrics.unsigned_messages, 0);
        struct letter *l = f.bundle[0]->letter;
        signers_unref(&f.s.signers);
        f.s.signers = signers_made(rows[i].domain, rows[i].age_ms, false);
        held_mono_ms = clock_mono_ms();
        put_in(&f, 0, BUNDLES - 1, BUNDLE_QUEUED);
        run_site(&f);
        for (int again = 0; rows[i].is_awaited && again < 2; again++) {
            assert_true(TAILQ_EMPTY(&f.s.claims));
            for (int b = 0; b < BUNDLES; b++) {
                assert_int_equal(f.bundle[b]->state, BUNDLE_WAITING);
                assert_false(f.bundle[b]->has_slot);
            }
            prepare_keys_read(&f.s); /* somebody else's domain was changed */
            run_site(&f);
        }
        if (rows[i].is_found) {
            signers_unref(&f.s.signers);
            f.s.signers = signers_made(rows[i].domain, rows[i].age_ms, true);
            prepare_keys_read(&f.s);
        } else if (rows[i].is_awaited) {
            held_mono_ms += BOUND_MS;
            assert_int_equal(wakeups_run(f.s.wakeups, clock_mono_ms()), 1);
        }
        run_site(&f);
        assert_ptr_equal(TAILQ_FIRST(&f.s.claims), f.bundle[0]);
        assert_int_equal(l->state, rows[i].is_found ? LETTER_SIGNING : LETTER_READY);
        assert_int_equal(metric_get(f.s.metrics.unsigned_messages, 0) - before, !rows[i].is_found);
        held_mono_ms = 0;
        struct bundle *b;
        while ((b = TAILQ_FIRST(&f.s.claims)) != NULL)
            TAILQ_REMOVE(&f.s.claims, b, wait);
        while ((b = TAILQ_FIRST(&l->waiting)) != NULL)
            TAILQ_REMOVE(&l->waiting, b, wait);
        if (f.site->is_runnable)
            TAILQ_REMOVE(&f.s.runnable, f.site, runnable);
        wakeup_cancel(f.s.wakeups, &f.s.keys_wake);
        prepare_forget_logged(&f.s);
        end(&f);
    }
}

static void read_again(void *arg) {
    scheduler_read_domains(arg);
}

static void await_reading(struct fixture *f) {
    while (f->s.is_reading_domains) /* the clock stands: a timeout would never end */
        mailbox_wait(f->s.box, -1);
}

/* A store that cannot be read is asked once a second, for ever; mail waits for five of its
 * refusals, and what it brings after that begins anew. */
static void readings_of_domains_that_fail_are_a_second_apart(void **state) {
    enum { WAITED_FOR = 5, MORE = 3, APART_MS = 1000 };
    struct world *w = *state;
    const struct route r = {.concurrency = 5};
    static const char failed[] = "domains could not be read";
    sqlite3 *db = NULL;
    struct fixture f;
    begin(&f, &r, ROUTE_SIGNING_FULL);
    f.s.metrics.unsigned_messages = metric_counter("postchute_delivery_unsigned_total", "");
    f.s.store = w->store;
    f.s.box = mailbox_new();
    wakeup_init(&f.s.domains_wake, read_again, &f.s);
    expect_log(failed);
    run_sql(w, &db, "ALTER TABLE domain RENAME TO away");
    held_mono_ms = clock_mono_ms();
    put_in(&f, 0, 0, BUNDLE_QUEUED);
    scheduler_read_domains(&f.s);
    run_site(&f);
    for (unsigned n = 1; n <= WAITED_FOR + MORE; n++) {
        bool is_waited_for = n <= WAITED_FOR;
        assert_int_equal(f.bundle[0]->state == BUNDLE_WAITING, is_waited_for);
        await_reading(&f);
        assert_int_equal(logged(failed), n);
        assert_int_equal(f.s.readings_failed, n);
        assert_true(wakeup_is_set(&f.s.domains_wake));
        held_mono_ms += APART_MS - 1;
        assert_int_equal(wakeups_run(f.s.wakeups, clock_mono_ms()), 0);
        scheduler_domains_changed(&f.s); /* which the next reading shows, too */
        assert_false(f.s.is_reading_domains);
        held_mono_ms += 1;
        if (n == WAITED_FOR + MORE)
            run_sql(w, &db, "ALTER TABLE away RENAME TO domain");
        assert_int_equal(wakeups_run(f.s.wakeups, clock_mono_ms()), 1);
        assert_true(f.s.is_reading_domains);
    }
    assert_ptr_equal(TAILQ_FIRST(&f.s.claims), f.bundle[0]);
    await_reading(&f);
    assert_int_equal(f.s.readings_failed, 0);
    assert_int_equal(f.s.domain_readings, 1);
    assert_false(wakeup_is_set(&f.s.domains_wake));
    held_mono_ms = 0;
    TAILQ_REMOVE(&f.s.claims, f.bundle[0], wait);
    prepare_forget_logged(&f.s);
    mailbox_free(&f.s.box);
    sqlite3_close(db);
    end(&f);
}

/* It is as good as it was: what signed before goes on until it can be read. */
static void a_key_that_there_is_no_memory_to_read_is_read_again(void **state) {
    enum { APART_MS = 1000 };
    struct world *w = *state;
    const struct route r = {.concurrency = 5};
    static const char failed[] = "domains could not be read";
    uint8_t hash[SHA256_BYTES];
    struct dkim_signer signer;
    struct fixture f;
    begin(&f, &r, ROUTE_SIGNING_FULL);
    f.s.store = w->store;
    f.s.box = mailbox_new();
    wakeup_init(&f.s.domains_wake, read_again, &f.s);
    put_signing_domain(w, NULL);
    expect_log(failed);
    held_mono_ms = clock_mono_ms();
    const struct signers *was = f.s.signers;
    scheduler_read_domains(&f.s);
    count = 0;
    digest_sha256(STR("of a key, which may come before it is read"), hash);
    fail_at = count + 1;
    fail_count = 1;
    count = 0;
    await_reading(&f);
    assert_true(count >= fail_at);
    fail_at = 0;
    assert_int_equal(logged(failed), 1);
    assert_ptr_equal(f.s.signers, was);
    assert_true(wakeup_is_set(&f.s.domains_wake));
    held_mono_ms += APART_MS;
    assert_int_equal(wakeups_run(f.s.wakeups, clock_mono_ms()), 1);
    await_reading(&f);
    assert_int_equal(f.s.readings_failed, 0);
    assert_true(signers_find(f.s.signers, 1, STR("example.org"), false, &signer));
    assert_int_equal(signer.key_count, 1);
    held_mono_ms = 0;
    mailbox_free(&f.s.box);
    end(&f);
}

/* The old one hung, so that nobody looked at what waited there. */
static void what_waits_at_a_site_that_dies_follows_its_hop(void **state) {
    (void)state;
    const struct route r = {.concurrency = 5};
    static char name[] = "elsewhere";
    struct fixture f;
    begin(&f, &r, ROUTE_SIGNING_OFF);
    put_in(&f, 0, BUNDLES - 1, BUNDLE_QUEUED);
    f.hop.site_name = name;
    gather_resolved(&f.s, &f.hop);
    gather_pause_site(&f.s, f.site);
    assert_int_equal(fair_count(f.site->waiting), 0);
    assert_takes(f.hop.site->waiting, f.bundle, BUNDLES);
    TAILQ_REMOVE(&f.s.runnable, f.hop.site, runnable);
    end(&f);
}

/* Of one message: the first recipient was accepted while the route led to mail servers, the other
 * by a route which is gone: both keys stand for other mail, too. */
static void a_dead_site_parks_no_key_that_others_share(void **state) {
    (void)state;
    const struct route r = {.concurrency = 5, .name = "new", .kind = ROUTE_SMARTHOST};
    struct due_item item[] = {
        {.row = {.email = STR("a@example.com"), .queue_key = STR("example.com")}},
        {.row = {.email = STR("b@example.net"), .queue_key = STR("old")}}};
    for (int i = 0; i < 2; i++) {
        struct fixture f;
        begin(&f, &r, ROUTE_SIGNING_OFF);
        struct bundle *b = f.bundle[0];
        put_in(&f, 0, 0, BUNDLE_QUEUED);
        TAILQ_INSERT_TAIL(&b->items, &item[i], link);
        gather_pause_site(&f.s, f.site);
        assert_int_equal(b->state, BUNDLE_CLAIMING);
        assert_ptr_equal(TAILQ_FIRST(&f.s.claims), b);
        TAILQ_REMOVE(&f.s.claims, b, wait);
        TAILQ_INIT(&b->items);
        end(&f);
    }
}

int main(void) {
    if (!crypto_faults_install())
        abort();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_site_that_a_reload_revives_goes_on_when_its_rate_lets_it,
                                        setup, teardown),
        cmocka_unit_test(a_project_pays_for_no_turn_that_a_rate_refuses),
        cmocka_unit_test(what_is_woken_without_a_slot_keeps_its_order),
        cmocka_unit_test(what_waits_while_an_answer_of_a_day_ago_is_renewed_is_not_claimed),
        cmocka_unit_test(an_answer_grows_old_while_the_machine_sleeps),
        cmocka_unit_test(what_waits_at_a_site_follows_its_hop_to_another),
        cmocka_unit_test(what_waits_for_a_domain_that_is_gone_is_told_so),
        cmocka_unit_test(what_is_signed_at_this_moment_is_not_given_back),
        cmocka_unit_test(mail_without_a_key_waits_for_the_reading_that_may_bring_one),
        cmocka_unit_test(mail_waits_for_the_look_at_dns_that_may_find_its_new_key),
        cmocka_unit_test(domains_that_cannot_be_read_hold_up_nobody_for_long),
        cmocka_unit_test_setup_teardown(readings_of_domains_that_fail_are_a_second_apart, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(a_key_that_there_is_no_memory_to_read_is_read_again, setup,
                                        teardown),
        cmocka_unit_test(what_waits_at_a_site_that_dies_follows_its_hop),
        cmocka_unit_test(a_dead_site_parks_no_key_that_others_share),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
