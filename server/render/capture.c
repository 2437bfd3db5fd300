#include "server/render/capture.h"

#include <jansson.h>

/* Foreign bytes as a JSON string; what is not UTF-8 is shown with its octets as \xNN. */
static json_t *text_of(struct str s) {
    if (str_is_utf8(s))
        return json_stringn(s.p ? s.p : "", s.n);
    struct buf b = BUF_INIT(s.n * 4 + 1);
    for (size_t i = 0; i < s.n; i++) {
        if ((unsigned char)s.p[i] < 0x80)
            buf_putc(&b, s.p[i]);
        else
            buf_printf(&b, "\\x%02x", (unsigned char)s.p[i]);
    }
    json_t *j = json_stringn(b.p ? b.p : "", b.n);
    buf_release(&b);
    return j;
}

static void print(json_t *j, struct buf *out) {
    char *text = json_dumps(j, JSON_COMPACT);
    ASSERT(text != NULL || mem_is_short());
    if (text != NULL)
        buf_putz(out, text);
    free(text);
    json_decref(j);
}

void render_capture_message(const struct received *m, struct buf *out) {
    json_t *j = json_object(), *rcpt = json_array();
    for (size_t i = 0; i < m->rcpt_count; i++)
        json_array_append_new(rcpt, text_of(m->rcpt[i]));
    json_object_set_new(j, "mail_from", text_of(m->mail_from));
    json_object_set_new(j, "rcpt_to", rcpt);
    json_object_set_new(j, "helo", text_of(m->helo));
    json_object_set_new(j, "peer", json_string(m->peer));
    if (m->tls.version[0])
        json_object_set_new(
            j, "tls", json_pack("{s:s, s:s}", "version", m->tls.version, "cipher", m->tls.cipher));
    else
        json_object_set_new(j, "tls", json_null());
    json_object_set_new(j, "size", json_integer((json_int_t)m->data.n));
    json_object_set_new(j, "smtputf8", json_boolean(m->smtputf8));
    print(j, out);
}

void render_capture_webhook(struct str path, const struct capture_header *headers, size_t count,
                            size_t size, struct buf *out) {
    json_t *j = json_object(), *h = json_object();
    for (size_t i = 0; i < count; i++) {
        struct buf name = BUF_INIT(4096);
        for (size_t k = 0; k < headers[i].name.n; k++)
            buf_putc(&name, ascii_lower(headers[i].name.p[k]));
        json_object_set_new(h, name.p ? name.p : "", text_of(headers[i].value));
        buf_release(&name);
    }
    json_object_set_new(j, "path", text_of(path));
    json_object_set_new(j, "headers", h);
    json_object_set_new(j, "size", json_integer((json_int_t)size));
    print(j, out);
}
