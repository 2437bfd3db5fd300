#include "server/mail/dkim_sign.h"

#include "server/base/base64.h"
#include "server/base/digest.h"
#include "server/base/limits.h"
#include "server/mail/dkim_canon.h"

enum {
    LINE_MAX = 76,
    SIGNATURE_FIELD_MAX = 8 * 1024,
    USUAL_NAMES = 512, /* more is only slower */
    USUAL_SIGNATURE_FIELD = 1024,
    FIELDS_MAX = 2000 /* of one header; beyond it the message is not ours to sign */
};

/* Signed when they are there, and once more than they are there, so that none can be added (T13).
 */
static const char *const oversigned[] = {
    "From",
    "To",
    "Cc",
    "Subject",
    "Date",
    "Reply-To",
    "Message-ID",
    "MIME-Version",
    "Content-Type",
    "Content-Transfer-Encoding",
    "Content-Disposition",
    "List-Unsubscribe",
    "List-Unsubscribe-Post",
};

/* Signed when they are there. */
static const char *const signed_if_present[] = {
    "Sender",         "In-Reply-To", "References",   "Content-ID",     "Content-Description",
    "List-Id",        "List-Help",   "List-Post",    "List-Subscribe", "List-Owner",
    "Auto-Submitted", "Feedback-ID", "List-Archive",
};

struct field {
    struct str text, name;
};

struct signing {
    struct field *fields;
    size_t field_count;
    struct buf names;   /* h=, colons between, not folded */
    struct buf canon;   /* what is signed, without the signature field itself */
    char body_hash[64]; /* bh= */
};

static void put_hash(void *context, struct str octets) {
    sha256_put(context, octets.p, octets.n);
}

static void hash_body(struct str body, char out[64]) {
    uint8_t hash[SHA256_BYTES];
    struct sha256 *h = sha256_new();
    struct dkim_body_canon c = {.sink = put_hash, .context = h};
    dkim_body_canon_put(&c, body);
    dkim_body_canon_finish(&c);
    sha256_finish(&h, hash);
    struct buf text = BUF_INIT(63);
    base64_encode(str_make(hash, sizeof hash), &text);
    ASSERT(buf_status(&text) == OK && text.n < 64);
    memcpy(out, text.p, text.n + 1);
    buf_release(&text);
}

static void put_name(struct signing *s, const char *name) {
    if (s->names.n > 0)
        buf_putc(&s->names, ':');
    buf_putz(&s->names, name);
}

/* The fields of that name, the last one first (RFC 6376 5.4.2); returns how many. */
static size_t put_fields(struct signing *s, const char *name) {
    struct str wanted = str_of(name);
    size_t count = 0;
    for (size_t i = s->field_count; i-- > 0;) {
        struct str given = s->fields[i].name;
        if (given.n != wanted.n || !str_equal_nocase(given, wanted))
            continue;
        put_name(s, name);
        dkim_header_canon(s->fields[i].text, &s->canon);
        buf_put(&s->canon, STR("\r\n"));
        count++;
    }
    return count;
}

/* A name in h= without a field adds nothing to what is signed. */
static bool put_all_fields(struct signing *s) {
    bool has_from = false;
    for (size_t i = 0; i < sizeof oversigned / sizeof *oversigned; i++) {
        if (put_fields(s, oversigned[i]) > 0 && i == 0)
            has_from = true;
        put_name(s, oversigned[i]);
    }
    for (size_t i = 0; i < sizeof signed_if_present / sizeof *signed_if_present; i++)
        put_fields(s, signed_if_present[i]);
    return has_from;
}

/* Writes `text` behind what is on the line, folded after a ':' or, for base64, anywhere. */
static void put_folded(struct buf *out, size_t *column, struct str text, bool at_colon) {
    while (text.n > 0) {
        size_t n;
        if (at_colon) {
            ptrdiff_t colon = str_find_char(text, ':');
            n = colon < 0 ? text.n : (size_t)colon + 1;
            if (*column + n > LINE_MAX) {
                buf_put(out, STR("\r\n  "));
                *column = 2;
            }
        } else {
            if (*column >= LINE_MAX) {
                buf_put(out, STR("\r\n  "));
                *column = 2;
            }
            n = LINE_MAX - *column;
            n = n < text.n ? n : text.n;
        }
        buf_put(out, str_slice(text, 0, n));
        *column += n;
        text = str_from(text, n);
    }
}

static void put_tag(struct buf *out, size_t *column, const char *tag, struct str value) {
    size_t n = strlen(tag) + 1 + value.n + 1;
    if (*column + 1 + n > LINE_MAX) {
        buf_put(out, STR("\r\n"));
        *column = 0;
    }
    buf_putc(out, ' ');
    buf_putz(out, tag);
    buf_putc(out, '=');
    buf_put(out, value);
    buf_putc(out, ';');
    *column += 1 + n;
}

/* One field, with the signature by `key`, appended to `out`. */
NODISCARD static enum err put_signature(struct signing *s, const struct dkim_signer *signer,
                                        size_t k, int64_t wall_ms, struct buf *out) {
    const struct dkim_key *key = signer->keys[k].key;
    struct buf raw = BUF_INIT(1024), text = BUF_INIT(2048);
    size_t start = out->n, column = strlen("DKIM-Signature:"), mark = s->canon.n;
    char seconds[24];
    snprintf(seconds, sizeof seconds, "%lld", (long long)(wall_ms / 1000));
    (void)buf_reserve(out, USUAL_SIGNATURE_FIELD);
    buf_putz(out, "DKIM-Signature:");
    put_tag(out, &column, "v", STR("1"));
    put_tag(out, &column, "a", str_of(dkim_algorithm_name(dkim_key_algorithm(key))));
    put_tag(out, &column, "c", STR("relaxed/relaxed"));
    put_tag(out, &column, "d", signer->domain);
    put_tag(out, &column, "s", signer->keys[k].selector);
    put_tag(out, &column, "t", str_of(seconds));
    buf_put(out, STR("\r\n h="));
    column = 3;
    put_folded(out, &column, buf_str(&s->names), true);
    buf_putc(out, ';');
    column = LINE_MAX;
    put_tag(out, &column, "bh", str_of(s->body_hash));
    buf_put(out, STR("\r\n b="));
    column = 3;

    /* RFC 6376 3.7: the field itself comes last, b= empty, without its CRLF */
    enum err e = buf_status(out);
    if (e == OK)
        dkim_header_canon(str_from(buf_str(out), start), &s->canon);
    if (e == OK)
        e = buf_status(&s->canon);
    if (e == OK)
        e = dkim_key_sign(key, buf_str(&s->canon), &raw);
    if (e == OK) {
        base64_encode(buf_str(&raw), &text);
        put_folded(out, &column, buf_str(&text), false);
        buf_put(out, STR("\r\n"));
        e = buf_status(out);
    }
    if (buf_status(&s->canon) == OK)
        buf_truncate(&s->canon, mark);
    buf_release(&raw);
    buf_release(&text);
    return e;
}

/* Splits the header into fields; *body is what follows the blank line. False: too many fields. */
static bool split(struct signing *s, struct str header, struct str *body) {
    struct field f;
    size_t room = 0;
    while (dkim_next_field(&header, &f.text, &f.name)) {
        if (s->field_count == room) {
            if (room >= FIELDS_MAX)
                return false;
            room = room ? room * 2 : 32;
            struct field *more = mem_zalloc(room * sizeof *more);
            if (s->fields)
                memcpy(more, s->fields, s->field_count * sizeof *more);
            free(s->fields);
            s->fields = more;
        }
        s->fields[s->field_count++] = f;
    }
    *body = header.n >= 2 ? str_from(header, 2) : STR("");
    return true;
}

enum err dkim_sign(struct message *m, const struct dkim_signer *signer, int64_t wall_ms,
                   struct message **out, struct errinfo *info) {
    ASSERT(signer->key_count > 0 && signer->key_count <= DKIM_KEYS_MAX);
    /* Fields put before the message by an earlier signing are signatures, which are not signed
     * (RFC 6376 5.4); so the message itself is all there is to look at. */
    struct str whole = message_bytes(m).piece[1], body;
    struct buf prefix = BUF_INIT(DKIM_KEYS_MAX * SIGNATURE_FIELD_MAX);
    struct signing s = {.names = BUF_INIT(SIGNATURE_FIELD_MAX), .canon = BUF_INIT(LIMIT_MESSAGE)};
    enum err e = OK;

    (void)buf_reserve(&s.names, USUAL_NAMES);
    if (!split(&s, whole, &body)) {
        e = err_set(info, ERR_INVALID, "message", "the header has more than %d fields", FIELDS_MAX);
        goto out;
    }
    (void)buf_reserve(&s.canon, whole.n - body.n + USUAL_SIGNATURE_FIELD);
    if (!put_all_fields(&s)) {
        e = err_set(info, ERR_INVALID, "message", "the header has no From field");
        goto out;
    }
    e = buf_status(&s.canon);
    if (e == OK)
        e = buf_status(&s.names);
    if (e != OK) {
        err_set(info, e, "message", "the header is too large to be signed");
        goto out;
    }
    hash_body(body, s.body_hash);
    for (size_t k = 0; k < signer->key_count; k++) {
        e = put_signature(&s, signer, k, wall_ms, &prefix);
        if (e != OK) {
            err_set(info, e, "dkim", "signing with selector '%.*s' failed",
                    STR_ARG(signer->keys[k].selector));
            goto out;
        }
    }
    size_t n = 0;
    char *bytes = buf_take(&prefix, &n);
    *out = message_new_prefixed(m, bytes, n);
out:
    free(s.fields);
    buf_release(&s.names);
    buf_release(&s.canon);
    buf_release(&prefix);
    return e;
}
