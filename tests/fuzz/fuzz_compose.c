/* submission -> check -> compose: whatever passes the check becomes a message whose octets
 * obey T1 and M1, with exactly the fields that were asked for and no Bcc (T3, T12). The input is
 * cut into fields at each 0xFE. */
#include <stdlib.h>

#include "server/mail/compose.h"
#include "server/mail/dkim_canon.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must(bool ok) {
    if (!ok)
        abort();
}

static struct str next_field(struct str *rest) {
    return str_is_absent(*rest) ? STR_NONE : str_split(rest, (char)0xFE);
}

/* Lines of at most 998 octets, each ended by CRLF, which stand nowhere else; no NUL. */
static void check_octets(struct str bytes, bool utf8_ok) {
    size_t column = 0;
    must(bytes.n > 0 && (utf8_ok || str_is_ascii(bytes)));
    for (size_t i = 0; i < bytes.n; i++) {
        char c = bytes.p[i];
        if (c == '\r') {
            must(++i < bytes.n && bytes.p[i] == '\n');
            column = 0;
        } else {
            must(c != '\n' && c != '\0' && ++column <= 998);
        }
    }
    must(column == 0);
}

/* Date, From, To or Cc, Message-ID, MIME-Version, Content-Type, perhaps Content-Transfer-Encoding,
 * and each optional one that was given. */
static void check_fields(const struct submission *s, struct str bytes) {
    size_t count = 0, want = 6U + (s->subject.n > 0) + s->header_count + s->reference_count +
                             (s->in_reply_to.p != NULL);
    bool is_multipart = false;
    struct str field, name;
    if (s->to.count + s->cc.count > 1)
        want++;
    while (dkim_next_field(&bytes, &field, &name)) {
        must(!str_is_absent(name));
        count++;
        must(!str_equal_nocase(name, STR("bcc")));
        if (str_starts_with(field, STR("Content-Type: multipart/")))
            is_multipart = true;
    }
    must(count == want + !is_multipart);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static struct arena *a, *kept;
    static struct address usual_from, cc, bcc;
    if (!a) {
        kept = arena_new();
        a = arena_new();
        must(address_parse(&usual_from, STR("from@example.org"), kept, NULL) == OK);
        must(address_parse(&cc, STR("cc@example.net"), kept, NULL) == OK);
        must(address_parse(&bcc, STR("bcc@zq7secret.example"), kept, NULL) == OK);
    }
    arena_clear(a);
    struct str rest = str_make(data, size);
    uint8_t flags = size > 0 ? data[0] : 0;
    struct address from, to;
    struct submission s = {0};
    s.from = address_parse_named(&from, next_field(&rest), a, NULL) == OK ? from : usual_from;
    if (address_parse_named(&to, next_field(&rest), a, NULL) == OK)
        s.to = (struct address_list){&to, 1};
    s.cc = (struct address_list){&cc, flags & 1};
    s.bcc = (struct address_list){&bcc, 1};
    s.subject = next_field(&rest);
    s.text = next_field(&rest);
    s.html = next_field(&rest);
    struct header_field header = {.name = next_field(&rest), .value = next_field(&rest)};
    s.headers = &header;
    s.header_count = header.name.n > 0;
    struct attachment at = {.filename = next_field(&rest),
                            .content_type = next_field(&rest),
                            .cid = next_field(&rest),
                            .content = next_field(&rest)};
    s.attachments = &at;
    s.attachment_count = at.content.n > 0;
    struct str reference = next_field(&rest);
    s.references = &reference;
    s.reference_count = reference.n > 0;

    struct faults faults;
    struct submission_limits limits = {.recipients_max = 50, .message_bytes_max = 1 << 20};
    faults_init(&faults, a);
    submission_check(&s, &limits, &faults);
    uint8_t print[32];
    submission_fingerprint(&s, print);
    struct compose_input in = {.submission = &s, .message_bytes_max = 8 << 20};
    struct composed c;
    enum err e = compose(&in, &c, NULL);
    must(faults.count > 0 || e == OK);
    if (e == OK && faults.count == 0) {
        struct str bytes = message_bytes(c.message).piece[1];
        check_octets(bytes, c.needs_smtputf8);
        check_fields(&s, bytes);
        must(str_find(bytes, STR("zq7secret")) < 0 ||
             str_find(str_make(data, size), STR("zq7secret")) >= 0);
    }
    if (e == OK)
        message_unref(&c.message);
    return 0;
}
