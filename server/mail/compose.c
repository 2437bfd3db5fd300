#include "server/mail/compose.h"

#include "server/mail/date.h"
#include "server/mail/domain.h"
#include "server/mail/encode.h"
#include "server/mail/field.h"
#include "server/mail/header.h"
#include "server/mail/mime.h"

struct composing {
    const struct submission *s;
    struct buf out;
    struct header_writer header;
    struct mime_writer mime;
    struct str unencoded[LIMIT_ATTACHMENTS + 2];
    enum encoding text_encoding, html_encoding;
};

/* ---- header --------------------------------------------------------------------------------- */

static void put_addresses(struct composing *c, struct str name, const struct address *list,
                          size_t count) {
    if (count == 0)
        return;
    header_begin(&c->header, name);
    for (size_t i = 0; i < count; i++)
        header_put_mailbox(&c->header, &list[i], i + 1 < count);
    header_end(&c->header);
}

static void put_recipients(struct composing *c) {
    const struct submission *s = c->s;
    put_addresses(c, STR("To"), s->to.list, s->to.count);
    put_addresses(c, STR("Cc"), s->cc.list, s->cc.count);
    /* RFC 5322 3.6.3 asks for no destination field, but many receivers do; an empty group names
     * nobody. Bcc is written in no form (T12). */
    if (s->to.count + s->cc.count == 0) {
        header_begin(&c->header, STR("To"));
        header_put_word(&c->header, STR("undisclosed-recipients:;"));
        header_end(&c->header);
    }
}

static void put_threading(struct composing *c) {
    const struct submission *s = c->s;
    if (!str_is_absent(s->in_reply_to)) {
        header_begin(&c->header, STR("In-Reply-To"));
        header_put_word(&c->header, s->in_reply_to);
        header_end(&c->header);
    }
    if (s->reference_count > 0) {
        header_begin(&c->header, STR("References"));
        for (size_t i = 0; i < s->reference_count; i++)
            header_put_word(&c->header, s->references[i]);
        header_end(&c->header);
    }
}

static void put_uris(struct header_writer *w, struct str value) {
    struct str rest = value, uri;
    bool has_next = field_next_uri(&rest, &uri);
    if (!has_next)
        header_put_word(w, value); /* "NO" */
    while (has_next) {
        struct buf word = BUF_INIT(LIMIT_HEADER_VALUE + 1);
        buf_put(&word, uri);
        has_next = field_next_uri(&rest, &uri);
        if (has_next)
            buf_putc(&word, ',');
        header_put_word(w, buf_str(&word));
        buf_release(&word);
    }
}

static bool is_space(char c) {
    return c == ' ' || c == '\t';
}

/* Would header_put_text() leave it as it is? */
static bool is_plain(struct str value) {
    size_t run = 0;
    for (size_t i = 0; i < value.n && run <= HEADER_LINE; i++)
        run = is_space(value.p[i]) ? run + 1 : 0;
    return run <= HEADER_LINE && value.n <= LIMIT_LINE / 2 && str_is_ascii(value) &&
           str_find(value, STR("=?")) < 0;
}

/* RFC 2919 3: phrase and <id>. An encoded-word may stand in a phrase but not inside of quotes
 * (RFC 2047 5 (3)), nor in the id: the phrase is written like a display name then. Outside of
 * quotes white space is one space (RFC 5322 3.2.2). */
static void put_list_id(struct header_writer *w, struct str value) {
    size_t open = value.n;
    while (open > 0 && value.p[open - 1] != '<')
        open--;
    if (open == 0 || open == value.n || value.p[value.n - 1] != '>') {
        header_put_text(w, value); /* only when nobody has checked the submission */
        return;
    }
    struct str phrase = str_trim(str_slice(value, 0, open - 1));
    struct buf name = BUF_INIT(LIMIT_HEADER_VALUE);
    bool is_quoted = phrase.n > 1 && phrase.p[0] == '"' && phrase.p[phrase.n - 1] == '"';
    if (is_quoted)
        phrase = str_slice(phrase, 1, phrase.n - 1);
    for (size_t i = 0; i < phrase.n; i++) {
        if (is_quoted && phrase.p[i] == '\\' && i + 1 < phrase.n)
            i++;
        if (is_quoted || !is_space(phrase.p[i]))
            buf_putc(&name, phrase.p[i]);
        else if (!is_space(phrase.p[i + 1])) /* it ends in something else */
            buf_putc(&name, ' ');
    }
    struct address as_mailbox = {.name = buf_str(&name),
                                 .email = str_slice(value, open, value.n - 1)};
    if (name.n > 0) {
        header_put_mailbox(w, &as_mailbox, false);
    } else {
        header_put_word(w, str_from(value, open - 1));
    }
    buf_release(&name);
}

static void put_extra_fields(struct composing *c) {
    for (size_t i = 0; i < c->s->header_count; i++) {
        const struct header_field *f = &c->s->headers[i];
        struct str value = str_trim(f->value); /* white space at its ends is no part of a value */
        header_begin(&c->header, f->name);
        enum field_syntax syntax = field_rule_of(f->name)->syntax;
        if (syntax == FIELD_URIS)
            put_uris(&c->header, value);
        else if (syntax == FIELD_LIST_ID && !is_plain(value))
            put_list_id(&c->header, value);
        else
            header_put_text(&c->header, value);
        header_end(&c->header);
    }
}

static void put_header(struct composing *c, const struct compose_input *in,
                       const char *message_id) {
    const struct submission *s = c->s;
    char date[DATE_SIZE];
    date_print(in->date_wall_ms, date);
    header_begin(&c->header, STR("Date"));
    header_put_raw(&c->header, str_of(date));
    header_end(&c->header);
    put_addresses(c, STR("From"), &s->from, 1);
    if (!str_is_absent(s->sender.email))
        put_addresses(c, STR("Sender"), &s->sender, 1);
    put_addresses(c, STR("Reply-To"), s->reply_to.list, s->reply_to.count);
    put_recipients(c);
    if (s->subject.n > 0) {
        header_begin(&c->header, STR("Subject"));
        header_put_text(&c->header, s->subject);
        header_end(&c->header);
    }
    header_begin(&c->header, STR("Message-ID"));
    header_put_word(&c->header, str_of(message_id));
    header_end(&c->header);
    put_threading(c);
    put_extra_fields(c);
    buf_put(&c->out, STR("MIME-Version: 1.0\r\n"));
}

/* ---- parts ---------------------------------------------------------------------------------- */

static void put_encoding(struct composing *c, enum encoding e) {
    buf_put(&c->out, STR("Content-Transfer-Encoding: "));
    buf_putz(&c->out, encoding_name(e));
    buf_put(&c->out, STR("\r\n"));
}

static void put_text_part(struct composing *c, const char *subtype, struct str text,
                          enum encoding e) {
    const char *charset = str_is_ascii(text) ? "us-ascii" : "utf-8";
    buf_put(&c->out, STR("Content-Type: text/"));
    buf_putz(&c->out, subtype);
    buf_put(&c->out, STR("; charset="));
    buf_putz(&c->out, charset);
    buf_put(&c->out, STR("\r\n"));
    put_encoding(c, e);
    buf_put(&c->out, STR("\r\n"));
    encode_text(text, e, &c->out);
}

static bool is_related(const struct submission *s, const struct attachment *a) {
    return !str_is_absent(a->cid) && !str_is_absent(s->html);
}

/* RFC 2046 5.2.1 lets a message be a part only in 7bit, 8bit or binary, never in base64. We send
 * 7bit only; a message that is not 7bit goes as a file. */
static bool is_message_type(const struct mime_type *t) {
    return mime_type_is(t, "message", NULL);
}

static void attachment_type(const struct attachment *a, struct mime_type *out) {
    struct str text =
        str_is_absent(a->content_type) ? STR("application/octet-stream") : a->content_type;
    if (mime_type_parse(text, out, NULL) != OK ||
        (is_message_type(out) && !encode_is_7bit(a->content)))
        *out = (struct mime_type){.type = STR("application"), .subtype = STR("octet-stream")};
}

static void put_attachment_type(struct composing *c, const struct attachment *a,
                                const struct mime_type *t) {
    struct header_writer *w = &c->header;
    struct buf word = BUF_INIT(MIME_TYPE_MAX + 16);
    header_begin(w, STR("Content-Type"));
    buf_printf(&word, "%.*s/%.*s", STR_ARG(t->type), STR_ARG(t->subtype));
    for (size_t i = 0; i < t->parameter_count; i++) {
        buf_putc(&word, ';');
        header_put_word(w, buf_str(&word));
        buf_clear(&word);
        buf_printf(&word, "%.*s=%.*s", STR_ARG(t->parameters[i].name),
                   STR_ARG(t->parameters[i].written));
    }
    header_put_word(w, buf_str(&word));
    buf_release(&word);
    /* RFC 2046 4.1.2: what is not us-ascii says its charset; RFC 1428 names the unknown one */
    if (mime_type_is(t, "text", NULL) && !mime_type_has_parameter(t, "charset") &&
        !str_is_ascii(a->content))
        header_put_parameter(w, "charset",
                             str_is_utf8(a->content) ? STR("utf-8") : STR("unknown-8bit"));
    header_end(w);
}

static void put_attachment(struct composing *c, const struct attachment *a) {
    struct header_writer *w = &c->header;
    struct mime_type type;
    attachment_type(a, &type);
    bool is_message = is_message_type(&type);
    put_attachment_type(c, a, &type);
    put_encoding(c, is_message ? ENCODING_7BIT : ENCODING_BASE64);
    header_begin(w, STR("Content-Disposition"));
    header_put_word(w, a->is_inline ? STR("inline") : STR("attachment"));
    if (!str_is_absent(a->filename))
        header_put_parameter(w, "filename", a->filename);
    header_end(w);
    if (!str_is_absent(a->cid)) {
        struct buf id = BUF_INIT(LIMIT_FILENAME + 2);
        buf_printf(&id, "<%.*s>", STR_ARG(a->cid));
        header_begin(w, STR("Content-ID"));
        header_put_word(w, buf_str(&id));
        header_end(w);
        buf_release(&id);
    }
    buf_put(&c->out, STR("\r\n"));
    if (is_message)
        encode_text(a->content, ENCODING_7BIT, &c->out);
    else
        encode_base64_lines(a->content, &c->out);
}

/* ---- structure ------------------------------------------------------------------------------ */

/* text, html, or alternative(text, html) with the richest last (RFC 2046 5.1.4). */
static void put_bodies(struct composing *c) {
    const struct submission *s = c->s;
    bool has_text = !str_is_absent(s->text), has_html = !str_is_absent(s->html);
    if (has_text && has_html)
        mime_open(&c->mime, "alternative", NULL);
    if (has_text && has_html)
        mime_next(&c->mime);
    if (has_text || !has_html)
        put_text_part(c, "plain", s->text, c->text_encoding);
    if (has_text && has_html)
        mime_next(&c->mime);
    if (has_html)
        put_text_part(c, "html", s->html, c->html_encoding);
    if (has_text && has_html)
        mime_close(&c->mime);
}

static void put_related(struct composing *c, size_t count) {
    const struct submission *s = c->s;
    if (count == 0) {
        put_bodies(c);
        return;
    }
    mime_open(&c->mime, "related", str_is_absent(s->text) ? "text/html" : "multipart/alternative");
    mime_next(&c->mime);
    put_bodies(c);
    for (size_t i = 0; i < s->attachment_count; i++) {
        if (is_related(s, &s->attachments[i])) {
            mime_next(&c->mime);
            put_attachment(c, &s->attachments[i]);
        }
    }
    mime_close(&c->mime);
}

static void put_body(struct composing *c) {
    const struct submission *s = c->s;
    size_t related = 0;
    for (size_t i = 0; i < s->attachment_count; i++)
        related += is_related(s, &s->attachments[i]);
    bool is_mixed = related < s->attachment_count;
    if (is_mixed) {
        mime_open(&c->mime, "mixed", NULL);
        mime_next(&c->mime);
    }
    put_related(c, related);
    for (size_t i = 0; i < s->attachment_count; i++) {
        if (!is_related(s, &s->attachments[i])) {
            mime_next(&c->mime);
            put_attachment(c, &s->attachments[i]);
        }
    }
    if (is_mixed)
        mime_close(&c->mime);
    /* A message ends in CRLF (RFC 5321 4.1.1.4). */
    if (!str_ends_with(buf_str(&c->out), STR("\r\n")))
        buf_put(&c->out, STR("\r\n"));
}

/* Contents that stand in the message unencoded, where a boundary could be found. */
static void collect_unencoded(struct composing *c) {
    const struct submission *s = c->s;
    size_t n = 0;
    if (c->text_encoding == ENCODING_7BIT)
        c->unencoded[n++] = s->text;
    if (c->html_encoding == ENCODING_7BIT)
        c->unencoded[n++] = s->html;
    for (size_t i = 0; i < s->attachment_count; i++) {
        struct mime_type type;
        attachment_type(&s->attachments[i], &type);
        if (is_message_type(&type))
            c->unencoded[n++] = s->attachments[i].content;
    }
    c->mime.unencoded = c->unencoded;
    c->mime.unencoded_count = n;
}

/* Large contents get their room at once; growing would copy them again and again. */
static void reserve(struct composing *c) {
    size_t size = 4096 + c->s->text.n * 2 + c->s->html.n * 2;
    for (size_t i = 0; i < c->s->attachment_count; i++)
        size += 512 + c->s->attachments[i].content.n / 57 * 78;
    if (size < c->out.max)
        (void)buf_reserve(&c->out, size);
}

static bool has_utf8_address(const struct address *list, size_t count) {
    for (size_t i = 0; i < count; i++) {
        if (list[i].is_utf8_local)
            return true;
    }
    return false;
}

enum err compose(const struct compose_input *in, struct composed *out, struct errinfo *info) {
    const struct submission *s = in->submission;
    ASSERT(s->attachment_count <= LIMIT_ATTACHMENTS);
    char id[ID_TEXT_SIZE];
    id_print(&in->id, id);
    *out = (struct composed){0};
    int n = snprintf(out->message_id_field, sizeof out->message_id_field, "<%s@%.*s>", id,
                     STR_ARG(s->from.domain));
    ASSERT(n > 0 && (size_t)n < sizeof out->message_id_field);
    out->needs_smtputf8 = has_utf8_address(&s->from, 1) || has_utf8_address(&s->sender, 1) ||
                          has_utf8_address(s->to.list, s->to.count) ||
                          has_utf8_address(s->cc.list, s->cc.count) ||
                          has_utf8_address(s->reply_to.list, s->reply_to.count);

    struct composing c = {.s = s,
                          .out = BUF_INIT(in->message_bytes_max),
                          .text_encoding = encode_choose(s->text),
                          .html_encoding = encode_choose(s->html)};
    c.header = HEADER_WRITER(&c.out);
    c.mime = (struct mime_writer){.out = &c.out, .seed = in->seed};
    collect_unencoded(&c);
    reserve(&c);
    put_header(&c, in, out->message_id_field);
    put_body(&c);
    enum err e = header_status(&c.header);
    if (e == OK) {
        size_t size = 0;
        buf_fit(&c.out); /* it may wait in memory for its delivery */
        char *bytes = buf_take(&c.out, &size);
        out->message = message_new(&in->id, bytes, size);
    } else if (e == ERR_LIMIT) {
        err_set(info, e, "message", "the composed message is larger than %zu octets",
                in->message_bytes_max);
    } else if (e == ERR_UNAVAILABLE) {
        err_set(info, e, "message", "there is no memory for the composed message");
    } else {
        err_set(info, e, "message", "a header value has a control character");
    }
    buf_release(&c.out);
    return e;
}
