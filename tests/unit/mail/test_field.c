#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "server/base/limits.h"
#include "server/mail/field.h"

static void structural_names_are_reserved_and_say_what_to_use(void **state) {
    (void)state;
    static const struct {
        const char *name;
        bool reserved;
        const char *says;
    } rows[] = {
        {"From", true, "'from'"},
        {"fRoM", true, "'from'"},
        {"To", true, "'to'"},
        {"Cc", true, "'cc'"},
        {"Bcc", true, "'bcc'"},
        {"Subject", true, "'subject'"},
        {"Sender", true, "'sender'"},
        {"Reply-To", true, "'reply_to'"},
        {"In-Reply-To", true, "'in_reply_to'"},
        {"References", true, "'references'"},
        {"Return-Path", true, "bounce address"},
        {"Date", true, "relay"},
        {"Message-ID", true, "relay"},
        {"MIME-Version", true, "relay"},
        {"MIME-Anything", true, "relay"},
        {"Content-Type", true, "'attachments'"},
        {"CONTENT-TRANSFER-ENCODING", true, "relay"},
        {"DKIM-Signature", true, "keys"},
        {"DomainKey-Signature", true, "keys"},
        {"Received", true, "servers"},
        {"Received-SPF", true, "servers"},
        {"ARC-Seal", true, "servers"},
        {"Authentication-Results", true, "servers"},
        {"Delivered-To", true, "servers"},
        {"Resent-From", true, "resent"},
        {"Resent-Bcc", true, "resent"},
        {"Apparently-To", true, "'to'"},
        {"Fromm", false, NULL},
        {"X-From", false, NULL},
        {"X-Content-Type", false, NULL},
        {"List-Unsubscribe", false, NULL},
        {"Auto-Submitted", false, NULL},
        {"Dates", false, NULL},
        {"Tooo", false, NULL},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const struct field_rule *r = field_rule_of(str_of(rows[i].name));
        if ((r->instead != NULL) != rows[i].reserved ||
            (r->instead && !strstr(r->instead, rows[i].says)))
            fail_msg("%s: %s", rows[i].name, r->instead ? r->instead : "not reserved");
    }
}

static void test_M26_M27_M28_list_fields_have_their_syntax(void **state) {
    (void)state;
    static const struct {
        const char *name, *value;
        bool ok;
    } rows[] = {
        {"List-Unsubscribe", "<https://example.com/u?x=1>", true},
        {"List-Unsubscribe", "<https://example.com/u>, <mailto:u@example.com?subject=x>", true},
        {"List-Unsubscribe", "<https://a.example/>,<mailto:b@example.com>", true},
        {"List-Unsubscribe", " <https://a.example/> , <https://b.example/> ", true},
        {"List-Unsubscribe", "https://example.com/u", false},
        {"List-Unsubscribe", "<https://example.com/a b>", false},
        {"List-Unsubscribe", "<https://example.com/\ta>", false},
        {"List-Unsubscribe", "<>", false},
        {"List-Unsubscribe", "<example.com/u>", false},
        {"List-Unsubscribe", "<:x>", false},
        {"List-Unsubscribe", "<1a:x>", false},
        {"List-Unsubscribe", "<https://b\xc3\xbc.example/>", false},
        {"List-Unsubscribe", "<https://a.example/> trailing", false},
        {"List-Unsubscribe", "<https://a.example/", false},
        {"List-Unsubscribe", "<a<b:c>", false},
        {"List-Unsubscribe", "NO", false},
        {"List-Unsubscribe", "", false},
        {"List-Post", "NO", true},
        {"List-Post", "<mailto:list@example.com>", true},
        {"List-Help", "see our site", false},
        {"List-Unsubscribe-Post", "List-Unsubscribe=One-Click", true},
        {"List-Unsubscribe-Post", "List-Unsubscribe=one-click", false},
        {"List-Unsubscribe-Post", "", false},
        {"List-Id", "<news.example.com>", true},
        {"List-Id", "Our N\xc3\xa9ws <news.example.com>", true},
        {"List-Id", "news.example.com", false},
        {"List-Id", "<news example.com>", false},
        {"List-Id", "<>", false},
        {"List-Id", "<a@b>", false},
        {"List-Id", "<n\xc3\xa9ws.example.com>", false},
        {"X-Anything", "whatever <you> like", true},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const char *fault =
            field_value_fault(field_rule_of(str_of(rows[i].name)), str_of(rows[i].value));
        if ((fault == NULL) != rows[i].ok)
            fail_msg("%s: %s: %s", rows[i].name, rows[i].value, fault ? fault : "accepted");
    }
    /* the longest id, and one more */
    char id[300];
    memset(id, 'a', sizeof id);
    id[0] = '<';
    id[256] = '>';
    assert_null(field_value_fault(field_rule_of(STR("List-ID")), str_make(id, 257)));
    id[256] = 'a';
    id[257] = '>';
    assert_non_null(field_value_fault(field_rule_of(STR("List-ID")), str_make(id, 258)));
}

static void test_M1_a_uri_fits_on_a_line(void **state) {
    (void)state;
    char uri[1100];
    memset(uri, 'a', sizeof uri);
    memcpy(uri, "<https:", 7);
    uri[995] = '>';
    assert_null(field_value_fault(field_rule_of(STR("List-Help")), str_make(uri, 996)));
    uri[995] = 'a';
    uri[997] = '>';
    assert_non_null(field_value_fault(field_rule_of(STR("List-Help")), str_make(uri, 998)));
}

static void message_ids_are_those_seen_in_mail(void **state) {
    (void)state;
    static const struct {
        const char *in;
        bool want;
    } rows[] = {
        {"<a@b>", true},
        {"<0193f3a2-7c4e-7aaa-8bbb-0123456789ab@acme.test>", true},
        {"<CAB+x=y_z@mail.gmail.com>", true},
        {"<!&!AAAAAAAAAAAYAAAAAAAA=@example.com>", true},
        {"<a..b@example.com>", true},
        {"<a:b@example.com>", true},
        {"<a@[192.0.2.1]>", true},
        {"", false},
        {"a@b", false},
        {"<a@b", false},
        {"a@b>", false},
        {"<ab>", false},
        {"<@b>", false},
        {"<a@>", false},
        {"<a@b@c>", false},
        {"<a b@c>", false},
        {"<a@b> <c@d>", false},
        {"<<a@b>>", false},
        {"<a@b>\r\nBcc: x", false},
        {"<a\r\n@b>", false},
        {"<a\t@b>", false},
        {"<\"a\"@b>", false},
        {"<a(c)@b>", false},
        {"<a,b@c>", false},
        {"<j\xc3\xb6rg@b>", false},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        if (field_is_message_id(str_of(rows[i].in)) != rows[i].want)
            fail_msg("%s", rows[i].in);
    }
    assert_false(field_is_message_id(STR("<a\0@b>")));
    assert_false(field_is_message_id(STR_NONE));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(structural_names_are_reserved_and_say_what_to_use),
        cmocka_unit_test(test_M26_M27_M28_list_fields_have_their_syntax),
        cmocka_unit_test(test_M1_a_uri_fits_on_a_line),
        cmocka_unit_test(message_ids_are_those_seen_in_mail),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
