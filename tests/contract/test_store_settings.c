/* The contract of the outbox, on every backend. Keys, domains, captures. After each test
 * store_check() recomputes what is kept along with the rows. */
#include "tests/contract/store_kit.h"

#include <malloc.h>
#include <stdatomic.h>

#include "storage/store_ops.h"
#include "tests/unit/patience.h"

/* ---- in its place ---- */

static const char *_Atomic looked_for; /* in what is freed, by any thread */
static atomic_int freed_with_it;

void __real_free(void *p);
void __wrap_free(void *p);
void __wrap_free(void *p) {
    const char *text = looked_for;
    if (p != NULL && text != NULL && !is_under_memcheck()) /* which minds what was never written */
        freed_with_it += memmem(p, malloc_usable_size(p), text, strlen(text)) != NULL;
    __real_free(p);
}

/* How many of the blocks that a call held still had the text when they were freed. */
static int freed_with(const char *text, struct store_call *call) {
    looked_for = text;
    freed_with_it = 0;
    store_call_release(call);
    looked_for = NULL;
    return freed_with_it;
}

/* ---- keys, domains ---- */

static struct key_row key_row(struct kit *k, const char *prefix, uint8_t hash) {
    struct key_row r = {.id = id_new(k->now_wall_ms),
                        .project = 1,
                        .name = STR("main"),
                        .prefix = str_of(prefix),
                        .scopes = SCOPE_SEND | SCOPE_READ,
                        .created_wall_ms = k->now_wall_ms};
    memset(r.hash, hash, sizeof(r.hash));
    return r;
}

static void keys_are_put_listed_used_and_revoked(void **state) {
    struct kit *k = *state;
    struct str domains[] = {STR("example.org"), STR("example.com")};
    struct store_key_put p = {.key = key_row(k, "pc_live_a", 1)};
    p.key.from_domains = domains;
    p.key.from_domain_count = 2;
    p.key.rate = 60;
    RUN_OK(k, STORE_KEY_PUT, &p);
    struct store_keys first = {.project = 1};
    RUN_OK(k, STORE_KEYS, &first);
    assert_int_equal(first.key[0].rate, 60);
    struct id id = p.key.id;
    struct store_key_put other = {.key = key_row(k, "pc_live_a", 2)};
    assert_int_equal(RUN(k, STORE_KEY_PUT, &other), ERR_CONFLICT);
    struct store_key_put same = {.key = key_row(k, "pc_live_a", 1)};
    same.key.scopes = SCOPE_ADMIN;
    same.key.rate = 90;
    RUN_OK(k, STORE_KEY_PUT, &same);
    assert_true(id_equal(&same.key.id, &id)); /* it is that key */
    struct store_keys_used u = {.id = &id, .wall_ms = &k->now_wall_ms, .count = 1};
    RUN_OK(k, STORE_KEYS_USED, &u);
    struct store_key_revoke r = {.id = id, .project = 2, .now_wall_ms = k->now_wall_ms};
    assert_int_equal(RUN(k, STORE_KEY_REVOKE, &r), ERR_NOT_FOUND);
    r.project = 1;
    RUN_OK(k, STORE_KEY_REVOKE, &r);
    RUN_OK(k, STORE_KEY_REVOKE, &r);
    struct store_keys q = {.project = -1};
    RUN_OK(k, STORE_KEYS, &q);
    assert_int_equal(q.count, 1);
    assert_int_equal(q.key[0].scopes, SCOPE_ADMIN);
    assert_int_equal(q.key[0].rate, 90);
    assert_int_equal(q.key[0].from_domain_count, 0);
    assert_int_equal(q.key[0].used_wall_ms, k->now_wall_ms);
    assert_int_equal(q.key[0].revoked_wall_ms, k->now_wall_ms);
    assert_int_equal(q.key[0].hash[31], 1);
    /* what declares it again, at the next start, does not bring it back */
    struct store_key_put again = {.key = key_row(k, "pc_live_a", 1)};
    RUN_OK(k, STORE_KEY_PUT, &again);
    assert_int_equal(again.key.revoked_wall_ms, k->now_wall_ms);
    struct store_keys still = {.project = 1};
    RUN_OK(k, STORE_KEYS, &still);
    assert_int_equal(still.key[0].revoked_wall_ms, k->now_wall_ms);
    q.project = 2;
    RUN_OK(k, STORE_KEYS, &q);
    assert_int_equal(q.count, 0);
}

static void the_domains_of_a_key_come_back_in_order(void **state) {
    struct kit *k = *state;
    struct str domains[] = {STR("b.example"), STR("a.example"), STR("c.example")};
    struct store_key_put p = {.key = key_row(k, "pc_live_b", 1)};
    p.key.from_domains = domains;
    p.key.from_domain_count = 3;
    RUN_OK(k, STORE_KEY_PUT, &p);
    struct store_keys q = {.project = 1};
    RUN_OK(k, STORE_KEYS, &q);
    assert_int_equal(q.key[0].from_domain_count, 3);
    for (size_t i = 0; i < 3; i++)
        assert_true(str_equal(q.key[0].from_domains[i], domains[i]));
}

static void a_project_has_at_most_so_many_keys_in_force(void **state) {
    struct kit *k = *state;
    struct store_key_put expired = {.key = key_row(k, "pc_live_a", 1), .most = 2};
    expired.key.expires_wall_ms = k->now_wall_ms;
    RUN_OK(k, STORE_KEY_PUT, &expired);
    struct store_key_put revoked = {.key = key_row(k, "pc_live_b", 1), .most = 2};
    revoked.key.revoked_wall_ms = k->now_wall_ms;
    RUN_OK(k, STORE_KEY_PUT, &revoked);
    struct store_key_put other = {.key = key_row(k, "pc_live_c", 1), .most = 2};
    other.key.project = 2;
    RUN_OK(k, STORE_KEY_PUT, &other);
    struct store_key_put first = {.key = key_row(k, "pc_live_d", 1), .most = 2};
    first.key.expires_wall_ms = k->now_wall_ms + 1;
    RUN_OK(k, STORE_KEY_PUT, &first);
    struct store_key_put second = {.key = key_row(k, "pc_live_e", 1), .most = 2};
    RUN_OK(k, STORE_KEY_PUT, &second);
    struct store_key_put third = {.key = key_row(k, "pc_live_f", 1), .most = 2};
    assert_int_equal(RUN(k, STORE_KEY_PUT, &third), ERR_LIMIT);
    RUN_OK(k, STORE_KEY_PUT, &second); /* it is one of them */
    struct store_key_revoke end = {
        .id = second.key.id, .project = 1, .now_wall_ms = k->now_wall_ms};
    RUN_OK(k, STORE_KEY_REVOKE, &end);
    RUN_OK(k, STORE_KEY_PUT, &third);
    struct store_key_put any = {.key = key_row(k, "pc_live_g", 1)};
    RUN_OK(k, STORE_KEY_PUT, &any);
    struct store_keys q = {.project = 1};
    RUN_OK(k, STORE_KEYS, &q);
    assert_int_equal(q.count, 6);
}

static void a_project_has_at_most_so_many_domains(void **state) {
    struct kit *k = *state;
    static const struct {
        const char *name;
        int64_t project;
        size_t most;
        bool replace;
        enum err want;
    } rows[] = {
        {"other.example", 2, 2, false, OK},       {"a.example", 1, 2, false, OK},
        {"b.example", 1, 2, false, OK},           {"c.example", 1, 2, false, ERR_LIMIT},
        {"c.example", 1, 2, true, ERR_LIMIT},     {"b.example", 1, 2, true, OK},
        {"b.example", 1, 2, false, ERR_CONFLICT}, {"c.example", 1, 3, false, OK},
        {"d.example", 1, 0, false, OK},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct store_domain_put p = {.domain = {.id = id_new(k->now_wall_ms),
                                                .project = rows[i].project,
                                                .name = str_of(rows[i].name)},
                                     .replace = rows[i].replace,
                                     .most = rows[i].most};
        if (RUN(k, STORE_DOMAIN_PUT, &p) != rows[i].want)
            fail_msg("row %zu, %s: %s", i, rows[i].name, p.call.info.text);
    }
    struct store_domains q = {.project = 1};
    RUN_OK(k, STORE_DOMAINS, &q);
    assert_int_equal(q.count, 4);
}

static void domains_are_put_replaced_and_deleted(void **state) {
    struct kit *k = *state;
    struct domain_key_row keys[] = {{.selector = STR("s1"),
                                     .algorithm = STR("rsa-sha256"),
                                     .pem = STR("p1"),
                                     .record = STR("r1")},
                                    {.selector = STR("s2"),
                                     .algorithm = STR("ed25519-sha256"),
                                     .pem = STR("p2"),
                                     .published_wall_ms = 7}};
    struct store_domain_put p = {.domain = {.id = id_new(k->now_wall_ms),
                                            .project = 1,
                                            .name = STR("example.org"),
                                            .created_wall_ms = 5,
                                            .key = keys,
                                            .key_count = 2}};
    struct id id = p.domain.id;
    RUN_OK(k, STORE_DOMAIN_PUT, &p);
    assert_int_equal(RUN(k, STORE_DOMAIN_PUT, &p), ERR_CONFLICT);
    keys[1].pem = STR_NONE; /* one that could not be read is not put back */
    p.replace = true;
    assert_int_equal(RUN(k, STORE_DOMAIN_PUT, &p), ERR_INVALID);
    keys[1].pem = STR("p2");
    struct store_domains q = {.project = 1};
    RUN_OK(k, STORE_DOMAINS, &q);
    assert_int_equal(q.count, 1);
    assert_int_equal(q.domain[0].key_count, 2);
    assert_true(str_equal(q.domain[0].key[1].selector, STR("s2")));
    assert_true(str_is_absent(q.domain[0].key[1].record));
    assert_int_equal(q.domain[0].key[1].published_wall_ms, 7);
    p.replace = true;
    p.domain.id = id_new(k->now_wall_ms);
    p.domain.verified_wall_ms = 9;
    p.domain.key_count = 1;
    RUN_OK(k, STORE_DOMAIN_PUT, &p);
    RUN_OK(k, STORE_DOMAINS, &q);
    assert_int_equal(q.count, 1);
    assert_true(id_equal(&q.domain[0].id, &id)); /* it is that domain */
    assert_int_equal(q.domain[0].verified_wall_ms, 9);
    assert_int_equal(q.domain[0].key_count, 1);
    struct store_domain_delete d = {.name = STR("example.org"), .project = 2};
    assert_int_equal(RUN(k, STORE_DOMAIN_DELETE, &d), ERR_NOT_FOUND);
    d.project = 1;
    RUN_OK(k, STORE_DOMAIN_DELETE, &d);
    RUN_OK(k, STORE_DOMAINS, &q);
    assert_int_equal(q.count, 0);
}

static void private_keys_come_out_where_they_are_asked_for_and_are_wiped(void **state) {
    struct kit *k = *state;
    struct domain_key_row key = {.selector = STR("s1"),
                                 .algorithm = STR("rsa-sha256"),
                                 .pem = STR("a key that nobody is to see"),
                                 .record = STR("r1")};
    struct store_domain_put p = {.domain = {.id = id_new(k->now_wall_ms),
                                            .project = 1,
                                            .name = STR("example.org"),
                                            .key = &key,
                                            .key_count = 1}};
    RUN_OK(k, STORE_DOMAIN_PUT, &p);
    for (int i = 0; i < 2; i++) {
        struct store_domains q = {
            .call = {.verb = STORE_DOMAINS}, .project = 1, .with_secrets = i == 1};
        assert_int_equal(store_sync(k->store, &q.call), OK);
        assert_int_equal(q.domain[0].key_count, 1);
        assert_true(str_equal(q.domain[0].key[0].record, STR("r1")));
        assert_true(str_equal(q.domain[0].key[0].pem, i == 1 ? key.pem : STR_NONE));
        assert_int_equal(str_is_absent(q.domain[0].key[0].pem), i == 0);
        assert_int_equal(freed_with("nobody is to see", &q.call), 0);
    }
}

static void secrets_of_endpoints_are_wiped(void **state) {
    struct kit *k = *state;
    struct store_webhook_put p = {.webhook = {.id = id_new(k->now_wall_ms),
                                              .project = 1,
                                              .url = STR("https://example.org/hook"),
                                              .secret = STR("whsec_nobody is to see")}};
    RUN_OK(k, STORE_WEBHOOK_PUT, &p);
    struct store_webhooks q = {.call = {.verb = STORE_WEBHOOKS}, .project = 1};
    assert_int_equal(store_sync(k->store, &q.call), OK);
    assert_true(str_equal(q.webhook[0].secret, p.webhook.secret));
    assert_int_equal(freed_with("nobody is to see", &q.call), 0);
}

/* It looks whether each of them opens, and whether one is still what somebody has seen. */
static void the_writer_wipes_secrets_of_endpoints(void **state) {
    struct kit *k = *state;
    struct str all = STR("*");
    struct store_webhook_put p = {.webhook = {.id = id_new(k->now_wall_ms),
                                              .project = 1,
                                              .url = STR("https://example.org/hook"),
                                              .secret = STR("whsec_not for the writer"),
                                              .previous_secret = STR("was not for the writer"),
                                              .events = &all,
                                              .event_count = 1}};
    RUN_OK(k, STORE_WEBHOOK_PUT, &p);
    if (k->options.seal == NULL)
        return; /* in clear they are in SQLite's memory, too */
    looked_for = "not for the writer";
    freed_with_it = 0;
    kit_accept(k, TO("ann@example.net"));
    kit_webhook(k, 1, "*"); /* all are read again */
    kit_accept(k, TO("ann@example.net"));
    assert_int_equal(kit_notify_claim(k)->count, 3);
    const struct webhook_row seen = p.webhook;
    p.replace = true;
    p.seen = &seen;
    RUN_OK(k, STORE_WEBHOOK_PUT, &p);
    store_close(&k->store);
    looked_for = NULL;
    assert_int_equal(freed_with_it, 0);
    kit_open_with(k, k->options);
}

static void count_notice(struct store_notice *n) {
    int *count = n->ctx;
    ++*count;
    store_notice_free(&n);
}

/* example.org with two keys. */
static struct id domain_with(struct kit *k, struct domain_key_row keys[2]) {
    struct store_domain_put p = {.domain = {.id = id_new(k->now_wall_ms),
                                            .project = 1,
                                            .name = STR("example.org"),
                                            .key = keys,
                                            .key_count = 2}};
    RUN_OK(k, STORE_DOMAIN_PUT, &p);
    return p.domain.id;
}

/* A record that nobody answered for is neither there nor gone: its key stays as it was. */
static void a_key_of_which_nothing_is_known_stays_as_it_was(void **state) {
    struct kit *k = *state;
    struct domain_key_row keys[] = {
        {.selector = STR("s1"), .algorithm = STR("a"), .pem = STR("p"), .published_wall_ms = 5},
        {.selector = STR("s2"), .algorithm = STR("a"), .pem = STR("p")}};
    struct id id = domain_with(k, keys);
    const struct str s1 = STR("s1"), s2 = STR("s2"), both[] = {STR("s2"), STR("s1")};
    const struct {
        const struct str *published, *unknown;
        size_t published_count, unknown_count;
        int64_t want_published_ms[2];
    } rows[] = {
        {NULL, both, 0, 2, {5, 0}}, {&s2, &s1, 1, 1, {5, 20}},   {&s1, &s2, 1, 1, {5, 20}},
        {NULL, &s2, 0, 1, {0, 20}}, {NULL, both, 0, 2, {0, 20}}, {&s1, NULL, 1, 0, {60, 0}},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
        struct store_domain_checked c = {.id = id,
                                         .project = 1,
                                         .is_verified = true,
                                         .published = rows[i].published,
                                         .published_count = rows[i].published_count,
                                         .unknown = rows[i].unknown,
                                         .unknown_count = rows[i].unknown_count,
                                         .now_wall_ms = 10 * (int64_t)(i + 1)};
        RUN_OK(k, STORE_DOMAIN_CHECKED, &c);
        struct store_domains q = {.project = 1};
        RUN_OK(k, STORE_DOMAINS, &q);
        for (size_t n = 0; n < 2; n++)
            assert_int_equal(q.domain[0].key[n].published_wall_ms, rows[i].want_published_ms[n]);
    }
}

/* What a look at the DNS found, and whether somebody who watches was told of it. */
static void what_was_found_of_a_domain_is_kept_since_when(void **state) {
    struct kit *k = *state;
    struct domain_key_row keys[] = {
        {.selector = STR("s1"), .algorithm = STR("a"), .pem = STR("p")},
        {.selector = STR("s2"), .algorithm = STR("a"), .pem = STR("p")}};
    struct id id = domain_with(k, keys);
    const struct str s1[] = {STR("s1")}, both[] = {STR("s2"), STR("s1"), STR("s3")};
    const struct {
        int64_t now_wall_ms, want_verified_ms, want_published_ms[2];
        bool is_verified, is_told;
        const struct str *published;
        size_t count;
    } rows[] = {
        {10, 0, {0, 0}, false, false, NULL, 0},     {20, 20, {20, 0}, true, true, s1, 1},
        {30, 20, {20, 0}, true, false, s1, 1},      {40, 20, {20, 40}, true, true, both, 3},
        {50, 20, {0, 0}, true, true, NULL, 0},      {60, 0, {60, 0}, false, true, s1, 1},
        {70, 70, {60, 0}, true, true, s1, 1},       {80, 0, {0, 0}, false, true, NULL, 0},
        {90, 90, {0, 90}, true, true, both, 1},     {100, 90, {100, 90}, true, true, both, 2},
        {110, 90, {100, 90}, true, false, both, 2}, {120, 0, {0, 90}, false, true, both, 1},
        {130, 0, {0, 0}, false, true, both, 0},     {140, 140, {140, 140}, true, true, both, 2},
    };
    int told = 0;
    store_watch(k->store, NOTICE_DOMAINS, kit_box(k), count_notice, &told);
    for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
        struct store_domain_checked c = {.id = id,
                                         .project = 1,
                                         .is_verified = rows[i].is_verified,
                                         .published = rows[i].published,
                                         .published_count = rows[i].count,
                                         .now_wall_ms = rows[i].now_wall_ms};
        told = 0;
        RUN_OK(k, STORE_DOMAIN_CHECKED, &c);
        struct store_domains q = {.project = 1};
        RUN_OK(k, STORE_DOMAINS, &q); /* what the commit told was sent before its answer */
        mailbox_wait(k->box, 0);
        assert_int_equal(told, rows[i].is_told);
        assert_int_equal(q.count, 1);
        assert_int_equal(q.domain[0].verified_wall_ms, rows[i].want_verified_ms);
        for (size_t n = 0; n < 2; n++)
            assert_int_equal(q.domain[0].key[n].published_wall_ms, rows[i].want_published_ms[n]);
        c.project = 2;
        assert_int_equal(RUN(k, STORE_DOMAIN_CHECKED, &c), ERR_NOT_FOUND);
        c.project = 1;
        c.id = id_new(1);
        assert_int_equal(RUN(k, STORE_DOMAIN_CHECKED, &c), ERR_NOT_FOUND);
    }
    store_unwatch(k->store, k->box);
}

static void each_verb_either_writes_or_reads(void **state) {
    (void)state;
    static const struct store_ops *const backends[] = {&store_sqlite_ops, &store_memory_ops};
    for (size_t i = 0; i < 2; i++)
        for (int verb = 0; verb < STORE_VERB_COUNT; verb++)
            if ((backends[i]->write[verb] != NULL) == (backends[i]->read[verb] != NULL))
                fail_msg("%s, verb %d: it has to be in one of the tables", backends[i]->name, verb);
}

/* ---- captures ---- */

static void captures_are_listed_newest_first_and_limited(void **state) {
    struct kit *k = *state;
    struct id id[5];
    for (int i = 0; i < 5; i++) {
        struct store_capture_put p = {
            .capture = {.id = id_new(k->now_wall_ms + i),
                        .kind = i == 4 ? CAPTURE_WEBHOOK : CAPTURE_MESSAGE,
                        .wall_ms = k->now_wall_ms + i,
                        .meta_json = STR("{}"),
                        .content = STR("body")}};
        id[i] = p.capture.id;
        RUN_OK(k, STORE_CAPTURE_PUT, &p);
    }
    struct store_captures q = {.kind = CAPTURE_MESSAGE, .limit = 3};
    RUN_OK(k, STORE_CAPTURES, &q);
    assert_int_equal(q.count, 3);
    assert_true(q.more);
    assert_true(id_equal(&q.capture[0].id, &id[3]));
    assert_true(str_is_absent(q.capture[0].content));
    q.before = q.capture[2].id;
    RUN_OK(k, STORE_CAPTURES, &q);
    assert_int_equal(q.count, 1);
    assert_true(id_equal(&q.capture[0].id, &id[0]));
    assert_false(q.more);
    q = (struct store_captures){.kind = CAPTURE_WEBHOOK, .limit = 3};
    RUN_OK(k, STORE_CAPTURES, &q);
    assert_true(str_equal(q.capture[0].content, STR("body")));
    struct store_capture c = {.id = id[1]};
    RUN_OK(k, STORE_CAPTURE, &c);
    assert_true(str_equal(c.capture.content, STR("body")));
    assert_int_equal(c.content_bytes, 4);
    struct store_capture head = {.id = id[1], .is_head = true};
    RUN_OK(k, STORE_CAPTURE, &head);
    assert_true(str_is_absent(head.capture.content));
    assert_true(id_equal(&head.capture.id, &id[1]));
    assert_int_equal(head.content_bytes, 4);
    assert_int_equal(kit_retain(k, 0, 0, 100), 2); /* two of four messages */
    assert_int_equal(RUN(k, STORE_CAPTURE, &c), ERR_NOT_FOUND);
    c.id = id[2];
    RUN_OK(k, STORE_CAPTURE, &c);
}

#define TESTS(T)                                                                                   \
    T(keys_are_put_listed_used_and_revoked), T(the_domains_of_a_key_come_back_in_order),           \
        T(a_project_has_at_most_so_many_keys_in_force), T(a_project_has_at_most_so_many_domains),  \
        T(domains_are_put_replaced_and_deleted), T(the_writer_wipes_secrets_of_endpoints),         \
        T(private_keys_come_out_where_they_are_asked_for_and_are_wiped),                           \
        T(secrets_of_endpoints_are_wiped), T(what_was_found_of_a_domain_is_kept_since_when),       \
        T(a_key_of_which_nothing_is_known_stays_as_it_was), T(each_verb_either_writes_or_reads),   \
        T(captures_are_listed_newest_first_and_limited)

MAIN_WITH_SECRETS(TESTS)
