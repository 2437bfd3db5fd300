#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "server/base/buf.h"
#include "server/intake/submit.h"

/* ---- a world of routes and domains ---- */

static struct str news[] = {{"*.news.test", 11}}, partner[] = {{"partner.test", 12}};
static struct intake_route routes[] = {
    {.name = {"newsletter", 10}, .kind = INTAKE_ROUTE_SMARTHOST, .sender_domains = {news, 1}},
    {.name = {"partner", 7},
     .kind = INTAKE_ROUTE_SMARTHOST,
     .requires_verified_domain = true,
     .recipient_domains = {partner, 1}},
    {.name = {"box", 3}, .kind = INTAKE_ROUTE_SANDBOX},
    {.name = {"direct", 6}, .kind = INTAKE_ROUTE_MX, .requires_verified_domain = true},
    {.name = {"default", 7}, .kind = INTAKE_ROUTE_SMARTHOST},
};

static struct intake_settings settings_of(void) {
    return (struct intake_settings){
        .limits = {.recipients_max = 50, .message_bytes_max = 100000},
        .expires_default_ms = 1000000,
        .expires_max_ms = 2000000,
        .idempotency_keep_ms = 5000,
        .routes = routes,
        .route_count = 5,
        .default_route = STR("default"),
    };
}

struct fixture {
    struct arena *arena;
    struct faults faults;
    struct submission s;
    struct address to[3];
    struct intake *intake;
    struct domains *domains;
    struct submit_input in;
    struct store_accept *accept;
    enum submit_result result;
};

static void begin(struct fixture *f, const struct intake_settings *s, const char *from,
                  const char *to) {
    struct errinfo info = {0};
    static const struct domain_row rows[] = {
        {.project = 1, .name = {"acme.test", 9}, .verified_wall_ms = 1},
        {.project = 1,
         .name = {"bounce.test", 11},
         .verified_wall_ms = 1,
         .bounce_address = {"b@bounce.test", 13}},
        {.project = 1, .name = {"new.test", 8}},
        {.project = 1,
         .name = {"far.test", 8},
         .verified_wall_ms = 1,
         .bounce_address = {"b@elsewhere.test", 16}},
        {.project = 1, .name = {"a.test", 6}, .bounce_address = {"b@elsewhere.test", 16}},
        {.project = 1, .name = {"late.test", 9}, .bounce_address = {"b@late.test", 11}},
        {.project = 2,
         .name = {"other.test", 10},
         .verified_wall_ms = 1,
         .bounce_address = {"b@late.test", 11}},
        {.project = 2, .name = {"bounce.test", 11}, .bounce_address = {"spy@evil.test", 13}},
        {.project = 2, .name = {"acme.test", 9}, .bounce_address = {"spy@evil.test", 13}},
        {.project = 1,
         .name = {"taking.test", 11},
         .verified_wall_ms = 1,
         .bounce_address = {"b@x.other.test", 14}},
    };
    *f = (struct fixture){.arena = arena_new()};
    faults_init(&f->faults, f->arena);
    if (intake_new(s, &f->intake, &info) != OK)
        fail_msg("%s: %s", info.field, info.text);
    f->domains = domains_new(rows, sizeof(rows) / sizeof(rows[0]));
    assert_int_equal(address_parse_named(&f->s.from, str_of(from), f->arena, &info), OK);
    assert_int_equal(address_parse_named(&f->to[0], str_of(to), f->arena, &info), OK);
    f->s.to = (struct address_list){.list = f->to, .count = 1};
    f->s.text = STR("t");
    f->in = (struct submit_input){.submission = &f->s,
                                  .intake = f->intake,
                                  .domains = f->domains,
                                  .rights = {.project = 1},
                                  .now_wall_ms = 1769860800123};
}

static void submit(struct fixture *f) {
    f->result = submit_prepare(&f->in, &f->faults, f->arena, &f->accept);
}

static void end(struct fixture *f) {
    if (f->accept != NULL)
        submit_discard(f->accept);
    intake_unref(&f->intake);
    domains_unref(&f->domains);
    arena_free(&f->arena);
}

/* ---- routes ---- */

static void test_routes_and_verified_domains(void **state) {
    (void)state;
    static const struct {
        const char *name, *from, *to, *route; /* NULL: not asked for */
        bool is_test;
        const char *queue; /* NULL: refused with: */
        const char *code;
    } rows[] = {
        {"default", "a@x.test", "b@c.test", NULL, false, "default", NULL},
        {"by sender", "a@m.news.test", "b@c.test", NULL, false, "newsletter", NULL},
        {"not by the parent of the sender's", "a@news.test", "b@c.test", NULL, false, "default",
         NULL},
        {"by recipient", "a@acme.test", "b@partner.test", NULL, false, "partner", NULL},
        {"by recipient, not verified", "a@x.test", "b@partner.test", NULL, false, NULL,
         "domain_unknown"},
        {"first rule wins", "a@m.news.test", "b@partner.test", NULL, false, "newsletter", NULL},
        {"by name", "a@x.test", "b@partner.test", "default", false, "default", NULL},
        {"MX waits by domain", "a@acme.test", "b@C.test", "direct", false, "c.test", NULL},
        {"MX wants a known domain", "a@x.test", "b@c.test", "direct", false, NULL,
         "domain_unknown"},
        {"MX wants a verified domain", "a@new.test", "b@c.test", "direct", false, NULL,
         "domain_not_verified"},
        {"a subdomain is not verified by its parent", "a@sub.acme.test", "b@c.test", "direct",
         false, NULL, "domain_unknown"},
        {"unknown name", "a@acme.test", "b@c.test", "nope", false, NULL, "route_unknown"},
        {"test key ends in the sandbox", "a@x.test", "b@c.test", NULL, true, "box", NULL},
        {"test key ends in the sandbox, whatever it asks for", "a@x.test", "b@c.test", "direct",
         true, "box", NULL},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct fixture f;
        struct intake_settings s = settings_of();
        begin(&f, &s, rows[i].from, rows[i].to);
        f.s.route = str_of(rows[i].route);
        f.in.rights.is_test = rows[i].is_test;
        submit(&f);
        if ((f.result == SUBMIT_OK) != (rows[i].queue != NULL))
            fail_msg("%s: %d", rows[i].name, f.result);
        if (rows[i].queue != NULL)
            assert_true(str_equal(f.accept->queue_key[0], str_of(rows[i].queue)));
        if (rows[i].queue != NULL && rows[i].is_test) /* delivery chooses by this alone */
            assert_true(str_equal(f.accept->message.route, str_of(rows[i].queue)));
        if (rows[i].queue == NULL)
            assert_string_equal(f.faults.list[0].code, rows[i].code);
        end(&f);
    }
}

static void test_all_that_depends_on_the_server_is_told_at_once(void **state) {
    static struct str list[] = {{"staging.test", 12}};
    static const char *const wanted[] = {"#/route route_unknown", "#/to/0 recipient_not_allowed",
                                         "#/expires_in out_of_range"};
    struct fixture f;
    struct intake_settings s = settings_of();
    (void)state;
    s.only_to = (struct str_list){list, 1};
    begin(&f, &s, "a@x.test", "b@c.test");
    f.s.route = STR("nope");
    f.s.expires_in_ms = s.expires_max_ms + 1;
    submit(&f);
    assert_int_equal(f.result, SUBMIT_INVALID);
    assert_int_equal(f.faults.count, sizeof(wanted) / sizeof(wanted[0]));
    for (size_t i = 0; i < f.faults.count; i++) {
        char said[128];
        snprintf(said, sizeof said, "%.*s %s", STR_ARG(f.faults.list[i].pointer),
                 f.faults.list[i].code);
        assert_string_equal(said, wanted[i]);
    }
    end(&f);
}

static void test_without_routes_mail_goes_by_mx(void **state) {
    struct fixture f;
    struct intake_settings s = settings_of();
    (void)state;
    s.route_count = 0;
    s.default_route = STR_NONE;
    begin(&f, &s, "a@acme.test", "b@c.test");
    submit(&f);
    assert_int_equal(f.result, SUBMIT_OK);
    assert_true(str_equal(f.accept->queue_key[0], STR("c.test")));
    end(&f);
    begin(&f, &s, "a@acme.test", "b@c.test");
    f.in.rights.is_test = true; /* and there is no sandbox for it */
    submit(&f);
    assert_int_equal(f.result, SUBMIT_INVALID);
    assert_string_equal(f.faults.list[0].code, "sandbox_unavailable");
    struct str remedy = STR("routes: [ {name: box, kind: sandbox} ]");
    assert_true(str_find(f.faults.list[0].detail, remedy) >= 0);
    end(&f);
}

/* ---- recipients ---- */

static void test_one_mailbox_gets_one_copy(void **state) {
    struct fixture f;
    struct intake_settings s = settings_of();
    (void)state;
    begin(&f, &s, "a@acme.test", "b@c.test");
    assert_int_equal(address_parse(&f.to[1], STR("b@C.TEST"), f.arena, NULL), OK);
    assert_int_equal(address_parse(&f.to[2], STR("B@c.test"), f.arena, NULL), OK);
    f.s.to.count = 2;
    f.s.bcc = (struct address_list){.list = &f.to[2], .count = 1}; /* local parts have case */
    submit(&f);
    assert_int_equal(f.result, SUBMIT_OK);
    assert_int_equal(f.accept->message.recipient_count, 2);
    assert_int_equal(f.accept->message.recipient[1].kind, RECIPIENT_BCC);
    end(&f);
}

static void test_staging_lets_only_listed_recipients_through(void **state) {
    (void)state;
    static struct str list[] = {{"ann@c.test", 10}, {"ours.test", 9}, {"*.below.test", 12}};
    static const struct {
        const char *to;
        bool want;
    } rows[] = {{"ann@c.test", true},    {"ann@C.TEST", true},       {"bob@c.test", false},
                {"x@ours.test", true},   {"x@sub.ours.test", false}, {"x@a.below.test", true},
                {"x@below.test", false}, {"Ann@c.test", false}};
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct fixture f;
        struct intake_settings s = settings_of();
        s.only_to = (struct str_list){list, 3};
        begin(&f, &s, "a@acme.test", rows[i].to);
        submit(&f);
        if ((f.result == SUBMIT_OK) != rows[i].want)
            fail_msg("%s", rows[i].to);
        if (!rows[i].want) {
            assert_string_equal(f.faults.list[0].code, "recipient_not_allowed");
            assert_true(str_equal(f.faults.list[0].pointer, STR("#/to/0")));
        }
        end(&f);
    }
}

static void test_staging_redirects_every_envelope(void **state) {
    struct fixture f;
    struct intake_settings s = settings_of();
    (void)state;
    s.redirect_to = STR("catch@Staging.test");
    begin(&f, &s, "a@acme.test", "b@c.test");
    assert_int_equal(address_parse(&f.to[1], STR("x@y.test"), f.arena, NULL), OK);
    f.s.to.count = 2;
    f.s.route = STR("direct");
    submit(&f);
    assert_int_equal(f.result, SUBMIT_OK);
    assert_int_equal(f.accept->message.recipient_count, 1);
    assert_true(str_equal(f.accept->message.recipient[0].email, STR("catch@staging.test")));
    assert_true(str_equal(f.accept->queue_key[0], STR("staging.test")));
    end(&f);
}

/* ---- again ---- */

static void test_what_goes_again_passes_what_a_submission_passes(void **state) {
    static struct str list[] = {{"staging.test", 12}};
    static const struct {
        const char *name, *from, *route, *to;
        enum recipient_state state;
        bool is_test, only_to, redirect;
        const char *code; /* NULL: it may */
    } rows[] = {
        {"a smarthost", "any.test", "", "b@c.test", RECIPIENT_BOUNCED, false, false, false, NULL},
        {"verified, by MX", "acme.test", "direct", "b@c.test", RECIPIENT_BOUNCED, false, false,
         false, NULL},
        {"not verified any more, by MX", "new.test", "direct", "b@c.test", RECIPIENT_EXPIRED, false,
         false, false, "domain_not_verified"},
        {"removed, by rule", "gone.test", "", "b@partner.test", RECIPIENT_FAILED, false, false,
         false, "domain_unknown"},
        {"of a test key", "gone.test", "box", "b@partner.test", RECIPIENT_FAILED, true, false,
         false, NULL},
        {"nobody who goes again", "gone.test", "", "b@partner.test", RECIPIENT_DELIVERED, false,
         true, false, NULL},
        {"who waits is due", "gone.test", "", "b@partner.test", RECIPIENT_QUEUED, false, true,
         false, NULL},
        {"a route that is gone", "acme.test", "was", "b@c.test", RECIPIENT_BOUNCED, false, false,
         false, "route_unknown"},
        {"who waits, by a route that is gone", "acme.test", "was", "b@c.test", RECIPIENT_QUEUED,
         false, false, false, NULL},
        {"a test whose sandbox has another name now", "acme.test", "was", "b@c.test",
         RECIPIENT_FAILED, true, false, false, NULL},
        {"on the list", "acme.test", "", "b@staging.test", RECIPIENT_BOUNCED, false, true, false,
         NULL},
        {"not on the list", "acme.test", "", "b@c.test", RECIPIENT_CANCELED, false, true, false,
         "recipient_not_allowed"},
        {"redirected", "acme.test", "", "b@c.test", RECIPIENT_BOUNCED, false, false, true,
         "recipient_not_allowed"},
        {"where all is redirected to", "acme.test", "", "x@staging.test", RECIPIENT_BOUNCED, false,
         false, true, NULL},
        {"a quoted @", "acme.test", "", "\"b@c.test\"@staging.test", RECIPIENT_BOUNCED, false, true,
         false, NULL},
    };
    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct fixture f;
        struct intake_settings s = settings_of();
        if (rows[i].only_to)
            s.only_to = (struct str_list){list, 1};
        if (rows[i].redirect)
            s.redirect_to = STR("x@staging.test");
        begin(&f, &s, "a@acme.test", "b@c.test");
        struct recipient_row to[2] = {{.email = STR("done@far.test"), .state = RECIPIENT_DELIVERED},
                                      {.email = str_of(rows[i].to), .state = rows[i].state}};
        const struct message_row m = {.project = 1,
                                      .from_domain = str_of(rows[i].from),
                                      .route = str_of(rows[i].route),
                                      .is_test = rows[i].is_test,
                                      .recipient = to,
                                      .recipient_count = 2};
        bool may = submit_may_repeat(f.intake, f.domains, &m, &f.faults);
        if (may != (rows[i].code == NULL) || f.faults.count != !may ||
            (!may && (strcmp(f.faults.list[0].code, rows[i].code) != 0 ||
                      !str_equal(f.faults.list[0].pointer, STR("#")))))
            fail_msg("%s: %s", rows[i].name, may ? "may" : f.faults.list[0].code);
        end(&f);
    }
}

/* As far as the reverse-path tells whose it was. */
static void test_T11_what_goes_again_wants_the_senders_domain_verified(void **state) {
    static const struct {
        const char *name, *from, *mail_from, *code; /* NULL: it may */
    } rows[] = {
        {"From's own", "acme.test", "s@acme.test", NULL},
        {"verified", "acme.test", "s@bounce.test", NULL},
        {"not verified", "acme.test", "s@new.test", "domain_not_verified"},
        {"a bounce address of then", "acme.test", "\"x@acme.test\"@gone.test", NULL},
        {"one of then, From's is not verified", "new.test", "b@gone.test", "domain_not_verified"},
        {"another project's", "acme.test", "b@other.test", "domain_not_allowed"},
        {"below another project's", "acme.test", "b@x.other.test", "domain_not_allowed"},
        {"another project's, and set as ours", "taking.test", "b@x.other.test",
         "domain_not_allowed"},
        {"a bounce address", "acme.test", "b@bounce.test", NULL},
        {"From's bounce address", "far.test", "b@elsewhere.test", NULL},
        {"a bounce address elsewhere", "acme.test", "b@elsewhere.test", NULL},
        {"of a domain that is not verified", "acme.test", "b@late.test", "domain_not_verified"},
        {"nobody", "acme.test", "", NULL},
        {"nobody with a name", "acme.test", "MAILER", NULL},
    };
    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
        for (int way = 0; way < 3; way++) { /* by MX; by who does not ask; a test */
            struct fixture f;
            struct intake_settings s = settings_of();
            begin(&f, &s, "a@acme.test", "b@c.test");
            struct recipient_row to = {.email = STR("b@c.test"), .state = RECIPIENT_BOUNCED};
            const struct message_row m = {.project = 1,
                                          .from_domain = str_of(rows[i].from),
                                          .mail_from = str_of(rows[i].mail_from),
                                          .route = way == 1 ? STR("default") : STR("direct"),
                                          .is_test = way == 2,
                                          .recipient = &to,
                                          .recipient_count = 1};
            bool may = submit_may_repeat(f.intake, f.domains, &m, &f.faults);
            bool is_verified_enough = way > 0; /* only what is another's is refused */
            bool want = rows[i].code == NULL ||
                        (is_verified_enough && strcmp(rows[i].code, "domain_not_allowed") != 0);
            if (may != want || f.faults.count != !may ||
                (!may && strcmp(f.faults.list[0].code, rows[i].code) != 0))
                fail_msg("%s, %d: %s", rows[i].name, way, may ? "may" : f.faults.list[0].code);
            end(&f);
        }
}

/* ---- the row ---- */

static void test_row_says_what_was_asked_for(void **state) {
    struct fixture f;
    struct intake_settings s = settings_of();
    struct str tags[] = {STR("a"), STR("b\"")};
    struct pair metadata[] = {{STR("k"), STR("v")}};
    (void)state;
    begin(&f, &s, "Acme <a@acme.test>", "b@c.test");
    f.s.tags = tags;
    f.s.tag_count = 2;
    f.s.metadata = metadata;
    f.s.metadata_count = 1;
    f.s.subject = STR("hi");
    f.s.expires_in_ms = 7000;
    f.s.tls = TLS_VERIFY;
    f.in.idempotency_key = STR("key");
    submit(&f);
    assert_int_equal(f.result, SUBMIT_OK);
    const struct message_row *m = &f.accept->message;
    assert_true(str_equal(m->tags_json, STR("[\"a\",\"b\\\"\"]")));
    assert_true(str_equal(m->metadata_json, STR("{\"k\":\"v\"}")));
    assert_true(str_equal(m->from_name, STR("Acme")));
    assert_true(str_equal(m->from_domain, STR("acme.test")));
    assert_true(str_equal(m->mail_from, STR("a@acme.test")));
    assert_int_equal(m->expires_wall_ms, f.in.now_wall_ms + 7000);
    assert_int_equal(m->tls, TLS_VERIFY);
    assert_int_equal(m->size_bytes, message_size(f.accept->content));
    assert_true(str_ends_with(m->message_id, STR("@acme.test>")));
    assert_int_equal(f.accept->idempotency_until_wall_ms, f.in.now_wall_ms + 5000);
    assert_true(str_equal(f.accept->idempotency_key, STR("key")));
    end(&f);
}

static void test_reverse_path(void **state) {
    (void)state;
    static const struct {
        const char *from, *sender, *want;
    } rows[] = {{"a@acme.test", NULL, "a@acme.test"},
                {"a@acme.test", "s@acme.test", "s@acme.test"},
                {"a@bounce.test", NULL, "b@bounce.test"},
                {"a@acme.test", "s@bounce.test", "b@bounce.test"},
                {"a@bounce.test", "s@acme.test", "s@acme.test"},
                {"a@taking.test", NULL, "a@taking.test"},
                {"a@acme.test", "s@taking.test", "s@taking.test"}};
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct fixture f;
        struct intake_settings s = settings_of();
        begin(&f, &s, rows[i].from, "b@c.test");
        if (rows[i].sender != NULL)
            assert_int_equal(address_parse(&f.s.sender, str_of(rows[i].sender), f.arena, NULL), OK);
        submit(&f);
        assert_int_equal(f.result, SUBMIT_OK);
        assert_true(str_equal(f.accept->message.mail_from, str_of(rows[i].want)));
        end(&f);
    }
}

/* T11: the reverse-path is the Sender's, so the Sender's domain is asked for like From's. */
static void test_T11_a_sender_wants_a_verified_domain_like_from(void **state) {
    (void)state;
    static const struct {
        const char *sender, *code; /* NULL: accepted */
    } rows[] = {{"s@acme.test", NULL},
                {"s@bounce.test", NULL},
                {"s@stranger.test", "domain_unknown"},
                {"s@sub.acme.test", "domain_unknown"},
                {"s@new.test", "domain_not_verified"}};
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct fixture f;
        struct intake_settings s = settings_of();
        begin(&f, &s, "a@acme.test", "b@c.test");
        f.s.route = STR("direct");
        assert_int_equal(address_parse(&f.s.sender, str_of(rows[i].sender), f.arena, NULL), OK);
        submit(&f);
        assert_int_equal(f.result, rows[i].code == NULL ? SUBMIT_OK : SUBMIT_INVALID);
        assert_int_equal(f.faults.count, rows[i].code == NULL ? 0 : 1);
        if (rows[i].code != NULL) {
            assert_string_equal(f.faults.list[0].code, rows[i].code);
            assert_true(str_equal(f.faults.list[0].pointer, STR("#/sender")));
        }
        end(&f);
        begin(&f, &s, "a@acme.test", "b@c.test"); /* a smarthost that does not ask */
        assert_int_equal(address_parse(&f.s.sender, str_of(rows[i].sender), f.arena, NULL), OK);
        submit(&f);
        assert_int_equal(f.result, SUBMIT_OK);
        end(&f);
    }
}

static void test_limits(void **state) {
    struct fixture f;
    struct intake_settings s = settings_of();
    (void)state;
    begin(&f, &s, "a@acme.test", "b@c.test");
    f.s.expires_in_ms = 2000001;
    submit(&f);
    assert_int_equal(f.result, SUBMIT_INVALID);
    assert_true(str_equal(f.faults.list[0].pointer, STR("#/expires_in")));
    end(&f);
    begin(&f, &s, "a@acme.test", "b@c.test");
    f.s.expires_in_ms = INT64_MAX;
    submit(&f);
    assert_int_equal(f.result, SUBMIT_INVALID);
    assert_int_equal(f.faults.count, 1);
    assert_true(str_equal(f.faults.list[0].detail, STR("at most 2000 seconds on this server")));
    end(&f);
    s.limits.message_bytes_max = 100;
    begin(&f, &s, "a@acme.test", "b@c.test");
    submit(&f);
    assert_int_equal(f.result, SUBMIT_TOO_LARGE);
    end(&f);
    s = settings_of();
    begin(&f, &s, "a@acme.test", "b@c.test");
    struct str rule = STR("other.test");
    f.in.rights.from_domains = &rule;
    f.in.rights.from_domain_count = 1;
    submit(&f);
    assert_int_equal(f.result, SUBMIT_FORBIDDEN);
    end(&f);
}

static void test_settings_that_cannot_be(void **state) {
    (void)state;
    static struct str bad[] = {{"not an address@", 15}};
    struct intake *in = NULL;
    struct errinfo info = {0};
    struct intake_settings s = settings_of();
    s.only_to = (struct str_list){bad, 1};
    assert_int_equal(intake_new(&s, &in, &info), ERR_INVALID);
    assert_string_equal(info.field, "only_to");
    s = settings_of();
    s.redirect_to = STR("nobody");
    assert_int_equal(intake_new(&s, &in, &info), ERR_INVALID);
    assert_string_equal(info.field, "redirect_to");
    s = settings_of();
    s.default_route = STR("nope");
    assert_int_equal(intake_new(&s, &in, &info), ERR_INVALID);
    assert_string_equal(info.field, "route");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_routes_and_verified_domains),
        cmocka_unit_test(test_all_that_depends_on_the_server_is_told_at_once),
        cmocka_unit_test(test_without_routes_mail_goes_by_mx),
        cmocka_unit_test(test_one_mailbox_gets_one_copy),
        cmocka_unit_test(test_staging_lets_only_listed_recipients_through),
        cmocka_unit_test(test_staging_redirects_every_envelope),
        cmocka_unit_test(test_what_goes_again_passes_what_a_submission_passes),
        cmocka_unit_test(test_T11_what_goes_again_wants_the_senders_domain_verified),
        cmocka_unit_test(test_row_says_what_was_asked_for),
        cmocka_unit_test(test_reverse_path),
        cmocka_unit_test(test_T11_a_sender_wants_a_verified_domain_like_from),
        cmocka_unit_test(test_limits),
        cmocka_unit_test(test_settings_that_cannot_be),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
