#include "server/smtp/command.h"

/* Controls never; blanks and brackets only inside a quoted local part. */
static bool is_sendable(struct str address, bool with_utf8) {
    bool is_quoted = false;
    for (size_t i = 0; i < address.n; i++) {
        unsigned char c = (unsigned char)address.p[i];
        if (c < 0x20 || c == 0x7f || (c > 0x7f && !with_utf8))
            return false;
        if (is_quoted && c == '\\') {
            if (++i == address.n || (unsigned char)address.p[i] < 0x20 ||
                (unsigned char)address.p[i] >= 0x7f) /* whether char is signed or not */
                return false;
        } else if (c == '"') {
            is_quoted = !is_quoted;
        } else if (!is_quoted && (c == ' ' || c == '<' || c == '>')) {
            return false;
        }
    }
    return !is_quoted;
}

void command_ehlo(struct buf *out, bool is_esmtp, const char *name) {
    buf_putz(out, is_esmtp ? "EHLO " : "HELO ");
    buf_putz(out, name);
    buf_putz(out, "\r\n");
}

enum err command_mail(struct buf *out, const struct command_mail *m) {
    if (!is_sendable(m->from, m->with_smtputf8))
        return ERR_INVALID;
    buf_putz(out, "MAIL FROM:<");
    buf_put(out, m->from);
    buf_putc(out, '>');
    if (m->with_size)
        buf_printf(out, " SIZE=%llu", (unsigned long long)m->size_bytes);
    if (m->with_8bitmime)
        buf_putz(out, " BODY=8BITMIME");
    if (m->with_smtputf8)
        buf_putz(out, " SMTPUTF8");
    buf_putz(out, "\r\n");
    return buf_status(out);
}

enum err command_rcpt(struct buf *out, struct str to, bool with_smtputf8) {
    if (to.n == 0 || !is_sendable(to, with_smtputf8))
        return ERR_INVALID;
    buf_putz(out, "RCPT TO:<");
    buf_put(out, to);
    buf_putz(out, ">\r\n");
    return buf_status(out);
}
