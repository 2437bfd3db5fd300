/* What happened to an attempt becomes what is done about it: a corpus of replies, and the failures.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "server/base/buf.h"
#include "server/mail/outcome.h"

static const char *const scopes[] = {"recipient", "message", "session", "host", "site"};

static enum stage stage_of(struct str name, size_t *accepted) {
    *accepted = 0;
    if (str_ends_with(name, STR("+1"))) {
        *accepted = 1;
        name = str_slice(name, 0, name.n - 2);
    }
    for (int s = 0; s < STAGE_COUNT; s++)
        if (str_equal(name, str_of(stage_name((enum stage)s))))
            return (enum stage)s;
    fail_msg("no stage %.*s", STR_ARG(name));
    return STAGE_COUNT;
}

/* Through the parser, as it comes from the wire. */
static void parse(struct reply_parser *p, struct str text, struct reply *r) {
    struct buf wire = BUF_INIT(8192);
    for (size_t i = 0; i < text.n; i++) {
        if (text.p[i] == '\\' && i + 1 < text.n && text.p[i + 1] == 'n') {
            buf_putz(&wire, "\r\n");
            i++;
        } else {
            buf_putc(&wire, text.p[i]);
        }
    }
    buf_putz(&wire, "\r\n");
    struct str in = buf_str(&wire);
    if (reply_parse(p, &in, r, NULL) != OK || in.n != 0)
        fail_msg("not a reply: %.*s", STR_ARG(text));
    buf_release(&wire);
}

/* Whom the answer blames: what a list of suppressed recipients may be made from. */
static bool is_about_recipient(const struct verdict *v, enum stage stage) {
    switch (v->class_) {
    case CLASS_INVALID_RECIPIENT:
    case CLASS_INVALID_DOMAIN:
    case CLASS_INACTIVE:
    case CLASS_MAILBOX_FULL:
        return true;
    case CLASS_OTHER:
        return stage >= STAGE_RCPT && v->scope == SCOPE_RECIPIENT;
    default:
        return false;
    }
}

static size_t check_row(struct str line) {
    struct str provider = str_split(&line, '\t');
    size_t accepted = 0;
    enum stage stage = stage_of(str_split(&line, '\t'), &accepted);
    struct str text = str_split(&line, '\t'), action = str_split(&line, '\t');
    struct str class_ = str_split(&line, '\t'), hard = str_split(&line, '\t');
    struct reply reply;
    struct reply_parser *p = reply_parser_new();
    parse(p, text, &reply);
    struct outcome_input in = {.stage = stage, .reply = &reply, .rcpt_accepted_before = accepted};
    struct verdict v = outcome_judge(&in);
    bool ok = str_equal(action, str_of(verdict_action_name(v.action))) &&
              str_equal(class_, str_of(verdict_class_name(v.class_))) &&
              str_equal(hard, v.is_hard ? STR("hard") : STR("soft")) &&
              str_equal(line, str_of(scopes[v.scope])) &&
              v.is_about_recipient == is_about_recipient(&v, stage);
    if (!ok)
        print_error("%.*s %s: %.*s\n  is %s %s %s %s instead of %.*s %.*s %.*s %.*s\n",
                    STR_ARG(provider), stage_name(stage), STR_ARG(text),
                    verdict_action_name(v.action), verdict_class_name(v.class_),
                    v.is_hard ? "hard" : "soft", scopes[v.scope], STR_ARG(action), STR_ARG(class_),
                    STR_ARG(hard), STR_ARG(line));
    reply_parser_free(&p);
    return ok ? 0 : 1;
}

static void test_the_corpus_of_replies(void **state) {
    (void)state;
    char line[8192];
    size_t rows = 0, wrong = 0;
    FILE *f = fopen("tests/unit/mail/replies.tsv", "r");
    assert_non_null(f);
    while (fgets(line, sizeof(line), f)) {
        if (line[0] == '#')
            continue;
        rows++;
        wrong += check_row(str_trim(str_of(line)));
    }
    fclose(f);
    assert_true(rows >= 150);
    if (wrong > 0)
        fail_msg("%zu of %zu rows", wrong, rows);
}

/* ---- our login at a smarthost ---- */

static const struct login_row {
    const char *name, *reply;
    enum stage stage;
    bool is_smarthost;
    enum verdict_action action;
    enum verdict_class class_;
    bool is_our_login;
} login_rows[] = {
    {"a wrong password", "535 5.7.8 Error: authentication failed", STAGE_AUTH, true,
     VERDICT_DEFERRED, CLASS_AUTHENTICATION, true},
    {"a bare refusal", "535 no", STAGE_AUTH, true, VERDICT_DEFERRED, CLASS_AUTHENTICATION, true},
    {"a mechanism that is too weak", "534 5.7.9 mechanism is too weak", STAGE_AUTH, true,
     VERDICT_DEFERRED, CLASS_AUTHENTICATION, true},
    {"an account that is closed", "550 5.7.1 account disabled", STAGE_AUTH, true, VERDICT_DEFERRED,
     CLASS_AUTHENTICATION, true},
    {"its database is away", "454 4.7.0 Temporary authentication failure", STAGE_AUTH, true,
     VERDICT_DEFERRED, CLASS_AUTHENTICATION, false},
    {"too many logins", "421 4.7.0 Too many connections, try again later", STAGE_AUTH, true,
     VERDICT_DEFERRED, CLASS_RATE_LIMITED, false},
    {"our address is listed", "554 5.7.1 Service unavailable; blocked using zen.spamhaus.org",
     STAGE_AUTH, true, VERDICT_DEFERRED, CLASS_BLOCKLIST, false},
    {"it wants a login", "530 5.7.0 Authentication required", STAGE_MAIL, true, VERDICT_DEFERRED,
     CLASS_AUTHENTICATION, true},
    {"it wants a login at RCPT", "530 5.7.0 Authentication required", STAGE_RCPT, true,
     VERDICT_DEFERRED, CLASS_AUTHENTICATION, true},
    {"an MX host that wants one refuses the message", "530 5.7.0 Authentication required",
     STAGE_MAIL, false, VERDICT_BOUNCED, CLASS_POLICY, false},
};

static void test_a_refused_login_is_never_the_messages_fault(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof(login_rows) / sizeof(login_rows[0]); i++) {
        const struct login_row *row = &login_rows[i];
        struct reply reply;
        struct reply_parser *p = reply_parser_new();
        parse(p, str_of(row->reply), &reply);
        struct outcome_input in = {
            .stage = row->stage, .reply = &reply, .is_smarthost = row->is_smarthost};
        struct verdict v = outcome_judge(&in);
        if (v.action != row->action || v.class_ != row->class_ ||
            v.is_our_login != row->is_our_login || v.is_about_recipient)
            fail_msg("%s: %s %s %d", row->name, verdict_action_name(v.action),
                     verdict_class_name(v.class_), v.is_our_login);
        if (row->is_smarthost) { /* another smarthost may be asked, as long as there is one */
            assert_true(v.try_next_host && !v.is_hard);
            in.is_last_host = true;
            assert_false(outcome_judge(&in).try_next_host);
        }
        reply_parser_free(&p);
    }
}

/* ---- failures ---- */

static struct verdict judge(enum stage s, enum failure f, struct outcome_input in) {
    in.stage = s;
    in.failure = f;
    return outcome_judge(&in);
}

static const struct failure_row {
    enum failure failure;
    enum stage stage;
    struct outcome_input in;
    enum verdict_action action;
    enum verdict_class class_;
    enum verdict_scope scope;
    bool is_hard, counts, try_next;
} failure_rows[] = {
#define FIRST                                                                                      \
    { 0 }
#define LAST                                                                                       \
    { .is_last_host = true }
#define EVERY                                                                                      \
    { .is_last_host = true, .is_every_host = true }
    {FAILURE_DNS_TEMPORARY, STAGE_RESOLVE, FIRST, VERDICT_DEFERRED, CLASS_DNS, SCOPE_SITE, false,
     true, false},
    {FAILURE_DNS_NXDOMAIN, STAGE_RESOLVE, FIRST, VERDICT_DEFERRED, CLASS_INVALID_DOMAIN,
     SCOPE_RECIPIENT, false, true, false},
    {FAILURE_DNS_NXDOMAIN,
     STAGE_RESOLVE,
     {.earlier_nxdomain = 1},
     VERDICT_BOUNCED,
     CLASS_INVALID_DOMAIN,
     SCOPE_RECIPIENT,
     true,
     true,
     false},
    {FAILURE_DNS_NXDOMAIN,
     STAGE_RESOLVE,
     {.earlier_nxdomain = 9, .is_smarthost = true},
     VERDICT_DEFERRED,
     CLASS_DNS,
     SCOPE_SITE,
     false,
     true,
     false},
    {FAILURE_DNS_NO_ADDRESS, STAGE_RESOLVE, FIRST, VERDICT_DEFERRED, CLASS_INVALID_DOMAIN,
     SCOPE_RECIPIENT, false, true, false},
    {FAILURE_DNS_NO_ADDRESS,
     STAGE_RESOLVE,
     {.earlier_nxdomain = 1},
     VERDICT_BOUNCED,
     CLASS_INVALID_DOMAIN,
     SCOPE_RECIPIENT,
     true,
     true,
     false},
    {FAILURE_DNS_PRIVATE,
     STAGE_RESOLVE,
     {.earlier_nxdomain = 1},
     VERDICT_DEFERRED,
     CLASS_DNS,
     SCOPE_SITE,
     false,
     true,
     false},
    {FAILURE_DNS_PRIVATE,
     STAGE_RESOLVE,
     {.is_literal = true},
     VERDICT_BOUNCED,
     CLASS_INVALID_DOMAIN,
     SCOPE_RECIPIENT,
     true,
     true,
     false},
    {FAILURE_DNS_NXDOMAIN,
     STAGE_RESOLVE,
     {.is_literal = true},
     VERDICT_BOUNCED,
     CLASS_INVALID_DOMAIN,
     SCOPE_RECIPIENT,
     true,
     true,
     false},
    {FAILURE_DNS_NULL_MX, STAGE_RESOLVE, FIRST, VERDICT_BOUNCED, CLASS_INVALID_DOMAIN,
     SCOPE_RECIPIENT, true, true, false},
    {FAILURE_DNS_BOGUS, STAGE_RESOLVE, LAST, VERDICT_DEFERRED, CLASS_DNS, SCOPE_SITE, false, true,
     false},
    {FAILURE_DNS_BOGUS, STAGE_CONNECT, FIRST, VERDICT_DEFERRED, CLASS_DNS, SCOPE_SITE, false, true,
     true},
    {FAILURE_DNS_LOOP, STAGE_RESOLVE, FIRST, VERDICT_FAILED, CLASS_DNS, SCOPE_SITE, false, true,
     false},
    {FAILURE_DNS_LOOP,
     STAGE_RESOLVE,
     {.is_smarthost = true},
     VERDICT_DEFERRED,
     CLASS_DNS,
     SCOPE_SITE,
     false,
     true,
     false},
    {FAILURE_CONNECT_REFUSED, STAGE_CONNECT, FIRST, VERDICT_DEFERRED, CLASS_NETWORK, SCOPE_HOST,
     false, true, true},
    {FAILURE_CONNECT_REFUSED, STAGE_CONNECT, LAST, VERDICT_DEFERRED, CLASS_NETWORK, SCOPE_HOST,
     false, true, false},
    {FAILURE_CONNECT_TIMEOUT, STAGE_CONNECT, FIRST, VERDICT_DEFERRED, CLASS_NETWORK, SCOPE_HOST,
     false, true, true},
    {FAILURE_CONNECT_UNREACHABLE, STAGE_CONNECT, FIRST, VERDICT_DEFERRED, CLASS_NETWORK, SCOPE_HOST,
     false, true, true},
    {FAILURE_CONNECT_FORBIDDEN, STAGE_CONNECT, LAST, VERDICT_DEFERRED, CLASS_NETWORK, SCOPE_HOST,
     false, true, false},
    {FAILURE_CLOSED, STAGE_GREETING, FIRST, VERDICT_DEFERRED, CLASS_NETWORK, SCOPE_HOST, false,
     true, true},
    {FAILURE_CLOSED, STAGE_TLS, FIRST, VERDICT_DEFERRED, CLASS_NETWORK, SCOPE_HOST, false, true,
     true},
    {FAILURE_CLOSED, STAGE_MAIL, FIRST, VERDICT_DEFERRED, CLASS_NETWORK, SCOPE_SESSION, false, true,
     true},
    {FAILURE_CLOSED, STAGE_BODY, FIRST, VERDICT_DEFERRED, CLASS_NETWORK, SCOPE_SESSION, false, true,
     false},
    /* C18: it may have been taken; asking another host at once makes duplicates */
    {FAILURE_CLOSED, STAGE_END, FIRST, VERDICT_DEFERRED, CLASS_NETWORK, SCOPE_SESSION, false, true,
     false},
    {FAILURE_TIMEOUT, STAGE_END, FIRST, VERDICT_DEFERRED, CLASS_NETWORK, SCOPE_SESSION, false, true,
     false},
    {FAILURE_TOO_SLOW, STAGE_BODY, FIRST, VERDICT_DEFERRED, CLASS_NETWORK, SCOPE_SESSION, false,
     true, false},
    {FAILURE_TLS_NOT_OFFERED, STAGE_EHLO, FIRST, VERDICT_DEFERRED, CLASS_TLS, SCOPE_HOST, false,
     true, true},
    {FAILURE_TLS_HANDSHAKE, STAGE_TLS, FIRST, VERDICT_DEFERRED, CLASS_TLS, SCOPE_HOST, false, true,
     true},
    {FAILURE_TLS_HANDSHAKE, STAGE_TLS, LAST, VERDICT_DEFERRED, CLASS_TLS, SCOPE_HOST, false, true,
     false},
    {FAILURE_TLS_UNTRUSTED, STAGE_TLS, FIRST, VERDICT_DEFERRED, CLASS_TLS, SCOPE_HOST, false, true,
     true},
    {FAILURE_TLS_NAME, STAGE_TLS, FIRST, VERDICT_DEFERRED, CLASS_TLS, SCOPE_HOST, false, true,
     true},
    {FAILURE_NO_IPV6, STAGE_RESOLVE, FIRST, VERDICT_DEFERRED, CLASS_NETWORK, SCOPE_HOST, false,
     true, true},
    {FAILURE_TLS_PIN, STAGE_TLS, FIRST, VERDICT_DEFERRED, CLASS_TLS, SCOPE_HOST, false, true, true},
    {FAILURE_TLS_EXPIRED, STAGE_TLS, FIRST, VERDICT_DEFERRED, CLASS_TLS, SCOPE_HOST, false, true,
     true},
    {FAILURE_TLS_INJECTION, STAGE_STARTTLS, FIRST, VERDICT_DEFERRED, CLASS_TLS, SCOPE_HOST, false,
     true, true},
    {FAILURE_PROTOCOL, STAGE_RCPT, FIRST, VERDICT_DEFERRED, CLASS_PROTOCOL, SCOPE_HOST, false, true,
     true},
    {FAILURE_CHUNKING, STAGE_DATA, FIRST, VERDICT_DEFERRED, CLASS_PROTOCOL, SCOPE_SESSION, false,
     false, false},
    {FAILURE_NEEDS_SMTPUTF8, STAGE_MAIL, FIRST, VERDICT_DEFERRED, CLASS_PROTOCOL, SCOPE_RECIPIENT,
     false, true, true},
    {FAILURE_NEEDS_SMTPUTF8, STAGE_MAIL, LAST, VERDICT_DEFERRED, CLASS_PROTOCOL, SCOPE_RECIPIENT,
     false, true, false},
    {FAILURE_NEEDS_SMTPUTF8, STAGE_MAIL, EVERY, VERDICT_BOUNCED, CLASS_PROTOCOL, SCOPE_RECIPIENT,
     true, true, false},
    {FAILURE_TOO_LARGE, STAGE_MAIL, FIRST, VERDICT_BOUNCED, CLASS_TOO_LARGE, SCOPE_MESSAGE, true,
     true, false},
    {FAILURE_AUTH_UNAVAILABLE, STAGE_AUTH, FIRST, VERDICT_DEFERRED, CLASS_AUTHENTICATION,
     SCOPE_HOST, false, true, true},
    {FAILURE_AUTH_UNAVAILABLE, STAGE_AUTH, LAST, VERDICT_DEFERRED, CLASS_AUTHENTICATION, SCOPE_HOST,
     false, true, false},
    {FAILURE_LOCAL, STAGE_CONNECT, FIRST, VERDICT_DEFERRED, CLASS_OTHER, SCOPE_SESSION, false,
     false, false},
    {FAILURE_LOCAL, STAGE_MAIL, FIRST, VERDICT_FAILED, CLASS_OTHER, SCOPE_MESSAGE, true, true,
     false},
    {FAILURE_SHORT, STAGE_CONNECT, FIRST, VERDICT_DEFERRED, CLASS_OTHER, SCOPE_SESSION, false,
     false, false},
    {FAILURE_SHORT, STAGE_MAIL, FIRST, VERDICT_DEFERRED, CLASS_OTHER, SCOPE_SESSION, false, false,
     false},
    {FAILURE_SHORT, STAGE_END, FIRST, VERDICT_DEFERRED, CLASS_OTHER, SCOPE_SESSION, false, false,
     false},
    {FAILURE_SHUTDOWN, STAGE_BODY, FIRST, VERDICT_DEFERRED, CLASS_OTHER, SCOPE_SESSION, false,
     false, false},
};

static void test_failures(void **state) {
    (void)state;
    bool seen[FAILURE_COUNT] = {[FAILURE_NONE] = true};
    for (size_t i = 0; i < sizeof(failure_rows) / sizeof(failure_rows[0]); i++) {
        const struct failure_row *r = &failure_rows[i];
        struct verdict v = judge(r->stage, r->failure, r->in);
        seen[r->failure] = true;
        if (v.action != r->action || v.class_ != r->class_ || v.scope != r->scope ||
            v.is_hard != r->is_hard || v.counts != r->counts || v.try_next_host != r->try_next ||
            v.retry_at_once != (r->failure == FAILURE_CHUNKING))
            fail_msg("row %zu, %s at %s: %s %s %s hard %d counts %d next %d", i,
                     failure_name(r->failure), stage_name(r->stage), verdict_action_name(v.action),
                     verdict_class_name(v.class_), scopes[v.scope], v.is_hard, v.counts,
                     v.try_next_host);
    }
    for (int f = 0; f < FAILURE_COUNT; f++)
        if (!seen[f])
            fail_msg("no row for %s", failure_name((enum failure)f));
}

/* ---- what depends on the rest of the input ---- */

static struct verdict judge_text(const char *text, struct outcome_input in) {
    struct reply r;
    struct reply_parser *p = reply_parser_new();
    parse(p, str_of(text), &r);
    in.reply = &r;
    struct verdict v = outcome_judge(&in);
    reply_parser_free(&p);
    return v;
}

static void test_C20_the_others_go_at_once_and_nothing_is_counted(void **state) {
    (void)state;
    static const char *const full[] = {"452", "452 4.5.3 too many", "552", "552 5.5.3 x"};
    for (size_t i = 0; i < 4; i++) {
        struct verdict v = judge_text(
            full[i], (struct outcome_input){.stage = STAGE_RCPT, .rcpt_accepted_before = 7});
        assert_int_equal(v.action, VERDICT_DEFERRED);
        assert_true(v.retry_at_once);
        assert_false(v.counts);
        v = judge_text(full[i], (struct outcome_input){.stage = STAGE_RCPT});
        assert_false(v.retry_at_once); /* no recipient fits: at once would be for ever */
        assert_true(v.counts);
    }
}

static void test_a_refused_source_is_deferred_while_there_is_another(void **state) {
    (void)state;
    const char *listed = "554 5.7.1 Client host [192.0.2.1] blocked using zen.spamhaus.org";
    struct verdict v =
        judge_text(listed, (struct outcome_input){.stage = STAGE_RCPT, .has_other_source = true});
    assert_int_equal(v.action, VERDICT_DEFERRED);
    assert_int_equal(v.class_, CLASS_BLOCKLIST);
    v = judge_text(listed, (struct outcome_input){.stage = STAGE_RCPT});
    assert_int_equal(v.action, VERDICT_BOUNCED);
    assert_int_equal(v.scope, SCOPE_SITE);
    assert_false(v.is_about_recipient);
}

static void test_a_refused_greeting_goes_to_the_next_mx(void **state) {
    (void)state;
    const char *listed = "554 192.0.2.1 is listed at zen.spamhaus.org", *plain = "554 no";
    struct verdict v = judge_text(listed, (struct outcome_input){.stage = STAGE_GREETING});
    assert_true(v.try_next_host);
    assert_int_equal(v.action, VERDICT_DEFERRED);
    v = judge_text(listed, (struct outcome_input){.stage = STAGE_GREETING, .is_last_host = true});
    assert_true(v.wants_every_host && !v.try_next_host);
    assert_int_equal(v.action, VERDICT_DEFERRED);
    v = judge_text(listed, (struct outcome_input){.stage = STAGE_GREETING,
                                                  .is_last_host = true,
                                                  .is_every_host = true});
    assert_false(v.try_next_host);
    assert_int_equal(v.action, VERDICT_BOUNCED);
    assert_int_equal(v.class_, CLASS_BLOCKLIST);
    v = judge_text(listed, (struct outcome_input){.stage = STAGE_GREETING,
                                                  .is_last_host = true,
                                                  .is_every_host = true,
                                                  .has_other_source = true});
    assert_int_equal(v.action, VERDICT_DEFERRED);
    v = judge_text(plain, (struct outcome_input){.stage = STAGE_GREETING,
                                                 .is_last_host = true,
                                                 .is_every_host = true});
    assert_int_equal(v.action, VERDICT_DEFERRED);
}

static void test_421_moves_on_until_the_message_is_under_way(void **state) {
    (void)state;
    const char *closing = "421 4.3.2 shutting down";
    assert_true(judge_text(closing, (struct outcome_input){.stage = STAGE_RCPT}).try_next_host);
    assert_false(judge_text(closing, (struct outcome_input){.stage = STAGE_END}).try_next_host);
    assert_false(
        judge_text(closing, (struct outcome_input){.stage = STAGE_RCPT, .is_last_host = true})
            .try_next_host);
    /* any other refusal of a transaction is the site's: its other hosts would say the same */
    static const char *const others[] = {"451 4.3.2 later", "550 5.7.1 no", "452 4.2.2 full"};
    for (size_t i = 0; i < sizeof(others) / sizeof(others[0]); i++) {
        assert_false(
            judge_text(others[i], (struct outcome_input){.stage = STAGE_MAIL}).try_next_host);
        assert_false(
            judge_text(others[i], (struct outcome_input){.stage = STAGE_RCPT}).try_next_host);
    }
}

static void test_a_failure_of_the_dns_has_the_code_that_a_server_would_give(void **state) {
    (void)state;
    static const struct {
        enum failure f;
        const char *permanent, *passing;
    } rows[] = {
        {FAILURE_DNS_NULL_MX, "5.1.10", "4.1.10"},  {FAILURE_DNS_NXDOMAIN, "5.1.2", "4.1.2"},
        {FAILURE_DNS_NO_ADDRESS, "5.1.2", "4.1.2"}, {FAILURE_DNS_TEMPORARY, "5.4.3", "4.4.3"},
        {FAILURE_DNS_BOGUS, "5.4.3", "4.4.3"},      {FAILURE_DNS_LOOP, "5.4.6", "4.4.6"},
        {FAILURE_CONNECT_REFUSED, "", ""},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        char out[16];
        failure_print_enhanced(rows[i].f, true, out);
        assert_string_equal(out, rows[i].permanent);
        failure_print_enhanced(rows[i].f, false, out);
        assert_string_equal(out, rows[i].passing);
    }
}

static void test_names(void **state) {
    (void)state;
    enum verdict_class c;
    for (int i = 0; i < CLASS_COUNT; i++) {
        assert_int_equal(verdict_class_parse(str_of(verdict_class_name((enum verdict_class)i)), &c),
                         OK);
        assert_int_equal(c, i);
    }
    assert_int_equal(verdict_class_parse(STR("nonsense"), &c), ERR_INVALID);
    for (int i = 0; i < FAILURE_COUNT; i++)
        assert_true(failure_name((enum failure)i)[0] && failure_text((enum failure)i)[0]);
    assert_string_equal(verdict_scope_name(SCOPE_RECIPIENT), "recipient");
    assert_string_equal(verdict_scope_name(SCOPE_SITE), "infrastructure");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_corpus_of_replies),
        cmocka_unit_test(test_a_refused_login_is_never_the_messages_fault),
        cmocka_unit_test(test_failures),
        cmocka_unit_test(test_C20_the_others_go_at_once_and_nothing_is_counted),
        cmocka_unit_test(test_a_refused_source_is_deferred_while_there_is_another),
        cmocka_unit_test(test_a_refused_greeting_goes_to_the_next_mx),
        cmocka_unit_test(test_421_moves_on_until_the_message_is_under_way),
        cmocka_unit_test(test_a_failure_of_the_dns_has_the_code_that_a_server_would_give),
        cmocka_unit_test(test_names),
    };
    return cmocka_run_group_tests_name("outcome", tests, NULL, NULL);
}
