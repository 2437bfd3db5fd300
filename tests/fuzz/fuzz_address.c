/* address, domain, media type, message id: what is accepted prints to a form that parses to itself,
 * and holds nothing that a command or a header could break at (T4, T5). An address goes into MAIL
 * and RCPT as it is, and what is none makes no line that is more than one. */
#include <stdlib.h>

#include "server/mail/address.h"
#include "server/mail/domain.h"
#include "server/mail/field.h"
#include "server/mail/header.h"
#include "server/mail/mime.h"
#include "server/smtp/command.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must(bool ok) {
    if (!ok)
        abort();
}

/* `line` is `begin`, the address as it is, `end`, and nothing that a server could see as more. */
static void check_line(struct str line, const char *begin, struct str address, const char *end) {
    must(str_starts_with(line, str_of(begin)) && str_ends_with(line, str_of(end)));
    must(line.n == strlen(begin) + address.n + strlen(end));
    must(str_equal(str_slice(line, strlen(begin), strlen(begin) + address.n), address));
    must(str_ends_with(line, STR("\r\n")));
    must(!str_has_control(str_make(line.p, line.n - 2), false) || !str_is_ascii(address));
    must(!memchr(line.p, '\r', line.n - 2) && !memchr(line.p, '\n', line.n - 2) &&
         !memchr(line.p, '\0', line.n));
}

/* Whatever the octets are: whether they are sendable. */
static bool check_commands(struct str address, bool with_utf8) {
    struct buf mail = BUF_INIT(4096), rcpt = BUF_INIT(4096);
    struct command_mail m = {.from = address,
                             .with_size = with_utf8,
                             .size_bytes = UINT64_MAX,
                             .with_8bitmime = with_utf8,
                             .with_smtputf8 = with_utf8};
    bool ok = command_mail(&mail, &m) == OK;
    must((command_rcpt(&rcpt, address, with_utf8) == OK) == (ok && address.n > 0));
    must(ok || mail.n == 0);
    if (ok)
        check_line(buf_str(&mail), "MAIL FROM:<", address,
                   with_utf8 ? "> SIZE=18446744073709551615 BODY=8BITMIME SMTPUTF8\r\n" : ">\r\n");
    if (ok && address.n > 0)
        check_line(buf_str(&rcpt), "RCPT TO:<", address, ">\r\n");
    else
        must(rcpt.n == 0);
    must(!ok || with_utf8 || str_is_ascii(address));
    buf_release(&mail);
    buf_release(&rcpt);
    return ok;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct str text = str_make(data, size);
    static struct arena *a;
    if (!a)
        a = arena_new();
    arena_clear(a);
    struct address first, second;
    struct str domain, again;
    struct mime_type type;

    (void)check_commands(text, false);
    (void)check_commands(text, true);
    if (address_parse_named(&first, text, a, NULL) == OK) {
        must(check_commands(first.email, first.is_utf8_local));
        must(address_parse(&second, first.email, a, NULL) == OK);
        must(str_equal(first.email, second.email) && address_equal(&first, &second));
        for (size_t i = 0; i < first.email.n; i++) {
            unsigned char c = (unsigned char)first.email.p[i];
            must(c > 0x20 && c != 0x7f && c != '<' && c != '>');
        }
        must(first.is_utf8_local == !str_is_ascii(first.email));
        must(header_text_check(first.name, false) == HEADER_TEXT_OK);
        struct buf out = BUF_INIT(16 * 1024);
        struct header_writer w = HEADER_WRITER(&out);
        header_begin(&w, STR("To"));
        header_put_mailbox(&w, &first, false);
        header_end(&w);
        must(header_status(&w) == OK);
        buf_release(&out);
    }
    if (domain_parse(text, true, a, &domain, NULL) == OK) {
        must(domain_parse(domain, true, a, &again, NULL) == OK && str_equal(domain, again));
        must(domain_to_unicode(domain, a).n > 0);
        must(domain_is_within(domain, domain) && !domain_is_within(domain, STR("other.example")));
    }
    if (domain_parse_selector(text, a, &domain, NULL) == OK) {
        must(domain_parse_selector(domain, a, &again, NULL) == OK && str_equal(domain, again));
        must(str_is_ascii(domain) && !str_has_control(domain, false));
        must(str_find_char(domain, ';') < 0 && str_find_char(domain, ' ') < 0);
    }
    if (mime_type_parse(text, &type, NULL) == OK)
        must(str_is_ascii(text) && !str_has_control(text, false));
    if (field_is_message_id(text))
        must(str_is_ascii(text) && !str_has_control(text, false));
    return 0;
}
