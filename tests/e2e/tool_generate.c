/* Writes random signed messages, what must be read out of them, and the key records, for
 * tests/golden/verify_corpus.py:
 *
 *     tool_generate DIRECTORY COUNT SEED
 *
 * DIRECTORY gets 00000.eml ... (signed with RSA and Ed25519), 00000.json ... (the fields that went
 * in) and keys (one "name record" a line). Three in four go the whole way (submission, check,
 * compose, sign); the fourth is a ready-made message with odd folding and white space, which is
 * only signed. */
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>

#include "server/base/base64.h"
#include "server/mail/compose.h"
#include "server/mail/dkim_sign.h"

enum { ADDRESSES_MAX = 12, ATTACHMENTS_MAX = 4, HEADERS_MAX = 4, REFERENCES_MAX = 30 };

static uint64_t state;

static uint64_t next(void) { /* splitmix64 */
    uint64_t z = (state += 0x9E3779B97F4A7C15);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB;
    return z ^ (z >> 31);
}

static size_t below(size_t n) {
    return (size_t)(next() % n);
}

static bool chance(size_t percent) {
    return below(100) < percent;
}

#define PICK(table) (table[below(sizeof(table) / sizeof *(table))])

/* ---- random texts --------------------------------------------------------------------------- */

static const char *const words[] = {
    "hello",
    "a",
    "Rechnung",
    "Grüße",
    "naïve",
    "日本語",
    "Привет",
    "=?utf-8?q?x?=",
    "=20",
    "From ",
    ".",
    "..",
    "--",
    "=_",
    "🙂",
    "👩‍👩‍👧",
    "\"",
    "'",
    "\\",
    "a,b;c:",
    "(paren)",
    "<b>",
    "%0d%0a",
    "x=y",
    "العربية",
    "ﬁ",
    "_under_",
    "?=",
    "e\xCC\x81",
    "\xC2\xA0",
    "[1]",
    "@",
    "loooooooooooooooooooooooooooooooooooooooooooooooooooooooooooooooooooooooooooooooooooooooooong",
};
static const char *const ascii_words[] = {"the", "quick", "brown", "fox",   "jumps", "over",
                                          "a",   "lazy",  "dog.",  "From",  "ok,",   "12:30",
                                          "+",   "=",     "-",     "(why)", "x_y",   "\"q\""};

/* One line without line ends: words of any script, single or odd spaces between. */
static void put_line(struct buf *b, size_t count, bool is_ascii, bool odd_space) {
    for (size_t i = 0; i < count; i++) {
        if (i > 0 || (odd_space && chance(5)))
            buf_putc(b, ' ');
        if (odd_space && chance(10))
            buf_putz(b, "   ");
        buf_putz(b, is_ascii ? PICK(ascii_words) : PICK(words));
    }
    if (odd_space && chance(8))
        buf_putz(b, " ");
}

static struct str take(struct arena *a, struct buf *b) {
    struct str s = arena_dup(a, buf_str(b));
    buf_release(b);
    return s;
}

static struct str random_line(struct arena *a, size_t words_max, bool odd_space) {
    struct buf b = BUF_INIT(400);
    put_line(&b, 1 + below(words_max), chance(40), odd_space);
    struct str s = take(a, &b);
    return s;
}

static const char *const line_starts[] = {"",  "",   "",  "",   ".",  "From ",
                                          ">", "\t", " ", "--", "..."};
static const char *const line_ends[] = {"", "", "", " ", "\t", " \t ", "=", "\x0c"};

/* A body: lines of every kind, ended by one kind of line end or by all of them. */
static struct str random_body(struct arena *a) {
    static const char *const ends[] = {"\r\n", "\n", "\r"};
    struct buf b = BUF_INIT(1 << 20);
    size_t lines = chance(5) ? 0 : below(chance(10) ? 200 : 12);
    bool is_ascii = chance(40), is_mixed = chance(20), is_plain = chance(30);
    const char *end = PICK(ends);
    for (size_t i = 0; i < lines; i++) {
        if (chance(15)) {
            size_t empty = below(4);
            for (size_t k = 0; k < empty; k++)
                buf_putz(&b, end);
        }
        if (!is_plain)
            buf_putz(&b, PICK(line_starts));
        if (!is_plain && chance(4))
            for (size_t k = below(3000); k > 0; k--)
                buf_putc(&b, "ab c.=\t"[below(7)]);
        put_line(&b, below(is_plain ? 12 : 20), is_ascii, !is_plain);
        if (!is_plain)
            buf_putz(&b, PICK(line_ends));
        if (i + 1 < lines || chance(60))
            buf_putz(&b, is_mixed ? PICK(ends) : end);
    }
    return take(a, &b);
}

/* ---- random submissions --------------------------------------------------------------------- */

static const char *const locals[] = {"ann",      "Bob.Smith", "\"a\\\"b\"", "x+tag", "o'neil",
                                     "\"a..b\"", "user_1",    "jörg",       "用户"};
static const char *const domains[] = {"example.net",
                                      "bücher.example",
                                      "Mail.Example.ORG",
                                      "例え.テスト",
                                      "[192.0.2.7]",
                                      "[IPv6:2001:db8::7]",
                                      "a-very-long-label-in-a-domain-name-for-folding.sub.example"};

static struct address random_address(struct arena *a, const char *prefix, size_t number,
                                     const char *domain, bool ascii_only) {
    struct address out;
    struct errinfo info = {0};
    const char *local = PICK(locals);
    if (ascii_only && !str_is_ascii(str_of(local)))
        local = "plain";
    struct str text =
        local[0] == '"'
            ? arena_printf(a, "%s@%s", local, domain ? domain : PICK(domains))
            : arena_printf(a, "%s%s%zu@%s", prefix, local, number, domain ? domain : PICK(domains));
    if (address_parse(&out, text, a, &info) != OK ||
        (chance(60) && address_set_name(&out, random_line(a, 6, true), a, &info) != OK)) {
        fprintf(stderr, "%.*s: %s\n", STR_ARG(text), info.text);
        exit(1);
    }
    return out;
}

static void random_list(struct arena *a, struct address_list *list, const char *prefix, size_t max,
                        bool ascii_only) {
    list->count = below(max + 1);
    list->list = ARENA_ARRAY(a, struct address, ADDRESSES_MAX + 1);
    for (size_t i = 0; i < list->count; i++)
        list->list[i] = random_address(a, prefix, i, NULL, ascii_only);
}

static struct str random_bytes_text(struct arena *a, size_t max) {
    size_t n = below(max + 1);
    char *p = arena_alloc(a, n + 1);
    for (size_t i = 0; i < n; i++)
        p[i] = (char)next();
    return str_make(p, n);
}

static struct attachment random_attachment(struct arena *a, size_t number) {
    static const char *const types[] = {"application/pdf", "image/png", "text/csv", "text/plain",
                                        "application/x-thing; title=\"a b\"; v=1"};
    struct attachment at = {.content = chance(10) ? STR("") : random_bytes_text(a, 3000)};
    if (chance(80))
        at.content_type = str_of(PICK(types));
    if (chance(15)) {
        at.content_type = STR("message/rfc822");
        at.content = chance(50) ? STR("Subject: inner\r\nFrom: a@b.example\r\n\r\nhi\r\n")
                                : STR("Subject: inn\xC3\xA4r\r\n\r\nhi\r\n");
    }
    if (chance(85)) {
        struct buf b = BUF_INIT(LIMIT_FILENAME);
        struct str name = random_line(a, 10, true);
        for (size_t i = 0; i < name.n; i++)
            buf_putc(&b, name.p[i] == '/' || name.p[i] == '\\' ? '-' : name.p[i]);
        at.filename = buf_status(&b) == OK && !str_equal(buf_str(&b), STR(".")) &&
                              !str_equal(buf_str(&b), STR(".."))
                          ? take(a, &b)
                          : STR("f.bin");
        buf_release(&b);
    }
    if (chance(30))
        at.cid = arena_printf(a, "cid.%zu@x", number);
    at.is_inline = chance(str_is_absent(at.cid) ? 20 : 80);
    return at;
}

static void random_submission(struct arena *a, struct submission *s, const char *domain) {
    bool ascii_only = chance(90); /* the rest needs SMTPUTF8 */
    s->from = random_address(a, "from", 0, domain, ascii_only);
    if (chance(10))
        s->sender = random_address(a, "sender", 0, NULL, ascii_only);
    random_list(a, &s->to, "to", chance(5) ? ADDRESSES_MAX : 3, ascii_only);
    random_list(a, &s->cc, "cc", 2, ascii_only);
    random_list(a, &s->reply_to, "reply", 1, ascii_only);
    s->bcc.list = ARENA_ARRAY(a, struct address, 2);
    s->bcc.count = 1;
    s->bcc.list[0] = random_address(a, "hidden", below(1000), "secret.example", true);
    s->bcc.list[0].email = arena_printf(a, "hidden%" PRIu64 "@secret.example", next());
    s->bcc.list[0].local = str_slice(s->bcc.list[0].email, 0, s->bcc.list[0].email.n - 15);
    s->bcc.list[0].name = STR("Hidden-Person-Zq7");
    if (chance(95))
        s->subject = random_line(a, 25, true);
    if (chance(80))
        s->text = random_body(a);
    if (chance(50) || str_is_absent(s->text))
        s->html = random_body(a);
    s->attachments = ARENA_ARRAY(a, struct attachment, ATTACHMENTS_MAX);
    s->attachment_count = chance(50) ? 0 : below(ATTACHMENTS_MAX);
    for (size_t i = 0; i < s->attachment_count; i++)
        s->attachments[i] = random_attachment(a, i);
    s->headers = ARENA_ARRAY(a, struct header_field, HEADERS_MAX + 2);
    s->header_count = below(HEADERS_MAX);
    for (size_t i = 0; i < s->header_count; i++)
        s->headers[i] =
            (struct header_field){arena_printf(a, "X-Custom-%zu", i), random_line(a, 25, false)};
    if (chance(40)) {
        s->headers[s->header_count++] = (struct header_field){
            STR("List-Unsubscribe"), STR("<https://u.example/one?x=1>,<mailto:u@u.example>")};
        s->headers[s->header_count++] =
            (struct header_field){STR("List-Unsubscribe-Post"), STR("List-Unsubscribe=One-Click")};
    }
    if (chance(20))
        s->in_reply_to = STR("<first@id.example>");
    s->references = ARENA_ARRAY(a, struct str, REFERENCES_MAX);
    s->reference_count = chance(80) ? 0 : below(REFERENCES_MAX);
    for (size_t i = 0; i < s->reference_count; i++)
        s->references[i] = arena_printf(a, "<%" PRIx64 ".%zu@id.example>", next(), i);
}

/* ---- what must be read again ------------------------------------------------------------------
 */

static json_t *text_of(struct str s) {
    return str_is_absent(s) ? json_null() : json_stringn(s.p, s.n);
}

static json_t *bytes_of(struct str s) {
    struct buf b = BUF_INIT(1 << 20);
    base64_encode(s, &b);
    json_t *j = json_string(b.p ? b.p : "");
    buf_release(&b);
    return j;
}

static json_t *addresses_of(const struct address *list, size_t count) {
    json_t *out = json_array();
    for (size_t i = 0; i < count; i++)
        json_array_append_new(out,
                              json_pack("{s:o, s:o}", "email", text_of(list[i].email), "name",
                                        list[i].name.n ? text_of(list[i].name) : json_string("")));
    return out;
}

static json_t *expected(const struct submission *s, const struct composed *c) {
    json_t *at = json_array(), *headers = json_array(), *references = json_array();
    for (size_t i = 0; i < s->attachment_count; i++) {
        const struct attachment *x = &s->attachments[i];
        json_array_append_new(at, json_pack("{s:o, s:o, s:o, s:o, s:b, s:b}", "filename",
                                            text_of(x->filename), "type", text_of(x->content_type),
                                            "content", bytes_of(x->content), "cid", text_of(x->cid),
                                            "inline", x->is_inline, "related",
                                            !str_is_absent(x->cid) && !str_is_absent(s->html)));
    }
    for (size_t i = 0; i < s->header_count; i++)
        json_array_append_new(headers, json_pack("[o, o]", text_of(s->headers[i].name),
                                                 text_of(s->headers[i].value)));
    for (size_t i = 0; i < s->reference_count; i++)
        json_array_append_new(references, text_of(s->references[i]));
    return json_pack(
        "{s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:s, s:b}", "from",
        addresses_of(&s->from, 1), "sender", addresses_of(&s->sender, s->sender.email.n > 0), "to",
        addresses_of(s->to.list, s->to.count), "cc", addresses_of(s->cc.list, s->cc.count), "bcc",
        addresses_of(s->bcc.list, s->bcc.count), "reply_to",
        addresses_of(s->reply_to.list, s->reply_to.count), "subject", text_of(s->subject), "text",
        text_of(s->text), "html", text_of(s->html), "attachments", at, "headers", headers,
        "references", references, "in_reply_to", text_of(s->in_reply_to), "message_id",
        c->message_id_field, "smtputf8", c->needs_smtputf8);
}

/* ---- ready-made messages ----------------------------------------------------------------------
 */

/* Lines end in CRLF; all else is as odd as RFC 5322 and 8BITMIME let it be. */
static struct message *random_ready_made(const struct id *id, const char *domain) {
    static const char *const values[] = {
        "  two  spaces ", "\tTAB\t and\t", "folded\r\n\there", "folded \r\n   \tthere  ", "", " ",
        "x\r\n y\r\n z",  "caf\xC3\xA9",   "trailing\t \t"};
    static const char *const pieces[] = {" ",        "  ",          "\t",       "a",
                                         "word",     ".",           "\r\n",     "\r\n",
                                         "\r\n\r\n", "caf\xC3\xA9", "\xFF\xFE", "-- "};
    static const char *const names[] = {"To",      "cc",    "SUBJECT", "Date",
                                        "X-Other", "X-Odd", "List-Id", "sender"};
    struct buf b = BUF_INIT(1 << 20);
    for (size_t i = below(4); i > 0; i--)
        buf_printf(&b, "%s:%s\r\n", PICK(names), PICK(values));
    buf_printf(&b, "From:%sann@%s\r\n", chance(50) ? " " : "\r\n\t ", domain);
    for (size_t i = below(6); i > 0; i--)
        buf_printf(&b, "%s:%s\r\n", PICK(names), PICK(values));
    buf_putz(&b, "MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n");
    size_t start = b.n;
    for (size_t i = chance(10) ? 0 : below(chance(10) ? 2000 : 60); i > 0; i--)
        buf_putz(&b, PICK(pieces));
    if (b.n > start)
        buf_putz(&b, "\r\n");
    size_t n = 0;
    char *bytes = buf_take(&b, &n);
    return message_new(id, bytes, n);
}

/* ---- files ---------------------------------------------------------------------------------- */

static FILE *create(const char *directory, const char *name) {
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", directory, name);
    FILE *f = fopen(path, "w");
    if (!f) {
        perror(path);
        exit(1);
    }
    return f;
}

static void write_message(const char *directory, size_t number, const struct message *m) {
    char name[64];
    snprintf(name, sizeof name, "%05zu.eml", number);
    FILE *f = create(directory, name);
    struct message_pieces p = message_bytes(m);
    fwrite(p.piece[0].p, 1, p.piece[0].n, f);
    fwrite(p.piece[1].p, 1, p.piece[1].n, f);
    fclose(f);
}

static void write_keys(const char *directory, const struct dkim_signer *signer) {
    FILE *f = create(directory, "keys");
    for (size_t i = 0; i < signer->key_count; i++) {
        struct buf record = BUF_INIT(4096);
        dkim_key_print_record(signer->keys[i].key, &record);
        fprintf(f, "%.*s._domainkey.%.*s %s\n", STR_ARG(signer->keys[i].selector),
                STR_ARG(signer->domain), record.p);
        buf_release(&record);
    }
    fclose(f);
}

static struct message *make(struct arena *a, const char *directory, size_t number,
                            const char *domain) {
    struct id id;
    struct errinfo info = {0};
    for (size_t i = 0; i < ID_BYTES; i++)
        id.b[i] = (uint8_t)next();
    if (number % 4 == 3)
        return random_ready_made(&id, domain);

    struct submission s = {0};
    struct faults faults;
    struct submission_limits limits = {.recipients_max = 50, .message_bytes_max = LIMIT_MESSAGE};
    random_submission(a, &s, domain);
    faults_init(&faults, a);
    submission_check(&s, &limits, &faults);
    for (size_t i = 0; i < faults.count; i++) {
        fprintf(stderr, "%zu: %.*s: %.*s\n", number, STR_ARG(faults.list[i].pointer),
                STR_ARG(faults.list[i].detail));
        exit(1);
    }
    struct compose_input in = {.submission = &s,
                               .id = id,
                               .date_wall_ms = 1700000000000 + (int64_t)below(1000000000),
                               .message_bytes_max = LIMIT_MESSAGE};
    for (size_t i = 0; i < sizeof in.seed; i++)
        in.seed[i] = (uint8_t)next();
    struct composed c;
    if (compose(&in, &c, &info) != OK) {
        fprintf(stderr, "%zu: %s\n", number, info.text);
        exit(1);
    }
    char name[64];
    snprintf(name, sizeof name, "%05zu.json", number);
    FILE *f = create(directory, name);
    json_t *j = expected(&s, &c);
    if (!j || json_dumpf(j, f, 0) != 0) {
        fprintf(stderr, "%zu: no JSON\n", number);
        exit(1);
    }
    json_decref(j);
    fclose(f);
    return c.message;
}

int main(int argc, char **argv) {
    uint64_t count = 0;
    if (argc != 4 || str_parse_u64(str_of(argv[2]), 99999, &count) != OK ||
        str_parse_u64(str_of(argv[3]), UINT64_MAX, &state) != OK) {
        fprintf(stderr, "usage: tool_generate DIRECTORY COUNT SEED\n");
        return 2;
    }
    const char *domain = "sender.example";
    struct errinfo info = {0};
    struct dkim_signer signer = {.domain = str_of(domain), .key_count = 2};
    signer.keys[0].selector = STR("rsa1");
    signer.keys[1].selector = STR("ed1");
    if (dkim_key_generate(DKIM_RSA_SHA256, &signer.keys[0].key, &info) != OK ||
        dkim_key_generate(DKIM_ED25519_SHA256, &signer.keys[1].key, &info) != OK) {
        fprintf(stderr, "%s\n", info.text);
        return 1;
    }
    write_keys(argv[1], &signer);
    struct arena *a = arena_new();
    for (size_t i = 0; i < count; i++) {
        struct message *m = make(a, argv[1], i, domain), *is_signed = NULL;
        if (dkim_sign(m, &signer, 1700000000000, &is_signed, &info) != OK) {
            fprintf(stderr, "%zu: %s\n", i, info.text);
            return 1;
        }
        write_message(argv[1], i, is_signed);
        message_unref(&m);
        message_unref(&is_signed);
        arena_clear(a);
    }
    arena_free(&a);
    dkim_key_unref(&signer.keys[0].key);
    dkim_key_unref(&signer.keys[1].key);
    return 0;
}
