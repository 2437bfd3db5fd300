#include "server/mail/submission.h"

#include <stdarg.h>

#include "server/base/digest.h"
#include "server/mail/field.h"
#include "server/mail/header.h"
#include "server/mail/mime.h"

/* ---- faults --------------------------------------------------------------------------------- */

void faults_init(struct faults *f, struct arena *a) {
    *f = (struct faults){.arena = a};
}

struct fault_place {
    struct str usual, given;
    bool is_single;
    struct fault_place *next;
};

void faults_place(struct faults *f, struct str usual, struct str given, bool is_single) {
    struct fault_place *p = ARENA_NEW(f->arena, struct fault_place);
    *p = (struct fault_place){.usual = usual, .given = given, .is_single = is_single};
    if (f->last_place == NULL)
        f->places = p;
    else
        f->last_place->next = p;
    f->last_place = p;
}

static bool is_at_or_below(struct str pointer, struct str place) {
    return str_starts_with(pointer, place) && (pointer.n == place.n || pointer.p[place.n] == '/');
}

/* Where the value is that `pointer` means. */
static struct str place_of(const struct faults *f, struct str pointer) {
    for (const struct fault_place *p = f->places; p != NULL; p = p->next) {
        if (!is_at_or_below(pointer, p->usual))
            continue;
        struct str below = p->is_single ? STR("") : str_from(pointer, p->usual.n);
        pointer = arena_printf(f->arena, "%.*s%.*s", STR_ARG(p->given), STR_ARG(below));
    }
    return pointer;
}

void faults_add(struct faults *f, struct str pointer, const char *code, const char *fmt, ...) {
    f->count++;
    if (f->count > LIMIT_FAULTS)
        return;
    char text[512];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    f->list[f->count - 1] = (struct fault){.pointer = arena_dup(f->arena, place_of(f, pointer)),
                                           .code = code,
                                           .detail = arena_dup(f->arena, str_of(text))};
}

/* Whoever parsed the form may have found `pointer` or something in it wrong already; then the value
 * is absent here, and "it is missing" would be a second, wrong fault. */
static bool is_faulty(const struct faults *f, const char *pointer) {
    struct str p = str_of(pointer);
    for (size_t i = 0; i < f->count && i < LIMIT_FAULTS; i++)
        if (is_at_or_below(f->list[i].pointer, p))
            return true;
    return f->count > LIMIT_FAULTS;
}

#define POINTER(f, ...) arena_printf((f)->arena, __VA_ARGS__)

/* "#/headers/X~1Y": RFC 6901 3 and 6. */
static struct str pointer_to_key(struct faults *f, const char *parent, struct str key) {
    enum { SHOWN = 128, OCTET = 3 };
    size_t head = strlen(parent), shown = key.n < SHOWN ? key.n : SHOWN;
    char *z = arena_alloc(f->arena, 2 + head + 1 + OCTET * shown + 1), *p = z;
    *p++ = '#';
    *p++ = '/';
    for (size_t i = 0; i < head; i++)
        *p++ = parent[i];
    *p++ = '/';
    for (size_t i = 0; i < shown; i++) {
        char c = key.p[i];
        if (ascii_is_alnum(c) || (c && strchr("-._!$&'()*+,;=:@?", c)))
            *p++ = c;
        else if (c == '~' || c == '/') {
            *p++ = '~';
            *p++ = c == '~' ? '0' : '1';
        } else
            p += snprintf(p, OCTET + 1, "%%%02X", (unsigned char)c);
    }
    return str_make(z, (size_t)(p - z));
}

/* ---- values --------------------------------------------------------------------------------- */

/* A one-line text: false when a fault was added. */
static bool check_text(struct faults *f, struct str pointer, struct str text, size_t max_bytes,
                       bool allow_tab) {
    switch (header_text_check(text, allow_tab)) {
    case HEADER_TEXT_OK:
        break;
    case HEADER_TEXT_CONTROL:
        faults_add(f, pointer, "control_character",
                   "a line end or another control character is not allowed here");
        return false;
    case HEADER_TEXT_NOT_UTF8:
        faults_add(f, pointer, "invalid_encoding", "the text is not valid UTF-8");
        return false;
    }
    if (text.n > max_bytes) {
        faults_add(f, pointer, "too_long", "%zu octets; at most %zu are allowed", text.n,
                   max_bytes);
        return false;
    }
    return true;
}

static void check_address(struct faults *f, struct str pointer, const struct address *a) {
    /* The parser made it; what came here without the parser is not sent. */
    if (str_is_empty(a->local) || str_is_empty(a->domain) || a->email.n > LIMIT_ADDRESS ||
        header_text_check(a->email, false) != HEADER_TEXT_OK)
        faults_add(f, pointer, "invalid_address", "this is no mail address");
    check_text(f, pointer, a->name, LIMIT_DISPLAY_NAME, false);
}

static void check_addresses(struct faults *f, const char *field, const struct address_list *list) {
    for (size_t i = 0; i < list->count; i++)
        check_address(f, POINTER(f, "#/%s/%zu", field, i), &list->list[i]);
}

size_t submission_recipient_count(const struct submission *s) {
    return s->to.count + s->cc.count + s->bcc.count;
}

static void check_envelope(const struct submission *s, const struct submission_limits *limits,
                           struct faults *f) {
    if (!str_is_absent(s->from.email))
        check_address(f, STR("#/from"), &s->from);
    else if (!is_faulty(f, "#/from"))
        faults_add(f, STR("#/from"), "required", "who the message is from is missing");
    if (!str_is_absent(s->sender.email))
        check_address(f, STR("#/sender"), &s->sender);
    check_addresses(f, "to", &s->to);
    check_addresses(f, "cc", &s->cc);
    check_addresses(f, "bcc", &s->bcc);
    check_addresses(f, "reply_to", &s->reply_to);
    size_t count = submission_recipient_count(s);
    if (count == 0 && !is_faulty(f, "#/to") && !is_faulty(f, "#/cc") && !is_faulty(f, "#/bcc"))
        faults_add(f, STR("#/to"), "required", "a recipient in to, cc or bcc is needed");
    if (count > limits->recipients_max)
        faults_add(f, STR("#/to"), "too_many", "%zu recipients; at most %zu are allowed", count,
                   limits->recipients_max);
    if (s->reply_to.count > limits->recipients_max)
        faults_add(f, STR("#/reply_to"), "too_many", "%zu addresses; at most %zu are allowed",
                   s->reply_to.count, limits->recipients_max);
}

static void check_body(struct faults *f, struct str pointer, struct str text) {
    if (text.n > 0 && memchr(text.p, 0, text.n))
        faults_add(f, pointer, "control_character", "a NUL is not allowed");
    else if (!str_is_utf8(text))
        faults_add(f, pointer, "invalid_encoding", "the text is not valid UTF-8");
}

static void check_bodies(const struct submission *s, struct faults *f) {
    check_text(f, STR("#/subject"), s->subject, LIMIT_SUBJECT, false);
    check_body(f, STR("#/text"), s->text);
    check_body(f, STR("#/html"), s->html);
    if (str_is_absent(s->text) && str_is_absent(s->html) && !is_faulty(f, "#/text") &&
        !is_faulty(f, "#/html"))
        faults_add(f, STR("#/text"), "required", "a body is needed: text or html");
}

/* ---- attachments ---------------------------------------------------------------------------- */

static void check_filename(struct faults *f, size_t i, struct str name) {
    struct str pointer = POINTER(f, "#/attachments/%zu/filename", i);
    if (str_is_absent(name) || !check_text(f, pointer, name, LIMIT_FILENAME, false))
        return;
    if (name.n == 0 || str_equal(name, STR(".")) || str_equal(name, STR("..")))
        faults_add(f, pointer, "invalid_filename", "this is no file name");
    else if (str_find_char(name, '/') >= 0 || str_find_char(name, '\\') >= 0)
        faults_add(f, pointer, "invalid_filename", "a file name has no path in it");
}

static void check_type(struct faults *f, size_t i, struct str text) {
    struct str pointer = POINTER(f, "#/attachments/%zu/type", i);
    struct mime_type type;
    struct errinfo info = {0};
    if (str_is_absent(text))
        return;
    if (mime_type_parse(text, &type, &info) != OK)
        faults_add(f, pointer, "invalid_content_type", "%s", info.text);
    else if (mime_type_is(&type, "multipart", NULL))
        faults_add(f, pointer, "invalid_content_type", "an attachment is not a multipart");
    else if (mime_type_is(&type, "message", "partial") ||
             mime_type_is(&type, "message", "external-body"))
        faults_add(f, pointer, "invalid_content_type", "message/%.*s is not sent",
                   STR_ARG(type.subtype));
}

static void check_cid(const struct submission *s, struct faults *f, size_t i) {
    struct str cid = s->attachments[i].cid;
    struct str pointer = POINTER(f, "#/attachments/%zu/cid", i);
    if (str_is_absent(cid) || !check_text(f, pointer, cid, LIMIT_FILENAME, false))
        return;
    bool ok = cid.n > 0;
    for (size_t k = 0; k < cid.n; k++)
        ok = ok && cid.p[k] > 32 && cid.p[k] < 127 && !strchr("<>()\\\",;", cid.p[k]);
    if (!ok) {
        faults_add(f, pointer, "invalid_cid",
                   "a content id is printable us-ascii without white space and <>()\\\",;");
        return;
    }
    for (size_t k = 0; k < i; k++) {
        if (str_equal(s->attachments[k].cid, cid)) {
            faults_add(f, pointer, "duplicate", "attachment %zu has the same cid", k);
            return;
        }
    }
}

static void check_attachments(const struct submission *s, struct faults *f) {
    if (s->attachment_count > LIMIT_ATTACHMENTS) {
        faults_add(f, STR("#/attachments"), "too_many", "%zu attachments; at most %d are allowed",
                   s->attachment_count, LIMIT_ATTACHMENTS);
        return;
    }
    for (size_t i = 0; i < s->attachment_count; i++) {
        check_filename(f, i, s->attachments[i].filename);
        check_type(f, i, s->attachments[i].content_type);
        check_cid(s, f, i);
    }
}

/* ---- extra header fields -------------------------------------------------------------------- */

static void check_header(const struct submission *s, struct faults *f, size_t i) {
    struct str name = s->headers[i].name, value = s->headers[i].value;
    struct str pointer = pointer_to_key(f, "headers", name);
    if (!header_is_name(name)) {
        faults_add(f, pointer, "invalid_header_name",
                   "a header name is printable us-ascii without space and colon");
        return;
    }
    if (name.n > LIMIT_HEADER_NAME) {
        faults_add(f, pointer, "too_long", "a header name has at most %d octets",
                   LIMIT_HEADER_NAME);
        return;
    }
    const struct field_rule *rule = field_rule_of(name);
    if (rule->instead) {
        faults_add(f, pointer, "reserved_header", "'%.*s' cannot be set here: %s", STR_ARG(name),
                   rule->instead);
        return;
    }
    for (size_t k = 0; rule->once && k < i; k++) {
        if (str_equal_nocase(s->headers[k].name, name)) {
            faults_add(f, pointer, "duplicate", "'%.*s' may stand once only", STR_ARG(name));
            return;
        }
    }
    if (!check_text(f, pointer, value, LIMIT_HEADER_VALUE, true))
        return;
    const char *fault = field_value_fault(rule, value);
    if (fault)
        faults_add(f, pointer, "invalid_header_value", "'%.*s': %s", STR_ARG(name), fault);
}

/* RFC 8058 3.1: one-click needs a List-Unsubscribe with exactly one https URI. */
static void check_one_click(const struct submission *s, struct faults *f) {
    size_t https = 0;
    struct str one_click = STR_NONE; /* as it was written */
    for (size_t i = 0; i < s->header_count; i++) {
        struct str rest = s->headers[i].value, uri;
        if (str_equal_nocase(s->headers[i].name, STR("list-unsubscribe-post")))
            one_click = s->headers[i].name;
        if (!str_equal_nocase(s->headers[i].name, STR("list-unsubscribe")))
            continue;
        while (field_next_uri(&rest, &uri))
            https += str_starts_with_nocase(uri, STR("<https:"));
    }
    if (!str_is_absent(one_click) && https != 1)
        faults_add(f, pointer_to_key(f, "headers", one_click), "invalid_header_value",
                   "one-click needs List-Unsubscribe with exactly one https URI; there are %zu",
                   https);
}

static void check_headers(const struct submission *s, struct faults *f) {
    if (s->header_count > LIMIT_HEADERS) {
        faults_add(f, STR("#/headers"), "too_many", "%zu header fields; at most %d are allowed",
                   s->header_count, LIMIT_HEADERS);
        return;
    }
    for (size_t i = 0; i < s->header_count; i++)
        check_header(s, f, i);
    check_one_click(s, f);
}

static void check_threading(const struct submission *s, struct faults *f) {
    if (!str_is_absent(s->in_reply_to) && !field_is_message_id(s->in_reply_to))
        faults_add(f, STR("#/in_reply_to"), "invalid_message_id",
                   "a message id is written <left@right>");
    if (s->reference_count > LIMIT_REFERENCES)
        faults_add(f, STR("#/references"), "too_many", "%zu references; at most %d are allowed",
                   s->reference_count, LIMIT_REFERENCES);
    for (size_t i = 0; i < s->reference_count && i < LIMIT_REFERENCES; i++) {
        if (!field_is_message_id(s->references[i]))
            faults_add(f, POINTER(f, "#/references/%zu", i), "invalid_message_id",
                       "a message id is written <left@right>");
    }
}

/* ---- what is kept beside the message --------------------------------------------------------- */

static void check_labels(const struct submission *s, struct faults *f) {
    if (s->tag_count > LIMIT_TAGS)
        faults_add(f, STR("#/tags"), "too_many", "%zu tags; at most %d are allowed", s->tag_count,
                   LIMIT_TAGS);
    for (size_t i = 0; i < s->tag_count && i < LIMIT_TAGS; i++) {
        struct str pointer = POINTER(f, "#/tags/%zu", i);
        if (check_text(f, pointer, s->tags[i], LIMIT_TAG, false) && s->tags[i].n == 0)
            faults_add(f, pointer, "too_short", "a tag is empty");
    }
    if (s->metadata_count > LIMIT_METADATA_PAIRS)
        faults_add(f, STR("#/metadata"), "too_many", "%zu pairs; at most %d are allowed",
                   s->metadata_count, LIMIT_METADATA_PAIRS);
    for (size_t i = 0; i < s->metadata_count && i < LIMIT_METADATA_PAIRS; i++) {
        struct str key = s->metadata[i].key, pointer = pointer_to_key(f, "metadata", key);
        if (key.n == 0)
            faults_add(f, STR("#/metadata"), "too_short", "a key is empty");
        else if (check_text(f, pointer, key, LIMIT_METADATA_KEY, false))
            check_text(f, pointer, s->metadata[i].value, LIMIT_METADATA_VALUE, true);
    }
    check_text(f, STR("#/external_id"), s->external_id, LIMIT_EXTERNAL_ID, false);
    if (check_text(f, STR("#/route"), s->route, LIMIT_TAG, false) && !str_is_absent(s->route) &&
        s->route.n == 0)
        faults_add(f, STR("#/route"), "too_short",
                   "the name is empty: leave the field out to have the route chosen");
    if (s->expires_in_ms < 0)
        faults_add(f, STR("#/expires_in"), "invalid_value", "the time is negative");
}

/* A lower bound of the composed size; compose() finds the exact one. */
static void check_size(const struct submission *s, const struct submission_limits *limits,
                       struct faults *f) {
    size_t size = s->text.n + s->html.n;
    for (size_t i = 0; i < s->attachment_count; i++)
        size += s->attachments[i].content.n;
    if (size > limits->message_bytes_max)
        faults_add(f, STR("#"), "message_too_large",
                   "the contents alone have %zu octets; a message may have %zu", size,
                   limits->message_bytes_max);
}

void submission_check(const struct submission *s, const struct submission_limits *limits,
                      struct faults *faults) {
    check_envelope(s, limits, faults);
    check_bodies(s, faults);
    check_attachments(s, faults);
    check_headers(s, faults);
    check_threading(s, faults);
    check_labels(s, faults);
    check_size(s, limits, faults);
}

/* ---- fingerprint ---------------------------------------------------------------------------- */

static void hash_number(struct sha256 *h, uint64_t v) {
    uint8_t b[8];
    for (int i = 0; i < 8; i++)
        b[i] = (uint8_t)(v >> (8 * i));
    sha256_put(h, b, sizeof b);
}

/* With its length, so that no text can be moved from one field into the next; absent and empty are
 * two things. */
static void hash_str(struct sha256 *h, struct str s) {
    hash_number(h, str_is_absent(s) ? UINT64_MAX : s.n);
    if (s.n > 0)
        sha256_put(h, s.p, s.n);
}

static void hash_address(struct sha256 *h, const struct address *a) {
    hash_str(h, a->email);
    hash_str(h, a->name);
}

static void hash_addresses(struct sha256 *h, const struct address_list *list) {
    hash_number(h, list->count);
    for (size_t i = 0; i < list->count; i++)
        hash_address(h, &list->list[i]);
}

void submission_fingerprint(const struct submission *s, uint8_t out[32]) {
    struct sha256 *h = sha256_new();
    hash_str(h, STR("submission 1"));
    hash_address(h, &s->from);
    hash_address(h, &s->sender);
    hash_addresses(h, &s->to);
    hash_addresses(h, &s->cc);
    hash_addresses(h, &s->bcc);
    hash_addresses(h, &s->reply_to);
    hash_str(h, s->subject);
    hash_str(h, s->text);
    hash_str(h, s->html);
    hash_number(h, s->attachment_count);
    for (size_t i = 0; i < s->attachment_count; i++) {
        hash_str(h, s->attachments[i].filename);
        hash_str(h, s->attachments[i].content_type);
        hash_str(h, s->attachments[i].content);
        hash_str(h, s->attachments[i].cid);
        hash_number(h, s->attachments[i].is_inline);
    }
    hash_number(h, s->header_count);
    for (size_t i = 0; i < s->header_count; i++) {
        hash_str(h, s->headers[i].name);
        hash_str(h, s->headers[i].value);
    }
    hash_number(h, s->tag_count);
    for (size_t i = 0; i < s->tag_count; i++)
        hash_str(h, s->tags[i]);
    hash_number(h, s->metadata_count);
    for (size_t i = 0; i < s->metadata_count; i++) {
        hash_str(h, s->metadata[i].key);
        hash_str(h, s->metadata[i].value);
    }
    hash_str(h, s->external_id);
    hash_str(h, s->in_reply_to);
    hash_number(h, s->reference_count);
    for (size_t i = 0; i < s->reference_count; i++)
        hash_str(h, s->references[i]);
    hash_number(h, (uint64_t)s->expires_in_ms);
    hash_number(h, (uint64_t)s->tls);
    hash_str(h, s->route);
    sha256_finish(&h, out);
}
