#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "server/mail/submission.h"
#include "tests/unit/mail/with_arena.h"

/* A submission with every field set, and room to change each. */
struct full {
    struct submission s;
    struct address to[2], cc[1], bcc[1], reply_to[1];
    struct attachment attachments[2];
    struct header_field headers[3];
    struct str tags[2], references[2];
    struct pair metadata[2];
};

static const struct submission_limits limits = {.recipients_max = 10,
                                                .message_bytes_max = 1024 * 1024};

static struct address address(const char *text) {
    struct address a;
    assert_int_equal(address_parse_named(&a, str_of(text), arena, NULL), OK);
    return a;
}

static void fill(struct full *f) {
    *f = (struct full){
        .to = {address("Ann <ann@example.net>"), address("bob@example.net")},
        .cc = {address("Cy <cy@example.net>")},
        .bcc = {address("Di <di@example.net>")},
        .reply_to = {address("Re <re@example.net>")},
        .attachments = {{.filename = STR("a.pdf"),
                         .content_type = STR("application/pdf"),
                         .content = STR("x")},
                        {.filename = STR("b.png"),
                         .content_type = STR("image/png"),
                         .content = STR("y"),
                         .cid = STR("logo")}},
        .headers = {{STR("X-A"), STR("b")},
                    {STR("List-Unsubscribe"), STR("<https://example.com/u>")},
                    {STR("List-Unsubscribe-Post"), STR("List-Unsubscribe=One-Click")}},
        .tags = {STR("one"), STR("two")},
        .references = {STR("<a@b>"), STR("<c@d>")},
        .metadata = {{STR("k"), STR("v")}, {STR("l"), STR("w")}}};
    f->s = (struct submission){.from = address("From <from@example.org>"),
                               .sender = address("Sender <sender@example.org>"),
                               .to = {f->to, 2},
                               .cc = {f->cc, 1},
                               .bcc = {f->bcc, 1},
                               .reply_to = {f->reply_to, 1},
                               .subject = STR("subject"),
                               .text = STR("text"),
                               .html = STR("<p>html"),
                               .attachments = f->attachments,
                               .attachment_count = 2,
                               .headers = f->headers,
                               .header_count = 3,
                               .tags = f->tags,
                               .tag_count = 2,
                               .metadata = f->metadata,
                               .metadata_count = 2,
                               .external_id = STR("ext"),
                               .in_reply_to = STR("<a@b>"),
                               .references = f->references,
                               .reference_count = 2,
                               .route = STR("main")};
}

static void a_good_submission_has_no_fault(void **state) {
    (void)state;
    struct full f;
    struct faults faults;
    fill(&f);
    faults_init(&faults, arena);
    submission_check(&f.s, &limits, &faults);
    if (faults.count > 0)
        fail_msg("%.*s: %.*s", STR_ARG(faults.list[0].pointer), STR_ARG(faults.list[0].detail));
    assert_int_equal(submission_recipient_count(&f.s), 4);
}

/* T3: each header-bound string x each thing that must not be in it. */
static void test_T3_no_control_passes_in_any_string(void **state) {
    (void)state;
    struct full f;
    static const struct {
        const char *title;
        size_t offset;
        const char *pointer;
        bool tab_ok;
    } fields[] = {
#define FIELD(member, pointer, tab) {#member, offsetof(struct full, member), pointer, tab}
        FIELD(s.subject, "#/subject", false),
        FIELD(s.from.name, "#/from", false),
        FIELD(s.from.email, "#/from", false),
        FIELD(s.sender.name, "#/sender", false),
        FIELD(s.sender.email, "#/sender", false),
        FIELD(to[1].name, "#/to/1", false),
        FIELD(to[1].email, "#/to/1", false),
        FIELD(cc[0].name, "#/cc/0", false),
        FIELD(cc[0].email, "#/cc/0", false),
        FIELD(bcc[0].name, "#/bcc/0", false),
        FIELD(bcc[0].email, "#/bcc/0", false),
        FIELD(reply_to[0].name, "#/reply_to/0", false),
        FIELD(reply_to[0].email, "#/reply_to/0", false),
        FIELD(attachments[0].filename, "#/attachments/0/filename", false),
        FIELD(attachments[0].content_type, "#/attachments/0/type", false),
        FIELD(attachments[1].cid, "#/attachments/1/cid", false),
        FIELD(headers[0].name, NULL, false),
        FIELD(headers[0].value, "#/headers/X-A", true),
        FIELD(headers[1].value, "#/headers/List-Unsubscribe", true),
        FIELD(headers[2].value, "#/headers/List-Unsubscribe-Post", false),
        FIELD(s.in_reply_to, "#/in_reply_to", false),
        FIELD(references[1], "#/references/1", false),
        FIELD(tags[1], "#/tags/1", false),
        FIELD(metadata[1].key, NULL, false),
        FIELD(metadata[1].value, "#/metadata/l", true),
        FIELD(s.external_id, "#/external_id", false),
        FIELD(s.route, "#/route", false),
#undef FIELD
    };
    static const struct str bad[] = {
        {"\r", 1},           {"\n", 1},          {"\r\n", 2},         {"\0", 1},
        {"\x0b", 1},         {"\xc2\x85", 2},    {"\x85", 1},         {"\xe2\x80\xa8", 3},
        {"\xe2\x80\xa9", 3}, {"\r\n folded", 9}, {"\r\n\tfolded", 9}, {"\r\nBcc: x@y.example", 18},
        {"\x7f", 1},         {"\x1b", 1},        {"\x01", 1},         {"\x08", 1},
        {"\x0c", 1},         {"\n.\n", 3},       {"\r\n.\r\n", 5},    {"\r.\r", 3},
        {"\xff", 1},         {"\xc0\x8a", 2},    {"\t", 1},
    };
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++) {
        for (size_t k = 0; k < sizeof bad / sizeof *bad; k++) {
            for (int where = 0; where < 3; where++) {
                if (fields[i].tab_ok && bad[k].p[0] == '\t')
                    continue;
                fill(&f);
                struct str *s = (struct str *)((char *)&f + fields[i].offset), was = *s;
                size_t cut = where == 0 ? 0 : where == 1 ? was.n / 2 : was.n;
                *s = arena_printf(arena, "%.*s%*s%.*s", (int)cut, was.p, (int)bad[k].n, "",
                                  (int)(was.n - cut), was.p + cut);
                memcpy((char *)(uintptr_t)s->p + cut, bad[k].p, bad[k].n);
                struct faults faults;
                faults_init(&faults, arena);
                submission_check(&f.s, &limits, &faults);
                bool found = false;
                for (size_t n = 0; n < faults.count; n++)
                    found = found || !fields[i].pointer ||
                            str_equal(faults.list[n].pointer, str_of(fields[i].pointer));
                if (!found)
                    fail_msg("%s with bad[%zu] at %d passes", fields[i].title, k, where);
                for (size_t n = 0; n < faults.count; n++) {
                    assert_true(str_is_ascii(faults.list[n].pointer));
                    assert_false(str_has_control(faults.list[n].pointer, false));
                    assert_true(faults.list[n].detail.n > 0);
                }
            }
        }
    }
}

static void percent_encoded_line_ends_are_text(void **state) {
    (void)state;
    struct full f;
    struct faults faults;
    fill(&f);
    f.s.subject = STR("%0d%0aBcc: x@y.example \\r\\n");
    f.headers[0].value = STR("%0d%0aBcc: x@y.example");
    f.attachments[0].filename = STR("%0d%0a.pdf");
    faults_init(&faults, arena);
    submission_check(&f.s, &limits, &faults);
    assert_int_equal(faults.count, 0);
}

/* One change each, and the one fault that it gives. */
static void each_wrong_value_has_its_fault(void **state) {
    (void)state;
    static char long_text[10000];
    memset(long_text, 'x', sizeof long_text);
#define LONG(n) str_make(long_text, (n))
    struct full f;
    struct faults faults;
#define EXPECT(change, want_pointer, want_code)                                                    \
    do {                                                                                           \
        fill(&f);                                                                                  \
        change;                                                                                    \
        faults_init(&faults, arena);                                                               \
        submission_check(&f.s, &limits, &faults);                                                  \
        if (faults.count != 1 || !str_equal(faults.list[0].pointer, STR(want_pointer)) ||          \
            strcmp(faults.list[0].code, want_code) != 0)                                           \
            fail_msg("%s: %zu faults: %.*s %s", #change, faults.count,                             \
                     STR_ARG(faults.list[0].pointer), faults.list[0].code);                        \
    } while (0)
#define GOOD(change)                                                                               \
    do {                                                                                           \
        fill(&f);                                                                                  \
        change;                                                                                    \
        faults_init(&faults, arena);                                                               \
        submission_check(&f.s, &limits, &faults);                                                  \
        if (faults.count != 0)                                                                     \
            fail_msg("%s: %.*s", #change, STR_ARG(faults.list[0].detail));                         \
    } while (0)
    EXPECT(f.s.from = (struct address){0}, "#/from", "required");
    EXPECT(f.s.to.count = f.s.cc.count = f.s.bcc.count = 0, "#/to", "required");
    GOOD(f.s.to.count = f.s.cc.count = 0);
    GOOD(f.s.to.count = f.s.bcc.count = 0);
    EXPECT(f.s.text = f.s.html = STR_NONE, "#/text", "required");
    GOOD(f.s.text = STR(""); f.s.html = STR_NONE);
    GOOD(f.s.subject = STR_NONE);
    GOOD(f.s.subject = LONG(LIMIT_SUBJECT));
    EXPECT(f.s.subject = LONG(LIMIT_SUBJECT + 1), "#/subject", "too_long");
    EXPECT(f.s.from.name = LONG(LIMIT_DISPLAY_NAME + 1), "#/from", "too_long");
    EXPECT(f.s.text = ((struct str){"a\0b", 3}), "#/text", "control_character");
    EXPECT(f.s.html = STR("\xff"), "#/html", "invalid_encoding");
    GOOD(f.s.text = STR("\x1b\x0c\x01\r\n\r\n.\r\n\n.\n"));
    EXPECT(f.attachments[0].filename = STR("../x"), "#/attachments/0/filename", "invalid_filename");
    EXPECT(f.attachments[0].filename = STR("a\\b"), "#/attachments/0/filename", "invalid_filename");
    EXPECT(f.attachments[0].filename = STR(".."), "#/attachments/0/filename", "invalid_filename");
    EXPECT(f.attachments[0].filename = STR(""), "#/attachments/0/filename", "invalid_filename");
    EXPECT(f.attachments[0].filename = LONG(256), "#/attachments/0/filename", "too_long");
    GOOD(f.attachments[0].filename = STR_NONE);
    GOOD(f.attachments[0].content_type = STR_NONE);
    GOOD(f.attachments[0].content_type = STR("message/rfc822"));
    EXPECT(f.attachments[0].content_type = STR("pdf"), "#/attachments/0/type",
           "invalid_content_type");
    EXPECT(f.attachments[0].content_type = STR("multipart/mixed; boundary=x"),
           "#/attachments/0/type", "invalid_content_type");
    EXPECT(f.attachments[0].content_type = STR("Message/Partial"), "#/attachments/0/type",
           "invalid_content_type");
    EXPECT(f.attachments[0].content_type = STR("message/external-body"), "#/attachments/0/type",
           "invalid_content_type");
    EXPECT(f.attachments[1].cid = STR("<logo>"), "#/attachments/1/cid", "invalid_cid");
    EXPECT(f.attachments[1].cid = STR("lo go"), "#/attachments/1/cid", "invalid_cid");
    EXPECT(f.attachments[1].cid = STR(""), "#/attachments/1/cid", "invalid_cid");
    EXPECT(f.headers[0].name = STR("X A"), "#/headers/X%20A", "invalid_header_name");
    EXPECT(f.headers[0].name = STR("X:"), "#/headers/X:", "invalid_header_name");
    EXPECT(f.headers[0].name = STR(""), "#/headers/", "invalid_header_name");
    EXPECT(f.headers[0].name = STR("X-\xc3\xbc"), "#/headers/X-%C3%BC", "invalid_header_name");
    EXPECT(f.headers[0].name = LONG(77),
           "#/headers/xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"
           "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
           "too_long");
    EXPECT(f.headers[0].name = STR("bcc"), "#/headers/bcc", "reserved_header");
    EXPECT(f.headers[0].name = STR("Content-Type"), "#/headers/Content-Type", "reserved_header");
    EXPECT(f.headers[0].name = STR("Dkim-Signature"), "#/headers/Dkim-Signature",
           "reserved_header");
    GOOD(f.headers[0].name = STR("X/~|%"));
    EXPECT(f.headers[0].value = LONG(LIMIT_HEADER_VALUE + 1), "#/headers/X-A", "too_long");
    EXPECT(f.s.in_reply_to = STR("a@b"), "#/in_reply_to", "invalid_message_id");
    EXPECT(f.s.in_reply_to = STR("<a@b> <c@d>"), "#/in_reply_to", "invalid_message_id");
    EXPECT(f.references[1] = STR("x"), "#/references/1", "invalid_message_id");
    EXPECT(f.tags[0] = STR(""), "#/tags/0", "too_short");
    EXPECT(f.tags[0] = LONG(LIMIT_TAG + 1), "#/tags/0", "too_long");
    EXPECT(f.metadata[0].key = STR(""), "#/metadata", "too_short");
    EXPECT(f.metadata[0].key = LONG(LIMIT_METADATA_KEY + 1),
           "#/metadata/xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
           "too_long");
    EXPECT(f.metadata[0].value = LONG(LIMIT_METADATA_VALUE + 1), "#/metadata/k", "too_long");
    EXPECT(f.s.external_id = LONG(LIMIT_EXTERNAL_ID + 1), "#/external_id", "too_long");
    EXPECT(f.s.route = STR(""), "#/route", "too_short");
    GOOD(f.s.route = STR_NONE);
    EXPECT(f.s.expires_in_ms = -1, "#/expires_in", "invalid_value");
    static char large[1024 * 1024 + 1];
    EXPECT(f.attachments[0].content = str_make(large, sizeof large), "#", "message_too_large");
    struct address many[11];
    for (size_t i = 0; i < 11; i++)
        many[i] = address("a@example.net");
    EXPECT(f.s.to.list = many; f.s.to.count = 11;
           f.s.cc.count = f.s.bcc.count = 0, "#/to", "too_many");
    EXPECT(f.s.reply_to.list = many; f.s.reply_to.count = 11, "#/reply_to", "too_many");
    GOOD(f.s.reply_to.list = many; f.s.reply_to.count = 10);
    GOOD(f.s.to.list = many; f.s.to.count = 10; f.s.cc.count = f.s.bcc.count = 0);
}

static void test_M17_content_ids_are_unique(void **state) {
    (void)state;
    struct full f;
    struct faults faults;
    EXPECT(f.attachments[0].cid = STR("logo"), "#/attachments/1/cid", "duplicate");
    GOOD(f.attachments[0].cid = STR("logo2"));
}

static void test_M28_one_click_needs_one_https_uri(void **state) {
    (void)state;
    struct full f;
    struct faults faults;
    EXPECT(f.headers[2].value = STR("yes"), "#/headers/List-Unsubscribe-Post",
           "invalid_header_value");
    EXPECT(f.headers[1].value = STR("<mailto:a@example.com>"), "#/headers/List-Unsubscribe-Post",
           "invalid_header_value");
    EXPECT(f.headers[1].value = STR("<https://a.example/>, <https://b.example/>"),
           "#/headers/List-Unsubscribe-Post", "invalid_header_value");
    EXPECT(f.headers[1].value = STR("<http://a.example/>"), "#/headers/List-Unsubscribe-Post",
           "invalid_header_value");
    EXPECT(f.headers[1].name = STR("X-B"), "#/headers/List-Unsubscribe-Post",
           "invalid_header_value");
    GOOD(f.headers[1].value = STR("<https://a.example/>, <mailto:u@b.example>"));
}

/* M6, M26, M27: what the composer writes nobody else adds, and what stands once is given once. */
static void test_M6_M26_M27_no_field_stands_twice(void **state) {
    (void)state;
    static const char *const written[] = {
        "Date",         "From",         "Sender",     "Reply-To",    "To",
        "Cc",           "Bcc",          "Message-ID", "Subject",     "In-Reply-To",
        "References",   "MIME-Version", "date",       "CONTENT-ID",  "sUBJECT",
        "Content-Type", "Content-Else", "MIME-Else",  "Resent-From", "Return-Path",
    };
    static const struct {
        const char *first, *second, *value;
    } once[] = {
        {"List-Id", "list-id", "<news.example.com>"},
        {"List-Unsubscribe", "LIST-UNSUBSCRIBE", "<mailto:u@example.com>"},
        {"List-Help", "List-help", "<mailto:h@example.com>"},
        {"List-Post", "List-Post", "NO"},
        {"List-Owner", "List-Owner", "<mailto:o@example.com>"},
        {"List-Archive", "List-Archive", "<https://example.com/archive>"},
        {"List-Subscribe", "List-Subscribe", "<mailto:s@example.com>"},
        {"Auto-Submitted", "auto-submitted", "auto-generated"},
    };
    struct full f;
    struct faults faults;
    for (size_t i = 0; i < sizeof written / sizeof *written; i++) {
        fill(&f);
        f.headers[0].name = str_of(written[i]);
        faults_init(&faults, arena);
        submission_check(&f.s, &limits, &faults);
        if (faults.count != 1 || strcmp(faults.list[0].code, "reserved_header") != 0)
            fail_msg("%s: %zu faults", written[i], faults.count);
    }
    for (size_t i = 0; i < sizeof once / sizeof *once; i++) {
        for (size_t count = 1; count <= 2; count++) {
            fill(&f);
            f.headers[0] = (struct header_field){str_of(once[i].first), str_of(once[i].value)};
            f.headers[1] = (struct header_field){str_of(once[i].second), str_of(once[i].value)};
            f.s.header_count = count;
            faults_init(&faults, arena);
            submission_check(&f.s, &limits, &faults);
            if (faults.count != count - 1 ||
                (count == 2 && strcmp(faults.list[0].code, "duplicate") != 0))
                fail_msg("%s: %zu faults of %zu", once[i].first, faults.count, count);
        }
    }
    /* others may repeat */
    GOOD(f.headers[0].name = STR("X-B"); f.headers[1].name = STR("x-b"); f.s.header_count = 2);
}

static void all_faults_are_found_at_once_and_the_list_has_an_end(void **state) {
    (void)state;
    struct submission s = {.subject = STR("a\nb")};
    struct str tags[LIMIT_TAGS];
    struct str references[LIMIT_REFERENCES];
    struct faults faults;
    faults_init(&faults, arena);
    submission_check(&s, &limits, &faults);
    assert_int_equal(faults.count, 4); /* from, to, subject, text */
    for (size_t i = 0; i < LIMIT_TAGS; i++)
        tags[i] = STR("");
    for (size_t i = 0; i < LIMIT_REFERENCES; i++)
        references[i] = STR("x");
    s.tags = tags;
    s.tag_count = LIMIT_TAGS;
    s.references = references;
    s.reference_count = LIMIT_REFERENCES;
    faults_init(&faults, arena);
    submission_check(&s, &limits, &faults);
    assert_int_equal(faults.count, 4 + LIMIT_TAGS + LIMIT_REFERENCES);
}

/* What the parser of the form found wrong is not reported as missing too. */
static void a_fault_found_before_is_not_doubled(void **state) {
    (void)state;
    struct submission s = {.text = STR("x")};
    struct faults faults;
    faults_init(&faults, arena);
    faults_add(&faults, STR("#/from"), "invalid_address", "%s", "no");
    faults_add(&faults, STR("#/to/0"), "invalid_address", "%s", "no");
    submission_check(&s, &limits, &faults);
    assert_int_equal(faults.count, 2);
    faults_init(&faults, arena);
    faults_add(&faults, STR("#/fromage"), "unknown_field", "%s", "no");
    submission_check(&s, &limits, &faults);
    assert_int_equal(faults.count, 3);
}

static void too_many_of_anything_is_refused(void **state) {
    (void)state;
    struct full f;
    struct faults faults;
    fill(&f);
    f.s.header_count = LIMIT_HEADERS + 1;
    f.s.headers = arena_alloc(arena, sizeof(struct header_field) * (LIMIT_HEADERS + 1));
    f.s.attachment_count = LIMIT_ATTACHMENTS + 1;
    f.s.attachments = arena_alloc(arena, sizeof(struct attachment) * (LIMIT_ATTACHMENTS + 1));
    f.s.reference_count = LIMIT_REFERENCES + 1;
    f.s.references = arena_alloc(arena, sizeof(struct str) * (LIMIT_REFERENCES + 1));
    for (size_t i = 0; i <= LIMIT_REFERENCES; i++)
        f.s.references[i] = STR("<a@b>");
    f.s.tag_count = LIMIT_TAGS + 1;
    f.s.tags = arena_alloc(arena, sizeof(struct str) * (LIMIT_TAGS + 1));
    for (size_t i = 0; i <= LIMIT_TAGS; i++)
        f.s.tags[i] = STR("t");
    f.s.metadata_count = LIMIT_METADATA_PAIRS + 1;
    f.s.metadata = arena_alloc(arena, sizeof(struct pair) * (LIMIT_METADATA_PAIRS + 1));
    for (size_t i = 0; i <= LIMIT_METADATA_PAIRS; i++)
        f.s.metadata[i] = (struct pair){STR("k"), STR("v")};
    faults_init(&faults, arena);
    submission_check(&f.s, &limits, &faults);
    assert_int_equal(faults.count, 5);
    for (size_t i = 0; i < faults.count; i++)
        assert_string_equal(faults.list[i].code, "too_many");
}

static void equal_submissions_have_one_fingerprint(void **state) {
    (void)state;
    struct full f, g;
    uint8_t a[32], b[32];
    fill(&f);
    fill(&g);
    submission_fingerprint(&f.s, a);
    submission_fingerprint(&g.s, b);
    assert_memory_equal(a, b, 32);
#define DIFFERS(change)                                                                            \
    do {                                                                                           \
        fill(&g);                                                                                  \
        change;                                                                                    \
        submission_fingerprint(&g.s, b);                                                           \
        if (memcmp(a, b, 32) == 0)                                                                 \
            fail_msg("%s changes nothing", #change);                                               \
    } while (0)
    DIFFERS(g.s.from = address("From <from2@example.org>"));
    DIFFERS(g.s.from.name = STR("from"));
    DIFFERS(g.s.sender = (struct address){0});
    DIFFERS(g.s.to.count = 1);
    DIFFERS(g.to[0] = address("x@example.net"));
    DIFFERS(g.s.cc.count = 0);
    DIFFERS(g.s.bcc.count = 0);
    DIFFERS(g.s.reply_to.count = 0);
    DIFFERS(g.s.subject = STR("Subject"));
    DIFFERS(g.s.subject = STR_NONE);
    DIFFERS(g.s.text = STR("texts"));
    DIFFERS(g.s.text = STR("text<p>"); g.s.html = STR("html"));
    DIFFERS(g.s.html = STR_NONE);
    DIFFERS(g.s.html = STR(""));
    DIFFERS(g.attachments[0].filename = STR("a"));
    DIFFERS(g.attachments[0].content_type = STR_NONE);
    DIFFERS(g.attachments[0].content = STR("xx"));
    DIFFERS(g.attachments[0].cid = STR("c"));
    DIFFERS(g.attachments[0].is_inline = true);
    DIFFERS(g.s.attachment_count = 1);
    DIFFERS(g.headers[0].name = STR("X-B"));
    DIFFERS(g.headers[0].value = STR("c"));
    DIFFERS(g.s.header_count = 2);
    DIFFERS(g.tags[0] = STR("three"));
    DIFFERS(g.s.tag_count = 1);
    DIFFERS(g.metadata[0].key = STR("K"));
    DIFFERS(g.metadata[0].value = STR("V"));
    DIFFERS(g.s.metadata_count = 1);
    DIFFERS(g.s.external_id = STR_NONE);
    DIFFERS(g.s.in_reply_to = STR_NONE);
    DIFFERS(g.references[0] = STR("<x@y>"));
    DIFFERS(g.s.reference_count = 1);
    DIFFERS(g.s.expires_in_ms = 1);
    DIFFERS(g.s.tls = TLS_VERIFY);
    DIFFERS(g.s.route = STR_NONE);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_good_submission_has_no_fault, setup, teardown),
        cmocka_unit_test_setup_teardown(test_T3_no_control_passes_in_any_string, setup, teardown),
        cmocka_unit_test_setup_teardown(percent_encoded_line_ends_are_text, setup, teardown),
        cmocka_unit_test_setup_teardown(each_wrong_value_has_its_fault, setup, teardown),
        cmocka_unit_test_setup_teardown(test_M17_content_ids_are_unique, setup, teardown),
        cmocka_unit_test_setup_teardown(test_M28_one_click_needs_one_https_uri, setup, teardown),
        cmocka_unit_test_setup_teardown(test_M6_M26_M27_no_field_stands_twice, setup, teardown),
        cmocka_unit_test_setup_teardown(all_faults_are_found_at_once_and_the_list_has_an_end, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(a_fault_found_before_is_not_doubled, setup, teardown),
        cmocka_unit_test_setup_teardown(too_many_of_anything_is_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(equal_submissions_have_one_fingerprint, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
